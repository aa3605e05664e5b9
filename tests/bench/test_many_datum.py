"""Many datum: the latest values and one period, asked by the functions that the daemon asks by.

FPD_DATUM datum (default 2,000,000), one a minute of each of 500 streams, in a server of this test
alone, on disk, that compiles plans as an operator's does. Thirty million are of six weeks; the
other months of what is kept are there and empty. Nothing passes or fails by its speed, but the
plans must use the index.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from statistics import quantiles
from typing import Any

import pytest
from bench.closing import LENGTH, build, cpu_s, last_quarter
from flows.measured_site import Hands, Site
from psycopg import AsyncConnection, AsyncCursor

from fpd.app import clock
from fpd.domain.measurement import Rules
from fpd.embedded.postgres import EmbeddedPostgres
from fpd.store import control, datum_out, parts, streams
from fpd.store.control import Property
from fpd.store.datum_out import Told
from fpd.store.db import Database
from fpd.store.spans import Span

DATUM = int(os.environ.get("FPD_DATUM", "2000000"))
STREAMS, PER_GROUP = 500, 10
EACH = DATUM // STREAMS
KEPT_DAYS = 400
TIMES = 300
END = last_quarter(clock())

Ask = Callable[[AsyncConnection], Awaitable[Any]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    server = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    url = await server.start()
    async with await AsyncConnection.connect(url, autocommit=True) as conn:
        await conn.execute("alter database fpd set jit to on")
    db = Database(url, clock=Hands())
    try:
        await db.open()
        yield Site(db, Hands(END))
    finally:
        await db.close()
        await server.stop()
        shutil.rmtree(tmp_path / "postgres")


class Noting(AsyncCursor[Any]):
    """Notes what is asked, so that it can be explained."""

    asked: tuple[Any, Any] = ("", None)

    async def execute(self, query: Any, params: Any = None, **how: Any) -> Any:
        Noting.asked = query, params
        return await super().execute(query, params, **how)


async def fill(site: Site) -> None:
    async with site.db.transaction() as conn:
        await streams.make_partitions(
            conn, instants=[END - timedelta(days=days) for days in range(-31, KEPT_DAYS, 15)]
        )
    at_once = max(EACH // 200, 1)
    async with site.db.connection() as conn:
        await conn.execute("set statement_timeout = 0")
        for first in range(0, EACH, at_once):
            await conn.execute(
                """
                insert into datum (stream_id, at, i, received_at)
                select n, %(end)s - (%(each)s - k) * interval '1 minute',
                       jsonb_build_object('watts', k), %(end)s
                  from generate_series(%(first)s::int, %(last)s::int) as k,
                       generate_series(1, %(streams)s) as n
                """,
                {
                    "end": END,
                    "each": EACH,
                    "first": first,
                    "last": min(first + at_once, EACH) - 1,
                    "streams": STREAMS,
                },
            )
        await conn.execute("vacuum analyze")
        await conn.execute("reset statement_timeout")


def some() -> list[int]:
    return sorted(random.sample(range(1, STREAMS + 1), 10))


def a_quarter() -> tuple[datetime, datetime]:
    start_at = END - random.randint(1, EACH // 15) * LENGTH
    return start_at, start_at + LENGTH


def stream(n: int) -> datum_out.Stream:
    return datum_out.Stream(id=n, user_id=1, node_id=7, source_id=f"load/{n}", is_own=False)


async def nothing(conn: AsyncConnection) -> None:
    await conn.execute("select 1")


async def latest_values(conn: AsyncConnection) -> None:
    wanted = [Property(1, 7, f"load/{n}", "watts") for n in some()]
    assert len(await control.latest(conn, properties=wanted, now=END)) == 10


async def latest_datum(conn: AsyncConnection) -> None:
    told = Told(form="samples")
    page = await datum_out.latest(conn, [stream(n) for n in some()], told, now=END)
    assert page.count == 10


async def one_period(conn: AsyncConnection) -> None:
    start_at, end_at = a_quarter()
    page = await datum_out.page(
        conn,
        [stream(random.randint(1, STREAMS))],
        Told(form="samples"),
        start_at=start_at,
        end_at=end_at,
        after=None,
        limit=1000,
    )
    assert page.count == 15


async def one_period_measured(conn: AsyncConnection) -> None:
    start_at, end_at = a_quarter()
    group_id = random.randint(1, STREAMS // PER_GROUP)
    span = Span(group_id=group_id, audience="CapacityOptimizer", start_at=start_at, end_at=end_at)
    found = 0
    async for page in parts.read(conn, [span], known=END, reach=Rules().farthest):
        found += len(page)
    assert found == PER_GROUP


QUESTIONS: dict[str, Ask] = {
    "the floor: a question for nothing": nothing,
    "latest values of ten streams, as control asks": latest_values,
    "latest datum of ten streams, as HTTP asks": latest_datum,
    "a quarter of an hour of one stream, as HTTP asks": one_period,
    "a quarter of an hour of ten assets, not summed up before": one_period_measured,
}


async def test_many_datum_are_asked_by_their_index(site: Site) -> None:
    await build(site, STREAMS, PER_GROUP)
    began = time.perf_counter()
    await fill(site)
    ((size,),) = await site.fetch(
        "select pg_size_pretty(sum(pg_total_relation_size(inhrelid))) from pg_inherits"
        " where inhparent = 'datum'::regclass"
    )
    print(f"\n{DATUM:,} datum, {size}, written in {time.perf_counter() - began:.0f} s")
    async with site.db.connection() as conn:
        conn.cursor_factory = Noting
        for name, ask in QUESTIONS.items():
            took, cpu = [], cpu_s(conn.info.backend_pid)
            for _ in range(TIMES):
                began = time.perf_counter()
                await ask(conn)
                took.append((time.perf_counter() - began) * 1000)
            cpu_ms = (cpu_s(conn.info.backend_pid) - cpu) / TIMES * 1000
            percent = quantiles(took, n=100)
            print(
                f"  {name}: p50 {percent[49]:.1f} ms, p99 {percent[98]:.1f} ms, "
                f"{cpu_ms:.1f} ms of the server's CPU"
            )
            if ask is nothing:
                continue
            scans = await scans_of_datum(conn)
            print("\n".join(f"    {scan}" for scan in scans))
            assert scans
            assert not any("Seq Scan" in scan for scan in scans)


async def scans_of_datum(conn: AsyncConnection) -> list[str]:
    """Return how the question just asked meets the table, as far as it really does."""
    query, values = Noting.asked
    cursor = await conn.execute(f"explain (analyze, costs off, timing off) {query}", values)
    lines = [row[0].strip(" ->") for row in await cursor.fetchall()]
    scans = [line for line in lines if " on datum_" in line and "never executed" not in line]
    return sorted(set(scans))
