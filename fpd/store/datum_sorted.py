"""Datum in an order that somebody asks for, whatever streams they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

from psycopg import AsyncConnection

from fpd.store.datum_out import COLUMNS, Stream, Told, line, values_of

Key = Literal["created", "node", "source"]


class Sort(NamedTuple):
    """What is compared, and whether the greatest comes first."""

    key: Key
    descending: bool


_KEYS: Final[Mapping[Key, str]] = {"created": "at", "node": "node_id", "source": "source_id"}


async def page(
    conn: AsyncConnection,
    wanted: Sequence[Stream],
    told: Told,
    sorts: Sequence[Sort],
    *,
    start_at: datetime,
    end_at: datetime,
    offset: int,
    limit: int,
) -> tuple[str, int]:
    """Return the text of at most `limit` datum in [start_at, end_at) behind the first `offset`, and
    how many they are.

    Of no stream can more than offset + limit be among them, so no more are read of any.
    """
    orders = [f"{_KEYS[key]} {'desc' if descending else 'asc'}" for key, descending in sorts]
    newest_first = Sort("created", True) in sorts
    order = ", ".join([*orders, "position", f"at {'desc' if newest_first else 'asc'}"])
    cursor = await conn.execute(
        f"""
        with page as materialized (
            select w.*, d.*
              from unnest(%(ids)s::bigint[], %(heads)s::text[], %(nodes)s::bigint[],
                          %(sources)s::text[])
                   with ordinality as w (id, head, node_id, source_id, position)
             cross join lateral (
                   select {COLUMNS}
                     from datum
                    where stream_id = w.id and at >= %(start)s and at < %(end)s
                    order by at {"desc" if newest_first else "asc"}
                    limit %(most)s) as d
             order by {order}
             limit %(limit)s offset %(offset)s
        )
        select count(*), coalesce(string_agg({line(told)}, %(separator)s order by {order}), '')
          from page
        """,
        {
            **values_of(wanted, told),
            "nodes": [stream.node_id for stream in wanted],
            "sources": [stream.source_id for stream in wanted],
            "start": start_at,
            "end": end_at,
            "most": offset + limit,
            "limit": limit,
            "offset": offset,
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    return row[1], row[0]
