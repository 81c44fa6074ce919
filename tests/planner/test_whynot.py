"""Why not X: the answer is what a catalogue that has X alone would give, and what it says about prices is true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import tiny

from planner import marginal
from planner import prepare as preparing
from planner import solve as solving
from planner.plan import Plan
from planner.query import ServeQuery
from planner.records import QueryError
from planner.solve import solve
from planner.whynot import parse, why_not
from zoo.catalog import Catalog
from zoo.specs import Offer
from zoo.units import Q, Quantity


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[[Catalog], None]:
    def world(catalog: Catalog) -> None:
        for module in (preparing, solving):
            monkeypatch.setattr(module, "open_catalog", lambda query: catalog)

    return world


def drawn(seed: int) -> tuple[Catalog, ServeQuery]:
    draw = Random(seed)
    chips = [
        tiny.chip("red", memory_bandwidth=Q(draw.choice([0.5, 1.0]), "TB/s")),
        tiny.chip("blue", memory=Q(6.0, "GiB")),
        tiny.chip("grey", memory=Q(0.2, "GiB")),
    ]
    regions = [tiny.region("here/one", 100.0), tiny.region("there/two", 20.0, country="DE")]
    offers: dict[str, Offer] = {}
    for chip in ("red", "blue", "grey"):
        for where in ("here/one", "there/two"):
            for option in ("on-demand", "spot"):
                each = draw.choice([1, 2, 4])
                one = tiny.offer(where, chip, each * draw.choice([0.7, 1.1, 1.6, 2.3]), each, option)
                offers[one.name] = one
    catalog = tiny.world(chips, [tiny.model()], regions, offers.values())
    query = tiny.question(
        workload={
            "model": "toy",
            "rate": f"{draw.choice([7, 30, 80])}/s",
            "tokens": {"input": 1000, "output": 24},
            "precision": ["bf16", "fp8"],
        }
    )
    return catalog, query


def only(catalog: Catalog, wanted: Callable[[Offer], bool]) -> Catalog:
    """The world with some of its offers alone."""
    offers = [offer for offer in catalog.offers.values() if wanted(offer)]
    return tiny.world(catalog.chips.values(), catalog.models.values(), catalog.regions.values(), offers)  # type: ignore[arg-type]


FORCED: dict[str, Callable[[str], Callable[[Offer], bool]]] = {
    "chip": lambda name: lambda offer: offer.accelerator == name,
    "region": lambda name: lambda offer: offer.region == name,
    "offer": lambda name: lambda offer: offer.option == name,
    "cloud": lambda name: lambda offer: offer.cloud == name,
}
QUESTIONS = [("chip", "red"), ("chip", "blue"), ("chip", "grey"), ("region", "here/one"), ("offer", "spot"), ("cloud", "there")]


@pytest.mark.parametrize("seed", range(4))
def test_forced_answers_are_those_of_a_world_with_nothing_else(seed: int, put: Callable[[Catalog], None]) -> None:
    catalog, query = drawn(seed)
    put(catalog)
    best = solve(query)
    assert best.objective is not None
    for key, value in QUESTIONS:
        put(catalog)
        answer = why_not(best, query, {key: value})
        put(only(catalog, FORCED[key](value)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(solving, "_explained", lambda *_: {})  # where there is no plan, nobody looks at why
            brute = solve(query)
        assert (answer.objective, answer.status) == (brute.objective, brute.status)
        if answer.objective is None:
            assert answer.conflict
            # what would allow X leaves X: to give it up is to have today's plan
            given_up = {"chip": "supply.chips", "region": "regions.allow", "cloud": "regions.allow", "offer": "supply.offers"}[
                key
            ]
            assert all(given_up not in fix.clause.split(" + ") for fix in answer.fixes)
            continue
        assert answer.dearer_by == pytest.approx(answer.objective - best.objective)
        assert answer.dearer_by >= 0
        check_price(catalog, query, best, answer.wins_at, FORCED[key](value), put)


def check_price(
    catalog: Catalog,
    query: ServeQuery,
    best: Plan,
    wins_at: str | None,
    wanted: Callable[[Offer], bool],
    put: Callable[[Catalog], None],
) -> None:
    """Below the price that is named the best plan of all is wholly of X, above it is not: both are solved."""
    if wins_at is None or " of today's" not in wins_at:
        return
    share = float(wins_at.split(" below ")[1].split("%")[0]) / 100
    names = only(catalog, wanted).offers
    for factor, wins in ((share - 0.001, True), (share + 0.003, False)):
        offers = [replace(o, price=o.price * factor) if o.name in names else o for o in catalog.offers.values()]
        worlds = [
            tiny.world(catalog.chips.values(), catalog.models.values(), catalog.regions.values(), some)  # type: ignore[arg-type]
            for some in (offers, [o for o in offers if o.name in names])
        ]
        found = []
        for world in worlds:
            put(world)
            found.append(solve(query).objective)
        of_all, alone = found
        assert of_all is not None and alone is not None
        assert (alone <= of_all + 1e-3) is wins
    put(catalog)


@pytest.mark.parametrize(("key", "value"), [("precision", "fp8"), ("tp", "2"), ("pp", "1"), ("kv_precision", "fp8")])
def test_forced_layouts_are_those_of_the_narrowed_question(key: str, value: str, put: Callable[[Catalog], None]) -> None:
    catalog, query = drawn(1)
    put(catalog)
    best = solve(query)
    answer = why_not(best, query, {key: value})
    field = {"precision": "precision", "tp": "tensor_parallel", "pp": "pipeline_parallel", "kv_precision": "kv_precision"}[key]
    assert answer.fleet and {str(getattr(pool.layout, field)) for pool in answer.fleet} == {value}
    path = f"workload.parallelism.{key}" if key in ("tp", "pp") else f"workload.{key}"
    assert answer.objective == solve(query.set(path, f"[{value}]")).objective


def test_what_is_chosen_already_costs_nothing_more(put: Callable[[Catalog], None]) -> None:
    catalog, query = drawn(2)
    put(catalog)
    best = solve(query)
    if len({pool.chip for pool in best.fleet}) == 1:
        answer = why_not(best, query, {"chip": best.fleet[0].chip})
        assert answer.dearer_by == 0 and answer.wins_at is None


def test_a_choice_beside_the_question_is_said_to_be_that(put: Callable[[Catalog], None]) -> None:
    """Blue is not among the chips asked for, and another degree replaces the one asked for: no price lets the plan be them."""
    fast_and_thrifty(put)
    narrow = tiny.question(supply={"chips": ["red"], "offers": ["on-demand"]})
    answer = why_not(solve(narrow), narrow, {"chip": "blue"})
    assert answer.wins_at is not None and answer.note == "the question as it stands does not allow it"
    assert not why_not(solve(tiny.question()), tiny.question(), {"chip": "blue"}).note
    put(tiny.world([tiny.chip()], [tiny.model()], [tiny.region()], [tiny.offer("here/one", "red", 4.0, 4)]))
    given = tiny.question(limits={"chips": 400}).set("workload.rate", "900/s")
    best = {degree: solve(given.set("workload.parallelism.tp", f"[{degree}]")) for degree in (1, 4)}
    good, bad = sorted(best, key=lambda degree: best[degree].objective or 0.0)
    answer = why_not(best[good], given.set("workload.parallelism.tp", f"[{good}]"), {"tp": str(bad)})
    assert answer.dearer_by and answer.dearer_by > 0 and "does not allow it" in answer.note and "at no prices" not in answer.note


@pytest.mark.parametrize("text", ["chip", "chip=", "chp=l40s", "=x", "tpp=8", "chip=red,", "chip=red,tp", "chip=red,chip=blue"])
def test_what_cannot_be_forced_is_one_line(text: str) -> None:
    with pytest.raises(QueryError) as error:
        parse(text)
    assert "\n" not in str(error.value) and text in str(error.value)


def test_a_name_that_does_not_exist_is_one_line(put: Callable[[Catalog], None]) -> None:
    catalog, query = drawn(0)
    put(catalog)
    with pytest.raises(QueryError) as error:
        why_not(solve(query), query, {"chip": "rad"})
    assert "red" in str(error.value)


def test_several_choices_are_forced_together(put: Callable[[Catalog], None]) -> None:
    catalog, query = drawn(1)
    put(catalog)
    answer = why_not(solve(query), query, parse("chip=red, tp=2"))
    assert answer.what == "chip=red,tp=2"
    assert {(pool.chip, pool.layout.tensor_parallel) for pool in answer.fleet} == {("red", 2)}
    assert answer.objective == solve(query.override({"supply.chips": ["red"], "workload.parallelism.tp": "[2]"})).objective


def fast_and_thrifty(put: Callable[[Catalog], None]) -> None:
    """Red is cheap; blue is dear, draws a third of the power, and has three times the bandwidth."""
    chips = [tiny.chip("red"), tiny.chip("blue", memory_bandwidth=Q(3.0, "TB/s"), tdp=Q(100.0, "W"))]
    offers = [tiny.offer("here/one", "red", 1.0), tiny.offer("here/one", "blue", 6.0)]
    put(tiny.world(chips, [tiny.model()], [tiny.region("here/one", 100.0)], offers))


def test_what_would_let_it_win_and_was_not_proven_is_left_out_and_named(
    put: Callable[[Catalog], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast_and_thrifty(put)
    query, proof = tiny.question(), preparing.prove
    best = solve(query)
    whole = why_not(best, query, {"chip": "blue"})
    assert whole.proven and whole.wins_at is not None and not whole.note
    prices, *limits = whole.wins_at.split(" or ")
    assert "its prices" in prices and limits
    stop: Callable[[ServeQuery], bool]

    def stopped(prepared: Any, *arguments: Any, **options: Any) -> Any:
        found = proof(prepared, *arguments, **options)
        return replace(found, status="stopped", objective=None) if stop(prepared.query) else found

    monkeypatch.setattr(marginal, "prove", stopped)
    same = {"proven", "wins_at", "note"}
    stop = lambda asked: asked.limits.cost is not None  # noqa: E731 - which better plans take least of what
    answer = why_not(best, query, {"chip": "blue"})
    assert answer.model_dump(exclude=same) == whole.model_dump(exclude=same)
    assert answer.wins_at == prices and not answer.proven
    assert "limits.power" in answer.note and "its prices" not in answer.note and "solver.time: 60 s" in answer.note
    stop = lambda asked: True  # noqa: E731
    answer = why_not(best, query, {"chip": "blue"}, switches=True)
    assert answer.model_dump(exclude=same) == whole.model_dump(exclude=same)
    assert answer.wins_at is None and not answer.proven and "at no prices" not in answer.note
    assert all(name in answer.note for name in ("its prices", "limits.power", "TTFT p99", "rate"))


def test_the_limit_at_which_it_wins_is_true_on_both_sides(put: Callable[[Catalog], None]) -> None:
    """Where power is limited to less than what is named, X is best; with what is named, something else is."""
    fast_and_thrifty(put)
    query = tiny.question()
    best = solve(query)
    assert {pool.chip for pool in best.fleet} == {"red"}
    answer = why_not(best, query, {"chip": "blue"})
    assert answer.wins_at is not None and answer.objective is not None
    named = [part for part in answer.wins_at.split(" or ") if part.startswith("limits.power")]
    power = Q(named[0].split(" below ")[1].partition(" (")[0])
    least = named[0].partition(" (this fleet needs ")[2].rstrip(")")
    just = solve(query.set("limits.power", f"{least} kW"))
    assert just.objective == answer.objective and {pool.chip for pool in just.fleet} == {"blue"}
    below, above = (solve(query.set("limits.power", f"{power.m_as('kW') * factor:.6f} kW")) for factor in (0.9999, 1.0001))
    assert below.objective == answer.objective and {pool.chip for pool in below.fleet} == {"blue"}
    assert above.objective is not None and above.objective < answer.objective


def test_switches_name_the_latency_at_which_it_wins(put: Callable[[Catalog], None]) -> None:
    """Within a TPOT short enough only blue serves: at the TPOT that is named blue is best, 0.2 % above something else is."""
    fast_and_thrifty(put)
    query = tiny.question(sla={"tpot": {"p99": "2.4 ms"}})
    answer = why_not(solve(query), query, {"chip": "blue"}, switches=True)
    assert answer.wins_at is not None
    named = [part for part in answer.wins_at.split(" or ") if part.startswith("TPOT p99 down from ")]
    tpot = Q(named[0].removeprefix("TPOT p99 down from "))
    at, above = (solve(query.set("sla.tpot.p99", f"{tpot.m_as('ms') * factor:.6f} ms")) for factor in (1, 1.002))
    assert {pool.chip for pool in at.fleet} == {"blue"} and at.objective == solve(at_blue(query, tpot)).objective
    assert "red" in {pool.chip for pool in above.fleet}


def at_blue(query: ServeQuery, tpot: Quantity) -> ServeQuery:
    return query.override({"supply.chips": ["blue"], "sla.tpot.p99": f"{tpot.m_as('ms'):.6f} ms"})
