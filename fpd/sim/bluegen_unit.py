"""One BlueGen fuel cell: what it does with the profile it was last delivered, second by second."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fpd.sim.bluegen_profiles import TICK_S, Limits, Point, Week

# 57.5 % electrical with a lower heating value of 10.21046 kWh/m³, as in the manual's example.
EFFICIENCY = 0.575
LHV_KWH_M3 = 10.21046
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEP_S = 10.0
_ACCUMULATED_LATER_S = 30.0
_SAMPLES = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """What makes units differ. Durations in s, as they are with `speed` 1.

    `speed` shortens the durations and steepens the slew; the time of the week stays what it is.
    `sample_phase_s` shifts the sampling raster, which lies in UTC.
    """

    week: Week
    activation_delay_s: float
    sample_period_s: float
    sample_phase_s: float
    speed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the unit reported: power in W, gas in SLM, energy in kWh, gas volume in m³ (kL)."""

    at: datetime
    power_w: float
    gas_slm: float
    accumulated_at: datetime
    energy_kwh: float
    gas_m3: float


@dataclass(slots=True, kw_only=True)
class Orders:
    """What holds for a unit now: its state, whether profiling is on, and its limits."""

    status: str = "Power Export"
    profiling: bool = True
    limits: Limits


class Unit:
    """Output that follows the delivered profile as fast as the slew allows."""

    def __init__(self, unit_id: int, name: str, character: Character, *, started_at: datetime):
        self.id = unit_id
        self.name = name
        self.profile_id = 0
        self.assigned_at: datetime | None = None
        self.samples: deque[Sample] = deque(maxlen=_SAMPLES)
        self.output_w = 0.0
        self.energy_kwh = 91_920.303897
        self.gas_m3 = 13_722.913771
        self._character = character
        self._points: tuple[Point, ...] = ()
        self._deliveries: deque[tuple[datetime, tuple[Point, ...]]] = deque()
        self._at = started_at
        self._begun = False

    @property
    def points(self) -> tuple[Point, ...]:
        """The profile that the unit runs, which need not be what was last stored."""
        return self._points

    def deliver(self, points: tuple[Point, ...], now: datetime) -> None:
        """Schedule `points` for delivery: they take effect after the activation delay."""
        self._deliveries.append((now + self._scaled(self._character.activation_delay_s), points))

    def advance(self, now: datetime, orders: Orders) -> None:
        """Bring the unit up to `now`; the first time it is found in its steady state."""
        if not self._begun:
            self._begun = True
            self.output_w = self._target_w(self._at, orders)
            self._sample(self._at)
        while self._at < now:
            self._take_delivered()
            until = min(now, self._next_event(orders))
            self._move((until - self._at).total_seconds(), orders)
            self._at = until
            if self._on_raster(until):
                self._sample(until)
        self._take_delivered()

    def _take_delivered(self) -> None:
        while self._deliveries and self._deliveries[0][0] <= self._at:
            self._points = self._deliveries.popleft()[1]

    def _next_event(self, orders: Orders) -> datetime:
        """Return the latest instant until which one straight line describes the output."""
        seconds = self._at.timestamp()
        phase_s, period_s = self._character.sample_phase_s, self._period_s()
        next_sample = (math.floor((seconds - phase_s) / period_s) + 1) * period_s + phase_s
        candidates = [
            _EPOCH + timedelta(seconds=(math.floor(seconds / TICK_S) + 1) * TICK_S),
            _EPOCH + timedelta(seconds=next_sample),
        ]
        steady = self.output_w == self._target_w(self._at, orders)
        if not steady or self._character.week.semantics != "step":
            step_s = _STEP_S / min(self._character.speed, _STEP_S)
            candidates.append(self._at + timedelta(seconds=step_s))
        if self._deliveries:
            candidates.append(self._deliveries[0][0])
        return min(instant for instant in candidates if instant > self._at)

    def _on_raster(self, instant: datetime) -> bool:
        offset_s = (instant.timestamp() - self._character.sample_phase_s) % self._period_s()
        return min(offset_s, self._period_s() - offset_s) < 1e-4

    def _period_s(self) -> float:
        return self._character.sample_period_s / self._character.speed

    def _scaled(self, duration_s: float) -> timedelta:
        return timedelta(seconds=duration_s / self._character.speed)

    def _target_w(self, at: datetime, orders: Orders) -> float:
        if orders.status != "Power Export":
            return 0.0
        if not orders.profiling or not self._points:
            return orders.limits.max_w
        week = self._character.week
        wanted_w = week.power_w(self._points, week.position(at))
        return min(max(wanted_w, orders.limits.min_w), orders.limits.max_w)

    def _move(self, duration_s: float, orders: Orders) -> None:
        before_w, target_w = self.output_w, self._target_w(self._at, orders)
        if orders.status == "Power Export":
            minutes = duration_s * self._character.speed / 60
            up_w, dn_w = orders.limits.slew_up_w * minutes, orders.limits.slew_dn_w * minutes
            self.output_w = min(max(target_w, before_w - dn_w), before_w + up_w)
        else:
            self.output_w = 0.0
        hours = duration_s / 3600
        self.energy_kwh += (before_w + self.output_w) / 2 * hours / 1000
        self.gas_m3 += gas_slm((before_w + self.output_w) / 2) * 60 * hours / 1000

    def _sample(self, at: datetime) -> None:
        later = self._scaled(_ACCUMULATED_LATER_S)
        self.samples.append(
            Sample(
                at=at,
                power_w=self.output_w,
                gas_slm=gas_slm(self.output_w),
                accumulated_at=at + later,
                energy_kwh=self.energy_kwh + self.output_w / 1000 * later.total_seconds() / 3600,
                gas_m3=self.gas_m3 + gas_slm(self.output_w) / 1000 * later.total_seconds() / 60,
            )
        )


def gas_slm(power_w: float) -> float:
    """Return the gas that makes `power_w`, in standard litres a minute."""
    return power_w / EFFICIENCY / LHV_KWH_M3 / 60
