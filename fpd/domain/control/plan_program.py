"""A plan as a linear program: its columns, rows and weights as arrays, and its solution read back.

Per period and battery the charge, the discharge and the energy at its end; per fuel cell its
deviation up and down from base; per limited period what is missing, per wish what it is missed by;
and the largest breach, for evenness. A cost on throughput makes charging and discharging at once
unprofitable, so nothing has to be whole.

Source: reference on devices §5.11, its weights included; what should be left in a battery at the
end weighs more than the throughput that it takes and less than anything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from fpd.domain.control.plan import Generator, Plan, Problem, Store, lived
from fpd.domain.control.plan_even import evened

# Per Wh, the peaks per W.
_BREACH: Final = 1e3
_OPTIMUM: Final = 1.0
_BASE: Final = 1e-2
_END: Final = 5e-3
_THROUGHPUT: Final = 1e-3
_PEAK: Final = 1e-5
_SOONER: Final = 0.1  # of a weight


@dataclass(slots=True)
class Program:
    """Minimise cost · x with lower ≤ x ≤ upper and row_lower ≤ A x ≤ row_upper, A row by row."""

    cost: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    row_lower: list[float] = field(default_factory=list)
    row_upper: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    index: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def columns(self, uppers: Iterable[float], *, cost: float, lower: float = 0.0) -> range:
        """Add a column for each upper bound and return their numbers."""
        first = len(self.cost)
        self.upper.extend(uppers)
        count = len(self.upper) - first
        self.cost.extend([cost] * count)
        self.lower.extend([lower] * count)
        return range(first, first + count)

    def row(self, lower: float, upper: float, terms: Sequence[tuple[int, float]]) -> None:
        """Add lower ≤ Σ value · column ≤ upper."""
        self.row_lower.append(lower)
        self.row_upper.append(upper)
        for column, value in terms:
            self.index.append(column)
            self.value.append(value)
        self.starts.append(len(self.index))


@dataclass(frozen=True, slots=True)
class _StoreColumns:
    charge: range
    discharge: range


@dataclass(frozen=True, slots=True)
class _GeneratorColumns:
    """`base_w` is the base inside the bounds; a settled one has no columns."""

    base_w: tuple[int, ...]
    up: range
    down: range


@dataclass(frozen=True, slots=True)
class Written:
    """A problem as a program, and where in a solution its answers are."""

    problem: Problem
    program: Program
    stores: tuple[_StoreColumns, ...]
    generators: tuple[_GeneratorColumns, ...]

    def read(self, solution: Sequence[float], *, source: str) -> Plan:
        """Return the plan that a solution means."""
        generator_w: list[Sequence[float]] = [
            [
                base + solution[up] - solution[down]
                for base, up, down in zip(columns.base_w, columns.up, columns.down, strict=True)
            ]
            if columns.up
            else columns.base_w
            for columns in self.generators
        ]
        store_w = [
            [
                solution[d] - solution[c]
                for c, d in zip(columns.charge, columns.discharge, strict=True)
            ]
            for columns in self.stores
        ]
        return lived(
            self.problem,
            source=source,
            store_w=evened(self.problem, store_w, generator_w),
            generator_w=generator_w,
        )


def written(problem: Problem) -> Written:
    """Write a problem as a linear program that always has a solution."""
    program = Program()
    stores = tuple(_store(program, store, problem) for store in problem.stores)
    generators = tuple(_generator(program, cell, problem) for cell in problem.generators)
    given_w = [
        float(sum(each)) for each in zip(*(columns.base_w for columns in generators), strict=True)
    ] or [0.0] * len(problem.load_w)
    limited = [
        position
        for position in range(len(problem.load_w))
        if problem.import_w[position] is not None or problem.export_w[position] is not None
    ]
    missing = program.columns([inf] * len(limited), cost=_BREACH * problem.hours)
    beyond = program.columns([inf] * len(limited), cost=_BREACH * problem.hours)
    (worst,) = program.columns([inf], cost=_PEAK)
    for position, less, more in zip(limited, missing, beyond, strict=True):
        least_w, most_w = problem.bounds(position)
        terms = [*_delivered(stores, generators, position), (less, 1.0), (more, -1.0)]
        program.row(least_w - given_w[position], most_w - given_w[position], terms)
        program.row(0.0, inf, [(worst, 1.0), (less, -1.0), (more, -1.0)])
    for position, optimum_w in enumerate(problem.optimum_w):
        if optimum_w is not None:
            # What is missed is missed late: control follows a wish for as long as it can.
            sooner = 1 + _SOONER * (1 - position / len(problem.load_w))
            short, over = program.columns([inf, inf], cost=_OPTIMUM * sooner * problem.hours)
            wanted_w = problem.load_w[position] - given_w[position] - optimum_w
            terms = [*_delivered(stores, generators, position), (short, 1.0), (over, -1.0)]
            program.row(wanted_w, wanted_w, terms)
    return Written(problem, program, stores, generators)


def _delivered(
    stores: Sequence[_StoreColumns], generators: Sequence[_GeneratorColumns], position: int
) -> list[tuple[int, float]]:
    """Return the terms of what all devices deliver beyond the base of the fuel cells."""
    terms = []
    for store in stores:
        terms += [(store.charge[position], -1.0), (store.discharge[position], 1.0)]
    for cell in generators:
        if cell.up:
            terms += [(cell.up[position], 1.0), (cell.down[position], -1.0)]
    return terms


def _store(program: Program, store: Store, problem: Problem) -> _StoreColumns:
    """Add a battery: what goes in and out changes what is in it."""
    count, hours = len(problem.load_w), problem.hours
    throughput = _THROUGHPUT * hours
    charge = program.columns([store.max_charge_w] * count, cost=throughput)
    discharge = program.columns([store.max_discharge_w] * count, cost=throughput)
    # One that is found outside its bounds comes back as fast as it can.
    lowest, highest = min(store.least_wh, store.energy_wh), max(store.most_wh, store.energy_wh)
    energy = program.columns([highest] * count, cost=0.0, lower=lowest)
    before = store.energy_wh
    for position in range(count):
        terms = [
            (energy[position], 1.0),
            (charge[position], -store.eff_charge * hours),
            (discharge[position], hours / store.eff_discharge),
        ]
        if position:
            terms.append((energy[position - 1], -1.0))
            before = 0.0
        program.row(before, before, terms)
    if store.end_wh is not None and count:
        (short,) = program.columns([inf], cost=_END)
        program.row(min(store.end_wh, store.most_wh), inf, [(energy[-1], 1.0), (short, 1.0)])
    return _StoreColumns(charge, discharge)


def _generator(program: Program, cell: Generator, problem: Problem) -> _GeneratorColumns:
    """Add a fuel cell by its deviation from base; its steps from period to period are bounded."""
    base = tuple(
        min(max(b, low), high)
        for b, low, high in zip(cell.base_w, cell.least_w, cell.most_w, strict=True)
    )
    if cell.least_w == cell.most_w:
        return _GeneratorColumns(base, range(0), range(0))
    cost = _BASE * problem.hours
    up = program.columns((m - b for m, b in zip(cell.most_w, base, strict=True)), cost=cost)
    down = program.columns((b - m for m, b in zip(cell.least_w, base, strict=True)), cost=cost)
    for position in range(1, len(base)):
        step = base[position] - base[position - 1]
        program.row(
            -cell.step_dn_w - step,
            cell.step_up_w - step,
            [
                (up[position], 1.0),
                (down[position], -1.0),
                (up[position - 1], -1.0),
                (down[position - 1], 1.0),
            ],
        )
    return _GeneratorColumns(base, up, down)
