"""One replica, asked directly: a model on some chips under some load -> TTFT, TPOT, tokens/s and memory, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.catalog import Catalog, load
from zoo.errors import UnknownName
from zoo.specs import Accelerator, Transformer
from zoo.units import Q

from . import algorithm, serving, silicon
from .calibration import (
    DEFAULT_ENGINE,
    Calibration,
    CalibrationError,
    Constants,
    engine_named,
    serving_constants,
    stored_calibration,
)
from .cells import did_you_mean
from .constants import table
from .dimensions import UnknownValue

KEYS = (
    "schema", "kind", "name", "model", "chip", "tp", "pp", "ep", "precision", "kv_precision", "engine", "tokens", "prefix_hit",
    "concurrency", "rate", "batch", "arrivals", "calibration",
)  # fmt: skip
_SILICON = {"source": "aiconfigurator"}
_LOADS = {"concurrency": "closed", "rate": "open", "batch": "static"}

Keys = tuple[str, ...]


class ReplicaError(ValueError):
    """A description of a replica that cannot be evaluated. `faults`: (keys, one line) of everything that is wrong with it."""

    def __init__(self, *faults: tuple[Keys, str]) -> None:
        super().__init__("; ".join(text for _, text in faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class _Asked:
    """A replica as described: chips, formats, traffic and load, each checked by itself."""

    model: Transformer
    chip: Accelerator
    engine: str
    tensor: int
    stages: int
    expert: int
    precision: str
    cache: str
    traffic: serving.Traffic
    load: str  # concurrency | rate | batch
    amount: float
    variability: float  # squared coefficient of variation of the time between arrivals
    kernels: bool  # measured ones are asked for


def evaluate_replica(
    mapping: Mapping[str, Any], catalog: Catalog | None = None, calibration: Calibration | None = None
) -> dict[str, Any]:
    """What one replica does under one load.

    Keys of `mapping`: model, chip, precision, tokens {input, output}, and one of concurrency (requests kept in flight),
    rate (requests per second, Poisson) or batch (all prompts at once); optional kv_precision (16 bits), engine (vLLM),
    prefix_hit (0), and with rate arrivals {cv} (1: Poisson; above, bursts). Optional degrees, 1 where
    left out: tp chips share every layer, ep chips share the experts of every layer, pp groups of them follow each other; the
    replica has max(tp, ep) x pp chips, and where ep exceeds tp, attention runs in ep / tp ranks that share the requests. Every
    prediction is {value, low, high}, the 80 % interval. Raises ReplicaError.
    `calibration` replaces the stored constants; who reads a file reads what its key `calibration` names, and gives it here.
    """
    asked = _Reader(mapping, load() if catalog is None else catalog, calibration).asked()
    known = calibration or stored_calibration()
    try:
        constants = serving_constants(asked.chip, asked.engine, known)
        deployment, source = _deployment(asked, constants), "modelled"
        if asked.kernels:
            deployment, source = _with_measured_kernels(deployment, asked)
        return _report(asked, deployment, known, source)
    except silicon.SiliconError as error:
        raise ReplicaError((("calibration",), f"calibration: this source {error}")) from None
    except (CalibrationError, UnknownValue) as error:
        raise ReplicaError(((), str(error))) from None


class _Reader:
    """Reads a description, and collects everything that is wrong with it."""

    def __init__(self, mapping: Mapping[str, Any], catalog: Catalog, calibration: Calibration | None) -> None:
        self.mapping, self.catalog, self.calibration = mapping, catalog, calibration
        self.faults: list[tuple[Keys, str]] = []

    def fault(self, text: str, *keys: str) -> None:
        self.faults.append((keys, text))

    def asked(self) -> _Asked:
        """The replica. Raises ReplicaError with all faults; those between keys are looked for when each key is right."""
        for key in self.mapping:
            if key not in KEYS:
                self.fault(
                    f"unknown key {str(key)[:40]!r}{did_you_mean(str(key), KEYS)}; expected some of {', '.join(KEYS)}", str(key)
                )
        kind = self.mapping.get("kind", "replica")
        if kind != "replica":
            self.fault(f"kind is {kind!r}, expected 'replica'", "kind")
        kernels = self.kernels()
        load_, amount, variability = self.load(kernels)
        model, chip, engine = self.found("models", "model"), self.found("chips", "chip"), self.engine()
        if model is not None and not isinstance(model, Transformer):
            self.fault(f"model {model.name!r} is no decoder transformer", "model")
        tensor, stages, expert = (self.degree(key) for key in ("tp", "pp", "ep"))
        precision, cache = self.format("precision", None), self.format("kv_precision", "bf16")
        traffic = self.traffic()
        self.stop()
        assert isinstance(model, Transformer) and isinstance(chip, Accelerator)
        result = _Asked(
            model, chip, engine, tensor, stages, expert, precision, cache, traffic, load_, amount, variability, kernels
        )
        self.together(result)
        self.stop()
        return result

    def stop(self) -> None:
        if self.faults:
            raise ReplicaError(*self.faults)

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
        given = [key for key in _LOADS if self.mapping.get(key) is not None]
        if len(given) != 1:
            text = f"give exactly one of concurrency, rate and batch, not {' and '.join(given) or 'none'}"
            self.fault(text, *given[1:2])
        for key in given:
            self.number(self.mapping[key], key)
        if kernels and given == ["rate"]:
            self.fault("rate: measured kernels are taken at a known batch: give concurrency or batch", "rate")
        arrivals, variability = self.mapping.get("arrivals"), 1.0
        if arrivals is not None and given and given != ["rate"]:
            self.fault(f"arrivals are given with {given[0]}, expected with rate: nothing arrives by itself otherwise", "arrivals")
        if arrivals is not None and (not isinstance(arrivals, Mapping) or set(arrivals) != {"cv"}):
            self.fault("arrivals must be {cv: ...}, the coefficient of variation of the time between requests", "arrivals")
        elif arrivals is not None:
            variability = self.number(arrivals["cv"], "arrivals", "cv") ** 2
        amount = number_of(self.mapping[given[0]], given[0]) if given else math.nan
        return (given or ["concurrency"])[0], amount, variability

    def found(self, kind: str, key: str) -> Any:
        if not self.mapping.get(key):
            self.fault(f"{key} is missing", key)
            return None
        try:
            return self.catalog.find(kind, str(self.mapping[key]))
        except UnknownName as error:
            self.fault(f"{key}: {error}", key)
            return None

    def engine(self) -> str:
        engine = str(self.mapping.get("engine") or DEFAULT_ENGINE)
        try:
            return engine_named(engine)
        except CalibrationError as error:
            self.fault(f"engine: {error}", "engine")
            return engine

    def number(self, value: Any, *keys: str, whole: bool = False) -> float:
        """A number above zero; 1, and a fault, where it is none."""
        number = number_of(value, keys[-1])
        if not 0 < number < math.inf or (whole and number != int(number)):
            self.fault(f"{'.'.join(keys)} is {value!r}, expected a {'whole ' if whole else ''}number above zero", *keys)
            return 1.0
        return number

    def degree(self, key: str) -> int:
        given = self.mapping.get(key)
        return int(self.number(1 if given is None else given, key, whole=True))

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
        tokens, hit = self.mapping.get("tokens"), self.mapping.get("prefix_hit") or 0.0
        counts = {"input": 1.0, "output": 1.0}
        if not isinstance(tokens, Mapping) or set(tokens) != set(counts):
            self.fault("tokens must be {input: ..., output: ...}", "tokens")
        else:
            counts = {key: self.number(tokens[key], "tokens", key) for key in counts}
        if isinstance(hit, bool) or not (isinstance(hit, (int, float)) and 0 <= hit < 1):
            self.fault(f"prefix_hit is {hit!r}, expected a share from 0 to below 1", "prefix_hit")
            hit = 0.0
        return serving.Traffic(Q(counts["input"], "token"), Q(counts["output"], "token"), float(hit))

    def together(self, asked: _Asked) -> None:
        """What is wrong between keys: degrees that the model does not have, formats and groups that the chip does not have."""
        model, chip = asked.model, asked.chip
        if model.heads % asked.tensor:
            self.fault(f"tp is {asked.tensor}, which does not divide the {model.heads} heads of {model.name}", "tp")
        if asked.expert > 1 and not model.experts:
            self.fault(f"ep is {asked.expert}, but {model.name} has no experts", "ep")
        if asked.stages > model.layers:
            self.fault(f"pp is {asked.stages}, but {model.name} has {model.layers} layers", "pp")
        if algorithm.computes_in(asked.precision) not in chip.peak:
            formats = ", ".join(chip.peak)
            needed = algorithm.computes_in(asked.precision)
            self.fault(f"precision is {asked.precision}, but {chip.name} has no peak at {needed}, it has {formats}", "precision")
        key, group = ("ep", asked.expert) if asked.expert > asked.tensor else ("tp", asked.tensor)
        device = serving.device_of(chip)
        if group > 1 and (chip.link_bandwidth if device.linked else chip.host_bandwidth) is None:
            self.fault(f"{key} is {group}, but {chip.name} has no known link between chips: tp and ep must be 1", key)
        if device.linked and group > chip.scale_up_domain:
            self.fault(
                f"{key} is {group}, but the {chip.link} domain of {chip.name} has {chip.scale_up_domain} chips: "
                "neither tp nor ep may exceed that",
                key,
            )


def number_of(value: Any, key: str) -> float:
    """`value` as a number, nan where it is none; a rate may end in /s."""
    try:
        return math.nan if isinstance(value, bool) else float(str(value).removesuffix("/s").strip() if key == "rate" else value)
    except (TypeError, ValueError):
        return math.nan


def _deployment(asked: _Asked, constants: Constants) -> serving.Deployment:
    chip, one = asked.chip, np.ones(1)
    device = serving.device_of(chip)
    computes = algorithm.computes_in(asked.precision)
    layouts = serving.Layouts(
        weight_bytes=algorithm.bytes_per_element(asked.precision) * one, kv_bytes=algorithm.bytes_per_element(asked.cache) * one,
        peak=chip.peak[computes] * one, compute_efficiency=constants.compute_efficiency[computes] * one,
        tensor_parallel=asked.tensor * one, pipeline_parallel=asked.stages * one, expert_parallel=asked.expert * one,
        batch=asked.amount * one,
    )  # fmt: skip
    nothing, nowhere = Q(0.0, "s"), Q(0.0, "byte/s")
    inside = chip.link_bandwidth if device.linked else chip.host_bandwidth
    between = chip.nic_bandwidth if layouts.chips[0] > chip.scale_up_domain else inside
    links = serving.Links(
        inside if inside is not None else nowhere, nothing, between if between is not None else nowhere, nothing
    )
    work = serving.work_of(asked.model, asked.traffic, layouts.kv_bytes)
    return serving.Deployment(work, layouts, device, links, constants)


def _with_measured_kernels(d: serving.Deployment, asked: _Asked) -> tuple[serving.Deployment, str]:
    """(the deployment with the decode step and prefill of aiconfigurator where it knows them; where figures are from)."""
    chip = asked.chip
    tool = silicon.aiconfigurator(silicon.backend_of(asked.engine))
    system = tool.system(chip) if chip == load().chips.get(chip.name) else None
    chips, weights, caches = (np.array([text]) for text in (chip.name, asked.precision, asked.cache))
    found, where = silicon.measured(d, asked.model, chips, weights, caches, tool)
    if system is None or not where[0]:
        return d, "modelled: aiconfigurator has no measured kernels of this chip, model, layout and precision"
    return replace(d, measured=found), f"decode step and prefill measured ({tool.version(system)}), waits and memory modelled"


def _count(value: float) -> float | int:
    """A count as an integer where it is whole: a mean number in flight need not be."""
    return int(value) if float(value).is_integer() else value


def _load(asked: _Asked, slots: float) -> serving.Load:
    """The load of one replica that schedules so many sequences on each attention rank."""
    one, no, law = np.ones(1), np.zeros(1, bool), _LOADS[asked.load]
    return serving.Load(
        concurrency=asked.amount * one, rate=(asked.amount if law == "open" else 0.0) * one, requests=np.inf * one, replicas=one,
        sequences_limit=slots * one, prefill_workers=one, static=~no if law == "static" else no, disaggregated=no, median=no,
        natural=no, fixed_lengths=no, known_batch=no,
    )  # fmt: skip


def _report(asked: _Asked, d: serving.Deployment, known: Calibration, source: str) -> dict[str, Any]:
    model, chip, engine, amount = asked.model, asked.chip, asked.engine, asked.amount
    law, output, notes = _LOADS[asked.load], float(d.work.output), [*known.inherited(model.name, chip, engine)]
    weights, share = serving.weights_per_chip(d), serving.cache_share(d)
    fits, ranks = float(serving.largest_batch(d)[0]), float(d.layouts.attention_parallel[0])
    slots = max(math.floor(min(fits, float(np.max(d.constants.batch_limit)) * ranks)), 1.0)
    load_ = _load(asked, slots / ranks)
    capacity = float(serving.capacity(d, np.array([slots])).m_as("1/s")[0])
    overloaded = law == "open" and amount >= capacity
    latency = serving.open_loop(d, load_, asked.variability) if law == "open" else serving.closed_loop(d, load_)
    tpot, ttft, batch = float(latency.tpot.m_as("s")[0]), float(latency.ttft.m_as("s")[0]), float(latency.batch[0])
    if law == "open":
        rate = min(amount, capacity) * output
    elif law == "static":
        rate = float(serving.static_throughput(d, load_).m_as("token/s")[0])
    else:
        rate = amount * output / (ttft + (output - 1) * tpot)
    tpot_regime, ttft_regime = ("open_tpot", "open_ttft") if law == "open" else ("closed_tpot", "closed_ttft")
    rate_regime = "static_throughput" if law == "static" else tpot_regime

    def interval(value: float, regime: str) -> dict[str, float]:
        own = known.half_width(regime, model.name, chip.name, engine)
        factor = math.exp(own if d.measured is None else max(own, silicon.half_width(regime)))
        return {"value": value, "low": value / factor, "high": value * factor}

    cache = d.work.cache_live * share * min(batch, max(fits, 1.0))
    needed = weights + np.maximum(cache, d.work.cache_longest * share) + serving.reserve(d)
    runs, steps = fits >= 1, output > 1
    waits = runs and not overloaded
    if not runs:
        notes.append("does not fit: weights, one whole sequence and the reserve exceed the memory of a chip")
    elif law != "open" and amount > slots:
        limit = f"only {fits:g} sequences fit" if fits <= slots else f"the engine schedules {slots:g} sequences at most"
        notes.append(f"{limit}: the others wait for a slot")
    if overloaded:
        notes.append(f"overloaded: at most {capacity:.4g} requests a second are served, and TTFT grows for ever")
    length = d.work.input + d.work.output
    if model.max_context is not None and length > model.max_context:
        notes.append(f"{length:g} tokens exceed the context of {model.name}, {model.max_context:g}: engines refuse such requests")
    if not steps:
        notes.append("an answer of one token has no time per output token: it comes with the prompt")
    if waits and law == "open":
        notes.append(
            "these percentiles are expected values; a plan promises later ones: it takes the pessimistic end of each time, "
            "prompts of varying length and a full batch"
        )
    return {
        "model": model.name,
        "chip": chip.name,
        "chips": int(d.layouts.chips[0]),
        "tp": asked.tensor,
        "pp": asked.stages,
        "ep": asked.expert,
        "precision": asked.precision,
        "kv_precision": asked.cache,
        "input_tokens": _count(float(d.work.input)),
        "output_tokens": _count(output),
        "engine": engine,
        asked.load: _count(amount),
        "fits": runs,
        "batch": _count(batch),
        "largest_batch": _count(fits),
        "largest_rate_per_s": capacity if runs else None,
        "overloaded": overloaded,
        "ttft_ms": interval(ttft * 1e3, ttft_regime) if waits else None,
        "tpot_ms": interval(tpot * 1e3, tpot_regime) if runs and steps else None,
        "percentiles_ms": _percentiles(d, load_, latency, asked.variability) if waits and law == "open" else None,
        "ttft_parts_ms": _milliseconds(latency.waits) if waits else None,
        "tpot_parts_ms": _milliseconds(serving.token_parts(d, latency)) if runs and steps else None,
        "output_tokens_per_s": interval(rate, rate_regime) if runs else None,
        "memory_gib": {
            "weights": float(weights.m_as("GiB")[0]),
            "cache": float(cache.m_as("GiB")[0]),
            "reserve": float(np.max(serving.reserve(d).m_as("GiB"))),
            "needed": float(needed.m_as("GiB")[0]),
            "there": float(chip.memory.m_as("GiB")),
        },
        "interval": "80 % of measurements of unseen runs lie between low and high",
        "calibration": {"date": known.date, "source": known.source},
        "kernels": source,
        "notes": notes,
    }


def _milliseconds(parts: Mapping[str, Any]) -> dict[str, float]:
    """The parts of one value [ms], those that take no time left out."""
    found = {name: float(np.broadcast_to(part.m_as("ms"), 1)[0]) for name, part in parts.items()}
    return {name: value for name, value in found.items() if value > 1e-6}


def _percentiles(
    d: serving.Deployment, load_: serving.Load, latency: serving.Latency, variability: float
) -> dict[str, dict[str, float]]:
    """TTFT and TPOT [ms] of the requests of an open loop at p50, p90 and p99, by the law of their means."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {"ttft": {name: serving.first_token_percentile(latency, share) for name, share in shares.items()}}
    if float(d.work.output) > 1:
        found["tpot"] = {
            name: serving.token_percentile(d, load_, latency, share, variability) for name, share in shares.items()
        }  # fmt: skip
    return {what: {name: float(value.m_as("ms")[0]) for name, value in row.items()} for what, row in found.items()}
