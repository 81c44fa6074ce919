"""A training question with everything it names looked up: model, stack, market, storage, reliability, dates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

from models import algorithm, operations
from models.constants import table
from models.dimensions import ImpossibleValue, UnknownValue
from models.training import TrainingJob, shape_of
from models.training_constants import RECIPES, Stack, stack, stacks_on
from models.training_job import Ways, published, ways_of
from zoo.catalog import Catalog
from zoo.specs import Interruptions, Offer, Transformer
from zoo.units import Q, Quantity

from .. import calibrated, space
from ..prepare import model_of, open_catalog
from ..query import TrainQuery
from ..records import CannotBe, QueryError
from ..space import Dropped, Machine
from ..uncertainty import quantile
from .layouts import choices_of
from .search import Task

# Tokens per parameter of a compute-optimal run: Hoffmann et al. (2022), as in wall 11.
OPTIMAL_RATIO = 20.0
# Without a deadline, jobs longer than this are not considered.
LONGEST = Q(10.0, "year")
LONGEST_TEXT = f"at most {LONGEST.m_as('year'):g} years"


@dataclass(frozen=True, slots=True)
class Store:
    """Bandwidths of the storage [byte/s]: of one node (None: no limit per node) and of all together (None: no limit)."""

    name: str
    read: tuple[Quantity | None, Quantity | None]
    write: tuple[Quantity | None, Quantity | None]


@dataclass(frozen=True, slots=True)
class Guard:
    """Factors that a job is planned for so that the deadline and every limit hold with probability `uncertain.hold`.

    Each uncertain figure is taken at the quantile 1 - (1 - p) / n of its unfavourable side, n being how many of them there are:
    the probability that any is worse is then at most 1 - p (a union bound, whatever their joint distribution).
    """

    prices: float = 1.0
    efficiency: float = 1.0
    intensity: float = 1.0
    failures: float = 1.0

    @property
    def shares(self) -> dict[str, float]:
        """What is left of each limit for a job at today's prices, efficiency and intensity. Power and chips do not vary."""
        of_time = self.efficiency
        return {
            "time": of_time, "cost": of_time / self.prices, "carbon": of_time / self.intensity, "water": of_time,
        }  # fmt: skip


def guard_of(query: TrainQuery) -> Guard:
    """The guard of a question; every factor 1 where it does not say `hold`."""
    u = query.uncertain
    spreads = {name: getattr(u, name) for name in ("prices", "efficiency", "intensity", "failures")}
    known = {name: spread for name, spread in spreads.items() if spread is not None}
    if u.hold is None:
        return Guard()
    risk = (1 - u.hold) / max(len(known), 1)
    at = {name: float(quantile(spread, risk if name == "efficiency" else 1 - risk)) for name, spread in known.items()}
    return Guard(**at)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, resolved. `mtbf`: (low, typical, high) per accelerator."""

    query: TrainQuery
    catalog: Catalog
    task: Task
    tokens: Quantity
    steps: int
    start: date
    deadline: Quantity | None  # after the start
    store: Store
    mtbf: tuple[Quantity, Quantity, Quantity]  # what is planned for: see `guard`
    guard: Guard
    restart: Quantity
    noise: float | None  # multiplier of private training
    offers: tuple[Offer, ...]
    dropped: tuple[Dropped, ...]

    @property
    def model(self) -> Transformer:
        return self.task.model

    @property
    def machines(self) -> list[tuple[Machine, list[Offer]]]:
        """Offers by kind of machine."""
        return space.machines_of(self.offers, self.catalog)


def question_of(query: TrainQuery, today: date, catalog: Catalog | None = None) -> Question:
    """Everything that the query names, looked up. Raises QueryError, one line, for what does not exist, CannotBe for what does
    not fit together.

    catalog: what `open_catalog` gives for the query, where it is known already, or a variation of it.
    """
    catalog = open_catalog(query) if catalog is None else catalog
    model = model_of(query, catalog)
    offers, dropped = space.offers_of(query, catalog)
    start = date.fromisoformat(query.start) if query.start else today
    tokens = _tokens(query, model)
    sequences = query.workload.sequences
    steps = int(np.ceil(tokens.m_as("token") / (sequences * query.workload.length) - 1e-9))
    slowdown, noise = _privacy(query, steps)
    task = _task(query, model, slowdown)
    offers, elsewhere = _of_stack(query, catalog, offers, task.stack)
    _check_degrees(query, model)
    guard = guard_of(query)
    offers, unfit = _of_whole_instances(query, catalog, offers)
    return Question(
        query=query,
        catalog=catalog,
        task=task,
        tokens=tokens,
        steps=steps,
        start=start,
        deadline=_deadline(query, start),
        store=_store(query, catalog),
        mtbf=_guarded(_mtbf(query, catalog), guard),
        guard=guard,
        restart=query.reliability.restart or Q(published("restart_minutes").typical, "min"),
        noise=noise,
        offers=tuple(offers),
        dropped=(*dropped, *elsewhere, *unfit),
    )


def _task(query: TrainQuery, model: Transformer, slowdown: float) -> Task:
    workload = query.workload
    try:
        software = stack(workload.stack, workload.release or "")
        ways = ways_of(workload.stack)
    except UnknownValue as error:
        names = ", ".join(record["stack"] for record in table("training_stack_layouts"))
        hint = str(error).partition("(")[2].partition(")")[0]
        near = f"; {hint}" if hint.startswith("did") else ""
        raise QueryError(
            f"{query.locate(('workload', 'stack'))}: {workload.stack!r} is no training stack{near} (known: {names})"
        ) from None
    unknown = [name for name in workload.precision if name not in RECIPES]
    if unknown:
        raise QueryError(
            f"{query.locate(('workload', 'precision'))}: {unknown[0]!r} is no training precision (known: {', '.join(RECIPES)})"
        )
    try:
        state = operations.optimizer_bytes(workload.optimizer)
    except UnknownValue as error:
        raise QueryError(f"{query.locate(('workload', 'optimizer'))}: {error}") from None
    length = workload.length
    try:
        shape_of(model, Q(float(length), "token"))
    except UnknownValue as error:
        raise QueryError(f"{query.locate(('workload', 'model'))}: {error}") from None
    return Task(
        model=model,
        job=TrainingJob(Q(float(length), "token"), float(workload.sequences)),
        stack=software,
        precisions=workload.precision,
        choices=choices_of(model, length, workload.sequences, ways, query.parallelism, workload.offload),
        constants=calibrated.constants_of(query),
        optimizer_bytes=state,
        pessimistic=query.rank == "pessimistic",
        slowdown=slowdown,
        given=_given(query, model, ways),
    )


def _given(query: TrainQuery, model: Transformer, ways: Ways) -> bool:
    """Whether one layout is left: a single value of every degree and option that decides what an accelerator holds."""
    narrowed, supply = query.parallelism, query.supply.accelerators

    def one(name: str) -> bool:
        value = getattr(narrowed, name)
        if isinstance(value, str):
            low, high = value.split("..")
            return low == high
        return value is not None and len(value) == 1

    staged = ways.pipeline and not (one("pipeline") and 1 in _first(narrowed.pipeline or ()))
    needed = ["microbatch", "recompute", "sharding"]
    needed += [name for name in ("tensor", "pipeline", "context") if getattr(ways, name)]
    needed += ["expert"] if ways.expert and model.experts else []
    needed += ["virtual_stages"] if ways.interleaving and staged else []
    counted = supply is not None and supply[0] == supply[1]  # then the replicas follow
    return all(one(name) for name in needed) and (counted or one("data"))


def _tokens(query: TrainQuery, model: Transformer) -> Quantity:
    """Given, or bought by the compute budget, or compute-optimal (wall 11)."""
    if query.workload.tokens is not None:
        return query.workload.tokens.to("token")
    if query.workload.compute is not None:
        one = algorithm.training_operations(model.active_parameters, Q(1.0, "token"))
        return Q(float((query.workload.compute / one).m_as("")), "token")
    return Q(OPTIMAL_RATIO * model.active_parameters, "token")


def _deadline(query: TrainQuery, start: date) -> Quantity | None:
    if query.deadline is None or isinstance(query.deadline, Quantity):
        return query.deadline
    days = (date.fromisoformat(query.deadline) - start).days
    if days <= 0:
        raise QueryError(f"{query.locate(('deadline',))}: {query.deadline} is in the past: the job starts on {start.isoformat()}")
    return Q(float(days), "day")


def finish_date(start: date, time: Quantity) -> str:
    """The day on which a job that takes `time` is done."""
    return (start + timedelta(days=float(time.m_as("day")))).isoformat()


def _check_degrees(query: TrainQuery, model: Transformer) -> None:
    """Degrees that no layout of this model and stack can have."""
    narrowed, length = query.parallelism, query.workload.length
    limits = {
        "pipeline": (model.layers, f"{model.name} has {model.layers} layers"),
        "tensor": (model.heads, f"{model.name} has {model.heads} heads"),
        "expert": (max(model.experts, 1), f"{model.name} has {model.experts} experts"),
        "context": (max(length // 2, 1), f"a sequence has {length} tokens"),
        "stage_layers": (model.layers, f"{model.name} has {model.layers} layers"),
    }
    for name, (most, reason) in limits.items():
        degrees = getattr(narrowed, name)
        fewest = None if degrees is None else int(degrees.split("..")[0]) if isinstance(degrees, str) else min(degrees)
        if fewest is not None and fewest > most:
            raise CannotBe(f"{query.locate(('parallelism', name))}: {fewest} is too many: {reason}")
    if isinstance(narrowed.tensor, tuple) and all(model.heads % degree for degree in narrowed.tensor):
        raise CannotBe(
            f"{query.locate(('parallelism', 'tensor'))}: {' and '.join(map(str, narrowed.tensor))} cannot divide the "
            f"{model.heads} heads of {model.name}"
        )
    _check_product(query)
    ways = ways_of(query.workload.stack)
    _check_switches(query, ways)
    for name in ("tensor", "pipeline", "context", "expert"):
        degrees = getattr(narrowed, name)
        if degrees is not None and not getattr(ways, name) and degrees != "1..1" and 1 not in _first(degrees):
            raise CannotBe(
                f"{query.locate(('parallelism', name))}: the stack {query.workload.stack} has no {name} parallelism; expected 1"
            )
    if narrowed.sharding is not None and not set(narrowed.sharding) & set(ways.sharding):
        raise CannotBe(
            f"{query.locate(('parallelism', 'sharding'))}: the stack {query.workload.stack} has only {', '.join(ways.sharding)}"
        )


def _check_switches(query: TrainQuery, ways: Ways) -> None:
    """Overlap and offload that the stack does not have, or not in this combination."""
    narrowed, software = query.parallelism, query.workload.stack
    for name, there in (("tensor_overlap", bool(ways.tensor_overlap)), ("data_overlap", ways.data_overlap)):
        if getattr(narrowed, name) is not None and not there:
            raise CannotBe(
                f"{query.locate(('parallelism', name))}: the stack {software} has no switch for it; leave the key out: what its "
                "runs show counts"
            )
    if narrowed.tensor_overlap and ways.tensor_overlap == "userbuffers" and narrowed.sequence_parallel is False:
        raise CannotBe(
            f"{query.locate(('parallelism', 'tensor_overlap'))}: {software} hides tensor-parallel communication only with "
            "sequence_parallel: true"
        )
    if "activations" in query.workload.offload and not ways.activation_offload:
        raise CannotBe(
            f"{query.locate(('workload', 'offload'))}: the stack {software} does not offload activations, expected [optimizer]"
        )


def _check_product(query: TrainQuery) -> None:
    """Degrees that are given as single numbers must divide the number of accelerators, if that is given too."""
    supply, product = query.supply.accelerators, 1
    factors: list[str] = []
    for name in ("tensor", "pipeline", "context", "data"):
        degrees = getattr(query.parallelism, name)
        if isinstance(degrees, tuple) and len(degrees) == 1:
            product, factors = product * degrees[0], [*factors, f"{name} {degrees[0]}"]
    if supply is not None and supply[0] == supply[1] and (supply[0] % product or (len(factors) == 4 and product != supply[0])):
        said = factors[0] if len(factors) == 1 else f"{' x '.join(factors)} = {product}"
        how = "does not divide" if len(factors) == 1 else "does not make"
        names = [f"parallelism.{factor.split()[0]}" for factor in factors]
        overridden = [clause.path for clause in query.clauses() if clause.file == "--set" and clause.path in names]
        at = names[0] if len(names) == 1 else [*overridden, "parallelism"][0]
        raise CannotBe(f"{query.locate(at)}: {said} {how} {supply[0]} accelerators")


def _first(degrees: tuple[int, ...] | str) -> tuple[int, ...]:
    return (int(degrees.split("..")[0]),) if isinstance(degrees, str) else degrees


def _privacy(query: TrainQuery, steps: int) -> tuple[float, float | None]:
    """(slowdown, noise multiplier) of DP-SGD (wall 20); one pass over the tokens."""
    privacy = query.workload.privacy
    if privacy is None:
        return 1.0, None
    cost = operations.private_overhead(privacy.method)
    try:
        noise = operations.noise_multiplier(privacy.epsilon, privacy.delta, 1.0 / steps, steps)
    except ImpossibleValue as error:
        raise QueryError(f"{query.locate(('workload', 'privacy'))}: {error}") from None
    return (cost.high if query.rank == "pessimistic" else cost.typical), float(noise)


def _store(query: TrainQuery, catalog: Catalog) -> Store:
    record = space.find(query, catalog, "storage", query.storage.name, ("storage", "name"))
    if record.read_bandwidth is None or record.write_bandwidth is None:
        raise QueryError(f"{query.locate(('storage', 'name'))}: the bandwidth of {record.name} is unknown")
    if record.unit == "node":
        return Store(record.name, (record.read_bandwidth, record.max_read), (record.write_bandwidth, record.max_write))
    if record.unit == "system":
        units = query.storage.units or 1
    elif query.storage.units is None:
        raise QueryError(
            f"{query.locate(('storage', 'name'))}: {record.name} has its bandwidth per {record.unit}; say how many with units"
        )
    else:
        units = query.storage.units

    def together(each: Quantity, most: Quantity | None) -> Quantity:
        total = units * each
        return total if most is None or total <= most else most

    return Store(
        record.name,
        (None, together(record.read_bandwidth, record.max_read)),
        (None, together(record.write_bandwidth, record.max_write)),
    )


def _mtbf(query: TrainQuery, catalog: Catalog) -> tuple[Quantity, Quantity, Quantity]:
    given = query.reliability.mtbf
    if given is not None:
        return (given[0], given[1], given[2]) if len(given) == 3 else (given[0], given[0], given[0])
    hours = sorted(record.mtbf_accelerator.m_as("hour") for record in whole_jobs(catalog) if record.mtbf_accelerator is not None)
    return Q(hours[0], "hour"), Q(float(np.median(hours)), "hour"), Q(hours[-1], "hour")


def _guarded(mtbf: tuple[Quantity, Quantity, Quantity], guard: Guard) -> tuple[Quantity, Quantity, Quantity]:
    """With the failures that are planned for as the middle."""
    low, typical, high = mtbf
    planned = typical / guard.failures
    return min(low, planned), planned, high


def whole_jobs(catalog: Catalog) -> list[Interruptions]:
    """Of the records of one run, the one that counts most interruptions: the others count one cause each."""
    runs: dict[tuple[object, ...], Interruptions] = {}
    for name, record in catalog.reliability.items():
        if record.mtbf_accelerator is None:
            continue
        key: tuple[object, ...] = (record.accelerators, str(record.period)) if record.period is not None else (name,)
        other = runs.get(key)
        if other is None or other.mtbf_accelerator is None or record.mtbf_accelerator < other.mtbf_accelerator:
            runs[key] = record
    return list(runs.values())


def _of_stack(query: TrainQuery, catalog: Catalog, offers: list[Offer], software: Stack) -> tuple[list[Offer], list[Dropped]]:
    """(offers of chips that the stack runs on, how many others there were). QueryError where there are only others."""
    able = {name for name, chip in catalog.chips.items() if software.runs_on(chip.vendor)}
    kept = [offer for offer in offers if offer.accelerator in able]
    if offers and not kept:
        chips = sorted({offer.accelerator for offer in offers})
        vendors = sorted({catalog.chips[name].vendor for name in chips})
        shown = ", ".join(chips[:3]) + (f" and {len(chips) - 3} others" if len(chips) > 3 else "")
        there = sorted({name for vendor in vendors for name in stacks_on(vendor)})
        raise CannotBe(
            f"{query.locate(('workload', 'stack'))}: the stack {software.name} does not run on {shown} ({', '.join(vendors)}), "
            f"only on chips of {', '.join(software.vendors)}; stacks that run there: {', '.join(there)}"
        )
    gone = len(offers) - len(kept)
    reason = f"the stack {software.name} does not run on this chip"
    return kept, [Dropped(None, "workload.stack", gone, reason)] if gone else []


def _of_whole_instances(query: TrainQuery, catalog: Catalog, offers: Iterable[Offer]) -> tuple[list[Offer], list[Dropped]]:
    """(offers whose instances make up the number of accelerators asked for, in a number format that the chip has, and those
    left out for their number)."""
    offers, unfit = list(offers), []
    if query.supply.accelerators is not None and offers:
        low, high = query.supply.accelerators
        whole = [offer for offer in offers if high // offer.accelerators * offer.accelerators >= low]
        if not whole:
            sizes = sorted({offer.accelerators for offer in offers})
            asked = str(low) if low == high else f"{low} to {high}"
            raise CannotBe(
                f"{query.locate(('supply', 'accelerators'))}: {asked} accelerators are no multiple of an instance "
                f"(instances have {', '.join(map(str, sizes))})"
            )
        if len(whole) < len(offers):
            asked = str(low) if low == high else f"{low} to {high}"
            sizes = sorted({offer.accelerators for offer in offers} - {offer.accelerators for offer in whole})
            reason = f"{asked} accelerators are no multiple of their instances ({', '.join(map(str, sizes))})"
            unfit = [Dropped(None, "supply.accelerators", len(offers) - len(whole), reason)]
        offers = whole
    chips = {offer.accelerator: catalog.chips[offer.accelerator] for offer in offers}
    able = {name for name, chip in chips.items() if any(RECIPES[p][1] in chip.peak for p in query.workload.precision)}
    if chips and not able:
        known = sorted({p for chip in chips.values() for p in RECIPES if RECIPES[p][1] in chip.peak})
        raise CannotBe(
            f"{query.locate(('workload', 'precision'))}: {' and '.join(chips)} cannot multiply in "
            f"{' or '.join(query.workload.precision)}, only in {', '.join(known)}"
        )
    return [offer for offer in offers if offer.accelerator in able], unfit
