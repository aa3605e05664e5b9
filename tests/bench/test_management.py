"""What the management API takes for 10,000 assets, and for 200 creates a second.

Each figure stands beside a floor of the same run: what the database alone takes for the same rows
through the same driver. Times are from the instant at which a request was to be sent, so they hold
the load's own lateness, which is told too; on a busy machine the CPU of each create says more.
Nothing here passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from bench.machine import cpu_s
from bench.test_intake import CONFIG, database
from support.daemon import MANAGE, Daemon, free_port
from support.management import asset_body, group_body

MANY = 10_000
GROUPS = 10
RATE = 200
FOR_S = 10

_ASSETS = """
insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id, source_id,
                   category, phase, instantaneous, energy, created_at, modified_at)
select 1, 1 + n %% %(groups)s, 'Charger ' || n, 'charger-' || n, true, 'CapacityProvider', n + 1,
       'charger/' || n, 'Charging', 'All',
       '{"propertyNames": ["watts"], "unit": "W", "statisticType": "Maximum"}',
       '{"propertyNames": ["wattHours"], "unit": "Wh", "statisticType": "Difference",
         "type": "Total", "direction": "Import"}',
       clock_timestamp(), clock_timestamp()
  from generate_series(1, %(many)s) as n
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[tuple[Daemon, str]]:
    """A daemon on a durable database with 10 groups, and the address of that database."""
    async with database(tmp_path) as url:
        config, port = tmp_path / "fpd.toml", free_port()
        config.write_text(CONFIG.format(folder=tmp_path / "data", port=port, database=url))
        daemon = await Daemon(config, f"http://127.0.0.1:{port}", tmp_path / "log").start()
        await daemon.log_in()
        provider = await daemon.manage("POST", "capacity-providers", {"name": "Lines Co."})
        for number in range(GROUPS):
            body = group_body(provider["configId"], identifier=f"group-{number}")
            await daemon.manage("POST", "capacity-groups", body)
        yield daemon, url
        await daemon.terminate()


async def test_a_list_of_10_000_assets(site: tuple[Daemon, str]) -> None:
    daemon, url = site
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute(_ASSETS.encode(), {"many": MANY, "groups": GROUPS})
        await conn.execute("analyze asset")

        async def rows() -> None:
            cursor = await conn.execute("select * from asset where user_id = 1 order by id")
            assert len(await cursor.fetchall()) == MANY

        floor = await _took(rows)
    async with _client(daemon) as session:

        async def listed(path: str) -> None:
            async with session.get(f"{MANAGE}/{path}") as answer:
                assert answer.status == 200
                await answer.read()

        print(f"\nthe same rows, read by the driver: {_told(floor)}")
        for path in ("assets", "assets?max=10000", "assets?max=100&offset=5000"):
            print(f"GET {path}: {_told(await _took(lambda path=path: listed(path)))}")
        async with session.get(f"{MANAGE}/assets") as answer:
            said = json.loads(await answer.read())["data"]
        assert [asset["identifier"] for asset in said] == [f"charger-{n + 1}" for n in range(MANY)]
        async with _watched(session) as waits:
            for _ in range(5):
                await listed("assets")
        print(f"/healthz meanwhile: {_told(waits)}")


async def test_creates_at_200_a_second(site: tuple[Daemon, str]) -> None:
    daemon, url = site
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("create table floor (n integer)")

        async def committed(_: int) -> None:
            await conn.execute("insert into floor values (1)")

        print(f"\nsingle-row commits, {RATE}/s: {_told(await _paced(committed))}")
    async with _client(daemon) as session:
        kinds: dict[str, Callable[[int], Any]] = {
            "capacity-providers": lambda n: {"name": f"Lines {n}"},
            "assets, one group": lambda n: asset_body(1, identifier=f"a{n}"),
            "assets, ten groups": lambda n: asset_body(1 + n % GROUPS, identifier=f"b{n}"),
        }
        for kind, body in kinds.items():
            path = f"{MANAGE}/{kind.partition(',')[0]}"

            async def create(n: int, path: str = path, body: Any = body) -> None:
                async with session.post(path, json=body(n)) as answer:
                    assert answer.status == 201, await answer.text()

            cpu, late = cpu_s(daemon.pid), list[float]()
            took = await _paced(create, late)
            cpu_ms = (cpu_s(daemon.pid) - cpu) / (RATE * FOR_S) * 1e3
            print(f"POST {kind}, {RATE}/s: {_told(took)}; {cpu_ms:.2f} ms of CPU each")
            print(f"  sent late by: {_told(late)}")


@asynccontextmanager
async def _client(daemon: Daemon) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {daemon.bearer}"}
    async with aiohttp.ClientSession(daemon.url, headers=headers) as session:
        yield session


async def _took(work: Callable[[], Awaitable[None]], times: int = 9) -> list[float]:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        await work()
        took.append(time.perf_counter() - began)
    return took


async def _paced(
    work: Callable[[int], Awaitable[None]], late: list[float] | None = None
) -> list[float]:
    """Begin `work` RATE times a second, whatever it takes; return what each took from its time.

    Adds to `late` by how much each was begun too late.
    """
    loop, took = asyncio.get_running_loop(), list[float]()
    began = loop.time() + 0.1

    async def one(number: int) -> None:
        due = began + number / RATE
        await asyncio.sleep(due - loop.time())
        if late is not None:
            late.append(loop.time() - due)
        await work(number)
        took.append(loop.time() - due)

    async with asyncio.TaskGroup() as group:
        for number in range(RATE * FOR_S):
            group.create_task(one(number))
    return took[RATE:]  # the first second warms up


@asynccontextmanager
async def _watched(session: aiohttp.ClientSession) -> AsyncIterator[list[float]]:
    """Ask for /healthz all the time; fill in what each answer took."""
    waits: list[float] = []

    async def watch() -> None:
        while True:
            began = time.perf_counter()
            async with session.get("/healthz") as answer:
                assert answer.status == 200
            waits.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)

    task = asyncio.create_task(watch())
    try:
        yield waits
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _told(took: list[float]) -> str:
    ordered = sorted(took)
    shares = {"median": 50, "99 %": 99}
    said = [f"{name} {ordered[len(ordered) * n // 100] * 1e3:.1f} ms" for name, n in shares.items()]
    return f"{len(ordered)} times, {', '.join(said)}, worst {ordered[-1] * 1e3:.1f} ms"
