"""Two training plans side by side: what changed in the answer, and in what it stands on."""

from __future__ import annotations

from ..compare import differences, text
from ..plan import Difference
from .plan import TrainPlan

# What of a job is compared besides its totals, in words.
_FIGURES = {
    "offer": "offer", "chip": "chip", "region": "region", "option": "purchase option", "instances": "instances",
    "spare_instances": "spare instances", "step_s": "step, s", "mfu": "MFU", "goodput": "goodput", "fed": "share of time fed",
    "days_low": "days, least", "days_high": "days, most", "finish": "finish", "price_usd_per_h": "price of an instance, USD/h",
    "memory_peak_gib": "memory of an accelerator, GiB",
}  # fmt: skip


def compare(old: TrainPlan, new: TrainPlan) -> tuple[Difference, ...]:
    """Every figure of the job, degree of its layout, wall and clause that differs between two plans, old to new."""
    return differences(old, new, _figures(old), _figures(new))


def _figures(plan: TrainPlan) -> dict[str, str | None]:
    if plan.job is None:
        return {}
    job = plan.job
    figures = {words: getattr(job, name) for name, words in _FIGURES.items()}
    figures |= {name.replace("_", " "): value for name, value in job.layout}
    return {name: text(value) for name, value in figures.items()}
