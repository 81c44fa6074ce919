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

from ..arguments import OF_WHOLE_PLANS, argument, page
from ..columns import Site, figure, means_of, site_of
from ..plan import Argument, WallPage
from .check import evaluate, family_of, operations_of_step, strategy_of, utilisation
from .job import TERMS, Service, accelerator_of, checkpoint_of, service_of, spot_mtbf
from .parts import Step, collectives, kernels, step_of
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


def _step(plan: _Plan) -> Step:
    """What the job's step is made of."""
    question, job = plan.question, plan.job
    family = family_of(question, plan.offer)
    accelerator = accelerator_of(question, family.machine, job.accelerators)
    return step_of(family.task, accelerator, job, strategy_of(question, job.layout).layouts, question.query.calibration_file)


def _part(plan: _Plan, *walls: str) -> Iterator[Argument]:
    """The terms of the step that belong to these parts of the forward model."""
    for name, seconds in plan.job.step_parts_s.items():
        if training.WALLS.get(name) in walls:
            yield argument("t", name.replace("_", " "), Q(seconds, "s"), f"{_MODEL}, in each step")


def _seconds(plan: _Plan, wall: str) -> float:
    """Time of a step that counts as a wall's."""
    return sum(seconds for name, seconds in plan.job.step_parts_s.items() if training.WALLS.get(name) == wall)


def _compute(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    peak = plan.chip.peak[RECIPES[job.layout.precision][1]].to("TFLOP/s")
    operations, tokens = operations_of_step(question), float(question.query.workload.sequences * question.query.workload.length)
    dense = Q(6.0 * question.model.active_parameters * tokens, "flop")
    yield argument("D_s", "tokens of a step", Q(tokens, "token"), "query: workload")
    yield argument("P", f"active parameters of {question.model.name}", float(question.model.active_parameters),
                   question.model.source)  # fmt: skip
    yield argument("OPs_a", "the attention matrix, forward and backward", (operations - dense).to("PFLOP"), "models/node.py")
    yield argument("OPs", "6 P D_s + OPs_a, nothing twice", operations.to("PFLOP"), _HERE)
    yield argument("Peak", f"{job.chip} in {job.layout.precision}, each", peak, plan.chip.source)
    yield argument("N", "accelerators", job.accelerators, "plan")
    yield argument("T_0", "OPs / (N Peak), at the full peak", (operations / (job.accelerators * peak)).to("s"), _HERE)
    yield from _part(plan, "compute")
    yield argument("T", "a whole step, typical: the sum of all its parts (`step by term`)", Q(job.step_s, "s"), _MODEL)
    mfu = utilisation(question, plan.chip, job.layout.precision, job.accelerators, job.step_s)
    yield argument("eta", "T_0 / T, of the peak over the whole step (MFU)", mfu, _HERE)
    yield argument("share", "sum of t / T, of the step", _seconds(plan, "compute") / job.step_s, _HERE)


def _memory(plan: _Plan) -> Iterator[Argument]:
    for name, amount in sorted(plan.job.memory_gib.items(), key=lambda item: -item[1]):
        yield argument("M", name.replace("_", " "), Q(amount, "GiB"), "models/training_memory.py")
    yield argument("sum M", "on the fullest accelerator", Q(plan.job.memory_peak_gib, "GiB"), "this sum")
    yield argument("C", f"nominal memory of {plan.job.chip}; what is kept free counts as demand (reserve)",
                   Q(plan.job.memory_there_gib, "GiB"), plan.chip.source)  # fmt: skip
    step = _step(plan)
    yield from kernels(step)
    each = step.run.machine.element
    weights = each * step.count.local_parameters
    yield argument("P", "parameters of the fullest rank", step.count.local_parameters, "zoo: the model's shape, and the layout")
    yield argument("b", f"bytes of each as it is multiplied ({plan.job.layout.precision})", each.to("byte"), _MODEL)
    yield argument("|W|", "P b", weights.to("GB"), _HERE)
    yield argument("T_W", "|W| / BW_HBM: to read the weights once at the full bandwidth",
                   (weights / plan.chip.memory_bandwidth).to("ms"), _HERE)  # fmt: skip


def _software(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    compute = _seconds(plan, "compute")
    yield argument("MFU", "of the peak over the whole step, typical", job.mfu, f"{_MODEL}, constants fitted to measured runs")
    yield from _part(plan, "compute")
    yield argument("T", "a whole step, typical", Q(job.step_s, "s"), _MODEL)
    yield argument("s", "sum of t / T, of the step in matrix products and attention", compute / job.step_s, _HERE)
    yield argument("eta", "MFU / s, of the peak while computing", job.mfu * job.step_s / compute, "this equation")
    if job.mfu_best_measured is not None:
        yield argument("", "best MFU ever measured on this chip", job.mfu_best_measured, "models/data/training_measurements.csv")


def _kernels(plan: _Plan) -> Iterator[Argument]:
    yield from kernels(_step(plan))


def _ingestion(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    workload = question.query.workload
    service = _service(plan)
    rate = Q(workload.sequences * workload.length / job.ranked_step_s, "token/s")
    store = question.catalog.find("storage", question.store.name)
    demand = (service.read * service.supply / Q(job.ranked_step_s, "s")).to("GB/s")
    yield argument("D_s", "tokens of a step", Q(float(workload.sequences * workload.length), "token"), "query: workload")
    yield argument("T", f"a step, {question.query.rank}", Q(job.ranked_step_s, "s"), _MODEL)
    yield argument("r", "D_s / T, tokens trained on", rate, _HERE)
    yield argument("b", "of a token", Q(published("bytes_per_token").typical, "byte"), "models/data/training_job.csv")
    yield argument("BW_demand", "r b", demand, "this product")
    yield argument("BW_supply", store.name, service.supply.to("GB/s"), store.source)
    yield argument("rho", "BW_demand / BW_supply", (demand / service.supply).to(""), "this equation")


def _transformation(plan: _Plan) -> Iterator[Argument]:
    family = family_of(plan.question, plan.offer)
    service = _service(plan)
    if service.transform is None or family.vcpus is None:
        return
    workload = plan.question.query.workload
    yield argument("D_s", "tokens of a step", Q(float(workload.sequences * workload.length), "token"), "query: workload")
    yield argument("b", "of a token", Q(published("bytes_per_token").typical, "byte"), "models/data/training_job.csv")
    yield argument("n", "instances that train", plan.job.accelerators / plan.offer.accelerators, "plan")
    yield argument("c", "processors of an instance, two threads each", family.vcpus / 2, plan.offer.source)
    yield argument("C_tput", "that one of them prepares", Q(published("token_megabytes_per_core_second").low, "MB/s"),
                   "models/data/training_job.csv")  # fmt: skip
    yield argument("T", "D_s b / (n c C_tput)", service.transform.to("s"), _HERE)


def _locality(plan: _Plan) -> Iterator[Argument]:
    fabric, nic, count = plan.question.query.fabric, plan.chip.nic_bandwidth, float(plan.job.accelerators)
    if nic is None:
        return
    share = data.bisection_fraction(fabric.topology, count)
    yield argument("BW_link", "network port of one accelerator", nic.to("GB/s"), plan.chip.source)
    yield argument("beta", f"of {fabric.topology} with {plan.job.accelerators} endpoints", float(share), "models/data.py")
    yield argument("osub", "oversubscription", fabric.oversubscription, "query: fabric")
    kept = data.effective_bandwidth(nic, fabric.topology, count, fabric.oversubscription)
    yield argument("BW_eff", "BW_link beta / osub", kept.to("GB/s"), _HERE)
    yield argument("share", "BW_eff / BW_link, of its port", (kept / nic).to(""), _HERE)


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
    waits = ", without waiting for the machines (wall 16)" if job.wait_days else ""
    yield argument("T", f"n t / (g fed){waits}", Q(job.days, "day"), _HERE)


def _communication(plan: _Plan) -> Iterator[Argument]:
    yield from collectives(_step(plan))


def _fragility(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    given = question.query.reliability.mtbf is not None
    yield argument("MTBF_node", "between interruptions of one accelerator", question.mtbf[1].to("hour"),
              "query: reliability.mtbf" if given else "zoo/data/reliability.csv")  # fmt: skip
    yield argument("N", "accelerators", job.accelerators, "plan")
    together = "MTBF_node / N"
    if job.option == "spot":
        yield argument("MTBF_spot", f"of an instance that may be taken back ({plan.offer.interruption_band} a month)",
                       spot_mtbf(plan.offer).to("hour"), plan.offer.source)  # fmt: skip
        yield argument("n", "instances", job.accelerators / plan.offer.accelerators, "plan")
        together = "1 / (N / MTBF_node + n / MTBF_spot)"
    yield argument("MTBF_cluster", together, Q(job.job_mtbf_h, "hour"), _HERE)
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
    yield argument("lost", "1 - goodput, of the time", 1 - job.goodput, _HERE)
    yield argument("T", "of the job", Q(job.days * 24, "hour"), "wall 11")
    yield argument("failures", "T / MTBF_cluster", job.failures, _HERE)


def _waiting(plan: _Plan) -> Iterator[Argument]:
    sharing = plan.question.query.sharing
    if sharing is not None:
        yield argument("lambda", "jobs as large as this one", sharing.arrivals, "query: sharing.arrivals")
        yield argument("1/mu", "how long one runs", Q(plan.job.days, "day"), "wall 11")
        load = float((sharing.arrivals * Q(plan.job.days, "day")).to(""))
        yield argument("rho", "lambda / mu", load, _HERE)
        yield argument("cs2", "variability of how long jobs run", sharing.variability, "query: sharing.variability")
        yield argument("T_wait", "(1 + cs2)/2 rho (1/mu) / (1 - rho), mean wait", Q(plan.job.wait_days, "day"), _HERE)


def _capital(plan: _Plan) -> Iterator[Argument]:
    job = plan.job
    yield argument("n", f"instances of {plan.offer.instance}, {job.spare_instances} of them spare", job.instances, "plan")
    yield argument("p", f"price of one, {job.option}", plan.offer.price.to("USD/hour"), plan.offer.source)
    yield argument("T", "hours", Q(job.days * 24, "hour"), "wall 11")
    what, term = "n p T", TERMS.get(job.option)
    if term is not None:
        yield argument("term", "paid for even if unused", term.to("hour"), f"offer: {job.option}")
        what = "n p max(T, term)"
    yield argument("OpEx", what, Q(job.cost_usd, "USD"), "this product; nothing is bought, so no CapEx")


def _sustainability(plan: _Plan) -> Iterator[Argument]:
    job, site = plan.job, plan.site
    question = plan.question
    place, method = site.region.source, question.query.carbon.method
    it = Q(job.energy_mwh / site.pue, "MWh")
    draw = figure(question.catalog, "average draw as fraction of TDP, training")
    yield argument("n", "accelerators of all rented instances", job.instances * plan.offer.accelerators, "plan")
    yield argument("T", "hours of the job, without waiting", Q(job.days * 24, "hour"), "wall 11")
    yield argument("TDP", job.chip, plan.chip.tdp, plan.chip.source)
    yield argument("u", "average draw as a fraction of TDP, training", draw, _CATALOG)
    yield argument("s", "part of a server's nameplate that its host draws", plan.chip.host_power_share or 0.0, plan.chip.source)
    yield argument("E", "n T TDP (u + s/(1 - s)), of the machines", it.to("MWh"), _HERE)
    yield argument("PUE", site.region.name, site.pue, place if site.region.pue is not None else _CATALOG)
    yield argument("CI", f"{method} intensity of the grid", site.intensity.to("gCO2e/kWh"), place)
    made = ""
    if question.query.carbon.embodied:
        life, made = figure(question.catalog, "accelerator amortisation life"), " + n CO2_1 T / life"
        yield argument("CO2_1", "of making one accelerator", plan.chip.embodied or Q(0.0, "kgCO2e"), plan.chip.source)
        yield argument("life", "over which that is spread", Q(life, "year").to("hour"), _CATALOG)
    yield argument("CO2", f"E PUE CI{made}", Q(job.carbon_tco2e, "tCO2e"), _HERE)
    yield argument("WUE", site.region.name, site.wue, place if site.region.wue is not None else _CATALOG)
    yield argument("W", "water", Q(job.water_m3, "kiloliter"), "E WUE")
    yield argument("P", "power at full load, at the meter", Q(job.power_kw, "kW"), "n TDP (1 + s/(1 - s)) PUE")


def _checkpoint(plan: _Plan) -> Iterator[Argument]:
    job, question = plan.job, plan.question
    store = question.catalog.find("storage", question.store.name)
    each, together = question.store.write
    yield argument("S", "a checkpoint: weights and optimizer state", checkpoint_of(question).to("GB"), "models/operations.py")
    nodes = job.accelerators / plan.offer.accelerators
    if each is not None:
        yield argument("n", "instances that write", nodes, "plan")
        yield argument("BW_1", f"{store.name}, one instance writing", each.to("GB/s"), store.source)
    if together is not None:
        yield argument("BW_all", f"{store.name}, all together", together.to("GB/s"), store.source)
    bound = "min(n BW_1, BW_all)" if each is not None and together is not None else "BW_all" if each is None else "n BW_1"
    written = checkpoint_of(question) / Q(job.checkpoint_write_s, "s")
    yield argument("BW", bound, written.to("GB/s"), "models/operations.py, write_time")
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
    9: ("T = D_s b / (n c C_tput), of a step", _transformation),
    10: ("BW_eff = BW_link beta / osub", _locality),
    11: ("C = 6 P D; T = n t / (g fed)", _complexity),
    14: ("T_1 of one collective from M, beta and its latency; t is what a step shows of it beside the rest", _communication),
    15: ("goodput = tau / (M e^(R/M) (e^((tau + delta)/M) - 1)), M = MTBF_cluster", _fragility),
    16: ("T_wait = (1 + cs2)/2 rho (1/mu) / (1 - rho), Pollaczek and Khinchine", _waiting),
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
    **OF_WHOLE_PLANS,
}
