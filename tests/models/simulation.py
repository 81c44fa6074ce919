"""A discrete-event simulation of continuous batching, the oracle of the analytic pool model. It shares no code with it.

One replica steps as vLLM does: every step decodes all running sequences and reads the prompts that wait, up to a token
budget and free slots. A prompt's first token comes at the end of the step that reads it. Requests go to the replica with the
fewest requests in flight (a load balancer).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Outcome:
    """Seconds, one element per request that was served after the warm-up."""

    ttft: np.ndarray
    tpot: np.ndarray


def gaps(generator: np.random.Generator, rate: float, count: int, variability: float) -> np.ndarray:
    """Times between arrivals of mean 1/rate and squared coefficient of variation `variability` (gamma)."""
    return generator.gamma(1 / variability, variability / rate, count)


def simulate(
    rate: float,
    replicas: int,
    slots: int,
    prompt: int,
    output: int,
    decode_step: Callable[[int], float],
    prompt_cost: float,
    delay: float,
    requests: int,
    variability: float = 1.0,
    budget: int = 8192,
    spread: bool = False,
    seed: int = 1,
) -> Outcome:
    """Serve `requests` arrivals on `replicas` replicas; `decode_step(running)` [s] per step, `prompt_cost` [s] per prompt read.

    `delay` [s]: network stack before the request reaches the scheduler. spread: prompts of exponential size with the mean given.
    """
    generator = np.random.default_rng(seed)
    arrivals = np.cumsum(gaps(generator, rate, requests, variability)) + delay
    sizes = generator.exponential(1.0, requests) if spread else np.ones(requests)
    waiting: list[deque[int]] = [deque() for _ in range(replicas)]
    running: list[list[list[int]]] = [[] for _ in range(replicas)]  # [request, tokens left]
    busy_until = [np.inf] * replicas
    reading: list[list[int]] = [[] for _ in range(replicas)]
    first, last = np.full(requests, np.nan), np.full(requests, np.nan)
    per_step = max(budget // prompt, 1)

    def start(r: int, now: float) -> None:
        room = min(slots - len(running[r]), per_step)
        reading[r] = [waiting[r].popleft() for _ in range(min(room, len(waiting[r])))]
        if not reading[r] and not running[r]:
            busy_until[r] = np.inf
            return
        step = decode_step(len(running[r])) if running[r] else 0.0
        busy_until[r] = now + step + prompt_cost * float(sizes[reading[r]].sum())

    at = 0
    while at < requests or min(busy_until) < np.inf:
        r = int(np.argmin(busy_until))
        if at < requests and arrivals[at] <= busy_until[r]:
            load = [len(waiting[k]) + len(running[k]) + len(reading[k]) for k in range(replicas)]
            chosen = int(np.argmin(load))
            waiting[chosen].append(at)
            if busy_until[chosen] == np.inf:
                start(chosen, float(arrivals[at]))
            at += 1
            continue
        now = busy_until[r]
        for entry in running[r]:
            entry[1] -= 1
            if entry[1] == 0:
                last[entry[0]] = now
        running[r] = [entry for entry in running[r] if entry[1] > 0]
        for request in reading[r]:
            first[request] = now
            running[r].append([request, output - 1])
        reading[r] = []
        start(r, now)
    kept = slice(requests // 10, requests - requests // 10)
    ttft = first - (arrivals - delay)
    return Outcome(ttft[kept], ((last - first) / (output - 1))[kept])


def simulate_apart(
    rate: float,
    readers: int,
    decoders: int,
    slots: int,
    output: int,
    decode_step: Callable[[int], float],
    prompt_cost: float,
    transfer: float,
    delay: float,
    requests: int,
    variability: float = 1.0,
    spread: bool = False,
    seed: int = 1,
) -> Outcome:
    """Prefill and decode apart: `readers` read one prompt at a time, first come first served, and hand it to a decoder.

    `transfer` [s] after it was read, over a link that carries other prompts meanwhile; a decoder takes it at its next step if
    it has a free slot, and the first token comes at the end of that step. Other arguments as `simulate`.
    """
    generator = np.random.default_rng(seed)
    arrivals = np.cumsum(gaps(generator, rate, requests, variability)) + delay
    sizes = generator.exponential(1.0, requests) if spread else np.ones(requests)
    free = np.zeros(readers)
    handed = np.empty(requests)
    for request in range(requests):
        r = int(np.argmin(free))
        free[r] = max(free[r], arrivals[request]) + prompt_cost * sizes[request]
        handed[request] = free[r] + transfer * sizes[request]

    order = np.argsort(handed, kind="stable")
    waiting: list[deque[int]] = [deque() for _ in range(decoders)]
    running: list[list[list[int]]] = [[] for _ in range(decoders)]
    ends = [np.inf] * decoders
    first, last = np.full(requests, np.nan), np.full(requests, np.nan)

    def step(d: int, now: float) -> None:
        while waiting[d] and len(running[d]) < slots:
            running[d].append([waiting[d].popleft(), output])
        ends[d] = now + decode_step(len(running[d])) if running[d] else np.inf

    at = 0
    while at < requests or min(ends) < np.inf:
        d = int(np.argmin(ends))
        if at < requests and handed[order[at]] <= ends[d]:
            chosen = int(np.argmin([len(waiting[k]) + len(running[k]) for k in range(decoders)]))
            waiting[chosen].append(int(order[at]))
            if ends[chosen] == np.inf:
                step(chosen, float(handed[order[at]]))
            at += 1
            continue
        now = ends[d]
        for entry in running[d]:
            if entry[1] == output:
                first[entry[0]] = now
            entry[1] -= 1
            if entry[1] == 0:
                last[entry[0]] = now
        running[d] = [entry for entry in running[d] if entry[1] > 0]
        step(d, now)
    kept = slice(requests // 10, requests - requests // 10)
    return Outcome((first - (arrivals - delay))[kept], ((last - first) / (output - 1))[kept])
