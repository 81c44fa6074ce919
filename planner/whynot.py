"""Why not X: force X on the question, solve again, and say what it costs or what forbids it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial

from zoo.catalog import Catalog
from zoo.names import nearest
from zoo.units import Q, Quantity

from . import in_parallel, references
from .columns import Memory
from .infeasible import Asker, sought
from .lean import lean
from .marginal import (
    Knob,
    below,
    if_proven,
    in_integers,
    knobs,
    moved,
    on_chips_of,
    proven_least,
    repriced,
    turning_points,
    undercut,
    unproven,
)
from .marginal import best as optimum
from .plan import Fix, Plan, Pool, WhyNot
from .prepare import UNITS, catalog_of, model_of
from .program import SCALES, dequantise, quantise
from .query import AnyQuery, ServeQuery
from .records import NotProven, QueryError
from .solve import Progress, solve
from .space import offers_of
from .uncertainty import guarded_query

# What can be forced, and how the question is narrowed to it: the path that is set, and its value.
FORCED: dict[str, Callable[[str], dict[str, object]]] = {
    "chip": lambda name: {"supply.chips": [name]},
    "region": lambda name: {"regions.allow": [name]},
    "cloud": lambda name: {"regions.allow": [f"{name}/*"]},
    "offer": lambda name: {"supply.offers": [name]},
    "precision": lambda name: {"workload.precision": [name]},
    "kv_precision": lambda name: {"workload.kv_precision": [name]},
    "tp": lambda degree: {"workload.parallelism.tp": f"[{degree}]"},
    "pp": lambda degree: {"workload.parallelism.pp": f"[{degree}]"},
    "ep": lambda degree: {"workload.parallelism.ep": f"[{degree}]"},
    "disaggregation": lambda way: {"workload.disaggregation": [way]},
}
# What a pool of a plan has of it.
_OF_POOL: dict[str, Callable[[Pool], object]] = {
    "chip": lambda pool: pool.chip,
    "region": lambda pool: pool.region,
    "cloud": lambda pool: pool.region.partition("/")[0],
    "offer": lambda pool: pool.option,
    "precision": lambda pool: pool.layout.precision,
    "kv_precision": lambda pool: pool.layout.kv_precision,
    "tp": lambda pool: pool.layout.tensor_parallel,
    "pp": lambda pool: pool.layout.pipeline_parallel,
    "ep": lambda pool: pool.layout.expert_parallel,
    "disaggregation": lambda pool: "none" if pool.layout.prefill is None else "pools",
}
# A lower price (for carbon, a cleaner grid) of these would make them win: a plan made of them alone scales with it.
_PRICED = {"chip", "region", "cloud", "offer"}


def parse(text: str, known: Collection[str] = tuple(FORCED)) -> dict[str, str]:
    """ "chip=l40s,tp=8" as {"chip": "l40s", "tp": "8"}. Raises QueryError with what can be forced (`known`) and the nearest
    of it."""
    forces: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise QueryError(f'--why-not {text}: expected KEY=VALUE, such as --why-not "chip=l40s" or "chip=l40s,tp=8"')
        if key not in known:
            near = nearest(key, known)
            hint = f'; did you mean "{near}"?' if near else ""
            raise QueryError(f"--why-not {text}: unknown key; expected one of {', '.join(known)}{hint}")
        if key in forces:
            raise QueryError(f"--why-not {text}: {key} stands twice; ask twice instead")
        forces[key] = value
    return forces


def forced(query: ServeQuery, forces: Mapping[str, str]) -> ServeQuery:
    """The question narrowed to X: every pool must use it. Raises QueryError for a name that does not exist."""
    changes: dict[str, object] = {}
    for key, value in forces.items():
        changes.update(FORCED[key](value))
    try:
        narrowed = query.override(changes)
    except QueryError as error:
        raise in_own_words(error, forces) from None
    assert isinstance(narrowed, ServeQuery)
    return narrowed


def look_up(query: ServeQuery, forces: Mapping[str, str], memory: Memory) -> None:
    """Raises QueryError, one line, for a key that cannot be forced or a name that does not exist; solves nothing."""
    parse(",".join(f"{key}={value}" for key, value in forces.items()))
    try:
        narrowed = forced(query, forces)
        catalog = catalog_of(narrowed, memory)
        references.check(narrowed, catalog)
        offers_of(narrowed, catalog)
    except QueryError as error:
        raise in_own_words(error, forces) from None


def in_own_words(error: QueryError, forces: Mapping[str, str]) -> QueryError:
    """What is wrong with a forced choice, charged to --why-not instead of to the paths that it sets."""
    text = str(error)
    where = re.match(r"--set [\w., ]+: ([\w.]+(\[\d+\])?: )?", text)
    what = ",".join(f"{key}={value}" for key, value in forces.items())
    return QueryError(text if where is None else f"--why-not {what}: {text[where.end() :]}")


def fixes_that_keep(forced: Collection[str], fixes: Iterable[Fix]) -> tuple[Fix, ...]:
    """The repairs that leave what was forced as it is: to give X up is to have the plan that there is already."""
    return tuple(fix for fix in fixes if not set(fix.clause.split(" + ")) & set(forced))


def why_not(
    plan: Plan, query: ServeQuery, forces: Mapping[str, str], memory: Memory | None = None, progress: Progress = lambda _: None,
    switches: bool = False,
) -> WhyNot:  # fmt: skip
    """What the best plan that uses X everywhere costs beside the best plan of all, or why there is none.

    `switches` also looks for the latencies, demands and limits of the question at which X would win, up to half and twice of
    today's, which takes tens of re-solves. What of all that would let X win was not proven in time is left out and named in
    `note`. Raises QueryError, one line, for a key that cannot be forced or a name that does not exist.
    """
    what = ",".join(f"{key}={value}" for key, value in forces.items())
    memory = memory or Memory()
    look_up(query, forces, memory)
    narrowed = forced(query, forces)
    names = meant(narrowed, forces, catalog_of(narrowed, memory))
    took = in_words(forces, names)
    own = {path for key, value in forces.items() for path in FORCED[key](value)}
    best = solve(narrowed, progress, memory, own)
    if best.status == "stopped":
        return WhyNot(
            what=what, status="stopped", objective=best.objective, unit=plan.objective_unit, dearer_by=None, ratio=None,
            wins_at=None, conflict=(), fixes=(), removed=(), fleet=best.fleet, took=took,
            note=f"{unproven(query)}: this is the best so far" if best.fleet else unproven(query), proven=False,
        )  # fmt: skip
    if best.objective is None or plan.objective is None:
        fixes = fixes_that_keep(own, best.fixes)
        if switches:
            fixes = tuple(sought(narrowed, fix, memory, progress) for fix in fixes)
        return WhyNot(
            what=what, status=best.status, objective=None, unit=plan.objective_unit, dearer_by=None, ratio=None, wins_at=None,
            conflict=best.conflict, fixes=fixes, removed=best.removed, fleet=(), took=took,
            note="" if best.objective is not None else _physics(query, forces, best, memory),
        )  # fmt: skip
    ratio = best.objective / plan.objective if plan.objective else None
    wins, stopped, note = list[str](), list[str](), ""
    if best.objective > plan.objective + 1e-9:
        asked: dict[str, Callable[[], list[str]]] = {}
        if ratio is not None and _PRICED & set(forces) and plan.minimize == "cost":
            asked["its prices"] = partial(_prices_that_win, plan, query, narrowed, best.objective, memory)
        elif ratio is not None and _PRICED & set(forces) and plan.minimize == "carbon":
            wins.append(f"a grid of {1 / ratio:.1%} of the carbon intensity under it alone")
        asked |= {
            f"limits.{resource}": partial(_limit_that_leaves, plan, query, best, total, memory)
            for total, (resource, _) in _LIMITS.items()
            if resource != query.minimize and best.totals[total] < plan.totals[total] * (1 - 1e-6)
        }
        if asked:
            progress("at which prices and limits would it win?")
        if len(asked) > 1:  # what all of them look at is laid out once, before they are asked on all cores
            lean(guarded_query(query), memory, cap=in_integers(query, best.objective))
        for name, found in zip(asked, in_parallel.each(if_proven, list(asked.values())), strict=True):
            if isinstance(found, NotProven):
                stopped.append(name)
            else:
                wins += found
        if switches:
            moves, not_proven = _moves_that_let_win(query, narrowed, memory, progress)
            wins, stopped = wins + moves, stopped + not_proven
        if not _allowed(query, best, memory):
            note = "the question as it stands does not allow it" + (
                "" if wins or stopped else "; no limit makes it win, prices were not tried"
            )
        elif not wins and not stopped:
            note = "at no prices: the best plan is free to use it or not, so having to use it never costs less"
            if _PRICED & set(forces):
                note = f"at no prices: {plan.minimize} is minimised"
    elif abs(best.objective - plan.objective) <= 1e-9:
        does = all(str(_OF_POOL[key](pool)) == value for key, value in forces.items() for pool in plan.fleet)
        note = "the plan already does this" if does else "another plan that is as good does this"
    else:
        note = forbidding(query, own)
    uses = [all(str(_OF_POOL[key](pool)) in names.get(key, {value}) for key, value in forces.items()) for pool in plan.fleet]
    if stopped:
        open_yet = f"whether it would win by {', '.join(stopped)} is not proven: {unproven(query)}"
        note = "; ".join([*([note] if note else []), open_yet])
    if any(uses) and not all(uses):
        note = "; ".join(["the plan has it in part; here the whole fleet is on it", *([note] if note else [])])
    return WhyNot(
        what=what, status=best.status, objective=best.objective, unit=plan.objective_unit,
        dearer_by=best.objective - plan.objective, ratio=ratio, wins_at=" or ".join(wins) or None,
        conflict=(), fixes=(), removed=(), fleet=best.fleet, note=note, took=took, proven=not stopped,
    )  # fmt: skip


def meant(query: AnyQuery, forces: Mapping[str, str], catalog: Catalog) -> dict[str, set[str]]:
    """The full names of the chips and regions that a narrowed question can rent, by the key that was forced."""
    offers = offers_of(query, catalog)[0]
    found = {"chip": {offer.accelerator for offer in offers}, "region": {offer.region for offer in offers}}
    return {key: names for key, names in found.items() if key in forces and names}


def in_words(forces: Mapping[str, str], names: Mapping[str, set[str]]) -> str:
    """Those names where something else was written; of many the first."""
    lists = [sorted(some) for key, some in names.items() if some != {forces[key]}]
    return "; ".join(", ".join(some[:3]) + (f" and {len(some) - 3} more" if len(some) > 3 else "") for some in lists)


def forbidding(query: AnyQuery, paths: Collection[str]) -> str:
    """The clauses of a question that do not allow X, with their places."""
    clauses = [f"{c.path} ({c.text}; {c.file}" + (f":{c.line})" if c.line else ")") for c in query.clauses() if c.path in paths]
    return f"not allowed by {', '.join(clauses)}" if clauses else ""


def _allowed(query: ServeQuery, best: Plan, memory: Memory) -> bool:
    """Whether the question itself allows what a plan of it with X in the place of a clause rents and how that is laid out."""
    offers = {offer.name for offer in offers_of(query, catalog_of(query, memory))[0]}
    degrees, workload = query.workload.parallelism, query.workload

    def has(wanted: object, value: object) -> bool:
        return not isinstance(wanted, tuple) or value in wanted

    return all(
        pool.offer in offers
        and pool.layout.precision in workload.precision
        and pool.layout.kv_precision in workload.kv_precisions(pool.layout.precision)
        and has(workload.disaggregation, _OF_POOL["disaggregation"](pool))
        and all(has(getattr(degrees, key), _OF_POOL[key](pool)) for key in ("tp", "pp", "ep"))
        for pool in best.fleet
    )


def _prices_that_win(plan: Plan, query: ServeQuery, narrowed: ServeQuery, objective: float, memory: Memory) -> list[str]:
    """The share of its own prices below which X wins; empty where there is none."""
    tenths = math.floor(1000 * _share_of_prices(plan, query, narrowed, objective, memory))
    return [f"its prices below {tenths / 10:g}% of today's"] if tenths else []


def _share_of_prices(plan: Plan, query: ServeQuery, narrowed: ServeQuery, objective: float, memory: Memory) -> float:
    """The share of its own prices below which the best plan with X alone, of `objective` today, is the best plan of all.

    The best plan of all may hold X too. At the share at which a plan that is not all X costs as much as that of X, another may
    cost less: then that one's share is next, until none does. Each is lower than the one before (Dinkelbach 1967).
    """
    catalog = catalog_of(query, memory)
    cheaper = {offer.name for offer in offers_of(narrowed, catalog)[0]}
    costs = [(pool.offer, pool.cost_usd_per_h) for pool in plan.fleet]
    share = 1.0
    while True:
        of_x = sum(cost for offer, cost in costs if offer in cheaper) / share  # at today's prices
        lower = (sum(cost for _, cost in costs) - share * of_x) / (objective - of_x)
        if not 0 < lower < share:  # 0: what is not of X costs nothing, so no price of X's is low enough
            return max(0.0, min(lower, share))
        share = lower
        offers = {
            name: replace(offer, price=offer.price * share) if name in cheaper else offer
            for name, offer in catalog.offers.items()
        }
        prepared, found = below(query, repriced(query, catalog.with_offers(offers), memory), share * objective)
        memory.exact = found.exact  # the next proof begins where this one left the curves
        market = prepared.market
        step = float(dequantise(1, "cost").m_as("USD/hour"))
        costs = [(market.columns[p.column].offer.name, step * market.objective[p.column] * p.units) for p in found.purchases]
        if not costs:
            return share


# Total of a plan -> (limit, unit it is written in)
_LIMITS = {
    "cost_usd_per_h": ("cost", "USD/h"), "power_kw": ("power", "kW"), "carbon_kgco2e_per_h": ("carbon", "kgCO2e/h"),
    "water_l_per_h": ("water", "liter/h"), "accelerators": ("chips", ""),
}  # fmt: skip


def _limit_that_leaves(plan: Plan, query: ServeQuery, best: Plan, total: str, memory: Memory) -> list[str]:
    """The limit of a resource within which the best plan with X, which takes less of it than the best plan of all, wins.

    What any better plan takes at least is solved for: below that X wins, as long as its own plan has room. Of a weighted
    objective, which no limit bounds, the question is solved again with what X takes as the limit. Empty where it does not win.
    """
    assert best.objective is not None
    (resource, unit), used = _LIMITS[total], best.totals[total]
    if query.minimize in SCALES:
        least = _least_of_better(plan, query, best.objective, resource, Q(used, unit or "dimensionless"), memory)
        needs = f"{unit or 'chips'} (this fleet needs {rounded_up(used)})"
        return [] if least is None else [f"limits.{resource} below {least:,.8g} {needs}"]
    limited = query.set(f"limits.{resource}", _bound(used, unit))
    asker = Asker(memory)
    has_plan = _allowed(query, best, memory) or asker.feasible(guarded_query(limited))
    if not has_plan and asker.unproven:
        raise NotProven(unproven(query))
    wins = has_plan and not undercut(limited, {}, memory, best.objective)
    return [f"limits.{resource} at {rounded_up(used)} {unit or 'chips'} (tried there only)"] if wins else []


def rounded_up(amount: float) -> str:
    """A limit with eight digits that is not below `amount`."""
    digit = 10.0 ** (math.floor(math.log10(amount)) - 7) if amount > 0 else 1.0
    return f"{math.ceil(amount / digit * (1 - 1e-12)) * digit:,.8g}"


def _bound(amount: float, unit: str) -> object:
    return f"{amount:.10g} {unit}" if unit else int(amount)


def _least_of_better(
    plan: Plan, query: ServeQuery, objective: float, resource: str, used: Quantity, memory: Memory
) -> float | None:
    """The least of a resource with which a plan is better than `objective` is, in the unit of `used`; None: at most `used`."""
    step = quantise(Q(objective, UNITS[query.minimize]), query.minimize, "up") - 1
    bound = float(dequantise(step, query.minimize).m_as(UNITS[query.minimize]))
    unit = next(unit for name, unit in _LIMITS.values() if name == query.minimize)
    better = query.set(f"limits.{query.minimize}", _bound(bound, unit))
    assert isinstance(better, ServeQuery)
    most = int(quantise(used, resource, "up"))
    for one in (on_chips_of(plan, better), better):  # on those chips one is likely, and soon found
        if proven_least(one, resource, memory, most) is not None:
            return None
    least = proven_least(better, resource, memory)
    return None if least is None else float(dequantise(least, resource).m_as(used.units))


def _moves_that_let_win(
    query: ServeQuery, narrowed: ServeQuery, memory: Memory, progress: Progress
) -> tuple[list[str], list[str]]:
    """Of each latency, demand, limit and quota the nearest value on either side of today's at which X wins, to 0.1 %.

    Also the names of those of which it was not proven on both sides.

    At that value the question and the question narrowed to X have the same optimum; both are solved. Found where X wins at half
    or twice of today's value too: a value between at which it wins for a stretch only is missed.
    """

    def turns(knob: Knob) -> tuple[list[str], bool]:
        def wins(factor: float) -> bool:
            progress(f"{knob.name} at {factor:.3g} of today's")
            with_it = optimum(*moved(narrowed, knob, factor), memory)
            if with_it is None:
                return False
            of_all = optimum(*moved(query, knob, factor), memory)
            return of_all is not None and with_it <= of_all + 1e-9

        up, down = turning_points(knob, wins) if knob.looser > 1 else reversed(turning_points(knob, wins))
        found = [f"{knob.name} from {up} up"] if isinstance(up, str) else []
        found += [f"{knob.name} down from {down}"] if isinstance(down, str) else []
        return found, isinstance(up, NotProven) or isinstance(down, NotProven)

    movable = [knob for knob in knobs(query) if knob.path is not None]
    ends = in_parallel.each(turns, movable)
    return [end for found, _ in ends for end in found], [
        knob.name for knob, (_, stopped) in zip(movable, ends, strict=True) if stopped
    ]


def _physics(query: ServeQuery, forces: Mapping[str, str], best: Plan, memory: Memory) -> str:
    """Why no layout has what was forced, beside the clauses that clash: what removed its candidates."""
    model = model_of(query, catalog_of(query, memory))
    if "tp" in forces and model.heads % int(forces["tp"]):
        return f"tensor parallelism divides attention heads: {forces['tp']} does not divide the {model.heads} of {model.name}"
    if {"tp", "pp", "ep"} & set(forces) and not best.candidates:
        return "no machine on offer can be laid out so: replicas fill machines without a rest, TP stays in a scale-up domain"
    return "; ".join(dict.fromkeys(f"{one.name}: {one.reason}" for one in best.removed if one.wall is not None))
