"""What platforms are told of: envelopes and setpoints after those that they were told of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An envelope from `from_at` on, W; `is_forecast`: because of forecasts."""

    id: int
    from_at: datetime
    min_w: int | None
    max_w: int | None
    is_forecast: bool


async def group_id(conn: AsyncConnection, *, user_id: int, identifier: str) -> int | None:
    """Return the id of a user's group, None if there is none of that identifier."""
    cursor = await conn.execute(
        "select id from capacity_group where user_id = %s and identifier = %s",
        (user_id, identifier),
    )
    row = await cursor.fetchone()
    return None if row is None else int(row[0])


async def envelopes(
    conn: AsyncConnection, *, group_id: int, after: int, since: datetime, limit: int
) -> list[Envelope]:
    """Return a group's envelopes after the one of that id, none that began before `since`."""
    cursor = conn.cursor(row_factory=class_row(Envelope))
    await cursor.execute(
        """
        select id, from_at, min_w, max_w, cardinality(forecast_ids) > 0 as is_forecast
          from envelope
         where group_id = %(group_id)s
           and from_at >= %(since)s and id > %(after)s
         order by id
         limit %(limit)s
        """,
        {"group_id": group_id, "after": after, "since": since, "limit": limit},
    )
    return await cursor.fetchall()


async def newest_envelope(conn: AsyncConnection, *, group_id: int) -> list[Envelope]:
    """Return the envelope in force, if there ever was one."""
    cursor = conn.cursor(row_factory=class_row(Envelope))
    await cursor.execute(
        """
        select id, from_at, min_w, max_w, cardinality(forecast_ids) > 0 as is_forecast
          from envelope
         where group_id = %s
         order by from_at desc, id desc
         limit 1
        """,
        (group_id,),
    )
    return await cursor.fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A command as it was sent."""

    id: int
    sent_at: datetime
    wanted: Mapping[str, Any]


async def commands(
    conn: AsyncConnection, *, device: str, after: int, since: datetime, limit: int
) -> list[Sent]:
    """Return a device's commands after the one of that id, none sent before `since`."""
    cursor = conn.cursor(row_factory=class_row(Sent))
    await cursor.execute(
        """
        select id, sent_at, wanted
          from device_command
         where device = %(device)s
           and sent_at >= %(since)s and id > %(after)s
         order by id
         limit %(limit)s
        """,
        {"device": device, "after": after, "since": since, "limit": limit},
    )
    return await cursor.fetchall()


async def newest_command(conn: AsyncConnection, *, device: str) -> list[Sent]:
    """Return the command sent last, if there ever was one."""
    cursor = conn.cursor(row_factory=class_row(Sent))
    await cursor.execute(
        """
        select id, sent_at, wanted
          from device_command
         where device = %s
         order by sent_at desc, id desc
         limit 1
        """,
        (device,),
    )
    return await cursor.fetchall()
