"""Capacity forecasts: as received, byte for byte, and their blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import groupby

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.forecast import Block, Forecast, ForecastType
from fpd.domain.units import Phase, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressee:
    """The group that a peer means by its identifier, and whom its forecasts are forwarded to."""

    group_id: int
    user_id: int
    enabled: bool
    provider_id: int
    optimizer_id: int | None
    optimizer_listens: bool  # it is enabled and has a base URL


async def find_group(conn: AsyncConnection, *, peer_id: int, identifier: str) -> Addressee | None:
    """Return the group that this provider or optimizer calls `identifier`, or None."""
    cursor = conn.cursor(row_factory=class_row(Addressee))
    await cursor.execute(
        """
        select g.id as group_id, g.user_id, g.enabled, g.provider_id, g.optimizer_id,
               coalesce(co.enabled and co.base_url is not null, false) as optimizer_listens
          from capacity_group as g
          left join peer as co on co.id = g.optimizer_id
         where g.identifier = %(identifier)s
           and (g.provider_id = %(peer_id)s or g.optimizer_id = %(peer_id)s)
        """,
        {"peer_id": peer_id, "identifier": identifier},
    )
    return await cursor.fetchone()


async def add(
    conn: AsyncConnection,
    *,
    group_id: int,
    peer_id: int,
    request_id: str,
    correlation_id: str | None,
    type: ForecastType,
    body: bytes,
    blocks: Sequence[Block],
    now: datetime,
) -> int:
    """Keep a forecast with its blocks and return its id."""
    cursor = await conn.execute(
        """
        with kept as (
            insert into forecast (group_id, peer_id, request_id, correlation_id, type, body,
                                  received_at, ends_at)
            values (%(group_id)s, %(peer_id)s, %(request_id)s, %(correlation_id)s, %(type)s,
                    %(body)s, %(now)s, %(ends_at)s)
            returning id
        ), blocks as (
            insert into forecast_block (forecast_id, position, start_at, end_at, capacity, unit,
                                        phase)
            select kept.id, b.position, b.start_at, b.end_at, b.capacity, b.unit, b.phase
              from kept,
                   unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[],
                          %(capacities)s::numeric[], %(units)s::text[], %(phases)s::text[])
                   with ordinality as b (start_at, end_at, capacity, unit, phase, position)
        )
        select id from kept
        """,
        {
            "group_id": group_id,
            "peer_id": peer_id,
            "request_id": request_id,
            "correlation_id": correlation_id,
            "type": type,
            "body": body,
            "now": now,
            "ends_at": max(b.end_at for b in blocks),
            "starts": [b.start_at for b in blocks],
            "ends": [b.end_at for b in blocks],
            "capacities": [b.capacity for b in blocks],
            "units": [b.unit for b in blocks],
            "phases": [b.phase for b in blocks],
        },
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _BlockRow:
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
    cursor = conn.cursor(row_factory=class_row(_BlockRow))
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
    found: dict[int, list[Forecast]] = {group_id: [] for group_id in group_ids}
    for _, rows in groupby(await cursor.fetchall(), key=lambda row: row.id):
        of_one = list(rows)
        found[of_one[0].group_id].append(_forecast(of_one))
    return {group_id: tuple(forecasts) for group_id, forecasts in found.items()}


def _forecast(rows: Sequence[_BlockRow]) -> Forecast:
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


async def want_control(conn: AsyncConnection, *, group_id: int, now: datetime) -> None:
    """Have the group's control looked at now, if it is under control at all."""
    await conn.execute(
        "update control_due set due_at = least(due_at, %s) where group_id = %s", (now, group_id)
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
