"""Continuous batching, event by event: an independent check of the queues that the laws of `serving` stand for.

A replica steps as vLLM does: every step decodes all running sequences and reads the prompts that wait, up to a budget and free
slots; a prompt's first token comes at the end of the step that reads it. Requests go to the replica with the fewest requests in
flight (a load balancer). How long a step takes is given; nothing of the laws is in here. Times in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Progress = Callable[[float], None]  # takes the simulated time


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who asks for what.

    `arrivals`: of all requests of an open loop; of the first request of each client of a closed one, who sends the next as soon
    as one is answered, until the time `until` (0: an open loop). `sizes`: of prompts, over the mean; `steps`: decode steps of
    an answer after its first token. Both are taken in turn, over and over.
    """

    arrivals: Array
    sizes: Array = field(default_factory=lambda: np.ones(1))
    steps: Array = field(default_factory=lambda: np.zeros(1, int))
    until: float = 0.0


@dataclass(frozen=True, slots=True)
class Engine:
    """Replicas that step. `step`: time of a step that decodes so many sequences and reads prompts of so much size together.

    `slots`: sequences of one replica; `prompts`: that one step reads at most; `delay`: network stack before the scheduler;
    `after`: from the end of the step that reads a prompt to its first token (further pipeline stages).
    """

    step: Callable[[int, float], float]
    slots: int
    prompts: int = 1
    replicas: int = 1
    delay: float = 0.0
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """When each request was sent, and had its first and its last token; `steps` as in `Traffic`."""

    sent: Array
    first: Array
    last: Array
    steps: Array

    @property
    def ttft(self) -> Array:
        """Time to first token."""
        return self.first - self.sent

    @property
    def between_steps(self) -> Array:
        """Mean time of a step that decodes, of requests that have any."""
        return (self.last - self.first) / self.steps

    def sent_between(self, start: float, end: float) -> Outcome:
        """The requests that were sent in a window."""
        kept = (self.sent >= start) & (self.sent < end)
        return Outcome(self.sent[kept], self.first[kept], self.last[kept], self.steps[kept])


def poisson(generator: np.random.Generator, rate: float, count: int, variability: float = 1.0) -> Array:
    """Arrivals of mean rate [1/s]; times between are gamma with squared coefficient of variation `variability` (1: Poisson)."""
    return np.cumsum(generator.gamma(1 / variability, variability / rate, count))


def simulate(traffic: Traffic, engine: Engine, progress: Progress | None = None) -> Outcome:
    """Serve all requests on replicas that read prompts and decode."""
    return _serve(traffic, engine, lambda request, at: at + engine.delay, False, progress)


def simulate_apart(
    traffic: Traffic, readers: int, reading: float, transfer: float, engine: Engine, progress: Progress | None = None
) -> Outcome:
    """Prefill and decode apart: `readers` read one prompt at a time, first come first served, and hand it to a decoder.

    reading: of a prompt of mean size, during which its reader is held; transfer: of its cache, while the reader reads on. A
    decoder takes it at its next step if it has a free slot, and the first token comes at the end of that step.
    """
    free, sizes = [0.0] * readers, traffic.sizes.tolist()

    def handed(request: int, at: float) -> float:
        """When a prompt is at the decoders; requests are sent in the order of time."""
        size = sizes[request % len(sizes)]
        reader = min(range(readers), key=free.__getitem__)
        free[reader] = max(free[reader], at + engine.delay) + reading * size
        return float(free[reader] + transfer * size)

    return _serve(traffic, engine, handed, True, progress)


def _serve(
    traffic: Traffic,
    engine: Engine,
    admitted: Callable[[int, float], float],
    was_read: bool,
    progress: Progress | None,
) -> Outcome:
    """Requests, of which `admitted` says when one that is sent at a time is at the scheduler; with `was_read` its prompt is read
    by then, so that its first step decodes."""
    sent = traffic.arrivals.tolist()
    coming = [(admitted(request, at), request) for request, at in enumerate(sent)]
    sizes, steps, count = traffic.sizes.tolist(), traffic.steps.tolist(), engine.replicas
    first, last = [np.nan] * len(sent), [np.nan] * len(sent)
    waiting: list[deque[int]] = [deque() for _ in range(count)]
    reading: list[list[int]] = [[] for _ in range(count)]
    running, done = [0] * count, [0] * count  # sequences that decode; steps that are over
    ends: list[dict[int, list[int]]] = [{} for _ in range(count)]  # by step, the requests that it ends
    busy_until, events = [np.inf] * count, 0
    heapify(coming)

    def start(r: int, now: float) -> None:
        room = min(engine.slots - running[r], engine.slots if was_read else engine.prompts, len(waiting[r]))
        taken = [waiting[r].popleft() for _ in range(room)]
        reading[r] = taken
        decoding = running[r] + (len(taken) if was_read else 0)
        if not taken and not running[r]:
            busy_until[r] = np.inf
            return
        work = 0.0 if was_read else float(sum(sizes[request % len(sizes)] for request in taken))
        busy_until[r] = now + engine.step(decoding, work)

    def answered(request: int, now: float) -> None:
        last[request] = now
        if now < traffic.until:  # the client of a closed loop sends the next
            sent.append(now)
            first.append(np.nan)
            last.append(np.nan)
            heappush(coming, (admitted(len(sent) - 1, now), len(sent) - 1))

    while True:
        r = min(range(count), key=busy_until.__getitem__) if count > 1 else 0
        now = busy_until[r]
        if coming and coming[0][0] <= now:
            at, request = heappop(coming)
            load = [len(waiting[k]) + running[k] + len(reading[k]) for k in range(count)]
            chosen = load.index(min(load))
            waiting[chosen].append(request)
            if busy_until[chosen] == np.inf:
                start(chosen, at)
            continue
        if now == np.inf:
            break
        events += 1
        if progress is not None and events % 2000 == 0:
            progress(now)
        done[r] += 1
        for request in ends[r].pop(done[r], ()):
            running[r] -= 1
            answered(request, now)
        for request in reading[r]:
            first[request] = now + engine.after
            more = steps[request % len(steps)]
            if more < 1:
                answered(request, first[request])
                continue
            running[r] += 1
            ends[r].setdefault(done[r] + more, []).append(request)
        reading[r] = []
        start(r, now)
    whole = np.array([steps[request % len(steps)] for request in range(len(sent))], float)
    return Outcome(np.array(sent), np.array(first), np.array(last), whole)
