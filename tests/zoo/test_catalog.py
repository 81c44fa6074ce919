"""Records by name, their provenance, and what the catalog says of itself."""

from __future__ import annotations

import dataclasses
import doctest
import textwrap
from datetime import date

import pytest

import zoo.catalog
import zoo.overlays
from zoo.catalog import FILES, Catalog, UnknownName, load
from zoo.names import Index, nearest
from zoo.specs import Generic, Transformer
from zoo.units import Quantity

# How the published measurements spell the parts that they were made on.
MEASURED_ON = {
    "H100-SXM-80GB": "h100-sxm", "H100-80GB-SXM": "h100-sxm", "H200-SXM-141GB": "h200-sxm", "H200-141GB-SXM": "h200-sxm",
    "B200-SXM-180GB": "b200-sxm", "B200-SXM": "b200-sxm", "B300-SXM": "b300-sxm", "A100-SXM-80GB": "a100-sxm-80gb",
    "A100-80GB-SXM": "a100-sxm-80gb", "A100-SXM-40GB": "a100-sxm-40gb", "A100-40GB-SXM": "a100-sxm-40gb",
    "MI300X-192GB": "mi300x", "MI325X-256GB": "mi325x", "MI250-128GB": "mi250", "L40S": "l40s",
    "RTX-PRO-6000-BSE": "rtx-pro-6000",
    "GB200": "gb200", "GB300": "gb300", "GH200-96GB": "gh200", "Gaudi2-96GB": "gaudi2", "Gaudi2": "gaudi2",
    "H200-NVL-141GB": "h200-nvl", "H800-SXM-80GB": "h800-sxm", "H100-NVL-94GB": "h100-nvl", "H100-PCIe-80GB": "h100-pcie",
    "TPU-v3": "tpu-v3", "TPU-v4": "tpu-v4", "TPU-v5e": "tpu-v5e", "TPU-v5p": "tpu-v5p", "TPU-v6e": "tpu-v6e",
    "TPU-v7 (Ironwood)": "tpu-v7", "V100-32GB-SXM": "v100-sxm-32gb",
}  # fmt: skip


@pytest.mark.parametrize(("spelling", "name"), MEASURED_ON.items())
def test_chips_by_the_spelling_of_measurements(catalog: Catalog, spelling: str, name: str) -> None:
    assert catalog.find("chips", spelling).name == name


@pytest.mark.parametrize(
    ("kind", "spelling", "name"),
    [
        ("chips", "h100", "h100-sxm"),
        ("chip", "H100_SXM5_80gb", "h100-sxm"),
        ("chips", "A100", "a100-sxm-40gb"),  # as price lists mean it
        ("chips", "Trillium", "tpu-v6e"),
        ("models", "Llama-3.1-70B-Instruct", "llama-3.1-70b"),
        ("models", "meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
        ("models", "Llama-2-70b-hf", "llama-2-70b"),
        ("models", "llama-2-70b-chat", "llama-2-70b"),
        ("models", "mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b"),
        ("models", "DeepSeek-R1/V3", "deepseek-v3"),
        ("models", "openai/gpt-oss-120b", "gpt-oss-120b"),
        ("models", "ResNet50", "resnet-50"),
        ("regions", "AWS/US-EAST-1", "aws/us-east-1"),
        ("regions", "eastus2", "azure/eastus2"),
        ("region", "us-east4", "gcp/us-east4"),
        ("fabrics", "InfiniBand NDR", "infiniband-ndr"),
        ("storage", "S3 Standard", "s3-standard/us-east-1"),
        ("offers", "AWS/us-east-1/p5.48xlarge/on-demand", "aws/us-east-1/p5.48xlarge/on-demand"),
    ],
)
def test_other_spellings(catalog: Catalog, kind: str, spelling: str, name: str) -> None:
    assert catalog.find(kind, spelling).name == name


@pytest.mark.parametrize("kind", ["chips", "models", "regions", "fabrics", "storage"])
def test_every_record_is_found_by_each_of_its_own_names(catalog: Catalog, kind: str) -> None:
    for name, record in getattr(catalog, kind).items():
        assert catalog.find(kind, name) is record
        assert catalog.find(kind, name.upper()) is record
        for alias in record.aliases:
            try:
                assert catalog.find(kind, alias) is record, alias
            except UnknownName as error:
                assert kind in ("regions", "storage") and "ambiguous" in str(error)


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("chips", "h100-smx", "unknown chip 'h100-smx'; did you mean 'h100-sxm'"),
        ("models", "lama-3.1-70b", "unknown model 'lama-3.1-70b'; did you mean 'llama-3.1-70b'"),
        ("regions", "aws/us-eats-1", "unknown region 'aws/us-eats-1'; did you mean 'aws/us-east-1'"),
        ("regions", "us-east-1", "region 'us-east-1' is ambiguous: 'aws/us-east-1' or 'lambda/us-east-1'?"),
        ("chips", "zzzz", "unknown chip 'zzzz'"),
        ("chips", "", "unknown chip ''"),
        ("chips", "x" * 500 + "\n", "unknown chip 'xxx"),
        ("clouds", "aws", "unknown kind 'clouds'"),
    ],
)
def test_unknown_names_offer_the_nearest(catalog: Catalog, kind: str, name: str, says: str) -> None:
    with pytest.raises(UnknownName) as error:
        catalog.find(kind, name)
    message = str(error.value)
    assert message.startswith(says)
    assert "\n" not in message and len(message) < 300
    assert isinstance(error.value, ValueError)


def test_a_short_word_whose_letters_are_strewn_over_a_long_one_is_not_near() -> None:
    assert nearest("disaggregation", ["chip", "region", "tp"]) == ""
    assert nearest("tensor", ["tensor_overlap", "tp"]) == "tensor_overlap"  # a part of it
    assert [nearest(word, ["chip", "region", "cloud"]) for word in ("chpi", "Regoin", "xy", "")] == ["chip", "region", "", ""]
    assert nearest("chip", []) == ""


def test_the_closer_spelling_wins() -> None:
    """A name as written, then an alias but for case, then anything but for separators; a shared alias is nobody's."""
    index = Index("thing", {"a-b": ("c",), "c": ("AB", "d"), "e": ("d",)})
    assert index.find("c") == "c" and index.find("C") == "c"
    assert index.find("A-B") == "a-b" and index.find("a b") == "a-b"
    assert index.find("ab") == "c"
    with pytest.raises(UnknownName, match="'c' or 'e'"):
        index.find("D")


@pytest.mark.parametrize("kind", FILES)
def test_every_table_loads_and_is_not_empty(catalog: Catalog, kind: str) -> None:
    assert len(getattr(catalog, kind)) > 0


@pytest.mark.parametrize(
    ("kind", "count"),
    [("chips", 88), ("models", 152), ("regions", 240), ("fabrics", 53), ("storage", 113), ("economics", 104),
     ("reliability", 43), ("spot_traces", 34), ("grid_profiles", 125), ("round_trips", 1574)],
)  # fmt: skip
def test_no_record_is_lost(catalog: Catalog, kind: str, count: int) -> None:
    """Rows of the gathered files, plus two chips and one economics row split in two; round trips with a measured time."""
    assert len(getattr(catalog, kind)) == count


@pytest.mark.parametrize("kind", ["chips", "models", "regions", "offers", "fabrics", "storage"])
def test_records_have_sources_and_positive_quantities(catalog: Catalog, kind: str) -> None:
    for name, record in getattr(catalog, kind).items():
        assert record.name == name
        assert record.source.text, name
        for field in dataclasses.fields(record):
            value = getattr(record, field.name)
            if isinstance(value, Quantity) and field.name not in ("launch",):
                assert value.magnitude >= 0, (name, field.name)
                if kind in ("chips", "offers"):
                    assert value.magnitude > 0, (name, field.name)


def test_models_are_of_two_kinds(catalog: Catalog) -> None:
    kinds = [type(model) for model in catalog.models.values()]
    assert kinds.count(Transformer) == 118
    assert kinds.count(Generic) == 34
    assert {m.kind for m in catalog.models.values() if isinstance(m, Generic)} == {
        "cnn", "encoder", "diffusion", "recommendation", "other",
    }  # fmt: skip


def test_hash_is_of_the_content(catalog: Catalog, user_file) -> None:  # type: ignore[no-untyped-def]
    again = load()
    for kind in FILES:
        assert catalog.hash(kind) == again.hash(kind)
        assert len(catalog.hash(kind)) == 64
    one = load([user_file("chips: {mine: {base: h100-sxm, tdp: 600 W}}\n")])
    other = load([user_file("chips: {mine: {base: h100-sxm, tdp: 601 W}}\n")])
    assert len({catalog.hash("chips"), one.hash("chips"), other.hash("chips")}) == 3
    cheaper = catalog.with_offers(dict(list(catalog.offers.items())[:3]))
    assert cheaper.hash("offers") != catalog.hash("offers")
    assert cheaper.hash("chips") == catalog.hash("chips")
    assert len(catalog.offers) > 3 and len(cheaper.offers) == 3


@pytest.mark.parametrize(
    ("written", "days", "text"),
    [
        ("2026-11-20", 3, "3 days old (2026-11-20)"),
        ("2025-04-04", 598, "19 months old (2025-04-04)"),
        ("2026", 326, "up to 10 months old (2026)"),
        ("2026-08", 114, "up to 3 months old (2026-08)"),
        ("2025/2026", 691, "up to 23 months old (2025/2026)"),
        ("2023", 1422, "up to 3 years old (2023)"),
        (None, None, "undated"),
        ("", None, "undated"),
    ],
)
def test_age(catalog: Catalog, written: str | None, days: int | None, text: str) -> None:
    age = catalog.age(written, date(2026, 11, 23))
    assert (age.days, age.text) == (days, text)


def test_economics(catalog: Catalog) -> None:
    life = catalog.economics_value("accelerator amortisation life")
    assert (life.low, life.typical, life.high, life.unit) == (3, 4, 6, "yr")
    assert catalog.economics_value("internet first 10 TB", "aws").typical == 0.09
    assert catalog.economics_value("PUE hyperscale").typical == 1.12
    with pytest.raises(UnknownName, match="several scopes: 'aws' or 'azure'"):
        catalog.economics_value("internet first 10 TB")
    with pytest.raises(UnknownName, match="has no scope 'ibm'"):
        catalog.economics_value("internet first 10 TB", "ibm")
    with pytest.raises(UnknownName, match="did you mean 'PUE hyperscale'"):
        catalog.economics_value("PUE hyperscaler")


def test_grid_profiles(catalog: Catalog) -> None:
    (austria,) = catalog.grid_profiles["AT"]
    assert austria.mean.shape == (12, 24)
    assert austria.mean[0, 0].to("gCO2e/kWh").magnitude == 292.8  # January, midnight: first row of the gathered file
    assert austria.p10[0, 2].to("gCO2e/kWh").magnitude == 164.5
    spain = catalog.grid_profiles["ES"]
    assert [(p.year, p.basis) for p in spain] == [(2023, "lca-flow"), (2022, "lca-flow"), (2023, "direct-flow")]
    zones = {r.profile_zone for r in catalog.regions.values() if r.profile_zone}
    assert zones <= set(catalog.grid_profiles)


def test_reliability_and_spot_traces(catalog: Catalog) -> None:
    llama = catalog.reliability["llama3-unexpected"]
    assert (llama.accelerators, llama.interruptions) == (16384, 419)
    assert llama.mtbf_cluster is not None and llama.mtbf_cluster.to("hour").magnitude == pytest.approx(54 * 24 / 419, rel=1e-3)
    trace = catalog.spot_traces["availability/1-node/aws-02-15-2023/us-east-1a_v100_1.json"]
    assert (trace.available_fraction, trace.source.date) == (0.1667, "2023-02-15")


def test_the_documentation_runs(user_file) -> None:  # type: ignore[no-untyped-def]
    assert doctest.testmod(zoo.catalog).failed == 0
    example = textwrap.dedent((zoo.overlays.__doc__ or "").split("\n\n")[1])
    mine = load([user_file(example)])
    assert mine.offers["mine/oslo/rack-1/on-demand"].accelerator == "h100-mine"
