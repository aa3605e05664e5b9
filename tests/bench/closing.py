"""A period of many assets just before it is closed: groups, assets, and what was read of them."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.measured_site import Site
from psycopg.types.json import Jsonb

from fpd.flows import measurements
from fpd.store import streams
from fpd.store.spans import Span

PERIOD_S, SAMPLES = 900, 90
SETTLE = timedelta(seconds=2)
_ONE_DAY_S = 86_400  # the period after the one that is measured is not due as well
LENGTH = timedelta(seconds=PERIOD_S)


def last_quarter(now: datetime) -> datetime:
    """Return the end of a quarter of an hour that is over."""
    return now - (now - datetime.min.replace(tzinfo=UTC)) % LENGTH - LENGTH


async def build(site: Site, assets: int, per_group: int) -> None:
    """As many assets in groups of so many."""
    await site.add_peers()
    await site.execute(
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id, optimizer_id,
            provider_period_s, optimizer_period_s, control, created_at, modified_at)
        select 1, 'g', 'group-' || n, true, 1, 2, %(s)s, %(s)s, %(control)s, %(now)s, %(now)s
          from generate_series(1, %(groups)s) as n
        """,
        s=PERIOD_S,
        groups=-(-assets // per_group),
        control=Jsonb({"settleSeconds": _ONE_DAY_S}),
    )
    await site.execute(
        """
        insert into asset (user_id, group_id, name, identifier, enabled, audience, node_id,
            source_id, category, phase, instantaneous, created_at, modified_at)
        select 1, 1 + (n - 1) / %(per)s, 'a', 'a' || n, true, 'CapacityOptimizer', 7, '/load/' || n,
               'Charging', 'All', %(settings)s, %(now)s, %(now)s
          from generate_series(1, %(assets)s) as n
        """,
        per=per_group,
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
        await streams.make_partitions(conn, instants=[site.clock.at])


async def fill(site: Site, assets: int, start_at: datetime) -> None:
    """Read all of them every ten seconds, and sum up on the way as the daemon does."""
    end_at = start_at + LENGTH
    await _read(site, assets, start_at, range(-1, SAMPLES - 3))
    await measurements.step(site.context)  # the groups get their places
    await site.execute(
        "update measurement_due set start_at = %(s)s, due_at = %(d)s", s=start_at, d=end_at + SETTLE
    )
    site.clock.at = end_at - timedelta(seconds=25)
    await measurements.sum_up(site.context)
    await _read(site, assets, start_at, range(SAMPLES - 3, SAMPLES))
    site.clock.at = end_at - timedelta(seconds=10)
    await measurements.sum_up(site.context)
    site.clock.at = end_at + SETTLE
    await site.execute("vacuum analyze")


async def _read(site: Site, assets: int, start_at: datetime, samples: range) -> None:
    for sample in samples:
        await site.execute(
            """
            insert into datum (stream_id, at, i, received_at)
            select n, %(start)s + %(k)s * interval '10 s' + (n %% 1000) * interval '9 ms',
                   jsonb_build_object('watts', (n * %(k)s) %% 977 + 0.5), %(start)s
              from generate_series(1, %(assets)s) as n
            """,
            start=start_at,
            k=sample,
            assets=assets,
        )


async def open_again(site: Site, start_at: datetime, *, due_at: datetime | str) -> None:
    """Let the period be as if it had never been closed; it is due at `due_at`."""
    await site.execute("truncate outbox, lane, measurement_report, event cascade")
    await site.execute("delete from measured_part where start_at > %(s)s", s=start_at)
    await site.execute(
        "update measurement_due set start_at = %(s)s, due_at = %(d)s, leased_until = null",
        s=start_at,
        d=due_at,
    )


async def spans(site: Site, start_at: datetime) -> list[Span]:
    """Return what is to be closed."""
    rows = await site.fetch("select group_id, audience from measurement_due order by 1")
    return [
        Span(group_id=group_id, audience=audience, start_at=start_at, end_at=start_at + LENGTH)
        for group_id, audience in rows
    ]


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
