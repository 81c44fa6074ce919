"""Wall 21 of a training job: how far the best objective moves when prices, intensity, efficiency or failures do, and which
job wins then.

Every figure is moved alone, to the ends of its `uncertain:` range or of a stated default, and the question is solved again.
"""

from __future__ import annotations

from .. import in_parallel
from ..plan import Swing
from ..query import TrainQuery
from ..sensitivity import DEFAULT, width
from .asking import Asker
from .plan import TrainPlan
from .report_units import in_units, unit_of

# Figure of the world -> key of `uncertain:`.
_KEYS = {"prices": "prices", "efficiency": "efficiency", "carbon intensity": "intensity", "failure rate": "failures"}


def tornado(plan: TrainPlan, query: TrainQuery, asker: Asker) -> tuple[Swing, ...]:
    """The optimum at both ends of prices, efficiency, carbon intensity and failure rate, the widest swing first.

    Efficiency is the speed of every step: at 0.8 each is 1 / 0.8 as long. A figure that the question does not count swings
    nothing. Empty for a plan without a job.
    """
    if plan.job is None:
        return ()
    asker.counts = asker.counts | {plan.job.accelerators}
    asker.progress("the optimum")
    objective, today = _optimum(asker, query)
    ranges = {}
    for figure, key in _KEYS.items():
        spread = getattr(query.uncertain, key)
        given = (spread.low, spread.high, "query: uncertain") if spread is not None else None
        ranges[figure] = given or (1 - DEFAULT, 1 + DEFAULT, f"default, ±{DEFAULT:.0%}")
    asked = [(figure, factor) for figure, (low, high, _) in ranges.items() for factor in (low, high)]
    asker.progress(f"{len(asked)} re-solves")
    ends = dict(zip(asked, in_parallel.each(lambda end: _optimum(asker, query, end), asked), strict=True))
    rows = []
    for figure, (low, high, source) in ranges.items():
        (first, cheap), (second, dear) = ends[figure, low], ends[figure, high]
        rows.append(
            Swing(
                what=figure, low=low, high=high, source=source, objective=objective, objective_low=first, objective_high=second,
                unit=unit_of(query), plan=today, plan_low=cheap, plan_high=dear, switches_low=cheap != today,
                switches_high=dear != today,
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=width, reverse=True))


def _optimum(asker: Asker, query: TrainQuery, moved: tuple[str, float] | None = None) -> tuple[float | None, str]:
    """(best objective with one figure scaled, None where there is no job; what it rents, empty where there is none)."""
    best = asker.best(query, () if moved is None else (moved,))
    if best is None:
        return None, ""
    return in_units(query, best.objective), f"{best.accelerators} x {best.offer.accelerator}: {best.offer.name}"
