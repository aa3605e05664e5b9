"""Connections to the doors: how many there may be, and how long one may take over a request.

A client that says nothing, or a byte a second, holds a file descriptor. So whoever has begun a
request must finish its head soon, an answer must be taken in time, and when all places are taken
the connection that has waited longest makes room: a new one always finds a place, unless all
others are at work.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from aiohttp import http_exceptions, web

from fpd.metrics import Metrics
from fpd.web.limits import site

log = structlog.get_logger()

SERVER = "fpd"
HEAD_S = 10.0
REQUEST_S = 90.0  # body, work and answer
_IDLE_S = 75.0
_LINGER_S = 10.0  # for what was written before closing to be taken
_TOO_LATE = b'{"message":"the request did not arrive in time"}'
_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nServer: fpd\r\nConnection: close\r\n"
    b"Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_TOO_LATE), _TOO_LATE)


class Connection(web.RequestHandler):
    """One connection; aiohttp closes it when it is idle for long, all else is bounded here."""

    __slots__ = ("_among", "_late", "_late_at", "_lingers", "_timer", "address")

    def __init__(self, among: Connections, server: web.Server, **settings: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._among = among
        self._timer: asyncio.TimerHandle | None = None
        self._late_at: float | None = None
        self._late = self.drop
        self._lingers: asyncio.TimerHandle | None = None
        self.address = ""

    @property
    def at_work(self) -> bool:
        """Whether a handler is busy for it."""
        return self._current_request is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = site(peer[0] if peer else None)
        self._within(self._among.head_s, self._too_slow)
        self._among.admit(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._late_at = None
        for timer in (self._timer, self._lingers):
            if timer is not None:
                timer.cancel()
        self._among.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._waiter is None:  # at work for a request, or about to be
            return
        if self._messages:
            self._within(self._among.request_s, self.drop)
        elif self._late_at is None:
            self._within(self._among.head_s, self._too_slow)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._within(self._among.request_s if self._messages else None, self.drop)
            self._among.rest(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP. Neither the log nor the answer repeats it: it may be secret."""
        if status >= 500:
            log.error("request.failed", exc_info=exc)
            text = "internal error"
        elif isinstance(exc, http_exceptions.LineTooLong):
            status, text = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large"
        elif isinstance(exc, http_exceptions.ContentEncodingError):
            status, text = HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding: gzip or deflate"
        else:
            log.debug("request.unreadable", reason=type(exc).__name__)
            text = "this is no HTTP request"
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer has begun")
        response = web.Response(
            body=msgspec.json.encode({"message": text}),
            status=status,
            content_type="application/json",
            charset="utf-8",
            headers={"Server": SERVER},
        )
        response.force_close()
        return response

    def goes_on(self) -> None:
        """A long answer makes headway: from here on it has as long as a whole request."""
        self._within(self._among.request_s, self.drop)

    def force_close(self) -> None:
        """Close the connection; who has not taken all of his answer by then gets no more of it.

        To close is to wait until everything is written, and who takes nothing would keep his place
        for ever.
        """
        transport = self.transport
        super().force_close()
        if transport is not None:
            self._lingers = self._loop.call_later(_LINGER_S, transport.abort)

    def drop(self) -> None:
        """Close the connection at once, whatever is still to be read or written."""
        if self.transport is not None:
            self.transport.abort()

    def _within(self, seconds: float | None, late: Callable[[], None]) -> None:
        """Have `late` called after so many seconds, None: never; what was set before is void.

        A timer that rings too early is wound up again then, so most requests need none.
        """
        loop, self._late = self._loop, late
        self._late_at = None if seconds is None else loop.time() + seconds
        timer = self._timer
        if self._late_at is None or (timer is not None and timer.when() <= self._late_at):
            return
        if timer is not None:
            timer.cancel()
        self._timer = loop.call_at(self._late_at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._late_at is None:
            return
        if self._loop.time() < self._late_at:
            self._timer = self._loop.call_at(self._late_at, self._ring)
        else:
            self._late_at = None
            self._late()

    def _too_slow(self) -> None:
        self._among.count("late")
        if self.transport is not None:
            self.transport.write(_LATE)
        self.force_close()


class Connections:
    """All connections of the daemon; called, it makes the next one.

    `most` in all, `most_of_address` of one address (of one IPv6 network).
    """

    def __init__(
        self,
        server: web.Server,
        metrics: Metrics,
        *,
        most: int,
        most_of_address: int,
        head_s: float = HEAD_S,
        request_s: float = REQUEST_S,
    ) -> None:
        self._server = server
        self._metrics = metrics
        self._most = most
        self._most_of_address = most_of_address
        self.head_s = head_s
        self.request_s = request_s
        # By address, the one that has rested longest first.
        self._open: defaultdict[str, dict[Connection, None]] = defaultdict(dict)
        self._count = 0

    def __call__(self) -> Connection:
        return Connection(
            self,
            self._server,
            access_log=None,
            keepalive_timeout=_IDLE_S,
            lingering_time=5.0,
        )

    def admit(self, new: Connection) -> None:
        """Give it a place, that of another one if need be."""
        self._open[new.address][new] = None
        self._count += 1
        crowded: str | None = None
        if len(self._open[new.address]) > self._most_of_address:
            crowded = new.address
        elif self._count > self._most:
            crowded = max(self._open, key=lambda address: len(self._open[address]))
        if crowded is not None:
            self.count("full")
            resting = (one for one in self._open[crowded] if not one.at_work)
            leaving = next(resting, new)
            self.forget(leaving)
            leaving.drop()

    def rest(self, one: Connection) -> None:
        """It has been served: others have waited longer."""
        mine = self._open.get(one.address, {})
        if one in mine:
            mine[one] = mine.pop(one)

    def forget(self, one: Connection) -> None:
        """It is closed, or about to be."""
        mine = self._open.get(one.address, {})
        if one in mine:
            del mine[one]
            self._count -= 1
            if not mine:
                del self._open[one.address]

    def count(self, reason: str) -> None:
        self._metrics.dropped.labels(reason).inc()
