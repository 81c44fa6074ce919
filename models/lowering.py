"""Lowering: what a workload demands at one number format, whatever hardware will supply it.

`lower` is a single-dispatch function over the workload's class, so a new kind of workload needs one function and no change
to anything else. A retrieval-augmented model, for example, is a generator that reads what a retriever found:

>>> from dataclasses import dataclass
>>> from zoo.specs import Transformer
>>> @dataclass(frozen=True)
... class RetrievalAugmented:
...     name: str
...     generator: Transformer
...     index_bytes_per_query: Quantity  # vectors that one search passes over
>>> @lower.register
... def _(workload: RetrievalAugmented, precision: str, batch: float = 1.0) -> Lowered:
...     demand = lower(workload.generator, precision, batch)
...     searched = batch * workload.index_bytes_per_query
...     return lowered(demand.unit, batch, demand.operations, demand.weight_bytes, demand.traffic + searched, demand.parameters)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from zoo.specs import Generic, Transformer
from zoo.units import Q, Quantity

from . import node
from .algorithm import bytes_per_element
from .dimensions import Number, known


@dataclass(frozen=True, slots=True)
class Lowered:
    """What `batch` units of a workload, processed together, demand.

    unit: what one unit is (token, image, ...); batch: how many; operations [FLOP] and traffic [byte] of the whole batch;
    weight_bytes [byte] that must be resident; intensity [FLOP/byte]; parameters: the count; assumptions: what was not known.
    """

    unit: str
    batch: Number
    operations: Quantity
    weight_bytes: Quantity
    traffic: Quantity
    intensity: Quantity
    parameters: float
    assumptions: tuple[str, ...] = ()


def lowered(
    unit: str,
    batch: Number,
    operations: Quantity,
    weight_bytes: Quantity,
    traffic: Quantity,
    parameters: float,
    assumptions: tuple[str, ...] = (),
) -> Lowered:
    """A `Lowered` with its intensity: operations / traffic."""
    return Lowered(unit, batch, operations, weight_bytes, traffic, node.intensity(operations, traffic), parameters, assumptions)


@singledispatch
def lower(workload: Any, precision: str, batch: Number = 1.0) -> Lowered:
    """Demand of `batch` units of `workload` with weights in `precision`.

    batch: units processed together (tokens of a transformer, images of a CNN); may be an array. Weights that serve the whole
    batch are moved once. TypeError for a kind of workload that has registered no lowering.
    """
    raise TypeError(f"no lowering for {type(workload).__name__}: register one with @lower.register (see the module's example)")


@lower.register
def _(workload: Transformer, precision: str, batch: Number = 1.0) -> Lowered:
    """Tokens that pass together: 2 operations per active parameter, the weights they touch, and the first cache entry of each.

    What grows with the context (attention, cache) is in `node.prefill_operations`, `node.decode_operations` and their traffic.
    """
    element = bytes_per_element(precision)
    first = Q(1.0, "token")
    return lowered(
        "token",
        batch,
        node.decode_operations(workload, batch, first),
        node.weight_bytes(workload.parameters, element),
        node.decode_traffic(workload, batch, first, element, element),
        workload.parameters,
        ("one token per sequence, no context: attention and cache are added by the serving and training models",),
    )


@lower.register
def _(workload: Generic, precision: str, batch: Number = 1.0) -> Lowered:
    """Units of a workload known by its totals, by its kind.

    cnn, encoder, other, ssm: the weights are passed once for the whole batch; diffusion: once for each sequential step of a
    unit. ssm: every sequence's constant state is read and written. recommendation: almost all parameters are tables of which
    a sample reads a few rows, so only the weights that are multiplied (operations / 2, a multiply-add as two) are passed.
    """
    operations = known(workload.operations_per_unit, f"operations per {workload.unit} of {workload.name}")
    element = bytes_per_element(precision)
    passed, assumptions = workload.parameters, []
    if workload.kind == "recommendation":
        passed = min(passed, float(operations.m_as("flop")) / 2)
        assumptions.append("weights passed are those multiplied, operations / 2: the rest are tables read by row")
    traffic = node.weight_bytes(passed, element) * workload.steps_per_unit
    traffic = traffic + batch * 2 * workload.state_elements * element
    if workload.traffic_per_unit is None:
        what = "rows read from the tables" if workload.kind == "recommendation" else "traffic beyond the weights"
        assumptions.append(f"{what} is not known: memory time is a lower bound")
    else:
        traffic = traffic + batch * workload.traffic_per_unit
    return lowered(
        workload.unit, batch, batch * operations, node.weight_bytes(workload.parameters, element), traffic, workload.parameters,
        tuple(assumptions),
    )  # fmt: skip
