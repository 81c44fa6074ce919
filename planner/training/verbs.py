"""The verbs of training records: `query.solve()`, `plan.evaluate()`, `plan.why_not(chip="h100-sxm")`, `plan.marginal`,
`plan.switches()`, `plan.alternatives(within=0.05)`, `plan.tornado()`, `plan.synthesis("h100-sxm")`.

Records know nothing of solvers; `bind` gives them their verbs, so that no file below imports a file above it. What a verb needs
is imported when it is used.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

from ..plan import needs_objective
from ..query import TrainQuery
from .plan import TrainPlan

if TYPE_CHECKING:
    from .asking import Asker


def bind() -> None:
    """Give `TrainQuery` and `TrainPlan` their verbs."""
    TrainQuery.solve = _solve  # type: ignore[attr-defined]
    for name, verb in (
        ("evaluate", _evaluate), ("why_not", _why_not), ("marginal", property(_marginal)), ("switches", _switches),
        ("alternatives", _alternatives),
        ("tornado", _tornado), ("synthesis", _synthesis),
    ):  # fmt: skip
        setattr(TrainPlan, name, verb)


def _solve(self: TrainQuery, progress: Any = lambda _: None) -> TrainPlan:
    """The best job with its proof; see `planner.training.solve.solve`."""
    from .solve import solve

    return solve(self, progress)


def _evaluate(self: TrainPlan, changes: Any = ()) -> Any:
    """The job through the forward models alone: an `Evaluated`, whose `violations` is empty when every wall holds.

    `changes` moves the question under the job: `plan.evaluate({"prices.scale": 1.1})`.
    """
    from .check import evaluate
    from .solve import reload

    return evaluate(*reload(self, dict(changes)))


def _asked(self: TrainPlan) -> tuple[TrainQuery, Asker]:
    from .asking import Asker

    query = TrainQuery.of_plan(self)
    return query, Asker(date.fromisoformat(query.start) if query.start else date.today())


def _why_not(self: TrainPlan, **forces: Any) -> Any:
    """`plan.why_not(chip="h100-sxm", tp=8)`: see `planner.training.whynot.why_not`."""
    from .whynot import why_not

    query, asker = _asked(self)
    return why_not(self, query, {key: str(value) for key, value in forces.items()}, asker)


def _marginal(self: TrainPlan) -> Any:
    """What one more of each wall is worth, solved for when it is read: see `planner.training.marginal.marginals`."""
    return _moved(self, False)


def _switches(self: TrainPlan) -> Any:
    """`marginal` with how far each limit must move before the plan switches, which takes tens of re-solves more."""
    return _moved(self, True)


def _moved(self: TrainPlan, switches: bool) -> Any:
    from .marginal import marginals

    needs_objective(self, "whose walls could be moved")
    return marginals(self, *_asked(self), switches)


def _alternatives(self: TrainPlan, within: float = 0.05) -> Any:
    """Near-optimal jobs that differ, and the best on each chip and in each region: see `planner.training.alternatives`."""
    from .alternatives import alternatives

    needs_objective(self, "to vary")
    query, asker = _asked(self)
    return alternatives(self, query, within, asker)


def _tornado(self: TrainPlan) -> Any:
    """The optimum at both ends of what is uncertain: see `planner.training.sensitivity.tornado`."""
    from .sensitivity import tornado

    needs_objective(self, "whose objective could swing")
    return tornado(self, *_asked(self))


def _synthesis(self: TrainPlan, chip: str, budget: str | None = None) -> Any:
    """What a chip would have to be to enter the plan: see `planner.training.synthesis.synthesis`."""
    from .synthesis import synthesis

    return synthesis(self, *_asked(self), chip, budget)
