"""What names the cause: the minimum cut of every capacity on every graph, and rivals without flow.

Every method names blocks and puts the layers in an order, the likeliest cause first. A cut names
its blocks; the order is the layers with a block in the cut, then the others, both by the total
capacity of their edges. A rival has one number per layer; it orders by it and names the first.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.planted.networks import IMAGE_SHAPE, Architecture, Params
from pfn_optax import FlowGraph, graph_from_loss, max_flow, unit_graph
from pfn_optax.capacity import CAPACITIES, CapacityRule, Statistics, effective_rank
from pfn_optax.partition import Partition, block_norms, partition

_TINY = float(np.finfo(np.float32).tiny)  # where training kills a narrow layer, gradients are 0

Array = jax.Array | np.ndarray


class Answer(NamedTuple):
    """What a method says of one network.

    Attributes:
        named: names of the layers it names, one for each block.
        order: names of all layers, the likeliest cause first.
        blocks: bool[num_blocks], the blocks it names; None where it tells layers only.
    """

    named: tuple[str, ...]
    order: tuple[str, ...]
    blocks: np.ndarray | None = None


def _chain(architecture: Architecture) -> FlowGraph:
    """The layers in forward order, whatever is parallel or skipped: `pfn`'s default."""
    return FlowGraph.chain(layer.name for layer in architecture.layers)


def _traced(architecture: Architecture) -> FlowGraph:
    """The layers as the loss joins them."""
    return graph_from_loss(architecture.loss, *_shapes(architecture))


def _units(architecture: Architecture) -> FlowGraph:
    """Groups of units as the loss joins them; blocks are sub-matrices, from group to group."""
    size = _block_size(architecture)
    return unit_graph(architecture.loss, *_shapes(architecture), block_size=size)


GRAPHS: dict[str, Callable[[Architecture], FlowGraph]] = {
    "chain": _chain,
    "layers": _traced,
    "units": _units,
}


@functools.cache
def flow_graph(graph: str, architecture: Architecture) -> FlowGraph:
    """A graph of a network, made once.

    Args:
        graph: one of `GRAPHS`.
        architecture: the network.

    Returns:
        The graph.
    """
    return GRAPHS[graph](architecture)


def layout_of(graph: str, architecture: Architecture) -> Partition:
    """The blocks of a graph: each an eighth of the width, in and out where it has both."""
    layout = flow_graph(graph, architecture).layout
    params, *_ = _shapes(architecture)
    return layout or partition(params, block_size=_block_size(architecture))


def answers(
    architecture: Architecture, params: Params, gradients: Params, *, seed: Sequence[int]
) -> dict[str, Answer]:
    """Asks all methods.

    Args:
        architecture: the network.
        params: its parameters.
        gradients: trees like `params`, stacked: f32[num_batches, ...]. Norms are means over the
            batches, which PFN's moving average estimates.
        seed: of the random rival.

    Returns:
        The answer of each cut, `"graph: capacity"`, and of each of `RIVALS`.
    """
    cuts, numbers = jax.device_get(_measured(architecture, params, gradients))
    names = tuple(layer.name for layer in architecture.layers)
    found = {
        f"{graph}: {capacity}": _cut_answer(layout_of(graph, architecture), Cut(*cut))
        for graph, batch in cuts.items()
        for capacity, cut in zip(CAPACITIES, zip(*batch, strict=True), strict=True)
    }
    generator = np.random.default_rng(seed)
    for rival, number in RIVALS.items():
        values = number(numbers, generator)
        order = tuple(names[index] for index in np.argsort(values, kind="stable"))
        found[rival] = Answer(order[:1], order)
    return found


class LayerNumbers(NamedTuple):
    """Numbers of each layer, which rivals go by.

    Attributes:
        units: i32[num_layers], output units.
        norms: f32[num_layers], norm of the kernel.
        gradient_norms: f32[num_layers], mean norm of its gradient.
        effective_ranks: f32[num_layers], of the kernel as a matrix from its patch to its units.
    """

    units: Array
    norms: Array
    gradient_norms: Array
    effective_ranks: Array


RIVALS: dict[str, Callable[[LayerNumbers, np.random.Generator], Array]] = {
    "smallest |g|": lambda layers, _: layers.gradient_norms,
    "fewest units": lambda layers, _: layers.units,
    "smallest |W| / |g|": lambda layers, _: (
        layers.norms.astype(np.float64) / np.maximum(layers.gradient_norms, _TINY)
    ),
    "smallest |W|": lambda layers, _: layers.norms,
    "smallest effective rank": lambda layers, _: layers.effective_ranks,
    "random": lambda layers, generator: generator.permutation(len(layers.units)),
}


class Cut(NamedTuple):
    """A minimum cut.

    Attributes:
        blocks: bool[num_blocks], in the cut.
        totals: f32[num_layers], capacity of all edges of each layer.
        is_certified: bool[], whether it is proven minimal and finite.
    """

    blocks: Array
    totals: Array
    is_certified: Array


@functools.partial(jax.jit, static_argnums=0)
def _measured(
    architecture: Architecture, params: Params, gradients: Params
) -> tuple[dict[str, Cut], LayerNumbers]:
    """Cuts of all graphs, the capacities in a batch, and the numbers of the rivals."""
    cuts = {graph: _cuts(architecture, graph, params, gradients) for graph in GRAPHS}
    return cuts, _layer_numbers(architecture, params, gradients)


def _cuts(architecture: Architecture, graph: str, params: Params, gradients: Params) -> Cut:
    """A cut for each capacity: one solver, compiled once, on a batch of capacities."""
    layout = layout_of(graph, architecture)
    bound = flow_graph(graph, architecture).bind(layout)
    norms = jax.vmap(lambda tree: block_norms(layout, tree))(gradients)

    def on_edges(rule: CapacityRule) -> jax.Array:
        mean = jnp.mean(norms**rule.moment, 0) ** (1 / rule.moment)
        known = Statistics(mean, layout.leaves(params), layout)
        return bound.edge_capacities(rule.function(known, layout), rule)

    def solve(capacities: jax.Array) -> Cut:
        answer = max_flow(bound.network, capacities)
        # Identities are block -1, which falls off the end.
        block = np.where(bound.edge_block < 0, layout.num_blocks, bound.edge_block)
        layer = np.append(layout.block_layer, len(layout.layers))[block]
        return Cut(
            blocks=jnp.zeros(layout.num_blocks, bool).at[block].max(answer.cut, mode="drop"),
            totals=jnp.zeros(len(layout.layers)).at[layer].add(capacities, mode="drop"),
            is_certified=answer.certified & jnp.isfinite(answer.value),
        )

    return jax.vmap(solve)(jnp.stack([on_edges(rule) for rule in CAPACITIES.values()]))


def _layer_numbers(architecture: Architecture, params: Params, gradients: Params) -> LayerNumbers:
    kernels = [params[layer.name]["kernel"] for layer in architecture.layers]
    slopes = [gradients[layer.name]["kernel"] for layer in architecture.layers]
    return LayerNumbers(
        units=jnp.array([kernel.shape[-1] for kernel in kernels]),
        norms=jnp.stack([optax.tree.norm(kernel) for kernel in kernels]),
        gradient_norms=jnp.stack([jax.vmap(optax.tree.norm)(slope).mean() for slope in slopes]),
        effective_ranks=jnp.stack(
            [effective_rank(kernel.reshape(-1, kernel.shape[-1])) for kernel in kernels]
        ),
    )


def _cut_answer(layout: Partition, cut: Cut) -> Answer:
    """What is not certified names nothing, as in `pfn`."""
    names = [layer.name for layer in layout.layers]
    blocks = np.asarray(cut.blocks & cut.is_certified)
    is_named = np.bincount(layout.block_layer, blocks, len(names)) > 0
    order = np.lexsort((cut.totals, ~is_named))
    return Answer(
        named=tuple(names[layout.block_layer[block]] for block in np.flatnonzero(blocks)),
        order=tuple(names[index] for index in order),
        blocks=blocks,
    )


def _block_size(architecture: Architecture) -> int:
    return architecture.width // 8


def _shapes(architecture: Architecture) -> tuple[Any, jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Parameters, images and labels as shapes."""
    params = {
        layer.name: {
            "kernel": jax.ShapeDtypeStruct(layer.shape, jnp.float32),
            "bias": jax.ShapeDtypeStruct(layer.shape[-1:], jnp.float32),
        }
        for layer in architecture.layers
    }
    images = jax.ShapeDtypeStruct((8, *IMAGE_SHAPE), jnp.float32)
    return params, images, jax.ShapeDtypeStruct((8,), jnp.int32)
