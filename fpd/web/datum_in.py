"""`/api/v1/datum`: who has a token brings datum of its own streams; and what was refused of them.

A body is one datum, an array, `{"datum": […]}`, or a datum a line (`application/x-ndjson`). Each
names its stream by `nodeId` and `sourceId`; the rest is as over MQTT.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from fpd.flows import offered
from fpd.flows.offered import Kept
from fpd.store import refusals
from fpd.web.body import NotJson, json_body, whole_body
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT, JUDGE
from fpd.web.messages import page
from fpd.web.query import Query
from fpd.web.status import refusal, viewer

PATH: Final = "/api/v1/datum"
REFUSED: Final = f"{PATH}/refused"
DOORS: Final = frozenset({("POST", PATH), ("GET", REFUSED)})
_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_MOST_TOLD: Final = 1000


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (web.post(PATH, _take), web.get(REFUSED, _refused))


async def _take(request: web.Request) -> web.Response:
    """Keep datum, one or many; what is told as kept is committed.

    A repeat changes nothing, another value for the same stream and time replaces the first one.
    422 when all were refused.
    """
    user_id = await authenticate(request)
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _LINES:
        documents = offered.lines(await whole_body(request))
    elif kind in ("", "application/json") or kind.endswith("+json"):
        documents = offered.split(await json_body(request))
    else:
        raise NotJson(f"Content-Type: expected application/json or {_LINES[0]}")
    context, judge = request.app[CONTEXT], request.app[JUDGE]
    kept = await offered.keep(context, judge, documents, user_id=user_id)
    is_good = bool(kept.kept) or not kept.faults
    answer: dict[str, Any] = {"success": is_good, "data": _document(kept)}
    if not is_good:
        answer["message"] = f"none was kept: {kept.faults[0].reason}"
    return web.Response(
        body=msgspec.json.encode(answer),
        status=HTTPStatus.OK if is_good else HTTPStatus.UNPROCESSABLE_ENTITY,
        content_type="application/json",
    )


def _document(kept: Kept) -> dict[str, Any]:
    """Return what became of the datum; of the refusals the first thousand are told."""
    return {
        "kept": kept.kept,
        "refusedCount": len(kept.faults),
        "refused": [
            {"index": fault.index, "outcome": fault.outcome, "reason": fault.reason}
            for fault in kept.faults[:_MOST_TOLD]
        ],
    }


async def _refused(request: web.Request) -> web.Response:
    """List whose datum were refused, with the newest example of each source, newest first."""
    user_id = await viewer(request)
    limit = Query(request.query, ("max",)).limit()
    async with request.app[CONTEXT].db.connection() as conn:
        rows = await refusals.listed(conn, user_id=user_id, limit=limit)
    return page([refusal(row) for row in rows], None)
