"""What the assets did in the periods of their groups, page by page.

While one page is calculated the next one is read. Nobody waits for longer than it takes to read or
calculate some assets, and of an asset nothing is kept but what it adds to its group's report.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from fpd.domain.measurement import Period, Reading, Rules
from fpd.flows.context import Context
from fpd.flows.measured import Metering, Result, metering_of, result
from fpd.flows.reports import Report
from fpd.store import carries, parts, readings
from fpd.store.carries import Next
from fpd.store.corrections import Doubt
from fpd.store.db import retried
from fpd.store.measurements import Due
from fpd.store.parts import Part, PartKey
from fpd.store.spans import Piece, Span, pages, pieces

D = TypeVar("D", bound=Due)
T = TypeVar("T")
R = TypeVar("R")

PAGE = 1000  # assets read at a time
_BREATH = 75  # assets measured without letting others work


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion(Generic[D]):
    """Groups that are measured together: several on one page, or one of any number of pages."""

    due: list[D] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)

    @property
    def assets(self) -> int:
        return sum(piece.assets for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work(Generic[D]):
    """A claimed period, what the assets did in it, and what of it is still to be carried on."""

    due: D
    period: Period
    report: Report
    nexts: list[Next] = field(default_factory=list)

    @property
    def stands(self) -> bool:
        """Whether it was reported, and so far nothing can be told of it any more.

        Interpretation: OSCP has no word to take a report back, so such a one stands, and what
        follows it goes on where it ended: nothing is told twice.
        """
        is_told = isinstance(self.due, Doubt) and self.due.body_sha256 is not None
        return is_told and self.report.is_empty


async def portions(context: Context, due: Sequence[D]) -> list[Portion[D]]:
    """Return the groups, as many at a time as are measured together."""
    if not due:
        return []
    async with context.db.connection() as conn:
        cut = await pieces(conn, [row.span for row in due], most=PAGE)
    found: list[Portion[D]] = [Portion()]
    for row, some in zip(due, cut, strict=True):
        if found[-1].due and found[-1].assets + sum(piece.assets for piece in some) > PAGE:
            found.append(Portion())
        found[-1].due.append(row)
        found[-1].pieces.extend(some)
    return found


async def measure(
    context: Context, portion: Portion[D], *, known: datetime, rules: Rules
) -> list[Work[D]]:
    """Read what is needed in a few statements for each page, and calculate asset by asset.

    What later periods take over is committed page by page: it matters to nobody until the schedule
    is advanced, and whoever measures the period again writes it again.
    """
    works = {
        (row.group_id, row.audience): Work(due=row, period=row.period, report=Report(row))
        for row in portion.due
    }
    periods = {key: work.period for key, work in works.items()}
    looks_again = isinstance(portion.due[0], Doubt)

    async def read(spans: Sequence[Span]) -> _Page:
        return await _read(context, spans, periods, known, rules, looks_again=looks_again)

    async with contextlib.aclosing(_ahead(read, pages(portion.pieces, most=PAGE))) as found:
        async for page in found:
            for first in range(0, len(page.metered), _BREATH):
                _calculate(works, page, page.metered[first : first + _BREATH], rules)
                await asyncio.sleep(0)
            await _carry_on(context, [work for work in works.values() if not work.stands])
    return list(works.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    """Assets and what was read of them; `carries_all`: also what is soon found without it."""

    metered: Sequence[Metering]
    found: Mapping[PartKey, Part]
    series: Iterator[Sequence[Reading]]
    carries_all: bool


def _calculate(
    works: Mapping[tuple[int, str], Work[D]], page: _Page, some: Sequence[Metering], rules: Rules
) -> None:
    """Add some assets to their groups' reports, and what their next periods take over."""
    results: dict[tuple[int, str], list[Result]] = {}
    for metering in some:
        work = works[metering.group]
        did = result(metering, work.period, page.found, page.series, rules)
        results.setdefault(metering.group, []).append(did)
        for key in metering.keys if page.carries_all else did.carries:
            part = page.found.get(key)
            if part is not None:
                carry = did.carries.get(key) or part.read.carried()
                work.nexts.append(Next(key, part.stream_id, work.period.end_at, carry))
    for group, of_group in results.items():
        works[group].report.add(of_group)


async def _carry_on(context: Context, works: Sequence[Work[D]]) -> None:
    nexts = [one for work in works for one in work.nexts]
    if not nexts:
        return

    @retried
    async def carried() -> None:
        async with context.db.transaction() as conn:
            await carries.carry_on(conn, nexts)

    await carried()
    for work in works:
        work.nexts.clear()


async def _read(
    context: Context,
    spans: Sequence[Span],
    periods: Mapping[tuple[int, str], Period],
    known: datetime,
    rules: Rules,
    *,
    looks_again: bool,
) -> _Page:
    metered: list[Metering] = []
    async with context.db.connection() as conn:
        async for some in readings.assets(conn, spans):
            metered += [m for asset in some if (m := metering_of(asset)) is not None]
            await asyncio.sleep(0)
    found = await _found(context, spans, known=known, rules=rules)
    async with context.db.connection() as conn:
        sought = [w for m in metered for w in m.sought(periods[m.group])]
        series = await readings.readings(conn, sought, reach=rules.hold)
        if looks_again:
            for key in await carries.told_open(conn, spans):
                if key in found:
                    found[key] = found[key].without_after()
    return _Page(metered=metered, found=found, series=iter(series), carries_all=looks_again)


async def _found(
    context: Context, spans: Sequence[Span], *, known: datetime, rules: Rules
) -> dict[PartKey, Part]:
    found: dict[PartKey, Part] = {}
    async with context.db.connection() as conn:
        async for some in parts.read(conn, spans, known=known, reach=rules.farthest):
            found.update([(part.key, part) for part in some])
            await asyncio.sleep(0)
    latest = max([p.read.after.at for p in found.values() if p.read.after], default=None)
    if latest is None or latest < known:
        return found
    # A source's clock is ahead of ours: what comes before its reading from now on comes late.
    later = latest + timedelta(microseconds=1)
    async with context.db.transaction() as conn:
        await parts.note_known(conn, until_at=later)
    return await _found(context, spans, known=later, rules=rules)


async def _ahead(work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> AsyncGenerator[R, None]:
    """Yield what `work` returns for each item, in order; that of the next one is begun before."""
    begun: deque[asyncio.Future[R]] = deque()
    try:
        for item in items:
            begun.append(asyncio.ensure_future(work(item)))
            if len(begun) > 1:
                yield await begun.popleft()
        while begun:
            yield await begun.popleft()
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
