"""Why there is no plan: a smallest set of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question. Deletion filtering: take clauses out one by one; a clause whose
removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses the clash when any one
of it is taken out, so it is minimal. Every test is a full re-enumeration and a proof: moving a wall changes which
candidates exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.units import Q, Quantity

from . import plan
from .columns import Memory
from .prepare import Prepared, Progress, in_objective_units, objective_units, prepare, prove
from .program import dequantise
from .query import Clause, Keys, QueryError, ServeQuery, parse_path

# What a clause becomes when it is taken out of the question; None removes the key.
_EVERYTHING: dict[str, object] = {
    "supply.offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"],
    "supply.chips": "all",
    "supply.mixed": True,
    "regions.allow": ["*"],
    "regions.deny": [],
}
# A demand cannot be taken out, only made negligible.
_NO_DEMAND = "0.001/s"


def without(query: ServeQuery, clauses: list[Clause]) -> ServeQuery:
    """The question with these clauses relaxed."""
    data = query.to_dict()
    for clause in sorted(clauses, key=lambda c: c.path, reverse=True):  # later list entries first: indices stay right
        keys = parse_path(clause.path)
        if clause.path in _EVERYTHING:
            _put(data, keys, _EVERYTHING[clause.path])
        elif clause.path.endswith("rate"):
            _put(data, keys, _NO_DEMAND)
        else:
            _drop(data, keys)
    sla = data.get("sla", {})
    for metric in ("ttft", "tpot"):
        if metric in sla and not sla[metric]:
            del sla[metric]
    if not (sla.get("ttft") or sla.get("tpot")):
        sla["tpot"] = {"p50": "1000 h"}
    data["sla"] = {key: value for key, value in sla.items() if value}
    return ServeQuery.from_dict(data, source=query.source, folder=query.folder)


def _put(data: Any, keys: Keys, value: object) -> None:
    for key in keys[:-1]:
        data = data.setdefault(key, {}) if isinstance(data, dict) else data[key]
    data[keys[-1]] = value


def _drop(data: Any, keys: Keys) -> None:
    for key in keys[:-1]:
        data = data[key]
    last: Any = keys[-1]
    if isinstance(data, list) or last in data:
        del data[last]


def relaxable(query: ServeQuery) -> list[Clause]:
    """The clauses that can be taken out. The number formats stay: which a model may be served in is no limit to negotiate."""
    return [clause for clause in query.clauses() if not clause.path.endswith("precision")]


@dataclass(slots=True)
class Asker:
    """Asks whether questions have any plan at all, and remembers the answers and what machines can run."""

    memory: Memory = field(default_factory=Memory)
    answers: dict[str, bool] = field(default_factory=dict)

    def prepared(self, query: ServeQuery) -> Prepared:
        return prepare(query, memory=self.memory)

    def feasible(self, query: ServeQuery) -> bool:
        """Whether any plan exists: the whole enumeration, and where anything is limited a solver that stops at its first plan."""
        digest = query.digest()
        if digest not in self.answers:
            try:
                self.answers[digest] = has_plan(self.prepared(query))
            except QueryError:
                self.answers[digest] = False
        return self.answers[digest]


def has_plan(prepared: Prepared) -> bool:
    """Whether a market has any plan. Where nothing is limited, it has one as soon as every population has a column."""
    market = prepared.market
    if market.mixed and not market.limits:
        return set(range(len(market.rates))) == {k for column in market.columns for k in column.populations}
    return prove(replace(prepared, query=prepared.query.set("solver.gap", "99 %"))).status != "infeasible"


def why_infeasible(
    prepared: Prepared, progress: Progress = lambda _: None
) -> tuple[tuple[plan.Conflict, ...], tuple[plan.Fix, ...]]:
    """(the clash, the repairs) of an infeasible question. An empty clash: no clause is to blame, physics is."""
    query, asker = prepared.query, Asker()
    clauses = relaxable(query)
    if not asker.feasible(without(query, clauses)):
        return (), ()
    core = list(clauses)
    for clause in clauses:
        progress(f"is {clause.path} to blame?")
        rest = [other for other in core if other is not clause]
        if not asker.feasible(without(query, [c for c in clauses if c not in rest])):
            core = rest
    conflict = tuple(plan.Conflict(clause=c.path, text=c.text, file=c.file, line=c.line, walls=_walls_of(c)) for c in core)
    fixes = _fixes(query, core, asker, progress) or _joint_fix(query, clauses, asker, progress)
    return conflict, fixes


def _fixes(query: ServeQuery, core: list[Clause], asker: Asker, progress: Progress) -> tuple[plan.Fix, ...]:
    """For each clause of the clash: the least move that alone makes the question feasible, and the best plan then."""
    result = []
    for clause in core:
        progress(f"how far must {clause.path} move?")
        move = _least_move(query, clause, asker, [])
        if move is not None:
            result.append(_fix(move, clause.path, clause.text, asker))
    return tuple(result)


def _joint_fix(query: ServeQuery, clauses: list[Clause], asker: Asker, progress: Progress) -> tuple[plan.Fix, ...]:
    """A smallest set of clauses that must all give way, where no single one suffices: found by putting clauses back.

    Minimal: putting any further clause back makes the question infeasible again. Each is moved as little as the others,
    fully relaxed, allow; then the next, given the moves so far.
    """
    dropped = list(clauses)
    for clause in clauses:
        progress(f"can {clause.path} stay?")
        rest = [other for other in dropped if other is not clause]
        if asker.feasible(without(query, rest)):
            dropped = rest
    values: list[str] = []
    moved = query
    for position, clause in enumerate(dropped):
        progress(f"how far must {clause.path} move?")
        move = _least_move(moved, clause, asker, dropped[position + 1 :])
        if move is None:
            return ()
        moved, values = move.query, [*values, move.value]
    last = Move(moved, "; ".join(values))
    return (_fix(last, " + ".join(c.path for c in dropped), "; ".join(c.text for c in dropped), asker),)


@dataclass(frozen=True, slots=True)
class Move:
    """A question with one clause moved, and the clause's new value in words."""

    query: ServeQuery
    value: str


def _fix(move: Move, clause: str, change: str, asker: Asker) -> plan.Fix:
    """A repair with the best plan that it allows."""
    certificate = prove(asker.prepared(move.query))
    objective, unit = in_objective_units(move.query, certificate.objective), objective_units(move.query)[1]
    return plan.Fix(clause=clause, change=change, value=move.value, objective=objective, unit=unit)


def _least_move(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The least move of one clause that makes the question feasible while `relaxed` are taken out; None when none does.

    Exact: one step less (`_step`) is still infeasible. What has no size (a list of chips, of regions) is dropped whole, and so
    is a latency that no finite move repairs (a pool at saturation has no finite TTFT).
    """
    if clause.path.startswith("limits."):
        return _least_limit(query, clause, asker, relaxed)
    value = _value(query, parse_path(clause.path))
    if clause.path.startswith("supply.quota"):
        return _least_count(query, clause, asker, relaxed)

    def dropped() -> Move | None:
        rest = without(query, [clause])
        return Move(rest, "dropped") if asker.feasible(without(rest, relaxed)) else None

    if not (clause.path.startswith(("sla.ttft", "sla.tpot")) or clause.path.endswith("rate")):
        return dropped()
    size, unit = _step(clause, value)
    at = round((value / unit).m_as("dimensionless") / size)

    def moved(steps: int) -> ServeQuery:
        return query.set(clause.path, _text(steps * size, unit))

    found = _first(lambda steps: asker.feasible(without(moved(steps), relaxed)), at, down=clause.path.endswith("rate"))
    return dropped() if found is None else Move(moved(found), _text(found * size, unit))


def _step(clause: Clause, value: Quantity) -> tuple[float, Quantity]:
    """The step in which a clause is moved: 1 ms for latencies (0.1 ms below 10 ms), a thousandth of a rate."""
    if clause.path.endswith("rate"):
        return float(f"{value.m_as('1/s') / 1000:.0e}"), Q(1.0, "1/s")
    return (1.0 if value.m_as("ms") >= 10 else 0.1), Q(1.0, "ms")


def _text(size: float, unit: Quantity) -> str:
    name = "/s" if unit.is_compatible_with("1/s") else " ms"
    return f"{size:.10g}{name}"


def _first(holds: Callable[[int], bool], start: int, down: bool) -> int | None:
    """The first whole number beyond `start` at which `holds` becomes true (it stays true): doubling, then bisection.

    Downwards it stops at 1. None when it does not hold even far away (at 4,096 times the start).
    """
    bad, stride = start, 1
    while True:
        good = max(start - stride, 1) if down else start + stride
        if holds(good):
            break
        if (down and good == 1) or (not down and good > 4096 * max(start, 1)):
            return None
        bad, stride = good, stride * 4
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def _least_limit(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The least bound of a limit that leaves a plan: the least of its resource under every other clause, one optimisation."""
    resource = clause.path.removeprefix("limits.")
    prepared = asker.prepared(without(query, relaxed))
    market = prepared.market
    cheapest = replace(
        market,
        limits=tuple(limit for limit in market.limits if limit.clause != clause.path),
        objective=tuple(column.amounts[resource] for column in market.columns),
    )
    least = prove(replace(prepared, market=cheapest)).objective
    if least is None:
        return None
    if resource == "chips":
        return Move(query.set(clause.path, least), str(least))
    unit = {"cost": "USD/h", "power": "kW", "carbon": "kgCO2e/h", "water": "L/h"}[resource]
    text = f"{float(dequantise(least, resource).m_as(unit)):.10g} {unit}"
    return Move(query.set(clause.path, text), text)


def _least_count(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The least quota that leaves a plan: the fewest of what it counts under every other clause, one optimisation."""
    prepared = asker.prepared(without(query, relaxed))
    market = prepared.market
    mine = next(limit for limit in market.limits if limit.clause == clause.path)
    counted = mine.columns or frozenset()
    fewest = replace(
        market,
        limits=tuple(limit for limit in market.limits if limit is not mine),
        objective=tuple(column.amounts[mine.resource] if j in counted else 0 for j, column in enumerate(market.columns)),
    )
    least = prove(replace(prepared, market=fewest)).objective
    if least is None:
        return None
    return Move(query.set(f"{clause.path}.{mine.resource}", least), f"{least} {mine.resource}")


def _walls_of(clause: Clause) -> tuple[str, ...]:
    path = clause.path
    if path.startswith("sla.ttft"):
        return ("7 tail latency",)
    if path.startswith("sla.tpot"):
        return ("4 serving",)
    if path.startswith("sla.quality"):
        return ("13 fidelity",)
    if path.startswith("limits.cost"):
        return ("17 capital",)
    if path.startswith("limits.") and not path.endswith("chips"):
        return ("18 sustainability",)
    return ()


def _value(query: ServeQuery, keys: Keys) -> Any:
    value: Any = query
    key: Any
    for key in keys:
        value = value[key] if isinstance(value, (dict, tuple, list)) else getattr(value, str(key))
    return value
