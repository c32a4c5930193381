"""Assignments against brute force, on the host and inside jit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.align.assignment import best_assignment


def brute_force(profit):
    n = len(profit)
    return max(profit[range(n), order].sum() for order in itertools.permutations(range(n)))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_host_and_compiled_and_mapped_reach_the_largest_profit(n):
    profits = np.random.default_rng(n).standard_normal((3, n, n)).astype(np.float32)
    mapped = jax.jit(jax.vmap(best_assignment))(profits)
    for profit, compiled in zip(profits, np.asarray(mapped), strict=True):
        host = best_assignment(profit)
        for columns in (host, compiled):
            assert sorted(columns) == list(range(n))
            assert profit[range(n), columns].sum() == pytest.approx(brute_force(profit), rel=1e-5)
        assert host.dtype == compiled.dtype == np.int32


def test_equal_profits_leave_the_order():
    assert best_assignment(np.zeros((4, 4))).tolist() == [0, 1, 2, 3]


def test_bad_profits():
    with pytest.raises(ValueError, match=r"needs a square matrix of profits, got the shape \(2, 3"):
        best_assignment(np.ones((2, 3)))
    with pytest.raises(ValueError, match="square matrix"):
        jax.jit(best_assignment)(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="have NaN entries"):
        best_assignment(np.full((2, 2), np.nan))
