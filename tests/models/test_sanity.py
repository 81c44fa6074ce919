"""Physical sanity over whole compositions: more hardware never hurts, batches pay, parts sum, wrong dimensions do not pass."""

import dataclasses
import doctest
import importlib
import inspect
import math
import pkgutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from models import Processing, Scenario, Service, Software, Training, lower, scenario, single_node, solvers
from models.dimensions import ImpossibleValue, UnknownValue
from zoo.specs import Generic
from zoo.units import Q, UnitError

WORKLOADS = {
    "cnn": Generic("cnn", "cnn", 25e6, "image", Q(8.0, "GFLOP"), traffic_per_unit=Q(30.0, "MB")),
    "diffusion": Generic("diffusion", "diffusion", 2e9, "image", Q(300.0, "TFLOP"), steps_per_unit=50),
    "ssm": Generic("ssm", "ssm", 3e9, "token", Q(6.0, "GFLOP"), state_elements=10**7),
    "recommendation": Generic("dlrm", "recommendation", 25e9, "sample", Q(0.05, "GFLOP"), traffic_per_unit=Q(20.0, "kB")),
    "encoder": Generic("bert", "encoder", 1e8, "sequence", Q(22.0, "GFLOP")),
}
SOFTWARE = Software(0.7, 0.8, 3.0, Q(1.0, "ms"))


def tokens(value):
    return Q(float(value), "token")


@pytest.fixture(scope="module")
def own():
    return models.Ownership(
        life=Q(4.0, "yr"), residual=0.1, maintenance_rate=Q(0.05, "1/yr"), utilisation=0.8, idle_fraction=0.13,
        grid_water=Q(0.5, "L/kWh"), surroundings=Q(10000.0, "USD"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def asked(llama8b, mixtral, deepseek_v3, cluster, quebec, own):
    """Scenarios of every question, on several kinds of workload."""

    def make(workload, question):
        return Scenario(
            name="s", workload=workload, fleet=cluster, region=quebec, horizon=Q(60.0, "day"), question=question, ownership=own
        )

    def service(**changes):
        kept = {
            "precision": "bf16",
            "kv_precision": "bf16",
            "tensor_parallel": 2,
            "batch": 16,
            "arrival_rate": Q(50.0, "1/s"),
            "prompt": tokens(1000),
            "output": tokens(200),
            "percentile": 0.99,
            "token_limit": Q(60.0, "ms"),
        }
        return Service(**{**kept, **changes})

    def training(**changes):
        kept = {
            "precision": "bf16",
            "optimizer": "adamw",
            "tokens": tokens(1e12),
            "batch_tokens": tokens(2**22),
            "sequence_length": tokens(4096),
            "tensor_parallel": 4,
            "pipeline_parallel": 2,
            "microbatches": 8,
            "compute_efficiency": 0.5,
            "accelerator_mtbf": Q(50676.0, "h"),
            "restart_time": Q(10.0, "min"),
            "writer_bandwidth": Q(5.0, "GB/s"),
            "storage_bandwidth": Q(100.0, "GB/s"),
            "bytes_per_token": Q(4.0, "byte/token"),
            "cores": 64,
            "core_throughput": Q(10.0, "MB/s"),
        }
        return Training(**{**kept, **changes})

    batch = Processing(precision="bf16", batch=32, unit_rate=Q(10.0, "1/s"), latency_limit=Q(120.0, "s"))
    return {
        "dense service": make(llama8b, service()),
        "experts' service": make(mixtral, service(tensor_parallel=4)),
        "latent service over nodes": make(deepseek_v3, service(precision="fp8", tensor_parallel=16)),
        "dense training": make(llama8b, training()),
        "experts' training": make(mixtral, training(expert_parallel=8, zero_stage=3, recompute=1.0)),
        **{name: make(workload, batch) for name, workload in WORKLOADS.items()},
    }


NAMES = ("dense service", "experts' service", "latent service over nodes", "dense training", "experts' training", *WORKLOADS)


@pytest.mark.parametrize("name", NAMES)
def test_more_hardware_never_makes_anything_slower_or_dearer(asked, name):
    question = asked[name]
    factors = np.geomspace(0.25, 16.0, 25)
    for knob in scenario.HARDWARE:
        for of in ("time", "cost", "carbon"):
            found = np.broadcast_to(question.scaled({knob: factors}).output(of).magnitude, factors.shape)
            finite = found[np.isfinite(found)]
            assert np.all(np.isinf(found[: len(found) - len(finite)]))  # too little memory comes first, if at all
            assert np.all(np.diff(finite) <= 1e-12 * finite[:-1]), (knob, of)


@pytest.mark.parametrize("name", NAMES)
def test_prices_and_intensities_never_make_anything_cheaper_or_cleaner(asked, name):
    question, factors = asked[name], np.array([0.5, 1.0, 2.0, 4.0])
    for knob, of in (("price", "cost"), ("electricity_price", "cost"), ("tdp", "carbon"), ("carbon_intensity", "carbon")):
        found = question.scaled({knob: factors}).output(of).magnitude
        assert np.all(np.diff(found) > 0)


@pytest.mark.parametrize("name", NAMES)
def test_an_array_of_scenarios_is_each_scenario(asked, name):
    question, factors = asked[name], np.array([0.5, 1.0, 3.0])
    together = question.scaled({"peak": factors, "memory_bandwidth": factors[::-1]}).output("time").m_as("s")
    for i, (one, other) in enumerate(zip(factors, factors[::-1], strict=True)):
        alone = question.scaled({"peak": float(one), "memory_bandwidth": float(other)}).output("time").m_as("s")
        assert together[i] == pytest.approx(np.asarray(alone).item(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_synthesised_hardware_meets_the_limit_exactly_and_no_less_does(asked, name):
    question = asked[name]
    limit, of = scenario._answer(question).target
    for knob, needed in question.synthesis().items():
        if needed is None or not needed.magnitude:
            continue
        there = question.given(knob)
        there = there["fp8" if "latent" in name else "bf16"] if knob == "peak" else there
        factor = (needed / there).m_as("")
        assert question.scaled({knob: factor}).output(of) <= limit * (1 + 1e-12)
        assert question.scaled({knob: factor * (1 - 1e-9)}).output(of) > limit
        if knob != "memory":
            assert question.scaled({knob: factor}).output(of).m_as("s") == pytest.approx(limit.m_as("s"), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WORKLOADS)), st.floats(1, 1e5), st.sampled_from(["bf16", "fp8"]))
def test_doubling_the_batch_never_more_than_doubles_the_time(h100, name, batch, precision):
    one, two = (single_node(WORKLOADS[name], h100, precision, size, SOFTWARE) for size in (batch, 2 * batch))
    assert one.time <= two.time <= 2 * one.time * (1 + 1e-12)
    assert two.throughput >= one.throughput * (1 - 1e-12)
    assert two.intensity >= one.intensity * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 512), st.integers(1, 100_000))
def test_doubling_a_decode_batch_never_more_than_doubles_the_step(llama8b, mixtral, deepseek_v3, h100, batch, context):
    for model in (llama8b, mixtral, deepseek_v3):
        one, two = (
            solvers.serving(model, h100, "bf16", "bf16", size, tokens(10), tokens(context), SOFTWARE).inter_token_time
            for size in (batch, 2 * batch)
        )
        assert one <= two <= 2 * one


@pytest.mark.parametrize("name", NAMES)
def test_energy_is_power_times_time_and_cost_the_sum_of_its_parts(asked, name, cluster, quebec, own):
    answer = scenario._answer(asked[name])
    cost = answer.paid(answer.held(), 1.0)
    chip = cluster.node.accelerator
    power = 512 * chip.tdp * (0.13 + 0.87 * 0.8 + 0.451 / 0.549)
    assert cost.it_energy.m_as("Wh") == pytest.approx((power * Q(60.0, "day")).m_as("Wh"))
    assert cost.total.m_as("USD") == pytest.approx((cost.capital + cost.electricity + cost.maintenance).m_as("USD"))
    footprint = answer.emitted(cost)
    assert footprint.carbon == footprint.operational_carbon + footprint.embodied_carbon
    assert footprint.facility_energy.m_as("Wh") == pytest.approx(cost.it_energy.m_as("Wh") * 1.2)
    assert footprint.water.m_as("L") == pytest.approx(cost.it_energy.m_as("kWh") * (0.2 + 1.2 * 0.5))


@pytest.mark.parametrize("name", NAMES)
def test_elasticities_of_money_and_carbon_add_up(asked, name):
    """Cost is homogeneous in prices, carbon in intensity and embodied carbon, time in the speeds but for fixed costs."""
    cost = {e.name: e.up for e in asked[name].sensitivity("cost").elasticities}
    electricity, all_of_it = cost["electricity_price"], cost["price"] + cost["electricity_price"]
    assert cost["tdp"] == pytest.approx(electricity) and 0 < all_of_it < 1  # the rest is what surrounds the accelerators
    time = {e.name: e.up for e in asked[name].sensitivity("time").elasticities}
    assert -1 - 1e-9 <= sum(time.values()) <= 1e-9


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_every_kind_of_workload_lowers_at_every_precision(name, precision):
    demand = lower(WORKLOADS[name], precision, np.array([1.0, 10.0]))
    assert demand.unit == WORKLOADS[name].unit and np.all(demand.intensity.m_as("flop/byte") > 0)
    assert demand.operations.m_as("flop")[1] == pytest.approx(10 * demand.operations.m_as("flop")[0])


def test_every_transformer_lowers(llama8b, mixtral, deepseek_v3):
    for model in (llama8b, mixtral, deepseek_v3):
        one, many = (lower(model, "bf16", batch) for batch in (1.0, 4096.0))
        assert one.unit == "token" and many.intensity > one.intensity
        assert many.traffic.m_as("byte") <= many.weight_bytes.m_as("byte") + 4096 * 1e6


# ------------------------------------------------------------------------------------------- dimensions, everywhere


SOLVERS = [
    f for name, f in inspect.getmembers(solvers, inspect.isfunction) if f.__module__ == solvers.__name__ and name[0] != "_"
]


@pytest.fixture(scope="module")
def arguments(llama8b, h100, cluster, quebec):
    """A right value for every argument that any solver takes, by name."""
    scaled = solvers.scaling(Q(1e22, "flop"), 20.0, "epoch")
    run = solvers.distributed(scaled, cluster, "bf16", 0.5, tokens(2**22), 1, 1, 1, 32, 4096)
    cost = solvers.economics(run, cluster, quebec, 0.9, 0.8, 0.13, Q(4.0, "yr"), 0.1, Q(0.05, "1/yr"))
    found = {
        "workload": llama8b, "model": llama8b, "accelerator": h100, "cluster": cluster, "region": quebec, "scaled": scaled,
        "run": run, "cost": cost, "precision": "bf16", "kv_precision": "bf16", "baseline": "bf16", "optimizer": "adamw",
        "law": "epoch", "name": "fat-tree", "software": SOFTWARE, "output": lambda x: x["a"], "inputs": {"a": 1.0},
    }  # fmt: skip
    units = {
        "prompt": "token", "context": "token", "tokens": "token", "page": "token", "thought": "token", "batch_tokens": "token",
        "reserve": "byte", "bytes_per_sample": "byte", "sample_bytes": "byte", "injection_bandwidth": "TB/s",
        "client_bandwidth": "GB/s", "storage_bandwidth": "GB/s", "writer_bandwidth": "GB/s", "link_bandwidth": "GB/s",
        "core_throughput": "MB/s", "peak": "TFLOP/s", "arrival_rate": "1/h", "throughput": "1/s", "service_time": "s",
        "step_time": "s", "base_step_time": "s", "time_per_context_token": "s/token", "write_time": "s", "restart_time": "s",
        "interval": "s", "target": "s", "job_time": "min", "wait_limit": "h", "accelerator_mtbf": "h", "duration": "day",
        "life": "yr", "maintenance_rate": "1/yr", "operations": "flop", "operations_without": "flop", "grid_water": "L/Wh",
    }  # fmt: skip
    found |= {name: Q(1.0, unit) for name, unit in units.items()}
    numbers = dict.fromkeys(
        ("batch", "kernel", "fusion", "occupancy", "compute_efficiency", "clients", "cores", "endpoints", "oversubscription",
         "tokens_per_parameter", "samples", "single", "parameters", "tensor_parallel", "pipeline_parallel", "microbatches",
         "layers", "hidden", "accelerators", "goodput", "writers", "usable", "group_samples", "overhead", "steps", "servers"),
        1.0,
    )  # fmt: skip
    numbers |= {
        "probability": 0.99, "cs2": 0.0, "exponent": -0.2, "utilisation": 0.8, "idle_fraction": 0.1, "residual": 0.1,
        "epsilon": 3.0, "delta": 1e-5, "sampling_rate": 0.01, "prevalence": 0.1, "confidence": 0.9, "least": 1e-6, "step": 0.01,
    }  # fmt: skip
    return found | numbers | {"target": Q(1.0, "s"), "writers": 1.0}


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda f: f.__name__)
def test_no_wrong_dimension_passes_through_a_solver(solver, arguments):
    """Each quantity replaced by a bare number and by carbon: an error that names the dimension, never a result."""
    required = [p for p in inspect.signature(solver).parameters.values() if p.default is p.empty]
    right = {p.name: arguments[p.name] for p in required}
    if solver.__name__ not in ("sensitivity",):
        solver(**right)
    for parameter in required:
        if "Quantity" not in str(parameter.annotation):
            continue
        for wrong in (1.0, Q(1.0, "gCO2e")):
            with pytest.raises((UnitError, TypeError, ValueError, AttributeError)) as caught:
                solver(**{**right, parameter.name: wrong})
            assert not isinstance(caught.value, ImpossibleValue)
        with pytest.raises((UnknownValue, TypeError, AttributeError)):
            solver(**{**right, parameter.name: None})


def test_scenarios_refuse_inputs_and_outputs_that_do_not_exist(asked):
    with pytest.raises(ImpossibleValue, match="speed is no input"):
        asked["dense service"].scaled({"speed": 2.0})
    with pytest.raises(ImpossibleValue, match="joy"):
        asked["dense service"].output("joy")
    with pytest.raises(ImpossibleValue, match="no end"):
        asked["dense service"].output("duration")
    wrong = dataclasses.replace(asked["dense service"], workload=WORKLOADS["cnn"])
    with pytest.raises(ImpossibleValue, match="Processing"):
        wrong.evaluate()


def test_evaluations_of_every_question_read_all_walls(asked):
    for name, question in asked.items():
        evaluation = question.evaluate()
        assert evaluation.feasible, (name, evaluation.violated)
        found = [reading for level in evaluation.readings.values() for reading in level]
        assert {reading.wall for reading in found} == set(range(1, 23))
        for reading in found:
            assert (reading.headroom is not None and not math.isnan(reading.headroom)) or reading.note, (name, reading)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(models.__path__) if not m.name.startswith("training")])
def test_examples_in_docstrings_run(module):
    outcome = doctest.testmod(importlib.import_module(f"models.{module}"))
    assert outcome.failed == 0


def test_examples_of_the_package_run():
    outcome = doctest.testmod(models)
    assert outcome.attempted >= 4 and outcome.failed == 0
