"""What is true: the twenty-two walls as exact forward solvers.

    >>> from models import scaling, walls
    >>> from zoo.units import Q
    >>> walls[14].equation
    'T = 2 (N-1)/N M/beta + 2 (N-1) alpha'
    >>> f"{scaling(Q(1.2e22, 'flop'), 20, 'epoch').parameters:.3g}"
    '1e+10'

The names below are the public ones. The walls' equations are in `node`, `data`, `algorithm`, `fleet`, `operations` and
`analysis`; all solvers of the architecture are in `solvers` (also `serving` and `data`, whose names are modules here). Each is
loaded when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dimensions import ImpossibleValue, UnknownValue
    from .lowering import Lowered, lower, lowered
    from .questions import Ownership, Privacy, Processing, Service, Sharing, Training
    from .scenario import Evaluation, OwnWall, Scenario, Sensitivity
    from .solvers import (
        Experts,
        Software,
        checkpoint,
        compression,
        continuous_batching,
        distributed,
        economics,
        efficiency,
        inference_scaling,
        orchestration,
        reliability,
        responsible_engineering,
        scaling,
        sensitivity,
        single_node,
        sustainability,
        synthesis,
        tail_latency,
        topology,
        transformation,
        weight_streaming,
    )
    from .wall import Reading, Wall, Worked, reading, walls

_WHERE = {
    "dimensions": ("ImpossibleValue", "UnknownValue"),
    "lowering": ("Lowered", "lower", "lowered"),
    "questions": ("Ownership", "Privacy", "Processing", "Service", "Sharing", "Training"),
    "scenario": ("Evaluation", "OwnWall", "Scenario", "Sensitivity"),
    "solvers": (
        "Experts",
        "Software",
        "checkpoint",
        "compression",
        "continuous_batching",
        "distributed",
        "economics",
        "efficiency",
        "inference_scaling",
        "orchestration",
        "reliability",
        "responsible_engineering",
        "scaling",
        "sensitivity",
        "single_node",
        "sustainability",
        "synthesis",
        "tail_latency",
        "topology",
        "transformation",
        "weight_streaming",
    ),
    "wall": ("Reading", "Wall", "Worked", "reading", "walls"),
}


def __getattr__(name: str) -> Any:
    """A public name, from its module: a command that needs one wall does not load all."""
    from importlib import import_module

    for module, names in _WHERE.items():
        if name in names:
            value = getattr(import_module(f".{module}", __name__), name)
            globals()[name] = value  # also where a module has the same name
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Evaluation",
    "Experts",
    "ImpossibleValue",
    "Lowered",
    "OwnWall",
    "Ownership",
    "Privacy",
    "Processing",
    "Reading",
    "Scenario",
    "Sensitivity",
    "Service",
    "Sharing",
    "Software",
    "Training",
    "UnknownValue",
    "Wall",
    "Worked",
    "checkpoint",
    "compression",
    "continuous_batching",
    "distributed",
    "economics",
    "efficiency",
    "inference_scaling",
    "lower",
    "lowered",
    "orchestration",
    "reading",
    "reliability",
    "responsible_engineering",
    "scaling",
    "sensitivity",
    "single_node",
    "sustainability",
    "synthesis",
    "tail_latency",
    "topology",
    "transformation",
    "walls",
    "weight_streaming",
]
