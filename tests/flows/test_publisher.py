"""The outbox of the broker: at least once, in order, whatever breaks; bounded, and told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from flows.measured_site import NOON, Hands, Site, cancel
from structlog.testing import capture_logs
from support.listener import PROGRAM, Listener, in_order
from support.mosquitto import Mosquitto, needs_mosquitto
from support.mqtt import Clients, Inbox, client_at
from support.waiting import wait_for

from fpd.embedded.broker import EmbeddedBroker
from fpd.errors import Unavailable
from fpd.flows import publisher
from fpd.store import publications
from fpd.store.db import Database
from fpd.store.publications import Publication


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    db = Database(database_url, clock=Hands())
    await db.open()
    yield db
    await db.close()


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    clients = Clients()
    yield clients
    await clients.close()


async def owe(site: Site, first: int, last: int, *, topics: int = 10) -> None:
    messages = [Publication(f"x/{n % topics}", b"%d" % n) for n in range(first, last)]
    async with site.db.transaction() as conn:
        await publications.owe(conn, messages, now=site.clock.at)


async def left(site: Site) -> int:
    ((count,),) = await site.fetch("select count(*) from publication")
    return int(count)


async def keep_publishing(site: Site) -> None:
    while True:
        with contextlib.suppress(Unavailable):
            while await publisher.step(site.context):
                pass
        await asyncio.sleep(0.02)


@needs_mosquitto
@pytest.mark.skipif(PROGRAM is None, reason="no mosquitto_sub is installed")
async def test_a_broker_that_stops_in_the_middle_gets_everything_in_order(
    db: Database, tmp_path: Path, free_port: Callable[[], int], clients: Clients
) -> None:
    broker = Mosquitto(tmp_path, free_port(), lines="max_queued_messages 0")
    await broker.start()
    listener = Listener(broker, "x/#", tmp_path)
    await listener.start()
    site = Site(db, Hands(), client_at(broker.url, "fpd"))
    clients.run(site.context.mqtt)
    await owe(site, 0, 6000)
    publishing = asyncio.create_task(keep_publishing(site))
    try:
        await wait_for(lambda: listener.count() > 500)
        await broker.stop()
        assert await left(site) > 0
        await owe(site, 6000, 7000)
        await broker.start()
        async with asyncio.timeout(20):
            while await left(site):
                await asyncio.sleep(0.05)
        await wait_for(lambda: listener.count() == 7000, timeout=10)
        assert all(in_order(numbers) for numbers in listener.numbers().values())
    finally:
        await cancel(publishing)
        await listener.stop()
        await clients.close()
        await broker.stop()


async def test_what_is_acknowledged_out_of_order_is_sent_again(
    db: Database, clients: Clients
) -> None:
    """A broker that acknowledges the third message, never the second, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        data = b""
        while b"three" not in data:
            data += await reader.read(1000)
        ids = [data[data.index(p) - 2 : data.index(p)] for p in (b"one", b"two", b"three")]
        writer.write(b"\x40\x02" + ids[0] + b"\x40\x02" + ids[2])
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        site = Site(db, Hands(), client_at(f"mqtt://127.0.0.1:{port}", "us"))
        async with db.transaction() as conn:
            words = [Publication("x", word) for word in (b"one", b"two", b"three")]
            await publications.owe(conn, words, now=NOON)
        clients.run(site.context.mqtt)
        await wait_for(lambda: site.context.mqtt.connected)
        with pytest.raises(Unavailable):
            await publisher.step(site.context)
        rows = await site.fetch("select payload from publication order by id")
        assert [bytes(payload) for (payload,) in rows] == [b"two", b"three"]
        await clients.close()


async def test_a_slow_broker_is_given_no_more_than_it_takes(
    db: Database, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that acknowledges the window, but not before no more is to be begun."""
    monkeypatch.setattr("fpd.mqtt.connection._BATCH_S", 0.0)
    monkeypatch.setattr("fpd.mqtt.batch._WINDOW", 70)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        data = b""
        while data := data + await reader.read(65536):
            while len(data) > 1 and len(data) >= data[1] + 2:
                packet, data = data[: data[1] + 2], data[data[1] + 2 :]
                topic_length = int.from_bytes(packet[2:4], "big")
                writer.write(b"\x40\x02" + packet[4 + topic_length : 6 + topic_length])
            await asyncio.sleep(0)
            if reader.at_eof():
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        site = Site(db, Hands(), client_at(f"mqtt://127.0.0.1:{port}", "us"))
        await owe(site, 0, 200)
        clients.run(site.context.mqtt)
        await wait_for(lambda: site.context.mqtt.connected)
        assert await publisher.step(site.context)  # there is more
        assert 0 < await left(site) < 200
        while await publisher.step(site.context):
            pass
        assert await left(site) == 0
        assert site.context.mqtt.connected
        await clients.close()


@pytest.mark.parametrize("qos", [0, 1])
async def test_more_than_a_window_and_a_batch_leaves(
    db: Database, broker: EmbeddedBroker, clients: Clients, qos: int
) -> None:
    site = Site(db, Hands(), await clients.connect(broker, "fpd"))
    site.configure(qos=qos)
    await owe(site, 0, 2100)
    assert await publisher.step(site.context)
    assert not await publisher.step(site.context)
    assert await left(site) == 0
    assert site.counted("fpd_mqtt_published") == 2100


async def test_retain_is_as_configured_but_for_the_tree(
    db: Database, broker: EmbeddedBroker, clients: Clients
) -> None:
    site = Site(db, Hands(), await clients.connect(broker, "fpd"))
    for retain, kept in ((False, {"x/tree"}), (True, {"x/tree", "x/datum"})):
        site.configure(retain=retain)
        async with db.transaction() as conn:
            both = [Publication("x/datum", b"1"), Publication("x/tree", b"1", retain=True)]
            await publications.owe(conn, both, now=NOON)
        await publisher.step(site.context)
        inbox = Inbox()
        late = await clients.connect(broker, f"late-{retain}", filters=["x/#"], inbox=inbox)
        await late.publish("x/end", b"", qos=1, retain=False)
        await wait_for(lambda inbox=inbox: ("x/end", b"") in inbox.messages)  # type: ignore[misc]
        assert {topic for topic, _ in inbox.messages} == kept | {"x/end"}


async def test_what_waits_too_long_or_is_too_much_goes_and_is_told(db: Database) -> None:
    site = Site(db, Hands())
    site.configure(spool=1000)
    await owe(site, 0, 5)
    site.clock.move(days=7, seconds=1)
    await owe(site, 5, 1012)
    with capture_logs() as logs:
        await publisher.shed(site.context)
        await publisher.shed(site.context)
    assert [(entry["event"], entry["reason"], entry["count"]) for entry in logs] == [
        ("publications.dropped", "old", 5),
        ("publications.dropped", "many", 7),
    ]
    assert await left(site) == 1000
    assert site.counted("fpd_mqtt_dropped", reason="old") == 5
    assert site.counted("fpd_mqtt_dropped", reason="many") == 7
    told = await site.fetch("select kind, data from event order by id")
    assert [(kind, data["reason"], data["count"]) for kind, data in told] == [
        ("publications.dropped", "too old", 5),
        ("publications.dropped", "too many", 7),
    ]
    assert told[0][1]["oldestAt"] == NOON.isoformat().replace("+00:00", "Z")
