"""Walls 1 to 7: what one accelerator, or one replica of a few, can do.

1 compute, 2 memory, 3 software, 4 serving, 5 batching, 6 streaming, 7 tail latency. Each wall is its equation first,
then its refinements. Counts (layers, heads, sequences, parameters, servers) are bare numbers; tokens, operations and
bytes carry their units. Every argument may be an array; arrays broadcast.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zoo.specs import Transformer
from zoo.units import Q, Quantity

from .dimensions import Number, dimensions, known, require

# ------------------------------------------------------------------------------------------------ wall 1: compute


@dimensions("s", operations="flop", peak="flop/s", efficiency="")
def compute_time(operations: Quantity, peak: Quantity, efficiency: Number) -> Quantity:
    """Time to execute `operations` at a fraction of the peak rate.

    T = OPs / (Peak x eta)

    operations [FLOP], peak [FLOP/s] at the precision that the kernels really use, efficiency in (0, 1]. Returns [s].
    Source: Williams, Waterman, Patterson (2009), Roofline.
    Leaves out: launch and framework overhead (see `soft_roofline`), and that eta depends on shape (`gemm_efficiency`).
    """
    require((efficiency > 0) & (efficiency <= 1), "efficiency is a fraction of the peak in (0, 1], not {}", efficiency)
    return operations / (peak * efficiency)


# ------------------------------------------------------------------------------------------------- wall 2: memory


@dimensions("s", traffic="byte", bandwidth="byte/s", efficiency="")
def memory_time(traffic: Quantity, bandwidth: Quantity, efficiency: Number) -> Quantity:
    """Time to move `traffic` between memory and the compute units.

    T = traffic / (BW x eta); with traffic = |W| and eta = 1 this is the wall's T = |W| / BW

    traffic [byte], bandwidth [byte/s], efficiency in (0, 1] (the best measured fraction is about 0.9). Returns [s].
    Source: Williams, Waterman, Patterson (2009).
    Leaves out: reuse in caches; the caller counts the bytes that really move.
    """
    require((efficiency > 0) & (efficiency <= 1), "efficiency is a fraction of the bandwidth in (0, 1], not {}", efficiency)
    return traffic / (bandwidth * efficiency)


@dimensions("byte", parameters="", bytes_per_element="byte")
def weight_bytes(parameters: Number, bytes_per_element: Quantity) -> Quantity:
    """Size of weights: |W| = P x b. parameters is a count, bytes_per_element [byte] includes scales. Returns [byte]."""
    return parameters * bytes_per_element


@dimensions("flop/byte", operations="flop", traffic="byte")
def intensity(operations: Quantity, traffic: Quantity) -> Quantity:
    """Arithmetic intensity I = OPs / bytes moved [FLOP/byte] of a workload (Williams et al. 2009)."""
    return operations / traffic


@dimensions("flop/byte", peak="flop/s", bandwidth="byte/s")
def ridge_point(peak: Quantity, bandwidth: Quantity) -> Quantity:
    """The intensity [FLOP/byte] above which a chip is compute-bound: Peak / BW (Williams et al. 2009)."""
    return peak / bandwidth


@dimensions("s", compute_time="s", memory_time="s", exponent="", launch="s")
def soft_roofline(compute_time: Quantity, memory_time: Quantity, exponent: Number, launch: Quantity) -> Quantity:
    """Time of a kernel or step whose compute and memory phases overlap, but not perfectly.

    T = t0 + (Tc^p + Tm^p)^(1/p)

    compute_time, memory_time [s]; exponent p >= 1, dimensionless: infinity is the ideal roofline max(Tc, Tm), 1 is no
    overlap at all; launch t0 [s], the fixed cost. Returns [s], never below max(Tc, Tm) + t0.
    Source: Williams et al. (2009) for the ideal form; the p-norm is a fit to measured kernels (p about 2 to 8).
    Assumes: both phases are spread over the whole step.
    """
    require(exponent >= 1, "the overlap exponent is at least 1, not {}", exponent)
    compute, memory = np.asarray(compute_time.m_as("s")), np.asarray(memory_time.m_as("s"))
    longer, shorter = np.maximum(compute, memory), np.minimum(compute, memory)
    ratio = np.divide(shorter, longer, out=np.zeros(np.broadcast(shorter, longer).shape), where=longer > 0)
    return launch + Q(longer * (1 + ratio**exponent) ** (1 / np.asarray(exponent)), "s")


@dimensions(
    "byte", parameters="", weight_bytes="byte", gradient_bytes="byte", optimizer_bytes="byte", ranks="", stage=""
)  # fmt: skip
def training_state_bytes(
    parameters: Number,
    weight_bytes: Quantity,
    gradient_bytes: Quantity,
    optimizer_bytes: Quantity,
    ranks: Number,
    stage: Number,
) -> Quantity:
    """Weights, gradients and optimiser state that one of `ranks` data-parallel accelerators keeps.

    P (b_w [/ N from stage 3] + b_g [/ N from stage 2] + b_o [/ N from stage 1])

    parameters P: the count that the rank holds without this sharing (after tensor, pipeline and expert parallelism);
    weight_bytes, gradient_bytes, optimizer_bytes [byte] per parameter; ranks N: count; stage: 0 to 3 of ZeRO. Returns [byte].
    Source: Rajbhandari et al. (2020), ZeRO. Leaves out: the layer that stage 3 has gathered, buffers, activations.
    """
    require((np.asarray(stage) >= 0) & (np.asarray(stage) <= 3), "ZeRO has the stages 0 to 3, not {}", stage)
    require(np.asarray(ranks) >= 1, "there is at least one data-parallel rank, not {}", ranks)

    def shared_from(first: int) -> Any:
        return np.where(np.asarray(stage) >= first, 1 / np.asarray(ranks), 1.0)

    each = weight_bytes * shared_from(3) + gradient_bytes * shared_from(2) + optimizer_bytes * shared_from(1)
    return parameters * each


@dimensions("byte", tokens="token", hidden="", tensor_parallel="", recompute="")
def activation_bytes(tokens: Quantity, hidden: Number, tensor_parallel: Number, recompute: Number) -> Quantity:
    """Activations that one layer keeps of a microbatch until its backward pass.

    n h (10 + 24 / t) bytes; with full recomputation only the layer's input, 2 n h bytes

    tokens n [token] of the microbatch; hidden h, tensor_parallel t: counts; recompute: 1 keeps the input alone, 0 everything
    but attention scores. Returns [byte]. Source: Korthikanti et al. (2022), equations 2 and 4; FlashAttention keeps no scores.
    Assumes 16-bit activations, an MLP of four times the hidden size, no sequence parallelism.
    """
    kept = np.where(np.asarray(recompute) > 0, 2.0, 10.0 + 24.0 / np.asarray(tensor_parallel))
    return Q(tokens.m_as("token") * hidden * kept, "byte")


# ----------------------------------------------------------------------------------------------- wall 3: software


@dimensions("", kernel="", fusion="", occupancy="")
def product_efficiency(kernel: Number, fusion: Number, occupancy: Number) -> Number:
    """Achieved fraction of the peak as a product: eta = kernel x fusion x occupancy, each a fraction in [0, 1].

    kernel: of the peak while matrix units run; fusion: of the time that is not lost to memory-bound element-wise
    kernels; occupancy: of the processors that have work. Returns a fraction.
    Source: the decomposition of Chowdhery et al. (2022), PaLM, appendix B. Assumes the three losses are independent.
    """
    for name, value in (("kernel", kernel), ("fusion", fusion), ("occupancy", occupancy)):
        require((value >= 0) & (value <= 1), "{} is a fraction, not {}", name, value)
    return kernel * fusion * occupancy


@dimensions("", operations="flop", time="s", peak="flop/s")
def model_flops_utilisation(operations: Quantity, time: Quantity, peak: Quantity) -> Number:
    """MFU: the model's own operations (no recomputation) over what the peak could do in the same time; a fraction.

    Source: Chowdhery et al. (2022). Above 1 the inputs contradict each other; the figure is returned as it is, not clamped.
    """
    return operations / (time * peak)


@dimensions("flop", rows="", inner="", columns="")
def gemm_operations(rows: Number, inner: Number, columns: Number) -> Quantity:
    """Operations of a (rows x inner) by (inner x columns) product: 2 m k n [FLOP], a multiply-add counted as two."""
    return Q(2 * rows * inner * columns, "flop")


@dimensions("byte", rows="", inner="", columns="", activation_bytes="byte", weight_bytes="byte")
def gemm_traffic(rows: Number, inner: Number, columns: Number, activation_bytes: Quantity, weight_bytes: Quantity) -> Quantity:
    """Least bytes that a matrix product moves: (m k + m n) b_activation + k n b_weight [byte], each operand once.

    activation_bytes, weight_bytes [byte] per element. Assumes that tiles are reused perfectly from on-chip memory.
    """
    return (rows * inner + rows * columns) * activation_bytes + inner * columns * weight_bytes


@dimensions(
    "", rows="", inner="", columns="", activation_bytes="byte", weight_bytes="byte", peak="flop/s", bandwidth="byte/s",
    compute_efficiency="", memory_efficiency="", exponent="", launch="s",
)  # fmt: skip
def gemm_efficiency(
    rows: Number,
    inner: Number,
    columns: Number,
    activation_bytes: Quantity,
    weight_bytes: Quantity,
    peak: Quantity,
    bandwidth: Quantity,
    compute_efficiency: Number,
    memory_efficiency: Number,
    exponent: Number,
    launch: Quantity,
) -> Number:
    """Fraction of the peak that a matrix product of this shape reaches on this chip: eta = f(kernel, shape, chip).

    eta = [2mkn / Peak] / soft_roofline(compute_time, memory_time, p, t0)

    rows m (tokens in the step), inner k, columns n: counts; activation_bytes, weight_bytes [byte] per element;
    peak [FLOP/s]; bandwidth [byte/s]; compute_efficiency, memory_efficiency, exponent p, launch t0 [s]: the four
    constants fitted per chip and kernel family. Returns a fraction: small for few rows (memory-bound), rising to
    compute_efficiency. Source: roofline with constants fitted to measured kernels.
    Leaves out: tile and wave quantisation (`tile_efficiency`).
    """
    operations = gemm_operations(rows, inner, columns)
    traffic = gemm_traffic(rows, inner, columns, activation_bytes, weight_bytes)
    compute = compute_time(operations, peak, compute_efficiency)
    memory = memory_time(traffic, bandwidth, memory_efficiency)
    return model_flops_utilisation(operations, soft_roofline(compute, memory, exponent, launch), peak)


@dimensions("", rows="", columns="", tile_rows="", tile_columns="", processors="")
def tile_efficiency(rows: Number, columns: Number, tile_rows: Number, tile_columns: Number, processors: Number) -> Number:
    """Fraction of the work that is useful when a product is cut into whole tiles and whole waves of processors.

    eta = (m n / (t_m t_n)) / (ceil(tiles / processors) x processors), tiles = ceil(m / t_m) ceil(n / t_n)

    All arguments are counts; returns a fraction in (0, 1]. Source: NVIDIA, Matrix Multiplication Background User's Guide
    (tile and wave quantisation). Assumes one tile per processor at a time.
    """
    tiles = np.ceil(rows / tile_rows) * np.ceil(columns / tile_columns)
    return rows * columns / (tile_rows * tile_columns) / (np.ceil(tiles / processors) * processors)


# ------------------------------------------------------------------------------------------------ wall 4: serving


def lookup_parameters(model: Transformer) -> float:
    """Parameters that are read by row and never multiplied: the input embedding table, where it is a table of its own.

    A tied table is the output head as well and is multiplied. Makers of mixture-of-experts models disagree whether
    their active count contains the table, so there nothing is subtracted (which overstates their work by 1 to 9 %).
    """
    return 0.0 if model.tie_embeddings or model.experts else float(model.vocab * model.hidden)


@dimensions("", experts="", top_k="", tokens="token")
def distinct_experts(experts: Number, top_k: Number, tokens: Quantity) -> Number:
    """Expected number of different experts that a batch of tokens touches in one layer.

    E (1 - (1 - k/E)^n)

    experts E, top_k k: counts; tokens n [token] that pass the layer together. Returns a count between k (one token) and E.
    Assumes tokens choose independently and uniformly. Skewed routing touches fewer experts but loads one more heavily.
    """
    require((top_k >= 0) & (top_k <= experts), "top_k {} must lie between 0 and the number of experts {}", top_k, experts)
    with np.errstate(divide="ignore"):
        return -experts * np.expm1(tokens.m_as("token") * np.log1p(-top_k / experts))


def routed_parameters(model: Transformer) -> float:
    """Parameters in routed experts, over all layers; 0 for a dense model.

    E (P - P_active) / (E - k): what all but the chosen experts hold is P - P_active

    Assumes the published totals, so an expert may have any shape. Shared experts are active always and not counted here.
    """
    if not model.experts or model.experts == model.top_k:
        return 0.0
    return model.experts * (model.parameters - model.active_parameters) / (model.experts - model.top_k)


@dimensions("", tokens="token")
def touched_parameters(model: Transformer, tokens: Quantity) -> Number:
    """Parameters whose weights are read when `tokens` pass through the model together.

    P_active + routed (d - k) / E, with d = distinct_experts: P_active for one token, all P for very many

    tokens [token]. Returns a count. A dense model reads all its weights but the input embedding table.
    Assumes the published totals: routed_parameters / E is what one expert holds over all layers, whatever its shape.
    """
    if not model.experts:
        return model.parameters - lookup_parameters(model) + 0 * tokens.m_as("token")
    beyond = distinct_experts(model.experts, model.top_k, tokens) - model.top_k
    return model.active_parameters + routed_parameters(model) / model.experts * beyond


def _attended_pairs(first: Any, last: Any, window: Any) -> Any:
    """Query-key pairs of causal attention for the tokens after position `first` up to `last`, at most `window` keys each."""

    def up_to(position: Any) -> Any:
        ramp = np.minimum(position, window)
        return ramp * (ramp + 1) / 2 + (position - ramp) * window

    return up_to(last) - up_to(first)


def _layer_kinds(model: Transformer) -> tuple[int, int, float]:
    """(layers with full attention, layers with a sliding window, the window in tokens)."""
    if not model.kv_layers and not model.state_layers:
        known(None, f"which layers of {model.name} keep a cache or a state (kv_layers, state_layers)")
    if model.sliding_layers:
        return model.kv_layers - model.sliding_layers, model.sliding_layers, float(known(model.sliding_window, "sliding_window"))
    return model.kv_layers, 0, math.inf


def _operations_per_pair(model: Transformer, absorbed: bool) -> float:
    """Operations of one layer for one query-key pair: scores and weighted values of all heads, a multiply-add as two.

    MLA expands its latent in prefill (heads of qk_nope + qk_rope and v) and works on the latent itself in decode.
    """
    if model.attention != "MLA":
        return 4.0 * model.heads * model.head_dim
    rope = known(model.qk_rope_dim, "qk_rope_dim")
    if absorbed:
        latent = known(model.kv_lora_rank, "kv_lora_rank")
        return 2.0 * model.heads * (2 * latent + rope)
    return 2.0 * model.heads * (known(model.qk_nope_dim, "qk_nope_dim") + rope + known(model.v_head_dim, "v_head_dim"))


def _sequence_operations(model: Transformer, before: Any, after: Any, absorbed: bool) -> Any:
    """Attention and state operations for the tokens after position `before` up to `after` of one sequence."""
    full, sliding, window = _layer_kinds(model)
    pairs = full * _attended_pairs(before, after, after) if full else 0.0
    if sliding:
        pairs = pairs + sliding * _attended_pairs(before, after, window)
    # a state is decayed, gets the new token's outer product (3 operations an element), and is read (2)
    return _operations_per_pair(model, absorbed) * pairs + 5.0 * model.state_layers * model.state_elements * (after - before)


@dimensions("flop", tokens="token", context="token")
def attention_operations(model: Transformer, tokens: Quantity, context: Quantity) -> Quantity:
    """Operations of attention and of constant states alone, for `tokens` new tokens after `context` cached ones of one prompt.

    (per full-attention layer) 4 heads head_dim (n c + n (n + 1) / 2): causal; at most a window of pairs where layers slide.

    tokens n, context c [token]. Returns [FLOP]. The part of `prefill_operations` that grows with the square of the prompt.
    """
    new, before = tokens.m_as("token"), context.m_as("token")
    require((new >= 0) & (before >= 0), "tokens and context cannot be negative")
    return Q(_sequence_operations(model, before, before + new, absorbed=False), "flop")


@dimensions("flop", tokens="token", context="token")
def prefill_operations(model: Transformer, tokens: Quantity, context: Quantity) -> Quantity:
    """Operations to read `tokens` new tokens of one prompt, of which `context` earlier ones are cached already.

    2 P_matmul n + (per full-attention layer) 4 heads head_dim (n c + n (n + 1) / 2)

    tokens n, context c [token]. P_matmul is P_active without the input embedding table (a lookup) and, for all tokens
    but the last, without the output head (only the last token's logits are computed). The pairs are causal: half of
    n^2, plus the cached prefix; at most a window of them in sliding-window layers. MLA attends with qk_nope + qk_rope
    and v dimensions. Returns [FLOP] for one sequence; multiply by the number of sequences.
    Source: Kaplan et al. (2020) 2P per token; Pope et al. (2023) for the phases.
    Leaves out: norms, activations and router (below 1 %), expansion of a cached MLA prefix.
    """
    attention = attention_operations(model, tokens, context)
    new = tokens.m_as("token")
    head = float(model.vocab * model.hidden)
    body = model.active_parameters - lookup_parameters(model) - head
    return Q(2.0 * body * new + 2.0 * head * np.minimum(new, 1.0), "flop") + attention


@dimensions("flop", context="token")
def decode_attention_operations(model: Transformer, context: Quantity) -> Quantity:
    """Operations of attention and of constant states for one new token of one sequence: the part of a decode step that grows
    with its `context` [token], itself included. Returns [FLOP]. As in `decode_operations`."""
    reach = context.m_as("token")
    return Q(_sequence_operations(model, reach - 1.0, reach, absorbed=True), "flop")


@dimensions("flop", batch="", context="token")
def decode_operations(model: Transformer, batch: Number, context: Quantity) -> Quantity:
    """Operations of one decode step: one new token for each of `batch` sequences.

    B (2 P_matmul + (per full-attention layer) 4 heads head_dim c)

    batch B: sequences; context c [token]: how many tokens each new token attends to, itself included (the mean, if
    sequences differ). MLA attends in its latent space (absorbed). Returns [FLOP].
    Source: Pope et al. (2023). Leaves out: norms, activations, sampling.
    """
    matmul = Q(2.0 * (model.active_parameters - lookup_parameters(model)), "flop")
    return batch * (matmul + decode_attention_operations(model, context))


@dimensions("byte", batch="", context="token", weight_bytes_per_element="byte", kv_bytes_per_element="byte")
def decode_traffic(
    model: Transformer, batch: Number, context: Quantity, weight_bytes_per_element: Quantity, kv_bytes_per_element: Quantity
) -> Quantity:
    """Bytes that one decode step moves: the weights really touched, each once, and every sequence's cache.

    touched_parameters(B) b_w + B KV(c) b_kv

    batch B: sequences; context c [token] that each new token attends to; bytes per element [byte]. Returns [byte].
    Source: Pope et al. (2023). Constant states are read and written. Leaves out: activations (below 1 % at any useful batch).
    """
    weights = weight_bytes(touched_parameters(model, Q(batch, "token")), weight_bytes_per_element)
    return weights + batch * _cache_read(model, context, kv_bytes_per_element)


@dimensions(
    "byte", batch="", tokens="token", context="token", weight_bytes_per_element="byte", kv_bytes_per_element="byte"
)  # fmt: skip
def prefill_traffic(
    model: Transformer,
    batch: Number,
    tokens: Quantity,
    context: Quantity,
    weight_bytes_per_element: Quantity,
    kv_bytes_per_element: Quantity,
) -> Quantity:
    """Bytes that reading `tokens` new tokens of each of `batch` prompts moves: weights once, cached prefix in, new cache out.

    touched_parameters(B n) b_w + B KV(c + n) b_kv

    batch B: sequences; tokens n, context c [token]; bytes per element [byte]. Returns [byte].
    Assumes attention keeps its tiles on chip (FlashAttention), so that the cache is passed once; leaves out activations.
    """
    weights = weight_bytes(touched_parameters(model, batch * tokens), weight_bytes_per_element)
    return weights + batch * _cache_read(model, context + tokens, kv_bytes_per_element)


def _cache_read(model: Transformer, context: Quantity, bytes_per_element: Quantity) -> Quantity:
    """Bytes of cache that one sequence's step passes over; constant states are read and written back."""
    states = model.state_layers * model.state_elements * bytes_per_element
    return kv_bytes_per_sequence(model, context, bytes_per_element, Q(1.0, "token")) + states


# ----------------------------------------------------------------------------------------------- wall 5: batching


@dimensions(
    "byte", layers="", kv_heads="", head_dim="", tokens="token", batch="", bytes_per_element="byte", page="token"
)  # fmt: skip
def kv_cache_bytes(
    layers: Number,
    kv_heads: Number,
    head_dim: Number,
    tokens: Quantity,
    batch: Number,
    bytes_per_element: Quantity,
    page: Quantity,
) -> Quantity:
    """Key-value cache of a batch, in whole pages.

    KV = 2 L H D ceil(S / p) p B b

    layers L, kv_heads H, head_dim D, batch B: counts; tokens S [token] per sequence; bytes_per_element b [byte];
    page p [token] (1: no fragmentation). Returns [byte].
    Source: Kwon et al. (2023), PagedAttention. `kv_bytes_per_sequence` covers MLA, sliding windows and constant states.
    """
    return 2 * layers * kv_heads * head_dim * _whole_pages(tokens, page) * batch * bytes_per_element


def _whole_pages(tokens: Quantity, page: Quantity) -> Any:
    size = page.m_as("token")
    require(size > 0, "a page holds at least one token, not {}", size)
    return np.ceil(tokens.m_as("token") / size) * size


def kv_elements_per_token(model: Transformer) -> float:
    """Elements that one layer caches for one token: 2 x KV heads x head_dim, or the latent and the rotary key of MLA."""
    if model.attention == "MLA":
        return float(known(model.kv_lora_rank, "kv_lora_rank") + known(model.qk_rope_dim, "qk_rope_dim"))
    return 2.0 * model.kv_heads * model.head_dim


@dimensions("byte/token", bytes_per_element="byte")
def kv_bytes_per_token(model: Transformer, bytes_per_element: Quantity) -> Quantity:
    """Cache that one more token of a sequence adds, below any sliding window [byte/token].

    GQA, MHA, MQA: 2 L H D b; MLA: L (kv_lora_rank + qk_rope_dim) b; layers of constant state add nothing.

    bytes_per_element b [byte] of the cache. Source: Kwon et al. (2023); DeepSeek-AI (2024) for MLA.
    """
    full, sliding, _ = _layer_kinds(model)
    return (full + sliding) * kv_elements_per_token(model) * bytes_per_element / Q(1.0, "token")


@dimensions("byte", tokens="token", bytes_per_element="byte", page="token")
def kv_bytes_per_sequence(model: Transformer, tokens: Quantity, bytes_per_element: Quantity, page: Quantity) -> Quantity:
    """Cache of one sequence of `tokens` tokens, in whole pages, by the kind of each layer.

    full layers: ceil(S/p) p tokens; sliding layers: at most the window, which touches up to ceil((w-1)/p) + 1 pages;
    constant-state layers: `state_elements` whatever the length. MLA caches one latent instead of keys and values.

    tokens S, page p [token]; bytes_per_element b [byte] of the cache, taken for states too. Returns [byte].
    Source: Kwon et al. (2023). Assumes pages outside the window are freed, and no prefix is shared between sequences.
    """
    full, sliding, window = _layer_kinds(model)
    paged, size = _whole_pages(tokens, page), page.m_as("token")
    entries = full * paged
    if sliding:
        entries = entries + sliding * np.minimum(paged, (np.ceil((window - 1) / size) + 1) * size)
    elements = kv_elements_per_token(model) * entries if model.kv_layers else 0.0 * paged
    return (elements + model.state_layers * model.state_elements) * bytes_per_element


@dimensions("", memory_free="byte", bytes_per_sequence="byte")
def largest_batch(memory_free: Quantity, bytes_per_sequence: Quantity) -> Number:
    """The most sequences whose cache fits: floor(memory_free / bytes_per_sequence), exact, and 0 where nothing is free.

    memory_free [byte] left beside weights and workspace; bytes_per_sequence [byte] at the length to be guaranteed.
    Returns a whole number. The floor is corrected for rounding, so that batch x bytes <= memory_free always holds.
    """
    free, each = memory_free.m_as("byte"), bytes_per_sequence.m_as("byte")
    require(each > 0, "a sequence needs memory: bytes_per_sequence must be positive")
    batch = np.floor(free / each)
    batch = np.where((batch + 1) * each <= free, batch + 1, np.where(batch * each > free, batch - 1, batch))
    return np.maximum(batch, 0.0)


# ---------------------------------------------------------------------------------------------- wall 6: streaming


@dimensions("s", layers="", inject_time="s", compute_time="s")
def streaming_time(layers: Number, inject_time: Quantity, compute_time: Quantity) -> Quantity:
    """Time of one pass when each layer's weights are streamed in while the layer before computes.

    T = L max(T_inject, T_compute)

    layers L: count; inject_time, compute_time [s] of one layer. Returns [s] in steady state, pass after pass.
    Source: Cerebras (2024), weight streaming. Assumes equal layers and double buffering.
    Leaves out: filling and draining, which `streaming_latency` adds.
    """
    return np.maximum(inject_time, compute_time) * layers  # type: ignore[return-value]


@dimensions("s", layers="", inject_time="s", compute_time="s")
def streaming_latency(layers: Number, inject_time: Quantity, compute_time: Quantity) -> Quantity:
    """Time of a single streamed pass from rest: T_inject + (L - 1) max(T_inject, T_compute) + T_compute [s].

    layers L: count; inject_time, compute_time [s] of one layer. Fill and drain are what `streaming_time` leaves out.
    """
    return inject_time + streaming_time(layers - 1, inject_time, compute_time) + compute_time


@dimensions("", inject_time="s", compute_time_per_sequence="s")
def streaming_batch(inject_time: Quantity, compute_time_per_sequence: Quantity) -> Number:
    """The batch B* at which computing a layer takes as long as streaming it in: T_inject / T_compute(one sequence); a count."""
    return inject_time / compute_time_per_sequence


# ------------------------------------------------------------------------------------------- wall 7: tail latency


@dimensions("", servers="", offered_load="")
def erlang_b(servers: Number, offered_load: Number) -> Number:
    """Probability that all of c servers are busy when those who find them busy leave (the Erlang loss formula).

    B(c, a) = (a^c / c!) / sum_k<=c a^k / k!  =  a Poisson(a) variable's P(X = c) / P(X <= c)

    servers c >= 0 (whole or not: the gamma function extends it), offered_load a = lambda / mu >= 0. Returns a probability.
    Source: Erlang (1917). Computed from logarithms and the incomplete gamma function, exact for thousands of servers.
    """
    return _erlang_b(servers, offered_load)


def _erlang_b(servers: Number, offered_load: Number) -> Any:
    """`erlang_b` of bare numbers: queues ask for it thousands of times."""
    from scipy import special

    require((servers >= 0) & (offered_load >= 0), "servers and offered load cannot be negative")
    count, load = np.broadcast_arrays(np.asarray(servers, float), np.asarray(offered_load, float))
    below = special.gammaincc(count + 1, load)  # P(X <= c)
    overloaded = below < 1e-280
    with np.errstate(divide="ignore"):
        exact = np.exp(special.xlogy(count, load) - load - special.gammaln(count + 1) - np.log(below))
    if not overloaded.any():  # the recurrence is slow, and hardly ever needed
        return exact
    return np.where(overloaded, _overloaded_loss(count, np.where(overloaded, load, np.inf)), exact)


def _overloaded_loss(count: Any, load: Any) -> Any:
    """erlang_b far above saturation, where P(X <= c) underflows: backward recurrence 1/B(c) = 1 + (c/a) / B(c-1).

    Unrolled it is 1 + c/a + c(c-1)/a^2 + ...; 400 terms suffice as each shrinks by c/a < 1 when a exceeds c by 37 deviations.
    """
    term = inverse = np.ones_like(load)
    for step in range(400):
        term = term * np.maximum(count - step, 0.0) / load
        inverse = inverse + term
    return 1 / inverse


@dimensions("", servers="", offered_load="")
def erlang_c(servers: Number, offered_load: Number) -> Number:
    """Probability that an arrival must wait in an M/M/c queue.

    C = c B / (c - a (1 - B)), B = erlang_b(c, a); 1 when a >= c (everybody waits for ever)

    servers c, offered_load a = lambda / mu: bare numbers. Returns a probability. Source: Erlang (1917).
    """
    return _erlang_c(servers, offered_load)


def _erlang_c(servers: Number, offered_load: Number) -> Any:
    """`erlang_c` of bare numbers."""
    loss = _erlang_b(servers, offered_load)
    with np.errstate(divide="ignore", invalid="ignore"):
        waiting = np.divide(servers * loss, servers - offered_load * (1 - loss))
    return np.where(np.asarray(offered_load) < servers, waiting, 1.0)


def _queue(arrival_rate: Quantity, service_time: Quantity, servers: Number, ca2: Number, cs2: Number) -> tuple[Any, Any, Any]:
    """(probability of waiting, rate at which a wait ends, rate of service), bare, per second; a drain rate <= 0 is unstable."""
    require((ca2 >= 0) & (cs2 >= 0), "squared coefficients of variation cannot be negative")
    arrivals, service = arrival_rate.m_as("1/s"), 1 / np.asarray(service_time.m_as("s"))
    variability = (np.asarray(ca2) + cs2) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        drain = np.where(variability > 0, (servers * service - arrivals) / variability, np.inf)
    stable = arrivals < servers * service
    return _erlang_c(servers, arrivals / service), np.where(stable, drain, -1.0), service


@dimensions("", arrival_rate="1/s", service_time="s", servers="", time="s", ca2="", cs2="")
def wait_tail(
    arrival_rate: Quantity, service_time: Quantity, servers: Number, time: Quantity, ca2: Number = 1.0, cs2: Number = 1.0
) -> Number:
    """P(W > t): the share of requests that wait longer than `time` for a free server.

    C e^(-theta t), theta = (c mu - lambda) / ((ca2 + cs2) / 2); 1 when the queue is unstable

    arrival_rate lambda [1/s]; service_time 1/mu [s], the mean; servers c; time t [s]; ca2, cs2: squared coefficients of
    variation of the time between arrivals and of service (1 is exponential). Returns a probability.
    Source: Erlang (1917), exact for M/M/c; Allen (1990) and Cunneen scale the mean wait by (ca2 + cs2) / 2, which is
    applied here to the whole wait: exact in heavy traffic (Kingman 1962), an approximation elsewhere.
    """
    waiting, drain, _ = _queue(arrival_rate, service_time, servers, ca2, cs2)
    elapsed = time.m_as("s")
    with np.errstate(invalid="ignore"):
        return np.where(drain < 0, 1.0, waiting * np.exp(-np.where(elapsed > 0, np.abs(drain) * elapsed, 0.0)))


@dimensions("s", arrival_rate="1/s", service_time="s", servers="", ca2="", cs2="")
def mean_wait(
    arrival_rate: Quantity, service_time: Quantity, servers: Number, ca2: Number = 1.0, cs2: Number = 1.0
) -> Quantity:  # fmt: skip
    """The mean wait for a free server: C / theta, infinite when the queue is unstable.

    Arguments and source as `wait_tail`, whose integral this is. Returns [s].
    """
    waiting, drain, _ = _queue(arrival_rate, service_time, servers, ca2, cs2)
    return Q(np.where(drain < 0, np.inf, waiting / drain), "s")


@dimensions("s", arrival_rate="1/s", service_time="s", servers="", probability="", ca2="", cs2="")
def wait_quantile(
    arrival_rate: Quantity, service_time: Quantity, servers: Number, probability: Number, ca2: Number = 1.0, cs2: Number = 1.0
) -> Quantity:
    """The wait that a share `probability` of requests does not exceed (0.99: P99 of the wait).

    ln(C / (1 - q)) / theta where more than 1 - q wait at all, else 0; infinite when the queue is unstable

    probability q in (0, 1); the other arguments and the source as `wait_tail`, whose inverse this is. Returns [s].
    """
    require((probability > 0) & (probability < 1), "a percentile is asked as a probability in (0, 1), not {}", probability)
    waiting, drain, _ = _queue(arrival_rate, service_time, servers, ca2, cs2)
    with np.errstate(divide="ignore"):
        wait = np.maximum(np.log(waiting / (1 - probability)), 0.0) / drain
    return Q(np.where(drain < 0, np.inf, wait), "s")


def _sojourn(waiting: Any, drain: Any, service: Any, time: Any) -> tuple[Any, Any]:
    """(P(W + S > t), its density) for a wait that is 0 or exponential(drain), and an exponential(service) service.

    With m the smaller and M the larger of the two rates, the sum's tail is e^(-mu t) + C mu t e^(-m t) h((M - m) t),
    h(x) = (1 - e^-x) / x, which is 1 at equal rates: no case distinction, no cancellation.
    """
    slower, gap = np.minimum(drain, service), np.abs(drain - service)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.where(gap * time > 0, -np.expm1(-gap * time) / (gap * time), 1.0)
    spread = np.where(np.isfinite(gap), spread, 0.0)
    both = time * np.exp(-slower * time) * spread  # integral of e^(-drain s) e^(-mu (t - s)) over s in [0, t]
    alone = np.exp(-service * time)
    tail = alone + waiting * service * both
    with np.errstate(invalid="ignore"):
        delayed = np.where(np.isfinite(drain), drain * service * both, service * alone)
    return tail, (1 - waiting) * service * alone + waiting * delayed


@dimensions("", arrival_rate="1/s", service_time="s", servers="", time="s", ca2="", cs2="")
def sojourn_tail(
    arrival_rate: Quantity, service_time: Quantity, servers: Number, time: Quantity, ca2: Number = 1.0, cs2: Number = 1.0
) -> Number:
    """P(W + S > t): the share of requests whose wait and service together take longer than `time`.

    e^(-mu t) + C mu (e^(-mu t) - e^(-theta t)) / (theta - mu), with theta as in `wait_tail`; 1 when unstable

    Arguments as `wait_tail`. Returns a probability. Source: the convolution of the M/M/c wait with exponential service
    (Gross and Harris); exact for M/M/c. Leaves out: other shapes of the service time than exponential (cs2 only scales
    the wait), so a steadier service is judged too harshly and a heavier-tailed one too kindly.
    """
    waiting, drain, service = _queue(arrival_rate, service_time, servers, ca2, cs2)
    tail, _ = _sojourn(waiting, np.abs(drain), service, np.asarray(time.m_as("s")))
    return np.where(drain < 0, 1.0, tail)


@dimensions("s", arrival_rate="1/s", service_time="s", servers="", probability="", ca2="", cs2="")
def sojourn_quantile(
    arrival_rate: Quantity, service_time: Quantity, servers: Number, probability: Number, ca2: Number = 1.0, cs2: Number = 1.0
) -> Quantity:
    """The time from arrival to completion that a share `probability` of requests does not exceed.

    The t at which sojourn_tail(t) = 1 - q: the true quantile of the sum of wait and service, not a sum of quantiles or means

    probability q in (0, 1); the other arguments, the source and what is left out as `sojourn_tail`. Returns [s]; infinite
    when the queue is unstable. Found by Newton's method on the logarithm of the tail, kept inside a bracket.
    """
    require((probability > 0) & (probability < 1), "a percentile is asked as a probability in (0, 1), not {}", probability)
    waiting, drain, service = _queue(arrival_rate, service_time, servers, ca2, cs2)
    waiting, drain, service, probability = np.broadcast_arrays(waiting, drain, service, probability)
    stable, drain, allowed = drain > 0, np.abs(drain), 1 - probability
    low = -np.log(allowed) / service  # service alone
    # half of the allowed share to each part: P(W + S > t) <= P(W > x) + P(S > t - x)
    high = low + np.log(2) / service + np.log(np.maximum(2 * waiting / allowed, 1)) / drain
    time = low
    for _ in range(100):
        tail, density = _sojourn(waiting, drain, service, time)
        excess = np.log(tail / allowed)
        low, high = np.where(excess > 0, time, low), np.where(excess > 0, high, time)
        step = time + excess * tail / density
        inside = (step >= low) & (step <= high)
        moved = np.where(inside, step, (low + high) / 2)
        if np.all(np.abs(moved - time) <= 1e-14 * time):
            break
        time = moved
    return Q(np.where(stable, moved, np.inf), "s")
