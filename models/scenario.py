"""One workload on one fleet in one region, judged against all twenty-two walls.

Level 1 asks whether it fits (walls 1, 2, 5, 8), level 2 how fast it is (1 to 7, 9 to 16), level 3 what it costs and emits
(17 to 22). A violated wall on level 1 or 2 ends the evaluation there: what does not fit has no cost worth knowing. Every wall
of a level that was reached gives one `Reading`, also where the question does not touch it; the reading then says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from zoo.specs import Accelerator, Fleet, Region, Transformer
from zoo.units import Q, Quantity

from . import algorithm, analysis, fleet, node, operations, serving, solvers
from . import data as pipeline
from .calibration import Constants
from .dimensions import ImpossibleValue, known
from .wall import Reading, reading

LEVELS = {1: (1, 2, 5, 8), 2: (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16), 3: (17, 18, 19, 20, 21, 22)}
_ZERO = Q(0.0, "s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Requests that arrive at random and are answered token by token by replicas of `tensor_parallel` accelerators."""

    precision: str
    kv_precision: str
    tensor_parallel: int
    batch: int  # sequences decoded together in one replica
    arrival_rate: Quantity
    prompt: Quantity
    output: Quantity
    percentile: float  # of the time to first token
    first_token_limit: Quantity | None = None
    token_limit: Quantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run over `tokens`, tensor x pipeline x data parallel over the whole fleet, with checkpoints and restarts."""

    precision: str
    optimizer: str
    tokens: Quantity
    batch_tokens: Quantity
    tensor_parallel: int
    pipeline_parallel: int
    microbatches: int
    compute_efficiency: float
    accelerator_mtbf: Quantity
    restart_time: Quantity
    writer_bandwidth: Quantity  # of one node into the durable store
    storage_bandwidth: Quantity  # of the store
    bytes_per_token: Quantity  # [byte/token] of stored training data
    cores: int  # of one node, given to preprocessing
    core_throughput: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What owning and running the fleet takes. Fractions are bare; rates per year."""

    life: Quantity
    residual: float
    maintenance_rate: Quantity
    utilisation: float
    idle_fraction: float
    grid_water: Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Jobs of other users: each takes the whole fleet (wall 16)."""

    arrival_rate: Quantity
    job_time: Quantity
    cs2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """DP-SGD: noise and sampling of a training run (wall 20)."""

    noise_multiplier: float
    delta: float
    sampling_rate: float
    steps: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Readings by level, the last level reached, and whether every limit that was set is kept."""

    readings: Mapping[int, tuple[Reading, ...]]
    level: int
    feasible: bool

    def wall(self, number: int) -> Reading:
        """The last reading of a wall; LookupError where the evaluation ended before it."""
        for level in sorted(self.readings, reverse=True):
            for found in self.readings[level]:
                if found.wall == number:
                    return found
        raise LookupError(f"wall {number} was not reached: level {self.level} is infeasible")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question about `workload` on `fleet` in `region` for the time `horizon`.

    limits: the most that is allowed, by wall number: 13 relative loss of quality, 15 share of time lost to failures, 16 mean
    wait, 17 money, 18 carbon, 19 share of time spent writing checkpoints, 20 epsilon, 11 loss. What the hardware or an SLA
    limits (1 to 8, 10, 22) needs no entry. constants: fitted constants of the serving model.
    """

    name: str
    workload: Transformer
    fleet: Fleet
    region: Region
    horizon: Quantity
    question: Service | Training
    ownership: Ownership
    constants: Constants
    law: str = "epoch"
    sharing: Sharing | None = None
    privacy: Privacy | None = None
    limits: Mapping[int, Any] = field(default_factory=lambda: MappingProxyType({}))

    def evaluate(self) -> Evaluation:
        """Readings of all walls, level by level, as far as the levels are feasible."""
        answer = _service(self) if isinstance(self.question, Service) else _training(self)
        readings: dict[int, tuple[Reading, ...]] = {}
        for level, walls in LEVELS.items():
            demands = answer.demands(level)
            readings[level] = tuple(demands.get(wall) or _untouched(wall, self) for wall in walls)
            if any(found.violated for found in readings[level]):
                return Evaluation(readings, level, False)
        return Evaluation(readings, max(LEVELS), True)


def _untouched(wall: int, scenario: Scenario) -> Reading:
    kind = type(scenario.question).__name__.lower()
    return reading(wall, scenario.name, None, None, f"not touched by this {kind} question")


def _shared(scenario: Scenario) -> dict[int, Reading]:
    """Walls 10, 13 and 16, which read the same for every question."""
    found = {}
    fabric = scenario.fleet.fabric
    if fabric is not None and fabric.topology is not None and fabric.bandwidth is not None:
        over = known(fabric.oversubscription, f"the oversubscription of {fabric.name}")
        each = pipeline.effective_bandwidth(fabric.bandwidth, fabric.topology, float(scenario.fleet.accelerators), over)
        found[10] = reading(10, fabric.name, None, fabric.bandwidth, f"{each.to('GB/s'):.4g~} of it cross the bisection")
    quality = algorithm.quality_loss(scenario.question.precision)
    found[13] = reading(13, quality.precision, quality.high, scenario.limits.get(13))
    if scenario.sharing is not None:
        sharing = scenario.sharing
        wait = fleet.pollaczek_khinchine_wait(sharing.arrival_rate, sharing.job_time, sharing.cs2)
        found[16] = reading(16, scenario.fleet.name, wait.to("h"), scenario.limits.get(16))
    return found


def _macro(scenario: Scenario, run: solvers.DistributedResult, goodput: float) -> dict[int, Reading]:
    """Walls 17 and 18 of running the whole fleet for a while."""
    own = scenario.ownership
    cost = solvers.economics(
        run, scenario.fleet, scenario.region, goodput, own.utilisation, own.idle_fraction, own.life, own.residual,
        own.maintenance_rate,
    )  # fmt: skip
    footprint = solvers.sustainability(cost, scenario.fleet, scenario.region, own.life, own.grid_water)
    note = f"{footprint.method}; {footprint.water.to('L'):.4g~} of water"
    return {
        17: reading(17, scenario.fleet.name, cost.total, scenario.limits.get(17)),
        18: reading(18, scenario.region.name, footprint.carbon.to("kgCO2e"), scenario.limits.get(18), note),
    }


def _privacy(scenario: Scenario) -> dict[int, Reading]:
    if scenario.privacy is None:
        return {}
    private = scenario.privacy
    epsilon = operations.privacy_loss(private.noise_multiplier, private.sampling_rate, private.steps, private.delta)
    return {20: reading(20, f"delta {private.delta:g}", epsilon, scenario.limits.get(20))}


def _sensitivity(time: Any, chip: Accelerator, link: Quantity) -> Reading:
    """Wall 21: which of the hardware's figures shortens `time(chip, link)` most, per 1 %."""
    inputs = {"memory_bandwidth": chip.memory_bandwidth, "memory": chip.memory, "peak": 1.0, "link_bandwidth": link}

    def output(x: Mapping[str, Any]) -> Quantity:
        peaks = {precision: value * x["peak"] for precision, value in chip.peak.items()}
        changed = dataclasses.replace(chip, memory_bandwidth=x["memory_bandwidth"], memory=x["memory"], peak=peaks)
        return time(changed, x["link_bandwidth"])

    found = analysis.elasticities(output, inputs, 0.01)
    binding = analysis.binding_input(found, 1e-6)
    note = "; ".join(f"{e.name} {e.up:+.3f} / {e.down:+.3f}" for e in found)
    return reading(21, chip.name, None, None, f"binding: {binding or 'none of the hardware'} ({note})")


# ---------------------------------------------------------------------------------------------------------- service


@dataclass(frozen=True, slots=True)
class _Service:
    scenario: Scenario
    ask: Service

    def links(self, bandwidth: Quantity) -> serving.Links:
        scale_up = self.scenario.fleet.node.scale_up
        latency = known(scale_up.latency, f"the latency of {scale_up.name}")
        return serving.Links(bandwidth, latency, bandwidth, latency)

    def bandwidth(self) -> Quantity:
        scale_up = self.scenario.fleet.node.scale_up
        return known(scale_up.bandwidth, f"the bandwidth of {scale_up.name}")

    def replica(self, chip: Accelerator, bandwidth: Quantity) -> serving.Replica:
        ask, constants = self.ask, self.scenario.constants
        computes_in = algorithm.computes_in(ask.precision)
        one = np.ones(1)
        layouts = serving.Layouts(
            weight_bytes=algorithm.bytes_per_element(ask.precision) * one,
            kv_bytes=algorithm.bytes_per_element(ask.kv_precision) * one,
            peak=known(chip.peak.get(computes_in), f"the peak of {chip.name} at {computes_in}") * one,
            compute_efficiency=constants.compute_efficiency[computes_in] * one,
            tensor_parallel=ask.tensor_parallel * one,
            pipeline_parallel=one,
            expert_parallel=one,
            batch=ask.batch * one,
        )
        traffic = serving.Traffic(ask.prompt, ask.output)
        return serving.replica(self.scenario.workload, chip, layouts, self.links(bandwidth), traffic, constants)

    def token_time(self, chip: Accelerator, bandwidth: Quantity) -> Quantity:
        """TPOT; infinite where the replica does not fit."""
        replica = self.replica(chip, bandwidth)
        fits = bool(np.all(replica.memory_needed <= replica.memory_there))
        return replica.tpot[0] if fits else Q(np.inf, "s")

    def demands(self, level: int) -> dict[int, Reading]:
        scenario, ask = self.scenario, self.ask
        chip, cluster, link = scenario.fleet.node.accelerator, scenario.fleet, self.bandwidth()
        replica = self.replica(chip, link)
        replicas = cluster.accelerators // ask.tensor_parallel
        scope = f"a replica of {ask.tensor_parallel} x {chip.name}"
        if level == 1:
            work = ask.arrival_rate * (
                node.prefill_operations(scenario.workload, ask.prompt, Q(0.0, "token"))
                + ask.output.m_as("token") * node.decode_operations(scenario.workload, 1, ask.prompt + ask.output / 2)
            )
            peak = chip.peak[algorithm.computes_in(ask.precision)] * cluster.accelerators
            return {
                1: reading(1, cluster.name, work.to("TFLOP/s"), peak.to("TFLOP/s")),
                2: reading(2, scope, replica.memory_needed[0].to("GB"), replica.memory_there.to("GB")),
                5: reading(5, scope, float(ask.batch), float(replica.largest_batch[0])),
                8: reading(8, scope, None, None, "prompts are bytes, not a stream from storage"),
            }
        if level == 2:
            arrivals = ask.arrival_rate / replicas
            first = node.sojourn_quantile(ask.arrival_rate, replica.first_token_time[0], replicas, ask.percentile)
            slots = arrivals * replica.residence[0]
            return _shared(scenario) | {
                1: reading(1, "a decode step", replica.decode.compute[0].to("ms"), ask.token_limit),
                2: reading(2, "a decode step", replica.decode.memory[0].to("ms"), ask.token_limit),
                4: reading(4, scope, replica.tpot[0].to("ms"), ask.token_limit, "time per output token"),
                5: reading(5, f"slots busy of {scope}", slots.m_as(""), float(ask.batch)),
                7: reading(
                    7, f"{replicas} replicas", first.to("ms"), ask.first_token_limit, f"P{100 * ask.percentile:g} of TTFT"
                ),
                14: reading(14, "a decode step", replica.decode.communication[0].to("ms"), ask.token_limit),
            }
        held = solvers.DistributedResult(
            cluster.accelerators, cluster.nodes, _ZERO, _ZERO, 0.0, _ZERO, Q(0.0, "token/s"), 0.0, scenario.horizon
        )
        return _macro(scenario, held, 1.0) | {
            21: _sensitivity(self.token_time, chip, link),
            22: self.synthesis(chip, link),
        }

    def synthesis(self, chip: Accelerator, link: Quantity) -> Reading:
        """Wall 22: the least memory bandwidth with which the time per token is met."""
        if self.ask.token_limit is None:
            return reading(22, chip.name, None, chip.memory_bandwidth, "no limit of the time per token to derive it from")

        def forward(bandwidth: Quantity) -> Quantity:
            return self.token_time(dataclasses.replace(chip, memory_bandwidth=bandwidth), link)

        there = chip.memory_bandwidth
        try:
            needed = analysis.smallest(forward, self.ask.token_limit, there * 1e-4, there * 1e4)
        except ImpossibleValue as error:
            return reading(22, chip.name, None, there, f"no memory bandwidth is enough: {error}")
        return reading(22, chip.name, needed.to("GB/s"), there.to("GB/s"), "memory bandwidth for the time per token")


def _service(scenario: Scenario) -> _Service:
    assert isinstance(scenario.question, Service)
    return _Service(scenario, scenario.question)


# --------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True, slots=True)
class _Training:
    scenario: Scenario
    ask: Training

    def run(self, chip: Accelerator, link: Quantity) -> solvers.DistributedResult:
        model, ask, cluster = self.scenario.workload, self.ask, self.scenario.fleet
        changed = dataclasses.replace(
            cluster,
            node=dataclasses.replace(
                cluster.node, accelerator=chip, scale_up=dataclasses.replace(cluster.node.scale_up, bandwidth=link)
            ),
        )
        work = algorithm.training_operations(model.active_parameters, ask.tokens)
        law = algorithm.scaling_law(self.scenario.law)
        loss = algorithm.training_loss(law, model.parameters, ask.tokens)
        scaled = solvers.ScalingResult(work, model.active_parameters, ask.tokens, loss)
        return solvers.distributed(
            scaled, changed, ask.precision, ask.compute_efficiency, ask.batch_tokens, ask.tensor_parallel,
            ask.pipeline_parallel, ask.microbatches, model.layers, model.hidden,
        )  # fmt: skip

    def state(self) -> Quantity:
        """Weights, gradients and optimiser state of one accelerator; activations are not in it."""
        ask = self.ask
        element = algorithm.bytes_per_element(ask.precision)
        state = operations.checkpoint_bytes(
            self.scenario.workload.parameters, 2 * element, operations.optimizer_bytes(ask.optimizer)
        )
        return state / (ask.tensor_parallel * ask.pipeline_parallel)

    def step_time(self, chip: Accelerator, link: Quantity) -> Quantity:
        return self.run(chip, link).step_time if self.state() <= chip.memory else Q(np.inf, "s")

    def demands(self, level: int) -> dict[int, Reading]:
        scenario, ask = self.scenario, self.ask
        cluster, chip = scenario.fleet, scenario.fleet.node.accelerator
        link = known(cluster.node.scale_up.bandwidth, f"the bandwidth of {cluster.node.scale_up.name}")
        run = self.run(chip, link)
        reads = (run.throughput * ask.bytes_per_token).to("GB/s")
        if level == 1:
            work = algorithm.training_operations(scenario.workload.active_parameters, ask.tokens)
            there = chip.peak[algorithm.computes_in(ask.precision)] * cluster.accelerators * scenario.horizon
            supply = pipeline.storage_supply(cluster.nodes, ask.writer_bandwidth, ask.storage_bandwidth)
            return {
                1: reading(1, cluster.name, work, there.to("FLOP")),
                2: reading(2, f"one {chip.name}", self.state().to("GB"), chip.memory.to("GB"), "without activations"),
                8: reading(8, cluster.name, reads, supply.to("GB/s")),
            }
        checkpoint = operations.checkpoint_bytes(
            scenario.workload.parameters, algorithm.bytes_per_element(ask.precision), operations.optimizer_bytes(ask.optimizer)
        )
        write = operations.write_time(checkpoint, cluster.nodes, ask.writer_bandwidth, ask.storage_bandwidth)
        kept = solvers.reliability(cluster.accelerators, ask.accelerator_mtbf, write, ask.restart_time, run.duration)
        if level == 2:
            rate = ask.core_throughput * ask.cores * cluster.nodes
            law = algorithm.scaling_law(scenario.law)
            loss = algorithm.training_loss(law, scenario.workload.parameters, ask.tokens)
            duration = run.duration / kept.goodput
            return _shared(scenario) | {
                1: reading(1, "a step", run.compute_time, run.step_time, "compute's part of the step"),
                3: reading(3, cluster.name, run.model_flops_utilisation, ask.compute_efficiency, "MFU against the kernels'"),
                9: reading(9, cluster.name, reads, rate.to("GB/s")),
                11: reading(11, scenario.law, loss, scenario.limits.get(11), "nats per token"),
                14: reading(14, "a step", run.communication_time, run.step_time, f"bubble {run.bubble:.3f}"),
                15: reading(15, cluster.name, 1 - kept.goodput, scenario.limits.get(15), f"{duration.to('day'):.4g~} in all"),
            }
        penalty = operations.checkpoint_penalty(write, kept.interval + write)
        needed = (
            analysis.required_peak(
                algorithm.training_operations(scenario.workload.active_parameters, ask.tokens),
                scenario.horizon.to("s"),
                float(run.model_flops_utilisation * kept.goodput),
            )
            / cluster.accelerators
        )
        there = chip.peak[algorithm.computes_in(ask.precision)]
        return (
            _macro(scenario, run, float(kept.goodput))
            | _privacy(scenario)
            | {
                19: reading(19, cluster.name, penalty, scenario.limits.get(19), f"{write.to('s'):.4g~} to write"),
                21: _sensitivity(self.step_time, chip, link),
                22: reading(22, chip.name, needed.to("TFLOP/s"), there.to("TFLOP/s"), "peak to finish in time at this MFU"),
            }
        )


def _training(scenario: Scenario) -> _Training:
    assert isinstance(scenario.question, Training)
    return _Training(scenario, scenario.question)
