"""The command as a user runs it: what it prints where, its exit codes, and what it says to bad input.

A few tests start a process; the others call the same command inside this one, which is quicker.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from command import run

from planner import Plan

EXAMPLES = Path(__file__).parents[2] / "examples"

QUESTION = """\
schema: wallplan/v1
kind: serve
name: small
workload:
  model: llama-3.1-8b
  rate: 5/s
  tokens: {input: 500, output: 100}
  precision: [bf16]
sla:
  ttft: {p99: 2 s}
  tpot: {p99: 80 ms}
supply:
  chips: [h100-sxm]
  offers: [on-demand]
regions: {allow: ["lambda/*"]}
minimize: cost
"""


def process(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "planner.cli", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.fixture
def question(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(QUESTION)
    return path


# ---------------------------------------------------------------- a session


def test_solve_then_evaluate_in_processes_of_their_own(question: Path) -> None:
    folder = question.parent
    solved = process("solve", "small.yaml", "-o", "plan.json", "--format", "json", cwd=folder)
    assert solved.returncode == 0 and solved.stderr == ""
    plan = json.loads(solved.stdout)
    assert {"status", "objective", "fleet", "walls", "certificate"} <= set(plan)
    assert {"lower_bound", "objective", "gap", "rounds", "solver", "forward_check", "cross_check"} <= set(plan["certificate"])
    assert Plan.load(folder / "plan.json") == Plan.from_json(solved.stdout)
    assert sorted(path.name for path in folder.iterdir()) == ["plan.json", "small.yaml"]
    evaluated = process("evaluate", folder / "plan.json", cwd=Path("/"))
    assert evaluated.returncode == 0 and "every wall holds" in evaluated.stdout and evaluated.stderr == ""


def test_an_impossible_question_names_the_clash_and_the_way_out(question: Path) -> None:
    beaten = process("solve", "small.yaml", "--format", "json", "--set", "limits.cost=0.5 USD/h", cwd=question.parent)
    assert beaten.returncode == 3 and beaten.stderr == ""
    plan = json.loads(beaten.stdout)
    assert plan["status"] == "infeasible" and plan["objective"] is None and plan["fleet"] == []
    assert "limits.cost" in {conflict["clause"] for conflict in plan["conflict"]}
    fix = next(fix for fix in plan["fixes"] if fix["clause"] == "limits.cost")
    afforded = run("solve", question, "--set", f"limits.cost={fix['value'].replace(' / ', '/')}", "-f", "json")
    assert afforded.exit_code == 0
    assert json.loads(afforded.stdout)["objective"] == pytest.approx(fix["objective"])


def test_the_command_is_installed_and_says_what_it_does() -> None:
    shown = process("--help", cwd=Path("/"))
    assert shown.returncode == 0 and shown.stderr == ""
    for verb in ("solve", "evaluate", "check", "schema", "zoo"):
        assert re.search(rf"^\s+{verb} ", shown.stdout, re.MULTILINE), verb
        assert run(verb, "--help").exit_code == 0
    assert re.fullmatch(r"wallplan \d+\.\d+\.\d+\n", run("--version").stdout)


def test_nothing_is_cut_off_at_80_columns(question: Path) -> None:
    wide = "a-clause-with-a-long-name-that-has-to-stay-readable-" + "x" * 60
    result = process("solve", "small.yaml", "--set", f"name={wide}", cwd=question.parent, COLUMNS="80", TERM="dumb")
    assert result.returncode == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines()[1:])
    assert "…" not in result.stdout and wide in result.stdout
    plan = json.loads(run("solve", question, "-f", "json").stdout)
    for pool in plan["fleet"]:  # cells wrap: every letter of a name is there
        column = re.sub(r"\s+", "", "".join(line[4:30] for line in result.stdout.splitlines()))
        assert pool["offer"].partition("/")[0] in column


def test_the_reader_of_a_pipe_may_leave(question: Path) -> None:
    piped = subprocess.run(
        f"'{sys.executable}' -m planner.cli zoo list offers --format csv | head -n 2", shell=True, capture_output=True, text=True
    )
    assert piped.returncode == 0 and piped.stderr == "" and len(piped.stdout.splitlines()) == 2


# ---------------------------------------------------------------- formats


def test_formats_of_a_plan(question: Path) -> None:
    plan = json.loads(run("solve", question, "--format", "json").stdout)
    rows = list(csv.DictReader(io.StringIO(run("solve", question, "--format", "csv").stdout)))
    assert [row["offer"] for row in rows] == [pool["offer"] for pool in plan["fleet"]]
    assert float(rows[0]["cost_usd_per_h"]) == plan["fleet"][0]["cost_usd_per_h"]
    markdown = run("solve", question, "--format", "md").stdout
    assert "## Fleet" in markdown and f"| {plan['fleet'][0]['offer']} |" in markdown
    bars = [line.count("|") for line in markdown.splitlines() if line.startswith("| #")]
    assert bars and all(count > 2 for count in bars)
    table = run("solve", question)
    assert "proven optimal" in table.stdout.splitlines()[0] and table.stderr == ""
    assert plan["certificate"]["forward_check"] == "every wall holds"


def test_check_reads_without_solving(question: Path) -> None:
    checked = run("check", question)
    assert checked.exit_code == 0 and "well formed" in checked.stdout
    facts = json.loads(run("check", question, "--format", "json").stdout)
    assert facts["ok"] is True and facts["model"] == "llama-3.1-8b" and facts["chips"] == "h100-sxm"
    assert any("TTFT" in clause for clause in facts["clauses"])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("serve-*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_well_formed(path: Path) -> None:
    assert run("check", path).exit_code == 0
    schema = json.loads(run("schema", "query").stdout)
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_schemas_describe_what_is_written(question: Path) -> None:
    plan = json.loads(run("solve", question, "-f", "json").stdout)
    jsonschema.validate(plan, json.loads(run("schema", "plan").stdout))
    schema = json.loads(run("schema").stdout)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**yaml.safe_load(QUESTION), "minimise": "cost"}, schema)


@pytest.mark.parametrize("kind", ["chips", "models", "regions", "offers", "fabrics", "storage"])
def test_lists_of_the_zoo(kind: str) -> None:
    listed = run("zoo", "list", kind, "--format", "json")
    records = json.loads(listed.stdout)
    assert listed.exit_code == 0 and listed.stderr == "" and len(records) > 5
    assert all(record["name"] and "source" in record for record in records)
    rows = list(csv.DictReader(io.StringIO(run("zoo", "list", kind, "-f", "csv").stdout)))
    assert [row["name"] for row in rows] == [record["name"] for record in records]
    name = records[len(records) // 2]["name"]
    shown = run("zoo", "show", name, "--format", "json")
    assert shown.exit_code == 0
    some = run("zoo", "list", kind, "--match", name)
    assert some.exit_code == 0 and "…" not in some.stdout
    assert all(len(line) <= 80 for line in some.stdout.splitlines())


def test_one_record_is_shown_whole_with_its_source() -> None:
    shown = run("zoo", "show", "H100-SXM5-80GB")
    assert shown.exit_code == 0 and "h100-sxm" in shown.stdout and "source" in shown.stdout
    assert run("zoo", "show", "llama-3.1-70b").exit_code == 0
    assert run("zoo", "show", "aws/us-east-1").exit_code == 0


def test_a_zoo_file_of_ones_own_is_listed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("chips:\n  mine: {base: h100-sxm, memory: 96 GiB}\n")
    assert "mine" in run("zoo", "list", "chips", "--zoo", mine, "--match", "mine").stdout
    record = json.loads(run("zoo", "show", "mine", "--zoo", mine, "--format", "json").stdout)
    assert record["memory"] == "96 GiB" and record["source"] == str(mine)


# ---------------------------------------------------------------- exit codes


def test_a_changed_plan_fails_its_evaluation(question: Path, tmp_path: Path) -> None:
    saved = json.loads(run("solve", question, "--set", "workload.rate=2000/s", "-f", "json").stdout)
    assert run("evaluate", written(tmp_path, saved)).exit_code == 0
    for pool in saved["fleet"]:
        pool["instances"] = 1
    result = run("evaluate", written(tmp_path, saved), "--format", "json")
    assert result.exit_code == 4 and "wall 7" in result.stderr
    assert json.loads(result.stdout)["violations"]


def written(folder: Path, plan: dict[str, Any]) -> Path:
    path = folder / "changed.json"
    path.write_text(json.dumps(plan))
    return path


def test_no_time_is_no_proof(question: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner import certify
    from planner.program import Solution

    monkeypatch.setitem(
        certify.SOLVERS, "highs", lambda program, seconds, gap: Solution("stopped", None, None, 7, "none", seconds)
    )
    result = run("solve", question, "--format", "json")
    assert result.exit_code == 5
    plan = json.loads(result.stdout)
    assert plan["status"] == "stopped" and plan["objective"] is None and plan["fleet"] == []
    assert "without" in run("solve", question).stdout.splitlines()[0]


# ---------------------------------------------------------------- bad input

PRICE = 'zoo: [mine.yaml]\nsupply:\n  chips: [mine]\nregions: {allow: ["home/*"]}\n'
BAD: list[tuple[str, str, str, int | None, str, str]] = [
    # what, text replaced, by, line, key, words
    ("unknown key", "minimize: cost", "minimise: cost", 16, "minimise", 'did you mean "minimize"'),
    ("unknown key inside", "  rate: 5/s", "  rte: 5/s", 6, "workload.rte", 'did you mean "rate"'),
    ("unknown model", "llama-3.1-8b", "llama-3.1-8bb", 5, "workload.model", "did you mean 'llama-3.1-8b'"),
    ("not a language model", "llama-3.1-8b", "resnet-50", 5, "workload.model", "decoder"),
    ("unknown chip", "[h100-sxm]", "[h100-smx]", 13, "supply.chips[0]", "did you mean 'h100-sxm'"),
    ("unpriced chip", "[h100-sxm]", "[tpu-v1]", 13, "supply.chips[0]", ""),
    ("unknown region", '["lambda/*"]', "[aws/us-eas-1]", 15, "regions.allow[0]", "did you mean 'aws/us-east-1'"),
    ("unknown purchase", "[on-demand]", "[ondemand]", 14, "supply.offers[0]", 'did you mean "on-demand"'),
    ("unknown precision", "[bf16]", "[bf61]", 8, "workload.precision[0]", 'did you mean "bf16"'),
    ("bare number", "rate: 5/s", "rate: 5", 6, "workload.rate", 'such as "200/s"'),
    ("bare time", "{p99: 2 s}", "{p99: 2}", 10, "sla.ttft.p99", 'such as "500 ms"'),
    ("wrong dimension", "{p99: 2 s}", "{p99: 500 GB}", 10, "sla.ttft.p99", "expected time"),
    ("unknown unit", "{p99: 2 s}", "{p99: 2 sx}", 10, "sla.ttft.p99", "unknown unit"),
    ("negative rate", "rate: 5/s", "rate: -5/s", 6, "workload.rate", "not above zero"),
    ("zero rate", "rate: 5/s", "rate: 0/s", 6, "workload.rate", "not above zero"),
    ("huge rate", "rate: 5/s", "rate: 5e12/s", 6, "workload.rate", "too large"),
    ("a number with an exponent", "rate: 5/s", "rate: 1e9", 6, "workload.rate", "bare number"),
    ("no, which is text", "name: small", "name: small\nsolver: {engine: no}", 4, "solver.engine", '"no" is no engine'),
    ("no, where a flag stands", "  offers: [on-demand]", "  mixed: no", 14, "supply.mixed", "neither true nor false"),
    ("a date", "name: small", "name: 2026-01-01\nlimits: {cost: 2026-01-01}", 4, "limits.cost", ""),
    ("duplicate key", "minimize: cost", "minimize: cost\nminimize: carbon", 17, "minimize", "twice"),
    ("tab", "  rate: 5/s", "\trate: 5/s", 6, "", "tab"),
    ("open bracket", "[bf16]", "[bf16", None, "", "not valid YAML"),
    ("mean TTFT", "{p99: 2 s}", "{mean: 2 s}", 10, "sla.ttft.mean", "percentile"),
    ("missing key", "  rate: 5/s\n", "", 4, "workload", "no demand"),
    ("missing zoo file", "minimize: cost", "zoo: [none.yaml]", 16, "zoo[0]", "no such file"),
    ("missing config", "llama-3.1-8b", "none/config.json", 5, "workload.model", "no such file"),
    ("kind of question", "kind: serve", "kind: place", 2, "kind", "not supported yet"),
    ("price that hits nothing", "minimize: cost", "prices: {overlays: [{match: {chip: h200-smx}, adjust: -7%}]}", 16,
     "prices.overlays[0]", "did you mean 'h200-sxm'"),
    ("unknown city", "  rate: 5/s", "  populations: [{name: a, rate: 5/s, near: [Franckfurt]}]", 6,
     "near[0]", "did you mean 'Frankfurt'"),
    ("unknown residency", "  rate: 5/s", "  populations: [{name: a, rate: 5/s, residency: EUU}]", 6,
     "residency", "did you mean 'EU'"),
    ("quota of nothing", "minimize: cost", "x: 1\nminimize: cost", 16, "x", "unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "key", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_fault_is_one_line_with_file_line_key_and_expectation(
    old: str, new: str, line: int | None, key: str, words: str, question: Path
) -> None:
    assert old in QUESTION
    question.write_text(QUESTION.replace(old, new, 1))
    refused(question, line, key, words)


def refused(question: Path, line: int | None, key: str, words: str) -> None:
    """Nothing on stdout, one clear line on stderr, exit code 2, and no plan file, whole or in parts."""
    before = sorted(question.parent.iterdir())
    for verb in ("check", "solve"):
        output = ["-o", question.parent / "plan.json"] if verb == "solve" else []
        result = run(verb, question, *output)
        assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
        assert result.stdout == ""
        said = result.stderr.rstrip("\n")
        assert "\n" not in said and len(said) < 500 and "Traceback" not in said
        assert said.startswith(f"{question}:{line}: " if line else str(question)), said
        assert key in said and words in said, said
    assert sorted(question.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n\n# nothing\n", "holds nothing"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00", "binary"),
        (b"rate: \xff\xfe" + bytes(range(256)), "not UTF-8"),
        (b"- a\n- b\n", "a list"),
        (b"just words", "single value"),
        (b"a: &a [*a]\n", ""),
        (b"[" * 5000, ""),
        (b"x: " + b"y" * 50_000_000, "larger than"),
    ],
    ids=["empty", "comments", "binary", "not UTF-8", "list", "words", "circle", "deep", "50 MB"],
)
def test_files_that_are_no_question(content: bytes, words: str, question: Path) -> None:
    question.write_bytes(content)
    refused(question, None, "", words)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "folder")):
        for verb in ("solve", "check", "evaluate"):
            result = run(verb, path)
            assert result.exit_code == 2 and result.stdout == "", verb
            assert str(path) in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
            if verb != "evaluate":
                assert words in result.stderr


ZOO_FAULTS: list[tuple[str, str, str]] = [
    ("prices:\n  - {region: home/a, instance: i, chip: h100-sxm, price: 3 USD/h}", "prices[0].region", "unknown region"),
    (
        "prices:\n  - {region: aws/us-east-1, instance: i, chip: h100-smx, price: 3 USD/h}",
        "prices[0].chip",
        "did you mean 'h100-sxm'",
    ),
    ("prices:\n  - {region: aws/us-east-1, instance: i, chip: h100-sxm}", "prices[0]", "lacks price"),
    ("prices:\n  - {region: aws/us-east-1, instance: i, chip: h100-sxm, price: -3 USD/h}", "prices[0].price", "negative"),
    ("prices:\n  - {region: aws/us-east-1, instance: i, chip: h100-sxm, price: 3}", "prices[0].price", "bare number"),
    ("chips:\n  mine: {memory: 80 GiB}", "chips.mine", "lacks"),
    ("chips:\n  mine: {base: h100-sxm, memmory: 80 GiB}", "chips.mine.memmory", "did you mean 'memory'"),
    ("chip:\n  mine: {base: h100-sxm}", "chip", "did you mean 'chips'"),
]


@pytest.mark.parametrize(("text", "key", "words"), ZOO_FAULTS, ids=[words for _, _, words in ZOO_FAULTS])
def test_faults_of_a_zoo_file_name_that_file(text: str, key: str, words: str, question: Path) -> None:
    mine = question.with_name("mine.yaml")
    mine.write_text(text)
    question.write_text(QUESTION + "zoo: [mine.yaml]\n")
    for verb in ("solve", "check"):
        result = run(verb, question)
        assert result.exit_code == 2 and result.stdout == ""
        assert re.match(rf"{re.escape(str(mine))}:\d+: {re.escape(key)}: ", result.stderr), result.stderr
        assert words in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_chip_that_nobody_offers(question: Path) -> None:
    question.with_name("mine.yaml").write_text("chips:\n  mine: {base: h100-sxm}\n")
    question.write_text(QUESTION.replace("[h100-sxm]", "[h100-sxm, mine]") + "zoo: [mine.yaml]\n")
    refused(question, 13, "supply.chips[1]", "nobody offers 'mine' at a known price")


def test_a_place_where_nobody_offers_anything(question: Path) -> None:
    region = "{country: NO, latitude: 60, longitude: 10, average_intensity: 30 gCO2e/kWh}"
    question.with_name("mine.yaml").write_text(f"regions:\n  home/cellar: {region}\n")
    question.write_text(QUESTION.replace('["lambda/*"]', "[home/cellar]") + "zoo: [mine.yaml]\n")
    refused(question, 15, "regions.allow[0]", "nobody offers anything in 'home/cellar'")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--set", "sla.ttft.p99=300 GB"), "--set sla.ttft.p99: "),
        (("--set", "sla.ttft.p99"), "expected PATH=VALUE"),
        (("--set", "slaa.ttft.p99=1 s"), 'did you mean "sla"'),
        (("--format", "jsn"), 'did you mean "json"'),
        (("-o", "no/such/folder/plan.json"), "does not exist"),
        (("-o", "/"), "folder"),
    ],
)
def test_faults_of_the_command_line(arguments: tuple[str, ...], words: str, question: Path) -> None:
    result = run("solve", question, *arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(question: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    result = run("solve", question, "-o", locked / "plan.json")
    assert result.exit_code == 2 and result.stdout == "" and "denied" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zoo", "list", "chps"), 'did you mean "chips"'),
        (("zoo", "show", "h100-smx"), "did you mean 'h100-sxm'"),
        (("zoo", "list", "chips", "--zoo", "none.yaml"), "no such file"),
        (("schema", "quary"), "unknown schema"),
    ],
)
def test_faults_of_other_verbs(arguments: tuple[str, ...], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": "wallplan/plan/v9"}', "\x00\x01", '{"schema_version": NaN}'])
def test_what_is_no_plan_cannot_be_evaluated(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    result = run("evaluate", path)
    assert result.exit_code == 2 and result.stdout == "" and str(path) in result.stderr
    assert len(result.stderr.splitlines()) == 1
