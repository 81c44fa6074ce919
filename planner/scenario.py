"""A scenario in a file: one workload on one fleet in one region, for `wallplan evaluate`.

    schema: wallplan/v1
    kind: scenario
    workload: llama-3.1-8b
    fleet: {chip: h100-sxm, per_node: 8, nodes: 2, fabric: infiniband-ndr}
    region: aws/eu-north-1
    horizon: 30 day
    serve: {precision: bf16, tensor_parallel: 2, batch: 64, rate: 20/s, tokens: {input: 1000, output: 250}}

Exactly one of `serve`, `train` and `process` says what is asked. What is left out is taken from the zoo's figures and listed
as an assumption; what has no such figure is not judged, or asked for by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from models.questions import Ownership, Privacy, Processing, Service, Sharing, Training
from models.scenario import Scenario
from zoo import catalog as zoo_catalog
from zoo.specs import Accelerator, Fabric, Fleet, Node
from zoo.units import Q, Quantity
from zoo.yaml_source import Document, ZooError, read

from .query import SCHEMA
from .records import EditorSchema, Origin, Part, QueryError, entry, faults_of, plain_data, sentences
from .scalars import (
    CarbonPrice,
    Fault,
    Flag,
    Keys,
    Latency,
    Mass,
    Money,
    MoneyRate,
    Power,
    Precision,
    Rate,
    Text,
    Time,
    TokenCount,
    ZooFile,
    fraction,
    line_of,
    measure,
    whole,
    word,
)

Bytes = Annotated[Quantity, measure("bytes")]
Bandwidth = Annotated[Quantity, measure("bandwidth")]
Count = Annotated[int, whole(1, 8)]
Share = Annotated[float, fraction(0, 1, example="5 %")]
Number = Annotated[float, fraction(0, 1e6, example=3.0)]
Percentile = Annotated[Latency, Field(max_length=1)]


class FleetPart(Part):
    """Equal servers on one network."""

    chip: Text = entry("A chip of the zoo, or of a file under `zoo`.", "h100-sxm")
    per_node: Count = entry("Accelerators in one server.", 8, default=8)
    nodes: Count = entry("Servers.", 2)
    scale_up: Text | None = entry(
        "Fabric between the accelerators of a server. Left out: the chip's own link.", "nvlink4", default=None
    )
    fabric: Text | None = entry("Fabric between servers; needed for more than one.", "infiniband-ndr", default=None)
    oversubscription: Annotated[float, fraction(1, 100, example=2.0)] | None = entry(
        "Bandwidth into a switch over bandwidth out of it. Left out: the worst that is usual for the fabric.", 1.0, default=None
    )
    price: Money | None = entry("Price of one accelerator. Left out: the zoo's.", "30000 USD", default=None)
    tdp: Power | None = entry("Power of one accelerator. Left out: the zoo's.", "700 W", default=None)


class TokensPart(Part):
    """Tokens of a request."""

    input: Count = entry("Prompt tokens.", 1000)
    output: Count = entry("Answer tokens.", 250)
    thought: Count | None = entry("Tokens generated before the answer.", 2000, default=None)


class ServePart(Part):
    """Requests that arrive at random, answered token by token."""

    precision: Precision = entry("Number format of the weights.", "bf16")
    kv_precision: Precision = entry("Number format of the key-value cache.", "bf16", default="bf16")
    tensor_parallel: Count = entry("Accelerators that share every layer.", 2)
    pipeline_parallel: Count = entry("Stages.", 1, default=1)
    expert_parallel: Count = entry("Accelerators that share the experts.", 8, default=1)
    batch: Count = entry("Sequences that one replica decodes together.", 64)
    rate: Rate = entry("Requests per time, for the whole fleet.", "20/s")
    tokens: TokensPart = entry("Tokens of a request.", {"input": 1000, "output": 250})
    ttft: Percentile | None = entry("Limit of the time to first token, at one percentile.", {"p99": "500 ms"}, default=None)
    tpot: Time | None = entry("Limit of the time per output token.", "40 ms", default=None)


class TrainPart(Part):
    """A training run over the whole fleet."""

    precision: Precision = entry("Number format that is multiplied in.", "bf16")
    optimizer: Text = entry("Optimiser: adamw, sgd, ...", "adamw", default="adamw")
    tokens: TokenCount = entry("Tokens to train on.", "1e12 token")
    batch: TokenCount = entry("Tokens of one step, over all accelerators.", "4194304 token")
    sequence: TokenCount = entry("Tokens of one sequence.", "4096 token")
    tensor_parallel: Count = entry("Accelerators that share every layer.", 8, default=1)
    pipeline_parallel: Count = entry("Stages.", 4, default=1)
    expert_parallel: Count = entry("Data-parallel ranks that share the experts.", 8, default=1)
    microbatches: Count = entry("Parts that a rank's batch is cut into.", 8)
    virtual_stages: Count = entry("Model chunks per stage.", 2, default=1)
    zero: Annotated[int, whole(0, 1)] = entry("ZeRO stage: what data-parallel ranks share (0 to 3).", 1, default=1)
    recompute: Flag = entry("Whether the backward pass repeats the forward pass.", False, default=False)
    efficiency: Annotated[float, fraction(0, 1, above=True, example="55 %")] = entry(
        "Share of the peak that the kernels reach (wall 3).", "55 %"
    )
    token_size: Bytes = entry("Bytes of one token in storage.", "4 B", default="4 B", validate_default=True)
    storage: Bandwidth = entry("Bandwidth of the store of data and checkpoints.", "100 GB/s")
    node_storage: Bandwidth = entry("Bandwidth of one server to that store.", "5 GB/s")
    cores: Count = entry("Cores of a server that prepare data.", 64)
    core_throughput: Bandwidth = entry("What one core prepares.", "10 MB/s")

    @model_validator(mode="after")
    def _stages(self) -> Self:
        if self.zero > 3:
            raise Fault(f"{self.zero} is no stage of ZeRO: 0, 1, 2 or 3", "zero")
        return self


class ProcessPart(Part):
    """Units of any workload (images, samples, steps), in batches on every accelerator."""

    precision: Precision = entry("Number format of the weights.", "fp16")
    batch: Count = entry("Units processed together on one accelerator.", 32)
    rate: Rate = entry("Units per time, for the whole fleet.", "10000/s")
    latency: Percentile | None = entry("Limit of the time of a batch, at one percentile.", {"p99": "100 ms"}, default=None)
    unit_size: Bytes | None = entry("Bytes of one unit in storage.", "100 kB", default=None)
    storage: Bandwidth | None = entry("Bandwidth of the store.", "20 GB/s", default=None)
    node_storage: Bandwidth | None = entry("Bandwidth of one server to the store.", "5 GB/s", default=None)
    cores: Count | None = entry("Cores of a server that prepare units.", 64, default=None)
    core_throughput: Bandwidth | None = entry("What one core prepares.", "20 MB/s", default=None)


class OwnershipPart(Part):
    """What owning or renting takes. Left out: the zoo's typical figures, listed as assumptions."""

    life: Time | None = entry("Time over which the hardware is written off.", "4 year", default=None)
    residual: Share | None = entry("Share of the price that is left at its end.", "12 %", default=None)
    maintenance: Share | None = entry("Share of the price that upkeep costs each year.", "5 %", default=None)
    utilisation: Share | None = entry("Share of time and units at work, for the power draw.", "80 %", default=None)
    idle: Share | None = entry("Draw at rest, as a share of the rated power.", "15 %", default=None)
    surroundings: Money | None = entry("Price of host, network and building, per accelerator.", "12000 USD", default=None)
    rent: MoneyRate | None = entry(
        "Rent of one accelerator; takes the place of price, electricity and upkeep.", "2.5 USD/h", default=None
    )
    carbon: Annotated[Literal["average", "marginal", "market"], word("carbon method", "average", "marginal", "market")] = entry(
        "Which intensity of the grid counts.", "average", default="average"
    )
    carbon_price: CarbonPrice | None = entry("What emissions cost; added to the cost.", "100 USD/tCO2e", default=None)


class FailuresPart(Part):
    """How often hardware fails."""

    mtbf: Time = entry("Mean time between interruptions of one accelerator, whatever their cause.", "50000 h")
    restart: Time = entry("Time from a failure until work goes on.", "10 min")


class LimitsPart(Part):
    """The most that is allowed."""

    cost: Money | None = entry("Money, over the horizon or the run.", "1000000 USD", default=None)
    carbon: Mass | None = entry("Emissions, over the horizon or the run.", "100 tCO2e", default=None)
    quality: Share | None = entry("Relative loss of quality to the number format.", "1 %", default=None)
    wait: Time | None = entry("Mean wait for a shared fleet.", "4 h", default=None)
    lost: Share | None = entry("Share of time lost to failures.", "10 %", default=None)
    checkpoint: Share | None = entry("Share of time spent writing checkpoints.", "5 %", default=None)
    epsilon: Number | None = entry("Privacy loss.", 3.0, default=None)
    loss: Number | None = entry("Loss after training, nats per token.", 2.1, default=None)
    thought: Time | None = entry("Time of thought before an answer.", "30 s", default=None)


class SharingPart(Part):
    """Jobs of other users, each of which takes the whole fleet."""

    rate: Rate = entry("Jobs per time.", "0.1/h")
    job_time: Time = entry("Mean time of a job.", "2 h")
    cv: Annotated[float, fraction(0, 100, example=1.0)] = entry(
        "Coefficient of variation of the job time; 0: all alike.", 0.0, default=0.0
    )


class PrivacyPart(Part):
    """Training with differential privacy."""

    noise: Annotated[float, fraction(0, 1e6, above=True, example=1.1)] = entry("Noise deviation over clipping norm.", 1.1)
    delta: Annotated[float, fraction(0, 1, above=True, below=True, example=1e-5)] = entry("Chance that the promise fails.", 1e-5)
    sampling: Annotated[float, fraction(0, 1, above=True, example="1 %")] = entry("Chance of a sample to be in a batch.", "1 %")
    steps: Count = entry("Steps.", 10000)


class ScenarioFile(Part):
    """A scenario as it is written."""

    schema_: Annotated[Literal["wallplan/v1"], word("schema of this version", SCHEMA)] = entry(
        "Version of this format.", SCHEMA, alias="schema"
    )
    kind: Annotated[Literal["scenario"], word("kind of this file", "scenario")] = entry("Kind of file.", "scenario")
    name: Text = entry("What reports call this scenario.", "chat-8b", default="unnamed")
    workload: Text = entry("A model of the zoo, of a file under `zoo`, or the path of a config.json.", "llama-3.1-8b")
    fleet: FleetPart = entry("The hardware.", {"chip": "h100-sxm", "per_node": 8, "nodes": 2, "fabric": "infiniband-ndr"})
    region: Text = entry("Where it stands.", "aws/eu-north-1")
    horizon: Time = entry("How long: cost and carbon of serving, and the time by which training must end.", "30 day")
    serve: ServePart | None = entry(
        "Serve a model.",
        {"precision": "bf16", "tensor_parallel": 2, "batch": 64, "rate": "20/s", "tokens": {"input": 1000, "output": 250}},
        default=None,
    )
    train: TrainPart | None = entry("Train a model.", {"precision": "bf16", "tokens": "1e12 token"}, default=None)
    process: ProcessPart | None = entry("Process units.", {"precision": "fp16", "batch": 32, "rate": "10000/s"}, default=None)
    ownership: OwnershipPart = entry("Owning or renting.", {"life": "4 year"}, default=OwnershipPart())
    failures: FailuresPart | None = entry("How often hardware fails.", {"mtbf": "50000 h", "restart": "10 min"}, default=None)
    limits: LimitsPart = entry("The most that is allowed.", {"cost": "1000000 USD"}, default=LimitsPart())
    sharing: SharingPart | None = entry("Jobs of other users.", {"rate": "0.1/h", "job_time": "2 h"}, default=None)
    privacy: PrivacyPart | None = entry(
        "Differential privacy.", {"noise": 1.1, "delta": 1e-5, "sampling": "1 %", "steps": 10000}, default=None
    )
    law: Annotated[str, word("scaling law", "epoch", "hoffmann")] = entry("Published fit of the loss.", "epoch", default="epoch")
    zoo: tuple[ZooFile, ...] = entry("Files of the user's own chips, models and regions.", ["my_chips.yaml"], default=())

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        asked = [name for name in ("serve", "train", "process") if getattr(self, name) is not None]
        if len(asked) > 1:
            raise Fault(f"{' and '.join(asked)} are both given: keep one", asked[-1])
        if not asked:
            raise Fault("no question: give one of serve, train and process")
        if self.fleet.nodes > 1 and self.fleet.fabric is None:
            raise Fault("several nodes need a fabric between them, such as infiniband-ndr", "fleet", "fabric")
        return self


@dataclass(frozen=True, slots=True)
class Loaded:
    """A scenario, and what was assumed for what its file leaves out: (key, sentence with its source)."""

    scenario: Scenario
    assumptions: tuple[tuple[str, str], ...]


def load(path: str | Path) -> Loaded:
    """The scenario in a YAML file. Raises QueryError, one line per fault: "file:line: key: what was expected"."""
    try:
        document = read(path)
    except ZooError as error:
        raise QueryError(line_of(str(error))) from None
    return from_document(document)


def from_document(document: Document) -> Loaded:
    """The scenario in a file that has been read; see `load`."""
    origin = Origin(source=document.path, folder=Path(document.path).parent, document=document)
    faults: list[tuple[Keys, str]] = []
    plain = plain_data(document.data, (), faults)
    if not faults:
        try:
            return _Reader(ScenarioFile.model_validate(plain), origin).loaded()
        except ValidationError as error:
            faults += faults_of(error, ScenarioFile)
    raise QueryError(*sentences(faults, origin, ()))


def scenario_schema() -> dict[str, Any]:
    """JSON Schema of a scenario file."""
    return {
        "$schema": EditorSchema.schema_dialect,
        "$id": "urn:wallplan:schema:scenario:v1",
        **TypeAdapter(ScenarioFile).json_schema(by_alias=True, schema_generator=EditorSchema),
    }


class _Reader:
    """Looks up names and figures, and notes what had to be assumed."""

    def __init__(self, file: ScenarioFile, origin: Origin) -> None:
        self.file, self.origin = file, origin
        self.assumed: list[tuple[str, str]] = []
        try:
            self.catalog = zoo_catalog.load([origin.folder / name for name in file.zoo])
        except ZooError as error:
            raise QueryError(line_of(str(error))) from None

    def loaded(self) -> Loaded:
        file = self.file
        question = self.serve() if file.serve else self.train() if file.train else self.process()
        limits = {
            11: file.limits.loss, 12: file.limits.thought, 13: file.limits.quality, 15: file.limits.lost, 16: file.limits.wait,
            17: file.limits.cost, 18: file.limits.carbon, 19: file.limits.checkpoint, 20: file.limits.epsilon,
        }  # fmt: skip
        sharing = privacy = None
        if file.sharing:
            part = file.sharing
            sharing = Sharing(arrival_rate=part.rate, job_time=part.job_time, cs2=part.cv**2)
        if file.privacy:
            own = file.privacy
            privacy = Privacy(noise_multiplier=own.noise, delta=own.delta, sampling_rate=own.sampling, steps=own.steps)
        scenario = Scenario(
            name=file.name,
            workload=self.workload(),
            fleet=self.fleet(),
            region=self.find("region", "region", file.region),
            horizon=file.horizon,
            question=question,
            ownership=self.ownership(),
            law=file.law,
            sharing=sharing,
            privacy=privacy,
            limits={wall: limit for wall, limit in limits.items() if limit is not None},
        )
        return Loaded(scenario, tuple(self.assumed))

    # ---- names

    def fault(self, keys: Keys | str, message: str) -> QueryError:
        return QueryError(f"{self.origin.place((keys,) if isinstance(keys, str) else keys)}: {line_of(message)}")

    def find(self, keys: Keys | str, kind: str, name: str) -> Any:
        try:
            return self.catalog.find(kind, name)
        except ZooError as error:
            raise self.fault(keys, str(error)) from None

    def workload(self) -> Any:
        name = self.file.workload
        if not name.lower().endswith(".json"):
            return self.find("workload", "model", name)
        from zoo.importers.huggingface import transformer_from_config

        try:
            return transformer_from_config(self.origin.folder / name)
        except ZooError as error:
            raise self.fault("workload", str(error)) from None

    def fleet(self) -> Fleet:
        part = self.file.fleet
        chip: Accelerator = self.find(("fleet", "chip"), "chip", part.chip)
        changes = {name: value for name, value in (("price", part.price), ("tdp", part.tdp)) if value is not None}
        chip = replace(chip, **changes)  # type: ignore[arg-type]
        scale_up = self.reached(self.scale_up(chip))
        fabric = None
        if part.fabric is not None:
            fabric = self.find(("fleet", "fabric"), "fabric", part.fabric)
            if fabric.bandwidth is None or fabric.latency is None:
                raise self.fault(("fleet", "fabric"), f"bandwidth or latency of {fabric.name} is not known; choose another")
            if part.oversubscription is not None:
                fabric = replace(fabric, oversubscription=part.oversubscription)
            elif fabric.oversubscription is not None:
                self.assume("fleet.oversubscription", f"{fabric.name} is oversubscribed {fabric.oversubscription:g} to 1", "zoo")
            fabric = self.reached(fabric)
        node = Node(f"{part.per_node} x {chip.name}", chip, part.per_node, scale_up, fabric)
        return Fleet(f"{part.nodes} x {node.name}", node, part.nodes, fabric)

    def scale_up(self, chip: Accelerator) -> Fabric:
        name, keys = self.file.fleet.scale_up, ("fleet", "scale_up")
        if name is not None:
            found: Fabric = self.find(keys, "fabric", name)
        else:
            try:
                found = self.catalog.find("fabric", chip.link or "")
            except ZooError:
                lacks = f"no figures of {chip.name}'s {chip.link}" if chip.link else f"no link of its own for {chip.name}"
                raise self.fault(keys, f"the zoo has {lacks}; name a fabric, such as pcie-5") from None
            if chip.link_bandwidth is not None:
                found = replace(found, bandwidth=chip.link_bandwidth)
        if found.bandwidth is None or found.latency is None:
            raise self.fault(keys, f"bandwidth or latency of {found.name} is not known; choose another fabric")
        return found

    def reached(self, fabric: Fabric) -> Fabric:
        """The fabric at the bandwidth that collectives reach on it."""
        if fabric.achievable is None or fabric.bandwidth is None:
            self.assume("fleet", f"collectives reach the line rate of {fabric.name}: no other figure is known", "zoo")
            return fabric
        self.assume("fleet", f"collectives reach {fabric.achievable:.0%} of the line rate of {fabric.name}", "zoo")
        return replace(fabric, bandwidth=fabric.bandwidth * fabric.achievable)

    # ---- figures

    def assume(self, key: str, sentence: str, source: str) -> None:
        self.assumed.append((key, f"{sentence} ({source})"))

    def typical(self, given: Any, key: str, parameter: str, what: str, convert: Callable[[float], Any]) -> Any:
        """What is given, else the zoo's typical figure, noted."""
        if given is not None:
            return given
        figure = self.catalog.economics_value(parameter)
        assert figure.typical is not None
        self.assume(f"ownership.{key}", f"{what}: {figure.typical:g} {figure.unit}", figure.source.text)
        return convert(figure.typical)

    def ownership(self) -> Ownership:
        part, number = self.file.ownership, float
        busy = "training" if self.file.train else "LLM serving"
        idle = self.typical(part.idle, "idle", "idle draw as fraction of TDP", "draw at rest", number)
        utilisation = part.utilisation
        if utilisation is None:  # from which the draw follows: idle + (1 - idle) utilisation
            drawn = self.typical(None, "utilisation", f"average draw as fraction of TDP, {busy}", "mean draw", number)
            utilisation = max(0.0, (drawn - idle) / (1 - idle))
        if part.carbon == "average":
            self.assume("ownership.carbon", "emissions by the location's average intensity", "or say marginal or market")
        self.assume("ownership", "water of the site alone, not of the power stations", "which depends on the grid")
        return Ownership(
            life=self.typical(part.life, "life", "accelerator amortisation life", "written off over", lambda y: Q(y, "yr")),
            residual=self.typical(part.residual, "residual", "residual value after 4 yr", "price left at the end", number),
            maintenance_rate=Q(self.typical(part.maintenance, "maintenance", "maintenance", "upkeep each year", number), "1/yr"),
            utilisation=utilisation,
            idle_fraction=idle,
            grid_water=Q(0.0, "L/Wh"),
            surroundings=part.surroundings,
            rent=part.rent,
            carbon_price=part.carbon_price,
            carbon_method=part.carbon,
        )

    def failures(self) -> tuple[Quantity | None, Quantity | None]:
        given = self.file.failures
        return (given.mtbf, given.restart) if given else (None, None)

    # ---- questions

    def serve(self) -> Service:
        part = self.file.serve
        assert part is not None
        mtbf, restart = self.failures()
        statistic, limit = next(iter(part.ttft.items())) if part.ttft else ("p99", None)
        return Service(
            precision=part.precision,
            kv_precision=part.kv_precision,
            tensor_parallel=part.tensor_parallel,
            pipeline_parallel=part.pipeline_parallel,
            expert_parallel=part.expert_parallel,
            batch=part.batch,
            arrival_rate=part.rate,
            prompt=Q(float(part.tokens.input), "token"),
            output=Q(float(part.tokens.output), "token"),
            thought=None if part.tokens.thought is None else Q(float(part.tokens.thought), "token"),
            percentile=self.percentile(("serve", "ttft"), statistic),
            first_token_limit=limit,
            token_limit=part.tpot,
            accelerator_mtbf=mtbf,
            restart_time=restart,
        )

    def percentile(self, keys: Keys, statistic: str) -> float:
        if statistic == "mean":
            raise self.fault((*keys, statistic), "the tail is asked as a percentile, such as p99")
        return float(statistic[1:]) / 100

    def train(self) -> Training:
        part = self.file.train
        assert part is not None
        mtbf, restart = self.failures()
        if mtbf is None or restart is None:
            measured, recovery = self.catalog.reliability["llama3-unexpected"], self.catalog.economics_value("node recovery time")
            assert recovery.typical is not None and measured.mtbf_accelerator is not None
            mtbf, restart = measured.mtbf_accelerator, Q(recovery.typical, recovery.unit)
            self.assume("failures.mtbf", f"{mtbf:~g} between interruptions of an accelerator", measured.source.text)
            self.assume("failures.restart", f"{restart:~g} to restart", recovery.source.text)
        return Training(
            precision=part.precision,
            optimizer=part.optimizer,
            tokens=part.tokens,
            batch_tokens=part.batch,
            sequence_length=part.sequence,
            tensor_parallel=part.tensor_parallel,
            pipeline_parallel=part.pipeline_parallel,
            expert_parallel=part.expert_parallel,
            microbatches=part.microbatches,
            virtual_stages=part.virtual_stages,
            zero_stage=part.zero,
            recompute=float(part.recompute),
            compute_efficiency=part.efficiency,
            accelerator_mtbf=mtbf,
            restart_time=restart,
            writer_bandwidth=part.node_storage,
            storage_bandwidth=part.storage,
            bytes_per_token=part.token_size / Q(1.0, "token"),
            cores=part.cores,
            core_throughput=part.core_throughput,
        )

    def process(self) -> Processing:
        part = self.file.process
        assert part is not None
        mtbf, restart = self.failures()
        statistic, limit = next(iter(part.latency.items())) if part.latency else ("p99", None)
        return Processing(
            precision=part.precision,
            batch=part.batch,
            unit_rate=part.rate,
            percentile=self.percentile(("process", "latency"), statistic),
            latency_limit=limit,
            unit_bytes=part.unit_size,
            reader_bandwidth=part.node_storage,
            storage_bandwidth=part.storage,
            cores=part.cores,
            core_throughput=part.core_throughput,
            accelerator_mtbf=mtbf,
            restart_time=restart,
        )
