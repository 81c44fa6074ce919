"""Files of serving measurements as rows: a CSV, or results of a benchmark's client (vLLM, SGLang, AIPerf, GenAI-Perf).

What a file does not say is given beside it, column by column. What is given fills what is empty; where a file states another
value, it is refused, unless what the file states is the name of nothing that is known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.catalog import Catalog, load

from .calibration import CalibrationError
from .cells import Cells, Unpredictable, as_number, did_you_mean
from .serving_rows import (
    COLUMNS,
    MeasurementError,
    Row,
    chip_of,
    engine_generation,
    format_of,
    known_model,
    number,
    read_rows,
    refuse_nonsense,
)

Tell = Callable[[str], None]


def is_benchmark(path: Path) -> bool:
    """Whether a file is a benchmark's result: JSON, one run or one a line."""
    return path.suffix.lower() in (".json", ".jsonl")


def rows_of(
    path_or_rows: str | Path | Sequence[Row], given: Mapping[str, str] | None = None, tell: Tell | None = None
) -> list[Row]:  # fmt: skip
    """Rows from a CSV, from a benchmark's JSON, or as they are.

    given: column -> value of what a file does not say. tell: takes one line about what of it a file does not let count.
    Raises MeasurementError, one line.
    """
    if not isinstance(path_or_rows, (str, Path)):
        if not all(isinstance(row, Mapping) for row in path_or_rows):
            raise CalibrationError("measurements are a file or a list of rows")
        return list(path_or_rows)
    file, columns, told = Path(path_or_rows), dict(given or {}), tell or (lambda _: None)
    if is_benchmark(file):
        return _benchmark_rows(file, columns, told)
    return filled(read_rows(file, columns), columns, file, told)


def check_given(given: Mapping[str, str]) -> None:
    """Raises MeasurementError where a column is none, or its value makes no sense: who types it can repair it."""
    for name in given:
        if name not in COLUMNS:
            raise MeasurementError(
                f"--with {name}: expected a column of serving measurements, such as hardware or tp{did_you_mean(name, COLUMNS)}"
            )
    try:
        refuse_nonsense(given, load())
    except Unpredictable as error:
        raise MeasurementError(f"--with: {error}") from None


def filled(rows: Sequence[Row], given: Mapping[str, str], file: Path, tell: Tell) -> list[Row]:
    """The rows with what is given in their empty cells.

    A name of a chip or model that the catalogue does not know (a path, an alias) gives way, which is told. Other values that a
    row states stay: told where other rows of the column are filled, refused where there is nothing to fill. What changes nothing
    is told too.
    """
    check_given(given)
    catalog = load()
    result = [dict(row) for row in rows]
    for column, value in given.items():
        states = [_stated(row, column, catalog) for row in rows]
        replaced = [at for at, row in enumerate(rows) if not states[at] and Cells(row).said(column)]
        if replaced:
            tell(f"{file}: {column} {Cells(rows[replaced[0]]).said(column)!r} is not known: {value!r} takes its place")
        others = [at for at, stated in enumerate(states) if stated and not _agree(column, stated, value, catalog)]
        if others:
            stated = f"{column} {states[others[0]]!r}"
            name = rows[others[0]].get("id") or f"row {others[0] + 1}"
            if all(states):
                raise MeasurementError(
                    f"{file}: {name} states {stated}, --with says {value!r}: it fills only what a file leaves empty"
                )
            count = f"{len(others)} rows state another {column} and keep it" if len(others) > 1 else "one row keeps its own"
            tell(f"{file}: {count}: {name} has {stated}, not {value!r}")
        for at, row in enumerate(result):
            if not states[at] or (at not in others and len(value) > len(states[at])):
                row[column] = value
        if rows and all(row[column] == before.get(column) for row, before in zip(result, rows, strict=True)):
            tell(f"--with {column}={value}: without effect, every row of {file} states {column} {states[0]!r}")
    return list(result)


def _stated(row: Row, column: str, catalog: Catalog) -> str:
    """What a row states in a column; "" where the cell is empty, or names a chip or a model that is not known."""
    said = Cells(row).said(column)
    if said and column == "hardware" and chip_of(said, catalog) is None:
        return ""
    if said and column == "model" and known_model(row, catalog) is None:
        return ""
    return said


def _agree(column: str, stated: str, given: str, catalog: Catalog) -> bool:
    """Whether two values of a cell do not contradict each other: equal numbers, one chip or model, or texts of which one says
    more ("vllm 0.18")."""
    one, other = as_number(stated), as_number(given)
    if math.isfinite(one) or math.isfinite(other):
        return one == other
    if column == "hardware":
        return chip_of(stated, catalog) == chip_of(given, catalog)
    if column == "model":
        return known_model({"model": stated}, catalog) == known_model({"model": given}, catalog)
    one_text, other_text = stated.lower(), given.lower()
    return one_text in other_text or other_text in one_text


# --------------------------------------------------------------------------------------------------- results of benchmarks


def _benchmark_rows(file: Path, given: Mapping[str, str], tell: Tell) -> list[Row]:
    """One row for each run of a result file of vLLM's or SGLang's serving benchmark, or of AIPerf / GenAI-Perf.

    Several runs follow each other line by line (vLLM's --append-result, SGLang's --output-file). These files seldom say on what
    they ran: `given` does; keys of a run that are columns (vLLM's --metadata) count too. Raises MeasurementError where a fact
    that the model needs is in neither.
    """
    documents = _documents(file)
    runs = [(file.stem, str(file))] if len(documents) == 1 else [(f"{file.stem}:{n}", f"{file}:{n}") for n, _ in documents]
    raw = [_raw_row(document, name, where) for (name, where), (_, document) in zip(runs, documents, strict=True)]
    rows = filled(raw, given, file, tell)
    return [_whole(row, doc, where) for row, (_, where), (_, doc) in zip(rows, runs, documents, strict=True)]


def _documents(file: Path) -> list[tuple[int, Any]]:
    """(line at which it begins, what it is) of every JSON value of a file."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise MeasurementError(f"{file}: {'no such file' if not file.exists() else error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{file}: not JSON in UTF-8: {error}") from None
    decoder, at, found = json.JSONDecoder(), 0, []
    while rest := text[at:].lstrip():
        at = len(text) - len(rest)
        line = text.count("\n", 0, at) + 1
        try:
            document, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            said = getattr(error, "msg", "nested too deeply")
            raise MeasurementError(f"{file}:{line}: not JSON, expected one object a run: {said}") from None
        found.append((line, document))
    if not found:
        raise MeasurementError(f"{file}: empty, expected one JSON object a run")
    return found


def _raw_row(document: Any, name: str, where: str) -> dict[str, str]:
    """What a result states of its run, before anything is added. Raises MeasurementError for another document."""
    if not isinstance(document, Mapping):
        raise MeasurementError(f"{where}: a benchmark result is one JSON object")
    if _is_vllm(document):
        _refuse(where, [(key, document.get(key), "") for key in _VLLM_NUMBERS])
        if document.get("completed") == 0:
            raise MeasurementError(f"{where}: completed is 0: no request of this run was served")
        row = _vllm_row(document)
    elif "time_to_first_token" in document:
        given = [(key, document[key]) for key in _AIPERF_METRICS if document.get(key) is not None]
        means = [(key, m.get("avg"), str(m.get("unit", ""))) if isinstance(m, Mapping) else (key, [m], "") for key, m in given]
        _refuse(where, means)
        row = _aiperf_row(document)
    else:
        raise MeasurementError(f"{where}: neither a vLLM benchmark result (mean_ttft_ms) nor AIPerf's (time_to_first_token)")
    row |= {key: str(value) for key, value in document.items() if key in COLUMNS and isinstance(value, (str, int, float))}
    return {"id": name, "source": "user benchmark", "scenario": "online", **row}


def _is_vllm(document: Row) -> bool:
    return "mean_ttft_ms" in document or "mean_tpot_ms" in document


def _whole(row: Row, document: Row, where: str) -> Row:
    """The row of a benchmark, which needs more than a CSV's: what is missing is said with an example.

    vLLM's client measures vLLM where nothing else is said.
    """
    if not row.get("engine") and _is_vllm(document):
        row = {**row, "engine": "vllm"}
    facts = {"model": "Llama-3.1-8B", "hardware": "H100", "engine": "vllm", "tp": "4", "isl": "1000", "osl": "250"}
    facts |= {} if format_of(row.get("model")) else {"weight_precision": "fp8"}
    missing = [name for name in facts if not row.get(name)]
    if missing:
        example = " ".join(f"--with {name}={facts[name]}" for name in missing)
        raise MeasurementError(f"{where}: does not say {', '.join(missing)}: add them, for example {example}")
    return row


_VLLM_NUMBERS = (
    "completed", "request_rate", "max_concurrency", "total_input_tokens", "total_output_tokens", "mean_ttft_ms", "mean_tpot_ms",
    "output_throughput",
)  # fmt: skip
_AIPERF_METRICS = ("time_to_first_token", "inter_token_latency", "output_token_throughput", "request_count")
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _refuse(where: str, figures: Sequence[tuple[str, Any, str]]) -> None:
    """Raises MeasurementError at the first (key, value, unit) that is no number, or a time of unknown unit. None is unknown."""
    for key, value, unit in figures:
        if value is not None and (isinstance(value, bool) or not number(value) >= 0):
            raise MeasurementError(f"{where}: {key} is {value!r}, expected a number that is not negative")
        if unit and ("time" in key or "latency" in key) and unit not in _SECONDS:
            known = f"{', '.join(_SECONDS)}{did_you_mean(unit, _SECONDS)}"
            raise MeasurementError(f"{where}: {key} has the unit {unit!r}, expected one of {known}")


def _vllm_row(document: Row) -> dict[str, str]:
    completed = number(document.get("completed"))  # unknown: then the lengths are too, and have to be given
    rate, together = number(document.get("request_rate")), number(document.get("max_concurrency"))
    unlimited = math.isinf(rate) and math.isnan(together)  # every request is sent at once
    backend = str(document.get("backend") or document.get("endpoint_type") or "")
    return {
        "model": str(document.get("model_id") or document.get("model") or ""),
        "isl": _text(number(document.get("total_input_tokens")) / completed),
        "osl": _text(number(document.get("total_output_tokens")) / completed),
        "concurrency_or_batch": _load(together, rate),
        "request_rate_qps": "inf" if unlimited else _text(rate) if math.isfinite(rate) else "",
        "ttft_ms": _text(number(document.get("mean_ttft_ms"))),
        "tpot_ms": _text(number(document.get("mean_tpot_ms"))),
        "output_tokens_per_s_total": _text(number(document.get("output_throughput"))),
        "note": f"{completed:g} requests" if completed > 0 else "",
        "engine": backend if engine_generation({"engine": backend}) else "",
    }


def _aiperf_row(document: Row) -> dict[str, str]:
    def mean(key: str) -> float:
        value = document.get(key)
        if not isinstance(value, Mapping):
            return math.nan
        scale = 1e3 * _SECONDS.get(str(value.get("unit", "")), 1e-3)
        return number(value.get("avg")) * (scale if "time" in key or "latency" in key else 1.0)

    flat = list(_flatten(document.get("input_config") or {}))

    def first(*names: str) -> Any:
        return next((v for n in names for k, v in flat if k.split(".")[-1] == n and v not in (None, "")), None)

    def length(key: str, total: str) -> float:
        direct = mean(key)
        return mean(total) / (mean("request_count") or math.nan) if math.isnan(direct) else direct

    model = first("model_names", "formatted_model_name", "model")
    chips = [value for key, value in _flatten(document.get("telemetry_data") or {}) if key.split(".")[-1] == "gpu_name"]
    seen = {"hardware": str(chips[0])} if chips else {}
    return seen | {
        "model": str(model[0] if isinstance(model, list) and model else model or ""),
        "isl": _text(length("input_sequence_length", "total_isl")),
        "osl": _text(length("output_sequence_length", "total_osl")),
        "concurrency_or_batch": _load(number(first("concurrency")), number(first("request_rate"))),
        "request_rate_qps": _text(number(first("request_rate"))),
        "ttft_ms": _text(mean("time_to_first_token")),
        "tpot_ms": _text(mean("inter_token_latency")),
        "output_tokens_per_s_total": _text(mean("output_token_throughput")),
        "note": f"{mean('request_count'):g} requests" if mean("request_count") > 0 else "",
    }


def _flatten(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}")
    else:
        yield prefix, value


def _load(together: float, rate: float) -> str:
    """The cell of a client's concurrency: beside a rate it is a limit, what exceeds it waits."""
    return f"max_num_seqs={together:g}" if math.isfinite(rate) and math.isfinite(together) else _text(together)


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:g}"
