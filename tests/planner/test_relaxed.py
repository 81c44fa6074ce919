"""Limits that the best plan keeps anyway: answered without them, as brute force does with them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import tiny

from planner import prepare as preparing
from planner import relaxed
from planner import solve as solving
from planner.certify import Certificate
from planner.columns import limits_of
from planner.prepare import Prepared, prepare, prove
from planner.pyomo_milp import solve as confirm
from planner.query import ServeQuery
from planner.solve import solve, solve_with_program
from zoo.catalog import Catalog


@pytest.fixture
def town(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """One chip: cheap where the grid is dirty and the house wasteful, dear where both are clean."""
    places = (("dirty", 700.0, 1.6), ("middle", 300.0, 1.3), ("clean", 20.0, 1.1))
    regions = [tiny.region(f"here/{name}", intensity, pue=pue) for name, intensity, pue in places]
    offers = [tiny.offer("here/dirty", "red", 1.0), tiny.offer("here/middle", "red", 1.5), tiny.offer("here/clean", "red", 2.5)]
    catalog = tiny.world([tiny.chip(nic_bandwidth=None)], [tiny.model()], regions, offers)
    for module in (preparing, solving):
        monkeypatch.setattr(module, "open_catalog", lambda query: catalog)
    return catalog


def asked(limits: dict[str, Any], quota: tuple[dict[str, Any], ...] = (), rate: str = "150/s") -> ServeQuery:
    work = {"model": "toy", "rate": rate, "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"]}
    return tiny.question(workload=work, limits=limits, supply={"offers": ["on-demand"], "quota": list(quota)})


def brute(prepared: Prepared) -> int | None:
    """The least objective over all numbers of machines up to eight of each offer."""
    choices, market = prepared.choices, prepared.market
    rows = list(zip(choices.columns, choices.objective, strict=True))
    limits = limits_of(prepared.query, prepared.catalog, [column.offer for column in choices.columns])
    best = None
    for units in itertools.product(range(9), repeat=len(rows)):
        carried = sum(choices.curves[column.curve].best(n)[0] for (column, _), n in zip(rows, units, strict=True) if n)
        if carried >= market.rates[0] and all(
            sum(units[j] * rows[j][0].amounts[limit.resource] for j in limit.columns or range(len(rows))) <= limit.bound
            for limit in limits
        ):
            objective = sum(n * each for (_, each), n in zip(rows, units, strict=True))
            best = objective if best is None else min(best, objective)
    return best


def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proof of a question with limits comes to its end."""

    def stopped(prepared: Prepared, *arguments: Any, **options: Any) -> Certificate:
        found = prove(prepared, *arguments, **options)
        return replace(found, status="stopped", objective=None, lower_bound=1, purchases=()) if prepared.market.limits else found

    monkeypatch.setattr(relaxed, "prove", stopped)


LOOSE = {"carbon": "100 kgCO2e/h", "power": "1 MW"}


def test_the_best_plan_keeps_loose_limits(town: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping(monkeypatch)
    plan, program = solve_with_program(asked(LOOSE))
    prepared = prepare(asked(LOOSE))
    assert plan.status == "optimal" and plan.certificate.without == ("limits.power", "limits.carbon")
    assert plan.objective == preparing.in_objective_units(prepared.query, brute(prepared)) == plan.certificate.lower_bound
    assert plan.fleet == solve(asked({})).fleet
    # the program to write has the limits, and the same optimum
    assert program is not None and {"wall_18_limit_power", "wall_18_limit_carbon"} <= {row.name for row in program.rows}
    assert confirm(program, 20.0, 0.0).objective == brute(prepared)


@pytest.mark.parametrize("limits", [{"carbon": "0.5 kgCO2e/h", "power": "1 MW"}, {"carbon": "1 kgCO2e/h", "water": "9 L/h"}])
def test_a_limit_that_binds_is_not_proven_without(limits: dict[str, str], town: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    free = solve(asked({}))
    plan = solve(asked(limits))
    prepared = prepare(asked(limits))
    assert plan.objective is not None and free.objective is not None and plan.objective > free.objective
    assert plan.status == "optimal" and plan.certificate.without == ()
    assert plan.objective == preparing.in_objective_units(prepared.query, brute(prepared))
    stopping(monkeypatch)
    stopped = solve(asked(limits))
    assert stopped.status == "stopped" and stopped.certificate.without == ()
    assert stopped.certificate.lower_bound == free.objective  # what is proven without limits


def test_a_quota_that_binds_is_not_proven_without(town: Catalog) -> None:
    for machines in (0, 1, 2, 50):
        query = asked(LOOSE, ({"region": "here/dirty", "instances": machines},))
        plan, prepared = solve(query), prepare(query)
        assert plan.objective == preparing.in_objective_units(query, brute(prepared))
        assert bool(plan.certificate.without) == (machines == 50)


def test_what_cannot_be_without_limits_cannot_be_with_them(town: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping(monkeypatch)
    query = asked(LOOSE).override({"workload.rate": "1/s", "supply.mixed": False})
    prepared = prepare(query)
    nobody = replace(prepared, choices=replace(prepared.choices, columns=[], objective=[]))
    market, certificate = relaxed.proved(replace(nobody, market=prepared.market))
    assert certificate.status == "infeasible" and certificate.without == ("limits.power", "limits.carbon")
    assert market.query is query


def test_a_plan_in_hand_that_meets_the_bound_is_the_best() -> None:
    """A proof was stopped with a plan of 7, and without limits nothing is below 7: only another plan of 7 breaks a limit."""
    relaxation = Certificate("optimal", 7, 7, 2, 3, 1.0, "s", "", (), None, None, {})
    stopped = replace(relaxation, status="stopped", lower_bound=5)
    found = relaxed._lifted(stopped, relaxation)
    assert (found.status, found.lower_bound, found.rounds, found.solves) == ("optimal", 7, 4, 6)
    assert relaxed._lifted(replace(stopped, objective=9), relaxation).status == "stopped"
