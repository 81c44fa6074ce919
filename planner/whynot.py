"""Why not X: force X on the question, solve again, and say what it costs or what forbids it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping

from .columns import Memory
from .plan import Plan, WhyNot
from .query import QueryError, ServeQuery
from .solve import Progress, solve

# What can be forced, and how the question is narrowed to it: the path that is set, and its value.
_FORCED: dict[str, Callable[[str], dict[str, object]]] = {
    "chip": lambda name: {"supply.chips": [name]},
    "region": lambda name: {"regions.allow": [name]},
    "cloud": lambda name: {"regions.allow": [f"{name}/*"]},
    "offer": lambda name: {"supply.offers": [name]},
    "precision": lambda name: {"workload.precision": [name]},
    "kv_precision": lambda name: {"workload.kv_precision": [name]},
    "tp": lambda degree: {"workload.parallelism.tp": f"[{degree}]"},
    "pp": lambda degree: {"workload.parallelism.pp": f"[{degree}]"},
    "ep": lambda degree: {"workload.parallelism.ep": f"[{degree}]"},
    "disaggregation": lambda way: {"workload.disaggregation": [way]},
}
# A lower price (for carbon, a cleaner grid) of these would make them win: a plan made of them alone scales with it.
_PRICED = {"chip", "region", "cloud", "offer"}


def parse(text: str, known: Collection[str] = tuple(_FORCED)) -> dict[str, str]:
    """ "chip=l40s,tp=8" as {"chip": "l40s", "tp": "8"}. Raises QueryError with what can be forced (`known`) and the nearest
    of it."""
    forces: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value:
            raise QueryError(f'--why-not {text}: expected KEY=VALUE, such as --why-not "chip=l40s" or "chip=l40s,tp=8"')
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise QueryError(f"--why-not {text}: unknown key; expected one of {', '.join(known)}{hint}")
        if key in forces:
            raise QueryError(f"--why-not {text}: {key} stands twice; ask twice instead")
        forces[key] = value
    return forces


def forced(query: ServeQuery, forces: Mapping[str, str]) -> ServeQuery:
    """The question narrowed to X: every pool must use it. Raises QueryError for a name that does not exist."""
    changes: dict[str, object] = {}
    for key, value in forces.items():
        changes.update(_FORCED[key](value))
    narrowed = query.override(changes)
    assert isinstance(narrowed, ServeQuery)
    return narrowed


def why_not(
    plan: Plan, query: ServeQuery, forces: Mapping[str, str], memory: Memory | None = None, progress: Progress = lambda _: None
) -> WhyNot:
    """What the best plan that uses X everywhere costs beside the best plan of all, or why there is none.

    Raises QueryError, one line, for a key that cannot be forced or a name that does not exist.
    """
    what = ",".join(f"{key}={value}" for key, value in forces.items())
    parse(what)
    best = solve(forced(query, forces), progress, memory or Memory(), nearest=False)
    if best.objective is None or plan.objective is None:
        return WhyNot(
            what=what, status=best.status, objective=None, unit=plan.objective_unit, dearer_by=None, ratio=None, wins_at=None,
            conflict=best.conflict, fixes=best.fixes, removed=best.removed, fleet=(),
        )  # fmt: skip
    ratio = best.objective / plan.objective if plan.objective else None
    wins_at = None
    if ratio is not None and ratio > 1 and _PRICED & set(forces) and plan.minimize in ("cost", "carbon"):
        wins_at = (
            f"{'its prices' if plan.minimize == 'cost' else 'the carbon intensity of its grid'} at {1 / ratio:.1%} of today's"
        )
    return WhyNot(
        what=what, status=best.status, objective=best.objective, unit=plan.objective_unit,
        dearer_by=best.objective - plan.objective, ratio=ratio, wins_at=wins_at,
        conflict=(), fixes=(), removed=(), fleet=best.fleet,
    )  # fmt: skip
