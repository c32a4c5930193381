"""What holds exactly on traced graphs: the laws of energy, of saliency and of rank."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import igraph
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax import FlowGraph, graph_from_loss, unit_graph
from pfn_optax.capacity import CAPACITIES
from pfn_optax.graph import BoundGraph, GraphWarning
from pfn_optax.grid import GridLayer
from pfn_optax.partition import Partition, block_energies, partition
from pfn_optax.precision import double_precision
from pfn_optax.units import unit_spec
from tests.graph.branched import Branched, branched

pytestmark = pytest.mark.usefixtures("unoptimized")


def maximum_flow(bound: BoundGraph, capacities: np.ndarray, *, both_ways: bool = False) -> float:
    """The value of the maximum flow by igraph."""
    network = bound.network
    ends = list(zip(network.tails, network.heads, strict=True))
    finite = np.where(np.isfinite(capacities), capacities, 1e9)
    if both_ways:
        ends, finite = ends + [(v, u) for u, v in ends], np.tile(finite, 2)
    graph = igraph.Graph(network.num_nodes, ends, directed=True)
    return graph.maxflow_value(network.source, network.sink, finite.tolist())


def traced(function: Callable[..., FlowGraph], *args: Any, **options: Any) -> FlowGraph:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GraphWarning)  # branches that end nowhere
        return function(*args, **options)


# --- rank -------------------------------------------------------------------------------------


def rank_bound(graph: FlowGraph, layout: Partition, params: dict[str, np.ndarray]) -> float:
    """The maximum flow with the numerical rank of every block as its capacity."""
    capacities = np.zeros(layout.num_blocks, np.float32)
    for layer in layout.layers:
        matrix = params[layer.path[0]]
        if isinstance(layer, GridLayer):
            capacities[layer.blocks] = [np.linalg.matrix_rank(m) for m in _cells(layer, matrix)]
        else:
            rank = np.linalg.matrix_rank(matrix.reshape(-1, matrix.shape[-1]))
            capacities[layer.first_block] = rank
    bound = graph.bind(layout)
    return maximum_flow(bound, bound.edge_capacities(capacities, CAPACITIES["jacobian_rank"]))


def _cells(layer: GridLayer, matrix: np.ndarray) -> list[np.ndarray]:
    cells = [matrix]
    for side in layer.sides:
        chunks = [np.flatnonzero(side.chunk_of == chunk) for chunk in range(len(side.names))]
        cells = [np.take(cell, chunk, side.axis) for cell in cells for chunk in chunks]
    return cells


@pytest.mark.parametrize("kind", ["layers", "units"])
def test_the_maximum_flow_bounds_the_rank_of_the_jacobian(kind):
    """No cut passes fewer directions than get through, on 100 random branched networks."""
    is_tight = []
    for seed in range(100):
        network = branched(seed)
        args = network.loss, network.params, network.x[None], jnp.zeros(1, int)
        if kind == "layers":
            graph, layout = traced(graph_from_loss, *args), partition(network.params)
        else:
            graph = traced(unit_graph, *args, block_size=2)
            layout = graph.layout
        bound = rank_bound(graph, layout, network.params)
        rank = np.linalg.matrix_rank(network.jacobian())
        assert rank <= bound, (seed, rank, bound)
        is_tight.append(rank == bound)
    # And it says something. (Ranks of sub-matrices add up to more than the rank of the matrix.)
    assert np.mean(is_tight) > (0.25 if kind == "layers" else 0)


def test_a_convolution_counts_at_every_position():
    """Rank of the Jacobian of a two-layer convolutional network against its bound."""
    random = np.random.default_rng(0)
    params = {
        "conv": random.normal(size=(1, 1, 3, 2)) @ random.normal(size=(2, 4)),
        "head": random.normal(size=(4 * 4 * 4, 60)),
    }

    def predict(params, x):
        dimensions = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "SAME", dimension_numbers=dimensions
        )
        return x.reshape(len(x), -1) @ params["head"]

    x = jnp.asarray(random.normal(size=(1, 4, 4, 3)))
    graph = graph_from_loss(lambda params, x: predict(params, x).sum(), params, x)
    assert {edge.layer: edge.positions for edge in graph.edges} == {"conv": 16, "head": 1}
    bound = rank_bound(graph, partition(params), params)
    jacobian = jax.jacobian(lambda x: predict(params, x).ravel())(x).reshape(60, -1)
    assert np.linalg.matrix_rank(jacobian) == bound == 32


# --- energy -----------------------------------------------------------------------------------


def test_refining_blocks_keeps_the_energy_of_a_layer():
    network = branched(3)
    args = network.loss, network.params, network.x[None], jnp.zeros(1, int)
    grads = {path: jnp.asarray(leaf) for path, leaf in network.params.items()}
    totals = []
    for block_size in (1, 2, 3, 100):
        layout = traced(unit_graph, *args, block_size=block_size).layout
        energies = block_energies(layout, layout.leaves(grads))
        totals.append([energies[layer.blocks].sum() for layer in layout.layers])
    np.testing.assert_allclose(totals, np.tile(totals[0], (len(totals), 1)), rtol=1e-5)


# --- saliency ---------------------------------------------------------------------------------


class Homogeneous(NamedTuple):
    """A network of linear maps and ReLUs without biases."""

    name: str
    logits: Callable[[Any, jax.Array], jax.Array]
    params: dict[str, jax.Array]
    x: jax.Array


def _convolution(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _mlp(params, x):
    for name in ("a", "b", "c"):
        x = jax.nn.leaky_relu(x @ params[name])
    return x @ params["head"]


def _residual(params, x):
    x = jax.nn.relu(_convolution(x, params["stem"]))
    x = x + _convolution(jax.nn.relu(_convolution(x, params["a"])), params["b"])
    x = jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    shortcut = _convolution(x, params["shortcut"])
    x = jax.nn.relu(shortcut + _convolution(jax.nn.relu(_convolution(x, params["c"])), params["d"]))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return x.reshape(len(x), -1) @ params["head"]


def _shapes(**shapes: tuple[int, ...]) -> dict[str, jax.Array]:
    random = np.random.default_rng(1)
    return {
        name: jnp.asarray(random.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
        for name, shape in shapes.items()
    }


def _input(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape))


@pytest.fixture(
    scope="module",
    params=[
        lambda: Homogeneous(
            "mlp", _mlp, _shapes(a=(6, 8), b=(8, 7), c=(7, 8), head=(8, 5)), _input(3, 6)
        ),
        lambda: Homogeneous(
            "residual",
            _residual,
            _shapes(
                stem=(3, 3, 2, 4),
                a=(3, 3, 4, 4),
                b=(3, 3, 4, 4),
                shortcut=(1, 1, 4, 6),
                c=(3, 3, 4, 6),
                d=(3, 3, 6, 6),
                head=(24, 5),
            ),
            _input(3, 8, 8, 2),
        ),
        lambda: _of_branched(branched(17)),
    ],
    ids=["mlp", "residual convolutional", "branched"],
)
def network(request) -> Homogeneous:
    with double_precision():
        return request.param()


def _of_branched(network: Branched) -> Homogeneous:
    params = {name: jnp.asarray(leaf) for name, leaf in network.params.items()}
    return Homogeneous("branched", network.logits, params, _input(3, len(network.x)))


class Saliency(NamedTuple):
    """A unit graph, and what flows through its blocks.

    Attributes:
        bound: the graph on its blocks.
        flow: f64[num_blocks], <W_e, dL/dW_e>.
        parameter_norms: f64[num_blocks].
        gradient_norms: f64[num_blocks].
        total: <dL/dlogits, logits>.
    """

    bound: BoundGraph
    flow: np.ndarray
    parameter_norms: np.ndarray
    gradient_norms: np.ndarray
    total: float


def measure(network: Homogeneous, params: Any, *, block_size: int) -> Saliency:
    def loss_of(logits):
        return jnp.square(logits - 1).sum() + jax.nn.logsumexp(logits)

    def loss(params, x):
        return loss_of(network.logits(params, x))

    graph = traced(unit_graph, loss, params, network.x, block_size=block_size)
    grads = jax.jit(jax.grad(loss))(params, network.x)
    logits = jax.jit(network.logits)(params, network.x)

    def of_blocks(tree):
        sums = np.zeros(graph.layout.num_blocks)
        for path, layer in graph.layout.grids.items():
            sums[layer.blocks] = layer.energies(tree[path[0]])
        return sums

    return Saliency(
        graph.bind(graph.layout),
        of_blocks(jax.tree.map(jnp.multiply, params, grads)),
        np.sqrt(of_blocks(jax.tree.map(jnp.square, params))),
        np.sqrt(of_blocks(jax.tree.map(jnp.square, grads))),
        float(jnp.vdot(jax.grad(loss_of)(logits), logits)),
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("block_size", [1, 3])
def test_the_saliency_is_conserved_at_every_group_of_units(network, block_size):
    """What the layers bring to a node, layers and identities take away (Euler's theorem)."""
    known = measure(network, network.params, block_size=block_size)
    graph, is_layer = known.bound.network, known.bound.edge_block >= 0
    incidence = np.zeros((graph.num_nodes, len(graph.tails)))
    incidence[list(graph.tails), np.arange(len(graph.tails))] = 1
    incidence[list(graph.heads), np.arange(len(graph.tails))] -= 1
    brought = incidence[:, is_layer] @ known.flow[known.bound.edge_block[is_layer]]
    inner = [n for n in range(graph.num_nodes) if n not in (graph.source, graph.sink)]
    # The flow of an identity is not written in any weight: some flow must balance every node.
    through = np.linalg.lstsq(incidence[inner][:, ~is_layer], -brought[inner], rcond=None)[0]
    balance = brought + incidence[:, ~is_layer] @ through
    np.testing.assert_allclose(balance[inner], 0, atol=1e-10 * abs(known.total))
    np.testing.assert_allclose(balance[graph.source], known.total, rtol=1e-10)
    np.testing.assert_allclose(balance[graph.sink], -known.total, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_the_saliency_is_a_feasible_flow_of_sensitivity(network):
    known = measure(network, network.params, block_size=2)
    capacities = known.parameter_norms * known.gradient_norms
    assert (np.abs(known.flow) <= capacities * (1 + 1e-12)).all()
    on_edges = known.bound.edge_capacities(capacities, CAPACITIES["sensitivity"])
    value = maximum_flow(known.bound, np.asarray(on_edges), both_ways=True)
    assert value >= abs(known.total)


@pytest.mark.usefixtures("x64")
def test_sensitivity_does_not_change_under_rescaling(network):
    """ReLU's symmetry W -> D W, W' -> W' / D, at every group of units at once."""
    spec = unit_spec(network.logits, network.params, network.x, check=False)
    random = np.random.default_rng(0)
    scales = {
        group.name: np.exp(random.normal(size=group.size))
        for group in spec.groups
        if group.is_scalable
    }
    assert scales
    before = measure(network, network.params, block_size=1)
    after = measure(network, spec.rescale(network.params, scales), block_size=1)
    np.testing.assert_allclose(after.total, before.total, rtol=1e-10)
    np.testing.assert_allclose(
        after.parameter_norms * after.gradient_norms,
        before.parameter_norms * before.gradient_norms,
        rtol=1e-9,
    )
    ratio = after.gradient_norms / np.maximum(before.gradient_norms, 1e-300)
    assert ratio.max() > 1.5  # as the gradient norms alone do
