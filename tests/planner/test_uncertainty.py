"""A plan under uncertainty: intervals and probabilities are those of the forward model, and a plan can be made to hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny

from planner import prepare as preparing
from planner import solve as solving
from planner.evaluate import evaluate
from planner.plan import Plan
from planner.query import ServeQuery
from planner.scalars import Spread
from planner.solve import solve
from planner.uncertainty import at_other_rates, draw, quantile


@pytest.fixture(autouse=True)
def town(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [tiny.offer("here/one", "red", 1.0, 1), tiny.offer("here/one", "red", 3.7, 4)]
    catalog = tiny.world([tiny.chip("red")], [tiny.model()], [tiny.region("here/one")], offers)
    for module in (preparing, solving):
        monkeypatch.setattr(module, "open_catalog", lambda query: catalog)


RANGES = {"prices": "±20 %", "demand": "±15 %", "efficiency": [0.8, 1.0, 1.05]}


def ask(**uncertain: object) -> ServeQuery:
    return tiny.question(uncertain={**RANGES, **uncertain}, limits={"cost": "30 USD/h"})


def holds(plan: Plan) -> float:
    """The probability of every latency promise together."""
    found = next(row.holds for row in plan.robustness if row.what == "every latency promise")
    assert found is not None
    return found


def test_quantiles_of_a_triangle() -> None:
    """Between 0.8, 1 and 1.2 the distribution function is (x - 0.8)^2 / 0.08 up to the mode, and its mirror above."""
    spread = Spread(0.8, 1.0, 1.2, "±20 %")
    assert quantile(spread, 0.5) == pytest.approx(1.0)
    assert quantile(spread, 0.125) == pytest.approx(0.9)
    assert quantile(spread, 0.875) == pytest.approx(1.1)
    assert quantile(Spread(1.0, 1.0, 1.0, "1"), 0.3) == 1.0


def test_cost_is_an_interval_and_its_limit_has_a_probability() -> None:
    """The fleet stands still and its price is triangular: p90 is 1 + 0.2 (1 - sqrt(0.2)) of today's, within sampling."""
    plan = solve(ask())
    cost = next(row for row in plan.robustness if row.what == "cost")
    today = plan.totals["cost_usd_per_h"]
    assert cost.p90 == pytest.approx(today * (1 + 0.2 * (1 - math.sqrt(0.2))), rel=0.01)
    assert cost.p10 == pytest.approx(today * (1 - 0.2 * (1 - math.sqrt(0.2))), rel=0.01)
    assert cost.limit == 30 and cost.holds == (1.0 if 1.2 * today <= 30 else cost.holds)
    assert solve(ask()).robustness == plan.robustness, "sampling is seeded"


def test_the_probability_is_that_of_the_forward_model() -> None:
    """Each draw by itself: at speed e and demand d every promise holds just when the fleet passes its check at d / e of the
    rates within e of the limits."""
    query = ask()
    plan, samples = solve(query), draw(query)
    chosen = range(0, len(samples.demand), len(samples.demand) // 80)
    good = 0
    for i in chosen:
        moved = at_other_rates(query, samples.demand[i] / samples.efficiency[i], samples.efficiency[i])
        _, catalog, model, decisions = solving.reload(plan, {"workload.rate": moved.to_dict()["workload"]["rate"]})
        good += not evaluate(moved, catalog, model, decisions).violations
    share, deviation = good / len(chosen), math.sqrt(0.25 / len(chosen))
    assert holds(plan) == pytest.approx(share, abs=3 * deviation)


@pytest.mark.parametrize("wanted", [0.9, 0.95])
def test_a_plan_that_must_hold_does(wanted: float) -> None:
    nearly = round(0.99 * solve(ask()).totals["capacity_per_s"], 2)  # a fleet without room to spare, whatever the constants
    full = ask().set("workload.rate", f"{nearly}/s")
    plain, sure = solve(full), solve(full.set("uncertain.hold", wanted))
    assert plain.objective is not None and sure.objective is not None
    assert holds(plain) < wanted <= holds(sure)
    assert sure.objective >= plain.objective
    assert np.isclose(sum(pool.load_per_s for pool in sure.fleet), nearly)  # it is the question's own demand that is served


def test_what_cannot_hold_with_a_probability_is_explained_in_the_clauses_of_the_user() -> None:
    """The limit leaves room for the demand as stated, not for the demand that has to hold with 95 %."""
    stated = ask().set("limits.cost", None)
    room = solve(stated.set("uncertain", None)).objective
    assert room is not None
    asked = stated.set("limits.cost", f"{room:.4f} USD/h")
    assert solve(asked).status == "optimal"
    plan = solve(asked.set("uncertain.hold", 0.95))
    assert plan.status == "infeasible"
    own, clauses = {clause.path: clause for clause in asked.clauses()}, {c.clause: c for c in plan.conflict}
    rate = clauses["workload.rate"]
    assert rate.text.startswith(own["workload.rate"].text + ", planned as serve ")
    assert (rate.file, rate.line) == (own["workload.rate"].file, own["workload.rate"].line)
    assert clauses["limits.cost"].text == own["limits.cost"].text
    assert any(fix.change.startswith(own["workload.rate"].text + ", planned as") for fix in plan.fixes)
