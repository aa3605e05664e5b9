"""Peers that are not ours, over HTTP, against the running daemon."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from support.crowd import lapse
from support.daemon import Daemon, make_site
from support.messages import forecast
from support.peer import RecordingPeer


async def test_a_provider_registers_and_the_link_lives(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        reply = cp.of("register")[0]
        assert reply.headers["x-correlation-id"] == "cp-" + reply.headers["x-correlation-id"][3:]
        assert reply.body["version_url"] == [
            {"version": "2.0", "base_url": f"{daemon.url}/oscp/fp/2.0"}
        ]
        await cp.shakes_hands(daemon.url, token, interval_s=1)
        acknowledge = cp.of("handshake_acknowledge")[0]
        assert acknowledge.body["required_behaviour"]["heartbeat_interval"] == 60
        first, second = await cp.hears("heartbeat"), await cp.hears("heartbeat", 2)
        promised = [datetime.fromisoformat(h.body["offline_mode_at"]) for h in (first, second)]
        assert datetime.now(UTC) < promised[0] < promised[1]

        until = (datetime.now(UTC) + timedelta(seconds=90)).isoformat()
        status, said, headers = await cp.says(
            daemon.url, "heartbeat", {"offline_mode_at": until}, token=token, request_id="hb-1"
        )
        assert (status, said, headers["X-Correlation-ID"]) == (204, None, "hb-1")
        (peer,) = [p for p in (await daemon.status())["peers"] if p["role"] == "CapacityProvider"]
        assert peer["link"] == "online"


async def test_the_first_token_is_dead_once_the_new_one_was_used(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        status, said, _ = await cp.says(daemon.url, "handshake", {}, token=site.provider_token)
        assert status == 403
        assert site.provider_token not in json.dumps(said)


async def test_an_accepted_forecast_reaches_an_optimizer_that_was_down(
    daemon: Daemon, database_url: str
) -> None:
    """The optimizer is away and the daemon is killed between the 204 and the delivery."""
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        async with RecordingPeer("co") as co:
            co_token = await co.registers(daemon.url, site.optimizer_token)
            await co.acknowledges(daemon.url, co_token)
            port = co.port
        cp_token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, cp_token)
        sent = forecast()
        status, said, _ = await cp.says(
            daemon.url, "update_group_capacity_forecast", sent, token=cp_token, request_id="f-1"
        )
        assert status == 204, said
        await daemon.kill()
        await lapse(database_url)
        await daemon.start()
        async with RecordingPeer("co", port=port) as co:
            forwarded = await co.hears("update_group_capacity_forecast")
            assert forwarded.body == sent
            assert forwarded.headers["x-request-id"] != "f-1"
            # The link is as it was: nobody had to register or shake hands again.
            status, _, _ = await cp.says(
                daemon.url, "update_group_capacity_forecast", forecast(2), token=cp_token
            )
            assert status == 204
            second = await co.hears("update_group_capacity_forecast", 2)
            assert second.body["forecasted_blocks"][0]["capacity"] == 2


async def test_the_same_message_twice_has_one_effect(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        door, sent = "update_group_capacity_forecast", forecast(1)
        for _ in range(3):
            status, _, _ = await cp.says(daemon.url, door, sent, token=token, request_id="same")
            assert status == 204
        status, said, _ = await cp.says(
            daemon.url, door, forecast(9), token=token, request_id="same"
        )
        assert (status, said) == (400, {"message": "X-Request-ID reused with other content"})
        await cp.says(daemon.url, door, forecast(2), token=token)
        await co.hears(door, 2)
        capacities = [h.body["forecasted_blocks"][0]["capacity"] for h in co.of(door)]
        assert capacities == [1, 2]


async def test_many_at_once_get_each_his_own_answer(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        door, same = "update_group_capacity_forecast", forecast(100)

        async def post(body: Any, request_id: str | None = None) -> int:
            status, _, _ = await cp.says(daemon.url, door, body, token=token, request_id=request_id)
            return status

        answers = await asyncio.gather(
            *(post(forecast(n, in_hours=n)) for n in range(1, 31)),
            *(post(same, "same") for _ in range(10)),
            *(post(forecast(group_id="nobody's")) for _ in range(10)),
            *(post(forecast("3")) for _ in range(10)),
        )
        assert answers == [204] * 40 + [404] * 10 + [400] * 10
        assert await post(forecast(5), "same") == 400
        await co.hears(door, 31)
        capacities = [h.body["forecasted_blocks"][0]["capacity"] for h in co.of(door)]
        assert sorted(capacities) == [*range(1, 31), 100]


async def test_an_optimum_is_taken_from_the_optimizer_and_a_limit_is_not(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("co") as co:
        token = await co.registers(daemon.url, site.optimizer_token)
        await co.acknowledges(daemon.url, token)
        door = "update_group_capacity_forecast"
        status, _, _ = await co.says(daemon.url, door, forecast(type="OPTIMUM"), token=token)
        assert status == 204
        status, said, _ = await co.says(daemon.url, door, forecast(), token=token)
        assert status == 403 and "OPTIMUM" in said["message"]


async def test_no_common_version_changes_nothing(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        offer = {"token": "t", "version_url": [{"version": "1.0", "base_url": cp.base_url}]}
        status, said, _ = await cp.says(daemon.url, "register", offer, token=site.provider_token)
        assert status == 501 and "2.0" in said["message"]
        assert await cp.registers(daemon.url, site.provider_token)


async def test_a_peer_may_not_point_us_inside(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        for url in ("http://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd"):
            offer = {"token": "t", "version_url": [{"version": "2.0", "base_url": url}]}
            status, said, _ = await cp.says(
                daemon.url, "register", offer, token=site.provider_token
            )
            assert status == 400 and "base_url" in said["message"]


@pytest.mark.parametrize("interval_s", [1])
async def test_a_silent_peer_is_offline_and_a_handshake_brings_it_back(
    daemon: Daemon, interval_s: int
) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        soon = (datetime.now(UTC) + timedelta(seconds=interval_s)).isoformat()
        await cp.says(daemon.url, "heartbeat", {"offline_mode_at": soon}, token=token)
        async with asyncio.timeout(interval_s + 2):
            while (await _provider(daemon))["link"] != "offline":
                await asyncio.sleep(0.05)
        door = "update_group_capacity_forecast"
        status, said, _ = await cp.says(daemon.url, door, forecast(), token=token)
        assert status == 403 and "shake hands" in said["message"]
        await cp.shakes_hands(daemon.url, token)
        status, _, _ = await cp.says(daemon.url, door, forecast(), token=token)
        assert status == 204


async def test_absurd_but_legal_numbers_do_no_harm(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token, interval_s=1e300)
        await cp.hears("heartbeat")
        door = "update_group_capacity_forecast"
        status, _, _ = await cp.says(daemon.url, door, forecast(1e308), token=token)
        assert status == 204
        for absurd in ("9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"):
            status, said, _ = await cp.says(
                daemon.url, "heartbeat", {"offline_mode_at": absurd}, token=token
            )
            assert status == 400 and "offline_mode_at" in said["message"]
        await asyncio.sleep(1.5)  # every loop has been round
        assert (await _provider(daemon))["link"] == "online"


async def _provider(daemon: Daemon) -> Any:
    peers = (await daemon.status())["peers"]
    return next(peer for peer in peers if peer["role"] == "CapacityProvider")


async def test_what_is_wrong_is_said_in_one_line_and_nothing_is_kept(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        await co.acknowledges(daemon.url, await co.registers(daemon.url, site.optimizer_token))
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        door = "update_group_capacity_forecast"
        cases: list[tuple[Any, str | None, int, str]] = [
            (b"{not json", token, 400, "JSON"),
            ({"group_id": 1}, token, 400, "group_id"),
            (forecast("3"), token, 400, "capacity"),
            (forecast(-1), token, 400, "capacity"),
            (forecast(forecasted_blocks=[]), token, 400, "forecasted_blocks"),
            (forecast(group_id="nobody's"), token, 404, "nobody's"),
            (forecast(), None, 401, "Authorization"),
            (forecast(), "guessed", 403, "token"),
            (b"x" * (5 * 1024 * 1024), token, 413, "too large"),
        ]
        for body, credential, expected, named in cases:
            status, said, headers = await cp.says(
                daemon.url, door, body, token=credential, request_id="bad"
            )
            assert (status, list(said)) == (expected, ["message"]), said
            assert named in said["message"] and "\n" not in said["message"]
            assert "Traceback" not in said["message"]
            assert headers["X-Correlation-ID"] == "bad"
        status, said, _ = await cp.says(
            daemon.url, door, forecast(), token=token, Content_Type="text/plain"
        )
        assert status == 415
        # The refused id is free, and only the good forecast reaches the optimizer.
        status, _, _ = await cp.says(daemon.url, door, forecast(7), token=token, request_id="bad")
        assert status == 204
        only = await co.hears(door)
        assert only.body["forecasted_blocks"][0]["capacity"] == 7
        assert len(co.of(door)) == 1


async def test_unknown_doors_and_verbs_answer_like_the_others(daemon: Daemon) -> None:
    async with aiohttp.ClientSession(headers={"X-Request-ID": "r"}) as session:
        async with session.get(f"{daemon.url}/oscp/fp/2.0/heartbeat") as answer:
            assert answer.status == 405 and "POST" in (await answer.json())["message"]
            assert answer.headers["X-Correlation-ID"] == "r"
        async with session.post(f"{daemon.url}/oscp/fp/2.0/nothing") as answer:
            assert (answer.status, list(await answer.json())) == (404, ["message"])


async def test_a_peer_that_leaves_is_forgotten(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp:
        token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, token)
        status, _, _ = await cp.says(daemon.url, "register", b"", token=token, method="DELETE")
        assert status == 204
        status, _, _ = await cp.says(daemon.url, "handshake", {}, token=token)
        assert status == 403
        assert (await _provider(daemon))["link"] == "unregistered"


async def test_put_register_moves_a_peer(daemon: Daemon) -> None:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("cp") as moved:
        token = await cp.registers(daemon.url, site.provider_token)
        body = {
            "token": "moved",
            "version_url": [{"version": "2.0", "base_url": moved.base_url}],
        }
        status, _, _ = await cp.says(daemon.url, "register", body, token=token, method="PUT")
        assert status == 204
        await moved.shakes_hands(daemon.url, token)
        assert moved.of("handshake_acknowledge")[0].token == "moved"
