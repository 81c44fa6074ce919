"""The solvers of the architecture by name: each composes the functions of its walls into one typed result.

    scaling -> distributed -> economics -> sustainability

chains: each of these takes the result of the one before. Nothing is computed here that the walls do not compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.specs import Accelerator, Fleet, Region, Transformer
from zoo.units import Q, Quantity

from . import algorithm, analysis, fleet, node, operations
from . import data as pipeline
from .dimensions import Number, known, require
from .lowering import lower

_ONE_TOKEN = Q(1.0, "token")
_NOTHING_CACHED = Q(0.0, "token")


@dataclass(frozen=True, slots=True)
class Software:
    """How well software uses a chip: fractions of its peaks, overlap exponent of the roofline, fixed time per step (wall 3)."""

    compute_efficiency: Number
    memory_efficiency: Number
    exponent: Number
    launch: Quantity


def _peak(accelerator: Accelerator, precision: str) -> Quantity:
    """The peak at the format that weights in `precision` are multiplied in."""
    multiplied = algorithm.computes_in(precision)
    return known(accelerator.peak.get(multiplied), f"the peak of {accelerator.name} at {multiplied}")


# ------------------------------------------------------------------------------------------------- node, walls 1-7


@dataclass(frozen=True, slots=True)
class PerformanceProfile:
    """A batch on one accelerator. `bound` is "compute", "memory" or "launch": whichever takes longest."""

    compute_time: Quantity
    memory_time: Quantity
    time: Quantity
    throughput: Quantity  # units of the workload per second
    model_flops_utilisation: Number
    intensity: Quantity
    ridge_point: Quantity
    weight_bytes: Quantity
    memory: Quantity
    fits: Any
    bound: Any


def single_node(workload: Any, accelerator: Accelerator, precision: str, batch: Number, software: Software) -> PerformanceProfile:
    """Walls 1 and 2: roofline time of `batch` units (a count) on one accelerator, and whether the weights fit."""
    demand, peak = lower(workload, precision, batch), _peak(accelerator, precision)
    compute = node.compute_time(demand.operations, peak, software.compute_efficiency)
    memory = node.memory_time(demand.traffic, accelerator.memory_bandwidth, software.memory_efficiency)
    time = node.soft_roofline(compute, memory, software.exponent, software.launch)
    phases = np.stack(np.broadcast_arrays(compute.m_as("s"), memory.m_as("s"), software.launch.m_as("s")))
    return PerformanceProfile(
        compute_time=compute,
        memory_time=memory,
        time=time,
        throughput=(batch / time).to("1/s"),
        model_flops_utilisation=node.model_flops_utilisation(demand.operations, time, peak),
        intensity=demand.intensity,
        ridge_point=node.ridge_point(peak, accelerator.memory_bandwidth),
        weight_bytes=demand.weight_bytes,
        memory=accelerator.memory,
        fits=demand.weight_bytes <= accelerator.memory,
        bound=np.array(["compute", "memory", "launch"])[np.argmax(phases, axis=0)],
    )


@dataclass(frozen=True, slots=True)
class EfficiencyResult:
    fraction: Number
    achieved: Quantity


def efficiency(accelerator: Accelerator, precision: str, kernel: Number, fusion: Number, occupancy: Number) -> EfficiencyResult:
    """Wall 3: the fraction of the peak that remains after kernel, fusion and occupancy losses (fractions), and the rate."""
    fraction = node.product_efficiency(kernel, fusion, occupancy)
    return EfficiencyResult(fraction, _peak(accelerator, precision) * fraction)


@dataclass(frozen=True, slots=True)
class ServingResult:
    time_to_first_token: Quantity
    inter_token_time: Quantity
    throughput: Quantity
    memory_needed: Quantity
    memory: Quantity
    fits: Any


def serving(
    model: Transformer,
    accelerator: Accelerator,
    precision: str,
    kv_precision: str,
    batch: Number,
    prompt: Quantity,
    context: Quantity,
    software: Software,
) -> ServingResult:
    """Wall 4: prefill of one prompt and a decode step of `batch` sequences at `context`, each its own roofline.

    batch: sequences; prompt, context [token]. What a replica of several accelerators does is in `models.serving`.
    """
    weight, cache = algorithm.bytes_per_element(precision), algorithm.bytes_per_element(kv_precision)
    peak, bandwidth = _peak(accelerator, precision), accelerator.memory_bandwidth

    def phase(work: Quantity, traffic: Quantity) -> Quantity:
        compute = node.compute_time(work, peak, software.compute_efficiency)
        memory = node.memory_time(traffic, bandwidth, software.memory_efficiency)
        return node.soft_roofline(compute, memory, software.exponent, software.launch)

    first = phase(
        node.prefill_operations(model, prompt, _NOTHING_CACHED),
        node.prefill_traffic(model, 1.0, prompt, _NOTHING_CACHED, weight, cache),
    )
    step = phase(node.decode_operations(model, batch, context), node.decode_traffic(model, batch, context, weight, cache))
    needed = node.weight_bytes(model.parameters, weight) + batch * node.kv_bytes_per_sequence(model, context, cache, _ONE_TOKEN)
    throughput = (Q(batch, "token") / step).to("token/s")
    return ServingResult(first, step, throughput, needed, accelerator.memory, needed <= accelerator.memory)


@dataclass(frozen=True, slots=True)
class BatchingResult:
    largest_batch: Number
    bytes_per_sequence: Quantity
    fragmentation: Number


def continuous_batching(
    model: Transformer,
    accelerator: Accelerator,
    precision: str,
    kv_precision: str,
    tokens: Quantity,
    page: Quantity,
    reserve: Quantity,
) -> BatchingResult:
    """Wall 5: how many sequences of `tokens` fit beside the weights, in whole pages.

    tokens, page [token]; reserve [byte] that runtime and workspace take. fragmentation: the share of cache that pages waste.
    """
    cache = algorithm.bytes_per_element(kv_precision)
    each = node.kv_bytes_per_sequence(model, tokens, cache, page)
    exact = node.kv_bytes_per_sequence(model, tokens, cache, _ONE_TOKEN)
    weights = node.weight_bytes(model.parameters, algorithm.bytes_per_element(precision))
    batch = node.largest_batch(accelerator.memory - reserve - weights, each)
    return BatchingResult(batch, each, 1 - (exact / each).m_as(""))


@dataclass(frozen=True, slots=True)
class StreamingResult:
    inject_time: Quantity  # of one layer
    compute_time: Quantity  # of one layer
    time: Quantity
    balanced_batch: Number


def weight_streaming(
    model: Transformer,
    precision: str,
    batch: Number,
    context: Quantity,
    injection_bandwidth: Quantity,
    peak: Quantity,
    compute_efficiency: Number,
) -> StreamingResult:
    """Wall 6: a decode step of `batch` sequences whose weights are streamed in layer by layer.

    injection_bandwidth [byte/s]; peak [FLOP/s]. balanced_batch: where streaming and computing take equally long.
    """
    layer = node.weight_bytes(model.parameters, algorithm.bytes_per_element(precision)) / model.layers
    inject = node.memory_time(layer, injection_bandwidth, 1.0)
    one = node.compute_time(node.decode_operations(model, 1.0, context) / model.layers, peak, compute_efficiency)
    compute = node.compute_time(node.decode_operations(model, batch, context) / model.layers, peak, compute_efficiency)
    time = node.streaming_time(model.layers, inject, compute)
    return StreamingResult(inject, compute, time, node.streaming_batch(inject, one))


@dataclass(frozen=True, slots=True)
class TailLatencyResult:
    utilisation: Number
    waiting_probability: Number
    wait: Quantity
    sojourn: Quantity


def tail_latency(
    arrival_rate: Quantity, service_time: Quantity, servers: Number, probability: Number, ca2: Number = 1.0, cs2: Number = 1.0
) -> TailLatencyResult:
    """Wall 7: percentile of the wait and of wait and service together, for `servers` replicas behind one queue."""
    load = fleet.utilisation(arrival_rate, service_time)
    return TailLatencyResult(
        load / servers,
        node.erlang_c(servers, load),
        node.wait_quantile(arrival_rate, service_time, servers, probability, ca2, cs2),
        node.sojourn_quantile(arrival_rate, service_time, servers, probability, ca2, cs2),
    )


# ------------------------------------------------------------------------------------------------ data, walls 8-10


@dataclass(frozen=True, slots=True)
class IngestionResult:
    demand: Quantity
    supply: Quantity
    ratio: Number


def data(
    throughput: Quantity, bytes_per_sample: Quantity, clients: Number, client_bandwidth: Quantity, storage_bandwidth: Quantity
) -> IngestionResult:
    """Wall 8: what the job reads against what storage delivers, both derived; a ratio above 1 stalls."""
    demand = pipeline.ingestion_demand(throughput, bytes_per_sample)
    supply = pipeline.storage_supply(clients, client_bandwidth, storage_bandwidth)
    return IngestionResult(demand, supply, pipeline.ingestion_ratio(demand, supply))


@dataclass(frozen=True, slots=True)
class TransformationResult:
    time: Quantity
    fed_fraction: Number


def transformation(
    batch: Number, sample_bytes: Quantity, cores: Number, core_throughput: Quantity, step_time: Quantity
) -> TransformationResult:
    """Wall 9: how long the host works on a batch, and how much of the time accelerators are fed."""
    time = pipeline.transformation_time(batch, sample_bytes, cores, core_throughput)
    return TransformationResult(time, pipeline.fed_fraction(step_time, time))


@dataclass(frozen=True, slots=True)
class TopologyResult:
    fraction: Number
    effective_bandwidth: Quantity
    bisection_bandwidth: Quantity


def topology(link_bandwidth: Quantity, name: str, endpoints: Number, oversubscription: Number) -> TopologyResult:
    """Wall 10: the bandwidth that a network of this shape leaves each endpoint when all send."""
    return TopologyResult(
        pipeline.bisection_fraction(name, endpoints),
        pipeline.effective_bandwidth(link_bandwidth, name, endpoints, oversubscription),
        pipeline.bisection_bandwidth(link_bandwidth, name, endpoints, oversubscription),
    )


# ------------------------------------------------------------------------------------------ algorithm, walls 11-13


@dataclass(frozen=True, slots=True)
class ScalingResult:
    operations: Quantity
    parameters: Number
    tokens: Quantity
    loss: Number


def scaling(operations: Quantity, tokens_per_parameter: Number, law: str) -> ScalingResult:
    """Wall 11: the compute-optimal model and data for a budget [FLOP], and the loss that a published law predicts for them."""
    parameters = algorithm.optimal_parameters(operations, tokens_per_parameter)
    tokens = algorithm.optimal_tokens(operations, tokens_per_parameter)
    return ScalingResult(operations, parameters, tokens, algorithm.training_loss(algorithm.scaling_law(law), parameters, tokens))


@dataclass(frozen=True, slots=True)
class InferenceScalingResult:
    time: Quantity
    tokens: Quantity
    coverage: Number


def inference_scaling(
    thought: Quantity,
    samples: Number,
    context: Quantity,
    base_step_time: Quantity,
    time_per_context_token: Quantity,
    single: Number,
    exponent: Number,
) -> InferenceScalingResult:
    """Wall 12: time and tokens of `samples` parallel chains of `thought` [token] each, and the share of problems they solve.

    The step time must be that of a batch which holds all samples; single and exponent as `algorithm.coverage`.
    """
    time = algorithm.growing_reasoning_time(thought, base_step_time, time_per_context_token, context)
    return InferenceScalingResult(time, thought * samples, algorithm.coverage(single, samples, exponent))


@dataclass(frozen=True, slots=True)
class CompressionResult:
    ratio: Number
    weight_bytes: Quantity
    quality: algorithm.QualityLoss


def compression(parameters: Number, baseline: str, precision: str) -> CompressionResult:
    """Wall 13: how much smaller weights become in `precision` than in `baseline`, and the measured loss of quality."""
    bits = algorithm.bits_per_element(precision)
    return CompressionResult(
        algorithm.quantisation_ratio(bits, algorithm.bits_per_element(baseline)),
        node.weight_bytes(parameters, algorithm.bytes_per_element(precision)),
        algorithm.quality_loss(precision),
    )


# ---------------------------------------------------------------------------------------------- fleet, walls 14-16


@dataclass(frozen=True, slots=True)
class DistributedResult:
    accelerators: Number
    nodes: Number
    compute_time: Quantity
    communication_time: Quantity
    bubble: Number
    step_time: Quantity
    throughput: Quantity  # tokens per second
    model_flops_utilisation: Number
    duration: Quantity  # of the whole run, without failures


def distributed(
    scaled: ScalingResult,
    cluster: Fleet,
    precision: str,
    compute_efficiency: Number,
    batch_tokens: Quantity,
    tensor_parallel: Number,
    pipeline_parallel: Number,
    microbatches: Number,
    layers: Number,
    hidden: Number,
) -> DistributedResult:
    """Wall 14: training the scaled model on a whole fleet, tensor x pipeline x data parallel; nothing overlaps.

    step = compute / (1 - bubble) + tensor-parallel all-reduces + gradient all-reduce over data-parallel ranks

    batch_tokens [token] of one step over all ranks; degrees, microbatches, layers, hidden: counts. Tensor parallelism stays
    in a node and reduces a layer's activations four times per step (Shoeybi et al. 2019). `models.training` knows more:
    overlap, sharded optimisers, experts, memory.
    """
    chip, scale_up = cluster.node.accelerator, cluster.node.scale_up
    fabric = known(cluster.fabric or cluster.node.scale_out, f"the fabric of {cluster.name}")
    ranks_in_node = cluster.node.accelerators / tensor_parallel
    data_parallel = cluster.accelerators / (tensor_parallel * pipeline_parallel)
    require(tensor_parallel <= cluster.node.accelerators, "tensor parallelism beyond one node is not what this solver models")
    require(
        data_parallel >= 1, "{} accelerators cannot hold {} x {} ranks", cluster.accelerators, tensor_parallel, pipeline_parallel
    )

    element = algorithm.bytes_per_element(precision)
    work = algorithm.training_operations(scaled.parameters, batch_tokens)
    peak = _peak(chip, precision)
    compute = node.compute_time(work / cluster.accelerators, peak, compute_efficiency)
    bubble = fleet.pipeline_bubble(pipeline_parallel, microbatches, 1.0)

    intra = known(scale_up.bandwidth, f"bandwidth of {scale_up.name}"), known(scale_up.latency, f"latency of {scale_up.name}")
    inter = known(fabric.bandwidth, f"bandwidth of {fabric.name}"), known(fabric.latency, f"latency of {fabric.name}")
    tokens_per_rank = (batch_tokens / data_parallel).m_as("token")
    activations = tokens_per_rank / microbatches * hidden * element
    reductions = 4 * layers / pipeline_parallel * microbatches
    tensor = reductions * fleet.ring_all_reduce(activations, tensor_parallel, *intra)
    gradients = node.weight_bytes(scaled.parameters / (tensor_parallel * pipeline_parallel), element)
    inside = np.minimum(ranks_in_node, data_parallel)
    gradient = fleet.hierarchical_all_reduce(gradients, inside, data_parallel / inside, *intra, *inter)

    step = compute / (1 - bubble) + tensor + gradient
    return DistributedResult(
        cluster.accelerators,
        cluster.nodes,
        compute,
        (tensor + gradient).to("s"),
        bubble,
        step.to("s"),
        (batch_tokens / step).to("token/s"),
        node.model_flops_utilisation(work, step, peak * cluster.accelerators),
        (scaled.tokens / batch_tokens * step).to("day"),
    )


@dataclass(frozen=True, slots=True)
class ReliabilityResult:
    mtbf: Quantity
    interval: Quantity
    goodput: Number
    failures: Number


def reliability(
    accelerators: Number, accelerator_mtbf: Quantity, write_time: Quantity, restart_time: Quantity, duration: Quantity
) -> ReliabilityResult:
    """Wall 15: MTBF of the job, the best checkpoint interval (Daly), the goodput there, and failures to expect in `duration`."""
    mtbf = fleet.cluster_mtbf(accelerator_mtbf, accelerators)
    interval = fleet.daly_interval(write_time, mtbf)
    useful = fleet.goodput(interval, write_time, restart_time, mtbf)
    return ReliabilityResult(mtbf, interval, useful, (duration / useful / mtbf).m_as(""))


@dataclass(frozen=True, slots=True)
class OrchestrationResult:
    utilisation: Number
    wait: Quantity
    utilisation_limit: Number


def orchestration(arrival_rate: Quantity, job_time: Quantity, cs2: Number, wait_limit: Quantity) -> OrchestrationResult:
    """Wall 16: mean wait for a shared cluster that runs one job at a time, and the utilisation that a wait limit allows."""
    return OrchestrationResult(
        fleet.utilisation(arrival_rate, job_time),
        fleet.pollaczek_khinchine_wait(arrival_rate, job_time, cs2),
        fleet.utilisation_limit(wait_limit, job_time, cs2),
    )


# ----------------------------------------------------------------------------------------- operations, walls 17-20


@dataclass(frozen=True, slots=True)
class EconomicsResult:
    duration: Quantity
    accelerators: Number
    it_energy: Quantity
    capital: Quantity
    electricity: Quantity
    maintenance: Quantity
    total: Quantity


def economics(
    run: DistributedResult,
    cluster: Fleet,
    region: Region,
    goodput: Number,
    utilisation: Number,
    idle_fraction: Number,
    life: Quantity,
    residual: Number,
    maintenance_rate: Quantity,
) -> EconomicsResult:
    """Wall 17: what a run on an owned fleet costs: its share of the price, electricity at the site's price, and upkeep.

    goodput: useful share of the time (`reliability`); utilisation, idle_fraction: of the power draw (`operations.draw_fraction`);
    life [time], residual: a fraction; maintenance_rate [1/year]. The price is the accelerators': add the rest as parts.
    """
    chip = cluster.node.accelerator
    price = known(chip.price, f"the price of {chip.name}")
    duration = (run.duration / goodput).to("day")
    draw = operations.draw_fraction(utilisation, idle_fraction)
    share = known(chip.host_power_share, f"the host's share of power beside {chip.name}")
    power = operations.node_power(run.accelerators, known(chip.tdp, f"the TDP of {chip.name}"), draw, share)
    it_energy = operations.energy(power, duration)
    metered = operations.facility_energy(it_energy, known(region.pue, f"the PUE of {region.name}"))
    capital = operations.capital_cost(price, run.accelerators, life, duration, residual)
    electricity = operations.energy_cost(metered, known(region.electricity_price, f"the electricity price of {region.name}"))
    upkeep = operations.maintenance_cost(price, run.accelerators, maintenance_rate, duration)
    total = operations.total_cost(capital, electricity, upkeep)
    return EconomicsResult(duration, run.accelerators, it_energy, capital, electricity, upkeep, total)


@dataclass(frozen=True, slots=True)
class SustainabilityResult:
    facility_energy: Quantity
    operational_carbon: Quantity
    embodied_carbon: Quantity
    carbon: Quantity
    water: Quantity
    method: str


def sustainability(
    cost: EconomicsResult, cluster: Fleet, region: Region, life: Quantity, grid_water: Quantity
) -> SustainabilityResult:
    """Wall 18: energy at the meter, emissions of use (location average) and of making (amortised over `life`), and water.

    grid_water [litre/Wh] of generation; 0 L/Wh counts the site alone.
    """
    chip = cluster.node.accelerator
    pue = known(region.pue, f"the PUE of {region.name}")
    intensity = known(region.grid.average_intensity, f"the average carbon intensity of {region.grid.zone}")
    made = operations.embodied_carbon(
        known(chip.embodied, f"the embodied carbon of {chip.name}"), cost.accelerators, life, cost.duration
    )
    used = operations.carbon(cost.it_energy, pue, intensity)
    return SustainabilityResult(
        operations.facility_energy(cost.it_energy, pue),
        used,
        made,
        used + made,
        operations.water(cost.it_energy, known(region.wue, f"the WUE of {region.name}"), pue, grid_water),
        "location average",
    )


@dataclass(frozen=True, slots=True)
class CheckpointResult:
    size: Quantity
    write_time: Quantity
    penalty: Number


def checkpoint(
    parameters: Number,
    precision: str,
    optimizer: str,
    writers: Number,
    writer_bandwidth: Quantity,
    storage_bandwidth: Quantity,
    interval: Quantity,
) -> CheckpointResult:
    """Wall 19: size and write time of a synchronous checkpoint, and the share of time that writing one every `interval` takes."""
    size = operations.checkpoint_bytes(parameters, algorithm.bytes_per_element(precision), operations.optimizer_bytes(optimizer))
    write = operations.write_time(size, writers, writer_bandwidth, storage_bandwidth)
    return CheckpointResult(size, write, operations.checkpoint_penalty(write, interval))


@dataclass(frozen=True, slots=True)
class ResponsibleEngineeringResult:
    noise_multiplier: Number
    operations: Quantity
    samples: Number


def responsible_engineering(
    operations_without: Quantity,
    epsilon: Number,
    delta: Number,
    sampling_rate: Number,
    steps: Number,
    overhead: Number,
    group_samples: Number,
    prevalence: Number,
    confidence: Number,
) -> ResponsibleEngineeringResult:
    """Wall 20: the noise and the work of training with differential privacy, and the samples that represent a minority group."""
    return ResponsibleEngineeringResult(
        operations.noise_multiplier(epsilon, delta, sampling_rate, steps),
        operations.private_operations(operations_without, overhead),
        operations.samples_for_group(group_samples, prevalence, confidence),
    )


# ------------------------------------------------------------------------------------------- analysis, walls 21-22


@dataclass(frozen=True, slots=True)
class SensitivityResult:
    elasticities: tuple[analysis.Elasticity, ...]
    binding: str | None


def sensitivity(output: analysis.Output, inputs: Mapping[str, Any], step: float, least: float) -> SensitivityResult:
    """Wall 21: two-sided elasticities of any composed output, and the input that binds (None: none gains more than `least`)."""
    found = analysis.elasticities(output, inputs, step)
    return SensitivityResult(found, analysis.binding_input(found, least))


@dataclass(frozen=True, slots=True)
class SynthesisResult:
    bandwidth: Quantity
    peak: Quantity
    capacity: Quantity


def synthesis(
    model: Transformer,
    precision: str,
    kv_precision: str,
    batch: Number,
    context: Quantity,
    target: Quantity,
    accelerator: Accelerator,
    software: Software,
    usable: Number,
) -> SynthesisResult:
    """Wall 22: the least bandwidth, peak and memory with which a decode step takes exactly `target`, the rest as given.

    Bandwidth is asked with the accelerator's own peak, and the peak with its own bandwidth; fed into `serving`, each gives
    `target` again. usable: the fraction of memory left to weights and cache. ImpossibleValue where no value of one can do it.
    """
    weight, cache = algorithm.bytes_per_element(precision), algorithm.bytes_per_element(kv_precision)
    work = node.decode_operations(model, batch, context)
    traffic = node.decode_traffic(model, batch, context, weight, cache)
    compute = node.compute_time(work, _peak(accelerator, precision), software.compute_efficiency)
    memory = node.memory_time(traffic, accelerator.memory_bandwidth, software.memory_efficiency)
    for_memory = analysis.time_left(target, compute, software.exponent, software.launch)
    for_compute = analysis.time_left(target, memory, software.exponent, software.launch)
    each = node.kv_bytes_per_sequence(model, context, cache, _ONE_TOKEN)
    return SynthesisResult(
        analysis.required_bandwidth(traffic, for_memory, software.memory_efficiency),
        analysis.required_peak(work, for_compute, software.compute_efficiency),
        analysis.required_capacity(node.weight_bytes(model.parameters, weight), each, batch, usable),
    )
