"""The exact check of a job: one offer, one count, one layout through the forward models alone. No solver, no search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models import node, training
from models.training import FULL, NONE, SELECTIVE
from models.training_constants import RECIPES
from models.training_job import model_utilisation, stage_split
from zoo.specs import Accelerator, Offer
from zoo.units import Q, Quantity

from .. import columns
from ..permitted import offer_faults
from ..plan import WallRow
from ..program import whole
from ..space import Machine
from .job import (
    Service,
    accelerator_of,
    bounds_of,
    clause_of,
    fed_of,
    goodput_with,
    hours_of,
    longest,
    objective_of,
    rates_of,
    rented,
    service_of,
    stands_alone,
    totals_of,
    wait_of,
)
from .layouts import Cores, Strategies, cores_of, layouts_of, strategies_of
from .market import Column, Family, Market, families_of
from .measured import best_measured
from .plan import Job, Ranked, TrainLayout
from .question import OPTIMAL_RATIO, Question, finish_date
from .report_units import written
from .search import Found, memory_of, permits, step_of

_RECOMPUTE = {NONE: "none", SELECTIVE: "selective", FULL: "full"}
_STAGES = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3, "hybrid": 3}


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen: an offer, how many accelerators train, and their layout."""

    offer: str
    accelerators: int
    layout: TrainLayout


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A job, checked. `violations` is empty when every wall holds."""

    job: Job
    walls: tuple[WallRow, ...]
    totals: dict[str, float]
    objective: int
    violations: tuple[str, ...]
    assumptions: tuple[str, ...]


def layout_of(question: Question, found: Found) -> TrainLayout:
    """A layout that was found, in the words of a report."""
    layout = found.layout

    def one(name: str) -> int:
        return int(np.ravel(getattr(layout, name))[0])

    stage, hybrid = one("zero_stage"), bool(one("hybrid_shard"))
    data, micro = one("data_parallel"), one("microbatch")
    return TrainLayout(
        precision=str(np.ravel(layout.precision)[0]),
        tensor_parallel=one("tensor_parallel"),
        pipeline_parallel=one("pipeline_parallel"),
        virtual_stages=one("virtual_stages"),
        context_parallel=one("context_parallel"),
        expert_parallel=one("expert_parallel"),
        data_parallel=data,
        microbatch=micro,
        microbatches=question.query.workload.sequences // (data * micro),
        sequence_parallel=bool(one("sequence_parallel")),
        recompute=_RECOMPUTE[one("recompute")],
        sharding="hybrid" if hybrid else ("none", "zero1", "zero2", "zero3")[stage],
        offload=found.offloaded,
        activation_offload=found.activations_offloaded,
        tensor_overlap=_overlap(question, "tensor", one),
        data_overlap=_overlap(question, "data", one),
        stage_layers=stage_split(
            question.model.layers, one("pipeline_parallel"), one("stage_layers"), question.task.choices.logit_layers
        ),
    )


def _overlap(question: Question, name: str, one: Callable[[str], int]) -> bool | None:
    """Whether communication of this kind is hidden; None where there is none, or nothing to switch in this stack."""
    ways = question.task.choices.ways
    if name == "tensor":
        return bool(one("tensor_overlap")) if ways.tensor_overlap and one("tensor_parallel") > 1 else None
    ranks = one("data_parallel") * one("context_parallel")
    return bool(one("data_overlap")) if ways.data_overlap and ranks > 1 else None


def strategy_of(question: Question, layout: TrainLayout) -> Strategies:
    """A layout as arrays of one."""
    return strategies_from(question, [layout])


def strategies_from(question: Question, layouts: Sequence[TrainLayout]) -> Strategies:
    """Layouts of one number format as arrays."""

    def each(name: str) -> Any:
        values = (getattr(layout, name) for layout in layouts)
        return np.array([max(value) if isinstance(value, tuple) else value for value in values])

    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel", "expert_parallel", "microbatch",
             "virtual_stages", "stage_layers")  # fmt: skip
    core = Cores(*(each(name) for name in names))
    stage = np.array([_STAGES[layout.sharding] for layout in layouts])
    modes = {name: mode for mode, name in _RECOMPUTE.items()}
    always = "none" not in question.task.choices.ways.sharding
    arrays = layouts_of(
        core, layouts[0].precision, each("sequence_parallel"), np.array([modes[layout.recompute] for layout in layouts]), stage,
        (stage >= 3) | ((stage == 2) & always), each("sharding") == "hybrid",
        np.array([layout.tensor_overlap is not False for layout in layouts]),
        np.array([layout.data_overlap is not False for layout in layouts]),
    )  # fmt: skip
    return Strategies(arrays, each("offload"), each("activation_offload"), np.arange(len(layouts)))


def operations_of_step(question: Question) -> Quantity:
    """What the model needs in a step [flop], nothing twice: 6 P D and the whole attention matrix, forward and backward."""
    workload, model = question.query.workload, question.model
    tokens = float(workload.sequences * workload.length)
    attention = 2 * node.attention_operations(model, Q(float(workload.length), "token"), Q(0.0, "token"))
    operations: Quantity = Q(6.0 * model.active_parameters * tokens, "flop") + 3 * workload.sequences * attention
    return operations


def utilisation(question: Question, chip: Accelerator, precision: str, accelerators: int, step: float) -> float:
    """MFU at the chip's peak for this precision."""
    return float(
        model_utilisation(operations_of_step(question), float(accelerators), chip.peak[RECIPES[precision][1]], Q(step, "s"))
    )


def ranked_of(question: Question, family: Family, accelerators: int, found: tuple[Found, ...]) -> tuple[Ranked, ...]:
    """The best layouts as rows."""
    if not found:
        return ()
    accelerator = accelerator_of(question, family.machine, accelerators)
    layouts = [layout_of(question, each) for each in found]
    rows: dict[int, Ranked] = {}
    for precision in dict.fromkeys(layout.precision for layout in layouts):
        places = [place for place, layout in enumerate(layouts) if layout.precision == precision]
        strategy = strategies_from(question, [layouts[place] for place in places])
        step = step_of(family.task, accelerator, strategy, family.host)
        peak = memory_of(family.task, accelerator, strategy).peak.m_as("GiB")
        for i, place in enumerate(places):
            rows[place] = Ranked(
                rank=place + 1,
                layout=layouts[place],
                step_s=float(step.total[i]),
                step_low_s=float(step.low[i]),
                step_high_s=float(step.high[i]),
                mfu=utilisation(question, accelerator, precision, accelerators, float(step.total[i])),
                memory_gib=float(peak[i]),
                slower_by=found[place].ranked / found[0].ranked - 1,
            )
    return tuple(rows[place] for place in range(len(found)))


def family_of(question: Question, offer: Offer) -> Family:
    """The family of an offer, whether the question allows it or not. Raises ValueError where a figure of it is not known."""
    if offer.name not in {one.name for one in question.offers}:
        question = replace(question, offers=(*question.offers, offer))
    band = offer.interruption_band if offer.option == "spot" else None
    kind = (offer.accelerator, offer.accelerators, offer.domain)
    alike = tuple(other for other in question.offers if (other.accelerator, other.accelerators, other.domain) == kind)
    for family in families_of(replace(question, offers=alike), Market(question, [])):
        spot = family.spot.interruption_band if family.spot is not None else None
        machine = family.machine
        if (machine.accelerator.name, machine.accelerators, machine.domain, spot) == (
            offer.accelerator, offer.accelerators, offer.domain, band,
        ):  # fmt: skip
            return family
    raise ValueError(f"{offer.name}: its power, its carbon intensity or how often it is interrupted is not known")


def job_of(question: Question, column: Column) -> Job:
    """A column that was searched as a job, from the forward models; of the question's offers only its own kind is looked at."""
    assert column.found is not None
    alike = tuple(offer for offer in question.offers if offer.accelerator == column.offer.accelerator)
    return evaluate(
        replace(question, offers=alike), Decision(column.offer.name, column.accelerators, layout_of(question, column.found))
    ).job


def evaluate(question: Question, decision: Decision) -> Evaluated:
    """Every figure and every wall of a job, from the forward models. Raises zoo.errors.UnknownName for an offer that is gone."""
    catalog, query = question.catalog, question.query
    offer: Offer = catalog.find("offers", decision.offer)
    family = family_of(question, offer)
    machine, layout, count = family.machine, decision.layout, decision.accelerators
    accelerator = accelerator_of(question, machine, count)
    site = columns.site_of(catalog.regions[offer.region], query, columns.means_of(catalog))
    if isinstance(site, str):
        raise ValueError(site)
    strategy = strategy_of(question, layout)
    step = step_of(family.task, accelerator, strategy, family.host)
    memory = memory_of(family.task, accelerator, strategy)
    ranked = float(step.ranked(question.task.pessimistic)[0])
    nodes = np.array([float(count)])
    service = service_of(question, machine, nodes, family.spot, family.vcpus)
    good = service.goodput
    fraction = np.asarray(good.fraction)
    hours = hours_of(question, service, np.array([ranked]), fraction)
    instances = rented(question, machine, nodes)
    rates = rates_of(question, [offer], [site])
    exact = totals_of(rates, instances, machine.accelerators, hours)
    totals = {name: whole(Q(values[0], ""), Q(1.0, ""), "up")[0] for name, values in exact.items()}
    objective = whole(Q(objective_of(question, exact)[0], ""), Q(1.0, ""), "up")[0]
    wait = float(wait_of(question, hours)[0])
    often, _, seldom = (np.asarray(goodput_with(question, machine, nodes, family.spot, m).fraction) for m in question.mtbf)
    low = hours_of(question, service, step.low, seldom)
    high = hours_of(question, service, step.high, often)
    days = float(hours[0]) / 24
    mfu = utilisation(question, accelerator, layout.precision, count, float(step.total[0]))
    best = best_measured(catalog, machine.accelerator, layout.precision)
    total_step = float(step.total[0])
    tokens = float(query.workload.sequences * query.workload.length)
    exact_cost = float(exact["cost"][0, 0]) / 100
    job = Job(
        region=offer.region,
        offer=offer.name,
        chip=machine.accelerator.name,
        option=offer.option,
        instances=round(float(instances[0])),
        accelerators=count,
        spare_instances=round(float(instances[0])) - count // machine.accelerators,
        layout=layout,
        tokens=float(question.tokens.m_as("token")),
        steps=question.steps,
        step_s=total_step,
        step_low_s=float(step.low[0]),
        step_high_s=float(step.high[0]),
        ranked_step_s=ranked,
        step_parts_s={name: value for name, part in step.parts.items() if (value := _first(part, "s")) > 0},
        tokens_per_s_per_accelerator=tokens / total_step / count,
        mfu=mfu,
        mfu_best_measured=None if best is None else best.utilisation,
        mfu_note=_note(mfu, best),
        memory_gib={name: value for name, part in memory.parts.items() if (value := _first(part, "GiB")) > 0},
        memory_peak_gib=_first(memory.peak, "GiB"),
        memory_there_gib=_first(memory.capacity, "GiB"),
        goodput=float(fraction[0]),
        goodput_low=float(often[0]),
        goodput_high=float(seldom[0]),
        job_mtbf_h=_first(good.mtbf, "hour"),
        failures=float(hours[0]) / _first(good.mtbf, "hour"),
        checkpoint_gb=_first(service.checkpoint, "GB"),
        checkpoint_interval_s=_first(good.interval, "s"),
        checkpoint_write_s=_first(good.write_time, "s"),
        fed=float(fed_of(service, np.array([ranked]))[0]),
        wait_days=wait / 24,
        days=days,
        days_low=float(low[0]) / 24,
        days_high=float(high[0]) / 24,
        start=question.start.isoformat(),
        finish=finish_date(question.start, Q(float(hours[0]) + wait, "hour")),
        cost_usd=exact_cost,
        usd_per_million_tokens=exact_cost / float(question.tokens.m_as("token")) * 1e6,
        energy_mwh=float(exact["energy"][0, 0]) / 1e6,
        carbon_tco2e=float(exact["carbon"][0, 0]) / 1e6,
        water_m3=float(exact["water"][0, 0]) / 1e4,
        power_kw=float(exact["power"][0, 0]) / 1e3,
        price_usd_per_h=float(offer.price.m_as("USD/hour")),
        price_date=offer.source.date,
        price_source=offer.source.text,
        price_flags=offer.flags,
    )
    walls = _walls(question, family, job, accelerator, service)
    violations = [
        *offer_faults(query, catalog, offer),
        *_broken(question, offer, totals, instances, machine.accelerators, layout, count, accelerator),
    ]
    if not bool(np.all(permits(family.task, memory))):
        violations.append(f"wall 2: {job.memory_peak_gib:.4g} GiB of {job.memory_there_gib:.4g}")
    notes = [f"calibration: {note}" for note in step.notes]
    if not bool(np.all(memory.fits)) and not violations:
        notes.append(
            f"memory: the expected peak of the given layout, {job.memory_peak_gib:.4g} GiB, exceeds the "
            f"{job.memory_there_gib:.4g} GiB there; at least {_first(memory.minimum, 'GiB'):.4g} GiB are needed, so it runs "
            "only where the stack offloads, recomputes or compresses more than the layout says"
        )
    return Evaluated(job, tuple(walls), job_totals(job), objective, tuple(violations), (*site.assumptions, *notes))


def _broken(
    question: Question, offer: Offer, totals: Mapping[str, int], instances: Any, size: int, layout: TrainLayout, count: int,
    accelerator: Accelerator,
) -> list[str]:  # fmt: skip
    """Limits, quotas and the rules of the space that a job breaks."""
    result = []
    for name, bound in bounds_of(question).items():
        if totals[name] > bound:
            result.append(f"{clause_of(question, name)}: {written(name, totals[name])}, more than {written(name, bound)}")
    for place, quota in enumerate(question.query.supply.quota):
        used = totals["chips"] if quota.chips is not None else round(float(instances[0]))
        allowed = quota.chips if quota.chips is not None else quota.instances or 0
        if columns.matches(quota, offer, question.catalog) and used > allowed:
            result.append(f"supply.quota[{place}]: {used} of {allowed}")
    wanted = question.query.supply.accelerators
    if stands_alone(Machine(question.catalog.chips[offer.accelerator], size, offer.domain)) and count > size:
        result.append(f"wall 10: {count} accelerators of instances that are parts of a board")
    if count % size or (wanted is not None and not wanted[0] <= count <= wanted[1]):
        result.append(f"supply.accelerators: {count} on instances of {size}")
    cores = cores_of(count, question.task.choices)
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel", "expert_parallel", "microbatch")
    same = np.all([getattr(cores, n.removesuffix("_parallel")) == getattr(layout, n) for n in names], axis=0)
    same &= (cores.virtual_stages == layout.virtual_stages) & (cores.stage_layers == max(layout.stage_layers))
    at = np.flatnonzero(same)
    every = strategies_of(cores.at(at), question.task.choices, layout.precision, accelerator.scale_up_domain)
    wished = strategy_of(question, layout)
    match = [
        np.asarray(getattr(every.layouts, n)) == np.asarray(getattr(wished.layouts, n))
        for n in ("sequence_parallel", "recompute", "zero_stage", "hybrid_shard", "tensor_overlap", "data_overlap")
    ]
    match += [every.offloaded == wished.offloaded, every.activations_offloaded == wished.activations_offloaded]
    if not len(at) or not bool(np.any(np.all(match, axis=0))):
        result.append("the layout does not divide the model, the batch and the accelerators, or is none that the stack has")
    return result


def _first(value: Quantity, unit: str) -> float:
    return float(np.ravel(value.m_as(unit))[0])


def _note(mfu: float, best: Any) -> str:
    if best is None:
        return "no measured run on this chip in this precision"
    if mfu > best.utilisation:
        return f"beats the best ever measured on this chip ({best.utilisation:.1%}, {best.model}): too hopeful, or a first"
    return f"best measured on this chip: {best.utilisation:.1%} ({best.model})"


def job_totals(job: Job) -> dict[str, float]:
    return {
        "days": job.days,
        "cost_usd": job.cost_usd,
        "usd_per_million_tokens": job.usd_per_million_tokens,
        "carbon_tco2e": job.carbon_tco2e,
        "energy_mwh": job.energy_mwh,
        "water_m3": job.water_m3,
        "power_kw": job.power_kw,
        "accelerators": float(job.accelerators),
        "instances": float(job.instances),
        "accelerator_hours": job.accelerators * job.days * 24,
    }


def _row(
    number: int, name: str, what: str, demand: float, limit: float | None, unit: str, origin: str, where: str,
    tight: bool = False,
) -> WallRow:  # fmt: skip
    headroom = None if not limit else (limit - demand) / limit
    return WallRow(
        number=number, name=name, what=what, demand=demand, limit=limit, unit=unit, headroom=headroom, tight=tight,
        origin=origin if limit is not None else "none", where=where,  # type: ignore[arg-type]
    )  # fmt: skip


# A limit is tight where less than this is left of it.
_TIGHT = 0.01


def _walls(
    question: Question, family: Family, job: Job, accelerator: Accelerator, service: Service
) -> list[WallRow]:  # fmt: skip
    """Every wall of a job: what it asks, what there is. The largest term of the step counts as tight."""
    query, where = question.query, job.offer
    by_wall: dict[str, float] = {}
    for name, seconds in job.step_parts_s.items():
        wall = training.WALLS.get(name, "bubble" if name == "uneven_stages" else "fixed")
        by_wall[wall] = by_wall.get(wall, 0.0) + seconds
    shares = {name: seconds / job.step_s for name, seconds in by_wall.items()}
    largest = max(shares, key=lambda name: shares[name])
    achieved = job.mfu / max(shares.get("compute", 1.0), 1e-9)
    demand = float(service.read.m_as("s")[0]) * float(np.ravel(service.supply.m_as("GB/s"))[0]) / job.ranked_step_s
    limits = query.limits
    ratio = job.tokens / question.model.active_parameters
    rows = [
        _row(1, "compute", "matrix products and attention", shares.get("compute", 0.0), None, "of step", "none", where,
             largest == "compute"),
        _row(1, "compute", "MFU", job.mfu, 1.0, "of peak", "physics", where),
        _row(2, "memory", "bytes per accelerator", job.memory_peak_gib, job.memory_there_gib, "GiB", "physics", where,
             job.memory_peak_gib > (1 - _TIGHT) * job.memory_there_gib),
        _row(3, "software", "peak reached while computing", achieved, 1.0, "of peak", "physics", where),
        _row(6, "streaming", "memory-bound kernels", shares.get("memory_bound", 0.0), None, "of step", "none", where,
             largest == "memory_bound"),
        _row(8, "ingestion", "tokens read", demand, float(np.ravel(service.supply.m_as("GB/s"))[0]), "GB/s", "physics", where,
             job.fed < 1),
        _row(10, "locality", "bandwidth each accelerator keeps across the network",
             *_network(family, accelerator), "of its port", "physics", where),
        _row(11, "complexity", f"tokens per parameter (optimum: {OPTIMAL_RATIO:g})", ratio, None, "tokens", "none",
             where),
        _row(11, "complexity", "time to train", job.days, longest(question) / 24 if question.deadline is not None else None,
             "days", "query", where, question.deadline is not None and job.days > (1 - _TIGHT) * longest(question) / 24),
        _row(14, "communication", "exposed", shares.get("communication", 0.0), None, "of step", "none", where,
             largest == "communication"),
        _row(14, "communication", "pipeline bubble and uneven stages", shares.get("bubble", 0.0), None, "of step", "none", where,
             largest == "bubble"),
        _row(14, "communication", "wait for the slowest accelerator", shares.get("stragglers", 0.0), None, "of step", "none",
             where, largest == "stragglers"),
        _row(15, "fragility", "time lost to failures and checkpoints", 1 - job.goodput, None, "of time", "none", where),
        _row(15, "fragility", "times interrupted", job.failures, None, "in all", "none", where),
        _row(19, "checkpoint", "time to write one", job.checkpoint_write_s, job.checkpoint_interval_s, "s", "physics", where),
    ]  # fmt: skip
    if service.transform is not None:
        rows.append(_row(9, "transformation", "time to prepare a step's tokens", float(np.ravel(service.transform.m_as("s"))[0]),
                         job.ranked_step_s, "s", "physics", where, job.fed < 1))  # fmt: skip
    if query.sharing is not None:
        rows.append(_row(16, "multi-tenant", "mean wait", job.wait_days, None, "days", "none", where))
    if question.noise is not None:
        rows.append(_row(20, "safety", "noise multiplier", question.noise, None, "of clipping norm", "none", where))
    money = {"cost": (17, "capital", "USD", job.cost_usd), "power": (18, "sustainability", "kW", job.power_kw),
             "carbon": (18, "sustainability", "tCO2e", job.carbon_tco2e),
             "water": (18, "sustainability", "m3", job.water_m3)}  # fmt: skip
    for name, (number, wall, unit, value) in money.items():
        bound = getattr(limits, name)
        limit = None if bound is None else float(bound.m_as("USD" if unit == "USD" else {"m3": "kiloliter"}.get(unit, unit)))
        rows.append(
            _row(number, wall, name, value, limit, unit, "query", "job", limit is not None and value > (1 - _TIGHT) * limit)
        )

    return sorted(rows, key=lambda row: row.number)


def _network(family: Family, accelerator: Accelerator) -> tuple[float, float]:
    port = family.machine.accelerator.nic_bandwidth
    if port is None or accelerator.nic_bandwidth is None:
        return 1.0, 1.0
    return float((accelerator.nic_bandwidth / port).m_as("")), 1.0
