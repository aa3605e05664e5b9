"""What a group may do, might and has heard: `/api/v1/oscp/capacity-groups/{id}/…`, own user's.

`explain` tells why a limit was in force and what it caused, `forecasts` and `envelopes` what was,
is and is planned, `troubles` what of the forecasts cannot be kept. Errors are `{"message": …}`,
as everywhere under `/api/v1`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from fpd.domain.forecast import ForecastType
from fpd.errors import Unknown
from fpd.flows import explain, planned
from fpd.web import group_documents as documents
from fpd.web import plan_documents
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT
from fpd.web.messages import page, success
from fpd.web.query import Query
from fpd.web.truth_documents import STATES, in_trouble

PREFIX: Final = "/api/v1/oscp/capacity-groups/{id}"
_PAGED: Final = ("since", "until", "before", "max")
VIEWS: Final = ("received", "inforce")
MOST_HOURS: Final = 8784
_LONGEST_ID: Final = 18


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (
        web.get(f"{PREFIX}/explain", _explain),
        web.get(f"{PREFIX}/forecasts", _forecasts),
        web.get(f"{PREFIX}/envelopes", _envelopes),
        web.get(f"{PREFIX}/troubles", _troubles),
        web.get(f"{PREFIX}/plan", _plan),
    )


async def _explain(request: web.Request) -> web.Response:
    """Explain which limit was in force at an instant, because of which message, and what it did."""
    of = await meant(request)
    query = Query(request.query, ("at", "max"))
    told = await explain.explain(
        request.app[CONTEXT], **of, at=query.instant("at"), limit=query.limit()
    )
    return success(documents.explanation(told))


async def _forecasts(request: web.Request) -> web.Response:
    """List forecasts as received, newest first, or with `view=inforce` what of them counts."""
    of = await meant(request)
    if request.query.get("view") == "inforce":
        return await _in_force(request, of)
    query = Query(request.query, ("view", "type", *_PAGED))
    query.one_of("view", VIEWS)
    rows, following = await explain.received(
        request.app[CONTEXT],
        **of,
        type=_type(query),
        since=query.instant("since"),
        until=query.instant("until"),
        before=query.number("before"),
        limit=query.limit(),
    )
    return page(await asyncio.to_thread(documents.received, rows), following)


async def _in_force(request: web.Request, of: dict[str, Any]) -> web.Response:
    query = Query(request.query, ("view", "type", "hours"))
    found = await explain.in_force(
        request.app[CONTEXT], **of, type=_type(query), hours=_hours(query)
    )
    return page(await asyncio.to_thread(documents.in_force, found), None)


async def _envelopes(request: web.Request) -> web.Response:
    """List what was in force, newest first, or with `hours` what is planned from now on."""
    of = await meant(request)
    if "hours" in request.query:
        hours = _hours(Query(request.query, ("hours",)))
        assert hours is not None
        planned = await explain.planned(request.app[CONTEXT], **of, hours=hours)
        return page(await asyncio.to_thread(documents.planned, planned), None)
    query = Query(request.query, _PAGED)
    group, rows, following = await explain.history(
        request.app[CONTEXT],
        **of,
        since=query.instant("since"),
        until=query.instant("until"),
        before=query.number("before"),
        limit=query.limit(),
    )
    return page([documents.envelope(row, group) for row in rows], following)


async def _troubles(request: web.Request) -> web.Response:
    """List the blocks of forecasts that cannot be kept, newest first; `state=all`: or could not."""
    of = await meant(request)
    query = Query(request.query, ("state", "before", "max"))
    rows, following = await explain.troubles(
        request.app[CONTEXT],
        **of,
        open_only=query.one_of("state", STATES) != "all",
        before=query.number("before"),
        limit=query.limit(),
    )
    return page([in_trouble(row) for row in rows], following)


async def _plan(request: web.Request) -> web.Response:
    """Show who is planned to carry what over the next week; 404 as long as nothing is planned."""
    of = await meant(request)
    Query(request.query, ())
    plan = await planned.read(request.app[CONTEXT], **of)
    if plan is None:
        raise Unknown("there is no plan yet: one is made for groups that devices are driven for")
    return success(await asyncio.to_thread(plan_documents.shown, plan))


async def meant(request: web.Request) -> dict[str, Any]:
    """Return who asks about which group."""
    user_id = await authenticate(request)
    text = request.match_info["id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID):
        raise Unknown("there is no such capacity group")
    return {"user_id": user_id, "group_id": int(text)}


def _type(query: Query) -> ForecastType | None:
    given = query.one_of("type", tuple(ForecastType))
    return None if given is None else ForecastType(given)


def _hours(query: Query) -> int | None:
    return query.number("hours", most=MOST_HOURS)
