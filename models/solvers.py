"""The solvers of the architecture by name: each composes the functions of its walls into one typed result.

    scaling -> distributed -> economics -> sustainability

chains: each of these takes the result of the one before. Nothing is computed here that the walls do not compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zoo.specs import Accelerator, Fabric, Fleet, Region, Transformer
from zoo.units import Q, Quantity

from . import algorithm, analysis, fleet, node, operations
from . import data as pipeline
from .dimensions import Number, known, require
from .lowering import lower

_ONE_TOKEN = Q(1.0, "token")
_NOTHING_CACHED = Q(0.0, "token")
_NO_TIME, _NO_BYTES, _NO_WORK, _NO_MONEY = Q(0.0, "s"), Q(0.0, "byte"), Q(0.0, "flop"), Q(0.0, "USD")


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
    compute_time: Quantity  # of one layer in decode
    time: Quantity  # of a decode step
    balanced_batch: Number
    prefill_compute_time: Quantity  # of one layer
    time_to_first_token: Quantity


def weight_streaming(
    model: Transformer,
    precision: str,
    batch: Number,
    prompt: Quantity,
    context: Quantity,
    injection_bandwidth: Quantity,
    peak: Quantity,
    compute_efficiency: Number,
) -> StreamingResult:
    """Wall 6: prefill of `batch` prompts, and a decode step of `batch` sequences, with weights streamed in layer by layer.

    prompt, context [token]; injection_bandwidth [byte/s]; peak [FLOP/s]. balanced_batch: where streaming and computing a
    decode step take equally long. Prefill starts from rest, decode steps follow each other; the cache stays on the chip.
    """
    layer = node.weight_bytes(model.parameters, algorithm.bytes_per_element(precision)) / model.layers
    inject = node.memory_time(layer, injection_bandwidth, 1.0)

    def of_a_layer(work: Quantity) -> Quantity:
        return node.compute_time(work / model.layers, peak, compute_efficiency)

    decode = of_a_layer(node.decode_operations(model, batch, context))
    prefill = of_a_layer(batch * node.prefill_operations(model, prompt, _NOTHING_CACHED))
    return StreamingResult(
        inject,
        decode,
        node.streaming_time(model.layers, inject, decode),
        node.streaming_batch(inject, of_a_layer(node.decode_operations(model, 1.0, context))),
        prefill,
        node.streaming_latency(model.layers, inject, prefill),
    )


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The routed experts of a model in training: `layers` of them, each token visits `top_k` of `count`; `parallel` ranks."""

    layers: Number
    count: Number
    top_k: Number
    parameters: Number  # of all routed experts, over all layers
    parallel: Number = 1.0


@dataclass(frozen=True, slots=True)
class DistributedResult:
    """A training run. `parts` of the communication: tensor, expert, sends, gathers, gradients."""

    accelerators: Number
    nodes: Number
    compute_time: Quantity
    communication_time: Quantity
    bubble: Number
    step_time: Quantity
    throughput: Quantity  # tokens per second
    model_flops_utilisation: Number
    duration: Quantity  # of the whole run, without failures
    parts: Mapping[str, Quantity] = field(default_factory=dict)
    crossing: Quantity = _NO_BYTES  # over the middle of the network, in a step


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
    *,
    sequence_length: Quantity | None = None,
    attention: Quantity = _NO_WORK,
    virtual_stages: Number = 1.0,
    recompute: Number = 0.0,
    zero_stage: Number = 1,
    experts: Experts | None = None,
) -> DistributedResult:
    """Wall 14: training the scaled model on a whole fleet, tensor x pipeline x data parallel; nothing overlaps.

    step = compute / (1 - bubble) + tensor-parallel all-reduces + expert all-to-alls + pipeline sends + weight gathers
         + gradient all-reduce

    batch_tokens [token] of one step over all ranks; degrees, microbatches, layers, hidden: counts. `scaled.parameters` is
    what a token passes through. Refinements, each nothing by default:
    sequence_length [token]: a rank has batch / length / ranks sequences, and no more microbatches than that;
    attention [FLOP]: of the scores of a step, forward and backward, which 6 P D leaves out;
    virtual_stages: chunks per stage, which shorten the bubble and multiply the sends;
    recompute: share of the forward pass that the backward pass repeats, its communication too (1: all of it);
    zero_stage: 3 gathers weights for every microbatch, forward and backward; 0 to 2 take as long as an all-reduce;
    experts: tokens go to their experts and back in each of their layers, and their gradients have ranks / parallel copies.
    Source: Shoeybi et al. (2019) four tensor-parallel all-reduces a layer; Narayanan et al. (2021) pipelines; Rajbhandari et
    al. (2020) ZeRO; Lepikhin et al. (2021) experts. Groups wider than a node use hierarchical collectives; a group of stages
    sends over the fabric unless all stages fit a node. Rings have the fabric's full bandwidth, as they pass over the middle of
    a network once; all-to-alls the share that its topology and oversubscription leave
    (wall 10). `models.training` knows more: overlap, memory traffic, stacks.
    """
    chip, scale_up = cluster.node.accelerator, cluster.node.scale_up
    fabric = known(cluster.fabric or cluster.node.scale_out, f"the fabric of {cluster.name}")
    in_node = cluster.node.accelerators
    data_parallel = cluster.accelerators / (tensor_parallel * pipeline_parallel)
    require(
        (data_parallel >= 1) & (data_parallel == np.floor(data_parallel)),
        "{} accelerators do not divide into replicas of {} x {}", cluster.accelerators, tensor_parallel, pipeline_parallel,
    )  # fmt: skip
    require((np.asarray(recompute) >= 0) & (np.asarray(recompute) <= 1), "recompute is a share of the forward pass")
    intra = known(scale_up.bandwidth, f"bandwidth of {scale_up.name}"), known(scale_up.latency, f"latency of {scale_up.name}")
    inter = known(fabric.bandwidth, f"bandwidth of {fabric.name}"), known(fabric.latency, f"latency of {fabric.name}")

    element = algorithm.bytes_per_element(precision)
    work = algorithm.training_operations(scaled.parameters, batch_tokens) + attention
    peak = _peak(chip, precision)
    compute = node.compute_time(work * (1 + recompute / 3) / cluster.accelerators, peak, compute_efficiency)
    sequences = np.inf if sequence_length is None else (batch_tokens / sequence_length / data_parallel).m_as("")
    bubble = fleet.pipeline_bubble(pipeline_parallel, microbatches, virtual_stages, sequences)

    activations = (batch_tokens / data_parallel).m_as("token") / microbatches * hidden * element
    passes = 2 + recompute  # forward and backward, and what is repeated
    tensor_inside = np.minimum(tensor_parallel, in_node)
    reductions = 2 * passes * layers / pipeline_parallel * microbatches
    tensor = reductions * fleet.hierarchical_all_reduce(
        activations, tensor_inside, tensor_parallel / tensor_inside, *intra, *inter
    )
    inside = np.minimum(np.maximum(in_node / tensor_parallel, 1.0), data_parallel)  # data-parallel ranks in a node
    outside = data_parallel / inside

    nothing = _NO_TIME
    trunk, exchange, exchanged = scaled.parameters, nothing, _NO_BYTES
    routed: Number = 0.0
    expert_ranks, expert_inside = data_parallel, inside
    if experts is not None:
        require(experts.parallel <= data_parallel, "experts are spread over data-parallel ranks, of which there are fewer")
        trunk = scaled.parameters - experts.parameters * experts.top_k / experts.count
        require(trunk >= 0, "a token passes {} parameters, which is less than its experts alone", scaled.parameters)
        routed = experts.parameters / experts.parallel
        near = np.minimum(experts.parallel, inside)
        calls = 2 * passes * experts.layers / pipeline_parallel * microbatches  # there and back in every pass
        message = activations * experts.top_k
        far = _across(fabric, cluster.accelerators), inter[1]
        exchange = calls * fleet.hierarchical_all_to_all(message, near, experts.parallel / near, *intra, *far)
        exchanged = calls * pipeline.all_to_all_crossing(message, experts.parallel, experts.parallel / near)
        expert_ranks = data_parallel / experts.parallel
        expert_inside = np.minimum(np.maximum(inside / near, 1.0), expert_ranks)

    staged = np.asarray(pipeline_parallel) > 1
    link = [np.where(tensor_parallel * pipeline_parallel <= in_node, a.m_as(unit), b.m_as(unit)) for a, b, unit in
            zip(intra, inter, ("byte/s", "s"), strict=True)]  # fmt: skip
    send = fleet.point_to_point(activations, Q(link[0], "byte/s"), Q(link[1], "s"))
    sends = 2 * virtual_stages * microbatches * send * np.where(staged, 1.0, 0.0)

    local = tensor_parallel * pipeline_parallel
    weights = node.weight_bytes(trunk / local, element)
    expert_weights = node.weight_bytes(routed / local, element)

    def over_all(collective: Any) -> Quantity:
        shared = collective(weights, inside, outside, *intra, *inter)
        if experts is None:
            return shared
        return shared + collective(expert_weights, expert_inside, expert_ranks / expert_inside, *intra, *inter)

    gradients = over_all(fleet.hierarchical_all_reduce)
    sharded = np.where(np.asarray(zero_stage) >= 3, 1.0, 0.0)
    gather = over_all(fleet.hierarchical_all_gather)
    # stage 3 gathers for each pass of each microbatch, then scatters gradients once and gathers nothing after them
    gathers = sharded * (2 * microbatches * gather)
    gradients = gradients - sharded * gather
    parts = {"tensor": tensor, "expert": exchange, "sends": sends, "gathers": gathers, "gradients": gradients}
    parts = {name: (part + nothing).to("s") for name, part in parts.items()}
    communication: Any = sum(parts.values(), start=nothing)

    reduced = weights + expert_weights if experts is not None else weights
    crossing = pipeline.all_reduce_crossing(reduced * (1 + sharded * (microbatches - 0.5)), outside, local) + exchanged
    step = (compute / (1 - bubble) + communication).to("s")
    return DistributedResult(
        cluster.accelerators,
        cluster.nodes,
        compute,
        communication.to("s"),
        bubble,
        step,
        (batch_tokens / step).to("token/s"),
        node.model_flops_utilisation(work, step, peak * cluster.accelerators),
        (scaled.tokens / batch_tokens * step).to("day"),
        parts,
        crossing,
    )


def _across(fabric: Fabric, endpoints: Number) -> Quantity:
    """What a fabric leaves each endpoint when all send to all (wall 10); its full bandwidth where no topology is known."""
    bandwidth = known(fabric.bandwidth, f"bandwidth of {fabric.name}")
    if fabric.topology is None:
        return bandwidth
    over = known(fabric.oversubscription, f"the oversubscription of {fabric.name}")
    return pipeline.effective_bandwidth(bandwidth, fabric.topology, endpoints, over)


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
    """What a run costs. `total` is the sum of capital, electricity, maintenance and rental; what does not apply is 0 USD."""

    duration: Quantity
    accelerators: Number
    it_energy: Quantity
    capital: Quantity
    electricity: Quantity
    maintenance: Quantity
    total: Quantity
    rental: Quantity = _NO_MONEY


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
    *,
    surroundings: Quantity = _NO_MONEY,
    rent: Quantity | None = None,
) -> EconomicsResult:
    """Wall 17: what a run on a fleet costs: its share of the price, electricity at the site's price, and upkeep; or the rent.

    goodput: useful share of the time (`reliability`); utilisation, idle_fraction: of the power draw (`operations.draw_fraction`);
    life [time], residual: a fraction; maintenance_rate [1/year]. surroundings [USD]: price of host, network and building per
    accelerator, on top of its own. rent [USD/h] per accelerator takes the place of all other parts.
    """
    chip = cluster.node.accelerator
    duration = (run.duration / goodput).to("day")
    draw = operations.draw_fraction(utilisation, idle_fraction)
    share = known(chip.host_power_share, f"the host's share of power beside {chip.name}")
    power = operations.node_power(run.accelerators, known(chip.tdp, f"the TDP of {chip.name}"), draw, share)
    it_energy = operations.energy(power, duration)
    nothing = _NO_MONEY
    if rent is not None:
        paid = operations.rental_cost(rent, run.accelerators, duration)
        return EconomicsResult(duration, run.accelerators, it_energy, nothing, nothing, nothing, paid, paid)
    price = known(chip.price, f"the price of {chip.name}") + surroundings
    metered = operations.facility_energy(it_energy, known(region.pue, f"the PUE of {region.name}"))
    capital = operations.capital_cost(price, run.accelerators, life, duration, residual)
    electricity = operations.energy_cost(metered, known(region.electricity_price, f"the electricity price of {region.name}"))
    upkeep = operations.maintenance_cost(price, run.accelerators, maintenance_rate, duration)
    total = operations.total_cost(capital, electricity, upkeep)
    return EconomicsResult(duration, run.accelerators, it_energy, capital, electricity, upkeep, total)


@dataclass(frozen=True, slots=True)
class SustainabilityResult:
    """Emissions by `method`. `water` is None where the site's WUE is not known: never zero."""

    facility_energy: Quantity
    operational_carbon: Quantity
    embodied_carbon: Quantity
    carbon: Quantity
    water: Quantity | None
    method: str


CARBON_METHODS = {
    "average": ("average_intensity", "location average"),
    "marginal": ("marginal_intensity", "location marginal"),
    "market": ("market_intensity", "market"),
}


def sustainability(
    cost: EconomicsResult, cluster: Fleet, region: Region, life: Quantity, grid_water: Quantity, *, method: str = "average"
) -> SustainabilityResult:
    """Wall 18: energy at the meter, emissions of use and of making (amortised over `life`), and water.

    grid_water [litre/Wh] of generation; 0 L/Wh counts the site alone. method: "average", "marginal" or "market" intensity.
    """
    require(method in CARBON_METHODS, "carbon is counted by the method average, marginal or market, not {}", method)
    attribute, words = CARBON_METHODS[method]
    chip = cluster.node.accelerator
    pue = known(region.pue, f"the PUE of {region.name}")
    intensity = known(getattr(region.grid, attribute), f"the {words} carbon intensity of {region.grid.zone}")
    made = operations.embodied_carbon(
        known(chip.embodied, f"the embodied carbon of {chip.name}"), cost.accelerators, life, cost.duration
    )
    used = operations.carbon(cost.it_energy, pue, intensity)
    return SustainabilityResult(
        operations.facility_energy(cost.it_energy, pue),
        used,
        made,
        used + made,
        None if region.wue is None else operations.water(cost.it_energy, region.wue, pue, grid_water),
        words,
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
