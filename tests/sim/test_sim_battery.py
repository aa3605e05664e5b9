from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from sim.conftest import Start
from sim.hands import Hands

from fpd.sim.battery import Battery, BatteryOptions

TOKEN = {"Auth-Token": "demo"}


@pytest.fixture
async def v1(start: Start, hands: Hands) -> Battery:
    """10 kWh, half full, 3300 W, 95 % each way, one second of lag."""
    battery = Battery(BatteryOptions(), clock=hands)
    await start(battery)
    return battery


@pytest.fixture
async def v2(start: Start, hands: Hands) -> Battery:
    battery = Battery(BatteryOptions(api="v2"), clock=hands)
    await start(battery)
    return battery


async def put(http: aiohttp.ClientSession, battery: Battery, path: str) -> str:
    async with http.put(f"{battery.url}/api/v1/{path}") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/html; charset=UTF-8"
        return await response.text()


async def status(http: aiohttp.ClientSession, battery: Battery, api: str = "v1") -> dict[str, Any]:
    async with http.get(f"{battery.url}/api/{api}/status") as response:
        told: dict[str, Any] = await response.json()
        return told


async def post(http: aiohttp.ClientSession, battery: Battery, path: str) -> tuple[int, Any]:
    async with http.post(f"{battery.url}/api/v2/{path}", headers=TOKEN) as response:
        return response.status, await response.json()


async def mode(http: aiohttp.ClientSession, battery: Battery, number: str) -> tuple[int, Any]:
    url, form = f"{battery.url}/api/v2/configurations", {"EM_OperatingMode": number}
    async with http.put(url, data=form, headers=TOKEN) as response:
        return response.status, await response.json()


async def test_a_setpoint_holds_for_ever_and_costs_energy(
    v1: Battery, http: aiohttp.ClientSession, hands: Hands
) -> None:
    assert await status(http, v1) == {
        "Consumption_W": 0,
        "Fac": 50.01,
        "IsSystemInstalled": 1,
        "Pac_total_W": -5,
        "Production_W": 0,
        "RSOC": 54,
        "Timestamp": "2025-03-12 10:07:00",
        "USOC": 50,
        "Uac": 231,
        "Ubat": 52,
    }
    answer = await put(http, v1, "setpoint/discharge/1900")
    assert (answer, len(answer)) == ('{"ReturnCode": 0}\n', 18)
    assert (await status(http, v1))["Pac_total_W"] == -5
    hands.move(seconds=1)
    assert (await status(http, v1))["Pac_total_W"] == 1900
    hands.move(hours=1)  # 1900 W / 95 % = 2 kWh
    assert (await status(http, v1))["USOC"] == 30
    hands.move(hours=1.5)
    assert (await status(http, v1))["Pac_total_W"] == -5  # empty
    assert v1.state()["usoc"] == 0

    await put(http, v1, "setpoint/charge/5000")
    hands.move(hours=1, seconds=1)  # the inverter can do 3300 W, 95 % of it arrive
    assert (await status(http, v1))["Pac_total_W"] == -3300
    assert v1.state()["usoc"] == pytest.approx(31.35)
    hands.move(hours=3)
    assert (await status(http, v1))["Pac_total_W"] == -5  # full
    async with http.get(f"{v1.url}/_sim/log", params={"invalid": "1"}) as response:
        (entry,) = await response.json()
    assert entry["invalid"] == ["5000 W is more than the 3300 W it can"]


async def test_return_codes_come_in_several_spellings(
    v1: Battery, http: aiohttp.ClientSession, hands: Hands
) -> None:
    v1.switch({"return_code_form": "string"})
    answer = await put(http, v1, "setpoint/charge/100")
    assert (answer, len(answer)) == ('{"ReturnCode":"0"}', 18)
    v1.switch({"return_code": 13, "return_code_form": "bare"})
    assert await put(http, v1, "setpoint/discharge/2000") == "13"
    hands.move(seconds=5)
    assert (await status(http, v1))["Pac_total_W"] == -100  # the failed one had no effect
    v1.switch({"return_code": 0, "return_code_form": "int", "status_return_code": 13})
    assert await put(http, v1, "setpoint/dance/100") == '{"ReturnCode": 5}\n'
    async with http.get(f"{v1.url}/api/v2/status") as response:
        assert '"ReturnCode": 5' in await response.text()
    async with http.get(f"{v1.url}/api/v1/setpoint/charge/100") as response:
        assert '"ReturnCode": 16' in await response.text()
    async with http.get(f"{v1.url}/api/v1/status") as response:
        assert '"ReturnCode": 13' in await response.text()
    assert await put(http, v1, "setpoint/charge/ten") == '{"ReturnCode": 0}\n'


async def test_a_status_can_be_incomplete_strange_or_frozen(
    v1: Battery, http: aiohttp.ClientSession, hands: Hands
) -> None:
    v1.switch({"missing": ["USOC"], "null": ["Fac"], "blank_key": True, "consumption_w": 700})
    told = await status(http, v1)
    assert "USOC" not in told and told["Fac"] is None and told["Pac total_W"] == -5
    assert told["Consumption_W"] == 700
    v1.switch({"missing": [], "blank_key": False, "frozen": True})
    frozen = await status(http, v1)
    await put(http, v1, "setpoint/discharge/1000")
    hands.move(minutes=2)
    assert await status(http, v1) == frozen
    assert v1.state()["pac_w"] == 1000  # what a meter would see
    v1.switch({"frozen": False, "not_installed": True, "off": True})
    told = await status(http, v1)
    assert (told["IsSystemInstalled"], told["Uac"], told["Pac_total_W"]) == (0, 0, 0)


async def test_the_clock_of_the_battery_is_local_and_springs_forward(
    start: Start,
    http: aiohttp.ClientSession,
) -> None:
    hands = Hands(datetime(2025, 3, 30, 0, 59, 59, tzinfo=UTC))
    battery = Battery(BatteryOptions(tz="Europe/Berlin"), clock=hands)
    await start(battery)
    assert (await status(http, battery))["Timestamp"] == "2025-03-30 01:59:59"
    hands.move(seconds=1)
    assert (await status(http, battery))["Timestamp"] == "2025-03-30 03:00:00"


async def test_somebody_else_may_interfere(
    v1: Battery, http: aiohttp.ClientSession, hands: Hands
) -> None:
    v1.switch({"foreign_w": -500})
    await put(http, v1, "setpoint/discharge/1000")
    hands.move(seconds=19)
    assert (await status(http, v1))["Pac_total_W"] == 1000
    hands.move(seconds=1)
    assert (await status(http, v1))["Pac_total_W"] == -500
    v1.switch({"foreign_w": None, "derated_w": 300})
    await put(http, v1, "setpoint/discharge/1000")
    hands.move(seconds=2)
    assert (await status(http, v1))["Pac_total_W"] == 300
    v1.switch({"ignores_setpoints": True})
    assert '"ReturnCode": 0' in await put(http, v1, "setpoint/discharge/0")
    hands.move(seconds=2)
    assert (await status(http, v1))["Pac_total_W"] == 300


async def test_newer_firmware_obeys_in_manual_mode_only(
    v2: Battery, http: aiohttp.ClientSession, hands: Hands
) -> None:
    v2.switch({"consumption_w": 800, "production_w": 200})
    told = await status(http, v2, "v2")
    assert (told["Pac_total_W"], told["GridFeedIn_W"], told["OperatingMode"]) == (600, 0, "2")
    assert await post(http, v2, "setpoint/charge/1500") == (201, True)
    hands.move(seconds=2)
    assert (await status(http, v2, "v2"))["Pac_total_W"] == 600  # not in manual mode

    assert await mode(http, v2, "1") == (200, {"EM_OperatingMode": "1"})
    assert await post(http, v2, "setpoint/charge/1500") == (201, True)
    hands.move(seconds=2)
    told = await status(http, v2, "v2")
    assert (told["Pac_total_W"], told["GridFeedIn_W"]) == (-1500, -2100)
    await mode(http, v2, "2")
    assert (await status(http, v2, "v2"))["Pac_total_W"] == 600
    await mode(http, v2, "1")
    assert (await status(http, v2, "v2"))["Pac_total_W"] == -1500  # it remembers
    async with http.get(f"{v2.url}/api/v2/latestdata", headers=TOKEN) as response:
        latest = await response.json()
    assert (latest["SetPoint_W"], latest["FullChargeCapacity"]) == (-1500, 10_000)
    async with http.get(f"{v2.url}/api/v2/configurations", headers=TOKEN) as response:
        assert (await response.json())["IC_InverterMaxPower_w"] == "3300"


async def test_newer_firmware_may_refuse(v2: Battery, http: aiohttp.ClientSession) -> None:
    url = f"{v2.url}/api/v2/setpoint/charge/100"
    async with http.post(url) as response:
        assert response.status == 401
    v2.switch({"old_firmware": True})
    async with http.post(url, headers={"Auth-Token": "wrong-token-1234"}) as response:
        assert (response.status, await response.json()) == (200, {})
    assert (await post(http, v2, "setpoint/charge/much"))[0] == 400
    assert (await mode(http, v2, "7"))[0] == 400
    v2.switch({"vpp": True})
    assert await post(http, v2, "setpoint/charge/100") == (403, {"error": "VPP has priority"})
    assert (await mode(http, v2, "1"))[0] == 403
    async with http.get(f"{v2.url}/api/v1/status") as response:
        assert response.status == 404
    async with http.get(f"{v2.url}/_sim/log", params={"path": "/charge/100"}) as response:
        shown = [entry["headers"].get("Auth-Token") for entry in await response.json()]
    assert shown == [None, "…1234", "…"]


async def test_a_slow_or_absent_battery(v1: Battery, http: aiohttp.ClientSession) -> None:
    v1.switch({"delay_s": 0.15})
    begun = asyncio.get_running_loop().time()
    await status(http, v1)
    assert asyncio.get_running_loop().time() - begun >= 0.15
    away = asyncio.create_task(v1.refuse_connections(0.2))
    await asyncio.sleep(0.05)
    with pytest.raises(aiohttp.ClientConnectorError):
        await status(http, v1)
    await away
    v1.switch(None)
    assert (await status(http, v1))["USOC"] == 50
