"""`GET /api/v1/datum`: every datum once, in order, exact; only one's own."""

from __future__ import annotations

import csv
import dataclasses
import json
import random
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import aiohttp
import pytest
from flows.exact_model import average, movement
from web.lookout import NOON, Lookout, lookout

from fpd.domain import datum as datums
from fpd.domain.aggregate import Aggregation
from fpd.domain.datum import Datum, StreamKey
from fpd.flows import datum_out as flow
from fpd.flows import ingest

PATH = "/api/v1/datum"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    async with lookout(database_url) as look:
        await look.sql("insert into account values (1, %s), (2, %s)", NOON, NOON)
        yield look


async def store(look: Lookout, *readings: Datum) -> None:
    assert not await ingest.store(look.context, readings)


def read(
    source: str, seconds: float, *, user_id: int = 1, node_id: int = 7, **classes: Any
) -> Datum:
    """A datum so many seconds before noon."""
    exact = {
        name: {k: Decimal(str(v)) for k, v in of.items()} if name in "ia" else of
        for name, of in classes.items()
    }
    stream = StreamKey(user_id, node_id, source)
    return Datum(stream=stream, at=NOON - timedelta(seconds=seconds), **exact)


async def asks(look: Lookout, query: str, *, user_id: int = 1, path: str = PATH) -> Any:
    status, said = await look.get_json(f"{path}?{query}", Authorization=await look.bearer(user_id))
    assert status == 200, said
    return said["data"]


async def ten(look: Lookout) -> None:
    for source in ("load/1", "load/2", "load/a/1", "meter"):
        await store(look, *(read(source, 60 * n, i={"watts": n}) for n in range(10)))
    await store(look, read("load/1", 0, user_id=2, i={"watts": 666}))


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ("load/1", ["load/1"]),
        ("/load/1,meter", ["load/1", "meter"]),
        ("/load/*", ["/load/1", "/load/2"]),
        ("load/**", ["load/1", "load/2", "load/a/1"]),
        ("**/1", ["load/1", "load/a/1"]),
        ("load/?", ["load/1", "load/2"]),
        ("**", ["load/1", "load/2", "load/a/1", "meter"]),
        ("load", []),
        ("lo.d/1", []),
        ("load/(1|2)", []),
    ],
)
async def test_sources_are_meant_by_wildcards(
    look: Lookout, sources: str, found: list[str]
) -> None:
    await ten(look)
    said = await asks(look, f"sourceId={sources}")
    assert list(dict.fromkeys(row["sourceId"] for row in said["results"])) == found


async def test_a_range_is_half_open_and_ones_own(look: Lookout) -> None:
    await ten(look)
    said = await asks(
        look, "nodeId=7&sourceId=load/1&start=2026-03-12T11:52:00Z&end=2026-03-12T11:55:00Z"
    )
    assert said == {
        "returnedResultCount": 3,
        "results": [
            {
                "created": f"2026-03-12T11:5{minute}:00Z",
                "nodeId": 7,
                "sourceId": "load/1",
                "samples": {"i": {"watts": 10 - minute}},
            }
            for minute in (2, 3, 4)
        ],
        "next": None,
    }
    foreign = await asks(look, "sourceId=**", user_id=2)
    assert [row["samples"] for row in foreign["results"]] == [{"i": {"watts": 666}}]


async def test_pages_tell_each_datum_once(look: Lookout, monkeypatch: pytest.MonkeyPatch) -> None:
    await ten(look)
    seen, after = [], ""
    while True:
        said = await asks(look, f"max=7{after}")
        seen += [(row["sourceId"], row["created"]) for row in said["results"]]
        if said["next"] is None:
            break
        after = f"&after={said['next']}"
    assert len(seen) == len(set(seen)) == 40
    assert seen == sorted(seen)
    monkeypatch.setattr(flow, "PAGE", 3)
    text = await _text(look, "format=ndjson")
    assert [(r["sourceId"], r["created"]) for r in map(json.loads, text.splitlines())] == seen


async def test_lines_can_be_taken_in_again(look: Lookout) -> None:
    awkward = read(
        'o,dd/"1"',
        0.000123,
        i={"watts": "-0.10", "Größe": "1e-20"},
        a={"wattHours": "12345678901234567890.5"},
        s={"state": 'a "quoted",\nline', "on": True},
        t=("x", "y,z"),
    )
    await store(look, awkward)
    (line,) = (await _text(look, "format=ndjson")).splitlines()
    assert "corrected" not in line
    await store(look, dataclasses.replace(awkward, i={}))
    await store(look, awkward)
    (line,) = (await _text(look, "format=ndjson")).splitlines()
    document = datums_read(line)
    assert document["corrected"] == "2026-03-12T12:00:00Z"
    again = datums.read(document, stream=awkward.stream, received_at=NOON)
    assert again == awkward

    text = await _text(look, "", Accept="text/csv")
    rows = list(csv.reader(text.splitlines(keepends=True)))
    names = ["Größe", "on", "state", "wattHours", "watts"]
    assert rows[0] == ["created", "nodeId", "sourceId", *names]
    assert rows[1][1:] == [
        *("7", 'o,dd/"1"', "0.00000000000000000001", "true", 'a "quoted",\nline'),
        *("12345678901234567890.5", "-0.10"),
    ]
    only = await _text(look, "format=csv&properties=watts,none")
    assert only.splitlines() == [
        "created,nodeId,sourceId,watts,none",
        '2026-03-12T11:59:59.999877Z,7,"o,dd/""1""",-0.10,',
    ]


def datums_read(line: str) -> Any:
    return json.loads(line, parse_float=Decimal, parse_int=Decimal)


async def test_there_may_be_many_columns_but_not_any_number(look: Lookout) -> None:
    for part in range(5):
        await store(look, read("x", part, i={f"p{part * 200 + n:04}": n for n in range(200)}))
    text = await _text(look, "format=csv")
    rows = list(csv.reader(text.splitlines()))
    assert [len(row) for row in rows] == [1003] * 6
    assert rows[5][3:6] == ["0", "1", "2"] and rows[1][-1] == "199"
    await store(look, read("x", 9, i={"one more": 1}))
    bearer = await look.bearer(1)
    status, said = await look.get_json(f"{PATH}?format=csv", Authorization=bearer)
    assert (status, said["message"][:17]) == (400, "query.properties:")


async def test_the_latest_of_each_stream(look: Lookout) -> None:
    await ten(look)
    old = read("old", 86400 * 200, i={"watts": 1})
    await store(look, old, read("ahead", -3600, i={"watts": 2}))
    await look.sql(
        "insert into stream (user_id, node_id, source_id, created_at, is_own)"
        " values (1, 7, 'forecast', %s, true)",
        NOON,
    )
    await store(
        look, read("forecast", 900, i={"amount": 1}), read("forecast", -900, i={"amount": 2})
    )
    for path, query in ((PATH, "view=latest"), (f"{PATH}/latest", "")):
        said = await asks(look, query, path=path)
        told = {row["sourceId"]: row["created"] for row in said["results"]}
        assert told == {
            **dict.fromkeys(("load/1", "load/2", "load/a/1", "meter"), "2026-03-12T12:00:00Z"),
            "old": (NOON - timedelta(days=200)).isoformat().replace("+00:00", "Z"),
            "ahead": "2026-03-12T13:00:00Z",
            "forecast": "2026-03-12T11:45:00Z",
        }
    seen, after = 0, ""
    while after is not None:
        said = await asks(look, f"view=latest&max=2{after}")
        seen += said["returnedResultCount"]
        after = said["next"] and f"&after={said['next']}"
    assert seen == 7


@pytest.mark.parametrize(
    "query",
    [
        "node=1", "nodeId=x", "start=yesterday", "aggregation=Second", "max=0", "max=10001",
        "format=xml", "after=1", "after=1.x", "after=9.999999999999999999",
        "view=latest&aggregation=Hour",
        "sourceId=", "sourceId=a%00", "format=csv&max=5",
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_refused(look: Lookout, query: str) -> None:
    status, said = await look.get_json(f"{PATH}?{query}", Authorization=await look.bearer(1))
    assert status == 400, said
    assert said["message"].startswith("query.")


async def test_there_is_nothing_beyond_all_times(look: Lookout) -> None:
    await ten(look)
    ages = "start=0001-01-01T00:00:00Z&end=9999-12-31T23:59:59Z&sourceId=meter"
    assert (await asks(look, ages))["returnedResultCount"] == 10
    said = await asks(look, f"{ages}&aggregation=Day")
    assert [row["samples"]["i"]["watts_count"] for row in said["results"]] == [10]
    assert (await asks(look, "end=0001-01-01T00:00:00Z"))["results"] == []
    span = ages.replace("start=", "startDate=").replace("end=", "endDate=")
    for kind in ("Difference", "CalculatedAtDifference", "CalculatedAt"):
        await asks(
            look,
            f"{span}&readingType={kind}&accumulatingPropertyName=watts",
            path="/solarquery/api/v1/sec/datum/reading",
        )


async def test_what_cannot_be_finished_does_not_pass_for_whole(look: Lookout) -> None:
    await store(look, read("x", 0, i={"watts": 1}))
    await look.sql(
        """
        insert into datum (stream_id, at, i, received_at)
        select 1, %s - n * interval '1 s', '{"watts": 1}', %s from generate_series(1, 80000) as n
        """,
        *(NOON, NOON),
    )
    bearer = await look.bearer(1)
    async with look.client.get(
        f"{PATH}?format=ndjson", headers={"Authorization": bearer}
    ) as answer:
        assert answer.status == 200
        await answer.content.readline()
        await look.context.db.close()
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_nobody_asks_without_a_token(look: Lookout) -> None:
    assert (await look.get(PATH))[0] == 401
    assert (await look.get("/solarquery/api/v1/sec/nodes"))[0] == 401


async def _text(look: Lookout, query: str, **headers: str) -> str:
    bearer = await look.bearer(1)
    status, text = await look.get(f"{PATH}?{query}", Authorization=bearer, **headers)
    assert status == 200, text
    return text


@pytest.mark.parametrize("aggregation", ["Minute", "FiveMinute", "TwentyMinute", "Hour"])
async def test_aggregates_are_exact(
    look: Lookout, aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with rational arithmetic of its own, over gaps, resets and edges on samples."""
    monkeypatch.setattr(flow, "_PERIODS", 7)
    chance = random.Random(aggregation)
    at, level = -9000.0, Decimal(1000)
    readings: list[tuple[float, Decimal, Decimal]] = []
    while at < 600:
        at += chance.choice([0.5, 7, 10, 10, 30, 55.25, 60, 500])
        level = chance.choice([level + chance.randrange(9), level, level, Decimal("0.5")])
        readings.append((-at, Decimal(chance.randrange(-999, 999)) / 7, level))
    await store(
        look,
        *(
            read("x", s, i={"watts": w.quantize(Decimal("0.0001"))}, a={"wh": e})
            for s, w, e in readings
        ),
    )
    span = "start=2026-03-12T10:00:00Z&end=2026-03-12T12:00:00Z"
    said = [
        json.loads(line, parse_float=Decimal)
        for line in (
            await _text(look, f"format=ndjson&aggregation={aggregation}&{span}")
        ).splitlines()
    ]
    paged, after = [], ""
    while after is not None:
        part = await asks(look, f"aggregation={aggregation}&{span}&max=5{after}")
        paged += part["results"]
        after = part["next"] and f"&after={part['next']}"
    assert [row["created"] for row in paged] == [row["created"] for row in said]

    watts = {
        NOON - timedelta(seconds=s): Fraction(w.quantize(Decimal("0.0001"))) for s, w, _ in readings
    }
    levels = {NOON - timedelta(seconds=s): Fraction(e) for s, _, e in readings}
    length = Aggregation[aggregation].length
    start_at = NOON - timedelta(hours=2)
    told = {datetime.fromisoformat(row["created"]): row["samples"] for row in said}
    total = Fraction(0)
    while start_at < NOON:
        samples = told.get(start_at, {})
        mean = average(watts, start_at, start_at + length, timedelta(minutes=15))
        gain = movement(levels, start_at, start_at + length)
        _same(samples.get("i", {}).get("watts"), mean)
        _same(samples["a"]["wh"], gain)
        total += gain
        start_at += length
    _same(sum((s["a"]["wh"] for s in told.values() if "a" in s), Decimal(0)), total, 60)


def _same(told: Any, exact: Fraction | None, times: int = 1) -> None:
    if exact is None:
        assert told is None
    else:
        assert abs(Fraction(told) - exact) <= times * Fraction(1, 10**9)
