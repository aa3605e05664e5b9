"""Forecasts a second, kept and passed on, beside what the database itself commits.

All figures of a run come from the same server with fsync on. What counts is the ratio to
single-row commits of as many clients (P), and how near we come to a door that does nothing but
keep. The load runs in a process of its own and takes its share of the machine. Nothing here
passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from bench.machine import cpu_s
from support.daemon import Daemon, free_port
from support.peer import RecordingPeer

from fpd.embedded.binaries import find_binaries
from fpd.embedded.postgres import EmbeddedPostgres

CLIENTS = 16
FOR_S = 5
HOST = "127.0.0.1"

CONFIG = """\
data_dir = "{folder}"
[http]
listen = "127.0.0.1:{port}"
rate_per_token_s = 1000000
rate_burst = 1000000
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


async def pgbench(url: str, folder: Path) -> float:
    """Return single-row commits a second with as many clients (P)."""
    parts = urlsplit(url)
    host = parse_qs(parts.query)["host"][0]
    script = folder / "commit.sql"
    script.write_text("insert into floor values (1);")
    programs = find_binaries(os.environ)
    connection = ["-h", host, "-U", parts.username or "fpd", parts.path.lstrip("/")]
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table floor (n integer)")
    process = await asyncio.create_subprocess_exec(
        str(programs / "pgbench"), "-n", "-f", str(script), "-c", str(CLIENTS), "-j", "1",
        "-T", str(FOR_S), *connection,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    found = re.search(r"tps = ([\d.]+)", out.decode())
    assert process.returncode == 0 and found, out.decode()
    return float(found[1])


@dataclass
class Site:
    """Daemons on one database, and as many providers as there are clients."""

    url: str
    folder: Path
    floor: float
    daemons: list[Daemon] = field(default_factory=list)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def start(self) -> Daemon:
        folder = self.folder / f"daemon-{len(self.daemons)}"
        folder.mkdir()
        port, config = free_port(), folder / "fpd.toml"
        config.write_text(CONFIG.format(folder=self.folder / "data", port=port, database=self.url))
        daemon = await Daemon(config, f"http://{HOST}:{port}", folder / "log").start()
        self.daemons.append(daemon)
        if len(self.daemons) == 1:
            await daemon.log_in()
        return daemon

    async def optimizer(self, port: int) -> int:
        """Register an optimizer that will be at `port`; return its id."""
        daemon = self.daemons[0]
        entity = await daemon.manage("POST", "capacity-optimizers", {"name": "co", "enabled": True})
        async with RecordingPeer("co", port=port) as peer:
            token = await peer.registers(daemon.url, entity["token"])
            await peer.acknowledges(daemon.url, token, 3600)
        return int(entity["configId"])

    async def senders(self, **more: Any) -> list[tuple[str, str]]:
        return [await self._sender(next(self.numbers), more) for _ in range(CLIENTS)]

    async def _sender(self, number: int, more: dict[str, Any]) -> tuple[str, str]:
        daemon, name = self.daemons[0], f"group-{number}"
        entity = await daemon.manage(
            "POST", "capacity-providers", {"name": f"cp {number}", "enabled": True}
        )
        group = {
            "name": name,
            "identifier": name,
            "capacityProviderId": entity["configId"],
            "capacityProviderMeasurementPeriod": "Hour",
            "enabled": True,
        }
        await daemon.manage("POST", "capacity-groups", group | more)
        async with RecordingPeer("cp") as peer:
            token = await peer.registers(daemon.url, entity["token"])
            await peer.shakes_hands(daemon.url, token, 3600)
        return token, name

    async def bare(self, what: str, *, sink_port: int | None = None, **plan: Any) -> None:
        """Tell what a door does in our place that does nothing but keep, and pass on to a sink."""
        port = free_port()
        sink = () if sink_port is None else (str(sink_port),)
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("bare.py")), str(port), self.url, *sink
        )
        try:
            await answers(port)
            said = await self.load(
                doors=[(HOST, port)], pids=[process.pid], sink_port=sink_port, **plan
            )
            self.tell(what, said)
        finally:
            process.terminate()
            await process.wait()
            with psycopg.connect(self.url, autocommit=True) as conn:
                conn.execute("drop table bare")

    async def load(self, *, pids: Sequence[int] = (), **plan: Any) -> dict[str, Any]:
        """Return what the load says, and `cpu_s`: what the doors took, `pids` or the daemons."""
        pids = pids or [daemon.pid for daemon in self.daemons]
        before = sum(map(cpu_s, pids))
        doors = [(HOST, int(daemon.url.rpartition(":")[2])) for daemon in self.daemons]
        path = self.folder / "plan.json"
        path.write_text(json.dumps({"doors": doors, "for_s": FOR_S, **plan}))
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("load.py")), str(path),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        said: dict[str, Any] = json.loads(out)
        assert said["refused"] == {}
        return said | {"cpu_s": sum(map(cpu_s, pids)) - before}

    def tell(self, what: str, said: dict[str, Any]) -> None:
        rate = said["accepted"] / said["took_s"]
        each_ms = 1000 * said["cpu_s"] / said["accepted"]
        print(
            f"{what}: {rate:.0f}/s kept, {rate / self.floor:.3f} P, {_ms(said['answered'])}, "
            f"{each_ms:.2f} ms of CPU each"
        )
        if said["heard"]:
            passed_on = said["heard"] / said["heard_took_s"]
            print(f"  passed on: {passed_on:.0f}/s, from POST to POST {_ms(said['passed_on'])}")


async def answers(port: int) -> None:
    """Wait until somebody listens."""
    async with asyncio.timeout(10):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, port)
                writer.close()
                return
            await asyncio.sleep(0.05)


def _ms(latency: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f} ms" for name, value in latency.items())


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with database(tmp_path) as url:
        floor = await pgbench(url, tmp_path)
        print(f"\nP, single-row commits of {CLIENTS} clients: {floor:.0f}/s")
        site = Site(url, tmp_path, floor)
        await site.start()
        yield site
        for daemon in site.daemons:
            await daemon.terminate()


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[str]:
    server = EmbeddedPostgres(folder / "pg")
    try:
        yield await server.start()
    finally:
        await server.stop()


async def test_forecasts_kept(site: Site) -> None:
    senders = await site.senders()
    for blocks in (2, 96):
        await site.bare(f"a bare door, {blocks} blocks", senders=senders, blocks=blocks)
    site.tell("2 blocks", await site.load(senders=senders))
    site.tell("96 blocks", await site.load(senders=senders, blocks=96))
    many = [*senders, *(await site.senders()), *(await site.senders()), *(await site.senders())]
    site.tell("2 blocks, 64 clients", await site.load(senders=many))
    await site.start()
    site.tell("2 blocks, two daemons", await site.load(senders=senders))


async def test_forecasts_passed_on(site: Site) -> None:
    port = free_port()
    senders = await site.senders(
        capacityOptimizerId=await site.optimizer(port), capacityOptimizerMeasurementPeriod="Hour"
    )
    for rate in (500, None):
        await site.bare(
            f"a bare door, wanted {rate or 'all'}/s", senders=senders, rate=rate, sink_port=port
        )
    for rate in (100, 500, None):
        said = await site.load(senders=senders, rate=rate, sink_port=port)
        site.tell(f"wanted {rate or 'all'}/s", said)
        assert said["heard"] == said["accepted"], "each is heard, once"
