"""What peers promised about their next heartbeat, and who has broken it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store.peers import COLUMNS, Peer


async def save(
    conn: AsyncConnection,
    *,
    peer_id: int,
    offline_mode_at: datetime,
    offline_at: datetime,
    now: datetime,
) -> None:
    """Keep the peer's newest promise; an earlier one than before shortens it."""
    await conn.execute(
        """
        update peer set offline_mode_at = %s, offline_at = %s, last_heard_at = %s where id = %s
        """,
        (offline_mode_at, offline_at, now, peer_id),
    )


async def kept(conn: AsyncConnection) -> list[tuple[int, datetime]]:
    """Return every online peer and when it goes offline if nothing is heard."""
    cursor = await conn.execute(
        """
        select id, offline_at from peer
         where link in ('online', 'broken') and offline_at is not null
        """
    )
    return await cursor.fetchall()


async def move(conn: AsyncConnection, moves: Sequence[tuple[int, datetime, datetime]]) -> None:
    """Put (peer id, instant before, instant now) in place, where nobody was quicker."""
    ids, before, after = zip(*moves, strict=True)
    await conn.execute(
        """
        update peer
           set offline_at = moved.after
          from unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])
               as moved (id, before, after)
         where peer.id = moved.id and peer.offline_at = moved.before
        """,
        (list(ids), list(before), list(after)),
    )


async def claim_broken(conn: AsyncConnection, *, now: datetime) -> list[Peer]:
    """Take the peers offline whose deadline has passed, and return them.

    An optimizer is called again at once; a provider has to call us.
    """
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        f"""
        update peer
           set link = 'offline', link_changed_at = %(now)s,
               handshake_due_at = case role when 'CapacityOptimizer' then %(now)s end,
               handshake_attempts = 0
         where link in ('online', 'broken') and offline_at <= %(now)s
        returning {COLUMNS}
        """,
        {"now": now},
    )
    return await cursor.fetchall()
