"""A Reengen tenant is read and told of ours from due rows, with a real database and over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from adapters.tenant import asked, simulated
from cryptography.fernet import Fernet
from flows.steered_house import WEDNESDAY, Hands
from psycopg.types.json import Jsonb

from fpd.adapters.reengen_door import Door
from fpd.config import Config, Device, Oscp
from fpd.config_reengen import ReengenListen, ReengenPlatform, ReengenStream
from fpd.domain.datum import Datum, StreamKey
from fpd.flows.context import Context
from fpd.flows.platforms import Platforms
from fpd.metrics import Metrics
from fpd.mqtt.client import MqttClient
from fpd.oscp.client import PeerClient
from fpd.sim.reengen import Reengen
from fpd.store import streams
from fpd.store.db import Database
from fpd.store.vault import Vault

ENERGY = ReengenStream(point="xyzBesiktas", node_id=1, source_id="/besiktas")
STREAM = StreamKey(1, 1, "besiktas")
STEERED = Device(name="battery-1", type="battery", base_url="http://127.0.0.1:1")
VAULT = Vault(Fernet.generate_key())
TOLD = {"point": "reengenPoint", "definition": "activePower", "variant": "import"}


class Site:
    """One daemon's platforms, with whatever they started."""

    def __init__(self, db: Database, clock: Hands, simulator: Reengen, **keys: Any) -> None:
        self.db, self.clock = db, clock
        self._tasks: set[asyncio.Task[None]] = set()
        platform = ReengenPlatform(
            **{
                "name": "factory",
                "type": "reengen",
                "base_url": f"{simulator.url}/api/do/",
                "tenant": "demo",
                "user": "demo",
                "password": "demo",
                "min_interval_s": 0,
                "timeout_s": 5,
                "backfill_days": 0.25,
                **keys,
            }
        )
        self.context = Context(
            config=Config(data_dir=Path("/nonexistent"), platforms=(platform,), devices=(STEERED,)),
            clock=clock,
            db=db,
            vault=VAULT,
            metrics=Metrics(),
            peers=PeerClient(Oscp()),
            mqtt=MqttClient(
                "mqtt://127.0.0.1:1", username=None, password=None, ca_file=None, instance="test"
            ),
            spawn=self._spawn,
        )
        self.platforms = Platforms(self.context)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        self._tasks.add(asyncio.create_task(work, name=name))

    async def look(self, *, polls: int = 4) -> None:
        """Let what is due be polled, and what follows at once."""
        for _ in range(polls):
            self.clock.move(seconds=3)
            await self.platforms.step()
            await asyncio.gather(*self._tasks)
            self._tasks.clear()

    async def close(self) -> None:
        await asyncio.gather(*self._tasks)
        await self.platforms.close()

    async def rows(self, query: str, *given: Any) -> list[tuple[Any, ...]]:
        async with self.db.connection() as conn:
            cursor = await conn.execute(query, given)
            return await cursor.fetchall()

    async def kept(self) -> dict[datetime, Decimal]:
        async with self.db.connection() as conn:
            found = await streams.between(
                conn,
                stream=STREAM,
                start_at=WEDNESDAY - timedelta(days=9),
                end_at=self.clock() + timedelta(days=1),
                limit=10_000,
            )
        return {each.at: each.a["wattHours"] for each in found}


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
async def platform(clock: Hands) -> AsyncIterator[Reengen]:
    async with simulated(clock) as simulator:
        yield simulator


Begin = Callable[..., Site]


@pytest.fixture
async def begin(db: Database, clock: Hands, platform: Reengen) -> AsyncIterator[Begin]:
    """Begins a daemon; the last one is closed with the test."""
    begun: list[Site] = []

    def begin(**keys: Any) -> Site:
        begun.append(Site(db, clock, platform, **keys))
        return begun[-1]

    yield begin
    for site in begun:
        await site.close()


def measured(platform: Reengen, start_at: datetime, end_at: datetime) -> dict[datetime, Decimal]:
    meter = platform.tenant.meter(("xyzBesiktas", "activeEnergy", "import", 1))
    assert meter is not None
    moments = platform.tenant.moments(start_at, end_at)
    return {at: Decimal(int(meter.register(at))) for at in moments}


async def test_registers_are_kept_over_an_outage_and_a_restart(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    began_at = clock()
    first = begin(stream=(ENERGY,))
    await first.look()
    earliest = began_at - timedelta(hours=6)
    found = await first.kept()
    assert found == measured(platform, earliest, max(found))
    platform.switch({"fail": {"message": "Internal error"}})
    clock.move(minutes=10)
    await first.look()
    down_at = clock()
    clock.move(hours=5)
    platform.switch(None)
    second = begin(stream=(ENERGY,))
    await second.look()
    clock.move(minutes=16)
    await second.look()
    found = await second.kept()
    assert found == measured(platform, earliest, max(found))
    assert max(found) > clock() - timedelta(minutes=25)
    told = await second.rows(
        "select kind, at, data from event where kind ~ '^platform' order by id"
    )
    assert [kind for kind, _, _ in told] == ["platform.ok", "platform.stopped", "platform.ok"]
    _, at, data = told[1]
    assert at < down_at and "Internal error" in data["detail"]
    assert data["since"] == at.isoformat(timespec="seconds")


async def test_a_long_range_goes_on_where_a_killed_daemon_was(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    began_at = clock()
    first = begin(stream=(ENERGY,), backfill_days=6)
    await first.look(polls=2)
    part = await first.kept()
    assert 0 < len(part) < 4 * 24 * 6
    second = begin(stream=(ENERGY,), backfill_days=6)
    await second.look(polls=6)
    asked_from = [body["properties"]["start"] for body in asked(platform, "ListDataEx")]
    assert asked_from == sorted(set(asked_from))
    whole = await second.kept()
    assert whole == measured(platform, min(whole), max(whole))
    assert max(whole) > clock() - timedelta(minutes=20)
    assert min(whole) < began_at - timedelta(days=5, hours=23)


async def make_group(site: Site) -> int:
    now = site.clock()
    await site.rows("insert into account values (1, %s) returning 1", now)
    ((peer_id,),) = await site.rows(
        """
        insert into peer (user_id, role, name, enabled, oscp_version, link_changed_at, created_at,
                          modified_at)
        values (1, 'CapacityProvider', 'lines', true, '2.0', %s, %s, %s) returning id
        """,
        *(now, now, now),
    )
    ((group_id,),) = await site.rows(
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                                    provider_period_s, optimizer_period_s, created_at, modified_at)
        values (1, 'North', 'north', true, %s, 600, 600, %s, %s) returning id
        """,
        *(peer_id, now, now),
    )
    return int(group_id)


async def limit(site: Site, group_id: int, max_w: int | None, *, forecasts: list[int]) -> None:
    await site.rows(
        """
        insert into envelope (group_id, from_at, max_w, min_w, reason, forecast_ids)
        values (%s, %s, %s, -2000, 'forecast', %s) returning 1
        """,
        *(group_id, site.clock(), max_w, forecasts),
    )


def listening(**keys: Any) -> ReengenListen:
    return ReengenListen(**TOLD | keys)


async def test_limits_are_imported_as_they_change(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    site = begin(
        listen=(
            listening(of="import-limit", group="north", no_limit=99_000.0),
            listening(of="export-limit", group="north", variant="export", multiplier=0.001),
        ),
    )
    group_id = await make_group(site)
    await limit(site, group_id, 5000, forecasts=[1])
    began_at = clock()
    await site.look()
    clock.move(minutes=1)
    await limit(site, group_id, None, forecasts=[])
    clock.move(minutes=1)
    await site.look()
    told = [(each["variant"], each["date"], each["value"]) for each in platform.state()["imported"]]
    later = began_at + timedelta(minutes=1, seconds=12)
    assert sorted(told) == [
        ("export", f"{began_at + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}", 2.0),
        ("export", f"{later + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}", 2.0),
        ("import", f"{began_at + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}", 5000.0),
        ("import", f"{later + timedelta(hours=3):%Y-%m-%dT%H:%M:%S}", 99_000.0),
    ]
    requests = len(asked(platform))
    clock.move(minutes=2)
    await site.look()
    assert len(asked(platform)) == requests  # nothing new, nothing told


async def test_who_has_nothing_to_tell_knows_that_the_platform_is_away(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    site = begin(stream=(ENERGY,), listen=(listening(of="import-limit", group="north"),))
    await limit(site, await make_group(site), 5000, forecasts=[1])
    await site.look()
    assert await site.rows("select health from platform") == [("ok",)]
    (door,) = site.context.tenants.values()
    assert isinstance(door, Door)
    door.retry_after_s = 0.01
    platform.switch({"drop": True})
    for _ in range(2):
        clock.move(minutes=10)
        await site.look()
    assert await site.rows("select health from platform") == [("unavailable",)]


async def test_a_measurement_is_imported_once_whatever_happens(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    row = listening(of="datum", node_id=7, source_id="/meter", property_name="watts")
    site = begin(listen=(row,))
    await site.rows("insert into account values (1, %s) returning 1", clock())

    async def measure(watts: int) -> None:
        clock.move(minutes=1)
        stream = StreamKey(1, 7, "meter")
        datum = Datum(stream=stream, at=clock(), i={"watts": Decimal(watts)}, a={}, s={})
        async with site.db.transaction() as conn:
            await streams.make_partitions(conn, instants=[clock()])
            await streams.write(conn, [datum], now=clock())

    for watts in range(30):
        await measure(watts)
    await site.look()  # of the last quarter of an hour
    assert [each["value"] for each in platform.state()["imported"]] == [*map(float, range(15, 30))]
    # It was done, but nobody heard of it: told again, it is there once.
    platform.switch({"fail": {"method": "ImportData", "after": True}})
    await measure(30)
    await site.look()
    platform.switch(None)
    clock.move(minutes=10)
    await site.look()
    assert [each["value"] for each in platform.state()["imported"]] == [*map(float, range(15, 31))]
    operations = [body["properties"]["data"][0]["#"] for body in asked(platform, "ImportData")]
    assert operations[0] == "C" and "U" in operations[1:]


async def test_setpoints_of_no_device_are_told(begin: Begin) -> None:
    site = begin(listen=(listening(of="setpoint", device="battery-2"),))
    await site.look(polls=2)
    ((health, detail),) = await site.rows("select health, detail from platform")
    assert health == "stopped" and "no device is called 'battery-2'" in detail


async def test_setpoints_are_imported(begin: Begin, clock: Hands, platform: Reengen) -> None:
    row = listening(of="setpoint", device="battery-1")
    site = begin(listen=(row,))

    async def send(wanted: dict[str, Any]) -> None:
        clock.move(minutes=1)
        await site.rows(
            "insert into device_command (device, wanted, sent_at) values (%s, %s, %s) returning 1",
            *("battery-1", Jsonb(wanted), clock()),
        )

    for power_w in (100, -1500):
        await send({"kind": "setpoint", "power_w": power_w})
    await site.look()
    clock.move(minutes=1)
    for command in ({"kind": "setpoint", "power_w": 700}, {"kind": "release"}):
        await send(command)
    await site.look()
    assert [each["value"] for each in platform.state()["imported"]] == [-1500.0, 700.0, 0.0]


async def test_a_flag_says_whether_forecasts_are_in_force(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    site = begin(listen=(listening(of="forecast", group="north"),))
    await site.look()
    (state,) = await site.rows("select health, detail from platform_poll")
    assert state == ("stopped", "user 1 has no group 'north': misconfigured")
    group_id = await make_group(site)

    async def flag() -> str:
        clock.move(minutes=2)
        await site.look()
        (told,) = platform.state()["flags"]
        assert told == {"tenant": "demo", "point": "reengenPoint", "type": "fpd-forecast"} | {
            "value": told["value"]
        }
        return str(told["value"])

    assert await flag() == "0"
    await limit(site, group_id, 5000, forecasts=[1])
    assert await flag() == "1"
    await limit(site, group_id, 9000, forecasts=[])
    assert await flag() == "0"
    said = len(asked(platform, "ManageDCData"))
    assert await flag() == "0"
    assert len(asked(platform, "ManageDCData")) == said == 3


async def test_a_corrected_configuration_is_tried_at_once_and_the_same_one_is_not(
    begin: Begin, platform: Reengen
) -> None:
    for _ in range(3):
        await begin(stream=(ENERGY,), password="wrong").look()
    assert len(asked(platform)) == 1, "each further login might lock the account"
    mended = begin(stream=(ENERGY,))
    await mended.look()
    assert await mended.kept()
    assert await mended.rows("select health from platform") == [("ok",)]


async def test_polls_of_a_tenant_are_one_at_a_time(
    begin: Begin, clock: Hands, platform: Reengen
) -> None:
    second = ReengenStream(point="xFabrikaTrafo6", node_id=1, source_id="/trafo")
    site = begin(stream=(ENERGY, second))
    clock.move(seconds=5)
    await site.platforms.step()
    clock.move(seconds=5)
    await site.platforms.step()
    leased = await site.rows("select job from platform_poll where leased_until is not null")
    assert len(leased) == 1
    await site.look()
    assert {
        job for (job,) in await site.rows("select job from platform_poll where read_at is not null")
    } == {
        "raw/xyzBesiktas",
        "raw/xFabrikaTrafo6",
    }
