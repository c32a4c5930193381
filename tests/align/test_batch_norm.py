"""Measured statistics against a pass in training mode over all data at once, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pfn_optax.align import interpolate, reestimate_batch_stats
from pfn_optax.precision import double_precision
from tests.align.relu_networks import LinenNet, NNXNet, inputs, split

pytestmark = pytest.mark.usefixtures("unoptimized")

IMAGES = inputs(0, 21, 6, 6, 1)


def in_float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@functools.cache
def linen_variables(seed):
    with jax.default_prng_impl("rbg"):
        return jax.jit(LinenNet().init)(jax.random.key(seed), IMAGES)


evaluate = LinenNet().apply


@pytest.mark.parametrize("sizes", [(), (8, 8), (1, 13)])
def test_linen_statistics_are_those_of_one_batch_of_everything(sizes):
    variables = interpolate(linen_variables(0), linen_variables(1), 0.4)
    measured = reestimate_batch_stats(evaluate, variables, split(IMAGES, *sizes))
    with double_precision():
        _, expected = LinenNet(train=True).apply(
            in_float64(variables), np.asarray(IMAGES, np.float64), mutable=["batch_stats"]
        )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        measured["batch_stats"],
        jax.tree.map(np.asarray, expected["batch_stats"]),
    )
    jax.tree.map(np.testing.assert_array_equal, measured["params"], variables["params"])


def test_nnx_statistics_are_those_of_one_batch_of_everything():
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: NNXNet(nnx.Rngs(0))))
    state = jax.jit(lambda: nnx.state(NNXNet(nnx.Rngs(0))))()

    def apply(state, x):
        model = nnx.merge(graphdef, state)
        model.eval()
        return model(x)

    measured = reestimate_batch_stats(apply, state, split(IMAGES, 10))
    model = nnx.merge(graphdef, jax.tree.map(jnp.array, state))
    model.train()
    model(IMAGES)
    expected = nnx.state(model, nnx.BatchStat)
    changed = 0
    for path, leaf in nnx.to_flat_state(nnx.state(nnx.merge(graphdef, measured), nnx.BatchStat)):
        other = dict(nnx.to_flat_state(expected))[path]
        np.testing.assert_allclose(leaf[...], other[...], rtol=1e-3, atol=1e-5)
        changed += 1
    assert changed == 4
    assert jax.tree.structure(measured) == jax.tree.structure(state)


def test_statistics_that_are_right_stay():
    once = reestimate_batch_stats(evaluate, linen_variables(0), split(IMAGES, 8))
    twice = reestimate_batch_stats(evaluate, once, split(IMAGES, 8))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), once, twice)


def plain(variables, x):
    return (x - variables["mean"]) / jnp.sqrt(variables["var"] + 1e-5)


STATS = {"mean": jnp.zeros(2), "var": jnp.ones(2)}
PAIRS = inputs(1, 6, 2)


def test_data_read_directly_and_channels_anywhere():
    measured = reestimate_batch_stats(plain, STATS, split(PAIRS, 4))
    np.testing.assert_allclose(measured["mean"], np.asarray(PAIRS).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured["var"], np.asarray(PAIRS).var(0), rtol=1e-5)

    def channels_first(variables, x):
        mean, variance = variables["mean"][:, None], variables["var"][:, None]
        return (x - mean) / jnp.sqrt(variance + 1e-5)

    cubes = inputs(2, 6, 2, 5)
    measured = reestimate_batch_stats(channels_first, STATS, split(cubes, 4))
    np.testing.assert_allclose(measured["mean"], np.asarray(cubes).mean((0, 2)), rtol=1e-4)
    np.testing.assert_allclose(measured["var"], np.asarray(cubes).var((0, 2)), rtol=1e-4)


def in_a_loop(variables, x):
    return jax.lax.fori_loop(0, 2, lambda _, x: plain(variables, x), x)


@pytest.mark.parametrize(
    ("function", "variables", "batches", "message"),
    [
        (plain, STATS, [], "batches is empty"),
        (plain, STATS, iter(split(PAIRS)), "batches is an iterator"),
        (lambda v, x: x * v["mean"], {"mean": jnp.ones(2)}, split(PAIRS), "has no batch norm"),
        (lambda v, x: plain(v, plain(v, x)), STATS, split(PAIRS), "'mean' is used 2 times"),
        (in_a_loop, STATS, split(PAIRS), "'mean' is not subtracted from a value"),
        (plain, STATS, split(PAIRS.at[0].set(jnp.inf)), "'mean' are not finite"),
    ],
)
def test_bad_input_is_named(function, variables, batches, message):
    with pytest.raises(ValueError, match=message):
        reestimate_batch_stats(function, variables, batches)
