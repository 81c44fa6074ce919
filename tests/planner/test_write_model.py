"""The program as a file: another solver reads it and finds the same optimum."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from planner import prepare as preparing
from planner.duals import shadow_prices
from planner.query import ServeQuery
from planner.write_model import write
from zoo.catalog import Catalog
from zoo.units import Q


@pytest.fixture(autouse=True)
def town(monkeypatch: pytest.MonkeyPatch) -> Catalog:
    chips = [tiny.chip("red"), tiny.chip("blue", memory_bandwidth=Q(3.0, "TB/s"), tdp=Q(500.0, "W"))]
    regions = [tiny.region("here/one", 300.0), tiny.region("there/two", 20.0, country="DE")]
    offers = [
        tiny.offer("here/one", "red", 1.0, 1), tiny.offer("here/one", "red", 3.7, 4), tiny.offer("here/one", "blue", 2.9, 1),
        tiny.offer("there/two", "blue", 3.3, 1),
    ]  # fmt: skip
    catalog = tiny.world(chips, [tiny.model()], regions, offers)
    monkeypatch.setattr(preparing, "open_catalog", lambda query: catalog)
    return catalog


PLAIN = tiny.question()
LIMITED = tiny.question(limits={"power": "4 kW"}, supply={"offers": ["on-demand"], "quota": [{"chip": "red", "chips": 3}]})
ALONE = tiny.question(supply={"offers": ["on-demand"], "mixed": False})


def by_scip(path: Path) -> float | None:
    """OR-Tools' own reader and SCIP, which have nothing to do with Pyomo and HiGHS; MPS only."""
    from ortools.linear_solver.python import model_builder

    m = model_builder.Model()
    assert m.import_from_mps_file(str(path))
    solver = model_builder.Solver("scip")
    status = solver.solve(m)
    return solver.objective_value if status == model_builder.SolveStatus.OPTIMAL else None


def by_highs(path: Path) -> float | None:
    """HiGHS' own reader, without Pyomo and without the options of `solve`."""
    import highspy

    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    assert solver.readModel(str(path)) != highspy.HighsStatus.kError
    solver.run()
    optimal = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return float(solver.getInfo().objective_function_value) if optimal else None


@pytest.mark.parametrize("query", [PLAIN, LIMITED, ALONE], ids=["plain", "limits", "one machine"])
@pytest.mark.parametrize(("ending", "confirm"), [(".mps", by_scip), (".mps", by_highs), (".lp", by_highs)])
def test_another_solver_confirms_the_optimum(
    query: ServeQuery, ending: str, confirm: Callable[[Path], float | None], tmp_path: Path
) -> None:
    certificate = preparing.prove(preparing.prepare(query))
    assert certificate.program is not None and certificate.objective is not None
    path = tmp_path / f"model{ending}"
    write(certificate.program, path, "0.0001 USD/h")
    top, names = path.read_text().splitlines()[:2], path.with_suffix(".names").read_text()
    assert top[0].startswith("\\ " if ending == ".lp" else "* ") and "in units of 0.0001 USD/h" in top[0]
    assert "in units of 0.0001 USD/h" in names
    for i, variable in enumerate(certificate.program.variables):  # every column that is written is explained
        assert f"\nx{i}_" in names and variable.name in names
    assert "x0_units_" in path.read_text() and "10E20" not in path.read_text()  # a column without a bound has none
    # the order of ties may have been solved last: the objective stands in the program all the same
    assert confirm(path) == pytest.approx(certificate.objective, abs=0.5)


def test_shadow_prices_have_their_signs() -> None:
    """More demand costs, a looser limit saves; what does not bind has the price zero."""
    certificate = preparing.prove(preparing.prepare(LIMITED), tie_break=False)
    assert certificate.program is not None
    prices = shadow_prices(certificate.program)
    assert prices["wall_04_serving[all]"] > 0
    limits = {name: price for name, price in prices.items() if "limit_" in name or "quota" in name}
    assert len(limits) == 2 and all(price <= 1e-9 for price in limits.values())


def test_other_endings_are_refused(tmp_path: Path) -> None:
    program = preparing.prove(preparing.prepare(PLAIN)).program
    assert program is not None
    with pytest.raises(ValueError, match=r"as \.lp or \.mps"):
        write(program, tmp_path / "model.txt", "0.0001 USD/h")
