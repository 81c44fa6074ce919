"""What a wall is, the table of all twenty-two, and how a demand is read against a limit.

Each wall names its equation, who published it, the functions that compute it, and an example worked by hand. A contract test
runs every example, so the table cannot drift from the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from zoo.errors import UnknownName
from zoo.names import Index
from zoo.specs import Transformer
from zoo.units import Q, Quantity

from . import algorithm, analysis, data, fleet, node, operations

# ------------------------------------------------------------------------------------------------ demand and limit


@dataclass(frozen=True, slots=True)
class Reading:
    """A wall's demand against its limit. Headroom is the share of the limit that is left: negative where the wall is violated.

    demand, limit: quantities or bare numbers of one dimension; None is not known, or no limit set (then `note` says which).
    headroom: (limit - demand) / limit, or None. scope: what the numbers are about (a replica, the run, a site).
    """

    wall: int
    name: str
    scope: str
    demand: Any
    limit: Any
    headroom: float | None
    note: str = ""

    @property
    def violated(self) -> bool:
        return self.headroom is not None and self.headroom < 0

    def binding_like(self, within: float) -> bool:
        """Whether less than the share `within` of the limit is left. Whether the wall binds, only a re-solve can say."""
        return self.headroom is not None and self.headroom <= within


def reading(wall: int | Wall, scope: str, demand: Any, limit: Any, note: str = "") -> Reading:
    """A `Reading` of demand <= limit: for one of the 22 walls, by its number, or for one of a user's own.

    A requirement of at least x reads as: demand x against a limit that is what there is.

    An infinite demand has a headroom of minus infinity; a limit of zero allows only zero. With no demand or no limit there is
    no headroom.
    """
    entry = wall if isinstance(wall, Wall) else WALLS[wall - 1]
    number, name = entry.number, entry.name
    if demand is None or limit is None:
        missing = "demand not known" if demand is None else "no limit set"
        return Reading(number, name, scope, demand, limit, None, note or missing)
    needed, allowed = _in_one_unit(demand, limit)
    if np.isinf(allowed):
        headroom = 1.0 if np.isfinite(needed) else -np.inf
    elif allowed == 0:
        headroom = 0.0 if needed <= 0 else -np.inf
    else:
        headroom = (allowed - needed) / abs(allowed)
    return Reading(number, name, scope, demand, limit, float(headroom), note)


def _in_one_unit(demand: Any, limit: Any) -> tuple[float, float]:
    if isinstance(limit, Quantity) or isinstance(demand, Quantity):
        limit = limit if isinstance(limit, Quantity) else Q(limit, "dimensionless")
        demand = demand if isinstance(demand, Quantity) else Q(demand, "dimensionless")
        return float(demand.m_as(limit.units)), float(limit.magnitude)
    return float(demand), float(limit)


# ---------------------------------------------------------------------------------------------------- the twenty-two


@dataclass(frozen=True, slots=True)
class Worked:
    """An example worked by hand: `text` is the pencil, `expected` its result, `compute` what the code makes of it."""

    text: str
    compute: Callable[[], Any]
    expected: Any


@dataclass(frozen=True, slots=True)
class Wall:
    """One of the walls: what it bounds, by which equation, after whom, computed by which functions."""

    number: int
    name: str
    domain: str  # Node | Data | Algorithm | Fleet | Ops | Analysis
    solver: str  # the architecture's name of the solver that resolves it
    bounded: str
    equation: str
    reference: str
    functions: tuple[Callable[..., Any], ...]
    assumptions: str
    leaves_out: str
    worked: Worked

    @property
    def arguments(self) -> dict[str, str]:
        """Every argument of the first function with its unit ("" is dimensionless)."""
        units: dict[str, str] = getattr(self.functions[0], "dimensions", {})
        return {name: unit for name, unit in units.items() if name != "return"}

    def check(self) -> None:
        """AssertionError unless the code makes of the worked example what the pencil does."""
        computed, expected = self.worked.compute(), self.worked.expected
        if isinstance(expected, Quantity):
            computed, expected = computed.m_as(expected.units), expected.magnitude
        if not np.isclose(computed, expected, rtol=1e-12, atol=0.0):
            raise AssertionError(f"wall {self.number} {self.name}: by hand {expected}, by the code {computed}")


_PENCIL_MODEL = Transformer(
    name="pencil", layers=1, hidden=5, heads=1, kv_heads=1, head_dim=5, vocab=0, parameters=1000, active_parameters=1000,
    kv_layers=1,
)  # fmt: skip

WALLS: tuple[Wall, ...] = (
    Wall(
        number=1,
        name="Compute",
        domain="Node",
        solver="SingleNodeModel",
        bounded="Peak FLOP/s ceiling",
        equation="T = OPs / (Peak x eta)",
        reference="Williams et al. (2009)",
        functions=(node.compute_time,),
        assumptions="eta is given or fitted; it depends on shape and kernel (wall 3)",
        leaves_out="launch and framework overhead, which soft_roofline adds",
        worked=Worked(
            "1000 TFLOP at 50 % of 1000 TFLOP/s: 1000 / (1000 x 0.5) = 2 s",
            lambda: node.compute_time(Q(1000.0, "TFLOP"), Q(1000.0, "TFLOP/s"), 0.5),
            Q(2.0, "s"),
        ),
    ),
    Wall(
        number=2,
        name="Memory",
        domain="Node",
        solver="SingleNodeModel",
        bounded="HBM BW + capacity",
        equation="T = |W| / BW_HBM",
        reference="Williams et al. (2009)",
        functions=(node.memory_time, node.weight_bytes, node.soft_roofline, node.ridge_point, node.intensity),
        assumptions="the caller counts the bytes that really move",
        leaves_out="cache reuse beyond what the caller counts",
        worked=Worked(
            "70e9 parameters of 2 bytes: 140 GB; at 3.5 TB/s: 140 / 3500 = 0.04 s",
            lambda: node.memory_time(node.weight_bytes(70e9, Q(2.0, "byte")), Q(3.5, "TB/s"), 1.0),
            Q(0.04, "s"),
        ),
    ),
    Wall(
        number=3,
        name="Software",
        domain="Node",
        solver="EfficiencyModel",
        bounded="Achieved MFU",
        equation="eta = f(kernel, fusion, occupancy)",
        reference="Chowdhery et al. (2022)",
        functions=(node.product_efficiency, node.gemm_efficiency, node.tile_efficiency, node.model_flops_utilisation),
        assumptions="the three losses are independent",
        leaves_out="clock throttling",
        worked=Worked(
            "kernels reach 0.8 of the peak, 0.9 of the time is theirs, 0.75 of the processors work: 0.8 x 0.9 x 0.75 = 0.54",
            lambda: node.product_efficiency(0.8, 0.9, 0.75),
            0.54,
        ),
    ),
    Wall(
        number=4,
        name="Serving",
        domain="Node",
        solver="ServingModel",
        bounded="Prefill vs. decode",
        equation="two-phase roofline",
        reference="Pope et al. (2023)",
        functions=(
            node.prefill_operations,
            node.decode_operations,
            node.prefill_traffic,
            node.decode_traffic,
            node.touched_parameters,
            node.routed_parameters,
        ),
        assumptions="causal attention; experts are chosen independently and uniformly",
        leaves_out="norms, activations, sampling",
        worked=Worked(
            "decode of 10 sequences with no head or table (vocab 0), P = 1000, one layer of one head of width 5, context 20: "
            "2 x 1000 + 4 x 1 x 5 x 20 = 2400 each, 24000 FLOP",
            lambda: node.decode_operations(_PENCIL_MODEL, 10.0, Q(20.0, "token")),
            Q(24000.0, "flop"),
        ),
    ),
    Wall(
        number=5,
        name="Batching",
        domain="Node",
        solver="ContinuousBatchingModel",
        bounded="KV-cache fragmentation",
        equation="KV = 2 L H D ceil(S/p) p B b",
        reference="Kwon et al. (2023)",
        functions=(node.kv_cache_bytes, node.kv_bytes_per_sequence, node.kv_bytes_per_token, node.largest_batch),
        assumptions="pages belong to one sequence each",
        leaves_out="prefixes shared between sequences",
        worked=Worked(
            "L 10, H 8, D 100, S 33 in pages of 16: 3 pages = 48 tokens; 2 x 10 x 8 x 100 x 48 x 2 sequences x 2 B = 3.072 MB",
            lambda: node.kv_cache_bytes(10, 8, 100, Q(33.0, "token"), 2, Q(2.0, "byte"), Q(16.0, "token")),
            Q(3.072, "MB"),
        ),
    ),
    Wall(
        number=6,
        name="Streaming",
        domain="Node",
        solver="WeightStreamingModel",
        bounded="Injection BW",
        equation="T = max(T_inject, T_compute)",
        reference="Cerebras (2024)",
        functions=(node.streaming_time, node.streaming_latency, node.streaming_batch),
        assumptions="equal layers, double buffering",
        leaves_out="fill and drain, which streaming_latency adds",
        worked=Worked(
            "80 layers, 3 ms to inject and 2 ms to compute each: 80 x 3 = 240 ms",
            lambda: node.streaming_time(80, Q(3.0, "ms"), Q(2.0, "ms")),
            Q(240.0, "ms"),
        ),
    ),
    Wall(
        number=7,
        name="Tail Latency",
        domain="Node",
        solver="TailLatencyModel",
        bounded="P99 queueing delay",
        equation="Erlang-C M/M/c",
        reference="Dean & Barroso (2013)",
        functions=(node.sojourn_quantile, node.sojourn_tail, node.wait_quantile, node.wait_tail, node.erlang_c, node.erlang_b),
        assumptions="Poisson arrivals, exponential service; Allen-Cunneen scales the wait otherwise",
        leaves_out="retries, priorities, other shapes of the service time",
        worked=Worked(
            "2 servers, load 1: B = (1/2)/(1 + 1 + 1/2) = 0.2; C = 2 x 0.2 / (2 - 1 x 0.8) = 1/3",
            lambda: node.erlang_c(2, 1.0),
            1 / 3,
        ),
    ),
    Wall(
        number=8,
        name="Ingestion",
        domain="Data",
        solver="DataModel",
        bounded="Storage I/O throughput",
        equation="rho = BW_demand / BW_supply",
        reference="Mohan et al. (2022)",
        functions=(data.ingestion_ratio, data.ingestion_demand, data.storage_supply),
        assumptions="reads spread evenly over clients",
        leaves_out="limits on operations per second",
        worked=Worked(
            "20000 images/s of 0.1 MB: 2 GB/s; 4 clients of 2 GB/s, file system 4 GB/s: min(8, 4) = 4; rho = 0.5",
            lambda: data.ingestion_ratio(
                data.ingestion_demand(Q(20000.0, "1/s"), Q(0.1, "MB")),
                data.storage_supply(4, Q(2.0, "GB/s"), Q(4.0, "GB/s")),
            ),
            0.5,
        ),
    ),
    Wall(
        number=9,
        name="Transformation",
        domain="Data",
        solver="TransformationModel",
        bounded="CPU preprocessing",
        equation="T = B S / C_tput",
        reference="Murray et al. (2021)",
        functions=(data.transformation_time, data.fed_fraction),
        assumptions="samples spread evenly over cores",
        leaves_out="contention for host memory",
        worked=Worked(
            "1000 images of 0.1 MB are 100 MB; 50 cores of 20 MB/s are 1000 MB/s: 0.1 s",
            lambda: data.transformation_time(1000, Q(0.1, "MB"), 50, Q(20.0, "MB/s")),
            Q(0.1, "s"),
        ),
    ),
    Wall(
        number=10,
        name="Locality",
        domain="Data",
        solver="TopologyModel",
        bounded="Network bisection BW",
        equation="BW_eff = BW_link beta / osub",
        reference="Leiserson (1985)",
        functions=(data.effective_bandwidth, data.bisection_fraction, data.bisection_bandwidth),
        assumptions="minimal routing, cube-shaped torus",
        leaves_out="hot spots within a bisection",
        worked=Worked(
            "ring of 16 with 50 GB/s links: 2 are cut for 8 endpoints, beta = 1/4; oversubscription 2: 50 / 4 / 2 = 6.25 GB/s",
            lambda: data.effective_bandwidth(Q(50.0, "GB/s"), "ring", 16, 2.0),
            Q(6.25, "GB/s"),
        ),
    ),
    Wall(
        number=11,
        name="Complexity",
        domain="Algorithm",
        solver="ScalingModel",
        bounded="Scaling law bounds",
        equation="C = 6 P D; P* = sqrt(C/120)",
        reference="Hoffmann et al. (2022)",
        functions=(
            algorithm.training_operations,
            algorithm.optimal_parameters,
            algorithm.optimal_tokens,
            algorithm.training_loss,
            algorithm.loss_optimal_parameters,
            algorithm.inference_aware_parameters,
            algorithm.tokens_for_loss,
        ),
        assumptions="20 tokens per parameter, or a published fit of the loss",
        leaves_out="data quality, repeated data",
        worked=Worked(
            "C = 1.2e22: P* = sqrt(1.2e22 / 120) = sqrt(1e20) = 1e10",
            lambda: algorithm.optimal_parameters(Q(1.2e22, "flop"), 20),
            1e10,
        ),
    ),
    Wall(
        number=12,
        name="Reasoning",
        domain="Algorithm",
        solver="InferenceScalingModel",
        bounded="Inference-time compute",
        equation="T = K x T_step",
        reference="Brown et al. (2024)",
        functions=(
            algorithm.reasoning_time,
            algorithm.growing_reasoning_time,
            algorithm.coverage,
            algorithm.best_of,
            algorithm.tree_search_steps,
            algorithm.samples_for_coverage,
        ),
        assumptions="a constant step, or one that grows linearly with the cache",
        leaves_out="the verifier that picks the right sample",
        worked=Worked(
            "2000 tokens of thought at 25 ms: 50 s",
            lambda: algorithm.reasoning_time(Q(2000.0, "token"), Q(25.0, "ms")),
            Q(50.0, "s"),
        ),
    ),
    Wall(
        number=13,
        name="Fidelity",
        domain="Algorithm",
        solver="CompressionModel",
        bounded="Accuracy-efficiency",
        equation="r = 32/b; r = 1/(1-s)",
        reference="Han et al. (2015)",
        functions=(algorithm.quantisation_ratio, algorithm.pruning_ratio, algorithm.sparse_ratio),
        assumptions="quality loss is the range over published measurements (quality.csv)",
        leaves_out="that the loss depends on model and task",
        worked=Worked(
            "32-bit weights in 4 bits: 32 / 4 = 8 times smaller; 80 % pruned: 1 / 0.2 = 5; together 40",
            lambda: algorithm.quantisation_ratio(4, 32) * algorithm.pruning_ratio(0.8),
            40.0,
        ),
    ),
    Wall(
        number=14,
        name="Communication",
        domain="Fleet",
        solver="DistributedModel",
        bounded="AllReduce overhead",
        equation="T = 2 (N-1)/N M/beta + 2 (N-1) alpha",
        reference="Shoeybi et al. (2019)",
        functions=(
            fleet.ring_all_reduce,
            fleet.hierarchical_all_reduce,
            fleet.tree_all_reduce,
            fleet.all_gather,
            fleet.reduce_scatter,
            fleet.all_to_all,
            fleet.hierarchical_all_to_all,
            fleet.point_to_point,
            fleet.pipeline_bubble,
        ),
        assumptions="the slowest link of the ring sets the pace",
        leaves_out="congestion from other jobs",
        worked=Worked(
            "N = 5, 1 GB at 40 GB/s, 10 us: 2 x 4/5 x 25 ms + 2 x 4 x 0.01 ms = 40 + 0.08 = 40.08 ms",
            lambda: fleet.ring_all_reduce(Q(1.0, "GB"), 5, Q(40.0, "GB/s"), Q(10.0, "us")),
            Q(40.08, "ms"),
        ),
    ),
    Wall(
        number=15,
        name="Fragility",
        domain="Fleet",
        solver="ReliabilityModel",
        bounded="Cluster MTBF",
        equation="MTBF_cluster = MTBF_node / N",
        reference="Daly (2006)",
        functions=(
            fleet.cluster_mtbf,
            fleet.series_mtbf,
            fleet.measured_mtbf,
            fleet.young_interval,
            fleet.daly_interval,
            fleet.goodput,
            fleet.failure_probability,
        ),
        assumptions="independent failures at a constant rate",
        leaves_out="silent errors, running out of spares",
        worked=Worked(
            "50000 h per accelerator, 10000 of them: 5 h",
            lambda: fleet.cluster_mtbf(Q(50000.0, "h"), 10000),
            Q(5.0, "h"),
        ),
    ),
    Wall(
        number=16,
        name="Multi-tenant",
        domain="Fleet",
        solver="OrchestrationModel",
        bounded="Queue wait time",
        equation="T_wait = rho / [2 mu (1 - rho)]",
        reference="Little (1961)",
        functions=(
            fleet.m_d_1_wait,
            fleet.pollaczek_khinchine_wait,
            fleet.m_m_1_wait,
            fleet.utilisation_limit,
            fleet.utilisation,
        ),
        assumptions="Poisson arrivals; each job takes the whole cluster",
        leaves_out="priorities, preemption, packing of small jobs",
        worked=Worked(
            "jobs of 2 h, 0.4 per hour: rho = 0.8; 0.8 x 2 / (2 x 0.2) = 4 h",
            lambda: fleet.m_d_1_wait(Q(0.4, "1/h"), Q(2.0, "h")),
            Q(4.0, "h"),
        ),
    ),
    Wall(
        number=17,
        name="Capital",
        domain="Ops",
        solver="EconomicsModel",
        bounded="Total cost of ownership",
        equation="TCO = CapEx + OpEx",
        reference="Barroso et al. (2018)",
        functions=(
            operations.total_cost,
            operations.capital_cost,
            operations.annualised,
            operations.rental_cost,
            operations.energy_cost,
            operations.maintenance_cost,
            operations.cost_per_token,
        ),
        assumptions="every part is named by the caller; nothing is free by default",
        leaves_out="taxes",
        worked=Worked(
            "100 chips of 30000 USD over 4 years, used 1 year: 750000 USD; 1 GWh at 0.08 USD/kWh: 80000 USD; sum 830000 USD",
            lambda: operations.total_cost(
                operations.capital_cost(Q(30000.0, "USD"), 100, Q(4.0, "yr"), Q(1.0, "yr"), 0.0),
                operations.energy_cost(Q(1.0, "GWh"), Q(0.08, "USD/kWh")),
            ),
            Q(830000.0, "USD"),
        ),
    ),
    Wall(
        number=18,
        name="Sustainability",
        domain="Ops",
        solver="SustainabilityModel",
        bounded="Carbon + water",
        equation="CO2 = E x PUE x CI",
        reference="Patterson et al. (2022)",
        functions=(
            operations.carbon,
            operations.water,
            operations.node_power,
            operations.draw_fraction,
            operations.energy,
            operations.facility_energy,
            operations.embodied_carbon,
        ),
        assumptions="the caller names the carbon method; WUE is per IT energy",
        leaves_out="end of life",
        worked=Worked(
            "1000 kWh x 1.2 x 350 g/kWh = 420 kg",
            lambda: operations.carbon(Q(1000.0, "kWh"), 1.2, Q(350.0, "gCO2e/kWh")),
            Q(420.0, "kgCO2e"),
        ),
    ),
    Wall(
        number=19,
        name="Checkpoint",
        domain="Ops",
        solver="CheckpointModel",
        bounded="I/O burst MFU penalty",
        equation="penalty = T_write / T_interval",
        reference="Eisenman et al. (2022)",
        functions=(
            operations.checkpoint_penalty,
            operations.checkpoint_bytes,
            operations.write_time,
            operations.asynchronous_stall,
        ),
        assumptions="writers share the checkpoint evenly",
        leaves_out="slowdown of training while a copy is written",
        worked=Worked(
            "70e9 parameters x 14 B = 980 GB at min(16 x 5, 49) = 49 GB/s: 20 s; every 1000 s: 0.02",
            lambda: operations.checkpoint_penalty(
                operations.write_time(
                    operations.checkpoint_bytes(70e9, Q(2.0, "byte"), Q(12.0, "byte")), 16, Q(5.0, "GB/s"), Q(49.0, "GB/s")
                ),
                Q(1000.0, "s"),
            ),
            0.02,
        ),
    ),
    Wall(
        number=20,
        name="Safety",
        domain="Ops",
        solver="ResponsibleEngineeringModel",
        bounded="DP-SGD overhead",
        equation="sigma ~ 1/epsilon",
        reference="Abadi et al. (2016)",
        functions=(
            operations.noise_multiplier,
            operations.privacy_loss,
            operations.private_operations,
            operations.samples_for_group,
        ),
        assumptions="Poisson sampling; integer Renyi orders, an upper bound of epsilon",
        leaves_out="the accuracy that noise costs",
        worked=Worked(
            "without subsampling (q = 1) the Renyi divergence of order a is a / (2 sigma^2); sigma = 10, 1 step, delta = e^-8: "
            "the least of a/200 + 8/(a - 1) is at a - 1 = 40: 41/200 + 8/40 = 0.405",
            lambda: operations.privacy_loss(10.0, 1.0, 1, float(np.exp(-8.0))),
            0.405,
        ),
    ),
    Wall(
        number=21,
        name="Sensitivity",
        domain="Analysis",
        solver="SensitivitySolver",
        bounded="Binding constraint",
        equation="dT/dx_i",
        reference="Williams et al. (2009)",
        functions=(analysis.elasticities, analysis.binding_input),
        assumptions="one input moves at a time",
        leaves_out="what a re-solve would change",
        worked=Worked(
            "max of 3 s / speed and 1 s: 1 % less speed costs 3 / 0.99 - 3 = 1/33 s, 1/99 of 3 s, per 1 %: elasticity -100/99",
            lambda: analysis.elasticities(lambda x: Q(max(3.0 / x["speed"], 1.0), "s"), {"speed": 1.0}, 0.01)[0].down,
            -100 / 99,
        ),
    ),
    Wall(
        number=22,
        name="Synthesis",
        domain="Analysis",
        solver="SynthesisSolver",
        bounded="Inverse spec derivation",
        equation="BW_req = |W| / T_target",
        reference="Kwon et al. (2023)",
        functions=(
            analysis.required_bandwidth,
            analysis.required_peak,
            analysis.required_capacity,
            analysis.required_link,
            analysis.time_left,
        ),
        assumptions="one specification is sought, the others are given",
        leaves_out="whether such a chip exists",
        worked=Worked(
            "140 GB in 10 ms at full efficiency: 140 / 0.01 = 14000 GB/s",
            lambda: analysis.required_bandwidth(Q(140.0, "GB"), Q(10.0, "ms"), 1.0),
            Q(14.0, "TB/s"),
        ),
    ),
)


@dataclass(frozen=True)
class Walls:
    """The walls by number, by name, or one after the other.

    >>> walls[14].name
    'Communication'
    >>> walls["tail latency"].equation
    'Erlang-C M/M/c'
    >>> [wall.name for wall in walls if wall.domain == "Data"]
    ['Ingestion', 'Transformation', 'Locality']
    """

    entries: tuple[Wall, ...]

    def __iter__(self) -> Iterator[Wall]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: int | str) -> Wall:
        """The wall of a number or a name, however it is spelled. UnknownName with the nearest names where there is none."""
        text = str(key).strip()
        if text.lstrip("+-").isdigit() and not 1 <= int(text) <= len(self.entries):
            raise UnknownName(f"unknown wall {text}: they are numbered 1 to {len(self.entries)}")
        return self._by_name[self._index.find(text)]

    @cached_property
    def _by_name(self) -> dict[str, Wall]:
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def _index(self) -> Index:
        """Names, numbers ("14", "wall 14") and the architecture's solvers."""
        return Index(
            "wall",
            {
                entry.name: (str(entry.number), f"wall {entry.number}", entry.solver, entry.solver.removesuffix("Model"))
                for entry in self.entries
            },
        )


walls = Walls(WALLS)
