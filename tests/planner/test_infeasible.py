"""Why there is no plan: the clash is minimal, every repair is exact, and both are found in worlds with planted conflicts.

Judged by forced re-solves: the questions here are put together from a table of clauses, without the code that relaxes them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, count, product
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from planner import Plan, PlanError
from planner import infeasible as explaining
from planner import prepare as preparing
from planner import solve as solving
from planner.columns import Memory
from planner.infeasible import Asker, Explanation, _clashes, _Subsets, sought, why_infeasible
from planner.plan import CLASH, REST, Fix
from planner.pyomo_milp import model
from planner.query import Clause, Query, ServeQuery
from planner.report import tables
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
        global _known
        _known = Memory()
        _best.clear()
        for module in (preparing, solving):
            monkeypatch.setattr(module, "open_catalog", lambda query: catalog)

    return world


# What machines of the world at hand can run. The judge's own: what is judged has another.
_known = Memory()
_best: dict[str, int | None] = {}


def best(query: ServeQuery) -> int | None:
    """The proven objective in the program's integers; None where there is no plan. The same question is proven once."""
    digest = query.digest()
    if digest not in _best:
        certificate = preparing.prove(preparing.prepare(query, memory=_known), tie_break=False)
        assert certificate.status in ("optimal", "infeasible")
        _best[digest] = certificate.objective
    return _best[digest]


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


def steps(case: Case, path: str, value: str, share: float = 0.0) -> tuple[Any, Any]:
    """(what a clause becomes by a move, what it is one step before that); None: the clause is gone, or nothing comes before.

    Of a latency, `share` less where that is more than a step.
    """
    if value == "dropped":
        return None, None
    if path.startswith("supply.quota"):
        count, resource = value.split()
        return ({**case.clauses[path], resource: int(count)}, {**case.clauses[path], resource: int(count) - 1})
    if path == "limits.chips":
        return int(value), int(value) - 1
    if path.startswith("limits."):
        size, unit = value.split()
        assert unit == HOURLY[path.removeprefix("limits.")]
        return value, f"{float(size) - STEP[path.removeprefix('limits.')]:.10g} {unit}"
    if path == "workload.rate":
        return value, f"{float(value.removesuffix('/s')) + 0.001:.10g}/s"
    step, size = 1.0 if float(case.clauses[path].removesuffix(" ms")) >= 10 else 0.1, float(value.removesuffix(" ms"))
    return value, f"{size - max(step, math.floor(size * share / step + 1e-6) * step):.10g} ms"


def check_fix(case: Case, fix: Fix) -> None:
    """The repair holds at its objective, and one step less of any clause that it moves does not repair.

    Moved further, its plan is at most half dearer than what no move betters; one step less it is not (1 % less, of a latency).
    """
    paths = fix.clause.split(" + ")
    if fix.how == "not sought":
        fix = sought(case.question, fix, Memory())
        assert fix.how == "in turn"
    if "workload.rate" in paths:
        then = float(fix.value.split("; ")[paths.index("workload.rate")].removesuffix("/s"))
        assert fix.demand_left == pytest.approx(then / float(case.clauses["workload.rate"].removesuffix("/s")))
    else:
        assert fix.demand_left is None
    check_moves(case, paths, fix.value.split("; "), fix.objective, None)
    if fix.without is None:
        assert fix.further is None
        return
    free = best(case.ask({path: value for path, value in case.clauses.items() if path not in paths}))
    assert free is not None and fix.objective is not None and fix.without == pytest.approx(free / 1e4)
    near = math.floor(free * 1.5)
    if fix.further is not None:
        assert fix.objective * 1e4 > near
        check_moves(case, paths, fix.further.split("; "), fix.further_objective, near)


def check_moves(case: Case, paths: list[str], values: list[str], said: float | None, most: int | None) -> None:
    """With these moves there is a plan of the objective that is said, and none (`most`: within it) with one step less of one."""
    moves = {path: steps(case, path, value, 0.01 if most else 0.0) for path, value in zip(paths, values, strict=True)}

    def with_moves(less: str | None) -> ServeQuery:
        clauses = dict(case.clauses)
        for path, (to, before) in moves.items():
            value = before if path == less else to
            if value is None:
                del clauses[path]
            else:
                clauses[path] = value
        return case.ask(clauses)

    objective = best(with_moves(None))
    assert objective is not None, f"{values} does not repair"
    assert said is not None and objective / 1e4 <= said + 1e-9 <= objective / 1e4 * (1.011 if most else 1.0) + 1e-8
    assert most is None or objective <= most
    for path, (_, before) in moves.items():
        if before is not None:
            less = best(with_moves(path))
            assert less is None or (most is not None and less > most), f"{values} moves {path} too far"


def check_clash(case: Case, core: list[str]) -> None:
    """It clashes, and does not when any one of its clauses is gone."""
    assert core and set(core) <= set(case.clauses)
    assert best(case.ask({path: case.clauses[path] for path in core})) is None, "the core alone does not clash"
    for path in core:
        rest = {other: case.clauses[other] for other in core if other != path}
        assert best(case.ask(rest)) is not None, f"{path} is not needed for the clash"


def check(case: Case) -> Explanation:
    """Everything that is said of why a question has no plan."""
    why = why_infeasible(preparing.prepare(case.question))
    core = [clause.clause for clause in why.conflict]
    further = [[clause.clause for clause in one] for one in why.further]
    for one in (core, *further):
        check_clash(case, one)
    blamed = {path for one in (core, *further) for path in one} | {p for fix in why.fixes for p in fix.clause.split(" + ")}
    assert all(len(core) <= len(one) for one in further), "the smallest clash comes first"
    assert not any(set(a) <= set(b) for a in (core, *further) for b in (core, *further) if a is not b)
    assert {clause.clause for clause in why.innocent if clause.clause in case.clauses} == set(case.clauses) - blamed
    alone = [path for path in core if best(case.ask({p: v for p, v in case.clauses.items() if p != path})) is not None]
    single = [fix for fix in why.fixes if " + " not in fix.clause]
    assert [fix.clause for fix in single] == alone, "each clause whose removal repairs has a repair, and no other"
    assert why.fixes, "there is always a way out: every clause can be relaxed"
    for fix in why.fixes:
        check_fix(case, fix)
    for fix in why.fixes:  # minimal: with any one of its clauses back as it was, the others gone, there is no plan
        for path in fix.clause.split(" + ") if fix.how not in ("least sum", "demand kept") else ():
            kept = {p: v for p, v in case.clauses.items() if p == path or p not in fix.clause.split(" + ")}
            assert best(case.ask(kept)) is None
    return why


# More of them: PLANTED=1000 pytest tests/planner/test_infeasible.py
SEEDS = range(int(os.environ.get("PLANTED", "100")))


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_conflicts(seed: int, put: Callable[[Catalog], None]) -> None:
    """The clashes are minimal and the repairs are exact."""
    case = planted(seed)
    put(case.catalog)
    if best(case.question) is not None:
        assert solve(case.question).conflict == ()
        return
    check(case)


# ---------------------------------------------------------------- conflicts that a linear program cannot see


def whole_machines(seed: int) -> tuple[Case, str, str]:
    """Machines of several chips, and a limit that lies between two whole numbers of them; its path, and by hand what would do:
    what the next whole number of machines takes."""
    draw = Random(seed)
    each = draw.choice([2, 4])
    chip = tiny.chip("red", memory_bandwidth=Q(draw.choice([0.5, 1.0, 2.0]), "TB/s"))
    region = tiny.region("here/one", draw.choice([20.0, 100.0]))
    offer = tiny.offer(region.name, "red", each * draw.choice([0.7, 1.3]), each)
    catalog = tiny.world([chip], [tiny.model()], [region], [offer])
    clauses: dict[str, Any] = {"workload.rate": "1/s", "sla.ttft.p99": "600 ms", "sla.tpot.p99": "50 ms"}
    machines = draw.randint(1, 6)
    query = Case(catalog, clauses).question
    column = preparing.prepare(query, memory=Memory(catalogs={(query.folder, query.zoo, query.prices): catalog}))
    carried = column.choices.curves[0].best(machines)[0]
    clauses["workload.rate"] = f"{carried * (1 + draw.choice([0.02, 0.1]) / machines) / 1000:.3f}/s"
    amounts, limit = column.choices.columns[0].amounts, draw.choice(["chips", "cost", "power", "quota"])
    between = machines + draw.choice([0.4, 0.8])
    if limit in ("chips", "quota"):
        count, enough = machines * each + each - 1, (machines + 1) * each
        if limit == "chips":
            return Case(catalog, clauses | {"limits.chips": count}), "limits.chips", str(enough)
        return Case(catalog, clauses | {"supply.quota[0]": {"chips": count}}), "supply.quota[0]", f"{enough} chips"
    unit, path = STEP[limit], f"limits.{limit}"
    clauses[path] = f"{amounts[limit] * between * unit:.4f} {HOURLY[limit]}"
    return Case(catalog, clauses), path, f"{amounts[limit] * (machines + 1) * unit:.10g} {HOURLY[limit]}"


def has_a_plan_in_fractions(query: ServeQuery) -> bool:
    """Whether the program that was proven infeasible has a solution once its variables need not be whole."""
    from pyomo.contrib.solver.common.results import TerminationCondition
    from pyomo.contrib.solver.solvers.highs import Highs

    program = preparing.prove(preparing.prepare(query)).program
    assert program is not None
    relaxed = replace(program, variables=tuple(replace(variable, integer=False) for variable in program.variables))
    result = Highs().solve(model(relaxed), load_solutions=False, raise_exception_on_nonoptimal_result=False)
    return result.termination_condition == TerminationCondition.convergenceCriteriaSatisfied


@pytest.mark.parametrize("seed", range(24))
def test_whole_machines_clash_where_fractions_do_not(seed: int, put: Callable[[Catalog], None]) -> None:
    case, path, enough = whole_machines(seed)
    put(case.catalog)
    assert best(case.question) is None and has_a_plan_in_fractions(case.question)
    why = check(case)
    assert not why.further and {"workload.rate", path} <= {clause.clause for clause in why.conflict}
    assert next(fix.value for fix in why.fixes if fix.clause == path) == enough


# ---------------------------------------------------------------- clashes that overlap


def every_clash(ask: Callable[[frozenset[str]], ServeQuery], paths: list[str]) -> set[frozenset[str]]:
    """The minimal clashes by trying every subset of the clauses, the smallest first."""
    found: set[frozenset[str]] = set()
    for size in range(1, len(paths) + 1):
        for kept in map(frozenset, combinations(paths, size)):
            if not any(one <= kept for one in found) and best(ask(kept)) is None:
                found.add(kept)
    return found


def check_all(why: Explanation, expected: set[frozenset[str]], paths: list[str]) -> None:
    """The clashes are these, the smallest first, and who is not to blame is in none of them."""
    clashes = [frozenset(clause.clause for clause in one) for one in (why.conflict, *why.further)]
    assert why.complete and set(clashes) == expected and len(clashes) == len(expected)
    assert len(clashes[0]) == min(map(len, expected))
    assert not {c.clause for c in why.innocent} & frozenset().union(*expected)
    blamed = frozenset().union(*expected) | {p for fix in why.fixes for p in fix.clause.split(" + ")}
    assert {c.clause for c in why.innocent} & set(paths) == set(paths) - blamed


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_what_was_found_when_the_time_ends_is_true(
    seed: int, put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that strikes with each look at it: a clash that is called minimal is, repairs are those of the whole time or
    not sought, and what was not looked at is named."""
    case = planted(seed)
    put(case.catalog)
    if best(case.question) is not None:
        return
    whole = check(case)
    fixes = {fix.clause: fix for fix in whole.fixes}
    ends = []
    for seconds in (1, 4, 9, 16, 25, 40, 60, 90, 130):
        monkeypatch.setattr(explaining, "time", SimpleNamespace(perf_counter=partial(next, count())))
        why = why_infeasible(preparing.prepare(case.question.set("solver.time", f"{seconds} s")))
        core = [clause.clause for clause in why.conflict]
        ends.append(why.left)
        if set(CLASH) <= set(why.left):
            assert best(case.ask({p: v for p, v in case.clauses.items() if p in core})) is None and not why.fixes
            continue
        check_clash(case, core)
        for fix in why.fixes:
            said = (fix.value, fix.objective)
            assert said == (fixes[fix.clause].value, fixes[fix.clause].objective) or fix.how == "not sought"
        assert why.left or {fix.clause for fix in why.fixes} == set(fixes)
    assert ends[0] == (*CLASH, *REST)


class Planted(_Subsets):
    """Clauses of which only the planted cores clash."""

    def __init__(self, clauses: list[Clause], cores: list[frozenset[int]]) -> None:
        super().__init__(tiny.question(), clauses, Asker())
        self.cores = cores

    def hold(self, kept: frozenset[int]) -> bool:
        self.asked += 1
        return not any(core <= kept for core in self.cores)


@pytest.mark.parametrize("size", range(2, 9))
def test_the_planted_cores_are_the_clashes_that_are_found(size: int) -> None:
    """A hundred systems of overlapping cores each: all of them and no other are found, and the repairs are the least sets that
    have a clause of every core, by trying all sets. Where the search is cut short, what was found is true."""
    draw = Random(size)
    clauses = [Clause(f"c{i}", f"c{i}", "", None) for i in range(size)]
    every = [frozenset(some) for k in range(size + 1) for some in combinations(range(size), k)]
    for _ in range(100):
        drawn = {frozenset(draw.sample(range(size), draw.randint(1, min(size, 4)))) for _ in range(draw.randint(1, 5))}
        cores = [core for core in drawn if not any(other < core for other in drawn)]
        hitting = [one for one in every if all(one & core for core in cores)]
        least = {one for one in hitting if not any(other < one for other in hitting)}
        found, corrections, complete, left = _clashes(Planted(clauses, cores), lambda _: None)
        assert not left
        assert len(set(found)) == len(found) and set(found) <= set(cores) and set(corrections) <= least and corrections
        assert {one for one in least if len(one) == 1} <= set(corrections)
        if complete:
            assert set(found) == set(cores) and set(corrections) == least


def two_limits() -> Case:
    """Red alone clashes with a limit of power, and with one of chips: it takes 15 chips and 9 kW, blue 12 and 7.2."""
    chips = [tiny.chip("red", memory_bandwidth=Q(0.5, "TB/s")), tiny.chip("blue", memory_bandwidth=Q(2.0, "TB/s"))]
    offers = [tiny.offer("here/one", name, 1.0) for name in ("red", "blue")]
    clauses = {
        "workload.rate": "480/s", "sla.ttft.p99": "1200 ms", "sla.tpot.p99": "50 ms", "supply.chips": ["red"],
        "limits.power": "8 kW", "limits.chips": 13,
    }  # fmt: skip
    return Case(tiny.world(chips, [tiny.model()], [tiny.region("here/one")], offers), clauses)


@pytest.mark.parametrize("case", [two_limits(), *(planted(seed) for seed in (1, 13, 15, 20, 48, 52))])
def test_every_clash_is_found_where_they_overlap(case: Case, put: Callable[[Catalog], None]) -> None:
    put(case.catalog)
    if best(case.question) is not None:
        return
    paths = list(case.clauses)
    expected = every_clash(lambda kept: case.ask({p: v for p, v in case.clauses.items() if p in kept}), paths)
    check_all(why_infeasible(preparing.prepare(case.question)), expected, paths)


def test_two_limits_that_each_clash_are_both_named_and_moved_together(put: Callable[[Catalog], None]) -> None:
    case = two_limits()
    put(case.catalog)
    why = why_infeasible(preparing.prepare(case.question))
    clashes = [{clause.clause for clause in one} for one in (why.conflict, *why.further)]
    assert any("limits.power" in one and "limits.chips" not in one for one in clashes)
    assert any("limits.chips" in one and "limits.power" not in one for one in clashes)
    assert "limits.power + limits.chips" in {fix.clause for fix in why.fixes}
    check(case)


@pytest.mark.parametrize("seed", range(16))
def test_the_least_sums_are_those_of_all_fleets(seed: int, put: Callable[[Catalog], None]) -> None:
    """Every fleet is tried: what it leaves unserved and takes beyond each limit, as shares of what was asked."""
    draw = Random(seed)
    chips = [tiny.chip("red", memory_bandwidth=Q(draw.choice([0.5, 1.0, 2.0]), "TB/s"))]
    offers = [tiny.offer("here/one", "red", draw.choice([6.0, 8.0, 20.0]), 8)]
    clauses: dict[str, Any] = {"workload.rate": f"{draw.choice([1500, 2500])}/s", "sla.ttft.p99": "600 ms"}
    free = Case(tiny.world(chips, [tiny.model()], [tiny.region("here/one")], offers), clauses)
    put(free.catalog)
    prepared = preparing.prepare(free.question, memory=_known)
    (rate,), columns = prepared.market.rates, prepared.choices.columns
    limited = draw.sample(["chips", "power", "cost"], draw.randint(1, 3))
    needed = {
        name: min(-(-rate // prepared.choices.curves[c.curve].slope) * c.amounts[name] for c in columns) for name in limited
    }
    bounds = {name: max(1, int(draw.choice([0.3, 0.5, 0.8]) * amount)) for name, amount in needed.items()}
    limits = {f"limits.{n}": b if n == "chips" else f"{b * STEP[n]:.4f} {HOURLY[n]}" for n, b in bounds.items()}
    case = Case(free.catalog, clauses | limits)
    units = np.array(list(product(range(21), repeat=len(columns))))  # of replicas on one instance, on two, ...
    tables = [[prepared.choices.curves[column.curve].best(each)[0] for each in range(21)] for column in columns]
    assert len(columns) == 4 and all(sum(table[-1:]) > rate for table in tables)
    carried = sum(np.array(table)[units[:, j]] for j, table in enumerate(tables))
    taken = {n: units @ np.array([column.amounts[n] for column in columns]) for n in limited}
    moves = np.array([np.maximum(0, 1 - carried / rate), *(np.maximum(0, taken[n] / bounds[n] - 1) for n in limited)])
    sums = {"least sum": moves.sum(axis=0), "demand kept": np.where(carried >= rate, moves.sum(axis=0), math.inf)}
    least = {how: (total.min(), np.count_nonzero(moves[:, total.argmin()])) for how, total in sums.items()}
    fixes = {fix.how: fix for fix in why_infeasible(preparing.prepare(case.question)).fixes}
    for how, (total, several) in least.items():
        fix = fixes.get(how) or fixes.get("least sum")
        if several < 2 or (how == "least sum" and total >= 1):  # a single clause does it, or nobody would be served
            continue
        assert fix is not None
        said = 0.0
        for path, value in zip(fix.clause.split(" + "), fix.value.split("; "), strict=True):
            was, now = (float(str(text).split()[0].removesuffix("/s")) for text in (case.clauses[path], value))
            said += abs(now / was - 1)
        assert said == pytest.approx(total, abs=2e-4)


def test_the_clash_that_a_reader_recognises_comes_first(put: Callable[[Catalog], None]) -> None:
    """People who must be served in Germany, and regions of Norway alone; beside it a larger clash of other clauses."""
    chips = [tiny.chip("red"), tiny.chip("blue")]
    offers = [tiny.offer("here/one", "red", 9.0), tiny.offer("here/one", "blue", 1.0), tiny.offer("there/two", "red", 1.0)]
    regions = [tiny.region("here/one"), tiny.region("there/two", country="DE")]
    put(tiny.world(chips, [tiny.model()], regions, offers))
    paths = ["workload.populations[0].rate", "workload.populations[0].residency", "supply.chips", "regions.allow", "limits.cost"]

    def ask(kept: frozenset[str]) -> ServeQuery:
        group = {"name": "a", "rate": "40/s" if paths[0] in kept else NO_DEMAND} | (
            {"residency": "DE"} if paths[1] in kept else {}
        )
        data: dict[str, Any] = {
            "schema": "wallplan/v1", "kind": "serve", "sla": {"tpot": {"p50": "1000 h"}},
            "workload": {"model": "toy", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"], "populations": [group]},
            "supply": {"offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"]},
        }  # fmt: skip
        data["supply"] |= {"chips": ["red"]} if paths[2] in kept else {}
        data |= {"regions": {"allow": ["here/*"]}} if paths[3] in kept else {}
        data |= {"limits": {"cost": "8 USD/h"}} if paths[4] in kept else {}
        return Query.from_dict(data)

    expected = every_clash(ask, paths)
    why = why_infeasible(preparing.prepare(ask(frozenset(paths))))
    check_all(why, expected, paths)
    assert {clause.clause for clause in why.conflict} == {"workload.populations[0].residency", "regions.allow"}
    assert len(expected) > 1


def test_a_search_that_is_cut_short_says_so(put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch) -> None:
    case = two_limits()
    put(case.catalog)
    monkeypatch.setattr("planner.infeasible._MOST_ASKED", 1)
    found = solve(case.question)
    assert found.clashes == "cut short" and found.fixes
    assert tables.innocent_title(found).endswith("(the search for more was cut short)")
    assert isinstance(found, Plan)
    for verb in ("marginal", "alternatives", "tornado"):
        with pytest.raises(PlanError, match=r"^there is no plan [^\n]* \(infeasible\)[^\n]*$"):
            getattr(found, verb)()


def test_a_proof_that_was_stopped_on_the_way_is_said(put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A question whose proof is stopped counts as one without a plan: an answer that rests on one says so, another does not."""
    offers = [tiny.offer("here/one", "red", 1.0, 1)]
    put(tiny.world([tiny.chip("red")], [tiny.model()], [tiny.region("here/one")], offers))
    query = tiny.question(limits={"cost": "0.5 USD/h", "power": "1 W"})
    said = "a proof on the way was stopped"
    assert not any(said in one.text for one in solve(query).assumptions)
    proven, time = explaining._certified, query.solver.time.m_as("s")  # a proof that is stopped has taken all its time
    monkeypatch.setattr(
        explaining, "_certified", lambda *args, **more: replace(proven(*args, **more), status="stopped", seconds=time)
    )
    stopped = solve(query)
    assert stopped.status == "infeasible" and any(said in one.text for one in stopped.assumptions)
