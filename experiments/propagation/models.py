"""Deep Flax models of equal blocks, in which one thing at a time is changed."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pfn_optax.propagation import critical_init

Normaliser = Literal["none", "batch", "layer", "RMS", "group"]
NUM_HEADS, NUM_GROUPS = 4, 8


class Arm(NamedTuple):
    """What a block consists of.

    Attributes:
        norm: applied to the preactivations; where there is a shortcut, to what a branch reads.
        branch_scale: with shortcuts, what their branches are multiplied by, "depth" for
            1 / sqrt(number of branches); None without shortcuts.
        has_attention: self-attention before the dense layers.
        has_mlp: dense layers.
        is_dense: every layer reads the outputs of all before it, side by side.
        activation: of the dense layers.
        width: of the stream.
    """

    norm: Normaliser = "none"
    branch_scale: float | Literal["depth"] | None = None
    has_attention: bool = False
    has_mlp: bool = True
    is_dense: bool = False
    activation: Literal["relu", "tanh"] = "relu"
    width: int | None = None


class Block(nn.Module):
    """A layer, or a residual block with attention, dense layers or both; for `nn.scan`."""

    arm: Arm
    width: int
    scale: float

    @nn.compact
    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        """Maps the stream f[rows, width] to the next."""
        arm = self.arm
        if arm.has_attention:
            attend = nn.MultiHeadDotProductAttention(
                NUM_HEADS, kernel_init=nn.initializers.variance_scaling(1, "fan_in", "normal")
            )
            x = self.add(x, lambda x: attend(x))
        if arm.has_mlp:
            x = self.add(x, self.mlp)
        return x, None

    def add(self, x: jax.Array, branch: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The branch beside the shortcut, or alone."""
        if self.arm.branch_scale is None:
            return branch(x)
        return x + self.scale * branch(self.normalised(x))

    def mlp(self, x: jax.Array) -> jax.Array:
        """One layer, with its norm; two in a branch, so that it is not all positive."""
        arm = self.arm
        activation, init = activation_and_init(arm)
        x = nn.Dense(self.width, kernel_init=init, name="reader")(x)
        if arm.branch_scale is None:
            return activation(self.normalised(x))
        return nn.Dense(self.width, kernel_init=init, name="writer")(activation(x))

    def normalised(self, x: jax.Array) -> jax.Array:
        """The norm of the arm."""
        match self.arm.norm:
            case "batch":
                return nn.BatchNorm(use_running_average=False)(x)
            case "layer":
                return nn.LayerNorm()(x)
            case "RMS":
                return nn.RMSNorm()(x)
            case "group":
                return nn.GroupNorm(num_groups=NUM_GROUPS)(x)
        return x


class Deep(nn.Module):
    """An embedding of the inputs and equal blocks: one program for all depths."""

    arm: Arm
    width: int
    depth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps f[rows, inputs] to f[rows, width]."""
        x = nn.Dense(self.width, name="embed")(x)
        if self.arm.is_dense:
            return self.concatenated(x)
        num_branches = self.depth * (self.arm.has_attention + self.arm.has_mlp)
        scale = self.arm.branch_scale
        scale = num_branches**-0.5 if scale == "depth" else scale or 1.0
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = blocks(self.arm, self.width, scale, name="blocks")(x, None)
        return x

    def concatenated(self, x: jax.Array) -> jax.Array:
        """As in DenseNet, with 16 units for each layer."""
        activation, init = activation_and_init(self.arm)
        for index in range(self.depth):
            own = nn.Dense(16, kernel_init=init, name=f"reader_{index}")(x)
            x = jnp.concatenate([x, activation(own)], axis=-1)
        return x


def activation_and_init(arm: Arm) -> tuple[Callable, Callable]:
    """The activation, and weights on its critical line without biases."""
    activation = {"relu": jax.nn.relu, "tanh": jnp.tanh}[arm.activation]
    return activation, critical_init(activation).kernel


ARMS = {
    "ReLU": Arm(),
    "ReLU, a quarter of the width": Arm(width=-4),
    "ReLU, four times the width": Arm(width=4),
    "tanh": Arm(activation="tanh"),
    "batch norm": Arm("batch"),
    "layer norm": Arm("layer"),
    "RMS norm": Arm("RMS"),
    "group norm": Arm("group"),
    "tanh, batch norm": Arm("batch", activation="tanh"),
    "tanh, layer norm": Arm("layer", activation="tanh"),
    "residual": Arm(branch_scale=1.0),
    "residual, small branches": Arm(branch_scale="depth"),
    "residual, batch norm": Arm("batch", branch_scale=1.0),
    "residual, layer norm": Arm("layer", branch_scale=1.0),
    "dense connections": Arm(is_dense=True),
    "attention": Arm(has_attention=True, has_mlp=False),
    "attention, MLP": Arm(has_attention=True),
    "attention, residual": Arm(branch_scale=1.0, has_attention=True, has_mlp=False),
    "attention, residual, layer norm": Arm(
        "layer", branch_scale=1.0, has_attention=True, has_mlp=False
    ),
    "transformer": Arm("layer", branch_scale=1.0, has_attention=True),
}


def build(arm: Arm, width: int, depth: int) -> Deep:
    """The model of an arm; the arm's own width is relative to the one given."""
    factor = arm.width or 1
    return Deep(arm, width * factor if factor > 0 else width // -factor, depth)
