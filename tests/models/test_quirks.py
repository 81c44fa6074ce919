"""The faults of the nearest existing tool, one by one: each has the right physics here, and a test named after it.

`QUIRKS` is the whole list, wall by wall, and says which test judges each. Those of single equations stand beside their
functions; those of compositions (a step, a replica, a scenario) stand below.
"""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest

from models import UnknownValue, fleet, node, operations, questions, scenario, solvers
from models.dimensions import ImpossibleValue
from models.lowering import lower
from zoo.specs import Generic
from zoo.units import Q, UnitError

QUIRKS = """
lowering: a sparse transformer streams all experts at any batch: fault_batch_one_decode_streams_all_experts
lowering: the unit of work is not in the type, an LLM's batch counts tokens: fault_unit_of_work_is_not_in_the_type
lowering: the cache has the precision of the weights: fault_kv_precision_equals_weight_precision
lowering: hidden size, heads and layers get silent defaults: fault_silent_defaults_when_shape_is_unset
lowering: diffusion reads its weights once for all steps: fault_diffusion_weights_are_read_once_for_all_steps
lowering: a recommendation model streams its tables: fault_embedding_tables_are_streamed
1-2: no language model is ever compute-bound: fault_no_llm_is_ever_compute_bound
1-2: training counts one token per sample: fault_training_counts_one_token_per_sample
1-2: capacity is the weights alone: fault_capacity_is_weights_alone
1-2: beyond memory every byte moves over PCIe: fault_beyond_memory_every_byte_moves_over_pcie
1-2: traffic is a tenth of the weights per sample: fault_unknown_traffic_is_a_tenth_of_the_weights_per_sample
1-2: efficiency slows compute only: fault_efficiency_slows_compute_alone
1-2: utilisation is clamped to one: fault_utilisation_is_clamped
1-2: a tie, or overhead, is labelled compute: fault_overhead_is_labelled_compute
1-2: an unknown precision runs at the fp16 peak: fault_unknown_precision_falls_to_another_peak
training memory: expert parallelism divides all parameters: fault_expert_parallelism_divides_all_parameters
training memory: no microbatches in flight: fault_no_microbatches_in_flight
training memory: tensor parallelism leaves activations whole: fault_tensor_parallelism_leaves_activations_whole
training memory: embeddings are spread over all stages: fault_embeddings_are_spread_over_all_stages
training memory: ZeRO-3 gathers nothing: fault_zero_3_gathers_into_no_memory
training memory: no reserve: fault_training_leaves_the_runtime_no_memory
3: a lookup table without chip, shape or batch: fault_efficiency_knows_no_shape_and_no_chip
3: precision is not validated: fault_efficiency_of_an_unknown_precision
3: the result is used by no other solver: fault_achieved_utilisation_is_used_by_nobody
4: prefill of experts uses total parameters: fault_moe_prefill_uses_total_parameters
4: decode has no compute term: fault_decode_has_no_compute_term
4: attention is not causal: fault_attention_is_not_causal
4: head_dim is ignored: fault_head_dim_is_ignored
4: overhead in one phase only: fault_overhead_in_one_phase_only
4: times are returned unpenalised where nothing fits: fault_what_does_not_fit_still_has_a_time
4: the cache is at its full length in every step: fault_cache_is_at_full_length_in_every_step
4: one accelerator only, no tensor or pipeline parallelism: fault_tensor_parallel_serving_is_missing
4: no expert parallelism in serving: fault_expert_parallel_serving_is_missing
5: the seed's formula is not reachable: kv_cache_of_the_seeds_formula
5: two solvers give different times per token: fault_two_solvers_of_one_decode_step
5: a sentinel time of 1000 s: fault_nothing_fits_is_a_sentinel_time
6: prefill attention uses KV heads and a factor of 2: fault_streaming_attention_uses_kv_heads
6: streaming ignores MLA: fault_streaming_ignores_latent_attention
6: an unknown injection bandwidth becomes 100 GB/s: fault_injection_bandwidth_falls_to_a_constant
7: P99 is the wait's P99 plus the mean service: fault_p99_is_wait_p99_plus_mean_service
7: M/M/100 at 95 %: fault_p99_of_a_hundred_servers_at_95_percent
7: the quantile is scaled by the correction of a mean: fault_variability_scales_the_quantile_of_service
7: an overload is reported as a load of one: fault_overload_is_reported_as_full
7: an unstable queue has headroom: unstable_queue_has_no_finite_headroom
8: demand is an input: fault_demand_is_an_input
8: no aggregate of nodes and file system: fault_storage_has_no_aggregate
8: without a described path everything stalls: fault_storage_without_a_path_is_infinitely_stalled
9: no cores: fault_preprocessing_has_no_cores
10: topology does not reach the step: fault_topology_does_not_reach_the_step
10: half the bisection of ring and torus: fault_ring_and_torus_bisection_is_half_the_physical
10: a small torus exceeds its links: fault_small_torus_exceeds_its_links
10: an unknown topology is non-blocking: fault_unknown_topology_is_treated_as_non_blocking
11: raw magnitudes, units slip by a million: fault_scaling_reads_raw_magnitudes
11: any prefix: prefixes_never_slip
11: days mean H100 at 40 %: fault_compute_budget_in_days_of_a_fixed_chip
11: no loss, no optimum for inference: fault_scaling_knows_no_loss_and_no_inference
12: time per token stays that of the first: fault_reasoning_freezes_the_cache
12: growth of the cache is not checked: fault_thought_needs_no_memory
12: no parallel samples, no tree: fault_thought_has_no_samples_and_no_tree
13: any precision has an invented loss of quality: fault_quality_is_invented_for_any_precision
13: the baseline is 32 bits: fault_default_baseline_is_32_bits
13: fp8 peaks are never used: fault_fp8_peaks_are_never_used
13: positions of sparse weights are free: fault_sparse_index_is_ignored
13: pruning everything gives a hundred: fault_pruning_everything_gives_a_hundred
14: attention operations are absent: fault_attention_operations_are_absent_from_training
14: pipeline sends are absent: fault_pipeline_sends_are_absent
14: interleaving is free: fault_interleaving_is_free
14: ZeRO-3 takes as long as ZeRO-0: fault_zero_3_communicates_nothing
14: recomputation repeats no communication: fault_recompute_repeats_no_communication
14: one all-to-all per step: fault_one_all_to_all_per_step
14: expert all-to-all always on the fabric: fault_expert_all_to_all_always_on_the_fabric
14: expert gradients are not shared: fault_expert_gradients_are_reduced_over_all_ranks
14: accumulation divides the gradient's time again: fault_accumulation_discounts_gradients_twice
14: throughput counts samples that the batch does not have: fault_throughput_counts_ranks_instead_of_samples
14: microbatches exceed the batch: fault_microbatches_exceed_the_batch
14: overlap hides a flat 85 %: fault_overlap_hides_communication_without_a_check
14: tensor parallelism beyond a node is a flat ring: fault_tensor_parallel_beyond_a_node_is_a_flat_ring
14: tensor parallelism beyond a node in a step: fault_tensor_parallel_beyond_a_node_in_a_step
14: congestion slows NVLink too: fault_a_slow_network_slows_the_node
14: what does not fit still passes: fault_infeasible_memory_still_reports_a_pass
15: rework is left out of goodput: fault_goodput_omits_rework
15: goodput is clamped: fault_goodput_is_clamped_at_zero
15: only some kinds of part fail: fault_only_some_kinds_of_part_fail
15: checkpoint time is not that of wall 19: fault_checkpoint_time_does_not_reach_goodput
15: goodput does not reach time and cost: fault_goodput_does_not_reach_cost
16: an unstable queue has a wait: fault_unstable_queue_reports_a_wait
16: read in no scenario: a_limit_that_is_set_is_read_as_headroom
17: an unknown price is free: fault_price_unknown_is_free
17: electricity costs the same everywhere: fault_region_changes_neither_price_nor_carbon
17: no way to rent: fault_nothing_can_be_rented
17: no host, network or building: fault_only_accelerators_cost
17: always at full utilisation: fault_cost_and_carbon_at_full_utilisation
17: carbon has no price: fault_carbon_is_not_in_the_cost
18: power of accelerators alone: fault_power_of_accelerators_alone
18: water on facility energy: fault_water_counted_on_facility_energy
18: embodied carbon is not amortised: fault_embodied_carbon_is_not_amortised
18: a region without figures gets averages: fault_a_region_without_figures_gets_averages
18: annual averages only: fault_carbon_knows_annual_averages_alone
18: constants in code: fault_embodied_and_idle_are_constants_of_the_code
19: a penalty above one: fault_checkpoint_penalty_exceeds_one
19: storage falls back to a constant: fault_storage_bandwidth_falls_back_to_a_constant
20: privacy slows by an invented law: fault_privacy_slows_training_by_an_invented_law
20: delta is unused: fault_delta_is_unused
20: fairness costs one over the prevalence: fault_fairness_costs_one_over_the_prevalence
21: three knobs: fault_sensitivity_has_three_knobs
21: one-sided: fault_sensitivity_is_one_sided
21: overhead-bound model names bandwidth: fault_overhead_bound_model_names_memory_bandwidth
21: works on no fleet: fault_sensitivity_works_on_no_fleet
22: fed forward it misses its target: fault_synthesis_fed_forward_misses_its_target
22: experts count whole: fault_synthesis_streams_all_experts
"""

IDEAL = solvers.Software(1.0, 1.0, math.inf, Q(0.0, "s"))


def listed():
    return [line.rsplit(": ", 1)[1] for line in QUIRKS.strip().splitlines()]


def test_every_quirk_of_the_list_has_its_test():
    written = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    names = set(re.findall(r"^def test_(\w+)", written, re.MULTILINE))
    assert [name for name in listed() if name not in names] == []


def tokens(value):
    return Q(float(value), "token")


def seconds(value):
    return np.asarray(value.m_as("s")).item()


SCALED = solvers.scaling(Q(6 * 8e9 * 1e12, "flop"), 125, "epoch")


def train(cluster, tensor=1, pipeline=1, microbatches=1, batch=2**22, **more):
    """A step of an 8-billion-parameter model of 32 layers, 4096 wide."""
    scaled = dataclasses.replace(SCALED, parameters=8e9, tokens=tokens(1e12))
    return solvers.distributed(
        scaled, cluster, "bf16", 0.5, tokens(batch), tensor, pipeline, microbatches, 32, 4096, **more
    )  # fmt: skip


EXPERTS = solvers.Experts(layers=32, count=8, top_k=2, parameters=24e9)


@pytest.fixture
def ask():
    return questions.Training(
        precision="bf16", optimizer="adamw", tokens=tokens(1e12), batch_tokens=tokens(2**22), sequence_length=tokens(4096),
        tensor_parallel=8, pipeline_parallel=1, microbatches=8, compute_efficiency=0.5, accelerator_mtbf=Q(50676.0, "h"),
        restart_time=Q(10.0, "min"), writer_bandwidth=Q(5.0, "GB/s"), storage_bandwidth=Q(100.0, "GB/s"),
        bytes_per_token=Q(4.0, "byte/token"), cores=64, core_throughput=Q(10.0, "MB/s"),
    )  # fmt: skip


@pytest.fixture
def own():
    return questions.Ownership(
        life=Q(4.0, "yr"), residual=0.1, maintenance_rate=Q(0.05, "1/yr"), utilisation=0.8, idle_fraction=0.13,
        grid_water=Q(0.0, "L/Wh"),
    )  # fmt: skip


@pytest.fixture
def run(llama8b, cluster, quebec, own, ask):
    """A scenario that trains."""

    def make(model=llama8b, **changes):
        return scenario.Scenario(
            name="run", workload=model, fleet=cluster, region=quebec, horizon=Q(60.0, "day"),
            question=dataclasses.replace(ask, **changes), ownership=own,
        )  # fmt: skip

    return make


@pytest.fixture
def chat(llama8b, cluster, quebec, own):
    """A scenario that serves."""

    def make(model=llama8b, **changes):
        question = questions.Service(
            precision="bf16", kv_precision="bf16", tensor_parallel=1, batch=32, arrival_rate=Q(100.0, "1/s"),
            prompt=tokens(1000), output=tokens(200), percentile=0.99, token_limit=Q(40.0, "ms"),
        )  # fmt: skip
        return scenario.Scenario(
            name="chat", workload=model, fleet=cluster, region=quebec, horizon=Q(30.0, "day"),
            question=dataclasses.replace(question, **changes), ownership=own,
        )  # fmt: skip

    return make


# ------------------------------------------------------------------------------------------------ lowering, walls 1-2


def test_fault_embedding_tables_are_streamed():
    """A DLRM of 25 billion parameters multiplies 24 million of them for a sample: 48 MB move, not 50 GB."""
    dlrm = Generic("dlrm", "recommendation", 25e9, "sample", Q(0.048, "GFLOP"))
    demand = lower(dlrm, "bf16", 1000)
    assert demand.traffic.m_as("MB") == pytest.approx(48.0) and demand.weight_bytes.m_as("GB") == pytest.approx(50.0)
    assert any("tables" in assumption for assumption in demand.assumptions)


def test_a_state_space_model_reads_and_writes_its_state():
    ssm = Generic("ssm", "ssm", 1e9, "token", Q(2.0, "GFLOP"), state_elements=10**6)
    one, ten = (lower(ssm, "bf16", batch).traffic.m_as("MB") for batch in (1, 10))
    assert one == pytest.approx(2000 + 4) and ten == pytest.approx(2000 + 40)


def test_fault_training_counts_one_token_per_sample(cluster):
    """Twice the tokens in a step, whether of more or of longer sequences, are twice the work."""
    short, long = (train(cluster, batch=512 * length, sequence_length=tokens(length)) for length in (4096, 8192))
    assert seconds(long.compute_time) == pytest.approx(2 * seconds(short.compute_time))


def test_fault_capacity_is_weights_alone(chat):
    needed = chat().evaluate().wall(2)
    bare = node.weight_bytes(8.03e9, Q(2.0, "byte"))
    level_one = next(found for found in chat().evaluate().readings[1] if found.wall == 2)
    cache = 32 * node.kv_bytes_per_sequence(chat().workload, tokens(1200), Q(2.0, "byte"), tokens(16))
    assert level_one.demand > bare + cache and needed.name == "Memory"


def test_fault_beyond_memory_every_byte_moves_over_pcie(chat, h100):
    """What does not fit has no time at all, and no bandwidth of the host is in it."""
    crowded = chat(batch=100_000)
    assert math.isinf(seconds(crowded.output("time")))
    assert not solvers.single_node(crowded.workload, dataclasses.replace(h100, memory=Q(1.0, "GB")), "bf16", 1, IDEAL).fits


def test_fault_efficiency_slows_compute_alone(llama8b, h100):
    half = dataclasses.replace(IDEAL, memory_efficiency=0.5)
    fast, slow = (solvers.single_node(llama8b, h100, "bf16", 1, software) for software in (IDEAL, half))
    assert fast.bound == "memory" and seconds(slow.time) == pytest.approx(2 * seconds(fast.time))


def test_fault_utilisation_is_clamped():
    """More work than the peak allows in the time is a contradiction that must show."""
    assert node.model_flops_utilisation(Q(3.0, "TFLOP"), Q(1.0, "s"), Q(2.0, "TFLOP/s")) == pytest.approx(1.5)


def test_fault_overhead_is_labelled_compute(h100):
    tiny = Generic("tiny", "cnn", 1e5, "image", Q(0.01, "GFLOP"))
    software = dataclasses.replace(IDEAL, launch=Q(1.0, "ms"))
    assert solvers.single_node(tiny, h100, "bf16", 1, software).bound == "launch"


# ---------------------------------------------------------------------------------------------------- training memory


def memory(scenario_):
    """Weights and state, activations, runtime [GB] of the fullest accelerator."""
    return [part.m_as("GB") for part in scenario._Training(scenario_, scenario_.question).memory]


def test_fault_expert_parallelism_divides_all_parameters(run, mixtral):
    one, eight = (memory(run(mixtral, tensor_parallel=1, expert_parallel=e, zero_stage=0))[0] for e in (1, 8))
    routed = node.routed_parameters(mixtral) * 16 / 1e9  # 2 + 2 + 12 bytes each
    assert one - eight == pytest.approx(routed * 7 / 8)


def test_fault_no_microbatches_in_flight(run):
    """A stage holds a quarter of the layers, for four microbatches: as much as one stage with all of them for one."""
    flat, deep = (memory(run(tensor_parallel=1, pipeline_parallel=p, microbatches=8))[1] for p in (1, 4))
    assert deep == pytest.approx(4 * flat)  # with a quarter of the ranks, a microbatch is four times as large
    few = memory(run(tensor_parallel=1, pipeline_parallel=4, microbatches=2))[1]
    assert few == pytest.approx(2 * deep)  # two in flight instead of four, each four times as large


def test_fault_tensor_parallelism_leaves_activations_whole():
    one, eight = (node.activation_bytes(tokens(1000), 100, t, 0).m_as("byte") for t in (1, 8))
    assert one == pytest.approx(34e5) and eight == pytest.approx((10 + 24 / 8) * 1e5)
    assert node.activation_bytes(tokens(1000), 100, 1, 1).m_as("byte") == pytest.approx(2e5)


def test_fault_embeddings_are_spread_over_all_stages(run, llama8b):
    """32 stages of one layer each: the first has its layer and the whole table of 128256 x 4096."""
    held = memory(run(tensor_parallel=1, pipeline_parallel=32, microbatches=32, zero_stage=0))[0]
    table = 128256 * 4096
    assert held == pytest.approx(16e-9 * ((8.03e9 - 2 * table) / 32 + table))


def test_fault_zero_3_gathers_into_no_memory(run):
    shared = memory(run(tensor_parallel=1, zero_stage=3))[0]
    assert shared > 16e-9 * 8.03e9 / 512 + 2 * 2e-9 * 8.03e9 / 32 * 0.99


def test_fault_training_leaves_the_runtime_no_memory(run):
    assert memory(run())[2] > 0
    exact = sum(memory(run()))
    level_one = next(found for found in run().evaluate().readings[1] if found.wall == 2)
    assert level_one.demand.m_as("GB") == pytest.approx(exact)


# ------------------------------------------------------------------------------------------------------------- wall 3


def test_fault_efficiency_knows_no_shape_and_no_chip():
    def reached(rows, peak):
        chip = Q(peak, "TFLOP/s"), Q(3.35, "TB/s")
        return node.gemm_efficiency(rows, 4096, 4096, Q(2.0, "byte"), Q(2.0, "byte"), *chip, 0.8, 0.8, 3.0, Q(5.0, "us"))

    assert reached(8, 989.0) < 0.05 < reached(512, 989.0) < reached(8192, 989.0) < 0.8
    assert reached(512, 312.0) > reached(512, 989.0)


def test_fault_efficiency_of_an_unknown_precision(h100):
    with pytest.raises(UnknownValue, match="fp9"):
        solvers.efficiency(h100, "fp9", 0.8, 0.9, 0.75)


def test_fault_achieved_utilisation_is_used_by_nobody(run):
    """What kernels reach changes the step, the run's end and its cost."""
    slow, fast = run(compute_efficiency=0.3), run(compute_efficiency=0.6)
    for of in ("time", "duration", "cost", "carbon"):
        assert slow.output(of) > 1.3 * fast.output(of)


# --------------------------------------------------------------------------------------------------------- walls 4, 5


def test_fault_overhead_in_one_phase_only(llama8b, h100):
    launch = dataclasses.replace(IDEAL, launch=Q(3.0, "ms"))
    plain, late = (
        solvers.serving(llama8b, h100, "bf16", "bf16", 1, tokens(1000), tokens(1000), software) for software in (IDEAL, launch)
    )
    assert seconds(late.time_to_first_token - plain.time_to_first_token) == pytest.approx(3e-3)
    assert seconds(late.inter_token_time - plain.inter_token_time) == pytest.approx(3e-3)


def test_fault_what_does_not_fit_still_has_a_time(chat, run, llama8b):
    huge = dataclasses.replace(llama8b, parameters=400e9, active_parameters=400e9)
    for of in ("time", "cost", "carbon"):
        assert math.isinf(np.asarray(chat(huge).output(of).magnitude).item())
        assert math.isinf(np.asarray(run(huge).output(of).magnitude).item())


def test_fault_cache_is_at_full_length_in_every_step(chat):
    """The mean step reads the prompt and half of the answer: 200 more tokens of answer are as 100 more of prompt."""
    base, answer, prompt = (chat(prompt=tokens(p), output=tokens(o), batch=1) for p, o in ((1000, 200), (1000, 400), (1100, 200)))
    longer, wider = (seconds(s.output("time")) - seconds(base.output("time")) for s in (answer, prompt))
    assert longer == pytest.approx(wider, rel=0.05)


def test_fault_tensor_parallel_serving_is_missing(chat):
    one, four = (chat(tensor_parallel=t).evaluate() for t in (1, 4))
    assert four.wall(4).demand < one.wall(4).demand
    assert one.wall(14).demand.m_as("s") == 0 < four.wall(14).demand.m_as("s")
    weights = [next(found for found in e.readings[1] if found.wall == 2).demand.m_as("GB") for e in (one, four)]
    assert weights[0] - weights[1] > 0.7 * 16.06


def test_fault_expert_parallel_serving_is_missing(chat, mixtral):
    """Experts over eight chips: 90 GB of weights fit where one chip has no room, and tokens travel to them."""
    alone, together = (chat(mixtral, expert_parallel=e).evaluate() for e in (1, 8))
    assert not alone.feasible and alone.wall(2).violated
    assert together.feasible and together.wall(14).demand.m_as("s") > 0


def test_fault_two_solvers_of_one_decode_step():
    """Batching counts sequences and bytes; time per token comes from wall 4 alone."""
    assert not any("time" in field.name for field in dataclasses.fields(solvers.BatchingResult))


def test_fault_nothing_fits_is_a_sentinel_time(llama8b, h100):
    small = dataclasses.replace(h100, memory=Q(10.0, "GB"))
    found = solvers.continuous_batching(llama8b, small, "bf16", "bf16", tokens(4096), tokens(16), Q(0.0, "GB"))
    assert found.largest_batch == 0


def test_kv_cache_of_the_seeds_formula():
    """2 L H D ceil(S/p) p B b, with a pencil: 2 x 10 x 8 x 100 x 48 x 2 x 2 B."""
    assert node.kv_cache_bytes(10, 8, 100, tokens(33), 2, Q(2.0, "byte"), tokens(16)).m_as("MB") == pytest.approx(3.072)


# --------------------------------------------------------------------------------------------------------- walls 6-10


def test_fault_streaming_ignores_latent_attention(deepseek_v3):
    rest = tokens(4096), tokens(4096), Q(1.0, "TB/s"), Q(1000.0, "TFLOP/s"), 0.5
    latent = solvers.weight_streaming(deepseek_v3, "fp8", 8, *rest)
    by_hand = node.decode_operations(deepseek_v3, 8, tokens(4096)).m_as("flop") / 61 / 500e12
    assert seconds(latent.compute_time) == pytest.approx(by_hand)
    expected = 8 * node.prefill_operations(deepseek_v3, tokens(4096), tokens(0)).m_as("flop") / 61 / 500e12
    assert seconds(latent.prefill_compute_time) == pytest.approx(expected)


def test_fault_injection_bandwidth_falls_to_a_constant(llama8b):
    with pytest.raises(UnknownValue, match="bandwidth"):
        solvers.weight_streaming(llama8b, "bf16", 1, tokens(1), tokens(1), None, Q(1.0, "TFLOP/s"), 0.5)


def test_fault_variability_scales_the_quantile_of_service():
    """At low load a request hardly waits: burstier arrivals must not stretch its service."""
    calm, wild = (node.sojourn_quantile(Q(1e-6, "1/s"), Q(1.0, "s"), 4, 0.99, ca2, 1.0).m_as("s") for ca2 in (1.0, 9.0))
    assert calm == pytest.approx(wild, rel=1e-6)


def test_fault_overload_is_reported_as_full():
    result = solvers.tail_latency(Q(3.0, "1/s"), Q(1.0, "s"), 2, 0.99)
    assert result.utilisation == pytest.approx(1.5) and math.isinf(seconds(result.sojourn))


def test_fault_storage_has_no_aggregate():
    few, many = (solvers.data(Q(1e4, "1/s"), Q(1.0, "MB"), n, Q(2.0, "GB/s"), Q(50.0, "GB/s")) for n in (4, 100))
    assert few.supply.m_as("GB/s") == 8 and many.supply.m_as("GB/s") == 50


def test_fault_preprocessing_has_no_cores():
    one, eight = (solvers.transformation(10, Q(1.0, "MB"), n, Q(10.0, "MB/s"), Q(1.0, "ms")).time for n in (1, 8))
    assert seconds(one) == pytest.approx(8 * seconds(eight))


def test_fault_topology_does_not_reach_the_step(cluster):
    """Experts of 512 ranks send to all: on a ring of 512 endpoints each has 4/512 of its link."""

    def exchange(topology, oversubscription):
        fabric = dataclasses.replace(cluster.fabric, topology=topology, oversubscription=oversubscription)
        changed = dataclasses.replace(cluster, fabric=fabric)
        return seconds(train(changed, experts=dataclasses.replace(EXPERTS, parallel=512)).parts["expert"])

    assert exchange("fat-tree", 2.0) > 1.8 * exchange("fat-tree", 1.0)
    assert exchange("ring", 1.0) > 20 * exchange("fat-tree", 1.0)


def test_wall_10_reads_the_traffic_of_the_step(run):
    """Gradients of 2 B each over 64 nodes: 2 x 63/64 x 16 GB cross in a step, on 512 x 50 GB/s / 2."""
    found = run(tensor_parallel=1, microbatches=1).evaluate()
    step = found.wall(14).limit.m_as("s")
    assert found.wall(10).demand.m_as("GB/s") == pytest.approx(2 * 63 / 64 * 2 * 8.03 / step)
    assert found.wall(10).limit.m_as("GB/s") == pytest.approx(512 * 50 / 2)


# -------------------------------------------------------------------------------------------------------- walls 11-13


def test_prefixes_never_slip():
    """The same work in any prefix gives the same answer: none slips by a thousand or a million."""
    asked = [solvers.scaling(Q(1e24 / 10.0**n, f"{prefix}FLOP"), 20, "epoch") for n, prefix in
             ((0, ""), (3, "k"), (6, "M"), (9, "G"), (12, "T"), (15, "P"), (18, "E"), (21, "Z"))]  # fmt: skip
    assert all(a.parameters == pytest.approx(asked[0].parameters, rel=1e-12) for a in asked)
    for size in (Q(8e9, "byte"), Q(8e6, "kB"), Q(8e3, "MB"), Q(8.0, "GB"), Q(0.008, "TB"), Q(64.0, "Gb")):
        assert node.memory_time(size, Q(1.0, "TB/s"), 1.0).m_as("ms") == pytest.approx(8.0, rel=1e-12)


def test_fault_compute_budget_in_days_of_a_fixed_chip():
    with pytest.raises(UnitError, match="operations"):
        solvers.scaling(Q(30.0, "day"), 20, "epoch")


def test_fault_scaling_knows_no_loss_and_no_inference():
    from models import algorithm

    law = algorithm.scaling_law("epoch")
    scaled = solvers.scaling(Q(1e23, "flop"), 20, "epoch")
    assert law.E < scaled.loss < 3
    used = algorithm.inference_aware_parameters(law, scaled.loss, tokens(1e13))
    assert used < algorithm.inference_aware_parameters(law, scaled.loss, tokens(0))


def test_fault_thought_needs_no_memory(chat):
    plain, thinking = (chat(thought=thought).evaluate() for thought in (None, tokens(8000)))
    assert thinking.readings[1][1].demand > plain.readings[1][1].demand
    assert thinking.wall(12).demand.m_as("s") == pytest.approx(8000 * thinking.wall(4).demand.m_as("s"))


def test_fault_thought_has_no_samples_and_no_tree():
    from models import algorithm

    rest = tokens(0), Q(10.0, "ms"), Q(0.0, "s/token"), 0.2, -0.2
    one, ten = (solvers.inference_scaling(tokens(100), samples, *rest) for samples in (1, 10))
    assert ten.tokens == 10 * one.tokens and ten.time == one.time and ten.coverage > one.coverage
    assert algorithm.tree_search_steps(3, 3, 2) == 3 + 6 + 6


def test_fault_fp8_peaks_are_never_used(llama8b, h100):
    wide, narrow = (solvers.single_node(llama8b, h100, p, 8192, IDEAL) for p in ("bf16", "fp8"))
    assert seconds(narrow.compute_time) == pytest.approx(seconds(wide.compute_time) * 989 / 1979)


# ------------------------------------------------------------------------------------------------------------ wall 14


def test_fault_attention_operations_are_absent_from_training(run):
    """At 32 thousand tokens, attention is more than a third of an 8B model's work."""
    short, long = (run(sequence_length=tokens(length), microbatches=1) for length in (2048, 32768))
    one, other = (seconds(scenario._Training(s, s.question).run.compute_time) for s in (short, long))
    assert other > 1.3 * one


def test_fault_pipeline_sends_are_absent(cluster):
    """4 stages over 4 nodes' worth of ranks: 2 sends of every microbatch, 2^22/128 tokens x 4096 x 2 B in all at 50 GB/s."""
    sends = train(cluster, tensor=8, pipeline=4, microbatches=8).parts["sends"]
    message = 2**22 / 16 * 4096 * 2 / 50e9
    assert seconds(sends) == pytest.approx(2 * (message + 8 * 5e-6))
    assert seconds(train(cluster, tensor=8).parts["sends"]) == 0


def test_fault_interleaving_is_free(cluster):
    plain, chunks = (train(cluster, 8, 4, 8, virtual_stages=v) for v in (1, 4))
    assert chunks.bubble < plain.bubble and chunks.parts["sends"] == 4 * plain.parts["sends"]


def test_fault_zero_3_communicates_nothing(cluster):
    """Without accumulation: two gathers and a scatter, 1.5 times an all-reduce (Rajbhandari et al. 2020)."""
    zero, three = (train(cluster, zero_stage=stage) for stage in (0, 3))
    ratio = seconds(three.communication_time) / seconds(zero.communication_time)
    assert ratio == pytest.approx(1.5)
    assert seconds(train(cluster, microbatches=4, zero_stage=3).parts["gathers"]) == pytest.approx(
        4 * seconds(three.parts["gathers"])
    )


def test_fault_recompute_repeats_no_communication(cluster):
    plain, again = (train(cluster, tensor=8, recompute=share) for share in (0, 1))
    assert seconds(again.parts["tensor"]) == pytest.approx(1.5 * seconds(plain.parts["tensor"]))
    assert seconds(again.compute_time) == pytest.approx(4 / 3 * seconds(plain.compute_time))
    assert again.model_flops_utilisation < plain.model_flops_utilisation


def test_fault_one_all_to_all_per_step(cluster):
    """32 layers, forward and backward, there and back: 128 exchanges."""
    exchange = train(cluster, experts=dataclasses.replace(EXPERTS, parallel=8)).parts["expert"]
    one = fleet.all_to_all(Q(2**22 / 512 * 4096 * 2 * 2, "byte"), 8, Q(450.0, "GB/s"), Q(1.0, "us"))
    assert seconds(exchange) == pytest.approx(128 * seconds(one))


def test_fault_expert_gradients_are_reduced_over_all_ranks(cluster):
    """64 ranks in 8 nodes share the experts: each reduces a 64th of them, with the 7 others that hold the same."""
    gradients = train(cluster, experts=dataclasses.replace(EXPERTS, parallel=64)).parts["gradients"]
    links = Q(450.0, "GB/s"), Q(1.0, "us"), Q(50.0, "GB/s"), Q(5.0, "us")
    trunk = fleet.hierarchical_all_reduce(Q(4.0, "GB"), 8, 64, *links)
    experts = fleet.ring_all_reduce(Q(48 / 64, "GB"), 8, *links[2:])
    assert seconds(gradients) == pytest.approx(seconds(trunk) + seconds(experts))


def test_fault_accumulation_discounts_gradients_twice(cluster):
    one, eight = (train(cluster, microbatches=m).parts["gradients"] for m in (1, 8))
    assert seconds(one) == seconds(eight)


def test_fault_throughput_counts_ranks_instead_of_samples(cluster):
    with pytest.raises(ImpossibleValue, match="microbatches need as many sequences"):
        train(cluster, batch=8 * 4096, sequence_length=tokens(4096))  # 8 sequences for 512 ranks
    odd = train(cluster, batch=1000 * 4096, sequence_length=tokens(4096))
    assert (odd.throughput * odd.step_time).m_as("token") == pytest.approx(1000 * 4096)


def test_fault_overlap_hides_communication_without_a_check(cluster):
    """Nothing is assumed to overlap: the step is the sum of its parts."""
    found = train(cluster, 8, 4, 8, sequence_length=tokens(4096))
    parts = sum(seconds(part) for part in found.parts.values())
    assert seconds(found.step_time) == pytest.approx(seconds(found.compute_time) / (1 - found.bubble) + parts)


def test_fault_tensor_parallel_beyond_a_node_in_a_step(cluster):
    """16 ranks in 2 nodes: half of the fabric's traffic of a flat ring per rank is left to each of 8 rings."""
    inside, beyond = (seconds(train(cluster, tensor=t).parts["tensor"]) for t in (8, 16))
    message = Q(2**22 / 32 * 4096 * 2, "byte")
    flat = 4 * 32 * seconds(fleet.ring_all_reduce(message, 16, Q(50.0, "GB/s"), Q(5.0, "us")))
    assert inside < beyond < 0.4 * flat


def test_fault_a_slow_network_slows_the_node(cluster):
    slow = dataclasses.replace(cluster.fabric, bandwidth=Q(1.0, "GB/s"))
    changed = dataclasses.replace(cluster, fabric=slow)
    assert train(changed, tensor=8).parts["tensor"] == train(cluster, tensor=8).parts["tensor"]


# -------------------------------------------------------------------------------------------------------- walls 15-22


def test_fault_checkpoint_time_does_not_reach_goodput(run):
    fast, slow = (run(storage_bandwidth=Q(b, "GB/s")) for b in (100.0, 0.5))
    assert slow.evaluate().wall(15).demand > 2 * fast.evaluate().wall(15).demand
    assert slow.output("time") == fast.output("time") and slow.output("cost") > fast.output("cost")


def test_fault_region_changes_neither_price_nor_carbon(run, quebec):
    grid = dataclasses.replace(quebec.grid, average_intensity=Q(600.0, "gCO2e/kWh"))
    warsaw = dataclasses.replace(quebec, name="x/warsaw", electricity_price=Q(0.15, "USD/kWh"), grid=grid)
    moved = dataclasses.replace(run(), region=warsaw)
    assert moved.output("cost") > 1.05 * run().output("cost") and moved.output("carbon") > 10 * run().output("carbon")


def test_fault_nothing_can_be_rented(run, own, cluster):
    """512 accelerators at 2 USD/h for the whole run, and nothing else; no price of a chip is needed."""
    chip = dataclasses.replace(cluster.node.accelerator, price=None)
    unpriced = dataclasses.replace(cluster, node=dataclasses.replace(cluster.node, accelerator=chip))
    rented = dataclasses.replace(run(), fleet=unpriced, ownership=dataclasses.replace(own, rent=Q(2.0, "USD/h")))
    hours = rented.output("duration").m_as("h")
    assert rented.output("cost").m_as("USD") == pytest.approx(512 * 2 * hours)


def test_fault_only_accelerators_cost(run, own):
    whole = dataclasses.replace(run(), ownership=dataclasses.replace(own, surroundings=Q(30000.0, "USD")))
    assert "accelerators alone" in run().evaluate().wall(17).note and "alone" not in whole.evaluate().wall(17).note
    assert 1.8 * run().output("cost") < whole.output("cost") < 2 * run().output("cost")


def test_fault_carbon_is_not_in_the_cost(run, own):
    priced = dataclasses.replace(run(), ownership=dataclasses.replace(own, carbon_price=Q(100.0, "USD/tCO2e")))
    added = (priced.output("cost") - run().output("cost")).m_as("USD")
    assert added == pytest.approx(run().output("carbon").m_as("tCO2e") * 100)


def test_fault_carbon_knows_annual_averages_alone(run, own, quebec):
    """Emissions of each hour at its own intensity, and three methods that name themselves."""
    hourly = operations.carbon(Q(np.array([1.0, 2.0]), "kWh"), 1.2, Q(np.array([100.0, 500.0]), "gCO2e/kWh"))
    assert list(hourly.m_as("gCO2e")) == pytest.approx([120.0, 1200.0])
    grid = dataclasses.replace(quebec.grid, marginal_intensity=Q(400.0, "gCO2e/kWh"))
    marginal = dataclasses.replace(
        run(), region=dataclasses.replace(quebec, grid=grid), ownership=dataclasses.replace(own, carbon_method="marginal")
    )
    assert marginal.output("carbon") > 5 * run().output("carbon")
    assert "location marginal" in marginal.evaluate().wall(18).note


def test_fault_sensitivity_works_on_no_fleet(run, chat):
    """Every known input of the whole composition, two-sided, with the wall that binds."""
    step = run().sensitivity("time")
    assert (step.binding, step.wall) == ("peak", 1)
    cost = {e.name: e for e in run().sensitivity("cost").elasticities}
    assert cost["price"].up + cost["electricity_price"].up == pytest.approx(1.0)
    assert cost["mtbf"].up < 0 and cost["storage_bandwidth"].up < 0
    carbon = {e.name: e for e in run().sensitivity("carbon").elasticities}
    assert 0.5 < carbon["carbon_intensity"].up < 1  # the rest is embodied
    assert (chat().sensitivity("time").binding, chat().sensitivity("time").wall) == ("memory_bandwidth", 2)
    assert run().sensitivity("duration").elasticities[0].name == "peak"


def test_fault_synthesis_streams_all_experts(chat, mixtral):
    """At batch 1 a token touches 2 of 8 experts: 13 billion parameters, not 47, set the bandwidth."""
    small = chat(mixtral, tensor_parallel=4, batch=1, token_limit=Q(20.0, "ms"))
    needed = small.synthesis(("memory_bandwidth",))["memory_bandwidth"]
    active, total = (Q(2e9 * p / 4, "byte") / Q(20.0, "ms") for p in (12.9, 46.7))
    assert active < needed < total
    there = small.fleet.node.accelerator.memory_bandwidth
    exact = small.scaled({"memory_bandwidth": (needed / there).m_as("")})
    assert seconds(exact.output("time")) == pytest.approx(0.02, rel=1e-12)
