"""The search against full enumeration, and against a brute force that shares nothing with it but the forward model."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from models import training, training_memory
from models.training import Layouts, TrainingJob
from models.training_constants import stack, training_constants
from models.training_job import ways_of
from planner.query import TrainParallelism
from planner.training.layouts import choices_of, cores_of, count_of, strategies_of
from planner.training.search import (
    Host,
    Task,
    core_bound,
    fits,
    floor_of,
    machine_bound,
    memory_of,
    search,
    step_of,
)
from zoo.catalog import load
from zoo.specs import Accelerator
from zoo.units import Q

CATALOG = load()
HOST = Host(Q(25.0, "GB/s"), Q(25.0, "GB/s"), Q(100.0, "GiB"))


def task_of(
    model: str,
    sequence: int,
    batch: int,
    software: str,
    formats: tuple[str, ...] = ("bf16",),
    offload: bool = False,
    **narrowed: object,
) -> Task:
    record = CATALOG.find("models", model)
    choices = choices_of(record, sequence, batch, ways_of(software), TrainParallelism.model_validate(narrowed), offload)
    return Task(
        record, TrainingJob(Q(float(sequence), "token"), float(batch)), stack(software), formats, choices,
        training_constants(), Q(12.0, "byte"), True,
    )  # fmt: skip


def chip(name: str) -> Accelerator:
    found: Accelerator = CATALOG.find("chips", name)
    return found


CASES = [
    ("llama-3.1-8b", 4096, 64, "megatron-core", ("bf16",), "a100-sxm-80gb", 16),
    ("llama-3.1-8b", 4096, 48, "nemo", ("bf16", "fp8"), "h100-sxm", 24),
    ("llama-3.1-8b", 8192, 64, "torchtitan", ("bf16",), "h100-sxm", 32),
    ("llama-3.1-70b", 8192, 128, "fsdp", ("bf16",), "h100-sxm", 64),
    ("mixtral-8x7b", 4096, 96, "nemo", ("bf16",), "h100-sxm", 48),
    ("gpt-3-175b", 2048, 192, "megatron-lm", ("fp16",), "a100-sxm-80gb", 96),
]


@pytest.mark.parametrize(("model", "sequence", "batch", "software", "formats", "accelerator", "count"), CASES)
def test_pruned_search_finds_what_full_enumeration_finds(
    model: str, sequence: int, batch: int, software: str, formats: tuple[str, ...], accelerator: str, count: int
) -> None:
    task = task_of(model, sequence, batch, software, formats)
    pruned = search(task, chip(accelerator), count, HOST, top=10)
    full = search(task, chip(accelerator), count, HOST, top=10, prune=False)
    assert [f.ranked for f in pruned.found] == pytest.approx([f.ranked for f in full.found], rel=1e-12)
    assert pruned.found and pruned.counted.evaluated <= full.counted.evaluated
    assert pruned.counted.strategies == full.counted.strategies == full.counted.memory + full.counted.evaluated
    assert pruned.counted.strategies == pruned.counted.memory + pruned.counted.evaluated + pruned.counted.bound


@pytest.mark.parametrize(
    ("model", "sequence", "batch", "accelerator", "count"),
    [("gpt-3-175b", 2048, 1536, "a100-sxm-80gb", 512), ("llama-3.1-405b", 8192, 2048, "h100-sxm", 16384)],
)
def test_pruned_search_finds_what_full_enumeration_finds_on_whole_cases(
    model: str, sequence: int, batch: int, accelerator: str, count: int
) -> None:
    task = task_of(model, sequence, batch, "megatron-core")
    pruned = search(task, chip(accelerator), count, HOST, top=10)
    full = search(task, chip(accelerator), count, HOST, top=10, prune=False)
    assert [f.ranked for f in pruned.found] == pytest.approx([f.ranked for f in full.found], rel=1e-12)


def test_brute_force_over_every_degree_finds_nothing_better() -> None:
    """Nested loops over all integers, and the forward model one layout at a time: even stages, so both count alike."""
    count, batch, sequence = 8, 16, 2048
    task = task_of("llama-3.1-8b", sequence, batch, "megatron-lm", recompute=["selective", "full"])
    accelerator, model = chip("a100-sxm-80gb"), task.model
    best = np.inf
    for tensor, pipeline, micro, virtual, zero, split, mode in itertools.product(
        range(1, 9), range(1, 9), range(1, batch + 1), range(1, 33), (0, 1), (False, True), (training.SELECTIVE, training.FULL)
    ):
        if count % (tensor * pipeline) or model.heads % tensor or model.layers % (pipeline * virtual):
            continue
        data = count // (tensor * pipeline)
        if batch % (data * micro) or (virtual > 1 and (pipeline == 1 or batch // (data * micro) % pipeline)):
            continue
        if (zero and data == 1) or (split and tensor == 1):
            continue
        layout = Layouts(
            float(tensor), float(pipeline), float(data), float(micro), "bf16", 1.0, 1.0, float(virtual), split, mode, zero
        )
        if np.all(training_memory.memory(model, accelerator, task.job, layout, task.stack).fits):
            best = min(
                best, float(np.ravel(training.step_time(model, accelerator, task.job, layout, task.stack).high.m_as("s"))[0])
            )
    found = search(task, accelerator, count, HOST)
    assert found.found[0].ranked == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(("model", "sequence", "batch", "software", "formats", "accelerator", "count"), CASES)
def test_no_bound_exceeds_the_exact_time(
    model: str, sequence: int, batch: int, software: str, formats: tuple[str, ...], accelerator: str, count: int
) -> None:
    task = task_of(model, sequence, batch, software, formats)
    machine = chip(accelerator)
    cores = cores_of(count, task.choices)
    for name in formats:
        every = strategies_of(cores, task.choices, name, machine.scale_up_domain)
        exact = step_of(task, machine, every, HOST).ranked(True)
        assert np.all(core_bound(task, machine, cores, name)[every.core] <= exact)
        floor = machine_bound(task, machine, count, floor_of(task, machine, name))
        assert floor <= exact.min()
        assert int(count_of(cores, task.choices, machine.scale_up_domain).sum()) == len(every)


def test_every_strategy_divides_what_it_splits() -> None:
    task = task_of("mixtral-8x7b", 4096, 96, "nemo")
    every = strategies_of(cores_of(48, task.choices), task.choices, "bf16", 8).layouts
    t, p, c, d = every.tensor_parallel, every.pipeline_parallel, every.context_parallel, every.data_parallel
    assert np.all(t * p * c * d == 48) and set(np.unique(p)) >= {1, 2, 3, 4, 6}
    assert (
        not np.any(np.mod(32, t))
        and not np.any(np.mod(96, d * every.microbatch))
        and not np.any(np.mod(8, every.expert_parallel))
    )
    assert not np.any(np.mod(4096, 2 * c)[c > 1])
    assert np.all((every.virtual_stages == 1) | (np.mod(96 / d / every.microbatch, p) == 0))


def test_a_cutoff_finds_the_same_or_nothing() -> None:
    task = task_of("llama-3.1-8b", 4096, 64, "megatron-core")
    best = search(task, chip("h100-sxm"), 16, HOST).found[0].ranked
    assert search(task, chip("h100-sxm"), 16, HOST, cutoff=best * 1.01).found[0].ranked == best
    assert not search(task, chip("h100-sxm"), 16, HOST, cutoff=best * 0.99).found


def test_narrowing_never_helps_and_is_obeyed() -> None:
    free = search(task_of("llama-3.1-8b", 4096, 64, "nemo"), chip("h100-sxm"), 32, HOST).found[0]
    narrowed = {"tensor": [4, 8], "pipeline": "2..4", "recompute": ["full"], "sharding": ["none"], "sequence_parallel": True}
    bound = search(task_of("llama-3.1-8b", 4096, 64, "nemo", **narrowed), chip("h100-sxm"), 32, HOST).found[0]
    assert bound.ranked >= free.ranked
    assert bound.layout.tensor_parallel[0] in (4, 8) and 2 <= bound.layout.pipeline_parallel[0] <= 4
    assert bound.layout.recompute[0] == training.FULL and bound.layout.zero_stage[0] == 0 and bound.layout.sequence_parallel[0]


def test_offload_lets_more_fit_and_costs_time() -> None:
    without = task_of("llama-3.1-70b", 2048, 16, "megatron-core", tensor=[8], pipeline=[2], recompute=["full"])
    offered = task_of("llama-3.1-70b", 2048, 16, "megatron-core", offload=True, tensor=[8], pipeline=[2], recompute=["full"])
    machine = chip("a100-sxm-80gb")
    assert not search(without, machine, 16, HOST).found
    found = search(offered, machine, 16, HOST).found[0]
    assert found.offloaded
    cores = cores_of(16, offered.choices)
    every = strategies_of(cores, offered.choices, "bf16", 8)
    on_host = replace(every, offloaded=np.full(len(every), True))
    here = replace(every, offloaded=np.full(len(every), False))
    assert np.all(step_of(offered, machine, on_host, HOST).total > step_of(offered, machine, here, HOST).total)
    peak = memory_of(offered, machine, on_host).peak.m_as("GiB")
    assert np.all(peak < memory_of(offered, machine, here).peak.m_as("GiB"))
    assert not np.any(fits(offered, machine, on_host, Host(None, Q(25.0, "GB/s"), None)))


def test_a_smaller_optimizer_needs_less_memory() -> None:
    adam = task_of("llama-3.1-8b", 2048, 16, "megatron-core")
    lean = replace(adam, optimizer_bytes=Q(6.0, "byte"))
    machine = chip("a100-sxm-80gb")
    every = strategies_of(cores_of(8, adam.choices), adam.choices, "bf16", 8)
    assert np.all(memory_of(lean, machine, every).peak < memory_of(adam, machine, every).peak)
