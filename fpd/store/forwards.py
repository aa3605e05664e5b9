"""Forecasts of providers on their way to optimizers: what still waits, and what to say again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.forecast import Forecast, ForecastType
from fpd.store.forecasts import BlockRow, assembled


async def waiting(
    conn: AsyncConnection,
    *,
    optimizer_id: int,
    group_id: int,
    sender_id: int,
    type: ForecastType,
    now: datetime,
) -> tuple[Forecast, ...]:
    """Return, in their order, the sender's forecasts that the optimizer is still to be sent.

    Their `id` is that of the message. One that is under way just now is not among them.
    """
    cursor = conn.cursor(row_factory=class_row(BlockRow))
    await cursor.execute(
        """
        select o.id, f.group_id, f.peer_id, f.type, f.received_at,
               b.start_at, b.end_at, b.capacity, b.unit, b.phase
          from outbox as o
          join forecast as f on f.id = o.forecast_id
          join forecast_block as b on b.forecast_id = f.id
         where o.peer_id = %(optimizer_id)s and o.lane = 'group:' || %(group_id)s::bigint
           and o.settled_at is null
           and (o.leased_until is null or o.leased_until <= %(now)s)
           and o.operation = 'update_group_capacity_forecast'
           and f.peer_id = %(sender_id)s and f.type = %(type)s
           and b.end_at > %(now)s
         order by o.id, b.position
        """,
        {
            "optimizer_id": optimizer_id,
            "group_id": group_id,
            "sender_id": sender_id,
            "type": type,
            "now": now,
        },
    )
    return assembled(await cursor.fetchall()).get(group_id, ())


async def drop(conn: AsyncConnection, *, ids: Sequence[int], now: datetime) -> None:
    """Settle messages as superseded, but for those that went under way in the meantime."""
    await conn.execute(
        """
        update outbox set settled_at = %(now)s, outcome = 'superseded'
         where id = any(%(ids)s) and settled_at is null
           and (leased_until is null or leased_until <= %(now)s)
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
) -> dict[int, tuple[Forecast, ...]]:
    """Return per group the forecasts of its provider whose last block has not ended.

    Blocks that have ended are left out; the forecasts are in the order of receipt.
    """
    cursor = conn.cursor(row_factory=class_row(BlockRow))
    await cursor.execute(
        """
        select f.id, f.group_id, f.peer_id, f.type, f.received_at,
               b.start_at, b.end_at, b.capacity, b.unit, b.phase
          from forecast as f
          join capacity_group as g on g.id = f.group_id and g.provider_id = f.peer_id
          join forecast_block as b on b.forecast_id = f.id
         where f.group_id = any(%(groups)s) and f.ends_at > %(now)s and b.end_at > %(now)s
         order by f.group_id, f.received_at, f.id, b.position
        """,
        {"groups": list(group_ids), "now": now},
    )
    return assembled(await cursor.fetchall())


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
        insert into outbox (peer_id, lane, operation, request_id, correlation_id, body, group_id,
                            forecast_id, created_at, due_at, expires_at, sender_id,
                            sender_request_id)
        select %(peer_id)s, 'group:' || f.group_id, 'update_group_capacity_forecast',
               coalesce(untried.request_id, again.request_id), untried.correlation_id, f.body,
               f.group_id, f.id, %(now)s, %(due_at)s, f.ends_at, f.peer_id, f.request_id
          from unnest(%(ids)s::bigint[], %(request_ids)s::text[]) with ordinality
               as again (forecast_id, request_id, position)
          join forecast as f on f.id = again.forecast_id
          left join untried on untried.forecast_id = f.id
         order by again.position
        """,
        {**of_these, "request_ids": list(request_ids.values()), "due_at": due_at, "now": now},
    )
