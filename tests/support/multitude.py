"""Many peers in one process: healthy ones that note when they are called, and hostile ones.

    python -m support.multitude NOTES

prints one JSON line, the port of each kind of peer on all of 127.0.0.0/8, and writes what the
healthy ones noted to the file NOTES when its standard input ends: a line `name instant` for each
heartbeat. The name is the first part of the path. Lines named `tick` tell how late (s) a timer of
its own rang: what the machine does to everybody.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from pathlib import Path

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"


class Polite(asyncio.Protocol):
    """Answers every request; as little HTTP as will do, to measure the other side."""

    def __init__(self, answer: bytes, notes: list[tuple[str, float]] | None) -> None:
        self._answer, self._notes, self._said = answer, notes, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._said += data
        while (end := self._said.find(b"\r\n\r\n")) >= 0:
            head = self._said[:end].decode("latin-1")
            lines = head.lower().split("\r\n")
            lengths = [line[15:] for line in lines if line.startswith("content-length:")]
            whole = end + 4 + int(lengths[0] if lengths else 0)
            if len(self._said) < whole:
                return
            if self._notes is not None:
                self._notes.append((head.split(" ", 2)[1].split("/")[1], time.time()))
            self._said = self._said[whole:]
            self._transport.write(self._answer)


class Tarpit(asyncio.Protocol):
    """Takes everything and never says a word."""


class Drip(asyncio.Protocol):
    """Answers a byte a second."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._task = asyncio.ensure_future(self._drip(transport))

    def connection_lost(self, error: Exception | None) -> None:
        self._task.cancel()

    async def _drip(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        for byte in _ANSWER:
            transport.write(bytes([byte]))
            await asyncio.sleep(1)


class Reset(asyncio.Protocol):
    """Cuts the connection as rudely as TCP can."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        wire = transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


class Garbage(asyncio.Protocol):
    """Answers a TLS greeting with something else."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"\x16\x03\x01no such protocol" * 8)


async def main(notes: list[tuple[str, float]]) -> None:
    loop = asyncio.get_running_loop()
    kinds = {
        "healthy": lambda: Polite(_ANSWER, notes),
        "tarpit": Tarpit,
        "drip": Drip,
        "reset": Reset,
        "broken": lambda: Polite(_BROKEN, None),
        "garbage": Garbage,
    }
    ports = {}
    for kind, protocol in kinds.items():
        server = await loop.create_server(protocol, "0.0.0.0", 0, backlog=4096)
        ports[kind] = server.sockets[0].getsockname()[1]
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    listening = asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))
    while not listening.done():
        due_s = loop.time() + 0.02
        await asyncio.sleep(0.02)
        notes.append(("tick", loop.time() - due_s))


if __name__ == "__main__":
    noted: list[tuple[str, float]] = []
    asyncio.run(main(noted))
    Path(sys.argv[1]).write_text("".join(f"{name} {at}\n" for name, at in noted))
