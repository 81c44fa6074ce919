"""The table of walls: complete, as the architecture lists it, and every example worked by hand comes out."""

import dataclasses
import importlib
import inspect
import math

import numpy as np
import pytest

from models import wall
from models.dimensions import UnknownValue
from zoo.errors import UnknownName
from zoo.units import Q, UnitError, ureg

DOMAIN_FILES = ("node", "data", "algorithm", "fleet", "operations", "analysis")

# The architecture's table: number, name, domain, key reference.
ARCHITECTURE = """
1 | Compute | Node | Williams et al. (2009)
2 | Memory | Node | Williams et al. (2009)
3 | Software | Node | Chowdhery et al. (2022)
4 | Serving | Node | Pope et al. (2023)
5 | Batching | Node | Kwon et al. (2023)
6 | Streaming | Node | Cerebras (2024)
7 | Tail Latency | Node | Dean & Barroso (2013)
8 | Ingestion | Data | Mohan et al. (2022)
9 | Transformation | Data | Murray et al. (2021)
10 | Locality | Data | Leiserson (1985)
11 | Complexity | Algorithm | Hoffmann et al. (2022)
12 | Reasoning | Algorithm | Brown et al. (2024)
13 | Fidelity | Algorithm | Han et al. (2015)
14 | Communication | Fleet | Shoeybi et al. (2019)
15 | Fragility | Fleet | Daly (2006)
16 | Multi-tenant | Fleet | Little (1961)
17 | Capital | Ops | Barroso et al. (2018)
18 | Sustainability | Ops | Patterson et al. (2022)
19 | Checkpoint | Ops | Eisenman et al. (2022)
20 | Safety | Ops | Abadi et al. (2016)
21 | Sensitivity | Analysis | Williams et al. (2009)
22 | Synthesis | Analysis | Kwon et al. (2023)
"""


def test_table_is_the_architectures():
    table = [f"{w.number} | {w.name} | {w.domain} | {w.reference}" for w in wall.WALLS]
    assert table == ARCHITECTURE.strip().splitlines()


def test_twenty_two_walls_have_twenty_one_solvers():
    assert len({w.solver for w in wall.WALLS}) == 21


@pytest.mark.parametrize("entry", wall.WALLS, ids=lambda w: f"{w.number:02d}-{w.name}")
def test_worked_example_comes_out(entry):
    entry.check()


def test_a_wrong_example_does_not_pass():
    entry = dataclasses.replace(wall.WALLS[0], worked=wall.Worked("a slip", lambda: Q(1.0, "s"), Q(2.0, "s")))
    with pytest.raises(AssertionError, match="by hand 2"):
        entry.check()


@pytest.mark.parametrize("entry", wall.WALLS, ids=lambda w: f"{w.number:02d}-{w.name}")
def test_every_entry_is_complete(entry):
    assert entry.bounded and entry.equation and entry.assumptions and entry.leaves_out and entry.functions
    assert any(character.isdigit() for character in entry.worked.text)


def public_functions():
    for name in DOMAIN_FILES:
        module = importlib.import_module(f"models.{name}")
        for function_name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not function_name.startswith("_"):
                yield pytest.param(function, id=f"{name}.{function_name}")


FUNCTIONS = list(public_functions())
CHECKED = [p for p in FUNCTIONS if hasattr(p.values[0], "dimensions")]
# Functions of names, records and other functions: they take no quantity that a decorator could check.
WITHOUT_QUANTITIES = {
    "lookup_parameters", "routed_parameters", "kv_elements_per_token", "scaling_law", "bits_per_element", "computes_in",
    "bytes_per_element",
    "quality_loss", "published_idle_fraction", "optimizer_bytes", "private_overhead", "elasticities",
    "binding_input", "smallest",
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_public_function_is_documented_and_checks_its_dimensions(function):
    assert function.__doc__ and len(function.__doc__) > 40
    assert hasattr(function, "dimensions") or function.__name__ in WITHOUT_QUANTITIES


@pytest.mark.parametrize("function", CHECKED)
def test_every_quantity_or_number_in_a_signature_has_a_dimension(function):
    for parameter in inspect.signature(function).parameters.values():
        if "Quantity" in str(parameter.annotation) or "Number" in str(parameter.annotation):
            assert parameter.name in function.dimensions


def _arguments(function, **replaced):
    """Positional arguments of the right dimensions, with some replaced; anything else is a stand-in."""
    values = []
    for parameter in inspect.signature(function).parameters.values():
        unit = function.dimensions.get(parameter.name)
        right = object() if unit is None else 1.0 if unit == "" else Q(1.0, unit)
        values.append(replaced.get(parameter.name, right))
    return values


@pytest.mark.parametrize("function", CHECKED)
def test_wrong_dimension_raises_for_every_argument(function):
    for name, unit in function.dimensions.items():
        if name == "return":
            continue
        wrong = Q(1.0, "gCO2e") if ureg.Unit(unit).dimensionality != {"[carbon]": 1} else Q(1.0, "s")
        for value in (wrong, "1 s", True) + (() if unit == "" else (1.0, np.array([1.0]))):
            with pytest.raises(UnitError, match=f"{function.__name__}: {name}"):
                function(*_arguments(function, **{name: value}))


@pytest.mark.parametrize("function", CHECKED)
def test_unknown_argument_raises_for_every_argument(function):
    for name in function.dimensions:
        if name != "return":
            with pytest.raises(UnknownValue, match=name):
                function(*_arguments(function, **{name: None}))


def test_walls_are_found_by_number_name_and_solver():
    assert wall.walls[14] is wall.walls["communication"] is wall.walls["wall 14"] is wall.walls["DistributedModel"]
    assert wall.walls["tail-latency"].number == 7 and list(wall.walls) == list(wall.WALLS) and len(wall.walls) == 22
    for wrong, hint in (
        ("comunication", "did you mean 'Communication'"),
        (23, "1 to 22"),
        ("0", "1 to 22"),
        ("SingleNode", "ambiguous"),
    ):
        with pytest.raises(UnknownName, match=hint):
            wall.walls[wrong]


# ------------------------------------------------------------------------------------------------------- readings


def test_reading_measures_headroom_in_the_limits_unit():
    reading = wall.reading(2, "replica", Q(60.0, "GB"), Q(80000.0, "MB"))
    assert reading.headroom == pytest.approx(0.25)
    assert not reading.violated and reading.binding_like(0.3) and not reading.binding_like(0.2)
    assert reading.name == "Memory"


def test_reading_of_a_violated_wall_is_negative():
    reading = wall.reading(7, "pool", Q(1.5, "s"), Q(1.0, "s"))
    assert reading.headroom == pytest.approx(-0.5) and reading.violated


def test_reading_without_a_limit_says_so():
    reading = wall.reading(16, "cluster", Q(3.0, "h"), None)
    assert reading.headroom is None and reading.note == "no limit set" and not reading.violated


def test_reading_of_an_unknown_demand_has_no_headroom():
    assert wall.reading(20, "run", None, 3.0).headroom is None


def test_unstable_queue_has_no_finite_headroom():
    assert wall.reading(7, "pool", Q(math.inf, "s"), Q(1.0, "s")).headroom == -math.inf


def test_reading_refuses_to_compare_different_dimensions():
    with pytest.raises(Exception, match=r"[Cc]annot convert"):
        wall.reading(1, "x", Q(1.0, "s"), Q(1.0, "byte"))


def test_arguments_name_their_units():
    assert wall.WALLS[0].arguments == {"operations": "flop", "peak": "flop/s", "efficiency": ""}
