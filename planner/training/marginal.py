"""What one more of each wall is worth to a training job: every limit and every figure of the world moved, and solved again.

Integer programs have no duals, and moving a wall changes which layouts and counts there are, so every value is the difference
of two proven optima. Optima are compared over the same numbers of accelerators: a count that one of them found is tried in all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from models.training_constants import RECIPES
from zoo.units import Q, Quantity

from .. import in_parallel
from ..marginal import FARTHEST, UNIT_STEPS, short, whole
from ..plan import Marginal
from ..query import TrainQuery
from ..records import QueryError
from ..scalars import text_of
from .asking import Asker, Scales
from .check import layout_of, strategy_of
from .figures import FIELDS_OF_CHIPS, OF_STEPS, OF_TIMES, figures_of
from .job import UNITS, accelerator_of, bounds_of, limit_for, service_of
from .least import bounded, least_of, limit_of
from .market import Column, Market, column_totals
from .plan import Job, TrainPlan
from .question import Question
from .report_units import in_units, unit_of
from .search import fits, step_of

# The point where moving a figure of the world switches the plan is known to this relative width. Limits are not searched like
# this: their switch points are optima themselves.
_WIDTH = 0.001
_SLACK = 1.02
# Figures whose switch points are looked for; physics changes every layout, and is left to synthesis.
_SWITCHING = ("prices", "carbon intensity", "failure rate")

Moved = tuple[TrainQuery, Scales]


@dataclass(frozen=True, slots=True)
class Knob:
    """Something that can be moved by a factor. `moved(factor)` is the question then, and the scales of the world.

    easier: factor of a move by 1 % that makes the job easier; unit_factor: of a move by `unit_step`. size: of what the question
    says, in the `unit` that it is written in, a whole number of what is counted; None of a figure of the world. resource: what
    of a job's totals a limit bounds; None where it is no limit on a total.
    """

    number: int
    wall: str
    name: str
    origin: Literal["physics", "query", "market"]
    value: str
    easier: float
    moved: Callable[[float], Moved]
    unit_step: str = ""
    unit_factor: float | None = None
    size: int | float | None = None
    unit: str = ""
    resource: str | None = None


# Limit -> (wall, its name, unit, one step of it in this unit)
_LIMITS = {
    "cost": (17, "capital", "USD", 10_000.0),
    "power": (18, "sustainability", "kW", 100.0),
    "carbon": (18, "sustainability", "tCO2e", 1.0),
    "water": (18, "sustainability", "kL", 100.0),
}


def knobs(question: Question, job: Job) -> Iterator[Knob]:
    """Everything that can be moved: the user's limits first, then physics and the market, as the job of today finds them."""
    query, instance = question.query, job.accelerators // max(job.instances - job.spare_instances, 1)

    def setting(path: str, words: Callable[[float], object]) -> Callable[[float], Moved]:
        def moved(factor: float) -> Moved:
            changed = query.override({path: words(factor)})
            assert isinstance(changed, TrainQuery)
            return changed, ()

        return moved

    if question.deadline is not None:
        days = float(question.deadline.m_as("day"))
        yield Knob(
            11, "complexity", "deadline", "query", text_of(Q(round(days, 6), "day")), 1.01,
            setting("deadline", lambda factor: f"{days * factor:.10g} day"), "1 day", (days + 1) / days, days, "day", "time",
        )  # fmt: skip
    for name, (number, wall, unit, step) in _LIMITS.items():
        limit: Quantity | None = getattr(query.limits, name)
        if limit is not None:
            size = float(limit.m_as(unit))
            yield Knob(
                number, wall, f"limit of {name}", "query", text_of(limit), 1.01,
                setting(f"limits.{name}", lambda factor, size=size, unit=unit: f"{size * factor:.12g} {unit}"),  # type: ignore[misc]
                f"{step:g} {unit}", (size + step) / size, size, unit, name,
            )  # fmt: skip
    if query.limits.chips is not None:
        yield _counted("limit of chips", query.limits.chips, instance, "chips", setting, "limits.chips", "chips")
    for place, quota in enumerate(query.supply.quota):
        key = "chips" if quota.chips is not None else "instances"
        count = quota.chips if quota.chips is not None else quota.instances or 0
        if count:
            step = instance if key == "chips" else 1
            yield _counted(f"quota {place}", count, step, key, setting, f"supply.quota[{place}].{key}", None)
    if query.supply.accelerators is not None:
        low, high = query.supply.accelerators

        def upto(factor: float) -> object:
            return [low, max(low, whole(high, factor))]

        def downto(factor: float) -> object:
            return [min(high, max(1, whole(low, factor))), high]

        where, words = "supply.accelerators", "accelerators"
        yield Knob(0, "supply", "accelerators at most", "query", str(high), 1.01, setting(where, upto),
                   f"{instance} {words}", (high + instance) / high, high)  # fmt: skip
        if low > instance:
            yield Knob(0, "supply", "accelerators at least", "query", str(low), 0.99, setting(where, downto),
                       f"{instance} {words}", (low - instance) / low, low)  # fmt: skip
    tokens = float(question.tokens.m_as("token"))

    def trained(factor: float) -> Moved:
        changed = query.override({"workload.compute": None, "workload.tokens": f"{tokens * factor:.12g} token"})
        assert isinstance(changed, TrainQuery)
        return changed, ()

    yield Knob(
        11, "complexity", "tokens", "query", f"{tokens:.4g} token", 0.99, trained, "1e9 token", max(1 - 1e9 / tokens, 0.5),
        tokens, "token",
    )  # fmt: skip
    for figure in figures_of(query):

        def scaled(factor: float, name: str = figure.name) -> Moved:
            return query, ((name, factor),)

        of, now = _today(question, job, figure.name)
        one, words, unit_factor = _UNIT_STEPS.get(figure.name), "", None
        share = 1.0 if now is None or one is None else float((one / now).m_as("dimensionless"))
        if one is not None and share < 1:  # a unit as large as the figure is no step
            words, unit_factor = short(one), 1 + share if figure.easier > 1 else 1 - share
        value = of if now is None else f"{of} {short(now)}".strip()
        yield Knob(figure.number, figure.wall, figure.name, figure.origin, value, figure.easier, scaled, words, unit_factor)


# One unit of figures that only training has.
_UNIT_STEPS = UNIT_STEPS | {
    "network bandwidth": Q(1.0, "GiB/s"),
    "host bandwidth": Q(1.0, "GiB/s"),
    "restart time": Q(1.0, "min"),
    "storage bandwidth": Q(1.0, "GiB/s"),
}


def _today(question: Question, job: Job, name: str) -> tuple[str, Quantity | None]:
    """(what a figure of the world is a figure of, how much it is for a job; None where no quantity says it)."""
    chip = question.catalog.chips[job.chip]
    if name == "peak FLOP/s":
        computes_in = RECIPES[job.layout.precision][1]
        return f"{chip.name} {computes_in}", chip.peak[computes_in].to("Tflop/s")
    if name in FIELDS_OF_CHIPS:
        figure: Quantity | None = getattr(chip, FIELDS_OF_CHIPS[name])
        return chip.name, figure if figure is None or name == "memory capacity" else figure.to("GB/s")
    if name == "efficiency":
        return f"as fitted: MFU {job.mfu:.1%}", None
    if name == "failure rate":
        return f"one in {float(question.mtbf[1].m_as('hour')):,.0f} h of an accelerator", None
    if name == "restart time":
        return "", question.restart.to("min")
    if name == "storage bandwidth":
        each, together = question.store.write
        write = each if together is None else together
        return f"{question.store.name}, writing", None if write is None else write.to("GB/s")
    if name == "prices":
        return chip.name, question.catalog.find("offers", job.offer).price.to("USD/hour")
    grid = question.catalog.regions[job.region].grid
    return job.region, getattr(grid, f"{question.query.carbon.method}_intensity")


def _counted(name: str, count: int, step: int, words: str, setting: Any, path: str, resource: str | None) -> Knob:
    return Knob(
        0, "supply", name, "query", f"{count} {words}", 1.01, setting(path, lambda factor: whole(count, factor)),
        f"{step} {words}", (count + step) / count, count, words, resource,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best of a moved question as integers of the program (objective None: infeasible), and what it is."""

    objective: int | None
    accelerators: int
    signature: tuple[object, ...]
    totals: tuple[tuple[str, int], ...] = ()


def optimum_of(market: Market) -> Optimum:
    """What of a market's best column is compared. Two plans are the same when they rent the same and lay it out alike."""
    best = market.best
    if best is None or best.found is None:
        return Optimum(None, 0, ())
    signature = (best.offer.name, best.accelerators, layout_of(market.question, best.found))
    return Optimum(best.objective, best.accelerators, signature, tuple(best.totals.items()))


def marginals(plan: TrainPlan, query: TrainQuery, asker: Asker, switches: bool = False) -> tuple[Marginal, ...]:
    """Every knob with what 1 % and one unit of it are worth, and whether it binds.

    A knob binds when moving it by 1 % or one unit to the easier side improves the objective, or 1 % to the other side worsens
    or breaks the plan. `switches` also finds how far limits must move before the plan changes, on both sides, and what the best
    plan of 1 % less costs.
    """
    if plan.job is None:
        return ()
    asker.counts = asker.counts | {plan.job.accelerators}
    question = asker.question(query)
    found = list(knobs(question, plan.job))
    asker.lead = plan.job.offer, plan.job.accelerators
    while True:
        asker.progress("the optimum")
        market = asker.market(question, slack=_SLACK)  # what was searched beyond the best need not be when 1 % moves
        base = optimum_of(market)
        if market.best is None or base.objective is None:
            return ()
        asker.progress(f"{len(found)} limits and figures moved")
        easier = {(knob, f): o for knob, of in zip(found, _eased(asker, base, found), strict=True) for f, o in of.items()}
        back = [(knob, 2 - knob.easier) for knob in found]
        harder = dict(zip(found, _harder(asker, market.best, base, easier, back), strict=True))
        counts = asker.counts | {o.accelerators for o in (*easier.values(), *harder.values()) if o.objective is not None}
        better = asker.market(question, counts=counts).best
        if better is None or better.objective >= base.objective:
            break
        asker.counts = counts  # a count that no question found before is better today too: compare over it
    rows = []
    for knob in found:
        one, worse = easier[knob, knob.easier], harder[knob]
        unit = None if knob.unit_factor is None else easier[knob, knob.unit_factor]
        saved, per_unit = _saved(query, base, one), None if unit is None else _saved(query, base, unit)
        worsens = worse.objective is None or worse.objective > base.objective
        rows.append(
            Marginal(
                number=knob.number, name=knob.wall, knob=knob.name, origin=knob.origin, value=knob.value,
                binding=bool((saved or 0) > 0 or (per_unit or 0) > 0 or worsens), per_percent=saved, unit_step=knob.unit_step,
                per_unit=per_unit, unit=unit_of(query), breaks=worse.objective is None,
            )
        )  # fmt: skip
    if switches:
        pairs = in_parallel.each(lambda knob: _switches(asker, question, knob, base), found)
        # where `_harder` took today's job for enough, a better one may be there
        bounds = [k for k in found if harder[k].signature == base.signature and harder[k].objective != base.objective]
        solved = in_parallel.each(lambda knob: _moved(asker, base, knob, 2 - knob.easier)[0], bounds)
        harder |= dict(zip(bounds, solved, strict=True))
        rows = [
            row.model_copy(
                update={"switches_at": looser, "worsens_at": tighter, "costs_per_percent": _costs(query, base, harder[knob])}
            )
            for row, knob, (looser, tighter) in zip(rows, found, pairs, strict=True)
        ]
    return tuple(rows)


def _costs(query: TrainQuery, base: Optimum, worse: Optimum) -> float | None:
    saved = _saved(query, base, worse)
    return None if saved is None else -saved


def _eased(asker: Asker, base: Optimum, found: list[Knob]) -> list[dict[float, Optimum]]:
    """Of each knob the optimum after its moves to the easier side."""

    def of(knob: Knob) -> dict[float, Optimum]:
        factors = sorted({knob.easier, knob.unit_factor or knob.easier}, key=lambda factor: -abs(factor - 1))
        far = _moved(asker, base, knob, factors[0])
        eased = {factors[0]: far[0]}
        for factor in factors[1:]:
            query, scales = knob.moved(factor)
            # more memory makes no step shorter: the best job of more is the best of less, where it fits there too
            fits_too = knob.name in OF_STEPS - OF_TIMES and far[1] is not None
            same = fits_too and unmoved(asker, asker.question(query, scales), scales, far[1]) == far[0].objective  # type: ignore[arg-type]
            eased[factor] = far[0] if same else _moved(asker, base, knob, factor)[0]
        return eased

    return in_parallel.each(of, found)


def _harder(
    asker: Asker, best: Column, base: Optimum, easier: Mapping[tuple[Knob, float], Optimum], moves: list[tuple[Knob, float]]
) -> list[Optimum]:
    """The optimum after each move to the harder side, or the job of today there where that tells as much.

    That is so where it still keeps every limit and either the knob is known to bind, or the job takes what it takes today.
    """

    def same(move: tuple[Knob, float]) -> Optimum:
        knob, factor = move
        if knob.resource is None:
            try:
                query, scales = knob.moved(factor)
                objective = unmoved(asker, asker.question(query, scales), scales, best)
            except QueryError:
                return Optimum(None, 0, ())
            gain = easier[knob, knob.easier].objective
            binds = gain is not None and base.objective is not None and gain < base.objective
            if objective is not None and (binds or objective == base.objective):
                return replace(base, objective=objective)
        return _moved(asker, base, knob, factor)[0]

    return in_parallel.each(same, moves)


def unmoved(asker: Asker, question: Question, scales: Scales, column: Column) -> int | None:
    """The objective of today's job in a moved world; None where it breaks a limit or does not fit there."""
    assert column.found is not None
    alike = tuple(offer for offer in question.offers if offer.accelerator == column.offer.accelerator)
    for family in asker.families_of(replace(question, offers=alike), scales):
        names = [offer.name for offer in family.rates.offers]
        if column.offer.name in names:
            break
    else:
        return None
    count, j = column.accelerators, names.index(column.offer.name)
    strategy = strategy_of(question, layout_of(question, column.found))
    accelerator = accelerator_of(question, family.machine, count)
    if not bool(np.all(fits(family.task, accelerator, strategy, family.host))):
        return None
    low, high = question.query.supply.accelerators or (count, count)
    step = float(step_of(family.task, accelerator, strategy, family.host).ranked(question.task.pessimistic)[0])
    service = service_of(question, family.machine, np.array([float(count)]), family.spot, family.vcpus)
    totals, objective = column_totals(question, family, service, np.asarray(service.goodput.fraction), count, step)
    if not low <= count <= high or any(totals[name][j] > bound for name, bound in bounds_of(question).items()):
        return None
    for quota, counts in zip(question.query.supply.quota, column.quotas, strict=True):
        used, allowed = (totals["chips"][j], quota.chips) if quota.chips is not None else (column.instances, quota.instances or 0)
        if counts and used > allowed:
            return None
    return objective[j]


def _moved(asker: Asker, base: Optimum, knob: Knob, factor: float) -> tuple[Optimum, Column | None]:
    """The optimum after a move, and its column where it was searched. A limit tightened to what the best plan keeps leaves it the
    best: nothing is to be solved."""
    try:
        query, scales = knob.moved(factor)
        question = asker.question(query, scales)
    except QueryError:  # no whole instance, no count left: nothing can be bought
        return Optimum(None, 0, ()), None
    if knob.resource is not None and factor < 1 and dict(base.totals)[knob.resource] <= bounds_of(question)[knob.resource]:
        return base, None
    market = asker.market(question, scales)
    return optimum_of(market), market.best


def _saved(query: TrainQuery, base: Optimum, moved: Optimum) -> float | None:
    if base.objective is None or moved.objective is None:
        return None
    return in_units(query, base.objective - moved.objective)


def _switches(asker: Asker, question: Question, knob: Knob, base: Optimum) -> tuple[str | None, str | None]:
    """Where a knob has moved to the easier and to the harder side so far that the plan is another, in its own words.

    A limit, exactly: where a better plan comes in, and one unit of the program below what the plan takes.
    """
    if knob.resource is not None:
        used = limit_for(question, knob.resource, dict(base.totals)[knob.resource])
        return _least_better(asker, question, knob, base), _words(question, knob, used - 1)
    if knob.name not in _SWITCHING:
        return None, None

    def changes(factor: float) -> bool:
        query, scales = knob.moved(factor)
        asker.progress(f"{knob.name} x {factor:.3g}")
        return optimum_of(asker.market(asker.question(query, scales), scales)).signature != base.signature

    sides = [_bisect(changes, far) for far in (1 / FARTHEST, FARTHEST)]
    cheaper, dearer = (None if factor is None else f"x {factor:.4g}" for factor in sides)
    return cheaper, dearer


def _bisect(changed: Callable[[float], bool], far: float) -> float | None:
    """A factor at which the plan is another while it is the same one `_WIDTH` nearer to 1; None where it is the same at `far`."""
    near = 1.0
    if not changed(far):
        return None
    while abs(far - near) > _WIDTH * near:
        middle = (near + far) / 2
        near, far = (near, middle) if changed(middle) else (middle, far)
    return far


def _least_better(asker: Asker, question: Question, knob: Knob, base: Optimum) -> str | None:
    """The least bound of a limit with which a better plan is possible; exact: with one step less there is none.

    It is itself an optimum: the least of the limited resource among plans that are better by one unit of the objective.
    """
    query, resource = question.query, knob.resource
    assert resource is not None and base.objective is not None
    if query.minimize not in UNITS or query.minimize in ("energy", resource):
        return None
    better = bounded(query, query.minimize, limit_for(question, query.minimize, base.objective - 1))
    least = least_of(asker, better, resource)
    return None if least is None else _words(question, knob, least)


def _words(question: Question, knob: Knob, bound: int) -> str:
    """A bound of a limit, in integers of the program, in the unit of its clause."""
    assert knob.resource is not None
    size = limit_of(question.query, knob.resource, bound).m_as({"day": "day", "chips": ""}.get(knob.unit, knob.unit))
    return f"{float(size):.10g} {knob.unit}"
