"""Many forecasts at once: the same rows as one by one, in a handful of statements.

Everybody locks peers, then groups, each in the order of their ids, so that two daemons that
take in forecasts of the same peers wait for each other and never for themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.forecast import Block, ForecastType
from fpd.store import forecasts
from fpd.store.peers import COLUMNS, Peer

Key = tuple[int, str]
"""A peer's id and its X-Request-ID."""


async def hear(
    conn: AsyncConnection, *, peer_ids: Collection[int], now: datetime
) -> dict[int, Peer]:
    """Note that these peers spoke, and return them locked until the transaction ends."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        f"""
        with locked as (
            select id from peer where id = any(%(ids)s) order by id for no key update
        )
        update peer set last_heard_at = %(now)s from locked where peer.id = locked.id
        returning {COLUMNS}
        """,
        {"ids": list(set(peer_ids)), "now": now},
    )
    return {peer.id: peer for peer in await cursor.fetchall()}


async def noted(conn: AsyncConnection, *, keys: Sequence[Key]) -> dict[Key, bytes]:
    """Return which of these (peer, request id) came before, and the hash of what they said."""
    cursor = await conn.execute(
        """
        select m.peer_id, m.request_id, m.body_sha256
          from unnest(%s::bigint[], %s::text[]) as k (peer_id, request_id)
          join message_in as m using (peer_id, request_id)
        """,
        ([peer_id for peer_id, _ in keys], [request_id for _, request_id in keys]),
    )
    return {(row[0], row[1]): bytes(row[2]) for row in await cursor.fetchall()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A forecast to keep, `id` given by `new_ids`; `sha256` is that of operation and body.

    `noted_as` is the request id under which it counts once.
    """

    id: int
    group_id: int
    peer_id: int
    operation: str
    request_id: str
    noted_as: str
    correlation_id: str | None
    type: ForecastType
    body: bytes
    sha256: bytes
    blocks: Sequence[Block]


async def new_ids(conn: AsyncConnection, *, count: int) -> list[int]:
    """Return so many ids for forecasts, rising."""
    cursor = await conn.execute(
        """
        select nextval(pg_get_serial_sequence('forecast', 'id')) from generate_series(1, %s)
        """,
        (count,),
    )
    return sorted(row[0] for row in await cursor.fetchall())


async def keep(conn: AsyncConnection, kept: Sequence[Kept], *, now: datetime) -> None:
    """Keep forecasts with their blocks and request ids, and have their groups looked at.

    COPY, because the bodies would be slow as arrays.
    """
    cursor = conn.cursor()
    async with cursor.copy(
        """
        copy message_in (peer_id, request_id, operation, body_sha256, received_at) from stdin
        """
    ) as copy:
        for one in kept:
            await copy.write_row((one.peer_id, one.noted_as, one.operation, one.sha256, now))
    async with cursor.copy(
        """
        copy forecast (id, group_id, peer_id, request_id, correlation_id, type, body, received_at,
                       ends_at) from stdin
        """
    ) as copy:
        # Each row locks its group: everybody takes them in the order of their ids.
        for one in sorted(kept, key=lambda kept: kept.group_id):
            ends_at = max(block.end_at for block in one.blocks)
            row = (one.id, one.group_id, one.peer_id, one.request_id, one.correlation_id,
                   one.type, one.body, now, ends_at)  # fmt: skip
            await copy.write_row(row)
    async with cursor.copy(
        """
        copy forecast_block (forecast_id, position, start_at, end_at, capacity, unit, phase)
        from stdin
        """
    ) as copy:
        for one in kept:
            for position, b in enumerate(one.blocks, start=1):
                await copy.write_row(
                    (one.id, position, b.start_at, b.end_at, b.capacity, b.unit, b.phase)
                )
    await forecasts.want_control(conn, group_ids={one.group_id for one in kept}, now=now)
