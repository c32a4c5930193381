"""A convolutional hourglass with its parameters in a plain dictionary, so that it may be padded.

Six convolutions, the third and fourth of 1x1 on both sides of a waist of few channels, and a linear
head on the mean over the picture: the study's fourth scenario, small. XLA runs convolutions inside
a loop on one core of a CPU ten times slower than products of matrices, so the network that trains
unfolds its patches. The one with convolutions is the same function; it is what groups and flow
graph are traced from.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, dict[str, Any]]


class Conv(NamedTuple):
    """A convolution, then ReLU.

    Attributes:
        kernel: its height and width.
        stride: between its positions.
    """

    kernel: int
    stride: int


CONVS = (Conv(3, 2), Conv(3, 2), Conv(1, 1), Conv(1, 1), Conv(3, 2), Conv(3, 1))
WAIST = 2
"""Number of the convolution that makes the waist."""
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def init(
    seed: int, widths: Sequence[int], *, channels: int, num_classes: int, norm: bool
) -> Params:
    """Draws parameters by He's rule, on the host: other widths need no compilation.

    Args:
        seed: of all layers; a layer's own numbers depend on its shape and place only.
        widths: channels that each convolution makes.
        channels: of the pictures.
        num_classes: outputs of the head.
        norm: whether batch norms follow the convolutions.

    Returns:
        A kernel and a bias per layer, and the scale of its norm.
    """

    def drawn(number: int, *shape: int) -> np.ndarray:
        values = np.random.default_rng([seed, number]).normal(size=shape)
        gain = 2 if number < len(CONVS) else 1
        return (values * (gain / np.prod(shape[:-1])) ** 0.5).astype(np.float32)

    params: Params = {}
    fan_in = channels
    for number, (conv, width) in enumerate(zip(CONVS, widths, strict=True)):
        kernel = drawn(number, conv.kernel, conv.kernel, fan_in, width)
        params[f"Conv_{number}"] = {"kernel": kernel, "bias": np.zeros(width, np.float32)}
        if norm:
            params[f"Conv_{number}"]["scale"] = np.ones(width, np.float32)
        fan_in = width
    kernel = drawn(len(CONVS), fan_in, num_classes)
    params["Head"] = {"kernel": kernel, "bias": np.zeros(num_classes, np.float32)}
    return params


def logits(params: Params, images: jax.Array) -> jax.Array:
    """Maps f32[batch, height, width, channels] to f32[batch, num_classes], by unfolded patches."""
    return _forward(params, images, _unfolded)


def convolved(params: Params, images: jax.Array) -> jax.Array:
    """The same function by convolutions, for what reads programs."""
    return _forward(params, images, _convolution)


def _forward(
    params: Params, x: jax.Array, convolve: Callable[[jax.Array, jax.Array, Conv], jax.Array]
) -> jax.Array:
    for number, conv in enumerate(CONVS):
        layer = params[f"Conv_{number}"]
        x = convolve(x, layer["kernel"], conv)
        if "scale" in layer:
            x = _batch_norm(x) * layer["scale"]
        x = jax.nn.relu(x + layer["bias"])
    return x.mean(axis=(1, 2)) @ params["Head"]["kernel"] + params["Head"]["bias"]


def _batch_norm(x: jax.Array) -> jax.Array:
    """With the statistics of the batch; channels that are all zero stay so."""
    centred = x - x.mean(axis=(0, 1, 2))
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=(0, 1, 2)) + 1e-5)


def _convolution(x: jax.Array, kernel: jax.Array, conv: Conv) -> jax.Array:
    strides = (conv.stride, conv.stride)
    reach = conv.kernel // 2
    return jax.lax.conv_general_dilated(
        x, kernel, strides, [(reach, reach)] * 2, dimension_numbers=_DIMENSIONS
    )


def _unfolded(x: jax.Array, kernel: jax.Array, conv: Conv) -> jax.Array:
    if conv == Conv(1, 1):
        return x @ kernel[0, 0]
    _, height, width, _ = x.shape
    reach = conv.kernel // 2
    x = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    patches = [
        x[:, row : row + height : conv.stride, column : column + width : conv.stride]
        for row in range(conv.kernel)
        for column in range(conv.kernel)
    ]
    return jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def num_parameters(params: Params) -> int:
    """Numbers in the leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def multiplications(params: Params, size: int) -> int:
    """Multiplications for one picture: each kernel's entries times its positions.

    Args:
        params: of which shapes are read.
        size: height and width of a picture.

    Returns:
        The number.
    """
    total = params["Head"]["kernel"].size
    for number, conv in enumerate(CONVS):
        size = -(-size // conv.stride)
        total += size**2 * params[f"Conv_{number}"]["kernel"].size
    return total
