"""A flow graph: which layers lie between the loss and the data, and how they are joined."""

import difflib
import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.capacity import CapacityRule
from pfn_optax.flow import FlowNetwork
from pfn_optax.grid import GridLayer
from pfn_optax.partition import Layer, Partition
from pfn_optax.paths import natural_key


class Edge(NamedTuple):
    """An edge of the graph, pointing the way the gradient goes: from the loss to the data.

    Attributes:
        tail: node nearer the loss.
        head: node nearer the data.
        layer: name of the layer whose blocks are the parallel edges here; None for an identity (a
            skip).
        capacity: capacity of an identity edge; infinite by default, ignored where `layer` is given.
        width: channels of an identity edge, which bound it too where capacities count directions
            (`"effective_rank"`, `"jacobian_rank"`); infinite by default, ignored where `layer` is
            given.
        positions: at how many positions of an example (pixels, tokens) the edge is applied; read by
            `"jacobian_rank"` alone.
        blocks: numbers of the layer's blocks that stand on the edge, in parallel; None for all.
    """

    tail: str
    head: str
    layer: str | None = None
    capacity: float = math.inf
    width: float = math.inf
    positions: int = 1
    blocks: tuple[int, ...] | None = None


class BoundGraph(NamedTuple):
    """A flow graph on the blocks of one partition: plain arrays, ready for the solver.

    Attributes:
        network: the flow network.
        edge_block: i32[num_edges], the block whose capacity an edge has; -1 for an identity.
        identity_capacity: f32[num_edges], capacity of the identities (0 elsewhere).
        identity_width: f32[num_edges], channels of the identities (0 elsewhere).
        edge_positions: f32[num_edges], positions at which each edge is applied.
        nodes: names of the network's nodes.
    """

    network: FlowNetwork
    edge_block: np.ndarray
    identity_capacity: np.ndarray
    identity_width: np.ndarray
    edge_positions: np.ndarray
    nodes: tuple[str, ...]

    def edge_capacities(self, capacities: jax.Array, rule: CapacityRule) -> jax.Array:
        """Lays the capacities of the blocks on the edges.

        Args:
            capacities: f32[num_blocks].
            rule: the rule that they come from.

        Returns:
            f32[num_edges].
        """
        identities = self.identity_capacity
        if rule.counts_directions:
            identities = np.minimum(identities, self.identity_width)
        blocks = jnp.append(jnp.asarray(capacities), 0.0)[self.edge_block]
        on_edges = jnp.where(self.edge_block >= 0, blocks, identities)
        return on_edges * self.edge_positions if rule.per_position else on_edges


@dataclass(frozen=True)
class FlowGraph:
    """A directed graph from the loss to the data whose edges are layers; frozen and hashable.

    A layer may stand on several edges (tied weights); its blocks are in the cut where any of those
    edges is. Layers of the model that stand on no edge are measured but never in a cut.

    Attributes:
        edges: the edges, kept sorted.
        source: name of the loss node.
        sink: name of the data node.
        layout: the partition whose blocks the edges name; None where they name layers only.
        warnings: what was uncertain when the graph was made, for people.
        unreached: paths of the parameters on which the loss does not depend.

    Raises:
        ValueError: if source and sink are the same, an edge joins a node to itself, or a capacity,
            a width or a number of positions is negative or NaN.

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
    layout: Partition | None = None
    warnings: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Sorts and checks the edges."""
        edges = tuple(Edge(*edge) for edge in self.edges)
        if self.source == self.sink:
            raise ValueError(f"source and sink must differ, both are {self.source!r}.")
        for edge in edges:
            if edge.tail == edge.head:
                raise ValueError(f"an edge must join two nodes, {edge} joins one to itself.")
            if not (edge.capacity >= 0 and edge.width >= 0 and edge.positions >= 0):
                raise ValueError(
                    f"capacity, width and positions must not be negative or NaN, got {edge}."
                )
        object.__setattr__(self, "edges", tuple(sorted(edges, key=_edge_key)))

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.edges, self.source, self.sink, self.layout))

    def __hash__(self) -> int:
        """Hashes once: a graph of units has thousands of edges, and every step looks it up."""
        return self._hash

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
            >>> for edge in FlowGraph.chain(["conv", "head"]).edges:
            ...     print(edge.tail, "->", edge.head, edge.layer)
            conv -> data conv
            loss -> conv head
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
    return *names, edge.layer is None, edge.capacity, edge.width, edge.positions, edge.blocks or ()


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
    edges = [
        (edge, block)
        for edge in graph.edges
        for block in ((-1,) if edge.layer is None else _blocks_of(edge, layers[edge.layer]))
    ]
    is_identity = np.asarray([edge.layer is None for edge, _ in edges], bool)
    return BoundGraph(
        network=FlowNetwork(
            num_nodes=len(graph.nodes),
            tails=tuple(index[edge.tail] for edge, _ in edges),
            heads=tuple(index[edge.head] for edge, _ in edges),
            source=index[graph.source],
            sink=index[graph.sink],
        ),
        edge_block=np.asarray([block for _, block in edges], np.int32),
        identity_capacity=np.where(
            is_identity, np.asarray([edge.capacity for edge, _ in edges], np.float32), 0
        ),
        identity_width=np.where(
            is_identity, np.asarray([edge.width for edge, _ in edges], np.float32), 0
        ),
        edge_positions=np.asarray([edge.positions for edge, _ in edges], np.float32),
        nodes=graph.nodes,
    )


def _blocks_of(edge: Edge, layer: Layer | GridLayer) -> list[int]:
    """Blocks on an edge, numbered among all blocks."""
    numbers = range(layer.num_blocks) if edge.blocks is None else edge.blocks
    if edge.blocks is not None and not all(0 <= number < layer.num_blocks for number in numbers):
        raise ValueError(
            f"{edge} names blocks that layer {layer.name!r} does not have: it has "
            f"{layer.num_blocks}."
        )
    return [layer.first_block + number for number in numbers]
