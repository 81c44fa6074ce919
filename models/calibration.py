"""Fitted constants: what real kernels and engines reach, as data with a source."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zoo.units import Q, Quantity

_DATA = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True)
class Constants:
    """Constants of the serving model. Fractions are of peak FLOP/s or of peak bandwidth."""

    step_overhead: Quantity
    layer_overhead: Quantity
    collective_latency: Quantity
    memory_efficiency: float
    cache_efficiency: float
    attention_efficiency: float
    half_efficiency_rows: float
    roofline_exponent: float
    reserve_fraction: float
    workspace: Quantity
    largest_batch: float
    compute_efficiency: Mapping[str, float]


@cache
def serving_constants() -> Constants:
    """The constants of `data/serving_constants.csv`."""
    fields: dict[str, object] = {}
    efficiency: dict[str, float] = {}
    with (_DATA / "serving_constants.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            value = float(row["value"])
            name, _, precision = row["constant"].partition(".")
            if precision:
                efficiency[precision] = value
            else:
                fields[name] = Q(value, row["unit"]) if row["unit"] else value
    return Constants(compute_efficiency=efficiency, **fields)  # type: ignore[arg-type]
