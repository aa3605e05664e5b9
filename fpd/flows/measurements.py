"""A measurement period ends: tell what the assets did, owe the report, go on to the next period.

Owing the report and going on are one transaction, and the report of a period always has the same
id: killed at any line, a period is reported once. Datum that come late, or anew with other values,
have it looked at again: what a peer would now be told is owed under the same id, as a correction.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import TypeVar

import structlog
from psycopg import AsyncConnection

from fpd.domain.measurement import Rules
from fpd.flows import announcing, reports
from fpd.flows.context import Context
from fpd.flows.measuring import PAGE, Portion, Work, measure, portions
from fpd.flows.reports import Made
from fpd.store import corrections, events, measurements, outbox, parts
from fpd.store.corrections import Doubt, Told
from fpd.store.db import retried
from fpd.store.measurements import Due
from fpd.store.outbox import Owed
from fpd.store.spans import pages, pieces

log = structlog.get_logger()

P = TypeVar("P")

EVERY = timedelta(seconds=1)  # by the metronome
_LEASE = timedelta(seconds=60)
_GROUPS = 500  # claimed at a time
_ABREAST = 3
# Datum younger than this are not summed up yet: most of those that come late come soon.
_RIPE = timedelta(seconds=5)

_WHY = {"measurement.missed": {"reason": "none of the assets' properties were read"}}


async def step(context: Context) -> bool:
    """Take in what came late, correct what it changes, close the periods that are due."""
    now = context.clock()
    async with context.db.transaction() as conn:
        late = await corrections.take_late(conn, now=now, reach=_rules(context).reach)
    corrected = await _correct(context, now=now)
    closed = await _close_due(context, now=now)
    if not closed:
        await _wake(context)
    return bool(late or corrected or closed)


async def _wake(context: Context) -> None:
    """Ring when the next period is due, if that is before the metronome rings anyway."""
    now = context.clock()
    async with context.db.connection() as conn:
        due_at = await measurements.next_due(conn, now=now, before=now + EVERY)
    if due_at is not None:
        delay_s = (due_at - now).total_seconds()
        asyncio.get_running_loop().call_later(delay_s, context.bells.measuring)


async def sum_up(context: Context) -> bool:
    """Sum up what was read of periods that are running, so that they can be closed at once.

    Left for later while periods are closed: that is what is waited for.
    """
    now = context.clock()
    until = now - _RIPE
    async with context.db.transaction() as conn:
        if await measurements.are_being_closed(conn, now=now):
            return False
        spans = await measurements.running(conn, now=now, until=until)
        if spans:
            await parts.note_known(conn, until_at=until)
            cut = await pieces(conn, spans, most=PAGE)
    for page in pages(list(chain.from_iterable(cut)), most=PAGE) if spans else []:
        async with context.db.transaction() as conn:
            if await measurements.are_being_closed(conn, now=context.clock()):
                break
            await parts.one_by_one(conn)
            await parts.fill(conn, page, known=until, reach=_rules(context).farthest)
    return False


async def _close_due(context: Context, *, now: datetime) -> int:
    """Close periods that are due; return how many."""
    settings = context.config.measurements
    settle, spool = timedelta(seconds=settings.settle_s), timedelta(seconds=settings.spool_s)
    async with context.db.transaction() as conn:
        await measurements.schedule(conn, now=now, settle=settle)
    async with context.db.transaction() as conn:
        due = await measurements.claim(conn, now=now, lease=_LEASE, spool=spool, limit=_GROUPS)
        if due:
            await parts.note_known(conn, until_at=now)

    async def close(some: Portion[Due]) -> None:
        work = await measure(context, some, known=now, rules=_rules(context))
        await _settle(context, work, now=now, settle=settle)
        context.bells.delivery()
        context.bells.publishing()

    await _abreast(close, await portions(context, due))
    return len(due)


async def _abreast(work: Callable[[P], Awaitable[None]], some: Iterable[P]) -> None:
    """Do `work` on every portion: while the database reads for one, another is calculated."""
    left = iter(some)

    async def one_after_the_other() -> None:
        for portion in left:
            await work(portion)

    several = [one_after_the_other() for _ in range(_ABREAST)]
    for outcome in await asyncio.gather(*several, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _correct(context: Context, *, now: datetime) -> int:
    """Look again at reports that late datum may have changed; return at how many."""
    window = timedelta(seconds=context.config.measurements.correction_window_s)
    async with context.db.transaction() as conn:
        doubts = await corrections.claim(conn, now=now, lease=_LEASE, window=window, limit=_GROUPS)
        if doubts:
            await parts.note_known(conn, until_at=now)
    for some in await portions(context, doubts):
        work = await measure(context, some, known=now, rules=_rules(context))
        await _amend(context, work, now=now)
        context.bells.delivery()
        context.bells.publishing()
    return len(doubts)


def _rules(context: Context) -> Rules:
    settings = context.config.measurements
    return Rules(
        hold=timedelta(seconds=settings.hold_s),
        reach=timedelta(seconds=settings.neighbour_s),
        plain_mean=settings.average == "mean",
    )


async def _settle(
    context: Context, work: Sequence[Work[Due]], *, now: datetime, settle: timedelta
) -> None:
    """Owe what is to be reported and go on to the next periods."""
    made = [(one.due, one.report.finished()) for one in work]
    told = [
        Told(due=due, request_id=reports.request_id(due), body_sha256=report and report.sha256)
        for due, report in made
    ]
    reported = [(due, report) for due, report in made if report is not None]
    missed = [
        one.due
        for one, (_, report) in zip(work, made, strict=True)
        if report is None and one.report.is_possible
    ]

    @retried
    async def settled() -> None:
        async with context.db.transaction() as conn:
            owed = [_owed(context, due, report, now=now) for due, report in reported]
            await outbox.owe(conn, owed, now=now)
            await _announce(context, conn, reported, owed, now=now)
            await corrections.note(conn, told, now=now)
            for due in missed:
                await _record(conn, "measurement.missed", due, now=now)
            await measurements.advance(conn, [due for due, _ in made], settle=settle)

    await settled()
    for one, (due, report) in zip(work, made, strict=True):
        outcome = "reported" if report else "missed" if one.report.is_possible else "empty"
        context.metrics.measurements.labels(due.audience, outcome).inc()


async def _amend(context: Context, work: Sequence[Work[Doubt]], *, now: datetime) -> None:
    """Owe corrections of what peers were told otherwise, and go on to the periods after these."""
    changed = []
    for one in work:
        report = one.report.finished()
        if report is None or report.sha256 == one.due.body_sha256:
            continue
        if one.due.body_sha256 is None or reports.hears_corrections(one.due):
            changed.append((one.due, report))

    @retried
    async def amended() -> None:
        async with context.db.transaction() as conn:
            owed, told = [], []
            for due, report in changed:
                # What was never told is told for the first time.
                revision = due.revision + (due.body_sha256 is not None)
                owed.append(_owed(context, due, report, now=now, revision=revision))
                told.append(
                    Told(
                        due=due,
                        request_id=due.request_id,
                        body_sha256=report.sha256,
                        revision=revision,
                    )
                )
                await _record(conn, "measurement.corrected", due, now=now, revision=revision)
            await outbox.owe(conn, owed, now=now)
            await _announce(context, conn, changed, owed, now=now)
            await corrections.note(conn, told, now=now)
            await corrections.go_on(conn, [one.due for one in work])

    await amended()
    for due, _ in changed:
        context.metrics.measurements.labels(due.audience, "corrected").inc()


def _owed(context: Context, due: Due, report: Made, *, now: datetime, revision: int = 0) -> Owed:
    request_id, correlation_id = reports.ids(due, revision)
    return Owed(
        peer_id=due.peer_id,
        # Not the group's lane: a backlog of reports must not hold up a forecast.
        lane=f"measurements:{due.group_id}",
        operation=report.operation,
        body=report.body,
        request_id=request_id,
        correlation_id=correlation_id,
        group_id=due.group_id,
        due_at=now,
        expires_at=now + timedelta(seconds=context.config.measurements.spool_s),
        revision=revision,
    )


async def _announce(
    context: Context,
    conn: AsyncConnection,
    of: Sequence[tuple[Due, Made]],
    owed: Sequence[Owed],
    *,
    now: datetime,
) -> None:
    """Publish what peers are told."""
    reported = [
        announcing.Reported(
            group_id=due.group_id,
            peer_id=due.peer_id,
            audience=due.audience,
            operation=message.operation,
            request_id=message.request_id,
            revision=message.revision,
            end_at=due.period.end_at,
            body=report.body,
            cuts=report.cuts,
        )
        for (due, report), message in zip(of, owed, strict=True)
    ]
    await announcing.owe_reports(context, conn, reported, now=now)


async def _record(
    conn: AsyncConnection, kind: str, due: Due, *, now: datetime, **more: int
) -> None:
    """Tell that nothing at all was read in a period, or that a report was corrected."""
    period = due.period
    log.info(kind, group=due.group_id, audience=due.audience, at=period.start_at, **more)
    await events.record(
        conn,
        kind=kind,
        at=now,
        user_id=due.user_id,
        peer_id=due.peer_id,
        group_id=due.group_id,
        data={"startAt": period.start_at, "endAt": period.end_at, **_WHY.get(kind, {}), **more},
    )
