"""Rows of published training runs, as inputs of the training model.

A row has the columns of `data/training_measurements.csv`; blank cells are unknown. `case_of` reads one row: stack and release
from what its source and note say, model and chip from the zoo and from the row's own cells, and a stated inference for
what a record usually leaves out (`Case.inferred`). A row that cannot be read raises `Unpredictable` with the reason.
No rule looks at a row's id or measured time.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoo.architecture import attention_parameters, total_parameters
from zoo.names import normalise
from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity

from .cells import BLANK, Cells, Unpredictable, did_you_mean, misread, one_line, unread
from .training import FULL, NONE, SELECTIVE, Layouts, Run, TrainingJob, evaluate, machine_of, shape_of
from .training_constants import Constants, Setting, Stack, family_of, stack
from .training_memory import minimum_memory, peak_memory

MEASUREMENTS = Path(__file__).with_name("data") / "training_measurements.csv"
REQUIRED = ("id", "model", "hardware", "seq_len", "tp", "pp", "global_batch_sequences", "iteration_s")
_RECOMPUTE = {
    "none": NONE, "no": NONE, "false": NONE, "off": NONE,
    "selective": SELECTIVE, "attention": SELECTIVE, "core_attn": SELECTIVE, "op": SELECTIVE,
    "full": FULL, "yes": FULL, "true": FULL, "on": FULL, "block": FULL,
}  # fmt: skip
# zero_or_fsdp -> (ZeRO stage, FSDP)
_SHARDING = {
    "none": (0, False),
    "zero1": (1, False),
    "zero2": (2, False),
    "zero3": (3, True),
    "fsdp_full": (3, True),
    "fsdp_grad_op": (2, True),
    "fsdp_zero2": (2, True),
}
# Other words for them, without what is between the letters and digits.
_SHARDING_WORDS = {
    "ddp": "none", "dp": "none", "no": "none", "zero0": "none", "distributedoptimizer": "zero1", "fsdp": "fsdp_full",
    "fsdp1": "fsdp_full", "fsdp2": "fsdp_full", "fullshard": "fsdp_full", "hsdp": "fsdp_full", "hybridshard": "fsdp_full",
    "shardgradop": "fsdp_grad_op", "stage1": "zero1", "stage2": "zero2", "stage3": "zero3", "1": "zero1", "2": "zero2",
    "3": "zero3",
}  # fmt: skip


# Words of a chip's name that tell no chip apart: who makes it, and the kind of its memory, as drivers print them.
_MAKERS = re.compile(
    r"\b(nvidia|tesla|amd|instinct|radeon|intel|habana|google|cloud|aws|amazon|huawei|hbm\d?e?|gpu|oam)\b", re.IGNORECASE
)
# A row that names no stack ran an old one, unless its chip is of this year or later: FlashAttention and overlapped collectives
# have been in every stack since (Megatron-Core, NeMo, FSDP).
_MODERN = 2022


class Zoo(Protocol):
    """What is asked of `zoo.catalog.Catalog`."""

    @property
    def models(self) -> Mapping[str, Any]: ...

    def find(self, kind: str, name: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Case:
    """One readable row: what ran, and what was measured. `time` [s] may be None; `weight` is below 1 where it was derived."""

    id: str
    source: str
    hardware: str
    model: Transformer
    chip: Accelerator
    setting: Setting
    run: Run
    time: float | None
    weight: float
    peak_memory: float | None  # [GiB]
    long_context: bool
    inferred: tuple[str, ...]


def read_rows(path: str | Path | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a measurements file, or the given rows. ValueError, one line, naming file and expectation."""
    if isinstance(path, (str, Path)):
        try:
            with Path(path).open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or [])
                rows: list[Mapping[str, Any]] = list(reader)
        except FileNotFoundError:
            raise ValueError(f"{path}: no such file, expected a CSV of training measurements") from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: cannot be read as a CSV of training measurements ({error})") from None
        name = str(path)
    else:
        rows, name = list(path), "rows"
        columns = list(dict.fromkeys(key for row in rows for key in row))
    lacking = [column for column in REQUIRED if column not in columns]
    if lacking and (rows or columns or isinstance(path, (str, Path))):
        columns_lacking = f"column{'s' * (len(lacking) > 1)} {', '.join(lacking)}"
        raise ValueError(f"{name}: lacks the {columns_lacking}; expected those of {MEASUREMENTS.name}")
    return list(rows)


# ------------------------------------------------------------------------------------------------------- what is in a row


def stack_of(source: str, note: str, sharding: str, hardware: str) -> Stack:
    """The software stack of a row, from the words of its source and note; "fsdp" or "other" where none is named."""
    s, n = source.lower(), note.lower()
    options = tuple(
        name
        for name, said in (
            ("eager", "no torch.compile" in n),
            ("rowwise", "rowwise" in n),
            ("async-tp", "async tp" in n or "asynctp" in n),
            ("500W", "500 w" in n),
        )
        if said
    )
    name, release = _stack_name(s, n, sharding, hardware)
    return stack(name, release, options)


def _stack_name(s: str, n: str, sharding: str, hardware: str) -> tuple[str, str]:
    container = re.search(r"(\d\d\.\d\d)(?:\.\d+)? nemo container", s)
    release = container.group(1) if container else ""
    if "mlperf" in s or "mlcommons" in s:
        version = re.search(r"results_v(\d\.\d)", s)
        release = version.group(1) if version else ""
        if "tpu" in s or "tpu" in hardware.lower():
            return "maxtext", release
        return ("habana", release) if "habana" in s else ("nemo-mlperf", release)
    if "megatron-bridge" in s or "nemo" in s:
        return "nemo", release
    if "torchtitan" in s:
        return "torchtitan", "eager" if "no torch.compile" in n else "compile"
    for word, name, release in (
        ("jax-toolbox", "maxtext-gpu", ""),
        ("tpu-recipes", "maxtext", "recipes"),
        ("maxtext", "maxtext", "2023"),
        ("levanter", "levanter", ""),
        ("llm-foundry", "llm-foundry", ""),
        ("colossal", "colossalai", ""),
    ):
        if word in s:
            return name, release
    if sharding == "zero3" and "fsdp" not in s:
        return "deepspeed-zero3", ""
    if "sailor" in s:
        return "megatron-deepspeed", "sailor"
    if any(word in s for word in ("bigscience", "vtrain", "mt-nlg", "deepspeed")):
        return "megatron-deepspeed", ""
    if "megascale" in s:
        return ("megascale" if "megascale system" in n else "megatron-core"), ""
    if ("core" in s and "megatron" in s) or "strong scaling" in s:
        return "megatron-core", ""
    if any(word in s for word in ("megatron", "korthikanti", "narayanan")):
        return "megatron-lm", ""
    if "opt (arxiv" in s:
        return "fsdp+megatron", ""
    if "llama 3 herd" in s:
        return "llama3", ""
    if sharding.startswith("fsdp"):
        return "fsdp", ""
    return ("maxtext" if hardware.upper().startswith("TPU") else "other"), ""


def chip_of(name: str, zoo: Zoo) -> Accelerator:
    """The zoo's record of a chip, by any of its spellings; as a driver prints it, with its maker and kind of memory, too.

    Raises zoo.errors.UnknownName, a ValueError, where there is none.
    """
    try:
        found: Accelerator = zoo.find("chips", name)
    except ValueError:
        bare = re.sub(r"(?i)sxm\d", "sxm", _MAKERS.sub(" ", name)).strip(" -_")
        if normalise(bare) == normalise(name):
            raise
        found = zoo.find("chips", bare)
    return found


def sharding_of(text: str) -> str:
    """A row's sharding cell in the words of `_SHARDING`, where it is one of them or of their other spellings."""
    word = text.lower()
    if word in _SHARDING:
        return word
    bare = normalise(text)
    return _SHARDING_WORDS.get(bare, bare if bare in _SHARDING else "" if word in BLANK else word)


def recompute_of(text: str) -> int | None:
    """The recompute mode of a row's cell, None where it is blank. Raises Unpredictable with the nearest word."""
    word = text.lower()
    if word in _RECOMPUTE:
        return _RECOMPUTE[word]
    return None if word in BLANK else misread("activation_recompute", text, _RECOMPUTE)


def unknown_columns(columns: Iterable[str | None]) -> dict[str, str | None]:
    """Columns that no row of measurements has, and the nearest one that they have; None where none is near."""
    with MEASUREMENTS.open(encoding="utf-8", newline="") as file:
        known = next(csv.reader(file))
    return unread(columns, known)


def precision_of(text: str) -> str:
    """The recipe of a row's precision cell."""
    t = text.lower()
    if "fp4" in t:
        return "nvfp4"
    if t == "fp8-mx":
        return t
    for recipe in ("mxfp8", "int8", "fp8", "fp16"):
        if recipe in t:
            return recipe
    if "bf16" in t or "bfloat16" in t:
        return "bf16"
    hint = did_you_mean(t, ("bf16", "fp16", "fp8", "mxfp8", "nvfp4", "int8"))
    raise Unpredictable(f"precision {text[:40]!r} is not known{hint}")


def listed_model(name: str, active: float | None, zoo: Zoo) -> Transformer | None:
    """The zoo's record of a model: by any of its spellings, by the only name that begins like it, or between its relatives."""
    try:
        found = zoo.find("models", name)
        return _completed(found) if isinstance(found, Transformer) else None
    except ValueError:
        pass
    key = normalise(name)
    transformers = [_completed(m) for m in zoo.models.values() if isinstance(m, Transformer)]
    begins = [m for m in transformers if len(key) > 6 and any(normalise(a).startswith(key) for a in (m.name, *m.aliases))]
    if len(begins) == 1:
        return begins[0]
    return None if active is None else between_relatives(name, active, transformers)


def _completed(model: Transformer) -> Transformer:
    """A hybrid whose record does not say which of its layers are states and which experts: half each.

    A state layer's weights are then 5.36 hidden^2, as in Nemotron 3 Nano; the published active parameters rescale its work.
    """
    rest = model.layers - model.kv_layers
    if model.moe_layers or not model.experts or model.state_layers or not 0 < rest < model.layers:
        return model
    half, weights = rest // 2, round(5.36 * model.hidden**2)
    return replace(model, moe_layers=half, state_layers=rest - half, state_parameters=weights, ffn_layers=0)


def between_relatives(name: str, active: float, models: Iterable[Transformer]) -> Transformer | None:
    """An unlisted mixture of experts between the listed ones of its series, log-interpolated in active parameters.

    The series is the name without its last word ("Nemotron 3" of "Nemotron 3 Super"); None where none is listed.
    """
    series = normalise(re.sub(r"[A-Za-z]+$", "", name.strip()))
    if len(series) <= 4:
        return None
    relatives = [m for m in models if m.experts and any(series in normalise(a) for a in (m.name, *m.aliases))]
    if not relatives:
        return None
    relatives.sort(key=lambda m: m.active_parameters)
    nearest = min(relatives, key=lambda m: abs(math.log(m.active_parameters / active)))
    at = np.log([m.active_parameters for m in relatives])
    changes: dict[str, Any] = {}
    for item in ("layers", "hidden", "heads", "kv_layers", "state_layers", "state_parameters", "moe_layers", "experts", "top_k",
                 "moe_ffn_hidden", "ffn_hidden", "parameters"):  # fmt: skip
        values = [getattr(m, item) for m in relatives]
        if all(values):
            value = math.exp(float(np.interp(math.log(active), at, np.log(values))))
            changes[item] = value if item == "parameters" else round(value)
    return replace(nearest, name=name, active_parameters=active, aliases=(), **changes)


def model_of(cells: Cells, zoo: Zoo) -> tuple[Transformer, tuple[str, ...]]:
    """The model of a row, and what was inferred of it: the row's cells first, then its note, then the zoo."""
    name, note = cells.text("model"), cells.text("note")
    total, active = (_billions(cells.number(column)) for column in ("params_b", "active_params_b"))
    said = re.search(r"(?<![\w.])(\d+(?:\.\d+)?) ?([MBT])\b", name, re.IGNORECASE)
    if total is None and said:
        total = float(said.group(1)) * {"m": 1e6, "b": 1e9, "t": 1e12}[said.group(2).lower()]
    listed = listed_model(name, active if cells.number("layers") is None else None, zoo) if name else None
    notes: list[str] = []
    if listed is not None and listed.name == name:
        notes.append("shape between its relatives")

    def shape(column: str, attribute: str) -> float | None:
        cell = cells.number(column)
        return cell if cell is not None else (float(getattr(listed, attribute)) if getattr(listed, attribute, None) else None)

    layers, hidden, ffn = shape("layers", "layers"), shape("hidden", "hidden"), shape("ffn_hidden", "ffn_hidden")
    heads, kv_heads, vocab = shape("heads", "heads"), shape("kv_heads", "kv_heads"), shape("vocab", "vocab")
    routed = re.search(r"(\d+) (?:routed )?experts top-(\d+)", note)
    width, first = re.search(r"moe_ffn (\d+)", note), re.search(r"first (\d+) layers dense", note)
    experts = float(routed.group(1)) if routed else float(listed.experts if listed else 0)
    top_k = float(routed.group(2)) if routed else float(listed.top_k if listed else 0)
    expert_hidden = float(width.group(1)) if width else float((listed.moe_ffn_hidden if listed else None) or 0)
    moe = experts > 1 or active is not None or (cells.count("ep") or 1.0) > 1
    total = total if total is not None else (listed.parameters if listed else None)
    active = active if active is not None else (listed.active_parameters if listed else None)
    same_heads = listed is not None and listed.head_dim and (hidden, heads) == (listed.hidden, listed.heads)
    head_dim = float(listed.head_dim) if listed and same_heads else (hidden / heads if hidden and heads else None)
    if not moe and layers is None and total is not None and hidden is not None:
        layers = float(max(1, round((total - (vocab or 51200.0) * hidden) / (12 * hidden**2))))
        notes.append("layers from the parameter count, 12 hidden^2 each")
    if not moe and layers is None and total is not None:
        layers = float(max(1, round((total / 12 / 128**2) ** (1 / 3))))  # GPT's usual aspect: hidden = 128 layers
        hidden, heads, kv_heads, vocab, head_dim = 128 * layers, layers, layers, 51200.0, 128.0
        ffn = 4 * hidden
        notes.append("shape from the parameter count, hidden = 128 x layers")
    if moe and (layers is None or experts <= 1) and total is not None and active is not None:
        layers = layers or float(max(1, round((active / 12 / 96**2) ** (1 / 3) * 1.6)))
        hidden, heads, kv_heads = hidden or 4096.0, heads or 32.0, kv_heads or 8.0
        vocab, head_dim = vocab or 131072.0, head_dim or 128.0
        experts, top_k, expert_hidden = 128.0, 8.0, 0.0
        notes.append("shape from total and active parameters, 128 experts of which 8 are active")
    if layers is None or hidden is None:
        raise Unpredictable(f"the shape of model {name[:40]!r} is unknown: it is not in the zoo and layers or hidden are blank")
    if head_dim is None:
        head_dim = 128.0 if heads is None else hidden / heads
    if heads is None:
        heads = max(1.0, round(hidden / head_dim))
        notes.append(f"heads of width {head_dim:g}")
    kv_heads = kv_heads or heads
    if ffn is None and not moe:
        ffn = 4 * hidden
        notes.append("ffn_hidden = 4 x hidden")
    if vocab is None:
        vocab = 51200.0
        notes.append("vocabulary 51200")
    dense_first = float(first.group(1)) if first else None
    moe_layers = 0.0
    if moe:
        same = listed is not None and listed.layers == layers and dense_first is None
        moe_layers = float(listed.moe_layers) if same and listed and listed.moe_layers else layers - (dense_first or 0.0)
    base = listed if listed is not None else Transformer(name or "unnamed", 1, 1, 1, 1, 1, 1, 0.0, 0.0, attention="MHA")
    share = layers / base.layers if listed is not None else 1.0
    model = replace(
        base, layers=int(layers), hidden=int(hidden), heads=int(heads), kv_heads=int(kv_heads), head_dim=max(1, round(head_dim)),
        vocab=int(vocab), ffn_hidden=int(ffn) if ffn else None,
        kv_layers=max(1, round(base.kv_layers * share)) if listed is not None else int(layers),
        sliding_layers=round(base.sliding_layers * share), state_layers=round(base.state_layers * share),
        experts=int(experts) if moe else 0, top_k=int(top_k) if moe else 0, moe_layers=int(moe_layers),
        ffn_layers=None if base.ffn_layers is None or share != 1.0 else base.ffn_layers, aliases=(),
    )  # fmt: skip
    if not moe:
        return _dense(model, listed, total), tuple(notes)
    if expert_hidden <= 0:
        if active is None or top_k <= 0:
            raise Unpredictable(f"the experts of model {name[:40]!r} are unknown: no width, no active parameters")
        rest = active - 2 * vocab * hidden - layers * attention_parameters(model)
        expert_hidden = max(64.0, rest / (layers * top_k * 3 * hidden))
        notes.append("expert width from active parameters")
    model = replace(model, moe_ffn_hidden=int(expert_hidden))
    if model.ffn_hidden is None and model.layers > model.moe_layers and model.ffn_layers is None:
        model = replace(model, ffn_hidden=4 * model.hidden)
        notes.append("ffn_hidden = 4 x hidden")
    counted = total_parameters(model)
    model = replace(model, parameters=total or counted)
    return replace(model, active_parameters=active if active is not None else model.parameters), tuple(notes)


def _dense(model: Transformer, listed: Transformer | None, total: float | None) -> Transformer:
    """A dense model with the MLP (gated or not) and the embedding (tied or not) whose parameter count is nearest."""
    if total is not None and listed is None:
        forms = [(False, True), (True, True), (True, False)]
        counts = [total_parameters(replace(model, gated=gated, tie_embeddings=tied)) for gated, tied in forms]
        gated = forms[int(np.argmin([abs(math.log(count / total)) for count in counts]))][0]
        model = replace(model, gated=gated, tie_embeddings=not gated)
    total = total if total is not None else total_parameters(model)
    return replace(model, parameters=total, active_parameters=total)


def _billions(value: float | None) -> float | None:
    return None if value is None else value * 1e9


# ---------------------------------------------------------------------------------------------------------- row -> case


def case_of(row: Mapping[str, Any], zoo: Zoo, constants: Constants) -> Case:
    """The run that a row describes. Raises Unpredictable, or another ValueError, with the reason where it describes none.

    constants: their memory constants decide the lightest recompute that fits where the row does not say, and their priors
    the microbatch where neither row nor stack's habit does.
    """
    cells = Cells(row)
    hardware, source, note = cells.text("hardware"), cells.text("source"), cells.text("note")
    if not hardware:
        raise Unpredictable("hardware is blank")
    chip = chip_of(hardware, zoo)
    family = family_of(chip.name)
    stated = cells.text("precision") if cells.text("precision").lower() not in (*BLANK, "mixed", "amp") else ""
    precision = precision_of(stated) if stated else ("bf16" if "bf16" in chip.peak else "fp16")
    sharding = sharding_of(cells.text("zero_or_fsdp"))
    used = stack_of(source, note, sharding, hardware)
    inferred: list[str] = [] if stated else [f"precision {precision}"]
    if used.name == "other" and chip.year is not None and chip.year >= _MODERN:
        used = stack("megatron-core", used.release, used.options)
        inferred.append("stack megatron-core")
    model, about = model_of(cells, zoo)
    inferred += about
    sequence, batch = cells.count("seq_len"), cells.count("global_batch_sequences")
    if sequence is None or batch is None:
        raise Unpredictable("batch or sequence length missing")

    tensor, pipeline, context, experts = (cells.count(column) for column in ("tp", "pp", "cp", "ep"))
    data, total = cells.count("dp"), cells.count("n_accelerators")
    if total is None and tensor and pipeline and data:
        total = tensor * pipeline * data * (context or 1.0)
    if (tensor is None or pipeline is None) and family == "TPU" and total is not None:
        tensor, pipeline, context = 1.0, 1.0, max(1.0, total / batch)  # MaxText's default: FSDP over the slice
        experts = min(model.experts, 64.0) if model.experts else 1.0
        inferred.append("FSDP over all chips")
    if tensor is None or pipeline is None:
        raise Unpredictable("layout (tp, pp) not given")
    if total is None:
        raise Unpredictable("accelerator count missing")
    if experts is None and model.experts:
        inferred.append("ep")
    context, experts = context or 1.0, experts or 1.0
    if data is None:
        data = total / (tensor * pipeline * context)
        inferred.append("dp")
    if tensor * pipeline * context > total:
        raise Unpredictable(f"tp x pp x cp is {tensor * pipeline * context:g}, more than the {total:g} accelerators")
    if pipeline > model.layers:
        raise Unpredictable(f"{pipeline:g} pipeline stages for {model.layers} layers")
    if sharding and sharding not in _SHARDING:
        misread("zero_or_fsdp", cells.text("zero_or_fsdp"), _SHARDING)
    if not sharding:
        sharding = "fsdp_full" if family == "TPU" else used.sharding
        inferred.append("zero_or_fsdp")
    stage, fsdp = _SHARDING[sharding]

    replica = max(1.0, batch / data)
    microbatch = cells.number("micro_batch")
    if microbatch is None and stage >= 3 and pipeline == 1:
        microbatch = replica if used.name == "deepspeed-zero3" else min(replica, 8.0)
        inferred.append("micro_batch")
    elif microbatch is None and pipeline > 1:  # torchtitan's default: as many microbatches as stages
        microbatch = max(1.0, replica / pipeline) if used.name == "torchtitan" else 1.0
        inferred.append("micro_batch")
    chunks = cells.count("virtual_stages")
    if chunks is None:
        chunks = 1.0
        said = "interleav" in note.lower() and "non-interleav" not in note.lower()
        if pipeline > 1 and (said or used.interleaves):
            chunks = 2.0 if used.name == "torchtitan" else float(max(1, min(4, int(model.layers // pipeline // 2))))
            inferred.append("virtual_stages")
    sequence_parallel = cells.flag("sequence_parallel")
    recompute = recompute_of(cells.text("activation_recompute"))
    if recompute is None:
        inferred.append("recompute")

    machine = machine_of(chip, precision)
    link, network = cells.number("intra_node_link_gbps"), cells.number("inter_node_gbps_per_accelerator")
    machine = replace(
        machine,
        domain=cells.count("accelerators_per_node") or machine.domain,
        link_bandwidth=machine.link_bandwidth if link is None else Q(link, "Gb/s").to("GB/s"),
        network_bandwidth=machine.network_bandwidth if network is None else Q(network, "Gb/s").to("GB/s"),
    )
    variant = re.search(r"variant with (\d+) ?GB \S+ \(([0-9.]+) TB/s\)", note)  # of the memory, as the row's makers state it
    if variant:
        size, speed = Q(float(variant.group(1)), "GiB"), Q(float(variant.group(2)), "TB/s")
        machine = replace(
            machine, memory=size.to(machine.memory.units), memory_bandwidth=speed.to(machine.memory_bandwidth.units)
        )
    setting = Setting(used, chip.name, precision, model.experts > 0, stage >= 3 or fsdp)
    stated_batch = batch
    if data > batch:
        inferred.append(f"a batch of {data:g} sequences, one per replica")
        batch = data
    layouts = Layouts(
        tensor_parallel=tensor, pipeline_parallel=pipeline, data_parallel=data, context_parallel=context, expert_parallel=experts,
        microbatch=min(microbatch or 1.0, batch / data), precision=precision, virtual_stages=chunks,
        sequence_parallel=used.sequence_parallel if sequence_parallel is None else sequence_parallel,
        recompute=NONE if recompute is None else recompute,
        zero_stage=stage, fsdp=fsdp, hybrid_shard=family == "TPU",
    )  # fmt: skip
    fused = used.fused_attention or sequence >= 8192 or "flashattention" in note.lower()
    job = TrainingJob(Q(sequence, "token"), batch)
    run = Run(shape_of(model, job.sequence_length), machine, job, layouts, used.overlapped, fused, used.scatters_sends)
    if microbatch is None:
        run = _fastest_microbatch(run, setting, constants, "recompute" in inferred)
        inferred.append("micro_batch")
    if "ep" in inferred:
        run = _least_expert_parallel(run, min(float(model.experts), total / pipeline))
    if "zero_or_fsdp" in inferred and minimum_memory(run).m_as("byte") > machine.memory.m_as("byte"):
        run = replace(run, layouts=replace(run.layouts, zero_stage=3, fsdp=True))  # it ran, so more was sharded
        setting = replace(setting, sharded=True)
    if "recompute" in inferred:
        run = _lightest_recompute(run, constants)
    time, weight = _time(cells, model, chip, used, sequence, stated_batch, total)
    return Case(
        id=cells.text("id"), source=source, hardware=hardware, model=model, chip=chip, setting=setting, run=run, time=time,
        weight=weight, peak_memory=_stated_memory(note), long_context=sequence >= 32768, inferred=tuple(inferred),
    )  # fmt: skip


def _least_expert_parallel(run: Run, most: float) -> Run:
    """The smallest power of two of expert-parallel ranks at which the run's minimum memory fits: it ran."""
    while minimum_memory(run).m_as("byte") > run.machine.memory.m_as("byte") and 2 * run.layouts.expert_parallel <= most:
        run = replace(run, layouts=replace(run.layouts, expert_parallel=2 * run.layouts.expert_parallel))
    return run


def _lightest_recompute(run: Run, constants: Constants) -> Run:
    """No recompute, else selective, else full: the first whose expected peak fits."""
    for mode in (NONE, SELECTIVE, FULL):
        run = replace(run, layouts=replace(run.layouts, recompute=mode))
        if peak_memory(run, constants.memory)[0].m_as("byte") <= run.machine.memory.m_as("byte"):
            break
    return run


def _fastest_microbatch(run: Run, setting: Setting, constants: Constants, any_recompute: bool) -> Run:
    """The power of two up to 16 that the prior constants find fastest within 70 % of the memory: what a user would tune to."""
    resolved = {name: value[0] for name, value in constants.at_priors().resolve([setting]).items()}
    best, fastest = run, math.inf
    for size in (1.0, 2.0, 4.0, 8.0, 16.0):
        trial = replace(run, layouts=replace(run.layouts, microbatch=min(size, run.job.global_batch / run.layouts.data_parallel)))
        trial = _lightest_recompute(trial, constants) if any_recompute else trial
        time = evaluate(trial, resolved)[0].m_as("s")
        crowded = peak_memory(trial, constants.memory)[0] > 0.7 * trial.machine.memory
        if time < 0.99 * fastest and (size == 1.0 or not crowded):
            best, fastest = trial, time
    return best


def _time(
    cells: Cells, model: Transformer, chip: Accelerator, used: Stack, sequence: float, batch: float, total: float
) -> tuple[float | None, float]:
    """(measured step time [s], its weight): as printed, else from tokens/s, else (MaxText only) from model FLOP/s."""
    time, rate = cells.number("iteration_s"), cells.number("tokens_per_s_per_accelerator")
    if time is None and rate is not None:
        time = batch * sequence / (rate * total)
    if time is not None or used.name != "maxtext":
        return time, 1.0
    teraflops, share = cells.number("model_tflops_per_accelerator"), cells.number("mfu_pct")
    if teraflops is None and share is not None and "bf16" in chip.peak:
        teraflops = share / 100 * chip.peak["bf16"].m_as("TFLOP/s")
    if teraflops is None:
        return None, 1.0
    operations = 6 * model.active_parameters + 12 * model.layers * sequence * model.heads * model.head_dim
    return batch * sequence * operations / (teraflops * 1e12 * total), 0.6


def _stated_memory(note: str) -> float | None:
    """Peak memory that a note prints [GiB]."""
    said = re.search(r"peak memory ([0-9.]+) ?(GiB|GB)", note)
    return None if said is None else float(said.group(1)) * (1e9 if said.group(2) == "GB" else 2**30) / 2**30


def stacked(runs: Sequence[Run]) -> Run:
    """Many single runs as one run of arrays."""
    merged: Run = _stacked(runs)
    return merged


def _stacked(records: Sequence[Any]) -> Any:
    changes: dict[str, Any] = {}
    for item in fields(records[0]):
        values = [getattr(record, item.name) for record in records]
        if is_dataclass(values[0]):
            changes[item.name] = _stacked(values)
        elif isinstance(values[0], Quantity):
            unit = values[0].units
            changes[item.name] = Q(np.array([float(value.m_as(unit)) for value in values]), unit)
        elif isinstance(values[0], str):
            changes[item.name] = np.array(values)
        else:
            changes[item.name] = np.array([float(value) for value in values])
    return replace(records[0], **changes)


def cases_of(rows: Iterable[Mapping[str, Any]], zoo: Zoo, constants: Constants) -> tuple[list[Case | None], list[dict[str, str]]]:
    """(the case of each row, None where it cannot be predicted; [{"id", "reason"}] of those rows)."""
    given = list(rows)
    cases: list[Case | None] = []
    reasons: dict[int, str] = {}
    for number, row in enumerate(given):
        try:
            cases.append(case_of(row, zoo, constants))
        except (ValueError, ArithmeticError) as error:
            cases.append(None)
            reasons[number] = one_line(error)
    if not _finite([case for case in cases if case is not None], constants):  # then find out which
        for number, case in enumerate(cases):
            if case is not None and not _finite([case], constants):
                cases[number], reasons[number] = None, "the cells describe no run with a finite time and memory"
    names = (Cells(row).text("id") or f"row {number}" for number, row in enumerate(given, 1))
    return cases, [{"id": name, "reason": reasons[number]} for number, name in enumerate(names) if number in reasons]


def _finite(cases: Sequence[Case], constants: Constants) -> bool:
    """Whether the model gives every case a finite time and memory."""
    if not cases:
        return True
    run = stacked([case.run for case in cases])
    try:
        time = evaluate(run, constants.resolve([case.setting for case in cases]))[0].m_as("s")
        peak = peak_memory(run, constants.memory)[0].m_as("byte")
    except (ValueError, ArithmeticError):
        return False
    return bool(np.all(np.isfinite(time) & (time > 0) & np.isfinite(peak)))


def read_cases(rows: Iterable[Mapping[str, Any]], zoo: Zoo, constants: Constants) -> list[Case]:
    """The rows that can be predicted."""
    return [case for case in cases_of(rows, zoo, constants)[0] if case is not None]
