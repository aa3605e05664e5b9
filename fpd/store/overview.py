"""Everything an operator looks at, read and never written: set-based, one statement per kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal

from psycopg import AsyncConnection
from psycopg.rows import class_row

from fpd.store import refusals, stream_health
from fpd.store.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One provider or optimizer. `owed`: messages that it has not taken yet; `dead`: dead letters.

    `silent`: it has no address, so we never call it. `trouble`: why its link failed or broke.
    """

    id: int
    role: str
    name: str
    enabled: bool
    link: str
    link_changed_at: datetime
    last_heard_at: datetime | None
    offline_mode_at: datetime | None
    heartbeat_sent_at: datetime | None
    owed: int
    silent: bool
    dead: int = 0
    trouble: str | None = None
    heartbeat_interval_s: float | None = None
    user_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a group may do, in W, import positive. None is no limit, 0 is a limit.

    `until_at`: when the first of the forecasted blocks behind it ends; None if none does.
    """

    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: str
    since_at: datetime
    until_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The latest power of a group in W, import positive, as old as its oldest part.

    `of` values are configured and `parts` of them have a reading; with none, the power is None.
    """

    power_w: Decimal | None
    at: datetime | None
    source: Literal["meter", "assets"]
    parts: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One capacity group. `flexible`: its envelope is meant for the flexible devices alone."""

    id: int
    identifier: str
    name: str
    enabled: bool
    flexible: bool
    envelope: Envelope | None
    measured: Measured | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device as last seen: what control wants, what it was sent and what it was seen to follow.

    `why`: why control wants that. `attempts`: how often in a row it did not follow.
    """

    name: str
    type: str
    health: str
    detail: str | None
    reading: Mapping[str, Any] | None
    reading_at: datetime | None
    wanted: Mapping[str, Any] | None
    wanted_at: datetime | None
    why: str | None
    told: Mapping[str, Any] | None
    told_at: datetime | None
    confirmed: Mapping[str, Any] | None
    confirmed_at: datetime | None
    attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Debts:
    """What is owed to peers and to the broker, and since when."""

    outbox_pending: int
    outbox_oldest_at: datetime | None
    publications_pending: int


_STREAMS = 200  # a page for people; the others are at /api/v1/datum


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`streams`: the ill ones first, not all of many; `stream_counts`: all, by their health."""

    peers: tuple[Peer, ...]
    groups: tuple[Group, ...]
    devices: tuple[Device, ...]
    debts: Debts
    streams: tuple[stream_health.Stream, ...] = ()
    stream_counts: Mapping[str, int] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()


_EXAMPLES = 20  # sources whose datum were refused; all of them have a door of their own


async def load(
    conn: AsyncConnection,
    *,
    user_id: int | None,
    device_names: Sequence[str] | None,
    now: datetime,
) -> Overview:
    """Return all of it as of one instant. Call inside a transaction that did nothing yet.

    `user_id` None: everybody's. `device_names` None: every device (devices are configured, so
    whose they are is not in the database).
    """
    await conn.execute("set transaction isolation level repeatable read, read only")
    return Overview(
        peers=await peers(conn, user_id=user_id),
        groups=await groups(conn, user_id=user_id, now=now),
        devices=await devices(conn, names=device_names),
        debts=await debts(conn, user_id=user_id),
        streams=await stream_health.shown(conn, user_id=user_id, now=now, limit=_STREAMS),
        stream_counts=await stream_health.counts(conn, user_id=user_id),
        refused=tuple(await refusals.listed(conn, user_id=user_id, limit=_EXAMPLES)),
    )


async def peers(conn: AsyncConnection, *, user_id: int | None) -> tuple[Peer, ...]:
    """Return the peers, providers first."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        """
        with owed as (
            select peer_id, count(*) as messages
              from outbox
             where settled_at is null
             group by peer_id
        ), dead as (
            select peer_id, count(*) as messages
              from outbox
             where outcome in ('refused', 'expired')
             group by peer_id
        )
        select p.id, p.role, p.name, p.enabled, p.link, p.link_changed_at, p.last_heard_at,
               p.offline_mode_at, h.sent_at as heartbeat_sent_at,
               coalesce(owed.messages, 0) as owed, p.base_url is null as silent,
               coalesce(dead.messages, 0) as dead, p.trouble, p.heartbeat_interval_s,
               p.user_id
          from peer as p
          left join heartbeat_due as h on h.peer_id = p.id
          left join owed on owed.peer_id = p.id
          left join dead on dead.peer_id = p.id
         where %(user_id)s::bigint is null or p.user_id = %(user_id)s
         order by p.role desc, p.id
        """,
        {"user_id": user_id},
    )
    return tuple(await cursor.fetchall())


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupRow:
    id: int
    identifier: str
    name: str
    enabled: bool
    flexible: bool
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: str | None
    since_at: datetime | None
    until_at: datetime | None


async def groups(conn: AsyncConnection, *, user_id: int | None, now: datetime) -> tuple[Group, ...]:
    """Return the groups, each with its newest envelope and its latest measured power."""
    cursor = conn.cursor(row_factory=class_row(_GroupRow))
    await cursor.execute(
        """
        select g.id, g.identifier, g.name, g.enabled,
               coalesce(g.control ->> 'capacityScope' = 'Flexible', false) as flexible,
               e.min_w, e.max_w, e.optimum_w, e.reason, e.from_at as since_at, due.until_at
          from capacity_group as g
          left join control_due as due on due.group_id = g.id
          left join lateral (select *
                               from envelope
                              where group_id = g.id
                              order by from_at desc, id desc
                              limit 1) as e on true
         where %(user_id)s::bigint is null or g.user_id = %(user_id)s
         order by g.id
        """,
        {"user_id": user_id},
    )
    rows = await cursor.fetchall()
    power = await measured(conn, user_id=user_id, now=now)
    return tuple(
        Group(
            id=row.id,
            identifier=row.identifier,
            name=row.name,
            enabled=row.enabled,
            flexible=row.flexible,
            envelope=_envelope(row),
            measured=power.get(row.id),
        )
        for row in rows
    )


def _envelope(row: _GroupRow) -> Envelope | None:
    if row.since_at is None or row.reason is None:
        return None
    return Envelope(
        min_w=row.min_w,
        max_w=row.max_w,
        optimum_w=row.optimum_w,
        reason=row.reason,
        since_at=row.since_at,
        until_at=row.until_at,
    )


# Older datum are history, not "now"; the bound also spares the partitions of former months.
_RECENT = timedelta(days=31)


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeasuredRow:
    group_id: int
    power_w: Decimal | None
    at: datetime | None
    source: Literal["meter", "assets"]
    parts: int
    of: int


async def measured(
    conn: AsyncConnection, *, user_id: int | None, now: datetime
) -> dict[int, Measured]:
    """Return the latest power per group that has a meter or assets measured in W or kW.

    A group's meter counts alone; else its enabled assets are summed. One property of one stream
    counts once, whichever audiences it is reported to. Interpretation: `multiplier` makes an
    asset's value import positive, as it is reported to peers (oscp-2.0, instantaneous measurements
    have no direction). A property in none of a stream's ten newest datum has no latest value.
    """
    cursor = conn.cursor(row_factory=class_row(_MeasuredRow))
    await cursor.execute(
        """
        with wanted as (
            select g.id as group_id, g.user_id, 'meter' as source,
                   (meter.m ->> 'nodeId')::bigint as node_id,
                   ltrim(meter.m ->> 'sourceId', '/') as source_id,
                   meter.m ->> 'property' as property,
                   coalesce((meter.m ->> 'multiplier')::numeric, 1) as factor
              from capacity_group as g
             cross join lateral (select g.control -> 'meter' as m) as meter
             where jsonb_typeof(meter.m) = 'object'
             union
            select g.id, g.user_id, 'assets', a.node_id, ltrim(a.source_id, '/'), p.name,
                   coalesce((a.instantaneous ->> 'multiplier')::numeric, 1)
                   * case a.instantaneous ->> 'unit' when 'kW' then 1000 else 1 end
              from asset as a
              join capacity_group as g on g.id = a.group_id
             cross join lateral
                   jsonb_array_elements_text(a.instantaneous -> 'propertyNames') as p (name)
             where a.enabled
               and a.instantaneous ->> 'unit' in ('W', 'kW')
               and jsonb_typeof(g.control -> 'meter') is distinct from 'object'
        )
        select w.group_id, w.source, count(*) as of, count(latest.value) as parts,
               trim_scale(sum(latest.value * w.factor)) as power_w, min(latest.at) as at
          from wanted as w
          left join stream as s on s.user_id = w.user_id and s.node_id = w.node_id
                               and s.source_id = w.source_id
          left join lateral (
                select newest.at, (newest.i ->> w.property)::numeric as value
                  from (select d.at, d.i
                          from datum as d
                         where d.stream_id = s.id and d.at > %(after)s and d.at <= %(now)s
                         order by d.at desc
                         limit 10) as newest
                 where jsonb_typeof(newest.i -> w.property) = 'number'
                 order by newest.at desc
                 limit 1) as latest on true
         where %(user_id)s::bigint is null or w.user_id = %(user_id)s
         group by w.group_id, w.source
        """,
        {"user_id": user_id, "after": now - _RECENT, "now": now},
        prepare=False,  # as in control.latest
    )
    return {
        row.group_id: Measured(
            power_w=row.power_w, at=row.at, source=row.source, parts=row.parts, of=row.of
        )
        for row in await cursor.fetchall()
    }


async def devices(conn: AsyncConnection, *, names: Sequence[str] | None) -> tuple[Device, ...]:
    """Return what is known of the devices `names`, None: of all."""
    cursor = conn.cursor(row_factory=class_row(Device))
    await cursor.execute(
        """
        select name, type, health, detail, reading, reading_at, wanted, wanted_at,
               plan ->> 'reason' as why, told, told_at, confirmed, confirmed_at, attempts
          from device_state
         where %(names)s::text[] is null or name = any(%(names)s)
         order by name
        """,
        {"names": None if names is None else list(names)},
    )
    return tuple(await cursor.fetchall())


async def debts(conn: AsyncConnection, *, user_id: int | None) -> Debts:
    """Return what is owed. A publication's owner is the user of its topic."""
    cursor = conn.cursor(row_factory=class_row(Debts))
    await cursor.execute(
        """
        select o.pending as outbox_pending, o.oldest_at as outbox_oldest_at,
               p.pending as publications_pending
          from (select count(*) as pending, min(created_at) as oldest_at
                  from outbox
                 where settled_at is null
                   and (%(user_id)s::bigint is null
                        or peer_id in (select id from peer where user_id = %(user_id)s))) as o,
               (select count(*) as pending
                  from publication
                 where %(user_id)s::bigint is null
                    or starts_with(topic, 'user/' || %(user_id)s::bigint || '/')) as p
        """,
        {"user_id": user_id},
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What /metrics shows of the database; `links`: peers by link state."""

    links: Mapping[str, int]
    outbox_pending: int


async def counts(conn: AsyncConnection) -> Counts:
    """Count peers by link state and the messages still owed."""
    cursor = await conn.execute(
        """
        select (select coalesce(jsonb_object_agg(link, peers), '{}')
                  from (select link, count(*) as peers from peer group by link) as by_link),
               (select count(*) from outbox where settled_at is null)
        """
    )
    row = await cursor.fetchone()
    assert row is not None
    return Counts(links=row[0], outbox_pending=row[1])


async def migrated(conn: AsyncConnection) -> int:
    """Return the number of the newest migration that the database has, 0 when it has none."""
    cursor = await conn.execute("select coalesce(max(number), 0) from migration")
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
