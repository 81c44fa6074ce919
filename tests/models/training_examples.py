"""A chip, a model, a job and layouts that the tests of training share."""

import numpy as np

from models import training as t
from zoo.specs import Accelerator, Transformer
from zoo.units import Q

A100 = Accelerator(
    name="a100-sxm-80gb", vendor="NVIDIA", year=2020, kind="datacenter",
    peak={"bf16": Q(312, "TFLOP/s"), "fp16": Q(312, "TFLOP/s")},
    memory=Q(80, "GiB"), memory_bandwidth=Q(2039, "GB/s"), link_bandwidth=Q(300, "GB/s"), scale_up_domain=8,
    nic_bandwidth=Q(200, "Gb/s"),
)  # fmt: skip
GPT3 = Transformer(
    name="GPT 175B", layers=96, hidden=12288, heads=96, kv_heads=96, head_dim=128, vocab=51200, parameters=174.6e9,
    active_parameters=174.6e9, ffn_hidden=49152, gated=False, attention="MHA", kv_layers=96, tie_embeddings=True,
)  # fmt: skip
JOB = t.TrainingJob(Q(2048, "token"), 1536.0)
LAYOUT = t.Layouts(8.0, 8.0, 8.0, 1.0, "bf16", virtual_stages=3.0, recompute=t.FULL, zero_stage=1)


def candidates(count: int, seed: int = 0) -> t.Layouts:
    random = np.random.RandomState(seed)

    def any_of(*values: float):
        return random.choice(np.array(values, float), count)

    return t.Layouts(
        any_of(1, 2, 4, 8), any_of(1, 2, 4, 8, 12), any_of(1, 2, 4, 16), any_of(1, 2, 4), "bf16", any_of(1, 2), 1.0, any_of(1, 2),
        any_of(0, 1), any_of(0, 1, 2), any_of(0, 1, 2, 3), any_of(0, 1),
    )  # fmt: skip
