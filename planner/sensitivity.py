"""Wall 21 of the optimum: how far the best plan's objective moves when what it rests on moves, and which plan wins then.

Every figure is moved alone, to the ends of its `uncertain:` range or of a stated default, and the question is solved again:
a plan that stays best only bends, one that is beaten is replaced, and the picture says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import in_parallel
from .columns import Memory
from .marginal import solved
from .plan import Plan, Swing
from .prepare import Progress, in_objective_units, prepare
from .query import ServeQuery
from .uncertainty import at_other_rates, guarded_query

# Where a question says nothing of how uncertain a figure is: this share to either side of it, and said so.
DEFAULT = 0.2


def tornado(plan: Plan, query: ServeQuery, progress: Progress = lambda _: None) -> tuple[Swing, ...]:
    """The optimum at both ends of prices, demand, efficiency and carbon intensity, the widest swing first.

    `plan` is the optimum of `query`. Efficiency is the speed that chips reach: at 0.8 every time is 1 / 0.8 as long. A figure
    that the question does not count (intensity where neither objective nor limit does) swings nothing and is not solved.
    """
    memory = Memory()
    prepare(guarded_query(query), memory=memory)
    ranges = {
        name: (spread.low, spread.high, "query: uncertain") if spread is not None
        else (1 - DEFAULT, 1 + DEFAULT, f"default, ±{DEFAULT:.0%}")
        for name, spread in (
            ("prices", query.uncertain.prices), ("demand", query.uncertain.demand),
            ("efficiency", query.uncertain.efficiency), ("carbon intensity", query.uncertain.intensity),
        )
    }  # fmt: skip
    idle = set() if _counts_carbon(query) else {"carbon intensity"}
    asked = [(name, factor) for name, (low, high, _) in ranges.items() if name not in idle for factor in (low, high)]
    progress(f"{len(asked)} re-solves")
    ends: Mapping[tuple[str, float], tuple[float | None, str]] = dict(
        zip(asked, in_parallel.each(lambda end: _optimum(query, *end, memory), asked), strict=True)
    )
    today = (plan.objective, _rented((pool.chip, pool.offer) for pool in plan.fleet))
    rows = []
    for name, (low, high, source) in ranges.items():
        (cheap, first), (dear, second) = (ends.get((name, factor), today) for factor in (low, high))
        rows.append(
            Swing(
                what=name, low=low, high=high, source=source, objective=plan.objective, objective_low=cheap, objective_high=dear,
                unit=plan.objective_unit, plan=today[1], plan_low=first, plan_high=second, switches_low=first != today[1],
                switches_high=second != today[1],
            )
        )  # fmt: skip
    return tuple(sorted(rows, key=width, reverse=True))


def width(row: Swing) -> float:
    """How far the objective swings; an end without any plan swings it farthest."""
    if row.objective_low is None or row.objective_high is None:
        return float("inf")
    return abs(row.objective_high - row.objective_low)


def _counts_carbon(query: ServeQuery) -> bool:
    return "carbon" in query.minimize or query.limits.carbon is not None


def _optimum(query: ServeQuery, what: str, factor: float, memory: Memory) -> tuple[float | None, str]:
    """(best objective with one figure moved, None where there is no plan; what it rents)."""
    if what == "demand":
        prepared, certificate = solved(at_other_rates(query, factor), {}, memory, tie_break=True)
    elif what == "efficiency":
        prepared, certificate = solved(at_other_rates(query, 1 / factor, factor), {}, memory, tie_break=True)
    else:
        prepared, certificate = solved(query, {what: factor}, memory, tie_break=True)
    offers = [prepared.market.columns[purchase.column].offer for purchase in certificate.purchases]
    return in_objective_units(query, certificate.objective), _rented((offer.accelerator, offer.name) for offer in offers)


def _rented(machines: Iterable[tuple[str, str]]) -> str:
    """What a plan rents, however many: what makes it another plan. Empty: no plan."""
    return "; ".join(dict.fromkeys(f"{chip}: {offer}" for chip, offer in sorted(machines)))
