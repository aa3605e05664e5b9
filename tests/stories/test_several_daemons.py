"""Several daemons on one database: each message once, one link for all, no claim orphaned."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from support.crowd import DOOR, crowd, judge, lapse, owed, says_no_bug
from support.daemon import MANAGE, Daemon, MakeDaemon
from support.waiting import wait_for


@pytest.fixture
async def two(make_daemon: MakeDaemon, database_url: str) -> list[Daemon]:
    first = make_daemon(database_url)
    second = make_daemon(database_url)
    key = first.config.parent / "fpd.key"  # what one has sealed the other opens
    for daemon in (first, second):
        daemon.config.write_text(f'key_file = "{key}"\n{daemon.config.read_text()}')
    await asyncio.gather(first.start(), second.start())
    await first.log_in()
    second.bearer = first.bearer
    return [first, second]


async def revoked_at_both(two: list[Daemon]) -> None:
    """A token that both daemons have just seen creates nothing once it is revoked at a terminal."""
    made = json.loads(await two[0].command("token", "create", "--user-id", "2", "--json"))
    headers = {"Authorization": f"Bearer {made['bearer']}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def creates(door: Daemon) -> int:
            url = f"{door.url}{MANAGE}/capacity-providers"
            async with session.post(url, json={"name": "Lines Co."}) as answer:
                return answer.status

        assert [await creates(door) for door in two * 2] == [201] * 4
        await two[0].command("token", "revoke", made["id"])
        assert [await creates(door) for door in two * 2] == [401] * 4


async def test_two_daemons_do_the_work_of_one(two: list[Daemon], database_url: str) -> None:
    await revoked_at_both(two)
    async with crowd(two, count=3, restless=0) as (providers, optimizer):
        tokens_first = [p.first for p in providers]
        for provider, first in zip(providers, tokens_first, strict=True):
            # The token was rotated at one door; it is dead at both.
            for door in two:
                status, _, _ = await provider.says(door.url, "handshake", {}, token=first)
                assert status == 403
        for provider in providers:
            await provider.shakes(interval_s=1)
        beaten = len(providers[0].of("heartbeat"))
        asked_at = asyncio.get_running_loop().time()
        for number in range(40):
            await asyncio.gather(*(p.sends(number) for p in providers))
        count = await judge(providers, optimizer, database_url, drained_s=10, probe=False)
        assert (count.accepted, count.delivered, count.repeated) == (120, 120, 0)
        await asyncio.sleep(max(0.0, asked_at + 3.5 - asyncio.get_running_loop().time()))
        took_s = asyncio.get_running_loop().time() - asked_at
        beats = len(providers[0].of("heartbeat")) - beaten
        assert beats <= took_s / 0.8 + 2, "as often as one daemon would"
        assert beats >= took_s / 0.8 - 2
        await dies_with_claims(two, providers[0], optimizer, database_url)
    says_no_bug(*two)


async def dies_with_claims(two: list[Daemon], provider: Any, optimizer: Any, url: str) -> None:
    """One daemon is killed while the optimizer keeps it waiting; the other takes over."""
    heard = len(optimizer.of(DOOR))
    provider.doors = [two[0].url]  # who takes a message in is the first to try to deliver it
    async with held_up(optimizer):
        await provider.sends(1000)
        await wait_for(lambda: len(optimizer.of(DOOR)) > heard, what="the message to be on its way")
        await two[0].kill()
    ((_, attempts, leased_until, _),) = await owed(url)
    provider.doors = [two[1].url]
    assert attempts == 1 and leased_until is not None
    await asyncio.sleep(1.2)  # the other looks once a second
    assert len(optimizer.of(DOOR)) == heard + 1, "the claim of the dead is respected"
    await lapse(url)
    await wait_for(lambda: not_owed(url), timeout=10)
    same = {(h.raw, h.headers["x-request-id"]) for h in optimizer.of(DOOR)[heard:]}
    assert len(same) == 1, "the same bytes under the same id"


async def not_owed(url: str) -> bool:
    return not await owed(url)


@contextlib.asynccontextmanager
async def held_up(optimizer: Any) -> AsyncIterator[None]:
    """Let the optimizer take messages in and not answer them."""
    optimizer.hold.clear()
    try:
        yield
    finally:
        optimizer.hold.set()
