"""What periods take over from those before them; kept in their parts (see `fpd.store.parts`)."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from psycopg import AsyncConnection

from fpd.domain.measurement import Carry
from fpd.store.parts import CARRY, SUMMARY_OF_SAME, PartKey, all_of
from fpd.store.spans import ASSETS, Span, parameters

_ROWS: Final = 250  # written at a time, so that nobody waits for long


class Next(msgspec.Struct, frozen=True, gc=False):
    """What the period from `start_at` on takes over."""

    key: PartKey
    stream_id: int
    start_at: datetime
    carry: Carry


async def carry_on(conn: AsyncConnection, nexts: Sequence[Next]) -> None:
    """Have later periods begin where earlier ones end, and with nothing of another source.

    The transaction does not wait for the disk; what is committed after it does, and takes it along.
    """
    await conn.execute("set local synchronous_commit = off")
    for first in range(0, len(nexts), _ROWS):
        await _carry_on(conn, nexts[first : first + _ROWS])
        await asyncio.sleep(0)


async def _carry_on(conn: AsyncConnection, nexts: Sequence[Next]) -> None:
    before = [one.carry.before for one in nexts]
    since = [one.carry.since for one in nexts]
    await conn.execute(
        f"""
        insert into measured_part as p (asset_id, kind, property, stream_id, start_at, before_at,
                                        before_value, bridge, is_open, since_at, since_level,
                                        until_at)
        select n.asset_id, n.kind, n.property, n.stream_id, n.start_at, n.before_at,
               n.before_value, n.bridge, n.is_open, n.since_at, n.since_level, n.start_at
          from unnest(%(assets)s::bigint[], %(kinds)s::text[], %(properties)s::text[],
                      %(streams)s::bigint[], %(starts)s::timestamptz[], %(befores)s::timestamptz[],
                      %(values)s::numeric[], %(bridges)s::numeric[], %(open)s::boolean[],
                      %(sinces)s::timestamptz[], %(levels)s::text[])
               as n (asset_id, kind, property, stream_id, start_at, before_at, before_value,
                     bridge, is_open, since_at, since_level)
         where exists (select from asset as a where a.id = n.asset_id)
            on conflict (asset_id, kind, property, start_at) do update
           set ({CARRY}) = ({all_of("excluded", CARRY)}), stream_id = excluded.stream_id,
               {SUMMARY_OF_SAME}
         where ({all_of("p", CARRY)}, p.stream_id)
               is distinct from ({all_of("excluded", CARRY)}, excluded.stream_id)
        """,
        {
            "assets": _array([one.key.asset_id for one in nexts]),
            "kinds": _array([one.key.kind for one in nexts]),
            "properties": "{" + ",".join([_quoted(one.key.property) for one in nexts]) + "}",
            "streams": _array([one.stream_id for one in nexts]),
            "starts": _array([_text(one.start_at) for one in nexts]),
            "befores": _array([None if r is None else r.at for r in before]),
            "values": _array([None if r is None else r.value for r in before]),
            "bridges": _array([one.carry.bridge for one in nexts]),
            "open": _array([one.carry.is_open for one in nexts]),
            "sinces": _array([None if level is None else level.at for level in since]),
            "levels": _array([None if level is None else level.value for level in since]),
        },
    )


@functools.lru_cache(maxsize=64)
def _text(at: datetime) -> str:
    return str(at)


@functools.lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _array(values: Sequence[object]) -> str:
    """Return an array of what has no quotes in it, in PostgreSQL's words: psycopg looks at each
    element, which takes five times as long.
    """
    return "{" + ",".join(["NULL" if v is None else f'"{v}"' for v in values]) + "}"


async def told_open(conn: AsyncConnection, spans: Sequence[Span]) -> frozenset[PartKey]:
    """Return those whose period was told without its end: what follows these spans begins there."""
    cursor = await conn.execute(
        f"""
        select p.asset_id, p.kind, p.property
          from ({ASSETS}) as a
          join measured_part as p on p.asset_id = a.id and p.start_at = a.end_at
         where p.is_open
        """,
        parameters(spans),
    )
    return frozenset([PartKey(*row) for row in await cursor.fetchall()])
