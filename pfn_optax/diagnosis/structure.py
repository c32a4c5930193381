"""Where layers lie between data and loss: first, last, or such that every path goes through."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from pfn_optax.graph import Edge, FlowGraph


class Structure(NamedTuple):
    """Names of layers by place.

    Attributes:
        inputs: layers that are applied to the data itself.
        heads: layers whose output goes to the loss through no other layer.
        serial: layers that every path from the data to the loss goes through.
    """

    inputs: frozenset[str]
    heads: frozenset[str]
    serial: frozenset[str]


def structure_of(graph: FlowGraph) -> Structure:
    """Reads the places of the layers off the graph, whose edges lead from the loss to the data.

    Args:
        graph: as from `graph_from_loss`.

    Returns:
        The `Structure`.

    Example:
        >>> from pfn_optax import FlowGraph
        >>> from pfn_optax.diagnosis.structure import structure_of
        >>> found = structure_of(FlowGraph.chain(["stem", "body", "head"]))
        >>> sorted(found.inputs), sorted(found.heads), sorted(found.serial)
        (['stem'], ['head'], ['body', 'head', 'stem'])
    """
    near_loss = _reached("loss", graph.edges, is_forward=True, layers=False)
    near_data = _reached("data", graph.edges, is_forward=False, layers=False)
    layers = {edge.layer for edge in graph.edges if edge.layer is not None}
    serial = (
        layer
        for layer in layers
        if "data" not in _reached("loss", [edge for edge in graph.edges if edge.layer != layer])
    )
    return Structure(
        inputs=frozenset(e.layer for e in graph.edges if e.layer and e.head in near_data),
        heads=frozenset(e.layer for e in graph.edges if e.layer and e.tail in near_loss),
        serial=frozenset(serial),
    )


def _reached(
    start: str, edges: Iterable[Edge], *, is_forward: bool = True, layers: bool = True
) -> set[str]:
    """Nodes reached from one, along edges or against them; through layers or not."""
    following = defaultdict(list)
    for edge in edges:
        if layers or edge.layer is None:
            tail, head = (edge.tail, edge.head) if is_forward else (edge.head, edge.tail)
            following[tail].append(head)
    seen, todo = {start}, [start]
    while todo:
        for node in following[todo.pop()]:
            if node not in seen:
                seen.add(node)
                todo.append(node)
    return seen
