"""Random layers with a norm, in bare arrays: what the theory of the study is about."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfn_optax.propagation import activation_rank, effective_rank, mean_cosine, numerical_rank

Norm = Literal["none", "centred", "uncentred"]
Weights = Literal["gaussian", "orthogonal", "uniform"]
ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": jax.nn.relu,
    "leaky relu": lambda x: jax.nn.leaky_relu(x, 0.1),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "sine": jnp.sin,
}
MEASURES = {
    "activation_rank": activation_rank,
    "effective_rank": effective_rank,
    "numerical_rank": numerical_rank,
    "mean_cosine": mean_cosine,
}


class Layer(NamedTuple):
    """Activation of batch norm of weights times inputs; no affine parameters, no bias.

    Attributes:
        norm: batch norm, with or without subtracting the mean.
        activation: one of `ACTIVATIONS`.
        weights: their distribution, of variance 1 / fan-in.
        epsilon: added to the variances.
    """

    norm: Norm = "none"
    activation: str = "identity"
    weights: Weights = "gaussian"
    epsilon: float = 0.0

    def __call__(self, kernel: jax.Array, inputs: jax.Array) -> dict[str, jax.Array]:
        """What comes of f[batch, width]: before the norm, after it, after the activation."""
        before = inputs @ kernel
        normed = batch_norm(before, self.norm, self.epsilon)
        return {
            "product": before,
            "normed": normed,
            "output": ACTIVATIONS[self.activation](normed),
        }


def batch_norm(values: jax.Array, norm: Norm, epsilon: float = 0.0) -> jax.Array:
    """Units of f[batch, width] scaled to mean square 1 over the batch, after centring or not."""
    if norm == "none":
        return values
    if norm == "centred":
        values = values - values.mean(axis=0)
    return values / jnp.sqrt(jnp.mean(values**2, axis=0) + epsilon)


def layer_norm(values: jax.Array) -> jax.Array:
    """Samples of f[batch, width] with mean 0 and variance 1 over their units."""
    values = values - values.mean(axis=1, keepdims=True)
    return values / jnp.sqrt(jnp.mean(values**2, axis=1, keepdims=True))


def kernel(key: jax.Array, shape: tuple[int, int], weights: Weights, dtype: Any = None) -> Any:
    """Weights of variance 1 / fan-in."""
    dtype = jnp.result_type(float) if dtype is None else dtype
    match weights:
        case "gaussian":
            return jax.random.normal(key, shape, dtype) / shape[0] ** 0.5
        case "uniform":
            bound = (3 / shape[0]) ** 0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)
        case "orthogonal":
            return jax.random.orthogonal(key, shape[0], dtype=dtype)


def measured(activations: jax.Array) -> dict[str, jax.Array]:
    """All measures of a batch f[batch, width]."""
    return {name: measure(activations) for name, measure in MEASURES.items()}
