"""Walls 11 to 13: how much work a quality needs. 11 complexity, 12 reasoning, 13 fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np

from zoo.units import Q, Quantity

from .constants import row, table
from .dimensions import Number, UnknownValue, dimensions, require

# ------------------------------------------------------------------------------------------- wall 11: complexity


@dimensions("flop", parameters="", tokens="token")
def training_operations(parameters: Number, tokens: Quantity) -> Quantity:
    """Operations to train a model: C = 6 P D (2 forward, 4 backward per parameter and token).

    parameters P: the active count; tokens D [token]. Returns [FLOP]. Source: Kaplan et al. (2020), Hoffmann et al. (2022).
    Leaves out: attention scores, recomputation.
    """
    return Q(6.0, "flop/token") * parameters * tokens


@dimensions("", operations="flop", tokens_per_parameter="")
def optimal_parameters(operations: Quantity, tokens_per_parameter: Number) -> Number:
    """The compute-optimal model size: P* = sqrt(C / (6 k)); with k = 20 tokens per parameter, sqrt(C / 120).

    operations C [FLOP]; tokens_per_parameter k: a count (20 in Hoffmann et al. 2022). Returns a count of parameters.
    """
    return np.sqrt(operations.m_as("flop") / (6 * tokens_per_parameter))


@dimensions("token", operations="flop", tokens_per_parameter="")
def optimal_tokens(operations: Quantity, tokens_per_parameter: Number) -> Quantity:
    """The compute-optimal number of training tokens: D* = k P* [token]. Arguments and source as `optimal_parameters`."""
    return Q(tokens_per_parameter * optimal_parameters(operations, tokens_per_parameter), "token")


@dataclass(frozen=True, slots=True)
class ScalingLaw:
    """A fit of loss = E + A / P^alpha + B / D^beta, in nats per token. All dimensionless."""

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str


def scaling_law(name: str) -> ScalingLaw:
    """A published fit by name: "hoffmann" (approach 3, as printed) or "epoch" (the replication that corrects it)."""
    record = row("scaling_laws", name)
    numbers = {key: float(record[key]) for key in ("E", "A", "B", "alpha", "beta")}
    return ScalingLaw(name=name, source=record["source"], **numbers)


@dimensions("", parameters="", tokens="token")
def training_loss(law: ScalingLaw, parameters: Number, tokens: Quantity) -> Number:
    """Loss after training: E + A / P^alpha + B / D^beta, nats per token.

    parameters P: count; tokens D [token]. Returns the loss. Source: Hoffmann et al. (2022), equation 2.
    """
    return law.E + law.A / parameters**law.alpha + law.B / tokens.m_as("token") ** law.beta


@dimensions("", operations="flop")
def loss_optimal_parameters(law: ScalingLaw, operations: Quantity) -> Number:
    """The size that minimises `training_loss` for a budget C = 6 P D.

    P = G (C/6)^(beta/(alpha + beta)), G = (alpha A / (beta B))^(1/(alpha + beta))

    operations C [FLOP]. Returns a count of parameters. Source: Hoffmann et al. (2022), equation 4.
    """
    total = law.alpha + law.beta
    scale = (law.alpha * law.A / (law.beta * law.B)) ** (1 / total)
    return scale * (operations.m_as("flop") / 6) ** (law.beta / total)


@dimensions("", loss="", inference_tokens="token")
def inference_aware_parameters(law: ScalingLaw, loss: Number, inference_tokens: Quantity) -> Number:
    """The size that reaches `loss` with least work over training and use: minimises 6 P D + 2 P D_inference.

    loss: nats per token, above the law's floor E; inference_tokens [token] over the model's life. Returns a count of
    parameters; the training tokens follow from `tokens_for_loss`. With no inference this is the compute-optimal size.
    Source: Sardana et al. (2024), Beyond Chinchilla-Optimal. Counts operations, not their different prices.
    """
    require(np.asarray(loss) > law.E, "no model reaches a loss of {}: the floor of {} is {}", loss, law.name, law.E)
    used = np.asarray(inference_tokens.m_as("token"))
    budget = np.asarray(loss) - law.E  # shared by A / P^alpha and B / D^beta
    low, high = np.broadcast_arrays(0.0 * budget * used, budget + 0.0 * used)
    for _ in range(200):  # u = A / P^alpha; the derivative of the work in P falls with u and changes sign once
        part = (low + high) / 2
        with np.errstate(over="ignore"):
            trained = (law.B / (budget - part)) ** (1 / law.beta)
            slope = 6 * trained * (1 - law.alpha / law.beta * part / (budget - part)) + 2 * used
        low, high = np.where(slope > 0, part, low), np.where(slope > 0, high, part)
    return (law.A / low) ** (1 / law.alpha)


@dimensions("token", loss="", parameters="")
def tokens_for_loss(law: ScalingLaw, loss: Number, parameters: Number) -> Quantity:
    """Training tokens with which a model of this size reaches `loss`: (B / (loss - E - A / P^alpha))^(1/beta) [token].

    loss: nats per token; parameters: count. ImpossibleValue where the model is too small for the loss whatever it reads.
    """
    left = loss - law.E - law.A / parameters**law.alpha
    require(np.asarray(left) > 0, "{} parameters cannot reach a loss of {}", parameters, loss)
    return Q((law.B / left) ** (1 / law.beta), "token")


# -------------------------------------------------------------------------------------------- wall 12: reasoning


@dimensions("s", tokens="token", step_time="s")
def reasoning_time(tokens: Quantity, step_time: Quantity) -> Quantity:
    """Time to think for K tokens at a constant time per step: T = K x T_step.

    tokens K [token]; step_time [s] of one decode step. Returns [s]. Source: Brown et al. (2024); Snell et al. (2024).
    """
    return tokens.m_as("token") * step_time


@dimensions("s", tokens="token", base_step_time="s", time_per_context_token="s/token", context="token")
def growing_reasoning_time(
    tokens: Quantity, base_step_time: Quantity, time_per_context_token: Quantity, context: Quantity
) -> Quantity:
    """Time to think for K tokens while the cache grows: the sum over i < K of (a + b (c + i)) = K a + b (K c + K (K - 1) / 2).

    tokens K [token]; base_step_time a [s]: a step with an empty cache; time_per_context_token b [s/token] that each cached
    token adds; context c [token] at the start. Returns [s]; with b = 0 this is `reasoning_time`.
    Assumes full attention, whose cost grows linearly with the context.
    """
    steps = tokens.m_as("token")
    attended = steps * context + Q(steps * (steps - 1) / 2, "token")
    return reasoning_time(tokens, base_step_time) + time_per_context_token * attended


@dimensions("", success="", samples="")
def best_of(success: Number, samples: Number) -> Number:
    """Chance that at least one of k independent attempts at one problem is right: 1 - (1 - p)^k; both bare."""
    require((np.asarray(success) >= 0) & (np.asarray(success) <= 1), "success is a probability, not {}", success)
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.where(np.asarray(success) < 1, np.asarray(samples) * np.log1p(-np.asarray(success)), -np.inf)
    return np.where(np.asarray(samples) == 0, 0.0, -np.expm1(missed))


@dimensions("", single="", samples="", exponent="")
def coverage(single: Number, samples: Number, exponent: Number) -> Number:
    """Share of a set of problems that k samples solve: c = c_1^(k^b), the same as exp(a k^b) with a = ln c_1.

    single c_1 in (0, 1]: the share that one sample solves; samples k >= 1; exponent b < 0 (`coverage_exponent`): sets of
    mixed difficulty gain more slowly than `best_of`. Returns a share. Source: Brown et al. (2024), Large Language Monkeys.
    Leaves out: choosing the right sample, which needs a verifier.
    """
    require((np.asarray(single) > 0) & (np.asarray(single) <= 1), "coverage is a share in (0, 1], not {}", single)
    require(np.asarray(samples) >= 1, "at least one sample is drawn, not {}", samples)
    require(np.asarray(exponent) <= 0, "more samples never solve less: the exponent is not positive, but {}", exponent)
    return np.asarray(single) ** (np.asarray(samples) ** np.asarray(exponent))


@dimensions("", single="", samples="", many="")
def coverage_exponent(single: Number, samples: Number, many: Number) -> Number:
    """The exponent b of `coverage` from two measurements: ln(ln c_k / ln c_1) / ln k; shares c_1, c_k and a count k > 1."""
    return np.log(np.log(many) / np.log(single)) / np.log(samples)


@dimensions("", single="", coverage="", exponent="")
def samples_for_coverage(single: Number, coverage: Number, exponent: Number) -> Number:
    """Fewest samples that reach `coverage`: ceil((ln c / ln c_1)^(1/b)), at least 1: the inverse of `coverage`; all bare."""
    return np.maximum(np.ceil((np.log(coverage) / np.log(single)) ** (1 / np.asarray(exponent)) * (1 - 1e-12)), 1.0)


@dimensions("", branching="", depth="", width="")
def tree_search_steps(branching: Number, depth: Number, width: Number) -> Number:
    """Thoughts that a beam search over a tree generates: the sum over levels 1 to d of b x min(w, b^(level - 1)).

    branching b: thoughts from each kept state; depth d: levels; width w: states kept per level. All counts; returns a count.
    Multiply by a thought's tokens and their time. Source: Yao et al. (2023), Tree of Thoughts (breadth-first search).
    Assumes that every kept state is expanded to the full depth.
    """
    branching, depth, width = np.broadcast_arrays(branching, depth, width)
    levels = np.arange(1.0, float(np.max(depth)) + 1)
    kept = np.minimum(width[..., None], branching[..., None] ** (levels - 1))
    return np.sum(np.where(levels <= depth[..., None], kept * branching[..., None], 0.0), axis=-1)


# --------------------------------------------------------------------------------------------- wall 13: fidelity


@dimensions("", bits="", baseline_bits="")
def quantisation_ratio(bits: Number, baseline_bits: Number) -> Number:
    """How many times smaller weights become: r = 32 / b, for a baseline of 32 bits; of 16 for today's models.

    bits b per element with its scales (`bits_per_element`); baseline_bits: those of the original. Returns a ratio.
    Source: Han et al. (2015), Deep Compression.
    """
    return baseline_bits / bits


@dimensions("", sparsity="")
def pruning_ratio(sparsity: Number) -> Number:
    """How many times fewer weights remain: r = 1 / (1 - s). sparsity s in [0, 1): the share set to zero. Han et al. (2015).

    Counts values alone; `sparse_ratio` adds what it takes to say where they are.
    """
    require((np.asarray(sparsity) >= 0) & (np.asarray(sparsity) < 1), "sparsity is a share in [0, 1), not {}", sparsity)
    return 1 / (1 - sparsity)


@dimensions("", sparsity="", bits="", index_bits="")
def sparse_ratio(sparsity: Number, bits: Number, index_bits: Number) -> Number:
    """How many times smaller a pruned tensor is in memory, with the positions of what remains: b / ((1 - s) (b + i)).

    sparsity s in [0, 1); bits b per value; index_bits i per remaining value (2:4 sparsity: 2). Returns a ratio: 1.78, not 2,
    for 2:4 at 16 bits, and below 1 where little is pruned. Source: Mishra et al. (2021), 2:4 sparsity format.
    """
    return pruning_ratio(sparsity) * bits / (bits + index_bits)


def bits_per_element(precision: str) -> float:
    """Bits that one element takes in memory, its share of the scales included; UnknownValue for an unknown format."""
    record = row("precision", precision)
    return float(record["bits"]) + float(record["scale_bits"]) / float(record["scale_group"])


def computes_in(precision: str) -> str:
    """The number format that a chip multiplies in when weights are in `precision`: int4 weights are widened to bf16."""
    return row("precision", precision)["computes_in"]


def bytes_per_element(precision: str) -> Quantity:
    """Memory that one element takes in a number format, its share of the scales included [byte]; see `bits_per_element`."""
    return Q(bits_per_element(precision) / 8, "byte")


@dataclass(frozen=True, slots=True)
class QualityLoss:
    """Relative loss of benchmark score (0.01 is 1 %) over published measurements; each with its model and method in the data."""

    precision: str
    low: float
    typical: float
    high: float
    measurements: int
    sources: tuple[str, ...]


def quality_loss(precision: str) -> QualityLoss:
    """Least, median and greatest relative loss of score that was measured for a number format: 1 - quantised / baseline.

    precision: a format ("fp8", "int8", "int4", "nvfp4", ...). 16-bit formats and wider are what models are released in: no loss.
    UnknownValue where nothing was measured. Source: the rows of quality.csv.
    Leaves out: that the loss depends on model, method and task: use the high end where quality matters.
    """
    if precision in ("fp64", "fp32", "tf32", "bf16", "fp16"):
        return QualityLoss(precision, 0.0, 0.0, 0.0, 0, ("baseline: models are released in 16 bits",))
    rows = [record for record in table("quality") if record["precision"] == precision]
    if not rows:
        measured = ", ".join(dict.fromkeys(record["precision"] for record in table("quality")))
        raise UnknownValue(f"no quality was measured for precision {precision!r} (known: {measured})")
    losses = [1 - float(record["quantised"]) / float(record["baseline"]) for record in rows]
    return QualityLoss(precision, min(losses), median(losses), max(losses), len(rows), tuple(r["source"] for r in rows))
