"""One customer account of the BlueGen web service: logged in when needed, by one task at a time.

The units of an account share it, and with it the login, the day's quota and every stop
(reference: devices §1.1, §1.2, §1.9, §1.10).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

import structlog

from fpd.adapters import bluegen_parse
from fpd.adapters.bluegen_errors import Kind, Refusal, classify
from fpd.adapters.device import Clock, Unreachable
from fpd.adapters.http import DeviceHttp, Reply
from fpd.config import BluegenDevice

log = structlog.get_logger()

_REFUSED_TWICE_S = 15 * 60.0
_TOO_MANY_ATTEMPTS_S = 6 * 3600.0
_UNTIL_RESTART_S = 30 * 86400.0
_QUOTA_PROBE_S = 3600.0
_SKEW_TOLD_S = 30.0


@dataclass(frozen=True, slots=True)
class _Block:
    """Nothing is asked before `until` (loop time)."""

    until: float
    reason: str
    kind: Kind


class Account:
    """Sends requests as the customer. Raises Refusal, Stopped or Unreachable; returns the rest."""

    def __init__(self, device: BluegenDevice, http: DeviceHttp, clock: Clock) -> None:
        self.eula_accepted = True
        self.skew_s = 0.0
        self.requests = 0
        self._day = datetime.min.replace(tzinfo=UTC).date()
        self._http = http
        self._clock = clock
        self._username = device.username
        self._password = device.password
        self._margin_s = device.token_margin_s
        self._default_s = device.token_default_s
        self._content_md5 = device.send_content_md5
        self._logging_in = asyncio.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._block: _Block | None = None

    async def get(self, path: str) -> Any:
        """Ask and return the parsed answer."""
        return (await self._as_customer("GET", path, b"")).json()

    async def post(self, path: str, payload: Any) -> Reply:
        return await self._as_customer("POST", path, _encoded(payload))

    async def put(self, path: str) -> Reply:
        return await self._as_customer("PUT", path, b"")

    def recall(self, *, day: str | None, requests: int) -> None:
        """Go on counting where an earlier run of the same UTC day stopped."""
        self._roll()
        if day == self.day:
            self.requests = max(self.requests, requests)

    @property
    def day(self) -> str:
        """The UTC day that `requests` counts."""
        return self._day.isoformat()

    async def _as_customer(self, method: str, path: str, body: bytes) -> Reply:
        """Send with a token; one that is refused is renewed once (class A)."""
        self._check_block()
        token = await self._logged_in()
        reply = await self._send(method, path, body, token)
        if not reply.ok and classify(reply.status, reply.text)[0] is Kind.RELOGIN:
            if self._token == token:
                self._token = None
            reply = await self._send(method, path, body, await self._logged_in())
        return self._judged(reply, f"{method} {path}")

    async def _logged_in(self) -> str:
        """Return a token that is valid for a while. Whoever comes meanwhile waits and shares it."""
        async with self._logging_in:
            if self._token is None or asyncio.get_running_loop().time() >= self._renew_at:
                self._check_block()
                await self._log_in()
            assert self._token is not None
            return self._token

    async def _log_in(self) -> None:
        credentials = {"username": self._username, "password": self._password}
        reply = await self._send("POST", "/customer/login", _encoded(credentials), None)
        self._judged(reply, "login")
        received = asyncio.get_running_loop().time()
        login = bluegen_parse.login(reply.json(), now=self._clock())
        life_s = self._default_s if login.life_s is None else login.life_s
        self._token = login.token
        # A token shorter than the margin is used for half its life, not renewed at each request.
        self._renew_at = received + max(life_s - self._margin_s, life_s / 2)
        self.eula_accepted = login.eula_accepted
        self._compare_clocks(login.issued_at or _date(reply.date))
        log.info("bluegen.logged_in", life_s=life_s, eula_accepted=login.eula_accepted)

    async def _send(self, method: str, path: str, body: bytes, token: str | None) -> Reply:
        self._roll()
        self.requests += 1
        headers = {
            "Accept": "application/json",
            "Date": format_datetime(self._clock().astimezone(UTC), usegmt=True),
        }
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if method in ("POST", "PUT"):
            headers["Content-Type"] = "application/json"
        if method == "POST" and self._content_md5:
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            headers["Content-MD5"] = base64.b64encode(digest).decode()
        return await self._http.request(method, path, headers=headers, body=body)

    def _judged(self, reply: Reply, what: str) -> Reply:
        """Return a success; raise what a refusal means, and remember it if it is the account's."""
        if reply.ok:
            if reply.text.lstrip().startswith("<"):
                raise Unreachable(f"HTTP {reply.status} with a page instead of data")
            return reply
        kind, said = classify(reply.status, reply.text)
        match kind:
            case Kind.DONE:
                return reply
            case Kind.LATER:
                raise Unreachable(said)
            case Kind.RELOGIN:
                raise self._stop(Kind.RELOGIN, f"{said} again after a new login", _REFUSED_TWICE_S)
            case Kind.ACCOUNT:
                raise self._stop(
                    kind, f"{said}: look at the account, then restart", _UNTIL_RESTART_S
                )
            case Kind.ATTEMPTS:
                raise self._stop(kind, said, _TOO_MANY_ATTEMPTS_S)
            case Kind.QUOTA:
                raise self._stop(kind, said, min(_QUOTA_PROBE_S, self.until_midnight_s()))
        if kind is Kind.BUG:
            log.error("bluegen.request_refused", request=what, reason=said)
        raise Refusal(kind, said)

    def _stop(self, kind: Kind, reason: str, pause_s: float) -> Refusal:
        until = asyncio.get_running_loop().time() + pause_s
        self._block = _Block(until, reason, kind)
        if kind is not Kind.QUOTA:
            self._token = None
        log.warning("bluegen.account_stopped", reason=reason, pause_s=round(pause_s))
        return Refusal(kind, reason, retry_s=pause_s)

    def _check_block(self) -> None:
        """Keep quiet while the account is stopped: every further try makes it worse."""
        if self._block is None:
            return
        left_s = self._block.until - asyncio.get_running_loop().time()
        if left_s > 0:
            raise Refusal(self._block.kind, self._block.reason, retry_s=left_s)
        self._block = None

    def until_midnight_s(self) -> float:
        """Seconds until the quota is assumed to be renewed (Interpretation: the UTC day)."""
        now = self._clock().astimezone(UTC)
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        return (midnight - now).total_seconds()

    def _roll(self) -> None:
        today = self._clock().astimezone(UTC).date()
        if today != self._day:
            self._day, self.requests = today, 0

    def _compare_clocks(self, theirs: datetime | None) -> None:
        """Note how far our clock is ahead of the service's: a wrong one would shift the week."""
        if theirs is None:
            return
        self.skew_s = (self._clock() - theirs).total_seconds()
        if abs(self.skew_s) > _SKEW_TOLD_S:
            log.warning("bluegen.clock_differs", seconds=round(self.skew_s))


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header or "").astimezone(UTC)
    except (TypeError, ValueError):
        return None


def _encoded(payload: Any) -> bytes:
    """Serialise once: the bytes that are hashed are the bytes that are sent."""
    return json.dumps(payload, separators=(",", ":")).encode()
