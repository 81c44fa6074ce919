"""Where things are: cloud regions, cities, residency, distances, and round trips between them."""

from __future__ import annotations

import math
import re
from functools import cache, lru_cache
from itertools import chain

from .errors import ZooError
from .names import Index, normalise
from .specs import Economics, Grid, Region, RoundTrip, Source
from .tables import Row, amount, known, number, rows, source, spellings
from .units import Q, Quantity

EARTH_RADIUS_KM = 6371.0088  # IUGG mean radius
SAME_PLACE = Q(100.0, "km")  # a region this near to a city serves it

_COORDINATES = re.compile(r"\s*([-+]?\d+(?:\.\d+)?)\s*,\s*([-+]?\d+(?:\.\d+)?)\s*")


# ---------------------------------------------------------------- regions


@cache
def regions() -> dict[str, Region]:
    """Every cloud region as "cloud/region", in the order of the file."""
    return {f"{row['cloud']}/{row['region']}": _region(row) for row in rows("regions.csv")}


def _region(row: Row) -> Region:
    name = f"{row['cloud']}/{row['region']}"
    return Region(
        name=name,
        cloud=row["cloud"],
        region=row["region"],
        location=row["location"],
        country=row["country"],
        latitude=float(row["lat"]),
        longitude=float(row["lon"]),
        grid=Grid(
            zone=row["em_zone"],
            average_intensity=amount(row["grid_ci_gco2e_kwh"], "gCO2e/kWh"),
            marginal_intensity=amount(row["grid_ci_marginal"], "gCO2e/kWh"),
            market_intensity=amount(row["provider_ci_market"], "gCO2e/kWh"),
            year=int(row["grid_ci_year"]) if row["grid_ci_year"] else None,
            source=Source(row["grid_ci_source"], row["grid_ci_year"] or None, row["verified"] == "true", row["grid_ci_basis"]),
        ),
        pue=number(row["pue"]),
        pue_scope=row["pue_scope"] or None,
        wue=amount(row["wue_l_kwh"], "L/kWh"),
        electricity_price=amount(row["elec_price_usd_kwh"], "USD/kWh"),
        electricity_basis=row["elec_price_basis"] or None,
        carbon_free_share=float(row["cfe_pct"]) / 100 if row["cfe_pct"] else None,
        carbon_free_basis=row["cfe_basis"] or None,
        government=row["region"].startswith(("us-gov", "usgov")),
        state=row["us_state"] or None,
        profile_zone=row["profile_zone"] or None,
        aliases=(row["region"],),  # meant only where no other cloud has it too
        source=source(row),
    )


@cache
def _residency() -> dict[str, frozenset[str]]:
    return {row["country"]: frozenset((row["country"], *spellings(row["labels"]))) for row in rows("residency.csv")}


def residency(region: Region) -> frozenset[str]:
    """Where data in a region legally is: its country code and the labels that hold there, such as "EU" or "APAC"."""
    return _residency().get(region.country, frozenset((region.country,)))


def residency_labels() -> frozenset[str]:
    """Every label that `residency` can give, country codes included."""
    return frozenset(chain.from_iterable(_residency().values()))


# ---------------------------------------------------------------- distance


@lru_cache(maxsize=20_000)
def great_circle(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> Quantity:
    """Distance over the globe between two points in degrees (haversine)."""
    a, b = math.radians(latitude), math.radians(other_latitude)
    step = math.radians(other_longitude - longitude)
    h = math.sin((b - a) / 2) ** 2 + math.cos(a) * math.cos(b) * math.sin(step / 2) ** 2
    return Q(2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h))), "km")


def distance(origin: Region, destination: Region) -> Quantity:
    """Great-circle distance between two regions."""
    return great_circle(origin.latitude, origin.longitude, destination.latitude, destination.longitude)


# ---------------------------------------------------------------- cities


def locate(place: str, regions: dict[str, Region]) -> tuple[float, float]:
    """Latitude and longitude of a city, of a region's location, or of "lat,lon". Raises UnknownName."""
    point = _COORDINATES.fullmatch(place)
    if point:
        latitude, longitude = float(point.group(1)), float(point.group(2))
        if abs(latitude) > 90 or abs(longitude) > 180:
            raise ZooError(f"'{place}' is no point on the globe, expected latitude (-90 to 90) and longitude (-180 to 180)")
        return latitude, longitude
    cities = {row["name"]: row for row in rows("places.csv")}
    spelt: dict[str, set[str]] = {name: {name, *spellings(row["aliases"])} for name, row in cities.items()}
    taken = {normalise(spelling) for spelling in chain.from_iterable(spelt.values())}
    points = {name: (float(row["lat"]), float(row["lon"])) for name, row in cities.items()}
    for region in regions.values():
        for part in re.split(r"[,/()]", region.location):
            if normalise(part) and normalise(part) not in taken:
                taken.add(normalise(part))
                points[part.strip()] = (region.latitude, region.longitude)
                spelt[part.strip()] = {part.strip()}
    return points[Index("place", spelt).find(place)]


# ---------------------------------------------------------------- round trips


@cache
def measured() -> dict[tuple[str, str], RoundTrip]:
    """Measured or emulated round trips by ordered pair of region names, with the transfer price where it is known."""
    prices = {}
    for row in rows("round_trips.csv"):
        if row["transfer_usd_gb"]:
            prices[(f"{row['cloud']}/{row['src']}", f"{row['cloud']}/{row['dst']}")] = row["transfer_usd_gb"]
    trips = {}
    for row in rows("round_trips.csv"):
        if row["rtt_ms"]:
            pair = (f"{row['cloud']}/{row['src']}", f"{row['cloud']}/{row['dst']}")
            trips[pair] = RoundTrip(
                *pair,
                time=known(row["rtt_ms"], "ms"),
                distance=amount(row["distance_km"], "km"),
                transfer_price=amount(prices.get(pair, ""), "USD/GB"),
                basis=row["rtt_basis"],
                source=source(row),
            )
    return trips


@cache
def _transfer_prices() -> dict[tuple[str, str], Quantity | None]:
    return {
        (f"{row['cloud']}/{row['src']}", f"{row['cloud']}/{row['dst']}"): amount(row["transfer_usd_gb"], "USD/GB")
        for row in rows("round_trips.csv")
        if row["transfer_usd_gb"]
    }


def fitted_time(length: Quantity, intercept: Economics, slope: Economics) -> Quantity:
    """Round trip for a distance: intercept (ms) + slope (ms/km) x distance, fitted to the measured pairs."""
    if intercept.typical is None or slope.typical is None:
        raise ZooError("economics.csv: the round-trip fit has no typical value")
    return Q(intercept.typical, "ms") + Q(slope.typical, "ms/km") * length.to("km")


def round_trip(origin: Region, destination: Region, intercept: Economics, slope: Economics) -> RoundTrip:
    """The round trip between two regions: measured in either direction, else fitted from the distance."""
    pair = (origin.name, destination.name)
    known = measured().get(pair)
    if known is not None:
        return known
    price = _transfer_prices().get(pair)
    back = measured().get((destination.name, origin.name))
    if back is not None:
        return RoundTrip(*pair, back.time, back.distance, price, f"{back.basis}, other direction", back.source)
    length = distance(origin, destination)
    return _fitted(origin.name, destination.name, length, price, intercept, slope)


def round_trip_from(
    latitude: float,
    longitude: float,
    label: str,
    region: Region,
    known: dict[str, Region],
    intercept: Economics,
    slope: Economics,
) -> RoundTrip:
    """The round trip between people at a point and a region.

    Where the region's cloud has a region of its own within `SAME_PLACE` of the point, and measured from there, that
    measurement stands for it; otherwise the time is fitted from the distance.
    """
    length = great_circle(latitude, longitude, region.latitude, region.longitude)
    if length > SAME_PLACE:
        near = []
        for other in known.values():
            if other.cloud == region.cloud:
                apart = great_circle(latitude, longitude, other.latitude, other.longitude)
                if apart <= SAME_PLACE:
                    near.append((apart.magnitude, other.name))
        for _, name in sorted(near):
            trip = measured().get((name, region.name)) or measured().get((region.name, name))
            if trip is not None:
                return RoundTrip(
                    label, region.name, trip.time, length, None, f"{trip.basis}, {name} stands for {label}", trip.source
                )
    return _fitted(label, region.name, length, None, intercept, slope)


def _fitted(
    origin: str, destination: str, length: Quantity, price: Quantity | None, intercept: Economics, slope: Economics
) -> RoundTrip:
    basis = f"fitted from distance ({intercept.typical} ms + {slope.typical} ms/km, {intercept.source.note})"
    return RoundTrip(origin, destination, fitted_time(length, intercept, slope), length, price, basis, intercept.source)
