"""The reference for minimum cuts: networkx on integer capacities."""

import math
from collections.abc import Iterable, Mapping

import networkx as nx

from tests.graph.isomorphism import Triple


def minimum_cut(triples: Iterable[Triple], capacity_of: Mapping[str, int]) -> int:
    """The capacity of the minimum cut between loss and data; identities cannot be cut."""
    network = nx.DiGraph()
    for tail, head, layer in triples:
        known = network.edges[tail, head]["capacity"] if network.has_edge(tail, head) else 0
        added = math.inf if layer is None else capacity_of[layer]
        network.add_edge(tail, head, capacity=known + added)
    return nx.minimum_cut_value(network, "loss", "data")
