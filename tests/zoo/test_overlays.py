"""A user's own chips, models, regions and prices, and every way to write them wrongly."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from zoo.catalog import Catalog, ZooError, apply_price_overlays, load
from zoo.specs import Generic, Transformer

GOOD = """\
chips:
  h100-96:
    base: h100-sxm
    memory: 96 GiB
    tdp: 650 W
    aliases: [H100 big]
    link_bandwidth: 400 GB/s
    source: vendor quote 17
    date: 2026-10-01
  h100-97: {base: h100-96, memory: 97 GiB}
  wafer:
    vendor: ACME
    year: 2027
    peak: {bf16: 2 PFLOP/s, fp8: 4 PFLOP/s}
    memory: 100 GB
    memory_bandwidth: 10 TB/s
models:
  tiny:
    {layers: 2, hidden: 8, heads: 2, kv_heads: 2, head_dim: 4, vocab: 10, ffn_hidden: 16}
  long-llama: {base: llama-3.1-8b, max_context: 1000000}
  deep-llama: {base: llama-3.1-8b, layers: 64, kv_layers: 64}
  segmenter: {kind: cnn, parameters: 30e6, unit: image, operations_per_unit: 12 GFLOP}
regions:
  mine/oslo:
    location: Oslo
    country: NO
    latitude: 59.91
    longitude: 10.75
    average_intensity: 30 gCO2e/kWh
    electricity_price: 0.05 USD/kWh
    pue: 1.1
  aws/us-east-1: {base: aws/us-east-1, pue: 1.3}
prices:
  - {region: mine/oslo, instance: rack-1, chip: H100 big, accelerators: 8, price: 16 USD/h, source: contract}
  - {cloud: aws, region: us-east-1, instance: p5.48xlarge, chip: h100, accelerators: 8, price: 5 USD/h, per: chip}
"""


def usd(catalog: Catalog, name: str) -> float:
    return float(catalog.offers[name].price.to("USD/hour").magnitude)


def test_a_users_file(catalog: Catalog, user_file: Any) -> None:
    path = user_file(GOOD)
    mine = load([path])
    chip = mine.find("chips", "h100 BIG")
    assert chip.memory.to("GiB").magnitude == 96 and chip.tdp.to("W").magnitude == 650
    assert chip.peak == catalog.chips["h100-sxm"].peak
    assert (chip.source.text, chip.source.date) == ("vendor quote 17", "2026-10-01")
    bigger = mine.chips["h100-97"]
    assert bigger.link_bandwidth == chip.link_bandwidth and bigger.memory.to("GiB").magnitude == 97
    wafer = mine.chips["wafer"]
    assert wafer.peak["bf16"].to("TFLOP/s").magnitude == 2000
    assert (wafer.domain_kind, wafer.source.text) == ("host", str(path))
    assert mine.models["tiny"].parameters == 1480  # by hand: see test_architecture
    long_llama, deep = mine.models["long-llama"], mine.models["deep-llama"]
    assert isinstance(long_llama, Transformer) and isinstance(deep, Transformer)
    assert (long_llama.max_context, long_llama.parameters) == (1_000_000, 8.03e9)
    assert deep.parameters == pytest.approx(8.03e9 + 32 * 218.1e6, rel=0.002)  # 32 more layers of 218.1 M
    segmenter = mine.models["segmenter"]
    assert isinstance(segmenter, Generic) and segmenter.parameters == 30e6
    oslo = mine.regions["mine/oslo"]
    assert mine.residency(oslo) == {"NO", "EEA", "EUROPE"}
    assert oslo.grid.average_intensity is not None and oslo.grid.average_intensity.to("gCO2e/kWh").magnitude == 30
    assert mine.regions["aws/us-east-1"].pue == 1.3
    assert mine.regions["aws/us-east-1"].grid == catalog.regions["aws/us-east-1"].grid
    assert usd(mine, "mine/oslo/rack-1/on-demand") == 16
    assert mine.offers["mine/oslo/rack-1/on-demand"].domain == 8
    assert usd(mine, "aws/us-east-1/p5.48xlarge/on-demand") == 40  # 8 chips at 5
    assert "replaces the zoo's price" in mine.offers["aws/us-east-1/p5.48xlarge/on-demand"].flags
    assert len(mine.offers) == len(catalog.offers) + 1
    assert mine.round_trip_from("Stockholm", "mine/oslo").basis.startswith("fitted")
    assert "h100-96" not in catalog.chips  # the zoo itself is untouched


def test_files_stack(user_file: Any) -> None:
    one = user_file("chips: {mine: {base: h100-sxm, tdp: 500 W}}\n", "one.yaml")
    two = user_file("chips: {mine: {base: mine, memory: 70 GiB}}\n", "two.yaml")
    chip = load([one, two]).chips["mine"]
    assert chip.tdp is not None and chip.tdp.to("W").magnitude == 500 and chip.memory.to("GiB").magnitude == 70


def test_a_model_from_its_config(user_file: Any) -> None:
    path = user_file("models: {m: {config: llama.json, max_context: 4096}}\n")
    shutil.copy(Path(__file__).parent / "configs" / "llama-3.1-70b.json", path.parent / "llama.json")
    model = load([path]).models["m"]
    assert isinstance(model, Transformer)
    assert (model.name, model.max_context) == ("m", 4096) and model.parameters == pytest.approx(70.6e9, rel=0.01)


CHIP = "chips:\n  x:\n    {}\n"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("chip:\n  x: {base: l4}\n", 1, "chip: unknown section (did you mean 'chips'"),
        ("chips: [l4]\n", 1, "chips: expected names"),
        ("prices: {a: 1}\n", 1, "prices: expected a list of prices"),
        ("chips:\n  x: 3\n", 2, "chips.x: expected keys and values"),
        (CHIP.format("base: h100-smx"), 3, "chips.x.base: unknown chip 'h100-smx'; did you mean 'h100-sxm'"),
        (CHIP.format("base: [l4]"), 3, "chips.x.base: expected text"),
        (CHIP.format("{base: l4, memroy: 80 GiB}"), 3, "chips.x.memroy: unknown key (did you mean 'memory'"),
        (CHIP.format("{base: l4, memory: 80}"), 3, "chips.x.memory: bare number 80"),
        (CHIP.format("{base: l4, memory: 80 W}"), 3, 'chips.x.memory: "80 W" is power, expected bytes'),
        (CHIP.format("{base: l4, tdp: -5 W}"), 3, "chips.x.tdp: "),
        (CHIP.format("{base: l4, year: next}"), 3, "chips.x.year: expected a whole number from 0, not 'next'"),
        (CHIP.format("{base: l4, kind: datacentre}"), 3, "chips.x.kind: unknown kind 'datacentre' (did you mean 'datacenter'"),
        (CHIP.format("{base: l4, host_power_share: 45}"), 3, "chips.x.host_power_share: expected a share from 0 to 1"),
        (CHIP.format("{base: l4, peak: {bf61: 1 TFLOP/s}}"), 3, "chips.x.peak.bf61: unknown precision (did you mean 'bf16'"),
        (CHIP.format("{base: l4, peak: 5 TFLOP/s}"), 3, "chips.x.peak: expected peaks by precision"),
        (CHIP.format("{base: l4, peak: {bf16: 1 TFLOPS}}"), 3, "FLOPS is ambiguous"),
        (CHIP.format("{base: l4, aliases: L}"), 3, "chips.x.aliases: expected a list of names"),
        (CHIP.format("{base: l4, link: no}"), None, ""),  # "no" is text
        (CHIP.format("{memory: 80 GiB}"), 2, "chips.x: lacks year, peak, memory_bandwidth (or a base to take them from)"),
        ("chips:\n  l4: {tdp: 1 W}\n", 2, "chips.l4: the zoo has this chip already: say 'base: l4' to change it"),
        ("models:\n  x: {layers: 2, hidden: 8}\n", 2, "models.x: lacks heads, kv_heads, head_dim, vocab"),
        (
            "models:\n  x: {base: llama-3.1-8b, attention: MLA, kv_lora_rank: 512}\n",
            2,
            "models.x: x: parameters cannot be counted",
        ),
        ("models:\n  x: {config: none.json}\n", 2, "models.x.config: "),
        ("models:\n  x: {kind: cnn, parameters: 1e6}\n", 2, "models.x: lacks unit"),
        ("models:\n  x: {kind: ccn, parameters: 1e6, unit: image}\n", 2, "models.x.kind: unknown kind 'ccn' (did you mean 'cnn'"),
        ("models:\n  x: {base: llama-3.1-8b, gated: yes}\n", 2, "models.x.gated: expected true or false, not 'yes'"),
        ("regions:\n  oslo: {country: NO, latitude: 1, longitude: 2}\n", 2, "regions.oslo: a region is named 'cloud/region'"),
        ("regions:\n  m/x: {country: NO, latitude: 1}\n", 2, "regions.m/x: lacks longitude"),
        ("regions:\n  m/x: {country: NO, latitude: 99, longitude: 2}\n", 2, "regions.m/x.latitude: 99 is beyond 90 degrees"),
        ("regions:\n  m/x: {country: NO, latitude: 1, longitude: 2, pue: 0.9}\n", 2, "PUE 0.9 is below 1"),
        ("prices:\n  - {region: aws/us-east-1, chip: l4, price: 1 USD/h}\n", 2, "prices[0]: lacks instance"),
        ("prices:\n  - {region: aws/us-est-1, instance: i, chip: l4, price: 1 USD/h}\n", 2, "prices[0].region: unknown region"),
        ("prices:\n  - {region: aws/us-east-1, instance: i, chip: l5, price: 1 USD/h}\n", 2, "prices[0].chip: unknown chip 'l5'"),
        ("prices:\n  - {region: aws/us-east-1, instance: i, chip: l4, price: 1 EUR/h}\n", 2, "prices[0].price: "),
        ("prices:\n  - {region: aws/us-east-1, instance: i, chip: l4, price: 1 USD}\n", 2, "expected money rate"),
        ("prices:\n  - {region: aws/us-east-1, instance: i, chip: l4, price: 1 USD/h, option: spto}\n", 2, "did you mean 'spot'"),
        (
            "prices:\n  - {region: aws/us-east-1, instance: i, chip: l4, price: 1 USD/h, accelerators: 0}\n",
            2,
            "expected at least 1",
        ),
    ],
)
def test_faults_name_line_key_and_expectation(user_file: Any, text: str, line: int | None, says: str) -> None:
    path = user_file(text)
    if line is None:
        assert load([path]).chips["x"].link == "no"
        return
    with pytest.raises(ZooError) as error:
        load([path])
    message = str(error.value)
    assert message.startswith(f"{path}:{line}: ") and says in message and "\n" not in message


# ---------------------------------------------------------------- changes of price


def test_a_price_per_instance_and_per_chip(catalog: Catalog) -> None:
    name = "aws/us-east-1/p5.48xlarge/on-demand"
    match = {"cloud": "aws", "region": "aws/us-east-1", "chip": "h100", "option": "on-demand", "instance": "p5.48xlarge"}
    whole = apply_price_overlays(catalog.offers, [{"match": match, "price": "40 USD/h"}], catalog)
    assert whole[name].price.to("USD/hour").magnitude == 40
    each = apply_price_overlays(catalog.offers, [{"match": match, "price": "2.10 USD/h", "per": "chip"}], catalog)
    assert each[name].price.to("USD/hour").magnitude == pytest.approx(16.8)
    assert "price set by the query: 2.10 USD/h per chip" in each[name].flags
    assert list(whole) == list(catalog.offers)
    assert sum(whole[n].price != catalog.offers[n].price for n in whole) == 1


def test_an_adjustment_over_a_pattern(catalog: Catalog) -> None:
    changed = apply_price_overlays(catalog.offers, [{"match": {"cloud": "gcp", "region": "europe-*"}, "adjust": "-7%"}], catalog)
    for name, offer in catalog.offers.items():
        factor = 0.93 if offer.region.startswith("gcp/europe-") else 1.0
        assert changed[name].price.magnitude == pytest.approx(factor * offer.price.magnitude)


def test_later_changes_see_earlier_ones(catalog: Catalog) -> None:
    match = {"instance": "trn2.48xlarge"}
    changed = apply_price_overlays(
        catalog.offers, [{"match": match, "price": "100 USD/h"}, {"match": match, "adjust": "10 %"}], catalog
    )
    assert changed["aws/us-east-2/trn2.48xlarge/on-demand"].price.to("USD/hour").magnitude == pytest.approx(110)


@pytest.mark.parametrize(
    ("overlay", "says"),
    [
        ({"match": {"cloud": "awz"}, "adjust": "-7%"}, "hits no offer: no offer has cloud 'awz'.*did you mean 'aws'"),
        ({"match": {"cloud": "aws", "chip": "mi300x"}, "adjust": "-7%"}, "match {cloud: aws, chip: mi300x} hits no offer$"),
        ({"match": {"chip": "h100-smx"}, "adjust": "-7%"}, "unknown chip 'h100-smx'"),
        ({"match": {"option": "sport"}, "adjust": "-7%"}, "no offer has option 'sport'.*did you mean 'spot'"),
        ({"match": {"zone": "a"}, "adjust": "-7%"}, "match.zone: unknown key"),
        ({"match": {}, "price": "1 USD/h", "adjust": "-7%"}, "either a price or an adjust"),
        ({"match": {"cloud": "aws"}}, "either a price or an adjust"),
        ({"match": {"cloud": "aws"}, "price": "3"}, "price: bare number"),
        ({"match": {"cloud": "aws"}, "adjust": "-107%"}, "takes off more than the price"),
        ({"match": {"cloud": "aws"}, "price": "1 USD/h", "per": "rack"}, "per: unknown 'rack'"),
    ],
)
def test_changes_that_make_no_sense(catalog: Catalog, overlay: dict[str, Any], says: str) -> None:
    with pytest.raises(ZooError, match=says) as error:
        apply_price_overlays(catalog.offers, [overlay], catalog)
    assert "\n" not in str(error.value)
