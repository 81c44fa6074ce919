"""Plans with prefill and decode apart, or drafted tokens: what they say, how they are checked, that choice never hurts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.serving_replica import evaluate_replica
from planner import Plan
from planner.evaluate import Decision, check, pool_walls
from planner.plan import Layout, Readers
from planner.prepare import model_of, open_catalog
from planner.program import quantise
from planner.query import Query, ServeQuery
from planner.report import tables
from zoo.units import Q


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


SPECULATIVE = {"draft": "llama-3.2-1b", "acceptance": 0.8, "tokens": [4]}


@pytest.mark.parametrize("speculative", [None, SPECULATIVE])
@pytest.mark.parametrize("units", [1, 3])
def test_a_replica_file_of_the_pools_of_a_plan_has_its_figures(pools: Plan, speculative: Any, units: int) -> None:
    """In a machine of eight chips two read prompts and six decode in pairs: percentiles, memory, and the hand-over."""
    drafting = {"speculative": speculative} if speculative else {}
    query = ask(disaggregation=["pools"], **drafting)
    catalog = open_catalog(query)
    readers = Readers(tensor_parallel=1, pipeline_parallel=1, expert_parallel=1, replicas=2, beside=3)
    layout = Layout(tensor_parallel=2, pipeline_parallel=1, expert_parallel=1, precision="bf16", kv_precision="bf16", batch=32,
                    prefill=readers, drafted=4 if speculative else 0)  # fmt: skip
    load = int(quantise(Q(10.0 * units, "1/s"), "load", "up"))
    planned = check(query, catalog, model_of(query, catalog), Decision(pools.fleet[0].offer, units, layout, {"all": load}))
    pool = planned.pool
    answer = evaluate_replica(
        {
            "model": "llama-3.1-8b", "chip": "h100-sxm", "precision": "bf16", "tokens": {"input": 2000, "output": 300},
            "prefill": {"tp": 1, "replicas": pool.prefill_replicas}, "decode": {"tp": 2, "replicas": pool.replicas, "batch": 32},
            "rate": f"{pool.load_per_s * 60}/min", **drafting,
        }
    )  # fmt: skip
    assert answer["chips"] == pool.accelerators == 8 * units
    promised = answer["percentiles_ms"]
    for name in ("p50", "p90", "p99"):
        assert promised["ttft_promised"][name] == pytest.approx(getattr(pool, f"ttft_{name}_ms"), rel=1e-9)
        assert promised["tpot_promised"][name] == pytest.approx(getattr(pool, f"tpot_{name}_ms"), rel=1e-9)
        assert promised["ttft"][name] < promised["ttft_promised"][name]
    rows = {row.what: row.demand for row in pool_walls(query, planned)}
    assert answer["kv_transfer"]["ms"] == pytest.approx(rows["hand-over of a prompt's cache"], rel=1e-9)
    assert answer["prefill_memory_gib"]["needed"] == pytest.approx(rows["bytes per prefill accelerator"], rel=1e-9)


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
