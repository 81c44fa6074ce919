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


def elasticities(output: Output, inputs: Mapping[str, Any], step: float, at_once: bool = False) -> tuple[Elasticity, ...]:
    """Two-sided elasticities of `output(inputs)` to every input, the most helpful first.

    (f(x (1 + h)) - f(x)) / (h f(x)) and (f(x) - f(x (1 - h))) / (h f(x)): the finite form of dT/dx_i, made dimensionless

    output: any composition of walls, taking the mapping and returning a positive quantity or number of which less is better;
    inputs: quantities or numbers by name; step h: a fraction, for example 0.01. An infeasible output is infinite, so a
    capacity that just fits shows as an infinite `down`. at_once: `output` takes arrays, and is called once with all changes.
    Source: Williams et al. (2009) for the binding constraint.
    """
    require(0 < step < 1, "a step is a fraction in (0, 1), not {}", step)
    changes = np.ones((1 + 2 * len(inputs), len(inputs)))  # nothing, then each input up, then each down
    places = np.arange(len(inputs))
    changes[1 + places, places], changes[1 + len(inputs) + places, places] = 1 + step, 1 - step
    if at_once:
        found = _bare(output({name: value * changes[:, i] for i, (name, value) in enumerate(inputs.items())}))
        values = np.broadcast_to(found, len(changes))
    else:
        rows = ({name: value * float(row[i]) for i, (name, value) in enumerate(inputs.items())} for row in changes)
        values = np.array([float(_bare(output(row))) for row in rows])
    base, more, less = values[0], values[1 : 1 + len(inputs)], values[1 + len(inputs) :]
    require(bool(np.isfinite(base) and base > 0), "the output must be positive and finite at the start, not {}", base)
    gains = np.maximum(0.0, np.maximum(1 - more / base, 1 - less / base))
    ups, downs = (more - base) / (step * base), (base - less) / (step * base)
    records = (Elasticity(n, float(u), float(d), float(g)) for n, u, d, g in zip(inputs, ups, downs, gains, strict=True))
    return tuple(sorted(records, key=lambda elasticity: -elasticity.gain))


def binding_input(found: tuple[Elasticity, ...], least: float) -> str | None:
    """The input whose change helps most, or None when none brings a relative gain above `least` (a fraction per step)."""
    best = max(found, key=lambda elasticity: elasticity.gain)
    return best.name if best.gain > least else None


def _bare(value: Any) -> Any:
    return value.to_base_units().magnitude if isinstance(value, Quantity) else value


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


def smallest(
    forward: Callable[[Quantity], Quantity], limit: Quantity, low: Quantity, high: Quantity, at_once: int = 1
) -> Quantity:
    """The smallest x in [low, high] with forward(x) <= limit, for any composition that falls as x grows.

    Bisection on a logarithmic scale to the last bit; the upper end is returned, so that feeding it forward meets the limit.
    low, high: positive quantities of one dimension; ImpossibleValue where even `high` does not meet the limit. at_once: how
    many values are tried in one call of `forward`, as an array where it is more than 1.
    """
    unit = high.units
    lower, upper = float(low.m_as(unit)), float(high.magnitude)
    require(lower > 0, "the search needs a positive lower end")

    def excess(values: Any) -> Any:
        tried = values if at_once > 1 else float(values[0])
        return np.broadcast_to((forward(Q(tried, unit)) - limit).magnitude, len(values))

    below, above = excess(np.array([lower, upper])) if at_once > 1 else (excess([x])[0] for x in (lower, upper))
    require(bool(above <= 0), "even {} does not meet {}", high, limit)
    if below <= 0:
        return Q(lower, unit)
    while True:
        spaced = np.geomspace if upper > 1.01 * lower else np.linspace  # a logarithm's last bits are coarser than a number's
        between = spaced(lower, upper, at_once + 2)[1:-1]
        if at_once > 1 and np.isfinite(below):  # and closely around where a line through both ends meets the limit
            guess = lower + (upper - lower) * below / (below - above)
            near = (upper - lower) * 0.5 ** np.arange(1, 53)
            between = np.concatenate([between, guess - near, [guess], guess + near])
        between = np.unique(between)
        between = between[(between > lower) & (between < upper)]
        if not len(between):
            return Q(upper, unit)
        found = excess(between)
        met = found <= 0
        first = int(np.argmax(met)) if met.any() else len(between)
        if first:
            lower, below = between[first - 1], found[first - 1]
        if first < len(between):
            upper, above = between[first], found[first]
