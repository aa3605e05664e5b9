"""The wheel is the whole product: installed alone, elsewhere, it has all that the checkout has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import psycopg
import pytest
from support.database import Databases

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    ours = ("FPD_", "PYTHONPATH")  # of whoever runs the tests, not of who installed the wheel
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    result = subprocess.run(
        command,
        cwd=cwd,
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel and is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("fpd-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The bin folder of an environment that has the wheel, and the tests' dependencies."""
    venv = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=wheel.parent)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    # A folder named in a .pth lends its packages, but not its own .pth files: the checkout,
    # which is installed there as editable, stays out.
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def test_everything_beside_the_code_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "fpd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {f"fpd/migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    wanted |= {"fpd/config.example.toml"}
    assert wanted - packed == set()
    assert [name for name in packed if name.startswith(("tests/", "migrations/"))] == []


def test_the_installed_fpd_is_the_wheel_s_and_works_elsewhere(
    installed: Path, databases: Databases, tmp_path: Path
) -> None:
    where = "import fpd, json; print(json.dumps([fpd.__file__, fpd.__version__]))"
    file, version = json.loads(run(installed / "python", "-c", where, cwd=tmp_path))
    assert Path(file).is_relative_to(installed.parent)
    assert run(installed / "fpd", "--version", cwd=tmp_path) == f"fpd, version {version}\n"

    with databases.new() as url:
        environ = {"FPD_DATABASE__URL": url, "FPD_DATA_DIR": str(tmp_path / "data")}
        run(installed / "fpd", "migrate", cwd=tmp_path, **environ)
        run(installed / "fpd", "migrate", cwd=tmp_path, **environ)
        with psycopg.connect(url) as connection:
            applied = connection.execute("select count(*) from migration").fetchone()
    assert applied == (len(list((ROOT / "migrations").glob("*.sql"))),)
