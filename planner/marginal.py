"""What one more of each wall is worth: every limit and every physical ceiling, loosened, and the question solved again.

Integer programs have no duals, and moving a wall changes which candidates exist, so every value here is the difference of
two proven optima, enumeration included. Nothing is extrapolated from linear programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from zoo.catalog import Catalog
from zoo.units import Q

from .columns import Memory
from .plan import Marginal, Plan
from .prepare import Progress, in_objective_units, open_catalog, prepare, prove
from .query import ServeQuery, text_of

# A plan switches when what it rents or how it lays it out changes; found within this relative width of the knob.
_SWITCH_WIDTH = 0.01
# Knobs are loosened at most by this factor when looking for a switch.
_FARTHEST = 2.0


@dataclass(frozen=True, slots=True)
class Knob:
    """Something that can be loosened by a factor. `moved(factor)` gives the question and the scales of the catalogue's records.

    `looser` is the factor of a loosening by 1 % (1.01, or 0.99 for prices and demand). `unit_factor` loosens by one `unit_step`.
    """

    number: int
    wall: str
    name: str
    origin: Literal["physics", "query", "market"]
    value: str
    looser: float
    unit_step: str
    unit_factor: float | None
    path: str | None  # of the query, or None
    scale: str | None  # of the catalogue, or None


# Physical and market knobs: (wall, its name, what is scaled, factor of 1 % more of it)
_SCALES = (
    (1, "compute", "peak FLOP/s", "physics", 1.01),
    (2, "memory", "memory bandwidth", "physics", 1.01),
    (2, "memory", "memory capacity", "physics", 1.01),
    (14, "communication", "link bandwidth", "physics", 1.01),
    (17, "capital", "prices", "market", 0.99),
    (18, "sustainability", "carbon intensity", "market", 0.99),
)


def varied(catalog: Catalog, scales: Mapping[str, float]) -> Catalog:
    """The catalogue with every record's figure scaled: peak FLOP/s, memory bandwidth or capacity, links, prices, intensity."""
    fields = {
        "memory bandwidth": ("memory_bandwidth",),
        "memory capacity": ("memory",),
        "link bandwidth": ("link_bandwidth", "host_bandwidth", "nic_bandwidth"),
    }
    for what, factor in scales.items():
        if what == "prices":
            offers = {name: replace(offer, price=offer.price * factor) for name, offer in catalog.offers.items()}
            catalog = catalog.with_offers(offers)
        elif what == "carbon intensity":
            catalog = catalog.with_records(
                "regions", {name: _cleaner(region, factor) for name, region in catalog.regions.items()}
            )
        elif what == "peak FLOP/s":
            chips = {n: replace(c, peak={p: v * factor for p, v in c.peak.items()}) for n, c in catalog.chips.items()}
            catalog = catalog.with_records("chips", chips)
        else:
            chips = {n: replace(c, **_scaled(c, fields[what], factor)) for n, c in catalog.chips.items()}
            catalog = catalog.with_records("chips", chips)
    return catalog


def _scaled(chip: Any, names: tuple[str, ...], factor: float) -> dict[str, Any]:
    return {name: getattr(chip, name) * factor for name in names if getattr(chip, name) is not None}


def _cleaner(region: Any, factor: float) -> Any:
    grid = region.grid
    names = ("average_intensity", "marginal_intensity", "market_intensity")
    return replace(region, grid=replace(grid, **_scaled(grid, names, factor)))


def knobs(query: ServeQuery) -> Iterator[Knob]:
    """Everything that can be loosened: the user's limits first, then physics and the market."""
    for bound in query.sla.bounds():
        number, wall = (7, "tail latency") if bound.metric == "ttft" else (4, "serving")
        step = Q(10.0 if bound.limit.m_as("ms") >= 100 else 1.0, "ms")
        name = f"{bound.metric.upper()} {bound.statistic}"
        factor = float(((bound.limit + step) / bound.limit).m_as("dimensionless"))
        path = f"sla.{bound.metric}.{bound.statistic}"
        yield Knob(number, wall, name, "query", text_of(bound.limit), 1.01, f"{step:~g}", factor, path, None)
    steps = {
        "cost": Q(10.0, "USD/hour"),
        "power": Q(100.0, "kW"),
        "carbon": Q(1.0, "kgCO2e/hour"),
        "water": Q(10.0, "liter/hour"),
    }
    walls = {
        "cost": (17, "capital"),
        "power": (18, "sustainability"),
        "carbon": (18, "sustainability"),
        "water": (18, "sustainability"),
    }
    for resource, step in steps.items():
        limit = getattr(query.limits, resource)
        if limit is not None:
            factor = float(((limit + step) / limit).m_as("dimensionless"))
            number, wall = walls[resource]
            yield Knob(
                number,
                wall,
                f"limit of {resource}",
                "query",
                text_of(limit),
                1.01,
                f"{step:~g}",
                factor,
                f"limits.{resource}",
                None,
            )
    if query.limits.chips is not None:
        count = query.limits.chips
        yield Knob(0, "supply", "limit of chips", "query", str(count), 1.01, "8 chips", (count + 8) / count, "limits.chips", None)
    for position, quota in enumerate(query.supply.quota):
        key = "chips" if quota.chips is not None else "instances"
        count = quota.chips if quota.chips is not None else quota.instances or 0
        step_count = 8 if key == "chips" else 1
        if count:
            path = f"supply.quota[{position}].{key}"
            factor = (count + step_count) / count
            yield Knob(
                0, "supply", f"quota {position}", "query", f"{count} {key}", 1.01, f"{step_count} {key}", factor, path, None
            )
    if query.workload.rate is not None:
        yield Knob(0, "demand", "rate", "query", text_of(query.workload.rate), 0.99, "", None, "workload.rate", None)
    for number, wall, what, origin, looser in _SCALES:
        if what == "carbon intensity" and not (query.minimize != "cost" or query.limits.carbon):
            continue
        yield Knob(number, wall, what, origin, "as listed", looser, "", None, None, what)  # type: ignore[arg-type]


def moved(query: ServeQuery, knob: Knob, factor: float) -> tuple[ServeQuery, dict[str, float]]:
    """The question and the scales of the catalogue with one knob moved by a factor."""
    if knob.scale is not None:
        return query, {knob.scale: factor}
    assert knob.path is not None
    if knob.path.endswith(("chips", "instances")):
        count = int(knob.value.split()[0])
        new: object = int(count * factor) if factor < 1 else -int(-count * factor // 1)
    else:
        value: Any = Q(knob.value)
        new = text_of(Q(float(value.m) * factor, value.units))
    result = query.set(knob.path, new)
    assert isinstance(result, ServeQuery)
    return result, {}


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best objective of a moved question (None: infeasible) and what its plan rents."""

    objective: float | None
    signature: tuple[tuple[str, int, int], ...]


def optimum(query: ServeQuery, scales: Mapping[str, float], memory: Memory | None = None) -> Optimum:
    """The proven best of a moved question."""
    memory = memory or Memory()
    key = (query.folder, query.zoo, query.prices)
    if scales:
        memory = Memory()  # what machines can run changes with their figures
        memory.catalogs[key] = varied(open_catalog(query), scales)
    prepared = prepare(query, memory=memory)
    certificate = prove(prepared)
    rented = tuple(
        (
            prepared.market.columns[p.column].name,
            p.units,
            prepared.choices.curves[prepared.market.columns[p.column].curve].best(p.units)[1],
        )
        for p in certificate.purchases
    )
    return Optimum(in_objective_units(query, certificate.objective), rented)


def _job(task: tuple[str, dict[str, Any], str, dict[str, float]]) -> Optimum:
    """One re-solve in a worker: questions travel as plain data."""
    folder, data, _, scales = task
    query = ServeQuery.from_dict(data, folder=folder)
    return optimum(query, scales)


def marginals(plan: Plan, query: ServeQuery, switches: bool = False, progress: Progress = lambda _: None) -> tuple[Marginal, ...]:
    """Every knob with what 1 % and one unit more of it saves, and whether it binds.

    A knob binds when loosening it by 1 % or one unit improves the objective, or tightening it by 1 % worsens or breaks the
    plan. `switches` also looks for the loosening at which the plan changes. Re-solves run on all cores.
    """
    found = list(knobs(query))
    tasks = []
    for knob in found:
        for factor in (knob.looser, 2 - knob.looser, knob.unit_factor):
            if factor is not None:
                changed, scales = moved(query, knob, factor)
                tasks.append((str(query.folder), changed.to_dict(), knob.name, scales))
    progress(f"{len(tasks)} re-solves")
    results = iter(_in_parallel(tasks))
    rows = []
    for knob in found:
        looser, tighter = next(results), next(results)
        unit = next(results) if knob.unit_factor is not None else None
        saved = _saved(plan, looser)
        per_unit = _saved(plan, unit) if unit is not None else None
        worse = tighter.objective is None or (plan.objective is not None and tighter.objective > plan.objective + 1e-9)
        rows.append(
            Marginal(
                number=knob.number, name=knob.wall, knob=knob.name, origin=knob.origin, value=knob.value,
                binding=bool((saved or 0) > 0 or (per_unit or 0) > 0 or worse), per_percent=saved, unit_step=knob.unit_step,
                per_unit=per_unit, unit=plan.objective_unit, breaks=tighter.objective is None,
                switches_at=_switch(query, knob, progress) if switches and knob.path is not None else None,
            )
        )  # fmt: skip
    return tuple(rows)


def _saved(plan: Plan, moved_to: Optimum) -> float | None:
    if plan.objective is None or moved_to.objective is None:
        return None
    return round(plan.objective - moved_to.objective, 9)


def _in_parallel(tasks: list[Any]) -> list[Optimum]:
    workers = min(os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        return [_job(task) for task in tasks]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(_job, tasks))


def _switch(query: ServeQuery, knob: Knob, progress: Progress) -> str | None:
    """The first loosening of a knob at which the plan changes, within 1 %; None when it does not up to a factor of two."""
    memory = Memory()
    now = optimum(query, {}, memory).signature

    def changed(factor: float) -> bool:
        progress(f"{knob.name} at {factor:.3g} of today's")
        question, scales = moved(query, knob, factor)
        return optimum(question, scales, memory).signature != now

    toward = _FARTHEST if knob.looser > 1 else 1 / _FARTHEST
    return _bisect(changed, toward, lambda factor: text_of(Q(float(Q(knob.value).m) * factor, Q(knob.value).units)))


def _bisect(changed: Callable[[float], bool], farthest: float, words: Callable[[float], str]) -> str | None:
    near, far = 1.0, farthest
    if not changed(far):
        return None
    while abs(far - near) > _SWITCH_WIDTH:
        middle = (near + far) / 2
        near, far = (near, middle) if changed(middle) else (middle, far)
    return words(far)
