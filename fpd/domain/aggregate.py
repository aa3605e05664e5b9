"""Datum of a period made one: the mean of what is instantaneous, the gain of what accumulates.

The arithmetic is that of `domain.measurement`, so what is plotted and what is reported agree.
Source: SolarNetwork's aggregation ("average of samples", "sum of differences"); P9 and P11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Final

from fpd.domain.entities import StatisticType
from fpd.domain.measurement import (
    Carry,
    Period,
    Reading,
    Register,
    Rules,
    Summary,
    period_at,
    statistic,
)
from fpd.domain.reported import reported


class Aggregation(IntEnum):
    """Period lengths in s, aligned in UTC. Those of measurements, and a day."""

    Minute = 60
    FiveMinute = 300
    TenMinute = 600
    FifteenMinute = 900
    TwentyMinute = 1200
    ThirtyMinute = 1800
    Hour = 3600
    Day = 86400

    @property
    def length(self) -> timedelta:
        return timedelta(seconds=self.value)


_MOMENT: Final = timedelta(microseconds=1)
AGGREGATIONS: Final = ("None", *(aggregation.name for aggregation in Aggregation))


class Calendar(StrEnum):
    """Periods of a calendar, in UTC; weeks begin on Mondays (ISO 8601)."""

    WEEK = "Week"
    MONTH = "Month"
    YEAR = "Year"

    def begun(self, at: datetime) -> datetime:
        """Return when the period began that an instant is in."""
        day = at.replace(hour=0, minute=0, second=0, microsecond=0)
        match self:
            case Calendar.WEEK:
                return day - timedelta(days=day.weekday())
            case Calendar.MONTH:
                return day.replace(day=1)
            case Calendar.YEAR:
                return day.replace(month=1, day=1)

    def following(self, start_at: datetime) -> datetime:
        """Return when the period after the one that begins at `start_at` begins."""
        days = {Calendar.WEEK: 7, Calendar.MONTH: 31, Calendar.YEAR: 366}[self]
        return self.begun(start_at + timedelta(days=days))

    def periods(self, start_at: datetime, end_at: datetime) -> Iterator[Period]:
        """Yield the periods that begin in [start_at, end_at).

        >>> noon = datetime.fromisoformat("2026-03-12T12:00Z")
        >>> [f"{p.start_at:%d.%m.}" for p in Calendar.WEEK.periods(noon, noon.replace(day=24))]
        ['16.03.', '23.03.']
        """
        at = self.begun(start_at)
        if at < start_at:
            at = self.following(at)
        while at < end_at:
            yield Period(at, self.following(at))
            at = self.following(at)


def aligned(at: datetime, aggregation: Aggregation) -> datetime:
    """Return the first instant from `at` on at which a period begins."""
    period = period_at(at, aggregation)
    return period.start_at if period.start_at == at else period.end_at


def periods(start_at: datetime, count: int, aggregation: Aggregation) -> list[Period]:
    """Return so many periods, one after the other, the first of which begins at `start_at`."""
    length = aggregation.length
    return [Period(start_at + n * length, start_at + (n + 1) * length) for n in range(count)]


Values = dict[str, Decimal]


def means(
    name: str,
    sums: Mapping[datetime, Summary],
    span: Sequence[Period],
    *,
    before: Reading | None,
    rules: Rules,
    now: datetime,
) -> Iterator[tuple[datetime, Values]]:
    """Yield what is told of an instantaneous property by period: only where it was read.

    Interpretation: in a period that is not over yet the last value has held until `now`.
    """
    for period in span:
        inside = sums.get(period.start_at)
        if inside is None:
            continue
        until_at = min(period.end_at, max(now, inside.last.at + _MOMENT))
        so_far = Period(period.start_at, until_at)
        mean = statistic(StatisticType.AVERAGE, inside, so_far, before=before, rules=rules)
        before = inside.last
        assert mean is not None
        yield (
            period.start_at,
            {
                name: reported(mean),
                f"{name}_min": inside.least,
                f"{name}_max": inside.most,
                f"{name}_count": Decimal(inside.count),
            },
        )


def gains(
    name: str,
    sums: Mapping[datetime, Summary],
    span: Sequence[Period],
    *,
    before: Reading | None,
    after: Reading | None,
    rules: Rules,
    with_levels: bool = False,
) -> Iterator[tuple[datetime, Values]]:
    """Yield what an accumulating property gained by period: also where it was not read itself, if
    readings before and after tell.

    `with_levels`: also its level at both ends, raised by what resets had taken since `before`.
    """
    following: list[Reading | None] = []
    head = after
    for period in reversed(span):
        following.append(head)
        inside = sums.get(period.start_at)
        head = head if inside is None else inside.first
    carry = Carry(before=before)
    for period in span:
        register = Register(carry=carry, inside=sums.get(period.start_at), after=following.pop())
        energy = register.energy(period, rules)
        carry = register.carried(period, energy)
        if energy is None or energy.gained is None:
            continue
        values = {name: reported(energy.gained)}
        if with_levels:
            values[f"{name}_start"] = reported(energy.register - energy.gained)
            values[f"{name}_end"] = reported(energy.register)
        yield period.start_at, values
