"""The architecture's solvers: recognisable by name, composed of walls, and chained as the architecture chains them."""

import math

import numpy as np
import pytest

from models import fleet, node, operations, solvers, wall
from models.dimensions import UnknownValue
from zoo.units import Q

IDEAL = solvers.Software(1.0, 1.0, math.inf, Q(0.0, "s"))
REAL = solvers.Software(0.6, 0.8, 3.0, Q(0.5, "ms"))
YEARS = Q(4.0, "yr")


def tokens(value):
    return Q(value, "token")


def test_every_solver_of_the_table_has_its_function():
    def snake(name):
        words = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_")
        return words.removesuffix("_model").removesuffix("_solver")

    for entry in wall.WALLS:
        assert callable(getattr(solvers, snake(entry.solver))), entry.solver


def test_single_node_decodes_one_token_at_memory_speed(llama8b, h100):
    """15 GB at 3.35 TB/s: 4.5 ms."""
    profile = solvers.single_node(llama8b, h100, "bf16", 1, IDEAL)
    assert profile.time.m_as("ms") == pytest.approx(4.48, abs=0.01)
    assert profile.bound == "memory" and bool(profile.fits)
    assert profile.intensity < profile.ridge_point


def test_single_node_sweeps_batches(llama8b, h100):
    profile = solvers.single_node(llama8b, h100, "bf16", np.array([1.0, 64.0, 8192.0]), REAL)
    assert list(profile.bound) == ["memory", "memory", "compute"]
    assert np.all(np.diff(profile.throughput.m_as("1/s")) > 0)
    assert np.all(profile.model_flops_utilisation < 0.6)


def test_int4_weights_multiply_at_the_bf16_peak(llama8b, h100):
    wide, narrow = (solvers.single_node(llama8b, h100, p, 1, IDEAL) for p in ("bf16", "int4"))
    assert narrow.compute_time == wide.compute_time
    assert (wide.memory_time / narrow.memory_time).m_as("") == pytest.approx(16 / 4.125, rel=1e-3)


def test_a_peak_that_the_chip_does_not_have_is_unknown(llama8b, h100):
    with pytest.raises(UnknownValue, match="int8"):
        solvers.single_node(llama8b, h100, "int8", 1, IDEAL)


def test_serving_and_batching_agree_on_memory(llama8b, h100):
    fits = solvers.continuous_batching(llama8b, h100, "bf16", "bf16", tokens(4096.0), tokens(16.0), Q(0.0, "GB"))
    inside, beyond = (
        solvers.serving(llama8b, h100, "bf16", "bf16", batch, tokens(2048.0), tokens(4096.0), REAL)
        for batch in (fits.largest_batch, fits.largest_batch + 1)
    )
    assert inside.fits and not beyond.fits
    assert fits.fragmentation == 0.0
    assert inside.time_to_first_token > inside.inter_token_time


def test_streaming_balances_where_it_says(llama8b):
    rest = tokens(512.0), tokens(1.0), Q(1.0, "TB/s"), Q(100.0, "TFLOP/s"), 0.5
    balanced = solvers.weight_streaming(llama8b, "bf16", 1, *rest).balanced_batch
    result = solvers.weight_streaming(llama8b, "bf16", balanced, *rest)
    assert result.inject_time.m_as("s") == pytest.approx(result.compute_time.m_as("s"))


def test_streamed_prefill_computes_while_decode_waits_for_weights(llama8b):
    """2 x 7.5e9 x 512 operations at 50 TFLOP/s: 0.15 s of computing in 32 layers, against 0.5 ms to stream one."""
    rest = tokens(512.0), tokens(1.0), Q(1.0, "TB/s"), Q(100.0, "TFLOP/s"), 0.5
    result = solvers.weight_streaming(llama8b, "bf16", 1, *rest)
    assert result.prefill_compute_time > result.inject_time > result.compute_time
    prefill = node.prefill_operations(llama8b, tokens(512.0), tokens(0.0)).m_as("flop") / 50e12
    assert result.time_to_first_token.m_as("s") == pytest.approx(prefill + result.inject_time.m_as("s"))
    assert result.time.m_as("s") == pytest.approx(32 * result.inject_time.m_as("s"))


def test_tail_latency_of_an_idle_pool_is_its_service():
    result = solvers.tail_latency(Q(1e-6, "1/s"), Q(1.0, "s"), 10, 0.99)
    assert result.sojourn.m_as("s") == pytest.approx(math.log(100), rel=1e-6)
    assert result.utilisation == pytest.approx(1e-7)


def test_data_transformation_and_topology():
    read = solvers.data(Q(1000.0, "1/s"), Q(1.0, "MB"), 10, Q(1.0, "GB/s"), Q(2.0, "GB/s"))
    assert read.ratio == pytest.approx(0.5)
    assert solvers.transformation(100, Q(1.0, "MB"), 10, Q(20.0, "MB/s"), Q(1.0, "s")).fed_fraction == 1.0
    net = solvers.topology(Q(50.0, "GB/s"), "torus-2d", 256, 1.0)
    assert net.bisection_bandwidth.m_as("GB/s") == pytest.approx(50 * 2 * 16)


def test_compression_and_inference_scaling():
    small = solvers.compression(70e9, "bf16", "int4")
    assert small.ratio == pytest.approx(16 / 4.125) and small.quality.high > 0
    thought = solvers.inference_scaling(tokens(100.0), 10, tokens(0.0), Q(10.0, "ms"), Q(0.0, "s/token"), 0.2, -0.2)
    assert thought.time.m_as("s") == pytest.approx(1.0) and thought.tokens.m_as("token") == 1000
    assert thought.coverage > 0.2


def test_orchestration_reads_its_limit():
    result = solvers.orchestration(Q(0.4, "1/h"), Q(2.0, "h"), 0.0, Q(4.0, "h"))
    assert result.wait.m_as("h") == pytest.approx(4.0)
    assert result.utilisation == pytest.approx(result.utilisation_limit)


def test_checkpoint_and_responsible_engineering():
    saved = solvers.checkpoint(70e9, "bf16", "adamw", 16, Q(5.0, "GB/s"), Q(49.0, "GB/s"), Q(1000.0, "s"))
    assert saved.penalty == pytest.approx(0.02)
    safe = solvers.responsible_engineering(Q(1e20, "flop"), 1.26, 1e-5, 0.01, 10000, 2.3, 100, 0.01, 0.95)
    assert safe.noise_multiplier == pytest.approx(4.0, rel=0.005)
    assert safe.operations.m_as("flop") == pytest.approx(2.3e20) and safe.samples > 10000


def test_synthesis_fed_into_serving_gives_the_target(llama8b, h100):
    import dataclasses

    target = Q(8.0, "ms")
    needed = solvers.synthesis(llama8b, "bf16", "bf16", 16, tokens(2000.0), target, h100, REAL, 0.9)
    for changed in (
        dataclasses.replace(h100, memory_bandwidth=needed.bandwidth),
        dataclasses.replace(h100, peak={"bf16": needed.peak}),
    ):
        again = solvers.serving(llama8b, changed, "bf16", "bf16", 16, tokens(10.0), tokens(2000.0), REAL)
        assert again.inter_token_time.m_as("ms") == pytest.approx(8.0, rel=1e-9)


def test_the_architectures_chain_runs_as_written(cluster, quebec):
    """scaling -> distributed -> economics -> sustainability: each takes what the one before returned."""
    scaled = solvers.scaling(Q(1e23, "flop"), 20, "epoch")
    run = solvers.distributed(scaled, cluster, "bf16", 0.5, tokens(4e6), 8, 1, 8, 48, 8192)
    cost = solvers.economics(run, cluster, quebec, 0.95, 0.9, 0.13, YEARS, 0.1, Q(0.05, "1/yr"))
    footprint = solvers.sustainability(cost, cluster, quebec, YEARS, Q(0.0, "L/kWh"))

    # every step again with a pencil, from the results of the step before
    compute = 1e23 / (512 * 989e12 * 0.5)
    steps = (scaled.tokens / tokens(4e6)).m_as("")
    assert run.compute_time.m_as("s") * steps == pytest.approx(compute, rel=1e-9)
    assert run.step_time.m_as("s") == pytest.approx((run.compute_time + run.communication_time).m_as("s"))
    assert run.model_flops_utilisation < 0.5
    hours = run.duration.m_as("h") / 0.95
    power = 512 * 700 * (0.13 + 0.87 * 0.9 + 0.451 / 0.549)
    assert cost.it_energy.m_as("Wh") == pytest.approx(power * hours)
    assert cost.electricity.m_as("USD") == pytest.approx(power * hours / 1000 * 1.2 * 0.05)
    assert cost.total.m_as("USD") == pytest.approx((cost.capital + cost.electricity + cost.maintenance).m_as("USD"))
    used = power * hours / 1000 * 1.2 * 30
    made = 164e3 * 512 * hours / (4 * 8766)
    assert footprint.carbon.m_as("gCO2e") == pytest.approx(used + made)
    assert footprint.water.m_as("L") == pytest.approx(power * hours / 1000 * 0.2)


def test_distributed_communication_is_its_collectives(cluster):
    scaled = solvers.scaling(Q(1e23, "flop"), 20, "hoffmann")
    run = solvers.distributed(scaled, cluster, "bf16", 0.5, tokens(4e6), 1, 1, 1, 48, 8192)
    gradient = fleet.hierarchical_all_reduce(
        node.weight_bytes(scaled.parameters, Q(2.0, "byte")), 8, 64, Q(450.0, "GB/s"), Q(1.0, "us"), Q(50.0, "GB/s"), Q(5.0, "us")
    )
    assert run.communication_time.m_as("s") == pytest.approx(gradient.m_as("s"))


def test_reliability_uses_its_own_best_interval():
    kept = solvers.reliability(16384, Q(50676.0, "h"), Q(60.0, "s"), Q(10.0, "min"), Q(54.0, "day"))
    assert kept.mtbf.m_as("h") == pytest.approx(3.093, abs=1e-3)
    assert kept.goodput == fleet.goodput(kept.interval, Q(60.0, "s"), Q(600.0, "s"), kept.mtbf)
    assert 0.85 < kept.goodput < 0.92
    assert kept.failures == pytest.approx(419 / kept.goodput, rel=1e-3)


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_unknown_precision_falls_to_another_peak(llama8b, h100):
    with pytest.raises(UnknownValue):
        solvers.single_node(llama8b, h100, "fp64", 1, IDEAL)


def test_fault_goodput_does_not_reach_cost(cluster, quebec):
    scaled = solvers.scaling(Q(1e22, "flop"), 20, "epoch")
    run = solvers.distributed(scaled, cluster, "bf16", 0.5, tokens(4e6), 1, 1, 1, 32, 4096)

    def total(goodput):
        return solvers.economics(run, cluster, quebec, goodput, 0.9, 0.13, YEARS, 0.1, Q(0.05, "1/yr")).total.m_as("USD")

    assert total(0.8) == pytest.approx(total(1.0) / 0.8)


def test_fault_a_region_without_figures_gets_averages(cluster, quebec):
    import dataclasses

    scaled = solvers.scaling(Q(1e22, "flop"), 20, "epoch")
    run = solvers.distributed(scaled, cluster, "bf16", 0.5, tokens(4e6), 1, 1, 1, 32, 4096)
    rest = (0.9, 0.9, 0.13, YEARS, 0.1, Q(0.05, "1/yr"))
    for missing in ("pue", "electricity_price"):
        with pytest.raises(UnknownValue, match="aws/ca-central-1"):
            solvers.economics(run, cluster, dataclasses.replace(quebec, **{missing: None}), *rest)
    cost = solvers.economics(run, cluster, quebec, *rest)
    assert solvers.sustainability(cost, cluster, dataclasses.replace(quebec, wue=None), YEARS, Q(0.0, "L/Wh")).water is None
    for method in ("marginal", "market"):
        with pytest.raises(UnknownValue, match=f"{method} carbon intensity of CA-QC"):
            solvers.sustainability(cost, cluster, quebec, YEARS, Q(0.0, "L/Wh"), method=method)


def test_fault_embodied_and_idle_are_constants_of_the_code():
    idle = operations.published_idle_fraction()
    assert idle.low < idle.typical < idle.high and "arXiv" in idle.source
