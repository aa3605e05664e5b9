"""Whose credential it is that came with a request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """The peer that a credential belongs to, and how it speaks.

    `offered`: its token is used for the first time.
    """

    peer_id: int
    enabled: bool
    offered: bool
    base_url: str | None
    service_props: Mapping[str, Any] | None


async def find_by_tokens(
    conn: AsyncConnection, *, sha256s: Collection[bytes], now: datetime
) -> dict[bytes, Bearer]:
    """Return whose tokens these are; unknown ones and those no longer valid are left out."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """
        select t.sha256, t.peer_id, p.enabled, t.state = 'offered' as offered, p.base_url,
               p.service_props
          from peer_token as t
          join peer as p on p.id = t.peer_id
         where t.sha256 = any(%(sha256s)s)
           and (t.valid_until is null or t.valid_until > %(now)s)
        """,
        {"sha256s": list(sha256s), "now": now},
    )
    return {bytes(row.pop("sha256")): Bearer(**row) for row in await cursor.fetchall()}


async def find_by_subject(conn: AsyncConnection, *, names: Sequence[str]) -> list[Bearer]:
    """Return the peers whose `jwt-subject` is one of `names`: one, unless they are set up wrong."""
    cursor = conn.cursor(row_factory=class_row(Bearer))
    await cursor.execute(
        """
        select id as peer_id, enabled, false as offered, base_url, service_props
          from peer
         where service_props ->> 'jwt-subject' = any(%s)
         limit 2
        """,
        (list(names),),
    )
    return await cursor.fetchall()


async def settle_token(conn: AsyncConnection, *, sha256: bytes) -> None:
    """Make the token that was used for the first time the only one (decision P1)."""
    await conn.execute(
        """
        with used as (
            update peer_token set state = 'current', valid_until = null
             where sha256 = %(sha256)s and state = 'offered'
            returning peer_id
        )
        delete from peer_token as t
         using used
         where t.peer_id = used.peer_id and t.sha256 <> %(sha256)s and t.state <> 'offered'
        """,
        {"sha256": sha256},
    )


async def prolong(conn: AsyncConnection, *, peer_id: int, offline_at: datetime) -> None:
    """Let the peer count as online until `offline_at`."""
    await conn.execute("update peer set offline_at = %s where id = %s", (offline_at, peer_id))


async def wake(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """End offline mode without a handshake, ours included if one was due."""
    await conn.execute(
        """
        update peer
           set link = 'online', link_changed_at = %(now)s,
               handshake_id = null, handshake_due_at = null, handshake_attempts = 0
         where id = %(peer_id)s and link = 'offline'
        """,
        {"peer_id": peer_id, "now": now},
    )
