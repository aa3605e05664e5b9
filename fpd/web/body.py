"""Reading a request's body: JSON only, bounded in size, time and depth."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from fpd.errors import FpdError, Malformed

_PATIENCE_S = 30
_DEEPEST = 32
_MOST_FIELDS = 10_000
LARGE = 65_536
"""Bytes; more than these are read beside the event loop."""
_ENCODINGS = ("", "identity", "gzip", "deflate")
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


async def json_body(request: web.Request) -> bytes:
    """Return the body's bytes, not nested too deeply. Raises as `json_bytes`."""
    return shallow(await json_bytes(request))


async def json_bytes(request: web.Request, *, empty_allowed: bool = False) -> bytes:
    """Return the body's bytes, however nested. No Content-Type is taken for JSON (decision M3).

    Raises NotJson, TooSlow, Undecodable, and aiohttp's HTTPRequestEntityTooLarge.
    """
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    is_json = kind in ("", "application/json") or kind.endswith("+json")
    if not is_json and (request.can_read_body or not empty_allowed):
        raise NotJson("Content-Type: expected application/json")
    return await whole_body(request)


async def whole_body(request: web.Request) -> bytes:
    """Return the body's bytes, whatever they are; they can be asked for again.

    Raises NotJson for an encoding that nobody knows, TooSlow, Undecodable, and aiohttp's
    HTTPRequestEntityTooLarge.
    """
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise NotJson("Content-Encoding: expected gzip or deflate")
    try:
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(_PATIENCE_S):
            return await request.read()
    except TimeoutError:
        raise TooSlow("the body did not arrive in time") from None
    except web.RequestPayloadError:
        raise Undecodable("the body does not fit its Content-Encoding") from None


def is_form(request: web.Request) -> bool:
    """Tell whether the body says that it is a form's fields."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind == "application/x-www-form-urlencoded"


def form_fields(body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a form, in order. Raises Malformed when they are too many."""
    try:
        text = body.decode("utf-8", "replace")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Malformed(f"expected at most {_MOST_FIELDS} fields") from None


def shallow(body: bytes) -> bytes:
    """Return JSON that is not nested too deeply. Raises Undecodable."""
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
    left = _without_strings(body).translate(None, _NO_BRACKETS)
    for _ in range(_DEEPEST):
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return left.count(b"[") + left.count(b"{") > 0


def _without_strings(body: bytes) -> bytes:
    """Return what stands between the strings of a JSON text."""
    if b"\\" in body:
        return _STRING.sub(b"", body)
    return b"".join(body.split(b'"')[::2])


async def unambiguous(body: bytes) -> bytes:
    """Return `body`, unless an object in it has a name twice: that raises Malformed.

    Interpretation: RFC 8259 leaves open what such an object means, and what we keep and pass on
    must mean the same to everybody. What is no JSON at all is for others to judge.
    """
    if len(body) > LARGE:
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
    if len(dict(pairs)) == len(pairs):
        return
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise _Repeated(name)
        names.add(name)
