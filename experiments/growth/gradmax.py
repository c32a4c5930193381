"""GradMax's criterion and random candidates: where would new units get the largest gradient?

New units between a layer and the one that reads it pass something of that layer's inputs h to the
reader's outputs. To first order that is a linear bypass B from h to those outputs, and the
gradient of the loss with respect to it, at B = 0, is E[h delta'].
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.mlp import Params

Batch = tuple[jax.Array, jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy in nats of f32[batch, num_classes] for i32[batch]."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def gradmax_scores(
    params: Params, batch: Batch, num_units: int, *, loss: Loss = cross_entropy
) -> dict[str, jax.Array]:
    """The largest squared gradient norm that new units of each group could have.

    New units with incoming weights of zero and outgoing weights V, orthonormal, get the gradient
    E[h delta'] V for their incoming weights. Its squared norm is largest where V spans the leading
    singular vectors: the sum of the `num_units` largest squared singular values. Units of zero
    weights (padding) change nothing, so padded networks of any widths can be batched.

    Args:
        params: of `experiments.mlp`.
        batch: inputs f32[batch, num_inputs] and labels.
        num_units: number of units to add.
        loss: `loss(outputs, labels)`, the mean over the batch.

    Returns:
        f32[] by the group, named after the layer that produces it.

    Reference:
        Evci, van Merriënboer, Unterthiner, Vladymyrov, Pedregosa, "GradMax: growing neural networks
        using gradient information", ICLR 2022.
    """
    layers = list(params)
    bypasses = {
        name: jnp.zeros((params[name]["kernel"].shape[0], params[reader]["kernel"].shape[1]))
        for name, reader in itertools.pairwise(layers)
    }
    found = jax.grad(_loss_with)(bypasses, params, batch, loss, lambda _, inputs: inputs)
    return {name: _leading(gradient, num_units) for name, gradient in found.items()}


def candidate_scores(
    params: Params,
    batch: Batch,
    num_units: int,
    key: jax.Array,
    *,
    num_candidates: int = 64,
    loss: Loss = cross_entropy,
) -> dict[str, jax.Array]:
    """The largest squared gradients of the outgoing weights of random fresh units, by group.

    The candidates are as `grow(how="fresh")` adds them: random incoming weights, with the norm that
    the group's units have on average, and outgoing weights of zero. It is the first step of
    Firefly, which goes on to train the candidates and also scores splits.

    Args:
        params: of `experiments.mlp`.
        batch: inputs f32[batch, num_inputs] and labels.
        num_units: how many of the best candidates count.
        key: random key.
        num_candidates: how many to draw for each group.
        loss: `loss(outputs, labels)`, the mean over the batch.

    Returns:
        f32[] by the group, named after the layer that produces it.

    Reference:
        Wu, Liu, Stone, Liu, "Firefly neural architecture descent: a general approach for growing
        neural networks", NeurIPS 2020.
    """
    layers = list(params)
    incoming = {
        name: _candidates(params[name]["kernel"], jax.random.fold_in(key, number), num_candidates)
        for number, name in enumerate(layers[:-1])
    }
    outgoing = {
        name: jnp.zeros((num_candidates, params[reader]["kernel"].shape[1]))
        for name, reader in itertools.pairwise(layers)
    }

    def activations(name: str, inputs: jax.Array) -> jax.Array:
        return jax.nn.relu(inputs @ incoming[name])

    found = jax.grad(_loss_with)(outgoing, params, batch, loss, activations)
    return {
        name: jax.lax.top_k(jnp.square(gradient).sum(axis=1), num_units)[0].sum()
        for name, gradient in found.items()
    }


def _loss_with(
    bypasses: dict[str, jax.Array],
    params: Params,
    batch: Batch,
    loss: Loss,
    features: Callable[[str, jax.Array], jax.Array],
) -> jax.Array:
    """The loss where features of a layer's inputs also go to the outputs of the next layer."""
    inputs, labels = batch
    passed: Any = 0.0
    for name, layer in params.items():
        outputs = inputs @ layer["kernel"] + layer["bias"] + passed
        if name not in bypasses:  # the head
            return loss(outputs, labels)
        passed = features(name, inputs) @ bypasses[name]
        inputs = jax.nn.relu(outputs)
    raise AssertionError("the last layer is no head")


def _leading(gradient: jax.Array, num_units: int) -> jax.Array:
    """Sum of the largest squared singular values."""
    tall = gradient if gradient.shape[0] >= gradient.shape[1] else gradient.T
    gram = jnp.matmul(tall.T, tall, precision="highest")
    return jnp.maximum(jnp.linalg.eigvalsh(gram)[-num_units:], 0).sum()


def _candidates(kernel: jax.Array, key: jax.Array, number: int) -> jax.Array:
    """Incoming weights f32[num_inputs, number] from the inputs that are in use."""
    is_used = jnp.any(kernel != 0, axis=1, keepdims=True)
    drawn = jnp.where(is_used, jax.random.normal(key, (kernel.shape[0], number)), 0)
    num_active = jnp.maximum(jnp.any(kernel != 0, axis=0).sum(), 1)
    norm = jnp.sqrt(jnp.square(kernel).sum() / num_active)
    return drawn * (norm / jnp.maximum(jnp.linalg.norm(drawn, axis=0), 1e-30))
