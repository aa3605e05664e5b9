from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from sim.conftest import Start
from sim.provider import FIRST_TOKEN, TinyProvider
from sim.talk import act, in_an_hour, measurements, now, switch, wrongs
from support.waiting import wait_for

from fpd.sim.capacity_provider import CapacityProvider, CapacityProviderOptions
from fpd.sim.journal import Filter


def acknowledged(peer: CapacityProvider) -> Callable[[], bool]:
    return lambda: peer.received["handshake_acknowledge"] == 1


async def test_it_registers_with_three_tokens_shakes_hands_and_keeps_the_link_alive(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    (headers, register), *_ = fp.messages("register")
    assert headers["Authorization"] == f"Token {FIRST_TOKEN}"
    assert register["version_url"] == [{"version": "2.0", "base_url": f"{cp.url}/oscp/cp/2.0"}]
    (headers, handshake), *_ = fp.messages("handshake")
    assert headers["Authorization"] == f"Token {fp.token_for_peer}" != f"Token {FIRST_TOKEN}"
    assert handshake["required_behaviour"] == {
        "heartbeat_interval": 60.0,
        "measurement_configuration": ["CONTINUOUS"],
    }

    wait = {"path": "/heartbeat", "direction": "out", "count": 2, "timeout": 4}
    async with http.get(f"{cp.url}/_sim/log/wait", params=wait) as response:
        beats = await response.json()
    assert [beat["status"] for beat in beats] == [204, 204]
    first, second = (datetime.fromisoformat(b["body"]["offline_mode_at"]) for b in beats)
    assert first - datetime.fromisoformat(beats[0]["at"]) >= timedelta(seconds=2.9)
    assert timedelta(seconds=0.7) < second - first < timedelta(seconds=3)  # asked for: 1 s
    assert await wrongs(http, cp) == []


async def test_the_log_is_in_order_and_shows_of_tokens_only_the_end(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    async with http.get(f"{cp.url}/_sim/log") as response:
        log = await response.json()
    exchanges = [(e["direction"], e["path"].rpartition("/")[2]) for e in log]
    assert exchanges[:4] == [
        ("out", "register"),
        ("in", "register"),
        ("out", "handshake"),
        ("in", "handshake_acknowledge"),
    ]
    assert log[1]["headers"]["X-Correlation-ID"] == log[0]["headers"]["X-Request-ID"]
    assert log[0]["headers"]["Authorization"] == f"Token …{FIRST_TOKEN[-4:]}"
    assert log[1]["body"]["token"] == f"…{fp.token_for_peer[-4:]}"
    text = str(log)
    assert FIRST_TOKEN not in text and fp.token_of_peer not in text

    params = {"since": log[1]["seq"], "path": "handshake"}
    async with http.get(f"{cp.url}/_sim/log", params=params) as response:
        assert [e["seq"] for e in await response.json()] == [e["seq"] for e in log[2:4]]
    async with http.delete(f"{cp.url}/_sim/log") as response:
        assert response.status == 204
    async with http.get(f"{cp.url}/_sim/log", params={"path": "register"}) as response:
        assert await response.json() == []


async def test_a_forecast_is_sent_on_command_and_a_compliance_error_must_name_it(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    told = await act(
        http, cp, "forecast", group_id="north", hours=2, block_minutes=60, capacity=3.5,
        start="2030-03-10T12:00:00Z",
    )  # fmt: skip
    assert (told["status"], told["body"], told["link"]) == (204, None, "online")
    ((headers, forecast),) = fp.messages("update_group_capacity_forecast")
    assert headers["X-Request-ID"] == told["request_id"]
    assert forecast["type"] == "CONSUMPTION"
    block = {"capacity": 3.5, "phase": "ALL", "unit": "KW"}
    assert forecast["forecasted_blocks"] == [
        {**block, "start_time": "2030-03-10T12:00:00Z", "end_time": "2030-03-10T13:00:00Z"},
        {**block, "start_time": "2030-03-10T13:00:00Z", "end_time": "2030-03-10T14:00:00Z"},
    ]

    operation = "group_capacity_compliance_error"
    assert await fp.send(operation, {"message": "no"}, correlation_id=told["request_id"]) == (
        204,
        None,
    )
    status, answer = await fp.send(operation, {"message": "no"}, correlation_id="another")
    assert status == 400 and "X-Correlation-ID" in answer["message"]
    assert await wrongs(http, cp) == [answer["message"]]


async def test_an_action_tells_what_the_provider_answered(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    fp.statuses["update_group_capacity_forecast"] = 404
    told = await act(http, cp, "forecast", group_id="nowhere", capacity=1)
    assert told["status"] == 404
    fp.statuses["heartbeat"] = 200
    assert (await act(http, cp, "heartbeat", offline_in_s=-5))["status"] == 200
    assert "success must be 204 without a body, not 200" in await wrongs(http, cp)
    async with http.post(f"{cp.url}/_sim/actions/dance") as response:
        assert response.status == 404 and "forecast" in (await response.json())["known"]
    async with http.post(f"{cp.url}/_sim/actions/forecast", json={"group_id": "n"}) as response:
        assert response.status == 400 and "capacity" in (await response.json())["message"]


@pytest.mark.parametrize(
    ("operation", "body", "complaint"),
    [
        ("heartbeat", {"offline_mode_at": "2030-01-01T00:00:00"}, "with a zone"),
        ("heartbeat", {"offline_mode_at": "2020-01-01T00:00:00Z"}, "in the future"),
        ("heartbeat", {}, "offline_mode_at is required"),
        ("update_group_measurements", measurements(value="5"), "value must be a number"),
        ("update_group_measurements", measurements(direction="OUT"), "NET, IMPORT, EXPORT"),
        ("update_group_measurements", measurements(initial_measure_time=None), "date-time"),
        ("update_group_measurements", {"group_id": "n", "measurements": []}, "at least 1 item"),
        ("handshake_acknowledge", {}, "a Handshake of ours"),
        ("group_capacity_compliance_error", {}, "message is required"),
        (
            "adjust_group_capacity_forecast",
            {
                "group_id": "n",
                "type": "CONSUMPTION",
                "forecasted_blocks": [
                    {
                        "capacity": -1,
                        "phase": "FOUR",
                        "unit": "KW",
                        "start_time": "2030-01-01T00:00:00Z",
                        "end_time": "2030-01-01T00:00:00Z",
                    }
                ],
            },
            "capacity must be at least 0",
        ),
    ],
)
async def test_what_the_provider_says_wrong_is_refused_and_logged(
    fp: TinyProvider,
    cp: CapacityProvider,
    http: aiohttp.ClientSession,
    operation: str,
    body: Any,
    complaint: str,
) -> None:
    status, answer = await fp.send(operation, body)
    assert status == 400
    assert complaint in answer["message"]
    assert any(complaint in problem for problem in await wrongs(http, cp))


async def test_measurements_are_taken_and_repeats_have_no_second_effect(
    fp: TinyProvider, cp: CapacityProvider
) -> None:
    operation = "update_group_measurements"
    for _ in range(2):
        assert await fp.send(operation, measurements(), request_id="m-1") == (204, None)
    assert cp.state()["received"][operation] == 1
    status, answer = await fp.send(operation, measurements(value=7), request_id="m-1")
    assert (status, answer["message"]) == (400, "X-Request-ID reused for another message")
    asset = {
        "asset_id": "bat",
        "asset_category": "STORAGE",
        "instantaneous_measurement": {
            "value": -5,
            "phase": "ALL",
            "unit": "W",
            "measure_time": "2025-03-12T10:00:00Z",
        },
    }
    sent = await fp.send("update_asset_measurements", {"group_id": "n", "measurements": [asset]})
    assert sent == (204, None)


async def test_intermittent_measurements_need_their_beginning(
    start: Start, fp: TinyProvider
) -> None:
    options = CapacityProviderOptions(
        fp_url=fp.own_url, token=FIRST_TOKEN, measurement_configuration=("INTERMITTENT",)
    )
    peer = CapacityProvider(options, clock=now)
    await start(peer)
    assert await peer.changes.until(lambda: peer.link.state == "online", 5)
    operation = "update_group_measurements"
    assert (await fp.send(operation, measurements()))[0] == 400
    begun = measurements(initial_measure_time="2025-03-12T09:45:00Z")
    assert (await fp.send(operation, begun))[0] == 204


async def test_tokens_and_the_order_of_things_are_enforced(
    start: Start, fp: TinyProvider, http: aiohttp.ClientSession
) -> None:
    options = CapacityProviderOptions(fp_url=fp.own_url, token=FIRST_TOKEN, connect=False)
    peer = CapacityProvider(options, clock=now)
    await start(peer)
    told = await act(http, peer, "register")
    assert (told["status"], told["link"]) == (204, "registered")
    beat = {"offline_mode_at": in_an_hour()}
    assert (await fp.send("heartbeat", beat, token=""))[0] == 401
    assert (await fp.send("heartbeat", beat, token="stolen-token"))[0] == 403
    status, answer = await fp.send("heartbeat", beat)
    assert (status, answer["message"]) == (403, "heartbeat before the handshake")
    assert (await fp.send("handshake", {}))[0] == 404  # only the FP and a CO serve it
    assert (await act(http, peer, "handshake"))["link"] == "online"
    assert await fp.send("heartbeat", beat) == (204, None)

    old = fp.token_of_peer
    assert (await act(http, peer, "reregister"))["link"] == "registered"
    assert fp.taken[-1][0] == "PUT"
    fp.token_of_peer = fp.taken[-1][3]["token"]
    await act(http, peer, "handshake")
    assert (await fp.send("heartbeat", beat, token=old))[0] == 403  # the new one has been used
    assert (await act(http, peer, "unregister"))["link"] == "unregistered"
    assert (await fp.send("heartbeat", beat))[0] == 403


async def test_a_reply_without_correlation_is_not_a_reply(start: Start, fp: TinyProvider) -> None:
    fp.reply_correlates = False
    options = CapacityProviderOptions(fp_url=fp.own_url, token=FIRST_TOKEN, connect=False)
    peer = CapacityProvider(options, clock=now)
    await start(peer)
    await peer.actions["register"]({"wait_s": 0.3})
    assert peer.state()["link"] == "registering"
    (entry,) = peer.journal.find(Filter(direction="in"))
    assert entry.status == 400 and "must name the Register" in entry.invalid[0]


async def test_a_provider_that_falls_silent_is_seen_as_offline(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    soon = (now() + timedelta(seconds=0.6)).isoformat()
    await fp.send("heartbeat", {"offline_mode_at": soon})
    assert cp.state()["link"] == "online"
    await wait_for(lambda: cp.state()["link"] == "offline")
    await switch(http, cp, strict_offline=True)
    assert (await fp.send("heartbeat", {"offline_mode_at": in_an_hour()}))[0] == 403
    await switch(http, cp, strict_offline=False)
    assert (await fp.send("heartbeat", {"offline_mode_at": in_an_hour()}))[0] == 204
    assert cp.state()["link"] == "online"


async def test_the_provider_may_start_the_registration(start: Start, fp: TinyProvider) -> None:
    peer = CapacityProvider(CapacityProviderOptions(issued_token="a-token-we-gave-them"), clock=now)
    url = await start(peer)
    fp.peer_url = f"{url}/oscp/cp/2.0"
    fp.token_for_peer = "token-b-of-the-provider"
    register = {
        "token": fp.token_for_peer,
        "version_url": [{"version": "2.0", "base_url": fp.own_url}],
    }
    wrong_version = {**register, "version_url": [{"version": "1.0", "base_url": fp.own_url}]}
    first = "a-token-we-gave-them"
    assert (await fp.send("register", wrong_version, token=first))[0] == 501
    fp.registers_back = False
    sent = await fp.send("register", register, token=first, request_id="r-1")
    assert sent == (204, None)
    assert await peer.changes.until(lambda: peer.link.state == "registered", 5)
    (headers, reply), *_ = fp.messages("register")
    assert headers["X-Correlation-ID"] == "r-1"
    assert reply["version_url"] == [{"version": "2.0", "base_url": fp.peer_url}]
    assert await peer.changes.until(lambda: bool(peer.fp.sent["handshake"]), 5)
    assert (await fp.send("register", register, token=first))[0] == 204  # not yet replaced
    fp.token_of_peer = fp.messages("register")[-1][1]["token"]


async def test_tokens_outlive_a_restart(
    start: Start, fp: TinyProvider, free_port: Callable[[], int], tmp_path: Path
) -> None:
    options = CapacityProviderOptions(
        fp_url=fp.own_url, token=FIRST_TOKEN, port=free_port(), state=str(tmp_path / "cp.json")
    )
    for _ in range(2):
        peer = CapacityProvider(options, clock=now)
        await start(peer)
        assert await peer.changes.until(acknowledged(peer), 5)
        await peer.stop()
    assert (len(fp.messages("register")), len(fp.messages("handshake"))) == (1, 2)
    assert (tmp_path / "cp.json").stat().st_mode & 0o077 == 0


async def test_quirks_of_a_peer(
    fp: TinyProvider, cp: CapacityProvider, http: aiohttp.ClientSession
) -> None:
    beat = {"offline_mode_at": in_an_hour()}
    await switch(http, cp, no_heartbeat_endpoint=True)
    assert (await fp.send("heartbeat", beat))[0] == 404
    await switch(http, cp, no_heartbeat_endpoint=None, refuse_ack=True, bare_handshake=True)
    sent = len(fp.messages("handshake"))
    assert (await act(http, cp, "handshake", wait_s=0.2))["status"] == 204
    assert fp.messages("handshake")[sent][1] == {
        "heartbeat_interval": 60.0,
        "measurement_configuration": ["CONTINUOUS"],
    }
    assert await wrongs(http, cp) == []

    await switch(http, cp, stop_heartbeats=True)
    before = cp.fp.sent["heartbeat"]
    await asyncio.sleep(1.0)
    assert cp.fp.sent["heartbeat"] <= before + 1

    async with http.put(f"{cp.url}/_sim/quirks", json={"tarpid": True}) as response:
        assert response.status == 400
        answer = await response.json()
    assert answer["message"] == "no quirk is called tarpid"
    assert answer["known"]["tarpit"] == "take every request and never answer"
    async with http.put(f"{cp.url}/_sim/quirks", json={"delay_s": "long"}) as response:
        assert response.status == 400
    async with http.delete(f"{cp.url}/_sim/quirks") as response:
        assert (await response.json())["refuse_ack"] is False


async def test_a_heartbeat_that_is_refused_leads_to_a_new_handshake(
    fp: TinyProvider, cp: CapacityProvider
) -> None:
    fp.statuses["heartbeat"] = 403
    shaken = cp.fp.sent["handshake"]
    assert await cp.changes.until(lambda: cp.fp.sent["handshake"] > shaken, 3)
