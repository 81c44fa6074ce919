"""What the certificate takes from the forward model: two monotonicities, over ranges far wider than any market.

The table of wall 7 is a relaxation only if the load per replica that a pool carries never falls as the pool grows; the
search for the largest batch that keeps TPOT is right only if TPOT never falls with the batch.
"""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
import tiny

from models import serving
from models.calibration import serving_constants
from zoo.catalog import load
from zoo.specs import Transformer
from zoo.units import Q

UNITS = np.unique(np.concatenate([np.arange(1, 65), np.round(np.logspace(np.log10(65), 5, 60))]))


@pytest.mark.parametrize("seed", range(150))
def test_load_per_replica_never_falls_with_more_replicas(seed: int) -> None:
    draw = Random(seed)
    prefill = 10 ** draw.uniform(-4, 1)  # s
    stages, batch = draw.randint(1, 8), draw.randint(1, 1024)
    residence = prefill * 10 ** draw.uniform(-0.5, 4)
    delay = prefill * draw.choice([0.0, draw.uniform(0, 3)])
    targets: tuple[Any, ...] = tuple(
        (draw.choice([0.5, 0.9, 0.95, 0.99, 0.999, 0.9999]), Q(delay + prefill * 10 ** draw.uniform(-0.5, 2.5), "s"))
        for _ in range(draw.randint(0, 2))
    )
    variability = draw.choice([0.0, 0.25, 1.0, 4.0, 100.0])
    per_unit = draw.randint(1, 8)

    def rates(units: np.ndarray) -> np.ndarray:
        replicas = per_unit * units
        same = np.ones_like(replicas)
        result = serving.pool_rate(
            Q(prefill * same, "s"),
            Q(delay * same, "s"),
            replicas * stages,
            replicas * batch,
            Q(residence * same, "s"),
            targets,
            variability,
        )
        return np.asarray(result.m_as("1/s"))

    carried = rates(UNITS)
    each = carried / UNITS
    slack = 1e-8 * each.max()  # the rate is found by bisection to 1e-9 of its bracket
    assert np.all(np.diff(each) >= -slack), UNITS[1:][np.diff(each) < -slack]
    assert np.all(carried <= UNITS * per_unit * min(stages / prefill, batch / residence) * (1 + 1e-9))
    # what is carried is within the targets, and a little more is not
    if targets and carried[5] > 0:
        pool = (Q(np.array([prefill]), "s"), Q(np.array([delay]), "s"), np.array([6.0 * per_unit * stages]),
                np.array([6.0 * per_unit * batch]), Q(np.array([residence]), "s"), targets, variability)  # fmt: skip
        late = serving.late_share(Q(carried[5:6], "1/s"), *pool)
        assert all(share[0] <= 1 - percentile for share, (percentile, _) in zip(late, targets, strict=True))
        more = serving.late_share(Q(1.001 * carried[5:6], "1/s"), *pool)
        saturated = 1.001 * carried[5] >= 6 * per_unit * min(stages / prefill, batch / residence)
        assert saturated or any(share[0] > 1 - percentile for share, (percentile, _) in zip(more, targets, strict=True))


def test_load_falls_with_delay_with_service_and_with_bursts() -> None:
    def rate(prefill: float = 0.1, delay: float = 0.05, residence: float = 3.0, variability: float = 1.0) -> float:
        seconds = [Q(np.array([value]), "s") for value in (prefill, delay, residence)]
        result = serving.pool_rate(
            seconds[0], seconds[1], np.array([4.0]), np.array([64.0]), seconds[2], ((0.99, Q(0.8, "s")),), variability
        )
        return float(result.m_as("1/s")[0])

    base = rate()
    assert rate(prefill=0.12) < base and rate(delay=0.2) < base and rate(residence=5.0) < base and rate(variability=4.0) < base


def models() -> list[Transformer]:
    known = load().models
    names = ("llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "gemma-2-27b", "qwen2.5-7b")
    found = [known[name] for name in names if name in known]
    assert len(found) >= 4
    return [model for model in found if isinstance(model, Transformer)]


@pytest.mark.parametrize("chip", ["h100-sxm", "l4", "mi300x", "tpu-v5e", "a100-sxm-80gb", "b200-sxm"])
def test_tpot_never_falls_with_the_batch(chip: str) -> None:
    accelerator = load().chips[chip]
    constants = serving_constants(accelerator)
    links = serving.Links(Q(300.0, "GB/s"), Q(0.0, "s"), Q(25.0, "GB/s"), Q(0.0, "s"))
    batches = np.concatenate([np.arange(1.0, 260.0), np.arange(260.0, 1025.0, 9.0)])
    same = np.ones_like(batches)
    draw = Random(chip)
    for model in models():
        for _ in range(6):
            tensor, pipeline = draw.choice([1, 2, 4, 8]), draw.choice([1, 2, 3])
            expert = tensor * draw.choice([2, 4]) if model.experts and draw.random() < 0.5 else 1
            precision = draw.choice([p for p in ("bf16", "fp8", "int8") if p in accelerator.peak])
            layouts = serving.Layouts(
                Q(draw.choice([0.5, 1.0, 2.0]) * same, "byte"), Q(draw.choice([1.0, 2.0]) * same, "byte"),
                Q(accelerator.peak[precision].m_as("flop/s") * same, "flop/s"), constants.compute_efficiency[precision] * same,
                tensor_parallel=tensor * same, pipeline_parallel=pipeline * same, expert_parallel=expert * same, batch=batches,
            )  # fmt: skip
            tokens = serving.Traffic(
                Q(float(draw.choice([1, 100, 1000, 30_000])), "token"), Q(float(draw.choice([1, 20, 250, 3000])), "token"),
                draw.choice([0.0, 0.5]),
            )  # fmt: skip
            replica = serving.replica(model, accelerator, layouts, links, tokens, constants)
            for times in (replica.tpot, replica.tpot_high, replica.residence, replica.first_token_time):
                seconds = times.m_as("s")
                assert np.all(np.isfinite(seconds)) and np.all(seconds > 0)
            for times in (replica.tpot, replica.tpot_high):
                seconds = times.m_as("s")
                assert np.all(np.diff(seconds) >= -1e-12 * seconds.max()), (
                    model.name,
                    layouts,
                    batches[1:][np.diff(seconds) < 0][:5],
                )


def test_one_layout_at_a_time_is_the_same_as_many() -> None:
    """The arrays of the search hold what scalars would."""
    accelerator, model = tiny.chip(), tiny.model()
    constants = serving_constants(accelerator)
    links = serving.Links(Q(100.0, "GB/s"), Q(0.0, "s"), Q(25.0, "GB/s"), Q(0.0, "s"))
    tokens = serving.Traffic(Q(1000.0, "token"), Q(50.0, "token"))
    rows = [(t, p, b) for t in (1, 2, 4) for p in (1, 2) for b in (1, 2, 7, 16, 40)]

    def run(some: list[tuple[int, int, int]]) -> serving.Replica:
        tensor, pipeline, batch = np.array(some, float).T
        one = np.ones(len(some))
        layouts = serving.Layouts(
            Q(2 * one, "byte"), Q(2 * one, "byte"), Q(1e14 * one, "flop/s"), 0.6 * one, tensor, pipeline, one, batch
        )
        return serving.replica(model, accelerator, layouts, links, tokens, constants)

    many = run(rows)
    target = ((0.99, Q(0.9, "s")),)
    rates = serving.pool_rate(
        many.prefill_time,
        many.first_token_delay,
        3 * many.layouts.pipeline_parallel,
        3 * many.layouts.batch,
        many.residence,
        target,
        1.0,
    )
    for i, row in enumerate(rows):
        one = run([row])
        for name in ("tpot", "prefill_time", "first_token_delay", "residence", "memory_needed", "tpot_high"):
            assert getattr(one, name)[0].magnitude == pytest.approx(getattr(many, name)[i].magnitude, rel=1e-12), name
        assert one.largest_batch[0] == many.largest_batch[i]
        rate = serving.pool_rate(
            one.prefill_time,
            one.first_token_delay,
            np.array([3.0 * row[1]]),
            np.array([3.0 * row[2]]),
            one.residence,
            target,
            1.0,
        )
        assert rate.m_as("1/s")[0] == pytest.approx(rates.m_as("1/s")[i], rel=1e-8, abs=1e-9)
