"""Plans by HiGHS where it is installed (`pip install 'fpd[plan]'`), by arithmetic where it is not.

The only place that knows the solver. It is called in a thread: it lets others run meanwhile.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from fpd.domain.control.plan import Plan, Problem
from fpd.domain.control.plan_merit import arithmetic
from fpd.domain.control.plan_program import Program, written

log = structlog.get_logger()

HIGHS: Final = "highs"
ARITHMETIC: Final = "arithmetic"
_BETTER_WH: Final = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """A plan and how long it took (s)."""

    plan: Plan
    solve_s: float


def plan(problem: Problem, *, time_limit_s: float) -> Made:
    """Return the best plan that is found in time; there is always one. Blocking: a thread's work.

    Interpretation: where rounding or cutting a solution to what batteries hold leaves more of the
    limits broken than arithmetic would, arithmetic is taken.
    """
    began = time.perf_counter()
    plain = arithmetic(problem, source=f"{ARITHMETIC}: there is nothing to choose")
    best = plain
    if problem.stores or any(cell.least_w != cell.most_w for cell in problem.generators):
        best = _solved(problem, plain, time_limit_s)
    return Made(best, time.perf_counter() - began)


def _solved(problem: Problem, plain: Plan, time_limit_s: float) -> Plan:
    try:
        highspy = importlib.import_module("highspy")
    except ImportError:
        return _because(plain, "highspy is not installed")
    put = written(problem)
    solution, why = _solve(highspy, put.program, time_limit_s)
    if solution is None:
        log.warning("plan.not_solved", reason=why)
        return _because(plain, why)
    found = put.read(solution, source=HIGHS)
    if found.violation_wh > plain.violation_wh + _BETTER_WH:
        return _because(plain, "it breaks less")
    return found


def _because(plain: Plan, why: str) -> Plan:
    return replace(plain, source=f"{ARITHMETIC}: {why}")


def _solve(highspy: Any, program: Program, time_limit_s: float) -> tuple[list[float] | None, str]:
    """Return the solution, or None and why there is none."""
    numpy = importlib.import_module("numpy")
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(program.cost), len(program.row_lower)
    model.col_cost_ = numpy.array(program.cost)
    model.col_lower_, model.col_upper_ = numpy.array(program.lower), numpy.array(program.upper)
    model.row_lower_ = numpy.array(program.row_lower)
    model.row_upper_ = numpy.array(program.row_upper)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = numpy.array(program.starts, dtype=numpy.int32)
    model.a_matrix_.index_ = numpy.array(program.index, dtype=numpy.int32)
    model.a_matrix_.value_ = numpy.array(program.value)
    solver = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("time_limit", time_limit_s)):
        solver.setOptionValue(option, value)
    if solver.passModel(model) == highspy.HighsStatus.kError:
        return None, "the solver refuses the program"
    solver.run()
    status = solver.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        return None, f"the solver says {solver.modelStatusToString(status).lower()}"
    return list(solver.getSolution().col_value), ""
