"""What a question refers to, looked up before anything is computed: every name, and figures that no market can hold.

Models, chips of `supply` and patterns of `regions` are looked up where they are used; here stands the rest, which would
otherwise be found late, or match nothing without a word.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from zoo.catalog import Catalog
from zoo.errors import ZooError
from zoo.names import Index

from . import calibrated
from .query import AnyQuery, ServeQuery
from .records import QueryError
from .scalars import Keys, text_of
from .space import find, in_region

# Loads and objectives beyond these leave the integers that solvers hold exactly.
LARGEST_RATE = 10**7  # requests per second
LARGEST_PRICE = 10**7  # USD/h of one instance


def check(query: AnyQuery, catalog: Catalog) -> None:
    """Raises QueryError, one line with the nearest valid name, for the first thing that is not there."""
    calibrated.constants_of(query)
    calibrated.tool_of(query)
    if isinstance(query, ServeQuery):
        _populations(query, catalog)
    _quotas(query, catalog)
    _regions(query, catalog)
    if isinstance(query, ServeQuery):
        _rates(query)
    _prices(query, catalog)


def _populations(query: ServeQuery, catalog: Catalog) -> None:
    somewhere = next(iter(catalog.regions))
    for position, population in enumerate(query.workload.populations or ()):
        at: Keys = ("workload", "populations", position)
        for i, place in enumerate(population.near):
            try:
                catalog.round_trip_from(place, somewhere)
            except ZooError as error:
                raise QueryError(f"{query.locate((*at, 'near', i))}: {error}") from None
        if population.residency is not None:
            _place(query, catalog, population.residency, (*at, "residency"))


def _quotas(query: AnyQuery, catalog: Catalog) -> None:
    for position, quota in enumerate(query.supply.quota):
        at: Keys = ("supply", "quota", position)
        if quota.chip is not None and not any(fnmatchcase(name, quota.chip.lower()) for name in catalog.chips):
            find(query, catalog, "chips", quota.chip, (*at, "chip"))
        if quota.region is not None:
            _place(query, catalog, quota.region, (*at, "region"))
        if quota.cloud is not None:
            clouds = Index("cloud", {region.cloud: () for region in catalog.regions.values()})
            try:
                clouds.find(quota.cloud)
            except ZooError as error:
                raise QueryError(f"{query.locate((*at, 'cloud'))}: {error}") from None


def _place(query: AnyQuery, catalog: Catalog, pattern: str, keys: Keys) -> None:
    """A region, a pattern, a country or a label that means some region."""
    if not any(in_region(catalog, region, pattern) for region in catalog.regions.values()):
        labels = Index("place", dict.fromkeys((*catalog.residency_labels, *catalog.regions), ()))
        try:
            labels.find(pattern)
        except ZooError as error:
            raise QueryError(f"{query.locate(keys)}: {error}") from None
        raise QueryError(f"{query.locate(keys)}: no region of the zoo lies in {pattern!r}")


def _regions(query: AnyQuery, catalog: Catalog) -> None:
    """Somebody offers something in each region that is asked for by name."""
    served = {offer.region for offer in catalog.offers.values()}
    for position, pattern in enumerate(query.regions.allow):
        meant = [name for name, region in catalog.regions.items() if in_region(catalog, region, pattern)]
        if meant and not served.intersection(meant):
            raise QueryError(
                f"{query.locate(('regions', 'allow', position))}: nobody offers anything in {pattern!r} at a known price; "
                "add a price with zoo: (prices) or allow another region"
            )


def _rates(query: ServeQuery) -> None:
    """Rates stay where the solvers' integers are exact."""
    for position, population in enumerate(query.populations):
        if population.rate.m_as("1/s") > LARGEST_RATE:
            keys: Keys = (
                ("workload", "rate") if query.workload.rate is not None else ("workload", "populations", position, "rate")
            )
            raise QueryError(
                f"{query.locate(keys)}: {text_of(population.rate)} is too large, expected at most {LARGEST_RATE:,}/s"
            )


def _prices(query: AnyQuery, catalog: Catalog) -> None:
    """Prices stay where the solvers' integers are exact."""
    dearest = max(catalog.offers.values(), key=lambda offer: offer.price.magnitude, default=None)
    if dearest is not None and dearest.price.m_as("USD/hour") > LARGEST_PRICE:
        keys: Keys = ("prices", "overlays") if query.prices.overlays else ("zoo",)
        raise QueryError(
            f"{query.locate(keys)}: {dearest.name} costs {dearest.price:~.4g}, expected at most {LARGEST_PRICE:,} USD/h"
        )
