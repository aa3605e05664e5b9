"""Reading a request's body: JSON only, bounded in size, time and depth."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web

from fpd.errors import FpdError, Malformed

_PATIENCE_S = 30
_DEEPEST = 32
_LARGE = 65_536
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class NotJson(FpdError):
    """The body says it is something else than JSON (415)."""


class Undecodable(Malformed):
    """The body does not fit its Content-Encoding, or is nested too deeply (400)."""


class _Repeated(ValueError):
    """An object has a name twice; the text is the name."""


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
            body = await request.read()
    except TimeoutError:
        raise TooSlow("the body did not arrive in time") from None
    except web.RequestPayloadError:
        raise Undecodable("the body does not fit its Content-Encoding") from None
    if _is_deep(body):
        raise Undecodable(f"the body is nested more than {_DEEPEST} levels deep")
    return body


def _is_deep(body: bytes) -> bool:
    """Tell whether there are brackets inside brackets more often than anybody means them.

    Once the strings are out, each round takes the innermost pairs away. What is left at the end
    is too deep, or does not pair; then whoever reads it says so.
    """
    if body.count(b"[") + body.count(b"{") <= _DEEPEST:
        return False
    left = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    for _ in range(_DEEPEST):
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return left.count(b"[") + left.count(b"{") > 0


async def unambiguous(body: bytes) -> bytes:
    """Return `body`, unless an object in it has a name twice: that raises Malformed.

    Interpretation: RFC 8259 leaves open what such an object means, and what we keep and pass on
    must mean the same to everybody. What is no JSON at all is for others to judge.
    """
    if len(body) > _LARGE:
        await asyncio.to_thread(_read, body)
    else:
        _read(body)
    return body


def _read(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_once)
    except _Repeated as error:
        name = str(error)[:100].encode("utf-8", "backslashreplace").decode()
        raise Malformed(f"{name}: is given twice") from None
    except (ValueError, RecursionError):
        return


def _once(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise _Repeated(name)
        names.add(name)
