"""Deep networks and recurrent cells: layers, fields over inputs, the cells of Flax."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from pfn_optax.dynamics import (
    DynamicsError,
    DynamicsStatus,
    cell_step,
    finite_time_exponents,
    layer_spectrum,
    lyapunov_spectrum,
)
from pfn_optax.dynamics.basis import random_basis
from tests.dynamics.oracles import by_matrices, jacobians_along, weights

pytestmark = pytest.mark.usefixtures("x64")


def matrices_of(sizes, seed=0):
    draw = np.random.default_rng(seed)
    return [draw.normal(size=(b, a)) / a**0.5 for a, b in itertools.pairwise(sizes)]


def stack(sizes, seed=0):
    return [lambda x, w=w: jnp.tanh(w @ x) for w in matrices_of(sizes, seed)]


def slopes(matrices, x):
    """The Jacobian of each layer of a stack at x, and its output."""
    for matrix in matrices:
        x = np.tanh(matrix @ x)
        yield (1 - x**2)[:, None] * matrix, x


def composed(layers, x):
    return functools.reduce(lambda x, layer: layer(x), layers, x)


# Layers of different widths.


def test_layers_are_what_rectangular_matrices_give():
    sizes, x = (5, 8, 4, 6), np.linspace(-1, 1, 5)
    found = layer_spectrum(stack(sizes), x, num_exponents=3)
    columns, total = np.asarray(random_basis(jax.random.key(0), 5, 3, jnp.float64)), 0
    for number, (jacobian, output) in enumerate(slopes(matrices_of(sizes), x)):
        columns, r = np.linalg.qr(jacobian @ columns)
        total = total + np.log(np.abs(np.diag(r)))
        np.testing.assert_allclose(found.running[number], total / (number + 1), rtol=1e-10)
        x = output
    np.testing.assert_allclose(found.state, x)
    assert found.basis.shape == (3, 6)


def test_a_stack_of_equal_layers_is_a_driven_step():
    matrices = jnp.stack([weights(seed) for seed in range(3)])
    layers = [lambda x, w=w: jnp.tanh(w @ x) for w in matrices]
    found = layer_spectrum(layers, jnp.ones(6))
    other = lyapunov_spectrum(lambda x, w: jnp.tanh(w @ x), jnp.ones(6), inputs=matrices)
    for name in ("exponents", "standard_error", "running", "times", "basis"):
        np.testing.assert_allclose(getattr(found, name), getattr(other, name), rtol=1e-9)


def test_layers_over_many_inputs_and_dead_ones():
    layers = [*stack((5, 8, 4)), lambda x: 0 * x]
    found = jax.vmap(functools.partial(layer_spectrum, layers))(jnp.ones((3, 5)))
    assert (found.status == DynamicsStatus.COLLAPSED).all()
    with pytest.raises(DynamicsError, match="step 1 "):
        layer_spectrum([lambda x: x, lambda x: x / 0], jnp.ones(2))


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([], {}, "at least one layer"),
        (stack((2, 3, 2)), {"num_exponents": 3}, "1, ..., 2, the narrowest width; got 3"),
        ([lambda x: x.astype(int)], {}, "state leaf itself is int"),
    ],
)
def test_bad_layers(layers, options, message):
    with pytest.raises(ValueError, match=message):
        layer_spectrum(layers, jnp.ones(2), **options)


# Fields over inputs.


@pytest.mark.parametrize("sizes", [(5, 8, 4), (3, 8, 6)])
def test_finite_time_exponents_are_of_singular_values(sizes):
    points = np.random.default_rng(3).normal(size=(7, sizes[0]))
    network = functools.partial(composed, stack(sizes))
    found = finite_time_exponents(network, points, depth=2, batch_size=3)
    chains = [[jacobian for jacobian, _ in slopes(matrices_of(sizes), x)] for x in points]
    jacobians = np.stack([second @ first for first, second in chains])
    expected = np.log(np.linalg.svd(jacobians, compute_uv=False)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_leading_exponents_come_from_products():
    layers, points = stack((30, 40, 30), seed=1), jnp.ones((2, 30)) / 10
    network = functools.partial(composed, layers)
    found = finite_time_exponents(network, points, depth=2, num_exponents=2)
    whole = finite_time_exponents(network, points, depth=2)[:, :2]
    assert (found <= whole + 1e-12).all()
    np.testing.assert_allclose(found, whole, atol=1e-2)


def test_dead_inputs_and_bad_options():
    found = finite_time_exponents(jax.nn.relu, jnp.array([[1.0], [-1.0]]), depth=1)
    np.testing.assert_array_equal(found, [[0.0], [-np.inf]])
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        finite_time_exponents(jnp.tanh, jnp.ones((2, 3)), depth=0)
    with pytest.raises(ValueError, match="lesser of 3 inputs and 3 outputs; got 4"):
        finite_time_exponents(jnp.tanh, jnp.ones((2, 3)), depth=1, num_exponents=4)
    with pytest.raises(ValueError, match="state leaf itself is int"):
        finite_time_exponents(jnp.tanh, np.ones((2, 3), int), depth=1)


# Cells.

FEATURES, SEQUENCE = 3, jax.random.normal(jax.random.key(1), (15, 2))
KEY = jax.random.key(0)


def linen_cell(kind):
    cell = kind(FEATURES, param_dtype=jnp.float64)
    carry = cell.initialize_carry(KEY, (2,))
    return cell, cell.init(KEY, carry, SEQUENCE[0]), carry


def nnx_cell(kind):
    cell = kind(2, FEATURES, param_dtype=jnp.float64, dtype=jnp.float64, rngs=nnx.Rngs(0))
    return cell, None, cell.initialize_carry((2,), nnx.Rngs(0))


CELLS = {
    "linen LSTM": (linen_cell, linen.LSTMCell),
    "linen GRU": (linen_cell, linen.GRUCell),
    "nnx LSTM": (nnx_cell, nnx.LSTMCell),
    "nnx GRU": (nnx_cell, nnx.GRUCell),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_have_the_spectrum_of_their_matrices(name):
    build, kind = CELLS[name]
    cell, variables, carry = build(kind)
    carry = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 0.1, carry)
    sequence = SEQUENCE.astype(jnp.float64)
    step = cell_step(cell, variables)
    found = lyapunov_spectrum(step, carry, inputs=sequence, num_exponents=2)
    size = sum(leaf.size for leaf in jax.tree.leaves(carry))
    assert size == FEATURES * (2 if "LSTM" in name else 1)
    jacobians = jacobians_along(step, carry, len(sequence), sequence)
    expected = by_matrices(jacobians, random_basis(KEY, size, 2, jnp.float64))
    np.testing.assert_allclose(found.exponents, expected, rtol=1e-8)


def test_cells_in_use():
    cell, variables, _ = linen_cell(linen.LSTMCell)
    with pytest.raises(ValueError, match="Linen cell needs its variables"):
        cell_step(cell)
    batch = cell.initialize_carry(KEY, (4, 2))
    with pytest.raises(ValueError, match=r"LSTMCell has 1 axes without .* shape \(4, 3\)"):
        cell_step(cell, variables)(batch, jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="return the carry"):
        lyapunov_spectrum(lambda c, x: (c, x), jnp.ones(2), inputs=SEQUENCE)
