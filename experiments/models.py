"""The study's scenarios as Flax NNX networks.

Every network is one `nnx.Sequential` and sub-modules are named so that the natural order of
parameter paths (`layers/2` before `layers/10`) is the order of the forward pass: PFN's chain graph
reads it so.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

Scenario = Literal["cnn_bn", "cnn_nobn", "hourglass", "resnet"]


class ConvBlock(nnx.Module):
    """Convolution, optional batch norm, ReLU."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel: int = 3,
        norm: bool = True,
        rngs: nnx.Rngs,
    ):
        """Initialise the parameters."""
        self.conv = nnx.Conv(
            in_features,
            out_features,
            (kernel, kernel),
            use_bias=not norm,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(out_features, momentum=0.9, rngs=rngs) if norm else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `f32[batch, h, w, in_features]` to `f32[batch, h, w, out_features]`."""
        x = self.conv(x)
        return nnx.relu(x if self.norm is None else self.norm(x))


class ResidualBlock(nnx.Module):
    """Two normalised convolutions beside a parameter-free shortcut (He et al. 2016, option A)."""

    def __init__(self, in_features: int, out_features: int, *, stride: int, rngs: nnx.Rngs):
        """Initialise the parameters."""
        conv = functools.partial(
            nnx.Conv,
            kernel_size=(3, 3),
            use_bias=False,
            kernel_init=nnx.initializers.he_normal(),
            rngs=rngs,
        )
        self.conv1 = conv(in_features, out_features, strides=stride)
        self.conv2 = conv(out_features, out_features)
        self.norm1 = nnx.BatchNorm(out_features, momentum=0.9, rngs=rngs)
        self.norm2 = nnx.BatchNorm(out_features, momentum=0.9, rngs=rngs)
        self.stride = stride
        self.new_features = out_features - in_features

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map `f32[batch, h, w, in_features]` to `f32[batch, h/stride, w/stride, out_features]`."""
        shortcut = x[:, :: self.stride, :: self.stride]
        shortcut = jnp.pad(shortcut, ((0, 0), (0, 0), (0, 0), (0, self.new_features)))
        y = nnx.relu(self.norm1(self.conv1(x)))
        return nnx.relu(shortcut + self.norm2(self.conv2(y)))


def _max_pool(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def _mean_over_space(x: jax.Array) -> jax.Array:
    return x.mean(axis=(1, 2))


def build(
    scenario: Scenario,
    *,
    image_shape: tuple[int, int, int],
    num_classes: int,
    width: int | None = None,
    rngs: nnx.Rngs,
) -> nnx.Sequential:
    """Build a scenario's network.

    Args:
        scenario: `"cnn_bn"` and `"cnn_nobn"` (six convolutions with and without batch norm),
            `"hourglass"` (eight convolutions with a waist of a few channels in the middle, no
            norm) or `"resnet"` (ResNet-20; one block per stage for 8x8 images).
        image_shape: Height, width and channels.
        num_classes: Number of logits.
        width: Channels of the first convolution. Default: what suits the image size.
        rngs: Where the initial parameters come from.

    Returns:
        A module that maps `f32[batch, height, width, channels]` to `f32[batch, num_classes]`.

    Raises:
        ValueError: If there is no such scenario.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> def logits():
        ...     rngs = nnx.Rngs(0)
        ...     net = build("hourglass", image_shape=(8, 8, 1), num_classes=10, rngs=rngs)
        ...     return net(jnp.zeros((2, 8, 8, 1)))
        >>> jax.eval_shape(logits).shape
        (2, 10)
    """
    if scenario not in get_args(Scenario):
        known = ", ".join(get_args(Scenario))
        raise ValueError(f"scenario must be one of {known}; got {scenario!r}")
    small = image_shape[0] < 16
    width = width or (8 if small else 24)
    body = {
        "cnn_bn": functools.partial(_cnn, width=width, norm=True),
        "cnn_nobn": functools.partial(_cnn, width=width, norm=False),
        "hourglass": functools.partial(_hourglass, width=width),
        "resnet": functools.partial(
            _resnet, width=min(width, 16), blocks_per_stage=1 if small else 3
        ),
    }[scenario]
    layers, features = body(image_shape[-1], rngs=rngs)
    head = nnx.Linear(features, num_classes, rngs=rngs)
    return nnx.Sequential(*layers, _mean_over_space, head)


def _cnn(channels: int, *, width: int, norm: bool, rngs: nnx.Rngs) -> tuple[list, int]:
    block = functools.partial(ConvBlock, norm=norm, rngs=rngs)
    return [
        block(channels, width),
        block(width, width),
        _max_pool,
        block(width, 2 * width),
        block(2 * width, 2 * width),
        _max_pool,
        block(2 * width, 4 * width),
        block(4 * width, 4 * width),
    ], 4 * width


def _hourglass(channels: int, *, width: int, rngs: nnx.Rngs) -> tuple[list, int]:
    block = functools.partial(ConvBlock, norm=False, rngs=rngs)
    waist = max(width // 8, 2)
    return [
        block(channels, width),
        _max_pool,
        block(width, 2 * width),
        block(2 * width, width),
        block(width, waist, kernel=1),
        block(waist, width, kernel=1),
        block(width, 2 * width),
        _max_pool,
        block(2 * width, 2 * width),
        block(2 * width, 4 * width),
    ], 4 * width


def _resnet(
    channels: int, *, width: int, blocks_per_stage: int, rngs: nnx.Rngs
) -> tuple[list, int]:
    layers: list = [ConvBlock(channels, width, rngs=rngs)]
    features = width
    for stage in range(3):
        for block in range(blocks_per_stage):
            out_features = width * 2**stage
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(features, out_features, stride=stride, rngs=rngs))
            features = out_features
    return layers, features
