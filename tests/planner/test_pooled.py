"""Pools put together: by hand, and against every partition of small fleets drawn at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import pytest
import tiny

from planner import prepare as preparing
from planner.certify import Purchase
from planner.evaluate import evaluate
from planner.market import Column
from planner.pooled import together
from planner.solve import decisions_of
from zoo.catalog import Catalog


def column(offer: str, populations: tuple[int, ...], instances: int = 1) -> Column:
    sold = tiny.offer("here/one", offer, 1.0)
    return Column(f"{offer} {populations} x{instances}", sold, 0, populations, instances, {"cost": instances}, offer)


NEAR, BOTH, OTHER, TWICE = column("red", (0,)), column("red", (0, 1)), column("blue", (0, 1)), column("red", (0, 1), 2)


def test_one_beside_three_becomes_four() -> None:
    apart = (Purchase(1, 3, ((0, 8), (1, 30))), Purchase(0, 1, ((0, 11),)))
    assert together((NEAR, BOTH), lambda j, units: (22, 14)[j] * units, apart) == (Purchase(1, 4, ((0, 19), (1, 30))),)


@pytest.mark.parametrize("other", [OTHER, TWICE], ids=["another offer", "another unit"])
def test_what_is_not_the_same_stays_apart(other: Column) -> None:
    apart = (Purchase(0, 1, ((0, 11),)), Purchase(1, 3, ((0, 8), (1, 30))))
    assert together((NEAR, other), lambda j, units: 100 * units, apart) == apart


def test_what_one_pool_would_not_carry_stays_apart() -> None:
    """A pool for both has less time for {a}: 4 units carry 48, and 49 are asked for."""
    apart = (Purchase(0, 1, ((0, 11),)), Purchase(1, 3, ((0, 8), (1, 30))))
    assert together((NEAR, BOTH), lambda j, units: (14, 12)[j] * units + 2 * (units == 3), apart) == apart


def partitions(pools: list[Purchase]) -> Iterator[list[list[Purchase]]]:
    """Every way to put pools into groups."""
    if not pools:
        yield []
        return
    for rest in partitions(pools[1:]):
        yield [[pools[0]], *rest]
        for at in range(len(rest)):
            yield [*rest[:at], [pools[0], *rest[at]], *rest[at + 1 :]]


@pytest.mark.parametrize("seed", range(200))
def test_every_pool_carries_its_load_and_fewer_would_not_do(seed: int) -> None:
    draw = Random(seed)
    market = [column(draw.choice(["red", "blue"]), tuple(range(draw.randint(1, 3)))) for _ in range(4)]
    rate = {one.populations: draw.randint(8, 12) for one in market}

    def carries(j: int, units: int) -> int:
        return rate[market[j].populations] * units * units // (units + 1)

    apart = []
    for j in range(4):
        units = draw.randint(1, 4)
        left, loads = carries(j, units), {}
        for k in market[j].populations:
            loads[k] = draw.randint(0, left) if draw.random() < 0.5 else left
            left -= loads[k]
        apart.append(Purchase(j, units, tuple((k, load) for k, load in loads.items() if load)))

    def one_would_do(group: list[Purchase]) -> bool:
        served = {k for pool in group for k, _ in pool.loads}
        load = sum(load for pool in group for _, load in pool.loads)
        units = sum(pool.units for pool in group)
        return len({market[pool.column].offer.name for pool in group}) == 1 and any(
            served <= set(market[pool.column].populations) and load <= carries(pool.column, units) for pool in group
        )

    found = together(market, carries, apart)
    for pools in (apart, found):  # nobody's load is lost, no pool is over what it carries
        assert all(sum(load for _, load in pool.loads) <= carries(pool.column, pool.units) for pool in pools)

    def sums(pools: Sequence[Purchase]) -> tuple[Counter[str], Counter[int]]:
        machines, loads = Counter[str](), Counter[int]()
        for pool in pools:
            machines[market[pool.column].offer.name] += pool.units
            loads.update(dict(pool.loads))
        return machines, loads

    assert sums(found) == sums(apart)
    assert len(found) == min(
        len(groups) for groups in partitions(apart) if all(len(group) == 1 or one_would_do(group) for group in groups)
    )
    assert together(market, carries, reversed(apart)) == found  # whatever order the solver has them in


def two_towns() -> Catalog:
    """One offer, near to some and far from others."""
    places = [tiny.region("here/one", latitude=60.0, longitude=10.0)]
    return tiny.world([tiny.chip()], [tiny.model()], places, [tiny.offer("here/one", "red", 1.0)])


def test_a_merged_plan_costs_the_same_and_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = two_towns()
    monkeypatch.setattr(preparing, "open_catalog", lambda query: catalog)
    people = [{"name": "near", "rate": "90/s", "near": ["60,10"]}, {"name": "far", "rate": "60/s", "near": ["42,12.5"]}]
    work = {"model": "toy", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"], "populations": people}
    query = tiny.question(workload=work, sla={"ttft": {"p99": "500 ms"}, "tpot": {"p99": "40 ms"}})
    prepared = preparing.prepare(query)
    certificate = preparing.prove(prepared)
    near, both = (next(j for j, c in enumerate(prepared.market.columns) if len(c.populations) == n) for n in (1, 2))
    units = sum(purchase.units for purchase in certificate.purchases)
    rates = prepared.market.rates
    split = replace(
        certificate, purchases=(Purchase(near, 1, ((0, rates[0] // 10),)),
                                Purchase(both, units - 1, ((0, rates[0] - rates[0] // 10), (1, rates[1])))),
    )  # fmt: skip
    (decision,) = decisions_of(prepared, split)
    checked = evaluate(query, catalog, prepared.model, [decision])
    assert not checked.violations and checked.objective == certificate.objective
