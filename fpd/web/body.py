"""Reading a request's body: bounded in size and time, JSON only."""

from __future__ import annotations

import asyncio

from aiohttp import web

from fpd.errors import FpdError, Malformed

_PATIENCE_S = 30


class NotJson(FpdError):
    """The body says it is something else than JSON (415)."""


class Undecodable(Malformed):
    """The body does not fit its Content-Encoding (400)."""


class TooSlow(FpdError):
    """The body did not arrive in time (408)."""


async def json_body(request: web.Request, *, empty_allowed: bool = False) -> bytes:
    """Return the body's bytes. A missing Content-Type is taken for JSON (decision M3).

    Raises NotJson, TooSlow, Undecodable, and aiohttp's HTTPRequestEntityTooLarge.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_json = kind in ("", "application/json") or kind.endswith("+json")
    if not is_json and (request.can_read_body or not empty_allowed):
        raise NotJson("Content-Type: expected application/json")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await request.read()
    except TimeoutError:
        raise TooSlow("the body did not arrive in time") from None
    except web.RequestPayloadError:
        raise Undecodable("the body does not fit its Content-Encoding") from None
