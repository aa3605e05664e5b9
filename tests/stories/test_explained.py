"""The grid operator phones: which limit was it, whose, since when, and what did the devices do?"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from support.daemon import Daemon, MakeDaemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

from fpd.sim.battery import Battery, BatteryOptions

GROUPS = "/api/v1/oscp/capacity-groups"
UPDATE = "update_group_capacity_forecast"
DEVICE = """
[control]
interval_s = 1
[[device]]
name = "cellar"
type = "battery"
base_url = "{url}"
capacity_wh = 10000
max_charge_w = 3300
max_discharge_w = 3300
verify_after_s = 5
node_id = 1
source_id = "site/battery"
"""
METER = {"nodeId": 1, "sourceId": "site/battery", "property": "gridWatts"}


def _now() -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=time.time())


@dataclass
class House:
    """A battery that obeys, a group, a provider and an optimizer, both online."""

    daemon: Daemon
    group_id: int
    cp: RecordingPeer
    co: RecordingPeer
    cp_token: str

    async def ask(
        self, what: str, body: Any = None, *, bearer: str | None = None
    ) -> tuple[int, Any]:
        """Ask a door of the group; with `body`, say it."""
        headers = {"Authorization": f"Bearer {bearer or self.daemon.bearer}"}
        url = f"{self.daemon.url}{GROUPS}/{self.group_id}/{what}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                "GET" if body is None else "POST", url, json=body, headers=headers
            ) as answer,
        ):
            return answer.status, await answer.json()

    async def data(self, what: str, body: Any = None) -> Any:
        status, said = await self.ask(what, body)
        assert status in (200, 202), said
        return said["data"]

    async def obeyed(self) -> Any:
        """Return the explanation of now once the battery was seen to follow the limit."""
        found = await self.data("explain")
        if found["envelope"] is None or found["envelope"]["reason"] != "forecast":
            return None
        followed = [d["followed"] for d in found["devices"] if d["followed"] is not None]
        of_this = [c for c in followed if c["envelopeId"] == found["envelope"]["id"]]
        return found if of_this else None


@pytest.fixture
async def house(make_daemon: MakeDaemon, database_url: str) -> AsyncIterator[House]:
    battery = Battery(BatteryOptions(usoc=60, response_lag_s=0.1), clock=_now)
    battery.switch({"consumption_w": 4200})
    await battery.start()
    daemon = await make_daemon(database_url, more=DEVICE.format(url=battery.url)).start()
    await daemon.log_in()
    site = await make_site(daemon)
    group = await daemon.manage("GET", f"capacity-groups/{site.group_id}")
    group["control"] = {"meter": METER, "marginPercent": 0}
    await daemon.manage("PUT", f"capacity-groups/{site.group_id}", group)
    asset = {
        "name": "cellar", "identifier": "cellar", "capacityGroupId": site.group_id, "enabled": True,
        "audience": "CapacityOptimizer", "nodeId": 1, "sourceId": "site/battery",
        "category": "Storage", "phase": "All", "control": {"device": "cellar"},
        "instantaneous": {"propertyNames": ["watts"], "unit": "W"},
    }  # fmt: skip
    await daemon.manage("POST", "assets", asset)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        co_token = await co.registers(daemon.url, site.optimizer_token)
        await co.acknowledges(daemon.url, co_token)
        cp_token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, cp_token)
        yield House(daemon, site.group_id, cp, co, cp_token)
    await battery.stop()


async def test_a_limit_is_explained_from_the_message_to_the_device_and_answered_by_hand(
    house: House,
) -> None:
    sent_at = _now()
    status, _, _ = await house.cp.says(
        house.daemon.url, UPDATE, forecast(3), token=house.cp_token, request_id="f-1"
    )
    assert status == 204
    found = await wait_for(house.obeyed, timeout=15, what="the battery to follow")
    _names_all_of_it(found, sent_at)
    earlier = await house.data(f"explain?at={quote(sent_at.isoformat())}")
    assert (earlier["envelope"] or {"maxW": None})["maxW"] is None, "before it nothing was limited"
    ahead = (await house.data("envelopes?hours=2"))["results"]
    assert [one["maxW"] for one in ahead] == [3000, None]
    (received,) = (await house.data("forecasts?type=CONSUMPTION"))["results"]
    heard = await house.co.hears(UPDATE)
    assert received["forward"]["requestId"] == heard.headers["x-request-id"]
    text = await house.daemon.command("oscp", "groups", "explain", str(house.group_id), "--json")
    by_command = json.loads(text)
    assert by_command["envelope"]["id"] == found["envelope"]["id"]
    assert by_command["forecasts"] == found["forecasts"]
    await _says_by_hand(house, found["forecasts"][0]["id"])
    await _is_nobody_elses(house)


def _names_all_of_it(found: Any, sent_at: datetime) -> None:
    envelope, (behind,), (cellar,) = found["envelope"], found["forecasts"], found["devices"]
    assert (envelope["maxW"], envelope["reason"], envelope["until"]) == (3000, "forecast", None)
    assert envelope["forecastIds"] == [behind["id"]]
    assert (behind["requestId"], behind["peerName"]) == ("f-1", "Lines Co.")
    (block,) = behind["blocks"]
    assert (block["capacity"], block["unit"], block["phase"]) == (3.0, "KW", "ALL")
    received = datetime.fromisoformat(behind["received"])
    assert sent_at - timedelta(seconds=1) < received <= datetime.fromisoformat(envelope["since"])
    confirmed = [c for c in cellar["commands"] if c["outcome"] == "confirmed"]
    assert cellar["name"] == "cellar" and confirmed
    assert confirmed[-1]["wanted"]["kind"] == "setpoint"
    assert confirmed[-1]["wanted"]["power_w"] == pytest.approx(1200, abs=50)
    assert cellar["now"]["confirmed"]["kind"] == "setpoint"


async def _says_by_hand(house: House, forecast_id: int) -> None:
    blocks = forecast(5)["forecasted_blocks"]
    wish = {"type": "CONSUMPTION", "blocks": blocks, "requestId": "f-1"}
    owed = await house.data("adjust-forecast", wish)
    adjust = await house.cp.hears("adjust_group_capacity_forecast")
    assert adjust.headers["x-request-id"] == owed["requestId"]
    assert adjust.headers["x-correlation-id"] == "f-1"
    assert (adjust.body["group_id"], adjust.body["type"]) == ("my-group", "CONSUMPTION")
    (block,) = adjust.body["forecasted_blocks"]
    assert (block["capacity"], block["unit"]) == (5.0, "KW")
    for name in ("start_time", "end_time"):
        assert datetime.fromisoformat(block[name]) == datetime.fromisoformat(blocks[0][name])
    await house.data("compliance-error", {"message": "no", "forecastId": forecast_id})
    complaint = await house.cp.hears("group_capacity_compliance_error")
    assert complaint.headers["x-correlation-id"] == "f-1" and complaint.body == {"message": "no"}
    assert complaint.token == adjust.token


async def _is_nobody_elses(house: House) -> None:
    text = await house.daemon.command("token", "create", "--user-id", "2", "--json")
    other = json.loads(text)["bearer"]
    for door in ("explain", "forecasts", "envelopes", "envelopes?hours=1"):
        assert (await house.ask(door, bearer=other))[0] == 404
    wish = {"type": "CONSUMPTION", "blocks": forecast()["forecasted_blocks"]}
    assert (await house.ask("adjust-forecast", wish, bearer=other))[0] == 404
