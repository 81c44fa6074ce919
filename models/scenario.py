"""One workload on one fleet in one region, judged against all twenty-two walls.

Level 1 asks whether it fits (walls 1, 2, 5, 8), level 2 how fast it is (1 to 7, 9 to 16), level 3 what it costs and emits
(17 to 22). A violated wall on level 1 or 2 ends the evaluation there: what does not fit has no cost worth knowing. Every wall
of a level that was reached gives one `Reading`, also where the question does not touch it; the reading then says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from zoo.architecture import embedding_parameters
from zoo.specs import Fabric, Fleet, Region, Transformer
from zoo.units import Q, Quantity

from . import algorithm, analysis, fleet, node, operations, serving, solvers
from . import data as pipeline
from .calibration import Constants, serving_constants
from .dimensions import ImpossibleValue, UnknownValue, known, require
from .lowering import lower
from .questions import Ownership, Privacy, Processing, Service, Sharing, Training
from .wall import Reading, Wall, reading

LEVELS = {1: (1, 2, 5, 8), 2: (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16), 3: (17, 18, 19, 20, 21, 22)}
_RANGE = Q(1e-4, ""), Q(1e4, "")  # how far synthesis looks around what is there
_NO_TIME, _NO_TOKENS = Q(0.0, "s"), Q(0.0, "token")

# What can be moved -> the wall that it moves, and where it stands.
INPUTS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "peak": (1, ("fleet", "node", "accelerator", "peak")),
    "memory_bandwidth": (2, ("fleet", "node", "accelerator", "memory_bandwidth")),
    "memory": (2, ("fleet", "node", "accelerator", "memory")),
    "link_bandwidth": (14, ("fleet", "node", "scale_up", "bandwidth")),
    "network_bandwidth": (14, ("fleet", "fabric", "bandwidth")),
    "mtbf": (15, ("question", "accelerator_mtbf")),
    "price": (17, ("fleet", "node", "accelerator", "price")),
    "rent": (17, ("ownership", "rent")),
    "electricity_price": (17, ("region", "electricity_price")),
    "tdp": (18, ("fleet", "node", "accelerator", "tdp")),
    "carbon_intensity": (18, ("region", "grid", "{intensity}")),
    "storage_bandwidth": (19, ("question", "storage_bandwidth")),
}
HARDWARE = ("peak", "memory_bandwidth", "memory", "link_bandwidth", "network_bandwidth")
OUTPUTS = ("time", "duration", "cost", "carbon")

_SERVES = "nothing is trained: this question serves"
_TRAINS = "nobody is served: this question trains"
_UNTOUCHED: Mapping[type, Mapping[int, str]] = {
    Service: {
        6: "the weights stay in memory: nothing is streamed in",
        8: "prompts are kilobytes: storage is not read while serving",
        9: "prompts arrive as text: nothing is decoded or augmented",
        11: _SERVES,
        12: "no thought is asked for (tokens before the answer)",
        15: "no MTBF and restart time of a replica are given",
        19: "nothing is checkpointed while serving",
        20: "serving spends no privacy of training data; none is given",
    },
    Training: {
        4: _TRAINS,
        5: "training keeps no key-value cache",
        6: "the weights stay in memory: nothing is streamed in",
        7: _TRAINS,
        12: _TRAINS,
        20: "trained without differential privacy (none is given)",
    },
    Processing: {
        5: "no key-value cache: units do not wait for each other",
        6: "the weights stay in memory: nothing is streamed in",
        8: "no bytes per unit and storage are given",
        9: "no cores and bytes per unit are given",
        10: "every accelerator works alone: nothing crosses the network",
        11: "nothing is trained: this question processes",
        12: "a unit is processed once, without thought",
        14: "every accelerator works alone: nothing is communicated",
        15: "no MTBF and restart time are given",
        19: "nothing is checkpointed",
        20: "nothing is trained; no privacy is given",
    },
}


@dataclass(frozen=True, slots=True)
class OwnWall:
    """A wall of the user's: what it is, on which level it is read, and its (demand, limit) in a scenario."""

    wall: Wall
    level: int
    read: Callable[[Scenario], tuple[Any, Any]]


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

    @property
    def violated(self) -> tuple[Reading, ...]:
        """The readings beyond their limit."""
        return tuple(found for level in self.readings.values() for found in level if found.violated)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Elasticities of one output to every known input, the most helpful first; the input that binds, and its wall."""

    output: str
    elasticities: tuple[analysis.Elasticity, ...]
    binding: str | None
    wall: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A question about `workload` on `fleet` in `region` for the time `horizon`.

    limits: the most that is allowed, by wall number: 13 relative loss of quality, 15 share of time lost to failures, 16 mean
    wait, 17 money, 18 carbon, 19 share of time spent writing checkpoints, 20 epsilon, 11 loss, 12 time of thought. What the
    hardware or an SLA limits (1 to 8, 10, 22) needs no entry. constants: fitted constants of the serving model (None: those of
    the fleet's accelerator). walls: the user's own, read after the twenty-two.
    """

    name: str
    workload: Any
    fleet: Fleet
    region: Region
    horizon: Quantity
    question: Service | Training | Processing
    ownership: Ownership
    constants: Constants | None = None
    law: str = "epoch"
    sharing: Sharing | None = None
    privacy: Privacy | None = None
    limits: Mapping[int, Any] = field(default_factory=lambda: MappingProxyType({}))
    walls: tuple[OwnWall, ...] = ()

    @property
    def fitted(self) -> Constants:
        """The constants given, or the stored ones of the fleet's accelerator."""
        return self.constants or serving_constants(self.fleet.node.accelerator)

    def evaluate(self) -> Evaluation:
        """Readings of all walls, level by level, as far as the levels are feasible."""
        answer = _answer(self.scaled({}))
        readings: dict[int, tuple[Reading, ...]] = {}
        for level, walls in LEVELS.items():
            demands = answer.demands(level)
            found = tuple(demands.get(wall) or self._untouched(wall) for wall in walls)
            own = tuple(reading(o.wall, self.name, *o.read(self)) for o in self.walls if o.level == level)
            readings[level] = found + own
            if any(found.violated for found in readings[level]):
                return Evaluation(readings, level, False)
        return Evaluation(readings, max(LEVELS), True)

    def _untouched(self, wall: int) -> Reading:
        why = "no jobs of other users are given" if wall == 16 else _UNTOUCHED[type(self.question)].get(wall, "")
        return reading(wall, self.name, None, None, why or "not known for this fleet")

    def output(self, of: str) -> Any:
        """One figure of this scenario, of which less is better; infinite where it does not fit.

        time [s]: of an output token, a training step, a batch; duration [s] of the whole run with failures (training only);
        cost [USD], carbon [gCO2e]: of the whole run, else of one token or unit on the fully used fleet.
        """
        require(of in OUTPUTS, "an output is one of time, duration, cost, carbon, not {}", of)
        return getattr(_answer(self), of)()

    def scaled(self, factors: Mapping[str, Any]) -> Scenario:
        """This scenario with some of INPUTS multiplied by factors, which may be arrays (then `output` is an array too)."""
        # the constants are those of the real chip: its fractions stay
        changed: Any = self if self.constants is not None else dataclasses.replace(self, constants=self.fitted)
        for name, factor in factors.items():
            changed = _multiplied(changed, self._path(name), factor)
        return changed

    def _path(self, name: str) -> tuple[str, ...]:
        require(name in INPUTS, "{} is no input of a scenario; known: {}", name, ", ".join(INPUTS))
        attribute = solvers.CARBON_METHODS[self.ownership.carbon_method][0]
        return tuple(part.format(intensity=attribute) for part in INPUTS[name][1])

    def given(self, name: str) -> Any:
        """The value of one of INPUTS here, None where it is not known or has no place in this question."""
        value: Any = self
        for part in self._path(name):
            value = getattr(value, part, None)
        return value

    def sensitivity(self, of: str = "time", step: float = 0.01, names: tuple[str, ...] = tuple(INPUTS)) -> Sensitivity:
        """Two-sided elasticities of an output to every input that is known here, over the whole composition (wall 21)."""
        base = self.scaled({})
        here = {name: 1.0 for name in names if self.given(name) is not None}
        if self.ownership.rent is not None:
            here.pop("price", None)
        found = analysis.elasticities(lambda factors: base.scaled(factors).output(of), here, step, at_once=True)
        binding = analysis.binding_input(found, 1e-6)
        return Sensitivity(of, found, binding, INPUTS[binding][0] if binding else None)

    def synthesis(self, names: tuple[str, ...] = HARDWARE) -> dict[str, Quantity | None]:
        """The smallest value of each hardware figure with which the SLA is still met, all others as they are (wall 22).

        The SLA is the time per output token, the time of a batch, or the end of a run within the horizon. Put into the fleet,
        each value meets the SLA, and nothing smaller does. 0: it does not matter. None: no value is enough, or none is known.
        """
        base = self.scaled({})
        target, of = _answer(base).target
        limit = known(target, "the time limit that hardware would have to meet")
        found: dict[str, Quantity | None] = {}
        for name in names:
            there = self.given(name)
            if there is None:
                found[name] = None
                continue

            def forward(factor: Quantity, name: str = name) -> Quantity:
                return base.scaled({name: factor.magnitude}).output(of)

            try:
                factor = analysis.smallest(forward, limit, *_RANGE, at_once=100)
            except ImpossibleValue:
                found[name] = None
                continue
            peak = algorithm.computes_in(self.question.precision)
            matters = factor.magnitude > _RANGE[0].magnitude
            found[name] = (there[peak] if isinstance(there, Mapping) else there) * (factor.magnitude if matters else 0.0)
        return found


def _multiplied(record: Any, path: tuple[str, ...], factor: Any) -> Any:
    """A record whose field at `path` is multiplied by `factor`; of a mapping, every value."""
    value = getattr(record, path[0])
    if len(path) > 1:
        changed = _multiplied(value, path[1:], factor)
    elif isinstance(value, Mapping):
        changed = {key: inner * factor for key, inner in value.items()}
    else:
        changed = known(value, ".".join(path)) * factor
    return dataclasses.replace(record, **{path[0]: changed})


def _answer(scenario: Scenario) -> _Service | _Training | _Processing:
    kinds: dict[type, Any] = {Service: _Service, Training: _Training, Processing: _Processing}
    answer = kinds[type(scenario.question)]
    if answer is not _Processing and not isinstance(scenario.workload, Transformer):
        raise ImpossibleValue(
            f"{type(scenario.workload).__name__} {scenario.workload.name!r} has no tokens to serve or train on: "
            "ask a Processing question of it"
        )
    return answer(scenario, scenario.question)


@dataclass(frozen=True)
class _Answer:
    """What every question's answer shares: walls 10, 13, 15 to 18 and 20 to 22."""

    scenario: Scenario
    ask: Any

    @property
    def peak(self) -> Quantity:
        chip, multiplied = self.scenario.fleet.node.accelerator, algorithm.computes_in(self.ask.precision)
        return known(chip.peak.get(multiplied), f"the peak of {chip.name} at {multiplied}")

    @property
    def fabric(self) -> Fabric | None:
        return self.scenario.fleet.fabric or self.scenario.fleet.node.scale_out

    def shared(self, crossing: Quantity, time: Quantity) -> dict[int, Reading]:
        """Walls 10, 13 and 16. crossing [byte]: over the middle of the network in `time` [s]."""
        scenario = self.scenario
        quality = algorithm.quality_loss(self.ask.precision)
        found = {10: self.locality(crossing, time)}
        found[13] = reading(13, quality.precision, quality.high, scenario.limits.get(13))
        if scenario.sharing is not None:
            sharing = scenario.sharing
            wait = fleet.pollaczek_khinchine_wait(sharing.arrival_rate, sharing.job_time, sharing.cs2)
            found[16] = reading(16, scenario.fleet.name, wait.to("h"), scenario.limits.get(16))
        return found

    def locality(self, crossing: Quantity, time: Quantity) -> Reading:
        cluster, fabric = self.scenario.fleet, self.fabric
        if not np.any(crossing.m_as("byte") > 0):
            return reading(10, cluster.name, None, None, "no collective leaves a node: nothing crosses the network")
        if fabric is None or fabric.bandwidth is None or fabric.topology is None or fabric.oversubscription is None:
            name = fabric.name if fabric is not None else "the fabric"
            raise UnknownValue(f"topology, bandwidth or oversubscription of {name} is unknown, and nothing may be assumed for it")
        there = pipeline.bisection_bandwidth(
            fabric.bandwidth, fabric.topology, float(cluster.accelerators), fabric.oversubscription
        )
        demand = pipeline.bisection_demand(crossing, time)
        return reading(10, fabric.name, demand.to("GB/s"), there.to("GB/s"), f"over the middle of a {fabric.topology}")

    def held(self) -> solvers.DistributedResult:
        """The whole fleet for the whole horizon, as `solvers.economics` takes it."""
        cluster = self.scenario.fleet
        return solvers.DistributedResult(
            cluster.accelerators, cluster.nodes, _NO_TIME, _NO_TIME, 0.0, _NO_TIME, Q(0.0, "token/s"), 0.0, self.scenario.horizon
        )

    def paid(self, run: solvers.DistributedResult, goodput: Any) -> solvers.EconomicsResult:
        own = self.scenario.ownership
        return solvers.economics(
            run, self.scenario.fleet, self.scenario.region, goodput, own.utilisation, own.idle_fraction, own.life, own.residual,
            own.maintenance_rate, surroundings=own.surroundings or Q(0.0, "USD"), rent=own.rent,
        )  # fmt: skip

    def emitted(self, cost: solvers.EconomicsResult) -> solvers.SustainabilityResult:
        own = self.scenario.ownership
        return solvers.sustainability(
            cost, self.scenario.fleet, self.scenario.region, own.life, own.grid_water, method=own.carbon_method
        )

    def total(self, cost: solvers.EconomicsResult) -> Quantity:
        """All that is paid, emissions too where they have a price."""
        price = self.scenario.ownership.carbon_price
        if price is None:
            return cost.total
        return operations.total_cost(cost.total, operations.carbon_cost(self.emitted(cost).carbon, price))

    def macro(self, run: solvers.DistributedResult, goodput: Any) -> dict[int, Reading]:
        """Walls 17 and 18. A figure that is not known is said so; with a limit set on it, it is an error."""
        scenario, found = self.scenario, {}
        for wall, scope in ((17, scenario.fleet.name), (18, scenario.region.name)):
            try:
                cost = self.paid(run, goodput)
                if wall == 17:
                    demand, note = self.total(cost).to("USD"), _cost_parts(cost, scenario.ownership)
                else:
                    footprint = self.emitted(cost)
                    demand, note = footprint.carbon.to("kgCO2e"), f"{footprint.method}; {_water(footprint.water)}"
            except UnknownValue as error:
                if wall in scenario.limits:
                    raise
                found[wall] = reading(wall, scope, None, None, str(error))
            else:
                found[wall] = reading(wall, scope, demand, scenario.limits.get(wall), note)
        return found

    def privacy(self) -> dict[int, Reading]:
        private = self.scenario.privacy
        if private is None:
            return {}
        epsilon = operations.privacy_loss(private.noise_multiplier, private.sampling_rate, private.steps, private.delta)
        return {20: reading(20, f"delta {private.delta:g}", float(epsilon), self.scenario.limits.get(20))}

    def down(self, accelerators: int, spare: float) -> dict[int, Reading]:
        """Wall 15 of replicas: how much of the time one is down, against the share that is not needed."""
        if self.ask.accelerator_mtbf is None or self.ask.restart_time is None:
            return {}
        lost = fleet.down_share(self.ask.restart_time, fleet.cluster_mtbf(self.ask.accelerator_mtbf, accelerators))
        limit = self.scenario.limits.get(15, spare)
        return {15: reading(15, "share of replicas down", float(lost), limit, "against the share that is idle")}

    def analysed(self) -> dict[int, Reading]:
        """Walls 21 and 22: what binds the time, and the least of it that meets the SLA."""
        scenario = self.scenario
        names = tuple(name for name in HARDWARE if scenario.given(name) is not None)
        found = scenario.sensitivity("time", names=names)
        moves = "; ".join(f"{e.name} {e.up:+.3f} / {e.down:+.3f}" for e in found.elasticities)
        if found.binding is None:
            return {
                21: reading(21, scenario.name, None, None, f"none of the hardware binds ({moves})"),
                22: reading(22, scenario.name, None, None, "no hardware figure moves the time"),
            }
        gain = next(e.gain for e in found.elasticities if e.name == found.binding) / 0.01
        note = f"binding: {found.binding}, wall {found.wall}; {gain:.2f} % of time per 1 % ({moves})"
        readings = {21: reading(21, scenario.name, None, None, note)}
        there = scenario.given(found.binding)
        there = there[algorithm.computes_in(self.ask.precision)] if isinstance(there, Mapping) else there
        limit, _ = self.target
        if limit is None:
            readings[22] = reading(22, scenario.name, None, there, "no time limit to derive hardware from")
            return readings
        needed = scenario.synthesis((found.binding,))[found.binding]
        if needed is None:
            readings[22] = reading(22, scenario.name, None, there, f"no {found.binding} is enough for {limit:~}")
        else:
            readings[22] = reading(22, scenario.name, needed.to(there.units), there, f"{found.binding} for {limit:~}")
        return readings

    @property
    def target(self) -> tuple[Quantity | None, str]:
        """The time limit, and the output that it limits."""
        raise NotImplementedError

    def demands(self, level: int) -> dict[int, Reading]:
        raise NotImplementedError


def _where(fits: Any, value: Quantity) -> Quantity:
    """`value` where it fits, else infinite."""
    return Q(np.where(fits, value.magnitude, np.inf), value.units)


def _water(water: Quantity | None) -> str:
    return "water not known (WUE)" if water is None else f"{water.to('L').m:,.0f} L of water"


def _cost_parts(cost: solvers.EconomicsResult, own: Ownership) -> str:
    names = ("rental",) if own.rent is not None else ("capital", "electricity", "maintenance")
    parts = ", ".join(f"{name} {getattr(cost, name).m_as('USD'):,.0f}" for name in names)
    alone = own.rent is None and own.surroundings is None
    priced = ", carbon priced" if own.carbon_price is not None else ""
    return f"{parts}{priced}{'; accelerators alone, no host or network' if alone else ''}"


def _equal_bandwidth(ranks: int, in_node: int, link: Quantity, network: Quantity) -> Quantity:
    """The link bandwidth at which a flat ring takes as long as a hierarchical all-reduce over nodes of `in_node` ranks."""
    inside = min(ranks, in_node)
    if ranks <= inside:
        return link
    message = Q(1.0, "GB")
    time = fleet.hierarchical_all_reduce(message, inside, ranks / inside, link, _NO_TIME, network, _NO_TIME)
    return analysis.required_link(message, ranks, time, _NO_TIME)


# ---------------------------------------------------------------------------------------------------------- service


@dataclass(frozen=True)
class _Service(_Answer):
    ask: Service

    @property
    def output(self) -> Quantity:
        """Tokens generated per request, thought included [token]."""
        return self.ask.output if self.ask.thought is None else self.ask.output + self.ask.thought

    @property
    def chips(self) -> int:
        """Accelerators of a replica."""
        return max(self.ask.tensor_parallel, self.ask.expert_parallel) * self.ask.pipeline_parallel

    def links(self) -> serving.Links:
        cluster, scale_up, fabric = self.scenario.fleet, self.scenario.fleet.node.scale_up, self.fabric
        link = known(scale_up.bandwidth, f"the bandwidth of {scale_up.name}")
        latency = known(scale_up.latency, f"the latency of {scale_up.name}")
        if self.chips <= cluster.node.accelerators:
            return serving.Links(link, latency, link, latency)
        fabric = known(fabric, f"the fabric of {cluster.name}")
        network = known(fabric.bandwidth, f"the bandwidth of {fabric.name}")
        away = known(fabric.latency, f"the latency of {fabric.name}")
        group = max(self.ask.tensor_parallel, self.ask.expert_parallel)
        inside = _equal_bandwidth(group, cluster.node.accelerators, link, network)
        return serving.Links(inside, latency if group <= cluster.node.accelerators else latency + away, network, away)

    @cached_property
    def replica(self) -> serving.Replica:
        """One replica; an array of them where the scenario is `scaled` by arrays."""
        ask, constants, chip = self.ask, self.scenario.fitted, self.scenario.fleet.node.accelerator
        links, peak = self.links(), self.peak
        figures = (peak, chip.memory_bandwidth, chip.memory, links.inside, links.between)
        one = np.ones(np.broadcast_shapes((1,), *(np.shape(figure.magnitude) for figure in figures)))
        layouts = serving.Layouts(
            weight_bytes=algorithm.bytes_per_element(ask.precision) * one,
            kv_bytes=algorithm.bytes_per_element(ask.kv_precision) * one,
            peak=peak * one,
            compute_efficiency=constants.compute_efficiency[algorithm.computes_in(ask.precision)] * one,
            tensor_parallel=ask.tensor_parallel * one,
            pipeline_parallel=ask.pipeline_parallel * one,
            expert_parallel=ask.expert_parallel * one,
            batch=ask.batch * one,
        )
        return serving.replica(self.scenario.workload, chip, layouts, links, serving.Traffic(ask.prompt, self.output), constants)

    @property
    def target(self) -> tuple[Quantity | None, str]:
        return self.ask.token_limit, "time"

    def time(self) -> Quantity:
        """Time per output token; infinite where the replica does not fit."""
        replica = self.replica
        return _where(replica.memory_needed <= replica.memory_there, replica.tpot)

    def duration(self) -> Quantity:
        raise ImpossibleValue("a service has no end: its outputs are time, cost and carbon")

    def tokens(self) -> Any:
        """Tokens that the fully used fleet generates within the horizon: a count."""
        replica = self.replica
        rate = replica.request_rate * (self.scenario.fleet.accelerators // self.chips)
        generated = (rate * self.scenario.horizon).m_as("") * self.output.m_as("token")
        return np.where(replica.memory_needed <= replica.memory_there, generated, 0.0)

    def cost(self) -> Quantity:
        with np.errstate(divide="ignore"):
            return self.total(self.paid(self.held(), 1.0)) / self.tokens()

    def carbon(self) -> Quantity:
        with np.errstate(divide="ignore"):
            return self.emitted(self.paid(self.held(), 1.0)).carbon / self.tokens()

    def demands(self, level: int) -> dict[int, Reading]:
        scenario, ask, model = self.scenario, self.ask, self.scenario.workload
        cluster, chip = scenario.fleet, scenario.fleet.node.accelerator
        replicas = cluster.accelerators // self.chips
        scope = f"a replica of {self.chips} x {chip.name}"
        if level == 3:
            return self.macro(self.held(), 1.0) | self.privacy() | self.analysed()
        require(replicas >= 1, "a replica takes {} accelerators, the fleet has {}", self.chips, cluster.accelerators)
        replica = self.replica
        decode = node.decode_operations(model, ask.batch, ask.prompt + self.output / 2)
        if level == 1:
            work = ask.arrival_rate * (
                node.prefill_operations(model, ask.prompt, _NO_TOKENS) + self.output.m_as("token") / ask.batch * decode
            )
            return {
                1: reading(1, cluster.name, work.to("TFLOP/s"), (self.peak * cluster.accelerators).to("TFLOP/s")),
                2: reading(2, scope, replica.memory_needed[0].to("GB"), replica.memory_there.to("GB")),
                5: reading(5, scope, float(ask.batch), float(replica.largest_batch[0]), "sequences decoded together"),
            }
        step, limit = replica.decode_step[0], ask.token_limit
        queued = node.sojourn_quantile(ask.arrival_rate, replica.prefill_time[0], replicas, ask.percentile)
        first = replica.first_token_delay[0] + queued
        slots = float((ask.arrival_rate / replicas * replica.residence[0]).m_as(""))
        used = float(node.model_flops_utilisation(decode, step, self.peak * self.chips))
        reached = scenario.fitted.compute_efficiency[algorithm.computes_in(ask.precision)]
        tail, worst = f"P{100 * ask.percentile:g} of TTFT", f"{replica.tpot_high[0].m_as('ms'):.3g} ms"
        found = self.shared(self.crossing(), step) | self.down(self.chips, max(0.0, 1 - slots / ask.batch))
        if ask.thought is not None:
            time = algorithm.reasoning_time(ask.thought, replica.tpot[0])
            found[12] = reading(12, scope, time.to("s"), scenario.limits.get(12), "time of thought before the answer")
        return found | {
            1: reading(1, "a decode step", replica.decode.compute[0].to("ms"), limit),
            2: reading(2, "a decode step", replica.decode.memory[0].to("ms"), limit),
            3: reading(3, "a decode step", used, reached, "MFU against what kernels reach"),
            4: reading(4, scope, replica.tpot[0].to("ms"), limit, f"time per output token; 80 % of cases within {worst}"),
            5: reading(5, scope, slots, float(ask.batch), "sequences at work, on average"),
            7: reading(7, f"{replicas} replicas", first.to("ms"), ask.first_token_limit, tail),
            14: reading(14, "a decode step", replica.decode.communication[0].to("ms"), limit),
        }

    def crossing(self) -> Quantity:
        """Bytes of one decode step over the middle of the network: the collectives of a replica that spans nodes."""
        model, ask, in_node = self.scenario.workload, self.ask, self.scenario.fleet.node.accelerators
        hidden = Q(2.0, "byte") * ask.batch * model.hidden
        wide = max(1.0, ask.tensor_parallel / in_node)
        crossing = 2 * model.layers * pipeline.all_reduce_crossing(hidden, wide, 1)
        if ask.expert_parallel > ask.tensor_parallel:
            nodes = max(1.0, ask.expert_parallel / in_node)
            message = hidden * model.top_k / (ask.expert_parallel / ask.tensor_parallel)
            crossing = crossing + 2 * model.moe_layers * pipeline.all_to_all_crossing(message, ask.expert_parallel, nodes)
        return crossing * (self.scenario.fleet.accelerators // self.chips)


# --------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class _Training(_Answer):
    ask: Training

    @property
    def data_parallel(self) -> float:
        return self.scenario.fleet.accelerators / (self.ask.tensor_parallel * self.ask.pipeline_parallel)

    @cached_property
    def run(self) -> solvers.DistributedResult:
        model, ask = self.scenario.workload, self.ask
        law = algorithm.scaling_law(self.scenario.law)
        loss = algorithm.training_loss(law, model.parameters, ask.tokens)
        work = algorithm.training_operations(model.active_parameters, ask.tokens)
        experts = None
        if model.experts:
            experts = solvers.Experts(
                layers=model.moe_layers, count=model.experts, top_k=model.top_k, parameters=node.routed_parameters(model),
                parallel=ask.expert_parallel,
            )  # fmt: skip
        sequences = (ask.batch_tokens / ask.sequence_length).m_as("")
        return solvers.distributed(
            solvers.ScalingResult(work, model.active_parameters, ask.tokens, loss), self.scenario.fleet, ask.precision,
            ask.compute_efficiency, ask.batch_tokens, ask.tensor_parallel, ask.pipeline_parallel, ask.microbatches, model.layers,
            model.hidden, sequence_length=ask.sequence_length,
            attention=3 * sequences * node.attention_operations(model, ask.sequence_length, _NO_TOKENS),
            virtual_stages=ask.virtual_stages, recompute=ask.recompute, zero_stage=ask.zero_stage, experts=experts,
        )  # fmt: skip

    @cached_property
    def memory(self) -> tuple[Quantity, Quantity, Quantity]:
        """(weights, gradients and optimiser state; activations; what the runtime takes) of the fullest accelerator.

        The fullest stage has the rounded-up number of layers and one of the tables: input embedding, or output head.
        """
        model, ask, constants = self.scenario.workload, self.ask, self.scenario.fitted
        element, state = algorithm.bytes_per_element(ask.precision), operations.optimizer_bytes(ask.optimizer)
        stages, routed = ask.pipeline_parallel, node.routed_parameters(model)
        share = np.ceil(model.layers / stages) / model.layers
        tables = float(embedding_parameters(model))
        on_stage = tables if stages == 1 else float(model.vocab * model.hidden)
        trunk = (share * (model.parameters - routed - tables) + on_stage) / ask.tensor_parallel
        experts = share * routed / ask.tensor_parallel / ask.expert_parallel

        def kept(parameters: float, ranks: float) -> Quantity:
            return node.training_state_bytes(parameters, element, element, state, ranks, ask.zero_stage)

        held = kept(trunk, self.data_parallel) + kept(experts, max(1.0, self.data_parallel / ask.expert_parallel))
        if ask.zero_stage == 3:  # one layer is gathered, the next is on its way
            held = held + node.weight_bytes(2 * (trunk + experts) / np.ceil(model.layers / stages), element)
        tokens = ask.batch_tokens / self.data_parallel / ask.microbatches
        layer = node.activation_bytes(tokens, model.hidden, ask.tensor_parallel, ask.recompute)
        deep = 1 + (stages - 1) / (stages * ask.virtual_stages) if ask.virtual_stages > 1 else 1.0
        flying = min(ask.microbatches, stages) * deep
        return held, layer * np.ceil(model.layers / stages) * flying, constants.workspace

    @property
    def fits(self) -> Any:
        return sum(self.memory, start=Q(0.0, "byte")) <= self.scenario.fleet.node.accelerator.memory

    def kept(self, run: solvers.DistributedResult) -> solvers.ReliabilityResult:
        """The run with its checkpoints and failures."""
        ask = self.ask
        accelerators = self.scenario.fleet.accelerators
        return solvers.reliability(accelerators, ask.accelerator_mtbf, self.write_time(), ask.restart_time, run.duration)

    def write_time(self) -> Quantity:
        ask, cluster = self.ask, self.scenario.fleet
        size = operations.checkpoint_bytes(
            self.scenario.workload.parameters,
            algorithm.bytes_per_element(ask.precision),
            operations.optimizer_bytes(ask.optimizer),
        )
        return operations.write_time(size, cluster.nodes, ask.writer_bandwidth, ask.storage_bandwidth)

    @property
    def target(self) -> tuple[Quantity | None, str]:
        return self.scenario.horizon, "duration"

    def time(self) -> Quantity:
        """Time of a step; infinite where it does not fit."""
        return _where(self.fits, self.run.step_time)

    def duration(self) -> Quantity:
        run = self.run
        return _where(self.fits, run.duration / self.kept(run).goodput)

    def cost(self) -> Quantity:
        run = self.run
        return _where(self.fits, self.total(self.paid(run, self.kept(run).goodput)))

    def carbon(self) -> Quantity:
        run = self.run
        emitted = self.emitted(self.paid(run, self.kept(run).goodput)).carbon
        return _where(self.fits, emitted)

    def demands(self, level: int) -> dict[int, Reading]:
        scenario, ask = self.scenario, self.ask
        cluster, chip = scenario.fleet, scenario.fleet.node.accelerator
        run = self.run
        reads = (run.throughput * ask.bytes_per_token).to("GB/s")
        if level == 1:
            work = algorithm.training_operations(scenario.workload.active_parameters, ask.tokens)
            there = self.peak * cluster.accelerators * scenario.horizon
            supply = pipeline.storage_supply(cluster.nodes, ask.writer_bandwidth, ask.storage_bandwidth)
            state, activations, runtime = self.memory
            note = f"{state.m_as('GB'):.3g} GB of weights and state, {activations.m_as('GB'):.3g} GB of activations"
            return {
                1: reading(1, cluster.name, work.to("EFLOP"), there.to("EFLOP"), "work against the peak within the horizon"),
                2: reading(2, f"one {chip.name}", (state + activations + runtime).to("GB"), chip.memory.to("GB"), note),
                8: reading(8, cluster.name, reads, supply.to("GB/s")),
            }
        kept = self.kept(run)
        lasts = (run.duration / kept.goodput).to("day")
        if level == 2:
            rate = ask.core_throughput * ask.cores * cluster.nodes
            law = algorithm.scaling_law(scenario.law)
            loss = algorithm.training_loss(law, scenario.workload.parameters, ask.tokens)
            parts = ", ".join(f"{k} {v.m_as('s'):.3g} s" for k, v in run.parts.items() if v.m_as("s") > 0)
            limits = scenario.limits
            lost = f"{lasts.m:.4g} days in all, of {scenario.horizon.m_as('day'):.4g}"
            return self.shared(run.crossing, run.step_time) | {
                1: reading(1, "a step", run.compute_time.to("s"), run.step_time.to("s"), "compute's part of the step"),
                2: reading(2, "a step", None, None, "judged on level 1; kernels' traffic is in their efficiency (wall 3)"),
                3: reading(3, cluster.name, float(run.model_flops_utilisation), ask.compute_efficiency, "MFU, of the kernels'"),
                9: reading(9, cluster.name, reads, rate.to("GB/s")),
                11: reading(11, scenario.law, float(loss), limits.get(11), "nats per token"),
                14: reading(14, "a step", run.communication_time, run.step_time, f"{parts}; bubble {float(run.bubble):.1%}"),
                15: reading(15, cluster.name, 1 - float(kept.goodput), limits.get(15), lost),
            }  # fmt: skip
        write = self.write_time()
        penalty = float(operations.checkpoint_penalty(write, kept.interval + write))
        note = f"{write.m_as('s'):.3g} s to write, every {kept.interval.m_as('min'):.3g} min"
        found = {19: reading(19, cluster.name, penalty, scenario.limits.get(19), note)}
        return found | self.macro(run, float(kept.goodput)) | self.privacy() | self.analysed()


# ------------------------------------------------------------------------------------------------------- processing


@dataclass(frozen=True)
class _Processing(_Answer):
    ask: Processing

    @property
    def software(self) -> solvers.Software:
        constants = self.scenario.fitted
        efficiency = constants.compute_efficiency.get(algorithm.computes_in(self.ask.precision))
        reached = known(efficiency, f"the efficiency of kernels in {self.ask.precision}")
        return solvers.Software(reached, constants.memory_efficiency, constants.roofline_exponent, constants.step)

    @cached_property
    def profile(self) -> solvers.PerformanceProfile:
        ask = self.ask
        return solvers.single_node(
            self.scenario.workload, self.scenario.fleet.node.accelerator, ask.precision, ask.batch, self.software
        )

    @property
    def target(self) -> tuple[Quantity | None, str]:
        return self.ask.latency_limit, "time"

    def time(self) -> Quantity:
        """Time of a batch; infinite where the weights do not fit."""
        profile = self.profile
        return _where(profile.fits, profile.time)

    def duration(self) -> Quantity:
        raise ImpossibleValue("a stream of units has no end: its outputs are time, cost and carbon")

    def units(self) -> Any:
        """Units that the fully used fleet processes within the horizon: a count."""
        return (self.ask.batch * self.scenario.fleet.accelerators * self.scenario.horizon / self.time()).m_as("")

    def cost(self) -> Quantity:
        with np.errstate(divide="ignore"):
            return self.total(self.paid(self.held(), 1.0)) / self.units()

    def carbon(self) -> Quantity:
        with np.errstate(divide="ignore"):
            return self.emitted(self.paid(self.held(), 1.0)).carbon / self.units()

    def demands(self, level: int) -> dict[int, Reading]:
        scenario, ask = self.scenario, self.ask
        cluster, chip = scenario.fleet, scenario.fleet.node.accelerator
        if level == 3:
            return self.macro(self.held(), 1.0) | self.privacy() | self.analysed()
        profile, demand = self.profile, lower(scenario.workload, ask.precision, ask.batch)
        if level == 1:
            work = ask.unit_rate * demand.operations / ask.batch
            found = {
                1: reading(1, cluster.name, work.to("TFLOP/s"), (self.peak * cluster.accelerators).to("TFLOP/s")),
                2: reading(2, f"one {chip.name}", profile.weight_bytes.to("GB"), profile.memory.to("GB"), "the weights"),
            }
            if ask.unit_bytes is not None and ask.storage_bandwidth is not None and ask.reader_bandwidth is not None:
                reads = pipeline.ingestion_demand(ask.unit_rate, ask.unit_bytes)
                supply = pipeline.storage_supply(cluster.nodes, ask.reader_bandwidth, ask.storage_bandwidth)
                found[8] = reading(8, cluster.name, reads.to("GB/s"), supply.to("GB/s"))
            return found
        batches, scope, limit = ask.unit_rate / ask.batch, f"a batch of {ask.batch} {demand.unit}s", ask.latency_limit
        busy = float(fleet.utilisation(batches, profile.time)) / cluster.accelerators
        late = node.sojourn_quantile(batches, profile.time, cluster.accelerators, ask.percentile)
        found = self.shared(Q(0.0, "byte"), profile.time) | self.down(1, max(0.0, 1 - busy))
        found.pop(10)
        if ask.unit_bytes is not None and ask.cores is not None and ask.core_throughput is not None:
            per_node = batches / cluster.nodes
            prepare = pipeline.transformation_time(ask.batch, ask.unit_bytes, ask.cores, ask.core_throughput)
            found[9] = reading(9, "cores of a node", float(fleet.utilisation(per_node, prepare)), 1.0, "share of time at work")
        used, reached = float(profile.model_flops_utilisation), float(self.software.compute_efficiency)
        return found | {
            1: reading(1, scope, profile.compute_time.to("ms"), limit),
            2: reading(2, scope, profile.memory_time.to("ms"), limit, "; ".join(demand.assumptions)),
            3: reading(3, scope, used, reached, "MFU against what kernels reach"),
            4: reading(4, scope, profile.time.to("ms"), limit, f"bound by {profile.bound}"),
            7: reading(7, f"{cluster.accelerators} accelerators", late.to("ms"), limit, f"P{100 * ask.percentile:g} of a batch"),
        }
