"""Who carries what over the next days: the problem, the plan, and what a plan cannot keep.

Limits are soft: there is always a plan, and it says where it breaks one, by how much and why.
Powers are W: the load and limits of the group import positive, what devices deliver positive at
their door (a battery's charge is negative). Energies are Wh in the battery.

Sources: reference on devices §5.1 (balance), §5.10 (plan and real time), §5.11 (the program).
Interpretation: whatever solved the problem, its setpoints are lived through here, step by step,
so energies and breaks are what the setpoints would do, not what a solver says of itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import ceil, floor, inf
from typing import Final

_IDLE_W: Final = 0.01
_LEAST_BREAK_W: Final = 10  # whole watts of several devices do not add up better


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """A battery: what is in it, what may be, what it can do. Efficiencies are 0..1.

    `end_wh`: what should be left at the end, None: nothing is asked. `priority` 1 is asked first.
    """

    name: str
    energy_wh: float
    least_wh: float
    most_wh: float
    max_charge_w: int
    max_discharge_w: int
    eff_charge: float = 1.0
    eff_discharge: float = 1.0
    end_wh: float | None = None
    priority: int = 1

    def after(self, energy_wh: float, power_w: float, hours: float) -> float:
        """Return what is in it when it has delivered `power_w` for so long."""
        if power_w >= 0:
            return energy_wh - power_w * hours / self.eff_discharge
        return energy_wh - power_w * hours * self.eff_charge

    def able(self, energy_wh: float, hours: float) -> tuple[float, float]:
        """Return the least (most negative) and the most that it can deliver for so long."""
        room_wh = max(self.most_wh - energy_wh, 0.0)
        left_wh = max(energy_wh - self.least_wh, 0.0)
        return (
            -min(self.max_charge_w, room_wh / self.eff_charge / hours),
            min(self.max_discharge_w, left_wh * self.eff_discharge / hours),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A fuel cell: between `least_w` and `most_w` of each period, at `base_w` if nothing asks.

    Steps from period to period are at most `step_up_w` and `step_dn_w`.
    """

    name: str
    least_w: tuple[int, ...]
    most_w: tuple[int, ...]
    base_w: tuple[int, ...]
    step_up_w: int
    step_dn_w: int

    @classmethod
    def fixed(cls, name: str, curve_w: Sequence[int]) -> Generator:
        """Return one whose output is settled."""
        curve = tuple(curve_w)
        steps = [abs(b - a) for a, b in pairwise(curve)]
        step = max(steps, default=0)
        return cls(
            name=name, least_w=curve, most_w=curve, base_w=curve, step_up_w=step, step_dn_w=step
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What has to be carried during periods of `period_s`. None: no limit, no wish.

    `load_w` is the group's net import without these devices, `import_w` and `export_w` (≥ 0) its
    limits, `optimum_w` the wanted net import. `spare` is the share of a limit that is kept free.
    """

    period_s: int
    load_w: tuple[float, ...]
    import_w: tuple[int | None, ...]
    export_w: tuple[int | None, ...]
    optimum_w: tuple[int | None, ...]
    stores: tuple[Store, ...] = ()
    generators: tuple[Generator, ...] = ()
    spare: float = 0.0

    @property
    def hours(self) -> float:
        return self.period_s / 3600

    def bounds(self, position: int) -> tuple[float, float]:
        """Return the least and the most that all devices together are to deliver in a period."""
        load, import_w, export_w = (
            self.load_w[position],
            self.import_w[position],
            self.export_w[position],
        )
        kept = 1 - self.spare
        return (
            -inf if import_w is None else load - import_w * kept,
            inf if export_w is None else load + export_w * kept,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """A limit that is not kept during the periods [first, last], by `by_w` at worst.

    `is_energy`: there is power enough, but what is stored (or still can be) does not last.
    """

    first: int
    last: int
    which: str  # "import" or "export"
    by_w: int
    reason: str
    is_energy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What each device does in each period, and what follows from it.

    `store_w[i]`, `energy_wh[i]` (at each period's end) and `reserve_wh[i]` (the least that must be
    in it then, so that the rest of the plan can be kept) are those of the i-th battery.
    """

    source: str
    store_w: tuple[tuple[int, ...], ...]
    energy_wh: tuple[tuple[float, ...], ...]
    reserve_wh: tuple[tuple[float, ...], ...]
    generator_w: tuple[tuple[int, ...], ...]
    net_w: tuple[float, ...]
    over_import_w: tuple[int, ...]
    over_export_w: tuple[int, ...]
    breaks: tuple[Break, ...]
    violation_wh: float


def lived(
    problem: Problem,
    *,
    source: str,
    store_w: Sequence[Sequence[float]],
    generator_w: Sequence[Sequence[float]],
) -> Plan:
    """Return the plan that comes of setpoints, cut where a battery is full or empty."""
    powers, energies = [], []
    for store, wanted in zip(problem.stores, store_w, strict=True):
        power_w, energy_wh = _lived(store, wanted, problem.hours)
        powers.append(power_w)
        energies.append(energy_wh)
    cells = tuple(tuple(round(w) for w in curve) for curve in generator_w)
    net_w = tuple(
        load - sum(each) for load, *each in zip(problem.load_w, *powers, *cells, strict=True)
    )
    over_import = tuple(map(_over, net_w, problem.import_w))
    over_export = tuple(
        _over(-net, limit) for net, limit in zip(net_w, problem.export_w, strict=True)
    )
    return Plan(
        source=source,
        store_w=tuple(powers),
        energy_wh=tuple(energies),
        reserve_wh=tuple(
            _reserve(store, power_w, problem.hours)
            for store, power_w in zip(problem.stores, powers, strict=True)
        ),
        generator_w=cells,
        net_w=net_w,
        over_import_w=over_import,
        over_export_w=over_export,
        breaks=tuple(_breaks(problem, powers, energies, over_import, over_export)),
        violation_wh=(sum(over_import) + sum(over_export)) * problem.hours,
    )


def _lived(
    store: Store, wanted: Sequence[float], hours: float
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    energy_wh, left_over, powers, energies = store.energy_wh, 0.0, [], []
    for power_w in wanted:
        least_w, most_w = store.able(energy_wh, hours)
        # Towards 0 where the battery's own bounds are: a watt more is not in it.
        asked_w = power_w + left_over
        whole_w = min(max(round(asked_w), ceil(least_w)), floor(most_w))
        left_over = min(max(asked_w - whole_w, -0.5), 0.5) if abs(power_w) > _IDLE_W else 0.0
        energy_wh = store.after(energy_wh, whole_w, hours)
        powers.append(whole_w)
        energies.append(energy_wh)
    return tuple(powers), tuple(energies)


def _reserve(store: Store, power_w: Sequence[int], hours: float) -> tuple[float, ...]:
    """Return, at each period's end, the least energy with which what follows can be done."""
    reserve, found = store.least_wh, []
    for power in reversed(power_w):
        found.append(reserve)
        reserve = max(store.least_wh, reserve - store.after(0.0, power, hours))
    return tuple(reversed(found))


def _over(net_w: float, limit_w: int | None) -> int:
    over = 0 if limit_w is None else round(net_w - limit_w)
    return over if over >= _LEAST_BREAK_W else 0


def _breaks(
    problem: Problem,
    powers: Sequence[Sequence[int]],
    energies: Sequence[Sequence[float]],
    over_import: Sequence[int],
    over_export: Sequence[int],
) -> Iterator[Break]:
    """Yield what is not kept, neighbouring periods with one reason joined."""
    for which, over in (("import", over_import), ("export", over_export)):
        why = [
            _why(problem, powers, energies, which, position) if by_w else None
            for position, by_w in enumerate(over)
        ]
        for reason, run in groupby(range(len(over)), key=lambda position: why[position]):
            if reason is not None:
                positions = list(run)
                yield Break(
                    first=positions[0],
                    last=positions[-1],
                    which=which,
                    by_w=max(over[position] for position in positions),
                    reason=reason,
                    is_energy=reason in _OF_ENERGY,
                )


_OF_ENERGY: Final = ("the batteries run empty", "the batteries are full")


def _why(
    problem: Problem,
    powers: Sequence[Sequence[int]],
    energies: Sequence[Sequence[float]],
    which: str,
    position: int,
) -> str:
    """Say in words what is missing."""
    if not problem.stores:
        return "no battery can be steered"
    at_most = all(
        power[position] >= store.max_discharge_w
        if which == "import"
        else power[position] <= -store.max_charge_w
        for store, power in zip(problem.stores, powers, strict=True)
    )
    if at_most:
        return "the batteries' power is not enough"
    return _OF_ENERGY[which != "import"]
