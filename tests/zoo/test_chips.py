"""Chips against their data sheets."""

from __future__ import annotations

import pytest

from zoo.catalog import Catalog

# Dense peaks in TFLOP/s, memory in GiB as marketed, memory bandwidth in GB/s: vendors' data sheets.
SHEETS = {
    "h100-sxm": ({"bf16": 989.4, "fp16": 989.4, "fp8": 1979, "int8": 1979, "tf32": 494.7, "fp64": 66.9}, 80, 3350),
    "h100-pcie": ({"bf16": 756, "fp8": 1513}, 80, 2039),
    "h200-sxm": ({"bf16": 989.4, "fp8": 1979}, 141, 4800),
    "a100-sxm-80gb": ({"bf16": 312, "fp16": 312, "int8": 624, "tf32": 156, "fp64": 19.5}, 80, 2039),
    "l40s": ({"bf16": 362, "fp8": 733}, 48, 864),
    "l4": ({"bf16": 121, "fp8": 242}, 24, 300),
    "mi300x": ({"bf16": 1307.4, "fp8": 2614.9}, 192, 5300),
    "tpu-v5e": ({"bf16": 197}, 16, 819),
    "tpu-v5p": ({"bf16": 459}, 95, 2765),
    "trainium2": ({"bf16": 667, "fp8": 1299}, 96, 2900),
    "gaudi3": ({"bf16": 1678}, 128, 3700),
    "v100-sxm-16gb": ({"fp16": 125, "fp64": 7.8}, 16, 900),
    "t4": ({"fp16": 65, "int8": 130}, 16, 320),
}


@pytest.mark.parametrize("name", SHEETS)
def test_data_sheets(catalog: Catalog, name: str) -> None:
    peaks, memory, bandwidth = SHEETS[name]
    chip = catalog.chips[name]
    for precision, teraflops in peaks.items():
        assert chip.peak[precision].to("TFLOP/s").magnitude == pytest.approx(teraflops), precision
    assert chip.memory.to("GiB").magnitude == pytest.approx(memory)
    assert chip.memory_bandwidth.to("GB/s").magnitude == pytest.approx(bandwidth)


@pytest.mark.parametrize("name", ["v100-sxm-16gb", "v100-sxm-32gb", "v100-pcie-16gb", "t4"])
def test_volta_and_turing_have_no_bf16(catalog: Catalog, name: str) -> None:
    assert "bf16" not in catalog.chips[name].peak
    assert "fp16" in catalog.chips[name].peak


def test_bf16_comes_with_fp16(catalog: Catalog) -> None:
    for chip in catalog.chips.values():
        if "bf16" in chip.peak:
            assert "fp16" in chip.peak, chip.name
    mi100 = catalog.chips["mi100"]
    assert mi100.peak["fp16"].to("TFLOP/s").magnitude == pytest.approx(184.6)
    assert mi100.peak["bf16"].to("TFLOP/s").magnitude == pytest.approx(92.3)


def test_marketed_memory_is_gib_within_one_percent(catalog: Catalog) -> None:
    """What drivers report, in MiB."""
    for name, mebibytes in {"a100-sxm-80gb": 81_920, "h100-sxm": 81_559, "h200-sxm": 143_771, "b200-sxm": 183_359}.items():
        assert catalog.chips[name].memory.to("MiB").magnitude == pytest.approx(mebibytes, rel=0.01)


def test_links_are_per_direction(catalog: Catalog) -> None:
    h100 = catalog.chips["h100-sxm"]
    assert h100.link_bandwidth is not None and h100.nic_bandwidth is not None and h100.host_bandwidth is not None
    assert h100.link_bandwidth.to("GB/s").magnitude == 450  # NVLink 4: 900 GB/s both ways
    assert h100.nic_bandwidth.to("GB/s").magnitude == 50  # 400 Gb/s
    assert h100.host_bandwidth.to("GB/s").magnitude == 63  # PCIe 5.0 x16
    assert (h100.scale_up_domain, h100.domain_kind) == (8, "instance")


@pytest.mark.parametrize(
    ("name", "domain", "kind"),
    [("gb200", 72, "rack"), ("gb300", 72, "rack"), ("tpu-v5e", 256, "slice"), ("tpu-v5p", 8960, "slice"),
     ("trainium2", 64, "instance"), ("l40s", 1, "host"), ("h100-nvl", 2, "bridge")],
)  # fmt: skip
def test_how_far_links_reach(catalog: Catalog, name: str, domain: int, kind: str) -> None:
    chip = catalog.chips[name]
    assert (chip.scale_up_domain, chip.domain_kind) == (domain, kind)


def test_parts_without_a_link_say_so(catalog: Catalog) -> None:
    for chip in catalog.chips.values():
        assert (chip.domain_kind == "host") == (chip.link is None), chip.name


def test_embodied_carbon_of_h100(catalog: Catalog) -> None:
    """NVIDIA's footprint of the 8-GPU baseboard: 1312 kg."""
    embodied = catalog.chips["h100-sxm"].embodied
    assert embodied is not None and (8 * embodied).to("kgCO2e").magnitude == pytest.approx(1312)


def test_records_cannot_be_changed(catalog: Catalog) -> None:
    with pytest.raises(AttributeError):
        catalog.chips["l4"].year = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        catalog.chips["x"] = catalog.chips["l4"]  # type: ignore[index]
    with pytest.raises(TypeError):
        catalog.chips["l4"].peak["bf16"] = None  # type: ignore[index]
