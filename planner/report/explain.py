"""Explanations as tables: marginal values, why-not answers, alternatives, comparisons, one wall with a plan's numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..plan import Alternative, Difference, Marginal, Need, Plan, Pool, Swing, WallPage, WhyNot, cheapest_first
from ..plan import rows as records_of
from .tables import TOTALS, Table, cut_short, fix_table, innocent_title, number


def marginal_table(marginals: Sequence[Marginal]) -> Table:
    """What one more of each wall is worth."""
    unit = marginals[0].unit if marginals else ""
    heads = ["#", "wall or limit", "from", "", f"1 % saves {unit}", "one unit saves"]
    relaxed = any(m.relaxed_per_percent is not None for m in marginals)
    heads += ["LP dual: 1 %"] if relaxed else []
    rows = []
    for m in marginals:
        each = f"{number(m.per_unit)} per {m.unit_step}"
        if m.per_unit is None:
            each = "" if m.proven or not m.unit_step else "-"
        state = "breaks" if m.breaks else "binds" if m.binding else ""
        if not m.proven:
            state = f"{state}; rest not proven" if state else "not proven"
        row = [str(m.number) if m.number else "", f"{m.knob}, {m.value}", m.origin, state, number(m.per_percent), each]
        row += [number(m.relaxed_per_percent) if m.relaxed_per_percent is not None else ""] if relaxed else []
        rows.append(tuple(row))
    notes = [
        "binds: 1 % or one unit more improves the plan, or 1 % less worsens it; breaks: with 1 % less there is no plan",
        "from: query is a limit of yours, physics a figure of every chip (shown: the plan's), market a price or a grid",
        "one unit of a figure of the world is as much of the plan's own; every other's then moves by the same share",
        "values are differences of proven optima (re-solved, candidates enumerated anew), not LP duals",
    ]
    if any(m.binding for m in marginals) and all(m.costs_per_percent is None for m in marginals):
        notes.append("what 1 % less costs, and from where on the plan changes: `--switches`")
    if not all(m.proven for m in marginals):
        notes.append(
            "not proven: `solver.time` ended before the proof of a re-solve, what that would tell is open; "
            '`explain` with --set solver.time="5 min" gives each more'
        )
    if relaxed:
        notes.append("LP dual: the linear relaxation's shadow price, which knows no whole machines: a hint, not a value")
    return Table(
        "What one more is worth", tuple(heads), tuple(rows), frozenset({"#", f"1 % saves {unit}", "LP dual: 1 %"}), tuple(notes)
    )


def switch_table(marginals: Sequence[Marginal]) -> Table:
    """How far limits and demands move before the answer changes, and what a little less costs; empty where that was not asked."""
    unit = marginals[0].unit if marginals else ""

    def cells(m: Marginal) -> tuple[str, ...]:
        none = "-" if m.proven else "?"
        costs = none if m.costs_per_percent is None else number(m.costs_per_percent)
        return m.knob, m.value, m.switches_at or none, m.worsens_at or none, "no plan" if m.breaks else costs

    rows = tuple(
        cells(m) for m in marginals if m.origin == "query" or m.switches_at or m.worsens_at or m.costs_per_percent or not m.proven
    )
    asked = any(m.switches_at or m.worsens_at or m.costs_per_percent is not None for m in marginals)
    notes = [
        "the first value, looser or tighter than today's, with a better or a worse optimum (or none), to 0.1 % or better;",
        "both sides are solved; -: none as far as was looked (in serve plans half and twice of today's, of the limits)",
        "1 % less costs: how much dearer the best plan is where that is 1 % tighter",
    ]
    notes += [] if all(m.proven for m in marginals) else ["?: none, or not proven in `solver.time`"]
    costs = f"1 % less costs {unit}"
    heads = ("wall or limit", "today", "better from", "worse from", costs)
    return Table("Where the answer changes", heads, rows if asked else (), frozenset({costs}), tuple(notes))


def tornado_tables(swings: Sequence[Swing]) -> list[Table]:
    """The optimum at both ends of each uncertain figure, and which plan wins there; then what the plans rent."""
    unit = swings[0].unit if swings else ""
    winners = [swings[0].plan] if swings else []
    winners += [plan for s in swings for plan, other in ((s.plan_low, s.switches_low), (s.plan_high, s.switches_high)) if other]
    letters = {plan: chr(ord("A") + i) for i, plan in enumerate(dict.fromkeys(plan for plan in winners if plan))}
    rows = []
    for s in swings:
        wins = [
            f"{end}: {letters.get(plan, 'no plan')}"
            for end, plan, switches in (("low", s.plan_low, s.switches_low), ("high", s.plan_high, s.switches_high))
            if switches
        ]
        ends = [number(value, 6) if value is not None else "infeasible" for value in (s.objective_low, s.objective_high)]
        rows.append((s.what, f"x {s.low:g} to {s.high:g}", *ends, "; ".join(wins) or "the same plan wins", s.source))
    heads = ("figure", "range", f"low {unit}", f"high {unit}", "which plan wins", "range from")
    notes = (
        f"today: {number(swings[0].objective, 6)} {unit} with plan A" if swings else "",
        "each figure alone, re-solved at both ends; a plan is another one when it rents other machines, however many",
    )
    plans = tuple((letter, plan) for plan, letter in letters.items())
    return [
        Table("Tornado", heads, tuple(rows), frozenset({f"low {unit}", f"high {unit}"}), notes),
        Table("What these plans rent", ("plan", "machines"), plans),
    ]


def synthesis_table(needs: Sequence[Need], plan: Plan, budget: str | None) -> Table:
    """What a chip would have to be."""
    rows = tuple(
        (
            n.what,
            n.today or "-",
            _never(n) if n.factor is None else "as it is" if n.factor == 1 else f"x {n.factor:.2f}",
            n.needed or "-",
            "-" if n.objective is None else f"{number(n.objective, 6)} {n.unit}",
        )
        for n in needs
    )  # fmt: skip
    chip = needs[0].chip if needs else ""
    purpose = "enters the plan"
    if budget is not None:
        purpose = f"{'serves the question' if plan.kind == 'serve' else 'does the job'} alone within {budget}"
    elif plan.objective is None:
        purpose = "makes a plan possible"
    heads = ("figure, others as they are", "today", "needed", "that is", "the best plan is then")
    notes = ["each verified on both sides: one hundredth of today's figure less (of a price: more) does not do"]
    if budget is None and plan.query.get("supply", {}).get("chips", "all") != "all":
        notes.append("a list of chips in the question that leaves this one out is widened by it")
    return Table(f"What {chip} has to be, so that it {purpose}", heads, rows, frozenset(), tuple(notes))


def _never(need: Need) -> str:
    """That no factor does, and the names of the walls in the way, without their reasons."""
    walls = ", ".join(dict.fromkeys(reason.partition(":")[0] for reason in need.wall.split("; ")))
    return ("at no price" if "price" in need.what else "not up to x 10") + (f": {walls}" if walls else "")


def why_not_tables(answers: Sequence[WhyNot], best: Plan) -> list[Table]:
    """Each forced choice beside the best plan."""
    rows, tables, notes = [], [], []
    for answer in answers:
        what = f"{answer.what} ({answer.took})" if answer.took else answer.what
        if answer.status == "stopped":
            rows.append((what, "stopped without proof", number(answer.objective, 6), "", answer.note))
        elif answer.objective is None:
            verdict = "impossible"
            least = {fix.clause: fix.value for fix in answer.fixes if fix.how == "alone" and fix.value != "dropped"}
            clash = "; ".join(c.text + (f" (needs {least[c.clause]})" if c.clause in least else "") for c in answer.conflict)
            rows.append((what, verdict, "-", "-", clash or answer.note or "physics: see below"))
            notes += [f"{answer.what}: {answer.note}"] if clash and answer.note else []
            if answer.fixes:
                tables.append(fix_table(f"What would allow {answer.what}", answer.fixes, best.kind))
            if not answer.conflict:
                gone = tuple((str(r.wall or ""), r.name, f"{r.removed:,}", r.reason) for r in answer.removed)
                heads = ("#", "wall", "removed", "reason")
                tables.append(Table(f"What removes {answer.what}", heads, gone, frozenset({"#", "removed"})))
        else:
            dearer = answer.dearer_by or 0.0
            verdict = "as good" if abs(dearer) < 1e-9 else "dearer" if best.minimize == "cost" else "worse"
            if dearer < -1e-9:  # the question's own clauses forbid it
                verdict = "better, but not what was asked"
            ratio = "" if answer.ratio is None else f"{answer.ratio:.3f}"
            rows.append((what, verdict, number(answer.objective, 6), ratio, answer.wins_at or answer.note))
            notes += [f"{answer.what}: {answer.note}"] if answer.wins_at and answer.note else []
    then = f"then {best.objective_unit}"
    columns = ("why not", "verdict", then, "ratio", "clash, or when it would win")
    if best.objective is not None:
        notes.insert(0, f"the plan: {number(best.objective, 6)} {best.objective_unit}; ratio: of the best plan with it to that")
    return [Table("Why not", columns, tuple(rows), frozenset({then, "ratio"}), tuple(notes)), *tables]


def why_infeasible(plan: Plan) -> dict[str, Any]:
    """Everything that an infeasible answer says of why, as plain values."""
    parts = {
        "status",
        "conflict",
        "further",
        "clashes",
        "fixes",
        "not_enough_alone",
        "not_looked_at",
        "innocent",
        "nearest",
        "missing",
    }
    return plan.model_dump(mode="json", include=parts)


def conflict_lines(plan: Plan) -> list[dict[str, Any]]:
    """The same as flat lines: members of clashes, repairs, the nearest plan, clauses that are not to blame, missing data."""
    lines: list[dict[str, Any]] = [{"part": "verdict", "text": plan.name, "status": plan.status}]
    lines += [{"part": "warning", "text": " ".join(cut_short(plan))}] if cut_short(plan) else []
    for number_of_clash, clash in enumerate((plan.conflict, *plan.further), 1):
        lines += [{"part": f"clash {number_of_clash}", **c.model_dump(mode="json"), "walls": "; ".join(c.walls)} for c in clash]
    lines += [
        {"part": "repair", "text": fix.change, **fix.model_dump(mode="json", exclude={"change"})}
        for fix in cheapest_first(plan.fixes)
    ]
    texts = {line["clause"]: line["text"] for line in lines if line["part"].startswith("clash")}
    lines += [{"part": "no repair alone", "clause": path, "text": texts[path]} for path in plan.not_enough_alone]
    if plan.nearest is not None:
        near = plan.nearest
        lines.append({"part": "nearest plan", "text": near.change, "objective": near.objective, "unit": near.unit})
        job = getattr(near, "job", None)
        lines += [{"part": "nearest plan", **row} for row in records_of(near.fleet if job is None else [job])]
    lines += [
        {"part": innocent_title(plan).lower(), **c.model_dump(mode="json"), "walls": "; ".join(c.walls)} for c in plan.innocent
    ]
    lines += [{"part": "missing", "text": f"{m.count} {m.text}", "value": "; ".join(m.names)} for m in plan.missing]
    return lines


def alternatives_tables(found: Sequence[Alternative], within: str) -> list[Table]:
    """Near-optimal plans that differ, and the cheapest of the best chips and regions; then the machines of each."""
    rows = tuple(
        (
            str(i),
            a.kind,
            a.name + (f" (the same in {len(a.same_in)} more)" if a.same_in else ""),
            number(a.objective, 6),
            "" if a.ratio is None else f"+{a.ratio - 1:.1%}",
            "yes" if a.within else "no",
        )
        for i, a in enumerate(found, 1)
    )
    unit = found[0].unit if found else ""
    notes = (
        "chip, region: the cheapest plan made wholly of it, for the ten cheapest of each beside the plan's own",
        f"within {within} also: wholly of another purchase option, precision, degree (tp, pp, ep) or way of disaggregation,",
        "and `fewest`: the cheapest plan with the fewest instances of what today's plan rents that stays within",
    )
    heads = ("#", "best on", "", unit, "dearer", f"within {within}")
    fleets = tuple(
        (str(i) if j == 0 else "", pool) for i, a in enumerate(found, 1) for j, pool in enumerate(fleet_lines(a.fleet))
    )
    return [
        Table("Alternatives", heads, rows, frozenset({"#", unit, "dearer"}), notes),
        Table("Their machines", ("#", "instances, offer, chip, precision, layout"), fleets, frozenset({"#"})),
    ]


def fleet_lines(fleet: Sequence[Pool]) -> list[str]:
    """Each pool of a fleet in one line."""
    return [f"{p.instances} x {p.offer} ({p.chip}, {p.layout.precision}, {p.layout.in_full})" for p in fleet]


def comparison_table(differences: Sequence[Difference]) -> Table:
    """What two plans do not have in common."""
    rows = tuple(
        (d.part, TOTALS.get(d.name, d.name) if d.part == "total" else d.name, d.old, d.new,
         "" if d.change is None else f"{d.change:+.1%}")
        for d in differences
    )  # fmt: skip
    return Table("Differences", ("part", "what", "old", "new", "change"), rows, frozenset({"change"}))


# Sources longer than this are written once below the table.
_LONG = 24


def wall_tables(page: WallPage) -> list[Table]:
    """A wall's equation with a plan's figures in it: their values, units and sources; what it asks and allows there."""
    heading = f"Wall {page.number}: {page.name}"
    if page.absent:
        return [Table(heading, ("", ""), (("equation", page.equation), ("not in this plan", page.absent)))]
    facts = [("equation", page.equation), ("here", page.form), ("bounds", page.bounds), ("reference", page.reference)]
    tables = [Table(heading, ("", ""), tuple(fact for fact in facts if fact[1]))]
    long = list(dict.fromkeys(a.source for a in page.arguments if len(a.source) > _LONG))
    for pool in dict.fromkeys(a.of for a in page.arguments):
        mine = [a for a in page.arguments if a.of == pool]
        rows = tuple(
            (a.symbol, a.meaning, a.value, f"[{long.index(a.source) + 1}]" if a.source in long else a.source) for a in mine
        )
        notes = tuple(f"[{i}] {source}" for i, source in enumerate(long, 1) if any(a.source == source for a in mine))
        title = f"With the figures of {pool}" if pool else "With this plan's figures"
        tables.append(Table(title, ("", "figure", "value", "source"), rows, frozenset(), notes))
    readings = tuple(
        (w.what, number(w.demand), number(w.limit), w.unit, "-" if w.headroom is None else f"{w.headroom:.1%}", w.where)
        for w in page.readings
    )
    heads = ("what", "demand", "limit", "unit", "headroom", "where")
    tables.append(Table("In this plan", heads, readings, frozenset({"demand", "limit", "headroom"})))
    tables.append(Table("Assumptions", ("", ""), (("assumes", page.assumes), ("leaves out", page.leaves_out))))
    return tables


def wall_lines(page: WallPage) -> list[dict[str, Any]]:
    """The same as flat lines: first the figures, then what the wall asks and allows."""
    wall = {"wall": page.number, "name": page.name}
    if page.absent:
        return [{**wall, "part": "not in this plan", "meaning": page.absent}]
    lines: list[dict[str, Any]] = [
        {**wall, "part": "figure", "of": a.of, "symbol": a.symbol, "meaning": a.meaning, "value": a.value if a.amount is None
         else a.amount, "unit": a.unit, "source": a.source, "demand": "", "limit": "", "headroom": ""}
        for a in page.arguments
    ]  # fmt: skip
    lines += [
        {**wall, "part": "reading", "of": w.where, "meaning": w.what, "demand": w.demand, "limit": w.limit, "unit": w.unit,
         "headroom": w.headroom}
        for w in page.readings
    ]  # fmt: skip
    return lines
