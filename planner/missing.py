"""Data that is not there. It is not infeasibility: what lacks a figure was not looked at, and the answer says so."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.catalog import Catalog

from . import plan
from .query import AnyQuery
from .space import Dropped, in_region


def missing_data(query: AnyQuery, catalog: Catalog, dropped: Iterable[Dropped]) -> tuple[plan.Missing, ...]:
    """Regions and chips that the question allows and that nobody is known to offer, and offers that lack a figure."""
    allowed = [
        name
        for name, region in catalog.regions.items()
        if any(in_region(catalog, region, pattern) for pattern in query.regions.allow)
        and not any(in_region(catalog, region, pattern) for pattern in query.regions.deny)
    ]
    sold = {offer.region for offer in catalog.offers.values()}
    priced = {offer.accelerator for offer in catalog.offers.values()}
    chips = catalog.chips if query.supply.chips == "all" else [catalog.find("chips", chip).name for chip in query.supply.chips]
    found = [
        _missing("region", [name for name in allowed if name not in sold]),
        _missing("chip", [name for name in chips if name not in priced]),
    ]
    found += [plan.Missing(count=d.removed, text=f"offers not looked at: {d.reason}") for d in dropped if d.missing]
    return tuple(one for one in found if one.count)


def _missing(kind: str, names: list[str]) -> plan.Missing:
    """ "8 regions have no price"."""
    verb = "has" if len(names) == 1 else "have"
    return plan.Missing(count=len(names), text=f"{kind if len(names) == 1 else kind + 's'} {verb} no price", names=tuple(names))
