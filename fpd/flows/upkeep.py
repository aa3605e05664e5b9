"""What would grow for ever is dropped once nothing can ask for it any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from fpd.domain.control.caps import tick_of
from fpd.flows.context import Context
from fpd.store import (
    compliance,
    control,
    corrections,
    devices,
    events,
    forecasts,
    inbox,
    instructions,
    load_history,
    outbox,
    parts,
    plans,
    refusals,
    segments,
    streams,
)

# X-Request-IDs are remembered this long (design §7).
_IDS = timedelta(hours=24)
# Reports are looked at again for the correction window; the longest period is an hour.
_SLACK = timedelta(hours=2)


async def step(context: Context) -> bool:
    """Drop what has outlived its use; datum go by whole partitions."""
    now, keep, measurements = context.clock(), context.config.retention, context.config.measurements

    def ago(days: int) -> datetime:
        return now - timedelta(days=days)

    async with context.db.connection() as conn:
        await inbox.forget(conn, before=now - _IDS)
        await segments.forget(conn, before=now - _IDS)
        await outbox.forget(conn, before=ago(keep.messages_days))
        await instructions.forget(conn, before=ago(keep.messages_days))
        await events.forget(conn, before=ago(keep.events_days))
        await devices.forget_commands(conn, before=ago(keep.control_days))
        await compliance.forget(conn, before=ago(keep.control_days))
        await control.forget_envelopes(conn, before=ago(keep.control_days))
        await plans.forget(conn, before=ago(keep.plans_days))
        weeks = context.config.control.load_history_weeks + 1
        await load_history.forget(conn, before_tick=tick_of(ago(7 * weeks)))
        await forecasts.forget(conn, before=ago(keep.forecasts_days))
        await refusals.forget(conn, before=ago(keep.messages_days))
        doubtful = now - timedelta(seconds=measurements.correction_window_s) - _SLACK
        await corrections.forget(conn, before=doubtful)
        await parts.forget(conn, before=doubtful)
        await streams.drop_partitions(conn, before=ago(measurements.retention_days))
        await streams.forget_own(conn, before=ago(keep.own_datum_days))
    async with context.db.transaction() as conn:
        following = now.replace(day=1) + timedelta(days=32)
        await streams.make_partitions(conn, instants=[now, following])
    return False
