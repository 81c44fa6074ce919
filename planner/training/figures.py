"""Figures of the world that a job depends on and nobody asked for: physics, the market and luck, each of which can be scaled.

The same figures are moved one by one for marginal values and drawn at random where they are uncertain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from models.training_constants import Constants, Setting
from zoo.catalog import Catalog
from zoo.specs import Accelerator
from zoo.units import Quantity

from ..marginal import varied
from ..query import TrainQuery
from .question import Question, Store


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure, the wall that it stands in, and the factor of a 1 % change of it that makes the job easier."""

    number: int
    wall: str
    name: str
    origin: Literal["physics", "market"]
    easier: float


FIGURES = (
    Figure(1, "compute", "peak FLOP/s", "physics", 1.01),
    Figure(2, "memory", "memory bandwidth", "physics", 1.01),
    Figure(2, "memory", "memory capacity", "physics", 1.01),
    Figure(3, "software", "efficiency", "physics", 1.01),
    Figure(10, "locality", "network bandwidth", "physics", 1.01),
    Figure(14, "communication", "link bandwidth", "physics", 1.01),
    Figure(14, "communication", "host bandwidth", "physics", 1.01),
    Figure(15, "fragility", "failure rate", "physics", 0.99),
    Figure(15, "fragility", "restart time", "physics", 0.99),
    Figure(19, "checkpoint", "storage bandwidth", "physics", 1.01),
    Figure(17, "capital", "prices", "market", 0.99),
    Figure(18, "sustainability", "carbon intensity", "market", 0.99),
)
# Fields of a chip that a figure is, where it is not one that serve questions scale too (`planner.marginal.varied`).
_OF_CHIPS = {"network bandwidth": "nic_bandwidth", "link bandwidth": "link_bandwidth", "host bandwidth": "host_bandwidth"}
FIELDS_OF_CHIPS = {"memory bandwidth": "memory_bandwidth", "memory capacity": "memory", **_OF_CHIPS}
_OF_CATALOG = {"peak FLOP/s", "memory bandwidth", "memory capacity", "prices", "carbon intensity"}
# Figures on which neither steps nor offers depend, and those on which the time of a step does.
OF_JOBS = {"failure rate", "restart time", "storage bandwidth"}
OF_STEPS = {"peak FLOP/s", "memory bandwidth", "memory capacity", "efficiency", *_OF_CHIPS}
# Those that make each part of a step shorter by at most their factor, and leave memory as it is.
OF_TIMES = {"peak FLOP/s", "memory bandwidth", "efficiency", *_OF_CHIPS}


def figures_of(query: TrainQuery) -> tuple[Figure, ...]:
    """The figures that can matter to a question: carbon only where it counts, the host's link only where it is used."""
    carbon = "carbon" in query.minimize or query.limits.carbon is not None
    host = query.workload.offload or query.reliability.checkpoint == "asynchronous"
    without = ({"carbon intensity"} if not carbon else set()) | ({"host bandwidth"} if not host else set())
    return tuple(figure for figure in FIGURES if figure.name not in without)


def scaled_catalog(catalog: Catalog, scales: Mapping[str, float], chip: str | None = None) -> Catalog:
    """The catalogue with its records' figures scaled; figures that are no catalogue's are left alone.

    chip: only its figures, and only prices of its offers.
    """
    catalog = varied(catalog, {name: factor for name, factor in scales.items() if name in _OF_CATALOG}, chip)
    mine = {_OF_CHIPS[name]: factor for name, factor in scales.items() if name in _OF_CHIPS}
    if mine:
        chips = {name: _with(one, mine) if chip in (None, name) else one for name, one in catalog.chips.items()}
        catalog = catalog.with_records("chips", chips)
    return catalog


def _with(chip: Accelerator, factors: Mapping[str, float]) -> Accelerator:
    known: dict[str, Any] = {n: getattr(chip, n) * f for n, f in factors.items() if getattr(chip, n) is not None}
    return replace(chip, **known)


def scaled_question(question: Question, scales: Mapping[str, float]) -> Question:
    """The question with the figures scaled that are no catalogue's: efficiency, failures, restarts and storage."""
    if "efficiency" in scales:
        question = replace(question, task=replace(question.task, constants=faster(question.task.constants, scales["efficiency"])))
    if "failure rate" in scales:
        low, typical, high = (mtbf / scales["failure rate"] for mtbf in question.mtbf)
        question = replace(question, mtbf=(low, typical, high))
    if "restart time" in scales:
        question = replace(question, restart=question.restart * scales["restart time"])
    if "storage bandwidth" in scales:
        question = replace(question, store=_wider(question.store, scales["storage bandwidth"]))
    return question


def _wider(store: Store, factor: float) -> Store:
    def both(pair: tuple[Quantity | None, Quantity | None]) -> tuple[Quantity | None, Quantity | None]:
        each, together = (None if one is None else one * factor for one in pair)
        return each, together

    return Store(store.name, both(store.read), both(store.write))


@dataclass(frozen=True, slots=True)
class _Faster(Constants):
    """Constants of software that is `speed` times as fast in everything."""

    speed: float = 1.0

    def resolve(self, settings: Sequence[Setting]) -> dict[str, Any]:
        resolved = Constants.resolve(self, settings)
        return resolved | {"time_factor": resolved["time_factor"] / self.speed}


def faster(constants: Constants, speed: float) -> Constants:
    """Constants under which every step is 1 / speed as long; memory stays what it is."""
    own = {field.name: getattr(constants, field.name) for field in fields(Constants)}
    return _Faster(**own, speed=speed)
