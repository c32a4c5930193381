"""Critical points, what embedding does to them, and what is predicted of it."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from pfn_optax.curvature import CurvatureError, inertia
from pfn_optax.landscape import embed, find_critical_point, predicted_inertia
from pfn_optax.units import unit_spec

pytestmark = pytest.mark.usefixtures("unoptimized")

X = np.linspace(-1.5, 1.5, 20)[:, None]
Y = X**3 - X
WITH_ONE = np.hstack([X, np.ones_like(X)])


def network(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["a"]


def loss(params, x, y):
    return jnp.mean(jnp.square(network(params, x) - y))


hessian = jax.jit(jax.hessian(loss))
gradient = jax.jit(jax.grad(loss))


def measured(params):
    """The inertia of the whole Hessian, from a dense matrix."""
    blocks = hessian(params, X, Y)
    sizes = {name: np.size(leaf) for name, leaf in params.items()}
    matrix = np.block(
        [
            [np.reshape(blocks[row][column], (sizes[row], sizes[column])) for column in sizes]
            for row in sizes
        ]
    )
    return inertia((matrix + matrix.T) / 2)


def weights(seed, width=2):
    draw = np.random.default_rng(seed)
    return {
        "w": draw.normal(size=(1, width)),
        "b": draw.normal(size=width),
        "a": draw.normal(size=(width, 1)),
    }


SPEC = unit_spec(network, weights(0), X)


def prediction(params, unit, alpha):
    incoming = [*params["w"][:, unit], params["b"][unit]]
    errors = 2 * (np.tanh(X @ params["w"] + params["b"]) @ params["a"] - Y) / len(X)
    return predicted_inertia(jnp.tanh, WITH_ONE, incoming, params["a"][unit], errors, alpha=alpha)


@pytest.fixture(scope="module")
def minimum():
    return find_critical_point(loss, weights(0), X, Y, tolerance=1e-13)


def test_a_minimum_to_the_last_digits(minimum):
    assert minimum.status == "converged"
    assert minimum.gradient_norm < 1e-13
    counts = inertia(minimum.eigenvalues)
    assert counts[:3] == (0, 0, 6)
    assert counts.is_separated
    assert minimum.losses[-1] == minimum.loss == pytest.approx(0.0508562, abs=1e-7)
    assert minimum.losses[0] > minimum.loss
    assert minimum.gradient_norms[-1] == minimum.gradient_norm
    assert {leaf.dtype for leaf in jax.tree.leaves(minimum.params)} == {np.dtype(np.float64)}


@pytest.mark.usefixtures("x64")
def test_the_seed_s_counts(minimum):
    """A minimum of width 2 split into k = 1, 2, 3 equal parts: (0, 0), (1, 1), (2, 2)."""
    two = embed(minimum.params, SPEC, "w", 0)
    three = embed(*embed(minimum.params, SPEC, "w", 0, alpha=1 / 3), "w", 2)
    for number, (params, _) in enumerate((two, three), start=1):
        slopes = gradient(params, X, Y)
        assert sum(np.abs(slope).sum() for slope in slopes.values()) < 1e-13
        counts = measured(params)
        assert counts[:3] == (number, number, 6 + number)
        assert counts.is_separated


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("alpha", [0.5, 0.3, -0.5, 1.5])
def test_predicted_at_critical_points(minimum, alpha):
    """Outside of (0, 1) S changes its sign, and the split may keep a minimum one."""
    for unit in range(2):
        added = prediction(minimum.params, unit, alpha)
        wide = measured(embed(minimum.params, SPEC, "w", unit, alpha=alpha).params)
        assert wide[:3] == tuple(np.add((0, 0, 6), added[:3]))
        assert added.zero == 1


@pytest.mark.usefixtures("x64")
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 1), st.sampled_from([0.5, 0.3, -0.5, 1.5, 0, 1]))
def test_predicted_anywhere(seed, unit, alpha):
    """The block stands alone at any point, not only where the gradient is zero."""
    params = weights(seed)
    added = prediction(params, unit, alpha)
    narrow, wide = measured(params), measured(embed(params, SPEC, "w", unit, alpha=alpha).params)
    if all(counts.is_separated for counts in (added, narrow, wide)):
        assert wide[:3] == tuple(np.add(narrow[:3], added[:3]))


@pytest.mark.usefixtures("x64")
def test_predicted_in_a_deep_network_with_several_outputs():
    """The errors of a hidden layer are those that reach the sums of the next one."""
    draw = np.random.default_rng(5)
    sizes = (3, 3, 2, 2)
    params = [draw.normal(size=pair) for pair in itertools.pairwise(sizes)]
    x, y = draw.normal(size=(9, 3)), draw.normal(size=(9, 2))

    def deep(params, x, shift):
        h = jnp.tanh(x @ params[0])
        return jnp.tanh(h @ params[1] + shift) @ params[2]

    def deep_loss(params, shift=0.0):
        return jnp.sum(jnp.square(deep(params, x, shift) - y)) / 9

    def counts(params):
        stay = find_critical_point(deep_loss, params, descent_steps=0, newton_steps=0)
        return inertia(stay.eigenvalues)

    spec = unit_spec(lambda params, x: deep(params, x, 0.0), params, x)
    errors = jax.grad(lambda shift: deep_loss(params, shift))(jnp.zeros((9, 2)))
    for alpha in (0.4, -0.5):
        added = predicted_inertia(jnp.tanh, x, params[0][:, 1], params[1][1], errors, alpha=alpha)
        wide = counts(embed(params, spec, "0", 1, alpha=alpha).params)
        assert wide[:3] == tuple(np.add(counts(params)[:3], added[:3]))


def test_saddles_and_flat_valleys():
    """Without descent the nearest critical point: here a saddle, and a whole line of them."""

    def saddle(p):
        return (p["a"] ** 2 - 1) ** 2 + (p["b"] * (p["a"] ** 2 + 1)) ** 2

    found = find_critical_point(saddle, {"a": 0.1, "b": 0.5}, descent_steps=0)
    np.testing.assert_allclose([found.params["a"], found.params["b"]], 0, atol=1e-9)
    assert inertia(found.eigenvalues)[:3] == (1, 0, 1)
    down = find_critical_point(saddle, {"a": 0.1, "b": 0.5})
    assert abs(down.params["a"]) == pytest.approx(1)
    valley = find_critical_point(lambda p: (p[0] * p[1] - 1) ** 2, np.array([2.0, 1.0]))
    assert valley.status == "converged"
    assert np.prod(valley.params) == pytest.approx(1)
    assert inertia(valley.eigenvalues)[:3] == (0, 1, 1)


def test_where_there_is_no_critical_point():
    found = find_critical_point(
        lambda p: p[0] + 0.1 * jnp.sin(p[0]), np.array([2.0]), descent_steps=0
    )
    assert found.status == "stalled"
    assert found.gradient_norm == pytest.approx(0.9)


def test_the_same_in_single_precision_data():
    """Callers need not think of it: data and parameters are taken as float64."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), weights(0))
    found = find_critical_point(
        loss, params, jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32), tolerance=1e-13
    )
    assert found.status == "converged"
    assert jnp.zeros(1).dtype == jnp.float32


def test_bad_input():
    with pytest.raises(CurvatureError, match=r"the loss is nan .* at evaluation 1"):
        find_critical_point(lambda p: jnp.log(p[0]), np.array([-1.0]))
    for name in ("tolerance", "descent_steps", "newton_steps"):
        with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
            find_critical_point(lambda p: p[0] ** 2, np.array([1.0]), **{name: -1})
    with pytest.raises(ValueError, match="params at steps is int64; curvature needs"):
        find_critical_point(lambda p: p["x"] ** 2, {"x": 1.0, "steps": np.array(3)})
    with pytest.raises(ValueError, match="params has no leaves"):
        find_critical_point(lambda p: 0.0, {})
    with pytest.raises(ValueError, match=r"got the shapes \(2, 1\), \(2,\), \(1,\), \(2, 1\)"):
        predicted_inertia(jnp.tanh, [[1.0], [2.0]], [0.5, 1], [1.0], [[0.3], [0.1]])
