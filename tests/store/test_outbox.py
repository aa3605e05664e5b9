"""Messages owed to peers: order, leases, batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection

from fpd.store import outbox
from fpd.store.outbox import Owed, Settlement

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(database_url, autocommit=True) as conn:
        await conn.execute("insert into account values (1, %s)", (NOON,))
        await conn.execute(
            """
            insert into peer (user_id, role, name, enabled, base_url, oscp_version, link,
                              link_changed_at, created_at, modified_at)
            select 1, 'CapacityOptimizer', 'co', true, 'https://co.example/' || n, '2.0', link,
                   %(now)s, %(now)s, %(now)s
              from unnest(array['online', 'offline']) with ordinality as l (link, n)
            """,
            {"now": NOON},
        )
        yield conn


def owed(request_id: str, *, peer_id: int = 1, lane: str = "group:1", **changes: object) -> Owed:
    fields = {
        "peer_id": peer_id,
        "lane": lane,
        "operation": "update_group_capacity_forecast",
        "body": b"{}",
        "request_id": request_id,
        "due_at": NOON,
        **changes,
    }
    return Owed(**fields)  # type: ignore[arg-type]


async def claimed(conn: AsyncConnection, *, now: datetime = NOON, limit: int = 100) -> list[str]:
    taken = await outbox.claim(conn, now=now, lease=LEASE, limit=limit)
    return [message.request_id for message in taken]


async def settle(conn: AsyncConnection, request_id: str, outcome: str | None) -> None:
    cursor = await conn.execute("select id from outbox where request_id = %s", (request_id,))
    row = await cursor.fetchone()
    assert row is not None
    later = NOON + timedelta(seconds=1)
    settlement = Settlement(id=row[0], outcome=outcome, status=None, error=None, due_at=later)
    await outbox.settle(conn, [settlement], now=NOON)


async def test_a_lane_keeps_its_order_and_lanes_do_not_wait_for_each_other(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed("a1"), owed("a2"), owed("b1", lane="group:2")], now=NOON)
    assert sorted(await claimed(conn)) == ["a1", "b1"]
    assert await claimed(conn) == []
    await settle(conn, "a1", None)
    assert await claimed(conn) == [], "a2 must not overtake a1, which is tried again later"
    assert await claimed(conn, now=NOON + timedelta(seconds=2)) == ["a1"]
    await settle(conn, "a1", "delivered")
    assert await claimed(conn) == ["a2"]


async def test_a_dead_daemon_gives_its_messages_back_when_the_lease_ends(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed("m")], now=NOON)
    assert await claimed(conn) == ["m"]
    assert await claimed(conn, now=NOON + LEASE - timedelta(seconds=1)) == []
    (again,) = await outbox.claim(conn, now=NOON + LEASE, lease=LEASE, limit=1)
    assert (again.request_id, again.attempts) == ("m", 2)


async def test_only_messages_of_the_link_go_to_a_peer_that_is_offline(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed("f", peer_id=2), owed("h", peer_id=2, lane=outbox.LINK)], now=NOON)
    assert await claimed(conn) == ["h"]


async def test_owing_the_same_message_twice_owes_it_once(conn: AsyncConnection) -> None:
    for _ in range(2):
        await outbox.owe(conn, [owed("once")], now=NOON)
    assert await claimed(conn) == ["once"]
    cursor = await conn.execute("select count(*) from outbox")
    assert await cursor.fetchone() == (1,)


async def test_what_has_become_worthless_is_dropped_and_lets_the_next_pass(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed("old", expires_at=NOON), owed("new")], now=NOON)
    assert await outbox.expire(conn, now=NOON) == 1
    assert await claimed(conn) == ["new"]


async def test_a_settled_secret_is_not_kept(conn: AsyncConnection) -> None:
    await outbox.owe(conn, [owed("s", lane=outbox.LINK, body=b"secret", sealed=True)], now=NOON)
    await settle(conn, "s", "delivered")
    cursor = await conn.execute("select body from outbox")
    assert await cursor.fetchone() == (b"",)


async def test_two_daemons_never_take_the_same_message(
    conn: AsyncConnection, database_url: str
) -> None:
    await outbox.owe(conn, [owed(f"m{n}", lane=f"group:{n}") for n in range(200)], now=NOON)

    async def daemon() -> list[str]:
        taken: list[str] = []
        async with await AsyncConnection.connect(database_url, autocommit=True) as own:
            while batch := await claimed(own, limit=7):
                taken += batch
        return taken

    taken = [
        name for batch in await asyncio.gather(*(daemon() for _ in range(4))) for name in batch
    ]
    assert len(taken) == len(set(taken)) == 200
