"""What reports state the objective in."""

from __future__ import annotations

from ..query import TrainQuery
from .job import UNITS

# Resource -> (unit of reports, integers of the program in one of it).
_SHOWN = {
    "cost": ("USD", 1e2),
    "carbon": ("tCO2e", 1e6),
    "time": ("days", 86400.0),
    "chips": ("chips", 1.0),
    "energy": ("MWh", 1e6),
    "power": ("kW", 1e3),
}


def in_units(query: TrainQuery, value: float | None) -> float | None:
    """An integer of the program as the number that reports state."""
    return None if value is None else value / _SHOWN[_resource(query)][1]


def unit_of(query: TrainQuery) -> str:
    """The unit of that number."""
    return _SHOWN[_resource(query)][0]


def step_of_objective(query: TrainQuery) -> str:
    """What one integer of the program's objective is, in that unit: "0.01 USD"."""
    return f"{in_units(query, 1):.10g} {unit_of(query)}"


def written(resource: str, value: int) -> str:
    """An amount of a resource in words, with the unit that questions write it in: "9.324 days", "1 chip"."""
    unit, each = {**_SHOWN, "water": ("kL", 1e4)}[resource]
    size = float(f"{value / each:.7g}")
    return f"{size:,.10g} {unit.removesuffix('s') if size == 1 else unit}"


def _resource(query: TrainQuery) -> str:
    return query.minimize if query.minimize in UNITS else "cost"
