"""Two plans side by side: what changed in the answer, and in what it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import Difference, Fix, Plan, Pool, cheapest_first


def compare(old: Plan, new: Plan) -> tuple[Difference, ...]:
    """Every figure, pool, wall and clause that differs between two plans, old to new; of one that is infeasible, why."""
    machines = ({pool.offer: _pool(pool) for pool in plan.fleet} for plan in (old, new))
    return differences(old, new, *machines)


def differences(
    old: Plan, new: Plan, machines_before: Mapping[str, str | None], machines_after: Mapping[str, str | None]
) -> tuple[Difference, ...]:
    """What differs between two plans of one kind; their machines are given in words, each under a name."""
    rows: list[Difference] = []

    def add(part: str, name: str, before: object, after: object) -> None:
        if before != after:
            change = None
            if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (before, after)) and before:
                change = (after - before) / abs(before)  # type: ignore[operator, arg-type]
            rows.append(Difference(part=part, name=name, old=text(before), new=text(after), change=change))

    add("answer", "status", old.status, new.status)
    if old.objective_unit == new.objective_unit:
        add("answer", f"objective [{new.objective_unit}]", old.objective, new.objective)
    else:  # two questions: their answers are no two values of one figure
        add("answer", "objective", *(f"{text(plan.objective)} {plan.objective_unit}" for plan in (old, new)))
    if old.objective is None or new.objective is None:  # nothing to hold figures against: why there is nothing counts
        add("answer", "cannot hold together", *map(_clash, (old, new)))
        known = [[fix for fix in cheapest_first(plan.fixes) if fix.objective is not None] for plan in (old, new)]
        before, after = ({fix.clause: _repair(fix) for fix in reversed(fixes)} for fixes in known)
        for clause in dict.fromkeys(fix.clause for fix in cheapest_first([*known[1], *known[0]])):
            add("would repair it", clause, before.get(clause), after.get(clause))
    else:
        for key in dict.fromkeys((*old.totals, *new.totals)):
            add("total", key, old.totals.get(key), new.totals.get(key))
        for name in dict.fromkeys((*machines_before, *machines_after)):
            add("fleet", name, machines_before.get(name), machines_after.get(name))
        walls_before, walls_after = ({(w.number, w.what): w for w in plan.walls} for plan in (old, new))
        for wall in sorted({*walls_before, *walls_after}):
            first, second = walls_before.get(wall), walls_after.get(wall)
            add("tight", f"{wall[0]} {wall[1]}", first.tight if first else None, second.tight if second else None)
    for path, (one, two) in _differences(old.query, new.query):
        add("question", path, one, two)
    for kind in dict.fromkeys((*old.data, *new.data)):
        if old.data.get(kind) != new.data.get(kind):
            add("data", kind, (old.data.get(kind) or "")[:12], (new.data.get(kind) or "")[:12])
    return tuple(rows)


def _clash(plan: Plan) -> str | None:
    more = f" (and {len(plan.further)} more clash{'es' * (len(plan.further) > 1)})" if plan.further else ""
    return "; ".join(clause.text for clause in plan.conflict) + more or None


def _repair(fix: Fix) -> str:
    """A repair and what the best plan then costs, in words; also of its further move."""
    nothing = ", for practically nothing" if fix.for_nothing else ""
    least = f"{fix.moves(fix.value)}, then {text(fix.objective)} {fix.unit}{nothing}"
    if fix.further is None:
        return least
    return f"{least}; or further: {fix.moves(fix.further)}, then {text(fix.further_objective)} {fix.unit}"


def _pool(pool: Pool) -> str:
    layout = pool.layout
    return (
        f"{pool.instances} instances, {pool.replicas} replicas, {layout.precision}, {layout.in_full}, batch {layout.batch}, "
        f"{pool.load_per_s:.4g}/s"
    )


def text(value: object) -> str:
    """A value as one cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _differences(one: Any, two: Any, path: str = "") -> list[tuple[str, tuple[object, object]]]:
    if one == two:
        return []
    one, two = ({} if here is None and isinstance(there, dict) else here for here, there in ((one, two), (two, one)))
    if isinstance(one, dict) and isinstance(two, dict):
        return [
            difference
            for key in dict.fromkeys((*one, *two))
            for difference in _differences(one.get(key), two.get(key), f"{path}.{key}" if path else key)
        ]
    return [(path, (one, two))]
