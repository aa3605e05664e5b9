"""What was read: the assets of a group, and the readings of their properties around a period."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
from psycopg import AsyncConnection

from fpd.domain.measurement import Reading
from fpd.store.spans import ASSETS, Span, parameters

# How many datum are searched beyond a period's edges for one that has the property.
_SEARCHED: Final = 100
_ROWS: Final = 250  # read at a time, so that nobody waits for long


class Asset(msgspec.Struct, frozen=True, gc=False):
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


async def assets(conn: AsyncConnection, spans: Sequence[Span]) -> AsyncIterator[list[Asset]]:
    """Yield the enabled assets of these groups for their audiences, in order of ids."""
    cursor = await conn.execute(
        f"""
        select a.id, a.group_id, a.audience, a.user_id, a.identifier, a.category, a.phase,
               a.node_id, ltrim(a.source_id, '/') as source_id,
               nullif(a.instantaneous, 'null')::text as instantaneous,
               nullif(a.energy, 'null')::text as energy
          from ({ASSETS}) as a
         order by a.id
        """,
        parameters(spans),
        binary=True,
    )
    while some := await cursor.fetchmany(_ROWS):
        yield [Asset(*row) for row in some]


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
) -> list[list[Reading]]:
    """Return the readings of each property, in order of time.

    They begin with the last one before the start and end with the first one at or after the end,
    if these are at most `reach` away from it.
    """
    found: list[list[Reading]] = [[] for _ in sought]
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
    while some := await cursor.fetchmany(_ROWS):
        for position, at, value in some:
            found[position - 1].append(Reading(at, value))
        await asyncio.sleep(0)
    return found
