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
from itertools import pairwise
from typing import Final, NamedTuple

import msgspec

from fpd.domain.entities import StatisticType

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND_US: Final = Decimal(10**6)

_EXACT: Final = Context(prec=2000)  # the sum of any two doubles has fewer digits


# What there is one of for each asset is a Struct: made in a tenth of a dataclass's time.
class Reading(msgspec.Struct, frozen=True, gc=False):
    at: datetime
    value: Decimal


@dataclass(frozen=True, slots=True)
class Rules:
    """What an installation may choose.

    `hold`: how long the last value before a period still counts in it (P11 leaves that open).
    `reach`: how far from a period's edge a register's reading may be to tell its level there.
    `plain_mean`: Average is that of the readings, however long each of them held.
    """

    hold: timedelta = timedelta(minutes=15)
    reach: timedelta = timedelta(days=1)
    plain_mean: bool = False

    @property
    def farthest(self) -> timedelta:
        """How far from a period readings may matter."""
        return max(self.hold, self.reach)


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
    instant = instant.astimezone(UTC)  # in other zones sums are of what walls show
    start_at = instant - (instant - _EPOCH) % length
    return Period(start_at, start_at + length)


def period_from(start_at: datetime, period_s: int) -> Period:
    """Return the period that begins at `start_at` and ends where one of `period_s` seconds does.

    After the length of a group's periods was changed the first one may be shorter, so that there
    is neither a gap nor an overlap.
    """
    return Period(start_at, period_at(start_at, period_s).end_at)


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


class Summary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """All that a period needs to know of the readings in a span of time: at least one.

    `weighted` is the sum of each value times the seconds until the next, from the first reading
    to the last; `falls` is what the value lost in sum where it fell from one reading to the next.
    """

    count: int
    first: Reading
    last: Reading
    least: Decimal
    most: Decimal
    total: Decimal
    weighted: Decimal
    falls: Decimal


def summary(readings: Sequence[Reading]) -> Summary | None:
    """Return the summary of readings in order of time; None of none."""
    if not readings:
        return None
    values = [r.value for r in readings]
    pairs = list(pairwise(readings))
    return Summary(
        count=len(readings),
        first=readings[0],
        last=readings[-1],
        least=min(values),
        most=max(values),
        total=_sum(values),
        weighted=_sum(_EXACT.multiply(a.value, _seconds(b.at - a.at)) for a, b in pairs),
        falls=_sum(_fall(a.value, b.value) for a, b in pairs),
    )


def joined(earlier: Summary, later: Summary) -> Summary:
    """Return the summary of the readings of two spans, one after the other."""
    held = _EXACT.multiply(earlier.last.value, _seconds(later.first.at - earlier.last.at))
    return Summary(
        count=earlier.count + later.count,
        first=earlier.first,
        last=later.last,
        least=min(earlier.least, later.least),
        most=max(earlier.most, later.most),
        total=_EXACT.add(earlier.total, later.total),
        weighted=_sum([earlier.weighted, held, later.weighted]),
        falls=_sum([earlier.falls, _fall(earlier.last.value, later.first.value), later.falls]),
    )


def statistic(
    kind: StatisticType,
    inside: Summary | None,
    period: Period,
    *,
    before: Reading | None,
    rules: Rules,
) -> Fraction | None:
    """Return the statistic of a period; None when nothing was read in it.

    `before`, the last reading before the start, is the value that the period begins with, if it
    is young enough to be held; Minimum, Maximum and Count are of what was read in the period
    itself.
    """
    if inside is None:
        return None
    held = _held(before, inside, period, rules)
    first = inside.first if held is None else held
    match kind:
        case StatisticType.AVERAGE:
            if rules.plain_mean:
                return _quotient(inside.total, inside.count)
            return _average(inside, held, period)
        case StatisticType.COUNT:
            return Fraction(inside.count)
        case StatisticType.MINIMUM:
            return _quotient(inside.least)
        case StatisticType.MAXIMUM:
            return _quotient(inside.most)
        case StatisticType.START:
            return _quotient(first.value)
        case StatisticType.END:
            return _quotient(inside.last.value)
        case StatisticType.DIFFERENCE:
            return _quotient(inside.last.value) - _quotient(first.value)


def _held(before: Reading | None, inside: Summary, period: Period, rules: Rules) -> Reading | None:
    if before is None or inside.first.at == period.start_at:
        return None
    return before if before.at > period.start_at - rules.hold else None


def _average(inside: Summary, held: Reading | None, period: Period) -> Fraction:
    """Return the mean over time of a value that holds from each reading to the next (P11)."""
    start_at = inside.first.at if held is None else period.start_at
    sum_us = _EXACT.multiply(inside.weighted, _SECOND_US)
    sum_us = _EXACT.fma(inside.last.value, _us(inside.last.at, period.end_at), sum_us)
    if held is not None:
        sum_us = _EXACT.fma(held.value, _us(start_at, inside.first.at), sum_us)
    return _quotient(sum_us, _us(start_at, period.end_at))


class Level(NamedTuple):
    """How high a register stood, resets bridged, be it read or interpolated."""

    at: datetime
    value: Fraction


class Energy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a register says about a period.

    `register` is its level at `until_at`, resets bridged: it never falls. `gained` is the energy
    from `from_at` to `until_at`, None when it was read only once. Both instants are the period's
    edges where they can be known, else those of readings.
    """

    register: Fraction
    gained: Fraction | None
    from_at: datetime
    until_at: datetime


class Carry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a period takes over from those before it.

    `before` is the last reading before it, `bridge` what resets had taken from the register by
    then. `is_open`: the last period that told an energy told it up to `before` only, because the
    level at its end was not known. `since`: where what was told ended, if periods after that were
    kept back (see `fpd.domain.metering.metered`).
    """

    before: Reading | None = None
    bridge: Decimal = Decimal(0)
    is_open: bool = False
    since: Level | None = None

    @property
    def standing(self) -> Fraction | None:
        """The last known level, however long ago; None when there is none."""
        if self.before is None:
            return None
        return Fraction(_EXACT.add(self.before.value, self.bridge))


UNKNOWN: Final = Carry()


class Register(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The readings of an accumulating property around a period, raised so that they never fall.

    `inside` are those of the period, `after` is the first one at its end or later, None while
    there is none. Between two readings the register is taken to rise evenly.

    Periods are chained: one begins where the last one ended, be that at a reading, so what they
    tell adds up to the movement of the register. Interpretation: after a silence longer than
    `reach` a new chain begins. Interpretation: a register that falls was reset or exchanged; what
    it counted between the two readings is unknown and counts as nothing, so energy is never
    negative and never invented.
    """

    carry: Carry = UNKNOWN
    inside: Summary | None = None
    after: Reading | None = None

    def energy(self, period: Period, rules: Rules) -> Energy | None:
        """Return what is known about a period; None when that is nothing."""
        before, first, last, after = self._levels()
        end = _edge(last, after, period.end_at, rules)
        if end is None and self.inside is not None:
            end = _at(last)
        if end is None:
            return None
        start = self._told_until(before, period, rules)
        if start is None:
            start = _edge(before, first, period.start_at, rules) or (
                _at(first) if self.inside is not None else end
            )
        assert start is not None
        (from_at, from_level), (until_at, level) = start, end
        return Energy(
            register=level,
            gained=level - from_level if from_at < until_at else None,
            from_at=from_at,
            until_at=until_at,
        )

    def carried(self, period: Period, energy: Energy | None, *, kept_back: bool = False) -> Carry:
        """Return what the next period takes over, if `energy` is what is told of this one.

        `kept_back`: it is not told yet, and the next one that is told begins where it does.
        """
        carry = self.carry
        is_open = carry.is_open if energy is None else energy.until_at < period.end_at
        since = carry.since if energy is None else None
        if energy is not None and kept_back:
            since = Level(energy.from_at, energy.register - (energy.gained or 0))
        if self.inside is None:
            return Carry(before=carry.before, bridge=carry.bridge, is_open=is_open, since=since)
        return Carry(
            before=self.inside.last,
            bridge=_EXACT.add(self._bridge_at_first(), self.inside.falls),
            is_open=is_open,
            since=since,
        )

    def _told_until(self, before: Reading | None, period: Period, rules: Rules) -> Level | None:
        """Return where the last energy that was told ended, if that is not this period's start."""
        start = self.carry.since
        if start is None and self.carry.is_open:
            start = _at(before)
        return start if start and _near(start, period.start_at, rules) else None

    def _bridge_at_first(self) -> Decimal:
        before, head = self.carry.before, self.inside.first if self.inside else self.after
        if before is None or head is None or head.value >= before.value:
            return self.carry.bridge
        return _EXACT.add(self.carry.bridge, _fall(before.value, head.value))

    def _levels(self) -> tuple[Reading | None, Reading | None, Reading | None, Reading | None]:
        """Return the levels before the period, at its first and last reading, and after it.

        Without a reading inside, the first one is the one after, and the last one that before.
        """
        before = _raised(self.carry.before, self.carry.bridge)
        bridge = self._bridge_at_first()
        if self.inside is None:
            after = _raised(self.after, bridge)
            return before, after, before, after
        first = _raised(self.inside.first, bridge)
        if self.inside.falls:
            bridge = _EXACT.add(bridge, self.inside.falls)
        last = _raised(self.inside.last, bridge)
        if self.after is not None and self.after.value < self.inside.last.value:
            bridge = _EXACT.add(bridge, _fall(self.inside.last.value, self.after.value))
        return before, first, last, _raised(self.after, bridge)


def sum_of(energies: Iterable[Energy]) -> Energy:
    """Return the energy of several registers (at least one) read as one."""
    found = list(energies)
    if len(found) == 1:
        return found[0]
    gains = [e.gained for e in found if e.gained is not None]
    return Energy(
        register=sum((e.register for e in found), Fraction(0)),
        gained=sum(gains, Fraction(0)) if len(gains) == len(found) else None,
        from_at=min(e.from_at for e in found),
        until_at=max(e.until_at for e in found),
    )


def _raised(reading: Reading | None, bridge: Decimal) -> Reading | None:
    if reading is None or not bridge:
        return reading
    return Reading(reading.at, _EXACT.add(reading.value, bridge))


def _near(level: Reading | Level, at: datetime, rules: Rules) -> bool:
    return abs(level.at - at) <= rules.reach


def _at(reading: Reading | None) -> Level | None:
    return None if reading is None else Level(reading.at, _quotient(reading.value))


def _edge(low: Reading | None, high: Reading | None, at: datetime, rules: Rules) -> Level | None:
    """Return the level at an instant between two readings; None when they do not tell it."""
    if high is not None and high.at == at:
        return _at(high)
    if low is None or high is None or not (_near(low, at, rules) and _near(high, at, rules)):
        return None
    sum_us = _EXACT.multiply(low.value, _us(at, high.at))
    sum_us = _EXACT.fma(high.value, _us(low.at, at), sum_us)
    return Level(at, _quotient(sum_us, _us(low.at, high.at)))


def _fall(earlier: Decimal, later: Decimal) -> Decimal:
    return _EXACT.subtract(earlier, later) if later < earlier else Decimal(0)


def _us(start_at: datetime, end_at: datetime) -> int:
    return (end_at - start_at) // _MICROSECOND


def _seconds(duration: timedelta) -> Decimal:
    return _EXACT.scaleb(Decimal(duration // _MICROSECOND), -6)


def _quotient(value: Decimal, by: int = 1) -> Fraction:
    over, under = value.as_integer_ratio()
    return Fraction(over, under * by)


def _sum(values: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for value in values:
        total = _EXACT.add(total, value)
    return total
