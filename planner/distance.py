"""How far a repair moves a question: the measure by which the nearest plan to an infeasible question is chosen.

The sum over the clauses that a repair changes. A number (a latency, a demand, a limit, a quota) counts |ln(new / old)|: twice
and half are as far, and a demand cut to a hundredth is as far as a latency a hundred times as long. What has no size (a list
of chips, of regions, of purchase options, a flag) counts as much as a number that doubles, whether it is widened or given up.
A number that no finite value repairs is endlessly far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from zoo.units import Quantity

# Of a clause without a size that is widened or given up; also of a number that leaves zero, which forbids as a list does.
GIVEN_UP = math.log(2)
# How much dearer than without the clauses that it moves a plan may be that moves them further than the least.
DEARER = 0.5


def between(old: float, new: float) -> float:
    """How far a number has moved; both in the same unit, neither negative."""
    if old == new:
        return 0.0
    return math.log(max(new / old, old / new)) if old and new else GIVEN_UP


def demand_left(cuts: Iterable[tuple[Quantity, Quantity]]) -> float | None:
    """The least share that is left of demands, each before and after a repair; None where none is cut."""
    return min((float((after / before).m_as("")) for before, after in cuts if after < before), default=None)
