"""Clients that take their time, or take all places: raw sockets against real connections."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web
from support.waiting import wait_for

from fpd.metrics import Metrics
from fpd.web import connections
from fpd.web.connections import Connections

LARGE = 8 * 1024 * 1024
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass
class Doors:
    port: int
    metrics: Metrics
    entered: asyncio.Event
    leave: asyncio.Event
    listening: socket.socket
    transports: list[asyncio.BaseTransport]

    def shrink(self) -> None:
        """Have the system take little of an answer off our hands."""
        self.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def waiting(self) -> list[asyncio.BaseTransport]:
        """The connections that are there, be they open or closing."""
        return [t for t in self.transports if t.get_extra_info("socket").fileno() >= 0]

    async def enters(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    def dropped(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "fpd_http_connections_dropped_total", {"reason": reason}
            )
            or 0
        )


@asynccontextmanager
async def doors(
    *, most: int = 100, most_of_address: int = 100, head_s: float = 5, request_s: float = 5
) -> AsyncIterator[Doors]:
    entered, leave, metrics = asyncio.Event(), asyncio.Event(), Metrics()
    transports: list[asyncio.BaseTransport] = []

    async def quick(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path})

    async def slow(request: web.Request) -> web.Response:
        entered.set()
        await leave.wait()
        return web.Response(text="done")

    async def middle(request: web.Request) -> web.Response:
        entered.set()
        assert request.transport is not None
        transports.append(request.transport)
        return web.Response(body=b"x" * 60_000)

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * LARGE)

    app = web.Application()
    app.add_routes([web.get("/", quick), web.get("/slow", slow), web.get("/large", large)])
    app.router.add_get("/middle", middle)
    app.add_routes([web.post("/", quick)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    made = Connections(
        runner.server,
        metrics,
        most=most,
        most_of_address=most_of_address,
        head_s=head_s,
        request_s=request_s,
    )
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    try:
        # A copy, since asyncio's own lets nothing be set.
        with socket.socket(fileno=os.dup(server.sockets[0].fileno())) as listening:
            port = listening.getsockname()[1]
            yield Doors(port, metrics, entered, leave, listening, transports)
    finally:
        leave.set()
        server.close()
        await runner.cleanup()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the other side closes."""
    async with asyncio.timeout(10):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        return int(head.split()[1]), await reader.readexactly(length)


@pytest.mark.parametrize("said", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n"])
async def test_a_head_that_never_ends_is_a_408(said: bytes) -> None:
    async with doors(head_s=0.2) as here:
        reader, writer = await here.enters()
        writer.write(said)
        told = await rest_of(reader)
        writer.close()
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ") and b"Connection: close" in head
        assert json.loads(body) == {"message": "the request did not arrive in time"}
        assert f"Content-Length: {len(body)}".encode() in head
        assert here.dropped("late") == 1


async def test_a_drip_of_headers_does_not_lengthen_the_time() -> None:
    async with doors(head_s=0.3) as here:
        reader, writer = await here.enters()
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        began = asyncio.get_running_loop().time()
        writer.write(b"GET / HTTP/1.1\r\n")
        told = asyncio.create_task(rest_of(reader))
        while not told.done():
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.02)
        writer.close()
        # What is written to a closed connection may take the answer with it.
        assert told.result()[:13] in (b"HTTP/1.1 408 ", b"")
        assert here.dropped("late") == 1
        assert asyncio.get_running_loop().time() - began < 2


async def test_a_quick_client_may_rest_between_requests() -> None:
    async with doors(head_s=0.1, request_s=0.1) as here:
        reader, writer = await here.enters()
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
            assert (await answer(reader))[0] == 200
            await asyncio.sleep(0.25)
        writer.close()
        assert here.dropped("late") == 0


async def test_who_does_not_take_his_answer_is_dropped() -> None:
    async with doors(request_s=0.3) as here:
        reader, writer = await here.enters()
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.8)
        assert len(await rest_of(reader)) < LARGE
        writer.close()


async def test_who_rests_on_an_answer_that_he_does_not_take_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest of it waits in our memory, and to close a connection is to wait for that."""
    monkeypatch.setattr(connections, "_IDLE_S", 0.2)
    monkeypatch.setattr(connections, "_LINGER_S", 0.2)
    async with doors() as here:
        here.shrink()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        with client:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", here.port))
            client.send(b"GET /middle HTTP/1.1\r\nHost: x\r\n\r\n")
            await here.entered.wait()
            await wait_for(lambda: here.waiting() == [])


async def test_a_newcomer_takes_the_place_of_who_has_rested_longest() -> None:
    async with doors(most_of_address=5) as here:
        idle = [await here.enters() for _ in range(5)]
        reader, writer = idle[0]
        writer.write(GET)
        assert (await answer(reader))[0] == 200  # so it is not the one that rested longest
        for _ in range(3):
            newcomer = await here.enters()
            newcomer[1].write(GET)
            assert (await answer(newcomer[0]))[0] == 200
            idle.append(newcomer)
        assert [await rest_of(reader) for reader, _ in idle[1:4]] == [b""] * 3
        writer.write(GET)
        assert (await answer(reader))[0] == 200
        assert here.dropped("full") == 3
        for _, writer in idle:
            writer.close()


@pytest.mark.parametrize("limit", ["most", "most_of_address"])
async def test_who_is_at_work_is_not_disturbed(limit: str) -> None:
    async with doors(**{limit: 1}) as here:
        reader, writer = await here.enters()
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await here.entered.wait()
        late_reader, late_writer = await here.enters()
        assert await rest_of(late_reader) == b""
        here.leave.set()
        assert await answer(reader) == (200, b"done")
        writer.close()
        late_writer.close()
        # The place is free again.
        last_reader, last_writer = await here.enters()
        last_writer.write(GET)
        assert (await answer(last_reader))[0] == 200
        last_writer.close()


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", 400),
    ],
)
async def test_what_is_no_http_is_refused_without_repeating_it(
    said: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with doors() as here:
        reader, writer = await here.enters()
        writer.write(said)
        told = await rest_of(reader)
        writer.close()
        head, _, body = told.partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status, told
        assert list(json.loads(body)) == ["message"]
        assert b"aiohttp" not in head and b"Python" not in head
        assert b"yyy" not in told and not caplog.records
