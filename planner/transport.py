"""Giving the load of each population to the pools that may serve it: in whole units, exactly.

A transport problem (populations -> pools), solved by augmenting paths over integers. No tolerance decides whether pools
carry a demand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Arc = tuple[int, int]  # (pool, population)

# The highest utilisation is evened out to within one part in 2 to this power.
_HALVINGS = 20


def spread(rates: Sequence[int], carried: Mapping[int, int], arcs: Sequence[Arc]) -> dict[Arc, int] | None:
    """Loads that serve every rate and overfill no pool, with the highest utilisation as low as it can be; None: impossible.

    `carried[pool]` is what each pool carries; `arcs` are the pairs that may be used.
    """
    flow = assign(rates, carried, arcs)
    low, high = 0, 1 << _HALVINGS
    while flow is not None and high - low > 1:
        middle = (low + high) // 2
        even = assign(rates, {pool: (load * middle) >> _HALVINGS for pool, load in carried.items()}, arcs)
        low, high = (middle, high) if even is None else (low, middle)
        flow = flow if even is None else even
    return flow


def assign(rates: Sequence[int], carried: Mapping[int, int], arcs: Sequence[Arc]) -> dict[Arc, int] | None:
    """Loads that serve every rate and overfill no pool, or None when there are none."""
    loads = dict.fromkeys(arcs, 0)
    room = dict(carried)
    pools = {k: [j for j, population in arcs if population == k] for k in range(len(rates))}
    served = {j: [k for pool, k in arcs if pool == j] for j in carried}
    for k, rate in enumerate(rates):
        short = rate
        while short > 0:
            path = _path(k, pools, served, loads, room)
            if path is None:
                return None
            # along the path populations take load in one pool and give it up in the next, until a pool with room is found
            gives = [loads[pool, taker] for pool, taker in zip(path[1:-1:2], path[2::2], strict=True)]
            step = min(short, room[path[-1]], *gives) if gives else min(short, room[path[-1]])
            for taker, pool in zip(path[::2], path[1::2], strict=True):
                loads[pool, taker] += step
            for pool, giver in zip(path[1:-1:2], path[2::2], strict=True):
                loads[pool, giver] -= step
            room[path[-1]] -= step
            short -= step
    return loads


def _path(
    start: int, pools: Mapping[int, list[int]], served: Mapping[int, list[int]], loads: Mapping[Arc, int], room: Mapping[int, int]
) -> list[int] | None:
    """The shortest chain population, pool, population, ..., pool that ends where there is room."""
    came: dict[int, int] = {}  # pool -> the population that reaches it
    gave: dict[int, int] = {start: -1}  # population -> the pool in which it gives way
    queue = [start]
    for k in queue:
        for j in pools[k]:
            if j in came:
                continue
            came[j] = k
            if room[j] > 0:
                path = [j, k]
                while gave[path[-1]] >= 0:
                    path += [gave[path[-1]], came[gave[path[-1]]]]
                return path[::-1]
            for other in served[j]:
                if other not in gave and loads[j, other] > 0:
                    gave[other] = j
                    queue.append(other)
    return None
