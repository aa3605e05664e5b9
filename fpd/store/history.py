"""What happened, for an operator to look through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`kind` is a past-tense dotted name."""

    id: int
    at: datetime
    kind: str
    peer_id: int | None
    group_id: int | None
    data: Mapping[str, Any] | None


async def listed(
    conn: AsyncConnection,
    *,
    user_id: int | None,
    nobodys: bool = False,
    kind: str | None = None,
    peer_id: int | None = None,
    group_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> list[Event]:
    """Return events, newest first. A `kind` that ends in a dot means all that begin with it.

    `user_id` None: everybody's. `nobodys`: also those of the installation, which are no user's.
    `before`: older than the event with this id.
    """
    cursor = conn.cursor(row_factory=class_row(Event))
    await cursor.execute(
        """
        select id, at, kind, peer_id, group_id, data
          from event
         where (%(user_id)s::bigint is null or user_id = %(user_id)s
                or (%(nobodys)s and user_id is null))
           and (%(kind)s::text is null or kind = %(kind)s
                or (right(%(kind)s, 1) = '.' and starts_with(kind, %(kind)s)))
           and (%(peer_id)s::bigint is null or peer_id = %(peer_id)s)
           and (%(group_id)s::bigint is null or group_id = %(group_id)s)
           and (%(since)s::timestamptz is null or at >= %(since)s)
           and (%(until)s::timestamptz is null or at < %(until)s)
           and (%(before)s::bigint is null or id < %(before)s)
         order by id desc
         limit %(limit)s
        """,
        {
            "user_id": user_id,
            "nobodys": nobodys,
            "kind": kind,
            "peer_id": peer_id,
            "group_id": group_id,
            "since": since,
            "until": until,
            "before": before,
            "limit": limit,
        },
    )
    return await cursor.fetchall()
