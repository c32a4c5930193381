"""The networks that scenarios are built from, as Flax Linen modules; NNX ones are in `models`.

Each maps a batch of inputs to logits and has the options that practice has: what is planted in them
is a value of such an option, or a change of the parameters that they begin with.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

Activation = Callable[[jax.Array], jax.Array]
Initializer = nn.initializers.Initializer
Norm = Literal["none", "batch", "layer", "group", "instance"]

he = nn.initializers.he_normal()


def _normed(x: jax.Array, norm: Norm) -> jax.Array:
    match norm:
        case "batch":
            return nn.BatchNorm(use_running_average=False)(x)
        case "layer":
            return nn.LayerNorm()(x)
        case "group":
            return nn.GroupNorm(num_groups=4)(x)
        case "instance":
            return nn.InstanceNorm()(x)
        case "none":
            return x


class MLP(nn.Module):
    """Dense layers of the given widths, an activation after each, and a head."""

    widths: tuple[int, ...]
    num_classes: int = 10
    activation: Activation = nn.relu
    kernel_init: Initializer = he
    bias_init: Initializer = nn.initializers.zeros
    head_init: Initializer = nn.initializers.lecun_normal()
    norm: Norm = "none"
    is_residual: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, num_inputs] to f32[batch, num_classes]."""
        for width in self.widths:
            y = nn.Dense(
                width,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(x)
            y = self.activation(_normed(y, self.norm))
            x = x + y if self.is_residual and x.shape == y.shape else y
        return nn.Dense(
            self.num_classes,
            kernel_init=self.head_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="head",
        )(x)


class CNN(nn.Module):
    """3 by 3 convolutions, some of them with a stride, the mean over the places, a head."""

    features: tuple[int, ...]
    strides: tuple[int, ...]
    num_classes: int = 10
    activation: Activation = nn.relu
    kernel_init: Initializer = he
    bias_init: Initializer = nn.initializers.zeros
    norm: Norm = "none"
    is_norm_last: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, height, width, channels] to f32[batch, num_classes]."""
        for features, stride in zip(self.features, self.strides, strict=True):
            x = nn.Conv(
                features,
                (3, 3),
                strides=stride,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
            )(x)
            if self.is_norm_last:
                x = _normed(self.activation(x), self.norm)
            else:
                x = self.activation(_normed(x, self.norm))
        x = x.mean(axis=(1, 2))
        return nn.Dense(
            self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head"
        )(x)


class ResBlock(nn.Module):
    """Two convolutions beside a shortcut, as He et al. 2016 have it; batch norm or none."""

    features: int
    stride: int = 1
    norm: Norm = "batch"
    last_scale_init: Initializer = nn.initializers.ones
    forgets_shortcut: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, height, width, channels] to the block's features."""
        y = nn.Conv(self.features, (3, 3), self.stride, kernel_init=he, name="conv1")(x)
        y = nn.relu(_normed(y, self.norm))
        y = nn.Conv(self.features, (3, 3), kernel_init=he, name="conv2")(y)
        if self.norm == "batch":
            y = nn.BatchNorm(use_running_average=False, scale_init=self.last_scale_init)(y)
        else:
            y = _normed(y, self.norm)
        if self.forgets_shortcut:
            return nn.relu(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), self.stride, kernel_init=he, name="shortcut")(x)
        # Without a norm the usual ReLU after the sum is left out, so that the shortcut is straight.
        return x + y if self.norm == "none" else nn.relu(x + y)


class ResNet(nn.Module):
    """A convolution, residual blocks, the mean over the places, a head."""

    features: tuple[int, ...]
    strides: tuple[int, ...]
    num_classes: int = 10
    norm: Norm = "batch"
    last_scale_init: Initializer = nn.initializers.ones
    forgetful_block: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, height, width, channels] to f32[batch, num_classes]."""
        x = nn.relu(
            _normed(nn.Conv(self.features[0], (3, 3), kernel_init=he, name="stem")(x), self.norm)
        )
        for number, (features, stride) in enumerate(zip(self.features, self.strides, strict=True)):
            x = ResBlock(
                features,
                stride,
                self.norm,
                self.last_scale_init,
                forgets_shortcut=number == self.forgetful_block,
                name=f"block{number}",
            )(x)
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(1, 2)))


class TwoBranches(nn.Module):
    """Two branches of convolutions, of kernels of 1 and 3, joined before the head."""

    features: tuple[int, ...] = (16, 32)
    num_classes: int = 10
    is_detached: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, height, width, channels] to f32[batch, num_classes]."""
        ends = []
        for name, kernel in (("narrow", 1), ("wide", 3)):
            y = x
            for number, features in enumerate(self.features):
                y = nn.Conv(features, (kernel, kernel), kernel_init=he, name=f"{name}{number}")(y)
                y = nn.relu(y)
            y = y.mean(axis=(1, 2))
            ends.append(jax.lax.stop_gradient(y) if self.is_detached and name == "wide" else y)
        return nn.Dense(self.num_classes, name="head")(jnp.concatenate(ends, axis=-1))


class Block(nn.Module):
    """Attention and an MLP; with residual connections a layer norm is before each.

    `forgets_residual` leaves the connections out, and nothing else.
    """

    width: int
    heads: int
    is_residual: bool = True
    forgets_residual: bool = False
    is_causal: bool = False
    has_mlp: bool = True
    activation: Activation = nn.gelu
    out_init: Initializer = nn.initializers.lecun_normal()
    query_scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f32[batch, places, width] to the same shape."""
        has_way_around = self.is_residual and not self.forgets_residual
        mask = nn.make_causal_mask(x[..., 0]) if self.is_causal else None
        y = nn.LayerNorm()(x) if self.is_residual else x
        y = nn.MultiHeadDotProductAttention(
            self.heads, out_kernel_init=self.out_init, name="attention"
        )(self.query_scale * y, y, mask=mask)
        x = x + y if has_way_around else y
        if not self.has_mlp:
            return x
        y = nn.LayerNorm()(x) if self.is_residual else x
        y = nn.Dense(2 * self.width, name="mlp_in")(y)
        y = nn.Dense(self.width, kernel_init=self.out_init, name="mlp_out")(self.activation(y))
        return x + y if has_way_around else y


class Transformer(nn.Module):
    """A transformer on characters, which tells the next one, or on rows, which tells the class."""

    depth: int
    width: int
    heads: int = 4
    num_classes: int = 10
    num_tokens: int = 0
    is_residual: bool = True
    has_mlp: bool = True
    out_init: Initializer = nn.initializers.lecun_normal()
    head_init: Initializer = nn.initializers.lecun_normal()
    embedding_init: Initializer = nn.initializers.normal(1.0)
    activation: Activation = nn.gelu
    query_scale: float = 1.0
    has_unused_head: bool = False
    forgetful_block: int | None = None
    pooled_axis: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps i32[batch, places], or f32[batch, places, n], to logits, of each place or one."""
        is_text = self.num_tokens > 0
        if is_text:
            x = nn.Embed(self.num_tokens, self.width, embedding_init=self.embedding_init)(x)
        else:
            x = nn.Dense(self.width, name="embed")(x)
        x = x + self.param("places", nn.initializers.normal(0.02), (x.shape[1], self.width))
        for number in range(self.depth):
            x = Block(
                self.width,
                self.heads,
                is_residual=self.is_residual,
                forgets_residual=number == self.forgetful_block,
                is_causal=is_text,
                has_mlp=self.has_mlp,
                activation=self.activation,
                out_init=self.out_init,
                query_scale=self.query_scale,
                name=f"block{number}",
            )(x)
        if self.is_residual:
            x = nn.LayerNorm(name="last_norm")(x)
        if not is_text:
            x = x.mean(axis=self.pooled_axis)
        if self.has_unused_head:
            nn.Dense(self.width, name="projector")(x)
        return nn.Dense(self.num_classes, kernel_init=self.head_init, name="head")(x)


class Recurrent(nn.Module):
    """Recurrent layers; the class is read off the last state, or the next character off each."""

    units: int
    cell: Literal["lstm", "gru", "simple"]
    depth: int = 1
    num_classes: int = 10
    num_tokens: int = 0
    activation: Activation = nn.tanh
    recurrent_init: Initializer = nn.initializers.orthogonal()
    reads_centred_mean: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps i32[batch, steps], or f32[batch, steps, n], to logits, of each step or one."""
        is_text = self.num_tokens > 0
        if is_text:
            x = nn.Embed(self.num_tokens, self.units, embedding_init=nn.initializers.normal(1.0))(x)
        for number in range(self.depth):
            states: Any = nn.RNN(self._cell(f"cell{number}"))(x)
            x = states
        if self.reads_centred_mean:
            read = (x - x.mean(axis=1, keepdims=True)).mean(axis=1)
        else:
            read = x if is_text else x[:, -1]
        return nn.Dense(self.num_classes, name="head")(read)

    def _cell(self, name: str) -> nn.RNNCellBase:
        match self.cell:
            case "lstm":
                return nn.OptimizedLSTMCell(self.units, name=name)
            case "gru":
                return nn.GRUCell(self.units, name=name)
            case "simple":
                return nn.SimpleCell(
                    self.units,
                    activation_fn=self.activation,
                    recurrent_kernel_init=self.recurrent_init,
                    name=name,
                )
