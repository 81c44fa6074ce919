"""The constants of this floor: rows of `models/data`, each with its source and date."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zoo.names import nearest

from .dimensions import UnknownValue

_DATA = Path(__file__).with_name("data")


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    """All rows of `data/<name>.csv`."""
    with (_DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def row(name: str, key: str) -> dict[str, str]:
    """The row of `data/<name>.csv` whose first column is `key`; UnknownValue, with the nearest name, where there is none."""
    rows = table(name)
    first = next(iter(rows[0]))
    for record in rows:
        if record[first] == key:
            return record
    keys = [record[first] for record in rows]
    near = nearest(key, keys)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(dict.fromkeys(keys))}"
    raise UnknownValue(f"{name} of {key!r} is unknown ({hint})")


@dataclass(frozen=True, slots=True)
class Range:
    """A published low, typical and high figure, dimensionless, and where it is from."""

    low: float
    typical: float
    high: float
    source: str


def published_range(name: str, key: str) -> Range:
    """The low, typical and high figures of one row."""
    record = row(name, key)
    return Range(float(record["low"]), float(record["typical"]), float(record["high"]), record["source"])
