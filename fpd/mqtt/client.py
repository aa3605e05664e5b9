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
from fpd.mqtt.batch import Outgoing
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

BatchHandler = Callable[[Sequence[Arrival]], None]
"""Takes what has come at once; each has a topic. Their connection acknowledges them."""

_MOST_KNOWN = 20_000  # topics whose subscription is remembered


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    filters: tuple[str, ...]
    handler: BatchHandler


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
        self._known: dict[str, _Subscription] = {}
        self._connection: Connection | None = None
        self._renewing = False
        self.connections = 0  # so far; a broker may have forgotten everything in between

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

    async def publish_all(self, messages: Sequence[Outgoing], *, qos: int) -> int:
        """Publish messages in their order; return how many of them, from the first on, are safe.

        Fewer than all: the broker went away, or is slow. One call at a time.
        """
        if self._connection is None:
            return 0
        return await self._connection.publish_all(messages, qos=qos)

    def subscribe(self, filters: Sequence[str], handler: Handler) -> None:
        """Hand what matches one of `filters` to `handler`, now and after every reconnection.

        The handler runs on the event loop and returns at once; it must not raise. A message is
        given to the first subscription that it matches, and comes again until it is acknowledged.
        """

        def each(arrivals: Sequence[Arrival]) -> None:
            for arrival in arrivals:
                assert arrival.topic is not None
                handler(arrival.topic, arrival.payload, arrival.ack)

        self.subscribe_many(filters, each)

    def subscribe_many(self, filters: Sequence[str], handler: BatchHandler) -> None:
        """Do what `subscribe` does, for a handler that takes many messages at a time."""
        self._subscriptions.append(_Subscription(tuple(filters), handler))
        self._known.clear()
        if self._connection is not None:
            self._connection.subscribe(filters)

    def pause(self) -> None:
        """Read nothing from the broker for a moment; a new connection is read at once."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read again, if it was paused."""
        if self._connection is not None:
            self._connection.resume()

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
                self.connections += 1
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
                self._dispatch(await connection.arrivals())
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

    def _dispatch(self, arrivals: Sequence[Arrival]) -> None:
        known = self._known
        found: dict[_Subscription, list[Arrival]] = {}
        for arrival in arrivals:
            topic = arrival.topic
            subscription = None if topic is None else known.get(topic) or self._find(topic)
            if subscription is not None:
                found.setdefault(subscription, []).append(arrival)
                continue
            # A session that the broker has kept may still hold filters of a former configuration.
            log.debug("mqtt.unexpected", topic=topic)
            arrival.ack()
        for subscription, its in found.items():
            subscription.handler(its)

    def _find(self, topic: str) -> _Subscription | None:
        for subscription in self._subscriptions:
            if any(topics.matches(topic, pattern) for pattern in subscription.filters):
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[topic] = subscription
                return subscription
        return None
