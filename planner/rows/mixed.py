"""`supply.mixed: false`: one kind of machine, and one pool for each population."""

from __future__ import annotations

from ..market import Index, Market
from ..program import Row


def one_machine(market: Market, index: Index) -> list[Row]:
    """load of a column <= rate * used column; used columns share one machine kind; each population uses one column.

    Exact. The binaries are bounded by the loads, not by the units: a unit without load is never bought.
    """
    used = {key: index.add(f"used {market.columns[key[0]].name} <- {market.populations[key[1]]}", 1) for key in index.loads}
    kinds = {kind: index.add(f"machine {kind}", 1) for kind in dict.fromkeys(column.machine for column in market.columns)}
    rows = []
    for (j, k), load in index.loads.items():
        name = f"{market.columns[j].name} <- {market.populations[k]}"
        rows.append(Row(f"used[{name}]", None, "units", ((load, 1), (used[j, k], -market.rates[k])), "<=", 0))
        rows.append(Row(f"machine_of[{name}]", None, "units", ((used[j, k], 1), (kinds[market.columns[j].machine], -1)), "<=", 0))
    for k, population in enumerate(market.populations):
        mine = tuple((used[key], 1) for key in index.loads if key[1] == k)
        rows.append(Row(f"one_pool[{population}]", None, "units", mine, "<=", 1))
    rows.append(Row("one_machine", None, "units", tuple((kind, 1) for kind in kinds.values()), "<=", 1))
    return rows
