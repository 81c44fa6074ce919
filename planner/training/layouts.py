"""Every way to lay a training step out on N accelerators, as arrays.

A *core* is how the model is split: tensor, pipeline, context, data and expert degrees (any divisors), the microbatch, the
chunks of a stage and the layers of the fullest stage. A *strategy* is a core with a recompute mode, a sharding, sequence
parallelism, what overlaps and what is offloaded. Cores are enumerated first, because bounds discard most of them before they
are spread into strategies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.training import FULL, NONE, SELECTIVE, Layouts
from models.training_job import Ways, fullest_stage, logit_layers
from zoo.specs import Transformer

from ..query import TrainParallelism

RECOMPUTE = {"none": NONE, "selective": SELECTIVE, "full": FULL}
# sharding -> (ZeRO stage, hybrid)
SHARDING = {"none": (0, False), "zero1": (1, False), "zero2": (2, False), "zero3": (3, False), "hybrid": (3, True)}

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Choices:
    """What the question and the stack leave open, whatever the number of accelerators."""

    layers: int
    heads: int
    kv_heads: int
    ffn: tuple[int, ...]  # widths that tensor parallelism must divide
    experts: int
    sequence_length: int
    sequences: int  # of a step
    logit_layers: float  # work of the logits, in layers
    ways: Ways
    narrowed: TrainParallelism
    offload: tuple[str, ...]  # of optimizer, activations: what may be kept on the host


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores as arrays of equal length."""

    tensor: Ints
    pipeline: Ints
    context: Ints
    data: Ints
    expert: Ints
    microbatch: Ints
    virtual_stages: Ints
    stage_layers: Ints  # of the fullest pipeline stage

    def __len__(self) -> int:
        return len(self.tensor)

    def at(self, index: NDArray[np.intp]) -> Cores:
        return Cores(*(getattr(self, name)[index] for name in Cores.__slots__))

    @property
    def splits(self) -> NDArray[np.intp]:
        """Where, in the order of `cores_of`, cores begin that differ in more than how layers are cut into chunks."""
        heads = np.stack([getattr(self, name) for name in Cores.__slots__[:6]])
        changes = np.any(heads[:, 1:] != heads[:, :-1], axis=0)
        return np.concatenate([np.zeros(min(len(self), 1), np.intp), np.flatnonzero(changes) + 1])


@dataclass(frozen=True, slots=True)
class Strategies:
    """Strategies of one number format: cores spread by what is recomputed, sharded, hidden and offloaded. `core` points back.

    offloaded: optimizer state on the host; activations_offloaded: activations copied there and back.
    """

    layouts: Layouts
    offloaded: NDArray[np.bool_]
    activations_offloaded: NDArray[np.bool_]
    core: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.core)


def choices_of(
    model: Transformer, sequence_length: int, sequences: int, ways: Ways, narrowed: TrainParallelism, offload: tuple[str, ...]
) -> Choices:
    """The choices of a model, a step, a stack and a question."""
    ffn = tuple(width for width in (model.ffn_hidden,) if width)
    return Choices(
        model.layers, model.heads, model.kv_heads, ffn, model.experts, sequence_length, sequences, logit_layers(model), ways,
        narrowed, offload,
    )  # fmt: skip


def divisors(number: int) -> list[int]:
    """All divisors of a number, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def allowed(values: Sequence[int], degrees: tuple[int, ...] | str | None) -> list[int]:
    """Of `values`, those that a clause of `parallelism` allows."""
    if degrees is None:
        return list(values)
    if isinstance(degrees, str):
        low, high = (int(end) for end in degrees.split(".."))
        return [v for v in values if low <= v <= high]
    return [v for v in values if v in degrees]


def frames_of(accelerators: int, choices: Choices) -> list[tuple[int, int, int, int, int]]:
    """(tensor, pipeline, context, data, expert) of every split of `accelerators`.

    Tensor divides heads and MLP width, and divides or is divided by the key-value heads; stages are at most layers; twice
    the context degree divides the sequence (balanced causal halves); data divides the step's sequences; expert degrees
    divide the experts and the ranks of a stage.
    """
    narrowed, ways = choices.narrowed, choices.ways
    frames = []
    for tensor in allowed(divisors(accelerators) if ways.tensor else [1], narrowed.tensor):
        if choices.heads % tensor or any(width % tensor for width in choices.ffn):
            continue
        if choices.kv_heads % tensor and tensor % choices.kv_heads:
            continue
        rest = accelerators // tensor
        for pipeline in allowed(divisors(rest) if ways.pipeline else [1], narrowed.pipeline):
            if pipeline > choices.layers:
                break
            ranks = rest // pipeline
            for context in allowed(divisors(ranks) if ways.context else [1], narrowed.context):
                data = ranks // context
                if (context > 1 and choices.sequence_length % (2 * context)) or choices.sequences % data:
                    continue
                if not allowed([data], narrowed.data):
                    continue
                shared = tensor * context * data
                expert = [e for e in divisors(choices.experts) if shared % e == 0] if choices.experts and ways.expert else [1]
                frames += [(tensor, pipeline, context, data, e) for e in allowed(expert, narrowed.expert)]
    return frames


def products_of(choices: Choices, most: int) -> Ints:
    """Every number of accelerators up to `most` that `frames_of` may split, ascending: a superset, whatever its other rules."""
    narrowed, ways = choices.narrowed, choices.ways
    contexts = [c for c in divisors(choices.sequence_length) if c == 1 or choices.sequence_length % (2 * c) == 0]
    products = np.ones(1, np.int64)
    for degrees in (
        allowed(divisors(choices.heads) if ways.tensor else [1], narrowed.tensor),
        allowed(range(1, choices.layers + 1) if ways.pipeline else [1], narrowed.pipeline),
        allowed(contexts if ways.context else [1], narrowed.context),
        allowed(divisors(choices.sequences), narrowed.data),
    ):
        products = np.unique(np.multiply.outer(products, np.array(degrees, np.int64)))
        products = products[products <= most]
    return products


def chunks_of(pipeline: int, choices: Choices) -> Ints:
    """Rows of (chunks of a stage, layers of the fullest stage) that `pipeline` stages may have.

    Interleaving needs as many chunks as layers or fewer (embedding and logits may stand for one each). Chunks have as few
    layers as hold the model, or one more each as long as that is less than what the logits add to the last stage, which then
    has fewer layers instead: one more than that takes longer and needs more memory.
    """
    most = (choices.layers + 2) // pipeline if pipeline > 1 and choices.ways.interleaving else 1
    rows = []
    for virtual in allowed(range(1, max(most, 1) + 1), choices.narrowed.virtual_stages):
        fullest = int(fullest_stage(choices.layers, pipeline, virtual))
        rows.append((virtual, fullest))
        while pipeline > 1 and choices.logit_layers - (pipeline * fullest - choices.layers) > virtual:
            fullest += virtual
            rows.append((virtual, fullest))
    kept = [row for row in rows if allowed(row[1:], choices.narrowed.stage_layers)]
    return np.array(kept, np.int64).reshape(-1, 2)


@lru_cache(maxsize=32)  # a few megabytes each; machines are searched in turn, on the same counts
def cores_of(accelerators: int, choices: Choices) -> Cores:
    """Every core on `accelerators`: each frame with each microbatch and each way to cut the layers into chunks.

    Interleaving needs a number of microbatches that the stages divide.
    """
    frames = frames_of(accelerators, choices)
    micros = {
        data: np.array(allowed(divisors(choices.sequences // data), choices.narrowed.microbatch), np.int64)
        for data in {frame[3] for frame in frames}
    }
    chunks = {pipeline: chunks_of(pipeline, choices) for pipeline in {frame[1] for frame in frames}}
    tails: dict[tuple[int, int], Ints] = {}  # what frames with as many stages and replicas share
    for pipeline, data in {(frame[1], frame[3]) for frame in frames}:
        micro, chunk = micros[data], chunks[pipeline]
        tail = np.column_stack([np.repeat(micro, len(chunk)), np.tile(chunk, (len(micro), 1))])
        good = (tail[:, 1] == 1) | (choices.sequences // data // tail[:, 0] % pipeline == 0)
        tails[pipeline, data] = tail[good]
    lengths = [len(tails[frame[1], frame[3]]) for frame in frames]
    heads = np.repeat(np.array(frames, np.int64).reshape(-1, 5), lengths, axis=0)
    ends = np.concatenate([tails[frame[1], frame[3]] for frame in frames]) if frames else np.empty((0, 3), np.int64)
    return Cores(*np.ascontiguousarray(heads.T), *np.ascontiguousarray(ends.T))


def options_of(choices: Choices) -> Ints:
    """What a core is spread by: rows of (recompute mode, ZeRO stage, hybrid, sequence parallel, tensor overlap, data overlap,
    optimizer offloaded, activations offloaded)."""
    narrowed, ways = choices.narrowed, choices.ways
    recompute = [RECOMPUTE[name] for name in narrowed.recompute or RECOMPUTE]
    sharding = [SHARDING[name] for name in narrowed.sharding or SHARDING if name in ways.sharding]
    sequence = [False, True] if narrowed.sequence_parallel is None else [narrowed.sequence_parallel]
    sequence = [s for s in sequence if not s or ways.sequence_parallel]
    tensor = [True, False] if ways.tensor_overlap else [True]
    data = [True, False] if ways.data_overlap else [True]
    optimizer = [False, True] if "optimizer" in choices.offload else [False]
    activations = [False, True] if "activations" in choices.offload else [False]
    rows = itertools.product(recompute, sharding, sequence, tensor, data, optimizer, activations)
    return np.array([(r, *zh, *others) for r, zh, *others in rows], np.int64).reshape(-1, 8)


def _alike(cores: Cores, choices: Choices, domain: int) -> tuple[Ints, Ints]:
    """(one core of each kind that `_possible` tells apart, which of these each core is like)."""
    ranks = cores.data * cores.context
    flags = (
        cores.tensor > 1, cores.tensor < domain, cores.pipeline > 1, ranks > 1, ranks * cores.tensor > domain,
        cores.data * cores.microbatch == choices.sequences, cores.expert <= domain,
    )  # fmt: skip
    code = sum(flag.astype(np.int64) << place for place, flag in enumerate(flags))
    _, first, like = np.unique(code, return_index=True, return_inverse=True)
    return first, like


def _possible(cores: Cores, choices: Choices, options: Ints, domain: int) -> NDArray[np.bool_]:
    """Which options (second axis) a core (first axis) may have.

    Sequence parallelism needs tensor ranks; sharding needs replicas, hybrid sharding more of them than a scale-up domain
    has, with experts spread inside one; gradients are sharded (zero2) only where a step has one microbatch, reduced once;
    weights are sharded under a pipeline only by stacks that do it. Tensor-parallel communication is hidden by userbuffers only
    with sequence parallelism. Data-parallel communication is left in the open only where that saves memory (gathered weights)
    or where the question says so. Activations are offloaded only without pipeline stages and where none is computed again.
    """
    mode, stage, hybrid, split, tensor_overlap, data_overlap, _, away = options.T
    narrowed, ways = choices.narrowed, choices.ways
    ranks = (cores.data * cores.context)[:, None]
    tensor, pipeline = cores.tensor[:, None], cores.pipeline[:, None]
    single = (cores.data * cores.microbatch == choices.sequences)[:, None]
    good = np.full((len(cores), len(options)), True)
    if np.any(split == 0):
        good &= (split == 0) | (tensor > 1)
    if np.any(stage == 0):
        good &= (stage == 0) | (ranks > 1)
    good &= (stage != 2) | single
    good &= (hybrid == 0) | ((ranks * tensor > domain) & (domain > tensor))
    if choices.experts:
        good &= (hybrid == 0) | (cores.expert[:, None] <= domain)
    if not ways.sharded_pipeline:
        good &= (stage < 3) | (pipeline == 1)
    if ways.tensor_overlap:
        hidden = tensor_overlap == 1
        if ways.tensor_overlap == "userbuffers":
            good &= (tensor == 1) | ~hidden | (split == 1)
        if narrowed.tensor_overlap is not None:
            good &= (tensor == 1) | (hidden == narrowed.tensor_overlap)
        good &= hidden | (tensor > 1)
    if ways.data_overlap:
        hidden = data_overlap == 1
        if narrowed.data_overlap is None:
            good &= hidden | ((stage >= 3) & (pipeline == 1))
        else:
            good &= (hidden == narrowed.data_overlap) | ((ranks == 1) & hidden)
        good &= hidden | (ranks > 1)
    good &= (away == 0) | ((pipeline == 1) & (mode == NONE))
    return np.asarray(good)


def count_of(cores: Cores, choices: Choices, domain: int) -> Ints:
    """How many strategies each core has."""
    if not len(cores):
        return np.empty(0, np.int64)
    first, like = _alike(cores, choices, domain)
    return np.asarray(_possible(cores.at(first), choices, options_of(choices), domain).sum(axis=1)[like])


def strategies_of(cores: Cores, choices: Choices, precision: str, domain: int) -> Strategies:
    """Every strategy of these cores in one number format."""
    options = options_of(choices)
    first, like = _alike(cores, choices, domain)
    core, option = np.nonzero(_possible(cores.at(first), choices, options, domain)[like])
    mode, stage, hybrid, split, tensor_overlap, data_overlap, offloaded, away = options[option].T
    fsdp = (stage >= 3) | ((stage == 2) & ("none" not in choices.ways.sharding))
    layouts = layouts_of(
        cores.at(core), precision, split == 1, mode, stage, fsdp, hybrid == 1, tensor_overlap == 1, data_overlap == 1
    )
    return Strategies(layouts, offloaded == 1, away == 1, core)


def layouts_of(
    cores: Cores,
    precision: str,
    sequence_parallel: NDArray[np.bool_],
    recompute: Ints,
    zero_stage: Ints,
    fsdp: NDArray[np.bool_],
    hybrid: NDArray[np.bool_],
    tensor_overlap: NDArray[np.bool_],
    data_overlap: NDArray[np.bool_],
) -> Layouts:
    """Cores with an option each, as the forward model takes them. A stack that always shards has PyTorch's zero2 (`fsdp`)."""
    return Layouts(
        tensor_parallel=cores.tensor.astype(float),
        pipeline_parallel=cores.pipeline.astype(float),
        data_parallel=cores.data.astype(float),
        microbatch=cores.microbatch.astype(float),
        precision=precision,
        context_parallel=cores.context.astype(float),
        expert_parallel=cores.expert.astype(float),
        virtual_stages=cores.virtual_stages.astype(float),
        sequence_parallel=sequence_parallel,
        recompute=recompute,
        zero_stage=zero_stage,
        fsdp=fsdp,
        hybrid_shard=hybrid,
        tensor_overlap=tensor_overlap,
        data_overlap=data_overlap,
        stage_layers=cores.stage_layers.astype(float),
    )
