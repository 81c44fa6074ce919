"""What can be bought for a job, as columns: an offer, a number of accelerators, and the best layout there.

Columns are priced lazily. A lower bound of the step time gives every column bounds on all that it takes; the column whose
bound is least is searched exactly, and so on until no bound is below the best column found. So the answer is exact within
the stated grid of counts, though most of its columns are never searched.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.dimensions import ImpossibleValue, UnknownValue
from models.training import machine_of
from models.training_constants import RECIPES
from zoo.specs import Accelerator, Offer
from zoo.units import Q

from .. import columns, plan
from ..program import LARGEST_COEFFICIENT, whole
from ..records import OutOfTime
from ..space import Dropped, Machine
from .job import (
    Rates,
    Service,
    accelerator_of,
    bounds_of,
    clause_of,
    host_of,
    hours_of,
    longest,
    objective_of,
    rates_of,
    rented,
    service_of,
    stands_alone,
    step_within,
    totals_of,
    usable_spot,
)
from .layouts import cores_of, products_of
from .question import Question
from .search import (
    Counted,
    Found,
    Host,
    Over,
    Task,
    floor_of,
    least_memory,
    machine_bound,
    never,
    search,
    split_bounds,
)

MOST = 65_536  # accelerators, where no limit is given
_PER_DOUBLING = 8  # counts of instances, above as many
_REFINED = 48  # most counts tried between the neighbours of the best
_AHEAD = 7  # counts that are bounded together with the one to be searched
_SHOWN = 200  # columns with bounds only that the program carries beside the exact ones

Floats = NDArray[np.float64]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Family:
    """Offers of one kind of machine that fail alike: whatever the count, they have the same step and the same goodput."""

    machine: Machine
    task: Task
    floors: dict[str, float]  # number format -> `search.floor_of`
    host: Host
    rates: Rates
    quotas: NDArray[np.bool_]  # offers x quotas: whether one counts against the other
    vcpus: int | None
    spot: Offer | None
    known: dict[tuple[Any, ...], _Counts] = field(default_factory=dict, compare=False, repr=False)  # by what they depend on
    services: dict[tuple[Any, ...], Service] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What numbers of accelerators of a family are like, whatever is trained on them and however it is limited."""

    service: Service
    goodput: Floats
    least: Floats  # ranked step time [s], a lower bound
    full: NDArray[np.bool_]  # no layout fits


@dataclass(frozen=True, slots=True)
class Column:
    """An offer, a count and, where it was searched, its best layout. `totals` and `objective` are integers of `job.UNITS`."""

    name: str
    family: int
    offer: Offer
    accelerators: int
    instances: int
    totals: dict[str, int]
    objective: int
    found: Found | None  # None: the totals are lower bounds
    quotas: tuple[bool, ...]


@dataclass(slots=True)
class Market:
    """All that was found: columns, what was removed, and how much was counted.

    measure: what is minimised, of totals, where that is not the question's objective; never falling where a total grows.
    `unsearched`: where the time was over before the best was proven, a lower bound of the objective of all that was not
    searched; None where all was that could be the best.
    """

    question: Question
    families: list[Family]
    columns: list[Column] = field(default_factory=list)
    removed: dict[tuple[int | None, str, str], int] = field(default_factory=dict)
    lacking: set[tuple[int | None, str, str]] = field(default_factory=set)  # of `removed`: for lack of data
    counted: Counted = field(default_factory=Counted)
    searched: int = 0
    pairs: int = 0
    unsearched: int | None = None
    measure: Callable[[dict[str, Any]], Any] | None = None
    of_steps: tuple[Any, ...] | None = None  # `what_steps_depend_on`, once it is asked for

    def objective(self, totals: dict[str, Any]) -> Floats:
        """What is minimised, of exact totals."""
        return np.asarray(objective_of(self.question, totals) if self.measure is None else self.measure(totals))

    @property
    def bound(self) -> int | None:
        """Where the time was over: a lower bound of the objective of every column, searched or not."""
        best = self.best
        return self.unsearched if best is None or self.unsearched is None else min(self.unsearched, best.objective)

    def drop(self, wall: int | None, name: str, count: int, reason: str, missing: bool = False) -> None:
        if count:
            self.lacking |= {(wall, name, reason)} if missing else set()
            self.removed[wall, name, reason] = self.removed.get((wall, name, reason), 0) + int(count)

    @property
    def removals(self) -> tuple[plan.Removed, ...]:
        """What every wall and clause removed: offers, counts and strategies."""
        removed = [plan.Removed(wall=d.wall, name=d.name, removed=d.removed, reason=d.reason) for d in self.dropped]
        if self.counted.memory:
            reason = "strategies: their expected peak exceeds the accelerator's memory"
            if self.question.task.given:
                reason = "the layout given: even its least memory exceeds the accelerator's"
            removed.append(plan.Removed(wall=2, name="memory", removed=self.counted.memory, reason=reason))
        if self.counted.bound:
            reason = "strategies: a lower bound of their step time is above the best, or above what the limits leave"
            removed.append(plan.Removed(wall=14, name="bound", removed=self.counted.bound, reason=reason))
        return tuple(removed)

    @property
    def exact(self) -> list[Column]:
        return [column for column in self.columns if column.found is not None]

    @property
    def best(self) -> Column | None:
        """Least objective; then least cost, carbon, and time, and the market's order."""
        order = ("cost", "carbon", "time", "chips")
        return min(self.exact, key=lambda c: (c.objective, *(c.totals[name] for name in order)), default=None)

    @property
    def dropped(self) -> list[Dropped]:
        return [Dropped(*key[:2], count, key[2], key in self.lacking) for key, count in self.removed.items()]


# What searches found, kept between questions that differ in other things only (explanations ask many such questions): the
# longest step [s] within which was sought, and the best layout, None where there is none within that.
Memory = dict[tuple[Any, ...], tuple[float, Found | None]]


@dataclass(slots=True)
class _Table:
    """Bounds of one family over its counts (first axis) and offers (second axis). `_tighten` raises them in place."""

    counts: Floats
    instances: Floats
    service: Service
    goodput: Floats
    least: Floats  # ranked step [s] of each count, a lower bound
    objective: Floats  # lower bounds; infinite where a limit forbids
    totals: dict[str, Floats]  # lower bounds


_WALLS = {"cost": 17, "carbon": 18, "power": 18, "water": 18, "chips": None, "time": 11}


def market_of(
    question: Question,
    progress: Progress = lambda _: None,
    memory: Memory | None = None,
    first: bool = False,
    families: list[Family] | None = None,
    counts: Collection[int] = (),
    lead: tuple[str, int] | None = None,
    slack: float = 1.0,
    over: Over = never,
) -> Market:
    """Every column of a question that can be the best, searched exactly. first: stop at the first that keeps every limit.

    Where the grid of counts holds none, every whole number of instances is tried, so that "infeasible" is said of all of them.
    families: `families_of` the question, where they are known; counts: numbers of accelerators that are tried beside the grid;
    lead: (offer, accelerators) that is searched first, because it is likely the best; slack: every column is searched whose
    bound is below so many times the best. None of these changes what the best is, `counts` apart.
    over: asked before each search and within; once it is true, the market has an `unsearched`, and its best is not proven.
    """
    memory = {} if memory is None else memory
    market = Market(question, [])
    for dropped in question.dropped:
        market.drop(dropped.wall, dropped.name, dropped.removed, dropped.reason, dropped.missing)
    market.families = families_of(question, market) if families is None else families
    grids = [counts_of(question, family, counts) for family in market.families]
    for family, grid in zip(market.families, grids, strict=True):
        if not len(grid) and stands_alone(family.machine):
            reason = "parts of a board share its network ports: they train on their own only"
            market.drop(10, "locality", len(family.rates.offers), reason)
    _explore(market, grids, progress, memory, first, lead=lead, slack=slack, over=over)
    if market.unsearched is not None:  # the best may be between any counts of the grid
        market.unsearched = min(market.unsearched, _least(market, grids))
        return market
    if market.best is None:
        others = [_others(question, family, grid) for family, grid in zip(market.families, grids, strict=True)]
        _explore(market, others, progress, memory, first, over=over)
        if market.unsearched is not None:
            return market
    best = market.best
    if best is not None and not first:
        extra = [np.array([]) for _ in market.families]
        extra[best.family] = _between(grids[best.family], best.accelerators, market.families[best.family])
        if len(extra[best.family]):
            _explore(market, extra, progress, memory, refining=True, slack=slack, over=over)
    return market


def _least(market: Market, grids: list[Floats]) -> int:
    """A lower bound of the objective of every count that is not in the grids."""
    bounds, aside = bounds_of(market.question), Market(market.question, market.families)
    least = float(LARGEST_COEFFICIENT)
    for family, grid in zip(market.families, grids, strict=True):
        others = _others(market.question, family, grid)
        if len(others):
            least = min(least, float(_table(aside, family, others, bounds).objective.min(initial=np.inf)))
    return int(least)


def families_of(question: Question, market: Market, like: Sequence[Family] = ()) -> list[Family]:
    """Its offers, by kinds of machines that fail alike, without those that others replace.

    like: families of questions about the same workload, layouts, fabric and figures, of which what does not depend on the rest is
    taken over.
    """
    floors_of = {(one.machine.name, one.machine.domain, one.task.precisions): one.floors for one in like}
    known = {_of_counts(one): one for one in like}
    services = like[0].services if like else {}
    means = columns.means_of(question.catalog)
    sites: dict[str, columns.Site | str] = {}
    found: list[tuple[Machine, Task, dict[str, float], str | None, list[Offer], list[columns.Site]]] = []
    for machine, offers in question.machines:
        chip = machine.accelerator
        if chip.tdp is None or chip.host_power_share is None:
            market.drop(18, "sustainability", len(offers), "the chip's power is unknown", missing=True)
            continue
        task = replace(question.task, precisions=tuple(p for p in question.task.precisions if RECIPES[p][1] in chip.peak))
        try:
            floors = floors_of.get((machine.name, machine.domain, task.precisions)) or {
                p: floor_of(task, accelerator_of(question, machine, 1), p) for p in task.precisions
            }
        except UnknownValue as error:
            market.drop(1, "compute", len(offers), str(error), missing=True)
            continue
        groups: dict[str | None, list[tuple[Offer, columns.Site]]] = {}
        for offer in offers:
            if offer.region not in sites:
                sites[offer.region] = columns.site_of(question.catalog.regions[offer.region], question.query, means)
            site = sites[offer.region]
            if isinstance(site, str):
                market.drop(18, "sustainability", 1, f"no {question.query.carbon.method} carbon intensity", missing=True)
            elif not usable_spot(offer):
                market.drop(15, "fragility", 1, "how often the spot offer is interrupted is unknown", missing=True)
            else:
                groups.setdefault(offer.interruption_band if offer.option == "spot" else None, []).append((offer, site))
        for band, pairs in groups.items():
            found.append((machine, task, floors, band, [offer for offer, _ in pairs], [site for _, site in pairs]))
    every = rates_of(question, [o for *_, theirs, _ in found for o in theirs], [s for *_, where in found for s in where])
    families, first = [], 0
    for machine, task, floors, band, theirs, _ in found:
        rates = every.at(np.arange(first, first + len(theirs)))
        first += len(theirs)
        quotas = np.array(
            [[columns.matches(quota, offer, question.catalog) for quota in question.query.supply.quota] for offer in theirs],
            bool,
        ).reshape(len(theirs), -1)
        keep = _undominated(question, rates, quotas)
        market.drop(None, "dominated", len(theirs) - len(keep), "another offer of the same machine takes no more of anything")
        vcpus = [offer.vcpus for offer in theirs if offer.vcpus is not None]
        family = Family(
            machine, task, floors, host_of(question, machine, theirs), rates.at(keep), quotas[keep],
            min(vcpus) if len(vcpus) == len(theirs) else None, theirs[0] if band is not None else None,
        )  # fmt: skip
        same = known.get(_of_counts(family))
        families.append(replace(family, known={} if same is None else same.known, services=services))
    return families


def _of_counts(family: Family) -> tuple[Any, ...]:
    """Everything of a family that `_counts` looks at."""
    band = None if family.spot is None else family.spot.interruption_band
    return family.machine.name, family.machine.domain, family.task.precisions, family.task.given, band, family.vcpus


def moved_families(question: Question, families: Sequence[Family], same_links: bool) -> list[Family]:
    """`families_of` in a world that differs in figures of chips or in the speed of software alone: offers, what they take, and
    which of them are dominated stay. same_links: so do the links of hosts, and with them all that storage takes."""
    moved, services = [], {} if not same_links or not families else families[0].services
    for family in families:
        chip = question.catalog.chips[family.machine.accelerator.name]
        if chip is family.machine.accelerator and question.task.constants is family.task.constants:
            moved.append(family)
            continue
        machine = replace(family.machine, accelerator=chip)
        task = replace(question.task, precisions=family.task.precisions)
        floors = family.floors
        if question.task.constants is not family.task.constants or not _computes_alike(chip, family.machine.accelerator):
            floors = {p: floor_of(task, accelerator_of(question, machine, 1), p) for p in task.precisions}
        host = replace(family.host, link=chip.host_bandwidth)
        moved.append(replace(family, machine=machine, task=task, floors=floors, host=host, known={}, services=services))
    return moved


def _computes_alike(chip: Accelerator, other: Accelerator) -> bool:
    """Whether two chips have the same `search.floor_of`."""
    return chip.peak == other.peak and chip.memory_bandwidth == other.memory_bandwidth


def _undominated(question: Question, rates: Rates, quotas: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Offers that no other offer of the family replaces: at most as much of the objective, of each limit and of each quota."""
    needed = ["cost", "term"] + [
        name
        for name in ("carbon", "power", "water")
        if getattr(question.query.limits, name) is not None or name == question.query.minimize
    ]
    needed += ["carbon"] if "carbon" in question.query.minimize else ["energy"] if question.query.minimize == "energy" else []
    table = np.column_stack([*(getattr(rates, name) for name in needed), *quotas.T])
    order = np.lexsort((rates.carbon, *table.T[::-1]))
    keep: list[int] = []
    for i in order:
        if not any(np.all(table[k] <= table[i]) for k in keep):
            keep.append(int(i))
    return np.array(sorted(keep), int)


def counts_of(question: Question, family: Family, also: Collection[int] = ()) -> Floats:
    """The grid: multiples of an instance, each up to eight, then eight per doubling, within what the question allows.

    also: further numbers of accelerators, where they are multiples.
    """
    low, high = _instances(question, family)
    if low > high:
        return np.array([])
    size = family.machine.accelerators
    grid, step = {count // size for count in also if count % size == 0}, 1
    while step <= high:
        grid |= {m * step for m in range(1 if step == 1 else _PER_DOUBLING, 2 * _PER_DOUBLING)}
        step *= 2
    grid |= {low, high}
    return np.array(sorted(float(m * size) for m in grid if low <= m <= high))


def _others(question: Question, family: Family, grid: Floats) -> Floats:
    """Every number of accelerators of a family that is not in the grid and that some split of the model makes up."""
    low, high = _instances(question, family)
    size = family.machine.accelerators
    products = products_of(question.task.choices, high * size).astype(float)
    return np.setdiff1d(products[(products % size == 0) & (products >= low * size)], grid)


def _instances(question: Question, family: Family) -> tuple[int, int]:
    """(fewest, most) instances that the question allows; fewest is more than most where it allows none."""
    size = family.machine.accelerators
    low, high = question.query.supply.accelerators or (1, MOST)
    if question.query.limits.chips is not None:
        high = min(high, question.query.limits.chips)
    if stands_alone(family.machine):
        high = min(high, size)
    return max(-(-low // size), 1), high // size


def _between(grid: Floats, best: int, family: Family) -> Floats:
    """Counts between the neighbours of the best one: all multiples of the instance, or an even choice of them."""
    at = int(np.argmin(np.abs(grid - best)))
    low, high = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    size = family.machine.accelerators
    every = np.arange(low, high + size, size)
    stride = max(1, -(-len(every) // _REFINED))
    return np.array([count for count in every[::stride] if count not in set(grid) and low <= count <= high])


def _explore(
    market: Market, grids: list[Floats], progress: Progress, memory: Memory, first: bool = False, refining: bool = False,
    lead: tuple[str, int] | None = None, slack: float = 1.0, over: Over = never,
) -> None:  # fmt: skip
    """Search the columns of these counts, least bound first, until no bound is below the best or the time is over.

    Bounds get tighter on the way: first of any layout that there could be, then, of those that may be next, of every split of
    the model (`_splits`). What earlier searches found is known from the start.
    """
    question = market.question
    bounds = bounds_of(question)
    tables: list[_Table | None] = []
    tight = set[tuple[int, int]]()  # (family, place of a count) whose bound is one of splits, or of an earlier search
    heap: list[tuple[float, int, int]] = []

    def least_of(table: _Table, i: Any) -> Any:
        rows = (_tightness(table, bounds) if first else table.objective)[i]
        return rows.min(axis=-1, initial=np.inf)

    for f, family in enumerate(market.families):
        table = _table(market, family, grids[f], bounds) if len(grids[f]) else None
        tables.append(table)
        if table is not None:
            known = _known(market, family, table, memory)
            _tighten(market, family, table, known, bounds)
            tight |= {(f, i) for i in known}
            least = least_of(table, slice(None))
            heap += [(float(value), f, i) for i, value in enumerate(least) if np.isfinite(value)]
            market.pairs += len(least)
    if lead is not None:  # before all others
        heap = [(-np.inf if _leads(market.families[f], tables[f], i, lead) else value, f, i) for value, f, i in heap]
    heapq.heapify(heap)
    ties = market.measure is None and question.query.minimize in ("chips", "power")
    splits: dict[tuple[int, int], dict[str, Floats]] = {}
    failed = 0  # where the first job is wanted, bounding several together pays only once some have had none
    while heap:
        least, f, i = heap[0]
        best = market.best
        if best is not None and (first or (least > best.objective * slack if ties else least >= best.objective * slack)):
            break
        if over():
            market.unsearched = _least_of(tables, heap)
            return
        heapq.heappop(heap)
        family, table = market.families[f], tables[f]
        assert table is not None
        now = float(least_of(table, i))
        if least > -np.inf and now > least:  # tighter than when it was put there
            if np.isfinite(now):
                heapq.heappush(heap, (now, f, i))
            continue
        count = int(table.counts[i])
        progress(f"{family.machine.accelerator.name} x {count}")
        cutoff = _cutoff(market, family, table, i, bounds, best.objective if best is not None else None) * slack
        if least > -np.inf and (not first or failed >= _AHEAD) and (f, i) not in tight:
            others = (place for _, *place in heapq.nsmallest(4 * _AHEAD, heap))
            ahead = [(f, i), *[(g, k) for g, k in others if (g, k) not in tight][:_AHEAD]]
            tight |= set(ahead)
            splits, steps = _splits(market, ahead, tables, bounds)
            for g in {g for g, _ in steps}:
                of_family, its_table = market.families[g], tables[g]
                assert its_table is not None
                found_here = {k: step for (h, k), step in steps.items() if h == g}
                _tighten(market, of_family, its_table, found_here, bounds)
                for k, step in found_here.items():
                    _remember(market, of_family, int(its_table.counts[k]), step, memory)
            heapq.heappush(heap, (least, f, i))
            continue
        try:
            found = _search(market, family, count, cutoff, memory, splits.get((f, i)), over)
        except _Unfinished as unfinished:
            if unfinished.found is not None:
                _add(market, f, table, i, unfinished.found, bounds)
            market.unsearched = _least_of(tables, [(least, f, i), *heap])
            return
        if found is None:
            failed += 1
            continue
        _add(market, f, table, i, found, bounds)
    market.drop(
        None, "bound", len(heap), "counts of a machine that cannot be better than the best, by a lower bound of their time"
    )
    if not refining and not first:
        for _, f, i in heapq.nsmallest(_SHOWN, heap):
            table = tables[f]
            assert table is not None
            if np.isfinite(table.objective[i]).any():
                _add_bound(market, f, table, i)


def _least_of(tables: list[_Table | None], places: list[tuple[float, int, int]]) -> int:
    """The least bound of the objective at these (_, family, place of a count)."""
    every = [table.objective[i].min() for _, f, i in places if (table := tables[f]) is not None]
    return int(min([*every, float(LARGEST_COEFFICIENT)]))


def _known(market: Market, family: Family, table: _Table, memory: Memory) -> dict[int, float]:
    """By place of a count: the least step [s] there, or a bound of it, that earlier searches know."""
    known = {}
    for i in np.flatnonzero(np.isfinite(table.objective).any(axis=1)):
        entry = memory.get(_key(market, family, int(table.counts[i])))
        if entry is not None:
            within, found = entry
            known[int(i)] = within if found is None else found.ranked
    return known


def _remember(market: Market, family: Family, count: int, step: float, memory: Memory) -> None:
    """That no layout takes less than `step` [s]."""
    key = _key(market, family, count)
    within, found = memory.get(key, (-np.inf, None))
    if found is None:
        memory[key] = (max(within, step * (1 - 1e-12)), None)


def _tighten(market: Market, family: Family, table: _Table, steps: dict[int, float], bounds: dict[str, int]) -> None:
    """Raise the lower bounds of a table to those that follow from steps [s] of some of its counts."""
    rows = [i for i, step in steps.items() if step > table.least[i]]
    if not rows:
        return
    table.least[rows] = [steps[i] for i in rows]
    endless = ~np.isfinite(table.least)
    hours = hours_of(market.question, table.service, np.where(endless, 1.0, table.least), table.goodput)
    totals = totals_of(family.rates, table.instances[rows], family.machine.accelerators, hours[rows])
    objective = np.ceil(market.objective(totals) * (1 - 1e-12))
    good = np.isfinite(table.objective[rows]) & ~endless[rows, None]
    for name, bound in bounds.items():
        good &= np.ceil(totals[name] * (1 - 1e-9)) <= bound
    for name in totals:
        good &= totals[name] < LARGEST_COEFFICIENT
        table.totals[name][rows] = totals[name]
    table.objective[rows] = np.where(good, objective, np.inf)


class _Unfinished(OutOfTime):
    """A search of layouts that the time ended; `found` is its best so far."""

    def __init__(self, found: Found | None) -> None:
        super().__init__()
        self.found = found


def _leads(family: Family, table: _Table | None, i: int, lead: tuple[str, int]) -> bool:
    return table is not None and table.counts[i] == lead[1] and lead[0] in {offer.name for offer in family.rates.offers}


def _splits(
    market: Market, places: list[tuple[int, int]], tables: list[_Table | None], bounds: dict[str, int]
) -> tuple[dict[tuple[int, int], dict[str, Floats]], dict[tuple[int, int], float]]:
    """(`split_bounds` by number format, the least step [s] that there could be) of several (family, place of a count) at once.

    A format is left out where the bound of the whole machine already says that no layout is good enough, a place where a figure
    is unknown.
    """
    question, best = market.question, market.best
    names, cases = [], []
    found: dict[tuple[int, int], dict[str, Floats]] = {}
    steps: dict[tuple[int, int], float] = {}
    for f, i in places:
        family, table = market.families[f], tables[f]
        assert table is not None
        count = int(table.counts[i])
        cutoff = _cutoff(market, family, table, i, bounds, best.objective if best is not None else None)
        cores = cores_of(count, family.task.choices)
        formats, least = [], np.inf
        try:
            accelerator = accelerator_of(question, family.machine, count)
            for precision in family.task.precisions if len(cores) else ():
                floor = float(machine_bound(family.task, accelerator, count, family.floors[precision]))
                if floor <= cutoff:
                    machine_of(accelerator, precision, float(count))
                    formats.append(precision)
                else:
                    least = min(least, floor)
        except (UnknownValue, ImpossibleValue):
            continue
        found[f, i], steps[f, i] = {}, least
        names += [(f, i, precision) for precision in formats]
        cases += [(accelerator, cores, precision) for precision in formats]
    if cases:
        for (f, i, precision), bound in zip(names, split_bounds(question.task, cases), strict=True):
            found[f, i][precision] = bound
            steps[f, i] = min(steps[f, i], float(bound.min()))
    return found, steps


def _tightness(table: _Table, bounds: dict[str, int]) -> Floats:
    """The largest share of any limit that a column takes at least; infinite where a limit forbids it. Least is tried first."""
    shares = [table.totals[name] / max(bound, 1) for name, bound in bounds.items()]
    return np.where(np.isfinite(table.objective), np.max(shares, axis=0), np.inf)


def cheapest_by(
    question: Question, families: list[Family], memory: Memory, measure: Callable[[dict[str, Any]], Any], over: Over = never
) -> Column | None:
    """The column with the least of a measure of its totals (`Market.measure`), over every whole number of instances.

    families: of which offers are left out only where others of the same machine take no more of anything that is measured. None
    where there is no column. Raises OutOfTime where `over` becomes true first.
    """
    market = Market(question, families, measure=measure)
    grids = [counts_of(question, family) for family in families]
    others = [_others(question, family, grid) for family, grid in zip(families, grids, strict=True)]
    for counts in (grids, others):  # the grid first: its best rules out nearly all others
        _explore(market, counts, lambda _: None, memory, refining=True, over=over)
        if market.unsearched is not None:
            raise OutOfTime
    return market.best


def _table(market: Market, family: Family, counts: Floats, bounds: dict[str, int]) -> _Table:
    question, like = market.question, _counts(market.question, family, counts)
    hours = hours_of(question, like.service, like.least, like.goodput)
    instances = rented(question, family.machine, counts)
    totals = totals_of(family.rates, instances, family.machine.accelerators, hours)
    objective = np.ceil(market.objective(totals) * (1 - 1e-12))
    good = np.full(objective.shape, True)
    for name, bound in bounds.items():
        over = good & (np.ceil(totals[name] * (1 - 1e-9)) > bound)
        market.drop(
            _WALLS[name],
            clause_of(question, name),
            int(over.sum()),
            "offers x counts: even the fastest step that there could be breaks it",
        )
        good &= ~over
    for place, quota in enumerate(question.query.supply.quota):
        used = instances * (family.machine.accelerators if quota.chips is not None else 1)
        allowed = quota.chips if quota.chips is not None else quota.instances or 0
        over = good & family.quotas[None, :, place] & (used[:, None] > allowed)
        market.drop(None, f"supply.quota[{place}]", int(over.sum()), "offers x counts: more than the quota")
        good &= ~over
    over = good & like.full[:, None]
    reason = "offers x counts: weights and states, shared by all accelerators, exceed their memory"
    market.drop(2, "memory", int(over.sum()), reason)
    good &= ~over
    # out of every solver's range: such a job is never the best
    for name in totals:
        good &= totals[name] < LARGEST_COEFFICIENT
    return _Table(counts, instances, like.service, like.goodput, like.least.copy(), np.where(good, objective, np.inf), totals)


def _counts(question: Question, family: Family, counts: Floats) -> _Counts:
    """What these numbers of accelerators of a family are like; remembered, for questions that differ in other things."""
    store, sizes = question.store, (*question.store.read, *question.store.write, *question.mtbf, question.restart)
    figures = tuple(None if size is None else float(size.to_base_units().magnitude) for size in sizes)
    key = (counts.tobytes(), store.name, figures, question.query.reliability.model_dump_json())
    if key not in family.known:
        accelerator = accelerator_of(question, family.machine, 1)
        service = _service(question, family, counts, key)
        full = np.asarray(least_memory(family.task, counts).m_as("byte")) > accelerator.memory.m_as("byte")
        family.known[key] = _Counts(
            service,
            np.asarray(service.goodput.fraction),
            machine_bound(family.task, accelerator, counts, min(family.floors.values())),
            full & (not family.task.given),
        )
    return family.known[key]


def _service(question: Question, family: Family, counts: Floats, key: tuple[Any, ...]) -> Service:
    """`service_of` these numbers of accelerators: the same for every machine of that size whose instances fail alike. key: what
    else it depends on."""
    machine, band = family.machine, None if family.spot is None else family.spot.interruption_band
    link = None if machine.accelerator.host_bandwidth is None else float(machine.accelerator.host_bandwidth.m_as("byte/s"))
    key = (*key, machine.accelerators, link, band, family.vcpus)
    if key not in family.services:
        family.services[key] = service_of(question, machine, counts, family.spot, family.vcpus)
    return family.services[key]


def _cutoff(market: Market, family: Family, table: _Table, i: int, bounds: dict[str, int], best: int | None) -> float:
    """The longest ranked step [s] with which some offer keeps every limit and is no worse than the best so far."""
    question, rates, n = market.question, family.rates, table.instances[i]
    per_hour = {"cost": rates.cost * 100, "carbon": rates.carbon, "water": rates.water * 10, "energy": rates.energy}
    hours = np.full(len(rates.offers), longest(question))
    for name in ("cost", "carbon", "water"):
        if name in bounds:
            hours = np.minimum(hours, bounds[name] / (n * np.maximum(per_hour[name], 1e-300)))
    if best is not None and market.measure is not None:
        hours = np.minimum(hours, _longest_within(market, family, n, best))
    elif best is not None:
        query = question.query
        if query.minimize == "time":
            hours = np.minimum(hours, best / 3600)
        elif query.minimize in per_hour:
            hours = np.minimum(hours, best / (n * per_hour[query.minimize]))
        elif query.minimize not in ("chips", "power"):
            assert query.carbon.price is not None
            weighted = per_hour["cost"] + per_hour["carbon"] * float(query.carbon.price.m_as("USD/gCO2e")) * 100
            hours = np.minimum(hours, np.maximum(rates.term, best / (n * weighted)))
    most = float(np.max(hours[np.isfinite(table.objective[i])]))
    return float(step_within(question, table.goodput[i], np.array(most * (1 + 1e-9))))


def _longest_within(market: Market, family: Family, instances: float, best: int) -> float:
    """The most hours [h] with which some offer's objective is at most `best`; from above, to 1e-12 of the longest there are."""
    low, high = 0.0, longest(market.question)
    for _ in range(4):  # a thousand at once: a measure is slow of each
        hours = np.linspace(low, high, 1001)
        totals = totals_of(family.rates, np.full(hours.shape, instances), family.machine.accelerators, hours)
        within = int((market.objective(totals).min(axis=-1) <= best).sum())
        low, high = float(hours[max(within - 1, 0)]), float(hours[min(within, 1000)])
    return high


def _key(market: Market, family: Family, count: int) -> tuple[Any, ...]:
    if market.of_steps is None:
        market.of_steps = what_steps_depend_on(market.question)
    return (family.machine.name, family.machine.domain, count, family.task.precisions, *market.of_steps)


def chip_searched(key: tuple[Any, ...]) -> str:
    """The chip of the machine that an entry of a `Memory` is about."""
    return str(key[0]).rpartition(" x")[0]


def _remembered(market: Market, family: Family, count: int, cutoff: float, memory: Memory) -> bool:
    """Whether an earlier search answers this one: it found the best, or nothing within a longer cutoff."""
    within, known = memory.get(_key(market, family, count), (-np.inf, None))
    return known is not None or cutoff <= within


def _search(
    market: Market, family: Family, count: int, cutoff: float, memory: Memory, splits: dict[str, Floats] | None = None,
    over: Over = never,
) -> Found | None:  # fmt: skip
    """The best layout on `count` accelerators within the cutoff; remembered with the cutoff it was sought within.

    Raises _Unfinished, and remembers nothing, where the time is over first.
    """
    key = _key(market, family, count)
    if _remembered(market, family, count, cutoff, memory):
        known = memory[key][1]
        return known if known is not None and known.ranked <= cutoff else None
    market.searched += 1
    try:
        result = search(
            family.task,
            accelerator_of(market.question, family.machine, count),
            count,
            family.host,
            1,
            cutoff,
            floors=family.floors,
            splits=splits,
            over=over,
        )
    except (UnknownValue, ImpossibleValue) as error:
        market.drop(14, "communication", 1, str(error))
        memory[key] = (np.inf, None)
        return None
    market.counted.add(result.counted)
    found = result.found[0] if result.found else None
    if not result.complete:
        raise _Unfinished(found)
    memory[key] = (max(cutoff, result.others * (1 - 1e-12)), found)  # what bounds discarded is not within them
    return found


def what_steps_depend_on(question: Question) -> tuple[Any, ...]:
    """Everything in a question that the search of a layout looks at, the machine apart."""
    query = question.query
    workload = query.workload
    return (
        workload.model, workload.length, workload.sequences, workload.stack, workload.release, workload.optimizer,
        workload.offload, question.task.slowdown, question.task.given, query.rank, query.parallelism.model_dump_json(),
        query.fabric.topology, query.fabric.oversubscription, query.calibration_file,
    )  # fmt: skip


def column_totals(
    question: Question, family: Family, service: Service, goodput: Floats, count: int, step: float
) -> tuple[dict[str, list[int]], list[int]]:
    """(totals by name, objective) of each offer of a family on `count` accelerators at a ranked step time, as integers."""
    hours = hours_of(question, service, np.array([step]), goodput)
    instances = rented(question, family.machine, np.array([float(count)]))
    exact = totals_of(family.rates, instances, family.machine.accelerators, hours)
    totals = {name: whole(Q(values[0], ""), Q(1.0, ""), "up") for name, values in exact.items()}
    return totals, whole(Q(objective_of(question, exact)[0], ""), Q(1.0, ""), "up")


def _add(market: Market, f: int, table: _Table, i: int, found: Found, bounds: dict[str, int]) -> None:
    family, count = market.families[f], int(table.counts[i])
    service = service_of(market.question, family.machine, np.array([float(count)]), family.spot, family.vcpus)
    totals, objective = column_totals(market.question, family, service, np.asarray(service.goodput.fraction), count, found.ranked)
    for j in range(len(family.rates.offers)):
        if not np.isfinite(table.objective[i, j]):
            continue
        mine = {name: values[j] for name, values in totals.items()}
        broken = next((name for name, bound in bounds.items() if mine[name] > bound), None)
        if broken is not None:
            market.drop(_WALLS[broken], clause_of(market.question, broken), 1, "offers x counts: the best layout there breaks it")
        elif max(mine.values()) < LARGEST_COEFFICIENT:
            value = objective[j] if market.measure is None else int(np.ceil(market.measure(mine)))
            market.columns.append(_column(market, f, j, count, int(table.instances[i]), mine, value, found))


def _add_bound(market: Market, f: int, table: _Table, i: int) -> None:
    """The cheapest offer of a count that was not searched, with lower bounds of what it takes."""
    j = int(np.argmin(table.objective[i]))
    least = {name: int(np.floor(values[i, j] * (1 - 1e-9))) for name, values in table.totals.items()}
    column = _column(market, f, j, int(table.counts[i]), int(table.instances[i]), least, int(table.objective[i, j]), None)
    market.columns.append(column)


def _column(
    market: Market, f: int, j: int, count: int, instances: int, totals: dict[str, int], objective: int, found: Found | None
) -> Column:  # fmt: skip
    family = market.families[f]
    offer = family.rates.offers[j]
    name = f"{offer.name} x{count}, {'not searched: lower bounds' if found is None else _in_words(found)}"
    return Column(name, f, offer, count, instances, totals, objective, found, tuple(bool(q) for q in family.quotas[j]))


def _in_words(found: Found) -> str:
    """The degrees of a layout: "tp8 pp16 cp1 dp64 ep1 microbatch 1"."""
    layout = found.layout
    degrees = {
        "tp": layout.tensor_parallel, "pp": layout.pipeline_parallel, "cp": layout.context_parallel, "dp": layout.data_parallel,
        "ep": layout.expert_parallel, "microbatch ": layout.microbatch,
    }  # fmt: skip
    return " ".join(f"{name}{int(np.ravel(degree)[0])}" for name, degree in degrees.items())
