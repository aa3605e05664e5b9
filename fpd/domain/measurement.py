"""What the assets did in a period: statistics of readings, energy of registers; exact.

Pure rational arithmetic, rounded once, where a number is reported. A gap stays a gap: what was
not read is not reported, and never counts as zero.

Sources: OSCP 2.0 §4 (measurements), SolarNetwork's statistic types, decisions P9 and P11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# How long the last value before a period still counts in it (P11 leaves the tolerance open):
# the longest usual reporting interval, fifteen minutes.
HOLD: Final = timedelta(minutes=15)

# Between two readings of a register further apart than this nothing is interpolated.
REACH: Final = timedelta(days=1)

_DIGITS: Final = 9  # decimal places of a reported number


class Statistic(StrEnum):
    """What is made of the readings of a period, under SolarNetwork's names."""

    AVERAGE = "Average"
    COUNT = "Count"
    MINIMUM = "Minimum"
    MAXIMUM = "Maximum"
    START = "Start"
    END = "End"
    DIFFERENCE = "Difference"


@dataclass(frozen=True, slots=True)
class Reading:
    at: datetime
    value: Fraction


@dataclass(frozen=True, slots=True)
class Period:
    """[start_at, end_at)"""

    start_at: datetime
    end_at: datetime


def period_at(instant: datetime, period_s: int) -> Period:
    """Return the period of `period_s` seconds, aligned in UTC, that `instant` is in.

    >>> period_at(datetime(2030, 3, 10, 12, 44, 59, tzinfo=UTC), 900).start_at.isoformat()
    '2030-03-10T12:30:00+00:00'
    """
    length = timedelta(seconds=period_s)
    start_at = instant - (instant - _EPOCH) % length
    return Period(start_at, start_at + length)


def together(series: Sequence[Sequence[Reading]]) -> tuple[Reading, ...]:
    """Return the sum of several instantaneous properties over time, each held until its next.

    Nothing before each of them was read once: a sum with a missing part is not the sum.
    """
    if len(series) == 1:
        return tuple(series[0])
    known: dict[int, Fraction] = {}
    at_instant: dict[datetime, Fraction] = {}
    events = sorted((r.at, index, r.value) for index, part in enumerate(series) for r in part)
    for at, index, value in events:
        known[index] = value
        if len(known) == len(series):
            at_instant[at] = sum(known.values(), Fraction(0))
    return tuple(Reading(at, value) for at, value in at_instant.items())


def statistic(kind: Statistic, readings: Sequence[Reading], period: Period) -> Fraction | None:
    """Return the statistic of a period; None when nothing was read in it.

    `readings` are in order of time. The last one before the start is the value that the period
    begins with, if it is younger than HOLD; Minimum, Maximum and Count are of what was read in
    the period itself. Start is what the period begins with, else the first reading in it.
    """
    inside = [r for r in readings if period.start_at <= r.at < period.end_at]
    if not inside:
        return None
    held = [r for r in readings if period.start_at - HOLD < r.at < period.start_at][-1:]
    begins = held or inside[:1]
    if inside[0].at == period.start_at:
        begins = inside[:1]
    match kind:
        case Statistic.AVERAGE:
            return _average([*held, *inside], period)
        case Statistic.COUNT:
            return Fraction(len(inside))
        case Statistic.MINIMUM:
            return min(r.value for r in inside)
        case Statistic.MAXIMUM:
            return max(r.value for r in inside)
        case Statistic.START:
            return begins[0].value
        case Statistic.END:
            return inside[-1].value
        case Statistic.DIFFERENCE:
            return inside[-1].value - begins[0].value


def _average(readings: Sequence[Reading], period: Period) -> Fraction:
    """Return the mean over time of a value that holds from each reading to the next (P11)."""
    starts = [max(r.at, period.start_at) for r in readings]
    ends = [*starts[1:], period.end_at]
    weights = [(end - start) // _MICROSECOND for start, end in zip(starts, ends, strict=True)]
    weighted = sum((r.value * w for r, w in zip(readings, weights, strict=True)), Fraction(0))
    return weighted / sum(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What a register says about a period.

    `register` is its level at `until_at`, resets bridged: it never falls. `gained` is the energy
    from `from_at` to `until_at`, None when it was read once only. Both instants are the period's
    edges where readings lie on both sides of them, else those of the outermost readings in it.
    `settled`: the end is known for good, no later reading of now can change it. `bridge` is what
    resets have taken from the register before the period's end, to be given to the next period.
    """

    register: Fraction
    gained: Fraction | None
    from_at: datetime
    until_at: datetime
    settled: bool
    bridge: Fraction


def energy(
    readings: Sequence[Reading], period: Period, *, bridge: Fraction = Fraction(0)
) -> Energy | None:
    """Return what the readings of one register say about a period; None when that is nothing.

    `readings`, in order of time, reach from the last one at or before the start to the first one
    at or after the end. Between two of them the register is taken to rise evenly.

    Interpretation: a register that falls was reset or exchanged; what it counted between the two
    readings is unknown and counts as nothing, so energy is never negative and never invented.
    """
    levels, bridges = _bridged(readings, bridge)
    inside = [r for r in levels if period.start_at <= r.at <= period.end_at]
    start = _level(levels, period.start_at) or (inside[0] if inside else None)
    end = _level(levels, period.end_at) or (inside[-1] if inside else None)
    if start is None or end is None:
        return None
    before_end = [b for r, b in zip(levels, bridges, strict=True) if r.at < period.end_at]
    return Energy(
        register=end.value,
        gained=end.value - start.value if start.at < end.at else None,
        from_at=start.at,
        until_at=end.at,
        settled=end.at == period.end_at,
        bridge=before_end[-1] if before_end else bridge,
    )


def _bridged(
    readings: Sequence[Reading], bridge: Fraction
) -> tuple[list[Reading], list[Fraction]]:
    """Return the readings raised so that they never fall, and by how much each was."""
    levels: list[Reading] = []
    bridges: list[Fraction] = []
    last: Fraction | None = None
    for reading in readings:
        if last is not None and reading.value < last:
            bridge += last - reading.value
        last = reading.value
        levels.append(Reading(reading.at, reading.value + bridge))
        bridges.append(bridge)
    return levels, bridges


def _level(levels: Sequence[Reading], at: datetime) -> Reading | None:
    """Return the level at an instant, interpolated; None when it is not between two readings."""
    earlier = [r for r in levels if r.at <= at][-1:]
    later = [r for r in levels if r.at >= at][:1]
    if not earlier or not later:
        return None
    low, high = earlier[0], later[0]
    if low.at == high.at:
        return Reading(at, low.value)
    if high.at - low.at > REACH:
        return None
    part = Fraction((at - low.at) // _MICROSECOND, (high.at - low.at) // _MICROSECOND)
    return Reading(at, low.value + (high.value - low.value) * part)


def sum_of(energies: Iterable[Energy]) -> Energy:
    """Return the energy of several registers read as one (at least one)."""
    found = list(energies)
    gains = [e.gained for e in found]
    return Energy(
        register=sum((e.register for e in found), Fraction(0)),
        gained=None if None in gains else sum((g for g in gains if g is not None), Fraction(0)),
        from_at=min(e.from_at for e in found),
        until_at=max(e.until_at for e in found),
        settled=all(e.settled for e in found),
        bridge=sum((e.bridge for e in found), Fraction(0)),
    )


def reported(value: Fraction) -> Decimal:
    """Return the number that goes into a message: nine decimal places, no trailing zeros.

    >>> reported(Fraction(2, 3)), reported(Fraction(1200))
    (Decimal('0.666666667'), Decimal('1200'))
    """
    digits = Decimal(round(value * 10**_DIGITS)).scaleb(-_DIGITS)
    return Decimal(f"{digits.normalize():f}")
