"""A broker that is spoken to for a moment, by commands beside the daemon."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from fpd.errors import Unavailable
from fpd.mqtt.client import MqttClient
from fpd.mqtt.connection import connect


class BriefClient(MqttClient):
    """Connects when there is something to publish; leaves no session and tells no status."""

    _opening: asyncio.Lock | None = None

    async def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if not self.connected:
                visitor = replace(
                    self._endpoint, client_id=f"fpd-{secrets.token_hex(8)}", will_topic=None
                )
                try:
                    self._connection = await connect(visitor)
                except OSError as error:
                    raise Unavailable(f"the MQTT broker is away: {error}") from error
        await super().publish(topic, payload, qos=qos, retain=retain)

    def close(self) -> None:
        """Leave, if it was connected."""
        if self._connection is not None:
            self._connection.leave()
            self._connection = None
