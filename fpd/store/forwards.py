"""Forecasts of providers on their way to optimizers: what still waits, and what to say again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.forecast import ForecastType
from fpd.store.forecasts import Kept

Forwarded = tuple[int, int, ForecastType]
"""A group, the sender of the forecasts, and their type."""


async def waiting(
    conn: AsyncConnection, *, of: Collection[Forwarded], now: datetime
) -> dict[Forwarded, list[Kept]]:
    """Return, in their order, the forecasts that the group's optimizer is still to be sent.

    Their `id` is that of the message. Those that are under way just now are not among them.
    """
    groups, senders, types = zip(*of, strict=True)
    cursor = conn.cursor(row_factory=class_row(Kept))
    await cursor.execute(
        """
        select o.id, f.group_id, f.peer_id, f.type, f.received_at, f.body
          from unnest(%(groups)b::bigint[], %(senders)b::bigint[], %(types)b::text[])
               as w (group_id, sender_id, type)
          join capacity_group as g on g.id = w.group_id
          join outbox as o on o.peer_id = g.optimizer_id and o.lane = 'group:' || g.id
          left join lane as l on l.peer_id = o.peer_id and l.name = o.lane
          join forecast as f
            on f.id = o.forecast_id and f.peer_id = w.sender_id and f.type = w.type
         where o.settled_at is null and o.operation = 'update_group_capacity_forecast'
           and (o.attempts = 0 or coalesce(l.leased_until <= %(now)s, true))
           and f.ends_at > %(now)s
         order by o.id
        """,
        {"groups": list(groups), "senders": list(senders), "types": list(types), "now": now},
    )
    found: dict[Forwarded, list[Kept]] = {}
    for row in await cursor.fetchall():
        found.setdefault((row.group_id, row.peer_id, row.type), []).append(row)
    return found


async def drop(conn: AsyncConnection, *, ids: Sequence[int], now: datetime) -> None:
    """Settle messages as superseded, but for those that went under way in the meantime."""
    await conn.execute(
        """
        update outbox as o set settled_at = %(now)s, outcome = 'superseded'
         where o.id = any(%(ids)s) and o.settled_at is null
           and (o.attempts = 0
                or not exists (select from lane as l
                                where l.peer_id = o.peer_id and l.name = o.lane
                                  and l.leased_until > %(now)s))
        """,
        {"ids": list(ids), "now": now},
    )


async def hold_groups(conn: AsyncConnection, *, optimizer_id: int) -> list[int]:
    """Return the enabled groups of an optimizer, in an order.

    What others are adding about these groups is waited for, and what comes now waits until the
    transaction ends: a new forecast refers to its group before its forward is owed.
    """
    cursor = await conn.execute(
        """
        select id from capacity_group where optimizer_id = %s and enabled order by id for update
        """,
        (optimizer_id,),
    )
    return [row[0] for row in await cursor.fetchall()]


async def unended(
    conn: AsyncConnection, *, group_ids: Sequence[int], now: datetime
) -> dict[int, list[Kept]]:
    """Return per group, in the order of receipt, the forecasts of its provider that go on."""
    cursor = conn.cursor(row_factory=class_row(Kept))
    await cursor.execute(
        """
        select f.id, f.group_id, f.peer_id, f.type, f.received_at, f.body
          from forecast as f
          join capacity_group as g on g.id = f.group_id and g.provider_id = f.peer_id
         where f.group_id = any(%(groups)s) and f.open and f.ends_at > %(now)s
         order by f.group_id, f.id
        """,
        {"groups": list(group_ids), "now": now},
    )
    found: dict[int, list[Kept]] = {}
    for row in await cursor.fetchall():
        found.setdefault(row.group_id, []).append(row)
    return found


async def owe_again(
    conn: AsyncConnection,
    *,
    optimizer_id: int,
    group_ids: Sequence[int],
    request_ids: dict[int, str],
    due_at: datetime,
    now: datetime,
) -> None:
    """Owe an optimizer the forecasts that are the keys, in their order, as new messages.

    The values are the new request ids. What still waits for it in these groups is replaced: a
    forecast that was never tried goes under the id that it has, in its place among the others;
    one that was tried may have arrived under its id, and would be taken for a repetition.
    """
    of_these = {"peer_id": optimizer_id, "groups": list(group_ids), "ids": list(request_ids)}
    await conn.execute(
        """
        update outbox set settled_at = %(now)s, outcome = 'superseded'
         where peer_id = %(peer_id)s and group_id = any(%(groups)s) and settled_at is null
           and operation = 'update_group_capacity_forecast'
           and (attempts > 0 or not coalesce(forecast_id = any(%(ids)s), false))
        """,
        {**of_these, "now": now},
    )
    await conn.execute(
        """
        with untried as (
            delete from outbox
             where peer_id = %(peer_id)s and group_id = any(%(groups)s) and settled_at is null
               and operation = 'update_group_capacity_forecast'
            returning forecast_id, request_id, correlation_id
        )
, new as (
            insert into outbox (peer_id, lane, operation, request_id, correlation_id, group_id,
                                forecast_id, created_at, due_at, expires_at, sender_id,
                                sender_request_id)
            select %(peer_id)s, 'group:' || f.group_id, 'update_group_capacity_forecast',
                   coalesce(untried.request_id, again.request_id), untried.correlation_id,
                   f.group_id, f.id, %(now)s, %(due_at)s, f.ends_at, f.peer_id, f.request_id
              from unnest(%(ids)s::bigint[], %(request_ids)s::text[]) with ordinality
                   as again (forecast_id, request_id, position)
              join forecast as f on f.id = again.forecast_id
              left join untried on untried.forecast_id = f.id
             order by again.position
            returning peer_id, lane
        )
        insert into lane (peer_id, name, due_at)
        select distinct peer_id, lane, %(due_at)s::timestamptz from new order by peer_id, lane
            on conflict (peer_id, name) do update
           set due_at = excluded.due_at, failures = 0
        """,
        {**of_these, "request_ids": list(request_ids.values()), "due_at": due_at, "now": now},
    )
