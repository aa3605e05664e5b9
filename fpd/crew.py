"""The tasks that the daemon owns: none is forgotten, and a bug in one ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


class Crew:
    """Starts tasks, watches them, ends them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Start `work`. Should it raise, `failed` returns and the process is to end."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("task.failed", task=task.get_name(), exc_info=error)
            self._failed.set()

    async def failed(self) -> None:
        """Return once a task has failed."""
        await self._failed.wait()

    @property
    def has_failed(self) -> bool:
        return self._failed.is_set()

    async def finish(self, *, within_s: float) -> None:
        """Wait for the tasks to end by themselves; cancel those that have not after `within_s`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=within_s)
        await self.cancel()

    async def cancel(self) -> None:
        """Cancel every task and wait until it has ended."""
        while tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
