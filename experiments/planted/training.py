"""Real digits in batches, and some steps of training on them."""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import load
from experiments.planted.networks import Architecture, Params

Phase = Literal["initial", "sgd", "adam"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_OPTIMIZERS = {"sgd": optax.sgd(0.02, momentum=0.9), "adam": optax.adam(3e-3)}


def digit_batches(num_batches: int, batch_size: int, *, seed: int) -> tuple[jax.Array, jax.Array]:
    """Draws digits, each once per epoch.

    Args:
        num_batches: how many batches.
        batch_size: digits in each.
        seed: of the order.

    Returns:
        f32[num_batches, batch_size, 8, 8, 1] in [0, 1], and labels i32[num_batches, batch_size].
    """
    digits = load("digits")
    generator = np.random.default_rng(seed)
    needed, available = num_batches * batch_size, len(digits.train_labels)
    epochs = [generator.permutation(available) for _ in range(-(-needed // available))]
    chosen = np.concatenate(epochs)[:needed].reshape(num_batches, batch_size)
    images = digits.train_images[chosen] / np.float32(255)
    return jnp.float32(images), jnp.int32(digits.train_labels[chosen])


def gradients(
    architecture: Architecture, params: Params, batches: tuple[jax.Array, jax.Array]
) -> tuple[float, Params]:
    """Measures the loss and its gradient on each batch.

    Args:
        architecture: the network.
        params: its parameters.
        batches: as `digit_batches`.

    Returns:
        The mean loss in nats, and gradients like `params`, f32[num_batches, ...].
    """
    found = [_gradient(architecture, params, *batch) for batch in zip(*batches, strict=True)]
    losses, slopes = jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)
    return float(losses.mean()), slopes


def train(
    architecture: Architecture,
    phase: Literal["sgd", "adam"],
    params: Params,
    batches: tuple[jax.Array, jax.Array],
) -> Params:
    """Takes one step per batch, by SGD with momentum or by Adam.

    Args:
        architecture: the network.
        phase: the optimizer.
        params: where to start.
        batches: as `digit_batches`.

    Returns:
        The parameters afterwards.
    """
    state = _OPTIMIZERS[phase].init(params)
    # A Python loop: inside of `scan`, XLA's convolutions on CPU are seven times slower.
    for batch in zip(*batches, strict=True):
        _, slopes = _gradient(architecture, params, *batch)
        params, state = _step(phase, slopes, state, params)
    return params


@functools.partial(jax.jit, static_argnums=0)
def _gradient(
    architecture: Architecture, params: Params, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Params]:
    return jax.value_and_grad(architecture.loss)(params, images, labels)


@functools.partial(jax.jit, static_argnums=0)
def _step(
    phase: str, slopes: Params, state: optax.OptState, params: Params
) -> tuple[Any, optax.OptState]:
    updates, state = _OPTIMIZERS[phase].update(slopes, state, params)
    return optax.apply_updates(params, updates), state
