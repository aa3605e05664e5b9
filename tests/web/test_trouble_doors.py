"""What cannot be kept, as an operator sees it: by HTTP, at a terminal, on the status page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import pytest
from web.lookout import NOON, Lookout, a_site, ago, ahead, lookout

TROUBLES = "/api/v1/oscp/capacity-groups/1/troubles"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await a_site(look)
        yield look


async def trouble(look: Lookout, block: int, **more: Any) -> None:
    values: dict[str, Any] = {
        "group_id": 1, "forecast_id": 7, "peer_id": 1, "block": block, "reason": "ramp-too-slow",
        "direction": "export", "start_at": ago(hours=1), "end_at": ahead(hours=1),
        "power_w": 1500, "by_w": 500, "since": ago(hours=2), "last_at": NOON,
        "settled_at": ago(hours=2), **more,
    }  # fmt: skip
    await look.sql(
        f"insert into compliance ({', '.join(values)}) "
        f"values ({', '.join(['%s'] * len(values))}) returning id",
        *values.values(),
    )


async def ask(look: Lookout, path: str, user_id: int = 1) -> tuple[int, Any]:
    return await look.get_json(path, Authorization=await look.bearer(user_id))


async def test_what_cannot_be_kept_is_listed_newest_first_page_by_page(look: Lookout) -> None:
    await trouble(look, 0, cleared_at=ago(minutes=1))
    await trouble(look, 1)
    await trouble(look, 2, told_as="told")
    status, said = await ask(look, f"{TROUBLES}?max=1")
    assert status == 200
    (newest,) = said["data"]["results"]
    assert newest | {"id": 0} == {
        "id": 0, "forecastId": 7, "requestId": None, "peerId": 1, "block": 2,
        "reason": "ramp-too-slow", "direction": "export", "from": at(ago(hours=1)),
        "until": at(ahead(hours=1)), "powerW": 1500, "byW": 500, "since": at(ago(hours=2)),
        "last": at(NOON), "settled": True, "told": {"requestId": "told", "state": None},
        "asked": None, "cleared": None,
    }  # fmt: skip
    _, said = await ask(look, f"{TROUBLES}?before={said['data']['next']}")
    assert [one["block"] for one in said["data"]["results"]] == [1]
    _, said = await ask(look, f"{TROUBLES}?state=all")
    assert [one["block"] for one in said["data"]["results"]] == [2, 1, 0]
    assert (await ask(look, f"{TROUBLES}?state=some"))[0] == 400
    assert (await ask(look, TROUBLES, user_id=2))[0] == 404, "own user's only"


def at(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_the_status_page_says_it_in_a_line_for_each_reason(look: Lookout) -> None:
    await trouble(look, 0, by_w=20)
    await trouble(look, 1, told_as="told")
    await trouble(look, 2, reason="device-gone", settled_at=None)
    status, page = await look.get("/")
    assert status == 200
    assert "cannot keep 2 blocks of its export limit" in page
    assert "a unit cannot change its power fast enough (its provider was told)" in page
    assert "a device does not answer or does not follow (" not in page, "that may be a flicker"
    _, said = await look.get_json("/api/v1/status")
    assert [(one["block"], one["byW"]) for one in said["troubles"]] == [(1, 500), (0, 20)]
