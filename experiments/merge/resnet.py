"""A small residual network with batch norm as functions of one tree: parameters and statistics."""

import functools
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from experiments import models
from experiments.batches import batches
from experiments.data import Dataset

BATCH_SIZE, LEARNING_RATE = 128, 2e-3


class ResNet8(nnx.Module):
    """One residual block of two convolutions in each of three stages."""

    def __init__(self, channels: int, width: int, num_classes: int, *, rngs: nnx.Rngs):
        """Initialise the parameters."""
        self.stem = models.ConvBlock(channels, width, rngs=rngs)
        self.block1 = models.ResidualBlock(width, width, stride=1, rngs=rngs)
        self.block2 = models.ResidualBlock(width, 2 * width, stride=2, rngs=rngs)
        self.block3 = models.ResidualBlock(2 * width, 4 * width, stride=2, rngs=rngs)
        self.head = nnx.Linear(4 * width, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `f32[batch, h, w, channels]` to `f32[batch, num_classes]`."""
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.head(x.mean(axis=(1, 2)))


class ResNet:
    """The network on a data set, as functions; the tree is the NNX state, statistics included."""

    def __init__(self, dataset: Dataset, width: int):
        """Choose the data, which the images are standardised for, and the width."""

        def build(key: jax.Array) -> ResNet8:
            return ResNet8(
                dataset.image_shape[-1], width, dataset.num_classes, rngs=nnx.Rngs(params=key)
            )

        self._mean, self._deviation = dataset.channel_moments()
        self._graphdef = nnx.graphdef(nnx.eval_shape(lambda: build(jax.random.key(0, impl="rbg"))))
        self._init = jax.jit(lambda key: nnx.state(build(key)))
        self._optimizer = optax.adam(LEARNING_RATE)
        self._step = jax.jit(self._update, donate_argnums=(0, 1))

    def logits(self, state: nnx.State, images: jax.Array) -> jax.Array:
        """Maps u8 images to f32[batch, num_classes], with running statistics."""
        model = nnx.merge(self._graphdef, state)
        model.eval()
        return model((images / 255 - self._mean) / self._deviation)

    def cross_entropy(
        self, state: nnx.State, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross entropy in nats, f32[], and the accuracy."""
        scores = self.logits(state, images)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        return losses.mean(), {"accuracy": (scores.argmax(-1) == labels).mean()}

    def init(self, seed: int) -> nnx.State:
        """The state before training."""
        return self._init(jax.random.key(seed, impl="rbg"))

    def start(self, state: nnx.State) -> optax.OptState:
        """The optimizer's state before training."""
        return self._optimizer.init(nnx.filter_state(state, nnx.Param))

    def step(
        self, state: nnx.State, opt_state: optax.OptState, images: np.ndarray, labels: np.ndarray
    ) -> tuple[nnx.State, optax.OptState]:
        """One update on a batch; the buffers of the states given are reused."""
        return self._step(state, opt_state, images, labels)

    def _update(self, state, opt_state, images, labels):
        params, rest = nnx.split_state(state, nnx.Param, ...)

        @functools.partial(jax.value_and_grad, has_aux=True)
        def loss(params, rest):
            rest = jax.tree.map(lambda leaf: leaf, rest)  # variables this trace may write to
            model = nnx.merge(self._graphdef, params, rest)
            model.train()
            scores = model((images / 255 - self._mean) / self._deviation)
            losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            return losses.mean(), nnx.state(model, nnx.Not(nnx.Param))

        (_, rest), grads = loss(params, rest)
        updates, opt_state = self._optimizer.update(grads, opt_state, params)
        params: Any = optax.apply_updates(params, updates)
        return nnx.merge_state(params, rest), opt_state


def train(
    network: ResNet, dataset: Dataset, *, seed: int, epochs: int, num_images: int
) -> nnx.State:
    """Trains one network by Adam; the seed sets the parameters and the batches.

    Args:
        network: the network.
        dataset: what to train on.
        seed: any number.
        epochs: passes over the images.
        num_images: how many of the training images to use, the first ones.

    Returns:
        The state.
    """
    state = network.init(seed)
    opt_state = network.start(state)
    images, labels = dataset.train_images[:num_images], dataset.train_labels[:num_images]
    total = epochs * (len(images) // BATCH_SIZE)
    with tqdm(total=total, desc=f"seed {seed}", unit=" steps", leave=False) as bar:
        for epoch in range(epochs):
            for x, y in batches(
                images, labels, batch_size=BATCH_SIZE, seed=seed, epoch=epoch, augment=False
            ):
                state, opt_state = network.step(state, opt_state, x, y)
                bar.update()
    return state
