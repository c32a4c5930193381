"""A small network, and what an optimizer makes of it along the embedded trajectory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfn_optax.growth import grow
from pfn_optax.units import unit_spec

SIZES = (3, 4, 3, 2)
X = np.random.default_rng(0).normal(size=(7, SIZES[0]))
Y = np.random.default_rng(1).normal(size=(7, SIZES[-1]))


def predict(params, x):
    for layer in ("first", "second"):
        x = jnp.tanh(x @ params[layer]["w"] + params[layer]["b"])
    return x @ params["head"]


def loss(params):
    return jnp.mean(jnp.square(predict(params, X) - Y))


gradient = jax.jit(jax.grad(loss))


def weights(seed, sizes=SIZES):
    draw = np.random.default_rng(seed)
    return {
        "first": {"w": draw.normal(size=sizes[:2]), "b": draw.normal(size=sizes[1])},
        "second": {"w": draw.normal(size=sizes[1:3]), "b": draw.normal(size=sizes[2])},
        "head": draw.normal(size=sizes[2:]),
    }


SPEC = unit_spec(predict, weights(0), X)
# Unit 1 of the first group has three copies, the groups meet in second/w.
SPLIT = {"units": {"first": [1, 3, 1], "second": [2]}, "spread": 0.5}
ADDED = {"first": 3, "second": 1}


def split(params, **options):
    return grow(params, SPEC, ADDED, key=jax.random.key(3), **SPLIT, **options)


def trajectory(wide):
    """Parameters drawn at random, wide ones made of them, and the gradients there."""
    params = [jax.tree.map(jnp.asarray, weights(seed)) for seed in range(5)]
    if wide:
        params = [split(each).params for each in params]
    return [(each, gradient(each)) for each in params]


def state_after(optimizer, steps):
    """The state of an optimizer that is given these parameters and gradients."""
    update = jax.jit(optax.with_extra_args_support(optimizer).update)
    state = optimizer.init(steps[0][0])
    for params, gradients in steps:
        _, state = update(gradients, state, params)
    return state


def assert_close(received, expected, tolerance=1e-10):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
        received,
        expected,
    )
