"""Instructions of users to pass on an optimizer's words, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """`request_id` is that of the message it has become, None: it was declined at once.

    `outcome` and `attempts` are the message's; `error` is why it was declined or did not arrive.
    """

    id: int
    error: str | None
    outcome: str | None
    request_id: str | None
    attempts: int


async def add(
    conn: AsyncConnection, *, user_id: int, receiver_id: int, request_id: str, now: datetime
) -> int:
    """Note which message an instruction has become; return the instruction's id."""
    cursor = await conn.execute(
        """
        insert into instruction (user_id, message_id, created_at)
        select %s, o.id, %s from outbox as o where o.peer_id = %s and o.request_id = %s
        returning id
        """,
        (user_id, now, receiver_id, request_id),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def decline(conn: AsyncConnection, *, user_id: int, error: str, now: datetime) -> int:
    """Note an instruction that cannot be followed; return its id."""
    cursor = await conn.execute(
        "insert into instruction (user_id, error, created_at) values (%s, %s, %s) returning id",
        (user_id, error, now),
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def find(conn: AsyncConnection, *, user_id: int, id: int) -> Instruction | None:
    """Return one of the user's instructions."""
    cursor = conn.cursor(row_factory=class_row(Instruction))
    await cursor.execute(
        """
        select i.id, coalesce(i.error, o.error) as error, o.outcome, o.request_id,
               coalesce(o.attempts, 0) as attempts
          from instruction as i
          left join outbox as o on o.id = i.message_id
         where i.user_id = %s and i.id = %s
        """,
        (user_id, id),
    )
    return await cursor.fetchone()


async def forget(conn: AsyncConnection, *, before: datetime) -> int:
    """Drop what was declined long ago; the others go with their messages. Return how many."""
    cursor = await conn.execute(
        "delete from instruction where message_id is null and created_at < %s", (before,)
    )
    return cursor.rowcount
