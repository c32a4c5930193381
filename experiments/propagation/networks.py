"""Deep classifiers that differ in their start, norm and shortcuts; trained and watched."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.propagation.layers import Norm, batch_norm
from pfn_optax.propagation import (
    activation_monitor,
    activation_rank,
    activation_taps,
    critical_init,
    mean_cosine,
    propagation_monitor,
)

BATCH_SIZE = 128
Params = dict[str, dict[str, jax.Array]]


class Arm(NamedTuple):
    """A network.

    Attributes:
        activation: "relu" or "tanh".
        start: "default" (variance 1 / fan-in, as Flax does), "critical", or "orthogonal", which is
            critical too, with biases of standard deviation .1.
        norm: batch norm of the preactivations (with shortcuts, of what a branch reads).
        has_shortcuts: x + W f(x) / sqrt(depth) instead of f(W x).
    """

    activation: str = "relu"
    start: str = "default"
    norm: Norm = "none"
    has_shortcuts: bool = False


ARMS = {
    "ReLU, default": Arm(),
    "ReLU, critical": Arm(start="critical"),
    "tanh, critical orthogonal": Arm("tanh", "orthogonal"),
    "ReLU, batch norm": Arm(norm="centred"),
    "ReLU, residual": Arm(start="critical", has_shortcuts=True),
    "ReLU, residual, batch norm": Arm(start="critical", norm="centred", has_shortcuts=True),
}


class Sizes(NamedTuple):
    """Pixels of an image, units of a layer, hidden layers."""

    inputs: int
    width: int
    depth: int


class Watched(NamedTuple):
    """A training.

    Attributes:
        loss: f32[steps], of the batch before the step (nats).
        accuracy: f32[records], on the test images, `every` steps after the record; batch norm takes
            the moments of these.
        steps: i32[records], of the records; 0 is the start.
        rank: f32[records, depth], of the activations of each hidden layer on test images.
        cosine: f32[records, depth], mean cosine between two of them.
        gradient: f32[records, depth + 1], norm of the gradient of each layer, the head last.
    """

    loss: jax.Array
    accuracy: jax.Array
    steps: jax.Array
    rank: jax.Array
    cosine: jax.Array
    gradient: jax.Array


def init(arm: Arm, sizes: Sizes, key: jax.Array) -> Params:
    """Draws the parameters; the head is as Flax has it."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[arm.activation]
    default = jax.nn.initializers.lecun_normal(), jax.nn.initializers.zeros
    hidden = default
    if arm.start == "critical":
        hidden = critical_init(activation)[:2]
    elif arm.start == "orthogonal":
        hidden = critical_init(activation, 0.1, distribution="orthogonal")[:2]
    widths = (sizes.inputs, *(sizes.depth * [sizes.width]), 10)
    params = {}
    for index, own in enumerate(jax.random.split(key, sizes.depth + 1)):
        kernel_init, bias_init = hidden if index < sizes.depth else default
        first, second = jax.random.split(own)
        fan_in, fan_out = widths[index : index + 2]
        params[f"Dense_{index}"] = {
            "kernel": kernel_init(first, (fan_in, fan_out), jnp.float32),
            "bias": bias_init(second, (fan_out,), jnp.float32),
        }
    return params


def logits(arm: Arm, params: Params, x: jax.Array) -> jax.Array:
    """Maps f32[batch, pixels] to f32[batch, 10]."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[arm.activation]
    depth = len(params) - 1

    def apply(index: int, x: jax.Array) -> jax.Array:
        return x @ params[f"Dense_{index}"]["kernel"]

    def bias(index: int) -> jax.Array:
        return params[f"Dense_{index}"]["bias"]

    def normed(x: jax.Array) -> jax.Array:
        return batch_norm(x, arm.norm, 1e-5)

    if not arm.has_shortcuts:
        for index in range(depth):
            x = activation(normed(apply(index, x)) + bias(index))
    else:
        x = apply(0, x) + bias(0)
        for index in range(1, depth):
            branch = apply(index, activation(normed(x))) + bias(index)
            x = x + branch / depth**0.5
        x = activation(normed(x))
    return apply(depth, x) + bias(depth)


def loss(arm: Arm, params: Params, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy, in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(arm, params, x), labels).mean()


def of_activations(pre: jax.Array, post: jax.Array) -> dict[str, jax.Array]:
    """What is recorded of a layer."""
    del pre
    return {"rank": activation_rank(post), "cosine": mean_cosine(post)}


@functools.partial(jax.jit, static_argnames=("arm", "sizes", "steps", "every"))
def train(
    arm: Arm, sizes: Sizes, data: Any, seed: jax.Array, rate: jax.Array, *, steps: int, every: int
) -> Watched:
    """Trains a network by Adam at a constant rate, watched by both monitors.

    Args:
        arm: the network.
        sizes: its shape.
        data: images f32[n, pixels] and labels to train on, and the same to test with.
        seed: of parameters and batches.
        rate: learning rate.
        steps: of training, a multiple of `every`.
        every: steps between records.
    """
    images, labels, test_images, test_labels = data
    key = jax.random.key(seed)
    params = init(arm, sizes, key)
    names = tuple(f"Dense_{index}" for index in range(sizes.depth + 1))
    probe = test_images[:BATCH_SIZE]
    taps = activation_taps(
        functools.partial(logits, arm), params, probe, statistics=of_activations, layers=names[:-1]
    )
    watch = activation_monitor(taps, every=every, capacity=steps // every)
    optimizer = optax.chain(
        optax.adam(rate), propagation_monitor(every=every, capacity=steps // every, order=names)
    )

    def batch(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        own = jax.random.fold_in(key, number)
        chosen = jax.random.randint(own, (BATCH_SIZE,), 0, len(labels))
        return images[chosen], labels[chosen]

    def accuracy(params: Params) -> jax.Array:
        return jnp.mean(logits(arm, params, test_images).argmax(axis=1) == test_labels)

    value_and_grad = jax.value_and_grad(functools.partial(loss, arm))

    def step(carry: Any, number: jax.Array) -> tuple[Any, jax.Array]:
        params, state, seen = carry
        value, grads = value_and_grad(params, *batch(number))
        updates, state = optimizer.update(grads, state, params, grad=grads)
        seen = watch.update(seen, params, probe)  # before the step, as the gradients are
        return (optax.apply_updates(params, updates), state, seen), value

    def several(carry: Any, numbers: jax.Array) -> tuple[Any, Any]:
        carry, losses = jax.lax.scan(step, carry, numbers)
        return carry, (losses, accuracy(carry[0]))

    # The monitors record in every `every`-th step: so counted, the first one is of the start.
    start = jnp.int32(every - 1)
    initial: Any = optimizer.init(params)
    first, second = initial
    state = first, second._replace(propagation_step=start)
    seen = watch.init(params, probe)._replace(activation_step=start)
    numbers = jnp.arange(steps).reshape(-1, every)
    (_, state, seen), (losses, right) = jax.lax.scan(several, (params, state, seen), numbers)

    def over_time(name: str) -> jax.Array:
        found = [seen.activation_values[layer][name] for layer in names[:-1]]
        return jnp.stack(found, axis=1)

    return Watched(
        loss=losses.ravel(),
        accuracy=right,
        steps=seen.activation_steps - every,
        rank=over_time("rank"),
        cosine=over_time("cosine"),
        gradient=optax.tree.get(state, "propagation_gradient_norm"),
    )
