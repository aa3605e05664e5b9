"""Messages owed to peers: order, leases, batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import AsyncConnection

from fpd.store import lanes, outbox
from fpd.store.lanes import Message, Return, Settlement, Taken
from fpd.store.outbox import Owed

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


async def taken(
    conn: AsyncConnection, *, now: datetime = NOON, limit: int = 100, per_peer: int = 1000
) -> list[Taken]:
    return (await lanes.take(conn, now=now, lease=LEASE, limit=limit, per_peer=per_peer))[0]


async def firsts(
    conn: AsyncConnection, of: Sequence[Taken], *, now: datetime = NOON, bytes_: int = 10**6
) -> list[Message]:
    keys = [lane.key for lane in of]
    return await lanes.firsts(conn, lanes=keys, now=now, most=16, bytes_=bytes_)


async def claimed(
    conn: AsyncConnection, *, now: datetime = NOON, limit: int = 100, per_peer: int = 1000
) -> list[str]:
    """Take lanes and return the request ids that may go."""
    of = await taken(conn, now=now, limit=limit, per_peer=per_peer)
    return [message.request_id for message in await firsts(conn, of, now=now)]


async def settle(
    conn: AsyncConnection, lane: Taken, request_id: str, outcome: str | None, *, failures: int = 0
) -> None:
    """Note what came of a message and give its lane back."""
    cursor = await conn.execute("select id from outbox where request_id = %s", (request_id,))
    row = await cursor.fetchone()
    assert row is not None
    settlement = Settlement(id=row[0], outcome=outcome, status=None, error=None)
    later_at = None if outcome else NOON + timedelta(seconds=1)
    async with conn.transaction():
        assert await lanes.settle(conn, [settlement], now=NOON) == {row[0]}
    await give_back(conn, lane, failures=failures, later_at=later_at)


async def give_back(
    conn: AsyncConnection, lane: Taken, *, failures: int = 0, later_at: datetime | None = None
) -> None:
    async with conn.transaction():
        back = Return(lane=lane, failures=failures, later_at=later_at)
        await lanes.give_back(conn, [back], now=NOON)


async def test_a_lane_keeps_its_order_and_lanes_do_not_wait_for_each_other(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed("a1"), owed("b1", lane="group:2"), owed("a2")], now=NOON)
    both = {lane.name: lane for lane in await taken(conn)}
    assert [m.request_id for m in await firsts(conn, list(both.values()))] == ["a1", "b1", "a2"]
    assert await taken(conn) == [], "both lanes are in our hands"
    await settle(conn, both["group:1"], "a1", None, failures=1)
    assert await taken(conn) == [], "a2 must not overtake a1, which is tried again later"
    await outbox.owe(conn, [owed("a3")], now=NOON)
    assert await taken(conn) == [], "nor does what comes now shorten the wait"
    (lane,) = await taken(conn, now=NOON + timedelta(seconds=2))
    assert [m.request_id for m in await firsts(conn, [lane])] == ["a1", "a2", "a3"]
    await settle(conn, lane, "a1", "delivered")
    assert await claimed(conn) == ["a2", "a3"]


async def test_a_dead_daemon_gives_its_messages_back_when_the_lease_ends(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed("m")], now=NOON)
    assert await claimed(conn) == ["m"]
    assert await claimed(conn, now=NOON + LEASE - timedelta(seconds=1)) == []
    (lane,) = await taken(conn, now=NOON + LEASE)
    (again,) = await firsts(conn, [lane])
    late = replace(lane, leased_until=NOON + LEASE)
    await give_back(conn, late)
    assert await taken(conn, now=NOON + LEASE) == [], "it is not the dead one's to give back"
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
    (lane,) = await taken(conn)
    await settle(conn, lane, "s", "delivered")
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


async def test_what_waits_together_goes_together_and_within_bounds(conn: AsyncConnection) -> None:
    bodies = {"a": b"x" * 10, "b": b"x" * 10, "c": b"x" * 10}
    await outbox.owe(conn, [owed(name, body=body) for name, body in bodies.items()], now=NOON)
    lane = await taken(conn)
    assert [m.request_id for m in await firsts(conn, lane)] == ["a", "b", "c"]
    assert [m.request_id for m in await firsts(conn, lane, bytes_=20)] == ["a", "b"]
    assert [m.request_id for m in await firsts(conn, lane, bytes_=5)] == ["a"], "never none at all"


async def test_nothing_overtakes_a_message_that_is_held_back(conn: AsyncConnection) -> None:
    later = NOON + timedelta(seconds=60)
    held, quick = owed("held", lane=outbox.LINK, due_at=later), owed("quick", lane=outbox.LINK)
    await outbox.owe(conn, [held, quick], now=NOON)
    (lane,) = await taken(conn)
    assert await firsts(conn, [lane]) == []
    await give_back(conn, lane)
    assert await taken(conn) == [], "the lane is due when its first message is"
    await outbox.release(conn, peer_id=1, request_id="held", now=NOON)
    assert await claimed(conn) == ["held", "quick"]


async def test_of_a_peer_that_does_not_answer_one_lane_asks_whether_it_does(
    conn: AsyncConnection,
) -> None:
    await outbox.owe(conn, [owed(f"m{n}", lane=f"group:{n}") for n in range(5)], now=NOON)
    again_at = NOON + timedelta(seconds=8)
    await lanes.note_silence(conn, answered=[], silent={1: (4, again_at)})
    assert await taken(conn) == []
    (only,) = await taken(conn, now=again_at)
    assert only.silences == 4
    await lanes.note_silence(conn, answered=[1], silent={})
    assert len(await taken(conn, now=again_at + timedelta(seconds=1))) == 4


async def test_a_peer_with_many_lanes_takes_no_more_than_its_share(conn: AsyncConnection) -> None:
    many = [owed(f"m{n}", lane=f"group:{n}") for n in range(20)]
    await outbox.owe(conn, many, now=NOON)
    first = await taken(conn, per_peer=8)
    assert len(first) == 8
    soon = NOON + timedelta(seconds=1)
    assert await taken(conn, now=soon, per_peer=8) == [], "eight are under way"
    await give_back(conn, first[0])
    assert len(await taken(conn, now=soon + timedelta(seconds=1), per_peer=8)) == 1


async def test_a_handshake_wakes_what_waits(conn: AsyncConnection) -> None:
    await outbox.owe(conn, [owed("f")], now=NOON)
    (lane,) = await taken(conn)
    await settle(conn, lane, "f", None, failures=7)
    await lanes.note_silence(conn, answered=[], silent={1: (9, NOON + timedelta(minutes=1))})
    assert await taken(conn, now=NOON) == []
    await lanes.wake(conn, peer_id=1, now=NOON)
    assert await claimed(conn) == ["f"]


async def test_lanes_of_those_who_are_away_hold_back_nobody_behind_them(
    conn: AsyncConnection,
) -> None:
    earlier = NOON - timedelta(minutes=1)
    away = [owed(f"a{n}", peer_id=2, lane=f"group:{n}", due_at=earlier) for n in range(7)]
    await outbox.owe(conn, [*away, owed("here")], now=NOON)
    passes: list[tuple[list[str], bool]] = []
    while not passes or passes[-1][1]:
        some, more = await lanes.take(conn, now=NOON, lease=LEASE, limit=3, per_peer=8)
        passes.append(([m.request_id for m in await firsts(conn, some)], more))
    assert passes == [([], True), ([], True), (["here"], False)]


async def test_a_report_of_many_assets_is_kept_byte_for_byte(conn: AsyncConnection) -> None:
    """It is brought in pieces, beside others, also again after a transaction that failed."""
    large = bytes(range(256)) * 4100 + b"the end"
    some = [owed("1", body=large), owed("2", body=b"{}"), owed("3", body=bytearray(large[::-1]))]
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await outbox.owe(conn, some, now=NOON)
            raise ZeroDivisionError
    async with conn.transaction():
        await outbox.owe(conn, some, now=NOON)
        await outbox.owe(conn, [owed("3", body=large), owed("4", body=large)], now=NOON)
    found = await firsts(conn, await taken(conn), bytes_=10**7)
    assert [message.request_id for message in found] == ["1", "2", "3", "4"]
    assert [message.body for message in found] == [large, b"{}", large[::-1], large]
