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


async def test_weeks_months_and_years(look: Lookout) -> None:
    """One reading a day at noon from Sunday the 1st of February on, of a register by 2 a day."""
    await store(
        look,
        *(
            read("d/1", 86400 * (39 - n), node_id=9, i={"w": n % 3}, a={"wh": 2 * n % 50})
            for n in range(40)
        ),
    )

    async def told(aggregation: str) -> list[tuple[Any, ...]]:
        said = await asks(look, f"/datum/list?nodeId=9&aggregation={aggregation}")
        names = ("localDate", "wh", "w_min", "w_max", "w_count")
        return [tuple(row.get(name) for name in names) for row in said["results"]]

    # From the first day's noon to the last one's: 39 days, a reset after 24 takes 2 of the 78.
    weeks = await told("Week")
    assert [row[0] for row in weeks] == [
        *("2026-01-26", "2026-02-02", "2026-02-09", "2026-02-16", "2026-02-23", "2026-03-02"),
        "2026-03-09",
    ]
    assert [row[1] for row in weeks] == [1, 14, 14, 14, 12, 14, 7]
    months = await told("Month")
    assert [row[:2] for row in months] == [("2026-02-01", 53), ("2026-03-01", 23)]
    assert await told("Year") == [("2026-01-01", 76, 0, 2, None)]


async def test_in_a_period_that_runs_the_last_value_has_held_until_now(look: Lookout) -> None:
    await store(
        look, read("r/1", 1800, node_id=9, i={"w": 10}), read("r/1", 600, node_id=9, i={"w": 40})
    )
    for aggregation in ("Day", "Week", "Month", "Year"):
        said = await asks(look, f"/datum/list?nodeId=9&aggregation={aggregation}")
        assert [row["w"] for row in said["results"]] == [20], aggregation


async def test_in_the_order_that_is_asked_for(look: Lookout) -> None:
    async def told(sorts: str, more: str = "&max=3") -> tuple[Any, ...]:
        said = await asks(look, f"/datum/list?startDate=2026-03-12T11:58{sorts}{more}")
        return said["totalResults"], [(r["nodeId"], r["localTime"]) for r in said["results"]]

    newest = "&sorts[0].key=created&sorts[0].descending=true"
    assert await told(newest) == (4, [(7, "12:00"), (8, "12:00"), (7, "11:59")])
    assert await told(newest, "&max=3&offset=2") == (4, [(7, "11:59"), (7, "11:58")])
    by_node = "&sorts[0].key=node&sorts[0].descending=true&sorts[1].key=created"
    assert await told(by_node) == (4, [(8, "12:00"), (7, "11:58"), (7, "11:59")])
    of_periods = await asks(
        look,
        "/datum/list?aggregation=FiveMinute&startDate=2026-03-12T11:50&endDate=2026-03-12T12:00"
        f"&max=1&offset=1{newest}",
    )
    assert [r["localTime"] for r in of_periods["results"]] == ["11:50"]
    readings = await asks(
        look,
        "/datum/reading?readingType=Difference&startDate=2026-03-12T11:50&sourceIds=m/1,m/2"
        "&accumulatingPropertyNames=watts&sorts[0].key=node&sorts[0].descending=true",
    )
    assert [r["nodeId"] for r in readings["results"]] == [8, 7]


async def streamed(look: Lookout, path: str) -> Any:
    status, said = await look.get_json(f"{QUERY}{path}", Authorization=await look.bearer(1))
    assert (status, said.pop("success")) == (200, True), said
    return said


async def test_streams_are_told_with_their_names_once(look: Lookout) -> None:
    said = await streamed(look, "/datum/stream/datum?sourceIds=/m/1,/m/2&max=2&offset=10")
    ids = [one.pop("streamId") for one in said["meta"]]
    assert said == {
        "totalResults": 12,
        "startingOffset": 10,
        "returnedResultCount": 2,
        "meta": [
            {
                **{"zone": "UTC", "kind": "n", "objectId": 7, "sourceId": "/m/1"},
                **{"i": ["watts"], "a": ["wattHours"], "s": ["x"]},
            },
            {
                **{"zone": "UTC", "kind": "n", "objectId": 8, "sourceId": "/m/2"},
                **{"i": ["watts"], "a": [], "s": []},
            },
        ],
        "data": [[0, 1773316800000, 60, 4, "y"], [1, 1773316800000, 1]],
    }
    of_one = await streamed(look, f"/datum/stream/datum?streamIds={ids[1]}&mostRecent=true")
    assert (of_one["data"], of_one["meta"][0]["streamId"]) == ([[0, 1773316800000, 1]], ids[1])
    nobody = await streamed(look, "/datum/stream/datum?nodeId=99")
    assert (nobody["meta"], nobody["data"], nobody["totalResults"]) == ([], [], 0)
    newest = "sorts[0].key=created&sorts[0].descending=true&withoutTotalResultsCount=true"
    last = await streamed(look, f"/datum/stream/datum?nodeId=7&max=2&{newest}")
    assert [row[1] for row in last["data"]] == [1773316800000, 1773316740000]
    assert "totalResults" not in last


async def test_periods_and_readings_of_streams(look: Lookout) -> None:
    span = "nodeId=7&startDate=2026-03-12T11:50&endDate=2026-03-12T12:00"
    five = 1773316200000, 1773316500000, 1773316800000
    periods = await streamed(look, f"/datum/stream/datum?aggregation=FiveMinute&{span}")
    assert periods["data"] == [
        [0, [five[0], five[1]], [60, 5, 60, 60], [5, 100, 105]],
        [0, [five[1], five[2]], [60, 5, 60, 60], [4, 105, 109]],
    ]
    reading = await streamed(look, f"/datum/stream/reading?readingType=Difference&{span}")
    assert (reading["meta"][0]["i"], reading["meta"][0]["a"]) == ([], ["wattHours"])
    assert reading["data"] == [[0, [five[0], five[2]], [9, 100, 109]]]
    by = await streamed(
        look, f"/datum/stream/reading?readingType=Difference&aggregation=FiveMinute&{span}"
    )
    assert by["data"] == [
        [0, [five[0], five[1]], [5, 100, 105]],
        [0, [five[1], five[2]], [4, 105, 109]],
    ]
    at = await streamed(
        look, "/datum/stream/reading?readingType=CalculatedAt&startDate=2026-03-12T11:51:15"
    )
    assert at["data"] == [[0, [1773316275000, None], [101.25, None, None]]]


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
        "/datum/list?aggregation=Decade", "/datum/list?sorts[0].key=colour",
        "/datum/list?sorts[0].descending=true", "/datum/list?sorts[x].key=node",
        "/datum/list?sorts[0].key=node&max=10000&offset=999999", "/datum/list?offset=-1",
        "/datum/stream/datum?sorts[0].key=created&sorts[0].descending=yes",
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
    status, said = await look.get_json(f"{QUERY}/datum/stream/other")
    assert (status, said["success"]) == (404, False)
