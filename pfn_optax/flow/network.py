"""The static half of a flow problem: who is connected to whom."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class FlowNetwork:
    r"""A directed graph with a source and a sink; edge $i$ runs $t_i \to h_i$.

    Frozen and hashable, so that it can be closed over by, or be a static argument of, a jitted
    function. Capacities are not part of it: they are the arrays that change from solve to solve.
    Parallel edges, antiparallel edges, self-loops and isolated nodes are all allowed.

    Attributes:
        num_nodes: Number of nodes, numbered from 0.
        tails: Node that each edge leaves.
        heads: Node that each edge enters.
        source: Node at which flow starts.
        sink: Node at which flow ends.

    Raises:
        ValueError: If an index is out of range, the ends coincide or the lengths differ.

    Example:
        >>> network = FlowNetwork.from_edges([(0, 1), (1, 2)], source=0, sink=2)
        >>> network.num_nodes, network.num_edges
        (3, 2)
    """

    num_nodes: int
    tails: tuple[int, ...]
    heads: tuple[int, ...]
    source: int
    sink: int

    def __post_init__(self) -> None:
        for name in ("num_nodes", "source", "sink"):
            object.__setattr__(self, name, operator.index(getattr(self, name)))
        for name in ("tails", "heads"):
            object.__setattr__(self, name, tuple(map(operator.index, getattr(self, name))))
        if len(self.tails) != len(self.heads):
            raise ValueError(
                "every edge needs a tail and a head, got "
                f"{len(self.tails)} tails and {len(self.heads)} heads"
            )
        for name in ("source", "sink"):
            if not 0 <= getattr(self, name) < self.num_nodes:
                raise ValueError(
                    f"{name} must be a node in [0, {self.num_nodes}), got {getattr(self, name)}"
                )
        if self.source == self.sink:
            raise ValueError(f"source and sink must differ, both are {self.source}")
        for name in ("tails", "heads"):
            nodes = getattr(self, name)
            if nodes and not (min(nodes) >= 0 and max(nodes) < self.num_nodes):
                edge = next(i for i, v in enumerate(nodes) if not 0 <= v < self.num_nodes)
                raise ValueError(
                    f"{name} must be nodes in [0, {self.num_nodes}), got {nodes[edge]} at edge "
                    f"{edge}; raise num_nodes or correct the edge"
                )
        # The tuples can be long and a jitted call hashes its static arguments every time.
        key = (self.num_nodes, self.tails, self.heads, self.source, self.sink)
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def num_edges(self) -> int:
        """Number of edges, parallel ones counted separately."""
        return len(self.tails)

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[int, int]],
        *,
        source: int,
        sink: int,
        num_nodes: int | None = None,
    ) -> FlowNetwork:
        """Builds a network from (tail, head) pairs.

        Args:
            edges: The pairs, in the order in which capacities will be given.
            source: Node at which flow starts.
            sink: Node at which flow ends.
            num_nodes: Number of nodes; by default one more than the largest node mentioned.

        Returns:
            The network.

        Raises:
            ValueError: If an index is out of range or the ends coincide.

        Example:
            >>> FlowNetwork.from_edges([(0, 1), (0, 1)], source=0, sink=1).heads
            (1, 1)
        """
        edges = [(operator.index(tail), operator.index(head)) for tail, head in edges]
        if num_nodes is None:
            num_nodes = 1 + max([source, sink, *(node for edge in edges for node in edge)])
        tails, heads = zip(*edges, strict=True) if edges else ((), ())
        return cls(num_nodes, tails, heads, source, sink)
