"""Memory of a training step: published formulas with pencil numbers."""

from dataclasses import replace

import numpy as np
import pytest
from training_examples import A100, GPT3, JOB, LAYOUT, candidates

from models import training_memory as m
from models.training import FULL, NONE, SELECTIVE, Layouts, TrainingJob
from models.training_constants import stack
from zoo.units import Q


def test_zero_stages_by_hand():
    """One parameter on four ranks, 32-bit gradients: 18, 9, 6, 4 bytes (16-bit gradients at stage 0: the usual 16)."""
    each = [m.state_bytes(1, 4, stage, Q(4, "byte")).m_as("byte") for stage in (0, 1, 2, 3)]
    assert each == [18, 2 + 4 + 3, 2 + 1 + 3, 4]
    assert m.state_bytes(1, 4, 0, Q(2, "byte")).m_as("byte") == 16


def test_activations_of_a_gpt_layer_are_those_of_korthikanti():
    """s b h (34 + 5 a s / h) on one rank: s = 2048, b = 1, h = 12288, a = 96 gives 34 + 80 = 114 bytes per token and h."""
    tokens, hidden, heads = 2048, 12288, 96
    width = 2 * hidden + 2 * hidden + 2 * 4 * hidden  # queries and output, keys and values, MLP in and out
    arguments = (tokens, Q(2048, "token"), hidden, heads, width)
    alone = m.layer_activation_bytes(*arguments, 1, 0, 0, Q(5, "byte"))
    assert alone.m_as("byte") == pytest.approx(tokens * hidden * (34 + 5 * heads * 2048 / hidden))
    # tensor parallel 8: s b h (10 + 24/8 + 5 a s / (8 h)); with sequence parallelism (34 + 5 a s / h) / 8
    split = m.layer_activation_bytes(*arguments, 8, 0, 0, Q(5, "byte"))
    assert split.m_as("byte") == pytest.approx(tokens * hidden * (10 + 3 + 10))
    assert m.layer_activation_bytes(*arguments, 8, 1, 0, Q(5, "byte")).m_as("byte") == pytest.approx(tokens * hidden * 114 / 8)
    # FlashAttention keeps no scores
    assert m.layer_activation_bytes(*arguments, 1, 0, 1, Q(5, "byte")).m_as("byte") == pytest.approx(tokens * hidden * 34)


def test_inputs_and_logits_by_hand():
    """A recomputed layer keeps 2 T h; logits 10 T V."""
    assert m.layer_input_bytes(1000, 1000, 4, 0).m_as("byte") == 2e6
    assert m.layer_input_bytes(1000, 1000, 4, 1).m_as("byte") == 5e5
    assert m.logit_bytes(1000, 50000, 2).m_as("byte") == 2.5e8


def test_microbatches_in_flight_by_hand():
    """1F1B holds min(m, p); three chunks on eight stages 8 (1 + 7/24) = 10.33; without a pipeline one."""
    assert m.microbatches_in_flight(8, 32, 1) == 8
    assert m.microbatches_in_flight(8, 4, 1) == 4
    assert m.microbatches_in_flight(8, 32, 3) == pytest.approx(10 + 1 / 3)
    assert m.microbatches_in_flight(1, 32, 1) == 1


def memory(layouts: Layouts, job: TrainingJob = JOB) -> m.Memory:
    return m.memory(GPT3, A100, job, layouts, stack("megatron-core"))


def test_gpt3_on_64_ranks_by_hand():
    """Of 174.0e9 trunk weights 1/64, of 0.63e9 embedding 1/8: 2.797e9 parameters; 2 + 4 + 12/8 bytes each is 19.5 GiB."""
    states = memory(LAYOUT).parts["states"]
    assert states.m_as("GiB") == pytest.approx(2.797e9 * 7.5 / 2**30, rel=1e-3)


def test_verdicts():
    result = memory(LAYOUT)
    assert result.fits and not result.impossible
    alone = memory(replace(LAYOUT, tensor_parallel=1.0, pipeline_parallel=1.0, virtual_stages=1.0))
    assert alone.impossible and not alone.fits


def test_parts_sum_and_the_minimum_is_below_the_peak():
    result = memory(candidates(500))
    assert sum(part.m_as("byte") for part in result.parts.values()) == pytest.approx(result.peak.m_as("byte"), rel=1e-12)
    assert np.all(result.minimum.m_as("byte") <= result.peak.m_as("byte"))
    assert not np.any(result.fits & result.impossible)


def test_savers_save():
    layouts = candidates(300)
    none, selective, full = (memory(replace(layouts, recompute=mode)).peak.m_as("byte") for mode in (NONE, SELECTIVE, FULL))
    assert np.all(selective <= none)
    assert np.mean(full < none) > 0.9  # one stored layer more than inputs alone: not where a stage has one layer
    by_stage = [memory(replace(layouts, zero_stage=stage, fsdp=0)).parts["states"].m_as("byte") for stage in (0, 1, 2, 3)]
    for less, more in zip(by_stage[1:], by_stage, strict=False):
        assert np.all(less <= more * (1 + 1e-12))
    longer = memory(layouts, TrainingJob(Q(4096, "token"), 1536.0)).peak.m_as("byte")
    assert np.all(longer > memory(layouts).peak.m_as("byte"))


def test_userbuffers_by_hand_and_only_where_they_are():
    """4096 tokens x 8192 hidden are 2^25 elements: ten buffers of 2 bytes are 0.625 GiB; six of 1 byte and four of 2, 0.4375."""
    assert m.userbuffer_bytes(4096, 8192, Q(2, "byte")).m_as("GiB") == pytest.approx(0.625)
    assert m.userbuffer_bytes(4096, 8192, Q(1, "byte")).m_as("GiB") == pytest.approx(0.4375)
    for name, layout, there in (
        ("megatron-core", LAYOUT, True),
        ("megatron-core", replace(LAYOUT, tensor_overlap=False), False),
        (
            "megatron-core",
            replace(LAYOUT, tensor_parallel=1.0, data_parallel=LAYOUT.data_parallel * LAYOUT.tensor_parallel),
            False,
        ),
        ("megatron-lm", LAYOUT, False),
    ):
        assert (m.memory(GPT3, A100, JOB, layout, stack(name)).parts["buffers"].m_as("byte") > 0) == there


def test_experts_shared_by_hand():
    """64 ranks hold each expert, expert parallel over 4: all 64 share its states, or with hybrid sharding the two of a domain of
    eight; where expert parallelism fills the domain, none."""
    layout = Layouts(1.0, 1.0, 256.0, 1.0, "bf16", expert_parallel=4.0)
    assert m.sharing_expert_ranks(layout, 8.0, 64.0) == 64
    assert m.sharing_expert_ranks(replace(layout, hybrid_shard=True), 8.0, 64.0) == 2
    assert m.sharing_expert_ranks(replace(layout, hybrid_shard=True, expert_parallel=16.0), 8.0, 16.0) == 1
