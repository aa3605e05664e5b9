from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from sim.conftest import Start
from sim.hands import Hands
from support.waiting import wait_for

from fpd.embedded.broker import EmbeddedBroker
from fpd.errors import Misconfigured
from fpd.sim.battery import Battery, BatteryOptions
from fpd.sim.bluegen import BlueGen, BlueGenOptions
from fpd.sim.site import Site, SiteOptions
from fpd.sim.subscriber import Subscriber, SubscriberOptions, decoded

LOGIN = {"mqtt_username": "subscriber", "mqtt_password": "subscriber's password"}


async def listening(start: Start, broker: EmbeddedBroker, *topics: str) -> Subscriber:
    options = SubscriberOptions(mqtt_url=broker.address.url, topic=topics or ("#",), **LOGIN)
    subscriber = Subscriber(options, clock=lambda: datetime.now(UTC))
    await start(subscriber)
    await wait_for(lambda: subscriber.state()["connected"])
    return subscriber


async def heard(
    http: aiohttp.ClientSession, subscriber: Subscriber, topic: str, count: int
) -> list[dict[str, Any]]:
    wanted = {"path": topic, "count": count, "timeout": 5}
    async with http.get(f"{subscriber.url}/_sim/log/wait", params=wanted) as response:
        log: list[dict[str, Any]] = await response.json()
        assert response.status == 200, log
        return log


async def test_loads_publish_their_history_and_go_on(
    start: Start, broker: EmbeddedBroker, http: aiohttp.ClientSession, hands: Hands
) -> None:
    """The clock stands at 10:07; the raster is 5 s, the history three minutes."""
    subscriber = await listening(start, broker, "node/+/datum/0/#")
    options = SiteOptions(mqtt_url=broker.address.url, node_id=7, load=("load/1=3600",), **LOGIN)
    site = Site(options, clock=hands)
    await start(site)
    log = await heard(http, subscriber, "node/7/datum/0/load/1", 36)
    data = [entry["body"] for entry in log]
    assert (data[0]["created"], data[-1]["created"]) == (
        datetime(2025, 3, 12, 10, 4, 5, tzinfo=UTC).timestamp() * 1000,
        hands().timestamp() * 1000,
    )
    assert data[0].keys() == {"created", "nodeId", "sourceId", "watts", "wattHours", "state"}
    assert (data[0]["nodeId"], data[0]["sourceId"], data[0]["watts"]) == (7, "load/1", 3600)
    steps = [after["wattHours"] - before["wattHours"] for before, after in pairwise(data)]
    assert steps == pytest.approx([5.0] * 35)
    assert log[0]["headers"] == {"qos": "1", "retain": "false", "encoding": "json"}

    site.switch({"loads": {"load/1": 1800}})
    hands.move(seconds=11)
    log = await heard(http, subscriber, "load/1", 38)
    assert [entry["body"]["watts"] for entry in log[-2:]] == [1800, 1800]
    site.switch({"stop_publishing": True})
    hands.move(seconds=5)
    await asyncio.sleep(0.3)
    site.switch({"stop_publishing": False, "garbage": True})
    hands.move(seconds=5)
    log = await heard(http, subscriber, "load/1", 40)
    assert [entry["headers"]["encoding"] for entry in log[-2:]] == ["base64", "json"]
    assert log[-1]["body"]["created"] - log[-3]["body"]["created"] == 10_000


async def test_the_other_shape_and_the_other_encoding(
    start: Start, broker: EmbeddedBroker, http: aiohttp.ClientSession, hands: Hands
) -> None:
    subscriber = await listening(start, broker)
    options = SiteOptions(
        mqtt_url=broker.address.url, load=("/house=600~100",), samples=("/house",),
        backfill=5, encoding="cbor", **LOGIN,
    )  # fmt: skip
    site = Site(options, clock=hands)
    await start(site)
    (entry,) = await heard(http, subscriber, "node/1/datum/0/house", 1)
    assert entry["headers"]["encoding"] == "cbor"
    body = entry["body"]
    assert body.keys() == {"created", "sourceId", "samples"}
    assert body["samples"].keys() == {"i", "a", "s"}
    assert body["samples"]["i"]["watts"] == pytest.approx(600, abs=100)


async def test_the_grid_meter_closes_the_loop_physically(
    start: Start, broker: EmbeddedBroker, http: aiohttp.ClientSession, hands: Hands
) -> None:
    battery = Battery(BatteryOptions(response_lag_s=0), clock=hands)
    bluegen = BlueGen(BlueGenOptions(), clock=hands)
    subscriber = await listening(start, broker, "node/1/datum/0/meter/grid")
    options = SiteOptions(
        mqtt_url=broker.address.url, load=("load/1=5000",), backfill=0, meter=True,
        battery_url=(await start(battery),), bluegen_url=(await start(bluegen),), **LOGIN,
    )  # fmt: skip
    site = Site(options, clock=hands)
    await start(site)
    hands.move(seconds=5)
    (entry,) = await heard(http, subscriber, "meter/grid", 1)
    assert entry["body"]["watts"] == 5000 + 5 - 1500
    async with http.put(f"{battery.url}/api/v1/setpoint/discharge/3000"):
        hands.move(seconds=5)
    _, entry = await heard(http, subscriber, "meter/grid", 2)
    assert entry["body"]["watts"] == 5000 - 3000 - 1500
    site.switch({"loads": {"load/1": 100}})
    hands.move(seconds=5)
    *_, entry = await heard(http, subscriber, "meter/grid", 3)
    assert entry["body"]["watts"] == -4400
    assert entry["body"]["wattHoursReverse"] > 0

    await battery.stop()
    hands.move(seconds=5)
    *_, entry = await heard(http, subscriber, "meter/grid", 4)
    assert entry["body"]["watts"] == -4400  # unreachable: it goes on as it was


async def test_an_outage_of_the_broker_loses_nothing(
    start: Start, broker: EmbeddedBroker, http: aiohttp.ClientSession, hands: Hands
) -> None:
    options = SiteOptions(
        mqtt_url=broker.address.url, load=("load/1=100",), period=1, backfill=2, **LOGIN
    )
    site = Site(options, clock=hands)
    await start(site)
    await wait_for(lambda: site.state()["published"] == 2)
    await broker.stop()
    await wait_for(lambda: not site.state()["connected"])
    hands.move(seconds=2)
    await wait_for(lambda: site.state()["pending"] == 2)
    await broker.start()
    await wait_for(lambda: site.state()["pending"] == 0)
    assert site.state()["published"] == 4


async def test_wrong_credentials_are_refused_again_and_again(
    start: Start, broker: EmbeddedBroker
) -> None:
    url = broker.address.url.replace("mqtt://", "mqtt://subscriber@")
    wrong = Subscriber(
        SubscriberOptions(mqtt_url=url, mqtt_password="a guess"), clock=lambda: datetime.now(UTC)
    )
    await start(wrong)
    right = Subscriber(
        SubscriberOptions(mqtt_url=url, mqtt_password=LOGIN["mqtt_password"]),
        clock=lambda: datetime.now(UTC),
    )
    await start(right)
    await wait_for(lambda: right.state()["connected"])
    assert not wrong.state()["connected"]


@pytest.mark.parametrize(
    "made",
    [
        lambda: SiteOptions(load=("load/1=lots",)),
        lambda: SiteOptions(mqtt_url="http://127.0.0.1"),
        lambda: SiteOptions(period=0),
    ],
)
def test_options_that_cannot_be_meant(made: Callable[[], SiteOptions], hands: Hands) -> None:
    with pytest.raises(Misconfigured):
        Site(made(), clock=hands)


@pytest.mark.parametrize(
    ("payload", "encoding", "value"),
    [
        (b'{"watts": 5}', "json", {"watts": 5}),
        (b"\xa1ewatts\x05", "cbor", {"watts": 5}),
        (b"\xff\xfe", "base64", "//4="),
        (b"online", "base64", "b25saW5l"),
        (b"", "base64", ""),
    ],
)
def test_payloads_are_shown_as_what_they_are(payload: bytes, encoding: str, value: Any) -> None:
    assert decoded(payload) == (encoding, value)
