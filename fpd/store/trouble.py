"""Links on which our credential is refused: what was tried, what came of it, when to ask again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.link import Link
from fpd.store.reach import Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """When the last remedy was begun, None: never; and what the peer took after that.

    `is_older`: what the message in question says was to be said before the remedy.
    """

    remedy_at: datetime | None
    heartbeat_taken: bool
    delivered: bool
    is_older: bool


async def standing(
    conn: AsyncConnection, *, peer_id: int, message_id: int | None = None
) -> Standing:
    """Return how our credential stands with the peer; messages of the link prove nothing."""
    cursor = conn.cursor(row_factory=class_row(Standing))
    await cursor.execute(
        """
        select refused_at as remedy_at, accepted_at is not null as heartbeat_taken,
               exists (select from outbox as o
                        where o.peer_id = p.id and o.lane <> 'link'
                          and o.outcome = 'delivered' and o.settled_at > p.refused_at) as delivered,
               exists (select from outbox as o
                         left join forecast as f on f.id = o.forecast_id
                        where o.id = %s
                          and coalesce(f.received_at, o.created_at) <= p.refused_at) as is_older
          from peer as p
         where id = %s
        """,
        (message_id, peer_id),
    )
    row = await cursor.fetchone()
    return row or Standing(remedy_at=None, heartbeat_taken=False, delivered=False, is_older=False)


async def begin_remedy(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Note that a remedy is tried; what was taken before proves nothing any more."""
    await conn.execute(
        "update peer set refused_at = %s, accepted_at = null where id = %s", (now, peer_id)
    )


async def want_handshake_anew(
    conn: AsyncConnection, *, peer_id: int, link: Link, now: datetime
) -> None:
    """Go back before the handshake with an optimizer, and shake hands at once."""
    await conn.execute(
        """
        update peer
           set link = %(link)s, link_changed_at = %(now)s,
               handshake_due_at = %(now)s, handshake_attempts = 0
         where id = %(peer_id)s and role = 'CapacityOptimizer' and link <> %(link)s
        """,
        {"peer_id": peer_id, "link": link, "now": now},
    )


async def note_taken(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Note that the peer took a heartbeat of ours after all."""
    await conn.execute(
        "update peer set accepted_at = %s where id = %s and refused_at is not null", (now, peer_id)
    )


async def note(
    conn: AsyncConnection,
    *,
    peer_id: int,
    link: Link,
    why: str,
    now: datetime,
    repair_at: datetime | None = None,
) -> None:
    """Note that the link failed or broke, and why."""
    await conn.execute(
        """
        update peer
           set link = %(link)s, link_changed_at = %(now)s, trouble = %(why)s,
               repair_at = %(repair_at)s, handshake_id = null, handshake_due_at = null
         where id = %(peer_id)s
        """,
        {"peer_id": peer_id, "link": link, "why": why, "repair_at": repair_at, "now": now},
    )


async def forget(conn: AsyncConnection, *, peer_id: int) -> None:
    """All is well again."""
    await conn.execute(
        """
        update peer set trouble = null, refused_at = null, accepted_at = null, repair_at = null
         where id = %s
        """,
        (peer_id,),
    )


async def mend(conn: AsyncConnection, *, peer_id: int, link: Link, now: datetime) -> None:
    """Open a broken link again."""
    await conn.execute(
        "update peer set link = %s, link_changed_at = %s where id = %s and link = 'broken'",
        (link, now, peer_id),
    )


async def give_up(conn: AsyncConnection, *, message_id: int, now: datetime) -> None:
    """Settle a message as refused: the peer takes others, but not this one."""
    await conn.execute(
        """
        update outbox set settled_at = %s, outcome = 'refused'
         where id = %s and settled_at is null
        """,
        (now, message_id),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(Reach):
    """A peer to ask whether it takes our credential again."""

    role: str
    interval_s: float | None


async def claim_repairs(
    conn: AsyncConnection, *, now: datetime, again_at: datetime, limit: int = 64
) -> list[Broken]:
    """Take broken links that are to be tried now; the next try is at `again_at`."""
    cursor = conn.cursor(row_factory=class_row(Broken))
    await cursor.execute(
        """
        with due as (
            select id from peer
             where link = 'broken' and repair_at <= %(now)s and enabled and base_url is not null
             order by repair_at
             limit %(limit)s
               for no key update skip locked
        )
        update peer as p set repair_at = %(again_at)s
          from due
         where p.id = due.id
        returning p.id as peer_id, p.role, p.heartbeat_interval_s as interval_s, p.base_url,
                  p.outbound_token_sealed, p.service_props, p.secrets_sealed
        """,
        {"now": now, "again_at": again_at, "limit": limit},
    )
    return await cursor.fetchall()
