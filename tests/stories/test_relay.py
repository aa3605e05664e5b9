"""What an optimizer wishes, or cannot keep, reaches the provider under the provider's own id."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from support.daemon import Daemon, Site, make_site
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

UPDATE = "update_group_capacity_forecast"
ADJUST = "adjust_group_capacity_forecast"
ERROR = "group_capacity_compliance_error"
CANNOT = {"message": "the base load is higher"}


@dataclass
class Neighbourhood:
    """One provider and one optimizer, online, and their tokens."""

    daemon: Daemon
    site: Site
    cp: RecordingPeer
    co: RecordingPeer
    cp_token: str
    co_token: str

    async def cp_says(self, operation: str, body: Any, **more: Any) -> int:
        return (await self.cp.says(self.daemon.url, operation, body, token=self.cp_token, **more))[
            0
        ]

    async def co_says(self, operation: str, body: Any, **more: Any) -> int:
        return (await self.co.says(self.daemon.url, operation, body, token=self.co_token, **more))[
            0
        ]

    async def forwarded(self, request_id: str) -> str:
        """Have the provider send a forecast; return the id under which the optimizer has it."""
        before = len(self.co.of(UPDATE))
        assert await self.cp_says(UPDATE, forecast(), request_id=request_id) == 204
        return (await self.co.hears(UPDATE, before + 1)).headers["x-request-id"]

    async def refusal_is_written_down(self) -> bool:
        headers = {"Authorization": f"Bearer {self.daemon.bearer}"}
        url = f"{self.daemon.url}/api/v1/messages?state=owed"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            owed = (await answer.json())["data"]
        return [message["status"] for message in owed["results"]] == [503]


@pytest.fixture
async def all_online(daemon: Daemon) -> AsyncIterator[Neighbourhood]:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        co_token = await co.registers(daemon.url, site.optimizer_token)
        await co.acknowledges(daemon.url, co_token)
        cp_token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, cp_token)
        yield Neighbourhood(daemon, site, cp, co, cp_token, co_token)


async def test_a_compliance_error_names_the_providers_own_forecast(
    all_online: Neighbourhood,
) -> None:
    known_as = await all_online.forwarded("f-1")
    assert known_as != "f-1"
    impossible = CANNOT | {"forecasted_blocks": forecast()["forecasted_blocks"]}
    status = await all_online.co_says(
        ERROR, impossible, request_id="ce-1", X_Correlation_ID=known_as
    )
    assert status == 204
    heard = await all_online.cp.hears(ERROR)
    assert heard.headers["x-correlation-id"] == "f-1"
    assert heard.headers["x-request-id"] not in ("ce-1", "f-1", known_as)
    assert heard.body == impossible
    assert heard.token == all_online.cp.of("handshake_acknowledge")[0].token


async def test_a_wish_and_its_answer_are_correlated_on_both_sides(
    all_online: Neighbourhood,
) -> None:
    known_as = await all_online.forwarded("f-1")
    wish = forecast(9)
    assert (
        await all_online.co_says(ADJUST, wish, request_id="wish-1", X_Correlation_ID=known_as)
        == 204
    )
    heard = await all_online.cp.hears(ADJUST)
    assert (heard.headers["x-correlation-id"], heard.body) == ("f-1", wish)

    answer = {"X_Correlation_ID": heard.headers["x-request-id"]}
    assert await all_online.cp_says(UPDATE, forecast(9), request_id="f-2", **answer) == 204
    granted = await all_online.co.hears(UPDATE, 2)
    assert granted.headers["x-correlation-id"] == "wish-1"
    assert granted.headers["x-request-id"] != "f-2"


async def test_a_wish_needs_no_correlation(all_online: Neighbourhood) -> None:
    assert await all_online.co_says(ADJUST, forecast(7)) == 204
    assert await all_online.co_says(ADJUST, forecast(8), X_Correlation_ID="whatever") == 204
    for number in (1, 2):
        heard = await all_online.cp.hears(ADJUST, number)
        assert "x-correlation-id" not in heard.headers


async def test_what_cannot_be_passed_on_is_refused(all_online: Neighbourhood) -> None:
    known_as = await all_online.forwarded("f-1")
    knows = {"X_Correlation_ID": known_as}
    backwards = forecast()
    block = backwards["forecasted_blocks"][0]
    block["start_time"], block["end_time"] = block["end_time"], block["start_time"]
    assert await all_online.co_says(ERROR, CANNOT) == 400
    assert await all_online.co_says(ERROR, CANNOT, X_Correlation_ID="f-1") == 400
    assert await all_online.co_says(ERROR, {"forecasted_blocks": []}, **knows) == 400
    assert await all_online.co_says(ERROR, CANNOT | {"forecasted_blocks": []}, **knows) == 400
    assert await all_online.co_says(ADJUST, backwards) == 400
    assert await all_online.co_says(ADJUST, forecast(group_id="nobody's")) == 404
    assert await all_online.cp_says(ADJUST, forecast()) == 403
    assert await all_online.cp_says(ERROR, CANNOT, X_Correlation_ID="f-1") == 403
    # Only what comes now gets through, and once.
    for _ in range(2):
        assert await all_online.co_says(ERROR, CANNOT, request_id="ce", **knows) == 204
    assert await all_online.co_says(ADJUST, forecast(5)) == 204
    assert (await all_online.cp.hears(ADJUST)).body["forecasted_blocks"][0]["capacity"] == 5
    assert len(all_online.cp.of(ERROR)) == len(all_online.cp.of(ADJUST)) == 1


async def test_an_optimizer_shakes_hands_before_it_complains(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("co") as co:
        token = await co.registers(daemon.url, site.optimizer_token)
        status, said, _ = await co.says(daemon.url, ADJUST, forecast(), token=token)
        assert status == 403 and "shake hands" in said["message"]


async def test_an_accepted_complaint_survives_us_and_the_providers_absence(
    all_online: Neighbourhood,
) -> None:
    known_as = await all_online.forwarded("f-1")
    cp, daemon = all_online.cp, all_online.daemon
    cp.answers[ERROR] = [503, 503]
    assert await all_online.co_says(ERROR, CANNOT, X_Correlation_ID=known_as) == 204
    await cp.hears(ERROR)
    # What was under way when we died would have to wait for its lease to end.
    await wait_for(all_online.refusal_is_written_down)
    await daemon.kill()
    await daemon.start()
    delivered = await cp.hears(ERROR, 3, within_s=45)
    ids = {heard.headers["x-request-id"] for heard in cp.of(ERROR)}
    assert len(ids) == 1 and delivered.headers["x-correlation-id"] == "f-1"


@pytest.mark.parametrize("side", ["provider", "optimizer"])
async def test_a_switch_keeps_the_senders_id(all_online: Neighbourhood, side: str) -> None:
    await _switch_on(all_online.daemon, f"capacity-{side}s")
    assert await all_online.forwarded("f-1") == "f-1"
    assert await all_online.co_says(ERROR, CANNOT, request_id="ce-1", X_Correlation_ID="f-1") == 204
    heard = await all_online.cp.hears(ERROR)
    assert heard.headers["x-request-id"] == "ce-1"
    assert heard.headers["x-correlation-id"] == "f-1"


async def test_an_id_that_the_optimizer_has_seen_is_not_used_again(
    all_online: Neighbourhood,
) -> None:
    """Two providers count their messages from 1; the optimizer must not take them for one."""
    daemon = all_online.daemon
    other = await daemon.manage(
        "POST",
        "capacity-providers",
        {"name": "Other", "enabled": True, "serviceProps": {"forward-request-id": True}},
    )
    group = await daemon.manage("GET", f"capacity-groups/{all_online.site.group_id}")
    group |= {"identifier": "other-group", "capacityProviderId": other["configId"]}
    await daemon.manage("POST", "capacity-groups", group)
    await _switch_on(daemon, "capacity-providers")
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, other["token"])
        await cp.shakes_hands(daemon.url, token)
        assert await all_online.forwarded("1") == "1"
        said = forecast(4, group_id="other-group")
        status, _, _ = await cp.says(daemon.url, UPDATE, said, token=token, request_id="1")
        assert status == 204
        second = await all_online.co.hears(UPDATE, 2)
        assert second.body == said
        assert second.headers["x-request-id"] != "1"
        correlation = {"X_Correlation_ID": second.headers["x-request-id"]}
        assert await all_online.co_says(ERROR, CANNOT, **correlation) == 204
        assert (await cp.hears(ERROR)).headers["x-correlation-id"] == "1"
        assert all_online.cp.of(ERROR) == []


async def _switch_on(daemon: Daemon, entities: str) -> None:
    entity = (await daemon.manage("GET", entities))[0]
    entity["serviceProps"] = {"forward-request-id": True}
    await daemon.manage("PUT", f"{entities}/{entity['configId']}", entity)
