"""The database goes and comes back; peers notice as little as possible."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.daemon import MakeDaemon
from support.outage import (
    PERIOD_S,
    at_work,
    processes,
    refused_within_s,
    serves_again_within_s,
    under_load,
    written,
)
from support.waiting import wait_for

from fpd.embedded.postgres import EmbeddedPostgres


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    yield server
    await server.stop()


async def test_the_server_stops_and_starts_under_load(
    make_daemon: MakeDaemon, server: EmbeddedPostgres
) -> None:
    url = await server.start()
    daemon = make_daemon(url)
    async with at_work(daemon) as (cp, token):
        async with under_load(daemon, cp, token) as kept:
            await server.stop()
            assert await refused_within_s(daemon, cp, token) < 2
            before = len(cp.at)
            await asyncio.sleep(3 * PERIOD_S)
            assert len(cp.at) >= before + 2, "heartbeats go on from memory"
            await server.start()
            assert await serves_again_within_s(daemon, cp, token) < 5
            count = len(kept)
            await wait_for(lambda: len(kept) > count + 5)
        assert kept <= written(url), "acknowledged and lost"
        await cp.hears("heartbeat", len(cp.at) + 2)


async def test_a_server_that_hangs_holds_nobody_up(
    make_daemon: MakeDaemon, server: EmbeddedPostgres, tmp_path: Path
) -> None:
    daemon = make_daemon(await server.start())
    async with at_work(daemon) as (cp, token):
        stopped = processes(tmp_path / "pg")
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert await refused_within_s(daemon, cp, token) < 6
            assert await refused_within_s(daemon, cp, token) < 1
            await daemon.answers("/readyz", 503)
            await daemon.answers("/healthz")
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert await serves_again_within_s(daemon, cp, token) < 5
        await cp.hears("heartbeat", len(cp.at) + 2)
