"""The picture of a plan: limits, load and what remains of it, and below it each device. Pure.

Lines are steps, a value for each quarter of an hour; a gap is where there is no limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from fpd.flows.planned import Planned, Told

WIDTH, HEIGHT, LOW = 900.0, 260.0, 110.0
_QUARTER = timedelta(minutes=15)
_SHORT, _LONG = 96, 288  # periods up to which every 3rd hour and every 6th is written

Values = Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Mark:
    """A label of an axis and where it belongs."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Paths of the group's powers; `broken` are (x, width) of what is not kept."""

    load: str
    range: str
    net: str
    limits: tuple[str, ...]
    optimum: str
    broken: tuple[tuple[float, float], ...]
    zero: float
    levels: tuple[Mark, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Paths of a device's power and, for a battery, its charge from 0 to 100 %."""

    name: str
    detail: str | None
    power: str
    soc: str
    zero: float
    levels: tuple[Mark, ...]
    first_w: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    power: Power
    devices: tuple[Device, ...]
    times: tuple[Mark, ...]


def picture(plan: Planned, *, hours: int) -> Picture:
    """Lay out the first `hours` of a plan."""
    periods = plan.row.periods
    count = min(4 * hours, len(periods["load_w"]))
    x = _x(count)
    return Picture(
        power=_power(plan, count),
        devices=tuple(_device(told, count, x) for told in plan.devices.values()),
        times=tuple(_times(plan.row.from_at, count, x)),
    )


def _x(count: int) -> Callable[[float], float]:
    return lambda position: round(WIDTH * position / max(count, 1), 1)


def _power(plan: Planned, count: int) -> Power:
    periods, x = plan.row.periods, _x(count)
    load, net = periods["load_w"][:count], periods["net_w"][:count]
    least, most = periods["least_load_w"][:count], periods["most_load_w"][:count]
    above: list[float | None] = periods["import_limit_w"][:count]
    below = [None if w is None else -w for w in periods["export_limit_w"][:count]]
    optimum: list[float | None] = periods["optimum_w"][:count]
    given = [w for each in (load, net, least, most, above, below, optimum) for w in each]
    y, levels = _scale([w for w in given if w is not None], HEIGHT)
    upper = _steps(most, x, y)
    lower = _steps(least, x, y, back=True)
    return Power(
        load=_steps(load, x, y),
        range=f"{upper}L{lower[1:]}z" if upper and lower else "",
        net=_steps(net, x, y),
        limits=tuple(path for path in (_steps(above, x, y), _steps(below, x, y)) if path),
        optimum=_steps(optimum, x, y),
        broken=tuple(_broken(plan, count, x)),
        zero=y(0),
        levels=levels,
    )


def _broken(plan: Planned, count: int, x: Callable[[float], float]) -> list[tuple[float, float]]:
    found = []
    for one in plan.row.breaks:
        first, last = (
            (datetime.fromisoformat(one[end]) - plan.row.from_at) / _QUARTER
            for end in ("from", "to")
        )
        if first < count:
            found.append((x(first), round(x(min(last, count)) - x(first), 1)))
    return found


def _device(told: Told, count: int, x: Callable[[float], float]) -> Device:
    power = (told.power_w or ())[:count]
    y, levels = _scale([*power, 0.0], LOW)
    soc = (told.soc or ())[:count]
    return Device(
        name=told.name,
        detail=told.detail,
        power=_steps(power, x, y),
        soc=_steps(soc, x, lambda per_cent: round(LOW * (1 - per_cent / 100), 1)),
        zero=y(0),
        levels=levels if power else (),
        first_w=power[0] if power else None,
    )


def _scale(
    given: Sequence[float], height: float
) -> tuple[Callable[[float], float], tuple[Mark, ...]]:
    """Return what places watts in a picture, and its labels: the least, 0 and the most."""
    low, high = min(0.0, *given, 0.0), max(0.0, *given, 0.0)
    spread = (high - low) or 1000.0
    room = 0.08 * spread

    def y(watts: float) -> float:
        return round(height * (high + room - watts) / (spread + 2 * room), 1)

    marks: list[Mark] = []
    for watts in (0.0, high, low):
        if all(abs(y(watts) - mark.at) >= 14 for mark in marks):
            marks.append(Mark(y(watts), f"{watts / 1000:g} kW" if watts else "0"))
    return y, tuple(marks)


def _steps(
    values: Values,
    x: Callable[[float], float],
    y: Callable[[float], float],
    *,
    back: bool = False,
) -> str:
    """Return a path of steps, from left to right or back."""
    corners: list[tuple[str, float, float]] = []
    before: float | None = None
    for position, value in enumerate(values):
        if value is None:
            before = None
            continue
        if before is None:
            corners.append(("M", x(position), y(value)))
        elif value != before:
            corners.append(("L", x(position), y(before)))
            corners.append(("L", x(position), y(value)))
        if position + 1 == len(values) or values[position + 1] is None:
            corners.append(("L", x(position + 1), y(value)))
        before = value
    if back:
        corners = [("M" if i == 0 else "L", a, b) for i, (_, a, b) in enumerate(reversed(corners))]
    return "".join(f"{letter}{a:g} {b:g}" for letter, a, b in corners)


def _times(from_at: datetime, count: int, x: Callable[[float], float]) -> list[Mark]:
    every_h = 3 if count <= _SHORT else 6 if count <= _LONG else 24
    marks = []
    for position in range(count):
        at = from_at + position * _QUARTER
        if at.minute == 0 and at.hour % every_h == 0:
            text = f"{at:%a %d}" if at.hour == 0 else f"{at:%H:%M}"
            marks.append(Mark(x(position), text))
    return marks
