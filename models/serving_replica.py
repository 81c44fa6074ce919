"""One replica, asked directly: a model on some chips under some load -> TTFT, TPOT, tokens/s and memory, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.catalog import Catalog, load

from . import serving, serving_apart, silicon
from .calibration import Calibration, CalibrationError, serving_constants, stored_calibration
from .dimensions import UnknownValue
from .replica_file import Asked, ReplicaError, deployment_of, read
from .replica_report import PERCENTILES, basis, between, count, degrees, memory, milliseconds, notes_of, question

__all__ = ["ReplicaError", "evaluate_replica"]


def evaluate_replica(
    mapping: Mapping[str, Any], catalog: Catalog | None = None, calibration: Calibration | None = None
) -> dict[str, Any]:
    """What one replica does under one load, or replicas that only read prompts beside others that only decode.

    Keys of `mapping`: model, chip, precision, tokens {input, output}, and one of concurrency (requests kept in flight),
    rate (requests per second, or a rate with its unit; Poisson) or batch (all prompts at once); optional kv_precision (16 bits),
    engine (vLLM), prefix_hit (0), and with rate arrivals {cv} (1: Poisson; above, bursts). Optional degrees, 1 where
    left out: tp chips share every layer, ep chips share the experts of every layer, pp groups of them follow each other; the
    replica has max(tp, ep) x pp chips, and where ep exceeds tp, attention runs in ep / tp ranks that share the requests.
    speculative {draft or cost, acceptance, tokens}: so many tokens are drafted per step. prefill {tp, pp, ep, replicas} and
    decode {tp, pp, ep, replicas, batch} in place of degrees: replicas apart, under a rate or a concurrency (`serving_apart`).
    Every prediction is {value, low, high}, the 80 % interval. Raises ReplicaError.
    `calibration` replaces the stored constants; who reads a file reads what its key `calibration` names, and gives it here.
    """
    asked = read(mapping, load() if catalog is None else catalog, calibration)
    known = calibration or stored_calibration()
    try:
        if asked.prefill is not None:
            return serving_apart.report(asked, known)
        return _report(asked, loaded(asked, known), known)
    except silicon.SiliconError as error:
        raise ReplicaError((("calibration",), f"calibration: this source {error}")) from None
    except (CalibrationError, UnknownValue) as error:
        raise ReplicaError(((), str(error))) from None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A replica under its load. `deployment` counts answers in tokens, `steps` in decode steps, which is what the laws take."""

    deployment: serving.Deployment
    steps: serving.Deployment
    load: serving.Load
    slots: float  # sequences that the replica schedules at once
    fits: float  # sequences that fit
    capacity: float  # requests per second
    latency: serving.Latency  # of a step
    kernels: str  # where times are from


def loaded(asked: Asked, known: Calibration) -> Loaded:
    """The laws of `serving` for what was asked. Raises CalibrationError, UnknownValue and SiliconError."""
    d, kernels = deployment_of(asked, asked.pool, serving_constants(asked.chip, asked.engine, known), asked.amount), "modelled"
    if asked.kernels:
        d, kernels = _with_measured_kernels(d, asked)
    steps = serving.in_steps(d)
    fits, ranks = float(serving.largest_batch(d)[0]), float(d.layouts.attention_parallel[0])
    slots = max(math.floor(min(fits, float(np.max(d.constants.batch_limit)) * ranks)), 1.0)
    driven = _load(asked, slots / ranks)
    capacity = float(serving.capacity(steps, np.array([slots])).m_as("1/s")[0])
    latency = serving.open_loop(steps, driven, asked.variability) if asked.law == "open" else serving.closed_loop(steps, driven)
    return Loaded(d, steps, driven, slots, fits, capacity, latency, kernels)


def _with_measured_kernels(d: serving.Deployment, asked: Asked) -> tuple[serving.Deployment, str]:
    """(the deployment with the decode step and prefill of aiconfigurator where it knows them; where figures are from)."""
    chip = asked.chip
    tool = silicon.aiconfigurator(silicon.backend_of(asked.engine))
    system = tool.system(chip) if chip == load().chips.get(chip.name) else None
    chips, weights, caches = (np.array([text]) for text in (chip.name, asked.precision, asked.cache))
    found, where = silicon.measured(d, asked.model, chips, weights, caches, tool)
    if system is None or not where[0]:
        return d, "modelled: aiconfigurator has no measured kernels of this chip, model, layout and precision"
    return replace(d, measured=found), f"decode step and prefill measured ({tool.version(system)}), waits and memory modelled"


def _load(asked: Asked, slots: float) -> serving.Load:
    """The load of one replica that schedules so many sequences on each attention rank."""
    one, no, law = np.ones(1), np.zeros(1, bool), asked.law
    return serving.Load(
        concurrency=asked.amount * one, rate=(asked.amount if law == "open" else 0.0) * one, requests=np.inf * one, replicas=one,
        sequences_limit=slots * one, prefill_workers=one, static=~no if law == "static" else no, disaggregated=no, median=no,
        natural=no, fixed_lengths=no, known_batch=no,
    )  # fmt: skip


def _report(asked: Asked, found: Loaded, known: Calibration) -> dict[str, Any]:
    model, chip, amount, law = asked.model, asked.chip, asked.amount, asked.law
    d, slots, fits, capacity = found.deployment, found.slots, found.fits, found.capacity
    latency, output, notes = serving.per_token(d, found.latency), float(d.work.output), notes_of(asked, known)
    overloaded = law == "open" and amount >= capacity
    tpot, ttft, batch = float(latency.tpot.m_as("s")[0]), float(latency.ttft.m_as("s")[0]), float(latency.batch[0])
    if law == "open":
        rate = min(amount, capacity) * output
    elif law == "static":
        rate = float(serving.static_throughput(d, found.load).m_as("token/s")[0])
    else:
        rate = amount * output / (ttft + (output - 1) * tpot)
    tpot_regime, ttft_regime = ("open_tpot", "open_ttft") if law == "open" else ("closed_tpot", "closed_ttft")
    rate_regime = "static_throughput" if law == "static" else tpot_regime

    def interval(value: float, regime: str, least: float = 0.0) -> dict[str, float]:
        engine = serving.UNMEASURED if asked.hardly_measured else asked.engine
        own = known.half_width(regime, model.name, chip.name, engine)
        return between(value, own if d.measured is None else max(own, silicon.half_width(regime)), least)

    runs, steps = fits >= 1, output > 1
    soonest = float(serving.least_token_time(d).m_as("ms")[0])
    waits = runs and not overloaded
    if not runs:
        notes.append("does not fit: weights, one whole sequence and the reserve exceed the memory of a chip")
    elif law != "open" and amount > slots:
        limit = f"only {fits:g} sequences fit" if fits <= slots else f"the engine schedules {slots:g} sequences at most"
        notes.append(f"{limit}: the others wait for a slot")
    if overloaded:
        notes.append(f"overloaded: at most {capacity:.4g} requests a second are served, and TTFT grows for ever")
    if waits and law == "open":
        notes.append(
            "these percentiles are expected values; a plan promises later ones: it takes the pessimistic end of each time, "
            "prompts of varying length and a full batch"
        )
    return {
        "model": model.name,
        "chip": chip.name,
        "chips": asked.pool.chips,
        **degrees(asked.pool),
        **question(asked),
        "fits": runs,
        "batch": count(batch),
        "largest_batch": count(fits),
        "largest_rate_per_s": capacity if runs else None,
        "overloaded": overloaded,
        "ttft_ms": interval(ttft * 1e3, ttft_regime) if waits else None,
        "tpot_ms": interval(tpot * 1e3, tpot_regime, soonest) if runs and steps else None,
        "percentiles_ms": _percentiles(found, asked.variability) if waits and law == "open" else None,
        "ttft_parts_ms": milliseconds(latency.waits) if waits else None,
        "tpot_parts_ms": milliseconds(serving.token_parts(d, latency)) if runs and steps else None,
        "output_tokens_per_s": interval(rate, rate_regime) if runs else None,
        "memory_gib": memory(d, batch, fits),
        **basis(known, found.kernels, notes),
    }


def _percentiles(found: Loaded, variability: float) -> dict[str, dict[str, float]]:
    """TTFT and TPOT [ms] of the requests of an open loop at p50, p90 and p99, by the law of their means."""
    steps, latency = found.steps, found.latency
    rows = {"ttft": {name: serving.first_token_percentile(latency, share) for name, share in PERCENTILES.items()}}
    if float(found.deployment.work.output) > 1:
        expected = serving.expected_tokens(found.deployment)
        rows["tpot"] = {
            name: serving.token_percentile(steps, found.load, latency, share, variability) / expected
            for name, share in PERCENTILES.items()
        }
    return {what: {name: float(value.m_as("ms")[0]) for name, value in row.items()} for what, row in rows.items()}
