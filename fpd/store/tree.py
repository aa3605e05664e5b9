"""The retained tree: the states it is made of, and what of it the broker has been given.

`retained` is what one daemon (an instance) wants the broker to hold, as last decided; each change
of it is owed to the broker in the same transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A capacity group and the newest envelope of it, W; `reason` None: it has none yet."""

    id: int
    user_id: int
    identifier: str
    name: str
    enabled: bool
    min_w: int | None
    max_w: int | None
    optimum_w: int | None
    reason: str | None
    since_at: datetime | None
    until_at: datetime | None


async def groups(conn: AsyncConnection) -> list[Group]:
    """Return all groups."""
    cursor = conn.cursor(row_factory=class_row(Group))
    await cursor.execute(
        """
        select g.id, g.user_id, g.identifier, g.name, g.enabled, e.min_w, e.max_w, e.optimum_w,
               e.reason, e.from_at as since_at, due.until_at
          from capacity_group as g
          left join control_due as due on due.group_id = g.id
          left join lateral (select *
                               from envelope
                              where group_id = g.id
                              order by from_at desc, id desc
                              limit 1) as e on true
         order by g.id
        """
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device: commands as `fpd.store.devices` has them; `output_w` delivered is positive."""

    name: str
    type: str
    health: str
    detail: str | None
    group_id: int | None
    wanted: Mapping[str, Any] | None
    why: str | None
    confirmed: Mapping[str, Any] | None
    confirmed_at: datetime | None
    output_w: float | None
    soc: float | None
    reading_at: datetime | None


async def devices(conn: AsyncConnection, *, names: Sequence[str]) -> list[Device]:
    """Return those of the named devices that were ever looked at."""
    cursor = conn.cursor(row_factory=class_row(Device))
    await cursor.execute(
        """
        select name, type, health, detail, group_id, wanted, plan ->> 'reason' as why, confirmed,
               confirmed_at, (reading ->> 'output_w')::double precision as output_w,
               (reading ->> 'soc')::double precision as soc, reading_at
          from device_state
         where name = any(%s)
         order by name
        """,
        (list(names),),
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A provider or optimizer and its link."""

    id: int
    user_id: int
    role: str
    name: str
    enabled: bool
    link: str
    since_at: datetime
    trouble: str | None


async def peers(conn: AsyncConnection) -> list[Peer]:
    """Return all providers and optimizers."""
    cursor = conn.cursor(row_factory=class_row(Peer))
    await cursor.execute(
        """
        select id, user_id, role, name, enabled, link, link_changed_at as since_at, trouble
          from peer
         order by id
        """
    )
    return await cursor.fetchall()


async def known(conn: AsyncConnection, *, instance: str) -> dict[str, bytes]:
    """Return what the broker is to hold, by topic."""
    cursor = await conn.execute(
        "select topic, payload from retained where instance = %s", (instance,)
    )
    return {topic: bytes(payload) for topic, payload in await cursor.fetchall()}


async def change(
    conn: AsyncConnection,
    *,
    instance: str,
    changed: Mapping[str, bytes],
    gone: Collection[str],
    now: datetime,
) -> None:
    """Note and owe what is to be held anew, in the order given, and what no more.

    What waits for the same topics is out of date and goes. An empty message ends what a broker
    holds (MQTT 3.1.1 §3.3.1.3).
    """
    values = {
        "instance": instance,
        "topics": [*changed, *gone],
        "payloads": [*changed.values(), *(b"" for _ in gone)],
        "now": now,
    }
    await conn.execute(
        "delete from publication where retain and topic = any(%(topics)b::text[])", values
    )
    await conn.execute(
        """
        with said as (
            select * from unnest(%(topics)b::text[], %(payloads)b::bytea[])
                     with ordinality as s (topic, payload, position)
        ), held as (
            insert into retained (instance, topic, payload)
            select %(instance)b, topic, payload from said where payload <> ''
                on conflict (instance, topic) do update set payload = excluded.payload
        ), ended as (
            delete from retained as r using said as s
             where r.instance = %(instance)b and r.topic = s.topic and s.payload = ''
        )
        insert into publication (topic, payload, retain, created_at)
        select topic, payload, true, %(now)b from said order by position
        """,
        values,
    )


async def restate(conn: AsyncConnection, *, instance: str, now: datetime) -> int:
    """Owe all that is to be held once more; return how much it is."""
    values = {"instance": instance, "now": now}
    await conn.execute(
        """
        delete from publication as p using retained as r
         where p.retain and p.topic = r.topic and r.instance = %(instance)s
        """,
        values,
    )
    cursor = await conn.execute(
        """
        insert into publication (topic, payload, retain, created_at)
        select topic, payload, true, %(now)s from retained
         where instance = %(instance)s
         order by topic
        """,
        values,
    )
    return cursor.rowcount
