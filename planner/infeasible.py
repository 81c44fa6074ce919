"""Why there is no plan: smallest sets of clauses that cannot hold together, and what would repair it.

A clause is *relaxed* by taking it out of the question. Deletion filtering: take clauses out one by one; a clause whose
removal leaves the question infeasible is not needed for the clash. What remains clashes, and loses the clash when any one
of it is taken out, so it is minimal. With that clash taken out whole, another may be left: the search goes on until a plan
exists, and a repair has to break every clash. Every test is a full re-enumeration and a proof: moving a wall changes which
candidates exist.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from zoo.catalog import Catalog
from zoo.units import Q, Quantity

from . import in_parallel, plan
from .certify import Certificate, certify
from .columns import Memory, matches
from .market import Column, Market
from .prepare import Prepared, Progress, in_objective_units, objective_units, prepare, prove, serves_everybody
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
    seconds: float = 0.0

    @property
    def slow(self) -> bool:
        """Whether an answer takes so long that asking in other processes pays."""
        return self.seconds > 0.05 * len(self.answers)

    def prepared(self, query: ServeQuery, least: Callable[[Column], int] | None = None) -> Prepared:
        return prepare(query, memory=self.memory, least=least)

    def catalog(self, query: ServeQuery) -> Catalog:
        return self.memory.catalogs[query.folder, query.zoo, query.prices]

    def feasible(self, query: ServeQuery) -> bool:
        """Whether any plan exists: the whole enumeration, and where anything is limited a solver that stops at its first plan."""
        digest = query.digest()
        if digest not in self.answers:
            started = time.perf_counter()
            try:
                self.answers[digest] = self._answer(query)
            except QueryError:
                self.answers[digest] = False
            self.seconds += time.perf_counter() - started
        return self.answers[digest]

    def _answer(self, query: ServeQuery) -> bool:
        if not serves_everybody(query, self.memory):
            return False
        if query.supply.mixed and not query.supply.quota and all(bound is None for _, bound in query.limits):
            return True
        return prove(self.prepared(query, _nothing), tie_break=False).status != "infeasible"


def _nothing(_: Column) -> int:
    """The objective of a question whether there is any plan."""
    return 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why there is no plan.

    `conflict` is the smallest clash, `further` others without a clause in common with it or each other. `innocent` clauses are
    in no clash and no repair; `nearest` is the question repaired by the smallest relative move, and `by` that repair; `freed`
    are the questions in which all that a joint repair changes is given up, with those clauses.
    """

    conflict: tuple[plan.Conflict, ...] = ()
    further: tuple[tuple[plan.Conflict, ...], ...] = ()
    fixes: tuple[plan.Fix, ...] = ()
    innocent: tuple[plan.Conflict, ...] = ()
    nearest: ServeQuery | None = None
    by: plan.Fix | None = None
    freed: tuple[tuple[tuple[Clause, ...], ServeQuery], ...] = ()


def why_infeasible(prepared: Prepared, progress: Progress = lambda _: None, memory: Memory | None = None) -> Explanation:
    """The clashes and the repairs of an infeasible question. An empty clash: no clause is to blame, physics is."""
    query, asker = prepared.query, Asker(memory or Memory())
    clauses = relaxable(query)
    cores = _cores(query, clauses, asker, progress)
    if not cores:
        return Explanation()
    sets: list[list[Clause]] = []
    repairs = _fixes(query, cores[0], asker, progress) if len(cores) == 1 else []
    if not repairs:
        sets = _joint_sets(query, clauses, cores, asker, progress)
        joint = in_parallel.each if asker.slow else lambda function, items: [function(item) for item in items]
        found = joint(lambda together: _joint_fix(query, together, asker, progress), sets)
        repairs = [repair for repair in found if repair is not None]
    nearest = min((r for r in repairs if r[0].objective is not None), key=lambda r: _distance(query, *r), default=None)
    blamed = {c.path for core in cores for c in core} | {path for fix, _ in repairs for path in fix.clause.split(" + ")}
    first, *rest = sorted(([_blamed(c) for c in core] for core in cores), key=len)
    return Explanation(
        tuple(first),
        tuple(map(tuple, rest)),
        tuple(fix for fix, _ in repairs),
        tuple(_blamed(c) for c in clauses if c.path not in blamed),
        None if nearest is None else nearest[1],
        None if nearest is None else nearest[0],
        tuple((tuple(together), without(query, together)) for together in sets),
    )


def _cores(query: ServeQuery, clauses: list[Clause], asker: Asker, progress: Progress) -> list[list[Clause]]:
    """Minimal clashes that have no clause in common, one after the other, until what is left has a plan."""
    cores: list[list[Clause]] = []
    out: list[Clause] = []
    while not cores or not asker.feasible(without(query, out)):
        core = _core(query, clauses, out, asker, progress)
        if not core:
            break
        cores.append(core)
        out = [*out, *core]
    return cores


def _core(query: ServeQuery, clauses: list[Clause], out: list[Clause], asker: Asker, progress: Progress) -> list[Clause]:
    """A minimal clash among the clauses that are not `out` already; empty where even without any clause there is no plan."""
    core = [clause for clause in clauses if clause not in out]
    for clause in list(core):
        progress(f"is {clause.path} to blame?")
        rest = [other for other in core if other is not clause]
        if not asker.feasible(without(query, [c for c in clauses if c not in rest])):
            core = rest
    return core


# Of joint repairs, at most so many are shown, and at most so many sets of clauses tried.
_MOST_JOINT, _MOST_TRIED = 3, 12


def _joint_sets(
    query: ServeQuery, clauses: list[Clause], cores: list[list[Clause]], asker: Asker, progress: Progress
) -> list[list[Clause]]:
    """Smallest sets of clauses that repair the question together: those that hit every clash, the smallest first.

    A set that hits all known clashes and does not repair shows a clash more. Minimal: none contains another that repairs.
    """
    cores, found = list(cores), list[list[Clause]]()
    for _ in range(_MOST_TRIED):
        candidates = [hit for hit in _hitting(cores) if not any(set(map(id, one)) <= set(map(id, hit)) for one in found)]
        if not candidates or len(found) == _MOST_JOINT:
            break
        together = candidates[0]
        progress(f"would {' and '.join(clause.path for clause in together)} do?")
        if asker.feasible(without(query, together)):
            found.append([clause for clause in clauses if clause in together])
        else:
            cores.append(_core(query, clauses, together, asker, progress))
    return found


def _hitting(cores: list[list[Clause]]) -> list[list[Clause]]:
    """The minimal sets with a clause of every core, the smallest first."""
    sets: list[list[Clause]] = [[]]
    for core in cores:
        grown = [one if any(c in core for c in one) else [*one, clause] for one in sets for clause in core]
        kept: list[list[Clause]] = []
        for one in sorted(grown, key=len):
            if not any(all(c in one for c in smaller) for smaller in kept):
                kept.append(one)
        sets = kept
    return sets


def _blamed(clause: Clause) -> plan.Conflict:
    return plan.Conflict(clause=clause.path, text=clause.text, file=clause.file, line=clause.line, walls=_walls_of(clause))


Repair = tuple[plan.Fix, ServeQuery]


def _distance(query: ServeQuery, fix: plan.Fix, repaired: ServeQuery) -> tuple[float, float]:
    """(sum of the relative moves of a repair, endless for what is dropped; its objective)."""
    moves = 0.0
    for path in fix.clause.split(" + "):
        keys = parse_path(path)
        try:
            old, new = _size(_value(query, keys)), _size(_value(repaired, keys))
        except (LookupError, TypeError, AttributeError, ValueError):
            old, new = 0.0, math.inf
        moves += abs(new - old) / old if old else math.inf
    return moves, fix.objective or 0.0


def _size(value: Any) -> float:
    """A clause's value as a number; a quota's is its count."""
    if hasattr(value, "instances"):
        value = value.chips if value.chips is not None else value.instances
    return float(value.to_base_units().magnitude) if isinstance(value, Quantity) else float(value)


def _fixes(query: ServeQuery, core: list[Clause], asker: Asker, progress: Progress) -> list[Repair]:
    """For each clause of the clash: the least move that alone makes the question feasible, and the best plan then.

    Last, the cheapest joint move, where one is less than any single one.
    """
    alone: list[Clause | None] = [clause for clause in core if asker.feasible(without(query, [clause]))]
    progress(f"how far must {', '.join(clause.path for clause in core)} move?")

    def repair(clause: Clause | None) -> Repair | None:
        if clause is None:
            return _cheapest_joint_move(query, asker)
        move = _least_move(query, clause, asker, [])
        return None if move is None else (_fix(move, clause.path, clause.text, asker), move.query)

    found = in_parallel.each(repair, [*alone, None]) if asker.slow else [repair(clause) for clause in (*alone, None)]
    return [one for one in found if one is not None]


def _has_size(clause: Clause) -> bool:
    return clause.path.startswith(("sla.ttft", "sla.tpot", "limits.", "supply.quota")) or clause.path.endswith("rate")


# Relative moves are summed in thousand-millionths of what the question says.
_WHOLE = 10**9


def _cheapest_joint_move(query: ServeQuery, asker: Asker) -> Repair | None:
    """The moves of demand, limits and quotas with the least sum of relative moves that together make the question feasible.

    One optimisation: what cannot be served, and what is taken beyond a limit, is bought at its share of what was asked.
    None where a single clause does it, where none of them is at fault, and for fleets that may not mix.
    """
    prepared = asker.prepared(query, _nothing)
    market = prepared.market
    if not market.columns or not market.mixed:
        return None
    nothing = dict.fromkeys(market.columns[0].amounts, 0)
    slack: list[tuple[str, tuple[int, ...], dict[str, int], int]] = []
    for k, (name, rate) in enumerate(zip(market.populations, market.rates, strict=True)):
        slack.append((f"not served {name}", (k,), nothing, rate))
    for limit in market.limits:
        slack.append((f"beyond {limit.name}", (), {**nothing, limit.resource: -1}, limit.bound))
    first = len(market.columns)
    extra = [Column(name, market.columns[0].offer, -1, k, 1, amounts, "nothing") for name, k, amounts, _ in slack]
    certificate = _certified(
        prepared,
        replace(
            market,
            columns=(*market.columns, *extra),
            objective=(*(0 for _ in market.columns), *(-(-_WHOLE // max(asked, 1)) for *_, asked in slack)),
            limits=tuple(
                replace(limit, columns=frozenset(range(first) if limit.columns is None else limit.columns) | {at})
                for at, limit in enumerate(market.limits, first + len(market.rates))
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
        if position < len(market.rates):
            path = "workload.rate" if query.workload.rate is not None else f"workload.populations[{position}].rate"
            at, words = path, f"{(market.rates[position] - units) / 1000:.10g}/s"
        else:
            limit = market.limits[position - len(market.rates)]
            path, (at, words) = limit.clause, _bounded(limit.clause, limit.resource, limit.bound + units)
        moved = moved.set(at, words)
        clauses.append(next(c for c in query.clauses() if c.path == path))
        values.append(str(words))
    move = Move(moved, "; ".join(values))
    return _fix(move, " + ".join(c.path for c in clauses), "; ".join(c.text for c in clauses), asker), moved


def _bounded(clause: str, resource: str, bound: int) -> tuple[str, object]:
    """(path, value) that give a limit or a quota this bound, which is in the program's units."""
    if clause.startswith("supply.quota"):
        return f"{clause}.{resource}", bound
    if resource == "chips":
        return clause, bound
    unit = _LIMIT_UNITS[resource]
    return clause, f"{float(dequantise(bound, resource).m_as(unit)):.10g} {unit}"


def _certified(prepared: Prepared, market: Market) -> Certificate:
    """The proof of a market that has more columns than the question's own: each unit of those carries one unit of load."""
    curves, own = prepared.choices.curves, len(prepared.market.columns)
    return certify(
        market,
        lambda j, units: units if j >= own else curves[market.columns[j].curve].best(units)[0],
        lambda j: 1 if j >= own else curves[market.columns[j].curve].slope,
        "cpsat" if prepared.query.solver.engine == "cpsat" else "highs",
        seconds=float(prepared.query.solver.time.m_as("s")),
        tie_break=False,
    )


def _joint_fix(query: ServeQuery, together: list[Clause], asker: Asker, progress: Progress) -> Repair | None:
    """The repair that moves all these clauses: each as little as the others, fully relaxed, allow; then the next, given the
    moves so far."""
    values: list[str] = []
    moved = query
    for position, clause in enumerate(together):
        progress(f"how far must {clause.path} move?")
        move = _least_move(moved, clause, asker, together[position + 1 :])
        if move is None:
            return None
        moved, values = move.query, [*values, move.value]
    last = Move(moved, "; ".join(values))
    return _fix(last, " + ".join(c.path for c in together), "; ".join(c.text for c in together), asker), moved


@dataclass(frozen=True, slots=True)
class Move:
    """A question with one clause moved, and the clause's new value in words; its optimum, where that is the value itself."""

    query: ServeQuery
    value: str
    optimum: int | None = None


def _fix(move: Move, clause: str, change: str, asker: Asker) -> plan.Fix:
    """A repair with the best plan that it allows."""
    optimum = move.optimum or prove(asker.prepared(move.query), tie_break=False).objective
    objective, unit = in_objective_units(move.query, optimum), objective_units(move.query)[1]
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

    dropped = without(query, [clause])
    if not asker.feasible(without(dropped, relaxed)):
        return None
    if not _has_size(clause):
        return Move(dropped, "dropped")
    if clause.path.endswith("rate"):
        return _most_demand(query, clause, asker, relaxed) or Move(dropped, "dropped")
    size, unit = _step(value), Q(1.0, "ms")
    at = round((value / unit).m_as("dimensionless") / size)

    def moved(steps: int) -> ServeQuery:
        return query.set(clause.path, _text(steps * size, unit))

    floor = math.floor(_least_latency(asker.prepared(without(dropped, relaxed)), clause) / size * (1 - 1e-9)) - 1
    found = _first(lambda steps: asker.feasible(without(moved(steps), relaxed)), max(at, floor), down=False)
    return Move(dropped, "dropped") if found is None else Move(moved(found), _text(found * size, unit))


def _step(value: Quantity) -> float:
    """The step [ms] in which a latency is moved: 1 ms, or 0.1 ms below 10 ms."""
    return 1.0 if value.m_as("ms") >= 10 else 0.1


def _least_latency(prepared: Prepared, clause: Clause) -> float:
    """A latency [ms] below which a clause cannot be met, whatever else gives way: of an idle replica without a network.

    `prepared` is the question without the clause. It only tells where to begin to look.
    """
    statistic = clause.path.split(".", 2)[2]
    times = [curve.runs.stations for curve in prepared.choices.curves if len(curve.usable)]
    if not times:
        return 0.0
    if clause.path.startswith("sla.tpot"):
        return 1000 * min(float(t.tpot_s.min()) for t in times)
    service = -math.log1p(-float(statistic[1:]) / 100)
    return 1000 * min(float((t.delay_s + t.prefill_s * service).min()) for t in times)


def _most_demand(query: ServeQuery, clause: Clause, asker: Asker, relaxed: list[Clause]) -> Move | None:
    """The largest rate of a population that can be served, to the program's unit; one optimisation.

    What cannot be served goes to a column of its own, which needs nothing and of which as little as possible is bought.
    """
    prepared = asker.prepared(without(query, relaxed), _nothing)
    market = prepared.market
    keys = parse_path(clause.path)
    k = keys[2] if len(keys) > 2 else 0
    if not market.columns or not isinstance(k, int):
        return None
    if not market.mixed:  # a fleet that may not mix has no room for that column

        def kept(load: int) -> ServeQuery:
            return without(query.set(clause.path, f"{load / 1000:.10g}/s"), relaxed)

        load = _first(lambda load: asker.feasible(kept(load)), market.rates[k], down=True)
        text = None if load is None else f"{load / 1000:.10g}/s"
        return None if text is None else Move(query.set(clause.path, text), text)
    nowhere = Column("not served", market.columns[0].offer, -1, (k,), 1, dict.fromkeys(market.columns[0].amounts, 0), "nothing")
    zero = (0,) * len(market.columns)
    certificate = _certified(prepared, replace(market, columns=(*market.columns, nowhere), objective=(*zero, 1)))
    if certificate.status != "optimal" or certificate.objective is None or certificate.objective >= market.rates[k]:
        return None
    served = f"{(market.rates[k] - certificate.objective) / 1000:.10g}/s"
    return Move(query.set(clause.path, served), served)


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
    prepared = asker.prepared(without(query, [clause, *relaxed]), lambda column: column.amounts[resource])
    least = prove(prepared, tie_break=False).objective
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
    catalog = asker.catalog(query)

    def counted(column: Column) -> int:
        return column.amounts[resource] if matches(quota, column.offer, catalog) else 0

    least = prove(asker.prepared(without(query, [clause, *relaxed]), counted), tie_break=False).objective
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
    return ()


def _value(query: ServeQuery, keys: Keys) -> Any:
    value: Any = query
    key: Any
    for key in keys:
        value = value[key] if isinstance(value, (dict, tuple, list)) else getattr(value, str(key))
    return value
