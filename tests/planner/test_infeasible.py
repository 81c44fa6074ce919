"""Why there is no plan: the clash is minimal, every repair is exact, and both are found in worlds with planted conflicts.

Judged by forced re-solves: the questions here are put together from a table of clauses, without the code that relaxes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import tiny

from planner import prepare as preparing
from planner import solve as solving
from planner.infeasible import why_infeasible
from planner.plan import Fix
from planner.query import Query, ServeQuery
from planner.solve import solve
from zoo.catalog import Catalog
from zoo.units import Q

NO_DEMAND = "0.001/s"
HOURLY = {"cost": "USD/h", "power": "kW", "carbon": "kgCO2e/h", "water": "L/h"}
# One step of the program's integers, in the unit of the answer.
STEP = {"cost": 1e-4, "power": 1e-3, "carbon": 1e-4, "water": 1e-3}


@pytest.fixture(autouse=True)
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Catalog], None]:
    """Puts a catalogue in the place of the zoo."""

    def world(catalog: Catalog) -> None:
        for module in (preparing, solving):
            monkeypatch.setattr(module, "open_catalog", lambda query: catalog)

    return world


def best(query: ServeQuery) -> int | None:
    """The proven objective in the program's integers; None where there is no plan."""
    certificate = preparing.prove(preparing.prepare(query))
    assert certificate.status in ("optimal", "infeasible")
    return certificate.objective


# ---------------------------------------------------------------- questions from a table of clauses


@dataclass(frozen=True)
class Case:
    """A world and a question: `clauses` maps the path of each clause to its value, in the order of the question."""

    catalog: Catalog
    clauses: Mapping[str, Any]

    def ask(self, clauses: Mapping[str, Any]) -> ServeQuery:
        """The question with these clauses alone; what is missing is free."""
        data: dict[str, Any] = {
            "schema": "wallplan/v1",
            "kind": "serve",
            "workload": {"model": "toy", "rate": NO_DEMAND, "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"]},
            "sla": {"tpot": {"p50": "1000 h"}},
            "supply": {"offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"]},
        }
        quotas = []
        for path, value in clauses.items():
            if path.startswith("supply.quota"):
                quotas.append(value)
                continue
            part = data
            *folders, last = re.findall(r"p\d+\.\d+|[^.]+", path)
            for folder in folders:
                part = part.setdefault(folder, {})
            part[last] = deepcopy(value)
        if quotas:
            data["supply"]["quota"] = quotas
        return Query.from_dict(data)

    @property
    def question(self) -> ServeQuery:
        return self.ask(self.clauses)


def planted(seed: int) -> Case:
    """A world with a feasible question into which clauses are put that it cannot keep."""
    draw = Random(seed)
    chips = [
        tiny.chip(name, memory_bandwidth=Q(draw.choice([0.5, 1.0, 2.0]), "TB/s"), memory=Q(float(draw.choice([3, 4, 6])), "GiB"))
        for name in ("red", "blue")[: draw.randint(1, 2)]
    ]
    regions = [tiny.region("here/one", 100.0), tiny.region("there/two", draw.choice([20.0, 500.0]), country="DE")]
    offers = {}
    for _ in range(draw.randint(2, 4)):
        each = draw.choice([1, 2, 4])
        price, option = each * draw.choice([0.7, 1.0, 1.9]), draw.choice(["on-demand", "spot"])
        one = tiny.offer(draw.choice(regions).name, draw.choice(chips).name, price, each, option)
        offers[one.name] = one
    catalog = tiny.world(chips, [tiny.model()], regions, offers.values())
    clauses: dict[str, Any] = {
        "workload.rate": f"{draw.choice([5, 20, 47, 90])}/s",
        "sla.ttft.p99": draw.choice(["300 ms", "600 ms", "1200 ms"]),
        "sla.tpot.p99": draw.choice(["20 ms", "50 ms"]),
    }
    wrong = {
        "sla.ttft.p99": draw.choice(["9.5 ms", "12 ms", "30 ms"]),
        "sla.tpot.p99": draw.choice(["0.7 ms", "1.5 ms"]),
        "supply.chips": [chips[0].name],
        "supply.quota[0]": {"chips": draw.choice([1, 3, 5, 7])},
        "supply.offers": ["on-demand"],
        "regions.allow": ["here/*"],
        "limits.cost": f"{draw.choice([0.5, 1.3, 4.1])} USD/h",
        "limits.power": f"{draw.choice([0.3, 1.1])} kW",
        "limits.carbon": f"{draw.choice([0.01, 0.1])} kgCO2e/h",
        "limits.chips": draw.choice([1, 3, 5]),
    }
    for path in draw.sample(list(wrong), draw.randint(1, 4)):
        clauses[path] = wrong[path]
    sold = {offer.accelerator for offer in offers.values()}
    if clauses.get("supply.chips") and not set(clauses["supply.chips"]) <= sold:
        del clauses["supply.chips"]
    if clauses.get("regions.allow") and not any(offer.region == "here/one" for offer in offers.values()):
        del clauses["regions.allow"]
    return Case(catalog, clauses)


def moved(case: Case, path: str, value: Any) -> Mapping[str, Any]:
    return {**case.clauses, path: value}


def check_fix(case: Case, fix: Fix) -> None:
    """The repair holds at its objective, and one step less does not repair."""
    path, value = fix.clause, fix.value
    if value == "dropped":
        repaired = {key: old for key, old in case.clauses.items() if key != path}
        less = None
    elif path.startswith("supply.quota"):
        count, resource = value.split()
        repaired = moved(case, path, {**case.clauses[path], resource: int(count)})
        less = moved(case, path, {**case.clauses[path], resource: int(count) - 1})
    elif path == "limits.chips":
        repaired, less = moved(case, path, int(value)), moved(case, path, int(value) - 1)
    elif path.startswith("limits."):
        size, unit = value.split()
        step = STEP[path.removeprefix("limits.")]
        assert unit == HOURLY[path.removeprefix("limits.")]
        repaired, less = moved(case, path, value), moved(case, path, f"{float(size) - step:.10g} {unit}")
    elif path == "workload.rate":
        repaired, less = moved(case, path, value), moved(case, path, f"{float(value.removesuffix('/s')) + 0.001:.10g}/s")
    else:
        size = float(value.removesuffix(" ms"))
        step = 1.0 if float(case.clauses[path].removesuffix(" ms")) >= 10 else 0.1
        repaired, less = moved(case, path, value), moved(case, path, f"{size - step:.10g} ms")
    objective = best(case.ask(repaired))
    assert objective is not None, f"{fix} does not repair"
    assert fix.objective == pytest.approx(objective / 1e4)
    if less is not None:
        assert best(case.ask(less)) is None, f"{fix} moves too far"


SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_clash_is_minimal_and_the_repairs_are_exact(seed: int, put: Callable[[Catalog], None]) -> None:
    case = planted(seed)
    put(case.catalog)
    if best(case.question) is not None:
        assert solve(case.question).conflict == ()
        return
    why = why_infeasible(preparing.prepare(case.question))
    core, fixes = [clause.clause for clause in why.conflict], why.fixes
    named = {path for fix in fixes for path in fix.clause.split(" + ")}
    assert {clause.clause for clause in why.innocent if clause.clause in case.clauses} == set(case.clauses) - set(core) - named
    assert core and set(core) <= set(case.clauses)
    assert best(case.ask({path: case.clauses[path] for path in core})) is None, "the core alone does not clash"
    for path in core:
        rest = {other: case.clauses[other] for other in core if other != path}
        assert best(case.ask(rest)) is not None, f"{path} is not needed for the clash"
    alone = [path for path in core if best(case.ask({p: v for p, v in case.clauses.items() if p != path})) is not None]
    single = [fix for fix in fixes if " + " not in fix.clause]
    assert [fix.clause for fix in single] == alone, "each clause whose removal repairs has a repair, and no other"
    for fix in single:
        check_fix(case, fix)
    assert fixes, "there is always a way out: every clause can be relaxed"
