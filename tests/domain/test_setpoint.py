"""What a battery is told, and what it must never hide."""

from __future__ import annotations

from decimal import Decimal
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpd.domain.control.setpoint import Battery, BatteryApi, Charge, Setpoint, Task, calls, step
from fpd.errors import Malformed

BATTERY = Battery(capacity_wh=Decimal(10000), max_charge_w=3300, max_discharge_w=3300)
HALF_FULL = Charge(Decimal(60))


def told(
    net_load_w: int,
    charge: Charge = HALF_FULL,
    *,
    last_w: int | None = None,
    may_reverse: bool = True,
    sustain_s: int = 3600,
    import_limit_w: int | None = None,
    export_limit_w: int | None = None,
    optimum_w: int | None = None,
) -> Setpoint:
    task = Task(
        net_load_w=Decimal(net_load_w),
        import_limit_w=import_limit_w,
        export_limit_w=export_limit_w,
        optimum_w=optimum_w,
        sustain_s=Decimal(sustain_s),
    )
    return step(BATTERY, charge, task, last_w=last_w, may_reverse=may_reverse)


def test_what_a_fuel_cell_delivers_the_battery_need_not() -> None:
    task = Task(net_load_w=Decimal(4200), fuel_cell_w=Decimal(1000), import_limit_w=3000)
    assert step(BATTERY, HALF_FULL, task, last_w=None).setpoint_w == 200


@pytest.mark.parametrize(
    ("usoc", "was_blocked", "discharge_w", "blocked"),
    [
        ("13", True, 285, False),
        ("12.9", True, 0, True),
        ("12.9", False, 275, False),
        ("10", False, 0, True),
        ("8", False, 0, True),
    ],
)
def test_an_empty_battery_rests_until_it_has_recovered(
    usoc: str, was_blocked: bool, discharge_w: int, blocked: bool
) -> None:
    charge = Charge(Decimal(usoc), discharge_blocked=was_blocked)
    found = told(4200, charge, import_limit_w=3000)
    assert found.setpoint_w == found.max_discharge_now_w == discharge_w
    assert found.discharge_blocked is blocked
    assert found.residual_over_import_w == 1200 - discharge_w


@pytest.mark.parametrize(
    ("usoc", "was_blocked", "charge_w", "blocked"),
    [
        ("97", True, 315, False),  # 300 Wh / 0.95
        ("98", True, 0, True),
        ("98", False, 210, False),
        ("100", False, 0, True),
    ],
)
def test_a_full_battery_rests_until_it_has_room(
    usoc: str, was_blocked: bool, charge_w: int, blocked: bool
) -> None:
    charge = Charge(Decimal(usoc), charge_blocked=was_blocked)
    found = told(-5000, charge, export_limit_w=3000)
    assert found.setpoint_w == -found.max_charge_now_w == -charge_w
    assert found.charge_blocked is blocked
    assert found.residual_over_export_w == 2000 - charge_w


def test_a_battery_that_does_not_say_how_full_it_is_promises_nothing() -> None:
    found = told(4200, Charge(None, charge_blocked=True), import_limit_w=3000)
    assert (found.setpoint_w, found.residual_over_import_w) == (0, 1200)
    assert (found.discharge_blocked, found.charge_blocked) == (False, True)


def test_a_setpoint_that_can_no_longer_be_held_is_not_kept_for_the_deadband() -> None:
    found = told(0, Charge(Decimal(10)), last_w=30)
    assert (found.setpoint_w, found.sent) == (0, True)


def test_while_a_limit_is_broken_even_the_same_setpoint_is_told_again() -> None:
    found = told(4200, Charge(Decimal(15)), last_w=475, import_limit_w=3000)
    assert (found.setpoint_w, found.sent, found.residual_over_import_w) == (475, True, 725)


def test_a_wish_does_not_reverse_a_battery_that_has_just_turned_but_a_limit_does() -> None:
    assert told(1000, optimum_w=2000, last_w=500, may_reverse=False).setpoint_w == 0
    assert told(1000, optimum_w=2000, last_w=500).setpoint_w == -1000
    assert told(-5000, export_limit_w=3000, last_w=500, may_reverse=False).setpoint_w == -2000


@pytest.mark.parametrize(
    ("api", "setpoint_w", "last_w", "expected"),
    [
        (BatteryApi.V2, 1200, None, [("POST", "/api/v2/setpoint/discharge/1200")]),
        (
            BatteryApi.V2,
            1200,
            -500,
            [("POST", "/api/v2/setpoint/charge/0"), ("POST", "/api/v2/setpoint/discharge/1200")],
        ),
        (
            BatteryApi.V1,
            -700,
            500,
            [("PUT", "/api/v1/setpoint/discharge/0"), ("PUT", "/api/v1/setpoint/charge/700")],
        ),
        (BatteryApi.V1, -700, -500, [("PUT", "/api/v1/setpoint/charge/700")]),
        (BatteryApi.V1, -700, 0, [("PUT", "/api/v1/setpoint/charge/700")]),
        (
            BatteryApi.V2,
            0,
            -500,
            [("POST", "/api/v2/setpoint/charge/0"), ("POST", "/api/v2/setpoint/discharge/0")],
        ),
    ],
)
def test_the_old_direction_is_zeroed_first(
    api: BatteryApi, setpoint_w: int, last_w: int | None, expected: list[tuple[str, str]]
) -> None:
    assert list(calls(api, setpoint_w, last_w)) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"capacity_wh": Decimal(0)},
        {"max_charge_w": -1},
        {"max_discharge_w": -1},
        {"soc_min": Decimal(101)},
        {"soc_max": Decimal(101)},
        {"soc_hyst": Decimal(-1)},
        {"eff_charge": Decimal(0)},
        {"eff_discharge": Decimal("1.1")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_no_battery_can_is_refused_by_name(wrong: dict[str, object]) -> None:
    fine = {"capacity_wh": Decimal(1), "max_charge_w": 1, "max_discharge_w": 1}
    with pytest.raises(Malformed, match=next(iter(wrong))):
        Battery(**(fine | wrong))


@given(
    st.decimals(-9000, 9000, places=1),
    st.none() | st.integers(0, 6000),
    st.none() | st.integers(0, 6000),
    st.none() | st.integers(-6000, 6000),
    st.none() | st.decimals(0, 100, places=1),
    st.booleans(),
    st.booleans(),
    st.integers(1, 20000),
    st.none() | st.integers(-3300, 3300),
    st.booleans(),
)
def test_a_setpoint_keeps_the_limits_or_says_by_how_much_it_cannot(
    load_w: Decimal,
    import_limit_w: int | None,
    export_limit_w: int | None,
    optimum_w: int | None,
    usoc: Decimal | None,
    discharge_blocked: bool,
    charge_blocked: bool,
    sustain_s: int,
    last_w: int | None,
    may_reverse: bool,
) -> None:
    task = Task(
        net_load_w=load_w,
        import_limit_w=import_limit_w,
        export_limit_w=export_limit_w,
        optimum_w=optimum_w,
        sustain_s=Decimal(sustain_s),
    )
    found = step(
        BATTERY,
        Charge(usoc, discharge_blocked=discharge_blocked, charge_blocked=charge_blocked),
        task,
        last_w=last_w,
        may_reverse=may_reverse,
    )
    assert -found.max_charge_now_w <= found.setpoint_w <= found.max_discharge_now_w
    assert found.resulting_net_import_w == load_w - found.setpoint_w
    excess_w = 0 if import_limit_w is None else found.resulting_net_import_w - import_limit_w
    assert found.residual_over_import_w == max(ceil(excess_w), 0)
    excess_w = 0 if export_limit_w is None else -found.resulting_net_import_w - export_limit_w
    assert found.residual_over_export_w == max(ceil(excess_w), 0)
    if found.residual_over_import_w > 1:
        assert found.setpoint_w == found.max_discharge_now_w
    if found.residual_over_export_w > 0:
        assert found.setpoint_w == -found.max_charge_now_w
    if not found.sent:
        assert found.setpoint_w == last_w
        assert found.residual_over_export_w == found.residual_over_import_w == 0


@given(st.decimals(0, 100, places=1), st.integers(1, 20000))
def test_what_is_available_can_be_held_as_long_as_asked(usoc: Decimal, sustain_s: int) -> None:
    found = told(0, Charge(usoc), sustain_s=sustain_s)
    spent_ws = found.max_discharge_now_w * sustain_s
    stored_ws = found.max_charge_now_w * sustain_s * BATTERY.eff_charge
    ws_per_percent = 100 * 3600
    assert spent_ws <= max(usoc - 10, Decimal(0)) * ws_per_percent * BATTERY.eff_discharge
    assert stored_ws <= (100 - usoc) * ws_per_percent
