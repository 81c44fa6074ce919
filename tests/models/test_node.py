"""Walls 1 to 7 against pencil, textbook, published figures, brute force and simulation."""

import dataclasses
import heapq
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from models import node
from models.dimensions import ImpossibleValue, UnknownValue
from zoo.specs import Transformer
from zoo.units import Q


def s(value):
    return Q(value, "s")


def per_second(value):
    return Q(value, "1/s")


def tokens(value):
    return Q(value, "token")


TWO_BYTES = Q(2.0, "byte")

# ------------------------------------------------------------------------------------------------- walls 1 to 3


def test_efficiency_outside_its_range_is_impossible():
    for wrong in (0.0, -0.1, 1.01, np.array([0.5, 2.0])):
        with pytest.raises(ImpossibleValue):
            node.compute_time(Q(1.0, "flop"), Q(1.0, "flop/s"), wrong)
        with pytest.raises(ImpossibleValue):
            node.memory_time(Q(1.0, "byte"), Q(1.0, "byte/s"), wrong)


def test_percent_is_a_dimensionless_number():
    assert node.compute_time(Q(1.0, "flop"), Q(1.0, "flop/s"), Q(50.0, "percent")) == s(2.0)


def test_h100_ridge_point():
    """989 TFLOP/s over 3.35 TB/s: 295 FLOP per byte."""
    assert node.ridge_point(Q(989.0, "TFLOP/s"), Q(3.35, "TB/s")).m_as("flop/byte") == pytest.approx(295.2, abs=0.1)


def test_soft_roofline_of_3_and_4_seconds():
    three, four, zero = s(3.0), s(4.0), s(0.0)
    assert node.soft_roofline(three, four, 2, zero).m_as("s") == pytest.approx(5.0)  # 3-4-5
    assert node.soft_roofline(three, four, 1, zero).m_as("s") == pytest.approx(7.0)
    assert node.soft_roofline(three, four, math.inf, zero).m_as("s") == 4.0
    assert node.soft_roofline(three, three, math.inf, s(1.0)).m_as("s") == 4.0
    assert node.soft_roofline(zero, zero, 3, s(1.0)).m_as("s") == 1.0


times = st.floats(1e-9, 1e6)


@given(times, times, st.floats(1, 60), st.floats(0, 1), st.floats(1, 3))
def test_soft_roofline_is_never_below_its_phases_and_never_falls(compute, memory, exponent, launch, factor):
    time = node.soft_roofline(s(compute), s(memory), exponent, s(launch)).m_as("s")
    assert time >= (max(compute, memory) + launch) * (1 - 1e-12)
    assert time <= (compute + memory + launch) * (1 + 1e-12)
    assert node.soft_roofline(s(compute * factor), s(memory), exponent, s(launch)).m_as("s") >= time * (1 - 1e-12)


def gemm(rows, peak=1e15, bandwidth=3e12, launch=5e-6):
    return node.gemm_efficiency(
        rows, 8192, 8192, TWO_BYTES, TWO_BYTES, Q(peak, "flop/s"), Q(bandwidth, "byte/s"), 0.8, 0.9, 3.0, s(launch)
    )


def test_gemm_efficiency_rises_with_rows_from_memory_bound_to_the_compute_limit():
    rows = np.array([1.0, 16.0, 256.0, 4096.0, 1e6])
    values = gemm(rows)
    assert np.all(np.diff(values) > 0)
    # one row: 2 x 8192^2 operations while 8192^2 x 2 bytes move at 2.7 TB/s: 1 FLOP per byte, 2.7e12 / 1e15
    assert gemm(1.0, launch=0.0) == pytest.approx(2.7e-3, rel=1e-3)
    assert gemm(1e6) == pytest.approx(0.8, rel=1e-3)


def test_tile_efficiency_by_hand():
    """A 10752 x 2048 product in 128 x 256 tiles on 108 processors: 84 x 8 = 672 tiles, 7 waves of 108: 672 / 756."""
    assert node.tile_efficiency(10752, 2048, 128, 256, 108) == pytest.approx(672 / 756)


def test_mfu_is_not_clamped():
    assert node.model_flops_utilisation(Q(3.0, "flop"), s(1.0), Q(2.0, "flop/s")) == pytest.approx(1.5)


# ------------------------------------------------------------------------------------------------------- wall 4


def brute_pairs(new, cached, window):
    return sum(min(cached + i, window) for i in range(1, new + 1))


@pytest.mark.parametrize(("new", "cached", "window"), [(1, 0, 4), (7, 0, 4), (7, 3, 4), (3, 100, 50), (5, 2, 10**9)])
def test_attended_pairs_equal_counting(llama8b, new, cached, window):
    model = dataclasses.replace(llama8b, sliding_layers=32, sliding_window=window)
    got = node.attention_operations(model, tokens(float(new)), tokens(float(cached))).m_as("flop")
    assert got == 32 * 4 * 32 * 128 * brute_pairs(new, cached, window)


def test_prefill_of_a_full_prompt_is_half_of_the_square(llama8b):
    """2 P n less the embedding, the head once, and 2 L h d n^2 (1 + 1/n)."""
    n = 8192.0
    table = 128256 * 4096
    expected = 2 * (8.03e9 - 2 * table) * n + 2 * table + 2 * 32 * 32 * 128 * n * (n + 1)
    assert node.prefill_operations(llama8b, tokens(n), tokens(0.0)).m_as("flop") == pytest.approx(expected, rel=1e-12)


def test_prefill_in_two_chunks_costs_one_more_head(llama8b):
    whole = node.prefill_operations(llama8b, tokens(1000.0), tokens(0.0))
    parts = node.prefill_operations(llama8b, tokens(600.0), tokens(0.0)) + node.prefill_operations(
        llama8b, tokens(400.0), tokens(600.0)
    )
    assert (parts - whole).m_as("flop") == pytest.approx(2 * 128256 * 4096, rel=1e-6)


def test_decode_is_a_prefill_of_one_token(llama8b):
    decode = node.decode_operations(llama8b, 1, tokens(500.0))
    assert decode.m_as("flop") == pytest.approx(node.prefill_operations(llama8b, tokens(1.0), tokens(499.0)).m_as("flop"))


def test_mla_decodes_in_its_latent_space(deepseek_v3):
    """Per token, layer and head 2 x (512 + 64) for scores and 2 x 512 for values."""
    grown = node.decode_operations(deepseek_v3, 1, tokens(1001.0)) - node.decode_operations(deepseek_v3, 1, tokens(1.0))
    assert grown.m_as("flop") == pytest.approx(1000 * 61 * 128 * 2 * (576 + 512), rel=1e-9)


def test_distinct_experts_equal_simulation():
    rng = np.random.default_rng(7)
    for batch in (1, 4, 32):
        picked = [len({e for _ in range(batch) for e in rng.choice(16, 2, replace=False)}) for _ in range(3000)]
        assert node.distinct_experts(16, 2, tokens(float(batch))) == pytest.approx(np.mean(picked), rel=0.02)


def test_touched_parameters_run_from_active_to_all(mixtral):
    touched = node.touched_parameters(mixtral, tokens(np.array([1.0, 2.0, 1e6])))
    assert touched[0] == pytest.approx(12.9e9) and touched[2] == pytest.approx(46.7e9)
    # two tokens: 8 (1 - (3/4)^2) = 3.5 experts; 12.9 + 33.8 x 1.5 / 6 = 21.35
    assert touched[1] == pytest.approx(21.35e9)


def test_decode_traffic_of_one_sequence(llama8b):
    """All weights but the embedding table (8.03e9 - 0.525e9) and 131072 bytes for each of 1000 tokens."""
    traffic = node.decode_traffic(llama8b, 1, tokens(1000.0), TWO_BYTES, TWO_BYTES).m_as("byte")
    assert traffic == pytest.approx(2 * (8.03e9 - 128256 * 4096) + 131072 * 1000)


def test_prefill_traffic_moves_the_weights_once(llama8b):
    one = node.prefill_traffic(llama8b, 1, tokens(100.0), tokens(0.0), TWO_BYTES, TWO_BYTES)
    two = node.prefill_traffic(llama8b, 2, tokens(100.0), tokens(0.0), TWO_BYTES, TWO_BYTES)
    assert (two - one).m_as("byte") == pytest.approx(100 * 131072)


# ------------------------------------------------------------------------------------------------------- wall 5


def test_published_cache_sizes(llama8b, deepseek_v3):
    """Llama-3.1-8B caches 128 KiB a token in bf16, DeepSeek-V3 70,272 bytes (its report: 70 KB)."""
    assert node.kv_bytes_per_token(llama8b, TWO_BYTES).m_as("byte/token") == 131072
    assert node.kv_bytes_per_token(deepseek_v3, TWO_BYTES).m_as("byte/token") == 70272


def test_seeds_cache_formula_is_the_gqa_case(llama8b):
    plain = node.kv_cache_bytes(32, 8, 128, tokens(1000.0), 1, TWO_BYTES, tokens(16.0))
    assert plain == node.kv_bytes_per_sequence(llama8b, tokens(1000.0), TWO_BYTES, tokens(16.0))
    assert plain.m_as("byte") == 2 * 32 * 8 * 128 * 1008 * 2  # 63 pages


def test_sliding_layers_stop_growing(llama8b):
    model = dataclasses.replace(llama8b, sliding_layers=16, sliding_window=128)
    sizes = node.kv_bytes_per_sequence(model, tokens(np.array([64.0, 128.0, 1000.0])), TWO_BYTES, tokens(1.0)).m_as("byte")
    per_layer = 2 * 8 * 128 * 2
    assert list(sizes) == [per_layer * 32 * 64, per_layer * 32 * 128, per_layer * 16 * (1000 + 128)]


def test_a_window_touches_one_page_more_than_it_fills(llama8b):
    """128 tokens that begin anywhere in pages of 16 lie in at most 9 of them."""
    model = dataclasses.replace(llama8b, sliding_layers=32, sliding_window=128)
    size = node.kv_bytes_per_sequence(model, tokens(5000.0), TWO_BYTES, tokens(16.0)).m_as("byte")
    worst = max(len({position // 16 for position in range(start, start + 128)}) for start in range(16))
    assert size == 131072 * 16 * worst


def test_constant_state_does_not_grow():
    mamba = Transformer("mamba", 48, 2048, 1, 1, 1, 50000, 1e9, 1e9, attention="SSM", state_layers=48, state_elements=2048 * 16)
    sizes = node.kv_bytes_per_sequence(mamba, tokens(np.array([1.0, 1e6])), TWO_BYTES, tokens(16.0)).m_as("byte")
    assert list(sizes) == [48 * 2048 * 16 * 2] * 2
    assert node.kv_bytes_per_token(mamba, TWO_BYTES).m_as("byte/token") == 0


def test_a_model_without_layers_that_remember_is_unknown(llama8b):
    with pytest.raises(UnknownValue, match="kv_layers"):
        node.kv_bytes_per_token(dataclasses.replace(llama8b, kv_layers=0), TWO_BYTES)


def test_an_mla_model_without_ranks_is_unknown(deepseek_v3):
    with pytest.raises(UnknownValue, match="kv_lora_rank"):
        node.kv_bytes_per_token(dataclasses.replace(deepseek_v3, kv_lora_rank=None), TWO_BYTES)


@given(st.integers(0, 10**13), st.integers(1, 10**10))
def test_largest_batch_is_the_exact_floor(free, each):
    assert node.largest_batch(Q(float(free), "byte"), Q(float(each), "byte")) == free // each


def test_largest_batch_in_other_units_and_without_memory():
    assert node.largest_batch(Q(0.3, "GB"), Q(0.1, "GB")) == 3
    assert node.largest_batch(Q(-1.0, "GB"), Q(1.0, "GB")) == 0


# ------------------------------------------------------------------------------------------------------- wall 6


def test_streaming_from_rest_adds_fill_and_drain():
    inject, compute = s(3.0), s(2.0)
    clock = loaded = 0.0
    for _ in range(4):  # the next layer streams in while this one computes, one buffer ahead
        loaded = max(loaded, clock - 2.0 if clock else 0.0) + 3.0
        clock = max(clock, loaded) + 2.0
    assert node.streaming_latency(4, inject, compute).m_as("s") == clock == 14.0
    assert node.streaming_batch(inject, compute) == 1.5


# ------------------------------------------------------------------------------------------------------- wall 7

# The standard Erlang B table: traffic [erlang] offered to N trunks at a blocking of 1 %.
ERLANG_B_TABLE = [(1, 0.0101), (2, 0.1526), (5, 1.3608), (10, 4.4612), (20, 12.0306), (50, 37.9014), (100, 84.0642)]


@pytest.mark.parametrize(("trunks", "load"), ERLANG_B_TABLE)
def test_erlang_b_published_table(trunks, load):
    assert node.erlang_b(trunks, load) == pytest.approx(0.01, rel=2e-3)


def recursive_erlang_b(servers, load):
    blocking = 1.0
    for count in range(1, servers + 1):
        blocking = load * blocking / (count + load * blocking)
    return blocking


@pytest.mark.parametrize("servers", [0, 1, 7, 300, 5000])
def test_erlang_b_equals_the_recursion_at_any_load(servers):
    for ratio in (0.01, 0.5, 0.99, 1.0, 1.2, 2.0, 50.0):
        load = ratio * max(servers, 1)
        assert node.erlang_b(servers, load) == pytest.approx(recursive_erlang_b(servers, load), rel=1e-9, abs=1e-300)


def test_erlang_c_is_one_at_saturation_and_rises_towards_it():
    loads = np.linspace(0.0, 12.0, 25)
    values = node.erlang_c(10, loads)
    assert values[0] == 0 and np.all(np.diff(values) >= 0) and np.all(values[loads >= 10] == 1)
    assert node.erlang_c(1, 0.3) == pytest.approx(0.3)  # M/M/1: the probability of waiting is the load


@given(st.floats(0.01, 0.99), st.floats(0.5, 0.9999), st.floats(1e-3, 1e3))
def test_sojourn_of_one_server_is_exponential(load, probability, service):
    """M/M/1: the time in the system is exponential with rate mu - lambda."""
    rate = load / service
    quantile = node.sojourn_quantile(per_second(rate), s(service), 1, probability).m_as("s")
    assert quantile == pytest.approx(-math.log1p(-probability) / (1 / service - rate), rel=1e-9)


def test_wait_of_one_server():
    """M/M/1: P(W > t) = rho e^(-(mu - lambda) t)."""
    tail = node.wait_tail(per_second(0.8), s(1.0), 1, s(2.0))
    assert tail == pytest.approx(0.8 * math.exp(-0.4))
    assert node.wait_quantile(per_second(0.8), s(1.0), 1, 0.99).m_as("s") == pytest.approx(math.log(80) / 0.2)
    assert node.wait_quantile(per_second(0.005), s(1.0), 1, 0.99).m_as("s") == 0.0


@pytest.mark.parametrize(("rate", "servers"), [(3.0, 4), (2.999999, 4), (0.7, 3), (95.0, 100), (99.0, 100)])
def test_sojourn_tail_equals_integrating_the_convolution(rate, servers):
    """At rate 3 and 4 servers the wait ends at the rate of service: the case that a closed form divides by zero in."""
    waiting = node.erlang_c(servers, rate)
    drain = servers - rate
    for t in (0.1, 1.0, 5.0):
        queued, _ = integrate.quad(lambda w, t=t: waiting * drain * math.exp(-drain * w) * math.exp(-(t - w)), 0, t)
        expected = (1 - waiting) * math.exp(-t) + queued + waiting * math.exp(-drain * t)
        assert node.sojourn_tail(per_second(rate), s(1.0), servers, s(t)) == pytest.approx(expected, rel=1e-9)


@given(st.floats(0.001, 0.9999), st.integers(1, 2000), st.floats(0.01, 0.99999))
def test_sojourn_quantile_inverts_the_tail(load, servers, probability):
    rate = per_second(load * servers)
    quantile = node.sojourn_quantile(rate, s(1.0), servers, probability)
    assert node.sojourn_tail(rate, s(1.0), servers, quantile) == pytest.approx(1 - probability, rel=1e-9)


def test_sojourn_quantile_equals_scipys_root():
    root = optimize.brentq(
        lambda t: node.sojourn_tail(per_second(17.5), s(1.0), 20, s(t), 2.0, 4.0) - 0.001, 0.1, 500, xtol=1e-12
    )
    quantile = node.sojourn_quantile(per_second(17.5), s(1.0), 20, 0.999, 2.0, 4.0)
    assert quantile.m_as("s") == pytest.approx(root, rel=1e-9)


def test_unstable_queue_is_never_clamped():
    for rate in (4.0, 7.0):
        assert node.sojourn_quantile(per_second(rate), s(1.0), 4, 0.5).m_as("s") == math.inf
        assert node.wait_quantile(per_second(rate), s(1.0), 4, 0.5).m_as("s") == math.inf
        assert node.sojourn_tail(per_second(rate), s(1.0), 4, s(1e9)) == 1
        assert node.wait_tail(per_second(rate), s(1.0), 4, s(1e9)) == 1


def test_steady_arrivals_and_service_never_wait():
    assert node.wait_quantile(per_second(3.0), s(1.0), 4, 0.99, 0.0, 0.0).m_as("s") == 0.0
    assert node.sojourn_quantile(per_second(3.0), s(1.0), 4, 0.99, 0.0, 0.0).m_as("s") == pytest.approx(math.log(100))


def simulate(rate, servers, draw_service, arrivals=200_000, seed=1):
    """Waits and sojourns of a first-come-first-served queue with Poisson arrivals, event by event."""
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, arrivals))
    service = draw_service(rng, arrivals)
    free = [0.0] * servers
    waits = np.empty(arrivals)
    for i, (start, length) in enumerate(zip(arrival.tolist(), service.tolist(), strict=True)):
        begin = max(start, heapq.heappop(free))
        waits[i] = begin - start
        heapq.heappush(free, begin + length)
    kept = slice(arrivals // 10, None)
    return waits[kept], waits[kept] + service[kept]


@pytest.mark.parametrize(("servers", "load"), [(1, 0.6), (4, 0.8), (20, 0.9)])
def test_tails_equal_a_simulation(servers, load):
    waits, sojourns = simulate(load * servers, servers, lambda rng, n: rng.exponential(1.0, n), arrivals=1_000_000)
    rate = per_second(load * servers)
    for t in (0.5, 2.0, 4.0):
        assert node.wait_tail(rate, s(1.0), servers, s(t)) == pytest.approx(np.mean(waits > t), abs=0.012)
        assert node.sojourn_tail(rate, s(1.0), servers, s(t)) == pytest.approx(np.mean(sojourns > t), abs=0.012)
    assert node.sojourn_quantile(rate, s(1.0), servers, 0.95).m_as("s") == pytest.approx(np.quantile(sojourns, 0.95), rel=0.05)


def test_allen_cunneen_mean_wait_of_steady_service_against_a_simulation():
    """M/D/4 at 0.9: the mean wait is close to half of M/M/4's."""
    waits, _ = simulate(3.6, 4, lambda rng, n: np.ones(n))
    drain = (4 - 3.6) / 0.5
    assert node.erlang_c(4, 3.6) / drain == pytest.approx(np.mean(waits), rel=0.08)
    assert node.mean_wait(per_second(3.6), s(1.0), 4, 1.0, 0.0).m_as("s") == pytest.approx(np.mean(waits), rel=0.08)
    assert node.wait_tail(per_second(3.6), s(1.0), 4, s(2.0), 1.0, 0.0) == pytest.approx(np.mean(waits > 2.0), abs=0.02)


def test_mean_wait_by_hand():
    """M/M/1 at 0.75: rho S / (1 - rho) = 3 s; M/M/2 at 0.5: C = 2 rho^2 / (1 + rho) = 1/3 wait for S / (2 (1 - rho)) = 1 s."""
    assert node.mean_wait(per_second(0.75), s(1.0), 1).m_as("s") == pytest.approx(3.0)
    assert node.mean_wait(per_second(1.0), s(1.0), 2).m_as("s") == pytest.approx(1 / 3)
    assert node.mean_wait(per_second(2.0), s(1.0), 2).m_as("s") == np.inf


rates = st.floats(0.05, 0.98)


@given(rates, st.integers(1, 200), st.floats(0.5, 0.999))
def test_more_servers_or_fewer_arrivals_are_never_slower(load, servers, probability):
    rate = load * servers
    base = node.sojourn_quantile(per_second(rate), s(1.0), servers, probability)
    assert node.sojourn_quantile(per_second(rate), s(1.0), servers + 1, probability) <= base * (1 + 1e-9)
    assert node.sojourn_quantile(per_second(rate * 0.9), s(1.0), servers, probability) <= base * (1 + 1e-9)


def test_arrays_equal_scalars():
    rate, servers = np.array([0.5, 3.9, 4.0, 90.0]), np.array([1.0, 4.0, 4.0, 100.0])
    together = node.sojourn_quantile(per_second(rate), s(1.0), servers, 0.99).m_as("s")
    alone = [node.sojourn_quantile(per_second(r), s(1.0), c, 0.99).m_as("s") for r, c in zip(rate, servers, strict=True)]
    assert together == pytest.approx(alone, rel=1e-12)
    grid = node.erlang_c(np.array([[1.0], [5.0]]), np.array([0.5, 2.0, 4.0]))
    assert grid.shape == (2, 3)
    for (i, c), (j, a) in itertools.product(enumerate((1.0, 5.0)), enumerate((0.5, 2.0, 4.0))):
        assert grid[i, j] == pytest.approx(float(node.erlang_c(c, a)))


# ---------------------------------------------------------------------------------------- properties of a whole step


def decode_step(model, batch, bandwidth, peak):
    compute = node.compute_time(node.decode_operations(model, batch, tokens(2000.0)), Q(peak, "flop/s"), 0.7)
    traffic = node.decode_traffic(model, batch, tokens(2000.0), TWO_BYTES, TWO_BYTES)
    return node.soft_roofline(compute, node.memory_time(traffic, Q(bandwidth, "byte/s"), 0.8), 3.0, s(1e-4)).m_as("s")


@settings(max_examples=50)
@given(st.integers(1, 4096), st.floats(1e11, 1e13), st.floats(1e13, 1e16), st.floats(1.0, 10.0))
def test_faster_hardware_is_never_slower_and_a_double_batch_at_most_twice(deepseek_v3, batch, bandwidth, peak, factor):
    model = deepseek_v3
    time = decode_step(model, batch, bandwidth, peak)
    assert decode_step(model, batch, bandwidth * factor, peak) <= time * (1 + 1e-12)
    assert decode_step(model, batch, bandwidth, peak * factor) <= time * (1 + 1e-12)
    assert time < decode_step(model, 2 * batch, bandwidth, peak) <= 2 * time * (1 + 1e-12)


def test_erlang_b_is_the_incomplete_gamma_identity():
    assert node.erlang_b(3, 2.0) == pytest.approx(special.gammaincc(4, 2.0) ** -1 * 2**3 / 6 * math.exp(-2))


# ------------------------------------------------------------------------- faults of the nearest tool, one test each


def test_fault_no_llm_is_ever_compute_bound(llama8b):
    """65,536 tokens together on an H100 are compute-bound: intensity far above the ridge point of 295."""
    operations = node.decode_operations(llama8b, 65536, tokens(1.0))
    traffic = node.decode_traffic(llama8b, 65536, tokens(1.0), TWO_BYTES, TWO_BYTES)
    assert node.intensity(operations, traffic) > 10 * node.ridge_point(Q(989.0, "TFLOP/s"), Q(3.35, "TB/s"))


def test_fault_moe_prefill_uses_total_parameters(mixtral, deepseek_v3):
    """Prefill works with the active parameters: 3.6 and 18 times fewer."""
    for model in (mixtral, deepseek_v3):
        work = node.prefill_operations(model, tokens(1000.0), tokens(0.0)) - node.attention_operations(
            model, tokens(1000.0), tokens(0.0)
        )
        assert work.m_as("flop") <= 2 * model.active_parameters * 1000


def test_fault_batch_one_decode_streams_all_experts(deepseek_v3):
    traffic = node.decode_traffic(deepseek_v3, 1, tokens(1.0), Q(1.0, "byte"), Q(1.0, "byte")).m_as("byte")
    assert traffic == pytest.approx(37e9, rel=1e-4)


def test_fault_decode_has_no_compute_term(llama8b):
    """768 sequences of 128 tokens: 2 x 7.5e9 x 768 operations take longer than moving 28 GB on an H100."""
    work = node.decode_operations(llama8b, 768, tokens(128.0))
    traffic = node.decode_traffic(llama8b, 768, tokens(128.0), TWO_BYTES, TWO_BYTES)
    compute = node.compute_time(work, Q(989.0, "TFLOP/s"), 0.5)
    memory = node.memory_time(traffic, Q(3.35, "TB/s"), 1.0)
    assert compute > memory
    assert node.soft_roofline(compute, memory, 1.0, s(0.0)) > 2 * memory


def test_fault_attention_is_not_causal(llama8b):
    n = 131072.0
    causal = node.attention_operations(llama8b, tokens(n), tokens(0.0)).m_as("flop")
    assert causal == pytest.approx(4 * 32 * 32 * 128 * n * n / 2, rel=1e-4)


def test_fault_head_dim_is_ignored(llama8b):
    wide = dataclasses.replace(llama8b, head_dim=256)
    twice = node.attention_operations(wide, tokens(10.0), tokens(0.0)) / node.attention_operations(
        llama8b, tokens(10.0), tokens(0.0)
    )
    assert twice.m_as("") == pytest.approx(2)


def test_fault_streaming_attention_uses_kv_heads(llama8b):
    """Work is done by query heads, whatever share of them has keys of its own."""
    mqa = dataclasses.replace(llama8b, kv_heads=1)
    assert node.attention_operations(mqa, tokens(9.0), tokens(0.0)) == node.attention_operations(
        llama8b, tokens(9.0), tokens(0.0)
    )


def test_fault_kv_precision_equals_weight_precision(llama8b):
    traffic = node.decode_traffic(llama8b, 1, tokens(1000.0), Q(0.5, "byte"), TWO_BYTES)
    weights = Q((8.03e9 - 128256 * 4096) * 0.5, "byte")
    assert (traffic - weights).m_as("byte") == pytest.approx(131072 * 1000)


def test_fault_silent_defaults_when_shape_is_unset(llama8b):
    broken = dataclasses.replace(llama8b, sliding_layers=4, sliding_window=None)
    with pytest.raises(UnknownValue, match="sliding_window"):
        node.attention_operations(broken, tokens(1.0), tokens(0.0))


def test_fault_p99_is_wait_p99_plus_mean_service():
    """At low load P99 of the sojourn is that of the service, ln 100 = 4.6 services, not one service."""
    assert node.sojourn_quantile(per_second(0.01), s(1.0), 10, 0.99).m_as("s") == pytest.approx(math.log(100), rel=1e-6)


def test_fault_p99_of_a_hundred_servers_at_95_percent():
    """Exact 0.472 s for a service of 0.1 s, where wait quantile plus mean service says 0.178 s."""
    rate, service = per_second(950.0), s(0.1)
    assert node.sojourn_quantile(rate, service, 100, 0.99).m_as("s") == pytest.approx(0.472, abs=0.001)
    assert node.wait_quantile(rate, service, 100, 0.99).m_as("s") + 0.1 == pytest.approx(0.178, abs=0.001)
