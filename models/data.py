"""Walls 8 to 10: how data reaches the accelerators. 8 ingestion, 9 transformation, 10 locality."""

from __future__ import annotations

import numpy as np

from zoo.units import Quantity

from .dimensions import Number, UnknownValue, dimensions, require

# --------------------------------------------------------------------------------------------- wall 8: ingestion


@dimensions("byte/s", throughput="1/s", bytes_per_sample="byte")
def ingestion_demand(throughput: Quantity, bytes_per_sample: Quantity) -> Quantity:
    """Bytes per second that training or inference reads: throughput x bytes per sample.

    throughput [1/s] of samples (images, sequences, requests) over the whole job; bytes_per_sample [byte] as stored.
    Returns [byte/s]. Source: Mohan et al. (2022). Leaves out: shuffling that reads whole blocks for one sample.
    """
    return throughput * bytes_per_sample


@dimensions("byte/s", clients="", client_bandwidth="byte/s", storage_bandwidth="byte/s")
def storage_supply(clients: Number, client_bandwidth: Quantity, storage_bandwidth: Quantity) -> Quantity:
    """Bytes per second that storage delivers: min(clients x client_bandwidth, storage_bandwidth).

    clients: nodes that read; client_bandwidth [byte/s] that one node can draw; storage_bandwidth [byte/s]: the whole file
    system's limit. Returns [byte/s]. Leaves out: limits on operations per second for small files.
    """
    return np.minimum(clients * client_bandwidth, storage_bandwidth)


@dimensions("", demand="byte/s", supply="byte/s")
def ingestion_ratio(demand: Quantity, supply: Quantity) -> Number:
    """rho = BW_demand / BW_supply: above 1 the accelerators wait for storage for the share 1 - 1/rho of the time.

    demand, supply [byte/s]. Returns a ratio. Source: Mohan et al. (2022).
    """
    return demand / supply


# ---------------------------------------------------------------------------------------- wall 9: transformation


@dimensions("s", batch="", sample_bytes="byte", cores="", core_throughput="byte/s")
def transformation_time(batch: Number, sample_bytes: Quantity, cores: Number, core_throughput: Quantity) -> Quantity:
    """Time for the host processors to decode, tokenise or augment one batch.

    T = B S / C_tput, with C_tput = cores x throughput of one core

    batch B: samples; sample_bytes S [byte]; cores: those given to preprocessing; core_throughput [byte/s] of one core on
    this transformation. Returns [s]. Source: Murray et al. (2021), tf.data. Assumes samples are spread evenly over cores.
    """
    return batch * sample_bytes / (cores * core_throughput)


@dimensions("", step_time="s", transformation_time="s")
def fed_fraction(step_time: Quantity, transformation_time: Quantity) -> Number:
    """Fraction of the time that accelerators work when preprocessing overlaps the step before: T_step / max(T_step, T_transform).

    step_time, transformation_time [s] of one batch. Returns a fraction; below 1 the accelerators starve.
    """
    return step_time / np.maximum(step_time, transformation_time)


# --------------------------------------------------------------------------------------------- wall 10: locality

_TOPOLOGIES = ("fat-tree", "switch", "rail", "dragonfly", "torus-2d", "torus-3d", "ring")


@dimensions("", endpoints="")
def bisection_fraction(topology: str, endpoints: Number) -> Number:
    """Share beta of its link's bandwidth that each endpoint can use when every one sends to the other half of the network.

    fat-tree, switch: 1 (any half can talk to the other at full rate)
    rail: 1 for traffic within a rail, which is how collectives are routed
    dragonfly: (g^2 / 4) global links for g = 2 p^2 + 1 groups of 2 p^2 endpoints: 1/2 + 1/(4 p^2)
    torus of d dimensions: 2 n^((d-1)/d) links cut for n/2 endpoints: 4 n^(-1/d); ring: the torus of one dimension, 4/n
    never more than 1, as an endpoint sends over one link at a time

    topology: one of these names, anything else is UnknownValue; endpoints n >= 1. Returns a fraction in (0, 1].
    Source: Leiserson (1985); Dally and Towles (2004), chapter 5; Kim et al. (2008) for the balanced dragonfly (a = 2p = 2h).
    Assumes minimal routing, a cube-shaped torus. Leaves out: congestion within a bisection (adaptive routing).
    """
    require(endpoints >= 1, "a network has at least one endpoint, not {}", endpoints)
    if topology in ("fat-tree", "switch", "rail"):
        return np.ones_like(np.asarray(endpoints, float))
    if topology == "dragonfly":  # n = 2 p^2 (2 p^2 + 1), solved for p^2
        squared = (np.sqrt(1 + 4 * np.asarray(endpoints)) - 1) / 4
        return np.minimum(1.0, 0.5 + 0.25 / squared)
    if topology in ("ring", "torus-2d", "torus-3d"):
        extent = {"ring": 1, "torus-2d": 2, "torus-3d": 3}[topology]
        return np.minimum(1.0, 4 * np.asarray(endpoints) ** (-1 / extent))
    raise UnknownValue(f"the bisection of topology {topology!r} is unknown (known: {', '.join(_TOPOLOGIES)})")


@dimensions("byte/s", link_bandwidth="byte/s", endpoints="", oversubscription="")
def effective_bandwidth(link_bandwidth: Quantity, topology: str, endpoints: Number, oversubscription: Number) -> Quantity:
    """Bandwidth that each endpoint has across the network when all send at once.

    BW_eff = BW_link x beta / osub

    link_bandwidth [byte/s] of one endpoint and direction; topology and endpoints as `bisection_fraction`; oversubscription
    >= 1: bandwidth into a switch over bandwidth out of it. Returns [byte/s]. Source: Leiserson (1985).
    """
    require(oversubscription >= 1, "oversubscription is at least 1, not {}", oversubscription)
    return link_bandwidth * bisection_fraction(topology, endpoints) / oversubscription


@dimensions("byte/s", link_bandwidth="byte/s", endpoints="", oversubscription="")
def bisection_bandwidth(link_bandwidth: Quantity, topology: str, endpoints: Number, oversubscription: Number) -> Quantity:
    """Bandwidth between two halves of the network, one direction: effective_bandwidth x n / 2 [byte/s]. Arguments as there."""
    return effective_bandwidth(link_bandwidth, topology, endpoints, oversubscription) * endpoints / 2


@dimensions("byte", message="byte", nodes="", groups="")
def all_reduce_crossing(message: Quantity, nodes: Number, groups: Number) -> Quantity:
    """Bytes that all-reduces send across the middle of a network, one direction: groups x 2 (n - 1)/n M.

    message M [byte] that each of `groups` groups reduces over `nodes` n nodes (counts), its rings in the nodes' order: a ring
    crosses the middle once in each direction, and its ranks in a node share the message. Returns [byte], 0 for one node.
    Source: Patarasuk and Yuan (2009) for the ring's volume.
    """
    require(nodes >= 1, "a collective spans at least one node, not {}", nodes)
    return groups * 2 * (nodes - 1) / nodes * message


@dimensions("byte", message="byte", ranks="", nodes="")
def all_to_all_crossing(message: Quantity, ranks: Number, nodes: Number) -> Quantity:
    """Bytes that an all-to-all sends across the middle of its ranks' network, one direction: N M / 4, and 0 within one node.

    message M [byte] that each of the N ranks holds before: half of the ranks send half of it over. Returns [byte].
    """
    require((nodes >= 1) & (ranks >= nodes), "an all-to-all has ranks in each of its nodes: {} ranks, {} nodes", ranks, nodes)
    return ranks * message / 4 * np.where(np.asarray(nodes) > 1, 1.0, 0.0)


@dimensions("byte/s", crossing="byte", time="s")
def bisection_demand(crossing: Quantity, time: Quantity) -> Quantity:
    """Bandwidth across the middle that lets `crossing` [byte] pass within `time` [s]: what `bisection_bandwidth` must supply."""
    return crossing / time
