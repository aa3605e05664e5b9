"""Messages owed to peers: owed in the transaction that causes them, delivered at least once.

Messages of one (peer, lane) go one after the other in the order of their ids. A lane is taken on
lease: a daemon that dies gives it back when the lease ends. Everybody changes messages before
lanes and lanes in their order, so nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

LINK = "link"  # register, handshake, acknowledge: these need no open link


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A message to send. `sealed`: the body holds a secret and is encrypted by the vault.

    `body` None: it is that of the forecast `forecast_id`. `sender_id` and `sender_request_id`
    say whose message it passes on, None: it is our own. `revision`: how often what the peer was
    told under this request id has been corrected.
    """

    peer_id: int
    lane: str
    operation: str
    body: bytes | bytearray | None
    request_id: str
    due_at: datetime
    correlation_id: str | None = None
    group_id: int | None = None
    forecast_id: int | None = None
    expires_at: datetime | None = None
    sealed: bool = False
    sender_id: int | None = None
    sender_request_id: str | None = None
    revision: int = 0


async def owe(conn: AsyncConnection, messages: Sequence[Owed], *, now: datetime) -> None:
    """Add messages, in this order. One whose request id its peer was already owed adds nothing.

    Interpretation: a message behind one that its peer does not take waits as long as that one.
    """
    if not messages:
        return
    large = [_is_large(m) for m in messages]
    if any(large):
        await _bring(conn, [m for m, is_large in zip(messages, large, strict=True) if is_large])
    brought = _BROUGHT if any(large) else "m.body"
    await conn.execute(
        f"""
        with new as (
            insert into outbox (peer_id, lane, operation, request_id, correlation_id, body, sealed,
                                group_id, forecast_id, created_at, due_at, expires_at, sender_id,
                                sender_request_id, revision)
            select m.peer_id, m.lane, m.operation, m.request_id, m.correlation_id, {brought},
                   m.sealed, m.group_id, m.forecast_id, %(now)b, m.due_at, m.expires_at,
                   m.sender_id, m.sender_request_id, m.revision
              from unnest(%(peer_ids)b::bigint[], %(lanes)b::text[], %(operations)b::text[],
                          %(request_ids)b::text[], %(correlation_ids)b::text[],
                          %(bodies)b::bytea[], %(sealed)b::boolean[], %(group_ids)b::bigint[],
                          %(forecast_ids)b::bigint[], %(due)b::timestamptz[],
                          %(expires)b::timestamptz[], %(sender_ids)b::bigint[],
                          %(sender_request_ids)b::text[], %(revisions)b::integer[])
                   with ordinality
                   as m (peer_id, lane, operation, request_id, correlation_id, body, sealed,
                         group_id, forecast_id, due_at, expires_at, sender_id, sender_request_id,
                         revision, position)
             order by m.position
                on conflict (peer_id, request_id, revision) do nothing
            returning peer_id, lane, due_at
        )
        insert into lane (peer_id, name, due_at)
        select peer_id, lane, min(due_at) from new group by peer_id, lane order by peer_id, lane
            on conflict (peer_id, name) do update
           set due_at = case when lane.failures > 0 and lane.due_at < 'infinity' then lane.due_at
                             else least(lane.due_at, excluded.due_at) end
        """,
        {
            "now": now,
            "peer_ids": [m.peer_id for m in messages],
            "lanes": [m.lane for m in messages],
            "operations": [m.operation for m in messages],
            "request_ids": [m.request_id for m in messages],
            "correlation_ids": [m.correlation_id for m in messages],
            "bodies": [
                b"" if is_large else m.body for m, is_large in zip(messages, large, strict=True)
            ],
            "sealed": [m.sealed for m in messages],
            "group_ids": [m.group_id for m in messages],
            "forecast_ids": [m.forecast_id for m in messages],
            "due": [m.due_at for m in messages],
            "expires": [m.expires_at for m in messages],
            "sender_ids": [m.sender_id for m in messages],
            "sender_request_ids": [m.sender_request_id for m in messages],
            "revisions": [m.revision for m in messages],
        },
    )


# Handing the driver all of a body of 16 MB would hold everybody up for tens of ms.
_LARGE: Final = 2**20
_PIECE: Final = 2**18
_BROUGHT: Final = """
    coalesce((select string_agg(p.piece, ''::bytea order by p.number) from owed_piece as p
               where p.peer_id = m.peer_id and p.request_id = m.request_id
                 and p.revision = m.revision), m.body)
"""


def _is_large(message: Owed) -> bool:
    return message.body is not None and len(message.body) > _LARGE


async def _bring(conn: AsyncConnection, large: Sequence[Owed]) -> None:
    """Bring bodies to the server in pieces; they are there until the transaction ends."""
    await conn.execute(
        """
        create temporary table if not exists owed_piece (
            peer_id bigint, request_id text, revision integer, number integer, piece bytea
        ) on commit drop
        """
    )
    await conn.execute("delete from owed_piece")
    for message in large:
        body = memoryview(message.body or b"")
        for number, first in enumerate(range(0, len(body), _PIECE)):
            await conn.execute(
                "insert into owed_piece values (%s, %s, %s, %s, %b)",
                (
                    message.peer_id,
                    message.request_id,
                    message.revision,
                    number,
                    bytes(body[first : first + _PIECE]),
                ),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOn:
    """A message that one peer sent about a group and we passed on: whose it was, and its id."""

    group_id: int
    identifier: str
    sender_id: int
    sender_request_id: str


async def passed_on(conn: AsyncConnection, *, receiver_id: int, request_id: str) -> PassedOn | None:
    """Return what the receiver knows as `request_id`, None when that passed nothing on."""
    cursor = conn.cursor(row_factory=class_row(PassedOn))
    await cursor.execute(
        """
        select o.group_id, g.identifier, o.sender_id, o.sender_request_id
          from outbox as o
          join capacity_group as g on g.id = o.group_id
          join peer as sender on sender.id = o.sender_id
         where o.peer_id = %s and o.request_id = %s
        """,
        (receiver_id, request_id),
    )
    return await cursor.fetchone()


async def is_owed(conn: AsyncConnection, *, peer_id: int, request_id: str) -> bool:
    """Tell whether the peer was ever owed a message of that id.

    Whoever else asks the same waits until this transaction ends.
    """
    await conn.execute(
        "select pg_advisory_xact_lock(hashtextextended(%s, %s))", (request_id, peer_id)
    )
    cursor = await conn.execute(
        "select from outbox where peer_id = %s and request_id = %s", (peer_id, request_id)
    )
    return await cursor.fetchone() is not None


async def release(conn: AsyncConnection, *, peer_id: int, request_id: str, now: datetime) -> None:
    """Make a message due now that was held back until our answer was out."""
    await conn.execute(
        """
        with released as (
            update outbox set due_at = %(now)s
             where peer_id = %(peer_id)s and request_id = %(id)s and due_at > %(now)s
            returning peer_id, lane
        )
        update lane set due_at = least(due_at, %(now)s)
          from released as r
         where lane.peer_id = r.peer_id and lane.name = r.lane
        """,
        {"peer_id": peer_id, "id": request_id, "now": now},
    )


async def supersede(
    conn: AsyncConnection, *, peer_id: int, lane: str, operations: Sequence[str], now: datetime
) -> None:
    """Drop unsettled messages that newer ones of the same kind replace.

    When one of them is under way, what follows need not wait until whoever sends it has done so,
    or has been dead for long enough.
    """
    await conn.execute(
        """
        with dropped as (
            update outbox set settled_at = %(now)s, outcome = 'superseded'
             where peer_id = %(peer_id)s and lane = %(lane)s and settled_at is null
               and operation = any(%(operations)s)
            returning attempts
        )
        update lane set leased_until = null, due_at = least(due_at, %(now)s)
         where peer_id = %(peer_id)s and name = %(lane)s
           and exists (select from dropped where attempts > 0)
        """,
        {"peer_id": peer_id, "lane": lane, "operations": list(operations), "now": now},
    )


async def abandon(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Drop everything still owed to a peer that has left."""
    await conn.execute(
        """
        update outbox set settled_at = %s, outcome = 'superseded'
         where peer_id = %s and settled_at is null
        """,
        (now, peer_id),
    )


async def expire(conn: AsyncConnection, *, now: datetime) -> int:
    """Settle what has become worthless and is in nobody's hands; return how many."""
    cursor = await conn.execute(
        """
        update outbox as o set settled_at = %(now)s, outcome = 'expired'
         where o.settled_at is null and o.expires_at <= %(now)s
           and not exists (select from lane as l
                            where l.peer_id = o.peer_id and l.name = o.lane
                              and l.leased_until > %(now)s)
        """,
        {"now": now},
    )
    return cursor.rowcount


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop what was settled long ago; return how many."""
    cursor = await conn.execute("delete from outbox where settled_at < %s", (before,))
    return cursor.rowcount
