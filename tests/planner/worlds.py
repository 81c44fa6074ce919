"""Small worlds drawn at random, each with a question about it, as plain records that an oracle can read."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import tiny

from planner.query import ServeQuery
from zoo.catalog import Catalog
from zoo.specs import Accelerator, Offer, Region, Transformer
from zoo.units import Q

PLACES = {"oslo": (60.0, 10.0), "rome": (42.0, 12.5), "perth": (-32.0, 116.0)}


@dataclass(frozen=True)
class People:
    name: str
    near: str | None
    residency: str | None


@dataclass(frozen=True)
class Quota:
    chip: str | None
    region: str | None
    option: str | None
    chips: int | None
    instances: int | None


@dataclass(frozen=True)
class Case:
    """A world and a question about it, without the demand. Latencies in milliseconds."""

    chips: tuple[Accelerator, ...]
    model: Transformer
    regions: tuple[Region, ...]
    offers: tuple[Offer, ...]
    people: tuple[People, ...]
    tokens: tuple[int, int]
    precision: tuple[str, ...]
    kv_precision: tuple[str, ...] | None
    ttft: tuple[tuple[str, float], ...]
    tpot: float | None
    cv: float
    minimize: str
    method: str
    embodied: bool
    carbon_price: float  # USD/t
    mixed: bool
    quotas: tuple[Quota, ...] = ()
    quality: float | None = None
    prefix_hit: float = 0.0
    rank: str = "pessimistic"
    disaggregation: tuple[str, ...] = ("none",)
    speculative: tuple[float, float, tuple[int, ...]] | None = None  # cost of a drafted token, acceptance, tokens a step
    draft: Transformer | None = None

    def world(self) -> Catalog:
        return tiny.world(self.chips, (self.model, *(() if self.draft is None else (self.draft,))), self.regions, self.offers)

    def ask(self, rates: tuple[int, ...], limits: dict[str, int]) -> ServeQuery:
        """The question, with the demand in thousandths of a request per second and limits in the program's units."""
        workload: dict[str, Any] = {
            "model": self.model.name,
            "tokens": {"input": self.tokens[0], "output": self.tokens[1]},
            "precision": list(self.precision),
            "arrivals": {"cv": self.cv},
            "prefix_hit": self.prefix_hit,
            "disaggregation": list(self.disaggregation),
            "populations": [],
        }
        if self.speculative is not None:
            cost, acceptance, tokens = self.speculative
            by = {"cost": cost} if cost else {"draft": "ngram" if self.draft is None else self.draft.name}
            workload["speculative"] = {**by, "acceptance": acceptance, "tokens": list(tokens)}
        if self.kv_precision is not None:
            workload["kv_precision"] = list(self.kv_precision)
        for people, rate in zip(self.people, rates, strict=True):
            population: dict[str, Any] = {"name": people.name, "rate": f"{rate / 1000!r}/s"}
            if people.near is not None:
                population["near"] = [",".join(map(str, PLACES[people.near]))]
            if people.residency is not None:
                population["residency"] = people.residency
            workload["populations"].append(population)
        sla: dict[str, Any] = {}
        if self.ttft:
            sla["ttft"] = {name: f"{limit!r} ms" for name, limit in self.ttft}
        if self.tpot is not None:
            sla["tpot"] = {"p99": f"{self.tpot!r} ms"}
        if self.quality is not None:
            sla["quality"] = {"loss": self.quality}
        units = {"cost": (1e-4, "USD/h"), "carbon": (0.1, "gCO2e/h"), "power": (1, "W"), "water": (1e-3, "L/h")}
        quota = [
            {key: value for key, value in (("chip", q.chip), ("region", q.region), ("offer", q.option), ("chips", q.chips),
                                           ("instances", q.instances)) if value is not None}
            for q in self.quotas
        ]  # fmt: skip
        return tiny.question(
            workload=workload,
            sla=sla,
            supply={"offers": ["on-demand", "spot"], "quota": quota, "mixed": self.mixed},
            carbon={"method": self.method, "embodied": self.embodied, "price": f"{self.carbon_price} USD/tCO2e"},
            limits={r: b if r == "chips" else f"{b * units[r][0]!r} {units[r][1]}" for r, b in limits.items()},
            minimize=self.minimize,
            rank=self.rank,
        )


# ---------------------------------------------------------------- drawn at random


def chip(draw: Random, name: str) -> Accelerator:
    changes: dict[str, Any] = {}
    scale = draw.choice([0.5, 1.0, 2.0])
    formats = draw.choice([("bf16",), ("bf16", "fp8"), ("bf16", "fp8", "fp16")])
    changes["peak"] = {p: Q((2.0 if p == "fp8" else 1.0) * 100 * scale, "Tflop/s") for p in formats}
    changes["memory"] = Q(draw.choice([2.6, 2.8, 3.2]), "GiB")
    changes["memory_bandwidth"] = Q(draw.choice([0.3, 1.0, 3.0]), "TB/s")
    changes["tdp"] = Q(draw.choice([75.0, 300.0, 711.0]), "W")
    if draw.random() < 0.25:
        changes |= {"link_bandwidth": None, "scale_up_domain": 1}
    if draw.random() < 0.2:
        changes["nic_bandwidth"] = None
    if draw.random() < 0.1:
        changes["host_bandwidth"] = None
    if draw.random() < 0.1:
        changes["embodied"] = None
    if draw.random() < 0.05:
        changes["tdp"] = None
    return tiny.chip(name, **changes)


_SMALL: dict[str, Any] = {
    "parameters": 2e7, "active_parameters": 2e7, "layers": 1, "kv_layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 256,
}  # fmt: skip


def speculation(draw: Random) -> tuple[tuple[float, float, tuple[int, ...]] | None, Transformer | None]:
    """Mostly none; else by a lookup, a head or a small model."""
    how = draw.choice(["none", "none", "none", "ngram", "head", "model"])
    if how == "none":
        return None, None
    tokens = draw.choice([(0, 2), (0, 1, 4), (3,)])
    draft = tiny.model("small", **_SMALL) if how == "model" else None
    return (0.06 if how == "head" else 0.0, draw.choice([0.3, 0.7, 0.9]), tokens), draft


def case_of(draw: Random, people: int, mixed: bool) -> Case:
    kinds = tuple(chip(draw, name) for name in ("red", "blue")[: draw.randint(1, 2)])
    weights = draw.choice([1.7e8, 1.7e8, 6e8, 2e9])
    shape: dict[str, Any] = {"parameters": weights, "active_parameters": weights}
    if draw.random() < 0.2:
        shape |= {"experts": 8, "top_k": 2, "moe_ffn_hidden": 2048, "moe_layers": 2, "ffn_hidden": None}
        shape |= {"parameters": 2.4e8, "active_parameters": 1.2e8}
    model = tiny.model(
        **shape, layers=draw.choice([2, 4]), heads=draw.choice([2, 3, 4]), head_dim=4096, kv_heads=draw.choice([1, 2]),
        sliding_window=256, sliding_layers=draw.choice([0, 1]),
    )  # fmt: skip
    places = [("here/oslo", 60.0, 10.0, "NO"), ("here/rome", 42.0, 12.5, "IT"), ("there/perth", -32.0, 116.0, "AU")]
    regions = tuple(
        tiny.region(
            name, draw.choice([0.0, 30.0, 420.0]), latitude=latitude, longitude=longitude, country=country,
            pue=draw.choice([None, 1.1, 1.5]), wue=draw.choice([None, Q(1.0, "liter/kWh")]),
        )
        for name, latitude, longitude, country in draw.sample(places, draw.randint(1, 3))
    )  # fmt: skip
    sold: dict[str, Offer] = {}
    for _ in range(draw.randint(1, 4 if people == 1 else 3)):
        chips = draw.choice([1, 1, 2, 4])
        price = chips * draw.choice([0.61, 1.0, 1.3, draw.uniform(0.3, 3.0)])
        option = draw.choice(["on-demand", "on-demand", "spot"])
        one = tiny.offer(draw.choice(regions).name, draw.choice(kinds).name, price, chips, option)
        sold[one.name] = one
    wheres = [None, "oslo", "rome", "perth"] if people > 1 else [None, None, "rome"]
    countries = [None, None, None, draw.choice(regions).country] if people > 1 else [None]
    users = tuple(People(f"p{k}", draw.choice(wheres), draw.choice(countries)) for k in range(people))
    quotas = tuple(
        Quota(
            draw.choice([None, "red"]), draw.choice([None, regions[0].name]), draw.choice([None, "spot"]),
            *draw.choice([(n, None) for n in range(6)] + [(None, n) for n in range(5)]),
        )
        for _ in range(draw.choice([0, 0, 1, 2]))
    )  # fmt: skip
    far = 300.0 if any(user.near for user in users) else 0.0
    ttft = draw.choice(
        [(), (("p99", 60.0 + far),), (("p99", 150.0 + far),), (("p50", 90.0), ("p99.9", 400.0 + far)), (("p90", 700.0),)]
    )
    tpot = draw.choice([None, 6.0, 9.0, 20.0]) if ttft else 12.0
    return Case(
        kinds, model, regions, tuple(sold.values()), users, (draw.choice([500, 1000, 2000]), draw.choice([1, 20, 200])),
        draw.choice([("bf16",), ("bf16", "fp8"), ("fp8", "fp16")]), draw.choice([None, None, ("fp8",), ("bf16", "fp8")]),
        ttft, tpot, draw.choice([0.5, 1.0, 3.0]),
        draw.choice(["cost", "cost", "carbon", "power", "chips", "cost + carbon.price * carbon"]),
        "average", draw.random() < 0.5, draw.choice([50.0, 3000.0]), mixed, quotas,
        draw.choice([None, None, None, 0.02]), draw.choice([0.0, 0.5]), draw.choice(["pessimistic", "typical"]),
        draw.choice([("none",), ("none", "pools"), ("pools",)]), *speculation(draw),
    )  # fmt: skip
