"""The candidate configurations, as arrays: which offers may be rented, and what each kind of machine can run.

Enumeration is exact and cheap. Every step that drops candidates says how many and because of which wall.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np

from models import algorithm, serving
from models.calibration import Constants, serving_constants
from models.dimensions import UnknownValue
from zoo.catalog import Catalog
from zoo.catalog import load as packaged_catalog
from zoo.specs import Accelerator, Offer, Region, Transformer
from zoo.units import Q, Quantity, ureg

from . import calibrated
from .query import AnyQuery, ServeQuery
from .records import QueryError

_FLOPS = ureg.Unit("flop/s")  # parsed once: it is slow


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


@functools.cache
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
class Runs:
    """What one kind of machine can run within memory and TPOT, in units of `instances` machines.

    A unit holds replicas that read prompts and decode, or replicas that only read and replicas that only decode. Its machines
    are full, so that u units are one pool of u times as many of everything: what carries(u) / u never falling rests on.
    """

    machine: Machine
    instances: int
    shapes: Sequence[Shape]  # of the machine; `stations.shape` and `stations.reader` point here
    stations: Stations
    saturation: np.ndarray  # array: requests per second of one unit with every slot busy or every prefill server busy

    def __len__(self) -> int:
        return len(self.saturation)

    def choice(self, position: int) -> Choice:
        """The layout at a position of the arrays."""
        s = self.stations
        reader = int(s.reader[position])
        counts = int(s.readers[position]), int(s.replicas[position])
        return Choice(self.shapes[s.shape[position]], int(s.batch[position]), None if reader < 0 else self.shapes[reader], counts)


@dataclass(frozen=True, slots=True)
class Choice:
    """The layout of a unit: of its replicas, and where some only read prompts, of those; `counts`: (readers, others)."""

    shape: Shape
    batch: int
    reader: Shape | None
    counts: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Arrays:
    """A record whose fields are arrays of one length."""

    def at(self, positions: np.ndarray) -> Self:
        """The same for some of them."""
        return type(self)(*(getattr(self, field.name)[positions] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All of them, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True, slots=True)
class Stations(_Arrays):
    """What the queues of a pool see of one unit, and what it is made of: arrays over units; seconds."""

    shape: np.ndarray  # position of the layout that decodes among the shapes of its machine
    reader: np.ndarray  # of the one that only reads prompts, -1: there is none
    replicas: np.ndarray  # per unit, of the layout that decodes
    readers: np.ndarray  # per unit, of the other
    batch: np.ndarray
    servers: np.ndarray  # per unit: prompts that are read at the same time
    slots: np.ndarray  # per unit: sequences that are decoded at the same time
    prefill_s: np.ndarray
    delay_s: np.ndarray  # before prefill starts
    tpot_s: np.ndarray
    residence_s: np.ndarray


@dataclass(frozen=True, slots=True)
class Times(_Arrays):
    """What the forward model says of replicas, once: arrays over (layout, batch), seconds. The last four are the prediction
    itself, the others are at the end of the interval that the question ranks by."""

    shape: np.ndarray  # position of the layout among the shapes of its machine
    pipeline_parallel: np.ndarray
    batch: np.ndarray
    tpot_s: np.ndarray
    prefill_s: np.ndarray
    delay_s: np.ndarray  # before prefill starts
    residence_s: np.ndarray
    step_s: np.ndarray  # a decode step without any prefill
    tokens: np.ndarray  # of each sequence, that such a step yields
    prompt_s: np.ndarray
    dispatch_s: np.ndarray
    prompt_bytes: np.ndarray

    def and_also(self, more: Times) -> Times:
        """These and more of the same machine, ordered by layout and batch."""
        both = Times.joined([self, more])
        return both.at(np.lexsort((both.batch, both.shape)))


@dataclass(frozen=True, slots=True)
class Survey:
    """Every layout of a kind of machine that memory allows, at a dense grid of batches: all that does not depend on TPOT."""

    machine: Machine
    shapes: list[Shape]
    constants: Constants
    fits: np.ndarray  # largest batch that fits, by shape
    tried: Times
    together: bool  # whether replicas that read prompts and decode are permitted
    apart: Apart | None  # None: the question wants no disaggregated pools
    dropped: tuple[Dropped, ...]


@dataclass(frozen=True, slots=True)
class Apart:
    """What prefill and decode apart need to know of a machine and a question."""

    slow: tuple[float, float]  # of TPOT and TTFT, at the end of the interval that the question ranks by
    bandwidth: tuple[float, float]  # [byte/s] of a chip to other replicas of its scale-up domain, and to other machines; 0: none
    output: float  # tokens of a request


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
    allowed, denied = (
        {name for name, region in catalog.regions.items() if any(in_region(catalog, region, pattern) for pattern in patterns)}
        for patterns in (query.regions.allow, query.regions.deny)
    )
    keep("regions.allow", "outside the regions allowed", (offer.region in allowed for offer in offers))
    keep("regions.deny", "in a region denied", (offer.region not in denied for offer in offers))
    return offers, dropped


def in_region(catalog: Catalog, region: Region, pattern: str) -> bool:
    """Whether a region is meant by a name, an alias, a pattern such as "aws/*", a country, or a label such as "EU"."""
    lower = pattern.lower()
    names = (region.name, region.region, region.cloud, *region.aliases)
    return any(fnmatchcase(name.lower(), lower) for name in names) or lower in {
        label.lower() for label in catalog.residency(region)
    }


def find(query: AnyQuery, catalog: Catalog, kind: str, name: str, keys: tuple[str | int, ...]):  # type: ignore[no-untyped-def]
    """The catalog's record, or QueryError naming the file, the line, the key and the nearest valid name, or where all stand."""
    from zoo.errors import UnknownName

    try:
        return catalog.find(kind, name)
    except UnknownName as error:
        raise QueryError(f"{query.locate(keys)}: {unknown(error, kind)}") from None


def unknown(error: Exception, kind: str) -> str:
    """What is wrong with a name; where none of its kind is near, how to see them all."""
    return str(error) if str(error).endswith("?") else f"{error}; `wallplan zoo list {kind}` lists them"


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
    reach = float(max(machine.domain, machine.accelerators))
    return serving.Links(unknown if inside is None else inside, none, unknown if between is None else between, none, reach)


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
        workload.disaggregation,
        None if workload.speculative is None else workload.speculative.model_dump_json(),
        query.rank,
        calibrated.digest_of(query),
        query.calibration.source,
        None if quality is None else quality.loss,
    )


# Batches between one and the largest that fits: every integer up to 16, then eight per doubling.
_DENSE_BATCHES = 16
_BATCHES_PER_DOUBLING = 8
# A batch between two of them is at most so many times the smaller: 2 ** (1 / 8), and a little for rounding.
BETWEEN_BATCHES = 1.1
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
    chips = {machine.accelerator.name: machine.accelerator for machine in machines}
    reached = {} if like else {name: serving_constants(chip, calibration=known) for name, chip in chips.items()}
    constants = [one.constants for one in like] or [reached[machine.accelerator.name] for machine in machines]
    kinds = _Kinds(machines, shapes, constants, model, query)
    fits = _largest_batches(kinds)
    grids = [[_batches(int(top)) for top in tops] for tops in fits]
    modes = query.workload.disaggregation
    together = "none" in modes
    apart = [
        apart_of(machine, model, query, fitted) if "pools" in modes else None
        for machine, fitted in zip(machines, constants, strict=True)
    ]
    tried = _tried_as_far_as_needed(kinds, grids, like, apart) if like else _times(kinds, grids)
    for gone, tops in zip(dropped, fits, strict=True):
        _count(gone, 2, "memory", tops < 1, "weights, one sequence's cache and the reserve exceed the accelerator's memory")
    return [
        Survey(machine, mine, fitted, tops, times, together, pools, tuple(gone))
        for machine, mine, fitted, tops, times, pools, gone in zip(
            machines, shapes, constants, fits, tried, apart, dropped, strict=True
        )
    ]


def _tried_as_far_as_needed(
    kinds: _Kinds, grids: Sequence[Sequence[Sequence[int]]], like: Sequence[Survey], apart: Sequence[Apart | None]
) -> list[Times]:
    """`_times` of each grid up to its first batch that breaks TPOT: as far as in `like`, the rest where all of those keep it."""
    query = kinds.query
    limit = tpot_limit(query)
    tightest = np.inf if limit is None else float(limit.m_as("s"))

    def cut(grid: Sequence[int], broken: float) -> int:
        """How many batches of a grid there are up to the first that is at least `broken`."""
        return min(int(np.searchsorted(grid, broken)) + 1, len(grid))

    first = [_first_broken(survey, tightest) for survey in like]
    counts = [[cut(grid, at) for grid, at in zip(mine, ends, strict=True)] for mine, ends in zip(grids, first, strict=True)]
    begun = [[grid[:n] for grid, n in zip(mine, ns, strict=True)] for mine, ns in zip(grids, counts, strict=True)]
    times = _times(kinds, begun)
    together = "none" in query.workload.disaggregation
    kept = [
        np.bincount(t.shape[_least_tpot(t, together, pools) <= tightest], minlength=len(mine))
        for t, mine, pools in zip(times, kinds.shapes, apart, strict=True)
    ]
    rest = [
        [grid[n:] if n == k else () for grid, n, k in zip(mine, ns, ks, strict=True)]
        for mine, ns, ks in zip(grids, counts, kept, strict=True)
    ]
    if not any(batches for mine in rest for batches in mine):
        return times
    return [one.and_also(more) for one, more in zip(times, _times(kinds, rest), strict=True)]


def _first_broken(survey: Survey, tightest: float) -> np.ndarray:
    """By shape, the first batch tried from which on TPOT [s] is broken however it is used; infinite where the last one keeps it.

    Measured steps may be a little shorter at a larger batch: one that is broken says nothing of the next.
    """
    ends, last = np.full(len(survey.shapes), np.inf), np.zeros(len(survey.shapes))
    keeps = _least_tpot(survey.tried, survey.together, survey.apart) <= tightest
    np.maximum.at(last, survey.tried.shape[keeps], survey.tried.batch[keeps])
    slow = survey.tried.batch > last[survey.tried.shape]
    np.minimum.at(ends, survey.tried.shape[slow], survey.tried.batch[slow])
    return ends


def apart_of(machine: Machine, model: Transformer, query: ServeQuery, constants: Constants) -> Apart:
    """What prefill and decode apart need to know of a machine and a question."""
    chip, links = machine.accelerator, links_of(machine)
    slow = serving.slowness(model, chip, constants, calibrated.constants_of(query), unmeasured=True)
    reached = serving.transfer_bandwidth(links, serving.device_of(chip), constants, np.array([True, False])).m_as("byte/s")
    inside, between = np.where([_inside(chip) is not None, _between_machines(chip) is not None], reached, 0.0)
    factors = slow if query.rank == "pessimistic" else (1.0, 1.0)
    return Apart(factors, (float(inside), float(between)), float(query.workload.tokens.output))


def runs_of(surveys: Sequence[Survey], model: Transformer, query: ServeQuery) -> list[tuple[list[Runs], list[Dropped]]]:
    """For each survey: every layout that keeps TPOT, grouped by the machines it spans, and what TPOT and memory removed.

    The batch is any of the grid that keeps TPOT, and the largest integer that does.
    """
    limit = tpot_limit(query)
    tightest = np.inf if limit is None else float(limit.m_as("s"))
    kept = [survey.tried.at(_keeps(survey, survey.tried, tightest)) for survey in surveys]
    alone = [survey.tried.at(_keeps_alone(survey, survey.tried, tightest)) for survey in surveys]
    machines, shapes, constants = ([getattr(survey, name) for survey in surveys] for name in ("machine", "shapes", "constants"))
    kinds = _Kinds(machines, shapes, constants, model, query)
    # of the integers between the last batch that keeps TPOT and the next one tried, only the largest is of interest
    gaps = [(_gaps(survey, good), _gaps(survey, better)) for survey, good, better in zip(surveys, kept, alone, strict=True)]
    some = _times(kinds, [_batches_within(both, _every_few) for both in gaps])
    gaps = [
        (_narrowed(one, more, _keeps(survey, more, tightest)), _narrowed(other, more, _keeps_alone(survey, more, tightest)))
        for survey, (one, other), more in zip(surveys, gaps, some, strict=True)
    ]
    rest = _times(kinds, [_batches_within(both, tuple) for both in gaps])
    finer = [more.and_also(others) for more, others in zip(some, rest, strict=True)]
    kept = [
        _with_largest(good, more.at(_keeps(survey, more, tightest)))
        for survey, good, more in zip(surveys, kept, finer, strict=True)
    ]
    alone = [
        _with_largest(good, more.at(_keeps_alone(survey, more, tightest)))
        for survey, good, more in zip(surveys, alone, finer, strict=True)
    ]
    return _grouped(surveys, kept, alone) if surveys else []


def _least_tpot(times: Times, together: bool, apart: Apart | None) -> np.ndarray:
    """TPOT [s] of each replica in the permitted use that keeps it lowest."""
    alone = np.full_like(times.step_s, np.inf) if apart is None else times.step_s / times.tokens * apart.slow[0]
    return np.minimum(alone, times.tpot_s) if together else alone


def _keeps(survey: Survey, times: Times, tightest: float) -> np.ndarray:
    """Positions of replicas, reading prompts too, that keep TPOT."""
    if not survey.together:
        return np.zeros(0, int)
    return np.flatnonzero(times.tpot_s <= tightest)


def _keeps_alone(survey: Survey, times: Times, tightest: float) -> np.ndarray:
    """Positions of replicas that keep TPOT when they only decode."""
    if survey.apart is None:
        return np.zeros(0, int)
    return np.flatnonzero(times.step_s / times.tokens * survey.apart.slow[0] <= tightest)


def _with_largest(good: Times, more: Times) -> Times:
    """`good`, and of `more` the largest batch of each shape where it is larger than those of `good`."""
    last = np.zeros(max(good.shape.max(initial=-1), more.shape.max(initial=-1)) + 1)
    np.maximum.at(last, good.shape, good.batch)
    larger = np.flatnonzero(more.batch > last[more.shape])
    shape = more.shape[larger]
    return good.and_also(more.at(larger[np.append(shape[1:] != shape[:-1], True)] if len(larger) else larger))


@dataclass(frozen=True, slots=True)
class _Gaps:
    """By shape, the last batch known to keep TPOT and the first above it known to break it; alike where none lies between."""

    last: np.ndarray
    first: np.ndarray


def _gaps(survey: Survey, good: Times) -> _Gaps:
    """Between the last batch of the grid that keeps TPOT and the first that does not; none where no batch does either.

    TPOT never falls with the batch, so those that keep it come first (measured steps may fall a little: then it is the last
    that keeps it of those tried that counts).
    """
    last = np.zeros(len(survey.shapes), int)
    np.maximum.at(last, good.shape, good.batch.astype(int))
    first = np.full(len(last), np.iinfo(int).max)
    slow = survey.tried.batch > last[survey.tried.shape]
    np.minimum.at(first, survey.tried.shape[slow], survey.tried.batch[slow].astype(int))
    return _Gaps(last, np.where((last > 0) & (first < np.iinfo(int).max), first, last))


def _narrowed(gaps: _Gaps, more: Times, keeps: np.ndarray) -> _Gaps:
    """The same after more batches, of which those at the positions `keeps` keep TPOT."""
    last, first = gaps.last.copy(), gaps.first.copy()
    np.maximum.at(last, more.shape[keeps], more.batch[keeps].astype(int))
    slow = more.batch > last[more.shape]
    np.minimum.at(first, more.shape[slow], more.batch[slow].astype(int))
    return _Gaps(last, first)


def _batches_within(both: Iterable[_Gaps], chosen: Callable[[range], Iterable[int]]) -> list[list[int]]:
    """By shape, those batches within either of two gaps that are chosen."""
    ends = zip(*(zip(gaps.last.tolist(), gaps.first.tolist(), strict=True) for gaps in both), strict=True)
    return [sorted({batch for last, first in mine for batch in chosen(range(last + 1, first))}) for mine in ends]


def _every_few(batches: range) -> range:
    """As many of them as then lie between two."""
    stride = math.isqrt(len(batches)) + 1
    return batches[stride - 1 :: stride]


def most_carried(survey: Survey, tpot: float, first_token: Sequence[tuple[float, float]] = ()) -> dict[int, float]:
    """By machines of a unit: a rate [1/s] that no unit of so many carries more than at a TPOT [s]; empty where none keeps it, or
    where even an idle one misses one of the TTFT targets (percentile, seconds).

    Of the batches between two that were tried the largest that keeps TPOT is missing here. As residence and prefill time never
    fall with the batch, it carries at most as many times more as it is larger. Of C chips apart, some read and the others
    decode: together at most C / (1 / p + 1 / d), p and d the most that one chip of either kind does.
    """
    times, top = survey.tried, dict[int, float]()
    spans, units = _together(survey, times.at(_keeps(survey, times, tpot)))
    rates = np.minimum(units.servers / units.prefill_s, BETWEEN_BATCHES * units.slots / units.residence_s)
    fine = idle_in_time(units.delay_s, units.prefill_s, first_token)
    for span in np.unique(spans[fine]).tolist():
        top[span] = float(rates[fine & (spans == span)].max())
    decoding = times.at(_keeps_alone(survey, times, tpot))
    if survey.apart is not None and len(decoding.batch):
        chips = np.array([shape.chips for shape in survey.shapes])
        slow_token, slow_first = survey.apart.slow
        reading = times.at(np.flatnonzero(times.batch == 1))
        soonest = 2 * (reading.dispatch_s + decoding.step_s.min())
        if not idle_in_time(slow_first * soonest, slow_first * reading.prompt_s, first_token).any():
            return top
        read = np.max(reading.pipeline_parallel / chips[reading.shape] / (slow_first * reading.prompt_s))
        held = slow_token * decoding.step_s * (1 + survey.apart.output / decoding.tokens)
        decode = np.max(BETWEEN_BATCHES * decoding.batch / chips[decoding.shape] / held)
        each = survey.machine.accelerators / (1 / read + 1 / decode)
        top |= {span: max(top.get(span, 0.0), span * float(each)) for span in _UNIT_SPANS}
    return top


def idle_first_token(delay: np.ndarray, prefill: np.ndarray, percentile: float) -> np.ndarray:
    """TTFT [s] of idle replicas at a percentile p: delay + prefill ln(1 / (1 - p)); prefill [s] is the mean of an exponential."""
    return np.asarray(delay - prefill * np.log1p(-percentile))


def idle_in_time(delay: np.ndarray, prefill: np.ndarray, targets: Iterable[tuple[float, float]]) -> np.ndarray:
    """Whether idle replicas meet every TTFT target (percentile, seconds)."""
    met = [idle_first_token(delay, prefill, percentile) <= seconds for percentile, seconds in targets]
    return np.all([np.ones(len(delay), bool), *met], axis=0)


def _grouped(surveys: Sequence[Survey], times: Sequence[Times], alone: Sequence[Times]) -> list[tuple[list[Runs], list[Dropped]]]:
    """By survey, the units that keep TPOT, by the machines they span, without those that others beat, and what was dropped.

    `times`: of replicas that read prompts and decode; `alone`: of those that only decode.
    """
    both = [_together(survey, mine) for survey, mine in zip(surveys, times, strict=True)]
    of, spans = np.repeat(np.arange(len(both)), [len(spans) for spans, _ in both]), np.concatenate([spans for spans, _ in both])
    stations = Stations.joined([units for _, units in both])
    if any(survey.apart is not None for survey in surveys):
        of_apart, spans_apart, units_apart = _apart(surveys, alone)
        of, spans = np.concatenate([of, of_apart]), np.concatenate([spans, spans_apart])
        stations = Stations.joined([stations, units_apart])
    best = _undominated(of * 10_000 + spans, stations)
    of, spans, stations = of[best], spans[best], stations.at(best)
    saturation = np.minimum(stations.servers / stations.prefill_s, stations.slots / stations.residence_s)
    result = []
    for i, survey in enumerate(surveys):
        dropped, tried = list(survey.dropped), np.append(times[i].shape, alone[i].shape)
        too_slow = (survey.fits >= 1) & ~np.isin(np.arange(len(survey.shapes)), tried)
        _count(dropped, 4, "serving", too_slow, "TPOT at batch 1 is above its limit")
        mine = np.flatnonzero(of == i)
        by_span = [(span, mine[spans[mine] == span]) for span in np.unique(spans[mine]).tolist()]
        runs = [Runs(survey.machine, span, survey.shapes, stations.at(at), saturation[at]) for span, at in by_span]
        result.append((runs, dropped))
    return result


def _together(survey: Survey, times: Times) -> tuple[np.ndarray, Stations]:
    """(machines of a unit, the unit) for replicas that read prompts and decode: as many as fill one machine, or one."""
    machine = survey.machine
    chips = np.array([shape.chips for shape in survey.shapes], float)[times.shape]
    spans = np.where(chips <= machine.accelerators, 1, chips / machine.accelerators).astype(int)
    replicas, none = np.floor(spans * machine.accelerators / chips), np.zeros(len(chips), int)
    return spans, Stations(
        times.shape, none - 1, replicas, none, times.batch, replicas * times.pipeline_parallel, replicas * times.batch,
        times.prefill_s, times.delay_s, times.tpot_s, times.residence_s,
    )  # fmt: skip


# Units of disaggregated pools: machines of a unit, and the most replicas of both kinds that share it.
_UNIT_SPANS = (1, 2, 4, 8)
UNIT_REPLICAS = 8


def _apart(surveys: Sequence[Survey], alone: Sequence[Times]) -> tuple[np.ndarray, np.ndarray, Stations]:
    """(Survey, machines of a unit, the unit), ordered by survey, for prefill and decode apart: `readers` replicas of one layout
    beside others of a second. `alone`: replicas that keep TPOT when they only decode, none where a question wants none apart.

    Both have the same number formats and draft, since the cache is handed over as it is. A reader keeps, for each stage, the
    prompt that it reads and the one that it sends. Decode batches are those above half of the largest that keeps TPOT.

    Pairs are made of layouts that no other layout of as many chips beats in all that enters a unit: then the unit with the
    better one has no longer times, no fewer servers and slots, and carries no less. That is exact, like `_undominated`.
    """
    shapes = [shape for survey in surveys for shape in survey.shapes]
    first = np.cumsum([0, *(len(survey.shapes) for survey in surveys)])
    chips = np.array([shape.chips for shape in shapes], int)
    formats = np.unique([f"{s.weights.name} {s.cache.name} {s.drafted}" for s in shapes], return_inverse=True)[1]
    kind = (np.repeat(np.arange(len(surveys)), np.diff(first)) * 1000 + formats) * 10_000 + chips

    def of_all(times: Sequence[Times]) -> tuple[np.ndarray, Times, np.ndarray]:
        """(survey, times, layout counted over all surveys)."""
        of = np.repeat(np.arange(len(times)), [len(one.shape) for one in times])
        joined = Times.joined(times)
        return of, joined, joined.shape + first[of]

    able = [np.flatnonzero(survey.tried.batch == 1) if survey.apart is not None else np.zeros(0, int) for survey in surveys]
    reader, read, layout = of_all([survey.tried.at(at) for survey, at in zip(surveys, able, strict=True)])
    fits = np.concatenate([survey.fits for survey in surveys])
    kept = np.flatnonzero(fits[layout] >= 2 * read.pipeline_parallel)
    kept = kept[front(kind[layout[kept]] * 100 + read.pipeline_parallel[kept].astype(int),
                       read.prompt_s[kept], read.dispatch_s[kept], read.prompt_bytes[kept])]  # fmt: skip
    reader, read, read_layout = reader[kept], read.at(kept), layout[kept]

    decoder, decode, layout = of_all(alone)
    top = np.zeros(len(shapes))
    np.maximum.at(top, layout, decode.batch)
    kept = np.flatnonzero(decode.batch > top[layout] / 2)
    kept = kept[front(kind[layout[kept]], decode.step_s[kept], -decode.batch[kept], decode.prompt_bytes[kept])]
    decoder, decode, decode_layout = decoder[kept], decode.at(kept), layout[kept]

    pairs, splits = [], []
    for i, survey in enumerate(surveys):
        if survey.apart is None:
            continue
        machine, linked = survey.machine, tuple(bandwidth > 0 for bandwidth in survey.apart.bandwidth)
        sizes = tuple(sorted(set(chips[first[i] : first[i + 1]].tolist())))
        table = np.array(_splits(machine.accelerators, machine.domain, sizes, linked), int).reshape(-1, 5)
        reads, decodes = np.flatnonzero(reader == i), np.flatnonzero(decoder == i)
        same = formats[read_layout[reads]][:, None] == formats[decode_layout[decodes]]
        possible = (chips[read_layout[reads]][:, None] == table[:, 0])[:, None, :] & (
            chips[decode_layout[decodes]][:, None] == table[:, 1]
        )
        together = same[:, :, None] & possible
        one, other, many = np.unravel_index(np.flatnonzero(together), together.shape)  # several times as fast as `nonzero`
        pairs.append((reads[one], decodes[other]))
        splits.append(table[many])
    one, other = (np.concatenate(side) for side in zip(*pairs, strict=True))
    of, read, decode, table = reader[one], read.at(one), decode.at(other), np.concatenate(splits)
    spans, readers, replicas = table[:, 2], table[:, 3], table[:, 4]

    reach = np.array([max(survey.machine.domain, survey.machine.accelerators) for survey in surveys])[of]
    size = np.array([survey.machine.accelerators for survey in surveys])[of]
    whole = Apart((1.0, 1.0), (0.0, 0.0), 0.0)  # of a survey that has no pairs
    figures = [survey.apart or whole for survey in surveys]
    slow_token, slow_first = np.array([apart.slow for apart in figures])[of].T
    inside, between = np.array([apart.bandwidth for apart in figures])[of].T
    transfer = serving.transfer_time(
        Q(read.prompt_bytes, "byte"), Q(decode.prompt_bytes, "byte"), readers, replicas,
        Q(np.where(spans * size <= reach, inside, between), "byte/s"),
    )  # fmt: skip
    unit = serving.apart(
        Q(read.prompt_s, "s"), Q(read.dispatch_s, "s"), transfer, Q(decode.step_s, "s"),
        np.array([apart.output for apart in figures])[of], readers * read.pipeline_parallel, replicas * decode.batch, slow_token,
        slow_first,
        decode.tokens,
    )  # fmt: skip
    seconds = (time.m_as("s") for time in (unit.prefill_time, unit.delay, unit.tpot, unit.residence))
    stations = Stations(
        decode.shape, read.shape, replicas.astype(float), readers, decode.batch, unit.servers, unit.slots, *seconds
    )
    return of, spans, stations


@functools.cache
def _splits(
    machine_size: int, domain: int, sizes: tuple[int, ...], linked: tuple[bool, bool]
) -> list[tuple[int, int, int, int, int]]:
    """(chips of a reader, chips of a decoding replica, machines, readers, decoding replicas) of every unit that is full.

    One size divides the other, so that replicas fill machines without straddling two. A unit that is another one several times
    over is left out: it is a pool of the smaller one. linked: whether chips reach others of their domain, and other machines.
    """
    found = []
    for reader, decoder in ((r, d) for r in sizes for d in sizes if r % d == 0 or d % r == 0):
        for span in _UNIT_SPANS:
            whole = span * machine_size
            if not linked[0 if whole <= max(domain, machine_size) else 1]:
                continue
            for readers in range(1, UNIT_REPLICAS):
                replicas, rest = divmod(whole - readers * reader, decoder)
                if rest or not 1 <= replicas <= UNIT_REPLICAS - readers:
                    continue
                if span > 1 and readers % 2 == 0 and replicas % 2 == 0:
                    continue
                found.append((reader, decoder, span, readers, replicas))
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout before its batch is chosen."""

    weights: Format
    cache: Format
    peak: Quantity  # FLOP/s, in base units
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: int
    drafted: int = 0  # tokens a step that speculative decoding drafts

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
        peak = None if peak is None else peak.to(_FLOPS)
        spans = [
            (t, p, e)
            for t in tensor
            for p in (1, 2, 3, 4, 5, 6, 8)
            if p <= model.layers and _packs(t * p, machine) and (p == 1 or reaches_out)
            for e in _expert_degrees(model, machine, t, p)
            if all(wanted is None or degree in wanted for degree, wanted in ((t, allowed.tp), (p, allowed.pp), (e, allowed.ep)))
        ]
        drafts = {span: _drafted(model, query, *span) for span in spans}
        caches = [format_of(kv) for kv in query.workload.kv_precisions(name)]
        if peak is None:
            unsupported += len(spans) * len(caches)
            continue
        for cache in caches:
            if _too_lossy(query, weights, cache):
                lossy += len(spans)
                continue
            shapes += [Shape(weights, cache, peak, *span, k) for span in spans for k in drafts[span]]
    if unsupported:
        dropped.append(Dropped(1, "compute", unsupported, "the chip has no peak at this precision"))
    if lossy:
        dropped.append(Dropped(13, "fidelity", lossy, "quality lost at this precision is above its limit, or unknown"))
    return shapes


def _drafted(model: Transformer, query: ServeQuery, tensor: int, pipeline: int, expert: int) -> list[int]:
    """Tokens that may be drafted a step: in one stage only, and where the draft's heads can be split as the model's are."""
    speculative = query.workload.speculative
    if speculative is None:
        return [0]
    draft = model.draft if isinstance(model, serving.Drafted) else None
    possible = pipeline == 1 and (draft is None or draft.heads % tensor == 0)
    return [k for k in speculative.tokens if k == 0 or possible]


def _packs(chips: int, machine: Machine) -> bool:
    """Replicas fill machines without a remainder that no replica uses: inside one machine, or a whole number of machines."""
    if chips <= machine.accelerators:
        return machine.accelerators % chips == 0
    span, rest = divmod(chips, machine.accelerators)
    return rest == 0 and span <= max(_LARGEST_SPAN, machine.domain // machine.accelerators)


def _expert_degrees(model: Transformer, machine: Machine, tensor: int, pipeline: int) -> list[int]:
    """Expert parallelism: none, or over a group wider than the tensor-parallel one that divides the experts.

    It may span machines whose chips reach others: then the exchange of tokens goes over the NIC.
    """
    if not model.experts:
        return [1]
    reach = max(machine.domain, machine.accelerators)
    far = _between_machines(machine.accelerator) is not None
    wide = [e for e in (tensor * k for k in (2, 4, 8, 16, 32)) if (e <= reach or far) and model.experts % e == 0]
    return [1, *(e for e in wide if _packs(e * pipeline, machine))]


def _too_lossy(query: ServeQuery, weights: Format, cache: Format) -> bool:
    if query.sla.quality is None:
        return False
    losses = [format.loss for format in {weights, cache}]
    return any(loss is None for loss in losses) or sum(loss or 0.0 for loss in losses) > query.sla.quality.loss


@dataclass(frozen=True)
class _Kinds:
    """Kinds of machine with their layouts, counted over all of them: what the forward model wants of each is gathered once."""

    machines: Sequence[Machine]
    shapes: Sequence[Sequence[Shape]]
    constants: Sequence[Constants]
    model: Transformer
    query: ServeQuery

    @cached_property
    def _of_machines(self) -> tuple[serving.Device, serving.Links, Constants, np.ndarray]:
        """(devices, links, constants, how slow they may be: of TPOT, TTFT, by whether tokens are drafted) of all kinds."""
        pairs = [(machine.accelerator, c) for machine, c in zip(self.machines, self.constants, strict=True)]
        distinct = {(id(chip), id(c)): (chip, c) for chip, c in pairs}  # many kinds of machine have the same chip
        place = {key: position for position, key in enumerate(distinct)}
        at = np.array([place[id(chip), id(c)] for chip, c in pairs])
        chips, constants = zip(*distinct.values(), strict=True)
        known = calibrated.constants_of(self.query)
        slow = [
            [serving.slowness(self.model, chip, c, known, drafting) for drafting in (False, True)]
            for chip, c in zip(chips, constants, strict=True)
        ]
        return (
            serving.gather([serving.device_of(chip) for chip in chips], at),
            serving.gather([links_of(machine) for machine in self.machines], np.arange(len(self.machines))),
            serving.gather(constants, at),
            np.array(slow)[at],
        )

    @cached_property
    def _of_layouts(self) -> np.ndarray:
        """(weights, cache, peak, efficiency, tensor, pipeline, expert, drafted, position of the machine) x layouts."""
        rows = np.array(
            [
                (
                    s.weights.bytes_per_element.magnitude,
                    s.cache.bytes_per_element.magnitude,
                    s.peak.magnitude,
                    c.compute_efficiency[s.weights.computes_in],
                    s.tensor_parallel,
                    s.pipeline_parallel,
                    s.expert_parallel,
                    s.drafted,
                    i,
                )
                for i, (mine, c) in enumerate(zip(self.shapes, self.constants, strict=True))
                for s in mine
            ],
            float,
        )
        return rows.reshape(-1, 9).T.copy()

    @cached_property
    def of_one(self) -> serving.Deployment:
        """Every layout at a batch of one."""
        count = self._of_layouts.shape[1]
        return self.deployment(np.arange(count), np.ones(count))[0]

    def deployment(self, at: np.ndarray, batch: np.ndarray) -> tuple[serving.Deployment, tuple[np.ndarray, np.ndarray]]:
        """(the layouts `at`, each with its batch; how slow they may be, of TPOT and TTFT) as arrays."""
        *numbers, machine = self._of_layouts[:, at]
        weights, cache, peak, efficiency, tensor, pipeline, expert, tokens = numbers
        layouts = serving.Layouts(
            Q(weights, "byte"), Q(cache, "byte"), Q(peak, "flop/s"), efficiency, tensor, pipeline, expert, batch
        )
        where = machine.astype(int)
        device, links, constants, slow = self._of_machines
        deployment = serving.Deployment(
            serving.work_of(self.model, traffic(self.query), layouts.kv_bytes),
            layouts,
            serving.take(device, where),
            serving.take(links, where),
            serving.take(constants, where),
            draft_of(self.query, self.model, layouts.kv_bytes, tokens),
        )
        slow = slow[where, (tokens > 0).astype(int)]
        return deployment, (slow[:, 0], slow[:, 1])


def measured_kernels(
    machines: Sequence[Machine],
    shapes: Sequence[Sequence[Shape]],
    at: np.ndarray,
    batch: np.ndarray,
    model: Transformer,
    query: ServeQuery,
) -> tuple[serving.Measured | None, np.ndarray]:
    """(times of the question's `calibration.source` over the model's own, None where there are none; where it has some).

    `at` picks shapes, counted over all machines, each with its `batch`. Compared on the packaged records of the chips, whatever
    the question makes of their figures: what moves a figure moves measured times as it moves modelled ones. Layouts with
    pipeline stages or drafted tokens are not asked for. Raises QueryError where the source is not there.
    """
    tool, known = calibrated.tool_of(query), np.zeros(len(at), bool)
    if tool is None:
        return None, known
    from models import silicon

    packaged, named = packaged_catalog().chips, silicon.names_of(model, tool)
    if not any(named.values()):  # then no chip need be looked for
        return None, known
    chips = [packaged.get(m.accelerator.name, m.accelerator) for m in machines]
    there = [silicon.system_of(chip.name, tool) is not None for chip in chips]

    def may_be_known(s: Shape, peaks: Iterable[str]) -> bool:
        plain = s.pipeline_parallel == 1 and not s.drafted
        return plain and bool(named.get(s.weights.name)) and s.weights.computes_in in peaks

    asked = [found and may_be_known(s, c.peak) for mine, c, found in zip(shapes, chips, there, strict=True) for s in mine]
    ask = np.flatnonzero(np.array(asked, bool)[at])
    if not len(ask):
        return None, known
    theirs = [replace(machine, accelerator=chip) for machine, chip in zip(machines, chips, strict=True)]
    same = [
        [replace(s, peak=c.peak.get(s.weights.computes_in, s.peak).to("flop/s")) for s in mine]
        for mine, c in zip(shapes, chips, strict=True)
    ]
    calibration = calibrated.constants_of(query)
    constants = [serving_constants(chip, calibration=calibration) for chip in chips]
    deployment, _ = _Kinds(theirs, same, constants, model, query).deployment(at[ask], batch[ask])
    names = [(c.name, s.weights.name, s.cache.name) for mine, c in zip(shapes, chips, strict=True) for s in mine]
    chip, weights, cache = np.array(names)[at[ask]].T
    found, known[ask] = silicon.measured(deployment, model, chip, weights, cache, tool)
    whole = [np.ones(len(at)) for _ in fields(serving.Measured)]
    for values, field in zip(whole, fields(serving.Measured), strict=True):
        values[ask] = getattr(found, field.name)
    return serving.Measured(*whole), known


def draft_of(query: ServeQuery, model: Transformer, kv_bytes: Quantity, tokens: np.ndarray) -> serving.Draft | None:
    """What drafts `tokens` a step, one element per layout; None where the question wants no speculative decoding."""
    speculative = query.workload.speculative
    if speculative is None:
        return None
    return serving.draft_of(model, traffic(query), kv_bytes, tokens, speculative.acceptance, speculative.cost or 0.0)


def _largest_batches(kinds: _Kinds) -> list[np.ndarray]:
    """By machine and shape, the most sequences that fit in memory and that the engine schedules; zero where none fits."""
    ends = np.cumsum([len(mine) for mine in kinds.shapes])
    if not len(ends) or not ends[-1]:
        return [np.zeros(0) for _ in kinds.shapes]
    deployment = kinds.of_one
    scheduled = deployment.constants.largest_batch * deployment.layouts.attention_parallel  # by every attention rank
    return np.split(np.minimum(serving.largest_batch(deployment), np.floor(scheduled)), ends[:-1])


def _times(kinds: _Kinds, grids: Sequence[Sequence[Sequence[int]]]) -> list[Times]:
    """By machine: what the forward model says of each shape at each batch of its grid."""
    machines, shapes, model, query = kinds.machines, kinds.shapes, kinds.model, kinds.query
    counts = [len(grid) for mine in grids for grid in mine]
    at = np.repeat(np.arange(len(counts)), counts)
    batch = np.array([float(size) for mine in grids for grid in mine for size in grid])
    if not len(at):
        return [Times(np.zeros(0, int), *(np.zeros(0) for _ in fields(Times)[1:])) for _ in machines]
    deployment, slow = kinds.deployment(at, batch)
    measured, _ = measured_kernels(machines, shapes, at, batch, model, query)
    deployment = replace(deployment, measured=measured)
    alone = None if measured is not None else serving.prefill_alone(kinds.of_one)[at]
    predicted = serving.replicas(deployment, *slow, prefill_time=alone)
    replica = ranked(query, predicted)
    shape = np.concatenate([np.arange(len(mine)) for mine in shapes])[at]
    seconds = (
        time.m_as("s")
        for time in (
            replica.tpot, replica.prefill_time, replica.first_token_delay, replica.residence,
            predicted.decode_step, predicted.prefill_time, predicted.dispatch,
        )
    )  # fmt: skip
    *ranked_s, step, prompt, dispatch = seconds
    figures = (*ranked_s, step, predicted.tokens_per_step, prompt, dispatch, predicted.prompt_cache.m_as("byte"))
    arrays = (np.broadcast_to(np.asarray(values), batch.shape) for values in figures)
    whole = Times(shape, deployment.layouts.pipeline_parallel, batch, *arrays)
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


@functools.cache
def _batches(largest: int) -> tuple[int, ...]:
    """The batches tried up to and with `largest`."""
    if largest < 1:
        return ()
    grid = set(range(1, min(largest, _DENSE_BATCHES) + 1)) | {largest}
    for step in range(1, 200):
        batch = round(_DENSE_BATCHES * 2 ** (step / _BATCHES_PER_DOUBLING))
        if batch >= largest:
            break
        grid.add(batch)
    return tuple(sorted(grid))


def _undominated(group: np.ndarray, stations: Stations) -> np.ndarray:
    """Positions of units that no other unit of their group with as many servers beats in all that a pool needs: prefill time,
    delay before it, requests per second, slots. A pool of the better one carries at least as much at any size, whatever
    either is made of."""
    rate = stations.slots / stations.residence_s
    kind = group * 100_000 + stations.servers.astype(int)
    return front(kind, stations.prefill_s, stations.delay_s, -rate, -stations.slots)


# Comparisons that are made at once.
_AT_ONCE = 2_000_000
# How far before it in the order something is looked for that beats it, before all are compared with all.
_DISTANCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@functools.cache
def _widths(largest: int) -> tuple[int, ...]:
    """One, and sizes an eighth apart up to `largest` and beyond."""
    widths = [1, 2]
    while widths[-1] < largest:
        widths.append(widths[-1] + max(1, widths[-1] // 8))
    return tuple(widths)


def front(kind: np.ndarray, *costs: np.ndarray) -> np.ndarray:
    """Positions of what nothing else of its kind beats in every cost; of equals, the first stays.

    Whoever stands earlier in the order of the first cost has no more of it, so each is held against those before it in the
    other costs: against a few of them at fixed distances first, and what is left then against all that is left. (What beats
    something that was beaten beats whatever that one beat.) Kinds of about the same size go together, padded to the largest.
    """
    order = np.lexsort([*reversed(costs), kind])
    theirs, others = kind[order], [cost[order] for cost in costs[1:]]
    beaten = np.zeros(len(order), bool)
    for distance in _DISTANCES:
        if distance < len(order):
            near = theirs[:-distance] == theirs[distance:]
            for cost in others:
                near &= cost[:-distance] <= cost[distance:]
            beaten[distance:] |= near
    order = order[~beaten]
    starts = np.flatnonzero(np.diff(kind[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    keep = [order[starts[sizes == 1]]]
    widths = _widths(int(sizes.max(initial=1)))
    for below, width in pairwise(widths):
        those = np.flatnonzero((sizes > below) & (sizes <= width))
        earlier = np.triu(np.ones((width, width), bool), 1)
        for some in np.array_split(those, max(1, len(those) * width * width // _AT_ONCE)):
            there = np.arange(width) < sizes[some][:, None]
            at = order[np.where(there, starts[some][:, None] + np.arange(width), 0)]
            beats = earlier & there[:, :, None]
            for cost in costs[1:]:
                beats &= cost[at][:, :, None] <= cost[at][:, None, :]
            keep.append(at[there & ~beats.any(axis=1)])
    return np.sort(np.concatenate(keep))


def _count(dropped: list[Dropped], wall: int, name: str, removed: np.ndarray, reason: str) -> None:
    if removed.any():
        dropped.append(Dropped(wall, name, int(removed.sum()), reason))
