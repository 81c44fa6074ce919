"""The best layouts on N accelerators, proven: bounds first, then memory, then the exact step time of what may still win.

Two bounds that never exceed the exact time: of all ways to cut the layers into chunks at once (`split_bounds`), then of each
(`core_bound`). Strategies are evaluated in their order until they exceed the worst of the best found. What a bound discards
cannot win, so the result equals that of full enumeration.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import training, training_memory
from models.training import Layouts, TrainingJob
from models.training_constants import Constants, Setting, Stack
from models.training_job import activation_offload_time, adam_state, offload_time, stretched, uneven_stretch
from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity

from .layouts import Choices, Cores, Strategies, cores_of, count_of, layouts_of, strategies_of

# Evaluated at once, large enough for arrays to pay, small enough that bounds stop early:
_CORES = 8192  # cores that are bounded
_BATCH = 16384  # strategies

Floats = NDArray[np.float64]
Over = Callable[[], bool]  # whether the time for an answer is over


def never() -> bool:
    """A time that has no end."""
    return False


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained, with what: everything about a step but the machine and the layout."""

    model: Transformer
    job: TrainingJob
    stack: Stack
    precisions: tuple[str, ...]
    choices: Choices
    constants: Constants
    optimizer_bytes: Quantity  # of state per parameter
    pessimistic: bool
    slowdown: float = 1.0  # of private training
    given: bool = False  # whether the question gives the layout whole, so that there is none to choose


@dataclass(frozen=True, slots=True)
class Host:
    """What offloading needs of a host, per accelerator; None where it is not known."""

    link: Quantity | None
    memory_bandwidth: Quantity
    memory: Quantity | None


@dataclass(slots=True)
class Counted:
    """How many strategies there were, what removed them, and how many were evaluated."""

    strategies: int = 0
    memory: int = 0
    bound: int = 0
    evaluated: int = 0

    def add(self, other: Counted) -> None:
        for name in Counted.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True, slots=True)
class Step:
    """Exact figures of strategies; arrays. `ranked` [s] is what the search minimises."""

    total: Floats
    low: Floats
    high: Floats
    parts: Mapping[str, Any]
    notes: tuple[str, ...]

    def ranked(self, pessimistic: bool) -> Floats:
        return self.high if pessimistic else self.total


@dataclass(frozen=True, slots=True)
class Found:
    """One of the best: a layout (arrays of one), whether optimizer state and activations are offloaded, its ranked time [s]."""

    layout: Layouts
    offloaded: bool
    activations_offloaded: bool
    ranked: float


@dataclass(frozen=True, slots=True)
class Result:
    """The best layouts, best first, and what became of all others. `complete` False: the time was over before all were seen.
    others: where none was found, no layout has a ranked time [s] below this."""

    found: tuple[Found, ...]
    counted: Counted = field(default_factory=Counted)
    complete: bool = True
    others: float = np.inf


def search(
    task: Task,
    accelerator: Accelerator,
    accelerators: int,
    host: Host,
    top: int = 1,
    cutoff: float = np.inf,
    prune: bool = True,
    floors: Mapping[str, float] | None = None,
    splits: Mapping[str, Floats] | None = None,
    over: Over = never,
) -> Result:
    """The `top` fastest layouts on `accelerators` with a ranked step time of at most `cutoff` [s], proven.

    floors, splits: `floor_of` and `split_bounds` of each number format, where they are known. prune: False evaluates every
    strategy that fits (the same result; for tests). over: asked before each batch; once it is true, the best so far are
    returned without proof. Raises UnknownValue where the chip's record lacks a figure.
    Equal times are ordered as they are enumerated.
    """
    counted = Counted()
    best: list[Found] = []
    others = [np.inf]  # lower bounds of what was discarded

    def worst() -> float:
        return min(cutoff, best[-1].ranked) if len(best) == top else cutoff

    cores = cores_of(accelerators, task.choices)
    sizes = count_of(cores, task.choices, accelerator.scale_up_domain)
    heap: list[_Batch] = []
    for precision in task.precisions if len(cores) else ():
        counted.strategies += int(sizes.sum())
        floor = 0.0 if floors is None else float(machine_bound(task, accelerator, accelerators, floors[precision]))
        if prune and floor > cutoff:
            counted.bound += int(sizes.sum())
            others.append(floor)
            continue
        known = None if splits is None else splits.get(precision)
        least = split_bounds(task, [(accelerator, cores, precision)])[0] if known is None else known
        bound = np.repeat(least, np.diff(cores.splits, append=len(cores)))
        good = np.flatnonzero(bound <= cutoff) if prune else np.arange(len(cores))
        counted.bound += int(sizes.sum() - sizes[good].sum())
        others.append(float(least[least > cutoff].min(initial=np.inf)))
        heap += _batches(precision, good, bound[good], np.ones(len(good)), _CORES, False)
    heapq.heapify(heap)
    while heap:
        if over():
            return Result(tuple(best), counted, complete=False)
        batch = heapq.heappop(heap)
        at, precision, lost = batch.at, batch.precision, batch.bound > worst()
        if prune:
            counted.bound += int(sizes[at[lost]].sum())
            others.append(float(batch.bound[lost].min(initial=np.inf)))
            at = at[~lost]
        if not len(at):
            continue
        if not batch.refined:
            bound = core_bound(task, accelerator, cores.at(at), precision)
            for refined in _batches(precision, at, bound, sizes[at], _BATCH, True):
                heapq.heappush(heap, refined)
            continue
        every = strategies_of(cores.at(at), task.choices, precision, accelerator.scale_up_domain)
        fitting = np.flatnonzero(fits(task, accelerator, every, host)) if len(every) else np.arange(0)
        counted.memory += len(every) - len(fitting)
        counted.evaluated += len(fitting)
        if len(fitting):
            part = _part(every, fitting)
            ranked = step_of(task, accelerator, part, host).ranked(task.pessimistic)
            others.append(float(ranked[ranked > worst()].min(initial=np.inf)))
            good = np.flatnonzero(ranked <= worst())
            good = good[np.argsort(ranked[good], kind="stable")[:top]]
            best = sorted([*best, *(_found(part, int(i), float(ranked[i])) for i in good)], key=lambda f: f.ranked)[:top]
    return Result(tuple(best), counted, others=min(others))


@dataclass(frozen=True, slots=True, order=True)
class _Batch:
    """Cores with their bounds, ascending; `refined` where the bounds are those of `core_bound`."""

    least: float
    first: int  # index of the first core, so that no two batches are equal
    precision: str
    refined: bool
    at: NDArray[np.intp] = field(compare=False)
    bound: Floats = field(compare=False)


def _batches(
    precision: str, at: NDArray[np.intp], bound: Floats, weight: NDArray[Any], most: int, refined: bool
) -> list[_Batch]:  # fmt: skip
    """The cores `at` by their bounds, in batches of a weight of about `most`."""
    order = np.argsort(bound, kind="stable")
    at, bound = at[order], bound[order]
    cuts = np.flatnonzero(np.diff(np.cumsum(weight[order]) // most)) + 1
    pairs = zip(np.split(at, cuts), np.split(bound, cuts), strict=True)
    return [_Batch(float(low[0]), int(part[0]), precision, refined, part, low) for part, low in pairs if len(part)]


def _found(part: Strategies, i: int, ranked: float) -> Found:
    layout = training.take(part.layouts, np.array([i]))
    return Found(layout, bool(part.offloaded[i]), bool(part.activations_offloaded[i]), ranked)


def _part(strategies: Strategies, index: NDArray[np.intp]) -> Strategies:
    layouts = training.take(strategies.layouts, index)
    return Strategies(
        layouts, strategies.offloaded[index], strategies.activations_offloaded[index], strategies.core[index]
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- exact


def step_of(task: Task, accelerator: Accelerator, strategies: Strategies, host: Host) -> Step:
    """The exact step time of strategies: the forward model, with uneven stages, offload and private training on top."""
    step = training.step_time(task.model, accelerator, task.job, strategies.layouts, task.stack, task.constants)
    layouts = strategies.layouts
    parts = {name: part.to("s") for name, part in step.parts.items()}
    parts["uneven_stages"] = stretched(parts, stretch_of(task, layouts))
    if np.any(strategies.offloaded) and host.link is not None:
        state = adam_state(training.run_of(task.model, accelerator, task.job, layouts, task.stack))
        added = offload_time(state, host.link, host.memory_bandwidth)
        parts["offload"] = np.where(strategies.offloaded, 1.0, 0.0) * added.to("s")
    if np.any(strategies.activations_offloaded) and host.link is not None:
        computed = parts["gemm"] + parts["attention"] + parts["memory_bound"]  # forward a third, backward the rest
        added = activation_offload_time(_copied(task, accelerator, strategies), host.link, computed / 3, 2 * computed / 3)
        parts["activation_offload"] = np.where(strategies.activations_offloaded, 1.0, 0.0) * added.to("s")
    if task.slowdown > 1:
        parts["private"] = (task.slowdown - 1) * _total(parts)
    total = np.asarray(_total(parts).m_as("s"), float)
    width = np.asarray((step.high / step.total).m_as(""), float)
    return Step(total, total / width, total * width, parts, step.notes)


def _total(parts: Mapping[str, Quantity]) -> Quantity:
    total = Q(0.0, "s")
    for part in parts.values():
        total = total + part
    return total


def stretch_of(task: Task, layouts: Layouts) -> Any:
    """How much uneven stages stretch what layers take."""
    return uneven_stretch(task.model.layers, layouts.pipeline_parallel, layouts.stage_layers, task.choices.logit_layers)


def _fuller(task: Task, layouts: Layouts) -> Any:
    """Layers of the fullest stage over those of an average one."""
    return layouts.stage_layers * layouts.pipeline_parallel / task.model.layers


def _copied(task: Task, accelerator: Accelerator, strategies: Strategies) -> Quantity:
    """Activations that all microbatches of a step store, on the fullest accelerator [byte]."""
    kept = replace(strategies, activations_offloaded=np.full(len(strategies), False))
    layouts = strategies.layouts
    microbatches = task.job.global_batch / (layouts.data_parallel * layouts.microbatch)
    stored: Quantity = memory_of(task, accelerator, kept).parts["activations"] * microbatches
    return stored


def memory_of(task: Task, accelerator: Accelerator, strategies: Strategies) -> training_memory.Memory:
    """Memory on the fullest accelerator: the forward model with the layers of the fullest stage and the optimizer's own state."""
    layouts = strategies.layouts
    memory = training_memory.memory(task.model, accelerator, task.job, layouts, task.stack, task.constants)
    fuller = _fuller(task, layouts)
    state = adam_state(training.run_of(task.model, accelerator, task.job, layouts, task.stack))
    share = np.where(strategies.offloaded, 0.0, (task.optimizer_bytes / Q(12.0, "byte")).m_as(""))
    parts = dict(memory.parts)
    parts["states"] = (parts["states"] - (1 - share) * state) * fuller
    # of offloaded activations, the layer at work and the one being copied are there
    there = np.where(strategies.activations_offloaded, np.minimum(2.0 / task.model.layers, 1.0), 1.0)
    parts["activations"] = parts["activations"] * fuller * there
    total = Q(0.0, "byte")
    for part in parts.values():
        total = total + part
    return replace(memory, parts=parts, peak=total)


def permits(task: Task, memory: training_memory.Memory) -> Any:
    """Whether memory allows a layout (wall 2): a layout that the planner chooses must be expected to fit; of one that the
    question gives whole, only that even its least memory exceeds the accelerator is proof that it cannot run.

    The second is the verdict of `validate` on runs that really ran: many of them are expected not to fit, because stacks
    offload, recompute in part or store in fewer bits in ways that their records do not say.
    """
    return ~np.asarray(memory.impossible) if task.given else memory.fits


def fits(task: Task, accelerator: Accelerator, strategies: Strategies, host: Host) -> NDArray[np.bool_]:
    """Whether memory allows a layout on the accelerator (`permits`), and what is offloaded stays within the host."""
    good = np.asarray(permits(task, memory_of(task, accelerator, strategies))) & np.full(len(strategies), True)
    away = strategies.offloaded | strategies.activations_offloaded
    if not np.any(away):
        return good
    if host.link is None or host.memory is None:
        return good & ~away
    layouts = strategies.layouts
    state = adam_state(training.run_of(task.model, accelerator, task.job, layouts, task.stack))
    microbatches = task.job.global_batch / (layouts.data_parallel * layouts.microbatch)
    copied = _copied(task, accelerator, strategies) / microbatches
    held = np.where(strategies.offloaded, 1.0, 0.0) * state + np.where(strategies.activations_offloaded, 1.0, 0.0) * copied
    return good & (~away | np.asarray(held.m_as("byte") <= host.memory.m_as("byte")))


# --------------------------------------------------------------------------------------------------------------- bounds


def core_bound(task: Task, accelerator: Accelerator, cores: Cores, precision: str) -> Floats:
    """A lower bound on the ranked time [s] of every strategy of each core.

    The exact step without what depends on the strategy: nothing recomputed, norms split over tensor ranks, gradients
    accumulated and states updated on the smallest share, all hidden that can be, nothing offloaded, and neither gathers nor a
    reduction. Each of these only adds time.
    """
    stretch = np.asarray(uneven_stretch(*_stages(task, cores)))
    return _bounds(task, [(accelerator, cores, precision)], [stretch], ("gathers", "reduction"))[0]


def split_bounds(task: Task, cases: Sequence[tuple[Accelerator, Cores, str]]) -> list[Floats]:
    """For each machine, its cores and a number format: a lower bound on the ranked time [s] of each of `cores.splits`, whose
    cores differ in chunks only.

    That of a core with the most chunks (least bubble), the least uneven stages, no wait for the logits and no sends.
    """
    most, stretches = [], []
    for accelerator, cores, precision in cases:
        starts = cores.splits
        stretches.append(np.minimum.reduceat(uneven_stretch(*_stages(task, cores)), starts))
        chunks = np.maximum.reduceat(cores.virtual_stages, starts)
        never_even = np.full(len(starts), task.model.layers + 1)  # whatever the number of stages
        most.append((accelerator, replace(cores.at(starts), virtual_stages=chunks, stage_layers=never_even), precision))
    return _bounds(task, most, stretches, ("gathers", "reduction", "sends"))


def _stages(task: Task, cores: Cores) -> tuple[float, Floats, Floats, float]:
    """The arguments of `uneven_stretch`."""
    stages, fullest = cores.pipeline.astype(float), cores.stage_layers.astype(float)
    return float(task.model.layers), stages, fullest, task.choices.logit_layers


def _bounds(
    task: Task, cases: Sequence[tuple[Accelerator, Cores, str]], stretches: Sequence[Floats], without: tuple[str, ...]
) -> list[Floats]:
    """The ranked time [s] of cores under the most favourable options, their layers stretched, without these parts; all cases go
    through the forward model at once."""
    lengths = [len(cores) for _, cores, _ in cases]
    cores = Cores(*(np.concatenate([getattr(each, name) for _, each, _ in cases]) for name in Cores.__slots__))
    n = len(cores)
    sequence = cores.tensor > 1 if task.choices.ways.sequence_parallel else np.full(n, False)
    yes, no = np.full(n, True), np.full(n, False)
    layouts = layouts_of(cores, cases[0][2], sequence, np.full(n, training.NONE), np.full(n, 3), no, no, yes, yes)
    largest = float(np.max(layouts.accelerators))
    machines = [training.machine_of(accelerator, precision, largest) for accelerator, _, precision in cases]
    run = training.run_of(task.model, cases[0][0], task.job, layouts, task.stack)
    run = replace(run, machine=training.repeated(machines, lengths) if len(cases) > 1 else machines[0])
    known: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
    for accelerator, _, precision in cases:
        if (accelerator.name, precision) in known:
            continue
        settings = _settings(task, accelerator, precision)
        resolved = [task.constants.resolve([setting]) for setting in settings]
        constants = {name: _single(value) for name, value in resolved[0].items()}
        constants["tensor_exposed"] = min(_single(c["tensor_exposed"]) for c in resolved)
        widths = [task.constants.half_width(setting, task.model.name) if task.pessimistic else 0.0 for setting in settings]
        ratios = [_single(c["time_factor"]) / constants["time_factor"] for c in resolved]
        factor = min(ratio * np.exp(width) for ratio, width in zip(ratios, widths, strict=True))
        known[accelerator.name, precision] = constants, factor
    each = [known[accelerator.name, precision][0] for accelerator, _, precision in cases]
    factors = [known[accelerator.name, precision][1] for accelerator, _, precision in cases]
    together = {name: _repeated([constants[name] for constants in each], lengths) for name in each[0]}
    _, parts, _ = training.evaluate(run, together)
    lag = training.straggling(layouts.accelerators, Q(1.0, "s"), together["straggler_growth"]) / Q(1.0, "s")
    for name in without:  # and what waiting for the slowest adds to them
        parts["stragglers"] = parts["stragglers"] - lag * parts.pop(name)
    total = _total(parts) + stretched(parts, np.concatenate(stretches))
    scale = np.repeat(factors, lengths) * max(task.slowdown, 1.0) * (1 - 1e-9)
    return np.split(np.asarray(total.m_as("s") * scale, float), np.cumsum(lengths)[:-1])


def _repeated(values: Sequence[Any], times: Sequence[int]) -> Any:
    """One value for all, or an array of values where they differ."""
    if isinstance(values[0], Quantity):
        return Q(_repeated([value.m_as(values[0].units) for value in values], times), values[0].units)
    return values[0] if all(value == values[0] for value in values) else np.repeat(values, times)


def _settings(task: Task, accelerator: Accelerator, precision: str) -> list[Setting]:
    """Every calibration setting that layouts of one number format may have."""
    switches = (True, False) if task.stack.tensor_overlap else (None,)
    return [
        Setting(task.stack, accelerator.name, precision, task.model.experts > 0, sharded, switched)
        for sharded in (False, True)
        for switched in switches
    ]


def _single(value: Any) -> Any:
    """A constant of one setting as a single value."""
    return Q(float(value.magnitude[0]), value.units) if isinstance(value, Quantity) else float(value[0])


def floor_of(task: Task, accelerator: Accelerator, precision: str) -> float:
    """A lower bound on ranked time x accelerators [s] of every layout, the wait for the slowest apart.

    What no layout divides better than evenly: matrix products and attention at their best efficiency, memory-bound kernels
    split over all tensor ranks, and logits. No bubble, no communication, nothing recomputed.
    """
    model, job = task.model, task.job
    shape, machine = training.shape_of(model, job.sequence_length), training.machine_of(accelerator, precision, 1.0)
    hidden, wide, tokens = shape.hidden, shape.ffn_inputs + 1, job.sequence_length.m_as("token")
    dense = shape.projection_parameters + shape.dense_share * wide * hidden * shape.ffn_hidden
    dense += shape.expert_share * wide * hidden * shape.shared_hidden
    experts = shape.expert_share * shape.top_k * wide * hidden * shape.expert_hidden
    elementwise = shape.dense_share * wide * shape.ffn_hidden + shape.expert_share * 3 * shape.shared_hidden
    elementwise += shape.query_width + 2 * shape.key_width
    settings = _settings(task, accelerator, precision)
    c = task.constants.resolve(settings)
    rate = machine.peak * c["power_limit"] * c["gemm_efficiency"]
    flop = Q(2.0 * tokens, "flop")
    products = flop * shape.work_scale * (dense + experts / np.maximum(c["expert_efficiency"], 1.0)) / rate
    bandwidth = c["bandwidth_efficiency"] * machine.memory_bandwidth
    kernels = training.memory_bound_time(tokens, hidden, elementwise, 1.0, 1.0, c["elementwise_traffic"], bandwidth)
    reached = c["flash_efficiency"] if task.stack.fused_attention else c["score_efficiency"] / 2
    attention = shape.attention_operations / shape.layers / (machine.peak16 * reached)
    backward = c["flash_backward"] if task.stack.fused_attention else 2.0
    layer = 3 * (products + kernels * c["unfused_share"]) + (1 + backward) * attention
    logits = 3 * flop * hidden * shape.vocab / rate + c["logit_traffic"] * tokens * shape.vocab / bandwidth
    widths = [task.constants.half_width(setting, model.name) if task.pessimistic else 0.0 for setting in settings]
    factor = c["time_factor"] * np.exp(widths) * max(task.slowdown, 1.0) * task.choices.sequences * (1 - 1e-9)
    return float(np.min(factor * (shape.layers * layer + logits).m_as("s")))


def machine_bound(task: Task, accelerator: Accelerator, accelerators: Any, floor: float) -> Floats:
    """A lower bound on the ranked time [s] of every layout on each number of accelerators, from `floor_of`."""
    count = np.asarray(accelerators, float)
    growth = _single(task.constants.resolve([Setting(task.stack, accelerator.name, task.precisions[0])])["straggler_growth"])
    return np.asarray(floor / count * (1 + growth * np.log2(np.maximum(count / 8, 1.0))))


def least_memory(task: Task, accelerators: Any) -> Quantity:
    """A lower bound on the memory [byte] of the fullest accelerator under every layout on each number of accelerators.

    (4 + o) P / N and the reserve: 16-bit weights and gradients and the optimizer's own o bytes, shared by all N (ZeRO-3), o 0
    where the host may keep them; one embedding table, no activations, nothing gathered. No layout shares states by more ranks.
    """
    shape = training.shape_of(task.model, task.job.sequence_length)
    parameters = shape.trunk_parameters + shape.expert_parameters + shape.embedding_parameters
    optimizer = Q(0.0, "byte") if "optimizer" in task.choices.offload else np.minimum(task.optimizer_bytes, Q(12.0, "byte"))
    states = parameters / np.asarray(accelerators, float) * (Q(4.0, "byte") + optimizer)
    return states * (1 - 1e-9) + Q(task.constants.memory["reserve"].value, "GiB").to("byte")
