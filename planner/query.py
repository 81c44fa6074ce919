"""The question: what a user asks, as a typed and validated record.

A query is YAML or a mapping. Reading one either gives a `Query` whose parts are quantities, or raises `QueryError` with
one clear line per fault: file, line, key, what stands there and what was expected. Names of models, chips and regions are
resolved later, against the catalogue; `Query.locate` says where a name was written. Nothing here depends on prices or physics.

The kinds of question are siblings: each is a subclass of `Query` that names its `kind` (see `KINDS`).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema

from zoo.names import nearest
from zoo.units import DIMENSIONS, Quantity
from zoo.yaml_source import Document, ZooError, parse, read

from .plan import Plan, Written
from .records import (
    EditorSchema,
    Origin,
    Part,
    QueryError,
    dotted,
    entry,
    faults_of,
    is_path,
    parse_path,
    plain_data,
    sentences,
)
from .scalars import (
    WEIGHED,
    CarbonPrice,
    CarbonRate,
    CountOrRange,
    DateText,
    Deadline,
    Degrees,
    Disaggregation,
    Factors,
    Fault,
    Flag,
    GlobalBatch,
    Keys,
    Latency,
    Mass,
    Money,
    MoneyRate,
    Objective,
    Offload,
    Operations,
    OrWord,
    Power,
    Precision,
    Precisions,
    Purchase,
    PurchaseName,
    Rate,
    Recompute,
    SequenceLength,
    Sharding,
    Spread,
    Text,
    Texts,
    Time,
    TimeOrRange,
    TokenCount,
    TrainObjective,
    Volume,
    WaterRate,
    ZooFile,
    distinct,
    flow,
    fraction,
    line_of,
    plural,
    show,
    text_of,
    unknown,
    whole,
    word,
    write_degrees,
)
from .written_by import this_version, written_by

SCHEMA = "wallplan/v1"
SCHEMA_ID = "urn:wallplan:schema:query:v1"

# Keys and kinds that the design names and this version does not answer yet: an error, never ignored.
RESERVED = ("assert", "baseline", "sweep", "sites")
RESERVED_KINDS = ("procure", "place")

_MOST_DRAFTED = 32  # tokens of a step; engines draft fewer than ten


# ---------------------------------------------------------------- the parts of a question


class Population(Part):
    """Users in one part of the world."""

    name: Text = entry("What reports call this population.", "eu")
    rate: Rate = entry("Mean requests per time that this population sends.", "80/s")
    near: tuple[Text, ...] = entry(
        "Places the users are near (city or region); the round trip from the nearest counts into TTFT. Empty: not counted.",
        ["Frankfurt"],
        default=(),
    )
    residency: Text | None = entry(
        "Country or label that the serving region must lie in. Left out: anywhere.", "EU", default=None
    )


class Tokens(Part):
    """Mean size of a request."""

    input: Annotated[int, whole(1, 1000)] = entry("Mean prompt tokens per request.", 1000)
    output: Annotated[int, whole(1, 250)] = entry("Mean generated tokens per request.", 250)


class Arrivals(Part):
    """How requests arrive."""

    cv: Annotated[float, fraction(0, 100, example=1.0)] = entry(
        "Coefficient of variation of the time between requests: 1 is Poisson, above 1 bursts.", 1.0, default=1.0
    )


class Parallelism(Part):
    """Degrees that a replica may have; it takes max(tp, ep) x pp chips. A key left out is left to the planner."""

    tp: tuple[Annotated[int, whole(1, 8)], ...] | None = entry(
        "Tensor-parallel degrees allowed: chips that share every layer.", [4, 8], default=None
    )
    pp: tuple[Annotated[int, whole(1, 2)], ...] | None = entry(
        "Pipeline-parallel degrees allowed: groups of chips that follow each other.", [1], default=None
    )
    ep: tuple[Annotated[int, whole(1, 8)], ...] | None = entry(
        "Expert-parallel degrees allowed: chips that share the experts of every layer.", [8], default=None
    )


class Speculative(Part):
    """Speculative decoding: tokens that something cheap drafts and the model verifies in one step."""

    draft: Text | None = entry(
        'A model of the zoo with the same vocabulary, or "ngram": looked up in the prompt, for nothing. Give this or `cost`.',
        "llama-3.2-1b",
        "ngram",
        default=None,
    )
    cost: Annotated[float, fraction(0, 1, example="5 %")] | None = entry(
        "Of a head such as EAGLE's: the share of a plain decode step that one drafted token takes, and of the model's weights, "
        "cache and prefill that the head takes. Give this or `draft`.",
        "5 %",
        default=None,
    )
    acceptance: Annotated[float, fraction(0, 1, above=True, below=True, example=0.7)] = entry(
        "Probability that a drafted token is accepted, as measured for this model, draft and traffic.", 0.7
    )
    tokens: Annotated[tuple[Annotated[int, whole(0, 4)], ...], Field(min_length=1), AfterValidator(distinct)] = entry(
        "Tokens drafted per step, of which the planner chooses; 0: none.", [0, 2, 4], default=(0, 2, 4)
    )

    @model_validator(mode="after")
    def _one_draft(self) -> Self:
        if (self.draft is None) == (self.cost is None):
            both = self.draft is not None
            raise Fault(
                "draft and cost are both given: keep one" if both else 'no draft: give draft (a model, or "ngram") or cost'
            )
        if max(self.tokens) > _MOST_DRAFTED:
            raise Fault(f"{max(self.tokens)} is too many, expected at most {_MOST_DRAFTED} drafted tokens a step", "tokens")
        return self

    @property
    def model(self) -> str | None:
        """The draft model, None where there is none."""
        return None if self.draft == "ngram" else self.draft


class ServeWorkload(Part):
    """What is served, to whom, and in which number formats."""

    model: Text = entry("A model of the zoo, a record of a file under `zoo`, or the path of a config.json.", "llama-3.1-70b")
    rate: Rate | None = entry("Mean requests per time, from anywhere. Give this or `populations`.", "200/s", default=None)
    populations: Annotated[tuple[Population, ...], Field(min_length=1)] | None = entry(
        "User populations with their own rates. Give this or `rate`.",
        [{"name": "eu", "rate": "80/s", "near": ["Frankfurt"], "residency": "EU"}],
        default=None,
    )
    tokens: Tokens = entry("Mean tokens of a request.", {"input": 1000, "output": 250})
    precision: Precisions = entry("Number formats that the weights may be served in; the planner chooses.", ["bf16", "fp8"])
    kv_precision: Annotated[Literal["auto"] | tuple[Precision, ...], OrWord("auto", Precisions)] = entry(
        "Number formats that the KV cache may have. auto: 16 bits, as serving engines do unless told otherwise.",
        ["bf16", "fp8"],
        "auto",
        default="auto",
    )
    parallelism: Parallelism = entry(
        "Narrows how a replica may be split over chips.", {"tp": [8]}, default=Parallelism(tp=None, pp=None, ep=None)
    )
    disaggregation: Annotated[tuple[Disaggregation, ...], Field(min_length=1), AfterValidator(distinct)] = entry(
        "Whether prefill and decode may be served apart. none: every replica does both; pools: replicas that read prompts hand "
        "the KV cache over to replicas that decode. Both: the planner chooses.",
        ["none", "pools"],
        default=("none", "pools"),
    )
    speculative: Speculative | None = entry(
        "Speculative decoding, of which the planner chooses how many tokens are drafted. Left out: none.",
        {"draft": "llama-3.2-1b", "acceptance": 0.7, "tokens": [0, 2, 4]},
        default=None,
    )
    arrivals: Arrivals = entry("Burstiness of arrivals.", {"cv": 1.0}, default=Arrivals(cv=1.0))
    prefix_hit: Annotated[float, fraction(0, 1, below=True, example="30 %")] = entry(
        "Share of prompt tokens whose KV cache is found ready (prefix caching).", 0.3, "30 %", default=0.0
    )

    @model_validator(mode="after")
    def _one_demand(self) -> Self:
        if self.rate is not None and self.populations is not None:
            raise Fault("rate and populations are both given: keep one", "populations")
        if self.rate is None and self.populations is None:
            raise Fault('no demand: give rate (such as "200/s") or populations')
        names = [population.name for population in self.populations or ()]
        for place, name in enumerate(names):
            if name in names[:place]:
                raise Fault(f"{show(name)} is already the name of another population", "populations", place, "name")
        return self

    def kv_precisions(self, weights: str) -> tuple[str, ...]:
        """The formats the KV cache may have beside weights in the format `weights`; auto is the format of the activations."""
        if self.kv_precision != "auto":
            return self.kv_precision
        return (weights,) if weights in ("fp16", "fp32", "fp64") else ("bf16",)


class Quality(Part):
    """How much worse answers may become."""

    loss: Annotated[float, fraction(0, 1, example="1 %")] = entry(
        "Largest relative loss of quality that a number format may cost.", "1 %", 0.01
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """One latency promise: `statistic` ("p99", "mean") of `metric` ("ttft", "tpot") is at most `limit`.

    `percentile` is the fraction of requests that must meet it (0.99), None for the mean.
    """

    metric: str
    statistic: str
    percentile: float | None
    limit: Quantity


class Sla(Part):
    """What every user is promised."""

    ttft: Latency | None = entry("Time to first token, by percentile or mean.", {"p99": "500 ms"}, default=None)
    tpot: Latency | None = entry("Time per output token after the first, by percentile or mean.", {"p99": "40 ms"}, default=None)
    quality: Quality | None = entry("Bound on quality lost to number formats. Left out: any.", {"loss": "1 %"}, default=None)

    @model_validator(mode="after")
    def _some_latency(self) -> Self:
        if self.ttft is None and self.tpot is None:
            raise Fault("no latency: give ttft or tpot, such as ttft: {p99: 500 ms}")
        if "mean" in (self.ttft or {}):
            raise Fault("a mean TTFT cannot be promised yet; expected a percentile such as p50", "ttft", "mean")
        return self

    def bounds(self) -> tuple[Bound, ...]:
        """Every latency promise."""
        return tuple(
            Bound(metric, statistic, None if statistic == "mean" else float(statistic[1:]) / 100, limit)
            for metric, latency in (("ttft", self.ttft), ("tpot", self.tpot))
            for statistic, limit in (latency or {}).items()
        )


class Quota(Part):
    """The most that may be rented of what matches. A key left out matches everything; patterns such as "aws/*" are allowed."""

    chip: Text | None = entry("Chip that the quota counts.", "h100-sxm", default=None)
    region: Text | None = entry("Region that the quota counts.", "aws/us-east-1", default=None)
    cloud: Text | None = entry("Cloud that the quota counts.", "aws", default=None)
    offer: PurchaseName | None = entry("Purchase option that the quota counts.", "on-demand", default=None)
    chips: Annotated[int, whole(0, 64)] | None = entry("Most chips. Give this or `instances`.", 64, default=None)
    instances: Annotated[int, whole(0, 8)] | None = entry("Most instances. Give this or `chips`.", 8, default=None)

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if (self.chips is None) == (self.instances is None):
            both = self.chips is not None
            raise Fault("chips and instances are both given: keep one" if both else "no amount: give chips or instances")
        return self


class Supply(Part):
    """What may be rented, and how much."""

    chips: Annotated[Literal["all"] | tuple[Text, ...], OrWord("all", Texts)] = entry(
        "Chips to choose from: all that have a price, or a list of names.", "all", ["h100-sxm", "l40s"], default="all"
    )
    offers: Annotated[tuple[PurchaseName, ...], Field(min_length=1), AfterValidator(distinct)] = entry(
        "Purchase options to choose from.", ["on-demand", "reserved-1y"], default=("on-demand",)
    )
    quota: tuple[Quota, ...] = entry(
        "The most that can be had of a chip, region, cloud or purchase option.",
        [{"chip": "h100-sxm", "region": "aws/us-east-1", "chips": 64}],
        default=(),
    )
    mixed: Flag = entry("Whether the fleet may mix chips, regions and configurations.", True, False, default=True)


class Regions(Part):
    """Where the fleet may stand."""

    allow: Texts = entry(
        'Regions that may be used: names, patterns or countries and labels ("EU").', ["aws/*", "EU"], default=("*",)
    )
    deny: Annotated[tuple[Text, ...], AfterValidator(distinct)] = entry(
        "Regions that may not be used, written in the same way; deny wins.", ["azure/*"], default=()
    )


class Match(Part):
    """Which offers are meant. A key left out matches everything; patterns such as "aws/*" are allowed."""

    chip: Text | None = entry("Chip of the offer.", "h100-sxm", default=None)
    region: Text | None = entry("Region of the offer.", "aws/us-east-1", default=None)
    cloud: Text | None = entry("Cloud of the offer.", "aws", default=None)
    instance: Text | None = entry("Instance type of the offer.", "p5.48xlarge", default=None)
    offer: PurchaseName | None = entry("Purchase option of the offer.", "on-demand", default=None)


class Overlay(Part):
    """A price of the user's own, or a change of listed prices, for every offer that matches."""

    match: Match = entry("Offers that the overlay changes.", {"chip": "h100-sxm", "cloud": "aws"})
    price: MoneyRate | None = entry("The new price. Give this or `adjust`.", "2.10 USD/h", default=None)
    adjust: Annotated[float, fraction(-1, 100, above=True, example="-7%")] | None = entry(
        "Relative change of the listed price. Give this or `price`.", "-7%", default=None
    )
    per: Annotated[Literal["chip", "instance"], word("basis of a price", "chip", "instance")] = entry(
        "What `price` buys for its time: one chip or one whole instance.", "chip", default="instance"
    )

    @model_validator(mode="before")
    @classmethod
    def _basis_in_price(cls, data: Any) -> Any:
        """ "2.10 USD/chip/h" says itself what it buys."""
        price = data.get("price") if isinstance(data, Mapping) else None
        named = re.search(r"\b(chip|gpu|accelerator|instance|node)s?\b", price) if isinstance(price, str) else None
        if named is None:
            return data
        basis = "instance" if named[1] in ("instance", "node") else "chip"
        if data.get("per", basis) != basis:
            raise Fault(f"{show(data['per'])} contradicts the price {show(price)}", "per")
        return {**data, "per": basis}

    @model_validator(mode="after")
    def _one_change(self) -> Self:
        if (self.price is None) == (self.adjust is None):
            both = self.price is not None
            raise Fault("price and adjust are both given: keep one" if both else "no change: give price or adjust")
        return self


class Prices(Part):
    """The market, as far as the user knows it better than the zoo."""

    overlays: tuple[Overlay, ...] = entry(
        "Changes of prices, applied in order.", [{"match": {"cloud": "aws"}, "adjust": "-7%"}], default=()
    )
    scale: Annotated[float, fraction(0, 1000, above=True, example="1.1")] = entry(
        "Factor on every price, after the overlays.", 1.1, default=1.0
    )
    max_age: Time | None = entry("Prices older than this count as stale. Left out: any age.", "1 year", default=None)


class Carbon(Part):
    """How emissions are counted."""

    method: Annotated[Literal["average", "marginal", "market"], word("carbon method", "average", "marginal", "market")] = entry(
        "Grid intensity: location average, location marginal, or the provider's market-based figure.",
        "average",
        default="average",
    )
    price: CarbonPrice | None = entry("Price of emissions in the weighted objective.", "100 USD/tCO2e", default=None)
    embodied: Flag = entry("Whether making the hardware counts, spread over its life.", False, True, default=False)


class Limits(Part):
    """The most that the whole fleet may take. A key left out is no limit."""

    called: ClassVar[Mapping[str, str]] = {"budget": "cost"}

    cost: MoneyRate | None = entry("Money per time.", "500 USD/h", "300000 USD/month", default=None)
    power: Power | None = entry("Electric power at the meter.", "2 MW", default=None)
    carbon: CarbonRate | None = entry("Emissions per time.", "100 kgCO2e/h", default=None)
    water: WaterRate | None = entry("Water per time.", "500 L/h", default=None)
    chips: Annotated[int, whole(1, 512)] | None = entry("Number of chips.", 512, default=None)


class Uncertain(Part):
    """How far figures may be from what they are taken for; each independent and triangular between low, mid and high."""

    prices: Factors | None = entry("Factor on every price.", "±20 %", default=None)
    demand: Factors | None = entry("Factor on every rate.", "±10 %", default=None)
    efficiency: Factors | None = entry(
        "Factor on the speed that chips reach: 0.9 makes every time longer by 1 / 0.9.", [0.85, 1.0, 1.1], default=None
    )
    intensity: Factors | None = entry("Factor on the grid's carbon intensity.", "±15 %", default=None)
    hold: Annotated[float, fraction(0, 1, above=True, below=True, example="95 %")] | None = entry(
        "Probability with which demand and latency must hold: plans for the unfavourable end. Left out: the middle.",
        "95 %",
        default=None,
    )


class Calibration(Part):
    """Where the forward model's figures are from. A path alone means `file`; with both, what `source` lacks is from `file`."""

    file: Text | None = entry(
        "Constants that `wallplan calibrate` wrote, relative to the query's folder. Left out: those of the repository.",
        "my_calibration.yaml",
        default=None,
    )
    source: Annotated[Literal["aiconfigurator"], word("source", "aiconfigurator")] | None = entry(
        "Package whose measured kernels stand for modelled ones where it knows chip, model, layout and number format (serve "
        "questions; pip install 'wallplan[silicon]'). Left out: none.",
        "aiconfigurator",
        default=None,
    )


def _file_alone(value: Any) -> Any:
    return {"file": value} if isinstance(value, str) else value


class Solver(Part):
    """How hard to look. None of this changes what the best answer is."""

    engine: Annotated[Literal["highs", "cpsat", "both"], word("engine", "highs", "cpsat", "both")] = entry(
        "Solver; both solves twice and compares.", "highs", "both", default="highs"
    )
    gap: Annotated[float, fraction(0, 1, below=True, example="0.1 %")] = entry(
        "Relative distance from the proven bound at which to stop; 0 is the proven optimum.", 0, "0.1 %", default=0.0
    )
    time: Time = entry("Stop without proof after this time.", "60 s", default="60 s", validate_default=True)
    threads: Annotated[int, whole(1, 2)] | None = entry("Threads. Left out: as many as the machine has.", 2, default=None)


# ---------------------------------------------------------------- where a question was written


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition that the answer must meet, as the user gave it. `line` is None when it was not written in a file."""

    path: str
    text: str
    file: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Assumption:
    """What holds because the user left `path` out."""

    path: str
    text: str


# ---------------------------------------------------------------- the question


class Query(Part):
    """What every kind of question has. `Query.from_dict` and `load` give the kind that the question names."""

    order: ClassVar[tuple[str, ...]] = (
        "schema", "kind", "name", "workload", "sla", "parallelism", "start", "deadline", "horizon", "supply", "storage", "fabric",
        "reliability", "sharing", "regions", "zoo", "calibration", "prices", "carbon", "limits", "minimize", "top", "rank",
        "uncertain", "solver",
    )  # fmt: skip

    model_config = ConfigDict(title="Wallplan query")

    schema_: Annotated[Literal["wallplan/v1"], word("schema of this version", SCHEMA)] = entry(
        "Version of this format.", SCHEMA, alias="schema"
    )
    name: Text = entry("What reports call this question.", "chat-70b", default="unnamed")
    horizon: Time | None = entry(
        "Time that totals are stated for beside the rates; the plan does not depend on it.", "1 year", default=None
    )
    regions: Regions = entry(
        "Allowed and denied regions.", {"allow": ["aws/*"], "deny": []}, default=Regions(allow=("*",), deny=())
    )
    zoo: Annotated[tuple[ZooFile, ...], AfterValidator(distinct)] = entry(
        "Files of the user's own chips, models, regions and prices, relative to the query's folder.",
        ["my_chips.yaml"],
        default=(),
    )
    calibration: Annotated[Calibration, BeforeValidator(_file_alone, json_schema_input_type=str | Calibration)] = entry(
        "The user's own constants of the forward model: a file that `wallplan calibrate` wrote; or measured kernels.",
        "my_calibration.yaml",
        {"source": "aiconfigurator"},
        default=Calibration(file=None, source=None),
    )
    prices: Prices = entry(
        "Changes of prices.",
        {"overlays": [{"match": {"cloud": "aws"}, "adjust": "-7%"}]},
        default=Prices(overlays=(), scale=1.0, max_age=None),
    )
    carbon: Carbon = entry(
        "Which emissions count, and their price.",
        {"method": "average"},
        default=Carbon(method="average", price=None, embodied=False),
    )
    limits: Limits = entry("Bounds on what the fleet takes.", {"cost": "500 USD/h", "power": "2 MW"}, default=Limits())
    uncertain: Uncertain = entry(
        "Figures that are not known exactly.",
        {"demand": "±10 %", "efficiency": [0.85, 1.0, 1.1]},
        default=Uncertain(prices=None, demand=None, efficiency=None, intensity=None, hold=None),
    )
    solver: Solver = entry("Engine, gap and time of the search.", {"engine": "highs", "gap": 0, "time": "60 s"}, default=Solver())

    _origin: Origin = PrivateAttr(default=Origin())
    _given: dict[str, Any] | None = PrivateAttr(default=None)

    # ---- reading

    @classmethod
    def from_dict(cls, data: Any, source: str = "<python>", folder: str | Path = ".", written: Written | None = None) -> Self:
        """The question in a mapping of plain values. `folder` is what relative paths are relative to; `written` is where it was
        written before it was a mapping, `source` what to call it where that is not known."""
        result = _read(data, _origin(data, source, Path(folder), written))
        if not isinstance(result, cls):
            raise QueryError(f"{result.locate(('kind',))}: {result.kind} is another kind of question than is asked for here")
        return result

    @classmethod
    def of_plan(cls, plan: Plan) -> Self:
        """The question that a plan answers, with the file and the lines where it was written."""
        try:
            return cls.from_dict(plan.query, source="plan", folder=plan.query_folder, written=plan.query_written)
        except QueryError as error:
            if plan.wallplan == this_version():
                raise
            older = f"the plan was {written_by(plan.wallplan)}: solve the question again"
            raise QueryError(*(f"{line}; {older}" for line in error.lines)) from None

    def set(self, path: str, value: Any) -> Self:
        """The same question with the value at a dotted path replaced, as `--set path=value` does. This one is not changed.

        Text is read as YAML, so "[bf16]" is a list and "true" is a flag. None (or "null") removes the key.
        """
        return self.override({path: value})

    def override(self, values: Mapping[str, Any]) -> Self:
        """`set` for several paths at once: only the result has to make sense, not each step."""
        data, replaced, here = self.to_dict(), self._origin.replaced, []
        for path, text in values.items():
            keys, value = parse_path(path), _scalar(text)
            _replace(data, keys, value)
            written = keys[:-1] if value is None and isinstance(keys[-1], int) else keys  # what follows in a list moves up
            replaced = (*(old for old in replaced if old[: len(written)] != written), written)
            here.append(keys)
        result = _read(data, replace(self._origin, replaced=replaced), here)
        _check_files(result)
        return result  # type: ignore[return-value]  # only an override of `kind` makes another kind

    # ---- writing

    def to_dict(self, complete: bool = False) -> dict[str, Any]:
        """The question as plain values, in the user's own words. `complete` adds every default and writes units in one way."""
        if complete or self._given is None:
            dumped = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=not complete)
            return {key: dumped[key] for key in sorted(dumped, key=self.order.index)}
        given: dict[str, Any] = json.loads(json.dumps(self._given))
        return given

    def to_yaml(self) -> str:
        """The question as a YAML file."""
        return yaml.dump(self.to_dict(), Dumper=_Writer, sort_keys=False, allow_unicode=True, width=120)

    def digest(self) -> str:
        """SHA-256 of what the question means: equal for "500 ms" and "0.5 s", for a default and the same value written out."""
        return hashlib.sha256(json.dumps(_meaning(self), sort_keys=True).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Query) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    # ---- where things stand

    @property
    def written(self) -> Written:
        """The file, the lines of the keys in it, and the keys that were set on the way."""
        document, replaced = self._origin.document, self._origin.replaced
        known = {} if document is None else document.lines
        lines = {dotted(keys): n for keys, n in known.items() if keys and n != known.get(keys[:-1]) and is_path(keys)}
        return Written(file=self.source, lines=lines, overridden=tuple(dotted(keys) for keys in replaced))

    @property
    def source(self) -> str:
        """The file that the question was read from, as it was named, or "<python>"."""
        return self._origin.source

    @property
    def folder(self) -> Path:
        """What relative paths in the question are relative to."""
        return self._origin.folder

    def line(self, keys: Keys | str) -> int | None:
        """The line of a key in its file; None when it was not written in one."""
        return self._origin.line(parse_path(keys) if isinstance(keys, str) else keys)

    def locate(self, keys: Keys | str) -> str:
        """Where a key was written, to begin an error message with: "serve.yaml:14: workload.model"."""
        return self._origin.place(parse_path(keys) if isinstance(keys, str) else keys)

    def resolve(self, path: str | Path) -> Path:
        """A path of the question, relative to the question's folder."""
        return self.folder / Path(path)

    @property
    def zoo_files(self) -> tuple[Path, ...]:
        """The user's zoo files."""
        return tuple(self.resolve(name) for name in self.zoo)

    @property
    def calibration_file(self) -> Path | None:
        """The user's calibration, None when the stored constants are asked for."""
        return None if self.calibration.file is None else self.resolve(self.calibration.file)

    def _clause(self, keys: Keys, text: str) -> Clause:
        return Clause(dotted(keys), text, self._origin.file(keys), self._origin.line(keys) if self._has(keys) else None)

    def _has(self, keys: Keys) -> bool:
        value: Any = self.to_dict()
        for key in keys:
            try:
                value = value[key]
            except (LookupError, TypeError):
                return False
        return True

    def clauses(self) -> list[Clause]:
        """The conditions that the user set, each with where it was written, in the order of the design's keys."""
        found = [
            self._clause(("limits", key), f"{key} <= {_show_limit(value)}") for key, value in self.limits if value is not None
        ]
        if self.regions.allow != ("*",):
            found.append(self._clause(("regions", "allow"), f"regions: {', '.join(self.regions.allow)}"))
        if self.regions.deny:
            found.append(self._clause(("regions", "deny"), f"regions: not {', '.join(self.regions.deny)}"))
        return found

    def assumptions(self) -> list[Assumption]:
        """What the answer takes for granted because the question left it out."""
        texts = {
            ("carbon", "method"): "carbon is counted at the grid's location-based average intensity",
            ("carbon", "embodied"): "carbon of making the hardware is not counted",
        }
        found = [Assumption(dotted(keys), text) for keys, text in texts.items() if not self._has(keys)]
        for place, overlay in enumerate(self.prices.overlays):
            if overlay.price is not None and "per" not in overlay.model_fields_set:
                found.append(
                    Assumption(f"prices.overlays[{place}].per", f"{text_of(overlay.price)} is the price of a whole instance")
                )
        return found


class ServeQuery(Query):
    """What is the best fleet that serves this model to these users within this SLA?"""

    kind: Annotated[Literal["serve"], word("kind of this question", "serve")] = entry("Kind of question.", "serve")
    workload: ServeWorkload = entry(
        "What is served.",
        {"model": "llama-3.1-70b", "rate": "200/s", "tokens": {"input": 1000, "output": 250}, "precision": ["bf16"]},
    )
    sla: Sla = entry("Promised latency and quality.", {"ttft": {"p99": "500 ms"}, "tpot": {"p99": "40 ms"}})
    supply: Supply = entry(
        "Chips, purchase options and quotas.",
        {"chips": "all", "offers": ["on-demand", "reserved-1y"]},
        default=Supply(chips="all", offers=("on-demand",), quota=(), mixed=True),
    )
    minimize: Objective = entry("What the best answer has least of.", "cost", WEIGHED, default="cost")

    rank: Annotated[Literal["pessimistic", "typical"], word("rank", "pessimistic", "typical")] = entry(
        "Which end of the 80 % interval of every predicted time a plan is made for.", "pessimistic", default="pessimistic"
    )

    @model_validator(mode="after")
    def _priced_carbon(self) -> Self:
        if self.minimize == WEIGHED and self.carbon.price is None:
            raise Fault('carbon has no price: give carbon.price, such as "100 USD/tCO2e"', "minimize")
        return self

    @cached_property
    def populations(self) -> tuple[Population, ...]:
        """The users; a single rate is one population named "all", from nowhere in particular."""
        if self.workload.populations is not None:
            return self.workload.populations
        return (Population(name="all", rate=self.workload.rate),)  # type: ignore[arg-type]

    @property
    def total_rate(self) -> Quantity:
        """Mean requests per time over all populations."""
        total = self.populations[0].rate
        for population in self.populations[1:]:
            total = total + population.rate
        return total

    @property
    def model_file(self) -> Path | None:
        """The config.json that the model is read from, None when the model is a name."""
        return self.resolve(self.workload.model) if self.workload.model.lower().endswith(".json") else None

    def clauses(self) -> list[Clause]:
        workload, supply = self.workload, self.supply
        found: list[Clause] = []
        if workload.rate is not None:
            found.append(self._clause(("workload", "rate"), f"serve {text_of(workload.rate)}"))
        for place, population in enumerate(workload.populations or ()):
            at = ("workload", "populations", place)
            found.append(self._clause((*at, "rate"), f"serve {text_of(population.rate)} to {population.name}"))
            if population.residency is not None:
                found.append(self._clause((*at, "residency"), f"serve {population.name} from {population.residency}"))
        found.append(self._clause(("workload", "precision"), f"weights in {' or '.join(workload.precision)}"))
        for degree, allowed in workload.parallelism:
            if allowed is not None:
                text = f"{degree.upper()} in {', '.join(map(str, allowed))}"
                found.append(self._clause(("workload", "parallelism", degree), text))
        if workload.kv_precision != "auto":
            found.append(self._clause(("workload", "kv_precision"), f"KV cache in {' or '.join(workload.kv_precision)}"))
        if len(workload.disaggregation) == 1:
            way = "together" if workload.disaggregation == ("none",) else "apart"
            found.append(self._clause(("workload", "disaggregation"), f"prefill and decode {way}"))
        for bound in self.sla.bounds():
            text = f"{bound.metric.upper()} {bound.statistic} <= {text_of(bound.limit)}"
            found.append(self._clause(("sla", bound.metric, bound.statistic), text))
        if self.sla.quality is not None:
            found.append(self._clause(("sla", "quality", "loss"), f"quality lost <= {self.sla.quality.loss:.6g}"))
        if supply.chips != "all":
            found.append(self._clause(("supply", "chips"), f"chips: {', '.join(supply.chips)}"))
        if len(supply.offers) < len(get_args(Purchase)):
            found.append(self._clause(("supply", "offers"), f"purchase: {', '.join(supply.offers)}"))
        for place, quota in enumerate(supply.quota):
            found.append(self._clause(("supply", "quota", place), _quota_text(quota)))
        if not supply.mixed:
            found.append(self._clause(("supply", "mixed"), "one kind of machine, and one pool for each population"))
        return found + super().clauses()

    def assumptions(self) -> list[Assumption]:
        texts = {
            ("workload", "kv_precision"): "the KV cache is kept in 16 bits (fp32 beside fp32 weights)",
            ("workload", "arrivals", "cv"): "arrivals are Poisson (cv 1)",
            ("workload", "disaggregation"): "prefill and decode may be served apart, where that is better",
            ("workload", "speculative"): "no speculative decoding",
            ("workload", "prefix_hit"): "no prompt token is found in a prefix cache",
            ("supply", "offers"): "on-demand purchase only",
            ("minimize",): "cost is minimised",
            ("rank",): "every predicted time is taken at the pessimistic end of its 80 % interval",
        }
        found = [Assumption(dotted(keys), text) for keys, text in texts.items() if not self._has(keys)]
        for place, population in enumerate(self.workload.populations or ()):
            if not population.near:
                text = f"network time to the users of {population.name} is not counted"
                found.append(Assumption(f"workload.populations[{place}].near", text))
        if self.workload.populations is None:
            found.append(Assumption("workload.populations", "network time to the users is not counted"))
        return found + super().assumptions()


# ---------------------------------------------------------------- training


class Privacy(Part):
    """Differentially private training (DP-SGD)."""

    epsilon: Annotated[float, fraction(0, 1000, above=True, example=8)] = entry("Privacy loss that may be spent.", 8)
    delta: Annotated[float, fraction(0, 1, above=True, below=True, example=1e-6)] = entry(
        "Chance that the promise of epsilon fails.", 1e-6
    )
    method: Annotated[
        Literal["ghost_clipping", "per_sample_gradients"], word("method", "ghost_clipping", "per_sample_gradients")
    ] = entry("How the gradient of each sample is clipped.", "ghost_clipping", default="ghost_clipping")


class TrainWorkload(Part):
    """What is trained, on how much, and with which software."""

    model: Text = entry("A model of the zoo, a record of a file under `zoo`, or the path of a config.json.", "llama-3.1-405b")
    tokens: TokenCount | None = entry(
        "Training tokens. Left out: those of `compute`, or 20 for each parameter (compute-optimal).", "15e12 token", default=None
    )
    compute: Operations | None = entry(
        "Budget of operations that settles the tokens when they are left out: C / (6 P).", "3.8e25 FLOP", default=None
    )
    sequence_length: SequenceLength = entry("Tokens of a sequence.", 8192, "8192 token")
    global_batch: GlobalBatch = entry("What one optimizer step sees: a number of sequences, or tokens.", 2048, "16777216 token")
    precision: Precisions = entry(
        "Number formats of the matrix products; the planner chooses.", ["bf16", "fp8"], default=("bf16",)
    )
    stack: Text = entry(
        "Training software; its habits decide what overlaps.", "megatron-core", "nemo", "fsdp", default="megatron-core"
    )
    release: Text | None = entry("Release of the stack.", "25.09", default=None)
    optimizer: Text = entry("Optimizer, which decides the state kept per parameter.", "adamw", default="adamw")
    privacy: Privacy | None = entry("Train with DP-SGD. Left out: no.", {"epsilon": 8, "delta": 1e-6}, default=None)
    offload: Offload = entry(
        "What may also be kept on the host: optimizer state (true), activations.",
        True,
        ["optimizer", "activations"],
        default=(),
    )

    @model_validator(mode="after")
    def _whole_batch(self) -> Self:
        if self.tokens is not None and self.compute is not None:
            raise Fault("tokens and compute are both given: keep one", "compute")
        if isinstance(self.sequence_length, Quantity) and self.sequence_length.m_as("token") % 1:
            raise Fault(f"{show(self.sequence_length)} is no whole number of tokens", "sequence_length")
        if isinstance(self.global_batch, Quantity):
            sequences = self.global_batch.m_as("token") / self.length
            if abs(sequences - round(sequences)) > 1e-9 * sequences or round(sequences) < 1:
                near = 2 ** max(round(math.log2(sequences)), 0)
                raise Fault(
                    f"{show(self.global_batch)} is {sequences:.6g} sequences of {self.length} tokens, no whole number; "
                    f'the nearest power of two is {near} sequences, "{near * self.length} token"',
                    "global_batch",
                )
        return self

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        length = self.sequence_length
        return round(length.m_as("token")) if isinstance(length, Quantity) else length

    @property
    def sequences(self) -> int:
        """Sequences of a step."""
        batch = self.global_batch
        return round(batch.m_as("token") / self.length) if isinstance(batch, Quantity) else batch


class TrainParallelism(Part):
    """What layouts are limited to. A key left out allows every degree that divides."""

    tensor: Degrees | None = entry("Tensor-parallel degrees.", 8, [4, 8], "1..16", default=None)
    pipeline: Degrees | None = entry("Pipeline stages.", 16, [8, 16], "1..32", default=None)
    data: Degrees | None = entry("Data-parallel replicas.", 128, "1..1024", default=None)
    context: Degrees | None = entry("Context-parallel degrees.", 1, [1, 2], default=None)
    expert: Degrees | None = entry("Expert-parallel degrees.", 8, [1, 8], default=None)
    virtual_stages: Degrees | None = entry("Model chunks of a pipeline stage (interleaving).", 1, "1..8", default=None)
    microbatch: Degrees | None = entry("Sequences of a microbatch.", 1, [1, 2, 4], default=None)
    recompute: Annotated[tuple[Recompute, ...], Field(min_length=1), AfterValidator(distinct)] | None = entry(
        "Activations that may be computed again.", ["none", "selective", "full"], default=None
    )
    sharding: Annotated[tuple[Sharding, ...], Field(min_length=1), AfterValidator(distinct)] | None = entry(
        "What data-parallel replicas may share: zero1 optimizer, zero2 gradients, zero3 (FSDP) weights, "
        "hybrid: weights inside a scale-up domain.",
        ["zero1", "zero3"],
        default=None,
    )
    sequence_parallel: Flag | None = entry("Split norms over tensor ranks. Left out: both are tried.", True, default=None)
    tensor_overlap: Flag | None = entry(
        "Hide tensor-parallel communication behind matrix products, where the stack can (userbuffers, async TP). Left out: both "
        "are tried.",
        True,
        default=None,
    )
    data_overlap: Flag | None = entry(
        "Hide data-parallel communication, where the stack can. Left out: it is hidden, and waiting for weights is tried where "
        "it saves memory.",
        True,
        default=None,
    )
    stage_layers: Degrees | None = entry("Layers of the fullest pipeline stage.", 8, "1..16", default=None)


class TrainSupply(Part):
    """What may be rented, and how much."""

    chips: Annotated[Literal["all"] | tuple[Text, ...], OrWord("all", Texts)] = entry(
        "Chips to choose from: all that have a price, or a list of names.", "all", ["h100-sxm", "b200-sxm"], default="all"
    )
    offers: Annotated[tuple[PurchaseName, ...], Field(min_length=1), AfterValidator(distinct)] = entry(
        "Purchase options to choose from.", ["on-demand", "reserved-1y"], default=("on-demand",)
    )
    quota: tuple[Quota, ...] = entry(
        "The most that can be had of a chip, region, cloud or purchase option.",
        [{"chip": "h100-sxm", "region": "aws/us-east-1", "chips": 16384}],
        default=(),
    )
    accelerators: CountOrRange | None = entry(
        "How many accelerators train: a number, or [fewest, most]. Left out: any.", 512, [512, 16384], default=None
    )


class TrainStorage(Part):
    """Where checkpoints go and tokens come from."""

    name: Text = entry("A storage system of the zoo.", "weka-vast-class", default="weka-vast-class")
    units: Annotated[int, whole(1, 100)] | None = entry(
        "Units of it (drives, TiB), where its bandwidth is not per node.", 100, default=None
    )


class Reliability(Part):
    """How often machines fail, and what is done about it."""

    mtbf: TimeOrRange | None = entry(
        "Mean time between interruptions of one accelerator: one time or [low, typical, high]. Left out: the published range.",
        "50000 h",
        ["8000 h", "40000 h", "80000 h"],
        default=None,
    )
    restart: Time | None = entry(
        "From a failure until training goes on. Left out: the published typical time.", "10 min", default=None
    )
    spares: Annotated[float, fraction(0, 1, example="3 %")] = entry(
        "Spare instances, rented beside those that train, as a share of them.", "3 %", 0.03, default=0.0
    )
    checkpoint: Annotated[Literal["synchronous", "asynchronous"], word("checkpoint", "synchronous", "asynchronous")] = entry(
        "Whether training stands still while a checkpoint is written, or only while it is copied to the host.",
        "synchronous",
        default="synchronous",
    )


class Sharing(Part):
    """Other jobs that wait for the same machines, one at a time."""

    arrivals: Rate = entry("Jobs as large as this one, per time.", "2/year")
    variability: Annotated[float, fraction(0, 100, example=0)] = entry(
        "Squared coefficient of variation of how long jobs run: 0 all alike, 1 exponential.", 0, default=0.0
    )


class TrainFabric(Part):
    """The network between instances."""

    topology: Annotated[str, word("topology", "fat-tree", "switch", "rail", "dragonfly", "torus-2d", "torus-3d", "ring")] = entry(
        "Topology, which decides the bisection.", "rail", default="fat-tree"
    )
    oversubscription: Annotated[float, fraction(1, 64, example=2)] = entry(
        "Bandwidth into a switch over bandwidth out of it.", 2, default=1.0
    )


class TrainLimits(Part):
    """The most that the whole job may take. A key left out is no limit."""

    called: ClassVar[Mapping[str, str]] = {"budget": "cost"}

    cost: Money | None = entry("Money, in all.", "50e6 USD", default=None)
    power: Power | None = entry("Electric power at the meter.", "25 MW", default=None)
    carbon: Mass | None = entry("Emissions, in all.", "5000 tCO2e", default=None)
    water: Volume | None = entry("Water, in all.", "50e6 L", default=None)
    chips: Annotated[int, whole(1, 16384)] | None = entry("Number of chips.", 16384, default=None)


class TrainUncertain(Part):
    """How far figures may be from what they are taken for; each independent and triangular between low, mid and high."""

    prices: Factors | None = entry("Factor on every price.", "±20 %", default=None)
    efficiency: Factors | None = entry(
        "Factor on the speed of a step: 0.9 makes every step longer by 1 / 0.9.", [0.85, 1.0, 1.1], default=None
    )
    intensity: Factors | None = entry("Factor on the grid's carbon intensity.", "±15 %", default=None)
    failures: Factors | None = entry("Factor on how often accelerators fail.", [0.5, 1.0, 3.0], default=None)
    hold: Annotated[float, fraction(0, 1, above=True, below=True, example="95 %")] | None = entry(
        "Probability with which the deadline and every limit must hold: plans for the unfavourable end. Left out: the middle.",
        "95 %",
        default=None,
    )


class TrainQuery(Query):
    """What is the best way to train this model: chips, how many, laid out how, where?"""

    kind: Annotated[Literal["train"], word("kind of this question", "train")] = entry("Kind of question.", "train")
    workload: TrainWorkload = entry(
        "What is trained.",
        {
            "model": "llama-3.1-405b",
            "tokens": "15e12 token",
            "sequence_length": 8192,
            "global_batch": 2048,
            "precision": ["bf16"],
        },
    )
    parallelism: TrainParallelism = entry(
        "Narrower choice of layouts.", {"tensor": 8, "pipeline": "1..16"}, default=TrainParallelism()
    )
    start: DateText | None = entry("Day on which the job may start. Left out: today.", "2027-01-01", default=None)
    deadline: Deadline | None = entry(
        "When training must be done: a time after the start, or a date.", "60 day", "2027-03-01", default=None
    )
    supply: TrainSupply = entry(
        "Chips, purchase options, quotas and how many accelerators.",
        {"chips": "all", "offers": ["on-demand"], "accelerators": [512, 16384]},
        default=TrainSupply(chips="all", offers=("on-demand",), quota=(), accelerators=None),
    )
    storage: TrainStorage = entry(
        "Storage of checkpoints and tokens.",
        {"name": "weka-vast-class"},
        default=TrainStorage(name="weka-vast-class", units=None),
    )
    fabric: TrainFabric = entry(
        "Network between instances.",
        {"topology": "fat-tree", "oversubscription": 1},
        default=TrainFabric(topology="fat-tree", oversubscription=1.0),
    )
    reliability: Reliability = entry(
        "What failures cost.",
        {"mtbf": "50000 h"},
        default=Reliability(mtbf=None, restart=None, spares=0.0, checkpoint="synchronous"),
    )
    sharing: Sharing | None = entry(
        "Queue for shared machines. Left out: they are there at once.", {"arrivals": "2/year"}, default=None
    )
    uncertain: TrainUncertain = entry(  # type: ignore[assignment]
        "Figures that are not known exactly.",
        {"prices": "±10 %", "efficiency": [0.85, 1.0, 1.1], "failures": [0.5, 1.0, 3.0]},
        default=TrainUncertain(prices=None, efficiency=None, intensity=None, failures=None, hold=None),
    )
    limits: TrainLimits = entry(  # type: ignore[assignment]
        "Bounds on what the job takes.", {"cost": "50e6 USD", "power": "25 MW"}, default=TrainLimits()
    )
    minimize: TrainObjective = entry("What the best answer has least of.", "cost", "time", WEIGHED, default="cost")
    top: Annotated[int, whole(1, 10)] = entry("How many of the best layouts are listed.", 10, default=10)
    rank: Annotated[Literal["pessimistic", "typical"], word("rank", "pessimistic", "typical")] = entry(
        "Which figure of the step time counts: the upper end of its 80 % interval, or the middle.",
        "pessimistic",
        default="pessimistic",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.minimize == WEIGHED and self.carbon.price is None:
            raise Fault('carbon has no price: give carbon.price, such as "100 USD/tCO2e"', "minimize")
        fewest = None if self.supply.accelerators is None else self.supply.accelerators[0]
        if fewest is not None and self.limits.chips is not None and fewest > self.limits.chips:
            raise Fault(f"at most {self.limits.chips} chips contradict supply.accelerators, at least {fewest}", "limits", "chips")
        data = self.parallelism.data
        if isinstance(data, tuple) and all(self.workload.sequences % degree for degree in data):
            raise Fault(
                f"a step of {self.workload.sequences} sequences cannot be divided among {' or '.join(map(str, data))} replicas",
                "parallelism", "data",
            )  # fmt: skip
        micro = self.parallelism.microbatch
        if isinstance(micro, tuple) and all(self.workload.sequences % size for size in micro):
            raise Fault(
                f"a step of {self.workload.sequences} sequences cannot be divided into microbatches of "
                f"{' or '.join(map(str, micro))}",
                "parallelism", "microbatch",
            )  # fmt: skip
        if isinstance(self.deadline, str) and self.start is not None and self.deadline <= self.start:
            raise Fault(f"{self.deadline} is not after the start, {self.start}", "deadline")
        return self

    @property
    def model_file(self) -> Path | None:
        """The config.json that the model is read from, None when the model is a name."""
        return self.resolve(self.workload.model) if self.workload.model.lower().endswith(".json") else None

    def clauses(self) -> list[Clause]:
        found: list[Clause] = []
        if self.workload.tokens is not None:
            found.append(self._clause(("workload", "tokens"), f"train on {text_of(self.workload.tokens)}"))
        for key, value in self.parallelism:
            if value is not None:
                found.append(
                    self._clause(
                        ("parallelism", key),
                        f"{key}: {flow(write_degrees(value)) if key in _DEGREE_KEYS else flow(value)}",
                    )
                )
        if self.deadline is not None:
            when = self.deadline if isinstance(self.deadline, str) else f"{text_of(self.deadline)} after the start"
            found.append(self._clause(("deadline",), f"done by {when}"))
        supply = self.supply
        if supply.chips != "all":
            found.append(self._clause(("supply", "chips"), f"chips: {', '.join(supply.chips)}"))
        if len(supply.offers) < len(get_args(Purchase)):
            found.append(self._clause(("supply", "offers"), f"purchase: {', '.join(supply.offers)}"))
        if supply.accelerators is not None:
            low, high = supply.accelerators
            text = f"{low} accelerators" if low == high else f"{low} to {high} accelerators"
            found.append(self._clause(("supply", "accelerators"), text))
        for place, quota in enumerate(supply.quota):
            found.append(self._clause(("supply", "quota", place), _quota_text(quota)))
        return found + super().clauses()

    def assumptions(self) -> list[Assumption]:
        texts = {
            ("workload", "precision"): "matrix products are in bf16",
            ("workload", "stack"): "the stack is Megatron-Core",
            ("workload", "optimizer"): "the optimizer is Adam with a 32-bit master copy",
            ("storage",): "checkpoints and tokens are on storage of the WEKA / VAST class",
            ("fabric",): "the network between instances has full bisection",
            ("reliability", "spares"): "no spares are rented: a failed instance is replaced within the restart time",
            ("reliability", "checkpoint"): "training stands still while a checkpoint is written",
            ("sharing",): "the machines are there when the job starts",
            ("supply", "offers"): "on-demand purchase only",
            ("minimize",): "cost is minimised",
            ("rank",): "layouts and counts are ranked on the upper end of the step time's 80 % interval",
        }
        found = [Assumption(dotted(keys), text) for keys, text in texts.items() if not self._has(keys)]
        return found + super().assumptions()


_DEGREE_KEYS = ("tensor", "pipeline", "data", "context", "expert", "virtual_stages", "microbatch", "stage_layers")

# A new kind of question is a sibling: add it here.
AnyQuery = ServeQuery | TrainQuery
KINDS: dict[str, type[ServeQuery] | type[TrainQuery]] = {"serve": ServeQuery, "train": TrainQuery}


def load(path: str | Path) -> AnyQuery:
    """The question in a YAML file. Raises QueryError, one line per fault."""
    try:
        document = read(path)
    except ZooError as error:
        raise QueryError(line_of(str(error))) from None
    result = _read(document.data, Origin(source=str(path), folder=Path(path).parent, document=document))
    _check_files(result)
    return result


class _Writer(yaml.SafeDumper):
    """PyYAML writes for YAML 1.1, `zoo.yaml_source` reads 1.2: text that would read as a number gets quotes."""


def _write_text(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if _scalar(text) == text else '"')


_Writer.add_representer(str, _write_text)


def _origin(data: Any, source: str, folder: Path, written: Written | None) -> Origin:
    """Where a mapping was written, if that is known."""
    if written is None:
        return Origin(source=source, folder=folder)
    lines = {parse_path(path): line for path, line in written.lines.items()}
    document = Document(written.file, data, lines) if lines else None
    return Origin(written.file, folder, document, tuple(parse_path(path) for path in written.overridden))


def _show_limit(value: Any) -> str:
    return text_of(value) if isinstance(value, Quantity) else str(value)


def _quota_text(quota: Quota) -> str:
    amount = plural(quota.chips, "chip") if quota.chips is not None else plural(quota.instances or 0, "instance")
    of = f" of {quota.chip}" if quota.chip else ""
    where = f" in {quota.region or quota.cloud}" if quota.region or quota.cloud else ""
    how = f", {quota.offer}" if quota.offer else ""
    return f"at most {amount}{of}{where}{how}"


def _meaning(value: Any) -> Any:
    """A value as JSON that is equal for equal meanings: base units, twelve digits, defaults written out."""
    if isinstance(value, Part):
        items = ((field.alias or name, getattr(value, name)) for name, field in type(value).model_fields.items())
        return {name: _meaning(inner) for name, inner in items if inner is not None}
    if isinstance(value, Spread):
        return [value.low, value.mid, value.high]
    if isinstance(value, Quantity):
        unit = next(unit for unit, _ in DIMENSIONS.values() if value.is_compatible_with(unit))
        return f"{float(value.to(unit).magnitude):.12g} {unit}"
    if isinstance(value, Mapping):
        return {name: _meaning(inner) for name, inner in value.items()}
    if isinstance(value, tuple):
        return [_meaning(inner) for inner in value]
    return float(f"{value:.12g}") if isinstance(value, float) else value


# ---------------------------------------------------------------- overrides


def _scalar(value: Any) -> Any:
    """Text of the command line as YAML reads it; anything else as it is."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        data = parse(f"value: {value}").data
    except ZooError:
        return value
    return data["value"] if len(data) == 1 else value


def _replace(data: dict[str, Any], keys: Keys, value: Any) -> None:
    """Put `value` at `keys` of nested plain data, making mappings on the way; None removes."""
    place: Any = data
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        here = f"--set {dotted(keys)}: "
        if isinstance(key, int):
            if not isinstance(place, list):
                raise QueryError(f"{here}{dotted(keys[:depth])} is not a list")
            if key >= len(place):
                entries = plural(len(place), "entry")
                raise QueryError(f"{here}{dotted(keys[:depth])} has {entries}, counted from 0")
        elif isinstance(place, list):
            raise QueryError(f"{here}{dotted(keys[:depth])} is a list; name an entry such as {dotted(keys[:depth])}[0]")
        elif not isinstance(place, dict):
            raise QueryError(f"{here}{dotted(keys[:depth])} has no keys below it, it is {show(place)}")
        if last and value is None:
            if isinstance(key, int):
                del place[key]
            else:
                place.pop(key, None)
        elif last:
            place[key] = value
        else:
            place = place[key] if isinstance(key, int) else place.setdefault(key, {})


def _check_files(query: AnyQuery) -> None:
    """The files that a question names are there."""
    named: list[tuple[Keys, Path]] = [(("zoo", place), path) for place, path in enumerate(query.zoo_files)]
    if query.model_file is not None:
        named.append((("workload", "model"), query.model_file))
    if query.calibration_file is not None:
        named.append((("calibration",), query.calibration_file))
    missing = []
    for keys, path in named:
        try:
            there = path.is_file()
        except OSError:
            there = False
        if not there:
            missing.append(f"{query.locate(keys)}: no such file: {line_of(str(path))}{_neighbour(path)}")
    if missing:
        raise QueryError(*missing)


def _neighbour(path: Path) -> str:
    """The file beside it that looks most like `path`, as a question; empty when there is none."""
    try:
        beside = [other.name for other in path.parent.iterdir() if other.suffix == path.suffix]
    except OSError:
        return ""
    guess = nearest(path.name, beside)
    return f"; did you mean {show(guess)}?" if guess else ""


# ---------------------------------------------------------------- from plain data to a record, and from faults to sentences


def _read(data: Any, origin: Origin, overriding: Sequence[Keys] = ()) -> AnyQuery:
    """The record of plain data. `overriding` are the overrides being made: a fault that none of them wrote is theirs too."""
    faults: list[tuple[Keys, str]] = []
    plain = plain_data(data, (), faults)
    model: type[AnyQuery] | None = None
    if not faults:
        model = _kind(plain, faults)
    if model is not None:
        for key in RESERVED:
            if plain.pop(key, None) is not None:
                faults.append(((key,), f"not supported yet by this version of {SCHEMA}"))
        try:
            result = model.model_validate(plain)
        except ValidationError as error:
            faults += faults_of(error, model)
        else:
            if not faults:
                result._origin, result._given = origin, plain
                return result
    raise QueryError(*sentences(faults, origin, overriding))


def _kind(data: Any, faults: list[tuple[Keys, str]]) -> type[AnyQuery] | None:
    """The record that the question's `kind` names."""
    if not isinstance(data, dict):
        faults.append(((), f"{show(data)} is not a query; expected a mapping that begins with schema: {SCHEMA}"))
        return None
    if not data:
        faults.append(((), f"empty; expected a mapping that begins with schema: {SCHEMA}"))
        return None
    kind = data.get("kind")
    if isinstance(kind, str) and kind in KINDS:
        return KINDS[kind]
    if "kind" not in data:
        guess = nearest("kind", [key for key in data if key not in Query.order])
        instead = f" ({show(guess)} is unknown)" if guess else ""
        faults.append((("kind",), f"missing key{instead}; expected kind: {' or '.join(KINDS)}"))
    elif isinstance(kind, str) and kind in RESERVED_KINDS:
        faults.append((("kind",), f"{show(kind)} is not supported yet; supported: {', '.join(KINDS)}"))
    else:
        faults.append((("kind",), unknown(kind, tuple(KINDS), "kind of question")))
    return None


# ---------------------------------------------------------------- the schema for editors


def query_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a query file, with a description and examples of every key."""
    schema = TypeAdapter(AnyQuery).json_schema(by_alias=True, schema_generator=EditorSchema)
    return {"$schema": GenerateJsonSchema.schema_dialect, "$id": SCHEMA_ID, **schema}
