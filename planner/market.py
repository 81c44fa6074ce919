"""What can be bought, as columns, and where the program keeps each of them.

A *column* is one offer, rented in units of `instances` machines, that serves a set of populations with one pool of
replicas. Everything about it is linear in its units except what the pool carries, which is its *curve*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from zoo.specs import Offer

from .program import Variable

# By kind of machine: the numbers of units at which its curves are exact.
Exact = Mapping[str, Collection[int]]


@dataclass(frozen=True, slots=True)
class Column:
    """One offer serving `populations` (indices), in units of `instances` machines.

    `amounts` are integers per unit in the units of `program.SCALES`, consumption rounded up.
    """

    name: str
    offer: Offer
    curve: int
    populations: tuple[int, ...]
    instances: int
    amounts: Mapping[str, int]
    machine: str  # what a fleet that must not mix has to have in common


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `bound` of `resource` over the columns in `columns` (None: all). `clause` is the query's own words."""

    name: str
    wall: int | None
    resource: str
    bound: int
    clause: str
    columns: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Market:
    """The whole choice: columns, the rate of each population in integer load units, and the limits."""

    columns: tuple[Column, ...]
    populations: tuple[str, ...]
    rates: tuple[int, ...]
    limits: tuple[Limit, ...]
    mixed: bool
    objective: tuple[int, ...]  # per unit of each column


def room(market: Market, j: int) -> int | None:
    """The most units of column j that the limits and quotas allow, None where nothing limits them.

    A limit that another column makes room in (one whose amount is negative: what may give way) limits nothing.
    """
    mine = market.columns[j].amounts
    bounds = [
        limit.bound // mine[limit.resource]
        for limit in market.limits
        if mine[limit.resource] > 0
        and (limit.columns is None or j in limit.columns)
        and all(column.amounts[limit.resource] >= 0 for column in market.columns)
    ]
    return min(bounds, default=None)


@dataclass(frozen=True, slots=True)
class Segment:
    """Units `low + 1 .. high` of a column, carrying at most `carries` each (or, if one wide, `carries` in all).

    `units` and `chosen` are variable indices; `chosen` is None where a column has one segment only.
    `high` None is no end.
    """

    low: int
    high: int | None
    carries: int
    units: int
    chosen: int | None

    @property
    def carrier(self) -> int:
        """The variable that `carries` multiplies: the choice itself where the segment is one unit wide, else its units."""
        return self.chosen if self.chosen is not None and self.high == self.low + 1 else self.units


@dataclass(slots=True)
class Index:
    """Where the program keeps each decision. `loads[(column, population)]` and `segments[column]` hold variable indices."""

    variables: list[Variable] = field(default_factory=list)
    segments: list[tuple[Segment, ...]] = field(default_factory=list)
    loads: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, name: str, upper: int | None, integer: bool = True) -> int:
        self.variables.append(Variable(name, upper, integer))
        return len(self.variables) - 1

    def units(self, column: int) -> Iterator[int]:
        """The variables whose sum is the number of units of this column."""
        return (segment.units for segment in self.segments[column])
