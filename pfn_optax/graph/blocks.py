"""Which blocks a graph and the options of `pfn` make of a tree, and the graph laid on them."""

from typing import Any

from pfn_optax.graph.flow_graph import BoundGraph, FlowGraph
from pfn_optax.partition import OutputAxis, Partition, partition


def layout_of(
    graph: FlowGraph | None,
    tree: Any,
    *,
    block_size: int | None = None,
    num_blocks: int | None = None,
    output_axis: OutputAxis | None = None,
) -> Partition:
    """Returns the blocks that a graph brings, or else those that the options make.

    Args:
        graph: as given to `pfn`.
        tree: parameters, gradients or updates. One without leaves (the placeholder of
            `optax.tree.map_params`) has no blocks, whatever the graph brings.
        block_size: as given to `pfn`.
        num_blocks: as given to `pfn`.
        output_axis: as given to `pfn`.

    Returns:
        The partition.

    Raises:
        ValueError: if block options stand beside a graph that brings its own blocks, or the tree is
            not the one that the graph was made for.
    """
    options = {"block_size": block_size, "num_blocks": num_blocks, "output_axis": output_axis}
    rows = partition(tree, **options)
    if graph is None or graph.layout is None:
        return rows
    given = {name: value for name, value in options.items() if value is not None}
    if given:
        raise ValueError(
            "this graph brings its own blocks, so block options must not be given beside it: got "
            f"{', '.join(f'{name}={value!r}' for name, value in given.items())}. Leave them out, "
            "or make the graph with them."
        )
    if not rows.layers:
        return rows
    graph.layout.leaves(tree)  # reports a tree that the graph was not made for
    return graph.layout


def bound_to(graph: FlowGraph | None, layout: Partition) -> BoundGraph:
    """Lays a graph on blocks; by default the chain of the layers in natural path order.

    Args:
        graph: as given to `pfn`.
        layout: the blocks.

    Returns:
        The bound graph.

    Raises:
        ValueError: if the graph names a layer that the blocks do not have.
    """
    return (graph or FlowGraph.chain(layer.name for layer in layout.layers)).bind(layout)
