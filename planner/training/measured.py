"""The best utilisation ever measured on a chip, from the published runs that the models are fitted to."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from models.training_constants import RECIPES
from models.training_rows import MEASUREMENTS
from zoo.catalog import Catalog
from zoo.errors import UnknownName
from zoo.specs import Accelerator


@dataclass(frozen=True, slots=True)
class Measured:
    """A published utilisation: model FLOP/s over the chip's peak at the precision's rate."""

    utilisation: float
    row: str
    model: str


@cache
def _rows() -> tuple[dict[str, str], ...]:
    with MEASUREMENTS.open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def best_measured(catalog: Catalog, chip: Accelerator, precision: str) -> Measured | None:
    """The highest utilisation among the rows of this chip in this precision's class; None where there is none."""
    return max(_of_chip(catalog, chip, precision), key=lambda m: m.utilisation, default=None)


def _of_chip(catalog: Catalog, chip: Accelerator, precision: str) -> Iterator[Measured]:
    bits, name = RECIPES[precision]
    for row in _rows():
        if RECIPES.get(row["precision"], (0, ""))[0] != bits:
            continue
        try:
            same = catalog.find("chips", row["hardware"]).name == chip.name
        except UnknownName:
            continue
        if not same:
            continue
        if row["model_tflops_per_accelerator"]:
            reached = float(row["model_tflops_per_accelerator"]) / float(chip.peak[name].m_as("TFLOP/s"))
        elif row["mfu_pct"]:
            reached = float(row["mfu_pct"]) / 100
        else:
            continue
        yield Measured(reached, row["id"], row["model"])
