"""Noisy systems: closed forms, transfer operators, and what must not depend on the split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.dynamics import GradientStatus, value_and_grad_long
from tests.dynamics.gradients.systems import AR_PARAMS, AR_SQUARE, autoregression, square

ENSEMBLE = {"num_steps": 2000, "num_transient": 20, "num_replicas": 200, "noise": 1.0}


def scores(found, exact):
    return {
        name: abs(found.gradient[name] - exact[name]) / found.standard_error[name] for name in exact
    }


@pytest.fixture(scope="module")
def splits():
    """The path kernel on AR(1) at several alpha, by one program, with the same noise."""

    def run(alpha):
        return value_and_grad_long(
            autoregression, square, method="path_kernel", window=15, alpha=alpha, **ENSEMBLE
        )(AR_PARAMS, 0.0, key=jax.random.key(0))

    return jax.jit(jax.vmap(run))(jnp.array([0.0, 0.3, 0.7, 1.0]))


def test_every_split_is_unbiased(splits):
    assert (splits.status == GradientStatus.OK).all()
    for name, score in scores(splits, AR_SQUARE).items():
        assert (score < 4).all(), name
    assert (splits.standard_error["g"] < 0.05).all()
    # Telling by the noise costs variance.
    assert (np.diff(splits.standard_error["a"]) > 0).all()
    np.testing.assert_allclose(splits.value, 1 / 0.75 + 0.36, atol=4 * splits.value_error.max())


def test_kernel_is_the_split_that_propagates_nothing(splits):
    found = value_and_grad_long(autoregression, square, method="kernel", window=15, **ENSEMBLE)(
        AR_PARAMS, 0.0, key=jax.random.key(0)
    )
    for name, error in found.standard_error.items():
        np.testing.assert_allclose(found.gradient[name], splits.gradient[name][3], rtol=1e-3)
        np.testing.assert_allclose(error, splits.standard_error[name][3], rtol=1e-3)


def test_no_propagation_is_backprop_through_the_noise():
    """alpha = 0 on given noise is jax.grad of that trajectory's average."""
    inputs = jax.random.normal(jax.random.key(0), (64,))

    def driven(params, x, noise):
        return autoregression(params, x) + jnp.exp(params["a"]) * noise

    def average(params):
        xs = jax.lax.scan(lambda x, n: (driven(params, x, n),) * 2, 0.0, inputs)[1]
        return jnp.mean(xs**2)

    found = value_and_grad_long(
        driven, lambda params, x, noise: x**2, num_steps=64, segment_steps=16
    )(AR_PARAMS, 0.0, inputs=inputs)
    exact = jax.grad(average)(AR_PARAMS)
    for name in exact:
        np.testing.assert_allclose(found.gradient[name], exact[name], rtol=1e-5)


def test_ornstein_uhlenbeck():
    """Both derivatives at alpha = 0, 1, 5 per unit of time; noise that a parameter scales."""
    dt = 0.1
    params = {"theta": 0.7, "s": 1.0}

    def run(alpha):
        return value_and_grad_long(
            lambda params, x: x - params["theta"] * x * dt,
            square,
            method="path_kernel",
            noise=lambda params, x: params["s"] * dt**0.5,
            alpha=alpha * dt,
            window=60,
            num_steps=2000,
            num_transient=100,
            num_replicas=200,
        )(params, 0.0, key=jax.random.key(0))

    found = jax.jit(jax.vmap(run))(jnp.array([0.0, 1.0, 5.0]))
    # E x^2 = s^2 / (2 theta) as dt -> 0; this is Euler's, by the same closed form.
    exact = jax.grad(lambda p: p["s"] ** 2 / (2 * p["theta"] - p["theta"] ** 2 * dt))(params)
    assert exact["s"] == pytest.approx(1 / 0.7, rel=0.04)
    for name, score in scores(found, exact).items():
        assert (score < 4).all(), name
        assert (found.standard_error[name] < 0.04).all()


TENT = {2.0: -0.1450, 3.0: -0.0032, 4.0: -0.0303}


def test_noisy_tent():
    """d<x>/d slope, by the transfer operator."""

    def step(slope, x):
        x = jnp.mod(x, 1)
        return slope * jnp.minimum(x, 1 - x)

    run = value_and_grad_long(
        step,
        lambda slope, x: jnp.mod(x, 1),
        method="kernel",
        noise=0.1,
        window=7,
        num_steps=1000,
        num_transient=10,
        num_replicas=1000,
    )
    found = jax.vmap(lambda slope, key: run(slope, jnp.float32(0.3), key=key))(
        jnp.array(list(TENT)), jax.random.split(jax.random.key(0), 3)
    )
    error = np.abs(found.gradient - np.array(list(TENT.values())))
    assert (error < 4 * found.standard_error + 1e-4).all()
    assert (found.standard_error < 0.005).all()


def test_standard_errors_are_calibrated():
    """Of one replica too, by batches in time."""
    for options in ({"num_steps": 400, "num_replicas": 10}, {"num_steps": 4000}):
        run = value_and_grad_long(
            autoregression, square, method="kernel", noise=1.0, window=12, num_transient=20,
            **options,
        )  # fmt: skip
        found = jax.vmap(lambda key, run=run: run(AR_PARAMS, 0.0, key=key))(
            jax.random.split(jax.random.key(1), 100)
        )
        for name, score in scores(found, AR_SQUARE).items():
            assert 0.8 < np.sqrt(np.mean(np.square(score))) < 1.35, (name, options)


def test_noise_on_a_part_of_the_state():
    """The kernel is told of what it cannot see; the path kernel propagates it."""
    noise = {"x": 1.0, "y": 0.0}

    def step(params, state):
        x = params["a"] * state["x"] + params["g"]
        return {"x": x, "y": params["a"] * state["x"] - params["g"]}

    def objective(params, state):
        return state["x"] * state["y"]

    start = {"x": np.float32(0), "y": np.float32(0)}
    key = jax.random.key(0)
    options = {**ENSEMBLE, "noise": noise, "window": 15}
    blind = value_and_grad_long(step, objective, method="kernel", **options)
    assert blind(AR_PARAMS, start, key=key).status == GradientStatus.HIDDEN_PARAMETERS
    found = value_and_grad_long(step, objective, method="path_kernel", alpha=0.5, **options)(
        AR_PARAMS, start, key=key
    )
    assert found.status == GradientStatus.OK

    def exact(params):  # x' y' = (a x + g + noise) (a x - g)
        a, g = params["a"], params["g"]
        return a**2 * (1 / (1 - a**2) + (g / (1 - a)) ** 2) - g**2

    for name, score in scores(found, jax.grad(exact)(AR_PARAMS)).items():
        assert score < 4, name
        assert found.standard_error[name] < 0.05
