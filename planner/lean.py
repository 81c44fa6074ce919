"""The market of a question of which only the proof counts, without what no plan of it can hold.

Explanations ask the same question again and again with something moved, and report no more than the objective. Here an offer
that another one of the same machine replaces never becomes a column, and machines that are in no plan within the limits are
never laid out. Both are exact: the optimum is that of `prepare`, which lays out all that is on offer, for reports to count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo.catalog import Catalog
from zoo.specs import Offer, Transformer
from zoo.units import Q

from . import columns, space
from .columns import Memory, Site
from .prepare import Key, Prepared, catalog_of, keys_of, laid_out, model_of
from .program import quantise
from .query import Quota, ServeQuery
from .space import Machine, Runs


@dataclass(frozen=True, slots=True)
class Least:
    """What a question minimises in the place of its own objective: a resource, of the offers that a quota counts; or nothing."""

    resource: str | None = None
    quota: Quota | None = None

    def of(self, offer: Offer, amounts: Mapping[str, int], catalog: Catalog) -> int:
        """What an offer of these amounts takes of it."""
        if self.resource is None or (self.quota is not None and not columns.matches(self.quota, offer, catalog)):
            return 0
        return amounts[self.resource]


def lean(query: ServeQuery, memory: Memory, least: Least | None = None, cap: int | None = None) -> Prepared:
    """As `prepare`: a market of the same optimum, or of none where that one has none. What is dropped is not counted.

    `cap`: an objective, in the program's integers, that some plan is known to reach: what is only in dearer plans is left out.
    Where no plan reaches it, what is left proves nothing.
    """
    rate = sum(quantise(population.rate, "load", "up") for population in query.populations)
    return _market(query, memory, least, lambda machine, needs, bounds: _Contest(rate, machine, needs, bounds), cap)


def promising(query: ServeQuery, memory: Memory) -> Prepared:
    """As `lean` with nothing to minimise, of the kinds of machine that are laid out already and a few that promise most.

    Whoever has a plan here has one in the question; to lay out all of them may take longer than to look here first.
    """
    rate = sum(quantise(population.rate, "load", "up") for population in query.populations)
    return _market(query, memory, Least(), lambda machine, needs, bounds: _Contest(rate, machine, needs, bounds, few=True))


def giving_way(query: ServeQuery, memory: Memory) -> Prepared:
    """As `lean` with nothing to minimise, for a program in which demand and limits may give way: all machines are laid out."""
    return _market(query, memory, Least(), lambda machine, needs, _: _Contest(0, machine, needs[:, :0], np.zeros(0)))


def _market(
    query: ServeQuery,
    memory: Memory,
    least: Least | None,
    judged: Callable[[np.ndarray, np.ndarray, np.ndarray], _Contest],
    cap: int | None = None,
) -> Prepared:
    catalog = catalog_of(query, memory)
    model = model_of(query, catalog)
    offers, _ = space.offers_of(query, catalog)
    machines = space.machines_of(offers, catalog)
    entries = columns.rentable(query, catalog, ((i, theirs) for i, (_, theirs) in enumerate(machines)), [], memory)
    needs, bounds = _needs(query, catalog, entries, memory, least, cap)
    kept = _unreplaced(query, catalog, entries, needs)
    entries, needs, bounded = [entries[e] for e in kept.tolist()], needs[kept], np.isfinite(bounds)
    contest = judged(np.array([i for _, _, i in entries], int), needs[:, bounded], bounds[bounded])
    runs = _laid_out([machine for machine, _ in machines], query, model, memory, contest)
    which, spans, _ = contest.able(_loads(runs))
    found: dict[int, list[Runs]] = {}
    for e, span in zip(which.tolist(), spans.tolist(), strict=True):
        found.setdefault(e, []).extend(one for one in runs[entries[e][2]] if one.instances == span)
    choices = columns.columns_of(query, catalog, [(*entries[e][:2], theirs) for e, theirs in found.items()], [], memory)
    if least is not None:
        objective = [least.of(column.offer, column.amounts, catalog) for column in choices.columns]
        choices = replace(choices, objective=objective)
    return Prepared(query, catalog, model, columns.market_of(query, catalog, choices), choices, [], 0)


def serves_everybody(query: ServeQuery, memory: Memory) -> bool:
    """Whether every population can be served by something, were nothing limited and anything mixed. Raises QueryError."""
    catalog = catalog_of(query, memory)
    offers, _ = space.offers_of(query, catalog)
    machines = space.machines_of(offers, catalog)
    asked = _one_after_another(machines, query, model_of(query, catalog), memory)
    return columns.served(query, catalog, asked, memory) == set(range(len(query.populations)))


def price(query: ServeQuery, memory: Memory) -> None:
    """Have the amounts of all that is on offer known, so that worlds in which only chips differ need not compute them."""
    catalog = catalog_of(query, memory)
    machines = space.machines_of(space.offers_of(query, catalog)[0], catalog)
    columns.priced(query, catalog, columns.rentable(query, catalog, machines, [], memory), memory)


# How many kinds of machine are laid out together: fewer calls or less work in vain.
_TOGETHER = 12
_FEW = 3  # and where a few that promise most are enough


def _one_after_another(
    machines: Sequence[tuple[Machine, list[Offer]]], query: ServeQuery, model: Transformer, memory: Memory
) -> Iterator[tuple[list[Runs], list[Offer]]]:
    """What kinds of machine can run, with their offers; laid out only as far as somebody asks, first those that are known."""
    keys = keys_of([machine for machine, _ in machines], query)
    tops = _ceilings(keys, query, memory)
    unknown = [i for i, key in enumerate(keys) if key not in memory.runs]
    for i in sorted(set(range(len(machines))) - set(unknown)):
        yield memory.runs[keys[i]][0], machines[i][1]
    possible = [i for i in unknown if tops.get(i) != {}]
    for some in (possible[n : n + _TOGETHER] for n in range(0, len(possible), _TOGETHER)):
        found = laid_out([machines[i][0] for i in some], model, query, memory)
        yield from ((runs, machines[i][1]) for i, (runs, _) in zip(some, found, strict=True))


Entry = tuple[Offer, Site, int]  # an offer in its region, and the position of its kind of machine


def _needs(
    query: ServeQuery, catalog: Catalog, entries: Sequence[Entry], memory: Memory, least: Least | None, cap: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """(what one instance of each offer takes of all that counts, by column; the bound of each column, infinite: none)."""
    amounts = columns.priced(query, catalog, entries, memory)
    rows = [amounts[offer.name] for offer, _, _ in entries]
    own = [goal for _, goal in rows] if least is None else [
        least.of(offer, each, catalog) for (offer, _, _), (each, _) in zip(entries, rows, strict=True)
    ]  # fmt: skip
    needs, bounds = [own], [math.inf if cap is None else cap]
    for limit in columns.limits_of(query, catalog, [offer for offer, _, _ in entries]):
        counted = range(len(rows)) if limit.columns is None else limit.columns
        needs.append([each[limit.resource] if e in counted else 0 for e, (each, _) in enumerate(rows)])
        bounds.append(limit.bound)
    return np.array(needs, float).T, np.array(bounds, float)


def _unreplaced(query: ServeQuery, catalog: Catalog, entries: Sequence[Entry], needs: np.ndarray) -> np.ndarray:
    """Positions of the offers that no other of the same machine, with the same users in the same reach, replaces."""
    near = any(population.near or population.residency for population in query.populations)
    reach: dict[str, object] = {}
    kinds: dict[object, int] = {}
    kind = []
    for offer, site, machine in entries:
        if near and offer.region not in reach:
            tiers = columns.tiers(query, catalog, site.region)
            reach[offer.region] = tuple((populations, trip.m_as("s")) for populations, trip in tiers)
        kind.append(kinds.setdefault((machine, reach.get(offer.region)), len(kinds)))
    return space.front(np.array(kind, int), *needs.T)


@dataclass(frozen=True, slots=True)
class _Contest:
    """Which machines some plan within the bounds could hold, judged by the most that each could carry."""

    rate: int  # of all populations together, in integer load units
    machine: np.ndarray  # by offer: position of its kind of machine
    needs: np.ndarray  # offers x bounds: what one instance takes
    bounds: np.ndarray
    few: bool = False  # whether it is enough to lay out a few machines that promise most

    def able(self, tops: Sequence[Mapping[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(offer, instances of a unit, the largest share of a bound that all the demand would take on it alone), where some plan
        could hold such a unit. `tops`: for each kind of machine, by instances of a unit, the most load that it carries.

        A plan that holds a unit which carries s and takes a of something takes at least a + (rate - s) r of it, r the least
        that a unit of load takes on any machine. That never falls with more such units, because r <= a / s.
        """
        units = [(i, span, load) for i, top in enumerate(tops) for span, load in top.items() if load > 0]
        of, spans, loads = (np.array(part) for part in zip(*units, strict=True)) if units else (np.zeros(0, int),) * 3
        first = np.searchsorted(of, np.arange(len(tops) + 1))
        many = np.diff(first)[self.machine]
        offer = np.repeat(np.arange(len(many)), many)
        unit = np.repeat(first[self.machine] - np.cumsum(many) + many, many) + np.arange(many.sum())
        taken, load = self.needs[offer] * spans[unit][:, None], loads[unit][:, None]
        each = taken / load
        rest = np.maximum(self.rate - load, 0.0) * each.min(axis=0, initial=math.inf) if len(unit) else taken
        fits = np.all(taken + rest <= self.bounds * (1 + 1e-9), axis=1)
        share = np.max(each * self.rate / np.maximum(self.bounds, 1.0), axis=1, initial=0.0)
        return offer[fits], spans[unit][fits], share[fits]


def _laid_out(
    machines: Sequence[Machine], query: ServeQuery, model: Transformer, memory: Memory, contest: _Contest
) -> list[list[Runs]]:
    """What each kind of machine can run; nothing of those that no plan within the bounds holds.

    What was tried of a machine bounds what it carries; the most promising are laid out until all that could
    still be in a plan are.
    """
    keys = keys_of(machines, query)
    tops = _ceilings(keys, query, memory) if len(contest.bounds) and query.calibration.source is None else {}
    found: dict[int, list[Runs]] = {}

    def lay_out(some: list[int]) -> None:
        new = laid_out([machines[i] for i in some], model, query, memory)
        found.update({i: runs for i, (runs, _) in zip(some, new, strict=True)})

    lay_out([i for i in range(len(keys)) if i not in tops])
    while True:
        most = dict(zip(found, _loads(list(found.values())), strict=True))
        offers, _, shares = contest.able([most[i] if i in most else tops[i] for i in range(len(machines))])
        pending: dict[int, float] = {}
        for i, share in zip(contest.machine[offers].tolist(), shares.tolist(), strict=True):
            if i not in found:
                pending[i] = min(share, pending.get(i, math.inf))
        if not pending:
            return [found.get(i, []) for i in range(len(machines))]
        order = sorted(pending, key=pending.__getitem__)
        if contest.few:
            lay_out(order[:_FEW])
            return [found.get(i, []) for i in range(len(machines))]
        lay_out(order if len(order) <= 3 * _TOGETHER else order[:_TOGETHER])


def _loads(kinds: Sequence[Sequence[Runs]]) -> list[dict[int, float]]:
    """By kind of machine, by instances of a unit: the most load that one carries, in integer load units, rounded up."""
    return _rounded_up([{runs.instances: runs.saturation.max() for runs in theirs} for theirs in kinds])


def _rounded_up(tops: Sequence[Mapping[int, float]]) -> list[dict[int, float]]:
    """Rates [1/s] in integer load units; a hair more, for the arithmetic of floats."""
    rates = np.array([rate for top in tops for rate in top.values()])
    loads = iter(quantise(Q(rates * (1 + 1e-9), "1/s"), "load", "up"))
    return [{span: float(next(loads)) for span in top} for top in tops]


def _ceilings(keys: Sequence[Key], query: ServeQuery, memory: Memory) -> dict[int, dict[int, float]]:
    """By kind of machine, by instances of a unit: a load that none carries more than, of machines that are not laid out yet.

    It follows from what was tried of them for any TPOT. Where every speed is at most f times that of today, every time is at
    least 1 / f of today's: whoever keeps a TPOT keeps f times that today, and carries at least 1 / f as much there.
    """
    limit = space.tpot_limit(query)
    tightest = math.inf if limit is None else float(limit.m_as("s"))
    first = [  # a hair more, for the arithmetic of floats
        (bound.percentile or 0.0, float(bound.limit.m_as("s")) * (1 + 1e-9))
        for bound in query.sla.bounds()
        if bound.metric == "ttft"
    ]
    tops: dict[int, dict[int, float]] = {}  # [1/s]
    for i, key in enumerate(keys):
        for source, faster in ((memory, 1.0), (memory.today, memory.faster)):
            if source is not None and math.isfinite(faster) and key[1:] in source.surveys and key not in memory.runs:
                targets = [(percentile, faster * seconds) for percentile, seconds in first]
                most = space.most_carried(source.surveys[key[1:]], tightest * faster, targets)
                tops[i] = {span: faster * rate for span, rate in most.items()}
                break
    return dict(zip(tops, _rounded_up(list(tops.values())), strict=True))
