"""A device behind Reengen is told what its point lists, and believed when a point shows it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from adapters.rig import Hands, Remembering, wired
from adapters.tenant import asked, methods, simulated

from fpd.adapters.device import Profile, Release, Result, Setpoint, Stopped, Unreachable, Wiring
from fpd.adapters.reengen import Reengen as Adapter
from fpd.adapters.reengen_keys import Option, ReengenDevice, ability
from fpd.domain.control.ability import Storage
from fpd.sim.reengen import Reengen

SWITCH = (Option(code="false", power_w=0), Option(code="true", power_w=-2400))


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def platform(clock: Hands) -> AsyncIterator[Reengen]:
    async with simulated(clock, period_s=60, irregular=False) as simulator:
        yield simulator


@pytest.fixture
async def wiring(clock: Hands) -> AsyncIterator[Wiring]:
    async with wired(clock) as wiring:
        yield wiring


def device(simulator: Reengen, wiring: Wiring, **keys: Any) -> Remembering:
    given = {
        "name": "store",
        "type": "reengen",
        "base_url": f"{simulator.url}/api/do/",
        "tenant": "demo",
        "user": "demo",
        "password": "demo",
        "min_interval_s": 0,
        "timeout_s": 5,
        "point": "xFabrikaDepo",
        "command": "power-set",
        "confirm": "xFabrikaDepo",
        "least_w": -3000,
        "most_w": 3000,
    }
    made = Remembering(Adapter(ReengenDevice(**given | keys), wiring))
    for door in wiring.tenants.values():
        door.retry_after_s = 0.01
    return made


async def test_a_setpoint_is_sent_and_shown_by_the_point(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring)
    before = await store.read()
    assert before.dispatchable and before.output_w == 0
    told = Setpoint(power_w=1500)
    assert (await store.apply(told)).result is Result.ACCEPTED
    assert asked(platform, "ExecuteCommand")[0]["properties"] == {
        "point": "xFabrikaDepo",
        "command": "power-set",
        "parameter": 1500,
    }
    # What was measured before it was told proves nothing.
    assert not store.shows(told, await store.read())
    clock.move(seconds=61)
    after = await store.read()
    assert after.output_w == 1500 and store.shows(told, after)
    assert after.samples[0].instantaneous == {"watts": 1500}


async def test_signs_and_units_are_the_commands(platform: Reengen, wiring: Wiring) -> None:
    store = device(platform, wiring, command_unit="kW", command_positive="charge", command_step=0.1)
    await store.apply(Setpoint(power_w=1550))
    await store.apply(Setpoint(power_w=-9000))
    assert [body["properties"]["parameter"] for body in asked(platform, "ExecuteCommand")] == [
        -1.5,
        3,
    ]


async def test_letting_go_sends_the_neutral_value(platform: Reengen, wiring: Wiring) -> None:
    store = device(platform, wiring)
    await store.apply(Setpoint(power_w=-700))
    outcome = await store.apply(Release())
    assert outcome.result is Result.CONFIRMED
    assert store.shows(Release(), await store.read())
    assert platform.tenant.executed[-1]["parameter"] == 0
    heater = device(platform, wiring, name="heater", most_w=0, rest_w=-3000)
    await heater.apply(Release())
    assert platform.tenant.executed[-1]["parameter"] == -3000


async def test_a_switch_never_does_more_than_it_is_told(platform: Reengen, wiring: Wiring) -> None:
    lights = device(
        platform,
        wiring,
        point="xFabrikaTrafo6",
        command="lights-on-off",
        confirm=None,
        option=SWITCH,
        least_w=-2400,
        most_w=0,
    )
    assert (await lights.read()).dispatchable
    for power_w in (-2400, -2399, 0, 500):
        outcome = await lights.apply(Setpoint(power_w=power_w))
        # No point is named: that the platform has taken it is all there is.
        assert outcome.result is Result.CONFIRMED
        assert lights.shows(Setpoint(power_w=power_w), await lights.read())
    assert [each["parameter"] for each in platform.tenant.executed] == [True, False, False, False]


async def test_an_option_is_chosen_by_its_power(platform: Reengen, wiring: Wiring) -> None:
    generator = device(
        platform,
        wiring,
        point="xFabrikaTrafo6",
        command="generator-mode-set",
        confirm=None,
        neutral="auto",
        option=(
            Option(code="off", power_w=0),
            Option(code="on", power_w=5000),
            Option(code="auto", power_w=0),
        ),
        least_w=0,
        most_w=5000,
    )
    await generator.apply(Setpoint(power_w=5000))
    await generator.apply(Setpoint(power_w=4000))
    await generator.apply(Release())
    assert [each["parameter"] for each in platform.tenant.executed] == ["on", "off", "auto"]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"command": "boil"}, "lists no command 'boil'"),
        ({"point": "xFabrikaTrafo6", "command": "lights-on-off"}, "takes a boolean"),
        ({"point": "xFabrikaTrafo6", "command": "generator-mode-set"}, "takes one of"),
        ({"command": "horn"}, "takes no parameter"),
    ],
)
async def test_what_the_point_does_not_take_is_not_sent(
    platform: Reengen, wiring: Wiring, keys: dict[str, Any], why: str
) -> None:
    wrong = device(platform, wiring, confirm=None, **keys)
    reading = await wrong.read()
    assert not reading.dispatchable and why in (reading.detail or "")
    with pytest.raises(Stopped, match=why):
        await wrong.apply(Setpoint(power_w=100))
    assert asked(platform, "ExecuteCommand") == []


async def test_a_command_that_is_not_taken_is_sent_three_times_and_left(
    platform: Reengen, wiring: Wiring
) -> None:
    store = device(platform, wiring)
    platform.switch({"fail": {"method": "ExecuteCommand"}})
    with pytest.raises(Unreachable, match=r"not taken.*connect timed out") as fault:
        await store.apply(Setpoint(power_w=100))
    assert fault.value.retry_s == 300
    assert methods(platform).count("ExecuteCommand") == 3


async def test_a_slow_command_is_no_success(platform: Reengen, wiring: Wiring) -> None:
    store = device(platform, wiring, timeout_s=0.1)
    platform.switch({"command_s": 0.3})
    with pytest.raises(Unreachable, match="not taken: no answer within"):
        await store.apply(Setpoint(power_w=100))


async def test_a_command_that_is_taken_and_ignored_is_not_believed(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring)
    platform.switch({"command_ignored": True})
    await store.apply(Setpoint(power_w=2000))
    clock.move(minutes=5)
    assert not store.shows(Setpoint(power_w=2000), await store.read())


async def test_a_point_that_shows_nothing_is_told(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring)
    platform.switch({"late_s": 3 * 3600})
    reading = await store.read()
    assert reading.output_w is None and "no power for two hours" in (reading.detail or "")
    platform.switch({"late_s": 0, "unit": "V"})
    assert "not W" in ((await store.read()).detail or "")


async def test_the_list_of_commands_is_looked_at_now_and_then(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring)
    for _ in range(3):
        await store.read()
    assert methods(platform).count("ListAvailableCommands") == 1
    clock.move(minutes=5)
    platform.tenant.commands["xFabrikaDepo"] = []
    assert "lists no command" in ((await store.read()).detail or "")


async def test_it_has_no_profile_and_says_what_it_can(platform: Reengen, wiring: Wiring) -> None:
    with pytest.raises(Stopped):
        await device(platform, wiring).apply(Profile(points=((0, 1),)))
    keys = {"tenant": "t", "user": "u", "password": "p", "point": "p", "command": "c"}
    can = ability(
        ReengenDevice(name="n", type="reengen", least_w=-3000, most_w=0, rest_w=-3000, **keys)
    )
    assert (can.least_w, can.most_w, can.rest_w) == (-3000, 0, -3000)


async def test_a_tenant_is_spoken_to_once_at_a_time(platform: Reengen, wiring: Wiring) -> None:
    first, second = device(platform, wiring), device(platform, wiring, name="other")
    await first.read()
    await second.read()
    assert len(wiring.tenants) == 1 and methods(platform).count("Authenticate") == 1


BATTERY: dict[str, Any] = {"capacity_wh": 10_000, "soc_point": "xFabrikaDepo"}


async def test_with_a_capacity_it_is_a_battery_and_a_point_shows_its_charge(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring, **BATTERY)
    reading = await store.read()
    assert reading.dispatchable and reading.soc == 50
    (sample,) = reading.samples
    assert sample.instantaneous == {"watts": 0, "soc": 50}
    meter = platform.tenant.meter(("xFabrikaDepo", "stateOfCharge", "actual", 1))
    assert meter is not None
    meter.change(12.5, clock())
    clock.move(seconds=61)
    assert (await store.read()).soc == 12.5


@pytest.mark.parametrize(
    ("keys", "value", "why"),
    [
        ({"soc_point": "xyzBesiktas"}, 50, "xyzBesiktas has shown no state of charge for two"),
        ({"stale_after_s": 1}, 50, "has shown no state of charge since"),
        ({}, 101, "101.* % is no state of charge"),
        ({"soc_definition": "activePower", "soc_variant": "phase"}, 50, "W is no state of charge"),
    ],
)
async def test_without_its_charge_a_battery_is_left_alone(
    platform: Reengen,
    wiring: Wiring,
    clock: Hands,
    keys: dict[str, Any],
    value: float,
    why: str,
) -> None:
    meter = platform.tenant.meter(("xFabrikaDepo", "stateOfCharge", "actual", 1))
    assert meter is not None
    meter.rate = value
    clock.move(seconds=30)
    reading = await device(platform, wiring, confirm=None, **BATTERY | keys).read()
    assert not reading.dispatchable and reading.soc is None
    assert reading.detail is not None and re.search(why, reading.detail)


def test_what_a_battery_can_do_follows_from_its_keys(wiring: Wiring) -> None:
    given = {"name": "b", "type": "reengen", "tenant": "t", "user": "u", "password": "p"}
    asked = {"point": "p", "command": "c", "least_w": -3000, "most_w": 2500, "deadband_w": 10}
    can = ability(ReengenDevice(**given | asked | BATTERY))
    assert isinstance(can, Storage) and can.deadband_w == 10
    assert (can.battery.max_charge_w, can.battery.max_discharge_w) == (3000, 2500)
    assert can.battery.capacity_wh == 10_000


@pytest.mark.parametrize("confirm", [None, "xFabrikaDepo"])
async def test_a_command_that_was_not_taken_is_not_confirmed_by_the_one_before(
    platform: Reengen, wiring: Wiring, clock: Hands, confirm: str | None
) -> None:
    store = device(platform, wiring, confirm=confirm)
    before, after = Setpoint(power_w=1000), Setpoint(power_w=2000)
    await store.apply(before)
    platform.switch({"fail": {"method": "ExecuteCommand", "message": "Gateway 12 is off"}})
    with pytest.raises(Unreachable, match="not taken: ExecuteCommand: Gateway 12 is off"):
        await store.apply(after)
    clock.move(seconds=61)
    reading = await store.read()
    assert store.shows(before, reading) and not store.shows(after, reading)
    assert reading.alarm == "not taken: ExecuteCommand: Gateway 12 is off"
    platform.switch(None)
    await store.apply(after)
    clock.move(seconds=61)
    reading = await store.read()
    assert store.shows(after, reading) and reading.alarm is None


async def test_a_command_that_was_taken_though_nobody_said_so_is_seen(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring)
    await store.apply(Setpoint(power_w=1000))
    platform.switch({"fail": {"method": "ExecuteCommand", "after": True}})
    with pytest.raises(Unreachable):
        await store.apply(Setpoint(power_w=2000))
    clock.move(seconds=61)
    reading = await store.read()
    assert store.shows(Setpoint(power_w=2000), reading) and reading.alarm is None


async def test_a_command_that_has_gone_is_not_sent_again(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    store = device(platform, wiring)
    await store.apply(Setpoint(power_w=1000))
    platform.tenant.commands["xFabrikaDepo"].clear()
    clock.move(seconds=60)
    with pytest.raises(Stopped, match="lists no command 'power-set'"):
        await store.apply(Setpoint(power_w=2000))
    assert methods(platform).count("ExecuteCommand") == 1


async def test_a_command_that_goes_while_it_is_sent_is_sent_once(
    platform: Reengen, wiring: Wiring
) -> None:
    store = device(platform, wiring)
    await store.read()
    platform.tenant.commands["xFabrikaDepo"].clear()
    with pytest.raises(Stopped, match="not sent again: the point lists no command 'power-set'"):
        await store.apply(Setpoint(power_w=2000))
    assert methods(platform).count("ExecuteCommand") == 1
    reading = await store.read()
    assert not reading.dispatchable and "lists no command" in (reading.detail or "")
    with pytest.raises(Stopped):
        await store.apply(Setpoint(power_w=2000))
    assert methods(platform).count("ExecuteCommand") == 1


async def test_what_is_shown_counts_whatever_is_remembered_beside_it(
    platform: Reengen, wiring: Wiring, clock: Hands
) -> None:
    """As for a daemon without its database, which remembers what it told alone."""
    store = device(platform, wiring)
    memory = (await store.apply(Setpoint(power_w=1000))).memory
    clock.move(seconds=61)
    reading = replace(await store.read(), memory=memory)
    assert store.shows(Setpoint(power_w=1000), reading)
