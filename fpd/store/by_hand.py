"""What the operator says to a group's provider: about what, and whether it was said before."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group as its provider knows it."""

    user_id: int
    identifier: str
    enabled: bool
    provider_id: int


async def hold_group(conn: AsyncConnection, *, user_id: int | None, group_id: int) -> Group | None:
    """Return the user's group, None: there is none; it stays until the transaction ends."""
    cursor = conn.cursor(row_factory=class_row(Group))
    await cursor.execute(
        """
        select user_id, identifier, enabled, provider_id
          from capacity_group
         where id = %(group_id)s and (%(user_id)s::bigint is null or user_id = %(user_id)s)
           for key share
        """,
        {"user_id": user_id, "group_id": group_id},
    )
    return await cursor.fetchone()


async def forecast_known_as(
    conn: AsyncConnection,
    *,
    group_id: int,
    peer_id: int,
    forecast_id: int | None,
    request_id: str | None,
) -> str | None:
    """Return the peer's own id of a forecast to the group, named by our id, by its, or by both."""
    cursor = await conn.execute(
        """
        select request_id from forecast
         where group_id = %(group_id)s and peer_id = %(peer_id)s
           and (%(forecast_id)s::bigint is null or id = %(forecast_id)s)
           and (%(request_id)s::text is null or request_id = %(request_id)s)
         order by id desc
         limit 1
        """,
        {
            "group_id": group_id,
            "peer_id": peer_id,
            "forecast_id": forecast_id,
            "request_id": request_id,
        },
    )
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A message to a peer that is owed or was."""

    id: int
    operation: str
    group_id: int | None
    correlation_id: str | None
    body: bytes | None


async def said(conn: AsyncConnection, *, peer_id: int, request_id: str) -> Said | None:
    """Return what the peer knows, or is going to know, as `request_id`."""
    cursor = conn.cursor(row_factory=class_row(Said))
    await cursor.execute(
        """
        select id, operation, group_id, correlation_id, body
          from outbox where peer_id = %s and request_id = %s
        """,
        (peer_id, request_id),
    )
    return await cursor.fetchone()
