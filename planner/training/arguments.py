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
from zoo.specs import Accelerator, Offer, Source
from zoo.units import Q, Quantity

from ..columns import Site, figure, means_of, site_of
from .check import family_of, utilisation
from .job import checkpoint_of, service_of
from .plan import Argument, Job, TrainPlan
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


def arguments_of(plan: TrainPlan, number: int) -> tuple[Argument, ...]:
    """The figures of one wall; none where the wall has no part in the plan. Raises QueryError where its question is no more."""
    if plan.job is None or number not in _WALLS:
        return ()
    question, _ = reload(plan)
    catalog, offer = question.catalog, question.catalog.find("offers", plan.job.offer)
    site = site_of(catalog.regions[offer.region], question.query, means_of(catalog))
    if isinstance(site, str):
        return ()
    return tuple(_WALLS[number](_Plan(question, plan.job, offer, catalog.chips[plan.job.chip], site)))


def _of(symbol: str, meaning: str, value: object, source: object) -> Argument:
    text = f"{value:,.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, Quantity):
        text = f"{float(np.ravel(value.magnitude)[0]):,.6g} {value.units:~}".replace("count", "").strip()
    return Argument(symbol=symbol, meaning=meaning, value=text, source=_source(source))


def _source(source: object) -> str:
    if not isinstance(source, Source):
        return str(source)
    return " ".join(part for part in (source.text or "zoo", f"({source.date})" if source.date else "") if part)


def _part(plan: _Plan, *walls: str) -> Iterator[Argument]:
    """The terms of the step that belong to these parts of the forward model."""
    for name, seconds in plan.job.step_parts_s.items():
        if training.WALLS.get(name, "bubble" if name == "uneven_stages" else "fixed") in walls:
            yield _of("t", name.replace("_", " "), Q(seconds, "s"), f"{_MODEL}, in each step")


def _compute(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    peak = plan.chip.peak[RECIPES[job.layout.precision][1]].to("TFLOP/s")
    mfu = utilisation(question, plan.chip, job.layout.precision, job.accelerators, job.step_s)
    operations = (mfu * job.accelerators * peak * Q(job.step_s, "s")).to("PFLOP")
    yield _of("OPs", "what the model needs in a step, nothing twice", operations, "6 P D and the attention matrix, wall 11")
    yield _of("Peak", f"{job.chip} in {job.layout.precision}, each", peak, plan.chip.source)
    yield _of("N", "accelerators", job.accelerators, "plan")
    yield _of("eta", "of the peak over the whole step (MFU)", mfu, f"{_MODEL}, constants fitted to measured runs")
    yield _of("T", "OPs / (N Peak eta), a step", Q(job.step_s, "s"), "this equation")
    yield from _part(plan, "compute")


def _memory(plan: _Plan) -> Iterator[Argument]:
    for name, amount in sorted(plan.job.memory_gib.items(), key=lambda item: -item[1]):
        yield _of("M", name.replace("_", " "), Q(amount, "GiB"), "models/training_memory.py")
    yield _of("sum M", "on the fullest accelerator", Q(plan.job.memory_peak_gib, "GiB"), "this sum")
    yield _of("C", f"what {plan.job.chip} leaves to the job", Q(plan.job.memory_there_gib, "GiB"), plan.chip.source)
    yield _of("BW_HBM", "memory bandwidth", plan.chip.memory_bandwidth, plan.chip.source)


def _software(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    compute = sum(s for name, s in job.step_parts_s.items() if training.WALLS.get(name) == "compute")
    yield _of("MFU", "of the peak over the whole step", job.mfu, f"{_MODEL}, constants fitted to measured runs")
    yield _of("s", "share of the step in matrix products and attention", compute / job.step_s, "step by term")
    yield _of("eta", "MFU / s, of the peak while computing", job.mfu * job.step_s / compute, "this equation")
    if job.mfu_best_measured is not None:
        yield _of("", "best MFU ever measured on this chip", job.mfu_best_measured, "models/data/training_measurements.csv")


def _kernels(plan: _Plan) -> Iterator[Argument]:
    yield _of("BW_HBM", "memory bandwidth", plan.chip.memory_bandwidth, plan.chip.source)
    yield from _part(plan, "memory_bound")


def _ingestion(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    workload = question.query.workload
    family = family_of(question, plan.offer)
    service = service_of(question, family.machine, np.array([float(job.accelerators)]), family.spot, family.vcpus)
    rate = Q(workload.sequences * workload.length / job.ranked_step_s, "token/s")
    store = question.catalog.find("storage", question.store.name)
    demand = (service.read * service.supply / Q(job.ranked_step_s, "s")).to("GB/s")
    yield _of("r", "tokens trained on", rate, "tokens of a step / step")
    yield _of("b", "bytes of a token", published("bytes_per_token").typical, "models/data/training_job.csv")
    yield _of("BW_demand", "r b", demand, "this product")
    yield _of("BW_supply", store.name, service.supply.to("GB/s"), store.source)
    yield _of("rho", "BW_demand / BW_supply", (demand / service.supply).to(""), "this equation")


def _transformation(plan: _Plan) -> Iterator[Argument]:
    family = family_of(plan.question, plan.offer)
    count = np.array([float(plan.job.accelerators)])
    service = service_of(plan.question, family.machine, count, family.spot, family.vcpus)
    if service.transform is None or family.vcpus is None:
        return
    yield _of("cores", "processors of an instance, two threads each", family.vcpus / 2, plan.offer.source)
    yield _of("C_tput", "MB/s that one core prepares", published("token_megabytes_per_core_second").low,
              "models/data/training_job.csv")  # fmt: skip
    yield _of("T", "to prepare the tokens of a step", service.transform.to("s"), "this equation")


def _locality(plan: _Plan) -> Iterator[Argument]:
    fabric, nic, count = plan.question.query.fabric, plan.chip.nic_bandwidth, float(plan.job.accelerators)
    if nic is None:
        return
    share = data.bisection_fraction(fabric.topology, count)
    yield _of("BW_link", "network port of one accelerator", nic.to("GB/s"), plan.chip.source)
    yield _of("beta", f"of {fabric.topology} with {plan.job.accelerators} endpoints", float(share), "models/data.py")
    yield _of("osub", "oversubscription", fabric.oversubscription, "query: fabric")
    kept = data.effective_bandwidth(nic, fabric.topology, count, fabric.oversubscription)
    yield _of("BW_eff", "BW_link beta / osub", kept.to("GB/s"), "this equation")


def _complexity(plan: _Plan) -> Iterator[Argument]:
    model, job = plan.question.model, plan.job
    yield _of("P", f"active parameters of {model.name}", float(model.active_parameters), model.source)
    yield _of("D", "tokens", Q(job.tokens, "token"), "query")
    yield _of("C", "6 P D", Q(6 * model.active_parameters * job.tokens, "flop").to("EFLOP"), "this equation")
    yield _of("D / P", "tokens per parameter; compute-optimal: 20", job.tokens / model.active_parameters, "this quotient")
    yield _of("T", "steps x step / (goodput x fed)", Q(job.days, "day"), f"{job.steps} steps of {job.ranked_step_s:.4g} s")


def _communication(plan: _Plan) -> Iterator[Argument]:
    if plan.chip.link_bandwidth is not None:
        yield _of("beta", f"scale-up link, {plan.offer.domain} in reach", plan.chip.link_bandwidth.to("GB/s"), plan.chip.source)
    if plan.chip.nic_bandwidth is not None:
        yield _of("beta", "network port, the fabric apart (wall 10)", plan.chip.nic_bandwidth.to("GB/s"), plan.chip.source)
    layout = plan.job.layout
    degrees = (layout.tensor_parallel, layout.pipeline_parallel, layout.context_parallel, layout.expert_parallel)
    yield _of("N", "ranks: tensor, pipeline, context, expert, data", f"{degrees} and {layout.data_parallel}", "plan")
    yield from _part(plan, "communication", "bubble", "stragglers")


def _fragility(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    given = question.query.reliability.mtbf is not None
    yield _of("MTBF_node", "between interruptions of one accelerator", question.mtbf[1].to("hour"),
              "query: reliability.mtbf" if given else "zoo/data/reliability.csv")  # fmt: skip
    yield _of("N", "accelerators", job.accelerators, "plan")
    yield _of("MTBF_cluster", "MTBF_node / N" + (", and what takes spot instances back" if job.option == "spot" else ""),
              Q(job.job_mtbf_h, "hour"), "this equation")  # fmt: skip
    yield _of("restart", "after an interruption, without reading", question.restart.to("min"), "query, or training_job.csv")
    yield _of("tau", "between checkpoints", Q(job.checkpoint_interval_s, "s"), "Daly (2006)")
    yield _of("goodput", "of the time that becomes lasting work", job.goodput, "models/fleet.py, goodput")


def _waiting(plan: _Plan) -> Iterator[Argument]:
    sharing = plan.question.query.sharing
    if sharing is not None:
        yield _of("lambda", "jobs as large as this one", sharing.arrivals, "query: sharing.arrivals")
        yield _of("1 / mu", "how long one runs", Q(plan.job.days, "day"), "wall 11")
        yield _of("T_wait", "mean wait", Q(plan.job.wait_days, "day"), "this equation")


def _capital(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    yield _of("n", f"instances of {plan.offer.instance}, {job.spare_instances} of them spare", job.instances, "plan")
    yield _of("p", f"price of one, {job.option}", plan.offer.price.to("USD/hour"), plan.offer.source)
    yield _of("T", "hours", Q(job.days * 24, "hour"), "wall 11")
    what = "n p T" if "reserved" not in job.option else "n p max(T, the term)"
    yield _of("OpEx", what, Q(job.cost_usd, "USD"), "this product; nothing is bought, so no CapEx")


def _sustainability(plan: _Plan) -> Iterator[Argument]:
    job, site = plan.job, plan.site
    place, method = site.region.source, plan.question.query.carbon.method
    it = Q(job.energy_mwh / site.pue, "MWh")
    draw = figure(plan.question.catalog, "average draw as fraction of TDP, training")
    yield _of("TDP", job.chip, plan.chip.tdp, plan.chip.source)
    yield _of("u", "average draw as a fraction of TDP, training", draw, _CATALOG)
    yield _of("E", "energy of the machines", it, "n T (TDP u and the host)")
    yield _of("PUE", site.region.name, site.pue, place if site.region.pue is not None else _CATALOG)
    yield _of("CI", f"{method} intensity of the grid", site.intensity.to("gCO2e/kWh"), place)
    yield _of("CO2", "E PUE CI", Q(job.carbon_tco2e, "tCO2e"), "this product")
    yield _of("WUE", site.region.name, site.wue, place if site.region.wue is not None else _CATALOG)
    yield _of("W", "water", Q(job.water_m3, "kiloliter"), "E WUE")
    yield _of("P", "power at full load, at the meter", Q(job.power_kw, "kW"), "n nameplate PUE")


def _checkpoint(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    store = question.catalog.find("storage", question.store.name)
    each, together = question.store.write
    yield _of("S", "a checkpoint: weights and optimizer state", checkpoint_of(question).to("GB"), "models/operations.py")
    if each is not None:
        yield _of("BW", f"{store.name}, one node writing", each.to("GB/s"), store.source)
    if together is not None:
        yield _of("BW", f"{store.name}, all together", together.to("GB/s"), store.source)
    yield _of("T_write", "S / BW", Q(job.checkpoint_write_s, "s"), "this equation")
    yield _of("T_interval", "between checkpoints", Q(job.checkpoint_interval_s, "s"), "Daly (2006), wall 15")
    yield _of("penalty", "T_write / T_interval", job.checkpoint_write_s / job.checkpoint_interval_s, "this equation")


def _safety(plan: _Plan) -> Iterator[Argument]:
    privacy = plan.question.query.workload.privacy
    if privacy is not None and plan.question.noise is not None:
        yield _of("epsilon", "privacy loss that may be spent", privacy.epsilon, "query: workload.privacy")
        yield _of("delta", "chance that it fails", privacy.delta, "query: workload.privacy")
        yield _of("sigma", "noise multiplier", plan.question.noise, "models/operations.py, noise_multiplier")
        yield _of("", "slowdown of a step", plan.question.task.slowdown, f"method {privacy.method}")


_WALLS = {
    1: _compute, 2: _memory, 3: _software, 6: _kernels, 8: _ingestion, 9: _transformation, 10: _locality, 11: _complexity,
    14: _communication, 15: _fragility, 16: _waiting, 17: _capital, 18: _sustainability, 19: _checkpoint, 20: _safety,
}  # fmt: skip
