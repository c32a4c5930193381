"""Losses with known curvature, shared so that what is compiled for one test serves the next."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def quadratic(params, matrix):
    """The Hessian in the order of `ravel_pytree` is the (symmetric) matrix."""
    flat, _ = ravel_pytree(params)
    return flat @ matrix @ flat / 2


def network(params, inputs):
    return jnp.tanh(inputs @ params["in"]["kernel"] + params["in"]["bias"]) @ params["out"]


def squared_error(outputs, targets):
    return jnp.mean(jnp.sum(jnp.square(outputs - targets), axis=-1))


def loss(params, inputs, targets):
    return squared_error(network(params, inputs), targets)


def parameters(seed: int = 0, width: int = 5) -> dict:
    """30 numbers at the default width, in the default precision."""
    draw = np.random.default_rng(seed)
    return {
        "in": {
            "kernel": jnp.asarray(draw.normal(size=(3, width))),
            "bias": jnp.asarray(draw.normal(size=width)),
        },
        "out": jnp.asarray(draw.normal(size=(width, 2))),
    }


def data(num_examples: int = 12) -> tuple[jax.Array, jax.Array]:
    draw = np.random.default_rng(7)
    return (
        jnp.asarray(draw.normal(size=(num_examples, 3))),
        jnp.asarray(draw.normal(size=(num_examples, 2))),
    )


def hessian(params, *args) -> np.ndarray:
    """By `jax.hessian`, the oracle."""
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda flat: loss(unravel(flat), *args)))(flat))


def symmetric(eigenvalues, seed: int = 0) -> np.ndarray:
    """A matrix with these eigenvalues and random eigenvectors."""
    values = np.asarray(eigenvalues)
    draw = np.random.default_rng(seed).normal(size=(len(values), len(values)))
    vectors = np.linalg.qr(draw)[0]
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2
