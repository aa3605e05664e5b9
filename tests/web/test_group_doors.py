"""`/api/v1/oscp/capacity-groups/{id}/…`: what was in force, why, what it did, what is planned."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from psycopg.types.json import Jsonb
from web.lookout import NOON, Lookout, a_site, add_device, ago, ahead, lookout

GROUP = "/api/v1/oscp/capacity-groups/1"
DOORS = ("explain", "forecasts", "envelopes", "envelopes?hours=24", "forecasts?view=inforce")


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await a_site(look)
        await look.sql("delete from envelope")
        yield look


async def ask(look: Lookout, path: str, *, user_id: int = 1) -> tuple[int, Any]:
    return await look.get_json(path, Authorization=await look.bearer(user_id))


async def data(look: Lookout, what: str) -> Any:
    status, said = await ask(look, f"{GROUP}/{what}")
    assert status == 200, said
    assert said["success"] is True
    return said["data"]


def block(kw: float, start_at: datetime, end_at: datetime, phase: str = "ALL") -> dict[str, Any]:
    start, end = (at.isoformat().replace("+00:00", "Z") for at in (start_at, end_at))
    return {"capacity": kw, "phase": phase, "unit": "KW", "start_time": start, "end_time": end}


async def forecast(
    look: Lookout,
    request_id: str,
    *said: dict[str, Any],
    type: str = "CONSUMPTION",
    peer_id: int = 1,
    received_at: datetime = NOON,
) -> int:
    body = {"group_id": "depot", "type": type, "forecasted_blocks": said}
    ends = max(datetime.fromisoformat(one["end_time"]) for one in said)
    ((id,),) = await look.sql(
        """
        insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at)
        values (1, %s, %s, %s, %s, %s, %s) returning id
        """,
        *(peer_id, request_id, type, json.dumps(body).encode(), received_at, ends),
    )
    return int(id)


async def envelope(look: Lookout, from_at: datetime, reason: str = "forecast", **more: Any) -> int:
    values = {
        "group_id": 1,
        "from_at": from_at,
        "min_w": None,
        "max_w": 5000,
        "optimum_w": None,
        "reason": reason,
        "forecast_ids": [],
        **more,
    }
    ((id,),) = await look.sql(
        f"insert into envelope ({', '.join(values)}) values ({', '.join(['%s'] * len(values))}) "
        "returning id",
        *values.values(),
    )
    return int(id)


async def command(
    look: Lookout, device: str, envelope_id: int | None, sent_at: datetime, **more: Any
) -> int:
    """Add a setpoint that was confirmed two seconds later, but for what `more` says."""
    values = {
        "device": device,
        "group_id": 1,
        "envelope_id": envelope_id,
        "wanted": Jsonb({"kind": "setpoint", "power_w": more.pop("power_w", 500)}),
        "sent_at": sent_at,
        "settled_at": sent_at + timedelta(seconds=2),
        "outcome": "confirmed",
        **more,
    }
    ((id,),) = await look.sql(
        f"insert into device_command ({', '.join(values)}) "
        f"values ({', '.join(['%s'] * len(values))}) returning id",
        *values.values(),
    )
    return int(id)


def at(instant: datetime) -> str:
    return quote(instant.isoformat())


async def test_an_instant_is_explained_from_the_message_to_the_device(look: Lookout) -> None:
    covering = block(3, ago(hours=2), ago(hours=1))
    said = await forecast(
        look, "f-1", covering, block(9, ago(hours=1), NOON), received_at=ago(hours=3)
    )
    wish = block(1, ago(hours=2), ago(hours=1))
    await forecast(look, "w-0", wish, type="OPTIMUM", peer_id=3, received_at=ago(hours=2.5))
    w_1 = await forecast(look, "w-1", wish, type="OPTIMUM", peer_id=3, received_at=ago(hours=2))
    late = {"peer_id": 3, "received_at": ago(hours=1.2)}
    await forecast(look, "w-2", wish, type="OPTIMUM", **late)
    before = await envelope(look, ago(hours=4), "none", max_w=None)
    held = await envelope(look, ago(hours=2), max_w=3000, optimum_w=1000, forecast_ids=[said])
    await envelope(look, ago(hours=1), max_w=9000, forecast_ids=[said])
    await look.sql("update device_state set group_id = 1 where name = 'cellar'")
    earlier = await command(look, "cellar", before, ago(hours=3), power_w=1)
    sent = await command(look, "cellar", held, ago(hours=2), power_w=2)
    again = await command(look, "cellar", held, ago(hours=1.1), settled_at=None, outcome=None)
    gone = await command(look, "heater", held, ago(hours=1.9), outcome="refused", detail="no")
    found = await data(look, f"explain?at={at(ago(hours=1.5))}")
    assert found["envelope"] == {
        "id": held,
        "since": "2026-03-12T10:00:00.000Z",
        "until": "2026-03-12T11:00:00.000Z",
        "expectedUntil": None,
        "minW": None,
        "maxW": 3000,
        "optimumW": 1000,
        "reason": "forecast",
        "forecastIds": [said],
        "phases": [],
    }
    limit, wished = found["forecasts"]
    assert limit == {
        "id": said,
        "type": "CONSUMPTION",
        "peerId": 1,
        "peerName": "Lines Co.",
        "requestId": "f-1",
        "correlationId": None,
        "received": "2026-03-12T09:00:00.000Z",
        "blocks": [covering],
        "endedBlocks": [],
    }
    assert (wished["id"], wished["requestId"], wished["blocks"]) == (w_1, "w-1", [wish])
    cellar, heater = found["devices"]
    assert [(one["id"], one["outcome"]) for one in cellar["commands"]] == [
        (sent, "confirmed"),
        (again, None),
    ]
    assert cellar["commands"][0]["wanted"] == {"kind": "setpoint", "power_w": 2}
    assert cellar["standing"]["id"] == cellar["followed"]["id"] == sent
    assert cellar["now"]["confirmed"] == {"kind": "setpoint", "power_w": 500}
    assert cellar["now"]["confirmedAt"] == "2026-03-12T11:59:54.000Z"
    assert heater["commands"] == [heater["standing"]] and heater["standing"]["id"] == gone
    assert (heater["followed"], heater["now"]) == (None, None)
    assert heater["standing"]["detail"] == "no"
    assert "the provider's forecast counted" in found["note"]
    assert (found["identifier"], found["at"]) == ("depot", "2026-03-12T10:30:00.000Z")
    assert found["moreCommands"] is False
    one = await data(look, f"explain?max=1&at={at(ago(hours=1.12))}")
    assert [c["id"] for d in one["devices"] for c in d["commands"]] == [again], "the nearest"
    assert one["moreCommands"] is True
    first = await data(look, f"explain?at={at(ago(hours=2.5))}")
    assert first["envelope"]["id"] == before and first["forecasts"] == []
    assert [d["standing"]["id"] for d in first["devices"]] == [earlier]


async def test_the_ends_of_an_envelope_belong_to_the_next(look: Lookout) -> None:
    first = await envelope(look, ago(hours=2))
    await envelope(look, ago(hours=1), max_w=1)
    same_instant = await envelope(look, ago(hours=1), max_w=2)
    await look.sql("insert into control_due values (1, %s, null, %s)", NOON, ahead(hours=1))
    for instant, id in (
        (ago(hours=2), first),
        (ago(hours=1, microseconds=1), first),
        (ago(hours=1), same_instant),
    ):
        found = await data(look, f"explain?at={at(instant)}")
        assert found["envelope"]["id"] == id, instant
    now = (await data(look, "explain"))["envelope"]
    assert (now["id"], now["until"]) == (same_instant, None)
    assert now["expectedUntil"] == "2026-03-12T13:00:00.000Z"
    assert (await data(look, f"explain?at={at(ago(hours=2, microseconds=1))}"))["envelope"] is None


async def test_a_provider_that_was_offline_is_named(look: Lookout) -> None:
    control = Jsonb({"staticImportLimit": 8000, "gapPolicy": "HoldLast"})
    await look.sql("update capacity_group set control = %s where id = 1", control)
    ended = block(4, ago(hours=3), ago(hours=2))
    said = await forecast(look, "f-1", block(9, ago(hours=5), ago(hours=4)), ended)
    await envelope(look, ago(hours=1), "last-known", max_w=4000, forecast_ids=[said, 999])
    for n, kind in ((180, "peer.online"), (70, "peer.offline"), (10, "peer.online")):
        await look.sql(
            "insert into event (user_id, at, kind, peer_id) values (1, %s, %s, 1)",
            *(ago(minutes=n), kind),
        )
    found = await data(look, f"explain?at={at(ago(minutes=30))}")
    assert found["provider"]["then"] == {"kind": "peer.offline", "at": "2026-03-12T10:50:00.000Z"}
    assert (found["provider"]["name"], found["provider"]["link"]) == ("Lines Co.", "online")
    assert "offline" in found["note"] and "2026-03-12T10:50:00.000Z" in found["note"]
    assert found["settings"]["staticImportLimit"] == 8000
    assert found["settings"]["gapPolicy"] == "HoldLast"
    (behind,) = found["forecasts"]
    assert (behind["blocks"], behind["endedBlocks"]) == ([], [ended])
    assert found["envelope"]["forecastIds"] == [said, 999], "also one that is kept no more"


async def test_a_device_of_somebody_else_is_not_shown(look: Lookout) -> None:
    """An asset may name any device; what it was told is the business of whom it works for."""
    await look.sql("update device_state set group_id = 2 where name = 'cellar'")
    await add_device(look, "attic", health="ok", power_w=1)
    held = await envelope(look, ago(hours=2))
    await command(look, "cellar", None, ago(hours=1), group_id=2)
    mine = await command(look, "cellar", held, ago(hours=1.5))
    (cellar,) = (await data(look, "explain"))["devices"]
    assert (cellar["name"], cellar["now"]) == ("cellar", None)
    assert [c["id"] for c in cellar["commands"]] == [mine] == [cellar["standing"]["id"]]


async def test_forecasts_are_listed_as_received_with_what_became_of_them(look: Lookout) -> None:
    hour = block(3, NOON, ahead(hours=1))
    first = await forecast(look, "f-1", hour, received_at=ago(hours=3))
    second = await forecast(look, "f-2", hour, type="GENERATION", received_at=ago(hours=2))
    third = await forecast(look, "f-3", hour, received_at=ago(hours=1))
    for n, outcome, status in ((1, "superseded", None), (2, "delivered", 204)):
        await look.sql(
            """
            insert into outbox (peer_id, lane, operation, request_id, forecast_id, group_id,
                                created_at, due_at, settled_at, outcome, status)
            values (3, 'group:1', 'update_group_capacity_forecast', %s, %s, 1, %s, %s, %s, %s, %s)
            """,
            *(f"our-{n}", second, NOON, NOON, NOON, outcome, status),
        )
    found = await data(look, "forecasts")
    assert [one["id"] for one in found["results"]] == [third, second, first]
    assert found["next"] is None and found["returnedResultCount"] == 3
    shown = found["results"][1]
    assert shown["blocks"] == [hour] and shown["requestId"] == "f-2"
    assert shown["forward"] == {
        "messageId": 5,
        "peerId": 3,
        "requestId": "our-2",
        "state": "delivered",
        "status": 204,
        "error": None,
        "settled": "2026-03-12T12:00:00.000Z",
    }
    assert found["results"][0]["forward"] is None

    async def ids(query: str) -> list[int]:
        return [one["id"] for one in (await data(look, f"forecasts?{query}"))["results"]]

    assert await ids("type=GENERATION") == [second]
    assert await ids(f"since={at(ago(hours=2))}&until={at(ago(hours=1))}") == [second]
    page = await data(look, "forecasts?max=2&view=received")
    assert page["next"] == second
    assert await ids(f"before={page['next']}") == [first]


async def test_a_page_of_forecasts_is_bounded_in_bytes(look: Lookout) -> None:
    ids = [await forecast(look, f"f-{n}", block(3, NOON, ahead(hours=1))) for n in range(3)]
    await look.sql(
        "update forecast set body = body || convert_to(repeat(' ', %s), 'UTF8')", 3 * 2**20
    )
    first = await data(look, "forecasts")
    assert [one["id"] for one in first["results"]] == [ids[2], ids[1]] and first["next"] == ids[1]
    rest = await data(look, f"forecasts?before={first['next']}")
    assert [one["id"] for one in rest["results"]] == [ids[0]] and rest["next"] is None


async def test_what_counts_of_forecasts_is_told_by_type_and_phase(look: Lookout) -> None:
    old = await forecast(look, "f-1", block(3, ago(hours=1), ahead(hours=4)))
    new = await forecast(look, "f-2", block(1, ahead(hours=1), ahead(hours=2)))
    lone = block(2, ago(hours=1), ahead(hours=1), "ONE")
    phase = await forecast(look, "f-3", lone, type="FALLBACK_GENERATION")
    await forecast(look, "f-4", block(7, ago(hours=2), ago(hours=1)), type="OPTIMUM", peer_id=3)
    found = (await data(look, "forecasts?view=inforce"))["results"]
    assert [(one["type"], one["phase"], one["peerName"]) for one in found] == [
        ("CONSUMPTION", "ALL", "Lines Co."),
        ("FALLBACK_GENERATION", "ONE", "Lines Co."),
    ]
    assert [
        (p["since"][11:16], p["until"][11:16], p["watts"], p["forecastId"], p["requestId"])
        for p in found[0]["periods"]
    ] == [
        ("12:00", "13:00", 3000, old, "f-1"),
        ("13:00", "14:00", 1000, new, "f-2"),
        ("14:00", "16:00", 3000, old, "f-1"),
    ]
    assert [p["forecastId"] for p in found[1]["periods"]] == [phase]
    (soon,) = (await data(look, "forecasts?view=inforce&type=CONSUMPTION&hours=1"))["results"]
    assert [p["forecastId"] for p in soon["periods"]] == [old]


async def test_the_history_of_envelopes_has_pages_and_edges(look: Lookout) -> None:
    ids = [await envelope(look, ago(hours=n), max_w=n) for n in (4, 3, 2, 1)]

    async def listed(query: str) -> list[int]:
        return [one["id"] for one in (await data(look, f"envelopes?{query}"))["results"]]

    assert await listed("") == ids[::-1]
    found = (await data(look, "envelopes"))["results"]
    assert found[0]["until"] is None and found[1]["until"] == "2026-03-12T11:00:00.000Z"
    assert await listed(f"since={at(ago(hours=2.5))}") == [ids[3], ids[2], ids[1]]
    assert await listed(f"since={at(ago(hours=2))}&until={at(ago(hours=1))}") == [ids[2]]
    assert await listed(f"until={at(ago(hours=4))}") == []
    page = await data(look, "envelopes?max=3")
    assert page["next"] == ids[1]
    assert await listed(f"before={page['next']}") == [ids[0]]


async def test_what_is_planned_comes_from_what_control_would_decide(look: Lookout) -> None:
    await look.sql(
        "update capacity_group set control = %s where id = 1", Jsonb({"staticImportLimit": 4000})
    )
    said = await forecast(look, "f-1", block(3, ahead(hours=1), ahead(hours=2)))
    planned = (await data(look, "envelopes?hours=3"))["results"]
    assert [(one["since"][11:16], one["until"][11:16], one["maxW"]) for one in planned] == [
        ("12:00", "13:00", 4000),
        ("13:00", "14:00", 3000),
        ("14:00", "15:00", 4000),
    ]
    assert [one["reason"] for one in planned] == ["static", "forecast", "static"]
    assert [one["forecastIds"] for one in planned] == [[], [said], []]
    await look.sql("update peer set link = 'offline' where id = 1")
    assert [one["reason"] for one in (await data(look, "envelopes?hours=3"))["results"]] == [
        *("static", "last-known"),
    ]


async def test_a_plan_knows_what_was_said_last_and_whose_optimizer_listens(look: Lookout) -> None:
    control = Jsonb({"gapPolicy": "HoldLast"})
    await look.sql("update capacity_group set control = %s, optimizer_id = 3 where id = 1", control)
    said = await forecast(look, "f-1", block(2, ago(hours=3), ago(hours=2)))
    await forecast(look, "w-1", block(1, NOON, ahead(hours=9)), type="OPTIMUM", peer_id=3)
    (held,) = (await data(look, "envelopes?hours=1"))["results"]
    assert (held["reason"], held["maxW"], held["forecastIds"]) == ("hold-last", 2000, [said])
    assert held["optimumW"] is not None
    await look.sql("update peer set link = 'offline' where id = 3")
    (held,) = (await data(look, "envelopes?hours=1"))["results"]
    assert held["optimumW"] is None


async def test_nothing_was_ever_in_force(look: Lookout) -> None:
    found = await data(look, "explain")
    assert (found["envelope"], found["forecasts"], found["devices"]) == (None, [], [])
    assert found["note"] == "nothing had been in force by then"
    assert (await data(look, "envelopes"))["results"] == []
    (planned,) = (await data(look, "envelopes?hours=1"))["results"]
    assert (planned["maxW"], planned["reason"]) == (None, "none")


@pytest.mark.parametrize("door", DOORS)
async def test_a_group_is_its_users_own(look: Lookout, door: str) -> None:
    assert (await look.get(f"{GROUP}/{door}"))[0] == 401
    assert (await ask(look, f"{GROUP}/{door}", user_id=2))[0] == 404
    for unknown in ("99", "x", "0", "9" * 30):
        path = f"/api/v1/oscp/capacity-groups/{unknown}/{door}"
        assert (await ask(look, path))[0] == 404, unknown


@pytest.mark.parametrize(
    "query",
    [
        f"explain?at={at(ahead(seconds=1))}",
        "explain?at=noon",
        "explain?when=x",
        "explain?max=0",
        "forecasts?view=other",
        "forecasts?type=OPTIMAL",
        "forecasts?view=inforce&since=2026-01-01T00:00:00Z",
        "forecasts?hours=1",
        "envelopes?hours=0",
        "envelopes?hours=24&since=2026-01-01T00:00:00Z",
        "envelopes?ahead=PT24H",
        "envelopes?max=1001",
    ],
)
async def test_a_question_that_cannot_be_meant_is_refused(look: Lookout, query: str) -> None:
    status, said = await ask(look, f"{GROUP}/{query}")
    assert (status, list(said)) == (400, ["message"]), said
