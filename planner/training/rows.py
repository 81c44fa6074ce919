"""The program of a job: exactly one column is chosen, and what it takes stays within every limit."""

from __future__ import annotations

from ..program import Program, Row, Variable
from .job import bounds_of
from .market import Market

_NAMES = {
    "cost": (17, "wall_17_limit_cost"),
    "carbon": (18, "wall_18_limit_carbon"),
    "power": (18, "wall_18_limit_power"),
    "water": (18, "wall_18_limit_water"),
    "chips": (None, "limit_chips"),
    "time": (11, "wall_11_deadline"),
}


def assemble(market: Market) -> Program:
    """Minimise the objective of the chosen column. Columns that were not searched carry lower bounds: a relaxation."""
    variables = tuple(Variable(column.name, 1) for column in market.columns)
    rows = [one_job(market), *limits(market), *quotas(market)]
    objective = tuple((j, column.objective) for j, column in enumerate(market.columns) if column.objective)
    return Program(variables, tuple(rows), objective)


def one_job(market: Market) -> Row:
    """sum over columns of chosen == 1. A row without terms, where no column is left, cannot hold."""
    return Row("one_job", None, "columns", tuple((j, 1) for j in range(len(market.columns))), "==", 1)


def limits(market: Market) -> list[Row]:
    """sum over columns of what a column takes * chosen <= limit, for each limit and the deadline. Exact where columns are."""
    rows = []
    for name, bound in bounds_of(market.question).items():
        wall, label = _NAMES[name]
        terms = tuple((j, column.totals[name]) for j, column in enumerate(market.columns) if column.totals[name])
        if terms:
            rows.append(Row(label, wall, name, terms, "<=", bound))
    return rows


def quotas(market: Market) -> list[Row]:
    """sum over matching columns of chips (or instances) * chosen <= quota."""
    rows = []
    for place, quota in enumerate(market.question.query.supply.quota):
        each = [column.totals["chips"] if quota.chips is not None else column.instances for column in market.columns]
        terms = tuple((j, each[j]) for j, column in enumerate(market.columns) if column.quotas[place])
        allowed = quota.chips if quota.chips is not None else quota.instances or 0
        if terms:
            rows.append(Row(f"quota[{place}]", None, "chips", terms, "<=", allowed))
    return rows
