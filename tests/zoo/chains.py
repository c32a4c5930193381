"""Models without a branch: one layer after the other."""

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.zoo.case import (
    Case,
    Make,
    concrete,
    cross_entropy,
    integers,
    linen_case,
    plain_case,
    squared_error,
    vectors,
)


class _MLP(nn.Module):
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for size in self.sizes[:-1]:
            x = nn.relu(nn.Dense(size)(x))
        return nn.Dense(self.sizes[-1])(x)


def mlp(sizes=(5, 8, 6, 3), make: Make = concrete) -> Case:
    inputs, labels = vectors(make, 2, sizes[0]), integers(make, sizes[-1], 2)
    return linen_case("MLP", _MLP(sizes[1:]), inputs, labels, make=make)


def plain_mlp(sizes=(5, 8, 6, 3), make: Make = concrete) -> Case:
    """In plain JAX; the parameters are a list of dicts."""

    def init():
        keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
        return [
            {"w": jax.random.normal(key, pair) / pair[0] ** 0.5, "b": jnp.zeros(pair[1])}
            for key, pair in zip(keys, itertools.pairwise(sizes), strict=True)
        ]

    def apply(params, x):
        *hidden, last = params
        for layer in hidden:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return x @ last["w"] + last["b"]

    inputs, labels = vectors(make, 2, sizes[0]), integers(make, sizes[-1], 2)
    return plain_case("plain MLP", make(init), apply, inputs, labels)


def autoencoder(sizes=(6, 4, 2, 4, 6), make: Make = concrete) -> Case:
    """Its labels are its input, given once: it has a single argument."""
    case = linen_case(
        "autoencoder",
        _MLP(sizes[1:]),
        vectors(make, 2, sizes[0]),
        vectors(make, 2, sizes[0]),
        make=make,
        criterion=squared_error,
    )
    return Case(
        case.name,
        case.params,
        case.args[:1],
        lambda params, inputs: case.apply(params, inputs, inputs),
        lambda params, inputs: case.loss(params, inputs, inputs),
    )


class _WeightNormalized(nn.Module):
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Dense(self.width))(x))
        return nn.WeightNorm(nn.Dense(self.num_classes))(x)


def weight_normalized(width=6, make: Make = concrete) -> Case:
    """Two dense layers whose matrices are normalised (Salimans and Kingma 2016)."""
    inputs, labels = vectors(make, 2, 4), integers(make, 3, 2)
    return linen_case("weight norm", _WeightNormalized(width, 3), inputs, labels, make=make)


class _CNN(nn.Module):
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.Conv(2 * self.width, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(4 * self.width)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes)(x)


def cnn(width=4, make: Make = concrete) -> Case:
    """Convolutions with batch norm, both kinds of pooling, flattening, dense layers."""
    inputs, labels = vectors(make, 2, 8, 8, 3), integers(make, 3, 2)
    return linen_case("CNN", _CNN(width, 3), inputs, labels, make=make)


class _VGG(nn.Module):
    stages: tuple[tuple[int, ...], ...]
    dense: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        for widths in self.stages:
            for width in widths:
                x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return _MLP(self.dense, name="classifier")(x.reshape(x.shape[0], -1))


def vgg(stages=((4,), (6, 6)), dense=(8, 3), image=8, make: Make = concrete) -> Case:
    """Stages of 3x3 convolutions, each closed by a pooling (Simonyan and Zisserman 2015)."""
    inputs, labels = vectors(make, 2, image, image, 3), integers(make, dense[-1], 2)
    return linen_case("VGG", _VGG(stages, dense), inputs, labels, make=make)


def low_rank_adapted(sizes=(5, 6, 3), rank=2, make: Make = concrete) -> Case:
    """Dense layers with a low-rank update beside the matrix, W + A B (Hu et al. 2022)."""

    def init():
        def layer(key, pair):
            keys = jax.random.split(key, 3)
            return {
                "kernel": jax.random.normal(keys[0], pair),
                "a": jax.random.normal(keys[1], (pair[0], rank)),
                "b": jax.random.normal(keys[2], (rank, pair[1])),
            }

        keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
        pairs = itertools.pairwise(sizes)
        return {f"dense{i}": layer(keys[i], pair) for i, pair in enumerate(pairs)}

    def apply(params, x):
        for index in range(len(params)):
            layer = params[f"dense{index}"]
            x = jnp.tanh(x @ (layer["kernel"] + layer["a"] @ layer["b"]))
        return x

    inputs, labels = vectors(make, 2, sizes[0]), integers(make, sizes[-1], 2)
    return plain_case("LoRA", make(init), apply, inputs, labels, cross_entropy)
