"""Measurements: reading rows and benchmark files, validation that never crashes, refitting, and one replica asked directly."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import serving_files, serving_fit, serving_rows
from models.calibration import (
    REGIMES,
    CalibrationError,
    calibration_from,
    calibration_to,
    serving_measurements,
    stored_calibration,
)
from models.serving_replica import ReplicaError, evaluate_replica
from zoo.catalog import load

ROWS = serving_rows.read_rows(serving_measurements())
REPLICA = {
    "kind": "replica", "model": "llama-3.1-70b", "chip": "h100-sxm", "tp": 4, "precision": "fp8",
    "tokens": {"input": 1000, "output": 250}, "concurrency": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def report() -> dict:
    return serving_fit.validate_serving(serving_measurements())


def test_stored_constants_meet_their_bars_in_sample(report) -> None:  # type: ignore[no-untyped-def]
    """In-sample errors of the stored constants; the errors on rows that were not fitted stand in serving_fit.md."""
    bars = {
        "closed_tpot": 0.13,
        "closed_ttft": 0.24,
        "open_tpot": 0.07,
        "open_ttft": 0.19,
        "static_throughput": 0.11,
        "max_throughput": 0.125,
    }
    assert set(report["regimes"]) == set(REGIMES)
    for regime, bar in bars.items():
        assert report["regimes"][regime]["mape"] < bar
        assert report["regimes"][regime]["interval_coverage"] > 0.75


def test_nearly_every_row_is_predicted_and_none_that_ran_is_refused(report) -> None:  # type: ignore[no-untyped-def]
    assert report["predicted"] >= 0.99 * report["rows"]
    assert report["out_of_memory"] <= 0.01 * report["rows"]
    assert set(report) == {
        "rows", "predicted", "meaning", "regimes", "groups", "skipped", "dropped", "predictions", "out_of_memory",
    }  # fmt: skip
    assert set(report["meaning"]) == {"mape", "median_ape", "bias", "interval_coverage"}
    assert all(set(s) == {"id", "reason"} for s in report["skipped"])
    assert all(p["low"] < p["predicted"] < p["high"] for p in report["predictions"])


def test_published_runs_lie_in_their_intervals(report) -> None:  # type: ignore[no-untyped-def]
    """A handful of published runs, one or more of each kind."""
    wanted = {
        "mlperfv5.1-llama2-70b-99-gb200x4-server": {"open_tpot"},
        "trtllm014-online-llama-3.1-8b-h100-sxm-80gb-tp1-467x256-qps16": {"open_tpot"},
        "trtllm017-llama-3.1-70b-a100-sxm-80gb-tp2-1000x1000": {"max_throughput"},
        "trtllm09-llama-2-7b-a100-sxm-80gb-tp1-b256-128x128": {"static_throughput"},
    }
    found = [p for p in report["predictions"] if p["regime"] in wanted.get(p["id"], ())]
    assert len(found) == len(wanted)
    assert all(p["low"] <= p["measured"] <= p["high"] for p in found)


def test_strange_rows_are_skipped_with_a_reason_or_predicted(plain: dict) -> None:
    base = next(row for row in ROWS if serving_rows.targets_of(row).keys() == {"closed_tpot", "closed_ttft"})
    strange = [
        {**base, "id": "chip", "hardware": "Quantum-9000"},
        {
            **base,
            "id": "model",
            "model": "Nobody-13B",
            "params_b": "13",
            "active_params_b": "13",
            "layers": "43",
            "hidden": "5120",
        },
        {**base, "id": "bare", "model": "Nobody-Large", **dict.fromkeys(("params_b", "layers", "hidden", "heads", "vocab"), "")},
        {**base, "id": "moe", "model": "Nobody-MoE", "params_b": "100", "active_params_b": "6", "layers": "", "hidden": ""},
        {**base, "id": "engine", "engine": "SomethingNew 7.1"},
        {**base, "id": "amd", "hardware": "MI355X-288GB"},
        {**base, "id": "tpu", "hardware": "TPU-v6e", "engine": "JetStream"},
        {
            **base,
            "id": "blank",
            **dict.fromkeys(("tp", "pp", "ep", "kv_precision", "isl", "osl", "concurrency_or_batch", "note"), ""),
        },
        {**base, "id": "odd", "tp": "0", "n_accelerators": "0", "isl": "-5", "weight_precision": "fp3"},
        {"id": "short", "model": "Llama-2-7B", "hardware": "H100", "engine": "vllm", "scenario": "online", "tpot_ms": "9"},
        {"id": "empty"},
        plain,
        {**plain, "id": "degrees", "tp": "", "kv_precision": "auto", "weight_precision": "bf16"},
    ]
    report = serving_fit.validate_serving(strange)
    skipped = {s["id"]: s["reason"] for s in report["skipped"]}
    assert skipped.keys() == {"chip", "bare", "blank", "odd", "short", "empty"}
    assert "Quantum-9000" in skipped["chip"] and "params_b" in skipped["bare"]
    assert skipped["blank"] == skipped["short"] == "isl is blank, expected the mean tokens of a prompt"
    found = {p["id"]: p for p in report["predictions"] if p["regime"] == "closed_tpot"}
    width = {name: p["high"] / p["predicted"] for name, p in found.items()}
    assert width["model"] > width["plain"] and not found["plain"]["inferred"] and not found["plain"]["inherited"]
    assert "shape of Nobody-13B, which is not in the catalogue" in found["model"]["inferred"][0]
    assert found["engine"]["inherited"] == [
        "no measurement of engine SomethingNew 7.1: constants of vllm are taken, intervals are wider"
    ]
    assert found["degrees"]["inferred"] == ["tp 4, the least at which the weights fit", "kv_precision bf16"][::-1]


# What is wrong with a cell, and what the reason says: the column, the value, what was expected, the nearest word.
WRONG = [
    ({"weight_precision": "FP88"}, "weight_precision is 'FP88', expected one of .*did you mean 'fp8'"),
    ({"kv_precision": "FFP8"}, "kv_precision is 'FFP8', expected one of .*did you mean 'fp8'"),
    ({"tp": "four"}, "tp is 'four', expected a whole number"), ({"tp": "2.5"}, "tp is '2.5', expected a whole number"),
    ({"tp": "3"}, "tp is 3, which does not divide the 64 heads of llama-3.3-70b"),
    ({"tp": "0"}, "tp is '0'"), ({"tp": "8", "n_accelerators": "1"}, "tp is 8, more than the n_accelerators, 1"),
    ({"pp": "x"}, "pp is 'x'"), ({"ep": "4"}, "ep is 4, but llama-3.3-70b has no experts"),
    ({"isl": "0"}, "isl is '0', expected a positive number"), ({"isl": ""}, "isl is blank"), ({"osl": "many"}, "osl is 'many'"),
    ({"concurrency_or_batch": "0"}, "concurrency_or_batch is '0', expected a positive number, inf"),
    ({"concurrency_or_batch": ""}, "concurrency_or_batch is blank, expected the requests in flight"),
    ({"concurrency_or_batch": "sixty"}, "concurrency_or_batch is 'sixty'"),
    ({"scenario": "onlin"}, "scenario is 'onlin', expected one of online, server, offline, latency; did you mean 'online'"),
    ({"request_rate_qps": "-3"}, "request_rate_qps is '-3'"), ({"statistic": "medin"}, "statistic is 'medin'.*'median'"),
    ({"params_b": "8"}, "params_b is 8, but llama-3.3-70b has 70.6"), ({"layers": "32"}, "layers is 32, but .* has 80"),
    ({"active_params_b": "90"}, "active_params_b is 90"), ({"kv_heads": "7"}, "kv_heads is 7, which does not divide the 64"),
    ({"hardware": "H10O"}, "hardware: unknown chip 'H10O'; did you mean 'h100"), ({"hardware": ""}, "hardware is blank"),
    ({"model": "Llama-9"} | dict.fromkeys(("params_b", "layers", "hidden"), ""), "model: unknown model 'Llama-9'.*params_b"),
]  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> dict:
    """A row of a known model, chip and engine with both latencies of a closed loop and all that they depend on."""
    return {
        "id": "plain", "model": "Llama-3.3-70B", "hardware": "H100-SXM-80GB", "n_accelerators": "4", "tp": "4", "pp": "1",
        "weight_precision": "FP8", "kv_precision": "FP8", "engine": "vllm 0.18.0", "isl": "1000", "osl": "250", "ttft_ms": "100",
        "tpot_ms": "20", "concurrency_or_batch": "16", "scenario": "online", "params_b": "70.6",
    }  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_a_cell_that_makes_no_sense_is_the_reason_why_its_row_is_skipped(plain: dict, change: dict, reason: str) -> None:
    report = serving_fit.validate_serving([{**plain, **change}])
    assert report["predicted"] == 0 and len(report["skipped"]) == 1
    assert re.search(reason, report["skipped"][0]["reason"])


@pytest.mark.parametrize("value", ["-5", "nan", "inf", "0", "fast"])
def test_a_measurement_that_is_none_is_dropped_and_said_so_and_the_other_one_is_predicted(plain: dict, value: str) -> None:
    report = serving_fit.validate_serving([{**plain, "ttft_ms": value}])
    assert [p["regime"] for p in report["predictions"]] == ["closed_tpot"] and not report["skipped"]
    assert report["dropped"] == [{"id": "plain", "reason": f"ttft_ms is {value!r}, expected a positive number"}]
    nothing = serving_fit.validate_serving([{**plain, "ttft_ms": value, "tpot_ms": ""}])
    assert f"ttft_ms is {value!r}" in nothing["skipped"][0]["reason"]


def test_the_source_of_a_row_changes_nothing(report) -> None:  # type: ignore[no-untyped-def]
    """Predictions depend on what ran: not on who published it."""
    anonymous = serving_fit.validate_serving([{**row, "source": "somebody"} for row in ROWS])
    assert [p["predicted"] for p in anonymous["predictions"]] == [p["predicted"] for p in report["predictions"]]


def test_the_batch_of_an_open_loop_is_a_limit_where_a_benchmark_has_a_rate_too(tmp_path: Path) -> None:
    facts = {"hardware": "H100", "tp": "1", "weight_precision": "bf16"}
    row = benchmark(written(tmp_path, {**VLLM, "request_rate": 8.0}), **facts)
    assert (row["request_rate_qps"], row["concurrency_or_batch"]) == ("8", "max_num_seqs=16")


def test_a_mistyped_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    file.write_text("model,hardwear,tpot_ms\n")
    with pytest.raises(ValueError, match=r"bench\.csv:1: missing columns hardware; found hardwear for hardware"):
        serving_rows.read_rows(file)


def test_unusable_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        serving_fit.validate_serving(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="missing columns model, hardware"):
        serving_fit.validate_serving(tmp_path / "bad.csv")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="neither a vLLM benchmark"):
        benchmark(tmp_path / "bad.json")


# What `vllm bench serve --save-result` writes (its per-request lists left out).
VLLM = {
    "date": "20260301-101500", "endpoint_type": "openai", "backend": "openai", "label": None, "num_prompts": 100,
    "model_id": "meta-llama/Llama-3.1-8B-Instruct", "tokenizer_id": "meta-llama/Llama-3.1-8B-Instruct", "request_rate": "inf",
    "burstiness": 1.0, "max_concurrency": 16, "duration": 12.5, "completed": 100, "failed": 0, "total_input_tokens": 100000,
    "total_output_tokens": 20000, "request_throughput": 8.0, "request_goodput": None, "output_throughput": 1600.0,
    "total_token_throughput": 9600.0, "mean_ttft_ms": 60.0, "median_ttft_ms": 55.0, "std_ttft_ms": 20.0, "p99_ttft_ms": 130.0,
    "mean_tpot_ms": 8.0, "median_tpot_ms": 7.9, "std_tpot_ms": 0.4, "p99_tpot_ms": 9.1, "mean_itl_ms": 8.0, "median_itl_ms": 7.5,
    "std_itl_ms": 3.0, "p99_itl_ms": 25.0,
}  # fmt: skip
# AIPerf's profile_export_aiperf.json: figures, telemetry of the devices, the client's settings.
AIPERF = {
    "request_throughput": {"unit": "requests/sec", "avg": 3.9}, "request_latency": {"unit": "ms", "avg": 970.0, "p50": 950.0},
    "time_to_first_token": {"unit": "ms", "avg": 80.0, "p50": 70.0, "p99": 200.0},
    "inter_token_latency": {"unit": "ms", "avg": 9.0, "p50": 8.8},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 390.0},
    "output_sequence_length": {"unit": "tokens", "avg": 100.0}, "benchmark_duration": {"unit": "sec", "avg": 51.0},
    "request_count": {"unit": "requests", "avg": 200.0}, "total_isl": {"unit": "tokens", "avg": 100000.0}, "was_cancelled": False,
    "telemetry_data": {
        "endpoints": {"localhost:9401": {"gpus": {"gpu_0": {"gpu_index": 0, "gpu_name": "NVIDIA H100 80GB HBM3"}}}},
    },
    "input_config": {
        "endpoint": {"model_names": ["meta-llama/Llama-3.1-8B-Instruct"], "type": "chat", "streaming": True},
        "loadgen": {"request_rate": 4.0, "request_rate_mode": "poisson", "request_count": 200},
    },
}  # fmt: skip
# The older GenAI-Perf: numbers as text, nanoseconds, the load as a stimulus.
GENAI_PERF = {
    "time_to_first_token": {"unit": "ns", "avg": "80000000.0", "p99": "200000000"},
    "inter_token_latency": {"unit": "ns", "avg": "9000000.0"},
    "output_token_throughput": {"unit": "tokens per sec", "avg": "390"},
    "output_sequence_length": {"unit": "tokens", "avg": "100"}, "input_sequence_length": {"unit": "tokens", "avg": "500"},
    "input_config": {"model": ["llama-3.1-8b"], "perf_analyzer": {"stimulus": {"concurrency": 4}}, "streaming": True},
}  # fmt: skip


def benchmark(file: Path, **given: str) -> serving_rows.Row:
    """The one run of a benchmark's result."""
    (row,) = serving_files.rows_of(file, given)
    return row


def written(folder: Path, document: dict) -> Path:
    file = folder / "result.json"
    file.write_text(json.dumps(document))
    return file


def test_a_vllm_result(tmp_path: Path) -> None:
    row = benchmark(written(tmp_path, {**VLLM, "hardware": "H100"}), tp="1", weight_precision="bf16")
    assert (row["isl"], row["osl"], row["concurrency_or_batch"], row["request_rate_qps"]) == ("1000", "200", "16", "")
    assert serving_rows.targets_of(row) == {"closed_tpot": 8.0, "closed_ttft": 60.0}
    assert serving_fit.validate_serving([row])["regimes"]["closed_tpot"]["n"] == 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"completed": 0}, "completed is 0: no request"),
        ({"mean_ttft_ms": "abc"}, "mean_ttft_ms is 'abc', expected a number"),
        ({"mean_tpot_ms": [1]}, r"mean_tpot_ms is \[1\], expected a number"),
        ({"request_rate": "fast"}, "request_rate is 'fast', expected a number"),
        ({"output_throughput": float("nan")}, "output_throughput is nan, expected a number"),
    ],
)
def test_a_vllm_result_with_a_figure_that_is_none_is_refused(document: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        benchmark(written(tmp_path, {**VLLM, **document}), hardware="H100", tp="1", weight_precision="bf16")


@pytest.mark.parametrize(
    ("metric", "said"),
    [({"unit": "sek", "avg": 1}, "unit 'sek', expected one of s, .*did you mean 'sec'"), (5, r"is \[5\], expected")],
)
def test_an_aiperf_result_with_a_figure_that_is_none_is_refused(metric: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        benchmark(written(tmp_path, {**AIPERF, "time_to_first_token": metric}), hardware="H100")


def test_runs_that_follow_each_other_in_a_file_are_rows(tmp_path: Path) -> None:
    """vLLM's --append-result and SGLang's --output-file add a line for each run, whatever the file is called."""
    given = {"hardware": "H100", "tp": "1", "weight_precision": "bf16"}
    for name in ("runs.json", "runs.jsonl"):
        (tmp_path / name).write_text("\n".join(json.dumps({**VLLM, "max_concurrency": n}) for n in (16, 32)))
        rows = serving_files.rows_of(tmp_path / name, given)
        assert [(row["id"], row["concurrency_or_batch"]) for row in rows] == [("runs:1", "16"), ("runs:2", "32")]
    (tmp_path / "cut.jsonl").write_text(json.dumps(VLLM) + '\n{"mean_ttft_ms": ')
    with pytest.raises(ValueError, match=r"cut\.jsonl:2: not JSON, expected one object a run"):
        serving_files.rows_of(tmp_path / "cut.jsonl", given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hardware": "H10O"}, "--with: hardware: unknown chip 'H10O'; did you mean 'h100-sxm'"),
        ({"tp": "x"}, "--with: tp is 'x', expected a whole number"), ({"tpp": "2"}, "--with tpp: expected a column .*'tp'"),
        ({"engine": "vlm"}, "--with: engine is 'vlm', .*did you mean 'vllm'"),
        ({"isl": "900"}, "result states isl '1000', --with says '900'"),
        ({"model": "Llama-3.1-70B"}, "states model 'meta-llama/Llama-3.1-8B-Instruct', --with says 'Llama-3.1-70B'"),
    ],
)  # fmt: skip
def test_what_is_given_beside_a_file_makes_sense_and_contradicts_nothing(given: dict, said: str, tmp_path: Path) -> None:
    facts = {"hardware": "H100", "tp": "1", "weight_precision": "bf16", **given}
    with pytest.raises(serving_rows.MeasurementError, match=said):
        serving_files.rows_of(written(tmp_path, VLLM), facts)


def test_what_is_given_fills_empty_cells_and_unknown_names(tmp_path: Path, plain: dict) -> None:
    """Of a CSV without a column of chips; of one with some; and of a benchmark that knows its model by a path alone."""
    file, told = tmp_path / "bench.csv", []
    file.write_text("model,tp,tpot_ms\nLlama-3.1-8B,,9\nLlama-3.1-8B,2,7\n")
    rows = serving_files.rows_of(file, {"hardware": "H100", "tp": "1"}, told.append)
    assert [(row["hardware"], row["tp"]) for row in rows] == [("H100", "1"), ("H100", "2")]
    assert told == [f"{file}: one row keeps its own: row 2 has tp '2', not '1'"]
    stated: list[str] = []
    serving_files.rows_of(file, {"model": "Llama-3.1-8B", "hardware": "H100"}, stated.append)
    assert stated == [f"--with model=Llama-3.1-8B: without effect, every row of {file} states model 'Llama-3.1-8B'"]
    given = {"hardware": "H100", "tp": "1", "model": "Llama-3.1-8B", "weight_precision": "bf16", "engine": "vllm 0.18"}
    row = serving_files.rows_of(written(tmp_path, {**VLLM, "model_id": "/mnt/mine"}), given, told.append)[0]
    assert (row["model"], row["engine"]) == ("Llama-3.1-8B", "vllm 0.18") and "'/mnt/mine' is not known" in told[1]


def test_a_name_that_states_another_size_than_its_row_is_noticed(plain: dict) -> None:
    figures = {"params_b": "8.03", "layers": "32", "hidden": "4096", "heads": "32", "kv_heads": "8"}
    report = serving_fit.validate_serving([{**plain, **figures, "model": name} for name in ("Llama-9-70B", "Llama-9-8B")])
    assert report["predicted"] == 1 and "'Llama-9-70B' says 70" in report["skipped"][0]["reason"]
    shape = {key: value for key, value in figures.items() if key != "params_b"} | {"params_b": ""}
    report = serving_fit.validate_serving([{**plain, **shape, "model": name} for name in ("Llama-9-70B", "Llama-9-8B")])
    assert report["predicted"] == 1 and "make about 6.4 billion" in report["skipped"][0]["reason"]


def test_lengths_of_a_vllm_result_are_not_guessed_from_an_unknown_number_of_requests(tmp_path: Path) -> None:
    unknown = {key: value for key, value in VLLM.items() if key != "completed"}
    with pytest.raises(ValueError, match="does not say isl, osl"):
        benchmark(written(tmp_path, unknown), hardware="H100", tp="1", weight_precision="bf16")


def test_a_vllm_result_of_an_open_loop(tmp_path: Path) -> None:
    """A rate, or every request at once, is an open loop; SGLang's benchmark writes the same keys and its own name."""
    facts = {"hardware": "H100", "tp": "1", "weight_precision": "bf16"}
    rate = benchmark(written(tmp_path, {**VLLM, "request_rate": 8.0, "max_concurrency": None}), **facts)
    at_once = benchmark(written(tmp_path, {**VLLM, "max_concurrency": None, "backend": "sglang"}), **facts)
    assert (rate["request_rate_qps"], at_once["request_rate_qps"]) == ("8", "inf")
    assert serving_rows.targets_of(at_once).keys() == {"open_tpot", "open_ttft"}
    assert (serving_rows.engine_of(rate), serving_rows.engine_of(at_once)) == ("vllm", "sglang")


def test_an_aiperf_result(tmp_path: Path) -> None:
    """The devices' own names say the chip; the mean prompt is the total over the requests."""
    row = benchmark(written(tmp_path, AIPERF), tp="1", weight_precision="bf16", engine="vllm 0.18.0")
    assert serving_rows.targets_of(row) == {"open_tpot": 9.0, "open_ttft": 80.0}
    assert (row["isl"], row["osl"], row["hardware"], row["request_rate_qps"]) == ("500", "100", "NVIDIA H100 80GB HBM3", "4")
    assert serving_fit.validate_serving([row])["predicted"] == 1


def test_a_genai_perf_result(tmp_path: Path) -> None:
    facts = {"hardware": "H100", "tp": "1", "weight_precision": "bf16", "engine": "trtllm"}
    row = benchmark(written(tmp_path, GENAI_PERF), **facts)
    assert serving_rows.targets_of(row) == {"closed_tpot": 9.0, "closed_ttft": 80.0}
    assert (row["model"], row["isl"], row["concurrency_or_batch"]) == ("llama-3.1-8b", "500", "4")


def test_a_result_that_does_not_say_on_what_it_ran_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="does not say hardware, tp, weight_precision: add them, for example --with hardware=H100"
    ):
        benchmark(written(tmp_path, VLLM))
    with pytest.raises(ValueError, match="does not say engine: add"):
        benchmark(written(tmp_path, GENAI_PERF), hardware="H100", tp="1", weight_precision="bf16")


def test_a_calibration_helps_where_it_was_made_and_harms_nowhere_else() -> None:
    """Half of the L40S rows refine the constants: the other half is no worse predicted, other chips and engines neither."""
    mine = [row for row in ROWS if row["hardware"] == "L40S"]
    others = [row for row in ROWS if row["hardware"] != "L40S" and serving_rows.engine_of(row) in ("vllm", "sglang", "trt_py")]
    slow = [{**row, "output_tokens_per_s_total": str(0.7 * float(row["output_tokens_per_s_total"]))} for row in mine
            if row["output_tokens_per_s_total"]]  # fmt: skip
    calibration = serving_fit.fit(slow[::2])

    def error(rows: list, constants=None) -> float:  # type: ignore[no-untyped-def]
        found = serving_fit.validate_serving(rows, constants)["predictions"]
        return float(np.mean([abs(p["predicted"] / p["measured"] - 1) for p in found]))

    assert error(slow[::2], calibration) < 0.7 * error(slow[::2])
    assert error(slow[1::2], calibration) < 0.85 * error(slow[1::2])
    assert error(others, calibration) < 1.05 * error(others)


def test_own_measurements_move_the_constants_that_they_touch(tmp_path: Path) -> None:
    """Three runs, 40 % slower than predicted, pull the predictions of such runs up; other engines keep their constants."""
    rows = [
        row for row in ROWS
        if serving_rows.engine_of(row) == "vllm" and "closed_tpot" in serving_rows.targets_of(row) and row["concurrency_or_batch"]
    ][:3]  # fmt: skip
    before = [p["predicted"] for p in serving_fit.validate_serving(rows)["predictions"] if p["regime"] == "closed_tpot"]
    slow = [{**row, "ttft_ms": "", "tpot_ms": str(1.4 * value)} for row, value in zip(rows, before, strict=True)]
    mine = serving_fit.fit(slow, date="2026-01-01")
    after = [p["predicted"] for p in serving_fit.validate_serving(slow, mine)["predictions"]]
    assert np.all(np.array(after) > 1.05 * np.array(before))
    stored, found = ({r.name: r.value for r in c.records} for c in (stored_calibration(), mine))
    assert found["layer.sglang"] == pytest.approx(stored["layer.sglang"])
    again = calibration_from(calibration_to(mine))
    assert again.date == "2026-01-01"
    np.testing.assert_allclose(again.values, mine.values, rtol=1e-4)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda d: d["constants"].pop(0), "the constants lack"),
        (lambda d: d["constants"][3].update(value=-1.0), "not a number above zero is"),
        (lambda d: d["constants"][3].update(group="zzz"), "the constants lack"),
        (lambda d: d["intervals"].pop(), "the intervals lack max_throughput"),
        (lambda d: d.pop("schema"), "needs the keys schema"),
        (lambda d: d.update(schema="wallplan/calibration/v0"), "schema is 'wallplan/calibration/v0'"),
    ],
)
def test_a_calibration_that_is_not_whole_is_refused(broken: Any, said: str) -> None:
    document = calibration_to(stored_calibration())
    broken(document)
    with pytest.raises(CalibrationError, match=said) as caught:
        calibration_from(document)
    assert "wallplan calibrate" in str(caught.value)


def test_an_unmeasured_chip_names_its_own_relatives() -> None:
    (said,) = stored_calibration().inherited(None, load().find("chips", "mi355x"), None)
    assert "mi300x" in said
    assert "b200" not in said
    assert "a100" not in said


def test_leaving_out_matches_rows_and_hides_them() -> None:
    rows = [row for row in ROWS if "static_throughput" in serving_rows.targets_of(row)][::16]
    left = serving_fit.calibrate(rows, {"hardware": "MI300X-192GB"}, evaluations=1)
    assert "mi300x" not in left.covered["chip"]


@pytest.mark.parametrize("load", [{"concurrency": 32}, {"rate": 2.0}, {"rate": "2/s"}, {"batch": 64}])
def test_one_replica(load: dict) -> None:
    answer = evaluate_replica({**{k: v for k, v in REPLICA.items() if k != "concurrency"}, **load})
    assert answer["fits"] and not answer["overloaded"]
    for key in ("ttft_ms", "tpot_ms", "output_tokens_per_s"):
        assert 0 < answer[key]["low"] < answer[key]["value"] < answer[key]["high"]
    assert answer["memory_gib"]["needed"] < answer["memory_gib"]["there"]


def test_an_overloaded_replica_says_so() -> None:
    answer = evaluate_replica({**REPLICA, "concurrency": None, "rate": 500})
    assert answer["overloaded"] and answer["ttft_ms"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 3}, "exactly one of"), ({"chip": "h99"}, "unknown chip"), ({"tp": -1}, "tp is -1"),
        ({"engine": "x"}, "unknown engine"),
        ({"precision": "fp4"}, "no peak at fp4"), ({"gpu": 1}, "unknown key 'gpu'"), ({"tokens": 5}, "tokens must be"),
        ({"ep": 4}, "has no experts"), ({"concurrency": "many"}, "expected a whole number"),
        ({"concurrency": 7.5}, "whole number"),
        ({"model": None}, "model is missing"),
    ],
)  # fmt: skip
def test_replica_errors_are_one_line(change: dict, message: str) -> None:
    with pytest.raises(ReplicaError, match=message) as caught:
        evaluate_replica({**REPLICA, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spelling", "chip"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"), ("8xH100-SXM5", "h100-sxm"), ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("AMD Instinct MI300X", "mi300x"), ("h200_sxm", "h200-sxm"), ("GB200 NVL72", "gb200"), ("TPU v6e", "tpu-v6e"),
        ("v5e-8", "tpu-v5e"), ("Intel Gaudi 3", "gaudi3"), ("H100 NVL", "h100-nvl"), ("RTX A6000", None), ("Quantum-9000", None),
    ],
)  # fmt: skip
def test_chips_by_the_names_that_people_write(spelling: str, chip: str | None) -> None:
    found = serving_rows.chip_of(spelling, load())
    assert (found.name if found else None) == chip


@pytest.mark.parametrize(
    ("spelling", "model"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b"), ("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"),
        ("nvidia/DeepSeek-R1-FP4", "deepseek-r1"), ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", "qwen3-235b-a22b"), ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("google/gemma-2-27b-it", "gemma-2-27b"), ("nobody/Nothing", None),
    ],
)  # fmt: skip
def test_models_by_the_names_that_people_write(spelling: str, model: str | None) -> None:
    found = serving_rows.model_of({"model": spelling}, load())
    assert (found.name if found else None) == model


def test_an_unknown_model_has_the_size_that_its_name_states() -> None:
    found = serving_rows.model_of({"model": "01-ai/Somebody-30B-A3B"}, load())
    assert found is not None and (found.parameters, found.active_parameters) == (30e9, 3e9)


@pytest.mark.parametrize(
    ("words", "generation"),
    [
        ("vLLM 0.9.1 (ROCm 6.4.1)", "vllm_old"), ("vLLM ROCm 6.3", "vllm"), ("vllm 0.4.3+rocm614", "vllm_build"),
        ("SGLang v0.5.6", "sglang"),
        ("TensorRT-LLM 0.17 (C++ runtime)", "trt_cpp"), ("TensorRT-LLM 1.2.0rc1", "trt_py"), ("trtllm", "trt_py"),
    ],
)  # fmt: skip
def test_engines_by_the_names_that_people_write(words: str, generation: str) -> None:
    assert serving_rows.engine_of({"engine": words}) == generation


@pytest.mark.parametrize("engine", ["tgi", "LMDeploy 0.7", "jetstream", "hex-llm", "optimum-habana", "", "DeepSeek in-house 2"])
def test_an_engine_that_nobody_measured_has_the_widest_interval(plain: dict, engine: str) -> None:
    known, other = (
        serving_fit.validate_serving([{**plain, "engine": name}])["predictions"][0] for name in ("vllm 0.18.0", engine)
    )
    assert other["predicted"] == pytest.approx(known["predicted"])
    assert other["high"] / other["predicted"] > 1.1 * known["high"] / known["predicted"]
    assert other["inherited"] and not known["inherited"]


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        (("FP8",), "fp8"), (("fp8_e4m3",), "fp8"), (("W8A8-INT8",), "int8"), (("AWQ",), "int4"), (("w4a16",), "int4"),
        (("NVFP4",), "nvfp4"), (("BFloat16",), "bf16"), (("float16",), "fp16"), (("", "RedHatAI/Llama-FP8"), "fp8"),
        (("auto",), ""), (("FP88",), ""), (("ffp8",), ""), (("w4afp8",), "int4"), (("fp8_block",), "fp8"), (("NV-FP4",), "nvfp4"),
    ],
)  # fmt: skip
def test_number_formats_by_the_names_that_people_write(spellings: tuple[str, ...], expected: str) -> None:
    assert serving_rows.format_of(*spellings) == expected


def test_four_bit_weights_of_a_dense_model_are_small() -> None:
    """70 billion 4-bit weights are 37 GB: they run on one card of 80 GB, and decode faster than 16-bit ones on two."""
    row = {"model": "Llama-3.1-70B", "hardware": "H100", "engine": "vllm", "isl": "500", "osl": "100", "tpot_ms": "30",
           "concurrency_or_batch": "1", "scenario": "online"}  # fmt: skip
    narrow = serving_fit.validate_serving([{**row, "weight_precision": "AWQ", "tp": "1", "n_accelerators": "1"}])
    wide = serving_fit.validate_serving([{**row, "weight_precision": "bf16", "tp": "2", "n_accelerators": "2"}])
    assert narrow["out_of_memory"] == 0
    assert narrow["predictions"][0]["predicted"] < wide["predictions"][0]["predicted"]


def test_files_of_other_shapes(tmp_path: Path) -> None:
    """Columns in any order, spelled with spaces and capitals, optional ones missing; thousands with commas; no rows at all."""
    file = tmp_path / "bench.csv"
    file.write_text('tpot_ms, Hardware,ISL,model,concurrency_or_batch\n20,H100,"1,000",Llama-3.1-8B,8\n,H100,5,Llama-3.1-8B,\n')
    report = serving_fit.validate_serving(file)
    assert (report["rows"], report["predicted"]) == (2, 1)
    assert [s["id"] for s in report["skipped"]] == ["row 2"]
    file.write_text("model,hardware,tpot_ms\n")
    empty = serving_fit.validate_serving(file)
    assert (empty["rows"], empty["predicted"], empty["skipped"]) == (0, 0, [])
    assert all(r["n"] == 0 and r["mape"] is None for r in empty["regimes"].values())
    file.write_text("model,hardware,tpot_ms\nx,y,\n")
    assert len(serving_fit.validate_serving(file)["skipped"]) == 1
    for content, message in (
        (b"", "empty"),
        (b"model,hardware\n", "missing columns ttft_ms or"),
        (b"\xff\xfe\x00a", "not a CSV"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            serving_fit.validate_serving(file)
        assert "bench.csv" in str(caught.value) and "\n" not in str(caught.value)
