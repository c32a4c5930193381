"""All eigenvalues, where they are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.curvature import (
    CurvatureError,
    dense_matrix,
    eigenvalues,
    hessian_eigenvalues,
    hessian_operator,
)
from tests.curvature.models import data, hessian, loss, parameters, quadratic, symmetric


@pytest.mark.usefixtures("x64")
def test_of_a_network():
    params, args = parameters(), data()
    expected = np.linalg.eigvalsh(hessian(params, *args))
    np.testing.assert_allclose(hessian_eigenvalues(loss, params, *args), expected, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 130])  # below and above the columns made at once
def test_of_a_quadratic(size):
    values = np.linspace(-2, 3, size, dtype=np.float32)
    operator = hessian_operator(quadratic, jnp.zeros(size), symmetric(values).astype(np.float32))
    np.testing.assert_allclose(eigenvalues(operator), values, atol=1e-5)


def test_eager_is_jit_is_vmap():
    args = data()
    batch = [parameters(seed) for seed in (0, 1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
    mapped = jax.vmap(lambda params: hessian_eigenvalues(loss, params, *args))(stacked)
    compiled = jax.jit(lambda params: hessian_eigenvalues(loss, params, *args))
    for params, values in zip(batch, mapped, strict=True):
        eager = hessian_eigenvalues(loss, params, *args)
        np.testing.assert_allclose(values, eager, atol=1e-5)
        np.testing.assert_allclose(compiled(params), eager, atol=1e-5)


def test_too_large_says_what_it_would_take_and_what_to_use():
    operator = hessian_operator(lambda p: jnp.sum(p**2), jnp.zeros((100, 100)))
    with pytest.raises(ValueError, match=r"10,000 parameters takes 400,000,000 bytes.*extreme_eig"):
        dense_matrix(operator)
    with pytest.raises(ValueError, match="max_dimension=2"):
        dense_matrix(hessian_operator(lambda p: jnp.sum(p**2), jnp.zeros(3)), max_dimension=2)


def test_a_loss_that_is_not_finite_raises_outside_jit_and_is_nan_inside():
    def broken(params):
        return jnp.sum(jnp.sqrt(params))

    with pytest.raises(CurvatureError, match="NaN or infinite"):
        hessian_eigenvalues(broken, jnp.zeros(3))
    inside = jax.jit(lambda params: hessian_eigenvalues(broken, params))(jnp.zeros(3))
    assert not np.isfinite(inside).any()
