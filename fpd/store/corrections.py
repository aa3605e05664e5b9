"""What peers were told of periods, and which of it is to be looked at again.

Late datum are taken while no period is being closed and by one daemon at a time, so each of them
is either seen by who closes a period, or found here after the period was closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store.measurements import REPORTABLE, Due
from fpd.store.parts import one_by_one

_TAKEN: Final = 10_000  # late datum at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a peer was told of a period; `body_sha256` None: nothing."""

    due: Due
    request_id: str
    body_sha256: bytes | None
    revision: int = 0


async def note(conn: AsyncConnection, told: Sequence[Told], *, now: datetime) -> None:
    """Remember what was told, in the transaction that owes it."""
    await conn.execute(
        """
        insert into measurement_report (group_id, audience, start_at, end_at, period_s, request_id,
                                        body_sha256, revision, reported_at)
        select *, %(now)b
          from unnest(%(groups)b::bigint[], %(audiences)b::text[], %(starts)b::timestamptz[],
                      %(ends)b::timestamptz[], %(periods)b::integer[], %(ids)b::text[],
                      %(hashes)b::bytea[], %(revisions)b::integer[])
            on conflict (group_id, audience, start_at) do update
           set body_sha256 = excluded.body_sha256, revision = excluded.revision,
               reported_at = excluded.reported_at
        """,
        {
            "now": now,
            "groups": [one.due.group_id for one in told],
            "audiences": [one.due.audience for one in told],
            "starts": [one.due.start_at for one in told],
            "ends": [one.due.period.end_at for one in told],
            "periods": [one.due.period_s for one in told],
            "ids": [one.request_id for one in told],
            "hashes": [one.body_sha256 for one in told],
            "revisions": [one.revision for one in told],
        },
    )


async def take_late(conn: AsyncConnection, *, now: datetime, reach: timedelta) -> int:
    """Empty the parts that late datum belong to, and have reports looked at again that they may
    change; return how many datum there were.

    A report may be changed by a datum in its period, before it, and by the first one after it, if
    its end was interpolated: so from the reading before it on, at most `reach` earlier.
    """
    if await (await conn.execute("select from late_datum limit 1")).fetchone() is None:
        return 0
    await one_by_one(conn)
    cursor = await conn.execute(
        """
        with taken as (
            delete from late_datum
             where ctid = any (array(select ctid from late_datum limit %(most)s))
               and not exists (select from measurement_due where leased_until > %(now)s)
            returning stream_id, at
        ), wrong as (
            select p.asset_id, p.kind, p.property, p.start_at,
                   bool_or(t.at < p.start_at) as is_unfounded
              from taken as t
              join measured_part as p
                on p.stream_id = t.stream_id
               and ((t.at >= p.start_at and t.at < p.until_at)
                    or (t.at < p.start_at and t.at >= p.before_at
                        and not exists (select from measured_part as e
                                         where e.asset_id = p.asset_id and e.kind = p.kind
                                           and e.property = p.property
                                           and e.start_at < p.start_at)))
             group by p.asset_id, p.kind, p.property, p.start_at
        ), emptied as (
            update measured_part as p
               set until_at = p.start_at, count = 0, first_at = null, first_value = null,
                   last_at = null, last_value = null, least = null, most = null, total = null,
                   weighted = null, falls = null,
                   before_at = case when not w.is_unfounded then p.before_at end,
                   before_value = case when not w.is_unfounded then p.before_value end
              from wrong as w
             where p.asset_id = w.asset_id and p.kind = w.kind and p.property = w.property
               and p.start_at = w.start_at
        ), doubtful as (
            select d.group_id, d.audience,
                   min(least(
                       coalesce((select max(r.start_at) from measurement_report as r
                                  where r.group_id = d.group_id and r.audience = d.audience
                                    and r.end_at <= t.at), t.at),
                       (select x.at from datum as x
                         where x.stream_id = t.stream_id and x.at < t.at
                           and x.at >= t.at - %(reach)s
                           and (p.property is null or x.a ? p.property or x.i ? p.property)
                         order by x.at desc
                         limit 1))) as from_at
              from taken as t
              join stream as s on s.id = t.stream_id
              join asset as a on a.user_id = s.user_id and a.node_id = s.node_id
                             and ltrim(a.source_id, '/') = s.source_id
              join measurement_due as d on d.group_id = a.group_id and d.audience = a.audience
              left join measured_part as p on p.asset_id = a.id and p.stream_id = t.stream_id
                                          and p.start_at = d.start_at and p.kind = 'a'
             where t.at < d.start_at
                or (not p.is_open
                    and not exists (select from datum as x
                                     where x.stream_id = t.stream_id and x.at >= d.start_at
                                       and x.at < t.at
                                       and (x.a ? p.property or x.i ? p.property)))
             group by d.group_id, d.audience
        ), noted as (
            insert into measurement_recheck as c (group_id, audience, from_at)
            select group_id, audience, from_at from doubtful order by group_id, audience
                on conflict (group_id, audience) do update
               set from_at = least(c.from_at, excluded.from_at), notes = c.notes + 1
        )
        select count(*) from taken
        """,
        {"most": _TAKEN, "now": now, "reach": reach},
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt(Due):
    """A period that was closed and is to be looked at again.

    `notes` counts what came in between; `request_id`, `body_sha256` and `revision` as in Told.
    """

    notes: int
    request_id: str
    body_sha256: bytes | None
    revision: int


async def claim(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, window: timedelta, limit: int
) -> list[Doubt]:
    """Take the oldest doubtful period of each group that is not being closed right now.

    Periods that ended longer ago than `window` are let be.
    """
    cursor = conn.cursor(row_factory=class_row(Doubt))
    await cursor.execute(
        f"""
        with doubt as (
            select c.group_id, c.audience, r.peer_id, r.user_id, r.identifier, r.created_at,
                   r.measurement_configuration, r.service_props, t.start_at, t.period_s,
                   t.request_id, t.body_sha256, t.revision
              from measurement_recheck as c
              join ({REPORTABLE}) as r on r.group_id = c.group_id and r.audience = c.audience
              join measurement_due as d on d.group_id = c.group_id and d.audience = c.audience
             cross join lateral (
                   select * from measurement_report as t
                    where t.group_id = c.group_id and t.audience = c.audience
                      and t.end_at > c.from_at and t.end_at >= %(now)s - %(window)s
                    order by t.start_at limit 1) as t
             where (c.leased_until is null or c.leased_until <= %(now)s)
               and (d.leased_until is null or d.leased_until <= %(now)s)
             order by c.from_at, c.group_id
             limit %(limit)s
               for update of c skip locked
        )
        update measurement_recheck as c
           set leased_until = %(leased_until)s
          from doubt as n
         where c.group_id = n.group_id and c.audience = n.audience
        returning n.group_id, n.audience, n.peer_id, n.user_id, n.identifier, n.created_at,
                  n.period_s, n.start_at, c.notes, n.request_id, n.body_sha256, n.revision,
                  coalesce(n.measurement_configuration, '{{}}') as measurement_configuration,
                  coalesce(n.service_props, '{{}}') as service_props
        """,
        {"now": now, "leased_until": now + lease, "window": window, "limit": limit},
    )
    return await cursor.fetchall()


async def go_on(conn: AsyncConnection, looked_at: Sequence[Doubt]) -> None:
    """Go on to the periods after these, unless something came in between."""
    await conn.execute(
        """
        update measurement_recheck as c
           set leased_until = null,
               from_at = case when c.notes = n.notes then n.end_at else c.from_at end
          from unnest(%(groups)s::bigint[], %(audiences)s::text[], %(ends)s::timestamptz[],
                      %(notes)s::integer[]) as n (group_id, audience, end_at, notes)
         where c.group_id = n.group_id and c.audience = n.audience
        """,
        {
            "groups": [one.group_id for one in looked_at],
            "audiences": [one.audience for one in looked_at],
            "ends": [one.period.end_at for one in looked_at],
            "notes": [one.notes for one in looked_at],
        },
    )


async def forget(conn: AsyncConnection, *, before: datetime) -> None:
    """Drop what was told of periods that ended before an instant, and doubts about them."""
    await conn.execute("delete from measurement_report where end_at < %s", (before,))
    await conn.execute(
        """
        delete from measurement_recheck as c
         where not exists (select from measurement_report as t
                            where t.group_id = c.group_id and t.audience = c.audience
                              and t.end_at > c.from_at)
        """
    )
