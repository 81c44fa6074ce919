"""How far the training model is from published runs: `validate_training` scores any file of measurements.

Errors and shares in the result are fractions (0.064 is 6.4 %). Every row whose configuration can be read is
predicted; only those with a measured time enter the errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .training import evaluate
from .training_constants import Constants, training_constants
from .training_memory import minimum_memory, peak_memory
from .training_rows import Case, Zoo, cases_of, chip_of, read_rows, stacked

__all__ = ["validate_training"]

MEANING = {
    "mape": "mean of |predicted / measured - 1|", "median_ape": "median of |predicted / measured - 1|",
    "bias": "mean of predicted / measured - 1", "interval_coverage": "share of measurements inside the stated interval",
}  # fmt: skip


def validate_training(
    path_or_rows: str | Path | Sequence[Mapping[str, Any]], constants: Constants | None = None, zoo: Zoo | None = None
) -> dict[str, Any]:
    """Predicted against measured step time, row by row and by group, as plain data for JSON.

    path_or_rows: a CSV file with the columns of `data/training_measurements.csv`, or its rows as mappings. constants: None
    takes the fitted ones; zoo: None loads `zoo.catalog`. Keys of the result:
    rows, predicted: counts; mape, median_ape, bias, interval_coverage (of the stated 80 % interval): what `meaning` says;
    false_infeasible: how many rows, which all ran, the memory model calls impossible (even their least memory exceeds the
    accelerator, as `solve` judges a layout that is given whole); memory: {count, mape, median_ape, bias} of the expected peak on
    rows that state theirs, and expected_above_limit, how many rows are expected not to fit; skipped: [{id, reason}] of every row
    without a prediction; groups: {source, hardware, kind} -> name -> {count, coverage (predicted share), timed, mape,
    median_ape, bias, interval_coverage}; predictions: every other row. None stands where no row has a measured time.

    Raises ValueError, one line, for a missing file or missing columns; a row that cannot be read never raises.
    """
    constants = training_constants() if constants is None else constants
    if zoo is None:
        from zoo.catalog import load

        zoo = load()
    rows = read_rows(path_or_rows)
    cases, skipped = cases_of(rows, zoo, constants)
    predictions = _predictions([case for case in cases if case is not None], constants)
    result: dict[str, Any] = {"rows": len(rows), "predicted": len(predictions), "meaning": MEANING} | _errors(predictions)
    result["false_infeasible"] = sum(p["infeasible"] for p in predictions)
    result["memory"] = _memory_errors(predictions)
    result["groups"] = _groups(rows, cases, predictions, zoo)
    result["skipped"] = skipped
    result["predictions"] = predictions
    return result


def _predictions(cases: Sequence[Case], constants: Constants) -> list[dict[str, Any]]:
    """One record per case."""
    if not cases:
        return []
    run = stacked([case.run for case in cases])
    times = evaluate(run, constants.resolve([case.setting for case in cases]))[0].m_as("s")
    peaks, least = peak_memory(run, constants.memory)[0].m_as("GiB"), minimum_memory(run).m_as("GiB")
    records = []
    for case, time, peak, minimum in zip(cases, times, peaks, least, strict=True):
        width = constants.half_width(case.setting, case.model.name)
        limit = case.run.machine.memory.m_as("GiB")
        records.append(
            {
                "id": case.id,
                "predicted_s": float(time),
                "measured_s": case.time,
                "low": float(time * np.exp(-width)),
                "high": float(time * np.exp(width)),
                "memory_gib": float(peak),
                "memory_measured_gib": case.peak_memory,
                "memory_limit_gib": float(limit),
                "infeasible": bool(minimum > limit),
                "group": case.setting.kind,
                "source": source_of(case.source),
                "hardware": case.hardware,
                "long_context": case.long_context,
                "inferred": list(case.inferred),
                "inherited": list(constants.inherited(case.setting, case.model.name)),
                "reason": None,
            }
        )
    return records


def _errors(predictions: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    timed = [p for p in predictions if p["measured_s"] is not None]
    if not timed:
        return {"mape": None, "median_ape": None, "bias": None, "interval_coverage": None}
    predicted, measured = (np.array([p[key] for p in timed]) for key in ("predicted_s", "measured_s"))
    inside = [p["low"] <= p["measured_s"] <= p["high"] for p in timed]
    error = predicted / measured - 1
    return {
        "mape": float(np.mean(np.abs(error))),
        "median_ape": float(np.median(np.abs(error))),
        "bias": float(np.mean(error)),
        "interval_coverage": float(np.mean(inside)),
    }


def _memory_errors(predictions: Iterable[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Of the rows that state their peak memory: how many, and the error of the expected peak; and of how many rows, which all
    ran, that peak exceeds the accelerator: it is no proof that they cannot run."""
    every = list(predictions)
    stated = [p for p in every if p["memory_measured_gib"] is not None]
    error = np.array([p["memory_gib"] / p["memory_measured_gib"] - 1 for p in stated])
    none = {"mape": None, "median_ape": None, "bias": None}
    some = {"mape": np.mean(np.abs(error)), "median_ape": np.median(np.abs(error)), "bias": np.mean(error)} if stated else none
    return {
        "count": len(stated),
        **{key: None if value is None else float(value) for key, value in some.items()},
        "expected_above_limit": sum(p["memory_gib"] > p["memory_limit_gib"] for p in every),
    }


def source_of(text: str) -> str:
    """A short name for a row's source: the words before the first comma, bracket, address or path."""
    head = re.split(r"[,(;:@]|https?|\s\S*[/_]", text.strip(), maxsplit=1)[0].strip()
    return head[:60] or "unknown"


def _hardware(text: str, zoo: Zoo) -> str:
    """The chip's one name, or the row's own word where the zoo knows none."""
    try:
        return chip_of(text, zoo).name if text else "unknown"
    except ValueError:
        return text


def _groups(
    rows: Sequence[Mapping[str, Any]], cases: Sequence[Case | None], predictions: Sequence[Mapping[str, Any]], zoo: Zoo
) -> dict[str, dict[str, dict[str, Any]]]:
    """Errors by source, hardware and kind; a row that was skipped counts in its source and hardware, and as "unreadable"."""
    remaining = iter(predictions)
    members: dict[str, dict[str, list[Mapping[str, Any] | None]]] = {"source": {}, "hardware": {}, "kind": {}}
    for row, case in zip(rows, cases, strict=True):
        prediction = None if case is None else next(remaining)
        kinds = ["unreadable"] if case is None else [case.setting.kind] + ["long-context"] * case.long_context
        hardware = _hardware(str(row.get("hardware") or "").strip(), zoo) if case is None else case.chip.name
        for group, names in (("source", [source_of(str(row.get("source") or ""))]), ("hardware", [hardware]), ("kind", kinds)):
            for name in names:
                members[group].setdefault(name, []).append(prediction)
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for group, names_of in members.items():
        groups[group] = {}
        for name in sorted(names_of):
            known = [p for p in names_of[name] if p is not None]
            count = len(names_of[name])
            timed = sum(p["measured_s"] is not None for p in known)
            groups[group][name] = {"count": count, "coverage": len(known) / count, "timed": timed, **_errors(known)}
    return groups
