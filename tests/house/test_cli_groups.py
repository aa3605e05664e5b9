"""`fpd oscp groups …` as somebody at a terminal meets it, beside any daemon."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import Connection
from support import processes

from fpd.cli import main

NOW = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(time.time()))

Fpd = Callable[..., subprocess.CompletedProcess[str]]


def _furnish(conn: Connection) -> None:
    """A group whose provider limits it to 3 kW from an hour ago to an hour ahead."""
    conn.execute("insert into account values (7, %s)", (NOW,))
    conn.execute(
        """
        insert into peer (user_id, role, name, enabled, oscp_version, link, link_changed_at,
                          created_at, modified_at)
        values (7, 'CapacityProvider', 'Lines\x1b[31m Co.', true, '2.0', 'online', %(now)s,
                %(now)s, %(now)s)
        """,
        {"now": NOW},
    )
    conn.execute(
        """
        insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                                    provider_period_s, optimizer_period_s, created_at, modified_at)
        values (7, 'Depot', 'depot', true, 1, 900, 900, %(now)s, %(now)s)
        """,
        {"now": NOW},
    )
    block = {
        "capacity": 3, "unit": "KW", "phase": "ALL",
        "start_time": (NOW - timedelta(hours=1)).isoformat(),
        "end_time": (NOW + timedelta(hours=1)).isoformat(),
    }  # fmt: skip
    said = {"group_id": "depot", "type": "CONSUMPTION", "forecasted_blocks": [block]}
    before, ends = NOW - timedelta(hours=1), NOW + timedelta(hours=1)
    conn.execute(
        """
        insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at)
        values (1, 1, 'f-1', 'CONSUMPTION', %s, %s, %s)
        """,
        (json.dumps(said).encode(), before, ends),
    )
    conn.execute(
        "insert into envelope (group_id, from_at, max_w, reason, forecast_ids) "
        "values (1, %s, 3000, 'forecast', '{1}')",
        (before,),
    )
    conn.execute(
        """
        insert into device_command (device, group_id, envelope_id, wanted, sent_at, outcome)
        values ('cellar', 1, 1, '{"kind": "setpoint", "power_w": 1200}', %s, 'confirmed')
        """,
        (before,),
    )
    flat = [500] * 672
    battery = {"name": "cellar", "type": "battery", "power_w": [-900, *[0] * 671]}
    limits = {f"{name}_limit_w": [None] * 672 for name in ("import", "export")}
    loads = {name: flat for name in ("load_w", "least_load_w", "most_load_w", "net_w")}
    periods = {
        **limits, **loads, "period_s": 900, "load_source": "the last 4 weeks",
        "optimum_w": [None] * 672, "devices": [{**battery, "soc": [40.0] * 672}],
    }  # fmt: skip
    missed = {"from": "soon", "to": "later", "which": "import", "by_w": 77, "reason": "empty"}
    conn.execute("insert into plan_due (group_id, due_at) values (1, %s)", (NOW,))
    conn.execute(
        "insert into plan (group_id, made_at, from_at, source, solve_s, periods, breaks)"
        " values (1, %s, %s, 'highs', 0.3, %s, %s)",
        (NOW, NOW, json.dumps(periods), json.dumps([missed])),
    )


@pytest.fixture
def fpd(tmp_path: Path, database_url: str) -> Fpd:
    """Runs `fpd oscp groups …` in an empty folder, on the test's database."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        _furnish(conn)
    config = tmp_path / "fpd.toml"
    config.write_text(f'data_dir = "data"\n[database]\nurl = "{database_url}"\n')

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
        kept |= {"FPD_CONFIG": str(config)}
        return processes.run("oscp", "groups", *arguments, cwd=tmp_path, env=kept)

    return run


def test_a_group_is_explained_at_a_terminal(fpd: Fpd) -> None:
    for arguments, told in (
        (("explain", "1"), ("depot (Depot) at", "3000", "f-1", "3 KW on ALL", "cellar", "1200")),
        (("forecasts", "1"), ("f-1", "CONSUMPTION")),
        (("forecasts", "1", "--view", "inforce"), ("f-1", "3000", "ALL")),
        (("envelopes", "1", "--hours", "24"), ("3000", "none")),
        (("plan", "1"), ("highs", "the last 4 weeks", "cellar %", "-900", "77", "empty")),
    ):
        shown = fpd(*arguments)
        assert (shown.returncode, shown.stderr) == (0, ""), shown
        assert all(word in shown.stdout for word in told), shown.stdout
        assert "\x1b" not in shown.stdout
    (held,) = json.loads(fpd("envelopes", "1", "--json").stdout)
    assert (held["maxW"], held["until"], held["forecastIds"]) == (3000, None, [1])
    planned = json.loads(fpd("plan", "1", "--json", "--hours", "1").stdout)
    assert planned["devices"][0]["powerW"] == [-900, 0, 0, 0]


def test_what_cannot_be_answered_is_said_in_a_line(fpd: Fpd) -> None:
    refused = fpd("explain", "2")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "there is no capacity group 2\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("explain", "1", "--at", "noon"), "--at: expected an instant"),
        (("forecasts", "1", "--hours", "3"), "--hours goes with"),
        (("forecasts", "1", "--view", "inforce", "--since", "x"), "go with --view received"),
        (("envelopes", "1", "--since", "soon"), "--since: expected an instant"),
        (("envelopes", "1", "--hours", "1", "--before", "2"), "--hours goes without"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused(arguments: tuple[str, ...], told: str) -> None:
    refused = CliRunner().invoke(main, ["oscp", "groups", *arguments])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert told in refused.stderr
