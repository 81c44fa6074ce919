"""Fitted constants of the serving model: what real kernels and engines reach, as data with a source, and how far off they are.

A constant belongs to everything (no group), to a family of chips, to an engine, or to an engine on a family. What was
never measured is inherited from the nearest relative (`data/serving_families.csv`, `data/serving_engines.csv`), with a
wider interval. `models.serving_fit` writes the data; `calibration_from` reads a user's own.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.catalog import load
from zoo.specs import Accelerator
from zoo.units import Q, Quantity

from .cells import did_you_mean
from .constants import table
from .dimensions import Number

Array = NDArray[np.float64]

DEFAULT_ENGINE = "vllm"  # the engine that plans assume: vLLM 0.15 and later
REGIMES = ("closed_tpot", "closed_ttft", "open_tpot", "open_ttft", "static_throughput", "max_throughput")
_SCHEMA, _MAKE_ONE = "wallplan/calibration/v1", "make one with `wallplan calibrate`"
PRECISION_BITS = {"fp64": 64, "fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4}


class CalibrationError(ValueError):
    """A calibration or an engine that cannot be used. The message is one clear line."""


@dataclass(frozen=True, slots=True)
class Record:
    """One constant. `value` and `prior` in `unit` (empty: dimensionless); `sigma`: the prior's spread, in logarithms (0: not
    fitted); `rows`: measurements that it moves; `basis`: fitted | prior | kernel | assumed | engine default."""

    constant: str
    group: str
    value: float
    unit: str
    prior: float
    sigma: float
    rows: int
    basis: str
    meaning: str

    @property
    def name(self) -> str:
        return f"{self.constant}.{self.group}" if self.group else self.constant


@dataclass(frozen=True, slots=True)
class Interval:
    """How far predictions of one regime are off. `width`: half of the 80 % interval, in logarithms, on rows that were not
    fitted; `model`, `chip`, `engine`: factors on it where no measurement of that model, chip or engine was there."""

    regime: str
    rows: int
    mape: float
    median_ape: float
    bias: float
    width: float
    model: float
    chip: float
    engine: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Constants, intervals, and which models, chips and engines were measured (kind -> name -> rows)."""

    records: tuple[Record, ...]
    intervals: Mapping[str, Interval]
    covered: Mapping[str, Mapping[str, int]]
    date: str
    source: str

    @property
    def values(self) -> Array:
        """The values in SI units, in the order of `records`, and a neutral 1 at the end."""
        return np.array([*(_si(r) for r in self.records), 1.0])

    @property
    def index(self) -> Mapping[str, int]:
        return {record.name: position for position, record in enumerate(self.records)}

    def half_width(self, regime: str, model: str | None, chip: str | None, engine: str | None) -> float:
        """Half of the 80 % interval, in logarithms; wider for what was never measured (the widest factor counts). None: known."""
        interval = self.intervals[regime]
        factors = [1.0]
        for kind, name in (("model", model), ("chip", chip), ("engine", engine)):
            if name is not None and name not in self.covered.get(kind, {}):
                factors.append(getattr(interval, kind))
        return interval.width * max(factors)

    def inherited(self, model: str | None, chip: Accelerator | None, engine: str | None) -> tuple[str, ...]:
        """What was not measured and is taken from the nearest relative, in words."""
        said = []
        if model is not None and model not in self.covered.get("model", {}):
            said.append(f"no measurement of {model}: its shape alone is known, intervals are wider")
        if chip is not None and chip.name not in self.covered.get("chip", {}):
            family, chips = family_of(chip.name, chip.vendor), load().chips
            measured = (chips[name] for name in sorted(self.covered.get("chip", {})) if name in chips)
            near = [other.name for other in measured if family_of(other.name, other.vendor) == family]
            relative = ", ".join(near) if near else f"the {_families()[family]['relative'] or 'prior'} family"
            said.append(f"no measurement on {chip.name}: constants of {relative} are taken, intervals are wider")
        if engine is not None and engine not in self.covered.get("engine", {}):
            relative = _relative("engines", engine) or DEFAULT_ENGINE
            said.append(f"no measurement of engine {engine}: constants of {relative} are taken, intervals are wider")
        return tuple(said)


_SI = {"us": "s", "GB/s": "byte/s", "GB": "byte"}


@cache
def _si(record: Record) -> float:
    return record.value * _factor(record.unit)


@cache
def _factor(unit: str) -> float:
    return float(Q(1.0, unit).m_as(_SI[unit])) if unit else 1.0


@dataclass(frozen=True, slots=True)
class Constants:
    """Constants of the serving model for one chip and engine, or arrays of them. Fractions are of peak FLOP/s or bandwidth.

    `compute_efficiency` maps a precision that is multiplied in to the fraction of its peak. Meanings: serving_constants.csv.
    """

    engine: str
    compute_efficiency: Mapping[str, Any]
    sustained: Number
    prefill_efficiency: Number
    half_efficiency_rows: Number
    roofline_exponent: Number
    memory: Number
    memory_8bit: Number
    memory_4bit: Number
    logits: Number
    logits_memory: Number
    expert_compute: Number
    expert_memory: Number
    expert_half_rows: Number
    expert_size_exponent: Number
    expert_imbalance: Number
    routing_exponent: Number
    dispatch_bytes: Number
    cache_read: Number
    cache_read_8bit: Number
    decode_attention: Number
    decode_attention_latent: Number
    attention_exponent: Number
    prefill_attention: Number
    attention_half_tokens: Number
    collective_latency: Quantity
    bus_bandwidth: Number
    pcie_bandwidth: Quantity
    stage_latency: Quantity
    step: Quantity
    layer: Quantity
    tensor_parallel_layer: Number
    expert_layer: Quantity
    top_k_exponent: Number
    shared_expert_layer: Quantity
    expert_parallel_layer: Quantity
    latent_layer: Quantity
    sparse_layer: Quantity
    state_layer: Quantity
    sequence: Quantity
    prefill_launch: Quantity
    memory_share: Number
    workspace: Quantity
    smallest_cache: Number
    batch_limit: Number
    step_tokens: Number
    interference: Number
    median_share: Number
    first_token_fixed: Quantity
    step_wait: Number
    attention_parallel_wait: Number
    prompt_wait_random: Number
    prompt_wait_fixed: Number
    wait_utilisation_exponent: Number
    wait_concurrency_exponent: Number
    queue_factor: Number
    tail: Number
    natural_drain: Number

    @property
    def memory_efficiency(self) -> Number:
        """The fraction of bandwidth that reading 16-bit weights reaches."""
        return np.minimum(self.memory, 0.95)

    @property
    def largest_batch(self) -> Number:
        """The most sequences that the engine schedules."""
        return self.batch_limit


def family_of(chip: str, vendor: str) -> str:
    """The family of a chip: the first row of serving_families.csv of its vendor whose pattern its name contains."""
    name = chip.lower()
    for row in table("serving_families"):
        if row["vendor"] in ("", vendor) and re.search(row["pattern"], name):
            return row["family"]
    return "other"


def engine_named(engine: str) -> str:
    """`engine` if it is a row of serving_engines.csv; CalibrationError with the known ones otherwise."""
    known = [row["engine"] for row in table("serving_engines")]
    if engine not in known:
        raise CalibrationError(f"unknown engine {engine!r}, expected one of {', '.join(known)}{did_you_mean(engine, known)}")
    return engine


@cache
def _families() -> Mapping[str, Mapping[str, str]]:
    return {row["family"]: row for row in table("serving_families")}


@cache
def _engines() -> Mapping[str, Mapping[str, str]]:
    return {row["engine"]: row for row in table("serving_engines")}


def _relative(kind: str, name: str) -> str:
    rows = _families() if kind == "families" else _engines()
    return rows[name]["relative"] if name in rows else ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which chip and engine each element has: names, one each or arrays of them, and what the chip's peak per watt is."""

    family: Any
    vendor: Any
    engine: Any
    tflops_per_watt: Any  # nan where unknown

    def lengths(self) -> int | None:
        return None if isinstance(self.family, str) else len(self.family)


class Selector:
    """The positions of every constant for a selection: built once, applied to any vector of values (a fit tries thousands)."""

    def __init__(self, selection: Selection, index: Mapping[str, int], neutral: int) -> None:
        self.index, self._neutral = index, neutral
        self._scalar = selection.lengths() is None
        as_list = (lambda value: [value]) if self._scalar else list
        self._keys = list(
            zip(as_list(selection.family), as_list(selection.vendor), as_list(selection.engine), strict=True)
        )  # fmt: skip
        reference = np.array([float(_families()[f]["tflops_per_watt"] or "nan") for f, _, _ in self._keys])
        relative = np.asarray(selection.tflops_per_watt, float) / reference
        relative = np.where(np.isfinite(relative), relative, 1.0)
        self.power = float(relative.reshape(-1)[0]) if self._scalar else relative
        self.engine = selection.engine if self._scalar else "several"
        self._cuda_cores = [_engines()[e]["attention"] for _, _, e in self._keys]
        self.columns = self._columns()

    def _pick(self, groups: Sequence[str | None]) -> Any:
        """Positions of names, one per element; None: the neutral 1."""
        found = [self._neutral if name is None else self.index[name] for name in groups]
        return found[0] if self._scalar else np.array(found)

    def _by(self, constant: str, kind: str) -> Any:
        """The constant by family or engine, of the nearest relative that has it."""
        cache_: dict[str, str | None] = {}

        def name(group: str) -> str | None:
            if group not in cache_:
                seen, at = set(), group
                while at and at not in seen and f"{constant}.{at}" not in self.index:
                    seen.add(at)
                    at = _relative(kind, at)
                if f"{constant}.{at}" in self.index:
                    cache_[group] = f"{constant}.{at}"
                else:
                    same = [n for n in self.index if n.startswith(f"{constant}.") and n.split(".")[1] in _families()]
                    cache_[group] = same[-1] if kind == "families" and same else None
            return cache_[group]

        position = 0 if kind == "families" else 2
        return self._pick([name(key[position]) for key in self._keys])

    def _exact(self, names: Iterable[str]) -> Any:
        """The constants of these names where they exist, the neutral 1 elsewhere."""
        return self._pick([name if name in self.index else None for name in names])

    def _columns(self) -> dict[str, Any]:
        families = ("compute_16bit", "compute_8bit", "compute_4bit", "memory", "cache_read", "collective_latency")
        engines = [
            "engine_efficiency", "prefill_efficiency", "step", "layer", "tensor_parallel_layer", "sequence", "prefill_launch",
            "collective_latency_factor", "expert_layer_factor", "memory_share", "batch_limit", "step_tokens", "interference",
            "first_token_fixed", "step_wait", "prompt_wait_random", "prompt_wait_fixed", "queue_factor", "tail",
        ]  # fmt: skip
        columns = {name: self._by(name, "families") for name in families}
        columns |= {name: self._by(name, "engines") for name in engines}
        keys = self._keys
        columns["decode_attention"] = self._pick([f"decode_attention.{kind}" for kind in self._cuda_cores])
        columns["decode_attention_latent"] = self._pick(["decode_attention.latent"] * len(keys))
        columns["overhead"] = self._exact(f"overhead.{_families()[f]['overhead']}" for f, _, _ in keys)
        columns["young_port_efficiency"] = self._exact(f"young_port_efficiency.{e}:{f}" for f, _, e in keys)
        columns["young_port_overhead"] = self._exact(f"young_port_overhead.{e}:{v}" for _, v, e in keys)
        columns["step_wait_blackwell"] = self._pick(
            [self._near("step_wait_blackwell", e) if f == "blackwell" else None for f, _, e in keys]
        )
        columns["attention_parallel_wait"] = self._exact(f"attention_parallel_wait.{e}" for _, _, e in keys)
        return columns

    def _near(self, constant: str, engine: str) -> str | None:
        seen, at = set(), engine
        while at and at not in seen:
            if f"{constant}.{at}" in self.index:
                return f"{constant}.{at}"
            seen.add(at)
            at = _relative("engines", at)
        return None

    def constants(self, values: Array) -> Constants:
        """The constants of the selection, out of a vector of values (SI units; the last is 1), or of many along leading axes."""
        v = {name: values[..., at] for name, at in self.columns.items()}
        several = values.ndim > 1
        g = {name: values[..., at, None] if several else float(values[at]) for name, at in self.index.items() if "." not in name}
        overhead = v["overhead"] * v["young_port_overhead"]
        efficiency = {
            16: v["engine_efficiency"] * v["young_port_efficiency"],
            8: v["engine_efficiency"],
            4: v["engine_efficiency"],
        }
        compute = {bits: np.minimum(v[f"compute_{bits}bit"] * factor, 0.95) for bits, factor in efficiency.items()}
        waits = self.columns["attention_parallel_wait"] != self._neutral

        def time(value: Any) -> Quantity:
            return Q(value, "s")

        return Constants(
            engine=self.engine,
            compute_efficiency={name: compute[min(bits, 16)] for name, bits in PRECISION_BITS.items()},
            sustained=np.maximum(self.power, g["power_floor"]) ** -g["power_exponent"],
            prefill_efficiency=v["prefill_efficiency"],
            half_efficiency_rows=g["half_efficiency_rows"],
            roofline_exponent=np.maximum(g["roofline_exponent"], 1.0),
            memory=v["memory"] * v["engine_efficiency"],
            memory_8bit=g["memory_8bit"],
            memory_4bit=g["memory_4bit"],
            logits=g["logits"],
            logits_memory=g["logits_memory"],
            expert_compute=g["expert_compute"],
            expert_memory=g["expert_memory"],
            expert_half_rows=g["expert_half_rows"],
            expert_size_exponent=g["expert_size_exponent"],
            expert_imbalance=g["expert_imbalance"],
            routing_exponent=g["routing_exponent"],
            dispatch_bytes=g["dispatch_bytes"],
            cache_read=v["cache_read"],
            cache_read_8bit=g["cache_read_8bit"],
            decode_attention=v["decode_attention"],
            decode_attention_latent=v["decode_attention_latent"],
            attention_exponent=g["attention_exponent"],
            prefill_attention=g["prefill_attention"] * efficiency[16],
            attention_half_tokens=g["attention_half_tokens"],
            collective_latency=time(v["collective_latency"] * v["collective_latency_factor"]),
            bus_bandwidth=g["bus_bandwidth"],
            pcie_bandwidth=Q(g["pcie_bandwidth"], "byte/s"),
            stage_latency=time(g["stage_latency"]),
            step=time(v["step"] * overhead),
            layer=time(v["layer"] * overhead),
            tensor_parallel_layer=v["tensor_parallel_layer"],
            expert_layer=time(g["expert_layer"] * v["expert_layer_factor"] * overhead),
            top_k_exponent=g["top_k_exponent"],
            shared_expert_layer=time(g["shared_expert_layer"] * overhead),
            expert_parallel_layer=time(g["expert_parallel_layer"] * overhead),
            latent_layer=time(g["latent_layer"]),
            sparse_layer=time(g["sparse_layer"]),
            state_layer=time(g["state_layer"]),
            sequence=time(v["sequence"] * overhead),
            prefill_launch=time(v["prefill_launch"] * overhead),
            memory_share=np.minimum(v["memory_share"], 0.99),
            workspace=Q(g["workspace"], "byte"),
            smallest_cache=g["smallest_cache"],
            batch_limit=v["batch_limit"],
            step_tokens=v["step_tokens"],
            interference=v["interference"],
            median_share=g["median_share"],
            first_token_fixed=time(v["first_token_fixed"]),
            step_wait=v["step_wait"] * v["step_wait_blackwell"],
            attention_parallel_wait=np.where(waits, v["attention_parallel_wait"], 0.0),
            prompt_wait_random=v["prompt_wait_random"],
            prompt_wait_fixed=v["prompt_wait_fixed"],
            wait_utilisation_exponent=g["wait_utilisation_exponent"],
            wait_concurrency_exponent=g["wait_concurrency_exponent"],
            queue_factor=v["queue_factor"],
            tail=v["tail"],
            natural_drain=g["natural_drain"],
        )


@cache
def stored_calibration() -> Calibration:
    """The calibration of the repository: `data/serving_constants.csv`, `serving_intervals.csv`, `serving_coverage.csv`."""
    covered: dict[str, dict[str, int]] = {}
    for row in table("serving_coverage"):
        covered.setdefault(row["kind"], {})[row["name"]] = int(row["rows"])
    intervals = {row["regime"]: _interval(row) for row in table("serving_intervals")}
    date = next(iter(table("serving_intervals")))["date"]
    records = tuple(_record(row) for row in table("serving_constants"))
    return Calibration(records, intervals, covered, date, "models/data/serving_measurements.csv")


def _record(row: Mapping[str, Any]) -> Record:
    return Record(
        row["constant"], row["group"], float(row["value"]), row["unit"], float(row["prior"]), float(row["prior_log_sigma"]),
        int(row["rows"]), row["basis"], row["meaning"],
    )  # fmt: skip


def _interval(row: Mapping[str, Any]) -> Interval:
    figures = (float(row[k]) for k in ("mape", "median_ape", "bias", "log_half_width_80", "new_model", "new_chip", "new_engine"))
    return Interval(row["regime"], int(row["rows"]), *figures)


def as_rows(calibration: Calibration) -> dict[str, list[dict[str, Any]]]:
    """The three tables of a calibration, as they are stored."""
    return {
        "constants": [
            {"constant": r.constant, "group": r.group, "value": float(f"{r.value:.5g}"), "unit": r.unit, "prior": r.prior,
             "prior_log_sigma": r.sigma, "rows": r.rows, "basis": r.basis, "meaning": r.meaning}
            for r in calibration.records
        ],
        "intervals": [
            {"regime": i.regime, "rows": i.rows, "mape": round(i.mape, 4), "median_ape": round(i.median_ape, 4),
             "bias": round(i.bias, 4), "log_half_width_80": round(i.width, 4), "new_model": round(i.model, 3),
             "new_chip": round(i.chip, 3), "new_engine": round(i.engine, 3), "date": calibration.date}
            for i in calibration.intervals.values()
        ],
        "coverage": [
            {"kind": kind, "name": name, "rows": rows}
            for kind, names in calibration.covered.items() for name, rows in sorted(names.items())
        ],
    }  # fmt: skip


def write_tables(calibration: Calibration, folder: Path) -> None:
    """Write the three tables as `serving_<table>.csv`."""
    for name, rows in as_rows(calibration).items():
        with (folder / f"serving_{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def calibration_to(calibration: Calibration) -> dict[str, Any]:
    """A calibration as a document for a YAML or JSON file that `calibration_from` reads back."""
    return {"schema": _SCHEMA, "date": calibration.date, "source": calibration.source, **as_rows(calibration)}


def calibration_from(document: Mapping[str, Any]) -> Calibration:
    """A user's own calibration, from the document that `calibration_to` made. Raises CalibrationError.

    It has every constant of this version, and all are above zero: one that is missing would silently become 1.
    """
    missing = [key for key in ("schema", "constants", "intervals", "coverage", "date", "source") if key not in document]
    if missing:
        raise CalibrationError(f"a calibration needs the keys {', '.join(missing)}: {_MAKE_ONE}")
    if document["schema"] != _SCHEMA:
        raise CalibrationError(f"schema is {document['schema']!r}, expected {_SCHEMA!r}: {_MAKE_ONE}")
    try:
        covered: dict[str, dict[str, int]] = {}
        for row in document["coverage"]:
            covered.setdefault(row["kind"], {})[row["name"]] = int(row["rows"])
        intervals = {row["regime"]: _interval(row) for row in document["intervals"]}
        records = tuple(_record(row) for row in document["constants"])
    except (KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"not a calibration: {error!r}") from None
    stored, given = stored_calibration(), {record.name for record in records}
    for what, names in (
        ("the constants lack", [name for name in stored.index if name not in given]),
        ("the intervals lack", [regime for regime in REGIMES if regime not in intervals]),
        ("no constant of this version is", [name for name in given if name not in stored.index]),
        ("not a number above zero is", [record.name for record in records if not 0 < record.value < math.inf]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CalibrationError(f"{what} {names[0]}{more}: {_MAKE_ONE}")
    return Calibration(records, intervals, covered, str(document["date"]), str(document["source"]))


def serving_constants(
    accelerator: Accelerator, engine: str = DEFAULT_ENGINE, calibration: Calibration | None = None
) -> Constants:  # fmt: skip
    """The constants of one chip under one engine, for every precision (`compute_efficiency` is by precision)."""
    known = calibration or stored_calibration()
    engine_named(engine)
    selection = Selection(
        family_of(accelerator.name, accelerator.vendor), accelerator.vendor, engine, tflops_per_watt(accelerator)
    )  # fmt: skip
    return Selector(selection, known.index, len(known.records)).constants(known.values)


def tflops_per_watt(accelerator: Accelerator) -> float:
    """Dense 16-bit peak over TDP, nan where either is unknown."""
    peak = accelerator.peak.get("bf16", accelerator.peak.get("fp16"))
    if peak is None or accelerator.tdp is None:
        return float("nan")
    return float((peak / accelerator.tdp).m_as("TFLOP/s/W"))


def serving_measurements() -> Path:
    """The measurements that the stored constants are fitted to."""
    return Path(__file__).with_name("data") / "serving_measurements.csv"
