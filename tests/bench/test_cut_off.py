"""Longer trials than the stories have time for: the network swallows, PostgreSQL refuses."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from stories.conftest import make_daemon
from support.daemon import MakeDaemon
from support.outage import at_work, refused_within_s, serves_again_within_s, under_load, written
from support.wire import Wire

from fpd.embedded.postgres import EmbeddedPostgres

__all__ = ["make_daemon"]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    yield server
    await server.stop()


async def test_a_network_that_swallows_everything_holds_nobody_up(
    make_daemon: MakeDaemon, server: EmbeddedPostgres
) -> None:
    async with Wire(await server.start()) as wire:
        daemon = make_daemon(wire.url)
        async with at_work(daemon) as (cp, token):
            wire.cut()
            assert await refused_within_s(daemon, cp, token) < 6
            before = len(cp.at)
            await cp.hears("heartbeat", before + 2)
            wire.mend()
            assert await serves_again_within_s(daemon, cp, token) < 5
            await cp.hears("heartbeat", len(cp.at) + 2)
        assert await daemon.terminate() == 0


async def test_connections_are_ended_or_refused(
    make_daemon: MakeDaemon, server: EmbeddedPostgres
) -> None:
    url = await server.start()
    daemon = make_daemon(url)
    async with at_work(daemon) as (cp, token), under_load(daemon, cp, token) as kept:
        with psycopg.connect(url, autocommit=True) as conn, contextlib.ExitStack() as others:
            end = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> %s"
            conn.execute(end + " and datname = 'fpd'", (conn.info.backend_pid,))
            assert await serves_again_within_s(daemon, cp, token) < 5
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    others.enter_context(contextlib.closing(psycopg.connect(url)))
            conn.execute(end + " and application_name = 'fpd'", (conn.info.backend_pid,))
            await refused_within_s(daemon, cp, token)
            await cp.hears("heartbeat", len(cp.at) + 2)
        assert await serves_again_within_s(daemon, cp, token) < 5
        await cp.hears("heartbeat", len(cp.at) + 2)
    assert kept <= written(url)
