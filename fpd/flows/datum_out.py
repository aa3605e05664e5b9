"""Datum asked for: which streams are meant, page after page of them, aggregated if need be.

No connection is held between two pages: who reads slowly costs nothing but a place in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from fpd.domain.aggregate import Aggregation, Calendar, Values, aligned, gains, means, periods
from fpd.domain.measurement import Period, Rules, Summary, joined
from fpd.errors import Malformed
from fpd.flows.context import Context
from fpd.store import datum_out as store
from fpd.store import datum_sums
from fpd.store.datum_out import Page, Place, Stream, Told
from fpd.store.datum_sums import Around, Property

_FIRST: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)
PAGE: Final = 2000  # datum at a time: a few ms of the database's, some 200 kB
_NAMES: Final = 50_000  # datum at a time whose properties' names are looked up
_PERIODS: Final = 2000  # periods of all streams at a time
_SPAN: Final = timedelta(days=7)  # of all streams at a time
_BREATH: Final = 50
_DAY: Final = timedelta(days=1)
_YEAR: Final = timedelta(days=366)  # the longest period
LONGEST: Final = timedelta(days=3660)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Datum of a user (None: of everybody) in [start_at, end_at); no nodes or sources: of all.

    `sources` may be patterns. `properties`: these only, if any; `registers`: these accumulate.
    """

    user_id: int | None
    start_at: datetime
    end_at: datetime
    node_ids: tuple[int, ...] = ()
    sources: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    registers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Leave out times of which there cannot be datum: reckoning with them would overflow."""
        for name in ("start_at", "end_at"):
            at = min(max(getattr(self, name), _FIRST), _LAST)
            object.__setattr__(self, name, at)

    @property
    def slash(self) -> bool:
        """Whether who asks writes source ids with a leading slash, so that we do, too."""
        return bool(self.sources) and all(source.startswith("/") for source in self.sources)


async def streams(context: Context, asked: Asked) -> list[Stream]:
    """Return the streams that are meant, in order of their ids."""
    async with context.db.connection() as conn:
        return await store.streams(
            conn, user_id=asked.user_id, node_ids=asked.node_ids, sources=asked.sources
        )


async def page(
    context: Context,
    asked: Asked,
    wanted: Sequence[Stream],
    told: Told,
    *,
    after: Place | None = None,
    limit: int = PAGE,
) -> Page:
    """Return the first `limit` datum after a place, or fewer if there are no more."""
    texts, count = [], 0
    while True:
        async with context.db.connection() as conn:
            some = await store.page(
                conn,
                wanted,
                told,
                start_at=asked.start_at,
                end_at=asked.end_at,
                after=after,
                limit=limit - count,
            )
        texts.append(some.text)
        count += some.count
        after = some.last
        if after is None or count >= limit:
            return Page(told.separator.join(filter(None, texts)), count, after)


async def pages(
    context: Context, asked: Asked, wanted: Sequence[Stream], told: Told
) -> AsyncIterator[Page]:
    """Yield all of it, page by page."""
    after: Place | None = None
    while True:
        some = await page(context, asked, wanted, told, after=after)
        yield some
        after = some.last
        if after is None:
            return


async def names(context: Context, asked: Asked, wanted: Sequence[Stream]) -> list[str]:
    """Return the names of all properties there are, in order."""
    found: set[str] = set()
    after: Place | None = None
    while True:
        async with context.db.connection() as conn:
            some, after = await store.names(
                conn,
                wanted,
                start_at=asked.start_at,
                end_at=asked.end_at,
                after=after,
                limit=_NAMES,
            )
        found |= some
        if after is None:
            return sorted(found)


async def latest(
    context: Context, wanted: Sequence[Stream], told: Told, *, limit: int = PAGE
) -> AsyncIterator[Page]:
    """Yield the newest datum of each stream, of `limit` streams at a time."""
    now = context.clock()
    for first in range(0, len(wanted), limit):
        async with context.db.connection() as conn:
            some = await store.latest(conn, wanted[first : first + limit], told, now=now)
        more = first + limit < len(wanted)
        yield replace(some, last=Place(wanted[first + limit - 1].id, now) if more else None)


async def interval(context: Context, wanted: Sequence[Stream]) -> tuple[datetime, datetime] | None:
    """Return the times of the first and the last datum of these streams; None without any."""
    async with context.db.connection() as conn:
        return await store.interval(conn, wanted)


async def narrowed(
    context: Context, asked: Asked, wanted: Sequence[Stream], *, longest: timedelta = _DAY
) -> Asked:
    """Return the same without the time in which there are no datum.

    `longest`: how long a period may be that the first of them is in.
    """
    found = await interval(context, wanted)
    if found is None:
        return replace(asked, end_at=asked.start_at)
    first, last = found
    return replace(
        asked,
        start_at=max(asked.start_at, first - longest),
        end_at=min(asked.end_at, last + timedelta(microseconds=1)),
    )


async def counted(
    context: Context, asked: Asked, wanted: Sequence[Stream], *, offset: int
) -> tuple[int, Place | None]:
    """Return how many datum there are, and the place of number `offset` (0: None) of them."""
    bounds = {"start_at": asked.start_at, "end_at": asked.end_at}
    async with context.db.connection() as conn:
        of = await store.counts(conn, wanted, **bounds)
    total, rest = sum(of.values()), offset
    for stream in wanted:
        found = of.get(stream.id, 0)
        if 0 < rest <= found:
            async with context.db.connection() as conn:
                return total, await store.nth(conn, stream, rest, **bounds)
        rest -= found
    return total, Place(wanted[-1].id, asked.end_at) if offset and wanted else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a stream's datum of the period from `at` on make; both by property."""

    stream: Stream
    at: datetime
    i: Values
    a: Values


async def aggregated(
    context: Context,
    asked: Asked,
    wanted: Sequence[Stream],
    aggregation: Aggregation | Calendar,
    *,
    after: Place | None = None,
    with_levels: bool = False,
    kind: str | None = None,
) -> AsyncIterator[list[Row]]:
    """Yield a row of each whole period that begins in the time asked for, stream by stream.

    Periods without any are left out. `kind` "a": registers only. Raises Malformed when the time is
    longer than ten years.
    """
    longest = _YEAR if isinstance(aggregation, Calendar) else _DAY
    asked = await narrowed(context, asked, wanted, longest=longest)
    if asked.end_at - asked.start_at > LONGEST + longest:
        raise Malformed("at most ten years can be aggregated at once")
    rules = rules_of(context)
    rest = [s for s in wanted if after is None or s.id > after.stream_id]
    begun = [s for s in wanted if after is not None and s.id == after.stream_id]
    for stream in begun:
        assert after is not None
        later = replace(asked, start_at=max(asked.start_at, after.at + timedelta(microseconds=1)))
        for some, span in _portions([stream], later, aggregation):
            yield await _rows(context, asked, some, span, rules, with_levels, kind)
    for some, span in _portions(rest, asked, aggregation):
        yield await _rows(context, asked, some, span, rules, with_levels, kind)


def _portions(
    wanted: Sequence[Stream], asked: Asked, aggregation: Aggregation | Calendar
) -> Iterator[tuple[Sequence[Stream], Sequence[Period]]]:
    """Yield as many streams and periods at a time as one statement sums up quickly."""
    if isinstance(aggregation, Calendar):
        for stream in wanted:
            for period in aggregation.periods(asked.start_at, asked.end_at):
                yield [stream], [period]
        return
    first_at = aligned(asked.start_at, aggregation)
    whole = max(-((first_at - asked.end_at) // aggregation.length), 0)
    most = max(min(_PERIODS, _SPAN // aggregation.length), 1)
    each = max(most // whole, 1) if whole else 1
    for first in range(0, len(wanted), each):
        for begun in range(0, whole, most):
            start_at = first_at + begun * aggregation.length
            yield (
                wanted[first : first + each],
                periods(start_at, min(most, whole - begun), aggregation),
            )


async def _sums(
    context: Context,
    asked: Asked,
    some: Sequence[Stream],
    span: Sequence[Period],
    kind: str | None,
) -> dict[Property, dict[datetime, Summary]]:
    """Sum up periods; one that is longer than a day, alone in its span, week by week."""
    length = span[0].end_at - span[0].start_at
    found: dict[Property, dict[datetime, Summary]] = {}
    at, end_at = span[0].start_at, span[-1].end_at
    while at < end_at:
        until_at = min(at + _SPAN, end_at) if length > _DAY else end_at
        async with context.db.connection() as conn:
            some_sums = await datum_sums.sums(
                conn,
                [stream.id for stream in some],
                start_at=at,
                end_at=until_at,
                length=min(length, _DAY),
                properties=asked.properties,
                registers=asked.registers,
                kind=kind,
            )
        if length <= _DAY:
            return some_sums
        for key, by_day in some_sums.items():
            whole = found.setdefault(key, {})
            for day in sorted(by_day):
                known = whole.get(span[0].start_at)
                whole[span[0].start_at] = joined(known, by_day[day]) if known else by_day[day]
        at = until_at
    return found


async def _rows(
    context: Context,
    asked: Asked,
    some: Sequence[Stream],
    span: Sequence[Period],
    rules: Rules,
    with_levels: bool,
    kind: str | None,
) -> list[Row]:
    start_at, end_at = span[0].start_at, span[-1].end_at
    sums = await _sums(context, asked, some, span, kind)
    async with context.db.connection() as conn:
        # Also in a time without readings a register may be known to have moved.
        for key in await datum_sums.registers(
            conn,
            [stream.id for stream in some],
            before=end_at,
            known=asked.registers,
            properties=asked.properties,
        ):
            sums.setdefault(key, {})
        near = await datum_sums.around(
            conn, list(sums), start_at=start_at, end_at=end_at, reach=rules.reach
        )
    rows: dict[tuple[int, datetime], Row] = {}
    of = {stream.id: stream for stream in some}
    for number, (key, found) in enumerate(sums.items()):
        edges = near.get(key, Around())
        if number % _BREATH == 0:
            await asyncio.sleep(0)
        if key.kind == "a":
            told = gains(
                key.name,
                found,
                span,
                before=edges.before,
                after=edges.after,
                rules=rules,
                with_levels=with_levels,
            )
        else:
            told = means(
                key.name, found, span, before=edges.before, rules=rules, now=context.clock()
            )
        for at, values in told:
            place = (key.stream_id, at)
            row = rows.setdefault(place, Row(stream=of[key.stream_id], at=at, i={}, a={}))
            (row.a if key.kind == "a" else row.i).update(values)
    return [rows[place] for place in sorted(rows)]


def rules_of(context: Context) -> Rules:
    """Return the rules that measurements are made by."""
    settings = context.config.measurements
    return Rules(
        hold=timedelta(seconds=settings.hold_s),
        reach=timedelta(seconds=settings.neighbour_s),
        plain_mean=settings.average == "mean",
    )
