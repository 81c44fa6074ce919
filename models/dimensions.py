"""How every function of this floor checks what it is given.

`@dimensions("s", operations="flop", peak="flop/s", efficiency="")` says: the result is a time, `operations`
must be a quantity in FLOP (or anything that converts to it), `peak` one in FLOP/s, and `efficiency` is
dimensionless: a bare number, an array of them, or a dimensionless quantity such as 40 %. The function then sees
dimensionless arguments as bare floats or float arrays, and everything else as quantities whose magnitudes may be
arrays. Arguments that are not named (a specification, a topology's name) are passed through.

A wrong dimension is a `UnitError`, None is an `UnknownValue`: an unknown number is never replaced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from zoo.units import Quantity, UnitError, ureg

_DIMENSIONLESS = ureg.Unit("dimensionless")
Number = float | NDArray[Any]  # dimensionless: one number, or an array of them

P = ParamSpec("P")
R = TypeVar("R")


class UnknownValue(ValueError):
    """A number that is needed and not known. Nothing is put in its place."""


class ImpossibleValue(ValueError):
    """A number that no machine, workload or price can have: an efficiency above one, half a rank, a negative time."""


def require(condition: Any, message: str, *values: Any) -> None:
    """Raise ImpossibleValue unless `condition` holds for every element.

    `message` gets its `values` only then: printing a large array takes longer than checking it.
    """
    if not (condition if isinstance(condition, bool) else bool(np.all(condition))):
        raise ImpossibleValue(message.format(*values))


def known(value: Any, name: str) -> Any:
    """`value`, or UnknownValue saying that `name` is not known."""
    if value is None:
        raise UnknownValue(f"{name} is unknown, and nothing may be assumed for it")
    return value


def dimensions(returns: str | None = None, /, **arguments: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Check arguments against units on entry, and bring the result to the unit `returns` ("" gives a bare number).

    `returns` is None for functions that return a record. The units stand in `function.dimensions` for tests and docs.
    """
    expected = {name: _unit(unit) for name, unit in arguments.items()}
    unit = None if returns is None else _unit(returns)[0]

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = list(inspect.signature(function).parameters.values())
        missing = set(arguments) - {parameter.name for parameter in parameters}
        if missing:
            raise TypeError(f"{function.__name__} has no argument {sorted(missing)}")
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")

        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            positional = [
                _checked(function.__name__, name, value, expected.get(name))
                for value, name in zip(args, names + [rest] * (len(args) - len(names)), strict=False)
            ]
            named = {name: _checked(function.__name__, name, value, expected.get(name)) for name, value in kwargs.items()}
            if len(positional) < len(args):  # too many arguments: let Python say so
                return function(*args, **kwargs)
            result = function(*positional, **named)
            return result if unit is None else _in_unit(result, unit)

        checked.dimensions = dict(arguments, **({} if returns is None else {"return": returns}))  # type: ignore[attr-defined]
        return checked

    return decorate


@cache
def _unit(text: str) -> tuple[Any, Any]:
    """A unit and its dimensionality."""
    unit = ureg.Unit(text)
    return unit, unit.dimensionality


def _checked(function: str, name: str, value: Any, expectation: tuple[Any, Any] | None) -> Any:
    if expectation is None:
        return value
    unit, dimensionality = expectation
    if value is None:
        raise UnknownValue(f"{function}: {name} is unknown, and nothing may be assumed for it")
    if isinstance(value, Quantity):
        if value.dimensionality != dimensionality:
            given = value.units if value.dimensionality else "a bare number"
            raise UnitError(f"{function}: {name} is in {given}, expected {unit if dimensionality else 'a bare number'}")
        if not dimensionality:
            value = value.m_as(_DIMENSIONLESS)
            return value if _is_float(value) else _float(value)
        magnitude = value.magnitude
        return value if _is_float(magnitude) else ureg.Quantity(_float(magnitude), value.units)
    if isinstance(value, (str, bool)):
        raise UnitError(f"{function}: {name} is {value!r}, expected {unit if dimensionality else 'a bare number'}")
    if dimensionality:
        raise UnitError(f"{function}: {name} is a bare number ({value}), expected {unit}")
    return value if _is_float(value) else _float(value)


def _is_float(magnitude: Any) -> bool:
    """Whether `_float` would change nothing: making quantities anew takes longer than most equations."""
    return isinstance(magnitude, float) or (isinstance(magnitude, np.ndarray) and magnitude.dtype == float and magnitude.ndim > 0)


def _float(magnitude: Any) -> Any:
    array = np.asarray(magnitude, dtype=float)
    return array if array.ndim else float(array)


def _in_unit(result: Any, unit: Any) -> Any:
    bare = not isinstance(result, Quantity)
    magnitude = result if bare else result.magnitude
    if (_DIMENSIONLESS if bare else result.units) == unit and _is_float(magnitude) and not isinstance(magnitude, np.generic):
        return magnitude if unit == _DIMENSIONLESS else result
    if bare:
        result = ureg.Quantity(result, _DIMENSIONLESS)
    magnitude = result.m_as(unit)
    if (isinstance(magnitude, np.ndarray) and not magnitude.ndim) or isinstance(magnitude, np.generic):
        magnitude = magnitude.item()
    return magnitude if unit.dimensionless else ureg.Quantity(magnitude, unit)
