"""Alternatives are the optima of the question narrowed to one chip, region, option or precision, and really differ."""

from __future__ import annotations

import pytest
import tiny

from planner import prepare as preparing
from planner import solve as solving
from planner.alternatives import alternatives
from planner.prepare import prepare
from planner.solve import solve
from zoo.units import Q

PATHS = {"chip": "supply.chips", "region": "regions.allow", "offer": "supply.offers", "precision": "workload.precision"}


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
        assert one.objective == solve(query.set(PATHS[one.kind], [one.name])).objective
        assert one.dearer_by == pytest.approx(one.objective - best.objective) and one.dearer_by >= 0
    assert [one.objective for one in found] == sorted(one.objective for one in found)
    plans = [(one.objective, *((p.chip, p.instances, p.accelerators, p.layout.precision) for p in one.fleet)) for one in found]
    assert len(set(plans)) == len(plans), "the same plan is listed once"
    near = alternatives(best, prepare(query), within=0.3)
    assert [one for one in found if one.objective <= 1.3 * best.objective] == list(near)
