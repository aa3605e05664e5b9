"""Whatever is lost on the way, one of the tokens that a peer holds is good (decision P1)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from flows.linked_peers import (
    PROVIDER,
    Hands,
    LinkedDaemon,
    PlayedPeers,
    behaviour,
    furnish,
    register,
)

from fpd.oscp.client import Call
from fpd.store.db import Database


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    await furnish(db, now=clock())
    yield db
    await db.close()


@pytest.fixture
async def daemon(db: Database) -> AsyncIterator[LinkedDaemon]:
    daemon = LinkedDaemon(db, Hands(), PlayedPeers())
    await daemon.start()
    yield daemon
    await daemon.stop()


def offered(daemon: LinkedDaemon) -> str:
    """The token in the newest Register that reached the provider."""
    return str([s for s in daemon.peers.sent if s.operation == "register"][-1].body["token"])


async def test_the_old_token_ends_sixty_seconds_after_our_register_was_taken(
    daemon: LinkedDaemon,
) -> None:
    assert await daemon.hears("register", register(PROVIDER, "t"), token="first-1") == 204
    await daemon.works()
    daemon.clock.move(59.9)
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 204
    daemon.clock.move(0.1)
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 403
    assert await daemon.hears("handshake", behaviour(), token=offered(daemon)) == 204


async def test_a_peer_that_lost_the_new_token_may_register_with_the_old_one_and_keeps_it(
    daemon: LinkedDaemon,
) -> None:
    """It took our Register and crashed; it registers anew and is away for longer than a minute."""
    assert await daemon.hears("register", register(PROVIDER, "t"), token="first-1") == 204
    await daemon.works()
    daemon.clock.move(30)
    daemon.peers.answer = lambda call: None
    assert await daemon.hears("register", register(PROVIDER, "u"), token="first-1") == 204
    await daemon.works()
    daemon.clock.move(3600)
    assert await daemon.hears("register", register(PROVIDER, "v"), token="first-1") == 204
    daemon.peers.answer = lambda call: 204
    await daemon.works()
    assert await daemon.hears("handshake", behaviour(), token=offered(daemon)) == 204
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 403


async def test_a_token_that_has_ended_does_not_come_back(daemon: LinkedDaemon) -> None:
    assert await daemon.hears("register", register(PROVIDER, "t"), token="first-1") == 204
    await daemon.works()
    second = offered(daemon)
    daemon.clock.move(61)
    assert await daemon.hears("register", register(PROVIDER, "u"), token="first-1") == 403
    assert await daemon.hears("register", register(PROVIDER, "u"), token=second) == 204
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 403


async def test_an_answer_to_a_register_that_a_newer_one_replaced_ends_no_token(
    daemon: LinkedDaemon,
) -> None:
    """The peer registers again while the first Register of ours is under way to it."""
    await daemon.hears("register", register(PROVIDER, "t"), token="first-1")
    await daemon.delivery.step()  # under way, not written down yet
    await daemon.finished()
    await daemon.hears("register", register(PROVIDER, "u"), token="first-1")
    daemon.peers.answer = lambda call: None
    await daemon.works()
    daemon.clock.move(61)
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 204


async def test_a_refusal_of_a_register_that_a_newer_one_replaced_fails_nothing(
    daemon: LinkedDaemon,
) -> None:
    """The peer has forgotten the token with which the first Register of ours goes to it."""
    refused: list[str] = []

    def answer(call: Call) -> int:
        refused.append(call.request_id)
        return 403 if len(set(refused)) == 1 else 204

    daemon.peers.answer = answer
    await daemon.hears("register", register(PROVIDER, "t"), token="first-1")
    await daemon.delivery.step()
    await daemon.finished()
    await daemon.hears("register", register(PROVIDER, "u"), token="first-1")
    await daemon.delivery.drain()
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 204


async def test_a_token_that_the_operator_reset_meanwhile_ends_with_the_link_s_only(
    daemon: LinkedDaemon,
) -> None:
    """Our Register is taken after the reset: the token in it is the one that the peer uses."""
    await daemon.hears("register", register(PROVIDER, "t"), token="first-1")
    reset = await daemon.resets_token(PROVIDER)
    await daemon.works()
    registered = offered(daemon)
    daemon.clock.move(61)
    assert await daemon.hears("handshake", behaviour(), token="first-1") == 403
    assert await daemon.hears("handshake", behaviour(), token=registered) == 204
    daemon.clock.move(61)
    assert await daemon.hears("heartbeat", {"offline_mode_at": "2100-01-01T00:00:00Z"},
                              token=registered) == 204  # fmt: skip
    assert await daemon.hears("register", register(PROVIDER, "w"), token=reset) == 204
