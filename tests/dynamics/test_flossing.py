"""The exponents as a loss: its value, its gradient, what training on it does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfn_optax.dynamics import flossing_loss, lyapunov_spectrum
from tests.dynamics.oracles import weights

pytestmark = pytest.mark.usefixtures("x64")


def loss(matrix, **options):
    return flossing_loss(lambda h: jnp.tanh(matrix @ h), jnp.ones(6), num_steps=12, **options)


def test_it_is_the_distance_of_the_exponents():
    found = lyapunov_spectrum(
        lambda h: jnp.tanh(weights(0) @ h),
        jnp.ones(6),
        num_steps=12,
        num_transient=3,
        num_exponents=2,
        time_step=0.5,
    )
    value = loss(weights(0), num_exponents=2, target=0.1, num_transient=3, time_step=0.5)
    np.testing.assert_allclose(value, np.mean((found.exponents - 0.1) ** 2), rtol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    value = jax.jit(functools.partial(loss, qr_every=5, num_transient=2))
    matrix = weights(1)
    gradient = jax.grad(value)(matrix)
    for seed in range(3):
        direction = weights(seed + 5)
        step = 1e-5
        difference = value(matrix + step * direction) - value(matrix - step * direction)
        expected = difference / (2 * step)
        np.testing.assert_allclose(jnp.sum(gradient * direction), expected, rtol=1e-6)


def test_training_on_it_moves_the_exponents_to_the_target():
    optimizer = optax.adam(0.02)
    value = functools.partial(loss, num_exponents=2, target=jnp.array([0.0, -0.5]))

    @jax.jit
    def train(matrix):
        def step(carry, _):
            matrix, state = carry
            now, gradient = jax.value_and_grad(value)(matrix)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(matrix, updates), state), now

        return jax.lax.scan(step, (matrix, optimizer.init(matrix)), length=60)[1]

    values = train(weights(0, gain=0.5))
    assert values[-1] < 0.05 * values[0]
