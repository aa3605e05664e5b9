"""`…/adjust-forecast` and `…/compliance-error`: what an operator says to a group's provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from web.lookout import NOON, Lookout, a_site, ago, ahead, lookout
from web.test_group_doors import block, forecast

GROUP = "/api/v1/oscp/capacity-groups/1"
ADJUST, ERROR = f"{GROUP}/adjust-forecast", f"{GROUP}/compliance-error"
HOUR = block(3, NOON, ahead(hours=1))
WISH = {"type": "CONSUMPTION", "blocks": [HOUR]}


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await a_site(look)
        yield look


async def say(
    look: Lookout, path: str, body: Any, *, user_id: int = 1, request_id: str | None = None
) -> tuple[int, Any]:
    headers = {"Authorization": await look.bearer(user_id)}
    if request_id is not None:
        headers["X-Request-ID"] = request_id
    async with look.client.post(path, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


async def owed(look: Lookout) -> list[tuple[Any, ...]]:
    return await look.sql(
        """
        select id, peer_id, lane, operation, request_id, correlation_id, convert_from(body, 'UTF8'),
               group_id, expires_at
          from outbox where operation in ('adjust_group_capacity_forecast',
                                          'group_capacity_compliance_error') order by id
        """
    )


async def kinds(look: Lookout) -> list[tuple[Any, ...]]:
    return await look.sql("select kind, peer_id, group_id, data from event order by id")


async def test_a_wish_is_owed_to_the_groups_provider_and_can_be_followed(look: Lookout) -> None:
    status, said = await say(look, ADJUST, WISH)
    assert status == 202, said
    (
        (id, peer_id, lane, operation, request_id, correlation_id, body, group_id, expires),
    ) = await owed(look)
    assert said["data"] == {
        "messageId": id,
        "requestId": request_id,
        "correlationId": None,
        "peerId": 1,
    }
    assert (peer_id, lane, group_id, correlation_id) == (1, "group:1", 1, None)
    assert operation == "adjust_group_capacity_forecast" and expires == ahead(hours=24)
    assert json.loads(body) == {
        "group_id": "depot",
        "type": "CONSUMPTION",
        "forecasted_blocks": [HOUR],
    }
    wished = {"type": "CONSUMPTION", "by": "operator"}
    assert await kinds(look) == [("forecast.adjustment_wished", 1, 1, wished)]
    path = f"/api/v1/messages/{id}"
    status, shown = await look.get_json(path, Authorization=await look.bearer(1))
    assert (status, shown["data"]["state"]) == (200, "owed")
    assert shown["data"]["body"]["forecasted_blocks"] == [HOUR]


async def test_a_complaint_names_the_providers_own_forecast(look: Lookout) -> None:
    mine = await forecast(look, "cp-7", HOUR, received_at=ago(hours=1))
    wish = await forecast(look, "co-7", HOUR, type="OPTIMUM", peer_id=3)
    late = block(1, ahead(hours=47), ahead(hours=48))
    for named in ({"requestId": "cp-7"}, {"forecastId": mine}):
        status, said = await say(look, ERROR, {"message": "too low", "blocks": [late], **named})
        assert (status, said["data"]["correlationId"]) == (202, "cp-7"), said
    for row in await owed(look):
        assert (row[1], row[5], row[8]) == (1, "cp-7", ahead(hours=48))
        assert json.loads(row[6]) == {"message": "too low", "forecasted_blocks": [late]}
    assert (await say(look, ERROR, {"message": "m", "forecastId": mine}))[0] == 202
    assert json.loads((await owed(look))[-1][6]) == {"message": "m"}
    for named in (
        {},
        {"requestId": "co-7"},
        {"forecastId": wish},
        {"forecastId": 99},
        {"requestId": "cp-7", "forecastId": wish},
    ):
        status, said = await say(look, ERROR, {"message": "m", **named})
        assert status == 400 and ("requestId" in said["message"] or "forecastId" in said["message"])
    assert len(await owed(look)) == 3


async def test_the_same_id_owes_the_same_once(look: Lookout) -> None:
    answers = await asyncio.gather(*(say(look, ADJUST, WISH, request_id="mine-1") for _ in "abc"))
    assert [status for status, _ in answers] == [202] * 3
    assert len({said["data"]["messageId"] for _, said in answers}) == 1
    assert answers[0][1]["data"]["requestId"] == "mine-1"
    assert len(await owed(look)) == len(await kinds(look)) == 1
    other = {**WISH, "type": "GENERATION"}
    assert (await say(look, ADJUST, other, request_id="mine-1"))[0] == 409
    assert (await say(look, ADJUST, other, request_id="mine-2"))[0] == 202
    assert (await say(look, ADJUST, WISH, request_id="x" * 256))[0] == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ADJUST, {}),
        (ADJUST, []),
        (ADJUST, {**WISH, "blocks": []}),
        (ADJUST, {**WISH, "type": "OPTIMAL"}),
        (ADJUST, {**WISH, "blocks": [HOUR, HOUR]}),
        (ADJUST, {**WISH, "blocks": [{**HOUR, "end_time": HOUR["start_time"]}]}),
        (ADJUST, {**WISH, "blocks": [{**HOUR, "capacity": -1}]}),
        (ADJUST, {**WISH, "forecastId": 0}),
        (ERROR, {"message": "", "requestId": "x"}),
        (ERROR, {"message": "\0", "requestId": "x"}),
        (ERROR, {"message": "m" * 4097, "requestId": "x"}),
    ],
)
async def test_what_cannot_be_meant_is_refused(look: Lookout, path: str, body: Any) -> None:
    status, said = await say(look, path, body)
    assert (status, list(said)) == (400, ["message"]), said
    assert await owed(look) == [] and await kinds(look) == []


async def test_nobody_is_told_who_cannot_be(look: Lookout) -> None:
    for change in (
        "update peer set link = 'provisioned' where id = 1",
        "update peer set link = 'unregistered' where id = 1",
        "update peer set link = 'failed' where id = 1",
        "update peer set link = 'online', base_url = null where id = 1",
        "update peer set base_url = 'https://cp', enabled = false where id = 1",
    ):
        await look.sql(change)
        assert (await say(look, ADJUST, WISH))[0] == 409, change
    await look.sql("update peer set enabled = true, link = 'broken' where id = 1")
    await look.sql("update capacity_group set enabled = false where id = 1")
    assert (await say(look, ADJUST, WISH))[0] == 409
    await look.sql("update capacity_group set enabled = true where id = 1")
    assert await owed(look) == []
    assert (await say(look, ADJUST, WISH))[0] == 202, "it waits until the link is well again"


async def test_nobody_speaks_for_others(look: Lookout) -> None:
    for path, body in ((ADJUST, WISH), (ERROR, {"message": "m", "requestId": "x"})):
        assert (await say(look, path, body, user_id=2))[0] == 404
        async with look.client.post(path, json=body) as answer:
            assert answer.status == 401
    assert await owed(look) == []
