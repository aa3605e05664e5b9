"""Our heartbeats: when the next one to each peer is due."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store.reach import Reach

_APART = timedelta(seconds=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueHeartbeat(Reach):
    """A heartbeat to send at `due_at`, everything needed to send it, and when the next is due.

    `doubted`: the peer refused our credential lately and has not taken it since.
    """

    interval_s: float
    doubted: bool
    due_at: datetime
    next_at: datetime


# Who gets heartbeats, as a condition on peer p.
_WANTED = """
    p.enabled and p.base_url is not null and p.link in ('online', 'offline')
    and p.heartbeat_interval_s is not null
"""


async def schedule(conn: AsyncConnection, *, peer_id: int, due_at: datetime) -> None:
    """Make the next heartbeat to the peer due at `due_at`, or earlier if it already was.

    One that has just left, or is about to, is not followed by another at once.
    """
    await conn.execute(
        """
        insert into heartbeat_due as h (peer_id, due_at) values (%(peer_id)s, %(due_at)s)
        on conflict (peer_id) do update
           set due_at = least(h.due_at, greatest(excluded.due_at, h.sent_at + %(apart)s))
        """,
        {"peer_id": peer_id, "due_at": due_at, "apart": _APART},
    )


async def reschedule(conn: AsyncConnection, *, peer_id: int, due_at: datetime) -> None:
    """Replace the rhythm of heartbeats to the peer: the next one is due at `due_at`."""
    await conn.execute(
        """
        insert into heartbeat_due (peer_id, due_at) values (%(peer_id)s, %(due_at)s)
        on conflict (peer_id) do update set due_at = excluded.due_at
        """,
        {"peer_id": peer_id, "due_at": due_at},
    )


async def claim(
    conn: AsyncConnection, *, now: datetime, until: datetime, limit: int
) -> list[DueHeartbeat]:
    """Take the heartbeats due before `until`; each peer's next one is due 0.8 intervals later.

    A heartbeat is never retried: the next one says the same and is fresher. So the row moves on
    when it is taken, anchored to when it was due, and a crash costs one of three.
    """
    cursor = conn.cursor(row_factory=class_row(DueHeartbeat))
    await cursor.execute(
        f"""
        with due as (
            select h.peer_id, h.due_at, p.base_url, p.outbound_token_sealed, p.service_props,
                   p.secrets_sealed, p.heartbeat_interval_s as interval_s,
                   p.refused_at is not null and p.accepted_at is null as doubted,
                   greatest(h.due_at,
                            %(now)s - interval '1 second' * 0.2 * p.heartbeat_interval_s)
                   + interval '1 second' * 0.8 * p.heartbeat_interval_s as next_at
              from heartbeat_due as h
              join peer as p on p.id = h.peer_id
             where h.due_at < %(until)s and {_WANTED}
             order by h.due_at
             limit %(limit)s
               for update of h skip locked
        )
        update heartbeat_due as h
           set sent_at = greatest(%(now)s, due.due_at), due_at = due.next_at
          from due
         where h.peer_id = due.peer_id
        returning due.*
        """,
        {"now": now, "until": until, "limit": limit},
    )
    return await cursor.fetchall()


async def put(
    conn: AsyncConnection, due_at: Mapping[int, datetime], *, overdue_at: datetime | None = None
) -> None:
    """Move the next heartbeats to these peers to when they are due in truth.

    `overdue_at`: only of those that are overdue then.
    """
    await conn.execute(
        """
        update heartbeat_due as h
           set due_at = due.at
          from unnest(%(ids)s::bigint[], %(at)s::timestamptz[]) as due (peer_id, at)
         where h.peer_id = due.peer_id
           and h.due_at <= coalesce(%(overdue_at)s::timestamptz, 'infinity')
        """,
        {"ids": list(due_at), "at": list(due_at.values()), "overdue_at": overdue_at},
    )


async def pull_in(conn: AsyncConnection, *, now: datetime, slack_s: float) -> int:
    """Make due now what lies further ahead than any rhythm puts it; return how many that were.

    The clock was set back, and nobody remembers when they were due.
    """
    cursor = await conn.execute(
        """
        update heartbeat_due as h
           set due_at = %(now)s
          from peer as p
         where p.id = h.peer_id
           and h.due_at > %(now)s
               + interval '1 second' * (0.8 * p.heartbeat_interval_s + %(slack_s)s)
        """,
        {"now": now, "slack_s": slack_s},
    )
    return cursor.rowcount


async def unwanted(conn: AsyncConnection, *, peer_ids: Collection[int]) -> list[int]:
    """Return which of these peers get no heartbeats any more: gone, disabled, not linked."""
    cursor = await conn.execute(
        f"""
        select one.id
          from unnest(%s::bigint[]) as one (id)
          left join peer as p on p.id = one.id
         where not coalesce({_WANTED}, false)
        """,
        (list(peer_ids),),
    )
    return [row[0] for row in await cursor.fetchall()]
