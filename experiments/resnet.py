"""Residual networks for CIFAR images (He et al. 2016): 3 x 3 stem, no pooling, projections.

By default ResNet-18: 11.2 million parameters, 0.56 billion multiplications for an image of 32x32.
"""

from collections.abc import Sequence

import jax
from flax import nnx


class Convolution(nnx.Module):
    """Convolution and batch norm."""

    def __init__(
        self, in_features: int, features: int, *, size: int = 3, stride: int = 1, rngs: nnx.Rngs
    ):
        """Initialises the parameters."""
        self.conv = nnx.Conv(
            in_features,
            features,
            (size, size),
            stride,
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(features, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, h, w, in_features] to f32[batch, h/stride, w/stride, features]."""
        return self.norm(self.conv(x))


class ResidualBlock(nnx.Module):
    """Two convolutions beside a shortcut, which is a projection where the shape changes."""

    def __init__(self, in_features: int, features: int, *, stride: int, rngs: nnx.Rngs):
        """Initialises the parameters."""
        self.first = Convolution(in_features, features, stride=stride, rngs=rngs)
        self.second = Convolution(features, features, rngs=rngs)
        has_projection = stride > 1 or in_features != features
        self.projection = (
            Convolution(in_features, features, size=1, stride=stride, rngs=rngs)
            if has_projection
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, h, w, in_features] to f32[batch, h/stride, w/stride, features]."""
        shortcut = x if self.projection is None else self.projection(x)
        return nnx.relu(shortcut + self.second(nnx.relu(self.first(x))))


def resnet(
    *,
    stages: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    stem_stride: int = 1,
    channels: int = 3,
    num_classes: int = 10,
    rngs: nnx.Rngs,
) -> nnx.Sequential:
    """Builds the network.

    Args:
        stages: residual blocks per stage.
        width: channels of the first stage; each later stage has twice as many.
        stem_stride: of the first convolution; 2 leaves a quarter of the arithmetic.
        channels: of the images.
        num_classes: number of logits.
        rngs: where the initial parameters come from.

    Returns:
        A module that maps f32[batch, height, width, channels] to f32[batch, num_classes].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> def logits():
        ...     return resnet(stages=(1, 1), width=4, rngs=nnx.Rngs(0))(jnp.ones((2, 8, 8, 3)))
        >>> jax.eval_shape(logits).shape
        (2, 10)
    """
    layers: list = [Convolution(channels, width, stride=stem_stride, rngs=rngs), nnx.relu]
    entering = width
    for stage, num_blocks in enumerate(stages):
        for block in range(num_blocks):
            features = width * 2**stage
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(entering, features, stride=stride, rngs=rngs))
            entering = features
    return nnx.Sequential(*layers, _mean_over_space, nnx.Linear(entering, num_classes, rngs=rngs))


def _mean_over_space(x: jax.Array) -> jax.Array:
    return x.mean((1, 2))
