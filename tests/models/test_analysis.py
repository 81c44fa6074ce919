"""Walls 21 and 22: elasticities against derivatives, and every synthesised specification fed forward again."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import analysis, fleet, node
from models.dimensions import ImpossibleValue
from zoo.units import Q


def s(value):
    return Q(value, "s")


def by_name(found):
    return {elasticity.name: elasticity for elasticity in found}


# ----------------------------------------------------------------------------------------------------------- wall 21


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_elasticity_of_a_power_law_is_its_exponent(a, b):
    found = by_name(analysis.elasticities(lambda x: x["u"] ** a * x["v"] ** b, {"u": 2.0, "v": 5.0}, 1e-5))
    assert found["u"].up == pytest.approx(a, abs=1e-3) and found["u"].down == pytest.approx(a, abs=1e-3)
    assert found["v"].up == pytest.approx(b, abs=1e-3)


def test_binding_input_is_the_one_that_helps_most():
    def cost(x):
        return Q(3.0, "USD/h") * x["time"] + Q(1.0, "USD/GB") * x["memory"]

    found = analysis.elasticities(cost, {"time": Q(10.0, "h"), "memory": Q(5.0, "GB")}, 0.01)
    assert [e.name for e in found] == ["time", "memory"]
    assert found[0].down == pytest.approx(30 / 35)
    assert analysis.binding_input(found, 1e-6) == "time"


def test_nothing_binds_when_nothing_helps():
    found = analysis.elasticities(lambda x: s(1.0), {"anything": 4.0}, 0.01)
    assert analysis.binding_input(found, 1e-6) is None


# ----------------------------------------------------------------------------------------------------------- wall 22

positive = st.floats(1e-3, 1e3)


@given(positive, st.floats(0.01, 0.95), st.sampled_from([1.0, 2.0, 4.5, math.inf]), st.floats(0.0, 0.5))
def test_time_left_inverts_the_roofline(target, share, exponent, launch):
    other = s(share * (1 - launch) * target)
    left = analysis.time_left(s(target), other, exponent, s(launch * target))
    assert node.soft_roofline(left, other, exponent, s(launch * target)).m_as("s") == pytest.approx(target, rel=1e-9)


@given(positive, positive, st.floats(0.1, 1.0))
def test_required_rates_fed_forward_take_exactly_the_time(amount, target, efficiency):
    bandwidth = analysis.required_bandwidth(Q(amount, "GB"), s(target), efficiency)
    assert node.memory_time(Q(amount, "GB"), bandwidth, efficiency).m_as("s") == pytest.approx(target)
    peak = analysis.required_peak(Q(amount, "TFLOP"), s(target), efficiency)
    assert node.compute_time(Q(amount, "TFLOP"), peak, efficiency).m_as("s") == pytest.approx(target)


@given(st.integers(2, 1000), positive)
def test_required_link_fed_forward_takes_exactly_the_time(ranks, gigabytes):
    latency, target = Q(1.0, "us"), s(0.5)
    link = analysis.required_link(Q(gigabytes, "GB"), ranks, target, latency)
    assert fleet.ring_all_reduce(Q(gigabytes, "GB"), ranks, link, latency).m_as("s") == pytest.approx(0.5)


def test_required_capacity_holds_exactly_the_batch():
    needed = analysis.required_capacity(Q(140.0, "GB"), Q(0.5, "GB"), 64, 0.9)
    assert node.largest_batch(0.9 * needed - Q(140.0, "GB") + Q(1.0, "B"), Q(0.5, "GB")) == 64
    assert needed.m_as("GB") == pytest.approx(172 / 0.9)


def test_targets_that_no_speed_meets_are_impossible():
    with pytest.raises(ImpossibleValue):
        analysis.time_left(s(1.0), s(2.0), 3.0, s(0.0))
    with pytest.raises(ImpossibleValue):
        analysis.time_left(s(1.0), s(0.5), 3.0, s(1.5))
    with pytest.raises(ImpossibleValue):
        analysis.required_link(Q(1.0, "GB"), 100, Q(1.0, "us"), Q(1.0, "us"))
    with pytest.raises(ImpossibleValue):
        analysis.required_link(Q(1.0, "GB"), 1, s(1.0), Q(1.0, "us"))


def test_smallest_meets_the_limit_and_a_bit_less_does_not():
    def forward(bandwidth):
        return node.soft_roofline(s(0.003), node.memory_time(Q(20.0, "GB"), bandwidth, 0.8), 3.0, s(0.0002))

    limit = Q(10.0, "ms")
    found = analysis.smallest(forward, limit, Q(1.0, "GB/s"), Q(100.0, "TB/s"))
    assert forward(found) <= limit
    assert forward(found * (1 - 1e-12)) > limit
    exact = analysis.required_bandwidth(Q(20.0, "GB"), analysis.time_left(limit, s(0.003), 3.0, s(0.0002)), 0.8)
    assert found.m_as("GB/s") == pytest.approx(exact.m_as("GB/s"), rel=1e-9)


def test_smallest_says_when_even_the_largest_is_too_small():
    with pytest.raises(ImpossibleValue):
        analysis.smallest(lambda x: s(2.0), s(1.0), Q(1.0, "GB/s"), Q(2.0, "GB/s"))


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def step(x):
    compute = node.compute_time(x["work"], x["peak"], 0.5)
    memory = node.memory_time(x["traffic"], x["bandwidth"], 0.8)
    return node.soft_roofline(compute, memory, math.inf, x["launch"])


TINY = {
    "work": Q(1e6, "flop"),
    "peak": Q(1e15, "flop/s"),
    "traffic": Q(1e6, "byte"),
    "bandwidth": Q(3e12, "byte/s"),
    "launch": Q(1.0, "ms"),
}


def test_fault_overhead_bound_model_names_memory_bandwidth():
    assert analysis.binding_input(analysis.elasticities(step, TINY, 0.01), 1e-6) == "launch"


def test_fault_sensitivity_is_one_sided():
    """A memory that just fits shows on the side where it no longer does."""

    def time_if_it_fits(x):
        return s(1.0 if x["capacity"] >= Q(80.0, "GB") else math.inf)

    found = analysis.elasticities(time_if_it_fits, {"capacity": Q(80.0, "GB")}, 0.01)[0]
    assert found.up == 0.0 and found.down == -math.inf


def test_fault_sensitivity_has_three_knobs():
    """Any input of any composition, prices and power included."""
    found = analysis.elasticities(lambda x: x["price"] * x["energy"], {"price": Q(0.1, "USD/kWh"), "energy": Q(1.0, "MWh")}, 0.01)
    assert {e.name for e in found} == {"price", "energy"} and all(e.up == pytest.approx(1.0) for e in found)


def test_fault_synthesis_fed_forward_misses_its_target(llama8b):
    """With cache, batch and launch in it, the bandwidth for 10 ms gives 10 ms, not 11.33."""
    batch, context, launch = 32, Q(4000.0, "token"), Q(0.5, "ms")
    compute = node.compute_time(node.decode_operations(llama8b, batch, context), Q(989.0, "TFLOP/s"), 0.6)
    traffic = node.decode_traffic(llama8b, batch, context, Q(2.0, "byte"), Q(2.0, "byte"))
    left = analysis.time_left(Q(10.0, "ms"), compute, 3.0, launch)
    bandwidth = analysis.required_bandwidth(traffic, left, 0.8)
    again = node.soft_roofline(compute, node.memory_time(traffic, bandwidth, 0.8), 3.0, launch)
    assert again.m_as("ms") == pytest.approx(10.0, rel=1e-12)


def test_elasticities_of_an_infeasible_start_are_impossible():
    with pytest.raises(ImpossibleValue):
        analysis.elasticities(lambda x: s(math.inf), {"x": 1.0}, 0.01)
    with pytest.raises(ImpossibleValue):
        analysis.elasticities(lambda x: s(1.0), {"x": 1.0}, np.float64(2.0))
