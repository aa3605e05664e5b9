"""What would grow for ever is dropped once nothing can ask for it any more."""

from __future__ import annotations

from datetime import timedelta

from fpd.flows.context import Context
from fpd.store import (
    control,
    devices,
    events,
    inbox,
    instructions,
    outbox,
    publications,
    segments,
    streams,
)

# X-Request-IDs are remembered this long (design §7).
_IDS = timedelta(hours=24)
_SETTLED = timedelta(days=30)
_HISTORY = timedelta(days=400)
# A broker that is away longer than this gets no more of the past.
_PUBLICATIONS = timedelta(days=7)


async def step(context: Context) -> bool:
    """Drop what has outlived its use; datum go by whole partitions."""
    now = context.clock()
    async with context.db.connection() as conn:
        await inbox.forget(conn, before=now - _IDS)
        await segments.forget(conn, before=now - _IDS)
        await outbox.forget(conn, before=now - _SETTLED)
        await instructions.forget(conn, before=now - _SETTLED)
        await events.forget(conn, before=now - _HISTORY)
        await devices.forget_commands(conn, before=now - _HISTORY)
        await control.forget_envelopes(conn, before=now - _HISTORY)
        await publications.forget(conn, before=now - _PUBLICATIONS)
        retention = timedelta(days=context.config.measurements.retention_days)
        await streams.drop_partitions(conn, before=now - retention)
    return False
