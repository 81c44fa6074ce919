"""An inference replica, composed of walls: memory, prefill and decode time, TTFT, TPOT, throughput, and what a pool carries.

A replica is `chips` accelerators: tensor parallel x pipeline parallel, or, for mixture-of-experts models with
expert parallelism beyond the tensor-parallel group, data-parallel attention over the expert-parallel group.

Every function takes arrays: over candidate layouts (the planner) or over measured runs (`serving_fit`); a scalar is the
array of one. Passes through the layers are stacked: `tokens` may have leading axes. Constants come from
`calibration.serving_constants`: fitted to published measurements, with an interval for every regime.

What it leaves out is stated by `ASSUMPTIONS`, which every plan carries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity, magnitudes

from . import fleet, node
from .calibration import Calibration, Constants, stored_calibration
from .dimensions import ImpossibleValue, Number, UnknownValue

Array = NDArray[Any]

ASSUMPTIONS = (
    "TPOT is promised at the full batch with every slot busy; its percentiles take the sequences in flight at the load",
    "a request's first token waits for the decode steps in progress, then for its own prefill",
    "prompts vary: prefill service is exponential with the mean prefill time, which makes M/M/c exact",
    "replicas of one pool share one queue (a load balancer that never sends work to a busy replica while another is free)",
    "the KV cache of a batch takes its mean live length (input and half of the output), as paged engines allocate it",
    "the serving engine is vLLM, 0.15 or later",
)

APART_ASSUMPTIONS = (
    "prefill and decode apart: seven measured runs on two kinds of chip, too few for an interval of their own, so times are as "
    "wide as for an engine that was never measured",
    "the KV cache of a prompt is sent once it was read, by all prefill replicas at once, and no other prompt is read meanwhile; "
    "links reach the fraction of their bandwidth that collectives do",
    "a request passes the network stack once on either side, and its first token comes from the decode side",
)
SPECULATIVE_ASSUMPTIONS = (
    "every drafted token is accepted with the same probability, independently of the others; answers do not change",
    "speculative decoding with a stated acceptance was never measured: times are as wide as for an engine that never was",
)

_NO_TIME = Q(0.0, "s")
UNMEASURED = "unmeasured"  # no engine of serving_coverage.csv
PAGE = Q(16.0, "token")


# ----------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True, slots=True)
class Traffic:
    """One request: `input` and `output` [token]; `prefix_hit` is the share of the input found in the prefix cache."""

    input: Quantity
    output: Quantity
    prefix_hit: float = 0.0


@dataclass(frozen=True, slots=True)
class Layouts:
    """Candidate layouts of one replica; all arrays have one element per candidate.

    The fields of experts are None where their weights have the format of the others.
    """

    weight_bytes: Quantity  # [byte] per element of the weights
    kv_bytes: Quantity  # [byte] per element of the cache
    peak: Quantity  # [FLOP/s] of the tensor units at the precision that is multiplied in
    compute_efficiency: Array  # of that peak, reached by large matrix products
    tensor_parallel: Array
    pipeline_parallel: Array
    expert_parallel: Array  # 1: experts are split like everything else
    batch: Array  # sequences decoded together, whole replica
    expert_bytes: Quantity | None = None
    expert_peak: Quantity | None = None
    expert_efficiency: Array | None = None

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
    """What connects a replica: `inside` [byte/s] and `latency` [s] of the tensor-parallel group; `between` [byte/s] of stages.

    `reach`: chips that `inside` connects; experts spread over more talk over `between` too. Infinite where that is not looked at.
    """

    inside: Quantity
    latency: Quantity
    between: Quantity
    between_latency: Quantity
    reach: Number = np.inf


@dataclass(frozen=True, slots=True)
class Device:
    """What of an accelerator decides its speed: one chip, or arrays of them."""

    memory: Quantity
    bandwidth: Quantity
    peak16: Quantity  # [FLOP/s] dense, 16 bits: attention and the output head
    linked: Any  # whether it has a scale-up link (else its groups talk over PCIe)


@dataclass(frozen=True, slots=True)
class Work:
    """What one request asks of a model: counts, and what attention reads and computes. Numbers, or arrays of them.

    `dense` are the parameters of attention and of dense MLPs over all layers, `routed` those of routed experts, `table`
    those of one embedding or output table, of which the model has `tables`.
    """

    layers: Number
    moe_layers: Number
    shared_layers: Number  # of these, with a shared expert
    latent_layers: Number  # MLA
    sparse_layers: Number
    state_layers: Number
    hidden: Number
    dense: Number
    routed: Number
    table: Number
    tables: Number
    experts: Number  # 1 when dense
    top_k: Number
    expert_size: Number  # parameters of one expert of one layer
    cache_heads: Number  # heads that tensor parallelism can split the cache by
    input: Number  # tokens of the prompt
    fresh: Number  # of these, not found in a prefix cache
    output: Number
    cache_read: Quantity  # [byte] that one sequence's decode step reads, mean context
    cache_live: Quantity  # [byte] that one sequence holds on average
    cache_longest: Quantity  # [byte] that one sequence holds at its end
    cache_prompt: Quantity  # [byte] that its prompt alone holds
    step_attention: Quantity  # [FLOP] of one sequence's decode step
    prompt_attention: Quantity  # [FLOP] of one prompt


@dataclass(frozen=True)
class Drafted(Transformer):
    """A model with a smaller one that drafts tokens for it to verify."""

    draft: Transformer | None = None


def drafted(model: Transformer, draft: Transformer) -> Drafted:
    """`model` with `draft`. Raises ImpossibleValue where they do not share a vocabulary."""
    if model.vocab != draft.vocab:
        raise ImpossibleValue(
            f"{draft.name} has a vocabulary of {draft.vocab:,} tokens, expected that of {model.name}, {model.vocab:,}"
        )
    return Drafted(**{field.name: getattr(model, field.name) for field in fields(model)}, draft=draft)


@dataclass(frozen=True, slots=True)
class Draft:
    """What drafts tokens that a model then verifies (speculative decoding).

    `tokens`: drafted per step, one element per layout, 0 where none are; each is accepted with probability `acceptance`,
    dimensionless. `work`: of the draft model under the same traffic, in the formats of the layouts. None: a head or a lookup;
    one of its tokens takes the share `cost` of a plain decode step, and it takes that share of the model's weights, cache
    and prefill.
    """

    tokens: Array
    acceptance: float
    work: Work | None = None
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Decode steps and prefills from another source over those of this model, by layout at its batch; 1 where it has none.

    `slow_token`, `slow_first`: how wide its own intervals are at least, as `slowness`; 1 where it has none.
    """

    decode: Array
    prefill: Array
    slow_token: Array
    slow_first: Array


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model under some traffic, on chips in a layout, connected and served by an engine with these constants."""

    work: Work
    layouts: Layouts
    device: Device
    links: Links
    constants: Constants
    draft: Draft | None = None
    measured: Measured | None = None


@dataclass(frozen=True, slots=True)
class PassTime:
    """One pass of tokens through one pipeline stage, by wall [s]."""

    compute: Quantity  # wall 1, at the efficiency of wall 3
    memory: Quantity  # wall 2
    matrix: Quantity  # the two together, soft roofline
    communication: Quantity  # wall 14

    @property
    def total(self) -> Quantity:
        """Matrix products and communication, which do not overlap."""
        return self.matrix + self.communication


@dataclass(frozen=True, slots=True)
class Products:
    """The matrix products of a pass through one stage, per accelerator; the first axis: dense layers, output head, and experts
    where some model has them."""

    operations: Quantity  # [FLOP]
    peak: Quantity  # [FLOP/s]
    compute_fraction: Array  # of the peak
    traffic: Quantity  # [byte] of weights
    memory_fraction: Array  # of the memory bandwidth


@dataclass(frozen=True, slots=True)
class Replica:
    """What one replica of each layout does. Arrays over layouts; times [s], sizes [byte] per accelerator.

    The fields that end in `_high` are the pessimistic ends of 80 % intervals.
    """

    layouts: Layouts
    weights: Quantity
    cache_per_sequence: Quantity
    reserve: Quantity
    memory_needed: Quantity
    memory_there: Quantity
    largest_batch: Array
    decode: PassTime
    decode_step: Quantity
    prefill_time: Quantity  # occupies the replica: what queues
    first_token_delay: Quantity  # before prefill starts: network stack, scheduling, steps in progress
    first_token_time: Quantity  # both
    tpot: Quantity
    residence: Quantity
    dispatch: Quantity  # of the delay, what there is without any decode step: network stack, one step's fixed costs
    prompt_cache: Quantity  # [byte] of one prompt on one accelerator of the group that holds it
    prefill_time_high: Quantity
    first_token_delay_high: Quantity
    first_token_time_high: Quantity
    tpot_high: Quantity
    residence_high: Quantity
    inherited: tuple[str, ...] = ()
    tokens_per_step: Number = 1.0  # above 1 where drafted tokens are accepted

    @property
    def request_rate(self) -> Quantity:
        """Requests per second of a replica whose slots are all busy (Little's law): batch / residence."""
        return self.layouts.batch / self.residence

    @property
    def request_rate_low(self) -> Quantity:
        """The same on the pessimistic end."""
        return self.layouts.batch / self.residence_high


def pessimistic(replica: Replica) -> Replica:
    """The same replica with every time at the pessimistic end of its 80 % interval: what a plan should be made for.

    An optimiser walks to wherever the model is most hopeful; ranked on this end, a candidate wins by being well known too.
    """
    return replace(
        replica,
        prefill_time=replica.prefill_time_high,
        first_token_delay=replica.first_token_delay_high,
        first_token_time=replica.first_token_time_high,
        tpot=replica.tpot_high,
        residence=replica.residence_high,
    )


def take(record: Any, at: Array) -> Any:
    """The same record of arrays for some of its elements."""

    def part(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return take(value, at)
        if isinstance(value, Mapping):
            return {key: part(inner) for key, inner in value.items()}
        if value is None or isinstance(value, (str, tuple)):
            return value
        return value[at] if np.ndim(value.magnitude if isinstance(value, Quantity) else value) else value

    return type(record)(**{field.name: part(getattr(record, field.name)) for field in fields(record)})


def gather(records: Sequence[Any], at: Array) -> Any:
    """One record of arrays from several records of the same kind: element i is `records[at[i]]`.

    What all of them have in common stays one value; mappings, which have no arrays, are left empty.
    """

    def part(values: list[Any]) -> Any:
        first = values[0]
        if is_dataclass(first) and not isinstance(first, type):
            return gather(values, at)
        if isinstance(first, Mapping):
            return {}
        if isinstance(first, Quantity):
            unit = first.units
            sizes = magnitudes(values, unit)
            return first if sizes.min() == sizes.max() else Q(sizes[at], str(unit))
        return first if all(value == first for value in values) else np.array(values)[at]

    kind = type(records[0])
    return kind(**{field.name: part([getattr(record, field.name) for record in records]) for field in fields(kind)})


# ------------------------------------------------------------------------------------------- models, traffic, chips


def work_of(model: Transformer, traffic: Traffic, kv_bytes: Quantity, sparse_index: float = 0.1) -> Work:
    """What one request of `traffic` asks of `model` with a cache of `kv_bytes` [byte] per element.

    Sparse attention reads and multiplies a window of the model's `sparse_tokens` per query, and an index worth `sparse_index`
    (assumed) of the whole cache (DeepSeek-AI 2025, V3.2). Decode is taken at the mean context, input + output / 2.
    """
    mean, longest = traffic.input + traffic.output / 2, traffic.input + traffic.output
    fresh = traffic.input * (1 - traffic.prefix_hit)
    nothing = Q(0.0, "byte")

    def attention(which: Transformer) -> tuple[Quantity, Quantity, Quantity]:
        read = node.decode_traffic(which, 1.0, mean, nothing, kv_bytes)
        step = node.decode_attention_operations(which, mean)
        return read, step, node.attention_operations(which, fresh, traffic.input - fresh)

    read, step, prompt = attention(model)
    if model.sparse_tokens:
        selected = replace(model, sliding_layers=model.kv_layers, sliding_window=model.sparse_tokens)
        read, step, prompt = (
            few + sparse_index * all_ for few, all_ in zip(attention(selected), (read, step, prompt), strict=True)
        )
    routed = node.routed_parameters(model)
    table = float(model.vocab * model.hidden)
    tables = 1.0 if model.tie_embeddings else 2.0
    return Work(
        layers=float(model.layers),
        moe_layers=float(model.moe_layers if routed else 0),
        shared_layers=float(model.moe_layers if routed and model.shared_experts else 0),
        latent_layers=float(model.layers if model.attention == "MLA" else 0),
        sparse_layers=float(model.layers if model.sparse_tokens else 0),
        state_layers=float(model.state_layers),
        hidden=float(model.hidden),
        dense=max(model.parameters - routed - tables * table, 0.02 * model.parameters),
        routed=routed,
        table=table,
        tables=tables,
        experts=float(model.experts) if routed else 1.0,
        top_k=float(model.top_k) if routed else 1.0,
        expert_size=routed / (model.experts * max(model.moe_layers, 1)) if routed else 5e7,
        cache_heads=1.0 if model.attention == "MLA" else float(max(model.kv_heads, 1)),
        input=traffic.input.m_as("token"),
        fresh=fresh.m_as("token"),
        output=traffic.output.m_as("token"),
        cache_read=read,
        cache_live=node.kv_bytes_per_sequence(model, mean, kv_bytes, PAGE),
        cache_longest=node.kv_bytes_per_sequence(model, longest, kv_bytes, PAGE),
        cache_prompt=node.kv_bytes_per_sequence(model, traffic.input, kv_bytes, PAGE),
        step_attention=step,
        prompt_attention=prompt,
    )


def draft_of(model: Transformer, traffic: Traffic, kv_bytes: Quantity, tokens: Array, acceptance: float, cost: float) -> Draft:
    """What drafts `tokens` a step for `model`: its draft model, or a head or lookup of `cost`; see `Draft`."""
    work = None
    if isinstance(model, Drafted) and model.draft is not None:
        work = work_of(model.draft, traffic, kv_bytes)
    return Draft(tokens, acceptance, work, cost)


def device_of(accelerator: Accelerator) -> Device:
    """What of an accelerator decides its speed. Raises UnknownValue where it has no 16-bit peak."""
    peak = next((accelerator.peak[p] for p in ("bf16", "fp16", "fp32") if p in accelerator.peak), None)
    if peak is None:
        raise UnknownValue(f"{accelerator.name}: no 16-bit peak is known, which attention and the output head need")
    linked = accelerator.link_bandwidth is not None and accelerator.scale_up_domain > 1
    return Device(accelerator.memory, accelerator.memory_bandwidth, peak.to("flop/s"), linked)


# ---------------------------------------------------------------------------------------------- walls 2 and 5: memory


def stage_layers(d: Deployment) -> Array:
    """Layers of the longest pipeline stage: ceil(L / pp)."""
    return np.ceil(d.work.layers / d.layouts.pipeline_parallel)


def weights_per_chip(d: Deployment) -> Quantity:
    """Bytes of weights on the fullest accelerator of a replica.

    ceil(L / pp) / L x (dense / tp + routed / max(tp, ep)) + tables / tp

    The fullest stage has the rounded-up number of layers and one embedding or output table (both when pp = 1). Tables
    stay in 16 bits, as quantised checkpoints keep them.
    """
    w, x = d.work, d.layouts
    share = stage_layers(d) / w.layers
    on_stage = w.table * np.where(x.pipeline_parallel > 1, 1.0, w.tables)
    bytes_ = x.weight_bytes.m_as("byte")
    body = share * (
        w.dense / x.tensor_parallel * bytes_ + w.routed / np.maximum(x.tensor_parallel, x.expert_parallel) * _expert_bytes(x)
    )
    return Q(body + on_stage / x.tensor_parallel * np.maximum(bytes_, 2.0), "byte")


def _expert_bytes(x: Layouts) -> Any:
    return (x.weight_bytes if x.expert_bytes is None else x.expert_bytes).m_as("byte")


def cache_share(d: Deployment) -> Array:
    """Share of one sequence's cache that one accelerator keeps: (stage layers / L) / (min(tp, KV heads) x attention ranks).

    KV heads are repeated when tp exceeds them, and the latent of MLA has no heads to split, so every tensor-parallel
    rank keeps all of it.
    """
    shards = np.minimum(d.layouts.tensor_parallel, d.work.cache_heads)
    return stage_layers(d) / d.work.layers / (shards * d.layouts.attention_parallel)


def reserve(d: Deployment) -> Quantity:
    """Memory that an engine leaves to activations, graphs and the runtime [byte]: (1 - share) x memory + workspace."""
    return (1 - d.constants.memory_share) * d.device.memory + d.constants.workspace


def live_sequences(d: Deployment) -> Array:
    """Sequences (a real number) whose cache at the mean live length fits beside weights and reserve, whole replica.

    A run is never refused: at least `smallest_cache` of memory is left to the cache, and one sequence. This is for
    comparing with runs that took place; plans use `largest_batch`, which is exact.
    """
    free = (d.device.memory - reserve(d) - weights_per_chip(d)).m_as("byte")
    least = d.constants.smallest_cache * d.device.memory.m_as("byte")
    return np.maximum(np.maximum(free, least) / (d.work.cache_live.m_as("byte") * cache_share(d)), 1.0)


def largest_batch(d: Deployment) -> Array:
    """The most sequences whose cache at the mean live length fits, zero where one whole sequence at its end does not."""
    free = np.maximum(d.device.memory - reserve(d) - with_draft(d, weights_per_chip), Q(0.0, "byte"))
    fits = np.asarray(node.largest_batch(free, with_draft(d, live_cache)))
    return np.where(with_draft(d, longest_cache) <= free, fits, 0.0)


def live_cache(d: Deployment) -> Quantity:
    """Bytes of one sequence's cache on one accelerator, at its mean length."""
    return d.work.cache_live * cache_share(d)


def longest_cache(d: Deployment) -> Quantity:
    """Bytes of one sequence's cache on one accelerator, at its end."""
    return d.work.cache_longest * cache_share(d)


def prompt_cache(d: Deployment) -> Quantity:
    """Bytes of one prompt's cache on one accelerator of the attention rank that holds it."""
    return d.work.cache_prompt * (cache_share(d) * d.layouts.attention_parallel)


# ------------------------------------------------------------------------------------------------ speculative decoding


def tokens_per_step(acceptance: float, drafted: Array) -> Array:
    """Expected tokens of a step that verifies `drafted` tokens: (1 - a^(k+1)) / (1 - a), 1 where none are drafted.

    acceptance a: probability that a drafted token is accepted, below 1, the same for each and independent; dimensionless.
    Source: Leviathan et al. (2023), equation 1.
    """
    return (1 - acceptance ** (drafted + 1)) / (1 - acceptance)


def with_draft(d: Deployment, of: Callable[[Deployment], Quantity]) -> Quantity:
    """What the model takes, and its draft where tokens are drafted: of(model) + of(draft), or (1 + cost) of(model)."""
    if d.draft is None:
        return of(d)
    drafting, alone = np.where(d.draft.tokens > 0, 1.0, 0.0), replace(d, draft=None)
    if d.draft.work is None:
        return of(alone) * (1 + d.draft.cost * drafting)
    return of(alone) + of(replace(alone, work=d.draft.work, measured=None)) * drafting


def drafted_tokens(d: Deployment) -> Number:
    """Tokens drafted per step, 0 where nothing drafts."""
    return 0.0 if d.draft is None else d.draft.tokens


def expected_tokens(d: Deployment) -> Number:
    """Expected tokens of a step: `tokens_per_step`, 1 where nothing drafts."""
    return 1.0 if d.draft is None else tokens_per_step(d.draft.acceptance, d.draft.tokens)


def in_steps(d: Deployment) -> Deployment:
    """The same deployment with an answer counted in steps: the first, which reads the prompt, and (O - 1) / E that decode.

    What the laws say of tokens they then say of steps, each of which yields E tokens (`expected_tokens`); sizes of caches stay
    those of O tokens.
    """
    if d.draft is None:
        return d
    steps = 1 + np.maximum(np.asarray(d.work.output, float) - 1, 0.0) / expected_tokens(d)
    return replace(d, work=replace(d.work, output=steps))


def drafting_time(d: Deployment, sequences: Array) -> Quantity:
    """Time of a step in which tokens are drafted for `sequences`, one after another: k plain decode steps of the draft."""
    if d.draft is None:
        return _NO_TIME
    one = d if d.draft.work is None else replace(d, work=d.draft.work, measured=None)
    step = decode_time(one, sequences, pass_time(one, sequences, False).total)
    return d.draft.tokens * (d.draft.cost if d.draft.work is None else 1.0) * step


# -------------------------------------------------------------------------- walls 1 to 3 and 14: one pass of tokens


def pass_time(d: Deployment, tokens: Any, prefill: Any) -> PassTime:
    """`tokens` through the matrix products and collectives of one pipeline stage; attention excluded.

    (compute^p + memory^p)^(1/p), summed over dense layers, the output head, and routed experts, with
    compute = 2 tokens parameters / (eta peak), memory = parameters b / (eta_m BW); then the collectives

    Arguments as `products`, whose times these are. Source: Williams et al. (2009); p fitted (serving_constants.csv).
    Leaves out: tile quantisation, overlap of collectives with compute.
    """
    compute, memory, matrix = product_times(d, products(d, tokens, prefill))
    communication = communication_time(d, np.asarray(tokens, float) / d.layouts.attention_parallel)
    return PassTime(compute.sum(axis=0), memory.sum(axis=0), matrix.sum(axis=0), communication)


def product_times(d: Deployment, work: Products) -> tuple[Quantity, Quantity, Quantity]:
    """(compute, memory, both by the soft roofline) of each kind of product [s]."""
    compute = node.compute_time(work.operations, work.peak, work.compute_fraction)
    memory = node.memory_time(work.traffic, d.device.bandwidth, work.memory_fraction)
    return compute, memory, node.soft_roofline(compute, memory, d.constants.roofline_exponent, _NO_TIME)


def products(d: Deployment, tokens: Any, prefill: Any) -> Products:
    """What the matrix products of a pass of `tokens` through one stage compute and read, and the fractions they reach.

    tokens: of the whole replica, per pass (leading axes allowed); prefill: True where they are prompts, which get logits
    for one token only and the engine's prefill efficiency; decode gets logits for every token. eta halves at
    `half_efficiency_rows` tokens (at `expert_half_rows` per expert). Experts touched: `node.distinct_experts` with
    tokens^`routing_exponent`, since routing is less even than random; the fullest expert-parallel rank is
    `expert_imbalance` over the mean. All fractions are fitted (serving_constants.csv).
    """
    w, x, c = d.work, d.layouts, d.constants
    tokens, prefill = np.asarray(tokens, float), np.asarray(prefill)
    share = stage_layers(d) / w.layers
    seen = tokens / x.attention_parallel  # tokens that one attention rank sees
    engine = np.where(prefill, c.prefill_efficiency, 1.0) * c.sustained
    peak, bytes_ = x.peak.m_as("flop/s"), x.weight_bytes.m_as("byte")

    dense = share * w.dense / x.tensor_parallel
    head = w.table / x.tensor_parallel / x.pipeline_parallel
    operations = [2 * seen * dense, 2 * np.where(prefill, 1.0, seen) * head]
    peaks = [peak, d.device.peak16.m_as("flop/s")]
    efficiency = [x.compute_efficiency * engine * tokens / (tokens + c.half_efficiency_rows), c.logits]
    traffic = [dense * bytes_, head * 2.0]
    reads = [c.memory * weight_reading(c, bytes_), c.logits_memory]
    if np.any(w.routed):
        expert_bytes = _expert_bytes(x)
        expert_efficiency = x.compute_efficiency if x.expert_efficiency is None else x.expert_efficiency
        routed = share * w.routed / np.maximum(x.tensor_parallel, x.expert_parallel)
        used = w.top_k / w.experts
        each = tokens * used  # tokens per expert
        spread = Q(np.maximum(tokens, 1e-9) ** c.routing_exponent, "token")
        touched = node.distinct_experts(w.experts, np.minimum(w.top_k, 0.999999 * w.experts), spread) / w.experts
        size = np.clip((w.expert_size / 5e7) ** c.expert_size_exponent, 0.4, 2.0)
        imbalance = np.where(x.expert_parallel > 1, c.expert_imbalance, 1.0)
        fraction = expert_efficiency * c.expert_compute * engine * size * each / (each + c.expert_half_rows)
        operations.append(2 * tokens * routed * used * imbalance)
        peaks.append(peak if x.expert_peak is None else x.expert_peak.m_as("flop/s"))
        efficiency.append(np.where(w.routed > 0, fraction, 1.0))
        traffic.append(routed * touched * expert_bytes * imbalance)
        reads.append(c.memory * weight_reading(c, expert_bytes) * c.expert_memory * size)
    done = np.stack(np.broadcast_arrays(*operations))
    return Products(
        Q(done, "flop"), Q(_stack(peaks, done), "flop/s"), np.clip(_stack(efficiency, done), 1e-6, 0.95),
        Q(_stack(traffic, done), "byte"), np.clip(_stack(reads, done), 1e-6, 0.95),
    )  # fmt: skip


def least_token_time(d: Deployment) -> Quantity:
    """Time per token [s] of a step that does nothing but read the weights of one sequence at the whole bandwidth: none is less.

    Source: Williams et al. (2009), the memory roof; bytes as in `products`.
    """
    read = products(d, np.ones_like(np.asarray(d.layouts.tensor_parallel, float)), False).traffic.sum(axis=0)
    return node.memory_time(read, d.device.bandwidth, 1.0) * d.layouts.pipeline_parallel / expected_tokens(d)


def weight_reading(c: Constants, bytes_: Any) -> Any:
    """Factor on the bandwidth fraction when weights of `bytes_` per element are read: narrow ones are unpacked."""
    return np.where(bytes_ < 0.9, c.memory_4bit, np.where(bytes_ < 1.9, c.memory_8bit, 1.0))


def _stack(parts: Sequence[Any], like: Array) -> Array:
    """Dense layers, output head and experts, if any, along a first axis, in the shape of another such stack."""
    result = np.empty_like(like)
    for at, part in enumerate(parts):
        result[at] = part
    return result


def bus_bandwidth(links: Links, device: Device, c: Constants) -> Quantity:
    """What the chips of one machine reach between each other [byte/s]: a fraction of the scale-up link, or PCIe's constant."""
    reached = links.inside.m_as("byte/s") * c.bus_bandwidth
    pcie = np.minimum(c.pcie_bandwidth.m_as("byte/s"), _positive(links.inside))
    return Q(np.where(device.linked, reached, pcie), "byte/s")


def communication_time(d: Deployment, seen: Array) -> Quantity:
    """Collectives of one pass through one stage [s]: the sum of `collectives`."""
    total = _NO_TIME
    for part in collectives(d, seen).values():
        total = total + part
    return total


def collectives(d: Deployment, seen: Array) -> dict[str, Quantity]:
    """Each kind of collective of one pass through one stage [s]; `seen` are the tokens of one attention rank.

    Two all-reduces of the activations per layer; beyond the tensor-parallel group a dispatch and a combine of the chosen
    tokens per expert layer; one send per stage boundary. Where experts are spread over more chips than the links inside
    reach, the share 1 - reach / ep of an exchange goes over the NIC at the same time, at the fraction of it that links inside
    reach. Latency of a collective: of the running engine, about three times the isolated kernel. Source: Shoeybi et al.
    (2019); Lepikhin et al. (2021) for expert all-to-all; DeepSeek-AI (2025), DeepEP, for exchanges between machines.
    """
    w, x, c = d.work, d.layouts, d.constants
    elements = seen * w.hidden
    activations = Q(elements * 2.0, "byte")
    bus = bus_bandwidth(d.links, d.device, c)
    layers = stage_layers(d)
    parts = {"all-reduces": 2 * layers * fleet.ring_all_reduce(activations, x.tensor_parallel, bus, _NO_TIME)}
    wide = (x.expert_parallel > x.tensor_parallel) & (np.asarray(w.routed) > 0)
    calls = np.where(x.tensor_parallel > 1, 2 * layers, 0.0)
    if np.any(wide):
        exchanges = np.where(wide, 2 * w.moe_layers * layers / w.layers, 0.0)
        sent = Q(elements * w.top_k * c.dispatch_bytes, "byte")
        exchange = fleet.all_to_all(sent, np.maximum(x.expert_parallel, 1.0), bus, _NO_TIME)
        far = np.maximum(1 - d.links.reach / np.maximum(x.expert_parallel, 1.0), 0.0)
        if np.any(far > 0):
            away = sent * far / Q(_positive(d.links.between) * c.bus_bandwidth, "byte/s")
            exchange = np.maximum(exchange, away) + np.where(far > 0, 1.0, 0.0) * c.stage_latency
        parts["exchanges of experts"] = exchanges * exchange
        calls = calls + exchanges
    parts["latency of collectives"] = calls * c.collective_latency
    staged = x.pipeline_parallel > 1
    if np.any(staged):
        send = fleet.point_to_point(
            activations / x.tensor_parallel, Q(_positive(d.links.between), "byte/s"), d.links.between_latency
        )
        parts["send to the next stage"] = np.where(staged, 1.0, 0.0) * (send + c.stage_latency)
    return parts


def _positive(bandwidth: Quantity) -> Any:
    """Bandwidth [byte/s]; one that is not there (0) is never used, and taken as infinite to keep arithmetic quiet."""
    value = bandwidth.m_as("byte/s")
    return np.where(value > 0, value, np.inf)


# ------------------------------------------------------------------------------------- steps: fixed costs, attention


def fixed_time(d: Deployment) -> Quantity:
    """What a step of one stage costs however little it computes.

    t_step + (L t_layer + L_moe (t_moe (k/8)^x + t_shared + t_ep) + L_mla t_mla + L_sparse t_sparse + L_state t_state) / pp

    Scheduler, sampler and graph launch per step, launches per layer; fitted per engine generation. The largest single
    term for small models.
    """
    w, x, c = d.work, d.layouts, d.constants
    layer = c.layer * np.where(x.tensor_parallel > 1, c.tensor_parallel_layer, 1.0)
    wide = np.where(x.expert_parallel > 1, 1.0, 0.0)
    expert = c.expert_layer * (w.top_k / 8) ** c.top_k_exponent + wide * c.expert_parallel_layer
    share = stage_layers(d) / w.layers
    return c.step + share * (
        w.layers * layer
        + w.moe_layers * expert
        + w.shared_layers * c.shared_expert_layer
        + w.latent_layers * c.latent_layer
        + w.sparse_layers * c.sparse_layer
        + w.state_layers * c.state_layer
    )


def decode_attention_time(d: Deployment, sequences: Any, queries: Any = 1.0) -> Quantity:
    """Attention of one decode step of `sequences` (of one stage, whole replica), at the mean context.

    queries: tokens of each sequence that attend to its cache, which is read once for all of them.

    soft roofline of reading the cache, KV / (eta BW), and of its arithmetic on the units that the kernels use (CUDA cores
    in engines before 2025, which is why many query heads per KV head were slow).
    """
    w, x, c = d.work, d.layouts, d.constants
    narrow = np.where(x.kv_bytes.m_as("byte") < 1.9, c.cache_read_8bit, 1.0)
    read = node.memory_time(
        w.cache_read * (sequences * cache_share(d)), d.device.bandwidth, np.minimum(c.cache_read * narrow, 0.95)
    )  # fmt: skip
    per_chip = sequences / x.attention_parallel / x.tensor_parallel * stage_layers(d) / w.layers
    fraction = np.where(np.asarray(w.latent_layers) > 0, c.decode_attention_latent, c.decode_attention)
    return node.soft_roofline(
        read,
        node.compute_time(w.step_attention * (per_chip * queries), d.device.peak16, fraction),
        c.attention_exponent,
        _NO_TIME,
    )


def prefill_attention_time(d: Deployment) -> Quantity:
    """Causal attention of one prompt on one stage; the kernels reach half of their efficiency at `attention_half_tokens`."""
    w, x, c = d.work, d.layouts, d.constants
    efficiency = np.clip(c.prefill_attention * w.input / (w.input + c.attention_half_tokens), 1e-6, 1.0)
    return node.compute_time(
        w.prompt_attention / x.chips * stage_layers(d) / w.layers * x.pipeline_parallel, d.device.peak16, efficiency
    )


def decode_time(d: Deployment, sequences: Any, matrix: Quantity, queries: Any = 1.0) -> Quantity:
    """One decode step of one stage: fixed costs + pass + attention + host work per sequence.

    sequences: of the stage, whole replica; matrix: `pass_time(...).total` of as many tokens, times `queries` where each
    sequence has several tokens to verify.
    """
    host = sequences / d.layouts.attention_parallel * d.constants.sequence
    time = fixed_time(d) + matrix + decode_attention_time(d, sequences, queries) + host
    return time if d.measured is None else time * d.measured.decode


def prompts_together(d: Deployment, sequences: Any, most: float = np.inf) -> Array:
    """Prompts whose prefill shares a step when `sequences` decode: sequences / output in balance, at least one."""
    return np.clip(np.asarray(sequences) / d.work.output, 1.0, most)


@dataclass(frozen=True, slots=True)
class Step:
    """A decode step and what prefill adds to it, of one stage [s]."""

    decode: Quantity
    increment: Quantity  # per prompt that is read in a step that decodes anyway
    decode_pass: PassTime


def step_time(d: Deployment, sequences: Any, prompts: Any, queries: Any = 1.0) -> Step:
    """A decode step of `sequences`, and the time that one of `prompts` read in the same step adds to it.

    increment = (pass(B + m input) - pass(B)) / m + prompt attention: the weights are read once for both

    queries q: tokens of each sequence in the step, 1 unless drafted ones are verified; then B stands for B q.

    Source: Agrawal et al. (2024), Sarathi-Serve, for prefill work inside decode steps.
    """
    sequences, prompts = np.asarray(sequences, float), np.asarray(prompts, float)
    decoded = sequences * queries
    tokens = np.stack(np.broadcast_arrays(decoded, decoded, decoded + prompts * d.work.fresh))
    kinds = np.array([False, True, True]).reshape((3,) + (1,) * (tokens.ndim - 1))
    passes = pass_time(d, tokens, kinds)
    total = passes.total
    decode = decode_time(d, sequences, total[0], queries)
    increment = np.maximum((total[2] - total[1]) / prompts, _NO_TIME) + prefill_attention_time(d)
    if d.measured is not None:
        increment = increment * d.measured.prefill
    first = PassTime(passes.compute[0], passes.memory[0], passes.matrix[0], passes.communication[0])
    return Step(decode, increment, first)


def prompt_time(d: Deployment, prompts: Any) -> Quantity:
    """Prefill of `prompts` prompts in one go through one stage, launch excluded [s]; a draft model reads them with a launch of
    its own."""
    if d.draft is not None:
        both = with_draft(d, lambda one: prompt_time(one, prompts) + one.constants.prefill_launch)
        return both - d.constants.prefill_launch
    time = pass_time(d, prompts * d.work.fresh, True).total + prompts * prefill_attention_time(d)
    return time if d.measured is None else time * d.measured.prefill


def reading_time(d: Deployment, prompts: Any) -> Quantity:
    """Prefill of `prompts` prompts through one stage, in as many steps as the engine's budget of tokens asks for [s].

    s (t_prefill(prompts / s) + t_launch),  s = prompts / `prompts_per_step`, at least one
    """
    steps = np.maximum(prompts / prompts_per_step(d), 1.0)
    return steps * (prompt_time(d, prompts / steps) + d.constants.prefill_launch)


# ------------------------------------------------------------------------------------------- laws of the six regimes


@dataclass(frozen=True, slots=True)
class Load:
    """How a run is driven. Arrays; nan where not given.

    `concurrency`: requests in flight, or the batch, of one replica; `rate` [1/s] of one replica; `requests` of the whole
    run; `replicas`. The flags say how the client or the engine measured: `static` batch (all prompts at once),
    `disaggregated` (prefill elsewhere, on `prefill_workers`), `median` (the client reports medians), `natural` (lengths end by
    themselves), `fixed_lengths`, `known_batch` (concurrency is the mean number in flight of an open loop).
    """

    concurrency: Any
    rate: Any
    requests: Any
    replicas: Any
    sequences_limit: Any
    prefill_workers: Any
    static: Any
    disaggregated: Any
    median: Any
    natural: Any
    fixed_lengths: Any
    known_batch: Any


@dataclass(frozen=True, slots=True)
class Latency:
    """First token, time per output token [s], and the sequences that decode together, of which the step takes `decode` [s].

    `waits`: the parts of the first token, which sum to it. `least`, `spread` [s]: the part of the first token that every request
    has, and the standard deviation of the rest (open loop).
    """

    ttft: Quantity
    tpot: Quantity
    batch: Array
    decode: Quantity
    waits: Mapping[str, Quantity]
    least: Quantity = _NO_TIME
    spread: Quantity = _NO_TIME


def slots(d: Deployment, load: Load) -> Array:
    """Sequences that one replica schedules at once: as many as memory holds at the mean live length and the engine allows.

    A real number, as `live_sequences`. `Load.sequences_limit`: of one attention rank.
    """
    ranks, stated = d.layouts.attention_parallel, np.asarray(load.sequences_limit, float)
    allowed = np.minimum(d.constants.batch_limit, np.where(np.isfinite(stated), stated, np.inf)) * ranks
    return np.minimum(live_sequences(d), allowed)


def prompts_per_step(d: Deployment) -> Array:
    """Prompts that one step reads at most: the engine's budget of tokens over the length of a prompt, at least one."""
    return np.maximum(d.constants.step_tokens * d.layouts.attention_parallel / np.asarray(d.work.fresh, float), 1.0)


def kept_busy(d: Deployment, sequences: Any) -> Array:
    """Of so many slots those that can be kept busy: O steps of as many prompts as a step reads at most."""
    return np.minimum(sequences, prompts_per_step(d) * np.asarray(d.work.output, float) * d.layouts.pipeline_parallel)


@dataclass(frozen=True, slots=True)
class Busy:
    """A step of a replica, through all its stages [s]: `decode`, and what each `prompt` read in it adds to the stage it is in."""

    decode: Quantity
    prompt: Quantity


def busy_step(d: Deployment, sequences: Any, prompts: Any) -> Busy:
    """A step that decodes `sequences` of the whole replica and reads `prompts`, which share one launch."""
    stages = d.layouts.pipeline_parallel
    each = np.maximum(np.asarray(sequences, float) / stages, 1.0)
    step = step_time(d, each, prompts, 1 + drafted_tokens(d))
    decode = stages * step.decode + drafting_time(d, each)
    return Busy(decode, step.increment + d.constants.prefill_launch / np.maximum(prompts, 1.0))


def full_step(d: Deployment, sequences: Any) -> Busy:
    """The step of a replica whose slots are all busy: of `sequences` (O - 1)/O decode and 1/O have their prompt read.

    A sequence that decodes sees itself and the share (O - 1)/O of the others.
    """
    decoding = 1 + (np.asarray(sequences, float) - 1) * (1 - 1 / np.asarray(d.work.output, float))
    return busy_step(d, decoding, prompts_together(d, sequences / d.layouts.pipeline_parallel))


def slot_time(d: Deployment, sequences: Any, step: Busy) -> Quantity:
    """How long a request holds its slot when all of `sequences` are busy: O steps that read sequences / O prompts each.

    O t_decode + (1 + (phi - 1) (O - 1)/O) sequences t_prompt

    One of the steps reads the prompt and yields the first token, the others decode. phi, `interference`: what a prompt adds to
    a step in which the request decodes, over what it takes alone. step: `full_step`. Returns [s].
    Source: Agrawal et al. (2024), Sarathi-Serve, for prefill work inside decode steps, without which the error triples.
    """
    disturbed = 1 + (d.constants.interference - 1) * (1 - 1 / np.asarray(d.work.output, float))
    return d.work.output * step.decode + disturbed * sequences * step.prompt


def capacity(d: Deployment, sequences: Any) -> Quantity:
    """The largest rate of requests of one replica with so many slots [1/s]: slots / slot_time (Little 1961).

    Of a closed loop, of an open one, and at maximum load alike.
    """
    kept = kept_busy(d, sequences)
    return kept / slot_time(d, kept, full_step(d, kept))


def full_token_time(d: Deployment, sequences: Any) -> Quantity:
    """TPOT when all of so many slots are busy [s], the longest of a steady state: t_decode + phi sequences t_prompt / O."""
    kept = kept_busy(d, sequences)
    step = full_step(d, kept)
    return step.decode + d.constants.interference * kept / np.asarray(d.work.output, float) * step.prompt


def closed_loop(d: Deployment, load: Load) -> Latency:
    """TTFT and TPOT when a client keeps N requests in flight: `concurrency`.

    X = N / (TTFT + (O - 1) TPOT), at most slots / slot_time
    TPOT = t_decode(B) + phi (N - 1)/N X TPOT t_prompt,  B = 1 + (N - 1)/N X (O - 1) TPOT
    TTFT = fixed + w P TPOT + V + wait for a slot,  V = t_prefill (1 + (N - 1) (s + (1 - s) X V/N))

    Little's law (1961) for requests and for sequences that decode, and the arrival theorem: a request sees the loop as it is
    with one request less. In front of its prompt are those of the others that have not been read either, the share X V/N of
    the time (Bard 1979, Schweitzer 1979), and the share s of them that were sent together with it,
    s = kappa (rho / 0.3)^g (N - 1)^(c - 1) with rho the share of time spent in prefill, fitted. w: steps waited for while
    another request decodes, P = 1 - O^(1 - N). At the largest rate, the wait for a slot is what is left of N/X. Whoever waits
    for a slot is in nobody's way, so that N is at most the number of slots in all but Little's law. The step is
    taken at the B of every slot busy, then once more at the B found. A request of one token (O = 1) has no TPOT: what stands
    there is the time between steps.

    A static batch has no interference, and its first token comes when all prompts of its wave are read (`static_waves`).
    Disaggregated prefill does not disturb decode. A client that reports medians sees `median_share` of stalls and waits.
    """
    w, x, c = d.work, d.layouts, d.constants
    stages, population, output = x.pipeline_parallel, np.asarray(load.concurrency, float), np.asarray(w.output, float)
    inside = np.minimum(population, slots(d, load))
    inside = np.where(load.static, inside, kept_busy(d, inside))
    others = np.maximum(inside - 1, 0.0) / np.maximum(inside, 1e-9)  # (N - 1) / N
    readers = inside / load.prefill_workers * np.where(load.disaggregated, load.replicas, 1.0)
    ahead = np.maximum(readers - 1, 0.0)
    launches, alone = stages * fixed_time(d), (prompt_time(d, 1.0) + c.prefill_launch).m_as("s")
    fixed = (c.first_token_fixed + launches).m_as("s")
    kappa = np.where(load.fixed_lengths, c.prompt_wait_fixed, c.prompt_wait_random)
    gathers = np.where((np.asarray(w.latent_layers) > 0) & (x.expert_parallel > 1), c.attention_parallel_wait, 0.0)
    steps = np.where(load.disaggregated, 0.0, (1 - output ** (1 - np.maximum(inside, 1.0))) * (c.step_wait + gathers))

    def elsewhere(step: Busy) -> Busy:
        return replace(step, prompt=np.where(load.static | load.disaggregated, 0.0, 1.0) * step.prompt)

    batch = 1 + (inside - 1) * np.where(load.static, 1.0, 1 - 1 / output)
    together = prompts_together(d, inside / stages)
    step = elsewhere(busy_step(d, batch, together))
    largest = (inside / slot_time(d, inside, step)).m_as("1/s")
    slowest = np.where(load.static | load.disaggregated, np.inf, full_token_time(d, inside).m_as("s"))
    rate = tpot = prompts = each = np.zeros(1)
    decoded, room = np.maximum(output - 1, 1e-6), prompts_per_step(d)
    for at_the_rate in (False, True):
        if at_the_rate:
            batch = np.where(load.static, inside, np.minimum(1 + others * rate * (output - 1) * tpot, inside))
            step = elsewhere(busy_step(d, batch, together))
        decode, disturbed = step.decode.m_as("s"), c.interference * others * step.prompt.m_as("s")
        work = np.maximum(inside - 1, 0.0) * alone
        sent = sent_together(c, work / (work + output * decode), ahead, kappa)
        read, found = alone * (stages + ahead * sent), alone * ahead * (1 - sent) / np.maximum(inside, 1e-9)
        low, high = np.zeros_like(largest + read), largest + 0 * read
        for _ in range(45):
            rate = (low + high) / 2
            prompts = read / np.maximum(1 - rate * found, 1e-9)
            busy = np.minimum(rate * disturbed, 1 - 1e-9)
            each = decode / (1 - busy)
            behind = stages * alone + (prompts - stages * alone + steps * each) / room
            tpot = np.minimum(each + behind * _followed(busy, decoded), slowest)
            crowded = rate * (fixed + steps * each + prompts + (output - 1) * tpot) > population
            low, high = np.where(crowded, low, rate), np.where(crowded, rate, high)
    seen = np.where(load.median, c.median_share, 1.0)
    slot = np.maximum(population / rate - (fixed + steps * each + prompts + (output - 1) * tpot), 0.0)
    apart = {
        "client and scheduler": c.first_token_fixed.m_as("s"), "launches": launches.m_as("s"), "own prompt": stages * alone,
        "steps in progress": steps * each, "prompts of others": seen * (prompts - stages * alone), "slot": slot,
    }  # fmt: skip
    at_once = {"launches": apart["launches"], "own prompt": apart["own prompt"]}
    whole = stages * reading_time(d, np.maximum(inside, 1.0))
    at_once["prompts of others"] = whole.m_as("s") - at_once["own prompt"]
    full, more = static_waves(population, inside)
    before = inside * full * (full - 1) / 2 + full * more  # waves before the one of a request, summed over requests
    at_once["slot"] = static_time(d, inside).m_as("s") * before / np.maximum(population, 1e-9)
    waits = {name: Q(np.where(load.static, at_once.get(name, 0.0), value), "s") for name, value in apart.items()}
    return Latency(_sum(waits), Q(decode + seen * (tpot - decode), "s"), batch, step.decode, waits)


def sent_together(c: Constants, reading: Any, ahead: Any, kappa: Any) -> Array:
    """Share of the requests of a closed loop that are in front of a prompt because they were sent together with it; fitted.

    s = kappa (rho / 0.3)^g ahead^(c - 1), at most 1

    reading rho: share of the time spent in prefill; ahead: the other requests of one reader of prompts. Dimensionless.
    """
    sent = kappa * (np.maximum(reading, 1e-3) / 0.3) ** c.wait_utilisation_exponent
    return np.minimum(sent * np.maximum(ahead, 1e-9) ** (c.wait_concurrency_exponent - 1), 1.0)


def _followed(busy: Array, decoded: Array) -> Array:
    """What a request's own wait adds to its TPOT, over that wait: rho (1 - rho^n) / ((1 - rho) n), n = O - 1 decode steps.

    While it waits, other prompts come and are read in its first decode step, which makes that one longer, so that more come, and
    so on: rho + rho^2 + ... + rho^n, spread over n steps. busy: the share rho of a step that reads prompts.
    """
    return busy * -np.expm1(decoded * np.log(np.maximum(busy, 1e-12))) / ((1 - busy) * decoded)


def _sum(parts: Mapping[str, Quantity]) -> Quantity:
    total = _NO_TIME
    for part in parts.values():
        total = total + part
    return total


def static_waves(population: Any, inside: Any) -> tuple[Array, Array]:
    """(full waves, requests of the last one) of a static batch of which `inside` requests fit at once."""
    full = np.floor(population / inside)
    return full, population - full * inside


def static_time(d: Deployment, batch: Any) -> Quantity:
    """How long one wave of a static batch takes [s]: t_prefill(B) + (O - 1) t_decode(B), the first token with the prompts."""
    read = d.layouts.pipeline_parallel * (reading_time(d, batch) + fixed_time(d))
    return read + np.maximum(np.asarray(d.work.output) - 1, 0) * busy_step(d, batch, 1.0).decode


def static_throughput(d: Deployment, load: Load) -> Quantity:
    """Output tokens per second of N prompts read together, then decoded in lockstep, B at a time where not all of them fit.

    N O / (k t(B) + t(N - k B)),  k = floor(N / B), t = `static_time`
    """
    population, steps = np.asarray(load.concurrency, float), in_steps(d)
    inside = np.minimum(population, slots(d, load))
    full, more = static_waves(population, inside)
    last = np.where(more > 0, 1.0, 0.0) * static_time(steps, np.maximum(more, 1e-9))
    return Q(population * d.work.output, "token") / (full * static_time(steps, inside) + last)


def max_throughput(d: Deployment, load: Load) -> Quantity:
    """Output tokens per second of all replicas at the largest batch that memory, engine and number of requests allow.

    replicas x O x capacity / (1 + tail B / requests)
    """
    batch = np.maximum(np.minimum(slots(d, load), load.requests), d.layouts.pipeline_parallel)
    drained = 1 + d.constants.tail * batch / load.requests
    return load.replicas * Q(d.work.output, "token") * capacity(d, batch) / drained


def share_in_flight(u: Array) -> Array:
    """Share of a run's requests in flight, seen by a request that lasts `u` arrival windows: u - u^2/3, or 1 - 1/(3u).

    Uniform arrivals over a window; the mean over requests of how many others overlap, at the midpoint. Dimensionless.
    """
    return np.where(u <= 1, u - u * u / 3, 1 - 1 / (3 * np.maximum(u, 1)))


def share_following(u: Array) -> Array:
    """Share of a run's requests that arrive while a request lasting `u` arrival windows is served: u - u^2/2, at most 1/2."""
    return np.where(u <= 1, u - u * u / 2, 0.5)


def fluctuation(load: Array, customers: Array) -> Array:
    """Services that a customer of a finite run waits on average beyond the backlog n/2 (1 - 1/rho), as arrivals are random.

    1 / sqrt(1/s^2 + 1/t^2),  s = rho / (2 (1 - rho)) below saturation, 1 / (2 rho (rho - 1)) above,  t = 4/3 sqrt(n / (2 pi))

    load rho: rate over the rate of service; customers n of the run, the first of whom finds nobody. s: of the M/D/1 queue once
    it has settled, and what an overloaded one loses before it never empties again. t: at rho = 1, from Spitzer's identity,
    E[W_k] = sum over j <= k of E[max(S_j, 0)] / j with S_j the sum of j differences, normal, and the mean over k. Dimensionless.
    Source: Spitzer (1956); Pollaczek and Khinchine. Within a third, or half a service, of simulated runs (test_serving_laws.py).
    """
    steady = np.where(load < 1, load, 1 / np.maximum(load, 1e-9)) / (2 * np.maximum(np.abs(1 - load), 1e-9))
    return 1 / np.sqrt(1 / np.maximum(steady, 1e-12) ** 2 + 1 / np.maximum(8 / 9 / np.pi * customers, 1e-9))


def open_loop(d: Deployment, load: Load, variability: float = 1.0, iterations: int = 25) -> Latency:
    """TTFT and TPOT at an arrival rate, on the upper (loaded) branch of Little's fixed point.

    B = rate (O - 1) TPOT(B) + z, z = (1 + variability)/2 (a finite run: 1 + requests x share_in_flight)
    TPOT = t_decode(B) + phi followers/(O - 1) t_prompt, followers = rate (O - 1) TPOT (a finite run: requests x share_following)
    TTFT = fixed + t_prefill + w P TPOT + q wait for other prompts + backlog of a finite run when overloaded + wait for a slot
    wait = variability rho s / (2 (1 - rho)) (a finite run: s x `fluctuation`),  backlog = requests/2 (s - 1/rate)

    z: a sequence that decodes sees itself and, when arrivals are bursty, more others than the mean over time; peakedness of an
    infinite-server group (Eckberg 1983). `variability`: squared coefficient of variation of the time between arrivals. A step
    reads `prompts_per_step` at most. P = 1 - e^-others, of an M/G/inf queue: an idle engine has no step to wait for. Prompts join
    the batch between steps: whoever comes waits for the steps in progress, w, and for the prompts in front, an M/D/1 queue of the
    work s = phi t_prompt + t_decode / prompts_per_step at rho = rate s; the wait for a slot is that of an M/D/slots queue; both
    are scaled by Allen and Cunneen (Allen 1990). In a finite run, prompts that come while a request waits are read while it
    decodes. A steady rate beyond `capacity` is served at the capacity, and its TTFT has no meaning. Where the mean number in
    flight is known, B is the share of it that decodes.
    Source: Little (1961); `fleet.m_d_1_wait`; Erlang (1917). Iterated from above: damped, in a steady state by secants.
    """
    w, c = d.work, d.constants
    stages, steps = d.layouts.pipeline_parallel, np.maximum(np.asarray(w.output, float) - 1, 1e-6)
    requests, limit, room = load.requests / load.replicas, slots(d, load), prompts_per_step(d)
    paced, finite = np.isfinite(load.rate), np.isfinite(requests)
    settled = paced & ~finite & ~np.asarray(load.known_batch, bool)
    count, rate = np.where(finite, requests, 0.0), np.where(paced, load.rate, 0.0)
    largest = capacity(d, limit).m_as("1/s") if np.any(settled) else np.inf
    slowest = full_token_time(d, limit).m_as("s") if np.any(settled) else np.inf
    served = np.where(settled, np.minimum(rate, largest), rate)
    window = np.where(finite, np.where(paced, count / np.maximum(rate, 1e-9), 1e-3), 1e30)
    service = (reading_time(d, room) / room).m_as("s")
    offered = np.where(paced, rate, 1e9)
    launches, own = stages * fixed_time(d), (stages * (prompt_time(d, 1.0) + c.prefill_launch)).m_as("s")
    fixed = (c.first_token_fixed + launches).m_as("s") + own
    each = service

    one = np.ones_like(limit)
    mean = tpot = busy_step(d, one, one).decode.m_as("s") + count / 2 * service / steps
    batch = waited = queue = decode = before = after = backlog = reading = np.zeros_like(tpot)
    for turn in range(iterations):
        lasts, u = steps * tpot, steps * mean / window
        others = np.where(finite, np.maximum(count - 1, 0) * share_in_flight(u), served * lasts)
        flight = others + np.where(finite, 1.0, (1 + variability) / 2)
        reading = np.minimum(offered * each, 0.98)
        steady = variability * fleet.m_d_1_wait(Q(reading / each, "1/s"), Q(each, "s")).m_as("s")
        queue = c.queue_factor * np.where(finite, each * fluctuation(offered * each, count), steady)
        backlog = np.where(finite, count / 2 * np.maximum(each - 1 / offered, 0), 0.0)
        waited = c.step_wait * (1 - np.exp(-others)) * mean
        flight = np.where(load.known_batch, load.concurrency * lasts / (lasts + fixed + waited + queue), flight)
        drained = 1 - c.natural_drain * np.where(load.natural & finite, u / (1 + u), 0.0)
        batch = np.maximum(np.clip(flight, 1.0, limit) * drained, 1.0)
        come = drained * count * share_following(u + (waited + queue + backlog) / window)
        followers = np.where(finite, come, np.where(load.known_batch, batch, served * steps * mean))
        followers = np.where(finite, np.minimum(followers, count / 2), followers)
        most = np.minimum(steps * room, 2 * followers)  # evenly from none to all of them follow: so many at most are read
        followers = np.where(finite, most - most**2 / np.maximum(4 * followers, 1e-9), np.minimum(followers, steps * room))
        step = busy_step(d, batch, np.clip(followers / steps, 1.0, room))
        decode, prompt = step.decode.m_as("s"), c.interference * step.prompt.m_as("s")
        each = prompt + decode / (stages * room)
        read = np.where(settled, np.minimum(served * prompt, 1 - 1e-9), followers / steps * prompt)
        new = np.where(settled, decode / (1 - np.where(settled, read, 0.0)), decode + read)
        new = np.minimum(new, decode + room * prompt)  # no step reads more
        mean = np.where(settled, new, 0.5 * mean + 0.5 * new)
        seen = new + (own + (waited + queue) / room) * _followed(1 - decode / new, steps)
        seen = np.where(settled, np.minimum(seen, slowest), seen)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.nan_to_num(np.clip((seen - after) / (tpot - before), 0.0, 0.9))
        before, after = tpot, seen
        tpot = np.maximum(tpot + (seen - tpot) * np.where(settled & (turn > 0), 1 / (1 - slope), 0.5), decode / 2)
    crowded = finite & (count > 1.05 * limit)
    slot = np.where(
        crowded, np.maximum(count * share_in_flight(w.output * tpot / window) / limit - 1, 0) * w.output * tpot * 0.5, 0.0
    )
    blocked = one
    if np.any(settled):
        kept, peaked = kept_busy(d, limit), (1 + variability) / 2
        used = np.where(rate < largest, rate / largest, 0.98)
        blocked = np.maximum(np.asarray(node.erlang_c(kept / peaked, used * kept / peaked)), 1e-12)
        slot = np.where(settled, blocked * variability / 2 / (largest * (1 - used)), slot)
    waits = {
        "client and scheduler": c.first_token_fixed.m_as("s"), "launches": launches.m_as("s"), "own prompt": own,
        "steps in progress": waited, "prompts of others": queue + backlog, "slot": slot,
    }  # fmt: skip
    rest = np.minimum(waited, mean / 2)  # of the step in progress: evenly between nothing and twice that
    longer = np.maximum(queue / np.maximum(reading, 1e-12), each)  # of those that wait for other prompts: for one at least
    spread = np.sqrt(rest**2 / 3 + np.maximum(queue * (2 * longer - queue), 0.0) + slot**2 * (2 / blocked - 1))
    parts = {name: Q(one * value, "s") for name, value in waits.items()}
    least = _sum(parts) - Q(rest + queue + backlog + slot, "s")
    return Latency(_sum(parts), Q(tpot, "s"), batch, Q(decode, "s"), parts, least, Q(spread, "s"))


def token_parts(d: Deployment, latency: Latency) -> dict[str, Quantity]:
    """What TPOT is made of [s]; the parts sum to it. Measured kernels scale those of the decode step alike."""
    stages, queries, expected = d.layouts.pipeline_parallel, 1 + drafted_tokens(d), expected_tokens(d)
    each = np.maximum(np.asarray(latency.batch, float) / stages, 1.0)
    passed = pass_time(d, each * queries, False)
    parts = {
        "weights and arithmetic": passed.matrix, "attention": decode_attention_time(d, each, queries),
        "collectives": passed.communication, "launches and scheduler": fixed_time(d),
        "host, per sequence": each / d.layouts.attention_parallel * d.constants.sequence,
    }  # fmt: skip
    scale = stages * (1.0 if d.measured is None else d.measured.decode) / expected
    found = {name: scale * part for name, part in parts.items()}
    if d.draft is not None:
        found["drafting"] = drafting_time(d, each) / expected
    return {**found, "prompts of others": latency.tpot - latency.decode}


def per_token(d: Deployment, latency: Latency) -> Latency:
    """A latency of `in_steps(d)` with the times of a step as those of each of its tokens."""
    expected = expected_tokens(d)
    return replace(latency, tpot=latency.tpot / expected, decode=latency.decode / expected)


def first_token_percentile(latency: Latency, share: float) -> Quantity:
    """The TTFT [s] that a share of the requests of an open loop does not exceed.

    What every request waits for, and a gamma variable with the mean and the standard deviation of the rest: of the step in
    progress evenly distributed, of waits for prompts and slots that are none or exponential.
    """
    return latency.least + Q(_gamma((latency.ttft - latency.least).m_as("s"), latency.spread.m_as("s"), share), "s")


def _gamma(mean: Array, spread: Array, share: float) -> Array:
    """The quantile of a gamma variable of this mean and standard deviation."""
    from scipy import special

    shape = np.clip((mean / np.maximum(spread, 1e-12)) ** 2, 1e-3, 1e6)
    return np.asarray(mean / shape * special.gammaincinv(shape, share))


def token_percentile(d: Deployment, load: Load, latency: Latency, share: float, variability: float = 1.0) -> Quantity:
    """The TPOT [s] that a share of the requests of a steady open loop does not exceed.

    A beta variable between the step of one sequence alone and the TPOT of all slots busy, of mean TPOT and variance
    TPOT^2 z/n ((rho / (1 - rho))^2 + e^2 g / (1 - e)),  n = rate (O - 1) TPOT

    While a request decodes, n others arrive, with the variance z n: TPOT = t_decode / (1 - rho) moves with their rate by
    rho / (1 - rho), less rho^(O - 1) of it that comes too late, and with the sequences in flight by e = d ln t_decode / d ln B.
    Their variance is z n / (1 - e), since they leave the more slowly the more they are, and of its mean over a service the share
    g = 2 (x - 1 + e^-x) / x^2 is left, x = 1 - e (the correlation falls as e^(-x t / service)). z as in `open_loop`.
    Source: diffusion about the operating point (Whitt 1984, heavy traffic of many servers).
    """
    steps, limit = np.maximum(np.asarray(d.work.output, float) - 1, 1e-6), slots(d, load)
    token, decode = latency.tpot.m_as("s"), latency.decode.m_as("s")
    flight = np.minimum(load.rate, capacity(d, limit).m_as("1/s")) * steps * token
    prompts = np.clip(flight / steps, 1.0, prompts_per_step(d))
    more = (busy_step(d, 1.05 * latency.batch, prompts).decode / busy_step(d, latency.batch, prompts).decode).m_as("")
    slope = np.clip(np.log(more) / np.log(1.05), 0.0, 0.95)
    x = 1 - slope
    left = 2 * (x - 1 + np.exp(-x)) / x**2
    busy = np.clip(1 - decode / token, 1e-12, 1 - 1e-9)
    moved = (busy * -np.expm1(steps * np.log(busy)) / (1 - busy)) ** 2 + slope**2 * left / x
    variance = token**2 * (1 + variability) / 2 / np.maximum(flight, 1e-9) * moved
    least, most = busy_step(d, 1.0, 1.0).decode.m_as("s"), full_token_time(d, limit).m_as("s")
    return Q(_beta(token, variance, np.minimum(least, token), np.maximum(most, token), share), "s")


def _beta(mean: Array, variance: Array, least: Array, most: Array, share: float) -> Array:
    """The quantile of a beta variable between two ends, of this mean and variance, or the most that leaves it a single peak.

    The mean itself where it is one of the ends.
    """
    from scipy import special

    width = np.maximum(most - least, 1e-12)
    at = np.clip((mean - least) / width, 1e-6, 1 - 1e-6)
    size = np.maximum(at * (1 - at) / np.maximum(variance / width**2, 1e-12) - 1, 1 / np.minimum(at, 1 - at))
    inner = least + width * special.betaincinv(at * size, (1 - at) * size, share)
    return np.where((mean > least * (1 + 1e-9)) & (mean < most * (1 - 1e-9)), inner, mean)


# --------------------------------------------------------------------------------------- one replica, for the planner


def deployment_of(
    model: Transformer,
    accelerator: Accelerator,
    layouts: Layouts,
    links: Links,
    traffic: Traffic,
    constants: Constants,
    draft: Draft | None = None,
    measured: Measured | None = None,
) -> Deployment:
    """What the laws of this module see of a model under some traffic on a chip. Raises UnknownValue as `replica`."""
    work = work_of(model, traffic, layouts.kv_bytes)
    return Deployment(work, layouts, device_of(accelerator), links, constants, draft, measured)


def replica(
    model: Transformer,
    accelerator: Accelerator,
    layouts: Layouts,
    links: Links,
    traffic: Traffic,
    constants: Constants,
    calibration: Calibration | None = None,
    draft: Draft | None = None,
    measured: Measured | None = None,
) -> Replica:
    """Walls 1 to 5 and 14 for one replica of each layout, every slot busy.

    TPOT = stages x (t_decode(B / stages) / E + phi (B - 1)/output x prefill increment)
    first token = fixed + steps waited for + own prefill;  residence = first token + (output - 1) x TPOT

    With a draft the step drafts k tokens and verifies k + 1, E of which count (`tokens_per_step`); E is 1 without.

    Source: Pope et al. (2023) for the phases; Kwon et al. (2023) for the cache; Agrawal et al. (2024, Sarathi-Serve) for
    prefill work inside decode steps. Raises UnknownValue where the model's shape or the chip's figures are unknown.
    `calibration` gives the intervals (the stored one by default).
    """
    d = deployment_of(model, accelerator, layouts, links, traffic, constants, draft, measured)
    known = calibration or stored_calibration()
    inherited = known.inherited(model.name, accelerator, str(constants.engine))
    slow: tuple[Number, ...] = slowness(model, accelerator, constants, known)
    if draft is not None:
        wider = slowness(model, accelerator, constants, known, unmeasured=True)
        slow = tuple(np.where(draft.tokens > 0, wide, plain) for wide, plain in zip(wider, slow, strict=True))
    return replicas(d, slow[0], slow[1], inherited)


def slowness(
    model: Transformer,
    accelerator: Accelerator,
    constants: Constants,
    calibration: Calibration | None = None,
    unmeasured: bool = False,
) -> tuple[float, float]:
    """(of TPOT, of TTFT): the pessimistic end of the 80 % interval over the prediction, for this model on this chip.

    unmeasured: a way to serve that hardly was measured, which is taken as an engine that never was. Prefill and decode apart
    were in seven runs (two chips, two models), too few for a width of their own; speculative decoding with a stated acceptance
    in none.
    """
    known = calibration or stored_calibration()
    names = (model.name, accelerator.name, UNMEASURED if unmeasured else str(constants.engine))
    token, first = (float(np.exp(known.half_width(regime, *names))) for regime in ("closed_tpot", "closed_ttft"))
    return token, first


def replicas(
    d: Deployment, slow_token: Number, slow_first: Number, inherited: tuple[str, ...] = (), prefill_time: Quantity | None = None
) -> Replica:
    """`replica` of a deployment, which may be on many kinds of chip at once: device, links and constants as arrays.

    slow_token, slow_first: see `slowness`; numbers, or arrays of them. Where the deployment has measured times, at least theirs.
    prefill_time: `prefill_alone(d)` where it is known already: it is the same at every batch.
    """
    if d.measured is not None:
        slow_token, slow_first = np.maximum(slow_token, d.measured.slow_token), np.maximum(slow_first, d.measured.slow_first)
    w, c, layouts, stages = d.work, d.constants, d.layouts, d.layouts.pipeline_parallel
    in_flight = np.maximum(layouts.batch / stages, 1.0)  # pipelined decode: each stage works on its own part of the batch
    weights, cache, kept = with_draft(d, weights_per_chip), with_draft(d, live_cache), reserve(d)
    needed = weights + np.maximum(cache * layouts.batch, with_draft(d, longest_cache)) + kept
    expected = expected_tokens(d)
    prompts = prompts_together(d, in_flight * expected)
    step = step_time(d, in_flight, prompts, 1 + drafted_tokens(d))
    decode_step = stages * step.decode + drafting_time(d, in_flight)
    disturbed = c.interference * np.maximum(in_flight - 1, 0.0) / w.output
    tpot = decode_step / expected + stages * disturbed * (step.increment + c.prefill_launch / prompts)
    prefill_time = prefill_alone(d) if prefill_time is None else prefill_time
    dispatch = c.first_token_fixed + stages * fixed_time(d)
    delay = dispatch + c.step_wait * decode_step
    first = delay + prefill_time
    decoded = np.maximum(np.asarray(w.output, float) - 1, 0.0)
    residence = first + decoded * tpot
    return Replica(
        layouts, weights, cache, kept, needed, d.device.memory, largest_batch(d), step.decode_pass, decode_step,
        prefill_time, delay, first, tpot, residence, dispatch, with_draft(d, prompt_cache),
        prefill_time * slow_first, delay * slow_first, first * slow_first,
        tpot * slow_token, first * slow_first + decoded * tpot * slow_token, inherited, expected,
    )  # fmt: skip


def prefill_alone(d: Deployment) -> Quantity:
    """Prefill of one prompt on an idle replica [s], of its draft too."""
    return with_draft(d, prompt_alone)


def prompt_alone(d: Deployment) -> Quantity:
    """Prefill of one prompt through all stages of an idle replica."""
    return d.layouts.pipeline_parallel * (prompt_time(d, 1.0) + d.constants.prefill_launch)


# ---------------------------------------------------------------- what a pool is made of: together, or prefill and decode apart


@dataclass(frozen=True, slots=True)
class Station:
    """One unit of a pool, as its queues see it; arrays over units.

    `servers` read prompts, each for `prefill_time` [s], after a `delay` [s] without queueing; `slots` decode, each held for
    `residence` [s] by a request, which gets a token every `tpot` [s].
    """

    prefill_time: Quantity
    delay: Quantity
    servers: Array
    slots: Array
    tpot: Quantity
    residence: Quantity


def together(replica: Replica, replicas: Number) -> Station:
    """A unit of `replicas` replicas that read prompts and decode."""
    x = replica.layouts
    servers, slots = replicas * x.pipeline_parallel, replicas * x.batch
    return Station(replica.prefill_time, replica.first_token_delay, servers, slots, replica.tpot, replica.residence)


def transfer_bandwidth(links: Links, device: Device, c: Constants, inside: Array) -> Quantity:
    """What one chip reaches to a chip of another replica [byte/s]: `inside` the machine as collectives do, else over the NIC.

    Of the NIC the same fraction is taken as of a scale-up link, 0.42: Qin et al. (2024) measured 0.48 of eight 400 Gbit/s
    links and 0.87 of four of 200 Gbit/s.
    """
    between = links.between.m_as("byte/s") * c.bus_bandwidth
    return Q(np.where(inside, bus_bandwidth(links, device, c).m_as("byte/s"), between), "byte/s")


def transfer_time(sent: Quantity, received: Quantity, senders: Number, receivers: Number, bandwidth: Quantity) -> Quantity:
    """Wall 14: a prompt's KV cache from the replica that read it to the one that decodes.

    max(sent, received max(1, senders / receivers)) / bandwidth

    sent, received [byte]: of one prompt, on one accelerator of either side, all of which send or receive at once, each over
    its own link of `bandwidth` [byte/s]; senders, receivers: replicas of either kind. Contention: every sender sends at the
    same moment, spread evenly over the receivers. Returns [s].
    Source: Zhong et al. (2024), DistServe; Patel et al. (2024), Splitwise; Qin et al. (2024), Mooncake.
    Leaves out: sending one layer while the next is read (Splitwise), which hides most of it.
    """
    return np.maximum(sent, received * np.maximum(senders / receivers, 1.0)) / bandwidth


def apart(
    prompt_time: Quantity,
    dispatch: Quantity,
    transfer: Quantity,
    step: Quantity,
    output: Number,
    servers: Array,
    slots: Array,
    slow_token: Number = 1.0,
    slow_first: Number = 1.0,
    tokens_per_step: Number = 1.0,
) -> Station:
    """A unit in which some replicas only read prompts and the others only decode: no prefill disturbs a decode step.

    service of a prompt = prompt_time + transfer;  delay = 2 dispatch + 2 step
    TPOT = step / tokens_per_step;  residence = transfer + step + output TPOT

    prompt_time [s]: prefill alone, of the prefill layout; its server is held until the cache has been sent, so that no link
    is booked twice. dispatch [s]: network stack and scheduler, passed once on either side. A sequence waits for the decode step
    in progress, at most one, and its first token comes with the next, from the decode side. step [s]: a decode step with every
    slot busy; servers, slots: of the unit; slow_token, slow_first: see `slowness`, 1 for the prediction itself.
    Both queues are M/M/c: departures of the first are Poisson too (Burke 1956).
    Source: Zhong et al. (2024), DistServe; Patel et al. (2024), Splitwise.
    """
    tpot = step / tokens_per_step
    return Station(
        slow_first * (prompt_time + transfer), slow_first * (2 * dispatch + 2 * step), servers, slots, slow_token * tpot,
        slow_first * transfer + slow_token * (step + output * tpot),
    )  # fmt: skip


def pools_apart(
    reader: Replica,
    decoder: Replica,
    readers: Number,
    replicas: Number,
    bandwidth: Quantity,
    output: Number,
    slow_token: Number = 1.0,
    slow_first: Number = 1.0,
) -> tuple[Station, Quantity]:
    """(the unit of so many `readers`, which only read prompts, and `replicas`, which only decode; hand-over of one prompt [s]).

    bandwidth [byte/s] of a chip to one of the other kind (`transfer_bandwidth`); the others as `apart`.
    """
    transfer = transfer_time(reader.prompt_cache, decoder.prompt_cache, readers, replicas, bandwidth)
    servers, slots = readers * reader.layouts.pipeline_parallel, replicas * decoder.layouts.batch
    unit = apart(
        reader.prefill_time, reader.dispatch, transfer, decoder.decode_step, output, servers, slots, slow_token, slow_first,
        decoder.tokens_per_step,
    )  # fmt: skip
    return unit, transfer


def prompts_kept(stages: Number) -> Number:
    """Prompts whose cache a replica that only reads keeps at once: in each stage one that is read and one that is sent."""
    return 2 * stages


def pool_rate(
    prefill_time: Quantity,
    delay: Quantity,
    prefill_servers: Array,
    slots: Array,
    residence: Quantity,
    targets: tuple[tuple[float, Quantity], ...],
    variability: float,
) -> Quantity:
    """The largest arrival rate [1/s] at which a pool meets every TTFT target.

    P(all slots busy) + P(delay + W + S > target) <= 1 - percentile, for each (percentile, target [s])

    prefill_time S: mean service of an M/M/c queue of `prefill_servers`; delay [s]: what passes before, without queueing
    (steps in progress, network stack); slots: sequences the pool decodes together, an M/M/slots queue with service
    `residence`; the sum bounds the probability that either makes a request late. `variability` is the squared coefficient of
    variation of the time between arrivals. Arrays over pools.
    Both parts grow with the rate, so the largest rate is found by cutting its bracket in nine, again and again, to 1e-12 of it
    (one look at eight rates costs hardly more than one at one); the lower end is returned, which meets the targets. Zero
    where even an idle pool misses a target.
    Source: Erlang (1917); Allen-Cunneen for the variability of arrivals.
    """
    high = np.minimum(prefill_servers / prefill_time.m_as("s"), slots / residence.m_as("s"))
    if not targets:  # nothing but stability: a hair below saturation
        return Q(high * (1 - 1e-12), "1/s")
    low = np.zeros_like(high)
    parts = np.arange(1, 9).reshape(8, *(1 for _ in high.shape)) / 9
    for _ in range(13):
        between = low + (high - low) * parts
        fine = in_time(Q(between, "1/s"), prefill_time, delay, prefill_servers, slots, residence, targets, variability)
        met = np.logical_and.accumulate(fine).sum(axis=0)
        ends = np.concatenate([low[None], between, high[None]])
        low, high = (np.take_along_axis(ends, (met + up)[None], axis=0)[0] for up in (0, 1))
    return Q(np.where(low < 1e-9 * (high + 1e-12), 0.0, low), "1/s")


def in_time(
    rate: Quantity,
    prefill_time: Quantity,
    delay: Quantity,
    prefill_servers: Array,
    slots: Array,
    residence: Quantity,
    targets: tuple[tuple[float, Quantity], ...],
    variability: float,
) -> Array:
    """Whether a pool meets every TTFT target at an arrival rate; arguments as `pool_rate`."""
    late = late_share(rate, prefill_time, delay, prefill_servers, slots, residence, targets, variability)
    return np.all([share <= 1 - percentile for share, (percentile, _) in zip(late, targets, strict=True)], axis=0)


def late_share(
    rate: Quantity,
    prefill_time: Quantity,
    delay: Quantity,
    prefill_servers: Array,
    slots: Array,
    residence: Quantity,
    targets: tuple[tuple[float, Quantity], ...],
    variability: float,
) -> list[Array]:
    """Share of requests whose first token comes later than each target, at most; arguments as `pool_rate`."""
    blocked = blocked_share(rate, slots, residence, variability)
    return [
        np.minimum(blocked + _late_prefill(rate, prefill_time, prefill_servers, target - delay, variability), 1.0)
        for _, target in targets
    ]


def _late_prefill(rate: Quantity, prefill_time: Quantity, servers: Array, left: Quantity, variability: float) -> Array:
    """Share of requests whose prefill is not done when the time `left` after the delay is over: all, where nothing is left."""
    seconds = left.m_as("s")
    within = node.sojourn_tail(rate, prefill_time, servers, Q(np.maximum(seconds, 0.0), "s"), variability, 1.0)
    return np.where(seconds > 0, within, 1.0)


def first_token_quantile(
    rate: Quantity,
    prefill_time: Quantity,
    delay: Quantity,
    prefill_servers: Array,
    slots: Array,
    residence: Quantity,
    percentile: float,
    variability: float,
) -> Quantity:
    """The TTFT [s] that a share `percentile` of requests does not exceed, at most; infinite where it cannot be said.

    Requests that find no slot count as late: the quantile is taken at percentile + P(all slots busy). Arguments as `pool_rate`.
    """
    share = percentile + blocked_share(rate, slots, residence, variability)
    service = node.sojourn_quantile(rate, prefill_time, prefill_servers, np.minimum(share, 1 - 1e-12), variability, 1.0)
    return delay + Q(np.where(share < 1, service.m_as("s"), np.inf), "s")


def sequences_in_flight(
    batches: Array, residence: Quantity, rate: Quantity, replicas: float, percentile: float, variability: float
) -> float:
    """Sequences that a replica decodes at once, at a percentile of time; at most the largest of `batches`.

    mean b: the smallest batch that leaves as fast as requests arrive, replicas b / R(b) >= rate (Little 1961)
    percentile: b + z_p sqrt(b z / replicas), z = (1 + variability) / 2

    batches: ascending, of one replica; residence R [s] at each; rate [1/s] of `replicas` replicas together, which a balancer
    keeps equally full; variability: squared coefficient of variation of the time between arrivals. z is the peakedness of
    an infinite-server group (Eckberg 1983; Whitt 1984), z_p the normal quantile. Dimensionless.
    Leaves out: that a request sees many moments, which evens out, and that no balancer is perfect, which does not. TPOT of so
    many sequences is within 1 % of a simulation at p50 and 2 % above to 12 % below at p99 (tests/models/test_serving.py).
    """
    leaves = replicas * batches / residence.m_as("s")
    enough = np.flatnonzero(leaves >= rate.m_as("1/s"))
    mean = float(batches[enough[0]] if len(enough) else batches[-1])
    spread = float(np.sqrt(mean * (1 + variability) / 2 / replicas))
    return float(np.clip(mean + NormalDist().inv_cdf(percentile) * spread, batches[0], batches[-1]))


def tpot_percentiles(
    station: Station, batches: Array, rate: Quantity, replicas: float, shares: Sequence[float], variability: float
) -> list[Quantity]:
    """TPOT [s] at percentiles of time: of as many sequences as are then in flight.

    station: a unit at each of `batches`, ascending, of one replica; the others as `sequences_in_flight`.
    """
    tpot, residence = (np.broadcast_to(t.m_as("s"), batches.shape) for t in (station.tpot, station.residence))
    busy = (sequences_in_flight(batches, Q(residence, "s"), rate, replicas, share, variability) for share in shares)
    return [Q(float(np.interp(sequences, batches, tpot)), "s") for sequences in busy]


def blocked_share(rate: Quantity, slots: Array, residence: Quantity, variability: float) -> Array:
    """Share of requests that find every slot of the pool taken; arguments as `pool_rate`."""
    return np.asarray(node.wait_tail(rate, residence, slots, Q(0.0, "s"), variability, 1.0))
