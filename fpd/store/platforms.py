"""Platforms and their polls: claimed when they are due, so many at a time, and settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """A poll as it was claimed; `leased_until` proves that it is still ours."""

    platform: str
    job: str
    leased_until: datetime
    failures: int
    health: str
    since_at: datetime
    memory: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a poll. `memory` None: as before. `read`: it worked."""

    health: str
    detail: str | None
    failures: int
    due_at: datetime
    memory: Mapping[str, Any] | None = None
    read: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a platform is, and since when; `before`: how it was."""

    name: str
    health: str
    detail: str | None
    since_at: datetime
    before: str


async def enrol(
    conn: AsyncConnection,
    *,
    name: str,
    kind: str,
    configured: str,
    jobs: Sequence[str],
    dues: Sequence[datetime],
    now: datetime,
) -> None:
    """Make a platform and its polls known, and forget polls that are no longer configured.

    Polls are due by `dues` where they are new, or where `configured` marks a configuration that
    is not the one of the last start: what they wait for may have been mended.
    """
    cursor = await conn.execute(
        "select configured from platform where name = %s for update", (name,)
    )
    before = await cursor.fetchone()
    await conn.execute(
        """
        insert into platform (name, kind, configured, since_at) values (%s, %s, %s, %s)
            on conflict (name) do update
           set kind = excluded.kind, configured = excluded.configured
        """,
        (name, kind, configured, now),
    )
    await conn.execute(
        "delete from platform_poll where platform = %s and job <> all(%s)", (name, list(jobs))
    )
    await conn.execute(
        """
        insert into platform_poll as p (platform, job, due_at, since_at)
        select %s, job, due_at, %s from unnest(%s::text[], %s::timestamptz[]) as n (job, due_at)
            on conflict (platform, job) do update
           set due_at = least(p.due_at, excluded.due_at) where %s
        """,
        (name, now, list(jobs), list(dues), before != (configured,)),
    )


async def remembered(conn: AsyncConnection) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (platform, job, memory) of all polls that remember anything, configured or not."""
    cursor = await conn.execute(
        "select platform, job, memory from platform_poll where memory is not null order by 1, 2"
    )
    return await cursor.fetchall()


async def claim(
    conn: AsyncConnection,
    *,
    most: Mapping[str, int],
    holder: str,
    now: datetime,
    until: datetime,
) -> list[Poll]:
    """Lease the polls that are due, longest due first; of each platform at most so many at once.

    A platform that another daemon is claiming from is passed by.
    """
    cursor = conn.cursor(row_factory=class_row(Poll))
    await cursor.execute(
        """
        with mine as (
            select p.name, m.most
              from unnest(%(names)s::text[], %(most)s::int[]) as m (name, most)
              join platform as p using (name)
             where exists (select from platform_poll as q
                            where q.platform = p.name and q.due_at <= %(now)s
                              and (q.leased_until is null or q.leased_until <= %(now)s))
             order by p.name for update of p skip locked
        ), chosen as (
            select d.platform, d.job
              from mine
              cross join lateral (
                   select platform, job from platform_poll
                    where platform = mine.name and due_at <= %(now)s
                      and (leased_until is null or leased_until <= %(now)s)
                    order by due_at
                    limit greatest(0, mine.most - (
                          select count(*) from platform_poll
                           where platform = mine.name and leased_until > %(now)s))) as d
        )
        update platform_poll as q
           set leased_until = %(until)s, leased_by = %(holder)s
          from chosen
         where q.platform = chosen.platform and q.job = chosen.job
        returning q.platform, q.job, q.leased_until, q.failures, q.health, q.since_at, q.memory
        """,
        {
            "names": list(most),
            "most": list(most.values()),
            "holder": holder,
            "now": now,
            "until": until,
        },
    )
    return await cursor.fetchall()


async def settle(conn: AsyncConnection, poll: Poll, settled: Settled, *, now: datetime) -> bool:
    """Write down what became of a poll; False when somebody else has it by now."""
    # The platform first, as `claim` does, so that the two never wait for each other.
    await conn.execute("select from platform where name = %s for update", (poll.platform,))
    cursor = await conn.execute(
        """
        update platform_poll
           set leased_until = null, due_at = %(due_at)s, failures = %(failures)s,
               since_at = case when health = %(health)s then since_at else %(now)s end,
               health = %(health)s, detail = %(detail)s,
               read_at = case when %(read)s then %(now)s else read_at end,
               memory = coalesce(%(memory)s, memory)
         where platform = %(platform)s and job = %(job)s and leased_until = %(leased_until)s
        """,
        {
            "platform": poll.platform,
            "job": poll.job,
            "leased_until": poll.leased_until,
            "due_at": settled.due_at,
            "failures": settled.failures,
            "health": settled.health,
            "detail": settled.detail,
            "read": settled.read,
            "memory": None if settled.memory is None else Jsonb(dict(settled.memory)),
            "now": now,
        },
    )
    return cursor.rowcount == 1


async def release(conn: AsyncConnection, poll: Poll) -> None:
    """Give a poll back as it was."""
    await conn.execute(
        """
        update platform_poll set leased_until = null
         where platform = %s and job = %s and leased_until = %s
        """,
        (poll.platform, poll.job, poll.leased_until),
    )


async def judge(conn: AsyncConnection, *, name: str, now: datetime) -> Standing | None:
    """Work out how a platform is from how its polls are; return it if that has changed.

    Away or stopped is what all polls are; otherwise what troubles any of them degrades it. It is
    away since the first of them was.
    """
    cursor = conn.cursor(row_factory=class_row(Standing))
    await cursor.execute(
        """
        with polls as (
            select * from platform_poll where platform = %(name)s and health <> 'unknown'
        ), found as (
            select case when count(*) = 0 then 'unknown'
                        when count(distinct health) = 1 then min(health)
                        when bool_and(health in ('unavailable', 'stopped')) then 'unavailable'
                        else 'degraded' end as health,
                   (select left(string_agg(detail, '; ' order by job), 500)
                      from (select distinct on (detail) detail, job from polls
                             where detail is not null order by detail, job limit 5) as d) as detail,
                   coalesce(min(since_at) filter (where health <> 'ok'), %(now)s) as since_at
              from polls
        )
        update platform as p
           set since_at = case when p.health = found.health then p.since_at
                               when found.health in ('unavailable', 'stopped') then found.since_at
                               else %(now)s end,
               health = found.health, detail = found.detail
          from found, (select health from platform where name = %(name)s for update) as before
         where p.name = %(name)s
           and (p.health, p.detail) is distinct from (found.health, found.detail)
        returning p.name, p.health, p.detail, p.since_at, before.health as before
        """,
        {"name": name, "now": now},
    )
    return await cursor.fetchone()


async def standings(conn: AsyncConnection, *, names: Sequence[str]) -> list[Standing]:
    """Return how platforms are."""
    cursor = conn.cursor(row_factory=class_row(Standing))
    await cursor.execute(
        """
        select name, health, detail, since_at, health as before
          from platform where name = any(%s) order by name
        """,
        (list(names),),
    )
    return await cursor.fetchall()
