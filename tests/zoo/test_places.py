"""Regions, residency, distances and round trips."""

from __future__ import annotations

import pytest

from zoo.catalog import Catalog, UnknownName, ZooError
from zoo.places import great_circle


@pytest.mark.parametrize(
    ("region", "has", "lacks"),
    [
        ("aws/eu-central-1", {"DE", "EU", "EEA", "EUROPE"}, {"US", "UK", "APAC"}),
        ("gcp/europe-west2", {"GB", "UK", "EUROPE"}, {"EU", "EEA"}),
        ("gcp/europe-west6", {"CH", "EUROPE"}, {"EU", "EEA"}),
        ("azure/norwayeast", {"NO", "EEA"}, {"EU"}),
        ("crusoe/eu-iceland1", {"IS", "EEA"}, {"EU"}),
        ("aws/us-east-1", {"US", "NORTH-AMERICA"}, {"EU"}),
        ("aws/ap-southeast-1", {"SG", "APAC"}, {"EU", "US"}),
        ("aws/sa-east-1", {"BR", "LATAM"}, {"NORTH-AMERICA"}),
    ],
)
def test_residency(catalog: Catalog, region: str, has: set[str], lacks: set[str]) -> None:
    labels = catalog.residency(region)
    assert has <= labels and not lacks & labels
    assert catalog.residency(catalog.regions[region]) == labels
    assert labels <= catalog.residency_labels


def test_every_country_has_a_residency(catalog: Catalog) -> None:
    for region in catalog.regions.values():
        assert len(catalog.residency(region)) >= 2, region.country


def test_grid_intensities_keep_to_their_method(catalog: Catalog) -> None:
    sweden = catalog.regions["gcp/europe-north2"].grid
    assert sweden.average_intensity is not None
    assert sweden.average_intensity.to("gCO2e/kWh").magnitude == pytest.approx(23.4)  # not Google's own 2.73
    france = catalog.regions["aws/eu-west-3"].grid
    assert france.average_intensity is not None and 40 < france.average_intensity.to("gCO2e/kWh").magnitude < 70


def test_efficiencies_are_possible(catalog: Catalog) -> None:
    for region in catalog.regions.values():
        assert region.pue is None or 1.0 < region.pue < 2
        assert region.carbon_free_share is None or 0 <= region.carbon_free_share <= 1
        assert -90 <= region.latitude <= 90 and -180 <= region.longitude <= 180


def test_government_regions(catalog: Catalog) -> None:
    assert sorted(region.name for region in catalog.regions.values() if region.government) == [
        "aws/us-gov-east-1", "aws/us-gov-west-1", "azure/usgovarizona", "azure/usgovtexas", "azure/usgovvirginia",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "kilometres"),
    [
        ((51.5074, -0.1278), (40.7128, -74.0060), 5570),  # London to New York
        ((35.6762, 139.6503), (37.7749, -122.4194), 8270),  # Tokyo to San Francisco
        ((0.0, 0.0), (0.0, 180.0), 20015),  # half the equator
        ((10.0, 20.0), (10.0, 20.0), 0),
    ],
)
def test_great_circle(one: tuple[float, float], other: tuple[float, float], kilometres: float) -> None:
    assert great_circle(*one, *other).to("km").magnitude == pytest.approx(kilometres, abs=15)


def test_measured_in_either_direction(catalog: Catalog) -> None:
    there = catalog.round_trip("gcp/europe-west1", "gcp/asia-south1")
    assert there.time.to("ms").magnitude == 136 and there.basis == "measured round trip"
    aws = catalog.round_trip("aws/eu-central-1", "aws/us-east-1")
    assert aws.basis.startswith("2 x one-way emulation value")


def test_between_clouds_it_is_fitted(catalog: Catalog) -> None:
    trip = catalog.round_trip("gcp/europe-west2", "aws/us-east-1")
    assert trip.distance is not None and trip.basis.startswith("fitted from distance")
    assert trip.time.to("ms").magnitude == pytest.approx(15.9 + 0.01509 * trip.distance.to("km").magnitude)


@pytest.mark.parametrize(
    "place", ["Frankfurt", "London", "Tokyo", "Virginia", "Singapore", "são paulo", "Sao Paulo", "NEW YORK", "Dublin"]
)
def test_cities_are_known(catalog: Catalog, place: str) -> None:
    assert catalog.round_trip_from(place, "aws/us-east-1").time.to("ms").magnitude > 0


def test_people_in_a_city_use_the_measurement_of_their_region(catalog: Catalog) -> None:
    trip = catalog.round_trip_from("Frankfurt", "aws/us-east-1")
    assert trip.time == catalog.round_trip("aws/eu-central-1", "aws/us-east-1").time
    assert "aws/eu-central-1 stands for Frankfurt" in trip.basis
    assert catalog.round_trip_from("50.11,8.68", "aws/us-east-1").time == trip.time


def test_people_next_door_get_the_fit(catalog: Catalog) -> None:
    trip = catalog.round_trip_from("Frankfurt", "aws/eu-central-1")
    assert trip.basis.startswith("fitted") and trip.time.to("ms").magnitude == pytest.approx(15.9, abs=0.1)


def test_a_region_is_a_place_too(catalog: Catalog) -> None:
    same = catalog.round_trip_from("aws/eu-central-1", "aws/us-east-1")
    assert same == catalog.round_trip("aws/eu-central-1", "aws/us-east-1")
    other = catalog.round_trip_from("gcp/europe-west3", "aws/us-east-1")
    assert "aws/eu-central-1 stands for" in other.basis


def test_unknown_places(catalog: Catalog) -> None:
    with pytest.raises(UnknownName, match="unknown place 'Frankfrut'; did you mean 'Frankfurt'"):
        catalog.round_trip_from("Frankfrut", "aws/us-east-1")
    with pytest.raises(ZooError, match="no point on the globe"):
        catalog.round_trip_from("95.0,10.0", "aws/us-east-1")
    with pytest.raises(UnknownName, match="unknown region"):
        catalog.round_trip_from("Frankfurt", "aws/nowhere")
