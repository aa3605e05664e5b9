"""Doors about one group, described: what they are asked beside the path, and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from fpd.domain.forecast import ForecastType
from fpd.web import by_hand, groups, plan_documents, truth_documents
from fpd.web import group_documents as documents
from fpd.web.query import MOST

Schema = dict[str, Any]

_INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 1}
_ASKED: Final[Mapping[str, Schema]] = {
    "at": _INSTANT,
    "since": _INSTANT,
    "until": _INSTANT,
    "before": _NUMBER,
    "max": {**_NUMBER, "maximum": MOST},
    "hours": {**_NUMBER, "maximum": groups.MOST_HOURS},
    "type": {"type": "string", "enum": list(ForecastType)},
    "view": {"type": "string", "enum": list(groups.VIEWS)},
    "state": {"type": "string", "enum": list(truth_documents.STATES)},
}
_SAYING: Final[Mapping[str, type[msgspec.Struct]]] = {
    "adjust-forecast": by_hand.AdjustWith,
    "compliance-error": by_hand.CannotComply,
}
# What is asked beside the path, and what is answered or listed.
_ASKING: Final[Mapping[str, tuple[str, tuple[type[msgspec.Struct], ...]]]] = {
    "explain": ("at max", (documents.Explanation,)),
    "forecasts": (
        "view type since until before max hours",
        (documents.ForecastReceived, documents.ForecastInForce),
    ),
    "plan": ("", (plan_documents.PlanShown,)),
    "envelopes": ("since until before max hours", (documents.EnvelopeHeld, documents.Limits)),
    "troubles": ("state before max", (truth_documents.BlockInTrouble,)),
}
SHOWN: Final = (
    *_SAYING.values(),
    by_hand.MessageOwed,
    *(shown for _, answers in _ASKING.values() for shown in answers),
)


def described(route: web.RouteDef, own: Schema, parameters: list[Schema]) -> Schema:
    """Return what a door about a group has of its own, beside what all of fpd's doors have."""
    name = route.path.rpartition("/")[2]
    if name in _SAYING:
        header = {"name": "X-Request-ID", "in": "header", "schema": {"type": "string"}}
        return {
            "parameters": [*parameters, header],
            "requestBody": {"required": True, "content": _json(_ref(_SAYING[name]))},
            "responses": {**own["responses"], "202": _success(_ref(by_hand.MessageOwed))},
        }
    if name not in _ASKING:
        return {"parameters": parameters}
    asked, shown = _ASKING[name]
    refs = [_ref(one) for one in shown]
    data = refs[0] if name == "explain" else _page({"anyOf": refs})
    queries = [{"name": name, "in": "query", "schema": _ASKED[name]} for name in asked.split()]
    return {
        "parameters": [*parameters, *queries],
        "responses": {**own["responses"], "200": _success(data)},
    }


def _success(data: Schema) -> Schema:
    properties = {"success": {"const": True}, "data": data}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"description": "OK", "content": _json(schema)}


def _page(item: Schema) -> Schema:
    properties: Schema = {
        "returnedResultCount": {"type": "integer"},
        "results": {"type": "array", "items": item},
        "next": {"type": ["integer", "null"]},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _ref(of: type[msgspec.Struct]) -> Schema:
    return {"$ref": f"#/components/schemas/{of.__name__}"}
