"""The application behind every HTTP door: identify, limit, log, say no."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import structlog
from aiohttp import web

from fpd import errors
from fpd.flows.context import Context
from fpd.flows.identify import Tokens
from fpd.flows.intake import Intake
from fpd.flows.loop import Loop
from fpd.oscp.headers import CORRELATION_ID, REQUEST_ID
from fpd.web import actions, dashboard, health, manage, oscp, status
from fpd.web.body import NotJson, TooSlow
from fpd.web.health import LOOPS
from fpd.web.keys import CONTEXT, INTAKE, TOKENS
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
    errors.TooMany: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    NotJson: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooSlow: HTTPStatus.REQUEST_TIMEOUT,
}


def application(context: Context, loops: Sequence[Loop]) -> web.Application:
    """Return the application with every route of fpd."""
    app = web.Application(
        middlewares=[_observe, _say_no, manage.say_no],
        client_max_size=int(context.config.http.max_body_mb * 1024 * 1024),
    )
    app[CONTEXT] = context
    app[INTAKE] = Intake(context)
    app[TOKENS] = Tokens(context)
    app[LOOPS] = loops
    app[LIMITS] = Limits(context.config.http)
    for room in (oscp, manage, actions, status, health, dashboard):
        app.add_routes(room.routes())
    return app


@web.middleware
async def _observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count, time and log every answer; echo the request's id."""
    started_s = time.monotonic()
    structlog.contextvars.clear_contextvars()
    request_id = request.headers.get(REQUEST_ID)
    if request_id:
        structlog.contextvars.bind_contextvars(request_id=request_id[:255])
    response = await handler(request)
    if request_id and not response.prepared and request_id.isprintable():
        response.headers.setdefault(CORRELATION_ID, request_id[:255])
    route = _route(request)
    metrics = request.app[CONTEXT].metrics
    metrics.requests.labels(route, str(response.status)).inc()
    metrics.request_s.labels(route).observe(time.monotonic() - started_s)
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
        raise
    except Exception:
        log.exception("request.failed", method=request.method, route=_route(request))
        return _no(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error", None)


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
