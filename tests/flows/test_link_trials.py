"""Random lives of two links: messages in any order, restarts, clock steps, answers that get lost.

Everything goes through the real doors and flows to a real database; `link_model` says what must
come of it. FPD_TRIALS is how many lives (the suite has time for a few, always the same).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import pytest
import structlog
from flows.link_model import GroupModel, PeerModel, Said, Token
from flows.linked_peers import (
    DOOR,
    NOON,
    OPTIMIZER,
    PROVIDER,
    Hands,
    LinkedDaemon,
    PlayedPeers,
    Sent,
    behaviour,
    fetch,
    forecast,
    furnish,
    register,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fpd.oscp.client import Call
from fpd.store.db import Database

TRIALS = int(os.environ.get("FPD_TRIALS", "0"))
LOST = -1  # the peer has it, its answer never came

T = TypeVar("T")

either = st.sampled_from([PROVIDER, OPTIMIZER])
which = st.sampled_from(["newest"] * 8 + ["older", "first", "wrong"])
block = st.tuples(st.integers(-2, 30), st.integers(1, 20), st.integers(0, 9))


class Lives(RuleBasedStateMachine):
    """One life of both links. `runner` and `db` are those of all lives."""

    runner: ClassVar[asyncio.Runner]
    db: ClassVar[Database]
    clock: ClassVar[Hands]
    told: ClassVar[Counter[str]] = Counter()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize(linked=st.sampled_from([True, True, True, False]))
    def move_in(self, linked: bool) -> None:
        self.clock.at = NOON
        self.count = 0
        self.status: int = 204
        self.peers = {
            n: PeerModel(n, tokens=[Token(f"first-{n}")], known=[f"first-{n}"])
            for n in (PROVIDER, OPTIMIZER)
        }
        self.group = GroupModel()
        self.seen: dict[str, tuple[str, bytes, str | None]] = {}
        self.arrived: list[Sent] = []
        self.last: dict[str, Any] | None = None
        self.played = PlayedPeers()
        self.played.answer = self._answer
        self.do(furnish(self.db, now=NOON))
        self.daemon = LinkedDaemon(self.db, self.clock, self.played)
        self.do(self.daemon.start())
        if linked:
            self.registers(PROVIDER, "newest")
            self.registers(OPTIMIZER, "newest")
            self.shakes(PROVIDER, "newest", False)
            self.acknowledges(OPTIMIZER, "newest", True)
            assert self.peers[OPTIMIZER].state == self.peers[PROVIDER].state == "online"

    def _answer(self, call: Call) -> int | None:
        return None if self.status == LOST else self.status or None

    def teardown(self) -> None:
        try:
            self._everything_owed_arrives()
        finally:
            self.do(self.daemon.stop())

    # What peers do.

    def _token(self, peer: PeerModel, which: str) -> str:
        if which == "wrong":
            return "nobody's"
        if which == "first":
            return peer.known[0]
        return peer.known[-1 if which == "newest" or len(peer.known) < 2 else -2]

    def _says(self, number: int, operation: str, body: Any, which: str, **more: Any) -> int | None:
        """Say it; None if it was refused for its token, as it should be."""
        peer = self.peers[number]
        token = self._token(peer, which)
        self.count += 1
        self.said = {"request_id": f"{number}-{self.count}", **more}
        status = self.do(self.daemon.hears(operation, body, token=token, **self.said))
        self.told[f"{more.get('method', '')} {operation} {status}".strip()] += 1
        if not peer.admits(token, self.clock.at):
            assert status == 403, (operation, status)
            return None
        if status == 204:
            self.last = {"operation": operation, "body": body, "peer": peer, **self.said}
        return status

    @rule(number=either, which=which)
    def registers(self, number: int, which: str) -> None:
        body = register(number, f"for-us-{self.count}")
        status = self._says(number, "register", body, which)
        if status is not None:
            expected = self.peers[number].registers(self.said["request_id"], self.clock.at)
            assert status == expected
        self.works()

    @rule(number=either, which=which)
    def puts(self, number: int, which: str) -> None:
        body = register(number, f"for-us-{self.count}")
        status = self._says(number, "register", body, which, method="PUT")
        if status is not None:
            assert status == self.peers[number].puts()
        self.works()

    @precondition(lambda self: self.count > 8)
    @rule(number=either, which=which)
    def leaves(self, number: int, which: str) -> None:
        status = self._says(number, "register", b"", which, method="DELETE")
        if status is not None:
            assert status == self.peers[number].leaves()
        self.works()

    @rule(number=either)
    def is_handed_a_token(self, number: int) -> None:
        self.peers[number].gets(self.do(self.daemon.resets_token(number)), self.clock.at)

    @rule(number=either)
    def comes_back(self, number: int) -> None:
        """Do what it takes to be online, with a network that works."""
        self.status, peer = 204, self.peers[number]
        if peer.state == "unregistered":
            self.is_handed_a_token(number)
        if peer.state in ("provisioned", "registering", "failed", "unregistered"):
            self.registers(number, "newest")
        if peer.state != "online":
            self.shakes(number, "newest", False)
        assert peer.state == "online"

    @rule(number=either, which=which, empty=st.booleans())
    def shakes(self, number: int, which: str, empty: bool) -> None:
        status = self._says(number, "handshake", {} if empty else behaviour(), which)
        if status is not None:
            assert status == self.peers[number].shakes(self.clock.at)
        self.works()

    @rule(number=either, which=which, right=st.sampled_from([True, True, False]))
    def acknowledges(self, number: int, which: str, right: bool) -> None:
        peer = self.peers[number]
        ((ours,),) = self.do(
            fetch(self.db, "select handshake_id from peer where id = %(id)s", id=number)
        )
        correlation = ours if right else "another"
        status = self._says(
            number, "handshake_acknowledge", behaviour(), which, correlation_id=correlation
        )
        if status is not None:
            if peer.state not in ("registering", "registered", "online", "offline"):
                assert status == 403
            elif peer.state != "online" if ours is None else not right:
                assert status == 400
            else:
                assert status == 204
                peer.opens(self.clock.at)
        self.works()

    @rule(number=either, which=which, ahead_s=st.sampled_from([-1, 30, 30, 3600]))
    def beats(self, number: int, which: str, ahead_s: int) -> None:
        promised_at = self.clock.at + timedelta(seconds=ahead_s)
        body = {"offline_mode_at": promised_at.isoformat()}
        status = self._says(number, "heartbeat", body, which)
        if status is not None:
            assert status == self.peers[number].beats(promised_at, self.clock.at)
        self.works()

    @rule(
        which=which,
        kind=st.sampled_from(["CONSUMPTION", "CONSUMPTION", "FALLBACK_CONSUMPTION"]),
        blocks=st.lists(block, min_size=1, max_size=2),
        ready=st.sampled_from([True, True, False]),
    )
    def forecasts(
        self, which: str, kind: str, blocks: list[tuple[int, int, int]], ready: bool
    ) -> None:
        if ready and self.peers[PROVIDER].state != "online":
            self.comes_back(PROVIDER)
        at, laid = self._minute(), []
        for ahead, length, capacity in blocks:
            start = max(at + ahead, laid[-1][1] if laid else at + ahead)
            laid.append((start, start + length, 1000 + 10 * self.count + capacity))
        body = json.dumps(forecast(laid, kind)).encode()
        status = self._says(PROVIDER, DOOR, body, which)
        if status is not None:
            online = self.peers[PROVIDER].state == "online"
            assert status == (204 if online else 403)
            if online:
                self.group.said.append(Said(kind, tuple(laid), body))
        self.works()

    @precondition(lambda self: self.last is not None)
    @rule()
    def repeats(self) -> None:
        """Say the very same again: it is accepted and changes nothing."""
        assert self.last is not None
        said = dict(self.last)
        peer, operation, body = said.pop("peer"), said.pop("operation"), said.pop("body")
        token = self._token(peer, "newest")
        status = self.do(self.daemon.hears(operation, body, token=token, **said))
        assert status == (204 if peer.admits(token, self.clock.at) else 403)
        self.works()

    # What the world does.

    @rule(status=st.sampled_from([204, 204, 204, LOST, 500, 0, 403]))
    def answers_change(self, status: int) -> None:
        self.status = status

    @rule(seconds=st.sampled_from([1, 20, 35, 61, 200, 900]))
    def time_passes(self, seconds: int) -> None:
        self.clock.move(seconds)
        self.works()

    @rule(seconds=st.sampled_from([3, 100, 7200]))
    def the_clock_is_set_back(self, seconds: int) -> None:
        self.clock.move(-seconds)
        self.works()

    @rule()
    def killed(self) -> None:
        self.do(self.daemon.restart())
        self.works()

    @rule()
    def killed_after_sending(self) -> None:
        for sent in self.do(self.daemon.dies_after_sending()):
            self._arrives(sent)

    @rule()
    def time_enough_to_look_passes(self) -> None:
        """The envelope in force is what the group may do."""
        self.clock.move(11)
        self.works()
        self.do(self.daemon.decides())
        rows = self.do(fetch(self.db, "select max_w from envelope order by id desc limit 1"))
        in_force = rows[0][0] if rows else None
        online = self.peers[PROVIDER].state == "online"
        assert in_force == self.group.limit(self._minute(), online=online)

    # What follows.

    def works(self) -> None:
        for peer in self.peers.values():
            peer.notices_silence(self.clock.at)
        for sent in self.do(self.daemon.works()):
            self._arrives(sent)
            self._is_answered(sent)

    def _arrives(self, sent: Sent) -> None:
        """Every try of a message is the same; what arrives teaches the peer."""
        if sent.operation != "heartbeat":
            same = (sent.operation, sent.raw, sent.correlation_id)
            assert self.seen.setdefault(sent.request_id, same) == same
        if sent.status == 204 or (sent.status is None and self.status == LOST):
            self.arrived.append(sent)
            if sent.operation == "register":
                peer = self.peers[sent.peer_id]
                assert sent.correlation_id == peer.register_id
                peer.sees(sent.body["token"])

    def _is_answered(self, sent: Sent) -> None:
        peer = self.peers[sent.peer_id]
        if sent.operation == "register":
            if peer.minted is not None:
                peer.minted.value = sent.body["token"]
            peer.answers_register(sent.status, self.clock.at)
        elif sent.status == 403 and sent.operation == DOOR and peer.state in ("online", "offline"):
            peer.state = "registered"

    def _minute(self) -> int:
        return int((self.clock.at - NOON).total_seconds() // 60)

    @invariant()
    def the_links_are_as_they_must_be(self) -> None:
        query = """
            select id, link, (select count(forecast_id) - count(distinct forecast_id) from outbox
                               where settled_at is null and peer_id = peer.id)
              from peer
        """
        rows = self.do(fetch(self.db, query))
        assert {n: link for n, link, _ in rows} == {n: p.state for n, p in self.peers.items()}
        assert not any(doubled for *_, doubled in rows), "a forecast is owed twice"

    @invariant()
    def nobody_is_locked_out(self) -> None:
        for peer in self.peers.values():
            assert peer.state == "unregistered" or not peer.locked_out(self.clock.at)

    @invariant()
    def the_optimizer_hears_forecasts_in_order(self) -> None:
        bodies = [one.body for one in self.group.said]
        heard = [sent.raw for sent in self.arrived if sent.operation == DOOR]
        assert set(heard) <= set(bodies), "invented"
        first = [bodies.index(raw) for raw in dict.fromkeys(heard)]
        assert first == sorted(first)
        ids = {(sent.raw, sent.request_id) for sent in self.arrived if sent.operation == DOOR}
        again = self.peers[OPTIMIZER].returns
        assert all(sum(raw == body for raw, _ in ids) <= 1 + again for body in bodies)

    def _everything_owed_arrives(self) -> None:
        """With peers that answer, all that is owed to those who are there is gone in minutes."""
        self.status = 204
        before = len(self.played.sent)
        for _ in range(6):
            self.clock.move(75)
            for peer in self.peers.values():
                if peer.state == "online":
                    body = {"offline_mode_at": "2100-01-01T00:00:00Z"}
                    self._says(peer.id, "heartbeat", body, "newest")
                    peer.offline_at = NOON + timedelta(days=10000)
            self.works()
        rows = self.do(
            fetch(
                self.db,
                """
                select o.peer_id, o.operation, o.due_at, p.link
                  from outbox as o join peer as p on p.id = o.peer_id
                 where o.settled_at is null and (p.link = 'online' or o.lane = 'link')
                   and p.base_url is not null
                """,
            )
        )
        assert rows == []
        wanted = self.do(
            fetch(
                self.db,
                """
                select id from peer
                 where link = 'online' and heartbeat_interval_s is not null
                   and link_changed_at < %(since)s
                """,
                since=self.clock.at - timedelta(seconds=400),
            )
        )
        beats = Counter(s.peer_id for s in self.played.sent[before:] if s.operation == "heartbeat")
        assert all(beats[peer_id] >= 5 for (peer_id,) in wanted), "no heartbeats"
        self._all_is_heard()

    def _all_is_heard(self) -> None:
        if self.peers[OPTIMIZER].state != "online":
            return
        heard = {sent.raw for sent in self.arrived if sent.operation == DOOR}
        excused = {
            bytes(body)
            for (body,) in self.do(
                fetch(
                    self.db,
                    """
                    select f.body from forecast as f
                     where not exists (select from outbox as o where o.forecast_id = f.id)
                        or exists (select from outbox as o where o.forecast_id = f.id
                                    and o.outcome in ('refused', 'expired'))
                    """,
                )
            )
        }
        for number, one in enumerate(self.group.said):
            if one.body not in heard | excused:
                assert self.group.pointless(number, self._minute()), number


@pytest.fixture
def lives(database_url: str) -> Iterator[type[Lives]]:
    clock = Hands()
    with asyncio.Runner() as runner:
        db = Database(database_url, clock=clock)
        runner.run(db.open())
        Lives.runner, Lives.db, Lives.clock = runner, db, clock
        quiet = structlog.make_filtering_bound_logger(logging.ERROR)
        structlog.configure(wrapper_class=quiet)
        yield Lives
        structlog.reset_defaults()
        runner.run(db.close())


def test_any_life_of_two_links(lives: type[Lives]) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lives,
        settings=settings(
            max_examples=TRIALS or 8,
            stateful_step_count=60 if TRIALS else 30,
            derandomize=not TRIALS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Lives.told[f"{DOOR} 204"], "no forecast was ever accepted"
