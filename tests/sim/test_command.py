from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from fpd.sim.command import sim
from fpd.sim.roles import ROLES

TOOLS = SimpleNamespace(clock=lambda: datetime.now(UTC))
MAIN = """
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from fpd.sim.command import sim
sim(obj=SimpleNamespace(clock=lambda: datetime.now(UTC)))
"""


@asynccontextmanager
async def playing(*arguments: str, **environ: str) -> AsyncIterator[dict[str, Any]]:
    """Run a simulator as a process of its own; it must end well when asked to."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, *arguments,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, **environ},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield json.loads(await asyncio.wait_for(process.stdout.readline(), 10))
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = await asyncio.wait_for(process.communicate(), 10)
    assert (process.returncode, rest) == (0, b"")


async def test_a_simulator_says_where_it_is_and_ends_when_told(
    http: aiohttp.ClientSession,
) -> None:
    async with playing("battery", "--usoc", "70", "--quirk", "consumption_w=800") as line:
        assert line["role"] == "battery"
        async with http.get(f"{line['url']}/api/v1/status") as response:
            told = await response.json()
        assert (told["USOC"], told["Consumption_W"]) == (70, 800)


async def test_secrets_come_from_the_environment(http: aiohttp.ClientSession) -> None:
    options = ("--api", "v2", "--port", "0")
    async with playing("battery", *options, FPD_SIM_AUTH_TOKEN="a-secret-token") as line:
        url, headers = f"{line['url']}/api/v2/latestdata", {"Auth-Token": "a-secret-token"}
        async with http.get(url, headers=headers) as response:
            assert response.status == 200


@pytest.mark.parametrize("role", ROLES)
def test_help_shows_an_example_the_defaults_and_the_quirks(role: str) -> None:
    result = CliRunner().invoke(sim, [role, "--help"], obj=TOOLS, terminal_width=200)
    assert result.exit_code == 0
    assert f"fpd sim {role} " in result.output
    assert "[default: 127.0.0.1]" in result.output
    assert "tarpit: take every request and never answer" in result.output


def test_every_role_is_listed() -> None:
    result = CliRunner().invoke(sim, ["--help"], obj=TOOLS)
    assert all(role in result.output for role in ROLES)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["battery", "--quirk", "tarpid=true"], "no quirk is called tarpid"),
        (["battery", "--api", "v3"], "'v3' is not one of 'v1', 'v2', 'both'"),
        (["battery", "--tz", "Mars/Olympus"], "no time zone is called 'Mars/Olympus'"),
        (["site", "--load", "heatpump"], "heatpump is not SOURCE=WATTS"),
        (["bluegen", "--host", "192.0.2.1"], "bluegen: "),
    ],
)
def test_what_cannot_be_meant_is_said(arguments: Sequence[str], complaint: str) -> None:
    result = CliRunner().invoke(sim, list(arguments), obj=TOOLS)
    assert result.exit_code != 0
    assert complaint in result.output
