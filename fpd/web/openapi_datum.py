"""Doors for datum that come in, described: what they are asked and what they answer."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from fpd.web.query import MOST

Schema = dict[str, Any]

_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_STREAM: Final[Schema] = {
    "created": {
        "type": ["integer", "string"],
        "description": "ms since 1970, or a date-time with a zone; without it, now",
    },
    "nodeId": {"type": "integer", "minimum": 1},
    "sourceId": {"type": "string", "minLength": 1, "maxLength": 255},
}
_SAMPLES: Final[Schema] = {
    "type": "object",
    "properties": {
        "i": {"type": "object", "description": "instantaneous", "additionalProperties": True},
        "a": {"type": "object", "description": "accumulating", "additionalProperties": True},
        "s": {"type": "object", "description": "status", "additionalProperties": True},
        "t": {"type": "array", "items": _TEXT, "description": "tags"},
    },
}
_DATUM: Final[Schema] = {
    "type": "object",
    "properties": {**_STREAM, "samples": _SAMPLES},
    "required": ["nodeId", "sourceId"],
    "description": "properties in classes below `samples`, or beside the others: then numbers "
    "are instantaneous, texts and booleans status",
}
_EXAMPLE: Final = {"created": 1773144000000, "nodeId": 7, "sourceId": "meter/1", "watts": 230.5}
_FAULT: Final[Schema] = {"index": _COUNT, "outcome": _TEXT, "reason": _TEXT}
_REFUSAL: Final[Schema] = {
    "door": _TEXT,
    "source": _TEXT,
    "userId": {"type": ["integer", "null"]},
    "outcome": _TEXT,
    "reason": _TEXT,
    "count": _COUNT,
    "first": _TIME,
    "last": _TIME,
    "head": _TEXT,
    "size": _COUNT,
}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


_KEPT: Final[Schema] = _object(
    {
        "kept": _COUNT,
        "refusedCount": _COUNT,
        "refused": {"type": "array", "items": _object(_FAULT)},
    }
)
_PAGE: Final[Schema] = _object(
    {
        "returnedResultCount": _COUNT,
        "results": {"type": "array", "items": _object(_REFUSAL)},
        "next": {"type": "null"},
    }
)


def described(route: web.RouteDef, own: Schema) -> Schema:
    """Return what a door for datum has of its own, beside what all of fpd's doors have."""
    refusals = {status: one for status, one in own["responses"].items() if status >= "400"}
    if route.method == "GET":
        limit = {"type": "integer", "minimum": 1, "maximum": MOST}
        return {
            "tags": ["datum"],
            "parameters": [{"name": "max", "in": "query", "schema": limit}],
            "responses": {"200": _answer("OK", data=_PAGE), **refusals},
        }
    many = {"type": "array", "items": _DATUM}
    wrapped = {"type": "object", "properties": {"datum": many}, "required": ["datum"]}
    content = {
        "application/json": {"schema": {"anyOf": [_DATUM, many, wrapped]}, "example": [_EXAMPLE]},
        "application/x-ndjson": {"schema": _TEXT},
    }
    none = _answer("none was kept", message=_TEXT, success={"const": False}, data=_KEPT)
    return {
        "tags": ["datum"],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": _answer("committed", data=_KEPT), **refusals, "422": none},
    }


def _answer(description: str, **properties: Schema) -> Schema:
    schema = _object({"success": {"const": True}, **properties})
    return {"description": description, "content": {"application/json": {"schema": schema}}}
