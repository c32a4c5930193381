"""The derivative of the maximum flow, against differences of a float64 solver that is not ours."""

import functools

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
import optax
import pytest

from pfn_optax import Edge, FlowGraph, flow_value, pfn, unit_graph
from tests.tolerance import rtol
from tests.trees import dense

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = 6, 12, 8, 5
LAYERS = [f"Dense_{index}" for index in range(len(SIZES) - 1)]
PARAMS = dense(0, *SIZES)
INPUTS = jax.random.normal(jax.random.key(1), (16, SIZES[0]))


def loss(params, x):
    for name in LAYERS:
        x = jnp.tanh(x @ params[name]["kernel"] + params[name]["bias"])
    return jnp.square(x).mean()


@functools.cache
def graph():
    return unit_graph(loss, PARAMS, INPUTS, block_size=4)


def gradients(params):
    return jax.grad(loss)(params, INPUTS)


@functools.partial(jax.jit, static_argnums=(1, 2))
def flow_and_slope(params, capacity, graph):
    """`"sensitivity"` is differentiated through the gradients too."""

    def flow_of(params):
        return flow_value(params, gradients(params), capacity=capacity, graph=graph)

    return jax.value_and_grad(flow_of)(params)


def moved(params, direction, length):
    return jax.tree.map(lambda x, d: x + length * d, params, direction)


def reference(params, capacity):
    """The flow, and the layers of its cut, from the definitions, in NumPy and networkx."""
    layers = {layer.name: layer for layer in graph().layout.layers}
    slopes = gradients(params)
    network = nx.DiGraph()
    for edge in graph().edges:
        layer, kernel = layers[edge.layer], np.asarray(params[edge.layer]["kernel"])
        singular = np.linalg.svd(kernel, compute_uv=False)
        rank = np.sum(singular**2) ** 2 / np.sum(singular**4)
        for block in edge.blocks:
            mask = np.asarray(layer.spread(jnp.eye(layer.num_blocks)[block]))
            energy = np.sum(kernel**2 * mask)
            slope = np.linalg.norm(np.asarray(slopes[edge.layer]["kernel"]) * mask)
            size = {
                "effective_rank": rank * energy / np.sum(kernel**2),
                "sensitivity": np.sqrt(energy) * slope,
            }[capacity]
            known = network.get_edge_data(edge.tail, edge.head, {"capacity": 0.0})["capacity"]
            network.add_edge(edge.tail, edge.head, capacity=known + size, layer=edge.layer)
    value, (left, right) = nx.minimum_cut(network, "loss", "data")
    cut = {d["layer"] for u, v, d in network.edges(data=True) if u in left and v in right}
    return value, cut


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("capacity", ["effective_rank", "sensitivity"])
def test_slope_is_that_of_finite_differences(capacity):
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), PARAMS)
    # Starving other units in either layer, so that the cut runs through both.
    params["Dense_1"]["kernel"][:, 4:] *= 0.1
    params["Dense_2"]["kernel"][:4] *= 0.1
    value, slope = flow_and_slope(params, capacity, graph())
    expected, cut = reference(params, capacity)
    assert float(value) == pytest.approx(expected, rel=rtol())
    assert cut == {"Dense_1", "Dense_2"}

    generator, step = np.random.default_rng(1), 1e-5
    for _ in range(4):
        direction = jax.tree.map(lambda x: generator.normal(size=x.shape), params)
        ahead, behind = (
            reference(moved(params, direction, length), capacity)[0] for length in (step, -step)
        )
        along = sum(jax.tree.leaves(jax.tree.map(lambda s, d: np.sum(s * d), slope, direction)))
        size = optax.tree.norm(slope) * optax.tree.norm(direction)
        assert float(along) == pytest.approx(
            (ahead - behind) / (2 * step), abs=float(rtol(factor=64) * size)
        )


def test_only_layers_in_the_cut_move_ranks():
    _, slope = flow_and_slope(PARAMS, "effective_rank", graph())
    moved = {name for name in LAYERS if jnp.any(jnp.abs(slope[name]["kernel"]) > 1e-6)}
    assert moved == reference(PARAMS, "effective_rank")[1]
    assert not any(jnp.any(slope[name]["bias"]) for name in LAYERS)


def test_value_is_the_one_of_the_state():
    optimizer = pfn(every=1, capacity="effective_rank", graph=graph())
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    value, _ = flow_and_slope(PARAMS, "effective_rank", graph())
    assert float(value) == pytest.approx(float(optax.tree.get(state, "pfn_flow")), rel=rtol())


@pytest.mark.parametrize("capacity", ["effective_rank", "sensitivity"])
def test_dead_parameters_have_finite_slopes(capacity):
    """Zero norms have no derivative; what stands in for it must not be NaN."""
    dead = PARAMS | {"Dense_1": jax.tree.map(jnp.zeros_like, PARAMS["Dense_1"])}
    starved = PARAMS | {"Dense_0": {"kernel": PARAMS["Dense_0"]["kernel"].at[:, :4].set(0.0)}}
    starved["Dense_0"]["bias"] = PARAMS["Dense_0"]["bias"]
    for params, is_blocked in ((dead, True), (starved, False)):
        value, slope = flow_and_slope(params, capacity, graph())
        assert (float(value) == 0) == is_blocked
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))


def test_ascent_raises_the_flow():
    """Of a layer of rank one, whose slope points to a second direction once there is a trace."""
    low = jnp.ones((6, 4)) + 0.01 * PARAMS["Dense_0"]["kernel"][:, :4]
    params = {"0": jnp.eye(6), "1": low, "2": jnp.eye(4)}
    value_and_slope = jax.jit(jax.value_and_grad(flow_value))
    first, _ = value_and_slope(params)
    for _ in range(50):
        _, slope = value_and_slope(params)
        params = jax.tree.map(lambda p, s: p + s, params, slope)
    last, _ = value_and_slope(params)
    assert float(first) < 1.1
    assert float(last) > 2


def test_batch_of_models():
    batch = jax.vmap(lambda scale: {"0": jnp.eye(3), "1": jnp.diag(scale)})(
        jnp.array([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    )
    np.testing.assert_allclose(jax.vmap(flow_value)(batch), [3, 2, 1], rtol=rtol())


def test_paths_of_identities_alone_have_no_slope():
    graph = FlowGraph((Edge("loss", "data"), Edge("loss", "data", "Dense_0")))
    value, slope = jax.value_and_grad(flow_value)(PARAMS, graph=graph)
    assert value == jnp.inf
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(slope))


def test_bad_arguments_say_what_to_do():
    with pytest.raises(ValueError, match=r"reads gradients, got none: pass gradients="):
        flow_value(PARAMS, capacity="norm")
    with pytest.raises(ValueError, match=r"must not be given beside it: got block_size=4"):
        flow_value(PARAMS, graph=graph(), block_size=4)
