"""A battery behind its inverter: energy, efficiency, limits, and how it obeys a setpoint."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

_S_PER_H = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """What the battery is. Powers at the AC door in W; efficiencies one way."""

    capacity_wh: float
    max_charge_w: float
    max_discharge_w: float
    efficiency_charge: float
    efficiency_discharge: float
    idle_w: float
    response_lag_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What holds around the battery now; `derated_w` caps both directions (None: no cap)."""

    manual: bool = True
    house_w: float = 0.0
    running: bool = True
    derated_w: float | None = None


class Pack:
    """Power is positive when discharging, as the device's own `Pac_total_W`."""

    def __init__(self, character: Character, *, energy_wh: float, started_at: datetime) -> None:
        self.energy_wh = energy_wh
        self.setpoint_w = 0.0
        self._character = character
        self._at = started_at
        self._coming: deque[tuple[datetime, float]] = deque()

    @property
    def soc_percent(self) -> float:
        return 100 * self.energy_wh / self._character.capacity_wh

    def order(self, watts: float, now: datetime) -> None:
        """Take a setpoint; it shows at the door after the response lag."""
        self._schedule(watts, now + timedelta(seconds=self._character.response_lag_s))

    def overwrite(self, watts: float, at: datetime) -> None:
        """Let somebody else's setpoint take effect `at` that time."""
        self._schedule(watts, at)

    def watts(self, around: Circumstances) -> float:
        """Return the power at the door."""
        wanted_w = self._wanted_w(around)
        blocked = (wanted_w > 0 and self.energy_wh <= 0) or (
            wanted_w < 0 and self.energy_wh >= self._character.capacity_wh
        )
        if not around.running:
            return 0.0
        return -self._character.idle_w if wanted_w == 0 or blocked else wanted_w

    def advance(self, now: datetime, around: Circumstances) -> None:
        """Bring the battery up to `now`; it stops where it is full or empty."""
        while self._at < now:
            self._take_due()
            until = min(now, self._coming[0][0]) if self._coming else now
            self._move((until - self._at).total_seconds(), around)
            self._at = until
        self._take_due()

    def _schedule(self, watts: float, at: datetime) -> None:
        self._coming.append((at, watts))
        self._coming = deque(sorted(self._coming, key=lambda order: order[0]))

    def _take_due(self) -> None:
        while self._coming and self._coming[0][0] <= self._at:
            self.setpoint_w = self._coming.popleft()[1]

    def _wanted_w(self, around: Circumstances) -> float:
        wanted_w = self.setpoint_w if around.manual else around.house_w
        cap_w = float("inf") if around.derated_w is None else around.derated_w
        most_w = min(self._character.max_discharge_w, cap_w)
        least_w = -min(self._character.max_charge_w, cap_w)
        return min(max(wanted_w, least_w), most_w)

    def _move(self, duration_s: float, around: Circumstances) -> None:
        watts = self.watts(around)
        # The electronics live on the idle power; it reaches no cell.
        if watts == -self._character.idle_w or not around.running:
            return
        if watts > 0:
            change_wh = -watts / self._character.efficiency_discharge * duration_s / _S_PER_H
        else:
            change_wh = -watts * self._character.efficiency_charge * duration_s / _S_PER_H
        self.energy_wh = min(max(self.energy_wh + change_wh, 0.0), self._character.capacity_wh)
