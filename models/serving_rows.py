"""Measured runs of serving engines as inputs of the serving model: a row -> regime, chip, model, layout, load.

Columns of a row: those of `data/serving_measurements.csv`. Blanks are unknown. Nothing here reads a measured value except
`targets_of`, and nothing looks at a row's id. `concurrency_or_batch` is an input: where it says how many requests an open
loop had in flight (MLPerf server runs, by Little's law on their measured latency), it is used as the batch.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Collection, Mapping, Sequence
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
from .calibration import REGIMES, Constants, Selection, family_of, tflops_per_watt
from .cells import Cells, Unpredictable, as_number, did_you_mean, misread, one_line, positive, unread
from .constants import table

Array = NDArray[np.float64]
Row = Mapping[str, Any]
T = TypeVar("T")

COLUMNS = (
    "id", "source", "model", "params_b", "active_params_b", "layers", "hidden", "heads", "kv_heads", "head_dim", "vocab",
    "hardware", "n_accelerators", "tp", "pp", "ep", "weight_precision", "kv_precision", "engine", "isl", "osl",
    "concurrency_or_batch", "scenario", "request_rate_qps", "ttft_ms", "tpot_ms", "output_tokens_per_s_total",
    "total_tokens_per_s", "tokens_per_s_per_accelerator", "statistic", "verified", "note",
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


def _spelled(*spellings: str) -> re.Pattern[str]:
    """A format's spellings where they stand as words of their own: "fp88" and "ffp8" are no "fp8"."""
    return re.compile(rf"(?<![a-z])(?:{'|'.join(spellings)})(?!\d)")


_FORMATS = {  # the first whose spelling a text contains
    "nvfp4": _spelled("nv[-_ ]?fp[-_ ]?4"),
    "mxfp4": _spelled("mx[-_ ]?fp[-_ ]?4"),
    "fp4": _spelled("fp[-_ ]?4", "float4"),
    "int4": _spelled("w4[-_ ]?a(?:16|8|fp8)", "int[-_ ]?4", "nf4", "awq", "gptq", r"(?<!\d)4[-_ ]?bits?"),
    "fp8": _spelled("(?:mx[-_ ]?)?fp[-_ ]?8", "float8", "e4m3", "e5m2"),
    "int8": _spelled("w8[-_ ]?a(?:8|16)", "int[-_ ]?8", r"(?<!\d)8[-_ ]?bits?"),
    "bf16": _spelled("bf[-_ ]?16", "bfloat[-_ ]?16", r"(?<!\d)16[-_ ]?bits?"),
    "fp16": _spelled("fp[-_ ]?16", "float[-_ ]?16", "half(?![a-z])"),
    "fp32": _spelled("fp[-_ ]?32", "float[-_ ]?32"),
}
_UNSTATED = ("auto", "default")  # an engine's own words for the format of the checkpoint


class MeasurementError(ValueError):
    """A measurement file that cannot be used. The message is one clear line."""


def read_rows(path: str | Path, given: Collection[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV with the columns of `serving_measurements.csv`. Raises MeasurementError, one line.

    given: columns that the file need not have, because they are said elsewhere.
    """
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
            missing = [name for name in _NEEDED if name not in (*names.values(), *given)]
            if not set(_MEASURED) & set(names.values()):
                missing.append(" or ".join(_MEASURED))
            if missing:
                strange = unread(names.values(), COLUMNS)
                meant = ", ".join(f"{name} for {near}" for name, near in strange.items() if near in (*missing, *_MEASURED))
                raise MeasurementError(f"{file}:1: missing columns {', '.join(missing)}" + (f"; found {meant}?" if meant else ""))
            return [{names[key]: (value or "").strip() for key, value in row.items() if key in names} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise MeasurementError(f"{file}: not a CSV in UTF-8: {error}") from None
    except OSError as error:
        raise MeasurementError(f"{file}: cannot read: {error.strerror}") from None


def number(value: Any, default: float = math.nan) -> float:
    """`value` as a number (thousands may be set off by commas), `default` where it is blank, not a number, or text."""
    try:
        result = float(re.sub(r"(?<=\d),(?=\d{3}\b)", "", value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return default
    return default if math.isnan(result) else result


# -------------------------------------------------------------------------------------------------- what was measured


_SCENARIOS = {  # without what is between the letters
    "online": "online", "serving": "online", "closed": "online", "closedloop": "online", "open": "online", "openloop": "online",
    "server": "server", "interactive": "server", "offline": "offline", "throughput": "offline", "latency": "latency",
}  # fmt: skip


def scenario_of(row: Row) -> str:
    """online, server, offline or latency; "" where the row does not say. Raises Unpredictable."""
    text = Cells(row).said("scenario")
    bare = _letters(text)
    if text and bare not in _SCENARIOS:
        misread("scenario", text, dict.fromkeys(_SCENARIOS.values()))
    return _SCENARIOS.get(bare, "")


def rate_of(row: Row) -> float | None:
    """Requests per second of an open loop, infinite where all come at once; None for another load. Raises Unpredictable."""
    text = Cells(row).said("request_rate_qps")
    if text.lower() in ("inf", "infinity"):
        return math.inf
    return positive("request_rate_qps", text) if text else None


def _measured(row: Row) -> tuple[dict[str, float], list[str]]:
    """(column -> what was measured, what is wrong with the other columns of what can be measured)."""
    cells, good, wrong = Cells(row), {}, []
    for column in _MEASURED:
        text = cells.text(column)
        try:
            if text:
                good[column] = positive(column, text)
        except Unpredictable as error:
            wrong.append(str(error))
    return good, wrong


def dropped_of(row: Row) -> list[str]:
    """What of a row's measurements cannot be used: column, value, what was expected."""
    return _measured(row)[1]


def targets_of(row: Row) -> dict[str, float]:
    """regime -> measured value (ms, or output tokens/s).

    A request rate (a number or `inf`): open loop. Otherwise a throughput of an offline or latency scenario: static batch where
    the note or the engine says so, else maximum throughput. Otherwise latencies at a fixed concurrency: closed loop.
    Raises Unpredictable where scenario or request rate make no sense.
    """
    good, scenario = _measured(row)[0], scenario_of(row)
    if rate_of(row) is not None:
        names = {"open_tpot": "tpot_ms", "open_ttft": "ttft_ms"}
    elif "output_tokens_per_s_total" in good and scenario in ("offline", "latency"):
        names = {"static_throughput" if is_static(row) else "max_throughput": "output_tokens_per_s_total"}
    elif scenario != "offline":
        names = {"closed_tpot": "tpot_ms", "closed_ttft": "ttft_ms"}
    else:
        names = {}
    return {regime: good[name] for regime, name in names.items() if name in good}


def is_static(row: Row) -> bool:
    """Whether all prompts of a batch start together."""
    text = f"{row.get('note', '')} {row.get('engine', '')}".lower()
    return "static batch" in text or "benchmark_latency" in text


_STATISTICS = {"mean": False, "average": False, "avg": False, "median": True, "p50": True}


def is_median(row: Row) -> bool:
    """Whether latencies are medians over requests, by `statistic` (mean where it is blank) or the note's own word."""
    cells = Cells(row)
    statistic = cells.said("statistic").lower()
    if statistic and statistic not in _STATISTICS:
        misread("statistic", statistic, _STATISTICS)
    return _STATISTICS[statistic] if statistic else "medians" in cells.text("note")


def engine_of(row: Row) -> str:
    """The engine generation (serving_engines.csv) of a row. An engine that is not known is taken for vLLM."""
    return engine_generation(row) or "vllm"


def engine_generation(row: Row) -> str | None:
    """The engine generation that a row's engine names; None where it names none that is known."""
    text = Cells(row).text("engine").lower()
    if text in {r["engine"] for r in table("serving_engines")}:
        return text
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
        if re.search(r"vllm[^\d,;(]*\d[\w.]*\+", text):  # a local version label marks a build changed downstream (PEP 440)
            return "vllm_build"
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
    """The transformer of a row: the catalogue's by name or by shape, with the row's own figures; None without any figure.

    Raises Unpredictable where the row's figures are none, or cannot be those of the model that it names.
    """
    found, cells = known_model(row, catalog), Cells(row)
    said, said_active = _sizes_in(cells.text("model"))
    kv = cells.text("kv_heads")
    latent = "MLA" in kv
    own = {name: cells.number(name) for name in ("params_b", "active_params_b", "layers", "hidden", "heads", "vocab")}
    own["kv_heads"] = None if latent else cells.number("kv_heads")
    width = cells.said("head_dim").split("/")[0]
    own["head_dim"] = positive("head_dim", width) if width else None
    if found is not None and found is _named_model(cells.text("model"), catalog):
        _same_model(own, found)
    elif own["params_b"] is not None and said > 0 and not 1 / _APART < own["params_b"] / said < _APART:
        name = cells.text("model")[:40]
        raise Unpredictable(
            f"params_b is {own['params_b']:g}, but the name {name!r} says {said:g}: expected that or another name"
        )
    elif found is None and own["params_b"] is None and own["layers"] and own["hidden"] and math.isinf(said_active):
        shape = 12 * own["layers"] * own["hidden"] ** 2 / 1e9  # of a dense transformer, embeddings excluded
        if said > 0 and not 1 / 3 < said / shape < 3:
            raise Unpredictable(
                f"layers {own['layers']:g} and hidden {own['hidden']:g} make about {shape:.2g} billion parameters, but the name "
                f"says {said:g}: expected another name, or params_b and active_params_b"
            )
    total = own["params_b"] or (found.parameters / 1e9 if found else said)
    if math.isnan(total):
        return None
    active = own["active_params_b"] or (found.active_parameters / 1e9 if found else min(said_active, total))
    if own["active_params_b"] is not None and active > 1.01 * total:
        raise Unpredictable(f"active_params_b is {active:g}, more than the {total:g} of params_b")
    if found is None:
        layers = int(own["layers"] or round(6.0 * active**0.45 + 18))  # the trend over published models
        hidden = own["hidden"] or math.sqrt(active * 1e9 / 12 / layers)
        heads = own["heads"] or max(hidden / 128, 1.0)
        moe = total > 1.2 * active
        found = Transformer(
            name=cells.text("model"), layers=layers, hidden=int(hidden), heads=int(heads), kv_heads=8,
            head_dim=int(hidden / heads), vocab=128_000, parameters=total * 1e9, active_parameters=active * 1e9, kv_layers=layers,
            attention="MLA" if latent else "GQA", experts=128 if moe else 0, top_k=8 if moe else 0,
            moe_layers=layers if moe else 0, kv_lora_rank=512, qk_rope_dim=64, qk_nope_dim=128, v_head_dim=128,
        )  # fmt: skip
    if latent and found.attention != "MLA":
        found = replace(found, attention="MLA", kv_lora_rank=512, qk_rope_dim=64, qk_nope_dim=128, v_head_dim=128)
    changes: dict[str, Any] = {
        name: int(value) for name in ("hidden", "heads", "kv_heads", "vocab") if (value := own[name]) is not None
    }
    if own["head_dim"] is not None and found.attention != "MLA":
        changes["head_dim"] = int(own["head_dim"])
    heads, kv_heads = changes.get("heads", found.heads), changes.get("kv_heads", found.kv_heads)
    if own["kv_heads"] is not None and heads % kv_heads:
        raise Unpredictable(f"kv_heads is {kv_heads:g}, which does not divide the {heads:g} heads of {found.name}")
    if not found.experts and total > 1.2 * active:
        changes |= {"experts": 128, "top_k": 8, "moe_layers": found.layers}
    return replace(found, parameters=total * 1e9, active_parameters=min(active, total) * 1e9, **changes)


# How far a row's figures may be from those of the model that it names: counts with and without embeddings, drafts, padding.
_APART = 1.35


def _same_model(own: Mapping[str, float | None], known: Transformer) -> None:
    """Raises Unpredictable where a row's own figures cannot be those of the catalogue's model that it names."""
    there = {
        "params_b": known.parameters / 1e9, "active_params_b": known.active_parameters / 1e9, "layers": known.layers,
        "hidden": known.hidden, "heads": known.heads,
    }  # fmt: skip
    for column, value in there.items():
        said = own[column]
        if said is not None and value and not 1 / _APART < said / value < _APART:
            raise Unpredictable(
                f"{column} is {said:g}, but {known.name} has {value:g}: expected that, another model's name or a blank"
            )


def _named_model(name: str, catalog: Catalog) -> Transformer | None:
    """The catalogue's transformer of a name, with its maker and edition or without."""
    for spelling in (name, name.split("/")[-1], name.split("/")[0], _EDITION.sub("", name.split("/")[-1])):
        try:
            found = catalog.find("models", spelling)
        except UnknownName:
            continue
        if isinstance(found, Transformer) and found.kv_layers + found.state_layers:
            return found
    return None


def known_model(row: Row, catalog: Catalog) -> Transformer | None:
    """The catalogue's transformer that a row names, or that has its name in part, its size and its shape."""
    name = str(row.get("model", ""))
    found = _named_model(name, catalog)
    if found is not None:
        return found
    plain = _EDITION.sub("", name.split("/")[-1])
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
        text = str(spelling or "").lower()
        for name, pattern in _FORMATS.items():
            if pattern.search(text):
                return name
    return ""


def _format_in(cells: Cells, column: str) -> str:
    """The number format of a cell, "" where none is stated. Raises Unpredictable with the nearest one."""
    text = cells.said(column)
    found = format_of(text)
    if text and not found and text.lower() not in _UNSTATED:
        misread(column, text, _FORMATS)
    return found


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
    inferred: tuple[str, ...]  # what the row does not say and is assumed


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
    inferred: Any
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


@dataclass(frozen=True, slots=True)
class _Formats:
    """Number formats of a run: bytes per element, and the bits and peak that products are computed with."""

    weights: str
    cache: str
    dense_bytes: float
    expert_bytes: float
    bits: int
    expert_bits: int
    peak: Quantity
    expert_peak: Quantity


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one replica is spread, and how many replicas there are."""

    tensor: float
    stages: float
    expert: float
    replicas: float
    prefill_workers: float
    pools: bool


def run_of(row: Row, catalog: Catalog) -> Run:
    """One row as a run. Raises Unpredictable with the reason where it cannot be predicted."""
    cells = Cells(row)
    targets = targets_of(row)
    if not targets:
        raise Unpredictable("; ".join(["no latency or throughput of any regime was measured", *dropped_of(row)]))
    inferred: list[str] = []
    chip, model = _chip(cells, catalog), _model(cells, row, catalog, inferred)
    note, engine, family = cells.text("note"), engine_of(row), family_of(chip.name, chip.vendor)
    kind = next(iter(targets)).split("_")[0]
    moe = bool(node.routed_parameters(model)) and model.parameters > 1.2 * model.active_parameters
    if not moe:
        model = replace(model, experts=0, top_k=0, moe_layers=0)
    formats = _formats(cells, engine, chip, family, moe, inferred)
    input_tokens, output_tokens = _lengths(cells, row, inferred)
    drawn = 0.9 if "[0.8,1.0]" in note else 1.0  # lengths drawn evenly from this share of the nominal length
    natural = output_tokens != round(output_tokens / 16) * 16 and output_tokens % 100 != 0
    traffic = serving.Traffic(Q(max(input_tokens * drawn, 1.0), "token"), Q(max(output_tokens * drawn, 1.0), "token"))
    if "DSA" in cells.text("kv_heads") and model.sparse_tokens is None:  # DeepSeek sparse attention, as published models have it
        model = replace(model, sparse_tokens=_SELECTED)
    kv_bytes = Q(_BYTES[formats.cache], "byte")
    work = serving.work_of(model, traffic, kv_bytes)
    layout = _layout(cells, model, chip, formats, work, moe, inferred)

    concurrency, requests, limit = _in_flight(cells)
    static = kind == "static" or (kind == "closed" and is_static(row)) or "first-token" in note
    if kind in ("closed", "static") and math.isnan(concurrency):
        said = cells.text("concurrency_or_batch")
        raise Unpredictable(
            f"concurrency_or_batch is {repr(said[:40]) if said else 'blank'}, expected the requests in flight of a closed loop "
            "or the batch; an open loop has request_rate_qps, inf where all requests come at once"
        )
    per_replica = (concurrency if math.isfinite(concurrency) else 64.0) / layout.replicas
    rate = rate_of(row)
    loaded = serving.Load(
        concurrency=np.float64(max(per_replica, 1.0) if kind != "open" else per_replica),
        rate=np.float64((0.0 if rate is None else rate) / layout.replicas),
        requests=np.float64(requests),
        replicas=np.float64(layout.replicas),
        sequences_limit=np.float64(limit),
        prefill_workers=np.float64(layout.prefill_workers),
        static=static,
        disaggregated=layout.pools or "decode unit" in note or "disagg" in cells.text("engine").lower(),
        median=is_median(row),
        natural=natural,
        fixed_lengths=drawn == 1.0,
        known_batch=kind == "open" and math.isfinite(concurrency),
    )  # fmt: skip
    device = serving.device_of(chip)
    link = chip.link_bandwidth if device.linked and chip.link_bandwidth is not None else chip.host_bandwidth
    bandwidth = Q(64.0, "GB/s") if link is None else link  # no link is recorded: the PCIe constant is lower anyway
    nothing = Q(0.0, "s")
    layouts = serving.Layouts(
        weight_bytes=Q(formats.dense_bytes, "byte"), kv_bytes=kv_bytes, peak=formats.peak,
        compute_efficiency=np.float64(1.0),  # type: ignore[arg-type]
        tensor_parallel=np.float64(layout.tensor), pipeline_parallel=np.float64(layout.stages),  # type: ignore[arg-type]
        expert_parallel=np.float64(layout.expert), batch=loaded.concurrency,  # type: ignore[arg-type]
        expert_bytes=Q(formats.expert_bytes, "byte"), expert_peak=formats.expert_peak,
        expert_efficiency=np.float64(1.0),  # type: ignore[arg-type]
    )  # fmt: skip
    doubts = 0.6 if "MTP" in note else 1.0
    doubts *= 0.3 if "SUSPECT" in note else 1.0
    doubts *= 0.7 if not cells.said("isl") else 1.0
    return Run(
        kind, chip, model.name, engine, engine_generation(row) or cells.text("engine")[:60] or "unnamed", work, device, layouts,
        serving.Links(bandwidth, nothing, bandwidth, nothing), loaded, formats.bits, formats.expert_bits, tflops_per_watt(chip),
        doubts, 0.02 if "TTFT OUTLIER" in note else 1.0, tuple(inferred),
    )  # fmt: skip


def _chip(cells: Cells, catalog: Catalog) -> Accelerator:
    name = cells.said("hardware")
    if not name:
        raise Unpredictable("hardware is blank, expected a chip such as H100")
    chip = chip_of(name, catalog)
    if chip is None:
        try:
            catalog.find("chips", name)
        except UnknownName as error:
            raise Unpredictable(f"hardware: {error}") from None
        raise Unpredictable(f"hardware is {name[:40]!r}, expected an accelerator")
    return chip


def _model(cells: Cells, row: Row, catalog: Catalog, inferred: list[str]) -> Transformer:
    name = cells.said("model")
    model = model_of(row, catalog)
    if model is None:
        try:
            catalog.find("models", name)
            near = f"model is {name[:40]!r}, expected one that generates text"
        except UnknownName as error:
            near = f"model: {error}" if name else "model is blank"
        raise Unpredictable(f"{near}; another model needs its params_b")
    if known_model(row, catalog) is None:
        own = [c for c in ("params_b", "active_params_b", "layers", "hidden", "heads", "kv_heads", "vocab") if cells.said(c)]
        given = ", ".join(own if cells.said("params_b") else ["the size in its name", *own])
        inferred.append(f"shape of {model.name}, which is not in the catalogue: {given}; the rest as published models have it")
    return model


def _formats(cells: Cells, engine: str, chip: Accelerator, family: str, moe: bool, inferred: list[str]) -> _Formats:
    weights = _format_in(cells, "weight_precision") or format_of(cells.text("model"))
    if not weights:
        weights = "bf16"
        inferred.append("weight_precision bf16")
    cache = _format_in(cells, "kv_precision")
    # Records of TensorRT engines with an 8-bit cache list the checkpoint that the engine was built from: it runs the lowest
    # precision that the chip supports.
    if engine == "mlperf" and weights in ("fp16", "bf16") and cache == "fp8":
        weights = "fp4" if "fp4" in chip.peak else "fp8"
        inferred.append(f"weight_precision {weights}, the lowest of the chip: the cache has 8 bits")
    if not cache:
        cache = "fp8" if weights in ("fp8", "fp4") and not engine.startswith(("vllm", "sglang")) else "bf16"
        inferred.append(f"kv_precision {cache}")
    experts_only = moe and weights in ("mxfp4", "int4")
    expert_bytes = _BYTES[weights]
    dense_bytes = 2.0 if experts_only else expert_bytes
    peaks = {16: chip.peak.get("bf16", chip.peak.get("fp16")), 8: chip.peak.get("fp8"), 4: chip.peak.get("fp4")}
    if peaks[16] is None:
        raise Unpredictable(f"no 16-bit peak of {chip.name} is known")
    bits = 16 if weights == "int4" or experts_only or dense_bytes >= 2 or family in ("ampere", "cdna2") else 8
    if weights in ("fp4", "nvfp4"):
        bits = 4 if peaks[4] is not None else 8
    if peaks[bits] is None:
        bits = 16
    expert_bits = 8 if weights == "mxfp4" and peaks[4] is not None and peaks[8] is not None else bits
    peak, expert_peak = peaks[bits], peaks[expert_bits]
    assert peak is not None and expert_peak is not None
    return _Formats(weights, cache, dense_bytes, expert_bytes, bits, expert_bits, peak, expert_peak)


def _lengths(cells: Cells, row: Row, inferred: list[str]) -> tuple[float, float]:
    """Mean tokens of a prompt and of an answer."""
    prompt, answer = cells.count("isl"), cells.count("osl")
    if prompt is None and scenario_of(row) in ("server", "offline"):
        name = cells.text("model").lower()
        task = next((t for t in table("serving_tasks") if re.search(t["pattern"], name)), None)
        if task is not None:
            prompt = float(task["input_tokens"])
            inferred.append(f"isl {prompt:g}, {task['source']}")
    if prompt is None:
        raise Unpredictable("isl is blank, expected the mean tokens of a prompt")
    if answer is None:
        answer = 1024.0
        inferred.append("osl 1024")
    return prompt, answer


def _layout(
    cells: Cells, model: Transformer, chip: Accelerator, formats: _Formats, work: serving.Work, moe: bool, inferred: list[str]
) -> _Layout:
    """Attention is data-parallel where the note says so, where ep exceeds tp, and in wide deployments."""
    note = cells.text("note")
    ranks, tensor = cells.whole("n_accelerators"), cells.whole("tp")
    stages, expert = cells.whole("pp") or 1.0, cells.whole("ep") or 1.0
    if expert > 1 and not moe:
        raise Unpredictable(f"ep is {expert:g}, but {model.name} has no experts")
    if stages > model.layers:
        raise Unpredictable(f"pp is {stages:g}, more than the {model.layers} layers of {model.name}")
    if tensor is None:
        whole = work.routed * formats.expert_bytes + work.dense * formats.dense_bytes + work.tables * work.table * 2
        tensor = 1.0
        while whole / tensor > 0.7 * chip.memory.m_as("byte") and tensor < (ranks or 1.0):
            tensor *= 2
        inferred.append(f"tp {tensor:g}, the least at which the weights fit")
    elif tensor <= _WIDEST and model.heads % tensor:
        if tensor.is_integer() and int(tensor) & (int(tensor) - 1):
            raise Unpredictable(f"tp is {tensor:g}, which does not divide the {model.heads} heads of {model.name}")
        inferred.append(f"heads padded: tp {tensor:g} does not divide the {model.heads} of {model.name}")
    group = max(tensor, expert)
    if ranks is None:
        ranks = group * stages
        inferred.append(f"n_accelerators {ranks:g}, one replica")
    for column, degree in (("tp", tensor), ("ep", expert)):
        if degree * stages > ranks:
            times = f" with pp {stages:g}" if stages > 1 else ""
            raise Unpredictable(f"{column} is {degree:g}{times}, more than the n_accelerators, {ranks:g}")
    if expert > tensor or tensor > _WIDEST or (moe and "attention-DP" in note and tensor > 1):
        tensor, expert = 1.0, group
    pools = re.search(r"prefill (\d+) workers tp(\d+) dp(\d+).*?decode (\d+) workers tp(\d+) dp(\d+)", note)
    replicas, workers = (float(pools[4]), float(pools[1])) if pools else (max(1.0, ranks / (group * stages)), 1.0)
    return _Layout(tensor, stages, expert, replicas, workers, bool(pools))


_SELECTED = 2048  # tokens that a query reads in DeepSeek-V3.2 and GLM-5
_WIDEST = 16  # no engine splits attention over more chips: a wider group is expert parallel


def _in_flight(cells: Cells) -> tuple[float, float, float]:
    """(requests in flight or batch, nan if unknown; requests of the whole run, infinite if unknown; most sequences, nan)."""
    said, note = cells.said("concurrency_or_batch"), cells.text("note")
    requests = re.search(r"(\d+) requests", said) or re.search(r"(\d+) requests", note)
    limit = re.search(r"max_num_seqs ?= ?(\d+)", said)
    together = math.nan
    if said and not re.match(r"inf(inity)?\b|unlimited\b|\d+ requests|max_num_seqs ?=", said.lower()):
        together = as_number(said)
        if not (math.isfinite(together) and together > 0):
            raise Unpredictable(
                f"concurrency_or_batch is {said[:40]!r}, expected a positive number, inf, '500 requests' or max_num_seqs=128"
            )
    return together, float(requests[1]) if requests else math.inf, float(limit[1]) if limit else math.nan


def runs_of(rows: Sequence[Row], catalog: Catalog | None = None) -> tuple[Runs | None, list[int], dict[int, str]]:
    """Rows as arrays, the positions of the rows that could be read, and for the others why not. None: no row could."""
    catalog = load() if catalog is None else catalog
    runs, at, skipped = [], [], {}
    for position, row in enumerate(rows):
        try:
            runs.append(run_of(row, catalog))
            at.append(position)
        except (ValueError, ArithmeticError) as error:
            skipped[position] = one_line(error)
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
            inferred=_objects([r.inferred for r in runs]),
            targets={regime: np.array([m.get(regime, math.nan) for m in measured]) for regime in REGIMES},
        ),
        at,
        skipped,
    )


def _objects(values: Sequence[Any]) -> Any:
    """An array of Python objects, one dimension whatever they are."""
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result


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


def refuse_nonsense(row: Row, catalog: Catalog) -> None:
    """Raises Unpredictable at the first cell that makes no sense by itself, whatever the others are: a mistyped name or count."""
    cells = Cells(row)
    for column in ("n_accelerators", "tp", "pp", "ep"):
        cells.whole(column)
    for column in ("params_b", "active_params_b", "layers", "hidden", "heads", "vocab", *_MEASURED):
        cells.number(column)
    for column in ("isl", "osl"):
        cells.count(column)
    for column in ("weight_precision", "kv_precision"):
        _format_in(cells, column)
    scenario_of(row), rate_of(row), is_median(row), _in_flight(cells)
    if cells.said("hardware"):
        _chip(cells, catalog)
    if cells.said("model"):
        _model(cells, row, catalog, [])
    engine = cells.said("engine")
    engines = [line["engine"] for line in table("serving_engines")]
    if engine and engine_generation(row) is None and did_you_mean(engine, engines):
        misread("engine", engine, engines)
