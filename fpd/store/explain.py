"""What an operator asks about a group: what was in force, because of what, and what it caused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store.forecasts import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group as it is now. `control` are its settings as given (decision M10).

    `*_online` are as control reads them; `until_at`: when the envelope in force is going to be
    another, as far as forecasts tell.
    """

    id: int
    user_id: int
    identifier: str
    name: str
    enabled: bool
    control: Mapping[str, Any] | None
    modified_at: datetime
    provider_id: int
    provider_name: str
    provider_link: str
    provider_since_at: datetime
    provider_trouble: str | None
    provider_online: bool
    optimizer_online: bool
    until_at: datetime | None


async def still(conn: AsyncConnection) -> None:
    """Let all that is read in this transaction, which did nothing yet, be of one instant."""
    await conn.execute("set transaction isolation level repeatable read, read only")


async def group(conn: AsyncConnection, *, user_id: int | None, group_id: int) -> Group | None:
    """Return the user's group, None: there is none. `user_id` None: whoever's it is."""
    cursor = conn.cursor(row_factory=class_row(Group))
    await cursor.execute(
        """
        select g.id, g.user_id, g.identifier, g.name, g.enabled, g.control, g.modified_at,
               cp.id as provider_id, cp.name as provider_name, cp.link as provider_link,
               cp.link_changed_at as provider_since_at, cp.trouble as provider_trouble,
               cp.link in ('online', 'broken') as provider_online,
               coalesce(co.link in ('online', 'broken') or co.base_url is null, true)
                   as optimizer_online,
               due.until_at
          from capacity_group as g
          join peer as cp on cp.id = g.provider_id
          left join peer as co on co.id = g.optimizer_id
          left join control_due as due on due.group_id = g.id
         where g.id = %(group_id)s and (%(user_id)s::bigint is null or g.user_id = %(user_id)s)
        """,
        {"user_id": user_id, "group_id": group_id},
    )
    return await cursor.fetchone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the group might do from `from_at` until the next envelope began, None: it holds still.

    W, into the group positive; None is no limit. `phases` as in `fpd.store.control.EnvelopeRow`.
    """

    id: int
    from_at: datetime
    until_at: datetime | None
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: str
    forecast_ids: Sequence[int]
    phases: Sequence[Mapping[str, Any]]


async def envelopes(
    conn: AsyncConnection,
    *,
    group_id: int,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> list[Held]:
    """Return, newest first, what was in force at any time during [since, until).

    `before`: older than the envelope with this id.
    """
    cursor = conn.cursor(row_factory=class_row(Held))
    await cursor.execute(
        """
        select e.id, e.from_at, next.from_at as until_at, e.min_w, e.max_w, e.optimum_w, e.reason,
               e.forecast_ids, e.phases
          from envelope as e
          left join lateral (select n.from_at
                               from envelope as n
                              where n.group_id = e.group_id
                                and (n.from_at, n.id) > (e.from_at, e.id)
                              order by n.from_at, n.id
                              limit 1) as next on true
         where e.group_id = %(group_id)s
           and (%(until)s::timestamptz is null or e.from_at < %(until)s)
           and (%(since)s::timestamptz is null or next.from_at is null or next.from_at > %(since)s)
           and (%(since)s::timestamptz is null or e.from_at >= coalesce(
                   (select max(from_at) from envelope
                     where group_id = %(group_id)s and from_at <= %(since)s), %(since)s))
           and (%(before)s::bigint is null or (e.from_at, e.id) < (
                   select from_at, id from envelope
                    where group_id = %(group_id)s and id = %(before)s))
         order by e.from_at desc, e.id desc
         limit %(limit)s
        """,
        {"group_id": group_id, "since": since, "until": until, "before": before, "limit": limit},
    )
    return await cursor.fetchall()


async def envelope_at(conn: AsyncConnection, *, group_id: int, at: datetime) -> Held | None:
    """Return what was in force at an instant, None: nothing ever, by then."""
    cursor = conn.cursor(row_factory=class_row(Held))
    await cursor.execute(
        """
        with held as (
            select * from envelope
             where group_id = %(group_id)s and from_at <= %(at)s
             order by from_at desc, id desc
             limit 1
        )
        select id, from_at, min_w, max_w, optimum_w, reason, forecast_ids, phases,
               (select n.from_at
                  from envelope as n
                 where n.group_id = held.group_id and (n.from_at, n.id) > (held.from_at, held.id)
                 order by n.from_at, n.id
                 limit 1) as until_at
          from held
        """,
        {"group_id": group_id, "at": at},
    )
    return await cursor.fetchone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known(Kept):
    """A kept forecast and under which id its sender knows it."""

    peer_name: str
    request_id: str
    correlation_id: str | None


_KNOWN = """
    f.id, f.group_id, f.peer_id, f.type, f.received_at, f.body, p.name as peer_name, f.request_id,
    f.correlation_id
"""
_MOST_WISHES = 200


async def forecasts(conn: AsyncConnection, *, ids: Sequence[int]) -> list[Known]:
    """Return the forecasts that are still kept, in the order of receipt."""
    cursor = conn.cursor(row_factory=class_row(Known))
    await cursor.execute(
        f"""
        select {_KNOWN} from forecast as f join peer as p on p.id = f.peer_id
         where f.id = any(%s) order by f.id
        """,
        (list(ids),),
    )
    return await cursor.fetchall()


async def wishes(conn: AsyncConnection, *, group_id: int, at: datetime) -> list[Known]:
    """Return the newest OPTIMUM forecasts that had come by `at` and went on, oldest first."""
    cursor = conn.cursor(row_factory=class_row(Known))
    await cursor.execute(
        f"""
        select {_KNOWN} from forecast as f join peer as p on p.id = f.peer_id
         where f.id in (select id from forecast
                         where group_id = %(group_id)s and type = 'OPTIMUM'
                           and received_at <= %(at)s and ends_at > %(at)s
                         order by id desc limit %(limit)s)
         order by f.id
        """,
        {"group_id": group_id, "at": at, "limit": _MOST_WISHES},
    )
    return await cursor.fetchall()


async def mattering(
    conn: AsyncConnection, *, group_id: int, ended: int, now: datetime
) -> list[Known]:
    """Return, in the order of receipt, the forecasts of which something may matter.

    What was said last may be held: of what has ended, the newest `ended` of each peer and type.
    Nobody may have looked for a while, so all that is open would be many.
    """
    cursor = conn.cursor(row_factory=class_row(Known))
    await cursor.execute(
        f"""
        with ranked as (
            select id, ends_at,
                   row_number() over (partition by peer_id, type, ends_at <= %(now)s
                                      order by id desc) as place
              from forecast
             where group_id = %(group_id)s and open
        )
        select {_KNOWN}
          from ranked
          join forecast as f on f.id = ranked.id
          join peer as p on p.id = f.peer_id
         where ranked.ends_at > %(now)s or ranked.place <= %(ended)s
         order by f.id
        """,
        {"group_id": group_id, "now": now, "ended": ended},
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A forecast as it came, and what became of passing it on; `message_id` None: it was not.

    `found`: how many were found, also of those that did not fit.
    """

    id: int
    peer_id: int
    type: str
    request_id: str
    correlation_id: str | None
    received_at: datetime
    ends_at: datetime
    body: bytes
    message_id: int | None
    forward_peer_id: int | None
    forward_request_id: str | None
    forward_state: str | None
    forward_status: int | None
    forward_error: str | None
    forward_settled_at: datetime | None
    found: int


async def received(
    conn: AsyncConnection,
    *,
    group_id: int,
    type: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int,
    most_bytes: int,
) -> list[Received]:
    """Return a group's forecasts, newest first: at most `limit`, or so many as fit.

    At least one is returned if there is any. Of what was passed on more than once the last
    message counts.
    """
    cursor = conn.cursor(row_factory=class_row(Received))
    await cursor.execute(
        """
        with found as (
            select f.*, sum(octet_length(f.body)) over (order by f.id desc)
                        - octet_length(f.body) as bytes_before,
                   count(*) over () as found
              from (select * from forecast
                     where group_id = %(group_id)s
                       and (%(type)s::text is null or type = %(type)s)
                       and (%(since)s::timestamptz is null or received_at >= %(since)s)
                       and (%(until)s::timestamptz is null or received_at < %(until)s)
                       and (%(before)s::bigint is null or id < %(before)s)
                     order by id desc
                     limit %(limit)s) as f
        )
        select f.id, f.peer_id, f.type, f.request_id, f.correlation_id, f.received_at, f.ends_at,
               f.body, o.id as message_id, o.peer_id as forward_peer_id,
               o.request_id as forward_request_id, o.state as forward_state,
               o.status as forward_status, o.error as forward_error,
               o.settled_at as forward_settled_at, f.found
          from found as f
          left join lateral (
                select id, peer_id, request_id, coalesce(outcome, 'owed') as state, status, error,
                       settled_at
                  from outbox
                 where forecast_id = f.id and operation = 'update_group_capacity_forecast'
                 order by id desc
                 limit 1) as o on true
         where f.bytes_before < %(most_bytes)s
         order by f.id desc
        """,
        {
            "group_id": group_id,
            "type": type,
            "since": since,
            "until": until,
            "before": before,
            "limit": limit,
            "most_bytes": most_bytes,
        },
    )
    return await cursor.fetchall()


async def link_event(
    conn: AsyncConnection, *, peer_id: int, at: datetime
) -> tuple[str, datetime] | None:
    """Return the last that happened to a peer's link by `at`: kind and instant."""
    cursor = await conn.execute(
        """
        select kind, at from event
         where peer_id = %(peer_id)s and at <= %(at)s
           and kind in ('peer.online', 'peer.offline', 'peer.broken', 'peer.registering',
                        'peer.registered', 'peer.registration_failed', 'peer.unregistered',
                        'peer.link_set')
         order by at desc, id desc
         limit 1
        """,
        {"peer_id": peer_id, "at": at},
    )
    row = await cursor.fetchone()
    return None if row is None else (row[0], row[1])
