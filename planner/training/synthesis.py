"""Wall 22 as a query about a training job: the least of each of a chip's figures with which it would be the job's chip.

One figure is moved at a time, then all of them together, in steps of 1 % of today's, as for fleets that serve
(`planner.synthesis`). Every answer is verified by a proven optimum on both sides.
"""

from __future__ import annotations

from .. import in_parallel
from ..plan import Need
from ..query import TrainQuery
from ..synthesis import Wanted, budget_of, each_wanted, least_need, offered, with_what_is_allowed
from .asking import Asker
from .plan import TrainPlan
from .report_units import in_units, unit_of

_FIGURES = ("memory bandwidth", "memory capacity", "peak FLOP/s", "link bandwidth", "network bandwidth")


def synthesis(plan: TrainPlan, query: TrainQuery, asker: Asker, chip: str, budget: str | None = None) -> tuple[Need, ...]:
    """What `chip` would have to be, figure by figure: bandwidth, capacity, peak, links, network, all at once, or its price.

    Three questions, by what is given. A plan: the least with which the best job runs on the chip (empty where it does so
    already); a list of chips that leaves this one out is widened by it. `budget` ("30e6 USD", of the whole job): the least with
    which the chip meets the deadline and every limit at that cost. An infeasible question: the least with which there is any
    job; as all other chips stay what they are, only this one is asked. Raises QueryError for a chip that does not exist, that
    nobody offers, or a budget that is none.
    """
    today = asker.question(query)
    name = offered(today.catalog, chip)
    alone = budget is not None or plan.job is None
    if not alone and plan.job is not None and plan.job.chip == name:
        return ()
    question = query
    if alone:
        changes: dict[str, object] = {"supply.chips": [name]}
        changed = query.override(
            changes | ({} if budget is None else {"limits.cost": budget_of(budget, "money", "USD", "30e6 USD")})
        )
        assert isinstance(changed, TrainQuery)
        question = changed
    elif query.supply.chips != "all" and name not in {today.catalog.find("chips", one).name for one in query.supply.chips}:
        widened = query.override({"supply.chips": [*query.supply.chips, name]})
        assert isinstance(widened, TrainQuery)
        question = widened
    # figures of this chip alone are moved, so that what is known of the others holds in every world
    asker = Asker(asker.today, asker.progress, chip=name)
    if not alone and plan.job is not None:
        asker.counts, asker.lead = frozenset({plan.job.accelerators}), (plan.job.offer, plan.job.accelerators)
    asker.best(question)  # what is known then is shared with the workers

    def need(wanted: Wanted) -> Need:
        asker.progress(f"{name}: {wanted.text}")

        def best(steps: int) -> tuple[bool, float | None]:
            found = asker.best(question, tuple(wanted.scales(steps).items()))
            inside = found is not None and (alone or found.offer.accelerator == name)
            return inside, None if found is None else in_units(query, found.objective)

        def in_the_way(steps: int, _: float | None) -> str:
            return _in_the_way(question, wanted, steps, asker)

        return least_need(wanted, with_what_is_allowed(question, today.catalog), best, in_the_way, unit_of(query))

    prices = budget is not None or query.limits.cost is not None or (plan.job is not None and "cost" in query.minimize)
    return tuple(in_parallel.each(need, each_wanted(name, _FIGURES, prices)))


def _in_the_way(question: TrainQuery, wanted: Wanted, steps: int, asker: Asker) -> str:
    """What keeps a chip out with its figures moved that far: walls that leave no job on it, or that others do it for less."""
    alone = question.override({"supply.chips": [wanted.chip]})
    assert isinstance(alone, TrainQuery)
    scales = tuple(wanted.scales(steps).items())
    market = asker.market(asker.question(alone, scales), scales)
    if market.best is not None:
        return "others do it for less" if question.minimize == "cost" else "others do better"
    walls = dict.fromkeys(f"{gone.name}: {gone.reason}" for gone in market.dropped if gone.wall is not None)
    return "; ".join(walls) or "no layout of it can be rented"
