"""From a step to a job on one kind of machine: goodput, feeding, waiting, and what the job takes in all.

Everything here is an array over numbers of accelerators where a step time is; figures per offer are per hour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models import data, fleet, operations
from models.training_job import Goodput, goodput_of, published, training_time
from zoo.specs import Accelerator, Offer
from zoo.units import Q, Quantity

from .. import columns
from ..columns import Site
from ..program import whole
from ..query import Sharing
from ..space import Machine
from .question import LONGEST, LONGEST_TEXT, Question
from .search import Host

# What one integer of the program is of each thing that a job takes in all.
UNITS = {
    "cost": Q(0.01, "USD"), "carbon": Q(1.0, "gCO2e"), "power": Q(1.0, "watt"), "water": Q(0.1, "liter"),
    "chips": Q(1.0, ""), "time": Q(1.0, "s"), "energy": Q(1.0, "watthour"),
}  # fmt: skip
# Share of instances that a month takes back, by the band that the provider states: its upper end.
_BANDS = {"<5%": 0.05, "5-10%": 0.10, "10-15%": 0.15, "15-20%": 0.20, ">20%": 0.30}
TERMS = {"reserved-1y": Q(1.0, "year"), "reserved-3y": Q(3.0, "year")}

Floats = NDArray[np.float64]


def accelerator_of(question: Question, machine: Machine, accelerators: int) -> Accelerator:
    """The chip as the job finds it: the scale-up domain of the instance, and what the fabric leaves of its network port."""
    chip = machine.accelerator
    nic = chip.nic_bandwidth
    if nic is not None:
        fabric = question.query.fabric
        nic = data.effective_bandwidth(nic, fabric.topology, float(accelerators), fabric.oversubscription)
    link = chip.link_bandwidth if chip.scale_up_domain > 1 else None
    return replace(chip, scale_up_domain=machine.domain, nic_bandwidth=nic, link_bandwidth=link)


def stands_alone(machine: Machine) -> bool:
    """Whether instances of this kind train on their own only: parts of a board, which share its network ports with strangers."""
    chip = machine.accelerator
    return chip.domain_kind == "instance" and machine.accelerators < chip.scale_up_domain


def host_of(question: Question, machine: Machine, offers: Sequence[Offer]) -> Host:
    """What a host lends to one accelerator; the smallest memory among the offers."""
    bandwidth = question.catalog.find("storage", "host-dram").read_bandwidth
    memories = [offer.host_memory.m_as("byte") for offer in offers if offer.host_memory is not None]
    memory = Q(min(memories) / machine.accelerators, "byte") if len(memories) == len(offers) and memories else None
    return Host(machine.accelerator.host_bandwidth, bandwidth / machine.accelerators, memory)


@dataclass(frozen=True, slots=True)
class Service:
    """What `accelerators` of a machine (an array) do with time: goodput at typical MTBF, and feeding."""

    goodput: Goodput
    read: Quantity  # time to read one step's tokens [s]
    transform: Quantity | None  # time of the host's processors [s], None where their number is not known
    supply: Quantity  # of storage [byte/s]
    checkpoint: Quantity


def checkpoint_of(question: Question) -> Quantity:
    """Size of a checkpoint."""
    return operations.checkpoint_bytes(question.model.parameters, Q(2.0, "byte"), question.task.optimizer_bytes)


def _shared(pair: tuple[Quantity | None, Quantity | None], nodes: Floats) -> tuple[Quantity, Quantity]:
    """Bandwidths of storage (of one node, of all) where one of them is no limit."""
    each, together = pair
    if together is None:
        assert each is not None
        together = Q(float(np.max(nodes)) * each.m_as("byte/s"), "byte/s")
    return (together if each is None else each), together


def goodput_with(
    question: Question, machine: Machine, accelerators: Floats, offer: Offer | None, mtbf: Quantity
) -> Goodput:  # fmt: skip
    """Goodput on each number of accelerators, of which one fails every `mtbf`. A spot offer adds its own interruptions."""
    nodes, size = accelerators / machine.accelerators, checkpoint_of(question)
    snapshot = None
    if question.query.reliability.checkpoint == "asynchronous" and machine.accelerator.host_bandwidth is not None:
        snapshot = size / accelerators / machine.accelerator.host_bandwidth
    together = fleet.cluster_mtbf(mtbf, accelerators)
    if offer is not None and offer.option == "spot":
        together = fleet.series_mtbf(together, fleet.cluster_mtbf(spot_mtbf(offer), nodes))
    read, write = _shared(question.store.read, nodes), _shared(question.store.write, nodes)
    return goodput_of(together, size, nodes, write, read, question.restart, snapshot)


def spot_mtbf(offer: Offer) -> Quantity:
    """How long a spot instance is kept on average, from the share of instances that a month takes back."""
    kept: Quantity = -Q(1.0, "month") / np.log1p(-_BANDS[offer.interruption_band or ""])
    return kept


def service_of(question: Question, machine: Machine, accelerators: Floats, offer: Offer | None, vcpus: int | None) -> Service:
    """Goodput and feeding on each number of accelerators. `offer`: a spot offer adds its own interruptions."""
    nodes = accelerators / machine.accelerators
    tokens = float(question.query.workload.sequences * question.query.workload.length)
    sample = Q(published("bytes_per_token").typical, "byte")
    supply = data.storage_supply(nodes, *_shared(question.store.read, nodes))
    transform = None
    if vcpus is not None:
        core = Q(published("token_megabytes_per_core_second").low, "MB/s")
        transform = data.transformation_time(tokens, sample, nodes * vcpus / 2, core)
    good = goodput_with(question, machine, accelerators, offer, question.mtbf[1])
    return Service(good, tokens * sample / supply, transform, supply, checkpoint_of(question))


def usable_spot(offer: Offer) -> bool:
    """Whether the interruptions of an offer are known: always, but for spot offers without a stated band."""
    return offer.option != "spot" or offer.interruption_band in _BANDS


def fed_of(service: Service, step: Floats) -> Floats:
    """Fraction of the time that accelerators have data (walls 8 and 9)."""
    feeding = np.asarray(service.read.m_as("s"))
    if service.transform is not None:
        feeding = np.maximum(feeding, service.transform.m_as("s"))
    return np.asarray(data.fed_fraction(Q(step, "s"), Q(feeding + 0.0 * step, "s")))


def hours_of(question: Question, service: Service, step: Floats, goodput: Floats) -> Floats:
    """Hours that the job runs, without waiting for machines."""
    time = training_time(float(question.steps), Q(step, "s"), goodput, fed_of(service, step))
    return np.asarray(time.m_as("hour"), float)


def step_within(question: Question, goodput: Floats, hours: Floats) -> Floats:
    """The step time [s] with which the job takes `hours`: the inverse of `hours_of` where data is there in time.

    Where it is not, steps wait for data and this is more than may be, so it never cuts off what is allowed.
    """
    return np.asarray(hours * 3600.0 * goodput / question.steps * (1 + 1e-12))


def wait_of(question: Question, hours: Floats) -> Floats:
    """`queue_wait` of a question."""
    return queue_wait(question.query.sharing, hours)


def queue_wait(sharing: Sharing | None, hours: Floats) -> Floats:
    """Mean hours in the queue of a shared cluster (wall 16); 0 where it is not shared, infinite where it never empties."""
    if sharing is None:
        return np.zeros(np.shape(hours))
    wait = fleet.pollaczek_khinchine_wait(sharing.arrivals, Q(np.asarray(hours, float), "hour"), sharing.variability)
    return np.asarray(wait.m_as("hour"), float)


def longest(question: Question) -> float:
    """The most hours that a job may run, waiting apart: what the deadline leaves, or `question.LONGEST`."""
    deadline, sharing = question.deadline if question.deadline is not None else LONGEST, question.query.sharing
    return float(deadline.m_as("hour")) if sharing is None else _longest_shared(float(deadline.m_as("hour")), sharing)


@lru_cache(256)
def _longest_shared(most: float, sharing: Sharing) -> float:
    """The most hours of a job that with the wait for its machines takes `most`. A search asks at every number of instances."""
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle + float(queue_wait(sharing, np.array(middle))) <= most else (low, middle)
    return high


def clause_of(question: Question, resource: str) -> str:
    """What bounds a total: a clause of the question, or where it has no deadline the longest job that is looked at."""
    if resource == "time":
        return "deadline" if question.deadline is not None else LONGEST_TEXT
    return f"limits.{resource}"


@dataclass(frozen=True, slots=True)
class Rates:
    """What one rented instance of each offer takes per hour, arrays over offers; `term` [h] is paid for even if unused."""

    offers: tuple[Offer, ...]
    sites: tuple[Site, ...]
    cost: Floats  # USD
    carbon: Floats  # gCO2e
    power: Floats  # W, not per hour
    water: Floats  # L
    energy: Floats  # Wh
    term: Floats

    def at(self, index: NDArray[np.intp]) -> Rates:
        arrays = (getattr(self, name)[index] for name in ("cost", "carbon", "power", "water", "energy", "term"))
        return Rates(tuple(self.offers[i] for i in index), tuple(self.sites[i] for i in index), *arrays)


def rates_of(question: Question, offers: Sequence[Offer], sites: Sequence[Site]) -> Rates:
    """Walls 17 and 18 of one instance of each offer."""
    chips = [question.catalog.chips[offer.accelerator] for offer in offers]
    count = np.array([float(offer.accelerators) for offer in offers])
    price = Q(np.array([offer.price.m_as("USD/hour") for offer in offers]), "USD/hour")
    amounts = columns.amounts_of(chips, count, price, list(sites), question.query, question.catalog, "training")
    draw = columns.figure(question.catalog, "average draw as fraction of TDP, training")
    tdp = Q(np.array([chip.tdp.m_as("W") for chip in chips if chip.tdp is not None]), "W")
    share = np.array([chip.host_power_share for chip in chips])
    pue = np.array([site.pue for site in sites])
    energy = operations.facility_energy(operations.energy(operations.node_power(count, tdp, draw, share), Q(1.0, "hour")), pue)
    return Rates(
        tuple(offers), tuple(sites), price.m_as("USD/hour"), amounts["carbon"].m_as("gCO2e/hour"), amounts["power"].m_as("W"),
        amounts["water"].m_as("liter/hour"), energy.m_as("Wh"),
        np.array([TERMS[o.option].m_as("hour") if o.option in TERMS else 0.0 for o in offers]),
    )  # fmt: skip


def rented(question: Question, machine: Machine, accelerators: Floats) -> Floats:
    """Instances that are rented: those that train, and the spares."""
    nodes = np.asarray(accelerators, float) / machine.accelerators
    return np.asarray(np.ceil(nodes * (1 + question.query.reliability.spares) - 1e-9))


def totals_of(rates: Rates, instances: Floats, per_instance: int, hours: Floats) -> dict[str, Floats]:
    """What a job takes in all, in the units of `UNITS` as exact numbers: last axis offers, first axis numbers of instances."""
    n, t = np.asarray(instances, float)[..., None], np.asarray(hours, float)[..., None]
    return {
        "cost": n * rates.cost * np.maximum(t, rates.term) * 100,
        "carbon": n * rates.carbon * t,
        "power": n * rates.power,
        "water": n * rates.water * t * 10,
        "chips": n * per_instance * np.ones(len(rates.offers)),
        "time": t * 3600 * np.ones(len(rates.offers)) * np.ones(n.shape),
        "energy": n * rates.energy * t,
    }


def objective_of(question: Question, totals: dict[str, Floats]) -> Floats:
    """The objective of each column, in the unit of its resource; cost plus priced carbon in that of cost."""
    query = question.query
    if query.minimize in UNITS:
        return totals[query.minimize]
    assert query.carbon.price is not None
    return totals["cost"] + totals["carbon"] * float(query.carbon.price.m_as("USD/gCO2e")) * 100


def bounds_of(question: Question) -> dict[str, int]:
    """The limits of the question as integers of `UNITS`, rounded down; time is what the deadline leaves.

    Where limits must hold with a given probability, what is left of them for a job as it is expected (`question.Guard`).
    """
    shares = question.guard.shares
    limits = question.query.limits
    result: dict[str, int] = {}
    for name in ("cost", "carbon", "power", "water", "chips"):
        bound = getattr(limits, name)
        if bound is not None:
            quantity = Q(float(bound), "") if isinstance(bound, int) else bound
            result[name] = int(whole(quantity * shares.get(name, 1.0), UNITS[name], "down"))
    share = 1.0 if question.deadline is None else shares["time"]
    result["time"] = int(whole(Q(longest(question) * share, "hour"), UNITS["time"], "down"))
    return result


def limits_for(question: Question, resource: str, used: Floats) -> Floats:
    """The least limits that allow jobs to take `used` of a resource, in integers of `UNITS`: the inverse of `bounds_of`."""
    return np.asarray(np.ceil(used / question.guard.shares.get(resource, 1.0) * (1 - 1e-12)))


def limit_for(question: Question, resource: str, used: int) -> int:
    """`limits_for` one job."""
    return int(limits_for(question, resource, np.array(float(used))))
