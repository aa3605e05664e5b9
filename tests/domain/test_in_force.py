"""Which limit was in force at any instant of a random history: fpd against a second opinion.

Messages come, peers fall silent and return, the daemon stops and starts, clocks are set forth
and back. FPD_EXAMPLES asks for more examples.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import domain.limit_model as model
from domain.forecast_strategies import HOUR, NOW, terms
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from fpd.domain.forecast import (
    Block,
    Envelope,
    Forecast,
    ForecastType,
    Overlap,
    Spread,
    Terms,
    envelope_at,
)
from fpd.domain.supersede import spent
from fpd.domain.units import Phase, Unit

EXAMPLES = int(os.environ.get("FPD_EXAMPLES", "150"))
REVIVAL = timedelta(minutes=10)
LOOKS_EVERY = timedelta(hours=6)


@dataclass(frozen=True)
class Event:
    """`move_s` later (earlier, when the clock is set back) something happens."""

    move_s: int
    kind: str  # message, silent, back, wishes stop, wishes go on, restart
    forecast: Forecast | None = None


def _message(of: str, said: list[object], sender: int) -> Forecast:
    return Forecast(
        received_at=NOW,
        type=ForecastType(of),
        blocks=tuple(said),  # type: ignore[arg-type]
        peer_id=9 if of == "OPTIMUM" else sender,
    )


def _block(start_h: int, hours: int, capacity: Decimal, unit: Unit, phase: Phase) -> Block:
    start_at = NOW + start_h * HOUR
    end_at = start_at + hours * HOUR
    return Block(start_at=start_at, end_at=end_at, capacity=capacity, unit=unit, phase=phase)


# Few hours, few values: blocks meet and cover each other often.
_BLOCKS = st.builds(
    _block,
    st.integers(-3, 9),
    st.integers(1, 4),
    st.sampled_from([Decimal(n) for n in ("0", "5", "7.3", "1000", "2500.5")]),
    st.sampled_from([Unit.W, Unit.W, *Unit]),
    st.sampled_from([Phase.ALL, Phase.ALL, *Phase]),
)
_TYPES = st.sampled_from([*ForecastType, *ForecastType, "CONSUMPTION", "GENERATION"])
_SAID = st.builds(_message, _TYPES, st.lists(_BLOCKS, min_size=1, max_size=4), st.integers(1, 2))
_MOVES = (
    st.just(0)
    | st.integers(1, 4).map(lambda n: 3600 * n)
    | st.integers(0, 7200)
    | st.integers(-600, 0)
)
_EVENTS = st.one_of(
    st.builds(Event, _MOVES, st.just("message"), _SAID),
    st.builds(Event, _MOVES, st.just("message"), _SAID),
    st.builds(
        Event, _MOVES, st.sampled_from(["silent", "back", "wishes stop", "wishes go on", "restart"])
    ),
)


def asked(terms: Terms) -> model.Agreed:
    return model.Agreed(
        volts=Fraction(terms.v_ln),
        phases=terms.phases,
        static={"import": terms.static_import_w, "export": terms.static_export_w},
        gap=str(terms.gap_policy),
        optimum=str(terms.optimum_direction),
        ampere_all=str(terms.ampere_all),
        overlap=str(terms.overlap),
        balanced=terms.spread is Spread.BALANCED,
    )


def told(forecast: Forecast) -> model.Message:
    return model.Message(
        order=forecast.id,
        sender=forecast.peer_id,
        type=str(forecast.type),
        blocks=tuple(
            model.Block(b.start_at, b.end_at, Fraction(b.capacity), str(b.unit), str(b.phase))
            for b in forecast.blocks
        ),
    )


def answer(envelope: Envelope) -> model.Answer:
    return model.Answer(
        min_w=envelope.min_w,
        max_w=envelope.max_w,
        optimum_w=envelope.optimum_w,
        reason=str(envelope.reason),
        phases=tuple((str(p.phase), p.min_w, p.max_w) for p in envelope.phases),
    )


class Daemon:
    """What control does with what it knows: it forgets what is spent, and looks when it must."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.open: list[Forecast] = []
        self.online = self.wishing = True
        self.changes: list[tuple[datetime, Envelope]] = []

    def look(self, now: datetime) -> Envelope:
        gone = {one.id for one in spent(self.open, at=now - REVIVAL)}
        if self.terms.overlap is Overlap.MOST_RESTRICTIVE:
            gone = set()  # no group is kept like that, and `spent` is not made for it
        self.open = [one for one in self.open if one.id not in gone]
        found = envelope_at(
            self.open,
            at=now,
            provider_online=self.online,
            optimizer_online=self.wishing,
            terms=self.terms,
        )
        self.changes = [change for change in self.changes if change[0] < now]
        self.changes.append((now, found))
        return found

    def live(self, since: datetime, until: datetime) -> None:
        """Look at every edge that it foresees, and else now and then."""
        now = since
        while (found := self.look(now)).end_at is not None or now < until:
            now = min(now + LOOKS_EVERY, found.end_at or until, until)
            if now >= until:
                break


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Stage.explicit, Stage.generate],  # to shrink takes minutes
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(_EVENTS, min_size=1, max_size=10), terms, st.data())
def test_what_was_in_force_is_what_the_words_of_the_protocol_say(
    events: list[Event], terms: Terms, data: st.DataObject
) -> None:
    daemon, agreed = Daemon(terms), asked(terms)
    heard: list[model.Message] = []
    now = NOW
    daemon.look(now)
    for number, event in enumerate(events, 1):
        begun, now = now, now + timedelta(seconds=event.move_s)
        daemon.live(begun, now)
        _compare(daemon, heard, agreed, begun, now, data)
        match event.kind:
            case "message":
                assert event.forecast is not None
                said = Forecast(
                    received_at=now,
                    type=event.forecast.type,
                    blocks=event.forecast.blocks,
                    id=number,
                    peer_id=event.forecast.peer_id,
                )
                daemon.open.append(said)
                heard.append(told(said))
            case "silent" | "back":
                daemon.online = event.kind == "back"
            case "wishes stop" | "wishes go on":
                daemon.wishing = event.kind == "wishes go on"
        daemon.look(now)
    daemon.live(now, now + timedelta(hours=15))
    _compare(daemon, heard, agreed, now, now + timedelta(hours=15), data)


def _compare(
    daemon: Daemon,
    heard: list[model.Message],
    agreed: model.Agreed,
    since: datetime,
    until: datetime,
    data: st.DataObject,
) -> None:
    """Ask both about instants of a time in which nothing but time has passed."""
    edges = {at for m in heard for b in m.blocks for at in (b.start, b.end)}
    nearby = {at + off for at in edges for off in (-model.INSTANT, timedelta(0), model.INSTANT)}
    between = sorted(at for at in {since, *nearby} if since <= at < until) or [since]
    drawn = data.draw(st.lists(st.sampled_from(between), min_size=1, max_size=6))
    times = [change[0] for change in daemon.changes]
    for at in drawn:
        place = bisect_right(times, at) - 1
        _, found = daemon.changes[place]
        expected = model.in_force(heard, at, agreed, online=daemon.online, wishing=daemon.wishing)
        assert answer(found) == expected, at
