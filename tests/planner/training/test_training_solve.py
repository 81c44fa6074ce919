"""Training questions end to end: plans, monotonicity, evaluation, errors, the command line."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli import app
from planner.query import Query, TrainQuery, load
from planner.records import QueryError
from planner.report.training import plan_tables
from planner.training.asking import Asker
from planner.training.check import evaluate
from planner.training.infeasible import why_infeasible
from planner.training.job import accelerator_of
from planner.training.market import market_of
from planner.training.plan import TrainPlan
from planner.training.question import question_of
from planner.training.report_units import written
from planner.training.search import search
from planner.training.solve import reload, solve

TODAY = date(2026, 11, 23)
EXAMPLES = Path(__file__).parents[3] / "examples"
BASE: dict[str, Any] = {
    "schema": "wallplan/v1",
    "kind": "train",
    "name": "small",
    "workload": {
        "model": "llama-3.1-8b", "tokens": "100e9 token", "sequence_length": 4096, "global_batch": 256, "stack": "megatron-core",
    },
    "supply": {"chips": ["a100-sxm-80gb", "h100-sxm"], "accelerators": [8, 256]},
    "regions": {"allow": ["aws/*", "gcp/*"]},
    "minimize": "cost",
}  # fmt: skip


def question(**changes: Any) -> TrainQuery:
    data = copy.deepcopy(BASE)
    for path, value in changes.items():
        place: Any = data
        *parents, last = path.split("__")
        for key in parents:
            place = place.setdefault(key, {})
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    query = Query.from_dict(data)
    assert isinstance(query, TrainQuery)
    return query


def best(**changes: Any) -> TrainPlan:
    plan = solve(question(**changes), today=TODAY)
    assert plan.status == "optimal" and plan.job is not None and plan.objective == plan.certificate.lower_bound
    return plan


def test_a_plan_is_evaluated_to_the_same_figures_from_its_file(tmp_path: Path) -> None:
    plan = best(deadline="30 day")
    path = tmp_path / "plan.json"
    plan.save(path)
    saved = TrainPlan.load(path)
    assert saved == plan
    checked = evaluate(*reload(saved))
    assert checked.job == plan.job and checked.walls == plan.walls and checked.totals == plan.totals
    assert not checked.violations
    job = plan.job
    assert job is not None
    assert sum(job.step_parts_s.values()) == pytest.approx(job.step_s, rel=1e-9)
    assert sum(job.memory_gib.values()) == pytest.approx(job.memory_peak_gib, rel=1e-9)
    assert job.step_low_s < job.step_s < job.step_high_s == job.ranked_step_s
    # cost by hand: instances x price x hours
    assert job.cost_usd == pytest.approx(job.instances * job.price_usd_per_h * job.days * 24, rel=1e-9)
    # time by hand: steps x step / goodput
    assert job.days == pytest.approx(job.steps * job.ranked_step_s / job.goodput / job.fed / 86400, rel=1e-9)
    assert job.days_low < job.days < job.days_high


def test_a_longer_deadline_is_never_dearer_and_more_money_never_slower() -> None:
    costs = [best(deadline=f"{days} day").objective for days in (12, 20, 60)]
    assert costs == sorted(costs, reverse=True)
    cheapest = costs[-1]
    assert cheapest is not None
    times = [best(minimize="time", limits__cost=f"{factor * cheapest} USD").objective for factor in (1.001, 1.3, 3)]
    assert times == sorted(times, reverse=True)


def test_objectives_are_each_best_at_their_own() -> None:
    plans = {name: best(minimize=name) for name in ("cost", "carbon", "time", "chips", "energy")}
    keys = {"cost": "cost_usd", "carbon": "carbon_tco2e", "time": "days", "chips": "accelerators", "energy": "energy_mwh"}
    for name, key in keys.items():
        least = plans[name].totals[key]
        assert all(least <= plan.totals[key] * (1 + 1e-6) for plan in plans.values()), name


class Clock:
    """A time that is over after it was asked so many times."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_a_market_that_is_stopped_says_what_is_proven_by_then() -> None:
    asked = question_of(question(deadline="60 day", supply__chips="all"), TODAY)
    optimum = market_of(asked).best
    assert optimum is not None
    bounds, bests = [], []
    for steps in (0, 1, 2, 3, 5, 8, 13, 10**9):
        market = market_of(asked, over=Clock(steps))
        best = market.best
        if market.unsearched is None:
            assert best is not None and best.objective == optimum.objective
        else:
            assert market.bound is not None and market.bound <= optimum.objective
            assert best is None or best.objective >= optimum.objective
            bounds.append(market.bound)
        bests += [] if best is None else [best]
    assert len(bounds) >= 3 and bounds == sorted(bounds)
    assert len(bests) >= 2 and bests[-1].objective == optimum.objective


def test_a_search_that_is_stopped_says_that_it_is_not_complete() -> None:
    asked = question_of(question(), TODAY)
    family = market_of(asked, first=True).families[0]
    chip = accelerator_of(asked, family.machine, 64)
    whole = search(family.task, chip, 64, family.host)
    stopped = [search(family.task, chip, 64, family.host, over=Clock(steps)) for steps in range(3)]
    assert whole.complete and not stopped[0].complete and not stopped[0].found
    for part in stopped:
        assert part.complete or not part.found or part.found[0].ranked >= whole.found[0].ranked


def test_time_that_is_over_is_not_a_proof(tmp_path: Path) -> None:
    plan = solve(question(solver={"time": "0.001 s"}), today=TODAY)
    assert plan.status == "stopped" == plan.certificate.status
    assert any("stopped" in a.text and "solver.time" in a.source for a in plan.assumptions)
    assert plan.certificate.lower_bound is not None and plan.certificate.lower_bound <= (best().objective or 0)
    path = tmp_path / "ask.yaml"
    path.write_text(question(solver={"time": "0.001 s"}).to_yaml(), encoding="utf-8")
    shown = CliRunner().invoke(app, ["solve", str(path), "--format", "md"])
    assert shown.exit_code == 5 and "stopped without proof" in shown.stdout and "lower bound" in shown.stdout


def test_an_explanation_that_is_stopped_names_what_is_known_to_clash() -> None:
    asked = question_of(question(deadline="1 day", supply__accelerators=64), TODAY)
    for steps in (0, 3, 10):
        why = why_infeasible(asked, Asker(TODAY, over=Clock(steps)))
        assert not why.complete and {"deadline"} <= {conflict.clause for conflict in why.conflict}


def test_a_stopped_search_gives_the_best_job_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    optimum = best(supply__chips="all")
    for steps in range(1, 40):
        monkeypatch.setattr("planner.training.solve.ends_at", lambda _, steps=steps: Clock(steps))
        plan = solve(question(supply__chips="all"), today=TODAY)
        if plan.job is not None:
            break
    assert plan.status == "stopped" and plan.objective is not None and optimum.objective is not None
    assert plan.certificate.forward_check == "every wall holds" and plan.certificate.gap is not None
    assert plan.certificate.lower_bound is not None
    assert plan.certificate.lower_bound <= optimum.objective <= plan.objective


def test_what_a_changed_question_breaks_is_said_in_the_units_of_questions(tmp_path: Path) -> None:
    plan = best(deadline="60 day")
    assert plan.job is not None
    changes = {
        "supply.accelerators": [1, 256],
        "deadline": "1 day",
        "limits.cost": "5 USD",
        "limits.power": "1 kW",
        "limits.chips": 1,
    }
    broken = {line.partition(":")[0]: line for line in evaluate(*reload(plan, changes)).violations}
    assert broken["deadline"].endswith(" days, more than 1 day")
    assert float(broken["deadline"].split()[1]) == pytest.approx(plan.job.days, abs=2e-5)
    assert broken["limits.cost"].endswith(" USD, more than 5 USD") and broken["limits.power"].endswith(" kW, more than 1 kW")
    assert broken["limits.chips"] == f"limits.chips: {plan.job.accelerators} chips, more than 1 chip"
    assert written("water", 25_000) == "2.5 kL" and written("time", 86400) == "1 day"
    plan.save(tmp_path / "plan.json")
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "plan.json"), "--set", "deadline=1 day"])
    assert shown.exit_code == 4 and ", 1 violation (" in shown.stdout


def test_a_report_says_that_the_upper_end_of_the_time_misses_the_deadline() -> None:
    plan = best(deadline="60 day")
    assert plan.job is not None and plan.job.days_high > plan.job.days
    late = plan.model_copy(
        update={"walls": tuple(
            w.model_copy(update={"limit": plan.job.days * 1.0001}) if w.what == "time to train" else w for w in plan.walls
        )}
    )  # fmt: skip
    assert "misses the deadline" in plan_tables(late)[0].notes[-1]
    early = plan.model_copy(
        update={"walls": tuple(
            w.model_copy(update={"limit": plan.job.days_high}) if w.what == "time to train" else w for w in plan.walls
        )}
    )  # fmt: skip
    assert not any("misses the deadline" in note for note in plan_tables(early)[0].notes)
    assert any("divisors: 9 from 1 to 256" in a.text for a in plan.assumptions)


def test_offers_whose_instances_cannot_make_the_number_are_said_to_be_left_out() -> None:
    asked = question_of(question(supply__chips="all", supply__accelerators=100), TODAY)
    said = [d for d in asked.dropped if d.name == "supply.accelerators"]
    assert len(said) == 1 and "100 accelerators are no multiple of their instances" in said[0].reason and "8" in said[0].reason
    assert all(100 % offer.accelerators == 0 for offer in asked.offers)


def test_both_solvers_agree() -> None:
    assert "agrees" in best(solver__engine="both", deadline="30 day", limits__power="200 kW").certificate.cross_check
    assert best(solver__engine="cpsat").objective == best().objective


def test_a_coarse_oracle_over_counts_and_offers_finds_nothing_better() -> None:
    """Every fixed count of the grid solved on its own: the best of them is the answer."""
    plan = best(minimize="cost", deadline="20 day", supply__chips=["h100-sxm"], supply__accelerators=[8, 128])
    singles = []
    for count in (8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128):
        one = solve(question(deadline="20 day", supply__chips=["h100-sxm"], supply__accelerators=count), today=TODAY)
        if one.objective is not None:
            singles.append(one.objective)
    assert plan.objective is not None and plan.objective <= min(singles) * (1 + 1e-9)


def test_quota_and_spares_and_sharing_count() -> None:
    assert best(supply__quota=[{"chips": 64}], minimize="time").totals["accelerators"] <= 64
    spared = best(reliability__spares=0.1, supply__accelerators=64)
    assert spared.job is not None and spared.job.spare_instances >= 1
    shared = best(sharing__arrivals="3/year", deadline="60 day")
    assert shared.job is not None and shared.job.wait_days > 0 and shared.job.days + shared.job.wait_days <= 60
    private = best(workload__privacy={"epsilon": 8, "delta": 1e-6}, supply__accelerators=64)
    plain = best(supply__accelerators=64)
    assert private.totals["days"] > 2 * plain.totals["days"]
    assert any(wall.number == 20 for wall in private.walls)


def test_reservations_are_paid_for_their_term() -> None:
    plan = best(supply__offers=["reserved-1y"], supply__accelerators=64)
    assert plan.job is not None
    assert plan.job.cost_usd == pytest.approx(plan.job.instances * plan.job.price_usd_per_h * 24 * 365.25, rel=0.01)


def test_open_tokens_are_compute_optimal() -> None:
    plan = best(workload__tokens=None, supply__accelerators=64)
    assert plan.job is not None and plan.job.tokens == pytest.approx(20 * 8.03e9, rel=0.01)
    bought = best(workload__tokens=None, workload__compute="1e22 FLOP", supply__accelerators=64)
    assert bought.job is not None and bought.job.tokens == pytest.approx(1e22 / 6 / 8.03e9, rel=0.01)


def test_uneven_stages_and_switches_are_in_the_plan_and_hold_in_its_check() -> None:
    plan = best(
        parallelism={"pipeline": 4, "tensor": 4, "tensor_overlap": False, "virtual_stages": 1}, supply__accelerators=32,
        workload__offload=["optimizer", "activations"], workload__model="llama-3.1-8b",
    )  # fmt: skip
    assert plan.job is not None
    layout = plan.job.layout
    assert layout.tensor_overlap is False and layout.data_overlap is True
    # 32 layers, logits of 2.4: eight each would leave the last stage with 10.4; nine, nine, nine and fewer do not
    assert sum(layout.stage_layers) == 32 and max(layout.stage_layers) == 9 and layout.stage_layers[-1] < 8
    assert not evaluate(*reload(plan)).violations
    on = best(parallelism={"pipeline": 4, "tensor": 4, "virtual_stages": 1}, supply__accelerators=32)
    assert on.job is not None and on.job.layout.tensor_overlap and on.job.step_s < plan.job.step_s
    assert on.job.memory_gib["buffers"] > 0 and "buffers" not in plan.job.memory_gib


def test_infeasible_names_the_clash_and_the_least_move() -> None:
    plan = solve(question(deadline="1 day", supply__accelerators=64), today=TODAY)
    assert plan.status == "infeasible" and plan.job is None
    assert any(c.clause == "deadline" for c in plan.conflict)
    fix = next(f for f in plan.fixes if f.clause == "deadline")
    repaired = solve(question(deadline=fix.value, supply__accelerators=64), today=TODAY)
    assert repaired.status == "optimal"


ERRORS = [
    ({"workload__global_batch": "1e6 token"}, "workload.global_batch", "no whole number"),
    ({"parallelism__data": 7}, "parallelism.data", "cannot be divided"),
    ({"parallelism__microbatch": 7}, "parallelism.microbatch", "cannot be divided"),
    ({"parallelism__pipeline": 64}, "parallelism.pipeline", "32 layers"),
    ({"parallelism__tensor": 7}, "parallelism.tensor", "32 heads"),
    ({"parallelism__tensor": 8, "parallelism__pipeline": 3, "supply__accelerators": 64}, "parallelism", "does not make 64"),
    ({"parallelism__pipeline": 14, "supply__accelerators": 64}, "parallelism.pipeline", "pipeline 14 does not divide 64"),
    ({"deadline": "2020-01-01"}, "deadline", "in the past"),
    ({"deadline": "soon"}, "deadline", "or a date"),
    ({"start": "2026-13-01"}, "start", "no date"),
    ({"workload__precision": ["fp8"], "supply__chips": ["a100-sxm-80gb"]}, "workload.precision", "cannot multiply in fp8"),
    ({"workload__precision": ["fp64"]}, "workload.precision", "no training precision"),
    ({"supply__chips": ["h20"]}, "supply.chips[0]", "nobody offers"),
    ({"supply__chips": ["h101"]}, "supply.chips[0]", "did you mean"),
    (
        {"supply__chips": ["trainium2"], "supply__accelerators": 100, "regions": None, "workload__stack": "other"},
        "supply.accelerators",
        "no multiple",
    ),
    ({"workload__stack": "nemoo"}, "workload.stack", "did you mean 'nemo'"),
    ({"workload__optimizer": "adamx"}, "workload.optimizer", "did you mean"),
    ({"workload__model": "resnet-50"}, "workload.model", "train plans need"),
    ({"storage__name": "s3-standard/us-east-1"}, "storage.name", "units"),
    ({"limits__cost": "500 USD/h"}, "limits.cost", "expected money"),
    ({"limits__chips": 4}, "limits.chips", "contradict"),
    ({"minimize": "speed"}, "minimize", "no objective"),
    ({"minimize": "cost + carbon.price * carbon"}, "minimize", "no price"),
    ({"workload__compute": "1e22 FLOP"}, "workload.compute", "keep one"),
    ({"workload__stack": "fsdp", "parallelism__tensor": 8}, "parallelism.tensor", "no tensor parallelism"),
    ({"workload__stack": "fsdp", "parallelism__sharding": ["zero1"]}, "parallelism.sharding", "has only"),
    ({"parallelism__stage_layers": 40}, "parallelism.stage_layers", "32 layers"),
    ({"workload__stack": "llama3", "parallelism__tensor_overlap": False}, "parallelism.tensor_overlap", "no switch"),
    ({"workload__stack": "megatron-lm", "parallelism__data_overlap": True}, "parallelism.data_overlap", "no switch"),
    ({"parallelism": {"tensor_overlap": True, "sequence_parallel": False}}, "parallelism.tensor_overlap", "sequence_parallel"),
    ({"workload__offload": ["weights"]}, "workload.offload", "known: optimizer, activations"),
    ({"workload__stack": "fsdp", "workload__offload": ["activations"]}, "workload.offload", "does not offload activations"),
    ({"parallelism__tenser": 8}, "parallelism.tenser", "did you mean"),
    ({"workload__privacy": {"epsilon": 0.001, "delta": 1e-6}}, "workload.privacy", "below"),
]


@pytest.mark.parametrize(("changes", "key", "words"), ERRORS, ids=[str(i) for i in range(len(ERRORS))])
def test_what_cannot_go_together_is_one_line(changes: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(QueryError) as caught:
        solve(question(**changes), today=TODAY)
    assert len(caught.value.lines) == 1 and "\n" not in str(caught.value)
    assert f"<python>: {key}: " in str(caught.value) and words in str(caught.value)


def test_a_training_question_round_trips() -> None:
    query = question(
        deadline="2027-03-01", parallelism={"tensor": [4, 8], "pipeline": "1..8", "microbatch": 1},
        reliability={"mtbf": ["8000 h", "40000 h", "80000 h"]},
    )  # fmt: skip
    for copy_ in (Query.from_dict(query.to_dict()), Query.from_dict(query.to_dict(complete=True))):
        assert copy_ == query and copy_.digest() == query.digest()
    assert question(deadline="60 day") == question(deadline="1440 h")
    assert {c.path for c in query.clauses()} >= {"deadline", "parallelism.tensor", "supply.accelerators", "workload.tokens"}


def test_example_of_fixed_chips_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    run = CliRunner()
    result = run.invoke(app, ["solve", str(EXAMPLES / "train-gpt3-512xa100.yaml"), "-o", str(path), "-f", "json", "-q"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert plan["status"] == "optimal" and len(plan["layouts"]) == 10 and plan["certificate"]["gap"] == 0
    assert plan["strategies"] > 300_000
    for format in ("table", "json", "csv", "md"):
        assert run.invoke(app, ["evaluate", str(path), "-f", format]).exit_code == 0
    for format in ("table", "csv", "md"):
        assert run.invoke(app, ["solve", str(EXAMPLES / "train-gpt3-512xa100.yaml"), "-f", format, "-q"]).exit_code == 0


def test_exit_codes_on_the_command_line() -> None:
    run, file = CliRunner(), str(EXAMPLES / "train-gpt3-512xa100.yaml")
    assert run.invoke(app, ["check", file]).exit_code == 0
    wrong = run.invoke(app, ["solve", file, "--set", "parallelism.pipeline=128"])
    assert wrong.exit_code == 2 and "96 layers" in wrong.stderr and wrong.stderr.count("\n") == 1
    assert run.invoke(app, ["solve", file, "-q", "--set", "deadline=2 day", "--set", "regions.allow=[aws/*]"]).exit_code == 3


def test_example_of_open_counts() -> None:
    plan = solve(load(EXAMPLES / "train-llama405b.yaml"), today=TODAY)  # type: ignore[arg-type]
    assert plan.status == "optimal" and plan.job is not None and plan.job.days <= 120 and plan.job.power_kw <= 40_000


def test_every_example_of_a_key_is_valid() -> None:
    from planner.query import query_schema

    for name, key in query_schema()["$defs"]["TrainQuery"]["properties"].items():
        for example in key["examples"]:
            if name not in ("zoo", "calibration", "uncertain", "kind", "schema"):
                with_price = {"price": "1 USD/tCO2e"} | example if name == "carbon" else example
                query = question(carbon={"price": "1 USD/tCO2e"}).set(name, with_price)
                assert Query.from_dict(query.to_dict()) == query
