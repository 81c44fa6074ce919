"""Why there is no plan: a smallest set of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question. Deletion filtering: take clauses out one by one; a clause whose
removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses the clash when any one
of it is taken out, so it is minimal. Every test is a full re-enumeration and a proof: moving a wall changes which
candidates exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import plan
from .query import Clause, Keys, Query, QueryError, ServeQuery, parse_path

if TYPE_CHECKING:
    from .solve import Prepared

Progress = Callable[[str], None]

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


def feasible(query: ServeQuery) -> bool:
    """Whether any plan exists: the whole enumeration, and a solver that may stop at its first plan."""
    from .solve import prepare, prove

    try:
        relaxed = query.set("solver.gap", "99 %")
        return prove(prepare(relaxed)).status != "infeasible"
    except QueryError:
        return False


def why_infeasible(
    prepared: Prepared, progress: Progress = lambda _: None
) -> tuple[tuple[plan.Conflict, ...], tuple[plan.Fix, ...]]:
    """(the clash, the repairs) of an infeasible question. An empty clash: no clause is to blame, physics is."""
    query = prepared.query
    core = relaxable(query)
    if not feasible(without(query, core)):
        return (), ()
    for clause in list(core):
        progress(f"is {clause.path} to blame?")
        rest = [other for other in core if other is not clause]
        others = [c for c in relaxable(query) if c not in rest]
        if not feasible(without(query, others)):
            core = rest
    conflict = tuple(plan.Conflict(clause=c.path, text=c.text, file=c.file, line=c.line, walls=_walls_of(c)) for c in core)
    return conflict, _fixes(query, core, progress)


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


def _fixes(query: ServeQuery, core: list[Clause], progress: Progress) -> tuple[plan.Fix, ...]:
    """For each clause of the clash: the least move that alone makes the question feasible, and the best plan then."""
    from .solve import in_objective_units, objective_units, prepare, prove

    result = []
    for clause in core:
        progress(f"how far must {clause.path} move?")
        repaired, value = _least_move(query, clause)
        if repaired is None:
            continue
        certificate = prove(prepare(repaired))
        result.append(
            plan.Fix(
                clause=clause.path,
                change=clause.text,
                value=value,
                objective=in_objective_units(query, certificate.objective),
                unit=objective_units(query)[1],
            )
        )
    return tuple(result)


# A move is found to within this fraction of the clause's own value.
_STEP = 0.01


def _least_move(query: ServeQuery, clause: Clause) -> tuple[ServeQuery | None, str]:
    """The question with the clause moved as little as makes it feasible (to 1 %), and the clause's new value."""
    keys = parse_path(clause.path)
    value = _value(query, keys)
    if clause.path.startswith(("sla.", "limits.")) and clause.path != "sla.quality.loss" and hasattr(value, "m"):
        factor = _least_factor(lambda f: query.set(clause.path, f"{value.m * f:.6g} {value.units:~}"), 1.0, 4096.0)
        if factor is None:
            return None, ""
        text = f"{value.m * factor:.4g} {value.units:~}"
        return query.set(clause.path, f"{value.m * factor:.6g} {value.units:~}"), text
    if clause.path.endswith("rate"):
        factor = _least_factor(lambda f: query.set(clause.path, f"{value.m / f:.6g} {value.units:~}"), 1.0, 4096.0)
        if factor is None:
            return None, ""
        return query.set(clause.path, f"{value.m / factor:.6g} {value.units:~}"), f"{value.m / factor:.4g} {value.units:~}"
    relaxed = without(query, [clause])
    return (relaxed, "dropped") if feasible(relaxed) else (None, "")


def _value(query: ServeQuery, keys: Keys) -> Any:
    value: Any = query
    key: Any
    for key in keys:
        value = value[key] if isinstance(value, (dict, tuple, list)) else getattr(value, str(key))
    return value


def _least_factor(moved: Callable[[float], ServeQuery], low: float, high: float) -> float | None:
    """The least factor, to 1 %, at which the moved question is feasible; None when even `high` is not."""
    if not feasible(moved(high)):
        return None
    while high / low > 1 + _STEP:
        middle = (low * high) ** 0.5
        if feasible(moved(middle)):
            high = middle
        else:
            low = middle
    return high
