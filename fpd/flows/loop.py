"""A flow's heartbeat: rung by events, rung by the metronome, one pass at a time.

Ringing is a hint and the metronome is the guarantee, so a lost ring costs a second at most.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from fpd.errors import Unavailable
from fpd.metrics import Metrics

log = structlog.get_logger()


class Loop:
    """Runs `step` after each ring, again while it returns True (there may be more at once).

    A database, broker or peer being away is told once and waited out; any other exception is
    a bug and leaves `run`, which ends the process.
    """

    def __init__(
        self, name: str, step: Callable[[], Awaitable[bool]], *, every_s: float, metrics: Metrics
    ) -> None:
        self.name = name
        self.every_s = every_s
        self.progress_at = 0.0
        self._step = step
        self._ring = asyncio.Event()
        self._passes = metrics.passes.labels(name)
        self._away = False
        self._stopping = False

    def ring(self) -> None:
        """Ask for a pass soon."""
        self._ring.set()

    def stop(self) -> None:
        """Let `run` return after the step it is in, so that no claim is left half-way."""
        self._stopping = True
        self.ring()

    async def run(self) -> None:
        """Serve rings until stopped."""
        self.progress_at = asyncio.get_running_loop().time()
        while True:
            await self._rung()
            if self._stopping:
                return
            self._ring.clear()
            await self._pass()
            self.progress_at = asyncio.get_running_loop().time()
            self._passes.inc()

    async def _rung(self) -> None:
        """Wait for a ring, but not for ever: the metronome goes by the wall clock, and when that
        is set back it stops for as long.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ring.wait(), 2 * self.every_s)

    async def _pass(self) -> None:
        try:
            while await self._step() and not self._stopping:
                self.progress_at = asyncio.get_running_loop().time()
        except Unavailable as error:
            if not self._away:
                log.warning("loop.waiting", loop=self.name, reason=str(error))
            self._away = True
        else:
            if self._away:
                log.info("loop.resumed", loop=self.name)
            self._away = False
