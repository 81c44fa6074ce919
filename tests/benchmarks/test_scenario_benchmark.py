"""How fast scenarios are: one three-level evaluation, and a million candidates at once, each beside mlsysim 0.3.0.

mlsysim runs in the same test run, in an environment of its own: the one whose folder the variable WALLPLAN_MLSYSIM names,
else one that is made on first use (python -m venv, pip install mlsysim==0.3.0). Without either, the comparison is skipped.

    pytest tests/benchmarks/test_scenario_benchmark.py --benchmark-only -s

`ratio` in the report is our time over its time: below 1 we are faster.
"""

import json

import numpy as np
import pytest
from peers import environment, output

from models import Ownership, Scenario, Sharing, Training, distributed, scaling
from zoo.catalog import load
from zoo.specs import Fleet, Node
from zoo.units import Q

VERSION = "0.3.0"
CANDIDATES = 1_000_000
LOOPED = 1_000  # candidates that mlsysim, which takes one at a time, is timed on

# What mlsysim is asked: its three-level evaluation, then every other wall's solver that a training run touches, then the
# training step of many layouts. Prints seconds, the least of several repetitions.
RIVAL = """
import json, random, sys, timeit
import mlsysim
from mlsysim import Models, Scenario, Systems
from mlsysim.core.units import Q_
from mlsysim.engine import solvers as s

fleet, model = Systems.Clusters.Training_512_H100, Models.Language.Llama3_8B
chip = fleet.node.accelerator
scenario = Scenario(name="run", description="", workload=model, system=fleet)

def evaluate():
    scenario.evaluate(batch_size=1024, precision="fp16")

def every_wall():
    evaluate()
    s.SingleNodeModel().solve(model, chip, batch_size=2)
    s.EfficiencyModel().solve(model, chip)
    s.TransformationModel().solve(1024, Q_("16 kB"), Q_("10 GB/s"), Q_("1 s"))
    s.TopologyModel().solve(fleet.fabric, num_nodes=64)
    s.ScalingModel().solve(Q_("1e22 flop"))
    s.CompressionModel().solve(model, chip, target_bitwidth=8)
    s.ReliabilityModel().solve(fleet, 100.0)
    s.OrchestrationModel().solve(fleet, 2.4, 0.0833)
    s.SustainabilityModel().solve(fleet, 30)
    s.CheckpointModel().solve(model, chip, n_writers=64)
    s.ResponsibleEngineeringModel().solve(Q_("10 day"))
    s.SensitivitySolver().solve(model, chip)
    s.SynthesisSolver().solve(model, Q_("100 ms"))

random.seed(1)
layouts = [(random.choice((1, 2, 4, 8)), random.choice((1, 2, 4)), random.choice((1, 2, 4, 8)), 4096) for _ in range(LOOPED)]

def steps():
    solver = s.DistributedModel()
    for tensor, pipeline, microbatches, batch in layouts:
        degrees = dict(tp_size=tensor, pp_size=pipeline, microbatch_count=microbatches)
        solver.solve(model, fleet, batch_size=batch, seq_len=4096, **degrees)

def least(function, number, repeat=5):
    function()
    return min(timeit.repeat(function, number=number, repeat=repeat)) / number

seconds = {"evaluate": least(evaluate, 20), "every_wall": least(every_wall, 20), "step": least(steps, 1, 3) / len(layouts)}
print(json.dumps(seconds))
"""


@pytest.fixture(scope="module")
def rival():
    """Seconds that mlsysim takes: `evaluate`, `every_wall`, and `step` of one layout."""
    python = environment("WALLPLAN_MLSYSIM", mlsysim=VERSION)
    return json.loads(output(python, RIVAL.replace("LOOPED", str(LOOPED))).splitlines()[-1])


@pytest.fixture(scope="module")
def fleet():
    catalog = load()
    node = Node("8 x H100", catalog.find("chips", "h100-sxm"), 8, catalog.find("fabrics", "nvlink4"))
    return Fleet("512 H100", node, 64, catalog.find("fabrics", "infiniband-ndr"))


@pytest.fixture(scope="module")
def run(fleet):
    """A training run that touches as many walls as there are."""
    catalog = load()
    question = Training(
        precision="bf16", optimizer="adamw", tokens=Q(1e12, "token"), batch_tokens=Q(2.0**22, "token"),
        sequence_length=Q(4096.0, "token"), tensor_parallel=8, pipeline_parallel=1, microbatches=8, compute_efficiency=0.5,
        accelerator_mtbf=Q(50676.0, "h"), restart_time=Q(10.0, "min"), writer_bandwidth=Q(5.0, "GB/s"),
        storage_bandwidth=Q(100.0, "GB/s"), bytes_per_token=Q(4.0, "byte/token"), cores=64, core_throughput=Q(10.0, "MB/s"),
    )  # fmt: skip
    own = Ownership(
        life=Q(4.0, "yr"), residual=0.1, maintenance_rate=Q(0.05, "1/yr"), utilisation=0.8, idle_fraction=0.13,
        grid_water=Q(0.0, "L/Wh"),
    )  # fmt: skip
    return Scenario(
        name="run", workload=catalog.find("models", "llama-3.1-8b"), fleet=fleet,
        region=catalog.find("regions", "aws/eu-north-1"), horizon=Q(30.0, "day"), question=question, ownership=own,
        sharing=Sharing(arrival_rate=Q(0.1, "1/h"), job_time=Q(2.0, "h"), cs2=0.0),
    )  # fmt: skip


def report(benchmark, name, ours, theirs):
    benchmark.extra_info |= {"mlsysim_seconds": theirs, "ratio": ours / theirs}
    print(f"\n{name}: {ours:.4g} s, mlsysim {VERSION} {theirs:.4g} s, ratio {ours / theirs:.3g}")


def test_one_evaluation_of_all_walls(benchmark, run, rival):
    """22 walls on three levels, with sensitivity of the whole composition and exact synthesis, beside mlsysim's solvers of the
    same walls one after the other."""
    evaluation = benchmark(run.evaluate)
    assert evaluation.feasible and evaluation.level == 3
    report(benchmark, "22 walls, three levels", benchmark.stats.stats.min, rival["every_wall"])


def test_fit_speed_cost_and_carbon(benchmark, run, rival):
    """What mlsysim's own three-level evaluation reads (whether it fits, the step, cost and carbon), without analysis."""

    def evaluate():
        return run.output("time"), run.output("cost"), run.output("carbon")

    benchmark(evaluate)
    report(benchmark, "fit, step, cost and carbon", benchmark.stats.stats.min, rival["evaluate"])


def test_a_million_training_steps_at_once(benchmark, fleet, rival):
    """Step time of a million layouts in one call, beside as many calls of mlsysim (timed on a thousand)."""
    random = np.random.default_rng(1)
    tensor, pipeline = random.choice((1.0, 2.0, 4.0, 8.0), CANDIDATES), random.choice((1.0, 2.0, 4.0), CANDIDATES)
    microbatches = random.choice((1.0, 2.0, 4.0, 8.0), CANDIDATES)
    scaled = scaling(Q(6 * 8e9 * 1e12, "flop"), 125, "epoch")

    def steps():
        return distributed(
            scaled, fleet, "bf16", 0.5, Q(4096 * 4096.0, "token"), tensor, pipeline, microbatches, 32, 4096,
            sequence_length=Q(4096.0, "token"),
        ).step_time  # fmt: skip

    found = benchmark.pedantic(steps, rounds=3, warmup_rounds=1)
    assert found.magnitude.shape == (CANDIDATES,) and np.all(found.magnitude > 0)
    report(benchmark, "a million training steps", benchmark.stats.stats.min, rival["step"] * CANDIDATES)


def test_a_million_scenarios_at_once(benchmark, run, rival):
    """Time, cost and carbon of a million hardware specifications of the whole scenario."""
    random = np.random.default_rng(1)
    factors = {name: random.uniform(0.5, 2.0, CANDIDATES) for name in ("peak", "link_bandwidth", "network_bandwidth", "price")}

    def scenarios():
        changed = run.scaled(factors)
        return changed.output("time"), changed.output("cost"), changed.output("carbon")

    time, cost, carbon = benchmark.pedantic(scenarios, rounds=3, warmup_rounds=1)
    assert time.magnitude.shape == cost.magnitude.shape == (CANDIDATES,) and carbon.magnitude.shape == (CANDIDATES,)
    report(benchmark, "a million scenarios", benchmark.stats.stats.min, rival["evaluate"] * CANDIDATES)
