"""The zoo as tables: lists of a kind, and one record whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any

from zoo.catalog import Catalog
from zoo.errors import UnknownName
from zoo.specs import Accelerator, Fabric, Generic, Offer, Region, Source, Storage, Transformer
from zoo.units import Quantity

from .tables import Table, number


def listing(catalog: Catalog, kind: str, match: str = "") -> tuple[Table, list[dict[str, object]]]:
    """The records of a kind whose names contain `match` (or fit it as a pattern): as a table, and as flat records."""
    records = [r for name, r in getattr(catalog, kind).items() if _matches(match.lower(), name.lower())]
    rows = [_row(record) for record in records]
    heads = tuple(rows[0]) if rows else ("name",)
    table = Table(kind, heads, tuple(tuple(row.values()) for row in rows), frozenset(h for h in heads if h in _NUMERIC))
    return table, [flat(record) for record in records]


def _matches(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) if any(c in pattern for c in "*?[") else pattern in name


_NUMERIC = {
    "year", "bf16 TFLOP/s", "fp8 TFLOP/s", "memory GiB", "GB/s", "link GB/s", "TDP W", "layers", "hidden", "params B", "active B",
    "gCO2e/kWh", "PUE", "USD/kWh", "chips", "USD/h", "USD/chip/h", "latency us", "read GB/s", "write GB/s", "USD/GB/month",
}  # fmt: skip


def _in(value: Quantity | None, unit: str) -> str:
    return "-" if value is None else number(float(value.m_as(unit)))


def _row(record: Any) -> dict[str, str]:
    if isinstance(record, Accelerator):
        return {
            "name": record.name,
            "year": str(record.year),
            "bf16 TFLOP/s": _in(record.peak.get("bf16", record.peak.get("fp16")), "Tflop/s"),
            "fp8 TFLOP/s": _in(record.peak.get("fp8"), "Tflop/s"),
            "memory GiB": _in(record.memory, "GiB"),
            "GB/s": _in(record.memory_bandwidth, "GB/s"),
            "link GB/s": _in(record.link_bandwidth, "GB/s"),
            "TDP W": _in(record.tdp, "W"),
            "verified": "yes" if record.source.verified else "no",
        }
    if isinstance(record, Transformer):
        return {
            "name": record.name,
            "params B": number(record.parameters / 1e9),
            "active B": number(record.active_parameters / 1e9),
            "layers": str(record.layers),
            "hidden": str(record.hidden),
            "attention": record.attention,
            "verified": "yes" if record.source.verified else "no",
        }
    if isinstance(record, Generic):
        return {
            "name": record.name,
            "params B": number(record.parameters / 1e9),
            "active B": "-",
            "layers": str(record.layers or "-"),
            "hidden": "-",
            "attention": record.kind,
            "verified": "yes" if record.source.verified else "no",
        }
    if isinstance(record, Region):
        return {
            "name": record.name,
            "location": record.location,
            "country": record.country,
            "gCO2e/kWh": _in(record.grid.average_intensity, "gCO2e/kWh"),
            "PUE": number(record.pue),
            "USD/kWh": _in(record.electricity_price, "USD/kWh"),
        }
    if isinstance(record, Offer):
        return {
            "name": record.name,
            "chip": record.accelerator,
            "chips": str(record.accelerators),
            "USD/h": _in(record.price, "USD/hour"),
            "USD/chip/h": _in(record.price / record.accelerators, "USD/hour"),
            "price date": record.source.date or "-",
        }
    if isinstance(record, Fabric):
        return {
            "name": record.name,
            "kind": record.kind,
            "GB/s": _in(record.bandwidth, "GB/s"),
            "latency us": _in(record.latency, "us"),
            "topology": record.topology or "-",
            "verified": "yes" if record.source.verified else "no",
        }
    assert isinstance(record, Storage)
    return {
        "name": record.name,
        "kind": record.kind,
        "read GB/s": _in(record.read_bandwidth, "GB/s"),
        "write GB/s": _in(record.write_bandwidth, "GB/s"),
        "per": record.unit,
        "USD/GB/month": _in(record.price, "USD/GB/month"),
    }


def page(catalog: Catalog, name: str, kinds: tuple[str, ...]) -> tuple[Table, dict[str, object]]:
    """One record of whatever kind has this name. Raises UnknownName with the nearest names of every kind."""
    hints = []
    for kind in kinds:
        try:
            record = catalog.find(kind, name)
        except UnknownName as error:
            hints.append(str(error))
            continue
        values = flat(record)
        shown = tuple((key, str(value)) for key, value in values.items() if value not in (None, "", []))
        return Table(f"{kind[:-1] if kind.endswith('s') else kind}: {record.name}", ("field", "value"), shown), values
    near = [hint.split("did you mean", 1)[1] for hint in hints if "did you mean" in hint]
    raise UnknownName(
        f"unknown name {name!r}" + (f"; did you mean{near[0]}" if near else f"; see `wallplan zoo list {kinds[0]}`")
    )


def flat(record: Any, prefix: str = "") -> dict[str, object]:
    """A record as flat values: quantities as text with their unit, nested records with dotted keys."""
    result: dict[str, object] = {}
    for field in fields(record):
        value, key = getattr(record, field.name), prefix + field.name
        if isinstance(value, Quantity):
            result[key] = f"{value:~g}"
        elif isinstance(value, Source):
            result.update(source=value.text, date=value.date, verified=value.verified, note=value.note)
        elif is_dataclass(value):
            result.update(flat(value, key + "."))
        elif isinstance(value, Mapping):
            result.update(
                {f"{key}.{name}": f"{inner:~g}" if isinstance(inner, Quantity) else inner for name, inner in value.items()}
            )
        elif isinstance(value, tuple):
            result[key] = ", ".join(map(str, value))
        else:
            result[key] = value
    return result
