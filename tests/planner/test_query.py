"""The question: what is read, what is refused and in which words, and that nothing is lost on the way out."""

# ruff: noqa: E501 (the table of faults reads by row)
from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.query import Assumption, Clause, Population, Query, ServeQuery, load, query_schema
from planner.records import QueryError, dotted, parse_path
from planner.scalars import text_of
from zoo.units import Q, quantity
from zoo.yaml_source import parse

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("serve-*.yaml"))

BASE = """\
schema: wallplan/v1
kind: serve
name: chat
workload:
  model: llama-3.1-70b
  rate: 200/s
  tokens:
    input: 1000
    output: 250
  precision: [bf16, fp8]
  arrivals: {cv: 1.0}
sla:
  ttft:
    p99: 500 ms
  tpot: {p99: 40 ms}
supply:
  chips: all
  offers: [on-demand, spot]
  quota:
    - {chip: h100-sxm, region: aws/us-east-1, chips: 64}
  mixed: true
regions:
  allow: ["*"]
  deny: []
prices:
  overlays:
    - match: {cloud: aws}
      adjust: -7%
carbon:
  method: average
limits:
  cost: 500 USD/h
  chips: 512
minimize: cost
solver:
  engine: highs
  gap: 0
  time: 60 s
"""

POPULATIONS = """\
  populations:
    - name: eu
      rate: 80/s
      near: [Frankfurt]
      residency: EU
    - name: us
      rate: 90/s
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def plain(**changes: Any) -> dict[str, Any]:
    data = yaml.safe_load(BASE)
    data.update(changes)
    return data


def fault(text: str, folder: Path) -> str:
    """What `load` says about a file, with the folder taken out."""
    with pytest.raises(QueryError) as caught:
        load(written(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_read_and_written_back_equal(path: Path) -> None:
    query = load(path)
    assert isinstance(query, ServeQuery)
    assert Query.from_dict(query.to_dict()) == query
    assert Query.from_dict(query.to_dict(complete=True)) == query
    assert Query.from_dict(parse(query.to_yaml()).data) == query
    assert Query.from_dict(json.loads(json.dumps(query.to_dict()))).digest() == query.digest()
    assert pickle.loads(pickle.dumps(query)) == query
    assert query.to_dict() == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_there_is_an_example_for_each_question_of_the_readme() -> None:
    names = {path.stem for path in EXAMPLES}
    assert {"serve-llama70b", "serve-llama70b-carbon", "serve-populations", "serve-infeasible"} <= names


def test_values_are_quantities_and_plain_counts(tmp_path: Path) -> None:
    query = load(written(tmp_path, BASE))
    assert query.workload.rate == Q(200, "1/second")
    assert query.workload.tokens.input == 1000
    assert query.workload.precision == ("bf16", "fp8")
    assert query.sla.ttft == {"p99": Q(500, "millisecond")}
    assert [(bound.metric, bound.percentile) for bound in query.sla.bounds()] == [("ttft", 0.99), ("tpot", 0.99)]
    assert query.supply.chips == "all" and query.supply.quota[0].chips == 64
    assert query.prices.overlays[0].adjust == pytest.approx(-0.07)
    assert query.limits.cost == Q(500, "USD/hour") and query.limits.power is None
    assert query.solver.time == Q(1, "minute")


def test_one_rate_is_one_population_of_everybody(tmp_path: Path) -> None:
    query = load(written(tmp_path, BASE))
    assert query.populations == (Population(name="all", rate=quantity("200/s", "rate")),)
    query = load(written(tmp_path, BASE.replace("  rate: 200/s\n", POPULATIONS)))
    assert [(group.name, group.near, group.residency) for group in query.populations] == [
        ("eu", ("Frankfurt",), "EU"),
        ("us", (), None),
    ]
    assert query.total_rate == Q(170, "1/second")


def test_several_percentiles_and_a_mean() -> None:
    query = Query.from_dict(plain(sla={"ttft": {"p50": "200 ms", "p99.9": "1 s"}, "tpot": {"mean": "0.3 s"}}))
    assert [bound.percentile for bound in query.sla.bounds()] == [0.5, pytest.approx(0.999), None]


@pytest.mark.parametrize(
    ("written_as", "objective"),
    [("cost", "cost"), ("cost+carbon.price*carbon", "cost + carbon.price * carbon"), ("carbon.price*carbon + cost", None)],
)
def test_objectives(written_as: str, objective: str | None) -> None:
    query = Query.from_dict(plain(minimize=written_as, carbon={"price": "100 USD/tCO2e"}))
    assert query.minimize == (objective or "cost + carbon.price * carbon")


def test_the_kv_cache_has_a_stated_default_format() -> None:
    query = Query.from_dict(plain())
    assert query.workload.kv_precision == "auto"
    assert [query.workload.kv_precisions(weights) for weights in ("bf16", "fp8", "fp16")] == [("bf16",), ("bf16",), ("fp16",)]
    assert query.set("workload.kv_precision", "[fp8]").workload.kv_precisions("bf16") == ("fp8",)


def test_a_price_may_say_what_it_buys() -> None:
    def basis(**overlay: Any) -> str:
        return Query.from_dict(plain(prices={"overlays": [{"match": {}, **overlay}]})).prices.overlays[0].per

    assert basis(price="16 USD/h") == "instance"
    assert basis(price="2 USD/h", per="chip") == "chip"
    assert basis(price="2 USD/chip/h") == "chip"


def test_relative_paths_start_at_the_query(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{}", encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    text = BASE.replace("llama-3.1-70b", "config.json") + "zoo: [mine.yaml]\n"
    query = load(written(tmp_path, text))
    assert query.zoo_files == (tmp_path / "mine.yaml",)
    assert query.model_file == tmp_path / "config.json"
    assert Query.from_dict(plain()).model_file is None


def test_yaml_has_no_tricks(tmp_path: Path) -> None:
    text = BASE.replace("deny: []", "deny: [no, on]").replace("input: 1000", "input: 1e3").replace("name: chat", 'name: "1e9"')
    query = load(written(tmp_path, text))
    assert query.regions.deny == ("no", "on") and query.workload.tokens.input == 1000 and query.name == "1e9"
    assert load(written(tmp_path, query.to_yaml())) == query


def test_python_values_are_welcome() -> None:
    sla = {"ttft": {"p99": Q(500, "ms")}, "tpot": {"p99": "40 ms"}}
    assert Query.from_dict(plain(sla=sla)) == Query.from_dict(plain())


@pytest.mark.parametrize(
    ("text", "dimension"),
    [("500 ms", "time"), ("200/s", "rate"), ("0.1 USD/h", "money rate"), ("100 USD/tCO2e", "carbon price"), ("2.5 MW", "power"),
     ("100 kgCO2e/h", "carbon rate"), ("500 L/h", "water rate"), ("1e-9 s", "time"), ("7 %", "fraction")],
)  # fmt: skip
def test_text_of_reads_back(text: str, dimension: str) -> None:
    value = quantity(text, dimension)
    again = quantity(text_of(value), dimension)
    assert again.magnitude == value.magnitude and again.units == value.units


# ---------------------------------------------------------------- what is refused: text of the file, line, key, words

BAD: list[tuple[str, str, str, int, str, str]] = [
    # label, what is replaced, by what, line, key, words
    ("dimension", "p99: 500 ms", "p99: 500 GB", 14, "sla.ttft.p99", '"500 GB" is bytes, expected time such as "500 ms"'),
    ("bare time", "p99: 500 ms", "p99: 500", 14, "sla.ttft.p99", "bare number 500: expected time with a unit"),
    ("negative time", "p99: 500 ms", "p99: -500 ms", 14, "sla.ttft.p99", '"-500 ms" is not above zero, expected time'),
    ("zero time", "p99: 500 ms", "p99: 0 ms", 14, "sla.ttft.p99", "not above zero"),
    ("infinite time", "p99: 500 ms", "p99: 1e400 s", 14, "sla.ttft.p99", "not finite"),
    ("huge time", "p99: 500 ms", "p99: 1e308 year", 14, "sla.ttft.p99", "too large"),
    ("unknown unit", "p99: 500 ms", "p99: 500 msx", 14, "sla.ttft.p99", "unknown unit 'msx'"),
    ("comma", "p99: 500 ms", 'p99: "1,5 ms"', 14, "sla.ttft.p99", "write 1.5 or 1500, without a comma"),
    ("digit groups", "p99: 500 ms", "p99: 1 000 ms", 14, "sla.ttft.p99", "not one number and one unit"),
    ("power tower", "p99: 500 ms", "p99: 9^9^9^9 s", 14, "sla.ttft.p99", "not one number and one unit"),
    ("sum", "p99: 500 ms", "p99: 500 ms + 3 ms", 14, "sla.ttft.p99", "not one number and one unit"),
    ("words", "p99: 500 ms", "p99: soon", 14, "sla.ttft.p99", 'is not a number and a unit, expected time such as "500 ms"'),
    ("true for a time", "p99: 500 ms", "p99: true", 14, "sla.ttft.p99", "true is not a quantity"),
    ("mapping for a time", "p99: 500 ms", "p99: {max: 500 ms}", 14, "sla.ttft.p99", "is not a quantity, expected time"),
    ("percentile", "    p99: 500 ms", "    p100: 500 ms", 14, "sla.ttft.p100", '"p100" is no percentile; expected p50, p90'),
    ("percentile zero", "    p99: 500 ms", "    p0: 500 ms", 14, "sla.ttft.p0", "above 0, below 100"),
    ("statistic", "    p99: 500 ms", "    median: 500 ms", 14, "sla.ttft.median", "no percentile"),
    ("scalar latency", "  tpot: {p99: 40 ms}", "  tpot: 40 ms", 15, "sla.tpot", '"40 ms" is not a mapping, expected one such as {p99: 40 ms}'),
    ("empty latency", "  tpot: {p99: 40 ms}", "  tpot: {}", 15, "sla.tpot", "empty, expected at least one entry such as {p99: 40 ms}"),
    ("no latency", "  ttft:\n    p99: 500 ms\n  tpot: {p99: 40 ms}", "  quality: {loss: 1 %}", 12, "sla", "no latency: give ttft or tpot"),
    ("no value", "p99: 500 ms", "p99:", 14, "sla.ttft.p99", "no value; give one or leave the key out"),
    ("quality", "  tpot:", "  quality: {loss: 2}\n  tpot:", 15, "sla.quality.loss", "2 is out of range, expected a fraction from 0 to 1"),
    ("misspelt key", "  model: llama", "  modle: llama", 5, "workload.modle", 'unknown key; did you mean "model"?'),
    ("misplaced key", "name: chat", "rate: 200/s", 3, "rate", 'unknown key here; did you mean "workload.rate"'),
    ("another word", "name: chat", "budget: 3 USD/h", 3, "budget", 'unknown key here; did you mean "limits.cost"?'),
    ("another word, mistyped", "name: chat", "budgett: -5", 3, "budgett", 'unknown key here; did you mean "limits.cost"?'),
    ("another word in its place", "  cost: 500", "  budget: 500", 32, "limits.budget", 'unknown key; did you mean "cost"?'),
    ("strange key", "name: chat", "colour: red", 3, "colour", "unknown key; known here: schema, kind, name"),
    ("British key", "minimize: cost", "minimise: cost", 34, "minimise", 'did you mean "minimize"?'),
    ("reserved", "name: chat", "sweep: {rate: [1/s, 2/s]}", 3, "sweep", "not supported yet"),
    ("no model", "  model: llama-3.1-70b\n", "", 4, "workload.model", "missing key; expected model: llama-3.1-70b"),
    ("no output", "    output: 250\n", "", 7, "workload.tokens.output", "missing key; expected output: 250"),
    ("no sla", BASE[BASE.index("sla:") : BASE.index("supply:")], "", 1, "sla", "missing key; expected sla: {ttft: {p99: 500 ms}"),
    ("no schema", "schema: wallplan/v1\n", "", 1, "schema", "missing key; expected schema: wallplan/v1"),
    ("no kind", "kind: serve\n", "", 1, "kind", "missing key; expected kind: serve"),
    ("schema of another version", "wallplan/v1", "wallplan/v2", 1, "schema", 'did you mean "wallplan/v1"?'),
    ("kind of tomorrow", "kind: serve", "kind: procure", 2, "kind", '"procure" is not supported yet'),
    ("unknown kind", "kind: serve", "kind: server", 2, "kind", 'did you mean "serve"?'),
    ("dimension of a rate", "rate: 200/s", "rate: 200 token/s", 6, "workload.rate", 'is token rate, expected rate such as "200/s"'),
    ("bare rate", "rate: 200/s", "rate: 1e9", 6, "workload.rate", "bare number 1000000000.0: expected rate with a unit"),
    ("zero rate", "rate: 200/s", "rate: 0/s", 6, "workload.rate", '"0/s" is not above zero'),
    ("negative rate", "rate: 200/s", "rate: -3/s", 6, "workload.rate", "not above zero"),
    ("no demand", "  rate: 200/s\n", "", 4, "workload", 'no demand: give rate (such as "200/s") or populations'),
    ("two demands", "  rate: 200/s\n", "  rate: 200/s\n" + POPULATIONS, 7, "workload.populations", "rate and populations are both given"),
    ("no populations", "  rate: 200/s\n", "  populations: []\n", 6, "workload.populations", "empty, expected at least one entry"),
    ("population rate", "  rate: 200/s\n", POPULATIONS.replace("80/s", "80"), 8, "workload.populations[0].rate", "bare number 80"),
    ("population name", "  rate: 200/s\n", POPULATIONS.replace("us", "eu"), 11, "workload.populations[1].name", "already the name of"),
    ("population key", "  rate: 200/s\n", POPULATIONS.replace("near", "nera"), 9, "workload.populations[0].nera", 'did you mean "near"?'),
    ("zero tokens", "input: 1000", "input: 0", 8, "workload.tokens.input", "expected a whole number of at least 1, such as 1000"),
    ("broken tokens", "input: 1000", "input: 10.5", 8, "workload.tokens.input", "10.5 is not a whole number"),
    ("text tokens", "input: 1000", 'input: "1000"', 8, "workload.tokens.input", "is not a whole number (text, not a number)"),
    ("too many tokens", "input: 1000", "input: 10000000000", 8, "workload.tokens.input", "at most 1000000000"),
    ("precision", "[bf16, fp8]", "[bf16, fp88]", 10, "workload.precision[1]", '"fp88" is no precision; did you mean "fp8"?'),
    ("precision in capitals", "[bf16, fp8]", "[BF16]", 10, "workload.precision[0]", 'did you mean "bf16"?'),
    ("precision no list", "[bf16, fp8]", "bf16", 10, "workload.precision", '"bf16" is not a list, expected one such as [bf16, fp8]'),
    ("no precision", "[bf16, fp8]", "[]", 10, "workload.precision", "empty, expected at least one entry such as [bf16, fp8]"),
    ("precision twice", "[bf16, fp8]", "[bf16, bf16]", 10, "workload.precision", '"bf16" stands twice in the list'),
    ("kv precision", "  arrivals:", "  kv_precision: fp8\n  arrivals:", 11, "workload.kv_precision", "neither auto nor a list; did you mean [fp8]?"),
    ("burstiness", "cv: 1.0", "cv: -1", 11, "workload.arrivals.cv", "expected a fraction from 0 to 100, such as 1.0"),
    ("prefix", "  arrivals:", "  prefix_hit: 100 %\n  arrivals:", 11, "workload.prefix_hit", "expected a fraction from 0 to below 1"),
    ("chips", "chips: all", "chips: []", 17, "supply.chips", "empty, expected at least one entry"),
    ("chip no list", "chips: all", "chips: h100-sxm", 17, "supply.chips", '"h100-sxm" is neither all nor a list; did you mean [h100-sxm]?'),
    ("chip no text", "chips: all", "chips: [100]", 17, "supply.chips[0]", "100 is not text"),
    ("offer", "[on-demand, spot]", "[on-demand, spott]", 18, "supply.offers[1]", '"spott" is no purchase option; did you mean "spot"?'),
    ("no offers", "[on-demand, spot]", "[]", 18, "supply.offers", "empty, expected at least one entry"),
    ("quota both", "chips: 64}", "chips: 64, instances: 8}", 20, "supply.quota[0]", "chips and instances are both given"),
    ("quota neither", ", chips: 64}", "}", 20, "supply.quota[0]", "no amount: give chips or instances"),
    ("quota negative", "chips: 64}", "chips: -1}", 20, "supply.quota[0].chips", "at least 0"),
    ("quota no list", "    - {chip: h100-sxm, region: aws/us-east-1, chips: 64}", "    chips: 64", 19, "supply.quota", "is not a list, expected one"),
    ("mixed", "mixed: true", "mixed: 1", 21, "supply.mixed", "1 is neither true nor false"),
    ("allow nothing", 'allow: ["*"]', "allow: []", 23, "regions.allow", "empty, expected at least one entry such as"),
    ("Norway", "deny: []", "deny: [false]", 24, "regions.deny[0]", "false is not text; use quotes if it is a name"),
    ("adjust", "adjust: -7%", "adjust: -100%", 28, "prices.overlays[0].adjust", "expected a fraction above -1 to 100"),
    ("adjust and price", "adjust: -7%", "adjust: -7%\n      price: 2 USD/h", 27, "prices.overlays[0]", "price and adjust are both given"),
    ("money", "adjust: -7%", "price: 2 USD", 28, "prices.overlays[0].price", "is money, expected money rate"),
    ("match", "{cloud: aws}", "{clod: aws}", 27, "prices.overlays[0].match.clod", 'did you mean "cloud"?'),
    ("euros", "cost: 500 USD/h", "cost: 500 EUR/h", 32, "limits.cost", "prices are in USD: convert EUR first"),
    ("money per time", "cost: 500 USD/h", "cost: 500 USD", 32, "limits.cost", 'is money, expected money rate such as "98.32 USD/h"'),
    ("limit of chips", "chips: 512", "chips: 1.5e2x", 33, "limits.chips", "is not a whole number"),
    ("method", "method: average", "method: averge", 30, "carbon.method", 'is no carbon method; did you mean "average"?'),
    ("objective", "minimize: cost", "minimize: costs", 34, "minimize", '"costs" is no objective; did you mean "cost"?'),
    ("unpriced carbon", "minimize: cost", "minimize: cost + carbon.price * carbon", 34, "minimize", "carbon has no price: give carbon.price"),
    ("engine", "engine: highs", "engine: hihgs", 36, "solver.engine", '"hihgs" is no engine; did you mean "highs"?'),
    ("gap", "gap: 0", "gap: 1", 37, "solver.gap", "expected a fraction from 0 to below 1, such as"),
    ("threads", "  time: 60 s", "  threads: 0", 38, "solver.threads", "at least 1"),
    ("zoo file", "name: chat", "zoo: [chips.csv]", 3, "zoo[0]", "is no zoo file; expected a path such as my_chips.yaml"),
    ("no such zoo file", "name: chat", "zoo: [nowhere.yaml]", 3, "zoo[0]", "no such file"),
    ("no such config", "llama-3.1-70b", "nowhere/config.json", 5, "workload.model", "no such file"),
    ("number as a name", "name: chat", "name: 70", 3, "name", "70 is not text"),
    ("mapping as a name", "llama-3.1-70b", "{name: x}", 5, "workload.model", "{name: x} is not text"),
    ("list as a part", "sla:\n  ttft:\n    p99: 500 ms\n  tpot: {p99: 40 ms}", "sla: [500 ms]", 12, "sla", "[500 ms] is not a mapping, expected one"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "key", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_fault_is_one_line_with_file_line_key_and_expectation(
    old: str, new: str, line: int, key: str, words: str, tmp_path: Path
) -> None:
    assert old in BASE
    said = fault(BASE.replace(old, new, 1), tmp_path)
    assert said.startswith(f"serve.yaml:{line}: {key}: "), said
    assert words in said
    assert "\n" not in said
    for jargon in ("tagged-union", "pydantic", "Input should", "str_type", "validation error", "value_error", "[type="):
        assert jargon not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "serve.yaml"), ("- a\n- b\n", "serve.yaml"), ("just text", "serve.yaml"), ("a: [1", "serve.yaml"),
     ("schema: wallplan/v1\nschema: wallplan/v1\n", "serve.yaml:2"), ("{}", "serve.yaml"), ("1: 2\n", "serve.yaml")],
)  # fmt: skip
def test_files_that_are_no_query_at_all(text: str, words: str, tmp_path: Path) -> None:
    said = fault(text, tmp_path)
    assert words in said and "\n" not in said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"serve\.yaml"):
        load(tmp_path / "serve.yaml")
    with pytest.raises(QueryError):
        load(tmp_path)


def test_several_faults_are_several_lines_the_most_specific_first(tmp_path: Path) -> None:
    text = BASE.replace("500 ms", "500 GB").replace("mixed: true", "mixd: true").replace("minimize: cost", "minimize: costs")
    assert [line.split(": ")[0:2] for line in fault(text, tmp_path).splitlines()] == [
        ["serve.yaml:14", "sla.ttft.p99"],
        ["serve.yaml:21", "supply.mixd"],
        ["serve.yaml:34", "minimize"],
    ]


def test_a_thousand_faults_are_a_short_list() -> None:
    with pytest.raises(QueryError) as caught:
        Query.from_dict(plain(**{f"key{place}": 1 for place in range(500)}))
    assert len(caught.value.lines) == 21 and "480 more" in caught.value.lines[-1]
    with pytest.raises(QueryError, match="keys, expected at most 1000"):
        Query.from_dict(plain(**{f"key{place}": 1 for place in range(5000)}))


def test_values_of_python_are_refused_by_name() -> None:
    for value in (object(), {1, 2}, b"x", float("nan"), 10**30):
        with pytest.raises(QueryError, match=r"^<python>: name: "):
            Query.from_dict(plain(name=value))
    endless: dict[str, Any] = {}
    endless["workload"] = endless
    with pytest.raises(QueryError, match="too deep"):
        Query.from_dict(plain(workload=endless))


def test_a_terminal_is_not_played_with() -> None:
    with pytest.raises(QueryError) as caught:
        Query.from_dict(plain(name="a\x1b[31m\nb"))
    assert str(caught.value).isprintable()


# ---------------------------------------------------------------- overrides


def test_set_gives_a_new_question(tmp_path: Path) -> None:
    query = load(written(tmp_path, BASE))
    changed = query.set("sla.ttft.p99", "300 ms")
    assert changed.sla.ttft == {"p99": Q(300, "ms")} and query.sla.ttft == {"p99": Q(500, "ms")}
    assert changed != query and changed.digest() != query.digest()
    assert changed.set("sla.ttft.p99", "500 ms") == query


def test_set_reads_yaml_and_makes_parts_on_the_way() -> None:
    query = Query.from_dict(plain())
    assert query.set("workload.precision", "[fp8]").workload.precision == ("fp8",)
    assert query.set("workload.precision", ["fp8"]).workload.precision == ("fp8",)
    assert query.set("supply.mixed", "false").supply.mixed is False
    assert query.set("sla.quality.loss", "1 %").sla.quality.loss == pytest.approx(0.01)  # type: ignore[union-attr]
    assert query.set("sla.ttft.p99.9", "2 s").sla.ttft == {"p99": Q(500, "ms"), "p99.9": Q(2, "s")}
    assert query.set("limits.cost", "null").limits.cost is None
    assert query.set("supply.quota[0].chips", "128").supply.quota[0].chips == 128
    assert query.set("regions.allow", '["aws/*"]').regions.allow == ("aws/*",)
    assert query.set("regions.allow", "[aws/*]").regions.allow == ("aws/*",)


def test_overrides_are_judged_together(tmp_path: Path) -> None:
    query = load(written(tmp_path, BASE))
    moved = query.override({"workload.populations": [{"name": "eu", "rate": "80/s"}], "workload.rate": None})
    assert [group.name for group in moved.populations] == ["eu"]
    with pytest.raises(QueryError, match=r"^--set workload\.rate, name: workload: no demand"):
        query.override({"workload.rate": None, "name": "x"})
    with pytest.raises(QueryError, match=r'^--set sla\.tpot\.p99: "x" is not'):
        query.override({"name": "y", "sla.tpot.p99": "x"})
    shorter = query.set("supply.offers[0]", None)
    assert shorter.supply.offers == ("spot",)
    assert shorter.locate("supply.offers[0]") == "--set supply.offers: supply.offers[0]"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("sla.ttft.p99", "500 GB", '--set sla.ttft.p99: "500 GB" is bytes, expected time such as "500 ms"'),
        ("sla.ttf.p99", "1 s", '--set sla.ttf.p99: sla.ttf: unknown key; did you mean "ttft"?'),
        ("slaa", "1 s", '--set slaa: unknown key; did you mean "sla"?'),
        ("workload.rate", "-1/s", '--set workload.rate: "-1/s" is not above zero'),
        ("workload.rate", "null", "--set workload.rate: workload: no demand"),
        ("workload.populations", "[{name: eu, rate: 1/s}]", "--set workload.populations: rate and populations are both given"),
        ("workload.populations[0].rate", "1/s", "--set workload.populations[0].rate: workload.populations is not a list"),
        ("supply.quota[7].chips", "1", "--set supply.quota[7].chips: supply.quota has 1 entry, counted from 0"),
        ("supply.quota.chips", "1", "supply.quota is a list; name an entry such as supply.quota[0]"),
        ("workload.model.name", "x", 'workload.model has no keys below it, it is "llama-3.1-70b"'),
        ("supply.offers[1]", "spt", '--set supply.offers[1]: "spt" is no purchase option; did you mean "spot"?'),
        ("baseline", "x.json", "--set baseline: not supported yet"),
        ("kind", "procure", '--set kind: "procure" is not supported yet'),
        ("zoo", "[nowhere.yaml]", "--set zoo: zoo[0]: no such file"),
        ("", "1", "not a path; expected one such as sla.ttft.p99"),
        ("..", "1", "not a path"),
        ("[0]", "1", "not a path"),
        ("a b", "1", "not a path"),
    ],
)
def test_set_names_the_override(path: str, value: str, words: str) -> None:
    with pytest.raises(QueryError) as caught:
        Query.from_dict(plain()).set(path, value)
    assert words in str(caught.value) and str(caught.value).startswith("--set") and "\n" not in str(caught.value)


def test_paths_are_written_as_they_are_read() -> None:
    for text in ("sla.ttft.p99", "sla.ttft.p99.9", "workload.populations[0].rate", "supply.quota[12]"):
        assert dotted(parse_path(text)) == text
    assert parse_path("sla.ttft.p99.9") == ("sla", "ttft", "p99.9")


# ---------------------------------------------------------------- what later stages ask of a question


def test_places_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, BASE)
    query = load(path)
    assert query.locate(("workload", "model")) == f"{path}:5: workload.model"
    assert query.locate("supply.quota[0].chip") == f"{path}:20: supply.quota[0].chip"
    assert query.locate("supply.chips[3]") == f"{path}:17: supply.chips[3]"
    assert query.line("workload.kv_precision") == 4
    assert query.set("workload.model", "gpt-3").locate("workload.model") == "--set workload.model"
    assert query.set("workload.model", "gpt-3").locate("workload.rate") == f"{path}:6: workload.rate"
    assert Query.from_dict(plain(), source="plan.json").locate("workload.model") == "plan.json: workload.model"


def test_clauses_are_what_the_user_set_with_its_line(tmp_path: Path) -> None:
    text = (
        BASE.replace("  rate: 200/s\n", POPULATIONS)
        .replace("chips: all", "chips: [h100-sxm, l40s]")
        .replace("mixed: true", "mixed: false")
    )
    text = (
        text.replace("deny: []", "deny: [azure/*]").replace('["*"]', "[EU]").replace("  tpot", "  quality: {loss: 1 %}\n  tpot")
    )
    path = written(tmp_path, text)
    query = load(path).set("limits.power", "2 MW")
    assert [(clause.path, clause.text, clause.line) for clause in query.clauses()] == [
        ("workload.populations[0].rate", "serve 80/s to eu", 8),
        ("workload.populations[0].residency", "serve eu from EU", 10),
        ("workload.populations[1].rate", "serve 90/s to us", 12),
        ("workload.precision", "weights in bf16 or fp8", 16),
        ("sla.ttft.p99", "TTFT p99 <= 500 ms", 20),
        ("sla.tpot.p99", "TPOT p99 <= 40 ms", 22),
        ("sla.quality.loss", "quality lost <= 0.01", 21),
        ("supply.chips", "chips: h100-sxm, l40s", 24),
        ("supply.offers", "purchase: on-demand, spot", 25),
        ("supply.quota[0]", "at most 64 chips of h100-sxm in aws/us-east-1", 27),
        ("supply.mixed", "one kind of machine, and one pool for each population", 28),
        ("limits.cost", "cost <= 500 USD/h", 39),
        ("limits.power", "power <= 2 MW", None),
        ("limits.chips", "chips <= 512", 40),
        ("regions.allow", "regions: EU", 30),
        ("regions.deny", "regions: not azure/*", 31),
    ]
    assert {clause.file for clause in query.clauses()} == {str(path), "--set"}
    assert isinstance(query.clauses()[0], Clause)


def test_every_clause_is_a_path_that_can_be_set() -> None:
    for path in EXAMPLES:
        query = load(path)
        for clause in query.clauses():
            value: Any = query.to_dict()
            for key in parse_path(clause.path):
                value = value[key]
            assert query.set(clause.path, value) == query


def test_assumptions_are_what_was_left_out() -> None:
    assumed = {assumption.path for assumption in Query.from_dict(plain()).assumptions()}
    ways = {"workload.disaggregation", "workload.speculative"}
    assert ways | {"workload.kv_precision", "workload.prefix_hit", "workload.populations", "carbon.embodied", "rank"} == assumed
    bare = {key: value for key, value in plain().items() if key in ("schema", "kind", "workload", "sla")}
    texts = {assumption.path: assumption for assumption in Query.from_dict(bare).assumptions()}
    assert texts["supply.offers"] == Assumption("supply.offers", "on-demand purchase only")


def test_the_digest_is_of_the_meaning() -> None:
    query = Query.from_dict(plain())
    same = plain(sla={"tpot": {"p99": "0.04 s"}, "ttft": {"p99": "0.5 s"}})
    same["workload"] |= {"kv_precision": "auto", "rate": "12000 requests/min", "prefix_hit": "0 %"}
    assert Query.from_dict(same) == query and hash(Query.from_dict(same)) == hash(query)
    digest = query.digest()
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert isinstance(query, ServeQuery) and query.populations and query.digest() == digest  # whatever was looked at
    for path, value in [
        ("workload.rate", "201/s"),
        ("supply.offers", "[spot, on-demand]"),
        ("name", "x"),
        ("limits.water", "1 L/h"),
    ]:
        assert query.set(path, value).digest() != query.digest()


# ---------------------------------------------------------------- the schema for editors


def test_schema_accepts_the_examples_and_refuses_what_the_reader_refuses() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = query_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in EXAMPLES:
        query = load(path)
        validator.validate(query.to_dict())
        validator.validate(query.to_dict(complete=True))
    validator.validate(plain())
    refused: list[dict[str, Any]] = [
        {"sweep": {}},
        {"kind": "procure"},
        {"sla": {"ttft": {"p1000": "1 s"}}},
        {"supply": {"chips": "h100"}},
        {"limits": {"power": 3}},
        {"solver": {"engine": None}},
        {"regions": {"allow": []}},
    ]
    for change in refused:
        assert not validator.is_valid(plain(**change)), change


def test_schema_describes_every_key_and_every_example_of_a_key_is_valid() -> None:
    schema = query_schema()
    assert schema["$schema"].startswith("https://json-schema.org/draft/2020-12") and schema["$id"]
    records = list(schema["$defs"].values())
    keys = [(record.get("title"), name, key) for record in records for name, key in record["properties"].items()]
    assert len(keys) > 60
    for title, name, key in keys:
        assert key.get("description") and key.get("examples"), f"{title}.{name}"
    for record in records:
        assert record["additionalProperties"] is False
    assert '"null"' not in json.dumps(schema)
    query = Query.from_dict(plain(carbon={"price": "100 USD/tCO2e"}))
    assert [kind["$ref"] for kind in schema["anyOf"]] == ["#/$defs/ServeQuery", "#/$defs/TrainQuery"]
    for name, key in schema["$defs"]["ServeQuery"]["properties"].items():
        for example in key["examples"]:
            if name not in ("zoo", "calibration"):  # they name files
                query.set(name, {"price": "1 USD/tCO2e"} | example if name == "carbon" else example)


# ---------------------------------------------------------------- junk never breaks the reader

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(
        ["500 ms", "200/s", "-1 s", "1e9", "9^9^9", "p99", "bf16", "all", "%", "1 ** 9 s", "USD", "5 GB", "0x10", "(((", "1/0 s", "1e999 s"]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.sampled_from(["rate", "p99", "name"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
KEYS = ["schema", "kind", "name", "horizon", "zoo", "minimize", "workload", "workload.model", "workload.rate", "workload.populations",
        "workload.tokens", "workload.tokens.input", "workload.precision", "workload.kv_precision", "workload.arrivals.cv",
        "workload.prefix_hit", "sla", "sla.ttft", "sla.ttft.p99", "sla.quality.loss", "supply", "supply.chips", "supply.offers",
        "supply.quota", "supply.quota[0].chips", "supply.mixed", "regions.allow", "regions.deny[0]", "prices", "prices.overlays",
        "prices.overlays[0].match", "prices.overlays[0].adjust", "carbon.price", "limits", "limits.cost", "solver", "solver.gap"]  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(key=st.sampled_from(KEYS) | st.text(max_size=12), junk=JUNK)
def test_junk_is_refused_or_read_but_never_breaks(key: str, junk: Any) -> None:
    try:
        query = Query.from_dict(plain()).set(key, junk)
    except QueryError as error:
        assert all(line and line.isprintable() for line in error.lines)
    else:
        assert Query.from_dict(query.to_dict()) == query
        assert Query.from_dict(query.to_dict(complete=True)) == query


@settings(max_examples=200, deadline=None)
@given(junk=JUNK)
def test_junk_as_a_whole_is_refused(junk: Any) -> None:
    with pytest.raises(QueryError):
        Query.from_dict(junk)


@settings(max_examples=200, deadline=None)
@given(number=st.floats(min_value=1e-6, max_value=1e9), unit=st.sampled_from(["ms", "s", "min", "us"]))
def test_any_time_survives_writing(number: float, unit: str) -> None:
    query = Query.from_dict(plain()).set("sla.ttft.p99", f"{number!r} {unit}")
    again = Query.from_dict(query.to_dict(complete=True))
    assert again.sla.ttft == query.sla.ttft
