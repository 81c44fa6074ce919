"""Prices, and the traps in price lists."""

from __future__ import annotations

import pytest

from zoo.catalog import Catalog, load
from zoo.offers import OPTIONS
from zoo.tables import rows


def usd(catalog: Catalog, name: str) -> float:
    return float(catalog.offers[name].price.to("USD/hour").magnitude)


@pytest.mark.parametrize(
    ("name", "price"),
    [
        ("aws/us-east-2/trn2.48xlarge/on-demand", 85.964),
        ("gcp/us-central1/a3-highgpu-8g/on-demand", 88.49),
        ("gcp/us-central1/a3-highgpu-8g/spot", 50.609541),
        ("gcp/us-central1/a3-highgpu-8g/reserved-1y", 61.383672),
        ("gcp/us-central1/a3-highgpu-8g/reserved-3y", 38.864381),
        ("azure/eastus/Standard_ND128isr_NDR_GB200_v6/on-demand", 108.16),
        ("oci/uk-london-1/BM.GPU.H100.8/on-demand", 80.0),
        ("gcp/us-east5/tpu-v5litepod/spot", 0.6),
    ],
)
def test_prices_as_published(catalog: Catalog, name: str, price: float) -> None:
    assert usd(catalog, name) == pytest.approx(price)


def test_every_price_is_an_offer_or_has_a_reason(catalog: Catalog) -> None:
    columns = {
        "on-demand": "on_demand_usd_h",
        "spot": "spot_usd_h",
        "reserved-1y": "reserved_1y_usd_h",
        "reserved-3y": "reserved_3y_usd_h",
    }
    excluded = {record.record for record in catalog.excluded}
    clouds = {row["cloud"]: [] for row in rows("prices.csv")}  # type: ignore[var-annotated]
    for region in catalog.regions.values():
        clouds.setdefault(region.cloud, []).append(region.region)
    for row in rows("prices.csv"):
        places = clouds[row["cloud"]] if row["region"] == "*" else [row["region"]]
        for place in places:
            stem = f"{row['cloud']}/{place}/{row['instance_type']}"
            for option, column in columns.items():
                if row[column]:
                    name = f"{stem}/{option}"
                    assert (name in catalog.offers) != (name in excluded or stem in excluded), name
            if not any(row[column] for column in columns.values()):
                assert stem in excluded
    assert all(record.reason for record in catalog.excluded)


def test_offers_are_consistent(catalog: Catalog) -> None:
    for name, offer in catalog.offers.items():
        assert name == f"{offer.region}/{offer.instance}/{offer.option}"
        assert offer.option in OPTIONS
        assert offer.region in catalog.regions and offer.accelerator in catalog.chips
        assert offer.accelerators >= 1 and offer.domain >= 1
        assert (offer.interruption_band is None) or offer.option == "spot"


def test_spot_without_a_discount_is_no_spot(catalog: Catalog) -> None:
    reasons = {record.record: record.reason for record in catalog.excluded}
    for region in ("ap-south-1", "eu-central-1"):
        assert "no discount" in reasons[f"aws/{region}/p4d.24xlarge/spot"]
    assert sum("no discount" in reason for reason in reasons.values()) == 10  # rows where spot >= on-demand
    for offer in catalog.offers.values():
        if offer.option == "spot":
            full = catalog.offers.get(offer.name.replace("/spot", "/on-demand"))
            assert full is None or offer.price < full.price


def test_reserved_is_never_above_on_demand(catalog: Catalog) -> None:
    for offer in catalog.offers.values():
        if offer.option.startswith("reserved"):
            full = catalog.offers.get(f"{offer.region}/{offer.instance}/on-demand")
            assert full is None or offer.price <= full.price


def test_prices_without_the_host_wait_to_be_asked_for(catalog: Catalog) -> None:
    name = "gcp/us-central1/a3-ultragpu-8g/on-demand"
    assert name not in catalog.offers
    reason = next(record.reason for record in catalog.excluded if record.record == name)
    assert reason.startswith("host not included")
    asked = load(incomplete_prices=True)
    assert usd(asked, name) == pytest.approx(74.49392)
    assert "host not included" in asked.offers[name].flags


def test_commitment_prices_are_not_on_demand(catalog: Catalog) -> None:
    """GCP H200 at 36.60 and B200 at 64.44 USD/h are commitments that catalogues list as on-demand."""
    asked = load(incomplete_prices=True)
    for name, offer in asked.offers.items():
        if offer.cloud == "gcp" and offer.accelerator in ("h200-sxm", "b200-sxm") and offer.option == "on-demand":
            assert offer.price.magnitude > 70, name


def test_places_that_are_not_known_are_left_out(catalog: Catalog) -> None:
    assert not any(offer.cloud == "hyperbolic" for offer in catalog.offers.values())
    hidden = [record for record in catalog.excluded if record.record.startswith("hyperbolic")]
    assert len(hidden) == 2 and all("place" in record.reason for record in hidden)


def test_one_list_price_stands_in_every_region(catalog: Catalog) -> None:
    places = [offer for offer in catalog.offers.values() if offer.cloud == "oci" and offer.instance == "BM.GPU.H100.8"]
    assert len(places) == sum(region.cloud == "oci" for region in catalog.regions.values()) == 35
    flag = "one list price in every region; stock unconfirmed"
    listed = {row["region"] for row in rows("prices.csv") if row["cloud"] == "oci" and row["instance_type"] == "BM.GPU.H100.8"}
    assert "eu-amsterdam-1" in listed  # a row of its own, with stock, stands before the row for every region
    for offer in places:
        own = offer.region.removeprefix("oci/") in listed
        assert offer.stock_confirmed == own and (flag in offer.flags) != own


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("aws/sa-east-1/p5.48xlarge/on-demand", "price from before the June 2025 cut"),
        ("aws/ap-northeast-1/p4d.24xlarge/reserved-1y", "reserved price predates the June 2025 cut: upper bound"),
        ("aws/us-gov-west-1/p5.48xlarge/on-demand", "government region"),
        ("scaleway/fr-par/H100-1-80G/on-demand", "currency uncertain"),
        ("verda/FIN-01/1V100.6V/on-demand", "far below median"),
        ("crusoe/us-east1/h100-80gb-sxm/spot", "price per GPU"),
        ("ovhcloud/GRA/a100-180/on-demand", "board form factor not stated"),
        ("gcp/us-central1/tpu7x/on-demand", "price recalled"),
        ("nebius/eu-north1/gpu-h100-sxm_8gpu-128vcpu-1600gb/on-demand", "price dated only 2026"),
    ],
)
def test_traps_are_flagged(catalog: Catalog, name: str, flag: str) -> None:
    assert any(said.startswith(flag) for said in catalog.offers[name].flags), catalog.offers[name].flags


def test_an_ordinary_price_carries_no_flag_of_the_cut(catalog: Catalog) -> None:
    assert not any("cut" in flag for flag in catalog.offers["aws/us-east-1/p5.48xlarge/on-demand"].flags)
    derived = [o for o in catalog.offers.values() if any("Spot Advisor" in flag for flag in o.flags)]
    assert derived and all(o.option == "spot" for o in derived)


def test_each_option_has_the_date_of_its_own_price(catalog: Catalog) -> None:
    stem = "aws/ap-northeast-1/p4d.24xlarge"
    assert catalog.offers[f"{stem}/on-demand"].source.date == "2026"
    assert catalog.offers[f"{stem}/reserved-1y"].source.date == "2025-04-04"


@pytest.mark.parametrize(
    ("name", "chip", "domain"),
    [
        ("aws/us-east-1/p5.48xlarge/on-demand", "h100-sxm", 8),
        ("aws/us-east-1/p5.4xlarge/on-demand", "h100-sxm", 1),
        ("gcp/us-central1/a2-megagpu-16g/on-demand", "a100-sxm-40gb", 16),
        ("azure/eastus/Standard_ND128isr_NDR_GB200_v6/on-demand", "gb200", 72),
        ("gcp/us-west1/tpu-v5litepod/on-demand", "tpu-v5e", 256),
        ("aws/us-east-2/trn2.48xlarge/on-demand", "trainium2", 16),
        ("aws/us-east-1/g6e.48xlarge/on-demand", "l40s", 8),  # over PCIe
        ("azure/eastus2/Standard_NC80adis_H100_v5/on-demand", "h100-nvl", 2),
        ("azure/eastus/Standard_NC96ads_A100_v4/on-demand", "a100-pcie-80gb", 2),  # four boards, bridged in pairs
        ("azure/eastus/Standard_NC24s_v3/on-demand", "v100-pcie-16gb", 4),
        ("runpod/CA/8x_A100-80GB_SECURE/on-demand", "a100-pcie-80gb", 2),
    ],
)
def test_domain_and_board(catalog: Catalog, name: str, chip: str, domain: int) -> None:
    offer = catalog.offers[name]
    assert (offer.accelerator, offer.domain) == (chip, domain)
