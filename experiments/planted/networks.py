"""The networks that bottlenecks are planted in: MLP, CNN, ResNet and transformer on 8x8 digits.

Parameters are `{"3_conv": {"kernel", "bias"}, ...}`: the number counts the layers in the order of
the forward pass, so that PFN's chain, which follows the natural order of names, is that order.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

Family = Literal["mlp", "cnn", "resnet", "transformer"]
FAMILIES: tuple[Family, ...] = get_args(Family)
IMAGE_SHAPE, NUM_CLASSES = (8, 8, 1), 10
NARROW = 4
"""Units of a narrow layer: fewer directions than the 9 that tell 10 classes apart."""

Params = dict[str, dict[str, jax.Array]]
LayerFn = Callable[..., jax.Array]


class Layer(NamedTuple):
    """What a layer is.

    Attributes:
        name: `"3_conv"`.
        shape: of the kernel; the last axis runs over the output units, the one before over inputs.
        is_rectified: whether a ReLU follows.
        branch: number of the residual branch it stands in; None on the trunk, where all signal
            passes.
    """

    name: str
    shape: tuple[int, ...]
    is_rectified: bool
    branch: int | None


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A family of networks at one size.

    Attributes:
        family: which.
        width: units of its hidden layers, channels of its convolutions.
        depth: hidden layers, convolutions, or residual blocks.
        narrow: number of the layer that has `NARROW` units instead; None for none.

    Example:
        >>> [layer.name for layer in Architecture("mlp", width=32, depth=2).layers]
        ['0_dense', '1_dense', '2_head']
    """

    family: Family
    width: int
    depth: int
    narrow: int | None = None

    @functools.cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in forward order."""
        found: list[Layer] = []

        def layer(name, x, units, *, patch=1, relu=False, branch=None):
            units = NARROW if len(found) == self.narrow else units
            window = (patch, patch) if patch > 1 else ()
            shape = (*window, x.shape[-1], units)
            found.append(Layer(f"{len(found)}_{name}", shape, relu, branch))
            return jnp.zeros((*x.shape[:-1], units))

        images = jax.ShapeDtypeStruct((1, *IMAGE_SHAPE), jnp.float32)
        jax.eval_shape(functools.partial(self._forward, layer), images)
        return tuple(found)

    def init(self, generator: np.random.Generator) -> Params:
        """Draws healthy parameters.

        Args:
            generator: the only source of chance.

        Returns:
            Normal kernels of variance 2 / fan-in before a ReLU, 1 / fan-in elsewhere; zero biases.
        """
        params = {}
        for layer in self.layers:
            variance = (2 if layer.is_rectified else 1) / np.prod(layer.shape[:-1])
            kernel = jnp.float32(generator.normal(size=layer.shape) * np.sqrt(variance))
            params[layer.name] = {"kernel": kernel, "bias": jnp.zeros(layer.shape[-1])}
        return params

    def logits(self, params: Params, images: jax.Array) -> jax.Array:
        """Maps `f32[batch, 8, 8, 1]` to `f32[batch, 10]`."""
        number = itertools.count()

        def layer(name, x, units, *, patch=1, relu=False, branch=None):
            del units, branch
            own = params[f"{next(number)}_{name}"]
            if patch > 1:
                x = jax.lax.conv_general_dilated(
                    x, own["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            else:
                x = x @ own["kernel"]
            x = x + own["bias"]
            return jax.nn.relu(x) if relu else x

        return self._forward(layer, images)

    def loss(self, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
        """Mean cross-entropy in nats, f32[]."""
        logits = self.logits(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def _forward(self, layer: LayerFn, images: jax.Array) -> jax.Array:
        return _FORWARD[self.family](layer, images, self.width, self.depth)


def _mlp(layer: LayerFn, x: jax.Array, width: int, depth: int) -> jax.Array:
    x = x.reshape(len(x), -1)
    for _ in range(depth):
        x = layer("dense", x, width, relu=True)
    return layer("head", x, NUM_CLASSES)


def _classifier(layer: LayerFn, x: jax.Array, width: int) -> jax.Array:
    """Mean over positions and three dense layers, as at the end of VGG."""
    x = x.mean(tuple(range(1, x.ndim - 1)))
    return _mlp(layer, x, width, depth=2)


def _cnn(layer: LayerFn, x: jax.Array, width: int, depth: int) -> jax.Array:
    for number in range(depth):
        if number in (1, depth // 2 + 1):
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = layer("conv", x, width, patch=3, relu=True)
    return _classifier(layer, x, 2 * width)


def _resnet(layer: LayerFn, x: jax.Array, width: int, depth: int) -> jax.Array:
    """Pre-activation blocks (He et al. 2016) in two stages, a 1x1 transition between them."""
    x = nnx.avg_pool(layer("stem", x, width, patch=3, relu=True), (2, 2), strides=(2, 2))
    for block in range(depth):
        if block == depth // 2:
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
            x = layer("transition", x, width, relu=True)
        y = layer("conv", _standardize(x), width, patch=3, relu=True, branch=block)
        x = x + layer("conv", y, width, patch=3, branch=block)
    return _classifier(layer, _standardize(x), 2 * width)


def _transformer(layer: LayerFn, x: jax.Array, width: int, depth: int) -> jax.Array:
    """Rows as tokens, pre-norm blocks, neighbours pooled half-way (Funnel, Dai et al. 2020)."""
    x = x.reshape(x.shape[:3])
    # Behind its 8 pixels a token holds its row as one-hot: the embedding learns positions too.
    rows = jnp.broadcast_to(jnp.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
    x = layer("embed", jnp.concatenate([x, rows], -1), width)
    for block in range(depth):
        if block == depth // 2:
            pairs = x.reshape(len(x), x.shape[1] // 2, 2, -1)
            x = layer("transition", pairs.mean(2), width)
        y, attention, mlp = _standardize(x), 2 * block, 2 * block + 1
        heads = [
            layer(name, y, width, branch=attention).reshape(*y.shape[:-1], 2, -1)
            for name in ("query", "key", "value")
        ]
        y = jax.nn.dot_product_attention(*heads).reshape(*y.shape[:-1], -1)
        x = x + layer("out", y, width, branch=attention)
        y = layer("up", _standardize(x), 2 * width, relu=True, branch=mlp)
        x = x + layer("down", y, width, branch=mlp)
    return _classifier(layer, _standardize(x), width)


def _standardize(x: jax.Array) -> jax.Array:
    """RMS norm without parameters."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


_FORWARD = {"mlp": _mlp, "cnn": _cnn, "resnet": _resnet, "transformer": _transformer}

SIZES: dict[Family, tuple[Architecture, ...]] = {
    "mlp": (Architecture("mlp", 32, 4), Architecture("mlp", 64, 6)),
    "cnn": (Architecture("cnn", 16, 3), Architecture("cnn", 32, 4)),
    "resnet": (Architecture("resnet", 16, 2), Architecture("resnet", 32, 2)),
    "transformer": (Architecture("transformer", 32, 2), Architecture("transformer", 64, 2)),
}
