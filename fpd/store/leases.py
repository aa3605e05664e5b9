"""Leases of daemons that were killed end with them: what they held is due now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from psycopg import AsyncConnection


async def take_back(
    conn: AsyncConnection, *, gone: Callable[[str], bool], now: datetime
) -> list[str]:
    """End the leases of daemons that were killed, and return those daemons.

    Only `gone` can tell: of other machines nothing is known.
    """
    cursor = await conn.execute(
        """
        select leased_by from device_state where leased_until > %(now)s
         union select leased_by from control_due where leased_until > %(now)s
         union select leased_by from platform_poll where leased_until > %(now)s
         union select holder from device_steward
        """,
        {"now": now},
    )
    dead = [holder for (holder,) in await cursor.fetchall() if holder and gone(holder)]
    if dead:
        given = {"dead": dead, "now": now}
        await conn.execute(
            "update device_state set leased_until = null where leased_by = any(%(dead)s)", given
        )
        await conn.execute(
            """
            update control_due set leased_until = null, due_at = least(due_at, %(now)s)
             where leased_by = any(%(dead)s) and leased_until is not null
            """,
            given,
        )
        await conn.execute(
            """
            update platform_poll set leased_until = null
             where leased_by = any(%(dead)s) and leased_until > %(now)s
            """,
            given,
        )
    return dead
