"""From what machines can run to what can be bought: curves, exact coefficients, dominance.

A *curve* says what a pool of u units of a machine carries at the SLA, for one set of TTFT budgets. It is evaluated
exactly, one number of units at a time and only where a solver asks: that is what makes a whole catalogue cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from models import operations, serving
from zoo.catalog import Catalog
from zoo.specs import Accelerator, Offer, Region
from zoo.units import Q, Quantity, magnitudes, ureg

from .market import Column, Exact, Limit, Market
from .program import SCALES, quantise
from .query import AnyQuery, ServeQuery
from .space import Dropped, Runs, Stations, Survey, front, idle_in_time, in_region

# Parsed once: taking thousands of magnitudes by a unit's text is slow.
_SECOND, _PER_SECOND = ureg.Unit("s"), ureg.Unit("1/s")
_USD_PER_HOUR, _WATT, _GRAM = ureg.Unit("USD/hour"), ureg.Unit("watt"), ureg.Unit("gCO2e")
_PER_KWH, _LITRE_PER_KWH = ureg.Unit("gCO2e/kWh"), ureg.Unit("liter/kWh")

Targets = tuple[tuple[float, Quantity], ...]  # (percentile, largest TTFT without the network)
T = TypeVar("T")


@dataclass
class Curve:
    """What u units carry: the best layout at every u, because pooled replicas of one layout never carry less per unit
    than the same machines split between layouts."""

    runs: Runs
    targets: Targets
    variability: float
    known: dict[int, tuple[int, int]] = field(default_factory=dict)
    usable: np.ndarray = field(init=False)
    saturation: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        runs, stations = self.runs, self.runs.stations
        self.saturation = runs.saturation
        seconds = magnitudes([target for _, target in self.targets], _SECOND).tolist()
        targets = [(percentile, each) for (percentile, _), each in zip(self.targets, seconds, strict=True)]
        self.usable = np.flatnonzero(idle_in_time(stations.delay_s, stations.prefill_s, targets))

    @cached_property
    def slope(self) -> int:
        """Load per unit that no number of units exceeds: a pool at saturation, rounded up."""
        top = float(self.saturation[self.usable].max()) if len(self.usable) else 0.0
        return int(quantise(Q(top, _PER_SECOND), "load", "up")) if top else 0

    @cached_property
    def promising(self) -> np.ndarray:
        """Layouts that can be in time, those that carry most first."""
        return self.usable[np.argsort(-self.saturation[self.usable], kind="stable")]

    def best(self, units: int) -> tuple[int, int]:
        """(load carried, in integer load units rounded down; position of the layout that carries it), exactly."""
        if units not in self.known:
            # a solver that asks for one number of units asks for its neighbours next, and one call for all is as fast
            asked = dict.fromkeys((units, 2 * units, *range(units - _NEIGHBOURS, units + _NEIGHBOURS + 1)))
            learn([(self, asked)])
        return self.known[units]


# How many units more and less than asked for are looked at together.
_NEIGHBOURS = 3
# How many of the most promising layouts are looked at before all others: most often one of them is the best.
FIRST = 8

Pools = tuple[Curve, np.ndarray, np.ndarray]  # of one curve: layouts, and as many numbers of units


def learn(asked: Iterable[tuple[Curve, Collection[int]]]) -> None:
    """Have curves of one question know what these numbers of units carry: all in one call, which is as fast as one of them.

    Nothing carries more than its saturation: a few promising layouts first, then what is in time at the best rate of these.
    """
    new: dict[int, tuple[Curve, set[int]]] = {}
    for curve, counts in asked:
        curve.known |= {units: (0, -1) for units in counts if units < 1 or not len(curve.usable)}
        new.setdefault(id(curve), (curve, set()))[1].update(units for units in counts if units not in curve.known)
    wanted = [(curve, curve.promising, np.array(sorted(counts))) for curve, counts in new.values() if counts]
    if not wanted:
        return
    rates = _rates([(curve, order[:FIRST], units) for curve, order, units in wanted])
    best = [mine.max(axis=0) for mine in rates]
    rest = _in_time([(curve, order[FIRST:], units, top) for (curve, order, units), top in zip(wanted, best, strict=True)])
    more = _rates([(curve, at, units) for (curve, _, units), at in zip(wanted, rest, strict=True)])
    for (curve, order, units), others, *both in zip(wanted, rest, rates, more, strict=True):
        at, found = np.append(order[:FIRST], others), np.vstack(both)
        loads = quantise(Q(found.max(axis=0), "1/s"), "load", "down")
        for count, load, mine in zip(units.tolist(), loads, found.T, strict=True):
            curve.known[count] = (load, int(at[mine == mine.max()].min()))  # the first of equals, whatever order they stand in


def _rates(asked: Sequence[Pools]) -> list[np.ndarray]:
    """For each (curve, layouts, numbers of units): what each layout carries [1/s], by row, at each number of units, by column."""
    pools = [(curve, np.repeat(at, len(units)), np.tile(units, len(at))) for curve, at, units in asked]
    sizes = [len(at) for _, at, _ in pools]
    rates = np.asarray(serving.pool_rate(*_queues_of(pools)).m_as(_PER_SECOND)) if sum(sizes) else np.zeros(0)
    parts = np.split(rates, np.cumsum(sizes)[:-1])
    return [part.reshape(len(at), len(units)) for part, (_, at, units) in zip(parts, asked, strict=True)]


def _in_time(asked: Sequence[tuple[Curve, np.ndarray, np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """For each (curve, layouts, numbers of units, a rate [1/s] for each number): the layouts that carry one of the rates."""
    pairs = [np.nonzero(curve.saturation[at, None] * units > rates) for curve, at, units, rates in asked]
    pools = [(curve, at[row], units[column]) for (curve, at, units, _), (row, column) in zip(asked, pairs, strict=True)]
    rate = np.concatenate([rates[column] for (*_, rates), (_, column) in zip(asked, pairs, strict=True)])
    fine = np.ones(len(rate), bool)
    if len(rate) and asked[0][0].targets:
        fine = serving.in_time(ureg.Quantity(rate, _PER_SECOND), *_queues_of(pools))
    parts = np.split(fine, np.cumsum([len(at) for _, at, _ in pools])[:-1])
    return [np.unique(at[good]) for good, (_, at, _) in zip(parts, pools, strict=True)]


def _queues_of(pools: Sequence[Pools]) -> tuple[Any, ...]:
    """What pools are to `serving.pool_rate`, one after the other."""
    stations = Stations.joined([curve.runs.stations.at(at) for curve, at, _ in pools])
    first, sizes = pools[0][0], [len(at) for _, at, _ in pools]
    targets = []
    for i, (percentile, _) in enumerate(first.targets):
        seconds = np.repeat([curve.targets[i][1].m_as(_SECOND) for curve, _, _ in pools], sizes)
        targets.append((percentile, ureg.Quantity(seconds, _SECOND)))
    return *queues(stations, np.concatenate([units for *_, units in pools])), tuple(targets), first.variability


def queues(stations: Stations, units: np.ndarray | int) -> tuple[Quantity, Quantity, np.ndarray, np.ndarray, Quantity]:
    """What pools of so many of these units are to `serving.pool_rate`: (prefill, delay, servers, slots, residence)."""
    prefill, delay, residence = (
        ureg.Quantity(seconds, _SECOND) for seconds in (stations.prefill_s, stations.delay_s, stations.residence_s)
    )
    return prefill, delay, stations.servers * units, stations.slots * units, residence


@dataclass(slots=True)
class Memory:
    """What questions that differ little have in common, so that asking many of them is cheap (explanations do).

    `surveys`: the layouts of each kind of machine, whatever TPOT; `runs`: those that keep TPOT; `curves`: what pools of them
    carry; `priced`: integer amounts of offers; `sites`: of regions; `catalogs`: the zoo with the user's files; `choices`: columns
    before dominance.
    All depend on their keys alone. `exact`: where a proof of one of the questions left the curves, for others to begin there.
    In a world whose chips' figures were moved, `today` is what is known before the move, and `faster` how many times faster at
    most chips are than then, infinite where that cannot be said (more memory).
    """

    surveys: dict[tuple[Hashable, ...], Survey] = field(default_factory=dict)
    runs: dict[tuple[Hashable, ...], tuple[list[Runs], list[Dropped]]] = field(default_factory=dict)
    curves: dict[tuple[Hashable, ...], Curve] = field(default_factory=dict)
    priced: dict[tuple[Hashable, ...], dict[str, tuple[dict[str, int], int]]] = field(default_factory=dict)
    sites: dict[tuple[Hashable, ...], dict[str, Site | str]] = field(default_factory=dict)
    catalogs: dict[Hashable, Catalog] = field(default_factory=dict)
    choices: dict[str, tuple[Choices, list[Dropped], int]] = field(default_factory=dict)
    exact: Exact = field(default_factory=dict)
    today: Memory | None = None
    faster: float = 1.0

    def curve(self, runs: Runs, targets: Targets, variability: float) -> Curve:
        key = (id(runs), tuple((percentile, target.magnitude) for percentile, target in targets), variability)
        if key not in self.curves:
            self.curves[key] = Curve(runs, targets, variability)
        return self.curves[key]


@dataclass(frozen=True, slots=True)
class Site:
    """What a region does to a machine: the figures that enter coefficients, and what had to be assumed."""

    region: Region
    pue: float
    wue: Quantity
    intensity: Quantity
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """Survey means that stand in for what a region does not publish, always said so."""

    pue: float
    wue: Quantity


def means_of(catalog: Catalog) -> Means:
    return Means(figure(catalog, "PUE industry average"), Q(figure(catalog, "WUE US average"), "liter/kWh"))


def site_of(region: Region, query: AnyQuery, means: Means) -> Site | str:
    """PUE, WUE and carbon intensity of a region by the query's method; a reason when the intensity is unknown.

    An unknown PUE or WUE is taken from the survey means of the catalogue, and said so.
    """
    method = query.carbon.method
    grid = region.grid
    intensity = {"average": grid.average_intensity, "marginal": grid.marginal_intensity, "market": grid.market_intensity}[method]
    if intensity is None:
        return f"{region.name} has no {method} carbon intensity"
    assumptions = []
    pue, wue = region.pue, region.wue
    if pue is None:
        pue = means.pue
        assumptions.append(f"{region.name}: PUE unknown, industry average {pue:.2f} assumed")
    if wue is None:
        wue = means.wue
        assumptions.append(f"{region.name}: WUE unknown, US average {wue:~} assumed")
    return Site(region, pue, wue, intensity, tuple(assumptions))


def figure(catalog: Catalog, parameter: str, level: str = "typical") -> float:
    """A figure of the catalogue's economics."""
    value = getattr(catalog.economics_value(parameter), level)
    if value is None:
        raise ValueError(f"economics.csv has no {level} value for {parameter!r}")
    return float(value)


def amounts_of(
    chips: list[Accelerator],
    accelerators: np.ndarray,
    price: Quantity,
    sites: list[Site],
    query: AnyQuery,
    catalog: Catalog,
    activity: str = "LLM serving",
) -> Mapping[str, Quantity]:
    """What one rented instance of each offer costs, draws and emits per hour (walls 17 and 18); arrays over offers.

    Power is the facility's at full load (nameplate x PUE), which is what a power limit has to hold. Carbon and water
    follow the average draw of the activity (serving, training). Embodied carbon is spread over the life of the machine if
    the query counts it.
    """
    hour = Q(1.0, "hour")
    tdp = Q(magnitudes([chip.tdp for chip in chips if chip.tdp is not None], _WATT), "watt")
    share = np.array([chip.host_power_share for chip in chips])
    pue = np.array([site.pue for site in sites])
    wue = Q(magnitudes([site.wue for site in sites], _LITRE_PER_KWH), "liter/kWh")
    intensity = Q(magnitudes([site.intensity for site in sites], _PER_KWH), "gCO2e/kWh")
    draw = figure(catalog, f"average draw as fraction of TDP, {activity}")
    energy = operations.energy(operations.node_power(accelerators, tdp, draw, share), hour)
    carbon = operations.carbon(energy, pue, intensity)
    if query.carbon.embodied:
        life = Q(figure(catalog, "accelerator amortisation life"), "year")
        embodied = Q(np.array([0.0 if chip.embodied is None else chip.embodied.m_as(_GRAM) for chip in chips]), "gCO2e")
        carbon = carbon + operations.embodied_carbon(embodied, accelerators, life, hour)
    return {
        "cost": price,
        "carbon": carbon / hour,
        "power": operations.facility_energy(operations.energy(operations.node_power(accelerators, tdp, 1.0, share), hour), pue)
        / hour,
        "water": operations.water(energy, wue, pue, Q(0.0, "liter/kWh")) / hour,
        "chips": Q(accelerators, "dimensionless"),
    }


def integers(amounts: Mapping[str, Quantity]) -> list[dict[str, int]]:
    """The amounts of one instance of each offer as the program's integers, each rounded up once."""
    columns = {resource: quantise(values, resource, "up") for resource, values in amounts.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def budgets(query: ServeQuery, slowest: Quantity) -> Targets | None:
    """TTFT targets [s] less the slowest round trip; None when the network alone takes them."""
    result = []
    for bound in query.sla.bounds():
        if bound.metric != "ttft":
            continue
        rest = bound.limit - slowest
        if rest.m_as("s") <= 0:
            return None
        assert bound.percentile is not None
        result.append((bound.percentile, rest.to("s")))
    return tuple(result)


def tiers(query: ServeQuery, catalog: Catalog, region: Region) -> list[tuple[tuple[int, ...], Quantity]]:
    """The sets of populations that one pool in `region` may serve, each with its slowest round trip.

    Ordered by distance: a pool that serves a population may as well serve every nearer one, at the same TTFT budget.
    """
    reach = []
    for k, population in enumerate(query.populations):
        if population.residency is not None and not in_region(catalog, region, population.residency):
            continue
        trips = [catalog.round_trip_from(place, region.name).time for place in population.near]
        reach.append((min(trips, default=Q(0.0, "s")), k))
    reach.sort(key=lambda pair: (pair[0].m_as("s"), pair[1]))
    result: list[tuple[tuple[int, ...], Quantity]] = []
    for position, (trip, _) in enumerate(reach):
        if position + 1 < len(reach) and reach[position + 1][0] == trip:
            continue  # the next population is as near: the larger set costs nothing
        result.append((tuple(sorted(k for _, k in reach[: position + 1])), trip))
    return result


def objective_of(query: ServeQuery, amounts: Mapping[str, Quantity]) -> list[int]:
    """The objective of one instance of each offer, in integer units: the resource minimised, or cost plus priced carbon."""
    if query.minimize in SCALES:
        return list(quantise(amounts[query.minimize], query.minimize, "up"))
    assert query.carbon.price is not None
    return list(quantise(amounts["cost"] + query.carbon.price * amounts["carbon"], "cost", "up"))


def limits_of(query: ServeQuery, catalog: Catalog, offers: Sequence[Offer]) -> list[Limit]:
    """The query's limits and quotas as rows over columns of these offers. A quota counts chips of the offers that it matches."""
    walls = {"cost": 17, "power": 18, "carbon": 18, "water": 18, "chips": None}
    result = []
    for resource, wall in walls.items():
        bound = getattr(query.limits, resource)
        if bound is not None:
            quantity = Q(float(bound), "dimensionless") if isinstance(bound, int) else bound
            prefix = f"wall_{wall}_" if wall else ""
            result.append(
                Limit(f"{prefix}limit_{resource}", wall, resource, quantise(quantity, resource, "down"), f"limits.{resource}")
            )
    for position, quota in enumerate(query.supply.quota):
        matched = frozenset(j for j, offer in enumerate(offers) if matches(quota, offer, catalog))
        if quota.chips is not None:
            result.append(Limit(f"quota[{position}]", None, "chips", quota.chips, f"supply.quota[{position}]", matched))
        else:
            result.append(
                Limit(f"quota[{position}]", None, "instances", quota.instances or 0, f"supply.quota[{position}]", matched)
            )
    return result


def matches(quota, offer: Offer, catalog: Catalog) -> bool:  # type: ignore[no-untyped-def]
    """Whether an offer counts against a quota."""
    from fnmatch import fnmatchcase

    return (
        (quota.chip is None or fnmatchcase(offer.accelerator, quota.chip.lower()) or _same_chip(catalog, quota.chip, offer))
        and (quota.cloud is None or offer.cloud.lower() == quota.cloud.lower())
        and (quota.region is None or in_region(catalog, catalog.regions[offer.region], quota.region))
        and (quota.offer is None or offer.option == quota.offer)
    )


def _same_chip(catalog: Catalog, name: str, offer: Offer) -> bool:
    try:
        return bool(catalog.find("chips", name).name == offer.accelerator)
    except ValueError:
        return False


def undominated(
    columns: list[Column], objective: list[int], curves: list[Curve], query: ServeQuery, catalog: Catalog
) -> list[int]:
    """Positions of the columns that no other column replaces in every plan.

    One column replaces another when it is the same machine, serves at least the same populations with at least the same
    TTFT budgets, and needs no more of anything that the program counts: the objective, every limited resource, and every
    quota. Ties go to less carbon, then to the catalogue's order, so that the same question keeps the same columns.
    """
    if not columns:
        return []
    limited = [resource for resource in SCALES if resource != "load" and getattr(query.limits, resource) is not None]
    offers = {column.offer.name: column.offer for column in columns}
    quotas = [{name: matches(quota, offer, catalog) for name, offer in offers.items()} for quota in query.supply.quota]
    theirs = [curves[column.curve] for column in columns]
    needs = [
        np.array(objective, float),
        *(np.array([column.amounts[resource] for column in columns], float) for resource in limited),
        *(np.array([counts[column.offer.name] for column in columns], float) for counts in quotas),
        *(-np.array([target.magnitude for _, target in together]) for together in zip(*(c.targets for c in theirs), strict=True)),
    ]
    carbon = np.array([column.amounts["carbon"] for column in columns])
    rank = np.empty(len(columns))
    rank[np.lexsort((carbon, *reversed(needs)))] = np.arange(len(columns))
    missing = [np.array([k not in column.populations for column in columns], float) for k in range(len(query.populations))]
    kind = np.unique([id(curve.runs) for curve in theirs], return_inverse=True)[1]
    return [int(j) for j in front(kind, rank, *needs, *missing)]


@dataclass(frozen=True, slots=True)
class Choices:
    """Every column of a question before dominance, with its objective per unit and the curves that columns point to."""

    columns: list[Column]
    objective: list[int]
    curves: list[Curve]

    def only(self, wanted: Callable[[Column], bool]) -> Choices:
        """The same, without the columns that are not wanted."""
        at = [j for j, column in enumerate(self.columns) if wanted(column)]
        return Choices([self.columns[j] for j in at], [self.objective[j] for j in at], self.curves)


def choices_of(
    query: ServeQuery,
    catalog: Catalog,
    grouped: list[tuple[list[Runs], list[Offer]]],
    dropped: list[Dropped],
    memory: Memory | None = None,
) -> Choices:
    """Every column of a question: each offer, for each set of populations, in units of each span of machines."""
    memory = memory or Memory()
    return columns_of(query, catalog, rentable(query, catalog, grouped, dropped, memory), dropped, memory)


def rentable(
    query: ServeQuery, catalog: Catalog, grouped: Iterable[tuple[T, Iterable[Offer]]], dropped: list[Dropped], memory: Memory
) -> list[tuple[Offer, Site, T]]:
    """The offers whose amounts are known, each with its site and what came with it; adds to `dropped` what is not known."""
    means = means_of(catalog)
    sites = memory.sites.setdefault((id(catalog), query.carbon), {})
    entries: list[tuple[Offer, Site, T]] = []
    reasons: dict[str, int] = {}
    for theirs, offers in grouped:
        for offer in offers:
            if offer.region not in sites:
                sites[offer.region] = site_of(catalog.regions[offer.region], query, means)
            site, chip = sites[offer.region], catalog.chips[offer.accelerator]
            if isinstance(site, str):
                reasons[site] = reasons.get(site, 0) + 1
            elif chip.tdp is None or chip.host_power_share is None:
                reason = f"{chip.name}: power unknown"
                reasons[reason] = reasons.get(reason, 0) + 1
            else:
                entries.append((offer, site, theirs))
    for reason, count in reasons.items():
        dropped.append(Dropped(18, "sustainability", count, reason, missing=True))
    return entries


def served(query: ServeQuery, catalog: Catalog, grouped: Iterable[tuple[list[Runs], list[Offer]]], memory: Memory) -> set[int]:
    """The populations that some offer could serve within the SLA, were nothing limited; what `choices_of` finds columns for.

    `grouped`: what kinds of machine can run, each with its offers; looked at only until everybody is served.
    """
    means = means_of(catalog)
    found: set[int] = set()
    left: dict[float, Targets | None] = {}
    reach: dict[str, list[tuple[tuple[int, ...], float]]] = {}
    for runs, offers in grouped:
        chip = catalog.chips[offers[0].accelerator]
        if chip.tdp is None or chip.host_power_share is None:
            continue
        tried: set[tuple[tuple[int, ...], float]] = set()
        for region in dict.fromkeys(offer.region for offer in offers):
            if region not in reach:
                known = not isinstance(site_of(catalog.regions[region], query, means), str)
                near = tiers(query, catalog, catalog.regions[region]) if known else []
                left.update({trip.m_as("s"): budgets(query, trip) for _, trip in near if trip.m_as("s") not in left})
                reach[region] = [(populations, trip.m_as("s")) for populations, trip in near]
            tried.update(reach[region])
        for populations, trip in tried:
            targets = left[trip]
            if targets is None or found.issuperset(populations):
                continue
            if any(len(memory.curve(each, targets, query.workload.arrivals.cv**2).usable) for each in runs):
                found.update(populations)
        if len(found) == len(query.populations):
            break
    return found


def market_of(query: ServeQuery, catalog: Catalog, choices: Choices) -> Market:
    """The program's data: the columns that survive dominance, the rates and the limits."""
    keep = undominated(choices.columns, choices.objective, choices.curves, query, catalog)
    kept = [choices.columns[j] for j in keep]
    return Market(
        tuple(kept),
        tuple(population.name for population in query.populations),
        tuple(quantise(population.rate, "load", "up") for population in query.populations),
        tuple(limits_of(query, catalog, [column.offer for column in kept])),
        query.supply.mixed,
        tuple(choices.objective[j] for j in keep),
    )


def priced(
    query: ServeQuery, catalog: Catalog, entries: Sequence[tuple[Offer, Site, object]], memory: Memory
) -> dict[str, tuple[dict[str, int], int]]:
    """(amounts of one instance, objective of one instance) by offer, in integers; only what is not remembered is computed."""
    settings = (id(catalog), query.carbon, query.minimize)
    known = memory.priced.setdefault(settings, {})
    new = [(offer, site) for offer, site, _ in entries if offer.name not in known]
    if new:
        amounts = amounts_of(
            [catalog.chips[offer.accelerator] for offer, _ in new],
            np.array([float(offer.accelerators) for offer, _ in new]),
            Q(magnitudes([offer.price for offer, _ in new], _USD_PER_HOUR), "USD/hour"),
            [site for _, site in new],
            query,
            catalog,
        )
        for (offer, _), each, objective in zip(new, integers(amounts), objective_of(query, amounts), strict=True):
            known[offer.name] = ({**each, "instances": 1}, objective)
    return known


def columns_of(
    query: ServeQuery,
    catalog: Catalog,
    entries: list[tuple[Offer, Site, list[Runs]]],
    dropped: list[Dropped],
    memory: Memory,
) -> Choices:
    """Each offer in units of each of its runs, for each set of populations; adds to `dropped` what misses TTFT."""
    amounts = priced(query, catalog, entries, memory)
    columns: list[Column] = []
    objective: list[int] = []
    curves: list[Curve] = []
    known: dict[tuple[int, float], int] = {}
    served: dict[str, list[tuple[tuple[int, ...], float, Targets | None]]] = {}
    left: dict[float, Targets | None] = {}  # by the round trip
    far = 0
    for offer, site, runs_list in entries:
        if offer.region not in served:
            served[offer.region] = []
            for populations, slowest in tiers(query, catalog, site.region):
                seconds = float(slowest.m_as(_SECOND))
                if seconds not in left:
                    left[seconds] = budgets(query, slowest)
                served[offer.region].append((populations, seconds, left[seconds]))
        for populations, trip, targets in served[offer.region]:
            if targets is None:
                far += 1
                continue
            for runs in runs_list:
                key = (id(runs), trip)
                if key not in known:
                    known[key] = len(curves)
                    curves.append(memory.curve(runs, targets, query.workload.arrivals.cv**2))
                if not len(curves[known[key]].usable):
                    continue
                span = f" x{runs.instances}" if runs.instances > 1 else ""
                one, its_objective = amounts[offer.name]
                label = "" if len(query.populations) == 1 else " for " + "+".join(query.populations[k].name for k in populations)
                columns.append(
                    Column(
                        offer.name + span + label,
                        offer,
                        known[key],
                        populations,
                        runs.instances,
                        one if runs.instances == 1 else {name: runs.instances * each for name, each in one.items()},
                        f"{runs.machine.name} x{runs.instances}",
                    )
                )
                objective.append(runs.instances * its_objective)
    if far:
        dropped.append(Dropped(7, "tail latency", far, "the network round trip alone takes the TTFT budget"))
    slow = sum(1 for curve in curves if not len(curve.usable))
    if slow:
        dropped.append(Dropped(7, "tail latency", slow, "even an idle pool misses TTFT (kinds of machine x round trips)"))
    return Choices(columns, objective, curves)
