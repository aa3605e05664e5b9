"""Datum from a broker into committed rows, beside what `mosquitto_sub | psql COPY` makes of them.

The messages wait in mosquitto for both, so neither is measured by its publisher. FPD_DATUM chooses
how many, FPD_STREAMS of how many streams, FPD_IN_FLIGHT how many mosquitto sends ahead of their
acknowledgement. Nothing here passes or fails by its speed, only by what arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from bench.machine import cpu_s, family_cpu_s, memory_mb
from flows.measured_site import Hands, Site
from support import flood
from support.daemon import MakeDaemon
from support.flood import Message, publish
from support.mosquitto import MARKS, Mosquitto
from support.waiting import wait_for

from fpd.flows import ingest
from fpd.mqtt.connection import Arrival
from fpd.mqtt.wire import Publish, Wire
from fpd.store import streams
from fpd.store.db import Database

COUNT = int(os.environ.get("FPD_DATUM", "200000"))
STREAMS = int(os.environ.get("FPD_STREAMS", "2000"))
WINDOWS = [int(n) for n in os.environ.get("FPD_IN_FLIGHT", "20,2000").split(",")]

pytestmark = [
    *MARKS,
    pytest.mark.skipif(
        None in (shutil.which("mosquitto_sub"), shutil.which("psql")),
        reason="mosquitto_sub or psql is missing",
    ),
]


def messages() -> list[Message]:
    base = int(time.time() * 1000) - COUNT
    return [
        (
            f"node/{n % STREAMS % 100 + 1}/datum/0/meter/{n % STREAMS}",
            json.dumps(
                {"created": base + n, "watts": 230.5 + n % 999, "wattHours": n, "mode": "auto"}
            ).encode(),
        )
        for n in range(COUNT)
    ]


@pytest.fixture
async def make_broker(
    tmp_path: Path, free_port: Callable[[], int]
) -> AsyncIterator[Callable[[int], Awaitable[Mosquitto]]]:
    made: list[Mosquitto] = []

    async def make(window: int) -> Mosquitto:
        folder = tmp_path / f"broker-{len(made)}"
        folder.mkdir()
        lines = f"max_inflight_messages {window}\nmax_queued_messages 0\nmemory_limit 0"
        broker = Mosquitto(folder, free_port(), lines=lines, autosave_s=9999)
        made.append(broker)
        await broker.start()
        return broker

    yield make
    for broker in made:
        await broker.stop()


async def until(url: str, query: str, count: int, *, within_s: float = 300) -> float:
    """Return when the query counts so many, by the steady clock."""
    async with (
        asyncio.timeout(within_s),
        await psycopg.AsyncConnection.connect(url, autocommit=True) as conn,
    ):
        while True:
            found = await (await conn.execute(query)).fetchone()  # type: ignore[call-overload]
            if found is not None and found[0] >= count:
                return time.perf_counter()
            await asyncio.sleep(0.05)


async def rows_of(url: str, table: str) -> int:
    async with await psycopg.AsyncConnection.connect(url) as conn:
        row = await (await conn.execute(f"select count(*) from {table}")).fetchone()
    assert row is not None
    return int(row[0])


async def server_of(url: str) -> int:
    """The process of the server itself."""
    async with await psycopg.AsyncConnection.connect(url) as conn:
        return parent(conn.info.backend_pid)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def newest(count: int) -> str:
    """Ask cheaply and often: whether the last one is there."""
    return f"select count(*) from datum where i @> '{{\"wattHours\": {count - 1}}}'"


async def floor(broker: Mosquitto, url: str, sent: list[Message]) -> tuple[float, dict[str, float]]:
    """Messages a second of `mosquitto_sub | psql COPY`, and the CPU of each part."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("create table floor (datum text)")
    subscribe = f"mosquitto_sub -p {broker.port} -q 1 -c -i floor -t 'node/+/datum/0/#' -F %p"
    await (await asyncio.create_subprocess_shell(f"{subscribe} -E")).wait()
    await publish(broker.port, sent)
    server = await server_of(url)
    parts = {
        "mosquitto": lambda: cpu_s(broker.pid),
        "postgres": lambda: family_cpu_s(server),
        "mosquitto_sub, psql": children_cpu_s,
    }
    before = {name: ask() for name, ask in parts.items()}
    began = time.perf_counter()
    copy = f"psql -q '{url}' -c 'copy floor from stdin'"
    process = await asyncio.create_subprocess_shell(f"{subscribe} -C {len(sent)} | {copy}")
    assert await process.wait() == 0
    took = time.perf_counter() - began
    assert await rows_of(url, "floor") == len(sent)
    return len(sent) / took, {
        name: (ask() - before[name]) / len(sent) * 1e6 for name, ask in parts.items()
    }


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("window", WINDOWS)
async def test_datum_in(
    window: int,
    make_broker: Callable[[int], Awaitable[Mosquitto]],
    make_daemon: MakeDaemon,
    database_url: str,
) -> None:
    sent = messages()
    least, floor_cpu = await floor(await make_broker(window), database_url, sent)

    broker = await make_broker(window)
    daemon = await make_daemon(database_url, mqtt=broker.url).start()
    await wait_for(lambda: "mqtt.connected" in daemon.said())
    # Every stream is there already, as on any day but the first.
    await publish(broker.port, sent[:STREAMS])
    await until(database_url, "select count(*) from datum", STREAMS)
    assert await daemon.terminate() == 0
    await publish(broker.port, sent)

    await daemon.start(ready=False)
    server = await server_of(database_url)
    parts = {
        "fpd": lambda: cpu_s(daemon.pid),
        "postgres": lambda: family_cpu_s(server),
        "mosquitto": lambda: cpu_s(broker.pid),
    }
    few = f"select count(*) from (select from datum limit {STREAMS + 1}) as d"
    await until(database_url, few, STREAMS + 1)
    before = {name: ask() for name, ask in parts.items()}
    first = time.perf_counter()
    rest = COUNT - await rows_of(database_url, "datum")
    most = [memory_mb(daemon.pid)]

    waits = [0.0]

    async def watch() -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                most.append(memory_mb(daemon.pid))
                asked = time.perf_counter()
                async with session.get(f"{daemon.url}/healthz"):
                    waits.append(time.perf_counter() - asked)
                await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    took = await until(database_url, newest(COUNT), 1) - first
    watching.cancel()
    used = {name: (ask() - before[name]) / rest * 1e6 for name, ask in parts.items()}
    assert await rows_of(database_url, "datum") == COUNT
    print(f"\n{COUNT} datum of {STREAMS} streams, {window} in flight")
    print(f"  mosquitto_sub | psql COPY   {least:8.0f} msg/s, CPU {told(floor_cpu)}")
    print(f"  committed by fpd            {rest / took:8.0f} msg/s, CPU {told(used)}")
    print(
        f"  = {rest / took / least:.2f} of the floor; by CPU {total(floor_cpu) / total(used):.2f}"
    )
    print(f"  memory of the daemon: {min(most):.0f} to {max(most):.0f} MB")
    print(f"  /healthz meanwhile: {max(waits) * 1000:.0f} ms at most")


def total(used: dict[str, float]) -> float:
    return sum(used.values())


def told(used: dict[str, float]) -> str:
    shares = ", ".join(f"{name} {us:.1f}" for name, us in used.items())
    return f"{total(used):.1f} µs a message: {shares}"


Parts = dict[str, float]


@contextlib.contextmanager
def part(parts: Parts, name: str, count: int) -> Iterator[None]:
    before = time.process_time()
    yield
    parts[name] = (time.process_time() - before) / count * 1e6


def receive(parts: Parts, sent: list[Message]) -> list[Publish]:
    """What the wire makes of as many packets, and of their acknowledgements."""
    near, far = socket.socketpair()
    near.setblocking(False)
    wire = Wire(near)
    data = b"".join(flood.packet(topic, payload, 1) for topic, payload in sent)
    found: list[Publish] = []
    with part(parts, "wire: take packets apart", len(sent)):
        for start in range(0, len(data), 16_000):
            far.send(data[start : start + 16_000])
            found += wire.read()
    with part(parts, "wire: acknowledge", len(sent)):
        for _ in range(len(sent) // 500):
            wire.acknowledge([1] * 500)
            far.recv(65_536)
    wire.close()
    far.close()
    return found


async def keep(parts: Parts, db: Database, rows: ingest.Rows, now: datetime) -> None:
    async with db.transaction() as conn:
        await streams.write_packed(conn, dict(islice(rows.items(), STREAMS)), now=now)
    rest = iter(rows.items())
    copied = placed = ours = 0.0
    async with db.connection() as conn:
        backend = conn.info.backend_pid
        while some := dict(islice(rest, 5000)):
            async with conn.transaction():
                before = cpu_s(backend), time.process_time()
                await streams._copy(conn, some.values())
                between = cpu_s(backend)
                await streams._place(conn, now)
                copied += between - before[0]
                placed += cpu_s(backend) - between
                ours += time.process_time() - before[1]
    parts["store: write rows"] = ours / len(rows) * 1e6
    parts["PostgreSQL: copy"] = copied / len(rows) * 1e6
    parts["PostgreSQL: upsert"] = placed / len(rows) * 1e6


async def test_where_the_time_goes(database_url: str) -> None:
    """CPU by part, in this process and in the server, without a broker."""
    db = Database(database_url, clock=lambda: datetime.now(UTC))
    await db.open()
    site = Site(db, Hands(datetime.now(UTC)))
    sent = messages()[:50_000]
    parts: Parts = {}
    found = receive(parts, sent)
    connection: Any = object()
    with part(parts, "client: hand over", len(sent)):
        arrivals = [Arrival(topic.decode(), *rest, connection) for topic, *rest in found]
    intake = ingest._Intake(site.context, 10**9)
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)  # as the daemon does
    with part(parts, "intake: judge", len(sent)):
        intake.take(arrivals)
    assert len(intake._gathered.rows) == len(sent)
    await keep(parts, db, intake._gathered.rows, site.clock.at)
    print("\nCPU µs a message")
    for name, us in parts.items():
        print(f"  {name:26}{us:6.1f}")
    await db.close()
