"""The proof, against a brute-force oracle that shares no code with the program: small random markets, by hypothesis.

The oracle enumerates every number of units of every column and asks, for each combination, whether the pools carry the
populations (max-flow by Hall's condition over subsets of populations). It knows nothing of rows, segments or solvers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner import certify as proof
from planner.market import Column, Limit, Market
from zoo.specs import Offer
from zoo.units import Q

MOST_UNITS = 4


def offer(name: str) -> Offer:
    return Offer(name, "cloud", "cloud/region", name, "on-demand", "chip", 8, Q(1.0, "USD/hour"))


def pooled(rate: int) -> Callable[[int], int]:
    """A curve whose load per unit never falls: c units carry rate * c * c / (c + 1), rounded down."""
    return lambda units: rate * units * units // (units + 1)


@st.composite
def markets(draw: st.DrawFn) -> tuple[Market, list[Callable[[int], int]]]:
    populations = draw(st.integers(1, 3))
    rates = tuple(draw(st.integers(1, 400)) for _ in range(populations))
    columns, curves, objective = [], [], []
    for j in range(draw(st.integers(1, 4))):
        served = draw(st.sampled_from([s for s in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)) if max(s) < populations]))
        cost, carbon = draw(st.integers(1, 60)), draw(st.integers(0, 30))
        amounts = {"cost": cost, "carbon": carbon, "power": 7 * carbon, "water": 0, "chips": 8, "instances": 1}
        columns.append(Column(f"c{j}", offer(f"c{j}"), j, served, 1, amounts, f"m{j % 2}"))
        curves.append(pooled(draw(st.integers(20, 300))))
        objective.append(cost)
    limits = []
    if draw(st.booleans()):
        limits.append(Limit("wall_18_limit_carbon", 18, "carbon", draw(st.integers(0, 80)), "limits.carbon"))
    if draw(st.booleans()):
        some = frozenset(draw(st.sets(st.integers(0, len(columns) - 1), min_size=1)))
        limits.append(Limit("quota[0]", None, "chips", 8 * draw(st.integers(0, 3)), "supply.quota[0]", some))
    mixed = draw(st.booleans())
    names = tuple(f"p{k}" for k in range(populations))
    return Market(tuple(columns), names, rates, tuple(limits), mixed, tuple(objective)), curves


def best_by_enumeration(market: Market, curves: list[Callable[[int], int]], most: int) -> int | None:
    """The least objective over all unit counts up to `most`, or None."""
    best = None
    for units in itertools.product(range(most + 1), repeat=len(market.columns)):
        cost = sum(u * c for u, c in zip(units, market.objective, strict=True))
        if best is not None and cost >= best:
            continue
        if all(
            sum(
                u * market.columns[j].amounts[limit.resource]
                for j, u in enumerate(units)
                if limit.columns is None or j in limit.columns
            )
            <= limit.bound
            for limit in market.limits
        ) and carries(market, curves, units):
            best = cost
    return best


def carries(market: Market, curves: list[Callable[[int], int]], units: tuple[int, ...]) -> bool:
    capacity = {j: curves[j](u) for j, u in enumerate(units) if u}
    populations = range(len(market.rates))
    if market.mixed:
        return all(
            sum(market.rates[k] for k in some)
            <= sum(c for j, c in capacity.items() if set(some) & set(market.columns[j].populations))
            for size in range(1, len(market.rates) + 1)
            for some in itertools.combinations(populations, size)
        )
    # not mixed: each population picks one column, all picked columns are one kind of machine
    for picks in itertools.product(capacity, repeat=len(market.rates)):
        if any(k not in market.columns[j].populations for k, j in zip(populations, picks, strict=True)):
            continue
        if len({market.columns[j].machine for j in picks}) > 1:
            continue
        if all(sum(market.rates[k] for k in populations if picks[k] == j) <= capacity[j] for j in set(picks)):
            return True
    return False


def certified(market: Market, curves: list[Callable[[int], int]], engine: str, **more: Any) -> proof.Certificate:
    return proof.certify(market, lambda j, u: curves[j](u), lambda j: curves[j](10**6) // 10**6 + 1, engine, **more)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(markets())
@pytest.mark.parametrize("engine", ["highs", "cpsat"])
def test_optimum_equals_enumeration(engine: str, case: tuple[Market, list[Callable[[int], int]]]) -> None:
    market, curves = case
    # no optimal plan buys more units than one column needs to carry everything; keep the enumeration small
    total = sum(market.rates)
    if any(curve(MOST_UNITS) < total for curve in curves):
        return
    expected = best_by_enumeration(market, curves, MOST_UNITS)
    certificate = certified(market, curves, engine)
    assert certificate.status == ("infeasible" if expected is None else "optimal")
    assert certificate.objective == expected
    if expected is not None:
        assert certificate.lower_bound == expected
        for purchase in certificate.purchases:
            assert sum(load for _, load in purchase.loads) <= curves[purchase.column](purchase.units)
        for k, rate in enumerate(market.rates):
            assert sum(load for p in certificate.purchases for name, load in p.loads if name == k) == rate


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(markets(), st.sets(st.integers(1, 9), min_size=1))
def test_where_the_curves_begin_exact_changes_no_optimum(
    case: tuple[Market, list[Callable[[int], int]]], begin: set[int]
) -> None:
    """Nor does what is the most that a plan may cost: it is the optimum, or there is none."""
    market, curves = case
    expected = certified(market, curves, "highs").objective
    exact = {column.machine: begin for column in market.columns}
    assert certified(market, curves, "highs", begin=exact, most=expected).objective == expected
    if expected is not None:
        assert certified(market, curves, "highs", begin=exact, most=expected - 1).status == "infeasible"


def test_a_limit_that_gives_way_limits_no_column() -> None:
    """Four machines carry the demand, one is within the limit: 24 chips beyond it are bought at 1 each."""
    amounts = {"cost": 0, "carbon": 0, "power": 0, "water": 0, "chips": 8, "instances": 1}
    machine = Column("machine", offer("machine"), 0, (0,), 1, amounts, "m")
    beyond = Column("beyond", offer("beyond"), -1, (), 1, {**amounts, "chips": -1}, "nothing")
    limit = Limit("limit_chips", None, "chips", 8, "limits.chips")
    market = Market((machine, beyond), ("p",), (320,), (limit,), True, (0, 1))
    curves: list[Callable[[int], int]] = [pooled(100), lambda units: units]
    found = proof.certify(market, lambda j, units: curves[j](units), lambda j: (100, 1)[j])
    assert (found.status, found.objective) == ("optimal", 24)
