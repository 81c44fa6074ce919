"""From a training step to a training job: uneven stages, optimizer state elsewhere, goodput, input and the whole time.

Composed of walls: 8 ingestion, 9 transformation, 15 fragility, 19 checkpoint. `data/training_job.csv` holds published figures,
`data/training_stack_layouts.csv` which ways of splitting a model a software stack has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from zoo.architecture import embedding_parameters
from zoo.specs import Transformer
from zoo.units import Q, Quantity

from . import data, fleet, operations
from .constants import Range, published_range, row
from .dimensions import Number, dimensions
from .training import Run, counts
from .training_constants import stack
from .training_memory import sharing_expert_ranks, sharing_ranks

ADAM_BYTES = Q(12.0, "byte")  # per parameter, what `training_memory.state_bytes` counts

# Parts of a step that grow with the layers of the fullest stage.
LAYER_PARTS = (
    "gemm", "attention", "memory_bound", "recompute", "layer_start", "tensor_parallel", "context_parallel", "expert_parallel",
    "bubble", "stragglers",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ways:
    """Which ways of splitting a model a stack has; `sharding` of none, zero1, zero2, zero3, hybrid."""

    tensor: bool
    pipeline: bool
    interleaving: bool
    context: bool
    expert: bool
    sequence_parallel: bool
    sharded_pipeline: bool  # weights sharded (zero3, hybrid) beside pipeline stages
    activation_offload: bool  # activations copied to the host beside the computation
    sharding: tuple[str, ...]
    tensor_overlap: str  # `training_constants.Stack.tensor_overlap`
    data_overlap: bool  # whether data-parallel communication runs beside the computation, unless switched off


def ways_of(name: str) -> Ways:
    """The ways of a stack: `data/training_stack_layouts.csv`; UnknownValue where it has no row."""
    record, habits = row("training_stack_layouts", name), stack(name)
    flags = ("tensor", "pipeline", "interleaving", "context", "expert", "sequence_parallel", "sharded_pipeline",
             "activation_offload")  # fmt: skip
    return Ways(
        **{flag: record[flag] == "true" for flag in flags},
        sharding=tuple(record["sharding"].split(";")),
        tensor_overlap=habits.tensor_overlap,
        data_overlap=habits.overlapped,
    )


def published(name: str) -> Range:
    """The range of a figure in `data/training_job.csv`."""
    return published_range("training_job", name)


@dimensions("", layers="", stages="", virtual_stages="")
def fullest_stage(layers: Number, stages: Number, virtual_stages: Number) -> Number:
    """Layers on the fullest pipeline stage: v ceil(L / (p v)), for p stages of v chunks each; all counts."""
    return virtual_stages * np.ceil(layers / (stages * virtual_stages) - 1e-9)


def logit_layers(model: Transformer) -> float:
    """Work of a model's logits over that of one of its layers: V h / (active parameters of a layer)."""
    per_layer = max(model.active_parameters - embedding_parameters(model), 1.0) / model.layers
    return model.vocab * model.hidden / per_layer


@dimensions("", layers="", stages="", fullest="", logit_layers="")
def uneven_stretch(layers: Number, stages: Number, fullest: Number, logit_layers: Number) -> Number:
    """How much longer the slowest stage takes than an average one where stages are not alike.

    (f + max(0, q - (p f - L))) / (L / p); 1 where p f = L

    layers L, stages p, fullest f (layers of the fullest stage): counts. logit_layers q: work of the logits over that of one
    layer. The p f - L layers left out are taken from the last stage, which computes the logits instead; where all stages are
    alike, `training.step_time` counts the logits on top itself. Returns a factor, at least 1.
    Source: slowest stage of a pipeline; Dubey et al. (2024), section 3.3.2 for stages with fewer layers at the ends.
    """
    spare = stages * fullest - layers
    spilled = np.where(spare > 0, np.maximum(0.0, logit_layers - spare), 0.0)
    return (fullest + spilled) * stages / layers


def stage_split(layers: int, stages: int, fullest: int, logit_layers: float) -> tuple[int, ...]:
    """Layers of each pipeline stage, the fullest with `fullest`: as many fewer on the last as its logits weigh, then one fewer
    each from the first stage on. All are counts; logit_layers as in `uneven_stretch`."""
    spare = stages * fullest - layers
    for_logits = min(spare, fullest, int(np.ceil(logit_layers)))
    front = max(stages - 2, 0)  # the last stage but one stays full
    from_front = min(spare - for_logits, front * fullest)
    each, more = divmod(from_front, max(front, 1))
    last = fullest - (spare - from_front)
    return (*(fullest - each - (place < more) for place in range(front)), *[fullest] * min(stages - 1, 1), last)


def stretched(parts: Mapping[str, Quantity], stretch: Number) -> Quantity:
    """Time that uneven stages add to a step [s]: (stretch - 1) times everything that the layers of a stage take."""
    total = Q(0.0, "s")
    for name in LAYER_PARTS:
        total = total + parts[name]
    added: Quantity = total * (stretch - 1.0)
    return added


def adam_state(run: Run) -> Quantity:
    """Optimizer state on the fullest accelerator [byte] as the memory model counts it: 12 a parameter, shared from stage 1."""
    count, layout = counts(run), run.layouts
    shared = np.asarray(layout.zero_stage) >= 1
    ranks = np.where(shared, sharing_ranks(layout, run.machine.domain), 1.0)
    experts = np.where(shared, sharing_expert_ranks(layout, run.machine.domain, count.expert_replicas), 1.0)
    state: Quantity = ADAM_BYTES * ((count.local_parameters - count.local_experts) / ranks + count.local_experts / experts)
    return state


@dimensions("s", state="byte", host_bandwidth="byte/s", host_memory_bandwidth="byte/s")
def offload_time(state: Quantity, host_bandwidth: Quantity, host_memory_bandwidth: Quantity) -> Quantity:
    """Time that an optimizer on the host adds to a step: P (4 + 2) / host link + 30 P / host memory, P = state / 12 bytes.

    state [byte] of one accelerator that is kept on the host; host_bandwidth [byte/s] of its link (PCIe);
    host_memory_bandwidth [byte/s]: one accelerator's share. Gradients go down in 32 bit, weights come back in 16 bit.
    Returns [s]. Source: Ren et al. (2021), ZeRO-Offload. Assumes nothing overlaps: an upper bound of the time.
    """
    parameters = state / ADAM_BYTES
    return parameters * Q(6.0, "byte") / host_bandwidth + parameters * Q(30.0, "byte") / host_memory_bandwidth


@dimensions("s", activations="byte", host_bandwidth="byte/s", forward="s", backward="s")
def activation_offload_time(activations: Quantity, host_bandwidth: Quantity, forward: Quantity, backward: Quantity) -> Quantity:
    """Time that copying a step's activations to the host and back adds: max(0, A/B - F) + max(0, A/B - G) [s].

    activations A [byte] of one accelerator in a step; host_bandwidth B [byte/s] of its link (PCIe), each way; forward F and
    backward G [s]: computation of the step that the copies out, and back in, run beside.
    Source: Rhu et al. (2016), vDNN: the slower of copy and layer counts. Leaves out: what copies take of memory bandwidth.
    """
    copy, zero = activations / host_bandwidth, Q(0.0, "s")
    return np.maximum(copy - forward, zero) + np.maximum(copy - backward, zero)


@dataclass(frozen=True, slots=True)
class Goodput:
    """What failures and checkpoints leave of the time, and the figures on the way; arrays where the input is."""

    fraction: Number
    mtbf: Quantity
    interval: Quantity
    write_time: Quantity
    stall: Quantity
    restart: Quantity


def goodput_of(
    mtbf: Quantity,
    size: Quantity,
    nodes: Number,
    write: tuple[Quantity, Quantity],
    read: tuple[Quantity, Quantity],
    restart: Quantity,
    snapshot: Quantity | None = None,
) -> Goodput:
    """Goodput with Daly's interval, rework, and a restart that reads the checkpoint back.

    mtbf [h] of the whole job; size [byte] of a checkpoint; nodes: count; write, read: (per node, whole storage) [byte/s];
    restart [s] without reading; snapshot [s]: None stops training while a checkpoint is written, else only for this copy to
    the host, and checkpoints are no closer than they can be written.
    Source: Daly (2006); Eisenman et al. (2022) for checkpoints beside training.
    """
    written = operations.write_time(size, nodes, *write)
    back = size / data.storage_supply(nodes, *read) + restart
    stall = written if snapshot is None else snapshot
    interval = fleet.daly_interval(stall, mtbf)
    if snapshot is not None:
        interval = np.maximum(interval, written + snapshot)
        stall = operations.asynchronous_stall(snapshot, written, interval + snapshot)
    return Goodput(fleet.goodput(interval, stall, back, mtbf), mtbf, interval, written, stall, back)


@dimensions("s", steps="", step="s", goodput="", fed="")
def training_time(steps: Number, step: Quantity, goodput: Number, fed: Number) -> Quantity:
    """Wall-clock time of a job: steps x step / (goodput x fed) [s].

    steps: count; step [s]; goodput: fraction that becomes lasting work (walls 15, 19); fed: fraction of the time that
    accelerators have data (walls 8, 9).
    """
    return steps * step / (goodput * fed)


@dimensions("", operations="flop", accelerators="", peak="flop/s", time="s")
def model_utilisation(operations: Quantity, accelerators: Number, peak: Quantity, time: Quantity) -> Number:
    """MFU: operations that the model needs / (accelerators x peak x time), without recomputation. A fraction.

    Source: Chowdhery et al. (2022), PaLM, appendix B.
    """
    return operations / (accelerators * peak * time)
