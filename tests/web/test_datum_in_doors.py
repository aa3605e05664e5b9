"""POST /api/v1/datum: kept or refused one by one, committed together; what was refused is shown."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from web.lookout import NOON, Lookout, lookout

from fpd.domain.datum import Datum, StreamKey
from fpd.store import streams

PATH = "/api/v1/datum"
NOON_MS = int(NOON.timestamp() * 1000)


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await look.sql("insert into account values (1, %s), (2, %s)", NOON, NOON)
        yield look


async def post(
    look: Lookout, body: Any, *, user_id: int = 1, **headers: str
) -> tuple[int, dict[str, Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {"Authorization": await look.bearer(user_id), **named}
    named.setdefault("Content-Type", "application/json")
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with look.client.post(PATH, data=io.BytesIO(data), headers=named) as answer:
        return answer.status, await answer.json()


def reading(n: int = 0, **more: Any) -> dict[str, Any]:
    return {"created": NOON_MS + n, "nodeId": 7, "sourceId": "/meter/1", "watts": n, **more}


async def kept(look: Lookout, *, user_id: int = 1) -> list[Datum]:
    async with look.context.db.connection() as conn:
        return await streams.between(
            conn,
            stream=StreamKey(user_id, 7, "meter/1"),
            start_at=NOON - timedelta(days=1),
            end_at=NOON + timedelta(days=1),
            limit=10_000,
        )


@pytest.mark.parametrize("shape", ["array", "wrapped", "lines", "zipped"])
async def test_many_at_once(look: Lookout, shape: str) -> None:
    many = [reading(n) for n in range(500)]
    headers = {}
    body: Any = {"datum": many} if shape == "wrapped" else many
    if shape in ("lines", "zipped"):
        body = b"\r\n".join(json.dumps(one).encode() for one in many) + b"\n\n"
        headers["Content_Type"] = "application/x-ndjson"
    if shape == "zipped":
        body, headers["Content_Encoding"] = gzip.compress(body), "gzip"
    status, said = await post(look, body, **headers)
    assert (status, said) == (
        200,
        {"success": True, "data": {"kept": 500, "refusedCount": 0, "refused": []}},
    )
    assert [d.i["watts"] for d in await kept(look)] == list(range(500))


async def test_one_with_classes_and_an_exact_number(look: Lookout) -> None:
    datum = {
        "created": "2026-03-12T13:00:00+01:00",
        "nodeId": 7,
        "sourceId": "meter/1",
        "samples": {"i": {"datum": 1}, "a": {"wattHours": 12345678901234567890}, "t": ["x"]},
    }
    body = json.dumps(datum).replace('"datum": 1', '"datum": 0.10000000000000000001').encode()
    status, _ = await post(look, body)
    assert status == 200
    (found,) = await kept(look)
    assert found.at == NOON
    assert found.i == {"datum": Decimal("0.10000000000000000001")}
    assert (found.a, found.t) == ({"wattHours": Decimal(12345678901234567890)}, ("x",))


async def test_a_repeat_changes_nothing_and_a_correction_replaces(look: Lookout) -> None:
    await look.sql("update measured_until set until_at = %s", NOON + timedelta(hours=1))
    for body, late in ((reading(1), 1), (reading(1), 1), (reading(1, watts=9), 2)):
        assert (await post(look, body))[0] == 200
        assert await look.sql("select count(*) from late_datum") == [(late,)]
    assert [d.i["watts"] for d in await kept(look)] == [9]


async def test_those_without_a_time_are_of_now_and_apart(look: Lookout) -> None:
    many = [{"nodeId": 7, "sourceId": "meter/1", "watts": watts} for watts in (1, 2, 3e0)]
    assert (await post(look, many))[0] == 200
    found = await kept(look)
    assert [d.i["watts"] for d in found] == [1, 2, 3]
    assert {d.at - NOON for d in found} == {timedelta(microseconds=n) for n in range(3)}


async def test_what_is_wrong_is_told_and_takes_nothing_with_it(look: Lookout) -> None:
    year = 366 * 86_400_000
    many = [
        reading(1),
        {"created": NOON_MS, "watts": 1},
        [reading(2)],
        reading(3, watts=[1]),
        reading(year),
        reading(-2 * year),
        reading(4, sourceId="a\u0001"),
        reading(5, nodeId=0),
        reading(6),
    ]
    status, said = await post(look, many)
    assert status == 200
    assert said["data"]["kept"] == 2
    assert said["data"]["refusedCount"] == 7
    refused = {one["index"]: (one["outcome"], one["reason"]) for one in said["data"]["refused"]}
    assert list(refused) == [1, 2, 3, 4, 5, 6, 7]
    assert "nodeId" in refused[1][1]
    assert refused[3] == ("malformed", "watts: neither a number, nor a text, nor a boolean")
    assert [refused[index][0] for index in (4, 5)] == ["untimely", "untimely"]
    assert len(await kept(look)) == 2


async def test_none_that_can_be_kept_is_422(look: Lookout) -> None:
    status, said = await post(look, reading(1, watts=None))
    assert status == 422
    assert said["message"] == "none was kept: 0 properties, not 1 to 256"
    assert said["data"]["kept"] == 0
    assert await kept(look) == []


async def test_everybody_writes_to_own_streams_only(look: Lookout) -> None:
    assert (await post(look, reading(1, userId=1), user_id=2))[0] == 200
    assert await kept(look) == []
    assert len(await kept(look, user_id=2)) == 1


BODIES: list[tuple[bytes, dict[str, str], int]] = [
    (b"{", {}, 400),
    (b"", {}, 400),
    (b"[" * 100_000, {}, 400),
    (b"[" + b"0," * 2_000_000 + b"0]", {}, 400),
    (b"{}\n" * 50_001, {"Content_Type": "application/x-ndjson"}, 400),
    (b"[]", {"Content_Type": "text/csv"}, 415),
    (b"[]", {"Content_Encoding": "odd"}, 415),
    (b"[]", {"Content_Encoding": "gzip"}, 400),
    (gzip.compress(b" " * 50_000_000), {"Content_Encoding": "gzip"}, 413),
    (b" " * 5_000_000, {}, 413),
    (b"[]", {"Authorization": ""}, 401),
    (b"[]", {"Authorization": "Bearer nobody"}, 401),
    (b"[]", {}, 200),
]


async def test_bodies_that_are_not_taken(look: Lookout) -> None:
    for body, headers, status in BODIES:
        assert (await post(look, body, **headers))[0] == status, (body[:9], headers)


async def test_without_a_database_nothing_is_promised(look: Lookout) -> None:
    bearer = await look.bearer(1)
    await look.context.db.close()
    assert (await post_as(look, bearer))[0] == 503


async def post_as(look: Lookout, bearer: str) -> tuple[int, Any]:
    headers = {"Authorization": bearer}
    async with look.client.post(PATH, json=reading(1), headers=headers) as answer:
        return answer.status, await answer.json()


async def test_what_was_refused_is_shown_to_whom_it_belongs(look: Lookout) -> None:
    await post(look, [reading(1, watts="<b>"), {"x": "<script>"}, reading(2, watts={})])
    await post(look, {"x": 2}, user_id=2)
    status, said = await look.get_json(f"{PATH}/refused")
    assert status == 200
    assert [one["source"] for one in said["data"]["results"]] == ["user 1", "user 2"]
    headers = {"Authorization": await look.bearer(1)}
    _, said = await look.get_json(f"{PATH}/refused?max=5", **headers)
    (one,) = said["data"]["results"]
    assert one | {"reason": ""} == {
        "door": "http",
        "source": "user 1",
        "userId": 1,
        "outcome": "malformed",
        "reason": "",
        "count": 2,
        "first": "2026-03-12T12:00:00.000Z",
        "last": "2026-03-12T12:00:00.000Z",
        "head": json.dumps(reading(2, watts={})),
        "size": len(json.dumps(reading(2, watts={}))),
    }
    assert (await look.get_json("/api/v1/status"))[1]["refusedDatum"][0] == one
    _, text = await look.get("/")
    assert "Datum that were refused" in text
    assert "<script>" not in text.replace("<script ", "")
