"""From a question to a plan: space, columns, proof, exact check, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from zoo.catalog import Catalog, apply_price_overlays, load

from models.calibration import serving_constants
from zoo.specs import Offer, Transformer
from zoo.errors import ZooError

from . import columns, explain, plan, space
from .certify import Certificate, certify
from .columns import Curve
from .evaluate import Decision, Evaluated, evaluate
from .market import Market
from .plan import Plan
from .program import SCALES, dequantise
from .query import QueryError, ServeQuery

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the program is made of, before any solver."""

    query: ServeQuery
    catalog: Catalog
    model: Transformer
    market: Market
    curves: list[Curve]
    dropped: list[space.Dropped]
    candidates: int


def open_catalog(query: ServeQuery) -> Catalog:
    """The zoo with the query's own files and price overlays. Raises QueryError, one line."""
    try:
        catalog = load(query.zoo_files)
    except ZooError as error:  # names the file and the line itself
        raise QueryError(str(error)) from None
    for position, overlay in enumerate(query.prices.overlays):
        match = overlay.match.model_dump(exclude_none=True)
        if "offer" in match:
            match["option"] = match.pop("offer")
        change = {"match": match, "price": overlay.price, "adjust": overlay.adjust, "per": overlay.per}
        try:
            catalog = catalog.with_offers(apply_price_overlays(catalog.offers, [change], catalog))
        except ZooError as error:
            text = str(error).removeprefix("price overlay 1: ")
            raise QueryError(f"{query.locate(('prices', 'overlays', position))}: {text}") from None
    return catalog


def model_of(query: ServeQuery, catalog: Catalog) -> Transformer:
    """The model that the query names: a zoo record or a config.json. Raises QueryError, one line, when it cannot be served."""
    if query.model_file is not None:
        from zoo.importers.huggingface import transformer_from_config

        try:
            return transformer_from_config(query.model_file)
        except (ZooError, ValueError, OSError) as error:
            raise QueryError(f"{query.locate(('workload', 'model'))}: {error}") from None
    record = space.find(query, catalog, "models", query.workload.model, ("workload", "model"))
    if not isinstance(record, Transformer):
        raise QueryError(
            f"{query.locate(('workload', 'model'))}: {record.name} is a {record.kind} workload; serve plans need a "
            "decoder transformer, which generates tokens"
        )
    return record


def prepare(query: ServeQuery, progress: Progress = lambda _: None) -> Prepared:
    """The market of a query: every candidate through the forward models. Raises QueryError for what is not there."""
    catalog = open_catalog(query)
    model = model_of(query, catalog)
    offers, dropped = space.offers_of(query, catalog)
    grouped: list[tuple[list[space.Runs], list[Offer]]] = []
    candidates = 0
    removed: dict[tuple[int | None, str, str], int] = {}
    machines = space.machines_of(offers, catalog)
    for position, (machine, theirs) in enumerate(machines):
        progress(f"{machine.name}: {position + 1} of {len(machines)} kinds of machine")
        runs, gone = space.runs_of(machine, model, query, serving_constants(machine.accelerator), space.links_of(machine))
        candidates += sum(len(r.choices) for r in runs) + sum(d.removed for d in gone)
        for d in gone:
            key = (d.wall, d.name, d.reason)
            removed[key] = removed.get(key, 0) + d.removed
        if runs:
            grouped.append((runs, theirs))
    dropped += [space.Dropped(wall, name, count, reason) for (wall, name, reason), count in removed.items()]
    market, curves, _ = columns.build(query, catalog, grouped, dropped)
    return Prepared(query, catalog, model, market, curves, dropped, candidates)


def prove(prepared: Prepared, progress: Progress = lambda _: None) -> Certificate:
    """The certified best purchases of a market."""
    query, market, curves = prepared.query, prepared.market, prepared.curves
    return certify(
        market,
        lambda j, units: curves[market.columns[j].curve].best(units)[0],
        lambda j: curves[market.columns[j].curve].slope,
        query.solver.engine,
        query.solver.gap,
        float(query.solver.time.m_as("s")),
        progress,
    )


def solve(query: ServeQuery, progress: Progress = lambda _: None) -> Plan:
    """The best plan with its proof, or the reasons why there is none.

    Raises QueryError (one line) for names that do not exist and data that is missing. Infeasible is a plan whose status
    says so, with the clash and the fixes; "stopped" is a plan without proof, when the time ran out.
    """
    started = time.perf_counter()
    prepared = prepare(query, progress)
    certificate = prove(prepared, progress)
    decisions = decisions_of(prepared, certificate)
    checked = evaluate(query, prepared.catalog, prepared.model, decisions) if decisions else None
    if checked is not None and checked.violations:
        raise ArithmeticError(f"the exact check contradicts the program: {checked.violations[0]}")
    if checked is not None and checked.objective != certificate.objective:
        raise ArithmeticError(f"the exact objective {checked.objective} is not the program's {certificate.objective}")
    conflict: tuple[plan.Conflict, ...] = ()
    fixes: tuple[plan.Fix, ...] = ()
    if certificate.status == "infeasible":
        progress("infeasible: looking for the clash")
        conflict, fixes = explain.why_infeasible(prepared, progress)
    return _plan(prepared, certificate, checked, conflict, fixes, time.perf_counter() - started)


def decisions_of(prepared: Prepared, certificate: Certificate) -> list[Decision]:
    """The purchases of a certificate as decisions that anybody can evaluate."""
    result = []
    for purchase in certificate.purchases:
        column = prepared.market.columns[purchase.column]
        curve = prepared.curves[column.curve]
        choice = curve.runs.choices[curve.best(purchase.units)[1]]
        layout = plan.Layout(
            precision=choice.precision,
            kv_precision=choice.kv_precision,
            tensor_parallel=choice.tensor_parallel,
            pipeline_parallel=choice.pipeline_parallel,
            expert_parallel=choice.expert_parallel,
            batch=choice.batch,
        )
        loads = {prepared.market.populations[k]: load for k, load in purchase.loads}
        result.append(Decision(column.offer.name, purchase.units * column.instances, layout, loads))
    return result


UNITS = {"cost": "USD/hour", "carbon": "kgCO2e/hour", "power": "kW", "water": "liter/hour", "chips": "dimensionless"}


def objective_units(query: ServeQuery) -> tuple[str, str]:
    """(resource whose integer unit the objective is in, unit that reports state it in)."""
    resource = query.minimize if query.minimize in SCALES else "cost"
    return resource, {"USD/hour": "USD/h", "kgCO2e/hour": "kgCO2e/h", "dimensionless": "chips"}.get(
        UNITS[resource], UNITS[resource]
    )


def in_objective_units(query: ServeQuery, value: int | None) -> float | None:
    """An integer of the program as the number that reports state."""
    if value is None:
        return None
    resource, _ = objective_units(query)
    return float(dequantise(value, resource).m_as(UNITS[resource]))


def _plan(
    prepared: Prepared,
    certificate: Certificate,
    checked: Evaluated | None,
    conflict: tuple[plan.Conflict, ...],
    fixes: tuple[plan.Fix, ...],
    seconds: float,
) -> Plan:
    query, catalog = prepared.query, prepared.catalog
    _, unit = objective_units(query)
    objective = in_objective_units(query, certificate.objective)
    bound = in_objective_units(query, certificate.lower_bound)
    gap = None
    if certificate.objective is not None and certificate.lower_bound is not None:
        gap = (certificate.objective - certificate.lower_bound) / max(certificate.objective, 1)
    return Plan(
        wallplan=version("wallplan"),
        name=query.name,
        kind=query.kind,
        status=certificate.status,  # type: ignore[arg-type]
        minimize=query.minimize,
        objective=objective,
        objective_unit=unit,
        query=query.to_dict(),
        query_folder=str(query.folder),
        fleet=checked.pools if checked else (),
        totals=checked.totals if checked else {},
        walls=checked.walls if checked else (),
        certificate=plan.Certificate(
            status=certificate.status,  # type: ignore[arg-type]
            objective=objective,
            lower_bound=bound,
            gap=gap,
            unit=unit,
            rounds=certificate.rounds,
            solves=certificate.solves,
            solver=certificate.solver,
            cross_check=certificate.cross_check,
            forward_check="every wall holds" if checked else "no plan to check",
            columns=certificate.columns,
            rows=certificate.rows,
            variables=certificate.variables,
            seconds=certificate.seconds,
        ),
        removed=tuple(plan.Removed(wall=d.wall, name=d.name, removed=d.removed, reason=d.reason) for d in prepared.dropped),
        assumptions=assumptions_of(query, catalog, checked),
        conflict=conflict,
        fixes=fixes,
        data={kind: catalog.hash(kind) for kind in ("chips", "models", "offers", "regions", "round_trips", "economics")},
        candidates=prepared.candidates,
        seconds=seconds,
    )


def assumptions_of(query: ServeQuery, catalog: Catalog, checked: Evaluated | None) -> tuple[plan.Assumption, ...]:
    """Everything that the answer takes for granted, each with where it comes from."""
    from models import serving

    found = [plan.Assumption(text=a.text, source=f"query: {a.path} left out") for a in query.assumptions()]
    found += [plan.Assumption(text=text, source="models/serving.py") for text in serving.ASSUMPTIONS]
    found.append(
        plan.Assumption(
            text=f"carbon: grid intensity by the {query.carbon.method} method, annual mean of the region's grid",
            source="zoo/data/regions.csv",
        )
    )
    draw = catalog.economics_value("average draw as fraction of TDP, LLM serving")
    found.append(
        plan.Assumption(
            text=f"serving accelerators draw {draw.typical:.0%} of their TDP on average, their servers' hosts the nameplate part",
            source=draw.source.text,
        )
    )
    if checked is not None:
        found += [plan.Assumption(text=text, source="zoo/data/economics.csv") for text in checked.assumptions]
    return tuple(found)


def reload(saved: Plan) -> tuple[ServeQuery, Catalog, Any, list[Decision]]:
    """What `evaluate` needs, from a plan file alone: the question, the data, the model and the decisions."""
    from .query import Query

    query = Query.from_dict(saved.query, source="plan", folder=saved.query_folder)
    catalog = open_catalog(query)
    model = model_of(query, catalog)
    decisions = [
        Decision(
            pool.offer,
            pool.instances,
            pool.layout,
            {name: round(rate * 1000) for name, rate in pool.serves.items()},
        )
        for pool in saved.fleet
    ]
    return query, catalog, model, decisions
