"""A wire between the daemon and its database that can be cut without anybody being told."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import parse_qs, urlsplit


class Wire:
    """Forwards TCP to PostgreSQL's socket; while `cut`, it takes everything and passes nothing."""

    def __init__(self, url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        self._path = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self._url = url
        self._whole = asyncio.Event()
        self._whole.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        parts = urlsplit(self._url)
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    async def _connected(self, here: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_unix_connection(self._path)
        for reader, writer in ((here, onward), (there, back)):
            task = asyncio.create_task(self._pass_on(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
