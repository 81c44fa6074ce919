"""The fit: the stored constants follow from the stored rows, and a user's rows refine them."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import yaml

from models import training_fit as f
from models.training_constants import from_dict, load_constants, priors, training_constants
from models.training_rows import MEASUREMENTS, read_cases, read_rows
from zoo.catalog import load

ZOO = load()
STORED = training_constants()


@pytest.fixture(scope="module")
def cases():
    return read_cases(read_rows(MEASUREMENTS), ZOO, STORED)


@pytest.fixture(scope="module")
def problem(cases):
    start = replace(priors(), memory=STORED.memory)
    return f.TimeFit([case for case in cases if case.time is not None], start)


@pytest.fixture(scope="module")
def stored_logs(problem):
    return np.array([np.log(STORED.constants[name].values[key].value) for name, key in problem.unknowns.names])


def loss(problem, logs):
    rows = np.arange(len(problem.cases))
    residual = (problem.predict(logs, rows) - problem.log_time) * problem.weight / f.SPREAD
    prior = (logs - problem.unknowns.mean) / problem.unknowns.spread
    return float(np.sum(f._robust(residual) ** 2) + np.sum(prior**2))


def test_stored_constants_are_the_best_for_the_stored_rows(problem, stored_logs):
    """No single constant, moved by 2 % either way, fits better; and they are far better than the priors."""
    best = loss(problem, stored_logs)
    assert best < 0.5 * loss(problem, problem.unknowns.mean)
    for index in range(0, len(stored_logs), 5):
        for move in (-0.02, 0.02):
            moved = stored_logs.copy()
            moved[index] += move
            assert loss(problem, moved) > best * (1 - 1e-3)


def test_a_refit_from_the_stored_constants_stays_there(problem, stored_logs):
    again = problem.solve(np.arange(len(problem.cases)), stored_logs, evaluations=4)
    assert np.max(np.abs(again - stored_logs)) < 0.02


def test_stored_memory_constants_follow_from_the_rows(problem):
    start = priors()
    fitted = f.fit_memory(read_cases(read_rows(MEASUREMENTS), ZOO, start), start).memory
    for name, value in fitted.items():
        assert value.value == pytest.approx(STORED.memory[name].value, rel=1e-3), name
        assert value.rows == STORED.memory[name].rows


def test_every_stored_constant_has_its_evidence():
    for constant in STORED.constants.values():
        assert constant.meaning
        for value in constant.values.values():
            assert value.value > 0 and value.prior > 0
            assert value.rows >= 1 or value.value == value.prior
            assert (value.sd_log is not None) == constant.fitted
    table = STORED.about["time_error_mape"]
    bars = {"dense-3D": 0.09, "FSDP": 0.14, "FP8": 0.10, "MoE": 0.18, "TPU": 0.15}
    for kind, bar in bars.items():
        assert table[kind]["random half"] <= bar, kind
        assert table[kind]["random fifth"] <= bar, kind
    assert STORED.about["memory_error_mape"]["random fifth"] <= 0.12


def test_derivatives_by_differences(problem, stored_logs):
    rows = np.arange(0, len(problem.cases), 40)
    base = problem.predict(stored_logs, rows)
    slopes = problem._derivative(stored_logs, rows, base)
    for index in (0, 20, len(stored_logs) - 1):
        moved = stored_logs.copy()
        moved[index] += 1e-4
        assert (problem.predict(moved, rows) - base) / 1e-4 == pytest.approx(slopes[:, index], abs=1e-6)


def test_a_users_rows_refine_the_stored_constants():
    """Ten runs of a stack that take 1.5 times as long as measured: predictions for it move up, other stacks' hardly."""
    with MEASUREMENTS.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if "torchtitan" in row["source"]][:10]
    slow = [row | {"iteration_s": str(1.5 * float(row["iteration_s"])), "tokens_per_s_per_accelerator": ""} for row in rows]
    refined = f.fit(slow, ZOO)

    def error(constants, given):
        known = f.TimeFit(read_cases(given, ZOO, constants), constants)
        return float(np.mean(known.predict(known.unknowns.mean, np.arange(len(known.cases))) - known.log_time))

    assert error(STORED, slow) < -0.3
    assert abs(error(refined, slow)) < 0.15
    assert refined.constants["gemm_efficiency"].values["Ampere.16"] == STORED.constants["gemm_efficiency"].values["Ampere.16"]
    assert refined.half_width_log == STORED.half_width_log


def test_rows_without_a_time_cannot_be_fitted():
    with pytest.raises(ValueError, match="no row has both"):
        f.fit([], ZOO)


def test_constants_survive_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(STORED.to_dict()), encoding="utf-8")
    assert load_constants(path).to_dict() == STORED.to_dict() == from_dict(STORED.to_dict()).to_dict()
    path.write_text("just: text", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.yaml: not a file of training constants"):
        load_constants(path)
