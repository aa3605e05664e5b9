"""Every method of seed 003 and everything that can go wrong with it, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from adapters.rig import Hands
from adapters.tenant import asked, client_of, methods, simulated

from fpd.adapters.device import Stopped, Unreachable
from fpd.adapters.http import TooLong
from fpd.adapters.reengen_client import Client, CostSeries, Imported, Series
from fpd.adapters.reengen_commands import Unfit
from fpd.adapters.reengen_door import Login
from fpd.adapters.reengen_errors import Kind, Refused, classify
from fpd.adapters.reengen_parse import Flag
from fpd.sim.journal import Filter
from fpd.sim.reengen import Reengen

DAY = timedelta(days=1)
MIDNIGHT = datetime(2025, 3, 11, 21, tzinfo=UTC)  # of the 12th, in Istanbul
HOUR = {"start_at": MIDNIGHT, "end_at": MIDNIGHT + timedelta(hours=1)}
MAINTENANCE = "<html><body>Maintenance</body></html>"
TIMED_OUT = "SocketTimeoutException: connect timed out"


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
async def platform(clock: Hands) -> AsyncIterator[Reengen]:
    async with simulated(clock) as simulator:
        yield simulator


@pytest.fixture
async def client(platform: Reengen) -> AsyncIterator[Client]:
    async with client_of(platform) as client:
        yield client


def besiktas(client: Client, **changes: Any) -> Any:
    return client.raw(
        **{
            "points": ["xyzBesiktas"],
            "definitions": ["activeEnergy"],
            "variants": ["import", "export"],
            **HOUR,
            **changes,
        }
    )


async def test_logging_in_is_the_first_request_and_the_headers_follow(
    platform: Reengen, client: Client
) -> None:
    await client.hierarchy()
    first, second = platform.journal.find(Filter())
    assert first.headers.keys() == {"Content-Type"}
    assert asked(platform)[0] == {
        "$": "Authenticate",
        "properties": {"tenant": "demo", "user": "demo", "password": "…"},
    }
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["XLang"] == "en,demo"
    assert second.headers["XConnectionId"].startswith("…")
    assert bytes(second.body) == b'{"$":"GetPointHierarchy"}'
    await client.hierarchy()
    assert methods(platform).count("Authenticate") == 1


async def test_the_hierarchy_has_a_root_and_codes(client: Client) -> None:
    points = {point.code: point for point in await client.hierarchy()}
    assert points[None].name == "All" and points[None].id is None
    trafo = points["xFabrikaTrafo6"]
    assert (trafo.name, trafo.id, trafo.parent) == ("Transformer 6", 12768, "xFabrikaFabrika")


async def test_aggregates_are_asked_for_as_in_the_document(
    platform: Reengen, client: Client
) -> None:
    series = [
        Series(definition="activeEnergy", variant="import", function="sum", unit="kWh"),
        Series(definition="reactiveEnergy", variant="import", function="avg", unit="VArh"),
    ]
    start_at = datetime(2020, 1, 19, 21, tzinfo=UTC)
    energy, reactive = await client.measurements(
        series,
        points=["xFabrikaTrafo6"],
        start_at=start_at,
        end_at=start_at + 4 * DAY,
        resolution="day",
    )
    assert asked(platform, "GetData") == [
        {
            "$": "GetData",
            "properties": {
                "series": [
                    {
                        "definition": "activeEnergy",
                        "variant": "import",
                        "type": "actual",
                        "xFunction": "sum",
                        "unit": "kWh",
                        "decimalPoints": 2,
                    },
                    {
                        "definition": "reactiveEnergy",
                        "variant": "import",
                        "type": "actual",
                        "xFunction": "avg",
                        "unit": "VArh",
                        "decimalPoints": 2,
                    },
                ],
                "point": ["xFabrikaTrafo6"],
                "start": "2020-01-20T00:00:00",
                "end": "2020-01-23T23:59:59",
                "break": {"type": "point"},
                "resolution": "day",
            },
        }
    ]
    assert [row.date for row in energy] == [f"2020-01-{day}T00:00:00" for day in (20, 21, 22, 23)]
    assert {row.point_id for row in (*energy, *reactive)} == {12768}
    assert all(row.value == pytest.approx(Decimal(240), abs=3) for row in energy[1:])


async def test_costs_are_asked_for_as_in_the_document(platform: Reengen, client: Client) -> None:
    start_at = datetime(2020, 2, 29, 21, tzinfo=UTC)
    (costs,) = await client.costs(
        [CostSeries(utility="electricity", group="activeEnergyCost")],
        points=None,
        start_at=start_at,
        end_at=start_at + 31 * DAY,
    )
    assert asked(platform, "GetData") == [
        {
            "$": "GetData",
            "properties": {
                "series": [
                    {
                        "calculator": "cost",
                        "type": "actual",
                        "selection": "own",
                        "utility": "electricity",
                        "decimalPoints": 0,
                        "group": "activeEnergyCost",
                        "includeTax": "None",
                    }
                ],
                "point": None,
                "start": "2020-03-01T00:00:00",
                "end": "2020-03-31T23:59:59",
                "break": {"type": "point"},
            },
        }
    ]
    assert {cost.point_id: cost.cost for cost in costs}[12768] == Decimal(1116)


async def test_raw_rows_are_asked_for_as_in_the_document(platform: Reengen, client: Client) -> None:
    rows = await besiktas(client, start_at=MIDNIGHT, end_at=MIDNIGHT + DAY)
    assert asked(platform, "ListDataEx") == [
        {
            "$": "ListDataEx",
            "properties": {
                "requestType": "code",
                "point": ["xyzBesiktas"],
                "definition": ["activeEnergy"],
                "variant": ["import", "export"],
                "type": ["actual"],
                "properties": [
                    *("point.code", "definition.code", "variant.code", "index", "type.code"),
                    *("date", "definition.unit.code", "value", "original", "note"),
                ],
                "start": "2025-03-12T00:00:00",
                "end": "2025-03-12T23:59:59",
            },
        }
    ]
    imported = [row for row in rows if row.variant == "import"]
    assert imported[0].unit == "Wh" and imported[0].index == 1 and imported[0].type == "actual"
    originals = [row.original for row in imported if row.original is not None]
    gained = [later - earlier for earlier, later in pairwise(originals)]
    assert gained == [row.value for row in imported[1:]]
    assert min(gained) > 0 and len(set(gained)) > 1


async def test_an_import_is_written_as_in_the_document(platform: Reengen, client: Client) -> None:
    at = datetime(2020, 12, 23, 7, 16, 26, tzinfo=UTC)
    row = Imported(
        point="reengenPoint",
        definition="activeEnergy",
        variant="import",
        index=1,
        value=Decimal("121"),
        at=at,
    )
    created = Imported(
        point="reengenPoint",
        definition="activeEnergy",
        variant="import",
        index=1,
        value=Decimal("121.5"),
        at=at + timedelta(minutes=1),
        operation="C",
    )
    await client.import_data([row, created])
    said = {
        "point": "reengenPoint",
        "definition": "activeEnergy",
        "variant": "import",
        "index": 1,
        "value": 121,
        "type": "actual",
        "date": "2020-12-23T10:16:26",
    }
    second = {"#": "C", **said, "value": 121.5, "date": "2020-12-23T10:17:26"}
    assert asked(platform, "ImportData") == [
        {"$": "ImportData", "properties": {"data": [said, second]}}
    ]
    assert [each["value"] for each in platform.state()["imported"]] == [121.0, 121.5]
    with pytest.raises(Refused, match="already exists"):
        await client.import_data([row])


def imported(value: str, **changes: Any) -> Imported:
    given = {
        "point": "reengenPoint",
        "definition": "activePower",
        "variant": "import",
        "index": 1,
        "at": MIDNIGHT,
        "value": Decimal(value),
    }
    return Imported(**given | changes)


async def test_a_value_is_put_whether_it_is_there_or_not(platform: Reengen, client: Client) -> None:
    await client.put([imported("1")])
    await client.put([imported("2")])
    later = MIDNIGHT + timedelta(minutes=15)
    await client.put([imported("3", at=later), imported("4")])
    assert [each["value"] for each in platform.state()["imported"]] == [4.0, 3.0]


async def test_a_lost_answer_to_an_import_makes_nothing_twice(
    platform: Reengen, client: Client
) -> None:
    platform.switch({"fail": {"method": "ImportData", "times": 1, "after": True}})
    await client.put([imported("7")])
    operations = [body["properties"]["data"][0]["#"] for body in asked(platform, "ImportData")]
    assert operations == ["C", "U"]
    assert [each["value"] for each in platform.state()["imported"]] == [7.0]


async def test_an_import_that_never_arrived_is_created_after_all(
    platform: Reengen, client: Client
) -> None:
    platform.switch({"fail": {"method": "ImportData", "times": 1}})
    await client.put([imported("7")])
    assert [each["value"] for each in platform.state()["imported"]] == [7.0]


async def test_where_some_values_are_there_and_some_are_not_few_requests_tell(
    platform: Reengen, client: Client
) -> None:
    minutes = [MIDNIGHT + timedelta(minutes=n) for n in range(64)]
    await client.put([imported("1", at=at) for at in minutes[:32]])
    await client.put([imported("2", at=at) for at in minutes[16:48]])
    found = [each["value"] for each in platform.state()["imported"]]
    assert found == [1.0] * 16 + [2.0] * 32
    assert len(asked(platform, "ImportData")) == 1 + 2 + 3


async def test_an_import_that_is_refused_says_why(client: Client) -> None:
    with pytest.raises(Refused, match="neither a new value nor an update: Point not found"):
        await client.put([imported("1", point="nowhere")])


async def test_the_data_science_table(platform: Reengen, client: Client) -> None:
    flag = Flag(point="xyzBesiktas", type="test", tenant="xyz", value="3")
    assert await client.manage_flags([flag]) == (flag,)
    assert await client.flags(points=["xyzBesiktas"], type="test", tenant="xyz") == (flag,)
    assert asked(platform, "ManageDCData") == [
        {
            "$": "ManageDCData",
            "properties": {
                "data": [
                    {"point": "xyzBesiktas", "type": "test", "tenant": "xyz", "value": "3"}
                    | {"#": "CU"}
                ]
            },
        }
    ]
    assert asked(platform, "GetDCData") == [
        {
            "$": "GetDCData",
            "properties": {"point": ["xyzBesiktas"], "type": "test", "tenant": "xyz"},
            "cache": None,
        }
    ]
    await client.manage_flags([flag], operation="D")
    assert await client.flags(points=["xyzBesiktas"], type="test", tenant="xyz") == ()


async def test_commands_are_listed_and_executed(platform: Reengen, client: Client) -> None:
    listed = await client.commands("xFabrikaTrafo6")
    assert [(each.code, each.kind, each.parameter_type) for each in listed] == [
        ("lights-on-off", "SingleParameter", "boolean"),
        ("generator-mode-set", "MultiOption", None),
    ]
    assert listed[1].options == (("on", "On"), ("off", "Off"), ("auto", "Auto"))
    await client.execute("xFabrikaTrafo6", "lights-on-off", True, listed=listed)
    await client.execute("xFabrikaTrafo6", "generator-mode-set", "auto", listed=listed)
    assert asked(platform, "ListAvailableCommands")[0]["properties"] == {"point": "xFabrikaTrafo6"}
    assert asked(platform, "ExecuteCommand")[0] == {
        "$": "ExecuteCommand",
        "properties": {"point": "xFabrikaTrafo6", "command": "lights-on-off", "parameter": True},
    }
    storage = await client.commands("xFabrikaDepo")
    await client.execute("xFabrikaDepo", "horn", listed=storage)
    assert asked(platform, "ExecuteCommand")[-1]["properties"] == {
        "point": "xFabrikaDepo",
        "command": "horn",
    }


@pytest.mark.parametrize(
    ("point", "code", "parameter", "why"),
    [
        ("xFabrikaTrafo6", "reboot", None, "lists no command 'reboot'"),
        ("xFabrikaTrafo6", "lights-on-off", "true", "takes a boolean"),
        ("xFabrikaTrafo6", "lights-on-off", 1, "takes a boolean"),
        ("xFabrikaTrafo6", "lights-on-off", None, "takes a boolean"),
        ("xFabrikaTrafo6", "generator-mode-set", "On", "takes one of on, off, auto"),
        ("xFabrikaTrafo6", "generator-mode-set", True, "takes one of on, off, auto"),
        ("xFabrikaDepo", "power-set", "500", "takes a number"),
        ("xFabrikaDepo", "power-set", True, "takes a number"),
        ("xFabrikaDepo", "power-set", float("nan"), "takes a number"),
        ("xFabrikaDepo", "horn", 1, "takes no parameter"),
        ("xyzBesiktas", "horn", None, "lists no command"),
    ],
)
async def test_what_a_point_does_not_take_is_never_sent(
    platform: Reengen, client: Client, point: str, code: str, parameter: Any, why: str
) -> None:
    listed = await client.commands(point)
    with pytest.raises(Unfit, match=why):
        await client.execute(point, code, parameter, listed=listed)
    assert asked(platform, "ExecuteCommand") == []


async def test_a_read_that_times_out_is_tried_again_three_times(
    platform: Reengen, client: Client
) -> None:
    platform.switch({"fail": {"method": "ListDataEx", "times": 3}})
    assert await besiktas(client)
    assert methods(platform).count("ListDataEx") == 4
    platform.switch({"fail": {"method": "ListDataEx"}})
    with pytest.raises(Unreachable, match="connect timed out"):
        await besiktas(client)
    assert methods(platform).count("ListDataEx") == 8


async def test_a_command_is_tried_again_twice_at_most(platform: Reengen, client: Client) -> None:
    listed = await client.commands("xFabrikaTrafo6")
    platform.switch({"fail": {"method": "ExecuteCommand"}})
    with pytest.raises(Unreachable, match="connect timed out"):
        await client.execute("xFabrikaTrafo6", "lights-on-off", True, listed=listed)
    once, again = ["ExecuteCommand"], ["Authenticate", "ListAvailableCommands"]
    assert methods(platform)[2:] == once + again + once + once
    storage = await client.commands("xFabrikaDepo")
    with pytest.raises(Unreachable):
        await client.execute("xFabrikaDepo", "horn", listed=storage)
    assert methods(platform).count("ExecuteCommand") == 4  # who knows what two of them do


async def test_a_refusal_that_will_not_pass_is_not_repeated(
    platform: Reengen, client: Client
) -> None:
    with pytest.raises(Refused, match="Point not found: nowhere"):
        await besiktas(client, points=["nowhere"])
    assert methods(platform).count("ListDataEx") == 1


async def test_an_expired_connection_id_is_renewed_once(
    platform: Reengen, client: Client, clock: Hands
) -> None:
    await client.hierarchy()
    platform.switch({"connection_life_s": 60})
    clock.move(seconds=61)
    assert await besiktas(client)
    assert methods(platform).count("Authenticate") == 2
    assert methods(platform).count("ListDataEx") == 2


@pytest.mark.parametrize("refusal", ["java.lang.NullPointerException", "Oturum bitti", "", "page"])
async def test_an_id_that_has_expired_is_renewed_whatever_is_said_of_it(
    platform: Reengen, client: Client, clock: Hands, refusal: str
) -> None:
    listed = await client.commands("xFabrikaTrafo6")
    platform.switch({"connection_life_s": 60, "refusal": refusal})
    for _ in range(2):
        clock.move(seconds=61)
        await client.execute("xFabrikaTrafo6", "lights-on-off", True, listed=listed)
    again = ["Authenticate", "ListAvailableCommands", "ExecuteCommand"]
    assert methods(platform)[2:] == ["ExecuteCommand", *again] * 2


async def test_what_is_refused_for_another_reason_costs_one_login(
    platform: Reengen, client: Client
) -> None:
    await client.hierarchy()
    for _ in range(3):
        with pytest.raises(Refused, match="Point not found"):
            await client.commands("nowhere")
    assert methods(platform).count("Authenticate") == 2


async def test_a_connection_id_refused_twice_stops_everything(
    platform: Reengen, client: Client
) -> None:
    platform.switch({"refuse_connections": True})
    with pytest.raises(Stopped, match="again after a new login") as stopped:
        await client.hierarchy()
    assert stopped.value.retry_s == 900
    assert methods(platform) == [*("Authenticate", "GetPointHierarchy") * 2]
    platform.switch(None)
    with pytest.raises(Stopped):
        await besiktas(client)
    assert len(methods(platform)) == 4


async def test_a_wrong_password_is_tried_once(platform: Reengen) -> None:
    async with client_of(platform, login=Login("demo", "demo", "wrong")) as client:
        for _ in range(2):
            with pytest.raises(Stopped, match="login refused") as stopped:
                await client.hierarchy()
            assert "wrong" not in str(stopped.value)
    assert methods(platform) == ["Authenticate"]
    assert "wrong" not in repr(Login("demo", "demo", "wrong"))


async def test_who_comes_while_another_logs_in_shares_the_login(
    platform: Reengen, client: Client
) -> None:
    await asyncio.gather(*(client.hierarchy() for _ in range(5)))
    assert methods(platform).count("Authenticate") == 1


async def test_requests_are_one_at_a_time_and_apart(clock: Hands) -> None:
    async with simulated(clock) as platform, client_of(platform, min_interval_s=0.05) as client:
        began = asyncio.get_running_loop().time()
        platform.switch({"delay_s": 0.02})
        await asyncio.gather(*(client.hierarchy() for _ in range(4)))
        assert asyncio.get_running_loop().time() - began >= 4 * 0.05 + 5 * 0.02
        assert platform.journal.find(Filter(invalid=True)) == []


async def test_the_simulator_tells_who_does_not_wait(clock: Hands) -> None:
    async with simulated(clock) as platform, client_of(platform) as client:
        platform.options = type(platform.options)(min_interval_s=5.0)
        await client.hierarchy()
        (noted,) = platform.journal.find(Filter(invalid=True))
        assert "after the request before" in noted.invalid[0]


async def test_a_page_with_status_200_is_no_data(platform: Reengen, client: Client) -> None:
    await client.hierarchy()
    platform.switch({"page": 2})
    assert await besiktas(client)
    platform.switch({"page": 100})
    with pytest.raises(Unreachable, match="a page instead of data"):
        await besiktas(client)
    # The fifth failure in a row opens the breaker: nothing leaves any more.
    for _ in range(2):
        with pytest.raises(Unreachable):
            await besiktas(client)
    assert sum(platform.state()["requests"].values()) == 2 + (2 + 2) + 5


@pytest.mark.parametrize(
    ("quirks", "why"),
    [
        ({"answer_status": {"status": 302, "headers": {"Location": "/else"}}}, "redirects"),
        ({"answer_status": {"status": 503, "body": "<html>busy</html>"}}, "HTTP 503"),
        ({"answer_status": {"status": 200, "body": {"data": []}}}, "without `succeeded`"),
        ({"answer_status": {"status": 200, "body": "{]"}}, "not JSON"),
        ({"drop": True}, "disconnected"),
    ],
)
async def test_what_is_no_answer_is_told(
    platform: Reengen, client: Client, quirks: dict[str, Any], why: str
) -> None:
    platform.switch(quirks)
    with pytest.raises(Unreachable, match=why):
        await client.hierarchy()


async def test_an_answer_too_large_is_not_asked_for_again(
    platform: Reengen, client: Client
) -> None:
    with pytest.raises(TooLong):
        await besiktas(client, end_at=MIDNIGHT + 60 * DAY, start_at=MIDNIGHT - 60 * DAY)
    assert methods(platform).count("ListDataEx") == 1


async def test_null_data_are_no_data(platform: Reengen, client: Client) -> None:
    series = [Series(definition="activeEnergy", variant="import", function="sum", unit="Wh")] * 2
    for form in ("series", "data", "missing"):
        platform.switch({"null_data": form})
        found = await client.measurements(series, points=None, resolution="hour", **HOUR)
        assert found == ((), ())
    platform.switch(None)
    nothing = await client.measurements(
        [Series(definition="activeEnergy", variant="none", function="sum", unit="Wh")],
        points=None,
        resolution="hour",
        **HOUR,
    )
    assert nothing == ((),)


async def test_rows_of_two_and_three_and_of_other_lengths(
    platform: Reengen, client: Client
) -> None:
    series = [Series(definition="activeEnergy", variant="import", function="sum", unit="Wh")]
    asked_for: dict[str, Any] = {"points": ["xyzBesiktas"], "resolution": "fifteenmin", **HOUR}
    (by_point,) = await client.measurements(series, **asked_for)
    assert {row.point_id for row in by_point} == {12801}
    (without,) = await client.measurements(series, by_point=False, **asked_for)
    assert "break" not in asked(platform, "GetData")[-1]["properties"]
    platform.switch({"no_point_column": True})
    (missing,) = await client.measurements(series, **asked_for)
    assert [row.value for row in without] == [row.value for row in by_point]
    assert missing == without and {row.point_id for row in missing} == {None}
    platform.switch({"odd_rows": True, "text_values": True, "no_point_column": None})
    (odd,) = await client.measurements(series, **asked_for)
    assert [row.value for row in odd if row.point_id] == [row.value for row in by_point]
    platform.switch({"null_values": True})
    (gaps,) = await client.measurements(series, **asked_for)
    assert [row.value is None for row in gaps] == [bool(n % 2) for n in range(len(gaps))]


async def test_a_success_without_a_message(platform: Reengen, client: Client) -> None:
    platform.switch({"no_message": True})
    assert await client.hierarchy()
    platform.switch({"fail": {"message": None}})
    with pytest.raises(Refused, match="no reason was given"):
        await client.hierarchy()


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (TIMED_OUT, Kind.LATER),
        ("java.net.ConnectException: Connection refused", Kind.LATER),
        ("Unable to connect to gateway", Kind.LATER),
        ("Read timeout", Kind.LATER),
        ("Connection id refused", Kind.LOGIN),
        ("Invalid connection", Kind.LOGIN),
        ("Session expired", Kind.LOGIN),
        ("Not logged in", Kind.LOGIN),
        ("Unauthorized", Kind.LOGIN),
        ("Permission denied", Kind.PERMISSION),
        ("Point not found", Kind.NO),
        ("", Kind.NO),
    ],
)
def test_messages_are_judged_by_their_text(message: str, kind: Kind) -> None:
    assert classify(message) is kind


async def test_what_a_user_may_not_do_stops_nobody_else(platform: Reengen, client: Client) -> None:
    await client.hierarchy()
    platform.switch({"fail": {"method": "ImportData", "message": "Permission denied"}})
    for _ in range(2):
        with pytest.raises(Refused, match="Permission denied"):
            await client.import_data([imported("1")])
    assert methods(platform).count("Authenticate") == 2  # one new login, not one each time
    assert await client.hierarchy()
