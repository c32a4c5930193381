"""Quadrature, trace and diagonal against the matrices they are of, and matfree's own Lanczos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.curvature import (
    CurvatureError,
    diagonal,
    hessian_operator,
    spectral_density,
    trace,
)
from pfn_optax.curvature import krylov as spaces
from tests.curvature.models import data, hessian, loss, parameters, quadratic, symmetric
from tests.tolerance import rtol

SIZE = 40
VALUES = np.concatenate([np.linspace(-1, 1, SIZE - 2), [5.0, 8.0]])
MATRIX = jnp.asarray(symmetric(VALUES), jnp.float32)
OPERATOR = hessian_operator(quadratic, jnp.zeros(SIZE), MATRIX)


def test_with_all_steps_the_nodes_are_the_eigenvalues():
    found = spectral_density(OPERATOR, num_steps=100, num_probes=2)
    assert found.nodes.shape == (2, SIZE)
    for nodes in found.nodes:
        np.testing.assert_allclose(nodes, VALUES, atol=1e-5)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("degree", range(6))
def test_moments_of_each_probe_are_exact_up_to_twice_the_steps(degree):
    """Gauss quadrature: sum_j w_j theta_j^d = v^T A^d v for d < 2 x 3."""
    key = jax.random.key(3)
    found = spectral_density(OPERATOR, num_steps=3, num_probes=1, key=key)
    [probe] = jax.random.split(key, 1)
    vector = spaces.random_vector(jax.random.split(probe)[0], OPERATOR.params)
    vector = np.asarray(vector, np.float64)
    power = np.linalg.matrix_power(np.asarray(MATRIX, np.float64), degree)
    moment = np.sum(np.float64(found.weights) * np.float64(found.nodes) ** degree)
    np.testing.assert_allclose(moment, vector @ power @ vector, rtol=rtol(factor=200))


def test_the_same_tridiagonal_matrix_as_matfree():
    from matfree import decomp

    vector = spaces.random_vector(jax.random.key(1), OPERATOR.params)
    _, (diagonals, off_diagonals), *_ = decomp.tridiag_sym(8, materialize=False)(OPERATOR, vector)
    space = spaces.start(vector, 8)
    ours = spaces.symmetric(spaces.grow(OPERATOR, space, 0, jax.random.key(0), spaces.COMPILED))
    np.testing.assert_allclose(jnp.diag(ours), diagonals, atol=1e-4)
    np.testing.assert_allclose(jnp.abs(jnp.diag(ours, 1)), off_diagonals, atol=1e-4)
    np.testing.assert_allclose(jnp.triu(ours, 2), 0, atol=1e-5)


def test_density_integrates_to_shares_of_eigenvalues():
    found = spectral_density(OPERATOR, num_probes=64, width=0.05)
    assert found.width == np.float32(0.05)
    np.testing.assert_allclose(jnp.trapezoid(found.density, found.grid), 1, rtol=1e-3)
    beyond = jnp.trapezoid(jnp.where(found.grid > 3, found.density, 0), found.grid)
    np.testing.assert_allclose(beyond, 2 / SIZE, atol=0.02)


def test_density_of_a_multiple_of_the_identity():
    for scale in (0.0, 3.0):
        found = spectral_density(hessian_operator(quadratic, jnp.zeros(5), scale * jnp.eye(5)))
        mean = jnp.sum(found.nodes * found.weights, axis=1)
        np.testing.assert_allclose(mean, scale, rtol=1e-5)
        np.testing.assert_allclose(jnp.trapezoid(found.density, found.grid), 1, rtol=1e-2)


@pytest.mark.usefixtures("x64")
def test_over_batches_on_the_host_is_the_same():
    params, args = parameters(), data()
    batches = [tuple(arg[a:b] for arg in args) for a, b in ((0, 4), (4, 12))]
    whole = hessian_operator(loss, params, *args)
    parts = hessian_operator(loss, params, batches=batches)
    options = {"num_steps": 5, "num_probes": 2}
    left, right = spectral_density(whole, **options), spectral_density(parts, **options)
    for ours, theirs in zip(left, right, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8)
    for estimate in (trace, diagonal):
        left, right = estimate(whole, num_probes=4), estimate(parts, num_probes=4)
        for ours, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_trace_and_diagonal_within_their_standard_errors():
    params, args = parameters(), data()
    matrix, operator = hessian(params, *args), hessian_operator(loss, params, *args)
    found = trace(operator, num_probes=400)
    assert found.standard_error > 0
    assert abs(found.value - np.trace(matrix)) < 4 * found.standard_error
    value, error = diagonal(operator, num_probes=400)
    assert jax.tree.structure(value) == jax.tree.structure(params)
    distance = np.abs(jax.flatten_util.ravel_pytree(value)[0] - np.diag(matrix))
    error = jax.flatten_util.ravel_pytree(error)[0]
    assert (distance < 5 * error + 1e-12).all()
    # Two thirds within one standard error: neither far too large nor far too small.
    assert 0.4 < (distance < error).mean() < 0.95


def test_trace_of_a_diagonal_matrix_has_no_error():
    values = jnp.arange(6.0)
    found = trace(hessian_operator(quadratic, jnp.zeros(6), jnp.diag(values)), num_probes=2)
    assert found == (15.0, 0.0)


@pytest.mark.parametrize("estimate", [spectral_density, trace, diagonal])
def test_a_loss_that_is_not_finite_raises(estimate):
    with pytest.raises(CurvatureError, match="NaN or infinite"):
        estimate(hessian_operator(lambda p: jnp.sum(jnp.sqrt(p)), jnp.zeros(4)))


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (spectral_density, {"num_steps": 0}, "num_steps must be at least 1, got 0"),
        (spectral_density, {"num_probes": 0}, "num_probes must be at least 1, got 0"),
        (spectral_density, {"num_points": 1}, "num_points must be at least 2, got 1"),
        (spectral_density, {"width": 0.0}, "width must be positive and finite, got 0.0"),
        (trace, {"num_probes": 1}, "num_probes must be at least 2"),
    ],
)
def test_options_out_of_range(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(OPERATOR, **options)
