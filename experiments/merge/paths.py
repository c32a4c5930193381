"""Curves as JSON and back, and the batches that they are measured on."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.data import Dataset
from pfn_optax.align import Curve

Curves = Mapping[str, Curve]
Batches = list[tuple[Any, ...]]

BATCH_SIZE = 1000


def batches_of(dataset: Dataset, num_images: int, *, flat: bool = False) -> dict[str, Batches]:
    """The first training and test images, in batches; exact means need no shuffling.

    Args:
        dataset: the data.
        num_images: how many of each at most.
        flat: whether images are vectors in [0, 1]; else u8 as they are.

    Returns:
        Batches of images and labels by split.
    """
    found: dict[str, Batches] = {}
    for split in ("train", "test"):
        images = getattr(dataset, f"{split}_images")[:num_images]
        labels = getattr(dataset, f"{split}_labels")[:num_images]
        if flat:
            images = (images.reshape(len(images), -1) / 255).astype(np.float32)
        found[split] = [
            (jnp.asarray(images[start:][:BATCH_SIZE]), jnp.asarray(labels[start:][:BATCH_SIZE]))
            for start in range(0, len(images), BATCH_SIZE)
        ]
    return found


def to_json(curves: Curves) -> dict[str, Any]:
    """Curves by split as numbers, with their barriers."""
    return {
        split: {
            "barrier": curve.barrier,
            "highest": curve.highest,
            "losses": curve.losses.tolist(),
            "accuracy": curve.metrics["accuracy"].tolist(),
        }
        for split, curve in curves.items()
    }


def from_json(record: Mapping[str, Any]) -> dict[str, Curve]:
    """The inverse of `to_json`."""
    return {
        split: Curve(
            np.linspace(0, 1, len(one["losses"])),
            np.asarray(one["losses"]),
            {"accuracy": np.asarray(one["accuracy"])},
        )
        for split, one in record.items()
    }


def middle(values: Sequence[float]) -> float:
    """The value half-way, of an odd number of points."""
    return values[len(values) // 2]
