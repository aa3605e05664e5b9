"""`/api/v1/messages`, `/api/v1/oscp/peers` and `/api/v1/events`: who sees what, and replays."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from web.lookout import NOON, Lookout, a_site, ago, ahead, lookout

MESSAGES = "/api/v1/messages"
UPDATE = "update_group_capacity_forecast"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await a_site(look)
        yield look


async def ask(look: Lookout, path: str, *, user_id: int = 1, post: bool = False) -> tuple[int, Any]:
    headers = {"Authorization": await look.bearer(user_id)}
    call = look.client.post if post else look.client.get
    async with call(path, headers=headers) as answer:
        return answer.status, await answer.json()


async def listed(look: Lookout, query: str = "", *, user_id: int = 1) -> list[dict[str, Any]]:
    status, said = await ask(look, f"{MESSAGES}?{query}", user_id=user_id)
    assert status == 200, said
    found: list[dict[str, Any]] = said["data"]["results"]
    return found


async def message(look: Lookout, request_id: str, **columns: Any) -> int:
    """Add a measurement report to peer 1 that was refused, but for what `columns` say."""
    values = {
        "peer_id": 1,
        "lane": "group:1",
        "operation": "update_group_measurements",
        "request_id": request_id,
        "body": b'{"n": 1}',
        "sealed": False,
        "group_id": 1,
        "forecast_id": None,
        "created_at": ago(hours=2),
        "due_at": ago(hours=2),
        "expires_at": ahead(hours=1),
        "attempts": 3,
        "status": 400,
        "error": "no",
        "settled_at": ago(hours=1),
        "outcome": "refused",
        **columns,
    }
    ((id,),) = await look.sql(
        f"insert into outbox ({', '.join(values)}) values ({', '.join(['%s'] * len(values))}) "
        "returning id",
        *values.values(),
    )
    return int(id)


async def test_a_message_is_shown_whole(look: Lookout) -> None:
    id = await message(look, "m-1", sender_id=2, sender_request_id="theirs", correlation_id="c")
    (found,) = await listed(look, "peer=1")
    expected = {
        "id": id,
        "peerId": 1,
        "role": "CapacityProvider",
        "operation": "update_group_measurements",
        "requestId": "m-1",
        "correlationId": "c",
        "groupId": 1,
        "state": "refused",
        "attempts": 3,
        "status": 400,
        "error": "no",
        "created": "2026-03-12T10:00:00.000Z",
        "due": "2026-03-12T10:00:00.000Z",
        "expires": "2026-03-12T13:00:00.000Z",
        "settled": "2026-03-12T11:00:00.000Z",
        "passesOn": {"peerId": 2, "requestId": "theirs"},
    }
    assert found == expected
    status, said = await ask(look, f"{MESSAGES}/{id}")
    assert (status, said) == (200, {"success": True, "data": {**expected, "body": {"n": 1}}})


async def test_filters_and_pages(look: Lookout) -> None:
    dead = await message(look, "m-1")
    expired = await message(look, "m-2", outcome="expired", created_at=ago(hours=5))
    await message(look, "m-3", outcome="delivered", operation="heartbeat", group_id=None)
    assert [m["id"] for m in await listed(look, "state=dead")] == [expired, dead]
    assert [m["id"] for m in await listed(look, "state=expired")] == [expired]
    assert len(await listed(look, "state=owed&peer=2")) == 3
    assert [m["requestId"] for m in await listed(look, "operation=heartbeat")] == ["m-3"]
    assert {m["id"] for m in await listed(look, "group=1")} == {dead, expired}
    assert [m["id"] for m in await listed(look, "until=2026-03-12T08:00:00Z")] == [expired]
    recent = await listed(look, "since=2026-03-12T12:30:00+01:00")
    assert [m["requestId"] for m in recent] == ["request-2", "request-1", "request-0"]
    assert await listed(look, user_id=2) == []

    everything = [m["id"] for m in await listed(look)]
    paged, query = [], "max=4"
    while query:
        _, said = await ask(look, f"{MESSAGES}?{query}")
        paged += [m["id"] for m in said["data"]["results"]]
        following = said["data"]["next"]
        query = f"max=4&before={following}" if following else ""
    assert paged == everything == sorted(everything, reverse=True)


@pytest.mark.parametrize(
    "query",
    ["peerId=1", "peer=x", "peer=0", "max=0", "max=1001", "state=lost", "since=yesterday",
     "before=-1", "operation=", "operation=%00", "since=0001-01-01T00:00:00%2B23:59",
     "peer=99999999999999999999"],
)  # fmt: skip
async def test_what_cannot_be_asked_is_named(look: Lookout, query: str) -> None:
    name = query.partition("=")[0]
    for path in (MESSAGES, "/api/v1/events"):
        status, said = await ask(look, f"{path}?{query}")
        if path == MESSAGES or name not in ("state", "operation"):
            assert status == 400 and said["message"].startswith(f"query.{name}: "), said
    status, said = await ask(look, f"{MESSAGES}/replay?{query}", post=True)
    # As many as that may be asked for, but not a page of them.
    assert status == 400, said


async def test_a_secret_is_not_shown_neither_before_nor_after_it_was_said(look: Lookout) -> None:
    owed: dict[str, Any] = {"sealed": True, "lane": "link", "operation": "register"}
    waiting = await message(look, "r-1", **owed, outcome=None, settled_at=None)
    said_it = await message(look, "r-2", **owed, body=b"")
    for id in (waiting, said_it):
        _, said = await ask(look, f"{MESSAGES}/{id}")
        assert said["data"]["body"] is None and "not shown" in said["data"]["note"]
    text = await message(look, "m-1", body="näh".encode("latin-1"))
    assert (await ask(look, f"{MESSAGES}/{text}"))[1]["data"]["body"] == "n\ufffdh"


async def test_a_dead_letter_is_owed_again_as_it_was(look: Lookout) -> None:
    refused = await message(look, "m-1")
    expired = await message(look, "m-2", outcome="expired", expires_at=ago(hours=1))
    for id in (refused, expired):
        assert await ask(look, f"{MESSAGES}/{id}/replay", post=True) == (202, {"success": True})
        status, said = await ask(look, f"{MESSAGES}/{id}/replay", post=True)
        assert status == 409 and "still owed" in said["message"]
    rows = await look.sql(
        """
        select request_id, body, attempts, status, error, outcome, settled_at, due_at, expires_at
          from outbox where id in (%s, %s) order by id
        """,
        refused,
        expired,
    )
    again = (b'{"n": 1}', 0, None, None, None, None, NOON)
    # One that expired after an hour gets an hour again.
    assert rows == [("m-1", *again, ahead(hours=1)), ("m-2", *again, ahead(hours=1))]
    assert (
        await look.sql("select kind, user_id, peer_id from event")
        == [("message.replayed", 1, 1)] * 2
    )


async def forecast(look: Lookout, start_at: datetime, end_at: datetime, phase: str = "ALL") -> int:
    block = {"capacity": 1, "unit": "KW", "phase": phase}
    times = {"start_time": start_at.isoformat(), "end_time": end_at.isoformat()}
    said = {"group_id": "g", "type": "CONSUMPTION", "forecasted_blocks": [block | times]}
    ((id,),) = await look.sql(
        """
        insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at)
        values (1, 1, 'f', 'CONSUMPTION', %s, %s, %s) returning id
        """,
        *(json.dumps(said).encode(), NOON, end_at),
    )
    return int(id)


async def test_what_may_not_go_again_says_why(look: Lookout) -> None:
    await look.sql("update peer set link = 'unregistered' where id = 2")
    old = await forecast(look, ago(hours=1), ahead(hours=2))
    apart = await forecast(look, ahead(hours=2), ahead(hours=4))
    await forecast(look, ahead(hours=1), ahead(hours=2))
    said_of: dict[str, Any] = {"operation": UPDATE, "peer_id": 3}
    for why, columns in {
        "delivered": {"outcome": "delivered"},
        "superseded": {"outcome": "superseded"},
        "register first": {"peer_id": 2},
        "last block has ended": {**said_of, "outcome": "expired", "expires_at": ago(seconds=1)},
        "newer forecast": {**said_of, "forecast_id": old, "expires_at": ahead(hours=2)},
        "start the register again": {"sealed": True, "lane": "link", "operation": "register"},
        "start the handshake again": {"lane": "link", "operation": "handshake"},
    }.items():
        id = await message(look, why, **columns)
        status, said = await ask(look, f"{MESSAGES}/{id}/replay", post=True)
        assert status == 409 and why in said["message"], said
    kept = await message(look, "kept", **said_of, forecast_id=apart, expires_at=ahead(hours=4))
    assert (await ask(look, f"{MESSAGES}/{kept}/replay", post=True))[0] == 202
    for unknown in (f"{kept + 999}", "x", "9" * 30):
        assert (await ask(look, f"{MESSAGES}/{unknown}/replay", post=True))[0] == 404
        assert (await ask(look, f"{MESSAGES}/{unknown}"))[0] == 404
    assert (await ask(look, f"{MESSAGES}/{kept}", user_id=2))[0] == 404
    foreign = await message(look, "foreign", peer_id=1)
    assert (await ask(look, f"{MESSAGES}/{foreign}/replay", user_id=2, post=True))[0] == 404


async def test_many_go_again_and_the_rest_is_counted(look: Lookout) -> None:
    for n in range(3):
        await message(look, f"m-{n}")
    await message(look, "h", lane="link", operation="handshake")
    others = await message(look, "other", peer_id=3)
    assert (await ask(look, f"{MESSAGES}/replay?peer=1&max=10", user_id=2, post=True))[1] == {
        "success": True,
        "data": {"replayed": 0, "refused": []},
    }
    status, said = await ask(look, f"{MESSAGES}/replay?peer=1", post=True)
    assert status == 202
    assert said["data"]["replayed"] == 3
    assert [entry["messages"] for entry in said["data"]["refused"]] == [1]
    assert [m["id"] for m in await listed(look, "state=dead&peer=3")] == [others]
    status, said = await ask(look, f"{MESSAGES}/replay?state=delivered", post=True)
    assert status == 400 and "state" in said["message"]


async def test_peers_say_how_they_are(look: Lookout) -> None:
    await look.sql("update peer set link = 'broken', trouble = 'it refuses us' where id = 2")
    await message(look, "m-1", peer_id=2)
    status, said = await ask(look, "/api/v1/oscp/peers")
    assert status == 200
    assert [peer["id"] for peer in said["data"]] == [1, 2, 3]
    assert said["data"][1] == {
        "id": 2,
        "role": "CapacityProvider",
        "name": "Stadtwerke",
        "enabled": True,
        "link": "broken",
        "since": "2026-03-12T11:48:00.000Z",
        "reason": "it refuses us",
        "lastHeard": "2026-03-12T11:45:00.000Z",
        "offlineModeAt": None,
        "heartbeatInterval": None,
        "waiting": 3,
        "dead": 1,
    }
    assert [p["id"] for p in (await ask(look, "/api/v1/oscp/peers", user_id=2))[1]["data"]] == [4]
    page = (await look.get("/"))[1]
    assert "it refuses us: let it shake hands or register again" in page and "1 dead" in page


async def test_events_are_looked_through(look: Lookout) -> None:
    for n, (user_id, kind, peer_id, group_id) in enumerate(
        [(1, "peer.online", 1, None), (1, "forecast.told", 1, 1), (2, "peer.online", 4, None),
         (1, "peer.broken", 2, None), (None, "daemon.thing", None, None)]
    ):  # fmt: skip
        await look.sql(
            "insert into event (user_id, at, kind, peer_id, group_id) values (%s, %s, %s, %s, %s)",
            *(user_id, NOON + timedelta(minutes=n), kind, peer_id, group_id),
        )

    async def kinds(query: str, user_id: int = 1) -> list[str]:
        _, said = await ask(look, f"/api/v1/events?{query}", user_id=user_id)
        return [event["kind"] for event in said["data"]["results"]]

    assert await kinds("") == ["peer.broken", "forecast.told", "peer.online"]
    assert await kinds("", user_id=2) == ["peer.online"]
    assert await kinds("kind=peer.") == ["peer.broken", "peer.online"]
    assert await kinds("kind=peer") == []
    assert await kinds("kind=peer.online") == ["peer.online"]
    assert await kinds("peer=2") == ["peer.broken"]
    assert await kinds("group=1") == ["forecast.told"]
    assert await kinds("since=2026-03-12T12:01:00Z&until=2026-03-12T12:03:00Z") == ["forecast.told"]
    _, said = await ask(look, "/api/v1/events?max=2")
    assert await kinds(f"before={said['data']['next']}") == ["peer.online"]
    _, said = await look.get_json(
        "/api/v1/events?max=2", Authorization=await look.bearer(2, admin=True)
    )
    assert [event["kind"] for event in said["data"]["results"]] == ["daemon.thing", "peer.online"]


@pytest.mark.parametrize("path", [MESSAGES, "/api/v1/oscp/peers", "/api/v1/events"])
async def test_nobody_looks_without_a_token(look: Lookout, path: str) -> None:
    assert (await look.get(path))[0] == 401
    assert (await look.get(path, Authorization="Bearer guessed"))[0] == 401
