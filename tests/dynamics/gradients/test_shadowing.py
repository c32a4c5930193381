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


def test_unstable_contribution_of_the_doubling_map():
    """Along a stored orbit; a window too short for a wave would miss its response."""
    orbit = jnp.asarray(doubling_orbit(0, 20_000), jnp.float32)
    found = value_and_grad_long(
        doubling, cosine, method="shadowing_unstable", window=4, num_steps=20_000, num_unstable=1
    )(jnp.zeros(3), trajectory=orbit)
    found.raise_for_status()
    assert (np.abs(found.gradient - np.array(RESPONSE)) < 4 * found.standard_error).all()
    assert (found.standard_error < 0.3).all()
    np.testing.assert_allclose(found.exponents, np.log(2), rtol=1e-5)
    np.testing.assert_allclose(found.state, orbit[-1])


def test_shadowing_contribution_of_the_doubling_map():
    """And standard errors that are calibrated, over many orbits."""
    orbits = jnp.stack([jnp.asarray(doubling_orbit(s, 2000), jnp.float32) for s in range(40)])
    run = value_and_grad_long(doubling, cosine, method="shadowing", num_steps=2000, num_unstable=1)
    found = jax.vmap(lambda orbit: run(jnp.zeros(3), trajectory=orbit))(orbits)
    assert (found.status == GradientStatus.OK).all()
    np.testing.assert_allclose(found.gradient.mean(axis=0), SHADOWING, atol=0.01)
    scores = (found.gradient - np.array(SHADOWING)) / found.standard_error
    assert 0.8 < np.sqrt(np.mean(scores**2)) < 1.4


def test_response_of_curved_maps():
    """A circle and a torus, both expanding and bent, in one system; against quadrature."""
    num_steps = 100_000
    bits = jax.random.bernoulli(jax.random.key(0), 0.5, (num_steps,)).astype(jnp.float32)
    params = {"circle": 0.08, "torus": 0.05}

    def step(params, state, bit):
        x, (y, z) = state["circle"], state["torus"]
        x = 2 * x + params["circle"] * jnp.sin(2 * jnp.pi * x)
        push = params["torus"] * jnp.sin(2 * jnp.pi * y)
        torus = jnp.stack([2 * y + z + push, y + z + push / 2])
        # The bit is what doubling takes from a float.
        return {"circle": jnp.mod(x, 1) + bit * 2.0**-24, "torus": jnp.mod(torus, 1)}

    def objective(params, state, bit):
        y, z = state["torus"]
        return jnp.cos(2 * jnp.pi * state["circle"]) + jnp.cos(2 * jnp.pi * (y - z))

    found = value_and_grad_long(
        step,
        objective,
        method="shadowing_unstable",
        num_steps=num_steps,
        num_unstable=2,
        window=8,
        segment_steps=10,
    )(params, {"circle": 0.3, "torus": jnp.float32([0.3, 0.4])}, inputs=bits)

    def circle(g):
        x = np.arange(2**18) / 2**18
        for _ in range(13):
            x = np.mod(2 * x + g * np.sin(2 * np.pi * x), 1)
        return np.cos(2 * np.pi * x).mean()

    def torus(g):
        y, z = np.meshgrid(*2 * [np.arange(1024) / 1024])
        for _ in range(5):
            push = g * np.sin(2 * np.pi * y)
            y, z = np.mod(2 * y + z + push, 1), np.mod(y + z + push / 2, 1)
        return np.cos(2 * np.pi * (y - z)).mean()

    found.raise_for_status()
    for name, average in (("circle", circle), ("torus", torus)):
        exact = (average(params[name] + 0.01) - average(params[name] - 0.01)) / 0.02
        assert abs(exact) > 0.3
        assert abs(found.gradient[name] - exact) < 4 * found.standard_error[name], name
        assert found.standard_error[name] < 0.05
    value = circle(params["circle"]) + torus(params["torus"])
    assert abs(found.value - value) < 4 * found.value_error
