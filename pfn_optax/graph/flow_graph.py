"""A flow graph: which layers lie between the loss and the data, and how they are joined."""

import difflib
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pfn_optax.flow import FlowNetwork
from pfn_optax.partition import Partition
from pfn_optax.paths import natural_key


class Edge(NamedTuple):
    """An edge of the graph, pointing the way the gradient goes: from the loss to the data.

    Attributes:
        tail: node nearer the loss.
        head: node nearer the data.
        layer: name of the layer whose blocks are the parallel edges here; None for an identity (a
            skip).
        capacity: capacity of an identity edge; infinite by default, ignored where `layer` is given.
    """

    tail: str
    head: str
    layer: str | None = None
    capacity: float = math.inf


class BoundGraph(NamedTuple):
    """A flow graph on the blocks of one partition: plain arrays, ready for the solver.

    Attributes:
        network: the flow network.
        edge_block: i32[num_edges], the block whose capacity an edge has; -1 for an identity.
        identity_capacity: f32[num_edges], capacity of the identities (0 elsewhere).
        nodes: names of the network's nodes.
    """

    network: FlowNetwork
    edge_block: np.ndarray
    identity_capacity: np.ndarray
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class FlowGraph:
    """A directed graph from the loss to the data whose edges are layers; frozen and hashable.

    A layer may stand on several edges (tied weights); its blocks are in the cut where any of those
    edges is. Layers of the model that stand on no edge are measured but never in a cut.

    Attributes:
        edges: the edges, kept sorted.
        source: name of the loss node.
        sink: name of the data node.

    Raises:
        ValueError: if source and sink are the same, an edge joins a node to itself, or a capacity
            is negative or NaN.

    Example:
        A residual block, `y = x + conv2(conv1(x))`, between a stem and a head:

        >>> from pfn_optax import Edge, FlowGraph
        >>> graph = FlowGraph(
        ...     (
        ...         Edge("loss", "sum", "head"),
        ...         Edge("sum", "inner", "conv2"),
        ...         Edge("inner", "stem", "conv1"),
        ...         Edge(
        ...             "sum", "stem", capacity=64.0
        ...         ),  # the skip: its width bounds the rank that passes
        ...         Edge("stem", "data", "stem"),
        ...     )
        ... )
        >>> graph.nodes
        ('loss', 'inner', 'stem', 'sum', 'data')
    """

    edges: tuple[Edge, ...]
    source: str = "loss"
    sink: str = "data"

    def __post_init__(self):
        """Sorts and checks the edges."""
        edges = tuple(Edge(*edge) for edge in self.edges)
        if self.source == self.sink:
            raise ValueError(f"source and sink must differ, both are {self.source!r}.")
        for edge in edges:
            if edge.tail == edge.head:
                raise ValueError(f"an edge must join two nodes, {edge} joins one to itself.")
            if not edge.capacity >= 0:
                raise ValueError(f"a capacity must not be negative or NaN, got {edge}.")
        object.__setattr__(self, "edges", tuple(sorted(edges, key=_edge_key)))

    @classmethod
    def chain(
        cls, layers: Iterable[str], *, source: str = "loss", sink: str = "data"
    ) -> "FlowGraph":
        """Builds the chain data - first layer - ... - last layer - loss.

        Args:
            layers: names of the layers in forward order.
            source: name of the loss node.
            sink: name of the data node.

        Returns:
            The graph; the node between two layers has the name of the one nearer the data, whose
            output it is.

        Example:
            >>> from pfn_optax import FlowGraph
            >>> FlowGraph.chain(["conv", "head"]).edges[1]
            Edge(tail='loss', head='conv', layer='head', capacity=inf)
        """
        layers = tuple(layers)
        if not layers:
            return cls((), source=source, sink=sink)
        nodes = (sink, *layers[:-1], source)
        ends = zip(nodes[1:], nodes[:-1], layers, strict=True)
        return cls(
            tuple(Edge(tail, head, layer) for tail, head, layer in ends), source=source, sink=sink
        )

    @functools.cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes: the source, the inner nodes in natural order, the sink."""
        ends = {name for edge in self.edges for name in (edge.tail, edge.head)}
        inner = sorted(ends - {self.source, self.sink}, key=lambda name: natural_key((name,)))
        return (self.source, *inner, self.sink)

    @functools.cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers on the edges, each once, in natural order."""
        names = {edge.layer for edge in self.edges if edge.layer is not None}
        return tuple(sorted(names, key=lambda name: natural_key((name,))))

    def bind(self, layout: Partition) -> BoundGraph:
        """Lays the graph on the blocks of a partition.

        Args:
            layout: the partition whose layers the edges name.

        Returns:
            Network and arrays, with one edge per block of each layer edge.

        Raises:
            ValueError: if an edge names a layer that the partition does not have.
        """
        return _bind(self, layout)


def _edge_key(edge: Edge) -> tuple:
    names = natural_key((edge.tail, edge.head, edge.layer or ""))
    return *names, edge.layer is None, edge.capacity


@functools.lru_cache(maxsize=64)
def _bind(graph: FlowGraph, layout: Partition) -> BoundGraph:
    layers = {layer.name: layer for layer in layout.layers}
    unknown = [name for name in graph.layers if name not in layers]
    if unknown:
        near = difflib.get_close_matches(unknown[0], layers, n=3) or list(layers)[:5]
        raise ValueError(
            f"the graph names layers that the parameters do not have: {', '.join(unknown)}. "
            f"Layers are named by path; near {unknown[0]!r} there are: {', '.join(near)}."
        )
    index = {name: number for number, name in enumerate(graph.nodes)}
    tails, heads, blocks, capacities = [], [], [], []
    for edge in graph.edges:
        if edge.layer is None:
            own_blocks, capacity = [-1], edge.capacity
        else:
            own = layers[edge.layer].blocks
            own_blocks, capacity = list(range(own.start, own.stop)), 0.0
        tails += [index[edge.tail]] * len(own_blocks)
        heads += [index[edge.head]] * len(own_blocks)
        blocks += own_blocks
        capacities += [capacity] * len(own_blocks)
    return BoundGraph(
        network=FlowNetwork(
            num_nodes=len(graph.nodes),
            tails=tuple(tails),
            heads=tuple(heads),
            source=index[graph.source],
            sink=index[graph.sink],
        ),
        edge_block=np.asarray(blocks, np.int32),
        identity_capacity=np.asarray(capacities, np.float32),
        nodes=graph.nodes,
    )
