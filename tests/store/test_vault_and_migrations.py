"""Secrets at rest, and migrations that land once."""

from __future__ import annotations

import asyncio
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from psycopg import AsyncConnection
from support.database import Databases

from fpd.errors import Misconfigured
from fpd.store import migrations
from fpd.store.db import migrate
from fpd.store.vault import Vault

NOW = datetime(2026, 3, 10, tzinfo=UTC)


def test_a_key_is_made_once_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "fpd.key"
    sealed = Vault.open(path).seal("token")
    assert b"token" not in sealed
    assert Vault.open(path).unseal(sealed) == b"token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["fpd.key"]


def test_another_key_does_not_open_it_and_says_so(tmp_path: Path) -> None:
    sealed = Vault.open(tmp_path / "one").seal("token")
    with pytest.raises(Misconfigured, match="key file"):
        Vault.open(tmp_path / "other").unseal(sealed)
    (tmp_path / "broken").write_text("not a key")
    with pytest.raises(Misconfigured, match="broken"):
        Vault.open(tmp_path / "broken")


async def test_daemons_that_start_together_migrate_once(databases: Databases) -> None:
    with databases.new() as url:
        applied = await asyncio.gather(*(migrate(url, now=NOW) for _ in range(4)))
        assert sorted(applied) == [0, 0, 0, len(migrations.available())]


async def test_a_database_of_a_newer_fpd_is_refused(databases: Databases) -> None:
    with databases.new() as url:
        await migrate(url, now=NOW)
        async with await AsyncConnection.connect(url, autocommit=True) as conn:
            await conn.execute("insert into migration values (9999, 'later', 'x', %s)", (NOW,))
        with pytest.raises(Misconfigured, match="9999"):
            await migrate(url, now=NOW)


async def test_an_edited_migration_is_noticed(databases: Databases) -> None:
    with databases.new() as url:
        await migrate(url, now=NOW)
        async with await AsyncConnection.connect(url, autocommit=True) as conn:
            await conn.execute("update migration set sha256 = 'other' where number = 1")
        with pytest.raises(Misconfigured, match="0001_house was edited"):
            await migrate(url, now=NOW)
