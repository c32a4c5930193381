"""Several networks in one representation."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.align import AlignmentStatus, align, align_many, distance
from tests.align.networks import mlp, mlp_spec, random_permutations

SIZES = (5, 4, 3, 2)
SPEC = mlp_spec(SIZES)


def sum_over_pairs(trees, objective="squared"):
    return sum(distance(x, y, objective=objective) for x, y in itertools.combinations(trees, 2))


@pytest.mark.parametrize("method", ["greedy", "beam", "coordinate"])
def test_copies_meet_at_the_first(method):
    a = mlp((5, 8, 7, 2), 0)
    spec = mlp_spec((5, 8, 7, 2))
    copies = [a, *(spec.permute(a, random_permutations(spec, seed)) for seed in range(3))]
    for alignment in align_many(copies, spec, method=method, restarts=5):
        for x, y in zip(jax.tree.leaves(alignment.params), jax.tree.leaves(a), strict=True):
            np.testing.assert_array_equal(x, y)
        assert alignment.status is AlignmentStatus.CONVERGED


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_the_sum_over_pairs_never_rises(seed):
    models = [mlp(SIZES, seed + number) for number in range(3)]
    for method, objective in itertools.product(
        ("greedy", "coordinate"), ("squared", "standardised")
    ):
        alignments = align_many(models, SPEC, method=method, objective=objective)
        moved = [alignment.params for alignment in alignments]
        trace = alignments[0].trace
        assert trace[0] == pytest.approx(sum_over_pairs(models, objective))
        assert trace[-1] == pytest.approx(sum_over_pairs(moved, objective))
        assert all(x >= y - 1e-9 for x, y in itertools.pairwise(trace))
        assert all(order.tolist() == sorted(order) for order in alignments[0].permutations.values())


def test_no_network_can_come_nearer_to_the_mean_of_the_others():
    models = [mlp(SIZES, number) for number in range(3)]
    alignments = align_many(models, SPEC)
    for number, alignment in enumerate(alignments):
        others = [other.params for k, other in enumerate(alignments) if k != number]
        mean = jax.tree.map(lambda x, y: (x + y) / 2, *others)
        assert alignment.after == pytest.approx(distance(mean, alignment.params))
        assert align(mean, alignment.params, SPEC).after == pytest.approx(alignment.after)


def test_two_networks_are_one_pair():
    a, b = mlp(SIZES, 0), mlp(SIZES, 1)
    first, second = align_many([a, b], SPEC, method="beam", beam_width=144)
    pair = align(a, b, SPEC, method="beam", beam_width=144)
    assert first.after == pytest.approx(second.after)
    assert second.after == pytest.approx(pair.after)
    assert second.before == pytest.approx(pair.before)


def test_scales_of_all_are_those_of_the_first():
    a = mlp(SIZES, 0)
    others = [
        SPEC.rescale(
            SPEC.permute(a, random_permutations(SPEC, seed)),
            {g.name: np.random.default_rng(seed).uniform(0.3, 3, g.size) for g in SPEC.groups},
        )
        for seed in range(2)
    ]
    for alignment in align_many([a, *others], SPEC, rescale=True):
        for x, y in zip(jax.tree.leaves(alignment.params), jax.tree.leaves(a), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-8)


def test_one_network_is_too_few():
    with pytest.raises(ValueError, match="two networks or more, got 1"):
        align_many([mlp(SIZES, 0)], SPEC)


def test_a_network_that_differs_is_named():
    models = [mlp(SIZES, 0), mlp(SIZES, 1), mlp((5, 4, 6, 2), 2)]
    with pytest.raises(ValueError, match=r"'l1/b' has shape \(3,\) in models\[0\] and has shape "):
        align_many(models, SPEC)
