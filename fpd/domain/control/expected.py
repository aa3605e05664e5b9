"""The load to be expected: what the same quarter of the week was in the weeks before. Pure.

A group's load is a sum of measured properties, each with a factor that makes it W, import +. What
is least of the sum is taken as the sum of what each was at least, which it never falls below.

Interpretation: weekdays and times are those of UTC; after the clocks have changed the load is
expected an hour off until the weeks before have caught up.
Interpretation: a quarter that was never measured on this weekday is taken from the other days,
and then the least and the most reach to 0 at any rate; without any measurement the load is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil, floor
from typing import Final

from fpd.domain.control.caps import TICKS_PER_DAY, TICKS_PER_WEEK, tick_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarter:
    """What a property was in one quarter of an hour, over `count` weeks."""

    mean: float
    least: float
    most: float
    count: int = 1

    def times(self, factor: float) -> Quarter:
        ends = sorted((self.least * factor, self.most * factor))
        return Quarter(mean=self.mean * factor, least=ends[0], most=ends[1], count=self.count)


NOT_KNOWN: Final = "not known, 0 is assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Load (W, import +) by quarter of the week (absolute tick modulo 672), whole W.

    `source` says in words where it comes from; `is_known`: more is known than a day, so that
    others may be told what follows from it.
    """

    least_w: tuple[int, ...] = (0,) * TICKS_PER_WEEK
    usual_w: tuple[int, ...] = (0,) * TICKS_PER_WEEK
    most_w: tuple[int, ...] = (0,) * TICKS_PER_WEEK
    source: str = field(default=NOT_KNOWN, compare=False)
    is_known: bool = field(default=False, compare=False)


Quarters = Mapping[int, Quarter]  # by quarter of the week


def of_history(parts: Sequence[tuple[float, Quarters]], *, source: str) -> Expected:
    """Return the load that is the sum of parts, each (factor, what it was)."""
    weeks = [_whole(quarters, factor) for factor, quarters in parts if quarters]
    if not weeks:
        return Expected()
    return Expected(
        least_w=tuple(floor(sum(q.least for q in each)) for each in zip(*weeks, strict=True)),
        usual_w=tuple(round(sum(q.mean for q in each)) for each in zip(*weeks, strict=True)),
        most_w=tuple(ceil(sum(q.most for q in each)) for each in zip(*weeks, strict=True)),
        source=source,
        is_known=all(len(quarters) >= TICKS_PER_DAY for _, quarters in parts if quarters),
    )


def _whole(quarters: Quarters, factor: float) -> list[Quarter]:
    """Return all 672 quarters of a property."""
    of_day: dict[int, list[Quarter]] = {}
    for of_week, quarter in quarters.items():
        of_day.setdefault(of_week % TICKS_PER_DAY, []).append(quarter)
    any_time = _joined(quarters.values())
    elsewhere = {of: _joined(found) for of, found in of_day.items()}
    return [
        (quarters.get(of) or elsewhere.get(of % TICKS_PER_DAY, any_time)).times(factor)
        for of in range(TICKS_PER_WEEK)
    ]


def _joined(quarters: Iterable[Quarter]) -> Quarter:
    """Return what stands for quarters of other times; it may as well have been 0."""
    found = list(quarters)
    count = sum(q.count for q in found)
    return Quarter(
        mean=sum(q.mean * q.count for q in found) / count,
        least=min(0.0, *(q.least for q in found)),
        most=max(0.0, *(q.most for q in found)),
        count=0,
    )


def announced(
    expected: Expected,
    values: Sequence[tuple[datetime, float]],
    *,
    first: int,
    factor: float,
    held_ticks: int,
    source: str,
) -> Expected:
    """Return the load with what a forecast stream says, for the week from tick `first` on.

    A value holds until the next one, at most `held_ticks`; of several in one quarter, their mean.
    """
    said: dict[int, list[float]] = {}
    for at, value in values:
        said.setdefault(tick_of(at), []).append(value * factor)
    if not said:
        return expected
    least, usual, most = map(list, (expected.least_w, expected.usual_w, expected.most_w))
    for tick in range(first, first + TICKS_PER_WEEK):
        near = next((t for t in range(tick, tick - held_ticks, -1) if t in said), None)
        if near is not None:
            watts = round(sum(said[near]) / len(said[near]) if near == tick else said[near][-1])
            of = tick % TICKS_PER_WEEK
            least[of] = usual[of] = most[of] = watts
    return Expected(
        least_w=tuple(least),
        usual_w=tuple(usual),
        most_w=tuple(most),
        source=source,
        is_known=expected.is_known or len(values) >= TICKS_PER_DAY,
    )
