"""HTTP to devices and their clouds, bounded: time, size, redirects, and how often one that is
down is tried (reference: devices §7 "Common").
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import aiohttp

from fpd.adapters.device import Unreachable
from fpd.errors import Misconfigured

LAN_TIMEOUT_S = 5.0
CLOUD_TIMEOUT_S = 10.0
_LONGEST_ANSWER = 1_000_000
_DEEPEST_JSON = 32
_FAILURES_TO_OPEN = 5
_OPEN_S = 60.0


class TooLong(Unreachable):
    """The answer is larger than is taken: less has to be asked for at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, whatever its status."""

    status: int
    text: str
    date: str | None = None
    location: str | None = None

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self, *, lenient: bool = False, parse_float: Callable[[str], Any] = float) -> Any:
        """Parse the body as JSON, whatever its Content-Type. Raises Unreachable if it is not.

        `lenient`: NaN and Infinity are read as texts, which no number can be made of.
        """
        constant = str if lenient else _refuse
        try:
            value = json.loads(self.text, parse_constant=constant, parse_float=parse_float)
        except (ValueError, RecursionError):
            raise Unreachable(f"HTTP {self.status}, but the answer is not JSON") from None
        if _deeper_than(value, _DEEPEST_JSON):
            raise Unreachable("the answer is nested too deeply")
        return value


class Breaker:
    """Stops asking after five failures in a row; after a minute one request may try again.

    `time` tells monotonic seconds.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._failures = 0
        self._closed_at = 0.0
        self._why = ""

    def check(self) -> None:
        """Raise Unreachable while open. The first request after the pause passes as a probe."""
        if self._failures < _FAILURES_TO_OPEN:
            return
        now = self._time()
        if now < self._closed_at:
            wait_s = self._closed_at - now
            why = f": {self._why}" if self._why else ""
            raise Unreachable(f"paused after repeated failures{why}", retry_s=wait_s)
        self._closed_at = now + _OPEN_S

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, why: str = "") -> None:
        self._failures += 1
        self._why = why
        if self._failures >= _FAILURES_TO_OPEN:
            self._closed_at = self._time() + _OPEN_S


class DeviceHttp:
    """One base URL. Every failure becomes Unreachable with one line that holds no secret."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        timeout_s: float,
        ca_file: Path | None = None,
        most_bytes: int = _LONGEST_ANSWER,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._most_bytes = most_bytes
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._tls = _tls(ca_file)
        self._breaker = Breaker(steady)

    @property
    def is_closed(self) -> bool:
        return self._session.closed

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        usable: Callable[[Reply], bool] = lambda reply: reply.status < 500,
    ) -> Reply:
        """Ask once and return the answer. Raises Unreachable when none came, or too much.

        `usable` tells whether the service itself has answered: if not, the request has failed.
        """
        self._breaker.check()
        try:
            reply = await self._ask(method, path, dict(headers or {}), body)
        except TooLong:
            self._breaker.succeeded()
            raise
        except Unreachable as fault:
            self._breaker.failed(str(fault))
            raise
        except TimeoutError:
            why = f"no answer within {self._timeout.total:g} s"
            self._breaker.failed(why)
            raise Unreachable(why) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._breaker.failed(_one_line(error))
            raise Unreachable(_one_line(error)) from error
        if usable(reply):
            self._breaker.succeeded()
        else:
            self._breaker.failed(f"HTTP {reply.status}")
        return reply

    async def _ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        async with self._session.request(
            method,
            self._base_url + path,
            headers=headers,
            data=body or None,
            allow_redirects=False,
            timeout=self._timeout,
            ssl=self._tls,
        ) as response:
            if 300 <= response.status < 400:
                raise Unreachable(f"HTTP {response.status}: redirects are not followed")
            said = bytearray()
            async for chunk in response.content.iter_chunked(65536):
                said += chunk
                if len(said) > self._most_bytes:
                    raise TooLong(f"the answer is larger than {self._most_bytes / 1e6:g} MB")
            return Reply(
                status=response.status,
                text=said.decode("utf-8", "replace"),
                date=response.headers.get("Date"),
                location=response.headers.get("Location"),
            )


def session() -> aiohttp.ClientSession:
    """Make the session that all devices share: no cookies, no connection outlives its answer.

    Idle connections over a VPN die without a word, so each request opens its own.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=256),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "fpd"},
    )


def _tls(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(f"{ca_file}: not a usable certificate authority: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
