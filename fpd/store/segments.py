"""Segments of messages: kept until the whole takes effect, then remembered by id.

The caller holds the peer locked (`peers.hear`, `peers.lock`), so that segments of one peer come
one after the other, whichever daemon receives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg import AsyncConnection

from fpd.domain.segments import Place, Segment


async def held(conn: AsyncConnection, *, peer_id: int, request_ids: Sequence[str]) -> list[Segment]:
    """Return the segments whose message has not taken effect, and of the others those named."""
    cursor = await conn.execute(
        """
        select request_id, correlation_id, operation, index, count, body_sha256,
               coalesce(octet_length(body), 0), received_at, body is null, refused
          from segment
         where peer_id = %(peer_id)s
           and (body is not null or request_id = any(%(request_ids)s))
         order by received_at, request_id
        """,
        {"peer_id": peer_id, "request_ids": list(request_ids)},
    )
    return [
        Segment(
            request_id=row[0],
            correlation_id=row[1],
            operation=row[2],
            place=Place(row[3], row[4]),
            sha256=bytes(row[5]),
            size=row[6],
            received_at=row[7],
            applied=row[8],
            refused=row[9],
        )
        for row in await cursor.fetchall()
    ]


async def keep(conn: AsyncConnection, *, peer_id: int, segment: Segment, body: bytes) -> None:
    """Keep a new segment."""
    await conn.execute(
        """
        insert into segment (peer_id, request_id, correlation_id, operation, index, count, body,
                             body_sha256, received_at)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            peer_id,
            segment.request_id,
            segment.correlation_id,
            segment.operation,
            segment.place.index,
            segment.place.count,
            body,
            segment.sha256,
            segment.received_at,
        ),
    )


async def bodies(conn: AsyncConnection, *, peer_id: int, request_ids: Sequence[str]) -> list[bytes]:
    """Return the bodies of a whole message in the order of their places."""
    cursor = await conn.execute(
        "select body from segment where peer_id = %s and request_id = any(%s) order by index",
        (peer_id, list(request_ids)),
    )
    return [bytes(row[0]) for row in await cursor.fetchall()]


async def apply(conn: AsyncConnection, *, peer_id: int, request_ids: Sequence[str]) -> None:
    """Note that the message has taken effect; its segments are remembered by id alone."""
    await conn.execute(
        """
        update segment set body = null, refused = false
         where peer_id = %s and request_id = any(%s) and body is not null
        """,
        (peer_id, list(request_ids)),
    )


async def refuse(conn: AsyncConnection, *, peer_id: int, request_ids: Sequence[str]) -> None:
    """Note that these are left of a refused message, unless it has taken effect meanwhile."""
    await conn.execute(
        """
        update segment set refused = true
         where peer_id = %s and request_id = any(%s) and body is not null
        """,
        (peer_id, list(request_ids)),
    )


async def drop(conn: AsyncConnection, *, peer_id: int, request_ids: Sequence[str]) -> None:
    """Forget segments whose message has not taken effect."""
    await conn.execute(
        "delete from segment where peer_id = %s and request_id = any(%s) and body is not null",
        (peer_id, list(request_ids)),
    )


async def peers_waiting(conn: AsyncConnection, *, before: datetime) -> list[int]:
    """Return the peers with segments that are older and whose message has not taken effect."""
    cursor = await conn.execute(
        """
        select distinct peer_id from segment where body is not null and received_at <= %s
         order by peer_id
        """,
        (before,),
    )
    return [row[0] for row in await cursor.fetchall()]


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop segments that are older than any retry; return how many."""
    cursor = await conn.execute("delete from segment where received_at < %s", (before,))
    return cursor.rowcount
