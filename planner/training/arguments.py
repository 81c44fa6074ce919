"""The equation of a wall with a training plan's figures in it: each with its symbol, value, unit and source.

Every figure is what the forward models were given or gave; results carry the equation that they come from as their source.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from .check import evaluate, family_of, utilisation
from .job import checkpoint_of, service_of
from .plan import Job, TrainPlan
from .question import Question
from .solve import reload

_MODEL = "models/training.py"
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
    figures = tuple(_WALLS[number](_Plan(question, checked.job, offer, catalog.chips[checked.job.chip], site)))
    return page(number, "", "" if figures else _UNKNOWN[number], figures, [w for w in checked.walls if w.number == number])


def _part(plan: _Plan, *walls: str) -> Iterator[Argument]:
    """The terms of the step that belong to these parts of the forward model."""
    for name, seconds in plan.job.step_parts_s.items():
        if training.WALLS.get(name, "bubble" if name == "uneven_stages" else "fixed") in walls:
            yield argument("t", name.replace("_", " "), Q(seconds, "s"), f"{_MODEL}, in each step")


def _compute(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    peak = plan.chip.peak[RECIPES[job.layout.precision][1]].to("TFLOP/s")
    mfu = utilisation(question, plan.chip, job.layout.precision, job.accelerators, job.step_s)
    operations = (mfu * job.accelerators * peak * Q(job.step_s, "s")).to("PFLOP")
    yield argument("OPs", "what the model needs in a step, nothing twice", operations, "6 P D and the attention matrix, wall 11")
    yield argument("Peak", f"{job.chip} in {job.layout.precision}, each", peak, plan.chip.source)
    yield argument("N", "accelerators", job.accelerators, "plan")
    yield argument("eta", "of the peak over the whole step (MFU)", mfu, f"{_MODEL}, constants fitted to measured runs")
    yield argument("T", "OPs / (N Peak eta), a step", Q(job.step_s, "s"), "this equation")
    yield from _part(plan, "compute")


def _memory(plan: _Plan) -> Iterator[Argument]:
    for name, amount in sorted(plan.job.memory_gib.items(), key=lambda item: -item[1]):
        yield argument("M", name.replace("_", " "), Q(amount, "GiB"), "models/training_memory.py")
    yield argument("sum M", "on the fullest accelerator", Q(plan.job.memory_peak_gib, "GiB"), "this sum")
    yield argument("C", f"what {plan.job.chip} leaves to the job", Q(plan.job.memory_there_gib, "GiB"), plan.chip.source)
    yield argument("BW_HBM", "memory bandwidth", plan.chip.memory_bandwidth, plan.chip.source)


def _software(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    compute = sum(s for name, s in job.step_parts_s.items() if training.WALLS.get(name) == "compute")
    yield argument("MFU", "of the peak over the whole step", job.mfu, f"{_MODEL}, constants fitted to measured runs")
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
    family = family_of(question, plan.offer)
    service = service_of(question, family.machine, np.array([float(job.accelerators)]), family.spot, family.vcpus)
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
    count = np.array([float(plan.job.accelerators)])
    service = service_of(plan.question, family.machine, count, family.spot, family.vcpus)
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
    yield argument("T", "steps x step / (goodput x fed)", Q(job.days, "day"), f"{job.steps} steps of {job.ranked_step_s:.4g} s")


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
    yield from _part(plan, "communication", "bubble", "stragglers")


def _fragility(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    given = question.query.reliability.mtbf is not None
    yield argument("MTBF_node", "between interruptions of one accelerator", question.mtbf[1].to("hour"),
              "query: reliability.mtbf" if given else "zoo/data/reliability.csv")  # fmt: skip
    yield argument("N", "accelerators", job.accelerators, "plan")
    yield argument("MTBF_cluster", "MTBF_node / N" + (", and what takes spot instances back" if job.option == "spot" else ""),
              Q(job.job_mtbf_h, "hour"), "this equation")  # fmt: skip
    yield argument("restart", "after an interruption, without reading", question.restart.to("min"), "query, or training_job.csv")
    yield argument("tau", "between checkpoints", Q(job.checkpoint_interval_s, "s"), "Daly (2006)")
    yield argument("goodput", "of the time that becomes lasting work", job.goodput, "models/fleet.py, goodput")


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
    yield argument("TDP", job.chip, plan.chip.tdp, plan.chip.source)
    yield argument("u", "average draw as a fraction of TDP, training", draw, _CATALOG)
    yield argument("E", "energy of the machines", it, "n T (TDP u and the host)")
    yield argument("PUE", site.region.name, site.pue, place if site.region.pue is not None else _CATALOG)
    yield argument("CI", f"{method} intensity of the grid", site.intensity.to("gCO2e/kWh"), place)
    yield argument("CO2", "E PUE CI", Q(job.carbon_tco2e, "tCO2e"), "this product")
    yield argument("WUE", site.region.name, site.wue, place if site.region.wue is not None else _CATALOG)
    yield argument("W", "water", Q(job.water_m3, "kiloliter"), "E WUE")
    yield argument("P", "power at full load, at the meter", Q(job.power_kw, "kW"), "n nameplate PUE")


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


_WALLS = {
    1: _compute, 2: _memory, 3: _software, 6: _kernels, 8: _ingestion, 9: _transformation, 10: _locality, 11: _complexity,
    14: _communication, 15: _fragility, 16: _waiting, 17: _capital, 18: _sustainability, 19: _checkpoint, 20: _safety,
}  # fmt: skip
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
