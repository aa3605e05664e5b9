"""The real daemon publishing to a real broker while both are stopped and killed.

A subscriber of another make counts. What mosquitto has acknowledged and loses by its own kill -9
is told, not judged; everything else is heard at least once and in order.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import psycopg
import pytest
from support.daemon import MakeDaemon, free_port
from support.listener import Listener, in_order
from support.mosquitto import MARKS, Mosquitto
from support.waiting import wait_for

pytestmark = MARKS

COUNT = int(os.environ.get("FPD_MESSAGES", "60000"))
BREAKS = int(os.environ.get("FPD_KILLS", "6"))
TOPICS = 20


async def owe(url: str) -> None:
    """Owe all messages, some at a time, for about as long as things break."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        part = COUNT // 100
        for first in range(0, COUNT, part):
            await conn.execute(
                """
                insert into publication (topic, payload, created_at)
                select 'x/' || n %% %s, convert_to(n::text, 'UTF8'), now()
                  from generate_series(%s::int, %s::int - 1) as n order by n
                """,
                (TOPICS, first, min(first + part, COUNT)),
            )
            await asyncio.sleep(0.02 * BREAKS)


@pytest.mark.parametrize("how", ["daemon killed", "broker stopped", "broker killed"])
async def test_everything_is_heard_at_least_once_and_in_order(
    how: str,
    make_daemon: MakeDaemon,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = int(os.environ.get("FPD_SEED", "0")) or random.randrange(10**6)
    chance = random.Random(seed)
    broker = Mosquitto(tmp_path, free_port(), lines="max_queued_messages 0")
    await broker.start()
    listener = Listener(broker, "x/#", tmp_path)
    await listener.start()
    daemon = await make_daemon(database_url, mqtt=broker.url).start()
    owing = asyncio.create_task(owe(database_url))
    try:
        for _ in range(BREAKS):
            await asyncio.sleep(chance.uniform(0.3, 1.5))
            if how == "daemon killed":
                await daemon.kill()
                await daemon.start()
            else:
                await (broker.stop() if how == "broker stopped" else broker.kill())
                await asyncio.sleep(chance.uniform(0, 1))
                await broker.start()
        await owing
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:

            async def published() -> bool:
                found = await conn.execute("select exists (select from publication)")
                return await found.fetchone() == (False,)

            async with asyncio.timeout(60):
                while not await published():
                    await asyncio.sleep(0.1)
        if how != "broker killed":
            await wait_for(lambda: listener.count() == COUNT, timeout=20)
        else:
            await asyncio.sleep(2)
        heard = listener.numbers()
        again = sum(map(len, heard.values())) - listener.count()
        with capsys.disabled():
            print(
                f"\n{how} {BREAKS} times (seed {seed}): {listener.count()} of {COUNT} heard, "
                f"{again} of them again"
            )
        assert all(in_order(numbers) for numbers in heard.values())
        assert listener.count() > COUNT * 0.9
    finally:
        owing.cancel()
        await asyncio.wait([owing])
        await listener.stop()
        await broker.stop()
