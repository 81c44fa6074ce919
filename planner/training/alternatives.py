"""Near-optimal jobs that really differ: the best on each chip, in each region, by each purchase option, in each split.

Each is a proven optimum of the question narrowed to it, so "the cheapest job on h100-sxm" is exactly that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from zoo.specs import Offer

from ..query import TrainQuery
from .asking import Asker
from .check import job_of
from .job import accelerator_of, bounds_of, service_of
from .market import Column, column_totals
from .plan import Job, TrainAlternative, TrainPlan
from .question import Question
from .report_units import in_units, unit_of
from .search import search

# Layouts within the tolerance that are looked at for other ways of splitting the model.
_LAYOUTS = 2000


def alternatives(plan: TrainPlan, query: TrainQuery, within: float, asker: Asker) -> tuple[TrainAlternative, ...]:
    """The best job of every chip, region and purchase option that the question allows, and of every other split of the model.

    `within` is a fraction: records whose objective is at most (1 + within) times the optimum are marked so; splits beyond it
    are left out. Sorted by objective. Regions where the same machines cost the same are listed once.
    """
    if plan.job is None or plan.objective is None:
        return ()
    asker.counts = asker.counts | {plan.job.accelerators}
    question = asker.question(query)
    own = asker.market(question).best
    if own is None:
        return ()
    seen: dict[tuple[object, ...], TrainAlternative] = {}
    for kind, name, offers in _narrowings(question):
        asker.progress(f"the best job on {kind} {name}")
        narrowed = replace(question, offers=offers)
        best = asker.market(narrowed).best
        if best is None or (best.offer == own.offer and best.accelerators == own.accelerators):
            continue
        key = (kind, best.objective, best.offer.accelerator, best.accelerators, best.offer.option)
        if key in seen:
            seen[key] = seen[key].model_copy(update={"same_in": (*seen[key].same_in, name)})
        else:
            seen[key] = _alternative(query, plan.objective, within, kind, name, best.objective, job_of(narrowed, best))
    found = [*seen.values(), *_splits(question, own, within)]
    return tuple(sorted(found, key=lambda a: (a.objective, a.kind, a.name)))


def _alternative(
    query: TrainQuery, best: float, within: float, kind: str, name: str, objective: int, job: Job
) -> TrainAlternative:  # fmt: skip
    value = in_units(query, objective) or 0.0
    return TrainAlternative(
        kind=kind, name=name, objective=value, unit=unit_of(query), dearer_by=value - best, ratio=value / best if best else None,
        totals={"days": job.days, "cost_usd": job.cost_usd, "carbon_tco2e": job.carbon_tco2e, "power_kw": job.power_kw}, job=job,
        within=value <= best * (1 + within) * (1 + 1e-12),
    )  # fmt: skip


def _narrowings(question: Question) -> Iterator[tuple[str, str, tuple[Offer, ...]]]:
    """(kind, name, the offers of it) for every chip, purchase option and region that the question allows."""
    for kind, field in (("chip", "accelerator"), ("offer", "option"), ("region", "region")):
        names = dict.fromkeys(getattr(offer, field) for offer in question.offers)
        if len(names) > 1:
            for name in names:
                yield kind, name, tuple(offer for offer in question.offers if getattr(offer, field) == name)


def _splits(question: Question, own: Column, within: float) -> list[TrainAlternative]:
    """The best layout of every other split (tensor, pipeline, context, expert, data) on the plan's own machines."""
    assert own.found is not None
    query = question.query
    same = replace(question, offers=tuple(o for o in question.offers if _machine(o) == _machine(own.offer)))
    family = Asker(question.start).market(same, counts=(own.accelerators,), first=True).families[0]
    accelerator = accelerator_of(question, family.machine, own.accelerators)
    cutoff = own.found.ranked * (1 + within) * (1 + 1e-12)
    result = search(family.task, accelerator, own.accelerators, family.host, _LAYOUTS, cutoff)
    j = next(i for i, offer in enumerate(family.rates.offers) if offer.name == own.offer.name)
    service = service_of(question, family.machine, np.array([float(own.accelerators)]), family.spot, family.vcpus)
    best, found, splits = in_units(query, own.objective) or 0.0, [], {_split(own)}
    for each in result.found:
        totals, objective = column_totals(
            question, family, service, np.asarray(service.goodput.fraction), own.accelerators, each.ranked
        )
        mine = {name: values[j] for name, values in totals.items()}
        column = replace(own, found=each, objective=objective[j], totals=mine)
        if _split(column) in splits or any(mine[name] > bound for name, bound in bounds_of(question).items()):
            continue
        splits.add(_split(column))
        job = job_of(same, column)
        name = " ".join(f"{n}{d}" for n, d in zip(("TP", "PP", "CP", "EP", "DP"), _split(column), strict=True))
        found.append(_alternative(query, best, within, "split", name, column.objective, job))
    return [one for one in found if one.within]


def _machine(offer: Offer) -> tuple[object, ...]:
    band = offer.interruption_band if offer.option == "spot" else None
    return offer.accelerator, offer.accelerators, offer.domain, band


def _split(column: Column) -> tuple[int, ...]:
    assert column.found is not None
    layout = column.found.layout
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel", "data_parallel")
    return tuple(int(np.ravel(getattr(layout, name))[0]) for name in names)
