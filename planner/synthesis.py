"""Wall 22 as a query: the least of each of a chip's figures with which it would enter the optimal plan, or make one possible.

One figure is moved at a time, then all of them together, in steps of 1 % of today's. Every answer is verified by a proven
optimum on both sides: at the factor that is named the chip is in, one step before it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zoo.catalog import Catalog
from zoo.errors import UnknownName
from zoo.units import Quantity, UnitError, quantity

from . import in_parallel
from .columns import Memory
from .marginal import solved, world
from .plan import Need, Plan
from .prepare import Progress, in_objective_units, prepare
from .query import AnyQuery, ServeQuery
from .records import QueryError
from .space import offers_of, unknown
from .uncertainty import guarded_query

# Figures are moved in hundredths of today's, at most to ten times of it; prices down to one hundredth.
_STEPS = 100
_MOST = 10 * _STEPS
_FIGURES = ("memory bandwidth", "memory capacity", "peak FLOP/s", "link bandwidth")


def synthesis(
    plan: Plan, query: ServeQuery, chip: str, budget: str | None = None, progress: Progress = lambda _: None
) -> tuple[Need, ...]:
    """What `chip` would have to be, figure by figure: bandwidth, capacity, peak, links, all of them at once, or its price.

    Three questions, by what is given. A plan: the least with which the chip is part of the optimum (a chip that is in the
    plan needs nothing: an empty answer). `budget` ("300 USD/h"): the least with which a fleet of this chip alone meets the
    SLA at that cost. An infeasible question: the least with which there is any plan. A list of chips that leaves this one
    out is widened by it. Raises QueryError for a chip that does not exist, that nobody offers, or a budget that is none.
    """
    memory = Memory()
    catalog = prepare(guarded_query(query), memory=memory).catalog
    name = offered(catalog, chip)
    question, done = _question(
        plan, query, catalog, name, None if budget is None else budget_of(budget, "money rate", "USD/hour", "300 USD/h")
    )
    if budget is None and name in {pool.chip for pool in plan.fleet}:
        return ()
    prepare(guarded_query(question), memory=memory)
    # nothing is too dear where there is no plan and nothing limits cost
    wanted = each_wanted(name, _FIGURES, budget is not None or plan.objective is not None or query.limits.cost is not None)

    allowed = with_what_is_allowed(question, catalog)

    def least(one: Wanted) -> Need:
        progress(f"{name}: {one.text}")
        return _least(question, one, done, memory, plan.objective_unit, allowed)

    return tuple(in_parallel.each(least, wanted))


def with_what_is_allowed(query: AnyQuery, catalog: Catalog) -> Catalog:
    """A catalog with the offers alone that a question allows: their prices are what has to move."""
    return catalog.with_offers({offer.name: offer for offer in offers_of(query, catalog)[0]})


def offered(catalog: Catalog, chip: str) -> str:
    """The catalog's name of a chip that somebody offers. Raises QueryError."""
    try:
        name = str(catalog.find("chips", chip).name)
    except UnknownName as error:
        raise QueryError(f"--synthesis {chip}: {unknown(error, 'chips')}") from None
    if not any(offer.accelerator == name for offer in catalog.offers.values()):
        raise QueryError(f"nobody offers {name} at a known price; add one with zoo: (prices) or ask for another chip")
    return name


def budget_of(text: str, dimension: str, unit: str, example: str) -> str:
    """A budget as `limits.cost` states it, in a unit. Raises QueryError where it is none."""
    try:
        size = float(quantity(text, dimension).m_as(unit))
    except UnitError as error:
        raise QueryError(f"--budget: {error}") from None
    if not size > 0:
        raise QueryError(f'--budget: "{text}" is not above zero, expected {dimension} such as "{example}"')
    return f"{size:.12g} {unit}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Figures of a chip that are moved together."""

    chip: str
    figures: tuple[str, ...]
    direction: int  # 1: more of it is better; -1: less

    @property
    def text(self) -> str:
        if self.figures == ("prices",):
            return "price (all its offers; the cheapest chip-hour)"
        return self.figures[0] if len(self.figures) == 1 else "all of these together"

    def scales(self, steps: int) -> dict[str, float]:
        return {} if steps == _STEPS else dict.fromkeys(self.figures, steps / _STEPS)


def each_wanted(chip: str, figures: Sequence[str], prices: bool) -> list[Wanted]:
    """Every figure alone, all of them together, and `prices` of the chip's offers where they can matter."""
    wanted = [Wanted(chip, (figure,), 1) for figure in figures] + [Wanted(chip, tuple(figures), 1)]
    return wanted + ([Wanted(chip, ("prices",), -1)] if prices else [])


Done = Callable[[set[str]], bool]  # of the chips of the best plan, which is empty where there is none


def _question(plan: Plan, query: ServeQuery, catalog: Catalog, chip: str, budget: str | None) -> tuple[ServeQuery, Done]:
    """The question to solve again and again, and when its best plan is what is wanted."""
    changes: dict[str, object] = {}
    asked = () if query.supply.chips == "all" else {catalog.find("chips", name).name for name in query.supply.chips}
    if budget is not None:
        changes = {"supply.chips": [chip], "limits.cost": budget}
    elif query.supply.chips != "all" and chip not in asked:
        changes = {"supply.chips": [*query.supply.chips, chip]}
    widened = query.override(changes) if changes else query
    assert isinstance(widened, ServeQuery)
    if budget is not None or plan.objective is None:
        return widened, bool
    return widened, lambda chips: chip in chips


def _least(question: ServeQuery, wanted: Wanted, done: Done, memory: Memory, unit: str, catalog: Catalog) -> Need:
    def best(steps: int) -> tuple[bool, float | None]:
        prepared, certificate = solved(question, wanted.scales(steps), memory, wanted.chip, tie_break=True)
        chips = {prepared.market.columns[purchase.column].offer.accelerator for purchase in certificate.purchases}
        return done(chips), in_objective_units(question, certificate.objective)

    def in_the_way(steps: int, objective: float | None) -> str:
        return _in_the_way(question, wanted, steps, memory, objective is not None)

    return least_need(wanted, catalog, best, in_the_way, unit)


def least_need(
    wanted: Wanted,
    catalog: Catalog,
    best: Callable[[int], tuple[bool, float | None]],
    in_the_way: Callable[[int, float | None], str],
    unit: str,
) -> Need:
    """The first step away from today's figure at which it is done: bisection, with both sides solved.

    best: of a number of hundredths of today's figures, (whether it is done, the best objective then, None where there is no
    plan). in_the_way: of the farthest number and its objective, why not even that does.
    """
    known: dict[int, tuple[bool, float | None]] = {}

    def there(steps: int) -> bool:
        if steps not in known:
            known[steps] = best(steps)
        return known[steps][0]

    today = _figure(catalog, wanted)
    near, far = (_STEPS, _MOST) if wanted.direction > 0 else (_STEPS, 1)
    factor = None
    if there(near):
        factor = near
    elif there(far):
        while abs(far - near) > 1:
            middle = round(math.sqrt(near * far))  # of factors; small ones are sooner answered than large ones
            near, far = (near, middle) if there(middle) else (middle, far)
        factor = far
    return Need(
        what=wanted.text,
        chip=wanted.chip,
        factor=None if factor is None else factor / _STEPS,
        today=_text(today, 1.0),
        needed="" if factor is None else _text(today, factor / _STEPS),
        objective=None if factor is None else known[factor][1],
        unit=unit,
        wall="" if factor is not None else in_the_way(far, known[far][1]),
    )


def _in_the_way(question: ServeQuery, wanted: Wanted, steps: int, memory: Memory, without: bool) -> str:
    """What keeps a chip out with its figures moved that far: the walls that leave no layout of it, limits, or the others."""
    alone = question.set("supply.chips", [wanted.chip])
    assert isinstance(alone, ServeQuery)
    alone = guarded_query(alone)
    prepared = prepare(alone, memory=world(alone, wanted.scales(steps), memory, wanted.chip))
    if prepared.choices.columns:
        return "others do it for less" if without else "it serves, but not all within the question's limits"
    walls = dict.fromkeys(f"{gone.name}: {gone.reason}" for gone in prepared.dropped if gone.wall is not None)
    return "; ".join(walls) or "no layout of it can be rented"


def _figure(catalog: Catalog, wanted: Wanted) -> Quantity | None:
    """Today's figure of the chip in its usual unit; None where it is not known, or where several are moved."""
    chip = catalog.chips[wanted.chip]
    if len(wanted.figures) > 1:
        return None
    if wanted.figures == ("prices",):
        prices = [o.price / o.accelerators for o in catalog.offers.values() if o.accelerator == chip.name]
        return min(prices).to("USD/hour") if prices else None
    if wanted.figures == ("peak FLOP/s",):
        peak = chip.peak.get("bf16", chip.peak.get("fp16"))
        return None if peak is None else peak.to("Tflop/s")
    value, unit = {
        "memory bandwidth": (chip.memory_bandwidth, "GB/s"),
        "memory capacity": (chip.memory, "GiB"),
        "link bandwidth": (chip.link_bandwidth if chip.link_bandwidth is not None else chip.host_bandwidth, "GB/s"),
        "network bandwidth": (chip.nic_bandwidth, "GB/s"),
    }[wanted.figures[0]]
    return None if value is None else value.to(unit)


def _text(value: Quantity | None, factor: float) -> str:
    return "" if value is None else f"{float(value.magnitude) * factor:.4g} {value.units:~C}".replace("usd", "USD")
