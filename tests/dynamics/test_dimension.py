"""Dimension and entropy of spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.dynamics import entropy_bound, kaplan_yorke_dimension


@pytest.mark.parametrize(
    ("exponents", "dimension"),
    [
        ([0.906, 0.0, -14.572], 2 + 0.906 / 14.572),
        ([0.42, -1.62], 1 + 0.42 / 1.62),
        ([-0.1, -2.0], 0),
        ([0.0, -1.0], 1),
        ([0.5, -0.5], 2),
        ([0.5, -0.25], 2),
        ([0.5, -np.inf], 1),
        ([-np.inf, 0.5], 1),
        ([0.1], 1),
        ([-0.1], 0),
    ],
)
def test_dimension(exponents, dimension):
    found = kaplan_yorke_dimension(jnp.array(exponents))
    np.testing.assert_allclose(found, dimension, rtol=1e-6)


@settings(max_examples=20)
@given(st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4), st.permutations(range(4)))
def test_order_does_not_matter_and_volumes_of_that_dimension_stay(exponents, order):
    values = jnp.array(exponents)
    dimension = float(kaplan_yorke_dimension(values))
    assert dimension == float(kaplan_yorke_dimension(values[jnp.array(order)]))
    sums = np.concatenate([[0], np.cumsum(np.sort(exponents)[::-1])])
    growth = np.interp(dimension, np.arange(5), sums)
    assert growth >= -1e-4
    assert dimension in (0, 4) or abs(growth) < 1e-4 or sums[int(np.ceil(dimension))] >= -1e-4


def test_entropy_is_the_sum_of_the_positive():
    assert entropy_bound(jnp.array([-1.0, 0.5, 0.25])) == 0.75
    assert np.isnan(kaplan_yorke_dimension(jnp.array([jnp.nan, 1.0])))
    many = jnp.array([[0.5, -1.0], [-1.0, 0.25]])
    np.testing.assert_array_equal(jax.vmap(entropy_bound)(many), [0.5, 0.25])
    for function in (entropy_bound, kaplan_yorke_dimension):
        with pytest.raises(ValueError, match=r"got shape \(2, 2\): map"):
            function(many)
