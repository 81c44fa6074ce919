"""Measured kernels of another package in the serving model: a stand-in for that package, and the package itself where it is."""

import importlib.util
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest

from models import serving, silicon
from models.serving_replica import ReplicaError, evaluate_replica
from zoo.catalog import load
from zoo.specs import Accelerator, Transformer

REPLICA = {
    "kind": "replica", "model": "llama-3.3-70b", "chip": "h200-sxm", "tp": 4, "precision": "fp8",
    "tokens": {"input": 1000, "output": 250}, "concurrency": 32, "calibration": {"source": "aiconfigurator"},
}  # fmt: skip


@dataclass
class Recorded:
    """Answers as the package gave them: one chip, one checkpoint, tensor parallelism of four."""

    asked: list = field(default_factory=list)

    @cached_property
    def models(self) -> dict[str, Transformer]:
        return {"meta-llama/Meta-Llama-3.1-70B": load().find("models", "llama-3.1-70b")}

    def system(self, chip: Accelerator) -> str | None:
        return "h200_sxm" if chip.name == "h200-sxm" else None

    def version(self, system: str) -> str:
        return f"recorded kernels on {system}"

    def times(self, point: silicon.Point) -> tuple[float, float] | None:
        self.asked.append(point)
        return (0.050, 0.0125) if point.tensor_parallel == 4 else None


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(silicon, "aiconfigurator", lambda backend: recorded)
    return recorded


def deployment(tensor: float, batch: float = 32.0) -> serving.Deployment:
    from models.calibration import serving_constants
    from zoo.units import Q

    chip, model, one = load().chips["h200-sxm"], load().find("models", "llama-3.1-70b"), np.ones(1)
    constants = serving_constants(chip)
    layouts = serving.Layouts(
        Q(one, "byte"), Q(2 * one, "byte"), chip.peak["fp8"] * one, constants.compute_efficiency["fp8"] * one, tensor * one,
        one, one, batch * one,
    )  # fmt: skip
    links = serving.Links(chip.link_bandwidth, Q(0.0, "s"), chip.link_bandwidth, Q(0.0, "s"))
    traffic = serving.Traffic(Q(1000.0, "token"), Q(250.0, "token"))
    return serving.Deployment(
        serving.work_of(model, traffic, layouts.kv_bytes), layouts, serving.device_of(chip), links, constants
    )


def test_the_measured_step_and_prefill_stand_for_the_modelled_ones(tool: Recorded) -> None:
    d = deployment(4.0)
    model = load().find("models", "llama-3.3-70b")  # of the same shape as the checkpoint that is known
    names = (np.array([text]) for text in ("h200-sxm", "fp8", "bf16"))
    found, known = silicon.measured(d, model, *names, tool)
    corrected = replace(d, measured=found)
    assert known.all()
    step = serving.step_time(corrected, 32.0, 1.0)
    assert step.decode.m_as("ms")[0] == pytest.approx(12.5)
    assert serving.prompt_time(corrected, 1.0).m_as("ms")[0] == pytest.approx(50.0)
    replica = serving.replicas(corrected, 1.2, 1.5)
    assert replica.decode_step.m_as("ms")[0] == pytest.approx(12.5)
    assert replica.prefill_time.m_as("ms")[0] == pytest.approx(50.0 + d.constants.prefill_launch.m_as("ms"))
    (point,) = tool.asked
    assert (point.system, point.batch, point.input, point.output, point.cache) == ("h200_sxm", 32, 1000, 250, "bf16")


def test_what_is_not_known_stays_modelled(tool: Recorded) -> None:
    names = (np.array([text]) for text in ("h200-sxm", "fp8", "bf16"))
    found, known = silicon.measured(deployment(2.0), load().find("models", "llama-3.1-70b"), *names, tool)
    assert not known.any() and found.decode[0] == found.prefill[0] == 1.0


def test_another_shape_is_another_model(tool: Recorded) -> None:
    known = load().find("models", "llama-3.1-70b")
    assert silicon.names_of(replace(known, layers=79), tool)["fp8"] == ()
    assert silicon.names_of(known, tool)["fp8"] == ("meta-llama/Meta-Llama-3.1-70B",)


def test_a_replica_says_which_numbers_are_measured(tool: Recorded) -> None:
    answer = evaluate_replica(REPLICA)
    assert "measured (recorded kernels on h200_sxm)" in answer["kernels"]
    modelled = evaluate_replica({**REPLICA, "calibration": None})
    assert modelled["kernels"] == "modelled"
    assert answer["tpot_ms"]["high"] / answer["tpot_ms"]["value"] >= modelled["tpot_ms"]["high"] / modelled["tpot_ms"]["value"]
    elsewhere = evaluate_replica({**REPLICA, "chip": "mi300x"})
    assert "no measured kernels" in elsewhere["kernels"]
    assert elsewhere["tpot_ms"] == evaluate_replica({**REPLICA, "chip": "mi300x", "calibration": None})["tpot_ms"]


def test_faults_are_one_line(tool: Recorded) -> None:
    with pytest.raises(ReplicaError, match="expected the path of a file"):
        evaluate_replica({**REPLICA, "calibration": {"source": "aiconfig"}})
    with pytest.raises(ReplicaError, match="known batch"):
        evaluate_replica({**{k: v for k, v in REPLICA.items() if k != "concurrency"}, "rate": 2})


def test_tables_of_a_chip_are_read_when_a_layout_on_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the package says of a system tells which chip it is; two systems have kernels of this engine, one is asked about."""
    read: list[str] = []
    memory = {name: load().chips[name] for name in ("h200-sxm", "h100-sxm")}
    described = {
        name.replace("-", "_"): {"gpu": {"mem_capacity": c.memory.m_as("byte"), "mem_bw": c.memory_bandwidth.m_as("byte/s")}}
        for name, c in memory.items()
    }
    database = SimpleNamespace(
        get_supported_databases=lambda: {name: {"vllm": ["1.0"]} for name in described},
        load_system_spec=described.__getitem__,
        get_version_slots=lambda system, backend: {"current": "1.0"},
        get_database=lambda system, backend, version: read.append(system),
    )
    modules = {"aiconfigurator.sdk.perf_database": database, "importlib.metadata": SimpleNamespace(version=lambda name: "0.12.0")}
    monkeypatch.setattr(silicon.importlib, "import_module", lambda name: modules.get(name, MagicMock()))
    package = silicon._AIConfigurator("vllm")
    assert [package.system(chip) for chip in memory.values()] == ["h200_sxm", "h100_sxm"]
    assert package.system(load().chips["mi300x"]) is None
    assert package.version("h200_sxm") == "aiconfigurator 0.12.0, kernels of vllm 1.0 on h200_sxm"
    assert read == []
    package.times(silicon.Point("h200_sxm", "meta-llama/Meta-Llama-3.1-70B", "fp8", "bf16", 4, 1, 1, 1000, 0, 250, 8))
    assert read == ["h200_sxm"]


INSTALLED = importlib.util.find_spec("aiconfigurator") is not None


@pytest.mark.skipif(INSTALLED, reason="aiconfigurator is installed")
def test_without_the_package_one_line_says_what_to_install() -> None:
    silicon.aiconfigurator.cache_clear()
    with pytest.raises(ReplicaError, match=r"pip install 'wallplan\[silicon\]'"):
        evaluate_replica(REPLICA)


@pytest.mark.skipif(not INSTALLED, reason="needs aiconfigurator: pip install 'wallplan[silicon]'")
def test_the_package_itself() -> None:
    """A 70B model on four H200: more sequences take longer steps; half of the chips, too; a chip it never saw has no name."""
    package = silicon.aiconfigurator("vllm")
    assert package.system(load().chips["mi300x"]) is None
    system = package.system(load().chips["h200-sxm"])
    assert system is not None
    point = silicon.Point(system, "meta-llama/Meta-Llama-3.1-70B", "fp8", "bf16", 4, 1, 1, 1000, 0, 250, 8)
    small, large, fewer = (package.times(p) for p in (point, replace(point, batch=64), replace(point, tensor_parallel=2)))
    assert small is not None and large is not None and fewer is not None
    assert small[1] < large[1] and small[1] < fewer[1] and 0.005 < small[0] < 0.5
