"""Time and strategies per second of the proven search. Run with `pytest tests/benchmarks --benchmark-only`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from models.training import TrainingJob
from models.training_constants import stack, training_constants
from models.training_job import ways_of
from planner.query import TrainParallelism
from planner.training.layouts import choices_of
from planner.training.search import Host, Result, Task, search
from zoo.catalog import load
from zoo.specs import Transformer
from zoo.units import Q

CATALOG = load()


def trillion() -> Transformer:
    """GPT 1T of Narayanan et al. (2021): 128 layers, hidden 25,600, 160 heads."""
    gpt: Transformer = CATALOG.find("models", "gpt-3-175b")
    return replace(
        gpt, name="gpt-1t", layers=128, kv_layers=128, hidden=25600, ffn_hidden=102400, heads=160, kv_heads=160, head_dim=160,
        vocab=51200, parameters=1008e9, active_parameters=1008e9,
    )  # fmt: skip


CASES = {
    "GPT-3 175B on 512 A100": ("gpt-3-175b", "a100-sxm-80gb", 512, 2048, 1536, ("bf16",), 5.0),
    "GPT 1T on 4,096 A100": (None, "a100-sxm-80gb", 4096, 2048, 4096, ("bf16",), 10.0),
    "Llama-3.1-405B on 16,384 H100": ("llama-3.1-405b", "h100-sxm", 16384, 8192, 2048, ("bf16", "fp8"), 10.0),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "full"])
def test_search(benchmark: Any, name: str, pruned: bool) -> None:
    model, chip, count, sequence, batch, formats, most = CASES[name]
    record = trillion() if model is None else CATALOG.find("models", model)
    accelerator = CATALOG.find("chips", chip)
    choices = choices_of(record, sequence, batch, ways_of("megatron-core"), TrainParallelism(), ())
    task = Task(
        record, TrainingJob(Q(float(sequence), "token"), float(batch)), stack("megatron-core"), formats, choices,
        training_constants(), Q(12.0, "byte"), True,
    )  # fmt: skip
    host = Host(accelerator.host_bandwidth, Q(25.0, "GB/s"), None)
    result: Result = benchmark.pedantic(lambda: search(task, accelerator, count, host, top=10, prune=pruned), rounds=3)
    seconds = benchmark.stats.stats.min
    benchmark.extra_info.update(
        strategies=result.counted.strategies,
        evaluated=result.counted.evaluated,
        strategies_per_second=round(result.counted.strategies / seconds),
    )
    assert len(result.found) == 10
    if pruned:
        assert seconds <= most
