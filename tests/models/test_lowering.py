"""Lowering: demand by kind of workload, and a new kind without a change to anything."""

from dataclasses import dataclass

import numpy as np
import pytest

from models.dimensions import UnknownValue
from models.lowering import Lowered, lower, lowered
from zoo.specs import Generic, Transformer
from zoo.units import Q, Quantity

RESNET = Generic("ResNet-50", "cnn", 25.6e6, "image", Q(8.2, "GFLOP"), traffic_per_unit=Q(30.0, "MB"))


def test_transformer_lowers_to_tokens(llama8b):
    demand = lower(llama8b, "bf16")
    assert demand.unit == "token" and demand.parameters == 8.03e9
    assert demand.weight_bytes.m_as("byte") == pytest.approx(16.06e9)
    assert demand.intensity.m_as("flop/byte") == pytest.approx(1.0, rel=0.01)  # 2 operations per weight of 2 bytes


def test_narrower_weights_raise_the_intensity(llama8b):
    wide, narrow = lower(llama8b, "bf16"), lower(llama8b, "fp8")
    assert narrow.operations == wide.operations
    assert narrow.intensity.m_as("flop/byte") == pytest.approx(2 * wide.intensity.m_as("flop/byte"))


def test_cnn_lowers_to_images():
    demand = lower(RESNET, "fp16", 10)
    assert demand.unit == "image"
    assert demand.operations.m_as("GFLOP") == pytest.approx(82.0)
    assert demand.traffic.m_as("MB") == pytest.approx(51.2 + 300)


def test_a_batch_is_an_array(llama8b):
    batches = np.array([1.0, 8.0, 64.0])
    together = lower(llama8b, "bf16", batches).intensity.m_as("flop/byte")
    assert list(together) == pytest.approx([lower(llama8b, "bf16", b).intensity.m_as("flop/byte") for b in batches])


def test_a_new_kind_registers_its_own_lowering(llama8b):
    @dataclass(frozen=True)
    class Retrieval:
        name: str
        generator: Transformer
        index: Quantity

    with pytest.raises(TypeError, match="register"):
        lower(Retrieval("rag", llama8b, Q(1.0, "GB")), "bf16")

    @lower.register
    def _(workload: Retrieval, precision: str, batch: float = 1.0) -> Lowered:
        demand = lower(workload.generator, precision, batch)
        traffic = demand.traffic + batch * workload.index
        return lowered(demand.unit, batch, demand.operations, demand.weight_bytes, traffic, demand.parameters)

    demand = lower(Retrieval("rag", llama8b, Q(1.0, "GB")), "bf16", 2)
    assert (demand.traffic - lower(llama8b, "bf16", 2).traffic).m_as("GB") == pytest.approx(2.0)


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_unit_of_work_is_not_in_the_type(llama8b):
    assert (lower(llama8b, "bf16").unit, lower(RESNET, "bf16").unit) == ("token", "image")


def test_fault_diffusion_weights_are_read_once_for_all_steps():
    diffusion = Generic("sd", "diffusion", 1e9, "image", Q(50.0, "TFLOP"), steps_per_unit=50, traffic_per_unit=Q(0.0, "B"))
    assert lower(diffusion, "fp16").traffic.m_as("GB") == pytest.approx(100.0)


def test_fault_unknown_operations_are_made_up():
    with pytest.raises(UnknownValue, match="operations per image"):
        lower(Generic("x", "cnn", 1e6, "image"), "fp16")


def test_fault_unknown_traffic_is_a_tenth_of_the_weights_per_sample():
    """What is not known is stated, and stays out."""
    demand = lower(Generic("x", "cnn", 1e6, "image", Q(1.0, "GFLOP")), "fp16", 100)
    assert demand.traffic.m_as("MB") == pytest.approx(2.0)
    assert any("lower bound" in assumption for assumption in demand.assumptions)
