"""Does a fuel cell's output show the profile that it was given? (reference: devices §1.7)

That a profile is stored and assigned says nothing of the unit: only its output proves it. A unit
is given `lead` until the profile has reached it, and a quarter of an hour to ramp.

Interpretation: an output counts as that of a profile when it lies between the least and the
greatest power of the tick and its two neighbours, ±5 % or 50 W, so it holds for every way in which
a unit may read a profile.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from fpd.domain.control.caps import TICKS_PER_WEEK, tick_of
from fpd.domain.control.ticks import Week

Points = tuple[tuple[int, int], ...]

_RAMP: Final = timedelta(minutes=15)
_TOLERANCE_W: Final = 50.0
_TOLERANCE_SHARE: Final = 0.05


class Shown(StrEnum):
    """What an output says of a profile."""

    YES = "yes"
    NOT_YET = "not yet"  # it may still be on its way
    ABOVE = "above"  # more than the profile asks for: a limit may be broken
    BELOW = "below"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A profile that was assigned at `since`; `before` is what the unit had, None: not known."""

    points: Points
    since: datetime
    before: Points | None
    lead: timedelta


def judge(told: Told, *, at: datetime, output_w: float, week: Week) -> Shown:
    """Return what an output, measured at `at`, says of the profile."""
    if at < told.since:
        return Shown.NOT_YET
    least_w, most_w = span(told.points, at=at, week=week)
    settled = at >= told.since + told.lead + _RAMP
    if least_w <= output_w <= most_w:
        as_before = told.before is None or _within(told.before, at, output_w, week)
        return Shown.YES if settled or not as_before else Shown.NOT_YET
    if not settled or at < told.since + 2 * told.lead:
        return Shown.NOT_YET
    return Shown.ABOVE if output_w > most_w else Shown.BELOW


def span(points: Points, *, at: datetime, week: Week) -> tuple[float, float]:
    """Return the least and the greatest output (W) that a profile may show at an instant."""
    near = [
        _power_w(points, (index + offset) % TICKS_PER_WEEK)
        for index in week.indices(tick_of(at))
        for offset in (-1, 0, 1)
    ]
    tolerance_w = max(_TOLERANCE_W, _TOLERANCE_SHARE * max(near))
    return min(near) - tolerance_w, max(near) + tolerance_w


def _within(points: Points, at: datetime, output_w: float, week: Week) -> bool:
    least_w, most_w = span(points, at=at, week=week)
    return least_w <= output_w <= most_w


def _power_w(points: Points, tick: int) -> int:
    """Return the power of a tick; before its first point the week goes on as it ended."""
    return points[bisect_right(points, (tick, 2**62)) - 1][1]
