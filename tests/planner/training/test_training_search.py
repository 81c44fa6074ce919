"""The search against full enumeration, and against a brute force that shares nothing with it but the forward model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

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
    least_memory,
    machine_bound,
    memory_of,
    search,
    step_of,
)
from zoo.catalog import load
from zoo.specs import Accelerator, Transformer
from zoo.units import Q

CATALOG = load()
HOST = Host(Q(25.0, "GB/s"), Q(25.0, "GB/s"), Q(100.0, "GiB"))


def task_of(
    model: str,
    sequence: int,
    batch: int,
    software: str,
    formats: tuple[str, ...] = ("bf16",),
    offload: tuple[str, ...] = (),
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


def lopsided(layers: int = 10, vocab: int = 256_000) -> Transformer:
    """A small model whose logits weigh several layers, so that its pipeline is better uneven."""
    base: Transformer = CATALOG.find("models", "llama-3.1-8b")
    body = layers * (4 * 2048**2 + 3 * 2048 * 5632)
    total = float(body + 2 * vocab * 2048)
    return replace(
        base, name="lopsided", aliases=(), layers=layers, kv_layers=layers, hidden=2048, heads=16, kv_heads=16, head_dim=128,
        vocab=vocab, ffn_hidden=5632, parameters=total, active_parameters=total,
    )  # fmt: skip


def task_for(
    model: Transformer, sequence: int, batch: int, software: str, offload: tuple[str, ...] = (), **narrowed: object
) -> Task:
    choices = choices_of(model, sequence, batch, ways_of(software), TrainParallelism.model_validate(narrowed), offload)
    return Task(
        model, TrainingJob(Q(float(sequence), "token"), float(batch)), stack(software), ("bf16",), choices, training_constants(),
        Q(12.0, "byte"), True,
    )  # fmt: skip


@pytest.mark.parametrize("memory", [80.0, 14.0])
def test_brute_force_over_uneven_stages_and_overlap_finds_nothing_better(memory: float) -> None:
    """Every integer for every degree and for the layers of the fullest stage, each overlap on and off; times and memory by the
    forward model, and the slowest stage by hand. With little memory, buffers and fuller stages must give way."""
    count, batch, layers = 8, 16, 10
    model = lopsided(layers)
    task = task_for(model, 4096, batch, "megatron-core", sharding=["none", "zero1"], context=1)
    accelerator = replace(chip("h100-sxm"), memory=Q(memory, "GiB"))
    rows = [
        (t, p, count // (t * p), micro, v, f, split, zero, mode, hidden)
        for t, p, micro, v, f, split, zero, mode, hidden in itertools.product(
            (1, 2, 4, 8), (1, 2, 4, 8), range(1, batch + 1), range(1, layers + 1), range(1, 2 * layers), (False, True), (0, 1),
            (training.NONE, training.SELECTIVE, training.FULL), (False, True),
        )
        if count % (t * p) == 0 and (t > 1 or (not split and hidden)) and (split or not hidden or t == 1)
        and batch % (count // (t * p) * micro) == 0 and f % v == 0 and p * f >= layers and (zero == 0 or count // (t * p) > 1)
        and ((p == 1 and v == 1 and f == layers) or (p > 1 and (p - 1) * f <= 2 * layers))
        and (v == 1 or batch // (count // (t * p)) // micro % p == 0)
    ]  # fmt: skip
    t, p, d, micro, v, f, split, zero, mode, hidden = np.array(rows).T
    layouts = Layouts(
        *(x.astype(float) for x in (t, p, d, micro)), "bf16", virtual_stages=v.astype(float), sequence_parallel=split == 1,
        recompute=mode, zero_stage=zero, tensor_overlap=hidden == 1, stage_layers=f.astype(float),
    )  # fmt: skip
    step = training.step_time(model, accelerator, task.job, layouts, task.stack)
    logits = model.vocab * model.hidden / ((model.parameters - 2 * model.vocab * model.hidden) / layers)
    spare = p * f - layers
    slowest = np.where(spare > 0, f + np.maximum(logits - spare, 0), f)  # even stages: the model adds the logits itself
    names = ("gemm", "attention", "memory_bound", "recompute", "layer_start", "tensor_parallel", "context_parallel",
             "expert_parallel", "bubble", "stragglers")  # fmt: skip
    grows = sum(np.asarray(step.parts[name].m_as("s")) for name in names)
    time = (step.total.m_as("s") + grows * (slowest * p / layers - 1)) * (step.high / step.total).m_as("")
    held = training_memory.memory(model, accelerator, task.job, layouts, task.stack)
    parts = {
        name: part.m_as("GiB") * (f * p / layers if name in ("states", "activations") else 1) for name, part in held.parts.items()
    }
    fitting = sum(np.broadcast_to(part, len(rows)) for part in parts.values()) <= memory
    found = search(task, accelerator, count, HOST, top=3).found
    assert found[0].ranked == pytest.approx(time[fitting].min(), rel=1e-9)
    best = found[0].layout
    if memory == 80.0:
        assert best.pipeline_parallel[0] * best.stage_layers[0] >= layers
    pipelined = search(
        replace(task, choices=replace(task.choices, narrowed=TrainParallelism(pipeline=(4,)))), accelerator, 8, HOST
    )
    if pipelined.found:  # ten layers on four stages: logits of five layers leave the last one with few
        assert pipelined.found[0].layout.stage_layers[0] > 3


def random_task(seed: int) -> tuple[Task, Accelerator, int]:
    """A small random world: odd numbers of layers, small and large vocabularies, slow and fast links, scarce memory."""
    random = np.random.default_rng(seed)

    def one_of(*values: Any) -> Any:
        return values[random.integers(len(values))]

    layers, heads, count = one_of(7, 10, 12, 18, 24), one_of(6, 8, 12), one_of(6, 8, 12, 16, 24)
    base = lopsided(layers, one_of(8_000, 64_000, 256_000))
    hidden = 128 * heads * one_of(1, 2)
    total = float(layers * (4 * hidden**2 + 3 * hidden * 4 * hidden) + 2 * base.vocab * hidden)
    model = replace(
        base, hidden=hidden, heads=heads, kv_heads=heads, head_dim=hidden // heads, ffn_hidden=4 * hidden, parameters=total,
        active_parameters=total,
    )  # fmt: skip
    software = one_of("megatron-core", "nemo", "torchtitan", "fsdp", "megatron-lm", "maxtext-gpu", "llama3")
    offload = one_of((), (), ("optimizer",), ("optimizer", "activations"))
    offload = offload if ways_of(software).activation_offload else offload[:1]
    task = task_for(model, one_of(2048, 4096), one_of(24, 48), software, offload)
    task = replace(task, pessimistic=bool(random.integers(2)), slowdown=one_of(1.0, 1.0, 2.5))
    machine = chip(one_of("a100-sxm-80gb", "h100-sxm"))
    assert machine.link_bandwidth is not None and machine.nic_bandwidth is not None
    machine = replace(
        machine, memory=Q(float(one_of(12, 16, 24, 80)), "GiB"), link_bandwidth=machine.link_bandwidth * one_of(0.1, 1.0),
        nic_bandwidth=machine.nic_bandwidth * one_of(0.1, 1.0), scale_up_domain=one_of(4, 8),
    )  # fmt: skip
    return task, machine, count


@pytest.mark.parametrize("seed", range(24))
def test_pruned_search_finds_what_full_enumeration_finds_in_random_worlds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    task, machine, count = random_task(seed)
    monkeypatch.setattr("planner.training.search._BATCH", 256)  # so that bounds have something to discard
    pruned = search(task, machine, count, HOST, top=5)
    full = search(task, machine, count, HOST, top=5, prune=False)
    assert [f.ranked for f in pruned.found] == pytest.approx([f.ranked for f in full.found], rel=1e-12)
    cores = cores_of(count, task.choices)
    every = strategies_of(cores, task.choices, "bf16", machine.scale_up_domain)
    exact = step_of(task, machine, every, HOST).ranked(task.pessimistic)
    assert np.all(core_bound(task, machine, cores, "bf16")[every.core] <= exact)
    assert machine_bound(task, machine, count, floor_of(task, machine, "bf16")) <= exact.min()


def test_overlap_never_takes_longer_and_never_needs_less_memory() -> None:
    task, machine = task_of("llama-3.1-8b", 4096, 64, "nemo"), chip("h100-sxm")
    every = strategies_of(cores_of(32, task.choices), task.choices, "bf16", 8)
    split = np.asarray(every.layouts.sequence_parallel) & (np.asarray(every.layouts.tensor_parallel) > 1)
    for name, where in (("tensor_overlap", split), ("data_overlap", np.asarray(every.layouts.data_parallel) > 1)):
        shown, hidden = (
            replace(every, layouts=replace(every.layouts, **{name: np.full(len(every), on)})) for on in (False, True)
        )
        slow, fast = step_of(task, machine, shown, HOST), step_of(task, machine, hidden, HOST)
        assert np.all(slow.total[where] >= fast.total[where] * (1 - 1e-12)) and np.any(slow.total > fast.total * 1.001)
        less, more = (memory_of(task, machine, each).peak.m_as("GiB") for each in (shown, hidden))
        assert np.all(more >= less) and np.any(more > less)


def test_activation_offload_needs_host_memory_and_frees_the_accelerator() -> None:
    task = task_of("llama-3.1-8b", 4096, 64, "nemo", offload=("optimizer", "activations"), pipeline=1, recompute=["none"])
    machine = chip("a100-sxm-40gb")
    every = strategies_of(cores_of(16, task.choices), task.choices, "bf16", 8)
    away = every.activations_offloaded
    assert np.any(away) and not np.any(away & (np.asarray(every.layouts.recompute) != training.NONE))
    there = replace(every, activations_offloaded=np.full(len(every), False))
    assert np.all(memory_of(task, machine, every).peak[away] < memory_of(task, machine, there).peak[away])
    assert np.all(step_of(task, machine, every, HOST).total[away] >= step_of(task, machine, there, HOST).total[away])
    assert not np.any(fits(task, machine, every, replace(HOST, memory=Q(0.1, "GiB"))) & away)


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
        least = least_memory(task, count).m_as("GiB")
        assert 0 < least <= memory_of(task, machine, every).peak.m_as("GiB").min()
        assert int(count_of(cores, task.choices, machine.scale_up_domain).sum()) == len(every)


def test_no_bound_of_memory_exceeds_what_a_layout_needs_that_keeps_states_on_the_host() -> None:
    """16-bit weights and gradients of 8 G parameters, one of two tables apart, over 16 chips; and the reserve, by hand."""
    task = replace(task_of("llama-3.1-8b", 4096, 64, "fsdp", offload=("optimizer",)), optimizer_bytes=Q(8.0, "byte"))
    machine, cores = chip("h100-sxm"), cores_of(16, task.choices)
    every = strategies_of(cores, task.choices, "bf16", machine.scale_up_domain)
    peak = memory_of(task, machine, every).peak.m_as("GiB")
    least, reserve = least_memory(task, 16).m_as("GiB"), task.constants.memory["reserve"].value
    assert every.offloaded.any() and least <= peak.min()
    assert least == pytest.approx(4 * (8.03e9 - 128256 * 4096) / 16 / 2**30 + reserve, rel=1e-3)


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
    offered = task_of(
        "llama-3.1-70b", 2048, 16, "megatron-core", offload=("optimizer",), tensor=[8], pipeline=[2], recompute=["full"]
    )
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
