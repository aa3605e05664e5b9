"""Registrations that we start: what is outstanding, and the tokens that come and go with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.link import Link
from fpd.store.peers import COLUMNS, Peer


async def begin(
    conn: AsyncConnection,
    *,
    peer_id: int,
    link: Link,
    base_url: str,
    outbound_token_sealed: bytes,
    request_id: str,
    token_sha256: bytes,
    now: datetime,
) -> None:
    """Note our first Register, outstanding from now on: where it goes, with which tokens.

    Raises psycopg UniqueViolation when the URL is taken by another peer.
    """
    await conn.execute(
        """
        update peer
           set link = %(link)s, link_changed_at = %(now)s, base_url = %(base_url)s,
               outbound_token_sealed = %(token)s, offline_at = null, offline_mode_at = null,
               handshake_id = null, handshake_due_at = null, handshake_attempts = 0,
               register_id = %(request_id)s, register_token_sha256 = %(token_sha256)s,
               register_taken_at = null, trouble = null, refused_at = null, accepted_at = null
         where id = %(peer_id)s
        """,
        {
            "peer_id": peer_id,
            "link": link,
            "base_url": base_url,
            "token": outbound_token_sealed,
            "request_id": request_id,
            "token_sha256": token_sha256,
            "now": now,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """Our Register that the peer has not answered yet.

    `token_used`: the peer has presented the token in it, so it has read it.
    """

    request_id: str
    token_sha256: bytes
    token_used: bool


async def outstanding(conn: AsyncConnection, *, peer_id: int) -> Outstanding | None:
    """Return our outstanding Register, if there is one."""
    cursor = conn.cursor(row_factory=class_row(Outstanding))
    await cursor.execute(
        """
        select p.register_id as request_id, p.register_token_sha256 as token_sha256,
               exists (select from peer_token as t
                        where t.sha256 = p.register_token_sha256
                          and t.state = 'current') as token_used
          from peer as p
         where p.id = %s and p.register_id is not null
        """,
        (peer_id,),
    )
    return await cursor.fetchone()


async def taken(conn: AsyncConnection, *, peer_id: int, request_id: str, now: datetime) -> bool:
    """Note that the peer took our outstanding Register. False: another has taken its place."""
    cursor = await conn.execute(
        """
        update peer set register_taken_at = coalesce(register_taken_at, %s)
         where id = %s and register_id = %s
        """,
        (now, peer_id, request_id),
    )
    return cursor.rowcount > 0


async def claim_unanswered(conn: AsyncConnection, *, taken_before: datetime) -> list[Peer]:
    """Lock and return peers that took our Register so long ago and never sent their own."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        f"""
        select {COLUMNS} from peer
         where link = 'registering' and register_taken_at <= %s and register_id is not null
           for no key update skip locked
        """,
        (taken_before,),
    )
    return await cursor.fetchall()


async def end(conn: AsyncConnection, *, peer_id: int) -> None:
    """None of ours is outstanding any more."""
    await conn.execute(
        """
        update peer set register_id = null, register_token_sha256 = null, register_taken_at = null
         where id = %s and register_id is not null
        """,
        (peer_id,),
    )


async def replace_tokens(
    conn: AsyncConnection, *, peer_id: int, sha256: bytes, now: datetime
) -> None:
    """Make this the only inbound token of the peer."""
    await forget_inbound(conn, peer_id=peer_id)
    await conn.execute(
        """
        insert into peer_token (sha256, peer_id, state, created_at)
        values (%s, %s, 'current', %s)
        """,
        (sha256, peer_id, now),
    )


async def forget_inbound(conn: AsyncConnection, *, peer_id: int) -> None:
    """Let the peer in no more, whatever token it presents."""
    await conn.execute("delete from peer_token where peer_id = %s", (peer_id,))


async def forget_outbound(conn: AsyncConnection, *, peer_id: int) -> None:
    """Forget what we present to a peer with which we are not registered any more."""
    await conn.execute(
        "update peer set outbound_token_sealed = null where id = %s and link = 'unregistered'",
        (peer_id,),
    )
