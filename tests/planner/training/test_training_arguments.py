"""`explain --wall` of training plans: every headline, worked out again by hand from the figures that are printed with it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from planner.plan import WallPage
from planner.query import Query, TrainQuery
from planner.training.arguments import page_of
from planner.training.solve import solve
from zoo.catalog import load

DATA = Path(__file__).parents[3] / "models" / "data"
GIVEN: dict[str, dict[str, Any]] = {
    "uneven": {
        "model": "llama-3.1-405b", "stack": "nemo", "precision": ["fp8"], "chip": "b200-sxm", "accelerators": 1024, "batch": 512,
        "length": 8192, "tensor": 4, "pipeline": 16, "virtual_stages": 8, "microbatch": 1, "recompute": ["selective"],
        "sharding": ["zero1"],
    },
    "experts": {
        "model": "mixtral-8x7b", "stack": "nemo", "chip": "h100-sxm", "accelerators": 64, "expert": 8, "tensor": 2, "pipeline": 2,
        "microbatch": 1, "recompute": ["full"], "data_overlap": True,
    },
    "context": {
        "model": "llama-3.1-8b", "stack": "megatron-core", "chip": "h100-sxm", "accelerators": 32, "tensor": 2, "context": 4,
        "pipeline": 2, "microbatch": 1, "length": 8192, "data_overlap": False, "sharding": ["zero1"],
    },
    "sharded": {
        "model": "llama-3.1-8b", "stack": "fsdp", "chip": "a100-sxm-80gb", "accelerators": 64, "microbatch": 1,
        "sharding": ["zero3"],
    },
    "hybrid": {
        "model": "llama-3.1-8b", "stack": "fsdp", "chip": "h100-sxm", "accelerators": 64, "microbatch": 1, "sharding": ["hybrid"],
        "options": ["spot"], "checkpoint": "asynchronous",
    },
}  # fmt: skip


def question(given: dict[str, Any]) -> TrainQuery:
    degrees = ("tensor", "pipeline", "context", "expert", "virtual_stages", "microbatch", "recompute", "sharding", "data_overlap")
    options = given.get("options", ["on-demand"])
    data: dict[str, Any] = {
        "schema": "wallplan/v1", "kind": "train", "name": "by hand", "start": "2026-11-23",
        "workload": {
            "model": given["model"], "tokens": "1e12 token", "sequence_length": given.get("length", 4096),
            "global_batch": given.get("batch", 128), "precision": given.get("precision", ["bf16"]), "stack": given["stack"],
        },
        "parallelism": {name: given[name] for name in degrees if name in given},
        "supply": {"chips": [given["chip"]], "accelerators": given["accelerators"], "offers": options},
        "carbon": {"embodied": True}, "sharing": {"arrivals": "1/year", "variability": 0.5}, "minimize": "cost", "top": 1,
    }  # fmt: skip
    if "checkpoint" in given:
        data["reliability"] = {"checkpoint": given["checkpoint"]}
    asked = Query.from_dict(data)
    assert isinstance(asked, TrainQuery)
    return asked


Pages = Mapping[int, WallPage]


@pytest.fixture(scope="module", params=list(GIVEN))
def pages(request: pytest.FixtureRequest) -> Iterator[Pages]:
    """Every wall's page of one plan."""
    catalog = load()
    with pytest.MonkeyPatch.context() as patch:  # the catalogue, read once
        patch.setattr("planner.training.question.open_catalog", lambda query: catalog)
        found = solve(question(GIVEN[request.param]), today=date(2026, 11, 23))
        assert found.status == "optimal", found.conflict
        yield {number: page_of(found, number) for number in range(1, 23)}


class Figures(dict[str, float]):
    """Amounts by symbol, of one group where the page has groups; where a symbol stands several times, the last.

    In base units of seconds, bytes and hours where a wall mixes them, so that an equation can be typed as it is printed.
    """

    def __init__(self, page: WallPage, of: str | None = None) -> None:
        scales = {"ms": 1e-3, "us": 1e-6, "GB/s": 1e9, "MB/s": 1e6, "MB": 1e6, "GB": 1e9, "PFLOP": 1e15, "TFLOP/s": 1e12}
        self.arguments = [a for a in page.arguments if of is None or a.of == of]
        super().__init__((a.symbol, a.amount * scales.get(a.unit, 1.0)) for a in self.arguments if a.amount is not None)

    def every(self, symbol: str) -> list[float]:
        return [a.amount or 0.0 for a in self.arguments if a.symbol == symbol]


def demand(page: WallPage, what: str) -> float:
    return next(row.demand for row in page.readings if row.what.startswith(what))


def same(value: float, rel: float = 1e-9) -> Any:
    return pytest.approx(value, rel=rel)


def norm(q: float, *times: float) -> float:
    return float(sum(t**q for t in times) ** (1 / q))


def ring(f: Figures) -> float:
    inside = f["f_l"] * f["BW_l"]
    return min(inside, f["r"] * f["f_n"] * f["BW_n"]) if "r" in f else inside


def test_compute_and_software(pages: Pages) -> None:
    page = pages[1]
    f = Figures(page)
    assert f["OPs"] == same(6 * f["P"] * f["D_s"] + f["OPs_a"])
    assert f["T_0"] == same(f["OPs"] / (f["N"] * f["Peak"]))
    assert f["eta"] == same(f["T_0"] / f["T"]) == same(demand(page, "MFU"))
    assert f["share"] == same(sum(f.every("t")) / f["T"]) == same(demand(page, "matrix products"))
    page = pages[3]
    f = Figures(page)
    assert f["eta"] == same(f["MFU"] / (sum(f.every("t")) / f["T"])) == same(demand(page, "peak reached"))


def test_memory_and_kernels(pages: Pages) -> None:
    page = pages[2]
    f = Figures(page)
    assert f["sum M"] == same(sum(f.every("M"))) == same(demand(page, "bytes per accelerator"))
    assert f["|W|"] == same(f["P"] * f["b"]) and f["T_W"] == same(f["|W|"] / f["BW_HBM"])
    page = pages[6]
    f, times, moved = Figures(page), Figures(page).every("t"), Figures(page).every("P")
    reached, per = f["f"] * f["BW_HBM"], Figures(page).every("b")
    assert times[0] == same(f["F"] * 3 * f["L"] * f["m"] * f["V"] / reached)
    assert times[1:] == [same(f["F"] * k * p * b / reached) for k, p, b in zip((f["m"], 1), moved, per, strict=True)]
    assert f["share"] == same(sum(times) / f["T"]) == same(demand(page, "memory-bound"))


def test_feeding(pages: Pages) -> None:
    page = pages[8]
    f = Figures(page)
    assert f["r"] == same(f["D_s"] / f["T"]) and f["BW_demand"] == same(f["r"] * f["b"])
    assert f["rho"] == same(f["BW_demand"] / f["BW_supply"]) and demand(page, "tokens read") == same(f["BW_demand"] / 1e9)
    page = pages[9]
    if not page.absent:
        f = Figures(page)
        assert f["T"] == same(f["D_s"] * f["b"] / (f["n"] * f["c"] * f["C_tput"])) == same(demand(page, "time to prepare"))
    page = pages[10]
    f = Figures(page)
    assert f["BW_eff"] == same(f["BW_link"] * f["beta"] / f["osub"])
    assert demand(page, "bandwidth") == same(f["share"]) == same(f["BW_eff"] / f["BW_link"])


def test_time_and_wait(pages: Pages) -> None:
    page = pages[11]
    f = Figures(page)
    assert demand(page, "tokens per parameter") == same(f["D"] / f["P"]) == same(f["D / P"])
    days = f["n"] * f["t"] / (f["g"] * f["fed"]) / 86400
    assert f["T"] == same(days) == same(demand(page, "time to train"))
    page = pages[16]
    f = Figures(page)
    rho = f["lambda"] * days / 365.25
    wait = (1 + f["cs2"]) / 2 * rho * days / (1 - rho)
    assert f["rho"] == same(rho, 1e-3) and f["T_wait"] == same(wait, 1e-3) == same(demand(page, "mean wait"), 1e-3)


def test_fragility_and_checkpoint(pages: Pages) -> None:
    page = pages[15]
    f = Figures(page)
    spot = f["n"] / f["MTBF_spot"] if "MTBF_spot" in f else 0.0
    assert f["MTBF_cluster"] == same(1 / (f["N"] / f["MTBF_node"] + spot))
    m = f["MTBF_cluster"] * 3600
    lasting = f["tau"] / (m * math.exp(f["R"] / m) * (math.exp((f["tau"] + f["delta"]) / m) - 1))
    assert f["goodput"] == same(lasting) and demand(page, "time lost") == same(1 - lasting, 1e-6) == same(f["lost"], 1e-6)
    assert demand(page, "times interrupted") == same(f["T"] / f["MTBF_cluster"]) == same(f["failures"])
    if "MTBF_spot" not in f:  # checkpoints stop the training
        x = f["delta"] / (2 * m)
        assert f["tau"] == same(math.sqrt(2 * f["delta"] * m) * (1 + math.sqrt(x) / 3 + x / 9) - f["delta"])
    page = pages[19]
    f = Figures(page)
    assert f["BW"] == same(min(f["n"] * f["BW_1"], f["BW_all"]))
    assert f["T_write"] == same(f["S"] / f["BW"]) == same(demand(page, "time to write"))
    assert f["penalty"] == same(f["T_write"] / f["T_interval"])


def test_capital_and_sustainability(pages: Pages) -> None:
    page = pages[17]
    f = Figures(page)
    assert f["OpEx"] == same(f["n"] * f["p"] * f["T"]) == same(demand(page, "cost"))
    page = pages[18]
    f = Figures(page)
    host = f["s"] / (1 - f["s"])
    energy = f["n"] * f["T"] * f["TDP"] / 1e6 * (f["u"] + host)  # MWh
    assert f["E"] == same(energy)
    carbon = energy * f["PUE"] * f["CI"] / 1e3 + f["n"] * f["CO2_1"] / 1e3 * f["T"] / f["life"]
    assert f["CO2"] == same(carbon, 1e-6) == same(demand(page, "carbon"), 1e-6)
    assert demand(page, "water") == same(energy * f["WUE"]) == same(f["W"])
    assert demand(page, "power") == same(f["n"] * f["TDP"] / 1e3 * (1 + host) * f["PUE"])


def test_communication(pages: Pages) -> None:
    page = pages[14]
    groups, whole = list(dict.fromkeys(a.of for a in page.arguments)), Figures(page, "the step")
    times = {of: Figures(page, of)["t"] for of in groups if of != "the step"}
    communication = [t for of, t in times.items() if of not in ("bubble", "uneven stages", "stragglers")]
    assert whole["sum t"] == same(sum(communication))
    assert whole["share"] == same(whole["sum t"] / whole["T"]) == same(demand(page, "exposed"))
    bubble = times.get("bubble", 0.0) + times.get("uneven stages", 0.0)
    assert demand(page, "pipeline bubble") == same(bubble / whole["T"])
    assert demand(page, "wait for the slowest") == same(times["stragglers"] / whole["T"])
    for of, time in times.items():
        assert BY_HAND[of](Figures(page, of)) == same(time), of


def tensor(f: Figures) -> float:
    assert f["M"] == same(2 * f["tokens"] * f["h"]) and f["beta"] == same(ring(f))
    assert f["T_1"] == same(2 * (f["N"] - 1) / f["N"] * f["M"] / f["beta"] + f["alpha"])
    assert f["k"] == same(2 * f["a"] * f["L"] * f["m"])
    return f["F"] * f["x"] * f["k"] * f["T_1"]


def context(f: Figures) -> float:
    assert f["T_1"] == same((f["N"] - 1) * (f["M"] / ring(f) + f["alpha"]))
    return f["F"] * (1 + f["b"]) * f["L"] * f["m"] * (norm(f["q"], f["A"], f["T_1"]) - f["A"])


def experts(f: Figures) -> float:
    assert f["T_1"] == same(f["e"] * (f["M"] * (f["D_l"] / f["beta_l"] + f["D_n"] / f["beta_n"]) + f["alpha"]))
    return f["F"] * f["x"] * f["k"] * f["T_1"]


def gathers(f: Figures) -> float:
    assert f["g"] == same((f["N"] - 1) / f["N"] * f["M"] / ring(f))
    ahead, behind = norm(f["q"], f["A"], f["g"]) - f["A"], norm(f["q"], f["B"], 2 * f["g"]) - f["B"]
    return f["F"] * f["m"] * (ahead + behind + 3 * f["x"] * f["g"])


def filling(f: Figures) -> float:
    return f["f"] * (f["N"] - 1) / f["v"]


def sends(f: Figures) -> float:
    assert f["T_1"] == same(2 * f["M"] / (f["f_b"] * f["BW"])) and f["s"] == same(filling(f))
    return f["F"] * f["x"] * f["v"] * (f["m"] + f["s"]) * f["T_1"]


def reduction(f: Figures) -> float:
    ranks, messages, reach = f.every("N"), f.every("M"), f.every("beta")
    shares = [(n - 1) / n * m / b for n, m, b in zip(ranks, messages, reach, strict=True)]
    if any("domain" in a.meaning and a.symbol == "N" for a in f.arguments):
        shares[-1] *= 2
    assert f["R"] == same(sum(shares))
    hidden = f["x"] * min(f["R"], f["W"]) + max(f["R"] - f["W"], 0) if "W" in f else f["x"] * f["R"]
    waited = any("waited for" in a.meaning for a in f.arguments)
    return f["F"] * (max(f["R"], hidden) if waited else hidden)


def bubble(f: Figures) -> float:
    assert f["s"] == same(filling(f))
    return f["s"] * f["S"] / f["m"] + (f["N"] - 1) * f.get("t_log", 0.0)


def uneven(f: Figures) -> float:
    spare = f["N"] * f["f"] - f["L"]
    stretch = (f["f"] + (max(0.0, f["q"] - spare) if spare else 0.0)) * f["N"] / f["L"]
    assert f["u"] == same(stretch)
    return (stretch - 1) * f["S"]


BY_HAND: dict[str, Any] = {
    "tensor parallel": tensor, "context parallel": context, "expert parallel": experts, "gathers": gathers, "sends": sends,
    "reduction": reduction, "bubble": bubble, "uneven stages": uneven,
    "stragglers": lambda f: f["S"] * f["g"] * math.log2(f["N"] / 8),
}  # fmt: skip


def test_fitted_figures_are_those_that_stand_at_the_place_that_is_named(pages: Pages) -> None:
    """Products of several constants, and what is taken times a time or a bandwidth, are worked out again elsewhere."""
    stored = json.loads((DATA / "training_constants.json").read_text())["constants"]
    looked_up = set()
    for argument in (*pages[2].arguments, *pages[6].arguments, *pages[14].arguments):
        named = re.fullmatch(r"models/data/training_constants\.json: (\w+)(?: of (\S+))?( \(not fitted\))?", argument.source)
        if named is None or argument.symbol in ("W", "beta"):
            continue
        name, key, held = named.groups()
        constant, scale = stored[name], {"us": 1e-6}.get(argument.unit, 1.0)
        assert argument.amount is not None and constant["fitted"] == (held is None)
        assert argument.amount * scale == pytest.approx(constant["values"][key or "*"]["value"], rel=1e-9), name
        looked_up.add(name)
    assert {"bandwidth_efficiency", "straggler_growth"} <= looked_up and len(looked_up) > 3


def test_every_figure_has_a_source_and_every_other_wall_a_reason(pages: Pages) -> None:
    for number in range(1, 23):
        page = pages[number]
        assert bool(page.absent) == (not page.arguments) and all(a.source and a.value for a in page.arguments)
