"""An MQTT 3.1.1 connection that comes back by itself: the amqtt client behind two verbs.

fpd itself speaks through another client, so both ends are judged by an independent one.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import structlog

from fpd.errors import Misconfigured
from fpd.sim.journal import Changes
from fpd.sim.simulator import Options, option

log = structlog.get_logger()

_TIMEOUT_S = 5
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions(Options):
    mqtt_url: str = option("mqtt://127.0.0.1:1883", "broker, mqtt://[user@]host[:port]")
    mqtt_username: str = option("", "broker account")
    mqtt_password: str = option("", "broker password", secret=True)


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    qos: int
    retain: bool


class MqttLink:
    """Keeps one connection for as long as `run` runs; `changes` tells when it came or went."""

    def __init__(
        self,
        options: MqttOptions,
        changes: Changes,
        *,
        topics: tuple[tuple[str, int], ...] = (),
        receive: Callable[[Received], None] | None = None,
    ) -> None:
        self._url = _with_credentials(options)
        self._failures = _failures()
        self._broker = urlsplit(self._url).netloc.rpartition("@")[2]
        self._changes = changes
        self._topics = list(topics)
        self._receive = receive
        self._client: Any = None

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def run(self) -> None:
        """Connect, stay, and connect again, until cancelled; an outage is said once."""
        pause_s, said = _SHORTEST_PAUSE_S, False
        while True:
            client = _new_client()
            try:
                await self._converse(client)
            except self._failures as error:
                said = said and not self.connected
                if not said:
                    log.warning("sim.mqtt.unreachable", broker=self._broker, error=str(error))
                said = True
            except asyncio.CancelledError:
                # amqtt cancels what waits on a lost connection; that is not meant for us.
                if _cancelled():
                    raise
            finally:
                pause_s = _SHORTEST_PAUSE_S if self.connected else pause_s
                self._client = None
                self._changes.notify()
                await self._close(client)
            await asyncio.sleep(pause_s * random.uniform(0.7, 1))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> bool:
        """Return True once the broker has acknowledged, False when the connection was lost."""
        client = self._client
        if client is None:
            return False
        try:
            await client.publish(topic, payload, qos=qos, ack_timeout=_TIMEOUT_S)
        except asyncio.CancelledError:
            if _cancelled():
                raise
            return False
        except self._failures as error:
            log.debug("sim.mqtt.not_published", topic=topic, error=str(error))
            return False
        return True

    async def _close(self, client: Any) -> None:
        """End the connection in whatever state it is; amqtt leaves a refused one open."""
        with contextlib.suppress(*self._failures):
            await client.disconnect()
        handler = client._handler
        if handler is not None and handler.writer is not None:
            await handler.writer.close()

    async def _converse(self, client: Any) -> None:
        async with asyncio.timeout(_TIMEOUT_S):
            await client.connect(self._url)
            if self._topics:
                await client.subscribe(self._topics)
        self._client = client
        self._changes.notify()
        while True:
            message = await client.deliver_message()
            if self._receive is not None and message is not None:
                self._receive(
                    Received(
                        message.topic, bytes(message.data), message.qos or 0, bool(message.retain)
                    )
                )


def _new_client() -> Any:
    """Make a client that never reconnects behind our back, nor talks about it."""
    logging.getLogger("amqtt.client").setLevel(logging.ERROR)
    return importlib.import_module("amqtt.client").MQTTClient(
        config={"auto_reconnect": False, "connection_timeout": _TIMEOUT_S, "plugins": {}}
    )


def _failures() -> tuple[type[Exception], ...]:
    """Return all the kinds in which amqtt says that a connection cannot be had or is gone."""
    try:
        errors = importlib.import_module("amqtt.errors")
        machine = importlib.import_module("transitions")
    except ImportError as error:
        raise Misconfigured("this simulator needs amqtt: install fpd[embedded]") from error
    return (
        errors.AMQTTError,
        errors.ClientError,
        errors.CodecError,
        errors.MQTTError,
        errors.NoDataError,
        errors.ProtocolHandlerError,
        machine.MachineError,
        OSError,
        TimeoutError,
    )


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _with_credentials(options: MqttOptions) -> str:
    """Return the URL with the account in it, which may be given beside it or in part."""
    parts = urlsplit(options.mqtt_url)
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise Misconfigured(f"{options.mqtt_url} is not an mqtt:// URL")
    username = quote(options.mqtt_username, safe="") or parts.username
    password = quote(options.mqtt_password, safe="") or parts.password or ""
    login = f"{username}:{password}@" if username else ""
    return parts._replace(netloc=f"{login}{parts.netloc.rpartition('@')[2]}").geturl()
