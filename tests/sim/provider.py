"""A very small Flexibility Provider, just enough to judge the simulated peers by."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import aiohttp
from aiohttp import web

FIRST_TOKEN = "first-token-of-the-provider"


class TinyProvider:
    """Registers back, acknowledges, takes everything, and remembers what it took."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, dict[str, str], Any]] = []
        self.token_for_peer = FIRST_TOKEN
        self.token_of_peer = ""
        self.peer_url = ""
        self.heartbeat_interval = 1
        self.statuses: dict[str, int] = {}
        self.reply_correlates = True
        self.registers_back = True
        self.own_url = ""
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/fp/{operation}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.own_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/fp"
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))

    async def stop(self) -> None:
        await self._runner.cleanup()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.close()

    def messages(self, operation: str) -> list[tuple[dict[str, str], Any]]:
        return [(headers, body) for _, taken, headers, body in self.taken if taken == operation]

    async def send(
        self,
        operation: str,
        body: Any,
        *,
        correlation_id: str = "",
        request_id: str = "",
        method: str = "POST",
        token: str | None = None,
    ) -> tuple[int, Any]:
        token = self.token_of_peer if token is None else token
        headers = {"X-Request-ID": request_id or f"fp-{next(self._ids)}"}
        if token:
            headers["Authorization"] = f"Token {token}"
        if correlation_id:
            headers["X-Correlation-ID"] = correlation_id
        url = f"{self.peer_url}/{operation}"
        async with self.session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json() if response.status != 204 else None

    async def _take(self, request: web.Request) -> web.Response:
        operation = request.match_info["operation"]
        body = await request.json() if request.can_read_body else None
        self.taken.append((request.method, operation, dict(request.headers), body))
        status = self.statuses.get(operation)
        if status is None and request.headers["Authorization"] != f"Token {self.token_for_peer}":
            status = 403
        if status is None and request.method == "POST":
            self._answer_later(operation, request.headers["X-Request-ID"], body)
        return web.Response(status=status or 204)

    def _answer_later(self, operation: str, request_id: str, body: Any) -> None:
        follow_up = {"register": self._register_back, "handshake": self._acknowledge}
        if operation in follow_up and (self.registers_back or operation != "register"):
            task = asyncio.create_task(follow_up[operation](request_id, body))
            self._tasks.add(task)

    async def _register_back(self, request_id: str, body: Any) -> None:
        self.peer_url = body["version_url"][0]["base_url"]
        self.token_of_peer = body["token"]
        self.token_for_peer = f"second-token-{next(self._ids):03}"
        reply = {
            "token": self.token_for_peer,
            "version_url": [{"version": "2.0", "base_url": self.own_url}],
        }
        correlation_id = request_id if self.reply_correlates else ""
        await self.send("register", reply, correlation_id=correlation_id)

    async def _acknowledge(self, request_id: str, body: Any) -> None:
        behaviour = {
            "heartbeat_interval": self.heartbeat_interval,
            "measurement_configuration": [],
        }
        await self.send(
            "handshake_acknowledge",
            {"required_behaviour": behaviour},
            correlation_id=request_id,
        )
