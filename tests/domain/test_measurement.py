"""What a period amounts to: exact, against independent arithmetic, and never invented."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain import measurement, metering
from fpd.domain.entities import EnergyDirection, EnergyType, MeasurementUnit, StatisticType
from fpd.domain.measurement import (
    Carry,
    Energy,
    Period,
    Reading,
    Register,
    Rules,
    period_at,
    period_from,
    sum_of,
    summary,
    together,
)
from fpd.domain.reported import reported
from fpd.errors import Malformed

NOON = datetime(2030, 3, 10, 12, tzinfo=UTC)
QUARTER = Period(NOON, NOON + timedelta(minutes=15))
RULES = Rules()
HOLD, REACH = RULES.hold, RULES.reach


def split(series: Sequence[Reading], period: Period) -> metering.Read:
    """What lies before a period, in it, and after it."""
    before = [r for r in series if r.at < period.start_at][-1:]
    after = [r for r in series if r.at >= period.end_at][:1]
    return metering.Read(
        carry=Carry(before=before[0] if before else None),
        inside=summary([r for r in series if period.start_at <= r.at < period.end_at]),
        after=after[0] if after else None,
    )


def statistic(
    kind: StatisticType, series: Sequence[Reading], period: Period, rules: Rules = RULES
) -> Fraction | None:
    read = split(series, period)
    return measurement.statistic(kind, read.inside, period, before=read.carry.before, rules=rules)


def register(series: Sequence[Reading], period: Period = QUARTER) -> Register:
    read = split(series, period)
    return Register(carry=read.carry, inside=read.inside, after=read.after)


def energy(series: Sequence[Reading], period: Period = QUARTER) -> Energy | None:
    return register(series, period).energy(period, RULES)


def readings(
    values: Mapping[int, str] | Mapping[int, int] | Mapping[float, str],
) -> tuple[Reading, ...]:
    """Readings by minutes after noon."""
    return tuple(
        Reading(NOON + timedelta(minutes=minutes), Decimal(value))
        for minutes, value in sorted(values.items())
    )


@pytest.mark.parametrize("period_s", [60, 300, 600, 900, 1200, 1800, 3600])
def test_periods_are_aligned_in_utc(period_s: int) -> None:
    for minute in range(60):
        at = NOON + timedelta(minutes=minute, seconds=59)
        period = period_at(at, period_s)
        assert period.start_at <= at < period.end_at
        assert period.end_at - period.start_at == timedelta(seconds=period_s)
        assert (period.start_at.minute * 60 + period.start_at.second) % period_s == 0


@pytest.mark.parametrize("period_s", [60, 300, 600, 900, 1200, 1800, 3600])
@pytest.mark.parametrize(
    "day", [datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)]
)
def test_days_on_which_clocks_change_have_as_many_periods_as_others(
    day: datetime, period_s: int
) -> None:
    """Europe's: an hour is left out, or comes twice, on the walls only."""
    amsterdam = ZoneInfo("Europe/Amsterdam")
    period, count = period_at(day, period_s), 0
    while period.start_at < day + timedelta(days=1):
        assert period_at(period.start_at.astimezone(amsterdam), period_s) == period
        period, count = period_from(period.end_at, period_s), count + 1
    assert count == 86400 // period_s


# 200 W held from before, 100 W from minute 3, 400 W from minute 12.
POWER = {-5: "200", 3: "100", 12: "400", 15: "9999"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (StatisticType.AVERAGE, Fraction(3 * 200 + 9 * 100 + 3 * 400, 15)),
        (StatisticType.MINIMUM, 100),
        (StatisticType.MAXIMUM, 400),
        (StatisticType.COUNT, 2),
        (StatisticType.START, 200),
        (StatisticType.END, 400),
        (StatisticType.DIFFERENCE, 200),
    ],
)
def test_statistics_of_a_quarter(kind: StatisticType, expected: Fraction | int) -> None:
    assert statistic(kind, readings(POWER), QUARTER) == expected


def test_a_value_from_long_ago_is_not_held() -> None:
    late = readings({-15: "200", 3: "100", 12: "400"})
    assert statistic(StatisticType.AVERAGE, late, QUARTER) == Fraction(9 * 100 + 3 * 400, 12)
    assert statistic(StatisticType.START, late, QUARTER) == 100


def test_a_reading_at_the_very_start_replaces_the_held_one() -> None:
    exact = readings({-1: "200", 0: "50"})
    assert statistic(StatisticType.AVERAGE, exact, QUARTER) == 50
    assert statistic(StatisticType.DIFFERENCE, exact, QUARTER) == 0


@pytest.mark.parametrize("kind", StatisticType)
def test_a_gap_stays_a_gap(kind: StatisticType) -> None:
    assert statistic(kind, readings({-1: "200", 15: "300"}), QUARTER) is None
    assert statistic(kind, (), QUARTER) is None


def test_properties_are_summed_over_time_not_statistic_by_statistic() -> None:
    one = readings({-1: "100", 5: "0"})
    two = readings({-2: "0", 5: "100"})
    assert together([one, two]) == readings({-1: "100", 5: "100"})
    assert statistic(StatisticType.MAXIMUM, together([one, two]), QUARTER) == 100


def test_a_sum_begins_when_all_its_parts_are_known() -> None:
    assert together([readings({1: "1", 9: "2"}), readings({5: "10"})]) == readings(
        {5: "11", 9: "12"}
    )


_VALUES = st.decimals(-(10**12), 10**12, places=6)
_SERIES = st.dictionaries(st.integers(-20 * 60, 20 * 60), _VALUES, min_size=1, max_size=12).map(
    lambda found: tuple(
        Reading(NOON + timedelta(seconds=second), value) for second, value in sorted(found.items())
    )
)


@given(_SERIES)
def test_the_average_is_exactly_the_mean_of_every_second(series: tuple[Reading, ...]) -> None:
    """Against brute force: the value that holds in each single second of the quarter."""
    inside = [r for r in series if QUARTER.start_at <= r.at < QUARTER.end_at]
    if not inside:
        return
    total, seconds = Fraction(0), 0
    for second in range(15 * 60):
        at = NOON + timedelta(seconds=second)
        holding = [
            r
            for r in series
            if r.at <= at and (r.at >= QUARTER.start_at or r.at > QUARTER.start_at - HOLD)
        ]
        if holding:
            total += Fraction(holding[-1].value)
            seconds += 1
    assert statistic(StatisticType.AVERAGE, series, QUARTER) == total / seconds


def test_the_plain_mean_is_an_option() -> None:
    plain = Rules(plain_mean=True)
    assert statistic(StatisticType.AVERAGE, readings(POWER), QUARTER, plain) == 250


def test_a_period_of_a_new_length_begins_where_the_last_one_ended() -> None:
    at = NOON + timedelta(minutes=1)
    assert period_from(at, 300) == Period(at, NOON + timedelta(minutes=5))
    assert period_from(NOON, 300) == period_at(NOON, 300)


def test_energy_is_interpolated_at_both_edges() -> None:
    assert energy(readings({-5: "1000", 5: "1020", 10: "1030", 20: "1060"})) == Energy(
        register=Fraction(1045),
        gained=Fraction(35),
        from_at=QUARTER.start_at,
        until_at=QUARTER.end_at,
    )


def test_readings_on_the_edges_count_alone() -> None:
    found = energy(readings({0: "1000", 15: "1012.5"}))
    assert found is not None
    assert (found.register, found.gained) == (Fraction("1012.5"), Fraction("12.5"))


def test_without_a_later_reading_the_last_one_speaks_for_its_own_time() -> None:
    assert energy(readings({-5: "1000", 5: "1020", 10: "1030"})) == Energy(
        register=Fraction(1030),
        gained=Fraction(20),
        from_at=QUARTER.start_at,
        until_at=NOON + timedelta(minutes=10),
    )


def test_one_reading_is_a_level_but_no_energy() -> None:
    found = energy(readings({5: "1020"}))
    assert found is not None
    assert (found.register, found.gained) == (Fraction(1020), None)


def test_a_silent_register_says_nothing_but_stands() -> None:
    assert energy(readings({20: "1000"})) is None
    assert energy(()) is None
    silent = register(readings({-5: "1000"}))
    assert silent.energy(QUARTER, RULES) is None
    assert silent.carried(QUARTER, None).standing == 1000


def test_nothing_is_interpolated_over_more_than_a_day() -> None:
    far = REACH / timedelta(minutes=1)
    assert energy(readings({-1: "1000", far + 16: "2000"})) is None
    assert energy(readings({-1: "1000", far: "2000"})) is not None


def test_a_reset_takes_nothing_away() -> None:
    series = readings({0: "1000", 5: "1010", 6: "3", 15: "8"})
    found = energy(series)
    assert found is not None
    assert (found.gained, found.register) == (10 + 5, 1015)
    assert register(series).carried(QUARTER, found) == Carry(
        before=series[2], bridge=Decimal(1007), is_open=False
    )


_REGISTERS = st.lists(
    st.tuples(st.integers(1, 600), st.decimals(0, 10**9, places=3)), min_size=2, max_size=12
)


def taken(steps: list[tuple[int, Decimal]]) -> list[Reading]:
    at, series = NOON, []
    for seconds, level in steps:
        at += timedelta(seconds=seconds)
        series.append(Reading(at, level))
    return series


@given(_REGISTERS, st.booleans(), st.integers(1, 900))
def test_chained_periods_add_up_and_registers_never_fall(
    steps: list[tuple[int, Decimal]], sees_after: bool, period_s: int
) -> None:
    """Whether or not the level at the ends is known when they are told."""
    series = taken(steps)
    carry, told, period = Carry(), [], period_from(series[0].at, period_s)
    while period.start_at <= series[-1].at:
        read = split(series, period)
        now = Register(carry=carry, inside=read.inside, after=read.after if sees_after else None)
        found = now.energy(period, RULES)
        carry = now.carried(period, found)
        told += [found] if found else []
        period = period_from(period.end_at, period_s)
    rises = sum(
        (max(Fraction(b.value) - Fraction(a.value), Fraction(0)) for a, b in pairwise(series)),
        Fraction(0),
    )
    assert sum((t.gained for t in told if t.gained is not None), Fraction(0)) == rises
    assert all(t.gained is None or t.gained >= 0 for t in told)
    assert all(a.register <= b.register and a.until_at == b.from_at for a, b in pairwise(told))


def test_registers_read_as_one_add_up() -> None:
    one = energy(readings({0: "10", 15: "11"}))
    two = energy(readings({0: "20", 14: "22"}))
    assert one is not None and two is not None
    assert sum_of([one, two]) == Energy(
        register=Fraction(33), gained=Fraction(3), from_at=NOON, until_at=QUARTER.end_at
    )


@given(st.fractions(-(10**20), 10**20))
def test_a_reported_number_is_the_nearest_with_nine_places(value: Fraction) -> None:
    number = reported(value)
    assert abs(Fraction(number) - value) <= Fraction(1, 2 * 10**9)
    digits, exponent = number.as_tuple().digits, number.as_tuple().exponent
    assert isinstance(exponent, int) and -9 <= exponent <= 0
    assert exponent == 0 or digits[-1] != 0


ENERGY: dict[str, Any] = {"propertyNames": ["wattHours"], "unit": "Wh"}


def test_settings_have_the_documented_defaults() -> None:
    power = metering.read({"propertyNames": ["watts"], "unit": "kW"}, of_energy=False)
    energy = metering.read(ENERGY, of_energy=True)
    assert (power.unit, power.statistic) == (MeasurementUnit.KW, StatisticType.AVERAGE)
    assert (power.multiplier, energy.statistic) == (Fraction(1), StatisticType.DIFFERENCE)
    assert (energy.direction, energy.type) == (EnergyDirection.IMPORT, EnergyType.TOTAL)


@pytest.mark.parametrize(
    "wrong",
    [
        {"propertyNames": []},
        {"propertyNames": "watts"},
        {"unit": "W"},
        {"unit": None},
        {"multiplier": "many"},
        {"multiplier": Decimal("NaN")},
        {"statisticType": "Median"},
        {"direction": "Up"},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        metering.read(ENERGY | wrong, of_energy=True)


def test_a_multiplier_converts_into_the_unit() -> None:
    settings = metering.read(
        {"propertyNames": ["watts"], "unit": "kW", "multiplier": "0.001"}, of_energy=False
    )
    read = split(readings({0: "1234"}), QUARTER)
    assert metering.instantaneous(settings, read, QUARTER, RULES) == Fraction("1.234")


def test_a_count_is_not_a_value_in_the_unit() -> None:
    settings = metering.read(
        {"propertyNames": ["watts"], "unit": "kW", "multiplier": 5, "statisticType": "Count"},
        of_energy=False,
    )
    read = split(readings({0: "1", 1: "1"}), QUARTER)
    assert metering.instantaneous(settings, read, QUARTER, RULES) == 2


def test_phases_of_an_energy_are_summed_and_none_may_be_missing() -> None:
    settings = metering.read(
        {"propertyNames": ["one", "two"], "unit": "kWh", "multiplier": "0.001"}, of_energy=True
    )
    one, two = readings({0: "0", 15: "500"}), readings({0: "9000", 10: "9010", 11: "0", 15: "40"})
    reads = [split(one, QUARTER), split(two, QUARTER)]
    metered = metering.metered(settings, reads, QUARTER, RULES)
    assert metered.energy is not None
    assert metered.energy.gained == Fraction(500 + 10 + 40, 1000)
    assert [carry.bridge for carry in metered.carries] == [0, 9010]
    reads = [split(one, QUARTER), metering.Read()]
    assert metering.metered(settings, reads, QUARTER, RULES).energy is None


def test_another_statistic_of_an_energy_is_taken_of_its_readings() -> None:
    settings = metering.read(ENERGY | {"statisticType": "End"}, of_energy=True)
    read = split(readings({0: "10", 14: "12"}), QUARTER)
    found = metering.taken(settings, read, QUARTER, RULES).energy
    assert found is not None
    assert (found.gained, found.until_at) == (Fraction(12), QUARTER.end_at)
