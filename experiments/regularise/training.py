"""Trains all seeds, learning rates and strengths of an arm at once, under `vmap`."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import load
from experiments.mlp import Params, logits
from experiments.regularise.networks import (
    Arm,
    Start,
    cross_entropy,
    flow,
    init,
    penalty,
    smallest_rank,
)

NUM_VALIDATION, BATCH_SIZE = 300, 64


class Split(NamedTuple):
    """Digits as f32[n, 64] in [0, 1], with labels i32[n]."""

    images: jax.Array
    labels: jax.Array


class Outcome(NamedTuple):
    """What came of the models, each entry f[num_models].

    Attributes:
        validation: accuracy on the validation digits.
        test: accuracy on the test digits.
        loss: cross entropy on the training digits, nats.
        flow: maximum flow, directions.
        smallest_rank: effective rank of the layer where it is smallest.
    """

    validation: jax.Array | np.ndarray
    test: jax.Array | np.ndarray
    loss: jax.Array | np.ndarray
    flow: jax.Array | np.ndarray
    smallest_rank: jax.Array | np.ndarray


@functools.cache
def digits() -> dict[str, Split]:
    """Training, validation and test digits; the test digits are the data set's own."""
    data = load("digits")
    order = np.random.default_rng(0).permutation(len(data.train_labels))
    parts = {"validation": order[:NUM_VALIDATION], "train": order[NUM_VALIDATION:]}
    found = {
        name: (data.train_images[chosen], data.train_labels[chosen])
        for name, chosen in parts.items()
    } | {"test": (data.test_images, data.test_labels)}
    return {
        name: Split(jnp.float32(images.reshape(len(images), -1) / 255), jnp.int32(labels))
        for name, (images, labels) in found.items()
    }


def train(
    start: Start,
    arm: Arm,
    *,
    seeds: np.ndarray,
    learning_rates: np.ndarray,
    strengths: np.ndarray,
    marks: tuple[int, ...],
) -> list[Outcome]:
    """Trains by SGD with momentum .9; one model per entry of the three arrays.

    A seed sets the parameters and the batches, so the arms are paired by it.

    Args:
        start: which network.
        arm: which regulariser.
        seeds: i32[num_models].
        learning_rates: f32[num_models].
        strengths: f32[num_models], factors of the regulariser.
        marks: steps after which to look, increasing; training ends at the last.

    Returns:
        One outcome per mark.
    """
    models = jnp.int32(seeds), jnp.float32(learning_rates), jnp.float32(strengths)
    params = jax.vmap(functools.partial(init, start))(models[0])
    state = jax.vmap(_sgd(0.0).init)(params)
    outcomes = []
    for first, last in zip((0, *marks), marks, strict=False):
        params, state = _train(arm, digits()["train"], models, (params, state), first, last)
        found = jax.vmap(_look, (0, None))(params, digits())
        outcomes.append(Outcome(*(np.asarray(x, np.float64) for x in found)))
    return outcomes


@functools.partial(jax.jit, static_argnums=0)
def _train(
    arm: Arm,
    train: Split,
    models: tuple[jax.Array, jax.Array, jax.Array],
    carry: tuple[Params, optax.OptState],
    first: int,
    last: int,
) -> tuple[Params, optax.OptState]:
    def step(number, model, params, state):
        seed, learning_rate, strength = model
        key = jax.random.fold_in(jax.random.key(seed), number)
        chosen = jax.random.randint(key, (BATCH_SIZE,), 0, len(train.labels))

        def loss(params):
            fit = cross_entropy(params, train.images[chosen], train.labels[chosen])
            return fit + strength * penalty(arm, params)

        updates, state = _sgd(learning_rate).update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def all_models(number, carry):
        return jax.vmap(step, (None, 0, 0, 0))(number, models, *carry)

    return jax.lax.fori_loop(first, last, all_models, carry)


def _sgd(learning_rate: jax.Array | float) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=0.9)


@jax.jit
def _look(params: Params, digits: dict[str, Split]) -> Outcome:
    def accuracy(split):
        return (logits(params, split.images).argmax(-1) == split.labels).mean()

    return Outcome(
        validation=accuracy(digits["validation"]),
        test=accuracy(digits["test"]),
        loss=cross_entropy(params, *digits["train"]),
        flow=flow(params),
        smallest_rank=smallest_rank(params),
    )
