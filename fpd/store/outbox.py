"""Messages owed to peers: owed in the transaction that causes them, delivered at least once.

Inside one (peer, lane) messages go one after the other in the order of their ids. A claim is a
lease: a daemon that dies gives its messages back when the lease ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store.reach import Reach

LINK = "link"  # register, handshake, acknowledge: these need no open link


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A message to send. `sealed`: the body holds a secret and is encrypted by the vault.

    `sender_id` and `sender_request_id` say whose message it passes on, None: it is our own.
    """

    peer_id: int
    lane: str
    operation: str
    body: bytes
    request_id: str
    due_at: datetime
    correlation_id: str | None = None
    group_id: int | None = None
    forecast_id: int | None = None
    expires_at: datetime | None = None
    sealed: bool = False
    sender_id: int | None = None
    sender_request_id: str | None = None


async def owe(conn: AsyncConnection, messages: Sequence[Owed], *, now: datetime) -> None:
    """Add messages. One whose request id its peer was already owed changes nothing."""
    if not messages:
        return
    cursor = conn.cursor()
    await cursor.executemany(
        """
        insert into outbox (peer_id, lane, operation, request_id, correlation_id, body, sealed,
                            group_id, forecast_id, created_at, due_at, expires_at, sender_id,
                            sender_request_id)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict (peer_id, request_id) do nothing
        """,
        [
            (
                m.peer_id,
                m.lane,
                m.operation,
                m.request_id,
                m.correlation_id,
                m.body,
                m.sealed,
                m.group_id,
                m.forecast_id,
                now,
                m.due_at,
                m.expires_at,
                m.sender_id,
                m.sender_request_id,
            )
            for m in messages
        ],
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
        update outbox set due_at = %(now)s
         where peer_id = %(peer_id)s and request_id = %(id)s and due_at > %(now)s
        """,
        {"peer_id": peer_id, "id": request_id, "now": now},
    )


async def supersede(
    conn: AsyncConnection, *, peer_id: int, lane: str, operations: Sequence[str], now: datetime
) -> None:
    """Drop unsettled messages that newer ones of the same kind replace."""
    await conn.execute(
        """
        update outbox set settled_at = %(now)s, outcome = 'superseded'
         where peer_id = %(peer_id)s and lane = %(lane)s and settled_at is null
           and operation = any(%(operations)s)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed(Reach):
    """A message in our hands until the lease ends, and how to reach its peer."""

    id: int
    role: str
    user_id: int
    lane: str
    operation: str
    request_id: str
    correlation_id: str | None
    body: bytes
    sealed: bool
    attempts: int


async def claim(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int
) -> list[Claimed]:
    """Take the first due message of each lane, oldest first, and return at most `limit`.

    Messages other than those of the link wait until the peer is online.
    """
    cursor = conn.cursor(row_factory=class_row(Claimed))
    await cursor.execute(
        """
        with due as (
            select o.id
              from outbox as o
              join peer as p on p.id = o.peer_id
             where o.settled_at is null and o.due_at <= %(now)s
               and (o.leased_until is null or o.leased_until <= %(now)s)
               and (o.expires_at is null or o.expires_at > %(now)s)
               and p.enabled and p.base_url is not null
               and (o.lane = 'link' or p.link = 'online')
               and not exists (
                   select from outbox as earlier
                    where earlier.peer_id = o.peer_id and earlier.lane = o.lane
                      and earlier.id < o.id and earlier.settled_at is null)
             order by o.due_at, o.id
             limit %(limit)s
               for update of o skip locked
        )
        update outbox as o
           set leased_until = %(leased_until)s, attempts = o.attempts + 1
          from due, peer as p
         where o.id = due.id and p.id = o.peer_id
        returning o.id, o.peer_id, p.role, p.user_id, o.lane, o.operation, o.request_id,
                  o.correlation_id, o.body, o.sealed, o.attempts, p.base_url,
                  p.outbound_token_sealed, p.service_props, p.secrets_sealed
        """,
        {"now": now, "leased_until": now + lease, "limit": limit},
    )
    return await cursor.fetchall()


async def expire(conn: AsyncConnection, *, now: datetime) -> int:
    """Settle what has become worthless; return how many."""
    cursor = await conn.execute(
        """
        update outbox set settled_at = %(now)s, outcome = 'expired'
         where settled_at is null and expires_at <= %(now)s
           and (leased_until is null or leased_until <= %(now)s)
        """,
        {"now": now},
    )
    return cursor.rowcount


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """What came of one try. `outcome` None: again at `due_at`."""

    id: int
    outcome: str | None
    status: int | None
    error: str | None
    due_at: datetime


async def settle(
    conn: AsyncConnection, settlements: Sequence[Settlement], *, now: datetime
) -> None:
    """Note what came of several tries, in one statement. Bodies with secrets are not kept."""
    await conn.execute(
        """
        update outbox as o
           set settled_at = case when s.outcome is null then null else %(now)s end,
               outcome = s.outcome, status = s.status, error = s.error, due_at = s.due_at,
               leased_until = null,
               body = case when o.sealed and s.outcome is not null then ''::bytea else o.body end
          from unnest(%(ids)s::bigint[], %(outcomes)s::text[], %(statuses)s::integer[],
                      %(errors)s::text[], %(due)s::timestamptz[])
               as s (id, outcome, status, error, due_at)
         where o.id = s.id and o.settled_at is null
        """,
        {
            "now": now,
            "ids": [s.id for s in settlements],
            "outcomes": [s.outcome for s in settlements],
            "statuses": [s.status for s in settlements],
            "errors": [s.error for s in settlements],
            "due": [s.due_at for s in settlements],
        },
    )


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop what was settled long ago; return how many."""
    cursor = await conn.execute("delete from outbox where settled_at < %s", (before,))
    return cursor.rowcount
