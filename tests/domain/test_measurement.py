"""What a period amounts to: exact, against independent arithmetic, and never invented."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain import metering
from fpd.domain.entities import EnergyDirection, EnergyType, MeasurementUnit, StatisticType
from fpd.domain.measurement import (
    HOLD,
    REACH,
    Energy,
    Period,
    Reading,
    Register,
    period_at,
    reported,
    statistic,
    sum_of,
    together,
)
from fpd.errors import Malformed

NOON = datetime(2030, 3, 10, 12, tzinfo=UTC)
QUARTER = Period(NOON, NOON + timedelta(minutes=15))


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


def test_energy_is_interpolated_at_both_edges() -> None:
    register = Register(readings({-5: "1000", 5: "1020", 10: "1030", 20: "1060"}))
    assert register.energy(QUARTER) == Energy(
        register=Fraction(1045),
        gained=Fraction(35),
        from_at=QUARTER.start_at,
        until_at=QUARTER.end_at,
    )


def test_readings_on_the_edges_count_alone() -> None:
    energy = Register(readings({0: "1000", 15: "1012.5"})).energy(QUARTER)
    assert energy is not None
    assert (energy.register, energy.gained) == (Fraction("1012.5"), Fraction("12.5"))


def test_without_a_later_reading_the_last_one_speaks_for_its_own_time() -> None:
    energy = Register(readings({-5: "1000", 5: "1020", 10: "1030"})).energy(QUARTER)
    assert energy == Energy(
        register=Fraction(1030),
        gained=Fraction(20),
        from_at=QUARTER.start_at,
        until_at=NOON + timedelta(minutes=10),
    )


def test_one_reading_is_a_level_but_no_energy() -> None:
    energy = Register(readings({5: "1020"})).energy(QUARTER)
    assert energy is not None
    assert (energy.register, energy.gained) == (Fraction(1020), None)


def test_a_silent_register_says_nothing() -> None:
    assert Register(readings({-5: "1000"})).energy(QUARTER) is None
    assert Register(readings({20: "1000"})).energy(QUARTER) is None
    assert Register(()).energy(QUARTER) is None
    assert Register(readings({-5: "1000"})).standing(QUARTER.end_at) == 1000


def test_nothing_is_interpolated_over_more_than_a_day() -> None:
    far = REACH / timedelta(minutes=1)
    energy = Register(readings({-1: "1000", far: "2000"})).energy(QUARTER)
    assert energy is None


def test_a_reset_takes_nothing_away() -> None:
    register = Register(readings({0: "1000", 5: "1010", 6: "3", 15: "8"}))
    energy = register.energy(QUARTER)
    assert energy is not None
    assert energy.gained == 10 + 5
    assert energy.register == 1015
    assert register.bridge_at(QUARTER.end_at) == 1007


def test_a_register_reported_period_by_period_never_falls() -> None:
    levels = {-1: 1000, 5: 1010, 14: 3, 15: 4, 20: 9, 29: 1, 30: 2, 44: 2, 45: 5, 46: 6}
    bridge, reported_levels = Decimal(0), []
    for quarter in range(3):
        period = period_at(NOON + timedelta(minutes=15 * quarter), 900)
        before = max(m for m in levels if m <= 15 * quarter)
        after = min(m for m in levels if m >= 15 * quarter + 15)
        around = readings({m: v for m, v in levels.items() if before <= m <= after})
        register = Register(around, bridge)
        energy = register.energy(period)
        assert energy is not None
        reported_levels.append(energy.register)
        bridge = register.bridge_at(period.end_at)
    assert reported_levels == [1011, 1017, 1020]


_REGISTERS = st.lists(
    st.tuples(st.integers(1, 600), st.decimals(0, 10**9, places=3)), min_size=2, max_size=12
)


@given(_REGISTERS)
def test_the_energies_of_adjoining_periods_add_up_and_are_never_negative(
    steps: list[tuple[int, Decimal]],
) -> None:
    at, series = NOON, []
    for seconds, level in steps:
        at += timedelta(seconds=seconds)
        series.append(Reading(at, level))
    first, last = series[0].at, series[-1].at
    rises = sum(
        (max(Fraction(b.value) - Fraction(a.value), Fraction(0)) for a, b in pairwise(series)),
        Fraction(0),
    )
    middle = first + (last - first) / 3
    register = Register(series)
    whole = register.energy(Period(first, last))
    parts = [register.energy(Period(first, middle)), register.energy(Period(middle, last))]
    assert whole is not None and whole.gained == rises
    assert all(part is not None and part.gained is not None for part in parts)
    assert sum(part.gained for part in parts if part and part.gained is not None) == rises
    assert all(part.gained >= 0 for part in parts if part and part.gained is not None)


def test_registers_read_as_one_add_up() -> None:
    one = Register(readings({0: "10", 15: "11"})).energy(QUARTER)
    two = Register(readings({0: "20", 14: "22"})).energy(QUARTER)
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
    series = [readings({0: "1234"})]
    assert metering.instantaneous(settings, series, QUARTER) == Fraction("1.234")


def test_a_count_is_not_a_value_in_the_unit() -> None:
    settings = metering.read(
        {"propertyNames": ["watts"], "unit": "kW", "multiplier": 5, "statisticType": "Count"},
        of_energy=False,
    )
    assert metering.instantaneous(settings, [readings({0: "1", 1: "1"})], QUARTER) == 2


def test_phases_of_an_energy_are_summed_and_none_may_be_missing() -> None:
    settings = metering.read(
        {"propertyNames": ["one", "two"], "unit": "kWh", "multiplier": "0.001"}, of_energy=True
    )
    one, two = readings({0: "0", 15: "500"}), readings({0: "9000", 10: "9010", 11: "0", 15: "40"})
    metered = metering.metered(settings, [one, two], QUARTER, {})
    assert metered.energy is not None
    assert metered.energy.gained == Fraction(500 + 10 + 40, 1000)
    assert metered.bridges == {"two": Decimal(9010)}
    assert metering.metered(settings, [one, ()], QUARTER, {}).energy is None


def test_another_statistic_of_an_energy_is_taken_of_its_readings() -> None:
    settings = metering.read(ENERGY | {"statisticType": "End"}, of_energy=True)
    energy = metering.metered(settings, [readings({0: "10", 14: "12"})], QUARTER, {}).energy
    assert energy is not None
    assert (energy.gained, energy.until_at) == (Fraction(12), QUARTER.end_at)
