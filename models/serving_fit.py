"""Fits the constants of the serving model to measurements, validates it, and says how far off it is.

    python -m models.serving_fit                               refit, validate, write data/serving_*.csv and serving_fit.md
    python -m models.serving_fit --leave-out hardware=MI300X-192GB     fit without a chip, print its errors, write nothing

Least squares on a soft-l1 norm of a quarter of log error and three quarters of relative error (the score; the rest keeps a pull
on what is far too low), with a prior on the logarithm of every constant: constants of rare chips and engines stay near their
relatives. Deterministic; nothing is fitted per row.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.catalog import load

from . import serving, serving_files, serving_rows
from .calibration import (
    REGIMES,
    Calibration,
    Interval,
    Selector,
    serving_measurements,
    stored_calibration,
    write_tables,
)
from .cells import did_you_mean
from .serving_rows import Row, Runs

Array = NDArray[Any]

# Weight of the prior against the data, and of each regime (few rows count more): chosen on random 5-fold cross-validation.
_PRIOR = 0.06
_APART = 0.7  # how far chips or engines stray from what all of them share, relative to the prior's spread
_WEIGHTS = {
    "closed_tpot": 1.0, "closed_ttft": 0.7, "open_tpot": 2.5, "open_ttft": 1.0, "static_throughput": 1.2, "max_throughput": 1.0,
}  # fmt: skip
_SOFT = 0.15  # error at which the norm turns from square to linear
_KINDS = {
    "closed": ("closed_tpot", "closed_ttft"), "static": ("static_throughput",), "max": ("max_throughput",),
    "open": ("open_ttft", "open_tpot"),
}  # fmt: skip
UNITS = {regime: "token/s" if regime.endswith("throughput") else "ms" for regime in REGIMES}
MEANING = {
    "mape": "mean of |predicted / measured - 1|", "median_ape": "median of |predicted / measured - 1|",
    "bias": "median of ln(predicted / measured)", "interval_coverage": "share of measurements inside the stated interval",
}  # fmt: skip
LEAVE_OUT = ("model", "hardware", "source", "engine")


# ------------------------------------------------------------------------------------------------------- predictions


def predict(runs: Runs, selector: Selector, values: Array) -> dict[str, Array]:
    """Predictions of runs of one kind, by regime, in ms and tokens/s."""
    deployment = runs.deployment(selector.constants(values))
    kind = str(runs.kind[0])
    if kind == "static":
        rate = serving.static_throughput(deployment, runs.load).m_as("token/s")
        return {"static_throughput": rate * runs.load.replicas}
    if kind == "max":
        return {"max_throughput": serving.max_throughput(deployment, runs.load).m_as("token/s")}
    law = serving.closed_loop if kind == "closed" else serving.open_loop
    latency = law(deployment, runs.load)
    return {f"{kind}_tpot": latency.tpot.m_as("ms"), f"{kind}_ttft": latency.ttft.m_as("ms")}


@dataclass(slots=True)
class _Part:
    """The runs of one kind, and where their constants are."""

    runs: Runs
    selector: Selector
    at: Array  # positions in all runs


def _parts(runs: Runs, calibration: Calibration, chosen: Array) -> list[_Part]:
    parts = []
    for kind in _KINDS:
        mask = chosen & (runs.kind == kind)
        if mask.any():
            some = serving.take(runs, mask)
            parts.append(_Part(some, Selector(some.selection, calibration.index, len(calibration.records)), np.flatnonzero(mask)))
    return parts


def predictions(runs: Runs, calibration: Calibration, chosen: Array | None = None) -> dict[str, Array]:
    """regime -> prediction of every run, nan where the regime does not apply."""
    everything = np.ones(len(runs), bool) if chosen is None else chosen
    result = {regime: np.full(len(runs), np.nan) for regime in REGIMES}
    for part in _parts(runs, calibration, everything):
        for regime, values in predict(part.runs, part.selector, calibration.values).items():
            result[regime][part.at] = values
    return result


# --------------------------------------------------------------------------------------------------------------- fit


def _errors(part: _Part, values: Array) -> Array:
    """Weighted, softened errors of one part along the last axis, one after the other by regime; other axes as in `values`."""
    out = []
    for regime, predicted in predict(part.runs, part.selector, values).items():
        measured = part.runs.targets[regime]
        there = np.isfinite(measured)
        if not there.any():
            continue
        log = np.log(np.maximum(predicted[..., there], 1e-12) / measured[there])
        log = np.clip(np.nan_to_num(log, nan=5.0, posinf=5.0, neginf=-5.0), -5.0, 5.0)
        error = 0.25 * log + 0.75 * np.expm1(np.minimum(log, 2.5))
        trust = part.runs.trust[there] * (part.runs.trust_ttft[there] if regime == "closed_ttft" else 1.0)
        size = np.abs(error) / _SOFT
        out.append(_WEIGHTS[regime] * trust * _SOFT * np.sign(error) * np.sqrt(2 * (np.sqrt(1 + size * size) - 1)))
    return np.concatenate(out, axis=-1) if out else np.zeros((*values.shape[:-1], 0))


class _Problem:
    """The least-squares problem: residuals and their Jacobian.

    Constants of different chips and engines never meet in a row, so that they are moved together, and all groups of
    constants that are moved are one evaluation of the model on arrays with a leading axis.
    """

    def __init__(self, runs: Runs, prior: Calibration, chosen: Array, together: bool = True) -> None:
        """`prior`: a calibration whose values are the priors; `together`: see `fit_runs`."""
        self.parts = _parts(runs, prior, chosen)
        self.base = prior.values
        sigma = np.array([record.sigma for record in prior.records])
        self.free = np.flatnonzero(sigma > 0)
        self.prior = np.log(self.base[self.free])
        names = [prior.records[i].constant for i in self.free]
        shared = [name for name in dict.fromkeys(names) if together and names.count(name) > 2]
        self.member = np.array([[name == other for other in shared] for name in names], float).reshape(len(names), -1)
        own = sigma[self.free]
        common = np.array([own[self.member[:, k] > 0].mean() for k in range(len(shared))])
        self.sigma = np.concatenate([np.where(self.member.any(axis=1), _APART, 1.0) * own, common])
        self.reach = [self._reach(part) for part in self.parts]
        self.groups = [self._groups(reach) for reach in self.reach]

    def logarithms(self, theta: Array) -> Array:
        """Logarithms of the free constants: prior + own part + the part that the chips or engines of a constant share."""
        count = len(self.free)
        return self.prior + theta[..., :count] + theta[..., count:] @ self.member.T

    def values(self, logarithms: Array) -> Array:
        values = np.broadcast_to(self.base, (*logarithms.shape[:-1], len(self.base))).copy()
        values[..., self.free] = np.exp(logarithms)
        return values

    def _reach(self, part: _Part) -> Array:
        """(errors of the part, free constants): whether the run of the error selects the constant; general ones reach all."""
        selected = np.zeros((len(part.runs), len(self.base)), bool)
        for columns in part.selector.columns.values():
            selected[np.arange(len(part.runs)), columns] = True
        selected[:, [i for name, i in part.selector.index.items() if "." not in name]] = True
        kind = str(part.runs.kind[0])
        order = (f"{kind}_tpot", f"{kind}_ttft") if kind in ("closed", "open") else _KINDS[kind]
        rows = [np.flatnonzero(np.isfinite(part.runs.targets[regime])) for regime in order]
        return selected[np.concatenate(rows)][:, self.free]

    def _groups(self, reach: Array) -> list[Array]:
        groups: list[tuple[list[int], Array]] = []
        for j in np.argsort(-reach.sum(axis=0), kind="stable"):
            if not reach[:, j].any():
                continue
            for members, rows in groups:
                if not (rows & reach[:, j]).any():
                    members.append(int(j))
                    rows |= reach[:, j]
                    break
            else:
                groups.append(([int(j)], reach[:, j].copy()))
        return [np.array(members) for members, _ in groups]

    def residuals(self, theta: Array) -> Array:
        values = self.values(self.logarithms(theta))
        return np.concatenate([_PRIOR * theta / self.sigma, *(_errors(part, values) for part in self.parts)])

    def jacobian(self, theta: Array) -> Array:
        at_priors, logarithms = np.diag(_PRIOR / self.sigma), self.logarithms(theta)
        blocks: list[Array] = [np.zeros((0, len(self.free)))]
        for part, reach, groups in zip(self.parts, self.reach, self.groups, strict=True):
            moved = np.tile(logarithms, (1 + len(groups), 1))
            for at, group in enumerate(groups, start=1):
                moved[at, group] += 1e-5
            errors = _errors(part, self.values(moved))
            block = np.zeros(reach.shape)
            for slope, group in zip((errors[1:] - errors[0]) / 1e-5, groups, strict=True):
                block[:, group] = np.where(reach[:, group], slope[:, None], 0.0)
            blocks.append(block)
        slopes = np.concatenate(blocks)
        return np.concatenate([at_priors, np.concatenate([slopes, slopes @ self.member], axis=1)])

    def rows_moved(self, jacobian: Array, count: int) -> list[int]:
        """How many measurements each constant moves, in the order of the records."""
        moved = np.zeros(count, int)
        moved[self.free] = (jacobian[len(self.sigma) :, : len(self.free)] != 0).sum(axis=0)
        return moved.tolist()


def _at_priors(calibration: Calibration) -> Calibration:
    return replace(calibration, records=tuple(replace(r, value=r.prior) for r in calibration.records))


def fit_runs(runs: Runs, prior: Calibration, chosen: Array, evaluations: int = 25, together: bool = True) -> Calibration:
    """Constants fitted to the chosen runs, starting from the priors (the `prior` column of the calibration given).

    `together`: what the chips or engines of a constant share moves all of them, those that were never measured too; else a
    constant stays at its prior unless a run selects it.
    """
    from scipy.optimize import least_squares

    start = _at_priors(prior)
    problem = _Problem(runs, start, chosen, together)
    found = least_squares(
        problem.residuals, np.zeros(len(problem.sigma)), jac=problem.jacobian, method="trf", max_nfev=evaluations, ftol=1e-4,
        xtol=1e-5, x_scale=problem.sigma,
    )  # fmt: skip
    values = np.array([r.value for r in start.records])
    values[problem.free] *= np.exp(problem.logarithms(found.x) - problem.prior)
    moved = problem.rows_moved(found.jac, len(values))
    free = set(problem.free.tolist())
    records = tuple(
        replace(r, value=float(v), rows=rows, basis=("fitted" if rows else "prior") if i in free else r.basis)
        for i, (r, v, rows) in enumerate(zip(start.records, values, moved, strict=True))
    )
    return replace(prior, records=records, covered=_covered(runs, chosen))


def _covered(runs: Runs, chosen: Array) -> dict[str, dict[str, int]]:
    covered: dict[str, dict[str, int]] = {}
    for kind, names in (("model", runs.model), ("chip", runs.chip), ("engine", runs.engine_said)):
        found, counts = np.unique(names[chosen], return_counts=True)
        covered[kind] = {str(name): int(count) for name, count in zip(found, counts, strict=True)}
    return covered


def fit(rows: Sequence[Row] | str | Path, prior: Calibration | None = None, date: str | None = None) -> Calibration:
    """Constants fitted to a user's own measurements, with the stored constants as priors (half as wide as for a first fit).

    Some runs say much of their chips and engines and little of all others: constants that belong to everything stay as they are.
    The intervals are the stored ones; models, chips and engines of the rows count as measured. Raises MeasurementError
    where no row can be used.
    """
    known = prior or stored_calibration()
    runs, _, skipped = serving_rows.runs_of(serving_files.rows_of(rows))
    if runs is None:
        reason = next(iter(skipped.values()), "there are no rows")
        raise serving_rows.MeasurementError(f"no measurement can be used: {reason}")
    start = replace(known, records=tuple(replace(r, prior=r.value, sigma=r.sigma / 2 if r.group else 0.0) for r in known.records))
    fitted = fit_runs(runs, start, np.ones(len(runs), bool), together=False)
    covered = {kind: {**known.covered.get(kind, {}), **names} for kind, names in fitted.covered.items()}
    return replace(fitted, covered=covered, date=date or known.date, source="the user's measurements on the stored constants")


def calibrate(
    rows: Sequence[Row], exclude: Mapping[str, str], prior: Calibration | None = None, evaluations: int = 25
) -> Calibration:
    """Constants fitted to `rows` without those that `exclude` names (column -> value): to judge what was never seen."""
    known = prior or stored_calibration()
    runs, at, _ = serving_rows.runs_of(rows)
    assert runs is not None
    chosen = ~np.array([_matches(rows[i], exclude) for i in at])
    return fit_runs(runs, known, chosen, evaluations)


def _matches(row: Row, exclude: Mapping[str, str]) -> bool:
    return bool(exclude) and all(str(row.get(column, "")).lower() == value.lower() for column, value in exclude.items())


# -------------------------------------------------------------------------------------------------------- validation


def validate_serving(path_or_rows: str | Path | Sequence[Row], constants: Calibration | None = None) -> dict[str, Any]:
    """Predicted against measured, for every row of a file with the columns of `data/serving_measurements.csv`.

    Keys: `rows`, `predicted` (rows with a prediction in some regime), `regimes` (n, and what `meaning` says of mape,
    median_ape, bias and interval_coverage), `groups` (the same by source, hardware, engine, model), `skipped` (id and reason),
    `dropped` (id and reason of measurements that cannot be used, of predicted rows), `out_of_memory`, and `predictions` (id,
    regime, predicted, measured, low, high, oom, inferred: what the row does not say, inherited: what was never measured and is
    taken from the nearest relative). Fractions, not percent. `constants` is a calibration (the stored one by default).
    Raises MeasurementError (a ValueError) for an unusable file.
    """
    calibration = constants or stored_calibration()
    rows = serving_files.rows_of(path_or_rows)
    catalog = load()
    runs, at, reasons = serving_rows.runs_of(rows, catalog)
    found: list[dict[str, Any]] = []
    if runs is not None:
        predicted = predictions(runs, calibration)
        full = out_of_memory(runs, calibration)
        for regime in REGIMES:
            for k in np.flatnonzero(np.isfinite(runs.targets[regime])):
                value = float(predicted[regime][k])
                if not (math.isfinite(value) and value > 0):
                    reasons[at[k]] = f"no finite prediction of {regime}"
                    continue
                model, chip, engine = str(runs.model[k]), str(runs.chip[k]), str(runs.engine_said[k])
                width = calibration.half_width(regime, model, chip, engine)
                found.append(
                    {"id": _id(rows, at[k]), "row": at[k], "regime": regime, "predicted": value,
                     "measured": float(runs.targets[regime][k]), "low": value * math.exp(-width), "high": value * math.exp(width),
                     "oom": bool(full[k]), "inferred": list(runs.inferred[k]),
                     "inherited": list(calibration.inherited(model, catalog.chips[chip], engine))}
                )  # fmt: skip
    groups: dict[str, dict[str, Any]] = {}
    for column in ("source", "hardware", "engine", "model"):
        names = dict.fromkeys(str(rows[f["row"]].get(column, "")) for f in found)
        groups[column] = {
            name: _regimes([f for f in found if str(rows[f["row"]].get(column, "")) == name]) for name in names
        }  # fmt: skip
    done = {f["row"] for f in found}
    return {
        "rows": len(rows),
        "predicted": len(done),
        "meaning": MEANING,
        "regimes": _regimes(found, all_regimes=True),
        "groups": groups,
        "skipped": [{"id": _id(rows, i), "reason": reason} for i, reason in sorted(reasons.items()) if i not in done],
        "dropped": [{"id": _id(rows, i), "reason": reason} for i in sorted(done) for reason in serving_rows.dropped_of(rows[i])],
        "out_of_memory": len({f["row"] for f in found if f["oom"]}),
        "predictions": [{key: value for key, value in f.items() if key != "row"} for f in found],
    }


def _id(rows: Sequence[Row], position: int) -> str:
    return str(rows[position].get("id") or f"row {position + 1}")


def _regimes(found: Sequence[Mapping[str, Any]], all_regimes: bool = False) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for regime in REGIMES:
        mine = [f for f in found if f["regime"] == regime]
        if not mine:
            if all_regimes:
                result[regime] = {"n": 0, "mape": None, "median_ape": None, "bias": None, "interval_coverage": None}
            continue
        predicted, measured = (np.array([f[key] for f in mine]) for key in ("predicted", "measured"))
        error = np.abs(predicted / measured - 1)
        result[regime] = {
            "n": len(mine),
            "mape": float(error.mean()),
            "median_ape": float(np.median(error)),
            "bias": float(np.median(np.log(predicted / measured))),
            "interval_coverage": float(np.mean([f["low"] <= f["measured"] <= f["high"] for f in mine])),
        }
    return result


def out_of_memory(runs: Runs, calibration: Calibration) -> Array:
    """Runs whose weights, workspace and one sequence at the mean live length exceed 97 % of memory."""
    selector = Selector(runs.selection, calibration.index, len(calibration.records))
    deployment = runs.deployment(selector.constants(calibration.values))
    one = deployment.work.cache_live * serving.cache_share(deployment)
    needed = serving.weights_per_chip(deployment) + deployment.constants.workspace + one
    return np.asarray(needed > 0.97 * deployment.device.memory)


# -------------------------------------------------------------------------------------------------- cross-validation


def folds(runs: Runs, count: int = 5) -> Array:
    """Random folds, even within each kind of run; always the same."""
    generator, result = np.random.default_rng(0), np.zeros(len(runs), int)
    for kind in sorted(_KINDS):
        members = np.flatnonzero(runs.kind == kind)
        result[generator.permutation(members)] = np.arange(len(members)) % count
    return result


def out_of_group(runs: Runs, prior: Calibration, groups: Array, evaluations: int = 10) -> dict[str, Array]:
    """regime -> predictions of every run by constants fitted without its group, each fit started from the priors."""
    from concurrent.futures import ProcessPoolExecutor

    names = np.unique(groups)
    result = {regime: np.full(len(runs), np.nan) for regime in REGIMES}
    with ProcessPoolExecutor(2) as pool:
        jobs = [(runs, prior, groups != name, evaluations) for name in names]
        for name, values in zip(names, pool.map(_left_out, *zip(*jobs, strict=True)), strict=True):
            for regime in REGIMES:
                result[regime][groups == name] = values[regime][groups == name]
    return result


def _left_out(runs: Runs, prior: Calibration, chosen: Array, evaluations: int) -> dict[str, Array]:
    return predictions(runs, fit_runs(runs, prior, chosen, evaluations), ~chosen)


def _half_widths(runs: Runs, predicted: Mapping[str, Array], share: float = 0.8) -> dict[str, float]:
    widths = {}
    for regime in REGIMES:
        there = np.isfinite(runs.targets[regime])
        widths[regime] = float(np.quantile(np.abs(np.log(predicted[regime][there] / runs.targets[regime][there])), share))
    return widths


def cross_validate(
    runs: Runs, prior: Calibration, rows: Sequence[Row]
) -> tuple[dict[str, Interval], dict[str, dict[str, Array]]]:
    """Intervals from rows that were not fitted, and the predictions behind them: random folds, by model, chip and source."""
    sources = np.array(
        [str(row.get("source", "")).split(" id=")[0].split(" closed/")[0].split("bench/examples")[0] for row in rows]
    )
    named = {"random": folds(runs), "model": runs.model, "chip": runs.chip, "source": sources}
    predicted = {name: out_of_group(runs, prior, groups) for name, groups in named.items()}
    widths = {name: _half_widths(runs, values) for name, values in predicted.items()}
    intervals = {}
    for regime in REGIMES:
        there = np.isfinite(runs.targets[regime])
        ratio = predicted["random"][regime][there] / runs.targets[regime][there]
        wider = [max(1.0, widths[name][regime] / widths["random"][regime]) for name in ("model", "chip", "source")]
        intervals[regime] = Interval(
            regime, int(there.sum()), float(np.abs(ratio - 1).mean()), float(np.median(np.abs(ratio - 1))),
            float(np.median(np.log(ratio))), widths["random"][regime], *wider,
        )  # fmt: skip
    return intervals, predicted


# ------------------------------------------------------------------------------------------------------------ script


def _table(title: str, report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"### {title}",
        "",
        "| regime | n | MAPE | median APE | bias | inside the 80 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for regime, r in report.items():
        if r["n"]:
            errors = f"{r['mape']:.1%} | {r['median_ape']:.1%} | {r['bias']:+.3f}"
            lines.append(f"| {regime} | {r['n']} | {errors} | {r['interval_coverage']:.0%} |")
    return [*lines, ""]


def _as_report(
    runs: Runs, calibration: Calibration, predicted: Mapping[str, Array], unseen: str | None, chosen: Array | None = None
) -> dict[str, Any]:
    """Regime report of predictions whose intervals are widened for what was left out (`unseen`: model, chip, engine)."""
    found = []
    for regime in REGIMES:
        factor = getattr(calibration.intervals[regime], unseen) if unseen else 1.0
        width = calibration.intervals[regime].width * factor
        there = np.isfinite(runs.targets[regime])
        for k in np.flatnonzero(there if chosen is None else there & chosen):
            value = float(predicted[regime][k])
            found.append(
                {"regime": regime, "predicted": value, "measured": float(runs.targets[regime][k]),
                 "low": value * math.exp(-width), "high": value * math.exp(width)}
            )  # fmt: skip
    return _regimes(found)


_NOTES = """\
Sources stand in the rows. Constants, priors and the number of rows that each one moves: `serving_constants.csv`; intervals:
`serving_intervals.csv`; what was measured: `serving_coverage.csv`. Errors of rows that were left out are those to expect.

- `concurrency_or_batch` is an input. In MLPerf server rows it was derived from the measured latency (Little's law) and is
  taken as the batch; from the arrival rate alone those rows are off by {rate_tpot:.0%} (TPOT, not {batch_tpot:.0%}) and
  {rate_ttft:.0%} (TTFT, not {batch_ttft:.0%}) in sample.
- Eight rows of vLLM 0.12, whose source does not say which statistic it gives, are taken as medians (`statistic` in their rows,
  reasons in their notes). Of a file without that column they are taken as means, and are off by much more.
- Closed loops include rows whose prompts all start together, which are easier: the line below each table leaves them out.
- Equations and priors were chosen with all rows in sight, so that every error here is a little too small.
- An engine that was never measured is off by much more than a model or a chip that was not (`new_engine`).
- A prefill efficiency, interference or wait of an engine is an effective constant: it holds what scheduling adds.
- What the chips or the engines of one constant have in common moves all of them, those that were never measured too.
"""


def _batch_given(runs: Runs, calibration: Calibration) -> dict[str, float]:
    """Mean errors of the open loops whose batch is given, with that batch and from the arrival rate alone."""
    some = np.asarray(runs.load.known_batch, bool)
    rate = replace(runs, load=replace(runs.load, known_batch=np.zeros(len(runs), bool)))
    found = {}
    for name, which in (("batch", runs), ("rate", rate)):
        predicted = predictions(which, calibration, some)
        for regime in ("open_tpot", "open_ttft"):
            there = some & np.isfinite(runs.targets[regime])
            error = np.abs(predicted[regime][there] / runs.targets[regime][there] - 1)
            found[f"{name}_{regime.removeprefix('open_')}"] = float(error.mean())
    return found


def report_lines(
    rows: Sequence[Row], runs: Runs, calibration: Calibration, predicted: Mapping[str, Mapping[str, Array]]
) -> list[str]:  # fmt: skip
    """The residuals of a fit, in Markdown: of rows left out (`predicted`, by what was left out) and in sample."""
    fitted = sum(record.sigma > 0 for record in calibration.records)
    lines = [f"# Fit of the serving model, {calibration.date}", ""]
    lines += [f"{len(rows)} rows of `serving_measurements.csv`, {fitted} fitted constants, all with priors.", ""]
    lines += [_NOTES.format(**_batch_given(runs, calibration))]
    for name, title, unseen in (
        ("random", "Random fifths left out", None), ("model", "One model left out at a time", "model"),
        ("chip", "One chip left out at a time", "chip"), ("source", "One source left out at a time", "engine"),
    ):  # fmt: skip
        if name in predicted:
            lines += _table(title, _as_report(runs, calibration, predicted[name], unseen))
            loops = _as_report(runs, calibration, predicted[name], unseen, ~np.asarray(runs.load.static, bool))
            said = ", ".join(f"{r} {loops[r]['mape']:.1%} / {loops[r]['median_ape']:.1%}" for r in ("closed_tpot", "closed_ttft"))
            lines += [f"Without prompts that start together, MAPE / median: {said}.", ""]
    report = validate_serving(rows, calibration)
    lines += _table("In sample", report["regimes"])
    return [*lines, f"Called out of memory although they ran: {report['out_of_memory']} of {report['rows']}.", ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of the fit."""
    parser = argparse.ArgumentParser(prog="python -m models.serving_fit", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--measurements", default=str(serving_measurements()), help="CSV with the columns of the stored one")
    parser.add_argument(
        "--leave-out", metavar="COLUMN=VALUE", help="fit without these rows and print how well they are predicted"
    )
    parser.add_argument("--no-cross-validation", action="store_true", help="keep the stored intervals")
    parser.add_argument("--date", help="date of the fit, ISO (default: today)")
    given = parser.parse_args(arguments)
    rows = serving_rows.read_rows(given.measurements)
    stored = stored_calibration()
    if given.leave_out:
        column, _, value = given.leave_out.partition("=")
        if column not in LEAVE_OUT:
            parser.error(f"--leave-out takes one of {', '.join(LEAVE_OUT)}, not {column!r}{did_you_mean(column, LEAVE_OUT)}")
        exclude = {column: value}
        unseen = [row for row in rows if _matches(row, exclude)]
        if not unseen:
            parser.error(f"no row has {column} {value!r}{did_you_mean(value, {str(row.get(column, '')) for row in rows})}")
        print(json.dumps(validate_serving(unseen, calibrate(rows, exclude))["regimes"], indent=1))
        return
    from datetime import date

    runs, at, _ = serving_rows.runs_of(rows)
    assert runs is not None
    fitted = fit_runs(runs, stored, np.ones(len(runs), bool))
    fitted = replace(fitted, date=given.date or date.today().isoformat(), source="models/data/serving_measurements.csv")
    predicted: dict[str, dict[str, Array]] = {}
    if not given.no_cross_validation:
        intervals, predicted = cross_validate(runs, stored, [rows[i] for i in at])
        fitted = replace(fitted, intervals=intervals)
    lines = report_lines(rows, runs, fitted, predicted)
    folder = Path(__file__).with_name("data")
    write_tables(fitted, folder)
    (folder / "serving_fit.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
