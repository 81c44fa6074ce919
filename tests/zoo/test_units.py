"""The traps of units: what looks like a quantity and is not the one that was meant."""

from __future__ import annotations

import pint
import pytest

from zoo.units import DIMENSIONS, Q, UnitError, magnitudes, quantity, ureg


@pytest.mark.parametrize(("name", "example"), [(name, example) for name, (_, example) in DIMENSIONS.items()])
def test_every_dimension_parses_its_own_example(name: str, example: str) -> None:
    assert quantity(example, name).is_compatible_with(DIMENSIONS[name][0])


@pytest.mark.parametrize(
    ("text", "dimension", "unit", "value"),
    [
        ("400 Gb/s", "bandwidth", "GB/s", 50.0),  # gigabit, not gilbert
        ("400 Gbps", "bandwidth", "GB/s", 50.0),
        ("80 GiB", "bytes", "byte", 80 * 2**30),
        ("80 GB", "bytes", "byte", 80e9),
        ("989.4 TFLOP/s", "compute", "flop/second", 989.4e12),
        ("6 MW", "power", "watt", 6e6),
        ("350 gCO2e/kWh", "carbon intensity", "gCO2e/watthour", 0.35),
        ("2 tCO2e", "carbon", "gCO2e", 2e6),
        ("98.32 USD/h", "money rate", "USD/hour", 98.32),
        ("0.5 %", "fraction", "dimensionless", 0.005),
        ("1 month", "time", "day", 365.25 / 12),
        ("1.8 L/kWh", "water intensity", "liter/watthour", 0.0018),
        ("15e12 token", "tokens", "token", 15e12),
        ("1200 km", "distance", "meter", 1.2e6),
    ],
)
def test_values(text: str, dimension: str, unit: str, value: float) -> None:
    assert magnitudes([quantity(text, dimension)], ureg.Unit(unit)) == pytest.approx([value], rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("500", "time", "bare number"),
        (500, "time", "bare number"),
        (True, "time", "not a quantity"),
        (None, "power", "not a quantity"),
        ("", "power", "not a quantity"),
        ("989 TFLOPS", "compute", "FLOPS is ambiguous"),
        ("5 EUR", "money", "convert EUR"),
        ("5 GBP", "money", "convert GBP"),
        ("5 USD", "carbon", "expected carbon"),
        ("5 gCO2e", "money", "expected money"),
        ("5 kWh", "power", "expected power"),
        ("5 token", "operations", "expected operations"),
        ("5 mss", "time", "unknown unit"),
        ("inf s", "time", "expected time"),
        ("1e999 s", "time", "finite"),
        ("2**64 s", "time", "expected time"),
        ("__import__('os')", "time", "not"),
        ("5 s" + " " * 100, "time", "not a quantity"),
    ],
)
def test_refused(text: object, dimension: str, says: str) -> None:
    with pytest.raises(UnitError, match=says) as error:
        quantity(text, dimension)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("one", "other"), [("USD", "gCO2e"), ("byte", "flop"), ("token", "byte"), ("W", "Wh"), ("liter", "meter")]
)
def test_what_cannot_be_added(one: str, other: str) -> None:
    with pytest.raises(pint.DimensionalityError):
        Q(1.0, one) + Q(1.0, other)


def test_there_is_one_registry() -> None:
    assert pint.get_application_registry().get() is ureg
