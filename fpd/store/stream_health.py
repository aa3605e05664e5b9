"""How streams are: looked at when they are due, many in one statement, and told."""

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

from fpd.domain.stream_health import Health, Seen, State

_RECENT: Final = timedelta(days=31)
_AHEAD: Final = timedelta(days=2)
_LEARNED: Final = 21  # datum, so twenty gaps
_LEAST_LEARNED: Final = 4  # datum
_LEARN_AGAIN: Final = timedelta(hours=1)

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(dict[str, Decimal]).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A stream to be looked at. `learned_s`: its usual gap, learned now or before."""

    stream_id: int
    user_id: int
    node_id: int
    source_id: str
    health: Health
    at: datetime | None
    i: Mapping[str, Decimal]
    a: Mapping[str, Decimal]
    learned_s: float | None

    def seen(self, cadence_s: float | None) -> Seen | None:
        """Return what was seen; `cadence_s`: as configured, None: as learned."""
        if self.at is None:
            return None
        return Seen(at=self.at, i=self.i, a=self.a, cadence_s=cadence_s or self.learned_s)


async def admit(conn: AsyncConnection, *, now: datetime) -> None:
    """Have streams looked at that are new. Those made of messages come when they come."""
    await conn.execute(
        """
        insert into stream_health (stream_id, since_at, due_at)
        select s.id, %(now)s, %(now)s
          from stream as s
         where not s.is_own and not exists (select from stream_health where stream_id = s.id)
            on conflict do nothing
        """,
        {"now": now},
    )


async def due(conn: AsyncConnection, *, now: datetime, limit: int) -> list[Due]:
    """Return streams that are due with their newest datum, and lock them until the commit.

    The usual gap, the median of the last twenty, is learned anew every hour and while it is
    not known.
    """
    cursor = await conn.execute(
        """
        with due as (
            select * from stream_health
             where due_at <= %(now)s
             order by due_at limit %(limit)s
               for update skip locked
        )
        select h.stream_id, s.user_id, s.node_id, s.source_id,
               h.state, h.since_at, h.latest_at, h.cadence_s, h.i::text, h.a::text,
               h.i_since_at, h.a_since_at, h.i_seen, h.a_seen, h.power_since_at,
               d.at, d.i::text, d.a::text, coalesce(g.gap_s, h.cadence_s)
          from due as h
          join stream as s on s.id = h.stream_id
          left join lateral (
               select at, i, a from datum
                where stream_id = h.stream_id and at > %(after)s and at < %(until)s
                order by at desc limit 1) as d on true
          left join lateral (
               select percentile_cont(0.5) within group (
                          order by extract(epoch from at - earlier)::double precision) as gap_s
                 from (select at, lead(at) over (order by at desc) as earlier
                         from (select at from datum
                                where stream_id = h.stream_id and at > %(after)s
                                  and at < %(until)s
                                order by at desc limit %(learned)s) as newest) as gaps
                where h.learned_at is null or h.cadence_s is null
                   or h.learned_at <= %(learned_before)s
               having count(*) >= %(least)s) as g on true
        """,
        {
            "now": now,
            "limit": limit,
            "after": now - _RECENT,
            "until": now + _AHEAD,
            "learned": _LEARNED,
            "least": _LEAST_LEARNED,
            "learned_before": now - _LEARN_AGAIN,
        },
    )
    return [_due(*row) for row in await cursor.fetchall()]


def _due(*row: Any) -> Due:
    stream_id, user_id, node_id, source_id, state, since_at, latest_at, cadence_s = row[:8]
    known_i, known_a, i_since_at, a_since_at, i_seen, a_seen, power_since_at = row[8:15]
    at, i, a, learned_s = row[15:]
    return Due(
        stream_id=stream_id,
        user_id=user_id,
        node_id=node_id,
        source_id=source_id,
        health=Health(
            state=state,
            since_at=since_at,
            latest_at=latest_at,
            cadence_s=cadence_s,
            i=_numbers(known_i),
            a=_numbers(known_a),
            i_since_at=i_since_at,
            a_since_at=a_since_at,
            i_seen=i_seen,
            a_seen=a_seen,
            power_since_at=power_since_at,
        ),
        at=at,
        i=_numbers(i),
        a=_numbers(a),
        learned_s=learned_s,
    )


def _numbers(text: str | None) -> Mapping[str, Decimal]:
    return {} if text is None else _decode(text)


async def keep(
    conn: AsyncConnection, judged: Sequence[tuple[Due, Health, datetime]], *, now: datetime
) -> None:
    """Remember how streams are and when to look again; record an event where that is new."""
    await conn.execute(
        """
        with judged as (
            select * from unnest(%(ids)s::bigint[], %(states)s::text[],
                                 %(sinces)s::timestamptz[], %(dues)s::timestamptz[],
                                 %(latests)s::timestamptz[], %(cadences)s::double precision[],
                                 %(i)s::jsonb[], %(a)s::jsonb[], %(i_sinces)s::timestamptz[],
                                 %(a_sinces)s::timestamptz[], %(i_seens)s::integer[],
                                 %(a_seens)s::integer[], %(powers)s::timestamptz[])
                       as j (stream_id, state, since_at, due_at, latest_at, cadence_s, i, a,
                             i_since_at, a_since_at, i_seen, a_seen, power_since_at)
        ), told as (
            insert into event (user_id, at, kind, data)
            select s.user_id, %(now)s,
                   'stream.' || case j.state when 'ok' then 'recovered' else j.state end,
                   jsonb_build_object('nodeId', s.node_id, 'sourceId', s.source_id,
                                      'latestAt', j.latest_at, 'cadenceS', j.cadence_s,
                                      'was', h.state)
              from judged as j
              join stream_health as h on h.stream_id = j.stream_id
              join stream as s on s.id = j.stream_id
             where h.state <> j.state
               and (j.state in ('stale', 'frozen')
                    or (j.state = 'ok' and h.state in ('stale', 'frozen')))
        )
        update stream_health as h
           set state = j.state, since_at = j.since_at, due_at = j.due_at,
               latest_at = j.latest_at, cadence_s = j.cadence_s, i = j.i, a = j.a,
               i_since_at = j.i_since_at, a_since_at = j.a_since_at, i_seen = j.i_seen,
               a_seen = j.a_seen, power_since_at = j.power_since_at,
               learned_at = case when h.learned_at is null or h.cadence_s is null
                                      or h.learned_at <= %(learned_before)s
                                 then %(now)s else h.learned_at end
          from judged as j
         where h.stream_id = j.stream_id
        """,
        {
            "now": now,
            "learned_before": now - _LEARN_AGAIN,
            "ids": [of.stream_id for of, _, _ in judged],
            "states": [health.state for _, health, _ in judged],
            "sinces": [health.since_at for _, health, _ in judged],
            "dues": [due_at for _, _, due_at in judged],
            "latests": [health.latest_at for _, health, _ in judged],
            "cadences": [health.cadence_s and float(health.cadence_s) for _, health, _ in judged],
            "i": [_document(health.i) for _, health, _ in judged],
            "a": [_document(health.a) for _, health, _ in judged],
            "i_sinces": [health.i_since_at for _, health, _ in judged],
            "a_sinces": [health.a_since_at for _, health, _ in judged],
            "i_seens": [health.i_seen for _, health, _ in judged],
            "a_seens": [health.a_seen for _, health, _ in judged],
            "powers": [health.power_since_at for _, health, _ in judged],
        },
    )


def _document(numbers: Mapping[str, Decimal] | None) -> Jsonb:
    return Jsonb(numbers or {}, dumps=_encode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A stream as an operator sees it: its newest datum and how it is since when."""

    node_id: int
    source_id: str
    state: State
    since_at: datetime
    cadence_s: float | None
    latest_at: datetime | None
    i: Mapping[str, Any] | None
    a: Mapping[str, Any] | None
    s: Mapping[str, Any] | None


async def shown(
    conn: AsyncConnection, *, user_id: int | None, now: datetime, limit: int
) -> tuple[Stream, ...]:
    """Return streams of a user (None: everybody's), the ill ones first, at most `limit`."""
    cursor = conn.cursor(row_factory=class_row(Stream))
    await cursor.execute(
        """
        with wanted as (
            select s.id, s.node_id, s.source_id, h.state, h.since_at, h.cadence_s
              from stream_health as h
              join stream as s on s.id = h.stream_id
             where %(user_id)s::bigint is null or s.user_id = %(user_id)s
             order by h.state not in ('stale', 'frozen'), s.node_id, s.source_id, s.id
             limit %(limit)s
        )
        select w.node_id, w.source_id, w.state, w.since_at, w.cadence_s, d.at as latest_at,
               d.i, d.a, d.s
          from wanted as w
          left join lateral (
               select at, i, a, s from datum
                where stream_id = w.id and at > %(after)s and at < %(until)s
                order by at desc limit 1) as d on true
         order by w.state not in ('stale', 'frozen'), w.node_id, w.source_id, w.id
        """,
        {"user_id": user_id, "limit": limit, "after": now - _RECENT, "until": now + _AHEAD},
    )
    return tuple(await cursor.fetchall())


async def counts(conn: AsyncConnection, *, user_id: int | None = None) -> dict[str, int]:
    """Count the streams of a user (None: everybody's) by how they are."""
    cursor = await conn.execute(
        """
        select h.state, count(*)
          from stream_health as h
          join stream as s on s.id = h.stream_id
         where %(user_id)s::bigint is null or s.user_id = %(user_id)s
         group by h.state
        """,
        {"user_id": user_id},
    )
    return dict(await cursor.fetchall())
