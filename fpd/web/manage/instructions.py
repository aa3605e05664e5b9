"""SolarUser's instructions, as far as OSCP goes: `OSCP_v20` (decision M13).

Interpretation: a request that cannot be read is refused like any other; an instruction that can
be read but not followed is answered with 200 and the state Declined, as SolarNetwork does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from fpd.errors import Malformed, TooLarge, Unknown
from fpd.flows import instructions as flow
from fpd.flows.manage.fields import MOST
from fpd.flows.manage.refusals import Absent, Fault, Invalid, Unreadable
from fpd.store import instructions as store
from fpd.web.body import LARGE, Undecodable, form_fields, is_form, shallow, unambiguous, whole_body
from fpd.web.credentials import authenticate
from fpd.web.keys import CONTEXT
from fpd.web.manage.answers import success
from fpd.web.manage.requests import document, whole_number

PREFIX: Final = "/solaruser/api/v1/sec/instr"

_PARAMETER = re.compile(r"parameters\[(\d{1,5})\]\.(name|value)")

Parameters = list[tuple[str, str]]


def routes() -> Iterable[web.RouteDef]:
    """Return the routes of this door."""
    yield web.post(f"{PREFIX}/add/{flow.TOPIC}", add)
    yield web.get(f"{PREFIX}/view", view)


async def add(request: web.Request) -> web.Response:
    """Have an optimizer say something to a provider; the answer tells the instruction's state."""
    user_id = await authenticate(request)
    context = request.app[CONTEXT]
    parameters = await _parameters(request)
    try:
        instruction = flow.read(parameters)
        await unambiguous(shallow(instruction.body))
        id = await flow.owe(context, user_id=user_id, instruction=instruction)
    except (Malformed, Unknown, TooLarge) as error:
        id = await flow.decline(context, user_id=user_id, error=error)
    return await _shown(request, user_id, id)


async def view(request: web.Request) -> web.Response:
    """Show what has become of an instruction: `?id=`."""
    user_id = await authenticate(request)
    try:
        id = whole_number(request.query.get("id", ""), 1, MOST)
    except Malformed as error:
        raise Invalid([Fault("query.id", str(error))]) from None
    return await _shown(request, user_id, id)


async def _shown(request: web.Request, user_id: int, id: int) -> web.Response:
    async with request.app[CONTEXT].db.connection() as conn:
        found = await store.find(conn, user_id=user_id, id=id)
    if found is None:
        raise Absent("there is no such instruction", [Fault("query.id", "is not known")])
    state = _state(found)
    told = {
        "requestId": found.request_id,
        "error": (found.error or found.outcome) if state == "Declined" else None,
    }
    return success(
        {
            "id": id,
            "topic": flow.TOPIC,
            "state": state,
            "resultParameters": {name: value for name, value in told.items() if value is not None},
        }
    )


def _state(instruction: store.Instruction) -> str:
    """Return the state that SolarNetwork would call it."""
    if instruction.outcome == "delivered":
        return "Completed"
    if instruction.request_id is None or instruction.outcome is not None:
        return "Declined"
    return "Executing" if instruction.attempts else "Queuing"


async def _parameters(request: web.Request) -> Parameters:
    """Return the instruction's parameters, in order, out of the query and the body.

    Raises Invalid and what reading a body raises.
    """
    fields = list(request.query.items())
    said: Mapping[str, Any] = {}
    try:
        body = await whole_body(request)
    except Undecodable as error:
        raise Unreadable(str(error), []) from None
    if is_form(request):
        large = len(body) > LARGE
        fields += await asyncio.to_thread(form_fields, body) if large else form_fields(body)
    elif body:
        said = await document(request)
    _check_node_ids([*(v for name, v in fields if name == "nodeId"), said.get("nodeId")])
    return [*_indexed(fields), *_listed(said.get("parameters")), *_named(said.get("params"))]


def _check_node_ids(given: Iterable[Any]) -> None:
    """Raise Invalid for what no node's id can be. Interpretation: OSCP has no use for nodes."""
    for value in given:
        if value is not None:
            try:
                whole_number(_text(value, "nodeId"), 1, MOST)
            except Malformed as error:
                raise Invalid([Fault("nodeId", str(error))]) from None


def _indexed(fields: Parameters) -> Parameters:
    """Return what `parameters[0].name=…&parameters[0].value=…` tells, by index."""
    told: dict[int, dict[str, str]] = {}
    for field, value in fields:
        match = _PARAMETER.fullmatch(field)
        if match is None:
            continue
        parts = told.setdefault(int(match[1]), {})
        if match[2] in parts:
            raise Invalid([Fault(field, "is given twice")])
        parts[match[2]] = value
    for index, parts in told.items():
        for part in ("name", "value"):
            if part not in parts:
                raise Invalid([Fault(f"parameters[{index}].{part}", "is required")])
    return [(parts["name"], parts["value"]) for _, parts in sorted(told.items())]


def _listed(given: Any) -> Parameters:
    """Return what `[{"name": …, "value": …}]` tells."""
    if given is None:
        return []
    if not isinstance(given, list):
        raise Invalid([Fault("parameters", "expected a list")])
    told = []
    for index, one in enumerate(given):
        place = f"parameters[{index}]"
        if not isinstance(one, dict):
            raise Invalid([Fault(place, "expected an object")])
        name, value = (_text(one.get(part), f"{place}.{part}") for part in ("name", "value"))
        told.append((name, value))
    return told


def _named(given: Any) -> Parameters:
    """Return what `{"name": "value"}` tells."""
    if given is None:
        return []
    if not isinstance(given, dict):
        raise Invalid([Fault("params", "expected an object")])
    return [(name, _text(value, f"params.{name}")) for name, value in given.items()]


def _text(value: Any, place: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Invalid([Fault(place, "expected a text")])
