"""Doors for tokens, described: what they are asked and what they answer."""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from fpd.web import tokens
from fpd.web.query import MOST

Schema = dict[str, Any]

_INSTANT: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}
_TOKEN: Final[Schema] = {
    "userId": {"type": "integer"},
    "id": {"type": "string", "minLength": 20, "maxLength": 20},
    "name": {"type": ["string", "null"]},
    "admin": {"type": "boolean"},
}
_SHOWN: Final[Schema] = {**_TOKEN, "created": _INSTANT, "lastUsed": _INSTANT, "revoked": _INSTANT}
# Said once.
_MADE: Final[Schema] = {**_TOKEN, "secret": {"type": "string"}, "bearer": {"type": "string"}}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 1}
_ASKED: Final[Schema] = {
    "user": _NUMBER,
    "max": {**_NUMBER, "maximum": MOST},
    "offset": {"type": "integer", "minimum": 0},
}


def described(route: web.RouteDef, own: Schema, parameters: list[Schema]) -> Schema:
    """Return what a door for tokens has of its own, beside what all of fpd's doors have."""
    told: Schema = {"tags": ["tokens"], "parameters": parameters}
    refusals = {status: one for status, one in own["responses"].items() if status >= "400"}
    if route.method == "POST":
        wanted = {"$ref": f"#/components/schemas/{tokens.TokenWanted.__name__}"}
        body = {"required": True, "content": {"application/json": {"schema": wanted}}}
        made = _answer(_object(_MADE))
        made["headers"] = {"Location": {"required": True, "schema": {"type": "string"}}}
        return {**told, "requestBody": body, "responses": {"201": made, **refusals}}
    if route.path == tokens.PREFIX:
        queries = [{"name": n, "in": "query", "schema": s} for n, s in _ASKED.items()]
        many = _answer({"type": "array", "items": _object(_SHOWN)})
        return {**told, "parameters": queries, "responses": {"200": many, **refusals}}
    return {**told, "responses": {"200": _answer(_object(_SHOWN)), **refusals}}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _answer(data: Schema) -> Schema:
    schema = _object({"success": {"const": True}, "data": data})
    return {"description": "OK", "content": {"application/json": {"schema": schema}}}
