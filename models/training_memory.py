"""Memory of a training step on its fullest accelerator: states, activations, logits, gathered weights, reserve (wall 2).

`memory` gives two verdicts. `peak` is what a run is expected to allocate: a plan fits where it stays within the
capacity, with the stated error. `minimum` is what no standard memory saver removes: only a layout above *that* is called
impossible, because many published runs fill the card to the brim, keep optimizer state on the host or recompute
selectively in ways their record does not say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity

from .dimensions import Number, dimensions
from .training import FULL, SELECTIVE, Counts, Layouts, Run, TrainingJob, choose, counts, run_of
from .training_constants import Constants, Stack, Value, training_constants


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest accelerator. `parts` sum to `peak`; `fits` and `impossible` are verdicts per layout."""

    peak: Quantity
    minimum: Quantity
    capacity: Quantity
    parts: Mapping[str, Quantity]

    @property
    def fits(self) -> Any:
        """Whether the expected peak stays within the capacity."""
        return self.peak.m_as("byte") <= self.capacity.m_as("byte")

    @property
    def impossible(self) -> Any:
        """Whether even the least memory exceeds the capacity."""
        return self.minimum.m_as("byte") > self.capacity.m_as("byte")


@dimensions("byte", parameters="", ranks="", zero_stage="", gradient="byte")
def state_bytes(parameters: Number, ranks: Number, zero_stage: Number, gradient: Quantity) -> Quantity:
    """Weights, gradients and Adam's states of the parameters that one rank computes with, after ZeRO sharding.

    stage 0: P (2 + g + 12); 1: P (2 + g + 12/d); 2: P (2 + (g + 12)/d); 3: 16 P / d

    parameters P; ranks d that share; gradient g [byte]: 2, or 4 where gradients are kept in 32 bit. Adam with a 32-bit
    master copy: 12 bytes. Returns [byte]. Source: Rajbhandari et al. (2020), ZeRO.
    """
    weight, adam, one = Q(2.0, "byte"), Q(12.0, "byte"), Q(4.0, "byte")
    stage = np.asarray(zero_stage)
    each = choose(stage >= 1, adam / ranks, adam) + choose(stage >= 2, gradient / ranks, gradient) + weight
    return parameters * choose(stage >= 3, (adam + one) / ranks, each)


@dimensions(
    "byte", tokens="", sequence_length="token", hidden="", heads="", sharded_width="", tensor_parallel="",
    sequence_parallel="", fused_attention="", score="byte",
)  # fmt: skip
def layer_activation_bytes(
    tokens: Number,
    sequence_length: Quantity,
    hidden: Number,
    heads: Number,
    sharded_width: Number,
    tensor_parallel: Number,
    sequence_parallel: Number,
    fused_attention: Number,
    score: Quantity,
) -> Quantity:
    """Activations that one layer stores for its backward pass without recompute.

    10 T h / r + 2 T w / t + score a T S / t (unless attention is fused), r = t with sequence parallelism, else 1

    tokens T; sequence_length S [token]; hidden h; heads a; sharded_width w: elements split by tensor parallelism t (queries,
    keys, values, attention output, MLP: 4 h + 8 h... in GPT w = 12 h, so T h (10 + 24/t)); score [byte] per attention
    score (5: scores, softmax, mask). Returns [byte]. Source: Korthikanti et al. (2022), equations 1 to 4, generalised to
    grouped queries, gated MLPs and experts: s b h (34 + 5 a s / h) for GPT on one rank.
    """
    replicated = 10.0 * tokens * hidden / np.where(sequence_parallel > 0, tensor_parallel, 1.0)
    scores = np.where(fused_attention > 0, 0.0, tokens * sequence_length.m_as("token") * heads / tensor_parallel)
    return Q(1.0, "byte") * (replicated + 2.0 * tokens * sharded_width / tensor_parallel) + score * scores


@dimensions("byte", tokens="", hidden="", tensor_parallel="", sequence_parallel="")
def layer_input_bytes(tokens: Number, hidden: Number, tensor_parallel: Number, sequence_parallel: Number) -> Quantity:
    """What a fully recomputed layer stores: its input, 2 T h bytes, split where sequence parallel. Chen et al. (2016)."""
    return Q(2.0, "byte") * tokens * hidden / np.where(sequence_parallel > 0, tensor_parallel, 1.0)


@dimensions("byte", tokens="", vocab="", tensor_parallel="")
def logit_bytes(tokens: Number, vocab: Number, tensor_parallel: Number) -> Quantity:
    """Logits in 16 bit, their 32-bit copy and its gradient: 10 T V / t [byte]."""
    return Q(10.0, "byte") * tokens * vocab / tensor_parallel


@dimensions("", stages="", microbatches="", virtual_stages="")
def microbatches_in_flight(stages: Number, microbatches: Number, virtual_stages: Number) -> Number:
    """Microbatches whose activations the first stage holds: min(m, p), times 1 + (p - 1)/(p v) where interleaved.

    A count. Source: Narayanan et al. (2021), 1F1B; Korthikanti et al. (2022), section 4.2.3 for the interleaved factor.
    """
    stacked = np.where(np.asarray(virtual_stages) > 1, 1 + (stages - 1) / (stages * virtual_stages), 1.0)
    return np.where(np.asarray(stages) > 1, np.minimum(microbatches, stages) * stacked, 1.0)


@dimensions("byte", tokens="", hidden="", element="byte")
def userbuffer_bytes(tokens: Number, hidden: Number, element: Quantity) -> Quantity:
    """Buffers through which tensor-parallel collectives are hidden behind matrix products: (6 e + 4 x 2) T h [byte].

    tokens T of a microbatch; hidden h; element e [byte] of an operand. One whole buffer for each of the ten products of a
    layer's forward and backward pass that have a collective, six of them in the format of the operands. Source: NVIDIA
    Transformer Engine, `initialize_ub`. Leaves out: counters and the larger workspace of the matrix products.
    """
    return (6 * element + Q(8.0, "byte")) * tokens * hidden


def _widths(run: Run) -> Number:
    """Elements per token and layer that tensor parallelism splits: 2 (q + k) and the MLP's, routed experts included."""
    shape = run.shape
    active = (shape.top_k * shape.expert_hidden + shape.shared_hidden) * 3 * shape.expert_share
    return 2 * shape.query_width + 2 * shape.key_width + (1 + shape.ffn_inputs) * shape.ffn_hidden * shape.dense_share + active


def _flags(run: Run) -> tuple[Any, Any, Any]:
    """(sequence parallel, fused attention, fully sharded or FSDP) as numbers or arrays of them."""
    layout = run.layouts
    fsdp = (np.asarray(layout.zero_stage) >= 3) | np.asarray(layout.fsdp, bool)
    return np.where(layout.sequence_parallel, 1.0, 0.0), np.where(run.fused_attention, 1.0, 0.0), fsdp


def peak_memory(run: Run, constants: Mapping[str, Value]) -> tuple[Quantity, dict[str, Quantity]]:
    """Expected peak [byte] and its parts: states, gathered, activations, logits, buffers, reserve.

    Constants fitted to rows that print their peak: selective_kept, activation_factor, logit_factor, reserve, score_bytes.
    Leaves out: what only some stacks keep (cached kernels' workspaces, offloaded activations).
    """
    count, shape, layout = counts(run), run.shape, run.layouts
    sequence, fused, fsdp = _flags(run)
    width = _widths(run)
    recompute = np.asarray(layout.recompute)

    def layer(without_scores: Any) -> Quantity:
        return layer_activation_bytes(
            count.tokens, run.job.sequence_length, shape.hidden, shape.heads, width, layout.tensor_parallel, sequence,
            without_scores, Q(constants["score_bytes"].value, "byte"),
        )  # fmt: skip

    everything = layer(fused)
    kept = choose(fused > 0, constants["selective_kept"].value * everything, layer(1.0))
    inputs = layer_input_bytes(count.tokens, shape.hidden, layout.tensor_parallel, sequence)
    stored = choose(recompute == SELECTIVE, kept, everything)
    stored = choose(recompute == FULL, inputs, stored)
    flight = microbatches_in_flight(layout.pipeline_parallel, count.microbatches, layout.virtual_stages)
    activations = stored * count.stage_layers * flight + np.where(recompute == FULL, 1.0, 0.0) * everything
    parts = {
        "states": _states(run, count),
        "gathered": _gathered(run, fsdp),
        "activations": constants["activation_factor"].value * activations,
        "logits": constants["logit_factor"].value * logit_bytes(count.tokens, shape.vocab, layout.tensor_parallel),
        "buffers": np.where(_buffered(run), 1.0, 0.0) * userbuffer_bytes(count.tokens, shape.hidden, run.machine.element),
        "reserve": Q(constants["reserve"].value, "GiB").to("byte"),
    }
    total: Any = sum(parts.values(), start=Q(0.0, "byte"))
    return total, parts


def sharing_ranks(layout: Layouts, domain: Number) -> Number:
    """Ranks that share states: all replicas, or with hybrid sharding those of one scale-up domain. A count."""
    ranks = layout.data_parallel * layout.context_parallel
    inside = np.maximum(1.0, domain / layout.tensor_parallel)
    return np.where(np.asarray(layout.hybrid_shard), np.minimum(ranks, inside), ranks)


def sharing_expert_ranks(layout: Layouts, domain: Number, expert_replicas: Number) -> Number:
    """Ranks that share the states of the same experts: all that hold them, or with hybrid sharding those of one scale-up domain,
    over whose ranks expert parallelism comes first. expert_replicas, domain: counts. A count."""
    inside = np.maximum(1.0, domain / layout.expert_parallel)
    return np.where(np.asarray(layout.hybrid_shard), np.minimum(expert_replicas, inside), expert_replicas)


def _states(run: Run, count: Counts) -> Quantity:
    layout = run.layouts
    gradient = Q(np.where(run.overlapped, 4.0, 2.0), "byte")  # overlapped stacks keep gradients in 32 bit
    ranks = sharing_ranks(layout, run.machine.domain)
    trunk = state_bytes(count.local_parameters - count.local_experts, ranks, layout.zero_stage, gradient)
    experts = sharing_expert_ranks(layout, run.machine.domain, count.expert_replicas)
    return trunk + state_bytes(count.local_experts, experts, layout.zero_stage, gradient)


def _buffered(run: Run) -> Any:
    """Whether tensor-parallel communication goes through buffers of its own."""
    layout = run.layouts
    split = np.asarray(layout.tensor_parallel) > 1
    return np.asarray(run.userbuffers, bool) & np.asarray(layout.tensor_overlap, bool) & split


def _gathered(run: Run, fsdp: Any) -> Quantity:
    """Weights that ZeRO-3 or FSDP hold unsharded: two layers (one, where the next is not gathered ahead) and the embedding;
    under a pipeline, the stage with gradients."""
    shape, layout = run.shape, run.layouts
    tensor, pipeline = layout.tensor_parallel, np.asarray(layout.pipeline_parallel)
    body = (shape.trunk_parameters + shape.expert_parameters) / tensor
    embedding = 4.0 * shape.embedding_parameters / tensor
    stage = np.where(fsdp & (pipeline > 1), 4.0 * body / pipeline + embedding, 0.0)
    ahead = np.where(layout.data_overlap, 4.0, 2.0) * body / shape.layers
    layers = np.where((np.asarray(layout.zero_stage) >= 3) & (pipeline == 1), ahead + embedding, 0.0)
    return Q(1.0, "byte") * (stage + layers)


def minimum_memory(run: Run) -> Quantity:
    """Bytes that no standard memory saver removes: the test for "impossible".

    16-bit weights and gradients under the stated sharding, one gathered layer under FSDP, half of one layer's activations,
    a quarter of the layer inputs in flight, logits in eight chunks, 1 GiB. Optimizer state and the rest may live on the host.
    Errs on the lenient side: no row that really ran exceeds its memory.
    """
    count, shape, layout = counts(run), run.shape, run.layouts
    sequence, _, fsdp = _flags(run)
    tensor, pipeline = layout.tensor_parallel, np.asarray(layout.pipeline_parallel)
    ranks = np.maximum(layout.data_parallel * layout.context_parallel, 1.0)

    def least(parameters: Number, shared_by: Number) -> Any:
        stage2 = np.where(np.asarray(layout.zero_stage) >= 2, 2.0 + 2.0 / shared_by, 4.0)
        return parameters * np.where(fsdp, 4.0 / shared_by, stage2)

    states = least(count.local_parameters - count.local_experts, ranks) + least(count.local_experts, count.expert_replicas)
    experts = shape.expert_parameters / np.maximum(layout.expert_parallel, 1.0)
    unit = np.where(fsdp, 2.0 * (shape.trunk_parameters + experts) / tensor / shape.layers, 0.0)
    layer = layer_activation_bytes(
        count.tokens, run.job.sequence_length, shape.hidden, shape.heads, _widths(run), tensor, sequence, 1.0, Q(0.0, "byte")
    )
    flight = np.where(pipeline > 1, np.minimum(count.microbatches, pipeline), 1.0)
    inputs = layer_input_bytes(count.tokens, shape.hidden, tensor, sequence) * count.stage_layers * flight
    logits = Q(2.0, "byte") * count.tokens * shape.vocab / tensor / 8
    return Q(1.0, "byte") * (states + unit) + 0.5 * layer + 0.25 * inputs + logits + Q(1.0, "GiB").to("byte")


def memory(
    model: Transformer,
    accelerator: Accelerator,
    job: TrainingJob,
    layouts: Layouts,
    stack: Stack,
    constants: Constants | None = None,
) -> Memory:
    """Memory of every layout on its fullest accelerator. Arguments and errors as `training.step_time`."""
    constants = training_constants() if constants is None else constants
    run = run_of(model, accelerator, job, layouts, stack)
    peak, parts = peak_memory(run, constants.memory)
    return Memory(peak, minimum_memory(run), accelerator.memory, parts)
