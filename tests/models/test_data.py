"""Walls 8 to 10 against pencil and a counting of cut links."""

import itertools

import numpy as np
import pytest

from models import data
from models.dimensions import ImpossibleValue, UnknownValue
from zoo.units import Q

LINK = Q(50.0, "GB/s")

# ---------------------------------------------------------------------------------------------------- walls 8 and 9


def test_demand_follows_from_throughput():
    assert data.ingestion_demand(Q(50000.0, "1/s"), Q(110.0, "kB")).m_as("GB/s") == pytest.approx(5.5)


def test_file_system_caps_its_clients():
    supply = data.storage_supply(np.array([1.0, 4.0, 100.0]), Q(10.0, "GB/s"), Q(100.0, "GB/s")).m_as("GB/s")
    assert list(supply) == pytest.approx([10.0, 40.0, 100.0])


def test_preprocessing_starves_accelerators():
    slow = data.transformation_time(256, Q(0.1, "MB"), 8, Q(20.0, "MB/s"))
    assert slow.m_as("s") == pytest.approx(0.16)
    assert data.fed_fraction(Q(0.08, "s"), slow) == pytest.approx(0.5)
    assert data.fed_fraction(Q(0.2, "s"), slow) == 1.0


def test_twice_the_cores_take_half_the_time():
    one, two = (data.transformation_time(256, Q(0.1, "MB"), cores, Q(20.0, "MB/s")) for cores in (8, 16))
    assert one == 2 * two


# ----------------------------------------------------------------------------------------------------------- wall 10


def cut_links(extent, dimensions):
    """Links between the two halves of a torus (or ring), split across its last dimension, counted one by one."""
    half = extent // 2
    links = set()
    for position in itertools.product(range(extent), repeat=dimensions):
        for axis in range(dimensions):
            neighbour = list(position)
            neighbour[axis] = (neighbour[axis] + 1) % extent
            if (position[-1] < half) != (neighbour[-1] < half):
                links.add(frozenset([(position, axis), (tuple(neighbour), axis)]))
    return len(links)


@pytest.mark.parametrize(
    ("name", "dimensions", "extents"), [("ring", 1, (4, 8, 64)), ("torus-2d", 2, (4, 8)), ("torus-3d", 3, (4, 8))]
)
def test_bisection_of_rings_and_tori_equals_the_links_cut(name, dimensions, extents):
    for extent in extents:
        endpoints = extent**dimensions
        bisection = data.bisection_bandwidth(LINK, name, endpoints, 1.0) / LINK
        assert bisection.m_as("") == pytest.approx(cut_links(extent, dimensions))


def test_balanced_dragonfly_cuts_its_global_links():
    """p = 2: 8 endpoints per group, 9 groups, one link between any two: 4 x 5 of 36 are cut by the most even split."""
    bisection = (data.bisection_bandwidth(LINK, "dragonfly", 72, 1.0) / LINK).m_as("")
    assert bisection == pytest.approx(81 / 4)  # g^2 / 4, where an odd g splits 4 to 5 and cuts 20


@pytest.mark.parametrize("name", data._TOPOLOGIES)
def test_fraction_lies_between_nothing_and_the_whole_link(name):
    for endpoints in (1, 2, 3, 5, 7, 8, 100, 10**6):
        assert 0 < data.bisection_fraction(name, endpoints) <= 1


def test_fewer_than_one_endpoint_and_an_oversubscription_below_one_are_impossible():
    with pytest.raises(ImpossibleValue):
        data.bisection_fraction("ring", 0)
    with pytest.raises(ImpossibleValue):
        data.effective_bandwidth(LINK, "ring", 4, 0.5)


def test_arrays_equal_scalars():
    sizes = np.array([2.0, 16.0, 1024.0])
    for name in data._TOPOLOGIES:
        assert list(data.bisection_fraction(name, sizes)) == [data.bisection_fraction(name, n) for n in sizes]


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_demand_is_an_input():
    """Twice the throughput reads twice as much; nobody has to work that out beforehand."""
    ratio = [data.ingestion_ratio(data.ingestion_demand(Q(t, "1/s"), Q(1.0, "MB")), Q(1.0, "GB/s")) for t in (500.0, 1000.0)]
    assert ratio == pytest.approx([0.5, 1.0])


def test_fault_storage_without_a_path_is_infinitely_stalled():
    with pytest.raises(UnknownValue):
        data.ingestion_ratio(Q(1.0, "GB/s"), None)  # type: ignore[arg-type]


def test_fault_ring_and_torus_bisection_is_half_the_physical():
    assert data.bisection_fraction("ring", 16) == pytest.approx(4 / 16)
    assert data.bisection_fraction("torus-3d", 4096) == pytest.approx(4 / 16)


def test_fault_small_torus_exceeds_its_links():
    assert data.bisection_fraction("torus-3d", 7) == 1.0


def test_fault_unknown_topology_is_treated_as_non_blocking():
    for unknown in ("fat_tree", "hypercube", "mesh", ""):
        with pytest.raises(UnknownValue, match="fat-tree"):
            data.bisection_fraction(unknown, 64)
