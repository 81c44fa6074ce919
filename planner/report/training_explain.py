"""Explanations of training plans as tables: why-not answers, alternatives."""

from __future__ import annotations

from collections.abc import Sequence

from ..plan import Record
from ..training.plan import Job, TrainAlternative, TrainPlan, TrainWhyNot
from .explain import why_not_tables
from .tables import Table, number
from .training import degrees


def job_line(job: Job) -> str:
    """A job in one line."""
    layout = job.layout
    takes = f"{number(job.days)} days, {job.cost_usd:,.0f} USD"
    return f"{job.accelerators:,} x {job.chip} ({job.offer}), {layout.precision}, {degrees(layout)}, {takes}"


def why_not_tables_of(answers: Sequence[TrainWhyNot], best: TrainPlan) -> list[Table]:
    """Each forced choice beside the best job, the job that it would be, and what it lacks."""
    tables = why_not_tables(answers, best)
    jobs = tuple((answer.what, job_line(answer.job)) for answer in answers if answer.job is not None)
    if jobs:
        tables.append(Table("The best job then", ("with", "job"), jobs))
    short = tuple(
        (answer.what, f"{s.number} {s.name}, {s.what}", f"{number(s.needed)} {s.unit}", f"{number(s.there)} {s.unit}")
        for answer in answers
        for s in answer.shortfalls
    )
    if short:
        tables.append(Table("By how much", ("with", "wall", "needs at least", "there is"), short))
    return tables


# Of the best on each chip and in each region so many are printed; the JSON has all.
_MOST = 10


def alternatives_tables(found: Sequence[TrainAlternative], within: str) -> list[Table]:
    """Near-optimal jobs that differ, then the best job on each chip and in each region, the cheapest of them; then the jobs."""
    parts = [(f"Alternatives within {within}", [a for a in found if a.within])]
    for kind, title in (("chip", "Best on each chip"), ("region", "Best in each region")):
        parts.append((title, [a for a in found if a.kind == kind]))
    unit = found[0].unit if found else ""
    tables, jobs, count = [], list[tuple[str, str]](), 0
    for title, some in parts:
        rows = []
        for a in some[:_MOST]:
            count += 1
            name = a.name + (f" (the same in {len(a.same_in)} more)" if a.same_in else "")
            rows.append((str(count), a.kind, name, number(a.objective, 6), "" if a.ratio is None else f"+{a.ratio - 1:.1%}"))
            jobs.append((str(count), job_line(a.job)))
        notes = (f"and {len(some) - _MOST} more, which --format json and csv have",) if len(some) > _MOST else ()
        tables.append(Table(title, ("#", "best with", "", unit, "more"), tuple(rows), frozenset({"#", unit, "more"}), notes))
    return [table for table in (*tables, Table("Their jobs", ("#", "job"), tuple(jobs), frozenset({"#"}))) if table.rows]


def flat(records: Sequence[Record]) -> list[dict[str, object]]:
    """Records as flat mappings for CSV: a job's figures are columns, lists are joined."""
    lines = []
    for record in records:
        line: dict[str, object] = {}
        for key, value in record.model_dump(mode="json").items():
            if key == "job":
                job = {} if value is None else value
                line |= {name: job.get(name) for name in ("offer", "chip", "region", "accelerators", "days", "cost_usd")}
                line |= {f"job_{name}": job.get(name) for name in ("carbon_tco2e", "power_kw", "energy_mwh", "step_s", "mfu")}
                line |= job.get("layout", {})
            elif key == "totals" or key == "fleet":
                continue
            elif isinstance(value, list):
                line[key] = "; ".join(_words(one) for one in value)
            else:
                line[key] = value
        lines.append(line)
    return lines


def _words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items() if each not in (None, "", []))
    return str(value)
