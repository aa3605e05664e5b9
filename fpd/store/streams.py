"""Datum streams: partitions by month, writing many at once, the latest, a range.

Writing is idempotent: what a broker delivers again changes nothing.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Final

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.sql import SQL, Identifier, Literal

from fpd.domain.datum import Datum, StreamKey
from fpd.domain.packed import Packed, pack
from fpd.store.parts import WRITERS

_LOCK: Final = 0x66706401  # one partition is made at a time
_DEFAULT_USER: Final = 1
# What is later than this corrects nothing: the longest correction window and period.
_MATTERS: Final = "interval '8 days'"

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


async def make_partitions(conn: AsyncConnection, *, instants: Iterable[datetime]) -> None:
    """Make sure that the months of `instants` have a partition of their own.

    `conn` must be in a short transaction. What strayed into the default partition before its
    month had one of its own moves over.
    """
    months = sorted({instant.replace(day=1).date() for instant in instants})
    cursor = await conn.execute(
        """
        select month from unnest(%s::date[]) as month
         where to_regclass('datum_' || to_char(month, 'YYYY_MM')) is null
        """,
        (months,),
    )
    missing = [row[0] for row in await cursor.fetchall()]
    if not missing:
        return
    await conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    for month in missing:
        following = (month + timedelta(days=31)).replace(day=1)
        name = f"datum_{month:%Y_%m}"
        names = {
            "partition": Identifier(name),
            "first": Literal(f"{month} 00:00:00+00"),
            "following": Literal(f"{following} 00:00:00+00"),
        }
        exists = await conn.execute("select to_regclass(%s)", (name,))
        if await exists.fetchone() != (None,):
            continue  # another daemon was quicker
        await conn.execute(
            SQL("create table {partition} (like datum including all)").format(**names)
        )
        await conn.execute(
            SQL(
                """
                with moved as (
                    delete from datum_other where at >= {first} and at < {following} returning *
                )
                insert into {partition} select * from moved
                """
            ).format(**names)
        )
        await conn.execute(
            SQL(
                "alter table datum attach partition {partition}"
                " for values from ({first}) to ({following})"
            ).format(**names)
        )


async def drop_partitions(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop the months that ended by `before`, and older strays; return how many months."""
    cursor = await conn.execute(
        r"""
        select relname from pg_class
         where relname ~ '^datum_\d{4}_\d{2}$' and relkind = 'r' and relispartition
           and (to_date(right(relname, 7), 'YYYY_MM') + interval '1 month')::timestamp
               at time zone 'UTC' <= %s
         order by relname
        """,
        (before,),
    )
    names = [row[0] for row in await cursor.fetchall()]
    for name in names:
        await conn.execute(SQL("drop table {}").format(Identifier(name)))
    await conn.execute("delete from datum_other where at < %s", (before,))
    return len(names)


async def forget_own(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop old datum of the streams that fpd itself made of messages; return how many."""
    cursor = await conn.execute(
        """
        delete from datum as d using stream as s
         where s.id = d.stream_id and s.is_own and d.at < %s
        """,
        (before,),
    )
    return cursor.rowcount


async def write(
    conn: AsyncConnection, datums: Iterable[Datum], *, now: datetime, is_own: bool = False
) -> frozenset[int]:
    """Do what `write_packed` does. Of two for the same stream and instant the later counts."""
    newest = {packed.key: packed for packed in map(pack, datums)}
    return await write_packed(conn, newest, now=now, is_own=is_own)


async def write_packed(
    conn: AsyncConnection,
    datums: Mapping[tuple[StreamKey, int], Packed],
    *,
    now: datetime,
    is_own: bool = False,
) -> frozenset[int]:
    """Keep datum, in the caller's transaction; return the users who do not exist.

    One that is already there is replaced if it differs, and remembered as corrected at `now`;
    when it first came stays. Streams come into being here.
    Interpretation: so does the default owner, user 1; another user who has no account owns
    nothing, so nothing is kept.
    `is_own`: streams that come into being are made of messages, not read from something.
    """
    if not datums:
        return frozenset()
    await _copy(conn, datums.values())
    if await _place(conn, now) == len(datums):
        return frozenset()
    if any(stream.user_id == _DEFAULT_USER for stream, _ in datums):
        await conn.execute(
            "insert into account (user_id, created_at) values (%s, %s) on conflict do nothing",
            (_DEFAULT_USER, now),
        )
    await conn.execute(
        """
        insert into stream (user_id, node_id, source_id, created_at, is_own)
        select distinct n.user_id, n.node_id, n.source_id, %s::timestamptz, %s
          from incoming_datum as n
          join account as u on u.user_id = n.user_id
         where not exists (select from stream as s
                            where s.user_id = n.user_id and s.node_id = n.node_id
                              and s.source_id = n.source_id)
         order by n.user_id, n.node_id, n.source_id
            on conflict do nothing
        """,
        (now, is_own),
    )
    if await _place(conn, now) == len(datums):
        return frozenset()
    return await _strangers(conn)


async def _place(conn: AsyncConnection, now: datetime) -> int:
    """Write what is incoming, and return how many of them have a stream."""
    cursor = await conn.execute(
        f"""
        with placed as (
            select s.id, n.at, n.i, n.a, n.s, n.t
              from incoming_datum as n
              join stream as s on s.user_id = n.user_id and s.node_id = n.node_id
                              and s.source_id = n.source_id
             order by s.id, n.at
        ), written as (
            insert into datum as d (stream_id, at, i, a, s, t, received_at)
            select id, at, i, a, s, t, %(now)s from placed
                on conflict (stream_id, at) do update
                   set i = excluded.i, a = excluded.a, s = excluded.s, t = excluded.t,
                       corrected_at = excluded.received_at
                 where (d.i, d.a, d.s, d.t)
                       is distinct from (excluded.i, excluded.a, excluded.s, excluded.t)
            returning stream_id, at
        ), late as (
            insert into late_datum (stream_id, at)
            select w.stream_id, w.at
              from written as w cross join measured_until as m
             where w.at < m.until_at and w.at >= m.until_at - {_MATTERS}
        )
        select count(*) from placed
        """,
        {"now": now},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def _copy(conn: AsyncConnection, datums: Iterable[Packed]) -> None:
    async with conn.cursor() as cursor:
        # The rows of a batch before this one in the same transaction have been placed. Who sums
        # datum up waits until they are committed, or says before what has become late.
        await cursor.execute(
            f"""
            create temporary table if not exists incoming_datum (
                user_id bigint, node_id bigint, source_id text, at timestamptz,
                i jsonb, a jsonb, s jsonb, t text[]
            ) on commit delete rows;
            delete from incoming_datum;
            select pg_advisory_xact_lock_shared({WRITERS});
            """
        )
        async with cursor.copy(
            "copy incoming_datum (user_id, node_id, source_id, at, i, a, s, t)"
            " from stdin (format binary)"
        ) as copy:
            await copy.write(_HEADER)
            rows = map(_row, datums)
            while part := b"".join(islice(rows, _AT_ONCE)):
                await copy.write(part)
                await asyncio.sleep(0)
            await copy.write(_TRAILER)


# PostgreSQL's binary COPY. What is done by hand here takes psycopg five times as long, and more
# of the event loop's time than anything else that a datum needs.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_AT_ONCE: Final = 500  # rows; others get their turn in between
_Y2000_US: Final = 946_684_800_000_000
_TEXT: Final = 25  # the oid of text
_timestamp: Final = struct.Struct(">iq").pack
_jsonb: Final = struct.Struct(">iB").pack


def _row(datum: Packed) -> bytes:
    stream, at_us, i, a, s, t = datum
    return b"".join(
        (
            _stream(stream),
            _timestamp(8, at_us - _Y2000_US),
            _jsonb(len(i) + 1, 1) + i if i else _NULL,
            _jsonb(len(a) + 1, 1) + a if a else _NULL,
            _jsonb(len(s) + 1, 1) + s if s else _NULL,
            _texts(t) if t else _NULL,
        )
    )


@lru_cache(maxsize=20_000)
def _stream(stream: StreamKey) -> bytes:
    source = stream.source_id.encode()
    ids = struct.pack(">hiqiq", 8, 8, stream.user_id, 8, stream.node_id)
    return ids + struct.pack(">i", len(source)) + source


def _texts(texts: Sequence[str]) -> bytes:
    encoded = [text.encode() for text in texts]
    elements = b"".join(struct.pack(">i", len(text)) + text for text in encoded)
    array = struct.pack(">iiIii", 1, 0, _TEXT, len(encoded), 1) + elements
    return struct.pack(">i", len(array)) + array


async def _strangers(conn: AsyncConnection) -> frozenset[int]:
    cursor = await conn.execute(
        """
        select distinct n.user_id
          from incoming_datum as n
         where not exists (select from account as u where u.user_id = n.user_id)
        """
    )
    return frozenset([row[0] for row in await cursor.fetchall()])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    user_id: int
    node_id: int
    source_id: str
    at: datetime
    i: str | None
    a: str | None
    s: str | None
    t: list[str] | None

    def datum(self) -> Datum:
        return Datum(
            stream=StreamKey(self.user_id, self.node_id, self.source_id),
            at=self.at,
            i=_decode(self.i) if self.i else {},
            a=_decode(self.a) if self.a else {},
            s=_decode(self.s) if self.s else {},
            t=tuple(self.t or ()),
        )


async def latest(
    conn: AsyncConnection, *, streams: Sequence[StreamKey], after: datetime, until: datetime
) -> dict[StreamKey, Datum]:
    """Return the newest datum in (after, until] of each stream that has one."""
    cursor = conn.cursor(row_factory=class_row(_Row))
    await cursor.execute(
        """
        select s.user_id, s.node_id, s.source_id, d.at,
               d.i::text as i, d.a::text as a, d.s::text as s, d.t
          from unnest(%(users)s::bigint[], %(nodes)s::bigint[], %(sources)s::text[])
               as wanted (user_id, node_id, source_id)
          join stream as s using (user_id, node_id, source_id)
         cross join lateral (
               select at, i, a, s, t
                 from datum
                where stream_id = s.id and at > %(after)s and at <= %(until)s
                order by at desc
                limit 1) as d
        """,
        {
            "users": [stream.user_id for stream in streams],
            "nodes": [stream.node_id for stream in streams],
            "sources": [stream.source_id for stream in streams],
            "after": after,
            "until": until,
        },
    )
    found = [row.datum() for row in await cursor.fetchall()]
    return {datum.stream: datum for datum in found}


async def between(
    conn: AsyncConnection,
    *,
    stream: StreamKey,
    start_at: datetime,
    end_at: datetime,
    limit: int,
) -> list[Datum]:
    """Return the datum of a stream in [start_at, end_at), oldest first, at most `limit`."""
    cursor = conn.cursor(row_factory=class_row(_Row))
    await cursor.execute(
        """
        select s.user_id, s.node_id, s.source_id, d.at,
               d.i::text as i, d.a::text as a, d.s::text as s, d.t
          from stream as s
          join datum as d on d.stream_id = s.id
         where s.user_id = %(user_id)s and s.node_id = %(node_id)s
           and s.source_id = %(source_id)s
           and d.at >= %(start_at)s and d.at < %(end_at)s
         order by d.at
         limit %(limit)s
        """,
        {**stream._asdict(), "start_at": start_at, "end_at": end_at, "limit": limit},
    )
    return [row.datum() for row in await cursor.fetchall()]
