"""The first bytes that an MQTT client sends, read before amqtt sees them.

amqtt waits for ever for a client that says nothing, and for one that speaks MQTT 5, whose
CONNECT it misreads. Both are told apart here.
"""

from __future__ import annotations

import asyncio

MQTT_3_1_1 = 4
"""The protocol level of the version that amqtt speaks."""

_CONNECT = 0x10
_LENGTH_BYTES_MAX = 3  # a CONNECT of 2 MB
_NAME = b"\x00\x04MQTT"

REFUSALS = {5: b"\x20\x03\x00\x84\x00"}
"""CONNACK "unsupported protocol version" as clients of that protocol level understand it."""
REFUSAL = b"\x20\x02\x00\x01"
"""The same for older ones."""


class NotMqtt(Exception):
    """These bytes are not the beginning of a CONNECT."""


async def read_opening(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """Return the beginning of the CONNECT and its protocol level (0 for unknown protocols).

    Raises NotMqtt, or IncompleteReadError when the client leaves.
    """
    taken = await reader.readexactly(2)
    if taken[0] != _CONNECT:
        raise NotMqtt
    while taken[-1] & 0x80:
        if len(taken) > _LENGTH_BYTES_MAX:
            raise NotMqtt
        taken += await reader.readexactly(1)
    taken += await reader.readexactly(len(_NAME) + 1)
    name, level = taken[-len(_NAME) - 1 : -1], taken[-1]
    return taken, level if name == _NAME else 0


class ReplayedReader:
    """A stream whose first bytes were taken already, as amqtt reads streams."""

    def __init__(self, taken: bytes, reader: asyncio.StreamReader) -> None:
        self._taken = taken
        self._reader = reader

    async def read(self, n: int) -> bytes:
        """Return exactly `n` bytes. Raises IncompleteReadError when the client leaves."""
        head, self._taken = self._taken[:n], self._taken[n:]
        return head + await self._reader.readexactly(n - len(head))

    def feed_eof(self) -> None:
        """Let readers see the end."""
        self._reader.feed_eof()
