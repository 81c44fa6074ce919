"""What one more of each wall is worth: every limit and every physical ceiling, moved, and the question solved again.

Integer programs have no duals, and moving a wall changes which candidates exist, so every value here is the difference of
two proven optima, enumeration included. Nothing is extrapolated from linear programs. What a move does not touch (surveys of
machines, curves, amounts) is shared between the re-solves, which changes none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

from zoo.catalog import Catalog
from zoo.specs import Accelerator
from zoo.units import Q, Quantity

from . import in_parallel
from .certify import Certificate
from .columns import Memory, choices_of, limits_of
from .duals import shadow_prices
from .infeasible import Asker
from .lean import Least, lean, price
from .market import Column, Limit
from .plan import Marginal, Plan
from .prepare import (
    UNITS,
    Prepared,
    Progress,
    catalog_of,
    in_objective_units,
    laid_out,
    model_of,
    objective_units,
    open_catalog,
    prepare,
    prove,
)  # fmt: skip
from .program import quantise
from .query import ServeQuery
from .records import NotProven
from .scalars import text_of
from .space import format_of, machines_of, offers_of
from .transport import spread
from .uncertainty import guarded_query

# A plan changes within this relative width of a switch point: 0.1 %, the rounding of what is printed included.
_SWITCH_WIDTH = 0.0009
# Knobs are moved at most by this factor when looking for a switch.
FARTHEST = 2.0

Rented = Sequence[tuple[Column, int]]  # a fleet: columns with their units
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Knob:
    """Something that can be loosened by a factor. `moved(factor)` gives the question and the scales of the catalogue's records.

    `looser` is the factor of a loosening by 1 % (1.01, or 0.99 for prices and demand). `unit_factor` loosens by one `unit_step`.
    """

    number: int
    wall: str
    name: str
    origin: Literal["physics", "query", "market"]
    value: str
    looser: float
    unit_step: str
    unit_factor: float | None
    path: str | None  # of the query, or None
    scale: str | None  # of the catalogue, or None


# Physical and market knobs: (wall, its name, what is scaled, factor of 1 % more of it)
_SCALES = (
    (1, "compute", "peak FLOP/s", "physics", 1.01),
    (2, "memory", "memory bandwidth", "physics", 1.01),
    (2, "memory", "memory capacity", "physics", 1.01),
    (14, "communication", "link bandwidth", "physics", 1.01),
    (17, "capital", "prices", "market", 0.99),
    (18, "sustainability", "carbon intensity", "market", 0.99),
)


# One unit of each; the figures of everything are moved by the share that it is of what the plan rents.
UNIT_STEPS = {
    "peak FLOP/s": Q(1.0, "Tflop/s"),
    "memory bandwidth": Q(1.0, "GiB/s"),
    "memory capacity": Q(1.0, "GiB"),
    "link bandwidth": Q(1.0, "GiB/s"),
    "prices": Q(0.1, "USD/hour"),
    "carbon intensity": Q(1.0, "gCO2e/kWh"),
}

# What a scale of chips changes in each record.
_FIELDS = {
    "peak FLOP/s": (),
    "memory bandwidth": ("memory_bandwidth",),
    "memory capacity": ("memory",),
    "link bandwidth": ("link_bandwidth", "host_bandwidth", "nic_bandwidth"),
}


def varied(catalog: Catalog, scales: Mapping[str, float], chip: str | None = None) -> Catalog:
    """The catalogue with figures of every record scaled: peak FLOP/s, memory bandwidth or capacity, links, prices, intensity.

    `chip`: only of this chip, and only prices of its offers.
    """
    for what, factor in scales.items():
        if what == "prices":
            offers = {
                name: replace(offer, price=offer.price * factor) if chip in (None, offer.accelerator) else offer
                for name, offer in catalog.offers.items()
            }
            catalog = catalog.with_offers(offers)
        elif what == "carbon intensity":
            catalog = catalog.with_records(
                "regions", {name: _cleaner(region, factor) for name, region in catalog.regions.items()}
            )
        else:
            chips = {
                name: _faster(record, what, factor) if chip in (None, name) else record for name, record in catalog.chips.items()
            }
            catalog = catalog.with_records("chips", chips)
    return catalog


def _faster(chip: Any, what: str, factor: float) -> Any:
    if what == "peak FLOP/s":
        return replace(chip, peak={precision: peak * factor for precision, peak in chip.peak.items()})
    return replace(chip, **_scaled(chip, _FIELDS[what], factor))


def _scaled(chip: Any, names: tuple[str, ...], factor: float) -> dict[str, Any]:
    return {name: getattr(chip, name) * factor for name in names if getattr(chip, name) is not None}


def _cleaner(region: Any, factor: float) -> Any:
    grid = region.grid
    names = ("average_intensity", "marginal_intensity", "market_intensity")
    return replace(region, grid=replace(grid, **_scaled(grid, names, factor)))


def knobs(query: ServeQuery) -> Iterator[Knob]:
    """Everything that can be loosened: the user's limits first, then physics and the market."""
    for bound in query.sla.bounds():
        number, wall = (7, "tail latency") if bound.metric == "ttft" else (4, "serving")
        step = Q(10.0 if bound.limit.m_as("ms") >= 100 else 1.0, "ms")
        name = f"{bound.metric.upper()} {bound.statistic}"
        factor = float(((bound.limit + step) / bound.limit).m_as("dimensionless"))
        path = f"sla.{bound.metric}.{bound.statistic}"
        yield Knob(number, wall, name, "query", text_of(bound.limit), 1.01, f"{step:~g}", factor, path, None)
    steps = {
        "cost": Q(10.0, "USD/hour"),
        "power": Q(100.0, "kW"),
        "carbon": Q(1.0, "kgCO2e/hour"),
        "water": Q(10.0, "liter/hour"),
    }
    walls = {
        "cost": (17, "capital"),
        "power": (18, "sustainability"),
        "carbon": (18, "sustainability"),
        "water": (18, "sustainability"),
    }
    for resource, step in steps.items():
        limit = getattr(query.limits, resource)
        if limit is not None:
            factor = float(((limit + step) / limit).m_as("dimensionless"))
            number, wall = walls[resource]
            yield Knob(
                number,
                wall,
                f"limit of {resource}",
                "query",
                text_of(limit),
                1.01,
                f"{step:~g}",
                factor,
                f"limits.{resource}",
                None,
            )
    if query.limits.chips is not None:
        count = query.limits.chips
        yield Knob(0, "supply", "limit of chips", "query", str(count), 1.01, "8 chips", (count + 8) / count, "limits.chips", None)
    for position, quota in enumerate(query.supply.quota):
        key = "chips" if quota.chips is not None else "instances"
        count = quota.chips if quota.chips is not None else quota.instances or 0
        step_count = 8 if key == "chips" else 1
        if count:
            path = f"supply.quota[{position}].{key}"
            factor = (count + step_count) / count
            yield Knob(
                0, "supply", f"quota {position}", "query", f"{count} {key}", 1.01, f"{step_count} {key}", factor, path, None
            )
    for path, name, rate in _rates(query):
        step = Q(1.0 if rate.m_as("1/s") > 1 else 0.01, "1/s")
        factor = float(((rate - step) / rate).m_as("dimensionless"))
        yield Knob(0, "demand", name, "query", text_of(rate), 0.99, text_of(step), factor if factor > 0 else None, path, None)
    for number, wall, what, origin, looser in _SCALES:
        if what == "carbon intensity" and not (query.minimize != "cost" or query.limits.carbon):
            continue
        yield Knob(number, wall, what, origin, "as listed", looser, "", None, None, what)  # type: ignore[arg-type]


def _rates(query: ServeQuery) -> Iterator[tuple[str, str, Quantity]]:
    """(path, name, rate) of every demand."""
    if query.workload.rate is not None:
        yield "workload.rate", "rate", query.workload.rate
    for i, population in enumerate(query.workload.populations or ()):
        yield f"workload.populations[{i}].rate", f"rate of {population.name}", population.rate


def moved(query: ServeQuery, knob: Knob, factor: float) -> tuple[ServeQuery, dict[str, float]]:
    """The question and the scales of the catalogue with one knob moved by a factor."""
    if knob.scale is not None:
        return query, {knob.scale: factor}
    assert knob.path is not None
    result = query.set(knob.path, _words(knob, factor))
    assert isinstance(result, ServeQuery)
    return result, {}


def _words(knob: Knob, factor: float) -> Any:
    """A knob's value times a factor, as the question says it; counts are whole, rounded away from today's."""
    if _is_count(knob):
        return whole(int(knob.value.split()[0]), factor)
    value: Any = Q(knob.value)
    return text_of(Q(float(f"{float(value.m) * factor:.12g}"), value.units))


def whole(count: int, factor: float) -> int:
    """A count moved by at least the factor: up to the next whole number, down to the one below."""
    return int(count * factor + 1e-9) if factor < 1 else -int(-(count * factor - 1e-9) // 1)


def _is_count(knob: Knob) -> bool:
    return knob.path is not None and knob.path.endswith(("chips", "instances"))


def world(query: ServeQuery, scales: Mapping[str, float], memory: Memory, chip: str | None = None) -> Memory:
    """What is known of the catalogue with figures scaled (of one chip alone, if named), from what is known of it today.

    Prices and intensities leave what machines can run alone; the figures of chips leave all amounts alone.
    """
    if not scales:
        return memory
    files = (query.folder, query.zoo, query.prices)
    if files not in memory.catalogs:
        memory.catalogs[files] = open_catalog(query)
        prepare(query, memory=memory)
    today = memory.catalogs[files]
    asked = today
    if "prices" in scales:  # there are thousands of offers: of those that the question permits
        asked = today.with_offers({offer.name: offer for offer in offers_of(query, today)[0]})
    other = varied(asked, scales, chip)
    if set(scales) <= {"prices", "carbon intensity"}:
        return repriced(query, other, memory)
    amounts = {} if "prices" in scales else {
        (id(other), *key[1:]): known for key, known in memory.priced.items() if key[0] == id(today)
    }  # fmt: skip
    same = Memory(priced=amounts, catalogs={files: other}, exact=memory.exact, today=memory, faster=_faster_by(scales))
    if chip is not None:  # the other chips' machines are those of today
        same.surveys = {key: one for key, one in memory.surveys.items() if one.machine.accelerator.name != chip}
        same.runs = {key: one for key, one in memory.runs.items() if key[1:] in same.surveys}
        same.curves = dict(memory.curves)  # by the identity of runs, all of which `memory` keeps alive
    return same


def repriced(query: ServeQuery, catalog: Catalog, memory: Memory) -> Memory:
    """What is known of a catalogue in which only prices and intensities differ: they leave what machines can run alone."""
    files = (query.folder, query.zoo, query.prices)
    return Memory(memory.surveys, memory.runs, memory.curves, catalogs={files: catalog}, exact=memory.exact)


def _faster_by(scales: Mapping[str, float]) -> float:
    """How many times faster chips with figures scaled are at most; infinite where they may hold what they do not hold today."""
    if scales.get("memory capacity", 1.0) > 1:
        return math.inf
    return max(1.0, *scales.values())


def solved(
    query: ServeQuery, scales: Mapping[str, float], memory: Memory, chip: str | None = None, tie_break: bool = False
) -> tuple[Prepared, Certificate]:
    """(a moved question, the certificate of its best plan); `scales` and `chip` as in `world`."""
    question = guarded_query(query)
    prepared = prepare(question, memory=world(question, scales, memory, chip))
    return prepared, finished(prove(prepared, tie_break=tie_break), query)


def finished(certificate: Certificate, query: ServeQuery) -> Certificate:
    """A certificate that proves something. Raises NotProven where the time for it was over before."""
    if certificate.status == "stopped":
        raise NotProven(unproven(query))
    return certificate


def unproven(query: ServeQuery) -> str:
    """That the time was over, in words."""
    return f"solver.time: {text_of(query.solver.time)} ended before the proof of a re-solve; allow more of it"


def if_proven(ask: Callable[[], Answer]) -> Answer | NotProven:
    """What a question says, or that the time for it was over before its proof: others may be answered still."""
    try:
        return ask()
    except NotProven as stopped:
        return stopped


def _known(answer: Answer | NotProven) -> Answer | None:
    return None if isinstance(answer, NotProven) else answer


def best(query: ServeQuery, scales: Mapping[str, float], memory: Memory, cap: float | None = None) -> float | None:
    """The proven best objective of a moved question; None when it is infeasible. `cap`: an objective that it probably reaches."""
    question = guarded_query(query)
    known = world(question, scales, memory)
    if cap is not None and (held := within(query, known, cap)) is not None:
        return held
    certificate = prove(lean(question, known), tie_break=False, begin=known.exact)
    return in_objective_units(query, finished(certificate, query).objective)


def within(query: ServeQuery, known: Memory, objective: float) -> float | None:
    """The proven best objective of a question where it is no more than `objective`; None where it is more, or infeasible."""
    return in_objective_units(query, _at_most(query, known, in_integers(query, objective))[1].objective)


def in_integers(query: ServeQuery, objective: float) -> int:
    """An objective in the unit of reports, in the program's."""
    resource, _ = objective_units(query)
    return int(quantise(Q(objective, UNITS[resource]), resource, "up"))


def _at_most(query: ServeQuery, known: Memory, most: int) -> tuple[Prepared, Certificate]:
    """The proof of a question in which plans of an objective above `most`, in the program's integers, do not count."""
    cheap = lean(guarded_query(query), known, cap=most)
    return cheap, finished(prove(cheap, tie_break=False, begin=known.exact, most=most), query)


def below(query: ServeQuery, known: Memory, objective: float) -> tuple[Prepared, Certificate]:
    """The proven best plan of a question of less than this objective; a certificate without purchases where there is none."""
    return _at_most(query, known, in_integers(query, objective) - 1)


def undercut(query: ServeQuery, scales: Mapping[str, float], memory: Memory, objective: float) -> bool:
    """Whether a moved question has a plan of less than this objective."""
    return below(query, world(guarded_query(query), scales, memory), objective)[1].objective is not None


def proven_least(query: ServeQuery, resource: str, memory: Memory, most: int | None = None) -> int | None:
    """The least of a resource that any plan takes, in the program's integers; None where that is above `most`, or no plan is."""
    prepared = lean(guarded_query(query), memory, Least(resource), most)
    found = finished(prove(prepared, tie_break=False, begin=memory.exact, most=most), query)
    memory.exact = found.exact  # the next proof begins where this one left the curves
    return found.objective


def marginals(plan: Plan, query: ServeQuery, switches: bool = False, progress: Progress = lambda _: None) -> tuple[Marginal, ...]:
    """Every knob with what 1 % and one unit more of it saves, and whether it binds.

    A knob binds when loosening it by 1 % or one unit improves the objective, or tightening it by 1 % worsens or breaks the
    plan. `switches` also looks for the loosening from which on there is a better plan, the tightening from which on today's
    objective cannot be kept, and what the best plan of 1 % less costs. Re-solves run on all cores.
    A re-solve whose proof was stopped leaves its own value open and no other. Raises NotProven where that of today's optimum was.
    """
    memory = Memory()
    prepared, certificate = solved(query, {}, memory)
    memory.exact = certificate.exact
    relaxed = _relaxed(query, prepared, certificate)
    found = [_of_plan(knob, plan, prepared.catalog) for knob in knobs(query)]
    price(guarded_query(query), memory)
    progress(f"{2 * len(found)} re-solves")
    worth = _worth(plan, query, found, prepared, certificate, memory)
    moving = [knob for knob in found if switches and knob.path is not None]
    ends = dict(zip(moving, in_parallel.each(lambda knob: _switches(plan, query, knob, memory, progress), moving), strict=True))
    dear = [knob for knob in found if switches and worth[knob][1] == (True, False)]
    costs = _answers({knob: partial(_costs, plan, query, knob, memory) for knob in dear})
    rows = []
    for knob in found:
        easier, (worse, breaks) = worth[knob]
        saved = _saved(plan, easier.get(knob.looser))
        per_unit = None if knob.unit_factor is None else _saved(plan, easier.get(knob.unit_factor))
        gains = (saved or 0) > 0 or (per_unit or 0) > 0
        better_from, worse_from = ends.get(knob, (None, None))
        cost = costs.get(knob, 0.0 if switches and worse is False else None)
        tighter_is_known = breaks is not None and (worse is not None or (gains and not switches))
        stopped = any(isinstance(answer, NotProven) for answer in (better_from, worse_from, cost))
        rows.append(
            Marginal(
                number=knob.number, name=knob.wall, knob=knob.name, origin=knob.origin,
                value=knob.value,
                binding=bool(gains or worse), per_percent=saved, unit_step=knob.unit_step,
                per_unit=per_unit, unit=plan.objective_unit, breaks=bool(breaks), switches_at=_known(better_from),
                worsens_at=_known(worse_from), costs_per_percent=_known(cost),
                relaxed_per_percent=None if knob.path is None else relaxed.get(knob.path),
                proven=len(easier) == len(_loosenings(knob)) and tighter_is_known and not stopped,
            )
        )  # fmt: skip
    return tuple(rows)


Harder = tuple[bool | None, bool | None]
Worth = tuple[dict[float, float | None], Harder]  # what `_loosened` and `_tightened` say of a knob


def _worth(
    plan: Plan, query: ServeQuery, found: list[Knob], prepared: Prepared, certificate: Certificate, memory: Memory
) -> dict[Knob, Worth]:
    """Each knob loosened and tightened. What one proof says of several knobs is asked first, and spares theirs; where that proof
    was stopped, each is asked."""
    rented = [(prepared.market.columns[p.column], p.units) for p in certificate.purchases]
    groups = [  # all of them are often worth nothing
        [knob for knob in found if knob.scale in _FIELDS], [knob for knob in found if (knob.path or "").startswith("sla.")],
    ]  # fmt: skip
    alone = [knob for knob in found if not any(knob in group for group in groups)]
    first: dict[Any, Callable[[], Any]] = {
        at: partial(_save_nothing, plan, query, group, memory) for at, group in enumerate(groups)
    }
    first["only"] = partial(_only_fleet, prepared, certificate, memory)
    first |= {knob: partial(_loosened, plan, query, knob, memory) for knob in alone}
    known = _answers(first)
    idle = [knob for at, group in enumerate(groups) if known[at] is True for knob in group]
    then: dict[Any, Callable[[], Any]] = {
        knob: partial(_loosened, plan, query, knob, memory) for knob in found if knob not in idle and knob not in alone
    }
    then |= {("tighter", knob): partial(_tightened, plan, query, knob, memory, rented, known["only"]) for knob in found}
    known |= {knob: dict.fromkeys(_loosenings(knob), plan.objective) for knob in idle} | _answers(then)
    return {knob: (known[knob], known["tighter", knob]) for knob in found}


def _answers(asked: Mapping[Any, Callable[[], Any]]) -> dict[Any, Any]:
    """What each of these says, or that its proof was stopped; asked on all cores in their order."""
    return dict(zip(asked, in_parallel.each(if_proven, list(asked.values())), strict=True))


def _loosenings(knob: Knob) -> list[float]:
    """The factors of 1 % and of one unit, the larger move first."""
    factors = {knob.looser} if knob.unit_factor is None else {knob.looser, knob.unit_factor}
    return sorted(factors, key=lambda factor: -abs(factor - 1))


def _loosened(plan: Plan, query: ServeQuery, knob: Knob, memory: Memory) -> dict[float, float | None]:
    """The best objective at each of a knob's loosenings whose proof was not stopped.

    Where the larger saves nothing the smaller does not: it is not asked.
    """
    found: dict[float, float | None] = {}
    for factor in _loosenings(knob):
        if any(_saved(plan, larger) == 0 for larger in found.values()):
            found[factor] = plan.objective
        else:
            with suppress(NotProven):
                found[factor] = best(*moved(query, knob, factor), memory, plan.objective)
    return found


def _save_nothing(plan: Plan, query: ServeQuery, group: list[Knob], memory: Memory) -> bool:
    """Whether all knobs of a group loosened together, each by its larger step, leave the optimum: then so does each of them.

    Raises NotProven, which says nothing of any of them.
    """
    if not group:
        return True
    question, scales = query, dict[str, float]()
    for knob in group:
        question, more = moved(question, knob, _loosenings(knob)[0])
        scales |= more
    return not undercut(question, scales, memory, plan.objective or 0.0)


def _only_fleet(prepared: Prepared, certificate: Certificate, memory: Memory) -> bool:
    """Whether no other fleet costs as little as that of a certificate; machines that only the offer tells apart count as one.

    Another one has less of something, or it costs more: one proof for each pool. What replaces an offer of the same machine
    does so in every world, so undominated columns are enough. False too where it cannot be said: fleets that may not mix, a
    proof that was stopped, something rented for nothing.
    """
    most = certificate.objective
    if most is None or not prepared.market.mixed:
        return False
    cheap = lean(prepared.query, memory, cap=most)
    market = cheap.market
    for purchase in certificate.purchases:
        column, each = prepared.market.columns[purchase.column], prepared.market.objective[purchase.column]
        same = [
            j for j, other in enumerate(market.columns)
            if cheap.choices.curves[other.curve] is prepared.choices.curves[column.curve]
            and (other.instances, market.objective[j]) == (column.instances, each)
        ]  # fmt: skip
        if len(same) != 1 or each <= 0:
            return False
        fewer = Limit("fewer", None, "instances", (purchase.units - 1) * column.instances, "fewer", frozenset(same))
        other = replace(cheap, market=replace(market, limits=(*market.limits, fewer)))
        if prove(other, tie_break=False, begin=memory.exact, most=most).status != "infeasible":
            return False
    return True


def _tightened(plan: Plan, query: ServeQuery, knob: Knob, memory: Memory, rented: Rented, only: bool) -> Harder:
    """(whether every plan is worse than today's where a knob is 1 % tighter, whether there is none then); None: not proven.

    `rented` is an optimal fleet; `only`: there is no other. Tighter, no fleet holds that did not before, and none costs less.
    """
    question, scales = moved(query, knob, 2 - knob.looser)
    known = world(guarded_query(question), scales, memory)
    if _saved(plan, _kept(rented, guarded_query(question), known)) == 0:
        return False, False
    narrowed_first = (on_chips_of(plan, question), question)  # there is most to be hoped for, at least to be computed
    others = () if only or plan.objective is None else narrowed_first
    as_good = if_proven(lambda: any(within(one, known, plan.objective or 0.0) is not None for one in others))
    if as_good is True:
        return False, False
    worse, asker = None if isinstance(as_good, NotProven) else True, Asker(known)
    if any(asker.feasible(guarded_query(one)) for one in narrowed_first):
        return worse, False
    return (worse, None) if asker.unproven else (True, True)


def _costs(plan: Plan, query: ServeQuery, knob: Knob, memory: Memory) -> float | None:
    """What the best plan costs more where a knob is 1 % tighter."""
    question, scales = moved(query, knob, 2 - knob.looser)
    near = best(on_chips_of(plan, question), scales, memory)  # soon found, and at least a bound
    saved = _saved(plan, best(question, scales, memory, near))
    return None if saved is None else -saved


def _of_plan(knob: Knob, plan: Plan, catalog: Catalog) -> Knob:
    """A knob of the world with the figures of what the plan rents as its value, and one unit of its largest pool as its step."""
    figures: dict[str, Quantity] = {}
    for pool in sorted(plan.fleet, key=lambda pool: -pool.accelerators):
        chip, of = catalog.chips[pool.chip], pool.chip
        figure: Quantity | None
        if knob.scale is None:
            return knob
        if knob.scale == "prices":
            figure = catalog.find("offers", pool.offer).price.to("USD/hour")
        elif knob.scale == "carbon intensity":
            of, figure = pool.region, catalog.regions[pool.region].grid.average_intensity
        else:
            computes_in = format_of(pool.layout.precision).computes_in
            of += f" {computes_in}" if knob.scale == "peak FLOP/s" else ""
            figure = figure_of_chip(chip, knob.scale, computes_in)
        if figure is not None:
            figures.setdefault(of, figure)
    if not figures:
        return knob
    first, step = next(iter(figures.values())), UNIT_STEPS[knob.scale or ""]
    share = float((step / first).m_as("dimensionless")) if first.magnitude else 1.0
    named = f" of {next(iter(figures))}" if len(figures) > 1 else ""
    value = ", ".join(f"{name} {short(figure)}" for name, figure in figures.items())
    if share >= 1:  # a unit as large as the figure is no step
        return replace(knob, value=value)
    factor = 1 + share if knob.looser > 1 else 1 - share
    return replace(knob, value=value, unit_step=short(step) + named, unit_factor=factor)


def figure_of_chip(chip: Accelerator, what: str, computes_in: str) -> Quantity | None:
    """The figure of a chip that a scale moves; of peaks that of a number format, of links the fastest reach that it has."""
    if what == "peak FLOP/s":
        peak = chip.peak.get(computes_in)
        return None if peak is None else peak.to("Tflop/s")
    known = (getattr(chip, name) for name in _FIELDS[what])
    return next((figure for figure in known if figure is not None), None)


def short(value: Quantity) -> str:
    """A figure with its unit, short."""
    return f"{float(value.m):.4g} {value.units:~C}".replace("usd", "USD").replace("co2e", "CO2e")


def on_chips_of(plan: Plan, query: ServeQuery) -> ServeQuery:
    """The question narrowed to the chips of a plan."""
    narrowed = query.set("supply.chips", sorted({pool.chip for pool in plan.fleet}))
    assert isinstance(narrowed, ServeQuery)
    return narrowed


def _kept(rented: Rented, query: ServeQuery, known: Memory) -> float | None:
    """The objective of a fleet in a moved question, each pool laid out anew; None where it no longer serves all in time."""
    catalog = catalog_of(query, known)
    machines = machines_of([catalog.find("offers", name) for name in dict.fromkeys(c.offer.name for c, _ in rented)], catalog)
    runs = laid_out([machine for machine, _ in machines], model_of(query, catalog), query, known)
    choices = choices_of(query, catalog, [(one, offers) for (one, _), (_, offers) in zip(runs, machines, strict=True)], [], known)
    by_name = {column.name: j for j, column in enumerate(choices.columns)}
    if any(column.name not in by_name for column, _ in rented):
        return None
    at = [(by_name[column.name], units) for column, units in rented]
    fleet = [(choices.columns[j], units) for j, units in at]
    carried = {pool: choices.curves[column.curve].best(units)[0] for pool, (column, units) in enumerate(fleet)}
    rates = [quantise(population.rate, "load", "up") for population in query.populations]
    limits = limits_of(query, catalog, [column.offer for column, _ in fleet])
    if spread(rates, carried, [(pool, k) for pool, (column, _) in enumerate(fleet) for k in column.populations]) is None or any(
        sum(column.amounts[limit.resource] * units for pool, (column, units) in enumerate(fleet)
            if limit.columns is None or pool in limit.columns) > limit.bound
        for limit in limits
    ):  # fmt: skip
        return None
    return in_objective_units(query, sum(choices.objective[j] * units for j, units in at))


def _relaxed(query: ServeQuery, prepared: Prepared, certificate: Certificate) -> dict[str, float]:
    """By path of a demand, limit or quota: what the linear relaxation of the last program says 1 % more of it saves."""
    prices = {} if certificate.program is None else shadow_prices(certificate.program)
    market = prepared.market
    rows = {path: (f"wall_04_serving[{name}]", rate, 1) for (path, _, _), name, rate in
            zip(_rates(query), market.populations, market.rates, strict=True)}  # fmt: skip
    for limit in market.limits:
        quota = limit.clause.startswith("supply.quota")
        rows[f"{limit.clause}.{limit.resource}" if quota else limit.clause] = (limit.name, limit.bound, -1)
    return {
        path: 0.01 * sign * prices[row] * bound * (in_objective_units(query, 1) or 0.0)
        for path, (row, bound, sign) in rows.items()
        if row in prices
    }


def _saved(plan: Plan, objective: float | None) -> float | None:
    return None if plan.objective is None or objective is None else round(plan.objective - objective, 9)


Turn = str | NotProven | None  # a value of a knob; None where there is none


def _switches(plan: Plan, query: ServeQuery, knob: Knob, memory: Memory, progress: Progress) -> tuple[Turn, Turn]:
    """(the first loosening at which the optimum is better, the first tightening at which it is worse or there is none)."""

    def differs(factor: float) -> bool:
        progress(f"{knob.name} at {factor:.3g} of today's")
        objective = best(*moved(query, knob, factor), memory)
        return objective is None or plan.objective is None or abs(objective - plan.objective) > 1e-9

    return turning_points(knob, differs)


def turning_points(knob: Knob, changed: Callable[[float], bool]) -> tuple[Turn, Turn]:
    """(the first loosening, the first tightening) of a knob from which on `changed` holds of its factor, in its own words; as
    `turning_point` finds them, up to a factor of two. `changed` may raise NotProven, which leaves its own side open."""
    loosest, tightest = (FARTHEST, 1 / FARTHEST) if knob.looser > 1 else (1 / FARTHEST, FARTHEST)
    number, _, unit = knob.value.partition(" ")
    size = int(number) if _is_count(knob) else float(Q(knob.value).m)
    shown = f" {unit}" if unit and _is_count(knob) else ""

    def words(farthest: float) -> str | None:
        at = turning_point(size, farthest, changed)
        return None if at is None else f"{_words(knob, at)}{shown}"

    return if_proven(lambda: words(loosest)), if_proven(lambda: words(tightest))


def turning_point(size: int | float, farthest: float, changed: Callable[[float], bool]) -> float | None:
    """The factor on `size` nearest to 1 from which on `changed` holds, up to `farthest`; None where it does not hold there.

    Within 0.1 % of the size, which it makes a number of five digits; of a whole number exact.
    """
    if isinstance(size, int):
        return _bisect(changed, farthest, size)
    factor = _bisect(changed, farthest, None)
    return None if factor is None else _rounded(size, factor)


def _rounded(size: float, factor: float) -> float:
    """A factor a little farther from 1, at which a size has five digits."""
    digit = 10.0 ** (math.floor(math.log10(size * factor)) - 4)
    whole = math.ceil(size * factor / digit) if factor > 1 else math.floor(size * factor / digit)
    return whole * digit / size


def _bisect(changed: Callable[[float], bool], farthest: float, count: int | None) -> float | None:
    """The nearest factor between 1 and `farthest` at which `changed` holds, and holds from there on; of a count, a whole one."""
    if count is not None:
        near_count, far_count = count, int(count * farthest)
        if far_count == near_count or not changed(far_count / count):
            return None
        while abs(far_count - near_count) > 1:
            middle = (near_count + far_count) // 2
            near_count, far_count = (near_count, middle) if changed(middle / count) else (middle, far_count)
        return far_count / count
    near, far = 1.0, farthest
    if not changed(far):
        return None
    while abs(far - near) > _SWITCH_WIDTH:
        between = (near + far) / 2
        near, far = (near, between) if changed(between) else (between, far)
    return far
