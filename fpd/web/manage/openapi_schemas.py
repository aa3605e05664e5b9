"""JSON Schemas of entities, from the tables of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fpd.domain import entities
from fpd.flows.manage import fields
from fpd.flows.manage.fields import MOST, Access, Field, Kind

Schema = dict[str, Any]

INSTRUCTION: Final[Schema] = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "topic": {"type": "string"},
        "state": {"enum": ["Queuing", "Executing", "Completed", "Declined"]},
        "resultParameters": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["id", "topic", "state", "resultParameters"],
}
# The same may come as a form or in the query: `parameters[0].name=…&parameters[0].value=…`.
PARAMETERS: Final[Schema] = {
    "type": "object",
    "properties": {
        "nodeId": {"type": ["integer", "null"], "minimum": 1},
        "params": {"type": "object", "additionalProperties": {"type": "string"}},
        "parameters": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                "required": ["name", "value"],
            },
        },
    },
}


def asked(of: Sequence[Field]) -> Schema:
    """Return what a request may say; what is not named here is ignored."""
    return _object([field for field in of if field.access is Access.BOTH], asked=True)


def shown(of: Sequence[Field]) -> Schema:
    """Return what is answered; what is not known is left out."""
    return _object(of, asked=False)


def list_of(item: Schema) -> Schema:
    """Return the schema of a list, or of the page that was asked for."""
    many = {"type": "array", "items": item}
    number = {"type": "integer", "minimum": 0}
    page = {
        "type": "object",
        "properties": {
            "totalResults": number,
            "startingOffset": number,
            "returnedResultCount": number,
            "results": many,
        },
        "required": ["totalResults", "startingOffset", "returnedResultCount", "results"],
    }
    return {"anyOf": [many, page]}


def _object(of: Sequence[Field], *, asked: bool) -> Schema:
    properties = {field.name: _property(field, asked=asked) for field in of}
    required = [field.name for field in of if field.required]
    return {"type": "object", "properties": properties, "required": required}


def _property(field: Field, *, asked: bool) -> Schema:
    schema = _of(field.kind, asked=asked)
    if asked and isinstance(field.default, str | int | float):
        return {**schema, "default": field.default}
    return schema


def _of(kind: Kind, *, asked: bool) -> Schema:
    match kind:
        case fields.Text():
            limits = {"minLength": 1, "maxLength": kind.longest} if asked else {}
            return {"type": "string", **limits}
        case fields.Flag():
            return {"type": "boolean"}
        case fields.Id():
            return {"type": "integer", "minimum": 1, "maximum": MOST}
        case fields.Number():
            schema: Schema = {"type": "integer" if kind.whole and asked else "number"}
            bounds = {"minimum": kind.least, "maximum": kind.most}
            return schema | ({"enum": list(kind.among)} if kind.among else bounds if asked else {})
        case fields.Choice() | fields.Period() | fields.Status():
            return _words(kind)
        case fields.Names() | fields.Styles():
            return {"type": "array", "items": {"type": "string"}, "minItems": 1 if asked else 0}
        case fields.Instant():
            return {"type": "string", "examples": ["2026-03-12 12:00:00Z"]}
        case fields.Part():
            return _object(kind.fields, asked=asked)
        case _:
            return {"type": "object"}


def _words(kind: Kind) -> Schema:
    """The names; in requests any case, codes and aliases are taken too (decision M5)."""
    among: Sequence[str] = tuple(entities.RegistrationStatus)
    if isinstance(kind, fields.Choice):
        among = kind.among
    elif isinstance(kind, fields.Period):
        among = tuple(entities.MeasurementPeriod)
    return {"type": "string", "enum": [str(word) for word in among]}
