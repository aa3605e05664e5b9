"""Streams that fall silent or freeze are noticed: looked at when they are due, many at a time.

What is found and the event that tells of it are one transaction, so each is told once.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta

import structlog

from fpd.config import Health as Settings
from fpd.domain import source_id as source_ids
from fpd.domain.stream_health import Rules, due_at, judged
from fpd.flows.context import Context
from fpd.store import stream_health as store
from fpd.store.stream_health import Due

log = structlog.get_logger()

_STREAMS = 200  # looked at in one transaction, and judged in one go


class Looks:
    """Looks at streams from a while after the start on: what came meanwhile is taken in first."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._begun_s = context.steady()

    async def step(self) -> bool:
        """Look at the streams that are due; return whether there may be more."""
        context = self._context
        if context.steady() - self._begun_s < context.config.health.least_s:
            return False
        return await step(context)


async def step(context: Context) -> bool:
    """Look at the streams that are due; return whether there may be more."""
    now, settings = context.clock(), context.config.health
    rules = Rules(
        stale_after=settings.stale_after,
        least=timedelta(seconds=settings.least_s),
        frozen=timedelta(seconds=settings.frozen_s),
    )
    async with context.db.transaction() as conn:
        await store.admit(conn, now=now)
        due = await store.due(conn, now=now, limit=_STREAMS)
        found = [
            (of, judged(of.health, of.seen(expected_s(settings, of)), rules, now=now)) for of in due
        ]
        await store.keep(
            conn, [(of, now_is, due_at(now_is, rules, now=now)) for of, now_is in found], now=now
        )
    changes = Counter(now_is.state for of, now_is in found if now_is.state != of.health.state)
    for state in ("stale", "frozen"):
        if changes[state]:
            log.warning(f"streams.{state}", streams=changes[state])
    return len(due) == _STREAMS


def expected_s(settings: Settings, of: Due) -> float | None:
    """Return the configured time between datum, None where it is to be learned."""
    for wanted in settings.expect:
        if re.search(source_ids.expression(wanted.source_id), f"/{of.source_id}"):
            return wanted.cadence_s
    return None
