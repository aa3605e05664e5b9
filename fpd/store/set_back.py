"""What waits for an instant, after the clock was set back: it would wait for that much longer."""

from __future__ import annotations

from datetime import datetime, timedelta

from psycopg import AsyncConnection

_DUE = {
    "outbox": ("due_at", "settled_at is null"),
    "lane": ("due_at", "due_at < 'infinity'"),
    "unreachable": ("due_at", "true"),
    "control_due": ("due_at", "true"),
    "compliance_due": ("due_at", "true"),
    "plan_due": ("due_at", "true"),
    "device_state": ("due_at", "true"),
    "device_state.command": ("command_due_at", "true"),
    "peer": ("handshake_due_at", "true"),
}
_LEASED = (
    "lane",
    "control_due",
    "compliance_due",
    "plan_due",
    "measurement_due",
    "measurement_recheck",
    "publisher",
    "device_state",
)


async def pull(conn: AsyncConnection, *, now: datetime, lease: timedelta) -> int:
    """Make due now what is due later, and let no claim last longer than `lease` from now on.

    Measurement periods end when they end. Return how many rows were late.
    """
    count = 0
    for name, (column, condition) in _DUE.items():
        cursor = await conn.execute(
            f"update {name.partition('.')[0]} set {column} = %(now)s"
            f" where {column} > %(now)s and {condition}",
            {"now": now},
        )
        count += cursor.rowcount
    for table in _LEASED:
        cursor = await conn.execute(
            f"update {table} set leased_until = %(until)s where leased_until > %(until)s",
            {"until": now + lease},
        )
        count += cursor.rowcount
    return count
