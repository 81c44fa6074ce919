"""From a training question to a plan: look up, price columns, prove, check exactly, answer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import date
from types import MappingProxyType

from models import training
from models.training_constants import RECIPES

from .. import calibrated, cpsat, plan, pyomo_milp
from ..missing import missing_data
from ..program import Program, Solution
from ..query import TrainQuery
from ..records import QueryError
from ..scalars import text_of
from ..written_by import this_version
from .asking import Asker
from .check import Decision, Evaluated, evaluate, job_of, job_totals, layout_of, ranked_of
from .infeasible import Explanation, why_infeasible
from .job import accelerator_of
from .market import MOST, Column, Market, Memory, market_of
from .plan import NearestJob, TrainPlan
from .question import LONGEST_TEXT, Question, question_of
from .report_units import in_units, unit_of
from .rows import assemble
from .search import Over, Result, search
from .uncertainty import any_of, robustness

Progress = Callable[[str], None]
_DATA = ("chips", "models", "offers", "regions", "economics", "storage", "reliability")
_LEAST = 1.0  # seconds that a solver is given at least: programs of columns take milliseconds
SOLVERS = {"highs": pyomo_milp.solve, "cpsat": cpsat.solve}


def solve(query: TrainQuery, progress: Progress = lambda _: None, today: date | None = None) -> TrainPlan:
    """The best job with its proof, or the reasons why there is none.

    today: the day on which a job starts whose question names no start. Raises QueryError (one line) for names that do not
    exist and for what cannot go together. Infeasible is a plan whose status says so.
    """
    return solve_with_program(query, progress, today)[0]


def solve_with_program(
    query: TrainQuery, progress: Progress = lambda _: None, today: date | None = None
) -> tuple[TrainPlan, Program]:
    """`solve`, and the program whose optimum the plan is."""
    started = time.perf_counter()
    question = question_of(query, today or date.today())
    memory: Memory = {}
    seconds = float(query.solver.time.m_as("s"))
    over = ends_at(started + seconds)
    market = market_of(question, progress, memory, over=over)
    program = assemble(market)
    solution, cross, used = _solved(market, program, query, max(seconds - (time.perf_counter() - started), _LEAST))
    best = _chosen(market, solution)
    why = Explanation()
    checked, result = None, Result(())
    if best is not None:
        family = market.families[best.family]
        accelerator = accelerator_of(question, family.machine, best.accelerators)
        progress("listing the best layouts")
        result = search(family.task, accelerator, best.accelerators, family.host, query.top, over=over)
        if not result.complete:  # the next best are not known
            assert best.found is not None
            result = replace(result, found=(best.found,))
        checked = checked_of(question, best)
    elif solution.status == "infeasible":
        progress("infeasible: looking for the clash")
        asker = Asker(question.start, progress, over=ends_at(time.perf_counter() + seconds))
        asker.memory(question).update(memory)
        why = why_infeasible(question, asker)
    seconds_in_all = time.perf_counter() - started
    answer = _plan(question, market, program, solution, cross, used, checked, best, result, why, seconds_in_all)
    return answer, program


def ends_at(moment: float) -> Over:
    """Whether a moment of `time.perf_counter` has passed."""
    return lambda: time.perf_counter() >= moment


def _solved(market: Market, program: Program, query: TrainQuery, seconds: float) -> tuple[Solution, str, float]:
    """`prove`, where every column was searched that can be the best; else the best so far, which no solver can prove."""
    if market.unsearched is None:
        return prove(program, query.solver.engine, seconds, query.solver.gap)
    best = market.best
    point = None if best is None else tuple(int(column is best) for column in market.columns)
    objective = None if best is None else best.objective
    solution = Solution("stopped", point, objective, market.bound, "none: the time was over during the search", 0.0)
    return solution, "not run: the search was stopped", 0.0


def prove(program: Program, engine: str, seconds: float, gap: float) -> tuple[Solution, str, float]:
    """(solution, what the other solver says, seconds)."""
    started = time.perf_counter()
    main = "cpsat" if engine == "cpsat" else "highs"
    solution = SOLVERS[main](program, seconds, gap)
    cross = "not asked for"
    if engine == "both":
        other = cpsat.solve(program, seconds)
        if other.status != "stopped" and other.objective != solution.objective:
            raise ArithmeticError(f"the solvers disagree: {solution.objective} and {other.objective} ({other.solver})")
        verdict = "infeasible" if solution.objective is None else "same optimum"
        cross = f"{other.solver}: stopped without proof" if other.status == "stopped" else f"{other.solver} agrees: {verdict}"
    return solution, cross, time.perf_counter() - started


def _chosen(market: Market, solution: Solution) -> Column | None:
    """The column that the solver chose, or its exact equal that is first by the stated order of ties."""
    if solution.point is None:
        return None
    best = market.best
    if best is None or solution.objective != best.objective:
        raise ArithmeticError(f"the program's optimum {solution.objective} is not the best column's {best and best.objective}")
    return best


def checked_of(question: Question, best: Column) -> Evaluated:
    """The chosen column through the forward models alone. Raises ArithmeticError when they contradict the program: a bug."""
    assert best.found is not None
    checked = evaluate(question, Decision(best.offer.name, best.accelerators, layout_of(question, best.found)))
    if checked.violations:
        raise ArithmeticError(f"the exact check contradicts the program: {checked.violations[0]}")
    if checked.objective != best.objective:
        raise ArithmeticError(f"the exact objective {checked.objective} is not the program's {best.objective}")
    return checked


def _plan(
    question: Question, market: Market, program: Program, solution: Solution, cross: str, used: float, checked: Evaluated | None,
    best: Column | None, result: Result, why: Explanation, seconds: float,
) -> TrainPlan:  # fmt: skip
    query, catalog, counted = question.query, question.catalog, market.counted
    objective, bound = in_units(query, solution.objective), in_units(query, solution.bound)
    gap = None
    if solution.objective is not None and solution.bound is not None:
        gap = (solution.objective - solution.bound) / max(solution.objective, 1)
    rows = ranked_of(question, market.families[best.family], best.accelerators, result.found) if best is not None else ()
    return TrainPlan(
        wallplan=this_version(),
        name=query.name,
        kind=query.kind,
        status=solution.status,  # type: ignore[arg-type]
        minimize=query.minimize,
        objective=objective,
        objective_unit=unit_of(query),
        query=dated(query, question),
        query_folder=str(query.folder.resolve()),
        query_written=query.written,
        totals=checked.totals if checked else {},
        walls=checked.walls if checked else (),
        robustness=robustness(question, checked.job) if checked is not None and any_of(query) else (),
        certificate=plan.Certificate(
            status=solution.status,  # type: ignore[arg-type]
            objective=objective,
            lower_bound=bound,
            gap=gap,
            unit=unit_of(query),
            rounds=market.searched,
            solves=1,
            solver=solution.solver,
            cross_check=cross,
            forward_check="every wall holds" if checked else "no plan to check",
            columns=len(market.columns),
            rows=len(program.rows),
            variables=len(program.variables),
            seconds=used,
        ),
        removed=market.removals,
        assumptions=(*_left_out(query, market, result, why), *assumptions_of(question, market, checked)),
        conflict=why.conflict,
        further=why.further,
        clashes="cut short" if not why.complete else "all" if why.only else "some",
        fixes=why.fixes,
        not_enough_alone=why.stuck,
        not_looked_at=why.left,
        innocent=why.innocent,
        nearest=_nearest(question, why),
        missing=missing_data(query, catalog, market.dropped),
        data=calibrated.data_of(query, catalog, _DATA),
        candidates=counted.strategies,
        seconds=seconds,
        job=checked.job if checked else None,
        layouts=rows,
        strategies=counted.strategies,
        evaluated=counted.evaluated,
    )


def _left_out(query: TrainQuery, market: Market, result: Result, why: Explanation) -> tuple[plan.Assumption, ...]:
    """What was not done because the time was over."""
    texts = {
        "the search was stopped before everything was searched that may be better: this is the best so far": (
            market.unsearched is not None
        ),
        "the next best layouts were not listed: the time was over": not result.complete,
        f"the explanation was stopped; not looked at: {', '.join(why.left)}": bool(why.left),
    }
    source = f"query: solver.time, {text_of(query.solver.time)}"
    return tuple(plan.Assumption(text=text, source=source) for text, holds in texts.items() if holds)


def _nearest(question: Question, why: Explanation) -> NearestJob | None:
    """The best job of the repair that moves the question least."""
    if why.nearest is None or why.by is None or why.best is None:
        return None
    job = job_of(question_of(why.nearest, question.start), why.best)
    return NearestJob(
        change=why.by.moves(why.by.value),
        objective=why.by.objective or 0.0,
        unit=why.by.unit,
        job=job,
        totals=job_totals(job),
    )


def dated(query: TrainQuery, question: Question) -> dict[str, object]:
    """The question as saved: with the day on which it was asked, so that it means the same tomorrow."""
    return {**query.to_dict(), "start": question.start.isoformat()}


def assumptions_of(question: Question, market: Market, checked: Evaluated | None) -> tuple[plan.Assumption, ...]:
    """Everything that the answer takes for granted, each with where it comes from."""
    query = question.query
    found = [plan.Assumption(text=a.text, source=f"query: {a.path} left out") for a in query.assumptions()]
    found += [plan.Assumption(text=text, source="models/training.py") for text in training.ASSUMPTIONS]
    found.append(calibrated.assumption(query))
    if query.reliability.mtbf is None:
        low, typical, high = (f"{mtbf.m_as('hour'):,.0f}" for mtbf in question.mtbf)
        text = (
            f"one accelerator is interrupted every {typical} h (published runs: {low} to {high} h); days are given for the range"
        )
        found.append(plan.Assumption(text=text, source="zoo/data/reliability.csv"))
    if query.reliability.restart is None:
        text = f"an interruption costs {question.restart.m_as('min'):g} min besides lost work and reading the checkpoint"
        found.append(plan.Assumption(text=text, source="models/data/training_job.csv"))
    if query.uncertain.hold is not None:
        guard = question.guard
        figures = ", ".join(f"{f.name} x {getattr(guard, f.name):.3f}" for f in fields(guard))
        text = f"planned for {figures}, so that the deadline and every limit hold together with p = {query.uncertain.hold:.3g}"
        found.append(plan.Assumption(text=text, source="query: uncertain"))
    if query.workload.tokens is None:
        how = "the compute budget buys" if query.workload.compute is not None else "20 for each parameter"
        found.append(
            plan.Assumption(text=f"tokens: {question.tokens.m_as('token'):.4g}, {how}", source="wall 11, Hoffmann et al. (2022)")
        )
    texts = {
        f"a job may take {LONGEST_TEXT}, also where the deadline gives way": question.deadline is None or market.best is None,
        "a reservation is paid for its whole term": any("reserved" in option for option in query.supply.offers),
        "storage, data transfer and staff are not counted": True,
        _divisors_text(query.workload.sequences): True,
        "as many instances as are chosen can be had; supply.quota limits them": True,
        "instances that are parts of a board train on their own only: they share its network ports": True,
        "gradients are sharded (zero2) only where a step has one microbatch": True,
        "training in fewer than 16 bits reaches the same loss: wall 13 knows what quantised inference loses, not training": any(
            RECIPES[precision][0] < 16 for precision in query.workload.precision
        ),
        "where layers divide unevenly, the step waits for the fullest stage": True,
        f"counts: whole instances, each up to eight, then eight per doubling (at most {most_of(query):,} accelerators), and up "
        "to 48 more between the neighbours of the best: the answer is the best of these": query.supply.accelerators is None
        or query.supply.accelerators[0] != query.supply.accelerators[1],
    }
    found += [plan.Assumption(text=text, source="planner/training") for text, holds in texts.items() if holds]
    draw = question.catalog.economics_value("average draw as fraction of TDP, training")
    text = f"training accelerators draw {draw.typical:.0%} of their TDP on average, their servers' hosts the nameplate part"
    found.append(plan.Assumption(text=text, source=draw.source.text))
    if checked is not None:
        found += [plan.Assumption(text=text, source="models/data, zoo/data") for text in checked.assumptions]
    return tuple(found)


def _divisors_text(batch: int) -> str:
    """Which data parallelism a batch allows."""
    small = [d for d in range(1, math.isqrt(batch) + 1) if batch % d == 0]
    divisors = sorted({*small, *(batch // d for d in small)})
    said = ", ".join(map(str, divisors)) if len(divisors) <= 8 else f"{len(divisors)} from 1 to {batch}"
    return f"data-parallel ranks x microbatch divide the batch of {batch:,} sequences (its divisors: {said})"


def most_of(query: TrainQuery) -> int:
    """The most accelerators of the grid."""
    bounds = [b for b in (query.limits.chips, query.supply.accelerators[1] if query.supply.accelerators else None) if b]
    return min([*bounds] or [MOST])


def reload(saved: TrainPlan, changes: Mapping[str, object] = MappingProxyType({})) -> tuple[Question, Decision]:
    """What `evaluate` needs, from a plan file alone. `changes` are made to the question; the job's machines and layout stay.

    Raises QueryError for changes that make no sense.
    """
    query = TrainQuery.of_plan(saved)
    if saved.job is None:
        raise ValueError("the plan has no job")
    if changes:
        changed = query.override(changes)
        if not isinstance(changed, TrainQuery):
            raise QueryError(f"--set {', '.join(changes)}: the plan answers a train question; solve the changed question instead")
        query = changed
    question = question_of(query, date.fromisoformat(saved.job.start))
    return question, Decision(saved.job.offer, saved.job.accelerators, saved.job.layout)
