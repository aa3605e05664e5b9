"""A small tenant: points, meters whose registers move, commands that act, what was imported.

What a meter has read at an instant follows from how its power has changed until then, so its
history is as long as anybody asks for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
REGISTERS = ("activeEnergy", "reactiveEnergy", "inductiveReactiveEnergy", "capacitiveEnergy")
_JITTER = (0, 0, 300, 120, 0, 240)

Key = tuple[str, str, str, int]


@dataclass(frozen=True, slots=True)
class Place:
    """A location: its code, name, number, and the code of the one that it is in."""

    code: str
    name: str
    id: int
    parent: str


@dataclass(slots=True)
class Meter:
    """One channel. `rate`: W (or var) of a register, the value itself of anything else."""

    point: str
    definition: str
    variant: str
    index: int
    unit: str
    rate: float
    base: float = 0.0
    changes: list[tuple[datetime, float]] = field(default_factory=list)
    resets: list[datetime] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.point, self.definition, self.variant, self.index

    @property
    def is_register(self) -> bool:
        return self.definition in REGISTERS

    def change(self, rate: float, at: datetime) -> None:
        self.changes.append((at, rate))

    def rate_at(self, at: datetime) -> float:
        return next((rate for since, rate in reversed(self.changes) if since <= at), self.rate)

    def register(self, at: datetime) -> float:
        """Return what the register shows, in whole Wh (or varh), since it was last set to 0."""
        reset_at = max((reset for reset in self.resets if reset <= at), default=None)
        if reset_at is None:
            return float(int(self.base + self._gained(_EPOCH, at)))
        return float(int(self._gained(reset_at, at)))

    def _gained(self, start: datetime, end: datetime) -> float:
        edges = [start, *(at for at, _ in self.changes if start < at < end), end]
        return sum(
            self.rate_at(first) * (second - first).total_seconds() / 3600
            for first, second in pairwise(edges)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measurement at the end of its interval, in the meter's own unit."""

    at: datetime
    key: Key
    unit: str
    value: float
    original: float | None
    type: str = "actual"
    note: str | None = None


class Tenant:
    """`period_s`: about how often meters are read; `irregular`: not to the second."""

    def __init__(self, *, period_s: float, irregular: bool) -> None:
        self.places = _places()
        self.meters = _meters()
        self.commands: dict[str, list[dict[str, Any]]] = _commands()
        self.executed: list[dict[str, Any]] = []
        self.imported: dict[tuple[Key, str, datetime], float] = {}
        self.flags: dict[tuple[str, str, str], str] = {}
        self.corrections: dict[tuple[Key, datetime], float] = {}
        self._period = timedelta(seconds=period_s)
        self._irregular = irregular

    def place(self, named: object) -> Place | None:
        """Return the place with this code or number."""
        return next((each for each in self.places if named in (each.code, each.id)), None)

    def meter(self, key: Key) -> Meter | None:
        return next((each for each in self.meters if each.key == key), None)

    def moments(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield when meters were read in [start, end]: a second before a period ends, or later."""
        number = (start - _EPOCH) // self._period - 1
        while (at := self.moment(number)) <= end:
            if at >= start:
                yield at
            number += 1

    def moment(self, number: int) -> datetime:
        late_s = 0.0
        if self._irregular:
            late_s = min(_JITTER[number % len(_JITTER)], self._period.total_seconds() / 2)
        return _EPOCH + self._period * number + timedelta(seconds=late_s - 1)

    def rows(self, meter: Meter, start: datetime, end: datetime) -> Iterator[Row]:
        """Yield what the meter said in [start, end], and what was imported for it."""
        before: float | None = None
        for at in self.moments(start - 2 * self._period, end):
            correction = self.corrections.get((meter.key, at), 0.0)
            if not meter.is_register:
                value, original = meter.rate_at(at) + correction, None
            else:
                original = meter.register(at) + correction
                value, before = original - (original if before is None else before), original
            if at >= start:
                yield Row(at=at, key=meter.key, unit=meter.unit, value=value, original=original)

    def imports(self, start: datetime, end: datetime) -> Iterator[Row]:
        for (key, kind, at), value in self.imported.items():
            if start <= at <= end:
                unit = _UNITS.get(key[1], "")
                yield Row(at=at, key=key, unit=unit, value=value, original=None, type=kind)

    def execute(self, place: Place, command: str, parameter: Any, at: datetime) -> None:
        """Do what a command says."""
        self.executed.append({"point": place.code, "command": command, "parameter": parameter})
        if command == "lights-on-off":
            self._power(place.code, "import", 12_400.0 if parameter else 10_000.0, at)
        elif command == "generator-mode-set":
            self._power(place.code, "produced", 5_000.0 if parameter == "on" else 0.0, at)
        elif command == "power-set":
            watts = float(parameter)
            self._power(place.code, "import", max(-watts, 0.0), at)
            self._power(place.code, "export", max(watts, 0.0), at)

    def _power(self, code: str, variant: str, watts: float, at: datetime) -> None:
        """Change what the meters of a point see from `at` on."""
        for meter in self.meters:
            if meter.point == code and meter.variant == variant and meter.is_register:
                meter.change(watts, at)
        power = self.meter((code, "activePower", "phase", 1))
        if power is not None:
            energies = {
                each.variant: each.rate_at(at)
                for each in self.meters
                if each.point == code and each.definition == "activeEnergy"
            }
            power.change(2 * energies.get("import", 0.0) - sum(energies.values()), at)


_UNITS = {
    "activeEnergy": "Wh",
    "reactiveEnergy": "VArh",
    "inductiveReactiveEnergy": "VArh",
    "capacitiveEnergy": "VArh",
    "activePower": "W",
    "voltage": "V",
    "current": "A",
    "stateOfCharge": "%",
}


def _places() -> list[Place]:
    return [
        Place("xFabrikaFabrika", "Factory", 12700, "All"),
        Place("xFabrikaTrafo6", "Transformer 6", 12768, "xFabrikaFabrika"),
        Place("xFabrikaDepo", "Storage", 12747, "xfabrikaImalathane"),
        Place("xFabrikademoAtolye", "Mechanical Workshop", 12755, "xfabrikaArge"),
        Place("xyzBesiktas", "Besiktas", 12801, "xFabrikaFabrika"),
        Place("reengenPoint", "Reengen Point", 12802, "xFabrikaFabrika"),
    ]


def _meters() -> list[Meter]:
    def phases(point: str, definition: str, value: float) -> list[Meter]:
        unit = _UNITS[definition]
        return [
            Meter(point, definition, "phase", index, unit, value + index) for index in (1, 2, 3)
        ]

    return [
        Meter("xFabrikaTrafo6", "activeEnergy", "import", 1, "Wh", 10_000.0, 282_052_000.0),
        Meter("xFabrikaTrafo6", "activeEnergy", "produced", 1, "Wh", 0.0, 1_000.0),
        Meter("xFabrikaTrafo6", "reactiveEnergy", "import", 1, "VArh", 1_500.0, 90_000.0),
        Meter("xFabrikaTrafo6", "activePower", "phase", 1, "W", 10_000.0),
        *phases("xFabrikaTrafo6", "voltage", 229.0),
        Meter("xyzBesiktas", "activeEnergy", "import", 1, "Wh", 950.0, 282_000_000.0),
        Meter("xyzBesiktas", "activeEnergy", "export", 1, "Wh", 40.0, 5_000.0),
        Meter("xFabrikaDepo", "activeEnergy", "import", 1, "Wh", 0.0, 700.0),
        Meter("xFabrikaDepo", "activeEnergy", "export", 1, "Wh", 0.0, 300.0),
        Meter("xFabrikaDepo", "activePower", "phase", 1, "W", 0.0),
        Meter("xFabrikaDepo", "stateOfCharge", "actual", 1, "%", 50.0),
    ]


def _commands() -> dict[str, list[dict[str, Any]]]:
    lights = {
        "parameterType": "boolean",
        "commandType": "SingleParameter",
        "code": "lights-on-off",
        "name": "Turn Lights On/Off",
    }
    generator = {
        "commandType": "MultiOption",
        "code": "generator-mode-set",
        "name": "Set Generator Mode",
        "options": [
            {"code": "on", "name": "On"},
            {"code": "off", "name": "Off"},
            {"code": "auto", "name": "Auto"},
        ],
    }
    power = {
        "parameterType": "number",
        "commandType": "SingleParameter",
        "code": "power-set",
        "name": "Set Power (W, discharge positive)",
    }
    horn = {"commandType": "NoParameter", "code": "horn", "name": "Sound the Horn"}
    return {"xFabrikaTrafo6": [lights, generator], "xFabrikaDepo": [power, horn]}
