"""What devices are wanted to do, without any device: the arithmetic around the domain's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from fpd.adapters.battery_keys import BatteryDevice
from fpd.adapters.device import Profile, Reading, Release, Setpoint
from fpd.config import BluegenDevice
from fpd.domain.control.caps import Window, tick_of
from fpd.domain.control.phases import limits_of_sum, phase_limits
from fpd.domain.control.ticks import UnitLimits
from fpd.domain.forecast import Block, Envelope, Forecast, ForecastType, Reason, Terms
from fpd.domain.units import Phase, Unit
from fpd.flows import fuel_cells, steering
from fpd.flows.control_settings import properties_of, settings_of
from fpd.flows.steered import Measured, Steered
from fpd.flows.steering import Phases, Wanted
from fpd.store.control import Asset, Property
from fpd.store.devices import DeviceState

NOW = datetime(2025, 3, 12, 10, tzinfo=UTC)
STATE = DeviceState(
    name="", health="ok", detail=None, reading=None, reading_at=None, wanted=None, wanted_at=None,
    plan=None, group_id=None, envelope_id=None, told=None, told_at=None, confirmed=None,
    confirmed_at=None, attempts=0, failures=0, memory=None, due_at=NOW, command_due_at=None,
    leased_until=None,
)  # fmt: skip


def battery(name: str = "cellar", **given: Any) -> Steered:
    reading = Reading(at=NOW, output_w=given.pop("output_w", 0.0), dispatchable=True, soc=60.0)
    config = BatteryDevice(
        name=name, type="battery", base_url="http://battery", capacity_wh=100_000,
        max_charge_w=3300, max_discharge_w=3300,
    )  # fmt: skip
    told = given.pop("told", None)
    state = replace(STATE, told=None if told is None else {"kind": "setpoint", "power_w": told})
    return replace(
        Steered(config=config, priority=1, state=state, reading=reading, alone=False), **given
    )


def cell(name: str = "cell", *, output_w: float | None = 1500, **given: Any) -> Steered:
    limits = UnitLimits(min_w=given.pop("min_w", 800), max_w=1500, step_up_w=1999, step_dn_w=1999)
    reading = Reading(
        at=NOW, output_w=output_w, dispatchable=True, limits=limits,
        profiling=given.pop("profiling", True),
    )  # fmt: skip
    config = BluegenDevice(
        name=name, type="bluegen", base_url="http://cell", username="u", password="p", unit_id=1,
        week_anchor="MON", **given,
    )  # fmt: skip
    return Steered(config=config, priority=1, state=STATE, reading=reading, alone=False)


def envelope(min_w: int | None = None, max_w: int | None = None, **given: Any) -> Envelope:
    whole: dict[str, Any] = {"optimum_w": None, "end_at": None, "reason": Reason.STATIC, **given}
    return Envelope(start_at=NOW, min_w=min_w, max_w=max_w, forecast_ids=(), **whole)


def steer(
    *devices: Steered, cells: tuple[Steered, ...] = (), held: Envelope, **measured: Any
) -> dict[str, Any]:
    phases = measured.pop("phases", Phases())
    wanted = steering.setpoints(
        devices,
        cells,
        envelope=held,
        measured=Measured(**{"watts": Decimal(0), **measured}),
        margin=Decimal(0),
        now=NOW,
        phases=phases,
    )
    return {w.device.name: getattr(w.command, "power_w", w.command) for w in wanted}


def test_what_batteries_do_now_is_added_back_to_the_meter() -> None:
    running = battery(output_w=1200.0, told=1200)
    meter = {"watts": Decimal(3000), "at": NOW + timedelta(seconds=5), "at_meter": True}
    assert steer(running, held=envelope(max_w=3000), **meter) == {"cellar": 1200}


def test_the_reading_nearest_to_the_meters_counts() -> None:
    before = NOW - timedelta(seconds=10)
    reading = Reading(at=NOW, output_w=1200.0, dispatchable=True, soc=60.0, recent=((before, 0.0),))
    device = replace(battery(), reading=reading)
    held = envelope(max_w=3000)
    old = {"watts": Decimal(4200), "at": before + timedelta(seconds=1), "at_meter": True}
    assert steer(device, held=held, **old) == {"cellar": 1200}, "not 2400: it had not begun"
    new = {"watts": Decimal(3000), "at": NOW - timedelta(seconds=1), "at_meter": True}
    assert steer(device, held=held, **new) == {"cellar": 1200}


@pytest.mark.parametrize(
    "doubt",
    [
        {"state": replace(STATE, failures=1)},
        {"state": replace(STATE, attempts=1)},
        {
            "reading": Reading(
                at=NOW, output_w=300.0, dispatchable=True, soc=60.0, untaken="code 13"
            )
        },
    ],
)
def test_what_a_device_in_doubt_is_asked_for_others_carry_too(doubt: dict[str, Any]) -> None:
    doubted = replace(battery("a", output_w=300.0), **doubt)
    meter = {"watts": Decimal(4700), "at": NOW, "at_meter": True}
    found = steer(doubted, battery("b"), held=envelope(max_w=3000), **meter)
    assert found == {"a": 1000, "b": 1700}, "300 of 2000 W are measured already"
    meterless = {"watts": Decimal(5000)}
    assert steer(doubted, battery("b"), held=envelope(max_w=3000), **meterless) == found
    alone = steering.setpoints(
        [doubted],
        [],
        envelope=envelope(max_w=3000),
        measured=Measured(**meter),
        margin=Decimal(0),
        now=NOW,
    )
    assert [w.command for w in alone] == [Setpoint(power_w=2000)]
    assert alone[0].plan["over_import_w"] == 1700, "what is not done yet is not kept"


def test_an_empty_battery_that_rested_meanwhile_is_still_empty() -> None:
    emptied = replace(STATE, plan={"discharge_blocked": True, "charge_blocked": False})
    (resting,) = steering.rest([replace(battery(), state=emptied)], "nothing is limited")
    reading = Reading(at=NOW, output_w=0.0, dispatchable=True, soc=11.0)
    again = replace(battery(), state=replace(STATE, plan=resting.plan), reading=reading)
    assert steer(again, held=envelope(max_w=3000), watts=Decimal(4000)) == {"cellar": 0}
    recovered = replace(again, reading=replace(reading, soc=13.0))
    assert steer(recovered, held=envelope(max_w=3000), watts=Decimal(4000)) == {"cellar": 1000}


def test_who_comes_back_brings_what_it_delivers_to_the_load_known_before() -> None:
    """The meter has not seen yet that the other one was told 8000 W less."""
    before = NOW - timedelta(seconds=3)
    plan = {"net_load_w": 14000, "carried_by": ["b"]}
    told = {"kind": "setpoint", "power_w": 2200}
    state = replace(STATE, told=told, told_at=before, plan=plan, wanted_at=before)
    seen = Reading(at=NOW, output_w=2200.0, dispatchable=True, soc=60.0, recent=((before, 3300.0),))
    other = replace(battery("b"), state=state, reading=seen)
    back = battery("a", output_w=1000.0)
    meter = {"watts": Decimal(9700), "at": NOW - timedelta(seconds=2), "at_meter": True}
    wanted = steering.setpoints(
        [back, other],
        [],
        envelope=envelope(max_w=11000),
        measured=Measured(**meter),
        margin=Decimal(0),
        now=NOW,
    )
    assert {w.plan["net_load_w"] for w in wanted} == {14000}, "at most 9700 + 3300 + 1000"


def test_what_was_told_no_longer_counts_once_the_device_was_seen_to_follow() -> None:
    """One that delivers 1100 of 1200 W follows, and will not deliver more."""
    told = {"kind": "setpoint", "power_w": 1200}
    before = NOW - timedelta(seconds=10)
    plan = {"net_load_w": 4200}
    state = replace(STATE, told=told, told_at=before, plan=plan, wanted_at=before)
    running = replace(battery(output_w=1100.0), state=state)
    meter = {"watts": Decimal(3000), "at": NOW + timedelta(seconds=5), "at_meter": True}
    assert steer(running, held=envelope(max_w=3000), **meter) == {"cellar": 1200}
    seen = replace(running, state=replace(state, confirmed=told))
    assert steer(seen, held=envelope(max_w=3000), **meter) == {"cellar": 1100}


def test_without_a_meter_fuel_cells_and_the_unreachable_are_counted() -> None:
    held = envelope(max_w=1000)
    load = {"watts": Decimal(4000)}
    assert steer(battery(), cells=(cell(),), held=held, **load) == {"cellar": 1500}
    gone = replace(battery("gone", told=-500), alone=True)
    assert steer(battery(), gone, held=held, **load) == {"gone": Release(), "cellar": 3300}
    helping = replace(battery("gone", told=500), alone=True)
    found = steer(battery(), helping, held=held, watts=Decimal(2000))
    assert found["cellar"] == 1000, "what may have stopped helping does not count"


def test_a_fuel_cell_of_unknown_output_counts_against_an_export_limit() -> None:
    unknown = (cell(output_w=None),)
    assert steer(battery(), cells=unknown, held=envelope(min_w=-1000)) == {"cellar": -500}
    assert steer(battery(), cells=unknown, held=envelope(max_w=0)) == {"cellar": 0}


def test_a_battery_that_was_not_read_lately_keeps_its_wish() -> None:
    stale = replace(battery(), reading=Reading(
        at=NOW - timedelta(seconds=61), output_w=0.0, dispatchable=True, soc=60.0
    ))  # fmt: skip
    assert steer(stale, held=envelope(max_w=0), watts=Decimal(2000)) == {}


def test_a_little_energy_is_spread_over_a_block_but_not_over_a_limit_without_end() -> None:
    small = replace(battery(), reading=Reading(at=NOW, output_w=0.0, dispatchable=True, soc=11.0))
    load = {"watts": Decimal(9000)}
    hour = envelope(max_w=0, end_at=NOW + timedelta(hours=1), reason=Reason.FORECAST)
    assert steer(small, held=hour, **load) == {"cellar": 950}
    standing = envelope(max_w=0, end_at=NOW + timedelta(hours=20))
    assert steer(small, held=standing, **load) == {"cellar": 3300}


def plan(*cells: Steered, export_w: int | None) -> list[Wanted]:
    of = Window(tick_of(NOW))
    held = envelope(None if export_w is None else -export_w)
    return fuel_cells.profiles(cells, week=(held,), of=of)


def test_fuel_cells_go_home_when_nothing_binds_them() -> None:
    assert [w.command for w in plan(cell(), export_w=None)] == [Release()]
    assert [w.command for w in plan(cell(), export_w=1500)] == [Release()]
    kept = plan(cell(base_power_w=1000), export_w=1400)[0].command
    assert kept == Profile(points=((0, 1000), (671, 1000)))


@pytest.mark.parametrize(
    ("export_w", "powers"), [(1900, [1047, 853]), (1000, [800, 500]), (5000, [None, None])]
)
def test_cells_share_what_exceeds_their_least(export_w: int, powers: list[int | None]) -> None:
    wanted = plan(cell("one"), cell("two", min_w=500), export_w=export_w)
    found = [w.command.points[0][1] if isinstance(w.command, Profile) else None for w in wanted]
    assert found == powers


def test_a_cell_that_ignores_profiles_takes_its_output_off_the_others() -> None:
    wanted = plan(cell("ruled"), cell("wild", output_w=1500, profiling=False), export_w=2500)
    assert [(w.device.name, w.command) for w in wanted] == [
        ("ruled", Profile(points=((0, 1000), (671, 1000))))
    ]


def test_a_limit_that_a_cell_cannot_keep_is_on_record() -> None:
    (wanted,) = plan(cell(), export_w=500)
    assert wanted.plan["over_export_w"] == 300


def test_a_setpoint_is_in_the_plan_with_what_it_leaves_undone() -> None:
    (wanted,) = steering.setpoints(
        [battery()], [], envelope=envelope(max_w=0), measured=Measured(watts=Decimal(5000)),
        margin=Decimal("0.02"), now=NOW,
    )  # fmt: skip
    assert wanted.command == Setpoint(power_w=3300)
    assert wanted.plan["over_import_w"] == 1700


def test_settings_that_were_never_given_have_their_defaults() -> None:
    settings = settings_of(None)
    assert (settings.margin, settings.flexible, settings.meter) == (Decimal("0.02"), False, None)
    assert (settings.terms.v_ln, settings.terms.phases) == (230, 3)
    given = settings_of(
        {"staticExportLimit": "1500", "phases": 1, "marginPercent": 0, "gapPolicy": "HoldLast"}
    )
    assert (given.terms.static_export_w, given.terms.phases, given.margin) == (1500, 1, 0)


def asset(id_: int, source: str, *, drives: bool = False, **given: Any) -> Asset:
    instantaneous = {"propertyNames": ["watts"], "unit": "kW", "multiplier": -1, **given}
    return Asset(
        id=id_, group_id=1, device="cellar" if drives else None, drives=drives, priority=1,
        node_id=7, source_id=source, instantaneous=instantaneous,
    )  # fmt: skip


def test_uncontrolled_assets_stand_in_for_a_meter_once_each() -> None:
    assets = [
        asset(1, "/battery", drives=True), asset(2, "battery"), asset(3, "/pv"), asset(4, "pv"),
        asset(5, "/heat", unit="A"),
    ]  # fmt: skip
    found = properties_of(settings_of(None), assets, user_id=3)
    assert found == [(Property(3, 7, "pv", "watts"), Decimal(-1000))]
    metered = settings_of({"meter": {"nodeId": 1, "sourceId": "/m", "property": "w"}})
    assert properties_of(metered, assets, user_id=3) == [(Property(3, 1, "/m", "w"), Decimal(1))]


def on(name: str, *phases: Any, **given: Any) -> Steered:
    device = battery(name, **given)
    return replace(device, config=replace(device.config, phases=phases))


def said(phase: str, amperes: int, type_: str = "CONSUMPTION") -> Forecast:
    block = Block(
        start_at=NOW, end_at=NOW + timedelta(hours=1), capacity=Decimal(amperes), unit=Unit.A,
        phase=Phase(phase),
    )  # fmt: skip
    return Forecast(received_at=NOW, type=ForecastType(type_), blocks=(block,))


def test_a_limit_of_one_phase_binds_the_devices_that_are_connected_to_it() -> None:
    messages = [said("ONE", 10), said("ONE", 5, "GENERATION"), said("TWO", 16)]
    limits = phase_limits(messages, at=NOW, provider_online=True, terms=Terms())
    assert {p: (one.import_w, one.export_w) for p, one in limits.items()} == {
        Phase.ONE: (2300, 1150), Phase.TWO: (3680, None),
    }  # fmt: skip
    there = Phases(limits=limits)
    charge = envelope(max_w=100_000, optimum_w=9000)
    assert steer(on("a", "ONE"), held=charge, phases=there) == {"a": -2300}
    assert steer(on("a", "THREE"), held=charge, phases=there) == {"a": -3300}
    assert steer(battery("a"), held=charge, phases=there) == {"a": -3300}, "on all three"
    assert steer(on("a", "ONE"), on("b", "ONE"), held=charge, phases=there) == {
        "a": -1150, "b": -1150,
    }  # fmt: skip
    assert steer(on("a", "ONE"), held=charge, phases=there, watts=Decimal(3000)) == {"a": -1300}
    export = envelope(min_w=-100_000, optimum_w=-9000)
    assert steer(on("a", "ONE"), held=export, phases=there) == {"a": 1150}
    assert steer(on("a", "ONE", "TWO"), held=charge, phases=there) == {"a": -3300}


def test_a_limit_of_one_phase_asks_nothing_of_devices_on_others() -> None:
    messages = [said("ONE", 10)]
    ask: dict[str, Any] = {"at": NOW, "provider_online": True, "terms": Terms()}
    limits = phase_limits(messages, **ask)
    there = Phases(limits=limits, sum_w=limits_of_sum(messages, **ask))
    held, load = envelope(max_w=6900), Decimal(9000)
    both = (on("a", "ONE"), on("b", "TWO"))
    assert steer(*both, held=held, phases=there, watts=load) == {"a": 2100, "b": 0}
    assert steer(on("b", "TWO"), held=held, phases=there, watts=load) == {"b": 0}
    tight = replace(there, sum_w=(None, 6000))
    assert steer(*both, held=envelope(max_w=6000), phases=tight, watts=load) == {
        "a": 3000, "b": 0,
    }  # fmt: skip
    tighter = replace(there, sum_w=(None, 5000))
    assert steer(*both, held=envelope(max_w=5000), phases=tighter, watts=load) == {
        "a": 3300, "b": 700,
    }  # fmt: skip


def test_a_tier_shares_by_headroom_and_spills_to_the_next() -> None:
    devices = [battery("a"), battery("b"), replace(battery("c"), priority=2)]
    held = envelope(max_w=0)
    found = steer(*devices, held=held, watts=Decimal(3001))
    assert found == {"a": 1501, "b": 1500, "c": 0}
    assert steer(*devices, held=held, watts=Decimal(7000)) == {"a": 3300, "b": 3300, "c": 400}


def test_small_changes_are_left_unless_a_limit_breaks() -> None:
    running = [battery("a", told=1000), battery("b", told=1000)]
    held = envelope(max_w=1000)
    assert steer(*running, held=held, watts=Decimal(2950)) == {"a": 1000, "b": 1000}
    assert steer(*running, held=held, watts=Decimal(3002)) == {"a": 1001, "b": 1001}


def test_a_direction_is_kept_for_a_minute_unless_a_limit_needs_another() -> None:
    def turned(seconds: float) -> Steered:
        device = battery("a", told=0)
        plan = {"direction": 1, "direction_at": (NOW - timedelta(seconds=seconds)).timestamp()}
        return replace(device, state=replace(device.state, plan=plan))

    wish = envelope(max_w=9000, optimum_w=800)
    assert steer(turned(59), held=wish) == {"a": 0}, "though it rests by now"
    assert steer(turned(60), held=wish) == {"a": -800}
    assert steer(turned(59), held=envelope(min_w=0), watts=Decimal(-800)) == {"a": -800}
