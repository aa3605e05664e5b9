"""Groups whose promises are watched: which are due, what was in force, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from fpd.store.control import WATCHED, Property


async def enrol(conn: AsyncConnection, *, now: datetime) -> None:
    """Watch every group in which there is something to steer or to measure."""
    await conn.execute(
        f"""
        insert into compliance_due (group_id, due_at)
        select group_id, %s::timestamptz from ({WATCHED}) as w
         where not exists (select from compliance_due as d where d.group_id = w.group_id)
            on conflict do nothing
        """,
        (now,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A group to look at. `control` are its settings as given (decision M10).

    `breach` and `judged_until` are what the last look left.
    """

    group_id: int
    user_id: int
    identifier: str
    enabled: bool
    control: Mapping[str, Any] | None
    provider_online: bool
    judged_until: datetime | None
    breach: Mapping[str, Any] | None


async def claim(conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int) -> list[Due]:
    """Take at most `limit` due groups until the lease ends, longest overdue first."""
    cursor = conn.cursor(row_factory=class_row(Due))
    await cursor.execute(
        """
        with due as (
            select group_id
              from compliance_due
             where due_at <= %(now)s and (leased_until is null or leased_until <= %(now)s)
             order by due_at
             limit %(limit)s
               for update skip locked
        ), taken as (
            update compliance_due as c set leased_until = %(until)s
              from due where c.group_id = due.group_id
            returning c.group_id, c.judged_until, c.breach
        )
        select g.id as group_id, g.user_id, g.identifier, g.enabled, g.control,
               cp.link in ('online', 'broken') as provider_online,
               taken.judged_until, taken.breach
          from taken
          join capacity_group as g on g.id = taken.group_id
          join peer as cp on cp.id = g.provider_id
         order by g.id
        """,
        {"now": now, "until": now + lease, "limit": limit},
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a look leaves for the next one."""

    group_id: int
    judged_until: datetime | None
    breach: Mapping[str, Any] | None


async def settle(conn: AsyncConnection, judged: Sequence[Judged], *, due_at: datetime) -> None:
    """Give the groups back until they are due again."""
    await conn.execute(
        """
        update compliance_due as c
           set due_at = %(due_at)s, leased_until = null, judged_until = j.judged_until,
               breach = j.breach
          from unnest(%(groups)s::bigint[], %(until)s::timestamptz[], %(breaches)s::jsonb[])
               as j (group_id, judged_until, breach)
         where c.group_id = j.group_id
        """,
        {
            "due_at": due_at,
            "groups": [one.group_id for one in judged],
            "until": [one.judged_until for one in judged],
            "breaches": [None if one.breach is None else Jsonb(one.breach) for one in judged],
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """An envelope as far as it can be broken; it holds until the next one of its group."""

    id: int
    group_id: int
    from_at: datetime
    min_w: int | None
    max_w: int | None
    reason: str
    forecast_ids: Sequence[int]


async def in_force(
    conn: AsyncConnection, *, group_ids: Sequence[int], since: datetime
) -> dict[int, list[InForce]]:
    """Return per group what has been in force from `since` on, oldest first."""
    cursor = conn.cursor(row_factory=class_row(InForce))
    await cursor.execute(
        """
        select e.id, e.group_id, e.from_at, e.min_w, e.max_w, e.reason, e.forecast_ids
          from unnest(%(groups)s::bigint[]) as g (id)
         cross join lateral (
               (select * from envelope
                 where group_id = g.id and from_at <= %(since)s
                 order by from_at desc, id desc limit 1)
               union all
               (select * from envelope where group_id = g.id and from_at > %(since)s)) as e
         order by e.group_id, e.from_at, e.id
        """,
        {"groups": list(group_ids), "since": since},
    )
    found: dict[int, list[InForce]] = {group_id: [] for group_id in group_ids}
    for row in await cursor.fetchall():
        found[row.group_id].append(row)
    return found


_MOST_READINGS = 1000  # of a group at a look; a meter of a second has 10


async def readings(
    conn: AsyncConnection, wanted: Mapping[int, tuple[Property, datetime]], *, now: datetime
) -> dict[int, list[tuple[datetime, Decimal]]]:
    """Return per group the values of its property since an instant (not at it), oldest first."""
    found: dict[int, list[tuple[datetime, Decimal]]] = {group_id: [] for group_id in wanted}
    if not wanted:
        return found
    properties = [property_ for property_, _ in wanted.values()]
    cursor = await conn.execute(
        """
        select p.group_id, d.at, (d.i ->> p.name)::numeric
          from unnest(%(groups)s::bigint[], %(users)s::bigint[], %(nodes)s::bigint[],
                      %(sources)s::text[], %(names)s::text[], %(after)s::timestamptz[])
               as p (group_id, user_id, node_id, source_id, name, after_at)
          join stream as s on s.user_id = p.user_id and s.node_id = p.node_id
                          and s.source_id = ltrim(p.source_id, '/')
         cross join lateral (
               select at, i from datum
                where stream_id = s.id and at > p.after_at and at > %(earliest)s and at <= %(now)s
                order by at desc
                limit %(most)s) as d
         where jsonb_typeof(d.i -> p.name) = 'number'
         order by p.group_id, d.at
        """,
        {
            "groups": list(wanted),
            "users": [p.user_id for p in properties],
            "nodes": [p.node_id for p in properties],
            "sources": [p.source_id for p in properties],
            "names": [p.name for p in properties],
            "after": [after for _, after in wanted.values()],
            "earliest": min(after for _, after in wanted.values()),
            "now": now,
            "most": _MOST_READINGS,
        },
    )
    for group_id, at, value in await cursor.fetchall():
        found[group_id].append((at, value))
    return found
