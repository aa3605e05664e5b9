"""The application behind every HTTP door: identify, limit, log, say no."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import structlog
from aiohttp import HttpVersion11, web
from yarl import URL

from fpd import errors
from fpd.flows.context import Context
from fpd.flows.identify import Tokens
from fpd.flows.intake import Intake
from fpd.flows.judging import Judge
from fpd.flows.loop import Loop
from fpd.flows.manage.creating import Creates
from fpd.oscp.headers import CORRELATION_ID, REQUEST_ID
from fpd.web import (
    actions,
    by_hand,
    dashboard,
    datum_in,
    datum_out,
    groups,
    health,
    history,
    manage,
    messages,
    openapi,
    oscp,
    solarquery,
    solarquery_streams,
    status,
    tokens,
)
from fpd.web.body import NotJson, TooSlow
from fpd.web.connections import SERVER
from fpd.web.credentials import BEARERS, Bearers
from fpd.web.health import LOOPS
from fpd.web.keys import CONTEXT, CREATES, INTAKE, JUDGE, TOKENS
from fpd.web.limits import LIMITS, Limits

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: dict[type[errors.FpdError], HTTPStatus] = {
    errors.Malformed: HTTPStatus.BAD_REQUEST,
    errors.Unauthenticated: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.Unknown: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.NoCommonVersion: HTTPStatus.NOT_IMPLEMENTED,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NotJson: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
}


# Refusals after which the rest of the body stays unread, so the connection is of no more use.
_BODY_LEFT = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})


def _routes() -> tuple[web.RouteDef, ...]:
    rooms = (
        *(oscp, manage, actions, groups, by_hand, messages, history, tokens),
        *(datum_in, datum_out, solarquery, solarquery_streams, status, health, dashboard),
    )
    routes = [route for room in rooms for route in room.routes()]
    return (*routes, openapi.route(routes))


ROUTES = _routes()


def application(context: Context, loops: Sequence[Loop]) -> web.Application:
    """Return the application with every route of fpd."""
    app = web.Application(
        middlewares=[_observe, _say_no, manage.say_no, _limit],
        client_max_size=int(context.config.http.max_body_mb * 1024 * 1024),
    )
    app[CONTEXT] = context
    app[INTAKE] = Intake(context)
    app[JUDGE] = Judge(context)
    app[TOKENS] = Tokens(context)
    app[LOOPS] = loops
    app[CREATES] = Creates(context)
    app[BEARERS] = Bearers(context)
    app[LIMITS] = Limits(context.config.http)
    app[datum_out.READERS] = asyncio.Semaphore(datum_out.MOST_READERS)
    for route in ROUTES:
        kwargs = {**route.kwargs, "expect_handler": _expect}
        web.RouteDef(route.method, route.path, route.handler, kwargs).register(app.router)
    app.on_response_prepare.append(_sign)
    return app


async def _sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put on every answer, whoever made it, what all have in common (decision P13)."""
    response.headers["Server"] = SERVER
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    request_id = request.headers.get(REQUEST_ID, "").strip()
    if request_id and request_id.isprintable():
        response.headers.setdefault(CORRELATION_ID, request_id[:255])


async def _expect(request: web.Request) -> web.StreamResponse | None:
    """Ask for the body, unless its length says already that it will not be taken."""
    error: web.HTTPException | None = None
    if request.headers["Expect"].lower() != "100-continue":
        error = web.HTTPExpectationFailed(reason="Expect: only 100-continue is known")
    elif (request.content_length or 0) > request.client_max_size:
        error = web.HTTPRequestEntityTooLarge(
            max_size=request.client_max_size, actual_size=request.content_length or 0
        )
    if error is not None:  # not by the middlewares: they come later
        if request.path.startswith(manage.ROOT):
            return manage.refusal(error, _reason(error))
        return _no(HTTPStatus(error.status), _reason(error), error)
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
    return None


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count, time and log every answer."""
    started_s = time.monotonic()
    structlog.contextvars.clear_contextvars()
    request_id = request.headers.get(REQUEST_ID)
    if request_id:
        structlog.contextvars.bind_contextvars(request_id=request_id[:255])
    response = await handler(request)
    broken = request.content.exception() is not None
    if not response.prepared and (broken or response.status in _BODY_LEFT):
        response.force_close()
    route = _route(request)
    request.app[CONTEXT].metrics.answered(route, response.status, time.monotonic() - started_s)
    log.debug("request.answered", method=request.method, route=route, status=response.status)
    return response


def _route(request: web.Request) -> str:
    """Return the route's template: a bounded label, whatever people ask for."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"


@web.middleware
async def _say_no(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn an FpdError into its HTTP status and one line; a bug into a logged 500."""
    try:
        return await handler(request)
    except errors.FpdError as error:
        return _no(_status_of(error), str(error), error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _no(HTTPStatus(error.status), _reason(error), error)
    except ConnectionResetError:
        # Nobody hears this; raised, it would be logged as a fault of ours.
        return _no(HTTPStatus.BAD_REQUEST, "the connection was cut", None)
    except Exception:
        log.exception("request.failed", method=request.method, route=_route(request))
        return _no(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", None)


@web.middleware
async def _limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Those without a credential share their address's rate; whoever looks after us does not.

    Raises TooMany; Malformed when nobody could say which URL was asked for.
    """
    if not _is_host(request.host):
        raise errors.Malformed("Host: not the name of a host")
    if "Authorization" not in request.headers and request.path not in ("/healthz", "/readyz"):
        request.app[LIMITS].anonymous(request)
    return await handler(request)


@functools.lru_cache(maxsize=1024)
def _is_host(host: str) -> bool:
    """Tell whether a URL can be made of it."""
    try:
        URL.build(scheme="http", authority=host)
    except ValueError:
        return False
    return True


def _status_of(error: errors.FpdError) -> HTTPStatus:
    for family in type(error).__mro__:
        if family in _STATUS:
            return _STATUS[family]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def _reason(error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return "the body is too large"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"expected one of {', '.join(sorted(error.allowed_methods))}"
    return "nothing is here" if error.status == 404 else error.reason


def _no(status: HTTPStatus, message: str, error: Exception | None) -> web.Response:
    response = web.json_response({"message": message}, status=status)
    if isinstance(error, (errors.Unavailable, errors.TooMany)):
        response.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, web.HTTPMethodNotAllowed):
        response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    if status is HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Token"
    return response
