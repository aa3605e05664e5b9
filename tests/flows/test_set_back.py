"""The clock is set back by hours, and everything goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from flows.linked_peers import (
    DOOR,
    OPTIMIZER,
    PROVIDER,
    Hands,
    LinkedDaemon,
    PlayedPeers,
    behaviour,
    fetch,
    forecast,
    furnish,
    register,
)

from fpd.store.db import Database


@pytest.fixture
async def daemon(database_url: str) -> AsyncIterator[LinkedDaemon]:
    """A daemon whose links with both peers are open."""
    clock = Hands()
    db = Database(database_url, clock=clock)
    await db.open()
    await furnish(db, now=clock())
    daemon = LinkedDaemon(db, clock, PlayedPeers())
    await daemon.start()
    for peer_id in (PROVIDER, OPTIMIZER):
        await daemon.hears("register", register(peer_id, "t"), token=f"first-{peer_id}")
        await daemon.works()
        await daemon.hears("handshake", behaviour(), token=newest(daemon, peer_id))
    await daemon.works()
    yield daemon
    await daemon.stop()
    await db.close()


def newest(daemon: LinkedDaemon, peer_id: int) -> str:
    registers = [s for s in daemon.peers.sent if (s.peer_id, s.operation) == (peer_id, "register")]
    return str(registers[-1].body["token"])


async def test_heartbeats_retries_and_control_do_not_wait_for_the_old_time(
    daemon: LinkedDaemon,
) -> None:
    token = newest(daemon, PROVIDER)
    daemon.peers.answer = lambda call: None
    assert await daemon.hears(DOOR, forecast([(-200, 60, 7000)]), token=token) == 204
    await daemon.works()
    await daemon.decides()
    daemon.clock.move(-7200)
    daemon.peers.answer = lambda call: 204
    sent = [(s.peer_id, s.operation) for s in await daemon.works()]
    assert sent.count((OPTIMIZER, DOOR)) == 1
    assert {(PROVIDER, "heartbeat"), (OPTIMIZER, "heartbeat")} <= set(sent)
    daemon.clock.move(49)
    assert [s.operation for s in await daemon.works()] == ["heartbeat", "heartbeat"]
    await daemon.decides()
    (due_at,) = (await fetch(daemon.db, "select due_at from control_due"))[0]
    assert due_at == daemon.clock() + timedelta(seconds=10)


async def test_what_was_said_later_is_newer_though_the_clock_says_otherwise(
    daemon: LinkedDaemon,
) -> None:
    token = newest(daemon, PROVIDER)
    for limit_w in (7000, 3000):
        assert await daemon.hears(DOOR, forecast([(-200, 60, limit_w)]), token=token) == 204
        daemon.clock.move(-3600)
    await daemon.works()
    await daemon.decides()
    query = "select max_w from envelope order by id desc limit 1"
    assert await fetch(daemon.db, query) == [(3000,)]


async def test_a_limit_that_was_over_holds_again(daemon: LinkedDaemon) -> None:
    token = newest(daemon, PROVIDER)
    for blocks in ([(0, 30, 7000)], [(0, 30, 3000)], [(35, 45, 5000)]):
        assert await daemon.hears(DOOR, forecast(blocks), token=token) == 204
    limits = []
    for seconds in (60, 3600, -3600):
        daemon.clock.move(seconds)
        await daemon.works()
        await daemon.hears("heartbeat", {"offline_mode_at": "2026-03-11T00:00:00Z"}, token=token)
        await daemon.decides()
        query = "select max_w from envelope order by id desc limit 1"
        limits += [max_w for (max_w,) in await fetch(daemon.db, query)]
    assert limits == [3000, None, 3000]


async def test_a_small_correction_is_no_step(daemon: LinkedDaemon) -> None:
    await daemon.works()
    daemon.clock.move(-1.5)
    assert await daemon.works() == []
