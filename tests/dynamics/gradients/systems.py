"""Systems whose averages, or the gradients of these, are known."""

import jax
import jax.numpy as jnp
import numpy as np


def autoregression(params, x):
    return params["a"] * x + params["g"]


def square(params, x):
    return x**2


AR_PARAMS = {"a": 0.5, "g": 0.3}
AR_SQUARE = {"a": 3.2178, "g": 2.4}
"""By m = g / (1 - a) and E x^2 = 1 / (1 - a^2) + m^2, with noise 1."""

WAVES = np.array([1.0, 2.0, 4.0])


def doubling(params, x):
    """The doubling map, perturbed by waves; modulo 1 is left to the stored trajectory."""
    return 2 * x + jnp.sum(params * jnp.sin(2 * jnp.pi * WAVES * x).astype(x.dtype))


def cosine(params, x):
    return jnp.cos(2 * jnp.pi * x)


def doubling_orbit(seed, num_steps):
    """By preimages: forward, every step loses a bit, and floats end at zero."""
    draw = np.random.default_rng(seed)
    orbit = np.empty(num_steps + 1)
    orbit[-1] = draw.uniform()
    for index, bit in zip(range(num_steps, 0, -1), draw.integers(0, 2, num_steps), strict=True):
        orbit[index - 1] = (orbit[index] + bit) / 2
    return orbit


def lorenz(params, state):
    """The velocity; the state is a tree."""
    x, y, z = state["x"], state["y"], state["z"]
    return {
        "x": params["sigma"] * (y - x),
        "y": x * (params["rho"] - z) - y,
        "z": x * y - 8 / 3 * z,
    }


SIZE = 4


def network(params, state, x):
    """A recurrent network with a leaf for a state, driven by x."""
    return {"h": jnp.tanh(params["w"] @ state["h"] + params["b"] + x)}


def activity(params, state, x):
    return jnp.mean(state["h"] ** 2) + 0.1 * jnp.sum(params["b"] ** 2)


def network_params(seed=0):
    draw = np.random.default_rng(seed)
    return {"w": 0.3 * draw.normal(size=(SIZE, SIZE)), "b": 0.3 * draw.normal(size=SIZE)}


def network_inputs(num_steps, seed=0):
    return np.random.default_rng(seed).normal(size=(num_steps, SIZE))


def network_average(params, inputs):
    def one(state, x):
        state = network(params, state, x)
        return state, activity(params, state, x)

    return jnp.mean(jax.lax.scan(one, {"h": jnp.zeros(SIZE)}, inputs)[1])
