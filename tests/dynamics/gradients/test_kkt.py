"""The banded solution against the dense KKT matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.dynamics.gradients.kkt import solve_chain, solve_with_neutral
from pfn_optax.precision import double_precision

K, M = 6, 3
chain, neutral = jax.jit(solve_chain), jax.jit(solve_with_neutral)


def problem(seed, growth, num_sides=2):
    draw = np.random.default_rng(seed)
    roots = draw.normal(size=(K, M, M))
    c = roots @ np.swapaxes(roots, 1, 2) + np.eye(M)
    r = np.triu(draw.normal(size=(K, M, M))) * growth ** np.array([1.0, 0, -1])[:, None]
    return c, r, draw.normal(size=(K, M, num_sides)), draw.normal(size=(K, M, num_sides))


def dense(c, r, d, b, rows=None, sides=None):
    """Minimum by the whole KKT matrix; `rows` a = `sides` on top of the chain."""
    size = K * M
    hessian = np.zeros((size, size))
    constraint = np.zeros(((K - 1) * M, size))
    for i in range(K):
        hessian[i * M : (i + 1) * M, i * M : (i + 1) * M] = c[i]
    for i in range(1, K):
        here = slice((i - 1) * M, i * M)
        constraint[here, here] = np.eye(M)
        constraint[here, i * M : (i + 1) * M] = -r[i]
    right = b[1:].reshape(-1)
    if rows is not None:
        constraint, right = np.vstack([constraint, rows]), np.append(right, sides)
    zero = np.zeros((len(constraint), len(constraint)))
    matrix = np.block([[hessian, constraint.T], [constraint, zero]])
    return np.linalg.solve(matrix, np.concatenate([-d.reshape(-1), right]))[:size].reshape(K, M)


@settings(max_examples=15)
@given(st.integers(0, 2**16), st.sampled_from([1.0, 10.0, 1000.0]))
def test_chain_is_the_dense_solution(seed, growth):
    c, r, d, b = problem(seed, growth)
    with double_precision():
        a = np.asarray(chain(c, r, d, b))
    for side in range(2):
        expected = dense(c, r, d[:, :, side], b[:, :, side])
        np.testing.assert_allclose(a[:, :, side], expected, rtol=1e-6, atol=1e-8)


@settings(max_examples=10)
@given(st.integers(0, 2**16))
def test_with_the_neutral_constraint(seed):
    c, r, d, b = problem(seed, 3.0)
    e, g = d[:, :, 1], 0.7
    with double_precision():
        a = np.asarray(neutral(c, r, d[:, :, 0], b[:, :, 0], e, jnp.asarray(g)))
    np.testing.assert_allclose(np.sum(e * a), -g, rtol=1e-8)
    expected = dense(c, r, d[:, :, 0], b[:, :, 0], e.reshape(1, -1), -g)
    np.testing.assert_allclose(a, expected, rtol=1e-6, atol=1e-8)


def test_single_precision_survives_growth():
    """Only the bounded solution is meant, so growth costs no digits."""
    c, r, d, b = problem(1, 100.0)
    single = chain(*(jnp.asarray(x, jnp.float32) for x in (c, r, d, b)))
    expected = dense(c, r, d[:, :, 0], b[:, :, 0])
    scale = np.abs(expected).max()
    assert np.abs(single[:, :, 0] - expected).max() < 1e-3 * scale


@pytest.mark.usefixtures("x64")
def test_cost_is_linear_in_the_number_of_segments():
    """Nothing as large as a dense matrix of K: the program holds K M^2 numbers at a time."""
    many = 1000
    c, r, d, b = (np.repeat(x[:1], many, axis=0) for x in problem(0, 1.0))
    largest = max(
        var.aval.size for eqn in jax.make_jaxpr(chain)(c, r, d, b).eqns for var in eqn.outvars
    )
    assert largest <= many * M * M
