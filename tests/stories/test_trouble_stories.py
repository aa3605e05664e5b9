"""Peers that refuse what we say: tried again, told to the operator, mended, replayed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from support.daemon import Daemon, free_port, make_site
from support.messages import forecast
from support.peer import RecordingPeer
from support.waiting import wait_for

UPDATE = "update_group_capacity_forecast"
ADJUST = "adjust_group_capacity_forecast"


class Always(list[int]):
    """An answer that does not change."""

    def pop(self, _: Any = 0) -> int:
        return self[0]


async def ask(daemon: Daemon, path: str, method: str = "GET", bearer: str = "") -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method,
            f"{daemon.url}/api/v1/{path}",
            headers={"Authorization": f"Bearer {bearer or daemon.bearer}"},
        ) as answer,
    ):
        return answer.status, await answer.json()


async def messages(daemon: Daemon, query: str = "") -> list[dict[str, Any]]:
    status, said = await ask(daemon, f"messages?{query}")
    assert status == 200, said
    found: list[dict[str, Any]] = said["data"]["results"]
    return found


async def events(daemon: Daemon, query: str) -> list[dict[str, Any]]:
    _, said = await ask(daemon, f"events?{query}")
    found: list[dict[str, Any]] = said["data"]["results"]
    return found


async def peers(daemon: Daemon) -> dict[str, dict[str, Any]]:
    _, said = await ask(daemon, "oscp/peers")
    return {peer["role"]: peer for peer in said["data"]}


@dataclass
class Online:
    """A provider and an optimizer, both online, and their tokens."""

    daemon: Daemon
    cp: RecordingPeer
    co: RecordingPeer
    cp_token: str
    co_token: str

    async def cp_says(self, body: Any) -> int:
        status, _, _ = await self.cp.says(self.daemon.url, UPDATE, body, token=self.cp_token)
        return status

    async def becomes(self, role: str, link: str) -> dict[str, Any]:
        async def so() -> dict[str, Any] | None:
            peer = (await peers(self.daemon))[role]
            return peer if peer["link"] == link else None

        peer = await wait_for(so, timeout=10, what=f"{role} {link}")
        assert peer is not None
        return peer


@asynccontextmanager
async def online(daemon: Daemon) -> AsyncIterator[Online]:
    site = await make_site(daemon)
    async with RecordingPeer("cp") as cp, RecordingPeer("co") as co:
        co_token = await co.registers(daemon.url, site.optimizer_token)
        await co.acknowledges(daemon.url, co_token)
        cp_token = await cp.registers(daemon.url, site.provider_token)
        await cp.shakes_hands(daemon.url, cp_token)
        yield Online(daemon, cp, co, cp_token, co_token)


async def acknowledges_again(o: Online, count: int) -> None:
    handshake = await o.co.hears("handshake", count)
    body = {"required_behaviour": {"heartbeat_interval": 60, "measurement_configuration": []}}
    correlation = {"X_Correlation_ID": handshake.headers["x-request-id"]}
    status, said, _ = await o.co.says(
        o.daemon.url, "handshake_acknowledge", body, token=o.co_token, **correlation
    )
    assert status == 204, said


async def test_an_optimizer_that_forgot_us_is_shaken_hands_with_and_then_told(
    daemon: Daemon,
) -> None:
    async with online(daemon) as o:
        o.co.answers[UPDATE] = [403]
        sent = forecast(7)
        assert await o.cp_says(sent) == 204
        await acknowledges_again(o, 2)
        assert (await o.co.hears(UPDATE, 2)).body == sent
        assert (await o.becomes("CapacityOptimizer", "online"))["reason"] is None
        assert [e["kind"] for e in await events(daemon, "kind=peer.credential_refused")]
        assert await events(daemon, "kind=peer.broken") == []

        # Then it refuses them for ever, although it shakes hands and takes heartbeats.
        o.co.answers[UPDATE] = Always([403])
        assert await o.cp_says(forecast(8, in_hours=2)) == 204
        await acknowledges_again(o, 3)
        peer = await o.becomes("CapacityOptimizer", "broken")
        assert UPDATE in peer["reason"] and peer["waiting"] > 0


async def test_a_provider_that_refuses_us_for_good_breaks_the_link_until_it_registers_again(
    daemon: Daemon,
) -> None:
    async with online(daemon) as o:
        o.cp.answers = {ADJUST: Always([403]), "heartbeat": Always([403])}
        wish = forecast(9)
        status, _, _ = await o.co.says(daemon.url, ADJUST, wish, token=o.co_token)
        assert status == 204
        peer = await o.becomes("CapacityProvider", "broken")
        assert "403" in peer["reason"] and peer["waiting"] == 1
        assert "refuses our credential" in await daemon.answers("/")
        shown = await daemon.command("status")
        assert "broken" in shown and "403" in shown
        (broken,) = await events(daemon, f"kind=peer.broken&peer={peer['id']}")
        assert broken["data"]["status"] == 403
        (view,) = await daemon.manage("GET", "capacity-providers")
        assert view["registrationStatus"] == "Failed"

        # Nothing leaves any more, and what the provider says counts as ever.
        heard = len(o.cp.heard)
        tried = o.cp.of(ADJUST)[0]
        assert await o.cp_says(forecast(2)) == 204
        assert (await o.co.hears(UPDATE)).body["forecasted_blocks"][0]["capacity"] == 2
        await o.co.says(daemon.url, ADJUST, forecast(8), token=o.co_token)
        await asyncio.sleep(1.2)  # longer than a retry would wait
        assert len(o.cp.heard) == heard

        # It registers anew, and what was owed arrives under the id that it had.
        o.cp.answers = {}
        o.cp_token = await o.cp.registers(daemon.url, o.cp_token)
        await o.cp.shakes_hands(daemon.url, o.cp_token)
        count = len([h for h in o.cp.heard[:heard] if h.operation == ADJUST])
        again = await o.cp.hears(ADJUST, count + 1)
        assert (again.raw, again.headers["x-request-id"]) == (
            tried.raw,
            tried.headers["x-request-id"],
        )
        await o.cp.hears(ADJUST, count + 2)
        peer = await o.becomes("CapacityProvider", "online")
        assert peer["reason"] is None


async def test_a_dead_letter_goes_again_as_it_was(daemon: Daemon) -> None:
    async with online(daemon) as o:
        o.co.answers[UPDATE] = [400, 422]
        first, second = forecast(1), forecast(2, in_hours=3)
        for body in (first, second):
            assert await o.cp_says(body) == 204
        refused = await wait_for(lambda: _dead(daemon, 2), what="two dead letters")
        by_status = {message["status"]: message for message in refused}
        assert (await peers(daemon))["CapacityOptimizer"]["dead"] == 2

        # Shown with its body, by the API and by the command line.
        one = by_status[400]
        _, said = await ask(daemon, f"messages/{one['id']}")
        assert said["data"]["body"] == first
        assert said["data"]["passesOn"]["requestId"].startswith("cp-")
        shown = json.loads(await daemon.command("messages", "show", str(one["id"])))
        assert shown == said["data"]
        listed = json.loads(await daemon.command("messages", "list", "--state", "dead", "--json"))
        assert {message["id"] for message in listed} == {message["id"] for message in refused}

        # By the API.
        before = o.co.of(UPDATE)[0]
        assert (await ask(daemon, f"messages/{one['id']}/replay", "POST"))[0] == 202
        again = await o.co.hears(UPDATE, 3)
        assert (again.raw, again.headers["x-request-id"]) == (
            before.raw,
            before.headers["x-request-id"],
        )
        await wait_for(lambda: _dead(daemon, 1), what="one dead letter")
        status, said = await ask(daemon, f"messages/{one['id']}/replay", "POST")
        assert status == 409 and "delivered" in said["message"]

        # By the command line; the daemon finds it by itself.
        other = o.co.of(UPDATE)[1]
        assert "1 owed again" in await daemon.command("messages", "replay", "--all-dead")
        again = await o.co.hears(UPDATE, 4)
        assert (again.raw, again.headers["x-request-id"]) == (
            other.raw,
            other.headers["x-request-id"],
        )
        (replayed, _) = await events(daemon, "kind=message.replayed")
        assert replayed["data"] == {"messages": 1}

        # Somebody else sees and moves nothing.
        mine = daemon.bearer
        await daemon.log_in(user_id=2)
        assert await messages(daemon) == [] and await events(daemon, "max=5") == []
        assert await peers(daemon) == {}
        for path, method in (
            (f"messages/{one['id']}", "GET"),
            (f"messages/{one['id']}/replay", "POST"),
        ):
            assert (await ask(daemon, path, method))[0] == 404
        assert (await ask(daemon, "messages", bearer="guessed"))[0] == 401

        # Registers are among the messages; what they hold is not.
        daemon.bearer = mine
        for register in await messages(daemon, "operation=register"):
            _, said = await ask(daemon, f"messages/{register['id']}")
            assert said["data"]["body"] is None and "token" in said["data"]["note"]
        told = json.dumps([await messages(daemon), await events(daemon, "max=1000")])
        assert o.cp_token not in told and o.co_token not in told


async def _dead(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    found = await messages(daemon, "state=dead")
    return found if len(found) == count else []


async def test_a_registration_by_command_is_seen_to_fail_and_survives_a_kill(
    daemon: Daemon,
) -> None:
    port = free_port()
    made = await daemon.manage(
        "POST",
        "capacity-providers",
        {"name": "Peer", "enabled": True, "baseUrl": f"http://127.0.0.1:{port}/oscp/cp/2.0"},
    )
    id, secret = str(made["configId"]), daemon.config.parent / "first-token"
    secret.write_text("first-token-of-the-peer\n")
    register = ("oscp", "providers", "register", id, "--token-file", str(secret))
    assert "owed" in await daemon.command(*register)
    async with RecordingPeer("cp", port=port, answers={"register": [403]}) as cp:
        await cp.hears("register", within_s=15)

        async def failed() -> bool:
            return (await peers(daemon))["CapacityProvider"]["link"] == "failed"

        await wait_for(failed, timeout=15, what="failed")
        (peer,) = json.loads(await daemon.command("oscp", "providers", "list", "--json"))
        assert peer["link"] == "failed" and "403" in peer["reason"]

        # Started again; the daemon is killed as soon as the peer has heard it, and goes on.
        await daemon.command(*register)
        heard = await cp.hears("register", 2, within_s=15)
        await daemon.kill()
        await daemon.start()
        said = {
            "token": "token-of-the-peer",
            "version_url": [{"version": "2.0", "base_url": cp.base_url}],
        }
        status, answer, _ = await cp.says(
            daemon.url, "register", said, token=heard.body["token"],
            X_Correlation_ID=heard.headers["x-request-id"],
        )  # fmt: skip
        assert status == 204, answer
        await cp.shakes_hands(daemon.url, heard.body["token"])
        now = (await peers(daemon))["CapacityProvider"]
        assert (now["link"], now["reason"]) == ("online", None)
