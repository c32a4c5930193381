"""Convolutional models whose branches part and meet: by concatenation."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from tests.zoo.case import Case, Make, concrete, integers, linen_case, vectors


class _DenseNet(nn.Module):
    num_layers: int
    growth: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2 * self.growth, (3, 3), name="stem")(x)
        for index in range(self.num_layers):
            y = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            y = nn.Conv(self.growth, (3, 3), name=f"conv{index}")(y)
            x = jnp.concatenate([x, y], axis=-1)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def densenet(num_layers=3, growth=2, make: Make = concrete) -> Case:
    """One dense block: every layer reads all before it (Huang et al. 2017)."""
    inputs, labels = vectors(make, 2, 6, 6, 3), integers(make, 3, 2)
    return linen_case("DenseNet", _DenseNet(num_layers, growth, 3), inputs, labels, make=make)


class _UNet(nn.Module):
    width: int
    depth: int
    learned: bool
    num_classes: int

    @nn.compact
    def __call__(self, x):
        skips = []
        for level in range(self.depth):
            x = nn.relu(nn.Conv(self.width * 2**level, (3, 3), name=f"down{level}")(x))
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(self.width * 2**self.depth, (3, 3), name="middle")(x))
        for level in reversed(range(self.depth)):
            width = self.width * 2**level
            if self.learned:
                x = nn.ConvTranspose(width, (2, 2), strides=(2, 2), name=f"transpose{level}")(x)
            else:
                batch, rows, columns, channels = x.shape
                x = jax.image.resize(x, (batch, 2 * rows, 2 * columns, channels), "bilinear")
            x = jnp.concatenate([skips[level], x], axis=-1)
            x = nn.relu(nn.Conv(width, (3, 3), name=f"up{level}")(x))
        return nn.Conv(self.num_classes, (1, 1), name="head")(x)


def unet(width=2, depth=2, learned=True, make: Make = concrete) -> Case:
    """Down and up again, with a skip at every level (Ronneberger et al. 2015).

    Upsampling is a transposed convolution where `learned`, else bilinear.
    """
    side = 2 ** (depth + 1)
    inputs, labels = vectors(make, 2, side, side, 3), integers(make, 3, 2, side, side)
    name = "U-Net" if learned else "U-Net, resized"
    return linen_case(name, _UNet(width, depth, learned, 3), inputs, labels, make=make)


class _Inception(nn.Module):
    width: int
    num_classes: int

    @nn.compact
    def __call__(self, x):
        def conv(features, size, name, x):
            return nn.relu(nn.Conv(features, (size, size), name=name)(x))

        x = conv(self.width, 3, "stem", x)
        pooled = nn.max_pool(x, (3, 3), padding="SAME")
        branches = [
            conv(self.width, 1, "one", x),
            conv(self.width, 3, "three", conv(self.width, 1, "three_before", x)),
            conv(self.width, 5, "five", conv(self.width, 1, "five_before", x)),
            conv(self.width, 1, "pooled", pooled),
        ]
        x = jnp.concatenate(branches, axis=-1)
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


def inception(width=2, make: Make = concrete) -> Case:
    """One module of four parallel branches (Szegedy et al. 2015)."""
    inputs, labels = vectors(make, 2, 6, 6, 3), integers(make, 3, 2)
    return linen_case("Inception", _Inception(width, 3), inputs, labels, make=make)
