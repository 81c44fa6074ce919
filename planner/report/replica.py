"""One replica under one load as tables, and as rows of CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .measurements import cell
from .tables import Table, number


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """One replica under one load: predictions with their intervals, memory, and what they stand on."""
    found = {key: value for key, value in result.items() if isinstance(value, Mapping) and "low" in value}
    rows = tuple((key, *(number(value[end]) for end in ("value", "low", "high"))) for key, value in found.items())
    tables = ("percentiles_ms", "ttft_parts_ms", "tpot_parts_ms")
    facts = {k: v for k, v in result.items() if not isinstance(v, (dict, list)) and k not in tables}
    for key in ("prefill", "decode", "kv_transfer", "calibration"):
        if key in result:
            facts[key] = "; ".join(f"{name} {cell(value)}" for name, value in result[key].items())
    return [
        Table("Replica", ("", ""), tuple((key, cell(value)) for key, value in facts.items())),
        Table("Predictions", ("what", "value", "low", "high"), rows, frozenset({"value", "low", "high"})),
        *_percentile_tables(result),
        *_part_tables(result),
        _memory_table(result),
        *_simulation_tables(result),
        Table("Notes", ("",), tuple((str(note),) for note in result["notes"])),
    ]


def _memory_table(result: Mapping[str, Any]) -> Table:
    """What stands in the memory of one accelerator; of prefill and decode apart, of one of either kind."""
    kinds = {"GiB": result["memory_gib"]}
    if "prefill_memory_gib" in result:
        kinds = {"decode GiB": result["memory_gib"], "prefill GiB": result["prefill_memory_gib"]}
    rows = tuple((part, *(number(sizes[part]) for sizes in kinds.values())) for part in result["memory_gib"])
    return Table("Memory of one accelerator", ("", *kinds), rows, frozenset(kinds))


def _percentile_tables(result: Mapping[str, Any]) -> list[Table]:
    """TTFT and TPOT of a replica at an arrival rate, by requests; nothing for other loads."""
    found = result["percentiles_ms"]
    if found is None:
        return []
    heads = ("p50", "p90", "p99")
    rows = tuple((f"{what}_ms", *(cell(values[head]) for head in heads)) for what, values in found.items())
    return [Table("Percentiles", ("what", *heads), rows, frozenset(heads))]


def _simulation_tables(result: Mapping[str, Any]) -> list[Table]:
    """What was simulated beside the laws; nothing unless it was asked for."""
    found = result.get("simulation")
    if found is None:
        return []
    heads = ("simulated", "law", "law differs")
    rows = tuple(
        (row["what"], row["at"], number(row["simulated"]), number(row["law"]), _percent(row["difference"]))
        for row in found["rows"]
    )
    title = f"Simulated for {found['seconds']:g} s: {found['requests']} requests, seed {found['seed']}"
    return [Table(title, ("what", "", *heads), rows, frozenset(heads), tuple(found["notes"]))]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"


def _part_tables(result: Mapping[str, Any]) -> list[Table]:
    """What the first token waits for, and what a step is spent on."""
    tables = []
    for title, key in (("What the first token waits for", "ttft_parts_ms"), ("What a token takes", "tpot_parts_ms")):
        if result[key] is not None:
            tables.append(
                Table(title, ("", "ms"), tuple((name, number(v)) for name, v in result[key].items()), frozenset({"ms"}))
            )
    return tables


def rows_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that is known of one replica, one value a row: `part` is the key of the JSON, `what` the key inside it."""
    rows: list[dict[str, Any]] = []
    for part, value in result.items():
        if isinstance(value, Mapping) and "low" in value:
            rows.append({"part": part, "what": "", **value})
        elif part == "percentiles_ms" and value is not None:
            rows += [{"part": part, "what": f"{of} {at}", "value": v} for of, found in value.items() for at, v in found.items()]
        elif part == "simulation":
            rows += [{"part": part, "what": key, "value": value[key]} for key in ("seconds", "seed", "requests")]
            rows += [
                {"part": part, "what": f"{row['what']} {row['at']}", "value": row["simulated"], "law": row["law"],
                 "difference": row["difference"]} for row in value["rows"]
            ]  # fmt: skip
            rows += [{"part": part, "what": "note", "value": note} for note in value["notes"]]
        elif isinstance(value, Mapping):
            rows += [{"part": part, "what": what, "value": v} for what, v in value.items()]
        elif isinstance(value, list):
            rows += [{"part": part, "what": "", "value": v} for v in value]
        else:
            rows.append({"part": part, "what": "", "value": value})
    return rows
