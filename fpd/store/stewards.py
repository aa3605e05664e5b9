"""Which daemons look after which devices: who stops leaves to the others what they go on with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from psycopg import AsyncConnection


async def stay(
    conn: AsyncConnection, *, holder: str, devices: Sequence[str], until_at: datetime
) -> None:
    """Note that a daemon looks after the devices until then at least."""
    await conn.execute(
        """
        insert into device_steward (device, holder, until_at)
        select device, %(holder)s, %(until)s
          from unnest(%(devices)s::text[]) as d (device)
         order by device
            on conflict (device, holder) do update set until_at = excluded.until_at
        """,
        {"devices": list(devices), "holder": holder, "until": until_at},
    )


async def leave(conn: AsyncConnection, *, holders: Collection[str], now: datetime) -> set[str]:
    """Strike daemons off; return the devices that others go on with.

    Daemons that leave together do so one after the other, so that the last one knows that it is.
    """
    await conn.execute("select pg_advisory_xact_lock(hashtext('device_steward'))")
    await conn.execute(
        "delete from device_steward where holder = any(%s) or until_at <= %s", (list(holders), now)
    )
    cursor = await conn.execute("select distinct device from device_steward")
    return {row[0] for row in await cursor.fetchall()}


async def take_back(
    conn: AsyncConnection, *, gone: Callable[[str], bool], now: datetime
) -> list[str]:
    """End the leases of daemons that were killed, and return those daemons.

    What they held is due now. Only `gone` can tell: of other machines nothing is known.
    """
    cursor = await conn.execute(
        """
        select leased_by from device_state where leased_until > %(now)s
         union select leased_by from control_due where leased_until > %(now)s
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
    return dead
