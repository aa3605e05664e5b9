"""The harness itself: what the other tests lean on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from freezegun import freeze_time
from support.database import Databases
from support.waiting import wait_for


@pytest.mark.parametrize("_", ["one test", "another"])
async def test_each_test_has_a_migrated_database_to_itself(database_url: str, _: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute("select count(*) from migration")
        assert (await cursor.fetchone() or (0,))[0] > 0
        # Would fail the second time if tests shared a database.
        await connection.execute("create table mine (id integer)")


async def test_a_database_is_dropped_even_if_somebody_is_still_connected(
    databases: Databases,
) -> None:
    with databases.new() as url:
        connection = await psycopg.AsyncConnection.connect(url)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("select 1")
    await connection.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        await psycopg.AsyncConnection.connect(url)


def test_the_clock_tells_real_datetimes_and_follows_freezegun(
    clock: Callable[[], datetime],
) -> None:
    assert abs(clock().timestamp() - time.time()) < 1
    with freeze_time("2026-03-29T01:00:00Z", real_asyncio=True) as frozen:
        assert clock() == datetime(2026, 3, 29, 1, tzinfo=UTC)
        assert "Fake" not in type(clock()).__name__
        frozen.tick(timedelta(seconds=30))
        assert clock() == datetime(2026, 3, 29, 1, 0, 30, tzinfo=UTC)


async def test_waiting_ends_when_the_condition_holds_and_says_what_it_waited_for() -> None:
    seen: list[int] = []

    async def enough() -> list[int]:
        seen.append(len(seen))
        return seen if len(seen) >= 3 else []

    assert await wait_for(enough) == [0, 1, 2]
    with pytest.raises(pytest.fail.Exception, match=r"waited 0\.02 s for the moon; last: 0"):
        await wait_for(lambda: 0, timeout=0.02, what="the moon")
    with pytest.raises(pytest.fail.Exception, match=r"test_harness\.py"):
        await wait_for(lambda: None, timeout=0.02)


async def test_waiting_lets_others_work() -> None:
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, done.set)
    assert await wait_for(done.is_set, timeout=2)


def test_free_ports_differ(free_port: Callable[[], int]) -> None:
    assert len({free_port() for _ in range(5)}) > 1
