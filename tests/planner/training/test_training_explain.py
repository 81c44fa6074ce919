"""Explanations of training plans in tiny worlds, judged by a table of every offer, count and layout, and by forced re-solves.

The table is made by the forward models alone (`check.evaluate`) over every layout there is; which of its rows keep which limits,
and which is best, is decided here, without the code that relaxes clauses, prices columns or looks for switch points.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import replace
from datetime import date
from functools import cache
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tiny
from command import answer_once, run

from planner import in_parallel
from planner import load as ask
from planner.calibrated import older_constants
from planner.plan import Plan
from planner.query import Clause, Query, TrainQuery
from planner.records import QueryError
from planner.training import asking, figures, question
from planner.training.alternatives import alternatives
from planner.training.arguments import page_of
from planner.training.asking import Asker
from planner.training.check import Decision, evaluate, layout_of
from planner.training.infeasible import Explanation, _Asked, _clash, _other_clashes, sought, why_infeasible
from planner.training.job import accelerator_of
from planner.training.layouts import cores_of, strategies_of
from planner.training.least import first_from
from planner.training.marginal import marginals
from planner.training.market import Market, families_of
from planner.training.plan import TrainPlan
from planner.training.question import question_of
from planner.training.search import Host, Task, search, step_of
from planner.training.solve import solve
from planner.training.synthesis import synthesis
from planner.training.whynot import why_not
from zoo.catalog import Catalog
from zoo.specs import Accelerator

TODAY = date(2026, 11, 23)
EXAMPLES = Path(__file__).parents[3] / "examples"
BASE: dict[str, Any] = {
    "schema": "wallplan/v1",
    "kind": "train",
    "name": "tiny",
    "start": "2026-11-23",
    "workload": {
        "model": "toy", "tokens": "2e9 token", "sequence_length": 1024, "global_batch": 16, "precision": ["bf16"],
        "stack": "fsdp",
    },
    "supply": {"offers": ["on-demand", "reserved-1y"]},
    "minimize": "cost",
}  # fmt: skip
COUNTS = (1, 2, 4, 8, 16)  # a stack of sharded replicas only: what divides the sequences of a step


def catalog_of(seed: int) -> Catalog:
    draw = Random(seed)
    peak = {"bf16": tiny.Q(draw.choice([150.0, 250.0]), "Tflop/s")}
    chips = [
        tiny.chip("red", domain_kind="rack", memory=tiny.Q(float(draw.choice([6, 8, 16])), "GiB")),
        tiny.chip("blue", domain_kind="rack", memory=tiny.Q(12.0, "GiB"), peak=peak),
    ]  # whole racks: instances of them train together
    regions = [tiny.region("here/one", 100.0), tiny.region("there/two", draw.choice([20.0, 500.0]), country="DE")]
    offers = {}
    for _ in range(draw.randint(2, 4)):
        name, where, size = draw.choice(("red", "blue")), draw.choice(("here/one", "there/two")), draw.choice((1, 2, 4))
        offer = tiny.offer(where, name, size * draw.choice([1.0, 1.7, 2.9]), size, draw.choice(["on-demand", "on-demand"]))
        offers[offer.name] = offer
    offers["base"] = tiny.offer("here/one", "red", 2.2, 1)
    return tiny.world(chips, [tiny.model()], regions, offers.values())


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Catalog], None]:
    """Puts a catalogue in the place of the zoo."""

    def world(catalog: Catalog) -> None:
        monkeypatch.setattr(question, "open_catalog", lambda query: catalog)
        monkeypatch.setattr(asking, "open_catalog", lambda query: catalog)

    return world


def query_of(clauses: Mapping[str, Any] = {}) -> TrainQuery:
    data = deepcopy(BASE)
    for path, value in clauses.items():
        place: Any = data
        *parents, last = path.split(".")
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    result = Query.from_dict(data)
    assert isinstance(result, TrainQuery)
    return result


_fastest: dict[str, Any] = {}


def fastest_of(task: Task, accelerator: Accelerator, accelerators: int, host: Host) -> Any:
    """The fastest of all layouts, None where none fits: once for each chip and count, because no price or region changes it."""
    key = repr((task, accelerator, accelerators, host))
    if key not in _fastest:
        _fastest[key] = next(iter(search(task, accelerator, accelerators, host, prune=False).found), None)
    return _fastest[key]


class Table:
    """Every offer on every count with its best layout: what the job takes, from the forward models."""

    def __init__(self, catalog: Catalog, counts: Collection[int] = COUNTS, clauses: Mapping[str, Any] = {}) -> None:
        every = {"supply.offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"]}
        asked = question_of(query_of(every | dict(clauses)), TODAY, catalog)
        self.rows = []
        for family in families_of(asked, Market(asked, [])):
            for offer in [o for o in asked.offers if (o.accelerator, o.accelerators) == (
                family.machine.accelerator.name, family.machine.accelerators)]:  # fmt: skip
                for count in counts:
                    if count % offer.accelerators:
                        continue
                    accelerator = accelerator_of(asked, family.machine, count)
                    found = fastest_of(family.task, accelerator, count, family.host)
                    if found is not None:
                        checked = evaluate(asked, Decision(offer.name, count, layout_of(asked, found)))
                        assert not checked.violations
                        self.rows.append(checked.job)
        self.steps = asked.steps

    def best(self, clauses: Mapping[str, Any], minimize: str = "cost", steps: int | None = None) -> float | None:
        """The least of the objective among the jobs that keep every clause; None where none does."""
        of = {"cost": lambda j: j.cost_usd, "time": lambda j: j.days, "carbon": lambda j: j.carbon_tco2e}[minimize]
        share = (self.steps if steps is None else steps) / self.steps
        kept = [of(job) * share for job in self.rows if self._kept(job, clauses, share)]
        return min(kept, default=None)

    def _kept(self, job: Any, clauses: Mapping[str, Any], share: float) -> bool:
        # in the program's whole units: seconds, cents, watts, grams; what is taken is rounded up, a limit down
        sizes = {
            "deadline": job.days * share * 86400, "limits.cost": job.cost_usd * share * 100, "limits.power": job.power_kw * 1000,
            "limits.carbon": job.carbon_tco2e * share * 1e6, "limits.chips": job.accelerators,
            "limits.water": job.water_m3 * share * 1e4,
        }  # fmt: skip
        units = {"deadline": "s", "limits.cost": "USD", "limits.power": "W", "limits.carbon": "gCO2e", "limits.chips": "",
                 "limits.water": "L"}  # fmt: skip
        for path, value in clauses.items():
            if path in sizes:
                bound = value if isinstance(value, int) else float(tiny.Q(value).m_as(units[path]))
                bound *= {"limits.cost": 100, "limits.water": 10}.get(path, 1)
                if math.ceil(sizes[path] * (1 - 1e-9)) > math.floor(bound * (1 + 1e-9)):
                    return False
            elif (
                (path == "supply.chips" and job.chip not in value)
                or (path == "supply.offers" and job.option not in value)
                or (path == "regions.allow" and job.region not in value)
                or (path == "supply.accelerators" and not value[0] <= job.accelerators <= value[1])
            ):
                return False
        return True


def without_reasons(clauses: Mapping[str, Any]) -> TrainPlan:
    """The answer to a question that need not say why there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.training.solve.why_infeasible", lambda *_: Explanation())
        return solve(query_of(clauses), today=TODAY)


@cache
def table_of(seed: int) -> Table:
    """The table of the world of a seed."""
    return Table(catalog_of(seed))


def planted(seed: int) -> tuple[Catalog, Table, dict[str, Any]]:
    """A world, its table, and clauses that it cannot keep together though each alone can be kept."""
    draw = Random(1000 + seed)
    catalog, table = catalog_of(seed), table_of(seed)
    while True:
        one = draw.choice(table.rows)
        clauses: dict[str, Any] = {
            "deadline": f"{one.days * draw.uniform(0.5, 1.3):.4f} day",
            "limits.cost": f"{min(j.cost_usd for j in table.rows) * draw.uniform(0.95, 1.6):.2f} USD",
            "limits.power": f"{one.power_kw * draw.uniform(0.4, 1.5):.4f} kW",
            "limits.carbon": f"{one.carbon_tco2e * draw.uniform(0.5, 1.5):.6f} tCO2e",
            "limits.chips": draw.choice([2, 4, 8]),
            "supply.chips": [draw.choice(table.rows).chip],
            "regions.allow": [draw.choice(table.rows).region],
            "supply.accelerators": [draw.choice([1, 2]), draw.choice([4, 8, 16])],
        }  # fmt: skip
        kept = dict(draw.sample(sorted(clauses.items()), draw.randint(2, 5)))
        accelerators = kept.get("supply.accelerators")
        if accelerators and accelerators[0] > kept.get("limits.chips", 16):
            continue
        chip, where = kept.get("supply.chips"), kept.get("regions.allow")
        sold = [j for j in table.rows if (not chip or j.chip in chip) and (not where or j.region in where)]
        if sold and table.best(kept) is None:
            return catalog, table, kept


@pytest.mark.parametrize("seed", range(8))
def test_the_clash_is_minimal_and_every_repair_is_exact(seed: int, put: Callable[[Catalog], None]) -> None:
    catalog, table, clauses = planted(seed)
    put(catalog)
    plan = solve(query_of(clauses), today=TODAY)
    assert plan.status == "infeasible" and plan.conflict
    core = {c.clause for c in plan.conflict}
    others = {"workload.tokens", "supply.offers"}  # clauses of every question here: as much to train, two purchase options
    said = {path: clauses[path] for path in core if path in clauses}
    if "supply.offers" in core:
        said["supply.offers"] = BASE["supply"]["offers"]
    assert core <= set(clauses) | others
    assert table.best(said) is None, "the clash is none"
    for path in said:
        rest = {p: v for p, v in said.items() if p != path}
        assert table.best(rest) is not None, f"{path} is not needed for the clash"
    if "workload.tokens" in core:
        assert table.best(said, steps=1) is not None
    for clause in plan.innocent:
        assert clause.clause not in core
    assert plan.fixes, "no repair"
    for fix in plan.fixes:
        if " + " in fix.clause:
            _check_together(table, clauses, fix)
            continue
        _check_alone(table, clauses, fix)


@pytest.mark.parametrize("seed", range(4))
def test_whole_instances_clash_where_fractions_do_not(seed: int, put: Callable[[Catalog], None]) -> None:
    """Instances of four: four chips are late, eight too many; a quarter of one job and three of the other would be neither."""
    draw = Random(seed)
    red = tiny.chip("red", domain_kind="rack", memory=tiny.Q(draw.choice([8.0, 16.0]), "GiB"))
    offer = tiny.offer("here/one", "red", draw.choice([4.0, 9.0]), 4)
    catalog = tiny.world([red], [tiny.model()], [tiny.region()], [offer])
    put(catalog)
    table = Table(catalog)
    days = {job.accelerators: job.days for job in table.rows}
    late, early = days[4], days[8]
    deadline = early + draw.uniform(0.3, 0.9) * (late - early)
    assert 0.25 * late + 0.75 * early < deadline < late
    clauses = {"deadline": f"{deadline:.6f} day", "limits.chips": draw.choice([6, 7])}
    plan = solve(query_of(clauses), today=TODAY)
    assert plan.status == "infeasible" and not plan.further
    assert {c.clause for c in plan.conflict} == {"workload.tokens", *clauses}
    fixes = {fix.clause: fix for fix in plan.fixes}
    assert fixes["limits.chips"].value == "8"
    assert fixes["deadline"].value == f"{math.ceil(late * 100 - 1e-9) / 100:.10g} day"
    for fix in plan.fixes:
        _check_alone(table, clauses, fix)


def test_what_was_found_when_the_time_ends_is_kept(
    put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The time is over after so many looks at the clock: what is said then is part of the whole answer, and the rest is named."""
    catalog, _, clauses = planted(7)
    put(catalog)
    monkeypatch.setattr(in_parallel, "each", lambda function, items: [function(item) for item in items])  # one clock
    asked, looks, most, hows = Asker(TODAY).question(query_of(clauses)), 0, math.inf, set[str]()

    def over() -> bool:
        nonlocal looks
        looks += 1
        return looks > most

    whole = why_infeasible(asked, Asker(TODAY, over=over))
    fixes, all_looks = {fix.clause: fix for fix in whole.fixes}, looks
    assert not whole.left and all_looks > 100
    for share in (0.05, 0.6, 0.75, 0.95):
        looks, most = 0, share * all_looks
        found = why_infeasible(asked, Asker(TODAY, over=over))
        assert found.left
        if not found.complete:
            assert {c.clause for c in whole.conflict} <= {c.clause for c in found.conflict}
            continue
        assert [c.clause for c in found.conflict] == [c.clause for c in whole.conflict]
        assert set(found.further) <= set(whole.further)
        for fix in found.fixes:
            hows.add(fix.how)
            if fix.how == "not sought":
                assert f"how far {fix.clause.replace(' + ', ' and ')} must move" in found.left
            else:
                unknown = {name for name, value in fix if value in (None, "")}
                known = fixes[fix.clause]
                assert fix.model_dump(exclude=unknown) == known.model_dump(exclude=unknown)
    assert "not sought" in hows
    for fix in found.fixes:
        assert sought(asked, fix, Asker(TODAY)) == fixes[fix.clause]


def test_a_deadline_moves_by_the_wait_for_machines_too(put: Callable[[Catalog], None]) -> None:
    put(catalog_of(3))
    alone = solve(query_of({"minimize": "time"}), today=TODAY)
    assert alone.job is not None
    days, narrow = alone.job.days, {"supply.chips": [alone.job.chip], "supply.accelerators": alone.job.accelerators}
    clauses = narrow | {"sharing": {"arrivals": f"{0.5 / days:.6f}/day", "variability": 1}, "minimize": "time"}
    plan = solve(query_of(clauses | {"deadline": f"{1.2 * days:.6f} day"}), today=TODAY)
    assert plan.status == "infeasible"
    value = next(fix.value for fix in plan.fixes if fix.clause == "deadline")
    # by hand (Pollaczek-Khinchine, machines busy half of the time): the wait is as long as the job
    assert float(value.split()[0]) == pytest.approx(2 * days, abs=0.011)
    for deadline, status in ((value, "optimal"), (_one_step_less("deadline", value), "infeasible")):
        assert without_reasons(clauses | {"deadline": deadline}).status == status


class Planted(_Asked):
    """Clauses of which only the planted cores clash."""

    def __init__(self, clauses: list[Clause], cores: list[frozenset[str]]) -> None:
        super().__init__(Asker(TODAY))
        self.clauses, self.cores = clauses, cores

    def feasible(self, query: TrainQuery, relaxed: Collection[Clause] = ()) -> bool:
        kept = {clause.path for clause in self.clauses} - {clause.path for clause in relaxed}
        return not any(core <= kept for core in self.cores)


@pytest.mark.parametrize("sequences", [16, 34])  # 34 is split over 17 or 34, which the grid of counts does not have
@pytest.mark.parametrize("seed", range(3))
def test_a_least_sum_is_the_least_over_every_job(seed: int, sequences: int, put: Callable[[Catalog], None]) -> None:
    """The dearer a region the less power, carbon or water an instance takes there, so that no offer replaces another."""
    draw = Random(7000 + seed)
    regions = [
        tiny.region(f"here/{name}", draw.choice([50.0, 300.0]), pue=pue, wue=tiny.Q(draw.choice([0.5, 2.0]), "L/kWh"))
        for name, pue in zip("abc", draw.sample([1.05, 1.1, 1.2, 1.4, 1.7], 3), strict=True)
    ]
    chips = [tiny.chip(name, domain_kind="rack", memory=tiny.Q(12.0, "GiB")) for name in ("red", "blue")]
    offers = [
        tiny.offer(region.name, name, 2.0 * draw.uniform(0.9, 1.1) * (3.0 - region.pue), 1)
        for region in regions for name in ("red", "blue")
    ]  # fmt: skip
    catalog = tiny.world(chips, [tiny.model()], regions, offers)
    put(catalog)
    batch = {"workload.global_batch": sequences}
    table = Table(catalog, range(1, sequences + 1), batch)
    # enough time for twice as many accelerators, enough power for fewer: the two limits clash, and half the batch is nearest
    one = min((job for job in table.rows if job.accelerators == sequences // 2), key=lambda job: job.power_kw)
    clauses = batch | {
        "deadline": f"{one.days * draw.uniform(0.9, 0.97):.4f} day",
        "limits.power": f"{one.power_kw * draw.uniform(0.7, 0.95):.4f} kW",
    }
    if seed % 2:
        clauses["limits.carbon"] = f"{min(job.carbon_tco2e for job in table.rows) * draw.uniform(0.5, 1.5):.6f} tCO2e"
    fixes = [fix for fix in solve(query_of(clauses), today=TODAY).fixes if fix.how == "least sum"]

    def far(path: str, size: float) -> float:
        """How far a limit is moved to a number of its unit."""
        return max(size / float(str(clauses[path]).split()[0]) - 1, 0.0) if path in clauses else 0.0

    def moves_of(job: Any) -> list[float]:
        days = math.ceil(math.ceil(job.days * 86400 * (1 - 1e-9)) / 864 * (1 - 1e-9)) / 100
        power, carbon = math.ceil(job.power_kw * 1e3 * (1 - 1e-9)) / 1e3, math.ceil(job.carbon_tco2e * 1e6 * (1 - 1e-9)) / 1e6
        return [far("deadline", days), far("limits.power", power), far("limits.carbon", carbon)]

    least = min(map(moves_of, table.rows), key=sum)
    if not fixes:  # then one limit alone does with less than any two
        assert sum(move > 0 for move in least) == 1
        return
    (fix,) = fixes
    said = dict(zip(fix.clause.split(" + "), fix.value.split("; "), strict=True))
    assert sum(far(path, float(text.split()[0])) for path, text in said.items()) == pytest.approx(sum(least), rel=1e-8)
    assert fix.objective == pytest.approx(table.best(clauses | said), abs=0.011)
    for path, text in said.items():
        assert table.best(clauses | said | {path: _one_step_less(path, text)}) is None


@pytest.mark.parametrize("size", range(2, 9))
def test_only_planted_cores_are_found(size: int) -> None:
    """A hundred systems of overlapping cores each. Where each clause of the first repairs alone there is no other core, as is
    said then; else one is found for each clause that does not."""
    draw, query = Random(size), query_of()
    clauses = [Clause(f"c{i}", f"c{i}", "", None) for i in range(size)]
    for _ in range(100):
        drawn = {
            frozenset(f"c{i}" for i in draw.sample(range(size), draw.randint(1, min(size, 4)))) for _ in range(draw.randint(1, 5))
        }
        cores = [core for core in drawn if not any(other < core for other in drawn)]
        asked = Planted(clauses, cores)
        *_, core = _clash(query, clauses, clauses, asked)
        found = [frozenset(c.path for c in one) for one in (core, *_other_clashes(query, clauses, core, asked))]
        assert len(set(found)) == len(found) and set(found) <= set(cores)
        for clause in clauses:
            if clause.path in found[0]:
                lone = asked.feasible(query, [clause])
                assert lone == all(clause.path in core for core in cores) == all(clause.path in one for one in found)
        if all(asked.feasible(query, [clause]) for clause in clauses if clause.path in found[0]):
            assert cores == found


def _value(path: str, text: str) -> Any:
    return int(text) if path == "limits.chips" else json.loads(text) if path == "supply.accelerators" else text


def _check_alone(table: Table, clauses: dict[str, Any], fix: Any) -> None:
    """A repair makes the question feasible, for what it says the best job then costs, and one step less does not."""
    path = fix.clause
    if path == "workload.tokens":
        steps = int(fix.value.split()[0]) // (16 * 1024)
        assert table.best(clauses, steps=steps) == pytest.approx(fix.objective, abs=0.011)
        assert table.best(clauses, steps=steps + 1) is None
        assert fix.demand_left == pytest.approx(steps / table.steps, rel=1e-4)
    elif path in ("supply.chips", "regions.allow", "supply.offers"):
        free = {p: v for p, v in clauses.items() if p != path}
        assert table.best(free) == pytest.approx(fix.objective, abs=0.011)
    elif path == "supply.accelerators":
        span = json.loads(fix.value)
        low, high = clauses[path]
        assert table.best(clauses | {path: span}) == pytest.approx(fix.objective, abs=0.011)
        nearer = [low + 1 if span[0] < low else low, high - 1 if span[1] > high else high]
        inner = [span[0] + 1 if span[0] < low else low, span[1] - 1 if span[1] > high else high]
        assert table.best(clauses | {path: inner}) is None and nearer
    else:
        assert table.best(clauses | {path: _value(path, fix.value)}) == pytest.approx(fix.objective, abs=0.011)
        less = _one_step_less(path, fix.value)
        assert table.best(clauses | {path: less}) is None, f"{path}: {less} is enough"
    _check_beyond(table, clauses, fix)


def _after(clauses: dict[str, Any], path: str, text: str) -> dict[str, Any]:
    """The clauses with one moved as a repair says."""
    rest = {p: v for p, v in clauses.items() if p != path}
    if text == "dropped":
        return rest
    return rest | {path: [*clauses[path], text[5:]] if text.startswith("also ") else _value(path, text)}


def _check_together(table: Table, clauses: dict[str, Any], fix: Any) -> None:
    """A joint repair makes the question feasible, for what it says the best job then costs. Of moves in turn each is the least
    that those after it, dropped, allow. Without the clauses, and moved further, the best job costs what is said."""
    paths, values = fix.clause.split(" + "), fix.value.split("; ")
    assert set(paths) <= {*clauses, "workload.tokens"} and fix.how in ("least sum", "in turn")
    less_trained = [place for place, path in enumerate(paths) if path == "workload.tokens"]
    steps = int(values[less_trained[0]].split()[0]) // (16 * 1024) if less_trained else None
    moved = clauses
    for place, (path, text) in enumerate(zip(paths, values, strict=True)):
        before = {p: v for p, v in moved.items() if p not in paths[place + 1 :]}
        train = 1 if less_trained and less_trained[0] > place else steps if less_trained and less_trained[0] < place else None
        if path == "workload.tokens":
            assert steps is not None and table.best(before) is None
            assert table.best(before, steps=steps) is not None and table.best(before, steps=steps + 1) is None
            continue
        moved = _after(moved, path, text)
        if fix.how == "in turn":
            assert table.best(before, steps=train) is None, f"{path} need not move"
            assert table.best(_after(before, path, text), steps=train) is not None
            if path in SIZED:
                less = _one_step_less(path, text)
                assert table.best(before | {path: less}, steps=train) is None, f"{path}: {less} is enough"
    assert table.best(moved, steps=steps) == pytest.approx(fix.objective, abs=0.011)
    free = table.best({p: v for p, v in clauses.items() if p not in paths})
    sized = bool({*SIZED, "supply.accelerators"} & set(paths)) and not less_trained
    assert fix.without == pytest.approx(free, abs=0.011) if sized else fix.without is None
    if fix.further is not None:
        far = clauses
        for path, text in zip(paths, fix.further.split("; "), strict=True):
            far = _after(far, path, text)
        assert table.best(far) == pytest.approx(fix.further_objective, abs=0.011)
        assert free is not None and fix.further_objective <= 1.5 * free + 0.011
        (limit,) = SIZED & set(paths)
        less = table.best(far | {limit: _one_step_less(limit, far[limit])})
        assert less is None or less > 1.5 * free - 0.011


SIZED = {"deadline", "limits.cost", "limits.power", "limits.carbon", "limits.chips"}


def _one_step_less(path: str, value: str) -> Any:
    step = {"deadline": 0.01, "limits.cost": 0.01, "limits.power": 0.001, "limits.carbon": 1e-6, "limits.chips": 1}[path]
    return int(value) - 1 if path == "limits.chips" else f"{float(value.split()[0]) - step:.9f} {value.split()[1]}"


def _check_beyond(table: Table, clauses: dict[str, Any], fix: Any) -> None:
    """Without the clause the best job costs what is said; moved further at most half more, one step less not."""
    if fix.without is None:
        assert fix.further is None and fix.clause not in {"deadline", "limits.power", "limits.carbon", "limits.chips"}
        return
    free = table.best({path: value for path, value in clauses.items() if path != fix.clause})
    assert free is not None and fix.without == pytest.approx(free, abs=0.011)
    if fix.further is None:
        assert fix.objective <= 1.5 * free + 0.011 or fix.clause == "supply.accelerators"
        return
    then = table.best(clauses | {fix.clause: _value(fix.clause, fix.further)})
    assert then == pytest.approx(fix.further_objective, abs=0.011) and then <= 1.5 * free + 0.011 < fix.objective + 0.022
    less = table.best(clauses | {fix.clause: _one_step_less(fix.clause, fix.further)})
    assert less is None or less > 1.5 * free - 0.011


@pytest.mark.parametrize("seed", range(4))
def test_marginal_values_and_switch_points_are_those_of_forced_re_solves(seed: int, put: Callable[[Catalog], None]) -> None:
    catalog, table = catalog_of(seed), table_of(seed)
    put(catalog)
    fastest, cheapest = table.best({}, "time"), table.best({})
    assert fastest is not None and cheapest is not None
    slow = next(j.days for j in table.rows if j.cost_usd == cheapest)
    clauses = {"deadline": f"{0.5 * fastest + 0.5 * slow + 0.01:.4f} day"}
    plan = solve(query_of(clauses), today=TODAY)
    assert plan.objective is not None
    asker = Asker(TODAY)
    rows = {row.knob: row for row in marginals(plan, query_of(clauses), asker, switches=True)}
    size = float(clauses["deadline"].split()[0])
    for factor, saved in ((1.01, rows["deadline"].per_percent), ((size + 1) / size, rows["deadline"].per_unit)):
        then = table.best({"deadline": f"{size * factor} day"})
        assert then is not None and saved == pytest.approx(plan.objective - then, abs=0.011)
    worse = table.best({"deadline": f"{size * 0.99} day"})
    assert rows["deadline"].breaks == (worse is None)
    costs = rows["deadline"].costs_per_percent
    assert costs is None if worse is None else costs == pytest.approx(worse - plan.objective, abs=0.011)
    assert rows["prices"].costs_per_percent == pytest.approx(0.01 * plan.objective, abs=0.02)
    at = rows["deadline"].switches_at
    if at is not None:  # a better plan there, none with a second less
        point = float(at.split()[0])
        better, same = table.best({"deadline": at}), table.best({"deadline": f"{point - 1 / 86400} day"})
        assert better is not None and better < plan.objective - 0.005
        assert same == pytest.approx(plan.objective, abs=0.011)
    below = rows["deadline"].worsens_at
    assert below is not None
    other = table.best({"deadline": below})
    assert other is None or other > plan.objective - 0.011
    assert table.best({"deadline": f"{float(below.split()[0]) + 1 / 86400} day"}) == pytest.approx(plan.objective, abs=0.011)
    # prices down by 1 %: the cheapest job is 1 % cheaper, whatever it is
    assert rows["prices"].per_percent == pytest.approx(0.01 * plan.objective, abs=0.02)
    assert rows["efficiency"].per_percent is not None and rows["efficiency"].per_percent > 0 and rows["efficiency"].binding
    # one unit more of the job's own figure, all others by the same share
    assert plan.job is not None
    offer, chip = catalog.offers[plan.job.offer], catalog.chips[plan.job.chip]
    share = 0.1 / float(offer.price.m_as("USD/hour"))
    assert rows["prices"].unit_step == "0.1 USD/h"
    assert rows["prices"].per_unit == pytest.approx(share * plan.objective, abs=0.02)
    for knob, step in (
        ("memory bandwidth", tiny.Q(1.0, "GiB/s") / chip.memory_bandwidth),
        ("memory capacity", tiny.Q(1.0, "GiB") / chip.memory),
    ):
        put(figures.scaled_catalog(catalog, {knob: 1 + float(step.m_as("dimensionless"))}))
        then = solve(query_of(clauses), today=TODAY).objective
        assert then is not None and rows[knob].per_unit == pytest.approx(plan.objective - then, abs=0.011)
        assert rows[knob].unit_step.startswith("1 GiB")


@pytest.mark.parametrize("seed", range(4))
def test_why_not_is_a_forced_re_solve_and_its_prices_and_limits_make_it_win(seed: int, put: Callable[[Catalog], None]) -> None:
    catalog, table = catalog_of(seed), table_of(seed)
    put(catalog)
    plan = solve(query_of(), today=TODAY)
    assert plan.job is not None and plan.objective is not None
    for chip in {job.chip for job in table.rows}:
        answer = why_not(plan, query_of(), {"chip": chip}, Asker(TODAY))
        forced = table.best({"supply.chips": [chip]})
        assert answer.objective == pytest.approx(forced, abs=0.011)
        assert answer.job is not None and answer.job.chip == chip
        if answer.wins_at and "its prices" in answer.wins_at and answer.ratio:
            offers = {
                name: replace(offer, price=offer.price * 0.99 / answer.ratio) if offer.accelerator == chip else offer
                for name, offer in catalog.offers.items()
            }  # fmt: skip
            put(catalog.with_offers(offers))
            assert solve(query_of(), today=TODAY).job.chip == chip  # type: ignore[union-attr]
            put(catalog)
        for part in (answer.wins_at or "").split(" or "):
            if " to below " not in part:
                continue
            path, low, high = re.match(r"([\w.]+) from (\S+) to below (\S+)", part.replace(",", "")).groups()  # type: ignore[union-attr]
            units = {"deadline": "day", "limits.power": "kW", "limits.carbon": "tCO2e", "limits.water": "kL", "limits.chips": ""}
            unit = units[path]
            within = [float(low) * (1 + 1e-6), float(high) * (1 - 1e-6)] if unit else [int(low), int(high) - 1]
            beyond = float(high) * (1 + 1e-6) if unit else int(high)
            for value in within:  # X wins at both ends, and loses where the range ends
                assert table.best({path: f"{value} {unit}" if unit else value}) == pytest.approx(forced, abs=0.011)
            better = table.best({path: f"{beyond} {unit}" if unit else beyond})
            assert better is not None and better < answer.objective - 0.005


@pytest.mark.parametrize(
    ("seed", "forces", "knobs"),
    [
        (1, {"chip": "blue"}, {"deadline down", "tokens up"}),
        (1, {"accelerators": "8"}, {"tokens up"}),
        (4, {"chip": "red"}, {"deadline down", "tokens up"}),
    ],
)
def test_moves_that_let_x_win_are_true_on_both_sides(
    seed: int, forces: dict[str, str], knobs: set[str], put: Callable[[Catalog], None]
) -> None:
    """At the value that is named the best job of all is as good with X as without; 0.2 % nearer to today's it is better."""
    catalog = catalog_of(seed)
    put(catalog)
    table = Table(catalog)
    fastest, cheapest = table.best({}, "time"), table.best({})
    assert fastest is not None and cheapest is not None
    days = 0.5 * fastest + 0.5 * next(j.days for j in table.rows if j.cost_usd == cheapest) + 0.01
    clauses = {"deadline": f"{days:.4f} day", "limits.chips": 8}
    with_x = {"supply.chips": [forces["chip"]]} if "chip" in forces else {"supply.accelerators": [8, 8]}
    plan = solve(query_of(clauses), today=TODAY)
    answer = why_not(plan, query_of(clauses), forces, Asker(TODAY), switches=True)
    pattern = r"(deadline|tokens|limit of chips) (?:from|down from) (\S+) (?:day|token|chips)( up)?$"
    moves = [match for part in (answer.wins_at or "").split(" or ") if (match := re.match(pattern, part))]
    assert {f"{name} {'up' if up else 'down'}" for name, _, up in (m.groups() for m in moves)} == knobs
    for name, at, up in (move.groups() for move in moves):
        for nearer, wins in ((1.0, True), (0.998 if up else 1.002, False)):
            size, steps, moved = float(at) * nearer, None, dict(clauses)
            if name == "tokens":
                steps = math.ceil(size / (16 * 1024))
            else:
                moved["deadline"] = f"{size} day"
            alone, of_all = table.best(moved | with_x, steps=steps), table.best(moved, steps=steps)
            assert of_all is not None and (alone is not None and alone <= of_all + 0.011) is wins
    # what is written in the same words in JSON and in the table is asked for with --switches alone
    said = why_not(plan, query_of(clauses), forces, Asker(TODAY)).wins_at or ""
    assert "tokens" not in said and "down from" not in said and (answer.wins_at or "").startswith(said)


def test_why_not_says_by_how_much_memory_is_short(put: Callable[[Catalog], None]) -> None:
    small = tiny.chip("small", domain_kind="rack", memory=tiny.Q(0.25, "GiB"))
    world = tiny.world(
        [tiny.chip("red", domain_kind="rack", memory=tiny.Q(16.0, "GiB")), small], [tiny.model()], [tiny.region()],
        [tiny.offer("here/one", "red", 2.0), tiny.offer("here/one", "small", 0.1)],
    )  # fmt: skip
    put(world)
    plan = solve(query_of({"supply.accelerators": 8}), today=TODAY)
    answer = why_not(plan, query_of({"supply.accelerators": 8}), {"chip": "small"}, Asker(TODAY))
    assert answer.status == "infeasible" and not answer.conflict[1:]
    if not answer.conflict:
        short = answer.shortfalls[0]
        assert short.number == 2 and short.needed > short.there == pytest.approx(0.25, rel=0.2)


def test_alternatives_are_the_best_of_each_chip_and_region(put: Callable[[Catalog], None]) -> None:
    catalog, table = catalog_of(2), table_of(2)
    put(catalog)
    plan = solve(query_of(), today=TODAY)
    assert plan.job is not None and plan.objective is not None
    found = alternatives(plan, query_of(), 0.3, Asker(TODAY))
    for kind, key, own in (("chip", "supply.chips", plan.job.chip), ("region", "regions.allow", plan.job.region)):
        names = {getattr(job, kind) for job in table.rows} - {own}
        listed = {name: a for a in found if a.kind == kind for name in (a.name, *a.same_in)}
        assert names <= set(listed)
        for name in names:
            assert listed[name].objective == pytest.approx(table.best({key: [name]}), abs=0.011)
            assert listed[name].within == (listed[name].objective <= plan.objective * 1.3 * (1 + 1e-12))
    for a in found:
        if a.kind == "split":
            mine, best = a.job.layout, plan.job.layout
            names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "expert_parallel", "data_parallel")
            assert any(getattr(mine, n) != getattr(best, n) for n in names) and a.within


def _enters(catalog: Catalog, clauses: Mapping[str, Any], chip: str, need: Any, put: Callable[[Catalog], None]) -> Any:
    """The answers with a chip's figures at the factor that synthesis names, and one hundredth of today's nearer to today's."""
    names = [need.what] if need.what in figures.OF_STEPS else ["prices"]
    if need.what == "all of these together":
        names = ["memory bandwidth", "memory capacity", "peak FLOP/s", "link bandwidth", "network bandwidth"]
    answers = []
    for factor in (need.factor, need.factor + (0.01 if names == ["prices"] else -0.01)):
        put(figures.scaled_catalog(catalog, dict.fromkeys(names, factor), chip))
        answers.append(without_reasons(clauses))
    put(catalog)
    return answers[0], answers[1]


def test_a_chip_becomes_the_jobs_where_synthesis_says(put: Callable[[Catalog], None]) -> None:
    """At the factor the best job runs on the chip, one hundredth less it does not; so too of a budget and of a deadline."""
    catalog, eight = catalog_of(0), {"supply.accelerators": 8}
    put(catalog)
    best = solve(query_of(eight), today=TODAY)
    assert best.job is not None and best.objective is not None
    assert synthesis(best, query_of(eight), Asker(TODAY), best.job.chip) == ()
    outside = next(offer.accelerator for offer in catalog.offers.values() if offer.accelerator != best.job.chip)
    listed = query_of(eight | {"supply.chips": [best.job.chip]})  # the list is widened by the chip
    needs = [need for need in synthesis(best, listed, Asker(TODAY), outside) if need.factor is not None]
    assert needs
    for need in needs:
        there, before = _enters(catalog, eight, outside, need, put)
        assert there.job.chip == outside and there.objective == need.objective
        assert before.job.chip != outside and before.objective == best.objective
    # within nine tenths of what it takes alone today
    alone = solve(query_of(eight | {"supply.chips": [outside]}), today=TODAY)
    assert alone.objective is not None and alone.job is not None
    budget = f"{0.9 * alone.objective:.2f} USD"
    needs = [need for need in synthesis(best, query_of(eight), Asker(TODAY), outside, budget) if need.factor is not None]
    assert needs[-2].what == "all of these together"
    for need in needs[-2:]:
        there, before = _enters(catalog, eight | {"supply.chips": [outside], "limits.cost": budget}, outside, need, put)
        assert there.objective == need.objective <= float(budget.split()[0]) and before.status == "infeasible"
    # twice as fast as the fastest there is
    fastest = solve(query_of(eight | {"minimize": "time"}), today=TODAY)
    assert fastest.job is not None
    clauses = eight | {"deadline": f"{0.5 * fastest.job.days:.4f} day"}
    none = without_reasons(clauses)
    assert none.status == "infeasible"
    needs = list(synthesis(none, query_of(clauses), Asker(TODAY), outside))
    assert "price" not in needs[-1].what
    for need in needs:
        if need.factor is None:
            assert need.wall
        elif need.what == "peak FLOP/s":
            there, before = _enters(catalog, clauses, outside, need, put)
            assert there.objective == need.objective and before.status == "infeasible"


def test_the_least_count_that_is_enough() -> None:
    for least in (1, 2, 7, 100, 4097):
        for step in (1, 3):
            enough = lambda n, least=least, step=step: max(least, n - n % step) if n >= least else None  # noqa: E731
            assert first_from(enough, 0) == least
    assert first_from(lambda _: None, 5, 1000) is None


# ------------------------------------------------------------------------------------------------------------- uncertainty


def test_uncertain_figures_give_the_shares_that_an_independent_draw_gives(put: Callable[[Catalog], None]) -> None:
    put(catalog_of(1))
    spreads = {"efficiency": [0.7, 1.0, 1.1], "prices": [0.9, 1.0, 1.3]}
    plan = solve(query_of(), today=TODAY)
    assert plan.job is not None and plan.objective is not None
    limits = {"deadline": f"{plan.job.days * 1.05} day", "limits.cost": f"{plan.objective * 1.1} USD"}
    told = solve(query_of({"uncertain": spreads, **limits}), today=TODAY)
    assert told.job == plan.job
    rows = {row.what: row for row in told.robustness}
    random = np.random.default_rng(7)
    efficiency, prices = random.triangular(0.7, 1.0, 1.1, 200_000), random.triangular(0.9, 1.0, 1.3, 200_000)
    # by hand: time grows as 1 / efficiency, cost as prices / efficiency (data are never late here)
    assert plan.job.fed == 1
    assert rows["time until done"].holds == pytest.approx(float((1 / efficiency <= 1.05).mean()), abs=0.02)
    assert rows["cost"].holds == pytest.approx(float((prices / efficiency <= 1.1).mean()), abs=0.02)
    both = float(((1 / efficiency <= 1.05) & (prices / efficiency <= 1.1)).mean())
    assert rows["deadline and every limit"].holds == pytest.approx(both, abs=0.02)
    p50 = rows["objective"].p50
    assert p50 == pytest.approx(plan.objective * float(np.median(prices / efficiency)), rel=0.01)


def test_a_plan_that_must_hold_holds(put: Callable[[Catalog], None]) -> None:
    catalog, table = catalog_of(3), table_of(3)
    put(catalog)
    fastest = table.best({}, "time")
    assert fastest is not None
    clauses = {
        "deadline": f"{fastest * 1.9} day",
        "uncertain": {"efficiency": [0.7, 1.0, 1.1], "failures": [0.5, 1, 3], "hold": 0.9},
    }
    plan = solve(query_of(clauses), today=TODAY)
    assert plan.status == "optimal"
    holds = next(row.holds for row in plan.robustness if row.what == "deadline and every limit")
    assert holds is not None and holds >= 0.9
    assert any("hold together" in a.text for a in plan.assumptions)
    impossible = solve(query_of(clauses | {"deadline": f"{fastest * 1.05} day"}), today=TODAY)
    assert impossible.status == "infeasible"
    fix = next(f for f in impossible.fixes if f.clause == "deadline")
    assert without_reasons(clauses | {"deadline": fix.value}).status == "optimal"
    less = f"{float(fix.value.split()[0]) - 0.01:.6f} day"
    assert without_reasons(clauses | {"deadline": less}).status == "infeasible"


def test_what_is_uncertain_in_serving_is_refused_in_training() -> None:
    with pytest.raises(QueryError, match="uncertain"):
        query_of({"uncertain": {"demand": "±10 %"}})


# ------------------------------------------------------------------------------------------------- command line and Python


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the example of fixed chips."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert run("solve", EXAMPLES / "train-gpt3-512xa100.yaml", "-q", "-o", path).exit_code == 0
    return path


def test_explain_on_the_command_line(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("explain", saved, "-q", "-f", "json")
    rows = {row["knob"]: row for row in json.loads(result.stdout)}
    assert result.exit_code == 0 and rows["efficiency"]["binding"] and rows["peak FLOP/s"]["origin"] == "physics"
    plan = TrainPlan.load(saved)
    # by hand: time follows 1 / efficiency, so 1 % more saves 1 - 1 / 1.01 of it
    assert rows["efficiency"]["per_percent"] == pytest.approx(plan.objective * (1 - 1 / 1.01), rel=1e-4)  # type: ignore[operator]
    several = run("explain", saved, "-q", "-f", "json", "--why-not", "tp=7", "--why-not", "tp=4", "--why-not", "dp=7")
    seven, four, odd = json.loads(several.stdout)
    assert several.exit_code == 0 and four["objective"] >= plan.objective
    assert seven["status"] == odd["status"] == "infeasible" and "cannot divide the 96 heads" in seven["note"]
    assert "cannot be divided among 7" in odd["note"] and four["note"] == "the plan already does this"
    typo = run("explain", saved, "-q", "--why-not", "tp=4", "--why-not", "chip=h101-sxm")
    assert typo.exit_code == 2 and not typo.stdout and typo.stderr.count("\n") == 1
    with monkeypatch.context() as patch:
        answer_once(patch, "planner.training.whynot", "why_not")
        for format in ("table", "csv", "md"):
            answer = run("explain", saved, "-q", "--why-not", "recompute=full", "-f", format)
            assert answer.exit_code == 0 and "recompute=full" in answer.stdout
    for words, expected in (("chpi=h100-sxm", 'did you mean "chip"'), ("chip=h101-sxm", "did you mean"), ("tp", "KEY=VALUE")):
        wrong = run("explain", saved, "--why-not", words)
        assert wrong.exit_code == 2 and expected in wrong.stderr and wrong.stderr.count("\n") == 1
    for wall in range(1, 23):
        page = json.loads(run("explain", saved, "--wall", wall, "-f", "json").stdout)
        assert bool(page["absent"]) == (not page["arguments"])  # a wall without a part says why
    page = json.loads(run("explain", saved, "--wall", "15", "-f", "json").stdout)
    figures = {row["symbol"]: row["amount"] for row in page["arguments"]}
    each, count, all_of_them = (figures[symbol] for symbol in ("MTBF_node", "N", "MTBF_cluster"))
    assert all_of_them == pytest.approx(each / count, rel=1e-4)  # by hand
    # each page has all that its equation needs
    m, delta, back, tau = all_of_them * 3600, figures["delta"], figures["R"], figures["tau"]
    x = delta / (2 * m)
    assert tau == pytest.approx(math.sqrt(2 * delta * m) * (1 + math.sqrt(x) / 3 + x / 9) - delta, rel=1e-9)
    lasting = tau / (m * math.exp(back / m) * math.expm1((tau + delta) / m))
    assert figures["goodput"] == pytest.approx(lasting, rel=1e-9)
    of = {n: {a.symbol: a.amount for a in page_of(plan, n).arguments} for n in (1, 11, 18)}
    assert of[1]["T_0"] == pytest.approx(of[1]["OPs"] * 1e3 / (of[1]["N"] * of[1]["Peak"]), rel=1e-9)
    assert of[1]["eta"] == pytest.approx(of[1]["T_0"] / of[1]["T"], rel=1e-9)
    assert of[11]["T"] == pytest.approx(of[11]["n"] * of[11]["t"] / (of[11]["g"] * of[11]["fed"]) / 86400, rel=1e-9)
    e, host = of[18], of[18]["s"] / (1 - of[18]["s"])
    assert e["E"] == pytest.approx(e["n"] * e["T"] * e["TDP"] * (e["u"] + host) / 1e6, rel=1e-6)
    assert e["P"] == pytest.approx(e["n"] * e["TDP"] * (1 + host) * e["PUE"] / 1e3, rel=1e-6)
    assert run("explain", saved, "--wall", "fragilty").exit_code == 2


def test_a_plan_of_older_constants_is_told_so(saved: Path, tmp_path: Path) -> None:
    now, older, undated = TrainPlan.load(saved), tmp_path / "older.json", tmp_path / "undated.json"
    query = TrainQuery.of_plan(now)
    assert older_constants(query, now) == ""
    then = tuple(
        a.model_copy(update={"text": re.sub(r"fitted on [\d-]+", "fitted on 2025-01-02", a.text)}) for a in now.assumptions
    )
    now.model_copy(update={"data": now.data | {"constants": "0" * 64}, "assumptions": then}).save(older)
    now.model_copy(update={"data": {k: v for k, v in now.data.items() if k != "constants"}}).save(undated)
    said = run("explain", older, "--why-not", "tp=7").stderr
    assert said.count("\n") == 1 and said.startswith("note: the training model's constants have changed")
    assert "fitted on 2025-01-02" in said
    assert "note: constants have changed" in run("evaluate", older).stderr
    # a plan that does not say which it rests on, but is of the same day
    assert run("explain", undated, "--why-not", "tp=7").stderr == run("evaluate", undated).stderr == ""


def test_a_plan_of_another_version_says_which_and_what_to_do(saved: Path, tmp_path: Path) -> None:
    data, older = json.loads(saved.read_text()), tmp_path / "older.json"
    del data["walls"][0]["tight"]
    older.write_text(json.dumps(data | {"wallplan": "0.0.9"}))
    for command in (("explain", older), ("evaluate", older), ("alternatives", older), ("compare", older, saved)):
        result = run(*command)
        words = f"{older}: walls[0].tight: missing key; written by wallplan 0.0.9, this is "
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert result.stderr.startswith(words) and result.stderr.endswith(": solve the question again\n")


def test_an_answer_is_shown_as_a_job(saved: Path) -> None:
    from planner.cli import _show_plan

    for format, words in (
        ("table", "pessimistic, by the step that counts"),
        ("md", "## Job"),
        ("csv", "rank,precision,tensor_parallel"),
    ):
        with redirect_stdout(StringIO()) as shown:
            _show_plan(TrainPlan.load(saved), format)
        assert words in shown.getvalue()


def test_an_infeasible_question_on_the_command_line(tmp_path: Path) -> None:
    question, plan = tmp_path / "small.yaml", tmp_path / "plan.json"
    question.write_text(
        "schema: wallplan/v1\nkind: train\nname: small\n"
        "workload: {model: llama-3.1-8b, tokens: 100e9 token, sequence_length: 4096, global_batch: 256}\n"
        "deadline: 30 day\nsupply: {chips: [h100-sxm], accelerators: 64}\n"
        'regions: {allow: ["aws/us-*"]}\nlimits: {power: 60 kW}\n'
    )
    result = run("solve", question, "-q", "-f", "json", "-o", plan)
    answer = json.loads(result.stdout)
    assert result.exit_code == 3 and answer["status"] == "infeasible" and answer["job"] is None
    lines = {c["clause"]: c["line"] for c in answer["conflict"]}
    assert lines["limits.power"] == 8 and lines["supply.accelerators"] == 6 and "deadline" not in lines
    fix = next(f for f in answer["fixes"] if f["clause"] == "limits.power")
    fewer = next(f for f in answer["fixes"] if f["clause"] == "supply.accelerators")
    # by hand: 60 kW has to grow by a little less than 64 accelerators have to shrink, measured by ratios
    power, count = float(fix["value"].split()[0]) / 60, 64 / int(fewer["value"])
    assert 1 < power < count and answer["nearest"]["job"]["accelerators"] == 64
    assert answer["nearest"]["change"].startswith("power")
    assert any(c["clause"] == "deadline" for c in answer["innocent"])
    power = float(fix["value"].split()[0])
    for size, code in ((power, 0), (power - 0.001, 3)):
        assert run("solve", question, "-q", "-f", "json", "--set", f"limits.power={size} kW").exit_code == code
    # every clause of the clash repairs alone, so there is no other clash
    assert answer["clashes"] == "all" and not answer["further"] and not answer["not_enough_alone"]
    shown = run("explain", plan).stdout
    assert "Best possible anyway" in shown and "Not to blame" in shown
    assert "a job may take at most 10 years" in shown
    table = run("explain", plan, "-f", "csv").stdout.splitlines()
    parts = [line.partition(",")[0] for line in table[1:]]
    assert parts.count("clash 1") == parts.count("repair") == 3 and "nearest plan" in parts and "not to blame" in parts
    for verb in ("alternatives", "evaluate"):
        nothing = run(verb, plan)
        assert nothing.exit_code == 2 and "no job (infeasible)" in nothing.stderr and nothing.stderr.count("\n") == 1


def test_compare_and_evaluate_on_the_command_line(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    example = EXAMPLES / "train-gpt3-512xa100.yaml"
    assert run("solve", example, "-q", "-o", other, "--set", "parallelism.tensor=8", "-f", "json").exit_code == 0
    rows = {row["name"]: row for row in json.loads(run("compare", saved, other, "-f", "json").stdout)}
    assert rows["tensor parallel"]["new"] == "8" and rows["objective [days]"]["change"] > 0
    moved = run("evaluate", saved, "-q", "-f", "json", "--set", "prices.scale=1.1")
    plan = TrainPlan.load(saved)
    assert moved.exit_code == 0 and plan.job is not None
    assert json.loads(moved.stdout)["totals"]["cost_usd"] == pytest.approx(plan.job.cost_usd * 1.1, rel=1e-9)
    late = run("evaluate", saved, "--set", "deadline=40 day")
    assert late.exit_code == 4 and "deadline" in late.stderr
    gone = run("evaluate", saved, "--set", "supply.chips=[h100-sxm]")
    assert gone.exit_code == 4 and "supply.chips" in gone.stderr
    edited = tmp_path / "edited.json"
    edited.write_text(saved.read_text().replace(f'"cost_usd": {plan.job.cost_usd}', '"cost_usd": 1.0', 1))
    assert run("evaluate", edited).exit_code in (0, 4)
    serve = tmp_path / "serve.json"
    serve.write_text(json.dumps(json.loads(saved.read_text()) | {"kind": "serve"}))
    wrong = run("compare", saved, serve)
    assert wrong.exit_code == 2 and "only plans of one kind" in wrong.stderr and wrong.stderr.count("\n") == 1


def test_the_program_of_a_job_is_confirmed_by_another_solver(tmp_path: Path) -> None:
    import highspy

    question = tmp_path / "job.yaml"
    question.write_text(query_of({"workload.model": "llama-3.1-8b", "workload.tokens": "20e9 token", "workload.global_batch": 64,
                                  "supply.chips": ["h100-sxm"], "regions.allow": ["aws/*"]}).to_yaml())  # fmt: skip
    for ending in ("lp", "mps"):
        model = tmp_path / f"m.{ending}"
        result = run("solve", question, "-q", "-f", "json", "--write-model", model)
        assert result.exit_code == 0, result.output
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        assert solver.readModel(str(model)) == highspy.HighsStatus.kOk
        solver.run()
        assert solver.getInfo().objective_function_value / 100 == pytest.approx(json.loads(result.stdout)["objective"], abs=1e-6)


@pytest.mark.parametrize("figure", ["peak FLOP/s", "memory capacity", "host bandwidth", "efficiency"])
def test_families_of_a_moved_world_are_those_that_are_found_anew(figure: str, put: Callable[[Catalog], None]) -> None:
    put(catalog_of(5))
    scales, asker = ((figure, 1.3),), Asker(TODAY)
    query = query_of({"workload.offload": ["optimizer"], "workload.stack": "megatron-core"})
    asker.families_of(asker.question(query))
    moved = asker.question(query, scales)
    for mine, anew in zip(asker.families_of(moved, scales), families_of(moved, Market(moved, [])), strict=True):
        assert (mine.machine, mine.floors, mine.host, mine.task.precisions) == (
            anew.machine, anew.floors, anew.host, anew.task.precisions,
        )  # fmt: skip
        assert mine.rates.offers == anew.rates.offers and np.array_equal(mine.rates.cost, anew.rates.cost)
        assert np.array_equal(mine.quotas, anew.quotas) and (mine.vcpus, mine.spot) == (anew.vcpus, anew.spot)


def test_plans_have_their_verbs(saved: Path) -> None:
    query = ask(EXAMPLES / "train-gpt3-512xa100.yaml").set("top", 1)
    assert hasattr(query, "solve") and math.isfinite(TrainPlan.load(saved).objective or math.inf)
    plan: Any = TrainPlan.load(saved)
    assert not plan.evaluate().violations
    answer = plan.why_not(tp=8)
    assert answer.job.layout.tensor_parallel == 8 and answer.ratio > 1
    assert answer.wins_at or answer.note.startswith("at no prices")
    assert isinstance(plan, Plan)


# ------------------------------------------------------------------------------------------- bounds from another world


@pytest.mark.parametrize(
    ("model", "chip", "stack", "precision"),
    [
        ("gpt-3-175b", "a100-sxm-80gb", "megatron-core", "bf16"),
        ("mixtral-8x7b", "h100-sxm", "nemo", "fp8"),
        ("llama-3.1-8b", "a100-sxm-80gb", "torchtitan", "bf16"),
    ],
)
def test_no_step_gets_shorter_than_its_chip_gets_faster(model: str, chip: str, stack: str, precision: str) -> None:
    """Every layout on 64 accelerators with one figure of the chip 1 % larger: at most 1 % faster, as `Asker.memory` says."""
    narrow = {"supply": {"chips": [chip], "accelerators": 64}, "minimize": "time"}
    data = BASE | narrow | {"workload": {"model": model, "tokens": "1e9 token", "sequence_length": 2048, "global_batch": 64,
                                         "precision": [precision], "stack": stack}}  # fmt: skip
    query = Query.from_dict(data)
    assert isinstance(query, TrainQuery)
    asker = Asker(TODAY)

    def times(scales: asking.Scales) -> Any:
        asked = asker.question(query, scales)
        family = asker.families_of(asked, scales)[0]
        accelerator = accelerator_of(asked, family.machine, 64)
        cores = cores_of(64, asked.task.choices)
        every = strategies_of(cores, asked.task.choices, precision, accelerator.scale_up_domain)
        return step_of(family.task, accelerator, every, family.host).high

    now = times(())
    assert len(now) > 10_000
    for figure in figures.OF_TIMES - {"host bandwidth"}:
        then = times(((figure, 1.01),))
        assert np.all(then >= now / 1.01 * (1 - 1e-12)), figure
