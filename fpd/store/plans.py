"""Plans: which groups are to be planned, and what was planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from fpd.store.control import WATCHED, DueGroup


async def enrol(conn: AsyncConnection, *, now: datetime) -> None:
    """Have every group planned in which there is something to steer or to measure."""
    await conn.execute(
        f"""
        insert into plan_due (group_id, due_at)
        select w.group_id, %(now)s::timestamptz
          from ({WATCHED}) as w
         where not exists (select from plan_due as p where p.group_id = w.group_id)
            on conflict do nothing
        """,
        {"now": now},
    )


async def claim(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int
) -> list[DueGroup]:
    """Take at most `limit` groups until the lease ends, longest overdue first."""
    cursor = conn.cursor(row_factory=class_row(DueGroup))
    await cursor.execute(
        """
        with due as (
            select group_id
              from plan_due
             where due_at <= %(now)s and (leased_until is null or leased_until <= %(now)s)
             order by due_at
             limit %(limit)s
               for update skip locked
        ), taken as (
            update plan_due as p
               set leased_until = %(until)s, due_at = %(until)s
              from due
             where p.group_id = due.group_id
            returning p.group_id
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
        {"now": now, "until": now + lease, "limit": limit},
    )
    return await cursor.fetchall()


async def settle(conn: AsyncConnection, *, group_id: int, due_at: datetime) -> None:
    """Give a group back; what came since the claim has made it due earlier, and that stays."""
    await conn.execute(
        """
        update plan_due
           set due_at = case when due_at < leased_until then due_at else %(due)s end,
               leased_until = null
         where group_id = %(group)s
        """,
        {"group": group_id, "due": due_at},
    )


async def heard(
    conn: AsyncConnection,
    *,
    newest: Mapping[int, int],
    anew: Sequence[int],
    due_at: datetime,
    apart: timedelta,
) -> None:
    """Have groups planned by `due_at` whose newest forecast (id by group) is new, and `anew`.

    More forecasts until then are in the same plan, and no two plans are made within `apart`.
    """
    await conn.execute(
        """
        update plan_due as p
           set due_at = least(p.due_at, greatest(%(due)s, (
                   select made_at + %(apart)s from plan
                    where group_id = p.group_id order by id desc limit 1))),
               heard_id = greatest(p.heard_id, n.id)
          from unnest(%(groups)s::bigint[], %(ids)s::bigint[]) as n (group_id, id)
         where p.group_id = n.group_id and (p.heard_id < n.id or p.group_id = any(%(anew)s))
        """,
        {
            "groups": list(newest),
            "ids": list(newest.values()),
            "anew": list(anew),
            "due": due_at,
            "apart": apart,
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One plan. `periods` and `breaks` as `fpd.flows.planned` writes them."""

    group_id: int
    made_at: datetime
    from_at: datetime
    source: str
    solve_s: float
    periods: Mapping[str, Any]
    breaks: Sequence[Mapping[str, Any]]
    id: int = 0


async def keep(conn: AsyncConnection, plan: PlanRow) -> None:
    """Add a plan."""
    await conn.execute(
        """
        insert into plan (group_id, made_at, from_at, source, solve_s, periods, breaks)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            plan.group_id,
            plan.made_at,
            plan.from_at,
            plan.source,
            plan.solve_s,
            Jsonb(plan.periods),
            Jsonb(plan.breaks),
        ),
    )


async def newest_ids(
    conn: AsyncConnection, *, group_ids: Sequence[int] | None = None
) -> dict[int, int]:
    """Return the id of the newest plan of each of the groups, None: of all, that has one."""
    cursor = await conn.execute(
        """
        select due.group_id, newest.id
          from plan_due as due
         cross join lateral (
               select id from plan where group_id = due.group_id order by id desc limit 1) as newest
         where %(groups)s::bigint[] is null or due.group_id = any(%(groups)s)
        """,
        {"groups": None if group_ids is None else list(group_ids)},
    )
    return dict(await cursor.fetchall())


async def load(conn: AsyncConnection, *, ids: Sequence[int]) -> list[PlanRow]:
    """Return plans by their ids."""
    cursor = conn.cursor(row_factory=class_row(PlanRow))
    await cursor.execute(
        """
        select id, group_id, made_at, from_at, source, solve_s, periods, breaks
          from plan where id = any(%s)
        """,
        (list(ids),),
    )
    return await cursor.fetchall()


async def breaks(
    conn: AsyncConnection, *, group_ids: Sequence[int], since: datetime
) -> dict[int, Sequence[Mapping[str, Any]]]:
    """Return the breaks of each group's newest plan.

    Left out are groups of which that was made before `since`, or for a load that is not known.
    """
    cursor = await conn.execute(
        """
        select g.id, newest.breaks
          from unnest(%(groups)s::bigint[]) as g (id)
         cross join lateral (
               select made_at, breaks, periods from plan where group_id = g.id
                order by id desc limit 1) as newest
         where newest.made_at >= %(since)s and newest.periods -> 'load_known' = 'true'
        """,
        {"groups": list(group_ids), "since": since},
    )
    return dict(await cursor.fetchall())


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop old plans but the newest of each group; return how many."""
    cursor = await conn.execute(
        """
        delete from plan as old
         where made_at < %s
           and exists (select from plan as newer
                        where newer.group_id = old.group_id and newer.id > old.id)
        """,
        (before,),
    )
    return cursor.rowcount
