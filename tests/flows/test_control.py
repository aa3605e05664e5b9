"""Forecasts become what devices do: real PostgreSQL, simulated devices over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from adapters.customer import Customer
from flows.steered_house import WEDNESDAY, Hands, House, battery, fuel_cell

from fpd.flows import control
from fpd.sim.battery import Battery, BatteryOptions
from fpd.sim.bluegen import BlueGen, BlueGenOptions
from fpd.sim.journal import Filter
from fpd.store.db import Database

HOUR = timedelta(hours=1)
METER = {"nodeId": 1, "sourceId": "/site/battery", "property": "gridWatts"}
BLOCK = {"start_at": WEDNESDAY, "end_at": WEDNESDAY + HOUR}
CAP = (
    (0, 1500), (230, 1500), (231, 1000), (240, 1000), (241, 1500), (671, 1500),
)  # fmt: skip


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def db(database_url: str, clock: Hands) -> AsyncIterator[Database]:
    db = Database(database_url, clock=clock)
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def cellar(clock: Hands) -> AsyncIterator[Battery]:
    simulator = Battery(BatteryOptions(usoc=60), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
async def service(clock: Hands) -> AsyncIterator[BlueGen]:
    simulator = BlueGen(BlueGenOptions(unit=(249, 250), activation_delay_s=60), clock=clock)
    await simulator.start()
    yield simulator
    await simulator.stop()


@asynccontextmanager
async def house(db: Database, clock: Hands, *devices: Any) -> AsyncIterator[House]:
    house = House(db, clock, devices)
    try:
        yield house
    finally:
        await house.close()


def writes(simulator: Battery | BlueGen) -> list[str]:
    return [
        f"{entry.method} {entry.path}"
        for entry in simulator.journal.find(Filter())
        if entry.method != "GET" and "login" not in entry.path
    ]


def running(service: BlueGen, unit_id: int = 249) -> dict[str, Any]:
    found: dict[str, Any] = service.state()["units"][str(unit_id)]
    return found


def delivers(simulator: Battery) -> float:
    """What the battery really does, discharge positive, W."""
    return float(simulator.state()["pac_w"])


@pytest.fixture
async def customer(service: BlueGen) -> AsyncIterator[Customer]:
    async with aiohttp.ClientSession() as session:
        yield Customer(service, session)


async def test_a_generation_forecast_of_1_kw_becomes_a_profile_that_is_assigned_and_verified(
    db: Database, clock: Hands, service: BlueGen, customer: Customer
) -> None:
    own = await customer.makes_and_assigns()
    async with house(db, clock, fuel_cell(service.url)) as site:
        before = len(writes(service))
        group_id = await site.group({"cell": {}})
        ten = WEDNESDAY + 4 * HOUR
        await site.forecast(group_id, "GENERATION", 1000, start_at=ten, end_at=ten + 2 * HOUR)
        await site.look()
        state = await site.state("cell")
        assert state["health"] == "ok"
        assert state["confirmed"] == state["wanted"]
        assert tuple(map(tuple, state["confirmed"]["points"])) == CAP
        assert [outcome for _, outcome in await site.commands("cell")] == ["confirmed"]
        clock.at = ten
        await site.look()
        clock.at = ten + HOUR
        await site.look()
        assert running(service)["watts"] == 1000
        assert len(writes(service)) - before == 4, "two slots made, one written, one assigned"
        clock.at = ten + 2 * HOUR + timedelta(seconds=1)
        await site.look()
        assert running(service)["pid"] == own, "a profile repeats weekly: it must not stay"
        assert [outcome for _, outcome in await site.commands("cell")] == ["confirmed"] * 2
        assert service.journal.find(Filter(invalid=True)) == []


@pytest.mark.parametrize("then_w", [None, 5000])
async def test_a_block_that_ends_within_a_tick_is_over_when_it_ends(
    db: Database, clock: Hands, service: BlueGen, customer: Customer, then_w: int | None
) -> None:
    own = await customer.makes_and_assigns()
    async with house(db, clock, fuel_cell(service.url)) as site:
        group_id = await site.group({"cell": {}})
        ends_at = WEDNESDAY + timedelta(minutes=20)
        await site.forecast(group_id, "GENERATION", 1000, start_at=WEDNESDAY, end_at=ends_at)
        if then_w is not None:
            later = {"start_at": ends_at, "end_at": ends_at + 100 * HOUR}
            await site.forecast(group_id, "GENERATION", then_w, **later)
        await site.look()
        assert running(service)["pid"] != own
        clock.at = ends_at
        await site.look()
        assert running(service)["pid"] == own


async def test_an_import_cap_makes_the_battery_discharge_and_the_status_confirms_it(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.look()
        assert writes(cellar) == [], "nothing is limited: the battery is left to itself"
        end_at = WEDNESDAY + timedelta(minutes=10)
        await site.forecast(group_id, "CONSUMPTION", 3000, start_at=WEDNESDAY, end_at=end_at)
        await site.look()
        state = await site.state("cellar")
        assert state["wanted"] == {"kind": "setpoint", "power_w": 1200}
        assert state["told"] == state["wanted"] != state["confirmed"], "told, but not seen yet"
        await site.live(seconds=10)
        state = await site.state("cellar")
        assert state["confirmed"] == {"kind": "setpoint", "power_w": 1200}
        assert delivers(cellar) == 1200
        await site.live(seconds=120)
        assert delivers(cellar) == 1200, "the loop does not chase itself"
        assert [outcome for _, outcome in await site.commands("cellar")] == ["confirmed"]
        (reason, max_w) = await site.row(
            "select reason, max_w from envelope order by id desc limit 1"
        )
        assert (reason, max_w) == ("forecast", 3000)
        await site.live(seconds=600)
        assert delivers(cellar) == -5, "the block is over: charge/0 and discharge/0"
        assert (await site.state("cellar"))["confirmed"] == {"kind": "release"}


async def test_readings_become_datum(db: Database, clock: Hands, cellar: Battery) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        await site.look()
        await site.live(seconds=20)
        found = await site.rows(
            "select d.i from datum as d join stream as s on s.id = d.stream_id"
            " where s.source_id = 'site/battery' order by at"
        )
        assert [i["gridWatts"] for (i,) in found] == [4205, 4205, 4205]
        assert {"watts", "soc", "consumption", "production", "frequency", "voltage"} <= set(
            found[0][0]
        )
        assert writes(cellar) == [], "a device that no asset uses is read, never driven"


async def test_a_changed_load_changes_the_setpoint_and_noise_does_not(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
        await site.look()
        cellar.switch({"consumption_w": 4170})
        await site.live(seconds=20)
        assert delivers(cellar) == 1200
        cellar.switch({"consumption_w": 5000})
        await site.live(seconds=20)
        assert delivers(cellar) == 2000


async def test_a_status_without_a_state_of_charge_ends_at_rest(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        meter = {"nodeId": 1, "sourceId": "/site/main", "property": "watts"}
        await site.group({"cellar": {}}, {"meter": meter, "staticImportLimit": 3000})
        await site.live(seconds=80)
        assert delivers(cellar) == 3300
        cellar.switch({"missing": ["USOC"]})
        await site.live(seconds=50)
        assert delivers(cellar) == 3300, "the last whole status counts for a minute"
        await site.live(seconds=30)
        assert delivers(cellar) == -5
        assert (await site.state("cellar"))["detail"] == "the status lacks USOC"


async def test_to_see_the_old_setpoint_followed_does_not_put_off_the_new_one(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
        await site.look()
        clock.move(seconds=10)
        await site.forecast(group_id, "CONSUMPTION", 2500, **BLOCK)
        await site.control.step()  # its visit finds both due: a reading, and the new setpoint
        await site.settle()
        clock.move(seconds=2)
        assert delivers(cellar) == 1700


async def test_the_setpoint_is_kept_alive(db: Database, clock: Hands, cellar: Battery) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url, keepalive_s=30)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
        await site.look()
        await site.live(seconds=100)
        assert 3 <= len(writes(cellar)) <= 5
        assert len(await site.commands("cellar")) == 1, "a repetition is no new command"


async def test_the_battery_is_unplugged_mid_block_and_returns(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
        await site.look()
        await site.live(seconds=20)
        cellar.switch({"drop": True})
        await site.live(seconds=70)
        state = await site.state("cellar")
        assert state["health"] == "unavailable"
        assert delivers(cellar) == 1200, "it keeps the last setpoint for ever"
        cellar.switch({"drop": False, "consumption_w": 5000})
        await site.live(seconds=80)  # the longest wait between tries, spread by a fifth
        assert (await site.state("cellar"))["health"] == "ok"
        assert delivers(cellar) == 2000
        events = await site.rows("select kind from event order by id")
        assert [kind for (kind,) in events] == ["device.ok", "device.unavailable", "device.ok"]


async def test_a_daemon_killed_between_points_and_assign_is_healed_by_the_next(
    db: Database, database_url: str, clock: Hands, service: BlueGen, customer: Customer
) -> None:
    own = await customer.makes_and_assigns()
    doomed = Database(database_url, clock=clock)
    await doomed.open()
    first = House(doomed, clock, [fuel_cell(service.url)])
    group_id = await first.group({"cell": {}})
    await first.look()
    ten = WEDNESDAY + 4 * HOUR
    await first.forecast(group_id, "GENERATION", 1000, start_at=ten, end_at=ten + 2 * HOUR)
    service.switch({"tarpit": True, "fault_path": "/unit/249/profile/"})
    await first.control.step()
    await service.journal.wait(Filter(path="/points"))
    assign = Filter(path="/unit/249/profile/")
    await service.changes.until(lambda: bool(service.journal.find(assign)), 5)
    await first.die()
    assert running(service)["pid"] == own
    service.switch(None)
    async with house(db, clock, fuel_cell(service.url)) as second:
        assert [outcome for _, outcome in await second.commands("cell")] == [None]
        await second.look()
        assert running(service)["pid"] == own, "the lease of the dead still holds"
        await second.live(seconds=240)
        assert tuple(map(tuple, running(service)["running_points"])) == CAP
        state = await second.state("cell")
        assert state["confirmed"] == state["wanted"]
        assert [outcome for _, outcome in await second.commands("cell")] == ["confirmed"]
        assert len([w for w in writes(service) if "points" in w]) == 1, "written once"


async def test_a_service_that_hangs_delays_no_battery(
    database_url: str, clock: Hands, service: BlueGen, cellar: Battery
) -> None:
    service.switch({"tarpit": True})
    cellar.switch({"consumption_w": 4200})
    db = Database(database_url, clock=clock)
    await db.open()
    site = House(db, clock, [fuel_cell(service.url), battery(cellar.url)])
    group_id = await site.group({"cell": {}, "cellar": {}}, {"meter": METER, "marginPercent": 0})
    await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
    for _ in range(20):
        await site.devices.step()
        await site.control.step()
        await asyncio.sleep(0.02)
        clock.move(seconds=2)
    assert delivers(cellar) == 1200
    assert (await site.state("cell"))["health"] == "unknown"
    await site.die()


async def test_two_daemons_drive_one_battery_as_one(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with AsyncExitStack() as stack:
        houses = [
            await stack.enter_async_context(house(db, clock, battery(cellar.url))) for _ in range(2)
        ]
        group_id = await houses[0].group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await houses[0].forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
        for _ in range(6):
            await asyncio.gather(*(site.look() for site in houses))
            clock.move(seconds=10)
        assert delivers(cellar) == 1200
        assert len(await houses[0].commands("cellar")) == 1
        reads = [e for e in cellar.journal.find(Filter()) if e.method == "GET"]
        assert len(reads) == 6


async def test_two_batteries_share_by_priority(db: Database, clock: Hands) -> None:
    async with AsyncExitStack() as stack:
        first = Battery(BatteryOptions(usoc=60), clock=clock)
        second = Battery(BatteryOptions(usoc=60), clock=clock)
        for simulator in (first, second):
            await simulator.start()
            stack.push_async_callback(simulator.stop)
        first.switch({"consumption_w": 8000})
        devices = [
            battery(second.url, name="attic", source_id="/site/attic"),
            battery(first.url),
        ]
        site = await stack.enter_async_context(house(db, clock, *devices))
        # The first one's own meter sees neither the other battery nor a change of it.
        group_id = await site.group(
            {"attic": {"priority": 2}, "cellar": {"priority": 1}},
            {"capacityScope": "Flexible"},
        )
        await site.forecast(group_id, "OPTIMUM", 5000, **BLOCK)
        await site.look()
        await site.live(seconds=20)
        assert (delivers(first), delivers(second)) == (3300, 1700)


async def test_a_provider_that_is_offline_leaves_its_fallback_in_force(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(group_id, "CONSUMPTION", 4000, **BLOCK)
        await site.forecast(group_id, "FALLBACK_CONSUMPTION", 2500, **BLOCK)
        await site.look()
        await site.rows("update peer set link = 'offline' returning id")
        await site.live(seconds=20)
        assert delivers(cellar) == 1700
        found = await site.rows("select max_w, reason from envelope order by id")
        assert found == [(4000, "forecast"), (2500, "fallback")]


@pytest.mark.parametrize(
    ("limits", "watts"),
    [
        ({"staticImportLimit": 3000}, 3300),
        ({"staticExportLimit": 3000}, -3300),
        ({"staticImportLimit": 3000, "staticExportLimit": 3000}, -5),
    ],
)
async def test_without_a_meter_that_should_be_there_the_worst_is_assumed(
    db: Database, clock: Hands, cellar: Battery, limits: dict[str, int], watts: int
) -> None:
    meter = {"nodeId": 9, "sourceId": "silent", "property": "watts"}
    async with house(db, clock, battery(cellar.url)) as site:
        await site.group({"cellar": {}}, {"meter": meter, **limits})
        await site.look()
        await site.live(seconds=30)
        assert delivers(cellar) == -5, "after a start the meter is given a minute to be heard"
        await site.live(seconds=60)
        assert delivers(cellar) == watts
        assert "no fresh measurement" in (await site.state("cellar"))["plan"]["reason"]
        await site.live(seconds=120)
        assert delivers(cellar) == -5, "no energy is spent on a guess for ever"
        assert "the meter is lost" in (await site.state("cellar"))["plan"]["reason"]


async def test_a_battery_that_others_control_is_left_alone_for_a_while(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200, "ignores_setpoints": True})
    async with house(db, clock, battery(cellar.url, keepalive_s=3600)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(
            group_id, "CONSUMPTION", 3000, start_at=WEDNESDAY, end_at=WEDNESDAY + 4 * HOUR
        )
        await site.look()
        await site.live(seconds=180)
        state = await site.state("cellar")
        assert state["health"] == "degraded"
        assert "controlled by others?" in state["detail"]
        assert [outcome for _, outcome in await site.commands("cellar")] == ["unfollowed"]
        tries = len(writes(cellar))
        assert tries == 3
        await site.live(seconds=600)
        assert len(writes(cellar)) == tries, "no fight"
        cellar.switch({"ignores_setpoints": False})
        await site.live(seconds=400)
        assert delivers(cellar) > 1100
        assert (await site.state("cellar"))["health"] == "ok"


async def test_a_battery_that_does_not_take_a_setpoint_is_no_help_until_it_does(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(
            group_id, "CONSUMPTION", 3000, start_at=WEDNESDAY, end_at=WEDNESDAY + HOUR
        )
        await site.live(seconds=30)
        assert delivers(cellar) == 1200
        failing = {"status": 500, "path": "setpoint"}
        cellar.switch({"answer_status": failing, "consumption_w": 5000})
        await site.live(seconds=120)
        state = await site.state("cellar")
        assert (state["health"], state["attempts"]) == ("unavailable", 0), "it does not disobey"
        assert state["plan"]["over_import_w"] == 800
        cellar.switch({"answer_status": None})
        await site.live(seconds=30)
        assert delivers(cellar) == 2000
        state = await site.state("cellar")
        assert (state["health"], state["plan"]["over_import_w"]) == ("ok", 0)


async def test_a_battery_that_cannot_be_read_any_more_is_told_to_rest(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        await site.group({"cellar": {}}, {"meter": METER, "staticImportLimit": 3000})
        await site.live(seconds=30)
        assert delivers(cellar) > 1200
        cellar.switch({"status_return_code": 13})
        await site.live(seconds=50)
        assert delivers(cellar) > 1200, "it may be a moment"
        await site.live(seconds=60)
        assert delivers(cellar) == -5
        await site.live(seconds=300)
        assert all(path.endswith("/0") for path in writes(cellar)[1:])
        cellar.switch({"status_return_code": None})
        await site.live(seconds=90)
        assert delivers(cellar) > 1200


async def test_who_undoes_each_setpoint_a_moment_later_is_not_fought(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200, "foreign_w": -2000, "foreign_after_s": 20})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(
            group_id, "CONSUMPTION", 3000, start_at=WEDNESDAY, end_at=WEDNESDAY + 4 * HOUR
        )
        await site.look()
        await site.live(seconds=180)
        state = await site.state("cellar")
        assert (state["health"], state["detail"]) == (
            "degraded", "controlled by others? it no longer does what it did",
        )  # fmt: skip
        tries = len(writes(cellar))
        assert tries <= 12
        await site.live(seconds=120)
        assert len(writes(cellar)) == tries, "no fight"


async def test_a_disabled_group_gives_its_devices_back(
    db: Database, clock: Hands, cellar: Battery, service: BlueGen, customer: Customer
) -> None:
    own = await customer.makes_and_assigns()
    cellar.switch({"consumption_w": 4200})
    devices = [battery(cellar.url), fuel_cell(service.url)]
    async with house(db, clock, *devices) as site:
        group_id = await site.group(
            {"cellar": {}, "cell": {}},
            {"meter": METER, "staticImportLimit": 3000, "staticExportLimit": 1000},
        )
        await site.look()
        await site.live(seconds=20)
        assert running(service)["pid"] != own
        assert delivers(cellar) > 0
        await site.rows(
            "update capacity_group set enabled = false where id = %s returning id", group_id
        )
        await site.live(seconds=20)
        assert running(service)["pid"] == own
        assert delivers(cellar) == -5


async def test_a_device_whose_asset_is_deleted_is_given_back(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        await site.group({"cellar": {}}, {"meter": METER, "staticImportLimit": 3000})
        await site.look()
        await site.live(seconds=20)
        assert delivers(cellar) > 0
        await site.rows("delete from capacity_group returning id")
        await site.live(seconds=20)
        assert delivers(cellar) == -5


async def test_two_cells_share_an_export_limit(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    devices = [fuel_cell(service.url), fuel_cell(service.url, name="second", unit_id=250)]
    async with house(db, clock, *devices) as site:
        await site.group({"cell": {}, "second": {}}, {"staticExportLimit": 2001})
        await site.look()
        await site.live(seconds=400)
        clock.move(minutes=10)
        assert running(service, 249)["watts"] == 1001
        assert running(service, 250)["watts"] == 1000


async def test_limits_that_change_are_followed(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    async with house(db, clock, fuel_cell(service.url)) as site:
        group_id = await site.group({"cell": {}})
        await site.look()
        ten = WEDNESDAY + 4 * HOUR
        service.switch({"limits": {"maxpower": 1300}})
        await site.forecast(group_id, "GENERATION", 1000, start_at=ten, end_at=ten + HOUR)
        await site.look()
        outcomes = [outcome for _, outcome in await site.commands("cell")]
        assert outcomes == ["outdated", "confirmed"]
        assert max(power for _, power in (await site.state("cell"))["confirmed"]["points"]) == 1300


async def test_a_profile_that_somebody_else_assigns_is_replaced_once(
    db: Database, clock: Hands, service: BlueGen, customer: Customer
) -> None:
    async with house(db, clock, fuel_cell(service.url, poll_s=60)) as site:
        await site.group({"cell": {}}, {"staticExportLimit": 1000})
        await site.look()
        assert running(service)["pid"] != 0
        other = await customer.makes_and_assigns()
        await site.live(seconds=70)
        assert running(service)["pid"] != other
        await customer.assigns(other)
        await site.live(seconds=120)
        assert running(service)["pid"] == other
        assert (await site.state("cell"))["health"] == "stopped"
        assert "left to them" in (await site.state("cell"))["detail"]


async def test_a_unit_that_heats_up_will_wake_up_limited(
    db: Database, clock: Hands, service: BlueGen
) -> None:
    service.switch({"status": "Heat-up"})
    async with house(db, clock, fuel_cell(service.url)) as site:
        await site.group({"cell": {}}, {"staticExportLimit": 1000})
        await site.look()
        state = await site.state("cell")
        assert state["health"] == "degraded"
        assert "Heat-up" in state["detail"]
        clock.move(minutes=5)
        service.switch({"status": "Power Export"})
        clock.move(minutes=30)
        assert running(service)["watts"] == 1000


async def test_a_newer_battery_is_taken_in_manual_mode_and_given_back(
    db: Database, clock: Hands
) -> None:
    simulator = Battery(BatteryOptions(api="v2", auth_token="secret", usoc=60), clock=clock)
    await simulator.start()
    simulator.switch({"consumption_w": 4200})
    device = battery(simulator.url, api="v2", token="secret")
    try:
        async with house(db, clock, device) as site:
            group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
            await site.look()
            assert simulator.state()["mode"] == "2"
            end_at = WEDNESDAY + timedelta(minutes=2)
            await site.forecast(group_id, "CONSUMPTION", 3000, start_at=WEDNESDAY, end_at=end_at)
            await site.live(seconds=20)
            assert (simulator.state()["mode"], delivers(simulator)) == ("1", 1200)
            await site.live(seconds=120)
            assert simulator.state()["mode"] == "2"
            assert (await site.state("cellar"))["confirmed"] == {"kind": "release"}
            assert simulator.journal.find(Filter(invalid=True)) == []
    finally:
        await simulator.stop()


async def test_a_battery_under_a_virtual_power_plant_is_not_hammered(
    db: Database, clock: Hands
) -> None:
    simulator = Battery(BatteryOptions(api="v2", auth_token="secret", usoc=60), clock=clock)
    await simulator.start()
    simulator.switch({"consumption_w": 4200, "vpp": True})
    device = battery(simulator.url, api="v2", token="secret")
    try:
        async with house(db, clock, device) as site:
            group_id = await site.group({"cellar": {}}, {"meter": METER})
            await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
            await site.live(seconds=300)
            state = await site.state("cellar")
            assert (state["health"], state["detail"]) == ("degraded", "VPP has priority")
            assert len(writes(simulator)) == 1
            assert [outcome for _, outcome in await site.commands("cellar")] == ["refused"]
            simulator.switch({"vpp": False})
            await site.live(seconds=720)
            assert delivers(simulator) > 1200
    finally:
        await simulator.stop()


async def test_a_lost_decision_loop_lets_the_battery_go(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    cellar.switch({"consumption_w": 4200})
    async with house(db, clock, battery(cellar.url)) as site:
        group_id = await site.group({"cellar": {}}, {"meter": METER, "marginPercent": 0})
        await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
        await site.look()
        await site.live(seconds=10)
        for _ in range(16):
            clock.move(seconds=5)
            await site.devices.step()
            await site.settle()
        assert delivers(cellar) == -5
        await site.live(seconds=60)
        assert delivers(cellar) == 1200


async def test_no_envelope_began_before_the_forecast_that_it_follows_was_received(
    db: Database, clock: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(db, clock) as site:
        group_id = await site.group({})
        look = site.control._look

        async def and_meanwhile_a_forecast_comes(*asked: Any) -> control.Snapshot:
            clock.move(seconds=1)
            await site.forecast(group_id, "CONSUMPTION", 3000, **BLOCK)
            return await look(*asked)

        monkeypatch.setattr(site.control, "_look", and_meanwhile_a_forecast_comes)
        await site.control.step()
        assert await site.row(
            "select max_w, from_at >= received_at from envelope, forecast"
        ) == (3000, True)  # fmt: skip
