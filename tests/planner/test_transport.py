"""Loads onto pools, against Hall's theorem: demands fit when every set of populations finds room for what it needs."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.transport import assign, spread


@st.composite
def markets(draw: st.DrawFn) -> tuple[list[int], dict[int, int], list[tuple[int, int]]]:
    scale = draw(st.sampled_from([1, 7, 10**5, 10**11]))
    rates = [scale * draw(st.integers(1, 9)) + draw(st.integers(0, 2)) for _ in range(draw(st.integers(1, 4)))]
    pools = {3 * j: scale * draw(st.integers(0, 9)) + draw(st.integers(0, 2)) for j in range(draw(st.integers(0, 5)))}
    return rates, pools, [(j, k) for j in pools for k in range(len(rates)) if draw(st.booleans())]


@settings(max_examples=300, deadline=None)
@given(markets())
def test_loads_are_found_exactly_where_hall_says_there_are_some(
    case: tuple[list[int], dict[int, int], list[tuple[int, int]]],
) -> None:
    rates, pools, arcs = case
    possible = all(
        sum(rates[k] for k in some) <= sum(load for j, load in pools.items() if any((j, k) in arcs for k in some))
        for size in range(1, len(rates) + 1)
        for some in itertools.combinations(range(len(rates)), size)
    )
    for loads in (assign(rates, pools, arcs), spread(rates, pools, arcs)):
        assert (loads is not None) == possible
        if loads is None:
            continue
        assert set(loads) <= set(arcs) and all(load >= 0 for load in loads.values())
        assert all(
            sum(load for (_, k), load in loads.items() if k == population) == rate for population, rate in enumerate(rates)
        )
        assert all(sum(load for (j, _), load in loads.items() if j == pool) <= carried for pool, carried in pools.items())


def test_utilisation_is_evened_out() -> None:
    loads = spread([9000], {0: 10_000, 1: 5000}, [(0, 0), (1, 0)])
    assert loads is not None
    assert abs(loads[0, 0] - 6000) <= 1 and abs(loads[1, 0] - 3000) <= 1
    # what only the first may serve leaves the second to the others
    loads = spread([8000, 3000], {0: 10_000, 1: 10_000}, [(0, 0), (0, 1), (1, 1)])
    assert loads == {(0, 0): 8000, (0, 1): 0, (1, 1): 3000}


def test_one_unit_too_many_is_too_many_at_any_size() -> None:
    for size in (3, 10**6, 10**10, 10**15):
        assert spread([size], {0: size}, [(0, 0)]) == {(0, 0): size}
        assert spread([size + 1], {0: size}, [(0, 0)]) is None
