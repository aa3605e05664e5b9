"""How MyEMS writes: JSON with six decimals, errors with a title and a description, or nothing."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
from aiohttp import web

from fpd.sim.answers import Refusal


class Swallowed(Exception):
    """An error inside a handler that logs its user: 200, an empty body, and nothing done."""


def text(value: Any) -> str:
    """Write a value as its JSON encoder does; a Decimal is a database's DECIMAL(18, 6).

    >>> text([{"point_id": 10, "value": Decimal("14.2")}])
    '[{"point_id": 10, "value": 14.200000}]'
    """
    if isinstance(value, Decimal):
        return f"{value:.6f}"
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(str(k))}: {text(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(text, value))}]"
    return json.dumps(value, ensure_ascii=False)


def told(value: Any) -> web.Response:
    """Answer 200 with JSON."""
    return web.Response(
        body=text(value).encode(), content_type="application/json", headers={"Connection": "close"}
    )


def created(location: str) -> web.Response:
    """Answer 201 and where it is, with an empty body."""
    return _empty(201, {"Location": location})


def nothing(status: int = 200) -> web.Response:
    """Answer with an empty body."""
    return _empty(status, {})


def _empty(status: int, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=status,
        body=b"",
        content_type="application/json",
        headers={"Connection": "close", **headers},
    )


def no(status: int, description: str, *, title: str | None = None) -> Refusal:
    """Return a refusal; `refused` writes it."""
    title = title or ("API.NOT_FOUND" if status == 404 else "API.BAD_REQUEST")
    return Refusal(status, f"{title}|{description}", invalid=(description,))


def broken() -> Refusal:
    """Return what an unhandled error looks like."""
    return Refusal(500, "500 Internal Server Error")


def refused(refusal: Refusal, accept: str) -> web.Response:
    """Write a refusal in the form that the client accepts: none at all for a browser."""
    title, _, description = refusal.message.partition("|")
    if refusal.status in (404, 405) and not description:
        title = f"{refusal.status} {'Not Found' if refusal.status == 404 else 'Method Not Allowed'}"
    said = {"title": title} | ({"description": description} if description else {})
    body = b"" if "text/html" in accept else text(said).encode()
    return web.Response(
        status=refusal.status,
        body=body,
        content_type="application/json",
        headers={"Connection": "close", "Vary": "Accept"},
    )


async def data(request: web.Request) -> dict[str, Any]:
    """Return what stands in the envelope of a request; without one MyEMS breaks."""
    try:
        said = msgspec.json.decode(await request.read())
        inner = said["data"]
    except (msgspec.DecodeError, KeyError, TypeError):
        raise broken() from None
    return inner if isinstance(inner, dict) else {}
