"""Datum summed up by period, for those who ask for fewer of them: exact, as measurements are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from psycopg import AsyncConnection

from fpd.domain.measurement import Reading, Summary

# How many datum are searched beyond the edges for one that has the property.
_SEARCHED: Final = 100


class Property(NamedTuple):
    """A property of a stream; `kind` "a": it accumulates, "i": it does not."""

    stream_id: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Around:
    """The last reading before a span and the first one after it, if they are near enough."""

    before: Reading | None = None
    after: Reading | None = None


# Flat documents do not tell what accumulates; what an asset's energy is made of does, and so does
# who asks.
_READINGS: Final = """
    select w.id, p.kind, p.name, d.at, p.value, date_bin(%(length)s, d.at, 'epoch') as start_at
      from unnest(%(ids)s::bigint[]) as w (id)
     cross join lateral (
           select coalesce(array_agg(e.name), '{}') || %(registers)s::text[] as names
             from stream as s
             join asset as a on a.user_id = s.user_id and a.node_id = s.node_id
                            and ltrim(a.source_id, '/') = s.source_id
            cross join lateral jsonb_array_elements_text(a.energy -> 'propertyNames') as e (name)
            where s.id = w.id and jsonb_typeof(a.energy -> 'propertyNames') = 'array') as register
     cross join lateral (  -- "offset 0": by each stream's index, however large the table is
           select at, i, a from datum
            where stream_id = w.id and at >= %(start)s and at < %(end)s
           offset 0) as d
     cross join lateral (
           select case when key = any(register.names) then 'a' else 'i' end as kind,
                  key as name, value::numeric
             from jsonb_each(d.i)
            where key <> all(register.names) or not coalesce(d.a ? key, false)
            union all
           select 'a', key, value::numeric
             from jsonb_each(d.a)) as p
     where (%(properties)s::text[] is null or p.name = any(%(properties)s))
       and (%(kind)s::text is null or p.kind = %(kind)s)
"""
_SUMS: Final = f"""
    select id, kind, name, start_at, count(*), min(at), max(value) filter (where is_first),
           max(at), max(value) filter (where following is null), min(value), max(value),
           sum(value), coalesce(sum(value * seconds), 0),
           coalesce(sum(greatest(value - following, 0)), 0)
      from (select id, kind, name, start_at, at, value, lead(value) over w as following,
                   extract(epoch from lead(at) over w - at) as seconds,
                   row_number() over w = 1 as is_first
              from ({_READINGS}) as r
            window w as (partition by id, kind, name, start_at order by at)) as s
     group by id, kind, name, start_at
     order by id, kind, name, start_at
"""


async def sums(
    conn: AsyncConnection,
    stream_ids: Sequence[int],
    *,
    start_at: datetime,
    end_at: datetime,
    length: timedelta,
    properties: Sequence[str] = (),
    registers: Sequence[str] = (),
    kind: str | None = None,
) -> dict[Property, dict[datetime, Summary]]:
    """Return the summary of each property by the start of the period, aligned in UTC.

    `registers`: these accumulate, whatever class they came in. `properties`: these only, if any.
    """
    cursor = await conn.execute(
        _SUMS,
        {
            "ids": list(stream_ids),
            "start": start_at,
            "end": end_at,
            "length": length,
            "properties": list(properties) or None,
            "registers": list(registers),
            "kind": kind,
        },
    )
    found: dict[Property, dict[datetime, Summary]] = {}
    for id, of, name, at, count, *rest in await cursor.fetchall():
        first_at, first, last_at, last, least, most, total, weighted, falls = rest
        found.setdefault(Property(id, of, name), {})[at] = Summary(
            count=count,
            first=Reading(first_at, first),
            last=Reading(last_at, last),
            least=least,
            most=most,
            total=total,
            weighted=weighted,
            falls=falls,
        )
    return found


async def registers(
    conn: AsyncConnection,
    stream_ids: Sequence[int],
    *,
    before: datetime,
    known: Sequence[str] = (),
    properties: Sequence[str] = (),
) -> list[Property]:
    """Return the registers of these streams, as the last datum before then and assets tell.

    `known`: so are these. `properties`: these only, if any.
    """
    cursor = await conn.execute(
        """
        select w.id, 'a', r.name
          from unnest(%(ids)s::bigint[]) as w (id)
         cross join lateral (
               select e.name
                 from stream as s
                 join asset as a on a.user_id = s.user_id and a.node_id = s.node_id
                                and ltrim(a.source_id, '/') = s.source_id
                cross join lateral
                      jsonb_array_elements_text(a.energy -> 'propertyNames') as e (name)
                where s.id = w.id and jsonb_typeof(a.energy -> 'propertyNames') = 'array'
                union
               select jsonb_object_keys(a)
                 from (select a from datum
                        where stream_id = w.id and at < %(before)s
                        order by at desc limit 1) as d
                union
               select unnest(%(known)s::text[])) as r (name)
         where %(properties)s::text[] is null or r.name = any(%(properties)s)
         order by w.id, r.name
        """,
        {
            "ids": list(stream_ids),
            "before": before,
            "known": list(known),
            "properties": list(properties) or None,
        },
    )
    return [Property(*row) for row in await cursor.fetchall()]


_NUMBER: Final = """
    case w.kind when 'a' then coalesce(a -> w.name, i -> w.name) else i -> w.name end as number
"""


async def around(
    conn: AsyncConnection,
    properties: Sequence[Property],
    *,
    start_at: datetime,
    end_at: datetime,
    reach: timedelta,
) -> dict[Property, Around]:
    """Return what was read last before [start_at, end_at) and first after it, at most `reach`
    away.
    """
    if not properties:
        return {}
    cursor = await conn.execute(
        f"""
        select w.id, w.kind, w.name, b.at, b.number::numeric, f.at, f.number::numeric
          from unnest(%(ids)s::bigint[], %(kinds)s::text[], %(names)s::text[])
               as w (id, kind, name)
          left join lateral (
               select at, number
                 from (select at, {_NUMBER} from datum
                        where stream_id = w.id and at < %(start)s and at >= %(earliest)s
                        order by at desc limit {_SEARCHED}) as near
                where number is not null order by at desc limit 1) as b on true
          left join lateral (
               select at, number
                 from (select at, {_NUMBER} from datum
                        where stream_id = w.id and at >= %(end)s and at < %(latest)s
                        order by at limit {_SEARCHED}) as near
                where number is not null order by at limit 1) as f on true
        """,
        {
            "ids": [p.stream_id for p in properties],
            "kinds": [p.kind for p in properties],
            "names": [p.name for p in properties],
            "start": start_at,
            "end": end_at,
            "earliest": start_at - reach,
            "latest": end_at + reach,
        },
    )
    return {
        Property(id, kind, name): Around(
            before=None if at is None else Reading(at, value),
            after=None if after_at is None else Reading(after_at, after_value),
        )
        for id, kind, name, at, value, after_at, after_value in await cursor.fetchall()
    }
