"""What Lanczos certifies of the inertia, against dense counts."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.curvature import CurvatureError, hessian_operator, inertia, inertia_bounds
from tests.curvature.models import data, hessian, loss, parameters, quadratic, symmetric

SIZE = 40


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.integers(0, SIZE), st.integers(0, SIZE), st.sampled_from([5, 15, 40]))
def test_bounds_hold_for_any_counts(negative, zero, num_vectors):
    zero = min(zero, SIZE - negative)
    positive = SIZE - negative - zero
    draw = np.random.default_rng(negative * 100 + zero)
    size = 10 ** draw.uniform(-2, 0, SIZE)
    signs = np.repeat([-1, 0, 1], [negative, zero, positive])
    matrix = jnp.asarray(symmetric(signs * size), jnp.float32)
    found = inertia_bounds(
        hessian_operator(quadratic, jnp.zeros(SIZE), matrix), num_vectors=num_vectors
    )
    assert found.negative <= negative
    assert found.positive <= positive
    assert found.zero >= zero
    assert sum(found[:3]) == SIZE
    assert found.is_exact == (num_vectors == SIZE)
    if found.is_exact:
        assert found[:3] == (negative, zero, positive)
    # Half of the space cannot see nothing.
    if num_vectors == 15 and min(negative, positive) > 10:
        assert min(found.negative, found.positive) >= 3


@pytest.mark.usefixtures("x64")
def test_of_a_network_whole_and_over_batches():
    params, args = parameters(), data()
    dense = inertia(hessian(params, *args))
    batches = [tuple(arg[a:b] for arg in args) for a, b in ((0, 4), (4, 12))]
    whole = inertia_bounds(hessian_operator(loss, params, *args))
    assert whole.is_exact
    assert whole[:3] == dense[:3]
    parts = inertia_bounds(hessian_operator(loss, params, batches=batches), num_vectors=10)
    assert 0 < parts.negative <= dense.negative
    assert 0 < parts.positive <= dense.positive


def test_rounding_of_the_products_is_measured():
    """A product that is not quite symmetric certifies less."""
    matrix = symmetric(np.concatenate([[-1e-3], np.linspace(0.5, 1, SIZE - 1)]))
    noise = 1e-2 * np.triu(np.random.default_rng(0).normal(size=(SIZE, SIZE)), 1)

    def bounds(skew):
        from pfn_optax.curvature import Operator

        skewed = jnp.asarray(matrix + skew * (noise - noise.T), jnp.float32)
        return inertia_bounds(Operator(lambda _, v, m: m @ v, jnp.zeros(SIZE), (skewed,)))

    assert bounds(0)[:3] == (1, 0, SIZE - 1)
    assert bounds(1).negative == 0
    assert bounds(1).tolerance > 1e-2 > 1e-4 > bounds(0).tolerance


def test_bad_input():
    operator = hessian_operator(lambda p: jnp.sum(jnp.sqrt(p)), jnp.zeros(4))
    with pytest.raises(ValueError, match="num_vectors must be at least 1, got 0"):
        inertia_bounds(operator, num_vectors=0)
    with pytest.raises(CurvatureError, match="NaN or infinite"):
        inertia_bounds(operator)
