"""The daemon's own broker: who may use it, what it delivers, and how it comes and goes."""

from __future__ import annotations

import asyncio
import functools
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import structlog
from paho.mqtt.client import Client as Paho
from paho.mqtt.client import MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from support.waiting import wait_for

from fpd.embedded.broker import BrokerAddress, EmbeddedBroker
from fpd.errors import Misconfigured

TOPIC = "user/1/node/7/datum/0/meter/1"
SUBSCRIBER = ("subscriber", "subscriber's password")


@dataclass
class Client:
    """An MQTT client as others have one: paho with a thread of its own."""

    paho: Paho
    answer: str = ""
    subscribed: bool = False
    messages: list[MQTTMessage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paho.on_connect = self._connected
        self.paho.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.paho.on_message = lambda _client, _data, message: self.messages.append(message)

    def _connected(self, *arguments: object) -> None:
        self.answer = str(arguments[3])

    @property
    def texts(self) -> list[str]:
        return [message.payload.decode() for message in self.messages]

    async def accepted(self) -> Client:
        await wait_for(lambda: self.answer)
        assert self.answer == "Success"
        return self

    async def subscribe(self, topic: str) -> None:
        self.subscribed = False
        self.paho.subscribe(topic, qos=1)
        await wait_for(lambda: self.subscribed)

    async def publish(self, topic: str, text: str, *, retain: bool = False) -> None:
        """Return when the broker has taken it."""
        sent = self.paho.publish(topic, text, qos=1, retain=retain)
        await wait_for(sent.is_published)


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects clients to a broker; they leave at the end."""
    clients: list[Client] = []

    def connect(
        broker: EmbeddedBroker,
        login: tuple[str, str] | None = SUBSCRIBER,
        *,
        name: str = "",
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv311,
        persistent: bool = False,
        will: tuple[str, str] | None = None,
    ) -> Client:
        """A client with a name has a session that is kept; a persistent one comes back."""
        paho = Paho(
            CallbackAPIVersion.VERSION2,
            name,
            clean_session=None if protocol == MQTTProtocolVersion.MQTTv5 else not name,
            protocol=protocol,
            reconnect_on_failure=persistent,
        )
        if login:
            paho.username_pw_set(*login)
        if will:
            paho.will_set(*will, qos=1, retain=True)
        client = Client(paho)
        clients.append(client)
        paho.connect(broker.address.host, broker.address.port)
        paho.loop_start()
        return client

    yield connect
    for client in clients:
        client.paho.disconnect()
        client.paho.loop_stop()


def login(address: BrokerAddress) -> tuple[str, str]:
    return address.username, address.password


async def test_what_fpd_publishes_reaches_a_subscriber(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    subscriber = await connect(broker).accepted()
    await subscriber.subscribe("user/+/node/+/datum/0/#")
    fpd = await connect(broker, login(broker.address)).accepted()
    for number in range(20):
        await fpd.publish(TOPIC, str(number))
    await fpd.publish("fpd/house/status", "online")
    await wait_for(lambda: len(subscriber.messages) >= 20)
    assert subscriber.texts == [str(number) for number in range(20)]
    assert {message.topic for message in subscriber.messages} == {TOPIC}


async def test_a_session_that_is_kept_gets_what_came_while_it_was_away(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    away = await connect(broker, name="grafana").accepted()
    await away.subscribe("user/#")
    away.paho.disconnect()
    fpd = await connect(broker, login(broker.address)).accepted()
    # The broker has seen it leave once nothing is delivered any more.
    await wait_for(lambda: not away.paho.is_connected())
    await fpd.publish(TOPIC, "while you were away")
    back = await connect(broker, name="grafana").accepted()
    await wait_for(lambda: "while you were away" in back.texts)


async def test_status_is_retained_and_becomes_offline_when_fpd_is_cut_off(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    will = ("fpd/house/status", "offline")
    fpd = await connect(broker, login(broker.address), will=will).accepted()
    await fpd.publish("fpd/house/status", "online", retain=True)

    late = await connect(broker).accepted()
    await late.subscribe("fpd/+/status")
    await wait_for(lambda: late.texts == ["online"])
    assert late.messages[0].retain

    connection = fpd.paho.socket()
    assert isinstance(connection, socket.socket)
    connection.shutdown(socket.SHUT_RDWR)
    await wait_for(lambda: late.texts == ["online", "offline"])


@pytest.mark.parametrize(
    "wrong", [None, ("subscriber", "guess"), ("stranger", "guess"), ("fpd", ""), ("subscriber", "")]
)
async def test_strangers_are_refused(
    broker: EmbeddedBroker, connect: Connect, wrong: tuple[str, str] | None
) -> None:
    refused = connect(broker, wrong)
    await wait_for(lambda: refused.answer)
    assert refused.answer == "Not authorized"


async def test_a_refused_client_is_reported_once_and_without_its_password(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            refused = connect(broker, ("subscriber", "hunter2"))
            await wait_for(functools.partial(getattr, refused, "answer"))
    told = [entry for entry in logs if entry["event"] == "broker.client_refused"]
    assert [entry["username"] for entry in told] == ["subscriber"]
    assert "hunter2" not in str(logs)


async def test_anybody_may_come_in_where_that_is_wanted(connect: Connect) -> None:
    broker = EmbeddedBroker(port=0, allow_anonymous=True)
    await broker.start()
    await connect(broker, None).accepted()
    impostor = connect(broker, ("fpd", "guess"))
    await wait_for(lambda: impostor.answer == "Not authorized")
    await broker.stop()


async def test_fpds_own_password_is_new_each_time_and_not_shown() -> None:
    first, second = EmbeddedBroker().address, EmbeddedBroker().address
    assert first.password != second.password
    assert len(first.password) >= 24
    assert first.password not in repr(first)


async def test_a_login_called_fpd_is_shared_with_fpd(connect: Connect) -> None:
    broker = EmbeddedBroker(port=0, users={"fpd": "chosen"})
    address = await broker.start()
    assert login(address) == ("fpd", "chosen")
    await connect(broker, ("fpd", "chosen")).accepted()
    await broker.stop()


async def test_clients_come_back_after_an_outage(broker: EmbeddedBroker, connect: Connect) -> None:
    client = await connect(broker, login(broker.address), persistent=True).accepted()
    before = broker.address
    client.answer = ""
    await broker.stop()
    await wait_for(lambda: not client.paho.is_connected())
    assert await broker.start() == before
    await client.accepted()


async def test_stopping_leaves_no_task_and_no_connection(connect: Connect) -> None:
    broker = EmbeddedBroker(port=0)
    address = await broker.start()
    await connect(broker, login(address)).accepted()
    reader, writer = await asyncio.open_connection(address.host, address.port)  # says nothing
    async with asyncio.timeout(2):
        await broker.stop()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address.host, address.port)
    await broker.stop()  # no harm


async def test_starting_it_twice_is_a_bug(broker: EmbeddedBroker) -> None:
    with pytest.raises(RuntimeError):
        await broker.start()


async def test_a_taken_port_is_explained(broker: EmbeddedBroker) -> None:
    second = EmbeddedBroker(port=broker.address.port)
    before = asyncio.all_tasks()
    with pytest.raises(Misconfigured, match=r"127\.0\.0\.1:\d+ cannot be used .*in use.*\[mqtt\]"):
        await second.start()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", ""])
def test_it_listens_to_this_machine_only(host: str) -> None:
    with pytest.raises(Misconfigured, match="loopback only"):
        EmbeddedBroker(host)


def test_the_address_is_a_url() -> None:
    assert EmbeddedBroker("127.0.0.1", 1883).address.url == "mqtt://127.0.0.1:1883"
    assert EmbeddedBroker("::1", 1883).address.url == "mqtt://[::1]:1883"


async def test_a_client_that_speaks_mqtt_5_is_told_that_it_cannot(
    broker: EmbeddedBroker, connect: Connect
) -> None:
    modern = connect(broker, login(broker.address), protocol=MQTTProtocolVersion.MQTTv5)
    await wait_for(lambda: modern.answer)
    assert modern.answer == "Unsupported protocol version"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x04", b""),
        (b"\x10\x0c\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00", b"\x20\x02\x00\x01"),
    ],
    ids=["http", "endless", "mqtt 3.1"],
)
async def test_what_is_not_mqtt_is_sent_away(
    broker: EmbeddedBroker, said: bytes, answer: bytes
) -> None:
    reader, writer = await asyncio.open_connection(broker.address.host, broker.address.port)
    writer.write(said)
    async with asyncio.timeout(5):
        assert await reader.read() == answer
    writer.close()
    await writer.wait_closed()


async def test_a_day_at_the_broker_is_quiet(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker = EmbeddedBroker(port=0)
    address = await broker.start()
    client = await connect(broker, login(address)).accepted()
    await client.subscribe("#")
    await client.publish(TOPIC, "1")
    _, writer = await asyncio.open_connection(address.host, address.port)  # a port check
    writer.close()
    await writer.wait_closed()
    client.paho.disconnect()
    await broker.stop()
    assert [record.getMessage() for record in caplog.records] == []
