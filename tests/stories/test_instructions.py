"""An operator has an optimizer speak to a provider: what it is told, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from support.daemon import Daemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

ADD = "/solaruser/api/v1/sec/instr/add/OSCP_v20"
VIEW = "/solaruser/api/v1/sec/instr/view"
UPDATE = "update_group_capacity_forecast"
ADJUST = "adjust_group_capacity_forecast"
ERROR = "group_capacity_compliance_error"


@dataclass
class Operator:
    """Somebody with a token; `co_id` is the optimizer in whose name is spoken."""

    daemon: Daemon
    session: aiohttp.ClientSession
    bearer: str
    co_id: int

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.bearer}"}
        url = self.daemon.url + path
        async with self.session.request(method, url, headers=headers, **more) as answer:
            return answer.status, await answer.json()

    async def instructs(self, **parameters: Any) -> dict[str, Any]:
        """Instruct as JSON, a list; return what is told of the instruction."""
        said = {"coId": self.co_id, "cgIdentifier": "my-group", **parameters}
        listed = [{"name": name, "value": value} for name, value in said.items() if value]
        status, answer = await self.ask("POST", ADD, json={"nodeId": 7, "parameters": listed})
        assert status == 200, answer
        data: dict[str, Any] = answer["data"]
        assert data["topic"] == "OSCP_v20"
        return data

    async def state(self, id: int) -> tuple[str, dict[str, str]]:
        status, answer = await self.ask("GET", f"{VIEW}?id={id}")
        assert status == 200, answer
        return answer["data"]["state"], answer["data"]["resultParameters"]

    async def ends(self, id: int) -> tuple[str, dict[str, str]]:
        async def ended() -> bool:
            return (await self.state(id))[0] in ("Completed", "Declined")

        await wait_for(ended, timeout=20)
        return await self.state(id)


@dataclass
class Place:
    operator: Operator
    cp: RecordingPeer
    cp_token: str

    @property
    def daemon(self) -> Daemon:
        return self.operator.daemon


@pytest.fixture
async def place(daemon: Daemon) -> AsyncIterator[Place]:
    """A provider that is online, and an optimizer that has no OSCP of its own."""
    site = await make_site(daemon)
    ((optimizer,),) = [await daemon.manage("GET", "capacity-optimizers")]
    async with RecordingPeer("cp") as cp, aiohttp.ClientSession() as session:
        cp_token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, cp_token)
        operator = Operator(daemon, session, daemon.bearer, optimizer["configId"])
        yield Place(operator, cp, cp_token)


async def test_an_operator_speaks_for_its_optimizer_also_when_we_are_killed(place: Place) -> None:
    operator, wish = place.operator, forecast(9)
    told = await operator.instructs(action="AdjustGroupCapacityForecast", msg=json.dumps(wish))
    assert told["state"] in ("Queuing", "Executing", "Completed")
    heard = await place.cp.hears(ADJUST)
    assert heard.body == wish and "x-correlation-id" not in heard.headers
    known = {"requestId": heard.headers["x-request-id"]}
    assert await operator.ends(told["id"]) == ("Completed", known)

    status, *_ = await place.cp.says(
        place.daemon.url, UPDATE, forecast(), token=place.cp_token, request_id="f-1"
    )
    assert status == 204
    said = {"action": "GroupCapacityComplianceError", "msg": '{"message": "too little"}'}
    told = await operator.instructs(**said, correlationId="f-1")
    heard = await place.cp.hears(ERROR)
    assert (heard.headers["x-correlation-id"], heard.body) == ("f-1", {"message": "too little"})
    assert (await operator.ends(told["id"]))[0] == "Completed"
    await _outlive_us(place, json.dumps(wish))


async def _outlive_us(place: Place, wish: str) -> None:
    operator = place.operator
    place.cp.answers[ADJUST] = [503, 503]
    told = await operator.instructs(action="AdjustGroupCapacityForecast", msg=wish)

    async def refusal_is_written_down() -> bool:
        _, answer = await operator.ask("GET", "/api/v1/messages?state=owed")
        return [message["status"] for message in answer["data"]["results"]] == [503]

    await wait_for(refusal_is_written_down)
    assert (await operator.state(told["id"]))[0] == "Executing"
    await place.daemon.kill()
    await place.daemon.start()
    assert (await operator.ends(told["id"]))[0] == "Completed"

    place.cp.answers[ADJUST] = [400]
    told = await operator.instructs(action="AdjustGroupCapacityForecast", msg=wish)
    state, result = await operator.ends(told["id"])
    assert state == "Declined" and result["error"]
