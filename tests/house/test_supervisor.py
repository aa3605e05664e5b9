"""Whether systemd restarts us, as it says itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.supervisor import restarts


@pytest.mark.parametrize(
    ("jobs", "restarting"),
    [
        ("412 fpd.service restart running", True),
        ("412 fpd.service stop running", False),
        ("412 fpd.service start waiting", False),
        ("411 other.service restart running\n412 fpd.service stop running", False),
        ("No jobs running.", False),
        ("", False),
    ],
)
async def test_only_a_restart_that_was_asked_for_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: str, restarting: bool
) -> None:
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\n[ $6 = fpd.service ] && cat <<END\n{jobs}\nEND\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert await restarts({"FPD_UNIT": "fpd.service"}) is restarting
    assert not await restarts({}), "not started by our unit"


async def test_without_systemd_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not await restarts({"FPD_UNIT": "fpd.service"})
