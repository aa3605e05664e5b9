"""Nobody keeps a setpoint that nobody stands by: the daemon stops, or its database is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from flows.steered_house import WEDNESDAY, Hands, House, battery, fuel_cell

from fpd.adapters.device import Setpoint
from fpd.config import Config
from fpd.flows import handing_over
from fpd.flows.devices import Told
from fpd.flows.letting_go import Deadman, at_the_end
from fpd.flows.releasing import release, release_straight
from fpd.sim.battery import Battery, BatteryOptions
from fpd.sim.bluegen import BlueGen, BlueGenOptions
from fpd.sim.journal import Filter
from fpd.store.db import Database

METER = {"nodeId": 1, "sourceId": "/site/battery", "property": "gridWatts"}
LIMITED = {"meter": METER, "marginPercent": 0, "staticImportLimit": 3000}


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
    simulator.switch({"consumption_w": 4200})
    await simulator.start()
    yield simulator
    await simulator.stop()


def delivers(cellar: Battery) -> float:
    return float(cellar.state()["pac_w"])


async def test_of_several_daemons_the_last_one_lets_go(
    database_url: str, clock: Hands, cellar: Battery
) -> None:
    async with AsyncExitStack() as stack:
        houses = []
        for name in ("north", "south"):
            db = Database(database_url, clock=clock)
            await db.open()
            stack.push_async_callback(db.close)
            house = House(db, clock, [battery(cellar.url)], name=name)
            houses.append(await stack.enter_async_context(house))
        north, south = houses
        await north.group({"cellar": {}}, LIMITED)
        for _ in range(3):
            await north.look()
            await south.look()
            clock.move(seconds=10)
        assert delivers(cellar) == 1200
        await at_the_end(north.context, north.devices)
        clock.move(seconds=10)
        assert delivers(cellar) == 1200, "south goes on with it"
        await south.look()
        await at_the_end(south.context, south.devices)
        clock.move(seconds=10)
        assert delivers(cellar) == -5
        commands = await south.commands("cellar")
        assert [wanted["kind"] for wanted, _ in commands] == ["setpoint", "release"]


async def test_a_daemon_that_died_is_not_waited_for_longer_than_half_a_minute(
    database_url: str, db: Database, clock: Hands, cellar: Battery
) -> None:
    doomed = Database(database_url, clock=clock)
    await doomed.open()
    dead = House(doomed, clock, [battery(cellar.url)], name="dead")
    await dead.group({"cellar": {}}, LIMITED)
    await dead.look()
    await dead.die()
    clock.move(seconds=31)
    async with House(db, clock, [battery(cellar.url)], name="alive") as site:
        await site.live(seconds=20)
        assert delivers(cellar) == 1200
        await at_the_end(site.context, site.devices)
        clock.move(seconds=2)
        assert delivers(cellar) == -5


async def test_what_an_earlier_run_has_told_is_let_go_too(
    database_url: str, clock: Hands, cellar: Battery
) -> None:
    databases = [Database(database_url, clock=clock) for _ in range(2)]
    for db in databases:
        await db.open()
    dead = House(databases[0], clock, [battery(cellar.url)], name="dead")
    await dead.group({"cellar": {}}, LIMITED)
    await dead.live(seconds=20)
    await dead.die()
    clock.move(seconds=31)
    async with House(databases[1], clock, [battery(cellar.url)], name="alive") as site:
        await site.devices.step()
        await site.settle()
        assert delivers(cellar) == 1200
        await databases[1].close()
        await at_the_end(site.context, site.devices)
        clock.move(seconds=2)
        assert delivers(cellar) == -5


async def test_a_lost_database_lets_go_after_three_decisions_and_is_taken_up_again(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    async with House(db, clock, [battery(cellar.url)]) as site:
        deadman = Deadman(site.context, site.devices)
        await site.group({"cellar": {}}, LIMITED)
        await site.live(seconds=30)
        assert delivers(cellar) == 1200
        await db.close()
        clock.move(seconds=29)
        await deadman.step()
        clock.move(seconds=2)
        assert delivers(cellar) == 1200, "two decisions missed are no outage"
        cellar.switch({"drop": True})
        await deadman.step()
        assert delivers(cellar) == 1200
        cellar.switch({"drop": False})
        clock.move(seconds=6)
        await deadman.step()
        clock.move(seconds=2)
        assert delivers(cellar) == -5, "tried again until it is told"
        written = len(cellar.journal.find(Filter()))
        clock.move(seconds=60)
        await deadman.step()
        assert len(cellar.journal.find(Filter())) == written, "once"
        await db.open()
        await site.live(seconds=60)
        assert delivers(cellar) == 1200


async def test_what_another_daemon_has_told_since_is_its_own(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    async with House(db, clock, [battery(cellar.url)]) as site:
        await site.group({"cellar": {}}, LIMITED)
        await site.live(seconds=30)
        cellar.switch({"consumption_w": 5000})
        async with House(db, clock, [battery(cellar.url)], name="other") as other:
            await other.live(seconds=20)
            assert delivers(cellar) == 2000
            clock.move(seconds=60)
            await Deadman(site.context, site.devices).step()
            clock.move(seconds=2)
            assert delivers(cellar) == 2000


async def test_by_hand_everything_goes_home_and_after_a_stop_what_follows_setpoints(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    service = BlueGen(BlueGenOptions(unit=(249,), activation_delay_s=60), clock=clock)
    await service.start()
    devices = [battery(cellar.url), fuel_cell(service.url)]
    async with House(db, clock, devices) as site:
        limits = {**LIMITED, "staticImportLimit": None, "staticExportLimit": 1000}
        await site.group({"cellar": {}, "cell": {}}, limits)
        cellar.switch({"consumption_w": 0, "production_w": 4200})
        await site.live(seconds=30)

        def unit() -> int:
            return int(service.state()["units"]["249"]["pid"])

        ours = unit()
        assert (delivers(cellar), ours != 0) == (-3200, True)
        clock.move(seconds=31)
        found = await release(site.context, after_stop=True)
        assert [(one.device, one.ok) for one in found] == [("cellar", True), ("cell", True)]
        assert "weekly profile" in found[1].outcome
        clock.move(seconds=2)
        assert (delivers(cellar), unit()) == (-5, ours)
        await site.live(seconds=30)
        assert delivers(cellar) == -3200
        straight = await release_straight(site.context.config, clock=clock, after_stop=False)
        assert [one.ok for one in straight] == [True, False], "whose profile it had is not known"
        clock.move(seconds=2)
        assert delivers(cellar) == -5
        found = await release(site.context, after_stop=False)
        assert all(one.ok for one in found)
        assert "may steer it again" in found[0].outcome, "the house has not stopped"
        assert WEDNESDAY < clock() < WEDNESDAY + timedelta(hours=1)
        await service.stop()


async def test_a_profile_stays_when_the_daemon_stops_unless_it_is_told_otherwise(
    clock: Hands, db: Database
) -> None:
    cells = [
        fuel_cell("http://x", name="stays"),
        fuel_cell("http://x", name="returns", revert_on_stop=True),
    ]
    async with House(db, clock, cells) as site:
        assert site.devices.not_left_alone == ["returns"]


async def test_one_that_refused_lately_is_let_go_all_the_same(
    db: Database, clock: Hands, cellar: Battery
) -> None:
    async with House(db, clock, [battery(cellar.url)]) as site:
        await site.group({"cellar": {}}, LIMITED)
        await site.live(seconds=30)
        cellar.switch({"return_code": 5, "consumption_w": 5000})
        await site.live(seconds=30)
        assert (await site.state("cellar"))["health"] == "stopped"
        assert delivers(cellar) == 1200, "it goes on with what it took last"
        cellar.switch({"return_code": 0})
        await at_the_end(site.context, site.devices)
        clock.move(seconds=2)
        assert delivers(cellar) == -5


async def test_a_restart_hands_over(
    database_url: str, clock: Hands, cellar: Battery, tmp_path: Path
) -> None:
    databases = [Database(database_url, clock=clock) for _ in range(2)]
    for db in databases:
        await db.open()
    site = House(databases[0], clock, [battery(cellar.url)], folder=tmp_path)
    await site.group({"cellar": {}}, LIMITED)
    await site.live(seconds=30)
    config = site.context.config

    async def heirs() -> set[str]:
        return handing_over.heirs(config, config)

    await at_the_end(site.context, site.devices, heirs)
    await site.die()
    clock.move(seconds=5)
    assert delivers(cellar) == 1200
    writes = len(cellar.journal.find(Filter(method="PUT")))
    async with House(databases[1], clock, [battery(cellar.url)], folder=tmp_path) as next_:
        assert handing_over.path(config).exists()
        next_.devices.take_over(handing_over.take(config))
        await next_.live(seconds=30)
        assert delivers(cellar) == 1200
        told = cellar.journal.find(Filter(method="PUT"))[writes:]
        assert {entry.path for entry in told} == {"/api/v1/setpoint/discharge/1200"}, "never 0"
        await databases[1].close()
        await at_the_end(next_.context, next_.devices, heirs)
        clock.move(seconds=2)
        assert delivers(cellar) == -5, "without a database nobody can take it up again"


async def test_a_successor_without_a_database_lets_go_of_what_it_was_handed(
    database_url: str, db: Database, clock: Hands, cellar: Battery, tmp_path: Path
) -> None:
    async with House(db, clock, [battery(cellar.url)], folder=tmp_path) as site:
        await site.group({"cellar": {}}, LIMITED)
        await site.live(seconds=30)
        handing_over.leave(site.context.config, site.devices.told)
    away = Database(database_url, clock=clock)
    async with House(away, clock, [battery(cellar.url)], folder=tmp_path) as next_:
        next_.devices.take_over(handing_over.take(next_.context.config))
        assert handing_over.take(next_.context.config) == {}, "handed over once"
        deadman = Deadman(next_.context, next_.devices)
        clock.move(seconds=29)
        await deadman.step()
        assert delivers(cellar) == 1200
        clock.move(seconds=2)
        await deadman.step()
        clock.move(seconds=2)
        assert delivers(cellar) == -5


def test_nobody_inherits_what_another_configuration_says_nothing_of(tmp_path: Path) -> None:
    def house(folder: Path, **settings: object) -> Config:
        return Config(data_dir=folder, devices=(battery("http://x", **settings),))

    before = house(tmp_path)
    assert handing_over.heirs(before, house(tmp_path)) == {"cellar"}
    assert handing_over.heirs(before, house(tmp_path, max_charge_w=1)) == set()
    assert handing_over.heirs(before, house(tmp_path / "elsewhere")) == set()
    told = {"cellar": Told(Setpoint(power_w=1), {})}
    assert handing_over.leave(before, told) == {"cellar"}
    assert handing_over.take(before) == told
    assert handing_over.leave(house(tmp_path / "elsewhere"), told) == set(), "nowhere to write it"
    handing_over.path(before).write_text("no JSON")
    assert handing_over.take(before) == {}
