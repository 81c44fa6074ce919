"""Fleets of one kind of machine, as many as the limits leave room for: what they reach says without a solver what is possible.

A plan there is, where some column alone carries the whole rate r with the n units that the limits leave room for. There is
none, where each column j alone carries less than r a n / B, with a what a unit takes of something of which a limit allows B:
what a unit carries never falls as units are added, so that u <= n units of j carry less than r a u / B, and as the sum of a u
over a plan is at most B, the plan carries less than r.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models import serving
from zoo.units import Q

from .columns import FIRST, learn, queues
from .market import Exact, Limit, Market, room
from .prepare import Prepared, restricted
from .space import Stations


@dataclass(frozen=True, slots=True)
class Alone:
    """Pools of one column that could carry a rate, were nobody in a hurry: arrays over layouts of all columns."""

    column: np.ndarray
    stations: Stations
    units: np.ndarray
    rate: np.ndarray  # [1/s] that each has to carry

    def at(self, positions: np.ndarray) -> Alone:
        """The same for some of them."""
        return Alone(self.column[positions], self.stations.at(positions), self.units[positions], self.rate[positions])

    def in_time(self, prepared: Prepared) -> np.ndarray:
        """Whether a pool meets the TTFT targets of its column."""
        market, curves = prepared.market, prepared.choices.curves
        which, of = np.unique(self.column, return_inverse=True)
        targets = [curves[market.columns[j].curve].targets for j in which.tolist()]
        if not len(which) or not targets[0]:
            return np.ones(len(self.column), bool)
        each = tuple(
            (percentile, Q(np.array([mine[i][1].m_as("s") for mine in targets])[of], "s"))
            for i, (percentile, _) in enumerate(targets[0])
        )
        pools, variability = queues(self.stations, self.units), prepared.query.workload.arrivals.cv**2
        return np.asarray(serving.in_time(Q(self.rate, "1/s"), *pools, each, variability))

    def first_token(self, prepared: Prepared, percentile: float) -> np.ndarray:
        """TTFT [s] of each pool at a percentile, without the network."""
        pools, variability = queues(self.stations, self.units), prepared.query.workload.arrivals.cv**2
        found = serving.first_token_quantile(Q(self.rate, "1/s"), *pools, percentile, variability)
        return np.asarray(found.m_as("s"), float)


def alone(prepared: Prepared, layouts: slice = slice(None)) -> Alone | None:
    """The pools of one column that serve every population within the limits and quotas; None where there are none.

    Of columns whose number nothing limits there are none either: what they reach has no end. `layouts`: which of the layouts of
    a column, those that carry most first.
    """
    market = prepared.market
    everybody = len(market.populations)
    rates = {j: float(sum(market.rates)) for j, column in enumerate(market.columns) if len(column.populations) == everybody}
    return _pools(prepared, {j: units for j in rates if (units := room(market, j))}, rates, layouts)


def counting_everything(market: Market) -> list[Limit]:
    """The limits of which a unit of every column takes something."""
    return [
        limit
        for limit in market.limits
        if all(
            column.amounts[limit.resource] > 0 and (limit.columns is None or j in limit.columns)
            for j, column in enumerate(market.columns)
        )
    ]


def sharing(prepared: Prepared, limit: Limit, layouts: slice = slice(None)) -> Alone | None:
    """The pools of one column that carry as much of the demand as they take of a limit that counts everything; as `alone`.

    Where none is in time there is no plan.
    """
    market, total = prepared.market, sum(prepared.market.rates)
    units = {j: most for j in range(len(market.columns)) if (most := room(market, j))}
    # a hair less, for the arithmetic of floats
    each = {j: total * (1 - 1e-9) * market.columns[j].amounts[limit.resource] / limit.bound for j in units}
    return _pools(prepared, units, {j: each[j] * most for j, most in units.items()}, layouts)


def _pools(prepared: Prepared, units: Mapping[int, int], rates: Mapping[int, float], layouts: slice) -> Alone | None:
    """Of each column with so many units, the layouts that carry a rate, in load units, at saturation; None where none does."""
    columns, curves = prepared.market.columns, prepared.choices.curves
    found = []
    for j, most in units.items():
        curve = curves[columns[j].curve]
        able = curve.promising[layouts]
        able = able[curve.saturation[able] * most * 1000 > rates[j]]
        if len(able):
            found.append((j, able, most, rates[j]))
    if not found:
        return None
    counts = [len(able) for _, able, *_ in found]
    return Alone(
        np.repeat([j for j, *_ in found], counts),
        Stations.joined([curves[columns[j].curve].runs.stations.at(able) for j, able, *_ in found]),
        np.repeat([most for _, _, most, _ in found], counts),
        np.repeat([rate / 1000 for *_, rate in found], counts),
    )


def possible(prepared: Prepared) -> bool | None:
    """Whether there is a plan, as far as fleets of one kind tell; None where only a solver can."""
    market = prepared.market
    if not market.columns:
        return False
    for j, column in enumerate(market.columns):  # of what nothing limits, as many as it takes
        if len(column.populations) == len(market.populations) and room(market, j) is None:
            return True
    first, rest = slice(FIRST), slice(FIRST, None)
    if _in_time(prepared, alone(prepared, first)) or _in_time(prepared, alone(prepared, rest)):
        return True
    for limit in counting_everything(market):
        if not _in_time(prepared, sharing(prepared, limit, first)) and not _in_time(prepared, sharing(prepared, limit, rest)):
            return False
    return None


def _in_time(prepared: Prepared, pools: Alone | None) -> bool:
    return pools is not None and bool(pools.in_time(prepared).any())


def most_carried(prepared: Prepared) -> int:
    """The most load, in load units, that a fleet of one kind which may serve every population carries within the limits."""
    market, curves = prepared.market, prepared.choices.curves
    rooms = {j: room(market, j) for j, c in enumerate(market.columns) if len(c.populations) == len(market.populations)}
    asked = [(curves[market.columns[j].curve], most) for j, most in rooms.items() if most]
    learn((curve, [most]) for curve, most in asked)
    return max((curve.best(most)[0] for curve, most in asked), default=0)


# Numbers of units that are tried, over those that carry the rate at saturation: farther off only where nearer ones do not do.
_TIMES = ((1, 1.01, 1.03, 1.07, 1.15, 1.3, 1.6), (2.5, 6), (20, 100, 1000))


def reached(prepared: Prepared) -> int | None:
    """An objective that a fleet of one kind reaches, near the least; None where none was found. It only tells where to look."""
    return next((found for times in _TIMES if (found := _reached(prepared, times)) is not None), None)


def _reached(prepared: Prepared, times: tuple[float, ...]) -> int | None:
    market, curves = prepared.market, prepared.choices.curves
    total = sum(market.rates)
    found = []
    for j, column in enumerate(market.columns):
        curve, most = curves[column.curve], room(market, j)
        if len(column.populations) < len(market.populations) or not curve.slope or not market.objective[j]:
            continue
        tried = np.unique(np.ceil(np.array(times) * total / curve.slope))
        tried = tried[tried <= most] if most is not None else tried
        best = curve.promising[:FIRST]
        at, many = np.repeat(best, len(tried)), np.tile(tried, len(best))
        able = curve.saturation[at] * many * 1000 > total
        found.append((j, at[able], many[able]))
    counts = [len(at) for _, at, _ in found]
    if not sum(counts):
        return None
    stations = [curves[market.columns[j].curve].runs.stations.at(at) for j, at, _ in found]
    which, units = np.repeat([j for j, *_ in found], counts), np.concatenate([many for *_, many in found])
    rate = total * (1 + 1e-6) / 1000  # a hair more, for what integers leave of it
    pools = Alone(which, Stations.joined(stations), units, np.full(len(units), rate))
    good = pools.in_time(prepared)
    return int((np.array(market.objective)[which] * units)[good].min()) if good.any() else None


@dataclass(frozen=True, slots=True)
class Part:
    """What is left of a market where only plans within limits count: see `narrowed`.

    `tops`: by name of a column, what a unit carries at most in such a plan, in load units. `begin`: numbers of units, by kind of
    machine, at which a proof may begin with exact curves.
    """

    prepared: Prepared
    tops: Mapping[str, int]
    begin: Exact


# Of the units that there is room for, at which a proof begins with exact curves, and of how many kinds of machine, those that
# carry most for what they take. Measured: 5 rounds where it took 11 without, a quarter of the time.
_BEGIN, _BEGIN_MACHINES = (0.1, 0.25, 0.5, 0.75), 6


def narrowed(prepared: Prepared, rate: int, most: int | None = None) -> Part:
    """The question without columns that are in no plan which carries `rate` [load units] within the limits and an objective
    `most`. Exact, also for ties.

    With r the least that a unit of load takes of something on any column, and B what there is of it, a plan with a unit of a
    column takes at least rate r + a - r c, a what that unit takes and c what it carries. As `possible`: c is what each carries
    of as many as there is room for. First c is taken at saturation, which tells less and costs nothing.
    """
    market, curves = prepared.market, [prepared.choices.curves[column.curve] for column in prepared.market.columns]
    taken = [(np.array([c.amounts[limit.resource] for c in market.columns], float), limit.bound)
             for limit in counting_everything(market)]  # fmt: skip
    if most is not None and all(market.objective):
        taken.append((np.array(market.objective, float), most))
    if not taken:
        return Part(prepared, {}, {})
    kept, carried = np.ones(len(market.columns), bool), np.array([curve.slope for curve in curves], float)

    def able() -> np.ndarray:
        """Which of `kept` can be in a plan, as far as `carried` tells."""
        left = kept & (carried > 0)
        for amounts, bound in taken:
            if not left.any():
                break
            price = np.min(amounts[left] / carried[left])
            left &= rate * price + amounts - price * carried <= bound * (1 + 1e-9)
        return left

    kept = able()
    limited = [room(market, j) for j in range(len(market.columns))]
    fewest = np.min([bound // amounts for amounts, bound in taken], axis=0).astype(int).tolist()
    units = [few if each is None else min(few, each) for few, each in zip(fewest, limited, strict=True)]
    at = np.flatnonzero(kept).tolist()
    learn((curves[j], [units[j]]) for j in at)
    loads = {j: curves[j].best(units[j])[0] for j in at}
    carried[at] = [loads[j] / max(units[j], 1) for j in at]
    kept = able()
    names = {column.name for column, keep in zip(market.columns, kept.tolist(), strict=True) if keep}
    tops = {market.columns[j].name: -(-loads[j] // max(units[j], 1)) for j in at}
    cheapest: dict[str, tuple[float, int]] = {}
    for j in np.flatnonzero(kept).tolist():
        price = float(taken[-1][0][j] / carried[j]), units[j]
        cheapest[market.columns[j].machine] = min(price, cheapest.get(market.columns[j].machine, price))
    best = sorted(cheapest, key=lambda machine: cheapest[machine])[:_BEGIN_MACHINES]
    few = len(cheapest) <= _BEGIN_MACHINES  # then it is soon proven either way
    begin = {machine: {max(1, round(cheapest[machine][1] * share)) for share in _BEGIN} for machine in best if not few}
    return Part(restricted(prepared, lambda column: column.name in names), tops, begin)
