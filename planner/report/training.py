"""A training plan as tables."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from ..plan import Plan
from ..training.plan import Job, Ranked, TrainLayout, TrainPlan
from ..training.question import LONGEST_TEXT
from .tables import (
    Table,
    assumption_table,
    conflict_tables,
    missing_table,
    money,
    nearest_notes,
    number,
    proof_table,
    removed_table,
    robustness_table,
    walls_table,
)


def plan_tables(plan: TrainPlan) -> list[Table]:
    """The whole answer."""
    if plan.job is None:
        proof = [certificate_table(plan)] if plan.status == "stopped" else []
        return [table for table in (*infeasible_tables(plan), *proof, removed_table(plan), assumption_table(plan)) if table.rows]
    job, *others = job_tables(plan.job)
    tables = [
        replace(job, notes=(*job.notes, *deadline_notes(plan))),
        *others,
        layouts_table(plan.layouts),
        walls_table(plan),
        robustness_table(plan),
    ]
    tables += [certificate_table(plan)]
    return [table for table in (*tables, removed_table(plan), assumption_table(plan)) if table.rows]


def deadline_notes(plan: TrainPlan) -> tuple[str, ...]:
    """What the range of the time means for the deadline, where its upper end misses it."""
    limit = next((wall.limit for wall in plan.walls if wall.what == "time to train"), None)
    if plan.job is None or limit is None or plan.job.days_high <= limit:
        return ()
    return (
        f"the upper end of the time, {number(plan.job.days_high)} days (most failures of the published or given range, slow end "
        f"of the step), misses the deadline of {number(limit)} days; uncertain: {{failures: ±50 %, hold: 95 %}} plans for "
        "more failures",
    )


def infeasible_tables(plan: TrainPlan) -> list[Table]:
    """The clashes, the repairs, the best job that is possible anyway, who is not to blame, and what data is missing."""
    tables = conflict_tables(plan)
    if plan.conflict:  # it is no clause of the question, but where the deadline gives way it may decide
        note = f"a job may take {LONGEST_TEXT}, whatever else gives way"
        tables[0] = replace(tables[0], notes=(*tables[0].notes, note))
    if plan.nearest is not None:
        near = plan.nearest
        title = f"Best possible anyway: {near.change} ({number(near.objective)} {near.unit})"
        job = job_table(near.job)
        shown = replace(job, title=title, notes=(*job.notes, *nearest_notes(plan)))
        tables.insert(len(tables) - bool(plan.innocent), shown)
    return [*tables, missing_table(plan)]


def job_tables(job: Job) -> list[Table]:
    """What to rent and how to lay it out, the step by term, memory by part, and what the job takes."""
    return [job_table(job), takes_table(job), step_table(job), memory_table(job)]


def degrees(layout: TrainLayout) -> str:
    """A layout on one line: TP8 PP16 VP8 CP1 EP1 DP16."""
    text = f"TP{layout.tensor_parallel} PP{layout.pipeline_parallel}"
    text += f" VP{layout.virtual_stages}" if layout.virtual_stages > 1 else ""
    text += f" CP{layout.context_parallel}" if layout.context_parallel > 1 else ""
    text += f" EP{layout.expert_parallel}" if layout.expert_parallel > 1 else ""
    return f"{text} DP{layout.data_parallel}"


def _rest(layout: TrainLayout) -> str:
    words = [layout.sharding if layout.sharding != "none" else "", f"recompute {layout.recompute}"]
    words += ["sequence parallel"] if layout.sequence_parallel else []
    words += ["optimizer on the host"] if layout.offload else []
    words += ["activations on the host"] if layout.activation_offload else []
    words += [] if layout.tensor_overlap is None else ["TP overlap" if layout.tensor_overlap else "TP overlap off"]
    words += ["DP overlap off"] if layout.data_overlap is False else []
    words += [_stages(layout.stage_layers)] if len(set(layout.stage_layers)) > 1 else []
    return ", ".join(word for word in words if word)


def _stages(layers: tuple[int, ...]) -> str:
    """Layers of stages that are not alike: 7 x 8 + 6 layers."""
    runs = [(count, len(list(group))) for count, group in itertools.groupby(layers)]
    return "stages of " + " + ".join(f"{times} x {count}" if times > 1 else str(count) for count, times in runs) + " layers"


def job_table(job: Job) -> Table:
    layout = job.layout
    spare = f" ({job.spare_instances} spare)" if job.spare_instances else ""
    rented = f"{job.instances} instance" + ("" if job.instances == 1 else "s")
    rows = (
        ("offer", job.offer),
        ("machines", f"{rented}{spare}, {job.accelerators:,} x {job.chip} at work"),
        ("layout", f"{degrees(layout)}, {layout.precision}"),
        ("microbatches", f"{layout.microbatches} of {layout.microbatch} sequences"),
        ("options", _rest(layout)),
        ("step", f"{number(job.step_s)} s (80 %: {number(job.step_low_s)} to {number(job.step_high_s)} s); "
                 f"{number(job.ranked_step_s)} s counts"),
        ("utilisation", f"MFU {job.mfu:.1%}; {job.mfu_note}"),
        ("tokens", f"{job.tokens:.4g} in {job.steps:,} steps, {number(job.tokens_per_s_per_accelerator)} per second and chip"),
        ("goodput", f"{job.goodput:.1%} ({job.goodput_low:.1%} to {job.goodput_high:.1%}); "
                    f"{number(job.failures, 3)} interruptions, one every {number(job.job_mtbf_h, 3)} h"),
        ("checkpoint", f"{number(job.checkpoint_gb)} GB every {number(job.checkpoint_interval_s, 3)} s, "
                       f"written in {number(job.checkpoint_write_s, 3)} s"),
        ("time", f"{number(job.days)} days ({number(job.days_low)} to {number(job.days_high)})"
                 + (f" after {number(job.wait_days)} days in the queue" if job.wait_days else "")),
        ("from, to", f"{job.start} to {job.finish}"),
    )  # fmt: skip
    return Table("Job", ("what", "value"), rows, frozenset(), (_ends(job),))


def _ends(job: Job) -> str:
    """Which figures of a job follow the typical step and which the one that counts."""
    if job.ranked_step_s == job.step_s:
        return "typical: every figure that stands alone; in brackets the ends of its range"
    return (
        "pessimistic, by the step that counts: time, cost, energy, carbon, water, bytes read each second; typical: MFU, tokens "
        "each second, parts of the step, goodput, time between interruptions; power: full load whatever the step"
    )


def takes_table(job: Job) -> Table:
    rows = (
        ("USD", money(job.cost_usd)),
        ("USD per million tokens", number(job.usd_per_million_tokens)),
        ("MWh at the meter", number(job.energy_mwh)),
        ("tCO2e", number(job.carbon_tco2e)),
        ("water m3", number(job.water_m3)),
        ("kW at the meter, full load", number(job.power_kw)),
    )
    price = f"price {number(job.price_usd_per_h)} USD/h and instance, {job.price_date or 'no date'}"
    return Table("What it takes", ("total", "value"), rows, frozenset({"value"}), ("; ".join([price, *job.price_flags]),))


def step_table(job: Job) -> Table:
    ordered = sorted(job.step_parts_s.items(), key=lambda item: -item[1])
    rows = tuple((name.replace("_", " "), number(value), f"{value / job.step_s:.1%}") for name, value in ordered)
    return Table("Step by term", ("term", "s", "share"), rows, frozenset({"s", "share"}))


def memory_table(job: Job) -> Table:
    rows = [(name, number(value)) for name, value in sorted(job.memory_gib.items(), key=lambda item: -item[1])]
    rows += [("peak", number(job.memory_peak_gib)), ("there is", number(job.memory_there_gib))]
    return Table("Memory of the fullest accelerator", ("part", "GiB"), tuple(rows), frozenset({"GiB"}))


def layouts_table(layouts: tuple[Ranked, ...]) -> Table:
    rows = tuple(
        (
            str(row.rank),
            f"{degrees(row.layout)} {row.layout.precision}",
            f"{row.layout.microbatches}x{row.layout.microbatch}",
            _rest(row.layout),
            number(row.step_s),
            number(row.step_high_s),
            f"{row.mfu:.1%}",
            number(row.memory_gib, 3),
        )
        for row in layouts
    )
    heads = ("#", "layout", "batch", "options", "step s", "high s", "MFU", "GiB")
    return Table("Best layouts on these machines", heads, rows, frozenset({"#", "step s", "high s", "MFU", "GiB"}))


def certificate_table(plan: TrainPlan) -> Table:
    c = plan.certificate
    search = (
        ("strategies", f"{plan.strategies:,}, of which {plan.evaluated:,} had to be evaluated exactly"),
        ("counts", f"{c.rounds} machines and counts searched; {c.columns} columns, {c.rows} rows in the program"),
    )
    return proof_table(c, search, f"{plan.seconds:.2f} s")


def layouts(plan: Plan) -> Sequence[Ranked]:
    """The best layouts, for CSV."""
    return plan.layouts if isinstance(plan, TrainPlan) else ()
