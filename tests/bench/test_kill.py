"""Hundreds of `kill -9` under load, with real leases: what was lost, doubled, reordered? Counted.

FPD_KILLS is how often (200), FPD_DAEMONS how many daemons share the database (1), FPD_SEED the
dice. Only correctness passes or fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from pathlib import Path

from psycopg import AsyncConnection
from support.crowd import Optimizer, Provider, crowd, judge, says_no_bug
from support.daemon import Daemon, free_port

KILLS = int(os.environ.get("FPD_KILLS", "200"))
DAEMONS = int(os.environ.get("FPD_DAEMONS", "1"))
SEED = int(os.environ.get("FPD_SEED", "1"))
PROVIDERS = 4

CONFIG = """\
data_dir = "{folder}/data"
key_file = "{key}"
[http]
listen = "127.0.0.1:{port}"
[database]
url = "{database}"
[mqtt]
port = 0
[oscp]
require_https = false
allowed_networks = ["127.0.0.0/8"]
[log]
level = "warning"
"""


def make(folder: Path, database: str, number: int) -> Daemon:
    own = folder / f"daemon-{number}"
    own.mkdir()
    port = free_port()
    config = own / "fpd.toml"
    config.write_text(
        CONFIG.format(folder=own, key=folder / "fpd.key", port=port, database=database)
    )
    return Daemon(config, f"http://127.0.0.1:{port}", own / "log")


async def kill(daemons: list[Daemon], rng: random.Random) -> Counter[str]:
    """Kill one daemon after the other at any moment, also while it starts."""
    moments: Counter[str] = Counter()
    for _ in range(KILLS):
        daemon = rng.choice(daemons)
        await asyncio.sleep(rng.uniform(0, 1.0))
        await daemon.kill()
        moments["running"] += 1
        if rng.random() < 0.2:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(daemon.start(), rng.uniform(0.3, 2.0))
            await daemon.kill()
            moments["starting"] += 1
        await daemon.start()
    return moments


async def test_nothing_is_lost_by_killing(database_url: str, tmp_path: Path) -> None:
    rng = random.Random(SEED)
    daemons = [make(tmp_path, database_url, number) for number in range(DAEMONS)]
    try:
        for daemon in daemons:
            await daemon.start()
        await daemons[0].log_in()
        started = time.monotonic()
        async with crowd(daemons, count=PROVIDERS, restless=0.05, seed=SEED) as (cps, co):
            stop = asyncio.Event()
            loads = [asyncio.create_task(p.goes_on(stop, daemons[0])) for p in cps]
            loads.append(asyncio.create_task(_stay(co, stop)))
            moments = await kill(daemons, rng)
            stop.set()
            await asyncio.gather(*loads)
            count = await judge(cps, co, database_url, drained_s=120)
        await _report(cps, co, database_url, moments, time.monotonic() - started)
        print(count)
        says_no_bug(*daemons)
    finally:
        for daemon in daemons:
            if daemon.alive:
                await daemon.kill()


async def _stay(optimizer: Optimizer, stop: asyncio.Event) -> None:
    """Keep the optimizer's promise ahead, so that it never has to be told again."""
    while not stop.is_set():
        assert await optimizer.beats() == 204
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 10)


async def _report(
    providers: list[Provider],
    optimizer: Optimizer,
    database_url: str,
    moments: Counter[str],
    took_s: float,
) -> None:
    async with await AsyncConnection.connect(database_url) as conn:
        cursor = await conn.execute("select count(*) from forecast")
        row = await cursor.fetchone()
    upsets = sum((provider.upsets for provider in providers), Counter())
    tries = sum(provider.tries for provider in providers) + optimizer.tries
    print(f"\nkills: {dict(moments)} of {DAEMONS} daemon(s) in {took_s:.0f} s, seed {SEED}")
    print(f"requests of peers: {tries}; links upset: {dict(upsets)}")
    print(f"rows in the database: {row and row[0]}")
