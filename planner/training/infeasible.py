"""Why no job is possible: a smallest set of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question; how much is trained is made negligible. Deletion filtering: take clauses
out one by one; one whose removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses
the clash when any one of it is taken out, so it is minimal. Every test enumerates layouts and every whole number of instances.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Literal

import numpy as np

from zoo.units import Q, Quantity

from .. import distance, plan
from ..infeasible import not_sought
from ..program import whole
from ..query import Clause, TrainQuery
from ..records import QueryError, parse_path
from .asking import Asker
from .job import UNITS, bounds_of, limit_for
from .least import CLAUSES, bounded, first_from, least_between, least_of, minimising, query_has
from .market import Column, cheapest_by
from .question import Question
from .report_units import in_units, unit_of
from .search import OutOfTime

_EVERYTHING: dict[str, object] = {
    "supply.offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"],
    "supply.chips": "all",
    "regions.allow": ["*"],
    "regions.deny": [],
}
_LIMITS = {path: resource for resource, (path, _) in CLAUSES.items()}
_WALLS = {"limits.cost": "17 capital", "limits.power": "18 sustainability", "limits.carbon": "18 sustainability",
          "limits.water": "18 sustainability", "deadline": "11 complexity", "workload.tokens": "11 complexity"}  # fmt: skip
# Step in which a deadline is moved, and the unit that a moved limit is written in.
_DEADLINE_STEP = Q(0.01, "day")
_WRITTEN = {"cost": "USD", "carbon": "tCO2e", "power": "kW", "water": "kL"}
_DEGREES = {
    "tensor": "tensor_parallel", "pipeline": "pipeline_parallel", "data": "data_parallel", "context": "context_parallel",
    "expert": "expert_parallel", "virtual_stages": "virtual_stages", "microbatch": "microbatch",
}  # fmt: skip


def without(query: TrainQuery, clauses: Collection[Clause]) -> TrainQuery:
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
        elif clause.path == "workload.tokens":
            place[last] = _tokens(query, 1)
        elif isinstance(place, list) or last in place:
            del place[last]
    return TrainQuery.from_dict(data, source=query.source, folder=query.folder)


def _tokens(query: TrainQuery, steps: int) -> str:
    """The tokens of a number of steps."""
    return f"{steps * query.workload.sequences * query.workload.length} token"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why there is no job. `innocent` clauses are in no clash that was found and in no repair; `nearest` is the question
    repaired by the smallest move (`planner.distance`), `by` that repair and `best` its best job. `complete` False: the time was
    over, so the clash may have clauses that it does not need, and repairs are missing. `further`: other clashes that were found;
    `only`: proven that there is none but `conflict`; `stuck`: paths of clauses in clashes that no change of theirs alone
    repairs; `priced` False: the time was over before all was known of what lies beyond the repairs."""

    conflict: tuple[plan.Conflict, ...] = ()
    fixes: tuple[plan.Fix, ...] = ()
    innocent: tuple[plan.Conflict, ...] = ()
    nearest: TrainQuery | None = None
    by: plan.Fix | None = None
    best: Column | None = None
    complete: bool = True
    further: tuple[tuple[plan.Conflict, ...], ...] = ()
    only: bool = False
    stuck: tuple[str, ...] = ()
    priced: bool = True


@dataclass(frozen=True, slots=True)
class Move:
    """A question with clauses moved, their new values in words, and how far that is (`planner.distance`)."""

    query: TrainQuery
    value: str
    far: float = distance.GIVEN_UP


# Clauses, how they move, and what that is the least of (`plan.Fix.how`).
Repair = tuple[list[Clause], Move, Literal["alone", "least sum", "in turn"]]


@dataclass(slots=True)
class _Asked:
    """What questions have any job at all, remembered."""

    asker: Asker
    answers: dict[str, Column | None] = field(default_factory=dict)

    def any_job(self, query: TrainQuery) -> Column | None:
        digest = query.digest()
        if digest not in self.answers:
            try:
                self.answers[digest] = self.asker.market(self.asker.question(query), first=True).best
            except QueryError:  # no whole instance, no chip with the precision: nothing can be bought
                self.answers[digest] = None
        return self.answers[digest]

    def feasible(self, query: TrainQuery, relaxed: Collection[Clause] = ()) -> bool:
        try:
            return self.any_job(without(query, relaxed) if relaxed else query) is not None
        except QueryError:
            return False


def why_infeasible(question: Question, asker: Asker, kept: Collection[str] = ()) -> Explanation:
    """The clash and the repairs. An empty clash: no clause is to blame, physics is. kept: clauses that are not to give way."""
    clauses = [clause for clause in question.query.clauses() if clause.path not in kept]
    known = list(clauses)  # what is known to clash: less and less
    asked = _Asked(asker)
    try:
        found = _explained(question, clauses, known, asked)
    except OutOfTime:
        return Explanation(tuple(_blamed(c) for c in known), complete=False)
    fixes = list(found.fixes)
    priced = False
    with suppress(OutOfTime):
        for position, fix in enumerate(found.fixes):
            fixes[position] = _beyond(question, fix, asked)
        priced = True
    by = None if found.by is None else fixes[found.fixes.index(found.by)]
    return replace(found, fixes=tuple(fixes), by=by, priced=priced)


def _explained(question: Question, clauses: list[Clause], known: list[Clause], asked: _Asked) -> Explanation:
    """`why_infeasible`; `known` is narrowed to the clash as that is found. Raises OutOfTime."""
    query, asker = question.query, asked.asker
    if not asked.feasible(query, clauses):
        return Explanation()
    core, *_ = clashes = _clashes(query, clauses, asked, known)
    lone = [clause for clause in core if asked.feasible(query, [clause])]  # every clash has these
    stuck = dict.fromkeys(c.path for clash in clashes for c in clash if c not in lone)
    repairs: list[Repair] = []
    for clause in core:
        asker.progress(f"how far must {clause.path} move?")
        move = _least_move(question, query, clause, asked, [])
        if move is not None:
            repairs.append(([clause], move, "alone"))
    asker.progress("the least joint move")
    repairs += _least_joint_move(query, core, asker)
    if not repairs:
        repairs = _joint_moves(question, clauses, asked)
    moved = {clause.path for together, _, _ in repairs for clause in together}
    others = [one for one in _together(query, clashes, lone, asked) if {c.path for c in one} != moved]
    fixes, nearest = [], None
    for together, move, how in repairs:
        path, text = " + ".join(c.path for c in together), "; ".join(c.text for c in together)
        asker.progress(f"the best job with {path} moved")
        best = asker.best(move.query)
        objective = in_units(query, None if best is None else best.objective)
        fix = plan.Fix(clause=path, change=text, value=move.value, objective=objective, unit=unit_of(query), how=how)
        fixes.append(fix)
        if best is not None and (nearest is None or (move.far, best.objective) < nearest[0]):
            nearest = (move.far, best.objective), move.query, fix, best
    fixes += map(not_sought, others)
    blamed = {c.path for clash in clashes for c in clash} | moved
    innocent = [c for c in clauses if c.path not in blamed]
    memory = _for_lack_of_memory(query, clauses, core, asked)
    _, near, by, best_then = nearest or (None,) * 4
    return Explanation(
        tuple(_blamed(c, memory) for c in core), tuple(fixes), tuple(_blamed(c) for c in innocent), near, by, best_then,
        further=tuple(tuple(_blamed(c) for c in clash) for clash in clashes[1:]), only=lone == core, stuck=tuple(stuck),
    )  # fmt: skip


def _clashes(query: TrainQuery, clauses: list[Clause], asked: _Asked, known: list[Clause]) -> list[list[Clause]]:
    """A minimal clash, and for each clause of it whose removal does not repair another one that does not have it."""
    core = _clash(query, clauses, clauses, asked, known)
    clashes = [core]
    for clause in core:
        others = [c for c in clauses if c is not clause]
        if all(clause in clash for clash in clashes) and not asked.feasible(query, [clause]):
            clashes.append(_clash(query, clauses, sorted(others, key=lambda c: c not in core), asked))
    return clashes


def _together(query: TrainQuery, clashes: list[list[Clause]], lone: list[Clause], asked: _Asked) -> list[list[Clause]]:
    """Clauses that repair together and not alone: one of each clash that was found."""
    each = itertools.product(*([c for c in clash if c not in lone] for clash in clashes)) if len(clashes) > 1 else ()
    sets = {frozenset(c.path for c in one): list(dict.fromkeys(one)) for one in each}
    return [one for one in list(sets.values())[:_MOST_TOGETHER] if len(one) > 1 and asked.feasible(query, one)]


# So many joint repairs are tried by dropping them.
_MOST_TOGETHER = 3


def _clash(
    query: TrainQuery, clauses: list[Clause], among: list[Clause], asked: _Asked, known: list[Clause] | None = None
) -> list[Clause]:
    """A smallest set of `among` that cannot hold together, by deletion; those that come first are taken out first.

    known: is narrowed to the set so far, for when the time ends.
    """
    core = list(among)
    for clause in among:
        asked.asker.progress(f"is {clause.path} to blame?")
        rest = [other for other in core if other is not clause]
        if not asked.feasible(query, [c for c in clauses if c not in rest]):
            core = rest
            if known is not None:
                known[:] = rest
    return [c for c in clauses if c in core]


# Accelerators with memory without end, for all that a model could need.
_ROOMY = (("memory capacity", 1000.0),)


def _for_lack_of_memory(query: TrainQuery, clauses: list[Clause], clash: list[Clause], asked: _Asked) -> bool:
    """Whether wall 2 takes part in a clash: with a thousand times the memory its clauses would hold together."""
    asked.asker.progress("would more memory do?")
    try:
        question = asked.asker.question(without(query, [c for c in clauses if c not in clash]), _ROOMY)
        return asked.asker.market(question, _ROOMY, first=True).best is not None
    except QueryError:
        return False


def _blamed(clause: Clause, memory: bool = False) -> plan.Conflict:
    """memory: whether the clash that it is in is one for lack of memory, which clauses about machines and layouts then are."""
    walls = (_WALLS[clause.path],) if clause.path in _WALLS else ()
    if memory and clause.path.startswith(("supply.", "parallelism", "workload.", "limits.chips")):
        walls = ("2 memory", *walls)
    return plan.Conflict(clause=clause.path, text=clause.text, file=clause.file, line=clause.line, walls=walls)


# How much dearer than without the moved clause a job may be that moves further than the least.
_WITHIN = 0.1


def _beyond(question: Question, fix: plan.Fix, asked: _Asked) -> plan.Fix:
    """A repair with what lies beyond its least move (`plan.Fix`); as it is where it is not one clause with a size.

    Both are optima over the grid of counts, as the best job of every question is. Only a limit has a further move, and not the
    objective's own.
    """
    query, asker = question.query, asked.asker
    own, _ = CLAUSES.get(query.minimize, ("", ""))
    if (
        " + " in fix.clause
        or fix.clause == own
        or not (fix.clause in _LIMITS or fix.clause.startswith(("supply.quota", "supply.accelerators")))
    ):
        return fix
    asker.progress(f"what if {fix.clause} moved further?")
    clause = next(c for c in query.clauses() if c.path == fix.clause)
    free = without(query, [clause])
    best = asker.best(free)
    if best is None:
        return fix
    found, near = fix.model_copy(update={"without": in_units(query, best.objective)}), math.floor(best.objective * (1 + _WITHIN))
    if not own or fix.clause not in _LIMITS or fix.objective is None or fix.objective <= (in_units(query, near) or 0):
        return found
    resource, near = _LIMITS[fix.clause], limit_for(question, query.minimize, near)
    if query_has(query, own):
        near = min(near, limit_for(question, query.minimize, bounds_of(question)[query.minimize]))
    bound = asker.question(bounded(free, query.minimize, near))
    least = asker.market(minimising(bound, resource)).best
    if least is None:
        return found
    move = _limit_moved(question, query, fix.clause, limit_for(bound, resource, least.totals[resource]))
    then = asker.best(move.query)
    objective = None if then is None else in_units(query, then.objective)
    return found.model_copy(update={"further": move.value, "further_objective": objective})


# ----------------------------------------------------------------------------------------------------- moves of one clause


def _least_move(
    question: Question, query: TrainQuery, clause: Clause, asked: _Asked, relaxed: Collection[Clause]
) -> Move | None:  # fmt: skip
    """The least move of one clause that makes the question feasible while `relaxed` are taken out; None when none does.

    Exact: one step less is still infeasible. What has no size (chips, regions, options) is widened by one name.
    """
    path = clause.path
    if path in _LIMITS:
        return _least_limit(question, query, path, asked, relaxed)
    if not asked.feasible(query, [clause, *relaxed]):
        return None
    if path.startswith("supply.quota"):
        return _least_quota(query, path, asked, relaxed)
    if path == "supply.accelerators":
        return _nearest_count(query, asked, relaxed)
    if path == "workload.tokens":
        return _most_tokens(question, query, asked, relaxed)
    return _wider(query, clause, asked, relaxed)


def _least_limit(
    question: Question, query: TrainQuery, path: str, asked: _Asked, relaxed: Collection[Clause]
) -> Move | None:  # fmt: skip
    least = least_of(asked.asker, without(query, relaxed), _LIMITS[path])
    return None if least is None else _limit_moved(question, query, path, least)


def _limit_moved(question: Question, query: TrainQuery, path: str, least: int) -> Move:
    """A limit, or the deadline, moved to a number of the program's integers; a deadline in steps, a date to a whole day."""
    resource = _LIMITS[path]
    needed, now = least * UNITS[resource], question.deadline if resource == "time" else getattr(question.query.limits, resource)
    value: object
    if resource == "time":
        steps = whole(needed, _DEADLINE_STEP, "up")
        value = f"{float((steps * _DEADLINE_STEP).m_as('day')):.10g} day"
        if isinstance(query.deadline, str):
            value = (question.start + timedelta(days=int(whole(needed, Q(1.0, "day"), "up")))).isoformat()
    elif resource == "chips":
        value = least
    else:
        value = f"{float(needed.m_as(_WRITTEN[resource])):.12g} {_WRITTEN[resource]}"
    return Move(_moved(query, path, value), str(value), _relative(now, needed))


def _relative(now: Quantity | int | None, then: Quantity | float) -> float:
    if now is None:
        return math.inf
    ratio = then / now if now else 0.0
    return distance.between(1.0, float(ratio.m_as("") if isinstance(ratio, Quantity) else ratio))


def _moved(query: TrainQuery, path: str, value: object) -> TrainQuery:
    changed = query.override({path: value})
    assert isinstance(changed, TrainQuery)
    return changed


def _least_quota(query: TrainQuery, path: str, asked: _Asked, relaxed: Collection[Clause]) -> Move | None:
    """The least count of a quota: every job that is possible without it takes of it, so the fewest of those."""
    quota = query.supply.quota[int(path.rpartition("[")[2].rstrip("]"))]
    key, now = ("chips", quota.chips) if quota.chips is not None else ("instances", quota.instances or 0)

    def taken(count: int) -> int | None:
        best = asked.any_job(without(_moved(query, f"{path}.{key}", count), relaxed))
        return None if best is None else best.totals["chips"] if key == "chips" else best.instances

    least = first_from(taken, now)
    if least is None:
        return None
    return Move(_moved(query, f"{path}.{key}", least), f"{least} {key}", _relative(now, least))


def _nearest_count(query: TrainQuery, asked: _Asked, relaxed: Collection[Clause]) -> Move | None:
    """The number of accelerators nearest to those asked for with which there is a job: more of them, or fewer."""
    assert query.supply.accelerators is not None
    low, high = query.supply.accelerators

    def within(first: int, last: int) -> int | None:
        best = asked.any_job(without(_moved(query, "supply.accelerators", [first, last]), relaxed))
        return None if best is None else best.accelerators

    more = first_from(lambda last: within(high + 1, last) if last > high else None, high)
    fewer = first_from(lambda down: _below(within(low - down, low - 1), low) if 0 < down < low else None, 0, low - 1)
    options = ([more] if more is not None else []) + ([low - fewer] if fewer is not None else [])
    if not options:
        return None
    count = min(options, key=lambda n: (n - high if n > high else low - n, n))
    span = [low, count] if count > high else [count, high]
    value = count if low == high else span
    return Move(_moved(query, "supply.accelerators", value), str(value), _relative(high if count > high else low, count))


def _below(count: int | None, low: int) -> int | None:
    return None if count is None else low - count


def _most_tokens(question: Question, query: TrainQuery, asked: _Asked, relaxed: Collection[Clause]) -> Move | None:
    """The most that can be trained, in whole steps."""
    now = question.steps

    def fewer(cut: int) -> int | None:
        """The least cut of steps that the job which is possible with this cut needs: what it takes grows with its steps."""
        asked_query = without(_moved(query, "workload.tokens", _tokens(query, now - cut)), relaxed)
        best = asked.any_job(asked_query)
        if best is None:
            return None
        bounds = bounds_of(asked.asker.question(asked_query))
        room = min(bounds[name] / max(best.totals[name], 1) for name in bounds if name not in ("power", "chips"))
        least = max(now - int((now - cut) * room), 0)
        known = least < cut and asked.feasible(_moved(query, "workload.tokens", _tokens(query, now - least)), relaxed)
        return least if known else cut

    most = fewer(now - 1) if now > 1 else None
    if most is None:
        return None
    cut = least_between(fewer, 0, most)
    text = _tokens(query, now - cut)
    return Move(_moved(query, "workload.tokens", text), text, distance.between(now, now - cut))


def _wider(query: TrainQuery, clause: Clause, asked: _Asked, relaxed: Collection[Clause]) -> Move:
    """A choice widened by the one name that the best job without the clause uses; dropped, where it is no list of names."""
    free = without(query, [clause])
    best = asked.asker.best(without(free, relaxed))
    dropped = Move(free, "dropped")
    if best is None or best.found is None:
        return dropped
    path, layout = clause.path, best.found.layout
    key = path.rpartition(".")[2]
    name: object
    if path == "supply.chips":
        name, there = best.offer.accelerator, query.supply.chips
    elif path == "supply.offers":
        name, there = best.offer.option, query.supply.offers
    elif path == "regions.allow":
        name, there = best.offer.region, query.regions.allow
    elif key in _DEGREES and isinstance(getattr(query.parallelism, key), tuple):
        name, there = int(np.ravel(getattr(layout, _DEGREES[key]))[0]), getattr(query.parallelism, key)
    else:
        return dropped
    moved = _moved(query, path, [*there, name])
    return Move(moved, f"also {name}") if asked.feasible(moved, relaxed) else dropped


# ------------------------------------------------------------------------------------------------------ moves of several


def _least_joint_move(query: TrainQuery, core: list[Clause], asker: Asker) -> list[Repair]:
    """The moves of limits and the deadline with the least sum of relative moves that together make the question feasible.

    Over the grid of counts. Empty where one clause does it alone, or where others than limits are at fault.
    """
    limits = [c for c in query.clauses() if c.path in _LIMITS]
    if len([c for c in core if c.path in _LIMITS]) < 2:
        return []
    try:
        free, asked = asker.question(without(query, limits)), asker.question(query)
    except QueryError:
        return []
    bounds = {name: bound for name, bound in bounds_of(asked).items() if CLAUSES[name][0] in {c.path for c in limits}}

    def excess(totals: dict[str, Any]) -> Any:
        return sum(np.maximum(np.asarray(totals[name], float) / max(bound, 1) - 1, 0.0) for name, bound in bounds.items())

    found = cheapest_by(free, asker.families_of(free), asker.memory(free), excess, asker.over)
    if found is None:
        return []
    over = [name for name, bound in bounds.items() if found.totals[name] > bound]
    if len(over) < 2:
        return []
    moved = query
    values: list[str] = []
    clauses: list[Clause] = []
    for name in over:
        clause = next(c for c in limits if _LIMITS[c.path] == name)
        needed = limit_for(asked, name, found.totals[name]) * UNITS[name]
        value: object = found.totals[name]
        if name == "time":
            value = f"{float((whole(needed, _DEADLINE_STEP, 'up') * _DEADLINE_STEP).m_as('day')):.10g} day"
        elif name != "chips":
            value = f"{float(needed.m_as(_WRITTEN[name])):.12g} {_WRITTEN[name]}"
        moved, values, clauses = _moved(moved, clause.path, value), [*values, str(value)], [*clauses, clause]
    far = sum(distance.between(max(bounds[name], 1), found.totals[name]) for name in over)
    return [(clauses, Move(moved, "; ".join(values), far), "least sum")]


def _joint_moves(question: Question, clauses: list[Clause], asked: _Asked) -> list[Repair]:
    """A smallest set of clauses that must all give way, where no single one suffices: found by putting clauses back.

    Minimal: putting any further clause back makes the question infeasible again. Each is moved as little as the others,
    fully relaxed, allow; then the next, given the moves so far.
    """
    query, dropped = question.query, list(clauses)
    for clause in clauses:
        asked.asker.progress(f"can {clause.path} stay?")
        rest = [other for other in dropped if other is not clause]
        if asked.feasible(query, rest):
            dropped = rest
    moved, far = query, 0.0
    values: list[str] = []
    for position, clause in enumerate(dropped):
        move = _least_move(question, moved, clause, asked, dropped[position + 1 :])
        if move is None:
            return []
        moved, values, far = move.query, [*values, move.value], far + move.far
    return [(dropped, Move(moved, "; ".join(values), far), "in turn")]
