"""The command line as somebody at a terminal meets it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trustme
from support import processes
from support.daemon import Daemon
from support.database import Databases

from fpd import __version__
from fpd.cli import main

ROOT = Path(__file__).parents[2]

Fpd = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fpd(tmp_path: Path) -> Fpd:
    """Runs `fpd …` in an empty folder, without what the caller's environment says of fpd."""

    def run(*arguments: str, said: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
        kept |= {"FPD_DATA_DIR": str(tmp_path / "data")}
        return processes.run(*arguments, cwd=tmp_path, env=kept | environ, said=said)

    return run


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


def test_every_command_takes_a_configuration_and_explains_itself() -> None:
    found = dict(commands(main))
    assert {*found} == {
        *("run", "demo", "check-config", "migrate", "status", "translate", "sim"),
        "release",
        *("token create", "token list", "token revoke"),
        *("datum latest", "datum list", "datum export"),
        *("messages list", "messages show", "messages replay"),
        *(f"bluegen {act}" for act in ("status", "units", "profiles", "calibrate")),
        *(f"bluegen {act}" for act in ("unlock", "encrypt", "uninstall")),
        *("export", "import", "datum refused", "myems discover", "myems call"),
        *(f"reengen {act}" for act in ("points", "data", "cost", "commands", "execute")),
        *(f"reengen {act}" for act in ("import", "flags", "call")),
        *("oscp groups explain", "oscp groups forecasts", "oscp groups envelopes"),
        "oscp groups troubles",
        "oscp groups plan",
        *(
            f"oscp {peers} {act}"
            for peers in ("providers", "optimizers")
            for act in ("register", "token", "handshake", "unregister")
        ),
        *(
            f"oscp {entities} {act}"
            for entities in ("providers", "optimizers", "groups", "assets", "settings")
            for act in ("list", "show", "create", "update", "delete")
        ),
    }
    for name, command in found.items():
        assert command.help, name
        options = {option for parameter in command.params for option in parameter.opts}
        assert "-c" in options or name == "sim", name


def test_asking_for_help_loads_nothing_heavy() -> None:
    look = (
        "import sys; from fpd.cli import main; main(['--help'], standalone_mode=False); "
        "heavy = {'aiohttp', 'psycopg', 'asyncio', 'structlog', 'rich', 'amqtt', 'fpd.app'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "check-config" in result.stdout


def test_translating_opens_no_network_and_no_database() -> None:
    look = (
        "import sys; from fpd.domain import translate; "
        "sys.exit(', '.join({'aiohttp', 'psycopg', 'asyncio', 'paho'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_version_is_the_package_s() -> None:
    command = [sys.executable, "-m", "fpd", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == f"fpd, version {__version__}\n"


def test_check_config_says_what_will_be_used(fpd: Fpd, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text('[http]\nlisten = "[::1]:9000"')
    result = fpd("check-config", "-c", "site.toml", FPD_MQTT__URL="mqtt://broker.example.org")
    assert (result.returncode, result.stderr) == (0, "")
    assert "site.toml" in result.stdout
    assert "[::1]:9000" in result.stdout
    assert "mqtt://broker.example.org" in result.stdout
    assert result.stdout.endswith("ok\n")


@pytest.mark.parametrize("command", ["check-config", "run", "migrate", "status"])
def test_every_command_refuses_a_wrong_configuration_in_the_same_words(
    fpd: Fpd, tmp_path: Path, command: str
) -> None:
    (tmp_path / "site.toml").write_text('[http]\nlisten = "foo"\nrate_brust = 1\n')
    result = fpd(command, FPD_CONFIG="site.toml")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        'site.toml:2: http.listen = "foo": expected host:port\n'
        "site.toml:3: http.rate_brust: expected a known key; did you mean rate_burst?\n"
    )


def test_a_wrong_command_is_2(fpd: Fpd) -> None:
    assert fpd("rnu").returncode == 2
    assert fpd("token", "create").returncode == 2
    assert fpd("token", "create", "--user-id", "0").returncode == 2


def test_migrate_makes_the_tables_and_says_so_again(fpd: Fpd, databases: Databases) -> None:
    with databases.new() as url:
        for _ in range(2):
            result = fpd("migrate", FPD_DATABASE__URL=url)
            assert (result.returncode, result.stdout) == (0, "the database is up to date\n")


def test_a_database_that_is_away_is_one_line_and_1(fpd: Fpd, free_port: Callable[[], int]) -> None:
    url = f"postgresql://fpd:geheim@127.0.0.1:{free_port()}/fpd"
    result = fpd("migrate", FPD_DATABASE__URL=url)
    assert result.returncode == 1
    assert result.stderr.startswith("the database cannot be reached: ")
    assert result.stderr.count("\n") == 1
    assert "geheim" not in result.stderr


def test_the_life_of_a_token(fpd: Fpd, database_url: str) -> None:
    def token(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fpd("token", *arguments, FPD_DATABASE__URL=database_url)

    created = token("create", "--user-id", "7", "--name", "grafana", "--json")
    assert created.returncode == 0, created.stderr
    made = json.loads(created.stdout)
    assert list(made) == ["userId", "id", "secret", "bearer"]
    assert made["userId"] == 7

    listed = token("list").stdout
    assert made["id"] in listed and "grafana" in listed
    assert made["secret"] not in listed and made["bearer"] not in listed

    assert token("revoke", made["id"]).returncode == 0
    again = token("revoke", "ZZZZZZZZZZZZZZZZZZZZ")
    assert again.returncode == 1
    assert "ZZZZZZZZZZZZZZZZZZZZ" in again.stderr

    shown = token("create", "--user-id", "8", "--admin").stdout
    assert "bearer" in shown and "not shown again" in shown
    others = json.loads(token("list", "--user-id", "8", "--json").stdout)
    assert [(one["userId"], one["admin"], one["revoked"]) for one in others] == [(8, True, None)]
    assert others[0]["id"] in shown


def test_the_embedded_database_serves_commands_beside_the_daemon(fpd: Fpd) -> None:
    """Nothing is configured: the command starts our own PostgreSQL for the moment."""
    made = fpd("token", "create", "--user-id", "1", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["id"] in fpd("token", "list").stdout


def test_status_without_a_daemon_is_one_line_and_1(fpd: Fpd, free_port: Callable[[], int]) -> None:
    listen = f"127.0.0.1:{free_port()}"
    result = fpd("status", FPD_HTTP__LISTEN=listen)
    assert result.returncode == 1
    assert result.stderr.startswith(f"no fpd answers at {listen} ")
    assert result.stderr.count("\n") == 1


async def test_status_shows_what_the_daemon_knows(
    fpd: Fpd, tmp_path: Path, database_url: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    config = tmp_path / "fpd.toml"
    config.write_text(
        f'data_dir = "data"\n[http]\nlisten = "127.0.0.1:{port}"\n'
        f'[database]\nurl = "{database_url}"\n[mqtt]\nport = 0\n'
    )
    daemon = Daemon(config, f"http://127.0.0.1:{port}", tmp_path / "log")
    await daemon.start()
    try:
        await daemon.log_in()
        name = "Lines \x1b[31mCo."
        await daemon.manage("POST", "capacity-providers", {"name": name, "enabled": True})
        raw = await asyncio.to_thread(fpd, "status", "--json", "-c", str(config))
        assert [peer["name"] for peer in json.loads(raw.stdout)["peers"]] == [name]
        shown = await asyncio.to_thread(fpd, "status", "-c", str(config))
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "Lines ?[31mCo." in shown.stdout
        assert "database ok" in shown.stdout
    finally:
        assert await daemon.terminate() == 0


def test_status_speaks_to_a_daemon_with_a_certificate_of_its_own(
    fpd: Fpd, tmp_path: Path, database_url: str, free_port: Callable[[], int]
) -> None:
    """The certificate names the site, not the address that the command connects to."""
    issued = trustme.CA().issue_cert("fpd.example.org")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    config = tmp_path / "fpd.toml"
    config.write_text(
        f'data_dir = "data"\n[http]\nlisten = "0.0.0.0:{free_port()}"\n'
        'tls_cert = "tls.crt"\ntls_key = "tls.key"\n'
        f'[database]\nurl = "{database_url}"\n[mqtt]\nport = 0\n'
    )
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "fpd", "run", "-c", str(config)]
        daemon = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + 60
        while (result := fpd("status", "--json", "-c", str(config))).returncode != 0:
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline_s, result.stderr
        assert json.loads(result.stdout)["version"] == __version__
    finally:
        daemon.terminate()
        assert daemon.wait(20) == 0


def question(**given: Any) -> str:
    return json.dumps({"kind": "tick_index", "in": given})


def test_translate_answers_a_file_or_standard_input(fpd: Fpd, tmp_path: Path) -> None:
    asked = question(instant="2025-03-12T10:07:00Z", anchor="MON", tz="UTC")
    (tmp_path / "question.json").write_text(asked)
    piped = fpd("translate", said=asked)
    assert piped.returncode == 0, piped.stderr
    # Wednesday 10:07: two days of 96 ticks, ten hours of four.
    assert json.loads(piped.stdout)["tick"] == 232
    assert fpd("translate", "question.json").stdout == piped.stdout
    assert fpd("translate", "-", said=asked).stdout == piped.stdout


@pytest.mark.parametrize(
    "asked", ["{", '{"kind": "nonsense", "in": {}}', "[]", '{"kind": "tick_index"}', "[" * 100_000]
)
def test_translate_says_what_it_cannot_read(fpd: Fpd, asked: str) -> None:
    result = fpd("translate", said=asked)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr and "Traceback" not in result.stderr


def test_the_simulators_are_within_reach(fpd: Fpd) -> None:
    result = fpd("sim", "--help")
    assert result.returncode == 0
    assert "fpd sim" in result.stdout
    assert "bluegen" in result.stdout and "battery" in result.stdout
    assert fpd("sim", "nonsense").returncode == 2
