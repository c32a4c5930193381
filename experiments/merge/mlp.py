"""ReLU networks with two hidden layers, and their training: one compiled loop per width."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.mlp import Params, init, logits

BATCH_SIZE, LEARNING_RATE = 128, 1e-3


def cross_entropy(
    params: Params, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross entropy in nats, f32[], and the accuracy."""
    scores = logits(params, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    return losses.mean(), {"accuracy": (scores.argmax(-1) == labels).mean()}


def train(
    seed: int, width: int, images: jax.Array, labels: jax.Array, *, epochs: int, num_classes: int
) -> Params:
    """Trains one network by Adam; the seed sets the parameters and the batches.

    Args:
        seed: any number.
        width: units of each hidden layer.
        images: f32[num_images, num_inputs].
        labels: i32[num_images].
        epochs: passes over the images; a remainder smaller than a batch is left out.
        num_classes: number of outputs.

    Returns:
        The parameters.
    """
    draw = np.random.default_rng((seed, 1))
    num_steps = len(labels) // BATCH_SIZE
    orders = [draw.permutation(len(labels))[: num_steps * BATCH_SIZE] for _ in range(epochs)]
    batches = np.stack(orders).reshape(-1, BATCH_SIZE)
    params = init(jax.random.key(seed), (images.shape[1], width, width, num_classes))
    return _train(params, images, labels, jnp.asarray(batches))


@functools.partial(jax.jit, donate_argnums=0)
def _train(params: Any, images: jax.Array, labels: jax.Array, batches: jax.Array) -> Params:
    optimizer = optax.adam(LEARNING_RATE)

    def step(carry: Any, chosen: jax.Array) -> tuple[Any, None]:
        params, state = carry
        grads = jax.grad(lambda p: cross_entropy(p, images[chosen], labels[chosen])[0])(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    (trained, _), _ = jax.lax.scan(step, carry, batches)
    return trained
