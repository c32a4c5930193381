"""The two-layer network of the study, its data and its training."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.data import DatasetName, load

Activation = Literal["relu", "tanh"]


class Data(NamedTuple):
    """Flat images with pixels from 0 to 1, and labels.

    Attributes:
        x: of training, f32[num_train, num_pixels].
        y: vectors of zeros and a one, f32[num_train, num_classes].
        test_x: f32[num_test, num_pixels].
        test_labels: i32[num_test].
    """

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_labels: np.ndarray


def data(name: DatasetName, num_images: int) -> Data:
    """The first images of a data set to train on, and all its test images."""
    images = load(name)

    def flat(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), -1).astype(np.float32) / 255

    labels = np.eye(images.num_classes, dtype=np.float32)[images.train_labels[:num_images]]
    return Data(
        flat(images.train_images[:num_images]), labels, flat(images.test_images), images.test_labels
    )


def start(seed: int, num_inputs: int, width: int, num_outputs: int, scale: float) -> dict[str, Any]:
    """Weights drawn from a normal distribution."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "w": scale * jax.random.normal(keys[0], (num_inputs, width)),
        "b": scale * jax.random.normal(keys[1], (width,)),
        "a": scale * jax.random.normal(keys[2], (width, num_outputs)),
    }


def _network(activation: Callable[[Any], Any], params: Mapping[str, Any], x: Any) -> jax.Array:
    """Two layers; the hidden one has a bias."""
    return activation(x @ params["w"] + params["b"]) @ params["a"]


NETWORKS: dict[Activation, Callable[..., jax.Array]] = {
    "relu": functools.partial(_network, jax.nn.relu),
    "tanh": functools.partial(_network, jnp.tanh),
}


def squared_error(outputs: Any, y: Any) -> jax.Array:
    """The mean over examples and outputs."""
    return jnp.square(outputs - y).mean()


@functools.partial(jax.jit, static_argnums=0)
def _step(
    activation: Activation, params: Any, x: Any, y: Any, learning_rate: float
) -> tuple[Any, jax.Array]:
    network = NETWORKS[activation]
    loss, slopes = jax.value_and_grad(lambda params: squared_error(network(params, x), y))(params)
    return jax.tree.map(lambda p, slope: p - learning_rate * slope, params, slopes), loss


def descend(
    params: Any,
    images: Data,
    activation: Activation,
    *,
    steps: int,
    learning_rate: float,
    until: float = 0.0,
    description: str,
) -> tuple[Any, np.ndarray]:
    """Gradient descent on all training images.

    Args:
        params: where to start.
        images: the data.
        activation: of the hidden layer.
        steps: at most so many.
        learning_rate: of gradient descent.
        until: the loss at which to stop.
        description: for the progress bar.

    Returns:
        The parameters and the losses, from that of the start to theirs, f64[1 + num_steps].
    """
    x, y = jnp.asarray(images.x), jnp.asarray(images.y)
    losses = []
    for _ in tqdm(range(steps + 1), desc=description, unit=" steps", leave=False):
        later, loss = _step(activation, params, x, y, learning_rate)
        losses.append(float(loss))
        if losses[-1] <= until or len(losses) > steps:
            break
        params = later
    return params, np.asarray(losses)
