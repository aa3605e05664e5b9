"""`fpd datum …` as somebody at a terminal meets it, beside any daemon."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from fpd.cli import main

START = datetime(2026, 3, 10, 12, tzinfo=UTC)
SPAN = ("--start", "2026-03-10T12:00Z", "--end", "2026-03-10T12:10Z")

Fpd = Callable[..., str]


@pytest.fixture
def fpd(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fpd:
    """Two streams of user 7, read each minute; run a command."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("insert into account values (7, %s)", (START,))
        conn.execute(
            "insert into stream (user_id, node_id, source_id, created_at)"
            " values (7, 1, 'load/1', %(at)s), (7, 1, 'load/\x1b[31m2', %(at)s)",
            {"at": START},
        )
        conn.execute(
            """
            insert into datum (stream_id, at, i, a, received_at)
            select s, %(at)s::timestamptz + n * interval '1 minute',
                   jsonb_build_object('watts', n * s), jsonb_build_object('wattHours', n), %(at)s
              from generate_series(1, 2) as s, generate_series(0, 9) as n
            """,
            {"at": START},
        )
    monkeypatch.setenv("FPD_DATABASE__URL", database_url)
    monkeypatch.setenv("FPD_DATA_DIR", str(tmp_path))

    def run(*arguments: str, exit_code: int = 0) -> str:
        came = CliRunner().invoke(main, ["datum", *arguments])
        assert came.exit_code == exit_code, came.output
        return came.output

    return run


def test_the_latest_and_a_range_as_tables(fpd: Fpd) -> None:
    text = fpd("latest")
    assert "2026-03-10T12:09:00Z" in text and "watts 18, wattHours 9" in text
    assert "\x1b" not in text
    assert fpd("latest", "--user-id", "8").count("2026") == 0
    assert fpd("list", *SPAN, "--source", "/load/1").count("2026-03-10T12:0") == 10
    assert fpd("list", *SPAN, "--max", "3").count("2026-03-10T12:0") == 3


def test_ranges_as_json(fpd: Fpd) -> None:
    text = fpd("list", *SPAN, "--source", "/load/1", "--aggregation", "FiveMinute", "--json")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["created"], row["samples"]["a"]["wattHours"]) for row in rows] == [
        ("2026-03-10T12:00:00Z", 5),
        ("2026-03-10T12:05:00Z", 4),
    ]


def test_export_writes_files(fpd: Fpd, tmp_path: Path) -> None:
    place = tmp_path / "out.csv"
    fpd("export", *SPAN, "--source", "load/1", "--format", "csv", "-o", str(place))
    with place.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 10
    assert rows[3] == {
        "created": "2026-03-10T12:03:00Z",
        "nodeId": "1",
        "sourceId": "load/1",
        "wattHours": "3",
        "watts": "3",
    }
    assert len(fpd("export", *SPAN).splitlines()) == 20


def test_what_is_wrong_is_said(fpd: Fpd) -> None:
    assert "--start: expected an instant" in fpd("list", "--start", "soon", exit_code=2)
