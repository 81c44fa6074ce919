"""Walls 14 to 16 against pencil, published formulas and runs, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import fleet
from models.dimensions import ImpossibleValue
from zoo.units import Q


def s(value):
    return Q(value, "s")


def h(value):
    return Q(value, "h")


GB, LINK, HOP = Q(1.0, "GB"), Q(50.0, "GB/s"), Q(5.0, "us")
RINGS = (fleet.all_gather, fleet.reduce_scatter, fleet.ring_all_reduce, fleet.tree_all_reduce, fleet.all_to_all)
HIERARCHIES = (fleet.hierarchical_all_reduce, fleet.hierarchical_all_to_all)
NODE_LINK, NODE_HOP = Q(450.0, "GB/s"), Q(1.0, "us")

# ------------------------------------------------------------------------------------------------------ wall 14


def ring_steps(message, ranks, bandwidth, latency):
    """A ring all-reduce step by step: 2 (N - 1) rounds in which each rank sends one of N parts to its neighbour."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (ranks, ranks)).astype(float)
    parts, clock = values.copy(), 0.0
    for phase in ("reduce", "gather"):
        for step in range(ranks - 1):
            sent = parts.copy()
            for rank in range(ranks):
                part = (rank - step + (phase == "gather")) % ranks
                target = (rank + 1) % ranks
                parts[target, part] = sent[rank, part] + (parts[target, part] if phase == "reduce" else 0.0)
            clock += message / ranks / bandwidth + latency
    assert np.allclose(parts, values.sum(axis=0))
    return clock


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_ring_all_reduce_equals_its_steps(ranks):
    assert fleet.ring_all_reduce(GB, ranks, LINK, HOP).m_as("s") == pytest.approx(ring_steps(1e9, ranks, 50e9, 5e-6))


@pytest.mark.parametrize("collective", RINGS)
def test_one_rank_communicates_in_exactly_no_time(collective):
    assert collective(GB, 1, LINK, HOP).m_as("s") == 0.0


@pytest.mark.parametrize("collective", HIERARCHIES)
def test_one_rank_in_one_node_communicates_in_exactly_no_time(collective):
    assert collective(GB, 1, 1, NODE_LINK, NODE_HOP, LINK, HOP).m_as("s") == 0.0


@pytest.mark.parametrize("collective", RINGS)
def test_no_ranks_are_impossible(collective):
    with pytest.raises(ImpossibleValue):
        collective(GB, 0, LINK, HOP)


def test_hierarchy_of_one_node_or_of_one_rank_each_is_a_ring():
    inside = fleet.hierarchical_all_reduce(GB, 8, 1, NODE_LINK, NODE_HOP, LINK, HOP)
    outside = fleet.hierarchical_all_reduce(GB, 1, 8, NODE_LINK, NODE_HOP, LINK, HOP)
    assert inside.m_as("s") == pytest.approx(fleet.ring_all_reduce(GB, 8, NODE_LINK, NODE_HOP).m_as("s"))
    assert outside.m_as("s") == pytest.approx(fleet.ring_all_reduce(GB, 8, LINK, HOP).m_as("s"))


def test_hierarchical_all_reduce_by_hand():
    """8 ranks in each of 4 nodes, 1 GB: 7/8 / 450 twice inside, 2 x 3/4 x (1/8) / 50 outside, and 14 + 6 hops."""
    expected = 2 * 7 / 8 / 450 + 2 * 3 / 4 / 8 / 50 + 14e-6 + 6 * 5e-6
    got = fleet.hierarchical_all_reduce(GB, 8, 4, NODE_LINK, NODE_HOP, LINK, HOP)
    assert got.m_as("s") == pytest.approx(expected)


def test_tree_wins_for_small_messages_on_many_ranks_and_ring_never_loses_bandwidth():
    small = Q(10.0, "kB")
    assert fleet.tree_all_reduce(small, 512, LINK, HOP) < fleet.ring_all_reduce(small, 512, LINK, HOP)
    assert fleet.ring_all_reduce(GB, 8, LINK, HOP) < fleet.tree_all_reduce(GB, 8, LINK, HOP)


@given(st.floats(1, 1e12), st.integers(1, 4096), st.floats(1e9, 1e12), st.floats(1, 100))
def test_more_bandwidth_is_never_slower_and_double_the_message_at_most_twice(message, ranks, bandwidth, factor):
    for collective in RINGS:
        time = collective(Q(message, "byte"), ranks, Q(bandwidth, "byte/s"), HOP)
        assert collective(Q(message, "byte"), ranks, Q(bandwidth * factor, "byte/s"), HOP) <= time * (1 + 1e-12)
        assert collective(Q(2 * message, "byte"), ranks, Q(bandwidth, "byte/s"), HOP) <= 2 * time * (1 + 1e-12)


def test_arrays_equal_scalars():
    ranks = np.array([1.0, 2.0, 8.0, 100.0])
    for collective in RINGS:
        together = collective(GB, ranks, LINK, HOP).m_as("s")
        assert together == pytest.approx([collective(GB, n, LINK, HOP).m_as("s") for n in ranks])


def pipeline_schedule(stages, microbatches):
    """GPipe forward and backward, one time unit each, event by event: the fraction of the step in which a stage idles."""
    forward = np.zeros((stages, microbatches))
    for stage in range(stages):
        for batch in range(microbatches):
            before = forward[stage - 1, batch] if stage else 0.0
            forward[stage, batch] = max(before, forward[stage, batch - 1] if batch else 0.0) + 1
    step = 2 * forward[-1, -1]  # the backward pass mirrors the forward pass
    return 1 - 2 * microbatches / step


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 1), (4, 1), (4, 8), (8, 32)])
def test_pipeline_bubble_equals_its_schedule(stages, microbatches):
    assert fleet.pipeline_bubble(stages, microbatches, 1) == pytest.approx(pipeline_schedule(stages, microbatches))


def test_interleaving_divides_the_bubble():
    """Narayanan et al.: the idle time over the useful time is (p - 1) / (v m)."""
    bubble = fleet.pipeline_bubble(8, 16, 4)
    assert bubble / (1 - bubble) == pytest.approx(7 / 64)


# ------------------------------------------------------------------------------------------------------ wall 15


# Dubey et al. (2024), The Llama 3 Herd of Models, table 5: unexpected interruptions in 54 days on 16,384 accelerators, by cause.
LLAMA3_CAUSES = (148, 72, 54, 35, 32, 19, 17, 7, 7, 6, 6, 3, 3, 2, 2, 2, 2, 2)


def test_llama3_run_gives_its_published_mtbf():
    """419 interruptions in 54 days on 16,384 accelerators: one about every 3.1 hours."""
    each = fleet.measured_mtbf(16384, Q(54.0, "day"), sum(LLAMA3_CAUSES))
    assert each.m_as("h") == pytest.approx(50676, abs=2)
    assert fleet.cluster_mtbf(each, 16384).m_as("h") == pytest.approx(3.093, abs=1e-3)


def test_llama3_causes_in_series_are_the_whole():
    causes = [fleet.measured_mtbf(16384, Q(54.0, "day"), count) for count in LLAMA3_CAUSES]
    assert fleet.series_mtbf(*causes).m_as("h") == pytest.approx(fleet.measured_mtbf(16384, Q(54.0, "day"), 419).m_as("h"))


def simulate_goodput(interval, write, restart, mtbf, work=30_000.0, runs=60):
    """Work in intervals with a checkpoint after each; a failure loses the interval and restarts, itself liable to failure."""
    rng = np.random.default_rng(3)
    total = 0.0
    for _ in range(runs):
        clock, saved, failure = 0.0, 0.0, rng.exponential(mtbf)
        while saved < work:
            if clock + interval + write <= failure:
                clock, saved = clock + interval + write, saved + interval
                continue
            while True:
                clock = failure
                failure = clock + rng.exponential(mtbf)
                if clock + restart <= failure:
                    clock += restart
                    break
        total += saved / clock
    return total / runs


@pytest.mark.parametrize(("interval", "write", "restart", "mtbf"), [(100.0, 10.0, 30.0, 1000.0), (300.0, 60.0, 120.0, 400.0)])
def test_goodput_equals_a_simulation(interval, write, restart, mtbf):
    expected = simulate_goodput(interval, write, restart, mtbf)
    assert fleet.goodput(s(interval), s(write), s(restart), s(mtbf)) == pytest.approx(expected, rel=0.02)


def test_goodput_to_first_order():
    """1 - delta/tau - (tau/2 + R)/M where all are small against M."""
    got = fleet.goodput(s(100.0), s(0.1), s(5.0), s(1e5))
    assert got == pytest.approx(1 - 0.1 / 100 - (50 + 5) / 1e5, abs=2e-6)


@given(st.floats(1.0, 600.0), st.floats(3600.0, 1e7))
def test_daly_interval_wastes_less_than_its_neighbours(write, mtbf):
    best = fleet.daly_interval(s(write), s(mtbf))
    top = fleet.goodput(best, s(write), s(60.0), s(mtbf))
    for factor in (0.5, 2.0):
        assert fleet.goodput(best * factor, s(write), s(60.0), s(mtbf)) < top


def test_daly_and_young_agree_when_checkpoints_are_short():
    assert fleet.young_interval(s(10.0), s(2e6)).m_as("s") == pytest.approx(math.sqrt(4e7))
    assert fleet.daly_interval(s(1e-3), s(1e6)).m_as("s") == pytest.approx(
        fleet.young_interval(s(1e-3), s(1e6)).m_as("s"), rel=1e-3
    )


def test_daly_interval_is_the_mtbf_when_writing_takes_longer_than_two_of_them():
    assert fleet.daly_interval(s(2.0), s(1.0)).m_as("s") == 1.0


def test_failure_probability_of_one_mtbf():
    assert fleet.failure_probability(h(5.0), h(5.0)) == pytest.approx(1 - math.exp(-1))


# ------------------------------------------------------------------------------------------------------ wall 16


def simulate_single_server(rate, draw, jobs=400_000):
    """Mean wait by Lindley's recursion, in its cumulative-minimum form."""
    rng = np.random.default_rng(5)
    change = draw(rng, jobs) - rng.exponential(1 / rate, jobs)
    walk = np.concatenate([[0.0], np.cumsum(change)])
    return float(np.mean(walk - np.minimum.accumulate(walk)))


@pytest.mark.parametrize(
    ("cs2", "draw"),
    [
        (0.0, lambda rng, n: np.ones(n)),
        (1.0, lambda rng, n: rng.exponential(1.0, n)),
        (4.0, lambda rng, n: rng.gamma(0.25, 4.0, n)),
    ],
)
def test_pollaczek_khinchine_equals_a_simulation(cs2, draw):
    wait = fleet.pollaczek_khinchine_wait(Q(0.7, "1/s"), s(1.0), cs2).m_as("s")
    assert wait == pytest.approx(simulate_single_server(0.7, draw), rel=0.05)


def test_steady_jobs_wait_half_as_long():
    rate, job = Q(0.1, "1/h"), h(8.0)
    assert fleet.m_d_1_wait(rate, job).m_as("h") == pytest.approx(0.8 * 8 / 0.4)
    assert fleet.m_m_1_wait(rate, job) == 2 * fleet.m_d_1_wait(rate, job)


@given(st.floats(0.01, 100.0), st.floats(0.01, 100.0), st.floats(0.0, 10.0))
def test_utilisation_limit_inverts_the_wait(limit, service, cs2):
    highest = fleet.utilisation_limit(s(limit), s(service), cs2)
    wait = fleet.pollaczek_khinchine_wait(Q(highest / service, "1/s"), s(service), cs2).m_as("s")
    assert wait == pytest.approx(limit, rel=1e-9)


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_goodput_omits_rework():
    """8192 accelerators, 4.6 h between failures, 60 s to write, 300 s to restart: not 0.939 but about 0.90."""
    mtbf, write, restart = h(4.6), s(60.0), s(300.0)
    interval = fleet.young_interval(write, mtbf)
    without_rework = 1 - (write / interval).m_as("") - (restart / mtbf).m_as("")
    assert without_rework == pytest.approx(0.939, abs=1e-3)
    assert fleet.goodput(interval, write, restart, mtbf) == pytest.approx(0.90, abs=0.005)


def test_fault_goodput_is_clamped_at_zero():
    """Failing every minute leaves little, but the figure stays a fraction without a clamp."""
    value = fleet.goodput(s(600.0), s(60.0), s(300.0), s(60.0))
    assert 0 < value < 1e-4


def test_fault_microbatches_exceed_the_batch():
    """256 microbatches of 8 sequences do not exist: 8 give a bubble of 27 %, not 1.2 %."""
    assert fleet.pipeline_bubble(4, 8, 1, 8) == pytest.approx(3 / 11)
    with pytest.raises(ImpossibleValue, match="sequences"):
        fleet.pipeline_bubble(4, 256, 1, 8)


def test_fault_no_microbatch_at_all():
    with pytest.raises(ImpossibleValue, match="microbatch"):
        fleet.pipeline_bubble(4, 0, 1)


def test_fault_tensor_parallel_beyond_a_node_is_a_flat_ring():
    """Over two nodes the hierarchy is several times faster than a flat ring on the network ports."""
    flat = fleet.ring_all_reduce(GB, 16, LINK, HOP)
    assert flat > 4 * fleet.hierarchical_all_reduce(GB, 8, 2, NODE_LINK, NODE_HOP, LINK, HOP)


def test_fault_expert_all_to_all_always_on_the_fabric():
    """Experts within one node never touch the fabric."""
    slow = Q(1.0, "byte/s")
    inside = fleet.hierarchical_all_to_all(GB, 8, 1, NODE_LINK, NODE_HOP, slow, HOP)
    assert inside == fleet.all_to_all(GB, 8, NODE_LINK, NODE_HOP)


def test_fault_only_some_kinds_of_part_fail():
    """Switches, hosts and software count as well: any kind can be put in series."""
    parts = h(10.0), h(20.0), h(20.0)
    assert fleet.series_mtbf(*parts).m_as("h") == pytest.approx(5.0)


def test_fault_unstable_queue_reports_a_wait():
    assert fleet.m_d_1_wait(Q(1.0, "1/s"), s(1.0)).m_as("s") == math.inf
    assert fleet.m_d_1_wait(Q(2.0, "1/s"), s(1.0)).m_as("s") == math.inf
