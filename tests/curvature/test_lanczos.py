"""The ends of the spectrum against eigh, and what the residual norms promise."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pfn_optax.curvature import (
    CurvatureError,
    CurvatureStatus,
    Operator,
    extreme_eigenpairs,
    gauss_newton_operator,
    hessian_eigenvalues,
    hessian_operator,
)
from tests.curvature.models import (
    data,
    loss,
    network,
    parameters,
    quadratic,
    squared_error,
    symmetric,
)

SIZE = 60
TREE = {"a": jnp.zeros((4, 10)), "b": {"c": jnp.zeros(20)}}


def operator_of(matrix) -> Operator:
    return hessian_operator(quadratic, TREE, jnp.asarray(matrix, jnp.float32))


def rows(vectors) -> np.ndarray:
    return np.asarray(jax.vmap(lambda vector: ravel_pytree(vector)[0])(vectors), np.float64)


def expected_ends(values, k, which):
    ordered = np.sort(values)[::-1]
    ends = {"top": ordered[:k], "bottom": ordered[len(ordered) - k :]}
    return ends[which] if which in ends else np.concatenate([ends["top"], ends["bottom"]])


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(0, 2**16), st.sampled_from(["top", "bottom", "both"]))
def test_values_vectors_and_residuals_of_any_symmetric_matrix(seed, which):
    values = np.random.default_rng(seed).normal(size=SIZE)
    matrix = np.float32(symmetric(values, seed)).astype(np.float64)
    found = extreme_eigenpairs(operator_of(matrix), 3, which=which)
    assert found.status == CurvatureStatus.CONVERGED
    exact = expected_ends(np.linalg.eigvalsh(matrix), 3, which)
    # Weyl: within the residual norm; and near where the gap is not small.
    np.testing.assert_allclose(found.values, exact, rtol=1e-4)
    vectors, rounding = rows(found.vectors), 60 * np.finfo(np.float32).eps
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=rounding)
    true = np.linalg.norm(vectors @ matrix - np.asarray(found.values)[:, None] * vectors, axis=1)
    assert (true <= 1.1 * np.asarray(found.residuals) + rounding).all()
    # What is reported is what was asked for.
    assert (found.residuals <= 1e-4 * np.abs(found.values) + rounding).all()


@pytest.mark.usefixtures("x64")
def test_of_a_network_within_a_ten_thousandth_of_dense():
    """Also of the Gauss-Newton matrix, and over batches of a data set, on the host."""
    params, args = parameters(width=8), data()
    dense = np.asarray(hessian_eigenvalues(loss, params, *args))
    batches = [tuple(arg[start : start + 6] for arg in args) for start in (0, 6)]
    for options in ({}, {"batches": batches}):
        operator = hessian_operator(loss, params, *(() if options else args), **options)
        found = extreme_eigenpairs(operator, 4, which="both", num_vectors=16)
        np.testing.assert_allclose(found.values, expected_ends(dense, 4, "both"), rtol=1e-4)
        assert found.status == CurvatureStatus.CONVERGED
    found = extreme_eigenpairs(gauss_newton_operator(network, squared_error, params, *args), 2)
    assert (found.values > 0).all()


def test_both_ends_come_largest_first():
    values = np.concatenate([np.linspace(-1, 1, SIZE - 4), [9, 8, -7, -5]])
    found = extreme_eigenpairs(operator_of(symmetric(values)), 2, which="both")
    np.testing.assert_allclose(found.values, [9, 8, -5, -7], rtol=1e-5)


def test_restarts_stay_in_memory_and_within_the_bound():
    matrix = symmetric(np.linspace(0, 1, SIZE))  # no eigenvalue stands apart
    options = {"tolerance": 1e-6, "num_vectors": 8}
    found = extreme_eigenpairs(operator_of(matrix), 2, max_products=1000, **options)
    assert found.status == CurvatureStatus.CONVERGED
    assert 8 < found.num_products <= 1000
    np.testing.assert_allclose(found.values, [1, 1 - 1 / (SIZE - 1)], rtol=1e-5)
    short = extreme_eigenpairs(operator_of(matrix), 2, max_products=20, **options)
    assert short.status == CurvatureStatus.UNCONVERGED
    assert short.num_products <= 20
    # Rayleigh-Ritz: from below, and the residual norm says how far.
    assert (short.values <= found.values + 1e-6).all()
    assert abs(short.values[0] - 1) <= short.residuals[0]


def test_an_eigenvector_to_start_from_saves_products():
    matrix = symmetric(np.linspace(0, 1, SIZE))
    operator = operator_of(matrix)
    cold = extreme_eigenpairs(operator, num_vectors=6)
    first = jax.tree.map(lambda leaf: leaf[0], cold.vectors)
    warm = extreme_eigenpairs(operator, num_vectors=6, vector=first)
    assert warm.num_products == 6 < cold.num_products
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-5)


@pytest.mark.parametrize("values", [[2.0, 2, 1], [0.0, 0, 0], [5.0, -5, 5]])
def test_a_space_that_closes_early_is_left_for_another(values):
    operator = hessian_operator(quadratic, jnp.zeros(3), jnp.diag(jnp.array(values)))
    found = extreme_eigenpairs(operator, 3)
    np.testing.assert_allclose(found.values, sorted(values, reverse=True), atol=1e-6)
    assert found.status == CurvatureStatus.CONVERGED


def test_eager_is_jit_is_vmap():
    matrices = [symmetric(np.linspace(-1, top, SIZE), seed=top) for top in (2, 3)]
    stacked = jnp.asarray(np.stack(matrices), jnp.float32)

    def run(matrix):
        return extreme_eigenpairs(hessian_operator(quadratic, TREE, matrix), 2, num_vectors=10)

    mapped = jax.jit(jax.vmap(run))(stacked)
    for index, matrix in enumerate(stacked):
        single = run(matrix)
        one = jax.tree.map(lambda leaf, index=index: leaf[index], mapped)
        chex.assert_trees_all_close(one.values, single.values, rtol=1e-5)
        assert one.status == single.status == CurvatureStatus.CONVERGED


def test_a_loss_that_is_not_finite():
    """An error outside jit, a status inside."""

    def run(params):
        return extreme_eigenpairs(hessian_operator(lambda p: jnp.sum(jnp.sqrt(p)), params), 1)

    with pytest.raises(CurvatureError, match="NaN or infinite"):
        run(jnp.zeros(4))
    inside = jax.jit(run)(jnp.zeros(4))
    assert inside.status == CurvatureStatus.NONFINITE
    assert np.isnan(inside.values).all()
    assert jax.jit(run)(jnp.ones(4)).status == CurvatureStatus.CONVERGED


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (SIZE + 1, {}, "k=61 at top asks for 61 eigenvalues; this operator has 60"),
        (31, {"which": "both"}, "k=31 at both asks for 62"),
        (0, {}, "k=0"),
        (1, {"which": "largest"}, "which must be one of top, bottom, both, got 'largest'"),
        (5, {"num_vectors": 6}, "num_vectors=6 is too few for 5 eigenvalues: take 7"),
        (1, {"tolerance": 0.0}, "tolerance must be between 0 and 1, got 0.0"),
    ],
)
def test_options_out_of_range(k, options, message):
    with pytest.raises(ValueError, match=message):
        extreme_eigenpairs(operator_of(np.eye(SIZE)), k, **options)
