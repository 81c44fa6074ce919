"""Walls 17 to 20: what it costs to run. 17 capital, 18 sustainability, 19 checkpoint, 20 safety."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np

from zoo.units import Q, Quantity

from .constants import Range, published_range, row
from .dimensions import Number, dimensions, require

# ----------------------------------------------------------------------------------------------- wall 17: capital


@dimensions("USD", price="USD", count="", life="yr", duration="yr", residual="")
def capital_cost(price: Quantity, count: Number, life: Quantity, duration: Quantity, residual: Number) -> Quantity:
    """What owning `count` machines for `duration` uses up of their price, straight line.

    price x count x (1 - residual) x duration / life

    price [USD] of one; count; life [time] over which it is written off; duration [time] of use; residual: the fraction of
    the price that is left at the end of its life. Returns [USD]. Source: Barroso, Hölzle, Ranganathan (2018), chapter 6.
    Leaves out: the cost of money (`annualised`). A duration beyond the life is charged on, as for a successor.
    """
    require((residual >= 0) & (residual <= 1), "residual is a fraction of the price, not {}", residual)
    return price * count * (1 - residual) * duration / life


@dimensions("USD/yr", price="USD", interest="1/yr", life="yr", residual="")
def annualised(price: Quantity, interest: Quantity, life: Quantity, residual: Number) -> Quantity:
    """The yearly payment that returns `price` with interest over `life` and leaves the residual value (annuity).

    (price - residual price / (1 + r)^n) x r / (1 - (1 + r)^-n); price (1 - residual) / n when r = 0

    price [USD]; interest r [1/year], compounded yearly; life n [time]; residual: a fraction of the price. Returns [USD/year].
    Source: the capital recovery factor of engineering economics; Barroso et al. (2018).
    """
    require((residual >= 0) & (residual <= 1), "residual is a fraction of the price, not {}", residual)
    rate, years = np.asarray(interest.m_as("1/yr")), np.asarray(life.m_as("yr"))
    growth = years * np.log1p(rate)
    with np.errstate(divide="ignore", invalid="ignore"):
        recovery = np.where(rate == 0, 1 / years, rate / -np.expm1(-growth))
    return price * (1 - residual * np.exp(-growth)) * Q(recovery, "1/yr")


@dimensions("USD", price="USD/h", count="", duration="h")
def rental_cost(price: Quantity, count: Number, duration: Quantity) -> Quantity:
    """Cost of renting: price x count x duration. price [USD/h] of one; count; duration [time]. Returns [USD]."""
    return price * count * duration


@dimensions("USD", energy="Wh", price="USD/Wh")
def energy_cost(energy: Quantity, price: Quantity) -> Quantity:
    """Cost of electricity: energy x price. energy [Wh] at the meter (IT energy x PUE); price [USD/Wh]. Returns [USD]."""
    return energy * price


@dimensions("USD", price="USD", count="", rate="1/yr", duration="yr")
def maintenance_cost(price: Quantity, count: Number, rate: Quantity, duration: Quantity) -> Quantity:
    """Cost of upkeep: price x count x rate x duration. rate [1/year], a fraction of the price each year. Returns [USD]."""
    return price * count * rate * duration


@dimensions("USD", parts="USD")
def total_cost(*parts: Quantity) -> Quantity:
    """TCO = CapEx + OpEx: the sum of every part [USD], and nothing that is not a part.

    parts [USD]: for example capital_cost, rental_cost, energy_cost, maintenance_cost. Source: Barroso et al. (2018).
    """
    require(len(parts) >= 1, "a total needs at least one part")
    return reduce(add, parts)


@dimensions("USD/token", cost_rate="USD/h", throughput="token/s")
def cost_per_token(cost_rate: Quantity, throughput: Quantity) -> Quantity:
    """Cost of one token: cost rate [USD/h] / throughput [token/s] really served. Returns [USD/token]."""
    return cost_rate / throughput


@dimensions("USD", emitted="gCO2e", price="USD/gCO2e")
def carbon_cost(emitted: Quantity, price: Quantity) -> Quantity:
    """What emissions cost: emitted [gCO2e] x price [USD/gCO2e], a tax, a certificate or an internal price. Returns [USD]."""
    return emitted * price


# ---------------------------------------------------------------------------------------- wall 18: sustainability


@dimensions("", utilisation="", idle_fraction="")
def draw_fraction(utilisation: Number, idle_fraction: Number) -> Number:
    """Fraction of its rated power that a device draws: idle + (1 - idle) x utilisation.

    utilisation: fraction of time and units at work; idle_fraction: draw at rest over rated power. Returns a fraction.
    Source: Fan, Weber, Barroso (2007), linear power model. Leaves out: clock and voltage scaling.
    """
    require((utilisation >= 0) & (utilisation <= 1), "utilisation is a fraction, not {}", utilisation)
    require((idle_fraction >= 0) & (idle_fraction <= 1), "idle_fraction is a fraction, not {}", idle_fraction)
    return idle_fraction + (1 - idle_fraction) * utilisation


def published_idle_fraction() -> Range:
    """Draw of an accelerator at rest over its TDP, as measured (power.csv): bare fractions."""
    return published_range("power", "idle_fraction")


@dimensions("W", accelerators="", tdp="W", draw_fraction="", host_power_share="")
def node_power(accelerators: Number, tdp: Quantity, draw_fraction: Number, host_power_share: Number) -> Quantity:
    """Power of a whole server: what its accelerators draw, and its host (processors, memory, fans, network ports).

    n TDP (f + s / (1 - s)): the nameplate is n TDP / (1 - s), of which the host is the share s

    accelerators n: count; tdp [W] of one; draw_fraction f of the TDP (`draw_fraction`); host_power_share s: the part of the
    server's nameplate power that accelerators do not draw (a DGX H100: 10.2 kW, 8 x 700 W, s = 0.45). Returns [W].
    Assumes that the host draws its nameplate part whatever the load: fans and memory hardly fall with it.
    """
    require((host_power_share >= 0) & (host_power_share < 1), "host_power_share is a fraction below 1, not {}", host_power_share)
    return accelerators * tdp * (draw_fraction + host_power_share / (1 - host_power_share))


@dimensions("Wh", power="W", duration="h")
def energy(power: Quantity, duration: Quantity) -> Quantity:
    """Energy = power x time [Wh]; power [W], duration [time]."""
    return power * duration


@dimensions("Wh", it_energy="Wh", pue="")
def facility_energy(it_energy: Quantity, pue: Number) -> Quantity:
    """Energy at the site's meter: IT energy x PUE [Wh]. it_energy [Wh]; pue >= 1. Source: ISO/IEC 30134-2."""
    require(pue >= 1, "PUE is at least 1, not {}", pue)
    return it_energy * pue


@dimensions("gCO2e", it_energy="Wh", pue="", intensity="gCO2e/Wh")
def carbon(it_energy: Quantity, pue: Number, intensity: Quantity) -> Quantity:
    """Operational emissions: CO2 = E x PUE x CI.

    it_energy E [Wh] of the servers; pue >= 1; intensity CI [gCO2e/Wh] of the grid, by a method that the caller names
    (location average, location marginal, market) and over the hours of use where it varies (arrays). Returns [gCO2e].
    Source: Patterson et al. (2022). Leaves out: embodied emissions (`embodied_carbon`).
    """
    return facility_energy(it_energy, pue) * intensity


@dimensions("gCO2e", embodied="gCO2e", count="", life="yr", duration="yr")
def embodied_carbon(embodied: Quantity, count: Number, life: Quantity, duration: Quantity) -> Quantity:
    """Share of the emissions of making `count` devices that falls on `duration` of use: embodied x count x duration / life.

    embodied [gCO2e] of one; life, duration [time]. Returns [gCO2e]. Source: Gupta et al. (2022), ACT; GHG Protocol.
    """
    return embodied * count * duration / life


@dimensions("liter", it_energy="Wh", wue="liter/Wh", pue="", grid_water="liter/Wh")
def water(it_energy: Quantity, wue: Quantity, pue: Number, grid_water: Quantity) -> Quantity:
    """Water used: on site per IT energy (that is WUE's definition), and off site by the power stations per energy at the meter.

    E WUE + E PUE EWIF

    it_energy E [Wh]; wue [litre/Wh of IT energy]; pue >= 1; grid_water EWIF [litre/Wh] of generation: 0 L/Wh counts the
    site alone. Returns [litre]. Source: The Green Grid (2011), WUE; Li et al. (2023), Making AI Less Thirsty.
    """
    return it_energy * wue + facility_energy(it_energy, pue) * grid_water


# -------------------------------------------------------------------------------------------- wall 19: checkpoint


@dimensions("byte", parameters="", weight_bytes="byte", optimizer_bytes="byte")
def checkpoint_bytes(parameters: Number, weight_bytes: Quantity, optimizer_bytes: Quantity) -> Quantity:
    """Size of a checkpoint: P (b_weights + b_optimizer).

    parameters P: count; weight_bytes, optimizer_bytes [byte] per parameter (see `optimizer_bytes`: Adam with a 32-bit master
    copy keeps 12). Returns [byte]. Gradients are not saved. Source: Rajbhandari et al. (2020), ZeRO; Eisenman et al. (2022).
    """
    return parameters * (weight_bytes + optimizer_bytes)


def optimizer_bytes(name: str) -> Quantity:
    """State that an optimiser keeps per parameter [byte]: master copy and moments; UnknownValue if optimizers.csv lacks it."""
    record = row("optimizers", name)
    return Q(float(record["master"]) + float(record["first_moment"]) + float(record["second_moment"]), "byte")


@dimensions("s", size="byte", writers="", writer_bandwidth="byte/s", storage_bandwidth="byte/s")
def write_time(size: Quantity, writers: Number, writer_bandwidth: Quantity, storage_bandwidth: Quantity) -> Quantity:
    """Time to write a checkpoint that many writers share: size / min(writers x writer_bandwidth, storage_bandwidth).

    size [byte], once over all writers; writers: count; writer_bandwidth [byte/s] of one node into the durable store;
    storage_bandwidth [byte/s]: the store's aggregate write limit. Returns [s]. Assumes an even split.
    """
    return size / np.minimum(writers * writer_bandwidth, storage_bandwidth)


@dimensions("", stall_time="s", interval="s")
def checkpoint_penalty(stall_time: Quantity, interval: Quantity) -> Number:
    """Fraction of the time that training stands still for checkpoints.

    penalty = T_write / T_interval, and never more than all of it

    stall_time [s] that one checkpoint stops the training: the write time when it is synchronous, else
    `asynchronous_stall`; interval [s] from the start of one checkpoint to the start of the next. Returns a fraction.
    Source: Eisenman et al. (2022), Check-N-Run. At 1 nothing is trained: a checkpoint is always being written.
    """
    return np.minimum((stall_time / interval).m_as(""), 1.0)


@dimensions("s", snapshot_time="s", write_time="s", interval="s")
def asynchronous_stall(snapshot_time: Quantity, write_time: Quantity, interval: Quantity) -> Quantity:
    """Stall of a checkpoint that is first copied to host memory and then written while training goes on.

    snapshot + max(0, snapshot + write - interval): the copy stops training, and so does a write that the next copy must wait for

    snapshot_time [s] of the copy; write_time [s] to the durable store; interval [s] from one checkpoint's start to the next.
    Returns [s]. Source: Eisenman et al. (2022). Assumes one copy in host memory, and that writing does not slow training.
    """
    return snapshot_time + np.maximum(snapshot_time + write_time - interval, Q(0.0, "s"))


# ------------------------------------------------------------------------------------------------ wall 20: safety

# Integer orders at which the Renyi divergence is evaluated. Any set gives a valid bound; a finer one a tighter bound.
_ORDERS = np.concatenate([np.arange(2.0, 65.0), np.array([80.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0])])


def _renyi_epsilon(noise_multiplier: Any, sampling_rate: Any) -> Any:
    """Renyi divergence of a step of the Poisson-sampled Gaussian mechanism at _ORDERS (last axis); Mironov et al. (2019), eq. 3.

    1/(a - 1) ln sum_k C(a, k) (1 - q)^(a - k) q^k e^((k^2 - k) / (2 sigma^2))
    """
    from scipy import special

    sigma, rate = np.asarray(noise_multiplier, float)[..., None], np.asarray(sampling_rate, float)[..., None]
    sigma, rate = np.broadcast_arrays(sigma, rate)
    divergences = []
    for order in _ORDERS:
        k = np.arange(order + 1)
        choose = special.gammaln(order + 1) - special.gammaln(k + 1) - special.gammaln(order - k + 1)
        terms = choose + special.xlog1py(order - k, -rate) + special.xlogy(k, rate) + (k * k - k) / (2 * sigma**2)
        divergences.append(special.logsumexp(terms, axis=-1) / (order - 1))
    return np.stack(divergences, axis=-1)


@dimensions("", noise_multiplier="", sampling_rate="", steps="", delta="")
def privacy_loss(noise_multiplier: Number, sampling_rate: Number, steps: Number, delta: Number) -> Number:
    """The epsilon that DP-SGD guarantees at `delta` after `steps` steps.

    epsilon = min over orders a of  steps x Renyi(a; q, sigma) + ln(1/delta) / (a - 1)

    noise_multiplier sigma: noise deviation over clipping norm; sampling_rate q: chance of a sample to be in a batch;
    steps: count; delta in (0, 1): all bare. Returns epsilon.
    Source: Abadi et al. (2016); Mironov (2017), proposition 3; Mironov, Talwar, Zhang (2019) for the sampled Gaussian.
    Assumes Poisson sampling, neighbours that differ by one sample. Integer orders only: never below the true bound.
    """
    require(np.asarray(noise_multiplier) > 0, "without noise there is no privacy: noise_multiplier must be positive")
    require(
        (np.asarray(sampling_rate) >= 0) & (np.asarray(sampling_rate) <= 1),
        "sampling_rate is a probability, not {}",
        sampling_rate,
    )
    require((np.asarray(delta) > 0) & (np.asarray(delta) < 1), "delta is a probability in (0, 1), not {}", delta)
    spent = np.asarray(steps)[..., None] * _renyi_epsilon(noise_multiplier, sampling_rate)
    return np.min(spent - np.log(np.asarray(delta))[..., None] / (_ORDERS - 1), axis=-1)


@dimensions("", epsilon="", delta="", sampling_rate="", steps="")
def noise_multiplier(epsilon: Number, delta: Number, sampling_rate: Number, steps: Number) -> Number:
    """The least noise multiplier sigma with which DP-SGD keeps (epsilon, delta) for `steps` steps: the inverse of `privacy_loss`.

    epsilon > 0; delta, sampling_rate: probabilities; steps: count. Returns sigma, about as 1/epsilon.
    Source and assumptions as `privacy_loss`. Found by bisection; the upper end is returned, so the guarantee holds.
    An epsilon below ln(1/delta) / (largest order - 1) cannot be shown with these orders: ImpossibleValue.
    """
    least = -np.log(np.asarray(delta)) / (_ORDERS[-1] - 1)
    require(np.asarray(epsilon) > least, f"epsilon {epsilon} is below {least:.3g}, what any noise can be shown to keep"
            if np.ndim(least) == 0 else "epsilon is below what any noise can be shown to keep")  # fmt: skip
    epsilon, delta, sampling_rate, steps = np.broadcast_arrays(epsilon, delta, sampling_rate, steps)
    low, high = np.full(epsilon.shape, 1e-2), np.ones(epsilon.shape)
    while np.any(over := privacy_loss(high, sampling_rate, steps, delta) > epsilon):
        high = np.where(over, 2 * high, high)
    for _ in range(50):
        middle = np.sqrt(low * high)
        kept = privacy_loss(middle, sampling_rate, steps, delta) <= epsilon
        low, high = np.where(kept, low, middle), np.where(kept, middle, high)
    return high


@dimensions("flop", operations="flop", overhead="")
def private_operations(operations: Quantity, overhead: Number) -> Quantity:
    """Work of training with per-sample gradients: operations x overhead.

    operations [FLOP] without privacy; overhead >= 1: the measured cost of the method (`private_overhead`), which does not
    depend on epsilon: noise costs accuracy, per-sample clipping costs time. Returns [FLOP] of equal duration.
    """
    require(overhead >= 1, "clipping every sample's gradient cannot be faster than not clipping: {}", overhead)
    return operations * overhead


def private_overhead(method: str) -> Range:
    """Measured slowdown of DP-SGD over SGD, factors: "per_sample_gradients" or "ghost_clipping" (private_training.csv)."""
    return published_range("private_training", method)


@dimensions("", group_samples="", prevalence="", confidence="")
def samples_for_group(group_samples: Number, prevalence: Number, confidence: Number) -> Number:
    """Fewest samples to draw so that a group of this prevalence is represented by enough of them.

    the least N with P(Binomial(N, p) >= m) >= confidence

    group_samples m: how many of the group are needed; prevalence p in (0, 1]: the group's share of the population;
    confidence in (0, 1). Returns a whole number N, about m / p and a margin. Assumes independent draws; targeted collection
    needs fewer. Source: the binomial distribution.
    """
    from scipy import special

    require((np.asarray(prevalence) > 0) & (np.asarray(prevalence) <= 1), "prevalence is a share in (0, 1], not {}", prevalence)
    require((np.asarray(confidence) > 0) & (np.asarray(confidence) < 1), "confidence lies in (0, 1), not {}", confidence)
    require((np.asarray(group_samples) >= 1), "at least one sample of the group is asked for, not {}", group_samples)
    needed, share, confidence = np.broadcast_arrays(np.ceil(group_samples), prevalence, confidence)

    def enough(count: Any) -> Any:
        return special.betainc(needed, count - needed + 1, share) >= confidence  # P(Binomial(count, share) >= needed)

    low, high = needed - 1, needed.copy()
    while np.any(short := ~enough(high)):
        low, high = np.where(short, high, low), np.where(short, 2 * high, high)
    while np.any(high - low > 1):
        middle = np.where(high - low > 1, np.floor((low + high) / 2), high)
        met = enough(middle)
        low, high = np.where(met, low, middle), np.where(met, middle, high)
    return high
