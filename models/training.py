"""A training step, composed of walls: how long one optimizer step takes under a layout, and which wall takes it.

The step is built from small terms (matrix products, attention, memory-bound kernels, collectives, gathers, reduction,
bubble, ...), each a function of its own with its source. `step_time` composes them for one model on one accelerator and
any number of layouts at once; `evaluate` does it where model and machine are arrays too, as rows of measurements are.

Constants are fitted (`models.training_fit`) and looked up by chip family, precision and stack; what was never measured
inherits and says so. The variant with pooled factors per stack, release, recipe and chip is kept: fitted on random halves
of the measured rows it errs clearly less on the other half than one without them (`data/training_fit.md`).

`ASSUMPTIONS` says what is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.architecture import active_parameters as counted_active_parameters
from zoo.architecture import attention_parameters, dense_layers, embedding_parameters, expert_parameters, missing
from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity

from . import fleet, node
from .dimensions import Number, UnknownValue, dimensions, known, require
from .training_constants import Constants, Setting, Stack, peak_of, training_constants

ASSUMPTIONS = (
    "the parts of a step are those of a decoder transformer with Adam; every sequence has the full length",
    "pipeline stages hold equal shares of the layers with the logits on top of the last, or fewer layers there",
    "experts are loaded evenly",
    "nothing is offloaded to the host unless asked for; input pipeline, checkpoints and failures are other walls (8, 9, 15, 19)",
    "overlap is that of the stack: older stacks expose their communication, newer ones the fitted share; switched off, tensor "
    "parallelism is as exposed as in the older ones, and data-parallel collectives are waited for",
)
NONE, SELECTIVE, FULL = 0, 1, 2  # recompute modes of `Layouts`

# What a part of the step is counted as.
WALLS: Mapping[str, str] = {
    "gemm": "compute",
    "attention": "compute",
    "logits": "compute",
    "recompute": "compute",
    "memory_bound": "memory_bound",
    "accumulation": "memory_bound",
    "optimizer": "memory_bound",
    "tensor_parallel": "communication",
    "context_parallel": "communication",
    "expert_parallel": "communication",
    "gathers": "communication",
    "sends": "communication",
    "reduction": "communication",
    "bubble": "bubble",
    "stragglers": "stragglers",
    "layer_start": "fixed",
    "microbatch": "fixed",
    "step": "fixed",
}


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What is trained on in one step: `global_batch` sequences of `sequence_length` [token]."""

    sequence_length: Quantity
    global_batch: Number


@dataclass(frozen=True, slots=True)
class Layouts:
    """How a model is split and what is recomputed; every field is one value or an array of one per candidate.

    recompute: NONE, SELECTIVE or FULL. zero_stage: 0 to 3, what data-parallel ranks share (1 optimizer, 2 gradients, 3 weights).
    fsdp: PyTorch-style sharding of everything (stage 3), or with zero_stage 2 the variant that gathers weights once.
    hybrid_shard: shard inside a scale-up domain only, and reduce gradients across domains. precision: one of
    `training_constants.RECIPES`, or an array of them.
    tensor_overlap, data_overlap: whether what the stack has for hiding tensor-parallel and data-parallel communication is on.
    stage_layers: layers of the fullest pipeline stage, 0 for equal shares; times are those of an average stage all the same
    (`training_job.uneven_stretch` has the slowest), but a last stage that gave layers up for the logits is not waited for.
    """

    tensor_parallel: Number
    pipeline_parallel: Number
    data_parallel: Number
    microbatch: Number  # sequences
    precision: Any
    context_parallel: Number = 1.0
    expert_parallel: Number = 1.0
    virtual_stages: Number = 1.0
    sequence_parallel: Any = False
    recompute: Any = NONE
    zero_stage: Any = 0
    fsdp: Any = False
    hybrid_shard: Any = False
    tensor_overlap: Any = True
    data_overlap: Any = True
    stage_layers: Number = 0.0

    @property
    def accelerators(self) -> Number:
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel * self.data_parallel


@dataclass(frozen=True, slots=True)
class Shape:
    """What a step needs to know of a transformer at one sequence length; every field may be an array over models.

    Shares are of `layers`: with an MLP (`dense_share`), experts (`expert_share`), attention, a constant state.
    """

    layers: Number
    hidden: Number
    vocab: Number
    heads: Number
    head_dim: Number
    query_width: Number  # heads x head_dim
    key_width: Number  # kv_heads x head_dim
    projection_parameters: Number  # of attention or state, mean of all layers
    attention_share: Number
    state_share: Number
    dense_share: Number
    ffn_hidden: Number
    ffn_inputs: Number  # matrices into the MLP's hidden layer: 2 with a gate, 1 without
    expert_share: Number
    experts: Number
    top_k: Number
    expert_hidden: Number
    shared_hidden: Number  # of all shared experts together
    latent_share: Number  # of the hidden size that experts work in
    work_scale: Number  # published active parameters over those counted from the shape
    trunk_parameters: Number  # all but experts and embeddings
    expert_parameters: Number
    embedding_parameters: Number  # of one table
    embedding_tables: Number
    attention_operations: Quantity  # [FLOP] forward, one sequence, all layers, causal


@dataclass(frozen=True, slots=True)
class Machine:
    """What a step needs to know of an accelerator; bandwidths per accelerator and direction. May be arrays."""

    peak: Quantity  # at the precision multiplied in
    peak16: Quantity  # at 16 bit, for attention
    element: Quantity  # [byte] of one operand of a matrix product
    memory: Quantity
    memory_bandwidth: Quantity
    link_bandwidth: Quantity
    network_bandwidth: Quantity
    domain: Number  # accelerators on one scale-up link


@dataclass(frozen=True, slots=True)
class Run:
    """A model, a machine, a job, layouts and a stack's habits, as broadcastable arrays."""

    shape: Shape
    machine: Machine
    job: TrainingJob
    layouts: Layouts
    overlapped: Any
    fused_attention: Any
    scatters_sends: Any
    userbuffers: Any = False  # tensor-parallel communication is hidden by means of buffers of its own


@dataclass(frozen=True, slots=True)
class StepTime:
    """Time of one optimizer step [s], its 80 % interval and its parts, which sum to `total`.

    `parts`: by name, see WALLS; communication is the exposed share. `notes`: what was inherited rather than measured.
    """

    total: Quantity
    low: Quantity
    high: Quantity
    parts: Mapping[str, Quantity]
    notes: tuple[str, ...] = ()

    @property
    def walls(self) -> dict[str, Quantity]:
        """The step's time by wall: compute, memory_bound, communication (exposed), bubble, stragglers, fixed."""
        sums: dict[str, Quantity] = {}
        for name, part in self.parts.items():
            sums[WALLS[name]] = sums[WALLS[name]] + part if WALLS[name] in sums else part
        return sums


def choose(condition: Any, chosen: Any, otherwise: Any) -> Any:
    """`chosen` where the condition holds, `otherwise` elsewhere: quantities of one dimension, or bare arrays."""
    return np.where(condition, chosen, otherwise)


def take(record: Any, index: NDArray[np.intp]) -> Any:
    """The elements `index` of every array in a record of arrays; single values stay as they are."""
    changes: dict[str, Any] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if is_dataclass(value):
            changes[item.name] = take(value, index)
        elif isinstance(value, Quantity) and np.ndim(value.magnitude):
            changes[item.name] = Q(value.magnitude[index], value.units)
        elif isinstance(value, np.ndarray) and value.ndim:
            changes[item.name] = value[index]
    return replace(record, **changes)


def repeated(records: Sequence[Any], times: Sequence[int]) -> Any:
    """Records of single values as one record of arrays, in which each of them stands as often as `times` says."""
    changes: dict[str, Any] = {}
    for item in fields(records[0]):
        values = [getattr(record, item.name) for record in records]
        if isinstance(values[0], Quantity):
            unit = values[0].units
            changes[item.name] = Q(np.repeat([float(value.m_as(unit)) for value in values], times), unit)
        else:
            changes[item.name] = np.repeat(values, times)
    return replace(records[0], **changes)


def shape_of(model: Transformer, sequence_length: Quantity) -> Shape:
    """What a training step needs to know of `model`. UnknownValue names what its record lacks.

    Where the published total of a mixture of experts is far below (0.55) what its shape would hold, its experts work in a
    narrower space: 1.5 times that ratio (up and down projection without the gate are two thirds), as in Nemotron 3.
    """
    lacks = missing(model)
    if lacks:
        known(None, f"{' and '.join(lacks)} of {model.name}")
    layers = float(model.layers)
    head_dim = float(model.head_dim)
    if model.attention == "MLA":
        head_dim = (known(model.qk_nope_dim, "qk_nope_dim") + known(model.qk_rope_dim, "qk_rope_dim")
                    + known(model.v_head_dim, "v_head_dim")) / 2  # fmt: skip
    attention = model.kv_layers * attention_parameters(model) if model.kv_layers else 0.0
    projections = attention + model.state_layers * model.state_parameters
    expert_hidden = float(model.moe_ffn_hidden or 0)
    experts = model.moe_layers * model.experts * expert_parameters(model) if model.experts else 0.0
    shared = model.moe_layers * model.shared_experts * expert_parameters(model) if model.experts else 0.0
    mlps = dense_layers(model) * (3 if model.gated else 2) * model.hidden * (model.ffn_hidden or 0)
    trunk = projections + mlps + shared
    latent = 1.0
    if experts:
        published = max(model.parameters - trunk - embedding_parameters(model), 1e6)
        ratio, experts = published / experts, published
        latent = min(max(1.5 * ratio, 0.1), 1.0) if ratio < 0.55 else 1.0
    scale = model.active_parameters / counted_active_parameters(model) if model.state_layers else 1.0
    return Shape(
        layers=layers,
        hidden=float(model.hidden),
        vocab=float(model.vocab),
        heads=float(model.heads),
        head_dim=head_dim,
        query_width=model.heads * head_dim,
        key_width=model.kv_heads * head_dim,
        projection_parameters=projections / layers,
        attention_share=model.kv_layers / layers,
        state_share=model.state_layers / layers,
        dense_share=dense_layers(model) / layers,
        ffn_hidden=float(model.ffn_hidden or 0),
        ffn_inputs=2.0 if model.gated else 1.0,
        expert_share=model.moe_layers / layers if model.experts else 0.0,
        experts=float(model.experts),
        top_k=float(model.top_k),
        expert_hidden=expert_hidden,
        shared_hidden=model.shared_experts * expert_hidden,
        latent_share=latent,
        work_scale=scale,
        trunk_parameters=float(trunk),
        expert_parameters=float(experts),
        embedding_parameters=float(model.vocab * model.hidden),
        embedding_tables=1.0 if model.tie_embeddings else 2.0,
        attention_operations=node.attention_operations(model, sequence_length, Q(0.0, "token")),
    )


def machine_of(accelerator: Accelerator, precision: str, largest: float = np.inf) -> Machine:
    """What a training step needs to know of `accelerator` at a recipe. UnknownValue names what its record lacks.

    `largest`: the most accelerators of any layout; a chip whose network is unknown can be timed inside its scale-up domain.
    """
    link = accelerator.link_bandwidth if accelerator.link_bandwidth is not None else accelerator.host_bandwidth
    link = known(link, f"link_bandwidth of {accelerator.name}")
    network = accelerator.nic_bandwidth
    if network is None and largest <= accelerator.scale_up_domain:
        network = link
    peak16 = next((accelerator.peak[p] for p in ("bf16", "fp16") if p in accelerator.peak), None)
    return Machine(
        peak=peak_of(accelerator, precision),
        peak16=known(peak16, f"16-bit peak of {accelerator.name}"),
        element=Q(2.0 if precision in ("bf16", "fp16") else 1.0, "byte"),
        memory=accelerator.memory,
        memory_bandwidth=accelerator.memory_bandwidth,
        link_bandwidth=link,
        network_bandwidth=known(network, f"nic_bandwidth of {accelerator.name}"),
        domain=float(accelerator.scale_up_domain),
    )


# --------------------------------------------------------------------------------------------- compute and memory traffic


@dimensions(
    "s", rows="", inner="", columns="", element="byte", peak="flop/s", efficiency="", half_dimension="",
    misaligned_slowdown="", bandwidth="byte/s", start="s",
)  # fmt: skip
def gemm_time(
    rows: Number,
    inner: Number,
    columns: Number,
    element: Quantity,
    peak: Quantity,
    efficiency: Number,
    half_dimension: Number,
    misaligned_slowdown: Number,
    bandwidth: Quantity,
    start: Quantity,
) -> Quantity:
    """Time of one matrix product (rows x inner) (inner x columns) in training.

    max( 2 m k n / (eta Peak) (1 + d0/min(k, n)) (1 + d0/m) s,  traffic / BW ) + t0

    rows m (tokens of the microbatch), inner k, columns n: counts; element [byte] of an operand; peak [FLOP/s]; efficiency
    eta of a large product; half_dimension d0: the side at which half of it is left; misaligned_slowdown s where the
    smaller of k and n is no multiple of 64; bandwidth [byte/s] really reached; start t0 [s]. Returns [s].
    Source: form fitted to published GEMM sweeps; alignment: NVIDIA, Matrix Multiplication Background User's Guide.
    Leaves out: wave quantisation.
    """
    side = np.minimum(inner, columns)
    slowdown = np.where(np.mod(side, 64) == 0, 1.0, misaligned_slowdown)
    reached = efficiency / ((1 + half_dimension / side) * (1 + half_dimension / np.maximum(rows, 1.0)) * slowdown)
    compute = node.compute_time(node.gemm_operations(rows, inner, columns), peak, reached)
    traffic = node.gemm_traffic(rows, inner, columns, element, element)
    return np.maximum(compute, traffic / bandwidth) + start


@dimensions("s", operations="flop", peak="flop/s", efficiency="")
def fused_attention_time(operations: Quantity, peak: Quantity, efficiency: Number) -> Quantity:
    """Forward time of FlashAttention: causal operations / (eta Peak), no score ever in memory.

    operations [FLOP] of the causal half (`node.attention_operations`); peak [FLOP/s] at 16 bit; efficiency eta. Returns [s].
    Source: Dao (2023), FlashAttention-2. Leaves out: that short sequences and small heads reach less.
    """
    return node.compute_time(operations, peak, efficiency)


@dimensions("s", operations="flop", scores="", peak="flop/s", efficiency="", score_bytes="byte", bandwidth="byte/s")
def unfused_attention_time(
    operations: Quantity, scores: Number, peak: Quantity, efficiency: Number, score_bytes: Quantity, bandwidth: Quantity
) -> Quantity:
    """Forward time of attention as batched products, masked after they are computed, with softmax and dropout in memory.

    2 OPs / (eta Peak) + b N / BW

    operations [FLOP] of the causal half: the masked half is computed too; scores N: query-key pairs of all heads, masked
    ones included; score_bytes b [byte] moved per score; bandwidth [byte/s] really reached. Returns [s].
    Source: Narayanan et al. (2021); Korthikanti et al. (2022) for what touches the scores.
    """
    return node.compute_time(2 * operations, peak, efficiency) + scores * score_bytes / bandwidth


@dimensions(
    "s", tokens="", hidden="", sharded_width="", tensor_parallel="", sequence_parallel="", bytes_per_element="byte",
    bandwidth="byte/s",
)  # fmt: skip
def memory_bound_time(
    tokens: Number,
    hidden: Number,
    sharded_width: Number,
    tensor_parallel: Number,
    sequence_parallel: Number,
    bytes_per_element: Quantity,
    bandwidth: Quantity,
) -> Quantity:
    """Forward time of one layer's norms, residuals, dropout (on every tensor rank, unless sequence parallel) and activations.

    (b T h / r + 4 T w / t) / BW, r = t with sequence parallelism, else 1

    tokens T; hidden h; sharded_width w: elements that tensor parallelism t splits (activations, biases, layouts; two
    bytes in, two out); sequence_parallel: 1 or 0; bytes_per_element b [byte]; bandwidth [byte/s] reached. Returns [s].
    Source: Korthikanti et al. (2022) for what is replicated.
    """
    replicated = bytes_per_element * tokens * hidden / np.where(sequence_parallel > 0, tensor_parallel, 1.0)
    return (replicated + Q(4.0, "byte") * tokens * sharded_width / tensor_parallel) / bandwidth


@dimensions("s", parameters="", bytes_per_parameter="byte", bandwidth="byte/s")
def optimizer_time(parameters: Number, bytes_per_parameter: Quantity, bandwidth: Quantity) -> Quantity:
    """Time to read and write the optimizer's state of the parameters that a rank keeps: P b / BW [s]. Adam: b = 30 bytes."""
    return parameters * bytes_per_parameter / bandwidth


# ------------------------------------------------------------------------------------------------------- communication


@dimensions("byte/s", ranks="", ranks_in_domain="", link="byte/s", network="byte/s")
def ring_bandwidth(ranks: Number, ranks_in_domain: Number, link: Quantity, network: Quantity) -> Quantity:
    """Bandwidth per rank of a ring over `ranks`, of which `ranks_in_domain` r share a scale-up link.

    link inside one domain; else min(link, r network): all r ranks' network ports carry the ring's edge

    link, network [byte/s] per rank and direction. Returns [byte/s]. Source: NCCL's rings over all network ports of a node.
    """
    inside = np.clip(ranks_in_domain, 1.0, ranks)
    return choose(ranks <= inside, link, np.minimum(link, network * inside))


@dimensions("s", message="byte", ranks="", domain="", link="byte/s", network="byte/s", call="s")
def tensor_collective_time(
    message: Quantity, ranks: Number, domain: Number, link: Quantity, network: Quantity, call: Quantity
) -> Quantity:
    """Time of one all-reduce (or a reduce-scatter and an all-gather) over the tensor-parallel group.

    ring_all_reduce(M, t) + call, 0 for one rank

    message M [byte]; ranks t; domain: accelerators on one scale-up link; link, network [byte/s]; call [s]: what the stack
    spends per collective. Returns [s]. Source: Shoeybi et al. (2019), Megatron-LM.
    """
    bandwidth = ring_bandwidth(ranks, np.minimum(domain, ranks), link, network)
    return fleet.ring_all_reduce(message, ranks, bandwidth, Q(0.0, "s")) + np.minimum(ranks - 1, 1.0) * call


@dimensions("s", key_values="byte", ranks="", ranks_in_domain="", link="byte/s", network="byte/s", call="s")
def context_ring_time(
    key_values: Quantity, ranks: Number, ranks_in_domain: Number, link: Quantity, network: Quantity, call: Quantity
) -> Quantity:
    """Time to pass every rank's keys and values of one layer around the context-parallel ring: (c - 1) sends [s].

    key_values [byte] of one rank; the rest as `ring_bandwidth`; call [s] per step. Source: Liu et al. (2023), ring attention.
    """
    return (ranks - 1) * fleet.point_to_point(key_values, ring_bandwidth(ranks, ranks_in_domain, link, network), call)


@dimensions("", ranks="", top_k="")
def distinct_destinations(ranks: Number, top_k: Number) -> Number:
    """Expected number of other ranks that a token with `top_k` experts must reach: E(1 - (1 - 1/E)^k) (E - 1)/E.

    ranks E over which experts are spread evenly; 0 for one rank. Assumes independent routing: a token goes once to each rank
    however many of its experts live there. Source: DeepSeek-AI (2024), deduplicated dispatch.
    """
    return ranks * (1 - (1 - 1 / ranks) ** top_k) * (ranks - 1) / ranks


@dimensions("s", message="byte", top_k="", ranks="", ranks_in_domain="", link="byte/s", network="byte/s", call="s")
def expert_all_to_all_time(
    message: Quantity,
    top_k: Number,
    ranks: Number,
    ranks_in_domain: Number,
    link: Quantity,
    network: Quantity,
    call: Quantity,
) -> Quantity:
    """Time to dispatch (or combine) one microbatch's tokens to their experts.

    M ((D(E) - D(nodes)) / link + D(nodes) / network) + call, D = `distinct_destinations`; 0 for one rank

    message M [byte] of all tokens of a rank, one copy each; top_k; ranks E; ranks_in_domain; link, network [byte/s];
    call [s]. Returns [s]. A token crosses the network once per node and spreads inside it by link.
    """
    nodes = np.maximum(ranks / np.clip(ranks_in_domain, 1.0, ranks), 1.0)
    far = distinct_destinations(nodes, top_k)
    near = np.maximum(distinct_destinations(ranks, top_k) - far, 0.0)
    return message * (near / link + far / network) + np.minimum(ranks - 1, 1.0) * call


@dimensions("s", gradients="byte", weights="byte", ranks="", ranks_in_domain="", link="byte/s", network="byte/s")
def reduction_time(
    gradients: Quantity, weights: Quantity, ranks: Number, ranks_in_domain: Number, link: Quantity, network: Quantity
) -> Quantity:
    """Time to sum gradients over data-parallel ranks and to spread the updated weights: reduce-scatter, then all-gather [s].

    gradients, weights [byte] of one rank's parameters as they travel; the rest as `ring_bandwidth`.
    Source: Rajbhandari et al. (2020), ZeRO; equal sizes make it a ring all-reduce. Leaves out: latency (buckets are large).
    """
    bandwidth, latency = ring_bandwidth(ranks, ranks_in_domain, link, network), Q(0.0, "s")
    return fleet.reduce_scatter(gradients, ranks, bandwidth, latency) + fleet.all_gather(weights, ranks, bandwidth, latency)


@dimensions("s", reduction="s", window="s", exposed="")
def exposed_reduction(reduction: Quantity, window: Quantity, exposed: Number) -> Quantity:
    """What is seen of a reduction that can hide behind the backward pass of the last microbatch only.

    x min(R, W) + max(R - W, 0)

    reduction R, window W [s]; exposed x: share of the hideable part that is seen all the same. Returns [s].
    Source: fitted; Li et al. (2020), PyTorch DDP for the mechanism.
    """
    return exposed * np.minimum(reduction, window) + np.maximum(reduction - window, Q(0.0, "s"))


@dimensions("s", accelerators="", step="s", growth="")
def straggling(accelerators: Number, step: Quantity, growth: Number) -> Quantity:
    """Time lost to waiting for the slowest: step x g log2(n / 8) beyond eight accelerators [s]. growth g is held, not fitted."""
    return step * growth * np.log2(np.maximum(accelerators / 8, 1.0))


# -------------------------------------------------------------------------------------------------------- composition


@dataclass(frozen=True, slots=True)
class Counts:
    """What follows from a shape and a layout by counting: tokens and microbatches, layers and parameters of one rank."""

    tokens: Number  # of one microbatch on one rank
    microbatches: Number  # of one replica in a step
    stage_layers: Number
    local_parameters: Number  # on the fullest rank, with its embedding
    local_experts: Number  # of these, experts
    gathered_parameters: Number  # that a rank computes with under ZeRO-3, experts included
    expert_replicas: Number  # ranks that hold the same experts


def counts(run: Run) -> Counts:
    """Tokens, microbatches and parameters of one rank. ImpossibleValue where a replica has less than one microbatch."""
    shape, layout = run.shape, run.layouts
    tensor, pipeline, data = layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel
    replica = run.job.global_batch / data
    require(layout.microbatch <= replica * (1 + 1e-9), "a microbatch has more sequences than a replica has in a step")
    tokens = layout.microbatch * run.job.sequence_length.m_as("token") / layout.context_parallel
    tables = np.where(pipeline > 1, 1.0, shape.embedding_tables)
    experts = shape.expert_parameters / layout.expert_parallel / pipeline
    embedding = shape.embedding_parameters / tensor
    return Counts(
        tokens=tokens,
        microbatches=np.maximum(replica / layout.microbatch, 1.0),
        stage_layers=shape.layers / pipeline,
        local_parameters=shape.trunk_parameters / tensor / pipeline + experts + embedding * tables,
        local_experts=experts,
        gathered_parameters=(shape.trunk_parameters + shape.expert_parameters) / pipeline / tensor + embedding,
        expert_replicas=np.maximum(1.0, data * tensor * layout.context_parallel / layout.expert_parallel),
    )


def evaluate(run: Run, constants: Mapping[str, Any]) -> tuple[Quantity, dict[str, Quantity], dict[str, Any]]:
    """Time of a step [s], its parts, and times that parts are made of, before the time factor; for runs given as arrays and
    constants as `Constants.resolve` gives them.

    One microbatch passes forward and backward through a stage; the step is m of these, the bubble, what is left of the
    reduction, the optimizer and the fixed costs. Activities that overlap take their p-norm (`node.soft_roofline`).
    """
    c, shape, machine, layout = constants, run.shape, run.machine, run.layouts
    count = counts(run)
    zero = Q(0.0, "s")
    tensor, pipeline, context, data = (
        layout.tensor_parallel, layout.pipeline_parallel, layout.context_parallel, layout.data_parallel,
    )  # fmt: skip
    sharded = np.asarray(layout.zero_stage) >= 3
    fused = np.asarray(run.fused_attention, bool)
    has_experts = np.asarray(shape.expert_share) > 0
    full = np.where(np.asarray(layout.recompute) == FULL, 1.0, 0.0)
    selective = np.where(np.asarray(layout.recompute) == SELECTIVE, 1.0, 0.0)
    sequence_parallel = np.where(layout.sequence_parallel, 1.0, 0.0)
    bandwidth = c["bandwidth_efficiency"] * machine.memory_bandwidth
    link = c["link_efficiency"] * machine.link_bandwidth
    network = c["network_efficiency"] * machine.network_bandwidth
    tokens, hidden = count.tokens, shape.hidden

    def beside(first: Quantity, second: Quantity) -> Quantity:
        return node.soft_roofline(first, second, c["overlap_exponent"], zero)

    def gemm(rows: Number, inner: Number, columns: Number, relative: Any = 1.0, start: Any = c["gemm_start"]) -> Quantity:
        return gemm_time(
            rows, inner, columns, machine.element, machine.peak * c["power_limit"], c["gemm_efficiency"] * relative,
            c["gemm_half_dimension"], 1.0 if start is zero else c["misaligned_slowdown"], bandwidth, start,
        )  # fmt: skip

    # one layer, forward: an average layer holds a share of a dense MLP and a share of an expert block
    width = shape.projection_parameters / hidden / tensor  # five eighths into attention, three eighths out of it
    products = gemm(tokens, hidden, 0.625 * width) + gemm(tokens, 0.375 * width, hidden)
    if np.any(np.asarray(shape.dense_share) > 0):
        ffn = np.maximum(shape.ffn_hidden, 1.0) / tensor
        mlp = gemm(tokens, hidden, shape.ffn_inputs * ffn) + gemm(tokens, ffn, hidden)
        products = products + shape.dense_share * mlp
    routing = exchange = zero
    if np.any(has_experts):
        expert = np.maximum(shape.expert_hidden, 1.0)
        shared = np.maximum(shape.shared_hidden, 1.0) / tensor
        routed = tokens * shape.top_k
        local = np.maximum(shape.experts / layout.expert_parallel, 1.0)
        grouped = gemm(routed / local, hidden, shape.ffn_inputs * expert, c["expert_efficiency"], zero) + gemm(
            routed / local, expert, hidden, c["expert_efficiency"], zero
        )
        experts = (local * grouped + 2 * c["gemm_start"]) / tensor  # tensor ranks share the routed tokens
        always = gemm(tokens, hidden, shape.ffn_inputs * shared) + gemm(tokens, shared, hidden)
        always = choose(np.asarray(shape.shared_hidden) > 0, always, zero)
        products = products + shape.expert_share * (experts + always)
        routing = shape.expert_share * c["routing_traffic"] * routed * hidden * shape.latent_share / tensor / bandwidth
        exchange = shape.expert_share * expert_all_to_all_time(
            Q(2.0, "byte") * tokens * hidden * shape.latent_share / tensor, np.maximum(shape.top_k, 1.0),
            layout.expert_parallel, machine.domain, link * c["all_to_all_link_efficiency"],
            network * c["all_to_all_network_efficiency"], c["all_to_all_call"],
        )  # fmt: skip
    products = products * shape.work_scale

    operations = shape.attention_operations / shape.layers * layout.microbatch / context / tensor
    attention = fused_attention_time(operations, machine.peak16, c["flash_efficiency"])
    if not np.all(fused):
        pairs = tokens * run.job.sequence_length.m_as("token") * shape.heads / tensor * shape.attention_share
        aligned = np.mod(shape.head_dim, 8) == 0
        reached = np.where(aligned, c["score_efficiency"], c["misaligned_score_efficiency"])
        unfused = unfused_attention_time(operations, pairs, machine.peak16, reached, c["score_traffic"], bandwidth)
        attention = choose(fused, attention, unfused)
    ring = passed = zero
    if np.any(np.asarray(context) > 1):
        key_values = Q(4.0, "byte") * tokens * shape.key_width / tensor * shape.attention_share
        passed = context_ring_time(
            key_values, context, np.maximum(1.0, machine.domain / tensor), link, network,
            c["tensor_call"] * c["ring_call_share"],
        )  # fmt: skip
        ring = beside(attention, passed) - attention  # what sticks out from under attention

    mlp_width = shape.dense_share * (1 + shape.ffn_inputs) * shape.ffn_hidden + shape.expert_share * 3 * shape.shared_hidden
    width = mlp_width + shape.query_width + 2 * shape.key_width
    elementwise = memory_bound_time(tokens, hidden, width, tensor, sequence_parallel, c["elementwise_traffic"], bandwidth)
    states = shape.state_share * c["state_traffic"] * tokens * hidden / tensor / bandwidth
    memory_bound = elementwise * c["unfused_share"] + routing + states

    backward_attention = np.where(fused, c["flash_backward"], 2.0)
    forward = products + attention + ring + memory_bound
    backward = 2 * products + backward_attention * (attention + ring) + 2 * memory_bound
    start, start_back = c["layer_start"], 1.5 * c["layer_start"]
    if np.any(has_experts):  # a floor: the host starts kernels while others run
        start = choose(has_experts, beside(forward, start) - forward, start)
        start_back = choose(has_experts, beside(backward, start_back) - backward, start_back)
    forward = forward + start
    collective = tensor_collective_time(Q(2.0, "byte") * tokens * hidden, tensor, machine.domain, link, network, c["tensor_call"])
    again = full * forward + selective * np.where(fused, c["selective_share"] * forward, attention)
    passes = 2 + full
    layer = {
        "gemm": 3 * products,
        "attention": (1 + backward_attention) * attention,
        "memory_bound": 3 * memory_bound,
        "recompute": again,
        "layer_start": start + start_back,
        "tensor_parallel": passes * 2 * collective * c["tensor_exposed"],
        "context_parallel": (1 + backward_attention) * ring,
        "expert_parallel": passes * 2 * exchange * c["expert_exposed"],
    }

    # one microbatch on an average stage, and on the slowest
    stage = {name: count.stage_layers * part for name, part in layer.items()}
    logits = 3 * gemm(tokens, hidden, shape.vocab / tensor) + c["logit_traffic"] * tokens * shape.vocab / tensor / bandwidth
    stage["logits"] = (logits + 2 * collective) / pipeline
    resident = np.where(sharded, shape.trunk_parameters / tensor / pipeline + count.local_experts, count.local_parameters)
    accumulation = c["accumulation_traffic"] * resident / bandwidth
    stage["accumulation"] = choose(count.microbatches > 1, accumulation, zero)
    average = _sum(stage)
    given = np.asarray(layout.stage_layers)
    even = np.where(given > 0, given * pipeline == shape.layers, np.mod(shape.layers, pipeline) == 0)
    waiting = np.where((pipeline > 1) & even, 1.0, 0.0) * (logits + 2 * collective) * (1 - 1 / pipeline)
    gather = gathers = ahead = behind = body = zero
    if np.any(sharded):
        limited = np.maximum(1.0, machine.domain / tensor)
        ranks = np.where(layout.hybrid_shard, np.minimum(data * context, limited), data * context)
        reach = ring_bandwidth(
            ranks, np.clip(limited, 1.0, ranks), machine.link_bandwidth * c["gather_link_efficiency"],
            machine.network_bandwidth * c["gather_network_efficiency"],
        )  # fmt: skip
        gather = np.where(sharded, 1.0, 0.0) * fleet.all_gather(Q(2.0, "byte") * count.gathered_parameters, ranks, reach, zero)
        ahead = count.stage_layers * (forward + 2 * collective * c["tensor_exposed"] + 2 * exchange * c["expert_exposed"])
        ahead = ahead + stage["logits"] * pipeline / 3
        behind = average - stage["accumulation"] - stage["logits"] + stage["logits"] * pipeline - ahead
        seen = beside(ahead, gather) - ahead + beside(behind, 2 * gather) - behind
        seen = choose(layout.data_overlap, seen, 3 * gather) + 3 * c["gather_exposed"] * gather
        gathers = choose(sharded & (np.asarray(pipeline) == 1), seen, zero)

    # the step
    send = sends = zero
    if np.any(np.asarray(pipeline) > 1):
        share = np.where(sequence_parallel > 0, 1 / tensor, np.where(run.scatters_sends, 1 / tensor, 1.0))
        reach = choose(layout.accelerators <= machine.domain, link, network)
        send = 2 * fleet.point_to_point(Q(2.0, "byte") * tokens * hidden * share, reach, zero)
        sends = choose(np.asarray(pipeline) > 1, layout.virtual_stages * c["send_exposed"] * send, zero)
    idle = fleet.pipeline_bubble(pipeline, count.microbatches, layout.virtual_stages)
    filling = count.microbatches * idle / (1 - idle) * c["bubble_factor"]  # microbatch slots: (p - 1) / v
    parts = {name: count.microbatches * part for name, part in stage.items()}
    parts["gathers"] = count.microbatches * gathers
    parts["microbatch"] = count.microbatches * c["microbatch_overhead"]
    parts["sends"] = (count.microbatches + filling) * sends
    parts["bubble"] = filling * average + count.microbatches * waiting
    if np.any(sharded & (np.asarray(pipeline) > 1)):  # under a pipeline, weights are gathered once per step
        body = _sum(parts)
        once = choose(sharded & (np.asarray(pipeline) > 1), 3 * gather, zero)
        parts["gathers"] = parts["gathers"] + choose(layout.data_overlap, beside(body, once) - body, once)
    window, reduction = c["reduction_window"] * average, _reduction(run, count, link, network)
    parts["reduction"] = _seen(run, reduction, window, c["reduction_exposed"])
    kept = np.where(np.asarray(layout.zero_stage) >= 1, count.local_parameters / data, count.local_parameters)
    parts["optimizer"] = optimizer_time(kept, c["optimizer_traffic"], bandwidth)
    parts["step"] = c["step_overhead"]
    parts["stragglers"] = straggling(layout.accelerators, _sum(parts), c["straggler_growth"])
    parts = {name: c["time_factor"] * part for name, part in parts.items()}
    made_of = {
        "collective": collective, "exchange": exchange, "passed": passed, "attention": attention, "average": average,
        "waiting": waiting, "filling": filling, "gather": gather, "ahead": ahead, "behind": behind, "body": body, "send": send,
        "reduction": reduction, "window": window, "memory_bound": memory_bound, "resident": resident, "kept": kept,
    }  # fmt: skip
    return _sum(parts), parts, made_of


def _reduction(run: Run, count: Counts, link: Quantity, network: Quantity) -> Quantity:
    """The whole gradient reduction: trunk and experts over their own groups, hybrid shards across domains.

    Gradients travel in 32 bit where the stack overlaps, or all-reduces them under ZeRO-1 (DeepSpeed), else in 16; weights
    in 16 bit, or 8 in low-precision recipes. ZeRO-3 has reduced already (`gathers`).
    """
    layout, machine = run.layouts, run.machine
    overlapped = np.asarray(run.overlapped, bool)
    stage = np.asarray(layout.zero_stage)
    weight = machine.element
    width = Q(np.where(overlapped | (stage == 1), 4.0, 2.0), "byte")
    shared = count.local_parameters - count.local_experts
    inside = np.clip(machine.domain / (layout.tensor_parallel * layout.context_parallel), 1.0, layout.data_parallel)
    total = reduction_time(width * shared, weight * shared, layout.data_parallel, inside, link, network)
    if np.any(np.asarray(run.shape.expert_share) > 0):
        width = Q(np.where(overlapped, 4.0, 2.0), "byte")
        inside = np.clip(machine.domain / layout.expert_parallel, 1.0, count.expert_replicas)
        total = total + reduction_time(
            width * count.local_experts, weight * count.local_experts, count.expert_replicas, inside, link, network
        )
    total = np.where(stage >= 3, 0.0, 1.0) * total
    domains = np.where(layout.hybrid_shard, np.maximum(layout.accelerators / machine.domain, 1.0), 1.0)
    if np.any(domains > 1):
        every = run.shape.trunk_parameters + run.shape.expert_parameters + 2 * run.shape.embedding_parameters
        total = total + fleet.ring_all_reduce(Q(2.0, "byte") * every / machine.domain, domains, network, Q(0.0, "s"))
    return total


def _seen(run: Run, reduction: Quantity, window: Quantity, exposed: Number) -> Quantity:
    """What a step shows of the gradient reduction: all of it where it is waited for, else what does not hide."""
    overlapped = np.asarray(run.overlapped, bool)
    hidden = exposed_reduction(reduction, window, exposed)
    seen = choose(overlapped, hidden, exposed * reduction)
    return choose(overlapped & ~np.asarray(run.layouts.data_overlap, bool), np.maximum(reduction, hidden), seen)


def _sum(parts: Mapping[str, Quantity]) -> Quantity:
    total: Any = sum(parts.values(), start=Q(0.0, "s"))
    return total


def settings_of(model: Transformer, accelerator: Accelerator, layouts: Layouts, stack: Stack) -> tuple[list[Setting], Any]:
    """The different calibration settings among `layouts`, and each layout's index into them."""
    precisions, recipe = np.unique(np.atleast_1d(layouts.precision), return_inverse=True)
    sharded = np.atleast_1d((np.asarray(layouts.zero_stage) >= 3) | np.asarray(layouts.fsdp, bool)).astype(int)
    switched = np.atleast_1d(np.asarray(layouts.tensor_overlap, bool)).astype(int) if stack.tensor_overlap else 1
    code = 4 * recipe + 2 * sharded + switched
    used, index = np.unique(code, return_inverse=True)
    settings = [
        Setting(
            stack, accelerator.name, str(precisions[u // 4]), model.experts > 0, bool(u // 2 % 2),
            bool(u % 2) if stack.tensor_overlap else None,
        )
        for u in used
    ]  # fmt: skip
    return settings, index if len(settings) > 1 else np.zeros((), dtype=int)


def run_of(model: Transformer, accelerator: Accelerator, job: TrainingJob, layouts: Layouts, stack: Stack) -> Run:
    """One model on one accelerator under many layouts, as `evaluate` and the memory model take it."""
    largest = float(np.max(layouts.accelerators))
    names, index = np.unique(np.atleast_1d(layouts.precision), return_inverse=True)
    machines = [machine_of(accelerator, str(name), largest) for name in names]
    machine = machines[0]
    if len(machines) > 1:
        peak = Q(np.array([m.peak.m_as("flop/s") for m in machines])[index], "flop/s")
        element = Q(np.array([m.element.m_as("byte") for m in machines])[index], "byte")
        machine = replace(machine, peak=peak, element=element)
    shape = shape_of(model, job.sequence_length)
    buffered = stack.tensor_overlap == "userbuffers"
    return Run(shape, machine, job, layouts, stack.overlapped, stack.fused_attention, stack.scatters_sends, buffered)


def step_time(
    model: Transformer,
    accelerator: Accelerator,
    job: TrainingJob,
    layouts: Layouts,
    stack: Stack,
    constants: Constants | None = None,
) -> StepTime:
    """Time of one optimizer step under every layout, with its 80 % interval and its parts [s].

    constants: None takes the fitted ones of `data/training_constants.json`. Raises UnknownValue where model, accelerator or
    precision lack a figure, ImpossibleValue where a microbatch exceeds a replica's batch.
    """
    constants = training_constants() if constants is None else constants
    settings, index = settings_of(model, accelerator, layouts, stack)
    resolved = {name: _each(value, index) for name, value in constants.resolve(settings).items()}
    total, parts, _ = evaluate(run_of(model, accelerator, job, layouts, stack), resolved)
    width = _each(np.array([constants.half_width(setting, model.name) for setting in settings]), index)
    notes = dict.fromkeys(note for setting in settings for note in constants.inherited(setting, model.name))
    return StepTime(total, total * np.exp(-width), total * np.exp(width), parts, tuple(notes))


def _each(value: Any, index: Any) -> Any:
    """`value` by setting -> by layout; a plain number where there is one setting."""
    magnitude = value.magnitude[index] if isinstance(value, Quantity) else value[index]
    magnitude = float(magnitude) if np.ndim(magnitude) == 0 else magnitude
    return Q(magnitude, value.units) if isinstance(value, Quantity) else magnitude


__all__ = [
    "ASSUMPTIONS", "FULL", "NONE", "SELECTIVE", "WALLS", "Layouts", "Machine", "Run", "Shape", "StepTime", "TrainingJob",
    "UnknownValue", "evaluate", "machine_of", "repeated", "run_of", "settings_of", "shape_of", "step_time", "take",
]  # fmt: skip
