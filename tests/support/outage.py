"""A daemon at work while its database goes, and what its peers may notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from support.daemon import Daemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer

DOOR = "update_group_capacity_forecast"
PERIOD_S = 0.8


class Counting(RecordingPeer):
    """A provider that notes when each heartbeat came."""

    async def __aenter__(self) -> Counting:
        await super().__aenter__()
        self.at: list[float] = []
        self._counting = asyncio.create_task(self._count())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._counting.cancel()
        await super().__aexit__(*error)

    async def _count(self) -> None:
        for number in itertools.count(1):
            await self.hears("heartbeat", number, within_s=60)
            self.at.append(time.monotonic())

    def assert_rhythm(self) -> None:
        """None came much too late, and none twice."""
        gaps = [b - a for a, b in itertools.pairwise(self.at)]
        assert len(gaps) >= 3
        assert max(gaps) < PERIOD_S + 0.6, gaps
        assert min(gaps) > PERIOD_S - 0.6, gaps


@asynccontextmanager
async def at_work(daemon: Daemon) -> AsyncIterator[tuple[Counting, str]]:
    """A running daemon and a provider that gets a heartbeat every 0.8 s; its token."""
    await daemon.start()
    await daemon.log_in()
    site = await make_site(daemon, optimizer=False)
    async with Counting("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token, interval_s=1)
        await cp.hears("heartbeat", 2)
        yield cp, token
        cp.assert_rhythm()
    assert daemon.alive, daemon.said()


async def refused_within_s(daemon: Daemon, cp: RecordingPeer, token: str) -> float:
    """Say something that must be kept; return how long the 503 took."""
    began = time.monotonic()
    status, said, headers = await cp.says(daemon.url, DOOR, forecast(), token=token)
    assert (status, int(headers["Retry-After"]) > 0) == (503, True), said
    return time.monotonic() - began


async def serves_again_within_s(daemon: Daemon, cp: RecordingPeer, token: str) -> float:
    """Return how long it takes until the same is kept."""
    began = time.monotonic()
    while True:
        status, _, _ = await cp.says(daemon.url, DOOR, forecast(), token=token)
        if status == 204:
            await daemon.answers("/readyz")
            return time.monotonic() - began
        assert status == 503 and time.monotonic() < began + 20, daemon.said()
        await asyncio.sleep(0.05)


@asynccontextmanager
async def under_load(daemon: Daemon, cp: RecordingPeer, token: str) -> AsyncIterator[set[str]]:
    """Speak all the time meanwhile; lend the ids of what was acknowledged."""
    kept: set[str] = set()

    async def speak() -> None:
        for number in itertools.count(1):
            said = forecast(number % 7)
            status, _, _ = await cp.says(
                daemon.url, DOOR, said, token=token, request_id=f"load-{number}"
            )
            assert status in (204, 503)
            if status == 204:
                kept.add(f"load-{number}")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(speak())
    yield kept
    assert not task.done(), task.exception()
    task.cancel()


def written(url: str) -> set[str]:
    with psycopg.connect(url) as conn:
        return {id for (id,) in conn.execute("select request_id from forecast")}


def processes(folder: Path) -> list[int]:
    """Return the server's processes."""
    postmaster = int((folder / "cluster" / "postmaster.pid").read_text().split()[0])
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [postmaster, *(pid for pid, parent in parents.items() if parent == postmaster)]
