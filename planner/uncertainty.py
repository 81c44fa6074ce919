"""A plan under uncertainty: its objective as an interval, and the probability that each promise and limit holds.

Figures are independent and triangular between low, mid and high. Sampling is seeded, so the same plan gives the same
numbers; all samples go through the forward models at once, as arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models import serving
from zoo.catalog import Catalog
from zoo.specs import Transformer
from zoo.units import Q

from .columns import budgets
from .evaluate import running_of
from .plan import Plan, Robustness
from .query import ServeQuery
from .scalars import Spread

SAMPLES = 4000
SEED = 20260101


@dataclass(frozen=True, slots=True)
class Draw:
    """Factors of one figure, one for each sample."""

    prices: np.ndarray
    demand: np.ndarray
    efficiency: np.ndarray
    intensity: np.ndarray


def draw(query: ServeQuery, samples: int = SAMPLES, seed: int = SEED) -> Draw:
    """Seeded samples of every uncertain figure; what is not uncertain is 1 everywhere."""
    u = query.uncertain
    return Draw(*factors_of((u.prices, u.demand, u.efficiency, u.intensity), samples, seed))


def factors_of(spreads: Sequence[Spread | None], samples: int = SAMPLES, seed: int = SEED) -> list[np.ndarray]:
    """Samples of the factor on each figure, in the order given; 1 everywhere where a figure is not uncertain."""
    generator = np.random.default_rng(seed)

    def one(spread: Spread | None) -> np.ndarray:
        uniform = generator.random(samples)  # drawn even if not used: one figure more does not move the others' samples
        return np.ones(samples) if spread is None else quantile(spread, uniform)

    return [one(spread) for spread in spreads]


def quantile(spread: Spread, share: np.ndarray | float) -> np.ndarray:
    """The factor that a share of cases does not exceed: the inverse of the triangular distribution.

    low + sqrt(q (high - low) (mid - low)) below the mode, high - sqrt((1 - q) (high - low) (high - mid)) above it.
    """
    low, mid, high = spread.low, spread.mid, spread.high
    if high == low:
        return np.full_like(np.asarray(share, float), low)
    at_mode = (mid - low) / (high - low)
    left = low + np.sqrt(np.maximum(np.asarray(share) * (high - low) * (mid - low), 0))
    right = high - np.sqrt(np.maximum((1 - np.asarray(share)) * (high - low) * (high - mid), 0))
    return np.asarray(np.where(np.asarray(share) < at_mode, left, right))


def guarded(query: ServeQuery) -> tuple[float, float]:
    """(demand factor, efficiency factor) to plan for, so that both hold at once with probability `uncertain.hold`.

    Each is taken at the quantile 1 - (1 - p) / n of its unfavourable side, n being how many of the two are uncertain: the
    probability that either is worse is then at most 1 - p (a union bound, whatever their joint distribution).
    """
    u = query.uncertain
    if u.hold is None:
        return 1.0, 1.0
    uncertain = [spread for spread in (u.demand, u.efficiency) if spread is not None]
    risk = (1 - u.hold) / max(len(uncertain), 1)
    demand = 1.0 if u.demand is None else float(quantile(u.demand, 1 - risk))
    efficiency = 1.0 if u.efficiency is None else float(quantile(u.efficiency, risk))
    return demand, efficiency


def any_of(query: ServeQuery) -> bool:
    """Whether anything in the question is uncertain."""
    u = query.uncertain
    return any(spread is not None for spread in (u.prices, u.demand, u.efficiency, u.intensity))


def guarded_query(query: ServeQuery) -> ServeQuery:
    """The question that a plan must answer so that demand and latency hold with probability `uncertain.hold`."""
    demand, efficiency = guarded(query)
    return at_other_rates(query, demand / efficiency, efficiency)


def at_other_rates(query: ServeQuery, rates: float, latencies: float = 1.0) -> ServeQuery:
    """The question with every rate and every latency limit times a factor.

    If every time grows by 1 / e and demand by d, times stay within T and the queues stable exactly when, at today's speed,
    they stay within T e at d / e of today's rate (the network's share of TTFT is scaled too, which errs on the safe side).
    """
    changes: dict[str, object] = {}
    if latencies != 1:
        for bound in query.sla.bounds():
            changes[f"sla.{bound.metric}.{bound.statistic}"] = f"{bound.limit.m_as('ms') * latencies:.6f} ms"
    if rates != 1 and query.workload.rate is not None:
        changes["workload.rate"] = f"{query.workload.rate.m_as('1/s') * rates:.6f}/s"
    for i, population in enumerate(query.workload.populations or ()):
        if rates != 1:
            changes[f"workload.populations[{i}].rate"] = f"{population.rate.m_as('1/s') * rates:.6f}/s"
    result = query.override(changes) if changes else query
    assert isinstance(result, ServeQuery)
    return result


def robustness(plan: Plan, query: ServeQuery, catalog: Catalog, model: Transformer) -> tuple[Robustness, ...]:
    """The plan's totals as intervals (p10, p50, p90) and, for each promise and limit, the probability that it holds."""
    factors = draw(query)
    cost = plan.totals["cost_usd_per_h"] * factors.prices
    carbon = plan.totals["carbon_kgco2e_per_h"] * factors.intensity
    rows = [
        interval("cost", "USD/h", cost, _bound(query.limits.cost, "USD/hour")),
        interval("carbon", "kgCO2e/h", carbon, _bound(query.limits.carbon, "kgCO2e/hour")),
    ]
    if query.minimize == "cost + carbon.price * carbon" and query.carbon.price is not None:
        weighted = cost + float(query.carbon.price.m_as("USD/kgCO2e")) * carbon
        rows.insert(0, interval("objective", "USD/h", weighted, None))
    every = np.ones(SAMPLES, bool)
    for i, pool in enumerate(plan.fleet, 1):
        station = running_of(query, catalog, model, pool.offer, pool.layout).station
        units = pool.instances // pool.layout.unit(pool.accelerators // pool.instances)[0]
        slower = 1 / factors.efficiency
        tpot = pool.tpot_ms * slower
        limits = [bound for bound in query.sla.bounds() if bound.metric == "tpot"]
        for bound in limits:
            good = tpot <= bound.limit.m_as("ms")
            every &= good
            rows.append(_promise(f"#{i} TPOT {bound.statistic}", "ms", tpot, float(bound.limit.m_as("ms")), good))
        rate = Q(pool.load_per_s * factors.demand, "1/s")
        targets = budgets(query, Q(pool.network_ms, "ms"))
        many = np.full(SAMPLES, float(units))
        late = serving.late_share(
            rate,
            station.prefill_time[0] * slower,
            station.delay[0] * slower,
            many * station.servers[0],
            many * station.slots[0],
            station.residence[0] * slower,
            targets or (),
            query.workload.arrivals.cv**2,
        )
        for (percentile, _), share in zip(targets or (), late, strict=True):
            good = share <= 1 - percentile
            every &= good
            rows.append(_promise(f"#{i} late beyond TTFT p{percentile * 100:g}", "share", share, 1 - percentile, good))
    rows.append(
        Robustness(what="every latency promise", unit="", p10=None, p50=None, p90=None, limit=None, holds=float(every.mean()))
    )
    return tuple(rows)


def _bound(limit: object, unit: str) -> float | None:
    return None if limit is None else float(limit.m_as(unit))  # type: ignore[attr-defined]


def interval(what: str, unit: str, values: np.ndarray, limit: float | None) -> Robustness:
    """Samples of a figure as p10, p50 and p90, and the share of them within its limit."""
    holds = None if limit is None else float((values <= limit).mean())
    p10, p50, p90 = (float(v) for v in np.percentile(values, [10, 50, 90]))
    return Robustness(what=what, unit=unit, p10=p10, p50=p50, p90=p90, limit=limit, holds=holds)


def _promise(what: str, unit: str, values: np.ndarray, limit: float, good: np.ndarray) -> Robustness:
    p10, p50, p90 = (float(v) for v in np.percentile(values, [10, 50, 90]))
    return Robustness(what=what, unit=unit, p10=p10, p50=p50, p90=p90, limit=limit, holds=float(good.mean()))
