"""What a report shows, as plain tables: a title, column heads, and rows of text. Rendering is `render.py`'s business."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..plan import CLASH, Certificate, Conflict, Fix, Plan, Pool, cheapest_first


@dataclass(frozen=True, slots=True)
class Table:
    """`numeric` names the columns that are right-aligned; `notes` are lines below the table."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def number(value: float | None, digits: int = 4) -> str:
    """A figure with enough digits to act on and none to distract; a dash for what is not known."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    return text if "e" not in text else f"{value:.2e}"


def money(value: float) -> str:
    return f"{value:,.2f}"


def plan_tables(plan: Plan) -> list[Table]:
    """The whole answer."""
    if plan.status == "infeasible":
        shown = [*conflict_tables(plan), missing_table(plan), removed_table(plan), assumption_table(plan)]
        return [table for table in shown if table.rows]
    rank = str(plan.query.get("rank", "pessimistic"))
    tables = [
        fleet_table(plan.fleet),
        service_table(plan.fleet, rank),
        cost_table(plan.fleet),
        percentile_table(plan.fleet),
        totals_table(plan),
    ]
    tables += [walls_table(plan), robustness_table(plan), certificate_table(plan), removed_table(plan)]
    tables += [missing_table(plan), assumption_table(plan)]
    return [table for table in tables if table.rows]


def fleet_table(fleet: Sequence[Pool]) -> Table:
    """What to rent, and how to lay it out."""
    rows = []
    for i, pool in enumerate(fleet, 1):
        layout = pool.layout
        kv = "" if layout.kv_precision == layout.precision else f", KV {layout.kv_precision}"
        rows.append(
            (
                str(i),
                pool.offer,
                pool.chip,
                str(pool.instances),
                str(pool.replicas) if layout.prefill is None else f"{pool.prefill_replicas} + {pool.replicas}",
                f"{layout.precision}{kv}",
                layout.in_full,
                str(layout.batch),
            )
        )
    return Table(
        "Fleet",
        ("#", "offer", "chip", "inst.", "repl.", "precision", "layout", "batch"),
        tuple(rows),
        frozenset({"#", "inst.", "repl.", "batch"}),
        tuple(f"#{i} {_price_note(pool)}" for i, pool in enumerate(fleet, 1)),
    )


def _price_note(pool: Pool) -> str:
    """How old the price is, and what is odd about it."""
    from zoo.catalog import load

    return "; ".join([f"price {load().age(pool.price_date).text}", *pool.price_flags])


def service_table(fleet: Sequence[Pool], rank: str) -> Table:
    """What each pool serves, and how fast, at the end of the intervals that the question ranks by."""
    rows = [
        (
            str(i),
            ", ".join(f"{name} {number(rate)}" for name, rate in pool.serves.items()),
            number(pool.capacity_per_s),
            number(pool.network_ms),
            number(pool.ttft_p50_ms),
            number(pool.ttft_p99_ms),
            number(pool.tpot_ms),
        )
        for i, pool in enumerate(fleet, 1)
    ]
    heads = ("#", "load 1/s", "carries 1/s", "network ms", "TTFT p50 ms", "TTFT p99 ms", "TPOT ms")
    note = f"times at the {rank} end of their 80 % intervals" if rank == "pessimistic" else "times as predicted, without a margin"
    return Table("Service", heads, tuple(rows), frozenset(heads) - {"load 1/s"}, (note,))


def percentile_table(fleet: Sequence[Pool]) -> Table:
    """What requests see at the load: TTFT of the queue, TPOT of as many sequences as are then in flight."""
    figures = ((p.ttft_p50_ms, p.ttft_p90_ms, p.ttft_p99_ms, p.tpot_p50_ms, p.tpot_p90_ms, p.tpot_p99_ms) for p in fleet)
    rows = [(str(i), *(number(value) for value in values)) for i, values in enumerate(figures, 1)]
    heads = ("#", *(f"{what} {share} ms" for what in ("TTFT", "TPOT") for share in ("p50", "p90", "p99")))
    return Table("Percentiles at the load", heads, tuple(rows), frozenset(heads))


def cost_table(fleet: Sequence[Pool]) -> Table:
    """What each pool costs, emits and draws."""
    rows = [
        (
            str(i),
            money(pool.cost_usd_per_h),
            number(pool.usd_per_million_output_tokens),
            number(pool.carbon_kgco2e_per_h),
            number(pool.power_kw),
            number(pool.water_l_per_h),
            str(pool.accelerators),
        )
        for i, pool in enumerate(fleet, 1)
    ]
    heads = ("#", "USD/h", "USD/Mtok out", "kgCO2e/h", "kW", "water L/h", "chips")
    return Table("Cost, carbon, power", heads, tuple(rows), frozenset(heads))


TOTALS = {
    "cost_usd_per_h": "USD/h",
    "cost_usd_per_month": "USD/month",
    "usd_per_million_output_tokens": "USD per million output tokens",
    "carbon_kgco2e_per_h": "kgCO2e/h",
    "power_kw": "kW at the meter, full load",
    "water_l_per_h": "water L/h",
    "accelerators": "chips",
    "instances": "instances",
    "replicas": "replicas",
    "load_per_s": "requests/s served",
    "capacity_per_s": "requests/s carried within the SLA",
    # of a job
    "days": "days",
    "cost_usd": "USD",
    "usd_per_million_tokens": "USD per million tokens",
    "carbon_tco2e": "tCO2e",
    "energy_mwh": "MWh at the meter",
    "water_m3": "water m3",
    "accelerator_hours": "chip hours",
}


def totals_table(plan: Plan) -> Table:
    rows = tuple(
        (name, money(plan.totals[key]) if "usd" in key else number(plan.totals[key]))
        for key, name in TOTALS.items()
        if key in plan.totals
    )
    return Table("Totals", ("total", "value"), rows, frozenset({"value"}))


# What "tight" says, and why a wall has no row, by kind of question.
_TIGHT = {
    "serve": "tight: with a latency limit 1 % tighter, one sequence more, one machine fewer, or a limit one machine lower, this "
    "plan breaks; which walls bind, `wallplan explain` says",
    "train": "tight: less than 1 % is left of a limit or of memory, or data come too late; largest: of the step's parts; which "
    "walls bind, `wallplan explain` says",
}
_APART = {
    "serve": "have no part in a serve question; see `wallplan evaluate` of a scenario",
    "train": "have no part in this question: serving, batching, tails and reasoning are not training; 16 comes with `sharing`, "
    "20 with `workload.privacy`, 9 where an offer's processors are known, 21 and 22 with the explanation of a plan",
}


def walls_table(plan: Plan) -> Table:
    """Every wall: demand, limit, headroom, and whether one more step would break it."""
    rows = [
        (
            str(wall.number),
            wall.name,
            f"{wall.what}, {wall.unit}",
            number(wall.demand),
            number(wall.limit),
            "-" if wall.headroom is None else f"{wall.headroom:.1%}",
            "" if not wall.tight else "largest" if wall.unit == "of step" else "tight",
        )
        for wall in plan.walls
    ]
    heads = ("#", "wall", "what", "demand", "limit", "headroom", "")
    others = ", ".join(str(n) for n in range(1, 23) if n not in {wall.number for wall in plan.walls})
    notes = (_TIGHT[plan.kind], f"walls {others} {_APART[plan.kind]}")
    return Table("Walls", heads, tuple(rows), frozenset({"#", "demand", "limit", "headroom"}), notes)


def robustness_table(plan: Plan) -> Table:
    """Figures under the question's uncertainty, and how surely each promise holds."""
    rows = tuple(
        (
            r.what,
            r.unit,
            number(r.p10),
            number(r.p50),
            number(r.p90),
            number(r.limit),
            "-" if r.holds is None else f"{r.holds:.1%}",
        )
        for r in plan.robustness
    )
    heads = ("figure", "unit", "p10", "p50", "p90", "limit", "holds")
    return Table("Under uncertainty", heads, rows, frozenset(heads[2:]))


def certificate_table(plan: Plan) -> Table:
    c = plan.certificate
    search = f"{c.rounds} ({c.solves} solves, {c.columns} columns, {c.rows} rows, {c.variables} variables)"
    time = f"{plan.seconds:.2f} s, of which {c.seconds:.2f} s proof; {plan.candidates:,} candidates"
    return proof_table(c, (("rounds", search),), time)


_WITHOUT = {
    "optimal": "no plan is better even without them, and this one keeps them",
    "infeasible": "there is no plan even without them",
}


def proof_table(c: Certificate, search: Sequence[tuple[str, str]], time: str) -> Table:
    """What was proven of a plan of any kind: `search` says what was gone through."""
    rows = (
        ("status", {"optimal": "proven optimal", "stopped": "stopped without proof"}.get(c.status, c.status)),
        ("objective", f"{number(c.objective, 8)} {c.unit}" if c.objective is not None else "-"),
        ("lower bound", f"{number(c.lower_bound, 8)} {c.unit}" if c.lower_bound is not None else "-"),
        ("gap", "-" if c.gap is None else f"{c.gap:.2%}"),
        *((("proven without", f"{', '.join(c.without)}: {_WITHOUT[c.status]}"),) if c.without else ()),
        *search,
        ("solver", c.solver),
        ("forward check", c.forward_check),
        ("cross check", c.cross_check),
        ("time", time),
    )
    return Table("Certificate", ("", "what was proven"), rows)


def removed_table(plan: Plan) -> Table:
    """What each wall and clause removed before the solver saw it."""
    rows = tuple(("" if r.wall is None else str(r.wall), r.name, f"{r.removed:,}", r.reason) for r in plan.removed)
    return Table("Removed before solving", ("#", "wall or clause", "removed", "reason"), rows, frozenset({"#", "removed"}))


def assumption_table(plan: Plan) -> Table:
    return Table("Assumptions", ("assumption", "source"), tuple((a.text, a.source) for a in plan.assumptions))


def conflict_rows(conflict: Sequence[Conflict]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (c.text, _near(c.file) + (f":{c.line}" if c.line else ""), c.clause, ", ".join(c.walls) or "-") for c in conflict
    )


def _near(file: str) -> str:
    """A file as it is called from here, where that is shorter."""
    return min(file, os.path.relpath(file), key=len) if Path(file).is_absolute() else file


def fix_table(title: str, fixes: Sequence[Fix], kind: str, stuck: Sequence[str] = ()) -> Table:
    """Repairs, the cheapest first, one number each. kind: of the question. stuck: clauses that no change of theirs alone
    repairs."""
    notes = fix_notes(fixes, kind)
    if stuck and any(" + " not in fix.clause for fix in fixes):  # else the title says it
        notes += (f"no change of one of these alone is enough: {', '.join(stuck)}",)
    return Table(title, ("#", "change", "to", "the best plan is then"), fix_rows(fixes), frozenset({"#"}), notes)


def fix_rows(fixes: Sequence[Fix]) -> tuple[tuple[str, ...], ...]:
    """One row for each clause that a repair changes, its number and cost in the first; then what lies beyond the least move."""
    rows: list[tuple[str, ...]] = []
    for place, fix in enumerate(cheapest_first(fixes), 1):
        for first, then, objective in (("", fix.value, fix.objective), ("or further: ", fix.further, fix.further_objective)):
            if then is None:
                continue
            cost = "-" if objective is None else f"{number(objective)} {fix.unit}"
            cost += ", for practically nothing" if fix.for_nothing else ""
            changes, values = fix.change.split("; "), then.split("; ")
            if len(changes) != len(values) or len(changes) != len(fix.clause.split(" + ")):
                changes, values = [fix.change], [then]
            label = "" if first else str(place)
            rows += [
                ("" if i else label, f"and {c}" if i else f"{first}{c}", v, "" if i else cost)
                for i, (c, v) in enumerate(zip(changes, values, strict=True))
            ]
        if fix.without is not None and fix.without != fix.objective:
            those = {1: "without this", 2: "without both of these"}.get(len(fix.clause.split(" + ")), "without all of these")
            rows.append(("", f"or {those}", "dropped", f"{number(fix.without)} {fix.unit}"))
    return tuple(rows)


def fix_notes(fixes: Sequence[Fix], kind: str) -> tuple[str, ...]:
    """What the words of `fix_rows` mean, of those that stand there. kind: of the question."""
    movable = "limits and the deadline" if kind == "train" else "demand, limits and quotas"
    notes = ["least moves: one step less is infeasible; the plan is the cheapest that they allow"]
    for fix in fixes:
        if fix.how in ("least sum", "demand kept"):
            words, of = (
                fix.change.replace("; ", " and "),
                "limits and quotas, all demand kept" if fix.how == "demand kept" else movable,
            )
            notes.append(f"{words}: the least sum of |to - from| / from over joint moves of {of}")
    hows = {fix.how for fix in fixes}
    if "in turn" in hows:
        others = "other joint moves" if hows & {"least sum", "demand kept"} else "joint moves"
        notes.append(f"{others}: the first as little as possible with those below it dropped, then the next, and so on")
    if "not sought" in hows:
        notes.append("?: dropped (together) these would do; `explain` with `--switches` finds how little of each is enough")
    if any(fix.for_nothing for fix in fixes):
        notes.append("for practically nothing: less than 1 % is left of what was asked for")
    if "dropped" in hows:
        notes.append("dropped: without any limit in its place; in brackets what the best plan then has")
    if any(fix.further is not None for fix in fixes):
        notes.append("or further: the least value whose plan is at most 50 % above the best that any value allows (found to 1 %)")
    if any(fix.value == "dropped" and fix.clause.startswith("sla.ttft") for fix in fixes):
        notes.append("TTFT dropped: no TTFT however long can be kept; queues grow without end")
    return tuple(notes)


# So many clashes are printed; the JSON has all.
_MOST_CLASHES = 5


def innocent_title(plan: Plan) -> str:
    """What is known of clauses that no clash names: they are not to blame only when there are no other clashes."""
    return {
        "all": "Not to blame",
        "cut short": "In none of the clashes found (the search for more was cut short)",
        "some": "In none of the clashes found (there may be more)",
    }[plan.clashes]


def cut_short(plan: Plan) -> tuple[str, ...]:
    """What the reader has to know before anything else: that the time ended before everything was explained."""
    if not plan.not_looked_at:
        return ()
    left = tuple(text for text in plan.not_looked_at if text not in CLASH)
    needless = len(left) < len(plan.not_looked_at)
    from ..query import ServeQuery, TrainQuery
    from ..scalars import text_of

    time = text_of((TrainQuery if plan.kind == "train" else ServeQuery).of_plan(plan).solver.time)
    said = ["the clash may hold clauses that it does not need"] if needless else []
    said += [f"not looked at: {', '.join(left)}"] if left else []
    completes = not needless and (plan.kind == "train" or any(fix.how == "not sought" for fix in plan.fixes))
    more = ", `explain` with `--switches` completes the repairs" if completes else ""
    return (
        f"explanation stopped after {time}: {'; '.join(said)};",
        f'--set solver.time="5 min" gives it more time{more}',
    )


def _clash_title(plan: Plan, position: int, size: int) -> str:
    if set(CLASH) & set(plan.not_looked_at):
        return "Some of these cannot hold together"
    title = "These cannot hold together" if size > 1 else "This cannot hold, even with every other clause dropped"
    return title + (f" (clash {position} of {1 + len(plan.further)}; each has to be repaired)" if plan.further else "")


def conflict_tables(plan: Plan) -> list[Table]:
    """Why there is no plan, what would make one, the best that is possible anyway, and who is not to blame."""
    heads = ("clause", "where", "key", "walls")
    tables = [
        Table(
            _clash_title(plan, i, len(clash)),
            heads,
            conflict_rows(clash),
        )
        for i, clash in enumerate((plan.conflict, *plan.further)[:_MOST_CLASHES], 1)
        if clash
    ]
    more = 1 + len(plan.further) - _MOST_CLASHES
    if more > 0:
        tables[-1] = replace(tables[-1], notes=(f"{more} more: `--format json` has all",))
    single = {fix.clause for fix in plan.fixes if " + " not in fix.clause}
    title = (
        "Each of these changes alone would make it feasible"
        if len(single) == len(plan.fixes)
        else "Each of these changes, single or joint, would make it feasible"
        if single
        else "No single change is enough; each of these joint ones is"
    )
    texts = {c.clause: c.text for clash in (plan.conflict, *plan.further) for c in clash}
    tables.append(fix_table(title, plan.fixes, plan.kind, [texts[path] for path in plan.not_enough_alone]))
    if plan.nearest is not None:
        near = plan.nearest
        fleet = fleet_table(near.fleet)
        title = f"The nearest plan ({near.change}): {number(near.objective)} {near.unit}"
        tables.append(replace(fleet, title=title, notes=(*fleet.notes, *nearest_notes(plan))))
    tables.append(Table(innocent_title(plan), heads, conflict_rows(plan.innocent)))
    return [table for table in tables if table.rows]


def nearest_notes(plan: Plan) -> tuple[str, ...]:
    """What "nearest" measures; where a repair goes further for less than half of its price, that repair."""
    if plan.nearest is None:
        return ()
    notes = ["nearest: of these repairs that with the least sum of |ln(to / from)|; ln 2 for a list widened or given up"]
    options = [
        (objective, f"{fix.change}: {value}", fix.unit)
        for fix in plan.fixes
        for objective, value in ((fix.objective, fix.value), (fix.further_objective, fix.further))
        if objective is not None and not fix.for_nothing
    ]
    least, dear = getattr(plan.nearest, "least", None), getattr(plan.nearest, "least_objective", None)
    if least is not None and dear is not None:
        times = number(dear / plan.nearest.objective, 3)
        moves = " and ".join(value for value in least.split("; ") if value != "dropped")
        dearer = f"{number(dear)} {plan.nearest.unit}, {times} times as much"
        notes.append(f"its repair is moved further than it must be: at {moves} it would cost {dearer}")
    objective, change, unit = min(options, default=(math.inf, "", ""))
    if objective < plan.nearest.objective / 2:
        notes.append(f"nearest is not cheapest: {change} needs only {number(objective)} {unit}")
    return tuple(notes)


def missing_table(plan: Plan) -> Table:
    """Data that is not there, which is another thing than infeasible."""
    rows = tuple((f"{m.count:,} {m.text}", ", ".join(m.names[:8]) + (", ..." if len(m.names) > 8 else "")) for m in plan.missing)
    return Table("Data missing", ("what", "names"), rows)
