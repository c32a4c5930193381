"""A small convolutional network, its data and its training."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from experiments.data import DatasetName, load

_BATCH, _TEST_BATCH = 128, 500
_ADAM = optax.scale_by_adam()


class Images(NamedTuple):
    """Labelled images, normalised by channel as they are used.

    Attributes:
        x: of training, u8[num_train, height, width, channels].
        y: i32[num_train].
        test_x: u8[num_test, height, width, channels].
        test_y: i32[num_test].
        moments: mean and standard deviation of each channel, in [0, 1].
        num_classes: labels are 0 to `num_classes` - 1.
    """

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    moments: tuple[np.ndarray, np.ndarray]
    num_classes: int

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of mean 0 and variance 1."""
        mean, deviation = self.moments
        return (pixels.astype(np.float32) / 255 - mean) / deviation


def images_of(name: DatasetName, num_images: int) -> Images:
    """The first images of a data set to train on, and all its test images."""
    found = load(name)
    return Images(
        found.train_images[:num_images],
        found.train_labels[:num_images],
        found.test_images,
        found.test_labels,
        found.channel_moments(),
        found.num_classes,
    )


def start(seed: int, images: Images, width: int, scale: float) -> dict[str, Any]:
    """Weights drawn by He's rule times the scale, for `width`, then twice as many channels."""
    sizes = (images.x.shape[-1], width, 2 * width, 2 * width, images.num_classes)
    keys = jax.random.split(jax.random.key(seed), len(sizes) - 1)
    params = {}
    for place, key in enumerate(keys):
        fan_in, fan_out = sizes[place : place + 2]
        name, window = ("head", ()) if place == len(keys) - 1 else (f"conv{place}", (3, 3))
        deviation = scale * (2 / (fan_in * np.prod(window))) ** 0.5
        kernel = deviation * jax.random.normal(key, (*window, fan_in, fan_out))
        params[name] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
    return params


def network(params: Any, x: Any) -> jax.Array:
    """Three convolutions of stride 2 with ReLUs, the mean over places, a linear layer."""
    *convolutions, head = (params[name] for name in sorted(params))
    for layer in convolutions:
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + layer["bias"])
    return x.mean((1, 2)) @ head["kernel"] + head["bias"]


@jax.jit
def _step(params: Any, state: Any, x: Any, y: Any, rate: Any) -> tuple[Any, Any, jax.Array]:
    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(network(params, x), y).mean()

    value, slopes = jax.value_and_grad(loss)(params)
    updates, state = _ADAM.update(slopes, state)
    return jax.tree.map(lambda p, update: p - rate * update, params, updates), state, value


def train(
    params: Any, images: Images, *, steps: int, learning_rate: float, seed: int, description: str
) -> Any:
    """Adam on batches of 128, at a rate that falls to 0 as a cosine.

    Args:
        params: where to start.
        images: the data.
        steps: how many.
        learning_rate: the first.
        seed: of the batches.
        description: for the progress bar.

    Returns:
        The parameters.
    """
    draw = np.random.default_rng(seed)
    state = _ADAM.init(params)
    bar = tqdm(range(steps), desc=description, unit=" steps", leave=False)
    for step in bar:
        rows = draw.integers(0, len(images.x), _BATCH)
        rate = learning_rate * (1 + np.cos(np.pi * step / steps)) / 2
        x, y = images.normalised(images.x[rows]), images.y[rows]
        params, state, value = _step(params, state, x, y, rate)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    return params


_outputs = jax.jit(network)


def predicted(params: Any, images: Images) -> np.ndarray:
    """The classes of the test images, i64[num_test]."""
    parts = [
        _outputs(params, images.normalised(images.test_x[place : place + _TEST_BATCH])).argmax(-1)
        for place in range(0, len(images.test_x), _TEST_BATCH)
    ]
    return np.concatenate([np.asarray(part) for part in parts])
