"""Deep tanh classifiers of points in the plane and of images, trained side by side."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import load

Task = Literal["moons", "rings", "mnist", "digits"]
BATCH_SIZE, LEARNING_RATE, WEIGHT_SCALE = 128, 1e-3, 1.0
NUM_POINTS = 2000

Params = dict[str, dict[str, jax.Array]]


class Data(NamedTuple):
    """Inputs f32[n, num_inputs] and labels i32[n], to train on and to test with."""

    inputs: np.ndarray
    labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray


@functools.cache
def data(task: Task) -> Data:
    """Points with mean 0 and variance 1 in each coordinate; images with pixels from 0 to 1."""
    if task in ("mnist", "digits"):
        images = load(task)
        train, test = (
            pixels.reshape(len(pixels), -1).astype(np.float32) / 255
            for pixels in (images.train_images, images.test_images)
        )
        return Data(train, images.train_labels, test, images.test_labels)
    from sklearn.datasets import make_circles, make_moons

    if task == "moons":
        points, labels = map(np.asarray, make_moons(2 * NUM_POINTS, noise=0.1, random_state=0))
    else:
        drawn = make_circles(2 * NUM_POINTS, noise=0.1, factor=0.5, random_state=0)
        points, labels = map(np.asarray, drawn)
    points = ((points - points.mean(0)) / points.std(0)).astype(np.float32)
    labels = labels.astype(np.int32)
    half = NUM_POINTS
    return Data(points[:half], labels[:half], points[half:], labels[half:])


def init(key: jax.Array, num_inputs: int, width: int, depth: int, num_classes: int) -> Params:
    """Draws weights from N(0, 1 / fan-in), as at the edge of chaos of tanh; biases are zero."""
    sizes = (num_inputs, *(depth * [width]), num_classes)
    params = {}
    for index, own in enumerate(jax.random.split(key, depth + 1)):
        fan_in, fan_out = sizes[index : index + 2]
        kernel = jax.random.normal(own, (fan_in, fan_out)) * (WEIGHT_SCALE / fan_in) ** 0.5
        params[f"Dense_{index}"] = {"kernel": kernel, "bias": jnp.zeros(fan_out)}
    return params


def features(params: Params, inputs: jax.Array) -> jax.Array:
    """What the last hidden layer makes of f32[..., num_inputs]: f32[..., width]."""
    *hidden, _ = params.values()
    for layer in hidden:
        inputs = jnp.tanh(inputs @ layer["kernel"] + layer["bias"])
    return inputs


def logits(params: Params, inputs: jax.Array) -> jax.Array:
    """Maps f32[..., num_inputs] to f32[..., num_classes]."""
    *_, head = params.values()
    return features(params, inputs) @ head["kernel"] + head["bias"]


def margins(outputs: jax.Array) -> jax.Array:
    """How far the largest logit is above the next, f32[...]; 0 on a decision boundary."""
    largest, _ = jax.lax.top_k(outputs, 2)
    return largest[..., 0] - largest[..., 1]


@functools.partial(jax.jit, static_argnames=("width", "depth", "steps", "num_seeds"))
def train(
    inputs: jax.Array, labels: jax.Array, *, width: int, depth: int, steps: int, num_seeds: int
) -> Any:
    """Trains a classifier per seed by Adam; a tree with an axis for the seeds in front."""
    optimizer = optax.adam(LEARNING_RATE)
    num_classes = 10 if inputs.shape[1] > 2 else 2

    def one(seed: jax.Array) -> Any:
        key = jax.random.key(seed)
        params = init(key, inputs.shape[1], width, depth, num_classes)

        def step(carry, number):
            params, state = carry
            chosen = jax.random.randint(
                jax.random.fold_in(key, number), (BATCH_SIZE,), 0, len(labels)
            )

            def loss(params):
                return optax.softmax_cross_entropy_with_integer_labels(
                    logits(params, inputs[chosen]), labels[chosen]
                ).mean()

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        carry = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
        return params

    return jax.vmap(one)(jnp.arange(num_seeds))
