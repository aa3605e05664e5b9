"""`fpd bluegen …`: an operator's commands for fuel cells, against a simulated service."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.terminal import Terminal

from fpd.sim.bluegen import BlueGen, BlueGenOptions

CONFIG = """\
data_dir = "{folder}/data"
[database]
url = "{url}"
[[device]]
name = "cell-1"
type = "bluegen"
base_url = "{service}"
username = "demo"
password = "demo"
unit_id = 249
"""


@pytest.fixture
async def service() -> AsyncIterator[BlueGen]:
    simulator = BlueGen(BlueGenOptions(unit=(249,)), clock=lambda: datetime.now(UTC))
    await simulator.start()
    yield simulator
    await simulator.stop()


@pytest.fixture
def fpd(tmp_path: Path, database_url: str, service: BlueGen) -> Terminal:
    terminal = Terminal()
    terminal.config = tmp_path / "fpd.toml"
    terminal.config.write_text(
        CONFIG.format(folder=tmp_path, url=database_url, service=service.url)
    )
    return terminal


def configure(fpd: Terminal, password: str) -> None:
    """Have the printed lines in place of the password."""
    text = fpd.config.read_text()
    fpd.config.write_text(text.replace('password = "demo"', password))


async def test_an_experiment_is_begun_with_consent_only(fpd: Terminal, service: BlueGen) -> None:
    refused = await fpd("bluegen", "calibrate", "cell-1", said="n\n")
    assert refused.code == 1
    assert "1460 W" in refused.out
    assert service.state()["profiles"] == {}
    begun = await fpd("bluegen", "calibrate", "cell-1", "--yes", "--detach")
    assert (begun.code, begun.err) == (0, "")
    assert "written, assigned and read back" in begun.out
    again = await fpd("bluegen", "calibrate", "cell-1", "--yes")
    assert again.code == 1
    assert "an experiment is running" in again.err
    shown = json.loads((await fpd("bluegen", "profiles", "--json")).out)
    assert [(row["ours"], row["units"]) for row in shown] == [(True, [249]), (True, [])]
    (status,) = json.loads((await fpd("bluegen", "status", "--json")).out)
    assert status["calibrationEndsAt"] > status["assignedAt"]
    assert status["account"]["requests"] == service.state()["requests_today"]


async def test_units_and_the_unknown(fpd: Terminal) -> None:
    assert "no daemon has spoken to it yet" in (await fpd("bluegen", "status")).out
    assert "Power Export" in (await fpd("bluegen", "units")).out
    wrong = await fpd("bluegen", "uninstall", "cell-9", "--yes")
    assert wrong.code == 1
    assert "cell-1" in wrong.err


async def test_a_password_is_printed_encrypted_only(fpd: Terminal, service: BlueGen) -> None:
    found = await fpd("bluegen", "encrypt", "cell-1", said="demo\ndemo\n")
    assert found.code == 0, found.err
    stored = re.search(r'^password = "(.*)"$', found.out, re.MULTILINE)
    assert stored is not None
    assert service.account.login("demo", stored[1], plain_allowed=False)
    configure(fpd, "\n".join(line for line in found.out.splitlines() if " = " in line))
    service.switch({"plain_refused": True})
    assert "Power Export" in (await fpd("bluegen", "units")).out


async def test_unlocking_a_stop(fpd: Terminal, service: BlueGen) -> None:
    service.switch({"naughty_ip": True})
    for _ in range(2):
        stopped = await fpd("bluegen", "units")
        assert stopped.code == 1
        assert "Naughty IP" in stopped.err
    service.switch(None)
    assert (await fpd("bluegen", "units")).code == 1, "nothing is tried by itself"
    assert (await fpd("bluegen", "unlock", "cell-1")).code == 0
    assert (await fpd("bluegen", "units")).code == 0
