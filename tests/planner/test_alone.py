"""What fleets of one kind tell of a question: by hand, and against proofs of the whole market."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny

from planner import prepare as preparing
from planner.alone import most_carried, narrowed, possible, reached
from planner.certify import certify
from planner.columns import Memory
from planner.lean import lean
from planner.prepare import Prepared
from planner.query import ServeQuery
from zoo.catalog import Catalog
from zoo.units import Q


def prepared(monkeypatch: pytest.MonkeyPatch, catalog: Catalog, query: ServeQuery) -> Prepared:
    monkeypatch.setattr(preparing, "open_catalog", lambda query: catalog)
    return lean(query, Memory())


def two_chips() -> Catalog:
    """Red is slow and cheap, blue fast and dear."""
    chips = [tiny.chip("red", memory_bandwidth=Q(0.5, "TB/s")), tiny.chip("blue", memory_bandwidth=Q(2.0, "TB/s"))]
    offers = [tiny.offer("here/one", "red", 1.0), tiny.offer("here/one", "red", 3.6, 4), tiny.offer("here/one", "blue", 2.9)]
    return tiny.world(chips, [tiny.model()], [tiny.region("here/one")], offers)


def work(rate: str) -> dict[str, Any]:
    return {"model": "toy", "rate": rate, "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"]}


def optimum(market: Prepared, begin: dict[str, set[int]] | None = None) -> int | None:
    """The proven objective of a market, asked as it is."""
    curves, columns = market.choices.curves, market.market.columns
    return certify(
        market.market, lambda j, units: curves[columns[j].curve].best(units)[0], lambda j: curves[columns[j].curve].slope,
        tie_break=False, begin=begin or {},
    ).objective  # fmt: skip


@pytest.mark.parametrize("chips", range(1, 14, 2))
def test_what_one_kind_tells_is_what_a_proof_says(chips: int, monkeypatch: pytest.MonkeyPatch) -> None:
    query = tiny.question(workload=work("300/s"), limits={"chips": chips}, sla={"ttft": {"p99": "600 ms"}})
    market = prepared(monkeypatch, two_chips(), query)
    told, proven = possible(market), optimum(market) is not None
    assert told in (proven, None)
    if most_carried(market) >= sum(market.market.rates):
        assert told and proven


@pytest.mark.parametrize("rate", ["20/s", "130/s", "300/s"])
@pytest.mark.parametrize("target", ["12 ms", "60 ms", "600 ms"])
def test_columns_that_are_left_out_are_in_no_plan_as_good(rate: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    market = prepared(monkeypatch, two_chips(), tiny.question(workload=work(rate), sla={"ttft": {"p99": target}}))
    best, near = optimum(market), reached(market)
    if best is None:
        assert near is None and possible(market) in (False, None)
        return
    assert near is not None and near >= best
    part = narrowed(market, sum(market.market.rates), near)
    assert optimum(part.prepared) == optimum(part.prepared, {key: set(units) for key, units in part.begin.items()}) == best
    exact = narrowed(market, sum(market.market.rates), best)
    assert optimum(exact.prepared) == best
    for j, column in enumerate(exact.prepared.market.columns):  # a unit carries no more than is said, of as many as may be
        curve, many = exact.prepared.choices.curves[column.curve], best // exact.prepared.market.objective[j]
        assert all(curve.best(units)[0] <= units * exact.tops[column.name] for units in range(1, many + 1))


def test_a_limit_with_room_for_nothing_leaves_no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    market = prepared(monkeypatch, two_chips(), tiny.question(limits={"power": "1 W"}))
    assert not possible(market) and most_carried(market) == 0
    free = prepared(monkeypatch, two_chips(), tiny.question())
    assert possible(free) and possible(replace(free, market=replace(free.market, columns=(), objective=()))) is False
