"""What the assets did in a period: statistics of readings, energy of registers; exact.

Sums are exact decimals, quotients rational, and rounded once, where a number is reported. A gap
stays a gap: what was not read is not reported, and never counts as zero.

Sources: OSCP 2.0 §4 (measurements), SolarNetwork's statistic types, decisions P9 and P11.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from fractions import Fraction
from typing import Final

from fpd.domain.entities import StatisticType

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

# How long the last value before a period still counts in it (P11 leaves the tolerance open):
# the longest usual reporting interval, fifteen minutes.
HOLD: Final = timedelta(minutes=15)

# Between two readings of a register further apart than this nothing is interpolated.
REACH: Final = timedelta(days=1)

_PLACES: Final = 9  # decimal places of a reported number
_EXACT: Final = Context(prec=2000)  # the sum of any two doubles has fewer digits


@dataclass(frozen=True, slots=True)
class Reading:
    at: datetime
    value: Decimal


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

    It begins where each of them was read once: a sum with a missing part is not the sum.
    """
    if len(series) == 1:
        return tuple(series[0])
    known: dict[int, Decimal] = {}
    sums: dict[datetime, Decimal] = {}
    events = sorted((r.at, index, r.value) for index, part in enumerate(series) for r in part)
    for at, index, value in events:
        known[index] = value
        if len(known) == len(series):
            sums[at] = _sum(known.values())
    return tuple(Reading(at, value) for at, value in sums.items())


def statistic(kind: StatisticType, readings: Sequence[Reading], period: Period) -> Fraction | None:
    """Return the statistic of a period; None when nothing was read in it.

    `readings` are in order of time. The last one before the start is the value that the period
    begins with, if it is younger than HOLD; Minimum, Maximum and Count are of what was read in
    the period itself.
    """
    inside = [r for r in readings if period.start_at <= r.at < period.end_at]
    if not inside:
        return None
    held = [r for r in readings if period.start_at - HOLD < r.at < period.start_at][-1:]
    first = inside[0] if not held or inside[0].at == period.start_at else held[0]
    match kind:
        case StatisticType.AVERAGE:
            return _average([*held, *inside], period)
        case StatisticType.COUNT:
            return Fraction(len(inside))
        case StatisticType.MINIMUM:
            return Fraction(min(r.value for r in inside))
        case StatisticType.MAXIMUM:
            return Fraction(max(r.value for r in inside))
        case StatisticType.START:
            return Fraction(first.value)
        case StatisticType.END:
            return Fraction(inside[-1].value)
        case StatisticType.DIFFERENCE:
            return Fraction(inside[-1].value) - Fraction(first.value)


def _average(readings: Sequence[Reading], period: Period) -> Fraction:
    """Return the mean over time of a value that holds from each reading to the next (P11)."""
    starts = [max(r.at, period.start_at) for r in readings]
    ends = [*starts[1:], period.end_at]
    weights = [(end - start) // _MICROSECOND for start, end in zip(starts, ends, strict=True)]
    parts = [_EXACT.multiply(r.value, w) for r, w in zip(readings, weights, strict=True)]
    return Fraction(_sum(parts)) / sum(weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """What a register says about a period.

    `register` is its level at `until_at`, resets bridged: it never falls. `gained` is the energy
    from `from_at` to `until_at`, None when it was read only once. Both instants are the period's
    edges where readings lie on both sides of them, else those of the outermost readings in it.
    """

    register: Fraction
    gained: Fraction | None
    from_at: datetime
    until_at: datetime


@dataclass(frozen=True, slots=True)
class Register:
    """The readings of an accumulating property, raised so that they never fall.

    `bridge` is what resets had taken from it up to the first reading. The readings, in order of
    time, reach from the last one at or before a period's start to the first one at or after its
    end. Between two of them the register is taken to rise evenly.

    Interpretation: a register that falls was reset or exchanged; what it counted between the two
    readings is unknown and counts as nothing, so energy is never negative and never invented.
    """

    readings: Sequence[Reading]
    bridge: Decimal = Decimal(0)

    def energy(self, period: Period) -> Energy | None:
        """Return what is known about a period; None when that is nothing."""
        raised = [Reading(r.at, _EXACT.add(r.value, b)) for r, b in self._bridges()]
        inside = [r for r in raised if period.start_at <= r.at <= period.end_at]
        start = _level(raised, period.start_at) or _outermost(inside[:1])
        end = _level(raised, period.end_at) or _outermost(inside[-1:])
        if start is None or end is None:
            return None
        return Energy(
            register=end.value,
            gained=end.value - start.value if start.at < end.at else None,
            from_at=start.at,
            until_at=end.at,
        )

    def bridge_at(self, instant: datetime) -> Decimal:
        """Return what resets have taken up to `instant`: where the next period begins."""
        return ([self.bridge] + [b for r, b in self._bridges() if r.at <= instant])[-1]

    def standing(self, instant: datetime) -> Fraction | None:
        """Return the last level read by `instant`, however long ago; None when there is none."""
        levels = [Fraction(_EXACT.add(r.value, b)) for r, b in self._bridges() if r.at <= instant]
        return levels[-1] if levels else None

    def _bridges(self) -> list[tuple[Reading, Decimal]]:
        bridge, last = self.bridge, None
        found = []
        for reading in self.readings:
            if last is not None and reading.value < last:
                bridge = _EXACT.add(bridge, _EXACT.subtract(last, reading.value))
            last = reading.value
            found.append((reading, bridge))
        return found


def sum_of(energies: Iterable[Energy]) -> Energy:
    """Return the energy of several registers (at least one) read as one."""
    found = list(energies)
    gains = [e.gained for e in found if e.gained is not None]
    return Energy(
        register=sum((e.register for e in found), Fraction(0)),
        gained=sum(gains, Fraction(0)) if len(gains) == len(found) else None,
        from_at=min(e.from_at for e in found),
        until_at=max(e.until_at for e in found),
    )


@dataclass(frozen=True, slots=True)
class _Level:
    at: datetime
    value: Fraction


def _outermost(readings: Sequence[Reading]) -> _Level | None:
    return _Level(readings[0].at, Fraction(readings[0].value)) if readings else None


def _level(readings: Sequence[Reading], at: datetime) -> _Level | None:
    """Return the level at an instant, interpolated; None when it is not between two readings."""
    earlier = [r for r in readings if r.at <= at][-1:]
    later = [r for r in readings if r.at >= at][:1]
    if not earlier or not later:
        return None
    low, high = earlier[0], later[0]
    apart = high.at - low.at
    if apart > REACH:
        return None
    value = Fraction(low.value)
    if apart:
        part = Fraction((at - low.at) // _MICROSECOND, apart // _MICROSECOND)
        value += (Fraction(high.value) - value) * part
    return _Level(at, value)


def _sum(values: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = _EXACT.add(total, value)
    return total


def reported(value: Fraction) -> Decimal:
    """Return the number that goes into a message: at most nine decimal places.

    >>> reported(Fraction(2, 3)), reported(Fraction(1200))
    (Decimal('0.666666667'), Decimal('1200'))
    """
    units = round(value * 10**_PLACES)
    whole, rest = divmod(abs(units), 10**_PLACES)
    text = f"{'-' if units < 0 else ''}{whole}.{rest:0{_PLACES}d}"
    return Decimal(text.rstrip("0").rstrip("."))
