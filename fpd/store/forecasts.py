"""Capacity forecasts: as received, byte for byte, and their blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from fpd.domain.forecast import Block, Forecast, ForecastType
from fpd.domain.units import Phase, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressee:
    """The group that a peer means by its identifier, and whom its forecasts are forwarded to.

    `optimizer_listens`: it is enabled and has a base URL. `optimizer_waits`: something of this
    group is still owed to it.
    """

    group_id: int
    user_id: int
    enabled: bool
    provider_id: int
    optimizer_id: int | None
    optimizer_listens: bool
    optimizer_waits: bool
    provider_props: dict[str, Any] | None
    optimizer_props: dict[str, Any] | None


Key = tuple[int, str]
"""A peer's id and the identifier by which it calls a group."""


async def find_groups(conn: AsyncConnection, *, keys: Collection[Key]) -> dict[Key, Addressee]:
    """Return the groups that these keys mean; a key that means none is left out."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        """
        select k.peer_id, k.identifier,
               g.id as group_id, g.user_id, g.enabled, g.provider_id, g.optimizer_id,
               coalesce(co.enabled and co.base_url is not null, false) as optimizer_listens,
               exists (select from outbox as o
                        where o.peer_id = g.optimizer_id and o.lane = 'group:' || g.id
                          and o.settled_at is null) as optimizer_waits,
               cp.service_props as provider_props, co.service_props as optimizer_props
          from unnest(%(peer_ids)s::bigint[], %(identifiers)s::text[])
               as k (peer_id, identifier)
          join capacity_group as g
            on g.identifier = k.identifier and k.peer_id in (g.provider_id, g.optimizer_id)
          join peer as cp on cp.id = g.provider_id
          left join peer as co on co.id = g.optimizer_id
        """,
        {
            "peer_ids": [peer_id for peer_id, _ in keys],
            "identifiers": [identifier for _, identifier in keys],
        },
    )
    return {
        (row.pop("peer_id"), row.pop("identifier")): Addressee(**row)
        for row in await cursor.fetchall()
    }


async def find_group(conn: AsyncConnection, *, peer_id: int, identifier: str) -> Addressee | None:
    """Return the group that this provider or optimizer calls `identifier`, or None."""
    key = (peer_id, identifier)
    return (await find_groups(conn, keys=[key])).get(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """One block of a forecast, with what is asked of the forecast itself."""

    id: int
    group_id: int
    peer_id: int
    type: str
    received_at: datetime
    start_at: datetime
    end_at: datetime
    capacity: Decimal
    unit: str
    phase: str


async def load(
    conn: AsyncConnection, *, group_ids: Sequence[int], at: datetime
) -> dict[int, tuple[Forecast, ...]]:
    """Return per group what can matter at or after `at`, in the order of receipt.

    That is every block that has not ended, and whole those messages of each (peer, type) that
    came or end last, because their last blocks may be held.
    """
    cursor = conn.cursor(row_factory=class_row(BlockRow))
    await cursor.execute(
        """
        with held as (
            (select distinct on (group_id, peer_id, type) id
               from forecast
              where group_id = any(%(groups)s)
              order by group_id, peer_id, type, received_at desc, id desc)
            union
            (select distinct on (group_id, peer_id, type) id
               from forecast
              where group_id = any(%(groups)s)
              order by group_id, peer_id, type, ends_at desc, id desc)
        )
        select f.id, f.group_id, f.peer_id, f.type, f.received_at,
               b.start_at, b.end_at, b.capacity, b.unit, b.phase
          from forecast as f
          join forecast_block as b on b.forecast_id = f.id
         where f.group_id = any(%(groups)s)
           and (f.ends_at > %(at)s and b.end_at > %(at)s or f.id in (select id from held))
         order by f.group_id, f.received_at, f.id, b.position
        """,
        {"groups": list(group_ids), "at": at},
    )
    found = assembled(await cursor.fetchall())
    return {group_id: found.get(group_id, ()) for group_id in group_ids}


def assembled(rows: Iterable[BlockRow]) -> dict[int, tuple[Forecast, ...]]:
    """Return the forecasts of each group; the rows of a forecast must come one after another."""
    found: dict[int, list[Forecast]] = {}
    for _, of_one in groupby(rows, key=lambda row: row.id):
        blocks = list(of_one)
        found.setdefault(blocks[0].group_id, []).append(_forecast(blocks))
    return {group_id: tuple(forecasts) for group_id, forecasts in found.items()}


def _forecast(rows: Sequence[BlockRow]) -> Forecast:
    first = rows[0]
    return Forecast(
        received_at=first.received_at,
        type=ForecastType(first.type),
        blocks=tuple(
            Block(
                start_at=row.start_at,
                end_at=row.end_at,
                capacity=row.capacity,
                unit=Unit(row.unit),
                phase=Phase(row.phase),
            )
            for row in rows
        ),
        id=first.id,
        peer_id=first.peer_id,
    )


async def want_control(conn: AsyncConnection, *, group_ids: Collection[int], now: datetime) -> None:
    """Have the control of these groups looked at now, as far as they are under control."""
    await conn.execute(
        """
        with locked as (
            select group_id from control_due
             where group_id = any(%(ids)s) and due_at > %(now)s
             order by group_id for update
        )
        update control_due as due set due_at = %(now)s
          from locked where due.group_id = locked.group_id
        """,
        {"ids": list(group_ids), "now": now},
    )


async def want_control_of_peer(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Have the control of every group of the peer looked at now."""
    await conn.execute(
        """
        update control_due set due_at = least(due_at, %(now)s)
         where group_id in (select id from capacity_group
                             where provider_id = %(peer_id)s or optimizer_id = %(peer_id)s)
        """,
        {"peer_id": peer_id, "now": now},
    )
