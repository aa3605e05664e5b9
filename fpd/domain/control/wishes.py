"""What a plan wishes of batteries in the present period, and what of it is worth following."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fpd.domain.control.dispatch import proportional


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a plan wishes of batteries now; those without a wish are not in `power_w`.

    `power_w`: to be delivered (W, charge negative). `beyond_w`: how much of the discharge no import
    limit asked for when it was planned; the rest is worth what the limit asks for now.
    `reserve_wh`: what is planned with later and should be left in a battery.
    """

    power_w: Mapping[str, int]
    reserve_wh: Mapping[str, int]
    beyond_w: int

    def needed(self, least_w: int | None) -> Mapping[str, int]:
        """Return the powers without discharge that nothing asks for: together at least `least_w`
        (None: not limited).

        Interpretation: a plan discharges where it expects that a limit needs it, and what the limit
        needs is known better when it is there. What it discharges otherwise makes room.
        """
        if least_w is None:
            return self.power_w
        charge_w = sum(min(w, 0) for w in self.power_w.values())
        given = {name: max(w, 0) for name, w in self.power_w.items()}
        asked_w = min(sum(given.values()), max(least_w - charge_w, 0) + self.beyond_w)
        cut = dict(zip(given, proportional(asked_w, list(given.values())), strict=True))
        return {name: w if w <= 0 else cut[name] for name, w in self.power_w.items()}


NO_WISHES: Final = Wishes(power_w={}, reserve_wh={}, beyond_w=0)
