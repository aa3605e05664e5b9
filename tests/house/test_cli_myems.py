"""`fpd myems …` against a simulated server: what it has, pasted, is a configuration that works."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from fpd.adapters import ability
from fpd.cli import main
from fpd.config_file import load
from fpd.domain.control.ability import Adjustable, Storage
from fpd.sim.myems import MyEms, MyEmsOptions

Fpd = Callable[..., str]


@pytest.fixture
def server() -> Iterator[MyEms]:
    """A server in a loop of its own, for commands have one, too."""
    sim = MyEms(MyEmsOptions(utc_offset="-03:30"), clock=lambda: datetime.now(UTC))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(sim.start(), loop).result(10)
    yield sim
    asyncio.run_coroutine_threadsafe(sim.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def fpd(server: MyEms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fpd:
    (tmp_path / "password").write_text("!MyEMS1\n")
    monkeypatch.setenv("FPD_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str, exit_code: int = 0) -> str:
        account = ("--username", "administrator", "--password-file", str(tmp_path / "password"))
        came = CliRunner().invoke(
            main, ["myems", arguments[0], "--base-url", server.url, *account, *arguments[1:]]
        )
        assert came.exit_code == exit_code, came.output
        return came.output

    return run


def test_what_is_discovered_is_a_configuration(fpd: Fpd, server: MyEms, tmp_path: Path) -> None:
    text = fpd("discover", "--node-id", "7")
    (tmp_path / "myems.key").write_text("fpd-key")
    text = text.replace("/etc/fpd/", f"{tmp_path}/").replace('"fpd"', '"administrator"')
    (tmp_path / "myems.password").write_text("!MyEMS1")
    file = tmp_path / "config.toml"
    file.write_text(
        "\n".join(line.removeprefix("#") if (line.startswith("#") and "= " in line[:30])
                  or line == "#[[device]]" else line for line in text.splitlines())
    )  # fmt: skip
    config = load(file, {"FPD_DATA_DIR": str(tmp_path)})
    (platform,) = config.platforms
    assert platform.utc_offset == "-03:30" and platform.api_key == "fpd-key"
    rows = {(row.meter, row.point, row.virtual_meter): row for row in platform.stream}
    assert len(rows) == 16
    power, energy = rows[8, 18, None], rows[8, None, None]
    assert (power.unit, power.property_name, power.property_class, power.multiplier) == (
        "W", "watts", "i", 1.0,
    )  # fmt: skip
    assert (energy.unit, energy.property_class, energy.multiplier) == ("Wh", "a", 1.0)
    assert rows[6, 13, None].high == 100 and rows[6, 17, None].property_class == "s"
    assert power.key == (1, 7, "myems/meter/8")
    battery, cell = config.devices
    assert (battery.type, battery.name) == ("myems", "battery-1")
    assert isinstance(ability(battery), Storage)
    assert ability(cell) == Adjustable(least_w=0, most_w=1500, rest_w=1500)
    assert "not read: point 24 Battery serial (text)" in text
    assert server.state()["sessions"] == 0, "logged out"


def test_the_same_as_json(fpd: Fpd) -> None:
    said = json.loads(fpd("discover", "--json"))
    assert said["version"] == "6.7.0" and len(said["platform"]["stream"]) == 16
    assert said["device"][0]["command_id"] == 1
    assert {part["kind"] for part in said["parts"]} >= {"batteries", "generators", "grids"}


def test_any_endpoint_is_one_command_away(fpd: Fpd, server: MyEms) -> None:
    assert json.loads(fpd("call", "GET", "/commands/1"))["name"] == "battery_power_setpoint"
    assert json.loads(fpd("call", "put", "/commands/1/send", '{"set_value": 12.5}')) == "success"
    assert server.state()["published"][-1]["payload"].endswith("12.5}")
    row = '{"start_time_of_day":"1:00:00","end_time_of_day":"2:00:00","peak_type":"deep"'
    path = "/energystoragecontainers/1/schedules"
    assert "201, empty body /energystorage" in fpd("call", "POST", path, row + ',"power":1}')
    assert "200, empty body" in fpd("call", "POST", path, row + "}", exit_code=1)
    assert "no such route" in fpd("call", "GET", "/nothing", exit_code=1)
    assert "INVALID_SET_VALUE" in fpd(
        "call", "PUT", "/commands/1/send", '{"set_value": "x"}', exit_code=1
    )
    assert "a path begins with /" in fpd("call", "GET", "points", exit_code=2)
    assert "not JSON" in fpd("call", "PUT", "/x", "{", exit_code=2)
    bare = '{"meter":1,"value":[["2026-11-19","24.0"]]}'
    assert fpd("call", "POST", "/reports/offlinemeterinput", bare, "--bare").strip() == "{}"


def test_a_file_is_uploaded(fpd: Fpd, server: MyEms, tmp_path: Path) -> None:
    file = tmp_path / 'new "days".xlsx'
    file.write_bytes(bytes(range(256)))
    told = fpd("call", "POST", "/offlinemeterfiles", "--file", str(file))
    assert "201, empty body /offlinemeterfiles/1" in told
    assert server.state()["offline_files"] == ["new__days_.xlsx 256"]
    fpd("call", "POST", "/offlinemeterfiles", "--file", str(tmp_path / "none"), exit_code=2)
