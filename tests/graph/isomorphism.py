"""Comparing flow graphs without regard to the names of their inner nodes.

Here a graph is a list of `(tail, head, layer)` triples from `"loss"` to `"data"`; a layer of None
is an identity of infinite capacity.
"""

import math
from collections import Counter
from collections.abc import Iterable

import networkx as nx

from pfn_optax import FlowGraph

Triple = tuple[str, str, str | None]


def triples_of(graph: FlowGraph) -> list[Triple]:
    """The edges of a derived graph, which must have the usual ends and free identities."""
    assert (graph.source, graph.sink) == ("loss", "data")
    assert all(edge.layer is not None or edge.capacity == math.inf for edge in graph.edges)
    return [(edge.tail, edge.head, edge.layer) for edge in graph.edges]


def same_up_to_names(first: Iterable[Triple], second: Iterable[Triple]) -> bool:
    """Whether renaming inner nodes turns one labelled multigraph into the other."""
    return nx.is_isomorphic(
        _labelled(first),
        _labelled(second),
        node_match=lambda a, b: a["end"] == b["end"],
        edge_match=lambda a, b: a["layers"] == b["layers"],
    )


def _labelled(triples: Iterable[Triple]) -> nx.DiGraph:
    graph = nx.DiGraph()
    for end in ("loss", "data"):
        graph.add_node(end, end=end)
    for tail, head, layer in triples:
        for node in (tail, head):
            graph.add_node(node, end=node if node in ("loss", "data") else None)
        if not graph.has_edge(tail, head):
            graph.add_edge(tail, head, layers=Counter())
        graph.edges[tail, head]["layers"][layer] += 1
    return graph
