"""Datum that were refused: how many of each source, and the newest as an example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import class_row

MOST: Final = 1000
"""Sources with an example; the one that has been quiet for longest makes room."""

_LOCK: Final = 0x66706404  # room is made by one at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What was refused of one source; `head`: the first bytes of the newest, `size` all of them.

    `user_id` None: nobody's, so only who may see everything sees it.
    """

    door: str
    source: str
    user_id: int | None
    outcome: str
    reason: str
    head: bytes
    size: int
    count: int
    first_at: datetime
    last_at: datetime


async def note(conn: AsyncConnection, refused: Sequence[Refusal]) -> None:
    """Add to what is known of these sources; at most `MOST` are remembered."""
    if not refused:
        return
    await conn.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    async with conn.cursor() as cursor:
        await cursor.executemany(
            """
            insert into refused_datum as r (door, source, user_id, outcome, reason, head, size,
                                            count, first_at, last_at)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                on conflict (door, source) do update
               set user_id = excluded.user_id, outcome = excluded.outcome,
                   reason = excluded.reason, head = excluded.head, size = excluded.size,
                   count = r.count + excluded.count, last_at = excluded.last_at
            """,
            [
                (
                    one.door,
                    one.source,
                    one.user_id,
                    one.outcome,
                    one.reason,
                    one.head,
                    one.size,
                    one.count,
                    one.first_at,
                    one.last_at,
                )
                for one in refused[:MOST]
            ],
        )
    await conn.execute(
        """
        delete from refused_datum
         where (door, source) in (select door, source from refused_datum
                                   order by last_at desc, door, source offset %s)
        """,
        (MOST,),
    )


async def listed(conn: AsyncConnection, *, user_id: int | None, limit: int) -> list[Refusal]:
    """Return the sources of a user's datum that were refused, the newest first; None: all."""
    cursor = conn.cursor(row_factory=class_row(Refusal))
    await cursor.execute(
        """
        select door, source, user_id, outcome, reason, head, size, count, first_at, last_at
          from refused_datum
         where %(user_id)s::bigint is null or user_id = %(user_id)s
         order by last_at desc, door, source
         limit %(limit)s
        """,
        {"user_id": user_id, "limit": limit},
    )
    return await cursor.fetchall()


async def forget(conn: AsyncConnection, *, before: datetime) -> None:
    """Drop the sources of which nothing was refused since an instant."""
    await conn.execute("delete from refused_datum where last_at < %s", (before,))
