"""Models whose numbers are known from their makers, written out so that the tests need no catalogue."""

import pytest

from zoo.specs import Accelerator, Fabric, Fleet, Grid, Node, Region, Transformer
from zoo.units import Q


@pytest.fixture(scope="session")
def llama8b() -> Transformer:
    return Transformer(
        name="Llama-3.1-8B", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, vocab=128256, parameters=8.03e9,
        active_parameters=8.03e9, ffn_hidden=14336, kv_layers=32,
    )  # fmt: skip


@pytest.fixture(scope="session")
def deepseek_v3() -> Transformer:
    return Transformer(
        name="DeepSeek-V3", layers=61, hidden=7168, heads=128, kv_heads=128, head_dim=56, vocab=129280, parameters=671e9,
        active_parameters=37e9, attention="MLA", kv_layers=61, experts=256, top_k=8, shared_experts=1, moe_ffn_hidden=2048,
        moe_layers=58, kv_lora_rank=512, q_lora_rank=1536, qk_rope_dim=64, qk_nope_dim=128, v_head_dim=128,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mixtral() -> Transformer:
    return Transformer(
        name="Mixtral-8x7B", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, vocab=32000, parameters=46.7e9,
        active_parameters=12.9e9, ffn_hidden=14336, kv_layers=32, experts=8, top_k=2, moe_ffn_hidden=14336, moe_layers=32,
    )  # fmt: skip


@pytest.fixture(scope="session")
def h100() -> Accelerator:
    return Accelerator(
        name="H100-SXM", vendor="NVIDIA", year=2022, kind="datacenter", 
        peak={"bf16": Q(989.0, "TFLOP/s"), "fp8": Q(1979.0, "TFLOP/s")}, memory=Q(80.0, "GB"), memory_bandwidth=Q(3.35, "TB/s"),
        link="NVLink4", link_bandwidth=Q(450.0, "GB/s"), scale_up_domain=8,
        tdp=Q(700.0, "W"), host_power_share=0.451, embodied=Q(164.0, "kgCO2e"), price=Q(30000.0, "USD"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def cluster(h100) -> Fleet:
    nvlink = Fabric("NVLink4", "scale-up", Q(450.0, "GB/s"), Q(1.0, "us"))
    infiniband = Fabric("NDR", "scale-out", Q(50.0, "GB/s"), Q(5.0, "us"), topology="fat-tree", oversubscription=1.0)
    server = Node("DGX", h100, 8, nvlink, infiniband)
    return Fleet("64 nodes", server, 64, infiniband)


@pytest.fixture(scope="session")
def quebec() -> Region:
    return Region(
        name="aws/ca-central-1", cloud="aws", region="ca-central-1", location="Montreal", country="CA", latitude=45.5,
        longitude=-73.6, grid=Grid("CA-QC", Q(30.0, "gCO2e/kWh")), pue=1.2, wue=Q(0.2, "L/kWh"),
        electricity_price=Q(0.05, "USD/kWh"),
    )  # fmt: skip
