"""Near-optimal plans that really differ: the cheapest plan of each chip, region, purchase option and precision.

Each is a proven optimum of the question narrowed to it, so "the cheapest plan on h100-sxm" is exactly that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .columns import Memory
from .market import Column
from .plan import Alternative, Plan
from .prepare import Prepared, Progress, in_objective_units, prepare, prove, restricted
from .query import ServeQuery
from .solve import answer


def alternatives(plan: Plan, prepared: Prepared, within: float, progress: Progress = lambda _: None) -> tuple[Alternative, ...]:
    """Plans whose objective is at most (1 + within) times the optimum and whose chips, regions or options differ.

    `within` is a fraction (0.05 is 5 %). A narrowed question whose bound is already above that is not solved. Sorted by
    objective; plans that rent the same machines for the same money are listed once, with the regions where they can be had.
    """
    if plan.objective is None:
        return ()
    limit = plan.objective * (1 + within)
    seen: dict[tuple[object, ...], list[str]] = {_signature(plan): []}
    found: list[tuple[Alternative, list[str]]] = []
    for kind, name, narrowed in (*_narrowings(prepared), *_precisions(prepared)):
        bound = _bound(narrowed)
        if bound is None or (in_objective_units(prepared.query, bound) or 0.0) > limit:
            continue
        progress(f"the best plan on {kind} {name}")
        certificate = prove(narrowed)
        objective = in_objective_units(prepared.query, certificate.objective)
        if objective is None or objective > limit:
            continue
        other = answer(narrowed, certificate)
        if _signature(other) in seen:
            seen[_signature(other)].append(name)
            continue
        same = seen[_signature(other)] = []
        dearer = objective - plan.objective
        alternative = Alternative(
            kind=kind, name=name, objective=objective, unit=plan.objective_unit, dearer_by=dearer,
            ratio=objective / plan.objective if plan.objective else None, fleet=other.fleet, totals=other.totals,
        )  # fmt: skip
        found.append((alternative, same))
    listed = [alternative.model_copy(update={"same_in": tuple(same)}) for alternative, same in found]
    return tuple(sorted(listed, key=lambda a: (a.objective, a.kind, a.name)))


def _signature(plan: Plan) -> tuple[object, ...]:
    """What makes a plan another one: its objective and its machines, not the name of the region that they stand in."""
    machines = sorted((p.chip, p.instances, p.accelerators, p.layout.precision, p.layout.in_full) for p in plan.fleet)
    return (plan.objective, *machines)


def _narrowings(prepared: Prepared) -> Iterator[tuple[str, str, Prepared]]:
    """(kind, name, the question with its columns alone) for every chip, purchase option and region that the question allows."""
    kinds: dict[str, Callable[[Column], str]] = {
        "chip": lambda column: column.offer.accelerator,
        "offer": lambda column: column.offer.option,
        "region": lambda column: column.offer.region,
    }
    for kind, of in kinds.items():
        for name in dict.fromkeys(of(column) for column in prepared.choices.columns):
            yield kind, name, restricted(prepared, lambda column, of=of, name=name: of(column) == name)  # type: ignore[misc]


def _precisions(prepared: Prepared) -> Iterator[tuple[str, str, Prepared]]:
    """The same for every number format of the weights, which is a matter of layouts: they are laid out anew."""
    query = prepared.query
    if len(query.workload.precision) < 2:
        return
    memory = Memory(catalogs={(query.folder, query.zoo, query.prices): prepared.catalog})
    for name in query.workload.precision:
        narrowed = query.set("workload.precision", [name])
        assert isinstance(narrowed, ServeQuery)
        yield "precision", name, prepare(narrowed, memory=memory)


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
