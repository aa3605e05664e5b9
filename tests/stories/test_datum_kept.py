"""Datum keep coming while the daemon is killed and the broker goes; none is lost or doubled."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.daemon import MakeDaemon, free_port
from support.flood import Source, account
from support.mosquitto import MARKS, Mosquitto
from support.waiting import wait_for

pytestmark = MARKS


async def test_killed_in_the_middle(
    make_daemon: MakeDaemon, database_url: str, tmp_path: Path
) -> None:
    broker = Mosquitto(tmp_path, free_port(), lines="max_queued_messages 0")
    await broker.start()
    daemon = await make_daemon(database_url, mqtt=broker.url).start()
    await wait_for(lambda: "mqtt.connected" in daemon.said())
    source = Source(broker.port)
    await wait_for(lambda: source.count >= 400)
    await daemon.kill()
    await wait_for(lambda: source.count >= 800)
    await daemon.start(ready=False)
    await wait_for(lambda: source.count >= 1200)
    await broker.stop()
    await asyncio.sleep(0.3)
    await broker.start()
    before = source.count
    await wait_for(lambda: source.count >= before + 400)
    await account(database_url, await source.stop())
    assert await daemon.terminate() == 0
    await broker.stop()
