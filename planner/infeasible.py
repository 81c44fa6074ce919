"""Why there is no plan: smallest sets of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question. Deletion filtering: take clauses out one by one; a clause whose
removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses the clash when any one
of it is taken out, so it is minimal. Clashes may overlap: a minimal set of clauses that hits every known clash is taken out;
either that repairs the question, or what is left holds a clash more. When every such set repairs, every clash is known
(Reiter 1987, hitting sets of conflicts). Every test is a full re-enumeration and a proof: moving a wall changes which
candidates exist.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from zoo.units import Q, Quantity

from . import distance, in_parallel, plan
from .alone import Alone, Part, alone, counting_everything, most_carried, narrowed, possible, reached, sharing
from .certify import Certificate, certify
from .columns import Memory, learn, tiers
from .lean import Least, giving_way, lean, promising, serves_everybody
from .market import Column, Exact, Market
from .prepare import Prepared, Progress, in_objective_units, objective_units, prepare
from .program import LARGEST_COEFFICIENT, SCALES, dequantise, quantise
from .query import Clause, ServeQuery
from .records import OutOfTime, QueryError, parse_path
from .scalars import Keys
from .space import idle_first_token, tpot_limit

# What a clause becomes when it is taken out of the question; None removes the key.
_EVERYTHING: dict[str, object] = {
    "supply.offers": ["on-demand", "spot", "reserved-1y", "reserved-3y"],
    "supply.chips": "all",
    "supply.mixed": True,
    "regions.allow": ["*"],
    "regions.deny": [],
}
_LIMIT_UNITS = {"cost": "USD/h", "power": "kW", "carbon": "kgCO2e/h", "water": "L/h"}
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
    if not sla.get("tpot"):  # said the same way with and without TTFT: then machines are laid out once
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


# HiGHS is asked for so many seconds first. Where limits leave next to no room it may count through the plans (measured: 21 s, on
# programs of which CP-SAT settles each in 0.1 s); with several populations CP-SAT does, and it takes 0.5 s to load.
_SOON = 1.5
# How many times longer each turn of both is than the one before.
_LONGER = 4.0
# Where an optimum is wanted to a share, and is not next to a limit, HiGHS alone is asked, for so many seconds.
_ENOUGH = 5.0
# By how much of the room between the least that could do and a bound what units carry is understated to find a plan within it.
_UNDERSTATED = 0.75
_NEARLY = 0.01  # to which a further move is found and decided: neither it nor its price need be known to the last digit


@dataclass(slots=True)
class Asker:
    """Asks whether questions have any plan at all, and remembers the answers and what machines can run.

    until: by `time.perf_counter`; whatever has not been answered by then raises OutOfTime.
    """

    memory: Memory = field(default_factory=Memory)
    until: float = math.inf
    answers: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    counts: bool = False  # whether CP-SAT proved what HiGHS did not, so that it is asked first
    unproven: bool = False  # whether the time of a question ended before its proof: it then counts as one without a plan

    @property
    def slow(self) -> bool:
        """Whether an answer takes so long that asking in other processes pays."""
        return self.seconds > 0.02 * len(self.answers)

    def left(self, query: ServeQuery) -> float:
        """The time [s] that a question may take. Raises OutOfTime where there is none."""
        left = self.until - time.perf_counter()
        if left <= 0:
            raise OutOfTime
        return min(left, float(query.solver.time.m_as("s")))

    def proof(self, query: ServeQuery, least: Least | None = None, gap: float = 0.0) -> Certificate:
        """The certified optimum of a question, to a share `gap` of it, begun where the last proof left the curves."""
        return self._proven(lean(query, self.memory, least), gap)

    def _proven(self, prepared: Prepared, gap: float = 0.0) -> Certificate:
        most = reached(prepared)
        part = narrowed(prepared, sum(prepared.market.rates), most)
        return self.certified(part, part.prepared.market, most, gap)

    def certified(self, part: Part, market: Market, most: int | None = None, gap: float = 0.0) -> Certificate:
        """The proof of a market, which may have columns beside the question's own: each unit of those carries a unit of load.

        `most`: an objective that some plan reaches. The solvers take turns that grow, as long as the question allows.
        """
        solver = part.prepared.query.solver
        left, turn = self.left(part.prepared.query), math.inf if solver.engine == "cpsat" else _SOON
        engine = "cpsat" if self.counts or solver.engine == "cpsat" else "highs"
        stopped: Certificate | None = None
        while True:
            found = _certified(part, market, engine, min(left, turn), self.memory.exact, most, gap)
            self.memory.exact = found.exact or self.memory.exact
            left -= found.seconds
            if found.status != "stopped":
                self.counts = engine == "cpsat"
                return found
            if stopped is None or found.objective is not None:
                stopped = found
            if left <= 0:
                self.left(part.prepared.query)
                self.unproven = True
                return stopped
            part = replace(part, begin=found.exact)
            turn *= _LONGER if engine == "cpsat" else 1.0
            engine = "highs" if engine == "cpsat" else "cpsat"

    def within(self, query: ServeQuery, resource: str) -> bool:
        """Whether a question has a plan within its limit of what it minimises, decided to `_NEARLY` of that.

        Where fleets of one kind do not tell, a solver is asked for the optimum, without that limit, which would leave next to no
        room: it would count plans. First with what units carry understated, so that the first plan it finds likely is one.
        """
        prepared = lean(query, self.memory)
        told = possible(prepared)
        if told is not None:
            return told
        most, total = _bound(prepared.market, resource), sum(prepared.market.rates)
        part = narrowed(prepared, total, most)
        market = part.prepared.market
        free = replace(market, limits=tuple(one for one in market.limits if one.clause != f"limits.{resource}"))
        seconds = min(self.left(query), _ENOUGH)
        each = zip(free.columns, free.objective, strict=True)
        ideal = min((goal * total / part.tops[column.name] for column, goal in each), default=math.inf)
        if ideal < most:
            under = 1 - _UNDERSTATED * (1 - ideal / most)
            less = replace(part, tops={name: math.floor(top * under) for name, top in part.tops.items()}, begin={})
            guess = _certified(less, free, "highs", seconds, {}, most, gap=1.0)
            if guess.objective is not None and guess.objective <= most:
                return True
        found = _certified(part, free, "highs", seconds, self.memory.exact, most, gap=_NEARLY)
        self.memory.exact = found.exact or self.memory.exact
        within = found.objective is not None and found.objective <= most
        self.unproven |= not within and found.status == "stopped"
        return within

    def feasible(self, query: ServeQuery) -> bool:
        """Whether any plan exists: where anything is limited, a solver says so, which stops at its first plan."""
        digest = query.digest()
        if digest not in self.answers:
            self.left(query)
            started = time.perf_counter()
            try:
                self.answers[digest] = self._answer(query)
            except QueryError:
                self.answers[digest] = False
            self.seconds += time.perf_counter() - started
        return self.answers[digest]

    def _answer(self, query: ServeQuery) -> bool:
        if query.supply.mixed and not query.supply.quota and all(bound is None for _, bound in query.limits):
            return serves_everybody(query, self.memory)
        limit = tpot_limit(query)
        tpot = None if limit is None else limit.m_as("s")
        if not any(key[0] == tpot for key in self.memory.runs) and possible(promising(query, self.memory)):
            return True
        # nothing is to be minimised, but towards a plan that takes little of what is limited a solver finds one sooner, or that
        # there is none (measured with three populations and a limit: half of the time)
        limited = next((resource for resource, bound in query.limits if bound is not None), None)
        prepared = lean(query, self.memory, Least(limited))
        found = possible(prepared)
        return self._proven(prepared, gap=1.0).objective is not None if found is None else found


def best_purchases(query: ServeQuery, memory: Memory) -> tuple[Prepared, Certificate]:
    """The certified best purchases of a question, with the part of its market that they are chosen from: all that is in a plan as
    good as theirs."""
    prepared = prepare(query, memory=memory)
    most = reached(prepared)
    part = narrowed(prepared, sum(prepared.market.rates), most)
    engine = "cpsat" if query.solver.engine == "cpsat" else "highs"
    seconds = float(query.solver.time.m_as("s"))
    return part.prepared, _certified(part, part.prepared.market, engine, seconds, memory.exact, most, tie_break=True)


def _bound(market: Market, resource: str) -> int:
    return next(limit.bound for limit in market.limits if limit.clause == f"limits.{resource}")


def _certified(
    part: Part,
    market: Market,
    engine: str,
    seconds: float,
    begin: Exact,
    most: int | None,
    gap: float = 0.0,
    tie_break: bool = False,
) -> Certificate:
    """See `certify`; columns beside the question's own carry a unit of load a unit. `begin`: where a part says nothing."""
    curves, own = part.prepared.choices.curves, len(part.prepared.market.columns)

    def slope(j: int) -> int:
        column = market.columns[j]
        return 1 if j >= own else min(curves[column.curve].slope, part.tops.get(column.name, LARGEST_COEFFICIENT))

    return certify(
        market,
        lambda j, units: units if j >= own else curves[market.columns[j].curve].best(units)[0],
        slope,
        engine,
        gap,
        seconds,
        tie_break=tie_break,
        begin=part.begin or begin,
        most=most,
        learn=lambda asked: learn((curves[market.columns[j].curve], [units]) for j, units in asked if j < own),
    )


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why there is no plan.

    `conflict` is the smallest clash found, `further` the others; `complete`: there are no more. `innocent` clauses are
    in none of them and in no repair; `nearest` is the best plan of the question repaired by the smallest move (`distance`), `by`
    that repair, whose value it has or, where that is many times cheaper (`_DEAR`), the further one;
    `stuck`: paths of clauses in clashes that no change of theirs alone repairs;
    `freed` are the best plans when all clauses of a joint repair are dropped, with those clauses; `proven`: every question
    that was asked on the way has its proof; `left`: what was not looked at because the time was over.
    """

    conflict: tuple[plan.Conflict, ...] = ()
    further: tuple[tuple[plan.Conflict, ...], ...] = ()
    complete: bool = True
    fixes: tuple[plan.Fix, ...] = ()
    innocent: tuple[plan.Conflict, ...] = ()
    nearest: plan.Plan | None = None
    by: plan.Fix | None = None
    freed: tuple[tuple[tuple[Clause, ...], plan.Plan], ...] = ()
    stuck: tuple[str, ...] = ()
    proven: bool = True
    left: tuple[str, ...] = ()


Best = Callable[[ServeQuery], plan.Plan]


def why_infeasible(
    prepared: Prepared,
    progress: Progress = lambda _: None,
    memory: Memory | None = None,
    kept: Collection[str] = (),
    best: Best | None = None,
) -> Explanation:
    """The clashes and the repairs of an infeasible question, or as much of them as was found in its `solver.time`. An empty
    clash: no clause is to blame, physics is.

    `kept`: paths of clauses that may be to blame, but that no repair moves. `best` plan of a question, where plans are wanted.
    """
    query, started = prepared.query, time.perf_counter()
    seconds, clauses = float(query.solver.time.m_as("s")), relaxable(query)
    asker = Asker(memory or Memory(), started + _FOR_CLASHES * seconds)
    subsets = _Subsets(query, clauses, asker)
    clashes, corrections, complete, left = _clashes(subsets, progress)
    asker.until = started + seconds
    if not clashes:
        return Explanation()
    together = [[clauses[i] for i in sorted(one)] for one in sorted(corrections, key=_smallest_first)]
    alone = [one[0] for one in together if len(one) == 1]
    # a user has to decide on limits before giving demand up
    joint = sorted((one for one in together if len(one) > 1), key=lambda one: sum(c.path.endswith("rate") for c in one))[
        :_MOST_JOINT
    ]
    # moving several latencies takes tens of questions: where something repairs alone that is left to whoever asks for it
    later = [one for one in joint if alone and any(clause.path.startswith("sla.t") for clause in one)]
    tasks = [*([clause] for clause in alone), *(one for one in joint if one not in later)]
    mine = [task for task in tasks if not any(clause.path in kept for clause in task)]
    repairs, unknown = _repairs(query, mine, asker, progress, best)
    near = min((r for r in repairs if r.fix.objective is not None), key=lambda r: _distance(query, r), default=None)
    freed = [
        one for one in joint
        if not alone and sum(_has_size(c.path) for c in one) > 1 and not any(c.path.endswith("rate") for c in one)
    ]  # fmt: skip
    wanted = [without(query, one) for one in freed] + ([near.question] if near is not None and near.further is None else [])
    plans = _each(asker, [partial(best, question) for question in wanted]) if best is not None else []
    cores = [[clauses[i] for i in sorted(clash)] for clash in sorted(clashes, key=_smallest_first)]
    stuck = [i for i in sorted(frozenset().union(*clashes)) if subsets.known(subsets.without(i)) is False]
    blamed = {c.path for core in cores for c in core} | {path for r in repairs for path in r.fix.clause.split(" + ")}
    first, *rest = (tuple(_blamed(c) for c in core) for core in cores)
    return Explanation(
        first,
        tuple(rest),
        complete,
        (*(r.fix for r in repairs), *map(not_sought, later)),
        tuple(_blamed(c) for c in clauses if c.path not in blamed),
        None if near is None or best is None else near.further or plans[-1],
        None if near is None else near.fix,
        tuple((tuple(one), each) for one, each in zip(freed, plans, strict=False)),
        tuple(clauses[i].path for i in stuck),
        not asker.unproven,
        (*left, *unknown),
    )


# So much of the time may go to the clashes; the rest is for the repairs.
_FOR_CLASHES = 0.6
# The search for more clashes ends after so many questions (a count, not a time: the answer is the same on every machine), or
# when so many sets would have to be tried. Of joint repairs at most so many are shown.
_MOST_ASKED, _MOST_SETS, _MOST_JOINT = 60, 2000, 3

Subset = frozenset[int]  # positions in the list of clauses


@dataclass(slots=True)
class _Subsets:
    """Which sets of clauses hold together. What follows is not asked: part of what holds holds, more of what clashes clashes."""

    query: ServeQuery
    clauses: list[Clause]
    asker: Asker
    holding: list[Subset] = field(default_factory=list)
    clashing: list[Subset] = field(default_factory=list)
    asked: int = 0

    @property
    def everything(self) -> Subset:
        return frozenset(range(len(self.clauses)))

    def without(self, clause: int) -> Subset:
        return self.everything - {clause}

    def known(self, kept: Subset) -> bool | None:
        """What `hold` says, where that follows from what was asked."""
        if any(kept <= one for one in self.holding):
            return True
        return False if any(one <= kept for one in self.clashing) else None

    def hold(self, kept: Subset) -> bool:
        """Whether there is a plan when only these clauses are kept."""
        known = self.known(kept)
        if known is not None:
            return known
        self.asked += 1
        holds = self.asker.feasible(without(self.query, [c for i, c in enumerate(self.clauses) if i not in kept]))
        (self.holding if holds else self.clashing).append(kept)
        return holds

    def shrink(self, kept: Subset, progress: Progress) -> Subset:
        """A minimal clash within a set that clashes; empty where even without any clause there is no plan."""
        for i in sorted(kept):
            progress(f"is {self.clauses[i].path} to blame?")
            if not self.hold(kept - {i}):
                kept -= {i}
        return kept


def _smallest_first(one: Subset) -> tuple[int, list[int]]:
    return len(one), sorted(one)


def _clashes(subsets: _Subsets, progress: Progress) -> tuple[list[Subset], list[Subset], bool, tuple[str, ...]]:
    """(minimal clashes, minimal sets whose removal repairs the question, whether these are all, what the time did not allow).

    The question as a whole clashes. Whether the removal of one clause alone repairs is known for every clause, and there is
    always a set that repairs; only then is the search cut short, unless the time is over: then the only clash may not be minimal.
    """
    subsets.clashing.append(subsets.everything)
    try:
        clashes, corrections = [subsets.shrink(subsets.everything, progress)], list[Subset]()
    except OutOfTime:
        return [min(subsets.clashing, key=len)], [], False, (*plan.CLASH, *plan.REST)
    if not clashes[0]:
        return [], [], True, ()
    hitting = _hit([frozenset()], clashes[0])
    try:
        while True:
            one = min((hit for hit in hitting if hit not in corrections), key=_smallest_first, default=None)
            if one is None:
                return clashes, corrections, True, ()
            if corrections and len(one) > 1 and (subsets.asked >= _MOST_ASKED or len(hitting) > _MOST_SETS):
                return clashes, corrections, False, ()
            progress(f"would {' and '.join(subsets.clauses[i].path for i in sorted(one))} do?")
            rest = subsets.everything - one
            if subsets.hold(rest):
                corrections.append(one)
            else:
                clashes.append(subsets.shrink(rest, progress))
                hitting = _hit(hitting, clashes[-1])
    except OutOfTime:
        alone = all(subsets.known(subsets.without(i)) is not None for i in clashes[0])
        return clashes, corrections, False, plan.OTHERS if alone and corrections else (*plan.REST, *plan.OTHERS)


def _hit(sets: list[Subset], clash: Subset) -> list[Subset]:
    """The minimal sets that contain one of `sets` and a clause of the clash."""
    kept: list[Subset] = []
    grown = {larger for one in sets for larger in ([one] if one & clash else [one | {i} for i in clash])}
    for one in sorted(grown, key=_smallest_first):
        if not any(smaller <= one for smaller in kept):
            kept.append(one)
    return kept


def _blamed(clause: Clause) -> plan.Conflict:
    return plan.Conflict(clause=clause.path, text=clause.text, file=clause.file, line=clause.line, walls=_walls_of(clause))


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair, and the question with its least moves made; `further`: the best plan of the further move, where nobody would take
    the least."""

    fix: plan.Fix
    question: ServeQuery
    further: plan.Plan | None = None


def _distance(query: ServeQuery, repair: Repair) -> tuple[float, float]:
    """(how far the least moves of a repair move the question, its objective)."""
    moves = 0.0
    for path in repair.fix.clause.split(" + "):
        if not _has_size(path):
            moves += distance.GIVEN_UP
            continue
        keys = parse_path(path)
        try:
            moves += distance.between(_size(_value(query, keys)), _size(_value(repair.question, keys)))
        except (LookupError, TypeError, AttributeError, ValueError):  # dropped: no finite value repairs it
            moves = math.inf
    return moves, repair.fix.objective or 0.0


def _size(value: Any) -> float:
    """A clause's value as a number; a quota's is its count."""
    if hasattr(value, "instances"):
        value = value.chips if value.chips is not None else value.instances
    return float(value.to_base_units().magnitude) if isinstance(value, Quantity) else float(value)


def _repairs(
    query: ServeQuery, tasks: list[list[Clause]], asker: Asker, progress: Progress, best: Best | None
) -> tuple[list[Repair], tuple[str, ...]]:
    """For each set of clauses whose removal is enough: its least moves, what the best plan then costs, and what lies beyond; then
    the joint moves with the least sum, and with that of limits and quotas alone; and what of all that the time did not allow."""

    def repair(together: list[Clause]) -> tuple[Repair | None, tuple[str, ...]]:
        found, names = None, " and ".join(clause.text for clause in together)
        try:
            found = _joint_fix(query, together, asker, progress)
            return None if found is None else _beyond(query, together, found, asker, progress, best), ()
        except OutOfTime:
            if found is None:
                return Repair(not_sought(together), query), ()  # which says it
            return found, (f"what {names} moved further allows",)

    def least(how: Literal["least sum", "demand kept"]) -> tuple[Repair | None, tuple[str, ...]]:
        try:
            return _least_joint_move(query, asker, how), ()
        except OutOfTime:
            return None, ("the least joint move" + (" with the demand kept" if how == "demand kept" else ""),)

    # those that have something beyond take longest
    order = sorted(
        range(len(tasks)), key=lambda at: not any(_has_size(c.path) and not c.path.endswith("rate") for c in tasks[at])
    )
    sums = [partial(least, "least sum"), partial(least, "demand kept")] if tasks else []
    answers = _each(asker, [*(partial(repair, tasks[at]) for at in order), *sums])
    own = [one for _, (one, _) in sorted(zip(order, answers[: len(order)], strict=True), key=lambda each: each[0])]
    found = {_paths(one): one for one in own if one is not None}
    for one, _ in reversed(answers[len(order) :]):  # of the same clauses a least sum tells more, that of all moves most
        if one is not None:
            found[_paths(one)] = one
    return list(found.values()), tuple(text for _, texts in answers for text in texts)


def _paths(repair: Repair) -> frozenset[str]:
    return frozenset(repair.fix.clause.split(" + "))


def _each(asker: Asker, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each job returns; in processes of their own where that pays. Theirs have askers of their own."""

    def run(job: Callable[[], Any]) -> tuple[Any, bool]:
        return job(), asker.unproven

    found = in_parallel.each(run, jobs) if asker.slow else [run(job) for job in jobs]
    asker.unproven |= any(unproven for _, unproven in found)
    return [one for one, _ in found]


def _has_size(path: str) -> bool:
    return path.startswith(("sla.ttft", "sla.tpot", "limits.", "supply.quota")) or path.endswith("rate")


# Relative moves are summed in thousand-millionths of what the question says.
_WHOLE = 10**9


def _least_joint_move(query: ServeQuery, asker: Asker, how: Literal["least sum", "demand kept"]) -> Repair | None:
    """The moves of demand, limits and quotas (`how`: with the demand kept, of the others alone) with the least sum of relative
    moves that together make the question feasible.

    One optimisation: what cannot be served, and what is taken beyond a limit, is bought at its share of what was asked.
    None where a single clause does it, where none of them is at fault, for fleets that may not mix, and where a population
    would be served no more.
    """
    prepared = giving_way(query, asker.memory)
    market = prepared.market
    if not market.columns or not market.mixed:
        return None
    nothing = dict.fromkeys(market.columns[0].amounts, 0)
    slack: list[tuple[str, tuple[int, ...], dict[str, int], int]] = []
    rates = [] if how == "demand kept" else list(enumerate(zip(market.populations, market.rates, strict=True)))
    for k, (name, rate) in rates:
        slack.append((f"not served {name}", (k,), nothing, rate))
    for limit in market.limits:
        slack.append((f"beyond {limit.name}", (), {**nothing, limit.resource: -1}, limit.bound))
    part = _all_carried(prepared) if how == "demand kept" else _within_joint_moves(prepared)
    market = part.prepared.market
    if not market.columns:  # no less than to serve nobody
        return None
    first = len(market.columns)
    extra = [Column(name, market.columns[0].offer, -1, k, 1, amounts, "nothing") for name, k, amounts, _ in slack]
    certificate = asker.certified(
        part,
        replace(
            market,
            columns=(*market.columns, *extra),
            objective=(*(0 for _ in market.columns), *(-(-_WHOLE // max(asked, 1)) for *_, asked in slack)),
            limits=tuple(
                replace(limit, columns=frozenset(range(first) if limit.columns is None else limit.columns) | {at})
                for at, limit in enumerate(market.limits, first + len(rates))
            ),
        ),
    )
    if certificate.status != "optimal":
        return None
    bought = {p.column - first: p.units for p in certificate.purchases if p.column >= first}
    if len(bought) < 2:
        return None
    moved, clauses, values = query, [], []
    words: object
    for position, units in sorted(bought.items()):
        if position < len(rates):
            if units == market.rates[position]:
                return None
            path = "workload.rate" if query.workload.rate is not None else f"workload.populations[{position}].rate"
            at, words = path, f"{(market.rates[position] - units) / 1000:.10g}/s"
        else:
            limit = market.limits[position - len(rates)]
            path, (at, words) = limit.clause, _bounded(limit.clause, limit.resource, limit.bound + units)
        moved = moved.set(at, words)
        clauses.append(next(c for c in query.clauses() if c.path == path))
        values.append(f"{words} {at.rpartition('.')[2]}" if path.startswith("supply.quota") else str(words))
    move = Move(moved, "; ".join(values))
    return Repair(_fix(query, move, clauses, asker, how), moved)


def _all_carried(prepared: Prepared) -> Part:
    """What is left of a market within the least sum of moves that keep the demand: no more than what a fleet of one kind that
    carries all of it takes of every limit together, as shares of them, so every limit may be so much wider."""
    market = prepared.market
    if not counting_everything(market):
        return Part(prepared, {}, {})
    shares = [
        sum(column.amounts[limit.resource] / max(limit.bound, 1) for limit in market.limits
            if limit.columns is None or j in limit.columns)
        for j, column in enumerate(market.columns)
    ]  # fmt: skip
    objective = tuple(max(1, math.ceil(share * _WHOLE)) for share in shares)
    taken = reached(replace(prepared, market=replace(market, limits=(), objective=objective)))
    if taken is None:
        return Part(prepared, {}, {})
    wider = tuple(replace(one, bound=one.bound + math.ceil(taken / _WHOLE * max(one.bound, 1))) for one in market.limits)
    return narrowed(replace(prepared, market=replace(market, limits=wider)), sum(market.rates))


def _within_joint_moves(prepared: Prepared) -> Part:
    """What is left of a market within the least sum of moves: what a fleet of one kind leaves unserved is such a move, and so
    much less is carried at least, of so much more of every limit."""
    market = prepared.market
    if len(market.rates) > 1 or not counting_everything(market):
        return Part(prepared, {}, {})
    (rate,) = market.rates
    served = min(most_carried(prepared), rate)
    wider = tuple(replace(one, bound=one.bound + math.ceil((1 - served / rate) * max(one.bound, 1))) for one in market.limits)
    return narrowed(replace(prepared, market=replace(market, limits=wider)), served)


def _bounded(clause: str, resource: str, bound: int) -> tuple[str, object]:
    """(path, value) that give a limit or a quota this bound, which is in the program's units."""
    if clause.startswith("supply.quota"):
        return f"{clause}.{resource}", bound
    if resource == "chips":
        return clause, bound
    unit = _LIMIT_UNITS[resource]
    return clause, f"{float(dequantise(bound, resource).m_as(unit)):.10g} {unit}"


def _joint_fix(query: ServeQuery, together: list[Clause], asker: Asker, progress: Progress) -> Repair | None:
    """The repair that moves all these clauses: each as little as the others, fully relaxed, allow; then the next, given the
    moves so far."""
    values: list[str] = []
    moved, optimum = query, None
    for position, clause in enumerate(together):
        progress(f"how far must {clause.path} move?")
        move = _least_move(moved, clause, asker, together[position + 1 :])
        if move is None:
            return None
        moved, values, optimum = move.query, [*values, move.value], move.optimum
    last = Move(moved, "; ".join(values), optimum if len(together) == 1 else None)
    return Repair(_fix(query, last, together, asker, "in turn" if len(together) > 1 else "alone"), moved)


def not_sought(together: list[Clause]) -> plan.Fix:
    """That these clauses repair together; how little of each is enough has not been looked for."""
    names = " + ".join(c.path for c in together)
    values = "; ".join("?" for _ in together)
    return plan.Fix(clause=names, change="; ".join(c.text for c in together), value=values, how="not sought")


def sought(query: ServeQuery, fix: plan.Fix, memory: Memory, progress: Progress = lambda _: None) -> plan.Fix:
    """The least moves of a repair of which they were not sought, and the best plan then; any other as it is."""
    if fix.how != "not sought":
        return fix
    clauses = {clause.path: clause for clause in relaxable(query)}
    found = _joint_fix(query, [clauses[path] for path in fix.clause.split(" + ")], Asker(memory), progress)
    return fix if found is None else found.fix


# How many times dearer than its further move a least move is that nobody would take.
_DEAR = 3.0


def _beyond(
    query: ServeQuery, together: list[Clause], repair: Repair, asker: Asker, progress: Progress, best: Best | None
) -> Repair:
    """A repair with what lies beyond its least move, and the `best` plan then where the least move is many times dearer.

    As it is where none or several of its clauses have a size.

    The further move is the least of the question that also bounds its objective; of a latency it is found to `_NEARLY` of its
    value, and decided to as much of the objective (`Asker.within`); what the best plan then costs is as near. A demand moves on
    to no plan at all, and the objective's own limit no further.
    """
    fix = repair.fix
    sized = [clause for clause in together if _has_size(clause.path)]
    if len(sized) != 1 or sized[0].path.endswith("rate") or fix.objective is None or set(fix.value.split("; ")) == {"dropped"}:
        return repair
    progress(f"what if {fix.clause} moved further?")
    resource, others = query.minimize, [clause for clause in together if clause is not sized[0]]
    least = asker.proof(without(query, together)).objective
    if least is None:
        return repair
    found, near = fix.model_copy(update={"without": in_objective_units(query, least)}), math.floor(least * (1 + distance.DEARER))
    if resource not in SCALES or sized[0].path == f"limits.{resource}" or fix.objective <= (in_objective_units(query, near) or 0):
        return replace(repair, fix=found)
    own = getattr(query.limits, resource)
    bound = near if own is None else min(near, quantise(own, resource, "down"))
    bounded = without(query, others).set(*_bounded(f"limits.{resource}", resource, bound))
    move = _least_move(bounded, sized[0], asker, [], lambda moved: asker.within(moved, resource), _NEARLY)
    if move is None or move.value == "dropped":
        return replace(repair, fix=found)
    value = "; ".join(move.value if clause is sized[0] else "dropped" for clause in together)
    shown = None
    if best is not None and fix.objective > _DEAR * (in_objective_units(query, near) or math.inf):
        shown = best(move.query.set(f"limits.{resource}", own))
        then = shown.objective
    else:
        then = in_objective_units(query, asker.proof(move.query, gap=_NEARLY).objective)
    return replace(repair, fix=found.model_copy(update={"further": value, "further_objective": then}), further=shown)


@dataclass(frozen=True, slots=True)
class Move:
    """A question with one clause moved, and the clause's new value in words; its optimum, where that is the value itself."""

    query: ServeQuery
    value: str
    optimum: int | None = None


def _fix(
    query: ServeQuery,
    move: Move,
    clauses: list[Clause],
    asker: Asker,
    how: Literal["alone", "least sum", "demand kept", "in turn"],
) -> plan.Fix:
    """A repair of a question with the best plan that it allows."""
    optimum = move.optimum or asker.proof(move.query).objective
    objective, unit = in_objective_units(move.query, optimum), objective_units(move.query)[1]
    clause, change = " + ".join(c.path for c in clauses), "; ".join(c.text for c in clauses)
    left = distance.demand_left((old.rate, new.rate) for old, new in zip(query.populations, move.query.populations, strict=True))
    return plan.Fix(clause=clause, change=change, value=move.value, objective=objective, unit=unit, how=how, demand_left=left)


def _least_move(
    query: ServeQuery,
    clause: Clause,
    asker: Asker,
    relaxed: list[Clause],
    enough: Callable[[ServeQuery], bool] | None = None,
    close: float = 0.0,
) -> Move | None:
    """The least move of one clause that makes the question feasible while `relaxed` are taken out; None when none does.

    `enough` tells the same of a question as that it is feasible, where that is dear to ask.
    Exact: one step less (`_step`) is still infeasible; of a latency, a share `close` less where that is more than a step. What
    has no size (a list of chips, of regions) is dropped whole, and so is a latency that no finite move repairs (a pool at
    saturation has no finite TTFT).
    """
    if clause.path.startswith("limits."):
        return _least_limit(query, clause, asker, relaxed)
    value = _value(query, parse_path(clause.path))
    if clause.path.startswith("supply.quota"):
        return _least_count(query, clause, asker, relaxed)

    dropped, repaired = without(query, [clause]), enough or asker.feasible
    if not repaired(without(dropped, relaxed)):
        return None
    if not _has_size(clause.path):
        return Move(dropped, "dropped")
    if clause.path.endswith("rate"):
        return _most_demand(query, clause, asker, relaxed) or Move(dropped, "dropped")
    size, unit = _step(value), Q(1.0, "ms")
    at = round((value / unit).m_as("dimensionless") / size)

    def moved(steps: int) -> ServeQuery:
        return query.set(clause.path, _text(steps * size, unit))

    def holds(steps: int) -> bool:
        return repaired(without(moved(steps), relaxed))

    floor, kept = _likely(lean(without(dropped, relaxed), asker.memory), clause)
    found = _least(holds, at, floor / size, None if kept is None else kept / size, close)
    return Move(dropped, "dropped") if found is None else Move(moved(found), _text(found * size, unit))


def _step(value: Quantity) -> float:
    """The step [ms] in which a latency is moved: 1 ms, or 0.1 ms below 10 ms."""
    return 1.0 if value.m_as("ms") >= 10 else 0.1


def _likely(prepared: Prepared, clause: Clause) -> tuple[float, float | None]:
    """Latencies [ms] below which a clause cannot be met, whatever else gives way, and from which on fleets of one kind meet it.

    `prepared` is the question without the clause. They only tell where to look: batches between those tried are not looked at.
    None: no fleet of one kind does.
    """
    pools = alone(prepared)
    shares = [sharing(prepared, limit) for limit in counting_everything(prepared.market)]
    bounds = [_idle(prepared, clause), *(_kept(prepared, clause, each) for each in shares)]
    return max(bound for bound in bounds if bound is not None), _kept(prepared, clause, pools)


def _idle(prepared: Prepared, clause: Clause) -> float:
    """The latency [ms] of an idle replica without a network, the least of all."""
    times = [curve.runs.stations for curve in prepared.choices.curves if len(curve.usable)]
    if not times:
        return 0.0
    if clause.path.startswith("sla.tpot"):
        return 1000 * min(float(t.tpot_s.min()) for t in times)
    return 1000 * min(float(idle_first_token(t.delay_s, t.prefill_s, _percentile(clause)).min()) for t in times)


def _kept(prepared: Prepared, clause: Clause, pools: Alone | None) -> float | None:
    """The least latency [ms] of a clause that one of these pools keeps beside its other targets; None where none does."""
    if pools is None:
        return None
    pools = pools.at(np.flatnonzero(pools.in_time(prepared)))
    if clause.path.startswith("sla.tpot"):
        kept = pools.stations.tpot_s
    else:
        network = np.array([_network(prepared, column) for column in prepared.market.columns])
        kept = pools.first_token(prepared, _percentile(clause)) + network[pools.column]
    return 1000 * float(kept.min()) if len(kept) and np.isfinite(kept.min()) else None


def _percentile(clause: Clause) -> float:
    return float(clause.path.split(".", 2)[2][1:]) / 100


def _network(prepared: Prepared, column: Column) -> float:
    """The round trip [s] to the farthest users of a column."""
    near = tiers(prepared.query, prepared.catalog, prepared.catalog.regions[column.offer.region])
    return next(float(trip.m_as("s")) for populations, trip in near if populations == column.populations)


def _most_demand(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The largest rate of a population that can be served, to the program's unit; one optimisation.

    What cannot be served goes to a column of its own, which needs nothing and of which as little as possible is bought.
    """
    prepared = giving_way(without(query, relaxed), asker.memory)
    market = prepared.market
    keys = parse_path(clause.path)
    k = keys[2] if len(keys) > 2 else 0
    if not market.columns or not isinstance(k, int):
        return None
    if not market.mixed:  # a fleet that may not mix has no room for that column

        def kept(load: int) -> ServeQuery:
            return without(query.set(clause.path, f"{load / 1000:.10g}/s"), relaxed)

        load = _most(lambda load: asker.feasible(kept(load)), market.rates[k])
        text = None if load is None else f"{load / 1000:.10g}/s"
        return None if text is None else Move(query.set(clause.path, text), text)
    # what the others ask for, and as much of this as a fleet of one kind serves beside it, some plan carries
    others = sum(market.rates) - market.rates[k]
    part = narrowed(prepared, min(max(most_carried(prepared), others), sum(market.rates)))
    market = part.prepared.market
    if not market.columns:
        return None
    nowhere = Column("not served", market.columns[0].offer, -1, (k,), 1, dict.fromkeys(market.columns[0].amounts, 0), "nothing")
    zero = (0,) * len(market.columns)
    giving = replace(market, columns=(*market.columns, nowhere), objective=(*zero, 1))
    certificate = asker.certified(part, giving)
    if certificate.status != "optimal" or certificate.objective is None or certificate.objective >= market.rates[k]:
        return None
    served = f"{(market.rates[k] - certificate.objective) / 1000:.10g}/s"
    return Move(query.set(clause.path, served), served)


def _text(size: float, unit: Quantity) -> str:
    name = "/s" if unit.is_compatible_with("1/s") else " ms"
    return f"{size:.10g}{name}"


def _most(holds: Callable[[int], bool], start: int) -> int | None:
    """The largest whole number below `start` at which `holds` is true, as it is for all below; None: not even at 1."""
    bad, stride = start, 1
    while not holds(good := max(bad - stride, 1)):
        if good == 1:
            return None
        bad, stride = good, stride * 4
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def _least(holds: Callable[[int], bool], bad: int, low: float, high: float | None, close: float) -> int | None:
    """The least whole number above `bad` at which `holds` is true, and a share `close` below which it is not, where that is
    more than one. None when it does not hold even far away (at 4,096 times as much).

    `low` and `high`: where it likely does not hold yet, mostly but for a little, and where it likely does. They only save
    questions.
    """

    def step(n: int) -> int:
        return max(1, math.floor(n * close))

    good = None
    at = math.ceil(low * (1 - 1e-9)) - 1
    if at > bad:
        good, bad = (at, bad) if holds(at) else (None, at)
    first, stride = max(bad, 1), step(bad)
    while good is None:
        at = bad + stride
        if high is not None and bad < high:
            at = min(at, max(math.ceil(high * (1 - 1e-9)), bad + 1))
        if holds(at):
            good = at
        elif at > 4096 * first:
            return None
        else:
            bad, stride = at, 4 * stride
    while good - bad > step(good):
        at = math.isqrt(good * bad) if good > 2 * bad > 0 else (good + bad) // 2
        good, bad = (at, bad) if holds(at) else (good, at)
    return good


def _least_limit(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The least bound of a limit that leaves a plan: the least of its resource under every other clause, one optimisation."""
    resource = clause.path.removeprefix("limits.")
    least = asker.proof(without(query, [clause, *relaxed]), Least(resource)).objective
    if least is None:
        return None
    path, value = _bounded(clause.path, resource, least)
    return Move(query.set(path, value), str(value), least if resource == query.minimize and not relaxed else None)


def _least_count(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The least quota that leaves a plan: the fewest of what it counts under every other clause, one optimisation."""
    position = parse_path(clause.path)[-1]
    assert isinstance(position, int)
    quota = query.supply.quota[position]
    resource = "chips" if quota.chips is not None else "instances"
    least = asker.proof(without(query, [clause, *relaxed]), Least(resource, quota)).objective
    if least is None:
        return None
    return Move(query.set(f"{clause.path}.{resource}", least), f"{least} {resource}")


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
    if path.endswith("rate") or path == "limits.chips":
        return ("4 serving",)
    return ()


def _value(query: ServeQuery, keys: Keys) -> Any:
    value: Any = query
    key: Any
    for key in keys:
        value = value[key] if isinstance(value, (dict, tuple, list)) else getattr(value, str(key))
    return value
