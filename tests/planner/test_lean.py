"""What is left out of a market changes no optimum: judged by the same questions with everything that is on offer laid out."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import tiny

from planner import lean as leaving_out
from planner.columns import Memory
from planner.lean import lean
from planner.marginal import varied, world
from planner.prepare import keys_of, laid_out, model_of, prepare, prove
from planner.query import ServeQuery
from planner.space import machines_of
from zoo.catalog import Catalog
from zoo.units import Q

TPOT = ("60 ms", "21 ms", "9 ms", "3 ms")


def drawn(seed: int) -> tuple[Catalog, ServeQuery]:
    """A world of three chips, and a question that may be limited."""
    draw = Random(seed)
    chips = [
        tiny.chip(name, memory_bandwidth=Q(draw.choice([0.4, 1.0, 2.3]), "TB/s"), memory=Q(draw.choice([3.0, 5.0, 9.0]), "GiB"))
        for name in ("red", "blue", "grey")
    ]
    regions = [tiny.region("here/one", 100.0), tiny.region("there/two", 30.0, country="DE")]
    offers = [
        tiny.offer(where, chip.name, each * draw.choice([0.7, 1.0, 1.9]), each, option)
        for chip in chips
        for where in ("here/one", "there/two")
        for each in (1, 2, 4)
        for option in ("on-demand", "spot")
    ]
    limits: dict[str, Any] = draw.choice([{}, {"chips": draw.choice([3, 9])}, {"cost": "9 USD/h", "power": "3 kW"}])
    quota = draw.choice([[], [{"chip": "red", "chips": 2}]])
    query = tiny.question(limits=limits).override(
        {"workload.rate": f"{draw.choice([9, 40, 120])}/s", "supply.quota": quota, "workload.disaggregation": ["none", "pools"]}
    )
    assert isinstance(query, ServeQuery)
    return tiny.world(chips, [tiny.model()], regions, offers), query


def knowing(query: ServeQuery, catalog: Catalog) -> Memory:
    return Memory(catalogs={(query.folder, query.zoo, query.prices): catalog})


@pytest.mark.parametrize("seed", range(8))
def test_the_optimum_is_that_of_all_that_is_on_offer(seed: int) -> None:
    """With caps at the optimum and just below it too."""
    catalog, query = drawn(seed)
    memory = knowing(query, catalog)
    prepare(query, memory=memory)
    for tpot in TPOT:
        asked = query.set("sla.tpot.p99", tpot)
        best = prove(prepare(asked, memory=knowing(query, catalog)), tie_break=False).objective
        assert prove(lean(asked, memory), tie_break=False).objective == best
        if best is not None:
            assert prove(lean(asked, memory, cap=best), tie_break=False).objective == best
            beyond = prove(lean(asked, memory, cap=best - 1), tie_break=False).objective
            assert beyond is None or beyond >= best


@pytest.mark.parametrize("scales", [{}, {"memory bandwidth": 1.01}, {"peak FLOP/s": 1.01, "link bandwidth": 1.02}])
def test_no_machine_carries_more_than_its_bound(scales: dict[str, float]) -> None:
    catalog, query = drawn(3)
    memory = knowing(query, catalog)
    prepare(query, memory=memory)
    machines = [machine for machine, _ in machines_of(varied(catalog, scales).offers.values(), varied(catalog, scales))]
    seen = 0
    for tpot in ("60 ms", "29 ms", "12.5 ms", "11 ms"):
        asked = query.set("sla.tpot.p99", tpot)
        known = world(asked, scales, memory)
        bounds = leaving_out._ceilings(keys_of(machines, asked), asked, known)
        for i, (runs, _) in enumerate(laid_out(machines, model_of(asked, catalog), asked, known)):
            (loads,) = leaving_out._loads([runs])
            assert all(load <= bounds[i][span] for span, load in loads.items())
            seen += len(loads)
    assert seen > 20
