"""Peers as the protocol sees them: link, tokens, what they demanded, when we heard them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.link import Link
from fpd.store.reach import Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One capacity provider or optimizer. `base_url` None: nothing can be sent to it."""

    id: int
    user_id: int
    role: str
    name: str
    enabled: bool
    link: Link
    base_url: str | None
    heartbeat_interval_s: float | None
    handshake_id: str | None
    offline_at: datetime | None
    service_props: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "link", Link(self.link))


COLUMNS = """
    peer.id, peer.user_id, peer.role, peer.name, peer.enabled, peer.link, peer.base_url,
    peer.heartbeat_interval_s, peer.handshake_id, peer.offline_at, peer.service_props
"""


async def lock(conn: AsyncConnection, *, peer_id: int) -> Peer | None:
    """Return the peer and keep others from deciding about it until the transaction ends."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(f"select {COLUMNS} from peer where id = %s for no key update", (peer_id,))
    return await cursor.fetchone()


async def hear(conn: AsyncConnection, *, peer_id: int, now: datetime) -> Peer | None:
    """Note that the peer spoke, and return it locked as `lock` does."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        f"update peer set last_heard_at = %s where id = %s returning {COLUMNS}", (now, peer_id)
    )
    return await cursor.fetchone()


async def offer_token(conn: AsyncConnection, *, peer_id: int, sha256: bytes, now: datetime) -> None:
    """Add an inbound token; the others stay valid until it is used (decision P1)."""
    await conn.execute(
        """
        with aged as (
            update peer_token set state = 'old' where peer_id = %(peer_id)s
        )
        insert into peer_token (sha256, peer_id, state, created_at)
        values (%(sha256)s, %(peer_id)s, 'offered', %(now)s)
        """,
        {"peer_id": peer_id, "sha256": sha256, "now": now},
    )


async def retire_old_tokens(conn: AsyncConnection, *, peer_id: int, valid_until: datetime) -> None:
    """End the overlap of old inbound tokens at `valid_until`."""
    await conn.execute(
        """
        update peer_token set valid_until = %(valid_until)s
         where peer_id = %(peer_id)s and state = 'old' and valid_until is null
        """,
        {"peer_id": peer_id, "valid_until": valid_until},
    )


async def drop_tokens(conn: AsyncConnection, *, peer_id: int) -> None:
    """Forget every credential between us and the peer."""
    await conn.execute(
        """
        with outbound as (
            update peer set outbound_token_sealed = null where id = %(peer_id)s
        )
        delete from peer_token where peer_id = %(peer_id)s
        """,
        {"peer_id": peer_id},
    )


async def save_registration(
    conn: AsyncConnection,
    *,
    peer_id: int,
    link: Link,
    base_url: str,
    oscp_version: str,
    outbound_token_sealed: bytes,
    now: datetime,
) -> None:
    """Keep what a Register said. Raises psycopg UniqueViolation when the URL is taken."""
    await conn.execute(
        """
        update peer
           set link = %(link)s, link_changed_at = %(now)s, base_url = %(base_url)s,
               oscp_version = %(oscp_version)s, outbound_token_sealed = %(token)s,
               last_heard_at = %(now)s, offline_at = null, offline_mode_at = null,
               handshake_id = null, handshake_due_at = null, handshake_attempts = 0
         where id = %(peer_id)s
        """,
        {
            "peer_id": peer_id,
            "link": link,
            "base_url": base_url,
            "oscp_version": oscp_version,
            "token": outbound_token_sealed,
            "now": now,
        },
    )


async def set_link(conn: AsyncConnection, *, peer_id: int, link: Link, now: datetime) -> None:
    """Note a new state of the link; the same state leaves its date alone."""
    await conn.execute(
        """
        update peer set link = %(link)s, link_changed_at = %(now)s
         where id = %(peer_id)s and link <> %(link)s
        """,
        {"peer_id": peer_id, "link": link, "now": now},
    )


async def save_behaviour(
    conn: AsyncConnection,
    *,
    peer_id: int,
    link: Link,
    heartbeat_interval_s: float | None,
    measurement_configuration: list[str],
    offline_at: datetime,
    now: datetime,
) -> None:
    """Keep what a Handshake or Acknowledge demanded; the link is open from now on."""
    await conn.execute(
        """
        update peer
           set link_changed_at = case when link = %(link)s then link_changed_at else %(now)s end,
               link = %(link)s, heartbeat_interval_s = %(interval)s,
               measurement_configuration = %(configuration)s, offline_at = %(offline_at)s,
               offline_mode_at = null, last_heard_at = %(now)s,
               handshake_id = null, handshake_due_at = null, handshake_attempts = 0
         where id = %(peer_id)s
        """,
        {
            "peer_id": peer_id,
            "link": link,
            "interval": heartbeat_interval_s,
            "configuration": measurement_configuration,
            "offline_at": offline_at,
            "now": now,
        },
    )


async def open_without_change(
    conn: AsyncConnection, *, peer_id: int, link: Link, offline_at: datetime, now: datetime
) -> None:
    """Open the link on an Acknowledge that demands nothing."""
    await conn.execute(
        """
        update peer
           set link_changed_at = case when link = %(link)s then link_changed_at else %(now)s end,
               link = %(link)s, offline_at = %(offline_at)s, last_heard_at = %(now)s,
               handshake_id = null, handshake_due_at = null, handshake_attempts = 0
         where id = %(peer_id)s
        """,
        {"peer_id": peer_id, "link": link, "offline_at": offline_at, "now": now},
    )


async def save_heartbeat(
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


async def claim_silent(conn: AsyncConnection, *, now: datetime) -> list[Peer]:
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
         where link = 'online' and offline_at <= %(now)s
        returning {COLUMNS}
        """,
        {"now": now},
    )
    return await cursor.fetchall()


async def claim_handshakes(conn: AsyncConnection, *, now: datetime, limit: int = 64) -> list[Peer]:
    """Lock and return optimizers with whom we should shake hands now."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        f"""
        select {COLUMNS} from peer
         where handshake_due_at <= %(now)s
           and enabled and base_url is not null and role = 'CapacityOptimizer'
           and link in ('registered', 'offline')
         order by handshake_due_at
         limit %(limit)s
           for no key update skip locked
        """,
        {"now": now, "limit": limit},
    )
    return await cursor.fetchall()


async def handshake_owed(
    conn: AsyncConnection, *, request_ids: dict[int, str], first_wait_s: float, now: datetime
) -> None:
    """Note our outstanding handshakes; the next one is due after a wait that doubles to 5 min."""
    await conn.execute(
        """
        update peer
           set handshake_id = owed.request_id,
               handshake_attempts = handshake_attempts + 1,
               handshake_due_at = %(now)s
                   + least(%(wait)s * power(2, least(handshake_attempts, 10)), 300)
                   * interval '1 second'
          from unnest(%(ids)s::bigint[], %(request_ids)s::text[]) as owed (peer_id, request_id)
         where peer.id = owed.peer_id
        """,
        {
            "ids": list(request_ids),
            "request_ids": list(request_ids.values()),
            "wait": first_wait_s,
            "now": now,
        },
    )


async def want_handshake(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Ask for a handshake with an optimizer as soon as possible."""
    await conn.execute(
        """
        update peer set handshake_due_at = %s, handshake_attempts = 0
         where id = %s and role = 'CapacityOptimizer'
        """,
        (now, peer_id),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DueHeartbeat(Reach):
    """A heartbeat to send now, and everything needed to send it."""

    interval_s: float
    due_at: datetime


async def schedule_heartbeat(conn: AsyncConnection, *, peer_id: int, due_at: datetime) -> None:
    """Make the next heartbeat to the peer due at `due_at`, or earlier if it already was."""
    await conn.execute(
        """
        insert into heartbeat_due (peer_id, due_at) values (%(peer_id)s, %(due_at)s)
        on conflict (peer_id) do update
           set due_at = least(heartbeat_due.due_at, excluded.due_at)
        """,
        {"peer_id": peer_id, "due_at": due_at},
    )


async def reschedule_heartbeat(conn: AsyncConnection, *, peer_id: int, due_at: datetime) -> None:
    """Replace the rhythm of heartbeats to the peer: the next one is due at `due_at`."""
    await conn.execute(
        """
        insert into heartbeat_due (peer_id, due_at) values (%(peer_id)s, %(due_at)s)
        on conflict (peer_id) do update set due_at = excluded.due_at
        """,
        {"peer_id": peer_id, "due_at": due_at},
    )


async def claim_heartbeats(
    conn: AsyncConnection, *, now: datetime, limit: int = 500
) -> list[DueHeartbeat]:
    """Take the heartbeats that are due and put each peer's next one 0.8 of its interval later.

    A heartbeat is never retried: the next one says the same and is fresher. So the row moves on
    when it is taken, anchored to when it was due, and a crash costs one of three.
    """
    cursor = conn.cursor(row_factory=class_row(DueHeartbeat))
    await cursor.execute(
        """
        with due as (
            select h.peer_id, h.due_at, p.base_url, p.outbound_token_sealed, p.service_props,
                   p.secrets_sealed, p.heartbeat_interval_s as interval_s
              from heartbeat_due as h
              join peer as p on p.id = h.peer_id
             where h.due_at <= %(now)s
               and p.enabled and p.base_url is not null and p.link in ('online', 'offline')
               and p.heartbeat_interval_s is not null
             order by h.due_at
             limit %(limit)s
               for update of h skip locked
        )
        update heartbeat_due as h
           set sent_at = %(now)s,
               due_at = greatest(due.due_at, %(now)s - interval '1 second' * 0.2 * due.interval_s)
                        + interval '1 second' * 0.8 * due.interval_s
          from due
         where h.peer_id = due.peer_id
        returning due.*
        """,
        {"now": now, "limit": limit},
    )
    return await cursor.fetchall()


async def not_handshaken(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """The peer refused our credential or asks for a handshake: an optimizer gets one now."""
    await conn.execute(
        """
        update peer
           set link = 'registered', link_changed_at = %(now)s,
               handshake_due_at = %(now)s, handshake_attempts = 0
         where id = %(peer_id)s and role = 'CapacityOptimizer' and link in ('online', 'offline')
        """,
        {"peer_id": peer_id, "now": now},
    )
