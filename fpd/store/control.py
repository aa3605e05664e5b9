"""Control: which groups are due, what decides about them, and the envelopes in force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

# Older datum are history, not "now"; the bound also spares the partitions of former months.
_RECENT = timedelta(days=1)


WATCHED = """
    select group_id from asset where control is not null and control ->> 'device' is not null
     union
    select id from capacity_group where control ->> 'meter' is not null
"""
"""The groups in which there is something to steer or to measure."""


async def enrol(conn: AsyncConnection, *, now: datetime) -> None:
    """Put every group under control: what was in force has to be known for each of them."""
    await conn.execute(
        """
        insert into control_due (group_id, due_at)
        select id, %(now)s
          from capacity_group as g
         where not exists (select from control_due as c where c.group_id = g.id)
            on conflict do nothing
        """,
        {"now": now},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DueGroup:
    """A group to look at. `control` are its settings as given (decision M10)."""

    group_id: int
    user_id: int
    enabled: bool
    control: Mapping[str, Any] | None
    provider_online: bool
    optimizer_online: bool


async def claim(
    conn: AsyncConnection, *, holder: str, now: datetime, lease: timedelta, limit: int
) -> list[DueGroup]:
    """Take at most `limit` due groups until the lease ends, longest overdue first; but those in
    which nothing is steered or measured come last, because many of them change at once.

    A group without optimizer, or with one that only listens to datum, counts as one whose
    optimizer is online: its wishes come from elsewhere (decisions P8, M8). A peer of a broken
    link is there: it is we who do not get through to it.
    """
    cursor = conn.cursor(row_factory=class_row(DueGroup))
    await cursor.execute(
        """
        with due as (
            select c.group_id
              from control_due as c
              left join compliance_due as watched on watched.group_id = c.group_id
             where c.due_at <= %(now)s and (c.leased_until is null or c.leased_until <= %(now)s)
             order by watched.group_id is null, c.due_at
             limit %(limit)s
               for update of c skip locked
        ), taken as (
            update control_due as c
               set leased_until = %(until)s, due_at = %(until)s, leased_by = %(holder)s
              from due
             where c.group_id = due.group_id
            returning c.group_id
        )
        select g.id as group_id, g.user_id, g.enabled, g.control,
               cp.link in ('online', 'broken') as provider_online,
               coalesce(co.link in ('online', 'broken') or co.base_url is null, true)
                   as optimizer_online
          from taken
          join capacity_group as g on g.id = taken.group_id
          join peer as cp on cp.id = g.provider_id
          left join peer as co on co.id = g.optimizer_id
         order by g.id
        """,
        {"holder": holder, "now": now, "until": now + lease, "limit": limit},
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One enabled asset. `device`: what it names, None if nothing; `drives`: through this asset."""

    id: int
    group_id: int
    device: str | None
    drives: bool
    priority: int
    node_id: int
    source_id: str
    instantaneous: Mapping[str, Any] | None


async def assets(conn: AsyncConnection, *, group_ids: Sequence[int]) -> list[Asset]:
    """Return the assets of the groups.

    A device is driven through the first enabled asset that names it, so that two groups never
    pull at one device.
    """
    cursor = conn.cursor(row_factory=class_row(Asset))
    await cursor.execute(
        """
        select a.id, a.group_id, a.control ->> 'device' as device,
               a.control ->> 'device' is not null and not exists (
                   select from asset as other
                    where other.control ->> 'device' = a.control ->> 'device'
                      and other.control is not null and other.enabled and other.id < a.id
               ) as drives,
               coalesce((a.control ->> 'priority')::integer, 1) as priority,
               a.node_id, a.source_id, a.instantaneous
          from asset as a
         where a.group_id = any(%s) and a.enabled
         order by a.id
        """,
        (list(group_ids),),
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Property:
    """One instantaneous property of one stream; a leading slash is no part of a source id."""

    user_id: int
    node_id: int
    source_id: str
    name: str


@dataclass(frozen=True, slots=True)
class Latest:
    at: datetime
    value: Decimal


async def latest(
    conn: AsyncConnection, *, properties: Sequence[Property], now: datetime
) -> dict[Property, Latest]:
    """Return the newest value of each property; those without one are left out.

    A property that is in none of a stream's ten newest datum has no latest value.
    """
    cursor = await conn.execute(
        """
        select p.position, latest.at, latest.value
          from unnest(%(users)s::bigint[], %(nodes)s::bigint[], %(sources)s::text[],
                      %(names)s::text[])
               with ordinality as p (user_id, node_id, source_id, name, position)
          join stream as s on s.user_id = p.user_id and s.node_id = p.node_id
                          and s.source_id = ltrim(p.source_id, '/')
         cross join lateral (
               select newest.at, (newest.i ->> p.name)::numeric as value
                 from (select d.at, d.i
                         from datum as d
                        where d.stream_id = s.id and d.at > %(after)s and d.at <= %(now)s
                        order by d.at desc
                        limit 10) as newest
                where jsonb_typeof(newest.i -> p.name) = 'number'
                order by newest.at desc
                limit 1) as latest
        """,
        {
            "users": [p.user_id for p in properties],
            "nodes": [p.node_id for p in properties],
            "sources": [p.source_id for p in properties],
            "names": [p.name for p in properties],
            "after": now - _RECENT,
            "now": now,
        },
        # A plan for any times, which a prepared statement gets, would sort all of the day.
        prepare=False,
    )
    return {
        properties[position - 1]: Latest(at, value)
        for position, at, value in await cursor.fetchall()
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeRow:
    """What a group may do from `from_at` on, W, into the group positive; None: no limit.

    `phases`: limits of single phases, each `phase`, `min_w` and `max_w`.
    """

    group_id: int
    from_at: datetime
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: str
    forecast_ids: Sequence[int]
    phases: Sequence[Mapping[str, Any]] = field(default_factory=list)
    id: int = 0

    def says_the_same(self, other: EnvelopeRow) -> bool:
        """Tell whether two envelopes differ in nothing but when they began."""
        return replace(self, id=other.id, from_at=other.from_at) == other


async def newest_envelopes(
    conn: AsyncConnection, *, group_ids: Sequence[int]
) -> dict[int, EnvelopeRow]:
    """Return the envelope in force of each group that ever had one."""
    cursor = conn.cursor(row_factory=class_row(EnvelopeRow))
    await cursor.execute(
        """
        select distinct on (group_id)
               id, group_id, from_at, min_w, max_w, optimum_w, reason, forecast_ids,
               phases
          from envelope
         where group_id = any(%s)
         order by group_id, from_at desc, id desc
        """,
        (list(group_ids),),
    )
    return {row.group_id: row for row in await cursor.fetchall()}


async def append_envelopes(conn: AsyncConnection, rows: Sequence[EnvelopeRow]) -> dict[int, int]:
    """Add envelopes and return their ids by group."""
    cursor = await conn.execute(
        """
        insert into envelope (group_id, from_at, min_w, max_w, optimum_w, reason, forecast_ids,
                              phases)
        select e.group_id, e.from_at, e.min_w, e.max_w, e.optimum_w, e.reason, e.forecast_ids,
               e.phases
          from jsonb_to_recordset(%s)
               as e (group_id bigint, from_at timestamptz, min_w bigint, max_w bigint,
                     optimum_w bigint, reason text, forecast_ids bigint[], phases jsonb)
        returning group_id, id
        """,
        (
            Jsonb(
                [
                    {
                        "group_id": row.group_id,
                        "from_at": row.from_at,
                        "min_w": row.min_w,
                        "max_w": row.max_w,
                        "optimum_w": row.optimum_w,
                        "reason": row.reason,
                        "forecast_ids": list(row.forecast_ids),
                        "phases": list(row.phases),
                    }
                    for row in rows
                ]
            ),
        ),
    )
    return dict(await cursor.fetchall())


async def settle(
    conn: AsyncConnection,
    *,
    due: Mapping[int, datetime],
    until: Mapping[int, datetime | None],
) -> None:
    """Give the groups back until they are due again; note `until` when their envelopes hold.

    The claim has moved `due_at` to the end of the lease, so an earlier one was set since: a
    forecast or a reading came meanwhile, and the group is due at once.
    """
    await conn.execute(
        """
        update control_due as c
           set due_at = case when c.due_at < c.leased_until then c.due_at else d.due_at end,
               leased_until = null, until_at = d.until_at
          from unnest(%(groups)s::bigint[], %(due)s::timestamptz[], %(until)s::timestamptz[])
               as d (group_id, due_at, until_at)
         where c.group_id = d.group_id
        """,
        {
            "groups": list(due),
            "due": list(due.values()),
            "until": [until[group_id] for group_id in due],
        },
    )


async def wake(conn: AsyncConnection, *, device: str, now: datetime) -> None:
    """Have the groups that use a device looked at now."""
    await conn.execute(
        """
        update control_due
           set due_at = least(due_at, %(now)s)
         where group_id in (select group_id from asset
                             where control ->> 'device' = %(device)s and control is not null)
        """,
        {"device": device, "now": now},
    )


async def forget_envelopes(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop old envelopes but the one in force of each group; return how many."""
    cursor = await conn.execute(
        """
        delete from envelope as old
         where from_at < %s
           and exists (select from envelope as newer
                        where newer.group_id = old.group_id
                          and (newer.from_at, newer.id) > (old.from_at, old.id))
        """,
        (before,),
    )
    return cursor.rowcount
