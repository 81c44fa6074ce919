"""Fits the training model's constants to published runs: `python -m models.training_fit` rewrites its data files.

Maximum a posteriori with log-normal priors (`data/training_priors.csv`, or stored constants when a user refines them with
rows of their own) and a robust loss (pseudo-Huber: a row counts less the further off it is). Memory constants come first,
from rows that print their peak; then the time constants from rows with a time. Deterministic: no random start, and the
folds of the cross-validation are seeded.

Constants with `fitted` false in the priors are held: refitting them did not help rows that the fit had not seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.units import Q, Quantity

from .training import Run, evaluate, take
from .training_constants import FACTORS, Constant, Constants, Setting, Value, priors, training_constants
from .training_memory import peak_memory
from .training_rows import MEASUREMENTS, Case, Zoo, cases_of, read_cases, read_rows, stacked

Array = NDArray[np.float64]

_DATA = Path(__file__).with_name("data")
SPREAD = 0.06  # of log time, of a row that the model describes well
MEMORY_SPREAD = 0.08
TAIL = 1.5  # spreads beyond which a residual counts linearly
HALVES = 10  # splits in two: one alone is off by a fifth of the error, for the rarer kinds
MOST_FOLDS = 12  # of whole groups: where there are more, several are held out together
_STEP = 1e-4  # of a logarithm, for derivatives


def fit(rows: str | Path | Sequence[Mapping[str, Any]], zoo: Zoo, start: Constants | None = None) -> Constants:
    """Constants refined by a user's rows: the stored ones (or `start`) are the priors, with their spread.

    rows: a file or rows with the columns of `data/training_measurements.csv`. Raises ValueError where no row has a time.
    """
    start = training_constants() if start is None else start
    read, skipped = cases_of(read_rows(rows), zoo, start)
    cases = [case for case in read if case is not None]
    timed = [case for case in cases if case.time is not None]
    if not timed:
        reason = f"; the first reason: {skipped[0]['reason']}" if skipped else ""
        raise ValueError(f"no row has both a readable configuration and a time, nothing can be fitted{reason}")
    return fit_time(timed, fit_memory(cases, start))


class _Unknowns:
    """The fitted constants as one vector of logarithms, and which element each row reads of each constant."""

    def __init__(self, settings: Sequence[Setting], start: Constants) -> None:
        self.start = start
        self.names: list[tuple[str, str]] = []
        means: list[float] = []
        spreads: list[float] = []
        self.reads: dict[str, NDArray[np.intp]] = {}
        self.held: dict[str, Any] = {}
        for constant in start.constants.values():
            keys = [setting.key(constant.varies_by) for setting in settings]
            if not constant.fitted:
                values = np.array([constant.find(key)[0] for key in keys])
                self.held[constant.name] = Q(values, constant.unit) if constant.unit else values
                continue
            place = {key: len(self.names) + i for i, key in enumerate(sorted(set(keys)))}
            for key in place:
                known = constant.values.get(key)
                self.names.append((constant.name, key))
                means.append(np.log(constant.find(key)[0]))
                spreads.append((known.sd_log if known is not None and known.sd_log else None) or constant.sd_log or 0.0)
            self.reads[constant.name] = np.array([place[key] for key in keys])
        self.mean, self.spread = np.array(means), np.array(spreads)

    def constants(self, logs: Array, rows: NDArray[np.intp]) -> dict[str, Any]:
        """What `training.evaluate` needs for `rows`; `logs` is one vector, or one row of it per element of `rows`."""
        resolved: dict[str, Any] = {name: _taken(value, rows) for name, value in self.held.items()}
        factor: Any = 1.0
        for name, reads in self.reads.items():
            index = reads[rows]
            values = np.exp(logs[index] if logs.ndim == 1 else logs[np.arange(len(rows)), index])
            if name in FACTORS:
                factor = factor * values
            else:
                unit = self.start.constants[name].unit
                resolved[name] = Q(values, unit) if unit else values
        return resolved | {"time_factor": factor}


def _taken(value: Any, rows: NDArray[np.intp]) -> Any:
    return Q(value.magnitude[rows], value.units) if isinstance(value, Quantity) else value[rows]


def _robust(residual: Array) -> Array:
    """Residual whose square is the pseudo-Huber loss of `residual`."""
    loss = np.sqrt(1 + (residual / TAIL) ** 2) - 1
    robust: Array = np.sign(residual) * TAIL * np.sqrt(2 * loss)
    return robust


class TimeFit:
    """Rows with a time, ready to be fitted on any subset of them."""

    def __init__(self, cases: Sequence[Case], start: Constants) -> None:
        self.cases, self.start = list(cases), start
        self.run = stacked([case.run for case in self.cases])
        self.unknowns = _Unknowns([case.setting for case in self.cases], start)
        self.log_time = np.log([case.time or np.nan for case in self.cases])
        self.weight = np.array([case.weight for case in self.cases])
        self.names = {
            "stack": [case.setting.stack.name for case in self.cases],
            "variant": [case.setting.key("variant") for case in self.cases],
            "chip": [case.setting.chip for case in self.cases],
            "model": [case.model.name for case in self.cases],
        }

    def predict(self, logs: Array, rows: NDArray[np.intp]) -> Array:
        """Logarithm of the predicted time [s] of `rows`."""
        total, *_ = evaluate(take(self.run, rows), self.unknowns.constants(logs, rows))
        predicted: Array = np.log(total.m_as("s"))
        return predicted

    def _derivative(self, logs: Array, rows: NDArray[np.intp], base: Array) -> Array:
        """d log time / d log constant, all constants in one evaluation: each touches only the rows that read it."""
        position = np.arange(len(rows))
        index = np.concatenate([position for _ in self.unknowns.reads])
        which = np.concatenate([reads[rows] for reads in self.unknowns.reads.values()])
        moved = np.broadcast_to(logs, (len(index), len(logs))).copy()
        moved[np.arange(len(index)), which] += _STEP
        result = np.zeros((len(rows), len(logs)))
        result[index, which] = (self.predict(moved, rows[index]) - base[index]) / _STEP
        return result

    def solve(self, rows: NDArray[np.intp], first: Array | None = None, evaluations: int = 40) -> Array:
        """The most probable logarithms of the constants given `rows`."""
        from scipy.optimize import least_squares

        target, weight = self.log_time[rows], self.weight[rows] / SPREAD
        mean, spread = self.unknowns.mean, self.unknowns.spread

        def residuals(logs: Array) -> Array:
            return np.r_[_robust((self.predict(logs, rows) - target) * weight), (logs - mean) / spread]

        def jacobian(logs: Array) -> Array:
            base = self.predict(logs, rows)
            scaled = (base - target) * weight
            slope = (_robust(scaled + 1e-6) - _robust(scaled - 1e-6)) / 2e-6
            return np.r_[(slope * weight)[:, None] * self._derivative(logs, rows, base), np.diag(1 / spread)]

        begin = mean if first is None else first
        found: Array = least_squares(residuals, begin, jac=jacobian, max_nfev=evaluations, xtol=1e-5, ftol=1e-5).x
        return found

    def posterior(self, logs: Array, rows: NDArray[np.intp]) -> tuple[Array, float]:
        """(spread of each logarithm, effective number of fitted constants: sum of 1 - posterior / prior variance)."""
        slope = self._derivative(logs, rows, self.predict(logs, rows)) / SPREAD
        covariance = np.linalg.inv(slope.T @ slope + np.diag(1 / self.unknowns.spread**2))
        variance = np.diag(covariance)
        return np.sqrt(variance), float(np.sum(1 - variance / self.unknowns.spread**2))

    def constants(self, logs: Array, rows: NDArray[np.intp]) -> Constants:
        """The start's constants with the fitted values in."""
        spread, effective = self.posterior(logs, rows)
        constants: dict[str, Constant] = {}
        fitted = {
            (name, key): (float(f"{np.exp(logs[i]):.6g}"), float(f"{spread[i]:.4g}"))
            for i, (name, key) in enumerate(self.unknowns.names)
        }
        for constant in self.start.constants.values():
            keys = [self.cases[i].setting.key(constant.varies_by) for i in rows]
            values = dict(constant.values)
            for key in sorted(set(keys)):
                known, _ = constant.find(key)
                value, sd = fitted.get((constant.name, key), (known, None))
                known = constant.values[key].prior if key in constant.values else float(f"{known:.6g}")
                values[key] = Value(value, known, sd, keys.count(key) + (values[key].rows if key in values else 0))
            constants[constant.name] = replace(constant, values=values)
        calibrated = {
            kind: tuple(sorted({*self.start.calibrated[kind], *(names[i] for i in rows)})) for kind, names in self.names.items()
        }
        about = dict(self.start.about) | {"rows": len(rows), "effective_constants": round(effective, 1)}
        return replace(self.start, constants=constants, calibrated=calibrated, about=about)


def fit_time(cases: Sequence[Case], start: Constants) -> Constants:
    """Time constants from cases with a time; everything else as in `start`."""
    problem = TimeFit(cases, start)
    rows = np.arange(len(cases))
    return problem.constants(problem.solve(rows), rows)


def fit_memory(cases: Iterable[Case], start: Constants) -> Constants:
    """Memory constants from cases that state their peak; unchanged where none does."""
    known = [case for case in cases if case.peak_memory is not None]
    if not known:
        return start
    names = list(start.memory)
    logs, spread = solve_memory(known, start)
    memory = {
        name: replace(
            start.memory[name], value=float(f"{np.exp(log):.6g}"), sd_log=float(f"{sd:.4g}"),
            rows=start.memory[name].rows + len(known),
        )
        for name, log, sd in zip(names, logs, spread, strict=True)
    }  # fmt: skip
    return replace(start, memory=memory)


def predicted_memory(run: Run, memory: Mapping[str, Value]) -> Array:
    """Expected peak [GiB] of many runs."""
    peak: Array = peak_memory(run, memory)[0].m_as("GiB")
    return peak


def solve_memory(cases: Sequence[Case], start: Constants) -> tuple[Array, Array]:
    """(logarithms, their spread) of the memory constants that the cases' stated peaks make most probable."""
    from scipy.optimize import least_squares

    run = stacked([case.run for case in cases])
    target = np.log([case.peak_memory or np.nan for case in cases])
    mean = np.log([value.value for value in start.memory.values()])
    spread = np.array([value.sd_log or 1.0 for value in start.memory.values()])

    def residuals(logs: Array) -> Array:
        values = {name: replace(v, value=float(np.exp(log))) for (name, v), log in zip(start.memory.items(), logs, strict=True)}
        return np.r_[_robust((np.log(predicted_memory(run, values)) - target) / MEMORY_SPREAD), (logs - mean) / spread]

    result = least_squares(residuals, mean)
    return result.x, np.sqrt(np.diag(np.linalg.inv(result.jac.T @ result.jac)))


# ----------------------------------------------------------------------------------------------------- hold-out evidence


def cross_validate(problem: TimeFit, folds: NDArray[Any], first: Array | None = None) -> Array:
    """log(predicted / measured) of every row, predicted by constants fitted on the other folds."""
    residual = np.full(len(folds), np.nan)
    for fold in np.unique(folds):
        rows, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        logs = problem.solve(rows, first, 25)
        residual[held_out] = problem.predict(logs, held_out) - problem.log_time[held_out]
    return residual


def halves(count: int, number: int) -> NDArray[Any]:
    """The half, 0 or 1, of each of `count` rows in split `number`."""
    return np.random.RandomState(200 + number).randint(0, 2, count)


def hold_out(problem: TimeFit, first: Array) -> dict[str, Array]:
    """Residuals of rows unseen by the fit, one row of the array per repeat: random fifths, random halves, whole groups."""
    count = len(problem.cases)
    random: dict[str, Callable[[int], NDArray[Any]]] = {
        "random fifth": lambda i: np.random.RandomState(7 + i).randint(0, 5, count),
        "random half": lambda i: halves(count, i),
    }
    repeats = {"random fifth": 4, "random half": HALVES}
    result = {
        name: np.array([cross_validate(problem, folds(i), first) for i in range(repeats[name])]) for name, folds in random.items()
    }
    for name, members in problem.names.items():
        groups = np.unique(members, return_inverse=True)[1] % MOST_FOLDS
        result[f"whole {name}"] = cross_validate(problem, groups, first)[None]
    return result


def error_table(problem: TimeFit, residuals: Mapping[str, Array]) -> dict[str, dict[str, float]]:
    """Mean absolute percentage error as a fraction: kind of run -> way of holding out -> error; "rows" counts them."""
    kinds = np.array([case.setting.kind for case in problem.cases])
    masks = {kind: kinds == kind for kind in sorted(set(kinds))}
    masks["long-context"] = np.array([case.long_context for case in problem.cases])
    return {
        kind: {"rows": int(mask.sum())}
        | {name: round(float(np.mean(np.abs(np.expm1(r[:, mask])))), 4) for name, r in residuals.items()}
        for kind, mask in masks.items()
        if mask.any()
    }


def interval(problem: TimeFit, residuals: Mapping[str, Array]) -> tuple[dict[str, float], dict[str, float]]:
    """(half width of the 80 % interval of log time by kind, its widening for what was never measured).

    The 0.83 quantile of the absolute residuals of rows held out at random (fifths and halves), shrunk to that of all kinds
    as if those were five more rows; a little above 0.8 because the width itself is estimated. Widening: the same quantile
    with whole stacks, variants (stack, chip family, precision, release, sharding), chips or models held out, over that of
    random rows.
    """
    share = 0.83
    random = np.concatenate([residuals["random fifth"], residuals["random half"]])
    pooled = float(np.quantile(np.abs(random), share))
    kinds = np.array([case.setting.kind for case in problem.cases])
    widths = {}
    for kind in sorted(set(kinds)):
        own, rows = float(np.quantile(np.abs(random[:, kinds == kind]), share)), int((kinds == kind).sum())
        widths[kind] = round((rows * own + 5 * pooled) / (rows + 5), 4)
    widening = {
        name: round(max(1.0, float(np.quantile(np.abs(residuals[f"whole {name}"]), share)) / pooled), 3) for name in problem.names
    }
    return widths, widening


def leaner(start: Constants) -> Constants:
    """The variant without factors per variant, recipe and chip, and with few fitted terms: what pooling is compared with."""
    kept = {"gemm_efficiency", "unfused_share", "flash_efficiency", "link_efficiency", "accumulation_traffic", "layer_start",
            "step_overhead", "gather_exposed", "routing_traffic", "stack_factor", "release_factor"}  # fmt: skip
    constants = {name: replace(c, fitted=c.fitted and name in kept) for name, c in start.constants.items()}
    return replace(start, constants=constants)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, hold out, and rewrite `data/training_constants.json` and `data/training_fit.md`."""
    from zoo.catalog import load

    parser = argparse.ArgumentParser(prog="python -m models.training_fit", description="Refit the training constants.")
    parser.add_argument("--date", default=date.today().isoformat(), help="date to record for the fit")
    options = parser.parse_args(arguments)
    zoo, start = load(), priors()
    rows = read_rows(MEASUREMENTS)
    memory = fit_memory(read_cases(rows, zoo, start), start)
    cases = read_cases(rows, zoo, memory)
    timed = [case for case in cases if case.time is not None]
    problem = TimeFit(timed, memory)
    every = np.arange(len(timed))
    logs = problem.solve(every)
    fitted = problem.constants(logs, every)
    residuals = {"fitted": (problem.predict(logs, every) - problem.log_time)[None], **hold_out(problem, logs)}
    table = error_table(problem, residuals)
    lean = TimeFit(timed, leaner(memory))
    lean_logs = lean.solve(every)
    lean_residuals = {"random half": np.array([cross_validate(lean, halves(len(timed), i), lean_logs) for i in range(HALVES)])}
    lean_table = error_table(lean, lean_residuals)
    for kind, errors in table.items():
        errors["leaner variant, random half"] = lean_table[kind]["random half"]
    widths, widening = interval(problem, residuals)
    remembered = [case for case in cases if case.peak_memory is not None]
    errors = memory_errors(remembered, start)
    about = {
        "fitted_on": options.date, "measurements": MEASUREMENTS.name, "rows_with_a_time": len(timed),
        "rows_with_a_peak": len(remembered), "rows_skipped": len(rows) - len(cases),
        "constants_fitted": len(problem.unknowns.names), "constants_fitted_leaner": len(lean.unknowns.names),
        "effective_constants": fitted.about["effective_constants"],
        "time_error_mape": table, "memory_error_mape": errors,
    }  # fmt: skip
    fitted = replace(fitted, half_width_log=widths, widening=widening, about=about)
    text = json.dumps(fitted.to_dict(), indent=1, ensure_ascii=False) + "\n"
    (_DATA / "training_constants.json").write_text(text, encoding="utf-8")
    (_DATA / "training_fit.md").write_text(report(fitted, coverage(problem, residuals, fitted)), encoding="utf-8")


def memory_errors(cases: Sequence[Case], start: Constants) -> dict[str, float]:
    """Mean absolute error of the peak as a fraction: fitted, and of rows held out at random fifths."""
    run = stacked([case.run for case in cases])
    target = np.array([case.peak_memory for case in cases], float)
    names = list(start.memory)

    def predicted(rows: NDArray[np.intp]) -> Array:
        logs, _ = solve_memory([cases[i] for i in rows], start)
        return predicted_memory(run, {n: Value(float(np.exp(x)), 1.0, None) for n, x in zip(names, logs, strict=True)})

    folds = np.random.RandomState(1).randint(0, 5, len(cases))
    unseen = np.empty(len(cases))
    for fold in np.unique(folds):
        unseen[folds == fold] = predicted(np.flatnonzero(folds != fold))[folds == fold]
    seen = predicted(np.arange(len(cases)))
    return {
        "rows": len(cases),
        "fitted": round(float(np.mean(np.abs(seen / target - 1))), 4),
        "random fifth": round(float(np.mean(np.abs(unseen / target - 1))), 4),
    }


def coverage(problem: TimeFit, residuals: Mapping[str, Array], constants: Constants) -> dict[str, float]:
    """Share of held-out rows inside the stored interval, by way of holding out; whole groups with their widening."""
    width = np.array([constants.half_width(case.setting) for case in problem.cases])
    return {
        name: round(float(np.mean(np.abs(r) <= width * constants.widening.get(name.removeprefix("whole "), 1.0))), 3)
        for name, r in residuals.items()
    }


def report(constants: Constants, inside: Mapping[str, float]) -> str:
    """The fit in words and tables, for a reader."""
    about = constants.about
    ways = [way for way in next(iter(about["time_error_mape"].values())) if way != "rows"]
    lines = [
        "# How well the training model fits", "",
        f"Written by `python -m models.training_fit` on {about['fitted_on']} from {about['measurements']}: "
        f"{about['rows_with_a_time']} rows with a time, {about['rows_with_a_peak']} with a peak memory; {about['rows_skipped']} "
        "rows have no layout, count, batch or sequence length.", "",
        f"{about['constants_fitted']} constants are fitted, most of them pooled factors shrunk to 1; their effective number (1 - "
        f"posterior / prior variance, summed) is {about['effective_constants']}. The leaner variant fits "
        f"{about['constants_fitted_leaner']} and errs more on unseen rows, so the pooled one is kept.", "",
        "## Step time: mean absolute error, %", "",
        "`fitted`: the rows the fit has seen. Other columns: rows it has not seen, held out at random or by whole groups (the",
        "error to expect of a model, chip or stack that was never measured). Form and priors were chosen with these rows in",
        "view, so the random columns flatter by perhaps one point.", "",
        "| kind of run | rows | " + " | ".join(ways) + " |", "|---|---|" + "---|" * len(ways),
    ]  # fmt: skip
    for kind, errors in about["time_error_mape"].items():
        lines.append(f"| {kind} | {errors['rows']} | " + " | ".join(f"{100 * errors[way]:.1f}" for way in ways) + " |")
    memory = about["memory_error_mape"]
    lines += ["", "## 80 % interval", "", "Share of rows inside it, whole groups with their widening: "
              + ", ".join(f"{name} {100 * share:.0f} %" for name, share in inside.items()) + ".", "",
              "Half width of log time: " + ", ".join(f"{k} {v:.3f}" for k, v in constants.half_width_log.items()) + ". Widening: "
              + ", ".join(f"never measured {k} x {v:.2f}" for k, v in constants.widening.items()) + ".", "",
              "## Peak memory", "",
              f"Mean absolute error on {memory['rows']} rows: fitted {100 * memory['fitted']:.1f} %, held out at random "
              f"{100 * memory['random fifth']:.1f} %.", ""]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
