"""Why no job is possible: a smallest set of clauses that cannot hold together, and the least move of each that repairs it.

Deletion filtering, as for fleets: take clauses out one by one; one whose removal leaves the question infeasible is not part of
the clash. The least value of a limit is found by minimising what it limits, with the limit itself taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from zoo.units import Q

from .. import plan
from ..program import whole
from ..query import Clause, QueryError, TrainQuery, parse_path
from .job import UNITS
from .market import Memory, market_of
from .question import Question, question_of
from .report_units import in_units, unit_of

_EVERYTHING: dict[str, object] = {
    "supply.offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"],
    "supply.chips": "all",
    "regions.allow": ["*"],
    "regions.deny": [],
}
# Clause -> (what is minimised to find its least value, unit it is stated in).
_LEAST = {
    "deadline": ("time", "day"),
    "limits.cost": ("cost", "USD"),
    "limits.carbon": ("carbon", "tCO2e"),
    "limits.chips": ("chips", ""),
    "limits.power": ("power", "kW"),
}
_WALLS = {"limits.cost": "17 capital", "limits.power": "18 sustainability", "limits.carbon": "18 sustainability",
          "limits.water": "18 sustainability", "deadline": "11 complexity"}  # fmt: skip

Progress = Callable[[str], None]


def without(query: TrainQuery, clauses: list[Clause]) -> TrainQuery:
    """The question with these clauses relaxed."""
    data = query.to_dict()
    for clause in sorted(clauses, key=lambda c: c.path, reverse=True):  # later list entries first: indices stay right
        place: Any = data
        *parents, final = parse_path(clause.path)
        last: Any = final
        for key in parents:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        if clause.path in _EVERYTHING:
            place[last] = _EVERYTHING[clause.path]
        elif isinstance(place, list) or last in place:
            del place[last]
    return TrainQuery.from_dict(data, source=query.source, folder=query.folder)


def why_infeasible(
    question: Question, memory: Memory, progress: Progress = lambda _: None
) -> tuple[tuple[plan.Conflict, ...], tuple[plan.Fix, ...]]:
    """(the clash, the repairs). An empty clash: no clause is to blame, physics is."""
    query = question.query
    clauses = [clause for clause in query.clauses() if clause.path != "workload.tokens"]
    answers: dict[str, bool] = {}

    def feasible(asked: TrainQuery) -> bool:
        digest = asked.digest()
        if digest not in answers:
            try:
                answers[digest] = market_of(question_of(asked, question.start), memory=memory, first=True).best is not None
            except QueryError:
                answers[digest] = False
        return answers[digest]

    if not feasible(without(query, clauses)):
        return (), ()
    core = list(clauses)
    for clause in clauses:
        progress(f"is {clause.path} to blame?")
        rest = [other for other in core if other is not clause]
        if not feasible(without(query, [c for c in clauses if c not in rest])):
            core = rest
    conflict = tuple(
        plan.Conflict(
            clause=c.path, text=c.text, file=c.file, line=c.line, walls=tuple(w for p, w in _WALLS.items() if c.path == p)
        )
        for c in core
    )
    fixes = []
    for clause in core:
        progress(f"how far must {clause.path} move?")
        fix = _fix(question, clause, memory, feasible)
        if fix is not None:
            fixes.append(fix)
    return conflict, tuple(fixes)


def _fix(question: Question, clause: Clause, memory: Memory, feasible: Callable[[TrainQuery], bool]) -> plan.Fix | None:
    """The least move of a clause that alone makes the question feasible, and what the best job then takes."""
    query = question.query
    free = without(query, [clause])
    if not feasible(free):
        return None
    value = "dropped"
    moved = free
    if clause.path in _LEAST:
        resource, unit = _LEAST[clause.path]
        best = market_of(question_of(free.set("minimize", resource), question.start), memory=memory).best
        assert best is not None
        least = best.totals[resource] * UNITS[resource]
        value = _rounded_up(question, clause.path, least, unit)
        moved = free.set(clause.path, int(value) if not unit else value)
    best = market_of(question_of(moved, question.start), memory=memory).best
    objective = in_units(query, None if best is None else best.objective)
    return plan.Fix(clause=clause.path, change=clause.text, value=value, objective=objective, unit=unit_of(query))


def _rounded_up(question: Question, path: str, least: Any, unit: str) -> str:
    """A value that is enough, with four digits or as a date."""
    if path == "deadline" and isinstance(question.query.deadline, str):
        return (question.start + timedelta(days=int(whole(least, Q(1.0, "day"), "up")))).isoformat()
    size = float(least.m_as(unit))
    if not unit:
        return str(round(size))
    step = 10.0 ** (len(str(int(size))) - 4)
    return f"{whole(Q(size, ''), Q(step, ''), 'up') * step:.6g} {unit}"
