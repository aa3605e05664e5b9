"""What was read: the assets of a group, and the readings of their properties around a period."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.measurement import Reading
from fpd.store.measurements import Due

# How many datum are searched beyond a period's edges for one that has the property.
_SEARCHED: Final = 100
_ROWS: Final = 250  # read at a time, so that nobody waits for long


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """An enabled asset; `instantaneous` and `energy` as the management API keeps them, in JSON."""

    id: int
    group_id: int
    audience: str
    user_id: int
    identifier: str
    category: str
    phase: str
    node_id: int
    source_id: str
    instantaneous: str | None
    energy: str | None


async def count_assets(conn: AsyncConnection, due: Sequence[Due]) -> dict[tuple[int, str], int]:
    """Return how many enabled assets the claimed groups have for their audiences, if any."""
    cursor = await conn.execute(
        """
        select group_id, audience, count(*)
          from asset
          join unnest(%s::bigint[], %s::text[]) as wanted (group_id, audience)
               using (group_id, audience)
         where enabled
         group by group_id, audience
        """,
        ([row.group_id for row in due], [row.audience for row in due]),
    )
    return {(row[0], row[1]): row[2] for row in await cursor.fetchall()}


async def assets(conn: AsyncConnection, due: Sequence[Due]) -> AsyncIterator[list[Asset]]:
    """Yield the enabled assets of the claimed groups for their audiences, in order of ids."""
    cursor = conn.cursor(row_factory=class_row(Asset))
    await cursor.execute(
        """
        select a.id, a.group_id, a.audience, a.user_id, a.identifier, a.category, a.phase,
               a.node_id, ltrim(a.source_id, '/') as source_id,
               nullif(a.instantaneous, 'null')::text as instantaneous,
               nullif(a.energy, 'null')::text as energy
          from asset as a
          join unnest(%s::bigint[], %s::text[]) as wanted (group_id, audience)
            on a.group_id = wanted.group_id and a.audience = wanted.audience
         where a.enabled
         order by a.id
        """,
        ([row.group_id for row in due], [row.audience for row in due]),
    )
    while some := await cursor.fetchmany(_ROWS):
        yield some


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """A property of an asset's stream around [start_at, end_at).

    `accumulating`: it is looked for among the accumulating properties first, else among the
    instantaneous ones first. Flat datum do not tell the two apart.
    """

    asset: Asset
    property: str
    accumulating: bool
    start_at: datetime
    end_at: datetime


# Classes hold nothing but numbers; which of them is asked first is a matter of what is sought.
_NUMBER: Final = """
    case when w.accumulating then coalesce(a -> w.property, i -> w.property)
         else coalesce(i -> w.property, a -> w.property) end as number
"""
# Bounds as constants, so that partitions out of question are not even looked at.
_POSSIBLE: Final = "at >= %(earliest)s and at < %(latest)s"


async def readings(
    conn: AsyncConnection, sought: Sequence[Sought], *, reach: timedelta
) -> list[tuple[Reading, ...]]:
    """Return the readings of each property, in order of time.

    They begin with the last one before the start and end with the first one at or after the end,
    if these are at most `reach` away from it.
    """
    found: list[tuple[Reading, ...]] = [()] * len(sought)
    if not sought:
        return found
    cursor = await conn.execute(
        f"""
        with sought as materialized (
            select w.position, s.id as stream_id, w.property, w.accumulating,
                   w.start_at, w.end_at
              from unnest(%(users)s::bigint[], %(nodes)s::bigint[], %(sources)s::text[],
                          %(properties)s::text[], %(accumulating)s::boolean[],
                          %(starts)s::timestamptz[], %(ends)s::timestamptz[])
                   with ordinality as w (user_id, node_id, source_id, property, accumulating,
                                         start_at, end_at, position)
              join stream as s using (user_id, node_id, source_id)
        ), found as (
            select w.position, d.at, d.number
              from sought as w
             cross join lateral (
                   select at, {_NUMBER} from datum
                    where stream_id = w.stream_id and {_POSSIBLE}
                      and at >= w.start_at and at < w.end_at) as d
             union all
            select w.position, d.at, d.number
              from sought as w
             cross join lateral (
                   select at, number
                     from (select at, {_NUMBER} from datum
                            where stream_id = w.stream_id and {_POSSIBLE}
                              and at >= w.start_at - %(reach)s and at < w.start_at
                            order by at desc limit %(searched)s) as near
                    where number is not null order by at desc limit 1) as d
             union all
            select w.position, d.at, d.number
              from sought as w
             cross join lateral (
                   select at, number
                     from (select at, {_NUMBER} from datum
                            where stream_id = w.stream_id and {_POSSIBLE}
                              and at >= w.end_at and at < w.end_at + %(reach)s
                            order by at limit %(searched)s) as near
                    where number is not null order by at limit 1) as d
        )
        select position, at, number::numeric
          from found
         where jsonb_typeof(number) = 'number'
         order by position, at
        """,
        {
            "users": [w.asset.user_id for w in sought],
            "nodes": [w.asset.node_id for w in sought],
            "sources": [w.asset.source_id for w in sought],
            "properties": [w.property for w in sought],
            "accumulating": [w.accumulating for w in sought],
            "starts": [w.start_at for w in sought],
            "ends": [w.end_at for w in sought],
            "reach": reach,
            "searched": _SEARCHED,
            "earliest": min(w.start_at for w in sought) - reach,
            "latest": max(w.end_at for w in sought) + reach,
        },
    )
    for position, rows in groupby(await cursor.fetchall(), key=itemgetter(0)):
        read = [Reading(at, value) for _, at, value in rows]
        found[position - 1] = tuple(read)
    return found
