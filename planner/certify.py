"""The proof: solve a relaxation, check the answer exactly, cut, and repeat until nothing is left between the two.

1. Solve the program over the curves as they are cut now. Its bound is a bound on every plan, because the cut curves
   are never below the exact ones.
2. Ask the exact forward model whether the pools that were bought carry the load. If they do, the plan costs exactly
   what the bound says: it is optimal.
3. If not, cut the curves where they were used (a table row: exact from then on) and go back to 1. Each round makes at
   least one number of units of one column exact, and only finitely many can be cheaper than the optimum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from . import cpsat, pyomo_milp
from .assemble import assemble
from .market import Exact, Index, Market, room
from .program import LARGEST_COEFFICIENT, Program, Row, Solution
from .transport import spread

SOLVERS: dict[str, Callable[[Program, float, float], Solution]] = {"highs": pyomo_milp.solve, "cpsat": cpsat.solve}

# carries(column, units) -> load that this many units carry at the SLA, exactly, in integer load units
Curve = Callable[[int, int], int]
# learn(pairs of column and units) before all of these are asked for: whoever is faster then need not be
Learn = Callable[[list[tuple[int, int]]], None]


@dataclass(frozen=True, slots=True)
class Purchase:
    """`units` of a column, and the load of each population on it, in integer load units."""

    column: int
    units: int
    loads: tuple[tuple[int, int], ...]  # (population, load)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was proven, by whom. Objective and bound are integers of the program (None where nothing was found)."""

    status: str  # optimal | infeasible | stopped
    objective: int | None
    lower_bound: int | None
    rounds: int
    solves: int
    seconds: float
    solver: str
    cross_check: str
    purchases: tuple[Purchase, ...]
    program: Program | None  # the last one solved: what was proven is proven of this
    index: Index | None  # where that program keeps each decision
    exact: Exact  # where the curves were cut for it: a similar question may begin there
    without: tuple[str, ...] = ()  # clauses that the proof does without (see `relaxed`)


class Cuts:
    """The curves as they are cut now: for each column the unit counts at which its curve is exact."""

    def __init__(
        self,
        market: Market,
        curve: Curve,
        slope: Callable[[int], int],
        begin: Exact = MappingProxyType({}),
        learn: Learn = lambda _: None,
    ) -> None:
        self.market, self.curve, self.slope = market, curve, slope
        self.points: list[list[int]] = [sorted(begin.get(column.machine, ())) for column in market.columns]
        learn([(j, units) for j, exact in enumerate(self.points) for units in exact])
        for j, exact in enumerate(self.points):
            if exact:
                exact.append(self._enough(j, exact[-1]))
        learn([(j, exact[-1]) for j, exact in enumerate(self.points) if exact])

    def exact(self) -> dict[str, frozenset[int]]:
        """By kind of machine, the unit counts below the last one at which one of its curves is exact."""
        found: dict[str, frozenset[int]] = {}
        for column, points in zip(self.market.columns, self.points, strict=True):
            if points:
                found[column.machine] = found.get(column.machine, frozenset()).union(points[:-1])
        return found

    def steps(self) -> list[list[tuple[int | None, int]]]:
        """The cuts in the form that `assemble` takes."""
        return [self._steps(j) for j in range(len(self.market.columns))]

    def _steps(self, j: int) -> list[tuple[int | None, int]]:
        points = self.points[j]
        if not points:
            return [(None, self.slope(j))]
        steps: list[tuple[int | None, int]] = []
        low = 0
        for high in points:
            carries = self.curve(j, high)
            # rounded up: between two cuts the line from the origin through the upper one lies on or above the curve
            steps.append((high, carries if high == low + 1 else -(-carries // high)))
            low = high
        return steps

    def add(self, j: int, units: int) -> bool:
        """Make the curve of column j exact at `units`. False when it already was."""
        points = set(self.points[j])
        if not points:
            points.add(self._enough(j, units))
        before = len(points)
        points.update(p for p in (units - 1, units, units + 1) if 1 <= p <= max(points))
        self.points[j] = sorted(points)
        return len(points) > before or before == 1

    def add_carrying(self, j: int, units: int, load: int) -> bool:
        """Make the curve of column j exact where it first carries `load`, which `units` do not: the solver goes there next."""
        self.add(j, units)
        carried = self.curve(j, units)
        if carried >= load:
            return False
        # what a unit carries never falls as units are added: as many at today's rate each are enough
        low, high = units, max(self.points[j])
        high = min(-(-units * load // carried), high) if carried else high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.curve(j, middle) >= load else (middle, high)
        return self.add(j, high)

    def _enough(self, j: int, units: int) -> int:
        """A number of units more of which are never bought: as many as carry the whole demand, or as the limits leave room for.

        What a unit carries never falls as units are added, so several times `units` carry at least as many times their load.
        """
        column = self.market.columns[j]
        share = sum(self.market.rates[k] for k in column.populations)
        carried = self.curve(j, units)
        most = room(self.market, j)
        if carried:
            enough = units * -(-share // carried)
            return max(units + 1, enough if most is None else min(enough, most))
        if most is not None:
            return max(units + 1, most)
        high = max(units + 1, 2)
        while self.curve(j, high) < share:
            high *= 2
            if high * max(column.amounts.values(), default=1) > LARGEST_COEFFICIENT:
                break
        return high


def certify(
    market: Market,
    curve: Curve,
    slope: Callable[[int], int],
    engine: str = "highs",
    gap: float = 0.0,
    seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
    tie_break: bool = True,
    begin: Exact = MappingProxyType({}),
    most: int | None = None,
    learn: Learn = lambda _: None,
) -> Certificate:
    """Solve `market` to a proof. `engine` is highs, cpsat or both (both: highs solves, cpsat confirms the last program).

    `curve(column, units)` is the exact load that a pool carries; `slope(column)` is at least `curve(column, u) / u` for
    every u. `gap` is (objective - bound) / objective. A time limit gives status "stopped" with the bound that was proven.
    `tie_break` picks, among plans of the optimal objective, the one that a stated order prefers; it costs a solve.
    `begin`: where the curves are exact from the first round on, which saves rounds and changes no answer.
    `most`: a plan whose objective is above it does not count; where the bound is, there is none. `learn` is told which values
    of curves will be asked for together.
    """
    started = time.perf_counter()
    main = "cpsat" if engine == "cpsat" else "highs"
    cuts = Cuts(market, curve, slope, begin, learn)
    rounds = solves = 0
    name = ""
    bound: int | None = None
    best: tuple[int, tuple[Purchase, ...]] | None = None

    def left() -> float:
        return seconds - (time.perf_counter() - started)

    def finish(status: str, program: Program | None, cross: str = "not asked for") -> Certificate:
        objective, purchases = best if best is not None else (None, ())
        return Certificate(
            status, objective, bound, rounds, solves, time.perf_counter() - started, name, cross, purchases,
            program, index, cuts.exact(),
        )  # fmt: skip

    def refine(missing: list[tuple[int, int, int]]) -> None:
        """Cut the curves where they were used, and those of the same kind of machine elsewhere: they would be tried next."""
        progress(f"round {rounds}: bound {bound}, {len(missing)} pools to refine")
        refined = False
        for j, units, load in missing:
            for i, column in enumerate(market.columns):
                if column.machine == market.columns[j].machine:
                    refined |= cuts.add(i, units)
            refined |= cuts.add_carrying(j, units, load)
        if not refined:
            raise ArithmeticError("the exact check fails where the curves are exact: the program and the forward model disagree")

    while True:
        rounds += 1
        program, index = assemble(market, cuts.steps())
        solution = SOLVERS[main](program, left(), gap)
        solves += 1
        name = solution.solver
        if solution.bound is not None:
            bound = solution.bound if bound is None else max(bound, solution.bound)
        if solution.status == "infeasible" or (most is not None and bound is not None and bound > most):
            return finish("infeasible", program, _cross_check(engine, program, None, left()))
        if solution.point is None:
            return finish("stopped", program)
        purchases, missing = _check(market, index, solution.point, curve)
        if not missing:
            # the point costs the same in the exact model, so the solver's verdict on the relaxation is one on the plan
            best = (program.cost(solution.point), purchases)
            break
        if left() <= 0:
            return finish("stopped", program)
        refine(missing)
    if solution.status != "optimal":
        return finish("stopped", program)
    cross = _cross_check(engine, program, solution.objective, left())
    # Optimal. Among plans of this objective, the stated order picks one; if time runs out, the plan in hand is as good.
    while tie_break and gap == 0 and left() > 0:
        tied = SOLVERS[main](_tie_break(program, market, index, best[0]), left(), 0.0)
        solves += 1
        if tied.point is None:
            break
        purchases, missing = _check(market, index, tied.point, curve)
        if not missing:
            best = (best[0], purchases)
            break
        refine(missing)
        tied_program, index = assemble(market, cuts.steps())
        program = tied_program
    return finish("optimal", program, cross)


def _check(
    market: Market, index: Index, point: Sequence[int], curve: Curve
) -> tuple[tuple[Purchase, ...], list[tuple[int, int, int]]]:
    """Whether the units bought carry the demand exactly: the purchases with their loads, or the columns to cut.

    Of a column to cut: its units, and the load that the solver put on them.
    """
    bought = {j: units for j in range(len(market.columns)) if (units := sum(point[v] for v in index.units(j)))}
    carried = {j: curve(j, units) for j, units in bought.items()}
    # a fleet that may not mix keeps each population where the solver put it
    arcs = [(j, k) for (j, k), load in index.loads.items() if j in bought and (market.mixed or point[load] > 0)]
    loads = spread(market.rates, carried, arcs)
    if loads is None:
        over = [
            (j, units, sum(point[load] for (pool, _), load in index.loads.items() if pool == j)) for j, units in bought.items()
            if carried[j] < sum(s.carries * point[s.carrier] for s in index.segments[j])
        ]  # fmt: skip
        return (), over
    given = {j: tuple((k, load) for (pool, k), load in loads.items() if pool == j and load) for j in bought}
    return tuple(Purchase(j, units, given[j]) for j, units in bought.items()), []


def _tie_break(program: Program, market: Market, index: Index, objective: int) -> Program:
    """Among the plans of this objective: least carbon and chips together, then the offers' stated order.

    One weighted sum: a chip counts as much as 0.1 gCO2e/h, and the position in the market breaks the rest.
    """
    terms = []
    for j, column in enumerate(market.columns):
        weight = 1000 * (column.amounts["carbon"] + column.amounts["chips"]) + min(j, 999) * column.instances
        terms += [(variable, weight) for variable in index.units(j)]
    cap = Row("objective", None, "objective", program.objective, "<=", objective)
    return program.with_rows([cap] if program.objective else []).minimising(terms)


def _cross_check(engine: str, program: Program, objective: int | None, seconds: float) -> str:
    """What the other solver says of the last program, when `engine` is both."""
    if engine != "both":
        return "not asked for"
    other = cpsat.solve(program, max(seconds, 1.0))
    if other.status == "stopped":
        return f"{other.solver}: stopped without proof"
    if other.objective != objective:
        raise ArithmeticError(f"the solvers disagree: {objective} and {other.objective} ({other.solver})")
    return f"{other.solver} agrees: {'infeasible' if objective is None else 'same optimum'}"
