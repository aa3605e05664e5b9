"""Publications: order, leases, and which settings say what is published where."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection

from fpd.store import publications
from fpd.store.publications import Publication

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(database_url, autocommit=True) as conn:
        yield conn


async def owe(conn: AsyncConnection, *topics: str, now: datetime = NOON) -> None:
    messages = [Publication(topic, str(n).encode()) for n, topic in enumerate(topics)]
    await publications.owe(conn, messages, now=now)


async def claim(
    conn: AsyncConnection, *, holder: str = "us", now: datetime = NOON, limit: int = 10
) -> list[int]:
    taken = await publications.claim(conn, holder=holder, now=now, lease=LEASE, limit=limit)
    return [message.id for message in taken]


async def settle(
    conn: AsyncConnection, *published: int, more: bool = True, now: datetime = NOON
) -> None:
    await publications.settle(conn, published=published, holder="us", more=more, now=now)


async def test_messages_are_claimed_in_order_and_stay_until_they_are_published(
    conn: AsyncConnection,
) -> None:
    assert not await publications.are_owed(conn)
    await owe(conn, "a", "b", "a")
    assert await publications.are_owed(conn)
    assert await claim(conn, limit=2) == [1, 2]
    await settle(conn, 1)
    assert await claim(conn) == [2, 3]


async def test_one_daemon_publishes_at_a_time(conn: AsyncConnection) -> None:
    await owe(conn, "a", "b")
    assert await claim(conn, limit=1) == [1]
    assert await claim(conn, holder="another") == []
    await settle(conn, 1)
    assert await claim(conn, holder="another") == []
    await settle(conn, more=False)
    assert await claim(conn, holder="another") == [2]


async def test_who_was_killed_goes_on_at_once_and_others_after_the_lease(
    conn: AsyncConnection,
) -> None:
    await owe(conn, "a")
    assert await claim(conn) == [1]
    assert await claim(conn) == [1]
    assert await claim(conn, holder="another", now=NOON + LEASE) == [1]
    assert await claim(conn, now=NOON + LEASE) == []


async def test_without_messages_nothing_is_written(conn: AsyncConnection) -> None:
    assert await claim(conn) == []
    assert await (await conn.execute("select from publisher")).fetchall() == []


async def test_what_is_too_old_or_too_much_goes_and_is_counted(conn: AsyncConnection) -> None:
    await owe(conn, "old", now=NOON - timedelta(days=2))
    await owe(conn, "a", "b", "c")
    dropped = await publications.forget(conn, before=NOON - timedelta(days=1))
    assert (dropped.count, dropped.oldest_at) == (1, NOON - timedelta(days=2))
    assert (await publications.crop(conn, most=3)).count == 0
    assert (await publications.crop(conn, most=1)).count == 2
    assert await claim(conn) == [4]


async def test_the_tree_is_not_dropped(conn: AsyncConnection) -> None:
    await publications.owe(conn, [Publication("tree", b"", retain=True)], now=NOON)
    assert (await publications.forget(conn, before=NOON + timedelta(days=1))).count == 0
    assert (await publications.crop(conn, most=0)).count == 0


async def site(conn: AsyncConnection) -> None:
    """A provider with two groups, the first of them with an optimizer."""
    await conn.execute("insert into account values (1, %s)", (NOON,))
    for name, role in (("Lines Co.", "CapacityProvider"), ("Opt", "CapacityOptimizer")):
        await conn.execute(
            """
            insert into peer (user_id, role, name, enabled, oscp_version, link_changed_at,
                              created_at, modified_at)
            values (1, %(role)s, %(name)s, true, '2.0', %(now)s, %(now)s, %(now)s)
            """,
            {"now": NOON, "name": name, "role": role},
        )
    for identifier, optimizer in (("one", 2), ("two", None)):
        await conn.execute(
            """
            insert into capacity_group (user_id, name, identifier, enabled, provider_id,
                optimizer_id, provider_period_s, optimizer_period_s, created_at, modified_at)
            values (1, 'Group', %(id)s, true, 1, %(co)s, 60, 60, %(now)s, %(now)s)
            """,
            {"now": NOON, "id": identifier, "co": optimizer},
        )


async def say(conn: AsyncConnection, group_id: int | None, **columns: Any) -> None:
    names = ["user_id", "group_id", "created_at", "modified_at", *columns]
    await conn.execute(
        f"insert into publish_settings ({', '.join(names)}) "
        f"values ({', '.join(['%s'] * len(names))})",
        (1, group_id, NOON, NOON, *columns.values()),
    )


async def outlets(conn: AsyncConnection, peer_id: int = 1) -> list[tuple[Any, ...]]:
    return [
        (o.group_identifier, o.node_id, o.template, o.to_solar_in, o.to_solar_flux)
        for o in await publications.outlets(conn, peer_ids=[peer_id])
    ]


async def test_without_settings_nothing_is_published(conn: AsyncConnection) -> None:
    await site(conn)
    assert await outlets(conn) == []


async def test_the_users_settings_hold_for_every_group(conn: AsyncConnection) -> None:
    await site(conn)
    await say(conn, None, node_id=7, source_id_template="/x")
    assert await outlets(conn) == [("one", 7, "/x", True, True), ("two", 7, "/x", True, True)]
    assert await outlets(conn, peer_id=2) == [("one", 7, "/x", True, True)]


async def test_a_group_overrides_field_by_field(conn: AsyncConnection) -> None:
    await site(conn)
    await say(conn, None, node_id=7, source_id_template="/x", publish_to_solar_in=False)
    await say(conn, 1, node_id=8, publish_to_solar_flux=False)
    await say(conn, 2, source_id_template="/y", publish_to_solar_in=True)
    assert await outlets(conn) == [("one", 8, "/x", False, False), ("two", 7, "/y", True, True)]


async def test_a_group_without_any_node_publishes_nothing(conn: AsyncConnection) -> None:
    await site(conn)
    await say(conn, 1, source_id_template="/y")
    await say(conn, 2, node_id=9)
    assert await outlets(conn) == [("two", 9, None, True, True)]
