"""An inference replica, composed of walls: prefill and decode time, memory, TTFT, TPOT, and what a pool of replicas carries.

A replica is `chips` accelerators: tensor parallel x pipeline parallel, or, for mixture-of-experts models with
expert parallelism beyond the tensor-parallel group, data-parallel attention over the expert-parallel group.
Every function takes arrays over candidate layouts; a scalar layout is the array of one.

What it leaves out is stated by `ASSUMPTIONS`, which every plan carries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity

from . import fleet, node
from .calibration import Constants

Array = NDArray[np.float64]

ASSUMPTIONS = (
    "TPOT is taken at the full batch with every slot busy, so its percentiles are upper bounds",
    "a request's first token waits for the decode step in progress (decode and prefill alternate), then for its own prefill",
    "prompts vary: first-token service is exponential with the mean prefill time, which makes M/M/c exact",
    "replicas of one pool share one queue (a load balancer that never sends work to a busy replica while another is free)",
    "KV cache is reserved for the whole request (input and output), so nothing is ever preempted",
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """One request: `input` and `output` [token]; `prefix_hit` is the share of the input found in the prefix cache."""

    input: Quantity
    output: Quantity
    prefix_hit: float = 0.0


@dataclass(frozen=True, slots=True)
class Layouts:
    """Candidate layouts of one replica on one kind of accelerator; all arrays have one element per candidate."""

    weight_bytes: Quantity  # [byte] per element of the weights
    kv_bytes: Quantity  # [byte] per element of the cache
    peak: Quantity  # [FLOP/s] of the tensor units at the precision that is multiplied in
    compute_efficiency: Array  # of that peak, reached by large matrix products
    tensor_parallel: Array
    pipeline_parallel: Array
    expert_parallel: Array  # 1: experts are split like everything else
    batch: Array  # sequences decoded together, whole replica

    @property
    def attention_parallel(self) -> Array:
        """Data-parallel attention ranks: how often the attention weights are repeated in a replica."""
        return np.maximum(self.expert_parallel / self.tensor_parallel, 1.0)

    @property
    def chips(self) -> Array:
        """Accelerators of one replica."""
        return np.maximum(self.tensor_parallel, self.expert_parallel) * self.pipeline_parallel


@dataclass(frozen=True, slots=True)
class Links:
    """What connects a replica: `inside` [byte/s] and `latency` [s] of the tensor-parallel group; `between` [byte/s] of stages."""

    inside: Quantity
    latency: Quantity
    between: Quantity
    between_latency: Quantity


@dataclass(frozen=True, slots=True)
class PassTime:
    """One pass of tokens through one pipeline stage, by wall [s]."""

    compute: Quantity  # wall 1, at the efficiency of wall 3
    memory: Quantity  # wall 2
    matrix: Quantity  # the two together, soft roofline
    communication: Quantity  # wall 14


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica of each layout does. Arrays over layouts; times [s], sizes [byte] per accelerator."""

    layouts: Layouts
    weights: Quantity
    cache_per_sequence: Quantity
    reserve: Quantity
    memory_needed: Quantity
    memory_there: Quantity
    largest_batch: Array
    decode: PassTime
    prefill: PassTime
    decode_step: Quantity
    prefill_time: Quantity
    first_token_time: Quantity
    tpot: Quantity
    residence: Quantity

    @property
    def request_rate(self) -> Quantity:
        """Requests per second of a replica whose slots are all busy (Little's law): batch / residence."""
        return self.layouts.batch / self.residence


def routed_parameters(model: Transformer) -> float:
    """Parameters in routed experts, all layers: E (P - P_active) / (E - k), from the published totals. Zero when dense."""
    if not model.experts or model.experts == model.top_k:
        return 0.0
    return model.experts * (model.parameters - model.active_parameters) / (model.experts - model.top_k)


def replica(
    model: Transformer, accelerator: Accelerator, layouts: Layouts, links: Links, traffic: Traffic, constants: Constants
) -> Replica:
    """Walls 1 to 5 and 14 for one replica of each layout.

    decode step = stages x (soft roofline(compute, memory) + attention + collectives + fixed cost)
    TPOT = decode step at the full batch + (B - 1) / output x prefill time
    first token = decode step in progress + prefill time;  residence = first token + output x TPOT

    Source: Pope et al. (2023) for the phases; Kwon et al. (2023) for the cache; Agrawal et al. (2024, Sarathi-Serve) for
    prefill work inside decode steps. Raises UnknownValue where the model's shape or the chip's figures are unknown.
    """
    stages = layouts.pipeline_parallel
    context = traffic.input + traffic.output / 2
    longest = traffic.input + traffic.output
    fresh = traffic.input * (1 - traffic.prefix_hit)
    in_flight = np.maximum(layouts.batch / stages, 1.0)  # pipelined decode: each stage works on its own part of the batch

    weights = weights_per_chip(model, layouts)
    cache = cache_per_sequence(model, longest, layouts)
    reserve = constants.reserve_fraction * accelerator.memory + constants.workspace
    fits = node.largest_batch(np.maximum(accelerator.memory - reserve - weights, Q(0.0, "byte")), cache)
    needed = weights + cache * layouts.batch + reserve

    decode = pass_time(model, accelerator, layouts, links, Q(in_flight, "token"), Q(in_flight, "token"), constants)
    attention = _decode_attention_time(model, accelerator, layouts, in_flight, context, constants)
    fixed = constants.step_overhead + _stage_layers(model, layouts) * constants.layer_overhead
    decode_step = stages * (decode.matrix + decode.communication + attention + fixed)

    prefill = pass_time(model, accelerator, layouts, links, fresh, Q(1.0, "token"), constants)
    attended = node.attention_operations(model, fresh, traffic.input - fresh)
    per_stage = attended / layouts.chips
    prefill_attention = node.compute_time(per_stage, layouts.peak, constants.attention_efficiency)
    prefill_time = stages * (prefill.matrix + prefill.communication + prefill_attention)

    tpot = decode_step + np.maximum(layouts.batch - 1, 0.0) / traffic.output.m_as("token") * prefill_time / stages
    first = decode_step + prefill_time
    residence = first + traffic.output.m_as("token") * tpot
    return Replica(
        layouts, weights, cache, reserve, needed, accelerator.memory, np.asarray(fits), decode, prefill, decode_step, prefill_time, first, tpot, residence,
    )  # fmt: skip


def weights_per_chip(model: Transformer, layouts: Layouts) -> Quantity:
    """Bytes of weights on the fullest accelerator of a replica.

    (ceil(L / pp) / L x (attention and shared parameters / tp + routed parameters / (tp or ep)) + embedding / tp) x bytes

    The fullest stage has the rounded-up number of layers and one embedding or output table (both when pp = 1).
    """
    table = float(model.vocab * model.hidden)
    tables = table if model.tie_embeddings else 2 * table
    routed = routed_parameters(model)
    rest = max(model.parameters - routed - tables, 0.0)
    share = _stage_layers(model, layouts) / model.layers
    split = np.maximum(layouts.tensor_parallel, layouts.expert_parallel)
    on_stage = np.where(layouts.pipeline_parallel > 1, table, tables)
    elements = share * (rest / layouts.tensor_parallel + routed / split) + on_stage / layouts.tensor_parallel
    return elements * layouts.weight_bytes


def cache_per_sequence(model: Transformer, tokens: Quantity, layouts: Layouts) -> Quantity:
    """Bytes of cache that one sequence of `tokens` [token] takes on one accelerator, in pages of 16 tokens.

    KV(tokens) / (pp x min(tp, KV heads) x attention ranks). KV heads are repeated when tp exceeds them, and the latent
    of MLA has no heads to split, so every tensor-parallel rank keeps all of it.
    """
    whole = node.kv_bytes_per_sequence(model, tokens, layouts.kv_bytes, Q(16.0, "token"))
    heads = 1.0 if model.attention == "MLA" else float(max(model.kv_heads, 1))
    shards = np.minimum(layouts.tensor_parallel, heads)
    return whole * (_stage_layers(model, layouts) / model.layers) / (shards * layouts.attention_parallel)


def _stage_layers(model: Transformer, layouts: Layouts) -> Array:
    """Layers of the longest pipeline stage: ceil(L / pp)."""
    return np.ceil(model.layers / layouts.pipeline_parallel)


def pass_time(
    model: Transformer,
    accelerator: Accelerator,
    layouts: Layouts,
    links: Links,
    tokens: Quantity,
    sampled: Quantity,
    constants: Constants,
) -> PassTime:
    """`tokens` [token] through the matrix products and collectives of one pipeline stage; `sampled` of them get logits.

    Two all-reduces of the activations per layer (attention, MLP), or for expert parallelism beyond the tensor-parallel
    group a dispatch and a combine (all-to-all) per MoE layer; one send per stage boundary.
    Source: Shoeybi et al. (2019); Lepikhin et al. (2021) for expert all-to-all.
    """
    share = _stage_layers(model, layouts) / model.layers
    table = float(model.vocab * model.hidden)
    head = table * sampled.m_as("token") / np.maximum(tokens.m_as("token"), 1e-9)
    routed = routed_parameters(model)
    routed_active = routed * model.top_k / max(model.experts, 1)
    body = model.active_parameters - node.lookup_parameters(model) - table - routed_active
    split = np.maximum(layouts.tensor_parallel, layouts.expert_parallel)
    seen = tokens / layouts.attention_parallel  # tokens that one attention rank sees

    operations = 2 * share * (
        seen.m_as("token") * (body + head / layouts.pipeline_parallel) / layouts.tensor_parallel
        + tokens.m_as("token") * routed_active / split
    )  # fmt: skip
    touched = routed * (node.distinct_experts(model.experts, model.top_k, tokens) / model.experts if routed else 0.0)
    elements = share * ((body + table / layouts.pipeline_parallel) / layouts.tensor_parallel + touched / split)
    rows = seen.m_as("token")
    efficiency = layouts.compute_efficiency * rows / (rows + constants.half_efficiency_rows)
    compute = node.compute_time(Q(operations, "flop"), layouts.peak, efficiency)
    memory = node.memory_time(elements * layouts.weight_bytes, accelerator.memory_bandwidth, constants.memory_efficiency)

    activations = Q(seen.m_as("token") * model.hidden * 2.0, "byte")
    reduce = fleet.ring_all_reduce(activations, layouts.tensor_parallel, links.inside, Q(0.0, "s"))
    calls = np.where(layouts.tensor_parallel > 1, 2 * _stage_layers(model, layouts), 0.0)
    communication = 2 * _stage_layers(model, layouts) * reduce + calls * constants.collective_latency
    if model.experts:
        wide = layouts.expert_parallel > layouts.tensor_parallel
        exchanged = fleet.all_to_all(activations * model.top_k, layouts.expert_parallel, links.inside, Q(0.0, "s"))
        per_layer = np.where(wide, 1.0, 0.0) * (exchanged + constants.collective_latency)
        communication = communication + 2 * model.moe_layers * share * per_layer
    send = fleet.point_to_point(activations / layouts.tensor_parallel, links.between, links.between_latency)
    communication = communication + np.where(layouts.pipeline_parallel > 1, 1.0, 0.0) * send
    matrix = node.soft_roofline(compute, memory, constants.roofline_exponent, Q(0.0, "s"))
    return PassTime(compute, memory, matrix, communication)


def _decode_attention_time(
    model: Transformer, accelerator: Accelerator, layouts: Layouts, sequences: Array, context: Quantity, constants: Constants
) -> Quantity:
    """Reading the cache of `sequences` at `context` [token] each, on one accelerator of one stage [s]."""
    read = sequences * layouts.pipeline_parallel * cache_per_sequence(model, context, layouts) / layouts.pipeline_parallel
    return node.memory_time(read, accelerator.memory_bandwidth, constants.cache_efficiency)


def pool_rate(
    first_token_time: Quantity,
    prefill_servers: Array,
    slots: Array,
    residence: Quantity,
    targets: tuple[tuple[float, Quantity], ...],
    variability: float,
) -> Quantity:
    """The largest arrival rate [1/s] at which a pool meets every TTFT target.

    P(all slots busy) + P(W + S > target) <= 1 - percentile, for each (percentile, target [s])

    first_token_time S: mean service of the first-token stage, an M/M/c queue of `prefill_servers`; slots: sequences the
    pool decodes together, an M/M/slots queue with service `residence`; the sum bounds the probability that either makes
    a request late. `variability` is the squared coefficient of variation of the time between arrivals. Arrays over pools.
    Both parts grow with the rate, so the largest rate is found by bisection to 1e-9 of its bracket; the lower end is returned,
    which meets the targets. Zero where even an idle pool misses a target.
    Source: Erlang (1917); Allen-Cunneen for the variability of arrivals.
    """
    high = np.minimum(prefill_servers / first_token_time.m_as("s"), slots / residence.m_as("s"))
    low = np.zeros_like(high)
    for _ in range(40):
        middle = (low + high) / 2
        late = late_share(Q(middle, "1/s"), first_token_time, prefill_servers, slots, residence, targets, variability)
        fine = np.all([share <= 1 - percentile for share, (percentile, _) in zip(late, targets, strict=True)], axis=0)
        low, high = np.where(fine, middle, low), np.where(fine, high, middle)
    return Q(np.where(low < 1e-9 * (high + 1e-12), 0.0, low), "1/s")


def late_share(
    rate: Quantity,
    first_token_time: Quantity,
    prefill_servers: Array,
    slots: Array,
    residence: Quantity,
    targets: tuple[tuple[float, Quantity], ...],
    variability: float,
) -> list[Array]:
    """Share of requests whose first token comes later than each target, at most; arguments as `pool_rate`."""
    blocked = blocked_share(rate, slots, residence, variability)
    return [
        np.minimum(blocked + node.sojourn_tail(rate, first_token_time, prefill_servers, target, variability, 1.0), 1.0)
        for _, target in targets
    ]


def blocked_share(rate: Quantity, slots: Array, residence: Quantity, variability: float) -> Array:
    """Share of requests that find every slot of the pool taken; arguments as `pool_rate`."""
    return np.asarray(node.wait_tail(rate, residence, slots, Q(0.0, "s"), variability, 1.0))
