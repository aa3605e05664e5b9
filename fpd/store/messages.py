"""Messages owed to peers as an operator sees them: what became of each, dead letters, replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

STATES: Final = ("owed", "delivered", "refused", "expired", "superseded")
DEAD: Final = ("refused", "expired")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which messages are meant; None: whichever. `since`/`until`: when they came to be owed.

    `user_id` None: everybody's. `before`: older than the message with this id.
    """

    user_id: int | None = None
    peer_id: int | None = None
    group_id: int | None = None
    operation: str | None = None
    states: Sequence[str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None
    id: int | None = None

    @property
    def index(self) -> str:
        """Return what lets the few dead or owed messages be found among the many delivered."""
        if self.states is not None and set(self.states) <= set(DEAD):
            return "o.outcome in ('refused', 'expired')"
        return "o.settled_at is null" if self.states == ("owed",) else "true"

    def parameters(self) -> dict[str, Any]:
        return {
            "user_id": self.user_id,
            "peer_id": self.peer_id,
            "group_id": self.group_id,
            "operation": self.operation,
            "states": None if self.states is None else list(self.states),
            "since": self.since,
            "until": self.until,
            "before": self.before,
            "id": self.id,
        }


_MEANT: Final = """
        (%(user_id)s::bigint is null or p.user_id = %(user_id)s)
    and (%(peer_id)s::bigint is null or o.peer_id = %(peer_id)s)
    and (%(group_id)s::bigint is null or o.group_id = %(group_id)s)
    and (%(operation)s::text is null or o.operation = %(operation)s)
    and (%(states)s::text[] is null or coalesce(o.outcome, 'owed') = any(%(states)s))
    and (%(since)s::timestamptz is null or o.created_at >= %(since)s)
    and (%(until)s::timestamptz is null or o.created_at < %(until)s)
    and (%(before)s::bigint is null or o.id < %(before)s)
    and (%(id)s::bigint is null or o.id = %(id)s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message owed to a peer, now or once. `sender_*`: whom it passes on, None: nobody."""

    id: int
    peer_id: int
    peer_name: str
    role: str
    operation: str
    request_id: str
    correlation_id: str | None
    group_id: int | None
    state: str
    attempts: int
    status: int | None
    error: str | None
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None
    settled_at: datetime | None
    sender_id: int | None
    sender_request_id: str | None


_SHOWN: Final = """
    o.id, o.peer_id, p.name as peer_name, p.role, o.operation, o.request_id, o.correlation_id,
    o.group_id, coalesce(o.outcome, 'owed') as state, o.attempts, o.status, o.error, o.created_at,
    greatest(o.due_at,
             (select nullif(l.due_at, 'infinity') from lane as l
               where o.settled_at is null and l.leased_until is null
                 and l.peer_id = o.peer_id and l.name = o.lane)) as due_at,
    o.expires_at, o.settled_at, o.sender_id, o.sender_request_id
"""


async def listed(conn: AsyncConnection, wanted: Wanted, *, limit: int) -> list[Message]:
    """Return messages, newest first."""
    cursor = conn.cursor(row_factory=class_row(Message))
    await cursor.execute(
        f"""
        select {_SHOWN}
          from outbox as o
          join peer as p on p.id = o.peer_id
         where {wanted.index} and {_MEANT}
         order by o.id desc
         limit %(limit)s
        """,
        {**wanted.parameters(), "limit": limit},
    )
    return await cursor.fetchall()


async def body(conn: AsyncConnection, *, id: int) -> bytes | None:
    """Return what a message says, None when it holds or held a secret."""
    cursor = await conn.execute(
        """
        select case when not o.sealed then coalesce(o.body, f.body) end
          from outbox as o
          left join forecast as f on o.body is null and f.id = o.forecast_id
         where o.id = %s
        """,
        (id,),
    )
    row = await cursor.fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A message that somebody wants replayed; `obstacle` names what forbids it, None: nothing."""

    id: int
    user_id: int
    peer_id: int
    state: str
    operation: str
    link: str
    expires_at: datetime | None
    obstacle: str | None


_FORECASTS: Final = ("update_group_capacity_forecast", "adjust_group_capacity_forecast")


async def candidates(
    conn: AsyncConnection, wanted: Wanted, *, now: datetime, limit: int
) -> list[Candidate]:
    """Return, oldest first, the newest messages that are meant, locked, and what is in the way."""
    cursor = conn.cursor(row_factory=class_row(Candidate))
    await cursor.execute(
        f"""
        select o.id, p.user_id, o.peer_id, coalesce(o.outcome, 'owed') as state, o.operation,
               p.link, o.expires_at,
               case when o.outcome is null or o.outcome not in ('refused', 'expired') then 'state'
                    when o.lane = 'link' then 'link'
                    when p.link in ('provisioned', 'unregistered', 'failed') then 'gone'
                    when p.base_url is null then 'silent'
                    when o.operation = any(%(forecasts)s) and o.expires_at <= %(now)s then 'ended'
               end as obstacle
          from outbox as o
          join peer as p on p.id = o.peer_id
         where {_MEANT} and o.id in (
                   select o.id from outbox as o join peer as p on p.id = o.peer_id
                    where {wanted.index} and {_MEANT} order by o.id desc limit %(limit)s)
         order by o.id
           for update of o
        """,
        {**wanted.parameters(), "forecasts": list(_FORECASTS), "now": now, "limit": limit},
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """The bodies of a forecast that a message passes on, and of one that came after it."""

    message_id: int
    body: bytes
    newer_body: bytes


async def rivals(conn: AsyncConnection, *, ids: Sequence[int], now: datetime) -> list[Rival]:
    """Return what newer forecasts say beside those that these messages pass on."""
    cursor = conn.cursor(row_factory=class_row(Rival))
    await cursor.execute(
        """
        select o.id as message_id, f.body, newer.body as newer_body
          from outbox as o
          join forecast as f on f.id = o.forecast_id
          join forecast as newer on newer.group_id = f.group_id and newer.peer_id = f.peer_id
                                and newer.type = f.type and newer.id > f.id
         where o.id = any(%s) and newer.open and newer.ends_at > %s
        """,
        (list(ids), now),
    )
    return await cursor.fetchall()


async def revive(conn: AsyncConnection, *, ids: Sequence[int], now: datetime) -> None:
    """Owe dead letters again, as they were; one that expired gets as long as it had at first."""
    await conn.execute(
        """
        with revived as (
            update outbox
               set settled_at = null, outcome = null, attempts = 0, status = null, error = null,
                   due_at = %(now)s,
                   expires_at = case when expires_at <= %(now)s
                                     then %(now)s + (expires_at - created_at) else expires_at end
             where id = any(%(ids)s) and outcome in ('refused', 'expired')
            returning peer_id, lane
        )
        insert into lane (peer_id, name, due_at)
        select distinct peer_id, lane, %(now)s::timestamptz from revived order by peer_id, lane
            on conflict (peer_id, name) do update set due_at = least(lane.due_at, excluded.due_at)
        """,
        {"ids": list(ids), "now": now},
    )
