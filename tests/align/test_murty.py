"""The k best assignments against all of them, sorted."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfn_optax.align.murty import best_assignments


def all_totals(profit):
    n = len(profit)
    return sorted(
        (profit[range(n), order].sum() for order in itertools.permutations(range(n))), reverse=True
    )


@given(n=st.integers(1, 5), seed=st.integers(0, 10**6), levels=st.sampled_from([2, 5, None]))
def test_all_assignments_come_once_and_in_order(n, seed, levels):
    """Few levels of profit make many ties."""
    draw = np.random.default_rng(seed)
    profit = draw.standard_normal((n, n)) if levels is None else draw.integers(levels, size=(n, n))
    found = list(best_assignments(profit.astype(float)))
    totals = [total for total, _ in found]
    np.testing.assert_allclose(totals, all_totals(profit), atol=1e-12)
    assert len({tuple(columns) for _, columns in found}) == len(found)
    for total, columns in found:
        assert total == pytest.approx(profit[range(n), columns].sum())


def test_only_what_is_asked_for_is_found():
    """There are 40! assignments."""
    profit = np.random.default_rng(0).standard_normal((40, 40))
    found = list(itertools.islice(best_assignments(profit), 30))
    totals = [total for total, _ in found]
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(totals))
    assert len({tuple(columns) for _, columns in found}) == 30


def test_the_second_best_of_a_large_problem_is_the_best_with_one_pair_forbidden():
    from scipy.optimize import linear_sum_assignment

    profit = np.random.default_rng(1).standard_normal((20, 20))
    (_, best), (second, _) = itertools.islice(best_assignments(profit), 2)
    without = []
    for row, column in enumerate(best):
        forbidden = profit.copy()
        forbidden[row, column] = -np.inf
        rows, columns = linear_sum_assignment(forbidden, maximize=True)
        without.append(forbidden[rows, columns].sum())
    assert second == pytest.approx(max(without))
