"""Near-optimal plans that really differ: other chips, regions, options, number formats, layouts, and fleets less of one kind.

Each is a proven optimum of the question narrowed to it, so "the cheapest plan on h100-sxm" is exactly that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from zoo.units import Q

from . import columns, in_parallel
from .certify import Certificate
from .columns import Memory
from .lean import lean
from .marginal import finished
from .market import Column
from .plan import Alternative, Layout, Plan
from .prepare import UNITS, Prepared, Progress, in_objective_units, objective_units, prepare, prove, restricted
from .program import quantise
from .query import ServeQuery
from .solve import answer
from .space import Shape
from .whynot import forced

# The cheapest of so many chips and regions are listed however dear they are.
_ALWAYS = 10
_NAMED = ("chip", "region")


@dataclass(frozen=True, slots=True)
class _Narrowed:
    kind: str
    name: str
    prepared: Prepared


def alternatives(plan: Plan, prepared: Prepared, within: float, progress: Progress = lambda _: None) -> tuple[Alternative, ...]:
    """The cheapest plans wholly of each chip and region, and every other plan that differs and is within the tolerance.

    `within` is a fraction (0.05 is 5 %): plans of at most (1 + within) times the optimum are marked so. The ten best chips and
    regions are listed beyond it too; purchase options, number formats, degrees of parallelism, prefill together or apart, and
    the fleets with the least of one of today's chips, clouds or options only within it. Sorted by objective. The plan itself
    is left out; plans that rent the same machines for the same money are one among chips, among regions and among the rest,
    with where else they can be had. Raises ValueError for a negative tolerance, NotProven where
    `solver.time` ended before a proof.
    """
    if not within >= 0:
        raise ValueError(f"within={within}: expected a share of at least 0, such as 0.05")
    if plan.objective is None:
        return ()
    limit = plan.objective * (1 + within)
    proofs: list[tuple[_Narrowed, Certificate, list[str]]] = []
    whole = list(_wholes(prepared))
    for kind in dict.fromkeys(one.kind for one in whole):
        progress(f"the best plan of each {kind}")
        proofs += _best([one for one in whole if one.kind == kind], limit, _ALWAYS if kind in _NAMED else 0)
    layouts = _layouts(plan, prepared)
    progress(f"{len(layouts)} other ways to lay replicas out")
    near = in_parallel.each(lambda each: _is_within(prepared, limit, *each), layouts)
    for kind, name in (each for each, is_near in zip(layouts, near, strict=True) if is_near):
        narrowed = _Narrowed(kind, name, _laid_out(prepared, kind, name))
        proofs.append((narrowed, _proven(narrowed.prepared), []))
    if prepared.query.supply.mixed:
        progress("fleets with less of what the plan rents")
        parts = _parts(plan, prepared)
        for (part, _), least in zip(parts, in_parallel.each(lambda each: _least(prepared, limit, *each), parts), strict=True):
            if least is not None:
                fewest, certificate = least
                (name,) = part.values()
                said = f"{fewest} x {name}" if fewest else f"no {name}"
                proofs.append((_Narrowed("fewest", said, _capped(prepared, part, fewest)), certificate, []))
    progress(f"{len(proofs)} plans checked")
    plans = in_parallel.each(lambda each: answer(each[0].prepared, each[1]), proofs)
    return _differing(plan, limit, [(one, other, also) for (one, _, also), other in zip(proofs, plans, strict=True)])


def _differing(plan: Plan, limit: float, plans: Sequence[tuple[_Narrowed, Plan, list[str]]]) -> tuple[Alternative, ...]:
    """Of plans that rent the same for the same money the first, with where else they can be had; sorted by objective."""
    found: dict[tuple[object, ...], tuple[Alternative, list[str]]] = {}
    rented: set[tuple[object, ...]] = set()
    for one, other, also in plans:
        if _signature(other) == _signature(plan) or (one.kind == "fewest" and _machines(other) in rented):
            continue
        rented.add(_machines(other))
        # a chip and a region may be named of one plan; what else is best with it is not another plan
        keys = [(kind, *_signature(other)) for kind in ((one.kind,) if one.kind in _NAMED else ("", *_NAMED))]
        key = next((key for key in keys if key in found), keys[0])
        if key in found:
            found[key][1].extend([one.name, *also] if one.kind == found[key][0].kind else ())
            continue
        assert other.objective is not None and plan.objective is not None
        alternative = Alternative(
            kind=one.kind, name=one.name, objective=other.objective, unit=plan.objective_unit,
            dearer_by=other.objective - plan.objective, ratio=other.objective / plan.objective if plan.objective else None,
            fleet=other.fleet, totals=other.totals, within=other.objective <= limit * (1 + 1e-12),
        )  # fmt: skip
        found[key] = (alternative, list(also))
    listed = [alternative.model_copy(update={"same_in": tuple(same)}) for alternative, same in found.values()]
    return tuple(sorted(listed, key=lambda a: (a.objective, a.kind, a.name)))


def _signature(plan: Plan) -> tuple[object, ...]:
    """What makes a plan another one: its objective and its machines, not the name of the region that they stand in."""
    machines = sorted((p.chip, p.instances, p.accelerators, p.layout.precision, p.layout.in_full) for p in plan.fleet)
    return (plan.objective, *machines)


def _machines(plan: Plan) -> tuple[object, ...]:
    """The same without how replicas are laid out: of layouts that cost the same, which one a proof ends at is chance."""
    return (plan.objective, *sorted((p.chip, p.instances, p.accelerators) for p in plan.fleet))


def _best(asked: list[_Narrowed], limit: float, always: int) -> list[tuple[_Narrowed, Certificate, list[str]]]:
    """(question, its proof, the names of others that offer the same) of all within the limit and of the `always` best.

    Best first by lower bounds: a question is proven only while its bound is below the limit or what is listed already.
    """
    markets: dict[tuple[object, ...], tuple[_Narrowed, int, list[str]]] = {}
    for one in asked:
        bound = _bound(one.prepared)
        if bound is None:
            continue
        key = _market(one.prepared)
        if key in markets:
            markets[key][2].append(one.name)
        else:
            markets[key] = (one, bound, [])
    waiting = sorted(markets.values(), key=lambda each: each[1])
    proven: list[tuple[float, _Narrowed, Certificate, list[str]]] = []
    while waiting:
        least = in_objective_units(waiting[0][0].prepared.query, waiting[0][1]) or 0.0
        if least > limit and sum(objective <= least for objective, *_ in proven) >= always:
            break
        batch, waiting = waiting[: max(always, 1)], waiting[max(always, 1) :]
        proofs = in_parallel.each(lambda each: _proven(each[0].prepared), batch)
        for (one, _, also), certificate in zip(batch, proofs, strict=True):
            objective = in_objective_units(one.prepared.query, certificate.objective)
            if objective is not None:
                proven.append((objective, one, certificate, also))
    proven.sort(key=lambda each: each[0])
    return [rest for place, (objective, *rest) in enumerate(proven) if objective <= limit or place < always]  # type: ignore[misc]


def _proven(prepared: Prepared, tie_break: bool = True, most: int | None = None) -> Certificate:
    """The proof of a question. Raises NotProven where the time for it was over before."""
    return finished(prove(prepared, tie_break=tie_break, most=most), prepared.query)


def _market(prepared: Prepared) -> tuple[object, ...]:
    """All that a proof looks at, but the names of offers: narrowed questions that have it in common have one answer."""
    market = prepared.market
    counted = [limit.resource for limit in market.limits]
    rows = [
        (c.curve, c.populations, c.instances, c.machine, *(c.amounts.get(resource) for resource in counted), objective)
        for c, objective in zip(market.columns, market.objective, strict=True)
    ]
    limits = tuple((one.name, one.bound, one.columns) for one in market.limits)
    return (tuple(rows), limits)


def _wholes(prepared: Prepared) -> Iterator[_Narrowed]:
    """The question with the columns of one chip, region or purchase option alone, for all that it allows."""
    kinds: dict[str, Callable[[Column], str]] = {
        "chip": lambda column: column.offer.accelerator,
        "region": lambda column: column.offer.region,
        "offer": lambda column: column.offer.option,
    }
    for kind, of in kinds.items():
        for name in dict.fromkeys(of(column) for column in prepared.choices.columns):
            yield _Narrowed(kind, name, restricted(prepared, lambda column, of=of, name=name: of(column) == name))  # type: ignore[misc]


def _layouts(plan: Plan, prepared: Prepared) -> list[tuple[str, str]]:
    """(kind, name) of every number format, degree of parallelism and way of reading prompts that not all of the plan has."""
    shapes = [shape for curve in prepared.choices.curves for shape in curve.runs.shapes]
    kinds: dict[str, tuple[Callable[[Shape], object], Callable[[Layout], object]]] = {
        "precision": (lambda shape: shape.weights.name, lambda layout: layout.precision),
        "tp": (lambda shape: shape.tensor_parallel, lambda layout: layout.tensor_parallel),
        "pp": (lambda shape: shape.pipeline_parallel, lambda layout: layout.pipeline_parallel),
        "ep": (lambda shape: shape.expert_parallel, lambda layout: layout.expert_parallel),
    }
    found = []
    for kind, (possible, has) in kinds.items():
        names: set[object] = set(prepared.query.workload.precision if kind == "precision" else map(possible, shapes))
        today = {has(pool.layout) for pool in plan.fleet}
        found += [(kind, str(name)) for name in sorted(names, key=str) if {name} != today]
    ways = {"none" if pool.layout.prefill is None else "pools" for pool in plan.fleet}
    return found + [("disaggregation", way) for way in prepared.query.workload.disaggregation if {way} != ways]


def _is_within(prepared: Prepared, limit: float, kind: str, name: str) -> bool:
    """Whether some plan with one kind of layout alone is within the limit; only chips that may be in one are laid out."""
    most = _most(prepared.query, limit)
    query = forced(prepared.query, {kind: name}).set("supply.chips", _chips_within(prepared, most))
    assert isinstance(query, ServeQuery)
    narrowed = lean(query, _catalog_alone(prepared), cap=most)
    return _proven(narrowed, tie_break=False, most=most).objective is not None


def _chips_within(prepared: Prepared, most: int) -> list[str]:
    """The chips that a plan of at most this objective may rent.

    One unit of a column costs what it does, and the load that it does not carry costs at least the least of all per load.
    """
    market = prepared.market
    slopes = [prepared.choices.curves[column.curve].slope for column in market.columns]
    each = [objective / slope if slope else math.inf for objective, slope in zip(market.objective, slopes, strict=True)]
    rest = [max(sum(market.rates) - slope, 0) * min(each) for slope in slopes]
    return sorted({
        column.offer.accelerator
        for column, objective, more in zip(market.columns, market.objective, rest, strict=True)
        if objective + more <= most * (1 + 1e-9)
    })  # fmt: skip


def _laid_out(prepared: Prepared, kind: str, name: str) -> Prepared:
    """The question with one kind of layout alone, laid out anew: what another layout beats is not kept with the question."""
    return prepare(forced(prepared.query, {kind: name}), memory=_catalog_alone(prepared))


def _catalog_alone(prepared: Prepared) -> Memory:
    query = prepared.query
    return Memory(catalogs={(query.folder, query.zoo, query.prices): prepared.catalog})


def _most(query: ServeQuery, limit: float) -> int:
    """The largest objective within a limit, in the program's integers."""
    resource, _ = objective_units(query)
    return int(quantise(Q(limit, UNITS[resource]), resource, "down"))


def _parts(plan: Plan, prepared: Prepared) -> list[tuple[dict[str, str], int]]:
    """(what of today's fleet a quota can count, how many instances of it are rented), where there is something else to rent."""
    offers = {column.offer.name: column.offer for column in prepared.choices.columns}
    parts: dict[tuple[str, str], int] = {}
    for key, of in (("chip", "accelerator"), ("cloud", "cloud"), ("offer", "option")):
        if len({getattr(offer, of) for offer in offers.values()}) > 1:
            for pool in plan.fleet:
                part = (key, str(getattr(offers[pool.offer], of)))
                parts[part] = parts.get(part, 0) + pool.instances
    return [({key: name}, count) for (key, name), count in parts.items()]


def _least(prepared: Prepared, limit: float, part: dict[str, str], count: int) -> tuple[int, Certificate] | None:
    """(fewest instances of a part of today's fleet that are within the limit, proof of the best plan with no more of them).

    Fewer are never cheaper, so the fewest are found by bisection; they may be none. None: even one fewer is too dear.
    """
    low, high, best = -1, count, None  # `low` is beyond the limit, `high` is within
    while high - low > 1:
        middle = (low + high) // 2
        certificate = _proven(_capped(prepared, part, middle), tie_break=False, most=_most(prepared.query, limit))
        if certificate.objective is not None:
            high, best = middle, certificate
        else:
            low = middle
    return None if best is None else (high, best)


def _capped(prepared: Prepared, part: dict[str, str], instances: int) -> Prepared:
    """The question with one quota more."""
    quota = [*prepared.query.to_dict().get("supply", {}).get("quota", ()), {**part, "instances": instances}]
    query = prepared.query.set("supply.quota", quota)
    assert isinstance(query, ServeQuery)
    return replace(prepared, query=query, market=columns.market_of(query, prepared.catalog, prepared.choices))


def _bound(prepared: Prepared) -> int | None:
    """A lower bound on a question's objective without a solver: every request at the least cost per load of any column.

    None when some population has no column at all.
    """
    market = prepared.market
    total = 0.0
    for k, rate in enumerate(market.rates):
        prices = [
            market.objective[j] / slope
            for j, column in enumerate(market.columns)
            if k in column.populations and (slope := prepared.choices.curves[column.curve].slope)
        ]
        if not prices:
            return None
        total += rate * min(prices)
    return int(total)
