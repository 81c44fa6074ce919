"""One replica, asked directly: a model on some chips under some load -> TTFT, TPOT, tokens/s and memory, with intervals."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, fields, replace
from typing import Any

import numpy as np

from zoo.catalog import Catalog, load
from zoo.errors import UnknownName
from zoo.specs import Accelerator, Transformer
from zoo.units import Q

from . import algorithm, serving, silicon
from .calibration import DEFAULT_ENGINE, Calibration, CalibrationError, serving_constants, stored_calibration
from .dimensions import UnknownValue

KEYS = (
    "schema", "kind", "name", "model", "chip", "tp", "pp", "ep", "precision", "kv_precision", "engine", "tokens", "prefix_hit",
    "concurrency", "rate", "batch", "arrivals", "calibration",
)  # fmt: skip
_SILICON = {"source": "aiconfigurator"}
_LOADS = {"concurrency": "closed", "rate": "open", "batch": "static"}


class ReplicaError(ValueError):
    """A description of a replica that cannot be evaluated. The message is one clear line."""


def evaluate_replica(
    mapping: Mapping[str, Any], catalog: Catalog | None = None, calibration: Calibration | None = None
) -> dict[str, Any]:
    """What one replica does under one load.

    Keys of `mapping`: model, chip, precision, tokens {input, output}, and one of concurrency (requests kept in flight),
    rate (requests per second, Poisson) or batch (all prompts at once); optional tp, pp, ep (1), kv_precision (16 bits),
    engine (vLLM), prefix_hit (0), and with rate arrivals {cv} (1: Poisson; above, bursts), which percentiles are of. Every
    prediction is {value, low, high}, the 80 % interval. Raises ReplicaError.
    `calibration` replaces the stored constants; who reads a file reads what its key `calibration` names, and gives it here.
    """
    unknown = sorted(set(mapping) - set(KEYS))
    if unknown:
        near = difflib.get_close_matches(str(unknown[0]), KEYS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ReplicaError(f"unknown key {unknown[0]!r}{hint}; expected some of {', '.join(KEYS)}")
    if mapping.get("kind", "replica") != "replica":
        raise ReplicaError(f"kind is {mapping['kind']!r}, expected 'replica'")
    kernels = mapping.get("calibration") == _SILICON
    if mapping.get("calibration") is not None and calibration is None and not kernels:
        raise ReplicaError(
            f"calibration is {mapping['calibration']!r}, expected the path of a file that `wallplan calibrate` wrote, or "
            "{source: aiconfigurator}"
        )
    loads = [key for key in _LOADS if mapping.get(key) is not None]
    if len(loads) != 1:
        raise ReplicaError(f"give exactly one of concurrency, rate and batch, not {' and '.join(loads) or 'none'}")
    catalog = load() if catalog is None else catalog
    known = calibration or stored_calibration()
    model, chip = _found(catalog, "models", mapping, "model"), _found(catalog, "chips", mapping, "chip")
    if not isinstance(model, Transformer):
        raise ReplicaError(f"model {model.name!r} is no decoder transformer")
    assert isinstance(chip, Accelerator)
    asked = _positive(mapping.get(loads[0]), loads[0])
    variability = _variability(mapping, loads[0])
    engine = str(mapping.get("engine") or DEFAULT_ENGINE)
    try:
        constants = serving_constants(chip, engine, known)
        deployment = _deployment(mapping, model, chip, constants, asked)
        source = "modelled"
        if kernels:
            if loads[0] == "rate":
                raise ReplicaError("rate: measured kernels are taken at a known batch: give concurrency or batch")
            deployment, source = _with_measured_kernels(deployment, mapping, model, chip, engine)
        return _report(loads[0], asked, deployment, model, chip, engine, known, variability, source)
    except silicon.SiliconError as error:
        raise ReplicaError(f"this source of calibration {error}") from None
    except (CalibrationError, UnknownValue) as error:
        raise ReplicaError(str(error)) from None


def _found(catalog: Catalog, kind: str, mapping: Mapping[str, Any], key: str) -> Any:
    if not mapping.get(key):
        raise ReplicaError(f"{key} is missing")
    try:
        return catalog.find(kind, str(mapping[key]))
    except UnknownName as error:
        raise ReplicaError(str(error)) from None


def _positive(value: Any, key: str, whole: bool = False) -> float:
    text = str(value).removesuffix("/s").strip() if key == "rate" else value
    try:
        number = float(text)
    except (TypeError, ValueError):
        raise ReplicaError(f"{key} is {value!r}, expected a number above zero") from None
    if not (0 < number < math.inf) or isinstance(value, bool) or (whole and number != int(number)):
        raise ReplicaError(f"{key} is {value!r}, expected a {'whole ' if whole else ''}number above zero")
    return number


def _variability(mapping: Mapping[str, Any], load: str) -> float:
    """Squared coefficient of variation of the time between arrivals."""
    arrivals = mapping.get("arrivals")
    if arrivals is None:
        return 1.0
    if load != "rate":
        raise ReplicaError(f"arrivals are given with {load}, expected with rate: nothing arrives by itself otherwise")
    if not isinstance(arrivals, Mapping) or set(arrivals) != {"cv"}:
        raise ReplicaError("arrivals must be {cv: ...}, the coefficient of variation of the time between requests")
    return _positive(arrivals["cv"], "arrivals.cv") ** 2


def percentiles(d: serving.Deployment, rate: float, slots: int, variability: float) -> dict[str, dict[str, float | None]]:
    """TTFT and TPOT [ms] at p50, p90 and p99 of one replica with `slots` at an arrival rate [1/s], as plans predict them.

    None where the share cannot be served at all. The queue is that of `serving.pool_rate`, of one replica.
    """
    batches = np.arange(1.0, slots + 1)
    one = np.ones(slots)
    layouts = replace(d.layouts, **{f.name: getattr(d.layouts, f.name) * one for f in _per_layout(d.layouts)}, batch=batches)
    each = serving.together(serving.replicas(replace(d, layouts=layouts), 1.0, 1.0), 1.0)
    full = serving.take(each, np.array([slots - 1]))
    arrivals = Q(np.array([rate]), "1/s")
    tpot = np.broadcast_to(each.tpot.m_as("ms"), batches.shape)
    found: dict[str, dict[str, float | None]] = {"ttft": {}, "tpot": {}}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        first = serving.first_token_quantile(
            arrivals, full.prefill_time, full.delay, full.servers, full.slots, full.residence, share, variability
        )
        value = float(first.m_as("ms")[0])
        found["ttft"][name] = value if math.isfinite(value) else None
        busy = serving.sequences_in_flight(batches, each.residence, arrivals[0], 1.0, share, variability)
        found["tpot"][name] = float(np.interp(busy, batches, tpot))
    return found


def _per_layout(layouts: serving.Layouts) -> list[Field[Any]]:
    return [field for field in fields(layouts) if field.name != "batch" and getattr(layouts, field.name) is not None]


def _deployment(
    mapping: Mapping[str, Any], model: Transformer, chip: Accelerator, constants: Any, asked: float
) -> serving.Deployment:  # fmt: skip
    degrees = {key: _positive(1 if mapping.get(key) is None else mapping[key], key, whole=True) for key in ("tp", "pp", "ep")}
    if model.heads % degrees["tp"]:
        raise ReplicaError(f"tp is {degrees['tp']:g}, which does not divide the {model.heads} heads of {model.name}")
    if degrees["ep"] > 1 and not model.experts:
        raise ReplicaError(f"ep is {degrees['ep']:g}, but {model.name} has no experts")
    if degrees["pp"] > model.layers:
        raise ReplicaError(f"pp is {degrees['pp']:g}, but {model.name} has {model.layers} layers")
    precision, cache = str(mapping.get("precision") or ""), str(mapping.get("kv_precision") or "bf16")
    if not precision:
        raise ReplicaError("precision is missing (bf16, fp8, fp4, int4, ...)")
    computes = algorithm.computes_in(precision)
    peak = chip.peak.get(computes)
    if peak is None:
        raise ReplicaError(f"{chip.name} has no peak at {computes}, it has {', '.join(chip.peak)}")
    tokens = mapping.get("tokens")
    if not isinstance(tokens, Mapping) or set(tokens) != {"input", "output"}:
        raise ReplicaError("tokens must be {input: ..., output: ...}")
    hit = mapping.get("prefix_hit") or 0.0
    if not (isinstance(hit, (int, float)) and 0 <= hit < 1):
        raise ReplicaError(f"prefix_hit is {hit!r}, expected a share from 0 to below 1")
    counts = {key: Q(_positive(tokens[key], f"tokens.{key}"), "token") for key in ("input", "output")}
    device = serving.device_of(chip)
    inside = chip.link_bandwidth if device.linked else chip.host_bandwidth
    group = max(degrees["tp"], degrees["ep"])
    if group > 1 and inside is None:
        raise ReplicaError(f"{chip.name} has no known link between chips: tp and ep must be 1")
    if device.linked and group > chip.scale_up_domain:
        raise ReplicaError(f"tp x ep spans {group:g} chips, the {chip.link} domain of {chip.name} has {chip.scale_up_domain}")
    one = np.ones(1)
    layouts = serving.Layouts(
        weight_bytes=algorithm.bytes_per_element(precision) * one, kv_bytes=algorithm.bytes_per_element(cache) * one,
        peak=peak * one, compute_efficiency=constants.compute_efficiency[computes] * one, tensor_parallel=degrees["tp"] * one,
        pipeline_parallel=degrees["pp"] * one, expert_parallel=degrees["ep"] * one, batch=asked * one,
    )  # fmt: skip
    nothing, nowhere = Q(0.0, "s"), Q(0.0, "byte/s")
    between = chip.nic_bandwidth if group * degrees["pp"] > chip.scale_up_domain else inside
    links = serving.Links(
        inside if inside is not None else nowhere, nothing, between if between is not None else nowhere, nothing
    )
    traffic = serving.Traffic(counts["input"], counts["output"], float(hit))
    return serving.Deployment(serving.work_of(model, traffic, layouts.kv_bytes), layouts, device, links, constants)


def _with_measured_kernels(
    d: serving.Deployment, mapping: Mapping[str, Any], model: Transformer, chip: Accelerator, engine: str
) -> tuple[serving.Deployment, str]:
    """(the deployment with the decode step and prefill of aiconfigurator where it knows them; where figures are from)."""
    tool = silicon.aiconfigurator(silicon.backend_of(engine))
    system = tool.system(chip) if chip == load().chips.get(chip.name) else None
    weights, cache = np.array([str(mapping["precision"])]), np.array([str(mapping.get("kv_precision") or "bf16")])
    found, where = silicon.measured(d, model, np.array([chip.name]), weights, cache, tool)
    if system is None or not where[0]:
        return d, "modelled: aiconfigurator has no measured kernels of this chip, model, layout and precision"
    return replace(d, measured=found), f"decode step and prefill measured ({tool.version(system)}), waits and memory modelled"


def _report(
    kind: str,
    asked: float,
    d: serving.Deployment,
    model: Transformer,
    chip: Accelerator,
    engine: str,
    known: Calibration,
    variability: float,
    source: str,
) -> dict[str, Any]:
    law, one, no = _LOADS[kind], np.ones(1), np.zeros(1, bool)
    load_ = serving.Load(
        concurrency=asked * one, rate=(asked if law == "open" else 0.0) * one, requests=np.inf * one, replicas=one,
        sequences_limit=np.nan * one, prefill_workers=one, static=~no if law == "static" else no, disaggregated=no, median=no,
        natural=no, fixed_lengths=no, known_batch=no,
    )  # fmt: skip
    weights, share = serving.weights_per_chip(d), serving.cache_share(d)
    fits = float(serving.largest_batch(d)[0])
    latency = serving.open_loop(d, load_) if law == "open" else serving.closed_loop(d, load_)
    output = float(d.work.output)
    tpot, ttft, batch = float(latency.tpot.m_as("s")[0]), float(latency.ttft.m_as("s")[0]), float(latency.batch[0])
    limit = min(fits, float(np.max(d.constants.largest_batch)) * float(d.layouts.attention_parallel[0]))
    overloaded = law == "open" and asked * (ttft + output * tpot) > max(limit, 1.0)
    if law == "open":
        rate = min(asked * output, max(limit, 1.0) / tpot)
    elif law == "static":
        rate = float(serving.static_throughput(d, load_).m_as("token/s")[0])
    else:
        rate = asked * output / (ttft + output * tpot)
    tpot_regime, ttft_regime = ("open_tpot", "open_ttft") if law == "open" else ("closed_tpot", "closed_ttft")
    rate_regime = "static_throughput" if law == "static" else tpot_regime

    def interval(value: float, regime: str) -> dict[str, float]:
        own = known.half_width(regime, model.name, chip.name, engine)
        factor = math.exp(own if d.measured is None else max(own, silicon.half_width(regime)))
        return {"value": value, "low": value / factor, "high": value * factor}

    sequences = min(batch, max(fits, 1.0))
    cache = d.work.cache_live * share * sequences
    needed = weights + np.maximum(cache, d.work.cache_longest * share) + serving.reserve(d)
    notes = [*known.inherited(model.name, chip, engine)]
    if fits < 1:
        notes.append("does not fit: weights, one whole sequence and the reserve exceed the memory of a chip")
    elif batch > fits:
        notes.append(f"only {fits:g} sequences fit: the others wait for a slot")
    if overloaded:
        notes.append("overloaded: requests arrive faster than they are served, and TTFT grows for ever")
    return {
        "model": model.name,
        "chip": chip.name,
        "chips": int(d.layouts.chips[0]),
        "engine": engine,
        kind: asked,
        "fits": fits >= 1,
        "batch": batch,
        "largest_batch": fits,
        "overloaded": overloaded,
        "ttft_ms": None if overloaded or fits < 1 else interval(ttft * 1e3, ttft_regime),
        "tpot_ms": None if fits < 1 else interval(tpot * 1e3, tpot_regime),
        "percentiles_ms": None
        if overloaded or fits < 1 or law != "open"
        else percentiles(d, asked, max(int(limit), 1), variability),
        "output_tokens_per_s": None if fits < 1 else interval(rate, rate_regime),
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
