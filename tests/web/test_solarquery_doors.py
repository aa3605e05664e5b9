"""What SolarNetwork's tools ask: shapes as documented, numbers worked out by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from web.lookout import NOON, Lookout, lookout
from web.test_datum_doors import read, store

QUERY = "/solarquery/api/v1/sec"


@pytest.fixture
async def look(database_url: str) -> AsyncIterator[Lookout]:
    """A meter read each minute from 11:50 to 12:00: 60 W, its register reset before 11:56."""
    async with lookout(database_url) as look:
        await look.sql("insert into account values (1, %s), (2, %s)", NOON, NOON)
        levels = [100, 101, 102, 103, 104, 105, 0, 1, 2, 3, 4]
        await store(
            look,
            *(
                read("m/1", 60 * (10 - n), i={"watts": 60}, a={"wattHours": level}, s={"x": "y"})
                for n, level in enumerate(levels)
            ),
            read("m/2", 0, node_id=8, i={"watts": 1}),
            read("m/1", 0, user_id=2, i={"watts": 666}),
        )
        yield look


async def asks(look: Lookout, path: str) -> Any:
    status, said = await look.get_json(f"{QUERY}{path}", Authorization=await look.bearer(1))
    assert (status, said["success"]) == (200, True), said
    return said["data"]


async def test_a_list_is_flat_and_goes_by_offset(look: Lookout) -> None:
    first = await asks(look, "/datum/list?nodeId=7&sourceId=%2Fm%2F1&max=4")
    assert first["results"][0] == {
        "created": "2026-03-12 11:50:00.000Z",
        "nodeId": 7,
        "sourceId": "/m/1",
        "localDate": "2026-03-12",
        "localTime": "11:50",
        "watts": 60,
        "wattHours": 100,
        "x": "y",
    }
    assert {k: first[k] for k in first if k != "results"} == {
        "totalResults": 11,
        "startingOffset": 0,
        "returnedResultCount": 4,
    }
    second = await asks(look, "/datum/list?max=4&offset=9&withoutTotalResultsCount=true")
    assert [(r["nodeId"], r["localTime"]) for r in second["results"]] == [
        *((7, "11:59"), (7, "12:00"), (8, "12:00")),
    ]
    assert "totalResults" not in second
    beyond = await asks(look, "/datum/list?max=4&offset=12")
    assert (beyond["totalResults"], beyond["results"]) == (12, [])
    bounded = await asks(
        look, "/datum/list?startDate=2026-03-12T11:52&endDate=2026-03-12T11:54&sourceIds=m/*,z"
    )
    assert [row["localTime"] for row in bounded["results"]] == ["11:52", "11:53"]


async def test_aggregates(look: Lookout) -> None:
    said = await asks(
        look,
        "/datum/list?nodeId=7&aggregation=FiveMinute&startDate=2026-03-12T11:50"
        "&endDate=2026-03-12T12:00",
    )
    assert [
        (r["localTime"], r["watts"], r["watts_min"], r["wattHours"]) for r in said["results"]
    ] == [("11:50", 60, 60, 5), ("11:55", 60, 60, 4)]
    plain = await asks(look, "/datum/list?nodeId=7&aggregation=None&max=1")
    assert plain["results"][0]["wattHours"] == 100
    whole = await asks(look, "/datum/list?aggregation=Day&nodeIds=7,8")
    assert [(r["nodeId"], r["localDate"], r.get("wattHours")) for r in whole["results"]] == [
        *((7, "2026-03-12", 9), (8, "2026-03-12", None)),
    ]


async def test_the_most_recent(look: Lookout) -> None:
    for path in ("/datum/mostRecent?", "/datum/most-recent?", "/datum/list?mostRecent=true&"):
        said = await asks(look, f"{path}sourceIds=m/1,m/2")
        assert [(r["nodeId"], r["localTime"], r["watts"]) for r in said["results"]] == [
            *((7, "12:00", 60), (8, "12:00", 1)),
        ]


@pytest.mark.parametrize(
    ("kind", "start", "end", "told"),
    [
        ("Difference", "11:51:30", "11:54:30", ("11:51", "11:54", 101, 104, 3)),
        ("Difference", "11:40:00", "11:54:00", ("11:50", "11:54", 100, 104, 4)),
        ("Difference", "11:54:30", "12:30:00", ("11:54", "12:00", 104, 109, 5)),
        ("DifferenceWithin", "11:51:30", "11:54:30", ("11:52", "11:54", 102, 104, 2)),
        ("NearestDifference", "11:51:30", "11:54:30", ("11:51", "11:54", 101, 104, 3)),
        ("CalculatedAtDifference", "11:51:30", "11:54:15", ("11:51", "11:54", 101.5, 104.25, 2.75)),
    ],
)
async def test_readings(
    look: Lookout, kind: str, start: str, end: str, told: tuple[Any, ...]
) -> None:
    said = await asks(
        look,
        f"/datum/reading?readingType={kind}&nodeId=7&sourceId=m/1&startDate=2026-03-12T{start}"
        f"&endDate=2026-03-12T{end}",
    )
    (row,) = said["results"]
    names = ("localTime", "localEndTime", "wattHours_start", "wattHours_end", "wattHours")
    assert tuple(row[name] for name in names) == told
    assert row["timeZone"] == "UTC"


async def test_a_reading_at_an_instant_and_by_period(look: Lookout) -> None:
    at = await asks(look, "/datum/reading?readingType=CalculatedAt&startDate=2026-03-12T11:51:15")
    (row,) = at["results"]
    assert (row["wattHours"], row["nodeId"]) == (101.25, 7)
    by = await asks(
        look,
        "/datum/reading?readingType=Difference&aggregation=FiveMinute&nodeId=7"
        "&startDate=2026-03-12T11:50&endDate=2026-03-12T12:00",
    )
    assert [(r["wattHours_start"], r["wattHours_end"]) for r in by["results"]] == [
        *((100, 105), (105, 109)),
    ]


async def test_what_there_is(look: Lookout) -> None:
    assert await asks(look, "/nodes") == [7, 8]
    assert await asks(look, "/range/sources?nodeId=7") == ["m/1"]
    assert await asks(look, "/range/sources?sourceId=/m/*&withNodeIds=true") == [
        {"nodeId": 7, "sourceId": "/m/1"},
        {"nodeId": 8, "sourceId": "/m/2"},
    ]
    assert await asks(look, "/nodes/sources?nodeIds=7,8") == ["m/1", "m/2"]
    assert await asks(look, "/range/interval?nodeId=7&sourceIds=m/1") == {
        "timeZone": "UTC",
        "startDate": "2026-03-12 11:50:00.000Z",
        "endDate": "2026-03-12 12:00:00.000Z",
        "startDateMillis": 1773316200000,
        "endDateMillis": 1773316800000,
        "dayCount": 1,
        "monthCount": 1,
        "yearCount": 1,
    }
    assert "startDate" not in await asks(look, "/range/interval?nodeId=9")


@pytest.mark.parametrize(
    "path",
    [
        "/datum/list?aggregation=Week", "/datum/list?sorts[0].key=created", "/datum/list?offset=-1",
        "/datum/reading", "/datum/reading?readingType=Difference",
        "/datum/reading?readingType=CalculatedAt&startDate=2026-03-12&tolerance=1",
        "/nodes?nodeId=7",
    ],
)  # fmt: skip
async def test_what_cannot_be_meant_is_told_in_their_envelope(look: Lookout, path: str) -> None:
    bearer = await look.bearer(1)
    status, said = await look.get_json(f"{QUERY}{path}", Authorization=bearer)
    assert (status, said["success"], said["code"]) == (422, False, "VAL.00003")


async def test_an_unknown_door_is_told_in_their_envelope(look: Lookout) -> None:
    status, said = await look.get_json(f"{QUERY}/datum/stream/datum")
    assert (status, said["success"]) == (404, False)
