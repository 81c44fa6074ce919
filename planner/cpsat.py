"""The same program as an OR-Tools CP-SAT model."""

from __future__ import annotations

import time
from typing import Any

from .program import Program, Solution

# CP-SAT needs finite domains, and sums that stay within 64-bit integers at the end of every domain. What has no bound of
# its own ends at the first of these, or where a sum would leave the integers; fewer than the second would cut off plans.
_LARGEST_VALUE = 10**9
_SMALLEST_LARGEST = 10**6
_LARGEST_SUM = 2**61


def model(program: Program) -> tuple[Any, list[Any]]:
    """A `CpModel` of the program and its variables, in the program's order. Loads become integers in their own unit."""
    from ortools.sat.python import cp_model

    m = cp_model.CpModel()
    largest = _largest_value(program)
    x = [m.new_int_var(0, largest if v.upper is None else v.upper, v.name) for v in program.variables]
    for row in program.rows:
        expression = cp_model.LinearExpr.weighted_sum([x[i] for i, _ in row.terms], [c for _, c in row.terms])
        if row.sense == "<=":
            m.add(expression <= row.bound).with_name(row.name)
        elif row.sense == ">=":
            m.add(expression >= row.bound).with_name(row.name)
        else:
            m.add(expression == row.bound).with_name(row.name)
    m.minimize(cp_model.LinearExpr.weighted_sum([x[i] for i, _ in program.objective], [c for _, c in program.objective]))
    return m, x


def _largest_value(program: Program) -> int:
    """The end of the domain of variables without a bound. Raises ArithmeticError when no end suits CP-SAT's integers."""
    largest = _LARGEST_VALUE
    for terms in (program.objective, *(row.terms for row in program.rows)):
        bounded = sum(abs(c) * (program.variables[i].upper or 0) for i, c in terms)
        free = sum(abs(c) for i, c in terms if program.variables[i].upper is None)
        largest = min(largest, (_LARGEST_SUM - bounded) // free if free else largest)
    if largest < _SMALLEST_LARGEST:
        raise ArithmeticError("the program's coefficients are too large for CP-SAT: use solver.engine: highs")
    return largest


def solve(program: Program, seconds: float, gap: float = 0.0) -> Solution:
    """Solve with CP-SAT. `seconds` limits the time, `gap` is the relative gap at which it may stop (0: prove)."""
    from importlib.metadata import version

    from ortools.sat.python import cp_model

    started = time.perf_counter()
    m, x = model(program)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds, 0.01)
    solver.parameters.relative_gap_limit = gap
    solver.parameters.random_seed = 1
    solver.parameters.num_workers = 2
    solver.parameters.linearization_level = 2
    status = solver.solve(m)
    elapsed = time.perf_counter() - started
    name = f"OR-Tools CP-SAT {version('ortools')}"
    if status == cp_model.INFEASIBLE:
        return Solution("infeasible", None, None, None, name, elapsed)
    if status == cp_model.MODEL_INVALID:
        raise ArithmeticError(f"{name} rejected the program: {m.validate()}")
    bound = round(solver.best_objective_bound) if status != cp_model.UNKNOWN else None
    if status == cp_model.UNKNOWN:
        return Solution("stopped", None, None, bound, name, elapsed)
    point = tuple(solver.value(v) for v in x)
    broken = program.violated(point)
    if broken:
        raise ArithmeticError(f"{name} returned a point that breaks row {broken[0].name}")
    objective = program.cost(point)
    proven = status == cp_model.OPTIMAL
    return Solution(
        "optimal" if proven else "stopped", point, objective, objective if proven and gap == 0 else bound, name, elapsed
    )
