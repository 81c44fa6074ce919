"""What parts of a job's step are made of, with the figures that enter them: kernels that memory bounds (walls 2 and 6), and
communication and waiting (wall 14).

Every time is one that `models.training.evaluate` has computed; what stands beside it is what it was given. A source that is an
equation gives the figure back from those above it (tests do so).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import training
from models.training import FULL
from models.training_constants import FACTORS
from models.training_job import LAYER_PARTS, uneven_stretch
from zoo.specs import Accelerator
from zoo.units import Q, Quantity

from ..arguments import argument
from ..plan import Argument
from .plan import Job
from .search import Task

_MODEL = "models/training.py"
_HERE = "this equation"
_SHAPE = "zoo: the model's shape, and the layout"
# Parts of a step that a microbatch takes on a stage; those that are added to a step once its slowest accelerator was waited for.
_OF_STAGE = ("gemm", "attention", "memory_bound", "recompute", "layer_start", "tensor_parallel", "context_parallel",
             "expert_parallel", "logits", "accumulation")  # fmt: skip
_AFTER = ("stragglers", "uneven_stages", "offload", "activation_offload", "private")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of one layout with the constants and the intermediate times that its parts come from."""

    job: Job  # of the plan: layout and parts, in seconds
    task: Task
    run: training.Run
    count: training.Counts
    constants: Mapping[str, float]
    keys: Mapping[str, str]  # by constant, what its value is of in the file of the fit
    file: str
    made_of: Mapping[str, Any]

    def time(self, name: str) -> Quantity:
        """An intermediate time of the step [s]."""
        return Q(float(np.ravel(self.made_of[name].m_as("s"))[0]), "s")

    def fit(self, *names: str) -> str:
        """Where the values of these constants stand: the file of the fit, the name, and the kind of run that they are of."""
        return f"{self.file}: {', '.join(self.keys[name] for name in names)}"

    @property
    def rounds(self) -> float:
        """Times that a layer of a stage is passed forward and backward (and forward again, recomputing all) in a step."""
        return _one(self.count.stage_layers) * self.job.layout.microbatches

    @property
    def passes(self) -> int:
        return 3 if _one(self.run.layouts.recompute) == FULL else 2


def _one(value: Any) -> float:
    return float(np.ravel(value.magnitude if isinstance(value, Quantity) else value)[0])


def step_of(task: Task, accelerator: Accelerator, job: Job, layout: Any, calibration: object = None) -> Step:
    """A job's step, from the forward model. layout: the job's, of `check.strategy_of`; calibration: the question's own file."""
    run = training.run_of(task.model, accelerator, task.job, layout, task.stack)
    (setting, *_) = settings = training.settings_of(task.model, accelerator, layout, task.stack)[0]
    constants = task.constants.resolve(settings)
    plain = {name: _one(value.to_base_units() if isinstance(value, Quantity) else value) for name, value in constants.items()}
    keys = {"time_factor": " x ".join(FACTORS)}
    for name, constant in task.constants.constants.items():
        key = setting.key(constant.varies_by)
        keys[name] = name + ("" if key == "*" else f" of {key}") + ("" if constant.fitted else " (not fitted)")
    file = "models/data/training_constants.json" if calibration is None else f"query: {calibration}"
    return Step(job, task, run, training.counts(run), plain, keys, file, training.evaluate(run, constants)[2])


def kernels(step: Step) -> Iterator[Argument]:
    """What moves through memory in kernels that do little else, and how long that takes."""
    c, machine, layout, parts = step.constants, step.run.machine, step.job.layout, step.job.step_parts_s
    reached = c["bandwidth_efficiency"] * machine.memory_bandwidth
    yield argument("BW_HBM", "memory bandwidth", machine.memory_bandwidth.to("GB/s"), f"zoo: {step.job.chip}")
    yield argument(
        "f", "share of it that element-wise kernels reach", c["bandwidth_efficiency"], step.fit("bandwidth_efficiency")
    )
    yield _pooled(step)
    yield argument("L", "layers of an average stage", _one(step.count.stage_layers), _SHAPE)
    yield argument("m", "microbatches of a step", layout.microbatches, "plan")
    if "memory_bound" in parts:
        moved = (step.time("memory_bound") * reached).to("MB")
        yield argument("V", "norms, residuals, activations of a layer forward, one microbatch", moved, _MODEL)
        yield argument("t", "memory bound: F 3 L m V / (f BW_HBM), forward, and twice that back",
                       Q(parts["memory_bound"], "s"), _HERE)  # fmt: skip
    for name, key, equation in (("accumulation", "resident", "F m P b"), ("optimizer", "kept", "F P b")):
        if name in parts:
            yield argument("P", f"parameters of a rank: {name}", _one(step.made_of[key]), _SHAPE)
            yield argument("b", f"bytes moved of each: {name}", Q(c[f"{name}_traffic"], "byte"), step.fit(f"{name}_traffic"))
            yield argument("t", f"{name}: {equation} / (f BW_HBM)", Q(parts[name], "s"), _HERE)
    shown = sum(parts.get(name, 0.0) for name in ("memory_bound", "accumulation", "optimizer"))
    yield argument("T", "a whole step, typical", Q(step.job.step_s, "s"), _MODEL)
    yield argument("share", "sum of t / T, of the step", shown / step.job.step_s, _HERE)


def _pooled(step: Step) -> Argument:
    name = "time_factor"
    return argument("F", "pooled factor of stack, release, chip and recipe", step.constants[name], step.fit(name))


def collectives(step: Step) -> Iterator[Argument]:
    """The figures of every part, grouped (`Argument.of`), and what all of them are of a step."""
    job = step.job
    groups = {
        "tensor_parallel": _tensor, "context_parallel": _context, "expert_parallel": _experts, "gathers": _gathers,
        "sends": _sends, "reduction": _reduction, "bubble": _bubble, "uneven_stages": _uneven, "stragglers": _stragglers,
    }  # fmt: skip
    shown = [s for name, s in job.step_parts_s.items() if training.WALLS.get(name) == "communication"]
    if shown:
        whole = [
            argument(
                "sum t", "of all communication: tensor, context, expert, gathers, sends, reduction", Q(sum(shown), "s"), _HERE
            ),
            argument("T", "a whole step, typical", Q(job.step_s, "s"), _MODEL),
            argument("share", "sum t / T, exposed, of the step", sum(shown) / job.step_s, _HERE),
        ]
        yield from (one.model_copy(update={"of": "the step"}) for one in whole)
    for name, figures in groups.items():
        seconds = job.step_parts_s.get(name)
        if seconds is not None:
            for one in figures(step):
                yield one.model_copy(update={"of": name.replace("_", " ")})


def _shown(step: Step, name: str, equation: str) -> Iterator[Argument]:
    """The factor of the stack and the chip on every time, and the part as the step has it."""
    yield argument(
        "F", "pooled factor of stack, release, chip and recipe", step.constants["time_factor"], step.fit("time_factor")
    )
    yield argument("t", equation, Q(step.job.step_parts_s[name], "s"), _HERE)


def _ring(step: Step, ranks: Any, inside: Any, of: str = "") -> Iterator[Argument]:
    """The bandwidth of a ring of `ranks`, `inside` of them in one scale-up domain. of: "gather_" for gathers of weights, whose
    shares of the links' bandwidth are others than those of the rest."""
    machine, ranks = step.run.machine, float(ranks)
    names = f"{of}link_efficiency", f"{of}network_efficiency"
    link, network = (step.constants[name] for name in names)
    inside = float(np.clip(inside, 1.0, ranks))
    reach = training.ring_bandwidth(ranks, inside, link * machine.link_bandwidth, network * machine.network_bandwidth)
    yield argument("BW_l", "scale-up link of one accelerator", machine.link_bandwidth.to("GB/s"), f"zoo: {step.job.chip}")
    yield argument("f_l", "share of it that is reached", link, step.fit(names[0]))
    if ranks > inside:
        yield argument("BW_n", "its network port, what the fabric leaves of it", machine.network_bandwidth.to("GB/s"), "wall 10")
        yield argument("f_n", "share of it that is reached", network, step.fit(names[1]))
        yield argument("r", "ranks in one scale-up domain", inside, _SHAPE)
    equation = "min(f_l BW_l, r f_n BW_n)" if ranks > inside else "f_l BW_l"
    yield argument("beta", equation, reach.to("GB/s"), f"{_MODEL}, ring_bandwidth")


def _ranks(name: str, ranks: Any) -> Argument:
    return argument("N", f"ranks: {name}", float(ranks), "plan")


def _tensor(step: Step) -> Iterator[Argument]:
    c, layout = step.constants, step.job.layout
    yield _ranks("tensor parallel", layout.tensor_parallel)
    tokens = _one(step.count.tokens)
    message = Q(2.0 * tokens * step.run.shape.hidden, "byte")
    yield argument("tokens", "of a microbatch, on a context rank", Q(tokens, "token"), "query: workload, and the layout")
    yield argument("h", "hidden size", step.run.shape.hidden, step.task.model.source)
    yield argument("M", "2 bytes tokens h: what an all-reduce carries", message.to("MB"), _HERE)
    yield from _ring(step, layout.tensor_parallel, _one(step.run.machine.domain))
    yield argument(
        "alpha", "latency of a whole all-reduce inside the stack", Q(c["tensor_call"], "s").to("us"), step.fit("tensor_call")
    )
    yield argument("T_1", "2 (N-1)/N M/beta + alpha, of one", step.time("collective").to("ms"), _HERE)
    yield argument("L", "layers of an average stage", _one(step.count.stage_layers), _SHAPE)
    yield argument("m", "microbatches of a step", layout.microbatches, "plan")
    yield argument("a", "passes: forward, backward, forward again where all is recomputed", step.passes, "plan")
    yield argument("k", "2 a L m, all-reduces of a step", 2 * step.passes * step.rounds, _HERE)
    yield argument("x", "share that nothing hides", c["tensor_exposed"], step.fit("tensor_exposed"))
    yield from _shown(step, "tensor_parallel", "F x k T_1; those of the logits are in the logits (wall 1)")


def _backward(step: Step) -> Argument:
    """How much longer attention takes backward than forward."""
    fused = bool(np.ravel(step.run.fused_attention)[0])
    size, source = (step.constants["flash_backward"], step.fit("flash_backward")) if fused else (2.0, _MODEL)
    return argument("b", "backward over forward", size, source)


def _context(step: Step) -> Iterator[Argument]:
    c, layout, shape = step.constants, step.job.layout, step.run.shape
    ranks, tensor = layout.context_parallel, layout.tensor_parallel
    yield _ranks("context parallel", ranks)
    size = Q(4.0 * _one(step.count.tokens) * shape.key_width / tensor * shape.attention_share, "byte")
    yield argument("M", "keys and values of a layer that a rank passes on, 16 bits", size.to("MB"), _SHAPE)
    yield from _ring(step, ranks, step.run.machine.domain / tensor)
    yield argument(
        "alpha",
        "latency of one send",
        Q(c["tensor_call"] * c["ring_call_share"], "s").to("us"),
        step.fit("tensor_call", "ring_call_share"),
    )
    yield argument("T_1", "(N-1) (M/beta + alpha), once around", step.time("passed").to("ms"), _HERE)
    yield argument("A", "attention of a layer forward, which hides it", step.time("attention").to("ms"), _MODEL)
    yield argument("q", "exponent of overlap", c["overlap_exponent"], step.fit("overlap_exponent"))
    yield _backward(step)
    yield argument("L", "layers of an average stage", _one(step.count.stage_layers), _SHAPE)
    yield argument("m", "microbatches of a step", layout.microbatches, "plan")
    yield from _shown(step, "context_parallel", "F (1 + b) L m ((A^q + T_1^q)^(1/q) - A)")


def _experts(step: Step) -> Iterator[Argument]:
    c, layout, shape, machine = step.constants, step.job.layout, step.run.shape, step.run.machine
    ranks = float(layout.expert_parallel)
    nodes = max(ranks / float(np.clip(machine.domain, 1.0, ranks)), 1.0)
    far = float(training.distinct_destinations(nodes, max(shape.top_k, 1.0)))
    near = max(float(training.distinct_destinations(ranks, max(shape.top_k, 1.0))) - far, 0.0)
    yield _ranks("expert parallel", ranks)
    size = Q(2.0 * _one(step.count.tokens) * shape.hidden * shape.latent_share / layout.tensor_parallel, "byte")
    yield argument("M", "tokens of a microbatch, 16 bits, one copy each", size.to("MB"), _SHAPE)
    yield argument("D_l", "other ranks in its domain that a token goes to", near, f"{_MODEL}, distinct_destinations")
    yield argument("D_n", "other domains that a token goes to", far, f"{_MODEL}, distinct_destinations")
    link = c["link_efficiency"] * c["all_to_all_link_efficiency"] * machine.link_bandwidth
    network = c["network_efficiency"] * c["all_to_all_network_efficiency"] * machine.network_bandwidth
    yield argument(
        "beta_l",
        "scale-up link, the share that an all-to-all reaches",
        link.to("GB/s"),
        step.fit("link_efficiency", "all_to_all_link_efficiency"),
    )
    yield argument(
        "beta_n",
        "network port, the share that an all-to-all reaches",
        network.to("GB/s"),
        step.fit("network_efficiency", "all_to_all_network_efficiency"),
    )
    yield argument("alpha", "latency of one all-to-all", Q(c["all_to_all_call"], "s").to("us"), step.fit("all_to_all_call"))
    yield argument("e", "share of layers that have experts", shape.expert_share, step.task.model.source)
    yield argument("T_1", "e (M (D_l/beta_l + D_n/beta_n) + alpha), of an average layer", step.time("exchange").to("ms"), _HERE)
    yield argument("L", "layers of an average stage", _one(step.count.stage_layers), _SHAPE)
    yield argument("m", "microbatches of a step", layout.microbatches, "plan")
    yield argument("k", f"2 x {step.passes} L m: there and back, each pass", 2 * step.passes * step.rounds, _HERE)
    yield argument("x", "share that nothing hides", c["expert_exposed"], step.fit("expert_exposed"))
    yield from _shown(step, "expert_parallel", "F x k T_1")


def _gathers(step: Step) -> Iterator[Argument]:
    c, layout, machine = step.constants, step.job.layout, step.run.machine
    limited = max(1.0, machine.domain / layout.tensor_parallel)
    every = float(layout.data_parallel * layout.context_parallel)
    ranks = min(every, limited) if layout.sharding == "hybrid" else every
    yield _ranks("that share the weights", ranks)
    weights = Q(2.0 * _one(step.count.gathered_parameters), "byte")
    yield argument("M", "weights that a rank computes with, 16 bits", weights.to("GB"), _SHAPE)
    yield from _ring(step, ranks, limited, "gather_")
    yield argument("g", "(N-1)/N M/beta, one all-gather", step.time("gather"), _HERE)
    hidden = layout.data_overlap is not False
    if layout.pipeline_parallel > 1:
        if hidden:
            yield argument("A", "the rest of the step before the reduction, which hides it", step.time("body"), _MODEL)
            yield argument("q", "exponent of overlap", c["overlap_exponent"], step.fit("overlap_exponent"))
        yield from _shown(step, "gathers", "F ((A^q + (3 g)^q)^(1/q) - A), once a step" if hidden else "F 3 g, once a step")
        return
    if hidden:
        yield argument("A", "a microbatch forward, which hides one", step.time("ahead"), _MODEL)
        yield argument("B", "a microbatch backward, which hides two (one is a reduce-scatter)", step.time("behind"), _MODEL)
        yield argument("q", "exponent of overlap", c["overlap_exponent"], step.fit("overlap_exponent"))
    yield argument("x", "share that is never hidden", c["gather_exposed"], step.fit("gather_exposed"))
    yield argument("m", "microbatches of a step", layout.microbatches, "plan")
    both = "F m ((A^q + g^q)^(1/q) - A + (B^q + (2 g)^q)^(1/q) - B + 3 x g)"
    yield from _shown(step, "gathers", both if hidden else "F m (3 g + 3 x g)")


def _filling(step: Step) -> Iterator[Argument]:
    layout = step.job.layout
    yield argument("m", "microbatches of a step", layout.microbatches, "plan")
    yield argument("v", "virtual stages", layout.virtual_stages, "plan")
    yield argument("f", "bubble seen over that of a perfect schedule", step.constants["bubble_factor"], step.fit("bubble_factor"))
    yield argument("s", "f (N-1)/v, slots of a microbatch that fill and drain the pipeline", _one(step.made_of["filling"]), _HERE)


def _sends(step: Step) -> Iterator[Argument]:
    c, layout, machine = step.constants, step.job.layout, step.run.machine
    inside = layout.tensor_parallel * layout.pipeline_parallel * layout.context_parallel * layout.data_parallel <= machine.domain
    yield _ranks("pipeline stages", layout.pipeline_parallel)
    split = layout.sequence_parallel or bool(np.ravel(step.run.scatters_sends)[0])
    size = 2.0 * _one(step.count.tokens) * step.run.shape.hidden / (layout.tensor_parallel if split else 1)
    yield argument("M", "activations of a microbatch that a rank sends on, 16 bits", Q(size, "byte").to("MB"), _SHAPE)
    name = "link" if inside else "network"
    port = machine.link_bandwidth if inside else machine.network_bandwidth
    yield argument("BW", "scale-up link" if inside else "network port, what the fabric leaves of it", port.to("GB/s"),
                   f"zoo: {step.job.chip}" if inside else "wall 10")  # fmt: skip
    yield argument("f_b", "share of it that is reached", c[f"{name}_efficiency"], step.fit(f"{name}_efficiency"))
    yield argument("T_1", "2 M/(f_b BW): there, and its gradient back", step.time("send").to("ms"), _HERE)
    yield from _filling(step)
    yield argument("x", "share that nothing hides", c["send_exposed"], step.fit("send_exposed"))
    yield from _shown(step, "sends", "F x v (m + s) T_1")


def _reduction(step: Step) -> Iterator[Argument]:
    c, layout, run, count = step.constants, step.job.layout, step.run, step.count
    machine, overlapped = run.machine, bool(np.ravel(run.overlapped)[0])
    local, experts = _one(count.local_parameters), _one(count.local_experts)
    stage = _one(run.layouts.zero_stage)
    terms = []
    if stage < 3:
        width = 4.0 if overlapped or stage == 1 else 2.0
        groups = [("all but experts" if experts else "all parameters", local - experts, width, float(layout.data_parallel),
                   machine.domain / (layout.tensor_parallel * layout.context_parallel))]  # fmt: skip
        if experts:
            replicas = _one(count.expert_replicas)
            groups.append(("experts", experts, 4.0 if overlapped else 2.0, replicas, machine.domain / layout.expert_parallel))
        for name, parameters, each, ranks, inside in groups:
            both = Q(parameters * (each + _one(machine.element.to("byte"))), "byte")
            yield _ranks(f"data parallel, of {name}", ranks)
            yield argument("M", f"{name} of a rank: gradients in {8 * each:.0f} bits and weights", both.to("GB"), _SHAPE)
            yield from _ring(step, ranks, inside)
            terms.append("(N-1)/N M/beta")
    domains = max(_one(run.layouts.accelerators) / _one(machine.domain), 1.0) if layout.sharding == "hybrid" else 1.0
    if domains > 1:
        every = run.shape.trunk_parameters + run.shape.expert_parameters + 2 * run.shape.embedding_parameters
        yield _ranks("domains, each with all weights", domains)
        yield argument("M", "the share of one accelerator of a domain, 16 bits", Q(2.0 * every / machine.domain, "byte").to("GB"),
                       _SHAPE)  # fmt: skip
        port = c["network_efficiency"] * machine.network_bandwidth
        yield argument("beta", "network port, the share that is reached", port.to("GB/s"), step.fit("network_efficiency"))
        terms.append("2 (N-1)/N M/beta")
    yield argument("R", " + ".join(terms) + ", gradients summed and weights spread", step.time("reduction"), _HERE)
    yield argument("x", "share that nothing hides", c["reduction_exposed"], step.fit("reduction_exposed"))
    equation = "F x R"
    if overlapped:
        yield argument("W", "the part of a microbatch that can hide it", step.time("window"), step.fit("reduction_window"))
        equation = "x min(R, W) + max(R - W, 0)"
        equation = f"F ({equation})" if layout.data_overlap is not False else f"F max(R, {equation}), waited for"
    yield from _shown(step, "reduction", equation)


def _parts(step: Step, names: tuple[str, ...]) -> Quantity:
    return Q(sum(step.job.step_parts_s.get(name, 0.0) for name in names), "s")


def _bubble(step: Step) -> Iterator[Argument]:
    layout, made = step.job.layout, step.made_of
    yield _ranks("pipeline stages", layout.pipeline_parallel)
    yield from _filling(step)
    yield argument("S", ", ".join(name.replace("_", " ") for name in _OF_STAGE) + ": on an average stage",
                   _parts(step, _OF_STAGE), "step by term")  # fmt: skip
    equation = "s S / m"
    if _one(made["waiting"].m_as("s")) > 0:
        yield argument("t_log", "logits, of which an average stage has 1/N", _parts(step, ("logits",)), "step by term")
        equation = "s S / m + (N-1) t_log: all wait for the stage that has the logits on top"
    yield argument("t", equation, Q(step.job.step_parts_s["bubble"], "s"), _HERE)


def _uneven(step: Step) -> Iterator[Argument]:
    layout = step.job.layout
    stages, fullest, logits = layout.pipeline_parallel, max(layout.stage_layers), step.task.choices.logit_layers
    layers = step.task.model.layers
    yield _ranks("pipeline stages", stages)
    yield argument("L", "layers of the model", layers, step.task.model.source)
    yield argument("f", "layers of the fullest stage", fullest, "plan")
    yield argument("q", "work of the logits over that of a layer", float(logits), _MODEL)
    stretch = float(uneven_stretch(layers, stages, fullest, logits))
    yield argument("u", "(f + max(0, q - (N f - L))) N / L" if stages * fullest > layers else "f N / L", stretch, _HERE)
    yield argument("S", ", ".join(name.replace("_", " ") for name in LAYER_PARTS), _parts(step, LAYER_PARTS), "step by term")
    yield argument("t", "(u - 1) S", Q(step.job.step_parts_s["uneven_stages"], "s"), _HERE)


def _stragglers(step: Step) -> Iterator[Argument]:
    rest = tuple(name for name in step.job.step_parts_s if name not in _AFTER)
    yield argument("N", "accelerators", step.job.accelerators, "plan")
    yield argument("S", "the step without this" + (
        " and " + ", ".join(n.replace("_", " ") for n in _AFTER[1:] if n in step.job.step_parts_s)
        if set(_AFTER[1:]) & set(step.job.step_parts_s) else ""), _parts(step, rest), "step by term")  # fmt: skip
    yield argument(
        "g", "growth with each doubling beyond eight", step.constants["straggler_growth"], step.fit("straggler_growth")
    )
    yield argument("t", "S g log2(N / 8)", Q(step.job.step_parts_s["stragglers"], "s"), _HERE)
