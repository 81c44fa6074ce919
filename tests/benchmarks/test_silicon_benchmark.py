"""Published runs by measured kernels (aiconfigurator) in our laws, beside our own kernels: figures of data/serving_silicon.csv.

Needs the package: `pip install -e '.[silicon,test]' && pytest tests/benchmarks/test_silicon_benchmark.py --benchmark-only -s`.
Closed loops and static batches whose layout the package knows; our own errors are in sample, those held out stand in
serving_fit.md. On 2026-11-26 with 0.12.0, MAPE / median, kernels against ours: closed TPOT (160 runs) 24.2 / 17.2 % against
12.1 / 8.3 %, closed TTFT (146) 39.1 / 27.0 % against 27.0 / 21.1 %, static throughput (9) 52.2 / 36.8 % against 4.4 / 4.1 %:
those nine ran on engines of 2024, slower than the kernels of today's that the package measured.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models import serving, serving_fit, serving_rows, silicon
from models.calibration import Selector, serving_measurements, stored_calibration
from zoo.catalog import load

pytest.importorskip("aiconfigurator")
FORMATS = {2.0: "bf16", 1.0: "fp8", 0.5625: "fp4"}  # by bytes per element; others the package is not asked about


def compared() -> dict[str, list[tuple[float, float, float]]]:
    """regime -> (measured, by the package's kernels, by ours) of every run that the package knows."""
    runs, _, _ = serving_rows.runs_of(serving_rows.read_rows(serving_measurements()))
    assert runs is not None
    calibration, models = stored_calibration(), load().models
    ours = serving_fit.predictions(runs, calibration)
    backends = np.array([silicon.backend_of(str(engine)) for engine in runs.engine])
    result: dict[str, list[tuple[float, float, float]]] = {}
    for kind, backend, model in {(str(k), str(b), str(m)) for k, b, m in zip(runs.kind, backends, runs.model, strict=True)}:
        chosen = (runs.kind == kind) & (backends == backend) & (runs.model == model)
        if kind not in ("closed", "static") or model not in models:
            continue
        some, at = serving.take(runs, chosen), np.flatnonzero(chosen)
        d = some.deployment(
            Selector(some.selection, calibration.index, len(calibration.records)).constants(calibration.values)
        )  # fmt: skip
        batch = np.minimum(some.load.concurrency, serving.live_sequences(d))
        d = replace(d, layouts=replace(d.layouts, batch=batch))
        weights = np.array([FORMATS.get(round(float(b), 4), "?") for b in some.layouts.expert_bytes.m_as("byte")])
        caches = np.array([FORMATS.get(float(b), "?") for b in some.layouts.kv_bytes.m_as("byte")])
        found, known = silicon.measured(d, models[model], some.chip, weights, caches, silicon.aiconfigurator(backend))
        d = replace(d, measured=found)
        if kind == "static":
            rate = serving.static_throughput(d, some.load).m_as("token/s") * some.load.replicas
            predicted = {"static_throughput": rate}
        else:
            latency = serving.closed_loop(d, some.load)
            predicted = {"closed_tpot": latency.tpot.m_as("ms"), "closed_ttft": latency.ttft.m_as("ms")}
        for regime, values in predicted.items():
            for k in np.flatnonzero(known & np.isfinite(some.targets[regime])):
                triple = (float(some.targets[regime][k]), float(values[k]), float(ours[regime][at[k]]))
                result.setdefault(regime, []).append(triple)
    return result


def test_measured_kernels_against_ours(benchmark: Any) -> None:
    found = benchmark.pedantic(compared, rounds=1)
    for regime, triples in sorted(found.items()):
        measured, theirs, own = np.array(triples).T
        errors = [np.abs(values / measured - 1) for values in (theirs, own)]
        width = float(np.quantile(np.abs(np.log(theirs / measured)), 0.8))
        said = ", ".join(
            f"{name} {e.mean():.3f} / {np.median(e):.3f}" for name, e in zip(("kernels", "ours"), errors, strict=True)
        )
        print(f"{regime}: {len(measured)} runs, {said}, 80 % within {width:.4f} (log)")
    assert len(found["closed_tpot"]) > 100
