"""How far a repair moves a question, by hand, and which plan is nearest by that."""

from __future__ import annotations

import math

import pytest
import tiny

from planner import distance
from planner import prepare as preparing
from planner import solve as solving
from planner.report.tables import nearest_notes
from planner.solve import solve
from zoo.units import Q


def test_half_and_twice_are_as_far() -> None:
    assert distance.between(10, 5) == distance.between(5, 10) == pytest.approx(math.log(2))
    assert distance.between(200, 2) == distance.between(2, 200) == pytest.approx(math.log(100))
    assert distance.between(3, 3) == 0
    assert distance.between(0, 8) == distance.GIVEN_UP == pytest.approx(math.log(2))


@pytest.mark.parametrize(("tpot", "nearest"), [("1.3 ms", "supply.chips"), ("3.5 ms", "sla.tpot.p99")])
def test_the_nearest_plan_is_not_an_absurd_one(tpot: str, nearest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Red, which alone was asked for, is slow. Where it needs more than twice the TPOT, another chip is the smaller move."""
    chips = [tiny.chip("red", memory_bandwidth=Q(0.2, "TB/s")), tiny.chip("blue", memory_bandwidth=Q(3.0, "TB/s"))]
    offers = [tiny.offer("here/one", "red", 1.0), tiny.offer("here/one", "blue", 6.0)]
    world = tiny.world(chips, [tiny.model()], [tiny.region("here/one", 100.0)], offers)
    for module in (preparing, solving):
        monkeypatch.setattr(module, "open_catalog", lambda query: world)
    query = tiny.question(supply={"chips": ["red"], "offers": ["on-demand"]}, sla={"tpot": {"p99": tpot}})
    plan = solve(query)
    moves = {fix.clause: fix for fix in plan.fixes}
    slower = Q(moves["sla.tpot.p99"].value) / Q(tpot)
    assert moves["supply.chips"].value == "dropped"
    assert (slower.m_as("") > 2) == (nearest == "supply.chips")  # by hand: ln of it against ln 2
    assert plan.nearest is not None and plan.nearest.objective == moves[nearest].objective
    assert {pool.chip for pool in plan.nearest.fleet} == ({"blue"} if nearest == "supply.chips" else {"red"})


def test_a_least_move_that_nobody_would_take_gives_way_to_the_further_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TTFT that only an all but idle fleet keeps: a few milliseconds more and a fraction of the machines will do."""
    offers = [tiny.offer("here/one", "red", 1.0)]
    world = tiny.world([tiny.chip("red")], [tiny.model()], [tiny.region("here/one", 100.0)], offers)
    for module in (preparing, solving):
        monkeypatch.setattr(module, "open_catalog", lambda query: world)
    plan = solve(tiny.question(sla={"ttft": {"p99": "2 ms"}}, supply={"offers": ["on-demand"]}))
    (fix,) = plan.fixes
    assert fix.objective is not None and fix.further_objective is not None and fix.without is not None
    assert fix.objective > 3 * 1.5 * fix.without and fix.further_objective <= 1.5 * fix.without
    near = plan.nearest
    assert near is not None and near.objective == fix.further_objective and near.change.endswith(str(fix.further))
    assert (near.least, near.least_objective) == (fix.value, fix.objective)
    said = " ".join(nearest_notes(plan))
    assert (
        f"moved further than it must be: at {fix.value} it would cost" in said and near.totals["cost_usd_per_h"] == near.objective
    )
