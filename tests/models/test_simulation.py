"""Continuous batching simulated event by event: by hand, against queues whose answer is known, and against Little's law."""

from dataclasses import replace

import numpy as np
import pytest

from models import fleet
from models.calibration import Calibration, stored_calibration
from models.replica_file import ReplicaError
from models.replica_simulation import simulate_replica
from models.serving_replica import evaluate_replica
from models.simulation import Engine, Traffic, poisson, simulate, simulate_apart
from zoo.units import Q

ASKED = {"model": "llama-3.1-70b", "chip": "h100-sxm", "tp": 4, "precision": "fp8", "tokens": {"input": 1000, "output": 250}}
APART = {key: value for key, value in ASKED.items() if key != "tp"} | {
    "prefill": {"tp": 2, "replicas": 2}, "decode": {"tp": 4, "replicas": 1}, "rate": 8,
}  # fmt: skip


def test_two_requests_by_hand() -> None:
    """A step takes 1 s for each sequence that decodes and 10 s for each prompt, of which it reads one; answers of three tokens.

    0 to 10: the first prompt. The second came at 1: 10 to 21, beside the first's second token. 21 to 23: both decode, which
    ends the first. 23 to 24: the second's third token.
    """
    engine = Engine(lambda k, prompts: k + 10 * prompts, slots=4)
    seen = simulate(Traffic(np.array([0.0, 1.0]), steps=np.array([2])), engine)
    assert seen.ttft.tolist() == [10, 20] and seen.last.tolist() == [23, 24]
    assert seen.between_steps.tolist() == [6.5, 1.5]


def test_apart_by_hand() -> None:
    """One reader of 10 s a prompt, 2 s to send a cache, steps of 1 s: at the decoder at 12 and 22."""
    engine = Engine(lambda k, _: float(k), slots=4)
    seen = simulate_apart(Traffic(np.array([0.0, 1.0]), steps=np.array([2])), 1, 10.0, 2.0, engine)
    assert seen.first.tolist() == [13, 23] and seen.last.tolist() == [15, 25]


def test_prompts_alone_are_an_m_d_1_queue() -> None:
    """Answers of one token, one prompt a step: Pollaczek-Khinchine's wait of steady service."""
    arrivals = poisson(np.random.default_rng(1), 0.7, 60_000)
    seen = simulate(Traffic(arrivals), Engine(lambda k, prompts: prompts, slots=10))
    expected = fleet.m_d_1_wait(Q(0.7, "1/s"), Q(1.0, "s")).m_as("s")
    assert seen.ttft.mean() - 1 == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("clients", [3, 8, 20])
def test_clients_of_a_closed_loop_obey_littles_law_and_slots(clients: int) -> None:
    """N = X x time in the system; of eight slots no more than eight decode, so that others wait."""
    most = []

    def step(decoding: int, prompts: float) -> float:
        most.append(decoding)
        return 0.01 + 0.001 * decoding + 0.02 * prompts

    starts = np.random.default_rng(1).uniform(0, 20, clients)
    seen = simulate(Traffic(starts, steps=np.array([99]), until=1000.0), Engine(step, slots=8, prompts=4))
    inside = seen.sent_between(100, 900)
    rate = np.sum((seen.last >= 100) & (seen.last < 900)) / 800
    assert rate * (inside.last - inside.sent).mean() == pytest.approx(clients, rel=0.02)
    assert max(most) <= 8


# ---------------------------------------------------------------------------------------- a replica's laws beside it


def plain_waits() -> Calibration:
    """The stored constants, but an engine that waits as the simulated one does: for half of the step in progress and its own, for
    the prompts in front, and with nobody sent together."""
    waits = {"step_wait": 1.5, "queue_factor": 1.0, "prompt_wait_random": 1e-6}
    known = stored_calibration()
    records = tuple(replace(r, value=waits[r.constant]) if r.constant in waits else r for r in known.records)
    return replace(known, records=records)


@pytest.mark.parametrize(
    "asked",
    [
        {**ASKED, "rate": 8}, {**ASKED, "concurrency": 1}, {**ASKED, "concurrency": 64},
        {**ASKED, "rate": 6, "speculative": {"draft": "llama-3.2-1b", "acceptance": 0.7, "tokens": 4}}, APART,
        {**APART, "rate": None, "concurrency": 16},
    ],
)  # fmt: skip
def test_laws_are_those_of_the_simulation(asked: dict) -> None:
    """TPOT and throughput within 5 %, first tokens within 15 %, where both wait for the same."""
    known = plain_waits()
    answer = evaluate_replica(asked, calibration=known)
    found = simulate_replica(asked, answer, 200.0, calibration=known)
    rows = {(row["what"], row["at"]): row for row in found["rows"]}
    assert abs(rows["tpot_ms", "mean"]["difference"]) < 0.05
    assert abs(rows["output_tokens_per_s", "mean"]["difference"]) < 0.05
    assert abs(rows["ttft_ms", "mean"]["difference"]) < 0.15
    for row in found["rows"]:
        if row["law"] is not None:
            assert row["difference"] == pytest.approx(row["law"] / row["simulated"] - 1)
    assert rows["tpot_ms", "p99"]["law"] == (answer["percentiles_ms"]["tpot"]["p99"] if asked.get("rate") else None)
    assert simulate_replica(asked, answer, 200.0, calibration=known) == found, "the same random numbers"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch": 8}, "a static batch has no queue"), ({"rate": 500}, "the queue grows for ever"),
        ({"rate": 1, "tp": 1, "precision": "bf16"}, "does not fit"), ({"rate": 0.0001}, "no request in the middle of 200 s"),
    ],
)  # fmt: skip
def test_what_has_no_queue_is_not_simulated(change: dict, reason: str) -> None:
    asked = {**ASKED, **change}
    with pytest.raises(ReplicaError, match=f"--simulate: .*{reason}"):
        simulate_replica(asked, evaluate_replica(asked), 200.0)
