"""Wall 7, tail latency (with 4 and 5 inside it): a pool's load stays within what its replicas carry at the SLA."""

from __future__ import annotations

from ..market import Index, Market
from ..program import Row


def wall_07_tail_latency(market: Market, index: Index) -> list[Row]:
    """sum over populations of load <= sum over segments of carries * units, for each column.

    A relaxation, never below the truth: what c replicas carry within a percentile, divided by c, never falls as c
    grows (pooling), so `c * carries(high) / high` is at least what c <= high replicas carry. Exact where a segment is
    one unit wide.
    """
    rows = []
    for j, column in enumerate(market.columns):
        loads = [(index.loads[j, k], 1) for k in column.populations]
        carried = [(segment.carrier, -segment.carries) for segment in index.segments[j] if segment.carries]
        rows.append(Row(f"wall_07_tail_latency[{column.name}]", 7, "load", (*loads, *carried), "<=", 0))
    return rows


def one_segment(market: Market, index: Index) -> list[Row]:
    """low + 1 <= units <= high of the one chosen segment, for columns whose curve is cut into several.

    Bookkeeping of the table, not a wall.
    """
    rows = []
    for column, segments in zip(market.columns, index.segments, strict=True):
        if len(segments) == 1:
            continue
        for segment in segments:
            assert segment.chosen is not None and segment.high is not None
            name = f"{column.name} [{segment.low + 1}..{segment.high}]"
            rows.append(
                Row(f"segment_low[{name}]", None, "units", ((segment.units, 1), (segment.chosen, -segment.low - 1)), ">=", 0)
            )
            rows.append(
                Row(f"segment_high[{name}]", None, "units", ((segment.units, 1), (segment.chosen, -segment.high)), "<=", 0)
            )
        chosen = tuple((segment.chosen, 1) for segment in segments if segment.chosen is not None)
        rows.append(Row(f"one_segment[{column.name}]", None, "units", chosen, "<=", 1))
    return rows
