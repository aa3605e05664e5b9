"""Datum on their way out, by stream and then by time: pages of text that PostgreSQL writes.

A page is one short statement and begins where the last one ended, so that nothing is held while
somebody reads slowly, and however many there are, one page of them is in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain import source_id as source_ids

Form = Literal["samples", "flat", "csv"]

EARLIEST: Final = datetime(1, 1, 2, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TOGETHER: Final = 500  # streams in one statement
# Newer datum are looked for first: that spares the partitions of former months.
_RECENT: Final = timedelta(days=31)
_AHEAD: Final = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """`source_id` without a leading slash. `is_own`: made of messages, not read from something."""

    id: int
    user_id: int
    node_id: int
    source_id: str
    is_own: bool


class Place(NamedTuple):
    """A datum that was told: the next page begins after it."""

    stream_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """`text`: what is told of `count` datum. `last` None: there are no more."""

    text: str
    count: int
    last: Place | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How datum are told: `separator` between them, of `csv` the `columns` beside the first three.

    `slash`: source ids are told with a leading one. `properties`: these only, if any.
    """

    form: Form
    separator: str = "\n"
    columns: tuple[str, ...] = ()
    slash: bool = False
    properties: tuple[str, ...] = ()

    def head(self, stream: Stream) -> str:
        """Return what is told of a stream with each of its datum."""
        source_id = "/" * self.slash + stream.source_id
        if self.form == "csv":
            return f",{stream.node_id},{quoted(source_id)}"
        return f'","nodeId":{stream.node_id},"sourceId":{msgspec.json.encode(source_id).decode()}'


def quoted(text: str) -> str:
    """Return a field of CSV (RFC 4180)."""
    if any(character in text for character in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


async def streams(
    conn: AsyncConnection,
    *,
    user_id: int | None,
    node_ids: Sequence[int] = (),
    sources: Sequence[str] = (),
) -> list[Stream]:
    """Return the streams of a user (None: of everybody), the oldest first.

    `sources` may be patterns; none at all, as no nodes, means all.
    """
    cursor = conn.cursor(row_factory=class_row(Stream))
    await cursor.execute(
        """
        select id, user_id, node_id, source_id, is_own
          from stream
         where (%(user_id)s::bigint is null or user_id = %(user_id)s)
           and (%(nodes)s::bigint[] is null or node_id = any(%(nodes)s))
           and (%(exact)s::text[] is null or source_id = any(%(exact)s)
                or '/' || source_id ~ any(%(patterns)s))
         order by id
        """,
        {
            "user_id": user_id,
            "nodes": list(node_ids) or None,
            "exact": [source_ids.identity(s) for s in sources] or None,
            "patterns": [source_ids.expression(s) for s in sources if source_ids.is_pattern(s)],
        },
    )
    return await cursor.fetchall()


_AT: Final = "left(to_jsonb(at) #>> '{}', -6) || 'Z'"
_CORRECTED_AT: Final = _AT.replace("at)", "corrected_at)", 1)
_LINES: Final[Mapping[Form, str]] = {
    "samples": f"""
        '{{"created":"' || {_AT} || head
        || coalesce(',"corrected":"' || {_CORRECTED_AT} || '"', '') || ',"samples":{{'
        || concat_ws(',', '"i":' || i::text, '"a":' || a::text, '"s":' || s::text,
                     '"t":' || array_to_json(t)::text) || '}}}}'
    """,
    "flat": """
        '{"created":"' || to_char(at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS')
        || 'Z' || head || ',"localDate":"' || to_char(at at time zone 'UTC', 'YYYY-MM-DD')
        || '","localTime":"' || to_char(at at time zone 'UTC', 'HH24:MI') || '"'
        || coalesce(',"tags":' || array_to_json(t)::text, '')
        || coalesce(',' || nullif(trim(
               ((coalesce(i, '{}') || coalesce(a, '{}') || coalesce(s, '{}'))
                - array['created', 'nodeId', 'sourceId', 'localDate', 'localTime', 'tags'])::text,
               '{}'), ''), '') || '}'
    """,
}


def line(told: Told) -> str:
    """Return SQL for a line. Names of columns are parameters: c0 and so on."""
    if told.form != "csv":
        return _LINES[told.form]
    fields = "".join(f" || ',' || {_field(f'%(c{n})s')}" for n in range(len(told.columns)))
    return f"{_AT} || head{fields}"


def _field(name: str) -> str:
    """Return SQL for a field: of a property in several classes the most lasting one is told, as in
    domain.datum.flat. Numbers need no quotes.
    """
    return f"""
        case when s ? {name} then case when s ->> {name} ~ '[",\\r\\n]'
                                       then '"' || replace(s ->> {name}, '"', '""') || '"'
                                       else s ->> {name} end
             else coalesce(a ->> {name}, i ->> {name}, '') end
    """


def _some(of: str) -> str:
    """Return SQL for the wanted properties of a class."""
    return f"""
        case when %(properties)s::text[] is null then {of}
             else (select jsonb_object_agg(key, value) from jsonb_each({of})
                    where key = any(%(properties)s)) end as {of}
    """


COLUMNS: Final = f"at, corrected_at, {_some('i')}, {_some('a')}, {_some('s')}, t"
# PostgreSQL knows that unnest is in order, sorts a stream at a time and stops at the limit.
_PAGE: Final = f"""
    select w.position, w.id, w.head, d.*
      from unnest(%(ids)s::bigint[], %(heads)s::text[]) with ordinality as w (id, head, position)
     cross join lateral (
           select {COLUMNS}
             from datum
            where stream_id = w.id and at >= %(start)s and at < %(end)s
              and at > case w.position when 1 then coalesce(%(after)s::timestamptz, '-infinity')
                                       else '-infinity' end
            order by at
            limit %(limit)s) as d
     order by w.position, d.at
     limit %(limit)s
"""
_LATEST: Final = f"""
    select w.position, w.id, w.head, d.*
      from unnest(%(ids)s::bigint[], %(heads)s::text[]) with ordinality as w (id, head, position)
     cross join lateral (
           select {COLUMNS}
             from datum
            where stream_id = w.id and at >= %(start)s and at < %(end)s
            order by at desc
            limit 1) as d
"""


async def page(
    conn: AsyncConnection,
    wanted: Sequence[Stream],
    told: Told,
    *,
    start_at: datetime,
    end_at: datetime,
    after: Place | None,
    limit: int,
) -> Page:
    """Return the next `limit` datum or fewer of these streams in [start_at, end_at) after a place.

    `wanted` is in order of ids.
    """
    first = _first(wanted, after)
    some = wanted[first : first + _TOGETHER]
    cursor = await conn.execute(
        f"""
        with page as materialized ({_PAGE})
        select count(*),
               coalesce(string_agg({line(told)}, %(separator)s order by position, at), ''),
               (select id from page order by position desc limit 1),
               (select at from page order by position desc, at desc limit 1)
          from page
        """,
        {
            **values_of(some, told),
            **_bounds(some, start_at, end_at, after),
            "limit": limit,
        },
    )
    count, text, stream_id, at = _only(await cursor.fetchone())
    is_last = first + len(some) >= len(wanted)
    if count == limit:
        return Page(text, count, Place(stream_id, at))
    return Page(text, count, None if is_last else Place(some[-1].id, end_at))


async def names(
    conn: AsyncConnection,
    wanted: Sequence[Stream],
    *,
    start_at: datetime,
    end_at: datetime,
    after: Place | None,
    limit: int,
) -> tuple[frozenset[str], Place | None]:
    """Return the names of the properties that a page holds, and where the next one begins."""
    first = _first(wanted, after)
    some = wanted[first : first + _TOGETHER]
    cursor = await conn.execute(
        f"""
        with page as materialized ({_PAGE})
        select count(*),
               array(select distinct jsonb_object_keys(
                         coalesce(i, '{{}}') || coalesce(a, '{{}}') || coalesce(s, '{{}}'))
                       from page),
               (select id from page order by position desc limit 1),
               (select at from page order by position desc, at desc limit 1)
          from page
        """,
        {
            **values_of(some, Told(form="csv")),
            **_bounds(some, start_at, end_at, after),
            "limit": limit,
        },
    )
    count, found, stream_id, at = _only(await cursor.fetchone())
    is_last = first + len(some) >= len(wanted)
    if count == limit:
        return frozenset(found), Place(stream_id, at)
    return frozenset(found), None if is_last else Place(some[-1].id, end_at)


async def latest(
    conn: AsyncConnection,
    wanted: Sequence[Stream],
    told: Told,
    *,
    now: datetime,
) -> Page:
    """Return the newest datum of each of these streams that has one.

    Of a stream that is made of messages it is the newest one that is not ahead of `now`: forecasts
    are of times to come.
    """
    texts, count = [], 0
    own = [stream for stream in wanted if stream.is_own]
    read = [stream for stream in wanted if not stream.is_own]
    for some, end_at in ((read, now + _AHEAD), (own, now + _MICROSECOND)):
        text, found = await _latest(conn, some, told, now - _RECENT, end_at)
        rest = [stream for stream in some if stream.id not in found]
        older, also = await _latest(conn, rest, told, EARLIEST, now - _RECENT)
        texts += [text, older]
        count += len(found) + len(also)
    return Page(told.separator.join(filter(None, texts)), count, None)


async def _latest(
    conn: AsyncConnection,
    some: Sequence[Stream],
    told: Told,
    start_at: datetime,
    end_at: datetime,
) -> tuple[str, frozenset[int]]:
    if not some:
        return "", frozenset()
    cursor = await conn.execute(
        f"""
        with page as materialized ({_LATEST})
        select coalesce(string_agg({line(told)}, %(separator)s order by position), ''),
               coalesce(array_agg(id), '{{}}')
          from page
        """,
        {**values_of(some, told), "start": start_at, "end": end_at},
    )
    text, ids = _only(await cursor.fetchone())
    return text, frozenset(ids)


async def counts(
    conn: AsyncConnection, wanted: Sequence[Stream], *, start_at: datetime, end_at: datetime
) -> dict[int, int]:
    """Return how many datum each of these streams has in [start_at, end_at)."""
    cursor = await conn.execute(
        """
        select stream_id, count(*) from datum
         where stream_id = any(%(ids)s) and at >= %(start)s and at < %(end)s
         group by stream_id
        """,
        {"ids": [stream.id for stream in wanted], "start": start_at, "end": end_at},
    )
    return dict(await cursor.fetchall())


async def nth(
    conn: AsyncConnection, stream: Stream, number: int, *, start_at: datetime, end_at: datetime
) -> Place:
    """Return the place of a stream's datum in [start_at, end_at), the first is number 1.

    There are at least so many.
    """
    cursor = await conn.execute(
        """
        select at from datum
         where stream_id = %(id)s and at >= %(start)s and at < %(end)s
         order by at offset %(number)s - 1 limit 1
        """,
        {"id": stream.id, "start": start_at, "end": end_at, "number": number},
    )
    row = await cursor.fetchone()
    return Place(stream.id, end_at if row is None else row[0])


async def interval(
    conn: AsyncConnection, wanted: Sequence[Stream]
) -> tuple[datetime, datetime] | None:
    """Return the times of the first and the last datum of these streams; None without any."""
    cursor = await conn.execute(
        """
        select min(least), max(most)
          from unnest(%(ids)s::bigint[]) as w (id)
         cross join lateral (
               select (select at from datum where stream_id = w.id order by at limit 1) as least,
                      (select at from datum where stream_id = w.id order by at desc limit 1)
                      as most) as d
        """,
        {"ids": [stream.id for stream in wanted]},
    )
    first, last = _only(await cursor.fetchone())
    return None if first is None else (first, last)


def _first(wanted: Sequence[Stream], after: Place | None) -> int:
    if after is None:
        return 0
    return bisect_left(wanted, after.stream_id, key=lambda stream: stream.id)


def values_of(some: Sequence[Stream], told: Told) -> dict[str, Any]:
    """Return what `COLUMNS` and `line` refer to."""
    return {
        "ids": [stream.id for stream in some],
        "heads": [told.head(stream) for stream in some],
        **{f"c{n}": name for n, name in enumerate(told.columns)},
        "properties": list(told.properties) or None,
        "separator": told.separator,
    }


def _bounds(
    some: Sequence[Stream], start_at: datetime, end_at: datetime, after: Place | None
) -> dict[str, Any]:
    is_begun = after is not None and bool(some) and some[0].id == after.stream_id
    return {
        "start": start_at,
        "end": end_at,
        "after": after.at if after is not None and is_begun else None,
    }


def _only(row: tuple[Any, ...] | None) -> tuple[Any, ...]:
    assert row is not None
    return row
