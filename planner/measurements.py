"""Published and own measurements: how far predictions are from them, and constants refined by them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zoo.catalog import load

from .written_by import this_version, written_by

KINDS = ("training", "serving")


class MeasurementsError(ValueError):
    """Measurements that cannot be read, or a calibration file that is none. One line."""


def validate(
    kind: str,
    measurements: Path,
    calibration: Path | None,
    left_out: Mapping[str, str],
    facts: Mapping[str, str] | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Predicted against measured, row by row and by group: see `validate_training` and `validate_serving` for the keys.

    `calibration` replaces the stored constants; `left_out` (column -> value) refits the stored measurements without the rows
    that it names, to judge what was never seen: `unseen` of a serving report are the regimes of those rows alone. `facts`
    (column -> value) are what a file of serving measurements does not say, and `tell` takes a line about each that does not
    count, and one before long work. Raises MeasurementsError, one line.
    """
    try:
        _check_facts(kind, facts)
        constants = _without(kind, left_out, tell) if left_out else None if calibration is None else read(kind, calibration)
        if kind == "training":
            from models.validation_training import validate_training

            report = validate_training(measurements, constants)
        else:
            from models.serving_files import rows_of
            from models.serving_fit import validate_serving

            rows = rows_of(measurements, facts, tell)
            report = validate_serving(rows, constants)
            if left_out:
                unseen = [row for row in rows if _named(row, left_out)]
                report["left_out"] = dict(left_out)
                report["unseen"] = validate_serving(unseen, constants)["regimes"] if unseen else {}
        if not report["rows"]:
            raise MeasurementsError(f"{measurements}: no rows below the header, expected one a run")
        return report
    except (ValueError, OSError) as error:
        raise MeasurementsError(_line(error)) from None


def unread(kind: str, path: Path) -> list[str]:
    """One line for each column of a CSV of measurements that nothing reads, with the nearest that is read."""
    from models import cells, serving_files, serving_rows, training_rows

    if serving_files.is_benchmark(path):
        return []
    with path.open(encoding="utf-8-sig", newline="") as file:
        columns = next(csv.reader(file), [])
    if kind == "training":
        strange = training_rows.unknown_columns(columns)
    else:
        strange = cells.unread([name.strip().lower() for name in columns], serving_rows.COLUMNS)
    hints = {name: f'; did you mean "{near}"?' if near else "" for name, near in strange.items()}
    return [f"{path}:1: column {name} is not read{hint}" for name, hint in hints.items()]


def kind_of(path: Path) -> str:
    """Whether measurements are of training or of serving: by their columns; benchmark JSON is of serving."""
    from models.serving_files import is_benchmark

    if is_benchmark(path):
        return "serving"
    try:
        with path.open(encoding="utf-8-sig") as file:
            heads = {name.strip().lower() for name in file.readline().split(",")}
    except (OSError, UnicodeDecodeError) as error:
        raise MeasurementsError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from None
    if {"iteration_s", "global_batch_sequences"} & heads:
        return "training"
    if {"ttft_ms", "tpot_ms", "output_tokens_per_s_total"} & heads:
        return "serving"
    raise MeasurementsError(
        f"{path}: neither training (iteration_s ...) nor serving (ttft_ms, tpot_ms ...) columns in its first line"
    )


def calibrate(
    kind: str, sources: Sequence[Path], facts: Mapping[str, str] | None = None, tell: Callable[[str], None] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(constants as plain data, summary) of the stored constants refined by a user's measurements.

    CSV files have the columns of the project's measurements; JSON files are results of vLLM's or AIPerf's benchmark. `facts`
    (column -> value) are what the files of serving measurements do not say, and `tell` takes a line about each that does not
    count. Raises MeasurementsError, one line.
    """
    writer = {"wallplan": this_version()}
    try:
        _check_facts(kind, facts)
        if kind == "training":
            from models.training_fit import fit as fit_training
            from models.training_rows import read_rows

            rows = [row for path in sources for row in read_rows(path)]
            constants = fit_training(rows, load())
            return {"kind": kind, **writer, **constants.to_dict()}, {"rows": len(rows), "skipped": []}
        from models.calibration import calibration_to
        from models.serving_files import rows_of
        from models.serving_fit import fit as fit_serving
        from models.serving_rows import runs_of

        found = [row for path in sources for row in rows_of(path, facts, tell)]
        document = {"kind": kind, **writer, **calibration_to(fit_serving(found))}
        _, used, reasons = runs_of(found)
        skipped = [f"{found[at].get('id') or f'row {at + 1}'}: {reason}" for at, reason in reasons.items()]
        return document, {"rows": len(used), "skipped": skipped}
    except (ValueError, OSError) as error:
        raise MeasurementsError(_line(error)) from None


def _check_facts(kind: str, facts: Mapping[str, str] | None) -> None:
    """Raises where a fact that the user gives beside a file makes no sense: what he typed he can repair."""
    if kind == "training" and facts:
        raise MeasurementsError(f"--with {next(iter(facts))}: only files of serving measurements are filled, not training's")
    if kind == "serving":
        from models.serving_files import check_given

        check_given(facts or {})


def save(document: Mapping[str, Any], path: Path) -> None:
    """Write a calibration as YAML; the file appears whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True), encoding="utf-8")
    temporary.replace(path)


def read(kind: str, path: Path) -> Any:
    """The constants of a file that `save` wrote. Raises MeasurementsError for another file or kind."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MeasurementsError(f"{path}: cannot read: {getattr(error, 'strerror', None) or _line(error)}") from None
    if not isinstance(document, dict) or document.get("kind") not in KINDS:
        raise MeasurementsError(f"{path}: not a calibration: expected a file that `wallplan calibrate` wrote")
    writer = document.pop("wallplan", None)
    if document.pop("kind") != kind:
        raise MeasurementsError(f"{path}: a calibration of another kind, expected one of {kind}")
    try:
        if kind == "training":
            from models.training_constants import from_dict

            return from_dict(document)
        from models.calibration import calibration_from

        return calibration_from(document)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else _line(error)
        again = "" if "wallplan calibrate" in what else ": make it anew with `wallplan calibrate`"
        raise MeasurementsError(f"{path}: not a calibration of this version: {what}; {written_by(writer)}{again}") from None


def _without(kind: str, left_out: Mapping[str, str], tell: Callable[[str], None] | None) -> Any:
    """The constants refitted to the stored measurements without the rows that `left_out` (column -> value) names."""
    named = ", ".join(f"{column}={value}" for column, value in left_out.items())

    def begin(count: int) -> None:
        if tell is not None:
            tell(f"refitting without the {count} stored rows of {named}: a minute or two")

    if kind == "training":
        from models.training_constants import priors
        from models.training_fit import fit as fit_training
        from models.training_rows import MEASUREMENTS, read_rows

        rows = read_rows(MEASUREMENTS)
        kept = [row for row in rows if not _named(row, left_out)]
        if len(kept) == len(rows):
            raise MeasurementsError(_nothing(left_out, rows))
        begin(len(rows) - len(kept))
        return fit_training(kept, load(), priors())
    from models.calibration import serving_measurements
    from models.serving_fit import calibrate as refit
    from models.serving_rows import read_rows as read_serving

    measured = read_serving(serving_measurements())
    out = sum(_named(row, left_out) for row in measured)
    if not out:
        raise MeasurementsError(_nothing(left_out, measured))
    begin(out)
    return refit(measured, left_out)


def _named(row: Mapping[str, Any], left_out: Mapping[str, str]) -> bool:
    return all(str(row.get(column, "")).lower() == value.lower() for column, value in left_out.items())


def _nothing(left_out: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Why no stored row is left out: the column or the value that none has, and the nearest that some have."""
    from models.cells import did_you_mean

    said = ", ".join(f"{column}={value}" for column, value in left_out.items())
    for column, value in left_out.items():
        if column not in rows[0]:
            hint = did_you_mean(column, rows[0])
            return f"--leave-out {said}: the stored measurements have no column {column!r}{hint}"
        values = Counter(str(row.get(column, "")) for row in rows if row.get(column))
        if value.lower() not in {known.lower() for known in values}:
            near = did_you_mean(value, values) or f"; some have {_most_frequent(values)}"
            return f"--leave-out {said}: no stored measurement has {column} {value!r}{near}"
    return f"--leave-out {said}: no stored measurement has all of this"


def _most_frequent(values: Counter[str], shown: int = 10) -> str:
    """The most frequent of some values, and how many there are where that is not all."""
    names = ", ".join(value if len(value) <= 40 else f"{value[:37]}..." for value, _ in values.most_common(shown))
    return names if len(values) <= shown else f"{names} (the most frequent of {len(values)})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
