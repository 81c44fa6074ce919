"""Fleets of one kind of machine, as many as the limits leave room for: what they reach says without a solver what is possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models import serving
from zoo.units import Q, Quantity

from .columns import queues
from .market import room
from .prepare import Prepared
from .space import Stations


@dataclass(frozen=True, slots=True)
class Alone:
    """One pool each that could carry the whole demand, were nobody in a hurry: arrays over layouts of all columns."""

    column: np.ndarray
    stations: Stations
    units: np.ndarray
    rate: Quantity  # [1/s] of all populations

    def late(self, prepared: Prepared) -> np.ndarray:
        """Whether a pool misses a TTFT target of its column."""
        market, curves = prepared.market, prepared.choices.curves
        result = np.zeros(len(self.column), bool)
        for j in np.unique(self.column).tolist():
            mine, targets = np.flatnonzero(self.column == j), curves[market.columns[j].curve].targets
            if targets:
                pools = queues(self.stations.at(mine), self.units[mine])
                result[mine] = ~serving.in_time(self.rate, *pools, targets, prepared.query.workload.arrivals.cv**2)
        return result

    def first_token(self, percentile: float, variability: float) -> np.ndarray:
        """TTFT [s] of each pool at a percentile, without the network."""
        pools = queues(self.stations, self.units)
        return np.asarray(serving.first_token_quantile(self.rate, *pools, percentile, variability).m_as("s"), float)


def alone(prepared: Prepared) -> Alone | None:
    """The pools of one column that serve every population within the limits and quotas; None where there are none.

    Of columns whose number nothing limits there are none either: what they reach has no end.
    """
    market, curves = prepared.market, prepared.choices.curves
    total = sum(market.rates)
    found: list[tuple[int, np.ndarray, int]] = []
    for j, column in enumerate(market.columns):
        units = room(market, j)
        curve = curves[column.curve]
        if units and len(column.populations) == len(market.populations):
            able = curve.usable[curve.saturation[curve.usable] * units * 1000 > total]
            if len(able):
                found.append((j, able, units))
    if not found:
        return None
    return Alone(
        np.concatenate([np.full(len(able), j) for j, able, _ in found]),
        Stations.joined([curves[market.columns[j].curve].runs.stations.at(able) for j, able, _ in found]),
        np.concatenate([np.full(len(able), units) for _, able, units in found]),
        Q(total / 1000, "1/s"),
    )
