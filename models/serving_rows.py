"""Measured runs of serving engines as inputs of the serving model: a row -> regime, chip, model, layout, load.

Columns of a row: those of `data/serving_measurements.csv`. Blanks are unknown. Nothing here reads a measured value except
`targets_of`, and nothing looks at a row's id. `concurrency_or_batch` is an input: where it says how many requests an open
loop had in flight (MLPerf server runs, by Little's law on their measured latency), it is used as the batch.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from zoo.catalog import Catalog, load
from zoo.errors import UnknownName
from zoo.specs import Accelerator, Transformer
from zoo.units import Q, Quantity

from . import node, serving
from .calibration import REGIMES, CalibrationError, Constants, Selection, family_of, tflops_per_watt
from .constants import table

Array = NDArray[np.float64]
Row = Mapping[str, Any]
T = TypeVar("T")

COLUMNS = (
    "id", "source", "model", "params_b", "active_params_b", "layers", "hidden", "heads", "kv_heads", "head_dim", "vocab",
    "hardware", "n_accelerators", "tp", "pp", "ep", "weight_precision", "kv_precision", "engine", "isl", "osl",
    "concurrency_or_batch", "scenario", "request_rate_qps", "ttft_ms", "tpot_ms", "output_tokens_per_s_total",
    "total_tokens_per_s", "tokens_per_s_per_accelerator", "verified", "note",
)  # fmt: skip
_NEEDED = ("model", "hardware")
_MEASURED = ("ttft_ms", "tpot_ms", "output_tokens_per_s_total")

# Stored bytes per element. 4-bit block formats: 16 elements to an 8-bit scale (nvfp4), 32 (mxfp4). "mxfp4" and "int4"
# checkpoints of mixtures of experts quantise the experts only; int4 weights are multiplied in 16 bits.
_BYTES = {
    "fp32": 4.0,
    "fp16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5625,
    "nvfp4": 0.5625,
    "mxfp4": 0.53,
    "int4": 0.53,
}


_FORMATS = (  # the first that a spelling contains, without punctuation
    ("nvfp4", "nvfp4"), ("mxfp4", "mxfp4"), ("fp4", "fp4"), ("w4a16", "int4"), ("w4a8", "int4"), ("int4", "int4"),
    ("awq", "int4"), ("gptq", "int4"), ("w8a8fp8", "fp8"), ("fp8", "fp8"), ("e4m3", "fp8"), ("e5m2", "fp8"), ("w8a8", "int8"),
    ("w8a16", "int8"), ("int8", "int8"), ("bf16", "bf16"), ("bfloat16", "bf16"), ("fp16", "fp16"), ("float16", "fp16"),
    ("half", "fp16"), ("fp32", "fp32"), ("float32", "fp32"),
)  # fmt: skip


class MeasurementError(ValueError):
    """A measurement file that cannot be used. The message is one clear line."""


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV with the columns of `serving_measurements.csv`. Raises MeasurementError, one line."""
    file = Path(path)
    if not file.is_file():
        raise MeasurementError(f"{file}: no such file")
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = {name: name.strip().lower() for name in reader.fieldnames or () if name}
            if not names:
                raise MeasurementError(
                    f"{file}: empty, expected a CSV whose first line names columns such as {', '.join(_NEEDED)}"
                )
            missing = [name for name in _NEEDED if name not in names.values()]
            if not set(_MEASURED) & set(names.values()):
                missing.append(" or ".join(_MEASURED))
            if missing:
                raise MeasurementError(f"{file}: missing columns {', '.join(missing)}")
            return [{names[key]: (value or "").strip() for key, value in row.items() if key in names} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise MeasurementError(f"{file}: not a CSV in UTF-8: {error}") from None
    except OSError as error:
        raise MeasurementError(f"{file}: cannot read: {error.strerror}") from None


def read_benchmark(path: str | Path, **columns: str) -> dict[str, str]:
    """One row from a result file of vLLM's or SGLang's serving benchmark, or of AIPerf / GenAI-Perf (JSON).

    These files seldom say on what they ran: `columns` gives `hardware`, `tp`, `weight_precision`, ... and wins over the file;
    keys of the file that are columns (vLLM's --metadata) count too. Raises MeasurementError where a fact that the model needs
    is in neither.
    """
    file = Path(path)
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MeasurementError(f"{file}: {'no such file' if not file.exists() else error.strerror}") from None
    except ValueError as error:
        raise MeasurementError(f"{file}: not one JSON object: {error}") from None
    if not isinstance(document, Mapping):
        raise MeasurementError(f"{file}: a benchmark result is one JSON object")
    if "mean_ttft_ms" in document or "mean_tpot_ms" in document:
        row = _vllm_row(document)
    elif "time_to_first_token" in document:
        row = _aiperf_row(document)
    else:
        raise MeasurementError(f"{file}: neither a vLLM benchmark result (mean_ttft_ms) nor AIPerf's (time_to_first_token)")
    row |= {key: str(value) for key, value in document.items() if key in COLUMNS and isinstance(value, (str, int, float))}
    row = {"id": file.stem, "source": "user benchmark", "scenario": "online", **row, **columns}
    if row.get("tp") and not row.get("n_accelerators"):
        row["n_accelerators"] = row["tp"]
    facts = {"model": "Llama-3.1-8B", "hardware": "H100", "engine": "vllm", "tp": "4", "isl": "1000", "osl": "250"}
    facts |= {} if format_of(row.get("model")) else {"weight_precision": "fp8"}
    missing = [name for name in facts if not row.get(name)]
    if missing:
        example = " ".join(f"--with {name}={facts[name]}" for name in missing)
        raise MeasurementError(f"{file}: does not say {', '.join(missing)}: add them, for example {example}")
    return row


def _vllm_row(document: Row) -> dict[str, str]:
    completed = number(document.get("completed"), 1.0) or 1.0
    rate, together = number(document.get("request_rate")), number(document.get("max_concurrency"))
    unlimited = math.isinf(rate) and math.isnan(together)  # every request is sent at once
    backend = str(document.get("backend") or document.get("endpoint_type") or "")
    return {
        "model": str(document.get("model_id") or document.get("model") or ""),
        "isl": _text(number(document.get("total_input_tokens")) / completed),
        "osl": _text(number(document.get("total_output_tokens")) / completed),
        "concurrency_or_batch": _text(together),
        "request_rate_qps": "inf" if unlimited else _text(rate) if math.isfinite(rate) else "",
        "ttft_ms": _text(number(document.get("mean_ttft_ms"))),
        "tpot_ms": _text(number(document.get("mean_tpot_ms"))),
        "output_tokens_per_s_total": _text(number(document.get("output_throughput"))),
        "note": f"{completed:g} requests",
        "engine": backend if _engine_generation({"engine": backend}) else "vllm",
    }


def _aiperf_row(document: Row) -> dict[str, str]:
    def mean(key: str) -> float:
        value = document.get(key)
        if not isinstance(value, Mapping):
            return math.nan
        scale = {"s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}.get(str(value.get("unit", "")), 1.0)
        return number(value.get("avg")) * (scale if "time" in key or "latency" in key else 1.0)

    flat = list(_flatten(document.get("input_config") or {}))

    def first(*names: str) -> Any:
        return next((v for n in names for k, v in flat if k.split(".")[-1] == n and v not in (None, "")), None)

    def length(key: str, total: str) -> float:
        direct = mean(key)
        return mean(total) / (mean("request_count") or math.nan) if math.isnan(direct) else direct

    model = first("model_names", "formatted_model_name", "model")
    chips = [value for key, value in _flatten(document.get("telemetry_data") or {}) if key.split(".")[-1] == "gpu_name"]
    seen = {"hardware": str(chips[0])} if chips else {}
    return seen | {
        "model": str(model[0] if isinstance(model, list) and model else model or ""),
        "isl": _text(length("input_sequence_length", "total_isl")),
        "osl": _text(length("output_sequence_length", "total_osl")),
        "concurrency_or_batch": _text(number(first("concurrency"))),
        "request_rate_qps": _text(number(first("request_rate"))),
        "ttft_ms": _text(mean("time_to_first_token")),
        "tpot_ms": _text(mean("inter_token_latency")),
        "output_tokens_per_s_total": _text(mean("output_token_throughput")),
        "note": f"{mean('request_count'):g} requests" if mean("request_count") > 0 else "",
    }


def _flatten(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{key}")
    else:
        yield prefix, value


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:g}"


def number(value: Any, default: float = math.nan) -> float:
    """`value` as a number (thousands may be set off by commas), `default` where it is blank, not a number, or text."""
    try:
        result = float(re.sub(r"(?<=\d),(?=\d{3}\b)", "", value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return default
    return default if math.isnan(result) else result


# -------------------------------------------------------------------------------------------------- what was measured


def targets_of(row: Row) -> dict[str, float]:
    """regime -> measured value (ms, or output tokens/s).

    A request rate (a number or `inf`): open loop. Otherwise a throughput of an offline or latency scenario: static batch where
    the note or the engine says so, else maximum throughput. Otherwise latencies at a fixed concurrency: closed loop.
    """
    measured = {name: number(row.get(name)) for name in ("ttft_ms", "tpot_ms", "output_tokens_per_s_total")}
    good = {name: value for name, value in measured.items() if math.isfinite(value) and value > 0}
    if not math.isnan(number(row.get("request_rate_qps"))):
        names = {"open_tpot": "tpot_ms", "open_ttft": "ttft_ms"}
    elif "output_tokens_per_s_total" in good and row.get("scenario") in ("offline", "latency"):
        names = {"static_throughput" if is_static(row) else "max_throughput": "output_tokens_per_s_total"}
    elif row.get("scenario") != "offline":
        names = {"closed_tpot": "tpot_ms", "closed_ttft": "ttft_ms"}
    else:
        names = {}
    return {regime: good[name] for regime, name in names.items() if name in good}


def is_static(row: Row) -> bool:
    """Whether all prompts of a batch start together."""
    text = f"{row.get('note', '')} {row.get('engine', '')}".lower()
    return "static batch" in text or "benchmark_latency" in text


def engine_of(row: Row) -> str:
    """The engine generation (serving_engines.csv) of a row. An engine that is not known is taken for vLLM."""
    return _engine_generation(row) or "vllm"


def _engine_generation(row: Row) -> str | None:
    text, source = str(row.get("engine", "")).lower(), str(row.get("source", "")).lower()
    if text in {r["engine"] for r in table("serving_engines")}:
        return text
    if "mlperf" in source or "mlcommons" in source:
        return "mlperf" if "tensorrt" in text else "mlperf_v"
    if "sglang" in text:
        return "sglang"
    if "trt" in text or "tensorrt" in text:
        version = _version(text, r"\D*?")
        if "static" in text or "2024" in text or (version and version < (0, 10)):
            return "trt_static"
        if version and version[0] == 0:
            return "trt_cpp"
        return "mlperf" if text.startswith("tensorrt ") else "trt_py"
    if "deepspeed" in text:
        return "deepspeed"
    if "vllm" in text:
        version = _version(text, r".*?vllm[^\d,;(]*")
        if "2023" in text:
            return "vllm23"
        if "2024" in text or (version and version < (0, 6)):
            return "vllm24"
        return "vllm_old" if version and version < (0, 15) else "vllm"
    return None


def _version(text: str, before: str) -> tuple[int, int] | None:
    found = re.match(before + r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


# ------------------------------------------------------------------------------------------------- chips and models


_MAKERS = re.compile(r"\b(nvidia|amd|intel|google|cloud|aws|habana|instinct|tesla|geforce|radeon|quadro)\b", re.IGNORECASE)
_VARIANT = re.compile(r"\d+(gb|gib|g)?|sxm\d*|pcie|hbm\w*|nvl\d*|x\d+")  # what tells cards of one chip apart


def chip_of(name: str, catalog: Catalog) -> Accelerator | None:
    """The catalogue's accelerator that a row's hardware name means; None where nothing is like it.

    Makers and counts ("8x NVIDIA H100") are left aside; the chip itself must be named, form and memory choose among its cards.
    """
    bare = re.sub(r"^\s*\d+ ?x ?(?=[a-z])", "", _MAKERS.sub(" ", name), flags=re.IGNORECASE).strip(" -_")
    for spelling in (name, bare, re.sub(r"[- ]?\d+ ?gb$", "", bare, flags=re.IGNORECASE)):
        try:
            found = catalog.find("chips", spelling)
        except UnknownName:
            continue
        assert isinstance(found, Accelerator)
        return found
    asked = [t for t in re.split(r"[^a-z0-9]+", bare.lower()) if t]
    wanted = [t for t in asked if any(c.isdigit() for c in t) and not _VARIANT.fullmatch(t)] or asked[:1]
    best: tuple[float, str] | None = None
    for chip in catalog.chips.values():
        for spelling in (chip.name, *chip.aliases):
            tokens = [t for t in re.split(r"[^a-z0-9]+", spelling.lower()) if t]
            if not wanted or not all(any(t.rstrip("x") == w.rstrip("x") for t in tokens) for w in wanted):
                continue
            shared = sum(any(a.startswith(t) or t.startswith(a) for t in tokens) for a in asked)
            score = (shared - 0.1 * len(tokens), chip.name)
            if best is None or score > best:
                best = score
    return catalog.chips[best[1]] if best else None


def model_of(row: Row, catalog: Catalog) -> Transformer | None:
    """The transformer of a row: the catalogue's by name or by shape, with the row's own figures; None without any figure."""
    found = known_model(row, catalog)
    said, said_active = _sizes_in(str(row.get("model", "")))
    total = number(row.get("params_b"), found.parameters / 1e9 if found else said) * 1e9
    if math.isnan(total):
        return None
    active = number(row.get("active_params_b"), found.active_parameters / 1e9 if found else min(said_active, total / 1e9)) * 1e9
    kv = str(row.get("kv_heads", ""))
    if found is None:
        layers = int(number(row.get("layers"), round(6.0 * (active / 1e9) ** 0.45 + 18)))  # the trend over published models
        hidden = number(row.get("hidden"), math.sqrt(active / 12 / layers))
        heads = number(row.get("heads"), max(hidden / 128, 1.0))
        moe = total > 1.2 * active
        found = Transformer(
            name=str(row.get("model", "")), layers=layers, hidden=int(hidden), heads=int(heads), kv_heads=8,
            head_dim=int(hidden / heads), vocab=128_000, parameters=total, active_parameters=active, kv_layers=layers,
            attention="MLA" if "MLA" in kv else "GQA", experts=128 if moe else 0, top_k=8 if moe else 0,
            moe_layers=layers if moe else 0, kv_lora_rank=512, qk_rope_dim=64, qk_nope_dim=128, v_head_dim=128,
        )  # fmt: skip
    if "MLA" in kv and found.attention != "MLA":
        found = replace(found, attention="MLA", kv_lora_rank=512, qk_rope_dim=64, qk_nope_dim=128, v_head_dim=128)
    changes: dict[str, Any] = {
        name: int(number(row.get(name))) for name in ("hidden", "heads", "kv_heads", "vocab") if number(row.get(name), 0.0) >= 1
    }
    width = number(str(row.get("head_dim", "")).split("/")[0], 0.0)
    if width >= 1 and found.attention != "MLA":
        changes["head_dim"] = int(width)
    if not found.experts and total > 1.2 * active:
        changes |= {"experts": 128, "top_k": 8, "moe_layers": found.layers}
    return replace(found, parameters=total, active_parameters=min(active, total), **changes)


def known_model(row: Row, catalog: Catalog) -> Transformer | None:
    """The catalogue's transformer that a row names, or that has its name in part, its size and its shape."""
    name = str(row.get("model", ""))
    plain = _EDITION.sub("", name.split("/")[-1])
    for spelling in (name, name.split("/")[-1], name.split("/")[0], plain):
        try:
            found = catalog.find("models", spelling)
        except UnknownName:
            continue
        if isinstance(found, Transformer) and found.kv_layers + found.state_layers:
            return found
    total, layers, hidden = (number(row.get(k)) for k in ("params_b", "layers", "hidden"))
    asked = _letters(plain)
    near: list[tuple[float, str]] = []
    for known in catalog.models.values():
        if not isinstance(known, Transformer) or not known.kv_layers + known.state_layers:
            continue
        apart = abs(math.log(known.parameters / 1e9 / total)) if total > 0 else math.inf
        own = _letters(known.name)
        if asked and (own in asked or asked in own) and apart + (known.layers != layers) < 0.3:
            near.append((apart, known.name))
        elif known.layers == layers and known.hidden == hidden and apart < 0.3:
            near.append((1 + apart, known.name))
    chosen = catalog.models[min(near)[1]] if near else None
    return chosen if isinstance(chosen, Transformer) else None


# What a checkpoint's name adds to that of its model: tuning, number format, date.
_EDITION = re.compile(
    r"[-_ .](instruct|chat|it|hf|base|thinking|preview|kv|dynamic|static|awq|gptq|(nv|mx)?fp(4|8|16)|bf16|int[48]|w\da\d+|"
    r"quantized[.\w]*|v0\.\d|\d{4}|block|2507)(?=$|[-_ .])",
    re.IGNORECASE,
)


def format_of(*spellings: Any) -> str:
    """The number format (a key of `_BYTES`) that the first of some spellings names; "" where none does."""
    for spelling in spellings:
        text = re.sub(r"[^a-z0-9]", "", str(spelling or "").lower())
        for part, name in _FORMATS:
            if part in text:
                return name
    return ""


def _sizes_in(name: str) -> tuple[float, float]:
    """(total, active) billions of parameters that a model's name states ("Qwen3-30B-A3B": 30 and 3), nan and infinity if not."""
    total = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", name, re.IGNORECASE)
    active = re.search(r"(?<![a-z0-9])a(\d+(?:\.\d+)?)b(?![a-z0-9])", name, re.IGNORECASE)
    return float(total[1]) if total else math.nan, float(active[1]) if active else math.inf


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


# ------------------------------------------------------------------------------------------------- one run, many runs


@dataclass(frozen=True, slots=True)
class Run:
    """One row, read: everything that the model needs, as scalars."""

    kind: str  # closed | open | static | max
    chip: Accelerator
    model: str
    engine: str
    engine_said: str  # the generation, or the row's own words where they name none
    work: serving.Work
    device: serving.Device
    layouts: serving.Layouts
    links: serving.Links
    load: serving.Load
    bits: int
    expert_bits: int
    tflops_per_watt: float
    trust: float  # weight in a fit
    trust_ttft: float


@dataclass(frozen=True, slots=True)
class Runs:
    """Many runs as arrays. `targets`: regime -> measured, nan where not measured."""

    kind: Any
    chip: Any
    model: Any
    engine: Any
    engine_said: Any
    family: Any
    vendor: Any
    work: serving.Work
    device: serving.Device
    layouts: serving.Layouts
    links: serving.Links
    load: serving.Load
    bits: Array
    expert_bits: Array
    tflops_per_watt: Array
    trust: Array
    trust_ttft: Array
    targets: dict[str, Array]

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def selection(self) -> Selection:
        """Which constants each run takes."""
        return Selection(self.family, self.vendor, self.engine, self.tflops_per_watt)

    def deployment(self, constants: Constants) -> serving.Deployment:
        """The runs with constants (arrays, one element per run)."""
        eta = constants.compute_efficiency

        def chosen(bits: Array) -> Any:
            return np.where(bits == 4, eta["fp4"], np.where(bits == 8, eta["fp8"], eta["bf16"]))

        layouts = replace(self.layouts, compute_efficiency=chosen(self.bits), expert_efficiency=chosen(self.expert_bits))
        return serving.Deployment(self.work, layouts, self.device, self.links, constants)


def run_of(row: Row, catalog: Catalog) -> Run:
    """One row as a run. Raises MeasurementError with the reason where it cannot be predicted."""
    targets = targets_of(row)
    if not targets:
        raise MeasurementError("no latency or throughput of any regime was measured")
    chip = chip_of(str(row.get("hardware", "")), catalog)
    if chip is None:
        raise MeasurementError(f"chip {row.get('hardware')!r} is not in the catalogue")
    model = model_of(row, catalog)
    if model is None:
        raise MeasurementError(f"model {row.get('model')!r} is not in the catalogue and the row has no params_b")
    note, source = str(row.get("note", "")), str(row.get("source", ""))
    engine, family = engine_of(row), family_of(chip.name, chip.vendor)
    kind = next(iter(targets)).split("_")[0]
    moe = bool(node.routed_parameters(model)) and model.parameters > 1.2 * model.active_parameters
    if not moe:
        model = replace(model, experts=0, top_k=0, moe_layers=0)
    mlperf = "mlcommons" in source.lower() or "mlperf" in source.lower()

    # Precision. MLPerf lists the checkpoint it started from; its engines run the lowest precision that the chip supports.
    weights = format_of(row.get("weight_precision"), row.get("model")) or "bf16"
    cache = format_of(row.get("kv_precision"))
    if mlperf and weights in ("fp16", "bf16") and cache == "fp8":
        weights = "fp4" if "fp4" in chip.peak else "fp8"
    if not cache:
        cache = "fp8" if weights in ("fp8", "fp4") and not engine.startswith(("vllm", "sglang")) else "bf16"
    experts_only = moe and weights in ("mxfp4", "int4")
    expert_bytes = _BYTES.get(weights, 2.0)
    dense_bytes = 2.0 if experts_only else expert_bytes
    peaks = {16: chip.peak.get("bf16", chip.peak.get("fp16")), 8: chip.peak.get("fp8"), 4: chip.peak.get("fp4")}
    if peaks[16] is None:
        raise MeasurementError(f"no 16-bit peak of {chip.name} is known")
    bits = 16 if weights == "int4" or experts_only or dense_bytes >= 2 or family in ("ampere", "cdna2") else 8
    if weights in ("fp4", "nvfp4"):
        bits = 4 if peaks[4] is not None else 8
    if peaks[bits] is None:
        bits = 16
    expert_bits = 8 if weights == "mxfp4" and peaks[4] is not None and peaks[8] is not None else bits

    # Layout. Attention data-parallel where the note says so, where ep exceeds tp, and in wide deployments.
    ranks, tensor = number(row.get("n_accelerators"), 1.0), number(row.get("tp"))
    stages, expert = max(number(row.get("pp"), 1.0), 1.0), max(number(row.get("ep"), 1.0), 1.0)
    kv_bytes = Q(_BYTES.get(cache, 2.0), "byte")
    input_tokens = number(row.get("isl"))
    given_input = input_tokens
    if math.isnan(input_tokens):
        tasks = table("serving_tasks") if mlperf else ()
        known = (float(t["input_tokens"]) for t in tasks if re.search(t["pattern"], str(row.get("model", "")).lower()))
        input_tokens = next(known, 1024.0)
    drawn = 0.9 if "[0.8,1.0]" in note else 1.0  # lengths drawn evenly from this share of the nominal length
    output_tokens = number(row.get("osl"), 1024.0)
    natural = output_tokens != round(output_tokens / 16) * 16 and output_tokens % 100 != 0
    traffic = serving.Traffic(Q(max(input_tokens * drawn, 1.0), "token"), Q(max(output_tokens * drawn, 1.0), "token"))
    sparse = "DSA" in str(row.get("kv_heads", "")) or serving.is_sparse(model)
    work = serving.work_of(model, traffic, kv_bytes, sparse)
    if math.isnan(tensor) or tensor < 1:
        whole = work.routed * expert_bytes + work.dense * dense_bytes + work.tables * work.table * 2
        tensor = 1.0
        while whole / tensor > 0.7 * chip.memory.m_as("byte") and tensor < ranks:
            tensor *= 2
    group = max(tensor, expert)
    if expert > tensor or tensor > 16 or (moe and "attention-DP" in note and tensor > 1):
        tensor, expert = 1.0, group
    replicas, prefill_workers = max(1.0, ranks / (group * stages)), 1.0
    pools = re.search(r"prefill (\d+) workers tp(\d+) dp(\d+).*?decode (\d+) workers tp(\d+) dp(\d+)", note)
    if pools:
        replicas, prefill_workers = float(pools[4]), float(pools[1])

    # Load.
    asked = str(row.get("concurrency_or_batch", ""))
    concurrency = number(asked)
    if math.isnan(concurrency) and row.get("scenario") == "online":
        concurrency = 128.0 * max(expert / tensor, 1.0)  # a production fleet whose load is not stated
    requests = re.search(r"(\d+) requests", asked) or re.search(r"(\d+) requests", note)
    limit = re.search(r"max_num_seqs=(\d+)", asked)
    known_batch = kind == "open" and mlperf and math.isfinite(concurrency)
    static = kind == "static" or (kind == "closed" and is_static(row)) or "first-token" in note
    per_replica = (concurrency if math.isfinite(concurrency) else 64.0) / replicas
    loaded = serving.Load(
        concurrency=np.float64(max(per_replica, 1.0) if kind != "open" else per_replica),
        rate=np.float64(number(row.get("request_rate_qps"), 0.0) / replicas),
        requests=np.float64(requests[1] if requests else math.inf),
        replicas=np.float64(replicas),
        sequences_limit=np.float64(limit[1] if limit else math.nan),
        prefill_workers=np.float64(prefill_workers),
        static=static,
        disaggregated=bool(pools) or "decode unit" in note or "disagg" in str(row.get("engine", "")).lower(),
        median="medians" in note or ("gap-analysis" in source and engine.startswith("vllm")),
        natural=natural,
        fixed_lengths="fixed lengths" in note or "InferenceX" not in note,
        known_batch=known_batch,
    )  # fmt: skip
    device = serving.device_of(chip)
    link = chip.link_bandwidth if device.linked and chip.link_bandwidth is not None else chip.host_bandwidth
    bandwidth = Q(64.0, "GB/s") if link is None else link  # no link is recorded: the PCIe constant is lower anyway
    nothing = Q(0.0, "s")
    peak, expert_peak = peaks[bits], peaks[expert_bits]
    assert peak is not None and expert_peak is not None
    layouts = serving.Layouts(
        weight_bytes=Q(dense_bytes, "byte"), kv_bytes=kv_bytes, peak=peak, compute_efficiency=np.float64(1.0),  # type: ignore[arg-type]
        tensor_parallel=np.float64(tensor), pipeline_parallel=np.float64(stages), expert_parallel=np.float64(expert),  # type: ignore[arg-type]
        batch=loaded.concurrency, expert_bytes=Q(expert_bytes, "byte"), expert_peak=expert_peak,
        expert_efficiency=np.float64(1.0),  # type: ignore[arg-type]
    )  # fmt: skip
    said = _engine_generation(row) or f"engine {row.get('engine')!r}"
    doubts = 0.6 if "MTP" in note else 1.0
    doubts *= 0.3 if "SUSPECT" in note else 1.0
    doubts *= 0.7 if math.isnan(given_input) else 1.0
    return Run(
        kind, chip, model.name, engine, said, work, device, layouts, serving.Links(bandwidth, nothing, bandwidth, nothing),
        loaded, bits, expert_bits, tflops_per_watt(chip), doubts, 0.02 if "TTFT OUTLIER" in note else 1.0,
    )  # fmt: skip


def runs_of(rows: Sequence[Row], catalog: Catalog | None = None) -> tuple[Runs | None, list[int], dict[int, str]]:
    """Rows as arrays, the positions of the rows that could be read, and for the others why not. None: no row could."""
    catalog = load() if catalog is None else catalog
    runs, at, skipped = [], [], {}
    for position, row in enumerate(rows):
        try:
            runs.append(run_of(row, catalog))
            at.append(position)
        except (ValueError, ArithmeticError) as error:
            skipped[position] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not runs:
        return None, at, skipped
    measured = [targets_of(rows[i]) for i in at]
    return (
        Runs(
            kind=np.array([r.kind for r in runs]),
            chip=np.array([r.chip.name for r in runs]),
            model=np.array([r.model for r in runs]),
            engine=np.array([r.engine for r in runs]),
            engine_said=np.array([r.engine_said for r in runs]),
            family=np.array([family_of(r.chip.name, r.chip.vendor) for r in runs]),
            vendor=np.array([r.chip.vendor for r in runs]),
            work=_stacked([r.work for r in runs]),
            device=_stacked([r.device for r in runs]),
            layouts=_stacked([r.layouts for r in runs]),
            links=_stacked([r.links for r in runs]),
            load=_stacked([r.load for r in runs]),
            bits=np.array([float(r.bits) for r in runs]),
            expert_bits=np.array([float(r.expert_bits) for r in runs]),
            tflops_per_watt=np.array([r.tflops_per_watt for r in runs]),
            trust=np.array([r.trust for r in runs]),
            trust_ttft=np.array([r.trust_ttft for r in runs]),
            targets={regime: np.array([m.get(regime, math.nan) for m in measured]) for regime in REGIMES},
        ),
        at,
        skipped,
    )


def _stacked(records: Sequence[T]) -> T:
    """One record of arrays from many records of scalars."""
    first = records[0]
    columns: dict[str, Any] = {}
    for field in fields(first):  # type: ignore[arg-type]
        values = [getattr(record, field.name) for record in records]
        if isinstance(values[0], Quantity):
            unit = values[0].to_base_units().units
            columns[field.name] = Q(np.array([float(v.m_as(unit)) for v in values]), unit)
        else:
            columns[field.name] = np.array(values)
    return type(first)(**columns)


def rows_of(path_or_rows: str | Path | Sequence[Row], **columns: str) -> list[Row]:
    """Rows from a CSV, from a benchmark's JSON, or as they are given; `columns` fills what a file does not say."""
    if isinstance(path_or_rows, (str, Path)):
        if str(path_or_rows).lower().endswith(".json"):
            return [read_benchmark(path_or_rows, **columns)]
        return [row | {key: value for key, value in columns.items() if not row.get(key)} for row in read_rows(path_or_rows)]
    if not all(isinstance(row, Mapping) for row in path_or_rows):
        raise CalibrationError("measurements are a file or a list of rows")
    return list(path_or_rows)
