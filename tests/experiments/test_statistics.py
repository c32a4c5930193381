"""Intervals against SciPy's t tests."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.statistics import estimate, paired_difference


def test_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(0.9, 0.02, size=5)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(estimate(values), (values.mean(), *interval), rtol=1e-12)


def test_paired_difference_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(1)
    control = rng.normal(0.9, 0.05, size=6)
    treated = control + rng.normal(0.01, 0.001, size=6)
    interval = stats.ttest_rel(treated, control).confidence_interval(0.95)
    expected = ((treated - control).mean(), *interval)
    np.testing.assert_allclose(paired_difference(list(treated), list(control)), expected, rtol=1e-9)


def test_one_seed_has_no_interval():
    mean, low, high = estimate([0.5])
    assert mean == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_bad_input():
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])
    with pytest.raises(ValueError, match="same seeds in both arms; got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
