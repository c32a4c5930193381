"""Shuffled, augmented batches that depend on (seed, epoch, image) only.

A run that was interrupted in the middle of an epoch therefore sees the very batches that it would
have seen.
"""

from collections.abc import Iterator

import numpy as np


def batches(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    augment: bool,
    start: int = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Iterate over an epoch's full batches; a remainder smaller than a batch is left out.

    Args:
        images: `u8[num_images, height, width, channels]`.
        labels: `i32[num_images]`.
        batch_size: Images per batch.
        seed: Seed of the run.
        epoch: Number of the epoch.
        augment: Whether to crop and mirror, see `augmented`.
        start: Number of leading batches to leave out.

    Yields:
        `u8[batch_size, height, width, channels]` and `i32[batch_size]`.
    """
    order = np.random.default_rng((seed, epoch, 0)).permutation(len(images))
    randomness = np.random.default_rng((seed, epoch, 1))
    shifts = randomness.integers(0, 9, size=(len(images), 2))
    mirrored = randomness.integers(0, 2, size=len(images)).astype(bool)
    for batch in range(start, len(images) // batch_size):
        chosen = order[batch * batch_size : (batch + 1) * batch_size]
        x = images[chosen]
        if augment:
            x = augmented(x, shifts=shifts[chosen], mirrored=mirrored[chosen])
        yield x, labels[chosen]


def augmented(
    images: np.ndarray, *, shifts: np.ndarray, mirrored: np.ndarray, padding: int = 4
) -> np.ndarray:
    """Pad with black, crop back to the old size, mirror left to right.

    Args:
        images: `u8[batch, height, width, channels]`.
        shifts: `int[batch, 2]`, upper left corner of each crop, in `[0, 2 padding]`.
        mirrored: `bool[batch]`.
        padding: Pixels added on each side.

    Returns:
        Images of the same shape.
    """
    _, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    rows, columns = shifts.T
    crops = windows[np.arange(len(images)), rows, columns].transpose(0, 2, 3, 1)
    return np.where(mirrored[:, None, None, None], crops[:, :, ::-1], crops)
