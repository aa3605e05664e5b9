"""What peers said, remembered by X-Request-ID so that saying it twice has one effect."""

from __future__ import annotations

import hashlib
from datetime import datetime

from psycopg import AsyncConnection


async def accept(
    conn: AsyncConnection,
    *,
    peer_id: int,
    request_id: str,
    operation: str,
    body: bytes,
    now: datetime,
) -> bool | None:
    """Note a message. True: new; False: the very same came before; None: the id was reused."""
    sha256 = hashlib.sha256(operation.encode() + b"\0" + body).digest()
    cursor = await conn.execute(
        """
        with new as (
            insert into message_in (peer_id, request_id, operation, body_sha256, received_at)
            values (%(peer_id)s, %(request_id)s, %(operation)s, %(sha256)s, %(now)s)
            on conflict do nothing
            returning true as is_new
        )
        select true, %(sha256)s from new
        union all
        select false, body_sha256 from message_in
         where peer_id = %(peer_id)s and request_id = %(request_id)s
        """,
        {
            "peer_id": peer_id,
            "request_id": request_id,
            "operation": operation,
            "sha256": sha256,
            "now": now,
        },
    )
    row = await cursor.fetchone()
    if row is None:
        # The same id committed while this statement waited for it, so its snapshot misses it.
        cursor = await conn.execute(
            "select false, body_sha256 from message_in where peer_id = %s and request_id = %s",
            (peer_id, request_id),
        )
        row = await cursor.fetchone()
    if row is None or row[0]:
        return row is not None or None
    return False if bytes(row[1]) == sha256 else None


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop ids that are older than any retry; return how many."""
    cursor = await conn.execute("delete from message_in where received_at < %s", (before,))
    return cursor.rowcount
