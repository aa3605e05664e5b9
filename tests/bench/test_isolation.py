"""5,000 peers, every fifth of them hostile: what do the healthy ones notice?

Nothing here passes or fails by its speed. FPD_BENCH_PEERS, FPD_BENCH_INTERVAL_S and
FPD_BENCH_FOR_S make it smaller or longer, FPD_BENCH_OWED=0 leaves out what delivery does. What is
wanted: no heartbeat missed, lateness p99 ≤ 250 ms, and a forecast for a healthy optimizer that
waits for nobody. The daemon wants a third of a core for it: on a busy machine the machine is
measured.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from bench.machine import cpu_s, memory_mb
from support.daemon import Daemon, free_port, make_site
from support.messages import forecast
from support.peer import RecordingPeer

from fpd.embedded.postgres import EmbeddedPostgres
from fpd.store.vault import Vault

PEERS = int(os.environ.get("FPD_BENCH_PEERS", "5000"))
INTERVAL_S = float(os.environ.get("FPD_BENCH_INTERVAL_S", "20"))
FOR_S = float(os.environ.get("FPD_BENCH_FOR_S", "60"))
PERIOD_S = 0.8 * INTERVAL_S
OWED = os.environ.get("FPD_BENCH_OWED", "1") != "0"  # are messages owed to the hostile ones
START_S = 5.0  # until the first heartbeat is due
HOSTILE = ("dead", "tarpit", "drip", "reset", "broken", "garbage", "nameless")

CONFIG = """\
data_dir = "{folder}"
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
level = "error"
"""


@asynccontextmanager
async def crowd(notes: Path) -> AsyncIterator[dict[str, int]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "support.multitude", str(notes),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdin and process.stdout
    yield json.loads(await process.stdout.readline())
    process.stdin.close()
    await process.wait()


def address(number: int, ports: dict[str, int]) -> str:
    """Every fifth is hostile, of one kind after the other."""
    at = f"127.1.{number >> 8}.{number & 255}"
    if number % 5:
        return f"http://{at}:{ports['healthy']}/{number}"
    kind = HOSTILE[number // 5 % len(HOSTILE)]
    if kind == "nameless":
        return f"http://peer-{number}.invalid/{number}"
    port = {"dead": 9}.get(kind) or ports[kind]
    return f"{'https' if kind == 'garbage' else 'http'}://{at}:{port}/{number}"


def populate(url: str, vault: Vault, ports: dict[str, int]) -> dict[str, float]:
    """Write the peers down, online, with messages owed to the hostile ones; return when the first
    heartbeat to each healthy one is due.
    """
    now = datetime.now(UTC)
    due = {n: now + timedelta(seconds=START_S + PERIOD_S * n / PEERS) for n in range(1, PEERS + 1)}
    with psycopg.connect(url) as conn, conn.cursor() as cursor:
        cursor.execute("insert into account values (1, %s) on conflict do nothing", (now,))
        sql = """
            copy peer (id, user_id, role, name, enabled, base_url, oscp_version, link,
                       link_changed_at, outbound_token_sealed, heartbeat_interval_s, offline_at,
                       created_at, modified_at) from stdin
        """
        with cursor.copy(sql) as copy:
            for n in due:
                copy.write_row(
                    (100_000 + n, 1, "CapacityOptimizer", f"peer {n}", True, address(n, ports),
                     "2.0", "online", now, vault.seal(f"token {n}"), INTERVAL_S,
                     now + timedelta(hours=1), now, now)
                )  # fmt: skip
        with cursor.copy("copy heartbeat_due (peer_id, due_at) from stdin") as copy:
            for n, at in due.items():
                copy.write_row((100_000 + n, at))
        cursor.execute(
            """
            insert into outbox (peer_id, lane, operation, request_id, body, created_at, due_at,
                                expires_at)
            select id, 'group:0', 'update_group_capacity_forecast', 'bench-' || id, '{}',
                   %(now)s, %(now)s, %(now)s + interval '1 hour'
              from peer where id > 100000 and id %% 5 = 0 and %(owed)s
            """,
            {"now": now, "owed": OWED},
        )
    return {str(n): at.timestamp() for n, at in due.items() if n % 5}


def used(pid: int) -> tuple[float, float]:
    """Return CPU seconds and resident MB of a process."""
    return cpu_s(pid), memory_mb(pid)


def lateness(
    arrived: dict[str, list[float]], due: dict[str, float], *, since: float, until: float
) -> tuple[list[float], int, int]:
    """Return how late each heartbeat came (s), how many never did, and how many came besides."""
    late, missed, besides = [], 0, 0
    for name, first in due.items():
        slots = itertools.takewhile(
            lambda slot: slot < until, (first + k * PERIOD_S for k in itertools.count())
        )
        for slot in slots:
            if slot < since:
                continue
            near = [at - slot for at in arrived[name] if abs(at - slot) < PERIOD_S / 2]
            missed += not near
            besides += max(len(near) - 1, 0)
            late += near[:1]
    return late, missed, besides


def read(notes: Path) -> dict[str, list[float]]:
    noted = defaultdict(list)
    for line in notes.read_text().splitlines():
        name, _, value = line.partition(" ")
        noted[name].append(float(value))
    return noted


def told(what: str, seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p50, p99 = (ordered[min(int(len(ordered) * q), len(ordered) - 1)] for q in (0.5, 0.99))
    return (
        f"{what}: {len(ordered)}, p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, "
        f"max {ordered[-1] * 1e3:.0f} ms"
    )


@asynccontextmanager
async def chain(daemon: Daemon) -> AsyncIterator[tuple[RecordingPeer, RecordingPeer, str]]:
    """A healthy provider and optimizer around one group, and the provider's token."""
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        yield cp, co, token


async def deliveries(
    daemon: Daemon, cp: RecordingPeer, co: RecordingPeer, token: str, *, for_s: float
) -> list[float]:
    """Return how long forecasts took from a provider through us to an optimizer, one a second."""
    took: list[float] = []
    until = time.monotonic() + for_s
    door = "update_group_capacity_forecast"
    for number in itertools.count(1):
        began = time.monotonic()
        if began > until:
            break
        said = forecast(number % 9, in_hours=number % 100)
        status, _, _ = await cp.says(daemon.url, door, said, token=token)
        assert status == 204
        await co.hears(door, number, within_s=60)
        took.append(time.monotonic() - began)
        await asyncio.sleep(1)
    return took


async def test_a_hostile_fifth(tmp_path: Path) -> None:
    notes, port = tmp_path / "notes", free_port()
    server = EmbeddedPostgres(tmp_path / "pg")
    url = await server.start()
    config = tmp_path / "fpd.toml"
    config.write_text(CONFIG.format(folder=tmp_path / "data", port=port, database=url))
    daemon = Daemon(config, f"http://127.0.0.1:{port}", tmp_path / "log")
    await daemon.command("migrate")
    await daemon.log_in()
    await daemon.start()
    try:
        async with crowd(notes) as ports, chain(daemon) as (cp, co, token):
            due = populate(url, Vault.open(tmp_path / "data" / "fpd.key"), ports)
            await asyncio.sleep(START_S)
            since, began, (cpu, _) = time.time(), time.monotonic(), used(daemon.pid)
            took = await deliveries(daemon, cp, co, token, for_s=FOR_S)
            until, took_s = time.time() - 1, time.monotonic() - began
            cpu_after, rss_mb = used(daemon.pid)
    finally:
        await daemon.kill()
        await server.stop()
    noted = read(notes)
    late, missed, besides = lateness(noted, due, since=since, until=until)
    print(
        f"\n{PEERS} peers, a fifth hostile, heartbeats each {PERIOD_S:g} s, {took_s:.0f} s\n"
        f"{told('healthy heartbeats', late)}; missed {missed}, besides {besides}\n"
        f"{told('timers of the peers, for comparison', noted['tick'])}\n"
        f"{told('forecasts to a healthy optimizer', took)}\n"
        f"daemon: CPU {(cpu_after - cpu) / took_s:.0%}, memory {rss_mb:.0f} MB"
    )
    assert late and took
