"""Real data in batches: images, images read row by row, text; and what may be wrong with them."""

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from experiments.data import load

Batch = dict[str, np.ndarray]
"""`inputs`, and `labels` i32: of each example, or of each place of a text."""
Source = Callable[[int], Callable[[int], Batch]]
"""Of a seed, batches by number; the same number, the same batch."""
Form = Literal["image", "flat", "rows"]


def images(
    name: Literal["digits", "mnist", "cifar10"] = "digits",
    *,
    size: int = 64,
    form: Form = "image",
    standard: bool = True,
    delay: int = 0,
    dtype: type = np.float32,
) -> Source:
    """Images of a data set's training part.

    Args:
        name: of the data set; digits, which are 8 by 8, come with scikit-learn.
        size: examples in a batch.
        form: `f32[size, height, width, channels]`, `f32[size, pixels]`, or the rows one after
            another, `f32[size, height, width * channels]`.
        standard: whether to subtract the mean and divide by the standard deviation, each one
            number for all pixels; else they are from 0 to 255.
        delay: rows of zeros to put after the image's own.
        dtype: of the inputs.

    Returns:
        The source.
    """

    def of_seed(seed: int) -> Callable[[int], Batch]:
        pixels, labels = _pixels(name)

        def batch(number: int) -> Batch:
            chosen = np.random.default_rng((seed, number)).choice(len(labels), size, replace=False)
            inputs = pixels[chosen].astype(np.float32)
            if standard:
                mean, deviation = _moments(name)
                inputs = (inputs - mean) / deviation
            if form != "image":
                inputs = inputs.reshape(size, *([-1] if form == "flat" else [inputs.shape[1], -1]))
            if delay:
                inputs = np.pad(inputs, ((0, 0), (0, delay), (0, 0)))
            return {"inputs": inputs.astype(dtype), "labels": labels[chosen]}

        return batch

    return of_seed


def text(*, size: int = 16, length: int = 32) -> Source:
    """English text by characters: what scikit-learn says of its data sets.

    Args:
        size: pieces in a batch.
        length: characters in a piece.

    Returns:
        Batches whose inputs are `i32[size, length]` and whose labels are the characters after them.
    """

    def of_seed(seed: int) -> Callable[[int], Batch]:
        codes = _codes()

        def batch(number: int) -> Batch:
            draw = np.random.default_rng((seed, number))
            starts = draw.integers(len(codes) - length, size=size)
            pieces = codes[starts[:, None] + np.arange(length + 1)]
            return {"inputs": pieces[:, :-1], "labels": pieces[:, 1:]}

        return batch

    return of_seed


def changed(source: Source, change: Callable[[np.ndarray], np.ndarray]) -> Source:
    """The same source with its inputs changed."""

    def of_seed(seed: int) -> Callable[[int], Batch]:
        batch = source(seed)

        def altered(number: int) -> Batch:
            one = batch(number)
            return {**one, "inputs": change(one["inputs"])}

        return altered

    return of_seed


def num_characters() -> int:
    """How many different characters `text` has."""
    return int(_codes().max()) + 1


@functools.cache
def _pixels(name: Literal["digits", "mnist", "cifar10"]) -> tuple[np.ndarray, np.ndarray]:
    """At most 10,000 images: enough for a few hundred steps."""
    data = load(name)
    return data.train_images[:10_000], data.train_labels[:10_000].astype(np.int32)


@functools.cache
def _moments(name: Literal["digits", "mnist", "cifar10"]) -> tuple[float, float]:
    pixels = _pixels(name)[0].astype(np.float32)
    return float(pixels.mean()), float(pixels.std())


@functools.cache
def _codes() -> np.ndarray:
    from sklearn import datasets

    names = "breast_cancer diabetes digits iris linnerud wine".split()
    whole = "\n".join(getattr(datasets, f"load_{name}")().DESCR for name in names)
    _, codes = np.unique(np.array(list(whole)), return_inverse=True)
    return codes.astype(np.int32)
