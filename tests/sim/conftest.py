from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from sim.hands import Hands
from sim.provider import FIRST_TOKEN, TinyProvider
from sim.talk import now

from fpd.sim.capacity_provider import CapacityProvider, CapacityProviderOptions
from fpd.sim.simulator import Simulator


@pytest.fixture
def hands() -> Hands:
    """Wednesday 12 March 2025, 10:07 UTC."""
    return Hands(datetime(2025, 3, 12, 10, 7, tzinfo=UTC))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        yield session


Start = Callable[[Simulator[Any]], Awaitable[str]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts simulators, and stops them when the test is over."""
    started: list[Simulator[Any]] = []

    async def start(simulator: Simulator[Any]) -> str:
        started.append(simulator)
        return await simulator.start()

    yield start
    for simulator in reversed(started):
        await simulator.stop()


@pytest.fixture
async def fp() -> AsyncIterator[TinyProvider]:
    provider = TinyProvider()
    await provider.start()
    yield provider
    await provider.stop()


@pytest.fixture
async def cp(start: Start, fp: TinyProvider) -> CapacityProvider:
    """A provider that has registered and shaken hands."""
    options = CapacityProviderOptions(fp_url=fp.own_url, token=FIRST_TOKEN)
    peer = CapacityProvider(options, clock=now)
    await start(peer)
    assert await peer.changes.until(lambda: peer.link.state == "online", 5)
    return peer
