"""Which daemons look after which devices: who stops leaves to the others what they go on with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
