"""The measurement schedule: what has to be reported next to whom.

A row is the next unreported period of one group towards one audience. It begins at `start_at` and
ends where a period of its length does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.domain.measurement import Period, period_from
from fpd.store.parts import one_by_one
from fpd.store.spans import Span

# Enabled groups of a peer that is enabled and online. Over a broken link nothing leaves, but what
# it would report is owed, so that nothing is missing once it is mended.
_LINKED: Final = """
    select g.id as group_id, p.role as audience, p.id as peer_id, g.user_id, g.identifier,
           case p.role when 'CapacityProvider' then g.provider_period_s
                       else g.optimizer_period_s end as period_s,
           g.created_at, p.measurement_configuration, p.service_props,
           (g.control ->> 'settleSeconds')::double precision * interval '1 second' as settle
      from capacity_group as g
      join peer as p on p.id in (g.provider_id, g.optimizer_id)
     where g.enabled and p.enabled and p.link in ('online', 'broken')
"""
_HAS_ASSETS: Final = """
    exists (select from asset as a
             where a.group_id = r.group_id and a.audience = r.audience and a.enabled)
"""
REPORTABLE: Final = f"select * from ({_LINKED}) as r where {_HAS_ASSETS}"


async def schedule(conn: AsyncConnection, *, now: datetime, settle: timedelta) -> int:
    """Give every reportable group its row; return how many were added or changed.

    The first period is the last one complete now (decision P10). A row whose period length was
    changed goes on where it is, with a first period that ends where one of the new length does.
    `settle` is that of groups without their own.
    """
    cursor = await conn.execute(
        f"""
        with lacking as materialized (
            select r.*, d.start_at as old_start_at
              from ({_LINKED}) as r
              left join measurement_due as d
                on d.group_id = r.group_id and d.audience = r.audience
             where d.group_id is null or d.period_s <> r.period_s
        ), wanted as (
            select r.group_id, r.audience, r.period_s, r.period_s * interval '1 second' as length,
                   coalesce(r.settle, %(settle)s) as settle, r.old_start_at
              from lacking as r
             where {_HAS_ASSETS}
        ), placed as (
            select group_id, audience, period_s, length, settle,
                   coalesce(old_start_at, date_bin(length, %(now)s, 'epoch') - length) as start_at
              from wanted
        )
        insert into measurement_due (group_id, audience, period_s, start_at, due_at)
        select group_id, audience, period_s, start_at,
               date_bin(length, start_at, 'epoch') + length + settle
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
    """A period of the group made at `created_at` that is to be closed."""

    group_id: int
    audience: str
    peer_id: int
    user_id: int
    identifier: str
    created_at: datetime
    period_s: int
    start_at: datetime
    measurement_configuration: Sequence[str]
    service_props: Mapping[str, Any]

    @property
    def period(self) -> Period:
        return period_from(self.start_at, self.period_s)

    @property
    def span(self) -> Span:
        period = self.period
        return Span(
            group_id=self.group_id,
            audience=self.audience,
            start_at=period.start_at,
            end_at=period.end_at,
        )


async def claim(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, spool: timedelta, limit: int
) -> list[Due]:
    """Take the periods that are due, oldest first, in the caller's transaction.

    Those of groups or peers that cannot be reported now keep their place. What is older than
    `spool` is skipped.
    """
    await one_by_one(conn)
    cursor = conn.cursor(row_factory=class_row(Due))
    await cursor.execute(
        f"""
        with due as (
            select d.group_id, d.audience, r.peer_id, r.user_id, r.identifier, r.created_at,
                   r.measurement_configuration, r.service_props
              from measurement_due as d
              join ({REPORTABLE}) as r
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
                  due.created_at, d.period_s, d.start_at,
                  coalesce(due.measurement_configuration, '{{}}') as measurement_configuration,
                  coalesce(due.service_props, '{{}}') as service_props
        """,
        {"now": now, "leased_until": now + lease, "oldest": now - spool, "limit": limit},
    )
    return await cursor.fetchall()


async def are_being_closed(conn: AsyncConnection, *, now: datetime) -> bool:
    """Tell whether somebody closes periods now, for those whose own work can wait meanwhile.

    Those that have been due for 15 s are no reason to wait any longer.
    """
    cursor = await conn.execute(
        """
        select exists (select from measurement_due
                        where due_at <= %(now)s and due_at > %(now)s - interval '15 seconds'
                          and leased_until > %(now)s)
        """,
        {"now": now},
    )
    return await cursor.fetchone() == (True,)


async def next_due(conn: AsyncConnection, *, now: datetime, before: datetime) -> datetime | None:
    """Return when the next period will be due; None if that is not `before` an instant."""
    cursor = await conn.execute(
        "select min(due_at) from measurement_due where due_at > %s and due_at < %s", (now, before)
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def advance(conn: AsyncConnection, closed: Sequence[Due], *, settle: timedelta) -> None:
    """Go on to the next periods, where nobody else has meanwhile."""
    await conn.execute(
        """
        update measurement_due as d
           set start_at = c.next_at, leased_until = null,
               due_at = c.next_at + d.period_s * interval '1 second'
                        + coalesce((g.control ->> 'settleSeconds')::double precision
                                   * interval '1 second', %(settle)s)
          from unnest(%(groups)s::bigint[], %(audiences)s::text[], %(starts)s::timestamptz[],
                      %(nexts)s::timestamptz[]) as c (group_id, audience, start_at, next_at)
          join capacity_group as g on g.id = c.group_id
         where d.group_id = c.group_id and d.audience = c.audience and d.start_at = c.start_at
        """,
        {
            "settle": settle,
            "groups": [due.group_id for due in closed],
            "audiences": [due.audience for due in closed],
            "starts": [due.start_at for due in closed],
            "nexts": [due.period.end_at for due in closed],
        },
    )


async def running(conn: AsyncConnection, *, now: datetime, until: datetime) -> list[Span]:
    """Return what of the periods that are running now lies before `until`, longer ones only."""
    cursor = conn.cursor(row_factory=class_row(Span))
    await cursor.execute(
        f"""
        select d.group_id, d.audience, d.start_at, %(until)s::timestamptz as end_at
          from measurement_due as d
          join ({REPORTABLE}) as r on r.group_id = d.group_id and r.audience = d.audience
         where d.due_at > %(now)s and d.start_at < %(until)s and d.period_s > 60
           and d.start_at > %(now)s - interval '1 hour'
        """,
        {"now": now, "until": until},
    )
    return await cursor.fetchall()
