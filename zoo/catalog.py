"""The catalog: every record of the zoo by name, with a user's own files on top.

    >>> from zoo.catalog import load
    >>> catalog = load()
    >>> catalog.find("chips", "H100-SXM5-80GB").name
    'h100-sxm'

Tables are read when first asked for. All mappings are in the order of their file; a user's records come last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import date as Date
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from . import chips as chip_table
from . import facts, offers, overlays, places, tables, workloads
from .errors import UnknownName, ZooError
from .names import Index, listed, normalise
from .offers import Excluded
from .specs import (
    Accelerator,
    Economics,
    Fabric,
    GridProfile,
    Interruptions,
    Offer,
    Region,
    RoundTrip,
    SpotTrace,
    Storage,
    Workload,
)
from .yaml_source import Document, read

__all__ = ["Age", "Catalog", "Excluded", "UnknownName", "ZooError", "apply_price_overlays", "load"]

# Kind of record -> the files it is made from.
FILES = {
    "chips": ("chips.csv", "fabrics.csv"),
    "models": ("models.csv",),
    "regions": ("regions.csv", "residency.csv"),
    "offers": ("prices.csv", "chips.csv", "regions.csv"),
    "fabrics": ("fabrics.csv",),
    "storage": ("storage.csv",),
    "economics": ("economics.csv",),
    "round_trips": ("round_trips.csv", "regions.csv", "places.csv", "economics.csv"),
    "grid_profiles": ("grid_profiles.csv",),
    "spot_traces": ("spot_traces.csv",),
    "reliability": ("reliability.csv",),
}
# What a person may call a kind of record.
_KINDS = {"chip": "chips", "accelerator": "chips", "model": "models", "region": "regions", "offer": "offers", "price": "offers",
          "prices": "offers", "fabric": "fabrics", "round_trip": "round_trips", "grid_profile": "grid_profiles",
          "spot_trace": "spot_traces"}  # fmt: skip
_SINGULAR = {"chips": "chip", "models": "model", "regions": "region", "offers": "offer", "fabrics": "fabric",
             "storage": "storage", "economics": "parameter", "round_trips": "round trip", "grid_profiles": "grid zone",
             "spot_traces": "spot trace", "reliability": "reliability record"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Age:
    """How old a dated figure is: at most `days`, None when undated; `text` says it in words."""

    days: int | None
    text: str


def load(overlays: Sequence[str | Path] = (), *, incomplete_prices: bool = False) -> Catalog:
    """The zoo, with the user's YAML files `overlays` on top, later ones last.

    `incomplete_prices` keeps prices that lack the host (flagged). Raises ZooError, one line, for a fault in a file.
    """
    documents = tuple(read(path) for path in overlays)
    catalog = Catalog(documents, incomplete_prices)
    if documents:  # a fault in a user's file is said now, not when the record is first used
        catalog._check()
    return catalog


def apply_price_overlays(
    offers: Mapping[str, Offer], overlays: Sequence[Mapping[str, Any]], catalog: Catalog
) -> dict[str, Offer]:
    """`offers` with prices changed: see `zoo.overlays.change_prices`. Names are those of `catalog`. Raises ZooError."""
    return _overlays_change(offers, overlays, catalog.find)


class Catalog:
    """Records by canonical name. Made by `load`; never changes: `with_offers` gives another catalog."""

    def __init__(self, documents: tuple[Document, ...] = (), incomplete_prices: bool = False) -> None:
        self._documents = documents
        self._incomplete = incomplete_prices

    # ------------------------------------------------------------ tables

    @cached_property
    def chips(self) -> Mapping[str, Accelerator]:
        """Accelerators."""
        return self._extended("chips", chip_table.chips(), overlays.add_chips)

    @cached_property
    def models(self) -> Mapping[str, Workload]:
        """Workloads: transformers and others."""
        return self._extended("models", workloads.models(), overlays.add_models)

    @cached_property
    def regions(self) -> Mapping[str, Region]:
        """Cloud regions and sites, named "cloud/region"."""
        return self._extended("regions", places.regions(), overlays.add_regions)

    def _extended(self, kind: str, known: dict[str, Any], add: Callable[..., dict[str, Any]]) -> Mapping[str, Any]:
        """The records of the zoo and of each document, which may build on those before it."""
        for document in self._documents:
            before, index = known, _index(kind, known)
            known = add(document, before, lambda _, name, before=before, index=index: before[index.find(name)])
        return MappingProxyType(known)

    @cached_property
    def offers(self) -> Mapping[str, Offer]:
        """Prices, named "cloud/region/instance/option"."""
        known = self._zoo_offers[0]
        for document in self._documents:
            known = overlays.add_prices(document, known, self.find)
        return MappingProxyType(known)

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        """Prices that the catalog leaves out, each with its reason."""
        return self._zoo_offers[1]

    @cached_property
    def _zoo_offers(self) -> tuple[dict[str, Offer], tuple[Excluded, ...]]:
        return offers.offers(self.chips, places.regions(), self._incomplete)

    @cached_property
    def fabrics(self) -> Mapping[str, Fabric]:
        """Link families."""
        return MappingProxyType(facts.fabrics())

    @cached_property
    def storage(self) -> Mapping[str, Storage]:
        """Storage systems and tiers."""
        return MappingProxyType(facts.storage())

    @cached_property
    def economics(self) -> Mapping[str, Economics]:
        """Figures of finance, energy, carbon and reliability, by parameter (and scope where it takes one)."""
        return MappingProxyType(facts.economics())

    @cached_property
    def round_trips(self) -> Mapping[str, RoundTrip]:
        """Measured round trips, named "origin -> destination"."""
        return MappingProxyType({f"{a} -> {b}": trip for (a, b), trip in places.measured().items()})

    @cached_property
    def grid_profiles(self) -> Mapping[str, tuple[GridProfile, ...]]:
        """Hourly profiles by grid zone; the first of each is the one to use."""
        return MappingProxyType(facts.grid_profiles())

    @cached_property
    def spot_traces(self) -> Mapping[str, SpotTrace]:
        """Measured spot capacity."""
        return MappingProxyType(facts.spot_traces())

    @cached_property
    def reliability(self) -> Mapping[str, Interruptions]:
        """Published interruptions of runs and clusters."""
        return MappingProxyType(facts.reliability())

    # ------------------------------------------------------------ by name

    def find(self, kind: str, name: str) -> Any:
        """The record of a kind (as in FILES, singular or plural) by its name or any spelling of it.

        Raises UnknownName, one line with the nearest names.
        """
        table = self._table(kind)
        records = getattr(self, table)
        if name in records:
            return records[name]
        if table not in self._indices:
            self._indices[table] = _index(table, records)
        return records[self._indices[table].find(name)]

    @cached_property
    def _indices(self) -> dict[str, Index]:
        return {}

    def _table(self, kind: str) -> str:
        table = _KINDS.get(kind, kind)
        if table not in FILES:
            raise UnknownName(f"unknown kind '{kind}', expected {listed(FILES)}")
        return table

    def economics_value(self, parameter: str, scope: str | None = None) -> Economics:
        """The figure of a parameter; `scope` tells apart several of the same name. Raises UnknownName."""
        found = [r for r in self.economics.values() if normalise(r.parameter) == normalise(parameter)]
        if not found:
            index = Index("parameter", {r.parameter: () for r in self.economics.values()})
            index.find(parameter)  # raises with the nearest names
        if scope is not None:
            scopes = [r.scope for r in found]
            exact = [r for r in found if normalise(r.scope) == normalise(scope)]
            found = exact or [r for r in found if normalise(scope) and normalise(scope) in normalise(r.scope)]
            if not found:
                raise UnknownName(f"parameter '{parameter}' has no scope '{scope}'; it has {listed(scopes)}")
        if len(found) > 1:
            raise UnknownName(f"parameter '{parameter}' stands for several scopes: {listed(r.scope for r in found)}")
        return found[0]

    # ------------------------------------------------------------ places

    def residency(self, region: Region | str) -> frozenset[str]:
        """Country code and labels ("EU", "EEA", "UK", "APAC", ...) that hold for data in a region."""
        return places.residency(self.find("regions", region) if isinstance(region, str) else region)

    @property
    def residency_labels(self) -> frozenset[str]:
        """Every label that `residency` can give."""
        return places.residency_labels() | {region.country for region in self.regions.values()}

    def round_trip(self, origin: str, destination: str) -> RoundTrip:
        """The round trip between two regions: measured in either direction, else fitted from distance. Raises UnknownName."""
        return places.round_trip(self.find("regions", origin), self.find("regions", destination), *self._fit)

    def round_trip_from(self, place: str, region: str) -> RoundTrip:
        """The round trip from people in a city, at "lat,lon" or in a region, to a region; worked out once. Raises UnknownName."""
        if (place, region) not in self._trips:
            self._trips[place, region] = self._round_trip_from(place, region)
        return self._trips[place, region]

    def _round_trip_from(self, place: str, region: str) -> RoundTrip:
        target = self.find("regions", region)
        origin, latitude, longitude = self._located(place)
        if origin is not None and origin.cloud == target.cloud:
            return places.round_trip(origin, target, *self._fit)
        return places.round_trip_from(latitude, longitude, place, target, dict(self.regions), *self._fit)

    def _located(self, place: str) -> tuple[Region | None, float, float]:
        """The region that a place names, if it names one, and where it is; looked up once for each place."""
        if place not in self._places:
            try:
                origin = self.find("regions", place)
            except UnknownName:
                self._places[place] = (None, *places.locate(place, dict(self.regions)))
            else:
                self._places[place] = (origin, origin.latitude, origin.longitude)
        return self._places[place]

    @cached_property
    def _places(self) -> dict[str, tuple[Region | None, float, float]]:
        return {}

    @cached_property
    def _trips(self) -> dict[tuple[str, str], RoundTrip]:
        return {}

    @cached_property
    def _fit(self) -> tuple[Economics, Economics]:
        return self.economics_value("RTT fit intercept"), self.economics_value("RTT fit slope")

    # ------------------------------------------------------------ provenance

    def hash(self, kind: str) -> str:
        """SHA-256 over the data behind a kind of record: its files, the user's files, changed offers."""
        table = self._table(kind)
        state = hashlib.sha256()
        for name in FILES[table]:
            state.update(tables.digest(name).encode())
        for document in self._documents:
            state.update(json.dumps(document.data, sort_keys=True).encode())
        if table == "offers":
            state.update(str(self._incomplete).encode())
            for offer in self._changed:
                state.update(f"{offer.name} {offer.price.to('USD/hour').magnitude!r}\n".encode())
        return state.hexdigest()

    @property
    def _changed(self) -> Iterable[Offer]:
        return getattr(self, "_replaced", {}).values()

    def age(self, date: str | None, today: Date | None = None) -> Age:
        """How old a date is, as of `today` (the clock's, when not given). An imprecise date counts from its beginning."""
        today = Date.today() if today is None else today
        parts = re.match(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", date or "")
        if date is None or parts is None:
            return Age(None, "undated")
        days = (today - Date(int(parts[1]), int(parts[2] or 1), int(parts[3] or 1))).days
        exact = parts[3] is not None
        span = (
            f"{days} day{'' if days == 1 else 's'}"
            if days < 60
            else f"{days // 30} months"
            if days < 730
            else f"{days // 365} years"
        )
        return Age(days, f"{span} old ({date})" if exact else f"up to {span} old ({date})")

    def with_offers(self, offers: Mapping[str, Offer]) -> Catalog:
        """This catalog with other offers."""
        other = self.with_records("offers", offers)
        other.__dict__["_replaced"] = dict(offers)
        return other

    def with_records(self, kind: str, records: Mapping[str, Any]) -> Catalog:
        """This catalog with other records of one kind (for questions such as: what if every link were 1 % faster?)."""
        table = self._table(kind)
        other = copy(self)
        other.__dict__[table] = MappingProxyType(dict(records))
        other.__dict__["_indices"] = {name: index for name, index in self._indices.items() if name != table}
        if table in ("regions", "economics"):  # what is known of places and of the way between them is of these
            for known in ("_places", "_trips", "_fit"):
                other.__dict__.pop(known, None)
        return other

    def _check(self) -> None:
        for document in self._documents:
            overlays.check_sections(document)
        _ = self.chips, self.models, self.regions, self.offers


_overlays_change = overlays.change_prices  # `load` and `apply_price_overlays` have arguments of the same name as the module


def _index(table: str, records: Mapping[str, Any]) -> Index:
    spellings = {name: getattr(record, "aliases", ()) for name, record in records.items()}
    return Index(_SINGULAR[table], spellings, workloads.SUFFIXES if table == "models" else ())
