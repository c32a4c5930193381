"""A scenario at a protocol's size: images, network, and how its parameters are cut."""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import models
from experiments.claims.arms import Flow, Scenario
from experiments.claims.protocols import Protocol
from experiments.data import Dataset, DatasetName, load
from experiments.errors import UsageError
from experiments.graphs import flow_options
from experiments.training import Network
from pfn_optax import GraphWarning
from pfn_optax.units import UnitSpec, unit_spec


@functools.cache
def material(
    name: DatasetName, data_dir: Path | None, protocol: Protocol
) -> tuple[Dataset, Dataset]:
    """The images of a study.

    Args:
        name: Data set.
        data_dir: As in `load`.
        protocol: Sizes.

    Returns:
        Training images with the test images, and with the validation images in their place.

    Raises:
        UsageError: If the data set has too few images.
    """
    whole = load(name, data_dir)
    order = np.random.default_rng(0).permutation(len(whole.train_labels))
    ends = protocol.train_images, protocol.train_images + protocol.validation_images
    if ends[1] > len(order):
        raise UsageError(f"the protocol takes {ends[1]} training images; {name} has {len(order)}")
    chosen, held = order[: ends[0]], order[ends[0] : ends[1]]
    small = dataclasses.replace(
        whole,
        train_images=averaged(whole.train_images[chosen], protocol.image_size),
        train_labels=whole.train_labels[chosen],
        test_images=averaged(whole.test_images, protocol.image_size),
    )
    validation = dataclasses.replace(
        small,
        test_images=averaged(whole.train_images[held], protocol.image_size),
        test_labels=whole.train_labels[held],
    )
    return small, validation


def averaged(images: np.ndarray, size: int) -> np.ndarray:
    """Images averaged down over squares of pixels.

    Args:
        images: `u8[num, height, width, channels]`, square, of a multiple of `size`.
        size: New height and width.

    Returns:
        `u8[num, size, size, channels]`.
    """
    num, height, width, channels = images.shape
    if height != width or height % size:
        raise UsageError(f"images of {height} x {width} cannot be averaged to {size} x {size}")
    step = height // size
    squares = images.reshape(num, size, step, size, step, channels)
    return np.round(squares.mean((2, 4), dtype=np.float32)).astype(np.uint8)


class Setting:
    """A scenario's network on a study's images."""

    def __init__(self, scenario: Scenario, dataset: Dataset, protocol: Protocol):
        """Put them together.

        Args:
            scenario: The network.
            dataset: Training images, and those to be tested on (only shapes are read of them).
            protocol: Sizes.
        """
        self.dataset = dataset
        self.protocol = protocol
        build = functools.partial(
            models.build,
            scenario,
            image_shape=dataset.image_shape,
            num_classes=dataset.num_classes,
            width=protocol.width,
        )
        self.network = Network(lambda rngs: build(rngs=rngs), dataset)
        self._batch = dataset.train_images[:2], dataset.train_labels[:2]

    @functools.cache  # noqa: B019 - as long-lived as the programs
    def flow(self, flow: Flow) -> dict[str, Any]:
        """The options of `pfn` that say how parameters are cut and joined."""
        size = self.protocol.block_size if flow.num_blocks is None else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", GraphWarning)  # of waists of one chunk
            return flow_options(
                flow.graph,
                self.network,
                self.dataset,
                block_size=size,
                num_blocks=flow.num_blocks,
            )

    @functools.cached_property
    def spec(self) -> UnitSpec:
        """The groups of hidden units."""

        def logits(params, rest, images):
            return self.network.apply(params, rest, images, training=False)[0]

        params, rest = jax.eval_shape(self.network.init, jax.random.key(0))
        if jax.tree.leaves(rest):
            raise UsageError("growth and rebalancing are for networks without batch norm")
        images = jax.ShapeDtypeStruct(self._batch[0].shape, np.float32)
        return unit_spec(lambda params, x: logits(params, rest, x), params, images, check=False)
