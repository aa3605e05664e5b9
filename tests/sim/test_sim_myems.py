"""The simulated MyEMS answers as the recorded v6.7.0 does, byte for byte where it matters."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from sim.conftest import Start
from sim.hands import Hands

from fpd.sim.myems import MyEms, MyEmsOptions

KEY = {"API-Key": "fpd-key", "Accept": "application/json"}


@pytest.fixture
async def server(start: Start, hands: Hands) -> MyEms:
    """Wednesday 12 March 2025, 10:07 UTC, at +02:00."""
    server = MyEms(MyEmsOptions(utc_offset="+02:00", history_h=0.1), clock=hands)
    await start(server)
    return server


class Client:
    def __init__(self, http: aiohttp.ClientSession, server: MyEms) -> None:
        self._http, self._url = http, server.url
        self.headers = dict(KEY)

    async def __call__(
        self, method: str, path: str, document: Any = None, **headers: str
    ) -> tuple[int, str]:
        data = None if document is None else json.dumps(document)
        async with self._http.request(
            method, self._url + path, data=data, headers=self.headers | headers
        ) as response:
            assert response.content_type == "application/json"
            return response.status, await response.text()

    async def log_in(self, name: str = "administrator") -> None:
        said = {"data": {"name": name, "password": "!MyEMS1"}}
        account = json.loads((await self("PUT", "/users/login", said))[1])
        self.headers = {"User-UUID": account["uuid"], "Token": account["token"]}


@pytest.fixture
def client(http: aiohttp.ClientSession, server: MyEms) -> Client:
    return Client(http, server)


async def test_values_have_six_decimals_and_states_none(client: Client) -> None:
    status, text = await client("GET", "/reports/pointrealtime")
    assert status == 200
    assert text.startswith('[{"point_id": 10, "value": 14.200000}, {"point_id": 13, "value": 55.0')
    assert text.endswith('{"point_id": 17, "value": 1}]') and '"point_id": 24' not in text
    assert await client("GET", "/meters/6/commands") == (
        200,
        '[{"id": 1, "name": "battery_power_setpoint", '
        '"uuid": "81d5d585-0315-520f-a33b-faaa6e88bc77"}]',
    )


async def test_a_meters_points_come_by_name_and_its_report_by_id(
    client: Client, server: MyEms
) -> None:
    points = json.loads((await client("GET", "/meters/6/points"))[1])
    assert [p["id"] for p in points] == [15, 14, 13, 17]
    said = json.loads((await client("GET", "/reports/meterrealtime?meterid=6"))[1])
    assert said["energy_value"]["name"] == "Battery charge energy (kWh)"
    assert said["parameters"]["names"] == [
        "Battery SOC (%)", "Battery power (kW)", "Battery state (state)",
    ]  # fmt: skip
    assert said["parameters"]["timestamps"][0][0] == "2025-03-12T12:01:00"
    quick = json.loads((await client("GET", "/reports/meterrealtime?meterid=6&quickmode=true"))[1])
    assert quick["energy_value"] == {"name": None, "timestamps": [], "values": []}


NO_KEY = {"API-Key": ""}


@pytest.mark.parametrize(
    ("method", "path", "document", "headers", "status", "said"),
    [
        ("GET", "/meters", None, {"API-Key": "x"}, 404, "API.NOT_FOUND|API.API_KEY_NOT_FOUND"),
        ("GET", "/points", None, {}, 400, "API.BAD_REQUEST|API.INVALID_USER_UUID"),
        ("GET", "/points", None, {"User-UUID": "u"}, 400, "API.BAD_REQUEST|API.INVALID_TOKEN"),
        ("GET", "/points", None, {"User-UUID": "u", "Token": "t"}, 404,
         "API.NOT_FOUND|API.ADMINISTRATOR_SESSION_NOT_FOUND"),
        ("GET", "/meters", None, NO_KEY | {"User-UUID": "u", "Token": "t"}, 404,
         "API.NOT_FOUND|API.USER_SESSION_NOT_FOUND"),
        ("GET", "/microgridbatteries", None, {}, 404, "404 Not Found|"),
        ("GET", "/reports/pointrealtime?data_source_ids=1&data_source_ids=2", None, {}, 500,
         "500 Internal Server Error|"),
        ("GET", "/reports/metertrend?meterid=999", None, {}, 404,
         "API.NOT_FOUND|API.METER_NOT_FOUND"),
        ("GET", "/reports/metertrend?meterid=6&reportingperiodstartdatetime=2026-11-20T21:56:57Z",
         None, {}, 400, "API.BAD_REQUEST|API.INVALID_REPORTING_PERIOD_START_DATETIME"),
        ("PUT", "/users/login", {"data": {"name": "nosuch", "password": "x"}}, {}, 404,
         "API.ERROR|API.USER_NOT_FOUND"),
        ("POST", "/reports/offlinemeterinput", {"meter": 2, "value": []}, {}, 404,
         "API.NOT_FOUND|API.OFFLINE_METER_NOT_FOUND"),
        ("POST", "/reports/offlinemeterinput", {"meter": 1, "value": [["2026-11-19", "-1"]]}, {},
         400, "API.BAD_REQUEST|API.INVALID_OFFLINE_METER_VALUE"),
    ],
)  # fmt: skip
async def test_refusals(
    client: Client, method: str, path: str, document: Any, headers: dict[str, str],
    status: int, said: str,
) -> None:  # fmt: skip
    found, text = await client(method, path, document, **headers)
    title, _, description = said.partition("|")
    expected = {"title": title} | ({"description": description} if description else {})
    assert (found, json.loads(text)) == (status, expected)
    if description:
        assert await client(method, path, document, **headers, Accept="text/html") == (status, "")


async def test_the_third_wrong_password_locks(client: Client, server: MyEms) -> None:
    wrong = {"data": {"name": "administrator", "password": "x"}}
    for _ in range(3):
        assert "API.INVALID_PASSWORD" in (await client("PUT", "/users/login", wrong))[1]
    right = {"data": {"name": "administrator", "password": "!MyEMS1"}}
    assert "HAS_BEEN_LOCKED" in (await client("PUT", "/users/login", right))[1]


async def test_sessions_end_8_hours_after_the_login_however_much_they_are_used(
    client: Client, hands: Hands
) -> None:
    await client.log_in()
    for hours in (4, 3.9):
        hands.move(hours=hours)
        assert (await client("GET", "/points"))[0] == 200
    hands.move(hours=0.2)
    assert (await client("GET", "/points"))[1] == (
        '{"title": "API.BAD_REQUEST", "description": "API.ADMINISTRATOR_SESSION_TIMEOUT"}'
    )
    await client.log_in()
    assert await client("PUT", "/users/logout") == (200, '"OK"')
    assert (await client("PUT", "/users/logout"))[0] == 404


@pytest.mark.parametrize(
    ("data", "status", "payload", "stored"),
    [
        ({"set_value": -25.5}, 200, "-25.5", -25.5),
        ({"set_value": 1200}, 200, "1200", 1200),
        ({"set_value": 0}, 200, "0", 0),
        ({}, 200, "0.0", None),
        ({"set_value": True}, 200, "1", 1),
        ({"set_value": 1e-7}, 200, "1e-07", 0),
        ({"set_value": "10"}, 400, None, 0),
    ],
)
async def test_the_send_matrix(
    client: Client, server: MyEms, data: Any, status: int, payload: str | None, stored: Any
) -> None:
    await client.log_in()
    found, text = await client("PUT", "/commands/1/send", {"data": data})
    assert found == status and (text == '"success"') == (status == 200)
    sent = [one["payload"] for one in server.state()["published"]]
    assert sent == ([] if payload is None else [f'{{"device":"battery","set_value":{payload}}}'])
    command = json.loads((await client("GET", "/commands/1"))[1])
    assert command["set_value"] == stored


async def test_what_a_payload_makes_of_nothing_and_of_nonsense(
    client: Client, server: MyEms
) -> None:
    await client.log_in()
    server.site.commands[2].set_value = None
    assert (await client("PUT", "/commands/2/send", {"data": {}}))[0] == 200
    assert server.state()["published"][-1]["payload"].endswith(":0}")
    server.site.commands[2].payload = "cost $"
    assert "MQTT_PUBLISH_ERROR" in (await client("PUT", "/commands/2/send", {"data": {}}))[1]


async def test_a_period_ends_after_it_begins(client: Client) -> None:
    period = "reportingperiod{}datetime=2026-03-12T10:{}".format
    for path, minutes, status in (
        ("metertrend?meterid=6", ("30:00", "30:00"), 200),  # the beginning is floored
        ("metertrend?meterid=6", ("00:00", "00:00"), 400),
        ("meterenergy?meterid=6&periodtype=hourly", ("30:00", "30:00"), 400),
        ("meterenergy?meterid=6", ("00:00", "30:00"), 400),
    ):
        since, until = period("start", minutes[0]), period("end", minutes[1])
        assert (await client("GET", f"/reports/{path}&{since}&{until}"))[0] == status, path


async def test_schedules_come_back_as_python_writes_them(client: Client) -> None:
    await client.log_in()
    path = "/energystoragecontainers/1/schedules"
    row = {"start_time_of_day": "07:00:00", "end_time_of_day": "24:00:00", "peak_type": "deep"}
    assert await client("POST", path, {"data": row}) == (200, "")
    assert await client("POST", path, {"data": row | {"power": 5}}) == (201, "")
    assert await client("GET", path) == (
        200,
        '[{"id": 1, "start_time_of_day": "7:00:00", "end_time_of_day": "1 day, 0:00:00", '
        '"peak_type": "deep", "power": 5.000000}]',
    )
    assert await client("DELETE", f"{path}/9") == (
        404,
        '{"title": "API.NOT_FOUND", '
        '"description": "API.ENERGY_STORAGE_CONTAINER_SCHEDULE_NOT_FOUND"}',
    )


async def test_a_filter_spoils_the_list_of_points_for_everybody(client: Client) -> None:
    await client.log_in()
    await client("GET", "/points?data_source_id=15")
    assert len(json.loads((await client("GET", "/points"))[1])) == 1


async def test_a_rejected_day_is_empty_afterwards(client: Client, server: MyEms) -> None:
    for value, status in (("24.0", 200), ("99999", 400)):
        said = {"meter": 1, "value": [["2026-11-19", value]]}
        assert (await client("POST", "/reports/offlinemeterinput", said))[0] == status
    assert server.state()["offline_days"] == {}
