"""Limits and quotas: what all, or some, of the columns may use together (walls 17 and 18, and the market's quotas)."""

from __future__ import annotations

from ..market import Index, Market
from ..program import Row


def limits(market: Market, index: Index) -> list[Row]:
    """sum over columns of amount * units <= bound, for each limit.

    Exact: amounts are rounded up and bounds down, once, in integer units. A resource that is not limited has no row.
    """
    rows = []
    for limit in market.limits:
        terms = tuple(
            (unit, column.amounts[limit.resource])
            for j, column in enumerate(market.columns)
            if (limit.columns is None or j in limit.columns) and column.amounts[limit.resource]
            for unit in index.units(j)
        )
        if terms:
            rows.append(Row(limit.name, limit.wall, limit.resource, terms, "<=", limit.bound))
    return rows
