"""Platforms are polled into a real database: due rows, leases, health, events, restarts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flows.measured_site import Hands, Site

from fpd.config_myems import MyemsPlatform, PlatformStream
from fpd.flows.context import Context
from fpd.flows.loop import Loop
from fpd.flows.myems_intake import MyemsIntake
from fpd.flows.platforms import Platforms
from fpd.mqtt.connection import Arrival
from fpd.sim.journal import Filter
from fpd.sim.myems import MyEms, MyEmsOptions
from fpd.store import platforms as store
from fpd.store.db import Database

METERS = (
    PlatformStream(meter=6, node_id=7, source_id="/battery"),
    PlatformStream(meter=6, point=14, node_id=7, source_id="/battery"),
    PlatformStream(meter=4, node_id=7, source_id="/grid"),
)
PUBLISHED = '{"data_source_id": 15, "point_id": %d, "utc_date_time": "%s", "value": %s}'


class Watch:
    """A daemon's platforms, with whatever they started."""

    def __init__(self, site: Site, *platforms: MyemsPlatform) -> None:
        self.site = site
        self._tasks: set[asyncio.Task[None]] = set()
        self.context: Context = replace(
            site.context,
            config=replace(site.context.config, platforms=platforms),
            spawn=self._spawn,
            steady=lambda: site.clock().timestamp(),
        )
        self.flow = Platforms(self.context)

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def step(self, **later: float) -> None:
        """Let time pass, then poll what is due and wait for it."""
        self.site.clock.move(**later)
        await self.flow.step()
        await asyncio.gather(*tuple(self._tasks))

    async def settle(self) -> None:
        """Poll until nothing is due."""
        for _ in range(6):
            await self.step(seconds=2.5)

    async def rows(self, query: str) -> list[Any]:
        async with self.context.db.connection() as conn:
            cursor = await conn.execute(query)  # type: ignore[call-overload]
            return list(await cursor.fetchall())

    async def events(self) -> list[Any]:
        return await self.rows("select kind, data->>'since' from event order by at, id")


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    yield Site(db, clock)
    await db.close()


@pytest.fixture
async def server(site: Site) -> AsyncIterator[MyEms]:
    options = MyEmsOptions(utc_offset="+02:00", interval_s=60.0, history_h=2.0)
    sim = MyEms(options, clock=site.clock)
    await sim.start()
    yield sim
    await sim.stop()


@pytest.fixture
async def watch(site: Site, server: MyEms) -> AsyncIterator[Watch]:
    watch = Watch(site, platform(server))
    yield watch
    await watch.flow.close()


def platform(server: MyEms, **settings: Any) -> MyemsPlatform:
    known: dict[str, Any] = {"api_key": "fpd-key", "utc_offset": "+02:00", "stream": METERS}
    return MyemsPlatform(name="site", type="myems", base_url=server.url, **(known | settings))


async def test_meters_become_streams_and_a_restart_repeats_nothing(
    watch: Watch, site: Site, server: MyEms
) -> None:
    await watch.settle()
    battery, grid = await site.stored("battery"), await site.stored("grid")
    assert len(battery) >= 55 and battery[-1].a["wattHours"] == 200_000
    assert [*grid[-1].a] == ["wattHours"] and not grid[-1].i
    assert await watch.events() == [("platform.ok", "2026-03-10T12:00:05+00:00")]
    again = Watch(site, platform(server))
    server.journal.clear()
    await again.step(seconds=120)
    assert len(await site.stored("battery")) == len(battery) + 2
    await again.flow.close()


async def test_a_platform_that_is_down_says_since_when_and_comes_back(
    watch: Watch, site: Site, server: MyEms
) -> None:
    await watch.settle()
    server.switch({"database_down": True})
    await watch.step(seconds=70)
    for _ in range(8):
        await watch.step(seconds=30)
    (health, detail, failures) = (
        await watch.rows(
            "select p.health, p.detail, q.failures from platform as p"
            " join platform_poll as q on q.platform = p.name limit 1"
        )
    )[0]
    assert health == "unavailable" and "500" in detail and failures >= 3
    server.switch(None)
    site.clock.move(minutes=10)
    again = Watch(site, platform(server))  # whose circuit is closed
    for _ in range(2):
        await again.step(seconds=61)
    await again.flow.close()
    kinds = [kind for kind, _ in await watch.events()]
    assert kinds[0] == kinds[-1] == "platform.ok" and "platform.unavailable" in kinds
    down = dict(await watch.events())["platform.unavailable"]
    assert down.startswith("2026-03-10T12:01:2")
    assert watch.context.metrics.registry.get_sample_value("fpd_up", {"part": "platform site"}) == 1


async def test_one_meter_that_is_gone_costs_nothing_but_its_own_data(
    watch: Watch, site: Site, server: MyEms
) -> None:
    await server.actions["bind"]({"meter": 4})
    await watch.settle()
    assert await site.stored("battery") and not await site.stored("grid")
    ((health, detail),) = await watch.rows("select health, detail from platform")
    assert health == "degraded" and "METER_NOT_FOUND" in detail


async def test_no_more_requests_at_once_than_granted(site: Site, server: MyEms) -> None:
    rows = tuple(PlatformStream(meter=i, node_id=7, source_id=f"/m/{i}") for i in range(4, 11))
    watch = Watch(site, platform(server, stream=rows, max_requests=3))
    site.clock.move(seconds=1)
    await watch.flow.step()
    site.clock.move(seconds=3)
    await watch.flow.step()
    async with site.db.connection() as conn:
        claimed = await store.claim(
            conn,
            most={"site": 3},
            holder="another",
            now=site.clock(),
            until=site.clock() + timedelta(seconds=9),
        )
    leased = await watch.rows("select count(*) from platform_poll where leased_until is not null")
    assert claimed == [] and leased[0][0] == 3
    await watch.settle()
    assert len(await site.stored("m/10")) >= 55
    await watch.flow.close()


async def test_a_poll_that_was_killed_is_made_again(
    watch: Watch, site: Site, server: MyEms
) -> None:
    await watch.flow.step()
    async with site.db.transaction() as conn:
        await conn.execute("update platform_poll set leased_until = %s", (
            site.clock() + timedelta(seconds=75),))  # fmt: skip
    await watch.step(seconds=60)
    assert not await site.stored("grid")
    await watch.step(seconds=20)
    assert await site.stored("grid")


@pytest.mark.parametrize("is_new", [True, False], ids=["started", "running"])
async def test_what_a_killed_daemon_held_is_read_at_once_by_another(
    watch: Watch, site: Site, server: MyEms, is_new: bool
) -> None:
    await watch.settle()
    later = site.clock() + timedelta(seconds=75)
    dead = f"{socket.gethostname()}/999999999/1"
    async with site.db.transaction() as conn:
        await conn.execute(
            "update platform_poll set leased_until = %s, due_at = %s, leased_by = case job"
            " when 'meter/4' then %s else 'elsewhere/1/1' end",
            (later, site.clock(), dead),
        )
    again = Watch(site, platform(server)) if is_new else watch
    await again.step(seconds=2)
    held = await again.rows("select job from platform_poll where leased_until is not null")
    assert held == [("meter/6",)], "of another machine nothing is known"
    await again.flow.close()


async def test_the_next_poll_begins_as_soon_as_one_is_settled(site: Site, server: MyEms) -> None:
    rows = tuple(PlatformStream(meter=i, node_id=7, source_id=f"/m/{i}") for i in range(4, 11))
    watch = Watch(site, platform(server, stream=rows, max_requests=1))
    loop = Loop("platforms", watch.flow.step, every_s=60, metrics=watch.context.metrics)
    watch.context.bells.platforms = loop.ring
    await watch.flow.step()
    site.clock.move(seconds=3)
    running = asyncio.create_task(loop.run())
    loop.ring()
    async with asyncio.timeout(20):
        while await watch.rows("select from platform_poll where read_at is null"):
            await asyncio.sleep(0.02)
    loop.stop()
    await running
    await watch.flow.close()


async def test_no_restart_with_another_configuration_locks_an_account(
    site: Site, server: MyEms, tmp_path: Path
) -> None:
    site.context = replace(site.context, config=replace(site.context.config, data_dir=tmp_path))
    wrong = {"api_key": None, "username": "administrator", "password": "wrong"}
    for poll_s in range(60, 64):
        watch = Watch(site, platform(server, poll_s=poll_s, **wrong))
        await watch.step()
        await watch.step(seconds=3)
        await watch.flow.close()
    assert await watch.rows("select distinct failures, health from platform_poll") == [
        (4, "stopped")
    ], "each was tried at each start"
    assert len([entry for entry in server.journal.find(Filter()) if "login" in entry.path]) == 1


async def test_polls_that_are_no_longer_configured_are_forgotten(
    watch: Watch, site: Site, server: MyEms
) -> None:
    await watch.settle()
    fewer = Watch(site, platform(server, stream=METERS[:2]))
    await fewer.step()
    assert await watch.rows("select job from platform_poll") == [("meter/6",)]
    await fewer.flow.close()


def arrival(topic: str, payload: str) -> Arrival:
    return Arrival(topic, payload.encode(), 0, 0, None)  # type: ignore[arg-type]


async def test_published_points_are_taken_once_and_as_utc(site: Site, server: MyEms) -> None:
    rows = (
        PlatformStream(point=14, mqtt=True, unit="kW", node_id=7, source_id="/b"),
        PlatformStream(point=13, mqtt=True, unit="%", node_id=7, source_id="/b"),
    )
    watch = Watch(site, platform(server, stream=rows))
    intake = MyemsIntake(watch.context)
    serving = asyncio.create_task(intake.serve())
    first, second = "2026-03-10T11:59:42", "2026-03-10T12:00:42"
    intake.take(
        [
            arrival("myems/point/14", PUBLISHED % (14, first, "-11.100000")),
            arrival("myems/point/13", PUBLISHED % (13, first, "55.0")),
            arrival("myems/point/14", PUBLISHED % (14, first, "-11.100000")),  # frozen
            arrival("myems/point/14", PUBLISHED % (14, "2026-03-09T11:59:42", "7")),  # retained
            arrival("myems/point/14", PUBLISHED % (15, second, "7")),  # not its topic
            arrival("myems/point/14", PUBLISHED % (14, "2026-03-10T19:00:42", "7")),  # local time
            arrival("myems/point/14", "{address:1, slave_id:1, set_value: 2.0}"),
            arrival("myems/point/14", '{"device":"battery","set_value":1}'),
            arrival("myems/point/99", PUBLISHED % (99, first, "1")),
            arrival("myems/point/14", PUBLISHED % (14, second, "NaN")),
            arrival("myems/point/14", PUBLISHED % (14, second, "2")),
        ]
    )
    async with asyncio.timeout(5):
        while len(found := await site.stored("b")) < 2:
            await asyncio.sleep(0.02)
    assert [(f"{d.at:%H:%M:%S}", {k: float(v) for k, v in d.i.items()}) for d in found] == [
        ("11:59:42", {"watts": -11100.0, "soc": 55.0}),
        ("12:00:42", {"watts": 2000.0}),
    ]
    counted = {
        outcome: watch.context.metrics.registry.get_sample_value(
            "fpd_datum_received_total", {"door": "myems", "outcome": outcome}
        )
        for outcome in ("kept", "repeated", "malformed", "untimely", "ignored")
    }
    assert counted == {"kept": 2, "repeated": 2, "malformed": 1, "untimely": 1, "ignored": 4}
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
