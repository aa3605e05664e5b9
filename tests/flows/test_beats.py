"""Heartbeats leave on time, with and without the database, whatever the clock does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from flows.measured_site import NOON, Hands, Site
from support.peer import RecordingPeer
from support.waiting import wait_for

from fpd.config import Oscp
from fpd.crew import Crew
from fpd.errors import Unavailable
from fpd.flows.context import Context
from fpd.flows.heartbeat import Heartbeats
from fpd.flows.loop import Loop
from fpd.flows.silence import Silence
from fpd.metrics import Metrics
from fpd.oscp.client import PeerClient
from fpd.store import promises
from fpd.store.db import Contended, Database, retried

LOCAL = Oscp(require_https=False, allowed_networks=(ip_network("127.0.0.0/8"),))


class Set:
    """A clock that goes on by itself, and can be set."""

    def __init__(self) -> None:
        self.by = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.by

    @property
    def at(self) -> datetime:
        return self()


class House:
    """Peers 1 (provider) and 2 (optimizer), and what this daemon runs for them."""

    def __init__(self, url: str, crew: Crew) -> None:
        self.clock = Set()
        self.crew = crew
        self.db = Database(url, clock=self.clock)
        self.site = Site(self.db, self.clock)  # type: ignore[arg-type]
        self.context = replace(
            self.site.context, peers=PeerClient(LOCAL), spawn=crew.spawn, db=self.db
        )
        self.heartbeats = Heartbeats(self.context)

    async def connect(self, peer: RecordingPeer, *, interval_s: float, in_s: float = 0.05) -> None:
        """Give the provider an address, and the first heartbeat to it."""
        await self.site.execute(
            "update peer set base_url = %(url)s, heartbeat_interval_s = %(interval)s where id = 1",
            url=peer.base_url,
            interval=interval_s,
        )
        await self.site.execute(
            "insert into heartbeat_due (peer_id, due_at) values (1, %(at)s)",
            at=self.clock() + timedelta(seconds=in_s),
        )

    async def due_in_s(self) -> float:
        ((due_at,),) = await self.site.fetch("select due_at from heartbeat_due")
        return float((due_at - self.clock()).total_seconds())

    def go_on(self) -> None:
        """Let the loop of heartbeats run."""
        self.crew.spawn(self._rounds(), name="rounds")

    async def _rounds(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await self.heartbeats.step()
            await asyncio.sleep(0.1)


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    crew = Crew()
    house = House(database_url, crew)
    await house.db.open()
    await house.context.peers.open()
    await house.site.add_peers()
    yield house
    house.heartbeats.stop()
    await crew.cancel()
    assert not crew.has_failed
    await house.context.peers.close()
    await house.db.close()


def gaps(at: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(at)]


class Listening(RecordingPeer):
    """Notes when it is called."""

    async def beats(self, count: int, *, within_s: float = 10) -> list[float]:
        at: list[float] = []
        for number in range(1, count + 1):
            await self.hears("heartbeat", number, within_s=within_s)
            at.append(time.monotonic())
        return at


async def test_the_rhythm_is_kept_while_the_database_is_away(house: House) -> None:
    async with Listening() as peer:
        await house.connect(peer, interval_s=1)
        house.go_on()
        counted = asyncio.create_task(peer.beats(7))
        await peer.hears("heartbeat", 2)
        await house.db.close()
        await peer.hears("heartbeat", 4)
        await house.db.open()
        assert gaps(await counted) == pytest.approx([0.8] * 6, abs=0.15), "late, or twice"
        assert await house.due_in_s() > -0.2, "the row goes on where memory was"


async def test_the_rhythm_is_kept_while_the_database_is_slow(house: House) -> None:
    async with Listening() as peer:
        await house.connect(peer, interval_s=1)
        house.go_on()
        counted = asyncio.create_task(peer.beats(6))
        await peer.hears("heartbeat", 2)
        async with house.db.transaction() as conn:
            await conn.execute("lock table heartbeat_due")
            await peer.hears("heartbeat", 4)
            await asyncio.sleep(0.2)
        assert gaps(await counted) == pytest.approx([0.8] * 5, abs=0.15), "late, or twice"


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
async def test_the_rhythm_is_kept_when_the_clock_is_set(house: House, step_s: float) -> None:
    async with Listening() as peer:
        await house.connect(peer, interval_s=1)
        house.go_on()
        counted = asyncio.create_task(peer.beats(4))
        await peer.hears("heartbeat", 2)
        house.clock.by += timedelta(seconds=step_s)
        assert gaps(await counted) == pytest.approx([0.8] * 3, abs=0.15)
        promised = datetime.fromisoformat(peer.of("heartbeat")[-1].body["offline_mode_at"])
        assert (promised - house.clock()).total_seconds() == pytest.approx(3, abs=0.5)


async def test_what_a_clock_set_back_has_put_far_ahead_is_due_now(house: House) -> None:
    async with Listening() as peer:
        await house.connect(peer, interval_s=60, in_s=3600)
        house.go_on()
        await peer.hears("heartbeat", within_s=2)


async def test_who_left_before_the_outage_is_not_served_from_memory(house: House) -> None:
    async with Listening() as peer:
        await house.connect(peer, interval_s=1)
        house.go_on()
        await peer.hears("heartbeat")
        await house.site.execute("update peer set link = 'unregistered'")
        await asyncio.sleep(0.8)
        before = len(peer.heard)
        await house.db.close()
        await asyncio.sleep(1.2)
        assert len(peer.heard) == before


async def test_who_wants_none_during_the_outage_is_not_asked_again(house: House) -> None:
    async with Listening(answers={"heartbeat": [204, 403]}) as peer:
        await house.connect(peer, interval_s=1)
        house.go_on()
        await peer.hears("heartbeat")
        await house.db.close()
        await peer.hears("heartbeat", 2)
        await asyncio.sleep(1.2)
        assert len(peer.heard) == 2


async def test_a_tarpit_has_one_heartbeat_at_a_time(house: House) -> None:
    calls: list[tuple[float, float]] = []

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        while await reader.read(1000):
            pass
        calls.append((began, time.monotonic()))
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        tarpit = RecordingPeer(port=server.sockets[0].getsockname()[1])
        await house.connect(tarpit, interval_s=1)
        house.go_on()
        await wait_for(lambda: len(calls) >= 3)
    begun = [began for began, _ in calls]
    assert gaps(begun) == pytest.approx([0.8] * (len(begun) - 1), abs=0.15)
    assert all(ended < begin for (_, ended), begin in zip(calls, begun[1:], strict=False))


@pytest.fixture
async def quiet(database_url: str) -> AsyncIterator[Quiet]:
    quiet = Quiet(database_url)
    await quiet.db.open()
    await quiet.site.add_peers()
    yield quiet
    await quiet.db.close()


class Quiet:
    """Two peers and the loop that notices silence, by clocks that are moved by hand."""

    def __init__(self, url: str) -> None:
        self.wall, self.steady_s = NOON, 1000.0
        self.db = Database(url, clock=lambda: self.wall)
        self.site = Site(self.db, Hands())
        self.context = self.another()
        self.silence = Silence(self.context)

    def another(self) -> Context:
        """Return the context of another daemon on the same machine and database."""
        return replace(
            self.site.context, clock=lambda: self.wall, steady=lambda: self.steady_s, db=self.db
        )

    async def passes(self, seconds: float) -> None:
        """Let time pass, with the loop running."""
        for _ in range(int(seconds / 0.5)):
            self.wall += timedelta(seconds=0.5)
            self.steady_s += 0.5
            await self.silence.step()

    async def promises(self, peer_id: int, *, for_s: float, to: Context | None = None) -> None:
        """The peer speaks."""
        at = self.wall + timedelta(seconds=for_s)
        async with self.db.connection() as conn:
            await promises.save(
                conn, peer_id=peer_id, offline_mode_at=at, offline_at=at, now=self.wall
            )
        (to or self.context).promises.note(peer_id, at)

    async def online(self) -> list[int]:
        return [id for (id,) in await self.site.fetch(
            "select id from peer where link = 'online' order by id")]  # fmt: skip


@pytest.mark.parametrize("step_s", [-3600, 0, 3600])
async def test_silence_is_noticed_on_time_whatever_the_clock_does(
    quiet: Quiet, step_s: float
) -> None:
    await quiet.silence.step()
    await quiet.promises(1, for_s=60)
    await quiet.promises(2, for_s=60)
    await quiet.passes(20)
    quiet.wall += timedelta(seconds=step_s)
    await quiet.passes(20)
    await quiet.promises(2, for_s=60)
    await quiet.passes(19.5)
    assert await quiet.online() == [1, 2]
    await quiet.passes(1)
    assert await quiet.online() == [2]
    await quiet.passes(39)
    assert await quiet.online() == [2]
    await quiet.passes(1)
    assert await quiet.online() == []


async def test_what_was_promised_before_we_started_moves_with_the_clock_too(quiet: Quiet) -> None:
    await quiet.promises(1, for_s=60, to=quiet.another())
    await quiet.passes(5)
    quiet.wall += timedelta(hours=1)
    await quiet.passes(50)
    assert await quiet.online() == [1, 2]
    await quiet.passes(6)
    assert await quiet.online() == [2]


async def test_two_daemons_move_a_promise_once(quiet: Quiet) -> None:
    other = quiet.another()
    second = Silence(other)
    await quiet.silence.step()
    await second.step()
    await quiet.promises(1, for_s=60)
    await quiet.promises(2, for_s=60)
    await quiet.promises(2, for_s=90, to=other)
    quiet.wall -= timedelta(hours=1)
    for _ in range(118):
        await second.step()
        await quiet.passes(0.5)
    assert await quiet.online() == [1, 2]
    await quiet.passes(1.5)
    assert await quiet.online() == [2]
    await quiet.passes(30)
    assert await quiet.online() == []


async def test_while_the_database_was_away_nobody_was_silent(quiet: Quiet) -> None:
    await quiet.silence.step()
    await quiet.promises(1, for_s=60)
    await quiet.passes(20)
    await quiet.db.close()
    quiet.wall += timedelta(minutes=10)
    quiet.steady_s += 600
    with pytest.raises(Unavailable):
        await quiet.silence.step()
    await quiet.db.open()
    await quiet.passes(39)
    assert await quiet.online() == [1, 2]
    await quiet.passes(2)
    assert await quiet.online() == [2]


async def test_who_loses_a_deadlock_begins_again(database_url: str) -> None:
    db = Database(database_url, clock=lambda: NOON)
    await db.open()
    site = Site(db, Hands())
    await site.add_peers()
    begun: list[int] = []
    both = asyncio.Barrier(2)

    @retried
    async def rename(first: int, second: int) -> None:
        begun.append(first)
        async with db.transaction() as conn:
            await conn.execute("update peer set name = name || '!' where id = %s", (first,))
            if len(begun) <= 2:
                await both.wait()
            await conn.execute("update peer set name = name || '!' where id = %s", (second,))

    try:
        await asyncio.gather(rename(1, 2), rename(2, 1))
        assert await site.fetch("select name from peer order by id") == [
            ("Lines Co.!!",), ("Opt!!",)]  # fmt: skip
        assert len(begun) == 3, "PostgreSQL gives up one of two"
        assert db.ready
    finally:
        await db.close()


async def test_there_is_an_end_to_trying_again() -> None:
    tries = []

    @retried
    async def hopeless() -> None:
        tries.append(1)
        raise Contended("for ever")

    with pytest.raises(Unavailable):
        await hopeless()
    assert len(tries) == 3


async def test_a_loop_that_nobody_rings_goes_on() -> None:
    """The metronome goes by the wall clock, and stands still when that is set back."""
    passes: list[int] = []

    async def step() -> bool:
        passes.append(1)
        return False

    crew = Crew()
    crew.spawn(Loop("tested", step, every_s=0.05, metrics=Metrics()).run(), name="loop")
    await wait_for(lambda: len(passes) >= 3)
    await crew.cancel()
