"""Known responses of chaotic maps and flows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.dynamics import GradientStatus, rk4, value_and_grad_long
from tests.dynamics.gradients.systems import cosine, doubling, doubling_orbit, lorenz

SHADOWING = [np.pi / 2, 0, 0]
RESPONSE = [0, -np.pi, -2 * np.pi]


def test_lorenz():
    """An ensemble gives 1.0015 and .152; shadowing alone is known to be some hundredths off."""
    found = value_and_grad_long(
        lambda params, state: rk4(lambda state: lorenz(params, state), 0.01)(state),
        lambda params, state: state["z"],
        method="shadowing",
        num_steps=20_000,
        segment_steps=20,
        num_transient=2000,
        num_unstable=1,
        velocity=lorenz,
    )({"rho": 28.0, "sigma": 10.0}, {"x": 1.0, "y": 1.0, "z": 28.0})
    found.raise_for_status()
    assert 0.95 < found.gradient["rho"] < 1.12
    assert found.gradient["sigma"] == pytest.approx(0.13, abs=0.02)
    assert found.standard_error["rho"] < 0.03
    np.testing.assert_allclose(found.exponents / 0.01, [0.906, 0], atol=0.04)
    np.testing.assert_allclose(found.value, 23.55, atol=0.4)


def test_doubling_map_follows_a_stored_orbit():
    """SC and UC of the three waves; a window too short for a wave misses its response."""
    num_steps = 20_000
    orbit = jnp.asarray(doubling_orbit(0, num_steps), jnp.float32)
    options = {"num_steps": num_steps, "num_unstable": 1}
    shadow = value_and_grad_long(doubling, cosine, method="shadowing", **options)
    whole = value_and_grad_long(doubling, cosine, method="shadowing_unstable", window=4, **options)
    for run, expected in ((shadow, SHADOWING), (whole, RESPONSE)):
        found = run(jnp.zeros(3), trajectory=orbit)
        found.raise_for_status()
        errors = np.asarray(found.standard_error)
        assert (np.abs(found.gradient - np.asarray(expected)) < 4 * errors + 2e-3).all()
        assert (errors < 0.3).all()
        np.testing.assert_allclose(found.exponents, np.log(2), rtol=1e-5)
        np.testing.assert_allclose(found.state, orbit[-1])


def test_unstable_contribution_of_a_curved_map():
    """Against quadrature: the average over the circle of phi(f^n(x)), two powers of g apart."""
    num_steps = 100_000
    bits = jax.random.bernoulli(jax.random.key(0), 0.5, (num_steps,)).astype(jnp.float32)

    def step(g, x, bit):  # the bit is what the float has lost
        return jnp.mod(2 * x + g * jnp.sin(2 * jnp.pi * x), 1) + bit * 2.0**-24

    found = value_and_grad_long(
        step,
        lambda g, x, bit: jnp.cos(2 * jnp.pi * x),
        method="shadowing_unstable",
        num_steps=num_steps,
        num_transient=0,
        num_unstable=1,
        window=10,
    )(jnp.float32(0.08), jnp.float32(0.3), inputs=bits)

    def average(g):
        x = np.arange(2**19) / 2**19
        for _ in range(14):
            x = np.mod(2 * x + g * np.sin(2 * np.pi * x), 1)
        return np.cos(2 * np.pi * x).mean()

    np.testing.assert_allclose(found.value, average(0.08), atol=4 * float(found.value_error))
    exact = (average(0.09) - average(0.07)) / 0.02
    assert abs(found.gradient - exact) < 4 * found.standard_error
    assert found.standard_error < 0.05


def test_unstable_contribution_in_two_dimensions():
    """A perturbed cat map, against quadrature on a grid."""

    def step(g, x):
        y = jnp.stack([2 * x[0] + x[1], x[0] + x[1]])
        return jnp.mod(y + g * jnp.sin(2 * jnp.pi * x[0]) * jnp.float32([1, 0.5]), 1)

    def objective(g, x):
        return jnp.cos(2 * jnp.pi * (x[0] - x[1]))

    found = value_and_grad_long(
        step,
        objective,
        method="shadowing_unstable",
        num_steps=100_000,
        num_unstable=1,
        window=5,
        segment_steps=10,
    )(jnp.float32(0.05), jnp.float32([0.3, 0.4]))

    def average(g):
        grid = (np.arange(1024) / 1024).astype(np.float32)
        x, y = np.meshgrid(grid, grid)
        for _ in range(5):
            push = np.float32(g) * np.sin(2 * np.pi * x)
            x, y = np.mod(2 * x + y + push, 1), np.mod(x + y + push / 2, 1)
        return np.cos(2 * np.pi * (x - y)).mean(dtype=np.float64)

    exact = (average(0.06) - average(0.04)) / 0.02
    assert abs(found.gradient - exact) < 4 * found.standard_error
    assert found.standard_error < 0.1
    assert abs(exact) > 1


def test_standard_errors_of_orbits_are_calibrated():
    orbits = jnp.stack([jnp.asarray(doubling_orbit(s, 2000), jnp.float32) for s in range(40)])
    run = value_and_grad_long(doubling, cosine, method="shadowing", num_steps=2000, num_unstable=1)
    found = jax.vmap(lambda orbit: run(jnp.zeros(3), trajectory=orbit))(orbits)
    assert (found.status == GradientStatus.OK).all()
    scores = (found.gradient - np.asarray(SHADOWING)) / found.standard_error
    assert 0.8 < np.sqrt(np.mean(scores**2)) < 1.4
