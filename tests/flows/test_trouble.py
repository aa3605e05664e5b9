"""Refused credentials and unfinished registrations, by a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import web
from flows.troubled_peers import OPTIMIZER, PROVIDER, Scene
from flows.troubled_peers import scene as a_scene
from support.peer import RecordingPeer

from fpd.errors import Forbidden
from fpd.flows import handshake, heartbeat, initiative, outbound, registration, trouble
from fpd.flows.delivery import Delivery
from fpd.flows.heartbeat import Heartbeats
from fpd.flows.inbound import Inbound
from fpd.flows.silence import Silence
from fpd.oscp import messages
from fpd.store import lanes
from fpd.store.reach import Reach

MEASURED = "update_group_measurements"


@pytest.fixture
async def scene(database_url: str) -> AsyncIterator[Scene]:
    async with a_scene(database_url) as scene:
        yield scene


async def beat(scene: Scene) -> None:
    heartbeats = Heartbeats(scene.context)
    while await heartbeats.step():
        pass
    heartbeats.stop()
    await scene.settle()


async def test_an_optimizer_that_refuses_us_also_after_a_handshake_breaks_the_link(
    scene: Scene,
) -> None:
    async with RecordingPeer("co", answers={MEASURED: [403, 403, 403]}) as co:
        id = await scene.peer(co, OPTIMIZER)
        await scene.owe(id, "m-1")
        await scene.deliver()
        assert await scene.link(id) == "registered"
        await scene.deliver()
        assert len(co.of(MEASURED)) == 1, "nothing is said before the handshake"
        scene.wait(seconds=3)
        await scene.shake_hands(co, id)
        assert await scene.link(id) == "online"
        await scene.deliver()
        assert await scene.link(id) == "broken"
        assert await scene.outcomes() == {"m-1": None}
        assert "peer.broken" in await scene.kinds()
        ((why,),) = await scene.rows("select trouble from peer")
        assert why == f"it refuses our credential: 403 to {MEASURED}"

        # Nothing more is sent, by whatever loop.
        scene.wait(minutes=14)
        heard = len(co.heard)
        await scene.deliver()
        await beat(scene)
        await trouble.step(scene.context)
        await scene.settle()
        assert len(co.heard) == heard

        # It is asked from time to time; when it takes our credential, all goes on.
        co.answers["heartbeat"] = [403]
        for asked, link in ((1, "broken"), (2, "online")):
            scene.wait(minutes=16)
            await trouble.step(scene.context)
            await scene.settle()
            assert len(co.heard) == heard + asked
            assert await scene.link(id) == link
        co.answers[MEASURED] = []
        scene.wait(minutes=1)
        await scene.deliver()
        assert await scene.outcomes() == {"m-1": "delivered"}
        assert await scene.rows("select trouble, refused_at from peer") == [(None, None)]


async def test_an_optimizer_that_refuses_the_handshake_too_breaks_the_link(scene: Scene) -> None:
    async with RecordingPeer("co", answers={MEASURED: [401], "handshake": [403]}) as co:
        id = await scene.peer(co, OPTIMIZER)
        await scene.owe(id, "m-1")
        await scene.deliver()
        await handshake.step(scene.context)
        await scene.deliver()
        assert await scene.link(id) == "broken"
        scene.wait(minutes=10)
        await handshake.step(scene.context)
        await scene.deliver()
        assert len(co.of("handshake")) == 1


async def test_a_new_optimizer_that_is_not_ready_for_a_handshake_is_not_broken(
    scene: Scene,
) -> None:
    async with RecordingPeer("co", answers={"handshake": [403]}) as co:
        id = await scene.peer(co, OPTIMIZER, link="registered")
        await scene.rows("update peer set handshake_due_at = %s returning 1", scene.now[0])
        await handshake.step(scene.context)
        await scene.deliver()
        assert await scene.link(id) == "registered"
        scene.wait(minutes=1)
        await scene.shake_hands(co, id, 2)
        assert await scene.link(id) == "online"


async def test_a_message_that_is_refused_while_others_are_taken_is_a_dead_letter(
    scene: Scene,
) -> None:
    async with RecordingPeer("cp", answers={MEASURED: [403, 204, 403, 204]}) as cp:
        id = await scene.peer(cp, PROVIDER)
        await scene.owe(id, "m-1")
        await scene.deliver()
        assert await scene.link(id) == "online"
        scene.wait(seconds=1)
        await scene.owe(id, "other", lane="group:2")
        await scene.deliver()
        assert await scene.outcomes() == {"m-1": None, "other": "delivered"}
        scene.wait(seconds=4)
        await scene.deliver()
        assert (await scene.outcomes())["m-1"] == "refused"
        assert await scene.link(id) == "online"
        await scene.owe(id, "m-2")
        await scene.deliver()
        assert (await scene.outcomes())["m-2"] == "delivered"
        assert (await scene.kinds()) == ["peer.credential_refused", "message.refused"]


async def test_a_refusal_after_the_remedy_had_helped_is_a_new_one(scene: Scene) -> None:
    async with RecordingPeer("cp", answers={MEASURED: [403, 204, 403, 403, 403]}) as cp:
        id = await scene.peer(cp, PROVIDER)
        for n, link in enumerate(("online", "online")):
            await scene.owe(id, f"m-{n}")
            await scene.deliver()
            assert await scene.link(id) == link
            scene.wait(seconds=4)
            await scene.deliver()
        assert await scene.outcomes() == {"m-0": "delivered", "m-1": None}
        assert await scene.link(id) == "broken"


async def test_what_was_on_its_way_with_the_first_refusal_does_not_count_again(
    scene: Scene,
) -> None:
    async with RecordingPeer("cp", answers={MEASURED: [403] * 5}) as cp:
        id = await scene.peer(cp, PROVIDER)
        for n in range(5):
            await scene.owe(id, f"m-{n}", lane=f"group:{n}")
        await scene.deliver()
        assert await scene.link(id) == "online"
        scene.wait(seconds=4)
        await scene.deliver()
        assert set((await scene.outcomes()).values()) == {"delivered"}


async def test_a_provider_that_refuses_our_heartbeats_breaks_the_link_and_may_still_speak(
    scene: Scene,
) -> None:
    async with RecordingPeer("cp", answers={"heartbeat": [403, 403]}) as cp:
        id = await scene.peer(cp, PROVIDER)
        await scene.rows("insert into heartbeat_due values (%s, %s) returning 1", id, scene.now[0])
        await beat(scene)
        assert await scene.link(id) == "online"
        scene.wait(seconds=60)
        await beat(scene)
        assert await scene.link(id) == "broken"

        inbound = Inbound(
            peer_id=id,
            operation="POST heartbeat",
            request_id="hb-1",
            correlation_id=None,
            body=b"{}",
        )
        promised = scene.now[0].replace(minute=30)
        await heartbeat.receive(scene.context, inbound, messages.Heartbeat(promised))
        assert await scene.link(id) == "broken"
        await Silence(scene.context).step()
        assert await scene.link(id) == "broken"
        scene.wait(minutes=30)
        await Silence(scene.context).step()
        assert await scene.link(id) == "offline"


async def test_one_refused_heartbeat_among_good_ones_is_no_trouble(scene: Scene) -> None:
    async with RecordingPeer("cp", answers={"heartbeat": [403, 204, 403, 204]}) as cp:
        id = await scene.peer(cp, PROVIDER)
        await scene.rows("insert into heartbeat_due values (%s, %s) returning 1", id, scene.now[0])
        for _ in range(4):
            await beat(scene)
            scene.wait(seconds=50)
        assert len(cp.of("heartbeat")) == 4
        assert await scene.link(id) == "online"


async def begun(scene: Scene, cp: RecordingPeer) -> tuple[int, str]:
    """Have us register; return the peer's id and the path of what it will say."""
    id = await scene.peer(cp, PROVIDER, link="provisioned")
    await initiative.register(
        scene.context, user_id=1, role=PROVIDER, peer_id=id, token="first-token", base_url=None
    )
    return id, cp.base_url


def answer(peer_id: int, url: str, correlation_id: str) -> tuple[Inbound, messages.Register]:
    inbound = Inbound(
        peer_id=peer_id,
        operation="POST register",
        request_id="their-register",
        correlation_id=correlation_id,
        body=b"{}",
    )
    return inbound, messages.Register("their-token", (messages.VersionUrl("2.0", url),))


async def test_a_peer_that_never_answers_our_register_fails_and_may_still_answer(
    scene: Scene,
) -> None:
    async with RecordingPeer("cp") as cp:
        id, url = await begun(scene, cp)
        await scene.deliver()
        scene.wait(minutes=9, seconds=59)
        await trouble.step(scene.context)
        assert await scene.link(id) == "registering"
        scene.wait(seconds=1)
        await trouble.step(scene.context)
        await trouble.step(scene.context)
        assert await scene.link(id) == "failed"
        assert (await scene.kinds()).count("peer.registration_failed") == 1
        ((why,),) = await scene.rows("select trouble from peer")
        assert "10 min" in why
        with pytest.raises(Forbidden):
            await heartbeat.receive(
                scene.context,
                answer(id, url, "")[0],
                messages.Heartbeat(scene.now[0]),
            )
        late = answer(id, url, cp.of("register")[0].headers["x-request-id"])
        assert await registration.register(scene.context, *late) is None
        assert await scene.link(id) == "registered"
        assert await scene.rows("select trouble from peer") == [(None,)]


async def test_a_peer_that_has_not_taken_our_register_does_not_fail(scene: Scene) -> None:
    async with RecordingPeer("cp", answers={"register": [503, 503, 503]}) as cp:
        id, _ = await begun(scene, cp)
        for _ in range(3):
            await scene.deliver()
            scene.wait(minutes=11)
            await trouble.step(scene.context)
        assert await scene.link(id) == "registering"
        await scene.deliver()
        assert len({h.headers["x-request-id"] for h in cp.of("register")}) == 1


async def test_a_registration_goes_on_wherever_it_was_cut_off(scene: Scene) -> None:
    async with RecordingPeer("cp") as cp:
        id, url = await begun(scene, cp)
        # Killed after the claim, before anything was sent; then after the answer, before it was
        # written down. Each time the lease ends and it goes again, the same to the letter.
        async with scene.context.db.connection() as conn:
            lease = timedelta(seconds=30)
            now = scene.now[0]
            taken, _ = await lanes.take(conn, now=now, lease=lease, limit=10, per_peer=8)
            assert taken
        scene.wait(seconds=31)
        cut_off = Delivery(scene.context)
        await cut_off.step()
        await scene.settle()
        scene.wait(seconds=31)
        await scene.deliver()
        first, second = cp.of("register")
        assert (first.raw, first.headers["x-request-id"], first.token) == (
            second.raw,
            second.headers["x-request-id"],
            "first-token",
        )
        # Killed between the peer's Register and its acceptance: the answer alone completes it.
        said = answer(id, url, first.headers["x-request-id"])
        assert await registration.register(scene.context, *said) is None
        await cut_off.drain()
        assert await scene.link(id) == "registered"


async def test_what_waits_for_an_optimizer_that_is_not_there_is_never_tried(scene: Scene) -> None:
    async with RecordingPeer("co") as co:
        for link in ("provisioned", "registering", "registered", "offline", "failed", "broken"):
            co_id = await scene.peer(co, OPTIMIZER, link=link)
            await scene.rows(
                "update peer set base_url = base_url || %s where id = %s returning 1", link, co_id
            )
            await scene.owe(co_id, link)
        await scene.deliver()
        assert co.heard == []
        assert await scene.rows("select distinct attempts from outbox") == [(0,)]
        assert await scene.rows("select distinct leased_until from lane") == [(None,)]
        scene.wait(days=1)
        await scene.deliver()
        assert set((await scene.outcomes()).values()) == {"expired"}


async def test_a_peer_that_repeats_our_secrets_is_not_quoted(scene: Scene) -> None:
    async def echo(request: web.Request) -> web.Response:
        said = request.headers["Authorization"] + (await request.text())
        return web.Response(status=403, text=f"what is {said}?")

    app = web.Application()
    app.router.add_route("*", "/register", echo)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        vault = scene.context.vault
        offer = registration.offer(scene.context, "the-inner-token")
        came = await outbound.send(
            scene.context,
            Reach(
                peer_id=1,
                base_url=f"http://127.0.0.1:{runner.addresses[0][1]}",
                outbound_token_sealed=vault.seal(b"the-outer-token"),
                service_props=None,
                secrets_sealed=None,
            ),
            operation="register",
            request_id="r-1",
            body=vault.seal(messages.encode(offer)),
            body_sealed=True,
        )
    finally:
        await runner.cleanup()
    assert came.status == 403 and came.detail is not None
    assert "what is Token ***" in came.detail and "er-token" not in came.detail
