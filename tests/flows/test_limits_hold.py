"""Random days against a small model: the limit in force is right, at once, and devices hold it.

Messages with local times around DST changes, silences, restarts, steps of the clock and changing
loads go through all that decides and does no I/O: bodies as received, what is left out for good,
envelopes, the share of each battery. FPD_EXAMPLES asks for more examples.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flows.limit_model import Model
from flows.test_steering import STATE
from hypothesis import given, note, settings
from hypothesis import strategies as st

from fpd.adapters.battery_keys import BatteryDevice
from fpd.adapters.device import Reading, Release, Setpoint
from fpd.domain.forecast import Envelope, Forecast, ForecastType, GapPolicy, Terms, envelope_at
from fpd.domain.supersede import spent
from fpd.flows import blocks, steering
from fpd.flows.control import REVIVAL, next_look
from fpd.flows.device_rules import stored
from fpd.flows.steered import Measured, Steered

EXAMPLES = int(os.environ.get("FPD_EXAMPLES", "200"))
BERLIN = ZoneInfo("Europe/Berlin")
DAYS = [datetime(2025, 3, 29, 23, tzinfo=UTC), datetime(2025, 10, 25, 22, tzinfo=UTC)]
INTERVAL_S = 1200.0  # long, so that only being due at the right time can help
FULL_W = 6600
LIMITS = ["CONSUMPTION", "GENERATION"]
TYPES = [*LIMITS, *(f"FALLBACK_{kind}" for kind in LIMITS), "OPTIMUM"]


@dataclass(frozen=True)
class Said:
    """Blocks of (minutes from now, minutes long, W)."""

    type: str
    blocks: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Passes:
    seconds: int


@dataclass(frozen=True)
class Steps:
    """The clock is set by so much; no time passes."""

    seconds: int


@dataclass(frozen=True)
class Silence:
    """The provider's last heartbeat promised to be heard again within so many seconds."""

    seconds: int


@dataclass(frozen=True)
class Heard:
    """The provider is back."""


@dataclass(frozen=True)
class Restart:
    """All that is not in the database is gone."""


@dataclass(frozen=True)
class Load:
    watts: int


def _apart(found: list[tuple[int, int, int]]) -> tuple[tuple[int, int, int], ...]:
    """Drop blocks that overlap those before them: the door refuses such a message."""
    kept: list[tuple[int, int, int]] = []
    for start, length, watts in sorted(found):
        if not kept or start >= kept[-1][0] + kept[-1][1]:
            kept.append((start, length, watts))
    return tuple(kept)


_WATTS = st.one_of(st.just(0), st.integers(0, 9000))
_BLOCKS = st.lists(
    st.tuples(st.integers(-60, 300), st.integers(1, 120), _WATTS), min_size=1, max_size=4
).map(_apart)
_EVENTS = st.lists(
    st.one_of(
        st.builds(Said, st.sampled_from(TYPES), _BLOCKS),
        st.builds(Said, st.sampled_from(LIMITS), _BLOCKS),
        st.builds(Passes, st.integers(1, 4000)),
        st.builds(Steps, st.integers(-500, 500)),
        st.builds(Silence, st.integers(1, 2000)),
        st.just(Heard()),
        st.just(Restart()),
        st.builds(Load, st.integers(-9000, 9000)),
    ),
    min_size=3,
    max_size=14,
)
_STATIC = st.one_of(st.none(), st.integers(0, 9000))


class Day:
    """The core, as control drives it, and the model beside it."""

    def __init__(self, now: datetime, model: Model) -> None:
        self.now = now
        self.model = model
        self.terms = Terms(
            gap_policy=GapPolicy(model.policy),
            static_import_w=model.static["CONSUMPTION"],
            static_export_w=model.static["GENERATION"],
        )
        self.bodies: list[tuple[int, ForecastType, bytes]] = []
        self.closed: set[int] = set()
        self.offline_at: datetime | None = None
        self.load_w = 0
        self.rows: dict[str, dict[str, Any]] = {"cellar": {}, "attic": {}}
        self.due_at = now
        self.heard: dict[int, Forecast] = {}

    @property
    def online(self) -> bool:
        return self.offline_at is None or self.now < self.offline_at

    def happen(self, event: object) -> None:
        match event:
            case Said(type=type_, blocks=spans):
                self.hear(type_, spans)
            case Passes(seconds=seconds):
                self.live(self.now + timedelta(seconds=seconds))
            case Steps(seconds=seconds):
                # Silence is counted in time of hearing: promises move with the clock.
                self.now += timedelta(seconds=seconds)
                if self.offline_at is not None and self.online:
                    self.offline_at += timedelta(seconds=seconds)
            case Silence(seconds=seconds) if self.online:
                self.offline_at = self.now + timedelta(seconds=seconds)
            case Heard():
                self.offline_at = None
            case Restart():
                self.heard = {}
            case Load(watts=watts):
                self.load_w = watts
        self.tick()

    def hear(self, type_: str, spans: tuple[tuple[int, int, int], ...]) -> None:
        wire, known = [], []
        for start, length, watts in spans:
            start_at = self.now + timedelta(minutes=start)
            end_at = start_at + timedelta(minutes=length)
            wire.append(
                {
                    "capacity": watts, "unit": "W", "phase": "ALL",
                    "start_time": start_at.astimezone(BERLIN).isoformat(),
                    "end_time": end_at.astimezone(BERLIN).isoformat(),
                }
            )  # fmt: skip
            known.append((int(start_at.timestamp()), int(end_at.timestamp()), watts))
        body = {"group_id": "g", "type": type_, "forecasted_blocks": wire}
        self.bodies.append((len(self.bodies) + 1, ForecastType(type_), json.dumps(body).encode()))
        self.model.said.append((type_, known))

    def live(self, until: datetime) -> None:
        """Let time pass: control looks when it is due, or when the provider goes offline."""
        while self.now < until:
            wake_at = [self.due_at, until]
            if self.offline_at is not None and self.offline_at > self.now:
                wake_at.append(self.offline_at)
            before, online = self.now, self.online
            self.now = min(wake_at)
            self.nothing_changed(before, online)
            self.tick()

    def nothing_changed(self, since: datetime, online: bool) -> None:
        """No limit changes between two looks of control."""
        start, end = int(since.timestamp()), int(self.now.timestamp())
        for edge in self.model.edges():
            if start < edge < end:
                for kind in LIMITS:
                    before = self.model.limit(kind, edge - 1, online=online)
                    assert self.model.limit(kind, edge, online=online) == before, edge

    def messages(self) -> tuple[Forecast, ...]:
        """What may still matter, read from the bodies; what cannot is left out for good."""
        for id_, type_, body in self.bodies:
            if id_ not in self.closed and id_ not in self.heard:
                self.heard[id_] = Forecast(
                    received_at=self.now, type=type_, blocks=blocks.of(body), id=id_
                )
        found = tuple(self.heard[id_] for id_ in sorted(self.heard) if id_ not in self.closed)
        self.closed |= {message.id for message in spent(found, at=self.now - REVIVAL)}
        return tuple(message for message in found if message.id not in self.closed)

    def tick(self) -> None:
        envelope = envelope_at(
            self.messages(), at=self.now, provider_online=self.online, terms=self.terms
        )
        at = int(self.now.timestamp())
        limits = {kind: self.model.limit(kind, at, online=self.online) for kind in LIMITS}
        export_w = None if envelope.min_w is None else -envelope.min_w
        assert {"CONSUMPTION": envelope.max_w, "GENERATION": export_w} == limits
        self.due_at = next_look([envelope], now=self.now, interval_s=INTERVAL_S)
        assert self.due_at > self.now
        self.steer(envelope)

    def steer(self, envelope: Envelope) -> None:
        wanted = steering.setpoints(
            [self.battery(name) for name in self.rows],
            [],
            envelope=envelope,
            measured=Measured(watts=Decimal(self.load_w)),
            margin=Decimal(0),
            now=self.now,
        )
        commands = {one.device.name: one.command for one in wanted}
        for one in wanted:
            # As the database keeps it.
            self.rows[one.device.name] = json.loads(
                json.dumps({"told": stored(one.command), "plan": one.plan})
            )
        limited = envelope.min_w, envelope.max_w, envelope.optimum_w
        if limited == (None, None, None):
            assert set(commands.values()) == {Release()}
            return
        told = [c.power_w for c in commands.values() if isinstance(c, Setpoint)]
        assert len(told) == 2 and all(abs(power_w) <= FULL_W // 2 for power_w in told)
        self.holds(sum(told), envelope, wanted[0].plan)

    def holds(self, delivered_w: int, envelope: Envelope, plan: dict[str, Any]) -> None:
        """Both limits are kept as far as the batteries reach, and what is left is on record."""
        import_w = self.load_w - delivered_w
        over_import_w = max(import_w - envelope.max_w, 0) if envelope.max_w is not None else 0
        over_export_w = max(envelope.min_w - import_w, 0) if envelope.min_w is not None else 0
        assert (plan["over_import_w"], plan["over_export_w"]) == (over_import_w, over_export_w)
        if over_import_w:
            assert delivered_w == FULL_W
        if over_export_w:
            assert delivered_w == -FULL_W

    def battery(self, name: str) -> Steered:
        row = self.rows[name]
        return Steered(
            config=BatteryDevice(
                name=name, type="battery", base_url="http://b", capacity_wh=10**9,
                max_charge_w=FULL_W // 2, max_discharge_w=FULL_W // 2,
            ),
            priority=1 if name == "cellar" else 2,
            state=replace(STATE, name=name, told=row.get("told"), plan=row.get("plan")),
            reading=Reading(at=self.now, output_w=0.0, dispatchable=True, soc=50.0),
            alone=False,
        )  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    day=st.sampled_from(DAYS),
    policy=st.sampled_from(sorted(GapPolicy)),
    static=st.tuples(_STATIC, _STATIC),
    events=_EVENTS,
)
def test_the_right_limit_is_in_force_whatever_happens(
    day: datetime, policy: GapPolicy, static: tuple[int | None, int | None], events: list[object]
) -> None:
    note("\n".join(map(str, events)))
    model = Model(policy=policy.value, static=dict(zip(LIMITS, static, strict=True)))
    course = Day(day + timedelta(hours=1), model)
    for event in events:
        course.happen(event)
    course.happen(Passes(3 * 3600))


def test_the_model_can_say_no() -> None:
    """Who changes a limit behind control's back is noticed."""
    model = Model(policy="Static", static={"CONSUMPTION": None, "GENERATION": None})
    course = Day(DAYS[0], model)
    course.happen(Said("CONSUMPTION", ((0, 60, 1000),)))
    model.said.append(("CONSUMPTION", [(0, 2**40, 999)]))
    with pytest.raises(AssertionError):
        course.tick()
