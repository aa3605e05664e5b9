"""Doors out of which datum come, described: what they are asked and what they answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from fpd.domain.aggregate import AGGREGATIONS
from fpd.flows.datum_readings import TYPES
from fpd.web import datum_out, solarquery, sorts

Schema = dict[str, Any]

_INSTANT: Final[Schema] = {"type": "string", "format": "date-time"}
_TEXT: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 255}
_FLAG: Final[Schema] = {"type": "boolean"}
_MAX: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": datum_out.MOST}
_ASKED: Final[Mapping[str, Schema]] = {
    "start": _INSTANT,
    "end": _INSTANT,
    "startDate": _INSTANT,
    "endDate": _INSTANT,
    "localStartDate": _INSTANT,
    "localEndDate": _INSTANT,
    "aggregation": {"enum": list(AGGREGATIONS)},
    "sorts[0].key": {"enum": list(sorts.KEYS), "description": "as many as sorts[3]"},
    "sorts[0].descending": _FLAG,
    "readingType": {"enum": list(TYPES)},
    "view": {"enum": list(datum_out.VIEWS)},
    "format": {"enum": list(datum_out.KINDS)},
    "max": _MAX,
    "offset": {"type": "integer", "minimum": 0},
    "mostRecent": _FLAG,
    "withNodeIds": _FLAG,
    "withoutTotalResultsCount": _FLAG,
    "nodeId": {"type": "integer", "minimum": 1, "description": "several with commas between"},
    "sourceId": {**_TEXT, "examples": ["/load/**"], "description": "* ? ** are wildcards"},
}
_NUMBERS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "number"}}
_DATUM: Final[Schema] = {
    "type": "object",
    "properties": {
        "created": _INSTANT,
        "nodeId": {"type": "integer"},
        "sourceId": {"type": "string"},
        "corrected": {**_INSTANT, "description": "when it was last given other values, if ever"},
        "samples": {
            "type": "object",
            "properties": {
                "i": _NUMBERS,
                "a": _NUMBERS,
                "s": {"type": "object"},
                "t": {"type": "array", "items": {"type": "string"}},
            },
        },
    },
    "required": ["created", "nodeId", "sourceId", "samples"],
}
# All properties beside these, flat.
_FLAT: Final[Schema] = {
    "type": "object",
    "properties": {
        "created": {"type": "string"},
        "nodeId": {"type": "integer"},
        "sourceId": {"type": "string"},
        "localDate": {"type": "string"},
        "localTime": {"type": "string"},
    },
    "required": ["created", "nodeId", "sourceId", "localDate", "localTime"],
}
_PAIR: Final[Schema] = {
    "type": "object",
    "properties": {"nodeId": {"type": "integer"}, "sourceId": {"type": "string"}},
}
_SOURCES: Final[Schema] = {
    "type": "array",
    "items": {"anyOf": [{"type": "string"}, _PAIR]},
}
_DATA: Final[Mapping[str, Schema]] = {
    "/range/interval": {"type": "object", "properties": {"timeZone": {"type": "string"}}},
    "/range/sources": _SOURCES,
    "/nodes": {"type": "array", "items": {"type": "integer"}},
    "/nodes/sources": _SOURCES,
}
# Not in their usual envelope.
_STREAMED: Final[Schema] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "success": {"const": True},
                "startingOffset": {"type": "integer"},
                "returnedResultCount": {"type": "integer"},
                "meta": {"type": "array", "items": {"type": "object"}},
                "data": {"type": "array", "items": {"type": "array"}},
            },
            "required": ["success", "returnedResultCount", "meta", "data"],
        }
    }
}


def described(route: web.RouteDef, own: Schema, parameters: list[Schema]) -> Schema:
    """Return what such a door has of its own, beside what all of fpd's doors have."""
    if route.method != "GET":
        return {"parameters": parameters}
    refusals = {status: one for status, one in own["responses"].items() if status >= "400"}
    if route.path.startswith(solarquery.PREFIX):
        path = route.path.removeprefix(solarquery.PREFIX)
        names = solarquery.PARAMETERS[path]
        flat = _results(_FLAT, {"startingOffset": {"type": "integer"}})
        content = _STREAMED if path.startswith("/datum/stream/") else _json(_DATA.get(path, flat))
        refusals = {
            status: {"$ref": one["$ref"].replace("Message", "Refused")}
            for status, one in refusals.items()
        }
    else:
        names = datum_out.PARAMETERS
        content = _json(_results(_DATUM, {"next": {"type": ["string", "null"]}}))
        content |= {one: {} for one in datum_out.KINDS.values() if one not in content}
    of_calendar = (
        {"aggregation": {"enum": list(solarquery.EVERY)}} if "/solarquery/" in route.path else {}
    )
    known = {**_ASKED, **of_calendar}
    asked = [{"name": n, "in": "query", "schema": known.get(n, _TEXT)} for n in names]
    return {
        "tags": ["datum"],
        "security": [{"management": []}, {"signature": []}],
        "parameters": [*parameters, *asked],
        "responses": {"200": {"description": "OK", "content": content}, **refusals},
    }


def _results(item: Schema, more: Schema) -> Schema:
    properties: Schema = {
        "returnedResultCount": {"type": "integer"},
        "results": {"type": "array", "items": item},
        **more,
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(data: Schema) -> Schema:
    properties = {"success": {"const": True}, "data": data}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"application/json": {"schema": schema}}
