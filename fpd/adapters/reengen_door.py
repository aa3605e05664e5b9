"""One tenant of a Reengen platform: logged in when needed, one request at a time, a second apart.

Everything is a POST of `{"$": method, "properties": …}` to one address, and `succeeded` in the
answer decides (seed 003; reference: devices §3.1, §3.3, §7).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec
import structlog

from fpd.adapters.device import Stopped, Unreachable
from fpd.adapters.http import DeviceHttp, Reply, TooLong
from fpd.adapters.lenient import mapping
from fpd.adapters.reengen_errors import AGAIN_S, Kind, Refused, classify, one_line

log = structlog.get_logger()

READ_RETRIES: Final = 3
COMMAND_RETRIES: Final = 2
_LONGEST_WAIT_S: Final = 30.0
_NEVER_S: Final = float("-inf")

_encode = msgspec.json.Encoder(decimal_format="number").encode


@dataclass(frozen=True, slots=True)
class Login:
    tenant: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """`kind` None: it succeeded."""

    kind: Kind | None
    message: str
    properties: Mapping[str, Any]


class Door:
    """Asks for the tenant. Raises Unreachable, Refused or Stopped; returns the rest.

    `retry_after_s`: the wait before the first retry, doubled for each further one. `is_away`: the
    platform did not answer when it was asked last.
    """

    def __init__(
        self,
        http: DeviceHttp,
        login: Login,
        *,
        min_interval_s: float = 1.0,
        retry_after_s: float = 1.0,
    ) -> None:
        self.requests = 0
        self.is_away = False
        self.tenant = login.tenant
        self._http = http
        self._login = login
        self._min_interval_s = min_interval_s
        self.retry_after_s = retry_after_s
        self._turn = asyncio.Lock()
        self._next_at = 0.0
        self._entering = asyncio.Lock()
        self._connection_id: str | None = None
        self._proven = False
        self._doubted_at = _NEVER_S
        self._doubted_for = b""
        self._stopped: tuple[float, str] | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._http.is_closed

    async def ask(
        self,
        method: str,
        properties: Mapping[str, Any] | None = None,
        *,
        retries: int = READ_RETRIES,
        before_again: Callable[[], Awaitable[None]] | None = None,
        **beside: Any,
    ) -> Mapping[str, Any]:
        """Return the `properties` of the answer; what may pass is tried again, at most `retries`.

        `before_again` is called before the first further try; what it raises ends them. `beside`:
        what else stands at the top level of the request.
        """
        body: dict[str, Any] = {"$": method}
        if properties is not None:
            body["properties"] = properties
        encoded = _encode(body | beside)
        for attempt in range(retries):
            try:
                return await self._once(method, encoded, again=True)
            except Unreachable as fault:
                if fault.retry_s is not None or type(fault) is not Unreachable:
                    raise
                log.debug("reengen.again", method=method, reason=str(fault), attempt=attempt + 1)
            await asyncio.sleep(self._wait_s(attempt))
            if before_again is not None and attempt == 0:
                await before_again()
        return await self._once(method, encoded, again=False)

    def _wait_s(self, attempt: int) -> float:
        longest_s = min(self.retry_after_s * 2.0**attempt, _LONGEST_WAIT_S)
        return longest_s * random.uniform(0.75, 1.25)

    async def _once(self, method: str, body: bytes, *, again: bool) -> Mapping[str, Any]:
        """Ask as the tenant; a connection id that is refused is renewed once.

        `again`: it may be asked once more, so that what fails with an id in doubt is not final.
        """
        self._check_stop()
        connection_id = await self._connected()
        try:
            answer = await self._send(method, body, connection_id)
        except Unreachable:
            self._doubt(connection_id, body)
            raise
        is_refused = answer.kind is Kind.LOGIN or (
            answer.kind is Kind.PERMISSION and self._may_doubt(body)
        )
        if is_refused:
            self._forget(connection_id)
            answer = await self._send(method, body, await self._connected(), renewed=True)
        elif answer.kind is not None and self._doubt(connection_id, body) and again:
            raise Unreachable(f"{method}: {answer.message}")
        if answer.kind is None:
            self._proven = True
            if body is self._doubted_for:  # so the id it was, and may be again soon
                self._doubted_at, self._doubted_for = _NEVER_S, b""
        return self._judged(method, answer)

    def _doubt(self, connection_id: str, body: bytes) -> bool:
        """Give up an id that was good and with which something failed; tell whether that was done.

        Interpretation: how the platform answers an id that has expired is not documented. It may
        do so in words that nobody foresaw, with a login page, or not at all.
        """
        if not self._proven or not self._may_doubt(body):
            return False
        self._forget(connection_id)
        return True

    def _may_doubt(self, body: bytes) -> bool:
        """Say so once in a while, unless that was right: else no new login helps against it."""
        now = asyncio.get_running_loop().time()
        if now < self._doubted_at + AGAIN_S:
            return False
        self._doubted_at, self._doubted_for = now, body
        return True

    def _forget(self, connection_id: str) -> None:
        if self._connection_id == connection_id:
            self._connection_id, self._proven = None, False

    def _judged(self, method: str, answer: _Answer) -> Mapping[str, Any]:
        match answer.kind:
            case None:
                return answer.properties
            case Kind.LATER:
                raise Unreachable(f"{method}: {answer.message}")
            case Kind.LOGIN:
                raise self._stop(f"{answer.message} again after a new login")
        raise Refused(method, answer.message)

    async def _connected(self) -> str:
        """Return the connection id. Whoever comes while it is fetched waits and shares it."""
        async with self._entering:
            if self._connection_id is None:
                self._check_stop()
                self._connection_id = await self._authenticate()
            return self._connection_id

    async def _authenticate(self) -> str:
        login = self._login
        properties = {"tenant": login.tenant, "user": login.user, "password": login.password}
        body = _encode({"$": "Authenticate", "properties": properties})
        answer = await self._send("Authenticate", body, None, renewed=True)
        if answer.kind is Kind.LATER:
            raise Unreachable(f"Authenticate: {answer.message}")
        if answer.kind is not None:
            raise self._stop(f"login refused: {answer.message}")
        connection_id = answer.properties.get("connectionId")
        if not isinstance(connection_id, str) or not _is_header(connection_id):
            raise Unreachable("Authenticate: the answer holds no connectionId")
        log.info("reengen.logged_in", tenant=login.tenant)
        return connection_id

    async def _send(
        self, method: str, body: bytes, connection_id: str | None, *, renewed: bool = False
    ) -> _Answer:
        headers = {"Content-Type": "application/json"}
        if connection_id is not None:
            headers["XConnectionId"] = connection_id
            headers["XLang"] = f"en,{self._login.tenant}"
        loop = asyncio.get_running_loop()
        try:
            async with self._turn:
                await asyncio.sleep(max(0.0, self._next_at - loop.time()))
                self.requests += 1
                try:
                    reply = await self._http.request(
                        "POST", "/", headers=headers, body=body, usable=_is_answer
                    )
                finally:
                    self._next_at = loop.time() + self._min_interval_s
            answer = _answer(method, reply, renewed=renewed)
        except Unreachable as fault:
            self.is_away = not isinstance(fault, TooLong)
            raise
        self.is_away = False
        return answer

    def _stop(self, reason: str) -> Stopped:
        self._stopped = (asyncio.get_running_loop().time() + AGAIN_S, reason)
        self._connection_id, self.is_away = None, True
        log.warning("reengen.stopped", tenant=self._login.tenant, reason=reason, pause_s=AGAIN_S)
        return Stopped(reason, retry_s=AGAIN_S)

    def _check_stop(self) -> None:
        """Keep quiet while stopped: every further try may lock the account."""
        if self._stopped is None:
            return
        until, reason = self._stopped
        left_s = until - asyncio.get_running_loop().time()
        if left_s > 0:
            raise Stopped(reason, retry_s=left_s)
        self._stopped = None


def _is_answer(reply: Reply) -> bool:
    """Tell whether the platform itself has answered: a page of its proxy is a failure."""
    return reply.status < 500 and reply.text.lstrip().startswith("{")


def _answer(method: str, reply: Reply, *, renewed: bool) -> _Answer:
    """Read an answer. Raises Unreachable for a page, or anything else that is none."""
    if reply.status in (401, 403) and not _is_answer(reply):
        return _Answer(Kind.LOGIN, f"HTTP {reply.status}", {})
    if reply.status == 404:
        raise Stopped(f"{method}: HTTP 404: is base_url right?", retry_s=AGAIN_S)
    if not _is_answer(reply):
        raise Unreachable(f"{method}: HTTP {reply.status} with a page instead of data")
    said = mapping(reply.json(parse_float=Decimal))
    succeeded, message = said.get("succeeded"), one_line(said.get("message"))
    if succeeded is True and reply.ok:
        return _Answer(None, "", mapping(said.get("properties")))
    if not isinstance(succeeded, bool):
        raise Unreachable(f"{method}: HTTP {reply.status} without `succeeded`")
    if reply.status >= 500 or reply.status == 429:
        return _Answer(Kind.LATER, message, {})
    if reply.status == 401:
        return _Answer(Kind.LOGIN, message, {})
    kind = classify(message, renewed=renewed)
    if method == "ExecuteCommand" and kind is Kind.NO:
        # In whatever words: the gateway could not reach the device (reference: devices §3.3).
        kind = Kind.LATER
    return _Answer(kind, message, {})


def _is_header(text: str) -> bool:
    return 0 < len(text) <= 512 and text.isascii() and text.isprintable()
