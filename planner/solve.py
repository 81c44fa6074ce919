"""From a question to a plan: prepare, prove, check exactly, answer."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.catalog import Catalog

from . import calibrated, plan, relaxed, uncertainty
from .certify import Certificate
from .columns import Memory
from .evaluate import Decision, Evaluated, evaluate
from .missing import missing_data
from .plan import Plan
from .pooled import together
from .prepare import Prepared, Progress, in_objective_units, model_of, objective_units, open_catalog, prepare
from .program import Program, quantise
from .query import Clause, ServeQuery
from .records import QueryError
from .scalars import text_of
from .space import Choice, Shape
from .written_by import this_version

if TYPE_CHECKING:
    from .infeasible import Explanation


def solve(
    query: ServeQuery, progress: Progress = lambda _: None, memory: Memory | None = None, kept: Collection[str] = ()
) -> Plan:
    """The best plan with its proof, or the reasons why there is none.

    Raises QueryError (one line) for names that do not exist and data that is missing. Infeasible is a plan whose status
    says so, with the clash and the fixes, and the nearest plan that is possible; "stopped" is a plan without proof, when the
    time ran out. `kept`: paths of clauses that no repair moves; then there is no nearest plan either.
    """
    return solve_with_program(query, progress, memory, kept)[0]


def solve_with_program(
    query: ServeQuery, progress: Progress = lambda _: None, memory: Memory | None = None, kept: Collection[str] = ()
) -> tuple[Plan, Program | None]:
    """`solve`, with the last program that was solved: what the certificate is about."""
    started = time.perf_counter()
    memory = memory or Memory()
    prepared = prepare(uncertainty.guarded_query(query), progress, memory)
    bought_from, certificate = relaxed.proved(prepared, progress)
    found = answer(bought_from, certificate, asked=query)
    if certificate.status == "infeasible":
        progress("infeasible: looking for the clash")
        found = found.model_copy(update=_explained(query, found, prepared, memory, progress, kept))
    return found.model_copy(update={"seconds": time.perf_counter() - started}), certificate.program


def _explained(
    query: ServeQuery, found: Plan, prepared: Prepared, memory: Memory, progress: Progress, kept: Collection[str]
) -> dict[str, Any]:
    """What an infeasible plan says: the clashes, the repairs, who is not to blame, and the best plan that is possible anyway."""
    from . import infeasible  # most questions have a plan

    best = None if kept else lambda question: answer(*infeasible.best_purchases(question, memory))
    why = _in_own_words(query, prepared.query, infeasible.why_infeasible(prepared, progress, memory, kept, best))
    dropped = [_dropped(clauses, freed) for clauses, freed in why.freed]
    said: dict[str, Any] = {
        "conflict": why.conflict, "further": why.further, "clashes": "all" if why.complete else "cut short",
        "fixes": (*why.fixes, *(fix for fix in dropped if fix is not None)), "not_enough_alone": why.stuck,
        "innocent": why.innocent, "not_looked_at": why.left,
    }  # fmt: skip
    if not why.proven:
        text = "a proof on the way was stopped: the clash may hold clauses that it does not need, moves may be too large"
        time = f"query: solver.time, {text_of(prepared.query.solver.time)}"
        said["assumptions"] = (*found.assumptions, plan.Assumption(text=text, source=time))
    if why.by is not None and why.nearest is not None and why.nearest.objective is not None:
        said["nearest"] = _nearest(why.by, why.nearest, why.nearest.objective)
    return said


def _in_own_words(query: ServeQuery, guarded: ServeQuery, why: Explanation) -> Explanation:
    """An explanation of a guarded question (see `uncertainty`) in the clauses of the user, each with its place."""
    own = {clause.path: clause for clause in query.clauses()}
    planned = {c.path: f"{own[c.path].text}, planned as {c.text}" for c in guarded.clauses()
               if c.path in own and own[c.path].text != c.text}  # fmt: skip
    if not planned:
        return why

    def blamed(conflicts: Iterable[plan.Conflict]) -> tuple[plan.Conflict, ...]:
        return tuple(
            c.model_copy(update={"text": planned[c.clause], "file": own[c.clause].file, "line": own[c.clause].line})
            if c.clause in planned else c
            for c in conflicts
        )  # fmt: skip

    def moved(fix: plan.Fix) -> plan.Fix:
        each = zip(fix.clause.split(" + "), fix.change.split("; "), strict=True)
        return fix.model_copy(update={"change": "; ".join(planned.get(path, text) for path, text in each)})

    return replace(
        why, conflict=blamed(why.conflict), further=tuple(map(blamed, why.further)), innocent=blamed(why.innocent),
        fixes=tuple(map(moved, why.fixes)), by=None if why.by is None else moved(why.by),
        freed=tuple(
            (tuple(replace(c, text=planned.get(c.path, c.text)) for c in clauses), best) for clauses, best in why.freed
        ),
    )  # fmt: skip


def _nearest(by: plan.Fix, best: Plan, objective: float) -> plan.Nearest:
    """The best plan of a repair, in its own words; where it is that of the further move, what the least would cost."""
    further = by.further is not None and objective == by.further_objective
    return plan.Nearest(
        change=by.moves(by.further if further and by.further else by.value), objective=objective, unit=best.objective_unit,
        fleet=best.fleet, totals=best.totals, least=by.value if further else None,
        least_objective=by.objective if further else None,
    )  # fmt: skip


def _dropped(clauses: tuple[Clause, ...], best: Plan) -> plan.Fix | None:
    """What the best plan costs when all these clauses are dropped, and what it has in their place.

    None where it would be of no use: with a TTFT dropped, the cheapest machines may be so full that queues grow without end.
    """
    instead = [_instead(clause, best) for clause in clauses]
    if best.objective is None or None in instead:
        return None
    return plan.Fix(
        clause=" + ".join(clause.path for clause in clauses),
        change="; ".join(clause.text for clause in clauses),
        value="; ".join(f"dropped ({one})" for one in instead),
        objective=best.objective,
        unit=best.objective_unit,
        how="dropped",
    )


def _instead(clause: Clause, best: Plan) -> str | None:
    """What a plan has where a clause no longer holds; None: a queue without end."""
    if clause.path == "supply.chips":
        return ", ".join(dict.fromkeys(pool.chip for pool in best.fleet))
    if clause.path == "supply.offers":
        return ", ".join(dict.fromkeys(pool.option for pool in best.fleet))
    if clause.path.startswith("regions."):
        return ", ".join(dict.fromkeys(pool.region for pool in best.fleet))
    if clause.path.startswith("sla.tpot"):
        return f"{max(pool.tpot_ms for pool in best.fleet):.0f} ms"
    if clause.path in ("sla.ttft.p99", "sla.ttft.p50"):
        late = [pool.ttft_p99_ms if clause.path.endswith("p99") else pool.ttft_p50_ms for pool in best.fleet]
        return None if None in late else f"{max(value or 0.0 for value in late):.0f} ms"
    total = {"limits.cost": "cost_usd_per_h", "limits.power": "power_kw", "limits.carbon": "carbon_kgco2e_per_h",
             "limits.water": "water_l_per_h", "limits.chips": "accelerators"}.get(clause.path)  # fmt: skip
    unit = {"limits.cost": "USD/h", "limits.power": "kW", "limits.carbon": "kgCO2e/h", "limits.water": "L/h"}.get(clause.path)
    return "free" if total is None else f"{best.totals[total]:.6g} {unit or 'chips'}"


def answer(
    prepared: Prepared,
    certificate: Certificate,
    asked: ServeQuery | None = None,
) -> Plan:
    """The plan of a certificate, checked by the forward models alone.

    `asked` is the user's question where `prepared` is a guarded one (see `uncertainty`): the plan answers the former.
    Raises ArithmeticError when the check contradicts the program, which is a bug.
    """
    decisions = decisions_of(prepared, certificate)
    if asked is not None and asked is not prepared.query:
        decisions = _at_rates(asked, decisions) if decisions else []
        prepared = replace(prepared, query=asked)
    checked = evaluate(prepared.query, prepared.catalog, prepared.model, decisions) if decisions else None
    if checked is not None and checked.violations:
        raise ArithmeticError(f"the exact check contradicts the program: {checked.violations[0]}")
    if checked is not None and checked.objective != certificate.objective:
        raise ArithmeticError(f"the exact objective {checked.objective} is not the program's {certificate.objective}")
    found = _plan(prepared, certificate, checked)
    if found.fleet and uncertainty.any_of(prepared.query):
        rows = uncertainty.robustness(found, prepared.query, prepared.catalog, prepared.model)
        found = found.model_copy(update={"robustness": rows})
    return found


def _at_rates(query: ServeQuery, decisions: list[Decision]) -> list[Decision]:
    """The same machines carrying the question's own rates: loads scaled down in proportion, in whole units that add up."""
    result = [dict(decision.loads) for decision in decisions]
    for population in query.populations:
        rate = quantise(population.rate, "load", "up")
        mine = [loads for loads in result if population.name in loads]
        total = sum(loads[population.name] for loads in mine)
        left = rate
        for loads in mine[1:]:
            loads[population.name] = loads[population.name] * rate // total
            left -= loads[population.name]
        mine[0][population.name] = left
    return [replace(decision, loads=loads) for decision, loads in zip(decisions, result, strict=True)]


def decisions_of(prepared: Prepared, certificate: Certificate) -> list[Decision]:
    """The purchases of a certificate as decisions that anybody can evaluate, in as few pools as carry the same (see `pooled`)."""
    columns, curves = prepared.market.columns, prepared.choices.curves
    result = []
    for purchase in together(columns, lambda j, units: curves[columns[j].curve].best(units)[0], certificate.purchases):
        column = columns[purchase.column]
        curve = curves[column.curve]
        layout = layout_of(curve.runs.choice(curve.best(purchase.units)[1]))
        loads = {prepared.market.populations[k]: load for k, load in purchase.loads}
        result.append(Decision(column.offer.name, purchase.units * column.instances, layout, loads))
    return result


def layout_of(choice: Choice) -> plan.Layout:
    """A candidate in the words of a plan."""
    readers, beside = choice.counts
    return plan.Layout(
        **_degrees(choice.shape),
        precision=choice.shape.weights.name,
        kv_precision=choice.shape.cache.name,
        batch=choice.batch,
        drafted=choice.shape.drafted,
        prefill=None if choice.reader is None else plan.Readers(**_degrees(choice.reader), replicas=readers, beside=beside),
    )


def _degrees(shape: Shape) -> dict[str, int]:
    return {name: getattr(shape, name) for name in ("tensor_parallel", "pipeline_parallel", "expert_parallel")}


def _plan(
    prepared: Prepared,
    certificate: Certificate,
    checked: Evaluated | None,
) -> Plan:
    query, catalog = prepared.query, prepared.catalog
    _, unit = objective_units(query)
    objective = in_objective_units(query, certificate.objective)
    bound = in_objective_units(query, certificate.lower_bound)
    gap = None
    if certificate.objective is not None and certificate.lower_bound is not None:
        gap = (certificate.objective - certificate.lower_bound) / max(certificate.objective, 1)
    return Plan(
        wallplan=this_version(),
        name=query.name,
        kind=query.kind,
        status=certificate.status,  # type: ignore[arg-type]
        minimize=query.minimize,
        objective=objective,
        objective_unit=unit,
        query=query.to_dict(),
        query_folder=str(query.folder.resolve()),
        query_written=query.written,
        fleet=checked.pools if checked else (),
        totals=checked.totals if checked else {},
        walls=checked.walls if checked else (),
        certificate=plan.Certificate(
            status=certificate.status,  # type: ignore[arg-type]
            objective=objective,
            lower_bound=bound,
            gap=gap,
            unit=unit,
            rounds=certificate.rounds,
            solves=certificate.solves,
            solver=certificate.solver,
            cross_check=certificate.cross_check,
            forward_check="every wall holds" if checked else "no plan to check",
            columns=len(prepared.market.columns),
            rows=len(certificate.program.rows) if certificate.program else 0,
            variables=len(certificate.program.variables) if certificate.program else 0,
            seconds=certificate.seconds,
            without=certificate.without,
        ),
        removed=tuple(plan.Removed(wall=d.wall, name=d.name, removed=d.removed, reason=d.reason) for d in prepared.dropped),
        assumptions=assumptions_of(query, catalog, checked),
        missing=missing_data(query, catalog, prepared.dropped),
        data=calibrated.data_of(query, catalog, ("chips", "models", "offers", "regions", "round_trips", "economics")),
        candidates=prepared.candidates,
        seconds=certificate.seconds,
    )


def assumptions_of(query: ServeQuery, catalog: Catalog, checked: Evaluated | None) -> tuple[plan.Assumption, ...]:
    """Everything that the answer takes for granted, each with where it comes from."""
    from models import serving

    found = [plan.Assumption(text=a.text, source=f"query: {a.path} left out") for a in query.assumptions()]
    demand, efficiency = uncertainty.guarded(query)
    if (demand, efficiency) != (1.0, 1.0):
        text = f"planned for {demand:.3f} times the demand at {efficiency:.3f} of the speed, so that both hold together"
        found.append(plan.Assumption(text=f"{text} with probability {query.uncertain.hold:.3g}", source="query: uncertain"))
    found += [plan.Assumption(text=text, source="models/serving.py") for text in serving.ASSUMPTIONS]
    found.append(calibrated.assumption(query))
    if checked is not None:
        found += [plan.Assumption(text=text, source="query: calibration.source") for text in checked.kernels]
    layouts = [pool.layout for pool in checked.pools] if checked is not None else []
    if any(layout.prefill is not None for layout in layouts):
        found += [plan.Assumption(text=text, source="models/serving.py") for text in serving.APART_ASSUMPTIONS]
    if any(layout.drafted for layout in layouts):
        found += [plan.Assumption(text=text, source="models/serving.py") for text in serving.SPECULATIVE_ASSUMPTIONS]
    found.append(
        plan.Assumption(
            text=f"carbon: grid intensity by the {query.carbon.method} method, annual mean of the region's grid",
            source="zoo/data/regions.csv",
        )
    )
    draw = catalog.economics_value("average draw as fraction of TDP, LLM serving")
    found.append(
        plan.Assumption(
            text=f"serving accelerators draw {draw.typical:.0%} of their TDP on average, their servers' hosts the nameplate part",
            source=draw.source.text,
        )
    )
    if checked is not None and any(pool.option == "spot" for pool in checked.pools):
        text = "spot machines may be taken away at short notice; the plan is made as if they stayed (no spare, no restart)"
        found.append(plan.Assumption(text=text, source="query: supply.offers"))
    if checked is not None:
        found += [plan.Assumption(text=text, source="zoo/data/economics.csv") for text in checked.assumptions]
    return tuple(found)


def reload(saved: Plan, changes: Mapping[str, object] = MappingProxyType({})) -> tuple[ServeQuery, Catalog, Any, list[Decision]]:
    """What `evaluate` needs, from a plan file alone: the question, the data, the model and the decisions.

    `changes` are made to the question, as `Query.override` makes them: the decisions stay, loads follow the new rates.
    Raises QueryError for changes that make no sense, or of who is served.
    """
    query = ServeQuery.of_plan(saved)
    names = [population.name for population in query.populations]
    if changes:
        changed = query.override(changes)
        if not isinstance(changed, ServeQuery) or [population.name for population in changed.populations] != names:
            raise QueryError(
                f"--set {', '.join(changes)}: the plan serves {', '.join(names)}; solve the changed question instead"
            )
        query = changed
    catalog = open_catalog(query)
    model = model_of(query, catalog)
    decisions = [
        Decision(
            pool.offer,
            pool.instances,
            pool.layout,
            {name: round(rate * 1000) for name, rate in pool.serves.items()},
        )
        for pool in saved.fleet
    ]
    return query, catalog, model, _at_rates(query, decisions) if changes else decisions
