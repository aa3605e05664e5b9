"""What devices were sent for a group and followed, for an operator to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a device was sent, because of which envelope, and what came of it."""

    id: int
    device: str
    envelope_id: int | None
    wanted: Mapping[str, Any]
    sent_at: datetime
    settled_at: datetime | None
    outcome: str | None
    detail: str | None


_COMMAND = "c.id, c.device, c.envelope_id, c.wanted, c.sent_at, c.settled_at, c.outcome, c.detail"


async def commands(
    conn: AsyncConnection, *, envelope_id: int, at: datetime, limit: int
) -> list[Command]:
    """Return what was sent because of an envelope, what is nearest to `at` first."""
    cursor = conn.cursor(row_factory=class_row(Command))
    await cursor.execute(
        f"""
        select {_COMMAND} from device_command as c
         where c.envelope_id = %(envelope_id)s
         order by abs(extract(epoch from c.sent_at - %(at)s)), c.id
         limit %(limit)s
        """,
        {"envelope_id": envelope_id, "at": at, "limit": limit},
    )
    return await cursor.fetchall()


async def told(
    conn: AsyncConnection, *, group_id: int, devices: Sequence[str], at: datetime, seen: bool
) -> dict[str, Command]:
    """Return by device the last command for the group by `at`; `seen`: that it was seen to follow.

    A command stands until the next one, also when the envelope that caused it has ended.
    """
    condition = "c.outcome = 'confirmed' and c.settled_at <= %(at)s" if seen else "true"
    cursor = conn.cursor(row_factory=class_row(Command))
    await cursor.execute(
        f"""
        select last.*
          from unnest(%(devices)s::text[]) as d (name)
         cross join lateral (
               select {_COMMAND} from device_command as c
                where c.device = d.name and c.group_id = %(group_id)s and c.sent_at <= %(at)s
                  and {condition}
                order by c.sent_at desc, c.id desc
                limit 1) as last
        """,
        {"group_id": group_id, "devices": list(devices), "at": at},
    )
    return {command.device: command for command in await cursor.fetchall()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that works for the group now; `why`: why control wants what it wants."""

    name: str
    type: str
    health: str
    detail: str | None
    wanted: Mapping[str, Any] | None
    why: str | None
    told: Mapping[str, Any] | None
    told_at: datetime | None
    confirmed: Mapping[str, Any] | None
    confirmed_at: datetime | None


async def devices(conn: AsyncConnection, *, group_id: int) -> dict[str, Device]:
    """Return the devices that work for the group now. Another's that an asset names does not."""
    cursor = conn.cursor(row_factory=class_row(Device))
    await cursor.execute(
        """
        select name, type, health, detail, wanted, plan ->> 'reason' as why, told, told_at,
               confirmed, confirmed_at
          from device_state
         where group_id = %s
         order by name
        """,
        (group_id,),
    )
    return {device.name: device for device in await cursor.fetchall()}
