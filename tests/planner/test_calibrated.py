"""A user's own calibration in plans: it is what the answer is computed with, the plan says so, and a wrong file is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import run

from models.calibration import calibration_to, stored_calibration
from models.training_constants import training_constants
from planner import Plan, load, measurements
from planner.calibrated import assumption
from planner.query import Query, ServeQuery
from planner.records import QueryError

QUESTION = """\
schema: wallplan/v1
kind: serve
name: mine
workload: {model: llama-3.1-8b, rate: 20/s, tokens: {input: 1000, output: 250}, precision: [bf16]}
sla: {ttft: {p99: 1 s}, tpot: {p99: 50 ms}}
supply: {chips: [h100-sxm]}
calibration: slow.yaml
"""


def slow_calibration(factor: float) -> dict[str, Any]:
    """The stored calibration with every fixed time per layer and step made longer."""
    document: dict[str, Any] = {"kind": "serving", **calibration_to(stored_calibration())}
    for row in document["constants"]:
        if row["constant"] in ("step", "layer"):
            row["value"] *= factor
    return document


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(slow_calibration(2.0)), encoding="utf-8")
    (tmp_path / "training.yaml").write_text(yaml.safe_dump({"kind": "training", **training_constants().to_dict()}), "utf-8")
    (tmp_path / "ask.yaml").write_text(QUESTION, encoding="utf-8")
    return tmp_path


def test_a_plan_is_made_with_the_users_constants_and_says_so(folder: Path) -> None:
    mine = load(folder / "ask.yaml")
    assert isinstance(mine, ServeQuery)
    own, stored = mine.solve(), mine.set("calibration", None).solve()  # type: ignore[attr-defined]
    assert own.objective >= stored.objective  # slower steps never make a fleet cheaper
    assert "calibration" in own.data and "calibration" not in stored.data
    said = [a for a in own.assumptions if a.source == "query: calibration, slow.yaml"]
    assert len(said) == 1 and own.data["calibration"][:12] in said[0].text and stored_calibration().date in said[0].text
    assert any(a.source == "models/data/serving_fit.md" for a in stored.assumptions)
    saved = folder / "plan.json"
    own.save(saved)
    again = Plan.load(saved).evaluate()  # type: ignore[attr-defined]
    assert not again.violations and again.pools == own.fleet
    slowed = own.fleet[0].tpot_ms / stored.fleet[0].tpot_ms if own.fleet[0].layout == stored.fleet[0].layout else 2.0
    assert slowed > 1.01
    result = json.loads(run("evaluate", saved, "--format", "json").stdout)
    assert result["data_changed"] == []
    (folder / "slow.yaml").write_text(yaml.safe_dump(slow_calibration(3.0)), encoding="utf-8")
    changed = json.loads(run("evaluate", saved, "--format", "json").stdout)
    assert changed["data_changed"] == ["calibration"]
    assert changed["fleet"][0]["tpot_ms"] > result["fleet"][0]["tpot_ms"]


def test_a_path_alone_is_the_file(folder: Path) -> None:
    alone = load(folder / "ask.yaml")
    spelt = alone.set("calibration", {"file": "slow.yaml"})
    assert alone == spelt and alone.calibration_file == folder / "slow.yaml"
    assert Query.from_dict(alone.to_dict(complete=True), folder=folder) == alone


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("slwo.yaml", 'no such file: {folder}/slwo.yaml; did you mean "slow.yaml"?'),
        ("training.yaml", "a calibration of another kind, expected one of serving"),
        ("ask.yaml", "not a calibration: expected a file that `wallplan calibrate` wrote"),
        ("{fil: slow.yaml}", 'calibration.fil: unknown key; did you mean "file"?'),
        ("7", "7 is not a mapping, expected one such as my_calibration.yaml"),
    ],
)
def test_a_wrong_file_is_one_line(folder: Path, value: str, words: str) -> None:
    (folder / "ask.yaml").write_text(QUESTION.replace("calibration: slow.yaml", f"calibration: {value}"), encoding="utf-8")
    for command in ("check", "solve"):
        result = run(command, folder / "ask.yaml")
        assert result.exit_code == 2
        line = result.stderr.strip()
        assert "\n" not in line and f"{folder}/ask.yaml:7: calibration" in line and words.format(folder=folder) in line


def test_a_training_question_takes_training_constants(folder: Path) -> None:
    from planner.calibrated import assumption, constants_of

    question: dict[str, Any] = {
        "schema": "wallplan/v1", "kind": "train", "calibration": "training.yaml",
        "workload": {"model": "llama-3.1-8b", "sequence_length": 8192, "global_batch": 128},
    }  # fmt: skip
    query = Query.from_dict(question, folder=folder)
    assert constants_of(query).to_dict() == training_constants().to_dict()  # type: ignore[arg-type]
    assert "training.yaml" in assumption(query).source  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="of another kind, expected one of training"):
        constants_of(query.set("calibration", "slow.yaml"))  # type: ignore[arg-type]


def test_a_replica_takes_it_too(folder: Path) -> None:
    replica = folder / "replica.yaml"
    text = (
        "kind: replica\nmodel: llama-3.1-8b\nchip: h100-sxm\nprecision: bf16\nconcurrency: 8\ntokens: {input: 999, output: 9}\n"
    )
    replica.write_text(text, encoding="utf-8")
    stored = json.loads(run("evaluate", replica, "--format", "json").stdout)
    replica.write_text(text + "calibration: slow.yaml\n", encoding="utf-8")
    own = json.loads(run("evaluate", replica, "--format", "json").stdout)
    assert own["tpot_ms"]["value"] > 1.02 * stored["tpot_ms"]["value"]
    replica.write_text(text + "calibration: training.yaml\n", encoding="utf-8")
    result = run("evaluate", replica)
    assert result.exit_code == 2 and f"{replica}:7: calibration: " in result.stderr


@pytest.mark.parametrize(("kind", "name"), [("serving", "slow.yaml"), ("training", "training.yaml")])
def test_a_calibration_of_another_version_says_who_wrote_it(folder: Path, kind: str, name: str) -> None:
    document = yaml.safe_load((folder / name).read_text(encoding="utf-8"))
    document["wallplan"] = "0.0.9"
    del document["constants"]
    (folder / "old.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(measurements.MeasurementsError, match=r"old\.yaml: .*constants.*written by wallplan 0\.0\.9") as caught:
        measurements.read(kind, folder / "old.yaml")
    assert "wallplan calibrate" in str(caught.value)


def test_the_day_of_the_fit_is_said_of_both_models(folder: Path) -> None:
    trains = load(Path(__file__).parents[2] / "examples" / "train-llama405b.yaml")
    assert str(training_constants().about["fitted_on"]) in assumption(trains).text
    assert stored_calibration().date in assumption(load(folder / "ask.yaml").set("calibration", None)).text


def test_a_calibration_that_is_not_there_is_said_in_words(folder: Path) -> None:
    rows = Path(__file__).parents[2] / "models" / "data" / "training_measurements.csv"
    said = run("validate", "training", "--measurements", rows, "--calibration", folder / "none.yaml")
    assert said.exit_code == 2 and "none.yaml: cannot read: No such file or directory" in said.output
    assert "Errno" not in said.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--with", "tp=1", "--with", "tp=2"), "--with tp=2: tp is given twice, and was 1 before"),
        (("--leave-out", "model=x", "--calibration", "slow.yaml"), "which --calibration replaces: give one of them"),
        (("--leave-out", "hardware=zzz"), "no stored measurement has hardware 'zzz'; some have H100"),
        (("--with", "hardware=H10O"), "--with: hardware: unknown chip 'H10O'; did you mean 'h100-sxm'?"),
    ],
)
def test_an_option_without_effect_or_meaning_is_refused(options: tuple[str, ...], said: str) -> None:
    rows = Path(__file__).parents[2] / "models" / "data" / "serving_measurements.csv"
    result = run("validate", "serving", "--measurements", rows, *options)
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1


def test_rows_that_were_left_out_of_the_fit_are_also_judged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "_without", lambda kind, left_out, tell: stored_calibration())  # a refit takes a minute
    rows = Path(__file__).parents[2] / "models" / "data" / "serving_measurements.csv"
    report = measurements.validate("serving", rows, None, {"hardware": "MI300X-192GB"})
    assert report["left_out"] == {"hardware": "MI300X-192GB"}
    alone = report["groups"]["hardware"]["MI300X-192GB"]
    assert {name: errors["n"] for name, errors in report["unseen"].items() if errors["n"]} == {
        name: errors["n"] for name, errors in alone.items()
    }
    assert report["unseen"]["static_throughput"]["mape"] == pytest.approx(alone["static_throughput"]["mape"])
