"""The description of the doors is true: of its routes, and of what they answer."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.daemon import Daemon, MakeDaemon, make_site
from support.peer import RecordingPeer

from fpd.web import openapi
from fpd.web.server import ROUTES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own libraries' deprecations
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 3
NO_LIMITS = "rate_per_token_s = 1000000\nrate_burst = 1000000\nfailed_auth_per_min = 1000000"


def test_every_route_is_described_and_nothing_else() -> None:
    described = {
        (method.upper(), path)
        for path, methods in openapi.document(ROUTES)["paths"].items()
        for method in methods
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    assert {path for _, path in described} >= {
        "/oscp/fp/2.0/register",
        "/solaruser/api/v1/sec/user/oscp/capacity-groups/{groupId}/assets",
        "/solaruser/api/v1/sec/user/oscp/assets",
        "/api/v1/tokens/{id}",
        "/api",
        "/healthz",
        "/openapi.json",
    }


def test_every_operation_has_a_name_a_refusal_and_a_way_in() -> None:
    document = openapi.document(ROUTES)
    schemes = document["components"]["securitySchemes"]
    ids = []
    for methods in document["paths"].values():
        for operation in methods.values():
            ids.append(operation["operationId"])
            assert operation["summary"]
            assert any(status >= "400" for status in operation["responses"])
            for way in operation["security"]:
                assert set(way) <= set(schemes)
    assert len(set(ids)) == len(ids)
    _references_lead_somewhere(document, document)


def _references_lead_somewhere(part: Any, document: dict[str, Any]) -> None:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            place: Any = document
            for name in part["$ref"].removeprefix("#/").split("/"):
                place = place[name]
        for inner in part.values():
            _references_lead_somewhere(inner, document)
    elif isinstance(part, list):
        for inner in part:
            _references_lead_somewhere(inner, document)


@pytest.mark.filterwarnings("ignore")
async def test_the_doors_answer_as_described(make_daemon: MakeDaemon, database_url: str) -> None:
    daemon = make_daemon(database_url)
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[database]", f"{NO_LIMITS}\n[database]"))
    await daemon.start()
    await daemon.log_in(admin=True)
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        described = json.loads(await daemon.answers("/openapi.json"))
        await asyncio.to_thread(_explore, daemon, described, token)
    assert daemon.alive and "request.failed" not in daemon.log.read_text()


def _explore(daemon: Daemon, described: dict[str, Any], token: str) -> None:
    schema = schemathesis.openapi.from_dict(described)
    schema.config.update(base_url=daemon.url)
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        protocol = operation.path.startswith("/oscp/")
        asked += _ask(operation, f"Token {token}" if protocol else f"Bearer {daemon.bearer}")
    assert asked > 100


def _ask(operation: Any, credential: str) -> int:
    """Ask what the description allows, every other time about what is there."""
    asked = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        nonlocal asked
        asked += 1
        case.headers["Authorization"] = credential
        if asked % 2:
            case.path_parameters = dict.fromkeys(case.path_parameters or {}, "1")
        case.validate_response(case.call(), checks=CHECKS)

    ask()
    return asked
