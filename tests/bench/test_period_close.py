"""Closing a period of many assets, beside the same sums by SQL from scratch over the same rows.

FPD_ASSETS="1000,10000,100000" chooses the sizes. Nothing here passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from flows.measured_site import NOON, Hands, Site
from psycopg.types.json import Jsonb

from fpd.domain.datum import StreamKey
from fpd.domain.measurement import Rules
from fpd.flows import measurements
from fpd.store import parts, streams
from fpd.store.db import Database
from fpd.store.parts import Span

SIZES = [int(size) for size in os.environ.get("FPD_ASSETS", "1000,10000").split(",")]
PERIOD_S, SAMPLES = 900, 90
PER_GROUP = 100
START = NOON - timedelta(seconds=PERIOD_S)

FROM_SCRATCH = {
    "hash aggregate": """
        select stream_id, avg((i -> 'watts')::numeric), min((i -> 'watts')::numeric), count(*)
          from datum where at >= %(start)s and at < %(end)s group by 1
    """,
    "the same statistics as ours": """
        select stream_id, count(*), min(v), max(v), sum(v), sum(v * s), sum(greatest(v - n, 0))
          from (select stream_id, v, lead(v) over w as n,
                       extract(epoch from lead(at) over w - at) as s
                  from (select stream_id, at, (i -> 'watts')::numeric as v
                          from datum where at >= %(start)s and at < %(end)s) as d
                window w as (partition by stream_id order by at)) as d
         group by 1
    """,
}


@pytest.fixture
async def site(database_url: str) -> AsyncIterator[Site]:
    db = Database(database_url, clock=Hands())
    await db.open()
    site = Site(db, Hands(START))
    yield site
    await db.close()


async def timed(work: Callable[[], Awaitable[Any]]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = await work()
    return time.perf_counter() - began, found


async def scratch(site: Site, query: str) -> float:
    took, _ = await timed(lambda: site.fetch(query, start=START, end=NOON))
    return took


async def build(site: Site, assets: int) -> None:
    """As many assets in groups of a hundred, read every ten seconds, one after the other."""
    await site.add_peers()
    await site.execute(
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id, optimizer_id,
            provider_period_s, optimizer_period_s, created_at, modified_at)
        select 1, 'g', 'group-' || n, true, 1, 2, %(s)s, %(s)s, %(now)s, %(now)s
          from generate_series(1, %(groups)s) as n
        """,
        s=PERIOD_S,
        groups=-(-assets // PER_GROUP),
    )
    await site.execute(
        """
        insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
            source_id, category, phase, instantaneous, created_at, modified_at)
        select 1, 1 + (n - 1) / %(per)s, 'a', 'a' || n, true, 'CapacityOptimizer', 7, '/load/' || n,
               'Charging', 'All', %(settings)s, %(now)s, %(now)s
          from generate_series(1, %(assets)s) as n
        """,
        per=PER_GROUP,
        assets=assets,
        settings=Jsonb({"propertyNames": ["watts"], "unit": "W"}),
    )
    await site.execute(
        """
        insert into stream (user_id, node_id, source_id, created_at)
        select 1, 7, 'load/' || n, %(now)s from generate_series(1, %(assets)s) as n
        """,
        assets=assets,
    )
    async with site.db.transaction() as conn:
        from fpd.store import streams

        await streams.make_partitions(conn, instants=[NOON])


async def load(site: Site, assets: int, first: int, last: int) -> None:
    for sample in range(first, last + 1):
        await site.execute(
            """
            insert into datum (stream_id, at, i, received_at)
            select n, %(start)s + %(k)s * interval '10 s' + (n %% 1000) * interval '9 ms',
                   jsonb_build_object('watts', (n * %(k)s) %% 977 + 0.5), %(start)s
              from generate_series(1, %(assets)s) as n
            """,
            start=START,
            k=sample,
            assets=assets,
        )


async def lag_of_the_event_loop(worst: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        worst.append(time.perf_counter() - began - 0.005)


@pytest.mark.parametrize("assets", SIZES)
async def test_closing_a_period(site: Site, assets: int) -> None:
    await build(site, assets)
    await load(site, assets, -1, SAMPLES - 4)
    await measurements.step(site.context)  # the groups get their places
    await site.execute(
        "update measurement_due set start_at = %(s)s, due_at = %(d)s",
        s=START,
        d=NOON + timedelta(seconds=2),
    )
    site.clock.at = NOON - timedelta(seconds=25)
    summed_s, _ = await timed(lambda: measurements.sum_up(site.context))
    await load(site, assets, SAMPLES - 3, SAMPLES - 1)
    site.clock.at = NOON - timedelta(seconds=10)
    again_s, _ = await timed(lambda: measurements.sum_up(site.context))
    site.clock.at = NOON + timedelta(seconds=2)
    await site.execute("vacuum analyze")
    print(f"\n{assets} assets × {SAMPLES} samples")
    for name, query in FROM_SCRATCH.items():
        took = [await scratch(site, query) for _ in range(3)]
        print(f"  SQL from scratch, {name}: {min(took) * 1000:.0f} ms")
    spans = [
        Span(group_id=n + 1, audience="CapacityOptimizer", start_at=START, end_at=NOON)
        for n in range(-(-assets // PER_GROUP))
    ]

    async def aggregate() -> int:
        count = 0
        async with site.db.connection() as conn:
            async for some in parts.read(conn, spans, known=site.clock.at, reach=Rules().reach):
                count += len(some)
        return count

    took = [(await timed(aggregate))[0] for _ in range(3)]
    print(f"  aggregated from what was summed up, read into Python: {min(took) * 1000:.0f} ms")
    lags: list[float] = []
    probe = asyncio.create_task(lag_of_the_event_loop(lags))
    closed_s, _ = await timed(lambda: measurements.step(site.context))
    probe.cancel()
    print(f"  summing up 87 samples: {summed_s * 1000:.0f} ms, three more: {again_s * 1000:.0f} ms")
    print(
        f"  all reports handed to delivery: {closed_s:.2f} s, longest hold of the event loop "
        f"{max(lags) * 1000:.0f} ms"
    )
    owed = await site.fetch("select count(*) from outbox")
    assert owed == [(-(-assets // PER_GROUP),)]
    FIGURES[assets] = (min(took), closed_s)
    print(plot(FIGURES))


FIGURES: dict[int, tuple[float, float]] = {}


def plot(figures: dict[int, tuple[float, float]]) -> str:
    """A bar for each size, as long as its microseconds for each asset: linear is level."""
    lines = ["  µs for each asset: aggregated ░, handed to delivery ▓"]
    for size, seconds in sorted(figures.items()):
        for fill, took in zip("░▓", seconds, strict=True):
            each = took / size * 1e6
            lines.append(f"  {size:>7} {fill * round(each / 5)} {each:.0f}")
    return "\n".join(lines)


async def test_a_big_table_is_asked_by_its_index(site: Site) -> None:
    """FPD_ROWS datum of a thousand streams in several months: the latest, and one period."""
    rows = int(os.environ.get("FPD_ROWS", "2000000"))
    each = rows // 1000
    site.clock.at = NOON
    await site.add_peers()
    await site.execute(
        """
        insert into stream (user_id, node_id, source_id, created_at)
        select 1, 7, 'load/' || n, %(now)s from generate_series(1, 1000) as n
        """
    )
    step = timedelta(days=90) / each
    async with site.db.transaction() as conn:
        months = [NOON - timedelta(days=days) for days in (0, 30, 60, 90)]
        await streams.make_partitions(conn, instants=months)
    began = time.perf_counter()
    for part in range(20):
        await site.execute(
            """
            insert into datum (stream_id, at, i, received_at)
            select n, %(now)s - k * %(step)s, jsonb_build_object('watts', k), %(now)s
              from generate_series(%(first)s::int, %(last)s::int) as k,
                   generate_series(1, 1000) as n
            """,
            step=step,
            first=part * each // 20,
            last=(part + 1) * each // 20 - 1,
        )
    await site.execute("vacuum analyze datum")
    print(f"\n{rows} datum loaded in {time.perf_counter() - began:.0f} s")
    keys = [StreamKey(1, 7, f"load/{n}") for n in range(1, 11)]
    async with site.db.connection() as conn:
        for name, ask in (
            (
                "the latest of ten streams",
                lambda: streams.latest(
                    conn, streams=keys, after=NOON - timedelta(days=400), until=NOON
                ),
            ),
            (
                "a quarter of an hour of one stream",
                lambda: streams.between(
                    conn,
                    stream=keys[0],
                    start_at=NOON - timedelta(days=50),
                    end_at=NOON - timedelta(days=50) + timedelta(minutes=15),
                    limit=1000,
                ),
            ),
        ):
            took = [(await timed(ask))[0] for _ in range(5)]
            print(f"  {name}: {min(took) * 1000:.1f} ms, at first {took[0] * 1000:.1f} ms")
        plan = await conn.execute(
            """
            explain select at from datum where stream_id = 5 and at <= %s
             order by at desc limit 1
            """,
            (NOON,),
        )
        lines = [row[0] for row in await plan.fetchall()]
        print("\n".join(f"    {line}" for line in lines))
        assert any("Index" in line for line in lines)
        assert not any("Seq Scan" in line for line in lines)
