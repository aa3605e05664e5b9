"""The simulated Reengen platform answers as seed 003 says, and misbehaves on demand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from sim.conftest import Start
from sim.hands import Hands

from fpd.sim.reengen import Reengen, ReengenOptions

LOGIN = {"tenant": "demo", "user": "demo", "password": "demo"}
DAY = {"start": "2025-03-11T00:00:00", "end": "2025-03-11T23:59:59"}
NAMES = [
    "point.code",
    "definition.code",
    "variant.code",
    "index",
    "type.code",
    "date",
    "definition.unit.code",
]


class Tenant:
    """Asks as somebody who has read the document."""

    def __init__(self, http: aiohttp.ClientSession, simulator: Reengen) -> None:
        self.url = simulator.url
        self._http = http
        self.headers: dict[str, str] = {}

    async def says(self, body: Any, headers: dict[str, str] | None = None) -> dict[str, Any]:
        given = self.headers if headers is None else headers
        url = f"{self.url}/api/do/"
        async with self._http.post(url, json=body, headers=given) as response:
            assert response.status == 200
            told: dict[str, Any] = await response.json()
            return told

    async def log_in(self) -> None:
        told = await self.says({"$": "Authenticate", "properties": LOGIN})
        assert told.keys() == {"properties", "succeeded", "message", "statistics"}
        self.headers = {"XConnectionId": told["properties"]["connectionId"], "XLang": "en,demo"}

    async def ask(self, method: str, **properties: Any) -> dict[str, Any]:
        return await self.says({"$": method, "properties": properties})

    async def data(self, method: str, **properties: Any) -> Any:
        told = await self.ask(method, **properties)
        assert told["succeeded"] is True, told
        return told["properties"]["data"]

    async def switch(self, **quirks: Any) -> None:
        async with self._http.put(f"{self.url}/_sim/quirks", json=quirks) as response:
            assert response.status == 200, await response.text()

    async def act(self, name: str, **given: Any) -> None:
        async with self._http.post(f"{self.url}/_sim/actions/{name}", json=given) as response:
            assert response.status == 200, await response.text()

    async def noted(self) -> list[str]:
        async with self._http.get(f"{self.url}/_sim/log?invalid=1") as response:
            return [problem for entry in await response.json() for problem in entry["invalid"]]


@pytest.fixture
async def simulator(start: Start, hands: Hands) -> Reengen:
    simulator = Reengen(ReengenOptions(min_interval_s=0), clock=hands)
    await start(simulator)
    return simulator


@pytest.fixture
async def tenant(http: aiohttp.ClientSession, simulator: Reengen) -> Tenant:
    tenant = Tenant(http, simulator)
    await tenant.log_in()
    return tenant


def energy(variant: str = "import", **changes: Any) -> dict[str, Any]:
    return {
        "requestType": "code",
        "point": ["xyzBesiktas"],
        "definition": ["activeEnergy"],
        "variant": [variant],
        "type": ["actual"],
        "properties": [*NAMES, "value", "original", "note"],
        **DAY,
        **changes,
    }


async def test_who_may_come_in(tenant: Tenant, hands: Hands) -> None:
    wrong = await tenant.says({"$": "Authenticate", "properties": LOGIN | {"password": "x"}})
    assert wrong["succeeded"] is False and "Invalid" in wrong["message"]
    first = tenant.headers
    await tenant.log_in()
    for headers in (first, tenant.headers):  # several ids may live
        assert (await tenant.says({"$": "GetPointHierarchy"}, headers))["succeeded"]
    for headers in ({}, first | {"XConnectionId": "guessed"}, first | {"XLang": "en"}):
        assert not (await tenant.says({"$": "GetPointHierarchy"}, headers))["succeeded"]
    await tenant.switch(connection_life_s=60)
    hands.move(seconds=60)
    told = await tenant.ask("GetPointHierarchy")
    assert (told["succeeded"], told["message"]) == (False, "Invalid connection id")


async def test_no_secret_is_in_the_log(tenant: Tenant, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{tenant.url}/_sim/log") as response:
        text = await response.text()
    assert '"demo"' in text and '"password":"demo"' not in text
    assert tenant.headers["XConnectionId"] not in text


async def test_raw_rows_end_their_interval(tenant: Tenant) -> None:
    rows = await tenant.data("ListDataEx", **energy())
    assert rows[0].keys() == {*NAMES, "value", "original", "note"}
    assert rows[0]["definition.unit.code"] == "Wh"
    pairs = list(pairwise(rows))
    assert all(later["original"] - row["original"] == later["value"] for row, later in pairs)
    assert len({later["value"] for _, later in pairs}) > 1  # read now and then
    assert [row["date"] for row in rows] == sorted(row["date"] for row in rows)
    few = await tenant.data("ListDataEx", **energy(properties=["date", "value"]))
    assert few[0].keys() == {"date", "value"} and len(few) == len(rows)


async def test_aggregates_add_up(tenant: Tenant) -> None:
    series = {"definition": "activeEnergy", "variant": "import", "type": "actual"}
    asked = {
        "series": [
            series | {"xFunction": "sum", "unit": "kWh", "decimalPoints": 2},
            series | {"xFunction": "max", "unit": "Wh", "decimalPoints": 0},
        ],
        "point": ["xyzBesiktas"],
        "break": {"type": "point"},
        **DAY,
    }
    data = await tenant.data("GetData", **asked, resolution="day")
    ((date, point_id, kwh),) = data["0"]
    rows = await tenant.data("ListDataEx", **energy())
    assert (date, point_id) == ("2025-03-11T00:00:00", 12801)
    assert kwh == pytest.approx(sum(row["value"] for row in rows) / 1000, abs=0.01)
    assert data["1"][0][2] == max(row["value"] for row in rows)
    del asked["break"]
    assert [
        len(row) for row in (await tenant.data("GetData", **asked, resolution="hour"))["0"]
    ] == [2] * 24


async def test_commands_act_on_meters(tenant: Tenant, hands: Hands) -> None:
    told = await tenant.ask("ExecuteCommand", point=12747, command="power-set", parameter=-1800)
    assert told == {"properties": {}, "succeeded": True, "statistics": {}}
    hands.move(hours=1)
    now = {"start": "2025-03-12T13:00:00", "end": "2025-03-12T15:00:00"}
    wanted = energy(point=["xFabrikaDepo"], **now)
    assert sum(row["value"] for row in await tenant.data("ListDataEx", **wanted)) > 1000
    refused = await tenant.ask("ExecuteCommand", point="xFabrikaDepo", command="lights-on-off")
    assert not refused["succeeded"]


async def test_meters_can_be_exchanged_and_corrected(tenant: Tenant, hands: Hands) -> None:
    before = (await tenant.data("ListDataEx", **energy()))[-1]
    await tenant.act(
        "correct",
        point="xyzBesiktas",
        definition="activeEnergy",
        variant="import",
        by=7,
        date=before["date"],
    )
    after = (await tenant.data("ListDataEx", **energy()))[-1]
    assert after["original"] == before["original"] + 7
    await tenant.act("reset", point="xyzBesiktas")
    hands.move(hours=1)
    now = energy(start="2025-03-12T13:30:00", end="2025-03-12T14:30:00")
    assert (await tenant.data("ListDataEx", **now))[-1]["original"] < 1000


async def test_imports_stop_where_one_fails(tenant: Tenant) -> None:
    row = {
        "point": "reengenPoint",
        "definition": "activeEnergy",
        "variant": "import",
        "index": 1,
        "value": 121,
        "type": "actual",
        "date": "2025-03-11T10:16:26",
    }
    later = row | {"date": "2025-03-11T10:17:26"}
    assert (await tenant.ask("ImportData", data=[row]))["succeeded"]
    assert not (await tenant.ask("ImportData", data=[later, row]))["succeeded"]
    assert not (await tenant.ask("ImportData", data=[later | {"#": "C"}]))["succeeded"]
    update = later | {"#": "U", "value": 5}
    assert (await tenant.ask("ImportData", data=[update, row | {"#": "D"}]))["succeeded"]
    rows = await tenant.data("ListDataEx", **energy(point=["reengenPoint"]))
    assert [(each["date"], each["value"]) for each in rows] == [("2025-03-11T10:17:26", 5.0)]


async def test_what_it_is_told_to_do_wrong(tenant: Tenant) -> None:
    await tenant.switch(fail={"method": "ExecuteCommand", "times": 1})
    told = await tenant.ask("ExecuteCommand", point="xFabrikaDepo", command="horn")
    assert told["message"] == "SocketTimeoutException: connect timed out"
    assert (await tenant.ask("ExecuteCommand", point="xFabrikaDepo", command="horn"))["succeeded"]
    await tenant.switch(no_message=True)
    assert "message" not in await tenant.ask("GetPointHierarchy")
    await tenant.switch(unit="mixed", no_message=None)
    units = {row["definition.unit.code"] for row in await tenant.data("ListDataEx", **energy())}
    assert units == {"Wh", "kWh"}
    assert not (await tenant.ask("ListDataEx", **energy(point=["nowhere"])))["succeeded"]
    assert not (await tenant.ask("Boil"))["succeeded"]
    assert "no such method: Boil" in await tenant.noted()
