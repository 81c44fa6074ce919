"""One law for means, percentiles and largest rate of a replica, in a closed loop and in an open one.

Against Little's law, numbers to check with a pencil, and continuous batching simulated event by event.
"""

import re
from dataclasses import replace

import numpy as np
import pytest

from models import serving, serving_rows
from models.calibration import serving_constants, serving_measurements
from models.serving_replica import evaluate_replica
from models.simulation import Engine, Traffic, poisson, simulate
from zoo.catalog import load
from zoo.units import Q

CATALOG = load()
H100 = CATALOG.find("chips", "h100-sxm")
LLAMA = CATALOG.find("models", "llama-3.1-70b")
ASKED = {"model": "llama-3.1-70b", "chip": "h100-sxm", "tp": 4, "precision": "fp8", "tokens": {"input": 1000, "output": 250}}


def deployment(prompt: float = 1000.0, output: float = 250.0, **changes) -> serving.Deployment:  # type: ignore[no-untyped-def]
    c = replace(serving_constants(H100), **changes)
    one = np.ones(1)
    layouts = serving.Layouts(
        1.0 * one * Q(1.0, "byte"), 2.0 * one * Q(1.0, "byte"), H100.peak["fp8"] * one, c.compute_efficiency["fp8"] * one,
        4 * one, one, one, one,
    )  # fmt: skip
    links = serving.Links(H100.link_bandwidth, Q(0.0, "s"), Q(50.0, "GB/s"), Q(0.0, "s"))
    traffic = serving.Traffic(Q(prompt, "token"), Q(output, "token"))
    work = serving.work_of(LLAMA, traffic, layouts.kv_bytes)
    return serving.Deployment(work, layouts, serving.device_of(H100), links, c)


def driven(slots: float, concurrency: float = 1.0, rate: float = 0.0) -> serving.Load:
    one, no = np.ones(1), np.zeros(1, bool)
    return serving.Load(
        concurrency * one, rate * one, np.inf * one, one, slots * one, one, no, no, no, no, no, no
    )  # fmt: skip


def seconds(quantity) -> float:  # type: ignore[no-untyped-def]
    return float(quantity.m_as("s")[0])


# ---------------------------------------------------------------------------------------------------- the closed loop


@pytest.mark.parametrize("output", [1, 2, 16, 250])
@pytest.mark.parametrize("population", [1, 7, 64, 200, 2000])
def test_littles_law_holds_and_no_slot_serves_two(population: float, output: int) -> None:
    """N = X (TTFT + (O - 1) TPOT), and X is at most slots over the time that a slot is held."""
    answer = evaluate_replica({**ASKED, "tokens": {"input": 1000, "output": output}, "concurrency": population})
    tpot = answer["tpot_ms"]["value"] if output > 1 else 0.0
    rate = answer["output_tokens_per_s"]["value"] / output
    assert rate * (answer["ttft_ms"]["value"] + (output - 1) * tpot) / 1e3 == pytest.approx(population, rel=1e-9)
    assert rate <= answer["largest_rate_per_s"] * (1 + 1e-9)
    assert 1 <= answer["batch"] <= max(answer["largest_batch"], 1)
    assert (answer["tpot_ms"] is None) == (answer["tpot_parts_ms"] is None) == (output == 1)


def test_beyond_the_slots_only_the_wait_grows() -> None:
    """64 slots, 500 and 1,000 requests: the rate is that of 64 slots over the time that one is held, and 500 more wait 500/X."""
    d = deployment()
    held = seconds(serving.slot_time(d, 64.0, serving.full_step(d, 64.0)))
    few, many = (serving.closed_loop(d, driven(64.0, population)) for population in (500.0, 1000.0))
    assert seconds(few.tpot) == pytest.approx(seconds(many.tpot))
    assert seconds(few.tpot) <= seconds(serving.full_token_time(d, 64.0)) * (1 + 1e-9)
    for population, latency in ((500, few), (1000, many)):
        assert population / (seconds(latency.ttft) + 249 * seconds(latency.tpot)) == pytest.approx(64 / held)
    assert seconds(many.ttft - few.ttft) == pytest.approx(500 * held / 64, rel=1e-2)
    assert seconds(many.waits["slot"]) > 0.9 * seconds(many.ttft)


def test_a_slot_is_held_for_as_many_steps_as_there_are_tokens() -> None:
    """Four slots, answers of two tokens: a step reads two prompts, and 1 + 3 x 1/2 = 2.5 sequences decode, as one of them sees.

    Two steps of 2.5 sequences, and the four prompts that are read in them: they delay by phi in the step that decodes, and in the
    step that reads the sequence's own prompt by what they take alone.
    """
    d = deployment(output=2.0, interference=1.1)
    step = serving.busy_step(d, 2.5, 2.0)
    by_hand = 2 * seconds(step.decode) + (1.1 + 1.0) / 2 * 4 * seconds(step.prompt)
    assert seconds(serving.slot_time(d, 4.0, serving.full_step(d, 4.0))) == pytest.approx(by_hand)
    assert float(serving.capacity(d, 4.0).m_as("1/s")[0]) == pytest.approx(4 / by_hand)


def test_answers_of_one_token_only_queue_for_their_prompts() -> None:
    """Each of ten requests waits for the nine others and itself, and for no step that decodes; alone it waits for itself."""
    d = deployment(output=1.0, interference=1.0, first_token_fixed=Q(0.0, "s"))
    own = seconds(serving.prompt_time(d, 1.0)) + float(d.constants.prefill_launch.m_as("s"))
    launches = seconds(serving.fixed_time(d))
    ten, alone = (serving.closed_loop(d, driven(100.0, population)) for population in (10.0, 1.0))
    assert seconds(alone.ttft) == pytest.approx(own + launches, rel=1e-2)
    assert seconds(ten.ttft) == pytest.approx(10 * own + launches, rel=0.05)
    assert seconds(ten.waits["steps in progress"]) == 0


def test_answers_of_one_token_have_one_capacity() -> None:
    """Open loop, closed loop and static batches read prompts in the same steps: nothing decodes that they could disturb."""
    asked = {**ASKED, "tokens": {"input": 1000, "output": 1}}
    rates = [
        evaluate_replica({**asked, **load_})["output_tokens_per_s"]["value"] for load_ in ({"concurrency": 500}, {"batch": 500})
    ]
    largest = evaluate_replica({**asked, "rate": 5})["largest_rate_per_s"]
    assert rates == [pytest.approx(largest, rel=1e-3), pytest.approx(largest, rel=0.02)]


def test_a_static_batch_beyond_the_slots_runs_in_waves() -> None:
    """Five requests on two slots: two waves of two and one of one, which start at 0, t and 2 t."""
    d = deployment()
    load_ = replace(driven(2.0, 5.0), static=np.ones(1, bool))
    two, one = (seconds(serving.static_time(d, n * np.ones(1))) for n in (2.0, 1.0))
    assert float(serving.static_throughput(d, load_).m_as("token/s")[0]) == pytest.approx(5 * 250 / (2 * two + one))
    latency = serving.closed_loop(d, load_)
    read = seconds(serving.reading_time(d, 2.0 * np.ones(1)) + serving.fixed_time(d))
    assert seconds(latency.ttft) == pytest.approx(read + (2 * two + 2 * two) / 5)
    assert seconds(latency.tpot) == pytest.approx(seconds(serving.busy_step(d, 2.0, 1.0).decode))


def test_prompts_are_read_in_as_many_steps_as_the_budget_asks_for() -> None:
    """Sixteen prompts of 1,000 tokens and 8,192 tokens a step: 16 / 8.192 steps of 8.192 prompts each, and as many launches."""
    d = deployment()
    step = seconds(serving.prompt_time(d, 8.192 * np.ones(1)) + d.constants.prefill_launch)
    assert seconds(serving.reading_time(d, 16.0 * np.ones(1))) == pytest.approx(16 / 8.192 * step)


def test_one_request_alone_decodes_alone() -> None:
    """TPOT is the plain step of one sequence, and its first token waits for nothing but itself."""
    d = deployment()
    latency = serving.closed_loop(d, driven(64.0, 1.0))
    assert seconds(latency.tpot) == pytest.approx(seconds(serving.busy_step(d, 1.0, 1.0).decode))
    assert {name for name, part in latency.waits.items() if seconds(part) > 1e-9} == {
        "client and scheduler", "launches", "own prompt"
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------- drafted tokens

DRAFT = {"draft": "llama-3.2-1b", "acceptance": 0.7, "tokens": 4}


def test_one_request_alone_gets_its_tokens_step_by_step() -> None:
    """A step of four drafted and five verified tokens yields 2.7731 (Leviathan et al. 2023); the plan's replica has that step."""
    small = CATALOG.find("models", "llama-3.2-1b")
    model, traffic = serving.drafted(LLAMA, small), serving.Traffic(Q(1000.0, "token"), Q(250.0, "token"))
    d = deployment()
    draft = serving.draft_of(model, traffic, d.layouts.kv_bytes, np.array([4.0]), 0.7, 0.0)
    planned = serving.replicas(replace(d, draft=draft), 1.0, 1.0)
    answer = evaluate_replica({**ASKED, "concurrency": 1, "speculative": DRAFT})
    assert answer["tokens_per_step"] == pytest.approx(2.7731)
    assert answer["tpot_ms"]["value"] == pytest.approx(float(planned.decode_step.m_as("ms")[0]) / 2.7731, rel=1e-4)
    own = answer["ttft_parts_ms"]["own prompt"]
    assert own == pytest.approx(float(planned.prefill_time.m_as("ms")[0])), "the draft reads the prompt too"
    assert answer["largest_batch"] == planned.largest_batch[0]
    assert answer["memory_gib"]["weights"] == pytest.approx(float(planned.weights.m_as("GiB")[0]))
    assert answer["tpot_ms"]["high"] / answer["tpot_ms"]["value"] == pytest.approx(
        serving.slowness(LLAMA, H100, d.constants, unmeasured=True)[0]
    )


@pytest.mark.parametrize("load_", [{"concurrency": 32}, {"rate": 4}])
@pytest.mark.parametrize("draft", [DRAFT, {"cost": "5 %", "acceptance": 0.7, "tokens": 2}, {**DRAFT, "draft": "ngram"}])
def test_laws_hold_for_steps_of_several_tokens(load_: dict, draft: dict) -> None:
    """Little's law for requests, and parts that sum to their value."""
    answer = evaluate_replica({**ASKED, **load_, "speculative": draft})
    for what in ("ttft", "tpot"):
        assert sum(answer[f"{what}_parts_ms"].values()) == pytest.approx(answer[f"{what}_ms"]["value"], rel=1e-6)
    lasts = (answer["ttft_ms"]["value"] + 249 * answer["tpot_ms"]["value"]) / 1e3
    if "concurrency" in load_:
        assert answer["output_tokens_per_s"]["value"] / 250 * lasts == pytest.approx(32, rel=1e-9)
    else:
        assert answer["batch"] == pytest.approx(1 + 4 * 249 * answer["tpot_ms"]["value"] / 1e3, rel=1e-3)
        assert answer["percentiles_ms"]["tpot"]["p50"] < answer["percentiles_ms"]["tpot"]["p99"]


def test_no_drafted_token_changes_nothing() -> None:
    plain, none = (evaluate_replica({**ASKED, "rate": 4, **more}) for more in ({}, {"speculative": {**DRAFT, "tokens": 0}}))
    assert plain == none


# ------------------------------------------------------------------------------------------ prefill and decode apart

APART = {key: value for key, value in ASKED.items() if key != "tp"} | {
    "prefill": {"tp": 2, "replicas": 2}, "decode": {"tp": 4, "replicas": 1, "batch": 256}, "rate": 6.0,
}  # fmt: skip


def test_prefill_and_decode_apart_by_hand() -> None:
    """Two readers: an M/M/2 queue, of which C = 2 rho^2 / (1 + rho) wait, for S / (2 (1 - rho)) on average.

    The cache of 1,008 tokens of 80 layers x 2 x 8 heads x 128 x 2 bytes lies on two chips and is sent over 0.42 of 450 GB/s.
    """
    answer = evaluate_replica(APART)
    parts, sent = answer["ttft_parts_ms"], answer["kv_transfer"]["ms"]
    bus = float(serving_constants(H100).bus_bandwidth)
    assert sent == pytest.approx(1008 * 80 * 2 * 8 * 128 * 2 / 2 / (bus * 450e9) * 1e3)
    service = (parts["own prompt"] + sent) / 1e3
    rho = 6 * service / 2
    waiting = 2 * rho**2 / (1 + rho)
    assert parts["prompts of others"] == pytest.approx(waiting * service / (2 * (1 - rho)) * 1e3)
    token = answer["tpot_ms"]["value"]
    assert parts["own step"] == pytest.approx(token), "and half of one in progress, if another sequence decodes"
    assert parts["step in progress"] == pytest.approx(token / 2 * (1 - np.exp(-6 * 250 * token / 1e3)), rel=1e-6)
    for what in ("ttft", "tpot"):
        assert sum(answer[f"{what}_parts_ms"].values()) == pytest.approx(answer[f"{what}_ms"]["value"], rel=1e-6)
    assert answer["batch"] == pytest.approx(6 * (sent + 251 * token) / 1e3, rel=1e-3), "Little's law: hand-over, steps, one more"
    assert answer["largest_rate_per_s"] == pytest.approx(2 / service, rel=1e-9) and answer["chips"] == 8


@pytest.mark.parametrize("population", [1, 16, 400, 2000])
@pytest.mark.parametrize("slots", [32, 256])
def test_littles_law_holds_apart_too(population: int, slots: int) -> None:
    asked = {**APART, "rate": None, "concurrency": population, "decode": {"tp": 4, "replicas": 1, "batch": slots}}
    answer = evaluate_replica(asked)
    rate = answer["output_tokens_per_s"]["value"] / 250
    assert rate * (answer["ttft_ms"]["value"] + 249 * answer["tpot_ms"]["value"]) / 1e3 == pytest.approx(population, rel=1e-6)
    assert rate <= answer["largest_rate_per_s"] * (1 + 1e-9) and answer["percentiles_ms"] is None
    assert sum(answer["ttft_parts_ms"].values()) == pytest.approx(answer["ttft_ms"]["value"])


def test_measured_runs_of_pools_apart_lie_in_the_interval() -> None:
    """Six runs of Kimi-K2.5 on GB200, whose notes say how many workers of which layout read prompts and decode.

    Found: TPOT 4 to 23 % too small; TTFT in the interval but for an outlier of 3 s and one a fifth above its end.
    """
    inside = []
    for row in serving_rows.read_rows(serving_measurements()):
        said = re.search(r"prefill (\d+) workers tp(\d+) dp(\d+).*?decode (\d+) workers tp(\d+) dp1", row["note"])
        if said is None:
            continue
        readers, tensor, ranks, decoders, decoding = map(int, said.groups())
        answer = evaluate_replica(
            {"model": "kimi-k2.5", "chip": "gb200", "precision": "fp4", "kv_precision": "fp8",
             "engine": serving_rows.engine_of(row), "tokens": {"input": int(row["isl"]), "output": int(row["osl"])},
             "prefill": {"tp": tensor, "ep": tensor * ranks, "replicas": readers},
             "decode": {"tp": decoding, "replicas": decoders}, "concurrency": int(row["concurrency_or_batch"])}
        )  # fmt: skip
        for what in ("tpot_ms", "ttft_ms"):
            inside.append(answer[what]["low"] <= float(row[what]) <= answer[what]["high"])
        assert abs(answer["tpot_ms"]["value"] / float(row["tpot_ms"]) - 1) < 0.25
    assert len(inside) == 12 and sum(inside) >= 10 and answer["fits"]


def test_more_of_both_kinds_serve_more_and_overload_is_said() -> None:
    one = evaluate_replica(APART)
    both = evaluate_replica({**APART, "prefill": {"tp": 2, "replicas": 4}, "decode": {"tp": 4, "replicas": 2, "batch": 256}})
    assert both["largest_rate_per_s"] == pytest.approx(2 * one["largest_rate_per_s"])
    assert both["kv_transfer"] == one["kv_transfer"], "units of eight chips each, in one domain"
    assert both["ttft_ms"]["value"] < one["ttft_ms"]["value"]
    over = evaluate_replica({**APART, "rate": one["largest_rate_per_s"]})
    assert over["overloaded"] and over["ttft_ms"] is None and "as fast as prompts are read" in " ".join(over["notes"])


# ------------------------------------------------------------------------------------------------------ the open loop


def test_overloaded_exactly_where_there_is_no_steady_state() -> None:
    largest = evaluate_replica({**ASKED, "rate": 1.0})["largest_rate_per_s"]
    below, above = (evaluate_replica({**ASKED, "rate": share * largest}) for share in (0.999, 1.0))
    assert not below["overloaded"] and above["overloaded"]
    assert all(np.isfinite(v) for row in below["percentiles_ms"].values() for v in row.values())
    assert above["ttft_ms"] is None and above["percentiles_ms"] is None and "overloaded" in " ".join(above["notes"])
    assert above["output_tokens_per_s"]["value"] == pytest.approx(250 * largest)


def test_both_loops_have_the_same_largest_rate() -> None:
    """A closed loop far above its slots serves what an open one can bear, a full one hardly less."""
    largest = evaluate_replica({**ASKED, "rate": 1.0})["largest_rate_per_s"]
    slots = evaluate_replica({**ASKED, "rate": 1.0})["largest_batch"]
    full, over = (evaluate_replica({**ASKED, "concurrency": n})["output_tokens_per_s"]["value"] / 250 for n in (slots, 3 * slots))
    assert over == pytest.approx(largest)
    assert 0.9 * largest < full <= largest


@pytest.mark.parametrize("output", [2, 250])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_the_mean_lies_among_the_percentiles_and_bursts_move_all_of_them(share: float, output: int) -> None:
    asked = {**ASKED, "tokens": {"input": 1000, "output": output}}
    rate = share * evaluate_replica({**asked, "rate": 1.0})["largest_rate_per_s"]
    plain, bursty = (evaluate_replica({**asked, "rate": rate, "arrivals": {"cv": cv}}) for cv in (1.0, 2.0))
    for what in ("ttft", "tpot"):
        p50, p90, p99 = plain["percentiles_ms"][what].values()
        mean = plain[f"{what}_ms"]["value"]
        if what == "tpot" and output == 2 and share == 0.9:  # every step reads what it can, and all requests see the same
            assert p50 == mean == p99 == bursty["tpot_ms"]["value"]
            continue
        assert p50 <= mean * (1 + 1e-6) and mean < p99 and p50 < p90 < p99 * (1 + 1e-9)
        assert bursty[f"{what}_ms"]["value"] > mean and bursty[f"{what}_ms"]["high"] > plain[f"{what}_ms"]["high"]
        assert bursty["percentiles_ms"][what]["p99"] >= p99


@pytest.mark.parametrize("load_", [{"concurrency": 64}, {"concurrency": 2000}, {"rate": 8}, {"rate": 12}, {"batch": 32}])
def test_the_parts_sum_to_the_value(load_: dict) -> None:
    answer = evaluate_replica({**ASKED, **load_})
    for what in ("ttft", "tpot"):
        assert sum(answer[f"{what}_parts_ms"].values()) == pytest.approx(answer[f"{what}_ms"]["value"], rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.97, 0.999])
def test_tpot_near_saturation_lies_between_one_sequence_and_all_slots_busy(share: float) -> None:
    """However bursty arrivals are; where all slots are always busy, every request has the same TPOT."""
    d, slots, means = deployment(), 256.0, []
    rate = share * float(serving.capacity(d, slots).m_as("1/s")[0])
    alone, full = seconds(serving.busy_step(d, np.ones(1), 1.0).decode), seconds(serving.full_token_time(d, slots))
    for variability in (1.0, 16.0, 400.0):
        load_ = driven(slots, rate=rate)
        latency = serving.open_loop(d, load_, variability)
        p50, p90, p99 = (seconds(serving.token_percentile(d, load_, latency, at, variability)) for at in (0.5, 0.9, 0.99))
        means.append(seconds(latency.tpot))
        assert alone < means[-1] <= full * (1 + 1e-9)
        assert alone < p50 < p90 < p99 <= full or p50 == p90 == p99 == pytest.approx(full)
    assert means == sorted(means)


@pytest.mark.parametrize("load_", [0.5, 0.9, 1.0, 1.1, 2.0])
@pytest.mark.parametrize("customers", [50, 500])
def test_the_wait_in_a_finite_run_against_simulation(load_: float, customers: int) -> None:
    """Random arrivals to a server that takes one unit each, from an empty start: the backlog, and what chance adds to it."""
    gaps = np.random.default_rng(1).exponential(1 / load_, (300, customers))
    arrivals, served = np.cumsum(gaps, axis=1), np.arange(customers)
    waits = served + np.maximum.accumulate(arrivals - served, axis=1) - arrivals
    backlog = customers / 2 * max(1 - 1 / load_, 0.0)
    found = backlog + float(serving.fluctuation(np.array(load_), np.array(customers)))
    assert found == pytest.approx(waits.mean(), rel=0.34, abs=0.5)


def test_sequences_in_flight_obey_littles_law() -> None:
    """A sequence that decodes sees rate x (O - 1) TPOT others on average, and itself."""
    answer = evaluate_replica({**ASKED, "rate": 6})
    assert answer["batch"] == pytest.approx(1 + 6 * 249 * answer["tpot_ms"]["value"] / 1e3, rel=1e-3)


def test_a_request_longer_than_the_models_context_is_said() -> None:
    answer = evaluate_replica({**ASKED, "tokens": {"input": 131000, "output": 250}, "concurrency": 1})
    assert any("131250 tokens exceed the context of llama-3.1-70b, 131072" in note for note in answer["notes"])


@pytest.mark.parametrize(
    ("prompt", "output", "share", "variability"),
    [(1000, 250, 0.3, 1.0), (1000, 250, 0.7, 1.0), (4000, 500, 0.6, 1.0), (1000, 16, 0.6, 1.0), (1000, 250, 0.6, 4.0)],
)
def test_one_replica_against_simulation(prompt: int, output: int, share: float, variability: float) -> None:
    """Means and percentiles of the open loop against continuous batching simulated event by event, with the wait for steps that
    the simulation has (1.5: half of the one in progress, and its own).

    Found: means of TPOT within 1 %, of TTFT within 12 % (long prompts), percentiles of TPOT within 9 %, of TTFT within 18 %;
    bursts (cv^2 = 4) are met less well, TTFT down to 55 % below (p50) and TPOT to 23 % below.
    """
    d = deployment(float(prompt), float(output), step_wait=1.5, queue_factor=1.0)
    slots = 256.0
    rate = share * float(serving.capacity(d, slots).m_as("1/s")[0])
    load_ = driven(slots, rate=rate)
    latency = serving.open_loop(d, load_, variability)
    batches = np.arange(1.0, slots + 1)
    decode = np.array([seconds(serving.busy_step(d, b, 1.0).decode) for b in batches[::16]])
    prompts = float(np.clip(rate * seconds(latency.tpot), 1, 8))
    cost = float(d.constants.interference) * seconds(serving.busy_step(d, latency.batch, prompts).prompt)
    delay = seconds(latency.waits["client and scheduler"] + latency.waits["launches"])
    engine = Engine(
        lambda k, read: (float(np.interp(k, batches[::16], decode)) if k else 0.0) + cost * read, int(slots), 8192 // prompt,
        delay=delay,
    )  # fmt: skip
    arrivals = poisson(np.random.default_rng(1), rate, 1500, variability)
    seen = simulate(Traffic(arrivals, steps=np.array([output - 1])), engine)
    seen = seen.sent_between(arrivals[150], arrivals[-150])
    low, high = (0.4, 1.6) if variability > 1 else (0.75, 1.25)
    assert low < seconds(latency.ttft) / seen.ttft.mean() < high
    assert seconds(latency.tpot) / seen.between_steps.mean() == pytest.approx(1, rel=0.15 if variability > 1 else 0.05)
    for at in (0.5, 0.9, 0.99):
        assert low < seconds(serving.first_token_percentile(latency, at)) / np.quantile(seen.ttft, at) < high
        tpot = seconds(serving.token_percentile(d, load_, latency, at, variability))
        assert low < tpot / np.quantile(seen.between_steps, at) < high
