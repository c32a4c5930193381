"""Flow graphs: named nodes and layers laid on a flow network."""

from pfn_optax.graph.flow_graph import BoundGraph, Edge, FlowGraph

__all__ = ["BoundGraph", "Edge", "FlowGraph"]
