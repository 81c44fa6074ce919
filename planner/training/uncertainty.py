"""A job under uncertainty: what it takes as intervals, and the probability that the deadline and each limit hold.

Figures are independent and triangular between low, mid and high. Sampling is seeded, so the same plan gives the same numbers;
all samples go through the forward models of goodput, feeding and time at once, as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..plan import Robustness
from ..query import TrainQuery
from ..uncertainty import SAMPLES, factors_of, interval
from .check import family_of
from .job import goodput_with, hours_of, service_of, wait_of
from .plan import Job
from .question import Question
from .report_units import unit_of


@dataclass(frozen=True, slots=True)
class Draw:
    """Factors of one figure, one for each sample."""

    prices: np.ndarray
    efficiency: np.ndarray
    intensity: np.ndarray
    failures: np.ndarray


def any_of(query: TrainQuery) -> bool:
    """Whether anything in the question is uncertain."""
    u = query.uncertain
    return any(spread is not None for spread in (u.prices, u.efficiency, u.intensity, u.failures))


def draw(query: TrainQuery) -> Draw:
    """Seeded samples of every uncertain figure; what is not uncertain is 1 everywhere."""
    u = query.uncertain
    return Draw(*factors_of((u.prices, u.efficiency, u.intensity, u.failures)))


def robustness(question: Question, job: Job) -> tuple[Robustness, ...]:
    """The objective, then days, cost, carbon and water as intervals (p10, p50, p90), each with how surely its limit holds.

    The step is the one that counts for the plan, 1 / efficiency as long; a reservation is paid for at least its term.
    """
    query, factors = question.query, draw(question.query)
    family = family_of(question, question.catalog.find("offers", job.offer))
    count = np.array([float(job.accelerators)])
    service = service_of(question, family.machine, count, family.spot, family.vcpus)
    mtbf = question.mtbf[1] * question.guard.failures / factors.failures
    goodput = np.asarray(goodput_with(question, family.machine, count, family.spot, mtbf).fraction)
    hours = hours_of(question, service, job.ranked_step_s / factors.efficiency, goodput)
    rates, j = family.rates, [offer.name for offer in family.rates.offers].index(job.offer)
    machines = float(job.instances)
    cost = machines * rates.cost[j] * np.maximum(hours, rates.term[j]) * factors.prices
    carbon = machines * rates.carbon[j] * hours * factors.intensity / 1e6
    days = (hours + np.asarray(wait_of(question, hours))) / 24
    limits, deadline = query.limits, None if question.deadline is None else float(question.deadline.m_as("day"))
    rows = [
        interval("time until done", "days", days, deadline),
        interval("cost", "USD", cost, None if limits.cost is None else float(limits.cost.m_as("USD"))),
        interval("carbon", "tCO2e", carbon, None if limits.carbon is None else float(limits.carbon.m_as("tCO2e"))),
        interval("water", "m3", machines * rates.water[j] * hours / 1e3,
                 None if limits.water is None else float(limits.water.m_as("kiloliter"))),
    ]  # fmt: skip
    objective = {"cost": cost, "carbon": carbon, "time": hours / 24, "energy": machines * rates.energy[j] * hours / 1e6}
    if query.carbon.price is not None:
        objective["cost + carbon.price * carbon"] = cost + float(query.carbon.price.m_as("USD/tCO2e")) * carbon
    if query.minimize in objective:
        rows.insert(0, interval("objective", unit_of(query), objective[query.minimize], None))
    every = np.ones(SAMPLES, bool)
    for values, row in ((days, rows[-4]), (cost, rows[-3]), (carbon, rows[-2])):
        every &= True if row.limit is None else values <= row.limit
    if limits.water is not None:
        every &= machines * rates.water[j] * hours / 1e3 <= float(limits.water.m_as("kiloliter"))
    rows.append(
        Robustness(what="deadline and every limit", unit="", p10=None, p50=None, p90=None, limit=None, holds=float(every.mean()))
    )
    return tuple(rows)
