"""Walls 14 to 16: what many accelerators cost each other. 14 communication, 15 fragility, 16 multi-tenant queues.

`message` is what the field calls the message size of a collective: the bytes of the whole vector that is reduced,
gathered or scattered, per rank. `bandwidth` is per rank and direction. Ranks, nodes, stages are counts.
"""

from __future__ import annotations

import math

import numpy as np

from zoo.units import Q, Quantity

from .dimensions import Number, dimensions, require

# ------------------------------------------------------------------------------------------ wall 14: communication


@dimensions("s", message="byte", bandwidth="byte/s", latency="s")
def point_to_point(message: Quantity, bandwidth: Quantity, latency: Quantity) -> Quantity:
    """Time to send `message` from one rank to one other: M / beta + alpha.

    message M [byte], bandwidth beta [byte/s] per direction, latency alpha [s] one way. Returns [s].
    Source: Hockney (1994). Leaves out: contention with other traffic.
    """
    return message / bandwidth + latency


@dimensions("s", message="byte", ranks="", bandwidth="byte/s", latency="s")
def all_gather(message: Quantity, ranks: Number, bandwidth: Quantity, latency: Quantity) -> Quantity:
    """Time until every rank holds the whole `message`, of which each held 1/N, around a ring.

    (N - 1)/N M / beta + (N - 1) alpha

    message M [byte], the gathered size; ranks N: count; bandwidth beta [byte/s] per rank and direction; latency alpha [s]
    per step. Returns [s], exactly 0 for one rank. Source: Thakur, Rabenseifner, Gropp (2005).
    """
    require(ranks >= 1, "a collective has at least one rank, not {}", ranks)
    return (ranks - 1) / ranks * message / bandwidth + (ranks - 1) * latency


@dimensions("s", message="byte", ranks="", bandwidth="byte/s", latency="s")
def reduce_scatter(message: Quantity, ranks: Number, bandwidth: Quantity, latency: Quantity) -> Quantity:
    """Time until each rank holds 1/N of the sum of every rank's `message`: an all-gather run backwards, the same time [s].

    Arguments and source as `all_gather`; message is the size before scattering. Leaves out: the additions themselves.
    """
    return all_gather(message, ranks, bandwidth, latency)


@dimensions("s", message="byte", ranks="", bandwidth="byte/s", latency="s")
def ring_all_reduce(message: Quantity, ranks: Number, bandwidth: Quantity, latency: Quantity) -> Quantity:
    """Time until every rank holds the sum of all ranks' `message`, around a ring.

    T = 2 (N - 1)/N M / beta + 2 (N - 1) alpha: a reduce-scatter, then an all-gather

    message M [byte] per rank; ranks N: count; bandwidth beta [byte/s] per rank and direction; latency alpha [s] per step.
    Returns [s], exactly 0 for one rank. Source: Patarasuk and Yuan (2009); Shoeybi et al. (2019), Megatron-LM.
    Assumes the slowest link of the ring sets the bandwidth. Leaves out: overlap with compute (the caller's business).
    """
    return reduce_scatter(message, ranks, bandwidth, latency) + all_gather(message, ranks, bandwidth, latency)


@dimensions("s", message="byte", ranks="", bandwidth="byte/s", latency="s")
def tree_all_reduce(message: Quantity, ranks: Number, bandwidth: Quantity, latency: Quantity) -> Quantity:
    """Time of an all-reduce over two pipelined binary trees: few steps, so it wins for small messages on many ranks.

    T = 2 M / beta + 2 ceil(log2 N) alpha, and 0 for one rank

    Arguments as `ring_all_reduce`. Source: Sanders, Speck, Träff (2009), two-tree algorithm (NCCL since 2.4).
    Assumes messages long enough to fill the pipeline. Leaves out: the pipeline's chunk overhead.
    """
    require(ranks >= 1, "a collective has at least one rank, not {}", ranks)
    return np.minimum(ranks - 1, 1.0) * (2 * message / bandwidth) + 2 * np.ceil(np.log2(ranks)) * latency


@dimensions("s", message="byte", ranks="", bandwidth="byte/s", latency="s")
def all_to_all(message: Quantity, ranks: Number, bandwidth: Quantity, latency: Quantity) -> Quantity:
    """Time until every rank has sent 1/N of its `message` to each other rank.

    (N - 1)/N M / beta + (N - 1) alpha

    message M [byte] that each rank holds before; the rest as `all_gather`. Returns [s], exactly 0 for one rank.
    Source: Thakur et al. (2005), pairwise exchange. Assumes equal shares: where routing is uneven, M is the fullest rank's.
    """
    return all_gather(message, ranks, bandwidth, latency)  # each rank sends N - 1 parts of M/N, as in an all-gather


@dimensions(
    "s", message="byte", ranks_in_node="", nodes="", node_bandwidth="byte/s", node_latency="s", fabric_bandwidth="byte/s",
    fabric_latency="s",
)  # fmt: skip
def hierarchical_all_reduce(
    message: Quantity,
    ranks_in_node: Number,
    nodes: Number,
    node_bandwidth: Quantity,
    node_latency: Quantity,
    fabric_bandwidth: Quantity,
    fabric_latency: Quantity,
) -> Quantity:
    """Time of an all-reduce that sums inside each node first, so that only 1/r of the message crosses the fabric per rank.

    reduce_scatter(M, r, node) + ring_all_reduce(M / r, nodes, fabric) + all_gather(M, r, node)

    message M [byte] per rank; ranks_in_node r and nodes: counts; bandwidths [byte/s] per rank and direction (the fabric's:
    what one rank gets of its node's network ports); latencies [s]. Returns [s], exactly 0 for one rank.
    Source: Cho et al. (2019), BlueConnect. Assumes as many ranks in every node, and all r rings on the fabric at once.
    """
    inside = reduce_scatter(message, ranks_in_node, node_bandwidth, node_latency)
    outside = ring_all_reduce(message / ranks_in_node, nodes, fabric_bandwidth, fabric_latency)
    return inside + outside + all_gather(message, ranks_in_node, node_bandwidth, node_latency)


@dimensions(
    "s", message="byte", ranks_in_node="", nodes="", node_bandwidth="byte/s", node_latency="s", fabric_bandwidth="byte/s",
    fabric_latency="s",
)  # fmt: skip
def hierarchical_all_gather(
    message: Quantity,
    ranks_in_node: Number,
    nodes: Number,
    node_bandwidth: Quantity,
    node_latency: Quantity,
    fabric_bandwidth: Quantity,
    fabric_latency: Quantity,
) -> Quantity:
    """Time until every rank of every node holds the whole `message`: its share over the fabric, then the rest in the node.

    all_gather(M / r, nodes, fabric) + all_gather(M, r, node): half of `hierarchical_all_reduce`, as is a reduce-scatter

    Arguments, source and assumptions as there; message M [byte] is the gathered size. Returns [s].
    """
    outside = all_gather(message / ranks_in_node, nodes, fabric_bandwidth, fabric_latency)
    return outside + all_gather(message, ranks_in_node, node_bandwidth, node_latency)


@dimensions(
    "s", message="byte", ranks_in_node="", nodes="", node_bandwidth="byte/s", node_latency="s", fabric_bandwidth="byte/s",
    fabric_latency="s",
)  # fmt: skip
def hierarchical_all_to_all(
    message: Quantity,
    ranks_in_node: Number,
    nodes: Number,
    node_bandwidth: Quantity,
    node_latency: Quantity,
    fabric_bandwidth: Quantity,
    fabric_latency: Quantity,
) -> Quantity:
    """Time of an all-to-all over r ranks in each of n nodes: parts for the same node use its links, all others the fabric.

    max( (r - 1)/(r n) M / beta_node + (r - 1) alpha_node,  (n - 1)/n M / beta_fabric + (n - 1) alpha_fabric )

    message M [byte] that each rank holds before; the other arguments as `hierarchical_all_reduce`. Returns [s], exactly 0
    for one rank. Assumes both kinds of link move data at once, and messages to one node are sent together (DeepEP, PXN).
    """
    inside = all_to_all(message / nodes, ranks_in_node, node_bandwidth, node_latency)
    return np.maximum(inside, all_to_all(message, nodes, fabric_bandwidth, fabric_latency))  # type: ignore[return-value]


@dimensions("", stages="", microbatches="", virtual_stages="", batch="")
def pipeline_bubble(stages: Number, microbatches: Number, virtual_stages: Number, batch: Number = math.inf) -> Number:
    """Fraction of a pipeline's step in which a stage idles while the pipeline fills and drains.

    (p - 1) / (v m + p - 1)

    stages p, microbatches m, virtual_stages v (model chunks per stage; 1: plain 1F1B): counts >= 1. batch: sequences that
    one replica has in a step, of which there cannot be fewer than microbatches; infinity where it is not known here.
    Returns a fraction. Source: Narayanan et al. (2021), Megatron-LM; Huang et al. (2019), GPipe.
    Assumes equal stages. Leaves out: the time of point-to-point messages, zero-bubble schedules.
    """
    require((stages >= 1) & (virtual_stages >= 1), "a pipeline has at least one stage and one chunk per stage")
    require(microbatches >= 1, "a step has at least one microbatch, not {}", microbatches)
    require(microbatches <= batch, "{} microbatches need as many sequences, there are only {}", microbatches, batch)
    return (stages - 1) / (virtual_stages * microbatches + stages - 1)


# --------------------------------------------------------------------------------------------- wall 15: fragility


@dimensions("h", component_mtbf="h", count="")
def cluster_mtbf(component_mtbf: Quantity, count: Number) -> Quantity:
    """Mean time between failures of `count` equal components that must all work: MTBF_cluster = MTBF_component / N [h].

    component_mtbf [h], of a node, an accelerator, a cable; count N. Source: Daly (2006).
    Assumes independent failures at a constant rate, no redundancy.
    """
    return component_mtbf / count


@dimensions("h", mtbfs="h")
def series_mtbf(*mtbfs: Quantity) -> Quantity:
    """Mean time between failures of a system that stops when any of several kinds of part fails: 1 / sum(1 / MTBF_i) [h].

    mtbfs [h], one per kind, each for all parts of that kind (`cluster_mtbf`). Source: series reliability, rates add.
    Assumes independent failures at constant rates.
    """
    require(len(mtbfs) >= 1, "at least one kind of part is needed")
    return 1 / sum(1 / mtbf for mtbf in mtbfs)


@dimensions("h", accelerators="", period="h", interruptions="")
def measured_mtbf(accelerators: Number, period: Quantity, interruptions: Number) -> Quantity:
    """MTBF per accelerator that an observed run implies: N x period / interruptions [h].

    accelerators N and interruptions: counts; period [h]. Includes every cause that interrupted the run (hosts, network,
    software), spread over the accelerators. Source: maximum likelihood for a constant rate.
    """
    return accelerators * period / interruptions


@dimensions("", duration="h", mtbf="h")
def failure_probability(duration: Quantity, mtbf: Quantity) -> Number:
    """Probability of at least one failure within `duration`: 1 - e^(-t / MTBF); both [h]. Assumes a constant rate."""
    return -np.expm1(-_ratio(duration, mtbf))


@dimensions("", restart_time="h", mtbf="h")
def down_share(restart_time: Quantity, mtbf: Quantity) -> Number:
    """Share of the time that a replica without lasting work is down: R / (MTBF + R).

    restart_time R [h] from a failure until it serves again; mtbf [h] of the replica (`cluster_mtbf`). Returns a fraction.
    Source: steady-state availability of a part that fails and is repaired. Assumes a spare to restart on.
    """
    return _ratio(restart_time, mtbf + restart_time)


@dimensions("s", write_time="s", mtbf="s")
def young_interval(write_time: Quantity, mtbf: Quantity) -> Quantity:
    """Work between two checkpoints that wastes least, to first order: tau = sqrt(2 delta MTBF).

    write_time delta [s] during which no work is done; mtbf [s] of the whole job. Returns [s]. Source: Young (1974).
    Assumes delta much smaller than MTBF.
    """
    return (2 * write_time * mtbf) ** 0.5


@dimensions("s", write_time="s", mtbf="s")
def daly_interval(write_time: Quantity, mtbf: Quantity) -> Quantity:
    """Work between two checkpoints that wastes least, to higher order.

    tau = sqrt(2 delta M) (1 + sqrt(x)/3 + x/9) - delta with x = delta / (2 M), for delta < 2 M; else M

    write_time delta [s], mtbf M [s] of the whole job. Returns [s]. Source: Daly (2006), equation 37.
    """
    half = _ratio(write_time, 2 * mtbf)
    tau = young_interval(write_time, mtbf) * (1 + np.sqrt(half) / 3 + half / 9) - write_time
    return Q(np.where(half < 1, tau.m_as("s"), mtbf.m_as("s")), "s")


@dimensions("", interval="s", write_time="s", restart_time="s", mtbf="s")
def goodput(interval: Quantity, write_time: Quantity, restart_time: Quantity, mtbf: Quantity) -> Number:
    """Fraction of the wall-clock time that becomes lasting work, with checkpoints, restarts and the work that is lost.

    tau / (M e^(R/M) (e^((tau + delta)/M) - 1)), which to first order is 1 - delta/tau - (tau/2 + R)/M

    interval tau [s]: work between checkpoints; write_time delta [s]: stall of one checkpoint; restart_time R [s]: from a
    failure until work goes on; mtbf M [s] of the whole job. Returns a fraction in (0, 1).
    Source: Daly (2006), equation 20: exact for failures at a constant rate, which may also hit checkpoints and restarts.
    The rework after a failure (half an interval on average) is included. Leaves out: silent errors, spares running out.
    """
    cycle, restart = _ratio(interval + write_time, mtbf), _ratio(restart_time, mtbf)
    return _ratio(interval, mtbf) / (np.exp(restart) * np.expm1(cycle))


def _ratio(part: Quantity, whole: Quantity) -> Number:
    return (part / whole).m_as("")


# ------------------------------------------------------------------------------------------ wall 16: multi-tenant


@dimensions("", arrival_rate="1/s", service_time="s")
def utilisation(arrival_rate: Quantity, service_time: Quantity) -> Number:
    """Offered load of one server, rho = lambda / mu: a fraction when stable; 1 or more means the queue grows for ever."""
    return arrival_rate * service_time


@dimensions("s", arrival_rate="1/s", service_time="s", cs2="")
def pollaczek_khinchine_wait(arrival_rate: Quantity, service_time: Quantity, cs2: Number) -> Quantity:
    """Mean wait before a cluster that serves one job at a time (M/G/1).

    T_wait = (1 + cs2)/2 x rho / (mu (1 - rho)); infinite when rho >= 1

    arrival_rate lambda [1/s]; service_time 1/mu [s], the mean; cs2: squared coefficient of variation of the service time.
    Returns [s]. Source: Pollaczek (1930), Khinchine (1932); Little (1961).
    Assumes Poisson arrivals, first come first served, every job takes the whole cluster.
    """
    require(cs2 >= 0, "a squared coefficient of variation cannot be negative")
    load, service = utilisation(arrival_rate, service_time), service_time.m_as("s")
    with np.errstate(divide="ignore", invalid="ignore"):
        wait = np.divide((1 + cs2) / 2 * load * service, 1 - np.asarray(load))
    return Q(np.where(np.asarray(load) < 1, wait, np.inf), "s")


@dimensions("s", arrival_rate="1/s", service_time="s")
def m_d_1_wait(arrival_rate: Quantity, service_time: Quantity) -> Quantity:
    """Mean wait when all jobs take the same time: T_wait = rho / (2 mu (1 - rho)) [s]. Arguments as M/G/1 with cs2 = 0."""
    return pollaczek_khinchine_wait(arrival_rate, service_time, 0.0)


@dimensions("s", arrival_rate="1/s", service_time="s")
def m_m_1_wait(arrival_rate: Quantity, service_time: Quantity) -> Quantity:
    """Mean wait when service times are exponential: T_wait = rho / (mu (1 - rho)) [s]. Arguments as M/G/1 with cs2 = 1."""
    return pollaczek_khinchine_wait(arrival_rate, service_time, 1.0)


@dimensions("", wait_limit="s", service_time="s", cs2="")
def utilisation_limit(wait_limit: Quantity, service_time: Quantity, cs2: Number) -> Number:
    """The highest utilisation at which the mean wait stays within `wait_limit`: the inverse of `pollaczek_khinchine_wait`.

    u* = W / (W + (1 + cs2)/2 / mu)

    wait_limit W, service_time 1/mu [s]; cs2 as there (0 for M/D/1). Returns a fraction in [0, 1).
    """
    require(cs2 >= 0, "a squared coefficient of variation cannot be negative")
    return wait_limit / (wait_limit + (1 + cs2) / 2 * service_time)
