"""A site whose devices live in this process, with physics of their own, and go away at times."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fpd.adapters.device import (
    Command,
    Memory,
    Outcome,
    Profile,
    Reading,
    Release,
    Result,
    Setpoint,
    Unreachable,
)
from fpd.domain.control.ticks import UnitLimits

_EPOCH = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday
CELL = UnitLimits(min_w=500, max_w=1500, step_up_w=150, step_dn_w=150)


@dataclass
class Cellar:
    """A battery: Wh, W; discharge positive. It does what it was told last, as far as it can."""

    capacity_wh: float = 12_000
    most_w: float = 4000
    soc: float = 50.0
    told_w: float = 0.0
    away: bool = False

    @property
    def output_w(self) -> float:
        if (self.told_w > 0 and self.soc <= 0) or (self.told_w < 0 and self.soc >= 100):
            return 0.0
        return self.told_w

    def live(self, seconds: float) -> None:
        moved_wh = self.output_w * seconds / 3600
        lost = 1 / 0.95 if moved_wh > 0 else 0.95
        self.soc = min(100.0, max(0.0, self.soc - 100 * moved_wh * lost / self.capacity_wh))


@dataclass
class Cell:
    """A fuel cell: it follows the power of the tick, no faster than its ramp allows."""

    points: dict[int, int] = field(default_factory=dict)
    output_w: float = 1500.0
    away: bool = False

    def live(self, at: datetime, seconds: float) -> None:
        tick = int((at - _EPOCH).total_seconds() // 900) % 672
        held = self.points[max(self.points)] if self.points else 1500
        for index in range(tick + 1):
            held = self.points.get(index, held)
        most = 10 * seconds / 60
        self.output_w += min(max(held - self.output_w, -most), most)


class Adapter:
    """What daemon and device say to each other; `device` is shared with the site."""

    read_every_s = 1.0
    keepalive_s = None
    verify_after_s = None
    tries = 3
    visit_s = 5.0
    backoff_s = (5.0, 60.0)

    def __init__(self, device: Cellar | Cell, clock: Any) -> None:
        self._device, self._clock = device, clock

    async def read(self, memory: Memory) -> Reading:
        device = self._device
        if device.away:
            raise Unreachable("away")
        now = self._clock()
        if isinstance(device, Cellar):
            return Reading(at=now, output_w=device.output_w, dispatchable=True, soc=device.soc)
        return Reading(at=now, output_w=device.output_w, dispatchable=True, limits=CELL)

    async def apply(self, command: Command, memory: Memory) -> Outcome:
        device = self._device
        if device.away:
            raise Unreachable("away")
        match command, device:
            case Setpoint(power_w=power_w), Cellar():
                device.told_w = power_w
            case Profile(points=points), Cell():
                device.points = dict(points)
            case Release(), Cellar():
                device.told_w = 0
            case Release(), Cell():
                device.points = {}
        return Outcome(result=Result.CONFIRMED, memory=memory)

    def shows(self, command: Command, reading: Reading) -> bool:
        """A command that never reached a device that was away must not count as followed."""
        match command, self._device:
            case Setpoint(power_w=power_w), Cellar(told_w=told_w):
                return told_w == power_w
            case Profile(points=points), Cell(points=held):
                return dict(points) == held
            case _, Cellar(told_w=told_w):
                return told_w == 0
            case _:
                return True
