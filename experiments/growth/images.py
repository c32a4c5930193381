"""Images as rows of pixels, small enough to stay on the device."""

import functools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import DatasetName, load


class Images(NamedTuple):
    """Rows of pixels in [0, 1] and their classes.

    Attributes:
        train: f32[num_train, num_pixels].
        train_labels: i32[num_train].
        test: f32[num_test, num_pixels].
        test_labels: i32[num_test].
    """

    train: jax.Array
    train_labels: jax.Array
    test: jax.Array
    test_labels: jax.Array


@functools.cache
def images(
    dataset: DatasetName,
    num_train: int,
    data_dir: str | os.PathLike | None = None,
    *,
    pool: int = 1,
) -> Images:
    """Reads the test images of a data set and some training images, the same at every call.

    Args:
        dataset: which.
        num_train: how many training images; all where there are fewer.
        data_dir: as for `load`.
        pool: side of the squares of pixels of which the mean is taken.

    Returns:
        The images.
    """
    data = load(dataset, data_dir)
    chosen = np.random.default_rng(0).permutation(len(data.train_labels))[:num_train]

    def rows(pictures: np.ndarray) -> jax.Array:
        number, height, width, channels = pictures.shape
        squares = (number, height // pool, pool, width // pool, pool, channels)
        means = pictures.reshape(squares).mean((2, 4), dtype=np.float32)
        return jnp.asarray(means.reshape(number, -1) / np.float32(255))

    return Images(
        rows(data.train_images[chosen]),
        jnp.asarray(data.train_labels[chosen]),
        rows(data.test_images),
        jnp.asarray(data.test_labels),
    )
