"""A replica as a user describes it: read, with every fault and the key that it belongs to, and lowered to what the laws see."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.catalog import Catalog
from zoo.errors import UnknownName
from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity, UnitError, quantity

from . import algorithm, serving
from .calibration import DEFAULT_ENGINE, Calibration, CalibrationError, Constants, engine_named
from .cells import did_you_mean
from .constants import table
from .dimensions import ImpossibleValue

KEYS = (
    "schema", "kind", "name", "model", "chip", "tp", "pp", "ep", "precision", "kv_precision", "engine", "tokens", "prefix_hit",
    "concurrency", "rate", "batch", "arrivals", "speculative", "disaggregation", "prefill", "decode", "calibration",
)  # fmt: skip
_DEGREES = ("tp", "pp", "ep")
_SCHEMAS = ("wallplan/v1",)
_SILICON = {"source": "aiconfigurator"}
LAWS = {"concurrency": "closed", "rate": "open", "batch": "static"}
_MOST_DRAFTED = 32

Keys = tuple[str, ...]


class ReplicaError(ValueError):
    """A description of a replica that cannot be evaluated. `faults`: (keys, one line) of everything that is wrong with it."""

    def __init__(self, *faults: tuple[Keys, str]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas of one layout. `batch`: the most sequences that one decodes together, None: as many as fit."""

    tensor: int = 1
    stages: int = 1
    expert: int = 1
    replicas: int = 1
    batch: int | None = None

    @property
    def chips(self) -> int:
        """Accelerators of one replica."""
        return max(self.tensor, self.expert) * self.stages


@dataclass(frozen=True, slots=True)
class Speculation:
    """Tokens that are drafted per step, each accepted with probability `acceptance`; cost: see `serving.Draft`."""

    tokens: int
    acceptance: float
    cost: float


@dataclass(frozen=True, slots=True)
class Asked:
    """What is described: chips, formats, traffic and load. `pool` reads prompts and decodes; with `prefill`, it only decodes."""

    model: Transformer  # serving.Drafted where a model drafts for it
    chip: Accelerator
    engine: str
    pool: Pool
    prefill: Pool | None
    precision: str
    cache: str
    traffic: serving.Traffic
    load: str  # concurrency | rate | batch
    amount: float
    variability: float  # squared coefficient of variation of the time between arrivals
    speculation: Speculation | None
    kernels: bool  # measured ones are asked for

    @property
    def law(self) -> str:
        """closed | open | static."""
        return LAWS[self.load]

    @property
    def hardly_measured(self) -> bool:
        """Whether it serves in a way of which too few runs were measured for an interval of their own."""
        return self.speculation is not None or self.prefill is not None


def read(mapping: Mapping[str, Any], catalog: Catalog, calibration: Calibration | None) -> Asked:
    """What a mapping describes. Raises ReplicaError with every fault."""
    return _Reader(mapping, catalog, calibration).asked()


class _Reader:
    """Reads a description, and collects everything that is wrong with it."""

    def __init__(self, mapping: Mapping[str, Any], catalog: Catalog, calibration: Calibration | None) -> None:
        self.mapping, self.catalog, self.calibration = mapping, catalog, calibration
        self.faults: list[tuple[Keys, str]] = []

    def fault(self, text: str, *keys: str) -> None:
        self.faults.append((keys, text))

    def asked(self) -> Asked:
        """The replica. Raises ReplicaError with all faults; those between keys are looked for when each key is right."""
        self.known_keys(self.mapping, KEYS)
        kind = self.mapping.get("kind", "replica")
        if kind != "replica":
            self.fault(f"kind is {kind!r}, expected 'replica'", "kind")
        schema = self.mapping.get("schema", _SCHEMAS[0])
        if schema not in _SCHEMAS:
            self.fault(f"schema is {str(schema)[:40]!r}, expected {' or '.join(map(repr, _SCHEMAS))}", "schema")
        kernels = self.kernels()
        load, amount, variability = self.load(kernels)
        model, chip, engine = self.found("models", "model"), self.found("chips", "chip"), self.engine()
        if model is not None and not isinstance(model, Transformer):
            self.fault(f"model {model.name!r} is no decoder transformer", "model")
        precision, cache = self.format("precision", None), self.format("kv_precision", "bf16")
        traffic, (pool, prefill) = self.traffic(), self.pools()
        speculation, draft = self.speculation()
        self.stop()
        assert isinstance(model, Transformer) and isinstance(chip, Accelerator)
        if draft is not None:
            try:
                model = serving.drafted(model, draft)
            except ImpossibleValue as error:
                self.fault(f"speculative.draft: {error}", "speculative", "draft")
        result = Asked(
            model, chip, engine, pool, prefill, precision, cache, traffic, load, amount, variability, speculation, kernels
        )
        self.together(result)
        self.stop()
        return result

    def stop(self) -> None:
        if self.faults:
            raise ReplicaError(*self.faults)

    def known_keys(self, mapping: Mapping[str, Any], known: Iterable[str], *at: str) -> bool:
        """Whether all keys of a mapping, itself at the keys `at`, are known; a fault for each that is not."""
        names, where = list(known), "".join(f"{key}: " for key in at)
        strange = [str(key) for key in mapping if key not in names]
        for key in strange:
            hint = f"{did_you_mean(key, names)}; expected some of {', '.join(names)}"
            self.fault(f"{where}unknown key {key[:40]!r}{hint}", *at, key)
        return not strange

    def kernels(self) -> bool:
        """Whether measured kernels are asked for."""
        named = self.mapping.get("calibration")
        if named is not None and self.calibration is None and named != _SILICON:
            self.fault(
                f"calibration is {named!r}, expected the path of a file that `wallplan calibrate` wrote, or "
                "{source: aiconfigurator}",
                "calibration",
            )
        return bool(named == _SILICON)

    def load(self, kernels: bool) -> tuple[str, float, float]:
        """(key of the load, how much, squared coefficient of variation of the time between arrivals)."""
        given = [key for key in LAWS if self.mapping.get(key) is not None]
        if len(given) != 1:
            text = f"give exactly one of concurrency, rate and batch, not {' and '.join(given) or 'none'}"
            self.fault(text, *given[1:2])
        amounts = [self.rate() if key == "rate" else self.number(self.mapping[key], key, whole=True) for key in given]
        if kernels and given == ["rate"]:
            self.fault("rate: measured kernels are taken at a known batch: give concurrency or batch", "rate")
        arrivals, variability = self.mapping.get("arrivals"), 1.0
        if arrivals is not None and given and given != ["rate"]:
            self.fault(f"arrivals are given with {given[0]}, expected with rate: nothing arrives by itself otherwise", "arrivals")
        if arrivals is not None and (not isinstance(arrivals, Mapping) or set(arrivals) != {"cv"}):
            self.fault("arrivals must be {cv: ...}, the coefficient of variation of the time between requests", "arrivals")
        elif arrivals is not None:
            variability = self.number(arrivals["cv"], "arrivals", "cv") ** 2
        return (given or ["concurrency"])[0], (amounts or [math.nan])[0], variability

    def rate(self) -> float:
        """Requests per second: a bare number, or a rate with its unit."""
        value = self.mapping["rate"]
        if isinstance(value, str) and math.isnan(_number_of(value)):
            try:
                value = float(quantity(value, "rate").m_as("1/s"))
            except UnitError as error:
                self.fault(f"rate: {error}", "rate")
                return 1.0
        return self.number(value, "rate")

    def found(self, kind: str, key: str) -> Any:
        if not self.mapping.get(key):
            self.fault(f"{key} is missing", key)
            return None
        return self.named(kind, str(self.mapping[key]), key)

    def named(self, kind: str, name: str, *keys: str) -> Any:
        try:
            return self.catalog.find(kind, name)
        except UnknownName as error:
            self.fault(f"{'.'.join(keys)}: {error}", *keys)
            return None

    def engine(self) -> str:
        engine = str(self.mapping.get("engine") or DEFAULT_ENGINE)
        try:
            return engine_named(engine)
        except CalibrationError as error:
            self.fault(f"engine: {error}", "engine")
            return engine

    def number(self, value: Any, *keys: str, whole: bool = False, least: float | None = None) -> float:
        """A number above zero, or of at least `least`; 1, and a fault, where it is none."""
        number = _number_of(value)
        enough = number > 0 if least is None else number >= least
        if not enough or number == math.inf or (whole and number != int(number)):
            bound = "above zero" if least is None else f"of at least {least:g}"
            self.fault(f"{'.'.join(keys)} is {value!r}, expected a {'whole ' if whole else ''}number {bound}", *keys)
            return 1.0
        return number

    def share(self, value: Any, *keys: str, above: bool = False) -> float:
        """A share from 0 (above 0) to below 1, such as 0.7 or "70 %"; 0.5, and a fault, where it is none."""
        try:
            share = math.nan if isinstance(value, bool) else float(quantity(value, "fraction").m_as("dimensionless"))
        except UnitError:
            share = math.nan
        if not (0 < share < 1 if above else 0 <= share < 1):
            self.fault(f"{'.'.join(keys)} is {value!r}, expected a share {'above' if above else 'from'} 0 and below 1", *keys)
            return 0.5
        return share

    def pools(self) -> tuple[Pool, Pool | None]:
        """(the replica, or those that decode; those that only read prompts, None where the replica does both)."""
        apart = [key for key in ("prefill", "decode") if self.mapping.get(key) is not None]
        way = self.mapping.get("disaggregation", "pools" if apart else "none")
        if way not in ("none", "pools"):
            hint = did_you_mean(str(way), ("none", "pools"))
            self.fault(f"disaggregation is {way!r}, expected none or pools{hint}", "disaggregation")
        example = "prefill: {tp: 1, replicas: 3} and decode: {tp: 2, replicas: 2}"
        if way == "none" and apart:
            self.fault(f"{apart[0]} is given, but disaggregation is none", apart[0])
        if way == "none" or (way != "pools" and not apart):
            return self.pool(self.mapping, *_DEGREES), None
        for key in ("prefill", "decode"):
            given = self.mapping.get(key)
            if not isinstance(given, Mapping):
                what = f"{key} is {'missing' if given is None else repr(given)[:40]}"
                self.fault(f"{what}, expected replicas of either kind, such as {example}", *apart[:1])
        for key in _DEGREES:
            if self.mapping.get(key) is not None:
                self.fault(f"{key} stands beside prefill and decode, expected in each of them, such as {example}", key)
        if self.mapping.get("batch") is not None:
            self.fault("batch is given with prefill and decode apart, expected concurrency or rate", "batch")
        prefill, decode = (
            self.pool(inner, *known, at=key) if isinstance(inner := self.mapping.get(key), Mapping) else Pool()
            for key, known in (("prefill", (*_DEGREES, "replicas")), ("decode", (*_DEGREES, "replicas", "batch")))
        )
        return decode, prefill

    def pool(self, mapping: Mapping[str, Any], *known: str, at: str = "") -> Pool:
        """Replicas of one layout: counts, 1 where left out; of a pool's own mapping no other keys."""
        if at:
            self.known_keys(mapping, known, at)

        def count(key: str) -> int | None:
            given = mapping.get(key) if key in known else None
            return None if given is None else int(self.number(given, *([at] if at else []), key, whole=True))

        tensor, stages, expert, replicas = (count(key) or 1 for key in (*_DEGREES, "replicas"))
        return Pool(tensor, stages, expert, replicas, count("batch"))

    def speculation(self) -> tuple[Speculation | None, Transformer | None]:
        """(what is drafted, the model that drafts it if one does), in the words of a serve question."""
        given = self.mapping.get("speculative")
        if given is None:
            return None, None
        if not isinstance(given, Mapping):
            self.fault(
                "speculative must be {draft: llama-3.2-1b, acceptance: 0.7, tokens: 4}, or cost in place of draft", "speculative"
            )
            return None, None
        self.known_keys(given, ("draft", "cost", "acceptance", "tokens"), "speculative")
        draft, cost, tokens = given.get("draft"), given.get("cost"), given.get("tokens")
        if (draft is None) == (cost is None):
            both = "draft and cost are both given: keep one"
            self.fault(f"speculative: {both if draft is not None else 'give draft (a model, or ngram) or cost'}", "speculative")
        for key in ("acceptance", "tokens"):
            if given.get(key) is None:
                self.fault(f"speculative.{key} is missing", "speculative")
        acceptance = self.share(given.get("acceptance", 0.5), "speculative", "acceptance", above=True)
        share = 0.0 if cost is None else self.share(cost, "speculative", "cost")
        one = tokens[0] if isinstance(tokens, list) and len(tokens) == 1 else 0 if tokens is None else tokens
        if isinstance(one, list):
            self.fault(
                f"speculative.tokens is {one}, expected one number: a replica is one configuration", "speculative", "tokens"
            )
            one = 0
        number = int(self.number(one, "speculative", "tokens", whole=True, least=0))
        if number > _MOST_DRAFTED:
            self.fault(f"speculative.tokens is {number}, expected at most {_MOST_DRAFTED} a step", "speculative", "tokens")
        if self.mapping.get("batch") is not None:
            self.fault("speculative is given with batch, expected with concurrency or rate", "speculative")
        if self.mapping.get("calibration") == _SILICON:
            self.fault("speculative is given with measured kernels, which know no drafted tokens", "speculative")
        model = None if draft in (None, "ngram") else self.named("models", str(draft), "speculative", "draft")
        if model is not None and not isinstance(model, Transformer):
            self.fault(f"speculative.draft: {model.name!r} is no decoder transformer", "speculative", "draft")
            model = None
        return (Speculation(number, acceptance, share), model) if number else (None, None)

    def format(self, key: str, default: str | None) -> str:
        """A number format; weights have no default."""
        text = str(self.mapping.get(key) or default or "")
        known = [row["name"] for row in table("precision")]
        if not text:
            self.fault(f"{key} is missing ({', '.join(known[:6])}, ...)", key)
        elif text not in known:
            self.fault(f"{key} is {text[:40]!r}, expected one of {', '.join(known)}{did_you_mean(text, known)}", key)
        return text

    def traffic(self) -> serving.Traffic:
        tokens, hit = self.mapping.get("tokens"), self.mapping.get("prefix_hit")
        counts = {"input": 1.0, "output": 1.0}
        if isinstance(tokens, Mapping) and not self.known_keys(tokens, counts, "tokens"):
            pass  # what is missing is what was mistyped
        elif not isinstance(tokens, Mapping) or set(tokens) != set(counts):
            self.fault("tokens must be {input: ..., output: ...}", "tokens")
        else:
            counts = {key: self.number(tokens[key], "tokens", key) for key in counts}
        share = 0.0 if hit is None else self.share(hit, "prefix_hit")
        return serving.Traffic(Q(counts["input"], "token"), Q(counts["output"], "token"), share)

    def together(self, asked: Asked) -> None:
        """What is wrong between keys: degrees that the model does not have, formats and groups that the chip does not have."""
        chip = asked.chip
        if algorithm.computes_in(asked.precision) not in chip.peak:
            formats = ", ".join(chip.peak)
            needed = algorithm.computes_in(asked.precision)
            self.fault(f"precision is {asked.precision}, but {chip.name} has no peak at {needed}, it has {formats}", "precision")
        if asked.prefill is None:
            self.degrees(asked, asked.pool)
            return
        self.degrees(asked, asked.prefill, "prefill")
        self.degrees(asked, asked.pool, "decode")
        if asked.kernels:
            self.fault("calibration: measured kernels are not taken for prefill and decode apart", "calibration")
        if bandwidth_of(chip, shares_a_machine(asked)) is None:
            where = "within a machine" if shares_a_machine(asked) else "to other machines (NIC)"
            self.fault(f"prefill: {chip.name} has no known bandwidth {where}, over which KV caches are handed over", "prefill")

    def degrees(self, asked: Asked, pool: Pool, *at: str) -> None:
        """What is wrong with the degrees of one pool, whose keys are under `at`."""
        model, chip, where = asked.model, asked.chip, "".join(f"{key}." for key in at)
        if model.heads % pool.tensor:
            self.fault(f"{where}tp is {pool.tensor}, which does not divide the {model.heads} heads of {model.name}", *at, "tp")
        if pool.expert > 1 and not model.experts:
            self.fault(f"{where}ep is {pool.expert}, but {model.name} has no experts", *at, "ep")
        elif pool.expert % pool.tensor and pool.tensor % pool.expert:
            self.fault(f"{where}ep is {pool.expert}, which neither divides nor is a multiple of tp {pool.tensor}", *at, "ep")
        elif model.experts and model.experts % pool.expert:
            self.fault(
                f"{where}ep is {pool.expert}, which does not divide the {model.experts} experts of {model.name}", *at, "ep"
            )
        if pool.stages > model.layers:
            self.fault(f"{where}pp is {pool.stages}, but {model.name} has {model.layers} layers", *at, "pp")
        key, group = ("ep", pool.expert) if pool.expert > pool.tensor else ("tp", pool.tensor)
        device = serving.device_of(chip)
        if group > 1 and bandwidth_of(chip, True) is None:
            missing = f"but {chip.name} has no known link between chips: tp and ep must be 1"
            self.fault(f"{where}{key} is {group}, {missing}", *at, key)
        if device.linked and group > chip.scale_up_domain:
            self.fault(
                f"{where}{key} is {group}, but the {chip.link} domain of {chip.name} has {chip.scale_up_domain} chips: "
                "neither tp nor ep may exceed that",
                *at,
                key,
            )


def _number_of(value: Any) -> float:
    """`value` as a number, nan where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


# ---------------------------------------------------------------------------------------------------- what the laws see


def deployment_of(asked: Asked, pool: Pool, constants: Constants, batch: Any) -> serving.Deployment:
    """A replica of one of the pools, with `batch` sequences (an array: one candidate each)."""
    chip, batch = asked.chip, np.atleast_1d(np.asarray(batch, float))
    one, nowhere, nothing = np.ones(len(batch)), Q(0.0, "byte/s"), Q(0.0, "s")
    computes = algorithm.computes_in(asked.precision)
    layouts = serving.Layouts(
        weight_bytes=algorithm.bytes_per_element(asked.precision) * one, kv_bytes=algorithm.bytes_per_element(asked.cache) * one,
        peak=chip.peak[computes] * one, compute_efficiency=constants.compute_efficiency[computes] * one,
        tensor_parallel=pool.tensor * one, pipeline_parallel=pool.stages * one, expert_parallel=pool.expert * one, batch=batch,
    )  # fmt: skip
    inside, between = bandwidth_of(chip, True), bandwidth_of(chip, pool.chips <= chip.scale_up_domain)
    links = serving.Links(
        nowhere if inside is None else inside, nothing, nowhere if between is None else between, nothing
    )  # fmt: skip
    draft, given = None, asked.speculation
    if given is not None:
        tokens = given.tokens * one
        draft = serving.draft_of(asked.model, asked.traffic, layouts.kv_bytes, tokens, given.acceptance, given.cost)
    return serving.deployment_of(asked.model, chip, layouts, links, asked.traffic, constants, draft)


def bandwidth_of(chip: Accelerator, inside: bool) -> Quantity | None:
    """Bandwidth of a chip to others of its machine (`inside`) or to other machines, None where it is not known."""
    if not inside:
        return chip.nic_bandwidth
    return chip.link_bandwidth if serving.device_of(chip).linked else chip.host_bandwidth


def shares_a_machine(asked: Asked) -> bool:
    """Whether the smallest unit of replicas apart with this ratio of both kinds fits into one scale-up domain."""
    assert asked.prefill is not None
    units = math.gcd(asked.prefill.replicas, asked.pool.replicas)
    chips = (asked.prefill.replicas * asked.prefill.chips + asked.pool.replicas * asked.pool.chips) // units
    return chips <= asked.chip.scale_up_domain
