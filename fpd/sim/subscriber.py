"""An MQTT subscriber that writes down every message, as any other program on the broker could."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass
from typing import Any

import cbor2
import msgspec

from fpd.sim.journal import Clock
from fpd.sim.mqtt_link import MqttLink, MqttOptions, Received
from fpd.sim.quirks import Quirks
from fpd.sim.simulator import Simulator, option


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriberOptions(MqttOptions):
    topic: tuple[str, ...] = option(("#",), "topic filter; may be repeated")
    qos: int = option(1, "quality of service asked for")


class Subscriber(Simulator[Quirks]):
    """Each message is a log entry: the path is the topic, the body the decoded payload."""

    role = "subscriber"

    def __init__(self, options: SubscriberOptions, *, clock: Clock) -> None:
        super().__init__(options, clock=clock, quirks=Quirks)
        topics = tuple((topic, options.qos) for topic in options.topic)
        self._topics = options.topic
        self._mqtt = MqttLink(options, self.changes, topics=topics, receive=self._receive)
        self._received = 0

    async def begin(self) -> None:
        self.spawn(self._mqtt.run())

    def state(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "connected": self._mqtt.connected,
            "topics": self._topics,
            "received": self._received,
        }

    def _receive(self, message: Received) -> None:
        self._received += 1
        encoding, value = decoded(message.payload)
        entry = self.journal.begin("in", "PUBLISH", message.topic, {}, msgspec.json.encode(value))
        entry.headers = {
            "qos": str(message.qos),
            "retain": str(message.retain).lower(),
            "encoding": encoding,
        }
        self.journal.settle(entry, note="received")


def decoded(payload: bytes) -> tuple[str, Any]:
    """Return how `payload` is written and what it says: JSON, a CBOR map or list, else base64."""
    with contextlib.suppress(msgspec.DecodeError):
        return "json", msgspec.json.decode(payload)
    with contextlib.suppress(cbor2.CBORDecodeError, msgspec.MsgspecError, TypeError):
        value = cbor2.loads(payload)
        if isinstance(value, dict | list):
            return "cbor", msgspec.json.decode(msgspec.json.encode(value))
    return "base64", base64.b64encode(payload).decode()
