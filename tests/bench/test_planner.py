"""A week of five batteries and a fuel cell: built, solved, and how long the event loop waits.

Beside it, in the same run, the floor: the same program solved on its own by the library, and how
long the loop waits while another process has nothing to do with it. Nothing here passes or fails
by its speed.
"""

from __future__ import annotations

import asyncio
import math
import random
import time

from fpd import planner
from fpd.domain.control.plan import Generator, Problem, Store
from fpd.domain.control.plan_merit import arithmetic
from fpd.domain.control.plan_program import written

TICKS = 672


def week(batteries: int, seed: int) -> Problem:
    """A house with evenings above its import limit, noons of sun, and a day of wishes."""
    dice = random.Random(seed)
    load = tuple(
        3000 + 2500 * math.sin(2 * math.pi * (t % 96) / 96 - 2) + dice.uniform(-600, 600)
        for t in range(TICKS)
    )
    stores = tuple(
        Store(
            name=f"battery {i}", energy_wh=3000, least_wh=1000, most_wh=10_000,
            max_charge_w=3300 - 100 * i, max_discharge_w=3300, eff_charge=0.95 - 0.01 * i,
            eff_discharge=0.95, priority=1 + i % 2, end_wh=3000,
        )
        for i in range(batteries)
    )  # fmt: skip
    cell = Generator(
        name="cell", least_w=(500,) * TICKS, most_w=(1500,) * TICKS, base_w=(1000,) * TICKS,
        step_up_w=150, step_dn_w=150,
    )  # fmt: skip
    return Problem(
        period_s=900,
        load_w=load,
        import_w=tuple(2500 if 68 <= t % 96 < 84 else 6000 for t in range(TICKS)),
        export_w=tuple(1000 if 40 <= t % 96 < 56 else None for t in range(TICKS)),
        optimum_w=tuple(2500 if t < 96 else None for t in range(TICKS)),
        stores=stores,
        generators=(cell,),
        spare=0.02,
    )


async def longest_pause(during: asyncio.Future[object] | asyncio.Task[object]) -> float:
    """Return by how long (s) the loop was late at worst until that is done."""
    worst = 0.0
    while not during.done():
        before = time.perf_counter()
        await asyncio.sleep(0.001)
        worst = max(worst, time.perf_counter() - before - 0.001)
    return worst


async def test_a_week_of_five_batteries_and_a_cell() -> None:
    for batteries in (1, 5):
        for seed in range(3):
            problem = week(batteries, seed)
            began = time.perf_counter()
            program = written(problem).program
            built_s = time.perf_counter() - began
            began, busy = time.perf_counter(), time.process_time()
            _, why = planner._solve(planner.importlib.import_module("highspy"), program, 60.0)
            solve_s, solve_cpu_s = time.perf_counter() - began, time.process_time() - busy
            assert why == ""
            idle_s = await longest_pause(asyncio.ensure_future(asyncio.sleep(0.5)))
            began = time.process_time()
            task = asyncio.create_task(asyncio.to_thread(planner.plan, problem, time_limit_s=60))
            pause_s = await longest_pause(task)
            cpu_s = time.process_time() - began
            made = task.result()
            assert made.plan.source == planner.HIGHS
            plain = arithmetic(problem, source="arithmetic")
            assert made.plan.violation_wh <= plain.violation_wh + 1
            print(
                f"{batteries} batteries + 1 cell, {len(program.cost)} columns, "
                f"{len(program.row_lower)} rows: built {1000 * built_s:.0f} ms; "
                f"floor (HiGHS alone) {1000 * solve_s:.0f} ms, {1000 * solve_cpu_s:.0f} of CPU; "
                f"whole plan {1000 * made.solve_s:.0f} ms, {1000 * cpu_s:.0f} of CPU; "
                f"longest pause {1000 * pause_s:.1f} ms (idle {1000 * idle_s:.1f}); "
                f"broken {made.plan.violation_wh:.0f} Wh, by arithmetic {plain.violation_wh:.0f}"
            )
