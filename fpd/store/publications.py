"""MQTT messages owed to the broker, and the settings that say what is published where.

Owed in the transaction that causes them, gone once the broker has acknowledged them. Messages
of one topic go in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

_LOCK: Final = 0x66706402  # one claim at a time: the next one must see the leases of this one


@dataclass(frozen=True, slots=True)
class Publication:
    topic: str
    payload: bytes


async def owe(conn: AsyncConnection, publications: Sequence[Publication], *, now: datetime) -> None:
    """Add messages, in this order."""
    if not publications:
        return
    await conn.execute(
        """
        insert into publication (topic, payload, created_at)
        select p.topic, p.payload, %(now)b
          from unnest(%(topics)b::text[], %(payloads)b::bytea[])
               with ordinality as p (topic, payload, position)
         order by p.position
        """,
        {
            "topics": [p.topic for p in publications],
            "payloads": [p.payload for p in publications],
            "now": now,
        },
    )


async def are_owed(conn: AsyncConnection) -> bool:
    """Return whether anything waits for the broker."""
    cursor = await conn.execute("select exists (select from publication)")
    return await cursor.fetchone() == (True,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A message in our hands until the lease ends."""

    id: int
    topic: str
    payload: bytes


async def claim(
    conn: AsyncConnection, *, now: datetime, lease: timedelta, limit: int
) -> list[Claimed]:
    """Take the oldest messages, in order; `conn` must be in a transaction.

    Topics of which another daemon holds messages are left to it, so that order is kept.
    """
    await conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    cursor = conn.cursor(row_factory=class_row(Claimed))
    await cursor.execute(
        """
        with held as (
            select topic from publication where leased_until > %(now)s
        ), due as (
            select id
              from publication
             where (leased_until is null or leased_until <= %(now)s)
               and topic not in (select topic from held)
             order by id
             limit %(limit)s
               for update
        ), claimed as (
            update publication as p set leased_until = %(leased_until)s
              from due
             where p.id = due.id
            returning p.id, p.topic, p.payload
        )
        select id, topic, payload from claimed order by id
        """,
        {"now": now, "leased_until": now + lease, "limit": limit},
    )
    return await cursor.fetchall()


async def settle(
    conn: AsyncConnection, *, published: Sequence[int], given_back: Sequence[int]
) -> None:
    """Drop what the broker has acknowledged; leave the rest for the next claim."""
    await conn.execute(
        """
        with published as (
            delete from publication where id = any(%(published)s)
        )
        update publication set leased_until = null where id = any(%(given_back)s)
        """,
        {"published": list(published), "given_back": list(given_back)},
    )


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop messages that the broker was never there for; return how many."""
    cursor = await conn.execute(
        """
        delete from publication
         where created_at < %(before)s
           and (leased_until is null or leased_until < %(before)s)
        """,
        {"before": before},
    )
    return cursor.rowcount


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


OUTLETS = """
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
     where sender.id = any(%(peer_ids)b::bigint[])
       and (%(identifiers)b::text[] is null or g.identifier = any(%(identifiers)b::text[]))
       and coalesce(own.node_id, users.node_id) is not null
     order by g.id
"""
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
