"""One connection to a broker: paho on the event loop, typed, from CONNECT to the loss of it.

Everything that must not outlive a connection lives here: the socket, message ids, messages
whose acknowledgement is awaited. MQTT 3.1.1, which every broker speaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fpd.errors import Unavailable
from fpd.mqtt.batch import Batch, Outgoing
from fpd.mqtt.wire import Publish, Wire

log = structlog.get_logger()

_CONNECT_S = 5.0  # TCP, and again TLS
_ACCEPT_S = 10.0  # from CONNECT to CONNACK
_PUBACK_S = 10.0
_BATCH_S = 5.0
_KEEPALIVE_S = 20  # a dead connection is noticed within twice that
_TICK_S = 1.0
_SUBSCRIBE_QOS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which broker, as whom. `username` None: anonymous. `ca_file` None: the system's trust.

    `will_topic` None: it leaves no will, and no session either.
    """

    host: str
    port: int
    tls: bool
    ca_file: Path | None
    username: str | None
    password: str | None = field(repr=False)
    client_id: str
    will_topic: str | None
    will_payload: bytes


class Arrival(NamedTuple):
    """A message that came in. `topic` None: it is not UTF-8."""

    topic: str | None
    payload: bytes
    message_id: int
    qos: int
    connection: Connection

    def ack(self) -> None:
        """Tell the broker that the message is safe.

        Nothing happens when its connection is gone: the broker delivers it again then.
        """
        if self.qos:
            self.connection.ack([self.message_id])


async def connect(endpoint: Endpoint) -> Connection:
    """Open a connection and return it once the broker has let us in.

    Raises OSError with the reason when that fails.
    """
    client = _client(endpoint)
    # Names are looked up and TLS is agreed on there, and both take their time.
    opening = asyncio.get_running_loop().run_in_executor(
        None, client.connect, endpoint.host, endpoint.port, _KEEPALIVE_S
    )
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda done: done.exception() or client.disconnect())
        raise
    connection = Connection(client)
    try:
        await connection.accepted()
    except BaseException:
        connection.drop("not accepted")
        raise
    return connection


def _client(endpoint: Endpoint) -> Client:
    client = _Client(
        CallbackAPIVersion.VERSION2,
        client_id=endpoint.client_id,
        clean_session=endpoint.will_topic is None,
        protocol=MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = _CONNECT_S
    client.max_inflight_messages_set(0)  # the window is ours: paho looks through all its messages
    if endpoint.will_topic is not None:
        client.will_set(endpoint.will_topic, endpoint.will_payload, qos=1, retain=True)
    if endpoint.username is not None:
        client.username_pw_set(endpoint.username, endpoint.password)
    if endpoint.tls:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
        context.sslsocket_class = _TlsSocket
        client.tls_set_context(context)
    return client


class _Client(Client):
    """Reads and writes through our wire."""

    def _create_socket(self) -> Any:
        plain: Any = super()._create_socket()
        return Wire(plain)


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when no agreement is reached, where paho would leave it lying about."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class Connection:
    """A connection that `connect` has opened, until `leave`, `drop` or its loss."""

    def __init__(self, client: Client) -> None:
        """Take over a paho client that has just sent CONNECT."""
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._wake = asyncio.Event()
        self._arrivals: list[Arrival] = []
        self._awaited: dict[int, asyncio.Future[None]] = {}
        self._batch: Batch | None = None
        self._asked: dict[int, tuple[str, ...]] = {}
        self._lost: str | None = None
        self._misc_at = self._loop.time()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        self._attach()

    @property
    def lost(self) -> str | None:
        """Why the connection is no more; None while it is."""
        return self._lost

    async def accepted(self) -> None:
        """Return once the broker has let us in. Raises OSError when it does not."""
        try:
            async with asyncio.timeout(_ACCEPT_S):
                await self._accepted
        except TimeoutError:
            raise ConnectionError("no answer to CONNECT") from None

    async def arrivals(self) -> Sequence[Arrival]:
        """Return what has come in, waiting at most a second for the first.

        To be called again and again: the upkeep of the connection happens here.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S):
                await self._wake.wait()
        self._wake.clear()
        if self._loop.time() - self._misc_at >= _TICK_S:
            self._misc_at = self._loop.time()
            self._client.loop_misc()
        found, self._arrivals = self._arrivals, []
        return found

    def subscribe(self, filters: Sequence[str]) -> None:
        """Ask for messages; a refusal is logged."""
        _, mid = self._client.subscribe([(pattern, _SUBSCRIBE_QOS) for pattern in filters])
        if mid is not None:
            self._asked[mid] = tuple(filters)

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Send a message and return once the broker has it (QoS 1) or it has left (QoS 0).

        Raises Unavailable when it may not have arrived. A broker that does not acknowledge in
        time is taken for gone, and the connection with it.
        """
        if self._lost is not None:
            raise Unavailable("the MQTT broker is away")
        message_id = self._send(Outgoing(topic, payload, retain), qos)
        done = self._awaited[message_id] = self._loop.create_future()
        try:
            async with asyncio.timeout(_PUBACK_S):
                await done
        except TimeoutError:
            self.drop("no acknowledgement")
            raise Unavailable("the MQTT broker does not answer") from None
        finally:
            self._awaited.pop(message_id, None)

    async def publish_all(self, messages: Sequence[Outgoing], *, qos: int) -> int:
        """Send messages in their order, many at a time, one call at a time; return how many of
        them, from the first on, the broker has (QoS 1) or have left (QoS 0).

        Fewer than all: the connection is lost, by itself or because the broker fell silent, or
        the broker is slow; after a while no more are begun.
        """
        batch = self._batch = Batch(messages)
        end = self._loop.time() + _BATCH_S
        try:
            while not batch.complete and self._lost is None:
                before = batch.count
                try:
                    batch.fill(lambda message: self._send(message, qos))
                    async with asyncio.timeout(_PUBACK_S):
                        await batch.changed.wait()
                except Unavailable as error:
                    self.drop(str(error))
                except TimeoutError:
                    if batch.count == before or self._loop.time() > end + _PUBACK_S:
                        self.drop("no acknowledgement")
                batch.changed.clear()
                if self._loop.time() > end:
                    batch.close()
            return batch.safe
        finally:
            self._batch = None

    def _send(self, message: Outgoing, qos: int) -> int:
        """Hand a message to paho; return its id. Raises Unavailable."""
        sent = self._client.publish(message.topic, message.payload, qos=qos, retain=message.retain)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Unavailable("the MQTT broker is away")
        return sent.mid

    def ack(self, message_ids: Sequence[int]) -> None:
        """Acknowledge messages of this connection (QoS 1), if there still is one."""
        wire = self._wire()
        if wire is not None and self._lost is None:
            wire.acknowledge(message_ids)
            if wire.owes:
                self._loop.add_writer(wire.fileno(), self._writable)

    def pause(self) -> None:
        """Read nothing until `resume`; what the broker sends waits in the network, or with it.

        Not for longer than a few seconds: answers of the broker are not heard either.
        """
        wire = self._wire()
        if wire is not None:
            self._loop.remove_reader(wire.fileno())

    def resume(self) -> None:
        """Read again, if it was paused."""
        wire = self._wire()
        if wire is not None and self._lost is None:
            self._loop.add_reader(wire.fileno(), self._readable)
            if wire.is_pending:
                self._loop.call_soon(self._readable)

    def leave(self) -> None:
        """Disconnect in good order: the broker keeps our session and drops our will."""
        if self._lost is None:
            self._client.disconnect()
            self._client.loop_write()
        self.drop("left")

    def drop(self, reason: str) -> None:
        """Let go of the connection at once, whatever the other side thinks."""
        self._lose(reason)
        wire = self._wire()
        if wire is not None:
            with contextlib.suppress(OSError):
                wire.shutdown()
        while self._client.socket() is not None:
            self._client.loop_read()

    def _wire(self) -> Wire | None:
        wire: Any = self._client.socket()
        return wire if isinstance(wire, Wire) else None

    def _attach(self) -> None:
        """Have the event loop tell paho when its socket can be read or written."""
        wire = self._wire()
        if wire is None:
            self._lose("closed at once")
            return
        handle, loop = wire.fileno(), self._loop

        def close(*_: object) -> None:
            loop.remove_reader(handle)
            loop.remove_writer(handle)

        def register_write(*_: object) -> None:
            loop.add_writer(handle, self._writable)

        def unregister_write(*_: object) -> None:
            if not wire.owes:
                loop.remove_writer(handle)

        self._client.on_socket_close = close
        self._client.on_socket_register_write = register_write
        self._client.on_socket_unregister_write = unregister_write
        loop.add_reader(handle, self._readable)
        if self._client.want_write():
            self._client.loop_write()

    def _readable(self) -> None:
        wire = self._wire()
        if wire is None:
            return
        self._receive(wire.read())
        # TLS may have decrypted more than was asked for, and the socket keeps silent about it.
        while wire.is_pending:
            self._receive(wire.read())
        while wire.has_news and self._client.socket() is not None:
            self._client.loop_read()

    def _writable(self) -> None:
        wire = self._wire()
        if wire is None:
            return
        wire.flush()
        if self._client.want_write():
            self._client.loop_write()
        elif not wire.owes:
            self._loop.remove_writer(wire.fileno())

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        for done in self._awaited.values():
            if not done.done():
                done.set_exception(Unavailable("the MQTT broker went away"))
        if self._batch is not None:
            self._batch.changed.set()
        if not self._accepted.done():
            self._accepted.set_exception(ConnectionError(reason))
        self._wake.set()

    def _on_connect(
        self, _c: Client, _u: Any, _f: ConnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        if self._accepted.done():
            return
        if code.is_failure:
            self._accepted.set_exception(ConnectionRefusedError(f"refused: {code}"))
        else:
            self._accepted.set_result(None)

    def _on_disconnect(
        self, _c: Client, _u: Any, _f: DisconnectFlags, code: ReasonCode, _p: Properties | None
    ) -> None:
        self._lose(str(code))

    def _receive(self, messages: Iterable[Publish]) -> None:
        for raw_topic, payload, message_id, qos in messages:
            try:
                topic: str | None = raw_topic.decode()
            except UnicodeDecodeError:
                topic = None
            self._arrivals.append(Arrival(topic, payload, message_id, qos, self))
        if self._arrivals:
            self._wake.set()

    def _on_publish(
        self, _c: Client, _u: Any, mid: int, _code: ReasonCode, _p: Properties | None
    ) -> None:
        if self._batch is not None and self._batch.acknowledge(mid):
            return
        done = self._awaited.get(mid)
        if done is not None and not done.done():
            done.set_result(None)

    def _on_subscribe(
        self, _c: Client, _u: Any, mid: int, codes: list[ReasonCode], _p: Properties | None
    ) -> None:
        asked = self._asked.pop(mid, ())
        refused = [pattern for pattern, code in zip(asked, codes, strict=False) if code.is_failure]
        if refused:
            log.warning("mqtt.subscription_refused", topics=refused)
