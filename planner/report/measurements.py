"""How far predictions are from measurements, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .tables import Table, number

# Groups of which there are too many for a table; json has them.
_LONG = ("model", "source")


def report_tables(kind: str, report: Mapping[str, Any]) -> list[Table]:
    """Summary, groups and skipped rows. Every row is in `--format csv` and json: a table of a thousand rows helps nobody."""
    tables = [_summary(report)]
    if kind == "training":
        tables.append(_peaks(report["memory"]))
    if kind == "serving":
        tables.append(_errors("Regimes", report["regimes"], report["meaning"]))
    for name, groups in report["groups"].items():
        if isinstance(groups, Mapping) and name not in _LONG:
            tables.append(_errors(f"By {name}", groups, report["meaning"]))
    meaning = tuple((_SHOWN[key], text) for key, text in report["meaning"].items())
    tables += [
        Table("What the errors are", ("", ""), meaning),
        _assumed("Taken from relatives, intervals wider", report["predictions"], "inherited"),
        _assumed("Assumed where rows do not say", report["predictions"], "inferred"),
        _reasons("Measurements that cannot be used", report.get("dropped", ())),
        _reasons("Not predicted", report["skipped"]),
    ]
    return [table for table in tables if table.rows]


def _reasons(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(title, ("row", "reason"), tuple((str(row.get("id", "")), str(row.get("reason", ""))) for row in rows))


def _assumed(title: str, predictions: Sequence[Mapping[str, Any]], key: str) -> Table:
    """What predictions were assumed to be, and of how many rows; the most frequent first. Each row's own is in json and csv."""
    seen = Counter(text for text, _ in {(text, p["id"]) for p in predictions for text in p[key]})
    rows = tuple((text, str(count)) for text, count in sorted(seen.items(), key=lambda item: (-item[1], item[0])))
    return Table(title, ("what", "rows"), rows, frozenset({"rows"}))


def _summary(report: Mapping[str, Any]) -> Table:
    rows = tuple((key, _cell(value)) for key, value in report.items() if not isinstance(value, (list, dict)))
    return Table("Summary", ("", "value"), rows, frozenset({"value"}))


def _peaks(memory: Mapping[str, Any]) -> Table:
    """Expected peak memory against the peaks that rows state."""
    rows = tuple((key, _cell(value)) for key, value in memory.items())
    return Table("Peak memory", ("", "value"), rows, frozenset({"value"}))


def _errors(title: str, groups: Mapping[str, Any], meaning: Mapping[str, str]) -> Table:
    """One line a group; nested groups (a regime in a group) become one name. A bias of logarithms is headed so."""
    flat: list[tuple[str, Mapping[str, Any]]] = []
    for name, values in groups.items():
        nested = isinstance(values, Mapping) and values and all(isinstance(v, Mapping) for v in values.values())
        flat += [(f"{name}, {inner}", errors) for inner, errors in values.items()] if nested else [(str(name), values)]
    keys = [key for key in dict.fromkeys(key for _, errors in flat for key in errors) if key in _SHOWN]
    rows = tuple((name, *(_cell(errors.get(key)) for key in keys)) for name, errors in flat)
    heads = [_SHOWN[key] + (", ln" if key in meaning and "ln(" in meaning[key] else "") for key in keys]
    return Table(title, ("group", *heads), rows, frozenset(heads))


# What a table shows of a group's errors, and how it heads it.
_SHOWN = {
    "n": "n", "count": "n", "mape": "MAPE", "median_ape": "median", "bias": "bias", "interval_coverage": "inside",
    "coverage": "predicted",
}  # fmt: skip


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)


def replica_tables(result: Mapping[str, Any]) -> list[Table]:
    """One replica under one load: predictions with their intervals, memory, and what they stand on."""
    found = {key: value for key, value in result.items() if isinstance(value, Mapping) and "low" in value}
    rows = tuple((key, *(number(value[end]) for end in ("value", "low", "high"))) for key, value in found.items())
    tables = ("percentiles_ms", "ttft_parts_ms", "tpot_parts_ms")
    facts = {k: v for k, v in result.items() if not isinstance(v, (dict, list)) and k not in tables}
    for key in ("prefill", "decode", "kv_transfer", "calibration"):
        if key in result:
            facts[key] = "; ".join(f"{name} {_cell(value)}" for name, value in result[key].items())
    return [
        Table("Replica", ("", ""), tuple((key, _cell(value)) for key, value in facts.items())),
        Table("Predictions", ("what", "value", "low", "high"), rows, frozenset({"value", "low", "high"})),
        *_percentile_tables(result),
        *_part_tables(result),
        _memory_table(result),
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
    rows = tuple((f"{what}_ms", *(_cell(values[head]) for head in heads)) for what, values in found.items())
    return [Table("Percentiles", ("what", *heads), rows, frozenset(heads))]


def _part_tables(result: Mapping[str, Any]) -> list[Table]:
    """What the first token waits for, and what a step is spent on."""
    tables = []
    for title, key in (("What the first token waits for", "ttft_parts_ms"), ("What a token takes", "tpot_parts_ms")):
        if result[key] is not None:
            tables.append(
                Table(title, ("", "ms"), tuple((name, number(v)) for name, v in result[key].items()), frozenset({"ms"}))
            )
    return tables


def replica_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that is known of one replica, one value a row: `part` is the key of the JSON, `what` the key inside it."""
    rows: list[dict[str, Any]] = []
    for part, value in result.items():
        if isinstance(value, Mapping) and "low" in value:
            rows.append({"part": part, "what": "", **value})
        elif part == "percentiles_ms" and value is not None:
            rows += [{"part": part, "what": f"{of} {at}", "value": v} for of, found in value.items() for at, v in found.items()]
        elif isinstance(value, Mapping):
            rows += [{"part": part, "what": what, "value": v} for what, v in value.items()]
        elif isinstance(value, list):
            rows += [{"part": part, "what": "", "value": v} for v in value]
        else:
            rows.append({"part": part, "what": "", "value": value})
    return rows
