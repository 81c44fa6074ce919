"""Every constraint family as a small file that a reviewer can read: `lp/*.lp`, so that a changed row is seen.

Run with WALLPLAN_WRITE_LP=1 to write the files anew, and read the difference before committing it. The market is made by
hand: an offer for everybody near and far, a second machine for the near population only, a third that is bought in pairs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import tiny

from planner import cpsat, pyomo_milp
from planner.assemble import assemble
from planner.market import Column, Index, Limit, Market
from planner.program import LARGEST_COEFFICIENT, Program, Row, Variable
from planner.rows import balance, limits, mixed, tail_latency

FOLDER = Path(__file__).parent / "lp"


def column(name: str, machine: str, populations: tuple[int, ...], cost: int, chips: int, instances: int = 1) -> Column:
    amounts = {"cost": cost, "carbon": 3 * cost, "power": 700 * chips, "water": 0, "chips": chips, "instances": instances}
    return Column(name, tiny.offer("here/one", machine, 1.0), 0, populations, instances, amounts, machine)


COLUMNS = (
    column("red for near+far", "red", (0, 1), 100, 1),
    column("blue for near", "blue", (0,), 60, 4),
    column("grey x2 for near", "grey", (0,), 150, 16, 2),
)
LIMITS = (
    Limit("wall_17_limit_cost", 17, "cost", 1000, "limits.cost"),
    Limit("wall_18_limit_power", 18, "power", 9000, "limits.power"),
    Limit("wall_18_limit_water", 18, "water", 5, "limits.water"),  # nobody uses any: no row
    Limit("quota[0]", None, "chips", 8, "supply.quota[0]", frozenset({1})),
    Limit("quota[1]", None, "instances", 3, "supply.quota[1]", frozenset({1, 2})),
)
# red is cut at 1, 2 and 6 units, blue at 3 and 4; grey is still one line from the origin
STEPS: list[list[tuple[int | None, int]]] = [[(1, 40), (2, 95), (6, 60)], [(3, 31), (4, 150)], [(None, 90)]]


def market(mix: bool = True, limits: Sequence[Limit] = ()) -> Market:
    return Market(COLUMNS, ("near", "far"), (120, 55), tuple(limits), mix, (100, 60, 150))


def lines(variables: Sequence[Variable], rows: Iterable[Row]) -> str:
    """Rows as a person would write them: name, wall, then the inequality with the variables' names."""
    text = []
    for row in rows:
        about = "rule" if row.wall is None else f"wall {row.wall}"
        text.append(f"{row.name}   ({about}, {row.resource})")
        text += [f"    {coefficient:+d} * {variables[index].name}" for index, coefficient in row.terms]
        text.append(f"    {row.sense} {row.bound}")
        text.append("")
    return "\n".join(text)


def domains(variables: Iterable[Variable]) -> str:
    kinds = {True: "integer", False: "real"}
    return "\n".join(f"0 <= {v.name}{'' if v.upper is None else f' <= {v.upper}'}   {kinds[v.integer]}" for v in variables) + "\n"


def golden(name: str, text: str) -> None:
    path = FOLDER / f"{name}.lp"
    if os.environ.get("WALLPLAN_WRITE_LP"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def assembled(mix: bool = True, limits: Sequence[Limit] = ()) -> tuple[Market, Program, Index]:
    asked = market(mix, limits)
    return asked, *assemble(asked, STEPS)


def test_wall_04_serving() -> None:
    asked, program, index = assembled()
    golden("wall_04_serving", lines(program.variables, balance.wall_04_serving(asked, index)))


def test_wall_07_tail_latency() -> None:
    asked, program, index = assembled()
    golden("wall_07_tail_latency", lines(program.variables, tail_latency.wall_07_tail_latency(asked, index)))


def test_one_segment() -> None:
    asked, program, index = assembled()
    golden("one_segment", lines(program.variables, tail_latency.one_segment(asked, index)))


def test_limits_and_quotas() -> None:
    asked, program, index = assembled(limits=LIMITS)
    golden("limits", lines(program.variables, limits.limits(asked, index)))


def test_one_machine() -> None:
    asked, program, _ = assembled(mix=False)
    free = {row.name for row in assembled()[1].rows}
    golden("one_machine", lines(program.variables, (row for row in program.rows if row.name not in free)))
    index = assemble(market(), STEPS)[1]
    added = mixed.one_machine(asked, index)
    assert [row.name for row in added] == [row.name for row in program.rows if row.name not in free]


def test_variables_and_objective() -> None:
    _, program, _ = assembled(mix=False, limits=LIMITS)
    objective = "\n".join(f"    {coefficient:+d} * {program.variables[i].name}" for i, coefficient in program.objective)
    golden("variables", f"minimise\n{objective}\n\n{domains(program.variables)}")


def test_every_family_of_rows_has_its_file() -> None:
    """A new family is added with its golden file: every row of a whole program stands in one of them."""
    written = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.lp"))
    for mix in (True, False):
        for row in assembled(mix, LIMITS)[1].rows:
            assert f"{row.name}   (" in written, row.name


@pytest.mark.parametrize("mix", [True, False])
def test_rows_mean_the_same_to_both_solvers(mix: bool) -> None:
    """By hand, for 175 of load: three red carry 180 and cost 300; two red and a grey 350; two red and three blue 380."""
    program = assembled(mix, LIMITS[:2])[1]
    for solve in (pyomo_milp.solve, cpsat.solve):
        solution = solve(program, 10.0)
        assert solution.status == "optimal" and solution.point is not None
        assert not program.violated(solution.point)
        assert solution.objective == 300


def test_a_row_without_variables_is_a_contradiction() -> None:
    lonely = Market(COLUMNS[1:2], ("near", "far"), (120, 55), (), True, (60,))
    program = assemble(lonely, STEPS[1:2])[0]
    assert [row.name for row in program.contradictions()] == ["wall_04_serving[far]"]
    for solve in (pyomo_milp.solve, cpsat.solve):
        assert solve(program, 10.0).status == "infeasible"


def test_a_coefficient_that_solvers_would_drop_is_refused() -> None:
    row = Row("big", None, "cost", ((0, LARGEST_COEFFICIENT + 1),), "<=", 1)
    with pytest.raises(ValueError, match="row big: coefficient"):
        Program((Variable("x", 1),), (row,), ())


def test_cpsat_stays_within_its_integers() -> None:
    """Coefficients at the end of what a row may carry, on variables without a bound: as in the order of ties."""
    variables = tuple(Variable(f"x{i}", None) for i in range(30))
    need = Row("need", None, "load", tuple((i, 1) for i in range(30)), ">=", 900_000)
    program = Program(variables, (need,), tuple((i, 10**9 + i) for i in range(30)))
    solution = cpsat.solve(program, 10.0)
    assert solution.status == "optimal" and solution.objective == 900_000 * 10**9
    assert pyomo_milp.solve(program, 10.0).objective == solution.objective
    with pytest.raises(ArithmeticError, match="highs"):
        cpsat.solve(Program(variables, (need,), tuple((i, 10**12) for i in range(30))), 10.0)


def test_violated_rows_are_named() -> None:
    _, program, _ = assembled(limits=LIMITS)
    nothing = [0] * len(program.variables)
    assert {row.name for row in program.violated(nothing)} == {"wall_04_serving[near]", "wall_04_serving[far]"}
