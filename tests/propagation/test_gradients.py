"""Gradients over depth, dead and saturated units, and the first number that broke."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.propagation import (
    dead_units,
    first_nonfinite,
    flat_share,
    gradient_profile,
    layer_names,
    leaf_names,
    log_slope,
    saturated_share,
    update_ratios,
)

pytestmark = pytest.mark.usefixtures("unoptimized")


def tree(scale=1.0, depth=12):
    """Layers whose norms are scale, 2 scale, ...: 3^2 + 4^2 = 5^2."""
    return {
        f"Dense_{index}": {
            "kernel": np.full((3, 3), scale * (index + 1) / 5, np.float32),
            "bias": np.full(4, scale * (index + 1) * 0.4, np.float32),
        }
        for index in range(depth)
    }


def test_profile_and_names_are_in_natural_order():
    assert layer_names(tree()) == tuple(f"Dense_{index}" for index in range(12))
    assert leaf_names(tree())[2:4] == ("Dense_1/bias", "Dense_1/kernel")
    found = jax.jit(gradient_profile)(tree())
    np.testing.assert_allclose(found, np.hypot(0.6, 0.8) * np.arange(1, 13), rtol=1e-6)
    picked = gradient_profile(tree(), layers=["Dense_10", "Dense_0"])
    np.testing.assert_allclose(picked, [11.0, 1.0], rtol=1e-6)
    single = gradient_profile(tree(depth=2))
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, 2 * leaf]), tree(depth=2))
    mapped = jax.jit(jax.vmap(gradient_profile))(stacked)
    np.testing.assert_allclose(mapped, [single, 2 * single], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_vanish_nor_overflow(scale):
    np.testing.assert_allclose(
        gradient_profile(tree(scale, 3)), scale * np.arange(1.0, 4.0), rtol=1e-5
    )


@pytest.mark.usefixtures("strict")
def test_profiles_of_odd_leaves():
    odd = {
        "a": {"w": jnp.zeros(3), "step": 3},
        "b": {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(1)},
        "c": 7,
    }
    found = gradient_profile(odd)  # what is no gradient is left out
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, [0.0, 2.0])
    broken = gradient_profile({"a": {"w": jnp.asarray([jnp.nan, 1])}, "b": {"w": jnp.zeros(0)}})
    assert np.isnan(broken[0])
    assert broken[1] == 0


@hypothesis.given(st.integers(0, 2**16), st.floats(-3, 3))
@hypothesis.settings(max_examples=10)
def test_slope_is_least_squares_on_what_is_known(seed, slope):
    draw = np.random.default_rng(seed)
    logs = slope * np.arange(8) + draw.normal(size=8)
    norms = np.exp(logs)
    known = np.ones(8, bool)
    known[draw.integers(8)] = known[0] = False
    norms[~known] = draw.choice([0.0, np.inf, np.nan])
    expected = np.polyfit(np.flatnonzero(known), logs[known], 1)[0]
    found = jax.jit(log_slope)(jnp.asarray(norms, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_slope_of_too_few():
    assert np.isnan(log_slope(jnp.asarray([0.0, 1.0, jnp.nan])))
    assert np.isnan(log_slope(jnp.zeros(4)))


def test_update_ratios():
    params = {"w": jnp.asarray([3.0, 4.0]), "zero": jnp.zeros(2), "rest": jnp.zeros(2), "n": 1}
    updates = {"w": jnp.asarray([0.3, 0.4]), "zero": jnp.ones(2), "rest": jnp.zeros(2), "n": 0}
    for ratio in (update_ratios, jax.jit(update_ratios)):
        found = ratio(updates, params)
        expected = [np.nan, 0.0, 0.1, np.inf]
        np.testing.assert_allclose([found[name] for name in ("n", "rest", "w", "zero")], expected)


def test_the_first_that_is_not_finite():
    find = jax.jit(first_nonfinite)
    good = tree(depth=11) | {"step": 3}
    found = find(good)
    assert bool(found.is_finite)
    assert found.index == -1
    bad = good | {"Dense_10": {"kernel": jnp.asarray([jnp.inf])}}
    bad["Dense_9"] = {"kernel": jnp.asarray([0, jnp.nan])}
    found = find(bad)
    assert not found.is_finite
    assert leaf_names(bad)[found.index] == "Dense_9/kernel"
    mapped = jax.vmap(first_nonfinite)({"a": jnp.asarray([1.0, jnp.nan]), "b": jnp.zeros(2)})
    np.testing.assert_array_equal(mapped.index, [-1, 0])
    assert bool(first_nonfinite({}).is_finite)


def test_dead_and_saturated_units():
    draw = np.random.default_rng(0)
    u = draw.normal(size=(5, 4, 6)) * 3
    u[..., 2] = -1
    h = jnp.maximum(jnp.asarray(u, jnp.float32), 0)
    dead = (np.asarray(h) == 0).all(axis=(0, 1)).mean()
    assert dead > 0
    for share in (dead_units, jax.jit(dead_units)):
        np.testing.assert_allclose(share(h), dead)
    np.testing.assert_allclose(flat_share(jax.nn.relu, jnp.asarray(u)), (u < 0).mean())
    # By range and by derivative the same, at the default margin nearly a tenth of the slope.
    by_range = saturated_share(jnp.tanh(jnp.asarray(u)), lower=-1, upper=1)
    slope = 1 - np.tanh(u) ** 2
    np.testing.assert_allclose(by_range, (slope <= 1 - 0.95**2).mean(), atol=1e-6)
    np.testing.assert_allclose(
        flat_share(jnp.tanh, jnp.asarray(u), threshold=1 - 0.95**2), by_range, atol=1e-6
    )
    mapped = jax.vmap(lambda h: saturated_share(h, lower=0, upper=1))(jax.nn.sigmoid(u))
    np.testing.assert_allclose(mapped.mean(), (np.abs(u) >= np.log(39)).mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradient_profile({"a": 1}), "no real floating leaves"),
        (lambda: gradient_profile({}), "no real floating leaves"),
        (lambda: gradient_profile(tree(), layers=["x"]), "no layer 'x'.*Dense_0, Dense_1"),
        (lambda: log_slope(jnp.ones((2, 2))), r"a vector.*got shape \(2, 2\)"),
        (lambda: log_slope(jnp.arange(3)), "real floating numbers.*int32"),
        (lambda: update_ratios({"a": 1.0}, {"b": 1.0}), "must be trees alike"),
        (lambda: dead_units(jnp.ones(3)), r"samples by units.*got shape \(3,\)"),
        (lambda: dead_units(jnp.ones((0, 3))), r"got shape \(0, 3\)"),
        (lambda: dead_units(jnp.ones((2, 3), int)), "real floating numbers, got int32"),
        (lambda: saturated_share(jnp.eye(2), lower=1, upper=0), "the range must be finite"),
        (lambda: saturated_share(jnp.eye(2), lower=0, upper=1, margin=1), "margin must be"),
        (lambda: flat_share(jnp.tanh, jnp.eye(2), threshold=-1), "threshold must not be negative"),
        (lambda: flat_share(jnp.sum, jnp.eye(2)), "activation must map real numbers"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
