"""A wall, a chip and a workload from a user's own files, without a change to the package; and CONTRIBUTING.md as it stands."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The guide's YAML as a zoo file, and its Python for workload and wall as a user's module."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_zoo.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    (folder / "my_walls.py").write_text("\n".join(blocks("python")[:2]), encoding="utf-8")
    specification = importlib.util.spec_from_file_location("my_walls", folder / "my_walls.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return folder, module


def scenario(mine, workload):
    from dataclasses import replace

    from planner.scenario import load
    from zoo.units import Q

    folder, module = mine
    (folder / "scenario.yaml").write_text(
        """
schema: wallplan/v1
kind: scenario
workload: resnet-50
zoo: [my_zoo.yaml]
fleet: {chip: mychip, per_node: 8, nodes: 1}
region: mine/oslo
horizon: 30 day
process: {precision: bf16, batch: 8, rate: 100/s, latency: {p99: 2 s}}
""",
        encoding="utf-8",
    )
    loaded = load(folder / "scenario.yaml").scenario
    assert loaded.fleet.node.accelerator.memory_bandwidth == Q(4.0, "TB/s")
    return replace(loaded, workload=workload, walls=(module.cooling,))


def test_wall_chip_and_workload_from_a_users_files(mine):
    """One evaluation reads them all: the user's chip, the user's workload, and a twenty-third wall."""
    evaluation = scenario(mine, mine[1].rag).evaluate()
    assert evaluation.feasible and {found.wall for level in evaluation.readings.values() for found in level} == set(range(1, 24))
    cooling = evaluation.wall(23)
    assert cooling.demand.m_as("kW") == pytest.approx(5.6) and cooling.headroom == pytest.approx(1 - 5.6 / 40)
    assert "token" in evaluation.wall(4).scope


def test_solvers_take_the_new_workload_without_modification(mine):
    import numpy as np

    from models import Software, single_node
    from zoo.catalog import load
    from zoo.units import Q

    _, module = mine
    chip = load([mine[0] / "my_zoo.yaml"]).find("chips", "mychip")
    software = Software(0.7, 0.8, 3.0, Q(0.0, "s"))
    batches = np.array([1.0, 8.0, 64.0])
    searched, plain = (single_node(w, chip, "bf16", batches, software) for w in (module.rag, module.rag.generator))
    assert np.all(searched.time > plain.time) and np.all(searched.weight_bytes == plain.weight_bytes)


def test_a_users_wall_that_fails_ends_the_evaluation(mine):
    from dataclasses import replace

    from zoo.units import Q

    hot = replace(mine[1].cooling, read=lambda _: (Q(50.0, "kW"), Q(40.0, "kW")))
    evaluation = replace(scenario(mine, mine[1].rag), walls=(hot,)).evaluate()
    assert not evaluation.feasible and evaluation.level == 1 and [found.name for found in evaluation.violated] == ["Cooling"]


def test_the_example_of_a_constraint_is_valid(mine):
    """One row, over every unit of every column."""
    from planner.market import Column, Index, Market, Segment

    names = {}
    exec(compile(blocks("python")[2], str(GUIDE), "exec"), names)
    column = Column("a", None, 0, (0,), 1, {"power": 700}, "m")
    index = Index()
    index.segments.append((Segment(0, None, 5, index.add("units a", None), None),))
    market = Market((column,), ("all",), (1,), (), True, (1,))
    (row,) = names["wall_18_power"](market, index)
    assert row.terms == ((0, 700),) and row.bound == 1_000_000


def test_the_package_is_not_touched(mine):
    """The user's kinds live in the user's process alone: a fresh one knows 22 walls and no such workload."""
    code = "from models import lower, walls; print(len(walls), [c.__name__ for c in lower.registry])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=GUIDE.parent).stdout
    assert shown.startswith("22 ") and "RetrievalAugmented" not in shown
