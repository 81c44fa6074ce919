"""The program of a market: its variables, and one named family of rows for each wall. A new constraint is added here."""

from __future__ import annotations

from .market import Index, Market, Segment
from .program import Program, Row
from .rows import balance, limits, mixed, tail_latency


def assemble(market: Market, steps: list[list[tuple[int | None, int]]]) -> tuple[Program, Index]:
    """The program of a market.

    `steps[column]` cuts the column's curve: ascending `(high, carries)`, where units above the step before and up to
    `high` carry at most `carries` each (a step one unit wide: in all); a single open step has `high` None.
    """
    index = Index()
    for column, cuts in zip(market.columns, steps, strict=True):
        segments, low = [], 0
        for high, carries in cuts:
            label = f"{column.name} [{low + 1}..{high if high is not None else ''}]"
            single = len(cuts) == 1
            segments.append(
                Segment(
                    low, high, carries, index.add(f"units {label}", high), None if single else index.add(f"chosen {label}", 1)
                )
            )
            low = high if high is not None else low
        index.segments.append(tuple(segments))
    for j, column in enumerate(market.columns):
        for k in column.populations:
            index.loads[j, k] = index.add(f"load {column.name} <- {market.populations[k]}", market.rates[k], integer=False)
    rows: list[Row] = [
        *balance.wall_04_serving(market, index),
        *tail_latency.wall_07_tail_latency(market, index),
        *tail_latency.one_segment(market, index),
        *limits.limits(market, index),
        *(mixed.one_machine(market, index) if not market.mixed else ()),
    ]
    terms = [(unit, market.objective[j]) for j in range(len(market.columns)) for unit in index.units(j) if market.objective[j]]
    return Program(tuple(index.variables), tuple(rows), tuple(terms)), index
