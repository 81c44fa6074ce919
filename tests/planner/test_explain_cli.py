"""`explain` and `alternatives` as a user runs them: what they print, in every format, and what they say to bad input."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import answer_once, run

from planner.certify import Certificate
from planner.plan import CLASH, REST, Fix, Marginal, Plan, WhyNot
from planner.prepare import prove
from planner.report.tables import conflict_tables, cut_short, fix_rows, nearest_notes

QUESTION = """\
schema: wallplan/v1
kind: serve
name: small
workload:
  model: llama-3.1-8b
  rate: 5/s
  tokens: {input: 500, output: 100}
  precision: [bf16]
sla: {ttft: {p99: 2 s}, tpot: {p99: 80 ms}}
supply: {chips: [h100-sxm, l40s], offers: [on-demand]}
regions: {allow: ["lambda/*", "crusoe/*"]}
"""


IMPOSSIBLE = ("--set", "sla.ttft.p99=1 ms", "--set", "limits.cost=0.01 USD/h")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    (folder / "small.yaml").write_text(QUESTION)
    assert run("solve", folder / "small.yaml", "-o", folder / "plan.json").exit_code == 0
    return folder / "plan.json"


@pytest.fixture(scope="module")
def infeasible(plan: Path) -> Path:
    path = plan.with_name("infeasible.json")
    assert run("solve", plan.with_name("small.yaml"), "-o", path, *IMPOSSIBLE).exit_code == 3
    return path


# What is asked, and the function that answers it.
VERBS = [
    (("explain",), "marginal.marginals"), (("explain", "--tornado"), "sensitivity.tornado"),
    (("explain", "--synthesis", "l40s", "--budget", "1 USD/h"), "synthesis.synthesis"),
    (("explain", "--why-not", "chip=l40s,tp=2"), "whynot.why_not"), (("explain", "--wall", "7"), "arguments.page_of"),
    (("alternatives", "--within", "1000%"), "alternatives.alternatives"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "answers"), VERBS, ids=[" ".join(verb) for verb, _ in VERBS])
def test_every_format(verb: tuple[str, ...], answers: str, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = answers.partition(".")
    answer_once(monkeypatch, f"planner.{module}", name)
    for format in ("table", "json", "csv", "md"):
        result = run(verb[0], plan, *verb[1:], "--format", format)
        assert result.exit_code == 0, result.stderr
        assert result.stderr == ""
        if format == "json":
            assert json.loads(result.stdout)
        elif format == "csv":
            assert list(csv.DictReader(io.StringIO(result.stdout)))
        elif format == "table":
            assert max(map(len, result.stdout.splitlines())) <= 80
        else:
            assert result.stdout.startswith("# ") and "\n## " in result.stdout


@pytest.mark.parametrize("verb", [("explain",), ("alternatives",)], ids=" ".join)
def test_a_proof_that_the_time_did_not_allow_is_no_invalid_input(
    verb: tuple[str, ...], plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **options: Any) -> Certificate:
        return replace(prove(*arguments, **options), status="stopped", objective=None)

    for module in ("marginal", "alternatives"):
        monkeypatch.setattr(f"planner.{module}.prove", stopped)
    result = run(verb[0], plan, *verb[1:])
    assert result.exit_code == 5 and result.stdout == "" and result.stderr.count("\n") == 1
    assert result.stderr.startswith("solver.time: 60 s ended before the proof")


def test_a_choice_whose_proof_was_stopped_is_not_called_dearer(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Plan.load(plan)
    for best in (known, known.model_copy(update={"objective": None, "fleet": ()})):
        monkeypatch.setattr("planner.whynot.solve", lambda *_, best=best: best.model_copy(update={"status": "stopped"}))
        shown, said = (run("explain", plan, "--why-not", "tp=2", "--format", format) for format in ("table", "json"))
        (answer,) = json.loads(said.stdout)
        assert shown.exit_code == said.exit_code == 5 and "stopped without proof" in shown.stdout
        assert (answer["status"], answer["objective"]) == ("stopped", best.objective)
        assert answer["dearer_by"] is answer["ratio"] is answer["wins_at"] is None
        assert ("the best so far" in answer["note"]) == bool(best.fleet) and "solver.time" in answer["note"]
        assert "What removes" not in shown.stdout


def test_what_was_not_proven_is_said_below_everything_that_was(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Marginal(
        number=7, name="tail latency", knob="TTFT p99", origin="query", value="2 s", binding=True, per_percent=0.0,
        unit_step="10 ms", per_unit=0.5, unit="USD/h", costs_per_percent=1.0,
    )  # fmt: skip
    left = {"knob": "rate", "per_percent": None, "per_unit": None, "costs_per_percent": None, "proven": False}
    rows = (known, known.model_copy(update=left | {"binding": False}), known.model_copy(update=left | {"knob": "quota 0"}))
    monkeypatch.setattr("planner.marginal.marginals", lambda *_: rows)
    results = {format: run("explain", plan, "--format", format) for format in ("table", "json", "csv", "md", "html")}
    assert {result.exit_code for result in results.values()} == {5} and not any(result.stderr for result in results.values())
    lines = results["table"].stdout.splitlines()
    assert max(map(len, lines)) <= 80
    (state,) = [line for line in lines if "rate, 2 s" in line and "query" in line]
    assert "not proven" in state and "binds" not in state
    shown = " ".join(results["table"].stdout.split())
    assert '--set solver.time="5 min"' in shown and "?: none, or not proven" in shown
    said = json.loads(results["json"].stdout)
    assert [(row["proven"], row["per_percent"]) for row in said] == [(True, 0.0), (False, None), (False, None)]
    assert [row["proven"] for row in csv.DictReader(io.StringIO(results["csv"].stdout))] == ["True", "False", "False"]
    assert "binds; rest not proven" in results["md"].stdout
    monkeypatch.setattr("planner.marginal.marginals", lambda *_: rows[:1])
    result = run("explain", plan)
    assert result.exit_code == 0 and "not proven" not in result.stdout


def test_a_choice_that_is_dearer_keeps_its_answer_where_its_prices_were_not_proven(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = WhyNot(
        what="tp=2", status="optimal", objective=9.0, unit="USD/h", dearer_by=1.0, ratio=1.125, wins_at=None, conflict=(),
        fixes=(), removed=(), fleet=(), note="solver.time: 60 s ended", proven=False,
    )  # fmt: skip
    monkeypatch.setattr("planner.whynot.why_not", lambda *_: answer)
    result = run("explain", plan, "--why-not", "tp=2")
    assert result.exit_code == 5 and "dearer" in result.stdout and "solver.time" in result.stdout


def test_an_explanation_can_be_given_more_time(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("planner.marginal.marginals", lambda plan, query, *_: asked.append(query) or ())
    assert run("explain", plan, "--set", "solver.time=5 min", "--set", "solver.engine=cpsat").exit_code == 0
    (query,) = asked
    assert float(query.solver.time.m_as("s")) == 300 and query.solver.engine == "cpsat"
    assert query.clauses() and query.sla.ttft["p99"].m_as("s") == 2


def test_an_infeasible_answer_is_explained(infeasible: Path) -> None:
    said = json.loads(run("explain", infeasible, "--format", "json").stdout)
    assert said["status"] == "infeasible" and said["conflict"] and said["further"] and said["fixes"] and said["nearest"]
    shown = run("explain", infeasible)
    assert shown.exit_code == 0 and "clash 1 of 2" in shown.stdout and "No single change is enough" in shown.stdout
    lines = list(csv.DictReader(io.StringIO(run("explain", infeasible, "--format", "csv").stdout)))
    assert {"clash 1", "clash 2", "repair", "no repair alone", "nearest plan"} <= {line["part"] for line in lines}
    # every clause of a clash is repaired alone or said not to be
    alone = {fix["clause"] for fix in said["fixes"] if " + " not in fix["clause"]}
    assert alone | set(said["not_enough_alone"]) == {c["clause"] for clash in (said["conflict"], *said["further"]) for c in clash}
    assert lines[0]["part"] == "verdict" and lines[0]["status"] == "infeasible" and lines[0]["text"] == "small"
    for command in (("explain", infeasible), ("solve", infeasible.with_name("small.yaml"), *IMPOSSIBLE)):
        assert run(*command, "--format", "md").stdout.startswith("# small: proven infeasible\n\n## ")
    assert max(map(len, shown.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("explain", "--why-not", "chp=l40s"), 'did you mean "chip"'),
        (("explain", "--why-not", "chip=l40z"), "l40s"),
        (("explain", "--why-not", "tp=2", "--why-not", "chip=l40z"), "l40s"),
        (("explain", "--why-not", "chip=banana"), "unknown chip 'banana'; `wallplan zoo list chips` lists them"),
        (("explain", "--why-not", "cloud=xyzzy"), "unknown region 'xyzzy/*'; `wallplan zoo list regions` lists them"),
        (("explain", "--why-not", "offer=xx"), "(known: on-demand, spot, reserved-1y, reserved-3y)"),
        (("explain", "--why-not", "colour=red"), "expected one of chip, region, cloud"),
        (("explain", "--wall", "23"), "--wall 23"),
        (("explain", "--wall", "zzz"), "`wallplan walls` lists them all"),
        (("explain", "--synthesis", "banana"), "unknown chip 'banana'; `wallplan zoo list chips` lists them"),
        (("explain", "--budget", "1 USD/h"), "only together with --synthesis"),
        (("explain", "--plot", "a.png"), "only together with --tornado"),
        (("explain", "--tornado", "--plot", "a.gif"), "not as '.gif'"),
        (("explain", "--synthesis", "l40z"), "did you mean"),
        (("explain", "--synthesis", "l40s", "--budget", "300"), "money rate with a unit"),
        (("explain", "--synthesis", "l40s", "--budget", "3 apples"), "--budget: \"3 apples\": unknown unit 'apples'"),
        (
            ("explain", "--synthesis", "l40s", "--budget", "-5 USD/h"),
            '--budget: "-5 USD/h" is not above zero, expected money rate',
        ),
        (("explain", "--format", "xml"), "unknown format"),
        (
            ("explain", "--set", "sla.ttft.p99=3 s"),
            "--set sla.ttft.p99: the plan answers its own question; expected one of solver",
        ),
        (("explain", "--set", "solver.gap=0.01"), "expected one of solver.time, solver.engine, solver.threads"),
        (("explain", "--set", "solvr.time=5 min"), 'did you mean "solver.time"?'),
        (("explain", "--set", "solver.time=5"), "--set solver.time: bare number 5"),
        (("explain", "--set", "solver.time"), "expected PATH=VALUE"),
        (("explain", "--wall", "7", "--set", "solver.time=5 min"), "--wall 7 solves nothing"),
        (("alternatives", "--within", "many"), "--within"),
    ],
)
def test_a_fault_is_one_line(arguments: tuple[str, ...], words: str, plan: Path) -> None:
    result = run(arguments[0], plan, *arguments[1:])
    assert result.exit_code == 2 and result.stdout == ""
    assert words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


def test_every_choice_is_looked_up_before_any_is_solved(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.whynot.solve", lambda *_, **__: pytest.fail("solved before all names were looked up"))
    for wrong in ("region=mars", "chip=l40z", "precision=int3", "offer=spt"):
        result = run("explain", plan, "--why-not", "tp=2", "--why-not", wrong)
        assert result.exit_code == 2 and wrong.partition("=")[2] in result.stderr, result.output


def test_what_is_asked_twice_is_answered_once(plan: Path) -> None:
    twice = ("--why-not", "tp=2,chip=l40s", "--why-not", "chip=l40s, tp=2", "--why-not", "chip=l40s")
    answers = json.loads(run("explain", plan, *twice, "--format", "json").stdout)
    assert [answer["what"] for answer in answers] == ["tp=2,chip=l40s", "chip=l40s"]


def test_a_plan_beside_none_is_compared_by_what_forbids_it(plan: Path, infeasible: Path) -> None:
    found = json.loads(run("compare", plan, infeasible, "--format", "json").stdout)
    rows = {(row["part"], row["name"]): (row["old"], row["new"]) for row in found}
    assert rows["answer", "status"] == ("optimal", "infeasible")
    clash = rows["answer", "cannot hold together"][1]
    assert "TTFT p99 <= 1 ms" in clash and "1 more clash" in clash
    assert rows["question", "limits.cost"][0] == "-" and not {"total", "fleet", "tight"} & {part for part, _ in rows}
    assert "no difference" in run("compare", plan, plan).stdout


def test_every_repair_with_a_price_is_compared_the_cheapest_first(infeasible: Path, tmp_path: Path) -> None:
    known = Plan.load(infeasible)
    fixes = (
        Fix(clause="a + b", change="A; B", value="1; 2", objective=900.0, unit="USD/h", how="in turn", further="3; 2",
            further_objective=30.0),
        Fix(clause="d", change="D", value="?", how="not sought"),
        Fix(clause="workload.rate", change="serve 5/s", value="0.01/s", objective=3.0, unit="USD/h", demand_left=0.002),
        Fix(clause="c", change="C", value="5", objective=600.0, unit="USD/h"),
    )  # fmt: skip
    one, other = known.model_copy(update={"fixes": fixes[3:]}), known.model_copy(update={"fixes": fixes})
    one.save(tmp_path / "one.json")
    other.save(tmp_path / "other.json")
    rows = json.loads(run("compare", tmp_path / "one.json", tmp_path / "other.json", "--format", "json").stdout)
    assert [(row["part"], row["name"], row["old"], row["new"]) for row in rows] == [  # "c" is the same in both
        ("would repair it", "a + b", "-", "A: 1 and B: 2, then 900 USD/h; or further: A: 3 and B: 2, then 30 USD/h"),
        ("would repair it", "workload.rate", "-", "serve 5/s: 0.01/s, then 3 USD/h, for practically nothing"),
    ]


def test_what_needs_a_plan_says_so(infeasible: Path) -> None:
    for arguments in (("explain", infeasible, "--tornado"), ("alternatives", infeasible)):
        result = run(*arguments)
        assert result.exit_code == 2 and "infeasible" in result.stderr and len(result.stderr.splitlines()) == 1


def test_a_saved_plan_knows_where_its_question_was_written(plan: Path) -> None:
    from planner.plan import Plan
    from planner.query import ServeQuery, load

    asked = load(plan.with_name("small.yaml"))
    again = ServeQuery.of_plan(Plan.load(plan))
    assert again.clauses() == asked.clauses() and all(clause.line for clause in again.clauses())
    assert again.locate("sla.ttft.p99") == f"{plan.with_name('small.yaml')}:9: sla.ttft.p99"
    answer = json.loads(run("explain", plan, "--why-not", "precision=bf16,tp=8", "-f", "json").stdout)
    clash = json.loads(run("explain", plan, "--why-not", "chip=l40s,tp=8", "-f", "json").stdout)[0]["conflict"] or answer
    assert clash
    changed = plan.with_name("changed.json")
    assert run("solve", plan.with_name("small.yaml"), "--set", "sla.ttft.p99=3 s", "-o", changed).exit_code == 0
    clauses = {clause.path: (clause.file, clause.line) for clause in ServeQuery.of_plan(Plan.load(changed)).clauses()}
    assert clauses["sla.ttft.p99"] == ("--set", None) and clauses["sla.tpot.p99"][1] == 9


def test_repairs_are_numbered_cheapest_first_and_a_far_nearest_plan_says_so() -> None:
    dear = Fix(clause="a + b", change="A; B", value="1; 2", objective=900.0, unit="USD/h", how="in turn",
               further="3; 4", further_objective=30.0, without=20.0)  # fmt: skip
    unknown = Fix(clause="d + e", change="D; E", value="?; ?", how="not sought")
    cheap = Fix(clause="c", change="C", value="5", objective=600.0, unit="USD/h")
    assert fix_rows([unknown, dear, cheap]) == (
        ("1", "C", "5", "600 USD/h"),
        ("2", "A", "1", "900 USD/h"),
        ("", "and B", "2", ""),
        ("", "or further: A", "3", "30 USD/h"),
        ("", "and B", "4", ""),
        ("", "or without both of these", "dropped", "20 USD/h"),
        ("3", "D", "?", "-"),
        ("", "and E", "?", ""),
    )


def test_a_repair_for_practically_nothing_stands_last_and_says_so(infeasible: Path) -> None:
    whole = Fix(clause="a", change="A", value="1", objective=900.0, unit="USD/h", demand_left=0.01)
    nothing = Fix(clause="workload.rate", change="serve 200/s", value="1/s", objective=3.0, unit="USD/h", demand_left=0.005)
    unknown = Fix(clause="b", change="B", value="?", how="not sought")
    assert [row[1:] for row in fix_rows([nothing, unknown, whole])] == [
        ("A", "1", "900 USD/h"), ("B", "?", "-"), ("serve 200/s", "1/s", "3 USD/h, for practically nothing"),
    ]  # fmt: skip
    plan = Plan.load(infeasible).model_copy(update={"fixes": (nothing, whole)})
    assert "needs only" not in " ".join(nearest_notes(plan))
    shown = " ".join(" ".join(cell) for table in conflict_tables(plan) for row in (*table.rows, table.notes) for cell in [row])
    assert "less than 1 % is left" in shown


def test_the_nearest_plan_points_at_a_repair_of_less_than_half_its_price(infeasible: Path) -> None:
    plan = Plan.load(infeasible)
    assert plan.nearest is not None
    notes = {
        share: " ".join(nearest_notes(plan.model_copy(update={"fixes": (Fix(
            clause="a", change="A", value="1", objective=plan.nearest.objective, unit="USD/h", further="3",
            further_objective=plan.nearest.objective * share),)})))
        for share in (0.4, 0.6)
    }  # fmt: skip
    assert "A: 3 needs only" in notes[0.4] and "needs only" not in notes[0.6]


def test_a_chip_of_the_plan_is_told_what_to_ask_instead(plan: Path) -> None:
    result = run("explain", plan, "--synthesis", Plan.load(plan).fleet[0].chip)
    assert result.exit_code == 0 and "another chip" in result.stderr and '--budget "300 USD/h"' in result.stderr


def test_why_not_says_which_region_was_meant(plan: Path) -> None:
    region = Plan.load(plan).fleet[0].region
    short = region.partition("/")[2]
    (answer,) = json.loads(run("explain", plan, "--why-not", f"region={short}", "--format", "json").stdout)
    assert region in answer["took"]
    (answer,) = json.loads(run("explain", plan, "--why-not", "offer=spot", "--format", "json").stdout)
    if answer["dearer_by"] is not None and answer["dearer_by"] < 0:
        assert "supply.offers" in answer["note"] and "small.yaml:10" in answer["note"]


def test_two_factors_are_no_range(plan: Path) -> None:
    result = run("check", plan.with_name("small.yaml"), "--set", "uncertain={prices: [0.9, 1.2]}")
    assert result.exit_code == 2 and "low, most likely, high" in result.stderr and "±20 %" in result.stderr


def test_an_explanation_that_was_stopped_says_so_first(infeasible: Path) -> None:
    plan = Plan.load(infeasible)
    assert cut_short(plan) == ()  # of serve questions the search for more clashes is cut short, not a clash
    query = {
        "schema": "wallplan/v1",
        "kind": "train",
        "name": "t",
        "workload": {"model": "llama-3.1-8b", "sequence_length": 4096, "global_batch": 256},
        "solver": {"time": "7 s"},
    }
    left = {"clashes": "cut short", "not_looked_at": (*CLASH, *REST)}
    for stopped in (
        plan.model_copy(update=left | {"kind": "train", "query": query}),
        plan.model_copy(update=left | {"query": plan.query | {"solver": {"time": "7 s"}}}),
    ):
        said = " ".join(cut_short(stopped))
        assert "7 s" in said and "clauses that it does not need" in said and '--set solver.time="5 min"' in said
        assert REST[0] in said
        assert conflict_tables(stopped)[0].title == "Some of these cannot hold together"
