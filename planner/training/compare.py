"""Two training plans side by side: what changed in the answer, and in what it stands on."""

from __future__ import annotations

from ..compare import differences
from ..plan import Difference
from .plan import TrainPlan

# What of a job is compared besides its totals.
_FIGURES = (
    "offer", "chip", "region", "option", "instances", "spare_instances", "step_s", "mfu", "goodput", "fed", "days_low",
    "days_high", "finish", "price_usd_per_h", "memory_peak_gib",
)  # fmt: skip


def compare(old: TrainPlan, new: TrainPlan) -> tuple[Difference, ...]:
    """Every figure of the job, degree of its layout, wall and clause that differs between two plans, old to new."""
    return differences(old, new, _figures(old), _figures(new))


def _figures(plan: TrainPlan) -> dict[str, str | None]:
    if plan.job is None:
        return {}
    job = plan.job
    figures = {name: getattr(job, name) for name in _FIGURES} | dict(job.layout)
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in figures.items()}
