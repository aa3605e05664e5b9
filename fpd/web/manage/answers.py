"""The envelope of every answer below /solaruser/ and /solarquery/ (decision M4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from fpd import errors
from fpd.flows.manage.refusals import Fault, Invalid, Refused, Taken, Unreadable
from fpd.store.entities import InUse
from fpd.web.body import NotJson, TooSlow
from fpd.web.credentials import CHALLENGE

log = structlog.get_logger()

ROOT: Final = "/solaruser/"
QUERY_ROOT: Final = "/solarquery/"
_LONGEST: Final = 500
_MOST_FAULTS: Final = 100

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Status and code of each family; the original's codes where it has one.
_FAMILIES: Final[dict[type[Exception], tuple[HTTPStatus, str]]] = {
    Unreadable: (HTTPStatus.BAD_REQUEST, "VAL.00005"),
    Invalid: (HTTPStatus.UNPROCESSABLE_ENTITY, "VAL.00003"),
    Taken: (HTTPStatus.CONFLICT, "DAO.00101"),
    InUse: (HTTPStatus.CONFLICT, "DAO.00105"),
    errors.Malformed: (HTTPStatus.UNPROCESSABLE_ENTITY, "VAL.00003"),
    errors.Unauthenticated: (HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED"),
    errors.Forbidden: (HTTPStatus.FORBIDDEN, "FORBIDDEN"),
    errors.Unknown: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    errors.Conflict: (HTTPStatus.CONFLICT, "CONFLICT"),
    errors.TooMany: (HTTPStatus.TOO_MANY_REQUESTS, "TOO_MANY"),
    errors.Unavailable: (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    NotJson: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "NOT_JSON"),
    TooSlow: (HTTPStatus.REQUEST_TIMEOUT, "TOO_SLOW"),
    web.HTTPNotFound: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    web.HTTPMethodNotAllowed: (HTTPStatus.METHOD_NOT_ALLOWED, "NOT_ALLOWED"),
    web.HTTPRequestEntityTooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "TOO_LARGE"),
}


def success(
    data: Any = None, *, status: HTTPStatus = HTTPStatus.OK, location: str | None = None
) -> web.Response:
    """Return an answer; `data` None: there is none to give."""
    body = {"success": True} if data is None else {"success": True, "data": data}
    return _json(body, status, {} if location is None else {"Location": location})


@web.middleware
async def say_no(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put every refusal below these roots into the envelope; a bug is logged and becomes a 500."""
    if not request.path.startswith((ROOT, QUERY_ROOT)):
        return await handler(request)
    try:
        return await handler(request)
    except errors.FpdError as error:
        return refusal(error, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return refusal(error, HTTPStatus(error.status).phrase)
    except ConnectionResetError:
        raise
    except Exception as error:
        log.exception("request.failed", method=request.method, path=request.path)
        return refusal(error, "internal error")


def refusal(error: Exception, message: str) -> web.Response:
    """Return the answer that tells of an error."""
    status, code = _family(error)
    faults: Sequence[Fault] = error.faults if isinstance(error, Refused) else ()
    body = {
        "success": False,
        "code": code,
        "message": _told(message),
        "errors": [
            {"location": _told(fault.location), "message": _told(fault.message)}
            for fault in faults[:_MOST_FAULTS]
        ],
    }
    headers = {}
    if isinstance(error, (errors.TooMany, errors.Unavailable)):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, web.HTTPMethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = CHALLENGE
    return _json(body, status, headers)


def _family(error: Exception) -> tuple[HTTPStatus, str]:
    for kind in type(error).__mro__:
        if kind in _FAMILIES:
            return _FAMILIES[kind]
    if isinstance(error, web.HTTPException):
        return HTTPStatus(error.status), "REFUSED"
    return HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"


def _told(text: str) -> str:
    """Return what may be said of a request's own words: not too much, and writable."""
    return text[:_LONGEST].encode("utf-8", "backslashreplace").decode()


def _json(body: Any, status: HTTPStatus, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=status,
        headers=headers,
        content_type="application/json",
        charset="utf-8",
    )
