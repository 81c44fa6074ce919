"""The answer to a training question. Numbers carry their unit in their name; it round-trips through JSON as any plan does."""

from __future__ import annotations

from ..plan import Alternative, Nearest, Plan, Pool, Record, WhyNot


class TrainLayout(Record):
    """How a step is laid out. tensor_overlap, data_overlap: whether this communication is hidden, None where the stack has no
    switch for it. stage_layers: of each pipeline stage."""

    precision: str
    tensor_parallel: int
    pipeline_parallel: int
    virtual_stages: int
    context_parallel: int
    expert_parallel: int
    data_parallel: int
    microbatch: int
    microbatches: int
    sequence_parallel: bool
    recompute: str
    sharding: str
    offload: bool  # of optimizer state
    activation_offload: bool
    tensor_overlap: bool | None
    data_overlap: bool | None
    stage_layers: tuple[int, ...]


class Ranked(Record):
    """One of the best layouts on the chosen machines, best first."""

    rank: int
    layout: TrainLayout
    step_s: float
    step_low_s: float
    step_high_s: float
    mfu: float
    memory_gib: float
    slower_by: float  # ranked time over that of the best, less one


class Job(Record):
    """The job: where, on what, laid out how, for how long, and what it takes. `ranked_step_s` is what all totals follow."""

    region: str
    offer: str
    chip: str
    option: str
    instances: int
    accelerators: int
    spare_instances: int
    layout: TrainLayout
    tokens: float
    steps: int
    step_s: float
    step_low_s: float
    step_high_s: float
    ranked_step_s: float
    step_parts_s: dict[str, float]
    tokens_per_s_per_accelerator: float
    mfu: float
    mfu_best_measured: float | None
    mfu_note: str
    memory_gib: dict[str, float]
    memory_peak_gib: float
    memory_there_gib: float
    goodput: float
    goodput_low: float
    goodput_high: float
    job_mtbf_h: float
    failures: float
    checkpoint_gb: float
    checkpoint_interval_s: float
    checkpoint_write_s: float
    fed: float
    wait_days: float
    days: float
    days_low: float
    days_high: float
    start: str
    finish: str
    cost_usd: float
    usd_per_million_tokens: float
    energy_mwh: float
    carbon_tco2e: float
    water_m3: float
    power_kw: float
    price_usd_per_h: float
    price_date: str | None
    price_source: str
    price_flags: tuple[str, ...] = ()


class Shortfall(Record):
    """A wall that forbids: what is needed at least, and what there is."""

    number: int
    name: str
    what: str
    needed: float
    there: float
    unit: str


class TrainWhyNot(WhyNot):
    """The best job that has X, beside the best of all; or what forbids it and by how much."""

    fleet: tuple[Pool, ...] = ()
    job: Job | None = None
    shortfalls: tuple[Shortfall, ...] = ()


class TrainAlternative(Alternative):
    """A proven optimum of the question narrowed to one chip, region, purchase option or way of splitting the model."""

    fleet: tuple[Pool, ...] = ()
    job: Job
    within: bool  # of the tolerance asked for


class NearestJob(Nearest):
    """The best job of the repair that moves an infeasible question least."""

    fleet: tuple[Pool, ...] = ()
    job: Job


class TrainPlan(Plan):
    """The answer to a training question: one job. `layouts` are the best on its machines."""

    fleet: tuple[Pool, ...] = ()
    nearest: NearestJob | None = None
    job: Job | None = None
    layouts: tuple[Ranked, ...] = ()
    strategies: int = 0
    evaluated: int = 0
