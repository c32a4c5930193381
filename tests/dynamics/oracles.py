"""Exponents by the Jacobian as a matrix, in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree


def by_matrices(jacobians, start):
    """Mean log diagonal of R, from matrices [num_steps, n, n] and columns [n, k]."""
    columns, total = np.asarray(start, np.float64), 0.0
    for jacobian in np.asarray(jacobians, np.float64):
        columns, r = np.linalg.qr(jacobian @ columns)
        total = total + np.log(np.abs(np.diag(r)))
    return total / len(jacobians)


def jacobians_along(step, state, num_steps, inputs=None):
    """The matrices along a trajectory, f[num_steps, n, n], by reverse mode."""
    flat, unravel = ravel_pytree(state)

    def advance(vector, given):
        def flat_step(vector):
            arguments = (unravel(vector),) if inputs is None else (unravel(vector), given)
            return ravel_pytree(step(*arguments))[0]

        return flat_step(vector), jax.jacrev(flat_step)(vector)

    return jax.jit(lambda: jax.lax.scan(advance, flat, inputs, num_steps)[1])()


def weights(seed, size=6, gain=1.5):
    draw = np.random.default_rng(seed)
    return jnp.asarray(gain / size**0.5 * draw.normal(size=(size, size)))
