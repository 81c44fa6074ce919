"""Plans with prefill and decode apart, or drafted tokens: what they say, how they are checked, that choice never hurts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from planner import Plan
from planner.query import Query, ServeQuery
from planner.report import tables


def ask(**workload: Any) -> ServeQuery:
    query = Query.from_dict(
        {
            "schema": "wallplan/v1", "kind": "serve",
            "workload": {"model": "llama-3.1-8b", "rate": "150/s", "tokens": {"input": 2000, "output": 300},
                         "precision": ["bf16"], **workload},
            "sla": {"ttft": {"p99": "700 ms"}, "tpot": {"p99": "12 ms"}},
            "supply": {"chips": ["h100-sxm"]}, "regions": {"allow": ["nebius/*"]},
        }
    )  # fmt: skip
    assert isinstance(query, ServeQuery)
    return query


@pytest.fixture(scope="module")
def pools() -> Plan:
    plan: Plan = ask(disaggregation=["pools"]).solve()  # type: ignore[attr-defined]
    assert plan.status == "optimal"
    return plan


def test_a_choice_of_ways_is_no_worse_than_either(pools: Plan) -> None:
    none = ask(disaggregation=["none"]).solve()  # type: ignore[attr-defined]
    both = ask().solve()  # type: ignore[attr-defined]
    assert none.objective is not None and pools.objective is not None
    assert both.objective <= min(none.objective, pools.objective)
    assert all(pool.layout.prefill is None and pool.prefill_replicas == 0 for pool in none.fleet)


def test_the_plan_shows_both_kinds_of_replica(pools: Plan) -> None:
    for pool in pools.fleet:
        prefill = pool.layout.prefill
        assert prefill is not None
        span, beside, readers = pool.layout.unit(8)
        assert pool.instances % span == 0
        units = pool.instances // span
        assert (pool.replicas, pool.prefill_replicas) == (units * beside, units * readers)
        assert pool.replicas * pool.layout.chips + pool.prefill_replicas * prefill.chips == pool.accelerators
        assert f"{prefill.replicas} x {prefill.words} prefill + {prefill.beside} x" in tables.fleet_table(pools.fleet).rows[0][6]
        assert pool.ttft_p50_ms < pool.ttft_p90_ms < pool.ttft_p99_ms <= 700  # type: ignore[operator]
        assert pool.tpot_p50_ms <= pool.tpot_p90_ms <= pool.tpot_p99_ms <= pool.tpot_ms <= 12  # type: ignore[operator]
    whats = {wall.what for wall in pools.walls}
    assert {"bytes per prefill accelerator", "hand-over of a prompt's cache"} <= whats
    assert any("seven measured runs" in assumption.text for assumption in pools.assumptions)


def test_the_exact_check_needs_the_file_alone_and_sees_what_was_changed(pools: Plan) -> None:
    again = Plan.from_json(pools.to_json())
    assert again == pools and not again.evaluate().violations  # type: ignore[attr-defined]

    def violations(change: Any) -> tuple[str, ...]:
        saved = json.loads(pools.to_json())
        change(saved)
        return Plan.from_json(json.dumps(saved)).evaluate().violations  # type: ignore[attr-defined, no-any-return]

    def fewer_readers(saved: Any) -> None:
        saved["fleet"][0]["layout"]["prefill"]["replicas"] += 8

    def not_permitted(saved: Any) -> None:
        saved["query"]["workload"]["disaggregation"] = ["none"]

    def more_slots(saved: Any) -> None:
        saved["fleet"][0]["layout"]["batch"] *= 50

    assert any("does not fill whole machines" in text for text in violations(fewer_readers))
    assert any(text.startswith("workload.disaggregation: ") for text in violations(not_permitted))
    assert any("wall 2 (bytes per accelerator)" in text for text in violations(more_slots))


def test_a_drafting_plan_is_checked_and_says_what_it_assumes() -> None:
    speculative = {"draft": "llama-3.2-1b", "acceptance": 0.8, "tokens": [2, 4]}
    query = ask(speculative=speculative, disaggregation=["none"])
    plan = query.solve()  # type: ignore[attr-defined]
    assert plan.status == "optimal" and {pool.layout.drafted for pool in plan.fleet} <= {2, 4}
    assert not Plan.from_json(plan.to_json()).evaluate().violations  # type: ignore[attr-defined]
    assert any("drafted token is accepted" in assumption.text for assumption in plan.assumptions)
    assert f"{plan.fleet[0].layout.drafted} drafted" in tables.fleet_table(plan.fleet).rows[0][6]
    better = query.set("workload.speculative.acceptance", 0.95).solve()  # type: ignore[attr-defined]
    assert better.objective <= plan.objective
    choice = query.set("workload.speculative.tokens", [0, 2, 4]).solve()  # type: ignore[attr-defined]
    assert choice.objective <= plan.objective


def test_asking_for_pools_is_a_clause_that_can_be_to_blame() -> None:
    query = ask(disaggregation=["pools"])
    assert ("workload.disaggregation", "prefill and decode apart") in {(c.path, c.text) for c in query.clauses()}
    assert not any(c.path == "workload.disaggregation" for c in ask().clauses())
