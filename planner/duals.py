"""Shadow prices of the linear relaxation: what the last program would save if whole machines did not matter.

They mean something for rows that are linear in what is bought: demand, limits and quotas. They are no marginal values of the
plan: machines are whole, and a moved limit changes which candidates exist (measured: up to five times too high). Reports put
them beside the re-solved values and say so.
"""

from __future__ import annotations

from dataclasses import replace

from .program import Program
from .pyomo_milp import model


def shadow_prices(program: Program) -> dict[str, float]:
    """By row: objective per unit of its bound in the program's integers, at the optimum of the program without integrality.

    Negative where a larger bound saves. Empty where the relaxation has no optimum. By HiGHS.
    """
    relaxed = replace(program, variables=tuple(replace(variable, integer=False) for variable in program.variables))
    m = model(relaxed)
    from pyomo.contrib.solver.common.results import TerminationCondition
    from pyomo.contrib.solver.solvers.highs import Highs

    result = Highs().solve(m, load_solutions=False, raise_exception_on_nonoptimal_result=False, threads=1)
    if result.termination_condition != TerminationCondition.convergenceCriteriaSatisfied:
        return {}
    return {row.index(): float(price) for row, price in result.solution_loader.get_duals().items()}
