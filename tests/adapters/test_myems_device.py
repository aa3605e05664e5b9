"""A device behind MyEMS is told, verified by its point and given back, whatever MyEMS claims."""

from __future__ import annotations

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from adapters.myems_server import OFFSET, Bench, bench
from adapters.rig import Remembering

from fpd.adapters.device import (
    Profile,
    Reading,
    Release,
    Result,
    Setpoint,
    Stopped,
    Unreachable,
)
from fpd.adapters.myems import MyemsDevice as Adapter
from fpd.adapters.myems_keys import TOGETHER, MyemsDevice
from fpd.errors import Unavailable

CHARGE_20_KW, DISCHARGE_25_KW = Setpoint(power_w=-20_000), Setpoint(power_w=25_480)


@pytest.fixture
async def at() -> AsyncIterator[Bench]:
    async with bench(interval_s=5.0, history_h=0.2) as made:
        yield made


def device(at: Bench, **settings: Any) -> Remembering:
    account = {"api_key": "fpd-key", "username": "administrator", "password": "!MyEMS1"}
    known: dict[str, Any] = {
        "capacity_wh": 200_000,
        "max_charge_w": 100_000,
        "max_discharge_w": 100_000,
        "command_id": 1,
        "point_id": 14,
        "soc_point_id": 13,
        "utc_offset": OFFSET,
    }
    config = MyemsDevice(
        name="battery", type="myems", base_url=at.sim.url, **(account | known | settings)
    )
    return Remembering(Adapter(config, at.wiring))


def sent(at: Bench) -> list[str]:
    return [one["payload"] for one in at.sim.state()["published"]]


@pytest.mark.parametrize("settings", [{}, {"meter_id": 6}])
async def test_the_loop_is_closed_by_the_point(at: Bench, settings: dict[str, int]) -> None:
    battery = device(at, **settings)
    reading = await battery.read()
    assert reading.dispatchable and (reading.output_w, reading.soc) == (0, 55)
    assert (await battery.apply(DISCHARGE_25_KW)).result is Result.ACCEPTED
    assert sent(at) == ['{"device":"battery","set_value":-25.5}']
    assert not battery.shows(DISCHARGE_25_KW, reading)
    at.clock.move(seconds=10)
    reading = await battery.read()
    assert reading.output_w == 25_500 and battery.shows(DISCHARGE_25_KW, reading)
    (sample,) = reading.samples
    assert sample.instantaneous["watts"] == 25_500
    await battery.apply(CHARGE_20_KW)
    at.clock.move(seconds=10)
    assert battery.shows(CHARGE_20_KW, await battery.read())
    assert not battery.shows(Release(), await battery.read())
    await battery.apply(Release())
    at.clock.move(seconds=10)
    assert battery.shows(Release(), await battery.read())
    assert sent(at)[-1] == '{"device":"battery","set_value":0}'
    at.sim.plant.battery_kw = 30  # by its owner
    at.clock.move(seconds=10)
    assert battery.shows(Release(), await battery.read())


async def test_what_its_owner_does_before_us_is_left_alone(at: Bench) -> None:
    at.sim.plant.battery_kw = 30
    at.clock.move(seconds=10)
    battery = device(at)
    assert battery.shows(Release(), await battery.read())


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"command_unit": "W", "command_step": 10.0}, "-25480"),
        ({"command_positive": "discharge"}, "25.5"),
        ({"command_step": 0.5}, "-25.5"),
        ({"command_step": 2.0}, "-26"),
        ({"max_discharge_w": 9_000}, "-9"),
    ],
)
async def test_values_have_the_commands_unit_sign_step_and_bounds(
    at: Bench, settings: dict[str, Any], value: str
) -> None:
    await device(at, **settings).apply(DISCHARGE_25_KW)
    assert sent(at) == [f'{{"device":"battery","set_value":{value}}}']


@pytest.mark.parametrize(
    "quirks", [{"broker": "refuses"}, {"ignores_commands": True}, {"clamp_kw": 5}]
)
async def test_success_without_change_is_no_confirmation(at: Bench, quirks: Any) -> None:
    at.sim.switch(quirks)
    battery = device(at)
    assert (await battery.apply(DISCHARGE_25_KW)).result is Result.ACCEPTED
    at.clock.move(seconds=30)
    assert not battery.shows(DISCHARGE_25_KW, await battery.read())


@pytest.mark.parametrize("quirks", [{"broker": "down"}, {"swallows": ["/send"]}])
async def test_a_value_that_was_not_sent_is_sent_again(at: Bench, quirks: Any) -> None:
    at.sim.switch(quirks)
    battery = device(at)
    with pytest.raises(Unreachable):
        await battery.apply(CHARGE_20_KW)
    at.sim.switch(None)
    await battery.apply(CHARGE_20_KW)
    assert sent(at) == ['{"device":"battery","set_value":20}']


async def test_a_server_that_was_restarted_in_between_needs_a_new_login(at: Bench) -> None:
    battery = device(at)
    await battery.apply(CHARGE_20_KW)
    at.sim.accounts.end_sessions(forget=True)
    at.clock.move(seconds=10)
    assert battery.shows(CHARGE_20_KW, await battery.read())
    await battery.apply(Release())
    assert at.sim.accounts.logins == 2


@pytest.mark.parametrize("version", ["3.4.0", "3.12.9"])
async def test_old_servers_are_never_sent_a_0(at: Bench, version: str) -> None:
    at.sim.switch({"version": version})
    battery = device(at)
    reading = await battery.read()
    assert not reading.dispatchable and "before 4.0" in (reading.detail or "")
    with pytest.raises(Stopped, match="stored value"):
        await battery.apply(Release())
    other = device(at, neutral=0.5)
    assert (await other.read()).dispatchable
    await other.apply(Release())
    with pytest.raises(Stopped):
        await other.apply(Setpoint(power_w=0))
    assert sent(at) == ['{"device":"battery","set_value":0.5}']


async def test_what_the_simulator_makes_of_a_0_then(at: Bench) -> None:
    """The real fault, without what keeps us from it."""
    at.sim.switch({"version": "3.4.0"})
    zero = b'{"data": {"set_value": 0}}'
    await at.client(admin=True).call("PUT", "/commands/1/send", zero)
    at.sim.site.commands[1].set_value = None
    await at.client(admin=True).call("PUT", "/commands/1/send", zero)
    with pytest.raises(Stopped, match="stored value"):
        await at.client(admin=True).send(1, Decimal(0))
    assert sent(at) == [
        '{"device":"battery","set_value":0.0}',
        '{"device":"battery","set_value":$s1}',
    ]


async def test_straight_over_mqtt_it_is_the_commands_own_message(at: Bench) -> None:
    said: list[tuple[str, bytes]] = []

    async def publish(topic: str, payload: bytes) -> None:
        said.append((topic, payload))

    at.wiring.publish = publish
    at.sim.switch({"version": "3.4.0"})
    battery = device(at, via="mqtt", username=None, password=None)
    assert (await battery.read()).dispatchable
    await battery.apply(Release())
    await battery.apply(DISCHARGE_25_KW)
    assert said == [
        ("myems/command/battery", b'{"device":"battery","set_value":0}'),
        ("myems/command/battery", b'{"device":"battery","set_value":-25.5}'),
    ]
    assert at.sim.accounts.logins == 0


async def test_without_broker_or_with_a_wildcard_nothing_is_published(at: Bench) -> None:
    async def publish(topic: str, payload: bytes) -> None:
        raise Unavailable("the MQTT broker is away")

    at.wiring.publish = publish
    with pytest.raises(Unreachable, match="away"):
        await device(at, via="mqtt").apply(Release())
    with pytest.raises(Stopped, match="nothing can be published"):
        await device(at, via="mqtt", command_id=6).apply(Release())


@pytest.mark.parametrize(
    ("command_id", "reason"), [(3, "takes no value"), (5, "cannot be filled in")]
)
async def test_a_command_that_takes_no_value_is_noticed_at_once(
    at: Bench, command_id: int, reason: str
) -> None:
    at.sim.site.commands[5].payload = '{"v":$s1,"w":$unknown}'
    reading = await device(at, command_id=command_id).read()
    assert not reading.dispatchable and reason in (reading.detail or "")


async def test_a_payload_that_was_edited_is_told(
    at: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    battery = device(at)
    await battery.read()
    at.sim.site.commands[1].payload = '{"device":"bluegen","set_value":$s1}'
    at.clock.move(seconds=61)
    await battery.read()
    assert "myems.command_changed" in capsys.readouterr().out


@pytest.mark.parametrize("settings", [{}, {"meter_id": 6}])
async def test_a_point_that_falls_silent_is_not_trusted(
    at: Bench, settings: dict[str, int]
) -> None:
    battery = device(at, **settings)
    before = await battery.read()
    at.sim.switch({"absent_once": 14} if not settings else {"acquisition_stopped": True})
    at.clock.move(seconds=5)
    reading = await battery.read()
    assert reading.dispatchable and reading.at == before.at
    at.sim.switch({"absent": [14], "acquisition_stopped": bool(settings)})
    at.clock.move(minutes=3)
    reading = await battery.read()
    assert not reading.dispatchable and "has no value since" in (reading.detail or "")
    assert reading.samples == () or settings


async def test_a_stored_default_that_is_gone_does_not_matter(at: Bench) -> None:
    await at.client(admin=True).call("PUT", "/commands/1/send", b'{"data": {}}')
    assert (await at.client().command(1)).set_value is None
    battery = device(at)
    assert (await battery.read()).dispatchable
    await battery.apply(CHARGE_20_KW)
    assert sent(at)[-1] == '{"device":"battery","set_value":20}'


@pytest.mark.parametrize("account", [True, False])
async def test_with_a_wrong_offset_it_can_be_given_back_and_no_more(
    at: Bench, account: bool
) -> None:
    battery = device(at, meter_id=6)
    await battery.apply(CHARGE_20_KW)
    at.sim.switch({"utc_offset": "+09:30"})
    at.clock.move(hours=1 if account else 0, seconds=10)
    reading = await battery.read()
    assert not reading.dispatchable and "utc_offset" in (reading.detail or "")
    assert (reading.output_w, reading.soc) == (-20_000, pytest.approx(55, abs=15))
    await battery.apply(Release())
    at.clock.move(seconds=10)
    assert battery.shows(Release(), await battery.read())


CHARGER: dict[str, Any] = {
    "capacity_wh": 0, "rest_w": -22_000, "max_charge_w": 22_000, "max_discharge_w": 0,
    "at_most": True, "soc_point_id": None,
}  # fmt: skip


async def test_a_charger_is_limited_and_may_do_less(at: Bench) -> None:
    """The simulated battery stands in for one: `takes` is what the car wants within the limit."""
    charger = device(at, **CHARGER)

    async def takes(kw: float) -> Reading:
        at.sim.plant.battery_kw, at.sim.plant._ordered = kw, []
        at.clock.move(seconds=10)
        return await charger.read()

    def told() -> str:
        return sent(at)[-1].rsplit(":")[-1]

    assert (await takes(7.4)).least_w == -7_400, "it can be made to take no more"
    await charger.apply(Setpoint(power_w=-7_400))
    assert told() == "22}", "that is no limit: it may take more when it wants to"
    reading = await takes(11)
    assert charger.shows(Setpoint(power_w=-7_400), reading) and reading.least_w == -11_000
    low = Setpoint(power_w=-3_000)
    await charger.apply(low)
    assert told() == "3}" and not charger.shows(low, reading)
    reading = await takes(3)
    assert charger.shows(low, reading) and reading.least_w == -11_000, "it would take more"
    reading = await takes(1)
    assert charger.shows(low, reading) and reading.least_w == -1_000
    await charger.apply(Release())
    assert told() == "22}", "let go is not: stopped"
    assert charger.shows(Release(), await takes(22))


async def test_a_generator_goes_back_to_what_it_does_by_itself(at: Bench) -> None:
    cell = device(
        at, capacity_wh=0, rest_w=1500, max_charge_w=0, max_discharge_w=1500, command_id=2,
        point_id=18, command_unit="W", command_positive="discharge", command_step=1.0,
        point_unit="W", point_positive="discharge", soc_point_id=None,
    )  # fmt: skip
    low = Setpoint(power_w=600)
    await cell.apply(low)
    at.clock.move(seconds=10)
    assert cell.shows(low, await cell.read())
    await cell.apply(Release())
    assert not cell.shows(Release(), await cell.read())
    at.clock.move(seconds=10)
    assert cell.shows(Release(), await cell.read())
    assert [one.rsplit(":")[-1] for one in sent(at)] == ["600}", "1500}"]


def test_what_stores_has_a_capacity_and_what_does_not_a_rest() -> None:
    known = {"url": "http://x", "command_id": 1, "max_charge_w": 22_000, "max_discharge_w": 0}
    broken = {
        rule.expected
        for more in ({"capacity_wh": 0, "rest_w": None}, {"capacity_wh": 5, "rest_w": -1})
        for rule in TOGETHER
        if rule.keys <= {*known, "rest_w", "capacity_wh"} and not rule.hold(known | more)
    }
    assert broken == {"a capacity_wh of what stores, or a rest_w of what does not"}
    within = next(rule for rule in TOGETHER if "rest_w from" in rule.expected)
    assert not within.hold(known | {"rest_w": 5}) and within.hold(known | {"rest_w": -5})


async def test_where_the_key_has_expired_the_account_reads_on(at: Bench) -> None:
    battery = device(at)
    await battery.apply(CHARGE_20_KW)
    at.sim.switch({"api_key_expired": True})
    at.clock.move(seconds=10)
    reading = await battery.read()
    assert battery.shows(CHARGE_20_KW, reading) and "key has expired" in (reading.notice or "")
    await battery.apply(Release())
    at.sim.switch(None)
    at.clock.move(minutes=6)
    assert (await battery.read()).notice is None, "a renewed key is taken up again"


async def test_few_requests_are_enough_to_look(at: Bench) -> None:
    battery = device(at, meter_id=6)
    await battery.read()
    at.sim.journal.clear()
    assert (await battery.read()).soc is not None
    assert [path.partition("?")[0] for path in at.asked("")] == ["/reports/meterrealtime"]


async def test_profiles_are_not_for_it(at: Bench) -> None:
    with pytest.raises(Stopped, match="setpoints"):
        await device(at).apply(Profile(points=()))
