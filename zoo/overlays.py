"""A user's own facts on top of the zoo's: YAML files with chips, models, regions and prices, and price changes.

    chips:
      h100-mine: {base: h100-sxm, memory: 96 GiB, source: vendor quote, date: 2026-10-01}
    regions:
      mine/oslo: {location: Oslo, country: NO, latitude: 59.91, longitude: 10.75, average_intensity: 30 gCO2e/kWh}
    prices:
      - {region: mine/oslo, instance: rack-1, chip: h100-mine, accelerators: 8, price: 16 USD/h}

Every fault is one line: file, line, key, what was expected, and the nearest valid name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .architecture import active_parameters, total_parameters
from .chips import PRECISIONS
from .errors import UnknownName, ZooError
from .names import listed
from .offers import OPTIONS, domain
from .specs import Accelerator, Generic, Grid, Offer, Region, Source, Transformer, Workload
from .units import Quantity, UnitError, quantity
from .yaml_source import Document, Keys

Find = Callable[[str, str], Any]  # (kind, name) -> record, as Catalog.find

# Field -> how it is written: "text", "count", "number", "share" (0 to 1), "yes or no", "names", "peaks", or a dimension
# of units.py.
_PROVENANCE = {"source": "text", "date": "text", "base": "text", "aliases": "names"}
_CHIP = {
    "vendor": "text",
    "year": "count",
    "kind": "text",
    "peak": "peaks",
    "memory": "bytes",
    "memory_bandwidth": "bandwidth",
    "link": "text",
    "link_bandwidth": "bandwidth",
    "scale_up_domain": "count",
    "domain_kind": "text",
    "host_bandwidth": "bandwidth",
    "nic_bandwidth": "bandwidth",
    "on_chip": "bytes",
    "tdp": "power",
    "host_power_share": "share",
    "embodied": "carbon",
    "price": "money",
    "storage_bandwidth": "bandwidth",
}
_COUNTS = (
    "layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "ffn_hidden", "kv_layers", "sliding_window", "sliding_layers",
    "sparse_tokens", "state_layers", "state_elements", "state_parameters", "experts", "top_k", "shared_experts", "moe_ffn_hidden",
    "moe_layers", "ffn_layers", "kv_lora_rank", "q_lora_rank", "qk_rope_dim", "qk_nope_dim", "v_head_dim",
)  # fmt: skip
_TRANSFORMER = {
    **dict.fromkeys(_COUNTS, "count"),
    "max_context": "count",
    "parameters": "number",
    "active_parameters": "number",
    "gated": "yes or no",
    "tie_embeddings": "yes or no",
    "attention": "text",
    "gaps": "names",
    "config": "text",
}
_GENERIC = {
    "kind": "text",
    "parameters": "number",
    "unit": "text",
    "operations_per_unit": "operations",
    "steps_per_unit": "count",
    "traffic_per_unit": "bytes",
    "state_elements": "count",
    "layers": "count",
}
_GRID = {
    "average_intensity": "carbon intensity",
    "marginal_intensity": "carbon intensity",
    "market_intensity": "carbon intensity",
    "zone": "text",
}
_REGION = {
    "location": "text",
    "country": "text",
    "state": "text",
    "latitude": "number",
    "longitude": "number",
    "pue": "number",
    "pue_scope": "text",
    "wue": "water intensity",
    "electricity_price": "electricity price",
    "electricity_basis": "text",
    "carbon_free_share": "share",
    "carbon_free_basis": "text",
    "government": "yes or no",
    "profile_zone": "text",
    **_GRID,
}
_PRICE = {
    "cloud": "text",
    "region": "text",
    "instance": "text",
    "chip": "text",
    "accelerators": "count",
    "option": "text",
    "price": "money rate",
    "per": "text",
    "domain": "count",
    "interruption_band": "text",
    "stock_confirmed": "yes or no",
    "vcpus": "count",
    "host_memory": "bytes",
    "source": "text",
    "date": "text",
}
_SECTIONS = ("chips", "models", "regions", "prices")
_CHOICES = {
    ("chips", "kind"): ("datacenter", "consumer", "workstation", "edge", "mobile", "cpu", "mcu"),
    ("chips", "domain_kind"): ("instance", "rack", "slice", "bridge", "host"),
    ("models", "attention"): ("MHA", "GQA", "MQA", "MLA", "SSM"),
    ("models", "kind"): ("cnn", "encoder", "diffusion", "recommendation", "ssm", "other"),
    ("prices", "option"): OPTIONS,
    ("prices", "per"): ("instance", "chip"),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a user's file, for messages."""

    document: Document
    keys: Keys

    def at(self, *keys: str | int) -> _Place:
        return _Place(self.document, (*self.keys, *keys))

    def fault(self, message: str) -> ZooError:
        dotted = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in self.keys).lstrip(".")
        return ZooError(f"{self.document.path}:{self.document.line(self.keys)}: {dotted}: {message}")

    def source(self, fields: Mapping[str, Any]) -> Source:
        return Source(fields.get("source") or self.document.path, fields.get("date"), False)


# ---------------------------------------------------------------- reading fields


def check_sections(document: Document) -> None:
    """Raises ZooError for a section that a user's file cannot have, or one of the wrong shape."""
    for section, body in document.data.items():
        place = _Place(document, (section,))
        if section not in _SECTIONS:
            raise place.fault(f"unknown section{_near(section, _SECTIONS)}, expected {listed(_SECTIONS)}")
        if section == "prices":
            if not isinstance(body, list):
                raise place.fault("expected a list of prices, each on a line that begins with '- '")
        elif not isinstance(body, dict):
            raise place.fault(f"expected names, each with its own keys, such as '{section}: {{mine: {{...}}}}'")


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    return f" (did you mean {listed(close)}?)" if close else ""


def _fields(place: _Place, body: Any, schema: Mapping[str, str], section: str) -> dict[str, Any]:
    """The keys of one record, converted. Raises ZooError."""
    if not isinstance(body, dict):
        raise place.fault("expected keys and values")
    fields = {}
    for key, value in body.items():
        here = place.at(key)
        if key not in schema:
            raise here.fault(f"unknown key{_near(key, tuple(schema)) or ', expected one of ' + ', '.join(schema)}")
        fields[key] = _convert(here, value, schema[key])
        choices = _CHOICES.get((section, key))
        if choices and fields[key] not in choices:
            raise here.fault(f"unknown {key} {value!r}{_near(str(value), choices) or ', expected ' + listed(choices)}")
    return fields


def _convert(place: _Place, value: Any, kind: str) -> Any:
    match kind:
        case "text":
            if isinstance(value, (dict, list, bool)) or value is None or not str(value).strip():
                raise place.fault(f"expected text, not {_shown(value)}")
            return str(value)
        case "names":
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise place.fault("expected a list of names, such as [one, two]")
            return tuple(value)
        case "yes or no":
            if not isinstance(value, bool):
                raise place.fault(f"expected true or false, not {_shown(value)}")
            return value
        case "count":
            if isinstance(value, bool) or not isinstance(value, int) or value < 0 or value > 10**15:
                raise place.fault(f"expected a whole number from 0, not {_shown(value)}")
            return value
        case "number" | "share":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > 1e30 or value != value:
                raise place.fault(f"expected a number, not {_shown(value)}")
            if kind == "share" and not 0 <= value <= 1:
                raise place.fault(f"expected a share from 0 to 1, not {_shown(value)}")
            return float(value)
        case "peaks":
            if not isinstance(value, dict) or not value:
                raise place.fault('expected peaks by precision, such as {bf16: "989 TFLOP/s"}')
            for precision in value:
                if precision not in PRECISIONS:
                    known = tuple(PRECISIONS)
                    raise place.at(precision).fault(f"unknown precision{_near(precision, known)}, expected {listed(known)}")
            return MappingProxyType({p: _convert(place.at(p), v, "compute") for p, v in value.items()})
        case _:
            return _positive(place, value, kind)


def _positive(place: _Place, value: Any, dimension: str) -> Quantity:
    try:
        result = quantity(value, dimension)
    except UnitError as error:
        raise place.fault(str(error)) from None
    if result.magnitude < 0:
        raise place.fault(f'"{value}" is negative, expected {dimension} from 0')
    return result


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return repr(text[:40])


def _base(place: _Place, name: str, body: dict[str, Any], known: Mapping[str, Any], kind: str, find: Find) -> Any:
    """The record that a new one starts from, or None. A name that exists already needs its base said."""
    if "base" in body:
        if not isinstance(body["base"], str):
            raise place.at("base").fault(f"expected text, the name of a {kind}, not {_shown(body['base'])}")
        if body["base"] in known:  # also a record that stands earlier in the same file
            return known[body["base"]]
        try:
            return find(kind, body["base"])
        except UnknownName as error:
            raise place.at("base").fault(str(error)) from None
    if name in known:
        raise place.fault(f"the zoo has this {kind} already: say 'base: {name}' to change it, or choose another name")
    return None


def _require(place: _Place, fields: Mapping[str, Any], needed: Sequence[str]) -> None:
    lacking = [key for key in needed if key not in fields]
    if lacking:
        raise place.fault(f"lacks {', '.join(lacking)} (or a base to take {'it' if len(lacking) == 1 else 'them'} from)")


# ---------------------------------------------------------------- records


def add_chips(document: Document, known: Mapping[str, Accelerator], find: Find) -> dict[str, Accelerator]:
    """`known` with the file's chips. `find` looks among `known`. Raises ZooError."""
    chips = dict(known)
    for name, body in (document.data.get("chips") or {}).items():
        place = _Place(document, ("chips", name))
        fields = _fields(place, body, _CHIP | _PROVENANCE, "chips")
        base = _base(place, name, body, chips, "chip", find)
        values = {key: value for key, value in fields.items() if key in _CHIP}
        if base is None:
            _require(place, fields, ("year", "peak", "memory", "memory_bandwidth"))
            values = {"vendor": "", "kind": "datacenter"} | values
            if "domain_kind" not in values and "link_bandwidth" not in values:
                values["domain_kind"] = "host"
        elif "peak" in values:
            values["peak"] = MappingProxyType({**base.peak, **values["peak"]})
        values |= {"name": name, "aliases": fields.get("aliases", ()), "source": place.source(fields)}
        chips[name] = Accelerator(**values) if base is None else replace(base, **values, cross_check="")
    return chips


def add_models(document: Document, known: Mapping[str, Workload], find: Find) -> dict[str, Workload]:
    """`known` with the file's models: a shape, totals with a `kind`, or the `config` of a published model. Raises ZooError."""
    models = dict(known)
    for name, body in (document.data.get("models") or {}).items():
        place = _Place(document, ("models", name))
        base = _base(place, name, body, models, "model", find) if isinstance(body, dict) else None
        generic = isinstance(base, Generic) or (base is None and isinstance(body, dict) and "kind" in body)
        fields = _fields(place, body, (_GENERIC if generic else _TRANSFORMER) | _PROVENANCE, "models")
        common = {"name": name, "aliases": fields.get("aliases", ()), "source": place.source(fields)}
        values = {key: value for key, value in fields.items() if key not in (*_PROVENANCE, "config")}
        if generic:
            if base is None:
                _require(place, fields, ("parameters", "unit"))
            models[name] = Generic(**values, **common) if base is None else replace(base, **values, **common)
        else:
            models[name] = _transformer(place, base, fields, values, common)
    return models


def _transformer(
    place: _Place, base: Transformer | None, fields: dict[str, Any], values: dict[str, Any], common: dict[str, Any]
) -> Transformer:
    if "config" in fields:
        from .importers.huggingface import transformer_from_config

        try:
            base = transformer_from_config(Path(place.document.path).parent / fields["config"])
        except (ZooError, OSError) as error:
            raise place.at("config").fault(str(error)) from None
    counted = base is None or any(key in _COUNTS or key in ("gated", "tie_embeddings") for key in values)
    if base is None:
        _require(place, fields, ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab"))
        values.setdefault("kv_layers", values["layers"] - values.get("state_layers", 0))
        if values.get("experts"):
            values.setdefault("moe_layers", values["layers"])
        heads, kv_heads = values["heads"], values["kv_heads"]
        values.setdefault("attention", "MHA" if heads == kv_heads else "MQA" if kv_heads == 1 else "GQA")
        model = Transformer(**({"parameters": 0.0, "active_parameters": 0.0} | values), **common)
    else:
        model = replace(base, **values, **common)
    if counted and "parameters" not in values:
        try:
            model = replace(model, parameters=total_parameters(model))
        except ZooError as error:
            raise place.fault(str(error)) from None
    if counted and "active_parameters" not in values:
        active = active_parameters(model) if model.experts else model.parameters
        model = replace(model, active_parameters=active)
    return model


def add_regions(document: Document, known: Mapping[str, Region], find: Find) -> dict[str, Region]:
    """`known` with the file's regions, named "cloud/region". Raises ZooError."""
    regions = dict(known)
    for name, body in (document.data.get("regions") or {}).items():
        place = _Place(document, ("regions", name))
        fields = _fields(place, body, _REGION | _PROVENANCE, "regions")
        base = _base(place, name, body, regions, "region", find)
        cloud, slash, region = name.partition("/")
        if not (cloud and slash and region):
            raise place.fault("a region is named 'cloud/region', such as 'mine/oslo'")
        if "pue" in fields and fields["pue"] < 1:
            raise place.at("pue").fault(f"PUE {fields['pue']:g} is below 1: facility energy is never less than IT energy")
        for axis, bound in (("latitude", 90), ("longitude", 180)):
            if abs(fields.get(axis, 0)) > bound:
                raise place.at(axis).fault(f"{fields[axis]:g} is beyond {bound} degrees")
        own = place.source(fields)
        intensity = {key: value for key, value in fields.items() if key in _GRID}
        values = {key: value for key, value in fields.items() if key not in (*_PROVENANCE, *_GRID)}
        values |= {"name": name, "cloud": cloud, "region": region, "aliases": fields.get("aliases", ()), "source": own}
        if base is None:
            _require(place, fields, ("country", "latitude", "longitude"))
            grid = Grid(**({"zone": fields["country"], "average_intensity": None} | intensity), source=own)
            regions[name] = Region(**({"location": region} | values), grid=grid)
        else:
            grid = replace(base.grid, **intensity, source=own) if intensity else base.grid
            regions[name] = replace(base, **values, grid=grid)
    return regions


def add_prices(document: Document, known: Mapping[str, Offer], find: Find) -> dict[str, Offer]:
    """`known` with the file's prices; one of the same name takes the old one's place. Raises ZooError."""
    offers = dict(known)
    for position, body in enumerate(document.data.get("prices") or []):
        place = _Place(document, ("prices", position))
        fields = _fields(place, body, _PRICE, "prices")
        _require(place, fields, ("region", "instance", "chip", "price"))
        where = f"{fields['cloud']}/{fields['region']}" if "cloud" in fields and "/" not in fields["region"] else fields["region"]
        region, chip = _found(place, find, "region", where), _found(place, find, "chip", fields["chip"])
        accelerators = fields.get("accelerators", 1)
        if accelerators < 1:
            raise place.at("accelerators").fault("expected at least 1")
        option = fields.get("option", "on-demand")
        price = fields["price"].to("USD/hour") * (accelerators if fields.get("per") == "chip" else 1)
        name = f"{region.name}/{fields['instance']}/{option}"
        flags = ("replaces the zoo's price",) if name in known else ()
        offers[name] = Offer(
            name=name,
            cloud=region.cloud,
            region=region.name,
            instance=fields["instance"],
            option=option,
            accelerator=chip.name,
            accelerators=accelerators,
            price=price,
            domain=fields.get("domain") or domain(chip, accelerators, fields["instance"]),
            interruption_band=fields.get("interruption_band"),
            stock_confirmed=fields.get("stock_confirmed", True),
            vcpus=fields.get("vcpus"),
            host_memory=fields.get("host_memory"),
            flags=flags,
            source=place.source(fields),
        )
    return offers


def _found(place: _Place, find: Find, kind: str, name: str) -> Any:
    try:
        return find(kind, name)
    except UnknownName as error:
        raise place.at(kind).fault(str(error)) from None


# ---------------------------------------------------------------- changes of price

_MATCH = ("cloud", "region", "chip", "option", "instance")


def change_prices(offers: Mapping[str, Offer], overlays: Sequence[Mapping[str, Any]], find: Find) -> dict[str, Offer]:
    """`offers` with some prices changed, in the same order; later overlays see the work of earlier ones.

    Each overlay has a `match` on any of cloud, region, chip, option and instance (cloud, region and instance may be
    patterns such as "us-*"), and either a new `price` ("2.10 USD/h", per instance, or per chip with `per: chip`) or an
    `adjust` ("-7 %"). Raises ZooError for a match that hits nothing.
    """
    changed = dict(offers)
    for number, overlay in enumerate(overlays):
        label = f"price overlay {number + 1}"
        match = {key: value for key, value in dict(overlay.get("match") or {}).items() if value is not None}
        for key in match:
            if key not in _MATCH:
                raise ZooError(f"{label}: match.{key}: unknown key{_near(key, _MATCH)}, expected {listed(_MATCH)}")
        change = _change(label, overlay)
        hits = [offer for offer in changed.values() if _hit(offer, match, find)]
        if not hits:
            said = ", ".join(f"{key}: {value}" for key, value in match.items())
            raise ZooError(f"{label}: match {{{said}}} hits no offer{_why(changed, match, find)}")
        for offer in hits:
            changed[offer.name] = change(offer)
    return changed


def _change(label: str, overlay: Mapping[str, Any]) -> Callable[[Offer], Offer]:
    price, adjust, per = overlay.get("price"), overlay.get("adjust"), overlay.get("per") or "instance"
    if (price is None) == (adjust is None):
        raise ZooError(f"{label}: expected either a price or an adjust")
    if per not in ("instance", "chip"):
        raise ZooError(f"{label}: per: unknown {per!r}, expected 'instance' or 'chip'")
    try:
        amount = quantity(price, "money rate") if adjust is None else quantity(adjust, "fraction")
    except UnitError as error:
        raise ZooError(f"{label}: {'adjust' if price is None else 'price'}: {error}") from None
    if adjust is None:
        if amount.magnitude < 0:
            raise ZooError(f"{label}: price: {price} is negative")
        return lambda offer: replace(
            offer,
            price=amount.to("USD/hour") * (offer.accelerators if per == "chip" else 1),
            flags=(*offer.flags, f"price set by the query: {price} per {per}"),
        )
    factor = 1 + float(amount.to("dimensionless").magnitude)
    if factor < 0:
        raise ZooError(f"{label}: adjust: {adjust} takes off more than the price")
    return lambda offer: replace(
        offer, price=offer.price * factor, flags=(*offer.flags, f"price adjusted by the query: {100 * (factor - 1):+g} %")
    )


def _hit(offer: Offer, match: Mapping[str, str], find: Find) -> bool:
    if "cloud" in match and not _like(offer.cloud, match["cloud"]):
        return False
    if "option" in match and offer.option != match["option"]:
        return False
    if "instance" in match and not _like(offer.instance, match["instance"]):
        return False
    if "chip" in match and offer.accelerator != find("chip", match["chip"]).name:
        return False
    return "region" not in match or _in_region(offer, match["region"], find)


def _like(name: str, pattern: str) -> bool:
    return fnmatchcase(name.lower(), str(pattern).lower())


def _in_region(offer: Offer, pattern: str, find: Find) -> bool:
    if _like(offer.region, pattern) or _like(offer.region.partition("/")[2], pattern):
        return True
    if re.search(r"[*?\[]", pattern):
        return False
    try:
        return bool(find("region", pattern).name == offer.region)
    except UnknownName:
        return False


def _why(offers: Mapping[str, Offer], match: Mapping[str, str], find: Find) -> str:
    """The first key of a match that alone hits nothing."""
    for key, value in match.items():
        if not any(_hit(offer, {key: value}, find) for offer in offers.values()):
            known = sorted({getattr(offer, key if key != "chip" else "accelerator") for offer in offers.values()})
            return f": no offer has {key} {value!r}{_near(str(value), known)}"
    return ""
