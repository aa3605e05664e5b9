"""The tie-break by peak: what a battery is charged with between two tasks is spread evenly.

Between two discharges only the sum of a charge matters to what follows, so it may go into any
period that has room below the import limit. 2 kWh in two free hours: 1 kW in both.

Interpretation (reference on devices §5.11, tie-break by peak): it is done by arithmetic on a
solved plan. In the program it would need a row per period and battery, which doubles its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf

from fpd.domain.control.plan import Problem, Store

_IDLE_W = 0.5
_HALVINGS = 40


def evened(
    problem: Problem, store_w: Sequence[Sequence[float]], generator_w: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Return what batteries deliver with their charges spread; nothing else changes."""
    found = [list(power_w) for power_w in store_w]
    total_w = [float(sum(each)) for each in zip(*found, *generator_w, strict=True)]
    for store, power_w in zip(problem.stores, found, strict=True):
        for stretch in _stretches(power_w):
            room = [_room(problem, store, power_w[at], total_w[at], at) for at in stretch]
            level_w = _level(room, sum(-power_w[at] for at in stretch))
            for at, (least_w, most_w) in zip(stretch, room, strict=True):
                charge_w = min(max(level_w, least_w), most_w)
                total_w[at] += -charge_w - power_w[at]
                power_w[at] = -charge_w
    return found


def _stretches(power_w: Sequence[float]) -> Iterator[range]:
    """Yield the stretches without discharge in which something is charged."""
    start = 0
    for at, watts in enumerate((*power_w, inf)):
        if watts > _IDLE_W:
            if any(power_w[one] < -_IDLE_W for one in range(start, at)):
                yield range(start, at)
            start = at + 1


def _room(
    problem: Problem, store: Store, power_w: float, total_w: float, at: int
) -> tuple[float, float]:
    """Return the least and the most charge that keep the limits as well as the plan does."""
    charge_w = max(-power_w, 0.0)
    if problem.optimum_w[at] is not None:
        return charge_w, charge_w
    lowest_w, highest_w = problem.bounds(at)
    others_w = total_w - power_w
    least_w = max(min(others_w - highest_w, charge_w), 0.0)
    most_w = min(float(store.max_charge_w), others_w - lowest_w)
    return least_w, max(most_w, charge_w)


def _level(room: Sequence[tuple[float, float]], charge_w: float) -> float:
    """Return the level at which the charges add up to `charge_w`."""
    low, high = 0.0, max(most for _, most in room)
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        if sum(min(max(level, least), most) for least, most in room) < charge_w:
            low = level
        else:
            high = level
    return high
