"""The load behind a meter, added up from what the meter and the devices said at different instants.

A meter is heard every few seconds, a device is read every ten, and a setpoint shows seconds after
it was told. If the meter already sees a step that the reading does not know, or the other way
round, their sum is wrong by all of it, and a loop that believes it answers with a step as large,
for ever.

Interpretation: what a device did when the meter was read lies between its readings around that
instant, and what it was told meanwhile. Where that leaves a choice the load has not changed, as
far as that is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

_SAME_TIME = timedelta(seconds=1)  # clocks of meters and of devices differ by so much


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a device delivered, (at, W) with the oldest first, and was told last, W since when."""

    seen: Sequence[tuple[datetime, float]]
    told_w: int | None = None
    told_at: datetime | None = None


def load_w(
    net_w: Decimal, at: datetime | None, outputs: Iterable[Output], *, before_w: int | None
) -> Decimal:
    """Return the load that the devices carry when `net_w` was measured at `at` (None: just now).

    `before_w`: what it was taken for a moment ago; None: not known, the readings nearest to the
    meter's count. 3000 W at the meter, 0 W read before and 1200 W read after: 3000 to 4200 W.
    """
    known = list(outputs)
    if before_w is not None and any(_is_forgotten(output, at) for output in known):
        return Decimal(before_w)
    least_w = most_w = nearest_w = net_w
    for output in known:
        possible = _possible(output, at)
        least_w += min(possible)
        most_w += max(possible)
        nearest_w += possible[0]
    if before_w is None:
        return nearest_w
    return min(max(Decimal(before_w), least_w), most_w)


def _is_forgotten(output: Output, at: datetime | None) -> bool:
    """Whether the meter was read before all that is remembered: it was made use of then."""
    return at is not None and len(output.seen) > 1 and output.seen[0][0] >= at + _SAME_TIME


def _possible(output: Output, at: datetime | None) -> list[Decimal]:
    """Return what a device may have delivered at an instant, the likeliest first."""
    if not output.seen:
        return [Decimal(0)]
    if at is None:
        return [Decimal(str(output.seen[-1][1]))]
    nearest = min(output.seen, key=lambda one: abs(one[0] - at))
    if nearest[0] == at:
        return [Decimal(str(nearest[1]))]  # one measurement of both
    earlier = [one for one in output.seen if one[0] <= at - _SAME_TIME]
    later = [one for one in output.seen if one[0] >= at + _SAME_TIME]
    around = [one for one in output.seen if abs(one[0] - at) < _SAME_TIME]
    found = [nearest, *earlier[-1:], *around, *later[:1]]
    possible = [Decimal(str(watts)) for _, watts in found]
    told = output.told_at is not None and output.told_at <= at + _SAME_TIME
    if not later and told and output.told_w is not None:
        possible.append(Decimal(output.told_w))
    return possible
