"""Why no job is possible: a smallest set of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question; how much is trained is made negligible. Deletion filtering: take clauses
out one by one; one whose removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses
the clash when any one of it is taken out, so it is minimal. Every test enumerates layouts and every whole number of instances.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np

from zoo.units import Q, Quantity

from .. import distance, in_parallel, plan
from ..infeasible import not_sought
from ..query import Clause, TrainQuery
from ..records import OutOfTime, QueryError, parse_path
from .asking import Asker
from .job import UNITS, bounds_of, limit_for, limits_for
from .least import CLAUSES, bounded, first_from, least_between, least_of, limit_of, minimising, query_has
from .market import Column, cheapest_by
from .plan import TrainPlan
from .question import Question
from .report_units import in_units, unit_of

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


Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why there is no job. `innocent` clauses are in no clash that was found and in no repair; `nearest` is the question
    repaired by the smallest move (`planner.distance`), `by` that repair and `best` its best job. `complete` False: the time was
    over, so the clash may have clauses that it does not need. `further`: other clashes that were found; `only`: proven that
    there is none but `conflict`; `stuck`: paths of clauses in clashes that no change of theirs alone repairs; `left`: what was
    not looked at because the time was over."""

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
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """A question with clauses moved, their new values in words, and how far that is (`planner.distance`)."""

    query: TrainQuery
    value: str
    far: float = distance.GIVEN_UP


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair, the question that it leads to, how far that is (`planner.distance`), and its best job where that is known."""

    fix: plan.Fix
    query: TrainQuery | None = None
    far: float = math.inf
    best: Column | None = None


@dataclass(slots=True)
class _Asked:
    """What questions have any job at all, remembered."""

    asker: Asker
    answers: dict[str, Column | None] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def slow(self) -> bool:
        """Whether an answer takes so long that asking in other processes pays."""
        return self.seconds > 0.05 * len(self.answers)

    def any_job(self, query: TrainQuery) -> Column | None:
        digest = query.digest()
        if digest not in self.answers:
            started = time.perf_counter()
            try:
                self.answers[digest] = self.asker.market(self.asker.question(query), first=True).best
            except QueryError:  # no whole instance, no chip with the precision: nothing can be bought
                self.answers[digest] = None
            self.seconds += time.perf_counter() - started
        return self.answers[digest]

    def feasible(self, query: TrainQuery, relaxed: Collection[Clause] = ()) -> bool:
        try:
            return self.any_job(without(query, relaxed) if relaxed else query) is not None
        except QueryError:
            return False


def why_infeasible(question: Question, asker: Asker, kept: Collection[str] = (), beyond: bool = True) -> Explanation:
    """The clashes and the repairs, or as much of them as was found in the time. An empty clash: no clause is to blame, physics
    is. kept: clauses that are not to give way; beyond: whether what lies beyond the least moves is looked for."""
    clauses = [clause for clause in question.query.clauses() if clause.path not in kept]
    nothing = Explanation(tuple(map(_blamed, clauses)), complete=False, left=(*plan.CLASH, *plan.REST))
    return _in_time(nothing, _explained(question, clauses, _Asked(asker), beyond))


def _in_time(last: Known, more: Iterator[Known]) -> Known:
    """The last that is known when the time is over."""
    with suppress(OutOfTime):
        for each in more:
            last = each
    return last


# What is looked for after all of `plan.CLASH`, `plan.REST` and `plan.OTHERS`.
_MEMORY = ("whether memory is to blame",)


def _explained(question: Question, clauses: list[Clause], asked: _Asked, beyond: bool) -> Iterator[Explanation]:
    """More and more of `why_infeasible`, the last with all of it. Raises OutOfTime."""
    query = question.query
    core = clauses
    for core in _clash(query, clauses, clauses, asked):
        yield Explanation(tuple(map(_blamed, core)), complete=False, left=(*plan.CLASH, *plan.REST))
    if not core:  # not even without any clause
        yield Explanation()
        return
    yield Explanation(tuple(map(_blamed, core)), left=plan.REST)
    lone = [clause for clause in core if asked.feasible(query, [clause])]  # every clash has these
    clashes, joint = [core], list[list[Clause]]()
    left: tuple[str, ...] = plan.OTHERS
    with suppress(OutOfTime):
        for clash in _other_clashes(query, clauses, core, asked):
            clashes.append(clash)
        joint = _together(query, clashes, lone, asked)
        left = ()
        if not lone and not joint:
            joint = [_least_set(query, clauses, asked)]
    tasks = [*([clause] for clause in lone), *_limits_in(clashes), *joint]
    repairs, unknown = _repairs(question, tasks, asked, beyond)
    possible = [repair for repair in repairs if repair.best is not None]
    nearest = min(possible, key=_distance) if possible else None
    blamed = {c.path for clash in clashes for c in clash} | {path for r in repairs for path in r.fix.clause.split(" + ")}
    found = Explanation(
        tuple(map(_blamed, core)),
        tuple(repair.fix for repair in repairs),
        tuple(_blamed(c) for c in clauses if c.path not in blamed),
        None if nearest is None else nearest.query,
        None if nearest is None else nearest.fix,
        None if nearest is None else nearest.best,
        further=tuple(tuple(map(_blamed, clash)) for clash in clashes[1:]),
        only=lone == core,
        stuck=tuple(dict.fromkeys(c.path for clash in clashes for c in clash if c not in lone)),
        left=(*left, *unknown),
    )
    yield replace(found, left=(*found.left, *_MEMORY))
    memory = _for_lack_of_memory(query, clauses, core, asked)
    yield replace(found, conflict=tuple(_blamed(c, memory) for c in core))


def _distance(repair: Repair) -> tuple[float, int]:
    return repair.far, 0 if repair.best is None else repair.best.objective


def _clash(query: TrainQuery, clauses: list[Clause], among: list[Clause], asked: _Asked) -> Iterator[list[Clause]]:
    """Smaller and smaller sets of `among` that cannot hold together, by deletion; those that come first are taken out first.

    The last is minimal: without any one of it the others hold together.
    """
    core = list(among)
    for clause in among:
        asked.asker.progress(f"is {clause.path} to blame?")
        rest = [other for other in core if other is not clause]
        if not asked.feasible(query, [c for c in clauses if c not in rest]):
            core = rest
            yield core
    yield [c for c in clauses if c in core]


def _other_clashes(
    query: TrainQuery, clauses: list[Clause], core: list[Clause], asked: _Asked
) -> Iterator[list[Clause]]:  # fmt: skip
    """For each clause of a minimal clash whose removal does not repair a minimal clash that does not have it."""
    clashes = [core]
    for clause in core:
        others = [c for c in clauses if c is not clause]
        if all(clause in clash for clash in clashes) and not asked.feasible(query, [clause]):
            *_, other = _clash(query, clauses, sorted(others, key=lambda c: c not in core), asked)
            clashes.append(other)
            yield other


def _together(query: TrainQuery, clashes: list[list[Clause]], lone: list[Clause], asked: _Asked) -> list[list[Clause]]:
    """Clauses that repair together and not alone: one of each clash that was found, and no more than are needed."""
    each = itertools.product(*([c for c in clash if c not in lone] for clash in clashes)) if len(clashes) > 1 else ()
    sets = {frozenset(c.path for c in one): list(dict.fromkeys(one)) for one in each}
    joint: list[list[Clause]] = []
    for one in sorted((s for s in sets.values() if len(s) > 1), key=len)[:_MOST_TOGETHER]:
        if not any(set(other) <= set(one) for other in joint) and asked.feasible(query, one):
            joint.append(one)
    return joint


# So many joint repairs are tried by dropping them.
_MOST_TOGETHER = 3


def _least_set(query: TrainQuery, clauses: list[Clause], asked: _Asked) -> list[Clause]:
    """Clauses that must all give way, where no single one suffices: found by putting clauses back.

    Minimal: putting any further clause back makes the question infeasible again.
    """
    dropped = list(clauses)
    for clause in clauses:
        asked.asker.progress(f"can {clause.path} stay?")
        rest = [other for other in dropped if other is not clause]
        if asked.feasible(query, rest):
            dropped = rest
    return dropped


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


# --------------------------------------------------------------------------------------------------------------- repairs

# What is known of a repair so far (None: there is none), and what of it has not been looked at yet.
Partly = tuple[Repair | None, tuple[str, ...]]


def _repairs(
    question: Question, tasks: Sequence[list[Clause]], asked: _Asked, beyond: bool
) -> tuple[list[Repair], tuple[str, ...]]:
    """Of each set of clauses whose removal is enough its least moves, the best job then, and what lies beyond; and what of that
    was not looked at in the time. For no clauses: the moves of limits with the least sum."""

    def repair(together: list[Clause]) -> Partly:
        nothing: Partly = (None, ("the least joint move of limits",))
        if together:
            nothing = Repair(not_sought(together)), (f"how far {_names(together)} must move",)
        return _in_time(nothing, _repair(question, together, asked, beyond))

    found = in_parallel.each(repair, tasks) if asked.slow else [repair(task) for task in tasks]
    kept: dict[frozenset[str], Repair] = {}
    for one, _ in found:
        if one is not None:
            kept.setdefault(frozenset(one.fix.clause.split(" + ")), one)
    return list(kept.values()), tuple(text for _, left in found for text in left)


def _repair(question: Question, together: list[Clause], asked: _Asked, beyond: bool = True) -> Iterator[Partly]:
    """More and more of what is known of one repair. Raises OutOfTime."""
    if together:
        move, how = _joint_move(question, together, asked), "in turn" if len(together) > 1 else "alone"
    else:
        asked.asker.progress("the least joint move")
        together, move, how = *_least_joint_move(question, asked.asker), "least sum"
    if move is None:
        yield None, ()  # no move of finite size does, or a single one does alone
        return
    names = _names(together)
    text = "; ".join(clause.text for clause in together)
    less = [(question.tokens, asked.asker.question(move.query).tokens)] if "workload.tokens" in (c.path for c in together) else []
    fix = plan.Fix(
        clause=" + ".join(c.path for c in together), change=text, value=move.value, how=how,  # type: ignore[arg-type]
        demand_left=distance.demand_left(less),
    )  # fmt: skip
    yield Repair(fix, move.query, move.far), (f"the best job with {names} moved",)
    asked.asker.progress(f"the best job with {names} moved")
    best = asked.asker.best(move.query)
    fix = _priced(question, fix, best)
    found = Repair(fix, move.query, move.far, best)
    yield found, (f"what moving {names} further saves",)
    for farther in _beyond(question, together, fix, asked) if beyond else ():
        found = replace(found, fix=farther)
        yield found, (f"what moving {names} further saves",)
    yield found, ()


def _names(clauses: Sequence[Clause]) -> str:
    return " and ".join(clause.path for clause in clauses)


def _priced(question: Question, fix: plan.Fix, best: Column | None) -> plan.Fix:
    """A repair with its best job's objective."""
    objective = in_units(question.query, None if best is None else best.objective)
    return fix.model_copy(update={"objective": objective, "unit": unit_of(question.query)})


def _joint_move(question: Question, together: Sequence[Clause], asked: _Asked) -> Move | None:
    """The move of all these clauses: each as little as the others, fully relaxed, allow; then the next, given those so far."""
    moved, far = question.query, 0.0
    values: list[str] = []
    for position, clause in enumerate(together):
        asked.asker.progress(f"how far must {clause.path} move?")
        move = _least_move(question, moved, clause, asked, together[position + 1 :])
        if move is None:
            return None
        moved, values, far = move.query, [*values, move.value], far + move.far
    return Move(moved, "; ".join(values), far)


def sought(question: Question, fix: plan.Fix, asker: Asker) -> plan.Fix:
    """A repair with all that was not looked at: its least moves, the best job then, what lies beyond; a whole one as it is."""
    asked, clauses = _Asked(asker), {clause.path: clause for clause in question.query.clauses()}
    together = [clauses[path] for path in fix.clause.split(" + ")]
    if fix.objective is None:
        *_, (found, _) = _repair(question, [] if fix.how == "least sum" else together, asked)
        return fix if found is None else found.fix
    return fix if fix.without is not None else [fix, *_beyond(question, together, fix, asked)][-1]


def completed(saved: TrainPlan, question: Question, asker: Asker) -> TrainPlan:
    """An infeasible plan with all that was not looked at of its repairs."""
    fixes = tuple(sought(question, fix, asker) for fix in saved.fixes)
    still = tuple(text for text in saved.not_looked_at if text in (*plan.CLASH, *plan.REST, *plan.OTHERS, *_MEMORY))
    return saved.model_copy(update={"fixes": fixes, "not_looked_at": still})


def _has_size(path: str) -> bool:
    return path in _LIMITS or path.startswith(("supply.quota", "supply.accelerators")) or path == "workload.tokens"


def _beyond(question: Question, together: list[Clause], fix: plan.Fix, asked: _Asked) -> Iterator[plan.Fix]:
    """A repair with what lies beyond its least moves (`plan.Fix`), first the best job without the clauses; nothing where none of
    them has a size, for a demand, and for the objective's own limit alone.

    Both are optima over the grid of counts, as the best job of every question is. A further move has a limit that is no limit on
    the objective, and that is the only clause with a size.
    """
    query, asker = question.query, asked.asker
    own, _ = CLAUSES.get(query.minimize, ("", ""))
    sized = [clause for clause in together if _has_size(clause.path)]
    demand = any(clause.path == "workload.tokens" for clause in together)  # moves on to next to no job
    if fix.objective is None or not sized or demand or fix.clause == own or set(fix.value.split("; ")) == {"dropped"}:
        return
    asker.progress(f"what if {_names(together)} moved further?")
    best = asker.best(without(query, together))
    if best is None:
        return
    fix, near = (
        fix.model_copy(update={"without": in_units(query, best.objective)}),
        math.floor(best.objective * (1 + distance.DEARER)),
    )
    yield fix
    limit = sized[0]
    if len(sized) > 1 or not own or limit.path not in _LIMITS or limit.path == own:
        return
    if fix.objective is None or fix.objective <= (in_units(query, near) or 0):
        return
    resource, near = _LIMITS[limit.path], limit_for(question, query.minimize, near)
    if query_has(query, own):
        near = min(near, limit_for(question, query.minimize, bounds_of(question)[query.minimize]))
    others = [clause for clause in together if clause is not limit]
    bound = asker.question(bounded(without(query, together), query.minimize, near))
    least = asker.market(minimising(bound, resource)).best
    if least is None:
        return
    move = _limit_moved(question, without(query, others), limit.path, limit_for(bound, resource, least.totals[resource]))
    then = asker.best(move.query)
    value = "; ".join(move.value if clause is limit else "dropped" for clause in together)
    objective = None if then is None else in_units(query, then.objective)
    yield fix.model_copy(update={"further": value, "further_objective": objective})


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
    """A limit, or the deadline, moved to a number of the program's integers, as it is written (`_stated`)."""
    resource = _LIMITS[path]
    needed = limit_of(query, resource, least)
    stated = _stated(query, resource, least)
    value: object
    if resource == "time":
        days = float(stated.m_as("day"))
        value = f"{days:.10g} day"
        if isinstance(query.deadline, str):
            value = (question.start + timedelta(days=round(days))).isoformat()
    elif resource == "chips":
        value = least
    else:
        value = f"{float(stated.m_as(_WRITTEN[resource])):.12g} {_WRITTEN[resource]}"
    return Move(_moved(query, path, value), str(value), _relative(_limit_now(question, resource), needed))


def _limit_now(question: Question, resource: str) -> Quantity | int | None:
    """What the question says of a limit; of a deadline, after the start."""
    return question.deadline if resource == "time" else getattr(question.query.limits, resource)


def _stated(query: TrainQuery, resource: str, bound: Any) -> Quantity:
    """How a number, or an array, of the program's integers is written as a limit: a deadline in steps, a date by a whole day."""
    needed = limit_of(query, resource, bound)
    if resource != "time":
        return needed
    step = Q(1.0, "day") if isinstance(query.deadline, str) else _DEADLINE_STEP
    stated: Quantity = Q(np.ceil(np.asarray(needed.m_as("s")) / step.m_as("s") * (1 - 1e-9)), "") * step
    return stated


def _size(limit: Quantity | int | None, resource: str) -> Any:
    """A limit in units of the program, not rounded."""
    return limit if limit is None or isinstance(limit, int) else (limit / UNITS[resource]).m_as("")


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


# Relative moves are summed in thousand-millionths of what the question says.
_WHOLE = 10**9


def _limits_in(clashes: Collection[list[Clause]]) -> list[list[Clause]]:
    """The task of `_repairs` for the least sum of moves, where several limits are at fault."""
    return [[]] if len({c.path for clash in clashes for c in clash if c.path in _LIMITS}) > 1 else []


# Limits of what an instance takes at any moment or per hour. Which offers of a machine replace others depends on those there are.
_RATED = {"limits.carbon", "limits.power", "limits.water"}


def _least_joint_move(question: Question, asker: Asker) -> tuple[list[Clause], Move | None]:
    """The limits, and the deadline, that move with the least sum of |to - from| / from that together make the question feasible.

    Exact to a thousand-millionth over every whole number of instances, of limits as they are written (`_stated`). A zero counts
    as one unit of the program. None where one of them does it alone, or where others than limits are at fault.
    """
    query = question.query
    limits = [c for c in query.clauses() if c.path in _LIMITS]
    try:
        free = asker.question(without(query, limits))
        families = asker.families_of(asker.question(without(query, [c for c in limits if c.path not in _RATED])))
    except QueryError:
        return [], None
    bounds = {name: bound for name, bound in bounds_of(question).items() if CLAUSES[name][0] in {c.path for c in limits}}
    now = {name: max(_size(_limit_now(question, name), name), 1.0) for name in bounds}

    def excess(totals: dict[str, Any]) -> Any:
        moves = []
        for name, bound in bounds.items():
            used = np.ceil(np.asarray(totals[name], float) * (1 - 1e-9))  # never more than what is searched then takes
            stated = _size(_stated(query, name, limits_for(question, name, used)), name)
            moves.append(np.where(used <= bound, 0.0, np.maximum(stated / now[name] - 1, 0.0)))
        return np.sum(moves, axis=0) * _WHOLE

    found = cheapest_by(free, families, asker.memory(free), excess, asker.over)
    over = [] if found is None else [name for name, bound in bounds.items() if found.totals[name] > bound]
    if found is None or len(over) < 2:
        return [], None
    moved, far = query, 0.0
    values: list[str] = []
    for name in over:
        move = _limit_moved(question, moved, CLAUSES[name][0], limit_for(question, name, found.totals[name]))
        moved, values, far = move.query, [*values, move.value], far + move.far
    return [next(c for c in limits if _LIMITS[c.path] == name) for name in over], Move(moved, "; ".join(values), far)
