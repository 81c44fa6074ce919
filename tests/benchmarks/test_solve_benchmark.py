"""How long a user waits. Skipped unless asked for: `pytest tests/benchmarks --benchmark-only`.

Measured on two cores of a shared machine: see the docstrings, which say what is aimed at; nothing fails for being slow.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner import certify, load, marginal
from planner.columns import Memory
from planner.prepare import Prepared, open_catalog, prepare, prove
from planner.solve import solve

ROOT = Path(__file__).parents[2]
QUESTION = ROOT / "examples" / "serve-llama70b.yaml"


def process(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "planner.cli", *arguments], cwd=ROOT, check=True, capture_output=True)


def test_from_process_start_to_answer(benchmark: Any) -> None:
    """The README's question over the whole catalogue. Aim: 3 s."""
    benchmark.pedantic(process, args=("solve", str(QUESTION), "--quiet"), rounds=5, warmup_rounds=1)


def test_help(benchmark: Any) -> None:
    """Aim: 0.3 s."""
    benchmark.pedantic(process, args=("--help",), rounds=10, warmup_rounds=1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(load(QUESTION))


def test_candidates_per_second(benchmark: Any) -> None:
    """Every layout and batch of every machine through the forward models, without data loading or solving."""
    query = load(QUESTION)
    opened = Memory()
    prepare(query, memory=opened)  # the catalogue is open, tables are read

    def enumerate_all() -> Prepared:
        return prepare(query, memory=Memory(catalogs=opened.catalogs))

    found = benchmark.pedantic(enumerate_all, rounds=5)
    benchmark.extra_info["candidates"] = found.candidates
    benchmark.extra_info["candidates_per_s"] = round(found.candidates / benchmark.stats.stats.mean)


@pytest.mark.parametrize("engine", ["highs", "cpsat", "both"])
def test_proof_by_engine(benchmark: Any, prepared: Prepared, engine: str) -> None:
    """The certify loop alone, with curves that nobody has evaluated yet."""
    asked = replace(prepared, query=prepared.query.set("solver.engine", engine))

    def fresh() -> tuple[tuple[Prepared], dict[str, Any]]:
        for curve in asked.choices.curves:
            curve.known.clear()
        return (asked,), {}

    certificate = benchmark.pedantic(prove, setup=fresh, rounds=5)
    benchmark.extra_info["rounds"] = certificate.rounds
    benchmark.extra_info["curve_values"] = sum(len(curve.known) for curve in asked.choices.curves)


def test_ratio_to_plain_enumeration(benchmark: Any, prepared: Prepared) -> None:
    """The same optimum from the whole table of every curve (all unit counts up to what serves everybody), solved once.

    `extra_info["ratio"]` says how many times longer that takes than the lazily evaluated curves.
    """
    market, curves = prepared.market, prepared.choices.curves

    def carried(j: int, units: int) -> int:
        return curves[market.columns[j].curve].best(units)[0]

    def lazily() -> certify.Certificate:
        for curve in curves:
            curve.known.clear()
        return prove(prepared)

    def plainly() -> tuple[int | None, int]:
        for curve in curves:
            curve.known.clear()
        total, tables = sum(market.rates), []
        for j in range(len(market.columns)):
            units = 1
            while carried(j, units) < total:
                units += 1
            tables.append([(u, carried(j, u)) for u in range(1, units + 1)])
        # one kind of machine at a time, then every pair: what a person would write in place of a solver
        best = min(
            (market.objective[j] * units for j, table in enumerate(tables) for units, whole in table if whole >= total),
            default=None,
        )
        for i, one in enumerate(tables):
            for j, other in enumerate(tables[i + 1 :], i + 1):
                position = len(other) - 1
                for units, part in one:
                    while position > 0 and other[position - 1][1] >= total - part:
                        position -= 1
                    cost = market.objective[i] * units + market.objective[j] * other[position][0]
                    if other[position][1] >= total - part and (best is None or cost < best):
                        best = cost
        return best, sum(map(len, tables))

    certificate = benchmark.pedantic(lazily, rounds=3)
    started = time.perf_counter()
    best, values = plainly()
    seconds = time.perf_counter() - started
    assert certificate.objective is not None and best is not None
    assert certificate.objective <= best
    benchmark.extra_info["plain_s"] = round(seconds, 2)
    benchmark.extra_info["plain_curve_values"] = values
    benchmark.extra_info["ratio"] = round(seconds / benchmark.stats.stats.mean, 1)


def test_the_same_question_with_populations(benchmark: Any) -> None:
    query = load(ROOT / "examples" / "serve-populations.yaml")
    plan = benchmark.pedantic(solve, args=(query,), rounds=3, warmup_rounds=1)
    assert plan.status == "optimal"


def test_an_infeasible_question_explained(benchmark: Any) -> None:
    query = load(ROOT / "examples" / "serve-infeasible.yaml")
    plan = benchmark.pedantic(solve, args=(query,), rounds=2)
    assert plan.status == "infeasible" and plan.conflict


LIMITS = {
    "latency": ("sla.ttft.p99=100 ms",),
    "power": ("limits.power=60 kW",),
    "chips": ("limits.chips=30",),
    "carbon": ("limits.carbon=1.5 kgCO2e/h",),
    "quota": ("supply.chips=[b200-sxm]", "supply.quota=[{chip: b200-sxm, chips: 40}]"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("benchmark") / "plan.json"
    process("solve", str(QUESTION), "-o", str(path), "--quiet")
    return str(path)


def test_binding_walls_from_process_start(benchmark: Any, saved: str) -> None:
    """Aim: 5 s."""
    benchmark.pedantic(process, args=("explain", saved, "--quiet"), rounds=3)


@pytest.mark.parametrize("forced", ["chip=l40s", "tp=8", "region=eu-north-1", "precision=fp8"])
def test_one_why_not_from_process_start(benchmark: Any, saved: str, forced: str) -> None:
    """Aim: 2 s."""
    benchmark.pedantic(process, args=("explain", saved, "--quiet", "--why-not", forced), rounds=3)


@pytest.mark.parametrize("limit", LIMITS)
def test_an_infeasible_question_from_process_start(benchmark: Any, limit: str) -> None:
    """Aim: 3 s."""
    changes = [word for change in LIMITS[limit] for word in ("--set", change)]
    arguments = [sys.executable, "-m", "planner.cli", "solve", str(QUESTION), "--quiet", *changes]

    def explained() -> None:
        assert subprocess.run(arguments, cwd=ROOT, check=False, capture_output=True).returncode == 3

    benchmark.pedantic(explained, rounds=3)


def test_ratio_to_solving_from_nothing(benchmark: Any, prepared: Prepared) -> None:
    """All marginal values against as many solves that share nothing: `extra_info["ratio"]`."""
    query = prepared.query
    plan = solve(query)
    found = list(marginal.knobs(query))
    moves = [(knob, by) for knob in found for by in (knob.looser, 2 - knob.looser, knob.unit_factor) if by is not None]

    def plainly() -> None:
        for knob, by in moves:
            question, scales = marginal.moved(query, knob, by)
            nothing = Memory()
            if scales:
                nothing.catalogs[query.folder, query.zoo, query.prices] = marginal.varied(open_catalog(query), scales)
            prove(prepare(question, memory=nothing), tie_break=False)

    benchmark.pedantic(marginal.marginals, args=(plan, query), rounds=2)
    started = time.perf_counter()
    plainly()
    benchmark.extra_info["plain_s"] = round(time.perf_counter() - started, 2)
    benchmark.extra_info["ratio"] = round(benchmark.extra_info["plain_s"] / benchmark.stats.stats.mean, 1)
