"""Counts of signs: Sylvester's law, and saying when they are a matter of rounding."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from pfn_optax.curvature import CurvatureError, InertiaWarning, inertia
from tests.curvature.models import symmetric

counts = st.tuples(*[st.integers(0, 6)] * 3).filter(any)


def with_counts(negative, zero, positive, seed=0):
    draw = np.random.default_rng(seed)
    values = [-draw.uniform(0.1, 10, negative), np.zeros(zero), draw.uniform(0.1, 10, positive)]
    return np.concatenate(values)


@hypothesis.given(counts, st.integers(0, 2**16))
def test_counts_of_a_matrix_are_those_it_was_made_with(expected, seed):
    found = inertia(symmetric(with_counts(*expected, seed), seed))
    assert found[:3] == expected
    assert found.is_separated


@hypothesis.given(counts, st.integers(0, 2**16))
def test_sylvesters_law(expected, seed):
    """A change of basis changes the eigenvalues and not their signs."""
    matrix = symmetric(with_counts(*expected, seed), seed)
    draw = np.random.default_rng(seed)
    basis = np.eye(len(matrix)) + 0.2 * draw.uniform(-1, 1, matrix.shape) / len(matrix)
    changed = basis @ matrix @ basis.T
    found = inertia((changed + changed.T) / 2)
    assert found[:3] == expected


@hypothesis.given(counts, st.floats(1e-20, 1e20))
def test_scaling_changes_nothing_and_minus_swaps_the_ends(expected, scale):
    values = with_counts(*expected)
    negative, zero, positive, tolerance, *_ = inertia(values)
    scaled, flipped = inertia(scale * values), inertia(-values)
    assert scaled[:3] == (negative, zero, positive)
    np.testing.assert_allclose(scaled.tolerance, scale * tolerance)
    assert flipped[:3] == (positive, zero, negative)


def test_tolerance_follows_dtype_dimension_and_norm():
    values = np.array([-1.0, 2.0, 4.0])
    assert inertia(values).tolerance == 3 * np.finfo(np.float64).eps * 4
    assert inertia(values.astype(np.float32)).tolerance == 3 * np.finfo(np.float32).eps * 4
    assert inertia([1, 2]).tolerance == 2 * np.finfo(np.float64).eps * 2


def test_a_stated_tolerance_in_a_gap():
    values = [-3e-12, 2e-12, -1e-3, 1.0]
    found = inertia(values, tolerance=1e-11)
    assert found[:3] == (1, 2, 1)
    assert found.tolerance == 1e-11
    np.testing.assert_allclose(found.gap, 1e-3 / 3e-12)


def test_all_zero_is_separated_and_has_no_gap():
    assert inertia(np.zeros(4)) == (0, 4, 0, 0.0, np.inf, True)


@pytest.mark.parametrize("tolerance", [1e-5, 5e-6])
def test_a_cluster_around_the_tolerance_is_reported(tolerance):
    values = np.logspace(-8, 0, 30)
    with pytest.warns(InertiaWarning, match=r"does not separate zero from small.*factor 1\.9"):
        found = inertia(values, tolerance=tolerance)
    assert not found.is_separated


def test_an_eigenvalue_beside_the_default_tolerance_is_reported():
    eps = np.finfo(np.float64).eps
    with pytest.warns(InertiaWarning, match="factor 3"):
        assert inertia([3 * eps, 1.0])[:3] == (0, 0, 2)


@pytest.mark.parametrize(
    ("matrix", "options", "error", "message"),
    [
        ([], {}, ValueError, r"shape \(0,\)"),
        (np.ones((2, 3)), {}, ValueError, r"shape \(2, 3\)"),
        (np.ones((2, 2, 2)), {}, ValueError, r"shape \(2, 2, 2\)"),
        ([1j], {}, ValueError, "real numbers, got complex128"),
        ([[1.0, 2.0], [0.0, 1.0]], {}, ValueError, "differs from its transpose by 2.0e"),
        ([1.0], {"tolerance": -1.0}, ValueError, "at least 0, got -1.0"),
        ([1.0], {"tolerance": np.nan}, ValueError, "finite"),
        ([1.0, np.nan], {}, CurvatureError, "NaN or infinite"),
    ],
)
def test_bad_input(matrix, options, error, message):
    with pytest.raises(error, match=message):
        inertia(np.asarray(matrix), **options)
