"""Questions with measured kernels (`calibration: {source: aiconfigurator}`), by a stand-in for the package."""

from __future__ import annotations

import importlib.util
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models import silicon
from planner import Plan, load
from planner.cli import app
from planner.marginal import world
from planner.prepare import Memory, prepare
from planner.query import Query, ServeQuery
from planner.records import QueryError
from zoo.catalog import load as catalog
from zoo.specs import Accelerator, Transformer

QUESTION = """\
schema: wallplan/v1
kind: serve
name: kernels
workload: {model: llama-3.1-8b, rate: 60/s, tokens: {input: 1000, output: 250}, precision: [bf16]}
sla: {ttft: {p99: 1 s}, tpot: {p99: 50 ms}}
supply: {chips: [h100-sxm, l40s]}
regions: {allow: [verda/*, nebius/*]}
calibration: {source: aiconfigurator}
"""


class Kernels:
    """One chip and one checkpoint, on up to two chips; every decode step and prefill takes `slower` times so long."""

    package = "0.0.1"

    def __init__(self, slower: float) -> None:
        self.slower = slower

    @cached_property
    def models(self) -> dict[str, Transformer]:
        return {"meta-llama/Meta-Llama-3.1-8B": catalog().find("models", "llama-3.1-8b")}

    def system(self, chip: Accelerator) -> str | None:
        return "h100_sxm" if chip.name == "h100-sxm" else None

    def version(self, system: str) -> str:
        return f"aiconfigurator {self.package}, recorded kernels on {system}"

    def times(self, point: silicon.Point) -> tuple[float, float] | None:
        """Above 32 sequences a step is a little shorter again, as tables of kernels have it."""
        step = 0.006 + 1e-4 * point.batch - (0.0004 if point.batch > 32 else 0.0)
        return None if point.tensor_parallel > 2 else (0.02 * self.slower, step * self.slower)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    tool = Kernels(1.0)
    monkeypatch.setattr(silicon, "aiconfigurator", lambda backend: tool)
    return tool


@pytest.fixture
def ask(tmp_path: Path) -> ServeQuery:
    (tmp_path / "ask.yaml").write_text(QUESTION, encoding="utf-8")
    query = load(tmp_path / "ask.yaml")
    assert isinstance(query, ServeQuery)
    return query


def said(plan: Plan) -> list[str]:
    return [a.text for a in plan.assumptions if a.source == "query: calibration.source"]


def narrowed(query: ServeQuery, **paths: Any) -> ServeQuery:
    result = query.override({path.replace("__", "."): value for path, value in paths.items()})
    assert isinstance(result, ServeQuery)
    return result


@pytest.mark.parametrize("ways", ["[none]", "[pools]"])
def test_a_plan_is_made_of_measured_kernels_and_the_exact_check_agrees(
    ask: ServeQuery, kernels: Kernels, tmp_path: Path, ways: str
) -> None:
    query = narrowed(ask, supply__chips=["h100-sxm"], workload__disaggregation=ways, workload__parallelism__tp=[1, 2])
    plan: Plan = query.solve()  # type: ignore[attr-defined]
    assert plan.status == "optimal" and plan.data["aiconfigurator"] == "0.0.1"
    assert said(plan) and all("decode step and prefill measured (aiconfigurator 0.0.1" in text for text in said(plan))
    again = plan.evaluate()  # type: ignore[attr-defined]
    assert not again.violations and again.pools == plan.fleet
    plan.save(tmp_path / "plan.json")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "plan.json"), "--format", "json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["data_changed"] == []
    kernels.slower = 8.0
    assert plan.evaluate().violations  # type: ignore[attr-defined]
    kernels.slower, kernels.package = 1.0, "0.0.2"  # type: ignore[misc]
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "plan.json"), "--format", "json"])
    assert json.loads(result.stdout)["data_changed"] == ["aiconfigurator"]


def test_the_promised_step_is_the_measured_one_at_the_end_of_its_interval(ask: ServeQuery, kernels: Kernels) -> None:
    """TPOT of one sequence, which no prefill of another disturbs, is the measured step; of more, it is no less."""
    query = narrowed(ask, supply__chips=["h100-sxm"], workload__disaggregation="[none]", workload__parallelism__tp=[1])
    (runs,) = [one for one in prepare(query).choices.curves if one.runs.machine.accelerators == 1][:1]
    stations = runs.runs.stations
    least = np.array([kernels.times(silicon.Point("", "", "", "", 1, 1, 1, 0, 0, 0, int(b)))[1] for b in stations.batch])  # type: ignore[index]
    wide = np.exp(silicon.half_width("closed_tpot"))
    assert (stations.tpot_s >= least * wide * (1 - 1e-9)).all()
    one = stations.batch == 1
    assert stations.tpot_s[one] == pytest.approx(least[one] * wide)


def test_what_is_not_known_stays_modelled(ask: ServeQuery, kernels: Kernels) -> None:
    query = narrowed(ask, supply__chips=["l40s"], regions=None)
    plan: Plan = query.solve()  # type: ignore[attr-defined]
    own: Plan = narrowed(query, calibration=None).solve()  # type: ignore[attr-defined]
    assert plan.fleet == own.fleet and "aiconfigurator" not in own.data and not said(own)
    assert all("all times modelled; aiconfigurator has no kernels" in text for text in said(plan)) and said(plan)


def test_drafted_tokens_and_pipeline_stages_are_not_asked_for(ask: ServeQuery, kernels: Kernels) -> None:
    kernels.slower = 100.0
    query = narrowed(
        ask, supply__chips=["h100-sxm"], workload__speculative={"tokens": [2], "acceptance": 0.7, "cost": 0.05},
        workload__parallelism__tp=[1],
    )  # fmt: skip
    plan: Plan = query.solve()  # type: ignore[attr-defined]
    assert plan.status == "optimal" and all("all times modelled" in text for text in said(plan))
    staged: Plan = narrowed(query, workload__speculative=None).solve()  # type: ignore[attr-defined]
    assert staged.fleet and all(pool.layout.pipeline_parallel > 1 for pool in staged.fleet)  # one stage is far too slow


def test_a_moved_figure_moves_measured_times_as_modelled_ones(ask: ServeQuery, kernels: Kernels) -> None:
    """The comparison stays that of the packaged chip: with faster memory, a step is as much shorter as the model's own."""
    query = narrowed(ask, supply__chips=["h100-sxm"], workload__disaggregation="[none]")
    ratios = []
    for one in (query, narrowed(query, calibration=None)):
        memory = Memory()
        prepare(one, memory=memory)
        (key, today), *_ = memory.surveys.items()
        faster = world(one, {"memory bandwidth": 1.5}, memory)
        prepare(one, memory=faster)
        moved = faster.surveys[key]
        pairs = {
            (s, b): t for s, b, t in zip(moved.tried.shape, moved.tried.batch, moved.tried.step_s, strict=True)
        }  # fmt: skip
        ratios.append(
            np.array([pairs.get((s, b), np.nan) / t
                      for s, b, t in zip(today.tried.shape, today.tried.batch, today.tried.step_s, strict=True)])
        )  # fmt: skip
    both = np.isfinite(ratios[0]) & np.isfinite(ratios[1])
    assert both.sum() > 50 and ratios[0][both] == pytest.approx(ratios[1][both]) and ratios[0][both].min() < 0.9


def test_the_users_constants_and_measured_kernels_may_be_given_together(ask: ServeQuery, kernels: Kernels) -> None:
    plain = narrowed(ask, calibration=None)
    assert ask.digest() != plain.digest()
    assert ask.to_dict(complete=True)["calibration"] == {"source": "aiconfigurator"}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{source: aiconfig}", 'did you mean "aiconfigurator"?'),
        ("{sorce: aiconfigurator}", 'calibration.sorce: unknown key; did you mean "source"?'),
    ],
)
def test_faults_are_one_line(tmp_path: Path, value: str, words: str) -> None:
    path = tmp_path / "ask.yaml"
    path.write_text(QUESTION.replace("{source: aiconfigurator}", value), encoding="utf-8")
    with pytest.raises(QueryError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}:8: calibration") and words in str(raised.value)


def test_a_training_question_has_no_measured_kernels() -> None:
    from planner.calibrated import constants_of

    query = Query.from_dict(
        {"schema": "wallplan/v1", "kind": "train", "calibration": {"source": "aiconfigurator"},
         "workload": {"model": "llama-3.1-8b", "sequence_length": 8192, "global_batch": 128}}
    )  # fmt: skip
    with pytest.raises(QueryError, match="measured kernels are of serving"):
        constants_of(query)  # type: ignore[arg-type]


@pytest.mark.skipif(importlib.util.find_spec("aiconfigurator") is not None, reason="aiconfigurator is installed")
def test_without_the_package_one_line_says_what_to_install(ask: ServeQuery) -> None:
    silicon.aiconfigurator.cache_clear()
    result = CliRunner().invoke(app, ["solve", ask.source, "--quiet"])
    missing = "needs the package aiconfigurator, which is not installed: pip install 'wallplan[silicon]'"
    assert result.exit_code == 2 and result.stderr.strip() == f"{ask.source}:8: calibration.source: {missing}"
