"""Meter, battery and control, each at its own pace: the loop finds the setpoint and stays there."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from flows.test_steering import NOW, battery, envelope

from fpd.adapters.device import Reading, Setpoint
from fpd.flows import steering
from fpd.flows.steered import Measured, Steered

LIMIT_W = 3000
LOADS = ((0, 4200), (180, 6000), (360, 3400), (540, 2000), (720, 5000))
METER_S, READ_S, CONTROL_S = 5.0, 10.0, 10.0


@dataclass
class Plant:
    """A load, and a battery that does what it was told `lag_s` ago."""

    lag_s: float
    told: list[tuple[float, float]] = field(default_factory=lambda: [(-1000.0, 0.0)])

    def load_w(self, t: float) -> float:
        return [watts for at, watts in LOADS if at <= t][-1]

    def output_w(self, t: float) -> float:
        return [watts for at, watts in self.told if at + self.lag_s <= t][-1]


def read(device: Steered, plant: Plant, t: float, now: datetime) -> Steered:
    before = device.reading
    assert before is not None and before.output_w is not None
    recent = (*before.recent, (before.at, before.output_w))[-6:]
    reading = Reading(
        at=now, output_w=plant.output_w(t), dispatchable=True, soc=60.0, recent=recent
    )
    return replace(device, reading=reading)


def decide(device: Steered, plant: Plant, measured: Measured, t: float, now: datetime) -> Steered:
    (wanted,) = steering.setpoints(
        [device],
        [],
        envelope=envelope(max_w=LIMIT_W),
        measured=measured,
        margin=Decimal(0),
        now=now,
    )
    assert isinstance(wanted.command, Setpoint)
    told = {"kind": "setpoint", "power_w": wanted.command.power_w}
    state = replace(device.state, plan=wanted.plan, wanted_at=now)
    if state.told != told:
        plant.told.append((t, float(wanted.command.power_w)))
        state = replace(state, told=told, told_at=now)
    return replace(device, state=state)


@pytest.mark.parametrize("lag_s", [0.5, 3.0, 7.0, 12.0])
def test_a_step_of_the_load_is_answered_once(lag_s: float) -> None:
    for seed in range(6):
        chance = random.Random(seed)
        plant, device = Plant(lag_s), battery()
        at_meter, at_battery, at_control = (chance.uniform(0, s) for s in (METER_S, READ_S, 10))
        moments = sorted(
            (start + n * every + chance.uniform(0, 0.3), what)
            for what, start, every in (
                ("meter", at_meter, METER_S),
                ("read", at_battery, READ_S),
                ("control", at_control, CONTROL_S),
            )
            for n in range(int(900 / every))
        )
        measured = Measured(watts=None)
        for t, what in moments:
            now = NOW + timedelta(seconds=t)
            if what == "meter":
                net_w = Decimal(str(plant.load_w(t) - plant.output_w(t)))
                measured = Measured(watts=net_w, at=now, at_meter=True)
                since = t - max(at for at, _ in LOADS if at <= t)
                if since > 2 * CONTROL_S + lag_s:
                    assert net_w <= LIMIT_W + 50, f"{since:.0f} s after a step, seed {seed}"
            elif what == "read":
                device = read(device, plant, t, now)
            elif measured.watts is not None:
                device = decide(device, plant, measured, t, now)
        assert len(plant.told) <= 2 * len(LOADS) + 1, f"it chases itself, seed {seed}"


def test_a_meter_that_fell_silent_says_nothing_about_what_was_done_since() -> None:
    plant, device = Plant(lag_s=0.5), battery()
    measured = Measured(watts=Decimal(4200), at=NOW, at_meter=True)
    for t in range(50):
        now = NOW + timedelta(seconds=t)
        device = decide(read(device, plant, t, now), plant, measured, t, now)
    assert [watts for _, watts in plant.told] == [0.0, 1200.0]
