"""What cannot be kept, as an operator sees it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A block that cannot be kept, or could not. `forecast_id` 0: a static limit, not a message.

    `told_state`, `asked_state`: what became of the messages, None: none, or long ago. `settled`:
    it is no flicker.
    """

    id: int
    group_id: int
    group_name: str
    forecast_id: int
    request_id: str | None
    peer_id: int | None
    peer_name: str | None
    block: int
    reason: str
    direction: str
    start_at: datetime
    end_at: datetime
    power_w: int
    by_w: int
    since: datetime
    last_at: datetime
    settled: bool
    told_as: str | None
    told_state: str | None
    asked_as: str | None
    asked_state: str | None
    cleared_at: datetime | None


async def listed(
    conn: AsyncConnection,
    *,
    user_id: int | None,
    group_id: int | None = None,
    open_only: bool = True,
    before: int | None = None,
    limit: int,
) -> list[Trouble]:
    """Return what cannot be kept, newest first; `user_id` or `group_id` None: everybody's."""
    cursor = conn.cursor(row_factory=class_row(Trouble))
    await cursor.execute(
        """
        select c.id, c.group_id, g.name as group_name, c.forecast_id, f.request_id, c.peer_id,
               p.name as peer_name, c.block, c.reason, c.direction, c.start_at, c.end_at,
               c.power_w, c.by_w, c.since, c.last_at, c.settled_at is not null as settled,
               c.told_as, c.asked_as, c.cleared_at,
               (select coalesce(outcome, 'owed') from outbox as o
                 where o.peer_id = c.peer_id and o.request_id = c.told_as) as told_state,
               (select coalesce(outcome, 'owed') from outbox as o
                 where o.peer_id = c.peer_id and o.request_id = c.asked_as) as asked_state
          from compliance as c
          join capacity_group as g on g.id = c.group_id
          left join forecast as f on f.id = c.forecast_id
          left join peer as p on p.id = c.peer_id
         where (%(user_id)s::bigint is null or g.user_id = %(user_id)s)
           and (%(group_id)s::bigint is null or c.group_id = %(group_id)s)
           and (not %(open_only)s or c.cleared_at is null)
           and (%(before)s::bigint is null or c.id < %(before)s)
         order by c.id desc
         limit %(limit)s
        """,
        {
            "user_id": user_id,
            "group_id": group_id,
            "open_only": open_only,
            "before": before,
            "limit": limit,
        },
    )
    return await cursor.fetchall()
