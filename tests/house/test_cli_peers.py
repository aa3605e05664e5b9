"""`fpd oscp …` and `fpd messages …` as somebody at a terminal meets them, beside any daemon."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import AsyncConnection
from support import processes

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)

Fpd = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    """A database with one provider of user 7, which failed, and one dead letter to it."""
    async with await AsyncConnection.connect(database_url, autocommit=True) as conn:
        await conn.execute("insert into account values (7, %s)", (NOON,))
        await conn.execute(
            """
            insert into peer (user_id, role, name, enabled, base_url, oscp_version, link, trouble,
                              link_changed_at, created_at, modified_at)
            values (7, 'CapacityProvider', 'Lines Co.', true, 'http://127.0.0.1:9', '2.0',
                    'failed', 'it refused our Register: 403', %(now)s, %(now)s, %(now)s)
            """,
            {"now": NOON},
        )
        await conn.execute(
            """
            insert into outbox (peer_id, lane, operation, request_id, body, created_at, due_at,
                                settled_at, outcome, error)
            values (1, 'group:1', 'update_group_measurements', 'm-1', '{}', %(now)s, %(now)s,
                    %(now)s, 'refused', 'no')
            """,
            {"now": NOON},
        )
        yield conn


@pytest.fixture
def fpd(tmp_path: Path, database_url: str) -> Fpd:
    """Runs `fpd …` in an empty folder, on the test's database."""
    (tmp_path / "fpd.toml").write_text(
        f'data_dir = "data"\n[database]\nurl = "{database_url}"\n'
        '[oscp]\nrequire_https = false\nallowed_networks = ["127.0.0.0/8"]\n'
    )

    def run(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FPD_")}
        kept |= {"FPD_CONFIG": str(tmp_path / "fpd.toml")}
        return processes.run(*arguments, cwd=tmp_path, env=kept, said=said)

    return run


async def test_a_failed_registration_is_seen_and_started_again(
    fpd: Fpd, conn: AsyncConnection
) -> None:
    async def call(*arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(fpd, "oscp", *arguments, said=said)

    shown = await call("providers", "list")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "failed" in shown.stdout and "it refused our Register: 403" in shown.stdout
    began = await call("providers", "register", "1", "--token-file", "-", said="first-token\n")
    assert (began.returncode, began.stderr) == (0, ""), began.stderr
    assert "first-token" not in began.stdout
    (peer,) = json.loads((await call("providers", "list", "--json")).stdout)
    assert (peer["link"], peer["reason"], peer["waiting"]) == ("registering", None, 1)
    cursor = await conn.execute("select sealed, body from outbox where lane = 'link'")
    ((sealed, body),) = await cursor.fetchall()
    assert sealed and b"token" not in bytes(body)
    for arguments, said, code, told in (
        (("providers", "register", "2", "--token-file", "-"), "t", 1, "no capacity provider 2\n"),
        (("optimizers", "token", "1"), "", 1, "no capacity optimizer 1\n"),
        (("providers", "register", "1", "--token-file", "-"), "two words", 2, "one token"),
        (("providers", "handshake", "1"), "", 1, "register first"),
    ):
        refused = await call(*arguments, said=said)
        assert (refused.returncode, refused.stdout) == (code, ""), refused
        assert told in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr


async def test_dead_letters_are_listed_and_replayed(fpd: Fpd, conn: AsyncConnection) -> None:
    async def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(fpd, "messages", *arguments)

    (dead,) = json.loads((await call("list", "--state", "dead", "--json")).stdout)
    assert (dead["requestId"], dead["state"], dead["error"]) == ("m-1", "refused", "no")
    refused = await call("replay", str(dead["id"]))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "its peer is failed: register first\n"
    every = await call("replay", "--all-dead")
    assert (every.returncode, every.stdout) == (
        0,
        "0 owed again\n1 not: its peer is failed: register first\n",
    )
    await conn.execute("update peer set link = 'online'")
    assert (await call("replay", str(dead["id"]))).stdout == "1 owed again\n"
    shown = json.loads((await call("show", str(dead["id"]))).stdout)
    assert (shown["state"], shown["attempts"], shown["body"]) == ("owed", 0, {})
    for arguments, code in (
        (("show", "99"), 1),
        (("replay",), 2),
        (("replay", "1", "--peer", "1"), 2),
        (("list", "--since", "soon"), 2),
        (("list", "--state", "lost"), 2),
    ):
        assert (await call(*arguments)).returncode == code, arguments


async def test_refused_datum_are_shown_as_they_may_be_shown(
    conn: AsyncConnection, fpd: Fpd
) -> None:
    await conn.execute(
        """
        insert into refused_datum values ('mqtt', 'node/7/datum/0/x', 7, 'malformed', 'not JSON',
                                          %(head)s, 1000, 3, %(now)s, %(now)s)
        """,
        {"now": NOON, "head": b"\xff\x1b[31m"},
    )
    said = await asyncio.to_thread(fpd, "datum", "refused")
    assert "node/7/datum/0/x" in said.stdout
    assert "\\xff?[31m" in said.stdout
    (row,) = json.loads((await asyncio.to_thread(fpd, "datum", "refused", "--json")).stdout)
    assert (row["source"], row["count"], row["size"]) == ("node/7/datum/0/x", 3, 1000)
