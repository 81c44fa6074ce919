"""The three-level evaluation: levels in order, ended by the first violated wall, every wall read."""

import dataclasses

import pytest

from models import questions, scenario
from zoo.units import Q


def tokens(value):
    return Q(value, "token")


@pytest.fixture(scope="module")
def own():
    return questions.Ownership(
        life=Q(4.0, "yr"), residual=0.1, maintenance_rate=Q(0.05, "1/yr"), utilisation=0.8, idle_fraction=0.13,
        grid_water=Q(0.0, "L/Wh"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def service(llama8b, cluster, quebec, own):
    ask = questions.Service(
        precision="bf16", kv_precision="bf16", tensor_parallel=2, batch=32, arrival_rate=Q(200.0, "1/s"), prompt=tokens(1000.0),
        output=tokens(200.0), percentile=0.99, first_token_limit=Q(1.0, "s"), token_limit=Q(40.0, "ms"),
    )  # fmt: skip
    return scenario.Scenario(
        name="chat", workload=llama8b, fleet=cluster, region=quebec, horizon=Q(30.0, "day"), question=ask, ownership=own,
        limits={17: Q(1e6, "USD"), 18: Q(100.0, "tCO2e"), 13: 0.01, 16: Q(4.0, "h")},
        sharing=questions.Sharing(arrival_rate=Q(0.1, "1/h"), job_time=Q(2.0, "h"), cs2=0.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def training(llama8b, cluster, quebec, own):
    ask = questions.Training(
        precision="bf16", optimizer="adamw", tokens=tokens(1e12), batch_tokens=tokens(2**22),
        sequence_length=tokens(4096.0), tensor_parallel=8,
        pipeline_parallel=1, microbatches=8, compute_efficiency=0.5, accelerator_mtbf=Q(50676.0, "h"),
        restart_time=Q(10.0, "min"), writer_bandwidth=Q(5.0, "GB/s"), storage_bandwidth=Q(100.0, "GB/s"),
        bytes_per_token=Q(4.0, "byte/token"), cores=64, core_throughput=Q(10.0, "MB/s"),
    )  # fmt: skip
    return scenario.Scenario(
        name="run", workload=llama8b, fleet=cluster, region=quebec, horizon=Q(30.0, "day"), question=ask, ownership=own,
        limits={15: 0.1, 17: Q(1e6, "USD"), 19: 0.05, 20: 3.0},
        privacy=questions.Privacy(noise_multiplier=4.0, delta=1e-5, sampling_rate=0.01, steps=10000),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["service", "training"])
def test_every_wall_is_read_on_a_feasible_question(kind, request):
    evaluation = request.getfixturevalue(kind).evaluate()
    assert evaluation.feasible and evaluation.level == 3
    assert {found.wall for readings in evaluation.readings.values() for found in readings} == set(range(1, 23))
    for readings in evaluation.readings.values():
        for found in readings:
            assert found.headroom is not None or found.note


def test_what_does_not_fit_ends_on_level_one(service):
    crowded = dataclasses.replace(service, question=dataclasses.replace(service.question, batch=100_000))
    evaluation = crowded.evaluate()
    assert not evaluation.feasible and evaluation.level == 1 and set(evaluation.readings) == {1}
    assert evaluation.wall(2).violated and evaluation.wall(5).violated
    with pytest.raises(LookupError):
        evaluation.wall(17)


def test_what_is_too_slow_ends_on_level_two(service):
    hasty = dataclasses.replace(service, question=dataclasses.replace(service.question, token_limit=Q(1.0, "ms")))
    evaluation = hasty.evaluate()
    assert not evaluation.feasible and evaluation.level == 2
    assert evaluation.wall(4).violated


def test_what_costs_too_much_ends_on_level_three(training):
    poor = dataclasses.replace(training, limits={17: Q(1.0, "USD")})
    evaluation = poor.evaluate()
    assert not evaluation.feasible and evaluation.level == 3 and evaluation.wall(17).violated


def test_a_limit_that_is_set_is_read_as_headroom(service, training):
    wait = service.evaluate().wall(16)
    assert wait.demand.m_as("h") == pytest.approx(0.2 * 2 / (2 * 0.8)) and wait.headroom == pytest.approx(1 - 0.25 / 4)
    private = training.evaluate().wall(20)
    assert private.demand == pytest.approx(1.2586, abs=1e-3) and private.limit == 3.0


def test_synthesised_bandwidth_fed_forward_meets_the_time_per_token(service):
    found = service.evaluate().wall(22)
    chip = dataclasses.replace(service.fleet.node.accelerator, memory_bandwidth=found.demand)
    server = dataclasses.replace(service.fleet.node, accelerator=chip)
    slower = dataclasses.replace(service, fleet=dataclasses.replace(service.fleet, node=server))
    assert slower.evaluate().wall(4).demand.m_as("ms") == pytest.approx(40.0, rel=1e-9)


def test_sensitivity_names_the_hardware_that_binds(service, training):
    assert "binding: memory_bandwidth" in service.evaluate().wall(21).note
    assert "binding: peak" in training.evaluate().wall(21).note


# ------------------------------------------------------------------------ faults of the nearest tool, one test each


def test_fault_infeasible_memory_still_reports_a_pass(training, llama8b):
    huge = dataclasses.replace(llama8b, parameters=400e9, active_parameters=400e9)
    evaluation = dataclasses.replace(training, workload=huge).evaluate()
    assert not evaluation.feasible and evaluation.wall(2).violated and 3 not in evaluation.readings


def test_fault_cost_and_carbon_at_full_utilisation(training):
    """The draw follows the stated utilisation: half of it costs less energy, and never as little as half."""
    lazy = dataclasses.replace(training, ownership=dataclasses.replace(training.ownership, utilisation=0.4))
    busy = training.evaluate().wall(18).demand
    assert 0.5 * busy < lazy.evaluate().wall(18).demand < busy
