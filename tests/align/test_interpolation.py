"""Lines and means of models against numpy in float64, and at the points where they are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfn_optax.align import interpolate, merge
from pfn_optax.precision import double_precision
from tests.align.relu_networks import mlp
from tests.tolerance import rtol


def model(seed):
    draw = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(draw.normal(size=(3, 4)), jnp.float32),
        "half": jnp.asarray(draw.normal(size=5), jnp.bfloat16),
        "step": jnp.asarray(seed, jnp.int32),
        "key": jax.random.key(seed),
    }


A, B, C = (model(seed) for seed in range(3))


def bits(tree):
    return [
        np.asarray(jax.random.key_data(leaf) if leaf.dtype == A["key"].dtype else leaf).tobytes()
        for leaf in jax.tree.leaves(tree)
    ]


def test_the_ends_are_the_models_bit_for_bit_but_for_their_counters():
    assert bits(interpolate(A, B, 0.0)) == bits(A)
    assert bits(interpolate(A, B, 1.0)) == bits(B | {"step": A["step"], "key": A["key"]})


@given(st.floats(-0.5, 1.5, width=32))
@settings(max_examples=20, deadline=None)
def test_a_point_is_the_mean_with_its_weights(t):
    point = interpolate(A, B, t)
    for name, tolerance in (("w", rtol(np.float32)), ("half", 2**-7)):
        a, b = (np.asarray(tree[name], np.float64) for tree in (A, B))
        expected = (1 - t) * a + t * b
        np.testing.assert_allclose(
            np.asarray(point[name], np.float64), expected, rtol=0, atol=4 * tolerance
        )
        assert point[name].dtype == A[name].dtype
    if 0 <= t <= 1:
        assert bits(merge([A, B], weights=[1 - t, t])) == bits(point)


def test_many_points_are_each_of_them_also_under_jit():
    points = np.asarray([0.0, 0.3, 1.0])
    for many in (interpolate(A, B, points), jax.jit(interpolate)(A, B, points)):
        for index, t in enumerate(points):
            for name in ("w", "half", "step"):
                np.testing.assert_allclose(
                    np.asarray(many[name][index], np.float64),
                    np.asarray(interpolate(A, B, t)[name], np.float64),
                    rtol=1e-6 if name == "w" else 2**-7,
                )


def test_float64_is_not_rounded_to_float32():
    with double_precision():
        a, b = jnp.float64(1), jnp.float64(1 + 1e-12)
        assert interpolate({"w": a}, {"w": b}, 0.5)["w"] == 1 + 5e-13
        assert merge([{"w": a}, {"w": b}])["w"] == pytest.approx(1 + 5e-13, rel=1e-15)


def test_a_merge_is_the_weighted_mean():
    weights = np.asarray([1.0, 2.0, 5.0])
    merged = merge([A, B, C], weights=weights)
    stacked = np.stack([np.asarray(tree["w"], np.float64) for tree in (A, B, C)])
    expected = np.tensordot(weights / 8, stacked, 1)
    np.testing.assert_allclose(merged["w"], expected, rtol=1e-5, atol=1e-6)
    assert merged["step"] == 0
    # Rounded once, in the end: a sum in bfloat16 is off by several of its units.
    halves = np.stack([np.asarray(tree["half"], np.float64) for tree in (A, B, C)])
    np.testing.assert_array_equal(
        merged["half"], np.tensordot(weights / 8, halves, 1).astype(jnp.bfloat16)
    )
    np.testing.assert_allclose(merge([A, B, C])["w"], stacked.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(merge([A, B], weights=[0, 1])["w"], B["w"])
    jitted = jax.jit(lambda weights: merge([A, B, C], weights=weights))(jnp.asarray(weights))
    np.testing.assert_allclose(jitted["w"], expected, rtol=1e-5, atol=1e-6)


def test_a_merge_of_equal_models_is_the_model():
    a = mlp(0)
    for left, right in zip(*map(jax.tree.leaves, (merge([a, a, a]), a)), strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol(np.float32, factor=4))
    assert bits(merge([A])) == bits(A)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: interpolate(A, A | {"w": jnp.zeros(3)}, 0.5),
            r"'w' has shape \(3, 4\) in model 0",
        ),
        (lambda: interpolate(A, {"w": A["w"]}, 0.5), "'half' has .* no such leaf in model 1"),
        (lambda: merge([A, A, A | {"more": jnp.ones(1)}]), "'more' has no such leaf .* model 2"),
        (lambda: interpolate(A, B, np.zeros((2, 2))), r"got shape \(2, 2\)"),
        (lambda: merge([]), "at least one model"),
        (lambda: merge([A, B], weights=[1.0]), r"shape \(2,\); got shape \(1,\)"),
        (lambda: merge([A, B], weights=[1.0, -1.0]), "at least 0"),
        (lambda: merge([A, B], weights=[0.0, 0.0]), "not all of them 0"),
        (lambda: merge([A, B], weights=[1.0, np.nan]), "at least 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
