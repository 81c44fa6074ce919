"""What to choose: the question, the program, the proof and the plan.

    from planner import load
    plan = load("query.yaml").set("sla.ttft.p99", "300 ms").solve()
    plan.fleet, plan.walls, plan.certificate      # records; plan.frame("fleet") is a DataFrame
    plan.evaluate().violations                    # the exact check again, without a solver
    plan.why_not(chip="l40s"), plan.marginal, plan.alternatives(within=0.05), plan.tornado(), plan.synthesis("l40s")

Records know nothing of solvers: this face of the package gives them their verbs, so that no file below imports a
file above it. Names are imported when they are first asked for, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan, PlanError
    from .query import Query, ServeQuery, load
    from .records import QueryError

__all__ = ["Plan", "PlanError", "Query", "QueryError", "ServeQuery", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    from . import plan, query
    from .training import verbs

    # methods of the records, bound here once; see the docstring of each function below
    query.ServeQuery.solve = _solve  # type: ignore[attr-defined]
    plan.Plan.evaluate = _evaluate  # type: ignore[attr-defined]
    plan.Plan.why_not = _why_not  # type: ignore[attr-defined]
    plan.Plan.marginal = property(_marginal)  # type: ignore[attr-defined]
    plan.Plan.switches = _switches  # type: ignore[attr-defined]
    plan.Plan.alternatives = _alternatives  # type: ignore[attr-defined]
    plan.Plan.tornado = _tornado  # type: ignore[attr-defined]
    plan.Plan.synthesis = _synthesis  # type: ignore[attr-defined]
    verbs.bind()
    for module in (plan, query):
        globals().update({public: getattr(module, public) for public in __all__ if hasattr(module, public)})
    return globals()[name]


def _solve(self: ServeQuery, progress: Any = lambda _: None) -> Plan:
    """The best plan with its proof; see `planner.solve.solve`."""
    from .solve import solve

    return solve(self, progress)


def _evaluate(self: Plan, changes: Any = ()) -> Any:
    """The plan through the forward models alone: an `Evaluated`, whose `violations` is empty when every wall holds.

    `changes` moves the question under the plan: `plan.evaluate({"prices.scale": 1.1})`.
    """
    from .evaluate import evaluate
    from .solve import reload

    return evaluate(*reload(self, dict(changes)))


def _question(self: Plan) -> ServeQuery:
    from .query import ServeQuery

    return ServeQuery.of_plan(self)


def _why_not(self: Plan, **forces: Any) -> Any:
    """`plan.why_not(chip="l40s")`: see `planner.whynot.why_not`."""
    from .whynot import why_not

    return why_not(self, _question(self), {key: str(value) for key, value in forces.items()})


def _marginal(self: Plan) -> Any:
    """What one more of each wall is worth, solved for when it is read: see `planner.marginal.marginals`."""
    return _moved(self, False)


def _switches(self: Plan) -> Any:
    """`marginal` with how far each limit must move before the plan switches, which takes tens of re-solves more."""
    return _moved(self, True)


def _moved(self: Plan, switches: bool) -> Any:
    from .marginal import marginals
    from .plan import needs_objective

    needs_objective(self, "whose walls could be moved")
    return marginals(self, _question(self), switches)


def _alternatives(self: Plan, within: float = 0.05) -> Any:
    """Near-optimal plans that differ: see `planner.alternatives.alternatives`."""
    from .alternatives import alternatives
    from .plan import needs_objective
    from .prepare import prepare
    from .uncertainty import guarded_query

    needs_objective(self, "to vary")
    return alternatives(self, prepare(guarded_query(_question(self))), within)


def _tornado(self: Plan) -> Any:
    """The optimum at both ends of what is uncertain: see `planner.sensitivity.tornado`."""
    from .plan import needs_objective
    from .sensitivity import tornado

    needs_objective(self, "whose objective could swing")
    return tornado(self, _question(self))


def _synthesis(self: Plan, chip: str, budget: str | None = None) -> Any:
    """What a chip would have to be to enter the plan: see `planner.synthesis.synthesis`."""
    from .synthesis import synthesis

    return synthesis(self, _question(self), chip, budget)
