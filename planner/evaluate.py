"""The exact check: a fleet through the forward models alone. No solver in sight.

`solve` uses it to fill its answer, `wallplan evaluate` to repeat the check from the plan file and the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models import node, serving
from models.calibration import serving_constants
from zoo.catalog import Catalog
from zoo.specs import Offer, Transformer
from zoo.units import Q, Quantity

from . import calibrated, columns, permitted
from .columns import Site
from .plan import Degrees, Layout, Pool, WallRow
from .program import SCALES, dequantise, quantise
from .query import ServeQuery
from .space import Machine, Shape, apart_of, draft_of, format_of, links_of, measured_kernels, ranked, tpot_limit, traffic

# A latency wall is tight when its limit times this would be broken.
_STEP = 0.99


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen for one pool: offer, instances, layout, and the load of each population [integer units]."""

    offer: str
    instances: int
    layout: Layout
    loads: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A fleet, checked. `violations` is empty when every wall holds."""

    pools: tuple[Pool, ...]
    walls: tuple[WallRow, ...]
    totals: dict[str, float]
    objective: int
    violations: tuple[str, ...]
    assumptions: tuple[str, ...]
    kernels: tuple[str, ...]  # by layout, which times are measured and which modelled; none unless the question asks for it


@dataclass(frozen=True, slots=True)
class Checked:
    """One pool with everything that its walls need."""

    pool: Pool
    running: Running
    amounts: Mapping[str, int]
    objective: int
    late: tuple[tuple[str, float, float], ...]  # (label, share late, share allowed)
    ttft: tuple[tuple[str, Quantity, Quantity], ...]  # (label, value with network, limit)
    fewer: bool  # one unit fewer would still carry the load within the SLA
    tight: bool  # with TTFT limits 1 % tighter the pool would no longer carry the load
    quality: float | None
    operations: Quantity  # [FLOP] of a request
    used: Quantity  # [FLOP/s]
    peak: Quantity  # [FLOP/s] of all accelerators
    site: Site
    units: int  # of the pool
    network: Quantity  # the slowest round trip of those who are served


def evaluate(query: ServeQuery, catalog: Catalog, model: Transformer, decisions: list[Decision]) -> Evaluated:
    """Every pool and every wall of a fleet, from the forward models. Loads are taken as given and must add up to the rates.

    Offers, layouts and mixing that the question does not permit are violations too; a pool that cannot be is left out.

    Raises zoo.catalog.UnknownName when an offer of the fleet no longer exists.
    """
    violations, possible = [], []
    for decision in decisions:
        offer = catalog.find("offers", decision.offer)
        violations += permitted.offer_faults(query, catalog, offer)
        fault = permitted.layout_fault(query, catalog, model, offer, decision.instances, decision.layout)
        violations += [] if fault is None else [fault]
        possible += [decision] if fault is None else []
    violations += permitted.mixing_faults(query, catalog, [(catalog.find("offers", d.offer), d.loads) for d in decisions])
    checked = [check(query, catalog, model, decision) for decision in possible]
    for population in query.populations:
        served = sum(decision.loads.get(population.name, 0) for decision in decisions)
        asked = quantise(population.rate, "load", "up")
        if served != asked:
            violations.append(f"wall 4: {population.name} is served {served}, asked {asked} (units of {SCALES['load']})")
    totals = _taken(checked)
    for resource in totals:
        bound = getattr(query.limits, resource)
        if bound is not None and totals[resource] > _limit(bound, resource):
            violations.append(f"limits.{resource}: {totals[resource]} of {_limit(bound, resource)} (units of {SCALES[resource]})")
    for position, quota in enumerate(query.supply.quota):
        mine = [c for c in checked if columns.matches(quota, catalog.offers[c.pool.offer], catalog)]
        used = sum(c.pool.accelerators if quota.chips is not None else c.pool.instances for c in mine)
        allowed = quota.chips if quota.chips is not None else quota.instances or 0
        if used > allowed:
            violations.append(f"supply.quota[{position}]: {used} of {allowed}")
    for c in checked:
        violations += [
            f"wall {row.number} ({row.what}) in {row.where}: {row.demand:.6g} {row.unit} of {row.limit:.6g}"
            for row in pool_walls(query, c)
            if row.limit is not None and row.demand > row.limit * (1 + 1e-12)
        ]
        violations += [
            f"wall 7: {share:.4%} of requests are later than TTFT {label} in {c.pool.offer}, {allowed:.4%} allowed"
            for label, share, allowed in c.late
            if share > allowed * (1 + 1e-9)
        ]
    for name, reasons in (("region", [c.pool.region for c in checked if not _may_serve(query, catalog, c)]),):
        violations += [f"{name} {reason} may not serve its population" for reason in reasons]
    assumptions = tuple(dict.fromkeys(text for c in checked for text in c.site.assumptions))
    return Evaluated(
        tuple(c.pool for c in checked),
        tuple(_walls(query, checked)),
        _totals(query, checked, totals),
        sum(c.objective for c in checked),
        tuple(violations),
        assumptions,
        tuple(dict.fromkeys(_kernels(query, catalog, model, d) for d in possible)) if query.calibration.source else (),
    )


def _may_serve(query: ServeQuery, catalog: Catalog, checked: Checked) -> bool:
    from .space import in_region

    region = catalog.regions[checked.pool.region]
    return all(
        population.residency is None or in_region(catalog, region, population.residency)
        for population in query.populations
        if checked.pool.serves.get(population.name)
    )


def check(query: ServeQuery, catalog: Catalog, model: Transformer, decision: Decision) -> Checked:
    """One pool through the forward models. Raises ValueError where its region has no carbon intensity."""
    offer: Offer = catalog.find("offers", decision.offer)
    chip, region = catalog.chips[offer.accelerator], catalog.regions[offer.region]
    layout = decision.layout
    weights, cache = format_of(layout.precision), format_of(layout.kv_precision)

    running = running_of(query, catalog, model, decision.offer, layout)
    station = running.station
    span, per_unit, readers_per_unit = layout.unit(offer.accelerators)
    units = decision.instances // span
    load = sum(decision.loads.values())
    site = columns.site_of(region, query, columns.means_of(catalog))
    if isinstance(site, str):
        raise ValueError(site)

    trips = {
        population.name: min((catalog.round_trip_from(place, region.name).time for place in population.near), default=Q(0.0, "s"))
        for population in query.populations
        if decision.loads.get(population.name)
    }
    network = max(trips.values(), default=Q(0.0, "s"), key=lambda trip: trip.m_as("s"))
    targets = columns.budgets(query, network)
    variability = query.workload.arrivals.cv**2
    pool = (station.prefill_time, station.delay, units * station.servers, units * station.slots, station.residence)
    tighter = None if targets is None else tuple((percentile, target * _STEP) for percentile, target in targets)
    capacity, of_fewer, of_tighter = _carried(station, [(units, targets), (units - 1, targets), (units, tighter)], variability)

    rate = Q(np.array([dequantise(load, "load").m_as("1/s")]), "1/s")
    bounds = [bound for bound in query.sla.bounds() if bound.metric == "ttft"]
    shares = serving.late_share(rate, *pool, tuple((b.percentile or 0.0, b.limit - network) for b in bounds), variability)

    def ttft(percentile: float) -> Quantity | None:
        value = serving.first_token_quantile(rate, *pool, percentile, variability)[0]
        return value + network if np.isfinite(value.m_as("s")) else None

    instance = columns.amounts_of(
        [chip],
        np.array([float(offer.accelerators)]),
        Q(np.array([offer.price.m_as("USD/hour")]), "USD/hour"),
        [site],
        query,
        catalog,
    )
    amounts, each = columns.integers(instance)[0], columns.objective_of(query, instance)[0]
    total = {name: decision.instances * value for name, value in amounts.items()}
    p50, p90, p99 = ttft(0.5), ttft(0.9), ttft(0.99)
    tpots = tpot_percentiles(query, catalog, model, decision.offer, layout, rate[0], units, variability)
    output = dequantise(load, "load") * Q(float(query.workload.tokens.output), "token")
    cost = dequantise(total["cost"], "cost")
    per_request = node.prefill_operations(
        model, traffic(query).input * (1 - traffic(query).prefix_hit), traffic(query).input * traffic(query).prefix_hit
    ) + node.decode_operations(model, 1.0, traffic(query).input + traffic(query).output / 2) * traffic(query).output.m_as("token")
    row = Pool(
        region=region.name,
        offer=offer.name,
        chip=chip.name,
        option=offer.option,
        instances=decision.instances,
        accelerators=decision.instances * offer.accelerators,
        replicas=units * per_unit,
        prefill_replicas=units * readers_per_unit,
        layout=layout,
        serves={name: float(dequantise(value, "load").m_as("1/s")) for name, value in decision.loads.items() if value},
        load_per_s=float(dequantise(load, "load").m_as("1/s")),
        capacity_per_s=float(dequantise(capacity, "load").m_as("1/s")),
        network_ms=float(network.m_as("ms")),
        ttft_p50_ms=None if p50 is None else float(p50.m_as("ms")),
        ttft_p90_ms=None if p90 is None else float(p90.m_as("ms")),
        ttft_p99_ms=None if p99 is None else float(p99.m_as("ms")),
        tpot_ms=float(station.tpot[0].m_as("ms")),
        tpot_p50_ms=tpots[0],
        tpot_p90_ms=tpots[1],
        tpot_p99_ms=tpots[2],
        cost_usd_per_h=float(cost.m_as("USD/hour")),
        usd_per_million_output_tokens=float((cost / output).m_as("USD/Mtoken")) if load else 0.0,
        carbon_kgco2e_per_h=float(dequantise(total["carbon"], "carbon").m_as("kgCO2e/hour")),
        power_kw=float(dequantise(total["power"], "power").m_as("kW")),
        water_l_per_h=float(dequantise(total["water"], "water").m_as("liter/hour")),
        price_date=offer.source.date,
        price_source=offer.source.text,
        price_flags=offer.flags,
    )
    values = [(f"p{(b.percentile or 0) * 100:g}", ttft(b.percentile or 0.0), b.limit) for b in bounds]
    return Checked(
        row,
        running,
        total,
        decision.instances * each,
        tuple(
            (label, float(share[0]), 1 - (b.percentile or 0.0))
            for (label, _, _), share, b in zip(values, shares, bounds, strict=True)
        ),
        tuple((label, value, limit) for label, value, limit in values if value is not None),
        of_fewer >= load,
        targets is not None and of_tighter < load,
        _loss(weights.loss, cache.loss),
        per_request,
        per_request * dequantise(load, "load"),
        row.accelerators * chip.peak[weights.computes_in],
        site,
        units,
        network,
    )


def _carried(station: serving.Station, pools: Sequence[tuple[int, columns.Targets | None]], variability: float) -> list[int]:
    """For (units of a station, TTFT targets of the same percentiles), the load that they carry, in integer units: all at once,
    which takes as long as one. Nothing where there are no units, or where the network alone takes the time of a target (None).
    """
    asked = [(units, targets) for units, targets in pools if units >= 1 and targets is not None]
    if not asked:
        return [0] * len(pools)
    count = np.array([units for units, _ in asked])
    ends = tuple(
        (together[0][0], Q(np.array([target.m_as("s") for _, target in together]), "s"))
        for together in zip(*(targets for _, targets in asked), strict=True)
    )
    rates = serving.pool_rate(
        station.prefill_time, station.delay, count * station.servers, count * station.slots, station.residence, ends, variability
    )
    found = iter(quantise(rates, "load", "down"))
    return [next(found) if units >= 1 and targets is not None else 0 for units, targets in pools]


@dataclass(frozen=True, slots=True)
class Running:
    """One unit of a pool, through the forward model: arrays of one element. `replica` is at the end of its intervals that the
    question ranks by, `predicted` the prediction itself, of `deployment`."""

    station: serving.Station
    replica: serving.Replica
    predicted: serving.Replica
    deployment: serving.Deployment
    slow: tuple[float, float] = (1.0, 1.0)  # with prefill apart: of TPOT and TTFT, at the end that the question ranks by
    reader: serving.Replica | None = None  # that only reads prompts, with the prompts that it keeps as its batch
    transfer: Quantity | None = None  # of one prompt's cache


def running_of(
    query: ServeQuery, catalog: Catalog, model: Transformer, offer: str, layout: Layout, batches: np.ndarray | None = None
) -> Running:
    """One unit of a layout on an offer's machines, at the end of the intervals that the question ranks by.

    batches: other batches than the layout's, one element each.
    """
    batches = np.array([layout.batch]) if batches is None else batches
    record: Offer = catalog.find("offers", offer)
    machine = Machine(catalog.chips[record.accelerator], record.accelerators, record.domain)
    span, replicas, readers = layout.unit(record.accelerators)
    predicted, deployment = _replica(query, model, machine, layout, layout, batches)
    replica = ranked(query, predicted)
    if layout.prefill is None:
        return Running(serving.together(replica, replicas), replica, predicted, deployment)
    kept = np.array([serving.prompts_kept(layout.prefill.pipeline_parallel)])
    reader, _ = _replica(query, model, machine, layout, layout.prefill, kept)
    constants = serving_constants(machine.accelerator, calibration=calibrated.constants_of(query))
    known = apart_of(machine, model, query, constants)
    inside = span * record.accelerators <= max(machine.domain, record.accelerators)
    bandwidth = Q(known.bandwidth[0 if inside else 1], "byte/s")
    station, transfer = serving.pools_apart(reader, predicted, readers, replicas, bandwidth, known.output, *known.slow)
    return Running(station, replica, predicted, deployment, known.slow, reader, transfer)


def tpot_percentiles(
    query: ServeQuery,
    catalog: Catalog,
    model: Transformer,
    offer: str,
    layout: Layout,
    rate: Quantity,
    units: int,
    variability: float,
) -> tuple[float, ...]:
    """TPOT [ms] at p50, p90 and p99 of the load: of as many sequences as are then in flight."""
    batches = np.arange(1, layout.batch + 1)
    record: Offer = catalog.find("offers", offer)
    replicas = units * layout.unit(record.accelerators)[1]
    each = running_of(query, catalog, model, offer, layout, batches).station
    found = serving.tpot_percentiles(each, batches, rate, replicas, (0.5, 0.9, 0.99), variability)
    return tuple(float(tpot.m_as("ms")) for tpot in found)


def _replica(
    query: ServeQuery, model: Transformer, machine: Machine, layout: Layout, degrees: Degrees, batches: np.ndarray
) -> tuple[serving.Replica, serving.Deployment]:
    """Replicas of a layout's formats with these degrees of parallelism, one for each batch, as predicted, and of what."""
    chip, one = machine.accelerator, np.ones(len(batches))
    known = calibrated.constants_of(query)
    constants = serving_constants(chip, calibration=known)
    weights, cache = format_of(layout.precision), format_of(layout.kv_precision)
    layouts = serving.Layouts(
        weights.bytes_per_element * one,
        cache.bytes_per_element * one,
        chip.peak[weights.computes_in].to("flop/s") * one,
        constants.compute_efficiency[weights.computes_in] * one,
        tensor_parallel=degrees.tensor_parallel * one,
        pipeline_parallel=degrees.pipeline_parallel * one,
        expert_parallel=degrees.expert_parallel * one,
        batch=batches * one,
    )
    draft = draft_of(query, model, layouts.kv_bytes, layout.drafted * one)
    measured, _ = _measured(query, model, machine, layout, degrees, batches)
    asked = (model, chip, layouts, links_of(machine), traffic(query), constants)
    return serving.replica(*asked, known, draft, measured), serving.deployment_of(*asked, draft, measured)


def _measured(
    query: ServeQuery, model: Transformer, machine: Machine, layout: Layout, degrees: Degrees, batches: np.ndarray
) -> tuple[serving.Measured | None, np.ndarray]:
    """`measured_kernels` of replicas of a layout's formats; of those that only read prompts, at one prompt."""
    weights, cache = format_of(layout.precision), format_of(layout.kv_precision)
    shape = Shape(
        weights, cache, machine.accelerator.peak[weights.computes_in].to("flop/s"), degrees.tensor_parallel,
        degrees.pipeline_parallel, degrees.expert_parallel, layout.drafted,
    )  # fmt: skip
    batch = np.ones(len(batches)) if degrees is layout.prefill else batches
    return measured_kernels([machine], [[shape]], np.zeros(len(batches), int), batch, model, query)


def _kernels(query: ServeQuery, catalog: Catalog, model: Transformer, decision: Decision) -> str:
    """Which times of a pool are measured, by what, and which are modelled."""
    record, layout, tool = catalog.find("offers", decision.offer), decision.layout, calibrated.tool_of(query)
    machine = Machine(catalog.chips[record.accelerator], record.accelerators, record.domain)
    batch = np.array([float(layout.batch)])
    decode = bool(_measured(query, model, machine, layout, layout, batch)[1][0])
    prefill = decode if layout.prefill is None else bool(_measured(query, model, machine, layout, layout.prefill, batch)[1][0])
    times = {"decode step": decode, "prefill": prefill}
    from models import silicon

    system = silicon.system_of(record.accelerator, tool) if tool is not None else None
    measured = " and ".join(name for name, known in times.items() if known)
    modelled = " and ".join(name for name, known in times.items() if not known)
    name = f"{record.accelerator} {layout.in_full} {layout.precision}"
    if tool is None or system is None or not measured:
        return f"{name}: all times modelled; {query.calibration.source} has no kernels of this chip, model, layout and format"
    rest = f"{modelled}, waits, queues and memory" if modelled else "waits, queues and memory"
    return f"{name}: {measured} measured ({tool.version(system)}); {rest} modelled"


def _loss(*losses: float | None) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) if len(known) == len(losses) else None


def _limit(bound: Quantity | int, resource: str) -> int:
    return bound if isinstance(bound, int) else int(quantise(bound, resource, "down"))


def _row(
    number: int, name: str, what: str, demand: float, limit: float | None, unit: str, tight: bool, origin: str, where: str
) -> WallRow:
    headroom = None if limit is None or limit == 0 else (limit - demand) / limit
    return WallRow(
        number=number, name=name, what=what, demand=demand, limit=limit, unit=unit, headroom=headroom,
        tight=tight, origin=origin, where=where,  # type: ignore[arg-type]
    )  # fmt: skip


def pool_walls(query: ServeQuery, c: Checked) -> list[WallRow]:
    """The walls of one pool. A wall is tight when a small step against it breaks it: a latency limit 1 % tighter, one sequence
    more, one unit fewer."""
    where, replica = c.pool.offer, c.running.replica
    used = float((c.used / c.peak).m_as("dimensionless"))
    efficiency = float(replica.layouts.compute_efficiency[0])
    needed, there = float(replica.memory_needed[0].m_as("GiB")), float(replica.memory_there.m_as("GiB"))
    limit = tpot_limit(query)
    memory_full = c.pool.layout.batch + 1 > float(replica.largest_batch[0])
    step = replica.decode_step[0]
    communication = float((replica.decode.communication[0] * c.pool.layout.pipeline_parallel / step).m_as("dimensionless"))
    rows = [
        _row(1, "compute", "FLOP/s used", used, 1.0, "of peak", False, "physics", where),
        _row(2, "memory", "bytes per accelerator", needed, there, "GiB", memory_full, "physics", where),
        _row(3, "software", "utilisation", used, efficiency, "of peak", False, "physics", where),
        _row(4, "serving", "TPOT", c.pool.tpot_ms, None if limit is None else float(limit.m_as("ms")), "ms",
             limit is not None and c.pool.tpot_ms > _STEP * float(limit.m_as("ms")),
             "query" if limit is not None else "none", where),
        _row(5, "batching", "batch", c.pool.layout.batch, float(replica.largest_batch[0]), "sequences", memory_full,
             "physics", where),
    ]  # fmt: skip
    rows += [
        _row(7, "tail latency", f"TTFT {label}", float(value.m_as("ms")), float(limit.m_as("ms")), "ms",
             c.tight, "query", where)
        for label, value, limit in c.ttft
    ]  # fmt: skip
    rows.append(
        _row(7, "tail latency", "load of a pool", c.pool.load_per_s, c.pool.capacity_per_s, "1/s", not c.fewer, "physics", where)
    )
    quality = query.sla.quality
    if c.quality is not None or quality is not None:
        rows.append(
            _row(13, "fidelity", "quality lost", c.quality or 0.0, None if quality is None else quality.loss, "of score", False,
                 "query" if quality is not None else "none", where)
        )  # fmt: skip
    reader, sent = c.running.reader, c.running.transfer
    if reader is not None and sent is not None:
        rows.append(
            _row(2, "memory", "bytes per prefill accelerator", float(reader.memory_needed[0].m_as("GiB")), there, "GiB", False,
                 "physics", where)
        )  # fmt: skip
        rows.append(
            _row(
                14, "communication", "hand-over of a prompt's cache", float(sent[0].m_as("ms")), None, "ms", False, "none", where
            )
        )
    rows.append(_row(14, "communication", "share of a decode step", communication, None, "of step", False, "none", where))
    return rows


def _walls(query: ServeQuery, checked: list[Checked]) -> list[WallRow]:
    """Each wall once, at the pool where it has the least headroom, and the fleet's own walls."""
    tightest: dict[tuple[int, str], WallRow] = {}
    for c in checked:
        for row in pool_walls(query, c):
            key = (row.number, row.what)
            old = tightest.get(key)
            if old is None or (row.tight, -(row.headroom if row.headroom is not None else 1.0), row.demand) > (
                old.tight, -(old.headroom if old.headroom is not None else 1.0), old.demand,
            ):  # fmt: skip
                tightest[key] = row
    rows = [*tightest.values(), *fleet_walls(query, checked)]
    return sorted(rows, key=lambda row: (row.number, row.what))


def _taken(checked: Sequence[Checked]) -> dict[str, int]:
    """What the pools take together of each resource, in integers of the program."""
    return {resource: sum(c.amounts[resource] for c in checked) for resource in SCALES if resource != "load"}


def fleet_walls(query: ServeQuery, checked: Sequence[Checked]) -> list[WallRow]:
    """The walls of all pools together: capital and sustainability. A limit is tight without room for one machine more."""
    totals, rows = _taken(checked), []
    cheapest = {r: min((c.amounts[r] // max(c.pool.instances, 1) for c in checked), default=0) for r in totals}
    for number, name, resource, unit in (
        (17, "capital", "cost", "USD/hour"),
        (18, "sustainability", "power", "kW"),
        (18, "sustainability", "carbon", "kgCO2e/hour"),
        (18, "sustainability", "water", "liter/hour"),
    ):
        bound = getattr(query.limits, resource)
        tight = bound is not None and totals[resource] + cheapest[resource] > _limit(bound, resource)
        rows.append(
            _row(number, name, resource, float(dequantise(totals[resource], resource).m_as(unit)),
                 None if bound is None else float(bound.m_as(unit)), unit.replace("liter", "L").replace("/hour", "/h"), tight,
                 "query" if bound is not None else "none", "fleet")
        )  # fmt: skip
    return rows


def _totals(query: ServeQuery, checked: list[Checked], totals: Mapping[str, int]) -> dict[str, float]:
    load = sum(c.pool.load_per_s for c in checked)
    cost = float(dequantise(totals["cost"], "cost").m_as("USD/hour"))
    tokens = load * query.workload.tokens.output * 3600
    return {
        "cost_usd_per_h": cost,
        "cost_usd_per_month": cost * float(Q(1.0, "month").m_as("hour")),
        "usd_per_million_output_tokens": cost / tokens * 1e6 if tokens else 0.0,
        "carbon_kgco2e_per_h": float(dequantise(totals["carbon"], "carbon").m_as("kgCO2e/hour")),
        "power_kw": float(dequantise(totals["power"], "power").m_as("kW")),
        "water_l_per_h": float(dequantise(totals["water"], "water").m_as("liter/hour")),
        "accelerators": float(totals["chips"]),
        "instances": float(sum(c.pool.instances for c in checked)),
        "replicas": float(sum(c.pool.replicas for c in checked)),
        "load_per_s": load,
        "capacity_per_s": sum(c.pool.capacity_per_s for c in checked),
    }
