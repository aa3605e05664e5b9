"""The measurement schedule: what has to be reported next to whom.

A row is the next unreported period of one group towards one audience.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

_decode = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode

# Enabled groups with an enabled asset for a peer that is enabled and online. Over a broken link
# nothing leaves, but what it would report is owed, so that nothing is missing once it is mended.
_REPORTABLE: Final = """
    select g.id as group_id, p.role as audience, p.id as peer_id, g.user_id, g.identifier,
           case p.role when 'CapacityProvider' then g.provider_period_s
                       else g.optimizer_period_s end as period_s,
           g.created_at, p.measurement_configuration, p.service_props
      from capacity_group as g
      join peer as p on p.id in (g.provider_id, g.optimizer_id)
     where g.enabled and p.enabled and p.link in ('online', 'broken')
       and exists (select from asset as a
                    where a.group_id = g.id and a.audience = p.role and a.enabled)
"""


async def schedule(conn: AsyncConnection, *, now: datetime, settle: timedelta) -> int:
    """Give every reportable group its row; return how many were added or changed.

    The first period is the last one complete now (decision P10). A row whose period length was
    changed goes on at the first new period that begins where the old one would have or later.
    """
    cursor = await conn.execute(
        f"""
        with wanted as (
            select r.group_id, r.audience, r.period_s, r.period_s * interval '1 second' as length,
                   d.start_at as old_start_at
              from ({_REPORTABLE}) as r
              left join measurement_due as d
                on d.group_id = r.group_id and d.audience = r.audience
             where d.group_id is null or d.period_s <> r.period_s
        ), placed as (
            select group_id, audience, period_s, length,
                   case when old_start_at is null
                        then date_bin(length, %(now)s, 'epoch') - length
                        else date_bin(length, old_start_at + length - interval '1 microsecond',
                                      'epoch')
                   end as start_at
              from wanted
        )
        insert into measurement_due (group_id, audience, period_s, start_at, due_at)
        select group_id, audience, period_s, start_at, start_at + length + %(settle)s
          from placed
            on conflict (group_id, audience) do update
               set period_s = excluded.period_s, start_at = excluded.start_at,
                   due_at = excluded.due_at, leased_until = null
        """,
        {"now": now, "settle": settle},
    )
    return cursor.rowcount


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A period of the group made at `created_at` that is to be closed.

    `bridges`: asset id → property → what resets have taken from the register.
    """

    group_id: int
    audience: str
    peer_id: int
    user_id: int
    identifier: str
    created_at: datetime
    period_s: int
    start_at: datetime
    bridges: Mapping[str, Mapping[str, Decimal]]
    measurement_configuration: Sequence[str]
    service_props: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _DueRow:
    group_id: int
    audience: str
    peer_id: int
    user_id: int
    identifier: str
    created_at: datetime
    period_s: int
    start_at: datetime
    bridges: str | None
    measurement_configuration: list[str] | None
    service_props: dict[str, Any] | None


async def claim(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, spool: timedelta, limit: int
) -> list[Due]:
    """Take the periods that are due, oldest first.

    Those of groups or peers that cannot be reported now keep their place. What is older than
    `spool` is skipped.
    """
    cursor = conn.cursor(row_factory=class_row(_DueRow))
    await cursor.execute(
        f"""
        with due as (
            select d.group_id, d.audience, r.peer_id, r.user_id, r.identifier, r.created_at,
                   r.measurement_configuration, r.service_props
              from measurement_due as d
              join ({_REPORTABLE}) as r
                on r.group_id = d.group_id and r.audience = d.audience
             where d.due_at <= %(now)s
               and (d.leased_until is null or d.leased_until <= %(now)s)
             order by d.due_at, d.group_id
             limit %(limit)s
               for update of d skip locked
        )
        update measurement_due as d
           set leased_until = %(leased_until)s,
               start_at = greatest(
                   d.start_at,
                   date_bin(d.period_s * interval '1 second', %(oldest)s, 'epoch'))
          from due
         where d.group_id = due.group_id and d.audience = due.audience
        returning d.group_id, d.audience, due.peer_id, due.user_id, due.identifier,
                  due.created_at, d.period_s, d.start_at, d.bridges::text as bridges,
                  due.measurement_configuration, due.service_props
        """,
        {"now": now, "leased_until": now + lease, "oldest": now - spool, "limit": limit},
    )
    return [
        Due(
            group_id=row.group_id,
            audience=row.audience,
            peer_id=row.peer_id,
            user_id=row.user_id,
            identifier=row.identifier,
            created_at=row.created_at,
            period_s=row.period_s,
            start_at=row.start_at,
            bridges=_bridges(row.bridges),
            measurement_configuration=row.measurement_configuration or (),
            service_props=row.service_props or {},
        )
        for row in await cursor.fetchall()
    ]


def _bridges(text: str | None) -> dict[str, dict[str, Decimal]]:
    stored = _decode(text) if text else {}
    return {
        asset: {name: Decimal(taken) for name, taken in of_asset.items()}
        for asset, of_asset in stored.items()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A period that is done with, and what the next one needs to know about resets."""

    due: Due
    next_at: datetime
    bridges: Mapping[str, Mapping[str, Decimal]]


async def advance(conn: AsyncConnection, closed: Sequence[Closed], *, settle: timedelta) -> None:
    """Go on to the next periods, where nobody else has meanwhile."""
    await conn.execute(
        """
        update measurement_due as d
           set start_at = c.next_at, leased_until = null, bridges = c.bridges,
               due_at = c.next_at + d.period_s * interval '1 second' + %(settle)s
          from unnest(%(groups)s::bigint[], %(audiences)s::text[], %(starts)s::timestamptz[],
                      %(nexts)s::timestamptz[], %(bridges)s::jsonb[])
               as c (group_id, audience, start_at, next_at, bridges)
         where d.group_id = c.group_id and d.audience = c.audience and d.start_at = c.start_at
        """,
        {
            "settle": settle,
            "groups": [c.due.group_id for c in closed],
            "audiences": [c.due.audience for c in closed],
            "starts": [c.due.start_at for c in closed],
            "nexts": [c.next_at for c in closed],
            "bridges": [Jsonb(c.bridges, dumps=_encode) if c.bridges else None for c in closed],
        },
    )


async def postpone(conn: AsyncConnection, due: Sequence[Due], *, until: datetime) -> None:
    """Look at these periods again at `until`."""
    await conn.execute(
        """
        update measurement_due as d
           set due_at = %(until)s, leased_until = null
          from unnest(%(groups)s::bigint[], %(audiences)s::text[], %(starts)s::timestamptz[])
               as p (group_id, audience, start_at)
         where d.group_id = p.group_id and d.audience = p.audience and d.start_at = p.start_at
        """,
        {
            "until": until,
            "groups": [row.group_id for row in due],
            "audiences": [row.audience for row in due],
            "starts": [row.start_at for row in due],
        },
    )
