"""`/openapi.json`: every door, described from what reads and writes its messages (OpenAPI 3.1).

The routes are those of the application itself; nothing is listed twice. What OSCP carries comes
from its structs, what the management API carries from its tables of fields.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from aiohttp import web

from fpd import __version__
from fpd.flows.manage.entity import Entity
from fpd.flows.registration import VERSION
from fpd.oscp import messages
from fpd.web import (
    actions,
    datum_in,
    datum_out,
    groups,
    openapi_datum,
    openapi_datum_out,
    openapi_groups,
    openapi_tokens,
    oscp,
    solarquery,
    tokens,
)
from fpd.web.manage import instructions, openapi_schemas

Schema = dict[str, Any]

# By wire name, what the operations of OSCP carry.
_MESSAGES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "register": messages.Register,
    "handshake": messages.Handshake,
    "handshake_acknowledge": messages.HandshakeAcknowledge,
    "heartbeat": messages.Heartbeat,
    "update_group_capacity_forecast": messages.UpdateGroupCapacityForecast,
    "adjust_group_capacity_forecast": messages.AdjustGroupCapacityForecast,
    "group_capacity_compliance_error": messages.GroupCapacityComplianceError,
}
_BLOCK: Final = {
    "capacity": 11.5,
    "phase": "ALL",
    "unit": "KW",
    "start_time": "2026-03-12T12:00:00Z",
    "end_time": "2026-03-12T12:15:00Z",
}
_EXAMPLES: Final[Mapping[str, Any]] = {
    "register": {
        "token": "a1b2c3d4",
        "version_url": [{"version": "2.0", "base_url": "https://cp.example.org/oscp/cp/2.0"}],
    },
    "handshake": {"required_behaviour": {"heartbeat_interval": 60}},
    "heartbeat": {"offline_mode_at": "2026-03-12T12:03:00Z"},
    "update_group_capacity_forecast": {
        "group_id": "my-group",
        "type": "CONSUMPTION",
        "forecasted_blocks": [_BLOCK],
    },
    "group_capacity_compliance_error": {
        "message": "the battery is empty",
        "forecasted_blocks": [_BLOCK],
    },
}
_REF: Final = "#/components/schemas/"
_MESSAGE: Final[Schema] = {
    "type": "object",
    "properties": {"message": {"type": "string"}},
    "required": ["message"],
}
_REFUSED: Final[Schema] = {
    "type": "object",
    "properties": {
        "success": {"const": False},
        "code": {"type": "string", "examples": ["VAL.00003"]},
        "message": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"location": {"type": "string"}, "message": {"type": "string"}},
                "required": ["location", "message"],
            },
        },
    },
    "required": ["success", "code", "message", "errors"],
}
_HEALTH: Final[Schema] = {
    "type": "object",
    "properties": {"reason": {"type": ["string", "null"]}},
    "required": ["reason"],
}
_WHY: Final[Mapping[int, str]] = {
    400: "not JSON, or says what cannot be meant",
    401: "no usable credential",
    403: "not allowed, or not yet",
    404: "nothing is here",
    408: "the body did not arrive in time",
    409: "contradicts what is there",
    413: "too large",
    415: "not JSON",
    422: "JSON with content that cannot be meant",
    429: "too often: see Retry-After",
    501: "no common version",
    503: "something we depend on is away: see Retry-After",
}
_SECURITY: Final[Schema] = {
    "oscp": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Token <token>` as exchanged by Register",
    },
    "issuer": {
        "type": "http",
        "scheme": "bearer",
        "description": "a token of the configured issuer, in place of OSCP's",
    },
    "management": {
        "type": "http",
        "scheme": "bearer",
        "description": "from `fpd token create`",
    },
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`SNWS2 Credential=…,SignedHeaders=…,Signature=…`: SolarNetwork's request "
        "signature with the id and secret from `fpd token create`",
    },
}
_OPEN: Final = ("/healthz", "/readyz", "/openapi.json", "/api")
# Rooms that describe their doors themselves.
_ROOMS: Final = (
    (groups.PREFIX, openapi_groups),
    (tokens.PREFIX, openapi_tokens),
    (datum_out.PREFIX, openapi_datum_out),
    (solarquery.PREFIX, openapi_datum_out),
)
_MANAGEMENT: Final[list[Schema]] = [{"management": []}, {"signature": []}]


def route(others: Sequence[web.RouteDef]) -> web.RouteDef:
    """Return the door that describes `others` and itself."""
    told: list[bytes] = []

    async def openapi(request: web.Request) -> web.Response:
        """Describe every door."""
        return web.Response(body=told[0], content_type="application/json")

    own = web.get("/openapi.json", openapi)
    told.append(msgspec.json.encode(document([*others, own])))
    return own


def document(routes: Iterable[web.RouteDef]) -> Schema:
    """Return the OpenAPI document of these routes."""
    _, components = msgspec.json.schema_components(
        [
            *_MESSAGES.values(),
            actions.RegisterWith,
            *openapi_groups.SHOWN,
            tokens.TokenWanted,
        ],
        ref_template=_REF + "{name}",
    )
    # Without it the answer is 501, which no schema of OSCP's tells.
    ours = {"properties": {"version": {"const": VERSION}}}
    components["Register"]["properties"]["version_url"]["contains"] = ours
    paths: dict[str, Schema] = {}
    schemas = {**components, "Message": _MESSAGE, "Refused": _REFUSED}
    for one in routes:
        entity = _entity(one)
        schemas |= _schemas(entity) if entity is not None else {}
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fpd, an OSCP 2.0 Flexibility Provider",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                f"{name}{status}": _answer(_ref(name), why)
                for name in ("Message", "Refused")
                for status, why in _WHY.items()
            },
            "securitySchemes": _SECURITY,
        },
    }


def _operation(route: web.RouteDef) -> Schema:
    """Return what one route takes and answers, by the room it belongs to."""
    names = re.findall(r"{(\w+)}", route.path)
    operation: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": _summary(route.handler),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ],
    }
    if route.path.startswith(oscp.PREFIX):
        return operation | _protocol(route, operation["parameters"])
    entity = _entity(route)
    if entity is not None:
        return operation | _managed(route, entity, operation["parameters"])
    if route.path.startswith(instructions.PREFIX):
        return operation | _instructed(route)
    told = _own(route)
    if (route.method, route.path) in datum_in.DOORS:
        return operation | told | openapi_datum.described(route, told)
    for prefix, room in _ROOMS:
        if route.path.startswith(prefix):
            own: Schema = room.described(route, told, operation["parameters"])
            return operation | told | own
    return operation | told


def _summary(handler: Any) -> str:
    work = handler
    while isinstance(work, partial):
        work = next((part for part in reversed(work.args) if inspect.isfunction(part)), work.func)
    said = inspect.getdoc(work) or work.__name__.strip("_").replace("_", " ")
    return said.partition("\n")[0].partition("; ")[0].rstrip(".")


def _protocol(route: web.RouteDef, parameters: list[Schema]) -> Schema:
    name = route.path.removeprefix(f"{oscp.PREFIX}/")
    message = _MESSAGES.get(name, messages.HandshakeAcknowledge).__name__
    told = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"}
    header = {"in": "header", "schema": told}
    described: Schema = {
        "tags": ["OSCP 2.0"],
        "summary": f"{name.replace('_', ' ')}: 204 means kept",
        "parameters": [
            *parameters,
            {"name": "X-Request-ID", "required": True, **header},
            {"name": "X-Correlation-ID", **header},
        ],
        "security": [{"oscp": []}, {"issuer": []}],
        "responses": {
            "204": {
                "description": "kept",
                "headers": {"X-Correlation-ID": {"required": True, "schema": {"type": "string"}}},
            },
            **_refusals("Message", 400, 401, 403, 404, 408, 413, 415, 429, 501, 503),
        },
    }
    return described | _body(
        _ref(message), required=route.method != "DELETE", example=_EXAMPLES.get(name)
    )


def _entity(route: web.RouteDef) -> Entity | None:
    """Return what the management API does something with: `partial(view, entity)`."""
    bound = route.handler.args if isinstance(route.handler, partial) else ()
    return bound[0] if bound and isinstance(bound[0], Entity) else None


def _schemas(entity: Entity) -> dict[str, Schema]:
    name = _name(entity)
    return {
        name: openapi_schemas.shown(entity.fields),
        f"{name}Wanted": openapi_schemas.asked(entity.fields),
    }


def _name(entity: Entity) -> str:
    place = "Group" if entity.noun == "settings" and entity.id_name == "groupId" else ""
    return place + entity.noun.title().replace(" ", "")


def _managed(route: web.RouteDef, entity: Entity, parameters: list[Schema]) -> Schema:
    assert isinstance(route.handler, partial)
    work = route.handler.func
    many = work.__name__.startswith("listed")
    shown = _ref(_name(entity))
    described: Schema = {
        "tags": [entity.noun],
        "summary": f"{work.__name__.replace('listed', 'list').replace('_', ' ')}: {entity.noun}",
        "parameters": parameters,
        "security": _MANAGEMENT,
        "responses": {
            "201" if work.__name__ == "create" else "200": _answer(
                {
                    "type": "object",
                    "properties": {
                        "success": {"const": True},
                        "data": openapi_schemas.list_of(shown) if many else shown,
                    },
                    "required": ["success"],
                }
            ),
            **_refusals("Refused", 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
        },
    }
    if many:
        page = {"type": "integer", "minimum": 0}
        described["parameters"] = [
            *parameters,
            *({"name": name, "in": "query", "schema": page} for name in ("max", "offset")),
        ]
    if route.method in ("POST", "PUT"):
        described |= _body(_ref(f"{_name(entity)}Wanted"))
    return described


def _instructed(route: web.RouteDef) -> Schema:
    shown = {
        "type": "object",
        "properties": {"success": {"const": True}, "data": openapi_schemas.INSTRUCTION},
    }
    described: Schema = {
        "tags": ["instructions"],
        "security": _MANAGEMENT,
        "responses": {
            "200": _answer({**shown, "required": ["success", "data"]}),
            **_refusals("Refused", 400, 401, 403, 404, 408, 413, 415, 422, 429, 503),
        },
    }
    if route.method == "GET":
        id = {"type": "integer", "minimum": 1}
        return described | {"parameters": [{"name": "id", "in": "query", "schema": id}]}
    return described | _body(openapi_schemas.PARAMETERS, required=False)


def _own(route: web.RouteDef) -> Schema:
    """fpd's own doors: actions, status, page, health."""
    open_to_all = route.path in _OPEN or "." in route.path
    described: Schema = {
        "tags": ["fpd"],
        "security": [] if open_to_all else _MANAGEMENT,
        "responses": {
            **_good(route),
            **_refusals("Message", 400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
        },
    }
    if route.path in ("/healthz", "/readyz"):
        described["responses"] = {"200": _answer(_HEALTH), "503": _answer(_HEALTH)}
    elif route.path in ("/", "/plan"):  # also what it refuses is a page
        described["responses"] |= {
            str(status): {"description": _WHY[status], "content": {"text/html": {}}}
            for status in (401, 403, 503)
        }
    elif route.method == "POST" and route.path.endswith("/register"):
        described |= _body(_ref(actions.RegisterWith.__name__))
    return described


def _good(route: web.RouteDef) -> Schema:
    if route.path.startswith("/api/") or route.path == "/openapi.json":
        status = "202" if route.method == "POST" and not route.path.endswith("/token") else "200"
        return {status: _answer({"type": "object"})}
    kinds = {"/metrics": "text/plain", ".css": "text/css", ".js": "text/javascript"}
    kinds[".svg"] = "image/svg+xml"
    kind = next((kinds[end] for end in kinds if route.path.endswith(end)), "text/html")
    return {"200": {"description": "OK", "content": {kind: {}}}}


def _body(schema: Schema, *, required: bool = True, example: Any = None) -> Schema:
    content = {"schema": schema} if example is None else {"schema": schema, "example": example}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def _answer(schema: Schema, description: str = "OK") -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refusals(name: str, *statuses: int) -> Schema:
    return {str(s): {"$ref": f"#/components/responses/{name}{s}"} for s in statuses}


def _ref(name: str) -> Schema:
    return {"$ref": _REF + name}
