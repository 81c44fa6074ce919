"""What fits: the planner's memory test against runs that really ran, and which stack runs on which chip."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from models.training_constants import stack, stacks_on, training_constants
from models.training_job import ways_of
from models.training_rows import MEASUREMENTS, Case, read_cases, read_rows
from planner.query import Query, TrainParallelism, TrainQuery
from planner.records import QueryError
from planner.training.layouts import Strategies, choices_of
from planner.training.question import question_of
from planner.training.search import Host, Task, fits
from planner.training.solve import solve
from zoo.catalog import load
from zoo.units import Q

TODAY = date(2026, 11, 23)
WHOLE = ("tp", "pp", "dp", "micro_batch", "activation_recompute", "zero_or_fsdp")
CASES = read_cases([row for row in read_rows(MEASUREMENTS) if all(row[c] for c in WHOLE)], load(), training_constants())


def task_of(case: Case, given: bool) -> Task:
    ways = ways_of(case.setting.stack.name)
    length, batch = int(case.run.job.sequence_length.m_as("token")), int(case.run.job.global_batch)
    choices = choices_of(case.model, length, batch, ways, TrainParallelism(), ())
    return Task(
        case.model, case.run.job, case.setting.stack, (case.setting.precision,), choices, training_constants(), Q(12.0, "byte"),
        True, given=given,
    )  # fmt: skip


def within(case: Case, given: bool) -> bool:
    """The planner's verdict on the layout of one row, on its chip as the row says it is (its memory, its domain)."""
    layout = case.run.layouts
    arrays = {f.name: np.array([getattr(layout, f.name)]) for f in fields(layout) if f.name != "precision"}
    arrays["stage_layers"] = np.array([np.ceil(case.model.layers / layout.pipeline_parallel)])
    chip = replace(case.chip, memory=case.run.machine.memory, scale_up_domain=int(case.run.machine.domain))
    strategy = Strategies(replace(layout, **arrays), np.array([False]), np.array([False]), np.array([0]))
    return bool(fits(task_of(case, given), chip, strategy, Host(None, Q(1.0, "GB/s"), None))[0])


def test_rows_with_a_whole_layout_are_most_of_the_file() -> None:
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_run_that_really_ran_is_out_of_memory(case: Case) -> None:
    assert within(case, given=True)


def test_what_the_planner_chooses_must_be_expected_to_fit() -> None:
    """Of the same runs, the planner would not propose those that are expected not to fit."""
    some = {case.id: case for case in CASES if case.id in ("trillium-s001", "mpt-s033", "mlperf-s022", "sc21-s001", "titan-s001")}
    refused = {name for name, case in some.items() if not within(case, given=False)}
    assert refused == {"trillium-s001", "mpt-s033", "mlperf-s022"}


S022: dict[str, Any] = {
    "schema": "wallplan/v1", "kind": "train", "name": "mlperf-s022",
    "workload": {
        "model": "llama-3.1-405b", "tokens": "1e12 token", "sequence_length": 8192, "global_batch": 1536, "precision": ["fp8"],
        "stack": "nemo-mlperf",
    },
    "parallelism": {
        "tensor": 8, "pipeline": 8, "context": 2, "data": 64, "virtual_stages": 8, "microbatch": 1, "sharding": ["zero1"],
        "recompute": ["none"],
    },
    "supply": {"chips": ["h100-sxm"], "offers": ["on-demand"], "accelerators": 8192},
    "minimize": "time",
}  # fmt: skip
TRILLIUM: dict[str, Any] = {
    "schema": "wallplan/v1", "kind": "train", "name": "trillium-s001",
    "workload": {
        "model": "llama-3.1-8b", "tokens": "1e9 token", "sequence_length": 8192, "global_batch": 24, "precision": ["bf16"],
        "stack": "maxtext",
    },
    "parallelism": {
        "tensor": 1, "pipeline": 1, "context": 1, "microbatch": 3, "sharding": ["zero3"], "recompute": ["selective"],
    },
    "supply": {"chips": ["tpu-v6e"], "offers": ["on-demand"], "accelerators": 8},
    "minimize": "time",
}  # fmt: skip


def query(data: dict[str, Any], **parts: Any) -> TrainQuery:
    whole = {key: {**value, **parts.get(key, {})} if isinstance(value, dict) else value for key, value in data.items()}
    made = Query.from_dict(whole)
    assert isinstance(made, TrainQuery)
    return made


@pytest.mark.parametrize("data", [S022, TRILLIUM], ids=lambda data: data["name"])
def test_a_published_layout_given_whole_is_a_plan_that_says_it_is_expected_not_to_fit(data: dict[str, Any]) -> None:
    plan = solve(query(data), today=TODAY)
    assert plan.status == "optimal" and plan.job is not None
    assert plan.job.memory_peak_gib > plan.job.memory_there_gib
    assert any("expected peak of the given layout" in a.text for a in plan.assumptions)


def test_a_given_layout_whose_least_memory_exceeds_the_chip_is_infeasible() -> None:
    """405e9 weights over 8 ranks: 16-bit weights and gradients alone take 203 GB of 80."""
    parallelism = {"pipeline": 1, "data": 512, "virtual_stages": 1, "context": 2}
    plan = solve(query(S022, parallelism=parallelism), today=TODAY)
    assert plan.status == "infeasible"


@pytest.mark.parametrize(
    ("parallelism", "given"),
    [
        ({}, True),
        ({"microbatch": [1, 2]}, False),
        ({"recompute": None}, False),
        ({"data": None}, True),
        ({"pipeline": "8..8"}, True),
    ],
)
def test_a_layout_is_given_whole_where_nothing_that_memory_depends_on_is_open(parallelism: dict[str, Any], given: bool) -> None:
    asked = {key: value for key, value in {**S022["parallelism"], **parallelism}.items() if value is not None}
    made = Query.from_dict({**S022, "parallelism": asked})
    assert isinstance(made, TrainQuery)
    assert question_of(made, TODAY).task.given is given


def test_every_measured_run_used_a_chip_that_its_stack_runs_on() -> None:
    for case in read_cases(read_rows(MEASUREMENTS), load(), training_constants()):
        assert case.setting.stack.runs_on(case.chip.vendor), case.id


@pytest.mark.parametrize(("name", "chip"), [("nemo", "tpu-v5p"), ("habana", "h100-sxm"), ("maxtext", "h100-sxm")])
def test_a_stack_that_does_not_run_on_the_chips_asked_for_is_one_line(name: str, chip: str) -> None:
    asked = query(TRILLIUM, workload={"stack": name}, supply={"chips": [chip]})
    with pytest.raises(QueryError, match=rf"the stack {name} does not run on {chip} .*; stacks that run there: ") as error:
        question_of(asked, TODAY)
    assert "\n" not in str(error.value)


def test_other_chips_are_removed_with_count_and_reason() -> None:
    free = {key: value for key, value in TRILLIUM.items() if key != "parallelism"}
    asked = query(free, workload={"stack": "megatron-core"}, supply={"chips": "all"})
    made = question_of(asked, TODAY)
    assert {made.catalog.chips[offer.accelerator].vendor for offer in made.offers} <= {"NVIDIA", "AMD"}
    (gone,) = [d for d in made.dropped if d.name == "workload.stack"]
    assert gone.removed > 0 and gone.reason == "the stack megatron-core does not run on this chip"


def test_a_chip_of_a_maker_that_no_stack_names_is_let_in() -> None:
    assert stack("nemo").runs_on("ACME") and not stack("nemo").runs_on("Google")
    assert "maxtext" in stacks_on("Google") and "nemo" not in stacks_on("Google")
