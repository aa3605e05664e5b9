"""The house's own law: who may import whom, how big a room may get, and where the clock hangs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "fpd").rglob("*.py"))
MOST_LINES = 400

_LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
_CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time"}
_SQL_CLOCK = re.compile(
    # SolarNetwork's documents have a localTime; nobody writes SQL's like that.
    r"\b(?!(?-i:localTime))"
    r"(now\s*\(\s*\)|(current|local)_?time(stamp)?\b|current_date\b|clock_timestamp)",
    re.IGNORECASE,
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter comes with the dev extra")
    return subprocess.run(
        [sys.executable, "-c", _LINT_IMPORTS, "--no-cache", "--config", "pyproject.toml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the house in which a wall may be broken."""
    shutil.copytree(ROOT / "fpd", tmp_path / "fpd", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_arrow_of_imports_points_one_way() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        ("domain/broken.py", "import aiohttp"),
        ("domain/broken.py", "import asyncio"),
        ("domain/broken.py", "from fpd.store import db"),
        ("store/broken.py", "from fpd.flows import forecasts"),
        ("web/broken.py", "import psycopg"),
        ("sim/broken.py", "from fpd.oscp import messages"),
    ],
)
def test_a_wrong_import_breaks_the_build(copy: Path, module: str, wrong: str) -> None:
    broken = copy / "fpd" / module
    broken.write_text(f"{wrong}\n")
    result = lint_imports(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert broken.stem in result.stdout


def test_no_module_needs_much_scrolling() -> None:
    sizes = {relative(path): path.read_text().count("\n") for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES} == {}


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc", "shared"}
    assert [relative(path) for path in MODULES if drawers & {path.stem, path.parent.name}] == []


def test_the_only_clock_hangs_in_the_composition_root() -> None:
    told = [
        f"{relative(path)}:{line} {name}"
        for path in MODULES
        if relative(path) != "fpd/app.py"
        for line, name in _attributes(path)
        if name in _CLOCKS
    ]
    assert told == []


def test_sql_never_tells_the_time() -> None:
    told = [
        f"{relative(path)}:{line}"
        for path in MODULES
        for line, text in _texts(path)
        if _SQL_CLOCK.search(text)
    ]
    for path in sorted((ROOT / "migrations").glob("*.sql")):
        statements = re.sub(r"--[^\n]*", "", path.read_text())
        told += [path.name] * bool(_SQL_CLOCK.search(statements))
    assert told == []


def test_what_the_law_looks_for_would_be_found(tmp_path: Path) -> None:
    source = tmp_path / "broken.py"
    source.write_text(
        '"""Says now() in a docstring, which is fine."""\n'
        "import datetime as dt\n"
        "from datetime import datetime\n"
        "a = datetime.now()\n"
        "b = dt.datetime.utcnow()\n"
        'c = f"select now() + {a}"\n'
    )
    assert [(line, name) for line, name in _attributes(source) if name in _CLOCKS] == [
        (4, "datetime.now"),
        (5, "datetime.utcnow"),
    ]
    assert [line for line, text in _texts(source) if _SQL_CLOCK.search(text)] == [6]


def _attributes(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, "owner.attribute") of every attribute whose owner is a name or attribute."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = getattr(owner, "id", None) or getattr(owner, "attr", "")
            yield node.lineno, f"{name}.{node.attr}"


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of every string that is not a docstring."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in docstrings:
            continue
        if isinstance(node.value, str):
            yield node.lineno, node.value


def test_the_readme_names_only_what_exists() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README yet")
    named = set(
        re.findall(
            r"`((?:fpd|tests|systemd|migrations|docs|\.ci)/[\w./-]+|[\w-]+\.(?:toml|example\.toml))`",
            readme.read_text(),
        )
    )
    named |= {target for target in re.findall(r"\]\(([^)#:\s]+)\)", readme.read_text())}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_nothing_reads_the_folder_beside_the_checkout() -> None:
    foreign = re.compile(r"\.\./" + r"shared|/wor" + r"k/")
    places = [*MODULES, *(ROOT / "tests").rglob("*.py"), ROOT / "Makefile", ROOT / ".ci" / "run"]
    assert [relative(path) for path in places if foreign.search(path.read_text())] == []
