"""Our calls to peers: guarded addresses, no redirects, bounded answers.

Heartbeats have connections of their own, so that no other message, and no peer that hangs, ever
stands before one: their number is bounded by one heartbeat per peer at a time, not by a pool.
"""

from __future__ import annotations

import asyncio
import io
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict

from fpd.config import Oscp
from fpd.errors import Malformed
from fpd.oscp import tls
from fpd.oscp.auth import Bearers, NoToken
from fpd.oscp.dialects import ClientCredentials
from fpd.oscp.guard import GuardedResolver, check_url
from fpd.oscp.headers import CORRELATION_ID, REQUEST_ID
from fpd.oscp.names import Names

_LONGEST_ANSWER = 4096
_LARGE = 2**20
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One message on its way: where, as whom, what.

    `headers` are added to ours and never replace one, Authorization apart: what the operator
    gives for it stands in place of the peer's `token`, but not of an access token.
    """

    base_url: str
    path: str
    request_id: str
    method: str = "POST"
    heartbeat: bool = False
    token: str | None = field(default=None, repr=False)
    credentials: ClientCredentials | None = None
    correlation_id: str | None = None
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def all_headers(self, bearer: str | None) -> CIMultiDict[str]:
        """Return what goes with the message; `bearer` is an access token for the peer."""
        headers = CIMultiDict(self.headers)
        headers["Content-Type"] = "application/json"
        headers[REQUEST_ID] = self.request_id
        if self.correlation_id is not None:
            headers[CORRELATION_ID] = self.correlation_id
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        elif self.token is not None:
            headers.setdefault("Authorization", f"Token {self.token}")
        return headers


class Verdict(Enum):
    """What a peer's answer means for the message (reference: retry classes)."""

    DELIVERED = "delivered"
    LATER = "later"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` is None when no answer came; `detail` is one line for the operator."""

    status: int | None
    detail: str | None = None
    sent_at: datetime | None = None

    @property
    def verdict(self) -> Verdict:
        if self.status is None or self.status in _RETRIED:
            return Verdict.LATER
        # Interpretation: OSCP knows only 204, but a peer that answers 200 has plainly accepted.
        return Verdict.DELIVERED if 200 <= self.status < 300 else Verdict.REFUSED


class PeerClient:
    """Speaks to every peer; one peer's slowness is bounded by the timeout of its own calls.

    `longest_s` is what one message may take, a token request included.
    """

    def __init__(self, settings: Oscp, *, longest_s: float = 10.0) -> None:
        self._settings = settings
        self._longest_s = longest_s
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # for heartbeats, for all else
        self._bearers: Bearers | None = None
        self._names: Names | None = None

    async def open(self) -> None:
        """Make the session. Raises Misconfigured when a file for TLS cannot be used."""
        self._bearers = Bearers(self._settings, tls.of_issuers(self._settings))
        self._names = Names()
        names = GuardedResolver(self._names, self._settings.allowed_networks)
        trusted = tls.of_peers(self._settings)
        self._sessions = {
            True: self._session(names, trusted, limit_per_host=0, keepalive_timeout=75),
            False: self._session(names, trusted, limit_per_host=64, keepalive_timeout=15),
        }

    def _session(
        self,
        names: AbstractResolver,
        trusted: ssl.SSLContext,
        *,
        limit_per_host: int,
        keepalive_timeout: float,
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                limit_per_host=limit_per_host,
                keepalive_timeout=keepalive_timeout,
                ssl=trusted,
                resolver=names,
                use_dns_cache=False,
            ),
            timeout=aiohttp.ClientTimeout(total=self._longest_s, connect=5),
            headers={"User-Agent": "fpd"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._bearers is not None:
            await self._bearers.close()
        for session in self._sessions.values():
            await session.close()
        if self._names is not None:
            await self._names.close()

    async def send(self, call: Call, *, within_s: float | None = None) -> Answer:
        """Send one message; whatever goes wrong on the way becomes an Answer without status.

        When an access token is refused that had been good, the message goes once more, with a
        new one. `within_s`: what all of it may take at most, if less than `longest_s`.
        """
        session = self._sessions.get(call.heartbeat)
        if session is None or self._bearers is None:
            return Answer(None, "the client is closed")
        try:
            # Literal addresses never meet the resolver, and the operator's list may have changed.
            base_url = check_url(
                call.base_url,
                require_https=self._settings.require_https,
                allowed_networks=self._settings.allowed_networks,
            )
            url = f"{base_url}{call.path}"
            async with asyncio.timeout(min(self._longest_s, within_s or self._longest_s)):
                if call.credentials is None:
                    return await _exchange(session, call, url, None)
                return await self._authorized(session, self._bearers, call, url)
        except Malformed as error:
            return Answer(None, f"{call.base_url}: {error}")
        except NoToken as error:
            return Answer(None, str(error))
        except TimeoutError:
            return Answer(None, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(None, _one_line(error))

    async def _authorized(
        self,
        session: aiohttp.ClientSession,
        bearers: Bearers,
        call: Call,
        url: str,
    ) -> Answer:
        """Send with an access token. Raises NoToken when there is none to be had."""
        assert call.credentials is not None
        for _ in range(2):
            bearer = await bearers.token(session, call.credentials)
            answer = await _exchange(session, call, url, bearer)
            if answer.verdict is Verdict.DELIVERED:
                bearers.accepted(call.credentials, bearer)
            if answer.status not in (401, 403):
                break
            if not bearers.refused(call.credentials, bearer):
                break
        if answer.detail is not None:  # some peers repeat what they refuse
            return replace(answer, detail=answer.detail.replace(bearer, "***"))
        return answer


async def _exchange(
    session: aiohttp.ClientSession, call: Call, url: str, bearer: str | None
) -> Answer:
    try:
        return await _exchanged(session, call, url, bearer)
    except (aiohttp.ServerDisconnectedError, ConnectionResetError):
        # A connection kept from last time may have been closed just now. A heartbeat is worth
        # another one; other messages are tried again anyway.
        if not call.heartbeat:
            raise
        return await _exchanged(session, call, url, bearer)


async def _exchanged(
    session: aiohttp.ClientSession, call: Call, url: str, bearer: str | None
) -> Answer:
    async with session.request(
        call.method,
        url,
        data=_payload(call.body),
        headers=call.all_headers(bearer),
        allow_redirects=False,
    ) as response:
        return Answer(response.status, await _said(response))


def _payload(body: bytes) -> bytes | io.BytesIO:
    """Hand large bodies over in pieces: aiohttp would write them while everything else waits."""
    return io.BytesIO(body) if len(body) > _LARGE else body


async def _said(response: aiohttp.ClientResponse) -> str | None:
    """Return the start of an error answer; a success says nothing."""
    if response.status == 204:
        return None
    said = await response.content.read(_LONGEST_ANSWER)
    return _one_line(said.decode("utf-8", "replace")) or response.reason


def _one_line(what: object) -> str:
    text = " ".join(str(what).split())
    return text[:300] or type(what).__name__
