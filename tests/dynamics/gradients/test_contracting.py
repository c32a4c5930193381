"""Where nothing is chaotic every method agrees with jax.grad of the long average."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfn_optax.dynamics import GradientStatus, value_and_grad_long
from tests.dynamics.gradients.systems import (
    SIZE,
    activity,
    network,
    network_average,
    network_inputs,
    network_params,
)

NUM_STEPS = 400
START = {"h": np.zeros(SIZE)}
exact = jax.jit(jax.value_and_grad(network_average))


def estimate(**options):
    run = value_and_grad_long(network, activity, num_steps=NUM_STEPS, **options)
    key = jax.random.key(0)
    return run(network_params(), START, inputs=network_inputs(NUM_STEPS), key=key)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("tolerance", "options"),
    [
        (1e-14, {"method": "backprop"}),
        (1e-14, {"method": "shadowing", "num_unstable": 0}),
        # Directions that need not be followed are free at the end: an error like 1 / N there.
        (1e-3, {"method": "shadowing", "num_unstable": 2}),
        (1e-14, {"method": "shadowing_unstable", "num_unstable": 0, "window": 3}),
        (1e-9, {"method": "path_kernel", "noise": 1e-10, "window": 9, "alpha": 0}),
    ],
)
def test_methods_without_noise(tolerance, options):
    found = estimate(**options)
    value, gradient = exact(network_params(), network_inputs(NUM_STEPS))
    found.raise_for_status()
    np.testing.assert_allclose(found.value, value, rtol=1e-9)
    chex.assert_trees_all_equal_shapes_and_dtypes(found.gradient, gradient)
    chex.assert_trees_all_close(found.gradient, gradient, rtol=0, atol=tolerance)
    chex.assert_trees_all_equal_shapes(found.standard_error, gradient)
    assert found.exponents.shape == (options.get("num_unstable", 0),)
    assert (found.exponents < 0).all()
    assert found.state["h"].shape == (SIZE,)


@pytest.mark.parametrize("options", [{"method": "kernel"}, {"method": "path_kernel", "alpha": 0.5}])
def test_methods_with_noise(options):
    """Within their standard errors, which small noise makes large."""
    found = estimate(noise=0.05, window=8, num_replicas=50, **options)
    _, gradient = exact(network_params(), network_inputs(NUM_STEPS))
    scores = jax.tree.map(
        lambda found, exact, error: (found - exact) / error,
        found.gradient,
        gradient,
        found.standard_error,
    )
    scores = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(scores)])
    assert np.sqrt(np.mean(scores**2)) < 1.6
    assert found.status == GradientStatus.OK


@pytest.mark.usefixtures("x64")
def test_the_end_alone():
    """As of a stack of layers, whose parameters the inputs number."""
    depth = 6
    params = {"w": np.random.default_rng(0).normal(size=(depth, 3, 3)) * 0.5}

    def layer(params, x, number):
        return jnp.tanh(params["w"][number] @ x)

    def loss(params, x, number):
        return jnp.sum(x**2) + 0.1 * jnp.sum(params["w"] ** 2)

    def whole(params, x):
        for number in range(depth):
            x = layer(params, x, number)
        return loss(params, x, depth)

    x, numbers, key = np.ones(3), np.arange(depth), jax.random.key(0)
    options = {"num_steps": depth, "average": "end"}
    exact = jax.value_and_grad(whole)(params, x)
    found = value_and_grad_long(layer, loss, **options)(params, x, inputs=numbers)
    np.testing.assert_allclose(found.value, exact[0])
    chex.assert_trees_all_close(found.gradient, exact[1], atol=1e-14)
    assert np.isinf(found.standard_error["w"]).all()
    assert np.isinf(found.value_error)

    noisy = {"noise": 0.1, "num_replicas": 4_000, **options}
    kernel = value_and_grad_long(layer, loss, method="kernel", **noisy)

    def split(alpha, key):
        run = value_and_grad_long(layer, loss, method="path_kernel", alpha=alpha, **noisy)
        return run(params, x, inputs=numbers, key=key)

    keys = jax.random.split(key, 2)
    paths = jax.jit(jax.vmap(split))(jnp.array([0.0, 0.3]), keys)
    # That of the noisy stack, which backpropagation through its noise knows well.
    truth, hybrid = (jax.tree.map(lambda leaf, i=i: leaf[i], paths) for i in range(2))
    for found in (kernel(params, x, inputs=numbers, key=key), hybrid):
        error = np.hypot(found.standard_error["w"], truth.standard_error["w"])
        scores = (found.gradient["w"] - truth.gradient["w"]) / error
        assert np.sqrt(np.mean(scores**2)) < 1.6
