"""A measurement period ends: read what the assets did, owe the report, go on to the next period.

Owing the report and going on are one transaction, and the report of a period always has the same
id: killed at any line, a period is reported once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from msgspec import Struct
from psycopg import AsyncConnection

from fpd.flows import reports
from fpd.flows.context import Context
from fpd.flows.reports import Metering, Result
from fpd.oscp import messages
from fpd.store import events, measurements, outbox, readings
from fpd.store.db import retried
from fpd.store.measurements import Closed, Due
from fpd.store.outbox import Owed
from fpd.store.readings import Asset, Sought

log = structlog.get_logger()

_LEASE = timedelta(seconds=60)
_BATCH = 25  # groups; the readings of all their assets are in memory at once
_AGAIN = timedelta(seconds=1)

# Periods that could not be reported, and reports that could not be delivered, are kept this long.
_SPOOL = timedelta(hours=24)

_Asked = tuple[Metering, list[Sought]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A claimed period, and what the assets did in it."""

    due: Due
    results: Sequence[Result]


async def step(context: Context) -> bool:
    """Close the periods that are due."""
    now = context.clock()
    settle = timedelta(seconds=context.config.measurements.settle_s)
    async with context.db.transaction() as conn:
        await measurements.schedule(conn, now=now, settle=settle)
        due = await measurements.claim(conn, now=now, lease=_LEASE, spool=_SPOOL, limit=_BATCH)
    if not due:
        return False
    work = await _measure(context, due)
    awaited, done = [], []
    for one in work:
        if reports.is_awaited(one.due, one.results, now=now, settle=settle):
            awaited.append(one)
        else:
            done.append(one)

    @retried
    async def settled() -> None:
        async with context.db.transaction() as conn:
            await measurements.postpone(conn, [one.due for one in awaited], until=now + _AGAIN)
            await _close(context, conn, done, now=now, settle=settle)

    await settled()
    context.bells.delivery()
    return len(done) > 0


async def _measure(context: Context, due: Sequence[Due]) -> list[_Work]:
    """Read everything that is needed in two statements, then calculate group by group."""
    async with context.db.connection() as conn:
        asked = _asked(due, await readings.assets(conn, due))
        sought = [one for _, of_group in asked for _, wanted in of_group for one in wanted]
        found = iter(await readings.readings(conn, sought))
    work = []
    for row, of_group in asked:
        results = [
            reports.result(
                metering,
                reports.period_of(row),
                [next(found) for _ in wanted],
                row.bridges.get(str(metering.asset.id), {}),
            )
            for metering, wanted in of_group
        ]
        work.append(_Work(due=row, results=results))
        await asyncio.sleep(0)  # arithmetic must not keep everybody waiting
    return work


def _asked(due: Sequence[Due], assets: Sequence[Asset]) -> list[tuple[Due, list[_Asked]]]:
    """Return for each period its assets, and for each of these the readings that are needed."""
    of_group: dict[tuple[int, str], list[Metering]] = {}
    for asset in assets:
        metering = reports.metering_of(asset)
        if metering is not None:
            of_group.setdefault((asset.group_id, asset.audience), []).append(metering)
    return [
        (
            row,
            [
                (metering, metering.sought(reports.period_of(row)))
                for metering in of_group.get((row.group_id, row.audience), ())
            ],
        )
        for row in due
    ]


async def _close(
    context: Context,
    conn: AsyncConnection,
    work: Sequence[_Work],
    *,
    now: datetime,
    settle: timedelta,
) -> None:
    """Owe what is to be reported and go on to the next periods."""
    owed = []
    for one in work:
        made = reports.report(one.due, one.results)
        outcome = "reported"
        if made is not None:
            owed.append(_owed(one.due, *made, now=now))
        elif reports.is_reportable(one.due, one.results):
            outcome = "missed"
            await _miss(conn, one.due, now=now)
        else:
            outcome = "empty"
        context.metrics.measurements.labels(one.due.audience, outcome).inc()
    await outbox.owe(conn, owed, now=now)
    await measurements.advance(conn, [_closed(one) for one in work], settle=settle)


def _owed(due: Due, operation: str, message: Struct, *, now: datetime) -> Owed:
    return Owed(
        peer_id=due.peer_id,
        # Not the group's lane: a backlog of reports must not hold up a forecast.
        lane=f"measurements:{due.group_id}",
        operation=operation,
        body=messages.encode(message),
        request_id=reports.request_id(due),
        group_id=due.group_id,
        due_at=now,
        expires_at=now + _SPOOL,
    )


async def _miss(conn: AsyncConnection, due: Due, *, now: datetime) -> None:
    """Tell that nothing at all was read in a period; a gap stays a gap."""
    period = reports.period_of(due)
    log.info("measurement.missed", group=due.group_id, audience=due.audience, at=period.start_at)
    await events.record(
        conn,
        kind="measurement.missed",
        at=now,
        user_id=due.user_id,
        peer_id=due.peer_id,
        group_id=due.group_id,
        data={"startAt": period.start_at, "endAt": period.end_at},
    )


def _closed(work: _Work) -> Closed:
    return Closed(
        due=work.due,
        next_at=reports.period_of(work.due).end_at,
        bridges={
            str(result.metering.asset.id): result.metered.bridges
            for result in work.results
            if result.metered.bridges
        },
    )
