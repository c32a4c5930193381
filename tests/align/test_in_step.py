"""Matching inside jit, held against the descent on the host."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.align import distance
from pfn_optax.align.blocks import Matching
from pfn_optax.align.coordinate import descend
from pfn_optax.align.in_step import match
from pfn_optax.align.objective import on_host, prepared
from tests.align.networks import (
    mlp,
    mlp_spec,
    optimum,
    random_permutations,
    recurrent,
    recurrent_spec,
    zoo,
)

pytestmark = pytest.mark.usefixtures("unoptimized")

SIZES = (5, 8, 7, 2)
SPEC = mlp_spec(SIZES)
SEEDS = st.integers(0, 10**6)
WEIGHTS = {"l0/b": 0.0, "l1/w": 3.0}


class InOrder(np.random.Generator):
    """Visits the groups in the order of the spec."""

    def permutation(self, x, axis=0):
        return np.arange(x)


IN_ORDER = InOrder(np.random.PCG64())


@functools.partial(jax.jit, static_argnames=("spec", "objective"))
def found(a, b, spec=SPEC, objective="squared", max_sweeps=100):
    return match(a, b, spec, objective=objective, max_sweeps=max_sweeps)


@jax.jit
def found_by_weights(a, b):
    return match(a, b, SPEC, objective=WEIGHTS)


def on_the_host(a, b, spec, objective):
    left, right = (prepared(on_host("a", tree), objective) for tree in (a, b))
    return Matching(spec, left, right, np.float64)


@given(seed=SEEDS, objective=st.sampled_from(["squared", "standardised"]))
def test_the_same_optimum_as_on_the_host(seed, objective):
    a, b = mlp(SIZES, seed, np.float32), mlp(SIZES, seed + 1, np.float32)
    own = found(a, b, objective=objective)
    matching = on_the_host(a, b, SPEC, objective)
    host = descend(matching, matching.identity, IN_ORDER, max_sweeps=100)
    for name, permutation in host.permutations.items():
        np.testing.assert_array_equal(own.permutations[name], permutation)
    np.testing.assert_allclose(own.before, host.trace[0], rtol=1e-5)
    np.testing.assert_allclose(own.after, host.trace[-1], rtol=1e-5)
    np.testing.assert_allclose(own.before, distance(a, b, objective=objective), rtol=1e-5)
    assert len(host.trace) - 1 == own.sweeps


@settings(max_examples=10)
@given(seed=SEEDS)
def test_the_same_optimum_with_weights_of_leaves(seed):
    a, b = mlp(SIZES, seed, np.float32), mlp(SIZES, seed + 1, np.float32)
    own = found_by_weights(a, b)
    matching = on_the_host(a, b, SPEC, WEIGHTS)
    host = descend(matching, matching.identity, IN_ORDER, max_sweeps=100)
    np.testing.assert_allclose(own.after, host.trace[-1], rtol=1e-5)
    moved = SPEC.permute(b, jax.device_get(own.permutations))
    np.testing.assert_allclose(own.after, distance(a, moved, objective=WEIGHTS), rtol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_a_local_optimum_of_any_model(name):
    """Blocks of three groups, pixels, heads within heads: nothing is left for the host to gain."""
    spec, a, b, *_ = zoo(name)
    own = found(a, b, spec)
    matching = on_the_host(a, b, spec, "squared")
    permutations = {name: np.asarray(own) for name, own in own.permutations.items()}
    # The products are of single precision here: what it could not tell apart is no gain.
    gain = matching.value(permutations)
    gain -= descend(matching, permutations, IN_ORDER, max_sweeps=1).trace[-1]
    assert 0 <= gain <= 1e-5 * own.before
    np.testing.assert_allclose(own.after, matching.value(permutations), rtol=1e-5)
    assert own.after < own.before


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_a_planted_permutation_is_found(name):
    """From where the planted one is near, as it is in training."""
    spec, a, *_ = zoo(name)
    swaps = {group.name: np.arange(group.size) for group in spec.groups}
    for order in swaps.values():
        order[:2] = order[:2][::-1]
    own = found(a, spec.permute(a, swaps), spec)
    assert own.after == 0 < own.before
    for group, order in swaps.items():
        np.testing.assert_array_equal(own.permutations[group], order)


@given(seed=SEEDS)
def test_a_square_matrix_that_both_axes_of_which_are_one_group(seed):
    """Where the profit of a group is not the gain of moving it."""
    spec = recurrent_spec(4)
    a, b = (jax.tree.map(np.float32, recurrent(4, s)) for s in (seed, seed + 1))
    own = found(a, b, spec)
    moved = spec.permute(b, jax.device_get(own.permutations))
    np.testing.assert_allclose(own.after, distance(a, moved), rtol=1e-5)
    assert optimum(a, b, spec) * (1 - 1e-5) <= own.after <= own.before * (1 + 1e-6)
    matching = on_the_host(a, b, spec, "squared")
    host = descend(matching, matching.identity, IN_ORDER, max_sweeps=100)
    np.testing.assert_allclose(own.after, host.trace[-1], rtol=1e-4)


def test_more_sweeps_are_never_worse():
    a, b = mlp(SIZES, 0, np.float32), mlp(SIZES, 12, np.float32)
    after = [float(found(a, b, max_sweeps=sweeps).after) for sweeps in (1, 2, 100)]
    assert after == sorted(after, reverse=True)
    assert found(a, b, max_sweeps=1).sweeps == 1
    assert after[0] > after[1]


def test_under_vmap_each_finds_its_own():
    a, b = mlp(SIZES, 0, np.float32), [mlp(SIZES, seed, np.float32) for seed in (1, 2, 3)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *b)
    batched = jax.jit(jax.vmap(lambda b: match(a, b, SPEC)))(batch)
    for number, one in enumerate(b):
        single = found(a, one)
        for name, permutation in single.permutations.items():
            np.testing.assert_array_equal(batched.permutations[name][number], permutation)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_moves_nothing(bad):
    a, b = mlp(SIZES, 0, np.float32), mlp(SIZES, 1, np.float32)
    b["l0"]["w"][0, 0] = bad
    own = found(a, b)
    for order in own.permutations.values():
        np.testing.assert_array_equal(order, np.arange(len(order)))


def test_double_precision(x64):
    a, b = mlp(SIZES, 0), mlp(SIZES, 1)
    own = found(a, b)
    assert own.after.dtype == np.float64
    moved = SPEC.permute(b, jax.device_get(own.permutations))
    np.testing.assert_allclose(own.after, distance(a, moved), rtol=1e-13)


def test_half_precision_is_matched_in_single():
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), mlp(SIZES, 0))
    assert found(half, SPEC.permute(half, random_permutations(SPEC, 1))).after == 0


def test_integers_count_nothing_and_complex_leaves_are_refused():
    a, b = ({**mlp(SIZES, 0, np.float32), "steps": np.int32(n)} for n in (0, 7))
    assert found(a, b).before == 0
    plain = mlp(SIZES, 0)
    turned = {**plain, "l1": {**plain["l1"], "w": plain["l1"]["w"] + 1j}}
    with pytest.raises(ValueError, match="l1/w is complex"):
        match(plain, turned, SPEC)
    with pytest.raises(ValueError, match="objective must be one of"):
        match(a, b, SPEC, objective="cubed")
    with pytest.raises(ValueError, match="'l2/b' has shape"):
        match(mlp(SIZES, 0), mlp((5, 8, 7, 3), 0), SPEC)
