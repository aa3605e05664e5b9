"""MQTT messages owed to the broker, and the settings that say what is published where.

Owed in the transaction that causes them, gone once the broker has acknowledged them. One daemon
at a time publishes, in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class Publication:
    """A message. `retain` None: as configured; True: it belongs to the retained tree."""

    topic: str
    payload: bytes
    retain: bool | None = None


async def owe(conn: AsyncConnection, publications: Sequence[Publication], *, now: datetime) -> None:
    """Add messages, in this order."""
    if not publications:
        return
    await conn.execute(
        """
        insert into publication (topic, payload, retain, created_at)
        select p.topic, p.payload, p.retain, %(now)b
          from unnest(%(topics)b::text[], %(payloads)b::bytea[], %(retain)b::boolean[])
               with ordinality as p (topic, payload, retain, position)
         order by p.position
        """,
        {
            "topics": [p.topic for p in publications],
            "payloads": [p.payload for p in publications],
            "retain": [p.retain for p in publications],
            "now": now,
        },
    )


async def are_owed(conn: AsyncConnection) -> bool:
    """Return whether anything waits for the broker."""
    # Not `exists`, which would look through all that was dropped until the next vacuum.
    cursor = await conn.execute("select (select min(id) from publication) is not null")
    return await cursor.fetchone() == (True,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed(Publication):
    """A message in our hands."""

    id: int


async def claim(
    conn: AsyncConnection, *, holder: str, now: datetime, lease: timedelta, limit: int
) -> list[Claimed]:
    """Take the oldest messages, in order, if nobody else is publishing; until the lease ends.

    `holder` is the name of our session at the broker: who was killed and returns as the same goes
    on at once, since the broker lets only one of them in.
    """
    cursor = conn.cursor(row_factory=class_row(Claimed))
    await cursor.execute(
        """
        with ours as (
            insert into publisher as p (holder, leased_until)
            select %(holder)s, %(leased_until)s
             where (select min(id) from publication) is not null
                on conflict (only_one) do update
               set holder = excluded.holder, leased_until = excluded.leased_until
             where p.holder = excluded.holder or p.leased_until <= %(now)s
            returning p.holder
        )
        select id, topic, payload, retain
          from publication
         where exists (select from ours)
         order by id
         limit %(limit)s
        """,
        {"holder": holder, "now": now, "leased_until": now + lease, "limit": limit},
    )
    return await cursor.fetchall()


async def settle(
    conn: AsyncConnection, *, published: Sequence[int], holder: str, more: bool, now: datetime
) -> None:
    """Drop what the broker has acknowledged; unless there is `more`, let others publish."""
    await conn.execute(
        """
        with left_to_others as (
            update publisher set leased_until = %(now)s
             where not %(more)s and holder = %(holder)s
        )
        delete from publication where id = any(%(published)s)
        """,
        {"published": list(published), "holder": holder, "more": more, "now": now},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """How many messages were dropped; of which the oldest was of `oldest_at`."""

    count: int
    oldest_at: datetime | None


async def forget(conn: AsyncConnection, *, before: datetime) -> Dropped:
    """Drop messages that have waited too long for the broker."""
    return await _drop(conn, "created_at < %(before)s", {"before": before})


async def crop(conn: AsyncConnection, *, most: int) -> Dropped:
    """Drop the oldest messages beyond the newest `most`."""
    return await _drop(
        conn,
        "id <= (select id from publication order by id desc offset %(most)s limit 1)",
        {"most": most},
    )


async def _drop(conn: AsyncConnection, condition: LiteralString, values: dict[str, Any]) -> Dropped:
    """Drop what nobody will hear; but the tree, which is bounded and never old news, stays."""
    cursor = conn.cursor(row_factory=class_row(Dropped))
    await cursor.execute(
        "with dropped as (delete from publication where retain is not true and "
        + condition
        + " returning created_at)"
        " select count(*) as count, min(created_at) as oldest_at from dropped",
        values,
    )
    row = await cursor.fetchone()
    assert row is not None
    return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """Where datum about a group's messages go, and what their source ids may be made of.

    `optimizer_id` None: the group has none. `template` None: the default one.
    """

    user_id: int
    sender_id: int
    sender_role: str
    group_id: int
    group_identifier: str
    group_name: str
    provider_id: int
    provider_name: str
    optimizer_id: int | None
    optimizer_name: str | None
    node_id: int
    template: str | None
    to_solar_in: bool
    to_solar_flux: bool


_OUTLETS: LiteralString = """
    select g.user_id, sender.id as sender_id, sender.role as sender_role,
           g.id as group_id, g.identifier as group_identifier, g.name as group_name,
           cp.id as provider_id, cp.name as provider_name,
           co.id as optimizer_id, co.name as optimizer_name,
           coalesce(own.node_id, users.node_id) as node_id,
           coalesce(own.source_id_template, users.source_id_template) as template,
           coalesce(own.publish_to_solar_in, users.publish_to_solar_in, true)
               as to_solar_in,
           coalesce(own.publish_to_solar_flux, users.publish_to_solar_flux, true)
               as to_solar_flux
      from peer as sender
      join capacity_group as g on sender.id in (g.provider_id, g.optimizer_id)
      join peer as cp on cp.id = g.provider_id
      left join peer as co on co.id = g.optimizer_id
      left join publish_settings as own on own.group_id = g.id
      left join publish_settings as users on users.user_id = g.user_id
                                         and users.group_id is null
     where coalesce(own.node_id, users.node_id) is not null
"""

OUTLETS: LiteralString = (
    _OUTLETS
    + """
       and sender.id = any(%(peer_ids)b::bigint[])
       and (%(identifiers)b::text[] is null or g.identifier = any(%(identifiers)b::text[]))
     order by g.id
"""
)
"""Outlets of what peers say about groups, from what `outlets_of` gives.

Each field is the group's own, else the user's (decision M11); a group without any settings, or
without a node, publishes nothing.
"""


def outlets_of(
    peer_ids: Collection[int], identifiers: Collection[str] | None = None
) -> dict[str, list[int] | list[str] | None]:
    """Return the parameters of OUTLETS; `identifiers` None: all groups of these peers."""
    return {
        "peer_ids": list(peer_ids),
        "identifiers": None if identifiers is None else list(identifiers),
    }


async def outlets(conn: AsyncConnection, *, peer_ids: Collection[int]) -> list[Outlet]:
    """Return the outlets of what these peers say about all of their groups."""
    cursor = conn.cursor(row_factory=class_row(Outlet))
    await cursor.execute(OUTLETS, outlets_of(peer_ids))
    return await cursor.fetchall()


async def group_outlets(conn: AsyncConnection, *, group_ids: Collection[int]) -> list[Outlet]:
    """Return the outlets of what we do for these groups; as if their providers had sent it."""
    cursor = conn.cursor(row_factory=class_row(Outlet))
    await cursor.execute(
        _OUTLETS + "and g.id = any(%s) and sender.id = g.provider_id order by g.id",
        (list(group_ids),),
    )
    return await cursor.fetchall()
