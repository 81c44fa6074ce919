"""Every way to lay a training step out on N accelerators, as arrays.

A *core* is how the model is split: tensor, pipeline, context, data and expert degrees (any divisors), the microbatch and the
chunks of a stage. A *strategy* is a core with a recompute mode, a sharding, sequence parallelism and offload. Cores are
enumerated first, because bounds discard most of them before they are spread into strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.training import FULL, NONE, SELECTIVE, Layouts
from models.training_job import Ways
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
    ways: Ways
    narrowed: TrainParallelism
    offload: bool


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

    def __len__(self) -> int:
        return len(self.tensor)

    def at(self, index: NDArray[np.intp]) -> Cores:
        return Cores(*(getattr(self, name)[index] for name in Cores.__slots__))


@dataclass(frozen=True, slots=True)
class Strategies:
    """Strategies of one number format: cores spread by what is recomputed, sharded and offloaded. `core` points back."""

    layouts: Layouts
    offloaded: NDArray[np.bool_]
    core: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.core)


def choices_of(
    model: Transformer, sequence_length: int, sequences: int, ways: Ways, narrowed: TrainParallelism, offload: bool
) -> Choices:
    """The choices of a model, a step, a stack and a question."""
    ffn = tuple(width for width in (model.ffn_hidden,) if width)
    return Choices(
        model.layers, model.heads, model.kv_heads, ffn, model.experts, sequence_length, sequences, ways, narrowed, offload
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


def cores_of(accelerators: int, choices: Choices) -> Cores:
    """Every core on `accelerators`: each frame with each microbatch and each number of chunks.

    Chunks: interleaving needs as many chunks as layers or fewer (embedding and logits may stand for one each), and a number
    of microbatches that the stages divide.
    """
    narrowed = choices.narrowed
    blocks = []
    for frame in frames_of(accelerators, choices):
        _, pipeline, _, data, _ = frame
        replica = choices.sequences // data
        micro = np.array(allowed(divisors(replica), narrowed.microbatch), np.int64)
        interleaves = pipeline > 1 and choices.ways.interleaving
        most = (choices.layers + 2) // pipeline if interleaves else 1
        virtual = np.array(allowed(range(1, max(most, 1) + 1), narrowed.virtual_stages), np.int64)
        if not len(micro) or not len(virtual):
            continue
        micro, virtual = (grid.ravel() for grid in np.meshgrid(micro, virtual, indexing="ij"))
        good = (virtual == 1) | (replica // micro % pipeline == 0)
        block = np.empty((7, int(good.sum())), np.int64)
        block[:5] = np.array(frame)[:, None]
        block[5], block[6] = micro[good], virtual[good]
        blocks.append(block)
    table = np.concatenate(blocks, axis=1) if blocks else np.empty((7, 0), np.int64)
    return Cores(*table)


def options_of(choices: Choices) -> Ints:
    """What a core is spread by: rows of (recompute mode, ZeRO stage, hybrid, sequence parallel, offloaded)."""
    narrowed, ways = choices.narrowed, choices.ways
    recompute = [RECOMPUTE[name] for name in narrowed.recompute or RECOMPUTE]
    sharding = [SHARDING[name] for name in narrowed.sharding or SHARDING if name in ways.sharding]
    sequence = [False, True] if narrowed.sequence_parallel is None else [narrowed.sequence_parallel]
    sequence = [s for s in sequence if not s or ways.sequence_parallel]
    host = [False, True] if choices.offload else [False]
    rows = [(r, z, h, s, o) for r in recompute for z, h in sharding for s in sequence for o in host]
    return np.array(rows, np.int64).reshape(-1, 5)


def _possible(cores: Cores, choices: Choices, options: Ints, domain: int) -> NDArray[np.bool_]:
    """Which options (second axis) a core (first axis) may have.

    Sequence parallelism needs tensor ranks; sharding needs replicas, hybrid sharding more of them than a scale-up domain
    has, and no experts; gradients are sharded (zero2) only where a step has one microbatch, reduced once;
    weights are sharded under a pipeline only by stacks that do it.
    """
    _, stage, hybrid, split, _ = options.T
    ranks = (cores.data * cores.context)[:, None]
    tensor = cores.tensor[:, None]
    single = (cores.data * cores.microbatch == choices.sequences)[:, None]
    unsharded, whole = bool(np.any(stage == 0)), bool(np.any(split == 0))
    good = (split == 0) | (tensor > 1) if whole else np.full((len(cores), len(options)), True)
    if unsharded:
        good &= (stage == 0) | (ranks > 1)
    good &= (stage != 2) | single
    good &= (hybrid == 0) | ((ranks * tensor > domain) & (domain > tensor))
    if choices.experts:
        good &= hybrid == 0
    if not choices.ways.sharded_pipeline:
        good &= (stage < 3) | (cores.pipeline[:, None] == 1)
    return np.asarray(good)


def count_of(cores: Cores, choices: Choices, domain: int) -> Ints:
    """How many strategies each core has."""
    return np.asarray(_possible(cores, choices, options_of(choices), domain).sum(axis=1))


def strategies_of(cores: Cores, choices: Choices, precision: str, domain: int) -> Strategies:
    """Every strategy of these cores in one number format."""
    options = options_of(choices)
    core, option = np.nonzero(_possible(cores, choices, options, domain))
    mode, stage, hybrid, split, offloaded = options[option].T
    fsdp = (stage >= 3) | ((stage == 2) & ("none" not in choices.ways.sharding))
    layouts = layouts_of(cores.at(core), precision, split == 1, mode, stage, fsdp, hybrid == 1)
    return Strategies(layouts, offloaded == 1, core)


def layouts_of(
    cores: Cores,
    precision: str,
    sequence_parallel: NDArray[np.bool_],
    recompute: Ints,
    zero_stage: Ints,
    fsdp: NDArray[np.bool_],
    hybrid: NDArray[np.bool_],
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
    )
