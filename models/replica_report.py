"""What the answers about replicas have in common: what was asked, memory, parts and counts as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import serving
from .calibration import Calibration
from .replica_file import Asked, Pool

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def count(value: float) -> float | int:
    """A count as an integer where it is whole: a mean number in flight need not be."""
    return int(value) if float(value).is_integer() else value


def between(value: float, half_width: float, least: float = 0.0) -> dict[str, float]:
    """A prediction with its 80 % interval, of which half is given in logarithms; below `least` nothing can be."""
    factor = math.exp(half_width)
    return {"value": value, "low": max(value / factor, min(least, value)), "high": value * factor}


def degrees(pool: Pool) -> dict[str, int]:
    """How one replica is spread."""
    return {"tp": pool.tensor, "pp": pool.stages, "ep": pool.expert}


def question(asked: Asked) -> dict[str, Any]:
    """What was asked, but for the layout: formats, traffic, load."""
    given = asked.speculation
    return {
        "precision": asked.precision,
        "kv_precision": asked.cache,
        "input_tokens": count(float(asked.traffic.input.m_as("token"))),
        "output_tokens": count(float(asked.traffic.output.m_as("token"))),
        "engine": asked.engine,
        "drafted_tokens": 0 if given is None else given.tokens,
        "tokens_per_step": 1 if given is None else float(serving.tokens_per_step(given.acceptance, np.array(given.tokens))),
        asked.load: count(asked.amount),
    }


def notes_of(asked: Asked, known: Calibration) -> list[str]:
    """What holds whatever the answer is: constants of relatives, a request that is too long, answers of one token,
    assumptions."""
    model, length = asked.model, float((asked.traffic.input + asked.traffic.output).m_as("token"))
    notes = [*known.inherited(model.name, asked.chip, asked.engine)]
    if model.max_context is not None and length > model.max_context:
        notes.append(f"{length:g} tokens exceed the context of {model.name}, {model.max_context:g}: engines refuse such requests")
    if asked.traffic.output.m_as("token") <= 1:
        notes.append("an answer of one token has no time per output token: it comes with the prompt")
    if asked.prefill is not None:
        notes += serving.APART_ASSUMPTIONS
        notes.append("prompts vary: the time that one is read for is exponential, as plans take it")
    if asked.speculation is not None:
        notes += serving.SPECULATIVE_ASSUMPTIONS
    return notes


def memory(d: serving.Deployment, sequences: float, fits: float) -> dict[str, float]:
    """What stands in one accelerator's memory [GiB] while so many sequences decode, of those that fit, and what there is."""
    weights, reserve = serving.with_draft(d, serving.weights_per_chip), serving.reserve(d)
    cache = serving.with_draft(d, serving.live_cache) * min(sequences, max(fits, 1.0))
    needed = weights + np.maximum(cache, serving.with_draft(d, serving.longest_cache)) + reserve
    parts = {"weights": weights, "cache": cache, "reserve": reserve, "needed": needed, "there": d.device.memory}
    return {name: float(np.max(size.m_as("GiB"))) for name, size in parts.items()}


def milliseconds(parts: Mapping[str, Any]) -> dict[str, float]:
    """The parts of one value [ms], those that take no time left out."""
    found = {name: float(np.broadcast_to(part.m_as("ms"), 1)[0]) for name, part in parts.items()}
    return {name: value for name, value in found.items() if value > 1e-6}


def basis(known: Calibration, kernels: str, notes: list[str]) -> dict[str, Any]:
    """What the answer stands on."""
    return {
        "interval": "80 % of measurements of unseen runs lie between low and high",
        "calibration": {"date": known.date, "source": known.source},
        "kernels": kernels,
        "notes": notes,
    }
