"""The reference for contraction: removing identities that no cut can tell."""

import itertools
from collections.abc import Iterable

import networkx as nx

from tests.graph.isomorphism import Triple


def contracted(triples: Iterable[Triple]) -> list[Triple]:
    """Contracts every identity u -> v where v has no other way in, or u no other way out."""
    return _contracted(_between(triples))


def canonical(triples: Iterable[Triple]) -> list[Triple]:
    """The graph with as few nodes and identities as can tell the same cuts.

    Let u imply v if, with u on the loss's side of a minimum cut, v may be taken to be there too.
    Identities are implications. So is u to v where every way out of v is an identity to a node that
    u implies: to have v there cuts nothing. Or where every way into u is an identity from a node
    that implies v: else nothing is gained by having u there. The loss is always on its side, the
    data never. Nodes that imply each other become one; what follows from other implications goes.
    """
    graph = _between(_contracted(_between(triples)))
    implies = nx.DiGraph((u, v) for u, v, layer in graph.edges(data="layer") if layer is None)
    implies.add_nodes_from(graph)
    size = -1
    while implies.size() > size:
        size = implies.size()
        implies = nx.transitive_closure(implies, reflexive=True)
        implies.add_edges_from([(v, "loss") for v in implies["loss"]])
        implies.add_edges_from([("data", u) for u in implies.pred["data"]])
        for u, v in itertools.permutations(graph.nodes - {"loss", "data"}, 2):
            heads, is_free = _ends(graph.out_edges(v, data="layer"), 1)
            tails, is_given = _ends(graph.in_edges(u, data="layer"), 0)
            follows = is_free and heads <= implies[u].keys()
            if follows or (is_given and tails <= implies.pred[v].keys()):
                implies.add_edge(u, v)
    kept = {
        node: min(group, key=lambda name: (name not in ("loss", "data"), name))
        for group in nx.strongly_connected_components(implies)
        for node in group
    }
    merged = nx.DiGraph((kept[u], kept[v]) for u, v in implies.edges if kept[u] != kept[v])
    identities = [(u, v, None) for u, v in nx.transitive_reduction(merged).edges]
    layers = [(kept[u], kept[v], layer) for u, v, layer in graph.edges(data="layer") if layer]
    different = [(u, v, layer) for u, v, layer in (*layers, *identities) if u != v]
    return list(_between(different).edges(data="layer"))


def _ends(edges: Iterable[Triple], side: int) -> tuple[set[str], bool]:
    """The nodes at one side of some edges, and whether all of them are identities."""
    edges = list(edges)
    return {edge[side] for edge in edges}, all(layer is None for _, _, layer in edges)


def _between(triples: Iterable[Triple]) -> nx.MultiDiGraph:
    """What lies between the loss and the data; parallel identities are one, parallel layers not."""
    triples = list(triples)
    identities = dict.fromkeys(triple for triple in triples if triple[2] is None)
    layers = [triple for triple in triples if triple[2] is not None]
    graph = nx.MultiDiGraph()
    graph.add_nodes_from(("loss", "data"))
    graph.add_edges_from((u, v, {"layer": layer}) for u, v, layer in (*layers, *identities))
    live = nx.descendants(graph, "loss") & nx.ancestors(graph, "data")
    return nx.MultiDiGraph(graph.subgraph(live | {"loss", "data"}))


def _merged(graph: nx.MultiDiGraph, gone: str, kept: str) -> nx.MultiDiGraph:
    ends = {gone: kept}
    triples = graph.edges(data="layer")
    renamed = [(ends.get(u, u), ends.get(v, v), layer) for u, v, layer in triples]
    return _between((u, v, layer) for u, v, layer in renamed if u != v)


def _contracted(graph: nx.MultiDiGraph) -> list[Triple]:
    for tail, head, layer in list(graph.edges(data="layer")):
        alone = graph.in_degree(head) == 1 or graph.out_degree(tail) == 1
        if layer is None and alone and (tail, head) != ("loss", "data"):
            gone, kept = (tail, head) if head == "data" else (head, tail)
            return _contracted(_merged(graph, gone, kept))
    return list(graph.edges(data="layer"))
