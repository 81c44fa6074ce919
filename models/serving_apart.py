"""Replicas that only read prompts beside replicas that only decode: what they do under a load.

By the equations that plans use (`serving.pools_apart` and the queues of wall 7). What is predicted takes the sequences that are
in flight at the rate; what a plan promises takes a full batch and the pessimistic end of each time, and is the same here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.units import Q, Quantity

from . import node, serving
from .calibration import Calibration, serving_constants
from .replica_file import Asked, bandwidth_of, deployment_of, shares_a_machine
from .replica_report import PERCENTILES, basis, between, count, degrees, memory, milliseconds, notes_of, question


@dataclass(frozen=True, slots=True)
class Pools:
    """Both kinds of replica. `station` is the prediction of their queues, `late` its pessimistic end."""

    reader: serving.Replica
    reading: serving.Deployment
    decoding: serving.Deployment  # with every slot busy
    decoder: serving.Replica
    slots: int  # sequences that one replica decodes at most
    fits: float
    transfer: Quantity  # of one prompt's cache
    station: serving.Station
    late: serving.Station
    slow: tuple[float, float]  # half of the 80 % interval, as a factor: of TPOT, of TTFT


def pools(asked: Asked, known: Calibration, batches: Any = None) -> Pools:
    """The pools of what was asked, at the batch of every slot busy, or at each of `batches` of one replica that decodes."""
    assert asked.prefill is not None
    constants = serving_constants(asked.chip, asked.engine, known)
    reading = deployment_of(asked, asked.prefill, constants, serving.prompts_kept(asked.prefill.stages))
    one = deployment_of(asked, asked.pool, constants, 1.0)
    fits, ranks = float(serving.largest_batch(one)[0]), float(one.layouts.attention_parallel[0])
    allowed = min(fits, float(np.max(constants.batch_limit)) * ranks, asked.pool.batch or math.inf)
    slots = max(math.floor(allowed), 1)
    decoding = deployment_of(asked, asked.pool, constants, slots if batches is None else batches)
    reader, decoder = (serving.replicas(d, 1.0, 1.0) for d in (reading, decoding))
    inside = np.array([shares_a_machine(asked)])
    bandwidth = serving.transfer_bandwidth(decoding.links, decoding.device, constants, inside)
    slow = serving.slowness(asked.model, asked.chip, constants, known, unmeasured=True)

    counts = asked.prefill.replicas, asked.pool.replicas
    output = float(one.work.output)
    station, transfer = serving.pools_apart(reader, decoder, *counts, bandwidth, output)
    late, _ = serving.pools_apart(reader, decoder, *counts, bandwidth, output, *slow)
    return Pools(reader, reading, decoding, decoder, slots, fits, transfer, station, late, slow)


def report(asked: Asked, known: Calibration) -> dict[str, Any]:
    """What they do, as plain data: keys as `serving_replica.evaluate_replica`, and prefill, decode, kv_transfer.

    The percentiles that end in `_promised` are those that a plan of these pools shows.
    """
    assert asked.prefill is not None
    found, output, notes = pools(asked, known), float(asked.traffic.output.m_as("token")), notes_of(asked, known)
    largest = float(serving.pool_rate(*_queues(found.station), (), asked.variability).m_as("1/s")[0])
    read_memory, keeps = memory(found.reading, float(found.reading.layouts.batch[0]), math.inf), found.reading.layouts.batch[0]
    reads = bool(serving.largest_batch(found.reading)[0] >= keeps)
    closed, curve = asked.law == "closed", _curve(asked, known, found.slots)
    at = _closed_loop(asked, found, curve, largest) if closed else _at_rate(asked, found, curve, asked.amount)
    overloaded = not closed and asked.amount >= largest
    runs, steps = found.fits >= 1 and reads, output > 1
    waits = runs and not overloaded
    if not reads:
        notes.append(f"does not fit: a replica that reads prompts keeps {keeps:g} of them beside its weights and the reserve")
    if found.fits < 1:
        notes.append("does not fit: weights, one whole sequence and the reserve exceed the memory of a chip that decodes")
    if found.fits >= 1 and (asked.pool.batch or 0) > found.slots:
        limit = "fit" if found.fits < asked.pool.batch else "are scheduled"  # type: ignore[operator]
        notes.append(f"decode.batch is {asked.pool.batch}, of which {found.slots} {limit}")
    if overloaded:
        slow = "prompts are read" if _reading_limits(found.station) else "sequences are decoded"
        notes.append(f"overloaded: at most {largest:.4g} requests a second are served, as fast as {slow}; TTFT grows for ever")
    ttft, exact = sum(at.waits.values()), pools(asked, known, at.batch)
    token = serving.Latency(Q(1.0, "s"), exact.station.tpot, np.array([at.batch]), exact.station.tpot, {})
    chips = asked.prefill.replicas * asked.prefill.chips + asked.pool.replicas * asked.pool.chips
    tpot_width, ttft_width = (math.log(slow) for slow in found.slow)
    inside, soonest = shares_a_machine(asked), float(serving.least_token_time(found.decoding).m_as("ms")[0])
    link = asked.chip.link if inside and serving.device_of(asked.chip).linked else "PCIe" if inside else "NIC"
    return {
        "model": asked.model.name,
        "chip": asked.chip.name,
        "chips": chips,
        "prefill": {**degrees(asked.prefill), "replicas": asked.prefill.replicas, "chips": asked.prefill.chips},
        "decode": {**degrees(asked.pool), "replicas": asked.pool.replicas, "chips": asked.pool.chips, "batch": found.slots},
        **question(asked),
        "fits": runs,
        "batch": count(at.batch),
        "largest_batch": count(found.fits),
        "largest_rate_per_s": largest if runs else None,
        "overloaded": overloaded,
        "ttft_ms": between(1e3 * ttft, ttft_width) if waits else None,
        "tpot_ms": between(1e3 * at.tpot, tpot_width, soonest) if runs and steps else None,
        "percentiles_ms": _percentiles(asked, known, found, at) if waits and not closed else None,
        "ttft_parts_ms": milliseconds({name: Q(value, "s") for name, value in at.waits.items()}) if waits else None,
        "tpot_parts_ms": milliseconds(serving.token_parts(exact.decoding, token)) if runs and steps else None,
        "output_tokens_per_s": between(min(at.rate, largest) * output, tpot_width) if runs else None,
        "kv_transfer": {
            "link": f"{link}: a unit of both kinds {'fits' if inside else 'does not fit'} into one scale-up domain",
            "bandwidth_gb_per_s": float(bandwidth_of(asked.chip, inside).m_as("GB/s")),  # type: ignore[union-attr]
            "ms": float(found.transfer.m_as("ms")[0]),
        },
        "memory_gib": memory(found.decoding, at.batch, found.fits),
        "prefill_memory_gib": read_memory,
        **basis(known, "modelled", notes),
    }


def _queues(station: serving.Station) -> tuple[Quantity, Quantity, Any, Any, Quantity]:
    """The arguments that the queues of wall 7 take of a station."""
    return station.prefill_time, station.delay, np.atleast_1d(station.servers), np.atleast_1d(station.slots), station.residence


def _reading_limits(station: serving.Station) -> bool:
    """Whether prompts are read at a smaller rate than sequences are decoded at."""
    return bool(np.all(station.servers / station.prefill_time < station.slots / station.residence))


@dataclass(frozen=True, slots=True)
class _At:
    """What they do at one rate [1/s]: the sequences that a replica decodes, and times [s]."""

    rate: float
    batch: float
    tpot: float
    waits: dict[str, float]  # of the first token


def _at_rate(asked: Asked, found: Pools, curve: _Curve, rate: float, population: float = math.inf) -> _At:
    """Means at a rate; of a closed loop, with so many requests in flight.

    By Little's law a replica decodes as many sequences as leave at its share of the rate. A sequence that is handed over while
    another decodes waits for half of the step in progress, 1 - e^-B of the time (M/G/inf); its own step yields the first token.
    A request of a closed loop sees it with one request less (arrival theorem; Reiser and Lavenberg 1980).
    """
    station, seen = found.station, 1 - 1 / population
    batch = float(np.interp(rate, curve.leaves, curve.batches))
    step, tpot = (float(np.interp(batch, curve.batches, times)) for times in (curve.step, curve.tpot))
    busy = -math.expm1(-seen * rate * float(asked.traffic.output.m_as("token")) * tpot / asked.pool.replicas)
    met = Q(np.array([seen * rate]), "1/s")
    prompts = node.mean_wait(met, station.prefill_time, station.servers, asked.variability, 1.0)
    if math.isfinite(population):
        prompts = Q(_prompts_in_front(asked, found, step, rate, population), "s")
    slot = node.mean_wait(met, station.residence, station.slots, asked.variability, 0.0)  # answers are as long as each other
    own, sent, dispatch = found.reader.prefill_time, found.transfer, found.reader.dispatch
    waits = {
        "client and scheduler, either side": 2 * dispatch, "own prompt": own, "hand-over of its cache": sent,
        "step in progress": Q(busy * step / 2, "s"), "own step": Q(step, "s"), "prompts of others": prompts, "slot": slot,
    }  # fmt: skip
    return _At(rate, batch, tpot, {name: float(np.max(part.m_as("s"))) for name, part in waits.items()})


def _prompts_in_front(asked: Asked, found: Pools, step: float, rate: float, population: float) -> float:
    """What a prompt of a closed loop waits for others [s], by the law of `serving.closed_loop`, which is fitted to benchmarks.

    V - S,  V = S (1 + A s) / (1 - X S A (1 - s) / N),  A = N / readers - 1: of the A others of its reader the share s was sent
    together with it (`serving.sent_together`), the rest is found there as often as a prompt is read (Schweitzer 1979).
    """
    c, service = found.decoding.constants, float(np.max(found.station.prefill_time.m_as("s")))
    ahead = max(population / float(np.max(found.station.servers)) - 1, 0.0)
    work = max(population / asked.pool.replicas - 1, 0.0) * service
    share = work / (work + float(asked.traffic.output.m_as("token")) * step)
    together = float(np.max(serving.sent_together(c, share, ahead, c.prompt_wait_random)))
    held = min(rate * service * ahead * (1 - together) / population, 1 - 1e-9)
    return service * (1 + ahead * together) / (1 - held) - service


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """Replicas that decode at each batch: times [s], and the rate [1/s] at which requests leave all of them."""

    batches: Any
    step: Any
    tpot: Any
    leaves: Any


def _curve(asked: Asked, known: Calibration, slots: int) -> _Curve:
    batches = np.arange(1.0, slots + 1)
    each = pools(asked, known, batches)
    times = (each.decoder.decode_step, each.station.tpot, each.station.residence)
    step, tpot, residence = (np.broadcast_to(time.m_as("s"), batches.shape) for time in times)
    return _Curve(batches, step, tpot, asked.pool.replicas * batches / residence)


def _closed_loop(asked: Asked, found: Pools, curve: _Curve, largest: float) -> _At:
    """Means with N requests kept in flight: the rate X at which N = X (TTFT + (O - 1) TPOT), below the largest.

    At the largest rate, what is left of N / X is waited in front of what limits it.
    """
    number, decoded = asked.amount, max(float(asked.traffic.output.m_as("token")) - 1, 0.0)
    low, high = 0.0, largest
    for _ in range(50):
        at = _at_rate(asked, found, curve, (low + high) / 2, number)
        crowded = at.rate * (sum(at.waits.values()) + decoded * at.tpot) > number
        low, high = (low, at.rate) if crowded else (at.rate, high)
    rest = number / at.rate - sum(at.waits.values()) - decoded * at.tpot
    queue = "prompts of others" if _reading_limits(found.station) else "slot"
    return replace(at, waits={**at.waits, queue: at.waits[queue] + max(rest, 0.0)})


def _percentiles(
    asked: Asked, known: Calibration, found: Pools, at: _At
) -> dict[str, dict[str, float | None]]:  # fmt: skip
    """TTFT and TPOT [ms] at p50, p90 and p99, as predicted, and as a plan promises; None where more find no slot."""
    rate = Q(np.array([asked.amount]), "1/s")
    batches, shares = np.arange(1.0, found.slots + 1), tuple(PERCENTILES.values())
    each, rows = pools(asked, known, batches), {}
    fixed = ("client and scheduler, either side", "step in progress", "own step")
    predicted = replace(found.station, delay=Q(np.array([sum(at.waits[name] for name in fixed)]), "s"))
    for end, station, over in (("", predicted, each.station), ("_promised", found.late, each.late)):
        ttft = (serving.first_token_quantile(rate, *_queues(station), share, asked.variability)[0] for share in shares)
        tpot = serving.tpot_percentiles(over, batches, rate[0], asked.pool.replicas, shares, asked.variability)
        for what, times in (("ttft", ttft), ("tpot", tpot)):
            values = [float(time.m_as("ms")) for time in times]
            rows[f"{what}{end}"] = {
                name: value if math.isfinite(value) else None for name, value in zip(PERCENTILES, values, strict=True)
            }
    return rows
