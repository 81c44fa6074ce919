"""Why not X: force X on a training question, solve again, and say what it costs, what forbids it, and when it would win."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.units import Quantity

from .. import in_parallel
from ..marginal import FARTHEST, turning_point, whole
from ..query import TrainQuery
from ..records import CannotBe, QueryError
from ..scalars import text_of
from ..whynot import forbidding, in_words, meant, parse, rounded_up
from .asking import Asker
from .check import job_of
from .infeasible import why_infeasible
from .job import UNITS, accelerator_of, limit_for
from .layouts import cores_of, strategies_of
from .least import CLAUSES, bounded, minimising
from .marginal import Knob, knobs
from .market import Column, Market, counts_of
from .plan import Job, Shortfall, TrainPlan, TrainWhyNot
from .question import Question
from .report_units import in_units, unit_of
from .search import memory_of
from .solve import ends_at


def _degree(name: str) -> Callable[[str], dict[str, object]]:
    return lambda degree: {f"parallelism.{name}": f"[{degree}]"}


# What can be forced, and how the question is narrowed to it: the path that is set, and its value.
FORCED: dict[str, Callable[[str], dict[str, object]]] = {
    "chip": lambda name: {"supply.chips": [name]},
    "region": lambda name: {"regions.allow": [name]},
    "cloud": lambda name: {"regions.allow": [f"{name}/*"]},
    "offer": lambda name: {"supply.offers": [name]},
    "accelerators": lambda count: {"supply.accelerators": count},
    "precision": lambda name: {"workload.precision": [name]},
    "stack": lambda name: {"workload.stack": name, "workload.release": None},
    "tp": _degree("tensor"),
    "pp": _degree("pipeline"),
    "dp": _degree("data"),
    "cp": _degree("context"),
    "ep": _degree("expert"),
    "vp": _degree("virtual_stages"),
    "microbatch": _degree("microbatch"),
    "recompute": lambda name: {"parallelism.recompute": [name]},
    "sharding": lambda name: {"parallelism.sharding": [name]},
    "sequence_parallel": lambda flag: {"parallelism.sequence_parallel": flag},
    "tensor_overlap": lambda flag: {"parallelism.tensor_overlap": flag},
    "data_overlap": lambda flag: {"parallelism.data_overlap": flag},
    "stage_layers": _degree("stage_layers"),
    "checkpoint": lambda name: {"reliability.checkpoint": name},
    "storage": lambda name: {"storage.name": name},
}
# A lower price (for carbon, a cleaner grid) of these would make them win: a job made of them alone scales with it.
_PRICED = {"chip", "region", "cloud", "offer"}
# Whole numbers: one that the question refuses is no mistyped name, but a job that cannot be.
_COUNTS = {"accelerators", "tp", "pp", "dp", "cp", "ep", "vp", "microbatch"}
# The question has one of these, not a choice of them: forcing another asks something else instead of less.
_REPLACES = {"stack", "checkpoint", "storage"}


def forced(query: TrainQuery, forces: Mapping[str, str]) -> TrainQuery:
    """The question narrowed to X. Raises QueryError for what cannot be forced and for a name that does not exist."""
    changes: dict[str, Any] = {}
    for key, value in forces.items():
        changes.update(FORCED[key](value))
    narrowed = query.override(changes)
    assert isinstance(narrowed, TrainQuery)
    return narrowed


def _words(forces: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in forces.items())


def question_with(query: TrainQuery, forces: Mapping[str, str], asker: Asker) -> Question | str:
    """The question narrowed to X; where X cannot be, the reason. Raises QueryError, one line, for a name that does not exist."""
    for key, value in forces.items():
        parse(f"{key}={value}", FORCED)
    try:
        return asker.question(forced(query, forces))
    except QueryError as error:
        text = str(error)
        where = re.match(r"--set [\w., ]+: ([\w.]+(\[\d+\])?: )?", text)
        reason = text if where is None else text[where.end() :]
        if isinstance(error, CannotBe) or all(
            key in _COUNTS and value.isdecimal() and int(value) for key, value in forces.items()
        ):
            return reason
        raise QueryError(text if where is None else f"--why-not {_words(forces)}: {reason}") from None


def why_not(
    plan: TrainPlan, query: TrainQuery, forces: Mapping[str, str], asker: Asker, switches: bool = False
) -> TrainWhyNot:  # fmt: skip
    """What the best job that has X takes beside the best of all, or why there is none, as far as that is found in `solver.time`.

    switches: also the deadlines, demand, limits and counts of the question at which X would win, up to half and twice of today's;
    where there is none, what lies beyond the least moves that would allow X.
    Raises QueryError, one line, for a key that cannot be forced or a name that does not exist.
    """
    what, unit = _words(forces), unit_of(query)
    if plan.job is not None:
        asker.counts = asker.counts | {plan.job.accelerators}
        asker.lead = plan.job.offer, plan.job.accelerators  # where X leaves it, likely the best with X too
    question = question_with(query, forces, asker)
    if isinstance(question, str):
        return TrainWhyNot(
            what=what, status="infeasible", objective=None, unit=unit, dearer_by=None, ratio=None, wins_at=None,
            conflict=(), fixes=(), removed=(), note=question,
        )  # fmt: skip
    took = in_words(forces, meant(question.query, forces, question.catalog))
    asker.progress(f"the best job with {what}")
    market = asker.market(question)
    best = market.best
    if best is None:
        asker.progress(f"what forbids {what}")
        kept = {path.split("[")[0] for key, value in forces.items() for path in FORCED[key](value)}
        limited = replace(asker, over=ends_at(time.perf_counter() + float(query.solver.time.m_as("s"))))
        why = why_infeasible(question, limited, kept, beyond=switches)
        return TrainWhyNot(
            what=what, status="infeasible", objective=None, unit=unit, dearer_by=None, ratio=None, wins_at=None,
            conflict=why.conflict, fixes=why.fixes, removed=market.removals, took=took,
            shortfalls=() if why.conflict else _shortfalls(market),
            note=f"not looked at, {text_of(query.solver.time)} were over: {', '.join(why.left)}" if why.left else "",
        )  # fmt: skip
    objective = in_units(query, best.objective)
    assert objective is not None
    ratio = objective / plan.objective if plan.objective else None
    wins, job = _wins(plan, query, forces, best, ratio, asker, switches), job_of(question, best)
    return TrainWhyNot(
        what=what, status="optimal", objective=objective, unit=unit,
        dearer_by=None if plan.objective is None else objective - plan.objective, ratio=ratio,
        wins_at=wins, conflict=(), fixes=(), removed=(), job=job, took=took,
        note="" if ratio is None else _note(plan, query, forces, ratio, job, wins is not None),
    )  # fmt: skip


def _note(plan: TrainPlan, query: TrainQuery, forces: Mapping[str, str], ratio: float, job: Job, wins: bool) -> str:
    """Why X wins nowhere, that it costs nothing, or that the question would have to allow it first."""
    if ratio <= 1:
        same = plan.job is not None and (job.offer, job.layout) == (plan.job.offer, plan.job.layout)
        own = {path for key, value in forces.items() for path in FORCED[key](value)}
        return (
            forbidding(query, own)
            if ratio < 1
            else "the plan already does this"
            if same
            else "another job that is as good does this"
        )
    paths = {path for key, value in forces.items() if key != "precision" for path in FORCED[key](value)}
    given = {clause.path for clause in query.clauses()}
    if _REPLACES & set(forces) or given & paths or forces.get("precision", "") not in ("", *query.workload.precision):
        rest = "" if wins else "; no limit makes it win, prices were not tried"
        return f"beside the question as it stands: a clause of it was replaced{rest}"
    if wins:
        return ""
    if _PRICED & set(forces):
        return f"at no prices: {plan.minimize} is minimised"
    return "at no prices: the best plan is free to use it or not, so having to use it never costs less"


def _wins(
    plan: TrainPlan, query: TrainQuery, forces: Mapping[str, str], best: Column, ratio: float | None, asker: Asker,
    switches: bool,
) -> str | None:  # fmt: skip
    """The prices, intensity, limits or, with `switches`, moves at which the best job with X is the best of all; None: none."""
    if ratio is None or ratio <= 1:
        return None
    found = []
    if _PRICED & set(forces) and query.minimize in ("cost", "carbon"):
        what = "its prices" if query.minimize == "cost" else "the carbon intensity of its grid"
        found.append(f"{what} below {1 / ratio:.1%} of today's")
    ranges = _limits_that_leave(plan, query, best, asker)
    found += ranges.values()
    found += _moves_that_let_win(plan, query, forces, asker, ranges) if switches else []
    return " or ".join(found) or None


def _limits_that_leave(plan: TrainPlan, query: TrainQuery, best: Column, asker: Asker) -> dict[str, str]:
    """Of each resource that the best job of all takes more of than that with X: the limits within which X is the best of all.

    What any better job takes at least is solved for, over the grid of counts; below that X wins, as long as its own has room.
    """
    if query.minimize not in CLAUSES or plan.job is None:
        return {}
    job, question, found = plan.job, asker.question(query), {}
    own = {"time": job.days, "cost": job.cost_usd, "carbon": job.carbon_tco2e, "power": job.power_kw, "water": job.water_m3}
    for resource, (path, _) in CLAUSES.items():
        used = float((best.totals[resource] * UNITS[resource]).m_as(_SHOWN[resource]))
        if resource == query.minimize or used >= own.get(resource, float(job.accelerators)) * (1 - 1e-6):
            continue
        asker.progress(f"would a limit of {resource} make it win?")
        better = asker.question(bounded(query, query.minimize, limit_for(question, query.minimize, best.objective - 1)))
        least = asker.market(minimising(better, resource)).best
        needs, below = (limit_for(question, resource, 0 if one is None else one.totals[resource]) for one in (best, least))
        if below > needs:
            low, high = rounded_up(_written(query, resource, needs)), f"{_written(query, resource, below):,.8g}"
            found[resource] = f"{path} from {low} to below {high} {_SHOWN[resource]}".strip()
    return found


def _moves_that_let_win(
    plan: TrainPlan, query: TrainQuery, forces: Mapping[str, str], asker: Asker, known: Collection[str]
) -> list[str]:
    """Of each deadline, demand, limit, quota and count of the question the nearest value on either side of today's at which X
    wins, to 0.1 %; of a limit on what is `known` from where to where X wins only larger ones.

    At that value the question and the question with X have the same optimum; both are solved. Found where X wins at half or
    twice of today's value too: a value between at which it wins for a stretch only is missed.
    """

    def turns(knob: Knob) -> list[str]:
        def wins(factor: float) -> bool:
            asker.progress(f"{knob.name} at {factor:.3g} of today's")
            try:
                asked, _ = knob.moved(factor)
                with_it = asker.best(forced(asked, forces))
                if with_it is None:
                    return False
                of_all = asker.market(asker.question(asked), counts=asker.counts | {with_it.accelerators}).best
            except QueryError:  # no whole instance, no count left: nothing can be bought
                return False
            return of_all is not None and with_it.objective <= of_all.objective

        assert knob.size is not None
        up = turning_point(knob.size, FARTHEST, wins)
        down = None if knob.resource in known else turning_point(knob.size, 1 / FARTHEST, wins)
        found = [] if up is None else [f"{knob.name} from {_size(knob, up)} up"]
        return found + ([] if down is None else [f"{knob.name} down from {_size(knob, down)}"])

    assert plan.job is not None
    movable = [knob for knob in knobs(asker.question(query), plan.job) if knob.origin == "query"]
    return [end for each in in_parallel.each(turns, movable) for end in each]


def _size(knob: Knob, factor: float) -> str:
    """A knob's value times a factor, in its unit."""
    assert knob.size is not None
    size = str(whole(knob.size, factor)) if isinstance(knob.size, int) else f"{knob.size * factor:.6g}"
    return f"{size} {knob.unit}".rstrip()


def _written(query: TrainQuery, resource: str, bound: int) -> float:
    """A bound as the question would state it, in the unit of reports: a deadline with the wait for the machines."""
    asked = bounded(query, resource, bound)
    value: Any = asked.deadline if resource == "time" else getattr(asked.limits, resource)
    return float(value.m_as(_SHOWN[resource])) if isinstance(value, Quantity) else float(value)


_SHOWN = {"time": "day", "cost": "USD", "carbon": "tCO2e", "power": "kW", "water": "kL", "chips": ""}


def _shortfalls(market: Market) -> tuple[Shortfall, ...]:
    """Memory that even the thriftiest layout lacks, machine by machine, on the most accelerators that the question allows."""
    found = []
    question: Question = market.question
    for family in market.families:
        counts = counts_of(question, family)
        if not len(counts):
            continue
        count = int(counts[-1])
        accelerator = accelerator_of(question, family.machine, count)
        cores = cores_of(count, question.task.choices)
        needed, there = np.inf, 0.0
        for precision in family.task.precisions if len(cores) else ():
            every = strategies_of(cores, question.task.choices, precision, accelerator.scale_up_domain)
            if len(every):
                memory = memory_of(family.task, accelerator, every)
                needed = min(needed, float(np.min(memory.peak.m_as("GiB"))))
                there = float(np.max(memory.capacity.m_as("GiB")))
        if np.isfinite(needed) and needed > there:
            what = f"per accelerator of {count} x {family.machine.accelerator.name}"
            row = Shortfall(number=2, name="memory", what=what, needed=needed, there=there, unit="GiB")
            found += [row] if row not in found else []
    return tuple(found)
