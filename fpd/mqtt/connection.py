"""One connection to a broker: paho on the event loop, typed, from CONNECT to the loss of it.

Everything that must not outlive a connection lives here: the socket, message ids, messages
whose acknowledgement is awaited. MQTT 3.1.1, which every broker speaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from fpd.errors import Unavailable

log = structlog.get_logger()

_CONNECT_S = 5.0  # TCP, and again TLS
_ACCEPT_S = 10.0  # from CONNECT to CONNACK
_PUBACK_S = 10.0
_KEEPALIVE_S = 20  # a dead connection is noticed within twice that
_TICK_S = 1.0
_IN_FLIGHT = 256  # publications on the wire; more of them wait inside paho
_SUBSCRIBE_QOS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Which broker, as whom. `username` None: anonymous. `ca_file` None: the system's trust."""

    host: str
    port: int
    tls: bool
    ca_file: Path | None
    username: str | None
    password: str | None = field(repr=False)
    client_id: str
    will_topic: str
    will_payload: bytes


@dataclass(frozen=True, slots=True)
class Arrival:
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
        self.connection.ack(self)


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
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=endpoint.client_id,
        clean_session=False,
        protocol=MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
        manual_ack=True,
    )
    client.connect_timeout = _CONNECT_S
    client.max_inflight_messages_set(_IN_FLIGHT)
    client.will_set(endpoint.will_topic, endpoint.will_payload, qos=1, retain=True)
    if endpoint.username is not None:
        client.username_pw_set(endpoint.username, endpoint.password)
    if endpoint.tls:
        context = ssl.create_default_context(cafile=endpoint.ca_file)
        context.sslsocket_class = _TlsSocket
        client.tls_set_context(context)
    return client


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
        self._asked: dict[int, tuple[str, ...]] = {}
        self._lost: str | None = None
        self._misc_at = self._loop.time()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
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
        sent = self._client.publish(topic, payload, qos=qos, retain=retain)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Unavailable("the MQTT broker is away")
        done = self._awaited[sent.mid] = self._loop.create_future()
        try:
            async with asyncio.timeout(_PUBACK_S):
                await done
        except TimeoutError:
            self.drop("no acknowledgement")
            raise Unavailable("the MQTT broker does not answer") from None
        finally:
            self._awaited.pop(sent.mid, None)

    def ack(self, arrival: Arrival) -> None:
        """Acknowledge a message of this connection, if there still is one."""
        if self._lost is None and arrival.qos:
            self._client.ack(arrival.message_id, arrival.qos)

    def leave(self) -> None:
        """Disconnect in good order: the broker keeps our session and drops our will."""
        if self._lost is None:
            self._client.disconnect()
            self._client.loop_write()
        self.drop("left")

    def drop(self, reason: str) -> None:
        """Let go of the connection at once, whatever the other side thinks."""
        self._lose(reason)
        plain = self._client.socket()
        if isinstance(plain, socket.socket):
            with contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_RDWR)
        while self._client.socket() is not None:
            self._client.loop_read()

    def _attach(self) -> None:
        """Have the event loop tell paho when its socket can be read or written."""
        plain = self._client.socket()
        if plain is None:
            self._lose("closed at once")
            return
        handle, loop = plain.fileno(), self._loop

        def close(*_: object) -> None:
            loop.remove_reader(handle)
            loop.remove_writer(handle)

        def register_write(*_: object) -> None:
            loop.add_writer(handle, self._client.loop_write)

        def unregister_write(*_: object) -> None:
            loop.remove_writer(handle)

        self._client.on_socket_close = close
        self._client.on_socket_register_write = register_write
        self._client.on_socket_unregister_write = unregister_write
        loop.add_reader(handle, self._readable)
        if self._client.want_write():
            self._client.loop_write()

    def _readable(self) -> None:
        self._client.loop_read()
        # TLS may have decrypted more than was asked for, and the socket keeps silent about it.
        while isinstance(plain := self._client.socket(), ssl.SSLSocket) and plain.pending():
            self._client.loop_read()

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = reason
        for done in self._awaited.values():
            if not done.done():
                done.set_exception(Unavailable("the MQTT broker went away"))
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

    def _on_message(self, _c: Client, _u: Any, message: MQTTMessage) -> None:
        try:
            topic: str | None = message.topic
        except UnicodeDecodeError:
            topic = None
        payload = bytes(message.payload)
        self._arrivals.append(Arrival(topic, payload, message.mid, message.qos, self))
        self._wake.set()

    def _on_publish(
        self, _c: Client, _u: Any, mid: int, _code: ReasonCode, _p: Properties | None
    ) -> None:
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
