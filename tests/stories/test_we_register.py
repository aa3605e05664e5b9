"""The operator has fpd register with a peer, shake hands with it, leave it, and start again."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from support.crowd import lapse
from support.daemon import Daemon, MakeDaemon, free_port
from support.peer import RecordingPeer
from support.waiting import wait_for

FIRST = "first-token-of-the-peer"
ROLES = {"cp": "capacity-providers", "co": "capacity-optimizers"}


async def act(
    daemon: Daemon, path: str, body: Any = None, *, bearer: str | None = None
) -> tuple[int, Any]:
    """Call one of fpd's own doors as an operator would."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{daemon.url}/api/v1/oscp/{path}",
            json=body,
            headers={"Authorization": f"Bearer {bearer or daemon.bearer}"},
        ) as answer,
    ):
        return answer.status, await answer.json()


async def made(daemon: Daemon, role: str = "cp", **fields: Any) -> tuple[str, str]:
    """Create a peer; return the path of its actions and the first token for it."""
    entity = {"name": "Peer", "enabled": True, **fields}
    peer = await daemon.manage("POST", ROLES[role], entity)
    return f"{ROLES[role]}/{peer['configId']}", peer["token"]


async def link(daemon: Daemon) -> str:
    (peer,) = (await daemon.status())["peers"]
    return str(peer["link"])


async def becomes(daemon: Daemon, expected: str) -> None:
    async def is_so() -> bool:
        return await link(daemon) == expected

    await wait_for(is_so, what=expected)


async def answers(
    peer: RecordingPeer, daemon: Daemon, *, correlated: bool = True, count: int = 1
) -> str:
    """Answer the daemon's Register; return the token for the daemon's doors."""
    heard = await peer.hears("register", count)
    token = str(heard.body["token"])
    said = {
        "token": f"token-of-{peer.role}-{count}",
        "version_url": [{"version": "2.0", "base_url": peer.base_url}],
    }
    headers = {"X_Correlation_ID": heard.headers["x-request-id"]} if correlated else {}
    status, answer, _ = await peer.says(daemon.url, "register", said, token=token, **headers)
    assert status == 204, answer
    return token


@pytest.mark.parametrize("correlated", [True, False])
async def test_we_register_with_a_provider(daemon: Daemon, correlated: bool) -> None:
    async with RecordingPeer("cp") as cp:
        path, _ = await made(daemon, baseUrl=cp.base_url)
        status, _ = await act(daemon, f"{path}/register", {"token": FIRST})
        assert status == 202
        ours = await cp.hears("register")
        assert ours.token == FIRST and "x-correlation-id" not in ours.headers
        assert ours.body["version_url"] == [
            {"version": "2.0", "base_url": f"{daemon.url}/oscp/fp/2.0"}
        ]
        assert await link(daemon) == "registering"
        token = await answers(cp, daemon, correlated=correlated)
        assert await link(daemon) == "registered"
        await cp.shakes_hands(daemon.url, token)
        assert cp.of("handshake_acknowledge")[0].token == "token-of-cp-1"
        assert await link(daemon) == "online"
        assert len(cp.of("register")) == 1, "an answer is not answered"


async def test_we_register_with_an_optimizer_and_shake_hands(daemon: Daemon) -> None:
    async with RecordingPeer("co") as co:
        path, _ = await made(daemon, "co")
        status, said = await act(daemon, f"{path}/register", {"token": FIRST})
        assert status == 400 and "baseUrl" in said["message"]
        wish = {"token": FIRST, "baseUrl": co.base_url + "/"}
        assert (await act(daemon, f"{path}/register", wish))[0] == 202
        token = await answers(co, daemon)
        await co.acknowledges(daemon.url, token)
        assert co.of("handshake")[0].token == "token-of-co-1"
        assert await link(daemon) == "online"
        assert (await act(daemon, f"{path}/handshake"))[0] == 202
        await co.hears("handshake", 2)


async def test_a_peer_that_is_away_is_tried_again_also_after_a_restart(
    daemon: Daemon, database_url: str
) -> None:
    port = free_port()
    path, _ = await made(daemon, baseUrl=f"http://127.0.0.1:{port}/oscp/cp/2.0")
    assert (await act(daemon, f"{path}/register", {"token": FIRST}))[0] == 202
    await daemon.kill()
    await lapse(database_url)
    await daemon.start()
    async with RecordingPeer("cp", port=port) as cp:
        await cp.hears("register")
        await answers(cp, daemon)
        await becomes(daemon, "registered")


async def test_a_registration_that_failed_is_started_again(daemon: Daemon) -> None:
    async with RecordingPeer("cp", answers={"register": [403]}) as cp:
        path, _ = await made(daemon, baseUrl=cp.base_url)
        await act(daemon, f"{path}/register", {"token": "mistyped"})
        await becomes(daemon, "failed")
        assert (await act(daemon, f"{path}/register", {"token": FIRST}))[0] == 202
        await answers(cp, daemon, count=2)
        assert [heard.token for heard in cp.of("register")] == ["mistyped", FIRST]
        await becomes(daemon, "registered")


async def test_both_sides_start_at_once_and_meet(daemon: Daemon) -> None:
    async with RecordingPeer("cp") as cp:
        path, their_first = await made(daemon, baseUrl=cp.base_url)
        await act(daemon, f"{path}/register", {"token": FIRST})
        await cp.hears("register")
        # Our Register is outstanding, but this one is no answer: it comes with their own first
        # token, so it is answered with ours.
        token = await cp.registers(daemon.url, their_first)
        answer = cp.of("register")[1]
        assert answer.headers["x-correlation-id"].startswith("cp-")
        await becomes(daemon, "registered")
        await cp.shakes_hands(daemon.url, token)
        assert await link(daemon) == "online"


async def test_a_new_first_token_opens_a_lost_link(daemon: Daemon) -> None:
    async with RecordingPeer("cp") as cp:
        path, lost = await made(daemon)
        status, said = await act(daemon, f"{path}/token")
        assert status == 200 and list(said) == ["token"] and said["token"] != lost
        offer = {"token": "t", "version_url": [{"version": "2.0", "base_url": cp.base_url}]}
        status, _, _ = await cp.says(daemon.url, "register", offer, token=lost)
        assert status == 403
        in_use = await cp.registers(daemon.url, said["token"])
        await cp.shakes_hands(daemon.url, in_use)

        # A link that lives goes on until the new token is used.
        _, said = await act(daemon, f"{path}/token")
        await cp.shakes_hands(daemon.url, in_use)
        newest = await cp.registers(daemon.url, said["token"])
        status, _, _ = await cp.says(daemon.url, "handshake", {}, token=in_use)
        assert status == 403
        await cp.shakes_hands(daemon.url, newest)


@pytest.mark.parametrize("with_body", [False, True])
async def test_we_leave(daemon: Daemon, with_body: bool) -> None:
    async with RecordingPeer("cp") as cp:
        props = {"serviceProps": {"write-unregister-body": True}} if with_body else {}
        path, first = await made(daemon, **props)
        assert (await act(daemon, f"{path}/unregister"))[0] == 409
        token = await cp.registers(daemon.url, first)
        await cp.shakes_hands(daemon.url, token)
        outbound = cp.of("handshake_acknowledge")[0].token
        assert (await act(daemon, f"{path}/unregister"))[0] == 202
        assert await link(daemon) == "unregistered"
        farewell = await cp.hears("register", 2)
        assert (farewell.method, farewell.token) == ("DELETE", outbound)
        assert (farewell.body is not None) is with_body
        status, _, _ = await cp.says(daemon.url, "handshake", {}, token=token)
        assert status == 403
        assert (await act(daemon, f"{path}/handshake"))[0] == 409
        # And the way back in is a new first token.
        _, said = await act(daemon, f"{path}/token")
        status, _, _ = await cp.says(
            daemon.url,
            "register",
            {"token": "t", "version_url": [{"version": "2.0", "base_url": cp.base_url}]},
            token=said["token"],
        )
        assert status == 204
        await becomes(daemon, "registered")


async def test_only_the_owner_acts_and_only_on_what_is_there(daemon: Daemon) -> None:
    async with RecordingPeer("cp") as cp:
        path, _ = await made(daemon, baseUrl=cp.base_url)
        mine = daemon.bearer
        await daemon.log_in(user_id=2)
        wish = {"token": FIRST}
        for action in ("register", "token", "handshake", "unregister"):
            assert (await act(daemon, f"{path}/{action}", wish))[0] == 404
            other_role = path.replace("providers", "optimizers")
            assert (await act(daemon, f"{other_role}/{action}", wish, bearer=mine))[0] == 404
            assert (await act(daemon, f"{path}/{action}", wish, bearer="guessed"))[0] == 401
            for nobody in ("0", "999999999999999999999", "x", "-1"):
                gone = f"capacity-providers/{nobody}/{action}"
                assert (await act(daemon, gone, wish, bearer=mine))[0] == 404
        bad: list[tuple[Any, str]] = [
            ({}, "token"),
            ({"token": ""}, "token"),
            ({"token": 7}, "token"),
            ({"token": "näh"}, "token"),
            ([], "object"),
            ({"token": FIRST, "baseUrl": "http://169.254.169.254/"}, "baseUrl"),
            ({"token": FIRST, "baseUrl": "ftp://peer.example"}, "baseUrl"),
        ]
        for body, named in bad:
            status, said = await act(daemon, f"{path}/register", body, bearer=mine)
            assert status == 400 and named in said["message"], (body, said)
        assert cp.heard == []


async def test_the_tokens_of_a_registration_of_ours_are_never_told(
    make_daemon: MakeDaemon, database_url: str
) -> None:
    more = '[log]\nlevel = "debug"\nformat = "json"'
    daemon = await make_daemon(database_url, more=more).start()
    await daemon.log_in()
    async with RecordingPeer("cp") as cp:
        path, first = await made(daemon, baseUrl=cp.base_url)
        await act(daemon, f"{path}/register", {"token": FIRST})
        token = await answers(cp, daemon)
        _, said = await act(daemon, f"{path}/token")
        await act(daemon, f"{path}/unregister")
        await cp.hears("register", 2)
        shown = [daemon.log.read_text(), await daemon.answers("/api/v1/status")]
        for secret in (FIRST, first, token, said["token"], "token-of-cp-1"):
            assert not [text for text in shown if secret in text]
