"""What every simulator is: one HTTP server with a log, quirks and a control door."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
import structlog
from aiohttp import web

from fpd.sim import control_door
from fpd.sim.answers import Refusal, reply
from fpd.sim.journal import Changes, Clock, Entry, Journal
from fpd.sim.quirks import Quirks, StatusRule, Switchboard

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Action = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Q = TypeVar("Q", bound=Quirks)

ENTRY = web.RequestKey("entry", Entry)
MAX_BODY = 16 * 2**20
_LOOK_AGAIN_S = 0.2


def option(default: Any, why: str, *, secret: bool = False) -> Any:
    """Declare an option: its default, one line of help, and whether it is a secret."""
    return field(default=default, repr=not secret, metadata={"help": why, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every simulator can be told on the command line."""

    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(0, "port to listen on; 0 takes a free one")
    quirk: tuple[str, ...] = option((), "NAME=VALUE switched on from the start (VALUE is JSON)")


class Simulator(Generic[Q]):
    """A server that remembers: `start()` returns its base URL, `stop()` leaves nothing behind.

    Subclasses give `role`, `routes()` and `state()`, and may add `actions`, `begin()` (called
    once it listens), `end()` (called when it no longer does), `advance()` and `refused()` (the
    form of a no).
    """

    role: ClassVar[str]

    def __init__(self, options: Options, *, clock: Clock, quirks: type[Q]) -> None:
        self.clock = clock
        self.journal = Journal(clock)
        self.switchboard = Switchboard(quirks, options.quirk)
        self.changes = Changes()
        self.actions: dict[str, Action] = {}
        self.url = ""
        self._host, self._port = options.host, options.port
        self._closing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._follow_ups: dict[int, list[Coroutine[Any, Any, None]]] = {}
        self._runner: web.AppRunner | None = None

    @property
    def quirks(self) -> Q:
        return self.switchboard.now

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the doors of the thing simulated."""
        return ()

    def state(self) -> dict[str, Any]:
        """Return what `GET /_sim/state` shows."""
        raise AssertionError(f"{type(self).__name__} must say what it shows")

    def advance(self) -> None:
        """Bring what is simulated up to now, under the quirks in force."""

    def switch(self, changes: Mapping[str, Any] | None) -> None:
        """Change quirks (None: behave again); what happened until now happened under the old."""
        self.advance()
        if changes is None:
            self.switchboard.reset()
        else:
            self.switchboard.change(changes)
        self.advance()
        self.changes.notify()

    async def begin(self) -> None:
        """Start what runs by itself."""

    async def end(self) -> None:
        """Close what `begin` opened; not called if it never listened."""

    def refused(self, refusal: Refusal) -> web.Response:
        return reply({"message": refusal.message}, status=refusal.status)

    async def start(self) -> str:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._remember])
        app.on_response_prepare.append(self._date)
        app.add_routes(control_door.routes(self))
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen(self._runner)
        self.url = f"http://{self._host}:{self._port}"
        await self.begin()
        return self.url

    def told_time(self) -> datetime:
        """Return what the Date header says."""
        return self.clock()

    async def _date(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = format_datetime(self.told_time().astimezone(UTC), usegmt=True)

    async def stop(self) -> None:
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.url:
            await self.end()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the server until it ends or the simulator stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def after_answer(self, request: web.Request, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` once the answer to `request` has left."""
        self._follow_ups.setdefault(request[ENTRY].seq, []).append(work)

    async def refuse_connections(self, duration_s: float) -> None:
        """Close the port and every connection, and open it again `duration_s` later."""
        runner = self._runner
        if runner is None or runner.server is None:
            return
        for site in tuple(runner.sites):
            await site.stop()
        for connection in runner.server.connections:
            connection.force_close()
        await asyncio.sleep(duration_s)
        self.switch({"refuse_connections_s": None})
        await self._listen(runner)

    async def _listen(self, runner: web.AppRunner) -> None:
        await web.TCPSite(runner, self._host, self._port).start()
        self._port = runner.addresses[0][1]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sim.task.failed", role=self.role, exc_info=error)

    @web.middleware
    async def _remember(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith(control_door.PREFIX):
            return await handler(request)
        body = await request.read()
        entry = self.journal.begin("in", request.method, request.path_qs, request.headers, body)
        request[ENTRY] = entry
        line = f"{request.method} {request.path}"
        hit = self.switchboard.hits(line)
        if hit and await self._misbehaves(request, entry):
            return web.Response()
        forced = self.switchboard.forced_answer(line)
        response = _forced(forced) if forced else await self._answer(request, handler)
        lost = hit and self.quirks.lose_answer
        self.journal.settle(
            entry,
            status=response.status,
            answer=_body(response),
            note="answer lost" if lost else None,
        )
        follow_ups = self._follow_ups.pop(entry.seq, [])
        if lost:
            _cut(request)
        else:
            if hit and self.quirks.truncate:
                response = _halved(response)
            await response.prepare(request)
            await response.write_eof()
        for work in follow_ups:
            self.spawn(work)
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        entry = request[ENTRY]
        try:
            return await handler(request)
        except Refusal as refusal:
            entry.invalid += refusal.invalid
            return self.refused(refusal)
        except web.HTTPException as refused:
            entry.invalid += (f"{request.method} {request.path}: {refused.reason}",)
            return self.refused(Refusal(refused.status, refused.reason))
        except Exception:
            self.journal.settle(entry, note="our own error")
            raise

    async def _misbehaves(self, request: web.Request, entry: Entry) -> bool:
        """Apply the network quirks; True when the connection ended without a proper answer."""
        quirks = self.quirks
        if quirks.delay_s:
            await asyncio.sleep(quirks.delay_s)
        if quirks.drop:
            self.journal.settle(entry, note="dropped")
        elif quirks.tarpit:
            self.journal.settle(entry, note="tarpit")
            await self._until_left(request)
        elif quirks.hang_after_headers:
            self.journal.settle(entry, note="hung after headers")
            await web.StreamResponse(headers={"Content-Length": "64"}).prepare(request)
            await self._until_left(request)
        else:
            return False
        _cut(request)
        return True

    async def _until_left(self, request: web.Request) -> None:
        while request.transport is not None and not request.transport.is_closing():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _LOOK_AGAIN_S)
                return


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _forced(rule: StatusRule) -> web.Response:
    if isinstance(rule.body, str):
        kind = "text/html" if rule.body.startswith("<") else "text/plain"
        return web.Response(
            status=rule.status, text=rule.body, content_type=kind, headers=rule.headers
        )
    body = b"" if rule.body is None else msgspec.json.encode(rule.body)
    return web.Response(
        status=rule.status, body=body, content_type="application/json", headers=rule.headers
    )


def _halved(response: web.StreamResponse) -> web.Response:
    said = _body(response)
    headers = {name: value for name, value in response.headers.items() if name != "Content-Length"}
    return web.Response(status=response.status, body=said[: len(said) // 2], headers=headers)


def _body(response: web.StreamResponse) -> bytes:
    body = response.body if isinstance(response, web.Response) else None
    return bytes(body) if isinstance(body, bytes | bytearray) else b""
