"""A measurement period ends: tell what the assets did, owe the report, go on to the next period.

Owing the report and going on are one transaction, and the report of a period always has the same
id: killed at any line, a period is reported once. Datum that come late, or anew with other values,
have it looked at again: what a peer would now be told is owed under the same id, as a correction.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog
from psycopg import AsyncConnection

from fpd.domain.measurement import Reading, Rules
from fpd.flows import announcing, reports
from fpd.flows.context import Context
from fpd.flows.reports import Metering, Result
from fpd.oscp import messages
from fpd.store import corrections, events, measurements, outbox, parts, readings
from fpd.store.corrections import Doubt, Told
from fpd.store.db import retried
from fpd.store.measurements import Due
from fpd.store.outbox import Owed
from fpd.store.parts import Next, Part, PartKey, Span

log = structlog.get_logger()

D = TypeVar("D", bound=Due)
P = TypeVar("P")

_LEASE = timedelta(seconds=60)
_GROUPS = 500  # claimed at a time
_ASSETS = 1000  # measured at a time, unless a single group has more
_ABREAST = 2
_SUMMED = 50  # groups summed up in one transaction
_BREATH = 100  # assets measured without letting others work
# Datum younger than this are not summed up yet: most of those that come late come soon.
_RIPE = timedelta(seconds=5)

_WHY = {"measurement.missed": {"reason": "none of the assets' properties were read"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work(Generic[D]):
    """A claimed period, and what the assets did in it."""

    due: D
    results: Sequence[Result]
    nexts: Sequence[Next]


async def step(context: Context) -> bool:
    """Take in what came late, correct what it changes, close the periods that are due."""
    now = context.clock()
    async with context.db.transaction() as conn:
        late = await corrections.take_late(conn, now=now, reach=_rules(context).reach)
    corrected = await _correct(context, now=now)
    closed = await _close_due(context, now=now)
    return bool(late or corrected or closed)


async def sum_up(context: Context) -> bool:
    """Sum up what was read of periods that are running, so that they can be closed at once."""
    now = context.clock()
    until = now - _RIPE
    async with context.db.transaction() as conn:
        spans = await measurements.running(conn, now=now, until=until)
        if spans:
            await parts.note_known(conn, until_at=until)
    for first in range(0, len(spans), _SUMMED):
        async with context.db.transaction() as conn:
            await parts.one_by_one(conn)
            some = spans[first : first + _SUMMED]
            await parts.fill(conn, some, known=until, reach=_rules(context).reach)
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

    async def close(some: Sequence[Due]) -> None:
        work = await _measure(context, some, known=now)
        await _settle(context, work, now=now, settle=settle)
        context.bells.delivery()
        context.bells.publishing()

    await _abreast(close, await _portions(context, due))
    return len(due)


async def _abreast(work: Callable[[P], Awaitable[None]], portions: Iterable[P]) -> None:
    """Do `work` on every portion: while the database reads for one, another is calculated."""
    left = iter(portions)

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
    for some in await _portions(context, doubts):
        work = await _measure(context, some, known=now)
        await _amend(context, work, now=now)
        context.bells.delivery()
        context.bells.publishing()
    return len(doubts)


async def _portions(context: Context, due: Sequence[D]) -> list[list[D]]:
    """Return the groups, as many at a time as are measured together."""
    if not due:
        return []
    async with context.db.connection() as conn:
        counts = await readings.count_assets(conn, due)
    portions: list[list[D]] = [[]]
    assets = 0
    for row in due:
        count = counts.get(_key(row), 0)
        if assets and assets + count > _ASSETS:
            portions.append([])
            assets = 0
        portions[-1].append(row)
        assets += count
    return portions


async def _measure(context: Context, due: Sequence[D], *, known: datetime) -> list[_Work[D]]:
    """Read everything that is needed in a few statements, then calculate asset by asset."""
    rules = _rules(context)
    spans = {_key(row): row.span for row in due}
    metered: dict[tuple[int, str], list[Metering]] = {key: [] for key in spans}
    async with context.db.connection() as conn:
        async for some in readings.assets(conn, due):
            for asset in some:
                metering = reports.metering_of(asset)
                if metering is not None:
                    metered[asset.group_id, asset.audience].append(metering)
            await asyncio.sleep(0)
    closed = list(spans.values())
    found = await _found(context, closed, known=known, rules=rules)
    async with context.db.connection() as conn:
        sought = [w for row in due for m in metered[_key(row)] for w in m.sought(row.period)]
        series = iter(await readings.readings(conn, sought, reach=rules.hold))
        if isinstance(due[0], Doubt):
            for key in await parts.told_open(conn, closed):
                if key in found:
                    found[key] = found[key].without_after()
    return [await _work(row, metered[_key(row)], found, series, rules) for row in due]


async def _found(
    context: Context, spans: Sequence[Span], *, known: datetime, rules: Rules
) -> dict[PartKey, Part]:
    found: dict[PartKey, Part] = {}
    async with context.db.connection() as conn:
        async for some in parts.read(conn, spans, known=known, reach=rules.reach):
            found.update((part.key, part) for part in some)
            await asyncio.sleep(0)
    latest = max((p.read.after.at for p in found.values() if p.read.after), default=None)
    if latest is None or latest < known:
        return found
    # A source's clock is ahead of ours: what comes before its reading from now on comes late.
    later = latest + timedelta(microseconds=1)
    async with context.db.transaction() as conn:
        await parts.note_known(conn, until_at=later)
    return await _found(context, spans, known=later, rules=rules)


async def _work(
    due: D,
    metered: Sequence[Metering],
    found: Mapping[PartKey, Part],
    series: Iterator[Sequence[Reading]],
    rules: Rules,
) -> _Work[D]:
    period = due.period
    results, nexts = [], []
    for number, metering in enumerate(metered):
        result = reports.result(metering, period, found, series, rules)
        results.append(result)
        for key in metering.keys:
            part = found.get(key)
            if part is not None:
                carry = result.carries.get(key) or part.read.carried()
                nexts.append(
                    Next(key=key, stream_id=part.stream_id, start_at=period.end_at, carry=carry)
                )
        await _breathe(number)
    return _Work(due=due, results=results, nexts=nexts)


async def _breathe(number: int) -> None:
    """Arithmetic must not keep everybody waiting."""
    if number % _BREATH == 0:
        await asyncio.sleep(0)


def _key(due: Due) -> tuple[int, str]:
    return due.group_id, due.audience


def _rules(context: Context) -> Rules:
    settings = context.config.measurements
    return Rules(
        hold=timedelta(seconds=settings.hold_s),
        reach=timedelta(seconds=settings.neighbour_s),
        plain_mean=settings.average == "mean",
    )


@dataclass(frozen=True, slots=True)
class _Report:
    """What a peer is to be told of a period; `body` None: nothing."""

    operation: str
    body: bytes | None

    @property
    def sha256(self) -> bytes | None:
        return None if self.body is None else hashlib.sha256(self.body).digest()


def _report(work: _Work[Any]) -> _Report:
    made = reports.report(work.due, work.results)
    if made is None:
        return _Report("", None)
    return _Report(made[0], messages.encode(made[1]))


async def _settle(
    context: Context, work: Sequence[_Work[Due]], *, now: datetime, settle: timedelta
) -> None:
    """Owe what is to be reported and go on to the next periods."""
    made = []
    for one in work:
        made.append((one, _report(one)))
        await asyncio.sleep(0)

    @retried
    async def settled() -> None:
        async with context.db.transaction() as conn:
            owed = [_owed(context, one.due, report, now=now) for one, report in made if report.body]
            await outbox.owe(conn, owed, now=now)
            await _announce(context, conn, [one.due for one, r in made if r.body], owed, now=now)
            told = [
                Told(
                    due=one.due,
                    request_id=reports.request_id(one.due),
                    body_sha256=report.sha256,
                )
                for one, report in made
            ]
            await corrections.note(conn, told, now=now)
            await parts.carry_on(conn, [n for one in work for n in one.nexts])
            for one, report in made:
                if report.body is None and reports.is_reportable(one.due, one.results):
                    await _record(conn, "measurement.missed", one.due, now=now)
            await measurements.advance(conn, [one.due for one in work], settle=settle)

    await settled()
    for one, report in made:
        outcome = "reported"
        if report.body is None:
            outcome = "missed" if reports.is_reportable(one.due, one.results) else "empty"
        context.metrics.measurements.labels(one.due.audience, outcome).inc()


async def _amend(context: Context, work: Sequence[_Work[Doubt]], *, now: datetime) -> None:
    """Owe corrections of what peers were told otherwise, and go on to the periods after these."""
    changed = []
    for one in work:
        report = _report(one)
        is_changed = report.body is not None and report.sha256 != one.due.body_sha256
        if is_changed and (one.due.body_sha256 is None or reports.hears_corrections(one.due)):
            changed.append((one.due, report))
        await asyncio.sleep(0)

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
            await _announce(context, conn, [due for due, _ in changed], owed, now=now)
            await corrections.note(conn, told, now=now)
            await parts.carry_on(conn, [n for one in work for n in one.nexts])
            await corrections.go_on(conn, [one.due for one in work])

    await amended()
    for due, _ in changed:
        context.metrics.measurements.labels(due.audience, "corrected").inc()


def _owed(context: Context, due: Due, report: _Report, *, now: datetime, revision: int = 0) -> Owed:
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
    of: Sequence[Due],
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
            body=message.body or b"",
        )
        for due, message in zip(of, owed, strict=True)
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
