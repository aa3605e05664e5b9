"""OAuth 2.0 in place of OSCP's own tokens, both ways.

Outbound (RFC 6749 §4.4): `Bearers` fetches the access tokens that peers want to see from their
authorization servers. Inbound (RFC 7519, RFC 7517): `Issuer` judges the tokens that peers present
by the published keys of the one issuer we are configured to trust.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
import msgspec
import structlog
from authlib.oauth2.client import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request
from joserfc import jwt
from joserfc.errors import ClaimError, InvalidKeyIdError, JoseError
from joserfc.jwk import JWKRegistry, KeySet
from joserfc.jws import JWSRegistry
from multidict import CIMultiDict

from fpd.config import Oscp
from fpd.errors import Forbidden, FpdError, Unavailable
from fpd.oscp.dialects import ClientCredentials
from fpd.oscp.guard import check_url

log = structlog.get_logger()

_LARGEST_ANSWER = 256 * 1024
_LONGEST_TOKEN = 16_384

# Of a token whose server does not tell how long it lives (RFC 6749 §5.1 only recommends it).
_DEFAULT_LIFE_S = 300.0
_EARLY_S = 60.0
_PAUSE_S = 5.0
_YOUNG_S = 30.0


class NoToken(FpdError):
    """The peer's authorization server gave no token; the message waits as for the peer itself."""


@dataclass(slots=True)
class _Token:
    """`renew_at_s` and `ends_at_s` are monotonic. `proven`: the peer has accepted it."""

    value: str = field(repr=False)
    fetched_at_s: float
    renew_at_s: float
    ends_at_s: float
    proven: bool = False


class Bearers:
    """The access tokens for peers, fetched once for all messages that wait for the same one.

    They are kept in memory alone and renewed before they end, by a monotonic clock: a step of
    the wall clock neither ends nor lengthens their life.
    """

    def __init__(self, settings: Oscp, tls: ssl.SSLContext) -> None:
        self._settings = settings
        self._tls = tls
        self._tokens: dict[ClientCredentials, _Token] = {}
        self._flights: dict[ClientCredentials, asyncio.Task[_Token | NoToken]] = {}

    async def close(self) -> None:
        """Give up what is being fetched."""
        flights = tuple(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def token(self, session: aiohttp.ClientSession, credentials: ClientCredentials) -> str:
        """Return a token that is good for now. Raises NoToken."""
        known, now_s = self._tokens.get(credentials), time.monotonic()
        if known is not None and now_s < known.renew_at_s:
            return known.value
        # Not awaited directly: who waits may give up, and others wait for the same token.
        outcome = await asyncio.shield(self._flight(session, credentials))
        if isinstance(outcome, _Token):
            return outcome.value
        if known is not None and now_s < known.ends_at_s:
            known.renew_at_s = now_s + _PAUSE_S
            return known.value
        raise NoToken(str(outcome))

    def accepted(self, credentials: ClientCredentials, value: str) -> None:
        """The peer took a message with this token."""
        known = self._tokens.get(credentials)
        if known is not None and known.value == value:
            known.proven = True

    def refused(self, credentials: ClientCredentials, value: str) -> bool:
        """The peer answered 401 or 403: tell whether another token may be what helps.

        One that it never took and that is new was not refused for its age: it stays, or every
        message to a peer that refuses us anyway would cost a token request as well.
        """
        known = self._tokens.get(credentials)
        if known is None or known.value != value:
            return known is not None
        if not known.proven and time.monotonic() - known.fetched_at_s < _YOUNG_S:
            return False
        del self._tokens[credentials]
        return True

    def _flight(
        self, session: aiohttp.ClientSession, credentials: ClientCredentials
    ) -> asyncio.Task[_Token | NoToken]:
        flight = self._flights.get(credentials)
        if flight is None:
            flight = asyncio.create_task(self._fetch(session, credentials), name="token request")
            self._flights[credentials] = flight
            flight.add_done_callback(lambda _: self._flights.pop(credentials, None))
        return flight

    async def _fetch(
        self, session: aiohttp.ClientSession, credentials: ClientCredentials
    ) -> _Token | NoToken:
        started_s = time.monotonic()
        try:
            status, said = await self._request(session, credentials)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, FpdError) as error:
            return NoToken(f"token request: {_brief(error)}")
        token = _token_of(said, at_s=started_s) if 200 <= status < 300 else None
        if token is None:
            told = said.get("error") if isinstance(said, dict) else None
            return NoToken(f"token request: {status} {_brief(told or 'without a bearer token')}")
        self._tokens[credentials] = token
        for other in [c for c, t in self._tokens.items() if t.ends_at_s < started_s]:
            del self._tokens[other]
        return token

    async def _request(
        self, session: aiohttp.ClientSession, credentials: ClientCredentials
    ) -> tuple[int, Any]:
        """Ask for a token; return status and JSON, or None for what is no JSON."""
        # Literal addresses never meet the resolver, and the operator's list may have changed.
        check_url(
            credentials.token_url.partition("?")[0],
            require_https=self._settings.require_https,
            allowed_networks=self._settings.allowed_networks,
        )
        headers = CIMultiDict(credentials.headers)
        headers["Accept"] = "application/json"
        headers["Accept-Encoding"] = "identity"
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        method = "none" if credentials.client_secret is None else "client_secret_basic"
        auth = ClientAuth(credentials.client_id, credentials.client_secret, method)
        body = prepare_token_request("client_credentials", scope=credentials.scope)
        url, headers, body = auth.prepare("POST", credentials.token_url, headers, body)
        async with session.post(
            url, data=body.encode(), headers=headers, allow_redirects=False, ssl=self._tls
        ) as response:
            return response.status, _json(await _whole(response))


def _token_of(said: Any, *, at_s: float) -> _Token | None:
    """Read a token response (RFC 6749 §5.1); None when it holds no usable bearer token."""
    if not isinstance(said, dict):
        return None
    value, kind = said.get("access_token"), said.get("token_type", "bearer")
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TOKEN:
        return None
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return None
    if not value.isascii() or not value.isprintable() or " " in value:
        return None
    life_s = _life_s(said.get("expires_in"))
    # Early enough for a message on its way, and still most of a short life.
    renew_s = life_s - min(_EARLY_S, life_s / 4)
    return _Token(value, at_s, at_s + renew_s, at_s + life_s)


def _life_s(told: Any) -> float:
    try:
        return min(max(float(told), 0.0), 86_400.0) if told is not None else _DEFAULT_LIFE_S
    except (TypeError, ValueError):
        return _DEFAULT_LIFE_S


@dataclass(frozen=True, slots=True)
class _Keys:
    keys: KeySet
    fetched_at_s: float


_REFRESH_S = 600.0


class Issuer:
    """The issuer whose bearer tokens are accepted, and its keys.

    Its address comes from the operator's own file, so it may live in a private network: the
    address guard is for what peers supply. `pause_s`: the least time between two requests for
    keys, whatever unknown key ids are presented meanwhile.
    """

    def __init__(self, settings: Oscp, *, pause_s: float = 2.0) -> None:
        if settings.jwt_issuer is None:
            raise ValueError("no issuer is configured")
        self._issuer = settings.jwt_issuer
        self._url = (
            settings.jwt_jwks_url or f"{settings.jwt_issuer.rstrip('/')}/.well-known/jwks.json"
        )
        self._audience = settings.jwt_audience
        self._leeway_s = settings.jwt_leeway_s
        self._registry = JWSRegistry(algorithms=settings.jwt_algorithms, strict_check_header=False)
        self._registry.max_header_length = 4096
        self._pause_s = pause_s
        self._keys: _Keys | None = None
        self._asked_at_s: float | None = None
        self._lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None

    async def open(self, tls: ssl.SSLContext) -> None:
        """Make the session."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            timeout=aiohttp.ClientTimeout(total=5),
            headers={"User-Agent": "fpd", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def subjects(self, token: str, *, now: datetime) -> tuple[str, ...]:
        """Return the names that `token` proves: `{iss}/{sub}`, and its client id if it has one.

        Raises Forbidden when it proves nothing, Unavailable when no keys can be had.
        """
        keys = await self._current()
        try:
            claims = self._claims(token, keys, now)
        except InvalidKeyIdError:
            newer = await self._newer(keys)
            try:
                claims = self._claims(token, newer, now)
            except InvalidKeyIdError:
                raise Forbidden("the bearer token is signed with an unknown key") from None
        names = [claims.get("client_id")]
        if isinstance(claims.get("sub"), str):
            names.insert(0, f"{claims['iss']}/{claims['sub']}")
        return tuple(name for name in names if isinstance(name, str) and name)

    def _claims(self, token: str, keys: KeySet, now: datetime) -> Mapping[str, Any]:
        """Return the claims. Raises Forbidden; InvalidKeyIdError when the key is not among ours."""
        audience: dict[str, jwt.ClaimsOption] = {}
        if self._audience is not None:
            audience["aud"] = {"essential": True, "value": self._audience}
        try:
            claims = jwt.decode(token, keys, registry=self._registry).claims
            jwt.JWTClaimsRegistry(
                now=int(now.timestamp()),
                leeway=self._leeway_s,
                exp={"essential": True},
                iss={"essential": True, "value": self._issuer},
                **audience,
            ).validate(claims)
        except InvalidKeyIdError:
            raise
        except ClaimError as error:
            raise Forbidden(f"the bearer token is not valid: {error.claim}") from None
        except (JoseError, ValueError, TypeError, RecursionError):
            # The library's words would quote the token.
            raise Forbidden("the bearer token is not valid") from None
        return claims

    async def _current(self) -> KeySet:
        """Return the keys, fetched anew once they are old; the old ones while that fails."""
        known = self._keys
        if known is not None and time.monotonic() - known.fetched_at_s < _REFRESH_S:
            return known.keys
        if known is not None and self._lock.locked():
            return known.keys
        return await self._newer(known.keys if known else None)

    async def _newer(self, seen: KeySet | None) -> KeySet:
        """Return other keys than `seen` if there are; ask for them at most every `pause_s`.

        Raises Unavailable when there are none at all.
        """
        async with self._lock:
            known, now_s = self._keys, time.monotonic()
            if known is not None and known.keys is not seen:
                return known.keys
            if self._asked_at_s is None or now_s - self._asked_at_s >= self._pause_s:
                self._asked_at_s = now_s
                await self._ask()
            if self._keys is None:
                raise Unavailable("the keys of the token issuer cannot be had now")
            return self._keys.keys

    async def _ask(self) -> None:
        if self._session is None:
            raise Unavailable("the token issuer cannot be asked now")
        try:
            async with self._session.get(self._url, allow_redirects=False) as response:
                said = _json(await _whole(response)) if response.status == 200 else None
            keys = _key_set(said)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("issuer.unreachable", url=self._url, reason=_brief(error))
            return
        if not keys:
            log.warning("issuer.without_keys", url=self._url, status=response.status)
            return
        self._keys = _Keys(keys, time.monotonic())


def _key_set(said: Any) -> KeySet:
    """Return the keys that can verify; one that cannot be read does not spoil the others."""
    given = said.get("keys") if isinstance(said, dict) else None
    return KeySet(list(_readable(given if isinstance(given, list) else ())))


def _readable(given: Iterable[Any]) -> Iterable[Any]:
    for data in given:
        # Never a symmetric key: whoever can read the set could sign with it.
        if not isinstance(data, dict) or data.get("kty") not in ("RSA", "EC"):
            continue
        try:
            yield JWKRegistry.import_key(data)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            log.warning("issuer.key_unreadable", reason=type(error).__name__)


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """Return the body. Raises ValueError when it is longer than any honest one."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ValueError("the answer is too long")
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _brief(what: object) -> str:
    text = " ".join(str(what).split())
    return text[:200] or type(what).__name__
