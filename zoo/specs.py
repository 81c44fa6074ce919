"""What exists: frozen records of quantities (layers A to D of the architecture).

Sizes are per accelerator unless a name says otherwise. `None` means unknown, never zero. Every record
carries its `Source`. Records hold facts only: whatever is computed from them lives in `models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .units import Quantity


@dataclass(frozen=True, slots=True)
class Source:
    """Where a record comes from. `date` is ISO (year, year-month or full) or None; `verified` as in the data's README."""

    text: str
    date: str | None = None
    verified: bool = False
    note: str = ""


# ---------------------------------------------------------------- layer A: workloads


@dataclass(frozen=True, slots=True)
class Transformer:
    """A decoder transformer: dense, MoE, GQA, MLA, sliding-window or hybrid with constant-state layers.

    Counts are dimensionless integers. `kv_layers` layers keep a growing KV cache; of these
    `sliding_layers` keep at most `sliding_window` tokens; where `sparse_tokens` is given, layers keep the whole cache and a query
    reads so many tokens of it, which an indexer selects (DeepSeek sparse attention); `state_layers` layers keep a constant
    `state_elements` elements per sequence per layer instead (SSM, linear attention).
    A hybrid may have more or fewer attention, state and MLP layers than `layers`: `ffn_layers` dense MLPs (None:
    every layer that is not MoE), `moe_layers` expert layers. `state_elements` counts the recurrent state and the
    window of its convolution; `state_parameters` are the weights of one state layer.
    MLA models cache `kv_lora_rank + qk_rope_dim` elements per token and layer. Attention heads are `head_dim` wide
    for queries and keys, `v_head_dim` (None: the same) for values.
    `gaps` says in words what the record does not know, and which side its figures then err on.
    `parameters` and `active_parameters` are published totals where known, else counted from the shape.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    parameters: float
    active_parameters: float
    ffn_hidden: int | None = None
    gated: bool = True
    attention: str = "GQA"  # MHA | GQA | MQA | MLA | SSM
    kv_layers: int = 0
    sliding_window: int | None = None
    sliding_layers: int = 0
    sparse_tokens: int | None = None
    state_layers: int = 0
    state_elements: int = 0
    experts: int = 0
    top_k: int = 0
    shared_experts: int = 0
    moe_ffn_hidden: int | None = None
    moe_layers: int = 0
    kv_lora_rank: int | None = None
    q_lora_rank: int | None = None
    qk_rope_dim: int | None = None
    qk_nope_dim: int | None = None
    v_head_dim: int | None = None
    tie_embeddings: bool = False
    max_context: int | None = None
    ffn_layers: int | None = None
    state_parameters: int = 0
    gaps: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class Generic:
    """A workload known by its totals per unit of work (CNN, encoder, diffusion, recommendation, SSM without shape).

    `operations_per_unit` is per `unit` (image, sample, step, token); `traffic_per_unit` beyond the weights
    is None where unknown. `steps_per_unit` counts sequential weight passes in one unit of output (diffusion steps).
    """

    name: str
    kind: str  # cnn | encoder | diffusion | recommendation | ssm | other
    parameters: float
    unit: str
    operations_per_unit: Quantity | None = None
    steps_per_unit: int = 1
    traffic_per_unit: Quantity | None = None
    state_elements: int = 0
    layers: int | None = None
    aliases: tuple[str, ...] = ()
    source: Source = Source("")


Workload = Transformer | Generic


# ---------------------------------------------------------------- layer B: hardware


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One accelerator. Peaks are dense (no sparsity). Link and NIC bandwidths are per direction.

    `memory` is the marketed figure read as GiB, which is what a driver reports within 1 % for the parts that matter:
    A100-80GB 81,920 MiB = 80.0 GiB, H100-80GB 81,559 MiB = 79.6 GiB, H200-141GB 143,771 MiB = 140.4 GiB,
    B200-180GB 183,359 MiB = 179.1 GiB; with error correction in GDDR parts it is less (L40S 46,068 MiB of 48 GiB).
    """

    name: str
    vendor: str
    year: int
    kind: str  # datacenter | consumer | workstation | edge | mobile | cpu | mcu
    peak: Mapping[str, Quantity]  # precision -> FLOP/s (int8 too); keys among fp64 fp32 tf32 bf16 fp16 fp8 int8 fp4
    memory: Quantity
    memory_bandwidth: Quantity
    link: str | None = None  # scale-up link, for example NVLink4
    link_bandwidth: Quantity | None = None
    scale_up_domain: int = 1  # accelerators reachable over the scale-up link
    domain_kind: str = "instance"  # how far the link reaches: instance | rack | slice | bridge | host (no link: PCIe)
    host_bandwidth: Quantity | None = None  # PCIe, per direction
    nic_bandwidth: Quantity | None = None  # scale-out, per accelerator and direction
    on_chip: Quantity | None = None
    tdp: Quantity | None = None
    host_power_share: float | None = None  # part of a node's nameplate power that accelerators do not draw
    embodied: Quantity | None = None  # gCO2e
    price: Quantity | None = None  # USD
    storage_bandwidth: Quantity | None = None
    aliases: tuple[str, ...] = ()
    cross_check: str = ""
    source: Source = Source("")


# ---------------------------------------------------------------- layer D: systems


@dataclass(frozen=True, slots=True)
class Fabric:
    """A link family. `bandwidth` per device and direction; `latency` one way point to point."""

    name: str
    kind: str  # scale-up | scale-out | host | wan | cpu-gpu
    bandwidth: Quantity | None
    latency: Quantity | None
    launch: Quantity | None = None  # effective per-collective cost
    achievable: float | None = None  # fraction of line rate
    domain: int | None = None
    topology: str | None = None  # fat-tree | dragonfly | torus-2d | torus-3d | ring | rail | mesh | switch
    oversubscription: float | None = None  # the worst of the range that is usual
    switch: str | None = None
    switch_ports: int | None = None
    switch_power: Quantity | None = None
    transceiver_power: Quantity | None = None
    aliases: tuple[str, ...] = ()
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage system or tier."""

    name: str
    kind: str  # local | memory | parallel | nfs | object
    read_bandwidth: Quantity | None  # per `unit`
    write_bandwidth: Quantity | None
    unit: str
    max_read: Quantity | None = None
    max_write: Quantity | None = None
    latency: Quantity | None = None
    price: Quantity | None = None  # USD per byte and month
    cloud: str | None = None
    region: str | None = None
    aliases: tuple[str, ...] = ()
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class Node:
    """A server: accelerators bought or rented together. `power` is what the whole server draws at most."""

    name: str
    accelerator: Accelerator
    accelerators: int
    scale_up: Fabric
    scale_out: Fabric | None = None
    nics: int | None = None
    power: Quantity | None = None
    vcpus: int | None = None
    host_memory: Quantity | None = None
    storage: Storage | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """`nodes` equal servers on one fabric."""

    name: str
    node: Node
    nodes: int
    fabric: Fabric | None = None

    @property
    def accelerators(self) -> int:
        return self.nodes * self.node.accelerators


# ---------------------------------------------------------------- layer C: infrastructure


@dataclass(frozen=True, slots=True)
class Grid:
    """An electricity grid zone. Intensities are annual means; each names its method in its field."""

    zone: str
    average_intensity: Quantity | None  # location-based, consumption, lifecycle
    marginal_intensity: Quantity | None = None
    market_intensity: Quantity | None = None  # provider's market-based figure
    year: int | None = None
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class Region:
    """A cloud region or site: where it is, its grid, and how its buildings turn IT energy into facility energy and water.

    WUE is litres per kWh of *IT* energy.
    """

    name: str  # "cloud/region", unique
    cloud: str
    region: str
    location: str
    country: str
    latitude: float
    longitude: float
    grid: Grid
    pue: float | None = None
    pue_scope: str | None = None
    wue: Quantity | None = None
    electricity_price: Quantity | None = None
    electricity_basis: str | None = None
    carbon_free_share: float | None = None  # 0..1, as the provider counts it: see the basis
    carbon_free_basis: str | None = None
    government: bool = False
    state: str | None = None
    profile_zone: str | None = None
    aliases: tuple[str, ...] = ()
    source: Source = Source("")


Datacenter = Region


# ---------------------------------------------------------------- the market


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to get accelerators: an instance type in a region under a purchase option, at a price per instance."""

    name: str  # "cloud/region/instance/option", unique
    cloud: str
    region: str  # Region.name
    instance: str
    option: str  # on-demand | spot | reserved-1y | reserved-3y
    accelerator: str  # Accelerator.name
    accelerators: int  # per instance
    price: Quantity  # USD per hour and instance
    # Accelerators in reach over the scale-up link when several instances are rented together: those of one
    # instance (cloud machines do not share NVLink), the whole rack for rack-scale parts, the largest slice for TPUs,
    # a pair for bridged PCIe boards, and those of one instance over PCIe for boards without a link.
    domain: int = 1
    interruption_band: str | None = None
    stock_confirmed: bool = True
    vcpus: int | None = None
    host_memory: Quantity | None = None
    flags: tuple[str, ...] = ()  # price traps that were met and how they were handled
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class Economics:
    """A low / typical / high figure of finance, energy, carbon or reliability."""

    category: str
    parameter: str
    scope: str
    low: float | None
    typical: float | None
    high: float | None
    unit: str
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class GridProfile:
    """The day of a grid zone, month by month: arrays of 12 months by 24 hours (UTC) of carbon intensity.

    `p10` and `p90` are percentiles over the days of the month. Scale a profile to a newer annual mean before use.
    """

    zone: str
    year: int
    basis: str  # lca-flow | direct-flow | lca-gen
    mean: Quantity
    p10: Quantity
    p90: Quantity
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class SpotTrace:
    """A measured series of spot capacity, reduced: how much was there, for how long, how often it was lost."""

    name: str
    kind: str  # availability | preemption
    cloud: str
    region: str
    zone: str
    accelerator: str
    accelerators: int  # per node; 0 for traces of machines without one
    nodes: int
    period: Quantity
    available_fraction: float
    mean_up: Quantity | None
    mean_down: Quantity | None
    interruption_rate: Quantity | None  # 1/time
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class Interruptions:
    """What a published training run or cluster lost: interruptions over a period, and the mean time between them."""

    name: str
    accelerators: int  # 0: not given
    period: Quantity | None
    interruptions: int | None
    mtbf_cluster: Quantity | None
    mtbf_accelerator: Quantity | None
    source: Source = Source("")


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Network round trip between two regions; `basis` says measured, emulated or fitted from distance."""

    origin: str
    destination: str
    time: Quantity
    distance: Quantity | None
    transfer_price: Quantity | None  # USD per byte
    basis: str
    source: Source = field(default_factory=lambda: Source(""))
