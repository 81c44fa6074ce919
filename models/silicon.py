"""NVIDIA's aiconfigurator as the source of decode steps and prefill times: sums of kernels that were measured on the chip.

The one file that knows that package (`pip install wallplan[silicon]`, Apache-2.0). It knows some chips, models and engine
versions; for a layout that it knows, `Factors` say how its decode step and its prefill compare with the model's own, and the
serving model multiplies its own by them. Everything else (waits, interference, queues, memory) stays modelled, and a layout
that it does not know has factors of one.

Factors are taken on the packaged record of a chip, so that they stay what they are when a question moves a chip's figures.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.catalog import load
from zoo.specs import Accelerator, Transformer

from . import serving
from .constants import table
from .serving_rows import format_of, known_model

Array = NDArray[Any]

_INSTALL = "needs the package aiconfigurator, which is not installed: pip install 'wallplan[silicon]'"
_SHAPE = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "experts", "top_k", "attention", "sparse_tokens")
_MODES = {  # the package's names of number formats, the first that it has data for: matrix products, then experts
    "bf16": (("bfloat16", "bfloat16"),),
    "fp8": (("fp8", "fp8"), ("fp8_block", "fp8_block")),
    "fp4": (("nvfp4", "nvfp4"),),
}
_CACHES = {"bf16": "bfloat16", "fp8": "fp8"}


class SiliconError(ValueError):
    """The package is not there. The message is one clear line."""


@dataclass(frozen=True, slots=True)
class Point:
    """One layout at one batch: `system` and `model` in the package's names, formats in ours; `batch` of one attention rank."""

    system: str
    model: str
    weights: str
    cache: str
    tensor_parallel: int
    attention_parallel: int
    expert_parallel: int
    input: int
    cached: int  # tokens of the input that a prefix cache holds
    output: int
    batch: int


class Tool(Protocol):
    """What is asked of the package, or of what stands for it in a test."""

    @property
    def models(self) -> Mapping[str, Transformer]:
        """By its name of a checkpoint."""

    @property
    def package(self) -> str:
        """Version of the package itself."""

    def system(self, chip: Accelerator) -> str | None:
        """Its name of a chip, None where it has no measurements."""

    def version(self, system: str) -> str:
        """Of the package, and of the engine that the kernels of a chip were measured under, in words."""

    def times(self, point: Point) -> tuple[float, float] | None:
        """(prefill of one prompt, one decode step) [s]; None where some kernel was not measured."""


def measured(
    d: serving.Deployment, model: Transformer, chips: Array, weights: Array, caches: Array, tool: Tool
) -> tuple[serving.Measured, Array]:
    """(the package's decode step and prefill over the model's; where it knows them), for each layout of a deployment.

    chips: names in the packaged catalogue; weights, caches: names of number formats; one element per layout. The deployment
    must be of those packaged chips.
    """
    x, w = d.layouts, d.work
    size = len(chips)
    stages = np.broadcast_to(x.pipeline_parallel, size)
    in_flight = np.maximum(x.batch / stages, 1.0)
    decode = (stages * serving.step_time(d, in_flight, serving.prompts_together(d, in_flight)).decode).m_as("s")
    prefill = (stages * serving.prompt_time(d, 1.0)).m_as("s")
    columns = (
        np.broadcast_to(values, size)
        for values in (x.tensor_parallel, x.attention_parallel, x.expert_parallel, w.input, w.input - w.fresh, w.output, x.batch)
    )
    seen = np.full((2, size), np.nan)
    named = names_of(model, tool)
    systems = {chip: system_of(chip, tool) for chip in np.unique(chips).tolist()}
    for at, (tensor, ranks, expert, prompt, cached, output, batch) in enumerate(zip(*columns, strict=True)):
        system = systems[str(chips[at])]
        if stages[at] > 1 or system is None:
            continue
        for name in named.get(str(weights[at]), ()):
            found = tool.times(
                Point(system, name, str(weights[at]), str(caches[at]), int(tensor), int(ranks), int(expert), int(prompt),
                      int(cached), int(output), max(round(batch / ranks), 1))
            )  # fmt: skip
            if found is not None:
                seen[:, at] = found
                break
    known = np.isfinite(seen).all(axis=0)
    modelled = np.broadcast_to(prefill, size), np.broadcast_to(decode, size)
    of_prefill, of_decode = (np.where(known, m / own, 1.0) for m, own in zip(seen, modelled, strict=True))
    slow = (np.where(known, np.exp(half_width(regime)), 1.0) for regime in ("closed_tpot", "closed_ttft"))
    return serving.Measured(of_decode, of_prefill, *slow), known


def names_of(model: Transformer, tool: Tool) -> dict[str, tuple[str, ...]]:
    """Number format -> the package's names of checkpoints with the shape of a model, one in that format first."""
    same = [
        name for name, known in tool.models.items()
        if all(getattr(known, k) == getattr(model, k) for k in _SHAPE)
    ]  # fmt: skip
    plain = [name for name in same if not format_of(name)]
    own = {"fp8": ("fp8",), "fp4": ("nvfp4", "fp4"), "bf16": ()}
    return {kind: tuple(dict.fromkeys([*(n for n in same if format_of(n) in formats), *plain])) for kind, formats in own.items()}


def system_of(chip: str, tool: Tool) -> str | None:
    """The package's name of a chip of the packaged catalogue; None where either does not know it."""
    packaged = load().chips.get(chip)
    return None if packaged is None else tool.system(packaged)


def backend_of(engine: str) -> str:
    """The package's name of an engine generation (serving_engines.csv)."""
    return "sglang" if engine == "sglang" else "trtllm" if engine.startswith("trt") or engine == "mlperf" else "vllm"


def half_width(regime: str) -> float:
    """Half of the interval, in logarithms, that held 80 % of the published runs that the package knows (serving_silicon.csv)."""
    return next(float(row["log_half_width_80"]) for row in table("serving_silicon") if row["regime"] == regime)


@cache
def aiconfigurator(backend: str) -> Tool:
    """The installed package with its kernels of one engine. Raises SiliconError where it is not installed."""
    try:
        return _AIConfigurator(backend)
    except ImportError:
        raise SiliconError(_INSTALL) from None


class _AIConfigurator:
    """The package itself, through its SDK (written against 0.12.0)."""

    def __init__(self, backend: str) -> None:
        self._sdk = {
            name: importlib.import_module(f"aiconfigurator.sdk.{name}")
            for name in ("common", "config", "models", "perf_database", "inference_session", "backends.factory")
        }
        self._package = importlib.import_module("importlib.metadata").version("aiconfigurator")
        self._backend = backend
        self._databases: dict[str, Any] = {}
        self._systems: dict[str, str | None] = {}
        self._sessions: dict[Point, Any] = {}
        self._times: dict[Point, tuple[float, float] | None] = {}
        self._prompts: dict[tuple[Point, int], float] = {}
        for name in ("aiconfigurator", "aiconfigurator_core"):
            logging.getLogger(name).setLevel(logging.ERROR)

    @property
    def package(self) -> str:
        return str(self._package)

    def version(self, system: str) -> str:
        return f"aiconfigurator {self._package}, kernels of {self._backend} {self._version(system)} on {system}"

    @cached_property
    def models(self) -> Mapping[str, Transformer]:
        catalog, found = load(), {}
        for name in sorted(self._sdk["common"].DefaultHFModels):
            known = known_model({"model": name}, catalog)
            if known is not None:
                found[name] = known
        return found

    def system(self, chip: Accelerator) -> str | None:
        if chip.name not in self._systems:
            plain = chip.name.replace("-", "_")
            names = (plain, re.sub(r"_\d+gb$", "", plain), f"{plain}_server")
            self._systems[chip.name] = next((name for name in names if name in self._measured and self._is(name, chip)), None)
        return self._systems[chip.name]

    @cached_property
    def _measured(self) -> frozenset[str]:
        """The systems with kernels of this engine. Their tables, seconds each, are read when a layout is asked for."""
        found = self._sdk["perf_database"].get_supported_databases()
        return frozenset(system for system, backends in found.items() if backends.get(self._backend))

    def _is(self, system: str, chip: Accelerator) -> bool:
        """Whether a system's memory is that of the chip, by the package's description of the system."""
        gpu = self._sdk["perf_database"].load_system_spec(system)["gpu"]
        there = chip.memory.m_as("byte"), chip.memory_bandwidth.m_as("byte/s")
        return all(abs(own / float(gpu[k]) - 1) < 0.12 for own, k in zip(there, ("mem_capacity", "mem_bw"), strict=True))

    def _version(self, system: str) -> str:
        return str(self._sdk["perf_database"].get_version_slots(system, self._backend)["current"])

    def _database(self, system: str) -> Any:
        if system not in self._databases:
            version = self._version(system)
            self._databases[system] = self._sdk["perf_database"].get_database(system, self._backend, version)
        return self._databases[system]

    def times(self, point: Point) -> tuple[float, float] | None:
        if point not in self._times:
            self._times[point] = self._ask(point)
        return self._times[point]

    def _ask(self, point: Point) -> tuple[float, float] | None:
        layout = replace(point, input=0, cached=0, output=0, batch=0)
        if layout not in self._sessions:
            self._sessions[layout] = list(self._open(point))
        runtime = self._sdk["config"].RuntimeConfig(
            batch_size=point.batch, isl=point.input, osl=max(point.output, 2), prefix=point.cached
        )  # fmt: skip
        for way, session in enumerate(self._sessions[layout]):
            prompt = replace(point, output=0, batch=1), way  # the same at every batch
            try:
                if prompt not in self._prompts:
                    alone = session.run_static(replace(runtime, batch_size=1), mode="static_ctx")
                    self._prompts[prompt] = float(alone.get_result_dict()["ttft"])
                first = self._prompts[prompt]
                token = session.run_static(runtime, mode="static_gen").get_result_dict()["tpot"]
            except Exception:  # whatever the package raises: it does not know this layout
                continue
            if first > 0 and token > 0:
                return first / 1e3, float(token) / 1e3
        return None

    def _open(self, point: Point) -> Any:
        """Sessions for a layout, one for each way of saying its number formats that the package accepts."""
        common, config = self._sdk["common"], self._sdk["config"]
        if point.weights not in _MODES or point.cache not in _CACHES:
            return
        database = self._database(point.system)
        cache = common.KVCacheQuantMode[_CACHES[point.cache]]
        modes = [(common.GEMMQuantMode[g], common.MoEQuantMode[e]) for g, e in _MODES[point.weights]]
        wide = point.expert_parallel > point.tensor_parallel
        for gemm, experts in ([(None, None)] if format_of(point.model) else []) + modes:
            try:
                layout = config.ModelConfig(
                    tp_size=point.tensor_parallel, pp_size=1, attention_dp_size=point.attention_parallel,
                    moe_tp_size=1 if wide else point.tensor_parallel, moe_ep_size=point.expert_parallel if wide else 1,
                    gemm_quant_mode=gemm, moe_quant_mode=experts, kvcache_quant_mode=cache,
                    fmha_quant_mode=common.FMHAQuantMode.bfloat16, comm_quant_mode=common.CommQuantMode.half,
                )  # fmt: skip
                model = self._sdk["models"].get_model(point.model, layout, self._backend)
                backend = self._sdk["backends.factory"].get_backend(self._backend)
                yield self._sdk["inference_session"].InferenceSession(model, database, backend)
            except Exception:  # it does not know this layout in these formats
                continue
