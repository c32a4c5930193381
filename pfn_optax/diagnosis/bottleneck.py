"""How many directions pass from the data to the loss: the minimum cut of the layers' ranks.

The rank of a product of matrices is at most that of each, and that of a sum at most the sum of the
ranks, so the rank of the whole network's Jacobian (at one position) is at most that of any cut of
its graph with the layers' ranks for capacities. The cut of a healthy classifier is its head.
"""

import contextlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfn_optax.capacity import CapacityRule
from pfn_optax.diagnosis.case import Case, Skip
from pfn_optax.diagnosis.signal import measure_signal
from pfn_optax.flow import max_flow
from pfn_optax.graph import bound_to
from pfn_optax.partition import Layer, Partition, partition
from pfn_optax.paths import named_leaves

_TOLERANCE = 1e-2  # singular values below this share of the largest carry no direction
_SKETCH = 48  # ranks above are not told apart


class Flow(NamedTuple):
    """The minimum cut.

    Attributes:
        value: directions that pass it.
        head: directions that the layers next to the loss let through.
        data: numbers at one position that the layers next to the data are applied to.
        layers: the layers in the cut.
        widths: units that each of them puts out.
        ranks: of all layers, by name, at most 48.
    """

    value: float
    head: float
    data: float
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    ranks: dict[str, int]


def measure_flow(case: Case) -> Flow:
    """Finds the minimum cut of the ranks; for `case.once`.

    Raises:
        Skip: if the graph is not known, or there is not the time or the memory.
    """
    graph = case.graph
    if graph is None:
        raise Skip("the loss depends on no data through any layer that was recognised")
    layout = partition(case.setup.params, num_blocks=1)
    bound = bound_to(graph, layout)
    names = [layer.name for layer in layout.layers]
    shapes = {one.name: one for one in _layer_shapes(case, layout)}
    at_data = {edge.layer for edge in graph.edges if edge.head == graph.sink and edge.layer}
    at_loss = {edge.layer for edge in graph.edges if edge.tail == graph.source and edge.layer}
    ranks = {name: _rank_of(one, name in at_data) for name, one in shapes.items()}
    capacities = jnp.asarray([ranks[name] for name in names], jnp.float32)
    rule = CapacityRule(lambda known, layout: capacities, counts_directions=True)
    on_edges = bound.edge_capacities(capacities, rule)

    def solved(capacities: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Of the layers into a waist and out of it, that into it: the side of the data.
        return max_flow(bound.network, capacities, side="sink")[:2]

    value, cut = case.budget.compile(solved, on_edges, what="the flow")(on_edges)
    in_cut = [names[block] for block in bound.edge_block[np.asarray(cut)] if block >= 0]
    layers = tuple(dict.fromkeys(in_cut))
    has_skip = any(edge.tail == graph.source and edge.layer is None for edge in graph.edges)
    return Flow(
        value=float(value),
        head=np.inf if has_skip else float(sum(ranks[name] for name in at_loss)),
        data=float(sum(shapes[name].num_inputs for name in at_data)) or np.inf,
        layers=layers,
        widths=tuple(shapes[name].width for name in layers),
        ranks=ranks,
    )


class _Shaped(NamedTuple):
    """A layer's kernel, and how many units it puts out."""

    name: str
    kernel: Any
    width: int

    @property
    def num_inputs(self) -> int:
        return max(self.kernel.size // max(self.width, 1), 1)


def _layer_shapes(case: Case, layout: Partition) -> list[_Shaped]:
    """With the widths that were seen where the layers are applied: heads of attention count."""
    seen: dict[str, int] = {}
    with contextlib.suppress(Skip):
        seen = {one.layer: one.width for one in case.once(measure_signal).layers}
    kernels = dict(named_leaves(case.setup.params))
    found = []
    for layer in layout.layers:
        kernel = kernels[layer.path]
        own = kernel.shape[layer.unit_axis] if isinstance(layer, Layer) and kernel.ndim else 1
        width = seen.get(layer.name, own)
        found.append(_Shaped(layer.name, kernel, own if kernel.size % max(width, 1) else width))
    return found


def _rank_of(layer: _Shaped, is_at_data: bool) -> int:
    shape = layer.kernel.shape
    # Each channel on its own: the matrix is a diagonal in disguise.
    is_depthwise = len(shape) > 2 and shape[-2] == 1 and not is_at_data
    if is_depthwise or len(shape) < 2:
        return min(_SKETCH, layer.width)
    return _rank(np.asarray(layer.kernel, np.float32).reshape(-1, layer.width))


def _rank(matrix: np.ndarray) -> int:
    """Directions that a matrix lets through, 48 at most.

    That of a matrix of zeros, or with NaN, is what its shape allows: it is no bottleneck but
    something else.
    """
    most = min(*matrix.shape, _SKETCH)
    if not np.isfinite(matrix).all() or not matrix.any():
        return most
    matrix = matrix / np.abs(matrix).max()
    if min(matrix.shape) > _SKETCH:
        matrix = matrix @ np.random.default_rng(0).normal(size=(matrix.shape[1], _SKETCH))
    values = np.linalg.svd(matrix, compute_uv=False)
    return int((values > _TOLERANCE * values[0]).sum())
