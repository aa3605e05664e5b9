"""Streams: idempotent batches, partitions by month, the latest and a range."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from psycopg import AsyncConnection

from fpd.domain.datum import Datum, StreamKey
from fpd.store import streams

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
METER = StreamKey(1, 7, "meter/1")


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(database_url, autocommit=True) as conn:
        yield conn


def datum(watts: str, at: datetime = NOON, stream: StreamKey = METER) -> Datum:
    return Datum(stream=stream, at=at, i={"watts": Decimal(watts)})


async def write(conn: AsyncConnection, *datums: Datum, now: datetime = NOON) -> frozenset[int]:
    async with conn.transaction():
        return await streams.write(conn, datums, now=now)


async def everything(conn: AsyncConnection) -> list[Datum]:
    return await streams.between(
        conn,
        stream=METER,
        start_at=NOON - timedelta(days=1000),
        end_at=NOON + timedelta(days=1000),
        limit=1000,
    )


async def partitions(conn: AsyncConnection) -> dict[str, int]:
    """How many datum each partition holds."""
    cursor = await conn.execute(
        """
        select c.relname, count(d.at) from pg_inherits as h join pg_class as c on c.oid = h.inhrelid
          left join datum as d on d.tableoid = c.oid
         where h.inhparent = 'datum'::regclass group by c.relname
        """
    )
    return dict(await cursor.fetchall())


async def test_what_is_written_is_read_back_exactly(conn: AsyncConnection) -> None:
    whole = Datum(
        stream=METER,
        at=NOON + timedelta(microseconds=1),
        i={"watts": Decimal("230.10"), "tiny": Decimal("0.000000000000000000000000000001")},
        a={"wattHours": Decimal("123456789012345678901234567890")},
        s={"mode": "auto ü", "on": True, "state": Decimal(3)},
        t=("a", "b"),
    )
    await write(conn, whole)
    assert await everything(conn) == [whole]


async def test_delivered_twice_is_kept_once(conn: AsyncConnection) -> None:
    await write(conn, datum("1"), datum("2", NOON + timedelta(seconds=1)))
    await write(conn, datum("1"), datum("2", NOON + timedelta(seconds=1)))
    assert [d.i["watts"] for d in await everything(conn)] == [1, 2]


async def test_only_a_changed_datum_is_touched_and_known_as_corrected(
    conn: AsyncConnection,
) -> None:
    later = NOON + timedelta(hours=1)
    await write(conn, datum("1"), datum("2", later))
    await write(conn, datum("1"), datum("3", later), now=later)
    cursor = await conn.execute(
        "select (i -> 'watts')::int, received_at, corrected_at from datum order by at"
    )
    assert await cursor.fetchall() == [(1, NOON, None), (3, NOON, later)]


async def test_the_later_of_two_in_a_batch_counts(conn: AsyncConnection) -> None:
    await write(conn, datum("1"), datum("2"), datum("3"))
    assert [d.i["watts"] for d in await everything(conn)] == [3]


async def test_two_batches_in_one_transaction(conn: AsyncConnection) -> None:
    async with conn.transaction():
        await streams.write(conn, [datum("1")], now=NOON)
        await streams.write(conn, [datum("2")], now=NOON)
    assert [d.i["watts"] for d in await everything(conn)] == [2]


async def test_nothing_is_kept_of_a_transaction_that_fails(conn: AsyncConnection) -> None:
    with pytest.raises(ZeroDivisionError):
        async with conn.transaction():
            await streams.write(conn, [datum("1")], now=NOON)
            raise ZeroDivisionError
    assert await everything(conn) == []
    await write(conn, datum("2"))
    assert len(await everything(conn)) == 1


async def test_an_unknown_user_owns_nothing(conn: AsyncConnection) -> None:
    foreign = StreamKey(42, 7, "meter/1")
    assert await write(conn, datum("1", stream=foreign), datum("2")) == {42}
    assert len(await everything(conn)) == 1
    await conn.execute("insert into account values (42, %s)", (NOON,))
    assert await write(conn, datum("1", stream=foreign)) == frozenset()


async def test_months_get_partitions_and_strays_move_in(conn: AsyncConnection) -> None:
    may = datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)
    june = datetime(2026, 6, 1, tzinfo=UTC)
    await write(conn, datum("1", may), datum("2", june), datum("3", NOON))
    assert await partitions(conn) == {"datum_other": 3}
    for _ in range(2):
        async with conn.transaction():
            await streams.make_partitions(conn, instants=[may, NOON, NOON])
    assert await partitions(conn) == {"datum_other": 1, "datum_2026_03": 1, "datum_2026_05": 1}
    await write(conn, datum("1", may), datum("4", june))
    assert [d.i["watts"] for d in await everything(conn)] == [3, 1, 4]


async def test_old_months_are_dropped_whole(conn: AsyncConnection) -> None:
    months = [datetime(2026, month, 15, tzinfo=UTC) for month in (1, 2, 3)]
    stray = datetime(2020, 1, 1, tzinfo=UTC)
    async with conn.transaction():
        await streams.make_partitions(conn, instants=months)
    await write(conn, *[datum("1", at) for at in (*months, stray)])
    assert await streams.drop_partitions(conn, before=datetime(2026, 3, 1, tzinfo=UTC)) == 2
    assert [d.at for d in await everything(conn)] == months[2:]
    assert await partitions(conn) == {"datum_other": 0, "datum_2026_03": 1}


async def test_the_latest_of_many_streams(conn: AsyncConnection) -> None:
    other = StreamKey(1, 7, "meter/2")
    await write(
        conn,
        datum("1"),
        datum("2", NOON + timedelta(seconds=5)),
        datum("3", NOON + timedelta(days=1)),
        datum("4", NOON - timedelta(hours=2), other),
    )
    found = await streams.latest(
        conn,
        streams=[METER, other, StreamKey(1, 8, "none")],
        after=NOON - timedelta(hours=1),
        until=NOON + timedelta(minutes=1),
    )
    assert {key: d.i["watts"] for key, d in found.items()} == {METER: 2}


async def test_a_range_is_half_open_and_bounded(conn: AsyncConnection) -> None:
    await write(conn, *[datum(str(n), NOON + timedelta(seconds=n)) for n in range(5)])
    found = await streams.between(
        conn, stream=METER, start_at=NOON, end_at=NOON + timedelta(seconds=4), limit=3
    )
    assert [d.i["watts"] for d in found] == [0, 1, 2]


async def test_the_datum_of_a_stream_go_with_it(conn: AsyncConnection) -> None:
    other = StreamKey(1, 7, "meter/2")
    await write(conn, datum("1"), datum("2", stream=other))
    await conn.execute("delete from stream where source_id = 'meter/1'")
    cursor = await conn.execute("select count(*) from datum")
    assert await cursor.fetchone() == (1,)
    await write(conn, datum("3"))
    assert [d.i["watts"] for d in await everything(conn)] == [3]
    for emptied in ("delete from account", "truncate account cascade"):
        await conn.execute(emptied)
        cursor = await conn.execute("select count(*) from datum")
        assert await cursor.fetchone() == (0,)
        await write(conn, datum("4"))
