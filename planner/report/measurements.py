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
        if "left_out" in report:
            named = ", ".join(f"{column}={value}" for column, value in report["left_out"].items())
            tables.append(_errors(f"Regimes of what was left out: {named}", report["unseen"], report["meaning"]))
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
    rows = tuple((key, cell(value)) for key, value in report.items() if not isinstance(value, (list, dict)))
    return Table("Summary", ("", "value"), rows, frozenset({"value"}))


def _peaks(memory: Mapping[str, Any]) -> Table:
    """Expected peak memory against the peaks that rows state."""
    rows = tuple((key, cell(value)) for key, value in memory.items())
    return Table("Peak memory", ("", "value"), rows, frozenset({"value"}))


def _errors(title: str, groups: Mapping[str, Any], meaning: Mapping[str, str]) -> Table:
    """One line a group; nested groups (a regime in a group) become one name. A bias of logarithms is headed so."""
    flat: list[tuple[str, Mapping[str, Any]]] = []
    for name, values in groups.items():
        nested = isinstance(values, Mapping) and values and all(isinstance(v, Mapping) for v in values.values())
        flat += [(f"{name}, {inner}", errors) for inner, errors in values.items()] if nested else [(str(name), values)]
    keys = [key for key in dict.fromkeys(key for _, errors in flat for key in errors) if key in _SHOWN]
    rows = tuple((name, *(cell(errors.get(key)) for key in keys)) for name, errors in flat)
    heads = [_SHOWN[key] + (", ln" if key in meaning and "ln(" in meaning[key] else "") for key in keys]
    return Table(title, ("group", *heads), rows, frozenset(heads))


# What a table shows of a group's errors, and how it heads it.
_SHOWN = {
    "n": "n", "count": "n", "mape": "MAPE", "median_ape": "median", "bias": "bias", "interval_coverage": "inside",
    "coverage": "predicted",
}  # fmt: skip


def cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "-" if value is None else str(value)
