from __future__ import annotations

from typing import Any

import pytest
from sim.conftest import Start
from sim.provider import FIRST_TOKEN, TinyProvider
from sim.talk import now

from fpd.sim.capacity_optimizer import CapacityOptimizer, CapacityOptimizerOptions

BLOCK = {
    "capacity": 4,
    "phase": "ALL",
    "unit": "KW",
    "start_time": "2030-03-10T12:00:00Z",
    "end_time": "2030-03-10T13:00:00Z",
}


def limit(kind: str) -> dict[str, Any]:
    return {"group_id": "north", "type": kind, "forecasted_blocks": [BLOCK]}


@pytest.fixture
async def co(start: Start, fp: TinyProvider) -> CapacityOptimizer:
    """An optimizer that has registered; the provider has not shaken hands yet."""
    options = CapacityOptimizerOptions(fp_url=fp.own_url, token=FIRST_TOKEN)
    peer = CapacityOptimizer(options, clock=now)
    await start(peer)
    assert await peer.changes.until(lambda: peer.link.state == "registered", 5)
    return peer


async def shake(fp: TinyProvider, co: CapacityOptimizer, request_id: str = "h-1") -> None:
    behaviour = {"heartbeat_interval": 1, "measurement_configuration": []}
    body = {"required_behaviour": behaviour}
    assert (await fp.send("handshake", body, request_id=request_id))[0] == 204
    assert await co.changes.until(lambda: co.fp.sent["handshake_acknowledge"] == 1, 5)


async def test_it_accepts_a_handshake_then_acknowledges_it_and_sends_heartbeats(
    fp: TinyProvider, co: CapacityOptimizer
) -> None:
    assert (await fp.send("update_group_capacity_forecast", limit("CONSUMPTION")))[0] == 403
    await shake(fp, co)
    ((headers, acknowledge),) = fp.messages("handshake_acknowledge")
    assert headers["X-Correlation-ID"] == "h-1"
    assert acknowledge["required_behaviour"]["heartbeat_interval"] == 60
    assert co.state()["link"] == "online"
    assert await co.changes.until(lambda: co.fp.sent["heartbeat"] >= 1, 3)


async def test_every_limit_is_answered_with_an_optimum_below_it(
    fp: TinyProvider, co: CapacityOptimizer
) -> None:
    await shake(fp, co)
    for kind in ("CONSUMPTION", "FALLBACK_CONSUMPTION", "GENERATION"):
        operation = "update_group_capacity_forecast"
        assert (await fp.send(operation, limit(kind), request_id=kind))[0] == 204
    assert await co.changes.until(lambda: co.fp.sent["update_group_capacity_forecast"] == 2, 5)
    optima = fp.messages("update_group_capacity_forecast")
    assert [headers["X-Correlation-ID"] for headers, _ in optima] == ["CONSUMPTION", "GENERATION"]
    assert optima[0][1] == {
        "group_id": "north",
        "type": "OPTIMUM",
        "forecasted_blocks": [{**BLOCK, "capacity": 2.0}],
    }
    assert (await fp.send("update_group_capacity_forecast", limit("OPTIMUM")))[0] == 400


async def test_quirks_of_an_optimizer(fp: TinyProvider, co: CapacityOptimizer) -> None:
    co.switchboard.change({"refuse_handshake": True})
    assert (await fp.send("handshake", {}))[0] == 400
    co.switchboard.change({"refuse_handshake": False, "empty_ack": True, "no_correlation": True})
    await shake(fp, co)
    ((headers, acknowledge),) = fp.messages("handshake_acknowledge")
    assert acknowledge == {} and "X-Correlation-ID" not in headers
    co.switchboard.change({"answers_optimum": False})
    assert (await fp.send("update_group_capacity_forecast", limit("GENERATION")))[0] == 204
    assert co.fp.sent["update_group_capacity_forecast"] == 0


async def test_an_optimizer_may_shake_hands_itself(fp: TinyProvider, co: CapacityOptimizer) -> None:
    told = await co.actions["handshake"]({})
    assert (told["status"], told["link"]) == (204, "online")
