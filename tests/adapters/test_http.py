"""What a device may do to us over HTTP is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from fpd.adapters import http
from fpd.adapters.device import Unreachable
from fpd.adapters.http import Breaker, DeviceHttp, Reply
from fpd.adapters.lenient import integer, number


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 1_000_001)

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    async def elsewhere(_: web.Request) -> web.Response:
        raise web.HTTPFound("/large")

    app = web.Application()
    app.add_routes(
        [web.get("/large", large), web.get("/slow", slow), web.get("/elsewhere", elsewhere)]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "why"),
    [("/large", "larger than 1 MB"), ("/slow", "no answer within"), ("/elsewhere", "redirects")],
)
async def test_an_answer_that_goes_too_far_is_none(address: str, path: str, why: str) -> None:
    async with http.session() as session:
        device = DeviceHttp(session, address, timeout_s=0.3)
        with pytest.raises(Unreachable, match=why):
            await device.request("GET", path)


async def test_a_closed_port_is_told_in_one_line() -> None:
    async with http.session() as session:
        device = DeviceHttp(session, "http://127.0.0.1:1", timeout_s=1)
        with pytest.raises(Unreachable) as refused:
            await device.request("GET", "/")
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "<html>", '{"power": NaN}', "[" * 100_000, "[" * 40 + "]" * 40]
)
def test_what_is_no_decent_json_is_no_answer(text: str) -> None:
    with pytest.raises(Unreachable):
        Reply(status=200, text=text).json()


def test_numbers_are_read_leniently_and_never_as_infinite() -> None:
    read = Reply(status=200, text='{"a": "12.50", "b": 1e999, "c": true, "d": "7"}').json()
    assert [number(read[key]) for key in "abc"] == [12.5, None, None]
    assert (integer(read["d"]), integer("7.5"), integer(None)) == (7, None, None)


class Seconds:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_after_five_failures_and_lets_one_through_each_minute() -> None:
    time = Seconds()
    breaker = Breaker(time)
    for _ in range(5):
        breaker.check()
        breaker.failed()
    with pytest.raises(Unreachable) as paused:
        breaker.check()
    assert paused.value.retry_s == 60
    time.now = 60
    breaker.check()
    with pytest.raises(Unreachable):
        breaker.check()
    breaker.failed()
    time.now = 119
    with pytest.raises(Unreachable):
        breaker.check()
    time.now = 120
    breaker.check()
    breaker.succeeded()
    breaker.check()
