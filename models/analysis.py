"""Walls 21 and 22: which wall binds, and what hardware would be needed. 21 sensitivity, 22 synthesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.units import Q, Quantity

from .dimensions import Number, dimensions, require

Output = Callable[[Mapping[str, Any]], Any]

# ------------------------------------------------------------------------------------------ wall 21: sensitivity


@dataclass(frozen=True, slots=True)
class Elasticity:
    """Per cent by which an output changes for one per cent more, and for one per cent less, of one input.

    `up` and `down` are both d ln(output) / d ln(input), one from each side; they differ at a kink, where the binding wall
    changes. `gain` is the largest relative fall of the output that a step in either direction brings (0: neither helps).
    """

    name: str
    up: float
    down: float
    gain: float


def elasticities(output: Output, inputs: Mapping[str, Any], step: float) -> tuple[Elasticity, ...]:
    """Two-sided elasticities of `output(inputs)` to every input, the most helpful first.

    (f(x (1 + h)) - f(x)) / (h f(x)) and (f(x) - f(x (1 - h))) / (h f(x)): the finite form of dT/dx_i, made dimensionless

    output: any composition of walls, taking the mapping and returning a positive quantity or number of which less is better;
    inputs: quantities or numbers by name; step h: a fraction, for example 0.01. An infeasible output is infinite, so a
    capacity that just fits shows as an infinite `down`. Source: Williams et al. (2009) for the binding constraint.
    """
    require(0 < step < 1, "a step is a fraction in (0, 1), not {}", step)
    base = _bare(output(inputs))
    require(np.isfinite(base) and base > 0, "the output must be positive and finite at the start, not {}", base)
    found = []
    for name, value in inputs.items():
        more = _bare(output({**inputs, name: value * (1 + step)}))
        less = _bare(output({**inputs, name: value * (1 - step)}))
        gain = max(0.0, 1 - more / base, 1 - less / base)
        found.append(Elasticity(name, (more - base) / (step * base), (base - less) / (step * base), gain))
    return tuple(sorted(found, key=lambda elasticity: -elasticity.gain))


def binding_input(found: tuple[Elasticity, ...], least: float) -> str | None:
    """The input whose change helps most, or None when none brings a relative gain above `least` (a fraction per step)."""
    best = max(found, key=lambda elasticity: elasticity.gain)
    return best.name if best.gain > least else None


def _bare(value: Any) -> float:
    return float(value.to_base_units().magnitude if isinstance(value, Quantity) else value)


# -------------------------------------------------------------------------------------------- wall 22: synthesis


@dimensions("s", target="s", other="s", exponent="", launch="s")
def time_left(target: Quantity, other: Quantity, exponent: Number, launch: Quantity) -> Quantity:
    """Time that one phase may take so that `soft_roofline` of it and the other phase is exactly `target`.

    ((T - t0)^p - other^p)^(1/p); T - t0 for an infinite p

    target T, other (the other phase), launch t0 [s]; exponent p >= 1. Returns [s]. ImpossibleValue where the other phase and the
    launch alone take longer than the target: no speed of this phase can help. The inverse of `node.soft_roofline`.
    """
    left, taken = np.asarray((target - launch).m_as("s")), np.asarray(other.m_as("s"))
    require((left > 0) & (taken <= left), "the target cannot be met: launch and the other phase alone take longer")
    share = 1 - (taken / left) ** np.asarray(exponent)
    share = np.where(np.isinf(exponent), 1.0, share)
    require(share > 0, "the target leaves no time for this phase: only an infinite speed would meet it")
    return Q(left * share ** (1 / np.asarray(exponent)), "s")


@dimensions("byte/s", traffic="byte", time="s", efficiency="")
def required_bandwidth(traffic: Quantity, time: Quantity, efficiency: Number) -> Quantity:
    """The least memory bandwidth that moves `traffic` in `time`: BW_req = |W| / (T_target x eta): `node.memory_time` inverted.

    traffic [byte], everything that the step moves (weights, cache); time [s] left for it (`time_left`); efficiency in (0, 1].
    Returns [byte/s]. Source: Kwon et al. (2023) for the traffic.
    """
    return traffic / (time * efficiency)


@dimensions("flop/s", operations="flop", time="s", efficiency="")
def required_peak(operations: Quantity, time: Quantity, efficiency: Number) -> Quantity:
    """The least peak rate that executes `operations` in `time`: OPs / (T_target x eta) [FLOP/s]: `node.compute_time` inverted."""
    return operations / (time * efficiency)


@dimensions("byte", weights="byte", bytes_per_sequence="byte", batch="", usable="")
def required_capacity(weights: Quantity, bytes_per_sequence: Quantity, batch: Number, usable: Number) -> Quantity:
    """The least memory that holds weights and `batch` caches: (|W| + B KV) / usable.

    weights, bytes_per_sequence [byte]; batch: count; usable: the fraction that the runtime leaves. Returns [byte].
    """
    require((np.asarray(usable) > 0) & (np.asarray(usable) <= 1), "usable is a fraction in (0, 1], not {}", usable)
    return (weights + batch * bytes_per_sequence) / usable


@dimensions("byte/s", message="byte", ranks="", time="s", latency="s")
def required_link(message: Quantity, ranks: Number, time: Quantity, latency: Quantity) -> Quantity:
    """The least link bandwidth with which a ring all-reduce takes `time`: 2 (N - 1)/N M / (T - 2 (N - 1) alpha).

    message M [byte]; ranks N >= 2; time T, latency alpha [s]. Returns [byte/s]: `fleet.ring_all_reduce` inverted.
    ImpossibleValue where latency alone takes longer.
    """
    require(np.asarray(ranks) >= 2, "one rank needs no link, and {} ranks are no ring", ranks)
    moving = time - 2 * (ranks - 1) * latency
    require(moving.m_as("s") > 0, "the target cannot be met: the latency of the ring's steps alone takes longer")
    return 2 * (ranks - 1) / ranks * message / moving


def smallest(forward: Callable[[Quantity], Quantity], limit: Quantity, low: Quantity, high: Quantity) -> Quantity:
    """The smallest x in [low, high] with forward(x) <= limit, for any composition that falls as x grows.

    Bisection on a logarithmic scale to the last bit; the upper end is returned, so that feeding it forward meets the limit.
    low, high: positive quantities of one dimension; ImpossibleValue where even `high` does not meet the limit.
    """
    unit = high.units
    lower, upper = float(low.m_as(unit)), float(high.magnitude)
    require(lower > 0, "the search needs a positive lower end")

    def meets(value: float) -> bool:
        return bool(forward(Q(value, unit)) <= limit)

    require(meets(upper), "even {} does not meet {}", high, limit)
    if meets(lower):
        return Q(lower, unit)
    while (middle := float(np.sqrt(lower) * np.sqrt(upper))) not in (lower, upper) and lower < middle < upper:
        if meets(middle):
            upper = middle
        else:
            lower = middle
    return Q(upper, unit)
