"""Rows of measurements: which stack, which model, what is inferred, and what is refused."""

import pytest

from models import training_rows as r
from models.training import FULL, NONE
from models.training_constants import training_constants
from zoo.catalog import load

ZOO = load()
ROW = {
    "id": "x-1", "source": "NVIDIA/Megatron-LM README", "model": "GPT 22B", "params_b": "22", "layers": "48", "hidden": "6144",
    "ffn_hidden": "24576", "heads": "64", "kv_heads": "64", "vocab": "51200", "seq_len": "2048", "hardware": "A100-80GB-SXM",
    "n_accelerators": "8", "precision": "fp16", "tp": "8", "pp": "1", "dp": "1", "zero_or_fsdp": "none",
    "sequence_parallel": "true", "activation_recompute": "none", "micro_batch": "4", "global_batch_sequences": "4",
    "iteration_s": "1.1",
}  # fmt: skip


def case(**changes):
    return r.case_of(ROW | changes, ZOO, training_constants())


def test_a_full_row_needs_no_inference_but_its_chunks():
    read = case()
    assert read.inferred == ()
    assert (read.chip.name, read.setting.stack.name, read.setting.kind) == ("a100-sxm-80gb", "megatron-lm", "dense-3D")
    assert read.time == 1.1 and read.run.layouts.recompute == NONE
    assert read.model.parameters == 22e9 and not read.model.gated


@pytest.mark.parametrize(
    ("source", "note", "sharding", "hardware", "name", "release"),
    [
        ("NVIDIA-NeMo/Megatron-Bridge, 26.02 NeMo container", "", "zero1", "GB200", "nemo", "26.02"),
        ("MLCommons training_results_v5.0 NVIDIA", "", "", "H100", "nemo-mlperf", "5.0"),
        ("pytorch/torchtitan docs", "no torch.compile", "fsdp_full", "H100", "torchtitan", "eager"),
        ("mosaicml/llm-foundry", "", "fsdp_full", "A100", "llm-foundry", ""),
        ("Narayanan et al. 2021", "", "zero3", "A100", "deepspeed-zero3", ""),
        ("Narayanan et al. 2021", "", "none", "A100", "megatron-lm", ""),
        ("AI-Hypercomputer/maxtext", "", "", "TPU-v5p", "maxtext", "2023"),
        ("MegaScale", "MegaScale system", "", "A100", "megascale", ""),
        ("a blog", "", "fsdp_full", "H100", "fsdp", ""),
        ("a blog", "", "", "TPU-v5p", "maxtext", ""),
        ("", "", "", "H100", "other", ""),
    ],
)
def test_stack_by_words(source, note, sharding, hardware, name, release):
    stack = r.stack_of(source, note, sharding, hardware)
    assert (stack.name, stack.release) == (name, release)


def test_what_a_row_leaves_out_is_inferred_and_said():
    read = case(dp="", micro_batch="", activation_recompute="", precision="", zero_or_fsdp="")
    assert {"dp", "micro_batch", "recompute", "precision bf16", "zero_or_fsdp"} <= set(read.inferred)
    assert read.run.layouts.data_parallel == 1
    assert read.run.layouts.recompute in (NONE, FULL, 1)
    assert r.case_of(ROW | {"model": "GPT 22B", "params_b": "", "layers": ""}, ZOO, training_constants()).model.layers == 48


def test_the_zoo_fills_a_shape_that_the_row_leaves_blank():
    blank = dict.fromkeys(("params_b", "layers", "hidden", "ffn_hidden", "heads", "kv_heads", "vocab"), "")
    read = case(**blank, model="Llama 3.1 8B")
    assert (read.model.layers, read.model.kv_heads, read.model.name) == (32, 8, "llama-3.1-8b")


def test_an_unlisted_mixture_lies_between_its_relatives():
    blank = dict.fromkeys(("params_b", "layers", "hidden", "ffn_hidden", "heads", "kv_heads", "vocab"), "")
    read = case(**blank | {"params_b": "120"}, model="Nemotron 3 Super", active_params_b="12", ep="8")
    small, large = (r.listed_model(name, None, ZOO) for name in ("Nemotron 3 Nano", "Nemotron 3 Ultra"))
    assert small.hidden < read.model.hidden < large.hidden
    assert "shape between its relatives" in read.inferred


def test_a_row_with_more_replicas_than_sequences_gets_one_each():
    read = case(n_accelerators="64", dp="8")
    assert read.run.job.global_batch == 8
    assert any("one per replica" in note for note in read.inferred)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tp": "", "pp": ""}, "layout"),
        ({"hardware": ""}, "hardware is blank"),
        ({"hardware": "H-1000"}, "unknown chip"),
        ({"seq_len": ""}, "sequence length"),
        ({"tp": "eight"}, "tp is 'eight', expected a positive number"),
        ({"tp": "-8"}, "tp is '-8'"),
        ({"precision": "fp12"}, "fp12"),
        ({"precision": "fp8"}, "no fp8 rate"),
        ({"pp": "96", "n_accelerators": "768"}, "96 pipeline stages for 48 layers"),
        ({"tp": "16"}, "more than the 8 accelerators"),
        ({"model": "nobody knows", "layers": "", "params_b": ""}, "shape of model"),
        ({"n_accelerators": "", "dp": ""}, "accelerator count missing"),
    ],
)
def test_an_unreadable_row_says_why(changes, reason):
    with pytest.raises(ValueError, match=reason):
        case(**changes)


def test_time_from_tokens_per_second():
    """4 sequences of 2048 tokens on 8 accelerators at 512 token/s each: 2 s."""
    assert case(iteration_s="", tokens_per_s_per_accelerator="512").time == pytest.approx(2.0)
    assert case(iteration_s="").time is None


def test_peak_memory_from_the_note():
    assert case(note="peak memory 70.5 GiB").peak_memory == 70.5
    assert case(note="peak memory 70 GB").peak_memory == pytest.approx(70e9 / 2**30)


def test_a_memory_variant_is_read_from_the_note():
    read = case(note="A100 variant with 96GB HBM2e (2.4 TB/s) at a 500 W limit")
    assert read.run.machine.memory.m_as("GiB") == pytest.approx(96)
    assert read.run.machine.memory_bandwidth.m_as("TB/s") == pytest.approx(2.4)
    assert read.setting.stack.options == ("500W",)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("AMD Instinct MI250X", "mi250x"),
        ("A100-40GB-SXM", "a100-sxm-40gb"),
    ],
)
def test_chips_as_drivers_print_them(spelling, name):
    assert r.chip_of(spelling, ZOO).name == name


def test_an_unnamed_stack_is_of_its_chip_s_time():
    old, new = case(source="a lab"), case(source="a lab", hardware="H100-80GB-SXM", precision="bf16")
    assert old.setting.stack.name == "other" and new.setting.stack.name == "megatron-core"
    assert "stack megatron-core" in new.inferred and "stack megatron-core" not in old.inferred


def test_other_words_for_blank_cells_sharding_and_recompute():
    read = case(virtual_stages="n/a", global_batch_sequences="1,024", n_accelerators="256", dp="", precision="mixed")
    assert read.run.job.global_batch == 1024 and {"virtual_stages", "precision bf16"} & set(read.inferred)
    assert [r.sharding_of(text) for text in ("FSDP", "ZeRO-3", "zero 1", "DDP", "stage3", "fsdp_grad_op", "N/A")] == [
        "fsdp_full", "zero3", "zero1", "none", "zero3", "fsdp_grad_op", "",
    ]  # fmt: skip
    assert case(activation_recompute="Yes").run.layouts.recompute == FULL
