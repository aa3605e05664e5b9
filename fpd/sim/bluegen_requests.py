"""What every request to the BlueGen web service must have, and how its body is read."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
from aiohttp import web

from fpd.sim.answers import Refusal
from fpd.sim.bluegen_errors import no

_MAX_SKEW_S = 900.0


def check_headers(request: web.Request, body: bytes, now: datetime) -> None:
    """Refuse a request without the headers that the manual requires (3.3.2-3.3.9).

    Interpretation: which error a missing header leads to is not documented.
    """
    date = request.headers.get("Date", "")
    try:
        skew_s = abs((parsedate_to_datetime(date) - now).total_seconds())
    except (TypeError, ValueError) as error:
        raise _missing(request, "Date") from error
    if skew_s > _MAX_SKEW_S:
        raise no("NegativeTimestamp", invalid=f"Date is {skew_s:.0f} s off")
    if request.method in ("POST", "PUT") and "Content-Type" not in request.headers:
        raise _missing(request, "Content-Type")
    if request.method in ("POST", "PUT") and "Content-Length" not in request.headers:
        raise _missing(request, "Content-Length")
    digest = hashlib.md5(body, usedforsecurity=False).digest()
    if request.method == "POST" and request.headers.get("Content-MD5") != (
        base64.b64encode(digest).decode()
    ):
        raise _missing(request, "Content-MD5 (of exactly these bytes, RFC 1864)")


def _missing(request: web.Request, header: str) -> Refusal:
    name = "Malformed request timestamp" if header == "Date" else "Malformed request"
    return no(name, invalid=f"{request.method} {request.path} needs {header}")


async def json_body(request: web.Request) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.read(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise no("MalformedRequest", invalid=f"not a JSON object: {error}") from error
