"""Marginal values are differences of two answers, and switch points have one plan on each side; swings and syntheses too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tiny

from planner import marginal, sensitivity, synthesis
from planner import prepare as preparing
from planner import solve as solving
from planner.marginal import knobs, marginals, moved, turning_point, varied, whole
from planner.plan import Plan
from planner.query import ServeQuery
from planner.records import NotProven, QueryError
from planner.solve import solve
from zoo.catalog import Catalog
from zoo.units import Q

MODULES = (preparing, solving, marginal)


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Catalog], None]:
    def world(catalog: Catalog) -> None:
        for module in MODULES:
            monkeypatch.setattr(module, "open_catalog", lambda query: catalog)

    return world


def town() -> Catalog:
    chips = [tiny.chip("red"), tiny.chip("blue", memory_bandwidth=Q(3.0, "TB/s"), memory=Q(6.0, "GiB"), tdp=Q(500.0, "W"))]
    regions = [tiny.region("here/one", 300.0), tiny.region("there/two", 20.0, country="DE")]
    offers = [
        tiny.offer("here/one", "red", 1.0, 1), tiny.offer("here/one", "red", 3.7, 4), tiny.offer("here/one", "blue", 2.9, 1),
        tiny.offer("there/two", "blue", 3.3, 1), tiny.offer("there/two", "blue", 11.0, 4, "spot"),
    ]  # fmt: skip
    return tiny.world(chips, [tiny.model()], regions, offers)


def twins() -> Catalog:
    """Two chips of one price, one a little faster: where the other just serves, more demand moves the plan for free."""
    speed = tiny.chip("red").memory_bandwidth * 1.03
    offers = [tiny.offer("here/one", "red", 1.0, 1), tiny.offer("here/one", "rose", 1.0, 1)]
    chips = [tiny.chip("red"), tiny.chip("rose", memory_bandwidth=speed)]
    return tiny.world(chips, [tiny.model()], [tiny.region("here/one", 300.0)], offers)


def ask(**changes: Any) -> ServeQuery:
    base: dict[str, Any] = {
        "workload": {"model": "toy", "rate": "61/s", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"]}
    }
    return tiny.question(**{**base, **changes})


LIMITED = ask(
    limits={"power": "30 kW", "chips": 60}, supply={"offers": ["on-demand", "spot"], "quota": [{"chip": "red", "chips": 9}]}
)
CLEAN = ask(minimize="carbon")
SPREAD = ask(
    workload={
        "model": "toy", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"],
        "populations": [{"name": "a", "rate": "21/s"}, {"name": "b", "rate": "30/s", "residency": "DE"}],
    }
)  # fmt: skip


def objective(query: ServeQuery, catalog: Catalog, scales: dict[str, float], put: Callable[[Catalog], None]) -> float | None:
    """A solve from nothing in the moved world. Where there is no plan, nobody looks at why."""
    put(varied(catalog, scales))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solving, "_explained", lambda *_: {})
        found = solve(query).objective
    put(catalog)
    return found


def _unit_more(what: str, plan: Any, catalog: Catalog) -> float:
    """One unit more (of what is to be little: less) of a figure of the chip, offer or region of which a plan has most chips."""
    pool = max(plan.fleet, key=lambda pool: pool.accelerators)
    chip = catalog.chips[pool.chip]
    figure, step = {
        "memory bandwidth": (chip.memory_bandwidth, tiny.Q(1.0, "GiB/s")),
        "memory capacity": (chip.memory, tiny.Q(1.0, "GiB")),
        "link bandwidth": (chip.link_bandwidth, tiny.Q(1.0, "GiB/s")),
        "prices": (catalog.offers[pool.offer].price, tiny.Q(-0.1, "USD/hour")),
        "carbon intensity": (catalog.regions[pool.region].grid.average_intensity, tiny.Q(-1.0, "gCO2e/kWh")),
    }[what]
    return 1 + float((step / figure).m_as("dimensionless"))


EDGE = ask(workload={"model": "toy", "rate": "60/s", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"]})


@pytest.mark.parametrize(
    ("query", "catalog"),
    [(ask(), town()), (LIMITED, town()), (CLEAN, town()), (SPREAD, town()), (EDGE, twins())],
    ids=["cost", "limits", "carbon", "populations", "twins"],
)
def test_values_are_differences_of_two_answers(query: ServeQuery, catalog: Catalog, put: Callable[[Catalog], None]) -> None:
    put(catalog)
    best = solve(query)
    assert best.objective is not None
    if query is EDGE:  # its own machines no longer do with 1 % more demand, others of the same price do
        assert [pool.chip for pool in best.fleet] == ["red"]
        more = query.set("workload.rate", "60.6/s")
        assert solve(more).objective == best.objective < (solve(more.set("supply.chips", ["red"])).objective or 0)
    rows = marginals(best, query)
    for knob, row in zip(knobs(query), rows, strict=True):
        assert row.knob == knob.name
        if knob.scale == "peak FLOP/s":  # at the fractions that were fitted: see the test of that below
            continue
        looser, tighter = (objective(*args) for args in (
            (*_question(query, knob, knob.looser, catalog), put), (*_question(query, knob, 2 - knob.looser, catalog), put)
        ))  # fmt: skip
        assert looser is not None
        assert row.per_percent == pytest.approx(best.objective - looser)
        assert row.breaks is (tighter is None)
        gains = [best.objective - looser > 1e-9, tighter is None or tighter > best.objective + 1e-9]
        factor = knob.unit_factor if knob.scale is None else _unit_more(knob.scale, best, catalog)
        assert (factor is None) == (row.per_unit is None) == (not row.unit_step)
        if factor is not None:
            unit = objective(*_question(query, knob, factor, catalog), put)
            assert unit is not None
            assert row.per_unit == pytest.approx(best.objective - unit)
            gains.append(best.objective - unit > 1e-9)
        assert row.binding is any(gains)


def _question(
    query: ServeQuery, knob: marginal.Knob, factor: float, catalog: Catalog
) -> tuple[ServeQuery, Catalog, dict[str, float]]:
    question, scales = moved(query, knob, factor)
    return question, catalog, scales


@pytest.mark.parametrize("switches", [False, True], ids=["values", "switches"])
def test_a_proof_that_was_stopped_leaves_its_own_value_open_and_no_other(
    switches: bool, put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Re-solves of another demand or TTFT are stopped: those of TPOT, asked together with TTFT at first, are asked alone."""
    put(town())
    query = ask()
    best, proof = solve(query), preparing.prove
    every = {row.knob: row for row in marginals(best, query, switches)}

    def stopped(prepared: Any, *arguments: Any, **options: Any) -> Any:
        found, asked = proof(prepared, *arguments, **options), prepared.query
        same = (asked.workload.rate, asked.sla.ttft) == (query.workload.rate, query.sla.ttft)
        return found if same else replace(found, status="stopped", objective=None)

    monkeypatch.setattr(marginal, "prove", stopped)
    rows = {row.knob: row for row in marginals(best, query, switches)}
    assert list(rows) == list(every) and all(row.proven for row in every.values())
    moved = {"TTFT p99", "rate"}
    assert {name for name, row in rows.items() if not row.proven} == moved
    assert all(rows[name] == every[name] for name in every if name not in moved)
    for name in moved:
        assert rows[name].per_percent is rows[name].per_unit is rows[name].switches_at is rows[name].worsens_at is None
        assert rows[name].breaks is every[name].breaks is False and every[name].binding >= rows[name].binding
    monkeypatch.setattr(marginal, "prove", lambda *args, **more: replace(proof(*args, **more), status="stopped"))
    with pytest.raises(NotProven, match=r"solver\.time"):
        marginals(best, query)


def test_that_nothing_serves_is_only_said_where_it_is_proven(
    put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(town())
    query = next(one for chips in range(2, 60) if solve(one := ask(limits={"chips": chips})).objective is not None)
    assert solve(ask(limits={"chips": (query.limits.chips or 0) - 1})).objective is None  # the least number that serves
    best = solve(query)
    asked = [knob for knob in knobs(query) if knob.name == "limit of chips"]
    monkeypatch.setattr(marginal, "knobs", lambda _: asked)
    (row,) = marginals(best, query)
    assert row.breaks and row.binding and row.proven
    answer = marginal.Asker.feasible

    def stopped(asker: Any, question: ServeQuery) -> bool:
        asker.unproven = not answer(asker, question)
        return not asker.unproven

    monkeypatch.setattr(marginal.Asker, "feasible", stopped)
    (row,) = marginals(best, query)
    assert not row.breaks and row.binding and not row.proven


@pytest.mark.parametrize("query", [ask(), LIMITED], ids=["cost", "limits"])
def test_a_better_plan_begins_at_the_switch(query: ServeQuery, put: Callable[[Catalog], None]) -> None:
    """At the switch the optimum is better, and a thousandth before it is not; 1 % tighter costs what is said."""
    catalog = town()
    put(catalog)
    best = solve(query)
    assert best.objective is not None
    rows = list(zip(knobs(query), marginals(best, query, switches=True), strict=True))
    for knob, row in rows:
        if knob.scale != "peak FLOP/s":
            tighter = objective(*_question(query, knob, 2 - knob.looser, catalog), put)
            assert row.costs_per_percent == (None if tighter is None else pytest.approx(tighter - best.objective))
    assert any(row.costs_per_percent for _, row in rows)
    asked = [(knob, row) for knob, row in rows if knob.path]
    assert any(row.switches_at for _, row in asked)
    for knob, row in asked:
        assert knob.path is not None
        if row.switches_at is None:
            there = objective(moved(query, knob, 2.0 if knob.looser > 1 else 0.5)[0], catalog, {}, put)
            assert there == best.objective
            continue
        after = query.set(knob.path, int(row.switches_at.split()[0]) if knob.path.endswith("chips") else row.switches_at)
        found = objective(after, catalog, {}, put)
        assert found is not None and found < best.objective
        if knob.path.endswith("chips"):
            before: object = int(row.switches_at.split()[0]) - 1
        else:
            value, step = Q(row.switches_at), Q(knob.value) * (0.001 if knob.looser > 1 else -0.001)
            before = f"{float((value - step).m_as(value.units)):.10g} {value.units:~C}".replace(" 1/s", "/s")
        found = objective(query.set(knob.path, before), catalog, {}, put)
        assert found == best.objective


@pytest.mark.parametrize("count", [1, 7, 19, 22, 23, 48, 200])
def test_the_turning_point_of_a_count_is_the_count_itself(count: int) -> None:
    """22 * (15 / 22) is a little less than 15 in floating point: it is 15 all the same."""
    for least in range(count + 1, 2 * count + 1):
        at = turning_point(count, 2.0, lambda factor, least=least: whole(count, factor) >= least)  # type: ignore[misc]
        assert at is not None and whole(count, at) == least
    for most in range(count // 2, count):
        at = turning_point(count, 0.5, lambda factor, most=most: whole(count, factor) <= most)  # type: ignore[misc]
        assert at is not None and whole(count, at) == most


def test_more_flops_are_at_the_fractions_that_were_fitted(put: Callable[[Catalog], None]) -> None:
    """What a chip reaches of its peak depends on FLOP/s per watt between chips; of one chip with more FLOP/s it stays."""
    catalog = town()
    put(catalog)
    query = ask(sla={"ttft": {"p99": "90 ms"}})
    best, rows = solve(query), marginals(solve(query), query)
    peak = next(row for row in rows if row.knob == "peak FLOP/s")
    assert peak.per_percent is not None and peak.per_percent >= 0
    faster = [marginal.best(query, {"peak FLOP/s": f}, _warm(query)) or 0.0 for f in (1.0, 1.5, 2.0, 4.0)]
    assert faster == sorted(faster, reverse=True) and faster[0] == best.objective and faster[-1] < faster[0]


def _warm(query: ServeQuery) -> preparing.Memory:
    memory = preparing.Memory()
    preparing.prepare(query, memory=memory)
    return memory


def test_swings_are_answers_to_moved_questions(put: Callable[[Catalog], None]) -> None:
    catalog = town()
    put(catalog)
    query = ask(uncertain={"prices": [0.5, 1.0, 1.5]})
    best = solve(query)
    rows = {row.what: row for row in sensitivity.tornado(best, query)}
    assert [rows["prices"].low, rows["prices"].high, rows["demand"].low, rows["demand"].high] == [0.5, 1.5, 0.8, 1.2]
    assert rows["prices"].objective_high == objective(query, catalog, {"prices": 1.5}, put)
    assert rows["demand"].objective_high == solve(query.set("workload.rate", f"{61 * 1.2}/s")).objective
    assert rows["carbon intensity"].objective_low == rows["carbon intensity"].objective_high == best.objective
    slower = query.override({"workload.rate": f"{61 / 0.8}/s", "sla.ttft.p99": "400 ms", "sla.tpot.p99": "32 ms"})
    assert rows["efficiency"].objective_low == solve(slower).objective
    for row in rows.values():
        for switches, fleet in ((row.switches_low, row.plan_low), (row.switches_high, row.plan_high)):
            assert switches or fleet == rows["carbon intensity"].plan_low
    widths = [abs((r.objective_high or 0) - (r.objective_low or 0)) for r in sensitivity.tornado(best, query)]
    assert widths == sorted(widths, reverse=True)


def test_a_chip_enters_where_synthesis_says(put: Callable[[Catalog], None]) -> None:
    """At the factor the chip is in the optimal plan; one hundredth less, it is not."""
    catalog = town()
    put(catalog)
    query = ask()
    best = solve(query)
    outside = next(name for name in catalog.chips if name not in {pool.chip for pool in best.fleet})
    needs = synthesis.synthesis(best, query, outside)
    assert {need.what for need in needs} >= {"memory bandwidth", "memory capacity"}
    names = {"memory bandwidth": "memory bandwidth", "memory capacity": "memory capacity",
             "price (all its offers; the cheapest chip-hour)": "prices"}  # fmt: skip
    entered = 0
    for need in needs:
        if need.what not in names or need.factor is None:
            continue
        entered += 1
        back = 0.01 if names[need.what] == "prices" else -0.01
        for factor, inside in ((need.factor, True), (need.factor + back, False)):
            put(varied(catalog, {names[need.what]: factor}, outside))
            found = solve(query)
            assert (outside in {pool.chip for pool in found.fleet}) is inside
            assert found.objective == (need.objective if inside else best.objective)
        put(catalog)
    assert entered
    assert synthesis.synthesis(best, query, best.fleet[0].chip) == ()
    with pytest.raises(QueryError):
        synthesis.synthesis(best, query, "green")


def test_a_plan_of_changed_prices_is_evaluated_without_a_solver(put: Callable[[Catalog], None], monkeypatch: Any) -> None:
    """The same machines at other prices, at another demand, under another promise."""
    catalog = town()
    monkeypatch.undo()
    scaled = {1.0: catalog, 1.1: varied(catalog, {"prices": 1.1})}
    for module in MODULES:
        monkeypatch.setattr(module, "open_catalog", lambda query: scaled[query.prices.scale])
    query = ask()
    best = solve(query)
    assert best.objective is not None

    def evaluated(changes: dict[str, object]) -> Any:
        from planner.evaluate import evaluate

        return evaluate(*solving.reload(best, changes))

    same, dearer = evaluated({}), evaluated({"prices.scale": 1.1})
    assert same.violations == dearer.violations == ()
    assert dearer.objective == pytest.approx(1.1 * same.objective, rel=1e-4)
    less = evaluated({"workload.rate": "40/s"})
    assert less.violations == () and less.totals["load_per_s"] == pytest.approx(40)
    beyond = 1.05 * same.totals["capacity_per_s"]
    assert evaluated({"workload.rate": f"{beyond}/s"}).violations and evaluated({"sla.ttft.p99": "30 ms"}).violations
    with pytest.raises(QueryError):
        evaluated({"workload.rate": None, "workload.populations": [{"name": "eu", "rate": "3/s"}]})


def test_a_plan_has_its_verbs_in_python(put: Callable[[Catalog], None]) -> None:
    put(town())
    best: Any = Plan.from_json(solve(ask()).to_json())
    import planner

    assert planner.Plan is Plan
    assert best.evaluate().violations == ()
    assert best.why_not(chip="blue").what == "chip=blue"
    assert best.alternatives(within=0.5) is not None
    rows = best.marginal
    assert [row.knob for row in rows] == [row.knob for row in best.switches()] and not any(row.switches_at for row in rows)
    assert rows and best.tornado() and best.synthesis("red") is not None
