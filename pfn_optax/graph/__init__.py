"""Flow graphs: named nodes and layers laid on a flow network."""

from pfn_optax.graph.blocks import bound_to, layout_of
from pfn_optax.graph.flow_graph import BoundGraph, Edge, FlowGraph
from pfn_optax.graph.from_loss import GraphWarning, graph_from_loss
from pfn_optax.graph.unit_graph import unit_graph

__all__ = [
    "BoundGraph",
    "Edge",
    "FlowGraph",
    "GraphWarning",
    "bound_to",
    "graph_from_loss",
    "layout_of",
    "unit_graph",
]
