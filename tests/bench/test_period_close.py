"""Closing a period of many assets, beside the same sums by SQL from scratch over the same rows.

First by the daemon's own functions in this process, several times, then by the real daemon, whose
memory is measured and whose /healthz is asked all the time. FPD_ASSETS="1000,10000,100000"
chooses the sizes; the largest one is also one group. Nothing here passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest
from bench.closing import LENGTH, SETTLE, build, cpu_s, fill, last_quarter, open_again, spans
from bench.plot import draw
from flows.measured_site import Hands, Site
from support.daemon import Daemon, MakeDaemon

from fpd.app import clock
from fpd.domain.measurement import Rules
from fpd.flows import measurements
from fpd.flows.measuring import PAGE
from fpd.store import parts
from fpd.store.db import Database
from fpd.store.spans import pages, pieces

SIZES = [int(size) for size in os.environ.get("FPD_ASSETS", "1000,10000,100000").split(",")]
CASES = [(size, 100) for size in SIZES] + [(SIZES[-1], SIZES[-1])]
TIMES = 3
END = last_quarter(clock())
START = END - LENGTH

FROM_SCRATCH = {
    "SQL from scratch": """
        select stream_id, avg((i -> 'watts')::numeric), min((i -> 'watts')::numeric), count(*)
          from datum where at >= %(start)s and at < %(end)s group by 1
    """,
    "SQL, the same statistics": """
        select stream_id, count(*), min(v), max(v), sum(v), sum(v * s), sum(greatest(v - n, 0))
          from (select stream_id, v, lead(v) over w as n,
                       extract(epoch from lead(at) over w - at) as s
                  from (select stream_id, at, (i -> 'watts')::numeric as v
                          from datum where at >= %(start)s and at < %(end)s) as d
                window w as (partition by stream_id order by at)) as d
         group by 1
    """,
}
FIGURES: dict[str, list[tuple[float, float]]] = {}


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    db = Database(database_url, clock=Hands())
    await db.open()
    yield Site(db, Hands(START))
    await db.close()


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def scratch(site: Site, query: str) -> None:
    async with site.db.connection() as conn:
        await conn.execute("set statement_timeout = 0")
        cursor = await conn.execute(query, {"start": START, "end": END})
        await cursor.fetchall()
        await conn.execute("reset statement_timeout")


async def aggregate(site: Site) -> int:
    """Read what was summed up as who closes the period does: page by page, two at a time."""
    wanted = await spans(site, START)
    async with site.db.connection() as conn:
        cut = await pieces(conn, wanted, most=PAGE)
    left = iter(pages(list(chain.from_iterable(cut)), most=PAGE))
    found = 0

    async def one_after_the_other() -> None:
        nonlocal found
        async with site.db.connection() as conn:
            for page in left:
                read = parts.read(conn, page, known=site.clock.at, reach=Rules().farthest)
                async for some in read:
                    found += len(some)

    await asyncio.gather(one_after_the_other(), one_after_the_other())
    return found


class Lookout:
    """Looks how long the event loop was held: by the clock, and by this thread's own work."""

    def __init__(self) -> None:
        self.worst_s = self.worst_cpu_s = 0.0

    async def look(self) -> None:
        while True:
            began, cpu = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.002)
            self.worst_s = max(self.worst_s, time.perf_counter() - began - 0.002)
            self.worst_cpu_s = max(self.worst_cpu_s, time.thread_time() - cpu)


@contextmanager
def memory_settled() -> Iterator[None]:
    """The collector is set as in the daemon."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.mark.parametrize(("assets", "per_group"), CASES)
async def test_closing_a_period(
    site: Site, make_daemon: MakeDaemon, database_url: str, assets: int, per_group: int
) -> None:
    await build(site, assets, per_group)
    await fill(site, assets, START)
    groups = -(-assets // per_group)
    print(f"\n{assets} assets × 90 samples in {groups} groups; medians of {TIMES}")
    for name, query in FROM_SCRATCH.items():
        times = 1 if assets >= 100_000 else TIMES
        took_s = median([await timed(lambda q=query: scratch(site, q)) for _ in range(times)])
        if groups > 1:
            note(name, assets, per_group, took_s)
        print(f"  {name}: {took_s * 1000:.0f} ms")
    took_s = median([await timed(lambda: aggregate(site)) for _ in range(TIMES)])
    assert await aggregate(site) == assets
    note("aggregated", assets, per_group, took_s)
    print(f"  aggregated from what was summed up, read into Python: {took_s * 1000:.0f} ms")
    await in_process(site, assets, per_group)
    await by_the_daemon(site, make_daemon(database_url), assets, per_group)
    print(f"  picture: {picture()}")


async def in_process(site: Site, assets: int, per_group: int) -> None:
    walls, cpus = [], []
    lookout = Lookout()
    with memory_settled():
        for _ in range(TIMES):
            await open_again(site, START, due_at=END + SETTLE)
            looking = asyncio.create_task(lookout.look())
            cpu = time.process_time()
            walls.append(await timed(lambda: all_closed(site)))
            cpus.append(time.process_time() - cpu)
            looking.cancel()
    ((owed,),) = await site.fetch("select count(*) from outbox")
    assert owed == -(-assets // per_group)
    note("handed to delivery", assets, per_group, median(walls))
    print(
        f"  handed to delivery: {median(walls):.2f} s, {median(cpus) / assets * 1e6:.0f} µs of CPU "
        f"for each asset; event loop held at most {lookout.worst_cpu_s * 1000:.0f} ms by work, "
        f"{lookout.worst_s * 1000:.0f} ms by the clock"
    )


async def all_closed(site: Site) -> None:
    while await measurements.step(site.context):
        pass


async def by_the_daemon(site: Site, daemon: Daemon, assets: int, per_group: int) -> None:
    """The period is due for the real daemon: from then on until everything is in the outbox."""
    groups = -(-assets // per_group)
    await open_again(site, START, due_at="infinity")
    await daemon.start()
    await at_rest(daemon.pid)
    before_mb, cpu = peak_mb(daemon.pid), cpu_s(daemon.pid)
    slowest: list[float] = []
    asking = asyncio.create_task(ask(daemon.url + "/healthz", slowest))
    # As a rule it is known for long when a period will be due.
    due_at = clock() + timedelta(seconds=2)
    await site.execute("update measurement_due set due_at = %(d)s", d=due_at)
    await asyncio.sleep((due_at - clock()).total_seconds())
    began = time.perf_counter()
    async with asyncio.timeout(120):
        while await site.fetch("select count(*) from outbox") != [(groups,)]:
            await asyncio.sleep(0.02)
    took_s = time.perf_counter() - began
    asking.cancel()
    note("by the daemon", assets, per_group, took_s)
    print(
        f"  by the daemon: {took_s:.2f} s from the instant it is due, CPU "
        f"{cpu_s(daemon.pid) - cpu:.2f} s, memory at most {before_mb} → {peak_mb(daemon.pid)} MB, "
        f"slowest of {len(slowest)} answers {max(slowest) * 1000:.0f} ms"
    )
    await daemon.kill()


async def at_rest(pid: int) -> None:
    """Wait until it has seen for the first time all that there is."""
    used = 0.0
    async with asyncio.timeout(120):
        while cpu_s(pid) - used > 0.15:
            used = cpu_s(pid)
            await asyncio.sleep(1)


async def ask(url: str, took: list[float]) -> None:
    async with aiohttp.ClientSession() as session:
        while True:
            began = time.perf_counter()
            async with session.get(url) as answer:
                await answer.read()
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.01)


def peak_mb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024


def note(name: str, assets: int, per_group: int, took_s: float) -> None:
    name = name if per_group < assets else f"{name}, one group"
    FIGURES.setdefault(name, []).append((assets, took_s))


def picture() -> Path:
    return draw(
        "period_close",
        "Closing a period of 90 samples",
        FIGURES,
        x="assets",
        y="seconds",
    )
