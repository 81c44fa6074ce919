"""Why there is no plan: a smallest set of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question. Deletion filtering: take clauses out one by one; a clause whose
removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses the clash when any one
of it is taken out, so it is minimal. Every test is a full re-enumeration and a proof: moving a wall changes which
candidates exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import plan
from .prepare import Known, Prepared, Progress, in_objective_units, objective_units, prepare, prove
from .query import Clause, Keys, Query, QueryError, ServeQuery, parse_path

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
    return Query.from_dict(data, source=query.source, folder=query.folder)


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

    known: Known = field(default_factory=dict)
    answers: dict[str, bool] = field(default_factory=dict)

    def feasible(self, query: ServeQuery) -> bool:
        """The whole enumeration, and a solver that may stop at its first plan."""
        digest = query.digest()
        if digest not in self.answers:
            try:
                self.answers[digest] = prove(prepare(query.set("solver.gap", "99 %"), known=self.known)).status != "infeasible"
            except QueryError:
                self.answers[digest] = False
        return self.answers[digest]


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


def _joint_fix(query: ServeQuery, clauses: list[Clause], asker: Asker, progress: Progress) -> tuple[plan.Fix, ...]:
    """A smallest set of clauses that must all give way, where no single one suffices: found by putting clauses back.

    Minimal: putting any further clause back makes the question infeasible again.
    """
    dropped = list(clauses)
    for clause in clauses:
        progress(f"can {clause.path} stay?")
        rest = [other for other in dropped if other is not clause]
        if asker.feasible(without(query, rest)):
            dropped = rest
    moved = query
    values: list[str] = []
    for position, clause in enumerate(dropped):
        progress(f"how far must {clause.path} move?")
        others = dropped[position + 1 :]
        relaxed, value = _least_move(moved, clause, asker, lambda q, gone=others: without(q, gone))  # type: ignore[misc]
        if relaxed is None:
            return ()
        moved, values = relaxed, [*values, value]
    return (_fix(moved, " + ".join(c.path for c in dropped), "; ".join(c.text for c in dropped), "; ".join(values), asker),)


def _fix(query: ServeQuery, clause: str, change: str, value: str, asker: Asker) -> plan.Fix:
    """A repair with the best plan that it allows."""
    certificate = prove(prepare(query, known=asker.known))
    objective, unit = in_objective_units(query, certificate.objective), objective_units(query)[1]
    return plan.Fix(clause=clause, change=change, value=value, objective=objective, unit=unit)


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


def _fixes(query: ServeQuery, core: list[Clause], asker: Asker, progress: Progress) -> tuple[plan.Fix, ...]:
    """For each clause of the clash: the least move that alone makes the question feasible, and the best plan then."""
    result = []
    for clause in core:
        progress(f"how far must {clause.path} move?")
        repaired, value = _least_move(query, clause, asker, lambda q: q)
        if repaired is not None:
            result.append(_fix(repaired, clause.path, clause.text, value, asker))
    return tuple(result)


# A move is found to within this fraction of the clause's own value.
_STEP = 0.01
# No clause is moved by more than this factor.
_FARTHEST = 4096.0


def _least_move(
    query: ServeQuery, clause: Clause, asker: Asker, context: Callable[[ServeQuery], ServeQuery]
) -> tuple[ServeQuery | None, str]:
    """The question with the clause moved as little as makes it feasible (to 1 %), and the clause's new value.

    `context` is applied before asking: other clauses that are relaxed meanwhile. None when no move suffices.
    """
    value = _value(query, parse_path(clause.path))
    quantitative = (hasattr(value, "units") and clause.path.startswith(("sla.", "limits."))) or clause.path.endswith("rate")
    if not quantitative:
        relaxed = without(query, [clause])
        return (relaxed, "dropped") if asker.feasible(context(relaxed)) else (None, "")
    shrinks = clause.path.endswith("rate")

    def moved(factor: float) -> ServeQuery:
        size = value.m / factor if shrinks else value.m * factor
        return query.set(clause.path, f"{size:.6g} {value.units:~}")

    low, high = 1.0, _FARTHEST
    if not asker.feasible(context(moved(high))):
        return None, ""
    while high / low > 1 + _STEP:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if asker.feasible(context(moved(middle))) else (middle, high)
    size = value.m / high if shrinks else value.m * high
    return moved(high), f"{size:.4g} {value.units:~}"


def _value(query: ServeQuery, keys: Keys) -> Any:
    value: Any = query
    key: Any
    for key in keys:
        value = value[key] if isinstance(value, (dict, tuple, list)) else getattr(value, str(key))
    return value
