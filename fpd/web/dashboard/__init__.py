"""The pages: the status at `/`, refreshed by itself, plans at `/plan`, every door at `/api`.

Nothing is fetched from elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine, Iterable, Mapping
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from fpd import __version__
from fpd.errors import Forbidden, Unauthenticated, Unavailable
from fpd.flows import planned
from fpd.web.credentials import CHALLENGE
from fpd.web.dashboard import words
from fpd.web.dashboard.attention import attention, breach_of
from fpd.web.dashboard.gauge import gauge
from fpd.web.dashboard.plan_picture import picture
from fpd.web.keys import CONTEXT
from fpd.web.query import Query
from fpd.web.status import snapshot, viewer

_STATIC = {
    "style.css": "text/css",
    "live.js": "text/javascript",
    "api.css": "text/css",
    "api.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# A page for people: of more rows than this, the rest is in /api/v1/status.
_MOST_ROWS = 200


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of the page and of what belongs to it."""
    return (
        web.get("/", _page),
        web.get("/dashboard/live", _live),
        web.get("/api", _api),
        web.get("/plan", _plan),
        *(web.get(f"/dashboard/{name}", _static) for name in _STATIC),
    )


async def _page(request: web.Request) -> web.Response:
    """Show the status."""
    return await _or_why_not(_status_page(request))


async def _plan(request: web.Request) -> web.Response:
    """Show the plan of `group`: limits, load and devices, for `hours` (48)."""
    return await _or_why_not(_plan_page(request))


async def _or_why_not(page: Coroutine[Any, Any, web.Response]) -> web.Response:
    """Return a page; who may not see it, or cannot be identified now, is told what to do."""
    try:
        return await page
    except (Unauthenticated, Forbidden) as error:
        status = HTTPStatus.UNAUTHORIZED
        if isinstance(error, Forbidden):
            status = HTTPStatus.FORBIDDEN
        response = _html("no_entry.html", {"reason": str(error)}, status)
        response.headers["WWW-Authenticate"] = CHALLENGE
        return response
    except Unavailable as error:
        response = _html("away.html", {"reason": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)
        response.headers["Retry-After"] = str(error.retry_after_s)
        return response


async def _status_page(request: web.Request) -> web.Response:
    return _html("page.html", await _values(request))


async def _plan_page(request: web.Request) -> web.Response:
    user_id = await viewer(request)
    query = Query(request.query, ("group", "hours"))
    group_id, hours = query.number("group") or 0, query.number("hours", most=168) or 48
    group, plan = await planned.of_group(request.app[CONTEXT], user_id=user_id, group_id=group_id)
    values: dict[str, Any] = {"group": group, "plan": plan, "hours": hours, "most": _MOST_ROWS}
    if plan is not None:
        values["picture"] = await asyncio.to_thread(picture, plan, hours=hours)
    return _html("plan.html", values)


async def _live(request: web.Request) -> web.Response:
    """Show the part of the page that changes."""
    return _html("live.html", await _values(request))


async def _api(request: web.Request) -> web.Response:
    """Show what `/openapi.json` describes; what the page asks needs a token as any request does."""
    return _html("api.html", {})


async def _values(request: web.Request) -> dict[str, Any]:
    context = request.app[CONTEXT]
    user_id = await viewer(request)
    status = await snapshot(context, user_id=user_id)
    return {
        "status": status,
        "known": status.known,
        "now": status.at,
        "notices": attention(status),
        "base": context.config.http.public_url or request.url.origin(),
        "most": _MOST_ROWS,
    }


def _html(name: str, values: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> web.Response:
    text = _templates().get_template(name).render(values)
    return web.Response(text=text, content_type="text/html", status=status, headers=_HEADERS)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("fpd.web.dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        auto_reload=False,
    )
    environment.filters |= words.FILTERS
    environment.globals |= {
        "version": __version__,
        "breach_of": breach_of,
        "gauge": gauge,
        "asset": _address,
        **words.GLOBALS,
    }
    return environment


async def _static(request: web.Request) -> web.Response:
    name = request.path.rpartition("/")[2]
    headers = {**_HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
    return web.Response(
        body=_content(name), content_type=_STATIC[name], charset="utf-8", headers=headers
    )


@cache
def _content(name: str) -> bytes:
    return files("fpd.web.dashboard").joinpath("static", name).read_bytes()


def _address(name: str) -> str:
    """Return where a static file is, relative to the page; another content, another address."""
    return f"dashboard/{name}?{hashlib.sha256(_content(name)).hexdigest()[:12]}"
