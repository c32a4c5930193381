"""Trains a reference and the others of a repeat, and averages them in every way."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Dataset
from experiments.mlp import Params, init, logits
from pfn_optax.align import align, align_many, distance, with_alignment
from pfn_optax.units import UnitSpec, unit_spec

HIDDEN = (64, 64)
BATCH_SIZE, LEARNING_RATE = 100, 1e-3


class Images(NamedTuple):
    """Images f32[n, pixels] in [0, 1] with labels i32[n]."""

    inputs: jax.Array
    labels: jax.Array


def splits(data: Dataset) -> tuple[Images, Images]:
    """Training and test images, each a vector."""
    train, test = (
        Images(jnp.float32(images.reshape(len(images), -1) / 255), jnp.int32(labels))
        for images, labels in (
            (data.train_images, data.train_labels),
            (data.test_images, data.test_labels),
        )
    )
    return train, test


@functools.cache
def spec_of(num_inputs: int, num_classes: int) -> UnitSpec:
    """The hidden units of the MLP."""
    params = jax.eval_shape(lambda: init(jax.random.key(0), (num_inputs, *HIDDEN, num_classes)))
    return unit_spec(logits, params, jax.ShapeDtypeStruct((1, num_inputs), jnp.float32))


@jax.jit
def accuracy(params: Params, images: Images) -> jax.Array:
    """The share of images that are classified right."""
    return jnp.mean(logits(params, images.inputs).argmax(-1) == images.labels)


@functools.partial(jax.jit, static_argnames=("steps", "num_classes", "every"))
def train(
    images: Images,
    seeds: jax.Array,
    reference: Params | None = None,
    *,
    num_classes: int,
    steps: int,
    every: int | None = None,
) -> tuple[Params, jax.Array]:
    """Trains one MLP per seed by Adam.

    Args:
        images: what to train on.
        seeds: i32[num_models], of the parameters and the batches.
        reference: parameters to align to while training; None to leave the units as they are.
        num_classes: number of logits.
        steps: number of batches.
        every: steps between matchings to the reference.

    Returns:
        The parameters, with an axis for the models in front, and the losses f32[models, steps].
    """
    optimizer = optax.adam(LEARNING_RATE)
    num_inputs = images.inputs.shape[1]
    if reference is not None and every is not None:
        spec = spec_of(num_inputs, num_classes)
        optimizer = with_alignment(optimizer, reference, spec, every=every)

    @jax.vmap
    def run(seed: jax.Array) -> tuple[Any, jax.Array]:
        key = jax.random.key(seed)
        params = init(key, (num_inputs, *HIDDEN, num_classes))

        def step(carry, number):
            params, state = carry
            chosen = jax.random.randint(
                jax.random.fold_in(key, number), (BATCH_SIZE,), 0, len(images.labels)
            )

            def loss(params):
                return optax.softmax_cross_entropy_with_integer_labels(
                    logits(params, images.inputs[chosen]), images.labels[chosen]
                ).mean()

            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        carry = params, optimizer.init(params)
        (params, _), losses = jax.lax.scan(step, carry, jnp.arange(steps))
        return params, losses

    return run(seeds)


def repeat(
    data: tuple[Images, Images],
    *,
    number: int,
    others: int,
    num_classes: int,
    steps: int,
    every: int,
) -> dict[str, Any]:
    """One repeat: trains, averages in every way, and measures.

    Args:
        data: training and test images.
        number: of the repeat; sets all its seeds.
        others: how many networks beside the reference.
        num_classes: number of classes.
        steps: training steps.
        every: steps between matchings of `with_alignment`.

    Returns:
        Test accuracies and distances, as JSON values.
    """
    images, test = data
    first = 1000 * number
    run = functools.partial(train, images, num_classes=num_classes, steps=steps)
    batch, _ = run(jnp.asarray([first]))
    reference = _take(batch, 0)
    spec = spec_of(images.inputs.shape[1], num_classes)
    seeds = jnp.arange(first + 1, first + 1 + others)
    raw, raw_losses = run(seeds)
    moved, moved_losses = run(seeds, reference, every=every)
    models = [_take(raw, k) for k in range(others)]
    during = [_take(moved, k) for k in range(others)]
    at_end = [align(reference, model, spec).params for model in models]
    together = align_many([reference, *models], spec)
    ways: Mapping[str, Sequence[Params]] = {
        "raw": [reference, *models],
        "once at the end": [reference, *at_end],
        "all together at the end": [alignment.params for alignment in together],
        "while training": [reference, *during],
        "while training, once more": [
            reference,
            *(align(reference, model, spec).params for model in during),
        ],
    }
    return {
        "single": [float(accuracy(model, test)) for model in ways["raw"]],
        "largest change of a loss": float(np.max(np.abs(raw_losses - moved_losses))),
        "change of the last 50 losses": float(
            np.mean(np.abs(np.mean((raw_losses - moved_losses)[:, -50:], axis=1)))
        ),
        "ways": {way: _measured(trees, test) for way, trees in ways.items()},
    }


def _measured(models: Sequence[Params], test: Images) -> dict[str, float]:
    reference, *others = models
    pairs = [_mean([reference, other]) for other in others]
    return {
        "pair": float(np.mean([accuracy(pair, test) for pair in pairs])),
        "all": float(accuracy(_mean(models), test)),
        "distance": float(np.mean([distance(reference, other) for other in others])),
    }


def _mean(models: Sequence[Params]) -> Params:
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *models)


def _take(batch: Params, number: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[number], batch)
