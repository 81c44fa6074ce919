"""What a question permits, asked of one fleet: its offers, its layouts, and whether it mixes. In words, for a changed plan file.

A plan that the solver made keeps all of this by construction; `evaluate` does not take that on trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from zoo.catalog import Catalog
from zoo.specs import Offer, Transformer

from .plan import Layout
from .query import AnyQuery, ServeQuery
from .space import UNIT_REPLICAS, Machine, Shape, in_region, shapes_of


def offer_faults(query: AnyQuery, catalog: Catalog, offer: Offer) -> list[str]:
    """The clauses of supply and regions that an offer breaks."""
    faults = []
    region = catalog.regions[offer.region]
    if query.supply.chips != "all" and offer.accelerator not in {catalog.find("chips", c).name for c in query.supply.chips}:
        faults.append(f"supply.chips: {offer.accelerator} in {offer.name} was not asked for")
    if offer.option not in query.supply.offers:
        faults.append(f"supply.offers: {offer.option} in {offer.name} was not asked for")
    if not any(in_region(catalog, region, pattern) for pattern in query.regions.allow):
        faults.append(f"regions.allow: {region.name} is not allowed")
    if any(in_region(catalog, region, pattern) for pattern in query.regions.deny):
        faults.append(f"regions.deny: {region.name} is denied")
    return faults


def layout_fault(
    query: ServeQuery, catalog: Catalog, model: Transformer, offer: Offer, instances: int, layout: Layout
) -> str | None:
    """Why replicas cannot be laid out so on these machines, or may not; None when they can."""
    machine = Machine(catalog.chips[offer.accelerator], offer.accelerators, offer.domain)
    shapes = shapes_of(machine, model, query, [])
    formats, prefill = (layout.precision, layout.kv_precision), layout.prefill
    said = f"{layout.in_full} in {formats[0]} with KV in {formats[1]}"
    for degrees in (layout, *(() if prefill is None else (prefill,))):
        wanted = (degrees.tensor_parallel, degrees.pipeline_parallel, degrees.expert_parallel, layout.drafted)
        if not any((s.weights.name, s.cache.name) == formats and _degrees(s) == wanted for s in shapes):
            return f"layout: {said} is none that the question permits on {machine.name} ({offer.name})"
    if ("none" if prefill is None else "pools") not in query.workload.disaggregation:
        return f"workload.disaggregation: {said} is none of {', '.join(query.workload.disaggregation)} ({offer.name})"
    if prefill is not None:
        chips = prefill.replicas * prefill.chips + prefill.beside * layout.chips
        full = chips % offer.accelerators == 0 and max(prefill.chips, layout.chips) % min(prefill.chips, layout.chips) == 0
        if not full or prefill.replicas + prefill.beside > UNIT_REPLICAS:
            return f"layout: {said} does not fill whole machines of {offer.accelerators} chips ({offer.name})"
    span = layout.unit(offer.accelerators)[0]
    if instances % span:
        return f"layout: {said} takes {span} machines together, and {instances} is no multiple of it ({offer.name})"
    return None


def _degrees(shape: Shape) -> tuple[int, ...]:
    return (shape.tensor_parallel, shape.pipeline_parallel, shape.expert_parallel, shape.drafted)


def mixing_faults(query: ServeQuery, catalog: Catalog, pools: Iterable[tuple[Offer, Mapping[str, int]]]) -> list[str]:
    """What breaks `supply.mixed: false`: more than one kind of machine, or a population in more than one pool."""
    if query.supply.mixed:
        return []
    pools = list(pools)
    kinds = sorted({f"{offer.accelerator} x{offer.accelerators}" for offer, _ in pools})
    faults = [f"supply.mixed: {' and '.join(kinds)} are mixed"] if len(kinds) > 1 else []
    for population in query.populations:
        serving = sum(bool(loads.get(population.name)) for _, loads in pools)
        if serving > 1:
            faults.append(f"supply.mixed: {population.name} is served by {serving} pools")
    return faults
