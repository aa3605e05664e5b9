"""Whether what was measured lies beyond what was in force when it was measured.

Interpretation (reference: devices §5.12, two consecutive breaches): a breach is a violation once
two readings in a row lie beyond what was in force, in the same direction, and are 30 s apart:
meters of a second would else accuse an inverter of its first seconds. A new envelope begins anew,
but for a reading that leaves it as long to be followed. Interpretation: beyond is
by more than 1 % of the limit, and by more than 10 W: no meter in the field is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from fpd.domain.compliance import Direction

PATIENCE: Final = timedelta(seconds=30)
_LEAST_W: Final = 10
_SHARE: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What was in force from `from_at` until the next one, W, into the group positive."""

    id: int
    from_at: datetime
    min_w: int | None
    max_w: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """Readings in a row beyond a limit. `envelope_id`, `power_w` (≥ 0), `by_w` are the last one's.

    `noted`: it was a violation of that envelope before.
    """

    envelope_id: int
    direction: Direction
    since_at: datetime
    last_at: datetime
    readings: int
    power_w: int
    by_w: int
    noted: bool = False

    @property
    def is_violation(self) -> bool:
        return self.readings >= 2 and self.last_at - self.since_at >= PATIENCE


@dataclass(frozen=True, slots=True)
class Measured:
    """The group took `watts` (import +) at an instant."""

    at: datetime
    watts: Decimal


def judge(
    before: Breach | None, readings: Iterable[Measured], limits: Sequence[Limits]
) -> tuple[Breach | None, list[Breach]]:
    """Return the breach that goes on after the readings, and the violations that are new.

    Both `readings` and `limits` are in the order of time. What was measured before anything was
    in force breaks nothing.
    """
    found: list[Breach] = []
    going_on = before
    for reading in readings:
        of = next((one for one in reversed(limits) if one.from_at <= reading.at), None)
        beyond = None if of is None else _beyond(of, reading)
        fresh = of is not None and reading.at - of.from_at < PATIENCE
        going_on = _continued(going_on, beyond, fresh=fresh)
        if going_on is not None and going_on.is_violation and not going_on.noted:
            going_on = replace(going_on, noted=True)
            found.append(going_on)
    return going_on, found


def _beyond(limits: Limits, reading: Measured) -> Breach | None:
    for direction, limit_w, flowing in (
        (Direction.IMPORT, limits.max_w, reading.watts),
        (Direction.EXPORT, None if limits.min_w is None else -limits.min_w, -reading.watts),
    ):
        if limit_w is not None and flowing - limit_w > max(Decimal(_LEAST_W), limit_w * _SHARE):
            return Breach(
                envelope_id=limits.id,
                direction=direction,
                since_at=reading.at,
                last_at=reading.at,
                readings=1,
                power_w=round(flowing),
                by_w=round(flowing) - limit_w,
            )
    return None


def _continued(before: Breach | None, beyond: Breach | None, *, fresh: bool) -> Breach | None:
    """Let a reading go on with a breach, or begin one, or end it.

    `fresh`: what it is beyond has just come into force.
    """
    if before is None or beyond is None or before.direction is not beyond.direction:
        return beyond
    same = before.envelope_id == beyond.envelope_id
    if fresh and not same:
        return beyond
    return replace(
        beyond,
        since_at=before.since_at,
        readings=before.readings + 1,
        noted=before.noted and same,
    )
