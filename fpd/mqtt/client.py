"""The broker we use: connected again and again, told that we are there, asked for messages."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import structlog

from fpd.errors import Unavailable
from fpd.mqtt import topics
from fpd.mqtt.connection import Arrival, Connection, Endpoint, connect

log = structlog.get_logger()

_SHORTEST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0
_STEADY_S = 5.0  # a connection that lasted this long starts the waits anew
_FAREWELL_S = 2.0
_ONLINE = b"online"
_OFFLINE = b"offline"

Handler = Callable[[str, bytes, Callable[[], None]], None]
"""Takes (topic, payload, ack). `ack` is called once the message is safe, whenever that is."""


@dataclass(frozen=True, slots=True)
class _Subscription:
    filters: tuple[str, ...]
    handler: Handler


class MqttClient:
    """One broker, one session that it keeps while we are away, one retained status.

    The session belongs to `fpd-{instance}`: what arrives while we are away waits for us, and what
    was not acknowledged comes again. Two daemons on one broker must have different instances.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str | None,
        password: str | None,
        ca_file: Path | None,
        instance: str,
    ) -> None:
        """Remember the broker (mqtt:// or mqtts://); nothing is connected before `run`."""
        parts = urlsplit(url)
        tls = parts.scheme == "mqtts"
        self._status_topic = topics.status(instance)
        self._endpoint = Endpoint(
            host=parts.hostname or "",
            port=parts.port or (8883 if tls else 1883),
            tls=tls,
            ca_file=ca_file,
            username=unquote(parts.username) if username is None and parts.username else username,
            password=unquote(parts.password) if password is None and parts.password else password,
            client_id=f"fpd-{instance}",
            will_topic=self._status_topic,
            will_payload=_OFFLINE,
        )
        self._subscriptions: list[_Subscription] = []
        self._connection: Connection | None = None
        self._renewing = False

    @property
    def connected(self) -> bool:
        """Whether the broker has let us in and we have not noticed its loss."""
        return self._connection is not None and self._connection.lost is None

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Publish a message; return once the broker has acknowledged it (QoS 1).

        Raises Unavailable when there is no broker, or when it may not have got the message.
        Any number of callers at once; messages go out in the order of the calls.
        """
        if self._connection is None:
            raise Unavailable("the MQTT broker is away")
        await self._connection.publish(topic, payload, qos=qos, retain=retain)

    def subscribe(self, filters: Sequence[str], handler: Handler) -> None:
        """Hand what matches one of `filters` to `handler`, now and after every reconnection.

        The handler runs on the event loop and returns at once; it must not raise. A message is
        given to the first subscription that it matches, and comes again until it is acknowledged.
        """
        self._subscriptions.append(_Subscription(tuple(filters), handler))
        if self._connection is not None:
            self._connection.subscribe(filters)

    def renew(self) -> None:
        """Connect anew, so that the broker delivers again what was not acknowledged."""
        if self._connection is not None:
            self._renewing = True
            self._connection.leave()

    async def run(self) -> None:
        """Stay connected until cancelled; then say goodbye."""
        told = False
        wait_s = _SHORTEST_WAIT_S
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._connection = await connect(self._endpoint)
            except OSError as error:
                if not told:
                    log.warning("mqtt.unreachable", broker=self._name, error=str(error))
                    told = True
            else:
                log.info("mqtt.connected", broker=self._name)
                since_s = loop.time()
                reason = await self._serve(self._connection)
                if loop.time() - since_s > _STEADY_S:
                    wait_s = _SHORTEST_WAIT_S
                if not self._renewing:
                    log.warning("mqtt.lost", broker=self._name, reason=reason)
                told, self._renewing = not self._renewing, False
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    @property
    def _name(self) -> str:
        return f"{self._endpoint.host}:{self._endpoint.port}"

    async def _serve(self, connection: Connection) -> str:
        """Hand out messages until the connection is lost; return why it was."""
        filters = [pattern for wanted in self._subscriptions for pattern in wanted.filters]
        if filters:
            connection.subscribe(filters)
        greeting = asyncio.create_task(self._say(connection, _ONLINE))
        try:
            while connection.lost is None:
                for arrival in await connection.arrivals():
                    self._dispatch(arrival)
            return connection.lost
        except asyncio.CancelledError:
            await self._say(connection, _OFFLINE)
            raise
        finally:
            self._connection = None
            connection.leave()
            await greeting

    async def _say(self, connection: Connection, status: bytes) -> None:
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await connection.publish(self._status_topic, status, qos=1, retain=True)

    def _dispatch(self, arrival: Arrival) -> None:
        topic = arrival.topic
        if topic is not None:
            for subscription in self._subscriptions:
                if any(topics.matches(topic, pattern) for pattern in subscription.filters):
                    subscription.handler(topic, arrival.payload, arrival.ack)
                    return
        # A session that the broker has kept may still hold filters of a former configuration.
        log.debug("mqtt.unexpected", topic=topic)
        arrival.ack()
