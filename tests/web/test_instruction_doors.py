"""What instructions are written like, and which are declined: with the reason, for their user."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from support.management import Answer, Management, User, group_body, make_group, management

from fpd.store import instructions, outbox

NOON = datetime(2026, 3, 12, 12, tzinfo=UTC)
ADD = "/solaruser/api/v1/sec/instr/add/OSCP_v20"
VIEW = "/solaruser/api/v1/sec/instr/view"
FORM = "application/x-www-form-urlencoded"
WISH = {
    "group_id": "my-group",
    "type": "CONSUMPTION",
    "forecasted_blocks": [
        {
            "capacity": 9,
            "phase": "ALL",
            "unit": "KW",
            "start_time": "2026-03-12T12:00:00Z",
            "end_time": "2026-03-14T12:00:00Z",
        }
    ],
}
MSG = json.dumps(WISH)
ERROR = {"action": "GroupCapacityComplianceError", "msg": '{"message": "too little"}'}


@dataclass
class Place:
    """A group whose provider has registered, and its user."""

    api: Management
    user: User
    group: dict[str, Any]

    async def instructs(self, user: User | None = None, **changes: Any) -> dict[str, Any]:
        params = {
            "action": "AdjustGroupCapacityForecast",
            "coId": self.group["capacityOptimizerId"],
            "cgIdentifier": "my-group",
            "msg": MSG,
            **changes,
        }
        given = {name: value for name, value in params.items() if value is not None}
        answer = await (user or self.user)("POST", ADD, {"params": given})
        data: dict[str, Any] = answer.data
        assert list(data) == ["id", "topic", "state", "resultParameters"]
        assert data["topic"] == "OSCP_v20"
        return data

    async def is_declined(self, *words: str, user: User | None = None, **changes: Any) -> None:
        told = await self.instructs(user, **changes)
        assert (told["state"], list(told["resultParameters"])) == ("Declined", ["error"])
        for word in words:
            assert word in told["resultParameters"]["error"]
        assert (await (user or self.user)("GET", f"{VIEW}?id={told['id']}")).data == told

    async def owed(self) -> list[Any]:
        return await self.api.rows(
            "select peer_id, operation, correlation_id, sender_id, convert_from(body, 'UTF8') "
            "from outbox order by id"
        )


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Place]:
    async with management(database_url, lambda: NOON) as api:
        user = await api.user()
        group = await make_group(user)
        await api.rows(
            "update peer set base_url = 'http://127.0.0.1:9', enabled = true returning id"
        )
        yield Place(api, user, group)


def fields(params: Mapping[str, str], msg: str) -> str:
    """Write parameters as a form, `msg` in parts, the last one first."""
    parts = [msg[start : start + 20] for start in range(0, len(msg), 20)]
    pairs = [*params.items(), *(("msg", part) for part in parts)]
    written = [
        f"parameters%5B{index}%5D.{part}={quote(text)}"
        for index, pair in enumerate(pairs)
        for part, text in zip(("name", "value"), pair, strict=True)
    ]
    assert len(pairs) > 10
    return "&".join(reversed(written))


async def test_every_way_of_writing_it_says_the_same(place: Place) -> None:
    co_id = place.group["capacityOptimizerId"]
    params = {
        "action": "AdjustGroupCapacityForecast",
        "coId": str(co_id),
        "cgIdentifier": "my-group",
    }
    listed = [{"name": name, "value": value} for name, value in {**params, "msg": MSG}.items()]
    form = fields(params, MSG)
    add = place.user
    answers: list[Answer] = [
        await add("POST", ADD, {"parameters": listed}),
        await add("POST", ADD, {"nodeId": 7, "params": {**params, "coId": co_id, "msg": MSG}}),
        await add("POST", f"{ADD}?nodeId=7", form.encode(), Content_Type=FORM),
        await add("POST", f"{ADD}?{form}&nodeId=7", None),
    ]
    assert [answer.data["state"] for answer in answers] == ["Queuing"] * 4
    expected = (
        place.group["capacityProviderId"], "adjust_group_capacity_forecast", None, co_id, MSG,
    )  # fmt: skip
    assert await place.owed() == [expected] * 4
    ((expires_at,), *_) = await place.api.rows("select expires_at from outbox")
    assert expires_at == NOON + timedelta(days=2)


async def test_states_are_those_of_the_message(place: Place) -> None:
    told = await place.instructs()
    for attempts, outcome, error, state in (
        (0, None, None, "Queuing"),
        (1, None, "timeout", "Executing"),
        (2, "delivered", None, "Completed"),
        (2, "refused", "400: no", "Declined"),
        (2, "expired", None, "Declined"),
        (0, "superseded", None, "Declined"),
    ):
        ((request_id,),) = await place.api.rows(
            "update outbox set attempts = %s, outcome = %s, error = %s returning request_id",
            *(attempts, outcome, error),
        )
        shown = (await place.user("GET", f"{VIEW}?id={told['id']}")).data
        why = {"error": error or outcome} if state == "Declined" else {}
        assert (shown["state"], shown["resultParameters"]) == (
            state,
            {"requestId": request_id, **why},
        )


async def test_a_forecast_is_named_as_either_side_knows_it(place: Place) -> None:
    provider, optimizer = (place.group[f"capacity{who}Id"] for who in ("Provider", "Optimizer"))
    group_id = place.group["configId"]
    await place.api.rows(
        "insert into forecast (group_id, peer_id, request_id, type, body, received_at, ends_at) "
        "values (%s, %s, 'f-1', 'CONSUMPTION', '', %s, %s) returning id",
        *(group_id, provider, NOON, NOON),
    )
    forward = outbox.Owed(
        peer_id=optimizer, lane="x", operation="x", body=b"", request_id="ours", due_at=NOON,
        group_id=group_id, sender_id=provider, sender_request_id="f-1",
    )  # fmt: skip
    other = group_body(provider, identifier="other", capacityOptimizerId=optimizer)
    other_id = (await place.user("POST", "capacity-groups", other)).data["configId"]
    elsewhere = replace(forward, group_id=other_id, request_id="elsewhere")
    async with place.api.context.db.transaction() as conn:
        await outbox.owe(conn, [forward, elsewhere], now=NOON)
    await place.is_declined("correlationId: no forecast", **ERROR, correlationId="elsewhere")
    await place.is_declined("correlationId: missing", **ERROR)
    await place.is_declined("correlationId: no forecast", **ERROR, correlationId="f-2")
    await place.is_declined("correlationId: no forecast", correlationId="f-2")
    for name in ("ours", "f-1"):
        assert (await place.instructs(**ERROR, correlationId=name))["state"] == "Queuing"
        assert (await place.instructs(correlationId=name))["state"] == "Queuing"
    assert {(peer_id, known) for peer_id, _, known, *_ in (await place.owed())[2:]} == {
        (provider, "f-1")
    }
    kinds = await place.api.rows("select kind, peer_id, group_id from event where data is not null")
    assert {("forecast.declared_impossible", optimizer, group_id)} <= set(kinds)


async def test_what_cannot_be_followed_is_declined_with_the_reason(place: Place) -> None:
    deep = '{"x":' * 40 + "1" + "}" * 40
    for changes, word in (
        ({"action": None}, "action: missing"),
        ({"action": "Heartbeat"}, "action: expected"),
        ({"coId": None}, "coId: missing"),
        ({"coId": "x"}, "coId: invalid"),
        ({"coId": -1}, "coId: invalid"),
        ({"coId": 10**18 - 1}, "coId: unknown"),
        ({"coId": 10**30}, "coId: invalid"),
        ({"coId": place.group["capacityProviderId"]}, "coId: unknown"),
        ({"cgIdentifier": None}, "cgIdentifier: missing"),
        ({"cgIdentifier": "other"}, "other"),
        ({"cgIdentifier": "a\0b"}, "printable"),
        ({"correlationId": "\ud800"}, "printable"),
        ({"msg": None}, "msg: missing"),
        ({"msg": "{"}, "not JSON"),
        ({"msg": "\0"}, "not JSON"),
        ({"msg": "\ud800"}, "JSON"),
        ({"msg": deep}, "deep"),
        ({"msg": MSG[:-1] + ', "type": "OPTIMUM"}'}, "type: is given twice"),
        ({"msg": MSG.replace("my-group", "other")}, "group_id: differs"),
        ({"msg": MSG.replace("9", '"9"', 1)}, "capacity"),
        ({"msg": MSG.replace("03-14", "03-11")}, "end_time: not after start_time"),
    ):
        await place.is_declined(word, **changes)
    assert await place.owed() == []


async def test_whoever_is_disabled_or_somebody_else_s_is_not_spoken_for(place: Place) -> None:
    other = await place.api.user(2)
    await place.is_declined("coId: unknown capacity optimizer", user=other)
    told = await place.instructs()
    assert (await other("GET", f"{VIEW}?id={told['id']}")).faults == {"query.id": "is not known"}
    assert (await place.api.nobody("guess")("GET", f"{VIEW}?id={told['id']}")).status == 401
    for change, word in (
        ("update peer set enabled = false where role = 'CapacityOptimizer'", "coId"),
        ("update peer set enabled = role <> 'CapacityProvider'", "provider is disabled"),
        ("update peer set enabled = true, base_url = null", "has not registered"),
        ("update capacity_group set enabled = false", "is disabled"),
    ):
        await place.api.rows(f"{change} returning id")
        await place.is_declined(word)
    assert len(await place.owed()) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b'{"params": {}, "params": {}}', 400),
        (b"[]", 422),
        (b'{"parameters": {}}', 422),
        (b'{"parameters": [1]}', 422),
        (b'{"parameters": [{"name": "x"}]}', 422),
        (b'{"params": []}', 422),
        (b'{"params": {"x": [1]}}', 422),
        (b'{"params": {"x": true}}', 422),
        (b'{"nodeId": -1}', 422),
        (b'{"nodeId": 1.5}', 422),
    ],
)
async def test_what_cannot_be_read_is_refused(place: Place, body: bytes, status: int) -> None:
    answer = await place.user("POST", ADD, body)
    assert answer.status == status and (answer.faults or status == 400), answer.text
    assert await place.api.rows("select id from instruction") == []


async def test_fields_that_cannot_be_read_are_refused_too(place: Place) -> None:
    name, value = "parameters%5B0%5D.name=x", "parameters%5B0%5D.value=x"
    for query, fault in (
        (name, "parameters[0].value"),
        (value, "parameters[0].name"),
        (f"{name}&{value}&{name}", "parameters[0].name"),
        (f"{name}&{value}&nodeId=x", "nodeId"),
    ):
        assert list((await place.user("POST", f"{ADD}?{query}")).faults) == [fault]
        form = await place.user("POST", ADD, query.encode(), Content_Type=FORM)
        assert (form.status, list(form.faults)) == (422, [fault])
    assert (await place.user("POST", ADD, b"x&" * 20_000, Content_Type=FORM)).status == 422
    assert (await place.user("POST", ADD, b"x", Content_Type="text/plain")).status == 415
    for query in ("", "?id=x", "?id=0"):
        assert list((await place.user("GET", VIEW + query)).faults) == ["query.id"]
    assert (await place.user("POST", ADD.replace("OSCP_v20", "Other"))).status == 404


async def test_instructions_go_with_their_messages(place: Place) -> None:
    owed, declined = await place.instructs(), await place.instructs(action="x")
    await place.api.rows("update outbox set settled_at = %s returning id", NOON)
    async with place.api.context.db.transaction() as conn:
        assert await instructions.forget(conn, before=NOON) == 0
        assert await instructions.forget(conn, before=NOON + timedelta(seconds=1)) == 1
        assert await outbox.forget(conn, before=NOON + timedelta(seconds=1)) == 1
    for told in (owed, declined):
        assert (await place.user("GET", f"{VIEW}?id={told['id']}")).status == 404
