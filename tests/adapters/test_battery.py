"""A battery is read, told, verified and given back, against the simulator over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from adapters.rig import Hands, Remembering, wired

from fpd.adapters.battery import Battery as Adapter
from fpd.adapters.battery_keys import BatteryDevice, cautions
from fpd.adapters.device import (
    Excluded,
    Profile,
    Release,
    Result,
    Setpoint,
    Stopped,
    Unreachable,
    Wiring,
)
from fpd.sim.battery import Battery, BatteryOptions
from fpd.sim.journal import Filter


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def wiring(clock: Hands) -> AsyncIterator[Wiring]:
    async with wired(clock) as wiring:
        yield wiring


@pytest.fixture
async def old(clock: Hands) -> AsyncIterator[Battery]:
    simulator = Battery(BatteryOptions(api="v1"), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def new(clock: Hands) -> AsyncIterator[Battery]:
    simulator = Battery(BatteryOptions(api="v2", auth_token="secret"), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


def battery(simulator: Battery, wiring: Wiring, **settings: Any) -> Remembering:
    device = BatteryDevice(
        name="cellar",
        type="battery",
        base_url=simulator.url,
        api=settings.pop("api", "v1"),
        capacity_wh=10_000,
        max_charge_w=3300,
        max_discharge_w=3300,
        **settings,
    )
    return Remembering(Adapter(device, wiring))


def writes(simulator: Battery) -> list[str]:
    return [
        f"{entry.method} {entry.path}"
        for entry in simulator.journal.find(Filter())
        if entry.method != "GET"
    ]


async def test_a_status_is_read_with_its_signs(old: Battery, wiring: Wiring) -> None:
    old.switch({"consumption_w": 4200, "production_w": 700})
    reading = await battery(old, wiring).read()
    assert reading.dispatchable
    assert (reading.output_w, reading.soc) == (-5, 50)
    (sample,) = reading.samples
    assert sample.instantaneous == {
        "watts": -5,
        "soc": 50,
        "consumption": 4200,
        "production": 700,
        "gridWatts": 4200 - 700 + 5,
        "frequency": 50.01,
        "voltage": 231,
    }


@pytest.mark.parametrize("form", ["int", "string", "bare"])
async def test_every_spelling_of_success_is_understood(
    old: Battery, wiring: Wiring, form: str
) -> None:
    old.switch({"return_code_form": form, "blank_key": True})
    device = battery(old, wiring)
    await device.read()
    assert (await device.apply(Setpoint(power_w=1200))).result is Result.ACCEPTED
    assert writes(old) == ["PUT /api/v1/setpoint/discharge/1200"]


async def test_a_setpoint_counts_only_once_the_status_shows_it(
    old: Battery, wiring: Wiring, clock: Hands
) -> None:
    device = battery(old, wiring)
    discharge = Setpoint(power_w=1200)
    await device.apply(discharge)
    assert not device.shows(discharge, await device.read())
    clock.move(seconds=2)
    assert device.shows(discharge, await device.read())
    old.switch({"derated_w": 1000})
    assert not device.shows(discharge, await device.read())


async def test_the_direction_changes_through_zero(old: Battery, wiring: Wiring) -> None:
    device = battery(old, wiring)
    await device.apply(Setpoint(power_w=-800))
    await device.apply(Setpoint(power_w=500))
    await device.apply(Setpoint(power_w=0))
    assert writes(old) == [
        "PUT /api/v1/setpoint/charge/800",
        "PUT /api/v1/setpoint/charge/0",
        "PUT /api/v1/setpoint/discharge/500",
        "PUT /api/v1/setpoint/charge/0",
        "PUT /api/v1/setpoint/discharge/0",
    ]


async def test_an_internal_error_is_tried_three_times_again(old: Battery, wiring: Wiring) -> None:
    old.switch(
        {
            "answer_status": {
                "status": 200,
                "path": "setpoint",
                "times": 1,
                "body": {"ReturnCode": 13},
            }
        }
    )
    device = battery(old, wiring)
    assert (await device.apply(Setpoint(power_w=300))).result is Result.ACCEPTED
    assert len(writes(old)) == 2


@pytest.mark.parametrize("code", [5, 16])
async def test_a_return_code_that_cannot_mend_itself_stops_the_device(
    old: Battery, wiring: Wiring, code: int
) -> None:
    old.switch({"return_code": code})
    with pytest.raises(Stopped, match=f"return code {code}"):
        await battery(old, wiring).apply(Setpoint(power_w=300))
    assert len(writes(old)) == 1


@pytest.mark.parametrize(
    ("quirk", "trouble"),
    [
        ({"not_installed": True}, "not installed"),
        ({"off": True}, "not running"),
    ],
)
async def test_a_battery_that_cannot_follow_says_why(
    old: Battery, wiring: Wiring, quirk: dict[str, Any], trouble: str
) -> None:
    old.switch(quirk)
    reading = await battery(old, wiring).read()
    assert not reading.dispatchable
    assert trouble in (reading.detail or "")


@pytest.mark.parametrize(
    "quirk",
    [
        {"missing": ["USOC", "Pac_total_W", "Timestamp"]},
        {"status_return_code": 13},
        {"answer_status": {"status": 200, "body": "<html>maintenance</html>"}},
        {"answer_status": {"status": 500}},
        {"answer_status": {"status": 200, "body": [[[]]]}},
        {"answer_status": {"status": 307, "headers": {"Location": "/api/v1/status"}}},
        {"drop": True},
    ],
)
async def test_a_status_that_is_none_is_no_reading(
    old: Battery, wiring: Wiring, quirk: dict[str, Any]
) -> None:
    old.switch(quirk)
    with pytest.raises(Unreachable):
        await battery(old, wiring).read()


async def test_a_clock_that_stands_still_is_noticed(
    old: Battery, wiring: Wiring, clock: Hands
) -> None:
    device = battery(old, wiring, stale_after_s=60)
    old.switch({"frozen": True})
    assert (await device.read()).dispatchable
    clock.move(seconds=61)
    assert "stood still" in ((await device.read()).detail or "")
    old.switch({"frozen": False})
    assert (await device.read()).dispatchable


async def test_v2_takes_control_in_manual_mode_and_gives_it_back(
    new: Battery, wiring: Wiring, clock: Hands
) -> None:
    device = battery(new, wiring, api="v2", token="secret")
    assert (await device.read()).dispatchable
    await device.apply(Setpoint(power_w=900))
    await device.apply(Setpoint(power_w=950))
    clock.move(seconds=2)
    assert device.shows(Setpoint(power_w=950), await device.read())
    assert (await device.apply(Release())).result is Result.CONFIRMED
    assert new.state()["mode"] == "2"
    assert writes(new) == [
        "PUT /api/v2/configurations",
        "POST /api/v2/setpoint/discharge/0",
        "POST /api/v2/setpoint/charge/0",
        "POST /api/v2/setpoint/discharge/900",
        "POST /api/v2/setpoint/discharge/950",
        "POST /api/v2/setpoint/charge/0",
        "POST /api/v2/setpoint/discharge/0",
        "PUT /api/v2/configurations",
    ]
    assert new.journal.find(Filter(invalid=True)) == []


async def test_v2_remembers_the_owners_mode_across_a_restart(
    new: Battery, wiring: Wiring, clock: Hands
) -> None:
    await wiring.session.put(
        f"{new.url}/api/v2/configurations",
        json={"EM_OperatingMode": "10"},
        headers={"Auth-Token": "secret"},
    )
    device = battery(new, wiring, api="v2", token="secret")
    await device.read()
    await device.apply(Setpoint(power_w=900))
    reborn = Remembering(battery(new, wiring, api="v2", token="secret").device, device.memory)
    await reborn.read()
    await reborn.apply(Release())
    assert new.state()["mode"] == "10"


async def test_v2_under_a_virtual_power_plant_is_not_ours(new: Battery, wiring: Wiring) -> None:
    new.switch({"vpp": True})
    with pytest.raises(Excluded, match="VPP has priority"):
        await battery(new, wiring, api="v2", token="secret").apply(Setpoint(power_w=100))


@pytest.mark.parametrize("old_firmware", [False, True])
async def test_v2_with_a_wrong_token_is_not_written_to(
    new: Battery, wiring: Wiring, old_firmware: bool
) -> None:
    new.switch({"old_firmware": old_firmware})
    device = battery(new, wiring, api="v2", token="wrong")
    reading = await device.read()
    assert not reading.dispatchable
    assert "token" in (reading.detail or "")
    with pytest.raises(Stopped):
        await device.apply(Setpoint(power_w=100))
    assert writes(new) == []


async def test_a_battery_follows_no_profile(old: Battery, wiring: Wiring) -> None:
    with pytest.raises(Stopped):
        await battery(old, wiring).apply(Profile(points=((0, 1500), (671, 1500))))


@pytest.mark.parametrize("quirk", [{"missing": ["USOC"]}, {"null": ["Pac_total_W"]}])
async def test_what_a_status_lacks_is_borne_for_a_minute(
    old: Battery, wiring: Wiring, clock: Hands, quirk: dict[str, Any]
) -> None:
    device = battery(old, wiring)
    assert (await device.read()).dispatchable
    old.switch(quirk)
    clock.move(seconds=60)
    with pytest.raises(Unreachable, match="lacks"):
        await device.read()
    clock.move(seconds=1)
    reading = await device.read()
    assert not reading.dispatchable
    assert "lacks" in (reading.detail or "")


@pytest.mark.parametrize(("off_s", "fit"), [(3600, True), (-900, True), (299, True), (420, False)])
async def test_a_clock_in_another_zone_is_no_fault_and_a_wrong_one_is(
    old: Battery, wiring: Wiring, off_s: float, fit: bool
) -> None:
    old.switch({"clock_off_s": off_s})
    reading = await battery(old, wiring).read()
    assert reading.dispatchable is fit
    assert fit or "off by 420 s" in (reading.detail or "")


async def test_a_battery_that_gives_less_is_asked_for_less_for_a_while(
    old: Battery, wiring: Wiring, clock: Hands
) -> None:
    device = battery(old, wiring)
    await device.read()
    await device.apply(Setpoint(power_w=3000))
    old.switch({"derated_w": 1000})
    clock.move(seconds=10)
    for _ in range(3):
        assert (await device.read()).most_w is None, "it may still be on its way"
        clock.move(seconds=10)
    reading = await device.read()
    assert (reading.most_w, reading.least_w) == (1000, None)
    assert device.shows(Setpoint(power_w=3000), reading), "it does what it can"
    await device.apply(Setpoint(power_w=1000))
    clock.move(minutes=14)
    assert (await device.read()).most_w == 1000
    clock.move(minutes=2)
    assert (await device.read()).most_w is None, "tried again"
    await device.apply(Setpoint(power_w=-3000))
    clock.move(seconds=20)
    assert [(await device.read()).least_w for _ in range(3)] == [None, None, -1000]


async def test_a_battery_that_may_not_discharge_is_only_charged(
    new: Battery, wiring: Wiring
) -> None:
    new.switch({"no_discharge": True})
    reading = await battery(new, wiring, api="v2", token="secret").read()
    assert (reading.least_w, reading.most_w) == (-3300, 0)


@pytest.mark.parametrize(("api", "token"), [("v1", None), ("v2", "secret"), ("both", "secret")])
async def test_the_interface_is_found_out(
    wiring: Wiring, clock: Hands, api: Any, token: str | None
) -> None:
    simulator = Battery(BatteryOptions(api=api, auth_token="secret"), clock=clock)
    await simulator.start()
    try:
        device = battery(simulator, wiring, api="auto", token=token)
        assert (await device.read()).dispatchable
        await device.apply(Setpoint(power_w=1200))
        clock.move(seconds=2)
        assert device.shows(Setpoint(power_w=1200), await device.read())
        version = "v1" if api == "v1" else "v2"
        assert all(f"/api/{version}/" in written for written in writes(simulator))
        await device.apply(Release())
        clock.move(seconds=2)
        assert simulator.state()["pac_w"] == -5
    finally:
        await simulator.stop()


async def test_manual_mode_that_was_left_behind_is_given_back_and_an_owners_choice_is_not(
    new: Battery, wiring: Wiring
) -> None:
    async def set_mode(mode: str) -> None:
        await wiring.session.put(
            f"{new.url}/api/v2/configurations",
            json={"EM_OperatingMode": mode},
            headers={"Auth-Token": "secret"},
        )

    await set_mode("1")
    device = battery(new, wiring, api="v2", token="secret")
    assert not device.shows(Release(), await device.read()), "somebody has to let it go"
    await device.apply(Release())
    assert new.state()["mode"] == "2"
    await device.read()
    await device.apply(Setpoint(power_w=500))
    await set_mode("10")
    await device.apply(Release())
    assert new.state()["mode"] == "10", "chosen since"


async def test_at_rest_it_may_stand_still(new: Battery, wiring: Wiring, clock: Hands) -> None:
    device = battery(new, wiring, api="v2", token="secret", rest="idle")
    await device.read()
    await device.apply(Setpoint(power_w=500))
    await device.apply(Release())
    clock.move(seconds=2)
    state = new.state()
    assert (state["mode"], state["pac_w"]) == ("1", -5)
    assert device.shows(Release(), await device.read())


def test_the_operator_is_told_what_a_battery_cannot_do_for_itself() -> None:
    common = {"name": "b", "type": "battery", "base_url": "http://b", "capacity_wh": 1,
              "max_charge_w": 1, "max_discharge_w": 1}  # fmt: skip
    (caution,) = cautions(BatteryDevice(**common))
    assert "fpd release --after-stop" in caution
    (caution,) = cautions(BatteryDevice(**common, api="v2", token="t"))
    assert "in manual mode" in caution and "ExecStopPost" in caution


async def test_what_its_inverter_says_of_itself_bounds_what_it_is_told(
    clock: Hands, wiring: Wiring
) -> None:
    small = Battery(
        BatteryOptions(api="v2", auth_token="secret", max_discharge_w=2000.0), clock=clock
    )
    await small.start()
    reading = await battery(small, wiring, api="v2", token="secret").read()
    assert (reading.least_w, reading.most_w) == (-2000, 2000)
    await small.stop()


async def test_values_that_contradict_each_other_are_told(new: Battery, wiring: Wiring) -> None:
    device = battery(new, wiring, api="v2", token="secret")
    assert [(await device.read()).notice for _ in range(3)] == [None] * 3
    crooked = {
        "Pac_total_W": 0, "USOC": 60, "Timestamp": "2025-03-12 06:00:00", "Fac": 50, "Uac": 230,
        "Consumption_W": 3000, "Production_W": 0, "GridFeedIn_W": -2100,
    }  # fmt: skip
    new.switch({"answer_status": {"status": 200, "path": "status", "body": crooked}})
    notices = [(await device.read()).notice for _ in range(3)]
    assert notices[:2] == [None, None]
    assert "do not add up by -900 W" in str(notices[2])
