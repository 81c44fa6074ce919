"""The one unit registry, and the border where text becomes a quantity.

Every quantity in Wallplan belongs to `ureg`; a second registry would make quantities that cannot be
compared. The definitions stand in `units.txt`: FLOP, byte, token, USD and gCO2e are base dimensions
of their own, so that adding any two of them is an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pint

from .names import nearest

ureg: pint.UnitRegistry[Any] = pint.UnitRegistry(Path(__file__).with_name("units.txt"))
ureg.formatter.default_format = "~"
# pint looks a unit's text up anew each time, which takes five times as long as all else that making a quantity needs.
ureg.parse_units = functools.cache(ureg.parse_units)  # type: ignore[method-assign]
ureg.parse_units_as_container = functools.cache(ureg.parse_units_as_container)  # type: ignore[method-assign]
pint.set_application_registry(ureg)

Q = ureg.Quantity
Quantity = pint.Quantity

# What a person would call each dimension, with an example that parses.
DIMENSIONS: dict[str, tuple[str, str]] = {
    "time": ("second", "500 ms"),
    "rate": ("1/second", "200/s"),
    "power": ("watt", "6 MW"),
    "energy": ("watthour", "5 MWh"),
    "money": ("USD", "250000 USD"),
    "money rate": ("USD/hour", "98.32 USD/h"),
    "carbon": ("gCO2e", "20 tCO2e"),
    "carbon rate": ("gCO2e/hour", "40 kgCO2e/h"),
    "carbon price": ("USD/gCO2e", "100 USD/tCO2e"),
    "carbon intensity": ("gCO2e/watthour", "350 gCO2e/kWh"),
    "electricity price": ("USD/watthour", "0.08 USD/kWh"),
    "water": ("liter", "5000 L"),
    "water rate": ("liter/hour", "120 L/h"),
    "water intensity": ("liter/watthour", "1.8 L/kWh"),
    "bytes": ("byte", "80 GiB"),
    "bandwidth": ("byte/second", "3.35 TB/s"),
    "operations": ("flop", "3.8e25 FLOP"),
    "compute": ("flop/second", "989 TFLOP/s"),
    "tokens": ("token", "15e12 token"),
    "token rate": ("token/second", "5000 token/s"),
    "distance": ("meter", "1200 km"),
    "fraction": ("dimensionless", "0.5 %"),
}

# Spellings that people write and that no registry may guess at.
_TRAPS = {
    "flops": "FLOPS is ambiguous: write FLOP (operations) or FLOP/s (a rate)",
    "eur": "prices are in USD: convert EUR first",
    "gbp": "prices are in USD: convert GBP first",
}


class UnitError(ValueError):
    """A text that is no quantity, or a quantity of the wrong dimension. The message is one clear line."""


def quantity(text: Any, dimension: str) -> Quantity:
    """Parse `text` (for example "500 ms") and check that it has the named dimension (a key of DIMENSIONS).

    A bare number is accepted only for "fraction". Raises UnitError with the expectation and an example.
    """
    unit, example = DIMENSIONS[dimension]
    value: Quantity = text if isinstance(text, Quantity) else _parse(text, dimension, example)
    if not value.is_compatible_with(unit):
        raise UnitError(f'"{text}" is {_describe(value)}, expected {dimension} such as "{example}"')
    if not np.all(np.isfinite(value.magnitude)):
        raise UnitError(f'"{text}" is not finite, expected {dimension} such as "{example}"')
    return value


def _parse(text: Any, dimension: str, example: str) -> Quantity:
    if isinstance(text, bool) or text is None:
        raise UnitError(f'{str(text).lower()} is not a quantity, expected {dimension} such as "{example}"')
    if isinstance(text, (int, float)):
        if dimension != "fraction":
            raise UnitError(f'bare number {text}: expected {dimension} with a unit, such as "{example}"')
        return Q(float(text), "dimensionless")
    if not isinstance(text, str) or not text.strip() or len(text) > 80:
        raise UnitError(f'{str(text)[:40]!r} is not a quantity, expected {dimension} such as "{example}"')
    words = re.findall(r"[A-Za-zµ_]+", re.sub(r"(?<=\d)[eE][+-]?\d+", "", text))
    for word in words:
        for trap, message in _TRAPS.items():
            if word.lower().endswith(trap) and word.isupper():
                raise UnitError(f'"{text}": {message}')
    # one number, then only a unit: "1,5 ms", "1 000 ms" and "9^9^9 s" would otherwise be read as something
    if (
        not re.match(r"^\s*[+-]?(\d[\d_]*\.?\d*|\.\d+)([eE][+-]?\d+)?\s*([/A-Za-zµ%]([^0-9,^]|(?<=[A-Za-z])\d)*)?$", text)
        or "**" in text
    ):
        raise UnitError(f'"{text}" is not a number and a unit, expected {dimension} such as "{example}"')
    try:
        value = _read(text)
    except pint.UndefinedUnitError as error:
        name = str(error.unit_names if isinstance(error.unit_names, str) else error.unit_names[0])
        raise UnitError(f'"{text}": unknown unit {name!r}{_nearest(name)}; expected {dimension} such as "{example}"') from None
    except Exception:
        raise UnitError(f'"{text}" is not a quantity, expected {dimension} such as "{example}"') from None
    if isinstance(value.magnitude, str) or (value.unitless and dimension != "fraction"):
        raise UnitError(f'bare number {text}: expected {dimension} with a unit, such as "{example}"')
    return Q(float(value.magnitude), value.units)


@functools.lru_cache(4096)
def _read(text: str) -> Quantity:
    """What pint makes of a text. An explanation reads a question hundreds of times, each time with a clause or two moved."""
    value: Quantity = Q(text)
    return value


def _nearest(name: str) -> str:
    known = ["ms", "s", "min", "h", "day", "month", "year", "W", "kW", "MW", "kWh", "MWh", "USD", "gCO2e", "kgCO2e", "tCO2e",
             "GB", "GiB", "TB", "Gbps", "FLOP", "TFLOP", "token", "L", "km"]  # fmt: skip
    near = nearest(name, known)
    return f" (did you mean {near!r}?)" if near else ""


def _describe(value: Quantity) -> str:
    for name, (unit, _) in DIMENSIONS.items():
        if value.is_compatible_with(unit):
            return (
                f"{'an' if name[0] in 'aeio' else 'a'} {name}" if name in ("rate", "distance", "bandwidth", "fraction") else name
            )
    return f"{value.dimensionality}"


def magnitudes(values: Iterable[Quantity], unit: Any) -> np.ndarray:
    """The bare numbers of `values` in `unit`, as an array; those that are in it already, as most are, are not converted.

    Raises pint.DimensionalityError when one has another dimension."""
    return np.array([value.magnitude if value.units == unit else value.m_as(unit) for value in values])
