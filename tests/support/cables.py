"""A network that can be cut: TCP cables between two parties, and what happens to cables."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, quote, urlsplit

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


@dataclass(eq=False)
class _Line:
    """One connection through the cable."""

    caller: asyncio.StreamWriter
    called: asyncio.StreamWriter | None = None
    spoilt: bool = False  # something was swallowed: what follows would make no sense

    def cut(self) -> None:
        for writer in (self.caller, self.called):
            if writer is None:
                continue
            end = writer.get_extra_info("socket")
            if end is not None and end.family != socket.AF_UNIX:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            cast(asyncio.WriteTransport, writer.transport).abort()


@dataclass
class Cable:
    """Listens on `port` and forwards to `target`, an address or a unix socket.

    `delay_s` holds back every piece in both directions; `swallowing` takes everything and
    passes nothing on; of the next `lost_answers` answers nothing arrives: the request went
    through, and the caller sees a reset. Whole while none of this is set.
    """

    target: tuple[str, int] | Path
    delay_s: float = 0.0
    swallowing: bool = False
    lost_answers: int = 0
    lost: int = 0
    _torn: bool = False
    _lines: set[_Line] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __aenter__(self) -> Cable:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection, and each new one until `mend`."""
        self._torn = True
        for line in tuple(self._lines):
            line.cut()

    def mend(self) -> None:
        """Make the cable whole. A connection of which something was swallowed is reset."""
        self._torn = self.swallowing = False
        self.delay_s, self.lost_answers = 0.0, 0
        for line in tuple(self._lines):
            if line.spoilt:
                line.cut()

    def half_close(self) -> None:
        """Tell every caller that nothing more will come, and go on listening to it."""
        for line in tuple(self._lines):
            with contextlib.suppress(OSError, RuntimeError):
                line.caller.write_eof()

    async def _accept(self, reader: asyncio.StreamReader, caller: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        line = _Line(caller)
        self._lines.add(line)
        try:
            await self._carry(line, reader)
        except (OSError, RuntimeError, asyncio.CancelledError):
            pass  # an end has gone or was closed, or we go: the line is cut in any case
        finally:
            line.cut()
            self._lines.discard(line)
            self._tasks.discard(task)

    async def _carry(self, line: _Line, reader: asyncio.StreamReader) -> None:
        if self._torn:
            return
        if isinstance(self.target, Path):
            answers, called = await asyncio.open_unix_connection(self.target)
        else:
            answers, called = await asyncio.open_connection(*self.target)
        line.called = called
        ways = [
            asyncio.create_task(self._pump(line, reader, called, answering=False)),
            asyncio.create_task(self._pump(line, answers, line.caller, answering=True)),
        ]
        try:
            await asyncio.gather(*ways)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(
        self,
        line: _Line,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        answering: bool,
    ) -> None:
        while piece := await reader.read(_CHUNK):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.swallowing:
                line.spoilt = True
            if line.spoilt:
                continue
            if answering and self.lost_answers:
                self.lost_answers -= 1
                self.lost += 1
                raise ConnectionResetError("the answer is lost")
            writer.write(piece)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


def cable_to(url: str) -> Cable:
    """Return a cable to the PostgreSQL server of a URL."""
    parts = urlsplit(url)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    host, port = query.get("host", parts.hostname or "127.0.0.1"), query.get("port", "")
    number = int(port or parts.port or 5432)
    if host.startswith("/"):
        return Cable(Path(host) / f".s.PGSQL.{number}")
    return Cable((host, number))


def through(cable: Cable, url: str) -> str:
    """Return the URL of the same database, reached through the cable."""
    parts = urlsplit(url)
    who = f"{quote(parts.username or 'fpd')}{f':{parts.password}' if parts.password else ''}"
    return f"postgresql://{who}@127.0.0.1:{cable.port}{parts.path}?sslmode=disable"
