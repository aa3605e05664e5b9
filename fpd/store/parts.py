"""Periods that are summed up while they run, so that closing one reads only its last moments.

A part is a summary of what was read of one property of an asset in one period so far. It is a
cache of datum and nothing more: what comes late empties it, and it is filled again. Whoever writes
datum holds a lock shared; whoever says up to when datum are summed up holds it alone and commits
before anything is read. So a datum is either seen by the summary, or its writer sees that it is
late and notes it in the same transaction.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import msgspec
from psycopg import AsyncConnection

from fpd.domain.measurement import UNKNOWN, Carry, Level, Reading, Summary
from fpd.domain.metering import Read
from fpd.store.spans import ASSETS, Span, parameters

WRITERS: Final = 0x66706402  # shared by who writes datum
_LATE: Final = 0x66706403  # what is late is taken, and parts are filled, one after the other

# How many datum are searched before a period for one that has the property.
_SEARCHED: Final = 1000
# A reading after the end is looked for in the same stride if it may be so near.
_STRIDE: Final = timedelta(minutes=1)
_ROWS: Final = 250  # read at a time, so that nobody waits for long
_ZERO: Final = Decimal(0)


class PartKey(msgspec.Struct, frozen=True, gc=False):
    asset_id: int
    kind: str
    property: str


class Part(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What was read of a property in a period, and around it."""

    key: PartKey
    stream_id: int
    read: Read

    def without_after(self) -> Part:
        """Return the same as if nothing had been read since the period ended."""
        read = Read(carry=self.read.carry, inside=self.read.inside)
        return msgspec.structs.replace(self, read=read)


def _part(row: tuple[Any, ...]) -> Part:
    (
        (asset_id, kind, name, stream_id, count),
        (before_at, before_value, bridge, is_open, since_at, since_level),
        (first_at, first_value, last_at, last_value, least, most, total, weighted, falls),
        (after_at, after_value),
    ) = row[:5], row[5:11], row[11:20], row[20:]
    carry, inside = UNKNOWN, None
    if before_at is not None or bridge is not None or is_open:
        carry = Carry(
            before=None if before_at is None else Reading(before_at, Decimal(before_value)),
            bridge=_ZERO if bridge is None else Decimal(bridge),
            is_open=is_open,
            since=None if since_at is None else Level(since_at, Fraction(since_level)),
        )
    if count:
        inside = Summary(
            count=count,
            first=Reading(first_at, Decimal(first_value)),
            last=Reading(last_at, Decimal(last_value)),
            least=Decimal(least),
            most=Decimal(most),
            total=Decimal(total),
            weighted=Decimal(weighted),
            falls=_ZERO if falls is None else Decimal(falls),
        )
    after = None if after_at is None else Reading(after_at, Decimal(after_value))
    read = Read(carry=carry, inside=inside, after=after)
    return Part(key=PartKey(asset_id, kind, name), stream_id=stream_id, read=read)


# Flat datum do not tell the two classes apart; which is asked first is a matter of what is sought.
_NUMBER: Final = """
    case b.kind when 'a' then coalesce(d.a -> b.property, d.i -> b.property)
                else coalesce(d.i -> b.property, d.a -> b.property) end as number
"""
# Bounds as constants, so that partitions out of question are not even looked at.
_DATUM: Final = f"""
    select d.at, {_NUMBER}
      from datum as d
     where d.stream_id = b.stream_id and d.at >= %(earliest)s and d.at <= %(latest)s
"""
_IS_NUMBER: Final = "jsonb_typeof(d.number) = 'number'"
_LENGTH: Final = """
    jsonb_array_length(case jsonb_typeof(a.{0} -> 'propertyNames')
                       when 'array' then a.{0} -> 'propertyNames' end)
"""
# As a rule there is one, and nothing to sort.
_NAMES: Final = f"""
    select a.{{0}} #>> '{{{{propertyNames,0}}}}' as name where {_LENGTH} = 1
     union all
    select distinct jsonb_array_elements_text(a.{{0}} -> 'propertyNames') where {_LENGTH} > 1
"""
_SOUGHT: Final = f"""
    select a.id as asset_id, w.kind, w.property, s.id as stream_id, a.start_at, a.end_at
      from ({ASSETS}) as a
      join stream as s on s.user_id = a.user_id and s.node_id = a.node_id
                      and s.source_id = ltrim(a.source_id, '/')
     cross join lateral (
           select 'i' as kind, e.name as property from ({_NAMES.format("instantaneous")}) as e
            union all
           select 'a', e.name from ({_NAMES.format("energy")}) as e) as w
"""
_SUMMED: Final = f"""
    with sought as materialized ({_SOUGHT}), begun as (
        select w.asset_id, w.kind, w.property, w.stream_id, w.start_at, w.end_at,
               -- of values nothing that is read later matters
               w.end_at + case w.kind when 'a' then %(stride)s::interval else '0' end as looks_to,
               p.asset_id is not null as is_known, coalesce(p.until_at, w.start_at) as until_at,
               p.before_at, p.before_value, p.bridge, p.is_open, p.count, p.first_at,
               p.first_value, p.last_at, p.last_value, p.least, p.most, p.total, p.weighted,
               p.falls, p.since_at, p.since_level
          from sought as w
          left join lateral (
               select p.*
                 from measured_part as p
                where p.asset_id = w.asset_id and p.kind = w.kind and p.property = w.property
                  and p.start_at = w.start_at and p.stream_id = w.stream_id
                  and p.until_at <= w.end_at
                limit 1) as p on true  -- one by one: the table holds those of many periods
    )
    select b.asset_id, b.kind, b.property, b.stream_id, b.start_at,
           coalesce(b.before_at, l.at, q.before_at) as before_at,
           case when b.before_at is not null then b.before_value
                when l.at is not null then l.v else q.before_value end as before_value,
           coalesce(b.bridge,
                    q.bridge + greatest(q.before_value - coalesce(l.v, q.before_value), 0),
                    0::numeric) as bridge,
           coalesce(b.is_open, false) as is_open,
           coalesce(b.count, 0) + n.count as count,
           coalesce(b.first_at, n.first_at) as first_at,
           coalesce(b.first_value, n.first_value) as first_value,
           coalesce(n.last_at, b.last_at) as last_at,
           coalesce(n.last_value, b.last_value) as last_value,
           least(b.least, n.least) as least,
           greatest(b.most, n.most) as most,
           coalesce(b.total, 0) + coalesce(n.total, 0) as total,
           coalesce(b.weighted, 0) + coalesce(n.weighted, 0)
               + coalesce(b.last_value * extract(epoch from n.first_at - b.last_at), 0) as weighted,
           coalesce(b.falls, 0) + coalesce(n.falls, 0)
               + coalesce(greatest(b.last_value - n.first_value, 0), 0) as falls,
           coalesce(n.after_at, x.at) as after_at,
           coalesce(n.after_value, x.v) as after_value,
           b.since_at, b.since_level
      from begun as b
     cross join lateral (
           select count(*) filter (where d.inside)::integer as count,
                  max(d.at) filter (where d.is_first) as first_at,
                  max(d.v) filter (where d.is_first) as first_value,
                  max(d.at) filter (where d.is_last) as last_at,
                  max(d.v) filter (where d.is_last) as last_value,
                  min(d.v) filter (where d.inside) as least,
                  max(d.v) filter (where d.inside) as most,
                  sum(d.v) filter (where d.inside) as total,
                  sum(d.v * extract(epoch from d.next_at - d.at))
                      filter (where d.inside and not d.is_last) as weighted,
                  sum(greatest(d.v - d.next_v, 0))
                      filter (where d.inside and not d.is_last) as falls,
                  max(d.at) filter (where d.is_after) as after_at,
                  max(d.v) filter (where d.is_after) as after_value
             from (select d.at, d.v, d.next_at, d.next_v, d.at < b.end_at as inside,
                          d.at < b.end_at and d.earlier_at is null as is_first,
                          d.at < b.end_at and (d.next_at is null or d.next_at >= b.end_at)
                              as is_last,
                          d.at >= b.end_at and (d.earlier_at is null or d.earlier_at < b.end_at)
                              as is_after
                     from (select d.at, d.number::numeric as v, lag(d.at) over w as earlier_at,
                                  lead(d.at) over w as next_at,
                                  lead(d.number::numeric) over w as next_v
                             from ({_DATUM} and d.at >= b.until_at
                                            and d.at < b.looks_to) as d
                            where {_IS_NUMBER}
                           window w as (order by d.at)) as d) as d) as n
      left join lateral (
           select d.at, d.number::numeric as v
             from ({_DATUM} and d.at >= b.end_at + %(stride)s and d.at <= b.end_at + %(reach)s
                            and d.at < %(known)s
                    order by d.at limit {_SEARCHED}) as d
            where b.kind = 'a' and n.after_at is null and b.end_at + %(stride)s < %(known)s
              and {_IS_NUMBER}
            order by d.at limit 1) as x on true
      left join lateral (
           select p.before_at, p.before_value, p.bridge
             from measured_part as p
            where not b.is_known and b.kind = 'a'  -- of values the last reading says all
              and p.asset_id = b.asset_id and p.kind = b.kind
              and p.property = b.property and p.stream_id = b.stream_id
              and p.start_at < b.start_at
            order by p.start_at desc limit 1) as q on true
      left join lateral (
           select d.at, d.number::numeric as v
             from ({_DATUM} and d.at >= b.start_at - %(reach)s and d.at < b.start_at
                    order by d.at desc limit {_SEARCHED}) as d
            where b.before_at is null and {_IS_NUMBER}
            order by d.at desc limit 1) as l on true
"""

# A number as text is turned into a Decimal in a third of the time.
_READ: Final = f"""
    select asset_id, kind, property, stream_id, count, before_at, before_value::text,
           nullif(bridge, 0)::text, is_open, since_at, since_level, first_at, first_value::text,
           last_at, last_value::text, least::text, most::text, total::text, weighted::text,
           nullif(falls, 0)::text, after_at, after_value::text
      from ({_SUMMED}) as n
"""


def all_of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{column}" for column in columns.split(", "))


def _if_same(columns: str) -> str:
    """Return that columns stay as they are as long as the source is the same."""
    return ", ".join(
        f"{column} = case when p.stream_id = excluded.stream_id then p.{column}"
        f" else excluded.{column} end"
        for column in columns.split(", ")
    )


# The columns of a summary, in the order of _SUMMED, and of what is taken over.
_SUMMARY: Final = (
    "count, first_at, first_value, last_at, last_value, least, most, total, weighted, falls"
)
CARRY: Final = "before_at, before_value, bridge, is_open, since_at, since_level"
# What another source has summed up is no part of it; `excluded` has the columns' defaults there.
SUMMARY_OF_SAME: Final = _if_same(f"{_SUMMARY}, until_at")
_CARRY_OF_SAME: Final = _if_same(CARRY)


def _values(
    spans: Sequence[Span], *, known: datetime, reach: timedelta, stride: timedelta
) -> dict[str, object]:
    return {
        **parameters(spans),
        "earliest": min(span.start_at for span in spans) - reach,
        "latest": max(span.end_at for span in spans) + max(reach, stride),
        "known": known,
        "reach": reach,
        "stride": stride,
    }


async def note_known(conn: AsyncConnection, *, until_at: datetime) -> None:
    """Say up to when datum are summed up; to be committed before they are.

    Waits for those who are writing datum; who writes later knows what is late.
    """
    await conn.execute("select pg_advisory_xact_lock(%s)", (WRITERS,))
    await conn.execute("update measured_until set until_at = greatest(until_at, %s)", (until_at,))


async def one_by_one(conn: AsyncConnection) -> None:
    """Let nobody else fill parts, take late datum or claim a period until the transaction ends."""
    await conn.execute("select pg_advisory_xact_lock(%s)", (_LATE,))


async def read(
    conn: AsyncConnection, spans: Sequence[Span], *, known: datetime, reach: timedelta
) -> AsyncIterator[list[Part]]:
    """Yield what was read of the properties of all enabled assets of these groups.

    `known` is what `note_known` was told. A reading after a period may be of later than that by
    up to a minute: clocks differ; then it is for the caller to make it known and to read again.
    Readings farther than `reach` from a period are not looked for.
    """
    if not spans:
        return
    cursor = await conn.execute(
        _READ,
        _values(spans, known=known, reach=reach, stride=_STRIDE),
        prepare=True,
        binary=True,
    )
    while rows := await cursor.fetchmany(_ROWS):
        yield [_part(row) for row in rows]


async def fill(
    conn: AsyncConnection, spans: Sequence[Span], *, known: datetime, reach: timedelta
) -> int:
    """Sum up what was read in these spans up to their ends; return how many parts there are.

    To be called with `one_by_one`, the ends not after what is `known`. Interpretation: when the
    source of an asset was changed nothing of the old one is kept, what was taken over included:
    the period in which that happens is all of the new one's, and a new chain begins with it.
    """
    if not spans:
        return 0
    cursor = await conn.execute(
        f"""
        insert into measured_part as p (asset_id, kind, property, stream_id, start_at, before_at,
                                        before_value, bridge, is_open, {_SUMMARY}, until_at)
        select n.asset_id, n.kind, n.property, n.stream_id, n.start_at, n.before_at,
               n.before_value, n.bridge, n.is_open, {_SUMMARY}, %(until)s
          from ({_SUMMED}) as n
            on conflict (asset_id, kind, property, start_at) do update
           set ({_SUMMARY}, until_at, stream_id) =
               ({all_of("excluded", _SUMMARY)}, excluded.until_at, excluded.stream_id),
               {_CARRY_OF_SAME}
         where p.until_at <= excluded.until_at or p.stream_id <> excluded.stream_id
        """,
        {
            **_values(spans, known=known, reach=reach, stride=timedelta(0)),
            "until": max(span.end_at for span in spans),
        },
    )
    return cursor.rowcount


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop parts of periods that are closed and began before an instant; return how many."""
    cursor = await conn.execute(
        """
        delete from measured_part as p
         using asset as a join measurement_due as d
                            on d.group_id = a.group_id and d.audience = a.audience
         where p.asset_id = a.id and p.start_at < d.start_at and p.start_at < %s
        """,
        (before,),
    )
    # Of an asset that was deleted while its part was written.
    left = await conn.execute(
        """
        delete from measured_part as p
         where p.start_at < %s and not exists (select from asset as a where a.id = p.asset_id)
        """,
        (before,),
    )
    return cursor.rowcount + left.rowcount
