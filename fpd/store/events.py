"""What happened that an operator may want to know later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb


async def record(
    conn: AsyncConnection,
    *,
    kind: str,
    at: datetime,
    user_id: int | None = None,
    peer_id: int | None = None,
    group_id: int | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Append one event; `kind` is a past-tense dotted name, `data` holds no secret."""
    await conn.execute(
        """
        insert into event (user_id, at, kind, peer_id, group_id, data)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (user_id, at, kind, peer_id, group_id, None if data is None else Jsonb(dict(data))),
    )


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop old events; return how many."""
    cursor = await conn.execute("delete from event where at < %s", (before,))
    return cursor.rowcount
