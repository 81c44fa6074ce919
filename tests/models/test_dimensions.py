"""The one check at every function's entry: right and clear."""

import numpy as np
import pytest

from models.dimensions import ImpossibleValue, UnknownValue, dimensions, known, require
from zoo.units import Q, UnitError


@dimensions("s", traffic="byte", bandwidth="byte/s", share="")
def move(traffic, bandwidth, share):
    assert isinstance(share, (float, np.ndarray))
    return traffic / (bandwidth * share)


@dimensions("", parts="byte", whole="byte")
def fraction(whole, *parts):
    return sum(parts[1:], parts[0]) / whole


def test_any_unit_of_the_dimension_will_do_and_the_result_has_one_unit():
    for traffic in (Q(1.0, "GB"), Q(1000, "MB"), Q(8, "Gb")):
        assert move(traffic, Q(1, "GB/s"), Q(50, "percent")) == Q(2.0, "s")
    assert fraction(Q(1.0, "GB"), Q(100.0, "MB"), Q(150.0, "MB")) == 0.25
    assert isinstance(fraction(Q(1.0, "GB"), Q(100.0, "MB")), float)


def test_whole_numbers_and_arrays_become_floats():
    assert move(Q(np.array([1, 2]), "byte"), Q(2, "byte/s"), 1).m_as("s").tolist() == [0.5, 1.0]
    assert move(Q(1.0, "byte"), Q(1.0, "byte/s"), np.array([1, 2])).m_as("s").tolist() == [1.0, 0.5]


def test_messages_name_function_argument_value_and_expectation():
    with pytest.raises(UnitError, match=r"^move: bandwidth is in s, expected B / s$"):
        move(Q(1.0, "byte"), Q(1.0, "s"), 1.0)
    with pytest.raises(UnitError, match=r"^move: traffic is a bare number \(1.0\), expected B$"):
        move(1.0, Q(1.0, "byte/s"), 1.0)
    with pytest.raises(UnitError, match=r"^move: share is in B, expected a bare number$"):
        move(Q(1.0, "byte"), Q(1.0, "byte/s"), Q(1.0, "byte"))
    with pytest.raises(UnknownValue, match="traffic is unknown"):
        move(None, Q(1.0, "byte/s"), 1.0)
    with pytest.raises(UnitError, match="parts"):
        fraction(Q(1.0, "byte"), Q(1.0, "byte"), Q(1.0, "s"))


def test_keywords_are_checked_and_python_still_counts_arguments():
    with pytest.raises(UnitError, match="share"):
        move(Q(1.0, "byte"), bandwidth=Q(1.0, "byte/s"), share=Q(1.0, "s"))
    with pytest.raises(TypeError):
        move(Q(1.0, "byte"), Q(1.0, "byte/s"), 1.0, 2.0)
    with pytest.raises(TypeError):
        move(Q(1.0, "byte"))


def test_a_unit_for_an_argument_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="speed"):
        dimensions("s", speed="m/s")(lambda distance: distance)


def test_require_and_known():
    require(np.array([True, True]), "never")
    with pytest.raises(ImpossibleValue, match="one of them"):
        require(np.array([True, False]), "one of them")
    assert known(0.0, "zero") == 0.0
    with pytest.raises(UnknownValue, match="the price"):
        known(None, "the price")
