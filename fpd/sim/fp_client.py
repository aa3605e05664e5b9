"""How a simulated peer talks to the Flexibility Provider: one method a message."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec
from msgspec.structs import replace

from fpd.sim.journal import Clock, Journal, iso
from fpd.sim.link import Link, remember
from fpd.sim.peer_options import PeerOptions, PeerQuirks

_TIMEOUT = aiohttp.ClientTimeout(total=20, connect=10)
REPLY_ATTEMPTS = 8
_RETRYABLE = frozenset({429, 500, 502, 503, 504})
_UNASKED_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the FP answered: `status` is None when it did not, and `error` says why."""

    request_id: str
    status: int | None
    body: Any = None
    error: str | None = None

    @property
    def accepted(self) -> bool:
        return self.status == HTTPStatus.NO_CONTENT

    @property
    def worth_repeating(self) -> bool:
        return self.status is None or self.status in _RETRYABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class FpClient:
    """Sends our messages and keeps `link` in step; `changed` is called whenever it did."""

    link: Link
    journal: Journal
    clock: Clock
    options: PeerOptions
    quirks: Callable[[], PeerQuirks]
    own_url: Callable[[], str]
    changed: Callable[[], None]
    session: aiohttp.ClientSession
    sent: Counter[str]

    async def register(self, token: str, url: str, *, attempts: int | None = 1) -> Outcome:
        """Begin a registration with a first token; the FP's Register completes it (2.1)."""
        link = self.link
        before = replace(link)
        link.fp_url, link.outbound_token, link.state = url.rstrip("/"), token, "registering"
        body, request_id = self._register_body(), _new_id()
        remember(link.registers, request_id)
        self.changed()
        outcome = await self.send("register", body, request_id=request_id, attempts=attempts)
        if not outcome.accepted and link.state == "registering":
            link.state, link.outbound_token = before.state, before.outbound_token
            link.inbound_token = before.inbound_token
            link.previous_inbound_token = before.previous_inbound_token
        self.changed()
        return outcome

    async def reply_register(self, correlation_id: str) -> Outcome:
        """Answer the FP's Register with ours."""
        body = self._register_body()
        self.changed()
        outcome = await self.send(
            "register",
            body,
            correlation_id=self._correlation(correlation_id),
            attempts=REPLY_ATTEMPTS,
        )
        if outcome.accepted and self.link.state == "registering":
            self.link.state = "registered"
        self.changed()
        return outcome

    async def update_registration(self) -> Outcome:
        """Give the FP a new token for its messages to us (PUT register)."""
        before = self.link.inbound_token
        outcome = await self.send("register", self._register_body(), method="PUT")
        if outcome.accepted:
            self.link.state = "registered"
        else:
            self.link.inbound_token, self.link.previous_inbound_token = before, ""
        self.changed()
        return outcome

    async def unregister(self) -> Outcome:
        outcome = await self.send("register", None, method="DELETE")
        if outcome.accepted:
            self.link.state = "unregistered"
            self.link.inbound_token = self.link.outbound_token = ""
        self.changed()
        return outcome

    async def handshake(self, *, attempts: int | None = 1) -> Outcome:
        """Tell the FP what we require of it; its acknowledge opens the link (2.2)."""
        request_id = _new_id()
        remember(self.link.handshakes, request_id)
        self.changed()
        behaviour = self._behaviour()
        body = behaviour if self.quirks().bare_handshake else {"required_behaviour": behaviour}
        return await self.send("handshake", body, request_id=request_id, attempts=attempts)

    async def acknowledge(self, handshake_id: str) -> Outcome:
        """Answer the FP's handshake with what we require; the link is open from here on."""
        before = self.link.state
        # The FP may use the link as soon as it has accepted, before we have read its 204.
        self.link.state = "online"
        self.changed()
        outcome = await self.send(
            "handshake_acknowledge",
            {} if self.quirks().empty_ack else {"required_behaviour": self._behaviour()},
            correlation_id=self._correlation(handshake_id),
            attempts=REPLY_ATTEMPTS,
        )
        if not outcome.accepted:
            self.link.state = before
        self.changed()
        return outcome

    async def heartbeat(self, offline_mode_at: str | None = None) -> Outcome:
        """Say until when we should be taken for online."""
        interval_s = self.link.send_interval_s or _UNASKED_INTERVAL_S
        deadline = self.clock() + timedelta(seconds=self.quirks().heartbeat_k * interval_s)
        return await self.send("heartbeat", {"offline_mode_at": offline_mode_at or iso(deadline)})

    async def forecast(
        self,
        body: Mapping[str, Any],
        *,
        request_id: str | None = None,
        correlation_id: str | None = None,
    ) -> Outcome:
        request_id = request_id or _new_id()
        remember(self.link.forecasts, request_id)
        self.changed()
        return await self.send(
            "update_group_capacity_forecast",
            body,
            request_id=request_id,
            correlation_id=self._correlation(correlation_id),
        )

    async def send(
        self,
        operation: str,
        body: Any,
        *,
        method: str = "POST",
        request_id: str | None = None,
        correlation_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        attempts: int | None = 1,
    ) -> Outcome:
        """Send one message; repeat it unchanged while the FP is away (attempts None: for ever)."""
        request_id = request_id or _new_id()
        given = {
            "Authorization": f"Token {self.link.outbound_token}",
            "X-Request-ID": request_id,
            **({"X-Correlation-ID": correlation_id} if correlation_id else {}),
            **({"Content-Type": "application/json"} if body is not None else {}),
            **(headers or {}),
        }
        content = b"" if body is None else msgspec.json.encode(body)
        for attempt in range(attempts) if attempts else itertools.count():
            outcome = await self._call(method, operation, given, content)
            if not outcome.worth_repeating or attempt + 1 == attempts:
                break
            await asyncio.sleep(min(0.2 * 2**attempt, 5) * random.uniform(0.7, 1))
        self.sent[operation] += 1
        self.changed()
        return outcome

    async def _call(
        self, method: str, operation: str, headers: Mapping[str, str], content: bytes
    ) -> Outcome:
        url, request_id = f"{self.link.fp_url}/{operation}", headers["X-Request-ID"]
        entry = self.journal.begin("out", method, url, headers, content)
        try:
            async with self.session.request(
                method,
                url,
                headers=headers,
                data=content or None,
                timeout=_TIMEOUT,
                allow_redirects=False,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = str(error) or type(error).__name__
            self.journal.settle(entry, note=reason)
            return Outcome(request_id=request_id, status=None, error=reason)
        # Section 4.1.3: accepted is 204 with an empty body, and nothing else is success.
        if 200 <= response.status < 300 and (response.status != 204 or answer):
            entry.invalid += (f"success must be 204 without a body, not {response.status}",)
        self.journal.settle(entry, status=response.status, answer=answer)
        return Outcome(request_id=request_id, status=response.status, body=_decoded(answer))

    def _register_body(self) -> dict[str, Any]:
        version = {"version": "2.0", "base_url": self.own_url()}
        return {"token": self.link.rotate(), "version_url": [version]}

    def _behaviour(self) -> dict[str, Any]:
        configuration = list(self.options.measurement_configuration)
        behaviour: dict[str, Any] = {"measurement_configuration": configuration}
        if self.options.heartbeat_interval:
            behaviour["heartbeat_interval"] = self.options.heartbeat_interval
        return behaviour

    def _correlation(self, request_id: str | None) -> str | None:
        return None if self.quirks().no_correlation else request_id


def _new_id() -> str:
    return str(uuid.uuid4())


def _decoded(answer: bytes) -> Any:
    try:
        return msgspec.json.decode(answer) if answer else None
    except msgspec.DecodeError:
        return answer.decode("utf-8", "backslashreplace")
