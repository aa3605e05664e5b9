"""`…/pause` and `…/resume`: an operator takes a peer or a group out of service, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from web.lookout import NOON, Lookout, a_site, ahead, lookout
from web.test_group_doors import block, forecast

OSCP = "/api/v1/oscp"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await a_site(look)
        yield look


async def post(look: Lookout, path: str, *, user_id: int = 1) -> int:
    headers = {"Authorization": await look.bearer(user_id)}
    async with look.client.post(f"{OSCP}/{path}", headers=headers) as answer:
        return answer.status


async def events(look: Lookout) -> list[tuple[Any, ...]]:
    return await look.sql("select kind, user_id, peer_id, group_id from event order by id")


async def test_a_peer_is_paused_and_resumed_once(look: Lookout) -> None:
    await look.sql("insert into lane (peer_id, name, due_at) values (1, 'l', %s)", ahead(hours=1))
    for door, enabled in (("pause", False), ("pause", False), ("resume", True), ("resume", True)):
        assert await post(look, f"capacity-providers/1/{door}") == 202
        peers = (await look.get_json(f"{OSCP}/peers", Authorization=await look.bearer(1)))[1]
        assert [peer["enabled"] for peer in peers["data"]] == [enabled, True, True]
    assert await events(look) == [("peer.paused", 1, 1, None), ("peer.resumed", 1, 1, None)]
    assert await look.sql("select due_at from lane") == [(NOON,)], "what waited goes now"


async def test_a_group_is_paused_and_resumed_once(look: Lookout) -> None:
    await look.sql("insert into control_due values (1, %s)", ahead(seconds=9))
    for door, enabled in (("pause", False), ("pause", False), ("resume", True), ("resume", True)):
        assert await post(look, f"capacity-groups/1/{door}") == 202
        assert await look.sql("select enabled from capacity_group order by id") == [
            (enabled,),
            (True,),
        ]
        assert await look.sql("select due_at from control_due") == [(NOON,)], "control looks now"
    assert await events(look) == [("group.paused", 1, None, 1), ("group.resumed", 1, None, 1)]


async def test_an_optimizer_is_told_what_it_missed(look: Lookout) -> None:
    await look.sql("update capacity_group set optimizer_id = 3 where id = 1")
    assert await post(look, "capacity-optimizers/3/pause") == 202
    said = await forecast(look, "f-1", block(3, NOON, ahead(hours=1)))
    assert await look.sql("select from outbox where peer_id = 3") == []
    assert await post(look, "capacity-optimizers/3/resume") == 202
    assert await look.sql("select forecast_id from outbox where peer_id = 3") == [(said,)]


async def test_nobody_pauses_what_is_not_theirs(look: Lookout) -> None:
    for path in ("capacity-providers/1", "capacity-groups/1"):
        for door in ("pause", "resume"):
            assert await post(look, f"{path}/{door}", user_id=2) == 404
            async with look.client.post(f"{OSCP}/{path}/{door}") as answer:
                assert answer.status == 401
    assert await post(look, "capacity-optimizers/1/pause") == 404, "it is a provider"
    assert await post(look, "capacity-groups/99/pause") == 404
    assert await events(look) == []
