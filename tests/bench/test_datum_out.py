"""A million datum out of a daemon, beside `\\copy` of the same rows; the latest of many streams.

FPD_ROWS chooses how many. Nothing here passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import psycopg
from support.daemon import Daemon

from fpd.domain.datum import StreamKey
from fpd.flows import stream_health
from fpd.store import datum_out, overview, streams
from fpd.store.db import Database

ROWS = int(os.environ.get("FPD_ROWS", "1000000"))
STREAMS = 10_000
START = datetime(2026, 3, 10, tzinfo=UTC)
SPAN = "start=2026-03-10T00:00:00Z&end=2026-03-11T00:00:00Z"


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no process {pid}")


async def fill(url: str) -> None:
    db = Database(url, clock=lambda: START)
    await db.open()
    async with db.transaction() as conn:
        await streams.make_partitions(conn, instants=[START])
        await conn.execute("insert into account values (1, %s) on conflict do nothing", (START,))
        await conn.execute(
            """
            insert into stream (user_id, node_id, source_id, created_at)
            select 1, 7, 'load/' || n, %s from generate_series(1, %s) as n
            """,
            (START, STREAMS),
        )
    for part in range(10):
        async with db.connection() as conn:
            await conn.execute(
                """
                insert into datum (stream_id, at, i, a, received_at)
                select n, %(at)s::timestamptz + k * interval '10 s',
                       jsonb_build_object('watts', (n * k) %% 977 + 0.5),
                       jsonb_build_object('wattHours', k), %(at)s
                  from generate_series(%(first)s::int, %(last)s::int) as n,
                       generate_series(1, %(each)s) as k
                """,
                {
                    "at": START,
                    "first": part * STREAMS // 10 + 1,
                    "last": (part + 1) * STREAMS // 10,
                    "each": ROWS // STREAMS,
                },
            )
    async with db.connection() as conn:
        await conn.execute("vacuum analyze")
    await db.close()


async def read(daemon: Daemon, query: str, look: Callable[[], None]) -> tuple[float, int, int]:
    """Return how long it took, how many lines and how many bytes came."""
    began, lines, size = time.perf_counter(), 0, 0
    headers = {"Authorization": f"Bearer {daemon.bearer}"}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session,
        session.get(f"{daemon.url}/api/v1/datum{query}", headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        async for chunk in answer.content.iter_any():
            lines += chunk.count(b"\n")
            size += len(chunk)
            look()
    return time.perf_counter() - began, lines, size


async def test_a_million_rows_leave_in_constant_memory(daemon: Daemon, database_url: str) -> None:
    await fill(database_url)
    began, size = time.perf_counter(), 0
    with (
        psycopg.connect(database_url) as conn,
        conn.cursor().copy(
            "copy (select d.* from datum as d order by stream_id, at) to stdout (format csv)"
        ) as copy,
    ):
        for chunk in copy:
            size += len(chunk)
    floor = time.perf_counter() - began
    print(f"\n{ROWS} rows; COPY of them: {ROWS / floor:,.0f} rows/s, {size / 1e6:.0f} MB")
    for kind in ("ndjson", "csv"):
        before = most = resident_mb(daemon.pid)

        def look() -> None:
            nonlocal most
            most = max(most, resident_mb(daemon.pid))

        took, lines, size = await read(daemon, f"?{SPAN}&format={kind}", look)
        assert lines == ROWS + (kind == "csv")
        print(
            f"  {kind}: {ROWS / took:,.0f} rows/s ({floor / took:.2f} of COPY), "
            f"{size / 1e6:.0f} MB; resident {before:.0f} MB before, {most:.0f} MB at most"
        )
    took, lines, _ = await read(daemon, f"?{SPAN}&format=ndjson&aggregation=FiveMinute", look)
    print(f"  aggregated to five minutes: {lines} rows in {took:.1f} s, {ROWS / took:,.0f} datum/s")
    took, lines, _ = await read(daemon, "/latest?format=ndjson", look)
    assert lines == STREAMS
    print(f"  the latest of {lines} streams: {took * 1000:.0f} ms")


async def test_a_slow_reader_holds_nothing(daemon: Daemon, database_url: str) -> None:
    await fill(database_url)
    headers = {"Authorization": f"Bearer {daemon.bearer}"}
    async with (
        aiohttp.ClientSession(read_bufsize=1024) as session,
        session.get(f"{daemon.url}/api/v1/datum?{SPAN}&format=ndjson", headers=headers) as answer,
    ):
        await answer.content.read(100)
        await asyncio.sleep(3)
        with psycopg.connect(database_url, autocommit=True) as conn:
            row = conn.execute(
                "select count(*) filter (where xact_start < clock_timestamp() - interval '1 s'),"
                " count(*) from pg_stat_activity where application_name = 'fpd'"
            ).fetchone()
        assert row is not None and row[0] == 0, "no transaction waits for a reader"
        print(f"\n  old transactions beside a reader that waits, connections: {row}")
        print(f"  resident {resident_mb(daemon.pid):.0f} MB")


async def test_looking_at_ten_thousand_streams(database_url: str) -> None:
    from flows.measured_site import Hands, Site

    await fill(database_url)
    now = START + timedelta(seconds=10 * ROWS // STREAMS)
    db = Database(database_url, clock=Hands(now))
    await db.open()
    site = Site(db, Hands(now))
    for name in ("first", "next", "next"):
        began, steps = time.perf_counter(), 1
        while await stream_health.step(site.context):
            steps += 1
        took = time.perf_counter() - began
        print(f"\n  the {name} look at {STREAMS} streams: {took * 1000:.0f} ms in {steps} steps")
        site.clock.move(seconds=55)
    for user_id in (None, 1):
        async with db.transaction() as conn:
            began = time.perf_counter()
            await overview.load(conn, user_id=user_id, device_names=None, now=now)
            took = time.perf_counter() - began
        print(f"  the status, of user {user_id}: {took * 1000:.0f} ms")
    keys = [StreamKey(1, 7, f"load/{n}") for n in range(1, STREAMS + 1)]
    async with db.connection() as conn:
        began = time.perf_counter()
        found = await streams.latest(conn, streams=keys, after=now - timedelta(days=31), until=now)
        took = time.perf_counter() - began
        print(f"  the latest of {len(found)} streams as values: {took * 1000:.0f} ms")
        wanted = await datum_out.streams(conn, user_id=1)
        began = time.perf_counter()
        page = await datum_out.latest(conn, wanted, datum_out.Told(form="flat"), now=now)
        took = time.perf_counter() - began
        print(f"  the latest of {page.count} streams as text: {took * 1000:.0f} ms")
    await db.close()
