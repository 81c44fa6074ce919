"""Wall 4, serving: every request of every population is served."""

from __future__ import annotations

from ..market import Index, Market
from ..program import Row


def wall_04_serving(market: Market, index: Index) -> list[Row]:
    """sum over columns of load == rate, for each population.

    Exact: loads are divisible, in integer units of `SCALES["load"]`; a population that no column reaches gives a row
    without terms, which no plan satisfies.
    """
    return [
        Row(
            f"wall_04_serving[{name}]",
            4,
            "load",
            tuple((variable, 1) for (_, served), variable in index.loads.items() if served == k),
            "==",
            market.rates[k],
        )
        for k, name in enumerate(market.populations)
    ]
