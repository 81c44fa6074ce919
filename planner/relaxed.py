"""Limits that the best plan keeps anyway: proven without them, which is a smaller program.

The question without its limits and quotas is a relaxation: each plan of the question is a plan of it. So

- a best plan of the relaxation that keeps every limit and quota is a best plan of the question;
- where the relaxation has no plan, the question has none;
- else the proven bound of the relaxation is one of the question.

It is asked first because the more is limited, the fewer offers replace each other: with three populations and two limits
(examples/serve-populations.yaml, carbon and power) 544 columns are left instead of 1,236, and the proof takes 10 CPU s instead
of 47.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from . import columns
from .certify import Certificate, Purchase
from .market import Column, Limit
from .prepare import Prepared, Progress, prove
from .rows import limits as rows_of
from .space import Dropped

# The part of solver.time that is spent without limits, at most: where they bind, the question itself needs the rest.
_SHARE = 1 / 2


def proved(prepared: Prepared, progress: Progress = lambda _: None) -> tuple[Prepared, Certificate]:
    """The certified best purchases of a question, and the market that they are chosen from: first without limits and quotas.

    Nothing is asked twice where limits keep no more columns: there the relaxation is hardly easier. `Certificate.without` names
    the clauses that were not needed; its program has their rows all the same, and the same optimum with them.
    """
    started, seconds = time.perf_counter(), float(prepared.query.solver.time.m_as("s"))
    free, limits = _unlimited(prepared)
    if len(free.market.columns) >= len(prepared.market.columns):
        return prepared, prove(prepared, progress)
    clauses = tuple(limit.clause for limit in limits)
    progress(f"without {', '.join(clauses)}")
    relaxed = prove(free, progress, seconds=_SHARE * seconds)
    if relaxed.status == "infeasible" or (relaxed.status == "optimal" and keeps(free.market.columns, relaxed.purchases, limits)):
        assert relaxed.program is not None and relaxed.index is not None
        limited = replace(free.market, limits=tuple(limits))
        program = relaxed.program.with_rows(rows_of.limits(limited, relaxed.index))
        return replace(free, query=prepared.query, market=limited), replace(relaxed, program=program, without=clauses)
    left = seconds - (time.perf_counter() - started)
    return prepared, _lifted(prove(prepared, progress, begin=relaxed.exact, seconds=left), relaxed)


def keeps(bought_from: Sequence[Column], purchases: Iterable[Purchase], limits: Iterable[Limit]) -> bool:
    """sum over purchases of units * amount <= bound, for every limit and quota; in the program's integers, exactly."""
    purchases = tuple(purchases)
    return all(
        sum(
            purchase.units * bought_from[purchase.column].amounts[limit.resource]
            for purchase in purchases
            if limit.columns is None or purchase.column in limit.columns
        )
        <= limit.bound
        for limit in limits
    )


def _unlimited(prepared: Prepared) -> tuple[Prepared, list[Limit]]:
    """The question without limits and quotas, and these over its columns."""
    query = prepared.query.override({"limits": {}, "supply.quota": []})
    market = columns.market_of(query, prepared.catalog, prepared.choices)
    limits = columns.limits_of(prepared.query, prepared.catalog, [column.offer for column in market.columns])
    fewer = len(prepared.market.columns) - len(market.columns)
    reason = "without limits another offer of the same machine is as good, and the proof does without them"
    dropped = [*prepared.dropped, Dropped(None, "dominance", fewer, reason)]
    return replace(prepared, query=query, market=market, dropped=dropped), limits


def _lifted(certificate: Certificate, relaxed: Certificate) -> Certificate:
    """A certificate of a question with what a relaxation proves of it: no plan is below its bound."""
    bounds = [bound for bound in (certificate.lower_bound, relaxed.lower_bound) if bound is not None]
    met = certificate.objective is not None and certificate.objective in bounds
    return replace(
        certificate,
        status="optimal" if met else certificate.status,
        lower_bound=max(bounds, default=None),
        rounds=certificate.rounds + relaxed.rounds,
        solves=certificate.solves + relaxed.solves,
        seconds=certificate.seconds + relaxed.seconds,
    )
