"""Small networks for merging: functions of parameters, with the hidden units' groups."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from pfn_optax.units import unit_spec


def mlp(seed: int, sizes=(5, 12, 9, 3)) -> dict:
    """A ReLU network whose units have different means and deviations."""
    draw = np.random.default_rng(seed)
    return {
        f"Dense_{i}": {
            "kernel": jnp.asarray(draw.normal(size=pair) * pair[0] ** -0.5, jnp.float32),
            "bias": jnp.asarray(draw.normal(size=pair[1]), jnp.float32),
        }
        for i, pair in enumerate(itertools.pairwise(sizes))
    }


def logits(params: dict, x: jax.Array) -> jax.Array:
    *hidden, head = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ head["kernel"] + head["bias"]


def hidden(params: dict, x: np.ndarray) -> list[np.ndarray]:
    """Inputs of the activations, in float64, by numpy."""
    found, x = [], np.asarray(x, np.float64)
    for layer in [*params.values()][:-1]:
        found.append(x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"]))
        x = np.maximum(found[-1], 0)
    return found


@functools.cache
def mlp_spec():
    return unit_spec(logits, mlp(0), inputs(0))


def inputs(seed: int, size: int = 40, *shape: int) -> jax.Array:
    draw = np.random.default_rng((seed, 1))
    return jnp.asarray(draw.normal(size=(size, *(shape or (5,)))), jnp.float32)


def split(x: jax.Array, *sizes: int) -> list[tuple[jax.Array]]:
    """Batches of some sizes, and of what is left."""
    return [(part,) for part in jnp.split(x, np.cumsum(sizes))]


class LinenNet(nn.Module):
    """Convolutions with batch norm, a residual one among them."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(
            nn.BatchNorm, use_running_average=not self.train, momentum=0.0, use_fast_variance=False
        )
        x = nn.relu(norm()(nn.Conv(4, (3, 3))(x)))
        y = nn.relu(norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        x = nn.relu(x + norm()(nn.Conv(4, (1, 1))(y)))
        return nn.Dense(3)(norm()(x.mean((1, 2))))


class NNXNet(nnx.Module):
    """A convolution and a dense layer, each with batch norm."""

    def __init__(self, rngs: nnx.Rngs):
        norm = functools.partial(nnx.BatchNorm, momentum=0.0, use_fast_variance=False, rngs=rngs)
        self.conv, self.norm1 = nnx.Conv(1, 4, (3, 3), rngs=rngs), norm(4)
        self.dense, self.norm2 = nnx.Linear(4, 6, rngs=rngs), norm(6)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm1(self.conv(x))).mean((1, 2))
        return self.head(nnx.relu(self.norm2(self.dense(x))))


class ConvNet(nn.Module):
    """Convolutions without batch norm, one of them on two branches."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(6, (3, 3))(x) + nn.Conv(6, (1, 1))(x))
        return nn.Dense(3)(x.mean((1, 2)))
