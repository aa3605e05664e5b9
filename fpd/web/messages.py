"""`/api/v1/messages`: what we owe or owed to peers, and dead letters that are to go again.

A user sees what goes to peers of its own. Bodies that hold a token are never shown. Errors are
`{"message": …}`, as everywhere under `/api/v1`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from aiohttp import web

from fpd.errors import Malformed, Unknown
from fpd.flows import replay
from fpd.store import messages as store
from fpd.store.messages import DEAD, STATES, Message, Wanted
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT
from fpd.web.query import Query
from fpd.web.status import rfc3339

PREFIX: Final = "/api/v1/messages"
_FILTERS: Final = ("peer", "group", "operation", "state", "since", "until", "before", "max")
_LONGEST_ID: Final = 18


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    return (
        web.get(PREFIX, _listed),
        web.post(f"{PREFIX}/replay", _replay_many),
        web.get(f"{PREFIX}/{{id}}", _shown),
        web.post(f"{PREFIX}/{{id}}/replay", _replay),
    )


async def _listed(request: web.Request) -> web.Response:
    """List messages, newest first; `next` is the `before` of the next page."""
    user_id = await authenticate(request)
    query = Query(request.query, _FILTERS)
    wanted, limit = _wanted(query, user_id), query.limit()
    async with request.app[CONTEXT].db.connection() as conn:
        rows = await store.listed(conn, wanted, limit=limit)
    return page([document(row) for row in rows], rows[-1].id if len(rows) == limit else None)


async def _shown(request: web.Request) -> web.Response:
    """Show one message with its body."""
    wanted = Wanted(user_id=await authenticate(request), id=_id(request))
    async with request.app[CONTEXT].db.connection() as conn:
        rows = await store.listed(conn, wanted, limit=1)
        if not rows:
            raise Unknown("there is no such message")
        body = await store.body(conn, id=rows[0].id)
    return success(document(rows[0]) | said(body))


async def _replay(request: web.Request) -> web.Response:
    user_id = await authenticate(request)
    await replay.one(request.app[CONTEXT], user_id=user_id, id=_id(request))
    return web.json_response({"success": True}, status=HTTPStatus.ACCEPTED)


async def _replay_many(request: web.Request) -> web.Response:
    """Replay the newest dead letters that the filters mean; `max` is 1,000 unless given."""
    user_id = await authenticate(request)
    query = Query(request.query, _FILTERS)
    wanted = _wanted(query, user_id, usual="dead")
    if not set(wanted.states or ()) <= set(DEAD):
        raise Malformed(f"query.state: only {', '.join(DEAD)} (or dead) are replayed")
    limit = query.number("max", most=replay.MOST) or replay.MOST
    came = await replay.many(request.app[CONTEXT], wanted, limit=limit)
    return success(
        {"replayed": came.replayed, "refused": [
            {"reason": reason, "messages": count} for reason, count in came.refused.items()
        ]},
        status=HTTPStatus.ACCEPTED,
    )  # fmt: skip


def _id(request: web.Request) -> int:
    text = request.match_info["id"]
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID):
        raise Unknown("there is no such message")
    return int(text)


def _wanted(query: Query, user_id: int, *, usual: str | None = None) -> Wanted:
    return Wanted(
        user_id=user_id,
        peer_id=query.number("peer"),
        group_id=query.number("group"),
        operation=query.text("operation"),
        states=states(query.one_of("state", (*STATES, "dead")) or usual),
        since=query.instant("since"),
        until=query.instant("until"),
        before=query.number("before"),
    )


def states(name: str | None) -> tuple[str, ...] | None:
    """Return the states that a name stands for; `dead`: refused or expired."""
    if name is None:
        return None
    return DEAD if name == "dead" else (name,)


def document(message: Message) -> dict[str, Any]:
    """Return a message as JSON; instants are UTC."""
    passed_on = {"peerId": message.sender_id, "requestId": message.sender_request_id}
    return {
        "id": message.id,
        "peerId": message.peer_id,
        "role": message.role,
        "operation": message.operation,
        "requestId": message.request_id,
        "correlationId": message.correlation_id,
        "groupId": message.group_id,
        "state": message.state,
        "attempts": message.attempts,
        "status": message.status,
        "error": message.error,
        "created": rfc3339(message.created_at),
        "due": rfc3339(message.due_at),
        "expires": rfc3339(message.expires_at),
        "settled": rfc3339(message.settled_at),
        "passesOn": None if message.sender_id is None else passed_on,
    }


def said(body: bytes | None) -> dict[str, Any]:
    """Return a message's body: as JSON, as text if it is none, null if it holds a secret."""
    if body is None:
        return {"body": None, "note": "the body holds a token and is not shown"}
    if not body:
        return {"body": None}
    text = body.decode("utf-8", "replace")
    try:
        return {"body": msgspec.json.decode(text, type=msgspec.Raw)}
    except msgspec.DecodeError:
        return {"body": text}


def page(rows: Sequence[Any], following: int | None) -> web.Response:
    """Return one page of a list; `following`: the cursor of the next, None: this was the last."""
    return success({"returnedResultCount": len(rows), "results": rows, "next": following})


def success(
    data: Any, *, status: HTTPStatus = HTTPStatus.OK, location: str | None = None
) -> web.Response:
    """Return an answer that nobody keeps a copy of; `location`: where what was made now is."""
    headers = {} if location is None else {"Location": location}
    return web.Response(
        body=msgspec.json.encode({"success": True, "data": data}),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **headers},
    )
