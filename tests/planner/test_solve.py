"""Answers: what must hold between them, that each is checked exactly, and that everything a question says is respected.

No figure of the serving model stands here: only relations between answers, in worlds small enough to read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tiny
from worlds import Case, case_of

from planner import Plan, PlanError, certify, columns, pyomo_milp, space
from planner import prepare as preparing
from planner import solve as solving
from planner.program import Program, Solution
from planner.query import ServeQuery
from planner.records import QueryError
from planner.solve import solve
from zoo.catalog import Catalog
from zoo.units import Q

NEVER = 10**18  # the objective of a question without an answer


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[[Catalog], None]:
    """Puts a catalogue in the place of the zoo."""

    def put(catalog: Catalog) -> None:
        def opened(query: ServeQuery) -> Catalog:
            from planner import references

            references.check(query, catalog)
            return catalog

        for module in (preparing, solving):
            monkeypatch.setattr(module, "open_catalog", opened)

    return put


def optimum(query: ServeQuery) -> int:
    """The proven objective in the program's integers; NEVER where there is no plan."""
    certificate = preparing.prove(preparing.prepare(query))
    assert certificate.status in ("optimal", "infeasible")
    return NEVER if certificate.objective is None else certificate.objective


# ---------------------------------------------------------------- between answers, in random worlds

SEEDS = range(16)


def drawn(seed: int) -> tuple[Case, tuple[int, ...]]:
    """A world and a demand that is neither nothing nor huge."""
    draw = Random(seed)
    people = 1 + seed % 2
    case = replace(case_of(draw, people, mixed=True), quotas=())
    return case, tuple(draw.randint(200, 60_000) for _ in range(people))


@pytest.mark.parametrize("seed", SEEDS)
def test_asking_for_less_never_costs_more(seed: int, world: Callable[[Catalog], None]) -> None:
    case, rates = drawn(seed)
    world(case.world())
    base = optimum(case.ask(rates, {}))
    assert optimum(replace(case, ttft=tuple((p, 1.25 * limit) for p, limit in case.ttft)).ask(rates, {})) <= base
    if case.tpot is not None:
        assert optimum(replace(case, tpot=1.4 * case.tpot).ask(rates, {})) <= base
    assert optimum(case.ask(tuple(max(1, rate * 2 // 3) for rate in rates), {})) <= base
    assert optimum(replace(case, cv=case.cv * 0.6).ask(rates, {})) <= base
    assert optimum(replace(case, mixed=False).ask(rates, {})) >= base
    assert optimum(replace(case, precision=case.precision[:1]).ask(rates, {})) >= base
    if base < NEVER:
        tight, loose = (optimum(case.ask(rates, {"power": watts})) for watts in (1500, 4000))
        assert tight >= loose >= base


@pytest.mark.parametrize("seed", SEEDS)
def test_one_more_offer_never_hurts(seed: int, world: Callable[[Catalog], None]) -> None:
    case, rates = drawn(seed)
    answers = []
    for count in range(1, len(case.offers) + 1):
        world(replace(case, offers=case.offers[:count]).world())
        answers.append(optimum(case.ask(rates, {})))
    assert answers == sorted(answers, reverse=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_dominance_never_removes_a_winner(seed: int, world: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Solved with every layout and every offer in the program, and with those that dominance leaves."""
    case, rates = drawn(seed)
    case = replace(case, quotas=case_of(Random(seed), len(rates), mixed=True).quotas, mixed=seed % 3 > 0)
    world(case.world())
    questions = [case.ask(rates, limits) for limits in ({}, {"cost": 60_000}, {"chips": 6, "water": 2000})]
    kept = [optimum(question) for question in questions]
    monkeypatch.setattr(columns, "undominated", lambda columns, *_: list(range(len(columns))))
    monkeypatch.setattr(space, "front", lambda kind, *costs: np.arange(len(kind)))
    assert [optimum(question) for question in questions] == kept


# ---------------------------------------------------------------- one town, with answers that can be foreseen


def town(**prices: float) -> Catalog:
    """Red and blue chips in a clean and a dirty place; red comes alone and in fours, blue alone."""
    chips = [tiny.chip("red"), tiny.chip("blue", memory=Q(3.2, "GiB"), memory_bandwidth=Q(0.5, "TB/s"), tdp=Q(80.0, "W"))]
    regions = [
        tiny.region("north/oslo", 20.0, country="NO", latitude=60.0, longitude=10.0),
        tiny.region("south/rome", 400.0, country="IT", latitude=42.0, longitude=12.5),
    ]
    cost = {"red": 2.0, "red4": 7.0, "blue": 1.0, "south": 0.8} | prices
    offers = [
        tiny.offer(place, name, factor * cost[key], count)
        for place, factor in (("north/oslo", 1.0), ("south/rome", cost["south"]))
        for key, name, count in (("red", "red", 1), ("red4", "red", 4), ("blue", "blue", 1))
    ]
    return tiny.world(chips, [tiny.model()], regions, offers)


POPULATIONS = [
    {"name": "north", "rate": "30/s", "near": ["60,10"], "residency": "NO"},
    {"name": "south", "rate": "50/s", "near": ["42,12.5"]},
]


def ask(rate: str | None = "80/s", populations: list[dict[str, Any]] | None = None, **changes: Any) -> ServeQuery:
    workload: dict[str, Any] = {"model": "toy", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16", "fp8"]}
    workload |= {"rate": rate} if populations is None else {"populations": populations}
    sla = {"ttft": {"p99": "900 ms"}, "tpot": {"p99": "60 ms"}}
    return tiny.question(**{"workload": workload, "sla": sla, "supply": {"offers": ["on-demand"]}, **changes})


QUESTIONS: dict[str, dict[str, Any]] = {
    "cost": {},
    "carbon": {"minimize": "carbon"},
    "power": {"minimize": "power"},
    "chips": {"minimize": "chips"},
    "weighted": {"minimize": "cost + carbon.price * carbon", "carbon": {"price": "9000 USD/tCO2e"}},
    "populations": {"populations": POPULATIONS},
    "not mixed": {"populations": POPULATIONS, "supply": {"offers": ["on-demand"], "mixed": False}},
    "quota": {
        "supply": {"offers": ["on-demand"], "quota": [{"region": "south/*", "chips": 1}, {"chip": "blue", "instances": 2}]}
    },
    "limits": {"limits": {"cost": "40 USD/h", "power": "9 kW", "carbon": "3 kgCO2e/h", "water": "20 L/h", "chips": 30}},
    "bursts": {"rate": "37.5/s"},
    "both engines": {"solver": {"engine": "both"}},
    "cpsat": {"solver": {"engine": "cpsat"}},
    "gap": {"solver": {"gap": "20 %"}},
    "typical": {"rank": "typical"},
}


@cache
def plan_of(name: str) -> Plan:
    """The plan of a question about the town, which has been put in place. No test changes it."""
    return solve(ask(**QUESTIONS[name]))


@pytest.fixture(params=QUESTIONS)
def plan(request: pytest.FixtureRequest, world: Callable[[Catalog], None]) -> Plan:
    world(town())
    return plan_of(request.param)


def test_every_plan_is_proven_and_checked(plan: Plan) -> None:
    assert plan.status == "optimal" and plan.fleet
    assert plan.certificate.forward_check == "every wall holds"
    assert plan.certificate.lower_bound is not None and plan.objective is not None
    assert plan.certificate.lower_bound <= plan.objective * (1 + 1e-12)
    gap = (plan.objective - plan.certificate.lower_bound) / plan.objective
    assert plan.certificate.gap == pytest.approx(gap, abs=1e-9)
    assert gap <= (0.2 if "gap" in plan.query.get("solver", {}) else 0) + 1e-12
    for pool in plan.fleet:
        assert pool.load_per_s <= pool.capacity_per_s
        assert pool.ttft_p99_ms is not None and pool.ttft_p99_ms <= 900 * (1 + 1e-9)
        assert pool.tpot_ms <= 60
    for wall in plan.walls:
        assert wall.limit is None or wall.demand <= wall.limit * (1 + 1e-9), wall


def test_a_plan_survives_json_and_evaluation(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    result = again.evaluate()  # type: ignore[attr-defined]
    assert not result.violations
    assert result.pools == plan.fleet and result.totals == plan.totals and result.walls == plan.walls


def test_a_plan_is_tables(plan: Plan) -> None:
    fleet = plan.frame("fleet")
    assert list(fleet["offer"]) == [pool.offer for pool in plan.fleet]
    assert {"tensor_parallel", "cost_usd_per_h", "ttft_p99_ms"} <= set(fleet.columns)
    assert plan.frame("walls").shape[0] == len(plan.walls)
    assert plan.frame("certificate").loc[0, "status"] == "optimal"


def test_demand_is_served_whole_by_those_who_may(plan: Plan) -> None:
    served: dict[str, float] = {}
    for pool in plan.fleet:
        for name, rate in pool.serves.items():
            served[name] = served.get(name, 0.0) + rate
            if name == "north":
                assert pool.region == "north/oslo"
    asked = plan.query["workload"].get("populations") or [{"name": "all", "rate": plan.query["workload"]["rate"]}]
    assert served == pytest.approx({group["name"]: float(group["rate"].removesuffix("/s")) for group in asked})


def test_both_engines_find_the_same_objective(world: Callable[[Catalog], None]) -> None:
    world(town())
    for name, changes in QUESTIONS.items():
        if "solver" not in changes:
            highs, cpsat = (optimum(ask(**changes, solver={"engine": engine})) for engine in ("highs", "cpsat"))
            assert highs == cpsat, name
    assert "same optimum" in solve(ask(solver={"engine": "both"})).certificate.cross_check
    beaten = preparing.prove(preparing.prepare(ask(limits={"chips": 1}, rate="4000/s", solver={"engine": "both"})))
    assert beaten.status == "infeasible" and "infeasible" in beaten.cross_check


@pytest.mark.parametrize("name", ["cost", "populations", "not mixed", "chips"])
def test_the_same_question_gives_the_same_plan(name: str, world: Callable[[Catalog], None]) -> None:
    world(town())
    one, two = (solve(ask(**QUESTIONS[name])) for _ in range(2))
    assert one.fleet == two.fleet and one.walls == two.walls and one.totals == two.totals


def test_each_objective_is_least_in_its_own_plan(world: Callable[[Catalog], None]) -> None:
    world(town())
    totals = {"cost": "cost_usd_per_h", "carbon": "carbon_kgco2e_per_h", "power": "power_kw", "chips": "accelerators"}
    plans = {name: solve(ask(minimize=name)) for name in totals}
    for name, key in totals.items():
        least = min(plans.values(), key=lambda plan: plan.totals[key])
        assert plans[name].totals[key] == pytest.approx(least.totals[key])
        assert plans[name].objective == pytest.approx(plans[name].totals[key])


def test_a_limit_is_kept_and_costs(world: Callable[[Catalog], None]) -> None:
    world(town())
    free = solve(ask())
    for key, unit, total in (
        ("carbon", "kgCO2e/h", "carbon_kgco2e_per_h"),
        ("power", "kW", "power_kw"),
        ("water", "L/h", "water_l_per_h"),
    ):
        bound = 0.8 * free.totals[total]
        limited = solve(ask(limits={key: f"{bound:.6f} {unit}"}))
        if limited.status == "optimal":
            assert limited.totals[total] <= bound * (1 + 1e-9)
            assert limited.objective is not None and free.objective is not None
            assert limited.objective >= free.objective
    few = solve(ask(limits={"chips": int(free.totals["accelerators"])}))
    assert few.totals["accelerators"] <= free.totals["accelerators"]


def test_a_quota_is_kept(world: Callable[[Catalog], None]) -> None:
    world(town())
    fleet = solve(ask(**QUESTIONS["quota"])).fleet
    assert sum(pool.accelerators for pool in fleet if pool.region == "south/rome") <= 1
    assert sum(pool.instances for pool in fleet if pool.chip == "blue") <= 2


def test_a_fleet_that_may_not_mix_does_not(world: Callable[[Catalog], None]) -> None:
    world(town())
    free, one = (solve(ask(rate="300/s", populations=POPULATIONS, supply={"mixed": mixed})) for mixed in (True, False))
    assert len({(pool.chip, pool.accelerators // pool.instances) for pool in one.fleet}) == 1
    assert all(sum(name in pool.serves for pool in one.fleet) == 1 for name in ("north", "south"))
    assert one.objective is not None and free.objective is not None and one.objective >= free.objective


def test_the_network_counts_into_the_first_token(world: Callable[[Catalog], None]) -> None:
    world(town())
    near = solve(ask(populations=[{"name": "people", "rate": "30/s", "near": ["60,10"]}]))
    for pool in near.fleet:
        assert pool.network_ms > 0 and pool.ttft_p50_ms is not None and pool.ttft_p50_ms > pool.network_ms
    # people on the other side of the world cannot be answered within what the light needs
    far = ask(populations=[{"name": "people", "rate": "30/s", "near": ["-40,-170"]}], sla={"ttft": {"p99": "120 ms"}})
    answer = solve(far)
    assert answer.status == "infeasible"
    assert any("network round trip" in removed.reason for removed in answer.removed)
    assert {conflict.clause for conflict in answer.conflict} >= {"sla.ttft.p99"}


def test_data_may_stay_where_it_has_to(world: Callable[[Catalog], None]) -> None:
    world(town(south=0.1))
    free = solve(ask(populations=[{"name": "people", "rate": "30/s"}]))
    bound = solve(ask(populations=[{"name": "people", "rate": "30/s", "residency": "NO"}]))
    assert {pool.region for pool in free.fleet} == {"south/rome"}
    assert {pool.region for pool in bound.fleet} == {"north/oslo"}


def test_carbon_by_method_and_with_hardware(world: Callable[[Catalog], None]) -> None:
    base = town()
    regions = dict(base.regions)
    for name, marginal, market in (("north/oslo", 900.0, 300.0), ("south/rome", 100.0, 5.0)):
        grid = replace(regions[name].grid, marginal_intensity=Q(marginal, "gCO2e/kWh"), market_intensity=Q(market, "gCO2e/kWh"))
        regions[name] = replace(regions[name], grid=grid)
    world(tiny.world(base.chips.values(), base.models.values(), regions.values(), base.offers.values()))
    chosen = {m: solve(ask(minimize="carbon", carbon={"method": m})).fleet[0].region for m in ("average", "marginal", "market")}
    assert chosen == {"average": "north/oslo", "marginal": "south/rome", "market": "south/rome"}
    without, counted = (solve(ask(minimize="carbon", carbon={"embodied": flag})) for flag in (False, True))
    assert counted.objective is not None and without.objective is not None and counted.objective > without.objective


def test_a_region_without_the_asked_intensity_is_left_out_and_said_so(world: Callable[[Catalog], None]) -> None:
    world(town())
    answer = solve(ask(carbon={"method": "marginal"}))
    assert answer.status == "infeasible"
    assert any("no marginal carbon intensity" in removed.reason for removed in answer.removed)


# ---------------------------------------------------------------- stopping early


@pytest.mark.parametrize("found", [False, True])
def test_a_solver_that_runs_out_of_time_leaves_no_proof(
    found: bool, world: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A solver stops, with a plan in hand or without one: the answer says so, and its bound is the solver's."""
    world(town())
    best = solve(ask())

    def stops(program: Program, seconds: float, gap: float = 0.0) -> Solution:
        solution = pyomo_milp.solve(program, seconds, gap)
        assert solution.objective is not None
        point, objective = (solution.point, solution.objective) if found else (None, None)
        return replace(solution, status="stopped", point=point, objective=objective, bound=solution.objective // 2)

    monkeypatch.setitem(certify.SOLVERS, "highs", stops)
    plan = solve(ask())
    assert plan.status == "stopped" and plan.certificate.status == "stopped"
    bound = plan.certificate.lower_bound
    assert bound is not None and best.objective is not None and bound <= best.objective
    assert (plan.objective is None) == (not plan.fleet)
    if plan.objective is not None:
        assert plan.certificate.gap == pytest.approx((plan.objective - bound) / plan.objective)
        assert not plan.evaluate().violations  # type: ignore[attr-defined]


@pytest.mark.parametrize("gap", ["1 %", "30 %", "60 %", "99 %"])
@pytest.mark.parametrize("engine", ["highs", "cpsat"])
def test_a_gap_is_an_honest_bound(gap: str, engine: str, world: Callable[[Catalog], None]) -> None:
    world(town())
    for name in ("cost", "populations", "not mixed"):
        best, rough = plan_of(name), solve(ask(**QUESTIONS[name], solver={"gap": gap, "engine": engine}))
        bound, objective = rough.certificate.lower_bound, rough.objective
        assert rough.status == "optimal" and bound is not None and objective is not None and best.objective is not None
        assert bound <= best.objective * (1 + 1e-12) and objective >= best.objective
        assert objective - bound <= float(gap.removesuffix(" %")) / 100 * objective * (1 + 1e-9)


# ---------------------------------------------------------------- what cannot be counted, or does not exist


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("quota chip", {"supply": {"quota": [{"chip": "redd", "chips": 3}]}}, "chip: unknown chip 'redd'; did you mean 'red'"),
    ("quota region", {"supply": {"quota": [{"region": "north/olso", "chips": 3}]}}, "did you mean 'north/oslo'"),
    ("quota cloud", {"supply": {"quota": [{"cloud": "nort", "chips": 3}]}}, "did you mean 'north'"),
    ("supply", {"supply": {"chips": ["blu"]}}, "supply.chips[0]: unknown chip 'blu'; did you mean 'blue'"),
    ("region", {"regions": {"allow": ["north/olso"]}}, "allow[0]: unknown region 'north/olso'; did you mean 'north/oslo'"),
    ("denied region", {"regions": {"deny": ["south/roma"]}}, "regions.deny[0]: unknown region 'south/roma'; did you mean"),
    ("residency", {"populations": [{"name": "a", "rate": "1/s", "residency": "EUU"}]}, "unknown place 'EUU'; did you mean 'EU'"),
    ("place", {"populations": [{"name": "a", "rate": "1/s", "near": ["Franckfurt"]}]}, "near[0]: unknown place 'Franckfurt'"),
    ("point", {"populations": [{"name": "a", "rate": "1/s", "near": ["99,99"]}]}, "near[0]: '99,99' is no point on the globe"),
    ("rate", {"rate": "1e9/s"}, "workload.rate: 1e+09/s is too large"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_is_not_there_is_refused_in_one_line(changes: dict[str, Any], words: str, world: Callable[[Catalog], None]) -> None:
    world(town())
    with pytest.raises(QueryError) as caught:
        solve(ask(**changes))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_chips_and_places_that_nobody_offers(world: Callable[[Catalog], None]) -> None:
    base = town()
    green = tiny.chip("green")
    empty = tiny.region("west/porto", 100.0)
    world(tiny.world([*base.chips.values(), green], base.models.values(), [*base.regions.values(), empty], base.offers.values()))
    with pytest.raises(QueryError, match=r"supply.chips\[0\]: nobody offers 'green' at a known price"):
        solve(ask(supply={"chips": ["green"]}))
    with pytest.raises(QueryError, match=r"regions.allow\[0\]: nobody offers anything in 'west/porto'"):
        solve(ask(regions={"allow": ["west/porto"]}))


def test_a_chip_with_unknown_links_serves_alone(world: Callable[[Catalog], None]) -> None:
    lone = tiny.chip("red", link_bandwidth=None, host_bandwidth=None, nic_bandwidth=None, scale_up_domain=1)
    base = town()
    world(tiny.world([lone], base.models.values(), base.regions.values(), [tiny.offer("north/oslo", "red", 2.0)]))
    plan = solve(ask())
    assert plan.status == "optimal"
    assert {(pool.layout.tensor_parallel, pool.layout.pipeline_parallel) for pool in plan.fleet} == {(1, 1)}


def test_a_chip_of_unknown_power_is_left_out_and_said_so(world: Callable[[Catalog], None]) -> None:
    base = town(blue=0.0001)
    chips = [base.chips["red"], replace(base.chips["blue"], tdp=None)]
    world(tiny.world(chips, base.models.values(), base.regions.values(), base.offers.values()))
    plan = solve(ask())
    assert {pool.chip for pool in plan.fleet} == {"red"}
    assert any("power unknown" in removed.reason for removed in plan.removed)


# ---------------------------------------------------------------- a plan that somebody changed


TAMPERED: list[tuple[str, Callable[[dict[str, Any]], None], str]] = [
    ("fewer machines", lambda pool: pool.update(instances=max(1, pool["instances"] // 3)), "wall 7"),
    ("more load", lambda pool: pool["serves"].update(all=2 * pool["serves"]["all"]), "is served"),
    ("less load", lambda pool: pool["serves"].update(all=pool["serves"]["all"] / 2), "is served"),
    ("a batch beyond memory", lambda pool: pool["layout"].update(batch=100_000), "wall 2"),
    ("a region not allowed", lambda pool: pool.update(offer=pool["offer"].replace("south/rome", "north/oslo")), "regions.deny"),
    ("a format not asked for", lambda pool: pool["layout"].update(precision="fp16", kv_precision="fp16"), "layout"),
    ("a purchase not asked for", lambda pool: pool.update(offer=pool["offer"].replace("on-demand", "spot")), "supply.offers"),
    ("a chip not asked for", lambda pool: pool.update(offer="south/rome/blue-1/on-demand"), "supply.chips"),
    ("stages between machines", lambda pool: pool["layout"].update(pipeline_parallel=3), "layout"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in TAMPERED], ids=[row[0] for row in TAMPERED])
def test_a_changed_plan_is_found_out(
    change: Callable[[dict[str, Any]], None], words: str, world: Callable[[Catalog], None]
) -> None:
    base = town()
    chips = [replace(chip, peak={**chip.peak, "fp16": Q(90.0, "Tflop/s")}) for chip in base.chips.values()]
    offers = [
        *base.offers.values(),
        tiny.offer("south/rome", "red", 90.0, option="spot"),
        tiny.offer("south/rome", "red", 90.0, 4, "spot"),
    ]
    world(tiny.world(chips, base.models.values(), base.regions.values(), offers))
    saved = json.loads(
        solve(ask(rate="900/s", regions={"deny": ["north/*"]}, supply={"chips": ["red"], "mixed": False})).to_json()
    )
    change(saved["fleet"][0])
    violations = Plan.from_json(json.dumps(saved)).evaluate().violations  # type: ignore[attr-defined]
    assert any(words in violation for violation in violations), violations


def test_a_fleet_that_was_mixed_by_hand_is_found_out(world: Callable[[Catalog], None]) -> None:
    world(town())
    saved = json.loads(solve(ask(supply={"mixed": False})).to_json())
    one = saved["fleet"][0]
    other = {**one, "offer": "north/oslo/blue-1/on-demand", "serves": {"all": one["serves"]["all"] / 2}}
    saved["fleet"] = [{**one, "serves": other["serves"]}, other]
    violations = Plan.from_json(json.dumps(saved)).evaluate().violations  # type: ignore[attr-defined]
    assert any("supply.mixed" in violation for violation in violations), violations


@pytest.mark.parametrize(
    "change", [{"instances": 0}, {"instances": -3}, {"serves": {"all": -1.0}}, {"instances": "many"}, {"colour": 1}]
)
def test_a_plan_of_impossible_numbers_is_refused(change: dict[str, Any], world: Callable[[Catalog], None]) -> None:
    world(town())
    saved = json.loads(solve(ask()).to_json())
    saved["fleet"][0] |= change
    with pytest.raises(PlanError, match=r"fleet\[0\]\."):
        Plan.from_json(json.dumps(saved))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"), ("{", "not JSON"), ("[" * 100_000, "not JSON"), ("[]", "not a Wallplan plan"), ("{}", "schema_version"),
        ('{"schema_version": "wallplan/plan/v9"}', "expected 'wallplan/plan/v1'"),
        ('{"schema_version": "wallplan/plan/v1"}', "wallplan: missing key; written by an unknown version .*: solve the question"),
        (
            '{"schema_version": "wallplan/plan/v1", "wallplan": "0.0.9"}',
            "name: missing key; written by wallplan 0.0.9, this is .*: solve the question again",
        ),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=words) as caught:
        Plan.load(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


# ---------------------------------------------------------------- a user's own files


MINE = """\
chips:
  mine: {base: h100-sxm, source: a quote, date: 2026-10-01}
regions:
  home/cellar: {location: Oslo, country: NO, latitude: 59.9, longitude: 10.8, average_intensity: 30 gCO2e/kWh, pue: 1.1}
prices:
  - {region: home/cellar, instance: rack, chip: mine, accelerators: 8, price: 0.08 USD/h, source: a quote, date: 2026-10-01}
"""


def own(folder: Path, zoo: str = MINE, **changes: Any) -> ServeQuery:
    """A question about an 8B model and some chips of the real zoo, with a zoo file."""
    from planner.query import Query

    (folder / "mine.yaml").write_text(zoo)
    workload = {"model": "llama-3.1-8b", "rate": "5/s", "tokens": {"input": 500, "output": 100}, "precision": ["bf16"]}
    data = {
        "schema": "wallplan/v1", "kind": "serve", "zoo": ["mine.yaml"], "workload": workload, "sla": {"ttft": {"p99": "2 s"}},
        "supply": {"chips": ["h100-sxm", "mine"]}, "regions": {"allow": ["home/*", "lambda/*"]},
    }  # fmt: skip
    return Query.from_dict({**data, **changes}, folder=folder)


def test_a_cheap_chip_of_the_user_wins(tmp_path: Path) -> None:
    plan = solve(own(tmp_path))
    assert [(pool.chip, pool.region) for pool in plan.fleet] == [("mine", "home/cellar")]
    assert plan.fleet[0].price_source == "a quote" and plan.fleet[0].price_date == "2026-10-01"
    assert not Plan.from_json(plan.to_json()).evaluate().violations  # type: ignore[attr-defined]


def test_price_overlays_change_the_answer_as_they_say(tmp_path: Path) -> None:
    listed = solve(own(tmp_path))
    assert listed.objective is not None

    def overlaid(*overlays: dict[str, Any]) -> Plan:
        return solve(own(tmp_path, prices={"overlays": list(overlays)}))

    half = overlaid({"match": {"chip": "mine"}, "adjust": "-50 %"})
    assert half.objective == pytest.approx(listed.objective / 2)
    dear = overlaid({"match": {"chip": "mine"}, "price": "900 USD/h"})
    assert {pool.chip for pool in dear.fleet} == {"h100-sxm"}
    each = overlaid({"match": {"chip": "mine"}, "price": "0.01 USD/chip/h"}, {"match": {"cloud": "home"}, "adjust": "+100 %"})
    assert each.objective == pytest.approx(2 * listed.objective * 0.01 / 0.01)
    with pytest.raises(QueryError, match="did you mean 'mine'"):
        overlaid({"match": {"chip": "mined"}, "adjust": "-50 %"})


def test_a_model_from_its_config(tmp_path: Path) -> None:
    configs = Path(__file__).parents[1] / "zoo" / "configs"
    config = next(iter(sorted(configs.glob("*8b*.json")) or sorted(configs.glob("*7b*.json"))))
    (tmp_path / "config.json").write_text(config.read_text())
    query = own(tmp_path)
    plan = solve(query.set("workload.model", "config.json"))
    assert plan.status == "optimal" and {pool.chip for pool in plan.fleet} == {"mine"}
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(QueryError, match=r"config\.json"):
        solve(query.set("workload.model", "config.json"))


@pytest.fixture(autouse=True)
def _quietly(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """No answer comes with a warning of numpy: an undefined number is a fault, not a nuisance."""
    yield
    undefined = [str(warning.message) for warning in recwarn.list if issubclass(warning.category, RuntimeWarning)]
    assert not undefined
