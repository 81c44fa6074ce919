"""What to choose: the question, the program, the proof and the plan.

    from planner import load
    plan = load("query.yaml").set("sla.ttft.p99", "300 ms").solve()
    plan.fleet, plan.walls, plan.certificate      # records; plan.frame("fleet") is a DataFrame
    plan.evaluate().violations                    # the exact check again, without a solver

Records know nothing of solvers: this face of the package gives them their verbs, so that no file below imports a
file above it.
"""

from __future__ import annotations

from typing import Any

from .plan import Plan, PlanError
from .query import Query, QueryError, ServeQuery, load

__all__ = ["Plan", "PlanError", "Query", "QueryError", "ServeQuery", "load"]


def _solve(self: ServeQuery, progress: Any = lambda _: None) -> Plan:
    """The best plan with its proof; see `planner.solve.solve`."""
    from .solve import solve

    return solve(self, progress)


def _evaluate(self: Plan) -> Any:
    """The plan through the forward models alone: an `Evaluated`, whose `violations` is empty when every wall holds."""
    from .evaluate import evaluate
    from .solve import reload

    return evaluate(*reload(self))


ServeQuery.solve = _solve  # type: ignore[attr-defined]
Plan.evaluate = _evaluate  # type: ignore[attr-defined]
