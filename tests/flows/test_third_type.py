"""A type of devices is one file and one line: a heater, known to no flow, obeys a forecast."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flows import heater
from flows.heater import SimulatedHeater
from flows.steered_house import WEDNESDAY, Hands, House, battery

from fpd import adapters
from fpd.adapters.device import Profile, Reading, Release, Setpoint, Stopped
from fpd.config_file import ConfigFaults, load
from fpd.sim.battery import Battery, BatteryOptions
from fpd.store.db import Database

MINUTE = timedelta(minutes=1)
BOILER = """
    data_dir = "."
    [[device]]
    name = "boiler"
    type = "heater"
    base_url = "{url}"
    power_w = {power_w}
    node_id = 1
    source_id = "/site/boiler"
"""


@pytest.fixture(autouse=True)
def the_line_in_the_registry() -> Iterator[None]:
    adapters.TYPES["heater"] = heater.TYPE
    yield
    del adapters.TYPES["heater"]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url, clock=Hands())
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def boiler() -> AsyncIterator[tuple[SimulatedHeater, str]]:
    simulator = SimulatedHeater(3000)
    yield simulator, await simulator.start()
    await simulator.stop()


def written(tmp_path: Path, url: str, power_w: object) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(BOILER.format(url=url, power_w=power_w))
    return file


async def test_a_heater_is_configured_read_throttled_confirmed_and_let_go(
    tmp_path: Path, db: Database, boiler: tuple[SimulatedHeater, str]
) -> None:
    simulator, url = boiler
    clock = Hands()
    devices = load(written(tmp_path, url, 3000), {}).devices
    async with House(db, clock, devices) as site:
        # The meter is the heater's own: all that the site takes.
        meter = {"nodeId": 1, "sourceId": "/site/boiler", "property": "watts"}
        group_id = await site.group({"boiler": {}}, {"meter": meter, "marginPercent": 0})
        await site.look()
        await site.live(seconds=20)
        assert simulator.limits == [], "nothing is limited: it is left to itself"
        until = clock.at + 5 * MINUTE
        await site.forecast(group_id, "CONSUMPTION", 1200, start_at=clock.at, end_at=until)
        await site.live(seconds=30)
        assert simulator.taken_w == 1200
        state = await site.state("boiler")
        assert state["confirmed"] == {"kind": "setpoint", "power_w": -1200}
        assert (state["plan"]["over_import_w"], state["plan"]["net_import_w"]) == (0, 1200)
        await site.live(seconds=300)
        assert simulator.taken_w == 3000
        assert (await site.state("boiler"))["confirmed"] == {"kind": "release"}
        assert simulator.limits == [1200, 3000], "only differences are sent"


async def test_a_battery_helps_before_a_heater_is_throttled(
    tmp_path: Path, db: Database, boiler: tuple[SimulatedHeater, str]
) -> None:
    simulator, url = boiler
    clock = Hands()
    cellar = Battery(BatteryOptions(usoc=60), clock=clock)
    await cellar.start()
    devices = [*load(written(tmp_path, url, 3000), {}).devices, battery(cellar.url)]
    async with House(db, clock, devices) as site:
        group_id = await site.group(
            {"boiler": {"priority": 2}, "cellar": {"priority": 1}},
            {"capacityScope": "Flexible", "marginPercent": 0},
        )
        until = WEDNESDAY + 5 * MINUTE
        await site.forecast(group_id, "CONSUMPTION", 500, start_at=WEDNESDAY, end_at=until)
        await site.live(seconds=30)
        assert cellar.state()["pac_w"] == 2500
        assert simulator.taken_w == 3000
        until = clock.at + 5 * MINUTE
        await site.forecast(group_id, "GENERATION", 0, start_at=clock.at, end_at=until)
        await site.forecast(group_id, "CONSUMPTION", 0, start_at=clock.at, end_at=until)
        cellar.switch({"drop": True})
        await site.live(seconds=120)
        assert simulator.taken_w == 2500, "the battery keeps its last setpoint, and is counted so"
        await cellar.stop()


def test_its_keys_are_checked_like_all_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigFaults) as refused:
        load(written(tmp_path, "ftp://x", 0), {})
    assert {fault.key for fault in refused.value.faults} == {"device.base_url", "device.power_w"}


def test_what_is_not_for_a_heater_is_refused() -> None:
    reading = Reading(at=WEDNESDAY, output_w=-3000.0, dispatchable=True)
    asked = object.__new__(heater.Heater)
    asked._power_w = 3000
    assert asked.shows(Release(), reading)
    assert not asked.shows(Setpoint(power_w=-1200), reading)
    with pytest.raises(Stopped):
        asked.shows(Profile(points=((0, 0),)), reading)
