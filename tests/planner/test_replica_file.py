"""`wallplan evaluate` of a replica file: what is wrong with it, every fault with its own line, and counts as counts."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli import app

TEXT = """\
kind: replica
model: llama-3.1-70b
chip: h100-sxm
tp: 4
precision: fp8
engine: vllm
tokens: {input: 1000, output: 250}
concurrency: 32
"""


def faults(folder: Path, text: str) -> list[str]:
    file = folder / "replica.yaml"
    file.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["evaluate", str(file)])
    assert result.exit_code == 2 and not result.stdout
    return [line.removeprefix(str(folder)).lstrip("/") for line in result.stderr.splitlines()]


def test_every_fault_of_a_file_has_its_own_line(tmp_path: Path) -> None:
    wrong = TEXT.replace("tp: 4", "tpp: 4\nep: x").replace("h100-sxm", "h10O").replace("vllm", "vlm").replace("32", "32\nrate: 2")
    found = faults(tmp_path, wrong)
    assert [line.split(": ")[0] for line in found] == [f"replica.yaml:{n}" for n in (3, 4, 5, 7, 10)]
    for line, said in zip(
        found, ("chip: unknown chip", "did you mean 'tp'", "ep is 'x'", "'vllm'", "exactly one of"), strict=True
    ):
        assert said in line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("precision: fp8", "precision: fp4", "replica.yaml:5: precision is fp4, but h100-sxm has no peak at fp4"),
        ("precision: fp8", "precision: fp88", "replica.yaml:5: precision is 'fp88', expected one of"),
        ("output: 250", "output: none", "replica.yaml:7: tokens.output is 'none', expected a number above zero"),
        ("concurrency: 32", "rate: 2\narrivals: {cv: -3}", "replica.yaml:9: arrivals.cv is -3, expected a number above zero"),
        ("tp: 4", "tp: 16", "replica.yaml:4: tp is 16, but the NVLink4 domain of h100-sxm has 8 chips: neither tp nor ep may"),
        (
            "concurrency: 32",
            "rate: 2\ncalibration: {source: aiconfigurator}",
            "replica.yaml:8: rate: measured kernels are taken at",
        ),
    ],
)
def test_a_fault_between_keys_has_the_line_of_one(tmp_path: Path, old: str, new: str, line: str) -> None:
    assert faults(tmp_path, TEXT.replace(old, new))[0].startswith(line)


def test_counts_are_whole_in_json(tmp_path: Path) -> None:
    file = tmp_path / "replica.yaml"
    file.write_text(TEXT, encoding="utf-8")
    answer = json.loads(CliRunner().invoke(app, ["evaluate", str(file), "--format", "json"]).stdout)
    assert all(isinstance(answer[key], int) for key in ("chips", "tp", "concurrency", "largest_batch"))
    assert answer["batch"] <= answer["concurrency"], "sequences that decode, on average: the others wait for their first token"


def test_csv_has_every_value(tmp_path: Path) -> None:
    file = tmp_path / "replica.yaml"
    file.write_text(TEXT, encoding="utf-8")
    answer = json.loads(CliRunner().invoke(app, ["evaluate", str(file), "--format", "json"]).stdout)
    rows = list(csv.DictReader(io.StringIO(CliRunner().invoke(app, ["evaluate", str(file), "--format", "csv"]).stdout)))
    assert {row["part"] for row in rows} | ({"notes"} if not answer["notes"] else set()) == set(answer)
    parts = [float(row["value"]) for row in rows if row["part"] == "tpot_parts_ms"]
    assert sum(parts) == pytest.approx(answer["tpot_ms"]["value"])


APART = TEXT.replace("tp: 4\n", "").replace("concurrency: 32", "rate: 2")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("schema: wallplan/v9\n" + TEXT, "replica.yaml:1: schema is 'wallplan/v9', expected 'wallplan/v1'"),
        (
            TEXT.replace("concurrency: 32", "rate: 120/mn"),
            "replica.yaml:8: rate: \"120/mn\": unknown unit 'mn' (did you mean 'min'",
        ),
        (TEXT.replace("input:", "inptu:"), "replica.yaml:7: tokens: unknown key 'inptu'; did you mean 'input'?"),
        (TEXT.replace("32", "7.5"), "replica.yaml:8: concurrency is 7.5, expected a whole number above zero"),
        (APART + "prefill: {tp: 1}\n", "replica.yaml:8: decode is missing, expected replicas of either kind"),
        (
            APART + "prefill: {tp: 1, replica: 3}\ndecode: {tp: 2}\n",
            "replica.yaml:8: prefill: unknown key 'replica'; did you mean",
        ),
        (APART + "prefill: {tp: 1}\ndecode: {tp: 3}\n", "replica.yaml:9: decode.tp is 3, which does not divide the 64 heads"),
        (TEXT.replace("llama-3.1-70b", "deepseek-v3") + "ep: 3\n", "replica.yaml:9: ep is 3, which neither divides nor is a mu"),
        (TEXT + "prefill: {tp: 1}\ndecode: {tp: 2}\n", "replica.yaml:4: tp stands beside prefill and decode"),
        (
            APART + "disaggregation: pool\n",
            "replica.yaml:8: disaggregation is 'pool', expected none or pools; did you mean 'pools'",
        ),
        (
            TEXT + "speculative: {draft: llama-3.2-1, acceptance: 0.7, tokens: 2}\n",
            "replica.yaml:9: speculative.draft: unknown model",
        ),
        (
            TEXT + "speculative: {draft: ngram, acceptance: 0.7, tokens: [0, 2]}\n",
            "replica.yaml:9: speculative.tokens is [0, 2], exp",
        ),
        (
            TEXT + "speculative: {draft: mistral-7b-v0.3, acceptance: 0.7, tokens: 2}\n",
            "replica.yaml:9: speculative.draft: mistral-7b",
        ),
    ],
)
def test_a_fault_of_a_new_word_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert faults(tmp_path, text)[0].startswith(line)


def test_a_rate_has_any_unit_of_rate(tmp_path: Path) -> None:
    answers = []
    for rate in ("2", "2/s", "120/min", "7200/h"):
        file = tmp_path / "replica.yaml"
        file.write_text(TEXT.replace("concurrency: 32", f"rate: {rate}"), encoding="utf-8")
        answers.append(json.loads(CliRunner().invoke(app, ["evaluate", str(file), "--format", "json"]).stdout))
    assert all(answer["ttft_ms"] == answers[0]["ttft_ms"] for answer in answers)


def test_a_replica_is_simulated_beside_its_laws(tmp_path: Path) -> None:
    file, run = tmp_path / "replica.yaml", CliRunner().invoke
    file.write_text(TEXT.replace("concurrency: 32", "rate: 4"), encoding="utf-8")
    answer = json.loads(run(app, ["evaluate", str(file), "--simulate", "2m", "--format", "json"]).stdout)["simulation"]
    assert answer["seconds"] == 120 and {row["at"] for row in answer["rows"]} == {"mean", "p50", "p90", "p99"}
    rows = list(csv.DictReader(io.StringIO(run(app, ["evaluate", str(file), "--simulate", "120 s", "--format", "csv"]).stdout)))
    simulated = {row["what"]: row for row in rows if row["part"] == "simulation"}
    assert float(simulated["tpot_ms p90"]["value"]) == pytest.approx(answer["rows"][6]["simulated"])
    assert "law differs" in run(app, ["evaluate", str(file), "--simulate", "0.5 min", "--format", "md"]).stdout


@pytest.mark.parametrize(
    ("text", "time", "said"),
    [
        (TEXT, "5 kg", "--simulate: "), (TEXT, "0 s", "--simulate 0 s: expected a time above zero"),
        (TEXT.replace("concurrency", "batch"), "1m", "replica.yaml:8: --simulate: a static batch has no queue"),
        ("kind: scenario\n", "1m", "replica.yaml is no replica"),
    ],
)  # fmt: skip
def test_a_simulation_without_meaning_is_one_line(tmp_path: Path, text: str, time: str, said: str) -> None:
    file = tmp_path / "replica.yaml"
    file.write_text(text, encoding="utf-8")
    result = CliRunner().invoke(app, ["evaluate", str(file), "--simulate", time])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1 and not result.stdout


def test_a_file_of_one_line_is_yaml_too(tmp_path: Path) -> None:
    file = tmp_path / "replica.yaml"
    file.write_text("{kind: replica, model: llama-3.1-8b, chip: l4, precision: bf16, tokens: {input: 9, output: 9}, batch: 1}\n")
    assert CliRunner().invoke(app, ["evaluate", str(file)]).exit_code == 0


def test_no_interval_reaches_below_the_time_in_which_weights_are_read(tmp_path: Path) -> None:
    """Llama 3.1 8B without its input embedding: 8.03e9 - 128256 x 4096 = 7.50e9 weights of 2 bytes at 300 GB/s take 50.0 ms."""
    file = tmp_path / "replica.yaml"
    file.write_text(
        "{kind: replica, model: llama-3.1-8b, chip: l4, precision: bf16, tokens: {input: 9, output: 99}, concurrency: 1}\n"
    )
    said = json.loads(CliRunner().invoke(app, ["evaluate", str(file), "--format", "json"]).stdout)["tpot_ms"]
    assert said["value"] > said["low"] == pytest.approx(2 * (8.03e9 - 128256 * 4096) / 300e9 * 1e3, rel=2e-3)
