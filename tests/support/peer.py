"""A peer that remembers: any OSCP role, played by the test itself over real HTTP."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Heard:
    """One request that reached the peer."""

    operation: str
    method: str
    headers: dict[str, str]
    body: Any
    raw: bytes

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Token ")


@dataclass
class RecordingPeer:
    """Serves one role under `base_url`; answers 204 unless `answers` says otherwise."""

    role: str = "cp"
    port: int = 0
    answers: dict[str, list[int]] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)

    async def __aenter__(self) -> RecordingPeer:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", f"/oscp/{self.role}/2.0/{{operation}}", self._hear)
        self._changed = asyncio.Condition()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/oscp/{self.role}/2.0"

    async def _hear(self, request: web.Request) -> web.Response:
        raw = await request.read()
        heard = Heard(
            operation=request.match_info["operation"],
            method=request.method,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=json.loads(raw) if raw else None,
            raw=raw,
        )
        async with self._changed:
            self.heard.append(heard)
            self._changed.notify_all()
        planned = self.answers.get(heard.operation)
        return web.Response(status=planned.pop(0) if planned else 204)

    def of(self, operation: str) -> list[Heard]:
        return [heard for heard in self.heard if heard.operation == operation]

    async def hears(self, operation: str, count: int = 1, *, within_s: float = 20) -> Heard:
        """Return the `count`th request of that name, waiting for it if need be."""
        try:
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: len(self.of(operation)) >= count)
        except TimeoutError:
            said = [heard.operation for heard in self.heard]
            raise AssertionError(f"{operation} #{count} never came; heard {said}") from None
        return self.of(operation)[count - 1]

    async def says(
        self,
        fpd: str,
        operation: str,
        body: Any,
        *,
        token: str | None,
        method: str = "POST",
        request_id: str | None = None,
        **headers: str,
    ) -> tuple[int, Any, dict[str, str]]:
        """Call the daemon at `fpd`; return status, body and headers of its answer."""
        sent = {"X-Request-ID": request_id or f"{self.role}-{next(_numbers)}"}
        if token is not None:
            sent["Authorization"] = f"Token {token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.request(
            method,
            f"{fpd}/oscp/fp/2.0/{operation}",
            data=io.BytesIO(data),
            headers={"Content-Type": "application/json", **sent},
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None, dict(answer.headers)

    async def registers(self, fpd: str, token: str) -> str:
        """Register with the first token; return the one to use from now on."""
        before = len(self.of("register"))
        body = {
            "token": f"token-of-{self.role}-{next(_numbers)}",
            "version_url": [{"version": "2.0", "base_url": self.base_url}],
        }
        status, said, _ = await self.says(fpd, "register", body, token=token)
        assert status == 204, said
        reply = await self.hears("register", before + 1)
        assert reply.token == body["token"]
        return str(reply.body["token"])

    async def shakes_hands(self, fpd: str, token: str, interval_s: float = 60) -> None:
        """As a provider: demand heartbeats, and wait for the acknowledge."""
        before = len(self.of("handshake_acknowledge"))
        body = {
            "required_behaviour": {
                "heartbeat_interval": interval_s,
                "measurement_configuration": ["CONTINUOUS"],
            }
        }
        status, said, _ = await self.says(fpd, "handshake", body, token=token)
        assert status == 204, said
        await self.hears("handshake_acknowledge", before + 1)

    async def acknowledges(self, fpd: str, token: str, interval_s: float = 60) -> None:
        """As an optimizer: wait for the daemon's handshake and acknowledge it."""
        handshake = await self.hears("handshake")
        body = {
            "required_behaviour": {
                "heartbeat_interval": interval_s,
                "measurement_configuration": [],
            }
        }
        correlation = {"X_Correlation_ID": handshake.headers["x-request-id"]}
        status, said, _ = await self.says(
            fpd, "handshake_acknowledge", body, token=token, **correlation
        )
        assert status == 204, said
