"""Datum keep coming while everything they pass is killed or stopped, again and again.

FPD_ROUNDS chooses how often. The broker is stopped in good order: what mosquitto forgets when it
is killed nobody else can know.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from stories.conftest import make_daemon
from support.daemon import MakeDaemon, free_port
from support.flood import Source, account
from support.mosquitto import MARKS, Mosquitto
from support.waiting import wait_for

from fpd.embedded.postgres import EmbeddedPostgres

__all__ = ["make_daemon"]

ROUNDS = int(os.environ.get("FPD_ROUNDS", "5"))

pytestmark = MARKS


async def test_every_datum_is_accounted_for(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    url = await server.start()
    broker = Mosquitto(tmp_path, free_port(), lines="max_queued_messages 0")
    await broker.start()
    daemon = await make_daemon(url, mqtt=broker.url).start()
    await wait_for(lambda: "mqtt.connected" in daemon.said())
    source = Source(broker.port)
    for number in range(ROUNDS):
        for stopped in ("daemon", "broker", "database", "daemon and database"):
            before = source.count
            await asyncio.sleep(random.uniform(0.3, 1.5))
            if "daemon" in stopped:
                await daemon.kill()
            if stopped == "broker":
                await broker.stop()
            if "database" in stopped:
                await server.stop()
            await asyncio.sleep(random.uniform(0.1, 3.0))
            if "database" in stopped:
                await server.start()
            if stopped == "broker":
                await broker.start()
            if "daemon" in stopped:
                await daemon.start(ready=False)
            print(f"round {number}, without {stopped}: {source.count - before} more")
    count = await source.stop()
    await account(url, count, within_s=120)
    print(f"{count} datum, each of them once")
    assert await daemon.terminate() == 0
    await broker.stop()
    await server.stop()
