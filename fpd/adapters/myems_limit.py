"""A device whose values are limits: up to there it does what it likes (a charger, a load, PV).

What it would do by itself is known only while its limit does not bind, so that is remembered:
control is told that it can do no more, and reckons with what it takes, not with what it may.
"""

from __future__ import annotations

from typing import Final

import msgspec

_NEAR_SHARE: Final = 0.1


class Limit(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`told_w`: the limit, W, None when there is none; `free_w`: what it last did without one."""

    told_w: int | None = None
    free_w: float | None = None

    def saw(self, power_w: float, *, tolerance_w: float) -> None:
        """Learn from what it does; near its limit nobody knows what else it would do."""
        limit_w = self.told_w
        if limit_w is None or abs(power_w) < abs(limit_w) - _allowed(limit_w, tolerance_w):
            self.free_w = power_w

    def bounds(self, rest_w: int) -> tuple[int | None, int | None]:
        """Return the least and the most that it can be made to deliver now, W."""
        if self.free_w is None:
            return None, None
        free_w = round(self.free_w)
        return (min(free_w, 0), None) if rest_w < 0 else (None, max(free_w, 0))

    def tell(self, power_w: int) -> int | None:
        """Note a new limit and return it; None where it is none: it would do no more anyway."""
        binds = self.free_w is None or abs(power_w) < abs(round(self.free_w))
        self.told_w = power_w if binds else None
        return self.told_w

    def kept(self, power_w: float, *, tolerance_w: float) -> bool:
        """Tell whether what it does is within its limit."""
        if self.told_w is None:
            return True
        allowed_w = _allowed(self.told_w, tolerance_w)
        return min(0, self.told_w) - allowed_w <= power_w <= max(0, self.told_w) + allowed_w


def _allowed(limit_w: int, tolerance_w: float) -> float:
    return max(tolerance_w, _NEAR_SHARE * abs(limit_w))
