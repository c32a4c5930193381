"""A recurrent network that must remember, and the gradient of its loss by several methods."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from pfn_optax.dynamics import flossing_loss, value_and_grad_long

Params = dict[str, dict[str, jax.Array]]
Method = Literal["backprop", "kernel", "path_kernel"]
METHODS: tuple[Method, ...] = get_args(Method)
DISTRACTION = 0.1
"""Standard deviation of the inputs that mean nothing."""
ALPHA = 0.3
"""Share of a perturbation that the path kernel leaves to the noise, at every step."""


class Task(NamedTuple):
    """Delayed XOR: two signs come first, then noise; at the end their product is asked for.

    The noise is what makes it hard: without it, a readout could tell the four final states apart
    however chaotic the network is.

    Attributes:
        num_units: hidden units.
        horizon: T, number of inputs.
        gain: of the recurrent weights, N(0, gain^2 / num_units); chaotic above 1.
        batch_size: sequences in a training step.
    """

    num_units: int
    horizon: int
    gain: float
    batch_size: int


class Sequences(NamedTuple):
    """Inputs with their targets, one of each per step, as `value_and_grad_long` wants them.

    Attributes:
        inputs: f32[batch, T, 1].
        targets: f32[batch, T], the product of the signs, again and again.
    """

    inputs: jax.Array
    targets: jax.Array


def init(task: Task, key: jax.Array) -> Params:
    """Draws parameters."""
    first, second, third = jax.random.split(key, 3)
    size, scale = task.num_units, task.num_units**-0.5
    return {
        "input": {"kernel": jax.random.normal(first, (1, size))},
        "recurrent": {
            "kernel": task.gain * scale * jax.random.normal(second, (size, size)),
            "bias": jnp.zeros(size),
        },
        "head": {
            "kernel": scale * jax.random.normal(third, (size, 1)),
            "bias": jnp.zeros(1),
        },
    }


def sequences(task: Task, key: jax.Array, number: int) -> Sequences:
    """Draws examples."""
    first, second = jax.random.split(key)
    signs = jax.random.rademacher(first, (number, 2)).astype(jnp.float32)
    noise = DISTRACTION * jax.random.normal(second, (number, task.horizon - 2))
    inputs = jnp.concatenate([signs, noise], axis=1)[..., None]
    targets = jnp.broadcast_to(signs.prod(axis=1, keepdims=True), (number, task.horizon))
    return Sequences(inputs, targets)


def step(params: Params, state: jax.Array, inputs: jax.Array) -> jax.Array:
    """One step of the network: f[..., num_units] and f[..., 1] to f[..., num_units]."""
    recurrent = params["recurrent"]
    drive = inputs @ params["input"]["kernel"]
    return jnp.tanh(state @ recurrent["kernel"] + drive + recurrent["bias"])


def logit(params: Params, state: jax.Array) -> jax.Array:
    """The readout, f[..., num_units] to f[...]; its sign is the answer."""
    return (state @ params["head"]["kernel"] + params["head"]["bias"])[..., 0]


def final_logits(params: Params, inputs: jax.Array) -> jax.Array:
    """The answers to f[batch, T, 1], by a scan, without noise."""
    start = jnp.zeros((len(inputs), params["recurrent"]["kernel"].shape[0]))
    state, _ = jax.lax.scan(
        lambda state, now: (step(params, state, now), None), start, jnp.swapaxes(inputs, 0, 1)
    )
    return logit(params, state)


def loss(params: Params, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean logistic loss (nats) of the answers to f[batch, T, 1]; targets f[batch] are signs."""
    return jax.nn.softplus(-targets * final_logits(params, inputs)).mean()


def accuracy(params: Params, examples: Sequences) -> jax.Array:
    """The share of right answers, without noise."""
    return jnp.mean(final_logits(params, examples.inputs) * examples.targets[:, -1] > 0)


Gradient = Callable[[Params, Sequences, jax.Array, jax.Array], tuple[jax.Array, Params]]
"""(params, examples, key, noise) -> loss and gradient."""


def gradient_by(method: Method, task: Task, num_replicas: int) -> Gradient:
    """Makes the gradient of the mean loss at the end, for an optimizer.

    Args:
        method: of `value_and_grad_long`.
        task: what to learn.
        num_replicas: noisy copies of every example, for the methods with noise.

    Returns:
        The function; backpropagation goes without noise, whatever it is told.
    """

    def objective(params: Params, state: jax.Array, now: Sequences) -> jax.Array:
        return jax.nn.softplus(-now.targets * logit(params, state))

    def one_step(params: Params, state: jax.Array, now: Sequences) -> jax.Array:
        return step(params, state, now.inputs)

    def gradient(params, examples, key, noise):
        options: dict[str, Any] = {}
        if method != "backprop":
            options = {"noise": noise, "num_replicas": num_replicas}
        if method == "path_kernel":
            options["alpha"] = ALPHA
        at_end = value_and_grad_long(
            one_step, objective, num_steps=task.horizon, average="end", method=method, **options
        )
        keys = jax.random.split(key, len(examples.inputs))
        start = jnp.zeros(task.num_units)
        found = jax.vmap(lambda now, key: at_end(params, start, inputs=now, key=key))(
            examples, keys
        )
        return found.value.mean(), jax.tree.map(lambda leaf: leaf.mean(axis=0), found.gradient)

    return gradient


def exponents_loss(
    task: Task, params: Params, inputs: jax.Array, num_steps: int, num_exponents: int
) -> jax.Array:
    """`flossing_loss` over the last steps of f[batch, T, 1].

    Only the last ones: the gradient of an exponent passes through the trajectory, and over many
    steps of chaos it explodes as the loss's own does.
    """

    def of_one(inputs):
        early, late = inputs[: task.horizon - num_steps], inputs[task.horizon - num_steps :]
        start, _ = jax.lax.scan(
            lambda state, now: (step(params, state, now), None), jnp.zeros(task.num_units), early
        )
        return flossing_loss(
            lambda state, now: step(params, state, now),
            jax.lax.stop_gradient(start),
            inputs=late,
            num_exponents=num_exponents,
        )

    return jax.vmap(of_one)(inputs).mean()
