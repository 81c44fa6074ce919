"""Step times of published dense runs and how many layouts a second, beside the analytic tools that install from PyPI.

llm-analysis 0.2.2 and mlsysim 0.3.0 run in the same test run, in an environment of their own (`peers.environment`). Both get
the facts that we have: shape of the model, layout, and the peaks and bandwidths of our zoo; and the efficiency that their
documentation gives for training at scale: half of the peak (llm-analysis: "literature reports up to 0.5", memory 0.9;
mlsysim: its default, 0.5). A row that a tool raises an error for, calls out of memory or cannot express is not predicted.
GenZ (genz-llm 0.0.16) has no training step: it predicts none of the rows.

Our errors are in sample here; models/data/training_fit.md has those of rows that the fit had not seen.

    pytest tests/benchmarks/test_training_peers_benchmark.py --benchmark-only -s
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from peers import environment, output

import models
from models import training
from models.training_constants import training_constants
from models.training_rows import MEASUREMENTS, read_cases, read_rows, stacked
from zoo.catalog import load

# Reads rows, prints {tool: {"seconds": {id: step time}, "each": seconds per evaluation}}.
RIVALS = """
import json, logging, sys, time
rows = json.load(sys.stdin)
logging.disable(logging.CRITICAL)

def llm_analysis():
    from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis
    from llm_analysis.config import DtypeConfig, GPUConfig, ModelConfig, ParallelismConfig

    def step(r):
        model = ModelConfig(r["id"], r["layers"], r["heads"], r["hidden"], r["vocab"], r["sequence"], r["kv_heads"],
                            ffn_embed_dim=r["ffn"], expansion_ratio=r["ffn"] / r["hidden"])
        gpu = GPUConfig("chip", r["memory"], r["memory_bandwidth"], r["link"], 8e-6, r["peak"],
                        inter_node_bandwidth_in_GB_per_sec=r["network"])
        split = ParallelismConfig(r["tp"], r["pp"], r["dp"], 1, r["tp"] if r["sequence_parallel"] else 1)
        tool = LLMAnalysis(model, gpu, DtypeConfig(), split, flops_efficiency=0.5, hbm_memory_efficiency=0.9)
        return tool.training(
            batch_size_per_gpu=r["microbatch"], global_batch_size=r["batch"], seq_len=r["sequence"],
            activation_recomputation=ActivationRecomputation(r["recompute"]), ds_zero=DSZeRO(r["zero"]), flash_attn=r["flash"],
            mlp_gated_linear_units=r["gated"])["latency_per_iter"]

    return step

def mlsysim():
    from mlsysim import Hardware, Models, Systems
    from mlsysim.core.units import Q_
    from mlsysim.engine.solvers import DistributedModel
    solver, fleet, base = DistributedModel(), Systems.Clusters.Training_512_H100, Models.Language.GPT3
    chips = {name: getattr(Hardware.Cloud, name) for name in ("A100", "A100_40GB", "H100", "H200", "B200", "V100")}

    def step(r):
        node = fleet.node.model_copy(update={
            "accelerator": chips[r["their_chip"]], "accelerators_per_node": r["domain"], "intra_node_bw": Q_(r["link"], "GB/s")})
        fabric = fleet.fabric.model_copy(update={"bandwidth": Q_(r["network"], "GB/s")})
        there = fleet.model_copy(update={"node": node, "count": -(-r["accelerators"] // r["domain"]), "fabric": fabric})
        model = base.model_copy(update={
            "parameters": Q_(r["parameters"], "param"), "inference_flops": Q_(2 * r["parameters"], "flop"),
            "layers": r["layers"], "hidden_dim": r["hidden"], "heads": r["heads"],
            "kv_heads": r["kv_heads"], "vocab_size": r["vocab"], "context_length": r["sequence"]})
        found = solver.solve(
            model, there, batch_size=r["batch"], precision="fp16", tp_size=r["tp"], pp_size=r["pp"], v_stages=r["chunks"],
            microbatch_count=r["batch"] // r["dp"] // r["microbatch"], zero_stage=r["zero"],
            activation_recomputation=r["recompute"] == 2, overlap_comm=r["overlapped"], seq_len=r["sequence"])
        return found.step_latency_total.m_as("s")

    return step

answer = {}
for name, tool in (("llm-analysis", llm_analysis), ("mlsysim", mlsysim)):
    step, seconds, errors = tool(), {}, {}
    started = time.perf_counter()
    for r in rows:
        try:
            value = float(step(r))
            if value > 0:
                seconds[r["id"]] = value
        except Exception as error:
            errors[type(error).__name__ + ": " + str(error)[:60]] = r["id"]
    answer[name] = {"seconds": seconds, "each": (time.perf_counter() - started) / len(rows), "errors": errors}
print(json.dumps(answer))
"""
VERSIONS = {"llm_analysis": "0.2.2", "mlsysim": "0.3.0"}
THEIR_CHIP = {"a100-sxm-80gb": "A100", "a100-sxm-40gb": "A100_40GB", "h100-sxm": "H100", "h200-sxm": "H200", "b200-sxm": "B200",
              "v100-sxm-32gb": "V100", "v100-sxm-16gb": "V100"}  # fmt: skip


@pytest.fixture(scope="module")
def cases():
    """Every dense row at 16 bit with a measured time, on a chip that all tools know and without context parallelism."""
    found = read_cases(read_rows(MEASUREMENTS), load(), training_constants())
    return [case for case in found if case.time and case.setting.kind in ("dense-3D", "dense-3D, other chips")]


def facts(case):
    """A row as plain numbers: GB, GB/s, TFLOP/s, counts."""
    layout, machine, shape = case.run.layouts, case.run.machine, case.model
    return {
        "id": case.id,
        "their_chip": THEIR_CHIP.get(case.chip.name),
        "parameters": shape.parameters,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "ffn": shape.ffn_hidden,
        "vocab": shape.vocab,
        "gated": shape.gated,
        "sequence": int(case.run.job.sequence_length.m_as("token")),
        "batch": int(case.run.job.global_batch),
        "tp": int(layout.tensor_parallel),
        "pp": int(layout.pipeline_parallel),
        "dp": int(layout.data_parallel),
        "chunks": int(layout.virtual_stages),
        "microbatch": int(layout.microbatch),
        "recompute": int(layout.recompute),
        "zero": int(layout.zero_stage),
        "sequence_parallel": bool(layout.sequence_parallel),
        "flash": bool(case.run.fused_attention),
        "overlapped": bool(case.run.overlapped),
        "accelerators": int(layout.accelerators),
        "domain": int(machine.domain),
        "peak": machine.peak16.m_as("TFLOP/s"),
        "memory": machine.memory.m_as("GB"),
        "link": machine.link_bandwidth.m_as("GB/s"),
        "memory_bandwidth": machine.memory_bandwidth.m_as("GB/s"),
        "network": machine.network_bandwidth.m_as("GB/s"),
    }


@pytest.fixture(scope="module")
def rivals(cases):
    python = environment("WALLPLAN_TRAINING_PEERS", **VERSIONS)
    return json.loads(output(python, RIVALS, json.dumps([facts(case) for case in cases])).splitlines()[-1])


def held_out():
    """Our error on dense rows that the fit had not seen (random halves), as the stored fit reports it."""
    text = (Path(models.__file__).parent / "data" / "training_fit.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| dense-3D |"))
    return float(re.split(r"\s*\|\s*", line)[5])


def test_dense_rows_beside_analytic_peers(benchmark, cases, rivals):
    """MAPE and evaluations per second on the same rows. Ours must be the most accurate and predict them all."""
    constants = training_constants()
    run = stacked([case.run for case in cases])
    resolved = constants.resolve([case.setting for case in cases])
    ours = training.evaluate(run, resolved)[0].m_as("s")
    measured = np.array([case.time for case in cases])
    again = np.tile(np.arange(len(cases)), 64)  # as many at once as a search evaluates
    many, constants_of_many = training.take(run, again), {name: value[again] for name, value in resolved.items()}
    benchmark.pedantic(lambda: training.evaluate(many, constants_of_many), rounds=5, warmup_rounds=1)
    each = benchmark.stats.stats.min / len(again)
    error = float(np.mean(np.abs(ours / measured - 1))) * 100
    print(f"\n{len(cases)} rows: MAPE {error:.1f} % ({held_out():.1f} % unseen), {1 / each:,.0f} evaluations/s")
    for name, found in rivals.items():
        seconds = found["seconds"]
        pairs = [(seconds[case.id], case.time) for case in cases if case.id in seconds]
        errors = [100 * abs(predicted / real - 1) for predicted, real in pairs]
        their = float(np.mean(errors)) if pairs else None
        said = "none" if their is None else f"{their:.1f} % (median {np.median(errors):.1f} %)"
        print(f"{name}: {len(pairs)} predicted, MAPE {said}, {1 / found['each']:,.0f} evaluations/s; {found['errors']}")
        benchmark.extra_info[name] = {"predicted": len(pairs), "mape": their, "speed_ratio": each / found["each"]}
        if their is not None:
            assert held_out() < their
        assert len(pairs) <= len(cases)
    benchmark.extra_info |= {"rows": len(cases), "mape": error, "mape_unseen": held_out()}
