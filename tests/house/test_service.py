"""The files that put fpd on a machine: systemd's, the Makefile and the script CI runs."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "fpd.service"


class Unit(configparser.ConfigParser):
    """An ini file in which upper and lower case differ, as systemd reads it."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "fpd.service"
    unit.write_text(UNIT.read_text().replace("/opt/fpd/bin/fpd run", "/bin/true"))
    result = run("systemd-analyze", "verify", "--man=no", str(unit))
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_unit_says_what_fpd_relies_on() -> None:
    unit = Unit(strict=False, interpolation=None)
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].endswith("/fpd run")
    assert service["StateDirectory"] == "fpd"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2"
    assert service["ExecStopPost"] == "-/opt/fpd/bin/fpd release --after-stop"
    assert service["Environment"] == "FPD_UNIT=%n", "how fpd.supervisor knows whom to ask about"
    assert float(service["WatchdogSec"]) >= 10
    user = (ROOT / "systemd" / "fpd.sysusers.conf").read_text()
    assert f"u {service['User']} " in user


def test_the_makefile_says_what_a_bare_machine_lacks(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = run("make", "test", f"VENV={tmp_path}/venv", f"PYTHON={old}")
    assert result.returncode != 0
    assert "older than Python 3.11" in result.stderr

    # Debian without python3-venv, and nobody who may install it.
    old.write_text("#!/bin/sh\ncase $2 in *ensurepip*) exit 1;; esac\n")
    result = run("make", "test", f"VENV={tmp_path}/venv", f"PYTHON={old}", "GET_VENV=false")
    assert result.returncode != 0
    assert "apt install python3-venv" in result.stderr

    result = run("make", "test", f"VENV={tmp_path}/venv", "PYTHON=")
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr


def test_a_second_make_installs_nothing(tmp_path: Path) -> None:
    """Only pip's part is looked at: nothing is run."""
    venv = tmp_path / "venv"
    venv.mkdir()
    for stamp in (".made", ".run", ".test", ".check"):
        (venv / stamp).touch()
    again = run("make", "--dry-run", "test", "check", "run", f"VENV={venv}")
    assert again.returncode == 0
    assert "pytest" in again.stdout and "lint-imports" in again.stdout
    assert "pip" not in again.stdout

    os.utime(venv / ".test", (0, 0))
    assert "pip" in run("make", "--dry-run", "test", f"VENV={venv}").stdout


def test_ci_runs_the_two_commands_and_fails_when_one_does(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n[ "$1" != "$FAILS" ]\n')
    make.chmod(0o755)
    for program in ("mosquitto", "npm"):
        (tmp_path / program).symlink_to("/bin/true")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert run(str(ROOT / ".ci" / "run"), PATH=path).returncode == 0
    assert (tmp_path / "said").read_text() == "check\ntest\n"
    for fails in ("test", "check"):
        assert run(str(ROOT / ".ci" / "run"), PATH=path, FAILS=fails).returncode == 1
    assert (tmp_path / "said").read_text() == "check\ntest\n" * 3
