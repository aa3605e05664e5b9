"""What is owed to the broker goes there, in order, and is dropped once the broker has it.

A message stays a row until its acknowledgement was seen, so whoever is killed in between publishes
it again: at least once. While the broker is away the rows wait, up to an age and a number.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.mqtt.batch import Outgoing
from fpd.store import events, publications
from fpd.store.publications import Dropped

log = structlog.get_logger()

_LEASE = timedelta(seconds=30)
_BATCH = 2000


async def step(context: Context) -> bool:
    """Publish a batch of what is owed; True if there may be more.

    Raises Unavailable while the broker is away and something waits for it.
    """
    settings = context.config.mqtt
    now = context.clock()
    async with context.db.connection() as conn:
        if not context.mqtt.connected:
            if await publications.are_owed(conn):
                raise Unavailable("the MQTT broker is away")
            return False
        claimed = await publications.claim(
            conn, holder=settings.instance, now=now, lease=_LEASE, limit=_BATCH
        )
    if not claimed:
        return False
    outgoing = [
        Outgoing(m.topic, m.payload, settings.retain if m.retain is None else m.retain)
        for m in claimed
    ]
    safe = await context.mqtt.publish_all(outgoing, qos=settings.qos)
    more = safe == _BATCH or (safe < len(claimed) and context.mqtt.connected)
    async with context.db.connection() as conn:
        await publications.settle(
            conn,
            published=[message.id for message in claimed[:safe]],
            holder=settings.instance,
            more=more,
            now=context.clock(),
        )
    context.metrics.publications.inc(safe)
    if safe < len(claimed) and not more:
        raise Unavailable("the MQTT broker is away")
    return more


async def shed(context: Context) -> bool:
    """Drop what has waited for the broker longer than is kept, or is more than is kept; say so."""
    now = context.clock()
    keep = timedelta(days=context.config.retention.publications_days)
    async with context.db.transaction() as conn:
        aged = await publications.forget(conn, before=now - keep)
        crowded = await publications.crop(conn, most=context.config.mqtt.spool)
        for reason, dropped in (("too old", aged), ("too many", crowded)):
            if dropped.count:
                data = {"reason": reason, "count": dropped.count, "oldestAt": dropped.oldest_at}
                await events.record(conn, kind="publications.dropped", at=now, data=data)
    _tell(context, "old", aged)
    _tell(context, "many", crowded)
    return False


def _tell(context: Context, reason: str, dropped: Dropped) -> None:
    if dropped.count:
        context.metrics.unpublished.labels(reason).inc(dropped.count)
        log.warning("publications.dropped", reason=reason, count=dropped.count)
