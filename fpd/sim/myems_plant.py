"""The site behind a simulated MyEMS: a battery, a BlueGen, an EV charger and PV at one grid meter,
acquired row by row.

Signs are the capture's: battery power is charging +, grid power import +, in kW.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

_MOST_ROWS = 60_000
_HOUR_S = 3600.0
_CAPACITY_KWH = 200.0
_MOST_KW = 100.0

ENERGY, ANALOG, DIGITAL, TEXT = "ENERGY_VALUE", "ANALOG_VALUE", "DIGITAL_VALUE", "TEXT_VALUE"


@dataclass(slots=True)
class Point:
    """A point of the data source, as the API shows it."""

    id: int
    name: str
    object_type: str
    units: str
    low: str = "0"
    high: str = "999999999"
    is_trend: bool = True


def points() -> dict[int, Point]:
    """Return the points by id."""
    rows = [
        Point(10, "Grid active power", ANALOG, "kW", low="-999999"),
        Point(11, "Grid energy import", ENERGY, "kWh"),
        Point(12, "Grid energy export", ENERGY, "kWh"),
        Point(13, "Battery SOC", ANALOG, "%", high="100"),
        Point(14, "Battery power", ANALOG, "kW", low="-999999"),
        Point(15, "Battery charge energy", ENERGY, "kWh"),
        Point(16, "Battery discharge energy", ENERGY, "kWh"),
        Point(17, "Battery state", DIGITAL, "state"),
        Point(18, "BlueGen power", ANALOG, "W"),
        Point(19, "BlueGen energy", ENERGY, "Wh"),
        Point(20, "EV charger power", ANALOG, "kW"),
        Point(21, "EV charger energy", ENERGY, "kWh"),
        Point(22, "PV power", ANALOG, "kW"),
        Point(23, "PV energy", ENERGY, "kWh"),
    ]
    return {point.id: point for point in rows}


Row = tuple[datetime, dict[int, Decimal]]


@dataclass(slots=True)
class Plant:
    """`advance` brings it up to now; `rows` are what was acquired, oldest first."""

    at: datetime
    interval_s: float
    lag_s: float
    soc: float = 55.0
    battery_kw: float = 0.0
    bluegen_w: float = 1500.0
    ev_kw: float = 7.4
    pv_kw: float = 4.2
    load_kw: float = 12.5
    registers: dict[int, float] = field(
        default_factory=lambda: {
            11: 1000.0,
            12: 50.0,
            15: 200.0,
            16: 150.0,
            19: 500_000.0,
            21: 80.0,
            23: 900.0,
        }
    )
    rows: deque[Row] = field(default_factory=lambda: deque(maxlen=_MOST_ROWS))
    _ordered: list[tuple[datetime, str, float]] = field(default_factory=list)

    def order(self, device: str, value: float, now: datetime) -> None:
        """A command arrived; it is carried out after the lag."""
        self._ordered.append((now + timedelta(seconds=self.lag_s), device, value))

    def advance(self, now: datetime, *, clamp_kw: float | None, acquiring: bool) -> None:
        """Let time pass until now."""
        step = timedelta(seconds=self.interval_s)
        while self.at + step <= now:
            self.at += step
            self._obey(self.at)
            self._run(self.interval_s, clamp_kw)
            if acquiring:
                self.rows.append((self.at, dict(self._values())))

    def remember(self, hours: float) -> None:
        """Make up what was acquired before now, a row a minute."""
        began = self.at - timedelta(hours=hours)
        for minute in range(int(hours * 60)):
            values = dict(self._values())
            for point_id, level in self.registers.items():
                share = minute / (hours * 60)
                values[point_id] = Decimal(
                    f"{level - (1 - share) * self._rate(point_id) * hours:.6f}"
                )
            self.rows.append((began + timedelta(minutes=minute), values))

    def since(self, after: datetime, until: datetime) -> list[Row]:
        """Return the rows of a period, both ends included."""
        return [row for row in self.rows if after <= row[0] <= until]

    @property
    def is_ordered(self) -> bool:
        return bool(self._ordered)

    @property
    def grid_kw(self) -> float:
        return self.load_kw + self.ev_kw + self.battery_kw - self.pv_kw - self.bluegen_w / 1000

    def _obey(self, now: datetime) -> None:
        due = [order for order in self._ordered if order[0] <= now]
        self._ordered = [order for order in self._ordered if order[0] > now]
        for _, device, value in due:
            if device == "battery":
                self.battery_kw = value
            else:
                self.bluegen_w = value

    def _run(self, seconds: float, clamp_kw: float | None) -> None:
        most_kw = _MOST_KW if clamp_kw is None else clamp_kw
        kw = min(max(self.battery_kw, -most_kw), most_kw)
        if (kw > 0 and self.soc >= 100) or (kw < 0 and self.soc <= 0):
            kw = 0.0
        self.battery_kw = kw
        hours = seconds / _HOUR_S
        self.soc = min(100.0, max(0.0, self.soc + kw * hours / _CAPACITY_KWH * 100))
        for point_id in self.registers:
            self.registers[point_id] += self._rate(point_id) * hours

    def _rate(self, point_id: int) -> float:
        """Return what a register gains per hour."""
        return {
            11: max(self.grid_kw, 0.0),
            12: max(-self.grid_kw, 0.0),
            15: max(self.battery_kw, 0.0),
            16: max(-self.battery_kw, 0.0),
            19: self.bluegen_w,
            21: self.ev_kw,
            23: self.pv_kw,
        }[point_id]

    def _values(self) -> Iterator[tuple[int, Decimal]]:
        state = 1 if abs(self.battery_kw) < 0.05 else 2
        now = {
            10: self.grid_kw,
            13: self.soc,
            14: self.battery_kw,
            17: state,
            18: self.bluegen_w,
            20: self.ev_kw,
            22: self.pv_kw,
        }
        for point_id, value in sorted((now | self.registers).items()):
            yield point_id, Decimal(f"{value:.6f}")
