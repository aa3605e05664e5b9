"""Random lives of one link against rules that are said once more, in another way.

The model is not a table: it remembers what has happened (registered, shaken hands, fallen silent)
and derives from that, as the protocol's text does, what may be said.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from fpd.domain.link import Link, LinkEvent, after, offline_at
from fpd.errors import Forbidden

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
GRACE = timedelta(seconds=5)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.link = Link.PROVISIONED
        self.now = NOON
        self.spoken_for = False  # a Register was accepted and nobody has left since
        self.refused = False  # ours was, since then
        self.complete = False  # ours was accepted, or the peer went on as if
        self.shaken = False
        self.broken = False  # the peer refuses our credential, and the remedy did not help
        self.deadline: datetime | None = None  # None: open, or never opened

    def allowed(self, event: LinkEvent) -> bool:
        """Tell the link; return whether it may be said now."""
        try:
            self.link = after(self.link, event)
        except Forbidden:
            return False
        return True

    @property
    def registered(self) -> bool:
        return self.spoken_for and not self.refused

    @property
    def silent(self) -> bool:
        return self.deadline is not None and self.deadline <= self.now

    def _begins_anew(self) -> None:
        self.spoken_for, self.refused, self.complete, self.shaken = True, False, False, False
        self.deadline, self.broken = None, False

    @rule(event=st.sampled_from([LinkEvent.REGISTER, LinkEvent.WE_REGISTER]))
    def registers(self, event: LinkEvent) -> None:
        assert self.allowed(event), "registering is always allowed"
        self._begins_anew()

    @rule()
    def registers_differently(self) -> None:
        assert self.allowed(LinkEvent.PUT_REGISTER) == self.registered
        if self.registered:
            self._registered()

    @rule()
    def answers_our_register(self) -> None:
        assert self.allowed(LinkEvent.REGISTER_REPLY) == self.spoken_for, "late, but not too late"
        if self.spoken_for:
            self._registered()

    def _registered(self) -> None:
        self.refused, self.complete, self.shaken, self.broken = False, True, False, False
        self.deadline = None

    @rule()
    def ours_is_accepted(self) -> None:
        assert self.allowed(LinkEvent.REGISTER_ACCEPTED)
        if self.spoken_for and not self.shaken:
            self.refused, self.complete = False, True

    @rule(event=st.sampled_from([LinkEvent.REGISTER_REFUSED, LinkEvent.UNANSWERED]))
    def ours_is_refused(self, event: LinkEvent) -> None:
        assert self.allowed(event)
        if self.spoken_for and not (self.complete or self.shaken):
            self.refused = True

    @rule()
    def leaves(self) -> None:
        assert self.allowed(LinkEvent.UNREGISTER) == self.registered
        if self.registered:
            self.spoken_for = self.shaken = self.complete = self.broken = False

    @rule()
    def is_left(self) -> None:
        assert self.allowed(LinkEvent.WE_UNREGISTER)
        if self.registered:
            self.spoken_for = self.shaken = self.complete = self.broken = False

    @rule(event=st.sampled_from([LinkEvent.HANDSHAKE, LinkEvent.ACKNOWLEDGE]))
    def shakes(self, event: LinkEvent) -> None:
        assert self.allowed(event) == self.registered
        if self.registered:
            self.complete = self.shaken = True
            self.broken = False
            self.deadline = self.now + timedelta(seconds=180)

    @rule()
    def lost_the_handshake(self) -> None:
        assert self.allowed(LinkEvent.NOT_HANDSHAKEN)
        if not self.broken:
            self.shaken = False

    @rule()
    def refuses_our_credential(self) -> None:
        assert self.allowed(LinkEvent.REFUSED_AGAIN)
        if self.registered and self.complete and not (self.shaken and self.silent):
            self.broken = True

    @rule()
    def takes_our_credential(self) -> None:
        assert self.allowed(LinkEvent.CREDENTIAL_TAKEN)
        if self.broken:
            self.broken, self.shaken = False, True
        self._look()

    @rule(ahead_s=st.sampled_from([-60, -1, 0, 1, 60, 600]))
    def beats(self, ahead_s: int) -> None:
        may = self.broken or (self.registered and self.shaken and not self.silent)
        assert self.allowed(LinkEvent.MESSAGE) == may
        if may:
            promised_at = self.now + timedelta(seconds=ahead_s)
            self.deadline = offline_at(promised_at, now=self.now, grace=GRACE)
            assert self.deadline == (promised_at + GRACE if ahead_s > 0 else self.now)
            self._look()

    @rule(seconds=st.sampled_from([1, 30, 200]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self._look()

    def _look(self) -> None:
        if self.silent:
            assert self.allowed(LinkEvent.SILENCE)
            if self.broken:
                self.broken, self.shaken = False, True

    @rule()
    def lives(self) -> None:
        assert self.allowed(LinkEvent.SIGN_OF_LIFE)
        if self.registered and self.shaken and self.silent and not self.broken:
            self.deadline = None

    @invariant()
    def online_is_registered_shaken_and_not_silent(self) -> None:
        open_ = self.registered and self.shaken and not self.broken
        assert (self.link is Link.ONLINE) == (open_ and not self.silent)

    @invariant()
    def offline_is_silent_after_a_handshake(self) -> None:
        open_ = self.registered and self.shaken and not self.broken
        assert (self.link is Link.OFFLINE) == (open_ and self.silent)

    @invariant()
    def broken_is_where_we_are_refused_and_may_be_spoken_to(self) -> None:
        assert (self.link is Link.BROKEN) == self.broken

    @invariant()
    def the_rest_has_its_names(self) -> None:
        if self.registered and not self.shaken and not self.broken:
            assert self.link is (Link.REGISTERED if self.complete else Link.REGISTERING)
        elif self.spoken_for and self.refused:
            assert self.link is Link.FAILED
        elif not self.spoken_for:
            assert self.link in (Link.PROVISIONED, Link.UNREGISTERED)

    @invariant()
    def nobody_is_asked_to_do_what_is_not_allowed(self) -> None:
        """What a refusal names as the way out is open."""
        if self.link in (Link.ONLINE, Link.BROKEN):
            return
        with pytest.raises(Forbidden) as refusal:
            after(self.link, LinkEvent.MESSAGE)
        way = LinkEvent.HANDSHAKE if "shake" in str(refusal.value) else LinkEvent.REGISTER
        after(self.link, way)


def test_any_life_of_a_link() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=settings(max_examples=40, stateful_step_count=40),
    )
