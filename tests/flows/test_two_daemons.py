"""Two daemons on one database with one clock that is moved by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from flows.linked_peers import (
    DOOR,
    OPTIMIZER,
    PROVIDER,
    Hands,
    LinkedDaemon,
    PlayedPeers,
    behaviour,
    forecast,
    furnish,
    register,
)
from flows.measured_site import Hands as SiteHands
from flows.measured_site import Site

from fpd.flows import measurements
from fpd.store.db import Database

LEASE_S = 13


@pytest.fixture
async def two(database_url: str) -> AsyncIterator[tuple[LinkedDaemon, LinkedDaemon]]:
    """Two daemons; both links are open, made at the first and used at the second."""
    clock, peers = Hands(), PlayedPeers()
    async with contextlib.AsyncExitStack() as stack:
        daemons = []
        for _ in range(2):
            db = Database(database_url, clock=clock)
            await db.open()
            stack.push_async_callback(db.close)
            daemons.append(LinkedDaemon(db, clock, peers))
        await furnish(daemons[0].db, now=clock())
        for daemon in daemons:
            await daemon.start()
            stack.push_async_callback(daemon.stop)
        first, second = daemons
        for peer_id in (PROVIDER, OPTIMIZER):
            await first.hears("register", register(peer_id, "t"), token=f"first-{peer_id}")
            await second.works()
            assert await second.hears("handshake", behaviour(), token=token(first, peer_id)) == 204
            assert await first.hears("handshake", {}, token=f"first-{peer_id}") == 403
            await first.works()
        yield first, second


def token(daemon: LinkedDaemon, peer_id: int = PROVIDER) -> str:
    """The newest that the peer was given."""
    registers = [s for s in daemon.peers.sent if (s.peer_id, s.operation) == (peer_id, "register")]
    return str(registers[-1].body["token"])


async def test_the_claims_of_a_dead_daemon_are_taken_over_when_its_lease_ends(
    two: tuple[LinkedDaemon, LinkedDaemon],
) -> None:
    first, second = two
    for number in range(3):
        said = forecast([(number, number + 1, number)])
        assert await first.hears(DOOR, said, token=token(first)) == 204
    lost = [s for s in await first.dies_after_sending() if s.operation == DOOR]
    assert [s.body["forecasted_blocks"][0]["capacity"] for s in lost] == [0, 1, 2]
    for after_s in (0, LEASE_S - 1):
        first.clock.move(after_s)
        sent = [s for s in await second.works() if s.operation == DOOR]
        assert sent == [], "what may be under way is nobody else's, nor what comes after it"
    first.clock.move(1)
    again = [s for s in await second.works() if s.operation == DOOR]
    assert again == lost, "the same ids and the same bytes in the same order"


async def test_a_token_that_was_good_a_moment_ago_ends_everywhere_at_once(
    two: tuple[LinkedDaemon, LinkedDaemon],
) -> None:
    first, second = two
    old = token(first)
    for number, daemon in enumerate((first, second, first, second)):
        assert await daemon.hears(DOOR, forecast([(number, number + 1, 1)]), token=old) == 204
    assert await second.hears("register", register(PROVIDER, "t2"), token=old) == 204
    await second.works()
    new = token(first)
    for number, daemon in enumerate((first, second)):
        said = forecast([(10 + number, 11 + number, 1)])
        assert await daemon.hears(DOOR, said, token=old) == 403, "shake hands first"
    assert await second.hears("handshake", behaviour(), token=new) == 204
    for number, daemon in enumerate((first, second)):
        said = forecast([(20 + number, 21 + number, 1)])
        assert await daemon.hears(DOOR, said, token=old) == 403, "its successor has been used"
        assert await daemon.hears(DOOR, said, token=new) == 204
    assert (
        await first.hears("register", register(PROVIDER, "t3"), token=new, method="DELETE") == 204
    )
    for daemon in (first, second):
        assert await daemon.hears(DOOR, forecast([(30, 31, 1)]), token=new) == 403


async def test_each_message_and_heartbeat_is_sent_by_one_of_them(
    two: tuple[LinkedDaemon, LinkedDaemon],
) -> None:
    first, second = two
    for peer_id in (PROVIDER, OPTIMIZER):
        promise = {"offline_mode_at": "2100-01-01T00:00:00Z"}
        assert await first.hears("heartbeat", promise, token=token(first, peer_id)) == 204
    before = len(first.peers.sent)
    for number in range(16):
        await asyncio.gather(
            *(
                daemon.hears(DOOR, forecast([(60 + n, 61 + n, n)]), token=token(first))
                for daemon, n in ((first, 2 * number), (second, 2 * number + 1))
            )
        )
        await asyncio.gather(first.works(), second.works())
        first.clock.move(15)
    await first.works()
    sent = Counter((s.peer_id, s.operation) for s in first.peers.sent[before:])
    assert sent[OPTIMIZER, DOOR] == 32
    ids = {s.request_id for s in first.peers.sent[before:] if s.operation == DOOR}
    assert len(ids) == 32
    for peer_id in (PROVIDER, OPTIMIZER):  # every 48 s in 240 s
        assert sent[peer_id, "heartbeat"] == 5


async def test_a_measurement_period_is_reported_by_one_of_them(database_url: str) -> None:
    clock = SiteHands()
    async with contextlib.AsyncExitStack() as stack:
        sites = []
        for _ in range(2):
            db = Database(database_url, clock=clock)
            await db.open()
            stack.push_async_callback(db.close)
            sites.append(Site(db, clock))
        site = sites[0]
        await site.add_peers()
        await site.add_group()
        energy = {"propertyNames": ["wattHours"], "unit": "Wh", "statisticType": "Difference",
                  "type": "Total", "direction": "Import"}  # fmt: skip
        await site.add_asset("cp-1", energy=energy)
        await site.read("load/1", {s: s for s in range(0, 301, 20)}, name="wattHours", kind="a")
        for seconds in (0, 62, 61, 1, 180):
            clock.move(seconds=seconds)
            for _ in range(4):
                await asyncio.gather(*(measurements.step(s.context) for s in sites * 2))
        told = [body["measurements"][0]["measure_time"] for _, _, body in await site.owed()]
        assert len(told) == len(set(told)) == 5
