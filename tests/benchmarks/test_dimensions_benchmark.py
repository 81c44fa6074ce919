"""What checking the units of an equation costs: a call with the check beside the same call without it.

Run with `pytest tests/benchmarks --benchmark-only`.
"""

from __future__ import annotations

import timeit
from typing import Any

from models.node import memory_time
from zoo.units import Q


def test_units_checked_beside_unchecked(benchmark: Any) -> None:
    traffic, bandwidth = Q(1.0, "byte"), Q(1.0, "byte/s")
    benchmark(lambda: memory_time(traffic, bandwidth, 0.5))
    bare = min(timeit.repeat(lambda: memory_time.__wrapped__(traffic, bandwidth, 0.5), number=200, repeat=5)) / 200  # type: ignore[attr-defined]
    benchmark.extra_info["ratio"] = round(benchmark.stats.stats.min / bare, 2)
