"""The program as a Pyomo model, solved by HiGHS."""

from __future__ import annotations

import math
import sys
import time
from functools import cache
from typing import Any

from .program import Program, Solution

# The objective is an integer, so a bound less than one unit below the incumbent proves it. The margin is for
# the solver's own arithmetic.
_ABSOLUTE_GAP = 0.9


@cache
def _pyomo() -> Any:
    """`pyomo.core`, loaded with the first program: checking a plan does without. To be asked for before any other part of Pyomo.

    Pyomo imports all of scipy.stats (1 s of processor time) when it finds scipy loaded, and pint has loaded scipy's top by now.
    """
    scipy = sys.modules.pop("scipy", None)
    import pyomo.core

    if scipy is not None:
        sys.modules["scipy"] = scipy
    return pyomo.core


def model(program: Program) -> Any:
    """A `pyomo.ConcreteModel` of the program: variables `x[i]`, rows `row[name]`, minimise `objective`."""
    pyo = _pyomo()
    from pyomo.core.expr.numeric_expr import LinearExpression

    m = pyo.ConcreteModel(name="wallplan")
    m.x = pyo.Var(range(len(program.variables)))
    for index, variable in enumerate(program.variables):
        x = m.x[index]
        x.domain = pyo.NonNegativeIntegers if variable.integer else pyo.NonNegativeReals
        x.setub(variable.upper)
    m.row = pyo.Constraint(pyo.Any)
    for row in program.rows:
        expression = LinearExpression(
            constant=0, linear_coefs=[c for _, c in row.terms], linear_vars=[m.x[i] for i, _ in row.terms]
        )
        if not row.terms:  # nothing to decide: `solve` has looked at these
            continue
        if row.sense == "<=":
            m.row[row.name] = (None, expression, row.bound)
        elif row.sense == ">=":
            m.row[row.name] = (row.bound, expression, None)
        else:
            m.row[row.name] = (row.bound, expression, row.bound)
    m.objective = pyo.Objective(
        expr=LinearExpression(
            constant=0, linear_coefs=[c for _, c in program.objective], linear_vars=[m.x[i] for i, _ in program.objective]
        )
        if program.objective
        else 0.0
    )
    return m


def solve(program: Program, seconds: float, gap: float = 0.0) -> Solution:
    """Solve with HiGHS. `seconds` limits the time, `gap` is the relative gap at which it may stop (0: prove).

    The status is read before any value; a point is rounded to integers and checked against every row exactly,
    because HiGHS accepts integers within a tolerance. Raises ArithmeticError when the rounded point breaks a row.
    """
    _pyomo()
    from pyomo.contrib.solver.common.results import SolutionStatus, TerminationCondition
    from pyomo.contrib.solver.solvers.highs import Highs

    started = time.perf_counter()
    solver = Highs()
    name = f"HiGHS {'.'.join(map(str, solver.version()))} through Pyomo"
    if program.contradictions():
        return Solution("infeasible", None, None, None, name, time.perf_counter() - started)
    m = model(program)
    results = solver.solve(
        m,
        load_solutions=False,
        raise_exception_on_nonoptimal_result=False,
        time_limit=max(seconds, 0.01),
        rel_gap=gap,
        abs_gap=_ABSOLUTE_GAP if gap == 0 else 1e-6,
        threads=1,
        solver_options={"random_seed": 1, "mip_feasibility_tolerance": 1e-7},
    )
    elapsed = time.perf_counter() - started
    condition = results.termination_condition
    if condition in (TerminationCondition.provenInfeasible, TerminationCondition.infeasibleOrUnbounded):
        # No objective coefficient is negative, so a program is never unbounded.
        return Solution("infeasible", None, None, None, name, elapsed)
    if condition == TerminationCondition.error:
        raise ArithmeticError(f"{name} could not solve the program: {condition}")
    bound = _integer_bound(results.objective_bound)
    if results.solution_status not in (SolutionStatus.optimal, SolutionStatus.feasible):
        return Solution("stopped", None, None, bound, name, elapsed)
    values = results.solution_loader.get_vars()
    # A variable that stands in no row and not in the objective never reaches the solver: zero is optimal for it.
    point = tuple(round(values[x]) if x in values else 0 for x in m.x.values())
    broken = program.violated(point)
    if broken:
        raise ArithmeticError(f"{name} returned a point that breaks row {broken[0].name} once rounded to integers")
    objective = program.cost(point)
    proven = condition == TerminationCondition.convergenceCriteriaSatisfied
    return Solution(
        "optimal" if proven else "stopped", point, objective, objective if proven and gap == 0 else bound, name, elapsed
    )


def _integer_bound(bound: float | None) -> int | None:
    """A proven lower bound, rounded up to the next integer less the solver's own tolerance; None when there is none."""
    if bound is None or not math.isfinite(bound):
        return None
    return math.ceil(bound - 1e-6 * max(1.0, abs(bound)))
