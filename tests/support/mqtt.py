"""Clients of a broker as the daemon runs them, and what they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from fpd.embedded.broker import EmbeddedBroker
from fpd.mqtt.client import MqttClient
from support.mosquitto import Mosquitto
from support.waiting import wait_for

Broker = EmbeddedBroker | Mosquitto


def client_at(url: str, instance: str = "one", *, ca_file: Path | None = None) -> MqttClient:
    """A client without credentials that is not running yet."""
    return MqttClient(url, username=None, password=None, ca_file=ca_file, instance=instance)


def client_of(broker: Broker, instance: str) -> MqttClient:
    """A client of a broker, not running yet, with the credentials it takes."""
    if isinstance(broker, Mosquitto):
        return client_at(broker.url, instance)
    address = broker.address
    return MqttClient(
        address.url,
        username=address.username,
        password=address.password,
        ca_file=None,
        instance=instance,
    )


class Inbox:
    """What arrived; acknowledged at once, or never."""

    def __init__(self, *, acks: bool = True) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self._acks = acks

    def __call__(self, topic: str, payload: bytes, ack: Callable[[], None]) -> None:
        self.messages.append((topic, payload))
        if self._acks:
            ack()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.messages]


class Clients:
    """Runs clients as the daemon does, and ends them with the test."""

    def __init__(self) -> None:
        self._running: dict[MqttClient, asyncio.Task[None]] = {}

    def run(self, client: MqttClient) -> None:
        self._running[client] = asyncio.create_task(client.run())

    async def connect(
        self,
        broker: Broker,
        instance: str,
        *,
        filters: Sequence[str] = (),
        inbox: Inbox | None = None,
    ) -> MqttClient:
        """Run a client of the broker, subscribed if asked, and wait until it is connected."""
        client = client_of(broker, instance)
        if inbox is not None:
            client.subscribe(filters, inbox)
        self.run(client)
        await wait_for(lambda: client.connected, what=f"the connection of {instance}")
        return client

    async def end(self, client: MqttClient) -> None:
        """End a client in good order."""
        task = self._running.pop(client)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task

    async def close(self) -> None:
        for client in list(self._running):
            await self.end(client)
