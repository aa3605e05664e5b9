"""Messages on their way together: a window of them at a time, acknowledged in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

_WINDOW = 1024  # messages on the wire
_REFILL = 64  # of them, acknowledged, make room for as many more


class Outgoing(NamedTuple):
    """A message to publish."""

    topic: str
    payload: bytes
    retain: bool


class Batch:
    """What has become of messages that go out together."""

    def __init__(self, messages: Sequence[Outgoing]) -> None:
        """Nothing is sent before `fill`."""
        self._messages = messages
        self._on_the_wire: dict[int, int] = {}
        self._sent = 0
        self._last = len(messages)
        self._acknowledged = bytearray(len(messages))
        self._safe = 0
        self.count = 0
        self.changed = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether the broker has all of it, as far as it is to be sent."""
        return self.count == self._last

    @property
    def safe(self) -> int:
        """How many messages the broker has, counted from the first up to one that it lacks.

        A broker acknowledges in order (MQTT 3.1.1 §4.6). Should one not, then what it took out of
        order is sent again behind what it lacks, and the newest of a topic stays the last.
        """
        self._safe = self._acknowledged.find(0, self._safe)
        if self._safe < 0:
            self._safe = len(self._messages)
        return self._safe

    def fill(self, send: Callable[[Outgoing], int]) -> None:
        """Send on until the window is full; `send` returns the message id."""
        while len(self._on_the_wire) < _WINDOW and self._sent < self._last:
            self._on_the_wire[send(self._messages[self._sent])] = self._sent
            self._sent += 1

    def close(self) -> None:
        """Send no more than was sent."""
        self._last = self._sent

    def acknowledge(self, message_id: int) -> bool:
        """Note that the broker has a message; tell whether it was one of these."""
        position = self._on_the_wire.pop(message_id, None)
        if position is None:
            return False
        self._acknowledged[position] = 1
        self.count += 1
        if self.complete or len(self._on_the_wire) <= _WINDOW - _REFILL:
            self.changed.set()
        return True
