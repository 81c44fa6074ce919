"""The least of a limit, a count or a quota with which a question still has a job: exact, one step less has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.units import Q, Quantity

from ..query import TrainQuery
from ..records import QueryError
from .asking import Asker
from .job import UNITS, limit_for, queue_wait
from .question import Question

# No number of chips or instances beyond this is looked for.
_MOST = 2**18

# Resource -> (clause that bounds it, unit that it is written in)
CLAUSES = {
    "time": ("deadline", "s"), "cost": ("limits.cost", "USD"), "carbon": ("limits.carbon", "gCO2e"),
    "power": ("limits.power", "W"), "water": ("limits.water", "L"), "chips": ("limits.chips", ""),
}  # fmt: skip


def limit_of(query: TrainQuery, resource: str, bound: Any) -> Quantity:
    """A number, or an array, of the program's integers as the question states that limit: a deadline with the wait for the
    machines."""
    size: Quantity = bound * UNITS[resource]
    if resource == "time":
        size = size + Q(queue_wait(query.sharing, np.asarray(size.m_as("hour"), float)), "hour")
    return size


def bounded(query: TrainQuery, resource: str, bound: int) -> TrainQuery:
    """The question with a resource bounded by a number of the program's integers."""
    path, unit = CLAUSES[resource]
    size = float(limit_of(query, resource, bound).m_as(unit or ""))
    changed = query.override({path: bound if not unit else f"{size:.15g} {unit}"})
    assert isinstance(changed, TrainQuery)
    return changed


def least_of(asker: Asker, query: TrainQuery, resource: str) -> int | None:
    """The least of a resource with which the question has any plan, its own limit of it apart; None where it has none.

    In integers of the program. Exact over every whole number of instances: with one less the question is shown to have no plan.
    """
    path, _ = CLAUSES[resource]
    free = query.override({path: None}) if query_has(query, path) else query
    assert isinstance(free, TrainQuery)
    try:
        question = asker.question(free)
        best = asker.market(minimising(question, resource)).best
    except QueryError:
        return None
    if best is None:
        return None
    least = limit_for(question, resource, best.totals[resource])
    while least > 1:
        asker.progress(f"{path}: is less than {least} enough?")
        try:
            tighter = asker.question(bounded(free, resource, least - 1))
        except QueryError:
            break
        found = asker.market(tighter, first=True, counts=()).best
        if found is None:
            break
        least = min(limit_for(question, resource, found.totals[resource]), least - 1)
    return least


def query_has(query: TrainQuery, path: str) -> bool:
    """Whether the question says anything at a path of one or two keys."""
    place: Any = query.to_dict()
    for key in path.split("."):
        place = place.get(key) if isinstance(place, dict) else None
    return place is not None


def minimising(question: Question, resource: str) -> Question:
    """The same question with the least of a resource as its objective (water too, which a user cannot ask for)."""
    return replace(question, query=question.query.model_copy(update={"minimize": resource}))


def first_from(enough: Callable[[int], int | None], bad: int, most: int = _MOST) -> int | None:
    """The least whole number above `bad` and at most `most` that is enough; None where none is. What is above it is enough too.

    enough: None where a number is not, else one that is, at most as large. By quadrupling steps, then bisection.
    """
    stride, found = 1, None
    while found is None:
        good = min(bad + stride, most)
        if good <= bad:
            return None
        found = enough(good)
        if found is None:
            bad, stride = good, 4 * stride
    good = max(found, bad + 1)
    while good - bad > 1:
        middle = (good + bad) // 2
        found = enough(middle)
        bad, good = (middle, good) if found is None else (bad, max(found, bad + 1))
    return good


def least_between(enough: Callable[[int], int | None], bad: int, good: int) -> int:
    """The least whole number that is enough, between one that is not and one that is. `enough` as for `first_from`.

    Asks next to the best known first, which settles it where `enough` gives the least of what is like it; then bisects.
    """
    while good - bad > 1:
        found = enough(good - 1)
        if found is None:
            break
        good = max(found, bad + 1)
        middle = (good + bad) // 2
        if middle > bad:
            found = enough(middle)
            bad, good = (middle, good) if found is None else (bad, max(found, bad + 1))
    return good
