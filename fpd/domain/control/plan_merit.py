"""A plan by arithmetic: each battery in merit order carries what those before leave.

It never fails and needs no library; a solver's plan is held against it. A battery is charged
in time for its task, discharged as soon as a limit asks, and energy that does not suffice is
spread over the whole time that lacks it (reference on devices §5.9, §5.11).

Interpretation: room for an export that must be absorbed later is not made beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from fpd.domain.control.dispatch import waterfill
from fpd.domain.control.plan import Plan, Problem, Store, lived
from fpd.domain.control.plan_even import evened

_EPS_W = 1e-6


def arithmetic(problem: Problem, *, source: str) -> Plan:
    """Return a plan for any problem; generators stay at their base, within their bounds."""
    curves = [_held(g.base_w, g.least_w, g.most_w) for g in problem.generators]
    given_w = [float(sum(each)) for each in zip(*curves, strict=True)] or [0.0] * len(
        problem.load_w
    )
    bounds = [
        (least - given, most - given)
        for (least, most), given in zip(
            map(problem.bounds, range(len(given_w))), given_w, strict=True
        )
    ]
    wishes = [
        None if optimum is None else load - given - optimum
        for load, given, optimum in zip(problem.load_w, given_w, problem.optimum_w, strict=True)
    ]
    found: dict[str, list[float]] = {}
    for store in sorted(problem.stores, key=lambda store: (store.priority, store.name)):
        power_w = _carried(store, bounds, wishes, problem.period_s)
        found[store.name] = power_w
        bounds = [(a - p, b - p) for (a, b), p in zip(bounds, power_w, strict=True)]
        wishes = [None if w is None else w - p for w, p in zip(wishes, power_w, strict=True)]
    return lived(
        problem,
        source=source,
        store_w=evened(problem, [found[store.name] for store in problem.stores], curves),
        generator_w=curves,
    )


def _held(base: Sequence[int], least: Sequence[int], most: Sequence[int]) -> list[int]:
    return [min(max(b, low), high) for b, low, high in zip(base, least, most, strict=True)]


def _carried(
    store: Store,
    bounds: Sequence[tuple[float, float]],
    wishes: Sequence[float | None],
    period_s: int,
) -> list[float]:
    hours = period_s / 3600
    needed = _needed(store, bounds, hours)
    energy_wh, position, powers = store.energy_wh, 0, []
    while position < len(bounds):
        run = _lacking(bounds, position)
        if run:
            told = _spread(store, energy_wh, run, period_s)
        else:
            told = [
                _free(store, energy_wh, bounds[position], wishes[position], needed[position], hours)
            ]
        for power_w in told:
            energy_wh = store.after(energy_wh, power_w, hours)
        powers += told
        position += len(told)
    return powers


def _needed(store: Store, bounds: Sequence[tuple[float, float]], hours: float) -> list[float]:
    """Return the least energy at each period's end with which all later needs could be met."""
    needed_wh = store.least_wh if store.end_wh is None else min(store.end_wh, store.most_wh)
    found = []
    for least_w, _ in reversed(bounds):
        found.append(needed_wh)
        if least_w > 0:
            needed_wh += min(least_w, store.max_discharge_w) * hours / store.eff_discharge
        else:
            needed_wh -= min(-least_w, store.max_charge_w) * hours * store.eff_charge
        needed_wh = min(max(needed_wh, store.least_wh), store.most_wh)
    return found[::-1]


def _lacking(bounds: Sequence[tuple[float, float]], position: int) -> list[float]:
    """Return the needs, from here on, of the periods in which an import limit asks for power."""
    end = position
    while end < len(bounds) and bounds[end][0] > _EPS_W:
        end += 1
    return [bounds[at][0] for at in range(position, end)]


def _spread(store: Store, energy_wh: float, needs_w: Sequence[float], period_s: int) -> list[float]:
    """Return what the battery gives to a row of needs: all of it, or its energy on the peaks."""
    able_w = [min(need, float(store.max_discharge_w)) for need in needs_w]
    left_wh = max(energy_wh - store.least_wh, 0.0) * store.eff_discharge
    if sum(able_w) * period_s / 3600 <= left_wh:
        return able_w
    level_w = float(
        waterfill(
            [Decimal(w) for w in able_w], period_s=Decimal(period_s), energy_wh=Decimal(left_wh)
        ).exact_level_w
    )
    return [max(w - level_w, 0.0) for w in able_w]


def _free(
    store: Store,
    energy_wh: float,
    bounds: tuple[float, float],
    wish_w: float | None,
    needed_wh: float,
    hours: float,
) -> float:
    """Return what the battery does when no import limit asks for it."""
    least_w, most_w = bounds
    power_w = 0.0 if wish_w is None else wish_w
    if power_w > 0:  # what later needs are not to lack
        power_w = min(power_w, max(energy_wh - needed_wh, 0.0) * store.eff_discharge / hours)
    lacking_wh = needed_wh - energy_wh
    if lacking_wh > 0:
        power_w = min(power_w, -lacking_wh / store.eff_charge / hours)
    power_w = min(max(power_w, least_w), most_w)
    able = store.able(energy_wh, hours)
    return min(max(power_w, able[0]), able[1])
