"""Machines of one offer in several pools, put together where one pool carries what they carry apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

from .certify import Curve, Purchase
from .market import Column


def together(market: Sequence[Column], carries: Curve, purchases: Iterable[Purchase]) -> tuple[Purchase, ...]:
    """The same machines in fewer pools: load of a pool <= carries(column, units) still, for each.

    A program that is indifferent to the number of pools may leave one machine for {a} beside three of the same offer for
    {a, b}. They become one pool of four for {a, b} if this carries all of their load within its TTFT, which may be less than
    that of the pool for {a} alone. Units and amounts are the same, so are the objective and all that limits count. As many
    pools as can be are put together at once, in the order of the market.

    `carries(column, units)` is exact [integer load units]; loads of a population add up.
    """
    alike: dict[tuple[str, int], list[Purchase]] = {}
    for purchase in purchases:
        column = market[purchase.column]
        alike.setdefault((column.offer.name, column.instances), []).append(purchase)
    pools = [pool for one in alike.values() for pool in _merged(market, carries, one)]
    return tuple(sorted(pools, key=lambda pool: pool.column))


def _merged(market: Sequence[Column], carries: Curve, pools: list[Purchase]) -> list[Purchase]:
    """Pools of one offer and unit in as few as carry the same: the largest group that one pool carries is put together first."""
    pools = sorted(pools, key=lambda pool: pool.column)
    for size in range(len(pools), 1, -1):
        for group in combinations(pools, size):
            if (one := _one_pool(market, carries, group)) is not None:
                return _merged(market, carries, [*(pool for pool in pools if pool not in group), one])
    return pools


def _one_pool(market: Sequence[Column], carries: Curve, group: Sequence[Purchase]) -> Purchase | None:
    """These pools as one, of the column that serves all whom they serve; None where it does not carry that."""
    loads: Counter[int] = Counter()
    for pool in group:
        loads.update(dict(pool.loads))
    units = sum(pool.units for pool in group)
    for pool in group:
        if loads.keys() <= set(market[pool.column].populations) and carries(pool.column, units) >= loads.total():
            return Purchase(pool.column, units, tuple(sorted(loads.items())))
    return None
