"""The flow graph of a model's units, read off its loss."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pfn_optax.graph.flow_graph import FlowGraph
from pfn_optax.graph.from_loss import GraphWarning, draw, listed, node_names
from pfn_optax.graph.refine import grids, refined
from pfn_optax.graph.skeleton import Skeleton
from pfn_optax.partition import Partition, partition
from pfn_optax.paths import Path, names_of
from pfn_optax.units import UnitSpec, unit_spec


def unit_graph(
    loss: Callable[..., Any],
    params: Any,
    *args: Any,
    block_size: int | None = None,
    num_blocks: int | None = None,
    has_aux: bool = False,
    axes: Mapping[str, int] | None = None,
) -> FlowGraph:
    """Derives the flow graph of groups of units from a loss.

    The blocks are sub-matrices, from one chunk of hidden units to another, and the graph brings
    them along: give it to `pfn` without block sizes. Vectors (biases, norms) are in no block.

    Args:
        loss: function of (params, *args) that returns a scalar.
        params: parameter tree; arrays, or `jax.ShapeDtypeStruct`.
        *args: the batch and whatever else the loss takes.
        block_size: hidden units per chunk (default 16).
        num_blocks: chunks per group, instead of `block_size`.
        has_aux: whether the loss returns (scalar, anything).
        axes: names and sizes of the mapped axes that the loss's collectives use.

    Returns:
        The graph with its `layout`; nodes are called `"Dense_0[0:16]"`.

    Raises:
        ValueError: as `graph_from_loss`, or for bad sizes.
        TypeError: if an argument is not an array.

    Warns:
        GraphWarning: as `graph_from_loss`, and for hidden units that are tied to their order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pfn_optax import unit_graph
        >>> def loss(params, x):
        ...     return jnp.mean(jax.nn.relu(x @ params["w1"]) @ params["w2"])
        >>> params = {"w1": jnp.ones((3, 8)), "w2": jnp.ones((8, 1))}
        >>> graph = unit_graph(loss, params, jnp.ones((5, 3)), block_size=4)
        >>> for edge in graph.edges:
        ...     print(edge.tail, "->", edge.head, edge.layer, edge.blocks)
        loss -> w1[0:4] w2 (0,)
        loss -> w1[4:8] w2 (1,)
        w1[0:4] -> data w1 (0,)
        w1[4:8] -> data w1 (1,)

    Reference:
        Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving
        synaptic flow", for the saliency that such a graph conserves at every unit.
    """
    rows = partition(params, block_size=block_size, num_blocks=num_blocks)
    drawn = draw(loss, params, *args, layout=rows, has_aux=has_aux, axes=axes)
    spec = _spec(loss, params, args, drawn.skeleton.data, has_aux)
    layout, pieces = grids(rows, drawn.skeleton, spec, block_size=block_size, num_blocks=num_blocks)
    names = node_names(drawn.skeleton, {layer.path: layer.name for layer in rows.layers})
    edges = refined(drawn.skeleton, names, layout, pieces)
    texts = (*drawn.warnings, *spec.warnings, *_whole_warning(drawn.skeleton, layout))
    for text in texts:
        warnings.warn(text, GraphWarning, stacklevel=2)
    return FlowGraph(edges, layout=layout, warnings=texts, unreached=drawn.unreached)


def _spec(
    loss: Callable[..., Any],
    params: Any,
    args: tuple[Any, ...],
    data: Sequence[Path],
    has_aux: bool,
) -> UnitSpec:
    """The unit groups of the loss.

    Arguments that are not data are held by the units too (batch statistics are), so they stand
    beside the parameters; an axis of the data itself cannot be permuted.
    """
    flat, tree = jax.tree_util.tree_flatten_with_path(args)
    is_free = [
        (str(int(names[0]) + 1), *names[1:]) not in data and _is_inexact(leaf)
        for names, leaf in ((names_of(path), leaf) for path, leaf in flat)
    ]
    free = [leaf for (_, leaf), is_its in zip(flat, is_free, strict=True) if is_its]
    fixed = [leaf for (_, leaf), is_its in zip(flat, is_free, strict=True) if not is_its]

    def function(variables, *fixed):
        rest, held = iter(fixed), iter(variables["held"])
        leaves = [next(held) if is_its else next(rest) for is_its in is_free]
        result = loss(variables["params"], *tree.unflatten(leaves))
        return result[0] if has_aux else result

    return unit_spec(function, {"held": free, "params": params}, *fixed, check=False)


def _whole_warning(skeleton: Skeleton, layout: Partition) -> list[str]:
    """Names the matrices between hidden values that are not cut on both sides."""
    whole: dict[str, None] = {}
    for link in skeleton.links:
        if link.use:
            grid = layout.grids[link.use.path]
            num_sides = (link.tail != skeleton.source) + (link.head != skeleton.sink)
            if len(grid.sides) < min(num_sides, sum(size > 1 for size in grid.shape)):
                whole[grid.name] = None
    if not whole:
        return []
    return [
        f"the hidden units at {listed(list(whole))} are tied to their order, so they stay in one "
        "piece: something with an entry per unit is no parameter and no argument (positions by a "
        "formula, a fixed projection), or an operation has no rule. Pass it as an argument of the "
        "loss, or use graph_from_loss."
    ]


def _is_inexact(leaf: Any) -> bool:
    dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jnp.inexact)
