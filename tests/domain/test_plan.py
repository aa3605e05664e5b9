"""Plans: what must hold of any, and that the program is never worse than arithmetic."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpd import planner
from fpd.domain.control.plan import Generator, Plan, Problem, Store
from fpd.domain.control.plan_merit import arithmetic

_LIMIT = st.one_of(st.none(), st.integers(0, 8000))


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    count = draw(st.integers(1, 24))

    def each(of: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(of, min_size=count, max_size=count)))

    stores = []
    for number in range(draw(st.integers(0, 3))):
        least, most = sorted(draw(st.tuples(st.integers(0, 9000), st.integers(0, 9000))))
        stores.append(
            Store(
                name=f"battery {number}",
                energy_wh=draw(st.integers(0, 9000)),
                least_wh=least,
                most_wh=most,
                max_charge_w=draw(st.integers(0, 5000)),
                max_discharge_w=draw(st.integers(0, 5000)),
                eff_charge=draw(st.sampled_from((0.8, 0.95, 1.0))),
                eff_discharge=draw(st.sampled_from((0.8, 0.95, 1.0))),
                end_wh=draw(st.one_of(st.none(), st.integers(0, 9000))),
                priority=draw(st.integers(1, 2)),
            )
        )
    cells = []
    if draw(st.booleans()):
        cells.append(
            Generator(
                name="cell",
                least_w=(500,) * count,
                most_w=(1500,) * count,
                base_w=(draw(st.integers(400, 1600)),) * count,
                step_up_w=draw(st.integers(0, 1000)),
                step_dn_w=draw(st.integers(0, 1000)),
            )
        )
    return Problem(
        period_s=draw(st.sampled_from((900, 3600))),
        load_w=each(st.integers(-6000, 9000)),
        import_w=each(_LIMIT),
        export_w=each(_LIMIT),
        optimum_w=each(st.one_of(st.none(), st.integers(-3000, 3000))),
        stores=tuple(stores),
        generators=tuple(cells),
        spare=draw(st.sampled_from((0.0, 0.02))),
    )


def check(problem: Problem, plan: Plan) -> None:
    """Live the plan again, by hand."""
    hours = problem.period_s / 3600
    for store, power_w, energy_wh in zip(problem.stores, plan.store_w, plan.energy_wh, strict=True):
        held = store.energy_wh
        for power, after in zip(power_w, energy_wh, strict=True):
            assert -store.max_charge_w <= power <= store.max_discharge_w
            lost = power / store.eff_discharge if power > 0 else power * store.eff_charge
            assert after == pytest.approx(held - lost * hours, abs=1e-6)
            assert min(store.least_wh, held) - 1e-6 <= after <= max(store.most_wh, held) + 1e-6
            held = after
    for cell, power_w in zip(problem.generators, plan.generator_w, strict=True):
        for low, power, high in zip(cell.least_w, power_w, cell.most_w, strict=True):
            assert low <= power <= high
        for before, after in pairwise(power_w):
            # Both are whole, so a step may be a watt more than what was solved.
            assert -cell.step_dn_w - 1 <= after - before <= cell.step_up_w + 1
    broken = 0.0
    for at, load in enumerate(problem.load_w):
        delivered = sum(p[at] for p in (*plan.store_w, *plan.generator_w))
        assert plan.net_w[at] == pytest.approx(load - delivered)
        for which, net, limit, over in (
            ("import", plan.net_w[at], problem.import_w[at], plan.over_import_w[at]),
            ("export", -plan.net_w[at], problem.export_w[at], plan.over_export_w[at]),
        ):
            excess = max(net - (inf if limit is None else limit), 0)
            assert abs(over - excess) <= 10
            told = [b for b in plan.breaks if b.which == which and b.first <= at <= b.last]
            assert bool(told) == bool(over)
            assert all(b.by_w >= over and b.reason for b in told)
            broken += over * hours
    assert plan.violation_wh == pytest.approx(broken)


@given(problems())
@settings(max_examples=50, deadline=None)
def test_a_plan_is_true_and_no_worse_than_arithmetic(problem: Problem) -> None:
    plain = arithmetic(problem, source="arithmetic")
    check(problem, plain)
    made = planner.plan(problem, time_limit_s=20).plan
    check(problem, made)
    assert made.violation_wh <= plain.violation_wh + 1


@given(problems())
@settings(max_examples=40, deadline=None)
def test_whoever_has_the_reserve_can_do_the_rest(problem: Problem) -> None:
    plan = arithmetic(problem, source="arithmetic")
    hours = problem.period_s / 3600
    for store, power_w, reserve in zip(problem.stores, plan.store_w, plan.reserve_wh, strict=True):
        for start in range(len(power_w)):
            held = reserve[start]
            for power in power_w[start + 1 :]:
                held = store.after(held, power, hours)
                assert held >= store.least_wh - 1e-6


FULL = Store(
    name="cellar", energy_wh=5000, least_wh=1000, most_wh=5000, max_charge_w=2000,
    max_discharge_w=2000,
)  # fmt: skip


def house(**changes: Any) -> Problem:
    """A flat load of 1 kW, a battery with 2 kWh to spare, and an evening of 4 kW."""
    load = [1000.0] * 8
    load[4:6] = [4000.0, 4000.0]
    battery = replace(FULL, energy_wh=1000)
    given = Problem(
        period_s=3600,
        load_w=tuple(load),
        import_w=(3000,) * 8,
        export_w=(None,) * 8,
        optimum_w=(None,) * 8,
        stores=(battery,),
    )
    return replace(given, **changes)


@pytest.mark.parametrize("solver", ["highs", "arithmetic"])
def test_a_battery_is_charged_evenly_for_a_tight_block(solver: str) -> None:
    found = planned(house(), solver)
    assert found.store_w == ((-500, -500, -500, -500, 1000, 1000, 0, 0),)
    assert found.breaks == ()
    assert found.reserve_wh[0] == (1500, 2000, 2500, 3000, 2000, 1000, 1000, 1000)


@pytest.mark.parametrize("solver", ["highs", "arithmetic"])
@pytest.mark.parametrize(
    ("changes", "by_w", "reason"),
    [
        ({"import_w": (3000,) * 4 + (1000,) * 4}, 1000, "the batteries' power is not enough"),
        ({"import_w": (1500,) * 4 + (2500,) * 4}, 500, "the batteries run empty"),
        ({"load_w": (-4000.0,) * 8, "export_w": (1000,) * 8, "stores": (FULL,)}, 3000,
         "the batteries are full"),
        ({"load_w": (-4000.0,) * 8, "export_w": (0,) * 8, "period_s": 60}, 2000,
         "the batteries' power is not enough"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_told_with_its_reason(
    changes: dict[str, Any], by_w: int, reason: str, solver: str
) -> None:
    found = planned(house(**changes), solver)
    assert (found.breaks[-1].by_w, found.breaks[-1].reason) == (by_w, reason)


def test_only_the_program_makes_room_for_what_it_must_take_in() -> None:
    load = (1000.0, 1000.0, -3000.0, -3000.0)
    given = house(
        load_w=load, import_w=(None,) * 4, export_w=(1500,) * 4, optimum_w=(None,) * 4,
        stores=(replace(house().stores[0], energy_wh=4500),),
    )  # fmt: skip
    assert planned(given, "highs").violation_wh == 0
    assert planned(given, "arithmetic").violation_wh == pytest.approx(2500)


def test_a_wish_is_followed_as_far_as_later_limits_allow() -> None:
    given = house(optimum_w=(0,) * 8, stores=(replace(house().stores[0], energy_wh=3000),))
    found = planned(given, "highs")
    assert found.breaks == ()
    assert sum(found.store_w[0]) == pytest.approx(2000, abs=2), "all that is in it, and no more"


def test_a_battery_ends_with_what_it_began_with_if_that_is_asked() -> None:
    given = house(stores=(replace(house().stores[0], energy_wh=3000, end_wh=3000),))
    assert planned(given, "highs").energy_wh[0][-1] == pytest.approx(3000, abs=2)


def test_late_or_without_solver_it_is_arithmetic_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = planner.plan(house(), time_limit_s=0).plan
    assert late.source.startswith("arithmetic: the solver says ")
    monkeypatch.setitem(sys.modules, "highspy", None)
    without = planner.plan(house(), time_limit_s=5).plan
    assert without.source == "arithmetic: highspy is not installed"
    assert without.store_w == late.store_w
    alone = planner.plan(house(stores=()), time_limit_s=5).plan
    assert alone.source == "arithmetic: there is nothing to choose"
    assert [b.reason for b in alone.breaks] == ["no battery can be steered"]


def planned(problem: Problem, solver: str) -> Plan:
    if solver == "arithmetic":
        return arithmetic(problem, source=solver)
    found = planner.plan(problem, time_limit_s=20).plan
    assert found.source == solver
    return found
