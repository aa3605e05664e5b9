"""SolarNetwork's public JavaScript client, as it is published, manages a real daemon.

SOLARNETWORK_CLIENT names the folder below which it was installed, then nothing is skipped;
else it is looked for in build/node: npm install --prefix build/node solarnetwork-api-core@3
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

from fpd.domain.datum import Datum, StreamKey
from fpd.store import streams
from fpd.store.db import Database

SCRIPT = Path(__file__).with_name("solarnetwork_client.mjs")
USUAL = Path(__file__).parents[2] / "build" / "node"
OSCP = "/user/oscp"
PLACE = "/solaruser/api/v1/sec/user/oscp"


@pytest.fixture
def folder() -> Path:
    """Return where the client is, or skip the test; fail it where it has to run."""
    told = os.environ.get("SOLARNETWORK_CLIENT")
    folder = Path(told) if told else USUAL
    missing = None
    if shutil.which("node") is None:
        missing = "node is not installed"
    elif not (folder / "node_modules" / "solarnetwork-api-core").is_dir():
        missing = f"solarnetwork-api-core is not installed below {folder}"
    if missing and told:
        pytest.fail(missing)
    if missing:
        pytest.skip(f"{missing} (.ci/run does it)")
    return folder


class Client:
    def __init__(self, process: Process) -> None:
        self._process = process

    async def sends(self, method: str, path: str = "", **more: Any) -> Any:
        """Have the client sign and send a request; return the answer."""
        assert self._process.stdin and self._process.stdout
        said = {"method": method, "path": OSCP + path, **more}
        self._process.stdin.write(json.dumps(said).encode() + b"\n")
        line = await asyncio.wait_for(self._process.stdout.readline(), 20)
        assert line, "the client ended"
        return json.loads(line)

    async def gets(self, path: str) -> Any:
        answer = await self.sends("GET", path)
        assert answer["status"] == 200, answer
        return answer["body"]["data"]

    async def asks(self, method: str, filter: Any, **more: Any) -> Any:
        """Have the client ask for datum; return the data and the dates that it makes of them."""
        answer = await self.sends("GET", ask=method, filter=filter, **more)
        assert answer["status"] == 200, answer
        assert answer["body"]["success"]
        return answer["body"]["data"], answer.get("dates") or answer.get("rows")

    async def loads(self, filter: Any, *, page: int, **more: Any) -> list[Any]:
        """Load page after page as solarnetwork-datum-loader does: until one is not full."""
        rows: list[Any] = []
        plain = {**filter, "withoutTotalResultsCount": True}
        while True:
            said, _ = await self.asks(filter=plain, max=page, offset=len(rows), **more)
            assert said["startingOffset"] == len(rows)
            rows += said["results"]
            if said["returnedResultCount"] < page:
                return rows

    async def creates(self, path: str, body: Any) -> Any:
        answer = await self.sends("POST", path, body=body)
        assert answer["status"] == 201, answer
        made = answer["body"]["data"]
        assert answer["location"] == f"{PLACE}{path}/{made['configId']}"
        return made


@pytest.fixture
async def client(folder: Path, daemon: Daemon) -> AsyncIterator[Client]:
    text = await daemon.command("token", "create", "--user-id", "1", "--json")
    token = json.loads(text)
    arguments = [str(SCRIPT), str(folder), daemon.url, token["id"], token["secret"]]
    process = await asyncio.create_subprocess_exec("node", *arguments, stdin=PIPE, stdout=PIPE)
    assert process.stdin
    yield Client(process)
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_it_manages_entities_and_speaks_for_an_optimizer(
    client: Client, daemon: Daemon
) -> None:
    provider = await client.creates("/capacity-providers", {"name": "Lines Co.", "enabled": True})
    optimizer = await client.creates("/capacity-optimizers", {"name": "O & Co", "enabled": True})
    group = {
        "name": "Größe 1 + 2",
        "identifier": "my-group",
        "capacityProviderId": provider["configId"],
        "capacityProviderMeasurementPeriod": "FifteenMinute",
        "capacityOptimizerId": optimizer["configId"],
        "capacityOptimizerMeasurementPeriod": "FiveMinute",
        "enabled": True,
    }
    made = await client.creates("/capacity-groups", group)
    assert await client.gets("/capacity-groups?max=5&offset=0") == {
        "totalResults": 1, "startingOffset": 0, "returnedResultCount": 1, "results": [made],
    }  # fmt: skip

    changed = await client.sends("PUT", "/capacity-groups/1", body={**group, "name": "Ω"})
    assert changed["status"] == 200
    assert (await client.gets("/capacity-groups/1"))["name"] == "Ω"
    again = await client.sends("POST", "/capacity-groups", body=group)
    assert (again["status"], again["body"]["code"]) == (409, "DAO.00101")
    in_use = await client.sends("DELETE", "/capacity-providers/1")
    assert (in_use["status"], in_use["body"]["code"]) == (409, "DAO.00105")

    async with RecordingPeer("cp") as cp:
        await cp.shakes_hands(daemon.url, await cp.registers(daemon.url, provider["token"]))
        for form in (False, True):
            await _speaks(client, cp, optimizer["configId"], form=form)

    assert (await client.sends("DELETE", "/capacity-groups/1"))["body"] == {"success": True}
    assert (await client.sends("DELETE", "/capacity-groups/1"))["status"] == 404


async def _speaks(client: Client, cp: RecordingPeer, co_id: int, *, form: bool) -> None:
    wish = forecast(10 if form else 9)
    given = {
        "action": "AdjustGroupCapacityForecast",
        "coId": str(co_id),
        "cgIdentifier": "my-group",
        "msg": json.dumps(wish),
    }
    parameters = [{"name": name, "value": value} for name, value in given.items()]
    instruction = {"topic": "OSCP_v20", "parameters": parameters}
    answer = await client.sends("POST", instruction=instruction, form=form)
    assert answer["status"] == 200, answer
    id = answer["body"]["data"]["id"]
    heard = await cp.hears("adjust_group_capacity_forecast", 2 if form else 1)
    assert heard.body == wish

    async def completed() -> bool:
        answer = await client.sends("GET", view=id)
        return bool(answer["body"]["data"]["state"] == "Completed")

    await wait_for(completed)


async def test_it_reads_datum(client: Client, daemon: Daemon, database_url: str) -> None:
    noon = datetime(2026, 3, 10, 12, tzinfo=UTC)
    db = Database(database_url, clock=lambda: noon)
    await db.open()
    readings = [
        Datum(
            stream=StreamKey(1, 7, "größe/1 2"),
            at=noon + timedelta(seconds=30 * n),
            i={"watts": Decimal(60)},
            a={"wattHours": Decimal(n) / 2},
        )
        for n in range(21)
    ]
    async with db.transaction() as conn:
        await streams.write(conn, readings, now=noon)
    await db.close()
    of = {"nodeId": 7, "sourceId": "/größe/*"}
    span = {**of, "startDate": "2026-03-10T12:00:00Z", "endDate": "2026-03-10T12:10:00Z"}

    assert (await client.asks("listAllNodeIdsUrl", {}))[0] == [7]
    assert (await client.asks("availableSourcesUrl", of))[0] == [
        {"nodeId": 7, "sourceId": "/größe/1 2"}
    ]
    about, _ = await client.asks("reportableIntervalUrl", {"nodeId": 7, "sourceIds": ["größe/1 2"]})
    assert about["endDateMillis"] - about["startDateMillis"] == 600_000

    said, dates = await client.asks("listDatumUrl", span, max=3, offset=2)
    assert (said["totalResults"], said["returnedResultCount"], said["startingOffset"]) == (20, 3, 2)
    assert dates == ["2026-03-10T12:01:00.000Z"] * 2 + ["2026-03-10T12:02:00.000Z"]
    made, dates = await client.asks("listDatumUrl", {**span, "aggregation": "FiveMinute"})
    assert [(row["watts"], row["wattHours"]) for row in made["results"]] == [(60, 5), (60, 5)]
    assert dates == ["2026-03-10T12:00:00.000Z", "2026-03-10T12:05:00.000Z"]
    (latest,), _ = (await client.asks("mostRecentDatumUrl", of))[0]["results"], None
    assert (latest["localTime"], latest["wattHours"]) == ("12:10", 10)
    (read,) = (await client.asks("datumReadingUrl", span, readingType="CalculatedAtDifference"))[0][
        "results"
    ]
    assert (read["wattHours_start"], read["wattHours_end"], read["wattHours"]) == (0, 10, 10)

    loaded = await client.loads(span, page=7, method="listDatumUrl")
    assert [row["wattHours"] for row in loaded] == [n / 2 for n in range(20)]
    (only,) = await client.loads(span, page=7, method="datumReadingUrl", readingType="Difference")
    assert only["wattHours"] == 10
    said, _ = await client.asks("listDatumUrl", span, sort="created", max=2)
    assert [row["wattHours"] for row in said["results"]] == [9.5, 9]
    made, _ = await client.asks("listDatumUrl", {**of, "aggregation": "Month"})
    assert [(row["created"], row["wattHours"]) for row in made["results"]] == [
        ("2026-03-01 00:00:00.000Z", 10)
    ]

    _, rows = await client.asks("streamDatumUrl", span, max=2, sort="created")
    date = {"date": "2026-03-10T12:09:30.000Z", "sourceId": "/größe/1 2", "nodeId": 7}
    assert rows[0] == {"streamId": rows[0]["streamId"], **date, "watts": 60, "wattHours": 9.5}
    _, (period, _) = await client.asks("streamDatumUrl", {**span, "aggregation": "FiveMinute"})
    assert period.items() >= {"watts": 60, "watts_count": 10, "watts_max": 60}.items()
    assert period.items() >= {"wattHours": 5, "wattHours_start": 0, "wattHours_end": 5}.items()
    _, (read,) = await client.asks("streamReadingUrl", span, readingType="Difference")
    assert (read["wattHours_start"], read["wattHours_end"], read["wattHours"]) == (0, 10, 10)
