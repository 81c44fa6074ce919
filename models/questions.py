"""What a scenario asks of a fleet: to serve, to train or to process; and what owning, sharing and privacy bring to it.

Fractions are bare; everything else carries its unit. None means not given: what it bounds is then not judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoo.units import Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Requests that arrive at random and are answered token by token by replicas.

    A replica is tensor x pipeline accelerators, or expert x pipeline where experts are spread wider than tensors. `thought`:
    tokens that are generated before the answer. `accelerator_mtbf` and `restart_time` together say how often replicas are down.
    """

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
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    thought: Quantity | None = None
    accelerator_mtbf: Quantity | None = None
    restart_time: Quantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A run over `tokens`, tensor x pipeline x data parallel over the whole fleet, with checkpoints and restarts.

    expert_parallel: data-parallel ranks that share the experts; zero_stage: what data-parallel ranks share (0 to 3);
    recompute: share of the forward pass that the backward pass repeats (0 or 1).
    """

    precision: str
    optimizer: str
    tokens: Quantity
    batch_tokens: Quantity
    sequence_length: Quantity
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
    expert_parallel: int = 1
    virtual_stages: int = 1
    zero_stage: int = 1
    recompute: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Processing:
    """Units of any workload that lowers (images, samples, steps, tokens), in batches on every accelerator.

    unit_rate [1/s]: units that arrive for the whole fleet; latency_limit: of a batch at `percentile`, from arrival to result;
    unit_bytes [byte] of one unit in storage, read by nodes at `reader_bandwidth` from a store of `storage_bandwidth`;
    cores of one node, each preparing `core_throughput`.
    """

    precision: str
    batch: int
    unit_rate: Quantity
    percentile: float = 0.99
    latency_limit: Quantity | None = None
    unit_bytes: Quantity | None = None
    reader_bandwidth: Quantity | None = None
    storage_bandwidth: Quantity | None = None
    cores: int | None = None
    core_throughput: Quantity | None = None
    accelerator_mtbf: Quantity | None = None
    restart_time: Quantity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """What owning and running the fleet takes; rates per year.

    surroundings [USD]: host, network and building, per accelerator. rent [USD/h] per accelerator: the fleet is rented, and
    the rent is all that is paid. carbon_price [USD/gCO2e] is added to the cost. carbon_method: average, marginal or market.
    """

    life: Quantity
    residual: float
    maintenance_rate: Quantity
    utilisation: float
    idle_fraction: float
    grid_water: Quantity
    surroundings: Quantity | None = None
    rent: Quantity | None = None
    carbon_price: Quantity | None = None
    carbon_method: str = "average"


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
