"""The candidate configurations, as arrays: which offers may be rented, and what each kind of machine can run.

Enumeration is exact and cheap. Every step that drops candidates says how many and because of which wall.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from models import algorithm, serving
from models.calibration import Constants
from models.dimensions import UnknownValue
from zoo.catalog import Catalog
from zoo.specs import Accelerator, Offer, Region, Transformer
from zoo.units import Q, Quantity

from .query import AnyQuery, QueryError, ServeQuery


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many candidates a wall (or, with wall None, the market or the query) removed, and why."""

    wall: int | None
    name: str
    removed: int
    reason: str


@dataclass(frozen=True, slots=True)
class Format:
    """A number format. `loss` is the quality that weights or cache in it lose, None where nothing was measured."""

    name: str
    bytes_per_element: Quantity
    computes_in: str
    loss: float | None


def format_of(name: str) -> Format:
    """The number format `name`, with the high end of its measured quality loss."""
    try:
        loss: float | None = algorithm.quality_loss(name).high
    except UnknownValue:
        loss = None
    return Format(name, algorithm.bytes_per_element(name), algorithm.computes_in(name), loss)


@dataclass(frozen=True, slots=True)
class Machine:
    """What offers have in common as far as performance goes: the same accelerators, as many, as far connected."""

    accelerator: Accelerator
    accelerators: int  # per instance
    domain: int  # in reach over the scale-up link

    @property
    def name(self) -> str:
        return f"{self.accelerator.name} x{self.accelerators}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One layout of one replica, in the words of a report."""

    precision: str
    kv_precision: str
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: int
    batch: int
    chips: int


@dataclass(frozen=True, slots=True)
class Runs:
    """What one kind of machine can run within memory and TPOT: replicas with their layouts, and how they fill machines.

    A *unit* is `instances` machines and holds `replicas` replicas (arrays over layouts where marked).
    """

    machine: Machine
    instances: int
    replicas: np.ndarray  # per unit, array
    replica: serving.Replica  # arrays
    choices: tuple[Choice, ...]
    prefill_s: np.ndarray  # array; these three are taken from the replica once, because every region's curve needs them
    delay_s: np.ndarray  # array
    saturation: np.ndarray  # array: requests per second of one unit with every slot busy or every prefill server busy


def offers_of(query: AnyQuery, catalog: Catalog) -> tuple[list[Offer], list[Dropped]]:
    """The offers that the query allows, and how many each of its clauses drops.

    Raises QueryError for a chip, region or residency label that does not exist, and for a chip that nobody offers.
    """
    dropped: list[Dropped] = []
    offers = list(catalog.offers.values())

    def keep(name: str, reason: str, test: Iterable[bool]) -> None:
        nonlocal offers
        kept = [offer for offer, good in zip(offers, test, strict=True) if good]
        if len(kept) < len(offers):
            dropped.append(Dropped(None, name, len(offers) - len(kept), reason))
        offers = kept

    if query.supply.chips != "all":
        wanted = {find(query, catalog, "chips", name, ("supply", "chips", i)).name for i, name in enumerate(query.supply.chips)}
        unpriced = sorted(wanted - {offer.accelerator for offer in offers})
        if unpriced:
            position = next(i for i, name in enumerate(query.supply.chips) if catalog.find("chips", name).name == unpriced[0])
            raise QueryError(
                f"{query.locate(('supply', 'chips', position))}: nobody offers {unpriced[0]!r} at a known price; "
                "add one with zoo: (prices) or choose another chip"
            )
        keep("supply.chips", "not among the chips asked for", (offer.accelerator in wanted for offer in offers))
    keep("supply.offers", "not a purchase option asked for", (offer.option in query.supply.offers for offer in offers))
    for position, pattern in enumerate((*query.regions.allow, *query.regions.deny)):
        side, place = (
            ("allow", position) if position < len(query.regions.allow) else ("deny", position - len(query.regions.allow))
        )
        if pattern != "*" and not any(in_region(catalog, catalog.regions[name], pattern) for name in catalog.regions):
            find(query, catalog, "regions", pattern, ("regions", side, place))  # raises with the nearest name
    keep(
        "regions.allow",
        "outside the regions allowed",
        (any(in_region(catalog, catalog.regions[o.region], p) for p in query.regions.allow) for o in offers),
    )
    keep(
        "regions.deny",
        "in a region denied",
        (not any(in_region(catalog, catalog.regions[o.region], p) for p in query.regions.deny) for o in offers),
    )
    return offers, dropped


def in_region(catalog: Catalog, region: Region, pattern: str) -> bool:
    """Whether a region is meant by a name, an alias, a pattern such as "aws/*", a country, or a label such as "EU"."""
    lower = pattern.lower()
    names = (region.name, region.region, region.cloud, *region.aliases)
    return any(fnmatchcase(name.lower(), lower) for name in names) or lower in {
        label.lower() for label in catalog.residency(region)
    }


def find(query: AnyQuery, catalog: Catalog, kind: str, name: str, keys: tuple[str | int, ...]):  # type: ignore[no-untyped-def]
    """The catalog's record, or QueryError naming the file, the line, the key and the nearest valid name."""
    from zoo.errors import UnknownName

    try:
        return catalog.find(kind, name)
    except UnknownName as error:
        raise QueryError(f"{query.locate(keys)}: {error}") from None


def machines_of(offers: Iterable[Offer], catalog: Catalog) -> list[tuple[Machine, list[Offer]]]:
    """Offers by kind of machine, in the catalog's order."""
    groups: dict[tuple[str, int, int], list[Offer]] = {}
    for offer in offers:
        groups.setdefault((offer.accelerator, offer.accelerators, offer.domain), []).append(offer)
    return [(Machine(catalog.chips[chip], count, domain), theirs) for (chip, count, domain), theirs in groups.items()]


def links_of(machine: Machine) -> serving.Links:
    """The links of a replica on this kind of machine: the scale-up link where there is one, else PCIe; the NIC between machines.

    A bandwidth that is not known stands as one byte per second: `shapes_of` never lets a replica use that link, and the
    forward model may multiply its times by zero, which it could not if they were infinite.
    """
    unknown, none = Q(1.0, "byte/s"), Q(0.0, "s")
    inside, between = _inside(machine.accelerator), _between_machines(machine.accelerator)
    return serving.Links(unknown if inside is None else inside, none, unknown if between is None else between, none)


def _inside(chip: Accelerator) -> Quantity | None:
    """Bandwidth between the chips of one machine, None where it is not known."""
    scale_up = _known_link(chip.link_bandwidth) if chip.scale_up_domain > 1 else None
    return _known_link(chip.host_bandwidth) if scale_up is None else scale_up


def _between_machines(chip: Accelerator) -> Quantity | None:
    """Bandwidth of a chip's way to other machines, None where it is not known."""
    return _known_link(chip.nic_bandwidth)


def _known_link(bandwidth: Quantity | None) -> Quantity | None:
    return bandwidth if bandwidth is not None and bandwidth.magnitude > 0 else None


def what_runs_depend_on(query: ServeQuery) -> tuple[Hashable, ...]:
    """Everything in a question that `runs_of` looks at."""
    workload, limit, quality = query.workload, tpot_limit(query), query.sla.quality
    return (
        workload.model,
        workload.tokens.input,
        workload.tokens.output,
        workload.prefix_hit,
        workload.precision,
        workload.kv_precision,
        workload.parallelism,
        query.rank,
        None if limit is None else limit.m_as("s"),
        None if quality is None else quality.loss,
    )


# Batches between one and the largest that fits: every integer up to 16, then eight per doubling.
_DENSE_BATCHES = 16
_BATCHES_PER_DOUBLING = 8
# A replica may span at most this many machines (pipeline stages across the network).
_LARGEST_SPAN = 8


def runs_of(
    machine: Machine, model: Transformer, query: ServeQuery, constants: Constants, links: serving.Links
) -> tuple[list[Runs], list[Dropped]]:
    """Every layout of a replica on a kind of machine that fits in memory and keeps TPOT, grouped by the machines it spans.

    Tensor parallelism divides the heads and stays within the scale-up domain of the machine; pipeline stages and wide
    expert parallelism may span machines; the batch is any of a dense grid up to the largest that memory and TPOT allow.
    """
    dropped: list[Dropped] = []
    shapes = shapes_of(machine, model, query, dropped)
    if not shapes:
        return [], dropped
    base = _layouts(shapes, constants)

    def run(layouts: serving.Layouts) -> serving.Replica:
        return ranked(query, serving.replica(model, machine.accelerator, layouts, links, traffic(query), constants))

    fits = np.minimum(run(base).largest_batch, constants.largest_batch)
    in_memory = fits >= 1
    _count(dropped, 2, "memory", ~in_memory, "weights, one sequence's cache and the reserve exceed the accelerator's memory")
    limit = tpot_limit(query)

    def tried(grids: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(shape, batch, whether TPOT is kept) of every batch of every shape."""
        shape = np.repeat(np.arange(len(shapes)), [len(grid) for grid in grids])
        batch = np.array([float(b) for grid in grids for b in grid])
        good = np.full(len(shape), True)
        if len(shape) and limit is not None:
            good = np.asarray(run(replace(serving.take(base, shape), batch=batch)).tpot <= limit)
        return shape, batch, good

    coarse = [_batches(int(top)) if ok else [] for top, ok in zip(fits, in_memory, strict=True)]
    shape, batch, good = tried(coarse)
    fine = [_between(grid, good[shape == i]) for i, grid in enumerate(coarse)]
    more_shape, more_batch, more_good = tried(fine)
    # of the integers between the last batch that keeps TPOT and the next one tried, only the largest is of interest
    last = [max(more_batch[(more_shape == i) & more_good], default=0.0) for i in range(len(shapes))]
    top = np.flatnonzero(last)
    shape, batch = np.append(shape[good], top), np.append(batch[good], np.array(last)[top])
    too_slow = in_memory & ~np.isin(np.arange(len(shapes)), shape)
    _count(dropped, 4, "serving", too_slow, "TPOT at batch 1 is above its limit")
    if not len(shape):
        return [], dropped
    order = np.lexsort((batch, shape))
    shape, batch = shape[order], batch[order]
    replicas = run(replace(serving.take(base, shape), batch=batch))
    chips = replicas.layouts.chips
    spans = np.where(chips <= machine.accelerators, 1, chips / machine.accelerators).astype(int)
    per_unit = np.floor(spans * machine.accelerators / chips)
    result = []
    for span in sorted(set(spans.tolist())):
        at = np.flatnonzero(spans == span)
        at = at[_undominated(replicas, per_unit, at)]
        choices = tuple(_choice(shapes[shape[i]], int(replicas.layouts.batch[i]), int(chips[i])) for i in at)
        result.append(_runs(machine, span, per_unit[at], serving.take(replicas, at), choices))
    return result, dropped


def _runs(machine: Machine, span: int, per_unit: np.ndarray, replica: serving.Replica, choices: tuple[Choice, ...]) -> Runs:
    prefill = np.asarray(replica.prefill_time.m_as("s"))
    one = np.minimum(replica.layouts.pipeline_parallel / prefill, np.asarray(replica.request_rate.m_as("1/s")))
    delay = np.broadcast_to(np.asarray(replica.first_token_delay.m_as("s")), prefill.shape)
    return Runs(machine, span, per_unit, replica, choices, prefill, delay, per_unit * one)


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout before its batch is chosen."""

    weights: Format
    cache: Format
    peak: Quantity  # FLOP/s, in base units
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: int


def shapes_of(machine: Machine, model: Transformer, query: ServeQuery, dropped: list[Dropped]) -> list[Shape]:
    """Every layout that the machine and the question permit, memory and speed aside; adds to `dropped` what they rule out."""
    chip = machine.accelerator
    reach = machine.domain if _inside(chip) is not None else 1
    allowed = query.workload.parallelism
    reaches_out = _between_machines(chip) is not None
    tensor = [t for t in range(1, reach + 1) if model.heads % t == 0 and _packs(t, machine)]
    shapes, unsupported, lossy = [], 0, 0
    for name in query.workload.precision:
        weights = format_of(name)
        peak = chip.peak.get(weights.computes_in)
        spans = [
            (t, p, e)
            for t in tensor
            for p in (1, 2, 3, 4, 5, 6, 8)
            if p <= model.layers and _packs(t * p, machine) and (p == 1 or reaches_out)
            for e in _expert_degrees(model, machine, t, p)
            if all(wanted is None or degree in wanted for degree, wanted in ((t, allowed.tp), (p, allowed.pp), (e, allowed.ep)))
        ]
        caches = [format_of(kv) for kv in query.workload.kv_precisions(name)]
        if peak is None:
            unsupported += len(spans) * len(caches)
            continue
        for cache in caches:
            if _too_lossy(query, weights, cache):
                lossy += len(spans)
                continue
            shapes += [Shape(weights, cache, peak.to("flop/s"), t, p, e) for t, p, e in spans]
    if unsupported:
        dropped.append(Dropped(1, "compute", unsupported, "the chip has no peak at this precision"))
    if lossy:
        dropped.append(Dropped(13, "fidelity", lossy, "quality lost at this precision is above its limit, or unknown"))
    return shapes


def _packs(chips: int, machine: Machine) -> bool:
    """Replicas fill machines without a remainder that no replica uses: inside one machine, or a whole number of machines."""
    if chips <= machine.accelerators:
        return machine.accelerators % chips == 0
    span, rest = divmod(chips, machine.accelerators)
    return rest == 0 and span <= max(_LARGEST_SPAN, machine.domain // machine.accelerators)


def _expert_degrees(model: Transformer, machine: Machine, tensor: int, pipeline: int) -> list[int]:
    """Expert parallelism: none, or over a group wider than the tensor-parallel one that divides the experts."""
    if not model.experts:
        return [1]
    reach = max(machine.domain, machine.accelerators)
    wide = [tensor * k for k in (2, 4, 8, 16) if tensor * k <= reach and model.experts % (tensor * k) == 0]
    return [1, *(e for e in wide if _packs(e * pipeline, machine))]


def _too_lossy(query: ServeQuery, weights: Format, cache: Format) -> bool:
    if query.sla.quality is None:
        return False
    losses = [format.loss for format in {weights, cache}]
    return any(loss is None for loss in losses) or sum(loss or 0.0 for loss in losses) > query.sla.quality.loss


def _layouts(shapes: list[Shape], constants: Constants) -> serving.Layouts:
    """The shapes as arrays, at batch 1."""
    numbers = np.array(
        [
            (
                s.weights.bytes_per_element.magnitude,
                s.cache.bytes_per_element.magnitude,
                s.peak.magnitude,
                constants.compute_efficiency[s.weights.computes_in],
                s.tensor_parallel,
                s.pipeline_parallel,
                s.expert_parallel,
            )
            for s in shapes
        ],
        float,
    )
    weights, cache, peak, efficiency, tensor, pipeline, expert = numbers.T
    return serving.Layouts(
        Q(weights, "byte"), Q(cache, "byte"), Q(peak, "flop/s"), efficiency, tensor, pipeline, expert, np.ones(len(shapes))
    )


def traffic(query: ServeQuery) -> serving.Traffic:
    tokens = query.workload.tokens
    return serving.Traffic(Q(float(tokens.input), "token"), Q(float(tokens.output), "token"), query.workload.prefix_hit)


def ranked(query: ServeQuery, replica: serving.Replica) -> serving.Replica:
    """A replica at the end of its intervals that the question wants plans made for."""
    return serving.pessimistic(replica) if query.rank == "pessimistic" else replica


def tpot_limit(query: ServeQuery) -> Quantity | None:
    """The tightest TPOT that is asked for: at a full batch every percentile is the same."""
    limits = [bound.limit for bound in query.sla.bounds() if bound.metric == "tpot"]
    return min(limits) if limits else None


def _between(grid: list[int], good: np.ndarray) -> list[int]:
    """The integers between the last batch of a grid that keeps TPOT and the first that does not (TPOT never falls with it)."""
    kept = int(np.sum(good))
    if kept in (0, len(grid)):
        return []
    return list(range(grid[kept - 1] + 1, grid[kept]))


def _batches(largest: int) -> list[int]:
    """The batches tried up to and with `largest`."""
    if largest < 1:
        return []
    grid = set(range(1, min(largest, _DENSE_BATCHES) + 1)) | {largest}
    for step in range(1, 200):
        batch = round(_DENSE_BATCHES * 2 ** (step / _BATCHES_PER_DOUBLING))
        if batch >= largest:
            break
        grid.add(batch)
    return sorted(grid)


def _undominated(replica: serving.Replica, replicas: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Positions in `at` of layouts that no other layout with as many replicas and stages beats in all that a pool needs: prefill
    time, delay before it, requests per second, slots. A pool of the better one carries at least as much at any size."""
    prefill, delay = replica.prefill_time.m_as("s")[at], replica.first_token_delay.m_as("s")[at]
    rate, slots = replica.request_rate.m_as("1/s")[at], replica.layouts.batch[at]
    kind = replicas[at] * 1000 + replica.layouts.pipeline_parallel[at]
    keep = []
    for value in np.unique(kind):
        mine = np.flatnonzero(kind == value)
        order = mine[np.lexsort((-slots[mine], -rate[mine], delay[mine], prefill[mine]))]
        front: list[int] = []
        for i in order:
            if not any(delay[j] <= delay[i] and rate[j] >= rate[i] and slots[j] >= slots[i] for j in front):
                front.append(int(i))
        keep += front
    return np.sort(np.array(keep, int))


def _choice(shape: Shape, batch: int, chips: int) -> Choice:
    return Choice(
        shape.weights.name,
        shape.cache.name,
        shape.tensor_parallel,
        shape.pipeline_parallel,
        shape.expert_parallel,
        batch,
        chips,
    )


def _count(dropped: list[Dropped], wall: int, name: str, removed: np.ndarray, reason: str) -> None:
    if removed.any():
        dropped.append(Dropped(wall, name, int(removed.sum()), reason))
