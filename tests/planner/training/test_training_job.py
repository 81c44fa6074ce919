"""From a step to a job, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.training_job import (
    activation_offload_time,
    fullest_stage,
    goodput_of,
    model_utilisation,
    offload_time,
    stage_split,
    training_time,
    uneven_stretch,
    ways_of,
)
from zoo.units import Q


def test_fullest_stage_of_uneven_pipelines() -> None:
    # 126 layers on 16 stages of 8 chunks: 128 chunks of at most one layer, 8 layers on the fullest stage
    assert fullest_stage(126, 16, 8) == 8
    assert fullest_stage(126, 16, 1) == 8
    assert fullest_stage(96, 8, 5) == 15  # 40 chunks of 96 layers: three each at most
    assert fullest_stage(96, 8, 12) == 12


def test_stretch_is_one_where_all_divides_and_waits_for_the_fullest_stage_otherwise() -> None:
    assert uneven_stretch(96, 8, fullest_stage(96, 8, 12), 3.0) == 1.0
    # 10 layers on 4 stages: three on the fullest, mean 2.5; two places left over on the last stage hold logits of 1.5 layers
    assert uneven_stretch(10, 4, fullest_stage(10, 4, 1), 1.5) == pytest.approx(3 / 2.5)
    # logits of 4 layers: two spill over
    assert uneven_stretch(10, 4, fullest_stage(10, 4, 1), 4.0) == pytest.approx(5 / 2.5)


def test_goodput_by_hand() -> None:
    # 1000 GB at min(10 x 2, 100) = 20 GB/s: 50 s to write; read at 10 x 5 = 50 GB/s: 20 s, plus 580 s restart = 600 s
    result = goodput_of(
        Q(10.0, "h"), Q(1000.0, "GB"), 10.0, (Q(2.0, "GB/s"), Q(100.0, "GB/s")), (Q(5.0, "GB/s"), Q(100.0, "GB/s")), Q(580.0, "s")
    )
    assert result.write_time.m_as("s") == pytest.approx(50)
    assert result.restart.m_as("s") == pytest.approx(600)
    # Young: sqrt(2 x 50 x 36000) = 1897 s; first order: 1 - 50/1897 - (948 + 600)/36000 = 0.931
    assert result.interval.m_as("s") == pytest.approx(1897, rel=0.03)
    assert result.fraction == pytest.approx(0.931, abs=0.005)


def test_asynchronous_checkpoints_stall_only_for_the_copy() -> None:
    args = (
        Q(10.0, "h"),
        Q(1000.0, "GB"),
        10.0,
        (Q(2.0, "GB/s"), Q(100.0, "GB/s")),
        (Q(5.0, "GB/s"), Q(100.0, "GB/s")),
        Q(580.0, "s"),
    )
    result = goodput_of(*args, snapshot=Q(2.0, "s"))
    assert result.stall.m_as("s") == pytest.approx(2.0)
    assert result.interval.m_as("s") >= 52.0
    assert result.fraction > goodput_of(*args).fraction


def test_more_failures_leave_less() -> None:
    mtbf = Q(np.array([1.0, 5.0, 20.0, 100.0]), "h")
    args = (Q(1000.0, "GB"), 10.0, (Q(2.0, "GB/s"), Q(100.0, "GB/s")), (Q(5.0, "GB/s"), Q(100.0, "GB/s")), Q(580.0, "s"))
    assert np.all(np.diff(goodput_of(mtbf, *args).fraction) > 0)


def test_training_time_and_utilisation_by_hand() -> None:
    # 1000 steps of 36 s are 10 h; at 80 % goodput 12.5 h; half the time without data: 25 h
    assert training_time(1000, Q(36.0, "s"), 0.8, 0.5).m_as("h") == pytest.approx(25)
    # 4e17 FLOP in 10 s on 100 chips of 1 PFLOP/s: 0.4
    assert model_utilisation(Q(4e17, "flop"), 100.0, Q(1.0, "PFLOP/s"), Q(10.0, "s")) == pytest.approx(0.4)


def test_offload_by_hand() -> None:
    # 12 GB of state are 1e9 parameters: 6 GB over 30 GB/s are 0.2 s; 30 GB at 60 GB/s are 0.5 s
    assert offload_time(Q(12.0, "GB"), Q(30.0, "GB/s"), Q(60.0, "GB/s")).m_as("s") == pytest.approx(0.7)


def test_activation_offload_by_hand() -> None:
    # 60 GB at 30 GB/s are 2 s each way: beside 1.5 s of forward and 3 s of backward pass, half a second sticks out
    added = activation_offload_time(Q(60.0, "GB"), Q(30.0, "GB/s"), Q(1.5, "s"), Q(3.0, "s"))
    assert added.m_as("s") == pytest.approx(0.5)


def test_layers_of_uneven_stages_by_hand() -> None:
    assert stage_split(126, 16, 8, 0.66) == (7, *[8] * 14, 7)  # Llama 3: one fewer at each end
    assert stage_split(32, 4, 9, 2.4) == (8, 9, 9, 6)  # three fewer for the logits, the fourth from the first stage
    assert stage_split(96, 8, 12, 0.3) == (12,) * 8
    for layers, stages, fullest in ((61, 8, 8), (10, 4, 4), (17, 8, 6)):
        split = stage_split(layers, stages, fullest, 2.0)
        assert sum(split) == layers and max(split) == fullest and min(split) >= 0


def test_every_stack_has_its_ways() -> None:
    from models.constants import table

    names = {record["stack"] for record in table("training_stacks")}
    assert names == {record["stack"] for record in table("training_stack_layouts")}
    for name in names:
        assert set(ways_of(name).sharding) <= {"none", "zero1", "zero2", "zero3", "hybrid"} and ways_of(name).sharding
