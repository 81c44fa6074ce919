"""From a question to its market and the proof: data, candidates, columns, certified purchases."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from models import serving
from models.dimensions import ImpossibleValue
from zoo.catalog import Catalog, apply_price_overlays, load
from zoo.errors import ZooError
from zoo.specs import Offer, Transformer

from . import columns, references, space
from .certify import Certificate, certify
from .columns import Memory
from .market import Column, Exact, Market
from .program import SCALES, dequantise
from .query import AnyQuery, ServeQuery
from .records import QueryError

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the program is made of, before any solver."""

    query: ServeQuery
    catalog: Catalog
    model: Transformer
    market: Market
    choices: columns.Choices
    dropped: list[space.Dropped]
    candidates: int


def open_catalog(query: AnyQuery) -> Catalog:
    """The zoo with the query's own files and price overlays, in which all that the query names is there. Raises QueryError."""
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
    if query.prices.scale != 1:
        factor = query.prices.scale
        catalog = catalog.with_offers(
            {name: replace(offer, price=offer.price * factor) for name, offer in catalog.offers.items()}
        )
    references.check(query, catalog)
    return catalog


def model_of(query: AnyQuery, catalog: Catalog) -> Transformer:
    """The model that the query names: a zoo record or a config.json. Raises QueryError, one line, when it cannot be served."""
    if query.model_file is not None:
        from zoo.importers.huggingface import transformer_from_config

        try:
            return _with_draft(query, catalog, _within_context(query, transformer_from_config(query.model_file)))
        except (ZooError, ValueError, OSError) as error:
            raise QueryError(f"{query.locate(('workload', 'model'))}: {error}") from None
    record = space.find(query, catalog, "models", query.workload.model, ("workload", "model"))
    if not isinstance(record, Transformer):
        raise QueryError(
            f"{query.locate(('workload', 'model'))}: {record.name} is a {record.kind} workload; {query.kind} plans need a "
            "decoder transformer, which generates tokens"
        )
    return _with_draft(query, catalog, _within_context(query, record))


def _with_draft(query: AnyQuery, catalog: Catalog, model: Transformer) -> Transformer:
    """`model` with the model that drafts for it, where the question names one. Raises QueryError where that cannot be."""
    speculative = query.workload.speculative if isinstance(query, ServeQuery) else None
    if speculative is None or speculative.model is None:
        return model
    keys = ("workload", "speculative", "draft")
    draft = space.find(query, catalog, "models", speculative.model, keys)
    if not isinstance(draft, Transformer):
        raise QueryError(f"{query.locate(keys)}: {draft.name} is a {draft.kind} workload, expected a decoder transformer")
    try:
        return serving.drafted(model, draft)
    except ImpossibleValue as error:
        raise QueryError(f"{query.locate(keys)}: {error}") from None


def _within_context(query: AnyQuery, model: Transformer) -> Transformer:
    """`model`, or QueryError where a request is longer than the context that the model was made for."""
    if isinstance(query, ServeQuery) and model.max_context is not None:
        tokens = query.workload.tokens
        if tokens.input + tokens.output > model.max_context:
            raise QueryError(
                f"{query.locate(('workload', 'tokens'))}: {tokens.input} + {tokens.output} tokens exceed the context of "
                f"{model.name}, expected at most {model.max_context} together"
            )
    return model


def prepare(
    query: ServeQuery,
    progress: Progress = lambda _: None,
    memory: Memory | None = None,
) -> Prepared:
    """The market of a query: every candidate through the forward models. Raises QueryError for what is not there.

    `memory` is read and filled: what an earlier, similar question has computed is not computed again.
    """
    memory = Memory() if memory is None else memory
    catalog = catalog_of(query, memory)
    model = model_of(query, catalog)
    key = _what_choices_depend_on(query)
    if key not in memory.choices:
        memory.choices[key] = _choices(query, catalog, model, progress, memory)
    choices, dropped, candidates = memory.choices[key]
    dropped = list(dropped)
    market = columns.market_of(query, catalog, choices)
    if len(market.columns) < len(choices.columns):
        reason = "another offer of the same machine needs no more of anything that counts"
        dropped.append(space.Dropped(None, "dominance", len(choices.columns) - len(market.columns), reason))
    return Prepared(query, catalog, model, market, choices, dropped, candidates)


def catalog_of(query: ServeQuery, memory: Memory) -> Catalog:
    """`open_catalog`, once."""
    files = (query.folder, query.zoo, query.prices)
    if files not in memory.catalogs:
        memory.catalogs[files] = open_catalog(query)
    return memory.catalogs[files]


def _what_choices_depend_on(query: ServeQuery) -> str:
    """Everything in a question but its demand, limits, quotas and solver, which columns do not depend on before dominance."""
    data = query.to_dict()
    data = {part: value for part, value in data.items() if part not in ("limits", "solver", "uncertain", "name", "horizon")}
    data["supply"] = {key: value for key, value in data.get("supply", {}).items() if key not in ("quota", "mixed")}
    populations = [{k: v for k, v in one.items() if k != "rate"} for one in data["workload"].get("populations", ())]
    data["workload"] = {**data["workload"], "rate": None, "populations": populations}
    return json.dumps([str(query.folder), data], sort_keys=True)


def _choices(
    query: ServeQuery, catalog: Catalog, model: Transformer, progress: Progress, memory: Memory
) -> tuple[columns.Choices, list[space.Dropped], int]:
    """(every column, what was dropped on the way and why, how many candidates there were)."""
    machines, dropped = _machines(query, catalog, model, progress, memory)
    grouped: list[tuple[list[space.Runs], list[Offer]]] = []
    candidates = 0
    removed: dict[tuple[int | None, str, str], int] = {}
    for runs, gone, theirs in machines:
        candidates += sum(map(len, runs)) + sum(d.removed for d in gone)
        for d in gone:
            step = (d.wall, d.name, d.reason)
            removed[step] = removed.get(step, 0) + d.removed
        if runs:
            grouped.append((runs, theirs))
    dropped += [space.Dropped(wall, name, count, reason) for (wall, name, reason), count in removed.items()]
    return columns.choices_of(query, catalog, grouped, dropped, memory), dropped, candidates


def _machines(
    query: ServeQuery, catalog: Catalog, model: Transformer, progress: Progress, memory: Memory
) -> tuple[list[tuple[list[space.Runs], list[space.Dropped], list[Offer]]], list[space.Dropped]]:
    """(what each kind of machine can run, what it cannot, and its offers; what the question's clauses drop)."""
    offers, dropped = space.offers_of(query, catalog)
    machines = space.machines_of(offers, catalog)
    source = query.calibration.source
    progress(f"{len(machines)} kinds of machine" + (f", measured kernels by {source}" if source else ""))
    found = laid_out([machine for machine, _ in machines], model, query, memory)
    return [(runs, gone, theirs) for (runs, gone), (_, theirs) in zip(found, machines, strict=True)], dropped


Key = tuple[Hashable, ...]


def keys_of(machines: Sequence[space.Machine], query: ServeQuery) -> list[Key]:
    """Under what each kind of machine is remembered in `Memory.runs`; without the first, the TPOT, in `Memory.surveys`."""
    limit = space.tpot_limit(query)
    depends = (None if limit is None else limit.m_as("s"), space.what_surveys_depend_on(query))
    return [(depends[0], m.accelerator.name, m.accelerators, m.domain, *depends[1]) for m in machines]


def laid_out(
    machines: Sequence[space.Machine], model: Transformer, query: ServeQuery, memory: Memory
) -> list[tuple[list[space.Runs], list[space.Dropped]]]:
    """What each kind of machine can run: from memory where it is there, else all at once through the forward model."""
    keys = keys_of(machines, query)
    new = {key[1:]: machine for key, machine in zip(keys, machines, strict=True) if key[1:] not in memory.surveys}
    if new:
        like = [] if memory.today is None else [memory.today.surveys[key] for key in new]
        found = space.surveys_of(list(new.values()), model, query, like)
        memory.surveys |= dict(zip(new, found, strict=True))
    missing = [key for key in keys if key not in memory.runs]
    if missing:
        kept = space.runs_of([memory.surveys[key[1:]] for key in missing], model, query)
        memory.runs |= dict(zip(missing, kept, strict=True))
    return [memory.runs[key] for key in keys]


def restricted(prepared: Prepared, wanted: Callable[[Column], bool]) -> Prepared:
    """The same question with fewer columns to choose from; dominance is judged anew among those that are left."""
    choices = prepared.choices.only(wanted)
    return replace(prepared, choices=choices, market=columns.market_of(prepared.query, prepared.catalog, choices))


def prove(
    prepared: Prepared,
    progress: Progress = lambda _: None,
    tie_break: bool = True,
    begin: Exact = MappingProxyType({}),
    most: int | None = None,
    seconds: float | None = None,
) -> Certificate:
    """The certified best purchases of a market. Without `tie_break` any plan of the optimal objective will do.

    `begin`: where curves are exact from the first round on, of the certificate of a similar question. `most`: plans of a larger
    objective, in the program's integers, do not count. `seconds`: in the place of solver.time.
    """
    query, market, curves = prepared.query, prepared.market, prepared.choices.curves
    return certify(
        market,
        lambda j, units: curves[market.columns[j].curve].best(units)[0],
        lambda j: curves[market.columns[j].curve].slope,
        query.solver.engine,
        query.solver.gap,
        float(query.solver.time.m_as("s")) if seconds is None else seconds,
        progress,
        tie_break,
        begin,
        most,
        lambda asked: columns.learn((curves[market.columns[j].curve], [units]) for j, units in asked),
    )


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


def objective_step(query: ServeQuery) -> str:
    """What one integer of the program's objective is, in the unit that reports state it in: "0.0001 USD/h"."""
    return f"{in_objective_units(query, 1):.10g} {objective_units(query)[1]}"
