"""The kind `plan` of `fpd translate`: a small horizon, solved exactly by trying every course.

One battery whose powers are multiples of `grid_w`, and aims in the order of their weight: the best
course by the first, of those the best by the second, and so on. Several batteries are planned by
arithmetic, in merit order.

Interpretation: `violation_wh` is what exceeds the limits of import and export, `throughput_wh` is
charge and discharge, both at the battery's door; `end_shortfall_wh` is what lacks in it at the end
of `end_energy_wh`, and `end_energy_wh` as an aim means as much as possible. Of courses that are
equally good by all aims that with the smaller powers in the earlier periods counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from operator import le
from typing import Any, Final, NamedTuple

from fpd.domain.control.plan import Problem, Store
from fpd.domain.control.plan_merit import arithmetic
from fpd.domain.fields import Fields

_MOST_TRIALS: Final = 3_000_000
_GRID_W: Final = 50


@dataclass(frozen=True, slots=True)
class _Course:
    """What a battery does in one period: what it takes and gives, and what becomes of the grid."""

    power_w: Fraction
    load_w: Fraction
    import_w: Fraction | None
    export_w: Fraction | None
    optimum_w: Fraction | None
    hours: Fraction

    @property
    def net_w(self) -> Fraction:
        return self.load_w - self.power_w

    @property
    def violation_wh(self) -> Fraction:
        over_w = [
            Fraction(0) if self.import_w is None else self.net_w - self.import_w,
            Fraction(0) if self.export_w is None else -self.net_w - self.export_w,
        ]
        return sum((max(w, Fraction(0)) for w in over_w), Fraction(0)) * self.hours

    @property
    def optimum_wh(self) -> Fraction:
        missed_w = Fraction(0) if self.optimum_w is None else abs(self.net_w - self.optimum_w)
        return missed_w * self.hours


# What a period adds to an aim; those of the second kind count by their largest.
_SUMS: Final[Mapping[str, Callable[[_Course], Fraction]]] = {
    "violation_wh": lambda c: c.violation_wh,
    "optimum_wh": lambda c: c.optimum_wh,
    "throughput_wh": lambda c: abs(c.power_w) * c.hours,
    "charge_wh": lambda c: max(-c.power_w, Fraction(0)) * c.hours,
    "discharge_wh": lambda c: max(c.power_w, Fraction(0)) * c.hours,
    "import_wh": lambda c: max(c.net_w, Fraction(0)) * c.hours,
    "export_wh": lambda c: max(-c.net_w, Fraction(0)) * c.hours,
}
_PEAKS: Final[Mapping[str, Callable[[_Course], Fraction]]] = {
    "max_charge_w": lambda c: max(-c.power_w, Fraction(0)),
    "max_discharge_w": lambda c: max(c.power_w, Fraction(0)),
    "max_power_w": lambda c: abs(c.power_w),
    "max_import_w": lambda c: max(c.net_w, Fraction(0)),
    "max_export_w": lambda c: max(-c.net_w, Fraction(0)),
    "max_violation_w": lambda c: c.violation_wh / c.hours,
}
_END_KEYS: Final = ("end_energy_wh", "min_end_energy_wh", "end_wh")
_ENDS: Final = ("end_shortfall_wh", "end_energy_wh")
_USUAL: Final = ("violation_wh", "optimum_wh", "end_shortfall_wh", "throughput_wh", "max_charge_w")


def plan(fields: Fields) -> dict[str, Any]:
    """Return what the batteries do (W, discharge positive) and what remains of the violation."""
    period_s = fields.positive("period_s")
    loads = fields.items("load_w")
    load_w = [Fraction(loads.number(item)) for item in loads]
    if not load_w:
        raise fields.fault("load_w", "empty")
    limits = [
        _each(fields, name, len(load_w))
        for name in ("consumption_cap_w", "generation_cap_w", "optimum_w")
    ]
    if fields.has("batteries"):
        return _several(fields, load_w, limits, period_s)
    return _one(fields, load_w, limits, Fraction(period_s) / 3600)


def _each(fields: Fields, name: str, count: int) -> list[Fraction | None]:
    """Return a number per period; one number is meant for all of them, none for no limit."""
    if not fields.has(name):
        return [None] * count
    if not isinstance(fields.value(name), list):
        return [Fraction(fields.number(name))] * count
    items = fields.items(name)
    found = [None if items.value(i) is None else Fraction(items.number(i)) for i in items]
    if len(found) != count:
        raise fields.fault(name, f"expected {count} values, one for each of load_w")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Battery:
    energy_wh: Fraction
    least_wh: Fraction
    most_wh: Fraction
    end_wh: Fraction | None
    max_charge_w: Fraction
    max_discharge_w: Fraction
    eff_charge: Fraction
    eff_discharge: Fraction

    def after(self, energy_wh: Fraction, power_w: Fraction, hours: Fraction) -> Fraction:
        if power_w >= 0:
            return energy_wh - power_w * hours / self.eff_discharge
        return energy_wh - power_w * hours * self.eff_charge


def _battery(fields: Fields, outer: Fields) -> _Battery:
    ends = [one.number(name) for one in (fields, outer) for name in _END_KEYS if one.has(name)]
    found = _Battery(
        energy_wh=Fraction(fields.number("energy_wh")),
        least_wh=Fraction(fields.number("min_energy_wh", 0)),
        most_wh=Fraction(fields.positive("capacity_wh")),
        end_wh=Fraction(ends[0]) if ends else None,
        max_charge_w=Fraction(fields.number("max_charge_w")),
        max_discharge_w=Fraction(fields.number("max_discharge_w")),
        eff_charge=Fraction(fields.number("eff_charge", 1)),
        eff_discharge=Fraction(fields.number("eff_discharge", 1)),
    )
    for name in ("eff_charge", "eff_discharge"):
        if not 0 < getattr(found, name) <= 1:
            raise fields.fault(name, "must be above 0 and at most 1")
    if not found.least_wh <= found.energy_wh <= found.most_wh:
        raise fields.fault("energy_wh", "not between min_energy_wh and capacity_wh")
    if min(found.max_charge_w, found.max_discharge_w) < 0:
        raise fields.fault("max_charge_w", "powers must not be negative")
    return found


class _Way(NamedTuple):
    """How good a course so far is by each aim, and which it is."""

    score: tuple[Fraction, ...]
    powers: tuple[Fraction, ...]

    @property
    def order(self) -> tuple[Any, ...]:
        return self.score, tuple(map(abs, self.powers)), self.powers


def _one(
    fields: Fields,
    load_w: Sequence[Fraction],
    limits: Sequence[Sequence[Fraction | None]],
    hours: Fraction,
) -> dict[str, Any]:
    battery = _battery(fields.child("battery"), fields)
    aims = _aims(fields, battery)
    powers = _on_grid(battery, Fraction(fields.positive("grid_w", _GRID_W)))
    if len(powers) ** 2 * len(load_w) ** 2 > _MOST_TRIALS:
        raise fields.fault("grid_w", "too fine for so many periods")
    periods = [
        [_Course(power, load, one, two, wish, hours) for power in powers]
        for load, one, two, wish in zip(load_w, limits[0], limits[1], limits[2], strict=True)
    ]
    ways = {battery.energy_wh: [_Way(tuple(Fraction(0) for _ in aims), ())]}
    for courses in periods:
        ways = _further(ways, courses, aims, battery)
    best = min(
        (
            _Way(_ended(aims, way.score, battery, left_wh), way.powers)
            for left_wh, found in ways.items()
            for way in found
        ),
        key=lambda way: way.order,
    )
    taken = (courses[powers.index(p)] for courses, p in zip(periods, best.powers, strict=True))
    return {
        "battery_w": [_plain(power) for power in best.powers],
        "violation_wh": _plain(sum((course.violation_wh for course in taken), Fraction(0))),
    }


def _further(
    ways: Mapping[Fraction, Sequence[_Way]],
    courses: Sequence[_Course],
    aims: Sequence[str],
    battery: _Battery,
) -> dict[Fraction, list[_Way]]:
    """Return the ways that one more period makes of these, by what is left in the battery."""
    costs = [tuple(_cost(aim, course) for aim in aims) for course in courses]
    first_peak = next((i for i, aim in enumerate(aims) if aim in _PEAKS), len(aims))
    ahead: dict[Fraction, list[_Way]] = {}
    for energy_wh, found in ways.items():
        for course, cost in zip(courses, costs, strict=True):
            left_wh = battery.after(energy_wh, course.power_w, course.hours)
            if battery.least_wh <= left_wh <= battery.most_wh:
                kept = ahead.setdefault(left_wh, [])
                for way in found:
                    score = tuple(map(_joined, aims, way.score, cost))
                    _keep(kept, _Way(score, (*way.powers, course.power_w)), first_peak)
    return ahead


def _keep(kept: list[_Way], new: _Way, first_peak: int) -> None:
    """Add a way unless one that is kept is as good whatever follows; drop those it is better than.

    Sums before the first peak decide at once; a peak may yet be drowned by a higher one.
    """
    if any(_at_least_as_good(way, new, first_peak) for way in kept):
        return
    kept[:] = [way for way in kept if not _at_least_as_good(new, way, first_peak)]
    kept.append(new)


def _at_least_as_good(one: _Way, other: _Way, first_peak: int) -> bool:
    if one.score[:first_peak] != other.score[:first_peak]:
        return one.score[:first_peak] < other.score[:first_peak]
    if one.score == other.score:
        return one.order <= other.order
    return all(map(le, one.score[first_peak:], other.score[first_peak:]))


def _aims(fields: Fields, battery: _Battery) -> tuple[str, ...]:
    """Return what is aimed at, in order.

    Interpretation: an end that is asked for and is not among the aims is a condition of them all.
    """
    if not fields.has("objective"):
        return _USUAL
    items = fields.items("objective")
    aims = [str(items.value(item)) for item in items]
    known = (*_SUMS, *_PEAKS, *_ENDS)
    for aim in aims:
        if aim not in known:
            raise fields.fault("objective", f"{aim!r} is none of {', '.join(known)}")
    if battery.end_wh is not None and not set(_ENDS) & set(aims):
        aims.insert(0, "end_shortfall_wh")
    return tuple(aims)


def _on_grid(battery: _Battery, grid_w: Fraction) -> list[Fraction]:
    lowest, highest = battery.max_charge_w // grid_w, battery.max_discharge_w // grid_w
    return [step * grid_w for step in range(-lowest, highest + 1)]


def _cost(aim: str, course: _Course) -> Fraction:
    found = _SUMS.get(aim) or _PEAKS.get(aim)
    return Fraction(0) if found is None else found(course)


def _joined(aim: str, so_far: Fraction, cost: Fraction) -> Fraction:
    return max(so_far, cost) if aim in _PEAKS else so_far + cost


def _ended(
    aims: Sequence[str], score: Sequence[Fraction], battery: _Battery, left_wh: Fraction
) -> tuple[Fraction, ...]:
    ends = {
        "end_shortfall_wh": max((battery.end_wh or Fraction(0)) - left_wh, Fraction(0)),
        "end_energy_wh": -left_wh,
    }
    return tuple(ends.get(aim, value) for aim, value in zip(aims, score, strict=True))


def _several(
    fields: Fields,
    load_w: Sequence[Fraction],
    limits: Sequence[Sequence[Fraction | None]],
    period_s: Decimal,
) -> dict[str, Any]:
    stores = []
    for number, given in enumerate(fields.children("batteries")):
        battery = _battery(given, fields)
        stores.append(
            Store(
                name=f"{number:06}",
                energy_wh=float(battery.energy_wh),
                least_wh=float(battery.least_wh),
                most_wh=float(battery.most_wh),
                max_charge_w=int(battery.max_charge_w),
                max_discharge_w=int(battery.max_discharge_w),
                eff_charge=float(battery.eff_charge),
                eff_discharge=float(battery.eff_discharge),
                end_wh=None if battery.end_wh is None else float(battery.end_wh),
                priority=given.integer("priority", 1),
            )
        )
    whole = [tuple(None if w is None else int(w) for w in one) for one in limits]
    found = arithmetic(
        Problem(
            period_s=int(period_s),
            load_w=tuple(map(float, load_w)),
            import_w=whole[0],
            export_w=whole[1],
            optimum_w=whole[2],
            stores=tuple(stores),
        ),
        source="arithmetic",
    )
    return {
        "battery_w": [list(power_w) for power_w in found.store_w],
        "violation_wh": round(found.violation_wh, 3),
        "source": found.source,
    }


def _plain(number: Fraction) -> int | float:
    return int(number) if number.denominator == 1 else float(number)
