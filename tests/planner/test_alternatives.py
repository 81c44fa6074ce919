"""Alternatives are the optima of the question narrowed to one chip, region, option or precision, and really differ."""

from __future__ import annotations

import pytest
import tiny

from planner import prepare as preparing
from planner import solve as solving
from planner.alternatives import alternatives
from planner.plan import Alternative
from planner.prepare import prepare
from planner.solve import solve
from zoo.units import Q

PATHS = {
    "chip": "supply.chips", "region": "regions.allow", "offer": "supply.offers", "precision": "workload.precision",
    "tp": "workload.parallelism.tp", "pp": "workload.parallelism.pp",
}  # fmt: skip


@pytest.fixture(autouse=True)
def town(monkeypatch: pytest.MonkeyPatch) -> None:
    chips = [tiny.chip("red"), tiny.chip("blue", memory_bandwidth=Q(3.0, "TB/s"), memory=Q(6.0, "GiB"))]
    offers = [
        tiny.offer("here/one", "red", 1.0), tiny.offer("there/two", "red", 1.0), tiny.offer("there/two", "red", 1.2, 1, "spot"),
        tiny.offer("here/one", "blue", 2.9), tiny.offer("there/two", "blue", 3.3),
    ]  # fmt: skip
    regions = [tiny.region("here/one", 300.0), tiny.region("there/two", 20.0, country="DE")]
    catalog = tiny.world(chips, [tiny.model()], regions, offers)
    for module in (preparing, solving):
        monkeypatch.setattr(module, "open_catalog", lambda query: catalog)


def test_each_is_the_best_of_a_narrower_question() -> None:
    query = tiny.question(workload={**tiny.question().to_dict()["workload"], "precision": ["bf16", "fp8"]})
    best = solve(query)
    found = alternatives(best, prepare(query), within=9.0)
    assert {one.kind for one in found} >= {"chip", "offer", "precision"}
    assert best.objective is not None
    for one in found:
        if one.kind in PATHS:
            name = int(one.name) if one.kind in ("tp", "pp") else one.name
            assert one.objective == solve(query.set(PATHS[one.kind], [name])).objective
        assert one.dearer_by == pytest.approx(one.objective - best.objective) and one.dearer_by >= 0
    assert {"tp", "pp"} & {one.kind for one in found}
    assert [one.objective for one in found] == sorted(one.objective for one in found)
    for kinds in ({"chip"}, {"region"}, {"offer", "precision", "tp", "pp", "disaggregation", "fewest"}):
        plans = [_plan(one) for one in found if one.kind in kinds]
        assert len(set(plans)) == len(plans), "the same plan is listed once among chips, among regions, and among the rest"


def _plan(one: Alternative) -> tuple[object, ...]:
    return (one.objective, *((p.chip, p.instances, p.accelerators, p.layout.precision, p.layout.in_full) for p in one.fleet))


def test_the_cheapest_of_each_chip_and_region_are_listed_beyond_the_tolerance() -> None:
    query = tiny.question()
    best, prepared = solve(query), prepare(tiny.question())
    far, near = alternatives(best, prepared, within=9.0), alternatives(best, prepared, within=0.0)
    assert best.objective is not None and all(one.within for one in far)
    assert [one for one in near if one.within != (one.objective <= best.objective)] == []
    kept = [(one.kind, one.name, one.objective) for one in near if one.kind in ("chip", "region")]
    assert kept == [(one.kind, one.name, one.objective) for one in far if one.kind in ("chip", "region")]
    assert not [one for one in near if one.kind not in ("chip", "region") and not one.within]
    with pytest.raises(ValueError, match="at least 0"):
        alternatives(best, prepared, within=-1)


def test_the_fewest_of_a_chip_within_the_tolerance_are_found_by_quotas() -> None:
    """One fewer is beyond the tolerance, as the question with that quota says itself; the plan listed keeps it."""
    query = tiny.question().set("workload.rate", "61/s")
    best = solve(query)
    assert best.objective is not None
    (chip,) = {pool.chip for pool in best.fleet}
    today = sum(pool.instances for pool in best.fleet)

    def quota(count: int) -> float:
        return solve(query.set("supply.quota", [{"chip": chip, "instances": count}])).objective or float("inf")

    costs = [quota(count) for count in range(today)]
    tolerance = (min(costs) / best.objective - 1) * 1.0001
    fewest = next(count for count in range(today) if costs[count] <= best.objective * (1 + tolerance))
    found = [one for one in alternatives(best, prepare(query), tolerance) if one.kind == "fewest" and chip in one.name]
    assert fewest and [one.name for one in found] == [f"{fewest} x {chip}"]
    assert found[0].objective == costs[fewest]
    assert sum(pool.instances for pool in found[0].fleet if pool.chip == chip) <= fewest
