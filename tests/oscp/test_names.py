"""No name of a peer can hold up the name of another."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from socket import AF_INET

import pytest
from aiohttp.abc import ResolveResult
from support.waiting import wait_for

from fpd.oscp import names
from fpd.oscp.names import Names


class Servers:
    """Name servers: `hang…` is not answered before `over`, `gone…` does not exist."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.over = threading.Event()

    def __call__(self, host: str, port: int, family: int) -> list[ResolveResult]:
        self.asked[host] += 1
        if host.startswith("hang"):
            self.over.wait(10)
        if host.startswith(("gone", "hang")):
            raise OSError("no such name")
        return [
            ResolveResult(
                hostname=host, host="192.0.2.1", port=port, family=AF_INET, proto=0, flags=0
            )
        ]


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
async def resolver(servers: Servers) -> AsyncIterator[Names]:
    resolver = Names(servers)
    yield resolver
    servers.over.set()
    await resolver.close()


async def test_a_name_is_asked_for_once(resolver: Names, servers: Servers) -> None:
    found = await asyncio.gather(*(resolver.resolve("peer.example", 443) for _ in range(5)))
    assert {result[0]["host"] for result in found} == {"192.0.2.1"}
    await resolver.resolve("peer.example", 443)
    assert servers.asked == {"peer.example": 1}


async def test_a_name_that_does_not_exist_is_left_alone_for_a_while(
    resolver: Names, servers: Servers
) -> None:
    for _ in range(3):
        with pytest.raises(OSError, match=r"gone\.example cannot be resolved: no such name"):
            await resolver.resolve("gone.example", 443)
    assert servers.asked == {"gone.example": 1}


async def test_names_that_hang_do_not_hold_up_others(resolver: Names, servers: Servers) -> None:
    hanging = [asyncio.create_task(resolver.resolve(f"hang{n}", 443)) for n in range(60)]
    await wait_for(lambda: len(servers.asked) == 60)
    began = time.monotonic()
    assert await resolver.resolve("peer.example", 443)
    assert time.monotonic() - began < 1
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_what_is_known_is_used_while_the_servers_hang(
    resolver: Names, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = await resolver.resolve("peer.example", 443)
    hanging = [asyncio.create_task(resolver.resolve(f"hang{n}", 443)) for n in range(200)]
    await wait_for(lambda: len(servers.asked) >= 60)
    monkeypatch.setattr(names, "_FRESH_S", 0.0)  # it is old by now
    async with asyncio.timeout(1):
        assert await resolver.resolve("peer.example", 443) == known
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
