"""Validation against published runs: the numbers, the shape of the answer, and rows full of nonsense."""

import json
import math
import random
import re

import pytest

from models.training_rows import MEASUREMENTS, REQUIRED, read_rows, unknown_columns
from models.validation_training import source_of, validate_training

ROWS = [dict(row) for row in read_rows(MEASUREMENTS)]


@pytest.fixture(scope="module")
def result():
    return validate_training(MEASUREMENTS)


def test_keys_and_json(result):
    assert list(result) == ["rows", "predicted", "meaning", "mape", "median_ape", "bias", "interval_coverage",
                            "false_infeasible", "memory", "groups", "skipped", "predictions"]  # fmt: skip
    json.dumps(result, allow_nan=False)
    assert result["rows"] == len(ROWS) == result["predicted"] + len(result["skipped"])
    assert all(skip["id"] and skip["reason"] for skip in result["skipped"])


def test_no_run_that_ran_is_called_impossible(result):
    assert result["false_infeasible"] == 0


def test_rows_with_layout_microbatch_and_time_are_predicted(result):
    complete = {r["id"] for r in ROWS if all(r[c] for c in ("tp", "pp", "micro_batch", "iteration_s"))}
    predicted = {p["id"] for p in result["predictions"]}
    assert len(complete & predicted) >= 0.9 * len(complete)


def test_fitted_rows_are_close(result):
    kinds = result["groups"]["kind"]
    for kind, most in {"dense-3D": 0.075, "FSDP": 0.05, "FP8": 0.05, "MoE": 0.09, "TPU": 0.06}.items():
        assert kinds[kind]["mape"] < most
        assert abs(kinds[kind]["bias"]) < 0.03
    assert 0.8 <= result["interval_coverage"] <= 0.97


@pytest.mark.parametrize("row", ["sc21-s009", "titan-s001", "mpt-s001", "bridge-s040", "ironwood-s003", "megascale-s002"])
def test_published_measurements_lie_in_the_interval(result, row):
    prediction = next(p for p in result["predictions"] if p["id"] == row)
    assert prediction["low"] <= prediction["measured_s"] <= prediction["high"]


def test_groups_count_every_row(result):
    for group in ("source", "hardware"):
        assert sum(entry["count"] for entry in result["groups"][group].values()) == len(ROWS)
    kinds = result["groups"]["kind"]
    assert sum(entry["count"] for kind, entry in kinds.items() if kind != "long-context") == len(ROWS)
    assert {"dense-3D", "FSDP", "FP8", "MoE", "TPU", "long-context"} <= set(kinds)


def test_errors_by_hand(result):
    predictions = [p for p in result["predictions"] if p["measured_s"] is not None]
    errors = [p["predicted_s"] / p["measured_s"] - 1 for p in predictions]
    assert result["mape"] == pytest.approx(sum(map(abs, errors)) / len(errors))
    assert result["bias"] == pytest.approx(sum(errors) / len(errors))


def test_rows_of_nonsense_never_raise():
    junk = [
        "",
        "nan",
        "abc",
        "-1",
        "0",
        "1e400",
        "inf",
        "3.5",
        "1e-9",
        "999999999",
        "None",
        "8;8",
        "true",
        None,
        math.nan,
        7,
        2.5,
    ]
    chance = random.Random(0)
    rows = [{column: chance.choice(junk) if chance.random() < 0.1 else cell for column, cell in row.items()} for row in ROWS]
    rows += [dict.fromkeys(ROWS[0], ""), dict.fromkeys(ROWS[0], "x")]
    answer = validate_training(rows)
    assert answer["rows"] == answer["predicted"] + len(answer["skipped"])
    json.dumps(answer, allow_nan=False)


def test_blank_cells_are_inferred_rather_than_refused():
    optional = ["micro_batch", "dp", "virtual_stages", "cp", "ep", "sequence_parallel", "activation_recompute", "precision",
                "accelerators_per_node", "vocab", "intra_node_link_gbps", "inter_node_gbps_per_accelerator"]  # fmt: skip
    rows = [row | dict.fromkeys(optional, "") for row in ROWS[::4]]
    answer = validate_training(rows)
    assert answer["predicted"] >= 0.85 * len(rows)
    assert answer["median_ape"] < 0.2
    assert answer["false_infeasible"] == 0


def test_an_unseen_stack_and_chip_has_a_wider_interval():
    known = next(row for row in ROWS if row["id"] == "mpt-s001")
    strange = known | {"source": "somewhere", "zero_or_fsdp": "fsdp_full", "hardware": "A800-80GB-SXM", "id": "strange"}
    answer = validate_training([known, strange])
    widths = [math.log(p["high"] / p["low"]) for p in answer["predictions"]]
    assert len(widths) == 1 or widths[1] > 1.5 * widths[0]


def test_bad_files_are_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.csv: no such file, expected a CSV of training measurements"):
        validate_training(tmp_path / "nothing.csv")
    short = tmp_path / "short.csv"
    short.write_text("id,model\nx,y\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"short\.csv: lacks the columns hardware, seq_len, tp"):
        validate_training(short)
    binary = tmp_path / "binary.csv"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"binary\.csv: cannot be read"):
        validate_training(binary)
    only_header = tmp_path / "header.csv"
    only_header.write_text(",".join(REQUIRED) + "\n", encoding="utf-8")
    assert validate_training(only_header)["rows"] == 0


def test_peak_memory_errors(result):
    stated = [p for p in result["predictions"] if p["memory_measured_gib"] is not None]
    errors = [abs(p["memory_gib"] / p["memory_measured_gib"] - 1) for p in stated]
    assert result["memory"]["count"] == len(stated) == 47
    assert result["memory"]["mape"] == pytest.approx(sum(errors) / 47) and result["memory"]["mape"] < 0.12
    assert validate_training(ROWS[:1])["memory"]["mape"] is None


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"activation_recompute": "selectiv"}, "activation_recompute is 'selectiv', .*did you mean 'selective'"),
        ({"zero_or_fsdp": "zero11"}, "zero_or_fsdp is 'zero11', .*did you mean 'zero1'"),
        ({"sequence_parallel": "tru"}, "sequence_parallel is 'tru', .*did you mean 'true'"),
        ({"precision": "bf61"}, "precision 'bf61' is not known; did you mean 'bf16'"),
    ],
)
def test_a_value_that_is_not_understood_skips_the_row_with_the_nearest_word(cells, reason):
    answer = validate_training([ROWS[0] | cells])
    assert answer["predicted"] == 0
    assert re.search(reason, answer["skipped"][0]["reason"])


def test_columns_that_nothing_reads_are_named():
    assert unknown_columns(["id", "n_acelerators", "zzzzzz"]) == {"n_acelerators": "n_accelerators", "zzzzzz": None}


def test_spellings_of_a_chip_are_one_group():
    row = next(row for row in ROWS if row["hardware"] == "H100-80GB-SXM")
    groups = validate_training([row, row | {"hardware": "h100-sxm"}])["groups"]["hardware"]
    assert {name: entry["count"] for name, entry in groups.items()} == {"h100-sxm": 2}


def test_short_names_of_sources():
    assert source_of("Narayanan et al. 2021, Efficient Large-Scale") == "Narayanan et al. 2021"
    assert source_of("MLCommons training_results_v5.0 NVIDIA/results") == "MLCommons"
    assert source_of("") == "unknown"
