"""A publisher that costs next to nothing: MQTT 3.1.1 by hand, QoS 1, many messages on the way.

Who uses it knows what the broker has: everything that was published when `publish` returns.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence

import psycopg

_WINDOW = 1000
_IDS = 60_000

Message = tuple[str, bytes]


async def publish(port: int, messages: Sequence[Message], *, client_id: str = "flood") -> None:
    """Publish, and return when the broker has acknowledged every message.

    Raises ConnectionError when the broker goes away before that.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(_connect(client_id))
        if (await reader.readexactly(4))[3]:
            raise ConnectionError("refused")
        for start in range(0, len(messages), _WINDOW):
            part = messages[start : start + _WINDOW]
            writer.write(
                b"".join(
                    packet(topic, payload, (start + n) % _IDS + 1)
                    for n, (topic, payload) in enumerate(part)
                )
            )
            await writer.drain()
            await reader.readexactly(4 * len(part))
    except asyncio.IncompleteReadError:
        raise ConnectionError("the broker went away") from None
    finally:
        writer.close()


def _connect(client_id: str) -> bytes:
    body = b"\0\4MQTT\4\2\0\0" + _text(client_id)
    return b"\x10" + _length(len(body)) + body


def packet(topic: str, payload: bytes, message_id: int) -> bytes:
    """Return a PUBLISH of QoS 1."""
    body = _text(topic) + struct.pack(">H", message_id) + payload
    return b"\x32" + _length(len(body)) + body


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


def _length(length: int) -> bytes:
    found = bytearray()
    while True:
        length, rest = divmod(length, 128)
        found.append(rest | (128 if length else 0))
        if not length:
            return bytes(found)


class Source:
    """Numbered datum, published part by part until `stop`; a part is repeated until the broker
    has acknowledged all of it, so of every number below `count` the broker has had its word.
    """

    def __init__(self, port: int, *, streams: int = 20, part: int = 200) -> None:
        self.count = 0
        self._port = port
        self._streams = streams
        self._part = part
        self._base = int(time.time() * 1000)
        self._going = True
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> int:
        """Return how many there are."""
        self._going = False
        await self._task
        return self.count

    async def _run(self) -> None:
        while self._going:
            numbers = range(self.count, self.count + self._part)
            try:
                await publish(self._port, [self._message(n) for n in numbers])
            except OSError:
                await asyncio.sleep(0.05)
                continue
            self.count += self._part
            await asyncio.sleep(0.02)

    def _message(self, n: int) -> Message:
        topic = f"node/7/datum/0/meter/{n % self._streams}"
        return topic, b'{"created":%d,"n":%d}' % (self._base - 86_400_000 + n, n)


async def account(url: str, count: int, *, within_s: float = 30) -> None:
    """Wait for as many datum; each number is there once, in its stream and at its time."""
    query = """
        select count(*), count(distinct (d.i -> 'n')::int), min((d.i -> 'n')::int),
               max((d.i -> 'n')::int),
               count(*) filter (where s.source_id <> 'meter/' || (d.i -> 'n')::int % 20)
          from datum as d join stream as s on s.id = d.stream_id
    """
    found: object = None
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            found = await (await conn.execute(query)).fetchone()
            if found == (count, count, 0, count - 1, 0):
                return
            await asyncio.sleep(0.1)
    raise AssertionError(f"of {count} datum: {found}")
