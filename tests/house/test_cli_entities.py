"""`fpd oscp providers|optimizers|groups|assets|settings …`: the management API at a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
from support.management import User, asset_body, group_body, management
from support.terminal import Terminal

from fpd.cli import main
from fpd.cli.given import fields_epilog
from fpd.flows.manage import tables

CONFIG = """\
data_dir = "{folder}/data"
[database]
url = "{url}"
[oscp]
require_https = false
allowed_networks = ["127.0.0.0/8"]
"""
BATTERY = """
[[device]]
name = "battery-{number}"
type = "battery"
base_url = "http://battery.example.org"
capacity_wh = 10000
max_charge_w = 3300
max_discharge_w = 3300
"""
ASSET = """
[[asset]]
capacityGroup = "my-group"
identifier = "charger-{number}"
name = "Charger"
audience = "CapacityProvider"
nodeId = 1
sourceId = "charger/{number}"
category = "Charging"
phase = "All"
"""
GROUP = (
    "--name=My Group", "--enabled", "--set=identifier=my-group", "--set=capacityProviderId=1",
    "--set=capacityProviderMeasurementPeriod=FifteenMinute",
)  # fmt: skip


@pytest.fixture
def fpd(tmp_path: Path, database_url: str) -> Terminal:
    batteries = "".join(BATTERY.format(number=number) for number in (1, 2))
    config = CONFIG.format(folder=tmp_path, url=database_url) + batteries
    terminal = Terminal()
    terminal.config = tmp_path / "fpd.toml"
    terminal.config.write_text(config)
    return terminal


@pytest.fixture
async def user(database_url: str, clock: Callable[[], datetime]) -> AsyncIterator[User]:
    """User 1 of the management API on the same database."""
    async with management(database_url, clock) as api:
        yield await api.user()


async def test_a_site_from_nothing_to_nothing(fpd: Terminal, user: User) -> None:
    made = await fpd("oscp", "providers", "create", "--name", "Lines Co.", "--enabled")
    assert "Keep the token now" in made.err
    (token,) = [line.split()[1] for line in made.good.splitlines() if line.startswith("token ")]
    assert token not in (await fpd("oscp", "providers", "show", "1")).good
    assert (await fpd("oscp", "groups", "create", *GROUP)).code == 0
    asset = {**asset_body(1), "control": {"device": "battery-1"}}
    made = await fpd("oscp", "assets", "create", "--from", "-", "--json", said=json.dumps(asset))
    assert made.json == (await user("GET", "assets/1")).data
    kept = (await user("GET", "capacity-groups/1")).data
    assert (await fpd("oscp", "groups", "show", "1", "--json")).json == kept
    table = (await fpd("oscp", "assets", "list", "--group", "1")).good
    assert all(word in table for word in ("XYZ.ABC.123", "Charger 1", "battery-1", "true"))
    changed = await fpd(
        "oscp", "groups", "update", "1", "--disabled", "--set", "control.meter.nodeId=4",
        "--set", "control.meter.sourceId=meter/1", "--set", "control.meter.property=watts",
        "--json",
    )  # fmt: skip
    assert changed.json["enabled"] is False and changed.json["name"] == "My Group"
    assert changed.json["control"]["meter"]["nodeId"] == 4
    gone = await fpd("oscp", "groups", "update", "1", "--unset", "control.meter", "--json")
    assert "meter" not in gone.json["control"]
    in_use = await fpd("oscp", "providers", "delete", "1")
    assert (in_use.code, in_use.out) == (1, "")
    assert in_use.err == "a capacity group uses it: my-group\n"
    assert (await user("DELETE", "capacity-providers/1")).body["message"] == in_use.err.strip()
    assert (await fpd("oscp", "assets", "delete", "1")).good == "asset 1 is deleted\n"
    assert (await fpd("oscp", "groups", "delete", "1")).good == "capacity group 1 is deleted\n"
    assert (await fpd("oscp", "providers", "delete", "1")).code == 0
    assert (await fpd("oscp", "providers", "list", "--json")).json == []


async def test_settings_of_the_user_and_of_groups(fpd: Terminal, user: User) -> None:
    await fpd("oscp", "providers", "create", "--name", "Lines Co.")
    await fpd("oscp", "groups", "create", *GROUP)
    none = await fpd("oscp", "settings", "show")
    assert (none.code, none.err) == (1, "user 1 has no settings\n")
    assert (await fpd("oscp", "settings", "create", "--set", "nodeId=2")).code == 0
    again = await fpd("oscp", "settings", "create", "--set", "nodeId=3")
    assert (again.code, again.err) == (1, "user 1 has settings: update them\n")
    body = {"publishToSolarIn": False, "nodeId": 7}
    of_group = await fpd(
        "oscp", "settings", "update", "--group=1", "--from=-", "--json", said=json.dumps(body)
    )
    assert of_group.json == (await user("GET", "capacity-groups/1/settings")).data
    await fpd("oscp", "settings", "update", "--set", "sourceIdTemplate=/oscp/{action}")
    listed = (await fpd("oscp", "settings", "list", "--json")).json
    assert listed[0] == (await user("GET", "settings")).data
    assert listed[0]["nodeId"] == 2 and listed[0]["sourceIdTemplate"] == "/oscp/{action}"
    assert listed[1:] == (await user("GET", "capacity-groups/settings")).data
    assert "deleted" in (await fpd("oscp", "settings", "delete", "--group", "1")).good
    assert "no settings" in (await fpd("oscp", "settings", "delete", "--group", "1")).good
    missing = await fpd("oscp", "settings", "update", "--group", "9", "--set", "nodeId=1")
    assert (missing.code, missing.err) == (1, "there is no capacity group 9\n")


async def test_what_is_wrong_is_told_as_the_api_tells_it(fpd: Terminal, user: User) -> None:
    await user("POST", "capacity-providers", {"name": "Lines Co."})
    await user("POST", "capacity-groups", group_body(1))
    peer = {"baseUrl": "ftp://x", "serviceProps": {"url-paths": 1}}
    for name, path, body in (
        ("providers", "capacity-providers", peer),
        ("groups", "capacity-groups", group_body(9, control={"phases": 2, "meter": {}})),
        ("groups", "capacity-groups", group_body(1)),
        ("assets", "assets", asset_body(1, energy={"unit": "W"}, control={"device": "battery-x"})),
        ("settings", "settings", {"nodeId": 0, "sourceIdTemplate": "a/+/b"}),
    ):  # fmt: skip
        method = "PUT" if name == "settings" else "POST"
        answer = await user(method, path, body)
        said = await fpd("oscp", name, "create", "--from", "-", said=json.dumps(body))
        assert said.out == ""
        assert said.err.splitlines() == [f"{at}: {told}" for at, told in answer.faults.items()]
        assert said.code == (1 if answer.status == 409 else 2), said


async def test_a_slip_is_told_in_one_sentence(fpd: Terminal) -> None:
    for arguments, code, told in (
        ("groups show 9", 1, "there is no capacity group 9\n"),
        ("groups update 9 --name x", 1, "there is no capacity group 9\n"),
        ("assets delete 9", 1, "there is no asset 9\n"),
        ("assets list --group 9", 1, "there is no capacity group 9\n"),
        ("groups create --set nmae=x", 2, "nmae: expected one of name, enabled, identifier"),
        ("groups create --set configId=1", 2, "configId: expected one of"),
        ("groups create --set control.fases=1", 2, "control.fases: expected one of control.static"),
        ("groups create --set name.first=x", 2, "name.first: expected one of"),
        ("groups create --set name", 2, "--set name: expected FIELD=VALUE"),
        ("groups create", 2, "say what it is"),
        ("groups create --set-file name=/nowhere", 2, "--set-file name:"),
        ("groups show 0", 2, "0 is not in the range"),
    ):
        said = await fpd("oscp", *arguments.split())
        assert (said.code, said.out) == (code, ""), said
        assert told in said.err and "Traceback" not in said.err


async def test_secrets_come_from_files_and_are_never_printed(fpd: Terminal, user: User) -> None:
    made = await fpd(
        "oscp", "optimizers", "create", "--name", "Optimizer Co.",
        "--set", "serviceProps.oauth-client-id=123", "--set", "serviceProps.lenient-capacity=true",
        "--set-file", "serviceProps.oauth-client-secret=-", "--set",
        "serviceProps.http-headers.X-Api.Key=my-key", "--json", said="my-secret\n",
    )  # fmt: skip
    assert made.json["serviceProps"] == {
        "oauth-client-id": "123",
        "lenient-capacity": True,
        "http-headers": {"X-Api.Key": "***"},
    }
    renamed = await fpd("oscp", "optimizers", "update", "1", "--name", "Another", "--json")
    assert renamed.json["serviceProps"] == made.json["serviceProps"]
    for arguments in ("list --json", "list", "show 1", "show 1 --json"):
        said = (await fpd("oscp", "optimizers", *arguments.split())).good
        assert "my-secret" not in said and "my-key" not in said and made.json["token"] not in said


async def test_users_are_apart(fpd: Terminal, user: User) -> None:
    await fpd("oscp", "providers", "create", "--user-id", "7", "--name", "Theirs")
    assert (await fpd("oscp", "providers", "show", "1")).code == 1
    assert (await fpd("oscp", "providers", "delete", "1")).code == 1
    assert (await fpd("oscp", "providers", "show", "1", "--user-id", "7")).code == 0
    assert (await fpd("oscp", "providers", "list", "--user-id", "1", "--json")).json == []
    assert len((await fpd("oscp", "providers", "list", "--json")).json) == 1, "of every user"


async def test_long_lists_come_quickly_and_in_parts(fpd: Terminal, user: User) -> None:
    await user("POST", "capacity-providers", {"name": "Lines Co."})
    await user("POST", "capacity-groups", group_body(1))
    assets = "".join(ASSET.format(number=number) for number in range(100, 301))
    made = await fpd("import", "-", said=f"format = 1\n{assets}")
    assert made.good.endswith("201 to create, 0 unchanged: done\n")
    lines = (await fpd("oscp", "assets", "list")).good.splitlines()
    assert len(lines) == 202 and lines[201].split()[2] == "charger-300"
    part = (await fpd("oscp", "assets", "list", "--max=2", "--offset=100", "--json")).json
    assert [asset["identifier"] for asset in part] == ["charger-200", "charger-201"]
    whole = (await fpd("oscp", "assets", "list", "--json")).json
    assert whole == (await user("GET", "assets")).data


VALUES: dict[str, Any] = {
    "capacityProviderId": 1, "capacityOptimizerId": 2, "capacityGroupId": 1, "enabled": True,
    "capacityProviderMeasurementPeriod": "Hour", "capacityOptimizerMeasurementPeriod": "Minute",
    "control.staticImportLimit": 1000, "control.staticExportLimit": 2000,
    "control.nominalVoltage": 400.5, "control.phases": 1, "control.capacityScope": "Flexible",
    "control.gapPolicy": "Static", "control.optimumDirection": "Import",
    "control.settleSeconds": 4, "control.requestAdjustment": True,
    "control.marginPercent": 1.5,
    "control.meter.nodeId": 3, "control.meter.sourceId": "7",
    "control.expectedLoad.nodeId": 3, "control.expectedLoad.multiplier": 2,
    "control.meter.property": "w", "control.meter.multiplier": -1, "audience": "CapacityOptimizer",
    "nodeId": 5, "category": "Storage", "phase": "A", "instantaneous.unit": "kW",
    "instantaneous.propertyNames": ["a", "b"], "instantaneous.multiplier": 0.001,
    "instantaneous.statisticType": "Maximum", "energy.unit": "kWh", "energy.type": "Flexible",
    "energy.propertyNames": ["wh"], "energy.multiplier": 2, "energy.statisticType": "End",
    "energy.direction": "Export", "control.device": "battery-1", "control.priority": 2,
    "publishToSolarIn": False, "publishToSolarFlux": False, "baseUrl": "http://127.0.0.1:1/x",
    "registrationStatus": "Failed", "serviceProps": {"a": [1, None]},
}  # fmt: skip


async def test_every_field_can_be_set_by_its_name(fpd: Terminal, user: User) -> None:
    await user("POST", "capacity-providers", {"name": "x"})
    await user("POST", "capacity-optimizers", {"name": "x"})
    await user("POST", "capacity-groups", group_body(1))
    for name, of in (
        ("providers", tables.PEER),
        ("groups", tables.GROUP),
        ("assets", tables.ASSET),
        ("settings", tables.USER_SETTINGS),
    ):
        wanted = {path: VALUES.get(path, "text") for path in fields_epilog(of)}
        said = [
            f"--set={path}={value if isinstance(value, str) else json.dumps(value)}"
            for path, value in wanted.items()
        ]
        made = (await fpd("oscp", name, "create", *said, "--json")).json
        for path, value in wanted.items():
            found: Any = made
            for part in path.split("."):
                found = found[part]
            assert found == value, path


def test_every_command_shows_examples() -> None:
    def commands(command: click.Command, way: str) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from commands(inner, f"{way} {name}")
        else:
            yield way, command

    own = [c for c in commands(main, "fpd") if c[0].split()[1] in ("oscp", "export", "import")]
    assert len(own) > 30
    assert [way for way, c in own if not re.search(rf"\n +{way}", c.help or "")] == []


async def test_a_site_goes_out_and_comes_in(fpd: Terminal, user: User) -> None:
    site = fpd.config.parent / "site.toml"
    await fpd("oscp", "providers", "create", "--name", "Lines Co.\x1b[31m")
    await fpd("oscp", "groups", "create", *GROUP)
    assert (await fpd("export", str(site))).good == ""
    assert site.stat().st_mode & 0o777 == 0o600
    text = site.read_text()
    assert (await fpd("export")).good == text
    assert (await fpd("import", str(site))).good == "nothing changes: 2 unchanged\n"
    site.write_text(text.replace('"My Group"', '"Our Group"'))
    planned = await fpd("import", str(site), "--dry-run")
    assert planned.good == ('update  capacityGroup "my-group": name\n1 to update, 1 unchanged\n')
    assert (await fpd("import", str(site))).good.endswith("1 to update, 1 unchanged: done\n")
    assert (await user("GET", "capacity-groups/1")).data["name"] == "Our Group"
    elsewhere = await fpd("import", "-", "--user-id", "7", said=text)
    (token,) = [line for line in elsewhere.good.splitlines() if line.startswith("first token")]
    assert "\x1b" not in elsewhere.out and len(token.rpartition(": ")[2]) == 64
    wrong = await fpd("import", "-", said=text.replace('"FifteenMinute"', '"Fortnight"', 1))
    assert (wrong.code, wrong.out) == (2, "")
    assert 'capacityGroup "my-group", capacityProviderMeasurementPeriod: expected' in wrong.err
    assert (await fpd("import", "-", said="format =")).code == 2
    assert (await fpd("export", "/nowhere/site.toml")).err == (
        "/nowhere/site.toml: No such file or directory\n"
    )
