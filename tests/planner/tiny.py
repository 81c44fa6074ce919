"""Tiny worlds: a catalogue of a few chips, places and prices, made in memory, and questions about it.

Everything else of the real catalogue (economics, fitted round trips) stays. The figures are invented; they are chosen so
that a replica holds a handful of sequences and a fleet has a handful of machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from functools import cache
from types import MappingProxyType
from typing import Any

from planner.query import Query, ServeQuery
from zoo.catalog import Catalog, load
from zoo.specs import Accelerator, Grid, Offer, Region, Transformer
from zoo.units import Q


def chip(name: str = "red", **changes: Any) -> Accelerator:
    """A small accelerator with a scale-up link of four and a NIC."""
    fields: dict[str, Any] = {
        "vendor": "none",
        "year": 2024,
        "kind": "datacenter",
        "peak": MappingProxyType({"bf16": Q(100.0, "Tflop/s"), "fp8": Q(200.0, "Tflop/s")}),
        "memory": Q(4.0, "GiB"),
        "memory_bandwidth": Q(1.0, "TB/s"),
        "link_bandwidth": Q(100.0, "GB/s"),
        "scale_up_domain": 4,
        "host_bandwidth": Q(32.0, "GB/s"),
        "nic_bandwidth": Q(25.0, "GB/s"),
        "tdp": Q(300.0, "W"),
        "host_power_share": 0.4,
        "embodied": Q(100.0, "kgCO2e"),
    }
    return Accelerator(name=name, **{**fields, **changes})


def model(name: str = "toy", **changes: Any) -> Transformer:
    """Two layers, 0.17 G weights, 64 KiB of cache per token in 16 bits: some sequences of a thousand tokens per chip."""
    fields: dict[str, Any] = {
        "layers": 2,
        "hidden": 2048,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 2048,
        "vocab": 1000,
        "parameters": 1.7e8,
        "active_parameters": 1.7e8,
        "ffn_hidden": 8192,
        "kv_layers": 2,
    }
    return Transformer(name=name, **{**fields, **changes})


def region(name: str = "here/one", intensity: float = 100.0, **changes: Any) -> Region:
    cloud, _, short = name.partition("/")
    fields: dict[str, Any] = {
        "location": short,
        "country": "NO",
        "latitude": 60.0,
        "longitude": 10.0,
        "grid": Grid("NO", Q(intensity, "gCO2e/kWh")),
        "pue": 1.2,
        "wue": Q(1.0, "liter/kWh"),
    }
    return Region(name=name, cloud=cloud, region=short, **{**fields, **changes})


def offer(
    where: str, chip: str, price: float, accelerators: int = 1, option: str = "on-demand", domain: int | None = None
) -> Offer:
    instance = f"{chip}-{accelerators}"
    return Offer(
        name=f"{where}/{instance}/{option}",
        cloud=where.partition("/")[0],
        region=where,
        instance=instance,
        option=option,
        accelerator=chip,
        accelerators=accelerators,
        price=Q(price, "USD/hour"),
        domain=accelerators if domain is None else domain,
    )


@cache
def _real() -> Catalog:
    return load()


def world(
    chips: Iterable[Accelerator], models: Iterable[Transformer], regions: Iterable[Region], offers: Iterable[Offer]
) -> Catalog:
    """A catalogue of these records alone."""
    catalog = copy(_real())

    def named(records: Iterable[Any]) -> Mapping[str, Any]:
        return MappingProxyType({record.name: record for record in records})

    catalog.__dict__.pop("_indices", None)
    catalog.__dict__ |= {"chips": named(chips), "models": named(models), "regions": named(regions), "offers": named(offers)}
    return catalog


def question(**changes: Any) -> ServeQuery:
    """A question about a tiny world; keyword arguments replace top-level keys."""
    data: dict[str, Any] = {
        "schema": "wallplan/v1",
        "kind": "serve",
        "workload": {"model": "toy", "rate": "20/s", "tokens": {"input": 1000, "output": 24}, "precision": ["bf16"]},
        "sla": {"ttft": {"p99": "500 ms"}, "tpot": {"p99": "40 ms"}},
        "supply": {"offers": ["on-demand", "spot", "reserved-1y"]},
    }
    return Query.from_dict({**data, **changes})
