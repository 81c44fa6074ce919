"""The optimisation program, solver-neutral: integer columns and named rows.

Every coefficient is a Python integer in a stated user unit (see `quantise`), so that HiGHS, CP-SAT and the
exact check read the same numbers and "the solvers agree" means equality, not a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from zoo.units import Q, Quantity

# The largest coefficient a row may carry. HiGHS rejects 1e15 outright and loses digits long before.
LARGEST_COEFFICIENT = 10**12

# What one integer unit of each resource is. Small enough that rounding is invisible in any report.
SCALES: dict[str, str] = {
    "cost": "0.0001 USD/hour",
    "carbon": "0.1 gCO2e/hour",
    "power": "watt",
    "water": "0.001 liter/hour",
    "chips": "dimensionless",
    "load": "0.001/second",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """A decision. `upper` None is no bound. Continuous variables are loads; everything bought is an integer."""

    name: str
    upper: int | None
    integer: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """`sum(coefficient * variable) sense bound`, with the wall it stands for and the resource it is measured in."""

    name: str
    wall: int | None  # None: a rule of the market or the query, not one of the 22
    resource: str
    terms: tuple[tuple[int, int], ...]  # (variable index, coefficient)
    sense: str  # "<=" | ">=" | "=="
    bound: int

    def value(self, point: Sequence[int]) -> int:
        """The left-hand side at an integer point, exactly."""
        return sum(coefficient * point[index] for index, coefficient in self.terms)

    def holds(self, point: Sequence[int]) -> bool:
        value = self.value(point)
        return value <= self.bound if self.sense == "<=" else value >= self.bound if self.sense == ">=" else value == self.bound


@dataclass(frozen=True, slots=True)
class Program:
    """Minimise `objective` over `variables` subject to `rows`. Lower bounds are zero."""

    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]
    objective: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            for index, coefficient in row.terms:
                if not isinstance(coefficient, int) or abs(coefficient) > LARGEST_COEFFICIENT:
                    raise ValueError(f"row {row.name}: coefficient {coefficient} of {self.variables[index].name} is out of range")

    def cost(self, point: Sequence[int]) -> int:
        """The objective at an integer point, exactly."""
        return sum(coefficient * point[index] for index, coefficient in self.objective)

    def violated(self, point: Sequence[int]) -> list[Row]:
        """The rows that do not hold at an integer point, exactly."""
        return [row for row in self.rows if not row.holds(point)]

    def contradictions(self) -> list[Row]:
        """Rows without any variable that cannot hold: the program is infeasible before any solver looks at it."""
        return [row for row in self.rows if not row.terms and not row.holds(())]

    def with_rows(self, rows: Iterable[Row]) -> Program:
        return replace(self, rows=(*self.rows, *rows))

    def minimising(self, objective: Iterable[tuple[int, int]]) -> Program:
        return replace(self, objective=tuple(objective))


def quantise(value: Quantity, resource: str, direction: str) -> Any:
    """`whole` in the resource's unit."""
    return whole(value, _scale(resource), direction)


def whole(value: Quantity, unit: Quantity, direction: str) -> Any:
    """`value` in multiples of `unit`, rounded "up" (what is consumed) or "down" (what is offered or allowed).

    One integer, or a list of them where the magnitude is an array. Exact for decimal figures: a price of 98.32 USD/h is
    983200, not 983201 because of a binary fraction. For that, a value within 1e-9 of an integer, relatively, counts as
    this integer. Raises ValueError for what is not finite.
    """
    exact = np.asarray((value / unit).to("dimensionless").magnitude, float)
    if not np.all(np.isfinite(exact)):
        raise ValueError(f"{value} has no finite size in {unit:~}")
    nearest = np.round(exact)
    close = np.abs(exact - nearest) <= 1e-9 * np.maximum(1.0, np.abs(exact))
    rounded = np.where(close, nearest, np.ceil(exact) if direction == "up" else np.floor(exact))
    return [int(v) for v in rounded] if rounded.ndim else int(rounded)


def dequantise(value: float, resource: str) -> Quantity:
    """The quantity that an integer of the program stands for."""
    return float(value) * _scale(resource)


@cache
def _scale(resource: str) -> Quantity:
    return Q(SCALES[resource])


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solver said, read only after its status.

    `status`: "optimal" (proven), "infeasible" (proven), "stopped" (a limit came first; `point` may be None).
    `bound` is the solver's proven lower bound on the objective, in objective units, rounded up to an integer because
    the objective is an integer at every integer point; None when nothing was proven.
    """

    status: str
    point: tuple[int, ...] | None
    objective: int | None
    bound: int | None
    solver: str
    seconds: float
