"""What a message of 10,000 blocks costs its sender, and what it costs everybody else meanwhile.

Nothing here passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from support.daemon import Daemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer

DOOR = "update_group_capacity_forecast"


def many(count: int, **changes: Any) -> dict[str, Any]:
    start = datetime.now(UTC).replace(microsecond=0)
    edges = [(start + timedelta(minutes=n)).isoformat() for n in range(count + 1)]
    blocks = [
        {"capacity": n % 50 + 0.5, "phase": "ALL", "unit": "KW", "start_time": a, "end_time": b}
        for n, (a, b) in enumerate(pairwise(edges))
    ]
    return forecast(forecasted_blocks=blocks, **changes)


class Probe:
    """Asks every `every_s` and remembers how long each answer took, s."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self.took: list[float] = []

    async def run(self, ask: Any) -> None:
        asked: set[asyncio.Task[None]] = set()
        try:
            while True:
                task = asyncio.create_task(self._ask(ask))
                asked.add(task)
                task.add_done_callback(asked.discard)
                await asyncio.sleep(self.every_s)
        finally:
            await asyncio.gather(*asked)

    async def _ask(self, ask: Any) -> None:
        began = time.perf_counter()
        await ask()
        self.took.append(time.perf_counter() - began)

    def __str__(self) -> str:
        took = sorted(self.took)
        return (
            f"{len(took)} asked, median {took[len(took) // 2] * 1000:.0f} ms, "
            f"99 % {took[len(took) * 99 // 100] * 1000:.0f} ms, worst {took[-1] * 1000:.0f} ms"
        )


async def measure(daemon: Daemon, title: str, sizes: list[int]) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)

        async def health() -> None:
            async with cp._session.get(f"{daemon.url}/healthz") as answer:
                assert answer.status == 200

        async def small() -> None:
            status, said, _ = await cp.says(
                daemon.url, DOOR, forecast(type="GENERATION"), token=token
            )
            assert status in (204, 429), said

        for size in sizes:
            bodies = [json.dumps(many(size)).encode() for _ in range(3)]
            for name, ask, every_s in (
                ("/healthz", health, 0.005),
                ("a small forecast", small, 0.05),
            ):
                probe = Probe(every_s)
                running = asyncio.create_task(probe.run(ask))
                await asyncio.sleep(0.3)
                took = []
                for body in bodies:
                    began = time.perf_counter()
                    status, said, _ = await cp.says(daemon.url, DOOR, body, token=token)
                    took.append(time.perf_counter() - began)
                    assert status == (204 if size <= 10_000 else 413), said
                await asyncio.sleep(3)  # what it causes
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                each = ", ".join(f"{seconds:.2f}" for seconds in took)
                print(f"\n{title}, {size} blocks: {each} s; {name}: {probe}")


async def test_other_requests_beside_many_blocks(daemon: Daemon) -> None:
    await measure(daemon, "kept and passed on", [1, 10_000, 10_001])


async def test_the_same_with_datum(daemon: Daemon) -> None:
    await daemon.manage("PUT", "settings", {"nodeId": 1})
    await measure(daemon, "published too", [10_000])
