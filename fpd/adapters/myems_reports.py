"""What MyEMS's reports say, and which of their columns is which point.

Reports name columns "{name} ({units})" and give them in the order of point ids; names need not be
unique, so what decides is the order (reference: myems §3b). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from fpd.adapters.lenient import mapping
from fpd.adapters.myems_shapes import MeterPoint, is_plausible
from fpd.adapters.myems_time import instant

Rows = tuple[tuple[datetime, Decimal], ...]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a report, oldest row first. `name` as MyEMS writes it, with its unit."""

    name: str
    rows: Rows


@dataclass(frozen=True, slots=True)
class Realtime:
    """A meter's last hour. `energy` None: it has no register."""

    energy: Column | None
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the columns are called; it changes when points are moved or edited."""
        return (self.energy.name if self.energy else "", *(c.name for c in self.columns))

    @property
    def stamps(self) -> list[datetime]:
        everything = (*self.columns, *((self.energy,) if self.energy else ()))
        return [at for column in everything for at, _ in (column.rows[:1] + column.rows[-1:])]


@dataclass(frozen=True, slots=True)
class Layout:
    """Which points the columns are; None where it cannot be told."""

    energy: int | None
    columns: tuple[int | None, ...]


def realtime(document: Any, offset: timedelta) -> Realtime:
    """Read `/reports/meterrealtime`; what is missing or null is empty."""
    said = mapping(document)
    energy, others = mapping(said.get("energy_value")), mapping(said.get("parameters"))
    name = energy.get("name")
    return Realtime(
        energy=Column(name, _rows(energy.get("timestamps"), energy.get("values"), offset))
        if isinstance(name, str)
        else None,
        columns=_columns(others, offset),
    )


def trend(document: Any, offset: timedelta) -> tuple[Column, ...]:
    """Read `/reports/metertrend`: the register stands among the others."""
    return _columns(mapping(mapping(document).get("reporting_period")), offset)


def hours(document: Any, offset: timedelta) -> tuple[str | None, Rows]:
    """Read an hourly energy report: the unit, and (start of the hour, energy)."""
    said = mapping(document)
    about = next(
        (mapping(said[key]) for key in ("meter", "virtual_meter", "offline_meter") if key in said),
        {},
    )
    period = mapping(said.get("reporting_period"))
    unit = about.get("unit_of_measure")
    rows = _rows(period.get("timestamps"), period.get("values"), offset)
    return (unit if isinstance(unit, str) else None), rows


def _columns(said: Mapping[str, Any], offset: timedelta) -> tuple[Column, ...]:
    names, stamps, values = (_list(said.get(key)) for key in ("names", "timestamps", "values"))
    if not len(names) == len(stamps) == len(values):
        return ()
    return tuple(
        Column(str(name), _rows(at, value, offset))
        for name, at, value in zip(names, stamps, values, strict=True)
    )


def _rows(stamps: Any, values: Any, offset: timedelta) -> Rows:
    pairs = zip(_list(stamps), _list(values), strict=False)
    found = [(instant(at, offset), _number(value)) for at, value in pairs]
    return tuple(sorted((at, value) for at, value in found if at is not None and value is not None))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = Decimal(value)
    return number if is_plausible(number) else None


def unit_of(column: str, point: MeterPoint) -> str | None:
    """Return the unit in a column's name if it is this point's, else None.

    >>> unit_of("Battery power (kW)", MeterPoint(14, "Battery power"))
    'kW'
    """
    if not column.startswith(f"{point.name} (") or not column.endswith(")"):
        return None
    unit = column[len(point.name) + 2 : -1]
    return None if ") (" in unit else unit


def layout(
    points: Sequence[MeterPoint],
    columns: Sequence[str],
    *,
    energy: str | None,
    types: Mapping[int, str] | None = None,
) -> Layout:
    """Tell which points columns are; `points` in the order of their ids.

    `energy`: what the register's column is called, None if there is none apart. `types`: object
    types by point id, where they are known. Points that are no column hold texts.
    """
    if types is not None:
        return _typed(points, columns, energy=energy, types=types)
    registers: list[MeterPoint | None] = [None]
    if energy is not None:
        registers = [point for point in points if unit_of(energy, point) is not None]
    fits = [
        (register, found)
        for register in registers
        if (found := _places([p for p in points if p is not register], columns)) is not None
    ]
    if not fits:
        return Layout(None, (None,) * len(columns))
    per_column = zip(*(found for _, found in fits), strict=True)
    which = {None if register is None else register.id for register, _ in fits}
    return Layout(
        which.pop() if len(which) == 1 else None,
        tuple(ids[0] if len(set(ids)) == 1 else None for ids in per_column),
    )


def _typed(
    points: Sequence[MeterPoint],
    columns: Sequence[str],
    *,
    energy: str | None,
    types: Mapping[int, str],
) -> Layout:
    register = [p.id for p in points if types.get(p.id) == "ENERGY_VALUE"]
    apart = energy is not None
    shown = ("ANALOG_VALUE", "DIGITAL_VALUE") + (() if apart else ("ENERGY_VALUE", "TEXT_VALUE"))
    others = [p.id for p in points if types.get(p.id) in shown]
    if len(others) != len(columns):
        return Layout(None, (None,) * len(columns))
    return Layout(register[0] if apart and len(register) == 1 else None, tuple(others))


def _places(points: Sequence[MeterPoint], columns: Sequence[str]) -> list[int | None] | None:
    """Return the point of each column, None where several fit; None: the columns do not fit.

    The first and the last way to find the columns among the points, in order, bound all others:
    where both agree there is no choice.
    """
    first = _first(points, columns)
    last = _first(points[::-1], columns[::-1])
    if first is None or last is None:
        return None
    pairs = zip(first, reversed(last), strict=True)
    return [one if one == other else None for one, other in pairs]


def _first(points: Sequence[MeterPoint], columns: Sequence[str]) -> list[int] | None:
    found: list[int] = []
    rest = iter(points)
    for column in columns:
        point = next((p for p in rest if unit_of(column, p) is not None), None)
        if point is None:
            return None
        found.append(point.id)
    return found
