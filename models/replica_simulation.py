"""A replica's queue simulated event by event, beside what the laws say of it: steps take the time of the laws, waits do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import serving, serving_apart
from .calibration import Calibration, stored_calibration
from .replica_file import Asked, ReplicaError, read
from .replica_report import PERCENTILES
from .serving_replica import loaded
from .simulation import Engine, Outcome, Traffic, poisson, simulate, simulate_apart

Array = NDArray[Any]
SEED = 1
_WARM_UP = 0.1  # of the time, at either end: replicas fill, and run empty
_DRAWN = 9973  # lengths at random, taken in turn
_ENOUGH = 100  # requests, below which a p99 says little


def simulate_replica(
    mapping: Mapping[str, Any],
    answer: Mapping[str, Any],
    seconds: float,
    catalog: Any = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """What `seconds` of the traffic of a replica are like when they are simulated, beside the laws' `answer` about it.

    Keys: seconds, seed, requests (of the middle four fifths of the time, which count), and rows: what, at (mean, p50, p90, p99),
    simulated, law (None where there is none), difference (law / simulated - 1), in the units of `answer`. Steps take the time
    that `serving.busy_step` says, interpolated between batches; prompts and answers have their mean length. Of prefill and
    decode apart, prompts vary (exponential), as the queue of plans takes it. notes: where the laws mean something else. Raises
    ReplicaError where there is nothing to simulate.
    """
    from zoo.catalog import load

    asked, known = read(mapping, load() if catalog is None else catalog, calibration), calibration or stored_calibration()
    _refuse(asked, answer)
    run = _apart if asked.prefill is not None else _together
    found = run(asked, known, seconds, progress or (lambda _: None))
    seen = found.sent_between(_WARM_UP * seconds, (1 - _WARM_UP) * seconds)
    if not len(seen.sent):
        raise ReplicaError(((asked.load,), f"--simulate: no request in the middle of {seconds:g} s: give a longer time"))
    output = float(asked.traffic.output.m_as("token"))
    values = {"ttft_ms": 1e3 * seen.ttft}
    if output > 1:
        values["tpot_ms"] = 1e3 * (seen.last - seen.first) / (output - 1)
    rows = [row for what, each in values.items() for row in _compared(what, each, answer)]
    ended = (found.last >= _WARM_UP * seconds) & (found.last < (1 - _WARM_UP) * seconds)
    rate = float(np.sum(ended)) * output / ((1 - 2 * _WARM_UP) * seconds)
    rows.append(_row("output_tokens_per_s", "mean", rate, answer["output_tokens_per_s"]["value"]))
    notes = _differences(asked)
    if len(seen.sent) < _ENOUGH:
        notes.append(f"only {len(seen.sent)} requests were simulated: a longer time says more")
    return {"seconds": seconds, "seed": SEED, "requests": len(seen.sent), "rows": rows, "notes": notes}


def _differences(asked: Asked) -> list[str]:
    """Where laws that were fitted to measured engines mean something else than the simulated one does."""
    if asked.prefill is not None:
        said = ["prompts vary (exponential), as the queue of plans takes it; promised percentiles are not compared"]
    else:
        said = [
            "what the law's first token waits for was fitted to measured engines, which wait longer: several steps in progress, "
            "a factor on the queue, ranks that wait for each other; in the simulated engine a request waits for the step in "
            "progress, the prompts in front and its own step"
        ]
    if asked.load == "concurrency":
        said.append(
            "the law's first token is that of benchmarks, whose clients begin together and stay partly in step; simulated "
            "clients begin at different moments"
        )
    return said


def _refuse(asked: Asked, answer: Mapping[str, Any]) -> None:
    """Raises ReplicaError where no steady queue is there to be simulated."""
    if asked.load == "batch":
        reason = "a static batch has no queue: give concurrency or rate"
    elif asked.kernels:
        reason = "measured kernels are those of one batch, and every step has another"
    elif not answer["fits"]:
        reason = "the replica does not fit"
    elif answer["overloaded"]:
        reason = f"the queue grows for ever: at most {answer['largest_rate_per_s']:.4g} requests a second are served"
    else:
        return
    raise ReplicaError((("calibration",) if asked.kernels else (asked.load,), f"--simulate: {reason}"))


def _compared(what: str, values: Array, answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean and percentiles of what was simulated, beside the laws'."""
    laws, mean = answer["percentiles_ms"] or {}, answer[what]
    law = laws.get(what.removesuffix("_ms"), {})
    rows = [_row(what, "mean", float(values.mean()), mean["value"])]
    return rows + [_row(what, name, float(np.quantile(values, share)), law.get(name)) for name, share in PERCENTILES.items()]


def _row(what: str, at: str, simulated: float, law: float | None) -> dict[str, Any]:
    known = law is not None and simulated > 0
    return {"what": what, "at": at, "simulated": simulated, "law": law, "difference": law / simulated - 1 if known else None}  # type: ignore[operator]


def _traffic(asked: Asked, seconds: float, output: float, spread: bool) -> Traffic:
    """Requests for so long: at the asked rate, or of so many clients, who begin at different moments of the warm-up."""
    generator = np.random.default_rng(SEED)
    if asked.load == "rate":
        arrivals = poisson(generator, asked.amount, math.ceil(1.2 * asked.amount * seconds + 50), asked.variability)
        arrivals, until = arrivals[arrivals < seconds], 0.0
    else:
        arrivals, until = np.sort(generator.uniform(0, _WARM_UP * seconds / 2, int(asked.amount))), seconds
    sizes = generator.exponential(1.0, _DRAWN) if spread else np.ones(1)
    return Traffic(arrivals, sizes, _decode_steps(asked, output, generator), until)


def _decode_steps(asked: Asked, output: float, generator: np.random.Generator) -> Array:
    """Decode steps of answers after the first token: one a token, or as many as it takes when drafted tokens are accepted by
    chance, one after another until the first that is not. Of mean lengths that are not whole, a mix of both neighbours."""
    count = 1 if output.is_integer() and asked.speculation is None else _DRAWN
    tokens = np.floor(output - 1 + (0.0 if count == 1 else generator.uniform(0, 1, count))).astype(int) * np.ones(count, int)
    if asked.speculation is None:
        return tokens
    longest = int(tokens.max(initial=1))
    tokens = tokens[: max(4_000_000 // longest, 100)]  # answers are drawn token by token
    accepted = generator.geometric(1 - asked.speculation.acceptance, (len(tokens), longest))
    gained = np.cumsum(np.minimum(accepted, asked.speculation.tokens + 1), axis=1)
    return np.where(tokens > 0, 1 + np.sum(gained < tokens[:, None], axis=1), 0)


def _together(asked: Asked, known: Calibration, seconds: float, progress: Callable[[str], None]) -> Outcome:
    """Replicas that read prompts and decode."""
    at = loaded(asked, known)
    d, c, stages = at.deployment, at.deployment.constants, asked.pool.stages
    slots = int(at.slots)
    most = max(int(np.max(serving.prompts_per_step(at.steps))), 1)
    decode, prompt, alone = _step_times(at.steps, slots, min(most, slots))
    interference = float(np.max(c.interference))

    def step(decoding: int, prompts: float) -> float:
        m = int(prompts)
        if not decoding:
            return float(alone[m - 1])
        return float(decode[decoding - 1]) + (interference * m * float(prompt[decoding - 1, m - 1]) if m else 0.0)

    own = float(np.max((serving.prompt_time(d, 1.0) + c.prefill_launch).m_as("s")))
    engine = Engine(step, slots, most, 1, float(c.first_token_fixed.m_as("s")), (stages - 1) * own)
    traffic = _traffic(asked, seconds, float(d.work.output), False)
    return simulate(traffic, engine, _telling(progress, seconds))


def _step_times(d: serving.Deployment, slots: int, prompts: int) -> tuple[Array, Array, Array]:
    """(decode step of 1, 2, ... sequences; what each of 1, 2, ... prompts adds to it; a step that only reads them) [s].

    `serving.busy_step` at batches one eighth apart, all up to 16, and linear in between.
    """
    many, few = _grid(slots), _grid(prompts)
    sequences, together = (grid.reshape(shape) for grid, shape in ((many, (-1, 1, 1)), (few, (1, -1, 1))))
    busy = serving.busy_step(d, sequences, together)
    decode = np.broadcast_to(busy.decode.m_as("s"), (len(many), len(few), 1))[:, 0, 0]
    added = np.broadcast_to(busy.prompt.m_as("s"), (len(many), len(few), 1))[..., 0]
    launches = float(np.max((d.layouts.pipeline_parallel * serving.fixed_time(d) + d.constants.prefill_launch).m_as("s")))
    alone = launches + np.broadcast_to(serving.prompt_time(d, few.reshape(-1, 1)).m_as("s"), (len(few), 1))[:, 0]
    every, each = np.arange(1.0, slots + 1), np.arange(1.0, prompts + 1)
    across = np.array([np.interp(each, few, row) for row in added])
    table = np.array([np.interp(every, many, column) for column in across.T]).T
    return np.interp(every, many, decode), table, np.interp(each, few, alone)


def _grid(most: int) -> Array:
    """1, 2, ... 16 and then steps of an eighth, up to `most`."""
    found = [1]
    while found[-1] < most:
        found.append(min(found[-1] + max(found[-1] // 8, 1), most))
    return np.array(found, float)


def _apart(asked: Asked, known: Calibration, seconds: float, progress: Callable[[str], None]) -> Outcome:
    """Replicas that read prompts, each held until the cache was sent, beside replicas that decode."""
    assert asked.prefill is not None
    pools = serving_apart.pools(asked, known)
    many = _grid(pools.slots)
    steps = serving_apart.pools(asked, known, many).decoder.decode_step.m_as("s")
    decode = np.interp(np.arange(1.0, pools.slots + 1), many, np.broadcast_to(steps, many.shape))
    held = float(np.max((pools.reader.prefill_time + pools.transfer).m_as("s")))
    delay = 2 * float(np.max(pools.reader.dispatch.m_as("s")))
    engine = Engine(lambda k, _: float(decode[k - 1]), pools.slots, replicas=asked.pool.replicas, delay=delay)
    traffic = _traffic(asked, seconds, float(asked.traffic.output.m_as("token")), True)
    readers = asked.prefill.replicas * asked.prefill.stages
    return simulate_apart(traffic, readers, held, 0.0, engine, _telling(progress, seconds))


def _telling(progress: Callable[[str], None], seconds: float) -> Callable[[float], None]:
    return lambda now: progress(f"simulated {now:,.0f} of {seconds:,.0f} s")
