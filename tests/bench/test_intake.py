"""How many forecasts a second are accepted durably, beside what the database itself commits.

Both figures come from the same run on the same server with fsync on; the ratio is what counts.
Nothing here passes or fails by its speed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import msgspec
import psycopg
from support.daemon import Daemon, free_port
from support.peer import RecordingPeer

from fpd.embedded.binaries import find_binaries
from fpd.embedded.postgres import EmbeddedPostgres

CLIENTS = 16
FOR_S = 5

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

    async def run(program: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(programs / program), *arguments, *connection,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()

    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create table floor (n integer)")
    said = await run(
        "pgbench", "-n", "-f", str(script), "-c", str(CLIENTS), "-j", "1", "-T", str(FOR_S)
    )
    found = re.search(r"tps = ([\d.]+)", said)
    assert found, said
    return float(found[1])


def forecast(group: str, number: int) -> bytes:
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=number % 1000)
    middle, end = start + timedelta(minutes=15), start + timedelta(minutes=30)
    blocks = [
        {"capacity": 3.5, "phase": "ALL", "unit": "KW", "start_time": a, "end_time": b}
        for a, b in ((start, middle), (middle, end))
    ]
    return msgspec.json.encode(
        {"group_id": group, "type": "CONSUMPTION", "forecasted_blocks": blocks}
    )


async def test_durable_forecast_intake(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg")
    url = await server.start()
    floor = await pgbench(url, tmp_path)
    port = free_port()
    config = tmp_path / "fpd.toml"
    config.write_text(CONFIG.format(folder=tmp_path / "data", port=port, database=url))
    daemon = await Daemon(config, f"http://127.0.0.1:{port}", tmp_path / "log").start()
    try:
        await daemon.log_in()
        rate = await intake(daemon)
    finally:
        await daemon.terminate()
        await server.stop()
    print(
        f"\nforecasts of 2 blocks: {rate:.0f}/s; single-row commits: {floor:.0f}/s; "
        f"ratio {rate / floor:.2f}"
    )
    assert rate > 0


async def intake(daemon: Daemon) -> float:
    """Return accepted forecasts a second from as many providers at once."""
    numbers = itertools.count()
    accepted = 0

    async def provider(index: int, session: aiohttp.ClientSession) -> None:
        nonlocal accepted
        entity = await daemon.manage(
            "POST", "capacity-providers", {"name": f"cp {index}", "enabled": True}
        )
        group = {
            "name": f"group {index}",
            "identifier": f"group-{index}",
            "capacityProviderId": entity["configId"],
            "capacityProviderMeasurementPeriod": "Hour",
            "enabled": True,
        }
        await daemon.manage("POST", "capacity-groups", group)
        async with RecordingPeer("cp") as peer:
            token = await peer.registers(daemon.url, entity["token"])
            await peer.shakes_hands(daemon.url, token)
            until = time.monotonic() + FOR_S
            while time.monotonic() < until:
                number = next(numbers)
                async with session.post(
                    f"{daemon.url}/oscp/fp/2.0/update_group_capacity_forecast",
                    data=forecast(f"group-{index}", number),
                    headers={
                        "Authorization": f"Token {token}",
                        "X-Request-ID": f"bench-{number}",
                        "Content-Type": "application/json",
                    },
                ) as answer:
                    assert answer.status == 204, await answer.text()
                accepted += 1

    async with aiohttp.ClientSession() as session:
        started = time.monotonic()
        await asyncio.gather(*(provider(index, session) for index in range(CLIENTS)))
        return accepted / (time.monotonic() - started)
