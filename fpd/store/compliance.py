"""What cannot be kept of forecasts: since when, and what their providers were told of it.

One row per (forecast, block, reason) for as long as it is remembered, so nobody is told twice,
by however many daemons: whoever writes a row holds it until what it says is owed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A block that cannot be kept. `firm`: it is known, not measured, so it is no flicker."""

    group_id: int
    forecast_id: int
    peer_id: int | None
    block: int
    reason: str
    direction: str
    start_at: datetime
    end_at: datetime
    power_w: int
    by_w: int
    firm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A note as it stands. `settled_now`: with this look it is no flicker any more.

    `to_tell` and `to_ask`: its provider was not told or asked yet, and can be.
    """

    id: int
    group_id: int
    forecast_id: int
    peer_id: int | None
    block: int
    reason: str
    direction: str
    start_at: datetime
    end_at: datetime
    power_w: int
    by_w: int
    settled_now: bool
    to_tell: bool
    to_ask: bool


async def note(
    conn: AsyncConnection, notes: Sequence[Note], *, now: datetime, patience: timedelta
) -> list[Noted]:
    """Write down what cannot be kept, and return those that are no flicker.

    What is not firm settles once it was seen twice and for `patience`; what had cleared begins
    anew, but its provider is not told again. Rows are held until the transaction ends.
    """
    if not notes:
        return []
    cursor = conn.cursor(row_factory=class_row(Noted))
    await cursor.execute(
        """
        with new as (
            select * from jsonb_to_recordset(%(notes)s) as n (
                   group_id bigint, forecast_id bigint, peer_id bigint, block integer,
                   reason text, direction text, start_at timestamptz, end_at timestamptz,
                   power_w bigint, by_w bigint, firm boolean)
        ), written as (
            insert into compliance as c (group_id, forecast_id, peer_id, block, reason, direction,
                   start_at, end_at, power_w, by_w, since, last_at, settled_at)
            select n.group_id, n.forecast_id, n.peer_id, n.block, n.reason, n.direction,
                   n.start_at, n.end_at, n.power_w, n.by_w, %(now)s, %(now)s,
                   case when n.firm then %(now)s::timestamptz end
              from new as n
              join capacity_group as g on g.id = n.group_id
             order by n.group_id, n.forecast_id, n.block, n.reason
                on conflict (group_id, forecast_id, block, reason) do update
               set start_at = least(c.start_at, excluded.start_at),
                   end_at = greatest(c.end_at, excluded.end_at),
                   power_w = excluded.power_w, by_w = excluded.by_w, last_at = excluded.last_at,
                   since = case when c.cleared_at is null then least(c.since, excluded.since)
                                else excluded.since end,
                   settled_at = case
                       when c.cleared_at is not null then excluded.settled_at
                       when c.settled_at is not null then c.settled_at
                       when c.since <= %(settles)s then excluded.last_at
                       else excluded.settled_at end,
                   cleared_at = null
            returning c.*
        )
        select w.id, w.group_id, w.forecast_id, w.peer_id, w.block, w.reason, w.direction,
               w.start_at, w.end_at, w.power_w, w.by_w,
               w.settled_at = %(now)s as settled_now,
               reached and w.told_as is null as to_tell,
               reached and not exists (
                   select from compliance as other
                    where other.group_id = w.group_id and other.forecast_id = w.forecast_id
                      and other.block = w.block and other.asked_as is not null) as to_ask
          from written as w
          left join peer as p on p.id = w.peer_id
         cross join lateral (
               select coalesce(p.enabled and p.base_url is not null
                               and p.link not in ('provisioned', 'registering', 'unregistered',
                                                  'failed'), false) as reached) as r
         where w.settled_at is not null
         order by w.forecast_id, w.block, w.reason
        """,
        {
            "notes": Jsonb([_note(one) for one in notes]),
            "now": now,
            "settles": now - patience,
        },
    )
    return await cursor.fetchall()


def _note(one: Note) -> dict[str, Any]:
    return {
        "group_id": one.group_id,
        "forecast_id": one.forecast_id,
        "peer_id": one.peer_id,
        "block": one.block,
        "reason": one.reason,
        "direction": one.direction,
        "start_at": one.start_at.isoformat(),
        "end_at": one.end_at.isoformat(),
        "power_w": one.power_w,
        "by_w": one.by_w,
        "firm": one.firm,
    }


async def set_told(conn: AsyncConnection, *, ids: Collection[int], request_id: str) -> None:
    """Write down under which id the provider hears of these."""
    await conn.execute(
        "update compliance set told_as = %s where id = any(%s)", (request_id, list(ids))
    )


async def set_asked(conn: AsyncConnection, *, ids: Collection[int], request_id: str) -> None:
    """Write down under which id the provider is asked for other capacities in place of these."""
    await conn.execute(
        "update compliance set asked_as = %s where id = any(%s)", (request_id, list(ids))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """Something that can be kept again, or is over. `settled`: it was no mere flicker."""

    id: int
    group_id: int
    forecast_id: int
    peer_id: int | None
    block: int
    reason: str
    end_at: datetime
    settled: bool
    asked_as: str | None


async def clear(
    conn: AsyncConnection, *, unsure: Mapping[int, bool], now: datetime, patience: timedelta
) -> list[Cleared]:
    """End what was not seen for `patience`, or what is over.

    `unsure` by group: nobody could say whether what depends on its load goes on, so of that only
    what is over ends.
    """
    cursor = conn.cursor(row_factory=class_row(Cleared))
    await cursor.execute(
        """
        update compliance as c set cleared_at = %(now)s
          from unnest(%(groups)s::bigint[], %(unsure)s::boolean[]) as g (id, unsure)
         where c.group_id = g.id and c.cleared_at is null and c.last_at < %(now)s
           and c.last_at <= %(before)s
           and (not g.unsure or c.settled_at = c.since or c.end_at <= %(before)s)
        returning c.id, c.group_id, c.forecast_id, c.peer_id, c.block, c.reason, c.end_at,
                  c.settled_at is not null as settled, c.asked_as
        """,
        {
            "groups": list(unsure),
            "unsure": list(unsure.values()),
            "now": now,
            "before": now - patience,
        },
    )
    return await cursor.fetchall()


async def withdraw(conn: AsyncConnection, *, request_ids: Collection[str], now: datetime) -> None:
    """Drop wishes that nobody has begun to send: what they wanted is not needed any more."""
    await conn.execute(
        """
        update outbox set settled_at = %s, outcome = 'superseded'
         where request_id = any(%s) and operation = 'adjust_group_capacity_forecast'
           and settled_at is null and attempts = 0
        """,
        (now, list(request_ids)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A forecast as its sender knows it."""

    id: int
    request_id: str
    body: bytes


async def known(conn: AsyncConnection, *, ids: Collection[int]) -> list[Known]:
    """Return forecasts that are still kept."""
    cursor = conn.cursor(row_factory=class_row(Known))
    await cursor.execute(
        "select id, request_id, body from forecast where id = any(%s)", (list(ids),)
    )
    return await cursor.fetchall()


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop what was seen last long ago; return how many."""
    cursor = await conn.execute("delete from compliance where last_at < %s", (before,))
    return cursor.rowcount
