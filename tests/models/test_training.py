"""The training step: every term against pencil arithmetic, the composition against its laws."""

from dataclasses import fields, replace

import numpy as np
import pytest
from training_examples import A100, GPT3, JOB, LAYOUT, candidates

from models import training as t
from models.dimensions import ImpossibleValue, UnknownValue
from models.training_constants import Setting, family_of, recipe_of, stack, training_constants
from zoo.specs import Accelerator, Transformer
from zoo.units import Q


def step(
    layouts: t.Layouts = LAYOUT, chip: Accelerator = A100, model: Transformer = GPT3, name: str = "megatron-core"
) -> t.StepTime:
    return t.step_time(model, chip, JOB, layouts, stack(name))


# ------------------------------------------------------------------------------------------------------------- terms


def test_gemm_by_hand():
    """2 x 1024 x 2048 x 4096 = 17.18 GFLOP at half of 100 TFLOP/s: 343.6 us, and 6 us to start."""
    arguments = {
        "element": Q(2, "byte"),
        "peak": Q(100, "TFLOP/s"),
        "efficiency": 0.5,
        "misaligned_slowdown": 1.1,
        "bandwidth": Q(2, "TB/s"),
        "start": Q(6, "us"),
    }
    plain = t.gemm_time(1024, 2048, 4096, half_dimension=0.0, **arguments)
    assert plain.m_as("us") == pytest.approx(343.597 + 6, rel=1e-4)
    # d0 = 1024: (1 + 1024/2048) (1 + 1024/1024) = 3 times the compute
    assert t.gemm_time(1024, 2048, 4096, half_dimension=1024.0, **arguments).m_as("us") == pytest.approx(
        3 * 343.597 + 6, rel=1e-4
    )
    # 2040 = 31.9 x 64 is misaligned: 1.1 times
    odd = t.gemm_time(1024, 2040, 4096, half_dimension=0.0, **arguments)
    assert odd.m_as("us") == pytest.approx(343.597 * 2040 / 2048 * 1.1 + 6, rel=1e-4)


def test_gemm_of_few_rows_takes_its_traffic():
    """One row: (2048 + 4096 + 2048 x 4096) x 2 byte = 16.79 MB at 2 TB/s is 8.39 us; compute would be 0.34 us."""
    time_ = t.gemm_time(1, 2048, 4096, Q(2, "byte"), Q(100, "TFLOP/s"), 0.5, 0.0, 1.0, Q(2, "TB/s"), Q(0, "s"))
    assert time_.m_as("us") == pytest.approx(8.395, rel=1e-3)


def test_attention_by_hand():
    """FlashAttention: 100 GFLOP at 0.4 of 250 TFLOP/s is 1 ms. Unfused: twice that, and 1e9 scores x 9 B at 1 TB/s are 9 ms."""
    operations, peak = Q(100, "GFLOP"), Q(250, "TFLOP/s")
    assert t.fused_attention_time(operations, peak, 0.4).m_as("ms") == pytest.approx(1.0)
    unfused = t.unfused_attention_time(operations, 1e9, peak, 0.4, Q(9, "byte"), Q(1, "TB/s"))
    assert unfused.m_as("ms") == pytest.approx(2.0 + 9.0)


def test_memory_bound_by_hand():
    """1000 tokens, h = 1000, w = 4000, t = 4: 20 MB replicated and 4 MB split at 1 GB/s; sequence parallel splits both."""
    arguments = (1000, 1000, 4000, 4)
    rest = (Q(20, "byte"), Q(1, "GB/s"))
    assert t.memory_bound_time(*arguments, 0, *rest).m_as("ms") == pytest.approx(20 + 4)
    assert t.memory_bound_time(*arguments, 1, *rest).m_as("ms") == pytest.approx(5 + 4)


def test_optimizer_by_hand():
    """1e9 parameters x 30 byte at 1.5 TB/s: 20 ms."""
    assert t.optimizer_time(1e9, Q(30, "byte"), Q(1.5, "TB/s")).m_as("ms") == pytest.approx(20)


def test_ring_bandwidth():
    """16 ranks, 8 to a node: eight ports of 25 GB/s carry the ring's edge, 200 GB/s; inside a node the link's 300."""
    link, network = Q(300, "GB/s"), Q(25, "GB/s")
    assert t.ring_bandwidth(8, 8, link, network).m_as("GB/s") == 300
    assert t.ring_bandwidth(16, 8, link, network).m_as("GB/s") == 200
    assert t.ring_bandwidth(16, 1, link, network).m_as("GB/s") == 25


def test_tensor_collective_by_hand():
    """All-reduce of 400 MB over 8 ranks at 350 GB/s: 2 x 7/8 x 400/350 = 2 ms, and one call of 40 us; nothing for one rank."""
    link, network, call = Q(350, "GB/s"), Q(25, "GB/s"), Q(40, "us")
    assert t.tensor_collective_time(Q(400, "MB"), 8, 8, link, network, call).m_as("ms") == pytest.approx(2.04)
    assert t.tensor_collective_time(Q(400, "MB"), 1, 8, link, network, call).m_as("ms") == 0


def test_context_ring_by_hand():
    """4 ranks pass 100 MB three times at 300 GB/s, 10 us each: 1.03 ms."""
    time_ = t.context_ring_time(Q(100, "MB"), 4, 8, Q(300, "GB/s"), Q(25, "GB/s"), Q(10, "us"))
    assert time_.m_as("ms") == pytest.approx(1.03)


def test_expert_all_to_all_by_hand():
    """Top-1 over 2 ranks leaves half the time; over 16 ranks in 2 nodes half of the tokens cross the network."""
    assert t.distinct_destinations(2, 1) == pytest.approx(0.5)
    assert t.distinct_destinations(1, 8) == 0
    # D(16, 1) = 15/16, D(2, 1) = 1/2: (7/16) / 100 + (1/2) / 10 of 1 GB, in s
    time_ = t.expert_all_to_all_time(Q(1, "GB"), 1, 16, 8, Q(100, "GB/s"), Q(10, "GB/s"), Q(0, "s"))
    assert time_.m_as("ms") == pytest.approx(4.375 + 50)


def test_reduction_by_hand():
    """4 GB of gradients and 2 GB of weights over 4 ranks of one node at 300 GB/s: 3/4 x 6/300 = 15 ms."""
    time_ = t.reduction_time(Q(4, "GB"), Q(2, "GB"), 4, 8, Q(300, "GB/s"), Q(25, "GB/s"))
    assert time_.m_as("ms") == pytest.approx(15)


def test_exposed_reduction_by_hand():
    """10 ms behind a window of 6 ms with 0.3 of it seen: 0.3 x 6 + 4 = 5.8 ms."""
    assert t.exposed_reduction(Q(10, "ms"), Q(6, "ms"), 0.3).m_as("ms") == pytest.approx(5.8)


def test_straggling_by_hand():
    """0.8 % per doubling beyond eight: 64 accelerators wait 2.4 % of a second longer, eight or fewer not at all."""
    assert t.straggling(64, Q(1, "s"), 0.008).m_as("ms") == pytest.approx(24)
    assert t.straggling(4, Q(1, "s"), 0.008).m_as("ms") == 0


# ------------------------------------------------------------------------------------------------------------- shape


def test_shape_of_gpt3_counts_its_parameters():
    """12 L h^2 + V h = 12 x 96 x 12288^2 + 51200 x 12288 = 174.6e9."""
    shape = t.shape_of(GPT3, JOB.sequence_length)
    assert shape.trunk_parameters + shape.embedding_parameters == pytest.approx(12 * 96 * 12288**2 + 51200 * 12288)
    # causal attention: 4 x 96 layers x 12288 x 2048 x 2049 / 2
    assert shape.attention_operations.m_as("flop") == pytest.approx(4 * 96 * 12288 * 2048 * 2049 / 2)


def test_shape_of_a_mixture(mixtral):
    shape = t.shape_of(mixtral, JOB.sequence_length)
    assert shape.expert_share == 1 and shape.dense_share == 0 and shape.latent_share == 1
    assert shape.expert_parameters == pytest.approx(32 * 8 * 3 * 4096 * 14336, rel=0.01)


def test_narrow_experts_are_seen_in_the_published_total(mixtral):
    narrow = t.shape_of(replace(mixtral, parameters=mixtral.parameters / 3), JOB.sequence_length)
    assert 0.1 <= narrow.latent_share < 0.55


def test_unknown_figures_are_errors(llama8b):
    with pytest.raises(UnknownValue, match="ffn_hidden of Llama"):
        t.shape_of(replace(llama8b, ffn_hidden=None), JOB.sequence_length)
    with pytest.raises(UnknownValue, match="no fp8 rate"):
        step(replace(LAYOUT, precision="fp8"))
    with pytest.raises(UnknownValue, match="precision 'fp7'"):
        step(replace(LAYOUT, precision="fp7"))
    with pytest.raises(UnknownValue, match="nic_bandwidth"):
        step(chip=replace(A100, nic_bandwidth=None))
    with pytest.raises(UnknownValue, match="link_bandwidth"):
        step(chip=replace(A100, link_bandwidth=None))


def test_a_chip_without_network_is_timed_inside_its_domain():
    inside = t.Layouts(8.0, 1.0, 1.0, 1.0, "bf16", recompute=t.FULL)
    assert step(inside, replace(A100, nic_bandwidth=None)).total == step(inside).total


def test_a_microbatch_larger_than_a_replica_is_impossible():
    with pytest.raises(ImpossibleValue, match="microbatch"):
        step(replace(LAYOUT, microbatch=1024.0))


# ------------------------------------------------------------------------------------------------------- composition


def one(layouts: t.Layouts, index: int) -> t.Layouts:
    changes = {f.name: float(v[index]) for f in fields(layouts) if isinstance(v := getattr(layouts, f.name), np.ndarray)}
    return replace(layouts, **changes)


@pytest.mark.parametrize("name", ["megatron-core", "megatron-lm", "torchtitan"])
def test_arrays_equal_scalars(name):
    layouts = candidates(12)
    many = step(layouts, name=name)
    for index in range(12):
        single = step(one(layouts, index), name=name)
        assert many.total.m_as("s")[index] == pytest.approx(single.total.m_as("s"), rel=1e-12)
        assert many.low.m_as("s")[index] == pytest.approx(single.low.m_as("s"), rel=1e-12)


def test_arrays_of_experts_equal_scalars(mixtral):
    layouts = replace(candidates(8), expert_parallel=np.array([1.0, 2, 4, 8, 1, 2, 4, 8]))
    many = step(layouts, model=mixtral, name="nemo")
    for index in range(8):
        assert many.total.m_as("s")[index] == pytest.approx(
            step(one(layouts, index), model=mixtral, name="nemo").total.m_as("s"), rel=1e-12
        )


def test_precisions_mix_in_one_call():
    h100 = replace(A100, name="h100-sxm", peak={"bf16": Q(989, "TFLOP/s"), "fp8": Q(1979, "TFLOP/s")})
    mixed = step(replace(LAYOUT, precision=np.array(["fp8", "bf16"])), h100).total.m_as("s")
    alone = [step(replace(LAYOUT, precision=p), h100).total.m_as("s") for p in ("fp8", "bf16")]
    assert mixed == pytest.approx(alone, rel=1e-12)
    assert mixed[0] < mixed[1]


def test_parts_and_walls_sum_to_the_total(mixtral):
    for result in (step(candidates(200)), step(candidates(200), model=mixtral)):
        total = result.total.m_as("s")
        assert sum(part.m_as("s") for part in result.parts.values()) == pytest.approx(total, rel=1e-12)
        assert sum(wall.m_as("s") for wall in result.walls.values()) == pytest.approx(total, rel=1e-12)
        assert set(result.walls) == {"compute", "memory_bound", "communication", "bubble", "stragglers", "fixed"}
        assert all(np.min(part.m_as("s")) >= -1e-12 for part in result.parts.values())
        assert np.all(result.low.m_as("s") < total) and np.all(result.high.m_as("s") > total)


@pytest.mark.parametrize("figure", ["peak", "memory_bandwidth", "link_bandwidth", "nic_bandwidth"])
def test_a_better_chip_is_never_slower(figure, mixtral):
    value = getattr(A100, figure)
    better = replace(A100, **{figure: {k: 1.5 * v for k, v in value.items()} if figure == "peak" else 1.5 * value})
    for model in (GPT3, mixtral):
        before, after = (step(candidates(500), chip, model).total.m_as("s") for chip in (A100, better))
        assert np.all(after <= before * (1 + 1e-12))
        assert np.any(after < before)


def test_recompute_costs_time():
    none, selective, full = (step(replace(candidates(300), recompute=mode)).total.m_as("s") for mode in (0, 1, 2))
    assert np.all(none < selective) and np.all(selective < full)


def test_full_recompute_repeats_one_forward_of_three():
    """Forward is a third of forward and backward: recompute adds about a third of the matrix products' time."""
    result = step()
    again = result.parts["recompute"] / (result.parts["gemm"] + result.parts["attention"])
    assert 0.3 < again.m_as("") < 0.45


def test_interleaving_divides_the_bubble():
    """(p - 1)/v microbatch slots: 95 layers do not divide by 8, so nothing waits for the stage with the logits."""
    model = replace(GPT3, layers=95, kv_layers=95)
    chunks = replace(LAYOUT, virtual_stages=np.array([1.0, 2.0, 4.0]), pipeline_parallel=8.0)
    result = t.step_time(model, replace(A100, nic_bandwidth=Q(1e9, "Gb/s")), JOB, chunks, stack("megatron-core"))
    idle = result.parts["bubble"].m_as("s")
    assert (idle[0] - idle[1]) / (idle[1] - idle[2]) == pytest.approx(2.0, rel=0.02)
    assert idle[0] == pytest.approx(4 * idle[2], rel=0.02)  # nothing in it but the bubble
    assert np.all(result.parts["stragglers"].m_as("s") > 0)


def test_one_accelerator_communicates_with_nobody(llama8b):
    alone = step(t.Layouts(1.0, 1.0, 1.0, 1.0, "bf16", recompute=t.FULL), model=llama8b)
    assert alone.walls["communication"].m_as("s") == 0
    assert alone.parts["bubble"].m_as("s") == 0


# --------------------------------------------------------------------------------------------------------- constants


def test_a_measured_setting_inherits_nothing_and_an_unmeasured_one_says_so_and_is_wider():
    measured = t.step_time(replace(GPT3, name="gpt-3-175b"), A100, JOB, LAYOUT, stack("megatron-lm"))
    assert measured.notes == ()
    elsewhere = step(chip=replace(A100, name="mi300x"), name="habana")
    assert any("chip mi300x has no measured row" in note for note in elsewhere.notes)
    assert any("stack habana has no measured row" in note for note in elsewhere.notes)
    spread = [(r.high / r.low).m_as("") for r in (measured, elsewhere)]
    assert spread[1] > spread[0] ** 1.5


@pytest.mark.parametrize(
    ("chip", "family"),
    [("h200-sxm", "Hopper"), ("gh200", "GH200"), ("gb300", "Blackwell"), ("tpu-v6e", "TPU"), ("mi300x", "other")],
)
def test_families(chip, family):
    assert family_of(chip) == family


def test_every_key_resolves():
    settings = [
        Setting(stack(name), chip, precision, moe, sharded)
        for name in ("megatron-lm", "nemo", "habana") for chip in ("a100-sxm-80gb", "gaudi2", "tpu-v7")
        for precision in ("bf16", "nvfp4") for moe in (False, True) for sharded in (False, True)
    ]  # fmt: skip
    for name, values in training_constants().resolve(settings).items():
        magnitude = values.magnitude if hasattr(values, "magnitude") else values
        assert np.all(np.isfinite(magnitude) & (magnitude > 0)), name
    assert recipe_of("mxfp8") == (8, "fp8")


def test_unknown_stack_is_an_error_with_a_suggestion():
    with pytest.raises(UnknownValue, match="megatron-core"):
        stack("megatron-cor")
