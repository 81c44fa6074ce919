"""The same program as an OR-Tools CP-SAT model."""

from __future__ import annotations

import time
from typing import Any

from .program import Program, Solution

# CP-SAT needs finite domains; nothing that Wallplan counts reaches this.
_LARGEST_VALUE = 10**9


def model(program: Program) -> tuple[Any, list[Any]]:
    """A `CpModel` of the program and its variables, in the program's order. Loads become integers in their own unit."""
    from ortools.sat.python import cp_model

    m = cp_model.CpModel()
    x = [m.new_int_var(0, _LARGEST_VALUE if v.upper is None else v.upper, v.name) for v in program.variables]
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
