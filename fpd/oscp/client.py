"""Our calls to peers: one HTTP session, guarded addresses, no redirects, bounded answers."""

from __future__ import annotations

import io
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import aiohttp
from aiohttp.resolver import ThreadedResolver

from fpd.config import Oscp
from fpd.errors import Malformed
from fpd.oscp.guard import GuardedResolver, check_url
from fpd.oscp.headers import CORRELATION_ID, REQUEST_ID

_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5)
_LONGEST_ANSWER = 4096
_LARGE = 2**20
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One message on its way: where, as whom, what."""

    base_url: str
    operation: str
    token: str | None
    request_id: str
    correlation_id: str | None = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


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

    @property
    def verdict(self) -> Verdict:
        if self.status is None or self.status in _RETRIED:
            return Verdict.LATER
        # Interpretation: OSCP knows only 204, but a peer that answers 200 has plainly accepted.
        return Verdict.DELIVERED if 200 <= self.status < 300 else Verdict.REFUSED


class PeerClient:
    """Speaks to every peer; one peer's slowness is bounded by the timeout of its own calls."""

    def __init__(self, settings: Oscp) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the session. Raises OSError when oscp.ca_file cannot be read."""
        tls: ssl.SSLContext | bool = True
        if self._settings.ca_file is not None:
            tls = ssl.create_default_context(cafile=str(self._settings.ca_file))
        connector = aiohttp.TCPConnector(
            limit=512,
            limit_per_host=16,
            ssl=tls,
            resolver=GuardedResolver(ThreadedResolver(), self._settings.allowed_networks),
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=_TIMEOUT,
            headers={"User-Agent": "fpd"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, call: Call) -> Answer:
        """POST one message; whatever goes wrong on the way becomes an Answer without status."""
        if self._session is None:
            return Answer(None, "the client is closed")
        headers = {"Content-Type": "application/json", REQUEST_ID: call.request_id, **call.headers}
        if call.token is not None:
            headers["Authorization"] = f"Token {call.token}"
        if call.correlation_id is not None:
            headers[CORRELATION_ID] = call.correlation_id
        try:
            # Literal addresses never meet the resolver, and the operator's list may have changed.
            base_url = check_url(
                call.base_url,
                require_https=self._settings.require_https,
                allowed_networks=self._settings.allowed_networks,
            )
            async with self._session.post(
                f"{base_url}/{call.operation}",
                data=_payload(call.body),
                headers=headers,
                allow_redirects=False,
            ) as response:
                return Answer(response.status, await _said(response))
        except Malformed as error:
            return Answer(None, f"{call.base_url}: {error}")
        except TimeoutError:
            return Answer(None, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(None, _one_line(error))


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
