"""The candidate configurations, as arrays: which offers may be rented, and what each kind of machine can run.

Enumeration is exact and cheap. Every step that drops candidates says how many and because of which wall.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase

import numpy as np

from models import algorithm, serving
from models.calibration import Constants, serving_constants
from models.dimensions import UnknownValue
from zoo.catalog import Catalog
from zoo.specs import Accelerator, Offer, Region, Transformer
from zoo.units import Q, Quantity

from . import calibrated
from .query import AnyQuery, QueryError, ServeQuery


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many candidates a wall (or, with wall None, the market or the query) removed, and why; `missing`: for lack of data."""

    wall: int | None
    name: str
    removed: int
    reason: str
    missing: bool = False


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
    shapes: Sequence[Shape]  # of the machine; `times.shape` points here
    times: Times
    saturation: np.ndarray  # array: requests per second of one unit with every slot busy or every prefill server busy

    def __len__(self) -> int:
        return len(self.saturation)

    def choice(self, position: int) -> Choice:
        """The layout at a position of the arrays."""
        shape = self.shapes[self.times.shape[position]]
        return Choice(
            shape.weights.name,
            shape.cache.name,
            shape.tensor_parallel,
            shape.pipeline_parallel,
            shape.expert_parallel,
            int(self.times.batch[position]),
            shape.chips,
        )


@dataclass(frozen=True, slots=True)
class Times:
    """What pools need to know of replicas, taken from the forward model once: arrays over (layout, batch), seconds."""

    shape: np.ndarray  # position of the layout among the shapes of its machine
    pipeline_parallel: np.ndarray
    batch: np.ndarray
    tpot_s: np.ndarray
    prefill_s: np.ndarray
    delay_s: np.ndarray  # before prefill starts
    residence_s: np.ndarray

    def at(self, positions: np.ndarray) -> Times:
        """The same for some of them."""
        return Times(*(getattr(self, field.name)[positions] for field in fields(self)))

    def and_also(self, more: Times) -> Times:
        """These and more of the same machine, ordered by layout and batch."""
        both = Times(*(np.append(getattr(self, field.name), getattr(more, field.name)) for field in fields(self)))
        return both.at(np.lexsort((both.batch, both.shape)))


@dataclass(frozen=True, slots=True)
class Survey:
    """Every layout of a kind of machine that memory allows, at a dense grid of batches: all that does not depend on TPOT."""

    machine: Machine
    shapes: list[Shape]
    constants: Constants
    fits: np.ndarray  # largest batch that fits, by shape
    tried: Times
    dropped: tuple[Dropped, ...]


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


def what_surveys_depend_on(query: ServeQuery) -> tuple[Hashable, ...]:
    """Everything in a question that `surveys_of` looks at."""
    workload, quality = query.workload, query.sla.quality
    return (
        workload.model,
        workload.tokens.input,
        workload.tokens.output,
        workload.prefix_hit,
        workload.precision,
        workload.kv_precision,
        workload.parallelism,
        query.rank,
        calibrated.digest_of(query),
        None if quality is None else quality.loss,
    )


# Batches between one and the largest that fits: every integer up to 16, then eight per doubling.
_DENSE_BATCHES = 16
_BATCHES_PER_DOUBLING = 8
# A replica may span at most this many machines (pipeline stages across the network).
_LARGEST_SPAN = 8


def surveys_of(machines: Sequence[Machine], model: Transformer, query: ServeQuery, like: Sequence[Survey] = ()) -> list[Survey]:
    """Every layout of a replica on each kind of machine, at every batch of a dense grid up to the largest that fits in memory.

    Tensor parallelism divides the heads and stays within the scale-up domain of the machine; pipeline stages and wide
    expert parallelism may span machines. All machines go through the forward model at once.

    `like`: surveys of the same machines before their figures were moved. The fractions of its figures that a chip reaches stay
    what they are there, and batches are tried only as far as the question's TPOT is kept (it never falls with the batch).
    """
    dropped: list[list[Dropped]] = [[] for _ in machines]
    shapes = [shapes_of(machine, model, query, gone) for machine, gone in zip(machines, dropped, strict=True)]
    known = calibrated.constants_of(query)
    constants = [one.constants for one in like] or [serving_constants(m.accelerator, calibration=known) for m in machines]
    fits = _largest_batches(machines, shapes, constants, model, query)
    grids = [[_batches(int(top)) for top in tops] for tops in fits]
    if like:
        tried = _tried_as_far_as_needed(machines, shapes, constants, grids, model, query, like)
    else:
        tried = _times(machines, shapes, constants, grids, model, query)
    for gone, tops in zip(dropped, fits, strict=True):
        _count(gone, 2, "memory", tops < 1, "weights, one sequence's cache and the reserve exceed the accelerator's memory")
    return [
        Survey(machine, mine, fitted, tops, times, tuple(gone))
        for machine, mine, fitted, tops, times, gone in zip(machines, shapes, constants, fits, tried, dropped, strict=True)
    ]


def _tried_as_far_as_needed(
    machines: Sequence[Machine],
    shapes: Sequence[Sequence[Shape]],
    constants: Sequence[Constants],
    grids: Sequence[Sequence[Sequence[int]]],
    model: Transformer,
    query: ServeQuery,
    like: Sequence[Survey],
) -> list[Times]:
    """`_times` of each grid up to its first batch that breaks TPOT: as far as in `like`, the rest where all of those keep it."""
    limit = tpot_limit(query)
    tightest = np.inf if limit is None else float(limit.m_as("s"))

    def cut(grid: Sequence[int], broken: float) -> int:
        """How many batches of a grid there are up to the first that is at least `broken`."""
        return min(int(np.searchsorted(grid, broken)) + 1, len(grid))

    first = [_first_broken(survey, tightest) for survey in like]
    counts = [[cut(grid, at) for grid, at in zip(mine, ends, strict=True)] for mine, ends in zip(grids, first, strict=True)]
    begun = [[grid[:n] for grid, n in zip(mine, ns, strict=True)] for mine, ns in zip(grids, counts, strict=True)]
    times = _times(machines, shapes, constants, begun, model, query)
    kept = [np.bincount(t.shape[t.tpot_s <= tightest], minlength=len(mine)) for t, mine in zip(times, shapes, strict=True)]
    rest = [
        [grid[n:] if n == k else [] for grid, n, k in zip(mine, ns, ks, strict=True)]
        for mine, ns, ks in zip(grids, counts, kept, strict=True)
    ]
    if not any(batches for mine in rest for batches in mine):
        return times
    return [one.and_also(more) for one, more in zip(times, _times(machines, shapes, constants, rest, model, query), strict=True)]


def _first_broken(survey: Survey, tightest: float) -> np.ndarray:
    """By shape, the first batch tried that breaks TPOT [s]; infinite where none does."""
    ends = np.full(len(survey.shapes), np.inf)
    slow = survey.tried.tpot_s > tightest
    np.minimum.at(ends, survey.tried.shape[slow], survey.tried.batch[slow])
    return ends


def runs_of(surveys: Sequence[Survey], model: Transformer, query: ServeQuery) -> list[tuple[list[Runs], list[Dropped]]]:
    """For each survey: every layout that keeps TPOT, grouped by the machines it spans, and what TPOT and memory removed.

    The batch is any of the grid that keeps TPOT, and the largest integer that does.
    """
    limit = tpot_limit(query)
    tightest = np.inf if limit is None else float(limit.m_as("s"))
    kept = [survey.tried.at(np.flatnonzero(survey.tried.tpot_s <= tightest)) for survey in surveys]
    # of the integers between the last batch that keeps TPOT and the next one tried, only the largest is of interest
    between = [_between(survey, good) for survey, good in zip(surveys, kept, strict=True)]
    machines, shapes = [survey.machine for survey in surveys], [survey.shapes for survey in surveys]
    finer = _times(machines, shapes, [survey.constants for survey in surveys], between, model, query)
    return [_grouped(*one, tightest) for one in zip(surveys, kept, finer, strict=True)]


def _between(survey: Survey, good: Times) -> list[list[int]]:
    """By shape: the integers between the last batch of the grid that keeps TPOT and the first that does not.

    TPOT never falls with the batch, so those that keep it come first.
    """
    count = len(survey.shapes)
    last, kept = np.zeros(count, int), np.bincount(good.shape, minlength=count)
    np.maximum.at(last, good.shape, good.batch.astype(int))
    first = np.full(count, np.iinfo(int).max)
    slow = survey.tried.batch > last[survey.tried.shape]
    np.minimum.at(first, survey.tried.shape[slow], survey.tried.batch[slow].astype(int))
    ends = first < np.iinfo(int).max
    return [list(range(last[i] + 1, first[i])) if kept[i] and ends[i] else [] for i in range(count)]


def _grouped(survey: Survey, kept: Times, finer: Times, tightest: float) -> tuple[list[Runs], list[Dropped]]:
    """The layouts of one kind of machine that keep TPOT, by the machines they span, without those that others beat."""
    machine, shapes, dropped = survey.machine, survey.shapes, list(survey.dropped)
    good = np.flatnonzero(finer.tpot_s <= tightest)
    last = good[np.append(finer.shape[good][1:] != finer.shape[good][:-1], True)] if len(good) else good
    times = kept.and_also(finer.at(last))
    too_slow = (survey.fits >= 1) & ~np.isin(np.arange(len(shapes)), times.shape)
    _count(dropped, 4, "serving", too_slow, "TPOT at batch 1 is above its limit")
    if not len(times.shape):
        return [], dropped
    chips = np.array([shape.chips for shape in shapes])[times.shape]
    spans = np.where(chips <= machine.accelerators, 1, chips / machine.accelerators).astype(int)
    per_unit = np.floor(spans * machine.accelerators / chips)
    result = []
    for span in sorted(set(spans.tolist())):
        at = np.flatnonzero(spans == span)
        at = at[_undominated(times, per_unit, at)]
        mine, replicas = times.at(at), per_unit[at]
        saturation = replicas * np.minimum(mine.pipeline_parallel / mine.prefill_s, mine.batch / mine.residence_s)
        result.append(Runs(machine, span, replicas, shapes, mine, saturation))
    return result, dropped


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout before its batch is chosen."""

    weights: Format
    cache: Format
    peak: Quantity  # FLOP/s, in base units
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: int

    @property
    def chips(self) -> int:
        """Accelerators of one replica."""
        return max(self.tensor_parallel, self.expert_parallel) * self.pipeline_parallel


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


def _deployment(
    machines: Sequence[Machine],
    shapes: Sequence[Sequence[Shape]],
    constants: Sequence[Constants],
    at: np.ndarray,
    model: Transformer,
    query: ServeQuery,
) -> tuple[serving.Deployment, tuple[np.ndarray, np.ndarray]]:
    """(the layouts at batch 1, on all their kinds of machine; how slow they may be, of TPOT and TTFT) as arrays.

    `at` picks shapes, counted over all machines.
    """
    where = np.repeat(np.arange(len(machines)), [len(mine) for mine in shapes])[at]
    chips = [machine.accelerator for machine in machines]
    numbers = np.array(
        [
            (
                s.weights.bytes_per_element.magnitude,
                s.cache.bytes_per_element.magnitude,
                s.peak.magnitude,
                c.compute_efficiency[s.weights.computes_in],
                s.tensor_parallel,
                s.pipeline_parallel,
                s.expert_parallel,
            )
            for mine, c in zip(shapes, constants, strict=True)
            for s in mine
        ],
        float,
    )[at]
    weights, cache, peak, efficiency, tensor, pipeline, expert = numbers.T
    layouts = serving.Layouts(
        Q(weights, "byte"), Q(cache, "byte"), Q(peak, "flop/s"), efficiency, tensor, pipeline, expert, np.ones(len(at))
    )
    deployment = serving.Deployment(
        serving.work_of(model, traffic(query), layouts.kv_bytes),
        layouts,
        serving.gather([serving.device_of(chip) for chip in chips], where),
        serving.gather([links_of(machine) for machine in machines], where),
        serving.gather(constants, where),
    )
    known = calibrated.constants_of(query)
    slow = np.array([serving.slowness(model, chip, c, known) for chip, c in zip(chips, constants, strict=True)])[where]
    return deployment, (slow[:, 0], slow[:, 1])


def _largest_batches(
    machines: Sequence[Machine],
    shapes: Sequence[Sequence[Shape]],
    constants: Sequence[Constants],
    model: Transformer,
    query: ServeQuery,
) -> list[np.ndarray]:
    """By machine and shape, the most sequences that fit in memory and that the engine schedules; zero where none fits."""
    ends = np.cumsum([len(mine) for mine in shapes])
    if not len(ends) or not ends[-1]:
        return [np.zeros(0) for _ in shapes]
    deployment, _ = _deployment(machines, shapes, constants, np.arange(ends[-1]), model, query)
    return np.split(np.minimum(serving.largest_batch(deployment), deployment.constants.largest_batch), ends[:-1])


def _times(
    machines: Sequence[Machine],
    shapes: Sequence[Sequence[Shape]],
    constants: Sequence[Constants],
    grids: Sequence[Sequence[Sequence[int]]],
    model: Transformer,
    query: ServeQuery,
) -> list[Times]:
    """By machine: what the forward model says of each shape at each batch of its grid."""
    counts = [len(grid) for mine in grids for grid in mine]
    at = np.repeat(np.arange(len(counts)), counts)
    batch = np.array([float(size) for mine in grids for grid in mine for size in grid])
    if not len(at):
        return [Times(np.zeros(0, int), *(np.zeros(0) for _ in range(6))) for _ in machines]
    deployment, slow = _deployment(machines, shapes, constants, at, model, query)
    deployment = replace(deployment, layouts=replace(deployment.layouts, batch=batch))
    replica = ranked(query, serving.replicas(deployment, *slow))
    shape = np.concatenate([np.arange(len(mine)) for mine in shapes])[at]
    seconds = (
        np.broadcast_to(np.asarray(time.m_as("s")), batch.shape)
        for time in (replica.tpot, replica.prefill_time, replica.first_token_delay, replica.residence)
    )
    whole = Times(shape, deployment.layouts.pipeline_parallel, batch, *seconds)
    ends = np.cumsum([sum(map(len, mine)) for mine in grids])
    return [whole.at(positions) for positions in np.split(np.arange(len(at)), ends[:-1])]


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


def _undominated(times: Times, replicas: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Positions in `at` of layouts that no other layout with as many replicas and stages beats in all that a pool needs: prefill
    time, delay before it, requests per second, slots. A pool of the better one carries at least as much at any size."""
    prefill, delay, slots = times.prefill_s[at], times.delay_s[at], times.batch[at]
    rate = slots / times.residence_s[at]
    kind = replicas[at] * 1000 + times.pipeline_parallel[at]
    keep = []
    for value in np.unique(kind):
        mine = np.flatnonzero(kind == value)
        order = mine[np.lexsort((-slots[mine], -rate[mine], delay[mine], prefill[mine]))]
        d, r, s = delay[order], rate[order], slots[order]
        beats = (d[:, None] <= d) & (r[:, None] >= r) & (s[:, None] >= s)
        keep.append(order[~np.triu(beats, 1).any(axis=0)])  # prefill: whoever stands earlier is no slower
    return np.sort(np.concatenate(keep))


def _count(dropped: list[Dropped], wall: int, name: str, removed: np.ndarray, reason: str) -> None:
    if removed.any():
        dropped.append(Dropped(wall, name, int(removed.sum()), reason))
