"""Who manages: the credential of a request to the management API and to fpd's own doors.

Interpretation: decision M3, every way to have no usable credential is a 401.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from fpd.errors import Unauthenticated
from fpd.store import accounts
from fpd.web import signatures
from fpd.web.keys import CONTEXT
from fpd.web.limits import LIMITS

CHALLENGE: Final = "Bearer, SNWS2"
"""What a 401 asks for: WWW-Authenticate."""

_LONGEST = 4096


async def authenticate(request: web.Request) -> int:
    """Return the id of the user who sent the request; raises as `sender`."""
    return (await sender(request)).user_id


async def sender(request: web.Request) -> accounts.Bearer:
    """Return with whose token the request was sent: looked up each time, so never a revoked one.

    Raises Unauthenticated, and TooMany when the token asks or the address fails too often.
    """
    scheme, _, credential = request.headers.get("Authorization", "").strip().partition(" ")
    if not scheme:
        raise Unauthenticated("Authorization: missing")
    identify = _SCHEMES.get(scheme.lower())
    if identify is None:
        raise Unauthenticated(f"Authorization: expected one of {', '.join(_SCHEMES)}")
    limits = request.app[LIMITS]
    return await limits.authenticated(request, identify(request, credential.strip()))


async def _bearer(request: web.Request, credential: str) -> accounts.Bearer:
    if not credential or len(credential) > _LONGEST:
        raise Unauthenticated("Authorization: not a usable token")
    context = request.app[CONTEXT]
    async with context.db.connection() as conn:
        token = await accounts.find_by_bearer(
            conn, bearer_sha256=accounts.sha256(credential), now=context.clock()
        )
    if token is None:
        raise Unauthenticated("Authorization: the token is unknown or revoked")
    return token


_SCHEMES: Mapping[str, Callable[[web.Request, str], Awaitable[accounts.Bearer]]] = {
    "bearer": _bearer,
    "snws2": signatures.signer,
}
