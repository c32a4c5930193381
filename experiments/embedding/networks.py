"""The two-layer networks and the data of the study."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Params = Mapping[str, np.ndarray]
DataName = Literal["line", "iris"]


def target(x: np.ndarray) -> np.ndarray:
    """Four ReLUs of one input."""

    def relu(x):
        return np.maximum(x, 0)

    return relu(2 * x + 0.6) - relu(x) + relu(0.5 * x - 0.4) - relu(1.5 * x - 0.6)


def data(name: DataName) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets.

    Args:
        name: `"line"`: 20 points of the target; `"iris"`: Fisher's irises, their four measurements
            standardised and the species as a vector of zeros and a one.

    Returns:
        f64[num_examples, num_inputs], f64[num_examples, num_outputs].
    """
    if name == "line":
        x = np.linspace(-1.5, 1.5, 20)[:, None]
        return x, target(x)
    from sklearn.datasets import load_iris

    x, species = map(np.asarray, load_iris(return_X_y=True))
    return (x - x.mean(0)) / x.std(0), np.eye(3)[species]


def tanh_network(params: Params, x: jax.Array) -> jax.Array:
    """Two layers; the hidden one has a bias."""
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["a"]


def squared_error(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean over examples of the sum over outputs."""
    return jnp.square(tanh_network(params, x) - y).sum(-1).mean()


def start(seed: int, num_inputs: int, width: int, num_outputs: int) -> dict[str, np.ndarray]:
    """Weights drawn from a standard normal distribution."""
    draw = np.random.default_rng(seed)
    return {
        "w": draw.normal(size=(num_inputs, width)),
        "b": draw.normal(size=width),
        "a": draw.normal(size=(width, num_outputs)),
    }


def errors(params: Params, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of the squared error by each output, f64[num_examples, num_outputs]."""
    outputs = np.tanh(x @ params["w"] + params["b"]) @ params["a"]
    return 2 * (outputs - y) / len(x)
