"""`pfn` on graphs that were traced, down to groups of units."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax import Status, cut_report, graph_from_loss, pfn, unit_graph, with_pfn
from pfn_optax.capacity import CAPACITIES
from tests.compilation import ORDINARY_CODE

pytestmark = pytest.mark.usefixtures("unoptimized")

X = jnp.ones((4, 6))


def loss(params, x):
    """Each branch passes two directions, both together four; the head three."""
    stem = jnp.tanh(x @ params["stem"])
    left = (stem @ params["left_in"]) @ params["left_out"]
    right = (stem @ params["right_in"]) @ params["right_out"]
    return jnp.sum(jnp.tanh(left + right) @ params["top"])


def orthonormal(random, fan_in, fan_out):
    """A matrix whose effective rank is its smaller side."""
    matrix = np.linalg.qr(random.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out))))[0]
    return jnp.asarray(matrix if fan_in >= fan_out else matrix.T, jnp.float32)


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    shapes = {"stem": (6, 8), "left_in": (8, 2), "left_out": (2, 8)}
    shapes |= {"right_in": (8, 2), "right_out": (2, 8), "top": (8, 3)}
    return {name: orthonormal(random, *shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def grads(params):
    return jax.grad(loss)(params, X)


@pytest.fixture(scope="module")
def units(params):
    return unit_graph(loss, params, X, block_size=4)


def test_branches_add_up(params, grads):
    """A chain names one of the branches, the traced graph the head that both lead to."""
    traced = {"graph": graph_from_loss(loss, params, X)}
    for options, bottleneck, flow in (({}, "right_out", 2), (traced, "top", 3)):
        optimizer = pfn(capacity="effective_rank", every=1, **options)
        _, state = optimizer.update(grads, optimizer.init(params), params)
        assert state.pfn_status == Status.CERTIFIED
        np.testing.assert_allclose(state.pfn_flow, flow, rtol=1e-5)
        assert cut_report(state, params, **options).bottlenecks == (bottleneck,)


@pytest.mark.parametrize("capacity", sorted(CAPACITIES))
def test_every_capacity_works_on_units(params, grads, units, capacity):
    optimizer = pfn(graph=units, capacity=capacity, every=1)
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    assert state.pfn_status == Status.CERTIFIED
    assert state.pfn_norms.shape == (units.layout.num_blocks,)
    chosen = np.asarray(state.pfn_capacities)[np.asarray(state.pfn_cut)]
    if capacity != "jacobian_rank":
        np.testing.assert_allclose(chosen.sum(), state.pfn_flow, rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)


def test_a_warm_start_changes_nothing_but_the_rounds(params, grads, units):
    """Gradients drift, one diagnosis meets NaN: both starts name the same blocks throughout."""
    random = np.random.default_rng(0)
    states, rounds = {}, {False: [], True: []}
    for warm_start in (False, True):
        optimizer = pfn(graph=units, capacity="energy", every=1, warm_start=warm_start)
        update = jax.jit(optimizer.update, compiler_options=ORDINARY_CODE)
        states[warm_start] = optimizer.init(params), update
    assert optax.tree.get(states[False][0], "pfn_warm") == ()
    for step in range(8):
        grads = jax.tree.map(lambda g: g * np.exp(0.01 * random.normal(size=g.shape)), grads)
        given = jax.tree.map(lambda g: g * np.nan, grads) if step == 4 else grads
        for warm_start, (state, update) in states.items():
            _, state = update(given, state, params)
            states[warm_start] = state, update
            rounds[warm_start].append(int(state.pfn_rounds))
        cold, warm = (state._replace(pfn_warm=()) for state, _ in states.values())
        chex.assert_trees_all_equal(warm._replace(pfn_rounds=cold.pfn_rounds), cold)
    assert min(rounds[False]) > 0
    assert rounds[True][-1] == 0
    assert states[True][0].pfn_warm.potential.any()
    cold, warm = (cut_report(state, params, graph=units) for state, _ in states.values())
    assert warm.bottlenecks == cold.bottlenecks


def test_eager_jit_and_vmap_agree_on_units(params, grads, units):
    optimizer = with_pfn(optax.adam(1e-2), graph=units, capacity="norm", every=1)
    state = optimizer.init(params)
    scales = jnp.asarray([1.0, 3.0])

    def update(scale):
        scaled = jax.tree.map(lambda g: g * scale, grads)
        return optimizer.update(scaled, state, params)

    batched = jax.vmap(update)(scales)
    for index, scale in enumerate(scales):
        single = update(scale)
        chex.assert_trees_all_close(jax.jit(update)(scale), single, rtol=1e-5)
        own = jax.tree.map(lambda leaf, i=index: leaf[i], batched)
        chex.assert_trees_all_close(own, single, rtol=1e-5)


def test_tracing_again_gives_the_same_graph(units):
    shapes = {
        path[0]: jax.ShapeDtypeStruct(grid.shape, jnp.float32)
        for path, grid in units.layout.grids.items()
    }
    again = unit_graph(loss, shapes, X, block_size=4)
    assert again == units
    assert hash(again) == hash(units)


def test_chunks_by_number(params):
    graph = unit_graph(loss, params, X, num_blocks=2)
    assert graph.layout.grids["left_in",].grid == (2, 2)
    assert {"stem[0:4]", "stem[4:8]", "left_in[0:1]", "left_in[1:2]"} <= set(graph.nodes)


def test_bad_sizes_are_refused(params):
    with pytest.raises(ValueError, match="block_size must be a positive Python integer, got 0"):
        unit_graph(loss, params, X, block_size=0)
    with pytest.raises(ValueError, match="give block_size or num_blocks, not both"):
        unit_graph(loss, params, X, block_size=2, num_blocks=2)
