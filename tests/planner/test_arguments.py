"""`explain --wall`: the equation that is printed, worked out again by hand from the figures that are printed with it."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.arguments import page_of
from planner.cli import app
from planner.plan import Plan, WallPage
from planner.query import ServeQuery
from planner.solve import solve

GIB = 2**30


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Two populations, of which one is far away; replicas on two chips each."""
    question = {
        "schema": "wallplan/v1",
        "kind": "serve",
        "name": "by-hand",
        "workload": {
            "model": "llama-3.1-70b", "tokens": {"input": 1000, "output": 250}, "precision": ["fp8"],
            "parallelism": {"tp": [4]},
            "populations": [{"name": "near", "near": ["aws/us-west-2"], "rate": "6/s"},
                            {"name": "far", "near": ["aws/us-east-1"], "rate": "4/s"}],
        },
        "sla": {"ttft": {"p99": "900 ms"}, "tpot": {"p99": "50 ms"}},
        "supply": {"chips": ["h100-sxm"], "offers": ["on-demand"]},
        "regions": {"allow": ["lambda/us-west-*"]},
        "limits": {"power": "1 MW"},
    }  # fmt: skip
    found = solve(ServeQuery.from_dict(question))
    assert found.status == "optimal"
    return found


def figures(page: WallPage) -> dict[str, float]:
    """Amounts by symbol; of symbols that stand several times the first."""
    found: dict[str, float] = {}
    for a in page.arguments:
        if a.amount is not None:
            found.setdefault(a.symbol, a.amount)
    return found


def erlang_c(servers: int, load: float) -> float:
    """Share of arrivals that wait, by the recurrence of the textbooks: 1/B(c) = 1 + c / (a B(c-1))."""
    loss = 1.0
    for count in range(1, servers + 1):
        loss = load * loss / (count + load * loss)
    return servers * loss / (servers - load * (1 - loss))


def test_compute(plan: Plan) -> None:
    f, page = figures(page_of(plan, 1)), page_of(plan, 1)
    assert f["u"] == pytest.approx(f["lambda"] * f["OPs_r"] / (f["N"] * f["Peak"]), rel=1e-9)
    assert page.readings[0].demand == pytest.approx(f["u"])
    # llama 3.1 70B: 2 x 70.55e9 FLOP a token, of 1,250 tokens, the embedding table never multiplied; attention adds 1 to 3 %
    assert f["OPs_r"] == pytest.approx(2 * 70.55e9 * 1250 / 1e12, rel=0.03)
    operations, eta, time = ([a.amount for a in page.arguments if a.symbol == s] for s in ("OPs", "eta", "T"))
    assert time[0] == pytest.approx(1e3 * operations[0] / (f["Peak"] * eta[0]), rel=1e-9)  # type: ignore[operator]


def test_memory(plan: Plan) -> None:
    page = page_of(plan, 2)
    f = figures(page)
    weights = (f["P_d"] / 4 * 1 + f["n"] * f["V"] / 4 * 2) / GIB  # fp8: one byte, tables in two; 4 ranks
    assert f["|W|"] == pytest.approx(weights, rel=1e-9)
    assert f["R"] == pytest.approx((1 - f["m"]) * f["C"] + f["w"], rel=1e-9)
    assert f["M"] == pytest.approx(f["|W|"] + max(f["B"] * f["KV"], f["KV_end"]) + f["R"], rel=1e-9)
    assert f["C"] == 80 and page.readings[0].demand == pytest.approx(f["M"]) and page.readings[0].limit == 80
    read, reached, time = ([a.amount for a in page.arguments if a.symbol == s] for s in ("|W|", "eta_m", "T"))
    assert time[0] == pytest.approx(1e3 * read[1] / (f["BW_HBM"] * reached[0]), rel=1e-9)  # type: ignore[operator]


def test_serving(plan: Plan) -> None:
    page = page_of(plan, 4)
    f = figures(page)
    step = sum(f[name] for name in ("t_fixed", "t_matrix", "t_comm", "t_att", "t_host"))
    assert f["t_step"] == pytest.approx(step, rel=1e-9)
    compute, memory = ([a.amount or 0.0 for a in page_of(plan, n).arguments if a.symbol == "T"] for n in (1, 2))
    products = sum((one ** f["p"] + two ** f["p"]) ** (1 / f["p"]) for one, two in zip(compute, memory, strict=True))
    assert f["t_matrix"] == pytest.approx(products, rel=1e-9)
    assert f["t_host"] == pytest.approx(f["n"] * f["h"] / f["a"] / 1e3, rel=1e-9)
    disturbed = f["pp"] * f["phi"] * (f["n"] - 1) / f["O"] * (f["t_+"] + f["t_l"])
    assert f["TPOT"] == pytest.approx(f["x"] * (f["pp"] * step + disturbed), rel=1e-9)
    assert page.readings[0].demand == pytest.approx(f["TPOT"]) and f["SLA"] == page.readings[0].limit == 50
    assert f["TPOT"] == pytest.approx(plan.fleet[0].tpot_ms)


def test_batching(plan: Plan) -> None:
    page = page_of(plan, 5)
    f = figures(page)
    # keys and values of 80 layers, 8 heads of 128, in pages of 16; 1125 tokens are 71 pages; what a chip of 4 keeps of it
    one = 2 * f["L"] * f["H"] * f["D"] * math.ceil(f["S"] / f["p"]) * f["p"] * f["b"] / GIB
    assert (f["L"], f["H"], f["D"], f["S"]) == (80, 8, 128, 1125)
    assert f["KV_1"] == pytest.approx(one, rel=1e-9) and f["a"] == 1 / 4
    assert f["B_max"] == math.floor(f["F"] / (one / 4)) == page.readings[0].limit
    assert f["KV"] == pytest.approx(f["B"] * one, rel=1e-9)


def test_tail_latency(plan: Plan) -> None:
    page = page_of(plan, 7)
    f = figures(page)
    service, hold = f["S"] / 1e3, f["R"]
    assert f["lambda"] == 10 and f["a"] == pytest.approx(10 * service, rel=1e-9)
    assert f["C"] == pytest.approx(erlang_c(int(f["c"]), f["a"]), rel=1e-9)
    assert f["theta"] == pytest.approx(f["c"] / service - 10, rel=1e-9)
    assert f["P_b"] == pytest.approx(erlang_c(int(f["m"]), 10 * hold), rel=1e-6)
    assert f["N"] > 10  # the east coast is far
    assert f["S"] == pytest.approx(f["x"] * f["S_0"], rel=1e-9)
    assert f["D"] == pytest.approx(f["x"] * (f["t_0"] + f["k"] * f["t_decode"]), rel=1e-9)
    assert 1e3 * f["R"] == pytest.approx(f["D"] + f["S"] + (f["O"] - 1) * f["TPOT"], rel=1e-9)

    def late(milliseconds: float) -> float:
        t = (milliseconds - f["N"] - f["D"]) / 1e3
        wait = (math.exp(-t / service) - math.exp(-f["theta"] * t)) / (f["theta"] * service - 1)
        return float(f["P_b"] + math.exp(-t / service) + f["C"] * wait)

    assert f["late"] == pytest.approx(late(900), rel=1e-9) and f["late"] <= f["1 - q"] == pytest.approx(0.01)
    assert late(f["TTFT"]) == pytest.approx(0.01, rel=1e-6)
    assert f["lambda_max"] == pytest.approx(plan.fleet[0].capacity_per_s)
    demands = {row.what: (row.demand, row.limit) for row in page.readings}
    assert demands["TTFT p99"] == (pytest.approx(f["TTFT"]), 900) and demands["load of a pool"][0] == 10


def test_communication(plan: Plan) -> None:
    page = page_of(plan, 14)
    f = figures(page)
    message = 2 * f["n"] * 8192 / 1e6
    assert f["h"] == 8192 and f["N"] == 4 and f["M"] == pytest.approx(message, rel=1e-9)
    assert f["beta"] == pytest.approx(f["f"] * f["BW"], rel=1e-9)
    assert f["T_1"] == pytest.approx(2 * 3 / 4 * message / f["beta"], rel=1e-9)  # MB over GB/s are ms
    parts = [a.amount for a in page.arguments if a.symbol == "t"]
    assert parts == pytest.approx([160 * f["T_1"], 160 * f["alpha"] / 1e3], rel=1e-9)
    assert f["T"] == pytest.approx(sum(p or 0 for p in parts), rel=1e-9)
    assert f["share"] == pytest.approx(f["T"] / f["t_decode"], rel=1e-9) and page.readings[0].demand == pytest.approx(f["share"])


def test_capital_and_sustainability(plan: Plan) -> None:
    f, page = figures(page_of(plan, 17)), page_of(plan, 17)
    assert f["OpEx"] == pytest.approx(f["n"] * f["p"], rel=1e-6)
    assert page.readings[0].demand == pytest.approx(sum(a.amount or 0 for a in page.arguments if a.symbol == "OpEx"))
    f, page = figures(page_of(plan, 18)), page_of(plan, 18)
    host = f["s"] / (1 - f["s"])
    energy = f["N"] * f["TDP"] / 1e3 * (f["f"] + host)  # kWh in an hour
    assert f["P"] == pytest.approx(f["N"] * f["TDP"] / 1e3 * (1 + host) * f["PUE"], rel=1e-4)
    assert f["CO2"] == pytest.approx(energy * f["PUE"] * f["CI"] / 1e3, rel=1e-4)
    assert f["W"] == pytest.approx(energy * f["WUE"], rel=1e-4)
    power = next(row for row in page.readings if row.what == "power")
    assert power.limit == 1000 and power.headroom == pytest.approx(1 - power.demand / 1000)


def test_every_figure_has_a_source_and_every_other_wall_a_reason(plan: Plan) -> None:
    part = {1, 2, 3, 4, 5, 7, 13, 14, 17, 18}
    for number in range(1, 23):
        page = page_of(plan, number)
        assert (number in part) == (not page.absent) == bool(page.arguments) == bool(page.readings)
        assert all(a.source and a.value and a.of.startswith("#1 ") for a in page.arguments)
    assert {row.what: row.demand for row in page_of(plan, 2).readings} == {
        w.what: w.demand for w in plan.walls if w.number == 2
    }  # one pool: the same as in the answer


def test_every_format(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)

    def shown(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["explain", str(path), *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    table = shown("--wall", "communication")
    assert "2 (N-1)/N M/beta" in table and max(map(len, table.splitlines())) <= 80
    assert json.loads(shown("--wall", "14", "-f", "json"))["arguments"][0] == {
        "symbol": "N", "meaning": "ranks: tensor parallel", "value": "4", "source": "plan", "amount": 4.0, "unit": "",
        "of": f"#1 {plan.fleet[0].offer}",
    }  # fmt: skip
    lines = list(csv.DictReader(io.StringIO(shown("--wall", "14", "-f", "csv"))))
    assert {line["part"] for line in lines} == {"figure", "reading"} and float(lines[-1]["demand"]) > 0
    assert "| N | ranks: tensor parallel | 4 | plan |" in shown("--wall", "14", "-f", "md")
    absent = shown("--wall", "16")
    assert "not in this plan" in absent and "demand" not in absent
