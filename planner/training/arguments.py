"""The equation of a wall with a training plan's figures in it: each with its symbol, value, unit and source.

Every figure is what the forward models were given or gave; results carry the equation that they come from as their source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models import data, training
from models.training_constants import RECIPES
from models.training_job import published
from zoo.specs import Accelerator, Offer
from zoo.units import Q

from ..arguments import argument, page
from ..columns import Site, figure, means_of, site_of
from ..plan import Argument, WallPage
from .check import evaluate, family_of, operations_of_step, utilisation
from .job import Service, checkpoint_of, service_of
from .plan import Job, TrainPlan
from .question import Question
from .solve import reload

_MODEL = "models/training.py"
_HERE = "this equation"
_CATALOG = "zoo/data/economics.csv"


@dataclass(frozen=True, slots=True)
class _Plan:
    """A job with what its figures come from."""

    question: Question
    job: Job
    offer: Offer
    chip: Accelerator
    site: Site


def page_of(plan: TrainPlan, number: int) -> WallPage:
    """One wall in a plan. Raises QueryError or ValueError where what the plan names is no more."""
    if plan.job is None:
        return page(number, "", f"the question has no plan ({plan.status})", (), ())
    if number not in _WALLS:
        return page(number, "", _ABSENT[number], (), ())
    question, decision = reload(plan)
    checked = evaluate(question, decision)
    catalog, offer = question.catalog, question.catalog.find("offers", checked.job.offer)
    site = site_of(catalog.regions[offer.region], question.query, means_of(catalog))
    assert not isinstance(site, str)  # the exact check has looked
    form, figures_of = _WALLS[number]
    figures = tuple(figures_of(_Plan(question, checked.job, offer, catalog.chips[checked.job.chip], site)))
    return page(number, form, "" if figures else _UNKNOWN[number], figures, [w for w in checked.walls if w.number == number])


def _service(plan: _Plan) -> Service:
    """What failures, checkpoints and feeding do with the job's time."""
    family = family_of(plan.question, plan.offer)
    return service_of(plan.question, family.machine, np.array([float(plan.job.accelerators)]), family.spot, family.vcpus)


def _part(plan: _Plan, *walls: str) -> Iterator[Argument]:
    """The terms of the step that belong to these parts of the forward model."""
    for name, seconds in plan.job.step_parts_s.items():
        if training.WALLS.get(name, "bubble" if name == "uneven_stages" else "fixed") in walls:
            yield argument("t", name.replace("_", " "), Q(seconds, "s"), f"{_MODEL}, in each step")


def _compute(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    peak = plan.chip.peak[RECIPES[job.layout.precision][1]].to("TFLOP/s")
    operations = operations_of_step(question)
    tokens = float(question.query.workload.sequences * question.query.workload.length)
    yield argument("D_s", "tokens of a step", Q(tokens, "token"), "query: workload")
    yield argument("P", f"active parameters of {question.model.name}", float(question.model.active_parameters),
                   question.model.source)  # fmt: skip
    yield argument("OPs", "6 P D_s and the attention matrix, nothing twice", operations.to("PFLOP"), "models/node.py")
    yield argument("Peak", f"{job.chip} in {job.layout.precision}, each", peak, plan.chip.source)
    yield argument("N", "accelerators", job.accelerators, "plan")
    yield argument("T_0", "OPs / (N Peak), at the full peak", (operations / (job.accelerators * peak)).to("s"), _HERE)
    yield from _part(plan, "compute")
    yield argument("T", "a whole step, typical: the sum of all its parts (`step by term`)", Q(job.step_s, "s"), _MODEL)
    mfu = utilisation(question, plan.chip, job.layout.precision, job.accelerators, job.step_s)
    yield argument("eta", "T_0 / T, of the peak over the whole step (MFU)", mfu, _HERE)


def _memory(plan: _Plan) -> Iterator[Argument]:
    for name, amount in sorted(plan.job.memory_gib.items(), key=lambda item: -item[1]):
        yield argument("M", name.replace("_", " "), Q(amount, "GiB"), "models/training_memory.py")
    yield argument("sum M", "on the fullest accelerator", Q(plan.job.memory_peak_gib, "GiB"), "this sum")
    yield argument("C", f"nominal memory of {plan.job.chip}; what is kept free counts as demand (reserve)",
                   Q(plan.job.memory_there_gib, "GiB"), plan.chip.source)  # fmt: skip
    yield argument("BW_HBM", "memory bandwidth", plan.chip.memory_bandwidth, plan.chip.source)
    yield from _part(plan, "memory_bound")


def _software(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    compute = sum(s for name, s in job.step_parts_s.items() if training.WALLS.get(name) == "compute")
    yield argument("MFU", "of the peak over the whole step, typical", job.mfu, f"{_MODEL}, constants fitted to measured runs")
    yield argument("s", "share of the step in matrix products and attention", compute / job.step_s, "step by term")
    yield argument("eta", "MFU / s, of the peak while computing", job.mfu * job.step_s / compute, "this equation")
    if job.mfu_best_measured is not None:
        yield argument("", "best MFU ever measured on this chip", job.mfu_best_measured, "models/data/training_measurements.csv")


def _kernels(plan: _Plan) -> Iterator[Argument]:
    yield argument("BW_HBM", "memory bandwidth", plan.chip.memory_bandwidth, plan.chip.source)
    yield from _part(plan, "memory_bound")


def _ingestion(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    workload = question.query.workload
    service = _service(plan)
    rate = Q(workload.sequences * workload.length / job.ranked_step_s, "token/s")
    store = question.catalog.find("storage", question.store.name)
    demand = (service.read * service.supply / Q(job.ranked_step_s, "s")).to("GB/s")
    yield argument("r", "tokens trained on", rate, "tokens of a step / step")
    yield argument("b", "bytes of a token", published("bytes_per_token").typical, "models/data/training_job.csv")
    yield argument("BW_demand", "r b", demand, "this product")
    yield argument("BW_supply", store.name, service.supply.to("GB/s"), store.source)
    yield argument("rho", "BW_demand / BW_supply", (demand / service.supply).to(""), "this equation")


def _transformation(plan: _Plan) -> Iterator[Argument]:
    family = family_of(plan.question, plan.offer)
    service = _service(plan)
    if service.transform is None or family.vcpus is None:
        return
    yield argument("cores", "processors of an instance, two threads each", family.vcpus / 2, plan.offer.source)
    yield argument("C_tput", "MB/s that one core prepares", published("token_megabytes_per_core_second").low,
              "models/data/training_job.csv")  # fmt: skip
    yield argument("T", "to prepare the tokens of a step", service.transform.to("s"), "this equation")


def _locality(plan: _Plan) -> Iterator[Argument]:
    fabric, nic, count = plan.question.query.fabric, plan.chip.nic_bandwidth, float(plan.job.accelerators)
    if nic is None:
        return
    share = data.bisection_fraction(fabric.topology, count)
    yield argument("BW_link", "network port of one accelerator", nic.to("GB/s"), plan.chip.source)
    yield argument("beta", f"of {fabric.topology} with {plan.job.accelerators} endpoints", float(share), "models/data.py")
    yield argument("osub", "oversubscription", fabric.oversubscription, "query: fabric")
    kept = data.effective_bandwidth(nic, fabric.topology, count, fabric.oversubscription)
    yield argument("BW_eff", "BW_link beta / osub", kept.to("GB/s"), "this equation")


def _complexity(plan: _Plan) -> Iterator[Argument]:
    model, job = plan.question.model, plan.job
    yield argument("P", f"active parameters of {model.name}", float(model.active_parameters), model.source)
    yield argument("D", "tokens", Q(job.tokens, "token"), "query")
    yield argument("C", "6 P D", Q(6 * model.active_parameters * job.tokens, "flop").to("EFLOP"), "this equation")
    yield argument("D / P", "tokens per parameter; compute-optimal: 20", job.tokens / model.active_parameters, "this quotient")
    yield argument("n", "steps: D / tokens of a step, rounded up", job.steps, "plan")
    yield argument("t", f"a step, {plan.question.query.rank} (typical: {job.step_s:.6g} s)", Q(job.ranked_step_s, "s"), _MODEL)
    yield argument("g", "goodput, wall 15", job.goodput, "models/fleet.py, goodput")
    yield argument("fed", "share of the time with data, walls 8 and 9", job.fed, "models/data.py, fed_fraction")
    waits = " + wait for the machines, wall 16" if job.wait_days else ""
    yield argument("T", f"n t / (g fed){waits}", Q(job.days, "day"), _HERE)


def _communication(plan: _Plan) -> Iterator[Argument]:
    if plan.chip.link_bandwidth is not None:
        yield argument(
            "beta", f"scale-up link, {plan.offer.domain} in reach", plan.chip.link_bandwidth.to("GB/s"), plan.chip.source
        )
    if plan.chip.nic_bandwidth is not None:
        yield argument("beta", "network port, the fabric apart (wall 10)", plan.chip.nic_bandwidth.to("GB/s"), plan.chip.source)
    layout = plan.job.layout
    degrees = (layout.tensor_parallel, layout.pipeline_parallel, layout.context_parallel, layout.expert_parallel)
    yield argument("N", "ranks: tensor, pipeline, context, expert, data", f"{degrees} and {layout.data_parallel}", "plan")
    if layout.tensor_parallel > 1:
        tokens = layout.microbatch * plan.question.query.workload.length / layout.context_parallel
        yield argument("M", "activations of a microbatch, 16 bits: what a tensor-parallel all-reduce carries",
                       Q(2.0 * tokens * plan.question.model.hidden, "byte").to("MB"), _HERE)  # fmt: skip
    yield argument("m, v", "microbatches, virtual stages", f"{layout.microbatches}, {layout.virtual_stages}", "plan")
    yield from _part(plan, "communication", "bubble", "stragglers")


def _fragility(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    given = question.query.reliability.mtbf is not None
    yield argument("MTBF_node", "between interruptions of one accelerator", question.mtbf[1].to("hour"),
              "query: reliability.mtbf" if given else "zoo/data/reliability.csv")  # fmt: skip
    yield argument("N", "accelerators", job.accelerators, "plan")
    yield argument("MTBF_cluster", "MTBF_node / N" + (", and what takes spot instances back" if job.option == "spot" else ""),
              Q(job.job_mtbf_h, "hour"), "this equation")  # fmt: skip
    good, beside = _service(plan).goodput, question.query.reliability.checkpoint == "asynchronous"
    yield argument("restart", "after an interruption, without reading", question.restart.to("min"), "query, or training_job.csv")
    yield argument("R", "restart, and reading the checkpoint back", good.restart.to("s"), "wall 19")
    yield argument("T_write", "to write a checkpoint, wall 19", Q(job.checkpoint_write_s, "s"), "wall 19")
    yield argument("delta", "how long training stands still for one" + ("" if beside else ": T_write"), good.stall.to("s"),
                   "models/operations.py, asynchronous_stall" if beside else _HERE)  # fmt: skip
    daly = "sqrt(2 delta M) (1 + sqrt(x)/3 + x/9) - delta with x = delta / (2 M), M = MTBF_cluster"
    yield argument("tau", "between checkpoints: Daly's, of a copy to the host, and no shorter than writing" if beside else daly,
                   Q(job.checkpoint_interval_s, "s"), "Daly (2006), equation 37")  # fmt: skip
    yield argument("goodput", "tau / (M e^(R/M) (e^((tau + delta)/M) - 1)), lasting work, typical", job.goodput,
                   "Daly (2006), equation 20")  # fmt: skip


def _waiting(plan: _Plan) -> Iterator[Argument]:
    sharing = plan.question.query.sharing
    if sharing is not None:
        yield argument("lambda", "jobs as large as this one", sharing.arrivals, "query: sharing.arrivals")
        yield argument("1 / mu", "how long one runs", Q(plan.job.days, "day"), "wall 11")
        yield argument("T_wait", "mean wait", Q(plan.job.wait_days, "day"), "this equation")


def _capital(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    yield argument("n", f"instances of {plan.offer.instance}, {job.spare_instances} of them spare", job.instances, "plan")
    yield argument("p", f"price of one, {job.option}", plan.offer.price.to("USD/hour"), plan.offer.source)
    yield argument("T", "hours", Q(job.days * 24, "hour"), "wall 11")
    what = "n p T" if "reserved" not in job.option else "n p max(T, the term)"
    yield argument("OpEx", what, Q(job.cost_usd, "USD"), "this product; nothing is bought, so no CapEx")


def _sustainability(plan: _Plan) -> Iterator[Argument]:
    job, site = plan.job, plan.site
    place, method = site.region.source, plan.question.query.carbon.method
    it = Q(job.energy_mwh / site.pue, "MWh")
    draw = figure(plan.question.catalog, "average draw as fraction of TDP, training")
    yield argument("n", "accelerators of all rented instances", job.instances * plan.offer.accelerators, "plan")
    yield argument("T", "hours of the job, without waiting", Q((job.days - job.wait_days) * 24, "hour"), "wall 11")
    yield argument("TDP", job.chip, plan.chip.tdp, plan.chip.source)
    yield argument("u", "average draw as a fraction of TDP, training", draw, _CATALOG)
    yield argument("s", "part of a server's nameplate that its host draws", plan.chip.host_power_share or 0.0, plan.chip.source)
    yield argument("E", "n T TDP (u + s/(1 - s)), of the machines", it.to("MWh"), _HERE)
    yield argument("PUE", site.region.name, site.pue, place if site.region.pue is not None else _CATALOG)
    yield argument("CI", f"{method} intensity of the grid", site.intensity.to("gCO2e/kWh"), place)
    yield argument("CO2", "E PUE CI", Q(job.carbon_tco2e, "tCO2e"), "this product")
    yield argument("WUE", site.region.name, site.wue, place if site.region.wue is not None else _CATALOG)
    yield argument("W", "water", Q(job.water_m3, "kiloliter"), "E WUE")
    yield argument("P", "power at full load, at the meter", Q(job.power_kw, "kW"), "n TDP (1 + s/(1 - s)) PUE")


def _checkpoint(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    store = question.catalog.find("storage", question.store.name)
    each, together = question.store.write
    yield argument("S", "a checkpoint: weights and optimizer state", checkpoint_of(question).to("GB"), "models/operations.py")
    if each is not None:
        yield argument("BW", f"{store.name}, one node writing", each.to("GB/s"), store.source)
    if together is not None:
        yield argument("BW", f"{store.name}, all together", together.to("GB/s"), store.source)
    yield argument("T_write", "S / BW", Q(job.checkpoint_write_s, "s"), "this equation")
    yield argument("T_interval", "between checkpoints", Q(job.checkpoint_interval_s, "s"), "Daly (2006), wall 15")
    yield argument("penalty", "T_write / T_interval", job.checkpoint_write_s / job.checkpoint_interval_s, "this equation")


def _safety(plan: _Plan) -> Iterator[Argument]:
    privacy = plan.question.query.workload.privacy
    if privacy is not None and plan.question.noise is not None:
        yield argument("epsilon", "privacy loss that may be spent", privacy.epsilon, "query: workload.privacy")
        yield argument("delta", "chance that it fails", privacy.delta, "query: workload.privacy")
        yield argument("sigma", "noise multiplier", plan.question.noise, "models/operations.py, noise_multiplier")
        yield argument("", "slowdown of a step", plan.question.task.slowdown, f"method {privacy.method}")


# Wall -> (its equation as a job's figures enter it, the figures)
_WALLS: dict[int, tuple[str, Callable[[_Plan], Iterator[Argument]]]] = {
    1: ("eta = OPs / (N Peak T); T is the sum of a step's parts, those of wall 1 shown", _compute),
    2: ("sum of M on the fullest accelerator <= C; parts of a step that memory bounds take t", _memory),
    3: ("eta = MFU / s", _software),
    6: ("parts of a step that memory bounds take t", _kernels),
    8: ("rho = r b / BW_supply", _ingestion),
    9: ("T = tokens b / (cores C_tput), of a step", _transformation),
    10: ("BW_eff = BW_link beta / osub", _locality),
    11: ("C = 6 P D; T = n t / (g fed)", _complexity),
    14: (
        "each t is what a step shows of it; what calls, overlap and the network add to M/beta is in models/data/training_fit.md",
        _communication,
    ),
    15: ("goodput = tau / (M e^(R/M) (e^((tau + delta)/M) - 1)), M = MTBF_cluster = MTBF_node / N", _fragility),
    16: ("T_wait by Pollaczek and Khinchine, from lambda and 1 / mu", _waiting),
    17: ("OpEx = n p T", _capital),
    18: ("CO2 = E PUE CI with E = n T TDP (u + s/(1 - s)); power at full load", _sustainability),
    19: ("penalty = T_write / T_interval, T_write = S / BW", _checkpoint),
    20: ("sigma for (epsilon, delta) over all steps", _safety),
}
# What a wall with a part in training questions lacks where it has no figures.
_UNKNOWN = {
    6: "no kernel of a step is bound by memory alone",
    9: "how many processors the offer has is not known, or the tokens need no preparation",
    10: "the chip's network port is not known, or it has none: it trains within one machine",
    16: "the machines are not shared: the question has no `sharing`",
    20: "training is not private: the question has no `workload.privacy`",
}
# Walls without a part in any training question, and why.
_ABSENT = {
    4: "nobody is served while a model is trained",
    5: "training keeps no cache of keys and values",
    7: "nobody waits for answers; a queue for the machines is wall 16",
    12: "nothing is generated",
    13: "what training in fewer bits loses is not known; wall 13 knows what quantised inference loses",
    21: "it asks about the whole plan: `wallplan explain plan.json` and `--tornado`",
    22: "it asks about the whole plan, and of serve questions only: `wallplan explain plan.json --synthesis CHIP`",
}
