"""Capacity forecasts: as received, byte for byte, and their blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row, dict_row

from fpd.domain.forecast import ForecastType


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressee:
    """The group that a peer means by its identifier, and whom its forecasts are forwarded to.

    `optimizer_listens`: it is enabled and has a base URL. `optimizer_waits`: something of this
    group is still owed to it and not under way. `watched`: something of the group is steered or
    measured, so its control is in a hurry.
    """

    group_id: int
    user_id: int
    enabled: bool
    provider_id: int
    optimizer_id: int | None
    optimizer_listens: bool
    optimizer_waits: bool
    watched: bool
    provider_props: dict[str, Any] | None
    optimizer_props: dict[str, Any] | None


Key = tuple[int, str]
"""A peer's id and the identifier by which it calls a group."""


FIND_GROUPS = """
    select k.peer_id, k.identifier,
           g.id as group_id, g.user_id, g.enabled, g.provider_id, g.optimizer_id,
           coalesce(co.enabled and co.base_url is not null, false) as optimizer_listens,
           exists (select from outbox as o
                    where o.peer_id = g.optimizer_id and o.lane = 'group:' || g.id
                      and o.settled_at is null
                      and (o.attempts = 0 or not exists (
                              select from lane as l
                               where l.peer_id = o.peer_id and l.name = o.lane
                                 and l.leased_until > %(now)b))) as optimizer_waits,
           exists (select from compliance_due as c where c.group_id = g.id) as watched,
           cp.service_props as provider_props, co.service_props as optimizer_props
      from unnest(%(peer_ids)b::bigint[], %(identifiers)b::text[]) as k (peer_id, identifier)
      join capacity_group as g
        on g.identifier = k.identifier and k.peer_id in (g.provider_id, g.optimizer_id)
      join peer as cp on cp.id = g.provider_id
      left join peer as co on co.id = g.optimizer_id
"""
"""The rows of `found_groups`, from what `find_groups_of` gives."""


def find_groups_of(keys: Collection[Key], *, now: datetime) -> dict[str, Any]:
    """Return the parameters of FIND_GROUPS."""
    return {
        "now": now,
        "peer_ids": [peer_id for peer_id, _ in keys],
        "identifiers": [identifier for _, identifier in keys],
    }


def found_groups(rows: Iterable[dict[str, Any]]) -> dict[Key, Addressee]:
    """Return the groups that keys mean; a key that means none is left out."""
    return {(row.pop("peer_id"), row.pop("identifier")): Addressee(**row) for row in rows}


async def find_group(
    conn: AsyncConnection, *, peer_id: int, identifier: str, now: datetime
) -> Addressee | None:
    """Return the group that this provider or optimizer calls `identifier`, or None."""
    key = (peer_id, identifier)
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(FIND_GROUPS, find_groups_of([key], now=now))
    return found_groups(await cursor.fetchall()).get(key)


async def was_sent(conn: AsyncConnection, *, group_id: int, peer_id: int, request_id: str) -> bool:
    """Tell whether the peer has sent a forecast for the group under this id."""
    cursor = await conn.execute(
        "select from forecast where group_id = %s and peer_id = %s and request_id = %s limit 1",
        (group_id, peer_id, request_id),
    )
    return await cursor.fetchone() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A forecast as it was kept; its blocks are in its body."""

    id: int
    group_id: int
    peer_id: int
    type: ForecastType
    received_at: datetime
    body: bytes

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", ForecastType(self.type))


async def load(conn: AsyncConnection, *, group_ids: Sequence[int]) -> dict[int, list[Kept]]:
    """Return per group, in the order of receipt, the forecasts of which something may matter."""
    cursor = conn.cursor(row_factory=class_row(Kept))
    await cursor.execute(
        """
        select id, group_id, peer_id, type, received_at, body
          from forecast
         where group_id = any(%s) and open
         order by group_id, id
        """,
        (list(group_ids),),
    )
    found: dict[int, list[Kept]] = {group_id: [] for group_id in group_ids}
    for row in await cursor.fetchall():
        found[row.group_id].append(row)
    return found


@dataclass(frozen=True, slots=True)
class Newer:
    """A kept forecast, of which the earlier ones of its kind are asked for."""

    id: int
    group_id: int
    peer_id: int
    type: str


async def earlier(
    conn: AsyncConnection, newer: Sequence[Newer], *, now: datetime, most: int, most_bytes: int
) -> list[list[tuple[str, bytes]]]:
    """Return for each of them the request ids and bodies of earlier forecasts of the same peer,
    group and type that have not ended, oldest first: the newest `most`, and no more than
    `most_bytes`.
    """
    cursor = await conn.execute(
        """
        select n.position, f.request_id, f.body
          from unnest(%(ids)s::bigint[], %(groups)s::bigint[], %(peers)s::bigint[],
                      %(types)s::text[]) with ordinality
               as n (id, group_id, peer_id, type, position)
         cross join lateral (
               select id, request_id, body, sum(octet_length(body)) over (order by id desc) as bytes
                 from forecast
                where group_id = n.group_id and peer_id = n.peer_id and type = n.type and open
                  and ends_at > %(now)s and id < n.id
                order by id desc
                limit %(most)s) as f
         where f.bytes <= %(most_bytes)s
         order by n.position, f.id
        """,
        {
            "ids": [one.id for one in newer],
            "groups": [one.group_id for one in newer],
            "peers": [one.peer_id for one in newer],
            "types": [one.type for one in newer],
            "now": now,
            "most": most,
            "most_bytes": most_bytes,
        },
    )
    found: list[list[tuple[str, bytes]]] = [[] for _ in newer]
    for position, request_id, body in await cursor.fetchall():
        found[position - 1].append((request_id, bytes(body)))
    return found


async def close(conn: AsyncConnection, *, ids: Collection[int]) -> None:
    """Leave forecasts out from now on: newer ones or time have left nothing of them."""
    await conn.execute("update forecast set open = false where id = any(%s)", (list(ids),))


async def reopen(conn: AsyncConnection, *, most: int) -> None:
    """Let the newest `most` forecasts of each group that were left out matter again."""
    await conn.execute(
        """
        update forecast
           set open = true
         where id in (select f.id
                        from capacity_group as g
                       cross join lateral (
                             select id from forecast
                              where group_id = g.id and not open
                              order by received_at desc, id desc
                              limit %s) as f)
        """,
        (most,),
    )


async def want_control(conn: AsyncConnection, *, group_ids: Collection[int], now: datetime) -> None:
    """Have the control of these groups looked at now."""
    await conn.execute(
        """
        with locked as (
            select group_id from control_due
             where group_id = any(%(ids)s) and due_at > %(now)s
             order by group_id for update
        )
        update control_due as due set due_at = %(now)s
          from locked where due.group_id = locked.group_id
        """,
        {"ids": list(group_ids), "now": now},
    )


async def want_control_of_peer(conn: AsyncConnection, *, peer_id: int, now: datetime) -> None:
    """Have the control of every group of the peer looked at now."""
    await conn.execute(
        """
        update control_due set due_at = least(due_at, %(now)s)
         where group_id in (select id from capacity_group
                             where provider_id = %(peer_id)s or optimizer_id = %(peer_id)s)
        """,
        {"peer_id": peer_id, "now": now},
    )


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop forecasts that ended before an instant and of which nothing can matter any more.

    One that a message still has to pass on is kept. Returns how many were dropped.
    """
    cursor = await conn.execute(
        """
        delete from forecast as f
         where f.ends_at < %(before)s and f.received_at < %(before)s
           and not exists (select from outbox as o where o.forecast_id = f.id)
        """,
        {"before": before},
    )
    return cursor.rowcount
