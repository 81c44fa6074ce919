"""Accelerators from `data/chips.csv`."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType

from .specs import Accelerator
from .tables import Row, amount, integer, known, number, rows, source, spellings
from .units import Quantity

# Column of the file -> precision, in the order in which a reader would look.
PRECISIONS = {
    "fp64": ("fp64_tensor_tflops", "fp64_tflops"),  # the tensor rate where there is one
    "fp32": ("fp32_tflops",),
    "tf32": ("tf32_tflops",),
    "bf16": ("bf16_tflops",),
    "fp16": ("fp16_tflops",),
    "fp8": ("fp8_tflops",),
    "int8": ("int8_tops",),
    "fp4": ("fp4_tflops",),
}


@cache
def chips() -> dict[str, Accelerator]:
    """Every accelerator of the zoo by its canonical name, in the order of the file."""
    host = {row["generation"].removeprefix("Gen"): row for row in rows("fabrics.csv") if row["name"].startswith("PCIe")}
    return {row["slug"]: _chip(row, host.get(row["pcie_gen"])) for row in rows("chips.csv")}


def _chip(row: Row, pcie: Row | None) -> Accelerator:
    return Accelerator(
        name=row["slug"],
        vendor=row["vendor"],
        year=int(row["year"]),
        kind=row["class"],
        peak=MappingProxyType(_peaks(row)),
        memory=known(row["mem_gib"], "GiB"),
        memory_bandwidth=known(row["mem_bw_gbs"], "GB/s"),
        link=row["scaleup_link"] or None,
        link_bandwidth=amount(row["scaleup_gbs_per_dir"], "GB/s"),
        scale_up_domain=integer(row["scaleup_domain"]) or 1,
        domain_kind=row["domain_kind"],
        host_bandwidth=amount(pcie["gbs_per_dir_per_device"], "GB/s") if pcie else None,
        nic_bandwidth=amount(row["nic_gbps"], "Gb/s"),
        on_chip=amount(row["onchip_mib"], "MiB"),
        tdp=amount(row["tdp_w"], "W"),
        host_power_share=number(row["host_power_share"]),
        embodied=amount(row["embodied_kgco2e"], "kgCO2e"),
        price=amount(row["price_usd"], "USD"),
        aliases=tuple(n for n in (row["name"], row["catalogue_name"], *spellings(row["aliases"])) if n),
        cross_check=row["cross_check"],
        source=source(row),
    )


def _peaks(row: Row) -> dict[str, Quantity]:
    peaks = {}
    for precision, columns in PRECISIONS.items():
        cell = next((row[c] for c in columns if row[c]), "")
        if cell:
            peaks[precision] = known(cell, "TFLOP/s")
    return peaks
