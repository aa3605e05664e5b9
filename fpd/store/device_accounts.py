"""Accounts of device services: how much of the day's quota is used, and what was noted.

One row per account, whatever number of daemons and commands speak as it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """`day`: the day that `requests` counts. `notes`: as the adapter wrote them."""

    name: str
    day: str
    requests: int
    notes: Mapping[str, Any]


async def load(conn: AsyncConnection, *, name: str) -> AccountRow | None:
    cursor = conn.cursor(row_factory=class_row(AccountRow))
    await cursor.execute(
        "select name, day, requests, notes from device_account where name = %s", (name,)
    )
    return await cursor.fetchone()


async def count(conn: AsyncConnection, *, name: str, day: str, now: datetime) -> int:
    """Count one more request of the day and return how many there were."""
    cursor = await conn.execute(
        """
        insert into device_account as a (name, day, requests, modified_at)
        values (%(name)s, %(day)s, 1, %(now)s)
            on conflict (name) do update
           set requests = case when a.day = excluded.day then a.requests + 1 else 1 end,
               day = excluded.day, modified_at = excluded.modified_at
        returning requests
        """,
        {"name": name, "day": day, "now": now},
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def note(
    conn: AsyncConnection, *, name: str, notes: Mapping[str, Any], now: datetime
) -> None:
    """Replace what was noted."""
    await conn.execute(
        """
        insert into device_account (name, notes, modified_at)
        values (%(name)s, %(notes)s, %(now)s)
            on conflict (name) do update
           set notes = excluded.notes, modified_at = excluded.modified_at
        """,
        {"name": name, "notes": Jsonb(dict(notes)), "now": now},
    )
