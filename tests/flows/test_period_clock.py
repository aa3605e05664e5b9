"""The clock of the periods over midnight, the end of a month, both days of summer time, a restart.

The process lives in Amsterdam, and so do the sessions of the database: periods are UTC's.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from flows.measured_site import Hands, Site

from fpd.domain.datum import Datum, StreamKey
from fpd.flows import ingest, measurements
from fpd.store.db import Database

PERIODS_S = (60, 300, 600, 900, 1200, 1800, 3600)
MINUTE = timedelta(minutes=1)
SPAN = timedelta(minutes=140)  # around the edge
STEP = timedelta(minutes=12)
AWAY = timedelta(minutes=25)


@pytest.fixture(autouse=True)
def amsterdam(monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Amsterdam")
        patch.setenv("PGTZ", "Europe/Amsterdam")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        name = psycopg.sql.Identifier(conn.info.dbname)
        await conn.execute(
            psycopg.sql.SQL("alter database {} set timezone to 'Europe/Amsterdam'").format(name)
        )
    db = Database(database_url, clock=Hands())
    await db.open()
    yield db
    await db.close()


async def furnish(site: Site, periods_s: Sequence[int]) -> None:
    await site.add_peers()
    for number, period_s in enumerate(periods_s, 1):
        await site.add_group(str(period_s), period_s=period_s)
        await site.add_asset(
            f"r{period_s}", group_id=number, energy={"propertyNames": ["wh"], "unit": "Wh"}
        )


async def count(site: Site, since: datetime, until: datetime) -> None:
    """A register that counts 1 Wh in each minute."""
    readings = []
    at = since
    while at <= until:
        level = Decimal(int(at.timestamp()) // 60)
        readings.append(Datum(stream=StreamKey(1, 7, "load/1"), at=at, i={"wh": level}))
        at += MINUTE
    await ingest.store(site.context, readings)


async def close_all(site: Site) -> None:
    while await measurements.step(site.context):
        pass


@pytest.mark.parametrize(
    ("edge", "periods_s"),
    [
        (datetime(2026, 3, 29, 1, tzinfo=UTC), PERIODS_S),  # 02:00 becomes 03:00
        (datetime(2026, 10, 25, 1, tzinfo=UTC), PERIODS_S[1:]),  # 03:00 becomes 02:00
        # midnight in Amsterdam, two hours later in UTC, and then it is April
        (datetime(2026, 3, 31, 23, tzinfo=UTC), PERIODS_S[1:]),
    ],
)
async def test_no_period_is_missing_doubled_or_moved(
    db: Database, edge: datetime, periods_s: Sequence[int]
) -> None:
    begun = edge - SPAN / 2
    site = Site(db, Hands(begun + timedelta(seconds=3)))
    await furnish(site, periods_s)
    await count(site, begun - timedelta(hours=3), begun)
    await close_all(site)
    told_until, ends = begun, begun + SPAN
    while site.clock.at < ends:
        site.clock.move(seconds=STEP.total_seconds())
        if told_until < edge <= site.clock.at:
            site.clock.move(seconds=AWAY.total_seconds())
            site = Site(db, site.clock)  # killed, and here again after a while
        await count(site, told_until + MINUTE, site.clock.at.replace(second=0))
        told_until = site.clock.at.replace(second=0)
        await measurements.sum_up(site.context)
        await close_all(site)
    rows = await site.fetch(
        """
        select r.period_s, r.start_at, r.end_at, o.body
          from measurement_report as r join outbox as o on o.request_id = r.request_id
         where r.audience = 'CapacityProvider' order by r.period_s, r.start_at
        """
    )
    for period_s in periods_s:
        mine = [row[1:] for row in rows if row[0] == period_s]
        length = timedelta(seconds=period_s)
        assert mine[0][0] <= begun
        assert mine[-1][1] > ends - length
        for start_at, end_at, body in mine:
            assert (start_at.timestamp() % period_s, end_at - start_at) == (0, length)
            (entry,) = json.loads(body)["measurements"]
            said = datetime.fromisoformat(entry["initial_measure_time"])
            assert (said, datetime.fromisoformat(entry["measure_time"])) == (start_at, end_at)
            assert entry["initial_measure_time"].endswith("Z")
            assert entry["value"] == period_s // 60
        assert all(one[1] == following[0] for one, following in pairwise(mine))
