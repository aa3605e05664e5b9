"""`fpd reengen …` as somebody at a terminal meets it, against the simulated platform."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fpd.cli import main
from fpd.sim.reengen import Reengen, ReengenOptions

Fpd = Callable[..., str]
SPAN = ("--start", "2025-03-12T00:00", "--end", "2025-03-12T01:00")


@pytest.fixture(scope="module")
def simulator() -> Iterator[Reengen]:
    """The platform at noon of 12 March 2025, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    at = datetime(2025, 3, 12, 12, tzinfo=UTC)
    simulator = Reengen(ReengenOptions(min_interval_s=0), clock=lambda: at)
    asyncio.run_coroutine_threadsafe(simulator.start(), loop).result(10)
    yield simulator
    asyncio.run_coroutine_threadsafe(simulator.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def fpd(simulator: Reengen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fpd:
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
        data_dir = "{tmp_path}"
        [[platform]]
        name = "factory"
        type = "reengen"
        base_url = "{simulator.url}/api/do/"
        tenant = "demo"
        user = "demo"
        password = "demo"
        min_interval_s = 0
        """
    )
    monkeypatch.setenv("FPD_CONFIG", str(config))

    def run(*arguments: str, said: str | None = None, exit_code: int = 0) -> str:
        came = CliRunner().invoke(main, ["reengen", *arguments], input=said)
        assert came.exit_code == exit_code, came.output
        return came.output

    return run


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_points_are_shown_below_each_other(fpd: Fpd) -> None:
    text = fpd("points")
    assert "  Transformer 6" in text and "12768" in text
    codes = {point["code"]: point["parent"] for point in lines(fpd("points", "--json"))}
    assert codes["xFabrikaTrafo6"] == "xFabrikaFabrika" and None not in codes


def test_raw_rows_and_aggregates(fpd: Fpd) -> None:
    rows = lines(fpd("data", "xyzBesiktas", *SPAN, "--variant", "import", "--json"))
    assert [row["date"][:13] for row in rows] == ["2025-03-12T00"] * 4
    assert all(row["unit"] == "Wh" and row["original"] > 3e8 for row in rows)
    assert "original" in fpd("data", "xyzBesiktas", *SPAN)
    with_zone = ("--start", "2025-03-11T21:00Z", "--end", "2025-03-12T01:00:00+03:00")
    assert lines(fpd("data", "xyzBesiktas", *with_zone, "--json")) == rows
    (kwh,) = lines(fpd("data", "xyzBesiktas", *SPAN, "--function", "sum", "--unit", "Wh", "--json"))
    assert (kwh["point"], kwh["date"]) == ("xyzBesiktas", "2025-03-12T00:00:00")
    assert kwh["value"] == sum(row["value"] for row in rows)
    volts = ("--definition", "voltage", "--variant", "phase", "--function", "avg")
    assert {
        row["unit"] for row in lines(fpd("data", "xFabrikaTrafo6", *SPAN, *volts, "--json"))
    } == {"V"}
    assert lines(fpd("cost", *SPAN, "--json"))[0].keys() == {"point", "cost"}


def test_commands(fpd: Fpd, simulator: Reengen) -> None:
    assert "on, off, auto" in fpd("commands", "xFabrikaTrafo6")
    assert "taken" in fpd("execute", "xFabrikaTrafo6", "lights-on-off", "true")
    told = fpd("execute", "xFabrikaDepo", "power-set", "--json", "--", "-250.5")
    assert json.loads(told)["parameter"] == -250.5
    assert [each["parameter"] for each in simulator.tenant.executed] == [True, -250.5]
    for wrong in (("lights-on-off", "maybe"), ("lights-on-off",), ("boil",)):
        assert "not sent" in fpd("execute", "xFabrikaTrafo6", *wrong, exit_code=1)
    assert len(simulator.tenant.executed) == 2


def test_import_and_flags(fpd: Fpd, simulator: Reengen) -> None:
    csv = (
        "point,definition,variant,index,date,value\n"
        "reengenPoint,activeEnergy,import,1,2025-03-12T10:16:26,121\n"
        "reengenPoint,activeEnergy,import,1,2025-03-12T07:17:26Z,122.5\n"
    )
    for _ in range(2):  # whether they are there or not
        assert "2 rows: taken" in fpd("import", said=csv)
    assert [(each["date"], each["value"]) for each in simulator.state()["imported"]] == [
        ("2025-03-12T10:16:26", 121.0),
        ("2025-03-12T10:17:26", 122.5),
    ]
    assert "already exists" in fpd("import", "--operation", "C", said=csv, exit_code=1)
    fpd("import", "--operation", "D", said=csv)
    assert simulator.state()["imported"] == []
    assert "row 1" in fpd("import", said='{"point": "p"}', exit_code=2)
    fpd("flags", "xyzBesiktas", "--type", "test", "--set", "3")
    (flag,) = lines(fpd("flags", "xyzBesiktas", "--type", "test", "--json"))
    assert flag == {"point": "xyzBesiktas", "type": "test", "tenant": "demo", "value": "3"}
    fpd("flags", "xyzBesiktas", "--type", "test", "--delete")
    assert fpd("flags", "xyzBesiktas", "--type", "test", "--json").strip() == ""


def test_any_method_and_what_is_wrong(fpd: Fpd) -> None:
    found = json.loads(fpd("call", "ListAvailableCommands", '{"point": 12747}'))
    assert [each["code"] for each in found["data"]] == ["power-set", "horn"]
    assert "Unknown method" in fpd("call", "Boil", exit_code=1)
    assert "not JSON" in fpd("call", "GetPointHierarchy", "{", exit_code=2)
    assert "Point not found" in fpd("data", "nowhere", exit_code=1)
    assert "expected an instant" in fpd("data", "x", "--start", "soon", exit_code=2)
    assert "is called other" in fpd("points", "--platform", "other", exit_code=2)


def test_every_command_shows_examples(fpd: Fpd) -> None:
    names = ("points", "data", "cost", "commands", "execute", "import", "flags", "call")
    for name in names:
        assert f"fpd reengen {name}" in fpd(name, "--help")
