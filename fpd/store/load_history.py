"""What was measured quarter by quarter, kept so that the load of a weekday can be expected.

Each quarter of an hour is summed up once, and once more an hour later for late datum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store.control import Property


@dataclass(frozen=True, slots=True)
class Known:
    """A property's stream, and from when until when its quarters are summed up, None: never."""

    property: Property
    stream_id: int
    from_at: datetime | None
    until_at: datetime | None


async def known(conn: AsyncConnection, properties: Sequence[Property]) -> list[Known]:
    """Return how far the properties that have a stream are summed up."""
    cursor = await conn.execute(
        """
        select p.position, s.id, k.from_at, k.until_at
          from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[])
               with ordinality as p (user_id, node_id, source_id, name, position)
          join stream as s on s.user_id = p.user_id and s.node_id = p.node_id
                          and s.source_id = ltrim(p.source_id, '/')
          left join load_known as k on k.stream_id = s.id and k.name = p.name
        """,
        _columns(properties),
    )
    return [
        Known(properties[position - 1], stream_id, from_at, until_at)
        for position, stream_id, from_at, until_at in await cursor.fetchall()
    ]


def _columns(properties: Sequence[Property]) -> tuple[list[int], list[int], list[str], list[str]]:
    return (
        [p.user_id for p in properties],
        [p.node_id for p in properties],
        [p.source_id for p in properties],
        [p.name for p in properties],
    )


async def sum_up(conn: AsyncConnection, of: Known, *, start_at: datetime, end_at: datetime) -> bool:
    """Sum up the quarters of [start_at, end_at) of a property; tell whether there was anything.

    Interpretation: a quarter's mean is that of its readings.
    """
    cursor = await conn.execute(
        """
        insert into load_quarter (stream_id, name, tick, mean, least, most)
        select %(stream)s, %(name)s, floor(extract(epoch from at) / 900)::integer,
               avg(value), min(value), max(value)
          from (select at, (i ->> %(name)s)::double precision as value
                  from (select at, i from datum
                         where stream_id = %(stream)s and at >= %(start)s and at < %(end)s
                        offset 0) as d
                 where jsonb_typeof(i -> %(name)s) = 'number') as v
         group by 3
            on conflict (stream_id, name, tick) do update
               set mean = excluded.mean, least = excluded.least, most = excluded.most
        """,
        {"stream": of.stream_id, "name": of.property.name, "start": start_at, "end": end_at},
    )
    return cursor.rowcount > 0


async def note(conn: AsyncConnection, of: Known, *, from_at: datetime, until_at: datetime) -> None:
    """Note that the quarters of a property during [from_at, until_at) are summed up."""
    await conn.execute(
        """
        insert into load_known as k (stream_id, name, from_at, until_at)
        values (%(stream)s, %(name)s, %(from)s, %(until)s)
            on conflict (stream_id, name) do update
               set from_at = least(k.from_at, excluded.from_at),
                   until_at = greatest(k.until_at, excluded.until_at)
        """,
        {"stream": of.stream_id, "name": of.property.name, "from": from_at, "until": until_at},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarter:
    """What a property was in one quarter of the week (tick modulo 672) over some weeks."""

    position: int
    of_week: int
    mean: float
    least: float
    most: float
    count: int


async def quarters(
    conn: AsyncConnection, properties: Sequence[Property], *, first: int, until: int
) -> list[Quarter]:
    """Return what the properties (by position) were in the ticks [first, until), by quarter."""
    cursor = conn.cursor(row_factory=class_row(Quarter))
    await cursor.execute(
        """
        select (p.position - 1)::integer as position, q.tick %% 672 as of_week,
               avg(q.mean) as mean, min(q.least) as least, max(q.most) as most,
               count(*)::integer as count
          from unnest(%s::bigint[], %s::bigint[], %s::text[], %s::text[])
               with ordinality as p (user_id, node_id, source_id, name, position)
          join stream as s on s.user_id = p.user_id and s.node_id = p.node_id
                          and s.source_id = ltrim(p.source_id, '/')
          join load_quarter as q on q.stream_id = s.id and q.name = p.name
                                and q.tick >= %s and q.tick < %s
         group by 1, 2
        """,
        (*_columns(properties), first, until),
    )
    return await cursor.fetchall()


async def announced(
    conn: AsyncConnection, of: Property, *, start_at: datetime, end_at: datetime, limit: int
) -> list[tuple[datetime, float]]:
    """Return the values of a property during [start_at, end_at), first come first."""
    cursor = await conn.execute(
        """
        select d.at, (d.i ->> %(name)s)::double precision
          from stream as s
          join datum as d on d.stream_id = s.id and d.at >= %(start)s and d.at < %(end)s
         where s.user_id = %(user)s and s.node_id = %(node)s
           and s.source_id = ltrim(%(source)s, '/')
           and jsonb_typeof(d.i -> %(name)s) = 'number'
         order by d.at
         limit %(limit)s
        """,
        {
            "name": of.name,
            "user": of.user_id,
            "node": of.node_id,
            "source": of.source_id,
            "start": start_at,
            "end": end_at,
            "limit": limit,
        },
    )
    return await cursor.fetchall()


async def forget(conn: AsyncConnection, *, before_tick: int) -> int:
    """Drop quarters that no expectation looks at any more; return how many."""
    cursor = await conn.execute("delete from load_quarter where tick < %s", (before_tick,))
    return cursor.rowcount
