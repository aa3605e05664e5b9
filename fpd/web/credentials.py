"""Who manages: the credential of a request to the management API and to fpd's own doors.

Interpretation: decision M3, every way to have no usable credential is a 401.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from fpd.errors import Unauthenticated
from fpd.flows.context import Context
from fpd.flows.lately import Lately
from fpd.store import accounts
from fpd.web import signatures
from fpd.web.keys import CONTEXT
from fpd.web.limits import LIMITS

CHALLENGE: Final = "Bearer, SNWS2"
"""What a 401 asks for: WWW-Authenticate."""

_LONGEST = 4096
_LATELY_S = 10.0  # shorter than `accounts.NOTED_EVERY`: looking a token up notes that it was used


class Bearers(Lately[accounts.Bearer]):
    """Whose bearer tokens were good a moment ago; what is kept of a token never changes."""

    def __init__(self, context: Context) -> None:
        super().__init__(_LATELY_S, steady=context.steady)


BEARERS = web.AppKey("bearers", Bearers)


async def authenticate(request: web.Request) -> int:
    """Return the id of the user who sent the request; raises as `sender`."""
    return (await sender(request)).user_id


async def sender(request: web.Request) -> accounts.Bearer:
    """Return with whose token the request was sent: looked up each time, so never a revoked one.

    Raises Unauthenticated, and TooMany when the token asks or the address fails too often.
    """
    return await request.app[LIMITS].authenticated(request, _identity(request))


@asynccontextmanager
async def presumed(request: web.Request) -> AsyncIterator[accounts.Bearer]:
    """Lend the sender, for work that judges by itself, by its id, whether the token is valid.

    A bearer token that was good a moment ago is not looked up before. When the work fails it is:
    whoever has no valid token hears of that and of nothing else. Raises as `sender`.
    """
    scheme, credential = _credential(request)
    known: accounts.Bearer | None = None
    if scheme == "bearer":
        known = request.app[BEARERS].find(accounts.sha256(credential), renewing=True)
    if known is None:
        yield await sender(request)
        return
    limits = request.app[LIMITS]
    try:
        limits.known(known)
        yield known
    except Exception:
        await limits.identified(request, _identity(request))
        raise


def _identity(request: web.Request) -> Awaitable[accounts.Bearer]:
    """Return the question whose the credential is. Raises Unauthenticated when there is none."""
    scheme, credential = _credential(request)
    if not scheme:
        raise Unauthenticated("Authorization: missing")
    identify = _SCHEMES.get(scheme)
    if identify is None:
        raise Unauthenticated(f"Authorization: expected one of {', '.join(_SCHEMES)}")
    return identify(request, credential)


def _credential(request: web.Request) -> tuple[str, str]:
    """Return the scheme, in lower case, and the credential; both empty when there is none."""
    scheme, _, credential = request.headers.get("Authorization", "").strip().partition(" ")
    return scheme.lower(), credential.strip()


async def _bearer(request: web.Request, credential: str) -> accounts.Bearer:
    if not credential or len(credential) > _LONGEST:
        raise Unauthenticated("Authorization: not a usable token")
    context, lately = request.app[CONTEXT], request.app[BEARERS]
    digest = accounts.sha256(credential)
    async with context.db.connection() as conn:
        token = await accounts.find_by_bearer(conn, bearer_sha256=digest, now=context.clock())
    if token is None:
        lately.forget(digest)
        raise Unauthenticated("Authorization: the token is unknown or revoked")
    lately.keep(digest, token)
    return token


_SCHEMES: Mapping[str, Callable[[web.Request, str], Awaitable[accounts.Bearer]]] = {
    "bearer": _bearer,
    "snws2": signatures.signer,
}
