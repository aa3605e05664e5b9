"""The MQTT client as the daemon uses it, against our own broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs
from support.mqtt import Clients, Inbox, client_at
from support.waiting import wait_for

from fpd.embedded.broker import EmbeddedBroker
from fpd.errors import Unavailable
from fpd.mqtt.client import MqttClient


async def test_what_is_published_arrives(broker: EmbeddedBroker, clients: Clients) -> None:
    inbox = Inbox()
    await clients.connect(broker, "listener", filters=["node/+/datum/0/#"], inbox=inbox)
    sender = await clients.connect(broker, "sender")
    await sender.publish("node/7/datum/0/a", b"{}", qos=1, retain=False)
    await sender.publish("node/7/other", b"not asked for", qos=1, retain=False)
    await sender.publish("node/7/datum/0/b", b"", qos=0, retain=False)
    await wait_for(lambda: len(inbox.messages) == 2)
    assert inbox.messages == [("node/7/datum/0/a", b"{}"), ("node/7/datum/0/b", b"")]


async def test_many_callers_keep_their_order(broker: EmbeddedBroker, clients: Clients) -> None:
    inbox = Inbox()
    client = await clients.connect(broker, "one", filters=["x/#"], inbox=inbox)
    numbers = [str(n).encode() for n in range(300)]
    await asyncio.gather(*[client.publish("x/y", n, qos=1, retain=False) for n in numbers])
    await wait_for(lambda: len(inbox.messages) == 300)
    assert inbox.payloads == numbers


async def test_everybody_can_see_whether_we_are_there(
    broker: EmbeddedBroker, clients: Clients
) -> None:
    watching, late = Inbox(), Inbox()
    await clients.connect(broker, "watcher", filters=["fpd/site/status"], inbox=watching)
    site = await clients.connect(broker, "site")
    await wait_for(lambda: watching.payloads == [b"online"])
    await clients.end(site)
    await wait_for(lambda: watching.payloads == [b"online", b"offline"])
    await clients.connect(broker, "latecomer", filters=["fpd/+/status"], inbox=late)
    await wait_for(lambda: ("fpd/site/status", b"offline") in late.messages)


async def test_without_a_broker_nothing_hangs_and_nothing_is_repeated(
    free_port: Callable[[], int], clients: Clients
) -> None:
    client = client_at(f"mqtt://127.0.0.1:{free_port()}")
    with capture_logs() as logs:
        clients.run(client)
        await wait_for(lambda: len(logs) > 0)
        await asyncio.sleep(0.7)  # two more tries
        with pytest.raises(Unavailable):
            await client.publish("x", b"", qos=1, retain=False)
    assert [entry["event"] for entry in logs] == ["mqtt.unreachable"]
    assert not client.connected


async def test_a_broker_that_returns_is_found_again(
    broker: EmbeddedBroker, clients: Clients
) -> None:
    inbox = Inbox()
    client = await clients.connect(broker, "one", filters=["x"], inbox=inbox)
    with capture_logs() as logs:
        await broker.stop()
        await wait_for(lambda: not client.connected)
        with pytest.raises(Unavailable):
            await client.publish("x", b"lost", qos=1, retain=False)
        await broker.start()
        await wait_for(lambda: client.connected)
    ours = [entry["event"] for entry in logs if entry["event"].startswith("mqtt.")]
    assert ours == ["mqtt.lost", "mqtt.connected"]
    await client.publish("x", b"there", qos=1, retain=False)
    await wait_for(lambda: inbox.payloads == [b"there"])


async def test_who_waits_for_an_acknowledgement_is_told_of_the_loss(clients: Clients) -> None:
    """A server that lets us in and then keeps silent, as a stuck broker does."""
    received = asyncio.Event()
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        while data := await reader.read(1000):
            if b"precious" in data:
                received.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = client_at(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        clients.run(client)
        await wait_for(lambda: client.connected)
        publishing = asyncio.create_task(client.publish("x", b"precious", qos=1, retain=False))
        await received.wait()
        connections[0].transport.abort()
        with pytest.raises(Unavailable):
            await publishing
        await clients.close()


async def test_a_refused_subscription_is_told(clients: Clients) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\x00\x00")
        asked = await reader.readuntil(b"secret/#\x01")
        writer.write(b"\x90\x04" + asked[2:4] + b"\x01\x80")
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        client = client_at(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        client.subscribe(["x", "secret/#"], Inbox())
        with capture_logs() as logs:
            clients.run(client)
            await wait_for(lambda: len(logs) > 1)
        assert logs[1]["event"] == "mqtt.subscription_refused"
        assert logs[1]["topics"] == ["secret/#"]
        await clients.close()


@pytest.mark.parametrize("garbage", [b"\xff" * 50, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20"])
async def test_a_server_that_is_no_broker_is_unreachable(garbage: bytes, clients: Clients) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(garbage)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        with capture_logs() as logs:
            clients.run(client_at(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            await wait_for(lambda: len(logs) > 0)
        await clients.close()
    assert [entry["event"] for entry in logs] == ["mqtt.unreachable"]


async def test_a_wrong_password_is_told_but_not_shown(
    broker: EmbeddedBroker, clients: Clients
) -> None:
    client = MqttClient(
        broker.address.url, username="subscriber", password="secret", ca_file=None, instance="one"
    )
    with capture_logs() as logs:
        clients.run(client)
        await wait_for(lambda: any(entry["event"] == "mqtt.unreachable" for entry in logs))
    assert not client.connected
    assert "secret" not in str(logs)


async def test_the_address_may_hold_the_credentials(
    broker: EmbeddedBroker, clients: Clients
) -> None:
    address = broker.address
    credentials = "subscriber:" + quote("subscriber's password")
    client = client_at(f"mqtt://{credentials}@{address.host}:{address.port}")
    clients.run(client)
    await wait_for(lambda: client.connected)
