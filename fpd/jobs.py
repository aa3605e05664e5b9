"""The metronome: which loop is rung how often. The memory is PostgreSQL's, never this one's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from fpd.flows.loop import Loop


def metronome(loops: Sequence[Loop]) -> AsyncIOScheduler:
    """Return a scheduler, not started, that rings each loop every `every_s` seconds.

    Late rings are rung once, not dropped: a suspended machine goes on where time is now.
    """
    scheduler = AsyncIOScheduler(
        timezone=UTC,
        job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
    )
    for loop in loops:
        scheduler.add_job(_ring, "interval", seconds=loop.every_s, args=[loop], id=loop.name)
    return scheduler


async def _ring(loop: Loop) -> None:
    loop.ring()
