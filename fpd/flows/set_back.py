"""The clock was set back: nothing waits longer than it was meant to.

Whatever waits does so for an instant, so after a step back of an hour it would wait an hour more:
retries, control, handshakes. All of it is looked at now instead; being early does no harm.
Limits that had ended hold again, so control judges once more which forecasts are out of date.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.store import forecasts, set_back

log = structlog.get_logger()

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TOLERANCE = timedelta(seconds=2)  # what is corrected more gently than by a step
_LEASE = timedelta(seconds=60)  # the longest of any flow
_EVERY_S = 1.0
_REOPENED = 100  # of a group


class Watch:
    """Compares the clock with the time that really passes; `monotonic` tells that in seconds."""

    def __init__(
        self, context: Context, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._context = context
        self._monotonic = monotonic
        self._behind = timedelta(0)
        self._difference = self._measure()

    def _measure(self) -> timedelta:
        """Return how far the monotonic time is ahead of the clock, from an unknown origin."""
        return timedelta(seconds=self._monotonic()) - (self._context.clock() - _EPOCH)

    async def look(self) -> bool:
        """Tell whether the clock was set back, and mend what that delays.

        Raises Unavailable when the database is away; the next look is for the same step then.
        """
        difference = self._measure()
        self._behind = max(self._behind, timedelta(0)) + (difference - self._difference)
        self._difference = difference
        if self._behind <= _TOLERANCE:
            self._behind = timedelta(0)
            return False
        now = self._context.clock()
        async with self._context.db.transaction() as conn:
            late = await set_back.pull(conn, now=now, lease=_LEASE)
            await forecasts.reopen(conn, most=_REOPENED)
        log.warning("clock.set_back", by_s=self._behind.total_seconds(), late=late)
        self._behind = timedelta(0)
        return True

    async def keep(self) -> None:
        """Look for ever. While the database is away the loops tell it, and the step waits."""
        while True:
            await asyncio.sleep(_EVERY_S)
            with contextlib.suppress(Unavailable):
                await self.look()
