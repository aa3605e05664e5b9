"""What control makes of a plan and of the load expected: no database, no device."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flows.test_steering import NOW, battery, cell, envelope

from fpd.adapters.device import Release
from fpd.domain.control.caps import TICKS_PER_WEEK, Window, tick_of
from fpd.domain.control.expected import Expected, Quarter, announced, of_history
from fpd.domain.control.wishes import Wishes
from fpd.domain.forecast import Reason
from fpd.flows import device_rules as rules
from fpd.flows import fuel_cells, planned, steering
from fpd.flows.steered import Measured, Steered
from fpd.store.plans import PlanRow

FIRST = tick_of(NOW)


def plan(power_w: int = -2000, *, reserve_wh: int = 10_000, made_at: datetime = NOW) -> Any:
    flat = [0] * TICKS_PER_WEEK
    device = {
        "name": "cellar", "type": "battery", "power_w": [power_w] * TICKS_PER_WEEK,
        "soc": flat, "reserve_wh": [reserve_wh] * TICKS_PER_WEEK,
    }  # fmt: skip
    return planned.planned(
        PlanRow(
            id=1, group_id=1, made_at=made_at, from_at=NOW, source="highs", solve_s=0.1, breaks=[],
            periods={
                "period_s": 900, "load_source": "", "load_w": [1, *flat[1:]],
                "import_limit_w": [None] * TICKS_PER_WEEK, "net_w": flat, "least_load_w": flat,
                "most_load_w": flat, "devices": [device],
            },
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "later", "wish"),
    [
        ({}, timedelta(0), -2000),
        ({}, timedelta(minutes=30), -2000),
        ({}, timedelta(minutes=30, seconds=1), None),
        ({"made_at": NOW + timedelta(hours=1)}, timedelta(0), None),
        ({"power_w": 49}, timedelta(0), None),
        ({"power_w": -30, "reserve_wh": 60_000}, timedelta(0), 0),
        ({"power_w": 0, "reserve_wh": 57_000}, timedelta(0), None),
    ],
)
def test_what_a_plan_wishes_of_a_battery_that_holds_60_kwh(
    given: dict[str, Any], later: timedelta, wish: int | None
) -> None:
    found = plan(**given).wishes([battery(), battery("unknown"), cell()], now=NOW + later)
    assert found.power_w == ({} if wish is None else {"cellar": wish})


def test_a_plan_says_what_load_is_expected_when() -> None:
    load = plan().load_at(NOW + timedelta(hours=23))
    assert load.usual_w[FIRST % TICKS_PER_WEEK] == 1
    assert sum(load.usual_w) == 1
    assert plan().load_at(NOW + timedelta(hours=25)) is None


def wishing(power_w: int, *, reserve_wh: int = 0, beyond_w: int = 10_000) -> Wishes:
    return Wishes(power_w={"cellar": power_w}, reserve_wh={"cellar": reserve_wh}, beyond_w=beyond_w)


def steer(
    wish_w: int, *, watts: int | None = 1000, reserve_wh: int = 0, beyond_w: int = 10_000,
    **limits: Any,
) -> Any:  # fmt: skip
    (wanted,) = steering.setpoints(
        [battery()], [], envelope=envelope(**limits), margin=Decimal(0), now=NOW,
        measured=Measured(watts=None if watts is None else Decimal(watts)),
        planned=wishing(wish_w, reserve_wh=reserve_wh, beyond_w=beyond_w),
    )  # fmt: skip
    return getattr(wanted.command, "power_w", wanted.command)


def test_a_plan_is_followed_inside_the_limits_in_force() -> None:
    assert steer(-2000) == -2000
    assert steer(-2000, max_w=2500) == -1500, "the import limit wins"
    assert steer(2000, min_w=-500) == 1500, "the export limit wins"
    assert steer(-2000, max_w=500) == 500, "a need is served, whatever was planned"
    assert steer(-2000, max_w=2500, optimum_w=800) == 200, "an optimum is wanted more"
    assert steer(-2000, max_w=9000, min_w=-9000, watts=None) == 0, "nobody knows what room there is"
    assert steer(0) == 0


def test_what_is_planned_for_a_limit_is_worth_what_the_limit_asks_for_now() -> None:
    assert steer(1369, watts=4200, max_w=3000, beyond_w=0) == 1200
    assert steer(1369, watts=2500, max_w=3000, beyond_w=0) == 0
    assert steer(1369, watts=4200, max_w=3000, beyond_w=100) == 1300, "100 W make room"
    assert steer(1369, watts=4500, max_w=3000, beyond_w=0) == 1500
    assert steer(1369) == 1369, "nothing is limited"
    cut = Wishes(power_w={"a": 1000, "b": 500, "c": -300}, reserve_wh={}, beyond_w=0)
    assert cut.needed(900) == {"a": 800, "b": 400, "c": -300}
    assert cut.needed(-300) == {"a": 0, "b": 0, "c": -300}


@pytest.mark.parametrize(
    ("discharge_w", "limit_w", "beyond_w"),
    [(1369, 3000, 0), (1369, 3400, 400), (1369, 9000, 1369), (1369, None, 1369), (-500, 3000, 0)],
)
def test_what_of_a_planned_discharge_is_for_the_limit(
    discharge_w: int, limit_w: int | None, beyond_w: int
) -> None:
    made = plan(discharge_w)
    made.row.periods["net_w"] = [4369 - 1369] * TICKS_PER_WEEK
    made.row.periods["import_limit_w"] = [limit_w] * TICKS_PER_WEEK
    assert made.wishes([battery()], now=NOW).beyond_w == beyond_w


def test_an_optimum_does_not_spend_what_is_planned_to_keep_a_limit_with() -> None:
    assert steer(0, watts=3000, optimum_w=0, reserve_wh=50_000) == 3000, "10 kWh are to spare"
    assert steer(0, watts=3000, optimum_w=0, reserve_wh=60_000) == 0
    assert steer(0, watts=3000, optimum_w=0, reserve_wh=59_500) == 1900, "for 15 min"
    assert steer(0, watts=3000, optimum_w=0, max_w=1000, reserve_wh=60_000) == 2000, "a limit may"
    assert steer(0, watts=-3000, optimum_w=0, reserve_wh=60_000) == -3000, "it may be charged"


def test_devices_without_a_wish_are_left_to_themselves() -> None:
    found = steering.setpoints(
        [battery(), battery("other")], [], envelope=envelope(), margin=Decimal(0), now=NOW,
        measured=Measured(watts=Decimal(0)), planned=wishing(-500),
    )  # fmt: skip
    assert [w.command for w in found if w.device.name == "other"] == [Release()]


def flat(usual_w: int, *, least_w: int | None = None) -> Expected:
    least = usual_w if least_w is None else least_w
    return Expected(
        least_w=(least,) * TICKS_PER_WEEK,
        usual_w=(usual_w,) * TICKS_PER_WEEK,
        most_w=(usual_w,) * TICKS_PER_WEEK,
    )


def profile(
    load: Expected, cells: Steered | None = None, *, on_load: bool = False, **limits: Any
) -> Any:
    block = envelope(reason=Reason.FORECAST, end_at=NOW + timedelta(hours=2), **limits)
    free = replace(envelope(), start_at=NOW + timedelta(hours=2))
    (wanted,) = fuel_cells.profiles(
        [cells or cell(base_power_w=1000)], week=(block, free), of=Window(FIRST), load=load,
        count_on_load=on_load,
    )  # fmt: skip
    return wanted.command


def most(found: Any) -> int:
    return max(power_w for _, power_w in found.points)


def least(found: Any) -> int:
    return min(power_w for _, power_w in found.points)


def test_an_import_limit_raises_a_throttled_cell() -> None:
    found = profile(flat(3200), max_w=2000)
    assert found.points == (
        (0, 1000),
        (230, 1000),
        (231, 1200),
        (240, 1200),
        (241, 1000),
        (671, 1000),
    )
    assert profile(flat(2900), max_w=2000) == Release(), "it does that anyway"
    assert profile(Expected(), max_w=2000) == Release(), "nothing is known of the load"


def test_an_optimum_raises_a_throttled_cell_and_never_throttles_one() -> None:
    assert most(profile(flat(3000), optimum_w=1700)) == 1300
    assert profile(flat(3000), optimum_w=2500) == Release()


def test_an_export_limit_counts_on_no_load_unless_told_to() -> None:
    assert least(profile(flat(300), min_w=-900)) == 900
    assert least(profile(flat(300), min_w=-600, on_load=True)) == 900
    assert least(profile(flat(300, least_w=-50), min_w=-900)) == 850, "it exports by itself"
    assert least(profile(flat(300, least_w=-50), min_w=-900, on_load=True)) == 850


def test_a_profile_changes_only_when_that_matters() -> None:
    before = profile(flat(3200), max_w=2000)
    state = replace(cell().state, wanted=rules.stored(before))
    running = replace(cell(base_power_w=1000), state=state)
    assert profile(flat(3110), running, max_w=2000) == before, "a little more than is needed"
    assert most(profile(flat(3090), running, max_w=2000)) == 1090
    assert most(profile(flat(3210), running, max_w=2000)) == 1210, "too little"
    assert most(profile(flat(3200), running, max_w=1990)) == 1210, "too little, since 10 W less"
    assert profile(flat(3200), running, max_w=2000, min_w=-2000) == before
    capped = profile(flat(3200), running, max_w=2000, min_w=-1150)
    assert most(capped) == 1150, "a limit of the export is kept to the watt"
    assert profile(flat(0), running) == Release()


def quarter(mean: float, least_w: float | None = None, most_w: float | None = None) -> Quarter:
    return Quarter(
        mean=mean,
        least=mean if least_w is None else least_w,
        most=mean if most_w is None else most_w,
    )


def test_a_sum_is_at_least_the_sum_of_what_each_was_at_least() -> None:
    found = of_history(
        [(1.0, {5: quarter(500, 400, 700)}), (-1.0, {5: quarter(300, 100, 900)}), (1.0, {})],
        source="history",
    )
    assert (found.least_w[5], found.usual_w[5], found.most_w[5]) == (-500, 200, 600)
    assert found.source == "history"


def test_other_days_stand_in_for_one_that_was_never_measured_and_so_does_0() -> None:
    found = of_history([(1.0, {5: quarter(500, 400, 700), 101: quarter(300)})], source="")
    assert (found.least_w[5], found.usual_w[5], found.most_w[5]) == (400, 500, 700)
    thursday = 5 + 2 * 96
    assert (found.least_w[thursday], found.usual_w[thursday]) == (0, 400)
    assert found.most_w[thursday] == 700
    assert found.usual_w[300] == 400
    assert of_history([(1.0, {})], source="") == Expected()


def test_less_than_a_day_of_history_is_not_enough_to_tell_others_what_follows() -> None:
    day = {tick: quarter(500) for tick in range(96)}
    assert of_history([(1.0, day)], source="").is_known
    del day[7]
    assert not of_history([(1.0, day)], source="").is_known
    assert not of_history([], source="").is_known


def test_a_forecast_of_the_load_holds_until_the_next_value_for_an_hour() -> None:
    values = [(NOW, 2.0), (NOW + timedelta(minutes=5), 4.0), (NOW + timedelta(hours=3), 5.0)]
    found = announced(
        flat(100), values, first=FIRST, factor=1000, held_ticks=4, source="the weather"
    )
    week = [found.usual_w[(FIRST + n) % TICKS_PER_WEEK] for n in range(14)]
    assert week == [3000, 4000, 4000, 4000, *[100] * 8, 5000, 5000]
    assert found.least_w == found.usual_w == found.most_w
    assert announced(flat(100), [], first=FIRST, factor=1, held_ticks=4, source="") == flat(100)
