"""Peers as the protocol sees them: link, tokens, what they demanded, when we heard them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.link import Link


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
    """Add an inbound token; the others stay valid until it is used (decision P1).

    Those whose end was near, too: the peer may not have what it was given meanwhile.
    """
    await conn.execute(
        """
        with ended as (
            delete from peer_token where peer_id = %(peer_id)s and valid_until <= %(now)s
        ), aged as (
            update peer_token set state = 'old', valid_until = null
             where peer_id = %(peer_id)s and (valid_until is null or valid_until > %(now)s)
        )
        insert into peer_token (sha256, peer_id, state, created_at)
        values (%(sha256)s, %(peer_id)s, 'offered', %(now)s)
        """,
        {"peer_id": peer_id, "sha256": sha256, "now": now},
    )


async def retire_old_tokens(
    conn: AsyncConnection, *, peer_id: int, taken_sha256: bytes, valid_until: datetime
) -> None:
    """End the overlap of old inbound tokens at `valid_until`, but not the one that was taken."""
    await conn.execute(
        """
        update peer_token set valid_until = %(valid_until)s
         where peer_id = %(peer_id)s and state = 'old' and valid_until is null
           and sha256 <> %(taken)s
        """,
        {"peer_id": peer_id, "taken": taken_sha256, "valid_until": valid_until},
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
               handshake_id = null, handshake_due_at = null, handshake_attempts = 0,
               trouble = null, refused_at = null, accepted_at = null
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
