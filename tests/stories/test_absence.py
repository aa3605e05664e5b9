"""Whatever the daemon depends on may be away; it says so, waits, and goes on by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.daemon import MakeDaemon, free_port, make_site
from support.messages import forecast
from support.peer import RecordingPeer

from fpd.embedded.broker import EmbeddedBroker
from fpd.embedded.postgres import EmbeddedPostgres


async def test_the_database_is_away_at_the_start_and_later(
    make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    url = await server.start()
    await server.stop()
    daemon = await make_daemon(url).start(ready=False)
    await daemon.answers("/readyz", 503)
    await server.start()
    await daemon.answers("/readyz")
    await daemon.log_in()
    site = await make_site(daemon, optimizer=False)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        await server.stop()
        door = "update_group_capacity_forecast"
        status, said, headers = await cp.says(daemon.url, door, forecast(), token=token)
        assert status == 503 and "database" in said["message"]
        assert int(headers["Retry-After"]) > 0
        await daemon.answers("/healthz")
        await server.start()
        await daemon.answers("/readyz", within_s=5)
        status, _, _ = await cp.says(daemon.url, door, forecast(), token=token)
        assert status == 204
    assert await daemon.terminate() == 0
    await server.stop()
    assert daemon.said().count("database.lost") + daemon.said().count("database.unreachable") <= 4


async def test_the_broker_is_away_and_comes_back(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    port = free_port()
    daemon = await make_daemon(database_url, mqtt=f"mqtt://127.0.0.1:{port}", more="").start(
        ready=False
    )
    await daemon.answers("/readyz", 503)
    broker = EmbeddedBroker("127.0.0.1", port, allow_anonymous=True)
    await broker.start()
    await daemon.answers("/readyz")
    await broker.stop()
    await daemon.answers("/readyz", 503)
    await broker.start()
    await daemon.answers("/readyz")
    assert await daemon.terminate() == 0
    await broker.stop()


async def test_sigterm_drains_and_leaves_nothing_in_doubt(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    daemon = await make_daemon(database_url).start()
    await daemon.log_in()
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        door = "update_group_capacity_forecast"
        requests = [
            cp.says(daemon.url, door, forecast(n, in_hours=n), token=token) for n in range(1, 21)
        ]
        answers = asyncio.gather(*requests, return_exceptions=True)
        await co.hears(door)
        assert await daemon.terminate() == 0
        accepted = [a for a in await answers if not isinstance(a, BaseException) and a[0] == 204]
        await daemon.start()
        await co.hears(door, len(accepted), within_s=15)
        capacities = [h.body["forecasted_blocks"][0]["capacity"] for h in co.of(door)]
        assert sorted(capacities) == sorted(set(capacities)), "a message was sent twice"
