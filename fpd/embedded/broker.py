"""An MQTT broker inside the daemon, for the demo and for a small site: amqtt, on loopback only.

Its limits (amqtt 0.12). Who needs more names a real broker in `[mqtt] url`.
- MQTT 3.1.1 only: no version 5, no shared subscriptions (`$share`), no `$SYS` topics.
- Nothing is kept on disk: sessions, queued and retained messages are gone after a restart.
- A message goes out at the subscriber's QoS, also when it was published with a lower one.
- When a client with a kept session returns, it gets retained messages of topics that others
  have subscribed to, at QoS 0. Take what comes by its topic, not by what was asked for.
- An anonymous session gets nothing that was published while it was away.
- A client that is cut off silently is not noticed by its keepalive, so its will comes late.
- Any local process can disturb it: a client id is taken over before the password is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ipaddress
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from fpd.embedded.opening import (
    MQTT_3_1_1,
    REFUSAL,
    REFUSALS,
    NotMqtt,
    ReplayedReader,
    read_opening,
)
from fpd.errors import Misconfigured

log = structlog.get_logger()

_USERNAME = "fpd"
_LISTENER = "default"
_CONNECTIONS_MAX = 256
_OPENING_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """How fpd itself reaches the broker."""

    host: str
    port: int
    username: str
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """The address without the credentials, as `[mqtt] url` has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt://{host}:{self.port}"


class EmbeddedBroker:
    """The broker on one address. Start, stop and start again as often as needed."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 1883,
        *,
        users: Mapping[str, str] | None = None,
        allow_anonymous: bool = False,
    ) -> None:
        """Remember what to do; nothing listens before `start`.

        Port 0 is any free one, the same after a restart. `users` are those let in beside fpd
        itself, name → password (one called `fpd` shares fpd's own login); a client without a
        name only when `allow_anonymous`. Raises Misconfigured when `host` is not loopback.
        """
        if not _is_loopback(host):
            raise Misconfigured(
                f"the embedded broker listens on loopback only, not on {host}: "
                "set [mqtt] url to a broker that others may reach"
            )
        self._host = host
        self._port = port
        self._users = {_USERNAME: secrets.token_urlsafe(24), **(users or {})}
        self._allow_anonymous = allow_anonymous
        self._broker: Any = None
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._told: set[int] = set()  # at most 256 protocol levels

    @property
    def address(self) -> BrokerAddress:
        """Where it listens and how fpd logs in; with port 0, known after the first start."""
        return BrokerAddress(
            host=self._host,
            port=self._port,
            username=_USERNAME,
            password=self._users[_USERNAME],
        )

    async def start(self) -> BrokerAddress:
        """Listen; return how fpd logs in. Raises Misconfigured when it cannot."""
        if self._server is not None:
            raise RuntimeError("already started")
        self._broker = _make_broker(self._users, allow_anonymous=self._allow_anonymous)
        await self._broker.start()
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self._port)
        except OSError as error:
            await self.stop()
            raise Misconfigured(
                f"{self._host}:{self._port} cannot be used for the embedded broker "
                f"({error.strerror}): if a broker runs there already, set [mqtt] url to it"
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]
        log.info("broker.started", host=self._host, port=self._port)
        return self.address

    async def stop(self) -> None:
        """Disconnect everybody and stop listening."""
        server, self._server = self._server, None
        broker, self._broker = self._broker, None
        if server is not None:
            server.close()
        if broker is not None:
            try:
                async with asyncio.timeout(_STOP_TIMEOUT_S):
                    await broker.shutdown()
            except TimeoutError:
                log.error("broker.stop_timed_out", waited_s=_STOP_TIMEOUT_S)
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        if server is not None:
            log.info("broker.stopped")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= _CONNECTIONS_MAX:
            log.warning("broker.full", connections=len(self._clients))
            writer.transport.abort()
            return
        client = asyncio.create_task(self._serve(reader, writer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_OPENING_TIMEOUT_S):
                taken, level = await read_opening(reader)
            if level == MQTT_3_1_1:
                await self._converse(ReplayedReader(taken, reader), writer)
            else:
                await self._refuse(level, writer)
        except (OSError, EOFError, NotMqtt) as error:
            log.debug("broker.client_lost", error=repr(error))
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _converse(self, reader: ReplayedReader, writer: asyncio.StreamWriter) -> None:
        adapters = importlib.import_module("amqtt.adapters")
        await self._broker.external_connected(
            reader, adapters.StreamWriterAdapter(writer), _LISTENER
        )

    async def _refuse(self, level: int, writer: asyncio.StreamWriter) -> None:
        if level not in self._told:
            self._told.add(level)
            log.warning("broker.protocol_refused", protocol_level=level, spoken="MQTT 3.1.1")
        writer.write(REFUSALS.get(level, REFUSAL))
        await writer.drain()
        writer.write_eof()


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _make_broker(users: Mapping[str, str], *, allow_anonymous: bool) -> Any:
    _quieten()
    try:
        broker = importlib.import_module("amqtt.broker")
    except ImportError as error:
        raise Misconfigured(
            "the embedded broker needs amqtt: install fpd[embedded], or set [mqtt] url"
        ) from error
    plugin = {"users": dict(users), "allow_anonymous": allow_anonymous}
    return broker.Broker(
        {
            # We listen ourselves: a taken port is then an error we can explain.
            "listeners": {_LISTENER: {"type": "external"}},
            "plugins": {"fpd.embedded.known_users.KnownUsers": plugin},
        }
    )


def _quieten() -> None:
    """Let amqtt speak of trouble only; at info it reports every packet's fate."""
    logging.getLogger("amqtt").setLevel(logging.WARNING)
    logging.getLogger("transitions").setLevel(logging.WARNING)
