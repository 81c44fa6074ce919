"""Walls 11 to 13 against pencil, published values, brute force and scipy."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from models import algorithm
from models.constants import row
from models.dimensions import ImpossibleValue, UnknownValue
from zoo.units import Q, UnitError

CHINCHILLA = Q(5.76e23, "flop")


def tokens(value):
    return Q(value, "token")


# ----------------------------------------------------------------------------------------------------------- wall 11


def test_chinchilla_itself():
    """5.76e23 FLOP: about 70 billion parameters and 1.4 trillion tokens."""
    assert algorithm.optimal_parameters(CHINCHILLA, 20) == pytest.approx(70e9, rel=0.02)
    assert algorithm.optimal_tokens(CHINCHILLA, 20).m_as("token") == pytest.approx(1.4e12, rel=0.02)


@given(st.floats(1e18, 1e27), st.floats(1, 1000))
def test_optimal_split_spends_the_whole_budget(budget, ratio):
    size, data = algorithm.optimal_parameters(Q(budget, "flop"), ratio), algorithm.optimal_tokens(Q(budget, "flop"), ratio)
    assert algorithm.training_operations(size, data).m_as("flop") == pytest.approx(budget)


@pytest.mark.parametrize("name", ["hoffmann", "epoch"])
def test_loss_optimal_size_equals_scipys_minimum(name):
    law = algorithm.scaling_law(name)

    def loss(log_size):
        size = math.exp(log_size)
        return algorithm.training_loss(law, size, tokens(5.76e23 / 6 / size))

    best = optimize.minimize_scalar(loss, bounds=(15, 32), method="bounded", options={"xatol": 1e-9})
    assert algorithm.loss_optimal_parameters(law, CHINCHILLA) == pytest.approx(math.exp(best.x), rel=1e-3)


def test_replication_agrees_with_twenty_tokens_per_parameter_and_the_printed_fit_does_not():
    """Besiroglu et al.: the corrected fit is consistent with about 20 tokens per parameter at Chinchilla's budget."""

    def ratio(name):
        size = algorithm.loss_optimal_parameters(algorithm.scaling_law(name), CHINCHILLA)
        return 5.76e23 / 6 / size / size

    assert 15 < ratio("epoch") < 25
    assert ratio("hoffmann") > 60


def test_inference_aware_size_equals_scipys_minimum():
    law = algorithm.scaling_law("epoch")
    loss, used = 2.0, 5e12

    def work(log_size):
        size = math.exp(log_size)
        return 6 * size * algorithm.tokens_for_loss(law, loss, size).m_as("token") + 2 * size * used

    floor = (law.A / (loss - law.E)) ** (1 / law.alpha)
    best = optimize.minimize_scalar(work, bounds=(math.log(floor * 1.001), 35), method="bounded", options={"xatol": 1e-10})
    assert algorithm.inference_aware_parameters(law, loss, tokens(used)) == pytest.approx(math.exp(best.x), rel=1e-3)


def test_more_inference_wants_smaller_models_trained_for_longer():
    law = algorithm.scaling_law("epoch")
    sizes = algorithm.inference_aware_parameters(law, 2.1, tokens(np.array([0.0, 1e12, 1e14])))
    assert np.all(np.diff(sizes) < 0)
    assert np.all(np.diff(algorithm.tokens_for_loss(law, 2.1, sizes).m_as("token")) > 0)


def test_without_inference_the_size_is_the_compute_optimal_one():
    law = algorithm.scaling_law("hoffmann")
    size = algorithm.loss_optimal_parameters(law, CHINCHILLA)
    loss = algorithm.training_loss(law, size, tokens(5.76e23 / 6 / size))
    assert algorithm.inference_aware_parameters(law, loss, tokens(0.0)) == pytest.approx(size, rel=1e-6)


def test_a_loss_below_the_floor_is_impossible():
    law = algorithm.scaling_law("epoch")
    with pytest.raises(ImpossibleValue):
        algorithm.inference_aware_parameters(law, 1.8, tokens(0.0))
    with pytest.raises(ImpossibleValue):
        algorithm.tokens_for_loss(law, 1.9, 1e8)


def test_an_unknown_law_is_unknown():
    with pytest.raises(UnknownValue, match="hoffmann"):
        algorithm.scaling_law("hofmann")


# ----------------------------------------------------------------------------------------------------------- wall 12


@given(st.integers(0, 200), st.floats(1e-3, 1.0), st.floats(0.0, 1e-4), st.integers(0, 10000))
def test_growing_reasoning_time_equals_the_sum_of_its_steps(count, base, slope, context):
    expected = sum(base + slope * (context + i) for i in range(count))
    got = algorithm.growing_reasoning_time(tokens(float(count)), Q(base, "s"), Q(slope, "s/token"), tokens(float(context)))
    assert got.m_as("s") == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_large_language_monkeys():
    """15.9 % of SWE-bench Lite with one sample, 56 % with 250 (Brown et al. 2024)."""
    record = row("coverage", "DeepSeek-Coder-V2-Instruct")
    single, many, count = (float(record[key]) for key in ("coverage_one", "coverage_many", "samples"))
    exponent = algorithm.coverage_exponent(single, count, many)
    assert algorithm.coverage(single, count, exponent) == pytest.approx(0.56)
    assert single < algorithm.coverage(single, 25, exponent) < 0.56
    assert algorithm.samples_for_coverage(single, many, exponent) == 250
    assert algorithm.samples_for_coverage(single, 0.1, exponent) == 1


def test_best_of_equals_counting():
    for p, k in itertools.product((0.0, 0.1, 0.5, 1.0), (0, 1, 2, 5)):
        expected = sum(p**s * (1 - p) ** (k - s) * math.comb(k, s) for s in range(1, k + 1))
        assert algorithm.best_of(p, k) == pytest.approx(expected)


def test_mixed_difficulty_gains_more_slowly_than_independent_attempts():
    assert algorithm.coverage(0.159, 100, -0.209) < algorithm.best_of(0.159, 100)


def beam(branching, depth, width):
    kept, made = [()], 0
    for _ in range(depth):
        children = [(*state, child) for state in kept for child in range(branching)]
        made, kept = made + len(children), children[:width]
    return made


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 20))
def test_tree_search_equals_a_beam_search(branching, depth, width):
    assert algorithm.tree_search_steps(branching, depth, width) == beam(branching, depth, width)


# ----------------------------------------------------------------------------------------------------------- wall 13


def test_block_formats_count_their_scales():
    """MXFP4: 32 elements share 8 bits, 4.25; NVFP4: 16 share 8, 4.5; GPTQ groups of 128 share 16, 4.125."""
    assert [algorithm.bits_per_element(name) for name in ("mxfp4", "nvfp4", "int4", "bf16", "fp8")] == [4.25, 4.5, 4.125, 16, 8]
    assert algorithm.bytes_per_element("bf16").m_as("byte") == 2


def test_deep_compression_ratios():
    assert algorithm.quantisation_ratio(8, 32) == 4
    assert algorithm.pruning_ratio(np.array([0.0, 0.5, 0.9])) == pytest.approx([1.0, 2.0, 10.0])


def test_measured_quality_is_ordered_and_sourced():
    losses = [algorithm.quality_loss(name) for name in ("bf16", "fp8", "int4", "nvfp4")]
    assert [loss.typical for loss in losses] == sorted(loss.typical for loss in losses)
    assert losses[0].high == 0 and losses[1].high < 0.01  # "effectively lossless" (Kurtic et al. 2024)
    assert all(loss.low <= loss.typical <= loss.high and loss.sources for loss in losses)


def test_int4_weights_multiply_in_a_wider_format():
    assert algorithm.computes_in("int4") == "bf16"


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_scaling_reads_raw_magnitudes():
    """1e9 TFLOP are 1e21 FLOP, whatever the unit they are written in; a bare number is refused."""
    assert algorithm.optimal_parameters(Q(1e9, "TFLOP"), 20) == pytest.approx(algorithm.optimal_parameters(Q(1e21, "FLOP"), 20))
    with pytest.raises(UnitError):
        algorithm.optimal_parameters(1e21, 20)  # type: ignore[arg-type]


def test_fault_reasoning_freezes_the_cache():
    frozen = algorithm.reasoning_time(tokens(10000.0), Q(10.0, "ms"))
    growing = algorithm.growing_reasoning_time(tokens(10000.0), Q(10.0, "ms"), Q(1e-6, "s/token"), tokens(1000.0))
    assert (growing - frozen).m_as("s") == pytest.approx(1e-6 * (1e7 + 10000 * 9999 / 2))


def test_fault_pruning_everything_gives_a_hundred():
    with pytest.raises(ImpossibleValue):
        algorithm.pruning_ratio(1.0)


def test_fault_sparse_index_is_ignored():
    """2:4 at 16 bits keeps 2 x 16 and 2 x 2 of 64 bits: 1.78 times smaller, not twice."""
    assert algorithm.sparse_ratio(0.5, 16, 2) == pytest.approx(64 / 36)
    assert algorithm.sparse_ratio(0.05, 16, 4) < 1


def test_fault_default_baseline_is_32_bits():
    """From today's 16 bits, int4 is 4 times smaller, not 8: the baseline is asked for."""
    assert algorithm.quantisation_ratio(4, 16) == 4
    with pytest.raises(TypeError):
        algorithm.quantisation_ratio(4)  # type: ignore[call-arg]


def test_fault_quality_is_invented_for_any_precision():
    with pytest.raises(UnknownValue, match="int3"):
        algorithm.quality_loss("int3")
    with pytest.raises(UnknownValue, match="bf16"):
        algorithm.bits_per_element("bf17")
