"""Killed, cut off and without its database, under load: nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

from support.cables import Cable, cable_to, through
from support.crowd import Optimizer, crowd, judge, lapse, says_no_bug, soon
from support.daemon import Daemon, MakeDaemon

from fpd.embedded.postgres import EmbeddedPostgres


async def test_a_daemon_that_is_killed_again_and_again(daemon: Daemon, database_url: str) -> None:
    rng = random.Random(7)
    async with crowd([daemon], count=3, restless=0.1) as (providers, optimizer):
        stop = asyncio.Event()
        loads = [asyncio.create_task(p.goes_on(stop, daemon)) for p in providers]
        for _ in range(3):
            await asyncio.sleep(rng.uniform(0.05, 0.5))
            await daemon.kill()
            await lapse(database_url)
            await daemon.start()
        stop.set()
        await asyncio.gather(*loads)
        count = await judge(providers, optimizer, database_url, drained_s=20)
        assert count.accepted > 5
    says_no_bug(daemon)


async def test_a_database_that_stops_and_cables_that_are_cut(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """Every cable suffers everything: from the peers, to the optimizer, to the database."""
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    url = await server.start()
    async with contextlib.AsyncExitStack() as stack:
        to_database = await stack.enter_async_context(cable_to(url))
        daemon = await make_daemon(through(to_database, url)).start()
        stack.push_async_callback(daemon.kill)
        await daemon.log_in()
        inward = await stack.enter_async_context(Cable(("127.0.0.1", port_of(daemon.url))))
        providers, optimizer = await stack.enter_async_context(
            crowd([daemon], count=2, restless=0.02)
        )
        outward = await stack.enter_async_context(Cable(("127.0.0.1", optimizer.port)))
        await move(optimizer, outward.port)
        for provider in providers:
            provider.doors = [f"http://127.0.0.1:{inward.port}"]
        stop = asyncio.Event()
        loads = [asyncio.create_task(p.goes_on(stop)) for p in providers]
        cables = (inward, outward, to_database)
        for cable in cables:
            await suffer(cable)
        await server.stop()
        await asyncio.sleep(0.2)
        await server.start()
        for cable in cables:
            cable.swallowing = True
        await asyncio.sleep(0.3)
        for cable in cables:
            cable.mend()
        await daemon.answers("/readyz")
        stop.set()
        await asyncio.gather(*loads)
        assert all(cable.lost >= 1 for cable in cables), "an answer was lost on each"
        await soon(url)
        count = await judge(providers, optimizer, url, drained_s=20)
        assert count.accepted > 5 and count.repeated >= 1
        says_no_bug(daemon)
    await server.stop()


async def suffer(cable: Cable) -> None:
    """Lose answers, cut, close one half, be slow; whole again in the end."""
    cable.lost_answers = 5
    await asyncio.sleep(0.3)
    cable.cut()
    await asyncio.sleep(0.1)
    cable.mend()
    await asyncio.sleep(0.2)
    cable.half_close()
    cable.delay_s = 0.02
    await asyncio.sleep(0.2)
    cable.mend()


async def move(peer: Optimizer, port: int) -> None:
    """Have the daemon reach the peer under another port."""
    peer.advertised = port
    await peer.moves()
    await peer.acknowledges_newest()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
